/* future.c: see future.h. */
#include "task/future.h"

#include <stdarg.h>
#include <string.h>

#include "base/check.h"
#include "core/context.h"
#include "core/debug.h"
#include "core/misuse.h"
#include "core/stack.h"
#include "core/report.h"
#include "task/await.h"
#include "task/stop.h"
#include "task/registry.h"
#include "task/task.h"

_Static_assert(offsetof(al_future, callback0) == sizeof(PyObject) + sizeof(void *),
               "the words of _asyncio's struct begin after the head");

/* What stands for a waiting task's context in `callbacks`; None would be a callback's. */
#define WAITER Py_Ellipsis

/* What context0 holds where no context is kept: for a waiting task, and for an empty
 * context, which is made when somebody asks.  The _callbacks of 3.15's base needs an
 * object there; it is immortal. */
#if PY_VERSION_HEX >= 0x030F0000
#define NO_CONTEXT WAITER
#else
#define NO_CONTEXT NULL
#endif

/* --- making, clearing and freeing ------------------------------------------------- */

al_future *
al_future_alloc(al_state *st, PyTypeObject *type)
{
    if (AL_UNLIKELY(type == NULL)) {
        PyErr_SetString(PyExc_RuntimeError, "aioloop has been unloaded");
        return NULL;
    }
    int kind = type == st->Task_type;
    al_future *self = st->free_futures[kind];
    if (self != NULL && Py_TYPE(self) == type) {
        st->free_futures[kind] = (al_future *)(void *)self->callback0;
        st->free_future_count[kind]--;
        self->callback0 = NULL;
        _Py_NewReference((PyObject *)self);
        PyObject_GC_Track(self);
        return self;
    }
    return (al_future *)type->tp_alloc(type, 0);
}

static PyObject *
Future_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    al_state *st = al_state_of(type);
    return st == NULL ? NULL : (PyObject *)al_future_alloc(st, type);
}

int
al_future_traverse(PyObject *op, visitproc visit, void *arg)
{
    al_future *self = (al_future *)op;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->base_loop);
    Py_VISIT(self->callback0);
    Py_VISIT(self->context0);
    Py_VISIT(self->callbacks);
    Py_VISIT(self->exception);
    Py_VISIT(self->exception_tb);
    Py_VISIT(self->result);
    Py_VISIT(self->source_traceback);
    Py_VISIT(self->cancel_message);
    Py_VISIT(self->cancelled_exc);
    Py_VISIT(self->fut_waiter);
    Py_VISIT(self->coro);
    Py_VISIT(self->name);
    Py_VISIT(self->context);
    Py_VISIT(self->loop_obj);
#if PY_VERSION_HEX < 0x030D0000
    Py_VISIT(self->base_dict);
#else
    PyObject_VisitManagedDict(op, visit, arg);
#endif
#if PY_VERSION_HEX >= 0x030E0000
    Py_VISIT(self->awaited_by);
#endif
    return 0;
}

/* Whether any of the words is used that a future with a result has empty in the end. */
static inline bool
has_rare_words(const al_future *self)
{
    uintptr_t any = (uintptr_t)self->base_loop | (uintptr_t)self->callback0 |
                    (uintptr_t)self->context0 | (uintptr_t)self->callbacks |
                    (uintptr_t)self->exception | (uintptr_t)self->exception_tb |
                    (uintptr_t)self->source_traceback |
                    (uintptr_t)self->cancel_message | (uintptr_t)self->cancelled_exc;
#if PY_VERSION_HEX >= 0x030E0000
    any |= (uintptr_t)self->awaited_by;
#endif
    return any != 0;
}

/* Everything but the instance's dict.  Escapes. */
static void
clear_words(al_future *self)
{
    if (self->is_task) {
        al_registry_unlink(self); /* while the state can still be reached */
    }
    self->loop = NULL;
    Py_CLEAR(self->loop_obj);
    Py_CLEAR(self->result);
    if (self->is_task) {
        Py_CLEAR(self->coro);
        Py_CLEAR(self->name);
        Py_CLEAR(self->context);
        Py_CLEAR(self->fut_waiter);
    }
    if (AL_UNLIKELY(has_rare_words(self))) {
        Py_CLEAR(self->base_loop);
        Py_CLEAR(self->callback0);
        Py_CLEAR(self->context0);
        Py_CLEAR(self->callbacks);
        Py_CLEAR(self->exception);
        Py_CLEAR(self->exception_tb);
        Py_CLEAR(self->source_traceback);
        Py_CLEAR(self->cancel_message);
        Py_CLEAR(self->cancelled_exc);
#if PY_VERSION_HEX >= 0x030E0000
        Py_CLEAR(self->awaited_by);
        self->awaited_by_is_set = 0;
#endif
    }
}

int
al_future_clear_fields(PyObject *op)
{
    al_future *self = (al_future *)op;
    clear_words(self);
#if PY_VERSION_HEX < 0x030D0000
    Py_CLEAR(self->base_dict);
#else
    PyObject_ClearManagedDict(op);
#endif
    return 0;
}

/* Which free list an object may enter: 0 Future, 1 Task, -1 none. */
static int
free_list_kind(const al_state *st, PyObject *op)
{
    if (Py_IS_TYPE(op, st->Future_type)) {
        return 0;
    }
    return Py_IS_TYPE(op, st->Task_type) ? 1 : -1;
}

/* NULL for an instance of a class that was cleared before it: that has no MRO any more by
 * which to find the module.  The collector does so with a class of Python code that dies
 * together with its last instances. */
static al_state *
state_at_the_end(al_future *self)
{
    if (AL_LIKELY(self->loop != NULL)) {
        return self->loop->st;
    }
    return Py_TYPE(self)->tp_mro == NULL ? NULL : al_state_of(Py_TYPE(self));
}

