/* calls.c: call_soon and its kin, create_future, create_task, add_reader's inner part.
 *
 * Checks and messages mirror asyncio.base_events.BaseEventLoop. */
#include "loop/calls.h"

#include "base/args.h"
#include "core/handle.h"
#include "core/sched.h"
#include "core/standin.h"
#include "core/watch.h"
#include "task/future.h"
#include "task/task.h"

static int
check_closed(const al_loop *loop)
{
    if (AL_UNLIKELY(AL_LOAD(loop->closed))) {
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
        return -1;
    }
    return 0;
}

/* The debug-mode checks of a scheduling call. */
static int
check_debug(al_loop *loop, PyObject *callback, const char *method, bool thread)
{
    if (thread && al_debug_check_thread(loop) < 0) {
        return -1;
    }
    return al_debug_check_callback(loop, callback, method); /* escapes */
}

/* --- call_soon ------------------------------------------------------------------------ */

static const al_signature call_soon_signature = {
    .function = "BaseEventLoop.call_soon",
    .names = {"callback", "context"},
    .positional = 1,
    .required = 1,
    .total = 2,
    .rest = true,
};

static const al_signature inner_call_soon_signature = {
    .function = "BaseEventLoop._call_soon",
    .names = {"callback", "args", "context"},
    .positional = 3,
    .required = 3,
    .total = 3,
};

static const al_signature call_soon_threadsafe_signature = {
    .function = "BaseEventLoop.call_soon_threadsafe",
    .names = {"callback", "context"},
    .positional = 1,
    .required = 1,
    .total = 2,
    .rest = true,
};

/* What a function adds to debug.frames_above: nothing where another thread runs the loop,
 * which counts there itself. */
static inline int
frames_here(const al_loop *self, int frames)
{
    return al_inbox_is_foreign(self) ? 0 : frames;
}

static PyObject *
push_handle(al_loop *self, PyObject *callback, PyObject *const *args, Py_ssize_t nargs,
            PyObject *context, bool threadsafe)
{
    threadsafe = threadsafe && self->st->ThreadSafeHandle_type != NULL; /* 3.14+ */
    PyTypeObject *type =
        threadsafe ? self->st->ThreadSafeHandle_type : self->st->Handle_type;
    al_handle *handle = al_handle_new(self, type, callback, args, nargs, context);
    if (handle != NULL &&
        al_sched_push_steal(self, threadsafe ? al_handle_run_threadsafe : al_handle_run,
                            Py_NewRef((PyObject *)handle), NULL, NULL) < 0) {
        Py_CLEAR(handle);
    }
    return (PyObject *)handle;
}

static PyObject *
schedule_soon(al_loop *self, const al_signature *signature, PyObject *const *args,
              Py_ssize_t nargs, PyObject *kwnames, bool threadsafe)
{
    PyObject *values[2];
    Py_ssize_t rest;
    if (AL_LIKELY(kwnames == NULL && nargs > 0)) {
        values[0] = args[0];
        values[1] = NULL;
        rest = 1;
    }
    else if (al_args_parse(signature, args, nargs, kwnames, values, &rest) < 0) {
        return NULL;
    }
    if (check_closed(self) < 0) {
        return NULL;
    }
    if (AL_UNLIKELY(AL_LOAD(self->debug.switches) & AL_DEBUG_CHECKS) &&
        check_debug(self, values[0], signature->function + sizeof("BaseEventLoop.") - 1,
                    !threadsafe) < 0) {
        return NULL;
    }
    return push_handle(self, values[0], args + rest, nargs - rest, values[1],
                       threadsafe);
}

PyDoc_STRVAR(call_soon_doc,
             "call_soon($self, /, callback, *args, context=None)\n--\n\n"
             "Arrange for callback(*args) to be called at the next iteration.\n\n"
             "Callbacks run in the order of registration, each exactly once, in\n"
             "`context` or a copy of the current one.  Returns a Handle.\n\n"
             "Source: asyncio, loop.call_soon.");

