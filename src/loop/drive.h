/* drive.h: for programs with an iteration of their own.
 *
 * Tools replace loop._run_once (nest_asyncio, which runs a loop inside of itself), or
 * loop._selector.select (looptime and other virtual clocks: then the iteration is
 * asyncio's own), or take an iteration apart: loop._selector.select(),
 * loop._process_events(), then loop._ready.popleft() and handle._run().  Here is what
 * they find in the places of asyncio's deque, list of timers and selector.
 *
 * - `_ready` is a view of the ring that does what a deque does.  It shows a Handle as it
 *   is; a bare slot becomes a SlotHandle when it is looked at or taken out, whose _run()
 *   runs it through al_sched_run_slot.
 * - `_scheduled` is a list, in which the timers are as long as somebody has it: see
 *   core/timer.h.
 * - select() queues what the events wake, and returns the events with nobody to wake.
 *
 * A loop that nobody drives by hand pays nothing for all this. */
#ifndef AL_LOOP_DRIVE_H
#define AL_LOOP_DRIVE_H

#include "core/sched.h"

/* Makes the types.  0 or -1. */
int al_drive_init_types(PyObject *module, al_state *st);

/* The getters and setters of _ready, _scheduled and _timer_cancelled_count. */
PyObject *al_drive_get_ready(al_loop *loop, void *closure);
int al_drive_set_ready(al_loop *loop, PyObject *value, void *closure);
PyObject *al_drive_get_scheduled(al_loop *loop, void *closure);
int al_drive_set_scheduled(al_loop *loop, PyObject *value, void *closure);
PyObject *al_drive_get_cancelled_count(al_loop *loop, void *closure);
int al_drive_set_cancelled_count(al_loop *loop, PyObject *value, void *closure);

extern PyMethodDef al_drive_methods[];

#endif
