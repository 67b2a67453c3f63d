/* debug.h: what debug mode adds to the loop.
 *
 * loop->debug holds all of it, first the switches below; loop.set_debug(True) turns all
 * of these on.  They may change at any moment, from any thread and inside any callback,
 * so whoever acts on one reads it once.  Without a GIL the loop's thread changes them, and
 * what other threads may reach too reads them by AL_LOAD.
 *
 * Debug mode changes no route: bare slots stay bare.  What asyncio keeps in the Handle
 * of each callback is found or made when somebody asks: the stack of a slot's origin is
 * the ring's note, and loop._current_handle is built from the slot that runs. */
#ifndef AL_CORE_DEBUG_H
#define AL_CORE_DEBUG_H

#include "base/ring.h"
#include "base/state.h"
#include "core/meter.h"
#include "core/stack.h"

struct al_loop;

enum {
    AL_DEBUG_SLOW_CALLBACKS = 1,
    AL_DEBUG_SLOW_ITERATIONS = 2,
    AL_DEBUG_SLOW_SELECTOR = 4,
    AL_DEBUG_TRACEBACKS = 8, /* of futures, tasks and handles */
    AL_DEBUG_WAKEUPS = 16,   /* of slots: `handle_traceback` */
    AL_DEBUG_THREADS = 32,
    AL_DEBUG_CALLBACKS = 64, /* coroutines and non-callables are refused */
    AL_DEBUG_FDS = 128,      /* blocking sockets are refused; asyncio's own checks and
                              * logs: loop._debug, loop.get_debug() */
    AL_DEBUG_ORIGINS = 256,  /* `origin_depth` is not 0 */
    AL_DEBUG_SAMPLES = 512,  /* ... and `origin_interval` is more than 1 */
    AL_DEBUG_METER = 1024, /* loop.metering, which is no part of debug mode: meter.h */
    AL_DEBUG_CLOCK = 2048, /* the loop's clock is a test's, no part of it either:
                              * virtual.h */
    AL_DEBUG_CANCELS = 4096, /* tracebacks of Task.cancel() */
    AL_DEBUG_DEADLOCKS = 8192,
    AL_DEBUG_ORDER =
        16384,             /* the order of slots is a test's, like the clock: order.h */
    AL_DEBUG_TEST = 32768, /* a test sees each slot: trace.h, faults.h */
    AL_DEBUG_ALL = 511 | AL_DEBUG_CANCELS | AL_DEBUG_DEADLOCKS,
    /* What makes al_debug_run time a slot, and what needs it at all; what times polls. */
    AL_DEBUG_TIMED = AL_DEBUG_SLOW_CALLBACKS | AL_DEBUG_SLOW_ITERATIONS |
        AL_DEBUG_METER,
    AL_DEBUG_POLLS = AL_DEBUG_SLOW_SELECTOR | AL_DEBUG_METER | AL_DEBUG_DEADLOCKS,
    AL_DEBUG_RUNS = AL_DEBUG_TIMED | AL_DEBUG_TRACEBACKS | AL_DEBUG_WAKEUPS |
        AL_DEBUG_FDS | AL_DEBUG_SAMPLES | AL_DEBUG_ORDER | AL_DEBUG_TEST,
    /* What call_soon and its kin check. */
    AL_DEBUG_CHECKS = AL_DEBUG_THREADS | AL_DEBUG_CALLBACKS,
    /* What needs al_debug_push_steal. */
    AL_DEBUG_PUSHES = AL_DEBUG_WAKEUPS | AL_DEBUG_THREADS,
};

/* The slot being run, a copy: the C stack that it is on may be a greenlet's, and be copied
 * away.  Whoever runs it owns the objects. */
typedef struct {
    al_slot slot;       /* slot.run is NULL where none runs */
    PyObject *note;     /* its note, or NULL */
    uint64_t serial;    /* its number among all slots, or 0 */
    al_metered metered; /* of AL_DEBUG_METER */
    bool shown;         /* it began in debug mode: loop._current_handle tells of it */
} al_running;

typedef struct {
    unsigned switches;      /* AL_DEBUG_*, 0 outside debug mode */
    int origin_depth;       /* of the stacks that coroutines remember */
    int origin_interval;    /* in one of so many slots: see debug.c */
    uint32_t until_origins; /* slots left before the next such one */
    uint32_t random;        /* what chooses them */
    al_stack_table *stacks; /* interned stacks, NULL: none yet */
    al_stack_base *base;    /* of the running loop, NULL when it does not run; owned */
    int frames_above;       /* see al_debug_capture_handle */
    PyObject *slow_callback_duration;
    int64_t slow_limit; /* the same in ns */
    int64_t slot_began; /* ns: the slot that runs or comes next; 0: unknown */
    int64_t poll_began; /* ns: the poll that lasts; 0: it is not timed */
    bool may_be_asleep; /* ... and would last for ever: see al_debug_poll_begins */
    size_t seen_asleep; /* the ring's head, plus 1, when it was looked into; 0: never */
    int64_t slow_reported; /* ns of this iteration in slots reported as slow */
    al_running running;
    uint64_t slots;           /* have begun */
    PyObject *current_handle; /* made for the slot being run, or set, or NULL */
} al_debug;

/* --- switches ---------------------------------------------------------------------- */

/* Sets all switches; AL_DEBUG_ORIGINS follows from the depth, AL_DEBUG_SAMPLES from the
 * interval.  0 or -1.  Escapes. */
int al_debug_set(struct al_loop *loop, unsigned switches, int origin_depth,
                 int origin_interval);
/* loop.slow_callback_duration has a new value.  0 or -1.  Escapes. */
int al_debug_set_slow(struct al_loop *loop, PyObject *seconds);
/* Forgets the stacks, at close.  Escapes. */
void al_debug_clear(struct al_loop *loop);

