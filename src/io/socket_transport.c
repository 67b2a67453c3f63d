/* socket_transport.c: aioloop._core.SocketTransport, the type of al_stream: its methods,
 * attributes and life as Python sees them.  What they do is in stream, write and info. */
#include "base/args.h"
#include "base/origin.h"
#include "core/context.h"
#include "core/standin.h"
#include "core/watch.h"
#include "io/begin.h"
#include "io/info.h"
#include "io/stream.h"
#include "io/transport.h"
#include "io/trsock.h"
#include "io/write.h"
#include "task/future.h"

/* asyncio's transport of a socket inherits a method from the abstract classes that ours
 * hides.  If somebody has replaced that one, calls it.  True with its result; or false, and
 * ours is to go on.  Escapes. */
static bool
other_called(al_stream *self, al_state *st, PyObject *name, PyObject *const *args,
             Py_ssize_t nargs, PyObject *kwnames, PyObject **result)
{
    PyTypeObject *base = (PyTypeObject *)st->FlowControlMixin;
    if (AL_LIKELY(base->tp_version_tag == st->seen_transports_tag)) {
        return false;
    }
    PyObject *other = Py_XNewRef(_PyType_Lookup(base, name)); /* makes a tag */
    if (al_origin_intact(base, st->str.get_extra_info) &&
        al_origin_intact(base, st->str.writelines)) {
        st->seen_transports_tag = al_tag_to_see(base);
    }
    bool replaced = other != NULL && !al_origin_intact(base, name);
    if (replaced) {
        *result = al_standin_call(other, (PyObject *)self, args, nargs,
                                  kwnames); /* escapes */
    }
    Py_XDECREF(other); /* escapes */
    return replaced;
}

PyDoc_STRVAR(write_doc, "write($self, /, data)\n--\n\n"
                        "Write some data bytes; this does not block.\n\n"
                        "Parameters: data, a bytes, bytearray or memoryview object.\n"
                        "Source: asyncio, WriteTransport.write.");

static PyObject *
SocketTransport_write(al_stream *self, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames)
{
    AL_OWN(self->loop, NULL);
    PyObject *data =
        al_args_one("_SelectorSocketTransport.write", "data", args, nargs, kwnames);
    return data == NULL ? NULL : al_write(self, data);
}

PyDoc_STRVAR(writelines_doc,
             "writelines($self, /, list_of_data)\n--\n\n"
             "Write an iterable of data bytes, as one write of them all.\n\n"
             "Source: asyncio, WriteTransport.writelines.");

static PyObject *
SocketTransport_writelines(al_stream *self, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames)
{
    AL_OWN(self->loop, NULL);
#if PY_VERSION_HEX >= 0x030C0000
#define WRITELINES "_SelectorSocketTransport.writelines"
#else
#define WRITELINES "WriteTransport.writelines"
    al_state *st = PyType_GetModuleState(Py_TYPE(self));
    PyObject *result;
    if (other_called(self, st, st->str.writelines, args, nargs, kwnames, &result)) {
        return result;
    }
#endif
    PyObject *list = al_args_one(WRITELINES, "list_of_data", args, nargs, kwnames);
    return list == NULL ? NULL : al_writelines(self, list);
}

PyDoc_STRVAR(write_eof_doc, "write_eof($self, /)\n--\n\n"
                            "Close the write end once the buffered data is sent.\n\n"
                            "Source: asyncio, WriteTransport.write_eof.");

static PyObject *
SocketTransport_write_eof(al_stream *self, PyObject *Py_UNUSED(ignored))
{
    AL_OWN(self->loop, NULL);
    return al_write_eof(self);
}

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\n"
                        "Close the transport once the buffered data is sent.\n\n"
                        "Source: asyncio, BaseTransport.close.");

