/* begin.c: see begin.h. */
#include "io/begin.h"

#include <string.h>

#include "core/context.h"
#include "core/debug.h"
#include "core/report.h"
#include "io/info.h"
#include "io/protocol.h"
#include "io/sock.h"
#include "io/transport.h"
#include "io/write.h"
#include "task/future.h"

/* start_tls put TLS over a paused protocol, `below`: TLS has to know of the pause, and so
 * that it tells the protocol above it to resume, if that is the one.  asyncio does
 * neither (gh-109051): tests/hostile/test_stream_faults.  0 or -1. */
static int
hand_pause_over(al_stream *self, PyObject *protocol, PyObject *below)
{
    PyObject *above = PyObject_GetAttrString(protocol, "_app_protocol");
    int status = above == NULL ? -1 : 0;
    if (status == 0 && above == below) {
        status = PyObject_SetAttrString(protocol, "_app_writing_paused", Py_True);
    }
    Py_XDECREF(above);
    return status < 0 ? -1 : self->sink->pause(self); /* escapes */
}

int
al_stream_set_protocol(al_stream *self, PyObject *protocol)
{
    al_state *st = PyType_GetModuleState(Py_TYPE(self));
    const al_sink *sink =
        al_protocol_sink(st, self->loop, protocol, (PyObject *)self); /* escapes */
    if (sink == NULL) {
        return -1;
    }
    PyObject *old = self->protocol;
    self->protocol = Py_NewRef(protocol);
    self->sink = sink;
    self->protocol_connected = true;
    int status = 0;
    if (AL_UNLIKELY(self->flow.paused) && self->loop != NULL &&
        PyObject_TypeCheck(protocol, (PyTypeObject *)st->SSLProtocol)) {
        status = hand_pause_over(self, protocol, old); /* escapes */
    }
    Py_XDECREF(old); /* escapes */
    return status;
}

