/* context.c: see context.h. */
#include "core/context.h"

int
al_context_capture(PyObject **context)
{
    *context = NULL;
    if (al_context_current_is_empty()) {
        return 0;
    }
    *context = PyContext_CopyCurrent();
    return *context == NULL ? -1 : 0;
}

void
al_context_leave_idle(al_loop *loop)
{
    PyObject *context = loop->idle_context;
    loop->idle_context = NULL;
    if (AL_UNLIKELY(PyContext_Exit(context) < 0)) {
        PyErr_WriteUnraisable(context); /* A destructor entered one and stayed there. */
    }
    if (!loop->idle_is_spare || !al_context_give_back_steal(loop, context, 1)) {
        Py_DECREF(context); /* escapes */
    }
}

PyObject *
al_context_enter_copy(PyObject *context)
{
    PyErr_Clear(); /* "cannot enter context: it is already entered" */
    PyObject *copy = PyContext_Copy(context);
    if (copy != NULL && PyContext_Enter(copy) < 0) {
        Py_CLEAR(copy);
    }
    return copy;
}

int
al_context_run(PyObject *context, PyObject *callback, PyObject *args)
{
    PyErr_Clear(); /* "an instance of Context was expected" */
    Py_ssize_t n = args == NULL ? 0 : PyTuple_GET_SIZE(args);
    PyObject *run = NULL, *result = NULL, *all = PyTuple_New(n + 1);
    if (all != NULL) {
        PyTuple_SET_ITEM(all, 0, Py_NewRef(callback));
        for (Py_ssize_t i = 0; i < n; i++) {
            PyTuple_SET_ITEM(all, i + 1, Py_NewRef(PyTuple_GET_ITEM(args, i)));
        }
        run = PyObject_GetAttrString(context, "run"); /* escapes */
    }
    if (run != NULL) {
        result = PyObject_CallObject(run, all); /* escapes */
    }
    Py_XDECREF(run);
    Py_XDECREF(all);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

int
al_context_enter(al_loop *loop, PyObject **place, PyObject **entered)
{
    al_sched_settle(loop);
    PyObject *context =
        *place != NULL ? Py_NewRef(*place) : al_context_take_spare(loop);
    if (AL_UNLIKELY(context == NULL)) {
        return -1;
    }
    if (AL_UNLIKELY(PyContext_Enter(context) < 0)) {
        Py_SETREF(context, al_context_enter_copy(context));
        if (context == NULL) {
            return -1;
        }
    }
    *entered = context;
    return 0;
}

int
al_context_leave(al_loop *loop, PyObject **place, PyObject *entered)
{
    int status = PyContext_Exit(entered);
    if (*place == NULL) {
        if (al_context_give_back_steal(loop, entered, 1)) {
            return status;
        }
        if (!al_context_is_empty(entered)) {
            *place = entered; /* The callback set variables in it. */
            return status;
        }
    }
    Py_DECREF(entered);
    return status;
}
