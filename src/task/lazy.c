/* lazy.c: see lazy.h. */
#include "task/lazy.h"

#include <string.h>

#include "task/await.h"
#include "task/future.h"
#include "task/stop.h"

#if PY_VERSION_HEX >= 0x030F0000
enum { FRAME_IS_CLEARED = 5 };
#elif PY_VERSION_HEX >= 0x030E0000
enum { FRAME_IS_CLEARED = 4 };
#endif

const char *const al_lazy_state_names[] = {"not started", "running", "waiting", "done"};

/* --- waiting -------------------------------------------------------------------------- */

int
al_lazy_wait(al_lazy *op, PyObject **result)
{
    op->future = al_future_new(op->loop);
    if (op->future == NULL) {
        return -1;
    }
    op->waiter = Py_TYPE(op->future)->tp_as_async->am_await(op->future);
    if (op->waiter == NULL) {
        Py_CLEAR(op->future);
        return -1;
    }
    if (PyIter_Send(op->waiter, Py_None, result) != PYGEN_NEXT) {
        PyErr_SetString(PyExc_RuntimeError, "a new future is done");
        al_lazy_give_up(op);
        return -1;
    }
    op->started = true;
    return 0;
}

int
al_lazy_wait_for_steal(al_lazy *op, PyObject *future, PyObject **result)
{
    const al_state *st = PyType_GetModuleState(Py_TYPE(op));
    const PyAsyncMethods *methods = Py_TYPE(future)->tp_as_async;
    op->future = future;
    if (AL_LIKELY(al_future_exact(st, future) &&
                  ((al_future *)future)->state == AL_FUTURE_PENDING)) {
        /* What its iterator would do. */
        ((al_future *)future)->blocking = true;
        *result = Py_NewRef(future);
        op->started = true;
        return 0;
    }
    if (methods == NULL || methods->am_await == NULL) {
        PyErr_Format(PyExc_TypeError,
                     "object %.100s can't be used in 'await' expression",
                     Py_TYPE(future)->tp_name);
        return -1;
    }
    op->waiter = methods->am_await(future); /* escapes */
    if (op->waiter == NULL) {
        return -1;
    }
    PySendResult sent = PyIter_Send(op->waiter, Py_None, result); /* escapes */
    if (AL_LIKELY(sent == PYGEN_NEXT)) {
        op->started = true;
        return 0;
    }
    return sent == PYGEN_RETURN ? 1 : -1;
}

void
al_lazy_give_up(al_lazy *op)
{
    Py_CLEAR(op->waiter);
    Py_CLEAR(op->future);
}

/* The operation has not started yet: `future` holds where it was made, if anything. */
static void
forget_origin(al_lazy *op)
{
    if (AL_UNLIKELY(op->future != NULL)) {
        Py_CLEAR(op->future); /* escapes */
    }
}

/* Resumes the wait for the future.  As PyIter_Send.  Escapes. */
static PySendResult
resume(al_lazy *op, PyObject *value, PyObject **result)
{
    if (op->waiter != NULL) {
        return PyIter_Send(op->waiter, value, result); /* escapes */
    }
    al_future *future = (al_future *)op->future;
    if (AL_LIKELY(future->state == AL_FUTURE_FINISHED && future->exception == NULL &&
                  al_future_alive(future))) {
        *result = Py_NewRef(Py_None);
        return PYGEN_RETURN;
    }
    op->waiter = al_await_new(op->future);
    return op->waiter == NULL ? PYGEN_ERROR
                              : PyIter_Send(op->waiter, value, result); /* escapes */
}

static void
stop_waiting(al_lazy *op)
{
    if (op->future != NULL) {
        op->kind->woken(op); /* escapes */
        al_lazy_give_up(op); /* escapes */
    }
}

/* The wait ends by an exception, which is pending, and may be another one after it.
 * Escapes. */
static void
fail(al_lazy *op)
{
    if (op->future == NULL || op->kind->failed == NULL) {
        return;
    }
    PyObject *exc = al_err_take();
    op->kind->failed(op, &exc); /* escapes */
    al_lazy_give_up(op);        /* escapes */
    al_err_put_steal(exc);
}

