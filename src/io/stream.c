/* stream.c: see stream.h.  The descriptor, watching it, reading, errors and the end.
 *
 * Mirrors asyncio.selector_events._SelectorSocketTransport; where its versions differ
 * in what looks like a defect, the newest is followed (writelines pauses the protocol
 * and counts writes after the connection is lost).
 *
 * Three functions touch the watcher's state: al_stream_watch(), and through it start and
 * stop of reading and writing.  Everything that may run Python code takes references
 * first; the caller of a method or a slot always holds one to the stream itself. */
#include "io/stream.h"

#include <limits.h>

#include "core/context.h"
#include "core/debug.h"
#include "core/poll.h"
#include "core/report.h"
#include "io/info.h"
#include "io/sock.h"
#include "io/transport.h"
#include "io/trsock.h"
#include "io/write.h"
#include "task/future.h"

static const char READ_FAILED[] = "Fatal read error on socket transport";

/* --- the descriptor ----------------------------------------------------------------------- */

const int *
al_stream_sock_fd(const al_state *st, PyObject *sock, int fd)
{
    if (!PyObject_TypeCheck(sock, (PyTypeObject *)st->socket_type) ||
        al_layout_is_off(st, AL_LAYOUT_SOCKET)) {
        return NULL;
    }
    if (!Py_IS_TYPE(sock, (PyTypeObject *)st->socket_type)) {
        /* A subclass that does its own I/O means it. */
        static const char *const names[] = {"recv",  "recv_into", "send",     "sendmsg",
                                            "close", "detach",    "shutdown", "fileno"};
        for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
            PyObject *theirs =
                PyObject_GetAttrString((PyObject *)Py_TYPE(sock), names[i]);
            PyObject *plain = PyObject_GetAttrString(st->socket_type, names[i]);
            bool same = theirs == plain;
            PyErr_Clear(); /* A class without the method: not ours. */
            Py_XDECREF(theirs);
            Py_XDECREF(plain);
            if (!same) {
                return NULL;
            }
        }
    }
    /* _socket.socket: PyObject_HEAD, then the descriptor. */
    const int *place =
        (const int *)(const void *)((const char *)sock + sizeof(PyObject));
    return *place == fd ? place : NULL;
}

int
al_stream_sock_proto(PyObject *sock, int *proto)
{
    PyObject *value = PyObject_GetAttrString(sock, "proto");
    long number = value == NULL ? -1 : PyLong_AsLong(value);
    Py_XDECREF(value);
    *proto = (int)number;
    return number == -1 && PyErr_Occurred() ? -1 : 0;
}

