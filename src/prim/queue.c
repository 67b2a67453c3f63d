/* queue.c: see queue.h. */
#include "prim/queue.h"

#include "prim/event.h"
#include "prim/primitive.h"

/* --- what is in it --------------------------------------------------------------------- */

/* dict["_queue"].  New reference. */
static PyObject *
items_of(al_state *st, PyObject *dict)
{
    return al_attribute(dict, "Queue", st->str._queue);
}

/* Mirrors qsize(), or -1.  Escapes. */
static Py_ssize_t
size_of(al_state *st, PyObject *dict)
{
    PyObject *items = items_of(st, dict);
    Py_ssize_t size = items == NULL ? -1
                      : AL_LIKELY(Py_IS_TYPE(items, (PyTypeObject *)st->deque) ||
                                  PyList_CheckExact(items))
                          ? Py_SIZE(items)
                          : PyObject_Size(items); /* escapes */
    Py_XDECREF(items);
    return size;
}

/* Mirrors empty(): 1, 0 or -1.  Escapes. */
static int
is_empty(al_state *st, PyObject *dict)
{
    PyObject *items = items_of(st, dict);
    int full = items == NULL ? -1
               : AL_LIKELY(Py_IS_TYPE(items, (PyTypeObject *)st->deque) ||
                           PyList_CheckExact(items))
                   ? Py_SIZE(items) > 0
                   : PyObject_IsTrue(items); /* escapes */
    Py_XDECREF(items);
    return full < 0 ? -1 : !full;
}

/* Mirrors full(): 1, 0 or -1.  Escapes. */
static int
is_full(al_state *st, PyObject *dict)
{
    PyObject *maxsize = al_attribute(dict, "Queue", st->str._maxsize);
    int full = maxsize == NULL ? -1 : al_primitive_compare(maxsize, Py_LE);
    if (full != 0) {
        full = full < 0 ? -1 : 0;
    }
    else {
        Py_ssize_t size = size_of(st, dict); /* escapes */
        PyObject *number = size < 0 ? NULL : PyLong_FromSsize_t(size);
        full = number == NULL ? -1 : PyObject_RichCompareBool(number, maxsize, Py_GE);
        Py_XDECREF(number);
    }
    Py_XDECREF(maxsize);
    return full;
}

/* Mirrors _get() of the three classes.  New reference.  Escapes. */
static PyObject *
take(al_state *st, PyObject *queue, PyObject *dict)
{
    PyObject *items = items_of(st, dict), *item;
    if (items == NULL) {
        return NULL;
    }
    if (Py_IS_TYPE(queue, (PyTypeObject *)st->PriorityQueue)) {
        item = PyObject_CallOneArg(st->heappop, items); /* escapes */
    }
    else {
        bool last = Py_IS_TYPE(queue, (PyTypeObject *)st->LifoQueue);
        item = last ? PyObject_CallMethodNoArgs(items, st->str.pop) /* escapes */
                    : al_primitive_popleft(st, items);              /* escapes */
    }
    Py_DECREF(items);
    return item;
}

