/* semaphore.c: see semaphore.h. */
#include "prim/semaphore.h"

#include "prim/primitive.h"

/* Mirrors Semaphore.locked(): 1, 0 or -1.  Escapes. */
static int
is_locked(al_state *st, PyObject *dict)
{
    int empty = al_primitive_compare_attribute(dict, st->str._value, Py_EQ);
    if (empty != 0) {
        return empty;
    }
    PyObject *waiters = al_attribute(dict, "Semaphore", st->str._waiters);
    int waited_for = waiters == NULL ? -1 : al_primitive_is_full(st, waiters);
    if (waited_for > 0) {
        int all = al_primitive_all_cancelled(st, waiters); /* escapes */
        waited_for = all < 0 ? -1 : !all;
    }
    Py_XDECREF(waiters);
    return waited_for;
}

/* Mirrors Semaphore._wake_up_next(): whether somebody was, or -1.  Escapes. */
static int
wake_up_next(al_state *st, PyObject *dict)
{
    PyObject *waiters = al_attribute(dict, "Semaphore", st->str._waiters);
    int status = waiters == NULL ? -1 : al_primitive_is_full(st, waiters);
    if (status <= 0) {
        Py_XDECREF(waiters);
        return status;
    }
    PyObject *iterator = PyObject_GetIter(waiters), *waiter = NULL;
    status = iterator == NULL ? -1 : 0;
    while (status == 0 && (waiter = PyIter_Next(iterator)) != NULL) {
        int done = al_primitive_is_done(st, waiter); /* escapes */
        if (done == 0) {
            status = al_primitive_add(dict, st->str._value, -1) < 0 ||
                             al_primitive_resolve(st, waiter, Py_True) < 0 /* escapes */
                         ? -1
                         : 1;
        }
        else if (done < 0) {
            status = -1;
        }
        Py_DECREF(waiter);
    }
    if (status == 0 && PyErr_Occurred()) {
        status = -1;
    }
    Py_XDECREF(iterator);
    Py_DECREF(waiters);
    return status;
}

/* Whoever may go on by now is woken; before 3.13 that is one.  0 or -1.  Escapes. */
static int
wake_up_others(al_state *st, PyObject *dict)
{
    int status;
    do {
        status = al_primitive_compare_attribute(dict, st->str._value, Py_GT);
        if (status > 0) {
            status = wake_up_next(st, dict); /* escapes */
        }
    } while (PY_VERSION_HEX >= 0x030D0000 && status > 0);
    return status < 0 ? -1 : 0;
}

/* Mirrors Semaphore.acquire(): as a step, without a result.  Escapes. */
static int
acquire(al_lazy *base, PyObject **result)
{
    al_state *st = al_primitive_state(base);
    al_primitive *op = (al_primitive *)base;
    if (op->waits_on != NULL) {
        if (al_primitive_leave(op, st->str._waiters) < 0) { /* escapes */
            if (PY_VERSION_HEX >= 0x030D0000) {
                PyObject *exc = al_err_take();
                if (wake_up_others(st, op->dict) < 0) { /* escapes */
                    al_primitive_chain(&exc);
                }
                al_err_put_steal(exc);
            }
            return -1;
        }
        return wake_up_others(st, op->dict) < 0 ? -1 : 1; /* escapes */
    }
    int locked = is_locked(st, op->dict); /* escapes */
    if (locked > 0) {
        return al_primitive_wait_in(op, st->str._waiters, result); /* escapes */
    }
    return locked < 0 || al_primitive_add(op->dict, st->str._value, -1) < 0 ? -1 : 1;
}

static int
step_acquire(al_lazy *base, PyObject **result)
{
    int status = acquire(base, result); /* escapes */
    if (status > 0) {
        *result = Py_NewRef(Py_True);
    }
    return status;
}

static int
step_enter(al_lazy *base, PyObject **result)
{
    int status = acquire(base, result); /* escapes */
    if (status > 0) {
        *result = Py_NewRef(Py_None);
    }
    return status;
}

/* Whether it was woken before it was cancelled: its turn has been counted.  Escapes. */
static int
has_turn(al_state *st, PyObject *future)
{
    int done = PY_VERSION_HEX >= 0x030D0000 ? al_primitive_is_done(st, future) : 1;
    int cancelled = done > 0 ? al_primitive_is_cancelled(st, future) : 0;
    return done < 0 || cancelled < 0 ? -1 : done && !cancelled;
}

