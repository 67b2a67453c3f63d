/* sched.c: one iteration of the loop; see sched.h. */
#include "core/sched.h"

#include <math.h>

#include "core/context.h"
#include "core/debug.h"
#include "core/handle.h"
#include "core/misuse.h"
#include "core/poll.h"
#include "core/watch.h"

/* epoll and kqueue refuse longer waits on some systems (asyncio waits a day at most). */
static const double MAXIMUM_WAIT = 24 * 3600.0;
/* Of time.monotonic; asyncio runs what is due within it. */
static const double CLOCK_RESOLUTION = 1e-9;

static const char WAITED_FOR[] = "the selector is being waited for in another thread";

double
al_sched_now(void)
{
    return (double)al_poll_clock() / 1e9;
}

int
al_sched_time(al_loop *loop, double *now)
{
    if (AL_UNLIKELY(al_override_stale(loop) || al_watch_stale(loop->st)) &&
        al_override_refresh(loop) < 0) {
        return -1;
    }
    if (AL_LIKELY(!loop->overrides.as_asyncio)) {
        *now = al_sched_now();
        return 0;
    }
    if (!loop->overrides.time) {
        *now = al_sched_clock(loop);
        return 0;
    }
    PyObject *value =
        PyObject_CallMethodNoArgs((PyObject *)loop, loop->st->str.time); /* escapes */
    if (value == NULL) {
        return -1;
    }
    *now = PyFloat_AsDouble(value);
    Py_DECREF(value);
    return *now == -1.0 && PyErr_Occurred() ? -1 : 0;
}

int
al_sched_put_back(al_loop *loop, al_run_fn run, PyObject *self, PyObject *arg,
                  PyObject *extra)
{
    PyObject *pending = al_err_take();
    if (al_ring_len(&loop->ready) <= loop->ready.mask) {
        al_ring_put_steal(&loop->ready, run, Py_NewRef(self), Py_XNewRef(arg),
                          Py_XNewRef(extra));
    }
    else {
        /* A step called by hand, again and again in one slot. */
        (void)al_ring_push_steal(&loop->ready, run, Py_NewRef(self), Py_XNewRef(arg),
                                 Py_XNewRef(extra));
    }
    al_err_put_steal(pending);
    return -1;
}

int
al_sched_call_soon(al_state *st, PyObject *loop, PyObject *callback, PyObject *arg,
                   PyObject *context)
{
    PyObject *stack[4] = {loop, callback, NULL, NULL};
    size_t n = 2;
    if (arg != NULL) {
        stack[n++] = arg;
    }
    stack[n] = context;
    PyObject *handle = PyObject_VectorcallMethod(
        st->str.call_soon, stack, n | PY_VECTORCALL_ARGUMENTS_OFFSET,
        context == NULL ? NULL : st->kwnames_context); /* escapes */
    Py_XDECREF(handle);
    return handle == NULL ? -1 : 0;
}

void
al_sched_settle(al_loop *loop)
{
    if (loop->current_task == NULL && loop->idle_context == NULL) {
        return;
    }
    PyObject *saved = al_err_take();
    if (loop->current_task != NULL) {
        loop->st->leave_current(loop); /* escapes */
    }
    if (loop->idle_context != NULL) {
        al_context_leave_idle(loop); /* escapes */
    }
    al_err_put_steal(saved);
}

/* --- waiting ------------------------------------------------------------------------ */

/* The selector's kernel objects are shared with the parent after a fork. */
static int
adopt_after_fork(al_loop *loop)
{
    if (al_poll_fork(loop->poll) < 0 || al_wake_fork(loop) < 0) {
        return -1;
    }
    loop->forks = loop->st->forks;
    return al_misuse_tell_forked(loop); /* escapes */
}

/* 0, or -1 with RuntimeError if the selector cannot be asked: a closed loop has none, and
 * it serves one thread at a time.  Foreign code may close a loop that is about to run, and
 * another thread may have begun to: run_forever's own look was before that. */
static inline int
check_selector(const al_loop *loop)
{
    if (AL_LIKELY(loop->poll != NULL && !AL_LOAD(loop->polling) &&
                  !AL_LOAD(loop->closed))) {
        return 0;
    }
    PyErr_SetString(PyExc_RuntimeError, loop->poll == NULL || AL_LOAD(loop->closed)
                                            ? "Event loop is closed"
                                            : WAITED_FOR);
    return -1;
}

int
al_sched_check_selector(al_loop *loop)
{
    if (check_selector(loop) < 0) {
        return -1;
    }
    if (AL_LIKELY(loop->forks == loop->st->forks)) {
        return 0;
    }
    return adopt_after_fork(loop) < 0 ? -1 : check_selector(loop); /* escapes */
}

