/* condition.c: see condition.h. */
#include "prim/condition.h"

#include "prim/lock.h"
#include "prim/primitive.h"

/* The lock whose method a condition's attribute is, if C may work on it: borrowed, with
 * its attributes, a new reference; or NULL without an exception. */
static PyObject *
lock_of(al_state *st, PyObject *dict, PyObject *name, PyObject **lock_dict)
{
    PyObject *method = PyDict_GetItemWithError(dict, name);
    *lock_dict = NULL;
    if (AL_UNLIKELY(method == NULL || !PyMethod_Check(method))) {
        PyErr_Clear(); /* No memory to look: asyncio's function is called. */
        return NULL;
    }
    PyObject *lock = PyMethod_GET_SELF(method);
    if (AL_LIKELY(
            al_replaced_class(st, lock, lock_dict) == AL_PRIM_LOCK &&
            al_replaced_is(st, AL_PRIM_LOCK, name, PyMethod_GET_FUNCTION(method)))) {
        return lock;
    }
    Py_CLEAR(*lock_dict);
    return NULL;
}

PyObject *
al_condition_enter(al_state *st, PyObject *dict)
{
    PyObject *lock_dict, *lock = lock_of(st, dict, st->str.acquire, &lock_dict);
    return lock == NULL ? NULL : al_lock_enter_steal(st, lock, lock_dict);
}

PyObject *
al_condition_exit(al_state *st, PyObject *dict)
{
    PyObject *lock_dict, *lock = lock_of(st, dict, st->str.release, &lock_dict);
    return lock == NULL ? NULL : al_lock_exit_steal(st, lock, lock_dict);
}

/* Wakes so many of those that wait.  0 or -1.  Escapes. */
static int
notify(al_state *st, PyObject *waiters, Py_ssize_t n)
{
    PyObject *iterator = PyObject_GetIter(waiters), *waiter; /* escapes */
    int status = iterator == NULL ? -1 : 0;
    while (status == 0 && (waiter = PyIter_Next(iterator)) != NULL) { /* escapes */
        int done = n <= 0 ? 1 : al_primitive_is_done(st, waiter);     /* escapes */
        if (done == 0) {
            n--;
            status = al_primitive_resolve(st, waiter, Py_False); /* escapes */
        }
        else if (done < 0) {
            status = -1;
        }
        Py_DECREF(waiter);
        if (n <= 0) {
            break;
        }
    }
    Py_XDECREF(iterator);
    return status < 0 || PyErr_Occurred() ? -1 : 0;
}

/* Mirrors notify() of a condition that has these attributes; `all` stands for the number
 * of its waiters.  0 or -1; 1: asyncio's function has to be called.  Escapes. */
static int
notify_if_locked(al_state *st, PyObject *dict, Py_ssize_t n, bool all)
{
    PyObject *lock_dict, *waiters = NULL;
    if (lock_of(st, dict, st->str.locked, &lock_dict) == NULL) {
        return 1;
    }
    int status = al_primitive_truth(lock_dict, st->str._locked); /* escapes */
    Py_DECREF(lock_dict);
    if (status == 0) {
        PyErr_SetString(PyExc_RuntimeError, "cannot notify on un-acquired lock");
        return -1;
    }
    if (status > 0) {
        waiters = al_attribute(dict, "Condition", st->str._waiters);
    }
    if (waiters == NULL) {
        return -1;
    }
    bool plain = Py_IS_TYPE(waiters, (PyTypeObject *)st->deque);
    status = !plain                 ? 1
             : Py_SIZE(waiters) > 0 ? notify(st, waiters, all ? Py_SIZE(waiters) : n)
                                    : 0;
    Py_DECREF(waiters);
    return status;
}

/* What a method returns.  Escapes. */
static PyObject *
call_notify_with(al_state *st, PyObject *self, Py_ssize_t n, bool all)
{
    PyObject *dict;
    int status = 1;
    if (al_replaced_class(st, self, &dict) == AL_PRIM_CONDITION) {
        status = notify_if_locked(st, dict, n, all); /* escapes */
    }
    Py_XDECREF(dict);
    return status == 0 ? Py_NewRef(Py_None) : NULL;
}

static PyObject *
call_notify(al_state *st, PyObject *const *args, Py_ssize_t nargs)
{
    Py_ssize_t n = 1;
    if (nargs > 2 || (nargs == 2 && !PyLong_CheckExact(args[1]))) {
        return NULL;
    }
    if (nargs == 2) {
        n = PyLong_AsSsize_t(args[1]);
        if (n == -1 && PyErr_Occurred()) {
            PyErr_Clear(); /* So many that asyncio has to count. */
            return NULL;
        }
    }
    return call_notify_with(st, args[0], n, false);
}

static PyObject *
call_notify_all(al_state *st, PyObject *const *args, Py_ssize_t nargs)
{
    return nargs == 1 ? call_notify_with(st, args[0], 0, true) : NULL;
}

const al_replacement al_condition_replacements[] = {
    {.owner = offsetof(al_state, Condition), .name = "notify", .call = call_notify},
    {.owner = offsetof(al_state, Condition),
     .name = "notify_all",
     .call = call_notify_all},
    {.name = NULL},
};
