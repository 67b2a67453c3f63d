/* order.h: in which order an iteration runs its slots, where a test's seed decides.
 *
 * asyncio runs what is ready first in, first out.  Most of that order is chance: which of
 * two tasks was woken first depends on the network, and on code far away.  A test that
 * has the order drawn by lot sees what other days would bring, and with the same seed it
 * sees the same again.
 *
 * What may be exchanged are slots of different lanes.  Steps of a task are one lane; what
 * waits for one future is one, tasks and callbacks; the loop's own slots are one together:
 * handles, timers, transports, for asyncio promises that callbacks run in the order of
 * call_soon(), and its own code relies on that.  A handle that is a task's step, a wake-up
 * or a future's callback counts as such.  Lanes are told apart by addresses, but nothing
 * else depends on these, nor on the time: the same program with the same seed has the same
 * order in each process.
 *
 * - SEEDED: the slots of an iteration are interleaved at random, each interleaving of its
 *   lanes being as likely as any other.
 * - PCT (Burckhardt and others, "A randomized scheduler with probabilistic guarantees of
 *   finding bugs", 2010): an iteration runs one slot, the first of the lane with the
 *   highest priority.  Tasks get theirs by lot when they are first seen, and at `depth` - 1
 *   steps, drawn from the first `length`, the one that is to run falls below all.  So a
 *   task can stay behind for long.  A lane that has run FAIR times in a row falls
 *   below all, too, or a task that polls would run alone for ever.
 *
 * A cancellation may be injected, too: before the step of a task with a given number, all
 * tasks' steps being counted, a function of the test's is called with that task.
 *
 * The scheduler asks al_order_begin where debug mode branches off (AL_DEBUG_ORDER). */
#ifndef AL_CORE_ORDER_H
#define AL_CORE_ORDER_H

#include "base/state.h"

struct al_loop;

typedef struct al_order al_order; /* loop->order, NULL: first in, first out */

/* The next number of a sequence, of which *state is the seed at first. */
uint64_t al_order_random(uint64_t *state);

/* An iteration begins that would run the first *todo slots of the ready ring: puts them
 * into their order.  0, or -1 with an exception.  Escapes. */
int al_order_begin(struct al_loop *loop, size_t *todo);

int al_order_traverse(const struct al_loop *loop, visitproc visit, void *arg);
/* Escapes. */
void al_order_free(struct al_loop *loop);

extern PyMethodDef al_order_methods[]; /* of the module, not public */

#endif
