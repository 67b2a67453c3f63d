/* gather.c: see gather.h. */
#include "prim/gather.h"

#include "prim/closure.h"
#include "prim/ensure.h"
#include "prim/primitive.h"
#include "task/registry.h"

/* What the callback holds: the outer future is NULL while gather() looks at its arguments;
 * `children` is a list of futures, one for each argument; `cur_task` called gather(), or is
 * NULL, before 3.14 always.  Its flag is `return_exceptions`. */
enum { OUTER, CHILDREN, TASK };
enum { FINISHED, WANTED };

/* --- a child is done ------------------------------------------------------------------------ */

/* Mirrors tasks._discard_awaited_by(), where there is one.  0 or -1.  Escapes. */
static int
discard_all(const al_closure *self)
{
    int status = 0;
    if (self->held[TASK] != NULL && self->st->gather_discards) {
        for (Py_ssize_t i = 0; status == 0 && i < PyList_GET_SIZE(self->held[CHILDREN]);
             i++) {
            PyObject *child = Py_NewRef(PyList_GET_ITEM(self->held[CHILDREN], i));
            status = al_primitive_discard_awaited_by(self->st, child,
                                                     self->held[TASK]); /* escapes */
            Py_DECREF(child);
        }
    }
    return status;
}

/* What a child gives for the list.  New reference.  Escapes. */
static PyObject *
result_of(al_state *st, PyObject *child)
{
    if (AL_LIKELY(al_primitive_has_result(st, child))) {
        return Py_NewRef(((al_future *)child)->result);
    }
    int cancelled = al_primitive_is_cancelled(st, child); /* escapes */
    if (cancelled < 0) {
        return NULL;
    }
    if (cancelled) {
        PyObject *message = PyObject_GetAttr(child, st->str._cancel_message);
        PyObject *exc = NULL;
        if (message == Py_None) {
            exc = PyObject_CallFunction(st->CancelledError, "s", "");
        }
        else if (message != NULL) {
            exc = PyObject_CallOneArg(st->CancelledError, message); /* escapes */
        }
        Py_XDECREF(message);
        return exc;
    }
    PyObject *exc = PyObject_CallMethodNoArgs(child, st->str.exception); /* escapes */
    if (exc != Py_None) {
        return exc;
    }
    Py_DECREF(exc);
    return PyObject_CallMethodNoArgs(child, st->str.result); /* escapes */
}

/* All are done, `child` at last.  0 or -1.  Escapes. */
static int
give_results(al_closure *self, PyObject *outer, PyObject *child)
{
    al_state *st = self->st;
    PyObject *results = PyList_New(0), *last = Py_NewRef(child);
    int status = results == NULL ? -1 : 0;
    for (Py_ssize_t i = 0; status == 0 && i < PyList_GET_SIZE(self->held[CHILDREN]);
         i++) {
        Py_SETREF(last, Py_NewRef(PyList_GET_ITEM(self->held[CHILDREN], i)));
        PyObject *result = result_of(st, last); /* escapes */
        status = result == NULL ? -1 : PyList_Append(results, result);
        Py_XDECREF(result);
    }
    PyObject *requested =
        status < 0 ? NULL : PyObject_GetAttr(outer, st->str._cancel_requested);
    int cancelled = requested == NULL ? -1 : PyObject_IsTrue(requested); /* escapes */
    Py_XDECREF(requested);
    if (cancelled > 0) {
        PyObject *exc = PyObject_CallMethodNoArgs(last, st->str._make_cancelled_error);
        status =
            exc == NULL ? -1 : al_primitive_settle(outer, st->str.set_exception, exc);
        Py_XDECREF(exc);
    }
    else if (cancelled == 0) {
        status = al_primitive_settle(outer, st->str.set_result, results); /* escapes */
    }
    else {
        status = -1;
    }
    Py_DECREF(last);
    Py_XDECREF(results);
    return status;
}

/* The exception that a child ends gather() with, None: no, or NULL.  New reference.
 * Escapes. */
