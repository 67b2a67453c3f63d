/* waits.h: what a dump shows that Python code cannot see: since when a task waits,
 * where it was cancelled, what an operation in C is about, and what the loop has in its tables.
 *
 * The age of a wait costs a store: a task that begins to wait keeps the time that the
 * loop read last (al_future.waits_since, in steps of 17 ms), which is that of the look at
 * the clock before its step, not of the step's end.
 *
 * Everything here is a function of the module for aioloop/_tasks.py and _dump.py.  Any
 * thread that holds the GIL may call it, also while the loop is stuck in a slot: each
 * takes what it shows in one go, runs no foreign code and changes nothing. */
#ifndef AL_DIAG_WAITS_H
#define AL_DIAG_WAITS_H

#include "base/state.h"

extern PyMethodDef al_waits_methods[]; /* of the module, not public */

#endif