/* What a coroutine makes of a StopIteration that would leave it, of the pending exception. */
static void
replace_stop_iteration(void)
{
    if (AL_LIKELY(!PyErr_ExceptionMatches(PyExc_StopIteration))) {
        return;
    }
    PyObject *stop = al_err_take();
    PyErr_SetString(PyExc_RuntimeError, "coroutine raised StopIteration");
    PyObject *exc = al_err_take();
    PyException_SetCause(exc, Py_NewRef(stop)); /* steals, like the next one */
    PyException_SetContext(exc, stop);
    al_err_put_steal(exc);
}

/* Ends the operation, whatever its state; keeps the pending exception.  Escapes. */
static void
finish(al_lazy *op)
{
    if (op->state == AL_LAZY_NEW) {
        forget_origin(op); /* escapes */
    }
    op->state = AL_LAZY_DONE;
    stop_waiting(op);
    op->kind->ended(op);
    Py_CLEAR(op->arg);
}

PySendResult
al_lazy_send(al_lazy *op, PyObject *value, PyObject **result)
{
    int status = 0;
    *result = NULL;
    AL_OWN(op->loop, PYGEN_ERROR);
    switch (op->state) {
    case AL_LAZY_NEW:
        if (value != Py_None) {
            PyErr_SetString(PyExc_TypeError,
                            "can't send non-None value to a just-started coroutine");
            return PYGEN_ERROR;
        }
        op->state = AL_LAZY_RUNNING;
        forget_origin(op); /* escapes */
        break;
    case AL_LAZY_WAITING: {
        op->state = AL_LAZY_RUNNING;
        if (op->future == NULL) {
            break; /* It has given way. */
        }
        PySendResult sent = resume(op, value, result); /* escapes */
        if (sent == PYGEN_NEXT) {
            op->state = AL_LAZY_WAITING;
            return PYGEN_NEXT;
        }
        status = 0;
        if (sent == PYGEN_ERROR) {
            status = -1;
            fail(op); /* escapes */
        }
        stop_waiting(op); /* escapes */
        Py_CLEAR(*result);
        break;
    }
    case AL_LAZY_RUNNING:
        PyErr_SetString(PyExc_ValueError, "coroutine already executing");
        return PYGEN_ERROR;
    default:
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
        return PYGEN_ERROR;
    }
    if (status == 0) {
        status = op->kind->step(op, result); /* escapes */
        if (status == 0) {
            op->state = AL_LAZY_WAITING;
            return PYGEN_NEXT;
        }
        if (status < 0) {
            fail(op); /* escapes */
        }
    }
    if (status < 0) {
        PyObject *exc = al_err_take();
        finish(op); /* escapes */
        al_err_put_steal(exc);
        return PYGEN_ERROR;
    }
    finish(op); /* escapes */
    return PYGEN_RETURN;
}

/* --- the methods of a coroutine ----------------------------------------------------------- */

PyObject *
al_lazy_iternext(al_lazy *op)
{
    PyObject *result;
    switch (al_lazy_send(op, Py_None, &result)) {
    case PYGEN_NEXT:
        return result;
    case PYGEN_RETURN:
        if (result == Py_None) {
            Py_DECREF(result);
            return NULL; /* tp_iternext may end without an exception. */
        }
        al_stop_raise_steal(PyType_GetModuleState(Py_TYPE(op)), result);
        return NULL;
    default:
        return NULL;
    }
}

PyDoc_STRVAR(send_doc, "send($self, value, /)\n--\n\n"
                       "Start or resume the operation: coroutine.send.");

static PyObject *
lazy_send(al_lazy *op, PyObject *value)
{
    PyObject *result;
    switch (al_lazy_send(op, value, &result)) {
    case PYGEN_NEXT:
        return result;
    case PYGEN_RETURN:
        al_stop_raise(result);
        Py_DECREF(result);
        return NULL;
    default:
        return NULL;
    }
}

PyDoc_STRVAR(throw_doc, "throw($self, type, value=None, traceback=None, /)\n--\n\n"
                        "End the operation with an exception: coroutine.throw.");

