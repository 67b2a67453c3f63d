/* meter.h: what loop.metrics() tells: counters, times and histograms.
 *
 * Two sorts.  al_counts are counted always: each costs one addition where something much
 * dearer happens.  al_meter is there while loop.metering is on (AL_DEBUG_METER): it sees
 * each slot, and each wait; core/usage and core/recorder are parts of it.  While the slot
 * is in the caches it gets a record in core/recorder, and no more; histograms and usage are
 * added up from 256 records at once, and before somebody reads them.
 * What programs lose is counted by core/misuse, and stalls by diag/stall.  All numbers
 * only grow, so that the difference of two readings is what happened between them; they
 * are written with the GIL held, by the loop's thread, and read with it held, by any; but
 * for stalls, which the ticker's thread counts.
 *
 * A slot's time is from the end of the slot before it to its own end, as in debug mode:
 * one reading of a precise clock (core/cycles).  Its queue delay begins when the clock was last
 * read before it was queued: at the beginning of the slot that queued it, or at the end of
 * the poll.  That costs nothing where slots are queued; what the queueing slot had
 * done until then is counted too.  Only a task's own next step is known to be the last
 * thing that its step queues. */
#ifndef AL_CORE_METER_H
#define AL_CORE_METER_H

#include "base/ring.h"
#include "base/state.h"

struct al_loop;

/* Since the loop was made. */
typedef struct {
    uint64_t iterations; /* begun */
    uint64_t steps;      /* of tasks */
    uint64_t tasks_made;
    uint64_t tasks_ended[3]; /* with a result, cancelled, with an exception */
    uint64_t tasks_lost;     /* died pending, reported or not */
    uint64_t slow_callbacks;
    uint64_t bytes_in, bytes_out; /* of transports and sock_* */
} al_counts;

/* Counts the bytes that a system call has moved: n, or none where that is negative.
 * Returns n. */
static inline Py_ssize_t
al_count(uint64_t *counter, Py_ssize_t n)
{
    *counter += n > 0 ? (uint64_t)n : 0;
    return n;
}

enum { AL_METER_BUCKETS = 23 };

/* Durations; bucket i holds those of at most al_meter_bounds[i], and not of the one
 * before; the last one has no bound. */
typedef struct {
    uint64_t counts[AL_METER_BUCKETS];
    int64_t sum; /* ns */
} al_histogram;

typedef struct al_meter al_meter;

/* What is known of a slot before it runs. */
typedef struct {
    int64_t pushed; /* ns: when it was queued, or AL_NO_STAMP */
    uint32_t entry; /* who is charged for it, a number in core/usage */
} al_metered;

#define AL_NOT_METERED ((al_metered){AL_NO_STAMP, UINT32_MAX})

/* --- the switch ------------------------------------------------------------------------ */

/* loop.metering = on.  The readings of before stay when it is turned off and grow on when
 * it is turned on again.  0, or -1 with MemoryError. */
int al_meter_set(struct al_loop *loop, bool on);
/* What is referred to: visit for tp_traverse, forget for tp_clear (escapes), free at the
 * end. */
int al_meter_traverse(const struct al_loop *loop, visitproc visit, void *arg);
void al_meter_forget(struct al_loop *loop);
void al_meter_free(struct al_loop *loop);

/* --- what the loop tells, while the switch is on --------------------------------------- */

/* The loop begins to run, or ceases to. */
void al_meter_enter(struct al_loop *loop);
void al_meter_leave(struct al_loop *loop);
/* A poll that was asked to wait for `timeout` (as al_poll_wait) took from `began` to
 * `ended`, ns. */
void al_meter_polled(struct al_loop *loop, int64_t timeout, int64_t began,
                     int64_t ended);
/* An iteration begins to run its slots. */
void al_meter_gathered(struct al_loop *loop, int64_t now);
/* al_debug_run where nothing of debug mode is on. */
int al_meter_run(struct al_loop *loop, const al_slot *slot, int64_t pushed);
/* The slot that al_meter_run runs has done one of its several callbacks. */
void al_meter_next(struct al_loop *loop);

/* What al_debug_run does otherwise.  A slot is about to run. */
al_metered al_meter_begin(struct al_loop *loop, const al_slot *slot, int64_t pushed);
/* It has run, or one of the several callbacks that it is. */
void al_meter_ran(struct al_loop *loop, const al_slot *slot, al_metered what,
                  int64_t began, int64_t ended);

/* --- readings, for Python -------------------------------------------------------------- */

/* A dict of all numbers, in nanoseconds where they are times; see aioloop/_metrics.py. */
PyObject *al_meter_read(struct al_loop *loop);
/* The lists of core/usage and core/recorder; empty without a meter. */
PyObject *al_meter_read_usage(struct al_loop *loop);
PyObject *al_meter_read_records(struct al_loop *loop, uint64_t most);
PyObject *al_meter_read_timeline(struct al_loop *loop);
/* See al_usage_open_window. */
void al_meter_window(struct al_loop *loop, bool open);

#endif
