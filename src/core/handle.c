/* handle.c: see handle.h. */
#include "core/handle.h"

#include "base/layout.h"
#include "core/context.h"
#include "core/debug.h"
#include "core/report.h"
#include "core/sched.h"
#include "core/stack.h"
#include "core/standin.h"

/* Bursts of thousands of callbacks are common; this keeps half a megabyte at most. */
enum { FREE_HANDLES_MAX = 4 * AL_FREELIST_MAX };

/* --- making and freeing ------------------------------------------------------- */

static int
free_list_of(const al_state *st, const PyTypeObject *type)
{
    return type == st->TimerHandle_type ? 1 : type == st->ThreadSafeHandle_type ? 2 : 0;
}

static al_handle *
handle_alloc(al_state *st, PyTypeObject *type)
{
    int list = free_list_of(st, type);
    al_handle *handle = st->free_handles[list];
    if (handle != NULL) {
        st->free_handles[list] = (al_handle *)(void *)handle->unused;
        st->free_handle_count[list]--;
        _Py_NewReference((PyObject *)handle);
        /* handle_clear left every object field NULL. */
        handle->unused = NULL;
        handle->one_arg = handle->cancelled = handle->text_kept = false;
        handle->scheduled = handle->foreign = false;
        return handle;
    }
    handle = PyObject_GC_New(al_handle, type);
    if (handle != NULL) {
        memset((char *)handle + sizeof(PyObject), 0,
               (size_t)type->tp_basicsize - sizeof(PyObject));
    }
    return handle;
}

static int
handle_clear(al_handle *self)
{
    Py_CLEAR(self->args);
    Py_CLEAR(self->callback);
    Py_CLEAR(self->context);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->repr);
    Py_CLEAR(self->source_traceback);
    Py_CLEAR(self->unused);
    Py_CLEAR(self->when_object);
    Py_CLEAR(self->unused_timer);
    return 0;
}

static int
handle_visit_fields(al_handle *self, visitproc visit, void *arg)
{
    Py_VISIT(self->args);
    Py_VISIT(self->callback);
    Py_VISIT(self->context);
    Py_VISIT(self->loop);
    Py_VISIT(self->repr);
    Py_VISIT(self->source_traceback);
    Py_VISIT(self->unused);
    Py_VISIT(self->when_object);
    Py_VISIT(self->unused_timer);
    return 0;
}

static int
handle_traverse(al_handle *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return handle_visit_fields(self, visit, arg);
}

int
al_handle_traverse_queued(al_handle *handle, visitproc visit, void *arg)
{
    /* With another holder its referents must not be charged to the loop alone. */
    if (Py_REFCNT(handle) == 1 && !PyObject_GC_IsTracked((PyObject *)handle)) {
        return handle_visit_fields(handle, visit, arg);
    }
    return visit((PyObject *)handle, arg);
}

/* Into the free list of its type, or back to Python. */
static void
handle_free(al_handle *self, PyTypeObject *type)
{
    al_state *st = PyType_GetModuleState(type);
    int list = free_list_of(st, type);
    if (list == 2) {
        al_threadsafe_handle *threadsafe = (al_threadsafe_handle *)self;
        if (threadsafe->finished != NULL) {
            PyThread_free_lock(threadsafe->finished);
            threadsafe->finished = NULL;
        }
    }
    if (st->free_handle_count[list] < FREE_HANDLES_MAX) {
        self->unused = (PyObject *)(void *)st->free_handles[list];
        st->free_handles[list] = self;
        st->free_handle_count[list]++;
        return;
    }
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

/* In a trashcan: each callback of a long chain may hold the handle of the one before. */
static void
handle_dealloc(al_handle *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(
        self,
        handle_dealloc) if (*(PyObject **)(void *)((char *)self +
                                                   type->tp_weaklistoffset) != NULL)
    {
        PyObject_ClearWeakRefs((PyObject *)self); /* escapes */
    }
    (void)handle_clear(self); /* escapes */
    handle_free(self, type);
    Py_TRASHCAN_END
}

void
al_handle_clear_free_lists(al_state *st)
{
    for (int kind = 0; kind < 3; kind++) {
        while (st->free_handles[kind] != NULL) {
            al_handle *handle = st->free_handles[kind];
            PyTypeObject *type = Py_TYPE(handle);
            st->free_handles[kind] = (al_handle *)(void *)handle->unused;
            PyObject_GC_Del(handle);
            Py_DECREF(type);
        }
        /* Types that die later free their last instances directly. */
        st->free_handle_count[kind] = FREE_HANDLES_MAX;
    }
}

static PyObject *
handle_tp_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
              PyObject *Py_UNUSED(kwargs))
{
    al_handle *self = handle_alloc(PyType_GetModuleState(type), type);
    if (self != NULL) {
        self->foreign = true;
        PyObject_GC_Track(self);
    }
    return (PyObject *)self; /* asyncio's __init__ fills it */
}

