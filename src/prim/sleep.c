/* sleep.c: see sleep.h. */
#include "prim/sleep.h"

#include <math.h>

#include "prim/primitive.h"

/* Of a delay of 0 or less: gives way once. */
static int
step_yield(al_lazy *base, PyObject **result)
{
    if (!base->started) {
        base->started = true;
        *result = Py_NewRef(Py_None);
        return 0;
    }
    *result = Py_NewRef(base->arg == NULL ? Py_None : base->arg);
    return 1;
}

/* What `await future` returns.  1 or -1. */
static int
outcome(al_state *st, al_primitive *op, PyObject **result)
{
    *result = al_future_exact(st, op->waits_on)
                  ? Py_XNewRef(((al_future *)op->waits_on)->result)
                  : PyObject_CallMethodNoArgs(op->waits_on, st->str.result);
    return *result == NULL ? -1 : 1;
}

/* `extra` is the delay, and then the timer's handle. */
static int
step_sleep(al_lazy *base, PyObject **result)
{
    al_state *st = al_primitive_state(base);
    al_primitive *op = (al_primitive *)base;
    if (op->waits_on != NULL) {
        int status = outcome(st, op, result);
        if (al_primitive_call(op->extra, st->str.cancel) < 0) { /* escapes */
            Py_CLEAR(*result);
            return -1;
        }
        return status;
    }
    PyObject *loop = al_primitive_running_loop(st);
    PyObject *future =
        loop == NULL ? NULL : al_primitive_future(st, loop); /* escapes */
    if (future == NULL) {
        Py_XDECREF(loop);
        return -1;
    }
    PyObject *args[] = {loop, op->extra, st->set_result_unless_cancelled, future,
                        base->arg == NULL ? Py_None : base->arg};
    PyObject *handle =
        PyObject_VectorcallMethod(st->str.call_later, args, 5, NULL); /* escapes */
    Py_DECREF(loop);
    if (handle == NULL) {
        Py_DECREF(future);
        return -1;
    }
    Py_XSETREF(op->extra, handle);
    op->waits_on = future;
    return al_primitive_wait(op, result); /* escapes */
}

static void
failed(al_lazy *base, PyObject **exc)
{
    al_primitive *op = (al_primitive *)base;
    if (al_primitive_call(op->extra, al_primitive_state(base)->str.cancel) < 0) {
        al_primitive_chain(exc);
    }
}

static const al_lazy_kind yield_kind = {NULL,
                                        offsetof(al_state, asyncio_tasks),
                                        step_yield,
                                        al_primitive_woken,
                                        al_primitive_ended,
                                        NULL};
static const al_lazy_kind sleep_kind = {NULL,
                                        offsetof(al_state, asyncio_tasks),
                                        step_sleep,
                                        al_primitive_woken,
                                        al_primitive_ended,
                                        failed};

static PyObject *
call_sleep(al_state *st, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *delay = args[0],
             *value = nargs == 2 && args[1] != Py_None ? args[1] : NULL;
    bool now;
    if (nargs > 2) {
        return NULL;
    }
    if (PyLong_CheckExact(delay)) {
        now = al_primitive_compare(delay, Py_LE) > 0;
    }
    else if (PyFloat_CheckExact(delay) && !isnan(PyFloat_AS_DOUBLE(delay))) {
        now = PyFloat_AS_DOUBLE(delay) <= 0;
    }
    else {
        return NULL; /* asyncio says what is wrong with it, in each version's words. */
    }
    PyObject *op = al_primitive_new_steal(st, now ? &yield_kind : &sleep_kind, "sleep",
                                          NULL, value, NULL);
    if (op != NULL && !now) {
        ((al_primitive *)op)->extra = Py_NewRef(delay);
    }
    return op;
}

const al_replacement al_sleep_replacements[] = {
    {.owner = offsetof(al_state, asyncio_tasks),
     .name = "sleep",
     .call = call_sleep,
     .coroutine = true,
     .module = true},
    {.name = NULL},
};
