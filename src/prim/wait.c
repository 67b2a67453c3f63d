/* wait.c: see wait.h. */
#include "prim/wait.h"

#include "base/origin.h"
#include "prim/closure.h"
#include "prim/primitive.h"

/* What the callback holds, and how many futures are to come. */
enum { WAITER, TIMEOUT_HANDLE, RETURN_WHEN, TASK };
enum { COUNTER };

/* --- a future is done ------------------------------------------------------------------------ */

/* Whether a future ended with an exception, which is retrieved then: 1, 0 or -1.
 * Escapes. */
static int
has_failed(al_state *st, PyObject *future)
{
    int cancelled = al_primitive_is_cancelled(st, future); /* escapes */
    if (cancelled != 0) {
        return cancelled < 0 ? -1 : 0;
    }
    PyObject *exc = PyObject_CallMethodNoArgs(future, st->str.exception); /* escapes */
    int failed = exc == NULL ? -1 : exc != Py_None;
    Py_XDECREF(exc);
    return failed;
}

/* return_when == one of the names.  No exception: both are strings. */
static bool
is(const al_closure *self, PyObject *name)
{
    PyObject *when = self->held[RETURN_WHEN];
    return when == name || PyUnicode_Compare(when, name) == 0;
}

/* Whether the wait is over: 1, 0 or -1.  Escapes. */
static int
is_over(const al_closure *self, PyObject *future)
{
    al_state *st = self->st;
    return self->counts[COUNTER] <= 0 || is(self, st->str.FIRST_COMPLETED) ? 1
           : is(self, st->str.FIRST_EXCEPTION) ? has_failed(st, future) /* escapes */
                                               : 0;
}

/* 0 or -1.  Escapes. */
static int
cancel_timeout(const al_closure *self)
{
    PyObject *handle = self->held[TIMEOUT_HANDLE];
    return handle == NULL ? 0 : al_primitive_call(handle, self->st->str.cancel);
}

/* Mirrors _wait's _on_completion(future).  0 or -1.  Escapes. */
static int
on_completion(al_closure *self, PyObject *future)
{
    al_state *st = self->st;
    PyObject *waiter = Py_NewRef(self->held[WAITER]);
    PyObject *task = Py_XNewRef(self->held[TASK]);
    self->counts[COUNTER]--;
    int status = is_over(self, future); /* escapes */
    if (status > 0) {
        status = cancel_timeout(self);                                 /* escapes */
        int done = status < 0 ? -1 : al_primitive_is_done(st, waiter); /* escapes */
        status = done < 0    ? -1
                 : done == 0 ? al_primitive_resolve(st, waiter, Py_None) /* escapes */
                             : 0;
    }
    if (status == 0 && task != NULL) {
        status = al_primitive_discard_awaited_by(st, future, task); /* escapes */
    }
    Py_DECREF(waiter);
    Py_XDECREF(task);
    return status;
}

static const al_closure_kind completion_kind = {
    .code = AL_CLOSURE_WAITED,
    .name = "_wait.<locals>._on_completion",
    .held = {"waiter", "timeout_handle", "return_when", "cur_task"},
    .counts = {"counter"},
    .call = on_completion,
};

/* --- wait() ----------------------------------------------------------------------------------- */

/* The operation's subject is what wait() was given, later a list of its futures; `arg` the
 * timeout; `extra` is return_when, and later the callback. */

/* loop.call_later(timeout, _release_waiter, waiter).  0 or -1.  Escapes. */
static int
set_timeout(al_closure *callback, PyObject *loop, PyObject *timeout)
{
    al_state *st = callback->st;
    PyObject *release =
        al_attribute(st->closures.globals, "module", st->str._release_waiter);
    PyObject *args[] = {loop, timeout, release, callback->held[WAITER]};
    if (release == NULL) {
        return -1;
    }
    callback->held[TIMEOUT_HANDLE] =
        PyObject_VectorcallMethod(st->str.call_later, args, 4, NULL); /* escapes */
    Py_DECREF(release);
    return callback->held[TIMEOUT_HANDLE] == NULL ? -1 : 0;
}

