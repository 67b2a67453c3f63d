/* gather.c: see gather.h. */
#include "prim/gather.h"

#include "base/origin.h"
#include "prim/primitive.h"
#include "task/registry.h"

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    al_state *st;
    PyObject *outer;    /* NULL while gather() looks at its arguments */
    PyObject *children; /* list of futures, one for each argument */
    PyObject *task;     /* that called gather(), or NULL; before 3.14 always */
    PyObject *weakrefs;
    Py_ssize_t finished, wanted;
    bool return_exceptions;
} al_gather;

/* --- a child is done ------------------------------------------------------------------------ */

/* Mirrors tasks._discard_awaited_by(), where there is one.  0 or -1.  Escapes. */
static int
discard_all(const al_gather *self)
{
    int status = 0;
    if (self->task != NULL && self->st->gather.discards) {
        for (Py_ssize_t i = 0; status == 0 && i < PyList_GET_SIZE(self->children);
             i++) {
            PyObject *child = Py_NewRef(PyList_GET_ITEM(self->children, i));
            status = al_primitive_discard_awaited_by(self->st, child,
                                                     self->task); /* escapes */
            Py_DECREF(child);
        }
    }
    return status;
}

/* Whether a future of ours is done and has a result. */
static bool
has_result(const al_state *st, PyObject *future)
{
    return al_future_exact(st, future) &&
           ((al_future *)future)->state == AL_FUTURE_FINISHED &&
           ((al_future *)future)->exception == NULL;
}

