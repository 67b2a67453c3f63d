/* debug.h: what debug mode adds.
 *
 * Stacks are asyncio's own extraction for now; slow callbacks are timed around each
 * slot and logged in asyncio's words. */
#ifndef AL_CORE_DEBUG_H
#define AL_CORE_DEBUG_H

#include "base/ring.h"
#include "base/state.h"

struct al_loop;

/* The caller's stack as asyncio.Handle stores it (at most 10 frames, no source lines),
 * or NULL with an exception.  New reference. */
PyObject *al_debug_handle_traceback(al_state *st);

/* The caller's stack as asyncio's C Future and Task store it. */
PyObject *al_debug_future_traceback(al_state *st);

/* loop.get_debug() of any loop object: 1, 0 or -1.  Escapes for a loop that is not
 * ours. */
int al_debug_of_loop(al_state *st, PyObject *loop);

/* asyncio.base_events.logger.warning(format, *objects) with one or two objects, the
 * second may be NULL; steals neither.  0 or -1.  Escapes. */
int al_debug_warn(al_state *st, const char *format, PyObject *first, PyObject *second);

/* Runs a slot as debug mode does: the handle is the loop's _current_handle meanwhile,
 * and a slow one is logged.  Result as al_run_fn. */
int al_debug_run(struct al_loop *loop, const al_slot *slot);

#endif
