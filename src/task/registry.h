/* registry.h: asyncio.current_task() and asyncio.all_tasks(), kept together with
 * asyncio's own tasks.
 *
 * Current task.  3.11-3.13 keep it in the dict asyncio.tasks._current_tasks, 3.14+ in
 * the thread state.  A step in the scheduler's ring enters itself there but does not
 * leave: the entry *lingers*, and the next step overwrites it, at a third of the price of
 * leaving and entering.  While an entry lingers, loop->current_task is that task
 * (borrowed; the entry owns it), and it is NULL at all other times, also while a step
 * runs.  The entry of a task that is done does not linger: the entry must not be the last
 * to hold it.  The scheduler ends the lingering (st->leave_current) before it runs anything but
 * a slot of st->task_step or st->task_wakeup, and before it polls or returns, so that
 * neither a callback, nor a Handle with a step of one of asyncio's own tasks, nor an idle
 * loop ever sees it.
 *
 * Without a GIL 3.13 keeps it in the loop until somebody looks: core/current.h.
 *
 * All tasks.  Pending tasks are links of an intrusive list without references: ours on
 * 3.11-3.13, where asyncio's WeakSet gets a class that adds the list to its iteration;
 * asyncio's own, in the thread state, on 3.14+.  A task is linked from its creation
 * until it is done, and is unlinked before its memory is freed.
 *
 * On all versions the WeakSet's class also adds tasks that stand for the connections which
 * the loop is accepting.
 *
 * Offsets into asyncio's C structs are checked on a specimen at import; without them,
 * asyncio's functions do the same work more slowly. */
#ifndef AL_TASK_REGISTRY_H
#define AL_TASK_REGISTRY_H

#include "task/task.h"

int al_registry_init(PyObject *module, al_state *st);
#if PY_VERSION_HEX >= 0x030E0000
/* Whether asyncio's functions find the list's node and who awaits whom where a task of
 * ours has them, which al_registry_init takes for granted: 1, 0 or -1. */
int al_registry_task_matches(al_state *st);
#endif
/* Forgets the linked tasks, of which some may outlive the module. */
void al_registry_clear(al_state *st);

/* The task becomes the current one of the loop, which is its own, for a step that is no
 * slot.  0, or -1 with asyncio's RuntimeError if another step is running.  Escapes. */
int al_registry_enter(al_state *st, PyObject *loop, al_future *task);
/* That step is over.  A pending exception is kept.  Returns `status`, or -1 with an
 * exception if somebody else is the current task.  The loop is the one that was entered,
 * whatever became of the task. */
int al_registry_exit(al_state *st, PyObject *loop, al_future *task, int status);

/* The same for a step that the loop runs as a slot, whose entry lingers. */
int al_registry_enter_slot_slowly(al_loop *loop, al_future *task);
int al_registry_exit_slot_slowly(al_loop *loop, al_future *task, int status);

#if PY_VERSION_HEX >= 0x030E0000
struct al_registry {
    bool direct; /* the offsets are known to be right */
    size_t running_loop, running_task, tasks_head; /* in PyThreadState */
};

/* The thread's word for the current task if the loop is the one that runs in this
 * thread, else NULL. */
static inline PyObject **
al_registry_current(const al_state *st, PyThreadState *thread, PyObject *loop)
{
    const struct al_registry *registry = st->registry;
    char *base = (char *)thread;
    return AL_LIKELY(registry->direct &&
                     *(PyObject **)(void *)(base + registry->running_loop) == loop)
               ? (PyObject **)(void *)(base + registry->running_task)
               : NULL;
}
#endif

#if PY_VERSION_HEX >= 0x030E0000
/* The thread's word for the current task: a new reference; or NULL, where there is none or
 * it is not known where the word is. */
static inline PyObject *
al_registry_running_task(const al_state *st)
{
    const struct al_registry *registry = st->registry;
    char *base = (char *)PyThreadState_Get();
    return AL_LIKELY(registry->direct)
               ? Py_XNewRef(*(PyObject **)(void *)(base + registry->running_task))
               : NULL;
}
#endif

