/* sched.h: the loop object and its scheduler.
 *
 * The sentence to keep: Python code is started from one function only,
 * run_once in sched.c.  The selector, the timers and other threads only put slots into
 * the ready ring; a slot begins with "still wanted?".  (A program that drives the loop by
 * hand starts it itself, slot by slot, through al_sched_run_slot.)
 *
 * Semantics are those of asyncio's BaseEventLoop._run_once: the slots that are ready
 * when an iteration begins run in it, first in first out, and what they schedule runs
 * in the next one.  Two things are left out where a program cannot tell: a look at the
 * selector in each iteration, and one at the clock (look.h). */
#ifndef AL_CORE_SCHED_H
#define AL_CORE_SCHED_H

#include "base/arena.h"
#include "base/ring.h"
#include "base/state.h"
#include "core/cork.h"
#include "core/current.h"
#include "core/debug.h"
#include "core/faults.h"
#include "core/fds.h"
#include "core/inbox.h"
#include "core/look.h"
#include "core/meter.h"
#include "core/order.h"
#include "core/override.h"
#include "core/stack.h"
#include "core/timer.h"
#include "core/trace.h"
#include "core/virtual.h"
#include "core/wake.h"

struct al_poll;

struct al_future;

/* An intrusive list of pending tasks, without references (3.11-3.13). */
typedef struct {
    struct al_future *first;
    al_lock lock;
} al_task_list;

typedef struct al_loop {
    PyObject_HEAD
    al_state *st; /* outlived by the module that the type holds */

    /* Scheduling. */
    al_ring ready;
    al_timers timers;
    PyObject *spare_context; /* an empty Context for the next callback, or NULL */
    PyObject *idle_context;  /* still entered, between two slots; see context.h */
    bool idle_is_spare;      /* ... and nobody else's */
    al_look look;            /* when to look at the selector and the clock */
    uint64_t
        accepted_in; /* the iteration that last accepted a connection; io/server.h */
    bool polling;    /* the selector is being waited for */
    bool stopping;

    bool in_slot;   /* a slot is running: writes may wait */
    al_cork cork;   /* streams with writes that wait */
    al_arena arena; /* receive memory for all sockets */

    /* The outside world. */
    struct al_poll *poll; /* NULL once closed */
    al_fds fds;
    al_wake wake;
    al_inbox inbox; /* what other threads have pushed */

    /* Life cycle. */
    bool closed;
    unsigned long thread_id; /* of the running thread; 0: not running */
    PyThreadState *tstate;   /* the same, or NULL if it is not known */
    uint32_t forks;          /* st->forks when the selector was made */

    al_seen_tags seen_tags;
    al_overrides overrides;

    al_debug debug;
    al_misuse misuse;
    int lost_fd; /* closed while somebody waited for it, and not told of yet; or -1 */
    struct al_blocking *blocking; /* see diag/blocking.c; NULL: its switch is off */
    al_counts counts;
    al_meter *meter; /* NULL: loop.metering has never been on */

    /* The stall watchdog; see diag/stall.h. */
    int64_t stall_threshold; /* ns; 0: off; -1: what debug mode says */
    struct al_guard *guard;  /* while it is watched, or NULL */
    bool taking_gil;         /* the poll is over, and waits for the GIL */
    uint64_t stalls;         /* so often it was stuck */

    /* Tasks. */
    PyObject *task_factory; /* NULL: none */
    PyObject *current_task; /* borrowed; what the registry published, see there */
    al_current current;     /* the same, on 3.13 without a GIL */
    uint64_t next_name, last_name;          /* see task/names.h */
    al_task_list tasks;                     /* its own, without a GIL; see registry.c */
    struct al_loop *next_loop, **loop_link; /* the same */

    const void *own_executor; /* the default one, if asyncio made it: to compare */

    al_virtual *virtual; /* a test's clock; NULL: the kernel's */
    al_order *order;     /* a test's order; NULL: first in, first out */
    al_trace *trace;     /* of its last slots, for a test; NULL: none is kept */
    al_faults *faults;   /* a test's; NULL: none */
} al_loop;

/* obj as a loop of ours, or NULL (no exception).  Borrowed. */
static inline al_loop *
al_loop_check(const al_state *st, PyObject *obj)
{
    return PyObject_TypeCheck(obj, st->EventLoop_type) ? (al_loop *)obj : NULL;
}

/* Whether somebody may have replaced something since al_override_refresh. */
static inline bool
al_override_stale(al_loop *loop)
{
    const PyTypeObject *watched = (PyTypeObject *)loop->st->watched;
    return AL_LOAD(Py_TYPE(loop)->tp_version_tag) != AL_LOAD(loop->seen_tags.type) ||
           AL_LOAD(watched->tp_version_tag) != AL_LOAD(loop->seen_tags.watched);
}

