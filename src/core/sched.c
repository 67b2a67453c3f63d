/* sched.c: one iteration of the loop; see sched.h. */
#include "core/sched.h"

#include <math.h>
#include <unistd.h>

#include "core/debug.h"
#include "core/override.h"
#include "core/poll.h"

enum {
    /* Ready slots run for this long before the selector is looked at again: sockets
     * wait no longer than one long callback, and a poll costs 0.3 % of the time. */
    POLL_INTERVAL = 50 * 1000, /* ns */
    /* The clock is read once per stride of slots.  The stride doubles while a stride
     * is over in SHORT_STRIDE and falls back to 1 at the first that is not. */
    STRIDE_MAX = 16,
    SHORT_STRIDE = 5 * 1000, /* ns */
};

/* epoll and kqueue refuse longer waits on some systems (asyncio waits a day at most). */
static const double MAXIMUM_WAIT = 24 * 3600.0;

double
al_sched_now(void)
{
    return (double)al_poll_clock() / 1e9;
}

int
al_sched_time(al_loop *loop, double *now)
{
    if (AL_UNLIKELY(al_override_stale(loop)) && al_override_refresh(loop) < 0) {
        return -1;
    }
    if (AL_LIKELY(!loop->own_time)) {
        *now = al_sched_now();
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

/* --- waiting ------------------------------------------------------------------------ */

/* The selector's kernel objects are shared with the parent after a fork. */
static int
adopt_after_fork(al_loop *loop)
{
    loop->pid = getpid();
    if (al_poll_fork(loop->poll) < 0 || al_wake_fork(loop) < 0) {
        return -1;
    }
    return al_debug_warn(
        loop->st,
        "%r was carried through a fork: the child now has a selector of its own, but "
        "shares every open descriptor with its parent",
        (PyObject *)loop, NULL); /* escapes */
}

static int
poll_selector(al_loop *loop, int64_t timeout)
{
    if (timeout != 0 || loop->must_poll) {
        if (AL_UNLIKELY(loop->pid != getpid()) && adopt_after_fork(loop) < 0) {
            return -1;
        }
    }
    loop->must_poll = false;
    loop->wake.blocked = timeout != 0;
    int status = al_poll_wait(loop->poll, timeout);
    loop->wake.blocked = false;
    loop->polled_at = loop->checked_at = al_poll_clock();
    loop->until_check = loop->stride = 1;
    if (status == 0 && loop->wake.readable) {
        status = al_wake_drain(loop); /* escapes */
    }
    if (status == 0 && timeout != 0) {
        status = PyErr_CheckSignals(); /* escapes; KeyboardInterrupt comes from here */
    }
    return status;
}

/* Nanoseconds that the selector may block for at time `now`; -1: for ever. */
static int64_t
wait_limit(al_loop *loop, double now)
{
    double when;
    if (loop->stopping || al_ring_len(&loop->ready) > 0) {
        return 0;
    }
    if (!al_timers_next(&loop->timers, &when)) { /* escapes */
        return al_ring_len(&loop->ready) > 0 ? 0 : -1;
    }
    double wait = when - now;
    if (wait <= 0 || al_ring_len(&loop->ready) > 0) {
        return 0;
    }
    return wait < MAXIMUM_WAIT ? (int64_t)ceil(wait * 1e9)
                               : (int64_t)(MAXIMUM_WAIT * 1e9);
}

/* loop.time has been replaced: poll in every iteration and believe only that clock, as
 * asyncio does. */
static int
gather_by_own_time(al_loop *loop)
{
    double now;
    if (al_sched_time(loop, &now) < 0 ||
        poll_selector(loop, wait_limit(loop, now)) < 0 ||
        al_sched_time(loop, &now) < 0) {
        return -1;
    }
    return al_timers_collect(loop, now + 1e-9);
}

/* Brings everything that is due into the ready ring; blocks if there is nothing. */
static int
gather(al_loop *loop)
{
    if (AL_UNLIKELY(loop->own_time)) {
        return gather_by_own_time(loop);
    }
    al_timers *timers = &loop->timers;
    bool due = al_timers_have_due(timers);
    bool idle = al_ring_len(&loop->ready) == 0 && !due;
    if (AL_LIKELY(!idle && !loop->must_poll && loop->until_check > 0)) {
        if (!due) {
            return 0;
        }
        /* The newest due deadline has passed, so every earlier one has. */
        return al_timers_collect(
            loop, timers->due[(timers->due_tail - 1) & timers->due_mask].when);
    }
    int64_t now = al_poll_clock();
    if (!idle && !loop->must_poll && now - loop->polled_at < POLL_INTERVAL) {
        bool quick = now - loop->checked_at < SHORT_STRIDE;
        loop->stride = !quick                      ? 1
                       : loop->stride < STRIDE_MAX ? loop->stride * 2
                                                   : STRIDE_MAX;
        loop->until_check = loop->stride;
        loop->checked_at = now;
        return al_timers_collect(loop, (double)now / 1e9);
    }
    uint32_t stride = loop->stride;
    int64_t timeout = idle ? wait_limit(loop, (double)now / 1e9) : 0;
    if (poll_selector(loop, timeout) < 0) {
        return -1;
    }
    if (!idle) {
        loop->stride = loop->until_check = stride;
    }
    return al_timers_collect(loop, (double)loop->polled_at / 1e9);
}

/* --- running ------------------------------------------------------------------------ */

static int
run_ready(al_loop *loop)
{
    size_t todo = al_ring_len(&loop->ready);
    loop->until_check =
        todo < loop->until_check ? loop->until_check - (uint32_t)todo : 0;
    int status = 0;
    while (todo-- > 0 && al_ring_len(&loop->ready) > 0) {
        al_slot slot = al_ring_pop(&loop->ready);
        if (loop->current_task != NULL && slot.run != loop->st->task_step &&
            slot.run != loop->st->task_wakeup) {
            loop->st->leave_current(loop);
        }
        status = AL_UNLIKELY(loop->debug)
                     ? al_debug_run(loop, &slot)
                     : slot.run(loop, slot.self, slot.arg, slot.extra); /* escapes */
        Py_DECREF(slot.self);                                           /* escapes */
        Py_XDECREF(slot.arg);
        Py_XDECREF(slot.extra);
        if (AL_UNLIKELY(status < 0)) {
            break;
        }
    }
    if (loop->current_task != NULL) {
        loop->st->leave_current(loop);
    }
    return status;
}

int
al_sched_run_once(al_loop *loop)
{
    if (AL_UNLIKELY(al_override_stale(loop)) && al_override_refresh(loop) < 0) {
        return -1;
    }
    if (gather(loop) < 0) {
        return -1;
    }
    return run_ready(loop);
}
