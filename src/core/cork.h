/* cork.h: when what slots have written is sent.
 *
 * A burst of sends costs the kernel and the processor less than one after each slot: the
 * peer's process is woken once, and the caches stay warm (FastAPI's and aiohttp's servers:
 * 7 to 10 % of their time).  So a write waits while other slots are ready, on a list of
 * its loop, which io/write.h fills and sends.  asyncio has sent when write() returns.
 * The difference is bounded whatever the slot does:
 *
 * - The scheduler sends when the iteration ends, between slots after CORK_TIME, and
 *   after a slot that has written much.
 * - A second write to a stream sends at once if CORK_TIME has passed since the first.
 * - The interpreter's helper thread (ticker.h) looks while loops cork.  What has waited for
 *   2 ms while a slot runs is sent by it, with the GIL: `time.sleep` gives that up at once,
 *   Python code within 5 ms; only a C call that keeps it delays longer.
 * - What forks, executes a program or hands the descriptor out sends first.
 *
 * Without a GIL nothing is corked: what a slot keeps waiting could be sent by no other
 * thread without a lock in every stream.
 *
 * The looks begin with a write that waits, and end when no loop corks any more.  Where
 * there can be none every write is sent at once. */
#ifndef AL_CORE_CORK_H
#define AL_CORE_CORK_H

#include "base/state.h"
#include "core/poll.h"

enum {
    CORK_TIME = 300 * 1000 /* ns: between two slots of one iteration, two writes */
};

struct al_loop;
struct al_stream;

typedef struct al_cork {
    struct al_stream *first, *last; /* a list of owned references */
    bool hot;                       /* one is to be sent from warm caches */
    bool off;                       /* loop.cork_writes is False */
    int64_t since;                  /* ns: when the first of them was written, or 0 */
    /* What the thread looks at. */
    atomic_bool waiting; /* something has been corked since the last flush, or rescue */
    atomic_uint began;   /* when, in its steps */
    struct al_loop *loop;
    struct al_cork *next, **prev; /* of the interpreter's loops; prev is NULL outside */
} al_cork;

/* Once for the module.  0 or -1. */
int al_cork_init(PyObject *module);
void al_cork_free(al_state *st);

/* A new loop's; AIOLOOP_CORK=0 turns corking off. */
void al_cork_open(struct al_loop *loop);
/* The loop is closed or dies. */
void al_cork_close(al_cork *cork);

/* For io/write.h.  A write is about to wait: it is looked at from now on.  False if that
 * cannot be.  Escapes at the first time: other audit hooks are told of ours. */
bool al_cork_begin(al_state *st, al_cork *cork);

/* Sends what all loops of the interpreter have corked, from any thread with the GIL; runs
 * no foreign code. */
void al_cork_send_all(al_state *st);

/* Everything has been sent. */
static inline void
al_cork_ended(al_cork *cork)
{
    cork->hot = false;
    cork->since = 0;
    atomic_store_explicit(&cork->waiting, false, memory_order_relaxed);
}

/* Whether the first of the writes that wait has waited for long. */
static inline bool
al_cork_is_old(const al_cork *cork)
{
    return al_poll_clock() - cork->since > CORK_TIME;
}

/* Whether it is time to send, with more slots to come. */
static inline bool
al_cork_is_due(const al_cork *cork)
{
    return cork->hot || al_cork_is_old(cork);
}

#endif