/* Mirrors _put() of the three classes.  0 or -1.  Escapes. */
static int
add(al_state *st, PyObject *queue, PyObject *dict, PyObject *item)
{
    PyObject *items = items_of(st, dict), *done = NULL;
    if (items != NULL && Py_IS_TYPE(queue, (PyTypeObject *)st->PriorityQueue)) {
        PyObject *args[] = {items, item};
        done = PyObject_Vectorcall(st->heappush, args, 2, NULL); /* escapes */
    }
    else if (items != NULL) {
        done = al_primitive_append(st, items, item); /* escapes */
    }
    Py_XDECREF(items);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* --- who waits ------------------------------------------------------------------------- */

/* Mirrors _wakeup_next() of a deque.  0 or -1.  Escapes. */
static int
wake_up_next(al_state *st, PyObject *dict, PyObject *name)
{
    PyObject *waiters = al_attribute(dict, "Queue", name);
    int status = waiters == NULL ? -1 : 1;
    while (status > 0 && (status = al_primitive_is_full(st, waiters)) > 0) {
        PyObject *waiter = al_primitive_popleft(st, waiters); /* escapes */
        status = waiter == NULL ? -1 : al_primitive_is_done(st, waiter);
        if (status == 0) {
            status = al_primitive_resolve(st, waiter, Py_None); /* escapes */
            Py_DECREF(waiter);
            break;
        }
        Py_XDECREF(waiter);
    }
    Py_XDECREF(waiters);
    return status;
}

/* Whether shutdown() has been called, with QueueShutDown pending then; or -1.  Escapes. */
static int
is_shut_down(al_state *st, PyObject *dict)
{
#if PY_VERSION_HEX >= 0x030D0000
    int shut = al_primitive_truth(dict, st->str._is_shutdown); /* escapes */
    if (AL_LIKELY(shut == 0)) {
        return 0;
    }
    PyObject *class =
        shut < 0 ? NULL : PyObject_GetAttrString(st->asyncio_queues, "QueueShutDown");
    if (class != NULL) {
        PyErr_SetNone(class);
        Py_DECREF(class);
    }
    return -1;
#else
    (void)st;
    (void)dict;
    return 0;
#endif
}

/* Mirrors the `except:` of get() and put().  Escapes. */
static int
give_up_turn(al_primitive *op, PyObject *name,
             int (*in_the_way)(al_state *, PyObject *))
{
    al_state *st = al_primitive_state(&op->base);
    PyObject *future = Py_NewRef(op->waits_on), *cancelled;
    int status = 0;
    cancelled = PyObject_CallMethodNoArgs(future, st->str.cancel); /* escapes */
    Py_XDECREF(cancelled);
    if (cancelled == NULL) {
        status = -1;
    }
    else if (al_primitive_leave(op, name) < 0) { /* escapes */
        if (PyErr_ExceptionMatches(PyExc_ValueError)) {
            PyErr_Clear(); /* Whoever woke it has taken it out. */
        }
        else {
            status = -1;
        }
    }
    if (status == 0) {
        int hindered = in_the_way(st, op->dict); /* escapes */
        int was_cancelled =
            hindered != 0 ? 1 : al_primitive_is_cancelled(st, future); /* escapes */
        status = hindered < 0 || was_cancelled < 0 ? -1
                 : was_cancelled ? 0
                                 : wake_up_next(st, op->dict, name); /* escapes */
    }
    Py_DECREF(future);
    return status;
}

/* --- get ------------------------------------------------------------------------------- */

/* Mirrors get_nowait() of a queue that is not empty.  New reference.  Escapes. */
static PyObject *
get_item(al_state *st, PyObject *queue, PyObject *dict)
{
    PyObject *item = take(st, queue, dict);                             /* escapes */
    if (item != NULL && wake_up_next(st, dict, st->str._putters) < 0) { /* escapes */
        Py_CLEAR(item);
    }
    return item;
}

static int
step_get(al_lazy *base, PyObject **result)
{
    al_state *st = al_primitive_state(base);
    al_primitive *op = (al_primitive *)base;
    Py_CLEAR(op->waits_on);             /* escapes */
    int empty = is_empty(st, op->dict); /* escapes */
    if (empty != 0) {
        return empty < 0 || is_shut_down(st, op->dict) < 0
                   ? -1
                   : al_primitive_wait_in(op, st->str._getters, result); /* escapes */
    }
    *result = get_item(st, base->subject, op->dict); /* escapes */
    return *result == NULL ? -1 : 1;
}

static void
get_failed(al_lazy *base, PyObject **exc)
{
    const al_state *st = al_primitive_state(base);
    if (give_up_turn((al_primitive *)base, st->str._getters, is_empty) < 0) {
        al_primitive_chain(exc);
    }
}

/* --- put ------------------------------------------------------------------------------- */

/* Mirrors put_nowait() of a queue that is not full.  0 or -1.  Escapes. */
static int
put_item(al_state *st, PyObject *queue, PyObject *dict, PyObject *item)
{
    if (add(st, queue, dict, item) < 0 || /* escapes */
        al_primitive_add(dict, st->str._unfinished_tasks, 1) < 0) {
        return -1;
    }
    PyObject *finished = al_attribute(dict, "Queue", st->str._finished);
    int status = finished == NULL ? -1 : al_event_clear(st, finished); /* escapes */
    Py_XDECREF(finished);
    return status < 0 ? -1 : wake_up_next(st, dict, st->str._getters); /* escapes */
}

static int
step_put(al_lazy *base, PyObject **result)
{
    al_state *st = al_primitive_state(base);
    al_primitive *op = (al_primitive *)base;
    Py_CLEAR(op->waits_on);                           /* escapes */
    int full = is_full(st, op->dict);                 /* escapes */
    if (full < 0 || is_shut_down(st, op->dict) < 0) { /* escapes */
        return -1;
    }
    if (full > 0) {
        return al_primitive_wait_in(op, st->str._putters, result); /* escapes */
    }
    if (put_item(st, base->subject, op->dict, base->arg) < 0) { /* escapes */
        return -1;
    }
    *result = Py_NewRef(Py_None);
    return 1;
}

static void
put_failed(al_lazy *base, PyObject **exc)
{
    const al_state *st = al_primitive_state(base);
    if (give_up_turn((al_primitive *)base, st->str._putters, is_full) < 0) {
        al_primitive_chain(exc);
    }
}

/* --- the methods ----------------------------------------------------------------------- */

static const al_lazy_kind get_kind = {"Queue",
                                      offsetof(al_state, Queue),
                                      step_get,
                                      al_primitive_woken,
                                      al_primitive_ended,
                                      get_failed};
static const al_lazy_kind put_kind = {"Queue",
                                      offsetof(al_state, Queue),
                                      step_put,
                                      al_primitive_woken,
                                      al_primitive_ended,
                                      put_failed};

/* A queue's attributes, or NULL without exception: not for us.  New reference. */
static PyObject *
attributes(al_state *st, PyObject *const *args, Py_ssize_t nargs, Py_ssize_t wanted)
{
    PyObject *dict = NULL;
    switch (nargs == wanted ? al_replaced_class(st, args[0], &dict) : AL_PRIM_NONE) {
    case AL_PRIM_QUEUE:
    case AL_PRIM_PRIORITY_QUEUE:
    case AL_PRIM_LIFO_QUEUE:
        return dict;
    default:
        Py_XDECREF(dict);
        return NULL;
    }
}

static PyObject *
call_get(al_state *st, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *dict = attributes(st, args, nargs, 1);
    return dict == NULL
               ? NULL
               : al_primitive_new_steal(st, &get_kind, "get", args[0], NULL, dict);
}

static PyObject *
call_put(al_state *st, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *dict = attributes(st, args, nargs, 2);
    return dict == NULL
               ? NULL
               : al_primitive_new_steal(st, &put_kind, "put", args[0], args[1], dict);
}

static PyObject *
call_get_nowait(al_state *st, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *dict = attributes(st, args, nargs, 1), *item = NULL;
    if (dict == NULL) {
        return NULL;
    }
    int empty = is_empty(st, dict); /* escapes */
    if (empty == 0) {
        item = get_item(st, args[0], dict); /* escapes */
    }
    else if (empty > 0 && is_shut_down(st, dict) == 0) { /* escapes */
        PyErr_SetNone(st->QueueEmpty);
    }
    Py_DECREF(dict);
    return item;
}

static PyObject *
call_put_nowait(al_state *st, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *dict = attributes(st, args, nargs, 2);
    if (dict == NULL) {
        return NULL;
    }
    int status = is_shut_down(st, dict); /* escapes */
    if (status == 0) {
        status = is_full(st, dict); /* escapes */
        if (status > 0) {
            PyErr_SetNone(st->QueueFull);
            status = -1;
        }
        else if (status == 0) {
            status = put_item(st, args[0], dict, args[1]); /* escapes */
        }
    }
    Py_DECREF(dict);
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

/* Mirrors task_done().  0 or -1.  Escapes. */
static int
count_done(al_state *st, PyObject *dict)
{
    PyObject *name = st->str._unfinished_tasks;
    int none = al_primitive_compare_attribute(dict, name, Py_LE); /* escapes */
    if (none != 0) {
        if (none > 0) {
            PyErr_SetString(PyExc_ValueError, "task_done() called too many times");
        }
        return -1;
    }
    if (al_primitive_add(dict, name, -1) < 0) { /* escapes */
        return -1;
    }
    int last = al_primitive_compare_attribute(dict, name, Py_EQ); /* escapes */
    if (last <= 0) {
        return last;
    }
    PyObject *finished = al_attribute(dict, "Queue", st->str._finished);
    int status = finished == NULL ? -1 : al_event_set(st, finished); /* escapes */
    Py_XDECREF(finished);
    return status;
}

static PyObject *
call_task_done(al_state *st, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *dict = attributes(st, args, nargs, 1);
    if (dict == NULL) {
        return NULL;
    }
    int status = count_done(st, dict); /* escapes */
    Py_DECREF(dict);
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

const al_replacement al_queue_replacements[] = {
    {.owner = offsetof(al_state, Queue),
     .name = "get",
     .call = call_get,
     .coroutine = true},
    {.owner = offsetof(al_state, Queue),
     .name = "put",
     .call = call_put,
     .coroutine = true},
    {.owner = offsetof(al_state, Queue), .name = "get_nowait", .call = call_get_nowait},
    {.owner = offsetof(al_state, Queue), .name = "put_nowait", .call = call_put_nowait},
    {.owner = offsetof(al_state, Queue), .name = "task_done", .call = call_task_done},
    {.name = NULL},
};
