/* registry.h: asyncio's own for now. */
#pragma once
#include "core/sched.h"
int al_registry_init(PyObject *module, al_state *st);
void al_registry_clear(al_state *st);
static inline bool
al_registry_keeps_current(al_run_fn f)
{
    (void)f;
    return false;
}
void al_registry_leave(al_loop *loop);
