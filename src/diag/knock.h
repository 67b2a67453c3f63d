/* knock.h: a signal that wakes a thread whatever the interpreter is doing.
 *
 * Python runs its signal handlers in the main thread, between two instructions: not while
 * that sleeps in a C call, which is when somebody sends the signal.  Here the handler is
 * C: it writes the signal's number to a descriptor, from which a thread of
 * aioloop/_dump.py reads. */
#ifndef AL_DIAG_KNOCK_H
#define AL_DIAG_KNOCK_H

#include "base/state.h"

extern PyMethodDef al_knock_methods[]; /* of the module, not public */

#endif
