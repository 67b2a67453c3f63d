/* transport.c: see transport.h. */
#include "io/transport.h"

#include "core/misuse.h"
#include "core/report.h"
#include "core/stack.h"

#include "base/args.h"

int
al_transport_begin(al_loop *loop, PyObject *transport, PyObject *protocol,
                   PyObject *waiter, al_run_fn start)
{
    al_state *st = loop->st;
    PyObject *method = PyObject_GetAttr(protocol, st->str.connection_made);
    if (method == NULL || al_transport_made(loop, transport) < 0) { /* escapes */
        Py_XDECREF(method);
        return -1;
    }
    int status =
        al_sched_call_soon(st, (PyObject *)loop, method, transport, NULL); /* escapes */
    Py_DECREF(method);
    if (status < 0) {
        return -1;
    }
    waiter = waiter == Py_None ? NULL : waiter;
    return al_sched_push_steal(loop, start, Py_NewRef(transport), Py_XNewRef(waiter),
                               NULL);
}

int
al_transport_tell(al_loop *loop, PyObject *waiter)
{
    if (waiter == NULL) {
        return 0;
    }
    PyObject *done = PyObject_CallFunctionObjArgs(loop->st->set_result_unless_cancelled,
                                                  waiter, Py_None, NULL); /* escapes */
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

PyObject *
al_transport_soon(al_loop *loop, PyObject *transport, al_run_fn run)
{
    if (loop == NULL || loop->closed ||
        al_sched_push_steal(loop, run, Py_NewRef(transport), NULL, NULL) == 0) {
        Py_RETURN_NONE;
    }
    return NULL;
}

static int
end(al_loop *Py_UNUSED(loop), PyObject *transport, PyObject *method,
    PyObject *Py_UNUSED(extra))
{
    PyObject *result = PyObject_CallMethodNoArgs(transport, method); /* escapes */
    if (result == NULL) {
        if (al_report_must_leave()) {
            return -1;
        }
        PyErr_WriteUnraisable(transport);
    }
    Py_XDECREF(result);
    return 0;
}

PyObject *
al_transport_end_soon(al_loop *loop, PyObject *transport, const char *method)
{
    PyObject *name = PyUnicode_InternFromString(method);
    if (name == NULL ||
        al_sched_push_steal(loop, end, Py_NewRef(transport), name, NULL) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

int
al_transport_made(al_loop *loop, PyObject *transport)
{
    if (AL_LIKELY((loop->debug.switches & AL_DEBUG_TRACEBACKS) == 0)) {
        return 0;
    }
    PyObject *stack = al_debug_capture(loop->st, loop); /* escapes */
    int status = stack == NULL
                     ? -1
                     : PyObject_GenericSetAttr(transport, loop->st->str._made, stack);
    Py_XDECREF(stack);
    return status;
}

int
al_transport_takes_number(al_loop *loop, int fd)
{
    PyObject *before = al_fds_transport(&loop->fds, fd);
    if (AL_LIKELY(before == NULL)) {
        return 0;
    }
    Py_INCREF(before);
    PyObject *closing =
        PyObject_CallMethodNoArgs(before, loop->st->str.is_closing); /* escapes */
    int status = closing == NULL ? -1 : 0;
    if (closing == Py_False) {
        PyObject *created = al_misuse_made(loop->st, before);
        al_misuse_found(loop->st, (PyObject *)loop, AL_REUSED_FD, before,
                        created); /* escapes */
        Py_XDECREF(created);
    }
    Py_XDECREF(closing);
    Py_DECREF(before);
    return status;
}

void
al_transport_count_unclosed(al_loop *loop, PyObject *transport)
{
    if (loop == NULL || loop->st->EventLoop_type == NULL) {
        return; /* It was closed with its loop, or the interpreter is going. */
    }
    al_state *st = loop->st;
    PyObject *created = al_misuse_made(st, transport);
    Py_INCREF(loop);
    al_misuse_found(st, (PyObject *)loop, AL_UNCLOSED, transport,
                    created); /* escapes */
    Py_DECREF(loop);
    Py_XDECREF(created);
}

void
al_transport_warn_unclosed(al_loop *loop, PyObject *transport)
{
    al_transport_count_unclosed(loop, transport); /* escapes */
    if (PyErr_ResourceWarning(transport, 1, "unclosed transport %R", transport) <
        0) { /* escapes */
        PyErr_WriteUnraisable(transport);
    }
}

bool
al_transport_finalize_soon(al_loop *loop, PyObject *transport, al_run_fn finalize)
{
    if (!al_inbox_is_foreign(loop)) {
        return false;
    }
    PyObject *pending = al_err_take();
    bool pushed =
        al_sched_push_steal(loop, finalize, Py_NewRef(transport), NULL, NULL) == 0;
    if (!pushed) {
        PyErr_Clear(); /* MemoryError, or the loop has been closed meanwhile. */
    }
    al_err_put_steal(pending);
    return pushed;
}

void
al_transport_dealloc(PyObject *transport)
{
    PyTypeObject *type = Py_TYPE(transport);
    if (PyObject_CallFinalizerFromDealloc(transport) < 0) { /* escapes */
        return;
    }
    PyObject_GC_UnTrack(transport);
    if (*(PyObject **)(void *)((char *)transport + type->tp_weaklistoffset) != NULL) {
        PyObject_ClearWeakRefs(transport); /* escapes */
    }
    (void)type->tp_clear(transport); /* escapes */
    type->tp_free(transport);
    Py_DECREF(type);
}

/* --- transports of datagrams and of pipes ------------------------------------------------- */

int
al_transport_traverse(al_transport *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->extra);
    Py_VISIT(self->loop);
    Py_VISIT(self->protocol);
    Py_VISIT(self->context);
    Py_VISIT(self->dict);
    return 0;
}

void
al_transport_clear(al_transport *self)
{
    Py_CLEAR(self->extra);
    Py_CLEAR(self->dict);
}

const char al_transport_is_closing_doc[] =
    PyDoc_STR("is_closing($self, /)\n--\n\n"
              "Return True if the transport is closing or closed.");

PyObject *
al_transport_is_closing(al_transport *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(self->closing);
}

const char al_transport_set_protocol_doc[] =
    PyDoc_STR("set_protocol($self, /, protocol)\n--\n\n"
              "Replace the protocol.");

PyObject *
al_transport_set_protocol(al_transport *self, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames)
{
    const al_state *st = PyType_GetModuleState(Py_TYPE(self));
    const char *function = Py_IS_TYPE((PyObject *)self, st->ReadPipeTransport_type)
                               ? "_UnixReadPipeTransport.set_protocol"
                           : Py_IS_TYPE((PyObject *)self, st->WritePipeTransport_type)
                               ? "_UnixWritePipeTransport.set_protocol"
                               : "_SelectorTransport.set_protocol";
    PyObject *protocol = al_args_one(function, "protocol", args, nargs, kwnames);
    if (protocol == NULL) {
        return NULL;
    }
    PyObject *old = self->protocol;
    self->protocol = Py_NewRef(protocol);
    Py_XDECREF(old); /* escapes */
    Py_RETURN_NONE;
}

const char al_transport_get_protocol_doc[] = PyDoc_STR("get_protocol($self, /)\n--\n\n"
                                                       "Return the protocol.");

PyObject *
al_transport_get_protocol(al_transport *self, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(self->protocol == NULL ? Py_None : self->protocol);
}

const char al_transport_limits_doc[] =
    PyDoc_STR("get_write_buffer_limits($self, /)\n--\n\n"
              "Return the water marks (low, high) in bytes.");

PyObject *
al_transport_get_limits(al_transport *self, PyObject *Py_UNUSED(ignored))
{
    return al_flow_limits(&self->flow);
}

const char al_transport_set_limits_doc[] =
    PyDoc_STR("set_write_buffer_limits($self, high=None, low=None)\n--\n\n"
              "Set the water marks in bytes; None: the default.\n\n"
              "Source: asyncio, WriteTransport.set_write_buffer_limits.");

PyObject *
al_transport_set_limits(al_transport *self, size_t size, PyObject *const *args,
                        Py_ssize_t nargs, PyObject *kwnames)
{
    if (al_flow_set_limits(&self->flow, args, nargs, kwnames) < 0 || /* escapes */
        (self->loop != NULL &&
         al_flow_grown(self->loop, &self->flow, size, (PyObject *)self,
                       self->protocol) < 0)) { /* escapes */
        return NULL;
    }
    Py_RETURN_NONE;
}