void
al_future_dealloc(PyObject *op)
{
    al_future *self = (al_future *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (self->is_task) {
        al_registry_unlink(self);
    }
    /* The finalizer marks the object for good, so it runs only if it has work. */
    bool pending = self->is_task && self->state == AL_FUTURE_PENDING &&
                   self->log_destroy_pending && al_future_alive(self);
    if (pending || self->log_traceback) {
        if (PyObject_CallFinalizerFromDealloc(op) < 0) { /* escapes */
            return;
        }
    }
    PyObject_GC_UnTrack(op);
    if (*(PyObject **)(void *)((char *)op + type->tp_weaklistoffset) != NULL) {
        PyObject_ClearWeakRefs(op); /* escapes */
    }
    al_state *st = state_at_the_end(self);
    int kind = st == NULL ? -1 : free_list_kind(st, op);
    PyObject *number = NULL; /* an int of its own, for the next task's name */
    if (kind == 1 && self->name != NULL && PyLong_CheckExact(self->name)) {
        number = self->name;
        self->name = NULL;
    }
    (void)al_future_clear_fields(op); /* escapes */
    if (kind >= 0 && st->free_future_count[kind] < AL_FREELIST_MAX &&
        !PyObject_GC_IsFinalized(op)) {
        self->state = AL_FUTURE_PENDING;
        self->cancel_requests = 0;
        self->is_task = self->blocking = self->log_traceback = self->waiter0 = false;
        self->must_cancel = self->log_destroy_pending = false;
        self->name = number;
        self->callback0 = (PyObject *)(void *)st->free_futures[kind];
        st->free_futures[kind] = self;
        st->free_future_count[kind]++;
        return;
    }
    Py_XDECREF(number);
    type->tp_free(op);
    Py_DECREF(type);
}

void
al_future_clear_free_lists(al_state *st)
{
    for (int kind = 0; kind < 2; kind++) {
        while (st->free_futures[kind] != NULL) {
            al_future *future = st->free_futures[kind];
            PyTypeObject *type = Py_TYPE(future);
            st->free_futures[kind] = (al_future *)(void *)future->callback0;
            Py_XDECREF(future->name);
            PyObject_GC_Del(future);
            Py_DECREF(type);
        }
        /* Types that die later free their last instances directly. */
        st->free_future_count[kind] = AL_FREELIST_MAX;
    }
    al_await_clear_free_list(st);
    al_stop_clear_free_list(st);
}

/* asyncio.get_event_loop() by the events module, as asyncio's own constructor. */
static PyObject *
default_loop(al_state *st)
{
    return PyObject_CallMethodNoArgs(st->asyncio_events, st->str.get_event_loop);
}

static bool
finalizing(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
}

bool
al_future_take_back(al_future *self)
{
    if (self->is_task) {
        return false;
    }
    PyObject *loop_obj = self->base_loop;
    const al_state *st = al_future_state(self);
    self->base_loop = NULL;
    clear_words(self); /* escapes */
    self->state = AL_FUTURE_PENDING;
    self->log_traceback = self->waiter0 =
        false; /* An iterator may have set `blocking`. */
    self->loop = al_loop_check(st, loop_obj);
    Py_XSETREF(self->loop_obj, loop_obj); /* escapes */
    return true;
}

int
al_future_init(al_future *self, al_state *st, PyObject *loop_obj)
{
    if (self->loop_obj != NULL || self->base_loop != NULL) {
#if PY_VERSION_HEX >= 0x030F0000
        PyErr_Format(PyExc_RuntimeError, "%T object is already initialized", self);
        return -1;
#else
        clear_words(self); /* escapes */
#endif
    }
    self->state = AL_FUTURE_PENDING;
    self->log_traceback = self->blocking = self->waiter0 = false;
    Py_INCREF(loop_obj);
    if (loop_obj == Py_None) {
        Py_DECREF(loop_obj);
        loop_obj = default_loop(st); /* escapes */
        if (loop_obj == NULL) {
            return -1;
        }
    }
    self->loop = al_loop_check(st, loop_obj);
    Py_XSETREF(self->loop_obj, loop_obj);
    int debug = self->loop != NULL
                    ? (AL_LOAD(self->loop->debug.switches) & AL_DEBUG_TRACEBACKS) != 0
                    : al_debug_of_loop(st, loop_obj); /* escapes */
    if (AL_UNLIKELY(debug != 0)) {
        if (debug < 0) {
            return -1;
        }
        /* asyncio takes no stack any more while the interpreter shuts down. */
        if (!finalizing()) {
            PyObject *stack = al_debug_capture(st, self->loop); /* escapes */
            if (stack == NULL) {
                return -1;
            }
            Py_XSETREF(self->source_traceback, stack);
        }
    }
    return 0;
}

PyObject *
al_future_new(al_loop *loop)
{
    al_state *st = loop->st;
    if (AL_UNLIKELY(al_layout_is_off(st, AL_LAYOUT_FUTURE))) {
        return PyObject_CallMethodNoArgs((PyObject *)loop,
                                         st->str.create_future); /* escapes */
    }
    al_future *self = al_future_alloc(st, st->Future_type);
    if (self == NULL) {
        return NULL;
    }
    self->loop_obj = Py_NewRef((PyObject *)loop);
    self->loop = loop;
    if (AL_UNLIKELY(AL_LOAD(loop->debug.switches) & AL_DEBUG_TRACEBACKS)) {
        self->source_traceback = al_debug_capture(loop->st, loop); /* escapes */
        if (self->source_traceback == NULL) {
            Py_DECREF(self);
            return NULL;
        }
    }
    return (PyObject *)self;
}

/* --- arguments -------------------------------------------------------------------- */

/* Turns a vectorcall's arguments into a tuple and a dict (NULL if there are no names),
 * for messages that equal those of asyncio's Argument Clinic. */
static int
pack_arguments(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
               PyObject **tuple, PyObject **dict)
{
    *dict = NULL;
    *tuple = PyTuple_New(nargs);
    if (*tuple == NULL) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < nargs; i++) {
        PyTuple_SET_ITEM(*tuple, i, Py_NewRef(args[i]));
    }
    if (kwnames != NULL) {
        *dict = PyDict_New();
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(kwnames); i++) {
            if (*dict == NULL || PyDict_SetItem(*dict, PyTuple_GET_ITEM(kwnames, i),
                                                args[nargs + i]) < 0) {
                Py_CLEAR(*tuple);
                Py_CLEAR(*dict);
                return -1;
            }
        }
    }
    return 0;
}

/* PyArg_ParseTupleAndKeywords for a vectorcall.  The objects that it stores are
 * borrowed from `args`. */
static bool
parse_slowly(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
             const char *format, char **names, ...)
{
    PyObject *tuple, *dict;
    if (pack_arguments(args, nargs, kwnames, &tuple, &dict) < 0) {
        return false;
    }
    va_list values;
    va_start(values, names);
    int parsed = PyArg_VaParseTupleAndKeywords(tuple, dict, format, names, values);
    va_end(values);
    Py_DECREF(tuple);
    Py_XDECREF(dict);
    return parsed != 0;
}

static bool
only_name_is(PyObject *kwnames, const char *name)
{
    return PyTuple_GET_SIZE(kwnames) == 1 &&
           PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0), name) == 0;
}

PyObject *
al_future_parse_cancel(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    if (kwnames == NULL || PyTuple_GET_SIZE(kwnames) == 0) {
        if (nargs <= 1) {
            return nargs == 0 ? Py_None : args[0];
        }
    }
    else if (nargs == 0 && only_name_is(kwnames, "msg")) {
        return args[0];
    }
    char msg[] = "msg";
    char *names[] = {msg, NULL};
    PyObject *message = Py_None;
    bool parsed = parse_slowly(args, nargs, kwnames, "|O:cancel", names, &message);
    return parsed ? message : NULL;
}

PyObject *
al_future_call_type(PyTypeObject *type, PyObject *const *args, Py_ssize_t nargs,
                    PyObject *kwnames)
{
    PyObject *tuple, *dict;
    if (pack_arguments(args, nargs, kwnames, &tuple, &dict) < 0) {
        return NULL;
    }
    PyObject *self = type->tp_new(type, tuple, dict);
    if (self != NULL && type->tp_init(self, tuple, dict) < 0) { /* escapes */
        Py_CLEAR(self);
    }
    Py_DECREF(tuple);
    Py_XDECREF(dict);
    return self;
}

static int
Future_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    char loop_name[] = "loop";
    char *names[] = {loop_name, NULL};
    PyObject *loop = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$O:Future", names, &loop)) {
        return -1;
    }
    al_state *st = al_state_of(Py_TYPE(op));
    return st == NULL ? -1 : al_future_init((al_future *)op, st, loop);
}

