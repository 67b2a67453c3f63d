/* handle.h: Handle and TimerHandle, what call_soon and call_later return.
 *
 * Both are real subclasses of asyncio.Handle / asyncio.TimerHandle, because tools
 * patch and read those classes.  The words that the Python classes reserve for their
 * __slots__ are our storage: every slot name is shadowed by a member or getset of
 * ours, each such word holds an object or NULL, and asyncio's own methods (__init__,
 * _run, __repr__, comparison) work on it through those names.
 *
 * Where asyncio's classes have other slots (base/layout.h), asyncio's own handles run, and
 * those that the loop itself makes are of a class apart, without TimerHandles.
 *
 * GC: a queued handle of a running loop belongs to the loop and is not tracked (the loop's
 * traverse visits what it refers to); it is tracked once it leaves the queue while somebody
 * else still holds it.  See al_handle_left_queue.  What a loop has queued while it does not
 * run is tracked: nobody may be going to run it, and whoever holds an untracked handle would
 * keep the loop and the callback alive, even if the callback is all that holds it. */
#ifndef AL_CORE_HANDLE_H
#define AL_CORE_HANDLE_H

#include "base/ring.h"
#include "base/state.h"

struct al_loop;

typedef struct al_handle {
    PyObject_HEAD
    /* asyncio.Handle's words: seven slots, on 3.11 the weak reference list. */
    PyObject *args;     /* NULL: none; the argument itself if one_arg; or a tuple */
    PyObject *callback; /* NULL reads as None: cancelled */
    PyObject *context;  /* NULL: empty; made when somebody asks */
    PyObject *loop;
    PyObject *repr;             /* NULL reads as None; see text_kept */
    PyObject *source_traceback; /* see stack.h */
    PyObject *unused;           /* but see text_kept */
#if PY_VERSION_HEX < 0x030C0000
    PyObject *weakrefs;
#endif
    /* asyncio.TimerHandle's two words. */
    PyObject *when_object;  /* what the caller gave when it was no float, or NULL */
    PyObject *unused_timer; /* but see text_kept */
    /* Ours from here on. */
    double when; /* seconds on the loop's clock */
    bool one_arg;
    bool cancelled;
    bool scheduled; /* a timer in the heap or the due queue */
    bool foreign;   /* made by Python code, not by a loop's call_* method */
    bool text_kept; /* `repr` will be made of what is there, see handle.c */
} al_handle;

/* What call_soon_threadsafe returns on 3.14+: cancel() and cancelled() of another thread
 * wait while the callback runs, as asyncio's _ThreadSafeHandle does with its lock.  The
 * lock is made by the first thread that has to wait. */
typedef struct {
    al_handle handle;
    unsigned long runner;        /* the thread that runs the callback, 0: none */
    PyThread_type_lock finished; /* held by the runner; NULL: nobody waits */
} al_threadsafe_handle;

/* Makes both types.  0 or -1. */
int al_handle_init_types(PyObject *module, al_state *st);
/* Frees the free lists. */
void al_handle_clear_free_lists(al_state *st);

/* A handle for callback(*args).  `context` is borrowed; NULL or None means a copy of
 * the current one.  In debug mode it carries the caller's stack.  New reference. */
al_handle *al_handle_new(struct al_loop *loop, PyTypeObject *type, PyObject *callback,
                         PyObject *const *args, Py_ssize_t nargs, PyObject *context);

/* A handle around what runs already: `args` is a tuple or NULL, `context` a Context or
 * NULL (the current one), `stack` where it was asked for, or NULL.  It is no work for a
 * queue.  New reference. */
al_handle *al_handle_make(struct al_loop *loop, PyObject *callback, PyObject *args,
                          PyObject *context, PyObject *stack);

/* Runs the callback in its context (an al_run_fn). */
int al_handle_run(struct al_loop *loop, PyObject *self, PyObject *arg, PyObject *extra);

/* Runs a handle that asyncio's own code made (an al_run_fn): calls its _run. */
int al_handle_run_foreign(struct al_loop *loop, PyObject *self, PyObject *arg,
                          PyObject *extra);

/* The same for a handle of call_soon_threadsafe (an al_run_fn). */
int al_handle_run_threadsafe(struct al_loop *loop, PyObject *self, PyObject *arg,
                             PyObject *extra);

/* Whether `self` of a slot with this function is a handle. */
static inline bool
al_handle_is_run_by(al_run_fn run)
{
    return run == al_handle_run || run == al_handle_run_foreign ||
           run == al_handle_run_threadsafe;
}

/* handle.cancel(), whoever has replaced that.  0 or -1.  Escapes. */
int al_handle_cancel(al_handle *handle);
/* A timer of ours has been cancelled by asyncio's own function. */
void al_handle_timer_cancelled(al_handle *timer);

/* Hands a handle to the garbage collector: it has left the queue, or a list has it too. */
static inline void
al_handle_track(al_handle *handle)
{
    if (!PyObject_GC_IsTracked((PyObject *)handle)) {
        PyObject_GC_Track(handle);
    }
}

/* A queue is about to drop its reference: hands the handle to the garbage collector
 * if somebody else still holds it. */
static inline void
al_handle_left_queue(al_handle *handle)
{
    if (AL_UNLIKELY(Py_REFCNT(handle) > 1)) {
        al_handle_track(handle);
    }
}

/* Visits what an untracked queued handle refers to (for the loop's traverse). */
int al_handle_traverse_queued(al_handle *handle, visitproc visit, void *arg);

static inline bool
al_handle_check(const al_state *st, PyObject *obj)
{
    return Py_IS_TYPE(obj, st->Handle_type) || Py_IS_TYPE(obj, st->TimerHandle_type) ||
           Py_IS_TYPE(obj, st->ThreadSafeHandle_type);
}

#endif