/* What _wait() makes before it looks at the futures.  New reference.  Escapes. */
static al_closure *
make_callback(al_state *st, const al_primitive *op, Py_ssize_t count)
{
    PyObject *loop = al_primitive_running_loop(st);
    al_closure *self = loop == NULL ? NULL : al_closure_new(st, &completion_kind);
    int status = self == NULL ? -1 : 0;
    if (status == 0) {
        self->counts[COUNTER] = count;
        self->held[RETURN_WHEN] = Py_NewRef(op->extra);
        self->held[WAITER] = al_primitive_future(st, loop); /* escapes */
        status = self->held[WAITER] == NULL ? -1 : 0;
    }
    if (status == 0 && op->base.arg != NULL) {
        status = set_timeout(self, loop, op->base.arg); /* escapes */
    }
#if PY_VERSION_HEX >= 0x030E0000
    if (status == 0) {
        self->held[TASK] = al_primitive_current_task(st); /* escapes */
        status = self->held[TASK] == NULL ? -1 : 0;
    }
#endif
    Py_XDECREF(loop);
    if (status < 0) {
        Py_CLEAR(self); /* escapes */
    }
    return self;
}

/* Whether none of them is a coroutine.  0, or -1 with TypeError.  Escapes. */
static int
refuse_coroutines(al_state *st, PyObject *futures)
{
    int status = 0;
    for (Py_ssize_t i = 0; status == 0 && i < PyList_GET_SIZE(futures); i++) {
        PyObject *future = PyList_GET_ITEM(futures, i);
        if (AL_LIKELY(al_future_exact(st, future))) {
            continue;
        }
        PyObject *module =
            al_attribute(st->closures.globals, "module", st->str.coroutines);
        PyObject *answer = module == NULL
                               ? NULL
                               : PyObject_CallMethodOneArg(module, st->str.iscoroutine,
                                                           future); /* escapes */
        status = answer == NULL ? -1 : PyObject_IsTrue(answer);
        Py_XDECREF(answer);
        Py_XDECREF(module);
    }
    if (status > 0) {
        PyErr_SetString(PyExc_TypeError,
                        "Passing coroutines is forbidden, use tasks explicitly.");
    }
    return status != 0 ? -1 : 0;
}

/* set(fs), as a list in the set's order.  New reference.  Escapes. */
static PyObject *
list_futures(al_state *st, PyObject *fs)
{
    if (PyObject_Size(fs) == 0) {
        PyErr_SetString(PyExc_ValueError, "Set of Tasks/Futures is empty.");
        return NULL;
    }
    PyObject *set = PySet_New(fs); /* escapes */
    PyObject *futures = set == NULL ? NULL : PySequence_List(set);
    Py_XDECREF(set);
    if (futures != NULL && refuse_coroutines(st, futures) < 0) { /* escapes */
        Py_CLEAR(futures);
    }
    return futures;
}

/* The first part of _wait(): has the futures call us.  As a step returns.  Escapes. */
static int
begin(al_state *st, al_primitive *op, PyObject **result)
{
    PyObject *futures = list_futures(st, op->base.subject); /* escapes */
    if (futures == NULL) {
        return -1;
    }
    Py_SETREF(op->base.subject, futures); /* escapes */
    al_closure *callback =
        make_callback(st, op, PyList_GET_SIZE(futures)); /* escapes */
    if (callback == NULL) {
        return -1;
    }
    Py_XSETREF(op->extra, (PyObject *)callback); /* escapes */
    int status = 0;
    for (Py_ssize_t i = 0; status == 0 && i < PyList_GET_SIZE(futures); i++) {
        PyObject *future = Py_NewRef(PyList_GET_ITEM(futures, i));
        status = al_closure_add(st, future, (PyObject *)callback); /* escapes */
        if (status == 0 && callback->held[TASK] != NULL) {
            status = al_primitive_add_awaited_by(st, future,
                                                 callback->held[TASK]); /* escapes */
        }
        Py_DECREF(future);
    }
    if (status < 0) {
        return -1;
    }
    op->waits_on = Py_NewRef(callback->held[WAITER]);
    return al_primitive_wait(op, result); /* escapes */
}

/* What _wait() does when its wait is over, however it ends.  0 or -1.  Escapes. */
static int
end(al_state *st, const al_primitive *op)
{
    const al_closure *callback = (al_closure *)op->extra;
    PyObject *futures = op->base.subject;
    int status = cancel_timeout(callback); /* escapes */
    for (Py_ssize_t i = 0; status == 0 && i < PyList_GET_SIZE(futures); i++) {
        PyObject *future = Py_NewRef(PyList_GET_ITEM(futures, i));
        status = al_closure_remove(st, future, op->extra); /* escapes */
        if (status == 0 && callback->held[TASK] != NULL) {
            status = al_primitive_discard_awaited_by(
                st, future, callback->held[TASK]); /* escapes */
        }
        Py_DECREF(future);
    }
    return status;
}

