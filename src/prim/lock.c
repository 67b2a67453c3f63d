/* lock.c: see lock.h. */
#include "prim/lock.h"

#include "prim/primitive.h"

/* Where __init__ puts an attribute into the instance's dict. */
enum { WAITERS = 0, LOCKED = 1 };

/* Whether nothing is in the way of a lock that nobody waits for, as far as a look tells. */
static bool
is_plainly(const al_state *st, PyObject *dict, const PyObject *locked)
{
    return al_attribute_is_at(dict, LOCKED, st->str._locked, locked) &&
           al_attribute_is_at(dict, WAITERS, st->str._waiters, Py_None);
}

/* Mirrors Lock._wake_up_first().  0 or -1.  Escapes. */
static int
wake_up_first(al_state *st, PyObject *dict)
{
    PyObject *waiters = al_attribute(dict, "Lock", st->str._waiters);
    int status = waiters == NULL ? -1 : al_primitive_is_full(st, waiters); /* escapes */
    if (status > 0) {
        PyObject *first = al_primitive_first(st, waiters);              /* escapes */
        int done = first != NULL      ? al_primitive_is_done(st, first) /* escapes */
                   : PyErr_Occurred() ? -1
                                      : 1;
        status = done != 0 ? (done < 0 ? -1 : 0)
                           : al_primitive_resolve(st, first, Py_True); /* escapes */
        Py_XDECREF(first);
    }
    Py_XDECREF(waiters);
    return status;
}

/* Whether nobody is in the way; takes the lock then.  1, 0 or -1.  Escapes. */
static int
try_to_acquire(al_state *st, PyObject *dict)
{
    if (AL_LIKELY(is_plainly(st, dict, Py_False))) {
        return PyDict_SetItem(dict, st->str._locked, Py_True) < 0 ? -1 : 1;
    }
    int locked = al_primitive_truth(dict, st->str._locked); /* escapes */
    if (locked != 0) {
        return locked < 0 ? -1 : 0;
    }
    PyObject *waiters = al_attribute(dict, "Lock", st->str._waiters);
    int all = waiters == NULL ? -1
              : waiters == Py_None
                  ? 1
                  : al_primitive_all_cancelled(st, waiters); /* escapes */
    Py_XDECREF(waiters);
    return all > 0 && PyDict_SetItem(dict, st->str._locked, Py_True) < 0 ? -1 : all;
}

/* Mirrors Lock.acquire(): as a step, without a result.  Escapes. */
static int
acquire(al_lazy *base, PyObject **result)
{
    al_state *st = al_primitive_state(base);
    al_primitive *op = (al_primitive *)base;
    if (op->waits_on != NULL) {
        return al_primitive_leave(op, st->str._waiters) < 0 ||
                       PyDict_SetItem(op->dict, st->str._locked, Py_True) < 0
                   ? -1
                   : 1;
    }
    int status = try_to_acquire(st, op->dict); /* escapes */
    return status != 0
               ? status
               : al_primitive_wait_in(op, st->str._waiters, result); /* escapes */
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

static void
failed(al_lazy *base, PyObject **exc)
{
    al_state *st = al_primitive_state(base);
    al_primitive *op = (al_primitive *)base;
    if (al_primitive_leave(op, st->str._waiters) < 0) { /* escapes */
        al_primitive_chain(exc);
    }
    if (PyErr_GivenExceptionMatches(*exc, st->CancelledError)) {
        int locked = al_primitive_truth(op->dict, st->str._locked); /* escapes */
        if (locked < 0 ||
            (locked == 0 && wake_up_first(st, op->dict) < 0)) { /* escapes */
            al_primitive_chain(exc);
        }
    }
}

/* Mirrors Lock.release().  0 or -1.  Escapes. */
static int
release(al_state *st, PyObject *dict)
{
    if (AL_LIKELY(is_plainly(st, dict, Py_True))) {
        return PyDict_SetItem(dict, st->str._locked, Py_False);
    }
    int locked = al_primitive_truth(dict, st->str._locked); /* escapes */
    if (locked > 0) {
        return PyDict_SetItem(dict, st->str._locked, Py_False) < 0
                   ? -1
                   : wake_up_first(st, dict); /* escapes */
    }
    if (locked == 0) {
        PyErr_SetString(PyExc_RuntimeError, "Lock is not acquired.");
    }
    return -1;
}

static int
step_exit(al_lazy *base, PyObject **result)
{
    al_primitive *op = (al_primitive *)base;
    if (release(al_primitive_state(base), op->dict) < 0) { /* escapes */
        return -1;
    }
    *result = Py_NewRef(Py_None);
    return 1;
}

static const al_lazy_kind acquire_kind = {"Lock",
                                          offsetof(al_state, Lock),
                                          step_acquire,
                                          al_primitive_woken,
                                          al_primitive_ended,
                                          failed};
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
al_lock_enter_steal(al_state *st, PyObject *lock, PyObject *dict)
{
    return al_primitive_new_steal(st, &enter_kind, "__aenter__", lock, NULL, dict);
}

PyObject *
al_lock_exit_steal(al_state *st, PyObject *lock, PyObject *dict)
{
    return al_primitive_new_steal(st, &exit_kind, "__aexit__", lock, NULL, dict);
}

/* A lock's attributes, or NULL without exception: not for us.  New reference. */
static PyObject *
attributes(al_state *st, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *dict = NULL;
    if (nargs != 1 || al_replaced_class(st, args[0], &dict) != AL_PRIM_LOCK) {
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
    int status = release(st, dict); /* escapes */
    Py_DECREF(dict);
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

const al_replacement al_lock_replacements[] = {
    {.owner = offsetof(al_state, Lock),
     .name = "acquire",
     .call = call_acquire,
     .coroutine = true},
    {.owner = offsetof(al_state, Lock), .name = "release", .call = call_release},
    {.name = NULL},
};