/* Other threads see whether the loop may be blocked, and have to wake it then.  Returns the
 * time-out, which is 0 if one of them has pushed something meanwhile. */
static inline int64_t
begin_wait(al_loop *loop, int64_t timeout)
{
    if (timeout != 0) {
        al_lock_take(&loop->wake.lock);
        timeout = al_inbox_has_some(loop) ? 0 : timeout;
        loop->wake.blocked = timeout != 0;
        al_lock_give(&loop->wake.lock);
    }
    return timeout;
}

static inline void
end_wait(al_loop *loop)
{
    if (loop->wake.blocked) {
        al_lock_take(&loop->wake.lock);
        loop->wake.blocked = false;
        al_lock_give(&loop->wake.lock);
    }
}

int
al_sched_poll(al_loop *loop, int64_t timeout)
{
    al_sched_settle(loop);                   /* escapes */
    if (al_sched_check_selector(loop) < 0) { /* escapes */
        return -1;
    }
    loop->look.must = false;
    loop->debug.poll_began = AL_UNLIKELY(loop->debug.switches & AL_DEBUG_POLLS)
                                 ? al_debug_poll_begins(loop, &timeout)
                                 : 0;
    timeout = begin_wait(loop, timeout);
    AL_STORE(loop->polling, true);
    int status = al_poll_wait(loop->poll, timeout);
    AL_STORE(loop->polling, false);
    end_wait(loop);
    al_look *look = &loop->look;
    look->polled_at = look->clocked_at = loop->debug.slot_began = al_poll_clock();
    look->polled_head = loop->ready.head;
    look->until_check = 0;
    if (AL_UNLIKELY(loop->lost_fd >= 0)) {
        al_misuse_tell_lost(loop); /* escapes */
    }
    if (AL_UNLIKELY(loop->debug.poll_began != 0) && status == 0) {
        status = al_debug_polled(loop, timeout, look->polled_at); /* escapes */
    }
    if (status == 0) {
        status = al_inbox_move(loop);
    }
    if (status == 0 && loop->wake.readable) {
        status = al_wake_drain(loop); /* escapes */
        loop->debug.slot_began = 0;
    }
    if (status == 0 && timeout != 0) {
        status = PyErr_CheckSignals(); /* escapes; KeyboardInterrupt comes from here */
        loop->debug.slot_began = 0;    /* A signal handler's time is no callback's. */
    }
    return status;
}

static inline bool
has_test_clock(const al_loop *loop)
{
    return loop->virtual != NULL && !loop->overrides.time;
}

/* Nanoseconds that the selector may block for at time `now`; -1: for ever; -2: exception,
 * which only lent timers can cause. */
static int64_t
wait_limit(al_loop *loop, double now)
{
    double when;
    if (AL_LOAD(loop->stopping) || al_ring_len(&loop->ready) > 0) {
        return 0;
    }
    int found = al_timers_next(loop, &when); /* escapes */
    if (found <= 0) {
        return found < 0 ? -2 : al_ring_len(&loop->ready) > 0 ? 0 : -1;
    }
    double wait = when - now;
    if (wait <= 0 || al_ring_len(&loop->ready) > 0) {
        return 0;
    }
    if (AL_UNLIKELY(has_test_clock(loop))) {
        return al_virtual_distance(wait);
    }
    if (AL_LIKELY(!loop->overrides.as_asyncio)) {
        wait = al_timers_together(&loop->timers, when) - now;
    }
    return wait < MAXIMUM_WAIT ? (int64_t)ceil(wait * 1e9)
                               : (int64_t)(MAXIMUM_WAIT * 1e9);
}

/* An iteration as asyncio's waits: for so long on the loop's clock. */
static int
wait_as_asyncio(al_loop *loop, int64_t limit)
{
    return has_test_clock(loop) ? al_virtual_wait(loop, limit) /* escapes */
                                : al_sched_poll(loop, limit);  /* escapes */
}

/* Brings the timers that are due into the ring, after the wait. */
static int
collect_as_asyncio(al_loop *loop)
{
    double now;
    if (al_sched_time(loop, &now) < 0) { /* escapes */
        return -1;
    }
    double slack = loop->overrides.time   ? CLOCK_RESOLUTION
                   : has_test_clock(loop) ? CLOCK_RESOLUTION / 2
                                          : 0.;
    return al_timers_collect(loop, now + slack); /* escapes */
}

/* loop.time has been replaced, or is a test's clock, or somebody has the list of timers:
 * poll in every iteration, and believe only that clock, as asyncio does. */
