/* await.c: see await.h. */
#include "task/await.h"

#include "base/check.h"
#include "task/future.h"
#include "task/stop.h"

typedef struct {
    PyObject_HEAD
    PyObject *future; /* NULL once the iterator is closed or finished */
} al_await;

PyObject *
al_await_new(PyObject *future)
{
    al_future *target = (al_future *)future;
    if (!al_future_alive(target)) {
        PyErr_SetString(PyExc_RuntimeError, "Future object is not initialized.");
        return NULL;
    }
    al_state *st = al_future_state(target);
    al_await *self = (al_await *)st->free_iters;
    if (self != NULL) {
        st->free_iters = self->future;
        st->free_iter_count--;
        _Py_NewReference((PyObject *)self);
    }
    else {
        self = PyObject_GC_New(al_await, st->FutureIter_type);
        if (self == NULL) {
            return NULL;
        }
    }
    self->future = Py_NewRef(future);
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static int
await_clear(al_await *self)
{
    Py_CLEAR(self->future);
    return 0;
}

static int
await_traverse(al_await *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->future);
    return 0;
}

static void
await_dealloc(al_await *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->future); /* escapes */
    al_state *st = PyType_GetModuleState(type);
    if (st->free_iter_count < AL_FREELIST_MAX) {
        self->future = st->free_iters;
        st->free_iters = (PyObject *)self;
        st->free_iter_count++;
        return;
    }
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

void
al_await_clear_free_list(al_state *st)
{
    while (st->free_iters != NULL) {
        al_await *self = (al_await *)st->free_iters;
        PyTypeObject *type = Py_TYPE(self);
        st->free_iters = self->future;
        PyObject_GC_Del(self);
        Py_DECREF(type);
    }
    st->free_iter_count = AL_FREELIST_MAX;
}

/* One turn: PYGEN_NEXT with the future, PYGEN_RETURN with its result (borrowed from the
 * future, which the iterator still holds), or PYGEN_ERROR. */
static PySendResult
turn(al_await *self, PyObject **value)
{
    if (AL_UNLIKELY(self->future == NULL)) {
        /* Closed or thrown into: a finished generator. */
        *value = Py_None;
        return PYGEN_RETURN;
    }
    al_future *future = (al_future *)self->future;
    if (future->state == AL_FUTURE_PENDING) {
        if (AL_LIKELY(!future->blocking)) {
            future->blocking = true;
            *value = self->future;
            return PYGEN_NEXT;
        }
        PyErr_SetString(PyExc_RuntimeError, "await wasn't used with future");
        return PYGEN_ERROR;
    }
    if (AL_UNLIKELY(!al_future_alive(future))) {
        PyErr_SetString(al_future_state(future)->InvalidStateError,
                        "Future object is not initialized.");
        return PYGEN_ERROR;
    }
    PyObject *exc;
    int outcome = al_future_outcome(future, &exc);
    if (AL_LIKELY(outcome == 0)) {
        *value = future->result;
        return PYGEN_RETURN;
    }
    if (outcome > 0) {
        PyErr_SetObject(PyExceptionInstance_Class(exc), exc);
        Py_DECREF(exc);
    }
    return PYGEN_ERROR;
}

static PySendResult
await_am_send(PyObject *op, PyObject *Py_UNUSED(sent), PyObject **result)
{
    PySendResult status = turn((al_await *)op, result);
    if (status == PYGEN_ERROR) {
        *result = NULL;
    }
    else {
        Py_INCREF(*result);
    }
    return status;
}

static PyObject *
await_iternext(al_await *self)
{
    PyObject *value;
    switch (turn(self, &value)) {
    case PYGEN_NEXT:
        return Py_NewRef(value);
    case PYGEN_RETURN:
        if (value != Py_None) {
            al_stop_raise_steal(PyType_GetModuleState(Py_TYPE(self)), Py_NewRef(value));
        }
        return NULL;
    default:
        return NULL;
    }
}

