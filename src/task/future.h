/* future.h: Future, and the object that Future and Task have in common.
 *
 * aioloop.Future and aioloop.Task are true subclasses of _asyncio.Future and
 * _asyncio.Task, because libraries and asyncio's own C code ask for those classes.  No
 * method of a base ever runs on them: every method, getset and slot is overridden.
 *
 * One C struct serves both types.  It begins with the base's struct, whose words for
 * objects are our storage for the same things: they would be dead weight otherwise
 * (104 bytes of a Future).  The base's word for the loop stays NULL, so that a base
 * method called unbound refuses ("not initialized"), and so do the base's numbers,
 * except what 3.14's debuggers read.  What the base's traverse and clear visit is
 * compared with these words at import (al_future_add_type).  In a Python that moved them
 * our types do not exist: asyncio's own take their places (base/layout.h), and what is
 * said here of `exact` is true of no object.
 *
 * The base's __init__ is the one method that does not refuse.  It empties the words (not
 * in 3.15, so they have the base's form) and sets the one for the loop: from there on the
 * object is not `alive` and not `exact`, so nothing of ours trusts our own flags about
 * the words.  A Future is taken back at our next method (al_future_take_back); a Task,
 * whose base has queued its own step, stays the base's.
 *
 * Invariants: `callbacks` is NULL unless `callback0` was taken first; a done future has
 * neither; `loop` is `loop_obj` when that is a loop of ours, else NULL; everything is
 * NULL after tp_clear, which is what an object without __init__ looks like. */
#ifndef AL_TASK_FUTURE_H
#define AL_TASK_FUTURE_H

#include "base/layout.h"
#include "core/sched.h"

enum { AL_FUTURE_PENDING, AL_FUTURE_CANCELLED, AL_FUTURE_FINISHED };

/* Since when a task waits: a time of the loop's clock, see al_future_wait_step.  It is in
 * a hole of the base's struct where that has one. */
#if SIZEOF_VOID_P < 8
#define AL_FUTURE_WAITS_SINCE
#else
#define AL_FUTURE_WAITS_SINCE uint32_t waits_since;
#endif

typedef struct al_future {
    PyObject_HEAD
    /* --- _asyncio's struct ---------------------------------------------------- */
    PyObject *base_loop; /* NULL, or somebody called the base's __init__ */
    PyObject *callback0; /* the first callback; a waiting Task itself if waiter0 */
    PyObject *context0;  /* its context or None, or NO_CONTEXT (see future.c) */
    PyObject
        *callbacks; /* list of the others: (callback, context), or (Task, WAITER) */
    PyObject *exception;
    PyObject *exception_tb; /* of the exception when it was set; NULL once used; see
                             * al_future_cancel_stack */
    PyObject *result;
    PyObject *source_traceback;
    PyObject *cancel_message;
#if PY_VERSION_HEX < 0x030D0000
    int base_flags[3];
    AL_FUTURE_WAITS_SINCE
    PyObject *base_dict;
    PyObject *base_weakrefs;
    PyObject *cancelled_exc; /* the CancelledError that ended a task */
    PyObject *fut_waiter;
    PyObject *coro;
    PyObject *name; /* str, or the int N of a "Task-N" that nobody has asked for */
    PyObject *context;
    int base_task_flags[4];
#else
    PyObject *cancelled_exc;
#if PY_VERSION_HEX >= 0x030E0000
    PyObject *awaited_by; /* a task, or a set of them if awaited_by_is_set */
    int base_state;
    char base_is_task; /* for debuggers */
    char awaited_by_is_set;
    char base_bits[2];
#else
    unsigned base_flags[2];
#endif
    int base_cancel_requests;
    AL_FUTURE_WAITS_SINCE
    PyObject *fut_waiter;
    PyObject *coro;
    PyObject *name;
    PyObject *context;
#if PY_VERSION_HEX >= 0x030E0000
    struct al_task_node { /* asyncio's list of pending tasks */
        struct al_task_node *next, *prev;
    } node;
#ifdef Py_GIL_DISABLED
    uintptr_t base_thread;
#endif
#endif
#endif
    /* --- ours ------------------------------------------------------------------ */
    PyObject *loop_obj;
    al_loop *loop; /* loop_obj if it is ours, else NULL */
#if PY_VERSION_HEX < 0x030E0000
    struct al_future *next_task; /* the registry's list of pending tasks */
    struct al_future **task_link;
#endif
#if SIZEOF_VOID_P < 8
    uint32_t waits_since;
#endif
    int cancel_requests;
    uint8_t state;
    AL_FLAG(is_task);
    AL_FLAG(blocking);
    AL_FLAG(log_traceback);
    AL_FLAG(waiter0);
    AL_FLAG(must_cancel);
    AL_FLAG(log_destroy_pending);
} al_future;

/* Whether another thread runs the future's loop: what it has is not ours to change, and
 * may change while we look at it.  Never with a GIL. */
static inline bool
al_future_is_foreign(const al_future *self)
{
    return self->loop != NULL && AL_UNLIKELY(al_inbox_is_foreign(self->loop));
}