al_handle *
al_handle_new(al_loop *loop, PyTypeObject *type, PyObject *callback,
              PyObject *const *args, Py_ssize_t nargs, PyObject *context)
{
    al_handle *self = handle_alloc(loop->st, type);
    if (self == NULL) {
        return NULL;
    }
    self->callback = Py_NewRef(callback);
    self->loop = Py_NewRef((PyObject *)loop);
    if (nargs == 1) {
        self->args = Py_NewRef(args[0]);
        self->one_arg = true;
    }
    else if (nargs > 1) {
        PyObject *tuple = PyTuple_New(nargs);
        if (tuple == NULL) {
            goto error;
        }
        for (Py_ssize_t i = 0; i < nargs; i++) {
            PyTuple_SET_ITEM(tuple, i, Py_NewRef(args[i]));
        }
        self->args = tuple;
    }
    if (context != NULL && context != Py_None) {
        self->context = Py_NewRef(context);
    }
    else if (!al_context_current_is_empty()) {
        self->context = PyContext_CopyCurrent();
        if (self->context == NULL) {
            goto error;
        }
    }
    if (AL_UNLIKELY(AL_LOAD(loop->debug.switches) & AL_DEBUG_TRACEBACKS)) {
        self->source_traceback = al_debug_capture_handle(loop); /* escapes */
        if (self->source_traceback == NULL) {
            goto error;
        }
    }
    if (AL_UNLIKELY(AL_LOAD(loop->thread_id) == 0 || al_inbox_is_outside(loop))) {
        PyObject_GC_Track(self);
    }
    return self;

error:
    Py_DECREF(self);
    return NULL;
}

al_handle *
al_handle_make(al_loop *loop, PyObject *callback, PyObject *args, PyObject *context,
               PyObject *stack)
{
    al_handle *self = handle_alloc(loop->st, loop->st->Handle_type);
    if (self == NULL) {
        return NULL;
    }
    self->callback = Py_NewRef(callback);
    self->loop = Py_NewRef((PyObject *)loop);
    self->args = Py_XNewRef(args);
    self->context = context != NULL ? Py_NewRef(context) : PyContext_CopyCurrent();
    self->source_traceback = Py_XNewRef(stack);
    PyObject_GC_Track(self);
    if (self->context == NULL) {
        Py_CLEAR(self);
    }
    return self;
}

/* --- running ------------------------------------------------------------------- */

static PyObject *handle_get_args(al_handle *self, void *closure);

int
al_handle_run(al_loop *loop, PyObject *op, PyObject *Py_UNUSED(arg),
              PyObject *Py_UNUSED(extra))
{
    al_handle *self = (al_handle *)op;
    if (AL_LOAD(self->cancelled)) {
        al_handle_left_queue(self);
        return 0;
    }
    if (AL_UNLIKELY(loop->overrides.handle_run)) {
        al_sched_settle(loop);
        PyObject *ran = PyObject_CallMethodNoArgs(op, loop->st->str._run); /* escapes */
        al_handle_left_queue(self);
        Py_XDECREF(ran);
        return ran == NULL ? -1 : 0;
    }
    if (AL_UNLIKELY(self->callback == NULL)) {
        PyErr_SetString(PyExc_TypeError, "'NoneType' object is not callable");
        return al_report_handle(loop, self);
    }
    /* cancel() called from inside the callback drops these. */
    PyObject *callback = Py_NewRef(self->callback);
    PyObject *args = Py_XNewRef(self->args);
    bool one_arg = self->one_arg;
    bool lent = self->context == NULL;
    PyObject *result = NULL;
    PyObject *entered = al_context_enter_idle(loop, self->context);

    if (AL_UNLIKELY(entered == NULL && lent)) {
        Py_DECREF(callback);
        Py_XDECREF(args);
        return al_sched_put_back(loop,
                                 Py_IS_TYPE(op, loop->st->ThreadSafeHandle_type)
                                     ? al_handle_run_threadsafe
                                     : al_handle_run,
                                 op, NULL, NULL);
    }
    if (AL_LIKELY(entered != NULL)) {
        if (args == NULL) {
            result = PyObject_CallNoArgs(callback); /* escapes */
        }
        else if (one_arg) {
            result = PyObject_CallOneArg(callback, args); /* escapes */
        }
        else {
            result = PyObject_CallObject(callback, args); /* escapes */
        }
        bool spare = lent && al_context_unused(entered, 2);
        if (AL_UNLIKELY(lent && !spare && self->context == NULL)) {
            /* The callback set variables in it, or somebody holds it. */
            self->context = Py_NewRef(entered);
        }
        if (AL_UNLIKELY(al_context_leave_idle_steal(loop, PyThreadState_Get(), entered,
                                                    spare, false) < 0)) {
            Py_CLEAR(result);
        }
    }
    else if (al_context_is_foreign(self->context)) {
        PyObject *context = Py_NewRef(self->context);
        PyObject *tuple = handle_get_args(self, NULL);
        if (tuple != NULL && al_context_run(context, callback, tuple) == 0) {
            result = Py_NewRef(Py_None);
        } /* escapes */
        Py_XDECREF(tuple);
        Py_DECREF(context);
    }
    int status = 0;
    if (AL_UNLIKELY(result == NULL)) {
        status = al_report_handle(loop, self);
    }
    else {
        Py_DECREF(result);
    }
    Py_DECREF(callback);
    Py_XDECREF(args);
    al_handle_left_queue(self);
    return status;
}

