/* primitive.h: what asyncio's primitives in C are made of.
 *
 * The state of a lock, event, semaphore or queue stays where asyncio has it: in the
 * object's attributes, with futures of the running loop, ours or any other, in deques.
 * So each method in C may be called beside asyncio's own Python, at any moment and on any
 * object.  Whatever is odd (a subclass, a replaced method, an argument by name, debug
 * mode, which wants coroutines' origins) is left to asyncio's function: replace.h.
 *
 * What a coroutine function of asyncio's becomes is a lazy awaitable (task/lazy.h) of the
 * one type al_primitive.  Its body is a `step`; what `finally:` and `except:` do around
 * the body's `await` is `failed`.  `waits_on` is the future that it awaits, or has awaited
 * when the step is called the next time. */
#ifndef AL_PRIM_PRIMITIVE_H
#define AL_PRIM_PRIMITIVE_H

#include "base/attribute.h"
#include "task/future.h"
#include "task/lazy.h"

typedef struct {
    al_lazy base;       /* subject: the lock, queue ...; arg: put's item */
    PyObject *dict;     /* owned: the subject's attributes, or NULL */
    PyObject *waits_on; /* owned, or NULL */
    PyObject *extra;    /* owned, or NULL: of the kind */
} al_primitive;

int al_primitive_init_type(PyObject *module, al_state *st);
void al_primitive_clear_free_list(al_state *st);

/* A new operation.  Borrows the subject and the argument, which may be NULL, and steals
 * the subject's attributes.  NULL with MemoryError. */
PyObject *al_primitive_new_steal(al_state *st, const al_lazy_kind *kind,
                                 const char *name, PyObject *subject, PyObject *arg,
                                 PyObject *dict);
/* The state behind an operation. */
static inline al_state *
al_primitive_state(al_lazy *op)
{
    return PyType_GetModuleState(Py_TYPE(op));
}

/* A kind's `woken`, which has nothing to do, and its `ended`. */
void al_primitive_woken(al_lazy *op);
void al_primitive_ended(al_lazy *op);

/* Mirrors _LoopBoundMixin._get_loop().  New reference.  Escapes. */
PyObject *al_primitive_loop(al_state *st, PyObject *subject, PyObject *dict);
/* events.get_running_loop(), or its RuntimeError.  New reference. */
PyObject *al_primitive_running_loop(const al_state *st);
/* tasks.current_task().  New reference.  Escapes. */
PyObject *al_primitive_current_task(const al_state *st);
/* loop.create_future().  New reference.  Escapes. */
PyObject *al_primitive_future(al_state *st, PyObject *loop);
/* Awaits a new future of the loop that the subject is bound to, which is appended to its
 * deque `name`, made if it is None.  As a step returns.  Escapes. */
int al_primitive_wait_in(al_primitive *op, PyObject *name, PyObject **result);
/* Awaits waits_on.  As a step returns.  Escapes. */
int al_primitive_wait(al_primitive *op, PyObject **result);
/* The wait is over: removes waits_on from the deque `name`, and forgets it.  0 or -1.
 * Escapes. */
int al_primitive_leave(al_primitive *op, PyObject *name);

/* What is pending was raised while *exc was handled, and takes its place. */
void al_primitive_chain(PyObject **exc);

/* fut.done() and fut.cancelled(): 1, 0 or -1; and fut.set_result(value).  Escape. */
int al_primitive_is_done(al_state *st, PyObject *future);
int al_primitive_is_cancelled(al_state *st, PyObject *future);
int al_primitive_resolve(al_state *st, PyObject *future, PyObject *value);
/* Whether a future of ours is done and has a result. */
static inline bool
al_primitive_has_result(const al_state *st, PyObject *future)
{
    return al_future_exact(st, future) &&
           ((al_future *)future)->state == AL_FUTURE_FINISHED &&
           ((al_future *)future)->exception == NULL;
}
/* future.<name>(value), for its effect.  0 or -1.  Escapes. */
int al_primitive_settle(PyObject *future, PyObject *name, PyObject *value);
/* futures.future_add_to_awaited_by(future, task) and its opposite; nothing before 3.14.
 * 0 or -1.  Escape. */
int al_primitive_add_awaited_by(al_state *st, PyObject *future, PyObject *task);
int al_primitive_discard_awaited_by(al_state *st, PyObject *future, PyObject *task);
/* Whether asyncio's function would leave stacks behind that have it in them. */
bool al_primitive_is_debugged(const al_state *st, PyObject *loop);
/* Calls a method without arguments for its effect.  0 or -1.  Escapes. */
int al_primitive_call(PyObject *obj, PyObject *name);

/* Whether anything is in a deque, or another object in its place.  Escapes. */
static inline int
al_primitive_is_full(const al_state *st, PyObject *waiters)
{
    return waiters == Py_None ? 0
           : AL_LIKELY(Py_IS_TYPE(waiters, (PyTypeObject *)st->deque))
               ? Py_SIZE(waiters) > 0
               : PyObject_IsTrue(waiters); /* escapes */
}
/* items.append(item), which gives None, and items.popleft().  New references.  Escape. */
PyObject *al_primitive_append(const al_state *st, PyObject *items, PyObject *item);
PyObject *al_primitive_popleft(const al_state *st, PyObject *items);
/* The first one, or NULL without exception if there is none.  New reference.  Escapes. */
PyObject *al_primitive_first(const al_state *st, PyObject *waiters);
/* all(w.cancelled() for w in waiters): 1, 0 or -1.  Escapes. */
int al_primitive_all_cancelled(al_state *st, PyObject *waiters);
/* The truth of an attribute of the subject.  Escapes. */
static inline int
al_primitive_truth(PyObject *dict, PyObject *name)
{
    return al_attribute_is_true(dict, "object", name); /* escapes */
}

/* Compares a number with 0: Py_GT ...  1, 0 or -1.  Escapes. */
int al_primitive_compare(PyObject *number, int operator);
/* The same for an attribute. */
int al_primitive_compare_attribute(PyObject *dict, PyObject *name, int operator);
/* dict[name] += change.  0 or -1.  Escapes. */
int al_primitive_add(PyObject *dict, PyObject *name, int change);

#endif