/* 0, or -1 with the RuntimeError of asyncio's debug mode if it is foreign. */
static inline int
al_future_check_thread(const al_future *self)
{
    return al_future_is_foreign(self) ? al_inbox_refuse() : 0;
}

/* What one of the future's words holds, or None.  New reference. */
static inline PyObject *
al_future_word(const al_future *self, PyObject *const *word)
{
    PyObject *object =
        al_future_is_foreign(self) ? al_read_at_rest(word) : Py_XNewRef(*word);
    return object == NULL ? Py_NewRef(Py_None) : object;
}

/* The word for the stack of a task's last cancel(), which debug mode keeps: one that the
 * base's struct has for something that there is not.  It holds an al_stack or NULL. */
static inline PyObject **
al_future_cancel_stack(al_future *self)
{
    return self->exception == NULL ? &self->exception_tb : &self->result;
}

/* The same for the context of an exception handler, or NULL, never with an exception.
 * Escapes. */
PyObject *al_future_cancel_told(al_state *st, al_future *self);

/* Nanoseconds as steps of 17 ms; a difference of two is right for two years. */
enum { AL_FUTURE_WAIT_SHIFT = 24 };

static inline uint32_t
al_future_wait_step(int64_t nanoseconds)
{
    return (uint32_t)(nanoseconds >> AL_FUTURE_WAIT_SHIFT);
}

/* The basicsizes of _asyncio.Task and _asyncio.Future. */
#define AL_TASK_BASE_BYTES offsetof(al_future, loop_obj)
#if PY_VERSION_HEX < 0x030D0000
#define AL_FUTURE_BASE_BYTES offsetof(al_future, fut_waiter)
#else
#define AL_FUTURE_BASE_BYTES offsetof(al_future, base_cancel_requests)
#endif

/* Makes the Future type, unless its layout is off, and the iterator's.  0 or -1. */
int al_future_init_types(PyObject *module, al_state *st);
/* Frees the free lists of Future, Task and the iterator. */
void al_future_clear_free_lists(al_state *st);

/* loop.create_future(), ours or asyncio's.  New reference.  Escapes. */
PyObject *al_future_new(al_loop *loop);

/* A Future or Task of ours and no Python subclass: its fields are the truth. */
static inline bool
al_future_exact(const al_state *st, PyObject *obj)
{
    return (Py_IS_TYPE(obj, st->Future_type) || Py_IS_TYPE(obj, st->Task_type)) &&
           AL_LIKELY(((al_future *)obj)->base_loop == NULL);
}

/* The base's __init__ was called on the object.  A Future is a new one from here on, of
 * the loop that was given there: true.  Escapes. */
AL_COLD bool al_future_take_back(al_future *self);

/* Whether __init__ was called, ours or the base's.  Every method asks first.  Escapes in
 * the case of al_future_take_back. */
static inline bool
al_future_alive(al_future *self)
{
    return AL_LIKELY(self->base_loop == NULL) ? self->loop_obj != NULL
                                              : al_future_take_back(self);
}

static inline al_state *
al_future_state(al_future *self)
{
    return self->loop != NULL ? self->loop->st : al_state_of(Py_TYPE(self));
}

/* Runs a done-callback in its context (an al_run_fn): callback(future). */
int al_future_call_run(al_loop *loop, PyObject *callback, PyObject *future,
                       PyObject *context);

/* Reports the pending exception as that of a handle for callback(arg) would be.
 * `callback` may be NULL if making it failed.  Result as al_run_fn. */
int al_future_report(al_loop *loop, PyObject *callback, PyObject *arg,
                     PyObject *context);

/* --- what task.c builds on ---------------------------------------------------------- */

/* Makes a type on an asyncio class whose struct is as described above: 1; or turns the
 * layout off: 0; or -1. */
int al_future_add_type(PyObject *module, al_state *st, al_layout layout,
                       PyTypeObject **slot, PyType_Spec *spec, PyObject *base,
                       size_t base_bytes);

/* A zeroed object, tracked by the garbage collector, or NULL. */
al_future *al_future_alloc(al_state *st, PyTypeObject *type);
/* Mirrors asyncio's future_init: an empty pending future of the loop (None: the
 * current one).  0 or -1.  Escapes. */
int al_future_init(al_future *self, al_state *st, PyObject *loop_obj);
/* Completes a pending future.  0 or -1; without memory for its callbacks it stays
 * pending.  Escapes. */
int al_future_set_result(al_future *self, PyObject *result);
int al_future_set_exception(al_future *self, PyObject *exc);
/* future.<method>(value), set_result or set_exception, unless it is done; of any class.  0
 * or -1.  Escapes. */
int al_future_settle(al_state *st, PyObject *future, PyObject *method, PyObject *value);
/* Future.cancel(), never Task's; message may be NULL.  1 cancelled, 0 was done, -1. */
int al_future_cancel(al_future *self, PyObject *message);
/* Future._make_cancelled_error().  New reference. */
PyObject *al_future_make_cancelled_error(al_future *self);
/* What the future has become: 0 a result, 1 an exception (new reference in *exc), -1
 * raises CancelledError or InvalidStateError. */
