/* drive.h: for programs with an iteration of their own.
 *
 * Tools replace loop._run_once (nest_asyncio, which runs a loop inside of itself) or take
 * an iteration apart: loop._selector.select(), loop._process_events(), then
 * loop._ready.popleft() and handle._run().  Here is what they find in the places of
 * asyncio's deque, list of timers and selector.
 *
 * - `_ready` is a view of the ring.  popleft() gives a Handle as it is; a bare slot moves
 *   into a SlotHandle, whose _run() runs it through al_sched_run_slot.
 * - select() fills the ring itself, with what is ready and with the timers that are due,
 *   and returns no events.  So `_scheduled`, a view of the timers, is false (it is not
 *   empty) for a program that has its own _run_once: there is nothing for it to move.
 *
 * A loop that nobody drives by hand pays nothing for all this. */
#ifndef AL_LOOP_DRIVE_H
#define AL_LOOP_DRIVE_H

#include "core/sched.h"

/* Makes the types.  0 or -1. */
int al_drive_init_types(PyObject *module, al_state *st);

/* The getters of _ready and _scheduled.  New reference. */
PyObject *al_drive_get_ready(al_loop *loop, void *closure);
PyObject *al_drive_get_scheduled(al_loop *loop, void *closure);

extern PyMethodDef al_drive_methods[];

#endif