static al_stream *
stream_alloc(al_loop *loop, int fd)
{
    al_stream *self = PyObject_GC_New(al_stream, loop->st->SocketTransport_type);
    if (self == NULL) {
        return NULL;
    }
    memset((char *)self + sizeof(PyObject), 0, sizeof(*self) - sizeof(PyObject));
    al_outbuf_init(&self->out);
    al_flow_init(&self->flow);
    self->fd = fd;
    self->loop = (al_loop *)Py_NewRef((PyObject *)loop);
    PyObject_GC_Track(self);
    self->io = al_io_new(loop->poll, fd, al_stream_ready, self);
    if (self->io == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}

int
al_stream_begin_run(al_loop *loop, PyObject *op, PyObject *arg, PyObject *extra)
{
    PyObject *context = Py_XNewRef(extra);
    int status = al_stream_begin(loop, (al_stream *)op, arg, &context);
    Py_XDECREF(context);
    return status;
}

/* The second half of al_stream_begin_run, where connection_made was a Handle. */
static int
stream_made(al_loop *loop, PyObject *op, PyObject *arg, PyObject *Py_UNUSED(extra))
{
    al_stream *self = (al_stream *)op;
    if (al_stream_start_reading(self) < 0) {
        return -1;
    }
    if (arg == NULL) {
        return 0;
    }
    if (al_future_settle(loop->st, arg, loop->st->str.set_result, Py_None) <
        0) { /* escapes */
        return al_report_method(loop, arg, loop->st->str.set_result, Py_None);
    }
    return 0;
}

int
al_stream_begin(al_loop *loop, al_stream *self, PyObject *waiter, PyObject **context)
{
    al_state *st = loop->st;
    PyObject *entered, *pending = NULL;
    PyObject **place = al_stream_context_place(self, context);
    PyObject *protocol = Py_XNewRef(self->protocol);
    int status = self->loop == NULL ? 0 : al_context_enter(loop, place, &entered);
    if (status == 0 && self->loop != NULL) {
        status = self->sink->connected(self); /* escapes */
        if (al_context_leave(loop, place, entered) < 0) {
            status = -1;
        }
    }
    if (AL_UNLIKELY(status < 0) &&
        al_report_method(loop, protocol, st->str.connection_made, (PyObject *)self) <
            0) {
        pending = al_err_take();
    }
    Py_XDECREF(protocol);
    status = stream_made(loop, (PyObject *)self, waiter, NULL); /* escapes */
    if (AL_UNLIKELY(pending != NULL)) {
        al_stream_chain(&pending);
        al_err_put_steal(pending);
        return -1;
    }
    return status;
}

int
al_stream_queue_begin(al_loop *loop, al_stream *self, PyObject *waiter,
                      PyObject *context)
{
    al_state *st = loop->st;
    PyObject *made = PyObject_GetAttr(self->protocol, st->str.connection_made);
    if (made == NULL) {
        return -1;
    }
    int status = al_sched_call_soon(
        st, (PyObject *)loop, made, (PyObject *)self,
        self->context != NULL ? self->context : context); /* escapes */
    Py_DECREF(made);
    return status < 0
               ? -1
               : al_sched_push_steal(loop, stream_made, Py_NewRef((PyObject *)self),
                                     Py_XNewRef(waiter), NULL);
}

/* Debug mode's check of the call_soon(protocol.connection_made) that a slot stands for. */
static int
check_made(al_loop *loop, PyObject *protocol)
{
    if (AL_LIKELY((loop->debug.switches & AL_DEBUG_CALLBACKS) == 0)) {
        return 0;
    }
    PyObject *made = PyObject_GetAttr(protocol, loop->st->str.connection_made);
    int status = made == NULL
                     ? -1
                     : al_debug_check_callback(loop, made, "call_soon"); /* escapes */
    Py_XDECREF(made);
    return status;
}

int
al_stream_adopt(al_stream *self, PyObject *protocol, PyObject *server)
{
    if (al_stream_set_protocol(self, protocol) < 0) { /* escapes */
        return -1;
    }
    if (server != NULL && server != Py_None) {
        al_state *st = self->loop->st;
#if PY_VERSION_HEX >= 0x030D0000
        PyObject *result =
            PyObject_CallMethodOneArg(server, st->str._attach, (PyObject *)self);
#else
        PyObject *result = PyObject_CallMethodNoArgs(server, st->str._attach);
#endif
        if (result == NULL) {
            return -1;
        }
        Py_DECREF(result);
        self->server = Py_NewRef(server);
    }
    if (al_transport_takes_number(self->loop, self->fd) < 0 || /* escapes */
        al_fds_set_transport(self->loop, self->fd, (PyObject *)self) < 0 ||
        al_transport_made(self->loop, (PyObject *)self) < 0) {
        return -1;
    }
    return check_made(self->loop, protocol);
}

/* Stores what the socket module says of a socket of a family that we do not know; nothing
 * for an OSError.  0 or -1. */
static int
ask_name(PyObject **name, PyObject *sock, const char *method)
{
    *name = PyObject_CallMethod(sock, method, NULL);
    if (*name == NULL && !PyErr_ExceptionMatches(PyExc_OSError)) {
        return -1;
    }
    PyErr_Clear(); /* OSError: there is no such name. */
    return 0;
}

/* The addresses of a stream that has a socket object. */
static int
find_names(al_stream *self)
{
    al_addr addr;
    if (al_addr_of_socket(self->fd, &addr) < 0) {
        return 0;
    }
    self->family = (short)addr.as.any.sa_family;
    if (!al_addr_known(self->family)) {
        return ask_name(&self->sockname, self->sock, "getsockname") < 0
                   ? -1
                   : ask_name(&self->peername, self->sock, "getpeername");
    }
    if (al_info_remember(&self->sockname_raw, &self->sockname, &addr) < 0) {
        return -1;
    }
    return al_addr_of_peer(self->fd, &addr) < 0
               ? 0
               : al_info_remember(&self->peername_raw, &self->peername, &addr);
}

PyObject *
al_stream_new(al_loop *loop, PyObject *sock, int fd, PyObject *protocol,
              PyObject *waiter, PyObject *extra, PyObject *server, PyObject *context)
{
    al_state *st = loop->st;
    al_stream *self = stream_alloc(loop, fd);
    int proto;
    if (self == NULL) {
        return NULL;
    }
    if (waiter == Py_None) {
        waiter = NULL;
    }
    self->sock = Py_NewRef(sock);
    self->sock_fd = al_stream_sock_fd(st, sock, fd);
    self->fd_open = true;
    if (extra != NULL && extra != Py_None) {
        if (!PyDict_Check(extra)) {
            PyErr_SetString(PyExc_TypeError, "extra must be a dict");
            goto error;
        }
        self->extra = Py_NewRef(extra);
    }
    if (find_names(self) < 0) {
        goto error;
    }
    if (al_stream_sock_proto(sock, &proto) < 0) {
        goto error;
    }
    self->proto = (short)proto;
    al_sock_set_nodelay(fd, self->family, proto);
    if (context != NULL && context != Py_None) {
        self->context = Py_NewRef(context);
    }
    else if (al_context_capture(&self->read_context) < 0) {
        goto error;
    }
    if (al_stream_adopt(self, protocol, server) < 0) { /* escapes */
        goto error;
    }
    if (AL_LIKELY(al_loop_direct(loop))) {
        PyObject *copy = NULL;
        if (al_context_capture(&copy) < 0 ||
            al_sched_push_steal(loop, al_stream_begin_run, Py_NewRef((PyObject *)self),
                                Py_XNewRef(waiter), copy) < 0) {
            goto error;
        }
    }
    else if (al_stream_queue_begin(loop, self, waiter, NULL) < 0) { /* escapes */
        goto error;
    }
    return (PyObject *)self;

error:
    /* The caller still has the socket, and closes it. */
    self->fd_open = false;
    Py_DECREF(self);
    return NULL;
}

al_stream *
al_stream_accepted(al_loop *loop, int fd, const al_addr *peer, int family, int proto)
{
    al_stream *self = stream_alloc(loop, fd);
    if (self == NULL) {
        al_sock_close(fd);
        return NULL;
    }
    self->fd_open = true;
    self->family = (short)family;
    self->proto = (short)proto;
    if (al_info_remember(&self->peername_raw, &self->peername, peer) < 0) {
        al_stream_discard(self);
        Py_DECREF(self);
        return NULL;
    }
    return self;
}

void
al_stream_discard(al_stream *self)
{
    PyObject *pending = PyErr_Occurred() ? al_err_take() : NULL;
    self->conn_lost++;
    self->closing = true;
    al_stream_leave_loop(self);
    if (al_stream_close_descriptor(self) < 0 ||
        al_stream_detach_server(self) < 0) { /* escapes */
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_CLEAR(self->protocol);
    Py_CLEAR(self->loop);
    if (pending != NULL) {
        al_err_put_steal(pending);
    }
}

/* What asyncio's first Handle for a transport holds (an al_describe_fn). */
static int
describe_begin(al_loop *loop, const al_slot *slot, PyObject **callback, PyObject **args,
               PyObject **Py_UNUSED(context))
{
    const al_stream *self = (al_stream *)slot->self;
    PyObject *protocol = Py_NewRef(self->protocol == NULL ? Py_None : self->protocol);
    *args = PyTuple_Pack(1, slot->self);
    *callback =
        *args == NULL
            ? NULL
            : PyObject_GetAttr(protocol, loop->st->str.connection_made); /* escapes */
    Py_DECREF(protocol);
    if (*callback == NULL) {
        Py_CLEAR(*args);
        return -1;
    }
    return 0;
}

int
al_begin_init(al_state *st)
{
    return al_debug_describe(st, al_stream_begin_run, describe_begin, 0);
}
