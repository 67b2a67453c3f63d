/* closure.c: see closure.h. */
#include "prim/closure.h"

#include <string.h>

#include "base/origin.h"
#include "task/future.h"

/* --- the call -------------------------------------------------------------------------------- */

static PyObject *
closure_vectorcall(PyObject *callable, PyObject *const *args, size_t nargsf,
                   PyObject *kwnames)
{
    al_closure *self = (al_closure *)callable;
    if (PyVectorcall_NARGS(nargsf) != 1 || kwnames != NULL) {
        const char *name = strrchr(self->kind->name, '.') + 1;
        PyErr_Format(PyExc_TypeError, "%s() takes a future", name);
        return NULL;
    }
    return !self->cleared && self->kind->call(self, args[0]) < 0 ? NULL
                                                                 : Py_NewRef(Py_None);
}

int
al_closure_add(al_state *st, PyObject *future, PyObject *callable)
{
    PyObject *added =
        AL_LIKELY(al_future_exact(st, future))
            ? al_future_py_add_done_callback(future, &callable, 1, NULL)
            : PyObject_CallMethodOneArg(future, st->str.add_done_callback, callable);
    Py_XDECREF(added);
    return added == NULL ? -1 : 0;
}

int
al_closure_remove(al_state *st, PyObject *future, PyObject *callable)
{
    PyObject *count =
        AL_LIKELY(al_future_exact(st, future))
            ? al_future_py_remove_done_callback(future, callable) /* escapes */
            : PyObject_CallMethodOneArg(future, st->str.remove_done_callback, callable);
    Py_XDECREF(count);
    return count == NULL ? -1 : 0;
}

/* --- its looks ------------------------------------------------------------------------------- */

static bool
is_named(PyObject *name, const char *text)
{
    return text != NULL && PyUnicode_CompareWithASCIIString(name, text) == 0;
}

/* The value of a free variable, or of an argument that has a default.  New reference. */
static PyObject *
value_of(const al_closure *self, PyObject *name)
{
    const al_closure_kind *kind = self->kind;
    for (int i = 0; i < AL_CLOSURE_HELD; i++) {
        if (is_named(name, kind->held[i])) {
            return Py_NewRef(self->held[i] == NULL ? Py_None : self->held[i]);
        }
    }
    for (int i = 0; i < AL_CLOSURE_COUNTS; i++) {
        if (is_named(name, kind->counts[i])) {
            return PyLong_FromSsize_t(self->counts[i]);
        }
    }
    return PyBool_FromLong(is_named(name, kind->flag) && self->flag);
}

/* The values of some names from the first one on: a tuple of them, or of cells. */
static PyObject *
values_of(const al_closure *self, PyObject *code, const char *attribute,
          Py_ssize_t first, Py_ssize_t end, bool in_cells)
{
    PyObject *names = PyObject_GetAttrString(code, attribute);
    end = names != NULL && end < 0 ? PyTuple_GET_SIZE(names) : end;
    PyObject *values = names == NULL ? NULL : PyTuple_New(end - first);
    for (Py_ssize_t i = first; values != NULL && i < end; i++) {
        PyObject *value = value_of(self, PyTuple_GET_ITEM(names, i));
        if (in_cells && value != NULL) {
            Py_SETREF(value, PyCell_New(value));
        }
        PyTuple_SET_ITEM(values, i - first, value);
        if (value == NULL) {
            Py_CLEAR(values);
        }
    }
    Py_XDECREF(names);
    return values;
}

/* asyncio's inner function with what is known now.  New reference. */
static PyObject *
make_function(const al_closure *self)
{
    PyObject *code = self->st->closures.codes[self->kind->code];
    int arguments = ((PyCodeObject *)code)->co_argcount;
    PyObject *function = PyFunction_New(code, self->st->closures.globals);
    PyObject *closure = values_of(self, code, "co_freevars", 0, -1, true);
    PyObject *defaults = values_of(self, code, "co_varnames", 1, arguments, false);
    bool failed = function == NULL || closure == NULL || defaults == NULL ||
                  PyFunction_SetClosure(function, closure) < 0 ||
                  (arguments > 1 && PyFunction_SetDefaults(function, defaults) < 0);
    Py_XDECREF(closure);
    Py_XDECREF(defaults);
    if (failed) {
        Py_CLEAR(function);
    }
    return function;
}

