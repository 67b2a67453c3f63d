/* debug.c: see debug.h.
 *
 * Time is read once per slot: the end of one is the beginning of the next, also in the
 * next iteration, unless the selector was looked at between the two.  While the
 * limit is 50 ms or more, that is the kernel's coarse clock (a quarter of the price,
 * steps of some milliseconds), and the precise one is read once a slot looks slow; the
 * coarse clock is never ahead, so no slow slot is missed, and a reported duration is
 * at most one step too long.
 *
 * Where a coroutine was created the interpreter finds out, at once: 0.1 to 0.5 us for each
 * coroutine and frame, in a client of redis half as much as all the rest.  No hook tells of
 * a coroutine, so production mode has it done in some slots only.  They are picked at
 * random: a program may repeat itself in a rhythm. */
#include "core/debug.h"

#include <math.h>
#include <time.h>

#include "core/context.h"
#include "core/handle.h"
#include "core/meter.h"
#include "core/misuse.h"
#include "core/poll.h"
#include "core/sched.h"
#include "core/stack.h"

static const int64_t COARSE_LIMIT = 50 * 1000 * 1000; /* ns */
/* A step of the coarse clock; an upper bound, the shortest tick being 10 ms. */
static const int64_t COARSE_STEP = 10 * 1000 * 1000; /* ns */
/* A loop that nothing wakes for so long may have come to a stand. */
static const int64_t STANDSTILL = 1000 * 1000 * 1000; /* ns */
/* By which a poll may end early. */
static const int64_t POLL_STEP = 2 * 1000 * 1000; /* ns */
/* What an iteration or a poll may take whatever the limit for callbacks is. */
static const int64_t NEVER_SLOW = 10 * 1000 * 1000; /* ns */

/* --- switches -------------------------------------------------------------------------- */

int
al_debug_set(al_loop *loop, unsigned switches, int origin_depth, int origin_interval)
{
    switches &= AL_DEBUG_ALL & ~(unsigned)AL_DEBUG_ORIGINS;
    switches |= loop->debug.switches &
                (AL_DEBUG_METER | AL_DEBUG_CLOCK | AL_DEBUG_ORDER | AL_DEBUG_TEST);
    if (origin_depth > 0) {
        switches |= AL_DEBUG_ORIGINS | (origin_interval > 1 ? AL_DEBUG_SAMPLES : 0u);
    }
    if ((switches & AL_DEBUG_WAKEUPS) != 0 && !loop->closed &&
        (al_ring_keep_notes(&loop->ready) < 0 || al_inbox_keep_notes(loop) < 0)) {
        return -1;
    }
    AL_STORE(loop->debug.switches, switches);
    AL_STORE(loop->debug.origin_depth, origin_depth);
    AL_STORE(loop->debug.origin_interval, origin_interval);
    loop->debug.until_origins = 1;
    loop->debug.slot_began = 0;
    if ((switches & AL_DEBUG_WAKEUPS) == 0) {
        al_inbox_drop_notes(loop);        /* escapes */
        al_ring_drop_notes(&loop->ready); /* escapes */
    }
    if ((loop->debug.switches & (AL_DEBUG_TRACEBACKS | AL_DEBUG_WAKEUPS |
                                 AL_DEBUG_ORIGINS | AL_DEBUG_CANCELS)) == 0) {
        al_stack_flush(&loop->debug.stacks); /* escapes */
    }
    return loop->st->follow_stall(loop); /* escapes */
}

