/* loop.c: see loop.h.
 *
 * aioloop.Loop is `class Loop(_core.EventLoop, asyncio.SelectorEventLoop)`.  What
 * asyncio's Python methods read and set on their loop (_debug, _closed, _thread_id,
 * _ready ...) are getsets here; they win over the instance's dictionary.  What is not
 * in C comes from SelectorEventLoop, in each version's own words. */
#include "loop/loop.h"

#include "base/args.h"
#include "core/debug.h"
#include "core/handle.h"
#include "core/meter.h"
#include "core/poll.h"
#include "core/sched.h"
#include "core/signal.h"
#include "core/standin.h"
#include "io/sock.h"
#include "loop/calls.h"
#include "loop/drive.h"
#include "loop/jobs.h"
#include "loop/net.h"
#include "loop/sockets.h"
#include "task/registry.h"

/* --- making and freeing ---------------------------------------------------------------- */

static PyObject *
loop_tp_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    al_loop *self = (al_loop *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
#ifdef AL_HARD
    al_sock_begin_faults();
#endif
    self->wake.read_fd = self->wake.write_fd = self->lost_fd = -1;
    self->st = al_state_of(type);
    al_cork_open(self);
    self->stall_threshold = -1;
    self->look.stride = 1;
    self->look.seldom = LOOK_SELDOM;
    al_look_must(&self->look);
    self->forks = self->st == NULL ? 0 : self->st->forks;
    if (self->st == NULL || al_ring_init(&self->ready) < 0 || al_inbox_open(self) < 0 ||
        al_registry_add_loop(self) < 0 || al_timers_init(&self->timers) < 0) {
        goto error;
    }
    PyObject *slow = PyFloat_FromDouble(0.1);
    self->debug.origin_interval = 1;
    int status = slow == NULL ? -1 : al_debug_set_slow(self, slow);
    Py_XDECREF(slow);
    if (status < 0) {
        goto error;
    }
    self->poll = al_poll_new(self);
    if (self->poll == NULL || al_wake_open(self) < 0 || al_override_refresh(self) < 0) {
        goto error;
    }
    return (PyObject *)self;

error:
    self->closed = true; /* Nothing to warn about: the program never had it. */
    Py_DECREF(self);
    return NULL;
}

/* Frees what the operating system gave us.  Runs once; escapes. */
static void
release_selector(al_loop *self)
{
    if (self->st != NULL && AL_LOAD(self->st->accepted_by) == self) {
        AL_STORE(self->st->accepted_by, NULL);
    }
    al_cork_close(&self->cork);
    if (self->blocking != NULL) {
        self->st->end_blocking(self); /* escapes */
    }
    al_debug_clear(self);     /* escapes */
    al_fds_clear(&self->fds); /* escapes */
    al_wake_close(&self->wake);
    if (self->poll != NULL) {
        al_poll_free(self->poll);
        self->poll = NULL;
    }
    al_arena_clear(&self->arena);
    al_inbox_clear(self); /* escapes */
}

static int
loop_traverse(al_loop *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->spare_context);
    Py_VISIT(self->idle_context);
    Py_VISIT(self->debug.slow_callback_duration);
    Py_VISIT(self->debug.current_handle);
    int metered = al_meter_traverse(self, visit, arg);
    if (metered != 0) {
        return metered;
    }
    Py_VISIT(self->task_factory);
    int current = al_current_traverse(self, visit, arg);
    if (current != 0) {
        return current;
    }
    for (size_t i = 0; i < al_ring_len(&self->ready); i++) {
        const al_slot *slot = al_ring_at(&self->ready, i);
        int status =
            slot->run == al_handle_run || slot->run == al_handle_run_threadsafe
                ? al_handle_traverse_queued((al_handle *)slot->self, visit, arg)
                : visit(slot->self, arg);
        if (status != 0) {
            return status;
        }
        Py_VISIT(slot->arg);
        Py_VISIT(slot->extra);
    }
    int status = al_virtual_traverse(self, visit, arg);
    status = status != 0 ? status : al_inbox_traverse(self, visit, arg);
    status = status != 0 ? status : al_order_traverse(self, visit, arg);
    status = status != 0 ? status : al_trace_traverse(self, visit, arg);
    status = status != 0 ? status : al_faults_traverse(self, visit, arg);
    status = status != 0 ? status : al_timers_traverse(&self->timers, visit, arg);
    return status != 0 ? status : al_fds_traverse(&self->fds, visit, arg);
}

