/* waits.c: see waits.h. */
#include "diag/waits.h"

#include "core/poll.h"
#include "io/stream.h"
#include "task/future.h"
#include "task/lazy.h"

/* The argument as a loop, or NULL with TypeError. */
static al_loop *
any_loop(PyObject *module, PyObject *op)
{
    al_loop *loop = al_loop_check(al_state_of_module(module), op);
    if (loop == NULL) {
        PyErr_Format(PyExc_TypeError, "an aioloop loop was expected, got %R", op);
    }
    return loop;
}

/* The same, of one that another thread does not change meanwhile; else RuntimeError. */
static al_loop *
loop_of(PyObject *module, PyObject *op)
{
    al_loop *loop = any_loop(module, op);
    AL_OWN(loop, NULL);
    return loop;
}

static PyObject *
new_or_none(PyObject *obj)
{
    return Py_NewRef(obj == NULL ? Py_None : obj);
}

/* Whether it is a task of ours, of which there may be none (base/layout.h). */
static bool
is_task(const al_state *st, PyObject *op)
{
    return st->Task_type != NULL && PyObject_TypeCheck(op, st->Task_type);
}

/* Seconds since the task waits for its future; None for what is no task of ours or does
 * not wait. */
static PyObject *
waited(PyObject *module, PyObject *op)
{
    const al_state *st = al_state_of_module(module);
    const al_future *task = (const al_future *)(void *)op;
    if (!is_task(st, op) || task->fut_waiter == NULL || task->waits_since == 0) {
        Py_RETURN_NONE;
    }
    uint32_t steps = al_future_wait_step(al_poll_clock()) - task->waits_since;
    return PyFloat_FromDouble((double)((uint64_t)steps << AL_FUTURE_WAIT_SHIFT) / 1e9);
}

/* Where a task was last cancelled, as a StackSummary; None where that was not kept. */
static PyObject *
cancelled_from(PyObject *module, PyObject *op)
{
    al_state *st = al_state_of_module(module);
    if (!is_task(st, op)) {
        Py_RETURN_NONE;
    }
    PyObject *stack = Py_XNewRef(*al_future_cancel_stack((al_future *)(void *)op));
    PyObject *list = al_stack_read(st, &stack); /* escapes */
    Py_XDECREF(stack);                          /* escapes */
    return list;
}

/* (subject, argument) of an operation that is in C: the socket and the address, say; each
 * may be None.  None for everything else. */
static PyObject *
operation(PyObject *module, PyObject *op)
{
    const al_state *st = al_state_of_module(module);
    if (!Py_IS_TYPE(op, st->SockOp_type) && !Py_IS_TYPE(op, st->StreamRead_type) &&
        !Py_IS_TYPE(op, st->Primitive_type)) {
        Py_RETURN_NONE;
    }
    const al_lazy *lazy = (const al_lazy *)(void *)op;
    return Py_BuildValue("NN", new_or_none(lazy->subject), new_or_none(lazy->arg));
}

/* Whether the loop waits for events, or is about to, and how many slots are ready.  The
 * signal that asks for a dump may itself have ended a wait for a moment.  Of a loop that
 * another thread runs without a GIL: whether it is blocked, and what others have pushed. */
static PyObject *
loop_state(PyObject *module, PyObject *op)
{
    al_loop *loop = any_loop(module, op);
    if (loop == NULL) {
        return NULL;
    }
    Py_ssize_t ready;
    bool waits;
    if (al_inbox_is_foreign(loop)) {
        waits = al_inbox_waits(loop, &ready);
    }
    else {
        ready = (Py_ssize_t)al_ring_len(&loop->ready);
        waits = loop->wake.blocked || (!loop->in_slot && ready == 0);
    }
    return Py_BuildValue("Nn", PyBool_FromLong(waits), ready);
}

static int
append(PyObject *list, PyObject *item)
{
    int status = item == NULL ? -1 : PyList_Append(list, item);
    Py_XDECREF(item);
    return status;
}

/* The list with the other one's items. */
static PyObject *
append_all_steal(PyObject *list, PyObject *others)
{
    if (PyList_SetSlice(list, 0, 0, others) < 0) {
        Py_CLEAR(list);
    }
    return list;
}

/* The handles of all timers, in no order; a program that has the list of
 * loop._scheduled may have put other objects there. */
static PyObject *
loop_timers(PyObject *module, PyObject *op)
{
    const al_loop *loop = loop_of(module, op);
    PyObject *list = loop == NULL ? NULL : PyList_New(0);
    if (list == NULL) {
        return NULL;
    }
    const al_timers *timers = &loop->timers;
    if (timers->lent != NULL) {
        return append_all_steal(list, timers->lent);
    }
    for (size_t i = 0; i < timers->length; i++) {
        al_handle *handle = timers->heap[i].handle;
        if (!handle->cancelled && append(list, Py_NewRef((PyObject *)handle)) < 0) {
            goto failed;
        }
    }
    for (size_t i = timers->due_head; i != timers->due_tail; i++) {
        al_handle *handle = timers->due[i & timers->due_mask].handle;
        if (!handle->cancelled && append(list, Py_NewRef((PyObject *)handle)) < 0) {
            goto failed;
        }
    }
    return list;

failed:
    Py_DECREF(list);
    return NULL;
}

/* (descriptor, reader, writer, transport) of each descriptor that somebody waits for or
 * that a transport has. */
static PyObject *
loop_files(PyObject *module, PyObject *op)
{
    const al_loop *loop = loop_of(module, op);
    PyObject *list = loop == NULL ? NULL : PyList_New(0);
    for (int fd = 0; list != NULL && fd < loop->fds.capacity; fd++) {
        PyObject *reader = NULL, *writer = NULL;
        PyObject *transport = al_fds_transport(&loop->fds, fd);
        if (!al_fds_get(&loop->fds, fd, &reader, &writer) && transport == NULL) {
            continue;
        }
        /* Making the tuple may collect garbage, and close them. */
        if (append(list, Py_BuildValue("iNNN", fd, new_or_none(reader),
                                       new_or_none(writer), new_or_none(transport))) <
            0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

/* (bytes that wait to be sent, pause_reading() was called, pause_writing() was, closing)
 * of a socket transport, None for any other.  Its own methods would send what is
 * corked. */
static PyObject *
stream_state(PyObject *module, PyObject *op)
{
    if (!Py_IS_TYPE(op, al_state_of_module(module)->SocketTransport_type)) {
        Py_RETURN_NONE;
    }
    const al_stream *stream = (const al_stream *)(void *)op;
    return Py_BuildValue(
        "nNNN", (Py_ssize_t)stream->out.size, PyBool_FromLong(stream->paused),
        PyBool_FromLong(stream->flow.paused), PyBool_FromLong(stream->closing));
}

PyMethodDef al_waits_methods[] = {
    {"_waited", waited, METH_O, NULL},
    {"_cancelled_from", cancelled_from, METH_O, NULL},
    {"_operation", operation, METH_O, NULL},
    {"_loop_state", loop_state, METH_O, NULL},
    {"_loop_timers", loop_timers, METH_O, NULL},
    {"_loop_files", loop_files, METH_O, NULL},
    {"_stream_state", stream_state, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