static void
failed(al_lazy *base, PyObject **exc)
{
    al_state *st = al_primitive_state(base);
    al_primitive *op = (al_primitive *)base;
    PyObject *future = Py_NewRef(op->waits_on);
    if (al_primitive_leave(op, st->str._waiters) < 0) { /* escapes */
        al_primitive_chain(exc);
    }
    if (PyErr_GivenExceptionMatches(*exc, st->CancelledError)) {
        int status = has_turn(st, future); /* escapes */
        if (status > 0) {
            status = al_primitive_add(op->dict, st->str._value, 1);
            if (status == 0 && PY_VERSION_HEX < 0x030D0000) {
                status = wake_up_next(st, op->dict); /* escapes */
            }
        }
        if (status < 0) {
            al_primitive_chain(exc);
        }
    }
    if (PY_VERSION_HEX >= 0x030D0000 && wake_up_others(st, op->dict) < 0) {
        al_primitive_chain(exc);
    }
    Py_DECREF(future);
}

/* Mirrors release() of both classes.  0 or -1.  Escapes. */
static int
release(al_state *st, PyObject *semaphore, PyObject *dict)
{
    if (Py_IS_TYPE(semaphore, (PyTypeObject *)st->BoundedSemaphore)) {
        PyObject *value = al_attribute(dict, "BoundedSemaphore", st->str._value);
        PyObject *bound = value == NULL ? NULL
                                        : al_attribute(dict, "BoundedSemaphore",
                                                       st->str._bound_value);
        int full = bound == NULL ? -1 : PyObject_RichCompareBool(value, bound, Py_GE);
        Py_XDECREF(value);
        Py_XDECREF(bound);
        if (full != 0) {
            if (full > 0) {
                PyErr_SetString(PyExc_ValueError,
                                "BoundedSemaphore released too many times");
            }
            return -1;
        }
    }
    return al_primitive_add(dict, st->str._value, 1) < 0 || wake_up_next(st, dict) < 0
               ? -1
               : 0; /* escapes */
}

static int
step_exit(al_lazy *base, PyObject **result)
{
    al_primitive *op = (al_primitive *)base;
    if (release(al_primitive_state(base), base->subject, op->dict) < 0) { /* escapes */
        return -1;
    }
    *result = Py_NewRef(Py_None);
    return 1;
}

static const al_lazy_kind acquire_kind = {
    "Semaphore",        offsetof(al_state, Semaphore),
    step_acquire,       al_primitive_woken,
    al_primitive_ended, failed};
static const al_lazy_kind enter_kind = {"_ContextManagerMixin",
                                        offsetof(al_state, ContextManagerMixin),
                                        step_enter,
                                        al_primitive_woken,
                                        al_primitive_ended,
                                        failed};
static const al_lazy_kind exit_kind = {"_ContextManagerMixin",
                                       offsetof(al_state, ContextManagerMixin),
                                       step_exit,
                                       al_primitive_woken,
                                       al_primitive_ended,
                                       NULL};

PyObject *
al_semaphore_enter_steal(al_state *st, PyObject *semaphore, PyObject *dict)
{
    return al_primitive_new_steal(st, &enter_kind, "__aenter__", semaphore, NULL, dict);
}

PyObject *
al_semaphore_exit_steal(al_state *st, PyObject *semaphore, PyObject *dict)
{
    return al_primitive_new_steal(st, &exit_kind, "__aexit__", semaphore, NULL, dict);
}

/* A semaphore's attributes, or NULL without exception: not for us.  New reference. */
static PyObject *
attributes(al_state *st, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *dict = NULL;
    int class = nargs == 1 ? al_replaced_class(st, args[0], &dict) : AL_PRIM_NONE;
    if (class != AL_PRIM_SEMAPHORE && class != AL_PRIM_BOUNDED_SEMAPHORE) {
        Py_CLEAR(dict);
    }
    return dict;
}

static PyObject *
call_acquire(al_state *st, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *dict = attributes(st, args, nargs);
    return dict == NULL ? NULL
                        : al_primitive_new_steal(st, &acquire_kind, "acquire", args[0],
                                                 NULL, dict);
}

static PyObject *
call_release(al_state *st, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *dict = attributes(st, args, nargs);
    if (dict == NULL) {
        return NULL;
    }
    int status = release(st, args[0], dict); /* escapes */
    Py_DECREF(dict);
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

/* Semaphore.release may be called for a BoundedSemaphore, by super(): asyncio's does. */
static PyObject *
call_plain_release(al_state *st, PyObject *const *args, Py_ssize_t nargs)
{
    return nargs == 1 && Py_IS_TYPE(args[0], (PyTypeObject *)st->Semaphore)
               ? call_release(st, args, nargs)
               : NULL;
}

const al_replacement al_semaphore_replacements[] = {
    {.owner = offsetof(al_state, Semaphore),
     .name = "acquire",
     .call = call_acquire,
     .coroutine = true},
    {.owner = offsetof(al_state, Semaphore),
     .name = "release",
     .call = call_plain_release},
    {.owner = offsetof(al_state, BoundedSemaphore),
     .name = "release",
     .call = call_release},
    {.name = NULL},
};
