/* context.h: the context that a callback or task runs in.
 *
 * asyncio runs each callback in a copy of the context that was current when it was
 * registered.  Most contexts are empty: NULL stands for a copy of an empty one.  Such a
 * callback runs in the loop's spare context, and gives it back if it set no variable and
 * kept no reference: nobody can tell.  Otherwise it becomes the callback's own.  Slots
 * run one at a time, so one spare is enough.
 *
 * Slot after slot often wants the same context: the spare, or that of the only busy
 * task.  What the scheduler runs most therefore leaves its context entered, as
 * loop->idle_context, and the next such slot goes on in it.  al_sched_settle leaves it
 * before anything else runs.  While a slot is inside a context nothing is idle.
 *
 * What dies when a slot is over may enter the context that it ran in: a task reports the
 * exception that nobody retrieved there.  So only a context that nobody can name stays
 * entered, which is the spare, and that of a task that goes on. */
#ifndef AL_CORE_CONTEXT_H
#define AL_CORE_CONTEXT_H

#include "core/sched.h"

/* Whether the calling thread's current context is empty. */
static inline bool
al_context_current_is_empty(void)
{
    PyObject *current = al_current_context_borrow();
    return current == NULL || al_context_is_empty(current);
}

/* An empty context for the slot that runs now; NULL with MemoryError.  New reference. */
static inline PyObject *
al_context_take_spare(al_loop *loop)
{
    PyObject *context = loop->spare_context;
    loop->spare_context = NULL;
    return AL_LIKELY(context != NULL) ? context : PyContext_New();
}

/* Gives a context back to the loop if it is as good as new: empty, and held by nobody
 * but the `holders` that the caller knows of, of which it passes one on.  Says so. */
static inline bool
al_context_give_back_steal(al_loop *loop, PyObject *context, Py_ssize_t holders)
{
    if (Py_REFCNT(context) == holders && loop->spare_context == NULL &&
        al_context_is_empty(context)) {
        loop->spare_context = context;
        return true;
    }
    return false;
}

/* Stores a copy of the current context, NULL for an empty one; a new reference.  0, or
 * -1 with MemoryError. */
int al_context_capture(PyObject **context);

/* Leaves the idle context; there is one, and no exception is pending. */
void al_context_leave_idle(al_loop *loop);

/* Enters a copy of a context that could not be entered, with that exception pending:
 * somebody who runs in it has a loop run inside of himself.  asyncio's transports report
 * an error then, and read and write nothing until the context is left.  New reference, or
 * NULL with an exception. */
PyObject *al_context_enter_copy(PyObject *context);

/* Whether asyncio would find no Context, but perhaps something with a run method. */
static inline bool
al_context_is_foreign(PyObject *context)
{
    return context != NULL && !PyContext_CheckExact(context);
}

/* Such a context could not be entered, with that exception pending: calls
 * context.run(callback, *args) in its place; args is a tuple or NULL.  0, or -1 with what
 * that raised.  Escapes. */
int al_context_run(PyObject *context, PyObject *callback, PyObject *args);

/* Enters the context kept in *place, or a copy as above; *entered is for
 * al_context_leave.  0 or -1. */
int al_context_enter(al_loop *loop, PyObject **place, PyObject **entered);
/* Leaves it; a pending exception stays pending.  `place` is the same as before, and what
 * holds it must be alive.  0, or -1 with an exception. */
int al_context_leave(al_loop *loop, PyObject **place, PyObject *entered);

/* The same for slots that may leave their context idle.  `context` is borrowed, NULL
 * stands for an empty one.  The result is a new reference for al_context_leave_idle, or
 * NULL with an exception. */
static inline PyObject *
al_context_enter_idle(al_loop *loop, PyObject *context)
{
    PyObject *idle = loop->idle_context;
    if (AL_LIKELY(idle != NULL)) {
        if (context == NULL ? loop->idle_is_spare && al_context_is_empty(idle)
                            : context == idle) {
            loop->idle_context = NULL;
            return idle;
        }
        al_context_leave_idle(loop);
    }
    context = context == NULL ? al_context_take_spare(loop) : Py_NewRef(context);
    if (AL_UNLIKELY(context == NULL || PyContext_Enter(context) < 0)) {
        Py_CLEAR(context);
    }
    return context;
}

/* Whether a context that was entered for an empty one is as good as new: empty, and held
 * by nobody but its `holders`, the thread state being one. */
static inline bool
al_context_unused(PyObject *entered, Py_ssize_t holders)
{
    return Py_REFCNT(entered) == holders && al_context_is_empty(entered);
}

/* `thread` is the calling one.  Steals `entered`; `spare` says that it is an empty
 * context which nobody else holds, `wanted` that it stays entered although it is not.
 * 0, or -1 with an exception, which replaces a pending one. */
static inline int
al_context_leave_idle_steal(al_loop *loop, PyThreadState *thread, PyObject *entered,
                            bool spare, bool wanted)
{
    if (AL_LIKELY((spare || wanted) && thread->context == entered)) {
        loop->idle_context = entered;
        loop->idle_is_spare = spare;
        return 0;
    }
    int status = PyContext_Exit(entered);
    Py_DECREF(entered);
    return status;
}

#endif