static PyObject *
EventLoop_call_soon(al_loop *self, PyObject *const *args, Py_ssize_t nargs,
                    PyObject *kwnames)
{
    AL_OBEY(self, "call_soon", args, nargs, kwnames);
    return schedule_soon(self, &call_soon_signature, args, nargs, kwnames, false);
}

/* What asyncio's call_soon calls when somebody has wrapped it. */
static PyObject *
EventLoop__call_soon(al_loop *self, PyObject *const *args, Py_ssize_t nargs,
                     PyObject *kwnames)
{
    AL_OBEY(self, "_call_soon", args, nargs, kwnames);
    PyObject *values[3];
    if (al_args_parse(&inner_call_soon_signature, args, nargs, kwnames, values, NULL) <
        0) {
        return NULL;
    }
    if (!PyTuple_CheckExact(values[1])) {
        PyErr_SetString(PyExc_TypeError, "the arguments of a callback are a tuple");
        return NULL;
    }
    int above =
        frames_here(self, -1); /* asyncio's call_soon takes its own frame away. */
    self->debug.frames_above += above;
    PyObject *handle = push_handle(self, values[0], &PyTuple_GET_ITEM(values[1], 0),
                                   PyTuple_GET_SIZE(values[1]), values[2], false);
    self->debug.frames_above -= above;
    return handle;
}

PyDoc_STRVAR(call_soon_threadsafe_doc,
             "call_soon_threadsafe($self, /, callback, *args, context=None)\n--\n\n"
             "Like call_soon, but may be called from any thread; wakes the loop.\n\n"
             "Source: asyncio, loop.call_soon_threadsafe.");

static PyObject *
EventLoop_call_soon_threadsafe(al_loop *self, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames)
{
    AL_OBEY(self, "call_soon_threadsafe", args, nargs, kwnames);
    PyObject *handle = schedule_soon(self, &call_soon_threadsafe_signature, args, nargs,
                                     kwnames, true);
    if (handle != NULL) {
        al_wake_up(self);
    }
    return handle;
}

/* --- timers ---------------------------------------------------------------------------- */

static const al_signature call_later_signature = {
    .function = "BaseEventLoop.call_later",
    .names = {"delay", "callback", "context"},
    .positional = 2,
    .required = 2,
    .total = 3,
    .rest = true,
};

static const al_signature call_at_signature = {
    .function = "BaseEventLoop.call_at",
    .names = {"when", "callback", "context"},
    .positional = 2,
    .required = 2,
    .total = 3,
    .rest = true,
};

/* A timer at `when` seconds; `when_object` is what the caller gave if it was no float.
 * `now` is the loop's time, or NaN if it has not been read. */
static PyObject *
push_timer(al_loop *self, double when, PyObject *when_object, double now,
           PyObject *callback, PyObject *const *args, Py_ssize_t nargs,
           PyObject *context)
{
    al_handle *timer =
        al_handle_new(self, self->st->TimerHandle_type, callback, args, nargs, context);
    if (timer == NULL) {
        return NULL;
    }
    timer->when = when;
    timer->when_object = Py_XNewRef(when_object);
    if (al_timers_add(self, timer, now) < 0) {
        Py_DECREF(timer);
        return NULL;
    }
    return (PyObject *)timer;
}