static int
gather_as_asyncio(al_loop *loop)
{
    double now;
    al_sched_settle(loop);
    if (loop->timers.lent != NULL) {
        int status = al_timers_take_back(loop);
        al_override_timers_moved(loop);
        if (status < 0) {
            return -1;
        }
    }
    if (al_sched_time(loop, &now) < 0) {
        return -1;
    }
    int64_t limit = wait_limit(loop, now);                /* escapes */
    if (limit < -1 || wait_as_asyncio(loop, limit) < 0) { /* escapes */
        return -1;
    }
    return collect_as_asyncio(loop);
}

/* Nothing is ready. */
static int
wait_for_events(al_loop *loop)
{
    al_look *look = &loop->look;
    look->in_vain = 0;
    if (al_look_before_wait(look)) {
        if (al_sched_poll(loop, 0) < 0 ||
            al_timers_collect(loop, (double)look->polled_at / 1e9) < 0) {
            return -1;
        }
        if (al_ring_len(&loop->ready) > 0 || AL_LOAD(loop->stopping)) {
            look->misses = 0;
            return 0;
        }
    }
    look->misses++;
    bool timers = loop->timers.length > 0 || loop->timers.lent != NULL;
    double now = timers ? al_sched_now() : 0.;
    if (al_sched_poll(loop, wait_limit(loop, now)) < 0) {
        return -1;
    }
    return al_timers_collect(loop, (double)look->polled_at / 1e9);
}

/* The part of gather that looks at the selector or the clock. */
static int
gather_slowly(al_loop *loop)
{
    if (AL_UNLIKELY(al_watch_stale(loop->st)) && al_override_refresh(loop) < 0) {
        return -1;
    }
    al_look *look = &loop->look;
    if (AL_UNLIKELY(loop->overrides.as_asyncio)) {
        return gather_as_asyncio(loop);
    }
    bool due = al_timers_have_due(&loop->timers);
    if (al_ring_len(&loop->ready) == 0 && !due) {
        return wait_for_events(loop);
    }
    if (!al_look_is_eager(look, due)) {
        int64_t now = al_poll_clock();
        double seconds = (double)now / 1e9;
        due = al_timers_due(&loop->timers, seconds);
        if (!al_look_is_due(look, now) && !(due && al_look_has_watchers(look))) {
            al_look_clocked(look, now);
            return due ? al_timers_collect(loop, seconds) : 0;
        }
    }
    size_t length = al_ring_len(&loop->ready);
    if (al_sched_poll(loop, 0) < 0) {
        return -1;
    }
    al_look_looked(look, al_ring_len(&loop->ready) > length);
    double seconds = (double)look->polled_at / 1e9;
    return al_timers_due(&loop->timers, seconds) ? al_timers_collect(loop, seconds) : 0;
}

/* Whether the kernel's tick has changed since an iteration saw it: a stride that began with
 * short slots is over when a long one comes. */
static inline bool
has_ticked(al_look *look)
{
    if (!al_look_has_watchers(look)) {
        return false;
    }
    int64_t tick = al_poll_coarse_clock();
    bool ticked = tick != look->tick;
    look->tick = tick;
    return ticked;
}

/* Brings everything that is due into the ready ring; blocks if there is nothing. */
static inline int
gather(al_loop *loop)
{
    if (AL_UNLIKELY(loop->look.until_check == 0 || has_ticked(&loop->look))) {
        return gather_slowly(loop);
    }
    al_timers *timers = &loop->timers;
    if (al_timers_have_due(timers)) {
        if (al_look_has_watchers(&loop->look)) {
            return gather_slowly(loop);
        }
        /* The newest due deadline has passed, so every earlier one has. */
        return al_timers_collect(
            loop, timers->due[(timers->due_tail - 1) & timers->due_mask].when);
    }
    return AL_LIKELY(al_ring_len(&loop->ready) > 0) ? 0 : gather_slowly(loop);
}

/* --- running ------------------------------------------------------------------------ */

/* Whatever is not a step or wake-up must not see the task of the slot before, and what
 * does not enter a context of its own must not run in that slot's. */
static inline void
part_from_last(al_loop *loop, const al_slot *slot)
{
    const al_state *st = loop->st;
    if (slot->run == st->task_step || slot->run == st->task_wakeup) {
        return;
    }
    if (slot->run != al_handle_run && slot->run != al_handle_run_threadsafe &&
        slot->run != st->future_call && slot->run != st->stream_readable) {
        al_sched_settle(loop);
    }
    else if (loop->current_task != NULL) {
        st->leave_current(loop); /* escapes */
    }
}