/* What a child gives for the list.  New reference.  Escapes. */
static PyObject *
result_of(al_state *st, PyObject *child)
{
    if (AL_LIKELY(has_result(st, child))) {
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

/* outer.<name>(value).  0 or -1.  Escapes. */
static int
settle(PyObject *outer, PyObject *name, PyObject *value)
{
    PyObject *done = PyObject_CallMethodOneArg(outer, name, value); /* escapes */
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* All are done, `child` at last.  0 or -1.  Escapes. */
static int
give_results(al_gather *self, PyObject *outer, PyObject *child)
{
    al_state *st = self->st;
    PyObject *results = PyList_New(0), *last = Py_NewRef(child);
    int status = results == NULL ? -1 : 0;
    for (Py_ssize_t i = 0; status == 0 && i < PyList_GET_SIZE(self->children); i++) {
        Py_SETREF(last, Py_NewRef(PyList_GET_ITEM(self->children, i)));
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
        status = exc == NULL ? -1 : settle(outer, st->str.set_exception, exc);
        Py_XDECREF(exc);
    }
    else if (cancelled == 0) {
        status = settle(outer, st->str.set_result, results); /* escapes */
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
    if (AL_LIKELY(has_result(st, child))) {
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
child_done(al_gather *self, PyObject *child)
{
    al_state *st = self->st;
    self->finished++;
    if (self->task != NULL &&
        al_primitive_discard_awaited_by(st, child, self->task) < 0) { /* escapes */
        return -1;
    }
    PyObject *outer = Py_XNewRef(self->outer);
    int over = outer == NULL ? 1 : al_primitive_is_done(st, outer); /* escapes */
    int status = over < 0 ? -1 : 0;
    if (over > 0) {
        status = retrieve(st, child); /* escapes */
    }
    else if (over == 0 && !self->return_exceptions) {
        PyObject *exc = exception_of(st, child); /* escapes */
        status = exc == NULL ? -1 : 0;
        if (exc != NULL && exc != Py_None) {
            over = 1;
            status = discard_all(self); /* escapes */
            if (status == 0) {
                status = settle(outer, st->str.set_exception, exc); /* escapes */
            }
        }
        Py_XDECREF(exc);
    }
    if (status == 0 && over == 0 && self->finished == self->wanted) {
        status = give_results(self, outer, child); /* escapes */
    }
    Py_XDECREF(outer);
    return status;
}

static PyObject *
gather_vectorcall(PyObject *callable, PyObject *const *args, size_t nargsf,
                  PyObject *kwnames)
{
    if (PyVectorcall_NARGS(nargsf) != 1 || kwnames != NULL) {
        PyErr_SetString(PyExc_TypeError, "_done_callback() takes a future");
        return NULL;
    }
    return child_done((al_gather *)callable, args[0]) < 0 ? NULL : Py_NewRef(Py_None);
}

/* --- the callback's looks --------------------------------------------------------------------- */

/* A cell of the closure.  New reference. */
static PyObject *
cell_of(const al_gather *self, PyObject *name)
{
    PyObject *value = NULL, *number = NULL;
    if (PyUnicode_CompareWithASCIIString(name, "outer") == 0) {
        value = self->outer == NULL ? Py_None : self->outer;
    }
    else if (PyUnicode_CompareWithASCIIString(name, "children") == 0) {
        value = self->children;
    }
    else if (PyUnicode_CompareWithASCIIString(name, "cur_task") == 0) {
        value = self->task;
    }
    else if (PyUnicode_CompareWithASCIIString(name, "return_exceptions") == 0) {
        value = self->return_exceptions ? Py_True : Py_False;
    }
    else if (PyUnicode_CompareWithASCIIString(name, "nfuts") == 0) {
        value = number = PyLong_FromSsize_t(self->wanted);
    }
    else if (PyUnicode_CompareWithASCIIString(name, "nfinished") == 0) {
        value = number = PyLong_FromSsize_t(self->finished);
    }
    PyObject *cell = PyErr_Occurred() ? NULL : PyCell_New(value);
    Py_XDECREF(number);
    return cell;
}

/* asyncio's inner function with what is known now.  New reference. */
static PyObject *
make_function(const al_gather *self)
{
    const al_state *st = self->st;
    PyObject *function = PyFunction_New(st->gather.inner, st->gather.globals);
    PyObject *names = PyObject_GetAttrString(st->gather.inner, "co_freevars");
    PyObject *closure = names == NULL ? NULL : PyTuple_New(PyTuple_GET_SIZE(names));
    int status = function == NULL || closure == NULL ? -1 : 0;
    for (Py_ssize_t i = 0; status == 0 && i < PyTuple_GET_SIZE(closure); i++) {
        PyObject *cell = cell_of(self, PyTuple_GET_ITEM(names, i));
        PyTuple_SET_ITEM(closure, i, cell);
        status = cell == NULL ? -1 : 0;
    }
    if (status == 0) {
        status = PyFunction_SetClosure(function, closure);
    }
    if (status == 0 && PY_VERSION_HEX >= 0x030E0000) {
        PyObject *defaults = PyTuple_Pack(1, self->task == NULL ? Py_None : self->task);
        status = defaults == NULL ? -1 : PyFunction_SetDefaults(function, defaults);
        Py_XDECREF(defaults);
    }
    Py_XDECREF(names);
    Py_XDECREF(closure);
    if (status < 0) {
        Py_CLEAR(function);
    }
    return function;
}

/* What is not its own is the function's: __name__, __code__, __closure__ ... */
static PyObject *
gather_getattro(PyObject *op, PyObject *name)
{
    al_gather *self = (al_gather *)op;
    if (PyUnicode_CompareWithASCIIString(name, "__class__") == 0) {
        return PyObject_GenericGetAttr(op, name);
    }
    PyObject *function = make_function(self);
    if (function == NULL) {
        return NULL;
    }
    PyObject *value = PyUnicode_CompareWithASCIIString(name, "__wrapped__") == 0
                          ? Py_NewRef(function)
                          : PyObject_GetAttr(function, name);
    Py_DECREF(function);
    return value;
}

static PyObject *
gather_repr(PyObject *self)
{
    return PyUnicode_FromFormat("<function gather.<locals>._done_callback at %p>",
                                self);
}

static int
gather_traverse(al_gather *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->outer);
    Py_VISIT(self->children);
    Py_VISIT(self->task);
    return 0;
}

static int
gather_clear(al_gather *self)
{
    Py_CLEAR(self->outer); /* escapes, like the next ones */
    Py_CLEAR(self->task);
    return 0; /* The list stays: whoever still has the callback may call it. */
}

static void
gather_dealloc(al_gather *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    (void)gather_clear(self); /* escapes */
    Py_CLEAR(self->children); /* escapes */
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyMemberDef gather_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(al_gather, weakrefs), READONLY, NULL},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(al_gather, vectorcall), READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot gather_slots[] = {
    {Py_tp_dealloc, gather_dealloc}, {Py_tp_traverse, gather_traverse},
    {Py_tp_clear, gather_clear},     {Py_tp_repr, gather_repr},
    {Py_tp_call, PyVectorcall_Call}, {Py_tp_getattro, gather_getattro},
    {Py_tp_members, gather_members}, {0, NULL},
};

static PyType_Spec gather_spec = {
    .name = "aioloop._core.GatherCallback",
    .basicsize = sizeof(al_gather),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
             Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = gather_slots,
};

/* --- gather() --------------------------------------------------------------------------------- */

/* loop.create_task(coroutine), as ensure_future() calls it.  New reference.  Escapes. */
static PyObject *
start(const al_state *st, PyObject *loop, PyObject *coroutine)
{
    PyObject *task =
        PyObject_CallMethodOneArg(loop, st->str.create_task, coroutine); /* escapes */
    if (AL_UNLIKELY(task == NULL) && PyErr_ExceptionMatches(PyExc_RuntimeError)) {
        PyObject *exc = al_err_take();
        if (al_primitive_call(coroutine, st->str.close) < 0) { /* escapes */
            al_primitive_chain(&exc);
        }
        al_err_put_steal(exc);
    }
    return task;
}

static bool
is_coroutine(const al_state *st, PyObject *obj)
{
    return PyCoro_CheckExact(obj) || Py_IS_TYPE(obj, st->Primitive_type);
}

static bool
is_own_future(const al_state *st, PyObject *obj, PyObject *loop)
{
    return al_future_exact(st, obj) && ((al_future *)obj)->loop_obj == loop;
}

/* ensure_future(arg, loop=loop).  New reference.  Escapes. */
static PyObject *
future_of(const al_state *st, PyObject *loop, PyObject *arg)
{
    PyObject *ensure = al_attribute(st->gather.globals, "module", st->gather.name);
    PyObject *future = NULL, *args[] = {arg, loop};
    if (ensure == NULL) {
        return NULL;
    }
    if (AL_UNLIKELY(ensure != st->gather.ensure_future)) {
        future = PyObject_Vectorcall(ensure, args, 1, st->gather.kwnames_loop);
    }
    else if (AL_LIKELY(is_coroutine(st, arg))) {
        future = start(st, loop, arg); /* escapes */
    }
    else if (is_own_future(st, arg, loop)) {
        future = Py_NewRef(arg);
    }
    else {
        future = PyObject_Vectorcall(ensure, args, 1, st->gather.kwnames_loop);
    }
    Py_DECREF(ensure);
    return future;
}

/* A new child is to call `self` at its end; on 3.12 and later it is listed in `done` if that
 * is behind it.  0 or -1.  Escapes. */
static int
adopt(al_gather *self, PyObject *child, PyObject *arg, PyObject *done)
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
    self->wanted++;
#if PY_VERSION_HEX >= 0x030C0000
    is_done = al_primitive_is_done(st, child); /* escapes */
#endif
    if (is_done != 0) {
        return is_done < 0 ? -1 : PyList_Append(done, child);
    }
    if (self->task != NULL &&
        al_primitive_add_awaited_by(st, child, self->task) < 0) { /* escapes */
        return -1;
    }
    PyObject *callback = (PyObject *)self;
    PyObject *added =
        AL_LIKELY(al_future_exact(st, child))
            ? al_future_py_add_done_callback(child, &callback, 1, NULL)
            : PyObject_CallMethodOneArg(child, st->str.add_done_callback, callback);
    Py_XDECREF(added);
    return added == NULL ? -1 : 0;
}

/* The child of an argument, which may have come before.  0 or -1.  Escapes. */
static int
add_child(al_gather *self, PyObject *loop, PyObject *arg, PyObject *futures,
          PyObject *done)
{
    PyObject *child = Py_XNewRef(PyDict_GetItemWithError(futures, arg)); /* escapes */
    int status = PyErr_Occurred() ? -1 : 0;
    if (child == NULL && status == 0) {
        child = future_of(self->st, loop, arg); /* escapes */
        status = child == NULL ? -1 : PyDict_SetItem(futures, arg, child);
        if (status == 0) {
            status = adopt(self, child, arg, done); /* escapes */
        }
    }
    if (status == 0) {
        status = PyList_Append(self->children, child);
    }
    Py_XDECREF(child);
    return status;
}

/* _GatheringFuture(children, loop=loop).  0 or -1.  Escapes. */
static int
make_outer(al_gather *self, PyObject *loop)
{
    const al_state *st = self->st;
    PyObject *class =
        al_attribute(st->gather.globals, "module", st->str._GatheringFuture);
    PyObject *args[] = {self->children, loop};
    if (class != NULL) {
        self->outer = PyObject_Vectorcall(class, args, 1, st->gather.kwnames_loop);
        Py_DECREF(class);
    }
    return self->outer == NULL ? -1 : 0;
}

static al_gather *
gather_new(al_state *st, bool return_exceptions)
{
    al_gather *self = PyObject_GC_New(al_gather, st->GatherCallback_type);
    if (self == NULL) {
        return NULL;
    }
    self->vectorcall = gather_vectorcall;
    self->st = st;
    self->outer = self->task = self->weakrefs = NULL;
    self->finished = self->wanted = 0;
    self->return_exceptions = return_exceptions;
    self->children = PyList_New(0);
    PyObject_GC_Track(self);
    if (self->children == NULL) {
        Py_CLEAR(self);
    }
    return self;
}

/* New reference, or NULL.  Escapes. */
static PyObject *
gather(al_state *st, PyObject *loop, PyObject *const *args, Py_ssize_t nargs,
       bool return_exceptions)
{
    al_gather *self = gather_new(st, return_exceptions);
    PyObject *futures = PyDict_New(), *done = PyList_New(0), *outer = NULL;
    int status = self == NULL || futures == NULL || done == NULL ? -1 : 0;
#if PY_VERSION_HEX >= 0x030E0000
    if (status == 0) {
        self->task = al_primitive_current_task(st); /* escapes */
        if (self->task == Py_None) {
            Py_CLEAR(self->task);
        }
        else if (self->task == NULL) {
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
        outer = Py_NewRef(self->outer);
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
    PyObject *loop = st->gather.inner != NULL &&
                             understands(args, nargs, kwnames, &return_exceptions)
                         ? al_registry_running_loop(st)
                         : NULL;
    PyObject *outer = NULL;
    if (loop != NULL && loop != Py_None && !al_primitive_is_debugged(st, loop) &&
        (is_coroutine(st, args[0]) || is_own_future(st, args[0], loop))) {
        outer = gather(st, loop, args, nargs, return_exceptions); /* escapes */
    }
    Py_XDECREF(loop);
    return outer;
}

const al_replacement al_gather_replacements[] = {
    {offsetof(al_state, asyncio_tasks), "gather", NULL, false, true, false,
     call_gather},
    {0, NULL, NULL, false, false, false, NULL},
};

/* The code of gather's inner function.  New reference, or NULL. */
static PyObject *
inner_code(PyObject *function)
{
    PyObject *constants =
        PyObject_GetAttrString(PyFunction_GET_CODE(function), "co_consts");
    PyObject *found = NULL;
    for (Py_ssize_t i = 0; constants != NULL && i < PyTuple_GET_SIZE(constants); i++) {
        PyObject *constant = PyTuple_GET_ITEM(constants, i);
        if (PyCode_Check(constant) &&
            PyUnicode_CompareWithASCIIString(((PyCodeObject *)constant)->co_name,
                                             "_done_callback") == 0) {
            found = Py_NewRef(constant);
            break;
        }
    }
    Py_XDECREF(constants);
    return found;
}

int
al_gather_init_type(PyObject *module, al_state *st)
{
    const char *name = PY_VERSION_HEX < 0x030C0000 ? "_ensure_future" : "ensure_future";
    st->gather.globals = Py_NewRef(PyModule_GetDict(st->asyncio_tasks));
    st->gather.name = PyUnicode_InternFromString(name);
    st->gather.kwnames_loop = Py_BuildValue("(s)", "loop");
    st->gather.discards =
        PyDict_GetItemString(st->gather.globals, "_discard_awaited_by") != NULL;
    PyObject *function = PyDict_GetItemString(st->gather.globals, "gather");
    if (function != NULL &&
        al_origin_is_function(function, "asyncio.tasks", "gather")) {
        st->gather.inner = inner_code(function);
    }
    PyObject *ensure = PyDict_GetItemString(st->gather.globals, name);
    if (ensure != NULL && al_origin_is_function(ensure, "asyncio.tasks", name)) {
        st->gather.ensure_future = Py_NewRef(ensure);
    }
    return st->gather.name == NULL || st->gather.kwnames_loop == NULL
               ? -1
               : al_state_add_type(module, &st->GatherCallback_type, &gather_spec,
                                   NULL);
}