static PyObject *
schedule_timer(al_loop *self, PyObject **values, PyObject *const *args,
               Py_ssize_t nargs, bool relative)
{
    double now, when;
    PyObject *when_object = NULL, *result = NULL;
    bool clock_read = relative;

    if (relative && al_sched_time(self, &now) < 0) {
        return NULL;
    }
    if (relative && (PyFloat_CheckExact(values[0]) || PyLong_CheckExact(values[0]))) {
        double delay = PyFloat_CheckExact(values[0]) ? PyFloat_AS_DOUBLE(values[0])
                                                     : PyLong_AsDouble(values[0]);
        if (delay == -1.0 && PyErr_Occurred()) {
            return NULL;
        }
        when = now + delay;
    }
    else {
        if (relative) {
            /* Whatever self.time() + delay gives, as in asyncio. */
            PyObject *time = PyFloat_FromDouble(now);
            if (time == NULL) {
                return NULL;
            }
            when_object = PyNumber_Add(time, values[0]); /* escapes */
            Py_DECREF(time);
        }
        else {
            when_object = Py_NewRef(values[0]);
        }
        if (when_object == NULL) {
            return NULL;
        }
        when = PyFloat_AsDouble(when_object); /* escapes */
        if (when == -1.0 && PyErr_Occurred()) {
            goto done;
        }
        if (PyFloat_CheckExact(when_object)) {
            Py_CLEAR(when_object);
        }
    }
    if (check_closed(self) < 0) {
        goto done;
    }
    if (AL_UNLIKELY(AL_LOAD(self->debug.switches) &
                    (AL_DEBUG_CHECKS | AL_DEBUG_CLOCK))) {
        if (check_debug(self, values[1], "call_at", true) < 0) {
            goto done;
        }
        if ((AL_LOAD(self->debug.switches) & AL_DEBUG_CLOCK) != 0) {
            when = al_virtual_round(when);
        }
    }
    if (!clock_read) {
        /* An absolute deadline in the past need not see the heap either. */
        now = self->overrides.as_asyncio ? -Py_HUGE_VAL : al_sched_now();
    }
    self->debug.frames_above += relative;
    result =
        push_timer(self, when, when_object, now, values[1], args, nargs, values[2]);
    self->debug.frames_above -= relative;

done:
    Py_XDECREF(when_object);
    return result;
}

/* loop.call_at has been replaced: self.call_at(self.time() + delay, ...), as asyncio. */
static PyObject *
call_later_by_call_at(al_loop *self, PyObject **values, PyObject *const *args,
                      Py_ssize_t nargs)
{
    PyObject *result = NULL, *when = NULL, *call_at = NULL, *kwargs = NULL;
    PyObject *time = PyObject_CallMethodNoArgs((PyObject *)self, self->st->str.time);
    PyObject *positional = PyTuple_New(nargs + 2);
    if (time == NULL || positional == NULL) {
        goto done;
    }
    when = PyNumber_Add(time, values[0]); /* escapes */
    call_at = PyObject_GetAttr((PyObject *)self, self->st->str.call_at);
    kwargs = Py_BuildValue("{s:O}", "context", values[2] == NULL ? Py_None : values[2]);
    if (when == NULL || call_at == NULL || kwargs == NULL) {
        goto done;
    }
    PyTuple_SET_ITEM(positional, 0, Py_NewRef(when));
    PyTuple_SET_ITEM(positional, 1, Py_NewRef(values[1]));
    for (Py_ssize_t i = 0; i < nargs; i++) {
        PyTuple_SET_ITEM(positional, i + 2, Py_NewRef(args[i]));
    }
    result = PyObject_Call(call_at, positional, kwargs); /* escapes */

done:
    Py_XDECREF(time);
    Py_XDECREF(when);
    Py_XDECREF(call_at);
    Py_XDECREF(kwargs);
    Py_XDECREF(positional);
    return result;
}

PyDoc_STRVAR(call_later_doc,
             "call_later($self, /, delay, callback, *args, context=None)\n--\n\n"
             "Arrange for callback(*args) to be called after `delay` seconds.\n\n"
             "The delay may be an int or a float; zero or less means as soon as\n"
             "possible.  The callback is never called early.  Returns a\n"
             "TimerHandle.\n\n"
             "Source: asyncio, loop.call_later.");

static PyObject *
EventLoop_call_later(al_loop *self, PyObject *const *args, Py_ssize_t nargs,
                     PyObject *kwnames)
{
    AL_OBEY(self, "call_later", args, nargs, kwnames);
    AL_OWN(self, NULL);
    PyObject *values[3];
    Py_ssize_t rest;
    if (AL_LIKELY(kwnames == NULL && nargs >= 2)) {
        values[0] = args[0];
        values[1] = args[1];
        values[2] = NULL;
        rest = 2;
    }
    else if (al_args_parse(&call_later_signature, args, nargs, kwnames, values, &rest) <
             0) {
        return NULL;
    }
    if (values[0] == Py_None) {
        PyErr_SetString(PyExc_TypeError, "delay must not be None");
        return NULL;
    }
    if (AL_UNLIKELY(self->overrides.call_at)) {
        return call_later_by_call_at(self, values, args + rest, nargs - rest);
    }
    return schedule_timer(self, values, args + rest, nargs - rest, true);
}