/* New reference.  Escapes. */
static PyObject *
divide(al_state *st, PyObject *futures)
{
    PyObject *done = PySet_New(NULL), *pending = PySet_New(NULL), *both = NULL;
    int status = done == NULL || pending == NULL ? -1 : 0;
    for (Py_ssize_t i = 0; status == 0 && i < PyList_GET_SIZE(futures); i++) {
        PyObject *future = PyList_GET_ITEM(futures, i);
        int is_done = al_primitive_is_done(st, future); /* escapes */
        status = is_done < 0 ? -1 : PySet_Add(is_done ? done : pending, future);
    }
    if (status == 0) {
        both = PyTuple_Pack(2, done, pending);
    }
    Py_XDECREF(done);
    Py_XDECREF(pending);
    return both;
}

static int
step_wait(al_lazy *base, PyObject **result)
{
    al_state *st = al_primitive_state(base);
    al_primitive *op = (al_primitive *)base;
    if (op->waits_on == NULL) {
        return begin(st, op, result); /* escapes */
    }
    if (end(st, op) < 0) { /* escapes */
        return -1;
    }
    *result = divide(st, base->subject); /* escapes */
    return *result == NULL ? -1 : 1;
}

static void
failed(al_lazy *base, PyObject **exc)
{
    if (end(al_primitive_state(base), (al_primitive *)base) < 0) { /* escapes */
        al_primitive_chain(exc);
    }
}

static const al_lazy_kind wait_kind = {
    .owner_in_state = offsetof(al_state, asyncio_tasks),
    .step = step_wait,
    .woken = al_primitive_woken,
    .ended = al_primitive_ended,
    .failed = failed};

/* Takes timeout and return_when from the arguments by name: borrowed, or NULL. */
static bool
understands(PyObject *const *values, PyObject *kwnames, PyObject **timeout,
            PyObject **return_when)
{
    Py_ssize_t count = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    *timeout = *return_when = NULL;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        if (PyUnicode_CompareWithASCIIString(name, "timeout") == 0) {
            *timeout = values[i] == Py_None ? NULL : values[i];
        }
        else if (PyUnicode_CompareWithASCIIString(name, "return_when") == 0) {
            *return_when = values[i];
        }
        else {
            return false;
        }
    }
    return true;
}

/* Whether a return_when is one that asyncio knows. */
static bool
is_known(const al_state *st, PyObject *when)
{
    return when == st->str.FIRST_COMPLETED || when == st->str.ALL_COMPLETED ||
           (PyUnicode_CheckExact(when) &&
            (PyUnicode_Compare(when, st->str.FIRST_COMPLETED) == 0 ||
             PyUnicode_Compare(when, st->str.FIRST_EXCEPTION) == 0 ||
             PyUnicode_Compare(when, st->str.ALL_COMPLETED) == 0));
}

static PyObject *
call_wait(al_state *st, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *timeout, *when;
    if (nargs != 1 || st->closures.codes[AL_CLOSURE_WAITED] == NULL ||
        PyDict_GetItemWithError(st->closures.globals, st->str._wait) !=
            st->wait_inner ||
        !understands(args + 1, kwnames, &timeout, &when) ||
        !(PyList_CheckExact(args[0]) || PyTuple_CheckExact(args[0]) ||
          PyAnySet_CheckExact(args[0]))) {
        return NULL;
    }
    if (when == NULL) {
        when = st->str.ALL_COMPLETED;
    }
    else if (!is_known(st, when)) {
        return NULL;
    }
    PyObject *op =
        al_primitive_new_steal(st, &wait_kind, "wait", args[0], timeout, NULL);
    if (op != NULL) {
        ((al_primitive *)op)->extra = Py_NewRef(when);
    }
    return op;
}

const al_replacement al_wait_replacements[] = {
    {.owner = offsetof(al_state, asyncio_tasks),
     .name = "wait",
     .coroutine = true,
     .module = true,
     .call_named = call_wait},
    {.name = NULL},
};

int
al_wait_init(al_state *st)
{
    st->wait_inner =
        Py_XNewRef(PyDict_GetItemWithError(st->closures.globals, st->str._wait));
    return al_closure_find(st, AL_CLOSURE_WAITED, "_wait", "_on_completion");
}
