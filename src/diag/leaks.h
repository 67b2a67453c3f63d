/* leaks.h: tasks that wait for what nothing can bring about any more.
 *
 * A task goes on when its future is set, and only who has a reference to the future, or
 * to something that leads to it (an Event, a Queue, a callback's closure), can do that.
 * So a mark as in a garbage collection tells which tasks are lost: everything is alive
 * that is referred to from outside, and what that refers to, except that a waiting task
 * keeps nothing alive, its frames and locals included, until its future is.  A set of
 * tasks that holds the background tasks alive does not wake them.
 *
 * "From outside" is what the collector means by it: an object whose reference count
 * exceeds the references that were met.  Only what can be reached from waiting tasks is
 * looked at, each object once; what else refers to that, be it a thread's stack, an
 * executor's queue or a structure in C that the collector has never heard of, shows in the
 * count and makes the object alive.  The same goes for what cannot be judged: weakly
 * referenced objects, generators that run, what the collector does not track, modules and
 * classes.  So a task may be missed, but one that can be woken is not called lost.
 *
 * No code of a program runs meanwhile and nothing is allocated on Python's heap.  The
 * memory is some 40 bytes for each object that tasks lead to. */
#ifndef AL_DIAG_LEAKS_H
#define AL_DIAG_LEAKS_H

#include "base/state.h"

extern PyMethodDef al_leaks_methods[]; /* of the module, not public */

#endif