static int
loop_clear(al_loop *self)
{
    Py_CLEAR(self->spare_context);
    Py_CLEAR(self->debug.current_handle);
    Py_CLEAR(self->task_factory);
    al_current_clear(self); /* escapes */
    al_virtual_free(self);  /* escapes */
    al_order_free(self);    /* escapes */
    al_trace_free(self);    /* escapes */
    al_faults_free(self);   /* escapes */
    al_meter_forget(self);  /* escapes */
    if (self->ready.slots != NULL) {
        al_ring_clear(&self->ready);
    }
    al_inbox_clear(self); /* escapes */
    if (self->timers.due != NULL) {
        al_timers_clear(&self->timers);
    }
    al_fds_clear(&self->fds);
    return 0;
}

static void
loop_dealloc(al_loop *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)loop_clear(self); /* escapes */
    release_selector(self);
    Py_CLEAR(self->debug.slow_callback_duration);
    if (self->ready.slots != NULL) {
        al_ring_free(&self->ready);
    }
    al_inbox_free(self); /* escapes */
    al_registry_drop_loop(self);
    if (self->timers.due != NULL) {
        al_timers_free(&self->timers);
    }
    al_arena_clear(&self->arena);
    al_meter_free(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* --- running --------------------------------------------------------------------------- */

static int
leave_signals(al_loop *self)
{
    PyObject *pending = al_err_take();
    PyObject *handlers = PyObject_GetAttrString((PyObject *)self, "_signal_handlers");
    int keep = handlers == NULL ? -1 : PyObject_IsTrue(handlers);
    Py_XDECREF(handlers);
    int status = keep < 0 ? -1 : al_signal_leave(self, keep);
    if (pending != NULL) {
        if (status < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        al_err_put_steal(pending);
        return -1;
    }
    return status;
}

/* The loop becomes that thread's, or nobody's (0). */
static void
set_runner(al_loop *self, unsigned long id)
{
    bool ran = AL_LOAD(self->thread_id) != 0;
    AL_STORE(self->thread_id, id);
    al_inbox_set_runner(self, id);
    if (ran && id == 0) {
        AL_ADD(self->st->running, -1);
    }
    else if (!ran && id != 0) {
        AL_ADD(self->st->running, 1);
    }
}

/* The loop runs no longer: the garbage collector gets the handles that it has. */
static void
runs_no_longer(al_loop *self)
{
    set_runner(self, 0);
    for (size_t i = 0; i < al_ring_len(&self->ready); i++) {
        const al_slot *slot = al_ring_at(&self->ready, i);
        if (slot->run == al_handle_run || slot->run == al_handle_run_threadsafe) {
            al_handle_track((al_handle *)slot->self);
        }
    }
    al_timers_track(&self->timers);
    al_fds_track(&self->fds);
}

/* asyncio's set-up or clean-up, both in Python, broke off: for want of memory, or because
 * a signal's handler raised in it.  A loop that runs no longer may not look as if it did,
 * or nobody can run or close it.  The pending exception stays. */
static void
finish_clean_up(al_loop *self)
{
    PyObject *pending = al_err_take();
    AL_STORE(self->stopping, false);
    runs_no_longer(self);
    PyObject *running =
        PyObject_CallMethod(self->st->asyncio_events, "_get_running_loop", NULL);
    if (running == (PyObject *)self) {
        Py_SETREF(running, PyObject_CallMethod(self->st->asyncio_events,
                                               "_set_running_loop", "O", Py_None));
    }
    if (running == NULL) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(running);
    /* The rest is the hooks for asynchronous generators, and coroutine origins. */
    PyObject *result = PyObject_CallMethodNoArgs(
        (PyObject *)self, self->st->str._run_forever_cleanup); /* escapes */
    if (result == NULL) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(result);
    al_err_put_steal(pending);
}

/* Calls loop._run_forever_cleanup.  0 or -1; an exception that is pending already comes
 * back, or becomes the context of the one that the method raises. */
static int
clean_up(al_loop *self)
{
    PyObject *pending = al_err_take();
    PyObject *result = PyObject_CallMethodNoArgs(
        (PyObject *)self, self->st->str._run_forever_cleanup); /* escapes */
    if (result == NULL) {
        finish_clean_up(self); /* escapes */
        if (pending != NULL) {
            PyObject *raised = al_err_take();
            PyException_SetContext(raised, pending);
            al_err_put_steal(raised);
        }
        return -1;
    }
    Py_DECREF(result);
    if (pending != NULL) {
        al_err_put_steal(pending);
        return -1;
    }
    return 0;
}

static int
track_origins(al_loop *self)
{
    PyObject *result = PyObject_CallMethod(
        (PyObject *)self, "_set_coroutine_origin_tracking", "O", Py_True);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static int
close_selector_in_turn(al_loop *self)
{
    if (self->poll == NULL) {
        return 0;
    }
    if (al_inbox_is_foreign(self)) {
        return al_inbox_refuse();
    }
    int status = al_signal_leave(self, false);
    release_selector(self); /* escapes */
    return status;
}

static int
close_selector(al_loop *self)
{
    int status;
    AL_CRITICAL_BEGIN((PyObject *)self);
    status = close_selector_in_turn(self); /* escapes */
    AL_CRITICAL_END();
    return status;
}

PyDoc_STRVAR(run_forever_doc, "run_forever($self, /)\n--\n\n"
                              "Run until stop() is called.\n\n"
                              "Source: asyncio, loop.run_forever.");

static PyObject *
EventLoop_run_forever(al_loop *self, PyObject *Py_UNUSED(ignored))
{
    AL_OBEY(self, "run_forever", NULL, 0, NULL);
    al_state *st = self->st;
    bool was_running = AL_LOAD(self->thread_id) != 0;
    PyObject *result = PyObject_CallMethodNoArgs(
        (PyObject *)self, st->str._run_forever_setup); /* escapes */
    if (result == NULL) {
        if (!was_running && AL_LOAD(self->thread_id) == PyThread_get_thread_ident()) {
            finish_clean_up(self); /* escapes */
        }
        return NULL;
    }
    Py_DECREF(result);
    int status = al_sched_check_selector(self); /* escapes */
    if (status == 0) {
        status = al_signal_enter(self); /* escapes */
    }
    if (status == 0 && (self->debug.switches & AL_DEBUG_ORIGINS) != 0) {
        /* asyncio's set-up looks at _debug, which is only one of the switches. */
        status = track_origins(self); /* escapes */
    }
    if (status == 0) {
        status = al_sched_run(self); /* escapes */
    }
    status = leave_signals(self);
    status = clean_up(self); /* escapes */
    if (AL_UNLIKELY(self->closed && self->debug.base == NULL)) {
        PyObject *pending = al_err_take();
        if (close_selector(self) < 0) { /* escapes; close() could not */
            PyErr_WriteUnraisable((PyObject *)self);
        }
        al_err_put_steal(pending);
    }
    if (status < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(run_once_doc, "_run_once($self, /)\n--\n\n"
                           "Run one iteration: wait for events if nothing is ready,\n"
                           "then run what is.");

static PyObject *
EventLoop__run_once(al_loop *self, PyObject *Py_UNUSED(ignored))
{
    AL_OBEY(self, "_run_once", NULL, 0, NULL);
    if (al_sched_run_once(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(stop_doc, "stop($self, /)\n--\n\n"
                       "Stop run_forever at the end of the current iteration.\n\n"
                       "Source: asyncio, loop.stop.");

static PyObject *
EventLoop_stop(al_loop *self, PyObject *Py_UNUSED(ignored))
{
    AL_OBEY(self, "stop", NULL, 0, NULL);
    AL_STORE(self->stopping, true);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(is_running_doc, "is_running($self, /)\n--\n\n"
                             "Return True while the loop runs.");

static PyObject *
EventLoop_is_running(al_loop *self, PyObject *Py_UNUSED(ignored))
{
    AL_OBEY(self, "is_running", NULL, 0, NULL);
    return PyBool_FromLong(AL_LOAD(self->thread_id) != 0);
}

PyDoc_STRVAR(is_closed_doc, "is_closed($self, /)\n--\n\n"
                            "Return True once the loop has been closed.");

static PyObject *
EventLoop_is_closed(al_loop *self, PyObject *Py_UNUSED(ignored))
{
    AL_OBEY(self, "is_closed", NULL, 0, NULL);
    return PyBool_FromLong(AL_LOAD(self->closed));
}

PyDoc_STRVAR(get_debug_doc, "get_debug($self, /)\n--\n\n"
                            "Return True in debug mode.");

static PyObject *
EventLoop_get_debug(al_loop *self, PyObject *Py_UNUSED(ignored))
{
    AL_OBEY(self, "get_debug", NULL, 0, NULL);
    return PyBool_FromLong((AL_LOAD(self->debug.switches) & AL_DEBUG_FDS) != 0);
}

/* All switches on or off, as set_debug(). */
static int
switch_debug(al_loop *self, PyObject *value)
{
    int depth = 0, on = PyObject_IsTrue(value);
    if (on < 0) {
        return -1;
    }
    if (on) {
        PyObject *number =
            PyObject_GetAttrString(self->st->asyncio_constants, "DEBUG_STACK_DEPTH");
        long limit = number == NULL ? -1 : PyLong_AsLong(number);
        Py_XDECREF(number);
        if (limit == -1 && PyErr_Occurred()) {
            return -1;
        }
        depth = limit < 0 ? 0 : limit > INT_MAX ? INT_MAX : (int)limit;
    }
    return al_debug_set(self, on ? AL_DEBUG_ALL : 0, depth, 1); /* escapes */
}

/* A running loop's thread follows loop.origin_depth at its next iteration. */
static PyObject *
follow_origin_depth(al_loop *self)
{
    if (AL_LOAD(self->thread_id) != 0) {
        PyObject *method =
            PyObject_GetAttrString((PyObject *)self, "_set_coroutine_origin_tracking");
        PyObject *handle =
            method == NULL ? NULL
                           : PyObject_CallMethod(
                                 (PyObject *)self, "call_soon_threadsafe", "Oi", method,
                                 AL_LOAD(self->debug.origin_depth) != 0); /* escapes */
        Py_XDECREF(method);
        if (handle == NULL) {
            return NULL;
        }
        Py_DECREF(handle);
    }
    Py_RETURN_NONE;
}

/* What another thread has asked for, without a GIL (an al_run_fn). */
static int
set_debug_here(al_loop *self, PyObject *enabled, PyObject *Py_UNUSED(arg),
               PyObject *Py_UNUSED(extra))
{
    PyObject *result =
        switch_debug(self, enabled) < 0 ? NULL : follow_origin_depth(self);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

PyDoc_STRVAR(set_debug_doc,
             "set_debug($self, /, enabled)\n--\n\n"
             "Turn debug mode on or off, with all that belongs to it.\n\n"
             "Source: asyncio, loop.set_debug.");

static PyObject *
EventLoop_set_debug(al_loop *self, PyObject *const *args, Py_ssize_t nargs,
                    PyObject *kwnames)
{
    AL_OBEY(self, "set_debug", args, nargs, kwnames);
    PyObject *enabled =
        al_args_one("BaseEventLoop.set_debug", "enabled", args, nargs, kwnames);
    AL_HOLD(own, self);
    if (enabled != NULL && own.foreign) {
        int truth = PyObject_IsTrue(enabled); /* escapes */
        if (truth < 0 || al_inbox_push_steal(self, set_debug_here,
                                             Py_NewRef(truth ? Py_True : Py_False),
                                             NULL, NULL) < 0) {
            return NULL;
        }
        Py_RETURN_NONE;
    }
    if (enabled == NULL || switch_debug(self, enabled) < 0) {
        return NULL;
    }
    return follow_origin_depth(self);
}

/* The switches one by one, for Loop.debug_options: (switches, origin depth, origin
 * interval). */
static PyObject *
EventLoop__get_debug_switches(al_loop *self, PyObject *Py_UNUSED(ignored))
{
    return Py_BuildValue("Iii", AL_LOAD(self->debug.switches),
                         AL_LOAD(self->debug.origin_depth),
                         AL_LOAD(self->debug.origin_interval));
}

static PyObject *
EventLoop__set_debug_switches(al_loop *self, PyObject *args)
{
    AL_OWN(self, NULL);
    unsigned switches;
    int depth, interval;
    if (!PyArg_ParseTuple(args, "Iii:_set_debug_switches", &switches, &depth,
                          &interval) ||
        al_debug_set(self, switches, depth, interval) < 0) { /* escapes */
        return NULL;
    }
    return follow_origin_depth(self);
}

static PyObject *
EventLoop__check_closed(al_loop *self, PyObject *Py_UNUSED(ignored))
{
    AL_OBEY(self, "_check_closed", NULL, 0, NULL);
    if (AL_LOAD(self->closed)) {
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
        return NULL;
    }
    Py_RETURN_NONE;
}

/* asyncio's close() ends with the selector's; Loop's stub selector comes here. */
static PyObject *
EventLoop__close_selector(al_loop *self, PyObject *Py_UNUSED(ignored))
{
    if (AL_LOAD(self->thread_id) != 0 || AL_LOAD(self->polling) ||
        al_inbox_is_foreign(self) || self->debug.base != NULL) {
        /* It has begun to run since close() looked, and ends when it sees that it is
         * closed. */
        al_wake_up(self);
        PyErr_SetString(PyExc_RuntimeError, "Cannot close a running event loop");
        return NULL;
    }
    if (close_selector(self) < 0) { /* escapes */
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
EventLoop__wakeup_fileno(al_loop *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(self->wake.write_fd);
}

static PyObject *
EventLoop__enter_signals(al_loop *self, PyObject *Py_UNUSED(ignored))
{
    AL_OWN(self, NULL);
    if (al_signal_enter(self) < 0) { /* escapes */
        return NULL;
    }
    Py_RETURN_NONE;
}

/* --- attributes ------------------------------------------------------------------------- */

/* What a word of the loop holds: a new reference, or NULL. */
static PyObject *
read_word(const al_loop *self, PyObject *const *word)
{
    return al_inbox_is_foreign(self) ? al_read_at_rest(word) : Py_XNewRef(*word);
}

static int
refuse_delete(PyObject *value)
{
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "can't delete this attribute");
        return -1;
    }
    return 0;
}

static int
set_bool(PyObject *value, bool *target)
{
    int truth = refuse_delete(value) < 0 ? -1 : PyObject_IsTrue(value);
    if (truth < 0) {
        return -1;
    }
    AL_STORE(*target, truth != 0);
    return 0;
}

/* loop._debug is what asyncio's Python methods look at before they check descriptors
 * and log what they do. */
static PyObject *
get_debug(al_loop *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong((AL_LOAD(self->debug.switches) & AL_DEBUG_FDS) != 0);
}

static int
set_debug(al_loop *self, PyObject *value, void *Py_UNUSED(closure))
{
    AL_OWN(self, -1);
    return refuse_delete(value) < 0 ? -1 : switch_debug(self, value);
}

static PyObject *
get_closed(al_loop *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(AL_LOAD(self->closed));
}

static int
set_closed(al_loop *self, PyObject *value, void *Py_UNUSED(closure))
{
    return set_bool(value, &self->closed);
}

static PyObject *
get_stopping(al_loop *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(AL_LOAD(self->stopping));
}

static int
set_stopping(al_loop *self, PyObject *value, void *Py_UNUSED(closure))
{
    return set_bool(value, &self->stopping);
}

static PyObject *
get_thread_id(al_loop *self, void *Py_UNUSED(closure))
{
    unsigned long id = AL_LOAD(self->thread_id);
    if (id == 0) {
        Py_RETURN_NONE;
    }
    return PyLong_FromUnsignedLong(id);
}

/* As set_runner, and refuses: without a GIL two threads may have seen that the loop does not
 * run. */
static int
take_loop(al_loop *self, unsigned long id)
{
    bool taken;
    AL_CRITICAL_BEGIN((PyObject *)self);
    taken = AL_FREE_THREADED && id != 0 && al_inbox_is_foreign(self);
    if (!taken) {
        set_runner(self, id);
    }
    AL_CRITICAL_END();
    if (taken) {
        PyErr_SetString(PyExc_RuntimeError, "This event loop is already running");
    }
    return taken ? -1 : 0;
}

static int
set_thread_id(al_loop *self, PyObject *value, void *Py_UNUSED(closure))
{
    if (refuse_delete(value) < 0) {
        return -1;
    }
    unsigned long id = 0;
    if (value != Py_None) {
        id = PyLong_AsUnsignedLong(value);
        if (id == (unsigned long)-1 && PyErr_Occurred()) {
            return -1;
        }
    }
    if (id == 0) {
        runs_no_longer(self);
    }
    if (take_loop(self, id) < 0) {
        return -1;
    }
    AL_STORE(self->tstate, NULL);
    return 0;
}

static PyObject *
get_slow_callback_duration(al_loop *self, void *Py_UNUSED(closure))
{
    return read_word(self, &self->debug.slow_callback_duration);
}

static int
set_slow_callback_duration(al_loop *self, PyObject *value, void *Py_UNUSED(closure))
{
    AL_OWN(self, -1);
    if (refuse_delete(value) < 0) {
        return -1;
    }
    return al_debug_set_slow(self, value); /* escapes */
}

static PyObject *
get_current_handle(al_loop *self, void *Py_UNUSED(closure))
{
    if (al_inbox_is_foreign(self)) {
        Py_RETURN_NONE; /* asyncio's exception handler asks, from any thread. */
    }
    return al_debug_current_handle(self);
}

static int
set_current_handle(al_loop *self, PyObject *value, void *Py_UNUSED(closure))
{
    AL_OWN(self, -1);
    Py_XSETREF(self->debug.current_handle,
               value == NULL || value == Py_None ? NULL : Py_NewRef(value));
    return 0;
}

/* asyncio's own create_task asks here for who makes the task. */
static PyObject *
get_task_factory(al_loop *self, void *Py_UNUSED(closure))
{
    PyObject *factory = read_word(self, &self->task_factory);
    return factory == NULL ? al_calls_inner_task_factory(self) : factory;
}

PyDoc_STRVAR(get_task_factory_doc, "get_task_factory($self, /)\n--\n\n"
                                   "Return the task factory, or None.\n\n"
                                   "Source: asyncio, loop.get_task_factory.");

static PyObject *
EventLoop_get_task_factory(al_loop *self, PyObject *Py_UNUSED(ignored))
{
    AL_OBEY(self, "get_task_factory", NULL, 0, NULL);
    PyObject *factory = read_word(self, &self->task_factory);
    return factory == NULL ? Py_NewRef(Py_None) : factory;
}

static int
set_task_factory(al_loop *self, PyObject *value, void *Py_UNUSED(closure))
{
    AL_OWN(self, -1);
    Py_XSETREF(self->task_factory,
               value == NULL || value == Py_None ? NULL : Py_NewRef(value));
    return 0;
}

static PyObject *
get_cork_writes(al_loop *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(!self->cork.off);
}

static int
set_cork_writes(al_loop *self, PyObject *value, void *Py_UNUSED(closure))
{
    AL_OWN(self, -1);
    int truth = value == NULL ? -1 : PyObject_IsTrue(value); /* escapes */
    if (truth < 0) {
        if (value == NULL) {
            PyErr_SetString(PyExc_AttributeError, "cork_writes cannot be deleted");
        }
        return -1;
    }
    self->cork.off = !truth || AL_FREE_THREADED;
    return truth || self->cork.first == NULL ? 0 : self->st->flush_writes(self);
}

static PyObject *
get_metering(al_loop *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong((AL_LOAD(self->debug.switches) & AL_DEBUG_METER) != 0);
}

/* What another thread has asked for, without a GIL (an al_run_fn). */
static int
switch_metering(al_loop *self, PyObject *value, PyObject *Py_UNUSED(arg),
                PyObject *Py_UNUSED(extra))
{
    return al_meter_set(self, value == Py_True);
}

static int
set_metering(al_loop *self, PyObject *value, void *Py_UNUSED(closure))
{
    int truth = refuse_delete(value) < 0 ? -1 : PyObject_IsTrue(value); /* escapes */
    AL_HOLD(own, self);
    if (truth >= 0 && own.foreign) {
        return al_inbox_push_steal(self, switch_metering,
                                   Py_NewRef(truth ? Py_True : Py_False), NULL, NULL);
    }
    return truth < 0 ? -1 : al_meter_set(self, truth);
}

PyDoc_STRVAR(metering_doc,
             "Whether callbacks and waits are measured, for metrics(), usage() and\n"
             "top(). It may be set at any moment and from any thread. False unless\n"
             "the environment has AIOLOOP_METERING=1.");

static PyObject *
EventLoop__read_metrics(al_loop *self, PyObject *Py_UNUSED(ignored))
{
    AL_OWN(self, NULL);
    return al_meter_read(self);
}

static PyObject *
EventLoop__read_usage(al_loop *self, PyObject *Py_UNUSED(ignored))
{
    AL_OWN(self, NULL);
    return al_meter_read_usage(self);
}

/* What loop.top() looks at begins (True), or ends. */
static PyObject *
EventLoop__usage_window(al_loop *self, PyObject *open)
{
    AL_OWN(self, NULL);
    al_meter_window(self, open == Py_True);
    Py_RETURN_NONE;
}

/* The last so many slots. */
static PyObject *
EventLoop__read_records(al_loop *self, PyObject *most)
{
    AL_OWN(self, NULL);
    Py_ssize_t number = PyNumber_AsSsize_t(most, NULL); /* escapes */
    if (number == -1 && PyErr_Occurred()) {
        return NULL;
    }
    return al_meter_read_records(self, number > 0 ? (uint64_t)number : 0);
}

static PyObject *
EventLoop__read_timeline(al_loop *self, PyObject *Py_UNUSED(ignored))
{
    AL_OWN(self, NULL);
    return al_meter_read_timeline(self);
}

PyDoc_STRVAR(cork_writes_doc,
             "Whether a write may wait, for 2 ms or so, while other callbacks are\n"
             "ready. False: each write is sent when write() returns, as by asyncio's\n"
             "own loop. True unless the environment has AIOLOOP_CORK=0.");

static PyGetSetDef loop_getsets[] = {
    {"cork_writes", (getter)get_cork_writes, (setter)set_cork_writes, cork_writes_doc,
     NULL},
    {"metering", (getter)get_metering, (setter)set_metering, metering_doc, NULL},
    {"_debug", (getter)get_debug, (setter)set_debug, NULL, NULL},
    {"_closed", (getter)get_closed, (setter)set_closed, NULL, NULL},
    {"_stopping", (getter)get_stopping, (setter)set_stopping, NULL, NULL},
    {"_thread_id", (getter)get_thread_id, (setter)set_thread_id, NULL, NULL},
    {"slow_callback_duration", (getter)get_slow_callback_duration,
     (setter)set_slow_callback_duration,
     PyDoc_STR("Seconds from which a callback counts as slow in debug mode."), NULL},
    {"_current_handle", (getter)get_current_handle, (setter)set_current_handle, NULL,
     NULL},
    {"_task_factory", (getter)get_task_factory, (setter)set_task_factory, NULL, NULL},
    {"_ready", (getter)al_drive_get_ready, (setter)al_drive_set_ready, NULL, NULL},
    {"_scheduled", (getter)al_drive_get_scheduled, (setter)al_drive_set_scheduled, NULL,
     NULL},
    {"_timer_cancelled_count", (getter)al_drive_get_cancelled_count,
     (setter)al_drive_set_cancelled_count, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef life_methods[] = {
    {"run_forever", (PyCFunction)EventLoop_run_forever, METH_NOARGS, run_forever_doc},
    {"_run_once", (PyCFunction)EventLoop__run_once, METH_NOARGS, run_once_doc},
    {"stop", (PyCFunction)EventLoop_stop, METH_NOARGS, stop_doc},
    {"is_running", (PyCFunction)EventLoop_is_running, METH_NOARGS, is_running_doc},
    {"is_closed", (PyCFunction)EventLoop_is_closed, METH_NOARGS, is_closed_doc},
    {"get_task_factory", (PyCFunction)EventLoop_get_task_factory, METH_NOARGS,
     get_task_factory_doc},
    {"get_debug", (PyCFunction)EventLoop_get_debug, METH_NOARGS, get_debug_doc},
    {"set_debug", (PyCFunction)(void (*)(void))EventLoop_set_debug,
     METH_FASTCALL | METH_KEYWORDS, set_debug_doc},
    {"_get_debug_switches", (PyCFunction)EventLoop__get_debug_switches, METH_NOARGS,
     NULL},
    {"_set_debug_switches", (PyCFunction)EventLoop__set_debug_switches, METH_VARARGS,
     NULL},
    {"_read_metrics", (PyCFunction)EventLoop__read_metrics, METH_NOARGS, NULL},
    {"_read_usage", (PyCFunction)EventLoop__read_usage, METH_NOARGS, NULL},
    {"_usage_window", (PyCFunction)EventLoop__usage_window, METH_O, NULL},
    {"_read_records", (PyCFunction)EventLoop__read_records, METH_O, NULL},
    {"_read_timeline", (PyCFunction)EventLoop__read_timeline, METH_NOARGS, NULL},
    {"_check_closed", (PyCFunction)EventLoop__check_closed, METH_NOARGS, NULL},
    {"_close_selector", (PyCFunction)EventLoop__close_selector, METH_NOARGS, NULL},
    {"_wakeup_fileno", (PyCFunction)EventLoop__wakeup_fileno, METH_NOARGS, NULL},
    {"_enter_signals", (PyCFunction)EventLoop__enter_signals, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static char loop_doc[] =
    PyDoc_STR("EventLoop()\n--\n\n"
              "The C part of aioloop.Loop: scheduler, selector, timers,\n"
              "futures and tasks.");

/* One method table out of those of the rooms; it has to live as long as the type. */
static int
join_methods(al_state *st)
{
    PyMethodDef *tables[] = {life_methods,       al_calls_methods, al_net_methods,
                             al_sockets_methods, al_drive_methods, al_jobs_methods};
    size_t total = 0;
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
        for (const PyMethodDef *def = tables[i]; def->ml_name != NULL; def++) {
            total++;
        }
    }
    st->loop_methods = PyMem_Calloc(total + 1, sizeof(PyMethodDef));
    if (st->loop_methods == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    PyMethodDef *out = st->loop_methods;
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
        for (const PyMethodDef *def = tables[i]; def->ml_name != NULL; def++) {
            *out++ = *def;
        }
    }
    return 0;
}

int
al_loop_init_types(PyObject *module, al_state *st)
{
    al_calls_init(st);
    st->loop_run_once = (PyCFunction)EventLoop__run_once;
    if (join_methods(st) < 0) {
        return -1;
    }
    PyType_Slot loop_slots[] = {
        {Py_tp_doc, loop_doc},
        {Py_tp_new, loop_tp_new},
        {Py_tp_dealloc, loop_dealloc},
        {Py_tp_traverse, loop_traverse},
        {Py_tp_clear, loop_clear},
        {Py_tp_getset, loop_getsets},
        {Py_tp_methods, st->loop_methods},
        {Py_tp_setattro, al_override_setattr},
#if AL_CURRENT_IN_LOOP
        {Py_tp_hash, al_current_hash},
#endif
        {0, NULL},
    };
    PyType_Spec loop_spec = {
        .name = "aioloop._core.EventLoop",
        .basicsize = sizeof(al_loop),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
        .slots = loop_slots,
    };
    if (al_state_add_type(module, &st->EventLoop_type, &loop_spec, NULL) < 0 ||
        al_standin_add(st, st->EventLoop_type, st->SelectorEventLoop) < 0) {
        return -1;
    }
    return al_drive_init_types(module, st);
}
