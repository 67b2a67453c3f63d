/* context.h: the context that a callback or task runs in.
 *
 * asyncio runs each callback in a copy of the context that was current when it was
 * registered.  Most contexts are empty: NULL stands for a copy of an empty one.  Such a
 * callback runs in the loop's spare context, and gives it back if it set no variable and
 * kept no reference: nobody can tell.  Otherwise it becomes the callback's own.  Slots
 * run one at a time, so one spare is enough. */
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

/* Enters the context kept in *place; *entered is for al_context_leave.  0 or -1. */
int al_context_enter(al_loop *loop, PyObject **place, PyObject **entered);
/* Leaves it; a pending exception stays pending.  `place` is the same as before, and what
 * holds it must be alive.  0, or -1 with an exception. */
int al_context_leave(al_loop *loop, PyObject **place, PyObject *entered);

#endif
