/* primitive.c: see primitive.h. */
#include "prim/primitive.h"

#include <limits.h>

#include "task/registry.h"

/* --- futures and deques ------------------------------------------------------------------ */

static int
truth_of_call(PyObject *obj, PyObject *name)
{
    PyObject *answer = PyObject_CallMethodNoArgs(obj, name); /* escapes */
    int truth = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    return truth;
}

int
al_primitive_is_done(al_state *st, PyObject *future)
{
    return AL_LIKELY(al_future_exact(st, future))
               ? ((al_future *)future)->state != AL_FUTURE_PENDING
               : truth_of_call(future, st->str.done); /* escapes */
}

int
al_primitive_is_cancelled(al_state *st, PyObject *future)
{
    return AL_LIKELY(al_future_exact(st, future))
               ? ((al_future *)future)->state == AL_FUTURE_CANCELLED
               : truth_of_call(future, st->str.cancelled); /* escapes */
}

int
al_primitive_resolve(al_state *st, PyObject *future, PyObject *value)
{
    if (AL_LIKELY(Py_IS_TYPE(future, st->Future_type) && al_future_exact(st, future) &&
                  ((al_future *)future)->state == AL_FUTURE_PENDING)) {
        return al_future_set_result((al_future *)future, value); /* escapes */
    }
    return al_primitive_settle(future, st->str.set_result, value); /* escapes */
}