/* loop.get_debug() of any loop object: 1, 0 or -1.  Escapes for a loop that is not
 * ours. */
int al_debug_of_loop(al_state *st, PyObject *loop);

/* --- source tracebacks --------------------------------------------------------------- */

/* The calling thread's whole stack, for the `_source_traceback` of a future or task (see
 * stack.h); NULL as `loop` stands for a loop of another kind.  New reference, or NULL
 * with MemoryError.  Escapes. */
PyObject *al_debug_capture(al_state *st, struct al_loop *loop);

/* The same for the origin of a coroutine that is in C: as many frames as a coroutine
 * remembers.  Only while the loop has AL_DEBUG_ORIGINS. */
PyObject *al_debug_capture_origin(struct al_loop *loop);

/* The same for a handle: asyncio keeps the innermost ten frames, of which it deletes its
 * own two.  Its other functions that are C here take a place each: run_forever,
 * _run_once and Handle._run, what al_debug_describe tells, and `frames_above`, the
 * functions between Python code and the handle that are more than call_soon's (call_later
 * and create_task, one each; add_reader has one less). */
PyObject *al_debug_capture_handle(struct al_loop *loop);

/* --- checks --------------------------------------------------------------------------- */

/* RuntimeError if the loop runs in another thread and the switch is on.  0 or -1. */
int al_debug_check_thread(struct al_loop *loop);
/* TypeError if the callback cannot be called and the switch is on.  0 or -1.  Escapes. */
int al_debug_check_callback(struct al_loop *loop, PyObject *callback,
                            const char *method);

/* --- slots ------------------------------------------------------------------------------ */

/* The note of a slot that is pushed here: its stack, or NULL if the switch is off or there
 * is no memory.  New reference, no exception.  Escapes. */
PyObject *al_debug_note(struct al_loop *loop);

/* al_sched_push_steal in debug mode: checks the thread, notes the stack. */
int al_debug_push_steal(struct al_loop *loop, al_run_fn run, PyObject *self,
                        PyObject *arg, PyObject *extra);

/* Runs a slot for whoever has a switch of AL_DEBUG_RUNS; `pushed` is when it was queued,
 * ns, or AL_NO_STAMP.  Result as al_run_fn. */
int al_debug_run(struct al_loop *loop, const al_slot *slot, PyObject *note,
                 int64_t pushed);

/* For slots that do what is several callbacks in asyncio.  The slot that runs has done one
 * of them: if that was slow it is logged.  0 or -1.  Escapes. */
int al_debug_next(struct al_loop *loop);
/* The same, and what follows is another slot's work, which this one runs: that slot is
 * shown.  Result as al_run_fn. */
int al_debug_run_next(struct al_loop *loop, const al_slot *slot);

/* An iteration that began at that time, in nanoseconds, has run `count` slots, two or
 * more.  0 or -1. */
int al_debug_iteration_ended(struct al_loop *loop, size_t count, int64_t began);

/* The selector is about to be asked to wait for *timeout; returns now, ns.  A wait for ever,
 * with nothing in the selector to wake the loop, is cut short: al_debug_polled has
 * aioloop/_deadlocks.py look into it when it is over, once until a slot runs. */
int64_t al_debug_poll_begins(struct al_loop *loop, int64_t *timeout);

/* The selector was asked to wait for `timeout` (as al_poll_wait) at poll_began, and came
 * back at `now`, ns.  Logs it if that is late.  0 or -1.  Escapes. */
int al_debug_polled(struct al_loop *loop, int64_t timeout, int64_t now);

/* loop._current_handle: the Handle that asyncio would be running, or None.  New
 * reference. */
PyObject *al_debug_current_handle(struct al_loop *loop);

/* The Handle that asyncio would have in the place of a slot that is none; `note` may be
 * NULL.  It tells what the slot is and must not be run.  New reference.  Escapes. */
PyObject *al_debug_handle_of(struct al_loop *loop, const al_slot *slot, PyObject *note);

/* What a Handle for a slot would hold: new references, *args a tuple or NULL, *context
 * a Context or NULL.  0 or -1.  Escapes. */
typedef int (*al_describe_fn)(struct al_loop *loop, const al_slot *slot,
                              PyObject **callback, PyObject **args, PyObject **context);

/* What a method of a socket transport adds to `frames_above` when it schedules. */
#if PY_VERSION_HEX >= 0x030F0000
enum { AL_DEBUG_METHOD_FRAMES = 2 }; /* itself and _call_soon */
#else
enum { AL_DEBUG_METHOD_FRAMES = 1 };
#endif

/* Rooms with slots of their own tell, at import, how to describe them, and how many
 * functions asyncio has between the Handle and the program's code.  Without that a slot
 * counts as a callback `self`.  0, or -1 with MemoryError. */
int al_debug_describe(al_state *st, al_run_fn run, al_describe_fn describe, int frames);
/* The same for a slot that stands for a Handle of self.<name>(), or of self.<name>(arg)
 * with None for an arg that is NULL. */
int al_debug_describe_method(al_state *st, al_run_fn run, const char *name,
                             bool with_arg, int frames);
/* The method's name of such a slot, or NULL. */
const char *al_debug_method_of(const al_state *st, al_run_fn run);
void al_debug_free(al_state *st);

/* --- logging ------------------------------------------------------------------------------ */

/* asyncio.base_events.logger.warning(*args), looked up now; steals the tuple, and fails
 * if it is NULL.  0 or -1.  Escapes. */
int al_debug_log_steal(al_state *st, PyObject *args);

/* The same with a format and one or two objects, the second may be NULL; steals
 * neither. */
int al_debug_warn(al_state *st, const char *format, PyObject *first, PyObject *second);

#endif
