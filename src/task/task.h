/* task.h: Task, which runs a coroutine step by step.
 *
 * A task is a future (future.h) with a coroutine.  Its next step is either a slot in
 * the scheduler's ring, or held back by the future in `fut_waiter`, which keeps the
 * task as a waiter and queues a wake-up when it is done.  Where the loop is not ours or
 * wants Handles, the same two go through loop.call_soon() as objects: a
 * TaskStepMethWrapper, and a built-in function bound to the task. */
#ifndef AL_TASK_TASK_H
#define AL_TASK_TASK_H

#include "task/future.h"

int al_task_init_types(PyObject *module, al_state *st);

/* loop.create_task() without a factory.  name and context: NULL or None are the
 * defaults.  eager_start: 1 runs the first step at once if the loop is running; 0 and -1
 * (not given) do not.  New reference. */
PyObject *al_task_new(al_loop *loop, PyObject *coro, PyObject *name, PyObject *context,
                      int eager_start);

/* al_run_fns: a step (arg: the exception to throw, or NULL) and a wake-up (arg: the
 * future that is done). */
int al_task_step_run(al_loop *loop, PyObject *task, PyObject *exc, PyObject *extra);
int al_task_wakeup_run(al_loop *loop, PyObject *task, PyObject *future,
                       PyObject *extra);

/* The context the task's coroutine runs in; made if it is still NULL, which stands for
 * an empty one.  Borrowed, or NULL with MemoryError. */
PyObject *al_task_context(al_future *task);

/* The callable that wakes a task, as Python sees it: __self__ is the task, and two of
 * them for one task are equal.  New reference. */
PyObject *al_task_wakeup_new(PyObject *task);

/* The task whose step or wake-up a handle's callback is: of ours, or of asyncio's C
 * class.  Borrowed, or NULL. */
PyObject *al_task_of_callback(const al_state *st, PyObject *callback);

/* Task.cancel(msg).  1 requested, 0 was done, -1.  Escapes. */
int al_task_cancel(al_future *self, PyObject *message);

/* tp_finalize of Task. */
void al_task_finalize(PyObject *self);

#endif
