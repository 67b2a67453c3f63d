/* stall.h: loops that are stuck in a slot: noticed while they are, with the cause.
 *
 * A loop is watched while it runs and has a threshold (loop.stall_threshold).  It does
 * nothing for that: the guard reads what changes anyway, the head of the ready ring and
 * the time of the last poll.  The ticker looks twice in a threshold; when the same slot has
 * run for so long, it looks some milliseconds more closely (what the kernel says, which
 * thread has the GIL, whether the Python code moves), decides the cause, and has the
 * record made with the GIL, by aioloop/_stall.py, which takes the exact stack.  Where the
 * GIL cannot be had within a second, or a logging handler does not return, the
 * approximate stack goes to standard error.  It looks again whenever the time has
 * doubled; who was reported gets a closing record.
 *
 * Where even the ticker did not run (the process was stopped, the machine slept), the
 * time does not count.  The child of a fork is still in the slot that forked and may stay
 * there: it is watched once it goes on with the loop, or runs another.
 *
 * al_guard is owned by its loop's run, and by the thread that makes a record of it. */
#ifndef AL_DIAG_STALL_H
#define AL_DIAG_STALL_H

#include "base/state.h"

/* Once for the module. */
void al_stall_init(al_state *st);
int al_stall_traverse(al_state *st, visitproc visit, void *arg);
void al_stall_clear(al_state *st);
void al_stall_free(al_state *st);

extern PyMethodDef al_stall_methods[]; /* of the module, not public */

#endif
