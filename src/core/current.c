/* current.c: see current.h. */
#include "core/current.h"

#if AL_CURRENT_IN_LOOP

#include "core/sched.h"

int
al_current_init(al_state *st)
{
    return PyDict_SetItem(st->current_tasks, Py_None, Py_None);
}

static void
take_task(void *arg)
{
    PyObject **taken = arg;
    al_loop *loop = (al_loop *)(void *)*taken;
    al_current *current = &loop->current;
    *taken = current->task;
    current->task = NULL;
    /* A step may have ended meanwhile, and another begun. */
    current->looked = true;
}

/* The insertion asks for the hash again, and may run foreign code: objects of other
 * classes with the same hash are compared. */
int
al_current_publish(al_loop *loop)
{
    al_current *current = &loop->current;
    unsigned long thread = PyThread_get_thread_ident();
    if (AL_LOAD(current->mover) == thread) {
        return 0;
    }
    AL_STORE(current->looked, true);
    al_lock_take(&current->lock); /* Who has just taken the task inserts it first. */
    if (AL_LIKELY(AL_LOAD(current->task) == NULL)) {
        al_lock_give(&current->lock);
        return 0;
    }
    AL_STORE(current->mover, thread);
    PyObject *task = (PyObject *)loop;
    if (al_inbox_is_outside(loop)) {
        al_at_rest(take_task, &task);
    }
    else {
        take_task(&task);
    }
    int status = 0;
    if (task != NULL) {
        status = PyDict_SetItem(loop->st->current_tasks, (PyObject *)loop, task);
        if (status < 0) {
            AL_STORE(current->task, Py_NewRef(task));
        }
    }
    AL_STORE(current->mover, 0);
    al_lock_give(&current->lock);
    Py_XDECREF(task); /* escapes */
    return status;
}

Py_hash_t
al_current_hash(PyObject *loop)
{
    return al_current_publish((al_loop *)(void *)loop) < 0 ? -1
                                                           : PyObject_GenericHash(loop);
}

bool
al_current_is_own(const al_loop *loop)
{
    return AL_LIKELY(!AL_LOAD(loop->current.looked)) && !al_inbox_is_outside(loop) &&
           Py_TYPE(loop)->tp_hash == al_current_hash;
}

bool
al_current_leave(al_loop *loop, PyObject *task)
{
    if (AL_UNLIKELY(AL_LOAD(loop->current.task) != task || al_inbox_is_outside(loop))) {
        return false;
    }
    AL_STORE(loop->current.task, NULL);
    Py_DECREF(task); /* The caller holds another reference. */
    return true;
}

void
al_current_is_removed(al_loop *loop)
{
    AL_STORE(loop->current.looked, false);
}

int
al_current_traverse(al_loop *loop, visitproc visit, void *arg)
{
    Py_VISIT(loop->current.task);
    return 0;
}

void
al_current_clear(al_loop *loop)
{
    Py_CLEAR(loop->current.task);
}

#endif
