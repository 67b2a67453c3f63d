/* calls.h: the methods by which programs give work to the loop. */
#ifndef AL_LOOP_CALLS_H
#define AL_LOOP_CALLS_H

#include "base/state.h"

/* What loop._task_factory is while no factory is set: None, or, for asyncio's own
 * create_task, what makes our tasks.  New reference. */
PyObject *al_calls_inner_task_factory(struct al_loop *loop);

/* Ends with a NULL entry; loop.c joins it with its own methods. */
extern PyMethodDef al_calls_methods[];

/* Tells the scheduler which functions are loop.time and loop.call_soon. */
void al_calls_init(al_state *st);

#endif
