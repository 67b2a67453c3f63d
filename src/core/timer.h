/* timer.h: the pending timers of a loop.
 *
 * A four-ary heap of (deadline, order of scheduling, handle) and, beside it, a queue of
 * timers that were due when they were scheduled (call_later(0) and the like), which
 * never see the heap.  The queue's deadlines never decrease, so merging it with the
 * heap's top gives asyncio's order: by deadline, then by order of scheduling.
 *
 * asyncio's own functions and programs that know its loops work on a list, `_scheduled`,
 * by heapq.  al_timers_lend makes it, with all timers; while anybody else has it, it is
 * the truth, and the heap and the queue are empty.
 *
 * Cancelling is O(1): the newest heap entry is taken out at once (a timeout that did
 * not happen is nearly always that one), any other is left as garbage, and the heap is
 * rebuilt when more than half of it is garbage.  Both containers own their handles. */
#ifndef AL_CORE_TIMER_H
#define AL_CORE_TIMER_H

#include "core/handle.h"

typedef struct {
    double when;
    uint64_t order;
    al_handle *handle;
} al_timer_entry;

typedef struct {
    al_timer_entry *heap;
    size_t length, capacity;
    al_timer_entry *due; /* ring, power of two */
    size_t due_mask, due_head, due_tail;
    size_t cancelled; /* garbage entries in the heap or the list */
    uint64_t order;
    PyObject *lent; /* `_scheduled`: a list, or NULL */
} al_timers;

struct al_loop;

int al_timers_init(al_timers *timers);
/* Releases every handle; foreign code may run. */
void al_timers_clear(al_timers *timers);
void al_timers_free(al_timers *timers);
int al_timers_traverse(const al_timers *timers, visitproc visit, void *arg);
/* The loop has stopped: see handle.h. */
void al_timers_track(const al_timers *timers);

/* loop._scheduled, a list in the order of heapq.  New reference. */
PyObject *al_timers_lend(al_timers *timers);
/* Makes another list the one of loop._scheduled.  0 or -1.  Escapes. */
int al_timers_replace(al_timers *timers, PyObject *list);
/* Takes the timers back into the heap if nobody else has the list and all in it are
 * ours.  0, or -1 with MemoryError. */
int al_timers_take_back(struct al_loop *loop);

/* Schedules handle->when; takes its own reference.  `now` is the loop's time: a
 * deadline not after it goes to the due queue.  0 or -1. */
int al_timers_add(struct al_loop *loop, al_handle *handle, double now);

/* The handle has been cancelled while scheduled. */
void al_timers_cancelled(al_timers *timers, al_handle *handle);

/* Moves every timer whose deadline is not after `now` to the loop's ready ring.
 * 0 or -1.  Escapes. */
int al_timers_collect(struct al_loop *loop, double now);

static inline bool
al_timers_have_due(const al_timers *timers)
{
    return timers->due_head != timers->due_tail;
}

/* Whether al_timers_collect has anything to do at time `now`; not for lent timers. */
static inline bool
al_timers_due(const al_timers *timers, double now)
{
    return al_timers_have_due(timers) || timers->cancelled > 0 ||
           (timers->length > 0 && timers->heap[0].when <= now);
}

/* The earliest deadline of a timer that is not cancelled: 1, 0 if there is none, or -1.
 * Drops cancelled entries from the top on its way.  Escapes. */
int al_timers_next(struct al_loop *loop, double *when);

/* The deadline up to which the earliest timer, at `when`, can wait for others that are
 * due right after it, so that the loop wakes once for all of them; `when` if there are
 * none.  After al_timers_next. */
double al_timers_together(const al_timers *timers, double when);

#endif