/* Sends what slots wrote if it is due: true if it was; *status is -1 after a failure. */
static inline bool
send_if_due(al_loop *loop, int *status)
{
    if (loop->cork.first == NULL || !al_cork_is_due(&loop->cork)) {
        return false;
    }
    if (loop->st->flush_writes(loop) < 0) { /* escapes */
        *status = -1;
    }
    return true;
}

/* run_ready in debug mode: `todo` slots are left. */
static int
run_ready_debug(al_loop *loop, size_t todo)
{
    int status = 0;
    size_t ran = 0;
    int64_t began = al_sched_slot_begins(loop);
    loop->debug.slow_reported = 0;
    if ((loop->debug.switches & AL_DEBUG_METER) != 0) {
        al_meter_gathered(loop, began);
    }
    if ((loop->debug.switches & AL_DEBUG_ORDER) != 0 &&
        al_order_begin(loop, &todo) < 0) { /* escapes */
        return -1;
    }
    while (todo-- > 0 && al_ring_len(&loop->ready) > 0 && status == 0) {
        int64_t pushed = al_ring_head_stamp(&loop->ready);
        PyObject *note = al_ring_take_note(&loop->ready);
        al_slot slot = al_ring_pop(&loop->ready);
        part_from_last(loop, &slot);
        status = al_debug_run(loop, &slot, note, pushed); /* escapes */
        Py_DECREF(slot.self);                             /* escapes */
        Py_XDECREF(slot.arg);
        Py_XDECREF(slot.extra);
        Py_XDECREF(note);
        if (todo > 0 && send_if_due(loop, &status)) { /* escapes */
            loop->debug.slot_began = 0;
        }
        ran++;
    }
    if (loop->overrides.as_asyncio) {
        loop->look.quiet =
            0; /* The next iteration looks, whatever the kernel's tick. */
    }
    return status < 0 ? -1
           : ran < 2  ? 0
                      : al_debug_iteration_ended(loop, ran, began); /* escapes */
}

static inline int
run_ready(al_loop *loop)
{
    size_t todo = al_ring_len(&loop->ready), ready = todo;
    al_look_count(&loop->look, todo);
    int status = 0;
    bool nested = loop->in_slot;
    loop->in_slot = true;
    for (; todo > 0 && al_ring_len(&loop->ready) > 0; todo--) {
        if (AL_UNLIKELY(loop->debug.switches & AL_DEBUG_RUNS)) {
            status = run_ready_debug(loop, todo); /* escapes */
            break;
        }
        al_slot slot = al_ring_pop(&loop->ready);
        part_from_last(loop, &slot);
        status = slot.run(loop, slot.self, slot.arg, slot.extra); /* escapes */
        Py_DECREF(slot.self);                                     /* escapes */
        Py_XDECREF(slot.arg);
        Py_XDECREF(slot.extra);
        if (todo > 1) {
            (void)send_if_due(loop, &status); /* escapes */
        }
        if (AL_UNLIKELY(status < 0)) {
            break;
        }
    }
    if (loop->cork.first != NULL) {
        if (loop->st->flush_writes(loop) < 0) { /* escapes */
            status = -1;
        }
        loop->debug.slot_began = 0;
    }
    loop->in_slot = nested;
    al_look_iterated(&loop->look, ready);
    return status;
}

