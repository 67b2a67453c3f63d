/* inbox.h: what threads that do not run the loop put into it.
 *
 * With a GIL that is the ready ring itself, and this room is empty.  Without one the ring is
 * its thread's alone, and others push into a ring with a lock of this loop's own, which the
 * loop moves into the ready ring: at the beginning of an iteration, before it blocks, and
 * when it has polled.  The order of what one thread pushes stays.
 *
 * The lock is that of waking, too: whoever pushes sees whether the loop blocks, and the loop
 * sees what has been pushed before it does. */
#ifndef AL_CORE_INBOX_H
#define AL_CORE_INBOX_H

#include "base/ring.h"
#include "base/threads.h"

struct al_loop;

/* At the beginning of a function that changes what is the loop's: from another thread than
 * the one that runs it this is refused with `failure`, as debug mode refuses it. */
#define AL_OWN(loop, failure)                                                          \
    AL_HOLD(own, loop);                                                                \
    if (AL_UNLIKELY(own.foreign)) {                                                    \
        (void)al_inbox_refuse();                                                       \
        return failure;                                                                \
    }

/* Declares al_hold `name`: until the block ends no other thread begins to run the loop, which
 * may be NULL, unless `name`.foreign says that one does already.  A loop that nobody runs is
 * held by its critical section, which an escape may suspend. */
#if AL_FREE_THREADED
#define AL_HOLD(name, loop)                                                            \
    __attribute__((cleanup(al_inbox_let_go))) al_hold name;                            \
    al_inbox_hold(&name, loop)
#else
#define AL_HOLD(name, loop) const al_hold name = {false}
#endif

#if AL_FREE_THREADED

typedef struct {
    al_ring ring;        /* guarded by loop->wake.lock */
    bool some;           /* there is something in it; others read it without the lock */
    unsigned long owner; /* the thread that runs the loop, or drives it; 0: none does */
    unsigned long last;  /* the one that did last */
    unsigned drives;     /* so many calls of that thread drive it now */
} al_inbox;

typedef struct {
    bool foreign; /* another thread runs the loop */
    bool held;
    PyCriticalSection section;
} al_hold;

void al_inbox_hold(al_hold *hold, struct al_loop *loop);
void al_inbox_let_go(al_hold *hold);

/* 0, or -1 with MemoryError. */
int al_inbox_open(struct al_loop *loop);
/* Escapes. */
void al_inbox_clear(struct al_loop *loop);
void al_inbox_free(struct al_loop *loop);
int al_inbox_traverse(struct al_loop *loop, visitproc visit, void *arg);

/* Begins to keep notes of slots beside the ready ring (0, or -1 with MemoryError), or ceases
 * to and drops those there are (escapes). */
int al_inbox_keep_notes(struct al_loop *loop);
void al_inbox_drop_notes(struct al_loop *loop);

/* The loop is that thread's, which runs it, or nobody's (0). */
void al_inbox_set_runner(struct al_loop *loop, unsigned long thread);

/* Before and after a call that runs slots of a loop, or waits, whoever runs it: meanwhile
 * the loop is this thread's.  0, or -1 with RuntimeError if it is another's. */
int al_inbox_claim(struct al_loop *loop);
void al_inbox_leave(struct al_loop *loop);

/* Whether another thread runs the loop, which may be NULL. */
bool al_inbox_is_foreign(const struct al_loop *loop);
/* Whether this thread does not: what it pushes goes into the inbox. */
bool al_inbox_is_outside(const struct al_loop *loop);
/* Whether another thread did last: it may run the loop again at any moment. */
bool al_inbox_was_foreign(const struct al_loop *loop);

/* -1 with the RuntimeError of asyncio's debug mode. */
int al_inbox_refuse(void);

/* Pushes a slot, and wakes the loop; steals the references, also on failure.  0, or -1 with
 * MemoryError, or with RuntimeError if the loop is closed. */
int al_inbox_push_steal(struct al_loop *loop, al_run_fn run, PyObject *self,
                        PyObject *arg, PyObject *extra);

/* Moves what there is into the ready ring.  0, or -1 with MemoryError and the rest stays. */
int al_inbox_move(struct al_loop *loop);

/* For another thread: whether the loop is blocked in its selector, and how many slots wait
 * to be moved. */
bool al_inbox_waits(struct al_loop *loop, Py_ssize_t *slots);

/* Whether there is anything to move; with the lock. */
bool al_inbox_has_some(const struct al_loop *loop);

#else

typedef struct {
    bool foreign;
} al_hold;

typedef struct {
    char none[0];
} al_inbox;

static inline int
al_inbox_open(struct al_loop *Py_UNUSED(loop))
{
    return 0;
}

static inline void
al_inbox_clear(struct al_loop *Py_UNUSED(loop))
{
}

static inline void
al_inbox_free(struct al_loop *Py_UNUSED(loop))
{
}

static inline int
al_inbox_traverse(struct al_loop *Py_UNUSED(loop), visitproc Py_UNUSED(visit),
                  void *Py_UNUSED(arg))
{
    return 0;
}

static inline int
al_inbox_keep_notes(struct al_loop *Py_UNUSED(loop))
{
    return 0;
}

static inline void
al_inbox_drop_notes(struct al_loop *Py_UNUSED(loop))
{
}

static inline void
al_inbox_set_runner(struct al_loop *Py_UNUSED(loop), unsigned long Py_UNUSED(thread))
{
}

static inline int
al_inbox_claim(struct al_loop *Py_UNUSED(loop))
{
    return 0;
}

static inline void
al_inbox_leave(struct al_loop *Py_UNUSED(loop))
{
}

static inline bool
al_inbox_is_foreign(const struct al_loop *Py_UNUSED(loop))
{
    return false;
}

static inline bool
al_inbox_is_outside(const struct al_loop *Py_UNUSED(loop))
{
    return false;
}

static inline bool
al_inbox_was_foreign(const struct al_loop *Py_UNUSED(loop))
{
    return false;
}

static inline int
al_inbox_refuse(void)
{
    Py_UNREACHABLE();
}

static inline int
al_inbox_push_steal(struct al_loop *Py_UNUSED(loop), al_run_fn Py_UNUSED(run),
                    PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(arg),
                    PyObject *Py_UNUSED(extra))
{
    Py_UNREACHABLE();
}

static inline int
al_inbox_move(struct al_loop *Py_UNUSED(loop))
{
    return 0;
}

static inline bool
al_inbox_waits(struct al_loop *Py_UNUSED(loop), Py_ssize_t *Py_UNUSED(slots))
{
    Py_UNREACHABLE();
}

static inline bool
al_inbox_has_some(const struct al_loop *Py_UNUSED(loop))
{
    return false;
}

#endif

#endif