PyDoc_STRVAR(call_at_doc,
             "call_at($self, /, when, callback, *args, context=None)\n--\n\n"
             "Arrange for callback(*args) to be called at `when`, in seconds on the\n"
             "clock of loop.time().  Returns a TimerHandle.\n\n"
             "Source: asyncio, loop.call_at.");

static PyObject *
EventLoop_call_at(al_loop *self, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    AL_OBEY(self, "call_at", args, nargs, kwnames);
    AL_OWN(self, NULL);
    PyObject *values[3];
    Py_ssize_t rest;
    if (AL_LIKELY(kwnames == NULL && nargs >= 2)) {
        values[0] = args[0];
        values[1] = args[1];
        values[2] = NULL;
        rest = 2;
    }
    else if (al_args_parse(&call_at_signature, args, nargs, kwnames, values, &rest) <
             0) {
        return NULL;
    }
    if (values[0] == Py_None) {
        PyErr_SetString(PyExc_TypeError, "when cannot be None");
        return NULL;
    }
    return schedule_timer(self, values, args + rest, nargs - rest, false);
}

PyDoc_STRVAR(time_doc, "time($self, /)\n--\n\n"
                       "Return the time in seconds on the monotonic clock.\n\n"
                       "Source: time.monotonic (CLOCK_MONOTONIC).");

static PyObject *
EventLoop_time(al_loop *self, PyObject *Py_UNUSED(ignored))
{
    AL_OBEY_IF(al_override_stale(self) || al_watch_stale(self->st), self, "time", NULL,
               0, NULL);
    return PyFloat_FromDouble(al_sched_clock(self));
}

/* --- futures and tasks ------------------------------------------------------------------ */

PyDoc_STRVAR(create_future_doc, "create_future($self, /)\n--\n\n"
                                "Return a new aioloop.Future of this loop.\n\n"
                                "Source: asyncio, loop.create_future.");

static PyObject *
EventLoop_create_future(al_loop *self, PyObject *Py_UNUSED(ignored))
{
    AL_OBEY_IF(al_override_stale(self) || al_watch_stale(self->st), self,
               "create_future", NULL, 0, NULL);
    return al_future_new(self);
}

static const al_signature create_task_signature = {
    .function = "BaseEventLoop.create_task",
    .names = {"coro", "name", "context", "eager_start"},
    .positional = 1,
    .required = 1,
#if PY_VERSION_HEX >= 0x030D0300
    .total = 4,
#else
    .total = 3,
#endif
};

/* BaseEventLoop.create_task(self, coro, **kwargs): how a version calls a factory. */
static PyObject *
create_task_by_factory(al_loop *self, PyObject *const *args, Py_ssize_t nargs,
                       PyObject *kwnames)
{
    PyObject *base = Py_XNewRef(_PyType_Lookup(
        (PyTypeObject *)self->st->SelectorEventLoop, self->st->str.create_task));
    if (base == NULL) {
        PyErr_SetString(PyExc_AttributeError, "create_task");
        return NULL;
    }
    PyObject *task =
        al_standin_call(base, (PyObject *)self, args, nargs, kwnames); /* escapes */
    Py_DECREF(base);
    return task;
}

PyDoc_STRVAR(create_task_doc,
#if PY_VERSION_HEX >= 0x030E0000
             "create_task($self, /, coro, **kwargs)\n--\n\n"
#elif PY_VERSION_HEX >= 0x030D0300
             "create_task($self, /, coro, *, name=None, context=None, **kwargs)\n--\n\n"
#else
             "create_task($self, /, coro, *, name=None, context=None)\n--\n\n"
#endif
             "Schedule a coroutine and return its aioloop.Task.\n\n"
             "With a task factory set, return what the factory makes.\n\n"
             "Source: asyncio, loop.create_task.");