/* events._get_running_loop(): a new reference, None where none runs; or NULL. */
static inline PyObject *
al_registry_running_loop(const al_state *st)
{
#if PY_VERSION_HEX >= 0x030E0000
    const struct al_registry *registry = st->registry;
    if (AL_LIKELY(registry->direct)) {
        char *base = (char *)PyThreadState_Get();
        PyObject *loop = *(PyObject **)(void *)(base + registry->running_loop);
        if (AL_LIKELY(loop != NULL)) {
            return Py_NewRef(loop);
        }
    }
#endif
    return PyObject_CallNoArgs(st->get_running_loop);
}

static inline int
al_registry_enter_slot(al_loop *loop, PyThreadState *thread, al_future *task)
{
#if PY_VERSION_HEX >= 0x030E0000
    PyObject **current = al_registry_current(loop->st, thread, (PyObject *)loop);
    PyObject *last = loop->current_task;
    if (AL_LIKELY(current != NULL && *current == last)) {
        loop->current_task = NULL;
        if (last != (PyObject *)task) { /* Else the same task goes on. */
            *current = Py_NewRef((PyObject *)task);
            Py_XDECREF(last); /* escapes */
        }
        return 0;
    }
#elif AL_CURRENT_IN_LOOP
    if (AL_LIKELY(al_current_is_own(loop) && loop->current.task == NULL)) {
        AL_STORE(loop->current.task, Py_NewRef((PyObject *)task));
        return 0;
    }
    (void)thread;
#else
    (void)thread;
#endif
    return al_registry_enter_slot_slowly(loop, task);
}

static inline int
al_registry_exit_slot(al_loop *loop, PyThreadState *thread, al_future *task, int status)
{
#if PY_VERSION_HEX >= 0x030E0000
    PyObject *const *current = al_registry_current(loop->st, thread, (PyObject *)loop);
    if (AL_UNLIKELY(current == NULL || *current != (PyObject *)task)) {
        return al_registry_exit_slot_slowly(loop, task, status);
    }
#elif AL_CURRENT_IN_LOOP
    (void)thread;
    if (AL_LIKELY(al_current_leave(loop, (PyObject *)task))) {
        return status;
    }
    return al_registry_exit_slot_slowly(loop, task, status);
#else
    (void)thread;
#endif
    if (AL_UNLIKELY(task->state != AL_FUTURE_PENDING)) {
        /* Nothing that lingers may be the last to hold it. */
        return al_registry_exit_slot_slowly(loop, task, status);
    }
    loop->current_task = (PyObject *)task;
    return status;
}

/* Makes `task` (NULL: none) the loop's current one and returns its predecessor (new
 * reference or NULL) in *previous.  0 or -1. */
int al_registry_swap(al_state *st, PyObject *loop, PyObject *task, PyObject **previous);

/* Python code that runs a slot of the loop by hand may do so from inside a task: that
 * one is not current meanwhile.  *previous is it, or NULL; a new reference.  0 or -1. */
int al_registry_preempt(al_loop *loop, PyObject **previous);
/* It is again.  Returns `status`, or -1 with an exception; a pending one is kept. */
int al_registry_resume_steal(al_loop *loop, PyObject *previous, int status);

/* all_tasks() includes the task from now on.  0 or -1. */
int al_registry_link(al_state *st, al_future *task);
/* ... and no longer.  No effect on a task that is not linked. */
void al_registry_unlink(al_future *task);

/* A loop begins to have tasks, and ends: only where each has a list of its own. */
#if AL_FREE_THREADED && PY_VERSION_HEX < 0x030E0000
int al_registry_add_loop(al_loop *loop);
void al_registry_drop_loop(al_loop *loop);
#else
static inline int
al_registry_add_loop(al_loop *Py_UNUSED(loop))
{
    return 0;
}

static inline void
al_registry_drop_loop(al_loop *Py_UNUSED(loop))
{
}
#endif

/* Records who awaits whom, for asyncio.print_call_graph and debuggers (3.14+). */
#if PY_VERSION_HEX >= 0x030E0000
int al_registry_add_awaited_by(al_state *st, al_future *future, al_future *task);
int al_registry_discard_awaited_by(al_state *st, al_future *future, al_future *task);
#endif

#endif