static PyObject *
SocketTransport_close(al_stream *self, PyObject *Py_UNUSED(ignored))
{
    AL_END_SOON(self->loop, self, "close");
    if (al_stream_close(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(abort_doc, "abort($self, /)\n--\n\n"
                        "Close the transport at once; buffered data is lost.\n\n"
                        "Source: asyncio, WriteTransport.abort.");

static PyObject *
SocketTransport_abort(al_stream *self, PyObject *Py_UNUSED(ignored))
{
    AL_END_SOON(self->loop, self, "abort");
    if (al_write_flush(self) < 0 ||
        al_stream_force_close(self, NULL) < 0) { /* escapes */
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
SocketTransport__force_close(al_stream *self, PyObject *exc)
{
    AL_OWN(self->loop, NULL);
    if (al_write_flush(self) < 0 ||
        al_stream_force_close(self, exc == Py_None ? NULL : exc) < 0) { /* escapes */
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
SocketTransport__fatal_error(al_stream *self, PyObject *args)
{
    AL_OWN(self->loop, NULL);
    PyObject *exc, *message = NULL;
    if (!PyArg_ParseTuple(args, "O|U", &exc, &message)) {
        return NULL;
    }
    message = message != NULL ? Py_NewRef(message)
                              : PyUnicode_FromString("Fatal error on transport");
    int status =
        message == NULL ? -1 : al_stream_fatal_error(self, exc, message); /* escapes */
    Py_XDECREF(message);
    if (status < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
SocketTransport__call_connection_lost(al_stream *self, PyObject *exc)
{
    AL_OWN(self->loop, NULL);
    if (al_stream_call_lost(self, exc) < 0) { /* escapes */
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(is_closing_doc, "is_closing($self, /)\n--\n\n"
                             "Return True if the transport is closing or closed.");

static PyObject *
SocketTransport_is_closing(al_stream *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(self->closing);
}

/* --- the other methods ------------------------------------------------------------------------------ */

PyDoc_STRVAR(is_reading_doc, "is_reading($self, /)\n--\n\n"
                             "Return True if the transport is receiving.");

static PyObject *
SocketTransport_is_reading(al_stream *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(al_stream_is_reading(self));
}

PyDoc_STRVAR(pause_reading_doc, "pause_reading($self, /)\n--\n\n"
                                "Pause the receiving end; no data is delivered until\n"
                                "resume_reading() is called.\n\n"
                                "Source: asyncio, ReadTransport.pause_reading.");

static PyObject *
SocketTransport_pause_reading(al_stream *self, PyObject *Py_UNUSED(ignored))
{
    AL_OWN(self->loop, NULL);
    if (!al_stream_is_reading(self)) {
        Py_RETURN_NONE;
    }
    self->paused = true;
    al_stream_stop_reading(self);
    if (self->loop != NULL && (self->loop->debug.switches & AL_DEBUG_FDS) &&
        al_stream_log(self->loop->st, "%r pauses reading", self, NULL, NULL) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(resume_reading_doc, "resume_reading($self, /)\n--\n\n"
                                 "Resume the receiving end.\n\n"
                                 "Source: asyncio, ReadTransport.resume_reading.");

static PyObject *
SocketTransport_resume_reading(al_stream *self, PyObject *Py_UNUSED(ignored))
{
    AL_OWN(self->loop, NULL);
    if (self->closing || !self->paused) {
        Py_RETURN_NONE;
    }
    self->paused = false;
    if (al_stream_start_reading(self) < 0) {
        return NULL;
    }
    if (self->loop != NULL && (self->loop->debug.switches & AL_DEBUG_FDS) &&
        al_stream_log(self->loop->st, "%r resumes reading", self, NULL, NULL) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
SocketTransport__read_ready(al_stream *self, PyObject *Py_UNUSED(ignored))
{
    return al_stream_read_soon(self);
}

static PyObject *
SocketTransport__write_ready(al_stream *self, PyObject *Py_UNUSED(ignored))
{
    return al_transport_soon(self->loop, (PyObject *)self, al_write_ready);
}

static PyObject *
SocketTransport__start_reading(al_stream *self, PyObject *Py_UNUSED(ignored))
{
    AL_OWN(self->loop, NULL);
    if (al_stream_start_reading(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(set_protocol_doc, "set_protocol($self, /, protocol)\n--\n\n"
                               "Set a new protocol.");

static PyObject *
SocketTransport_set_protocol(al_stream *self, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames)
{
    AL_OWN(self->loop, NULL);
    PyObject *protocol = al_args_one("_SelectorSocketTransport.set_protocol",
                                     "protocol", args, nargs, kwnames);
    if (protocol == NULL || al_stream_set_protocol(self, protocol) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(get_protocol_doc, "get_protocol($self, /)\n--\n\n"
                               "Return the current protocol.");

static PyObject *
SocketTransport_get_protocol(al_stream *self, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(self->protocol == NULL ? Py_None : self->protocol);
}

PyDoc_STRVAR(can_write_eof_doc, "can_write_eof($self, /)\n--\n\n"
                                "Return True: a socket can be closed by halves.");

static PyObject *
SocketTransport_can_write_eof(al_stream *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(get_write_buffer_size_doc,
             "get_write_buffer_size($self, /)\n--\n\n"
             "Return the number of bytes that wait to be sent.");

static PyObject *
SocketTransport_get_write_buffer_size(al_stream *self, PyObject *Py_UNUSED(ignored))
{
    AL_OWN(self->loop, NULL);
    if (al_write_flush(self) < 0) { /* escapes */
        return NULL;
    }
    return PyLong_FromSize_t(self->out.size);
}

PyDoc_STRVAR(get_write_buffer_limits_doc,
             "get_write_buffer_limits($self, /)\n--\n\n"
             "Return the low-water and the high-water mark, in bytes.");

static PyObject *
SocketTransport_get_write_buffer_limits(al_stream *self, PyObject *Py_UNUSED(ignored))
{
    AL_OWN(self->loop, NULL);
    return al_flow_limits(&self->flow);
}

PyDoc_STRVAR(
    set_write_buffer_limits_doc,
    "set_write_buffer_limits($self, /, high=None, low=None)\n--\n\n"
    "Set the high-water and low-water marks of write flow control.\n\n"
    "Parameters: high and low, in bytes; None: low is a quarter of high, high\n"
    "is 64 KiB or four times low. ValueError unless high >= low >= 0.\n"
    "Source: asyncio, WriteTransport.set_write_buffer_limits.");

static PyObject *
SocketTransport_set_write_buffer_limits(al_stream *self, PyObject *const *args,
                                        Py_ssize_t nargs, PyObject *kwnames)
{
    AL_OWN(self->loop, NULL);
    /* What was corked was written under the old marks. */
    if (al_write_flush(self) < 0 ||                                  /* escapes */
        al_flow_set_limits(&self->flow, args, nargs, kwnames) < 0) { /* escapes */
        return NULL;
    }
    if (al_write_maybe_pause(self) < 0) { /* escapes */
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
SocketTransport__maybe_pause_protocol(al_stream *self, PyObject *Py_UNUSED(ignored))
{
    if (al_write_flush(self) < 0 || al_write_maybe_pause(self) < 0) { /* escapes */
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
SocketTransport__maybe_resume_protocol(al_stream *self, PyObject *Py_UNUSED(ignored))
{
    if (al_write_flush(self) < 0 || al_write_maybe_resume(self) < 0) { /* escapes */
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
SocketTransport__make_empty_waiter(al_stream *self, PyObject *Py_UNUSED(ignored))
{
    AL_OWN(self->loop, NULL);
    if (al_write_flush(self) < 0) { /* escapes */
        return NULL;
    }
    if (self->empty_waiter != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "Empty waiter is already set");
        return NULL;
    }
    if (self->loop == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the transport is closed");
        return NULL;
    }
    al_state *st = self->loop->st;
    PyObject *waiter =
        PyObject_CallMethod((PyObject *)self->loop, "create_future", NULL);
    if (waiter == NULL) {
        return NULL;
    }
    self->empty_waiter = Py_NewRef(waiter);
    if (self->out.size == 0 &&
        al_future_settle(st, waiter, st->str.set_result, Py_None) < 0) { /* escapes */
        Py_CLEAR(waiter);
    }
    return waiter;
}

static PyObject *
SocketTransport__reset_empty_waiter(al_stream *self, PyObject *Py_UNUSED(ignored))
{
    Py_CLEAR(self->empty_waiter);
    Py_RETURN_NONE;
}

/* sendfile works on the descriptor itself for a while: the loop must not say that a
 * transport uses it.  lend(True) ... lend(False). */
static PyObject *
SocketTransport__lend(al_stream *self, PyObject *lent)
{
    AL_OWN(self->loop, NULL);
    if (self->loop != NULL) {
        PyObject *user = lent == Py_True ? NULL : (PyObject *)self;
        if (al_fds_set_transport(self->loop, self->fd, user) < 0) {
            return NULL;
        }
        if (user != NULL) {
            al_stream_watch(self);
        }
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    get_extra_info_doc,
    "get_extra_info($self, /, name, default=None)\n--\n\n"
    "Return what is known under a name: 'socket', 'sockname', 'peername' ...\n\n"
    "Source: asyncio, BaseTransport.get_extra_info.");

static PyObject *
SocketTransport_get_extra_info(al_stream *self, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames)
{
    static const al_signature signature = {
        .function = "BaseTransport.get_extra_info",
        .names = {"name", "default"},
        .positional = 2,
        .required = 1,
        .total = 2,
    };
    al_state *st = PyType_GetModuleState(Py_TYPE(self));
    PyObject *values[2], *result;
    if (other_called(self, st, st->str.get_extra_info, args, nargs, kwnames, &result)) {
        return result;
    }
    if (al_args_parse(&signature, args, nargs, kwnames, values, NULL) < 0) {
        return NULL;
    }
    return al_info_get(self, values[0], values[1] == NULL ? Py_None : values[1]);
}

static PyObject *
stream_repr(al_stream *self)
{
    const char *state = !self->fd_open ? " closed" : self->closing ? " closing" : "";
    PyObject *name = PyType_GetName(Py_TYPE(self));
    if (name == NULL) {
        return NULL;
    }
    PyObject *repr;
    if (self->loop == NULL || self->loop->closed) {
        repr = PyUnicode_FromFormat("<%U%s fd=%d>", name, state, self->fd);
    }
    else {
        repr =
            PyUnicode_FromFormat("<%U%s fd=%d read=%s write=<%s, bufsize=%zu>>", name,
                                 state, self->fd, self->reading ? "polling" : "idle",
                                 self->writing ? "polling" : "idle", self->out.size);
    }
    Py_DECREF(name);
    return repr;
}

/* --- the type ---------------------------------------------------------------------------------------------- */

static int
stream_traverse(al_stream *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->extra);
    Py_VISIT(self->dict);
    Py_VISIT(self->loop);
    Py_VISIT(self->protocol);
    Py_VISIT(self->server);
    Py_VISIT(self->sock);
    Py_VISIT(self->context);
    Py_VISIT(self->read_context);
    Py_VISIT(self->write_context);
    Py_VISIT(self->empty_waiter);
    Py_VISIT(self->transport_socket);
    Py_VISIT(self->sockname);
    Py_VISIT(self->peername);
    return 0;
}

static int
stream_clear(al_stream *self)
{
    al_stream_leave_loop(self);
    self->sock_fd = NULL;
    al_outbuf_clear(&self->out);
    Py_CLEAR(self->extra);
    Py_CLEAR(self->dict);
    Py_CLEAR(self->protocol);
    Py_CLEAR(self->server);
    Py_CLEAR(self->sock);
    Py_CLEAR(self->context);
    Py_CLEAR(self->read_context);
    Py_CLEAR(self->write_context);
    Py_CLEAR(self->empty_waiter);
    al_trsock_part(self->transport_socket);
    Py_CLEAR(self->transport_socket);
    Py_CLEAR(self->sockname);
    Py_CLEAR(self->peername);
    Py_CLEAR(self->loop);
    return 0;
}

/* __del__: warns of a transport that nobody closed, and closes it. */
static int stream_finalize_here(al_loop *loop, PyObject *op, PyObject *arg,
                                PyObject *extra);

static void
stream_finalize(PyObject *op)
{
    al_stream *self = (al_stream *)op;
    if (!self->fd_open ||
        al_transport_finalize_soon(self->loop, op, stream_finalize_here)) {
        return;
    }
    PyObject *pending = PyErr_Occurred() ? al_err_take() : NULL;
    al_transport_count_unclosed(self->loop, op); /* escapes */
    if (PyErr_ResourceWarning(op, 1, "unclosed transport %R", op) < 0) {
        /* A warning that is an error has nobody to catch it here. */
        if (PyErr_ExceptionMatches(PyExc_Warning)) {
            PyErr_WriteUnraisable(op);
        }
        PyErr_Clear();
    }
    al_stream_leave_loop(self);
    self->closing = true;
    if (al_stream_close_descriptor(self) < 0) {
        PyErr_WriteUnraisable(op);
    }
#if PY_VERSION_HEX >= 0x030D0000
    if (al_stream_detach_server(self) < 0) {
        PyErr_WriteUnraisable(op);
    }
#endif
    if (pending != NULL) {
        al_err_put_steal(pending);
    }
}

static int
stream_finalize_here(al_loop *Py_UNUSED(loop), PyObject *op, PyObject *Py_UNUSED(arg),
                     PyObject *Py_UNUSED(extra))
{
    stream_finalize(op); /* escapes */
    return 0;
}

static PyObject *
get_extra(al_stream *self, void *Py_UNUSED(closure))
{
    return Py_XNewRef(al_info_all(self));
}

static PyObject *
get_sock_attribute(al_stream *self, void *Py_UNUSED(closure))
{
    return al_write_flush(self) < 0 ? NULL : al_stream_sock(self);
}

/* The number is as good as the socket: nothing is corked from now on. */
static PyObject *
get_sock_fd(al_stream *self, void *Py_UNUSED(closure))
{
    self->shared = true;
    return al_write_flush(self) < 0 ? NULL : PyLong_FromLong(self->fd); /* escapes */
}

static PyGetSetDef stream_getsets[] = {
    {"_extra", (getter)get_extra, NULL, NULL, NULL},
    {"_sock", (getter)get_sock_attribute, NULL, NULL, NULL},
    {"_sock_fd", (getter)get_sock_fd, NULL, NULL, NULL},
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef stream_members[] = {
    {"_loop", T_OBJECT, offsetof(al_stream, loop), READONLY, NULL},
    {"_protocol", T_OBJECT, offsetof(al_stream, protocol), READONLY, NULL},
    {"_server", T_OBJECT, offsetof(al_stream, server), READONLY, NULL},
    {"_empty_waiter", T_OBJECT, offsetof(al_stream, empty_waiter), READONLY, NULL},
    {"_conn_lost", T_INT, offsetof(al_stream, conn_lost), READONLY, NULL},
    {"_closing", T_BOOL, offsetof(al_stream, closing), READONLY, NULL},
    {"_paused", T_BOOL, offsetof(al_stream, paused), READONLY, NULL},
    {"_eof", T_BOOL, offsetof(al_stream, eof), READONLY, NULL},
    {"_protocol_connected", T_BOOL, offsetof(al_stream, protocol_connected), READONLY,
     NULL},
    {"_protocol_paused", T_BOOL, offsetof(al_stream, flow.paused), READONLY, NULL},
    {"_high_water", T_PYSSIZET, offsetof(al_stream, flow.high), READONLY, NULL},
    {"_low_water", T_PYSSIZET, offsetof(al_stream, flow.low), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(al_stream, weakrefs), READONLY, NULL},
    {"__dictoffset__", T_PYSSIZET, offsetof(al_stream, dict), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

#define FAST(function)                                                                 \
    (PyCFunction)(void (*)(void))(function), METH_FASTCALL | METH_KEYWORDS

static PyMethodDef stream_methods[] = {
    {"write", FAST(SocketTransport_write), write_doc},
    {"writelines", FAST(SocketTransport_writelines), writelines_doc},
    {"write_eof", (PyCFunction)SocketTransport_write_eof, METH_NOARGS, write_eof_doc},
    {"can_write_eof", (PyCFunction)SocketTransport_can_write_eof, METH_NOARGS,
     can_write_eof_doc},
    {"get_write_buffer_size", (PyCFunction)SocketTransport_get_write_buffer_size,
     METH_NOARGS, get_write_buffer_size_doc},
    {"get_write_buffer_limits", (PyCFunction)SocketTransport_get_write_buffer_limits,
     METH_NOARGS, get_write_buffer_limits_doc},
    {"set_write_buffer_limits", FAST(SocketTransport_set_write_buffer_limits),
     set_write_buffer_limits_doc},
    {"close", (PyCFunction)SocketTransport_close, METH_NOARGS, close_doc},
    {"abort", (PyCFunction)SocketTransport_abort, METH_NOARGS, abort_doc},
    {"is_closing", (PyCFunction)SocketTransport_is_closing, METH_NOARGS,
     is_closing_doc},
    {"is_reading", (PyCFunction)SocketTransport_is_reading, METH_NOARGS,
     is_reading_doc},
    {"pause_reading", (PyCFunction)SocketTransport_pause_reading, METH_NOARGS,
     pause_reading_doc},
    {"resume_reading", (PyCFunction)SocketTransport_resume_reading, METH_NOARGS,
     resume_reading_doc},
    {"set_protocol", FAST(SocketTransport_set_protocol), set_protocol_doc},
    {"get_protocol", (PyCFunction)SocketTransport_get_protocol, METH_NOARGS,
     get_protocol_doc},
    {"get_extra_info", FAST(SocketTransport_get_extra_info), get_extra_info_doc},
    {"_force_close", (PyCFunction)SocketTransport__force_close, METH_O, NULL},
    {"_fatal_error", (PyCFunction)SocketTransport__fatal_error, METH_VARARGS, NULL},
    {"_call_connection_lost", (PyCFunction)SocketTransport__call_connection_lost,
     METH_O, NULL},
    {"_read_ready", (PyCFunction)SocketTransport__read_ready, METH_NOARGS, NULL},
    {"_write_ready", (PyCFunction)SocketTransport__write_ready, METH_NOARGS, NULL},
#if PY_VERSION_HEX >= 0x030C0000
    {"_write_sendmsg", (PyCFunction)SocketTransport__write_ready, METH_NOARGS, NULL},
#endif
    {"_start_reading", (PyCFunction)SocketTransport__start_reading, METH_NOARGS, NULL},
    {"_make_empty_waiter", (PyCFunction)SocketTransport__make_empty_waiter, METH_NOARGS,
     NULL},
    {"_reset_empty_waiter", (PyCFunction)SocketTransport__reset_empty_waiter,
     METH_NOARGS, NULL},
    {"_maybe_pause_protocol", (PyCFunction)SocketTransport__maybe_pause_protocol,
     METH_NOARGS, NULL},
    {"_maybe_resume_protocol", (PyCFunction)SocketTransport__maybe_resume_protocol,
     METH_NOARGS, NULL},
    {"_set_write_buffer_limits", FAST(SocketTransport_set_write_buffer_limits), NULL},
    {"_lend", (PyCFunction)SocketTransport__lend, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static char stream_doc[] = PyDoc_STR("The transport of a connected stream socket.");

static PyType_Slot stream_slots[] = {
    {Py_tp_doc, stream_doc},           {Py_tp_dealloc, al_transport_dealloc},
    {Py_tp_finalize, stream_finalize}, {Py_tp_traverse, stream_traverse},
    {Py_tp_clear, stream_clear},       {Py_tp_repr, stream_repr},
    {Py_tp_methods, stream_methods},   {Py_tp_members, stream_members},
    {Py_tp_getset, stream_getsets},    {0, NULL},
};

static PyType_Spec stream_spec = {
    .name = "aioloop._core.SocketTransport",
    .basicsize = sizeof(al_stream),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = stream_slots,
};

/* The class attributes that loop.sendfile, start_tls and curious programs read. */
static int
add_class_attributes(al_state *st)
{
    PyObject *type = (PyObject *)st->SocketTransport_type;
    PyObject *mode = PyObject_GetAttrString(st->asyncio_constants, "_SendfileMode");
    PyObject *native = mode == NULL ? NULL : PyObject_GetAttrString(mode, "TRY_NATIVE");
    PyObject *size = PyLong_FromLong(AL_ARENA_BUFFER);
    int status = -1;
    if (native != NULL && size != NULL &&
        PyObject_SetAttrString(type, "_sendfile_compatible", native) == 0 &&
        PyObject_SetAttrString(type, "_start_tls_compatible", Py_True) == 0 &&
        PyObject_SetAttrString(type, "max_size", size) == 0) {
        status = 0;
    }
    Py_XDECREF(mode);
    Py_XDECREF(native);
    Py_XDECREF(size);
    return status;
}

int
al_stream_init_type(PyObject *module, al_state *st)
{
    st->seen_transports_tag = UINT_MAX; /* No class has that one. */
    bool fits = al_transport_fits(st, st->FlowControlMixin, offsetof(al_stream, sink));
    if (al_state_add_type(module, &st->SocketTransport_type, &stream_spec,
                          fits ? st->FlowControlMixin : NULL) < 0) {
        return -1;
    }
    if (fits && !al_layout_slots_are_hidden((PyTypeObject *)st->FlowControlMixin,
                                            st->SocketTransport_type, "_extra")) {
        al_layout_turn_off(st, AL_LAYOUT_TRANSPORT);
    }
    if (al_trsock_init_type(module, st) < 0 || al_stream_init(st) < 0 ||
        al_write_init(st) < 0 || al_begin_init(st) < 0) {
        return -1;
    }
    return add_class_attributes(st);
}