static PyObject *
EventLoop_create_task(al_loop *self, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames)
{
    AL_OBEY_IF(al_override_stale(self) || al_watch_stale(self->st) ||
                   al_standin_create_task_changed(self->st),
               self, "create_task", args, nargs, kwnames);
    PyObject *values[4] = {NULL, NULL, NULL, NULL};
    int eager_start = -1;
    if (AL_UNLIKELY(self->task_factory != NULL)) {
        al_state *st = self->st;
        if (self->task_factory != st->eager_task_factory ||
            !al_standin_eager_factory_intact(st)) {
            return create_task_by_factory(self, args, nargs, kwnames);
        }
        eager_start = 1;
    }
    if (AL_LIKELY(kwnames == NULL && nargs == 1)) {
        values[0] = args[0];
    }
    else if (al_args_parse(&create_task_signature, args, nargs, kwnames, values, NULL) <
             0) {
        /* asyncio's own function knows what it or the task takes. */
        PyErr_Clear(); /* TypeError: an argument that we do not know. */
        return create_task_by_factory(self, args, nargs, kwnames);
    }
    if (check_closed(self) < 0) {
        return NULL;
    }
    if (values[3] != NULL && values[3] != Py_None) {
        eager_start = PyObject_IsTrue(values[3]);
        if (eager_start < 0) {
            return NULL;
        }
    }
    int above = frames_here(self, 1);
    self->debug.frames_above += above;
    PyObject *task =
        al_task_new(self, values[0], values[1], values[2], eager_start); /* escapes */
    self->debug.frames_above -= above;
    return task;
}

/* What asyncio's own create_task, which runs when somebody has wrapped it, takes for the
 * loop's task factory: makes our tasks.  (loop, coro, **kwargs) */
static PyObject *
inner_task_factory(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                   PyObject *kwnames)
{
    al_loop *self = (al_loop *)op;
    PyObject *values[4] = {NULL, NULL, NULL, NULL};
    int eager_start = -1;
    if (nargs < 1 || al_args_parse(&create_task_signature, args + 1, nargs - 1, kwnames,
                                   values, NULL) < 0) {
        return NULL;
    }
    if (values[3] != NULL && values[3] != Py_None) {
        eager_start = PyObject_IsTrue(values[3]);
        if (eager_start < 0) {
            return NULL;
        }
    }
    PyObject *task =
        al_task_new(self, values[0], values[1], values[2], eager_start); /* escapes */
    if (task != NULL &&
        AL_UNLIKELY(AL_LOAD(self->debug.switches) & AL_DEBUG_TRACEBACKS)) {
        /* asyncio's method takes its own frame away only from a task that it made. */
        PyObject *stack = PyObject_GetAttrString(task, "_source_traceback");
        if (stack == NULL ||
            (PyList_Check(stack) && PyList_GET_SIZE(stack) > 0 &&
             PySequence_DelItem(stack, PyList_GET_SIZE(stack) - 1) < 0)) {
            Py_CLEAR(task);
        }
        Py_XDECREF(stack);
    }
    return task;
}

static PyMethodDef inner_task_factory_def = {
    "task_factory", (PyCFunction)(void (*)(void))inner_task_factory,
    METH_FASTCALL | METH_KEYWORDS, NULL};

/* 3.13's create_task (3.13.5's still) gives what a factory has made the name str(None). */
static bool
names_are_kept(void)
{
    unsigned long version = Py_Version >> 16;
    return version != 0x030D;
}

PyObject *
al_calls_inner_task_factory(al_loop *self)
{
    const al_state *st = self->st;
    if (al_standin_other(st, st->EventLoop_type, "create_task") == NULL ||
        !al_standin_task_intact(st) || !names_are_kept()) {
        Py_RETURN_NONE;
    }
    return PyCFunction_New(&inner_task_factory_def, (PyObject *)self);
}

/* --- what asyncio's own code calls on its loop ------------------------------------------- */