static PyObject *
lazy_throw(al_lazy *op, PyObject *const *args, Py_ssize_t nargs)
{
    AL_OWN(op->loop, NULL);
    PyObject *value = nargs > 1 && args[1] != Py_None ? args[1] : NULL;
    PyObject *traceback = nargs > 2 && args[2] != Py_None ? args[2] : NULL;
    if (nargs < 1 || nargs > 3) {
        PyErr_Format(PyExc_TypeError, "throw expected 1 to 3 arguments, got %zd",
                     nargs);
        return NULL;
    }
    if (traceback != NULL && !PyTraceBack_Check(traceback)) {
        PyErr_SetString(PyExc_TypeError,
                        "throw() third argument must be a traceback object");
        return NULL;
    }
    if (op->state == AL_LAZY_RUNNING) {
        PyErr_SetString(PyExc_ValueError, "coroutine already executing");
        return NULL;
    }
    if (op->state == AL_LAZY_DONE) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
        return NULL;
    }
    PyObject *type = args[0];
    if (PyExceptionInstance_Check(type)) {
        if (value != NULL) {
            PyErr_SetString(PyExc_TypeError,
                            "instance exception may not have a separate value");
            return NULL;
        }
        value = type;
        type = (PyObject *)Py_TYPE(value);
    }
    else if (!PyExceptionClass_Check(type)) {
        PyErr_Format(PyExc_TypeError,
                     "exceptions must be classes or instances deriving from "
                     "BaseException, not %s",
                     Py_TYPE(type)->tp_name);
        return NULL;
    }
    Py_INCREF(type);
    Py_XINCREF(value);
    Py_XINCREF(traceback);
    if (op->kind->failed == NULL || op->state == AL_LAZY_NEW) {
        finish(op); /* escapes */
        PyErr_Restore(type, value, traceback);
        replace_stop_iteration();
        return NULL;
    }
    op->state = AL_LAZY_RUNNING;
    PyErr_Restore(type, value, traceback);
    fail(op); /* escapes */
    replace_stop_iteration();
    PyObject *exc = al_err_take();
    finish(op); /* escapes */
    al_err_put_steal(exc);
    return NULL;
}

/* Whoever waits gets GeneratorExit.  0, or -1 with what came of that.  Escapes. */
static int
close_waiting(al_lazy *op)
{
    if (op->kind->failed == NULL || op->state != AL_LAZY_WAITING) {
        return 0;
    }
    op->state = AL_LAZY_RUNNING;
    PyErr_SetNone(PyExc_GeneratorExit);
    fail(op); /* escapes */
    if (PyErr_ExceptionMatches(PyExc_GeneratorExit) ||
        PyErr_ExceptionMatches(PyExc_StopIteration)) {
        PyErr_Clear(); /* As coroutine.close() does. */
        return 0;
    }
    return -1;
}

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\n"
                        "Give the operation up: coroutine.close.");

