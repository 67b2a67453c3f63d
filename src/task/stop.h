/* stop.h: StopIteration(value), by which an iterator in C returns a value to `await`.
 *
 * CPython 3.12-3.15 resume what is not a coroutine object by tp_iternext, and take the
 * value out of the StopIteration at once.  Making that object and its arguments costs
 * some seven hundred instructions.  These come from a free list: a subclass without
 * arguments (`args` is empty), whose `value` is all that anybody reads. */
#ifndef AL_TASK_STOP_H
#define AL_TASK_STOP_H

#include "base/state.h"

int al_stop_init_type(PyObject *module, al_state *st);
void al_stop_clear_free_list(al_state *st);

/* Raises an ordinary StopIteration(value), for a caller in Python. */
void al_stop_raise(PyObject *value);
/* Raises a cheap one from a tp_iternext; steals the value.  For None a tp_iternext returns NULL
 * without an exception, which is cheaper still. */
void al_stop_raise_steal(al_state *st, PyObject *value);

#endif
