/* await.h: the iterator behind `await future` and `yield from future`.
 *
 * It yields the future once with its _asyncio_future_blocking set, and then returns the
 * future's result.  tp_iternext returns NULL without an exception for the result None,
 * which only that slot may do: it saves an exception object per await. */
#ifndef AL_TASK_AWAIT_H
#define AL_TASK_AWAIT_H

#include "base/state.h"

int al_await_init_types(PyObject *module, al_state *st);
void al_await_clear_free_list(al_state *st);

/* tp_iter and am_await of Future and Task.  New reference. */
PyObject *al_await_new(PyObject *future);

#endif