/* loop._run_once has been replaced. */
static int
run_once_by_name(al_loop *loop)
{
    PyObject *result = PyObject_CallMethodNoArgs((PyObject *)loop,
                                                 loop->st->str._run_once); /* escapes */
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* What asyncio's iteration waits in has been replaced: that iteration it is. */
static int
run_once_of_asyncio(al_loop *loop)
{
    PyObject *function =
        PyObject_GetAttr(loop->st->SelectorEventLoop, loop->st->str._run_once);
    PyObject *result = function == NULL ? NULL
                                        : PyObject_CallOneArg(
                                              function, (PyObject *)loop); /* escapes */
    Py_XDECREF(function);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static inline int
run_once(al_loop *loop)
{
    loop->counts.iterations++;
    return al_inbox_move(loop) < 0 || gather(loop) < 0 ? -1 : run_ready(loop);
}

int
al_sched_check_thread(const al_loop *loop)
{
    if (loop->debug.base != NULL && loop->debug.base->thread != PyThreadState_Get()) {
        PyErr_SetString(PyExc_RuntimeError, "This event loop is already running");
        return -1;
    }
    return 0;
}

int
al_sched_claim(al_loop *loop)
{
    if (check_selector(loop) < 0) {
        return -1;
    }
    if (al_inbox_claim(loop) < 0) {
        if (AL_LOAD(loop->thread_id) == 0) {
            PyErr_SetString(PyExc_RuntimeError, WAITED_FOR); /* It is about to be. */
        }
        return -1;
    }
    if (AL_FREE_THREADED && check_selector(loop) < 0) {
        al_inbox_leave(loop); /* Another thread has just closed it. */
        return -1;
    }
    return 0;
}

static int
run_once_by_hand(al_loop *loop)
{
    if (al_sched_check_thread(loop) < 0 ||
        (al_override_stale(loop) && al_override_refresh(loop) < 0)) {
        return -1;
    }
    if (loop->overrides.select) {
        return run_once_of_asyncio(loop); /* escapes */
    }
    al_look_must(&loop->look);
    int status = run_once(loop);
    al_sched_settle(loop);
    return status;
}

int
al_sched_run_once(al_loop *loop)
{
    if (al_sched_claim(loop) < 0) {
        return -1;
    }
    int status = run_once_by_hand(loop); /* escapes */
    al_inbox_leave(loop);
    return status;
}

/* How long al_sched_select may wait; -2: exception. */
static int64_t
select_limit(al_loop *loop, int64_t timeout)
{
    double now;
    if (loop->timers.lent != NULL) {
        /* The caller has seen to the timers, before the writes were flushed. */
        return al_ring_len(&loop->ready) > 0 ? 0 : timeout;
    }
    if (al_sched_time(loop, &now) < 0) { /* escapes */
        return -2;
    }
    int64_t limit = wait_limit(loop, now); /* escapes */
    return limit == -1 || (limit >= 0 && timeout >= 0 && timeout < limit) ? timeout
                                                                          : limit;
}

int
al_sched_select(al_loop *loop, int64_t timeout)
{
    if (check_selector(loop) < 0 || al_sched_check_thread(loop) < 0) {
        return -1;
    }
    al_sched_settle(loop);
    loop->counts.iterations++;
    if (loop->cork.first != NULL && loop->st->flush_writes(loop) < 0) { /* escapes */
        return -1;
    }
    int64_t began = loop->debug.slot_began;
    int64_t limit = select_limit(loop, timeout < 0 ? -1 : timeout); /* escapes */
    if (limit < -1 || wait_as_asyncio(loop, limit) < 0) {           /* escapes */
        return -1;
    }
    loop->debug.slot_began = loop->in_slot ? began : 0;
    if (loop->timers.lent != NULL) {
        return 0;
    }
    return collect_as_asyncio(loop);
}

int
al_sched_run_slot(al_loop *loop, const al_slot *slot, PyObject *note)
{
    /* Python code called us, perhaps out of a slot. */
    int64_t outer_began = loop->debug.slot_began;
    bool nested = loop->in_slot;
    al_sched_settle(loop);
    loop->in_slot = true;
    loop->debug.slot_began = 0;
    int status =
        (loop->debug.switches & AL_DEBUG_RUNS) != 0
            ? al_debug_run(loop, slot, note, AL_NO_STAMP)
            : slot->run(loop, slot->self, slot->arg, slot->extra);      /* escapes */
    if (loop->cork.first != NULL && loop->st->flush_writes(loop) < 0) { /* escapes */
        status = -1;
    }
    al_sched_settle(loop);
    loop->in_slot = nested;
    loop->debug.slot_began = nested ? outer_began : 0;
    return status;
}

int
al_sched_run(al_loop *loop)
{
    if (al_sched_check_thread(loop) < 0 || al_override_look_closely(loop) < 0) {
        return -1;
    }
    int status;
    al_stack_base *base = al_stack_enter(loop->st, &loop->debug.base);
    if (base == NULL) {
        return -1;
    }
    AL_STORE(loop->tstate, base->thread);
    al_look_must(&loop->look);
    al_meter_enter(loop);
    (void)loop->st->follow_stall(loop); /* escapes */
    do {
        if (AL_UNLIKELY(al_override_stale(loop)) && al_override_refresh(loop) < 0) {
            status = -1;
            break;
        }
        status = AL_LIKELY(!loop->overrides.in_python) ? run_once(loop)
                 : loop->overrides.run_once            ? run_once_by_name(loop)
                                                       : run_once_of_asyncio(loop);
    } while (status == 0 && !AL_LOAD(loop->stopping));
    al_sched_settle(loop);
    al_stack_leave(&loop->debug.base, base); /* escapes */
    AL_STORE(loop->tstate, loop->debug.base == NULL ? NULL : loop->debug.base->thread);
    if (loop->debug.base == NULL) {
        al_meter_leave(loop);
    }
    return loop->st->follow_stall(loop) < 0 ? -1 : status; /* escapes */
}
