/* future.h: asyncio's own for now. */
#pragma once
#include "core/sched.h"
PyObject *al_future_new(al_loop *loop);
int al_future_init_types(PyObject *module, al_state *st);
void al_future_clear_free_lists(al_state *st);
