/* ticker.h: the interpreter's helper thread, for what must happen while a slot runs.
 *
 * Rooms use it (core/cork sends writes that wait, diag/stall watches for loops that are
 * stuck), each with an al_ticker_user of its own.  There are two threads, because nobody
 * can say when the GIL is to be had:
 *
 * - The ticker calls the users' `look` when it is due.  It never takes the GIL, and so
 *   is never late.  Between two looks it sleeps, without a limit while nobody wants one.
 * - The caller takes the GIL and calls `act` of the users who want it.  It is started by
 *   the first such wish and sleeps between them.
 *
 * The ticker is started when a user needs it.  Both end before a fork (Python warns of a
 * fork with threads, and the child would inherit their lock), and with the interpreter.
 * They take no signals: those are the program's threads'.
 *
 * The lock guards the users' data that `look` reads.  A user's data that changes only with
 * the lock and the GIL may be read with either.  Nobody waits for the GIL, calls Python
 * code or sleeps with the lock held. */
#ifndef AL_CORE_TICKER_H
#define AL_CORE_TICKER_H

#include "base/state.h"

#define AL_TICKER_NEVER INT64_MAX

typedef struct al_ticker_user {
    /* In the ticker's thread, with the lock.  Returns when the next look is due, in
     * nanoseconds of al_poll_clock, or AL_TICKER_NEVER: not before al_ticker_wake. */
    int64_t (*look)(struct al_ticker_user *user, int64_t now);
    /* In the caller's thread, with the GIL and without the lock.  May escape. */
    void (*act)(struct al_ticker_user *user);
    /* With the GIL, before the threads end for a fork or with the interpreter. */
    void (*before_end)(struct al_ticker_user *user);
    /* With the GIL, in parent and child; no thread runs.  May start it anew. */
    void (*after_fork)(struct al_ticker_user *user, bool child);
    int64_t due; /* the rest is the ticker's; guarded by the lock */
    bool wants;  /* set by `look`: act is to be called, once */
    bool known;
    struct al_ticker_user *next;
} al_ticker_user;

/* Once for the module.  0 or -1. */
int al_ticker_init(PyObject *module);
void al_ticker_free(al_state *st);

/* The threads end, and none begins before the fork is over.  Escapes. */
void al_ticker_before_fork(al_state *st);
/* The fork is over, also if it has failed. */
void al_ticker_after_fork(al_state *st, bool child);

/* Lets the ticker run, for this user too; with the GIL.  False if there can be none: the
 * interpreter ends, or there is no thread to be had.  During another thread's fork it runs
 * after that, if the user's after_fork starts it.  The user must outlive the module's
 * state. */
bool al_ticker_start(al_state *st, al_ticker_user *user);
/* Whether it runs; with the GIL. */
bool al_ticker_runs(const al_state *st);

/* There is a ticker once al_ticker_start has been true. */
void al_ticker_lock(al_state *st);
void al_ticker_unlock(al_state *st);
/* The user's look is due then, in ns, and not before; with the lock. */
void al_ticker_wake_locked(al_state *st, al_ticker_user *user, int64_t due);

/* For `look`: the kernel's number of the caller's thread while that waits for the GIL (-1
 * if the kernel does not say), or 0. */
int al_ticker_waits_for_gil(al_state *st);

#endif
