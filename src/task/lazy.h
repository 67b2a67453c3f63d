/* lazy.h: what C operations return in the place of a coroutine: lazy awaitables.
 *
 * An operation behaves as the coroutine object that asyncio's method returns: it starts
 * when it is first awaited, has send, throw and close, can be awaited once, and warns if
 * it never is, in debug mode with the place where it was made.  isinstance() takes it for
 * one, by its __class__, and so do inspect and who asks that: a coroutine's type cannot be
 * inherited from.  What it does is a function, `step`, that works until it is done or has
 * to wait for a Future of the loop, or gives way by a bare yield: 0 with None.
 *
 * A type of operations begins its struct with al_lazy, and takes its slots from here:
 * AL_LAZY_SLOTS, with its own docstring, tp_traverse, tp_repr and tp_dealloc. */
#ifndef AL_TASK_LAZY_H
#define AL_TASK_LAZY_H

#include "core/sched.h"

enum { AL_LAZY_NEW, AL_LAZY_RUNNING, AL_LAZY_WAITING, AL_LAZY_DONE };

typedef struct al_lazy al_lazy;

typedef struct {
    const char *owner; /* the class whose method asyncio has: "EventLoop"; or NULL */
    size_t owner_in_state; /* where asyncio's own class, or module, is in al_state */
    /* Works, for the first time or after a wait.  1: *result is the result; 0: it waits,
     * *result is the future to yield; -1: an exception. */
    int (*step)(al_lazy *op, PyObject **result);
    /* A wait is over, or is given up: the future is about to be dropped.  Keeps the
     * pending exception. */
    void (*woken)(al_lazy *op);
    /* The operation ends, whatever its state: drops what it holds but `subject`.  Keeps
     * the pending exception. */
    void (*ended)(al_lazy *op);
    /* NULL, or called in the place of `woken` where a wait ends by an exception: thrown
     * in, the future's, or the GeneratorExit of one that is closed or dropped.  May put
     * another one into *exc. */
    void (*failed)(al_lazy *op, PyObject **exc);
} al_lazy_kind;

struct al_lazy {
    PyObject_HEAD
    al_loop *loop;            /* owned, or NULL where any loop will do */
    const al_lazy_kind *kind; /* of its type */
    const char *name;         /* asyncio's name of the method */
    PyObject *subject; /* owned: what the operation is on; NULL for a ready value */
    PyObject *arg;     /* owned, or NULL; the next one in the free list */
    PyObject *waiter;  /* owned: the iterator of `future`, or NULL: not needed so far */
#if PY_VERSION_HEX >= 0x030E0000
    /* Debuggers ("python -m asyncio ps") take a task's coroutine for a generator object,
     * and find the state of its frame in the fourth of these: cleared. */
    uint8_t frame_state[8];
#endif
    PyObject *future; /* owned: what is awaited, or NULL; at first see get_origin */
    PyObject *weakrefs;
    uint8_t state;
    bool started; /* it has waited once */
    bool cleared; /* by the garbage collector */
};

/* The list has dead operations of one type, chained through `arg`.
 *
 * A new operation, not yet tracked by the garbage collector: what follows al_lazy in its
 * struct is zero, or what it was when the last one ended.  NULL with MemoryError. */
al_lazy *al_lazy_alloc(al_free_list *list, PyTypeObject *type, al_loop *loop,
                       const al_lazy_kind *kind, const char *name);
/* The body of a tp_dealloc; `list` may be NULL.  Escapes. */
void al_lazy_dealloc(al_lazy *op, al_free_list *list);
void al_lazy_clear_list(al_free_list *list);
/* The words of al_lazy, for a tp_traverse. */
int al_lazy_traverse(al_lazy *op, visitproc visit, void *arg);

/* For a step: a new future of the loop in op->future, and its iterator has yielded it:
 * *result.  0 or -1. */
int al_lazy_wait(al_lazy *op, PyObject **result);
/* The same with a future of any loop, which is stolen.  1: it is done already, *result is
 * what it gave; 0: *result has been yielded; -1.  Escapes. */
int al_lazy_wait_for_steal(al_lazy *op, PyObject *future, PyObject **result);
/* For a step that cannot wait after all: forgets what al_lazy_wait made.  Escapes. */
void al_lazy_give_up(al_lazy *op);

extern const char *const al_lazy_state_names[];
extern PyMethodDef al_lazy_methods[];
extern PyGetSetDef al_lazy_getsets[];
extern PyMemberDef al_lazy_members[];
void al_lazy_finalize(PyObject *op);
int al_lazy_clear(al_lazy *op);
PyObject *al_lazy_iternext(al_lazy *op);
PyObject *al_lazy_await(PyObject *op);
PySendResult al_lazy_send(al_lazy *op, PyObject *value, PyObject **result);

#define AL_LAZY_SLOTS                                                                  \
    {Py_tp_finalize, al_lazy_finalize}, {Py_tp_clear, al_lazy_clear},                  \
        {Py_tp_iternext, al_lazy_iternext}, {Py_tp_methods, al_lazy_methods},          \
        {Py_tp_getset, al_lazy_getsets}, {Py_tp_members, al_lazy_members},             \
        {Py_am_await, al_lazy_await},                                                  \
    {                                                                                  \
        Py_am_send, al_lazy_send                                                       \
    }

/* Has inspect and asyncio take an object that returns operations for the coroutine function
 * that it stands for.  0 or -1.  Escapes. */
int al_lazy_mark_function(PyObject *function);

#endif