int
al_handle_run_foreign(al_loop *loop, PyObject *self, PyObject *Py_UNUSED(arg),
                      PyObject *Py_UNUSED(extra))
{
    PyObject *cancelled = PyObject_GetAttrString(self, "_cancelled");
    int dead = cancelled == NULL ? -1 : PyObject_IsTrue(cancelled);
    Py_XDECREF(cancelled);
    if (dead != 0) {
        return dead < 0 ? -1 : 0;
    }
    PyObject *result =
        PyObject_CallMethodNoArgs(self, loop->st->str._run); /* escapes */
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* --- the text of a cancelled handle ---------------------------------------------- */

/* In debug mode a cancelled handle is shown as it was, though its callback and arguments
 * are gone (asyncio keeps the text).  Most are never shown: where it needs nothing that
 * could change or that somebody would miss, `repr`, `unused` and `unused_timer` hold the
 * callback's name, its code (NULL: the text tells no place) and arguments until then. */

static bool
is_atom(PyObject *obj)
{
    return PyUnicode_CheckExact(obj) || PyLong_CheckExact(obj) || obj == Py_None ||
           PyFloat_CheckExact(obj) || PyBool_Check(obj) || PyBytes_CheckExact(obj);
}

/* The arguments as a tuple if they are all atoms.  New reference, or NULL. */
static PyObject *
atoms_of(const al_handle *self)
{
    if (self->one_arg) {
        return is_atom(self->args) ? PyTuple_Pack(1, self->args) : NULL;
    }
    for (Py_ssize_t i = 0; self->args != NULL && i < PyTuple_GET_SIZE(self->args);
         i++) {
        if (!is_atom(PyTuple_GET_ITEM(self->args, i))) {
            return NULL;
        }
    }
    return self->args == NULL ? PyTuple_New(0) : Py_NewRef(self->args);
}

/* Keeps what the text will be made of, if that is possible: 1, or 0; or -1 with
 * MemoryError. */
static int
keep_text(al_handle *self, const al_state *st, const al_loop *loop)
{
    PyObject *callback = self->callback;
    bool bound = callback != NULL && PyMethod_Check(callback);
    if (bound) {
        callback = PyMethod_GET_FUNCTION(callback);
    }
    if (loop == NULL || callback == NULL || !PyFunction_Check(callback) ||
        !al_handle_check(st, (PyObject *)self) || self->repr != NULL) {
        return 0;
    }
    const PyFunctionObject *function = (PyFunctionObject *)callback;
    /* Whoever asks for asyncio's debug mode is shown the arguments. */
    bool show = (AL_LOAD(loop->debug.switches) & AL_DEBUG_FDS) != 0;
    if (function->func_dict != NULL || /* It may say that it wraps another. */
        PyUnicode_GET_LENGTH(function->func_qualname) == 0) {
        return 0;
    }
    PyObject *args = show ? atoms_of(self) : NULL;
    if (show && args == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    self->repr = Py_NewRef(function->func_qualname);
    self->unused = bound ? NULL : Py_NewRef(function->func_code);
    self->unused_timer = args;
    self->text_kept = true;
    return 1;
}

/* A function of that name, or a method if there is no code. */
static PyObject *
stand_in(PyObject *name, PyObject *code)
{
    PyObject *any =
        code == NULL ? (PyObject *)PyCode_NewEmpty("", "", 0) : Py_NewRef(code);
    PyObject *globals = any == NULL ? NULL : PyDict_New();
    PyObject *function =
        globals == NULL ? NULL : PyFunction_NewWithQualName(any, globals, name);
    Py_XDECREF(globals);
    Py_XDECREF(any);
    if (function != NULL && code == NULL) {
        Py_SETREF(function, PyMethod_New(function, Py_None));
    }
    return function;
}

/* Makes the text of what keep_text kept: asyncio's own __repr__ does, which is shown
 * what stands in for the callback.  0 or -1. */
static int
make_text(al_handle *self)
{
    PyObject *callback = stand_in(self->repr, self->unused);
    if (callback == NULL) {
        return -1;
    }
    self->text_kept = false;
    self->callback = callback;
    self->args = self->unused_timer;
    self->unused_timer = NULL;
    Py_CLEAR(self->repr);
    Py_CLEAR(self->unused);
    PyObject *text = PyObject_Repr((PyObject *)self); /* escapes */
    callback = self->callback;
    PyObject *args = self->args;
    self->callback = self->args = NULL;
    self->one_arg = false;
    Py_XDECREF(callback);
    Py_XDECREF(args);
    Py_XSETREF(self->repr, text);
    return text == NULL ? -1 : 0;
}

/* --- cancelling ---------------------------------------------------------------- */

void
al_handle_timer_cancelled(al_handle *timer)
{
    al_state *st = PyType_GetModuleState(Py_TYPE(timer));
    al_loop *loop = timer->loop == NULL ? NULL : al_loop_check(st, timer->loop);
    if (loop != NULL && timer->scheduled && !timer->foreign) {
        al_timers_cancelled(&loop->timers, timer);
    }
}

static void
drop_callback(al_handle *self)
{
    PyObject *callback = self->callback, *args = self->args;
    self->callback = self->args = NULL;
    self->one_arg = false;
    Py_XDECREF(callback); /* escapes */
    Py_XDECREF(args);
}

/* The rest of what another thread's cancel() has begun (an al_run_fn). */
static int
finish_cancel(al_loop *loop, PyObject *op, PyObject *Py_UNUSED(arg),
              PyObject *Py_UNUSED(extra))
{
    al_handle *self = (al_handle *)op;
    if (self->scheduled && !self->foreign) {
        al_timers_cancelled(&loop->timers, self);
    }
    drop_callback(self); /* escapes */
    return 0;
}

/* Mirrors asyncio.events.Handle.cancel and TimerHandle.cancel. */
static int
cancel_in_turn(al_state *st, al_handle *self)
{
    al_loop *loop = self->loop == NULL ? NULL : al_loop_check(st, self->loop);
    AL_HOLD(own, loop);
    if (AL_UNLIKELY(own.foreign)) {
        /* The thread that runs the loop may just be running it. */
        bool before = AL_LOAD(self->cancelled);
        AL_STORE(self->cancelled, true);
        return before ? 0
                      : al_inbox_push_steal(loop, finish_cancel,
                                            Py_NewRef((PyObject *)self), NULL, NULL);
    }
    if (Py_IS_TYPE((PyObject *)self, st->TimerHandle_type) && !self->cancelled) {
        if (loop != NULL && !self->foreign) {
            if (self->scheduled) {
                al_timers_cancelled(&loop->timers, self);
            }
        }
        else if (self->loop != NULL) {
            PyObject *result = PyObject_CallMethodOneArg(
                self->loop, st->str._timer_handle_cancelled, (PyObject *)self);
            if (result == NULL) {
                return -1;
            }
            Py_DECREF(result);
        }
    }
    if (self->cancelled) {
        return 0;
    }
    AL_STORE(self->cancelled, true);
    int debug = loop != NULL
                    ? (AL_LOAD(loop->debug.switches) & AL_DEBUG_TRACEBACKS) != 0
                    : al_debug_of_loop(st, self->loop);
    if (debug < 0) {
        return -1;
    }
    int kept = debug ? keep_text(self, st, loop) : 1;
    if (kept < 0) {
        return -1;
    }
    if (!kept) {
        PyObject *repr = PyObject_Repr((PyObject *)self); /* escapes */
        if (repr == NULL) {
            return -1;
        }
        Py_XSETREF(self->repr, repr);
    }
    drop_callback(self); /* escapes */
    return 0;
}

static int
cancel(al_state *st, al_handle *self)
{
    int status;
    AL_CRITICAL_BEGIN((PyObject *)self);
    status = cancel_in_turn(st, self); /* escapes */
    AL_CRITICAL_END();
    return status;
}

/* Whether somebody may have replaced a method of asyncio's handles since the last look. */
static inline bool
is_stale(const al_state *st)
{
    return AL_UNLIKELY(AL_LOAD(((PyTypeObject *)st->watched)->tp_version_tag) !=
                       AL_LOAD(st->seen_watched_tag));
}

/* What a method of ours has to call instead, borrowed, or NULL, perhaps with an
 * exception. */
static PyObject *
other_method(al_state *st, PyObject *self, const char *name)
{
    return al_standin_look(st, false) < 0 ? NULL
                                          : al_standin_other(st, Py_TYPE(self), name);
}

#define OBEY(st, self, name)                                                           \
    do {                                                                               \
        if (is_stale(st)) {                                                            \
            PyObject *other = other_method(st, (PyObject *)(self), name);              \
            if (other != NULL || PyErr_Occurred()) {                                   \
                return other == NULL ? NULL                                            \
                                     : al_standin_call(other, (PyObject *)(self),      \
                                                       NULL, 0, NULL);                 \
            }                                                                          \
        }                                                                              \
    } while (0)

int
al_handle_cancel(al_handle *self)
{
    al_state *st = PyType_GetModuleState(Py_TYPE(self));
    if (!is_stale(st) && !st->handle_cancel_replaced) {
        return cancel(st, self);
    }
    PyObject *result =
        PyObject_CallMethodNoArgs((PyObject *)self, st->str.cancel); /* escapes */
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* --- handles that other threads may touch ---------------------------------------- */

int
al_handle_run_threadsafe(al_loop *loop, PyObject *op, PyObject *arg, PyObject *extra)
{
    al_threadsafe_handle *self = (al_threadsafe_handle *)op;
    self->runner = PyThread_get_thread_ident();
    int status = al_handle_run(loop, op, arg, extra); /* escapes */
    self->runner = 0;
    if (self->finished != NULL) {
        PyThread_release_lock(self->finished);
    }
    return status;
}

PyDoc_STRVAR(cancel_doc, "cancel($self, /)\n--\n\n"
                         "Cancel the callback; no effect once it has run.\n\n"
                         "Source: asyncio.Handle.cancel.");

static PyObject *
Handle_cancel(al_handle *self, PyObject *Py_UNUSED(ignored))
{
    al_state *st = PyType_GetModuleState(Py_TYPE(self));
    OBEY(st, self, "cancel");
    if (cancel(st, self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(cancelled_doc, "cancelled($self, /)\n--\n\n"
                            "Return True if the callback was cancelled.");

static PyObject *
Handle_cancelled(al_handle *self, PyObject *Py_UNUSED(ignored))
{
    OBEY((al_state *)PyType_GetModuleState(Py_TYPE(self)), self, "cancelled");
    return PyBool_FromLong(AL_LOAD(self->cancelled));
}

static PyObject *
handle_get_context(al_handle *self, void *Py_UNUSED(closure))
{
    if (self->context == NULL) {
        self->context = PyContext_New();
    }
    return Py_XNewRef(self->context);
}

#if PY_VERSION_HEX >= 0x030C0000
PyDoc_STRVAR(get_context_doc, "get_context($self, /)\n--\n\n"
                              "Return the contextvars.Context the callback runs in.");

static PyObject *
Handle_get_context(al_handle *self, PyObject *Py_UNUSED(ignored))
{
    OBEY((al_state *)PyType_GetModuleState(Py_TYPE(self)), self, "get_context");
    return handle_get_context(self, NULL);
}
#endif

PyDoc_STRVAR(when_doc, "when($self, /)\n--\n\n"
                       "Return the deadline in seconds on the clock of loop.time().");

static PyObject *
get_when(al_handle *self)
{
    if (self->when_object != NULL) {
        return Py_NewRef(self->when_object);
    }
    return PyFloat_FromDouble(self->when);
}

static PyObject *
TimerHandle_when(al_handle *self, PyObject *Py_UNUSED(ignored))
{
    OBEY((al_state *)PyType_GetModuleState(Py_TYPE(self)), self, "when");
    return get_when(self);
}

/* --- the names of asyncio's slots ------------------------------------------------ */

static PyObject *
handle_get_args(al_handle *self, void *Py_UNUSED(closure))
{
    if (self->args == NULL) {
        if (self->callback == NULL) {
            Py_RETURN_NONE; /* cancelled */
        }
        return PyTuple_New(0);
    }
    if (self->one_arg) {
        PyObject *tuple = PyTuple_Pack(1, self->args);
        if (tuple == NULL) {
            return NULL;
        }
        Py_SETREF(self->args, tuple);
        self->one_arg = false;
    }
    return Py_NewRef(self->args);
}

static int
handle_set_args(al_handle *self, PyObject *value, void *Py_UNUSED(closure))
{
    PyObject *args = NULL;
    if (value != NULL && value != Py_None) {
        args = PySequence_Tuple(value); /* escapes */
        if (args == NULL) {
            return -1;
        }
    }
    PyObject *old = self->args;
    self->args = args;
    self->one_arg = false;
    Py_XDECREF(old); /* escapes */
    return 0;
}

static int
handle_set_context(al_handle *self, PyObject *value, void *Py_UNUSED(closure))
{
    PyObject *context = NULL;
    if (value != NULL && value != Py_None) {
        context = Py_NewRef(value);
    }
    PyObject *old = self->context;
    self->context = context;
    Py_XDECREF(old); /* escapes */
    return 0;
}

static int
handle_set_when(al_handle *self, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "_when");
        return -1;
    }
    double when = PyFloat_AsDouble(value); /* escapes */
    if (when == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    self->when = when;
    Py_XSETREF(self->when_object, PyFloat_CheckExact(value) ? NULL : Py_NewRef(value));
    return 0;
}

static PyObject *
handle_get_when(al_handle *self, void *Py_UNUSED(closure))
{
    return get_when(self);
}

static PyObject *
handle_get_repr(al_handle *self, void *Py_UNUSED(closure))
{
    if (self->text_kept && make_text(self) < 0) { /* escapes */
        return NULL;
    }
    return Py_NewRef(self->repr == NULL ? Py_None : self->repr);
}

static int
handle_set_repr(al_handle *self, PyObject *value, void *Py_UNUSED(closure))
{
    PyObject *old = self->repr;
    self->repr = Py_XNewRef(value);
    self->text_kept = false;
    Py_XDECREF(old); /* escapes */
    return 0;
}

static PyObject *
handle_get_source_traceback(al_handle *self, void *Py_UNUSED(closure))
{
    return al_stack_read(PyType_GetModuleState(Py_TYPE(self)), &self->source_traceback);
}

static int
handle_set_source_traceback(al_handle *self, PyObject *value, void *Py_UNUSED(closure))
{
    PyObject *old = self->source_traceback;
    self->source_traceback = Py_XNewRef(value);
    Py_XDECREF(old); /* escapes */
    return 0;
}

static PyMemberDef handle_members[] = {
    {"_callback", T_OBJECT, offsetof(al_handle, callback), 0, NULL},
    {"_loop", T_OBJECT, offsetof(al_handle, loop), 0, NULL},
    {"_cancelled", T_BOOL, offsetof(al_handle, cancelled), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef timer_members[] = {
    {"_callback", T_OBJECT, offsetof(al_handle, callback), 0, NULL},
    {"_loop", T_OBJECT, offsetof(al_handle, loop), 0, NULL},
    {"_cancelled", T_BOOL, offsetof(al_handle, cancelled), 0, NULL},
    {"_scheduled", T_BOOL, offsetof(al_handle, scheduled), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

#define COMMON_GETSETS                                                                 \
    {"_args", (getter)handle_get_args, (setter)handle_set_args, NULL, NULL},           \
        {"_context", (getter)handle_get_context, (setter)handle_set_context, NULL,     \
         NULL},                                                                        \
        {"_repr", (getter)handle_get_repr, (setter)handle_set_repr, NULL, NULL},       \
    {                                                                                  \
        "_source_traceback", (getter)handle_get_source_traceback,                      \
            (setter)handle_set_source_traceback, NULL, NULL                            \
    }

static PyGetSetDef handle_getsets[] = {
    COMMON_GETSETS,
    {NULL, NULL, NULL, NULL, NULL},
};

static PyGetSetDef timer_getsets[] = {
    COMMON_GETSETS,
    {"_when", (getter)handle_get_when, (setter)handle_set_when, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

#define COMMON_METHODS                                                                 \
    {"cancel", (PyCFunction)Handle_cancel, METH_NOARGS, cancel_doc},                   \
        {"cancelled", (PyCFunction)Handle_cancelled, METH_NOARGS, cancelled_doc},

#if PY_VERSION_HEX >= 0x030C0000
#define CONTEXT_METHOD                                                                 \
    {"get_context", (PyCFunction)Handle_get_context, METH_NOARGS, get_context_doc},
#else
#define CONTEXT_METHOD
#endif

static PyMethodDef handle_methods[] = {
    COMMON_METHODS CONTEXT_METHOD{NULL, NULL, 0, NULL},
};

static PyMethodDef timer_methods[] = {
    COMMON_METHODS CONTEXT_METHOD{"when", (PyCFunction)TimerHandle_when, METH_NOARGS,
                                  when_doc},
    {NULL, NULL, 0, NULL},
};

static char handle_doc[] =
    PyDoc_STR("Handle(callback, args, loop, context=None)\n--\n\n"
              "A callback that a loop is going to run; an asyncio.Handle.");
static char timer_doc[] =
    PyDoc_STR("TimerHandle(when, callback, args, loop, context=None)\n--\n\n"
              "A callback with a deadline; an asyncio.TimerHandle.");

static PyType_Slot handle_slots[] = {
    {Py_tp_doc, handle_doc},
    {Py_tp_new, handle_tp_new},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_traverse, handle_traverse},
    {Py_tp_clear, handle_clear},
    {Py_tp_members, handle_members},
    {Py_tp_getset, handle_getsets},
    {Py_tp_methods, handle_methods},
    {0, NULL},
};

static PyType_Slot timer_slots[] = {
    {Py_tp_doc, timer_doc},
    {Py_tp_new, handle_tp_new},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_traverse, handle_traverse},
    {Py_tp_clear, handle_clear},
    {Py_tp_members, timer_members},
    {Py_tp_getset, timer_getsets},
    {Py_tp_methods, timer_methods},
    {0, NULL},
};

static PyType_Spec handle_spec = {
    .name = "aioloop.Handle",
    .basicsize = sizeof(al_handle),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = handle_slots,
};

#if PY_VERSION_HEX >= 0x030E0000
/* Waits until no other thread runs the callback.  0, or -1 with MemoryError. */
static int
wait_until_finished(al_threadsafe_handle *self)
{
    if (self->runner == 0 || self->runner == PyThread_get_thread_ident()) {
        return 0;
    }
    if (self->finished == NULL) {
        PyThread_type_lock lock = PyThread_allocate_lock();
        if (lock == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        PyThread_acquire_lock(lock, WAIT_LOCK); /* on behalf of the runner */
        self->finished = lock;
    }
    PyThread_type_lock lock = self->finished; /* lives as long as the handle */
    Py_BEGIN_ALLOW_THREADS
    PyThread_acquire_lock(lock, WAIT_LOCK);
    PyThread_release_lock(lock); /* for the next one that waits */
    Py_END_ALLOW_THREADS
    return 0;
}

static PyObject *
ThreadSafeHandle_cancel(al_handle *self, PyObject *Py_UNUSED(ignored))
{
    al_state *st = PyType_GetModuleState(Py_TYPE(self));
    OBEY(st, self, "cancel");
    if (wait_until_finished((al_threadsafe_handle *)self) < 0 || cancel(st, self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
ThreadSafeHandle_cancelled(al_handle *self, PyObject *Py_UNUSED(ignored))
{
    OBEY((al_state *)PyType_GetModuleState(Py_TYPE(self)), self, "cancelled");
    if (wait_until_finished((al_threadsafe_handle *)self) < 0) {
        return NULL;
    }
    return PyBool_FromLong(AL_LOAD(self->cancelled));
}

/* asyncio's _run takes a lock of which there is no need. */
static PyObject *
ThreadSafeHandle__run(al_handle *self, PyObject *Py_UNUSED(ignored))
{
    const al_state *st = PyType_GetModuleState(Py_TYPE(self));
    if (self->cancelled) {
        Py_RETURN_NONE;
    }
    PyObject *run = PyObject_GetAttr(st->asyncio_Handle, st->str._run);
    PyObject *result =
        run == NULL ? NULL : PyObject_CallOneArg(run, (PyObject *)self); /* escapes */
    Py_XDECREF(run);
    return result;
}

/* The lock of asyncio's methods, for who calls them. */
static PyObject *
threadsafe_get_lock(al_handle *self, void *Py_UNUSED(closure))
{
    if (self->when_object == NULL) {
        PyObject *threading = PyImport_ImportModule("threading");
        PyObject *lock =
            threading == NULL ? NULL : PyObject_CallMethod(threading, "RLock", NULL);
        Py_XDECREF(threading);
        if (self->when_object == NULL) {
            self->when_object = lock; /* Another thread may have been quicker. */
        }
        else {
            Py_XDECREF(lock);
        }
    }
    return Py_XNewRef(self->when_object);
}

static int
threadsafe_set_lock(al_handle *self, PyObject *value, void *Py_UNUSED(closure))
{
    Py_XSETREF(self->when_object, Py_XNewRef(value)); /* escapes */
    return 0;
}

static PyGetSetDef threadsafe_getsets[] = {
    COMMON_GETSETS,
    {"_lock", (getter)threadsafe_get_lock, (setter)threadsafe_set_lock, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef threadsafe_methods[] = {
    {"cancel", (PyCFunction)ThreadSafeHandle_cancel, METH_NOARGS, cancel_doc},
    {"cancelled", (PyCFunction)ThreadSafeHandle_cancelled, METH_NOARGS, cancelled_doc},
    {"get_context", (PyCFunction)Handle_get_context, METH_NOARGS, get_context_doc},
    {"_run", (PyCFunction)ThreadSafeHandle__run, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static char threadsafe_doc[] =
    PyDoc_STR("_ThreadSafeHandle(callback, args, loop, context=None)\n--\n\n"
              "A callback that another thread scheduled and may cancel.");

static PyType_Slot threadsafe_slots[] = {
    {Py_tp_doc, threadsafe_doc},
    {Py_tp_new, handle_tp_new},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_traverse, handle_traverse},
    {Py_tp_clear, handle_clear},
    {Py_tp_members, handle_members},
    {Py_tp_getset, threadsafe_getsets},
    {Py_tp_methods, threadsafe_methods},
    {0, NULL},
};

static PyType_Spec threadsafe_spec = {
    .name = "aioloop._core._ThreadSafeHandle",
    .basicsize = sizeof(al_threadsafe_handle),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = threadsafe_slots,
};
#endif

static PyType_Spec timer_spec = {
    .name = "aioloop.TimerHandle",
    .basicsize = sizeof(al_handle),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = timer_slots,
};

/* --- where asyncio.Handle is not as we know it ------------------------------------ */

/* asyncio's own handles run then, and what is left for ours are descriptors' readers and
 * writers, and reports.  They are of a class of their own, whose attributes that are not
 * its own are those of asyncio's class. */

static int
apart_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    al_handle *self = (al_handle *)op;
    char callback_name[] = "callback", args_name[] = "args", loop_name[] = "loop",
         context_name[] = "context";
    char *names[] = {callback_name, args_name, loop_name, context_name, NULL};
    PyObject *callback, *arguments, *loop, *context = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO!O|O:Handle", names, &callback,
                                     &PyTuple_Type, &arguments, &loop, &context)) {
        return -1;
    }
    PyObject *own = context != Py_None ? Py_NewRef(context) : PyContext_CopyCurrent();
    if (own == NULL) {
        return -1;
    }
    Py_XSETREF(self->context, own);                  /* escapes */
    Py_XSETREF(self->callback, Py_NewRef(callback)); /* escapes */
    Py_XSETREF(self->loop, Py_NewRef(loop));         /* escapes */
    return handle_set_args(self, arguments, NULL);   /* escapes */
}

static PyObject *
apart_getattro(PyObject *self, PyObject *name)
{
    PyObject *value = PyObject_GenericGetAttr(self, name);
    if (value != NULL || !PyErr_ExceptionMatches(PyExc_AttributeError)) {
        return value;
    }
    const al_state *st = PyType_GetModuleState(Py_TYPE(self));
    PyObject *found = _PyType_Lookup((PyTypeObject *)st->asyncio_Handle, name);
    if (found == NULL || Py_IS_TYPE(found, &PyMemberDescr_Type)) {
        return NULL;
    }
    PyErr_Clear(); /* the AttributeError */
    descrgetfunc get = Py_TYPE(found)->tp_descr_get;
    return get == NULL ? Py_NewRef(found)
                       : get(found, self, (PyObject *)Py_TYPE(self)); /* escapes */
}

static PyObject *
apart_repr(al_handle *self)
{
    PyObject *callback = Py_XNewRef(self->callback);
    PyObject *text = callback == NULL
                         ? PyUnicode_FromString("<Handle cancelled>")
                         : PyUnicode_FromFormat("<Handle %R>", callback); /* escapes */
    Py_XDECREF(callback);                                                 /* escapes */
    return text;
}

static PyMemberDef apart_members[] = {
#if PY_VERSION_HEX < 0x030C0000
    {"__weaklistoffset__", T_PYSSIZET, offsetof(al_handle, weakrefs), READONLY, NULL},
#endif
    {"_callback", T_OBJECT, offsetof(al_handle, callback), 0, NULL},
    {"_loop", T_OBJECT, offsetof(al_handle, loop), 0, NULL},
    {"_cancelled", T_BOOL, offsetof(al_handle, cancelled), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot apart_slots[] = {
    {Py_tp_new, handle_tp_new},
    {Py_tp_init, apart_init},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_traverse, handle_traverse},
    {Py_tp_clear, handle_clear},
    {Py_tp_getattro, apart_getattro},
    {Py_tp_repr, apart_repr},
    {Py_tp_members, apart_members},
    {Py_tp_getset, handle_getsets},
    {Py_tp_methods, handle_methods},
    {0, NULL},
};

static PyType_Spec apart_spec = {
    .name = "aioloop._core.HandleApart",
    .basicsize = sizeof(al_handle),
#if PY_VERSION_HEX >= 0x030C0000
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_MANAGED_WEAKREF,
#else
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
#endif
    .slots = apart_slots,
};

/* --- the types --------------------------------------------------------------------- */

/* Whether the Python class's slots lie within the words we laid over them. */
static bool
fits(PyObject *base, size_t words_end)
{
    const PyTypeObject *type = (PyTypeObject *)base;
    return type->tp_basicsize + al_layout_lie(AL_LAYOUT_HANDLE, 0) * 64 <=
               (Py_ssize_t)words_end &&
           type->tp_itemsize == 0
#if PY_VERSION_HEX < 0x030C0000
           && type->tp_weaklistoffset == (Py_ssize_t)offsetof(al_handle, weakrefs)
#endif
        ;
}

/* Makes a type of ours if its base is as we know it: 1, 0 or -1. */
static int
add_type(PyObject *module, PyTypeObject **slot, PyType_Spec *spec, PyObject *base,
         size_t words_end)
{
    if (!PyType_Check(base) || !fits(base, words_end)) {
        return 0;
    }
    if (al_state_add_type(module, slot, spec, base) < 0) {
        return -1;
    }
    return al_layout_slots_are_hidden((PyTypeObject *)base, *slot, NULL) &&
           !al_layout_lie(AL_LAYOUT_HANDLE, 1);
}

/* 1, 0 or -1. */
static int
add_types(PyObject *module, al_state *st)
{
    int known = 1;
#if PY_VERSION_HEX >= 0x030E0000
    PyObject *base = PyObject_GetAttrString(st->asyncio_events, "_ThreadSafeHandle");
    st->asyncio_ThreadSafeHandle = base;
    if (base == NULL) {
        PyErr_Clear(); /* AttributeError */
        return 0;
    }
    known = add_type(module, &st->ThreadSafeHandle_type, &threadsafe_spec, base,
                     offsetof(al_handle, when_object) + sizeof(PyObject *));
#endif
    if (known == 1) {
        known = add_type(module, &st->TimerHandle_type, &timer_spec,
                         st->asyncio_TimerHandle, offsetof(al_handle, when));
    }
    if (known == 1) {
        known = add_type(module, &st->Handle_type, &handle_spec, st->asyncio_Handle,
                         offsetof(al_handle, when_object));
    }
    return known;
}

int
al_handle_init_types(PyObject *module, al_state *st)
{
    int known = add_types(module, st);
    if (known < 0) {
        return -1;
    }
    if (known) {
        return (st->ThreadSafeHandle_type != NULL &&
                al_standin_add(st, st->ThreadSafeHandle_type,
                               st->asyncio_ThreadSafeHandle) < 0) ||
                       al_standin_add(st, st->TimerHandle_type,
                                      st->asyncio_TimerHandle) < 0
                   ? -1
                   : al_standin_add(st, st->Handle_type, st->asyncio_Handle);
    }
    al_layout_turn_off(st, AL_LAYOUT_HANDLE);
    Py_CLEAR(st->ThreadSafeHandle_type);
    Py_CLEAR(st->TimerHandle_type);
    Py_CLEAR(st->Handle_type);
    return al_state_add_type(module, &st->Handle_type, &apart_spec, NULL);
}
