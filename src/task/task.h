/* task.h: asyncio's own for now. */
#pragma once
#include "core/sched.h"
PyObject *al_task_new(al_loop *loop, PyObject *coro, PyObject *name, PyObject *context,
                      int eager);
int al_task_init_types(PyObject *module, al_state *st);