int al_future_outcome(al_future *self, PyObject **exc);
/* Makes the future wake a task of the same loop.  0 or -1. */
int al_future_add_waiter(al_future *self, al_future *task);

int al_future_clear_fields(PyObject *self);
int al_future_traverse(PyObject *self, visitproc visit, void *arg);
void al_future_dealloc(PyObject *self);
void al_future_finalize(PyObject *self);

/* The only argument of cancel(msg=None), borrowed; NULL with TypeError. */
PyObject *al_future_parse_cancel(PyObject *const *args, Py_ssize_t nargs,
                                 PyObject *kwnames);
/* Calls a type whose tp_vectorcall does not understand the arguments. */
PyObject *al_future_call_type(PyTypeObject *type, PyObject *const *args,
                              Py_ssize_t nargs, PyObject *kwnames);

/* Methods and getsets that are the same for Future and Task. */
PyObject *al_future_py_result(PyObject *self, PyObject *ignored);
PyObject *al_future_py_exception(PyObject *self, PyObject *ignored);
PyObject *al_future_py_add_done_callback(PyObject *self, PyObject *const *args,
                                         Py_ssize_t nargs, PyObject *kwnames);
PyObject *al_future_py_remove_done_callback(PyObject *self, PyObject *fn);
PyObject *al_future_py_cancelled(PyObject *self, PyObject *ignored);
PyObject *al_future_py_done(PyObject *self, PyObject *ignored);
PyObject *al_future_py_get_loop(PyObject *self, PyObject *ignored);
PyObject *al_future_py_make_cancelled_error(PyObject *self, PyObject *ignored);
extern const char al_future_result_doc[], al_future_exception_doc[],
    al_future_add_done_callback_doc[], al_future_remove_done_callback_doc[],
    al_future_cancelled_doc[], al_future_done_doc[], al_future_get_loop_doc[],
    al_future_make_cancelled_error_doc[], al_future_class_getitem_doc[];

PyObject *al_future_get_state(PyObject *self, void *closure);
PyObject *al_future_get_blocking(PyObject *self, void *closure);
int al_future_set_blocking(PyObject *self, PyObject *value, void *closure);
PyObject *al_future_get_loop(PyObject *self, void *closure);
PyObject *al_future_get_callbacks(PyObject *self, void *closure);
PyObject *al_future_get_result(PyObject *self, void *closure);
PyObject *al_future_get_exception(PyObject *self, void *closure);
PyObject *al_future_get_log_traceback(PyObject *self, void *closure);
int al_future_set_log_traceback(PyObject *self, PyObject *value, void *closure);
PyObject *al_future_get_source_traceback(PyObject *self, void *closure);
PyObject *al_future_get_cancel_message(PyObject *self, void *closure);
int al_future_set_cancel_message(PyObject *self, PyObject *value, void *closure);

#define AL_FUTURE_METHODS                                                              \
    {"result", al_future_py_result, METH_NOARGS, al_future_result_doc},                \
        {"exception", al_future_py_exception, METH_NOARGS, al_future_exception_doc},   \
        {"add_done_callback",                                                          \
         (PyCFunction)(void (*)(void))al_future_py_add_done_callback,                  \
         METH_FASTCALL | METH_KEYWORDS, al_future_add_done_callback_doc},              \
        {"remove_done_callback", al_future_py_remove_done_callback, METH_O,            \
         al_future_remove_done_callback_doc},                                          \
        {"cancelled", al_future_py_cancelled, METH_NOARGS, al_future_cancelled_doc},   \
        {"done", al_future_py_done, METH_NOARGS, al_future_done_doc},                  \
        {"get_loop", al_future_py_get_loop, METH_NOARGS, al_future_get_loop_doc},      \
        {"_make_cancelled_error", al_future_py_make_cancelled_error, METH_NOARGS,      \
         al_future_make_cancelled_error_doc},                                          \
        {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS,                    \
         al_future_class_getitem_doc},

#define AL_FUTURE_GETSETS                                                              \
    {"_state", al_future_get_state, NULL, NULL, NULL},                                 \
        {"_asyncio_future_blocking", al_future_get_blocking, al_future_set_blocking,   \
         NULL, NULL},                                                                  \
        {"_loop", al_future_get_loop, NULL, NULL, NULL},                               \
        {"_callbacks", al_future_get_callbacks, NULL, NULL, NULL},                     \
        {"_result", al_future_get_result, NULL, NULL, NULL},                           \
        {"_exception", al_future_get_exception, NULL, NULL, NULL},                     \
        {"_log_traceback", al_future_get_log_traceback, al_future_set_log_traceback,   \
         NULL, NULL},                                                                  \
        {"_source_traceback", al_future_get_source_traceback, NULL, NULL, NULL},       \
        {"_cancel_message", al_future_get_cancel_message,                              \
         al_future_set_cancel_message, NULL, NULL},

#endif