int
al_debug_set_slow(al_loop *loop, PyObject *seconds)
{
    double limit = PyFloat_AsDouble(seconds); /* escapes */
    if (limit == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    loop->debug.slow_limit = limit <= 0.0         ? 0
                             : limit * 1e9 < 9e18 ? (int64_t)ceil(limit * 1e9)
                                                  : INT64_MAX; /* also NaN: never */
    loop->debug.slot_began = 0;
    Py_XSETREF(loop->debug.slow_callback_duration, Py_NewRef(seconds)); /* escapes */
    return 0;
}

void
al_debug_clear(al_loop *loop)
{
    al_inbox_drop_notes(loop);           /* escapes */
    al_ring_drop_notes(&loop->ready);    /* escapes */
    al_stack_flush(&loop->debug.stacks); /* escapes */
}

int
al_debug_of_loop(al_state *st, PyObject *loop)
{
    if (loop == NULL || loop == Py_None) {
        return 0;
    }
    const al_loop *ours = al_loop_check(st, loop);
    if (ours != NULL) {
        return (AL_LOAD(ours->debug.switches) & AL_DEBUG_FDS) != 0;
    }
    PyObject *result = PyObject_CallMethodNoArgs(loop, st->str.get_debug); /* escapes */
    if (result == NULL) {
        return -1;
    }
    int debug = PyObject_IsTrue(result);
    Py_DECREF(result);
    return debug;
}

/* --- checks ------------------------------------------------------------------------------ */

/* Mirrors BaseEventLoop._check_thread. */
int
al_debug_check_thread(al_loop *loop)
{
    if (AL_LIKELY((AL_LOAD(loop->debug.switches) & AL_DEBUG_THREADS) == 0 ||
                  AL_LOAD(loop->thread_id) == 0 ||
                  AL_LOAD(loop->tstate) == PyThreadState_Get() ||
                  AL_LOAD(loop->thread_id) == PyThread_get_thread_ident())) {
        return 0;
    }
    PyErr_SetString(PyExc_RuntimeError,
                    "Non-thread-safe operation invoked on an event loop other than the "
                    "current one");
    al_misuse_note("_note_of_threads", (PyObject *)loop, NULL); /* escapes */
    return -1;
}

/* Whether asyncio's check would certainly let it pass: a C function, or a Python one
 * that nobody has marked as a coroutine function. */
static bool
is_plain_function(PyObject *callback)
{
    if (PyMethod_Check(callback)) {
        callback = PyMethod_GET_FUNCTION(callback);
    }
    if (PyFunction_Check(callback)) {
        const PyFunctionObject *function = (PyFunctionObject *)callback;
        const PyCodeObject *code = (PyCodeObject *)function->func_code;
        return function->func_dict == NULL && (code->co_flags & CO_COROUTINE) == 0;
    }
    return PyCFunction_CheckExact(callback);
}

int
al_debug_check_callback(al_loop *loop, PyObject *callback, const char *method)
{
    if ((AL_LOAD(loop->debug.switches) & AL_DEBUG_CALLBACKS) == 0 ||
        is_plain_function(callback)) {
        return 0;
    }
    PyObject *result = PyObject_CallMethod((PyObject *)loop, "_check_callback", "Os",
                                           callback, method); /* escapes */
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* --- logging ----------------------------------------------------------------------------- */

int
al_debug_log_steal(al_state *st, PyObject *args)
{
    PyObject *logger =
        args == NULL ? NULL : PyObject_GetAttr(st->base_events, st->str.logger);
    PyObject *warning =
        logger == NULL ? NULL : PyObject_GetAttr(logger, st->str.warning);
    PyObject *result =
        warning == NULL ? NULL : PyObject_CallObject(warning, args); /* escapes */
    Py_XDECREF(warning);
    Py_XDECREF(logger);
    Py_XDECREF(args);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

int
al_debug_warn(al_state *st, const char *format, PyObject *first, PyObject *second)
{
    PyObject *args = first == NULL    ? Py_BuildValue("(s)", format)
                     : second == NULL ? Py_BuildValue("(sO)", format, first)
                                      : Py_BuildValue("(sOO)", format, first, second);
    return al_debug_log_steal(st, args);
}

/* --- what a slot stands for ------------------------------------------------------------ */

struct al_describer {
    struct al_describer *next;
    al_run_fn run;
    al_describe_fn describe; /* NULL: by `method` */
    const char *method;
    bool with_arg;
    int frames;
};

static int
add_describer(al_state *st, struct al_describer what)
{
    struct al_describer *entry = PyMem_New(struct al_describer, 1);
    if (entry == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    *entry = what;
    entry->next = st->describers;
    st->describers = entry;
    return 0;
}

int
al_debug_describe(al_state *st, al_run_fn run, al_describe_fn describe, int frames)
{
    return add_describer(
        st, (struct al_describer){.run = run, .describe = describe, .frames = frames});
}

int
al_debug_describe_method(al_state *st, al_run_fn run, const char *name, bool with_arg,
                         int frames)
{
    return add_describer(
        st, (struct al_describer){
                .run = run, .method = name, .with_arg = with_arg, .frames = frames});
}

void
al_debug_free(al_state *st)
{
    while (st->describers != NULL) {
        struct al_describer *entry = st->describers;
        st->describers = entry->next;
        PyMem_Free(entry);
    }
}

static const struct al_describer *
find_describer(const al_state *st, al_run_fn run)
{
    const struct al_describer *entry = st->describers;
    while (entry != NULL && entry->run != run) {
        entry = entry->next;
    }
    return entry;
}

const char *
al_debug_method_of(const al_state *st, al_run_fn run)
{
    const struct al_describer *entry = find_describer(st, run);
    return entry == NULL ? NULL : entry->method;
}

/* --- source tracebacks ----------------------------------------------------------------- */

enum { HANDLE_FRAMES = 8, LOOP_FRAMES = 3 };

static int
hidden_frames(const al_loop *loop)
{
    const al_slot *slot = &loop->debug.running.slot;
    if (slot->run == NULL || slot->run == al_handle_run ||
        slot->run == loop->st->task_wakeup || slot->run == loop->st->task_step) {
        return LOOP_FRAMES;
    }
    if (slot->run == al_handle_run_threadsafe) {
        return LOOP_FRAMES + 1; /* Its _run calls Handle._run. */
    }
    const struct al_describer *entry = find_describer(loop->st, slot->run);
    return entry == NULL ? LOOP_FRAMES : LOOP_FRAMES + entry->frames;
}

PyObject *
al_debug_capture(al_state *st, al_loop *loop)
{
    return loop == NULL || al_inbox_is_outside(loop)
               ? al_stack_capture(st, NULL, NULL, AL_STACK_WHOLE, 0)
               : al_stack_capture(st, &loop->debug.stacks, loop->debug.base,
                                  AL_STACK_WHOLE, 0); /* escapes */
}

PyObject *
al_debug_capture_origin(al_loop *loop)
{
    int depth = AL_LOAD(loop->debug.origin_depth);
    return al_inbox_is_outside(loop)
               ? al_stack_capture(loop->st, NULL, NULL, depth, 0)
               : al_stack_capture(loop->st, &loop->debug.stacks, loop->debug.base,
                                  depth, 0); /* escapes */
}

PyObject *
al_debug_capture_handle(al_loop *loop)
{
    if (al_inbox_is_outside(loop)) {
        /* The table is that of the loop's thread, which may begin to run it. */
        int above = al_inbox_is_foreign(loop) ? 0 : loop->debug.frames_above;
        return al_stack_capture(loop->st, NULL, NULL, HANDLE_FRAMES - above, 0);
    }
    return al_stack_capture(loop->st, &loop->debug.stacks, loop->debug.base,
                            HANDLE_FRAMES - loop->debug.frames_above,
                            hidden_frames(loop)); /* escapes */
}

/* --- the current handle -------------------------------------------------------------------- */

static int
describe_by_method(const struct al_describer *entry, const al_slot *slot,
                   PyObject **callback, PyObject **args)
{
    *callback = PyObject_GetAttrString(slot->self, entry->method); /* escapes */
    if (*callback != NULL && entry->with_arg) {
        *args = PyTuple_Pack(1, slot->arg == NULL ? Py_None : slot->arg);
        if (*args == NULL) {
            Py_CLEAR(*callback);
        }
    }
    return *callback == NULL ? -1 : 0;
}

PyObject *
al_debug_handle_of(al_loop *loop, const al_slot *slot, PyObject *note)
{
    al_state *st = loop->st;
    PyObject *callback = NULL, *args = NULL, *context = NULL, *handle = NULL;
    const struct al_describer *entry = find_describer(st, slot->run);
    int status = 0;
    Py_XINCREF(note);
    if (entry == NULL) {
        callback = Py_NewRef(slot->self);
    }
    else if (entry->describe == NULL) {
        status = describe_by_method(entry, slot, &callback, &args); /* escapes */
    }
    else {
        status = entry->describe(loop, slot, &callback, &args, &context); /* escapes */
    }
    if (status == 0) {
        handle = (PyObject *)al_handle_make(loop, callback, args, context, note);
    }
    Py_XDECREF(callback);
    Py_XDECREF(args);
    Py_XDECREF(context);
    Py_XDECREF(note);
    return handle;
}

/* The Handle of the slot that runs, or None.  New reference. */
static PyObject *
current_handle(al_loop *loop)
{
    if (loop->debug.current_handle != NULL) {
        return Py_NewRef(loop->debug.current_handle);
    }
    al_slot slot = loop->debug.running.slot;
    uint64_t serial = loop->debug.running.serial;
    if (slot.run == NULL) {
        Py_RETURN_NONE;
    }
    if (al_handle_is_run_by(slot.run)) {
        return Py_NewRef(slot.self);
    }
    Py_INCREF(slot.self);
    Py_XINCREF(slot.arg);
    Py_XINCREF(slot.extra);
    PyObject *handle =
        al_debug_handle_of(loop, &slot, loop->debug.running.note); /* escapes */
    if (handle != NULL && loop->debug.current_handle == NULL &&
        loop->debug.running.serial == serial) {
        loop->debug.current_handle = Py_NewRef(handle);
    }
    Py_DECREF(slot.self); /* escapes */
    Py_XDECREF(slot.arg);
    Py_XDECREF(slot.extra);
    return handle;
}

PyObject *
al_debug_current_handle(al_loop *loop)
{
    if (!loop->debug.running.shown && loop->debug.current_handle == NULL) {
        Py_RETURN_NONE;
    }
    return current_handle(loop); /* escapes */
}

/* --- slots ------------------------------------------------------------------------------------ */

/* What al_debug_capture_handle gives right above a running loop, if it is known; that
 * is where a task's step queues the next one.  Borrowed. */
static inline PyObject *
bare_stack(const al_loop *loop, PyThreadState *tstate)
{
    const al_stack_base *base = loop->debug.base;
    const al_slot *slot = &loop->debug.running.slot;
    if (base == NULL || slot->run == NULL || tstate != loop->tstate ||
        al_stack_top(tstate) != base->frame ||
        base->bare_limit != HANDLE_FRAMES - LOOP_FRAMES ||
        loop->debug.frames_above != 0 ||
        (slot->run != loop->st->task_step && slot->run != loop->st->task_wakeup)) {
        return NULL;
    }
    return (PyObject *)base->bare;
}

/* The stack of a slot that is pushed here, or NULL: without memory too, since the slot is
 * worth more than its note.  New reference. */
static PyObject *
make_note(al_loop *loop, PyThreadState *tstate)
{
    PyObject *note = Py_XNewRef(bare_stack(loop, tstate));
    if (note == NULL && (note = al_debug_capture_handle(loop)) == NULL) { /* escapes */
        PyErr_Clear(); /* MemoryError */
    }
    return note;
}

PyObject *
al_debug_note(al_loop *loop)
{
    return (AL_LOAD(loop->debug.switches) & AL_DEBUG_WAKEUPS) == 0
               ? NULL
               : make_note(loop, PyThreadState_Get()); /* escapes */
}

int
al_debug_push_steal(al_loop *loop, al_run_fn run, PyObject *self, PyObject *arg,
                    PyObject *extra)
{
    PyObject *note = NULL;
    PyThreadState *tstate = PyThreadState_Get();
    if (tstate != loop->tstate && al_debug_check_thread(loop) < 0) {
        Py_DECREF(self);
        Py_XDECREF(arg);
        Py_XDECREF(extra);
        return -1;
    }
    if ((loop->debug.switches & AL_DEBUG_WAKEUPS) != 0) {
        note = make_note(loop, tstate); /* escapes */
    }
    if (al_ring_push_steal(&loop->ready, run, self, arg, extra) < 0) {
        Py_XDECREF(note);
        return -1;
    }
    if (note != NULL && loop->ready.notes != NULL) {
        al_ring_note_steal(&loop->ready, note);
    }
    else {
        Py_XDECREF(note);
    }
    return 0;
}

/* Whether the coarse clock will do. */
static inline bool
is_coarse(const al_loop *loop)
{
    return loop->debug.slow_limit >= COARSE_LIMIT &&
           (loop->debug.switches & AL_DEBUG_METER) == 0;
}

static int64_t
read_clock(bool coarse)
{
#ifdef CLOCK_MONOTONIC_COARSE
    if (coarse) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
        return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    }
#else
    (void)coarse;
#endif
    return al_poll_clock();
}

/* An attribute, or NULL without an exception if there is none.  Escapes. */
static PyObject *
optional(PyObject *obj, const char *name)
{
    PyObject *value = PyObject_GetAttrString(obj, name);
    if (value == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear(); /* AttributeError: it is another kind of object. */
    }
    return value;
}

/* Whether a frame belongs to asyncio's own code.  1, 0 or -1. */
static int
is_asyncio(PyObject *frame)
{
    PyObject *globals = PyObject_GetAttrString(frame, "f_globals");
    PyObject *name =
        globals == NULL ? NULL : PyMapping_GetItemString(globals, "__name__");
    Py_XDECREF(globals);
    if (name == NULL) {
        if (PyErr_ExceptionMatches(PyExc_KeyError)) {
            PyErr_Clear(); /* KeyError: code without a module. */
            return 0;
        }
        return -1;
    }
    int found = 0;
    if (PyUnicode_Check(name)) {
        PyObject *prefix = PyUnicode_FromString("asyncio.");
        Py_ssize_t match =
            prefix == NULL ? -1
                           : PyUnicode_Tailmatch(name, prefix, 0, PY_SSIZE_T_MAX, -1);
        Py_XDECREF(prefix);
        found = (int)match;
    }
    Py_DECREF(name);
    return found;
}

/* The innermost frame of what a suspended task waits in, asyncio's own code left out:
 * follows the coroutines, generators and asynchronous generators.  New reference, NULL
 * if there is none (no exception) or with an exception. */
static PyObject *
innermost_frame(PyObject *task)
{
    static const char *const kinds[][2] = {{"cr_frame", "cr_await"},
                                           {"gi_frame", "gi_yieldfrom"},
                                           {"ag_frame", "ag_await"}};
    PyObject *coro = PyObject_CallMethod(task, "get_coro", NULL);
    PyObject *frame = NULL;
    while (coro != NULL && coro != Py_None) {
        PyObject *inner = NULL;
        for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
            PyObject *here = optional(coro, kinds[i][0]); /* escapes */
            if (here == NULL && !PyErr_Occurred()) {
                continue;
            }
            if (here != NULL && here != Py_None) {
                int foreign = is_asyncio(here); /* escapes */
                if (foreign == 0) {
                    Py_XSETREF(frame, Py_NewRef(here));
                }
                if (foreign < 0) {
                    Py_DECREF(here);
                    break;
                }
                inner = optional(coro, kinds[i][1]); /* escapes */
            }
            Py_XDECREF(here);
            break;
        }
        Py_SETREF(coro, inner);
    }
    Py_XDECREF(coro);
    if (PyErr_Occurred()) {
        Py_CLEAR(frame);
    }
    return frame;
}

/* A task that was slow and is suspended: says where. */
static int
log_task_frame(al_state *st, PyObject *task)
{
    PyObject *frame = innermost_frame(task); /* escapes */
    if (frame == NULL || !PyFrame_Check(frame)) {
        Py_XDECREF(frame);
        return PyErr_Occurred() ? -1 : 0;
    }
    PyCodeObject *code = PyFrame_GetCode((PyFrameObject *)frame);
    PyObject *name = PyObject_CallMethod(task, "get_name", NULL); /* escapes */
    int status = -1;
    if (name != NULL) {
        status = al_debug_log_steal(
            st, Py_BuildValue("(sOOiO)",
                              "The slow step of task %s ended in File \"%s\", line %s, "
                              "in %s",
                              name, code->co_filename,
                              PyFrame_GetLineNumber((PyFrameObject *)frame),
                              code->co_name)); /* escapes */
    }
    Py_XDECREF(name);
    Py_DECREF(code);
    Py_DECREF(frame);
    return status;
}

/* Logs "Executing %s took %.3f seconds" as BaseEventLoop._run_once does, and where a
 * task was when its slow step ended. */
static int
log_slow(al_loop *loop, double seconds)
{
    al_state *st = loop->st;
    int status = -1;
    PyObject *task = NULL, *callback = NULL, *what = NULL;
    al_sched_settle(loop); /* A log handler may ask for the task and the context. */
    PyObject *handle = current_handle(loop); /* escapes */
    if (handle == NULL) {
        return -1;
    }
    what = PyObject_CallOneArg(st->format_handle, handle); /* escapes */
    if (what == NULL ||
        al_debug_log_steal(st, Py_BuildValue("(sOd)", "Executing %s took %.3f seconds",
                                             what, seconds)) < 0) { /* escapes */
        goto done;
    }
    callback = PyObject_GetAttrString(handle, "_callback");
    task = callback == NULL ? NULL : optional(callback, "__self__"); /* escapes */
    if (PyErr_Occurred()) {
        goto done;
    }
    status = 0;
    if (task != NULL && PyObject_TypeCheck(task, (PyTypeObject *)st->asyncio_Task)) {
        status = log_task_frame(st, task); /* escapes */
    }

done:
    Py_XDECREF(task);
    Py_XDECREF(callback);
    Py_XDECREF(what);
    Py_DECREF(handle);
    return status;
}

/* The slot that runs, or one of its callbacks, is measured. */
static inline void
meter_callback(al_loop *loop, const al_slot *slot, int64_t began, int64_t ended)
{
    al_metered *metered = &loop->debug.running.metered;
    al_meter_ran(loop, slot, *metered, began, ended);
    metered->pushed = AL_NO_STAMP; /* It waited once. */
}

/* Somebody has replaced loop.time: that clock it is, before and after, as in asyncio. */
static int
run_by_own_time(al_loop *loop, const al_slot *slot)
{
    double before, after;
    loop->debug.slot_began = 0;
    int64_t began = al_sched_slot_begins(loop);
    if (al_sched_time(loop, &before) < 0 ||
        slot->run(loop, slot->self, slot->arg, slot->extra) < 0) { /* escapes */
        return -1;
    }
    if ((loop->debug.switches & AL_DEBUG_METER) != 0) {
        meter_callback(loop, slot, began, al_poll_clock());
    }
    al_sched_settle(loop);
    if (al_sched_time(loop, &after) < 0) { /* escapes */
        return -1;
    }
    double limit = PyFloat_AsDouble(loop->debug.slow_callback_duration); /* escapes */
    if (limit == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if ((loop->debug.switches & AL_DEBUG_SLOW_CALLBACKS) == 0 ||
        !(after - before >= limit)) {
        return 0;
    }
    loop->counts.slow_callbacks++;
    return log_slow(loop, after - before); /* escapes */
}

/* A callback that began at that time has ended, and the next one begins. */
static inline int
time_callback(al_loop *loop, const al_slot *slot, int64_t began)
{
    int status = 0;
    int64_t limit = loop->debug.slow_limit;
    bool coarse = is_coarse(loop);
    int64_t now = read_clock(coarse);
    if ((loop->debug.switches & AL_DEBUG_METER) != 0) {
        meter_callback(loop, slot, began, now);
    }
    if (AL_UNLIKELY(now - began + (coarse ? COARSE_STEP : 0) >= limit)) {
        now = al_poll_clock();
        if (now - began >= limit &&
            (loop->debug.switches & AL_DEBUG_SLOW_CALLBACKS) != 0) {
            loop->debug.slow_reported += now - began;
            loop->counts.slow_callbacks++;
            status = log_slow(loop, (double)(now - began) / 1e9); /* escapes */
            now = al_poll_clock();
        }
    }
    loop->debug.slot_began = now;
    return status;
}

static inline int
run_timed(al_loop *loop, const al_slot *slot)
{
    int64_t began = al_sched_slot_begins(loop);
    int status = slot->run(loop, slot->self, slot->arg, slot->extra); /* escapes */
    if (AL_UNLIKELY(status < 0)) {
        return status;
    }
    if (AL_UNLIKELY(loop->debug.slot_began > began)) {
        began = loop->debug.slot_began; /* al_debug_next */
    }
    return time_callback(loop, slot, began); /* escapes */
}

/* Coroutines that this slot creates remember where.  Returns the depth of before, or -1 if
 * it stays. */
static int
begin_sample(al_loop *loop, PyThreadState *tstate)
{
    /* Marsaglia's xorshift; on average the interval. */
    uint32_t x = loop->debug.random == 0 ? 2463534242u : loop->debug.random;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    loop->debug.random = x;
    loop->debug.until_origins = 1 + x % (2 * (uint32_t)loop->debug.origin_interval - 1);
    int before = tstate->coroutine_origin_tracking_depth;
    if (before >= loop->debug.origin_depth) {
        return -1;
    }
    tstate->coroutine_origin_tracking_depth = loop->debug.origin_depth;
    return before;
}

/* Whether nobody but the meter looks at slots. */
static inline bool
is_metered_only(const al_loop *loop)
{
    return (loop->debug.switches & AL_DEBUG_RUNS) == AL_DEBUG_METER &&
           !loop->overrides.time;
}

static int
run_in_debug_mode(al_loop *loop, const al_slot *slot, PyObject *note, int64_t pushed)
{
    int status, depth = -1, sampled = 0;
    PyThreadState *tstate = NULL;
    if ((loop->debug.switches & AL_DEBUG_SAMPLES) != 0 &&
        AL_UNLIKELY(--loop->debug.until_origins == 0)) {
        tstate = PyThreadState_Get();
        depth = begin_sample(loop, tstate);
        sampled = loop->debug.origin_depth;
    }
    al_running outer = loop->debug.running;
    uint64_t serial = ++loop->debug.slots;
    al_metered metered = (loop->debug.switches & AL_DEBUG_METER) != 0
                             ? al_meter_begin(loop, slot, pushed) /* escapes */
                             : AL_NOT_METERED;
    bool shown = (loop->debug.switches & AL_DEBUG_ALL) != 0;
    loop->debug.running = (al_running){*slot, note, serial, metered, shown};
    if (AL_UNLIKELY(loop->trace != NULL)) {
        al_trace_step(loop, slot); /* escapes */
    }
    if ((loop->debug.switches & AL_DEBUG_TIMED) == 0) {
        status = slot->run(loop, slot->self, slot->arg, slot->extra); /* escapes */
    }
    else {
        status = AL_UNLIKELY(loop->overrides.time)
                     ? run_by_own_time(loop, slot)
                     : run_timed(loop, slot); /* escapes */
    }
    if (AL_UNLIKELY(loop->faults != NULL)) {
        al_faults_ran(loop);
    }
    /* Another greenlet may have run slots meanwhile, and `outer` may have ended there. */
    loop->debug.running =
        AL_LIKELY(loop->debug.running.serial == serial) ? outer : (al_running){0};
    if (AL_UNLIKELY(depth >= 0) && tstate->coroutine_origin_tracking_depth == sampled) {
        tstate->coroutine_origin_tracking_depth = depth; /* The slot has not set it. */
    }
    if (AL_UNLIKELY(loop->debug.current_handle != NULL)) {
        Py_CLEAR(loop->debug.current_handle); /* escapes */
    }
    return status;
}

/* `inline` is for link-time optimization: two callers and no hint, and it stays a call. */
inline int
al_debug_run(al_loop *loop, const al_slot *slot, PyObject *note, int64_t pushed)
{
    return AL_LIKELY(is_metered_only(loop))
               ? al_meter_run(loop, slot, pushed)
               : run_in_debug_mode(loop, slot, note, pushed); /* escapes */
}

int
al_debug_next(al_loop *loop)
{
    if (AL_LIKELY((loop->debug.switches & AL_DEBUG_TIMED) == 0)) {
        return 0;
    }
    if (is_metered_only(loop)) {
        al_meter_next(loop);
        return 0;
    }
    if (loop->debug.running.slot.run == NULL || loop->overrides.time) {
        return 0;
    }
    return time_callback(loop, &loop->debug.running.slot,
                         al_sched_slot_begins(loop)); /* escapes */
}

int
al_debug_run_next(al_loop *loop, const al_slot *slot)
{
    PyObject *note = (loop->debug.switches & AL_DEBUG_WAKEUPS) == 0
                         ? NULL
                         : al_debug_capture_handle(loop); /* escapes */
    int status = al_debug_next(loop);                     /* escapes */
    Py_CLEAR(loop->debug.current_handle);                 /* escapes */
    if (status == 0) {
        status = al_debug_run(loop, slot, note, AL_NO_STAMP); /* escapes */
    }
    Py_XDECREF(note);
    return status;
}

int
al_debug_iteration_ended(al_loop *loop, size_t count, int64_t began)
{
    if ((loop->debug.switches & AL_DEBUG_SLOW_ITERATIONS) == 0 ||
        loop->overrides.time) {
        return 0;
    }
    int64_t limit =
        loop->debug.slow_limit > NEVER_SLOW ? loop->debug.slow_limit : NEVER_SLOW;
    int64_t end =
        loop->debug.slot_began != 0 ? loop->debug.slot_began : al_poll_clock();
    int64_t took = end - began;
    if (AL_LIKELY(took - loop->debug.slow_reported < limit)) {
        return 0;
    }
    al_sched_settle(loop);
    return al_debug_log_steal(
        loop->st,
        Py_BuildValue("(snd)", "An iteration of %d callbacks took %.3f seconds",
                      (Py_ssize_t)count, (double)took / 1e9)); /* escapes */
}

int64_t
al_debug_poll_begins(al_loop *loop, int64_t *timeout)
{
    if (*timeout < 0 && (loop->debug.switches & AL_DEBUG_DEADLOCKS) != 0 &&
        !al_look_has_watchers(&loop->look) &&
        loop->debug.seen_asleep != loop->ready.head + 1) {
        *timeout = STANDSTILL;
        loop->debug.may_be_asleep = true;
    }
    return al_poll_clock();
}

/* Nothing has happened for a while.  0, or -1 with an exception that has to leave
 * run_forever.  Escapes. */
static int
look_into_sleep(al_loop *loop)
{
    loop->debug.seen_asleep = loop->ready.head + 1;
    PyObject *module = PyImport_ImportModule("aioloop._deadlocks"); /* escapes */
    PyObject *result = module == NULL
                           ? NULL
                           : PyObject_CallMethod(module, "look_into", "O",
                                                 (PyObject *)loop); /* escapes */
    int status = 0;
    if (result == NULL) {
        if (PyErr_ExceptionMatches(PyExc_Exception)) {
            PyErr_WriteUnraisable((PyObject *)loop); /* escapes */
        }
        else {
            status = -1;
        }
    }
    Py_XDECREF(result);
    Py_XDECREF(module);
    return status;
}

/* asyncio up to Python 3.7 logged this, and its documentation still promises it.  The
 * text says "took %.3f seconds" as all of asyncio's slow things do: programs filter their
 * logs by that.  To wait for events is what a selector is for: late is a poll that outlasts its
 * timeout, one without a timeout that had to wait for the GIL, and a look that takes
 * long. */
int
al_debug_polled(al_loop *loop, int64_t timeout, int64_t now)
{
    unsigned switches = loop->debug.switches;
    int64_t took = now - loop->debug.poll_began;
    if ((switches & AL_DEBUG_METER) != 0) {
        al_meter_polled(loop, timeout, loop->debug.poll_began, now);
    }
    if (loop->debug.may_be_asleep) {
        loop->debug.may_be_asleep = false;
        if (took + POLL_STEP >= timeout && al_ring_len(&loop->ready) == 0 &&
            !loop->wake.readable && !loop->stopping) {
            return look_into_sleep(loop); /* escapes */
        }
    }
    if ((switches & AL_DEBUG_SLOW_SELECTOR) == 0) {
        return 0;
    }
    int64_t late = al_poll_gil_wait(loop->poll);
    int64_t limit =
        loop->debug.slow_limit > NEVER_SLOW ? loop->debug.slow_limit : NEVER_SLOW;
    if (timeout >= 0 && took - timeout > late) {
        late = took - timeout;
    }
    if (AL_LIKELY(late < limit)) {
        return 0;
    }
    double seconds = (double)took / 1e9, wanted = (double)timeout / 1e9;
    Py_ssize_t events = al_poll_events(loop->poll);
    return al_debug_log_steal(
        loop->st,
        timeout < 0 ? Py_BuildValue("(sdn)", "poll took %.3f seconds: %s events",
                                    seconds, events)
        : events > 0
            ? Py_BuildValue("(sddn)",
                            "poll of %.3f seconds took %.3f seconds: %s events", wanted,
                            seconds, events)
            : Py_BuildValue("(sdd)", "poll of %.3f seconds took %.3f seconds: timeout",
                            wanted, seconds)); /* escapes */
}