static PyObject *
exception_of(al_state *st, PyObject *child)
{
    if (AL_LIKELY(al_primitive_has_result(st, child))) {
        return Py_NewRef(Py_None);
    }
    int cancelled = al_primitive_is_cancelled(st, child); /* escapes */
    return cancelled < 0 ? NULL
           : cancelled ? PyObject_CallMethodNoArgs(child, st->str._make_cancelled_error)
                       : PyObject_CallMethodNoArgs(child, st->str.exception);
}

/* Nobody waits any more: the exception has been retrieved.  0 or -1.  Escapes. */
static int
retrieve(al_state *st, PyObject *child)
{
    int status = al_primitive_is_cancelled(st, child); /* escapes */
    return status != 0 ? (status < 0 ? -1 : 0)
                       : al_primitive_call(child, st->str.exception); /* escapes */
}

/* Mirrors gather's _done_callback(child).  0 or -1.  Escapes. */
static int
child_done(al_closure *self, PyObject *child)
{
    al_state *st = self->st;
    self->counts[FINISHED]++;
    if (self->held[TASK] != NULL &&
        al_primitive_discard_awaited_by(st, child, self->held[TASK]) <
            0) { /* escapes */
        return -1;
    }
    PyObject *outer = Py_XNewRef(self->held[OUTER]);
    int over = outer == NULL ? 1 : al_primitive_is_done(st, outer); /* escapes */
    int status = over < 0 ? -1 : 0;
    if (over > 0) {
        status = retrieve(st, child); /* escapes */
    }
    else if (over == 0 && !self->flag) {
        PyObject *exc = exception_of(st, child); /* escapes */
        status = exc == NULL ? -1 : 0;
        if (exc != NULL && exc != Py_None) {
            over = 1;
            status = discard_all(self); /* escapes */
            if (status == 0) {
                status = al_primitive_settle(outer, st->str.set_exception,
                                             exc); /* escapes */
            }
        }
        Py_XDECREF(exc);
    }
    if (status == 0 && over == 0 && self->counts[FINISHED] == self->counts[WANTED]) {
        status = give_results(self, outer, child); /* escapes */
    }
    Py_XDECREF(outer);
    return status;
}

static const al_closure_kind done_kind = {
    .code = AL_CLOSURE_GATHERED,
    .name = "gather.<locals>._done_callback",
    .held = {"outer", "children", "cur_task"},
    .counts = {"nfinished", "nfuts"},
    .flag = "return_exceptions",
    .call = child_done,
};

/* --- gather() --------------------------------------------------------------------------------- */

/* A new child is to call `self` at its end; on 3.12 and later it is listed in `done` if that
 * is behind it.  0 or -1.  Escapes. */
static int
adopt(al_closure *self, PyObject *child, PyObject *arg, PyObject *done)
{
    al_state *st = self->st;
    int is_done = 0;
    if (child != arg) {
        if (AL_LIKELY(Py_IS_TYPE(child, st->Task_type) && al_future_exact(st, child))) {
            ((al_future *)child)->log_destroy_pending = false;
        }
        else if (PyObject_SetAttr(child, st->str._log_destroy_pending, Py_False) < 0) {
            return -1;
        }
    }
    self->counts[WANTED]++;
#if PY_VERSION_HEX >= 0x030C0000
    is_done = al_primitive_is_done(st, child); /* escapes */
#endif
    if (is_done != 0) {
        return is_done < 0 ? -1 : PyList_Append(done, child);
    }
    if (self->held[TASK] != NULL &&
        al_primitive_add_awaited_by(st, child, self->held[TASK]) < 0) { /* escapes */
        return -1;
    }
    return al_closure_add(st, child, (PyObject *)self); /* escapes */
}

/* The child of an argument, which may have come before.  0 or -1.  Escapes. */
static int
add_child(al_closure *self, PyObject *loop, PyObject *arg, PyObject *futures,
          PyObject *done)
{
    PyObject *child = Py_XNewRef(PyDict_GetItemWithError(futures, arg)); /* escapes */
    int status = PyErr_Occurred() ? -1 : 0;
    if (child == NULL && status == 0) {
        child = al_ensure_future(self->st, loop, arg, true); /* escapes */
        status = child == NULL ? -1 : PyDict_SetItem(futures, arg, child);
        if (status == 0) {
            status = adopt(self, child, arg, done); /* escapes */
        }
    }
    if (status == 0) {
        status = PyList_Append(self->held[CHILDREN], child);
    }
    Py_XDECREF(child);
    return status;
}