/* What is not its own is the function's: __name__, __code__, __closure__ ... */
static PyObject *
closure_getattro(PyObject *self, PyObject *name)
{
    if (is_named(name, "__class__")) {
        return PyObject_GenericGetAttr(self, name);
    }
    PyObject *function = make_function((al_closure *)self);
    if (function == NULL) {
        return NULL;
    }
    PyObject *value = is_named(name, "__wrapped__") ? Py_NewRef(function)
                                                    : PyObject_GetAttr(function, name);
    Py_DECREF(function);
    return value;
}

static PyObject *
closure_repr(PyObject *self)
{
    return PyUnicode_FromFormat("<function %s at %p>", ((al_closure *)self)->kind->name,
                                self);
}

/* --- the type -------------------------------------------------------------------------------- */

static int
closure_traverse(al_closure *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    for (int i = 0; i < AL_CLOSURE_HELD; i++) {
        Py_VISIT(self->held[i]);
    }
    return 0;
}

static int
closure_clear(al_closure *self)
{
    self->cleared = true;
    for (int i = 0; i < AL_CLOSURE_HELD; i++) {
        Py_CLEAR(self->held[i]); /* escapes */
    }
    return 0;
}

static void
closure_dealloc(al_closure *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    (void)closure_clear(self); /* escapes */
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyMemberDef closure_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(al_closure, weakrefs), READONLY, NULL},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(al_closure, vectorcall), READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot closure_slots[] = {
    {Py_tp_dealloc, closure_dealloc}, {Py_tp_traverse, closure_traverse},
    {Py_tp_clear, closure_clear},     {Py_tp_repr, closure_repr},
    {Py_tp_call, PyVectorcall_Call},  {Py_tp_getattro, closure_getattro},
    {Py_tp_members, closure_members}, {0, NULL},
};

static PyType_Spec closure_spec = {
    .name = "aioloop._core.Closure",
    .basicsize = sizeof(al_closure),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
             Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = closure_slots,
};

al_closure *
al_closure_new(al_state *st, const al_closure_kind *kind)
{
    al_closure *self = PyObject_GC_New(al_closure, st->Closure_type);
    if (AL_UNLIKELY(self == NULL)) {
        return NULL;
    }
    memset((char *)self + offsetof(al_closure, vectorcall), 0,
           sizeof(al_closure) - offsetof(al_closure, vectorcall));
    self->vectorcall = closure_vectorcall;
    self->st = st;
    self->kind = kind;
    PyObject_GC_Track(self);
    return self;
}

/* The code of a function that a function makes.  New reference, or NULL. */
static PyObject *
inner_code(PyObject *function, const char *name)
{
    PyObject *constants =
        PyObject_GetAttrString(PyFunction_GET_CODE(function), "co_consts");
    PyObject *found = NULL;
    for (Py_ssize_t i = 0;
         found == NULL && constants != NULL && i < PyTuple_GET_SIZE(constants); i++) {
        PyObject *constant = PyTuple_GET_ITEM(constants, i);
        if (PyCode_Check(constant) &&
            is_named(((PyCodeObject *)constant)->co_name, name)) {
            found = Py_NewRef(constant);
        }
    }
    Py_XDECREF(constants);
    return found;
}

int
al_closure_find(al_state *st, int code, const char *function, const char *inner)
{
    PyObject *outer = PyDict_GetItemString(st->closures.globals, function);
    if (outer != NULL && al_origin_is_function(outer, "asyncio.tasks", function)) {
        st->closures.codes[code] = inner_code(outer, inner);
    }
    return PyErr_Occurred() ? -1 : 0;
}

int
al_closure_init_type(PyObject *module, al_state *st)
{
    st->closures.globals = Py_NewRef(PyModule_GetDict(st->asyncio_tasks));
    return al_state_add_type(module, &st->Closure_type, &closure_spec, NULL);
}
