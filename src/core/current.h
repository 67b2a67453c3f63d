/* current.h: the current task of a loop, kept in the loop until somebody looks: 3.13 without
 * a GIL.
 *
 * There asyncio has one dictionary for the current tasks of all loops.  Written twice in
 * each step, it makes two loops in two threads as slow as one.  So a step of a loop that
 * runs in this thread leaves its task in the loop, and the dictionary gets it when somebody
 * looks for it there: whoever does, in C or Python, asks for the loop's hash first, and that
 * is what this room answers.  Then that step is as asyncio's, with the dictionary, and the
 * next one is not.
 *
 * Invariant: the task is in one of the two places.  While `looked` is false the dictionary
 * has no entry of the loop.  A loop whose class has another __hash__ uses the
 * dictionary always.  Who only walks over the dictionary, and names no loop, does not see
 * a task that nobody looked for.
 *
 * Other Pythons have none of this: the thread's state has the task (3.14), or the GIL is
 * there to keep others away from the dictionary. */
#ifndef AL_CORE_CURRENT_H
#define AL_CORE_CURRENT_H

#include "base/state.h"
#include "base/threads.h"

#define AL_CURRENT_IN_LOOP (AL_FREE_THREADED && PY_VERSION_HEX < 0x030E0000)

struct al_loop;

#if AL_CURRENT_IN_LOOP

typedef struct {
    al_lock lock;        /* held while the task moves into the dictionary */
    unsigned long mover; /* the thread that holds it */
    PyObject *task; /* a reference, which this thread and what runs at rest change */
    bool looked;    /* the loop's hash is known to somebody: see above */
} al_current;

/* The dictionary gets an entry None: None, since pop() of an empty one asks for no hash.  0
 * or -1. */
int al_current_init(al_state *st);

/* The loop's hash, which is every object's.  Escapes. */
Py_hash_t al_current_hash(PyObject *loop);

/* Whether the current task of the loop is the loop's own to change: it runs in this
 * thread, and nobody has looked.  If not, the dictionary has it: al_current_publish. */
bool al_current_is_own(const struct al_loop *loop);

/* Whether the task is the current one, and the loop has it: it is not any more then. */
bool al_current_leave(struct al_loop *loop, PyObject *task);

/* What is in the loop moves into the dictionary.  0, or -1 with MemoryError and it stays.
 * Escapes. */
int al_current_publish(struct al_loop *loop);

/* The dictionary has no entry of the loop. */
void al_current_is_removed(struct al_loop *loop);

int al_current_traverse(struct al_loop *loop, visitproc visit, void *arg);
/* Escapes. */
void al_current_clear(struct al_loop *loop);

#else

typedef struct {
    char none[0];
} al_current;

static inline int
al_current_init(al_state *Py_UNUSED(st))
{
    return 0;
}

static inline int
al_current_traverse(struct al_loop *Py_UNUSED(loop), visitproc Py_UNUSED(visit),
                    void *Py_UNUSED(arg))
{
    return 0;
}

static inline void
al_current_clear(struct al_loop *Py_UNUSED(loop))
{
}

#endif

#endif