static PyObject *
lazy_close(al_lazy *op, PyObject *Py_UNUSED(ignored))
{
    AL_OWN(op->loop, NULL);
    if (op->state == AL_LAZY_RUNNING) {
        PyErr_SetString(PyExc_ValueError, "coroutine already executing");
        return NULL;
    }
    int status = close_waiting(op); /* escapes */
    PyObject *exc = status < 0 ? al_err_take() : NULL;
    finish(op); /* escapes */
    if (status < 0) {
        al_err_put_steal(exc);
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *
al_lazy_await(PyObject *op)
{
    return Py_NewRef(op);
}

static PyObject *
get_name(al_lazy *op, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(op->name);
}

static PyObject *
get_qualname(al_lazy *op, void *Py_UNUSED(closure))
{
    return op->kind->owner == NULL
               ? PyUnicode_FromString(op->name)
               : PyUnicode_FromFormat("%s.%s", op->kind->owner, op->name);
}

/* asyncio's function of the same name: new reference; or NULL without an exception. */
static PyObject *
asyncios_function(al_lazy *op)
{
    const char *st = PyType_GetModuleState(Py_TYPE(op));
    PyObject *owner = *(PyObject *const *)(const void *)(st + op->kind->owner_in_state);
    PyObject *function = PyObject_GetAttrString(owner, op->name);
    if (function != NULL && !PyFunction_Check(function)) {
        /* What C has put in its place has it still. */
        Py_SETREF(function, PyObject_GetAttrString(function, "__wrapped__"));
    }
    if (function == NULL || !PyFunction_Check(function)) {
        PyErr_Clear(); /* Somebody has put something else there. */
        Py_CLEAR(function);
    }
    return function;
}

static PyObject *
get_class(al_lazy *Py_UNUSED(op), void *Py_UNUSED(closure))
{
    return Py_NewRef((PyObject *)&PyCoro_Type);
}

#if PY_VERSION_HEX >= 0x030F0000
static PyObject *
get_state(al_lazy *op, void *Py_UNUSED(closure))
{
    static const char *const states[] = {"CORO_CREATED", "CORO_RUNNING",
                                         "CORO_SUSPENDED", "CORO_CLOSED"};
    return PyUnicode_InternFromString(states[op->state]);
}
#endif

static PyObject *
get_running(al_lazy *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(op->state == AL_LAZY_RUNNING);
}

static PyObject *
get_suspended(al_lazy *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(op->state == AL_LAZY_WAITING);
}

static PyObject *
get_await(al_lazy *op, void *Py_UNUSED(closure))
{
    if (op->waiter == NULL && op->future != NULL && op->state == AL_LAZY_WAITING) {
        op->waiter = al_await_new(op->future);
        if (op->waiter == NULL) {
            return NULL;
        }
    }
    return Py_NewRef(op->waiter == NULL ? Py_None : op->waiter);
}

static PyObject *
get_code(al_lazy *op, void *Py_UNUSED(closure))
{
    PyObject *function = asyncios_function(op);
    PyObject *code = function == NULL ? Py_None : PyFunction_GET_CODE(function);
    Py_INCREF(code);
    Py_XDECREF(function);
    return code;
}

/* A frame that stands at the function's first line; None once the operation is over. */
static PyObject *
get_frame(al_lazy *op, void *Py_UNUSED(closure))
{
    PyObject *function = op->state == AL_LAZY_DONE ? NULL : asyncios_function(op);
    if (function == NULL) {
        Py_RETURN_NONE;
    }
    PyFrameObject *frame =
        PyFrame_New(PyThreadState_Get(), (PyCodeObject *)PyFunction_GET_CODE(function),
                    PyFunction_GET_GLOBALS(function), NULL);
    Py_DECREF(function);
    return (PyObject *)frame;
}

/* A coroutine has it for as long as it lives; this one until it starts. */
static PyObject *
get_origin(al_lazy *op, void *Py_UNUSED(closure))
{
    return op->state != AL_LAZY_NEW || op->future == NULL ? Py_NewRef(Py_None)
                                                          : al_stack_origin(op->future);
}

PyMethodDef al_lazy_methods[] = {
    {"send", (PyCFunction)lazy_send, METH_O, send_doc},
    {"throw", (PyCFunction)(void (*)(void))lazy_throw, METH_FASTCALL, throw_doc},
    {"close", (PyCFunction)lazy_close, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

PyGetSetDef al_lazy_getsets[] = {
    {"__name__", (getter)get_name, NULL, NULL, NULL},
    {"__qualname__", (getter)get_qualname, NULL, NULL, NULL},
    {"__class__", (getter)get_class, NULL, NULL, NULL},
#if PY_VERSION_HEX >= 0x030F0000
    {"cr_state", (getter)get_state, NULL, NULL, NULL},
#endif
    {"cr_running", (getter)get_running, NULL, NULL, NULL},
    {"cr_suspended", (getter)get_suspended, NULL, NULL, NULL},
    {"cr_await", (getter)get_await, NULL, NULL, NULL},
    {"cr_code", (getter)get_code, NULL, NULL, NULL},
    {"cr_frame", (getter)get_frame, NULL, NULL, NULL},
    {"cr_origin", (getter)get_origin, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyMemberDef al_lazy_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(al_lazy, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

/* --- life ------------------------------------------------------------------------------- */

al_lazy *
al_lazy_alloc(al_free_list *list, PyTypeObject *type, al_loop *loop,
              const al_lazy_kind *kind, const char *name)
{
    al_lazy *op = (al_lazy *)list->first;
    if (op != NULL) {
        list->first = op->arg;
        list->count--;
        op->arg = NULL;
        (void)PyObject_Init((PyObject *)op, type);
        Py_DECREF(type); /* The object in the list had a reference. */
    }
    else {
        op = PyObject_GC_New(al_lazy, type);
        if (op == NULL) {
            return NULL;
        }
        memset((char *)op + sizeof(PyObject), 0,
               (size_t)type->tp_basicsize - sizeof(PyObject));
#if PY_VERSION_HEX >= 0x030E0000
        op->frame_state[3] = FRAME_IS_CLEARED;
#endif
    }
    op->loop = (al_loop *)Py_XNewRef((PyObject *)loop);
    op->kind = kind;
    op->name = name;
    op->state = AL_LAZY_NEW;
    op->started = op->cleared = false;
    if (loop != NULL && AL_UNLIKELY(AL_LOAD(loop->debug.switches) & AL_DEBUG_ORIGINS)) {
        op->future = al_debug_capture_origin(loop); /* escapes */
        if (op->future == NULL) {
            PyErr_Clear(); /* MemoryError: the operation is worth more. */
        }
    }
    return op;
}

int
al_lazy_traverse(al_lazy *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(op->loop);
    Py_VISIT(op->subject);
    Py_VISIT(op->arg);
    Py_VISIT(op->waiter);
    Py_VISIT(op->future);
    return 0;
}

int
al_lazy_clear(al_lazy *op)
{
    op->cleared = true;
    if (AL_UNLIKELY(op->state != AL_LAZY_DONE)) {
        PyObject *pending = al_err_take();
        finish(op);
        al_err_put_steal(pending);
    }
    Py_CLEAR(op->subject);
    Py_CLEAR(op->loop);
    return 0;
}

/* As the interpreter does for a coroutine.  0 or -1. */
static int
warn(al_lazy *op)
{
    const al_state *st = PyType_GetModuleState(Py_TYPE(op));
    PyObject *function =
        PyObject_GetAttr(st->warnings, st->str._warn_unawaited_coroutine);
    if (function == NULL) {
        PyErr_Clear(); /* The interpreter is going. */
        return PyErr_WarnFormat(
            PyExc_RuntimeWarning, 1, "coroutine '%s%s%s' was never awaited",
            op->kind->owner == NULL ? "" : op->kind->owner,
            op->kind->owner == NULL ? "" : ".", op->name); /* escapes */
    }
    PyObject *done = PyObject_CallOneArg(function, (PyObject *)op); /* escapes */
    Py_DECREF(function);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

void
al_lazy_finalize(PyObject *self)
{
    al_lazy *op = (al_lazy *)self;
    bool waits = op->state == AL_LAZY_WAITING && op->kind->failed != NULL;
    if ((op->state != AL_LAZY_NEW && !waits) || op->cleared) {
        return;
    }
    PyObject *pending = al_err_take();
    if (waits) {
        if (close_waiting(op) < 0) { /* escapes */
            PyErr_WriteUnraisable(self);
        }
        finish(op); /* escapes */
    }
    else if (warn(op) < 0) { /* escapes */
        PyErr_WriteUnraisable(self);
    }
    if (op->state == AL_LAZY_NEW) {
        finish(op); /* escapes */
    }
    al_err_put_steal(pending);
}

void
al_lazy_dealloc(al_lazy *op, al_free_list *list)
{
    PyTypeObject *type = Py_TYPE(op);
    bool plain = op->state == AL_LAZY_DONE && !op->cleared &&
                 !PyObject_GC_IsFinalized((PyObject *)op);
    if ((op->state == AL_LAZY_NEW ||
         (op->state == AL_LAZY_WAITING && op->kind->failed != NULL)) &&
        PyObject_CallFinalizerFromDealloc((PyObject *)op) < 0) {
        return; /* Resurrected. */
    }
    PyObject_GC_UnTrack(op);
    if (op->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)op);
    }
    (void)al_lazy_clear(op); /* escapes */
    if (plain && list != NULL && list->count < AL_FREELIST_MAX) {
        op->arg = list->first;
        list->first = (PyObject *)op;
        list->count++;
        return; /* It keeps its reference to the type. */
    }
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

void
al_lazy_clear_list(al_free_list *list)
{
    while (list->first != NULL) {
        al_lazy *op = (al_lazy *)list->first;
        PyTypeObject *type = Py_TYPE(op);
        list->first = op->arg;
        PyObject_GC_Del(op);
        Py_DECREF(type);
    }
    list->count = 0;
}

int
al_lazy_mark_function(PyObject *function)
{
#if PY_VERSION_HEX >= 0x030C0000
    PyObject *inspect = PyImport_ImportModule("inspect");
    PyObject *done =
        inspect == NULL
            ? NULL
            : PyObject_CallMethod(inspect, "markcoroutinefunction", "O", function);
    Py_XDECREF(inspect);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
#else
    PyObject *module = PyImport_ImportModule("asyncio.coroutines");
    PyObject *mark =
        module == NULL ? NULL : PyObject_GetAttrString(module, "_is_coroutine");
    int status =
        mark == NULL ? -1 : PyObject_SetAttrString(function, "_is_coroutine", mark);
    Py_XDECREF(module);
    Py_XDECREF(mark);
    return status;
#endif
}