PyDoc_STRVAR(send_doc, "send($self, value, /)\n--\n\n"
                       "Do one turn; the value is ignored, as a future takes none.");

static PyObject *
FutureIter_send(al_await *self, PyObject *Py_UNUSED(value))
{
    PyObject *value;
    switch (turn(self, &value)) {
    case PYGEN_NEXT:
        return Py_NewRef(value);
    case PYGEN_RETURN:
        Py_INCREF(value);
        al_stop_raise(value);
        Py_DECREF(value);
        return NULL;
    default:
        return NULL;
    }
}

PyDoc_STRVAR(throw_doc, "throw($self, typ, val=None, tb=None, /)\n--\n\n"
                        "Raise the exception and forget the future.");

/* Mirrors the throw() of asyncio's iterator, which takes generators' arguments. */
static PyObject *
FutureIter_throw(al_await *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 3) {
        PyErr_Format(PyExc_TypeError, "throw expected at %s %d argument%s, got %zd",
                     nargs < 1 ? "least" : "most", nargs < 1 ? 1 : 3,
                     nargs < 1 ? "" : "s", nargs);
        return NULL;
    }
#if PY_VERSION_HEX >= 0x030C0000
    if (nargs > 1 &&
        PyErr_WarnEx(PyExc_DeprecationWarning,
                     "the (type, exc, tb) signature of throw() is deprecated, "
                     "use the single-arg signature instead.",
                     1) < 0) {
        return NULL;
    }
#endif
    PyObject *type = args[0];
    PyObject *value = nargs > 1 && args[1] != Py_None ? args[1] : NULL;
    PyObject *traceback = nargs > 2 && args[2] != Py_None ? args[2] : NULL;
    if (traceback != NULL && !PyTraceBack_Check(traceback)) {
        PyErr_SetString(PyExc_TypeError, "throw() third argument must be a traceback");
        return NULL;
    }
    if (PyExceptionInstance_Check(type)) {
        if (value != NULL) {
            PyErr_SetString(PyExc_TypeError,
                            "instance exception may not have a separate value");
            return NULL;
        }
        value = Py_NewRef(type);
        type = Py_NewRef(PyExceptionInstance_Class(value));
        traceback =
            traceback != NULL ? Py_NewRef(traceback) : PyException_GetTraceback(value);
    }
    else if (PyExceptionClass_Check(type)) {
        Py_INCREF(type);
        Py_XINCREF(value);
        Py_XINCREF(traceback);
        PyErr_NormalizeException(&type, &value, &traceback); /* escapes */
    }
    else {
        PyErr_SetString(PyExc_TypeError,
                        "exceptions must be classes deriving BaseException or "
                        "instances of such a class");
        return NULL;
    }
    Py_CLEAR(self->future); /* escapes */
    PyErr_Restore(type, value, traceback);
    return NULL;
}

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\nForget the future.");

static PyObject *
FutureIter_close(al_await *self, PyObject *Py_UNUSED(ignored))
{
    Py_CLEAR(self->future); /* escapes */
    Py_RETURN_NONE;
}

static PyMethodDef await_methods[] = {
    {"send", (PyCFunction)FutureIter_send, METH_O, send_doc},
    {"throw", (PyCFunction)(void (*)(void))FutureIter_throw, METH_FASTCALL, throw_doc},
    {"close", (PyCFunction)FutureIter_close, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot await_slots[] = {
    {Py_tp_dealloc, await_dealloc},   {Py_tp_traverse, await_traverse},
    {Py_tp_clear, await_clear},       {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, await_iternext}, {Py_am_send, await_am_send},
    {Py_tp_methods, await_methods},   {0, NULL},
};

static PyType_Spec await_spec = {
    .name = "aioloop.FutureIter",
    .basicsize = sizeof(al_await),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = await_slots,
};

int
al_await_init_types(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->FutureIter_type, &await_spec, NULL);
}
