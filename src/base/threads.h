/* threads.h: what threads that really run at once need, and those with a GIL do not.
 *
 * A loop belongs to the thread that runs it: its ring, timers, selector and transports are
 * that thread's, and have no locks.  What loops share is in the module's state.  Each such
 * thing has its rule, and the rule is written where the thing is:
 *
 * - made at import, and only read after that: no lock;
 * - a list or a number that several threads change: an al_lock, held for a few
 *   instructions that call nothing of Python's;
 * - a word that one thread changes and others look at: AL_LOAD and AL_STORE;
 * - what foreign code may interrupt: a critical section of an object, which is to the
 *   objects behind it what the GIL is to all: it is given up where the GIL would be.
 *
 * With a GIL all of this is nothing at all: no byte and no instruction. */
#ifndef AL_BASE_THREADS_H
#define AL_BASE_THREADS_H

#include "base/py.h"

#ifdef Py_GIL_DISABLED

#define AL_FREE_THREADED 1

typedef struct {
    PyMutex mutex;
} al_lock;

static inline void
al_lock_take(al_lock *lock)
{
    PyMutex_Lock(&lock->mutex);
}

static inline void
al_lock_give(al_lock *lock)
{
    PyMutex_Unlock(&lock->mutex);
}

/* A word as other threads see it: who sees what was stored sees what was written before. */
#define AL_LOAD(word) __atomic_load_n(&(word), __ATOMIC_ACQUIRE)
#define AL_STORE(word, value) __atomic_store_n(&(word), (value), __ATOMIC_RELEASE)
/* Adds to a counter that several threads count with; gives what it is then. */
#define AL_ADD(word, value) __atomic_add_fetch(&(word), (value), __ATOMIC_RELAXED)

typedef struct {
    void (*work)(void *arg);
    void *arg;
} al_rest;

static inline int
al_rest_visit(PyObject *Py_UNUSED(object), void *arg)
{
    al_rest *rest = arg;
    if (rest->work != NULL) {
        rest->work(rest->arg);
        rest->work = NULL;
    }
    return 0; /* One object is enough. */
}

/* Calls `work` while no other thread of the interpreter runs.  It must not allocate, free,
 * or call anything of Python's.  Stopping the world is public by this name alone. */
static inline void
al_at_rest(void (*work)(void *arg), void *arg)
{
    al_rest rest = {work, arg};
    PyUnstable_GC_VisitObjects(al_rest_visit, &rest);
}

/* One of several flags of a struct: threads that write neighbours do not meet. */
#define AL_FLAG(name) bool name

/* What all threads use all the time and is there as long as the interpreter is counts no
 * references: they would meet at the counter.  3.13 does so to the classes of Python code. */
static inline void
al_never_count(PyObject *object)
{
    object->ob_tid = 0;
    object->ob_ref_local = UINT32_MAX;
    object->ob_ref_shared = 0;
}

typedef struct {
    PyObject *const *word;
    PyObject *object;
} al_reading;

static inline void
al_reading_do(void *arg)
{
    al_reading *reading = arg;
    PyObject *object = *reading->word;
    reading->object =
        object == NULL || Py_REFCNT(object) == 0 ? NULL : Py_NewRef(object);
}

/* The object that a word holds which other threads change, as a new reference, or NULL: so
 * it is too if the word only borrows the object and that is about to die. */
static inline PyObject *
al_read_at_rest(PyObject *const *word)
{
    al_reading reading = {word, NULL};
    al_at_rest(al_reading_do, &reading);
    return reading.object;
}

#else

#define AL_FREE_THREADED 0

typedef struct {
    char none[0];
} al_lock;

static inline void
al_lock_take(al_lock *Py_UNUSED(lock))
{
}

static inline void
al_lock_give(al_lock *Py_UNUSED(lock))
{
}

static inline void
al_at_rest(void (*work)(void *arg), void *arg)
{
    work(arg);
}

static inline void
al_never_count(PyObject *Py_UNUSED(object))
{
}

#define AL_FLAG(name) bool name : 1

static inline PyObject *
al_read_at_rest(PyObject *const *word)
{
    return Py_XNewRef(*word);
}

#define AL_LOAD(word) (word)
#define AL_STORE(word, value) ((void)((word) = (value)))
#define AL_ADD(word, value) ((word) += (value))

#endif

/* What follows, up to AL_CRITICAL_END in the same block, runs in the critical section of
 * the object. */
#if AL_FREE_THREADED
#define AL_CRITICAL_BEGIN(object) Py_BEGIN_CRITICAL_SECTION(object)
#define AL_CRITICAL_END() Py_END_CRITICAL_SECTION()
#else
#define AL_CRITICAL_BEGIN(object) {
#define AL_CRITICAL_END() }
#endif

#endif