/* Closes the descriptor.  Escapes only where there is a socket object.  0 or -1. */
int
al_stream_close_descriptor(al_stream *self)
{
    if (!self->fd_open) {
        return 0;
    }
    self->fd_open = false;
    if (self->loop != NULL) {
        al_look_expect(&self->loop->look);
    }
    al_trsock_part(self->transport_socket);
    if (self->sock == NULL) {
        al_sock_close(self->fd);
        return 0;
    }
    self->sock_fd = NULL;
    PyObject *sock = self->sock;
    self->sock = NULL;
    PyObject *result = PyObject_CallMethod(sock, "close", NULL); /* escapes */
    Py_DECREF(sock);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* The socket object, made now if need be; it owns the descriptor from here on.  New
 * reference; None once the transport is closed. */
PyObject *
al_stream_sock(al_stream *self)
{
    if (!self->fd_open) {
        Py_RETURN_NONE;
    }
    if (self->sock == NULL) {
        const al_state *st = PyType_GetModuleState(Py_TYPE(self));
        int type = SOCK_STREAM;
        if (self->nagle != 0) { /* Whoever gets it may look, and send. */
            self->nagle = 1;
            al_stream_before_send(self, self->fd);
        }
#ifdef SOCK_NONBLOCK
        type |= SOCK_NONBLOCK; /* Python need not ask the kernel, or tell it. */
#endif
        PyObject *sock = PyObject_CallFunction(st->socket_type, "iiii", self->family,
                                               type, self->proto, self->fd);
        if (sock == NULL) {
            return NULL;
        }
#ifndef SOCK_NONBLOCK
        PyObject *result = PyObject_CallMethod(sock, "setblocking", "O", Py_False);
        if (result == NULL) {
            Py_DECREF(sock);
            return NULL;
        }
        Py_DECREF(result);
#endif
        self->sock = sock;
        self->sock_fd = al_stream_sock_fd(st, sock, self->fd);
    }
    return Py_NewRef(self->sock);
}

/* --- watching ------------------------------------------------------------------------------ */

static int stream_readable(al_loop *loop, PyObject *op, PyObject *arg, PyObject *extra);

int
al_stream_ready(al_loop *loop, void *owner, int events)
{
    al_stream *self = owner;
    int status = 0;
    /* al_poll_wait reverses what watchers push: the writer goes in first. */
    if ((events & AL_WRITE) && self->writing) {
        status = al_sched_push_steal(loop, al_write_ready, Py_NewRef((PyObject *)self),
                                     NULL, NULL);
    }
    if ((events & AL_READ) && self->reading &&
        al_sched_push_steal(loop, stream_readable, Py_NewRef((PyObject *)self), NULL,
                            NULL) < 0) {
        status = -1;
    }
    return status;
}

/* Brings the watcher in line with `reading` and `writing`.  Escapes when it stops, for
 * then the loop lets go of us. */
void
al_stream_watch(al_stream *self)
{
    int events = (self->reading ? AL_READ : 0) | (self->writing ? AL_WRITE : 0);
    if (self->io == NULL) {
        return; /* Finalized, or lost. */
    }
    if (self->registered) {
        al_io_modify(self->io, events);
    }
    else {
        /* The number may have stood for another file before. */
        al_io_set(self->io, events);
        self->registered = events != 0;
    }
    al_fds_keep_transport(self->loop, self->fd, (PyObject *)self,
                          self->reading || self->writing);
}

/* Mirrors _SelectorTransport._add_reader.  0 or -1. */
int
al_stream_start_reading(al_stream *self)
{
    if (!al_stream_is_reading(self) || self->loop == NULL) {
        return 0;
    }
    if (self->loop->closed) {
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
        return -1;
    }
    self->reading = true;
    al_stream_watch(self);
    return 0;
}

void
al_stream_stop_reading(al_stream *self)
{
    if (self->reading) {
        self->reading = false;
        al_stream_watch(self);
    }
}

void
al_stream_start_writing(al_stream *self)
{
    if (!self->writing) {
        if (self->write_context != NULL) {
            PyObject *copy = PyContext_Copy(self->write_context);
            if (copy == NULL) {
                PyErr_Clear(); /* No memory: resume_writing shares the context. */
            }
            else {
                Py_SETREF(self->write_context, copy);
            }
        }
        self->writing = true;
        al_stream_watch(self);
    }
}

void
al_stream_stop_writing(al_stream *self)
{
    Py_CLEAR(self->write_context);
    if (self->writing) {
        self->writing = false;
        al_stream_watch(self);
    }
}

/* --- the end of a connection ------------------------------------------------------------------ */

int
al_stream_detach_server(al_stream *self)
{
    PyObject *server = self->server;
    if (server == NULL) {
        return 0;
    }
    self->server = NULL;
    al_state *st = PyType_GetModuleState(Py_TYPE(self));
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *result =
        PyObject_CallMethodOneArg(server, st->str._detach, (PyObject *)self);
#else
    PyObject *result = PyObject_CallMethodNoArgs(server, st->str._detach);
#endif
    Py_DECREF(server);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Frees the watcher and takes the descriptor out of the loop's table. */
void
al_stream_leave_loop(al_stream *self)
{
    al_loop *loop = self->loop;
    self->reading = self->writing = false;
    if (self->io != NULL) {
        al_io_free(self->io);
        self->io = NULL;
    }
    if (loop != NULL && al_fds_transport(&loop->fds, self->fd) == (PyObject *)self) {
        (void)al_fds_set_transport(loop, self->fd, NULL); /* escapes */
    }
}

/* The next exception: `first` if there was one, with the pending one dropped as
 * `finally` drops none: it becomes the context of the later one. */
void
al_stream_chain(PyObject **pending)
{
    if (PyErr_Occurred()) {
        PyObject *later = al_err_take();
        if (*pending != NULL) {
            PyException_SetContext(later, *pending);
        }
        *pending = later;
    }
}

/* Mirrors _SelectorTransport._call_connection_lost, which see for the order.  0 or -1
 * with the exception of the protocol. */
int
al_stream_call_lost(al_stream *self, PyObject *exc)
{
    if (self->loop == NULL) {
        return 0;
    }
    al_state *st = self->loop->st;
    PyObject *pending = NULL;
    if (self->protocol_connected && self->protocol != NULL) {
        (void)self->sink->lost(self, exc); /* escapes */
        al_stream_chain(&pending);
    }
    al_info_keep_sockname(self);
    al_stream_leave_loop(self);
    (void)al_stream_close_descriptor(self); /* escapes */
    al_stream_chain(&pending);
    PyObject *protocol = self->protocol, *loop = (PyObject *)self->loop;
    self->protocol = NULL;
    self->loop = NULL;
    Py_CLEAR(self->read_context);
    Py_CLEAR(self->write_context);
    Py_XDECREF(protocol);                /* escapes */
    (void)al_stream_detach_server(self); /* escapes */
    al_stream_chain(&pending);
    if (self->empty_waiter != NULL) {
        PyObject *gone = PyObject_CallFunction(PyExc_ConnectionError, "s",
                                               "Connection is closed by peer");
        if (gone != NULL) {
            (void)al_future_settle(st, self->empty_waiter, st->str.set_exception, gone);
            Py_DECREF(gone);
        }
        al_stream_chain(&pending);
    }
    Py_XDECREF(loop); /* escapes */
    if (pending != NULL) {
        al_err_put_steal(pending);
        return -1;
    }
    return 0;
}

/* A slot: connection_lost(arg or None) in context `extra`. */
static int
stream_lost(al_loop *loop, PyObject *op, PyObject *arg, PyObject *extra)
{
    al_stream *self = (al_stream *)op;
    PyObject *exc = arg == NULL ? Py_None : arg;
    PyObject *context = Py_XNewRef(extra), *entered;
    int status = al_context_enter(loop, &context, &entered);
    if (status == 0) {
        status = al_stream_call_lost(self, exc); /* escapes */
        if (al_context_leave(loop, &context, entered) < 0) {
            status = -1;
        }
    }
    Py_XDECREF(context);
    return status == 0
               ? 0
               : al_report_method(loop, op, loop->st->str._call_connection_lost, exc);
}

/* Queues connection_lost(exc); exc may be NULL.  0 or -1. */
static int
queue_lost(al_stream *self, PyObject *exc)
{
    al_loop *loop = self->loop;
    al_state *st = loop->st;
    self->conn_lost++;
    if (AL_LIKELY(al_loop_direct(loop))) {
        PyObject *context = Py_XNewRef(self->context);
        if (context == NULL && al_context_capture(&context) < 0) {
            return -1;
        }
        loop->debug.frames_above += AL_DEBUG_METHOD_FRAMES; /* asyncio's close() */
        int status = al_sched_push_steal(loop, stream_lost, Py_NewRef((PyObject *)self),
                                         Py_XNewRef(exc), context);
        loop->debug.frames_above -= AL_DEBUG_METHOD_FRAMES;
        return status;
    }
    PyObject *callback =
        PyObject_GetAttr((PyObject *)self, st->str._call_connection_lost);
    if (callback == NULL) {
        return -1;
    }
    int status =
        al_sched_call_soon(st, (PyObject *)loop, callback, exc == NULL ? Py_None : exc,
                           self->context); /* escapes */
    Py_DECREF(callback);
    return status;
}

/* Mirrors _SelectorTransport._force_close.  exc may be NULL. */
int
al_stream_force_close(al_stream *self, PyObject *exc)
{
    if (self->conn_lost > 0 || self->loop == NULL) {
        return 0;
    }
    al_outbuf_clear(&self->out);
    self->closing = true;
    self->reading = false;
    al_stream_stop_writing(self);
    al_stream_watch(self); /* escapes */
    return queue_lost(self, exc);
}

/* --- errors ------------------------------------------------------------------------------------ */

int
al_stream_log(al_state *st, const char *format, al_stream *self, const char *argument,
              PyObject *exc)
{
    int status = -1;
    PyObject *result = NULL, *positional = NULL, *keywords = NULL, *method = NULL;
    PyObject *logger = PyObject_GetAttr(st->base_events, st->str.logger);
    if (logger != NULL) {
        method = PyObject_GetAttr(logger, st->str.debug);
    }
    positional = argument == NULL ? Py_BuildValue("(sO)", format, self)
                                  : Py_BuildValue("(sOs)", format, self, argument);
    keywords = exc == NULL ? NULL : Py_BuildValue("{s:O}", "exc_info", exc);
    if (method != NULL && positional != NULL && (exc == NULL || keywords != NULL)) {
        result = PyObject_Call(method, positional, keywords); /* escapes */
        status = result == NULL ? -1 : 0;
    }
    Py_XDECREF(result);
    Py_XDECREF(positional);
    Py_XDECREF(keywords);
    Py_XDECREF(method);
    Py_XDECREF(logger);
    return status;
}

/* Mirrors _SelectorTransport._fatal_error. */
int
al_stream_fatal_error(al_stream *self, PyObject *exc, PyObject *message)
{
    al_loop *loop = self->loop;
    int status = 0;
    if (loop == NULL) {
        return 0;
    }
    al_state *st = loop->st;
    Py_INCREF(loop);
    /* What was written before it happened.  Should that fail, this is the second error. */
    PyObject *leaving = al_write_flush(self) < 0 ? al_err_take() : NULL; /* escapes */
    if (PyObject_TypeCheck(exc, (PyTypeObject *)PyExc_OSError)) {
        if (loop->debug.switches & AL_DEBUG_FDS) {
            const char *text = PyUnicode_AsUTF8(message);
            status = text == NULL ? -1 : al_stream_log(st, "%r: %s", self, text, exc);
        }
    }
    else {
        status = al_report_context(
            st, (PyObject *)loop, Py_NewRef(message), "exception", exc, "transport",
            (PyObject *)self, "protocol",
            self->protocol == NULL ? Py_None : self->protocol, NULL); /* escapes */
    }
    if (status == 0) {
        status = al_stream_force_close(self, exc); /* escapes */
    }
    Py_DECREF(loop);
    if (leaving != NULL) {
        al_stream_chain(&leaving);
        al_err_put_steal(leaving);
        status = -1;
    }
    return status;
}

int
al_stream_fatal(al_stream *self, const char *message)
{
    if (al_report_must_leave()) {
        return -1;
    }
    al_except block;
    al_except_enter(&block);
    PyObject *text = PyUnicode_FromString(message);
    int status =
        text == NULL ? -1 : al_stream_fatal_error(self, block.exc, text); /* escapes */
    Py_XDECREF(text);
    al_except_leave(&block);
    return status;
}

/* --- reading ------------------------------------------------------------------------------------- */

char *
al_stream_buffer(al_stream *self)
{
    return al_arena_buffer(&self->loop->arena);
}

/* Mirrors _read_ready__on_eof. */
static int
received_eof(al_stream *self)
{
    bool keep_open;
    self->ended = true;
    if ((self->loop->debug.switches & AL_DEBUG_FDS) &&
        al_stream_log(self->loop->st, "%r received EOF", self, NULL, NULL) < 0) {
        return -1;
    }
    if (self->sink->eof(self, &keep_open) < 0) { /* escapes */
        return -1;
    }
    if (!keep_open) {
        return al_stream_close(self);
    }
    if (self->loop != NULL) {
        al_stream_stop_reading(self);
    }
    return 0;
}

/* `inline` is for link-time optimization. */
inline ssize_t
al_stream_receive(al_stream *self, void *buffer, size_t size, int *status)
{
    *status = 0;
    int fd = al_stream_descriptor(self);
    ssize_t n = -1;
    errno = EBADF;
    if (AL_LIKELY(fd >= 0)) {
        n = al_count(&self->loop->counts.bytes_in,
                     al_sock_recv_stream(self->loop, fd, buffer, size));
    }
    if (AL_LIKELY(n > 0)) {
        self->last_read = (uint32_t)(n < INT_MAX ? n : INT_MAX);
        return n;
    }
    if (n == 0) {
        *status = received_eof(self);
    }
    else if (!al_sock_again(errno)) {
        (void)al_sock_raise(errno);
        *status = al_stream_fatal(self, READ_FAILED);
    }
    return 0;
}

/* A slot: the descriptor is readable.  Leaves its context entered for the next one. */
static int
stream_readable(al_loop *loop, PyObject *op, PyObject *Py_UNUSED(arg),
                PyObject *Py_UNUSED(extra))
{
    al_stream *self = (al_stream *)op;
    if (!self->reading || self->conn_lost > 0) {
        return 0;
    }
    if (AL_UNLIKELY(al_stream_descriptor(self) < 0)) {
        /* Somebody closed the socket object: like asyncio's selector, hear no more. */
        al_sched_settle(loop);
        al_stream_stop_reading(self);
        return 0;
    }
    PyObject **place = al_stream_context_place(self, &self->read_context);
    bool lent = *place == NULL;
    PyObject *entered = al_context_enter_idle(loop, *place);
    if (AL_UNLIKELY(entered == NULL && !lent)) {
        entered = al_context_enter_copy(*place);
    }
    if (AL_UNLIKELY(entered == NULL)) {
        return al_stream_fatal(self, READ_FAILED);
    }
    int status = self->sink->readable(self); /* escapes */
    bool spare = lent && al_context_unused(entered, 2);
    if (AL_UNLIKELY(lent && !spare && *place == NULL)) {
        /* The protocol set variables in it, or somebody holds it. */
        *place = Py_NewRef(entered);
    }
    if (AL_UNLIKELY(al_context_leave_idle_steal(loop, PyThreadState_Get(), entered,
                                                spare, false) < 0)) {
        status = -1;
    }
    if (self->dirty) {
        /* An answer at once: the kernel's memory of what was received is warm. */
        loop->cork.hot = true;
    }
    al_stream_check(self);
    return status;
}

int
al_stream_close(al_stream *self)
{
    if (al_write_flush(self) < 0) { /* escapes */
        return -1;
    }
    if (self->closing || self->loop == NULL) {
        return 0;
    }
    self->closing = true;
    al_stream_stop_reading(self); /* escapes */
    if (self->out.size == 0 && self->conn_lost == 0) {
        al_stream_stop_writing(self);
        return queue_lost(self, NULL); /* escapes */
    }
    return 0;
}

static PyObject *
protocol_of(PyObject *stream)
{
    return ((al_stream *)stream)->protocol;
}

int
al_stream_init(al_state *st)
{
    st->stream_readable = stream_readable;
    st->stream_protocol = protocol_of;
    return al_debug_describe_method(st, stream_readable, "_read_ready", false, 2) < 0 ||
                   al_debug_describe_method(st, stream_lost, "_call_connection_lost",
                                            true, 1) < 0
               ? -1
               : 0;
}

PyObject *
al_stream_read_soon(al_stream *self)
{
    return al_transport_soon(self->loop, (PyObject *)self, stream_readable);
}
