/* with.c: see with.h. */
#include "prim/with.h"

#include "prim/condition.h"
#include "prim/lock.h"
#include "prim/semaphore.h"

static PyObject *
call_enter(al_state *st, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 1) {
        return NULL;
    }
    PyObject *dict;
    switch (al_replaced_class(st, args[0], &dict)) {
    case AL_PRIM_LOCK:
        return al_lock_enter_steal(st, args[0], dict);
    case AL_PRIM_CONDITION: {
        PyObject *op = al_condition_enter(st, dict);
        Py_DECREF(dict);
        return op;
    }
    case AL_PRIM_SEMAPHORE:
    case AL_PRIM_BOUNDED_SEMAPHORE:
        return al_semaphore_enter_steal(st, args[0], dict);
    default:
        Py_XDECREF(dict);
        return NULL;
    }
}

static PyObject *
call_exit(al_state *st, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 4) {
        return NULL;
    }
    PyObject *dict;
    switch (al_replaced_class(st, args[0], &dict)) {
    case AL_PRIM_LOCK:
        return al_lock_exit_steal(st, args[0], dict);
    case AL_PRIM_CONDITION: {
        PyObject *op = al_condition_exit(st, dict);
        Py_DECREF(dict);
        return op;
    }
    case AL_PRIM_SEMAPHORE:
    case AL_PRIM_BOUNDED_SEMAPHORE:
        return al_semaphore_exit_steal(st, args[0], dict);
    default:
        Py_XDECREF(dict);
        return NULL;
    }
}

const al_replacement al_with_replacements[] = {
    {.owner = offsetof(al_state, ContextManagerMixin),
     .name = "__aenter__",
     .call = call_enter,
     .coroutine = true},
    {.owner = offsetof(al_state, ContextManagerMixin),
     .name = "__aexit__",
     .call = call_exit,
     .coroutine = true},
    {.name = NULL},
};
