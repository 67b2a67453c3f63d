/* registry.h: asyncio.current_task() and asyncio.all_tasks(), kept together with
 * asyncio's own tasks.
 *
 * Current task.  3.11-3.13 keep it in the dict asyncio.tasks._current_tasks.  A step in
 * the scheduler's ring enters itself there but does not leave: the entry *lingers*, and
 * the next step overwrites it, at a third of the price of leaving and entering.  While
 * an entry lingers, loop->current_task is that task (borrowed; the dict owns it), and
 * it is NULL at all other times, also while a step runs.  The scheduler ends the
 * lingering (st->leave_current) before it runs anything but a slot of st->task_step or
 * st->task_wakeup, and at the end of each iteration, so that neither a callback, nor a
 * Handle with a step of one of asyncio's own tasks, nor an idle loop ever sees it.  3.14+ keeps the current
 * task in the thread state, where leaving is one store: nothing lingers.
 *
 * All tasks.  Pending tasks are links of an intrusive list without references: ours on
 * 3.11-3.13, where asyncio's WeakSet gets a class that adds the list to its iteration;
 * asyncio's own, in the thread state, on 3.14+.  A task is linked from its creation
 * until it is done, and is unlinked before its memory is freed.
 *
 * Offsets into asyncio's C structs are checked on a specimen at import; without them,
 * asyncio's functions do the same work more slowly. */
#ifndef AL_TASK_REGISTRY_H
#define AL_TASK_REGISTRY_H

#include "task/task.h"

int al_registry_init(PyObject *module, al_state *st);
/* Forgets the linked tasks, of which some may outlive the module. */
void al_registry_clear(al_state *st);

/* The task becomes the current one of the loop, which is its own.  `running` is that
 * loop if it is ours and runs the step as a slot, else NULL.  0, or -1 with asyncio's
 * RuntimeError if another step is running.  Escapes when it fails. */
int al_registry_enter(al_state *st, PyObject *loop, al_loop *running, al_future *task);
/* The step is over; its entry may linger if the loop runs slots.  A pending exception is
 * kept.  Returns `status`, or -1 with an exception if somebody else is the current
 * task.  The loop is the one that was entered, whatever became of the task. */
int al_registry_exit(al_state *st, PyObject *loop, al_loop *running, al_future *task,
                     int status);
/* Makes `task` (NULL: none) the loop's current one and returns its predecessor (new
 * reference or NULL) in *previous.  0 or -1. */
int al_registry_swap(al_state *st, PyObject *loop, PyObject *task, PyObject **previous);

/* all_tasks() includes the task from now on.  0 or -1. */
int al_registry_link(al_state *st, al_future *task);
/* ... and no longer.  No effect on a task that is not linked. */
void al_registry_unlink(al_future *task);

/* The number of the next "Task-N". */
uint64_t al_registry_next_number(al_state *st);

/* Records who awaits whom, for asyncio.print_call_graph and debuggers (3.14+). */
#if PY_VERSION_HEX >= 0x030E0000
int al_registry_add_awaited_by(al_state *st, al_future *future, al_future *task);
int al_registry_discard_awaited_by(al_state *st, al_future *future, al_future *task);
#endif

#endif
