/* context.h: the spare context.
 *
 * A callback or task that starts in an empty context gets no copy of it.  It runs in the
 * loop's spare one, and gives it back if it set no variable and kept no reference:
 * nobody can tell.  Slots run one at a time, so one spare is enough. */
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

#endif