static PyObject *
Future_vectorcall(PyObject *callable, PyObject *const *args, size_t nargsf,
                  PyObject *kwnames)
{
    PyTypeObject *type = (PyTypeObject *)(void *)callable;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    if (nargs != 0 || kwnames == NULL || !only_name_is(kwnames, "loop")) {
        return al_future_call_type(type, args, nargs, kwnames);
    }
    al_state *st = PyType_GetModuleState(type);
    al_future *self = al_future_alloc(st, type);
    if (self != NULL && al_future_init(self, st, args[0]) < 0) { /* escapes */
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

int
al_future_settle(al_state *st, PyObject *future, PyObject *method, PyObject *value)
{
    if (al_future_exact(st, future) && method == st->str.set_result) {
        return ((al_future *)future)->state != AL_FUTURE_PENDING
                   ? 0
                   : al_future_set_result((al_future *)future, value); /* escapes */
    }
    PyObject *done = PyObject_CallMethodNoArgs(future, st->str.done); /* escapes */
    int skip = done == NULL ? -1 : PyObject_IsTrue(done);
    Py_XDECREF(done);
    if (skip != 0) {
        return skip < 0 ? -1 : 0;
    }
    PyObject *result = PyObject_CallMethodOneArg(future, method, value); /* escapes */
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* --- done-callbacks --------------------------------------------------------------- */

int
al_future_report(al_loop *loop, PyObject *callback, PyObject *arg, PyObject *context)
{
    if (callback == NULL || al_report_must_leave()) {
        return -1;
    }
    PyObject *exc = al_err_take();
    al_handle *handle = NULL;
    al_sched_settle(loop);
    if (AL_UNLIKELY(AL_LOAD(loop->debug.switches))) {
        PyObject *current = al_debug_current_handle(loop); /* escapes */
        if (current != NULL && al_handle_check(loop->st, current)) {
            handle = (al_handle *)current;
        }
        else {
            Py_XDECREF(current);
        }
    }
    if (handle == NULL && !PyErr_Occurred()) {
        handle = al_handle_new(loop, loop->st->Handle_type, callback, &arg,
                               arg == NULL ? 0 : 1, context);
    }
    if (handle == NULL) {
        Py_XDECREF(exc);
        return -1;
    }
    al_err_put_steal(exc);
    int status = al_report_handle(loop, handle); /* escapes */
    al_handle_left_queue(handle);
    Py_DECREF(handle);
    return status;
}

int
al_future_call_run(al_loop *loop, PyObject *callback, PyObject *future,
                   PyObject *context)
{
    bool lent = context == NULL;
    PyObject *entered = al_context_enter_idle(loop, context), *result = NULL;
    if (AL_UNLIKELY(entered == NULL && lent)) {
        return al_sched_put_back(loop, al_future_call_run, callback, future, NULL);
    }
    if (AL_LIKELY(entered != NULL)) {
        Py_INCREF(entered);
        result = PyObject_CallOneArg(callback, future); /* escapes */
        bool spare = lent && al_context_unused(entered, 3);
        if (AL_UNLIKELY(al_context_leave_idle_steal(loop, PyThreadState_Get(), entered,
                                                    spare, false) < 0)) {
            Py_CLEAR(result);
        }
    }
    else if (al_context_is_foreign(context)) {
        PyObject *args = PyTuple_Pack(1, future);
        if (args != NULL && al_context_run(context, callback, args) == 0) {
            result = Py_NewRef(Py_None);
        } /* escapes */
        Py_XDECREF(args);
    }
    int status = 0;
    if (AL_UNLIKELY(result == NULL)) {
        status = al_future_report(loop, callback, future,
                                  entered != NULL ? entered : context); /* escapes */
    }
    else {
        Py_DECREF(result);
    }
    Py_XDECREF(entered);
    return status;
}

/* Puts a callback into the ring, which is what call_soon does with it: it checks in debug
 * mode, and takes the current context for None.  Escapes in debug mode. */
static int
push_callback_steal(al_future *self, al_loop *loop, PyObject *callback,
                    PyObject *context)
{
    int status = 0;
    Py_INCREF(loop);
    if (AL_UNLIKELY(AL_LOAD(loop->debug.switches)) &&
        (al_debug_check_thread(loop) < 0 ||
         al_debug_check_callback(loop, callback, "call_soon") < 0)) { /* escapes */
        status = -1;
    }
    if (AL_UNLIKELY(context == Py_None)) {
        Py_CLEAR(context);
        status = status < 0 ? -1 : al_context_capture(&context);
    }
    if (AL_LIKELY(status == 0)) {
        status = al_sched_push_steal(loop, al_future_call_run, callback,
                                     Py_NewRef((PyObject *)self), context);
    }
    else {
        Py_DECREF(callback);
        Py_XDECREF(context);
    }
    Py_DECREF(loop);
    return status;
}

/* Hands a callback, or a waiting task, to the loop; steals `callback` and `context`.
 * Escapes unless the loop takes bare slots and is not in debug mode. */
static int
schedule_steal(al_future *self, PyObject *callback, PyObject *context, bool waiter)
{
    al_loop *loop = self->loop;
    if (AL_LIKELY(loop != NULL && al_loop_direct(loop))) {
        return waiter ? al_sched_push_steal(loop, al_task_wakeup_run, callback,
                                            Py_NewRef((PyObject *)self), NULL)
                      : push_callback_steal(self, loop, callback, context);
    }
    int status = -1;
    al_state *st = al_future_state(self);
    PyObject *loop_obj = Py_XNewRef(self->loop_obj);
    if (AL_UNLIKELY(loop_obj == NULL)) {
        /* call_soon of the callback before has begun a second __init__. */
        PyErr_SetString(PyExc_RuntimeError, "Future object is not initialized.");
        Py_DECREF(callback);
        Py_XDECREF(context);
        return -1;
    }
    if (waiter) {
        context = Py_XNewRef(al_task_context((al_future *)(void *)callback));
        Py_SETREF(callback, al_task_wakeup_new(callback));
    }
    else if (context == NULL) {
        context = PyContext_New();
    }
    if (callback != NULL && context != NULL) {
        status = al_sched_call_soon(st, loop_obj, callback, (PyObject *)self,
                                    context); /* escapes */
    }
    Py_XDECREF(callback);
    Py_XDECREF(context);
    Py_DECREF(loop_obj);
    return status;
}

/* Makes room in the ready ring for all callbacks, before the state changes: without
 * memory the future stays pending and keeps them.  Where call_soon hands them over
 * there is nothing to prepare.  0, or -1 with MemoryError. */
static inline int
make_room(const al_future *self)
{
    al_loop *loop = self->loop;
    PyObject *others = self->callbacks;
    size_t n = others == NULL ? 1 : 1 + (size_t)PyList_GET_SIZE(others);
    if (loop == NULL || al_inbox_is_outside(loop) ||
        al_ring_has_room(&loop->ready, n) || !al_loop_direct(loop) ||
        (self->callback0 == NULL && others == NULL)) {
        return 0;
    }
    return al_ring_reserve(&loop->ready, n);
}

/* Whether an item of `callbacks` is a waiting task. */
static bool
is_waiter(PyObject *item)
{
    return PyTuple_GET_ITEM(item, 1) == WAITER;
}

/* Mirrors asyncio's future_schedule_callbacks: the callbacks are detached before any of
 * them is handed over, because call_soon may be foreign code (gh-125969, gh-125984). */
static int
schedule_callbacks(al_future *self)
{
    if (self->is_task) {
        al_registry_unlink(self);
        if (AL_LIKELY(self->loop != NULL)) {
            self->loop->counts.tasks_ended[self->state == AL_FUTURE_CANCELLED ? 1
                                           : self->exception != NULL          ? 2
                                                                              : 0]++;
        }
    }
    PyObject *callback = self->callback0;
    if (callback == NULL && self->callbacks == NULL) {
        return 0;
    }
    PyObject *context = self->context0 == NO_CONTEXT ? NULL : self->context0;
    PyObject *others = self->callbacks;
    /* The base's methods know nothing of the flag, and give each callback a context. */
    bool waiter = self->waiter0 && context == NULL;
    self->callback0 = self->context0 = self->callbacks = NULL;
    self->waiter0 = false;

    int status = 0;
    if (callback != NULL) {
        status = schedule_steal(self, callback, context, waiter); /* escapes */
    }
    if (AL_UNLIKELY(others != NULL)) {
        for (Py_ssize_t i = 0; status == 0 && i < PyList_GET_SIZE(others); i++) {
            PyObject *item = PyList_GET_ITEM(others, i);
            bool waits = is_waiter(item);
            status = schedule_steal(self, Py_NewRef(PyTuple_GET_ITEM(item, 0)),
                                    waits ? NULL : Py_NewRef(PyTuple_GET_ITEM(item, 1)),
                                    waits); /* escapes */
        }
        Py_DECREF(others); /* escapes */
    }
    return status;
}

/* Adds one more to `callbacks`: a waiting task if context is NULL. */
static int
append_callback(al_future *self, PyObject *callback, PyObject *context)
{
    PyObject *item = PyTuple_Pack(2, callback, context == NULL ? WAITER : context);
    if (item == NULL) {
        return -1;
    }
    if (self->callbacks == NULL) {
        self->callbacks = PyList_New(0);
    }
    int status = self->callbacks == NULL ? -1 : PyList_Append(self->callbacks, item);
    Py_DECREF(item);
    return status;
}

int
al_future_add_waiter(al_future *self, al_future *task)
{
    if (AL_UNLIKELY(self->state != AL_FUTURE_PENDING)) {
        return schedule_steal(self, Py_NewRef((PyObject *)task), NULL, true);
    }
    if (AL_LIKELY(self->callback0 == NULL && self->callbacks == NULL)) {
        self->callback0 = Py_NewRef((PyObject *)task);
        self->context0 = NO_CONTEXT;
        self->waiter0 = true;
        return 0;
    }
    return append_callback(self, (PyObject *)task, NULL);
}

const char al_future_add_done_callback_doc[] =
    "add_done_callback($self, fn, /, *, context=<unrepresentable>)\n--\n\n"
    "Call fn(future) when the future is done, through the loop's call_soon.\n\n"
    "A future that is done already schedules it at once. The callback runs in the\n"
    "given contextvars.Context, or in a copy of the current one.\n\n"
    "Source: asyncio.Future.add_done_callback.";

PyObject *
al_future_py_add_done_callback(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames)
{
    al_future *self = (al_future *)op;
    PyObject *fn = NULL, *context = NULL;
    if (nargs == 1 && (kwnames == NULL || PyTuple_GET_SIZE(kwnames) == 0)) {
        fn = args[0];
    }
    else if (nargs == 1 && only_name_is(kwnames, "context")) {
        fn = args[0];
        context = args[1];
    }
    else if (nargs != 1) {
        PyErr_Format(
            PyExc_TypeError,
            "add_done_callback() takes exactly 1 positional argument (%zd given)",
            nargs);
        return NULL;
    }
    else {
        char no_name[] = "", context_name[] = "context";
        char *names[] = {no_name, context_name, NULL};
        if (!parse_slowly(args, nargs, kwnames, "O|$O:add_done_callback", names, &fn,
                          &context)) {
            return NULL;
        }
    }
    if (AL_UNLIKELY(context == WAITER)) {
        context = Py_NotImplemented; /* It has no run method either. */
    }
    /* NULL stands for a copy of an empty context. */
    bool empty = context == NULL && al_context_current_is_empty();
    if (!empty) {
        context = context != NULL ? Py_NewRef(context) : PyContext_CopyCurrent();
        if (context == NULL) {
            return NULL;
        }
    }
    int status;
    AL_CRITICAL_BEGIN(op);
    if (!al_future_alive(self)) {
        PyErr_SetString(PyExc_RuntimeError, "uninitialized Future object");
        status = -1;
    }
    else if (al_future_check_thread(self) < 0) {
        status = -1;
    }
    else if (self->state != AL_FUTURE_PENDING) {
        status = schedule_steal(self, Py_NewRef(fn), Py_XNewRef(context), false);
    }
    else if (self->callback0 == NULL && self->callbacks == NULL) {
        self->callback0 = Py_NewRef(fn);
        self->context0 = context == NULL ? NO_CONTEXT : Py_NewRef(context);
        status = 0;
    }
    else {
        if (empty) {
            context = PyContext_New();
        }
        status = context == NULL ? -1 : append_callback(self, fn, context);
    }
    AL_CRITICAL_END();
    Py_XDECREF(context);
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

/* An item of `callbacks` as Python sees it: (callback, context).  New reference. */
static PyObject *
public_callback(PyObject *item)
{
    if (!is_waiter(item)) {
        return Py_NewRef(item);
    }
    PyObject *task = PyTuple_GET_ITEM(item, 0);
    PyObject *wakeup = al_task_wakeup_new(task);
    if (wakeup == NULL) {
        return NULL;
    }
    PyObject *context = al_task_context((al_future *)(void *)task);
    PyObject *pair = context == NULL ? NULL : PyTuple_Pack(2, wakeup, context);
    Py_DECREF(wakeup);
    return pair;
}

/* All callbacks in the form of `callbacks`, callback0 included.  New list. */
static PyObject *
list_callbacks(al_future *self)
{
    PyObject *list = PyList_New(0);
    if (list == NULL) {
        return NULL;
    }
    if (self->callback0 != NULL) {
        if (!self->waiter0 && self->context0 == NO_CONTEXT) {
            PyObject *context = PyContext_New();
            if (context == NULL) {
                Py_DECREF(list);
                return NULL;
            }
            self->context0 = context;
        }
        PyObject *first =
            PyTuple_Pack(2, self->callback0, self->waiter0 ? WAITER : self->context0);
        int status = first == NULL ? -1 : PyList_Append(list, first);
        Py_XDECREF(first);
        if (status < 0) {
            Py_DECREF(list);
            return NULL;
        }
    }
    if (self->callbacks != NULL) {
        Py_ssize_t end = PyList_GET_SIZE(list);
        if (PyList_SetSlice(list, end, end, self->callbacks) < 0) {
            Py_DECREF(list);
            return NULL;
        }
    }
    return list;
}

/* Takes `item`, as list_callbacks listed it, out of the future if it is still there.
 * 1, 0 or -1.  The removed objects are released by the caller through `trash`. */
static int
remove_item(al_future *self, PyObject *item, PyObject *trash)
{
    if (self->callback0 == PyTuple_GET_ITEM(item, 0)) {
        bool waits = is_waiter(item);
        if (waits == self->waiter0 &&
            (waits || self->context0 == PyTuple_GET_ITEM(item, 1))) {
            /* `item` owns the same objects: these releases run nothing. */
            Py_CLEAR(self->callback0);
            Py_CLEAR(self->context0);
            self->waiter0 = false;
            return 1;
        }
    }
    PyObject *list = self->callbacks;
    for (Py_ssize_t i = 0; list != NULL && i < PyList_GET_SIZE(list); i++) {
        if (PyList_GET_ITEM(list, i) == item) {
            if (PyList_Append(trash, item) < 0 ||
                PyList_SetSlice(list, i, i + 1, NULL) < 0) {
                return -1;
            }
            if (PyList_GET_SIZE(list) == 0) {
                Py_CLEAR(self->callbacks);
            }
            return 1;
        }
    }
    return 0;
}

const char al_future_remove_done_callback_doc[] =
    "remove_done_callback($self, fn, /)\n--\n\n"
    "Remove every callback that equals fn; return how many there were.\n\n"
    "Source: asyncio.Future.remove_done_callback.";

/* The comparisons are foreign code that may change the callbacks (gh-97592, gh-125966),
 * so they run on a list of our own, and what matched is removed after them. */
static PyObject *
remove_done_callback(PyObject *op, PyObject *fn)
{
    al_future *self = (al_future *)op;
    PyObject *items = NULL, *trash = NULL, *result = NULL;
    Py_ssize_t removed = 0;
    if (!al_future_alive(self)) {
        PyErr_SetString(PyExc_RuntimeError, "Future object is not initialized.");
        return NULL;
    }
    if (al_future_check_thread(self) < 0) {
        return NULL;
    }
    if (self->callback0 == NULL && self->callbacks == NULL) {
        return PyLong_FromLong(0);
    }
    items = list_callbacks(self);
    trash = PyList_New(0);
    if (items == NULL || trash == NULL) {
        goto done;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(items); i++) {
        PyObject *pair = public_callback(PyList_GET_ITEM(items, i));
        if (pair == NULL) {
            goto done;
        }
        int equal = PyObject_RichCompareBool(PyTuple_GET_ITEM(pair, 0), fn,
                                             Py_EQ); /* escapes */
        Py_DECREF(pair);
        if (equal < 0) {
            goto done;
        }
        if (equal == 0) {
            /* Nobody removes None: it marks what stays. */
            if (PyList_SetItem(items, i, Py_NewRef(Py_None)) < 0) { /* escapes */
                goto done;
            }
        }
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(items); i++) {
        PyObject *item = PyList_GET_ITEM(items, i);
        if (item != Py_None) {
            int found = remove_item(self, item, trash);
            if (found < 0) {
                goto done;
            }
            removed += found;
        }
    }
    result = PyLong_FromSsize_t(removed);

done:
    Py_XDECREF(items); /* escapes */
    Py_XDECREF(trash);
    return result;
}

PyObject *
al_future_py_remove_done_callback(PyObject *op, PyObject *fn)
{
    PyObject *removed;
    AL_CRITICAL_BEGIN(op);
    removed = remove_done_callback(op, fn); /* escapes */
    AL_CRITICAL_END();
    return removed;
}

/* --- completing ------------------------------------------------------------------- */

static int
check_pending(al_future *self)
{
    if (AL_UNLIKELY(self->state != AL_FUTURE_PENDING)) {
        PyErr_SetString(al_future_state(self)->InvalidStateError, "invalid state");
        return -1;
    }
    return 0;
}

static AL_ALWAYS_INLINE int
set_result(al_future *self, PyObject *result)
{
    if (check_pending(self) < 0 || make_room(self) < 0) {
        return -1;
    }
    AL_ASSERT(self->result == NULL || self->base_loop != NULL);
    self->result = Py_NewRef(result);
    AL_STORE(self->state, AL_FUTURE_FINISHED);
    return schedule_callbacks(self);
}

int
al_future_set_result(al_future *self, PyObject *result)
{
    return set_result(self, result);
}

/* gh-112182: since 3.11.8, 3.12.2 and 3.13 a future stores a RuntimeError in the place of
 * a StopIteration, which it refused before. */
static bool
stores_stop_iteration(void)
{
    return Py_Version >= 0x030D0000 ||
           (Py_Version >= 0x030C0200 && Py_Version < 0x030D0000) ||
           (Py_Version >= 0x030B0800 && Py_Version < 0x030C0000);
}

static bool
is_stop_iteration(PyObject *exc)
{
    return stores_stop_iteration()
               ? PyErr_GivenExceptionMatches(exc, PyExc_StopIteration) != 0
               : Py_IS_TYPE(exc, (PyTypeObject *)(void *)PyExc_StopIteration);
}

/* Steals a StopIteration and returns what a future stores in its place, or NULL. */
static PyObject *
replace_stop_iteration_steal(PyObject *exc)
{
    static const char message[] = "StopIteration interacts badly with generators and "
                                  "cannot be raised into a Future";
    if (!stores_stop_iteration()) {
        Py_DECREF(exc);
        PyErr_SetString(PyExc_TypeError, message);
        return NULL;
    }
    PyObject *text = PyUnicode_FromString(message);
    PyObject *error =
        text == NULL ? NULL : PyObject_CallOneArg(PyExc_RuntimeError, text);
    Py_XDECREF(text);
    if (error == NULL) {
        Py_DECREF(exc);
        return NULL;
    }
    PyException_SetCause(error, Py_NewRef(exc));
    PyException_SetContext(error, exc);
    return error;
}

int
al_future_set_exception(al_future *self, PyObject *exc)
{
    if (check_pending(self) < 0) {
        return -1;
    }
    if (PyExceptionClass_Check(exc)) {
        exc = PyObject_CallNoArgs(exc); /* escapes */
        if (exc == NULL) {
            return -1;
        }
        if (check_pending(self) < 0) {
            Py_DECREF(exc);
            return -1;
        }
    }
    else {
        Py_INCREF(exc);
    }
    if (!PyExceptionInstance_Check(exc)) {
        Py_DECREF(exc);
        PyErr_SetString(PyExc_TypeError, "invalid exception object");
        return -1;
    }
    if (is_stop_iteration(exc)) {
        exc = replace_stop_iteration_steal(exc);
        if (exc == NULL) {
            return -1;
        }
    }
    if (make_room(self) < 0) {
        Py_DECREF(exc);
        return -1;
    }
    AL_ASSERT(self->exception == NULL || self->base_loop != NULL);
    if (AL_UNLIKELY(self->exception_tb != NULL) && self->result == NULL) {
        self->result = self->exception_tb; /* see al_future_cancel_stack */
    }
    self->exception = exc;
    self->exception_tb = PyException_GetTraceback(exc);
    AL_STORE(self->state, AL_FUTURE_FINISHED);
    if (schedule_callbacks(self) < 0) { /* escapes */
        return -1;
    }
    self->log_traceback = true;
    return 0;
}

int
al_future_cancel(al_future *self, PyObject *message)
{
    self->log_traceback = false;
    if (self->state != AL_FUTURE_PENDING) {
        return 0;
    }
    if (make_room(self) < 0) {
        return -1;
    }
    AL_STORE(self->state, AL_FUTURE_CANCELLED);
    PyObject *old_message = self->cancel_message;
    self->cancel_message = Py_XNewRef(message);
    int status = schedule_callbacks(self); /* escapes */
    Py_XDECREF(old_message);               /* escapes */
    return status < 0 ? -1 : 1;
}

static int
require_alive(al_future *self)
{
    if (AL_UNLIKELY(!al_future_alive(self))) {
        PyErr_SetString(PyExc_RuntimeError, "Future object is not initialized.");
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(set_result_doc, "set_result($self, result, /)\n--\n\n"
                             "Mark the future done and set its result.\n\n"
                             "InvalidStateError is raised if it is done already.\n\n"
                             "Source: asyncio.Future.set_result.");

static PyObject *
Future_set_result(PyObject *op, PyObject *result)
{
    al_future *self = (al_future *)op;
    int status;
    AL_CRITICAL_BEGIN(op);
    status = require_alive(self) < 0 || al_future_check_thread(self) < 0
                 ? -1
                 : set_result(self, result);
    AL_CRITICAL_END();
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

PyDoc_STRVAR(
    set_exception_doc,
    "set_exception($self, exception, /)\n--\n\n"
    "Mark the future done and set an exception, given as instance or class.\n\n"
    "InvalidStateError is raised if it is done already.\n\n"
    "Source: asyncio.Future.set_exception.");

static PyObject *
Future_set_exception(PyObject *op, PyObject *exc)
{
    al_future *self = (al_future *)op;
    int status;
    AL_CRITICAL_BEGIN(op);
    status = require_alive(self) < 0 || al_future_check_thread(self) < 0
                 ? -1
                 : al_future_set_exception(self, exc);
    AL_CRITICAL_END();
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

PyDoc_STRVAR(cancel_doc,
             "cancel($self, /, msg=None)\n--\n\n"
             "Cancel the future and schedule its callbacks.\n\n"
             "Returns False if it is done already. msg is what the CancelledError\n"
             "is made with.\n\n"
             "Source: asyncio.Future.cancel.");

static PyObject *
Future_cancel(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    al_future *self = (al_future *)op;
    PyObject *message = al_future_parse_cancel(args, nargs, kwnames);
    int cancelled;
    AL_CRITICAL_BEGIN(op);
    cancelled =
        message == NULL || require_alive(self) < 0 || al_future_check_thread(self) < 0
            ? -1
            : al_future_cancel(self, message);
    AL_CRITICAL_END();
    return cancelled < 0 ? NULL : PyBool_FromLong(cancelled);
}

/* --- asking ----------------------------------------------------------------------- */

PyObject *
al_future_make_cancelled_error(al_future *self)
{
    PyObject *exc, *message;
    AL_CRITICAL_BEGIN((PyObject *)self);
    exc = self->cancelled_exc;
    self->cancelled_exc = NULL;
    message = exc != NULL ? NULL : Py_XNewRef(self->cancel_message);
    AL_CRITICAL_END();
    if (exc != NULL) {
        return exc;
    }
    al_state *st = al_future_state(self);
    if (message == NULL || message == Py_None) {
        Py_XDECREF(message);
        return PyObject_CallNoArgs(st->CancelledError);
    }
    exc = PyObject_CallOneArg(st->CancelledError, message); /* escapes */
    Py_DECREF(message);
    return exc;
}

static void
raise_cancelled(al_future *self)
{
    PyObject *exc = al_future_make_cancelled_error(self);
    if (exc != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
        Py_DECREF(exc);
    }
}

int
al_future_outcome(al_future *self, PyObject **exc)
{
    uint8_t state = AL_LOAD(self->state);
    if (AL_UNLIKELY(state != AL_FUTURE_FINISHED)) {
        if (state == AL_FUTURE_CANCELLED) {
            raise_cancelled(self);
        }
        else {
            PyErr_SetString(al_future_state(self)->InvalidStateError,
                            "Result is not set.");
        }
        return -1;
    }
    AL_STORE(self->log_traceback, false);
    if (AL_LIKELY(self->exception == NULL)) {
        return 0;
    }
    *exc = Py_NewRef(self->exception);
    PyObject *traceback;
    AL_CRITICAL_BEGIN((PyObject *)self);
    traceback = self->exception_tb;
    self->exception_tb = NULL;
    AL_CRITICAL_END();
    int status =
        PyException_SetTraceback(*exc, traceback == NULL ? Py_None : traceback);
    Py_XDECREF(traceback); /* escapes */
    if (status < 0) {
        Py_CLEAR(*exc);
        return -1;
    }
    return 1;
}

static int
refuse_uninitialized(al_future *self)
{
    if (AL_UNLIKELY(!al_future_alive(self))) {
        PyErr_SetString(al_future_state(self)->InvalidStateError,
                        "Future object is not initialized.");
        return -1;
    }
    return 0;
}

const char al_future_result_doc[] =
    "result($self, /)\n--\n\n"
    "Return the result, or raise the exception that was set.\n\n"
    "CancelledError is raised if the future was cancelled, InvalidStateError if it is\n"
    "not done yet.\n\n"
    "Source: asyncio.Future.result.";

PyObject *
al_future_py_result(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    al_future *self = (al_future *)op;
    PyObject *exc;
    if (refuse_uninitialized(self) < 0) {
        return NULL;
    }
    int outcome = al_future_outcome(self, &exc);
    if (outcome == 0) {
        return Py_NewRef(self->result);
    }
    if (outcome > 0) {
        PyErr_SetObject(PyExceptionInstance_Class(exc), exc);
        Py_DECREF(exc);
    }
    return NULL;
}

const char al_future_exception_doc[] =
    "exception($self, /)\n--\n\n"
    "Return the exception that was set, or None if there is a result.\n\n"
    "CancelledError is raised if the future was cancelled, InvalidStateError if it is\n"
    "not done yet.\n\n"
    "Source: asyncio.Future.exception.";

PyObject *
al_future_py_exception(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    al_future *self = (al_future *)op;
    if (refuse_uninitialized(self) < 0) {
        return NULL;
    }
    uint8_t state = AL_LOAD(self->state);
    if (state == AL_FUTURE_CANCELLED) {
        raise_cancelled(self);
        return NULL;
    }
    if (state != AL_FUTURE_FINISHED) {
        PyErr_SetString(al_future_state(self)->InvalidStateError,
                        "Exception is not set.");
        return NULL;
    }
    if (self->exception != NULL) {
        AL_STORE(self->log_traceback, false);
        return Py_NewRef(self->exception);
    }
    Py_RETURN_NONE;
}

const char al_future_cancelled_doc[] = "cancelled($self, /)\n--\n\n"
                                       "Return True if the future was cancelled.";

PyObject *
al_future_py_cancelled(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    al_future *self = (al_future *)op;
    return PyBool_FromLong(al_future_alive(self) &&
                           AL_LOAD(self->state) == AL_FUTURE_CANCELLED);
}

const char al_future_done_doc[] =
    "done($self, /)\n--\n\n"
    "Return True if the future has a result or an exception, or was cancelled.";

PyObject *
al_future_py_done(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    al_future *self = (al_future *)op;
    return PyBool_FromLong(al_future_alive(self) &&
                           AL_LOAD(self->state) != AL_FUTURE_PENDING);
}

const char al_future_get_loop_doc[] = "get_loop($self, /)\n--\n\n"
                                      "Return the event loop the future is bound to.";

PyObject *
al_future_py_get_loop(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    al_future *self = (al_future *)op;
    if (self->loop_obj != NULL && self->is_task) {
        return Py_NewRef(self->loop_obj); /* all_tasks() asks, also the base's. */
    }
    return require_alive(self) < 0 ? NULL : Py_NewRef(self->loop_obj);
}

const char al_future_make_cancelled_error_doc[] =
    "_make_cancelled_error($self, /)\n--\n\n"
    "Create the CancelledError to raise if the future is cancelled.\n\n"
    "It is called once per cancellation, as it drops the exception that was kept.";

PyObject *
al_future_py_make_cancelled_error(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return al_future_make_cancelled_error((al_future *)op);
}

const char al_future_class_getitem_doc[] = "See PEP 585";

static PyObject *
Future_repr(PyObject *op)
{
    al_future *self = (al_future *)op;
    if (require_alive(self) < 0) {
        return NULL;
    }
    return PyObject_CallOneArg(al_future_state(self)->future_repr, op); /* escapes */
}

/* --- attributes that asyncio and tools read --------------------------------------- */

static PyObject *
or_none(PyObject *value)
{
    return Py_NewRef(value == NULL ? Py_None : value);
}

static int
refuse_delete(PyObject *self, PyObject *value, const char *name)
{
    if (value != NULL) {
        return 0;
    }
#if PY_VERSION_HEX >= 0x030E0000
    PyErr_Format(PyExc_AttributeError,
                 "attribute '%s' of '%.100s' objects cannot be deleted", name,
                 Py_TYPE(self)->tp_name);
#else
    (void)self;
    (void)name;
    PyErr_SetString(PyExc_AttributeError, "cannot delete attribute");
#endif
    return -1;
}

PyObject *
al_future_get_state(PyObject *op, void *Py_UNUSED(closure))
{
    al_future *self = (al_future *)op;
    if (require_alive(self) < 0) {
        return NULL;
    }
    const al_state *st = al_future_state(self);
    uint8_t state = AL_LOAD(self->state);
    return Py_NewRef(state == AL_FUTURE_PENDING     ? st->str.PENDING
                     : state == AL_FUTURE_CANCELLED ? st->str.CANCELLED
                                                    : st->str.FINISHED);
}

PyObject *
al_future_get_blocking(PyObject *op, void *Py_UNUSED(closure))
{
    al_future *self = (al_future *)op;
    return PyBool_FromLong(al_future_alive(self) && self->blocking);
}

int
al_future_set_blocking(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    al_future *self = (al_future *)op;
    if (require_alive(self) < 0 ||
        refuse_delete(op, value, "_asyncio_future_blocking") < 0) {
        return -1;
    }
    int blocking = PyObject_IsTrue(value); /* escapes */
    if (blocking < 0) {
        return -1;
    }
    self->blocking = blocking != 0;
    return 0;
}

PyObject *
al_future_get_loop(PyObject *op, void *Py_UNUSED(closure))
{
    return or_none(((al_future *)op)->loop_obj);
}

PyObject *
al_future_get_callbacks(PyObject *op, void *Py_UNUSED(closure))
{
    al_future *self = (al_future *)op;
    if (require_alive(self) < 0) {
        return NULL;
    }
    if (al_future_is_foreign(self) ||
        (self->callback0 == NULL && self->callbacks == NULL)) {
        Py_RETURN_NONE;
    }
    PyObject *list = list_callbacks(self);
    for (Py_ssize_t i = 0; list != NULL && i < PyList_GET_SIZE(list); i++) {
        PyObject *pair = public_callback(PyList_GET_ITEM(list, i));
        if (pair == NULL || PyList_SetItem(list, i, pair) < 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

PyObject *
al_future_get_result(PyObject *op, void *Py_UNUSED(closure))
{
    al_future *self = (al_future *)op;
    return require_alive(self) < 0   ? NULL
           : self->exception == NULL ? al_future_word(self, &self->result)
                                     : or_none(NULL);
}

PyObject *
al_future_get_exception(PyObject *op, void *Py_UNUSED(closure))
{
    al_future *self = (al_future *)op;
    return require_alive(self) < 0 ? NULL : al_future_word(self, &self->exception);
}

PyObject *
al_future_get_log_traceback(PyObject *op, void *Py_UNUSED(closure))
{
    al_future *self = (al_future *)op;
    return require_alive(self) < 0 ? NULL : PyBool_FromLong(self->log_traceback);
}

int
al_future_set_log_traceback(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    if (refuse_delete(op, value, "_log_traceback") < 0) {
        return -1;
    }
    int wanted = PyObject_IsTrue(value); /* escapes */
    if (wanted < 0) {
        return -1;
    }
    if (wanted) {
        PyErr_SetString(PyExc_ValueError, "_log_traceback can only be set to False");
        return -1;
    }
    ((al_future *)op)->log_traceback = false;
    return 0;
}

PyObject *
al_future_get_source_traceback(PyObject *op, void *Py_UNUSED(closure))
{
    al_future *self = (al_future *)op;
    if (!al_future_alive(self)) {
        Py_RETURN_NONE;
    }
    if (al_future_is_foreign(self)) {
        PyObject *stack = al_read_at_rest(&self->source_traceback);
        PyObject *list = al_stack_read(al_future_state(self), &stack); /* escapes */
        Py_XDECREF(stack);
        return list;
    }
    return al_stack_read(al_future_state(self), &self->source_traceback);
}

PyObject *
al_future_get_cancel_message(PyObject *op, void *Py_UNUSED(closure))
{
    al_future *self = (al_future *)op;
    return al_future_word(self, &self->cancel_message);
}

int
al_future_set_cancel_message(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    if (refuse_delete(op, value, "_cancel_message") < 0) {
        return -1;
    }
    Py_XSETREF(((al_future *)op)->cancel_message, Py_NewRef(value)); /* escapes */
    return 0;
}

/* --- the end ---------------------------------------------------------------------- */

static const char *
short_type_name(PyObject *op)
{
    const char *name = Py_TYPE(op)->tp_name;
    const char *dot = strrchr(name, '.');
    return dot == NULL ? name : dot + 1;
}

PyObject *
al_future_cancel_told(al_state *st, al_future *self)
{
    /* A copy of the word: which one it is depends on the future. */
    PyObject *word = Py_XNewRef(*al_future_cancel_stack(self));
    PyObject *stack = al_stack_read_present(st, &word); /* escapes */
    Py_XDECREF(word);                                   /* escapes */
    PyObject *module =
        stack == NULL ? NULL : PyImport_ImportModule("aioloop._cancels"); /* escapes */
    PyObject *told = module == NULL ? NULL
                                    : PyObject_CallMethod(module, "CancelStack", "O",
                                                          stack); /* escapes */
    if (told == NULL) {
        PyErr_Clear(); /* The report itself is worth more. */
    }
    Py_XDECREF(module);
    Py_XDECREF(stack);
    return told;
}

void
al_future_finalize(PyObject *op)
{
    al_future *self = (al_future *)op;
    if (!self->log_traceback || !al_future_alive(self)) {
        return;
    }
    al_state *st = al_future_state(self);
    self->log_traceback = false;
    if (st->Future_type == NULL) {
        return; /* The module has been cleared: the interpreter is shutting down. */
    }
    PyObject *saved = al_err_take();
    PyObject *loop = Py_NewRef(self->loop_obj);
    PyObject *message =
        PyUnicode_FromFormat("%s exception was never retrieved", short_type_name(op));
    PyObject *traceback = al_stack_read_present(st, &self->source_traceback);
    if (traceback == NULL && PyErr_Occurred()) {
        Py_CLEAR(message);
    }
    al_misuse_found(st, loop, AL_UNRETRIEVED, op, traceback); /* escapes */
    PyObject *cancelled =
        message == NULL ? NULL : al_future_cancel_told(st, self); /* escapes */
    if (al_report_context(st, loop, message, "exception", self->exception, "future", op,
                          "source_traceback", traceback, "cancelled_from", cancelled,
                          NULL) < 0) { /* escapes */
        PyErr_WriteUnraisable(loop);
    }
    Py_XDECREF(cancelled);
    Py_XDECREF(traceback);
    Py_DECREF(loop);
    al_err_put_steal(saved);
}

/* What asyncio's Handle for a done-callback holds (an al_describe_fn). */
static int
describe_call(al_loop *Py_UNUSED(loop), const al_slot *slot, PyObject **callback,
              PyObject **args, PyObject **context)
{
    *args = PyTuple_Pack(1, slot->arg);
    if (*args == NULL) {
        return -1;
    }
    *callback = Py_NewRef(slot->self);
    *context = Py_XNewRef(slot->extra);
    return 0;
}

/* --- the type --------------------------------------------------------------------- */

static PyMethodDef future_methods[] = {
    {"set_result", Future_set_result, METH_O, set_result_doc},
    {"set_exception", Future_set_exception, METH_O, set_exception_doc},
    {"cancel", (PyCFunction)(void (*)(void))Future_cancel,
     METH_FASTCALL | METH_KEYWORDS, cancel_doc},
    AL_FUTURE_METHODS{NULL, NULL, 0, NULL},
};

static PyGetSetDef future_getsets[] = {
    AL_FUTURE_GETSETS{NULL, NULL, NULL, NULL, NULL},
};

static char future_doc[] =
    "Future(*, loop=None)\n--\n\n"
    "A result that is not there yet; an asyncio.Future.\n\n"
    "loop is the event loop that runs the callbacks; None means\n"
    "asyncio.get_event_loop().";

static PyType_Slot future_slots[] = {
    {Py_tp_doc, future_doc},
    {Py_tp_new, Future_new},
    {Py_tp_init, Future_init},
    {Py_tp_dealloc, al_future_dealloc},
    {Py_tp_traverse, al_future_traverse},
    {Py_tp_clear, al_future_clear_fields},
    {Py_tp_finalize, al_future_finalize},
    {Py_tp_repr, Future_repr},
    {Py_tp_iter, al_await_new},
    {Py_am_await, al_await_new},
    {Py_tp_methods, future_methods},
    {Py_tp_getset, future_getsets},
    {0, NULL},
};

static PyType_Spec future_spec = {
    .name = "aioloop.Future",
    .basicsize = sizeof(al_future),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = future_slots,
};

struct visits {
    PyObject *wanted;
    int count;
};

static int
count_visits(PyObject *object, void *arg)
{
    struct visits *visits = arg;
    visits->count += object == visits->wanted;
    return 0;
}

/* The words of the base's struct that hold objects. */
static const size_t object_words[] = {
    offsetof(al_future, base_loop),      offsetof(al_future, callback0),
    offsetof(al_future, context0),       offsetof(al_future, callbacks),
    offsetof(al_future, exception),      offsetof(al_future, exception_tb),
    offsetof(al_future, result),         offsetof(al_future, source_traceback),
    offsetof(al_future, cancel_message), offsetof(al_future, cancelled_exc),
#if PY_VERSION_HEX < 0x030D0000
    offsetof(al_future, base_dict),
#endif
#if PY_VERSION_HEX >= 0x030E0000
    offsetof(al_future, awaited_by),
#endif
    offsetof(al_future, fut_waiter),     offsetof(al_future, coro),
    offsetof(al_future, name),           offsetof(al_future, context),
};

/* How many of them a struct of that size has. */
static size_t
count_object_words(size_t bytes)
{
    size_t count = 0;
    while (count < sizeof(object_words) / sizeof(object_words[0]) &&
           object_words[count] < bytes) {
        count++;
    }
    return count;
}

static PyObject **
word_at(PyObject *specimen, size_t offset)
{
    return (PyObject **)(void *)((char *)specimen + offset);
}

static int
visits_of(const PyTypeObject *base, PyObject *specimen, PyObject *value)
{
    struct visits visits = {value, 0};
    (void)base->tp_traverse(specimen, count_visits, &visits);
    return visits.count;
}

/* Whether the base takes exactly our words for objects: they are visited, and no other
 * one is, which a specimen shows that has the same object everywhere.  Nothing follows a
 * pointer here, whatever the words are. */
static bool
visits_match(const PyTypeObject *base, PyObject *specimen, PyObject *value, int lie)
{
    size_t bytes = (size_t)base->tp_basicsize, count = count_object_words(bytes);
    for (size_t i = 0; i < count; i++) {
        bool moved = lie != 0 && i == count - 1;
        PyObject **word =
            word_at(specimen, object_words[i] + (moved ? sizeof(*word) : 0));
        *word = value;
        int visits = visits_of(base, specimen, value);
        *word = NULL;
        if (visits != 1) {
            return false;
        }
    }
    for (size_t at = sizeof(PyObject); at < bytes; at += sizeof(PyObject *)) {
        *word_at(specimen, at) = value;
    }
    int visits = visits_of(base, specimen, value);
    memset((char *)specimen + sizeof(PyObject), 0, bytes - sizeof(PyObject));
    return visits == (int)count;
}

/* Whether the base clears them.  It may, since it visits them. */
static bool
clearing_matches(const PyTypeObject *base, PyObject *specimen, PyObject *value)
{
    size_t count = count_object_words((size_t)base->tp_basicsize);
    bool matches = true;
    for (size_t i = 0; i < count; i++) {
        PyObject **word = word_at(specimen, object_words[i]);
        *word = Py_NewRef(value);
        (void)base->tp_clear(specimen);
        matches = matches && *word == NULL;
        Py_CLEAR(*word);
    }
    return matches;
}

/* Whether the base's methods find the loop in our word for it, which is how they refuse:
 * its getter shows what is there.  1, 0 or -1. */
static int
loop_matches(PyTypeObject *base, PyObject *specimen, PyObject *value)
{
    PyObject *name = PyUnicode_InternFromString("_loop");
    PyObject *descriptor = name == NULL ? NULL : _PyType_Lookup(base, name);
    PyObject **word = word_at(specimen, offsetof(al_future, base_loop));
    int matches = name == NULL ? -1 : 0;
    if (descriptor != NULL && Py_IS_TYPE(descriptor, &PyGetSetDescr_Type)) {
        descrgetfunc get = Py_TYPE(descriptor)->tp_descr_get;
        PyObject *none = get(descriptor, specimen, (PyObject *)Py_TYPE(specimen));
        PyErr_Clear(); /* A getter that wants more of the object. */
        *word = Py_NewRef(value);
        PyObject *found = get(descriptor, specimen, (PyObject *)Py_TYPE(specimen));
        Py_CLEAR(*word);
        PyErr_Clear();
        matches = none == Py_None && found == value;
        Py_XDECREF(none);
        Py_XDECREF(found);
    }
    Py_XDECREF(name);
    return matches;
}

static bool
offsets_match(const PyTypeObject *type)
{
#if PY_VERSION_HEX < 0x030D0000
    return type->tp_dictoffset == (Py_ssize_t)offsetof(al_future, base_dict) &&
           type->tp_weaklistoffset == (Py_ssize_t)offsetof(al_future, base_weakrefs);
#else
    return type->tp_weaklistoffset != 0;
#endif
}

static int
layout_matches(PyTypeObject *base, PyTypeObject *ours, int lie)
{
    if (!offsets_match(ours)) {
        return 0;
    }
    PyObject *specimen = ours->tp_alloc(ours, 0);
    PyObject *value = PyDict_New();
    int matches = specimen == NULL || value == NULL ? -1 : 0;
    if (matches == 0) {
        /* Whoever meets it on his way through all objects would meet it half-made. */
        PyObject_GC_UnTrack(specimen);
        if (visits_match(base, specimen, value, lie) &&
            clearing_matches(base, specimen, value)) {
            matches = loop_matches(base, specimen, value);
        }
    }
    Py_XDECREF(specimen);
    Py_XDECREF(value);
    return matches;
}

int
al_future_add_type(PyObject *module, al_state *st, al_layout layout,
                   PyTypeObject **slot, PyType_Spec *spec, PyObject *base_object,
                   size_t base_bytes)
{
    PyTypeObject *base = (PyTypeObject *)(void *)base_object;
    int matches = 0;
    if (!al_layout_is_off(st, layout) &&
        base->tp_basicsize == (Py_ssize_t)base_bytes + al_layout_lie(layout, 0) &&
        base->tp_itemsize == 0 && base->tp_traverse != NULL && base->tp_clear != NULL) {
        if (al_state_add_type(module, slot, spec, base_object) < 0) {
            return -1;
        }
        matches = layout_matches(base, *slot, al_layout_lie(layout, 1));
    }
    if (matches == 0) {
        Py_CLEAR(*slot);
        al_layout_turn_off(st, layout);
    }
    return matches;
}

int
al_future_init_types(PyObject *module, al_state *st)
{
    int known =
        al_future_add_type(module, st, AL_LAYOUT_FUTURE, &st->Future_type, &future_spec,
                           st->asyncio_Future, AL_FUTURE_BASE_BYTES);
    if (known < 0) {
        return -1;
    }
    if (known) {
        st->Future_type->tp_vectorcall = Future_vectorcall;
    }
    else {
        al_layout_turn_off(st, AL_LAYOUT_TASK); /* A Task begins with a Future. */
    }
    if (al_debug_describe(st, al_future_call_run, describe_call, 0) < 0) {
        return -1;
    }
    return al_stop_init_type(module, st) < 0 ? -1 : al_await_init_types(module, st);
}