/* Mirrors BaseEventLoop._add_callback; subprocess and signal code use it. */
static PyObject *
EventLoop__add_callback(al_loop *self, PyObject *op)
{
    AL_OBEY(self, "_add_callback", &op, 1, NULL);
    int status = 0;
    if (al_handle_check(self->st, op)) {
        if (!((al_handle *)op)->cancelled) {
            status =
                al_sched_push_steal(self, al_handle_run, Py_NewRef(op), NULL, NULL);
        }
    }
    else {
        /* A plain asyncio.Handle, as add_signal_handler makes it: its _run does all. */
        PyObject *cancelled = PyObject_GetAttrString(op, "_cancelled");
        if (cancelled == NULL) {
            return NULL;
        }
        int dead = PyObject_IsTrue(cancelled);
        Py_DECREF(cancelled);
        if (dead < 0) {
            return NULL;
        }
        if (!dead) {
            status = al_sched_push_steal(self, al_handle_run_foreign, Py_NewRef(op),
                                         NULL, NULL);
        }
    }
    if (status < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
EventLoop__write_to_self(al_loop *self, PyObject *Py_UNUSED(ignored))
{
    AL_OBEY(self, "_write_to_self", NULL, 0, NULL);
    al_wake_up(self);
    Py_RETURN_NONE;
}

static PyObject *
EventLoop__timer_handle_cancelled(al_loop *self, PyObject *op)
{
    AL_OBEY(self, "_timer_handle_cancelled", &op, 1, NULL);
    al_timers *timers = &self->timers;
    if (Py_IS_TYPE(op, self->st->TimerHandle_type)) {
        al_handle_timer_cancelled((al_handle *)op);
    }
    else if (timers->lent != NULL) {
        PyObject *scheduled = PyObject_GetAttr(op, self->st->str._scheduled);
        int is_scheduled = scheduled == NULL ? -1 : PyObject_IsTrue(scheduled);
        Py_XDECREF(scheduled);
        if (is_scheduled < 0) {
            return NULL;
        }
        timers->cancelled += (size_t)is_scheduled;
    }
    Py_RETURN_NONE;
}

/* selectors._fileobj_to_fd: an int, or anything with fileno(). */
static int
descriptor_of(al_loop *self, PyObject *fileobj, int *fd)
{
    PyObject *number =
        PyLong_CheckExact(fileobj)
            ? Py_NewRef(fileobj)
            : PyObject_CallOneArg(self->st->fileobj_to_fd, fileobj); /* escapes */
    if (number == NULL) {
        return -1;
    }
    int overflow;
    long value = PyLong_AsLongAndOverflow(number, &overflow);
    int status = value == -1 && PyErr_Occurred() ? -1 : 0;
    if (status == 0 && (overflow < 0 || (overflow == 0 && value < 0))) {
        PyErr_Format(PyExc_ValueError, "Invalid file descriptor: %S", number);
        status = -1;
    }
    else if (status == 0 && (overflow > 0 || value > INT_MAX)) {
        PyErr_SetString(PyExc_OverflowError,
                        "Python int too large to convert to C int");
        status = -1;
    }
    Py_DECREF(number);
    *fd = (int)value;
    return status;
}

/* Mirrors selectors._BaseSelectorImpl._fileobj_lookup: an object that has been closed
 * since it was registered still stands for its number. */
static int
registered_descriptor_of(al_loop *self, PyObject *fileobj, int *fd)
{
    if (descriptor_of(self, fileobj, fd) == 0) {
        return 0;
    }
    bool too_large = PyErr_ExceptionMatches(PyExc_OverflowError);
    if (!too_large && !PyErr_ExceptionMatches(PyExc_ValueError)) {
        return -1;
    }
    *fd = al_fds_number_of(&self->fds, fileobj);
    if (*fd < 0 && !too_large) {
        return -1;
    }
    PyErr_Clear(); /* The object has no descriptor any more, or none has that number. */
    return 0;
}

static const al_signature add_reader_signature = {
    .function = "BaseSelectorEventLoop._add_reader",
    .names = {"fd", "callback", "context"},
    .positional = 2,
    .required = 2,
    .total = 3,
    .rest = true,
};

static const al_signature add_writer_signature = {
    .function = "BaseSelectorEventLoop._add_writer",
    .names = {"fd", "callback", "context"},
    .positional = 2,
    .required = 2,
    .total = 3,
    .rest = true,
};

/* Newer Pythons warn where a bool becomes a descriptor, which is where it is registered.
 * 0, or -1 if the warning is an error. */
static int
warn_of_bool(PyObject *fileobj)
{
    return PyBool_Check(fileobj) && PyObject_AsFileDescriptor(fileobj) < 0 ? -1 : 0;
}

static PyObject *
add_watch(al_loop *self, const al_signature *signature, int event,
          PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *values[3];
    Py_ssize_t rest;
    int fd;
    AL_OWN(self, NULL);
    if (al_args_parse(signature, args, nargs, kwnames, values, &rest) < 0 ||
        check_closed(self) < 0) {
        return NULL;
    }
    self->debug.frames_above--;
    al_handle *handle = al_handle_new(self, self->st->Handle_type, values[1],
                                      args + rest, nargs - rest, values[2]);
    self->debug.frames_above++;
    if (handle == NULL) {
        return NULL;
    }
    PyObject *fileobj = PyLong_Check(values[0]) ? NULL : values[0];
    if (descriptor_of(self, values[0], &fd) < 0 || warn_of_bool(values[0]) < 0 ||
        check_closed(self) < 0 ||
        al_fds_add(self, fd, event, handle, fileobj) < 0) { /* escapes */
        Py_CLEAR(handle);
    }
    return (PyObject *)handle;
}

static PyObject *
EventLoop__add_reader(al_loop *self, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames)
{
    AL_OBEY(self, "_add_reader", args, nargs, kwnames);
    return add_watch(self, &add_reader_signature, AL_READ, args, nargs, kwnames);
}

static PyObject *
EventLoop__add_writer(al_loop *self, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames)
{
    AL_OBEY(self, "_add_writer", args, nargs, kwnames);
    return add_watch(self, &add_writer_signature, AL_WRITE, args, nargs, kwnames);
}

static PyObject *
remove_watch(al_loop *self, PyObject *fileobj, int event)
{
    int fd;
    AL_OWN(self, NULL);
    if (self->closed) {
        Py_RETURN_FALSE;
    }
    if (registered_descriptor_of(self, fileobj, &fd) < 0) {
        return NULL;
    }
    int removed = al_fds_remove(self, fd, event); /* escapes */
    return removed < 0 ? NULL : PyBool_FromLong(removed);
}

static PyObject *
EventLoop__remove_reader(al_loop *self, PyObject *fileobj)
{
    AL_OBEY(self, "_remove_reader", &fileobj, 1, NULL);
    return remove_watch(self, fileobj, AL_READ);
}

static PyObject *
EventLoop__remove_writer(al_loop *self, PyObject *fileobj)
{
    AL_OBEY(self, "_remove_writer", &fileobj, 1, NULL);
    return remove_watch(self, fileobj, AL_WRITE);
}

/* Makes a Handle the reader or writer of a file, or None for nobody, without a look at
 * what somebody has put in the place of _add_reader: for LibevSelector. */
static PyObject *
EventLoop__watch(al_loop *self, PyObject *args)
{
    AL_OWN(self, NULL);
    PyObject *fileobj, *handle, *reader, *writer;
    int event, fd;
    if (!PyArg_ParseTuple(args, "OiO:_watch", &fileobj, &event, &handle) ||
        check_closed(self) < 0 || registered_descriptor_of(self, fileobj, &fd) < 0) {
        return NULL;
    }
    (void)al_fds_get(&self->fds, fd, &reader, &writer);
    int status = 0;
    if (handle == Py_None) {
        status = al_fds_remove(self, fd, event); /* escapes */
    }
    else if (handle != (event == AL_READ ? reader : writer)) {
        if (!al_handle_check(self->st, handle)) {
            PyErr_Format(PyExc_TypeError, "a Handle was expected, got %R", handle);
            return NULL;
        }
        status = al_fds_add(self, fd, event, (al_handle *)handle,
                            PyLong_Check(fileobj) ? NULL : fileobj); /* escapes */
    }
    if (status < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* What is known of a descriptor: (fileobj, fd, reader, writer); the last two are each
 * None, a Handle or a sock_* operation.  None if both are. */
static PyObject *
EventLoop__watched(al_loop *self, PyObject *fileobj)
{
    AL_OWN(self, NULL);
    int fd;
    if (registered_descriptor_of(self, fileobj, &fd) < 0) {
        return NULL;
    }
    PyObject *reader, *writer;
    if (!al_fds_get(&self->fds, fd, &reader, &writer)) {
        Py_RETURN_NONE;
    }
    PyObject *registered = al_fds_find(&self->fds, fd)->fileobj;
    return Py_BuildValue("OiOO", registered == NULL ? fileobj : registered, fd,
                         reader == NULL ? Py_None : reader,
                         writer == NULL ? Py_None : writer);
}

/* The descriptors that have a reader or a writer, as a list of int. */
static PyObject *
EventLoop__watched_fds(al_loop *self, PyObject *Py_UNUSED(ignored))
{
    AL_OWN(self, NULL);
    PyObject *list = PyList_New(0);
    PyObject *reader, *writer;
    for (int fd = 0; list != NULL && fd < self->fds.capacity; fd++) {
        if (al_fds_get(&self->fds, fd, &reader, &writer)) {
            PyObject *number = PyLong_FromLong(fd);
            if (number == NULL || PyList_Append(list, number) < 0) {
                Py_CLEAR(list);
            }
            Py_XDECREF(number);
        }
    }
    return list;
}

#define FAST(function)                                                                 \
    (PyCFunction)(void (*)(void))(function), METH_FASTCALL | METH_KEYWORDS

PyMethodDef al_calls_methods[] = {
    {"call_soon", FAST(EventLoop_call_soon), call_soon_doc},
    {"_call_soon", FAST(EventLoop__call_soon), NULL},
    {"call_soon_threadsafe", FAST(EventLoop_call_soon_threadsafe),
     call_soon_threadsafe_doc},
    {"call_later", FAST(EventLoop_call_later), call_later_doc},
    {"call_at", FAST(EventLoop_call_at), call_at_doc},
    {"time", (PyCFunction)EventLoop_time, METH_NOARGS, time_doc},
    {"create_future", (PyCFunction)EventLoop_create_future, METH_NOARGS,
     create_future_doc},
    {"create_task", FAST(EventLoop_create_task), create_task_doc},
    {"_add_callback", (PyCFunction)EventLoop__add_callback, METH_O, NULL},
    {"_write_to_self", (PyCFunction)EventLoop__write_to_self, METH_NOARGS, NULL},
    {"_timer_handle_cancelled", (PyCFunction)EventLoop__timer_handle_cancelled, METH_O,
     NULL},
    {"_add_reader", FAST(EventLoop__add_reader), NULL},
    {"_add_writer", FAST(EventLoop__add_writer), NULL},
    {"_remove_reader", (PyCFunction)EventLoop__remove_reader, METH_O, NULL},
    {"_remove_writer", (PyCFunction)EventLoop__remove_writer, METH_O, NULL},
    {"_watch", (PyCFunction)EventLoop__watch, METH_VARARGS, NULL},
    {"_watched", (PyCFunction)EventLoop__watched, METH_O, NULL},
    {"_watched_fds", (PyCFunction)EventLoop__watched_fds, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

void
al_calls_init(al_state *st)
{
    st->loop_time = (PyCFunction)EventLoop_time;
    st->loop_call_soon = (PyCFunction)(void (*)(void))EventLoop_call_soon;
    st->loop_create_future = (PyCFunction)EventLoop_create_future;
    st->loop_create_task = (PyCFunction)(void (*)(void))EventLoop_create_task;
    st->loop_call_at = (PyCFunction)(void (*)(void))EventLoop_call_at;
}