/* _GatheringFuture(children, loop=loop).  0 or -1.  Escapes. */
static int
make_outer(al_closure *self, PyObject *loop)
{
    const al_state *st = self->st;
    PyObject *class =
        al_attribute(st->closures.globals, "module", st->str._GatheringFuture);
    PyObject *args[] = {self->held[CHILDREN], loop};
    if (class != NULL) {
        self->held[OUTER] =
            PyObject_Vectorcall(class, args, 1, st->ensure.kwnames_loop);
        Py_DECREF(class);
    }
    return self->held[OUTER] == NULL ? -1 : 0;
}

/* New reference, or NULL.  Escapes. */
static PyObject *
gather(al_state *st, PyObject *loop, PyObject *const *args, Py_ssize_t nargs,
       bool return_exceptions)
{
    al_closure *self = al_closure_new(st, &done_kind);
    PyObject *futures = PyDict_New(), *done = PyList_New(0), *outer = NULL;
    int status = self == NULL || futures == NULL || done == NULL ? -1 : 0;
    if (status == 0) {
        self->flag = return_exceptions;
        self->held[CHILDREN] = PyList_New(0);
        status = self->held[CHILDREN] == NULL ? -1 : 0;
    }
#if PY_VERSION_HEX >= 0x030E0000
    if (status == 0) {
        self->held[TASK] = al_primitive_current_task(st); /* escapes */
        if (self->held[TASK] == Py_None) {
            Py_CLEAR(self->held[TASK]);
        }
        else if (self->held[TASK] == NULL) {
            status = -1;
        }
    }
#endif
    for (Py_ssize_t i = 0; status == 0 && i < nargs; i++) {
        status = add_child(self, loop, args[i], futures, done); /* escapes */
    }
    if (status == 0) {
        status = make_outer(self, loop); /* escapes */
    }
    for (Py_ssize_t i = 0; status == 0 && i < PyList_GET_SIZE(done); i++) {
        status = child_done(self, PyList_GET_ITEM(done, i)); /* escapes */
    }
    if (status == 0) {
        outer = Py_NewRef(self->held[OUTER]);
    }
    Py_XDECREF(self);
    Py_XDECREF(futures);
    Py_XDECREF(done);
    return outer;
}

/* return_exceptions=True or False, or no argument by name. */
static bool
understands(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, bool *value)
{
    *value = false;
    if (kwnames == NULL) {
        return true;
    }
    *value = args[nargs] == Py_True;
    return PyTuple_GET_SIZE(kwnames) == 1 && PyBool_Check(args[nargs]) &&
           PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0),
                                            "return_exceptions") == 0;
}

static PyObject *
call_gather(al_state *st, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    bool return_exceptions;
    PyObject *loop = st->closures.codes[AL_CLOSURE_GATHERED] != NULL &&
                             understands(args, nargs, kwnames, &return_exceptions)
                         ? al_registry_running_loop(st)
                         : NULL;
    PyObject *outer = NULL;
    if (loop != NULL && loop != Py_None && !al_primitive_is_debugged(st, loop) &&
        (al_ensure_is_coroutine(st, args[0]) || al_ensure_is_own(st, args[0], loop))) {
        outer = gather(st, loop, args, nargs, return_exceptions); /* escapes */
    }
    Py_XDECREF(loop);
    return outer;
}

const al_replacement al_gather_replacements[] = {
    {.owner = offsetof(al_state, asyncio_tasks),
     .name = "gather",
     .call_named = call_gather,
     .module = true},
    {.name = NULL},
};

int
al_gather_init(al_state *st)
{
    st->gather_discards =
        PyDict_GetItemString(st->closures.globals, "_discard_awaited_by") != NULL;
    return al_closure_find(st, AL_CLOSURE_GATHERED, "gather", "_done_callback");
}