/* Whether work may enter the ring as bare slots.  When it may not (a call_soon or
 * Handle._run that somebody replaced), every callback is a Handle made by the loop's
 * call_soon method, as in asyncio. */
static inline bool
al_loop_direct(al_loop *loop)
{
    return !(loop->overrides.call_soon | loop->overrides.handle_run |
             AL_LOAD(loop->closed)) &&
           !al_override_stale(loop);
}

/* Puts a slot into the ready ring; steals the references, also on failure.
 * 0, or -1 with MemoryError, or with RuntimeError in debug mode from a foreign thread. */
static inline int
al_sched_push_steal(al_loop *loop, al_run_fn run, PyObject *self, PyObject *arg,
                    PyObject *extra)
{
    if (AL_UNLIKELY(al_inbox_is_outside(loop))) {
        return al_inbox_push_steal(loop, run, self, arg, extra);
    }
    if (AL_UNLIKELY(loop->debug.switches & AL_DEBUG_PUSHES) &&
        !al_handle_is_run_by(run)) {
        /* A handle has a stack of its own, and was checked when it was made. */
        return al_debug_push_steal(loop, run, self, arg, extra);
    }
    return al_ring_push_steal(&loop->ready, run, self, arg, extra);
}

/* For a slot that cannot run for want of memory, with the MemoryError pending: it goes to
 * the ring's end again, where the ring's reserve is for it: a slot leaves one place when
 * it begins and may use one in this way.  Borrows the objects.  Returns -1: the
 * MemoryError has to leave run_forever. */
int al_sched_put_back(al_loop *loop, al_run_fn run, PyObject *self, PyObject *arg,
                      PyObject *extra);

/* loop.call_soon(callback, arg, context=context) by the method's name, for any loop
 * object; arg and context may be NULL.  0 or -1.  Escapes. */
int al_sched_call_soon(al_state *st, PyObject *loop, PyObject *callback, PyObject *arg,
                       PyObject *context);

/* A step leaves its task the current one, and most slots leave their context entered:
 * the next slot often has use for them.  This ends both, before anything else runs: a
 * slot that has not, a poll, an exception handler, the caller of the loop.  A pending
 * exception stays pending.  Escapes. */
void al_sched_settle(al_loop *loop);

/* When the slot began that runs or comes next, in nanoseconds; debug mode keeps it. */
static inline int64_t
al_sched_slot_begins(al_loop *loop)
{
    if (AL_UNLIKELY(loop->debug.slot_began == 0)) {
        loop->debug.slot_began = al_poll_clock();
    }
    return loop->debug.slot_began;
}

/* The kernel's clock, in seconds. */
double al_sched_now(void);
/* The clock of loop.time() if that is ours, in seconds. */
static inline double
al_sched_clock(const al_loop *loop)
{
    return AL_LIKELY(loop->virtual == NULL) ? al_sched_now() : al_virtual_now(loop);
}
/* The loop's time; calls a replaced loop.time.  0, or -1 with an exception. */
int al_sched_time(al_loop *loop, double *now);

/* 0, or -1 with RuntimeError if another thread runs the loop. */
int al_sched_check_thread(const al_loop *loop);

/* Whether the selector can be waited in: 0, or -1 with RuntimeError, as on a closed loop.
 * In a fork's child the loop gets a selector of its own here, or OSError.  Escapes. */
int al_sched_check_selector(al_loop *loop);

/* Asks the selector, `timeout` as in al_poll_wait; whatever its events wake is in the ready
 * ring then.  0 or -1.  Escapes. */
int al_sched_poll(al_loop *loop, int64_t timeout);

/* Iterations until loop->stopping.  0, or -1 with an exception that leaves
 * run_forever.  Escapes. */
int al_sched_run(al_loop *loop);
/* One iteration, with a poll. */
int al_sched_run_once(al_loop *loop);

/* Before al_sched_select and what belongs to it, and al_inbox_leave after them: the loop is
 * this thread's, and has a selector.  0, or -1 with RuntimeError. */
int al_sched_claim(al_loop *loop);

/* The two halves of an iteration, for a program that has one of its own (see
 * loop/drive.h); both may be called from inside a slot.
 *
 * Waits for events, `timeout` as in al_poll_wait but not longer than the next timer
 * allows, nor when something is ready; brings all that is due into the ring.  0 or -1.
 * Escapes. */
int al_sched_select(al_loop *loop, int64_t timeout);
/* Runs a slot that the caller has taken out of the ring and owns, with its note or NULL.
 * Result as al_run_fn.  Escapes. */
int al_sched_run_slot(al_loop *loop, const al_slot *slot, PyObject *note);

#endif