int
al_primitive_settle(PyObject *future, PyObject *name, PyObject *value)
{
    PyObject *done = PyObject_CallMethodOneArg(future, name, value); /* escapes */
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

#if PY_VERSION_HEX >= 0x030E0000
int
al_primitive_add_awaited_by(al_state *st, PyObject *future, PyObject *task)
{
    if (AL_LIKELY(al_future_exact(st, future) && al_future_exact(st, task))) {
        return al_registry_add_awaited_by(st, (al_future *)future, (al_future *)task);
    }
    PyObject *args[] = {future, task};
    PyObject *done = PyObject_Vectorcall(st->add_awaited_by, args, 2, NULL);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

int
al_primitive_discard_awaited_by(al_state *st, PyObject *future, PyObject *task)
{
    if (AL_LIKELY(al_future_exact(st, future) && al_future_exact(st, task))) {
        return al_registry_discard_awaited_by(st, (al_future *)future,
                                              (al_future *)task);
    }
    PyObject *args[] = {future, task};
    PyObject *done = PyObject_Vectorcall(st->discard_awaited_by, args, 2, NULL);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}
#else
int
al_primitive_add_awaited_by(al_state *Py_UNUSED(st), PyObject *Py_UNUSED(future),
                            PyObject *Py_UNUSED(task))
{
    return 0;
}

int
al_primitive_discard_awaited_by(al_state *Py_UNUSED(st), PyObject *Py_UNUSED(future),
                                PyObject *Py_UNUSED(task))
{
    return 0;
}
#endif

bool
al_primitive_is_debugged(const al_state *st, PyObject *loop)
{
    const al_loop *ours = al_loop_check(st, loop);
    return PyThreadState_Get()->coroutine_origin_tracking_depth != 0 ||
           (ours != NULL && (AL_LOAD(ours->debug.switches) & AL_DEBUG_TRACEBACKS) != 0);
}

int
al_primitive_call(PyObject *obj, PyObject *name)
{
    PyObject *done = PyObject_CallMethodNoArgs(obj, name); /* escapes */
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

PyObject *
al_primitive_first(const al_state *st, PyObject *waiters)
{
    if (AL_LIKELY(Py_IS_TYPE(waiters, (PyTypeObject *)st->deque))) {
        return PySequence_GetItem(waiters, 0);
    }
    PyObject *iterator = PyObject_GetIter(waiters);                    /* escapes */
    PyObject *first = iterator == NULL ? NULL : PyIter_Next(iterator); /* escapes */
    Py_XDECREF(iterator);
    return first;
}

int
al_primitive_all_cancelled(al_state *st, PyObject *waiters)
{
    if (AL_LIKELY(Py_IS_TYPE(waiters, (PyTypeObject *)st->deque) &&
                  Py_SIZE(waiters) == 0)) {
        return 1;
    }
    PyObject *iterator = PyObject_GetIter(waiters); /* escapes */
    int all = iterator == NULL ? -1 : 1;
    while (all > 0) {
        PyObject *waiter = PyIter_Next(iterator); /* escapes */
        if (waiter == NULL) {
            all = PyErr_Occurred() ? -1 : 1;
            break;
        }
        all = al_primitive_is_cancelled(st, waiter); /* escapes */
        Py_DECREF(waiter);
    }
    Py_XDECREF(iterator);
    return all;
}

int
al_primitive_compare(PyObject *number, int operator)
{
    if (AL_LIKELY(PyLong_CheckExact(number))) {
        int overflow;
        long value = PyLong_AsLongAndOverflow(number, &overflow);
        int sign = overflow != 0 ? overflow : (value > 0) - (value < 0);
        switch (operator) {
        case Py_GT:
            return sign > 0;
        case Py_LE:
            return sign <= 0;
        default:
            return sign == 0; /* Py_EQ */
        }
    }
    PyObject *zero = PyLong_FromLong(0);
    int truth = zero == NULL
                    ? -1
                    : PyObject_RichCompareBool(number, zero, operator); /* escapes */
    Py_XDECREF(zero);
    return truth;
}

int
al_primitive_compare_attribute(PyObject *dict, PyObject *name, int operator)
{
    PyObject *number = al_attribute(dict, "object", name);
    int truth =
        number == NULL ? -1 : al_primitive_compare(number, operator); /* escapes */
    Py_XDECREF(number);
    return truth;
}

int
al_primitive_add(PyObject *dict, PyObject *name, int change)
{
    PyObject *number = al_attribute(dict, "object", name), *sum = NULL;
    int overflow = 1, status = -1;
    long value = 0;
    if (number == NULL) {
        return -1;
    }
    if (AL_LIKELY(PyLong_CheckExact(number))) {
        value = PyLong_AsLongAndOverflow(number, &overflow);
    }
    if (AL_LIKELY(overflow == 0 && value < INT_MAX && value > INT_MIN)) {
        sum = PyLong_FromLong(value + change);
    }
    else {
        PyObject *summand = PyLong_FromLong(change);
        sum =
            summand == NULL ? NULL : PyNumber_InPlaceAdd(number, summand); /* escapes */
        Py_XDECREF(summand);
    }
    if (sum != NULL) {
        status = PyDict_SetItem(dict, name, sum);
    }
    Py_XDECREF(sum);
    Py_DECREF(number);
    return status;
}

void
al_primitive_chain(PyObject **exc)
{
    PyObject *raised = al_err_take();
    if (raised == *exc) {
        Py_XDECREF(raised);
        return;
    }
    PyException_SetContext(raised, *exc); /* steals */
    *exc = raised;
}

PyObject *
al_primitive_append(const al_state *st, PyObject *items, PyObject *item)
{
    PyObject *args[] = {items, item};
    return AL_LIKELY(Py_IS_TYPE(items, (PyTypeObject *)st->deque))
               ? PyObject_Vectorcall(st->deque_append, args, 2, NULL)
               : PyObject_CallMethodOneArg(items, st->str.append, item); /* escapes */
}

PyObject *
al_primitive_popleft(const al_state *st, PyObject *items)
{
    return AL_LIKELY(Py_IS_TYPE(items, (PyTypeObject *)st->deque))
               ? PyObject_CallOneArg(st->deque_popleft, items)
               : PyObject_CallMethodNoArgs(items, st->str.popleft); /* escapes */
}

/* --- loops -------------------------------------------------------------------------------- */

PyObject *
al_primitive_loop(al_state *st, PyObject *subject, PyObject *dict)
{
    PyObject *running = al_registry_running_loop(st);
    if (running == NULL) {
        return NULL;
    }
    PyObject *bound = PyDict_GetItemWithError(dict, st->str._loop);
    if (bound == NULL && PyErr_Occurred()) {
        Py_DECREF(running);
        return NULL;
    }
    /* What asyncio takes its lock for: no other thread comes between, with the GIL. */
    if (bound == NULL || bound == Py_None) {
        if (PyDict_SetItem(dict, st->str._loop, running) < 0) {
            Py_CLEAR(running);
        }
    }
    else if (bound != running) {
        PyErr_Format(PyExc_RuntimeError, "%R is bound to a different event loop",
                     subject); /* escapes */
        Py_CLEAR(running);
    }
    return running;
}

PyObject *
al_primitive_running_loop(const al_state *st)
{
    PyObject *loop = al_registry_running_loop(st);
    if (loop == Py_None) {
        PyErr_SetString(PyExc_RuntimeError, "no running event loop");
        Py_CLEAR(loop);
    }
    return loop;
}

PyObject *
al_primitive_current_task(const al_state *st)
{
    PyObject *globals = PyModule_GetDict(st->asyncio_tasks), *task = NULL;
    PyObject *function = al_attribute(globals, "module", st->str.current_task);
    if (function == NULL) {
        return NULL;
    }
#if PY_VERSION_HEX >= 0x030E0000
    if (AL_LIKELY(function == st->current_task)) {
        task = al_registry_running_task(st);
    }
#endif
    if (task == NULL) {
        task = PyObject_CallNoArgs(function); /* escapes */
    }
    Py_DECREF(function);
    return task;
}

PyObject *
al_primitive_future(al_state *st, PyObject *loop)
{
    al_loop *ours = al_loop_check(st, loop);
    if (AL_LIKELY(ours != NULL) && !al_override_stale(ours) &&
        !ours->overrides.create_future) {
        return al_future_new(ours);
    }
    return PyObject_CallMethodNoArgs(loop, st->str.create_future); /* escapes */
}

/* --- waiting ------------------------------------------------------------------------------ */

int
al_primitive_wait(al_primitive *op, PyObject **result)
{
    int status = al_lazy_wait_for_steal(&op->base, Py_NewRef(op->waits_on),
                                        result); /* escapes */
    if (AL_UNLIKELY(status > 0)) {
        Py_CLEAR(*result);
        al_lazy_give_up(&op->base); /* escapes */
        return op->base.kind->step(&op->base, result);
    }
    return status;
}

int
al_primitive_wait_in(al_primitive *op, PyObject *name, PyObject **result)
{
    al_state *st = al_primitive_state(&op->base);
    PyObject *dict = op->dict, *added = NULL, *loop = NULL;
    PyObject *waiters = al_attribute(dict, "object", name);
    if (waiters == Py_None) {
        Py_SETREF(waiters, PyObject_CallNoArgs(st->deque));
        if (waiters != NULL && PyDict_SetItem(dict, name, waiters) < 0) {
            Py_CLEAR(waiters);
        }
    }
    if (waiters != NULL) {
        loop = al_primitive_loop(st, op->base.subject, dict); /* escapes */
    }
    if (loop != NULL) {
        Py_XSETREF(op->waits_on, al_primitive_future(st, loop)); /* escapes */
        Py_DECREF(loop);
    }
    if (loop != NULL && op->waits_on != NULL) {
        added = al_primitive_append(st, waiters, op->waits_on); /* escapes */
    }
    Py_XDECREF(waiters);
    if (added == NULL) {
        Py_CLEAR(op->waits_on); /* escapes */
        return -1;
    }
    Py_DECREF(added);
    return al_primitive_wait(op, result); /* escapes */
}

int
al_primitive_leave(al_primitive *op, PyObject *name)
{
    const al_state *st = al_primitive_state(&op->base);
    PyObject *waiters = al_attribute(op->dict, "object", name), *done = NULL;
    if (waiters != NULL && Py_IS_TYPE(waiters, (PyTypeObject *)st->deque)) {
        /* It is most often the first one. */
        PyObject *first = Py_SIZE(waiters) > 0 ? PySequence_GetItem(waiters, 0) : NULL;
        if (AL_LIKELY(first == op->waits_on)) {
            done = PyObject_CallOneArg(st->deque_popleft, waiters);
        }
        Py_XDECREF(first);
    }
    if (done == NULL && waiters != NULL && !PyErr_Occurred()) {
        done = PyObject_CallMethodOneArg(waiters, st->str.remove,
                                         op->waits_on); /* escapes */
    }
    Py_XDECREF(waiters);
    Py_XDECREF(done);
    Py_CLEAR(op->waits_on); /* escapes */
    return done == NULL ? -1 : 0;
}

/* --- the operation's type ----------------------------------------------------------------- */

void
al_primitive_woken(al_lazy *Py_UNUSED(base))
{
}

void
al_primitive_ended(al_lazy *base)
{
    al_primitive *op = (al_primitive *)base;
    Py_CLEAR(op->dict);     /* escapes */
    Py_CLEAR(op->waits_on); /* escapes */
    Py_CLEAR(op->extra);    /* escapes */
}

PyObject *
al_primitive_new_steal(al_state *st, const al_lazy_kind *kind, const char *name,
                       PyObject *subject, PyObject *arg, PyObject *dict)
{
    al_lazy *op =
        al_lazy_alloc(&st->free_primitives, st->Primitive_type, NULL, kind, name);
    if (AL_UNLIKELY(op == NULL)) {
        Py_XDECREF(dict);
        return NULL;
    }
    op->subject = Py_XNewRef(subject);
    op->arg = Py_XNewRef(arg);
    ((al_primitive *)op)->dict = dict;
    PyObject_GC_Track(op);
    return (PyObject *)op;
}

static int
primitive_traverse(al_primitive *op, visitproc visit, void *arg)
{
    Py_VISIT(op->dict);
    Py_VISIT(op->waits_on);
    Py_VISIT(op->extra);
    return al_lazy_traverse(&op->base, visit, arg);
}

static PyObject *
primitive_repr(al_primitive *op)
{
    const char *owner = op->base.kind->owner;
    return PyUnicode_FromFormat("<coroutine object %s%s%s at %p>",
                                owner == NULL ? "" : owner, owner == NULL ? "" : ".",
                                op->base.name, op);
}

static void
primitive_dealloc(al_primitive *op)
{
    al_state *st = al_primitive_state(&op->base);
    bool plain = st != NULL && Py_IS_TYPE(op, st->Primitive_type);
    al_lazy_dealloc(&op->base, plain ? &st->free_primitives : NULL); /* escapes */
}

void
al_primitive_clear_free_list(al_state *st)
{
    al_lazy_clear_list(&st->free_primitives);
}

static char primitive_doc[] =
    PyDoc_STR("What the coroutine functions of asyncio's primitives return while\n"
              "aioloop.accelerate() is on, to be awaited once.");

static PyType_Slot primitive_slots[] = {
    {Py_tp_doc, primitive_doc},
    {Py_tp_dealloc, primitive_dealloc},
    {Py_tp_traverse, primitive_traverse},
    {Py_tp_repr, primitive_repr},
    AL_LAZY_SLOTS,
    {0, NULL},
};

static PyType_Spec primitive_spec = {
    .name = "aioloop._core.Primitive",
    .basicsize = sizeof(al_primitive),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = primitive_slots,
};

int
al_primitive_init_type(PyObject *module, al_state *st)
{
    st->deque_append = PyObject_GetAttr(st->deque, st->str.append);
    st->deque_popleft = PyObject_GetAttr(st->deque, st->str.popleft);
    if (st->deque_append == NULL || st->deque_popleft == NULL) {
        return -1;
    }
    return al_state_add_type(module, &st->Primitive_type, &primitive_spec, NULL);
}
