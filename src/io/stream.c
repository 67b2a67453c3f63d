/* stream.c: see stream.h.
 *
 * Mirrors asyncio.selector_events._SelectorSocketTransport; where its versions differ
 * in what looks like a defect, the newest is followed (writelines pauses the protocol
 * and counts writes after the connection is lost).
 *
 * Three functions touch the watcher's state: watch(), and through it start and stop of
 * reading and writing.  Everything that may run Python code takes references first; the
 * caller of a method or a slot always holds one to the stream itself. */
#include "io/stream.h"

#include <limits.h>
#include <string.h>

#include "base/args.h"
#include "core/context.h"
#include "core/debug.h"
#include "core/poll.h"
#include "core/report.h"
#include "io/protocol.h"
#include "io/sock.h"
#include "io/transport.h"
#include "task/future.h"

enum {
    CORK_PIECES = 64,       /* so many pieces are sent without waiting */
    CORK_LARGE = 4 * 1024,  /* more is sent when the slot ends, from warm caches */
    CORK_COPY = 16 * 1024,  /* a larger mutable buffer is sent, not copied */
    JOINED_SIZE = 4 * 1024, /* so much in several pieces is copied together */
    VECTORS = 64,           /* of one system call */
    LOG_THRESHOLD_FOR_CONNLOST_WRITES = 5, /* as in asyncio.constants */
};

static const char WRITE_FAILED[] = "Fatal write error on socket transport";
static const char READ_FAILED[] = "Fatal read error on socket transport";

/* --- the descriptor ----------------------------------------------------------------------- */

const int *
al_stream_sock_fd(const al_state *st, PyObject *sock, int fd)
{
    if (!PyObject_TypeCheck(sock, (PyTypeObject *)st->socket_type)) {
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

/* The descriptor for a system call; -1 (EBADF) once somebody has closed the socket
 * object: the number may be somebody else's by now. */
static inline int
descriptor(const al_stream *self)
{
    return !self->fd_open || (self->sock_fd != NULL && *self->sock_fd != self->fd)
               ? -1
               : self->fd;
}

/* Closes the descriptor.  Escapes only where there is a socket object.  0 or -1. */
static int
close_descriptor(al_stream *self)
{
    if (!self->fd_open) {
        return 0;
    }
    self->fd_open = false;
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
static PyObject *
get_sock(al_stream *self)
{
    if (!self->fd_open) {
        Py_RETURN_NONE;
    }
    if (self->sock == NULL) {
        const al_state *st = PyType_GetModuleState(Py_TYPE(self));
        int type = SOCK_STREAM;
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

static void
name_set(al_name *name, const al_addr *addr)
{
    if (addr->length <= sizeof(name->bytes)) {
        name->length = (unsigned char)addr->length;
        memcpy(name->bytes, &addr->as, addr->length);
    }
}

static PyObject *
name_object(const al_name *name)
{
    al_addr addr;
    addr.length = name->length;
    memcpy(&addr.as, name->bytes, name->length);
    return al_addr_object(&addr);
}

/* Remembers an address: in short form, or as an object where that is too short. */
static int
remember(al_name *name, PyObject **object, const al_addr *addr)
{
    name_set(name, addr);
    if (name->length == 0 && addr->length > 0) {
        *object = al_addr_object(addr);
        return *object == NULL ? -1 : 0;
    }
    return 0;
}

/* --- watching ------------------------------------------------------------------------------ */

static int stream_readable(al_loop *loop, PyObject *op, PyObject *arg, PyObject *extra);
static int stream_writable(al_loop *loop, PyObject *op, PyObject *arg, PyObject *extra);

static int
stream_ready(al_loop *loop, void *owner, int events)
{
    al_stream *self = owner;
    int status = 0;
    /* al_poll_wait reverses what watchers push: the writer goes in first. */
    if ((events & AL_WRITE) && self->writing) {
        status = al_sched_push_steal(loop, stream_writable, Py_NewRef((PyObject *)self),
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
static void
watch(al_stream *self)
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

static bool
is_reading(const al_stream *self)
{
    return !self->closing && !self->paused;
}

/* Mirrors _SelectorTransport._add_reader.  0 or -1. */
static int
start_reading(al_stream *self)
{
    if (!is_reading(self) || self->loop == NULL) {
        return 0;
    }
    if (self->loop->closed) {
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
        return -1;
    }
    self->reading = true;
    watch(self);
    return 0;
}

static void
stop_reading(al_stream *self)
{
    if (self->reading) {
        self->reading = false;
        watch(self);
    }
}

static void
start_writing(al_stream *self)
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
        watch(self);
    }
}

static void
stop_writing(al_stream *self)
{
    Py_CLEAR(self->write_context);
    if (self->writing) {
        self->writing = false;
        watch(self);
    }
}

/* Where the context of a kind of callback is kept. */
static PyObject **
context_place(al_stream *self, PyObject **own)
{
    return self->context != NULL ? &self->context : own;
}

/* --- the end of a connection ------------------------------------------------------------------ */

/* waiter.<method>(value) unless it is done. */
static int
settle(al_state *st, PyObject *waiter, PyObject *method, PyObject *value)
{
    if (al_future_exact(st, waiter) && method == st->str.set_result) {
        return ((al_future *)waiter)->state != AL_FUTURE_PENDING
                   ? 0
                   : al_future_set_result((al_future *)waiter, value); /* escapes */
    }
    PyObject *done = PyObject_CallMethodNoArgs(waiter, st->str.done); /* escapes */
    int skip = done == NULL ? -1 : PyObject_IsTrue(done);
    Py_XDECREF(done);
    if (skip != 0) {
        return skip < 0 ? -1 : 0;
    }
    PyObject *result = PyObject_CallMethodOneArg(waiter, method, value); /* escapes */
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static int
detach_server(al_stream *self)
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
static void
leave_loop(al_stream *self)
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
static void
chain(PyObject **pending)
{
    if (PyErr_Occurred()) {
        PyObject *later = al_err_take();
        if (*pending != NULL) {
            PyException_SetContext(later, *pending);
        }
        *pending = later;
    }
}

/* What get_extra_info says of the socket stays available. */
static void
keep_sockname(al_stream *self)
{
    al_addr addr;
    int fd = descriptor(self);
    if (self->sockname == NULL && self->sockname_raw.length == 0 && fd >= 0 &&
        al_addr_of_socket(fd, &addr) == 0 && al_addr_known(addr.as.any.sa_family)) {
        if (remember(&self->sockname_raw, &self->sockname, &addr) < 0) {
            PyErr_Clear(); /* get_extra_info will say None. */
        }
    }
}

/* Mirrors _SelectorTransport._call_connection_lost, which see for the order.  0 or -1
 * with the exception of the protocol. */
static int
call_connection_lost(al_stream *self, PyObject *exc)
{
    if (self->loop == NULL) {
        return 0;
    }
    al_state *st = self->loop->st;
    PyObject *pending = NULL;
    if (self->protocol_connected && self->protocol != NULL) {
        (void)self->sink->lost(self, exc); /* escapes */
        chain(&pending);
    }
    keep_sockname(self);
    leave_loop(self);
    (void)close_descriptor(self); /* escapes */
    chain(&pending);
    PyObject *protocol = self->protocol, *loop = (PyObject *)self->loop;
    self->protocol = NULL;
    self->loop = NULL;
    Py_CLEAR(self->read_context);
    Py_CLEAR(self->write_context);
    Py_XDECREF(protocol);      /* escapes */
    (void)detach_server(self); /* escapes */
    chain(&pending);
    if (self->empty_waiter != NULL) {
        PyObject *gone = PyObject_CallFunction(PyExc_ConnectionError, "s",
                                               "Connection is closed by peer");
        if (gone != NULL) {
            (void)settle(st, self->empty_waiter, st->str.set_exception, gone);
            Py_DECREF(gone);
        }
        chain(&pending);
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
        status = call_connection_lost(self, exc); /* escapes */
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
        loop->frames_above += AL_DEBUG_METHOD_FRAMES; /* asyncio's close() */
        int status = al_sched_push_steal(loop, stream_lost, Py_NewRef((PyObject *)self),
                                         Py_XNewRef(exc), context);
        loop->frames_above -= AL_DEBUG_METHOD_FRAMES;
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
static int
force_close(al_stream *self, PyObject *exc)
{
    if (self->conn_lost > 0 || self->loop == NULL) {
        return 0;
    }
    al_outbuf_clear(&self->out);
    self->closing = true;
    self->reading = false;
    stop_writing(self);
    watch(self); /* escapes */
    return queue_lost(self, exc);
}

/* --- errors ------------------------------------------------------------------------------------ */

static int
log_debug(al_state *st, const char *format, al_stream *self, const char *argument,
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
static int
fatal_error(al_stream *self, PyObject *exc, PyObject *message)
{
    al_loop *loop = self->loop;
    int status = 0;
    if (loop == NULL) {
        return 0;
    }
    al_state *st = loop->st;
    Py_INCREF(loop);
    if (PyObject_TypeCheck(exc, (PyTypeObject *)PyExc_OSError)) {
        if (loop->debug) {
            const char *text = PyUnicode_AsUTF8(message);
            status = text == NULL ? -1 : log_debug(st, "%r: %s", self, text, exc);
        }
    }
    else {
        status = al_report_context(
            st, (PyObject *)loop, Py_NewRef(message), "exception", exc, "transport",
            (PyObject *)self, "protocol",
            self->protocol == NULL ? Py_None : self->protocol, NULL); /* escapes */
    }
    if (status == 0) {
        status = force_close(self, exc); /* escapes */
    }
    Py_DECREF(loop);
    return status;
}

int
al_stream_fatal(al_stream *self, const char *message)
{
    if (al_report_must_leave()) {
        return -1;
    }
    PyObject *exc = al_err_take();
    PyObject *text = PyUnicode_FromString(message);
    int status = text == NULL ? -1 : fatal_error(self, exc, text);
    Py_XDECREF(text);
    Py_DECREF(exc);
    return status;
}

/* --- reading ------------------------------------------------------------------------------------- */

char *
al_stream_buffer(al_stream *self)
{
    al_loop *loop = self->loop;
    if (AL_UNLIKELY(loop->receive_buffer == NULL)) {
        loop->receive_buffer = PyMem_Malloc(AL_RECEIVE_SIZE);
        if (loop->receive_buffer == NULL) {
            PyErr_NoMemory();
        }
    }
    return loop->receive_buffer;
}

static int stream_close(al_stream *self);

/* Mirrors _read_ready__on_eof. */
static int
received_eof(al_stream *self)
{
    bool keep_open;
    if (self->loop->debug &&
        log_debug(self->loop->st, "%r received EOF", self, NULL, NULL) < 0) {
        return -1;
    }
    if (self->sink->eof(self, &keep_open) < 0) { /* escapes */
        return -1;
    }
    if (!keep_open) {
        return stream_close(self);
    }
    if (self->loop != NULL) {
        stop_reading(self);
    }
    return 0;
}

ssize_t
al_stream_receive(al_stream *self, void *buffer, size_t size, int *status)
{
    *status = 0;
    int fd = descriptor(self);
    ssize_t n = -1;
    errno = EBADF;
    if (AL_LIKELY(fd >= 0)) {
        n = al_sock_recv_stream(fd, buffer, size);
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

/* Whatever is to be sent has somebody who will send it, and only what is wanted is
 * watched: else data or a wake-up would be lost. */
static inline void
check(const al_stream *self)
{
    AL_ASSERT(self->out.size == 0 || self->writing || self->dirty ||
              self->conn_lost > 0 || self->loop == NULL || descriptor(self) < 0);
    AL_ASSERT(!self->writing || self->out.size > 0);
    AL_ASSERT(!self->reading || is_reading(self));
    (void)self;
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
    if (AL_UNLIKELY(descriptor(self) < 0)) {
        /* Somebody closed the socket object: like asyncio's selector, hear no more. */
        al_sched_settle(loop);
        stop_reading(self);
        return 0;
    }
    PyObject **place = context_place(self, &self->read_context);
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
        loop->dirty_hot = true;
    }
    check(self);
    return status;
}

/* --- flow control -------------------------------------------------------------------------------- */

static int
maybe_pause(al_stream *self)
{
    if (self->out.size <= self->flow.high || self->flow.paused ||
        self->protocol == NULL) {
        return 0;
    }
    self->flow.paused = true;
    return self->sink->pause(self); /* escapes */
}

static int
maybe_resume(al_stream *self)
{
    if (!self->flow.paused || self->out.size > self->flow.low ||
        self->protocol == NULL) {
        return 0;
    }
    self->flow.paused = false;
    return self->sink->resume(self); /* escapes */
}

/* --- writing ------------------------------------------------------------------------------------- */

/* One system call for what is queued, or the front of it: *offered bytes.  Its result.
 * Small pieces are copied together: that costs less than the kernel's handling of a
 * vector. */
static ssize_t
send_some(al_stream *self, size_t *offered)
{
    int fd = descriptor(self);
    if (fd < 0) {
        errno = EBADF;
        return -1;
    }
    if (self->out.count > 1 && self->out.size <= JOINED_SIZE) {
        char joined[JOINED_SIZE];
        al_outbuf_copy(&self->out, joined);
        *offered = self->out.size;
        return al_sock_send_stream(fd, joined, self->out.size);
    }
    struct iovec vectors[VECTORS];
    int count = al_outbuf_vectors(&self->out, vectors, VECTORS);
    *offered = vectors[0].iov_len;
    if (count == 1) {
        return al_sock_send_stream(fd, vectors[0].iov_base, vectors[0].iov_len);
    }
    for (int i = 1; i < count; i++) {
        *offered += vectors[i].iov_len;
    }
    return al_sock_sendv_stream(fd, vectors, count);
}

/* Sends from the queue until it is empty or the kernel takes no more.  0; 1 after an
 * error, with an exception. */
static int
send_queued(al_stream *self)
{
    while (self->out.size > 0) {
        size_t offered;
        ssize_t n = send_some(self, &offered);
        if (n < 0) {
            if (al_sock_again(errno)) {
                return 0;
            }
            (void)al_sock_raise(errno);
            return 1;
        }
        al_outbuf_drop(&self->out, (size_t)n);
        if ((size_t)n < offered) {
            return 0;
        }
    }
    return 0;
}

/* The queue is empty: close() and write_eof() may have waited for that. */
static int
after_drain(al_stream *self)
{
    if (self->empty_waiter != NULL && self->loop != NULL) {
        al_state *st = self->loop->st;
        PyObject *waiter = Py_NewRef(self->empty_waiter);
        int status = settle(st, waiter, st->str.set_result, Py_None); /* escapes */
        Py_DECREF(waiter);
        if (status < 0) {
            return -1;
        }
    }
    if (self->closing) {
        if (self->conn_lost == 0 && self->loop != NULL) {
            self->conn_lost++;
            return call_connection_lost(self, Py_None); /* escapes */
        }
    }
    else if (self->eof) {
        int fd = descriptor(self);
        errno = EBADF;
        if (fd < 0 || al_sock_shutdown_write(fd) < 0) {
            (void)al_sock_raise(errno);
            return -1;
        }
    }
    return 0;
}

/* What is left to do of a flush, and may run Python code. */
enum flushed { FLUSHED, FLUSH_FAILED, FLUSHED_ALL_OF_CLOSING };

/* The part of a flush that needs no context.  With FLUSH_FAILED an exception is
 * pending. */
static enum flushed
send_corked(al_stream *self)
{
    if (self->out.size == 0 || self->writing || self->conn_lost > 0) {
        return FLUSHED;
    }
    if (AL_UNLIKELY(send_queued(self) != 0)) {
        return FLUSH_FAILED;
    }
    if (self->out.size > 0) {
        start_writing(self);
        return FLUSHED;
    }
    if (AL_UNLIKELY(self->closing)) {
        return FLUSHED_ALL_OF_CLOSING;
    }
    Py_CLEAR(self->write_context); /* escapes */
    return FLUSHED;
}

/* The rest of it.  0, or -1 with an exception to raise. */
static int
finish_flush(al_stream *self, enum flushed outcome)
{
    return outcome == FLUSHED        ? 0
           : outcome == FLUSH_FAILED ? al_stream_fatal(self, WRITE_FAILED) /* escapes */
                                     : after_drain(self);                  /* escapes */
}

/* Sends what write() queued.  0, or -1 with an exception to raise. */
static int
flush(al_stream *self)
{
    return finish_flush(self, send_corked(self)); /* escapes */
}

/* A slot: the descriptor is writable.  Mirrors _write_ready. */
static int
write_ready(al_stream *self)
{
    if (send_queued(self) != 0) {
        PyObject *exc = al_err_take();
        al_err_put_steal(Py_NewRef(exc));
        al_state *st = self->loop->st;
        al_outbuf_clear(&self->out);
        stop_writing(self);
        int status = al_stream_fatal(self, WRITE_FAILED); /* escapes */
        if (status == 0 && self->empty_waiter != NULL) {
            PyObject *waiter = Py_NewRef(self->empty_waiter);
            status = settle(st, waiter, st->str.set_exception, exc); /* escapes */
            Py_DECREF(waiter);
        }
        Py_DECREF(exc);
        return status;
    }
    if (self->out.size == 0) {
        stop_writing(self);
    }
    if (maybe_resume(self) < 0) { /* escapes; may write or close */
        return -1;
    }
    if (self->out.size == 0 && self->conn_lost == 0) {
        return after_drain(self); /* escapes */
    }
    return 0;
}

static int
stream_writable(al_loop *loop, PyObject *op, PyObject *Py_UNUSED(arg),
                PyObject *Py_UNUSED(extra))
{
    al_stream *self = (al_stream *)op;
    PyObject *entered;
    if (!self->writing || self->conn_lost > 0) {
        return 0;
    }
    if (AL_UNLIKELY(descriptor(self) < 0)) {
        stop_writing(self); /* As in stream_readable. */
        return 0;
    }
    /* The queue may become empty and drop the context while it is entered. */
    PyObject *own = Py_XNewRef(self->write_context);
    PyObject **place = context_place(self, &own);
    int status = al_context_enter(loop, place, &entered);
    if (status == 0) {
        status = write_ready(self); /* escapes */
        if (al_context_leave(loop, place, entered) < 0) {
            status = -1;
        }
    }
    Py_XDECREF(own);
    check(self);
    if (AL_UNLIKELY(status < 0)) {
        return al_report_method(loop, op, loop->st->str._call_connection_lost, Py_None);
    }
    return 0;
}

/* In the list of the loop, which the scheduler has flushed soon: see flush_due there. */
static void
mark_dirty(al_stream *self)
{
    al_loop *loop = self->loop;
    if (self->dirty) {
        return;
    }
    self->dirty = true;
    self->next_dirty = NULL;
    Py_INCREF(self);
    if (loop->dirty == NULL) {
        loop->dirty = self;
    }
    else {
        loop->dirty_last->next_dirty = self;
    }
    loop->dirty_last = self;
}

/* Does the rest of a flush in the context of the write: an error queues connection_lost
 * in a copy of it.  Result as al_run_fn. */
static int
finish_in_context(al_loop *loop, al_stream *self, enum flushed outcome)
{
    PyObject *own = Py_XNewRef(self->write_context), *entered;
    PyObject **place = context_place(self, &own);
    PyObject *pending = outcome == FLUSH_FAILED ? al_err_take() : NULL;
    bool inside = al_context_enter(loop, place, &entered) == 0;
    if (!inside) {
        PyErr_Clear(); /* The loop runs inside that very context. */
    }
    if (pending != NULL) {
        al_err_put_steal(pending);
    }
    int status = finish_flush(self, outcome); /* escapes */
    if (inside && al_context_leave(loop, place, entered) < 0) {
        status = -1;
    }
    Py_XDECREF(own);
    return status == 0 ? 0
                       : al_report_method(loop, (PyObject *)self,
                                          loop->st->str._call_connection_lost, Py_None);
}

static int
flush_dirty(al_loop *loop)
{
    PyObject *pending = PyErr_Occurred() ? al_err_take() : NULL;
    int status = 0;
    loop->dirty_hot = false;
    loop->dirty_since = 0;
    while (loop->dirty != NULL) {
        al_stream *self = loop->dirty;
        loop->dirty = self->next_dirty;
        self->dirty = false;
        enum flushed outcome = send_corked(self); /* escapes */
        if (AL_UNLIKELY(outcome != FLUSHED) &&
            finish_in_context(loop, self, outcome) < 0) { /* escapes */
            status = -1;
            chain(&pending);
        }
        check(self);
        Py_DECREF(self); /* escapes */
    }
    if (AL_UNLIKELY(pending != NULL)) {
        al_err_put_steal(pending);
    }
    return status;
}

/* Remembers the context in which resume_writing will run: that of the write that makes
 * the stream wait.  Which one it is turns out later, so it is not copied yet. */
static inline void
note_write_context(al_stream *self)
{
    if (self->context == NULL && self->write_context == NULL) {
        PyObject *current = al_current_context_borrow();
        if (current != NULL && !al_context_is_empty(current)) {
            self->write_context = Py_NewRef(current);
        }
    }
}

/* The checks that write and writelines have in common.  1: go on, 0: nothing to do. */
static int
may_write(al_stream *self, const char *method, const char *verb)
{
    if (self->eof) {
        PyErr_Format(PyExc_RuntimeError, "Cannot call %s() after write_eof()", method);
        return -1;
    }
    if (self->empty_waiter != NULL) {
        PyErr_Format(PyExc_RuntimeError, "unable to %s; sendfile is in progress", verb);
        return -1;
    }
    return 1;
}

/* A write after the connection was lost.  0 or -1. */
static int
count_lost_write(al_stream *self)
{
    int status = 0;
    if (self->conn_lost >= LOG_THRESHOLD_FOR_CONNLOST_WRITES) {
        al_state *st = PyType_GetModuleState(Py_TYPE(self));
        status = al_debug_warn(st, "socket.send() raised exception.", NULL, NULL);
    }
    self->conn_lost++;
    return status;
}

/* A buffer that is no exact bytes: sent or copied at once, because the program may
 * change it. */
static int
write_view(al_stream *self, const Py_buffer *view)
{
    const char *data = view->buf;
    size_t size = (size_t)view->len;
    if (size > CORK_COPY && !self->writing) {
        if (flush(self) < 0) { /* escapes */
            return -1;
        }
        int fd = descriptor(self);
        if (self->out.size == 0 && self->conn_lost == 0) {
            errno = EBADF;
            ssize_t n = fd < 0 ? -1 : al_sock_send_stream(fd, data, size);
            if (n < 0 && !al_sock_again(errno)) {
                (void)al_sock_raise(errno);
                return al_stream_fatal(self, WRITE_FAILED);
            }
            if (n > 0) {
                data += n;
                size -= (size_t)n;
            }
            if (size > 0) {
                if (al_outbuf_add_copy(&self->out, data, size) < 0) {
                    return -1;
                }
                start_writing(self);
            }
            return 0;
        }
    }
    if (self->conn_lost > 0) {
        return 0;
    }
    return size == 0 ? 0 : al_outbuf_add_copy(&self->out, data, size);
}

/* Something was queued: send, cork or wait, then pause the protocol if need be. */
static int
after_write(al_stream *self)
{
    if (self->out.size > 0 && !self->writing && self->conn_lost == 0) {
        if (self->loop->in_slot && self->out.size <= self->flow.high &&
            self->out.count < CORK_PIECES) {
            mark_dirty(self);
            if (self->out.size > CORK_LARGE) {
                self->loop->dirty_hot = true;
            }
            return 0;
        }
        if (flush(self) < 0) { /* escapes */
            return -1;
        }
    }
    return maybe_pause(self); /* escapes */
}

/* Queues one object.  0 or -1. */
static int
queue(al_stream *self, PyObject *data)
{
    if (AL_LIKELY(PyBytes_CheckExact(data))) {
        Py_ssize_t size = PyBytes_GET_SIZE(data);
        return size == 0 ? 0
                         : al_outbuf_add(&self->out, data, PyBytes_AS_STRING(data),
                                         (size_t)size);
    }
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) { /* escapes */
        return -1;
    }
    int status = write_view(self, &view); /* escapes */
    PyBuffer_Release(&view);              /* escapes */
    return status;
}

PyDoc_STRVAR(write_doc, "write($self, /, data)\n--\n\n"
                        "Write some data bytes; this does not block.\n\n"
                        "Parameters: data, a bytes, bytearray or memoryview object.\n"
                        "Source: asyncio, WriteTransport.write.");

static PyObject *
stream_write(al_stream *self, PyObject *data)
{
    if (AL_UNLIKELY(!PyBytes_Check(data) && !PyByteArray_Check(data) &&
                    !PyMemoryView_Check(data))) {
#if PY_VERSION_HEX >= 0x030E0000
        const char *kinds = "bytes, bytearray, or memoryview object";
#else
        const char *kinds = "bytes-like object";
#endif
        PyObject *name = PyType_GetName(Py_TYPE(data));
        if (name != NULL) {
            PyErr_Format(PyExc_TypeError, "data argument must be a %s, not %R", kinds,
                         name);
            Py_DECREF(name);
        }
        return NULL;
    }
    if (AL_UNLIKELY(may_write(self, "write", "write") < 0)) {
        return NULL;
    }
    Py_ssize_t size = AL_LIKELY(PyBytes_CheckExact(data)) ? PyBytes_GET_SIZE(data)
                                                          : PyObject_Size(data);
    if (size <= 0) {
        if (size < 0) {
            return NULL;
        }
        Py_RETURN_NONE;
    }
    if (AL_UNLIKELY(self->conn_lost > 0 || self->loop == NULL)) {
        if (count_lost_write(self) < 0) {
            return NULL;
        }
        Py_RETURN_NONE;
    }
    note_write_context(self);
    int status = queue(self, data); /* escapes */
    if (AL_UNLIKELY(status < 0)) {
        if (PyErr_ExceptionMatches(PyExc_BufferError)) {
            /* asyncio meets it in socket.send(). */
            status = al_stream_fatal(self, WRITE_FAILED); /* escapes */
        }
    }
    if (status < 0 || after_write(self) < 0) { /* escapes */
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
SocketTransport_write(al_stream *self, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames)
{
    static const al_signature signature = {
        .function = "_SelectorSocketTransport.write",
        .names = {"data"},
        .positional = 1,
        .required = 1,
        .total = 1,
    };
    if (AL_LIKELY(nargs == 1 && kwnames == NULL)) {
        return stream_write(self, args[0]);
    }
    PyObject *data;
    if (al_args_parse(&signature, args, nargs, kwnames, &data, NULL) < 0) {
        return NULL;
    }
    return stream_write(self, data);
}

PyDoc_STRVAR(writelines_doc,
             "writelines($self, /, list_of_data)\n--\n\n"
             "Write an iterable of data bytes, as one write of them all.\n\n"
             "Source: asyncio, WriteTransport.writelines.");

static PyObject *
SocketTransport_writelines(al_stream *self, PyObject *list)
{
    if (may_write(self, "writelines", "writelines") < 0) {
        return NULL;
    }
#if PY_VERSION_HEX >= 0x030C0000
    int truth = PyObject_IsTrue(list); /* escapes */
    if (truth <= 0) {
        return truth < 0 ? NULL : Py_NewRef(Py_None); /* asyncio takes None for [] */
    }
#endif
    PyObject *items = PySequence_Fast(list, "can only join an iterable"); /* escapes */
    if (items == NULL) {
        return NULL;
    }
    Py_ssize_t count = PySequence_Fast_GET_SIZE(items);
    if (count > 0 && (self->conn_lost > 0 || self->loop == NULL)) {
        if (count_lost_write(self) < 0) {
            goto error;
        }
        count = 0;
    }
    /* All or nothing: a wrong item must not leave the ones before it queued. */
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PySequence_Fast_GET_ITEM(items, i);
        if (!PyObject_CheckBuffer(item)) {
            PyErr_Format(PyExc_TypeError,
#if PY_VERSION_HEX >= 0x030C0000
                         "memoryview: a bytes-like object is required, not '%.200s'",
                         Py_TYPE(item)->tp_name);
#else
                         "sequence item %zd: expected a bytes-like object, %.80s found",
                         i, Py_TYPE(item)->tp_name);
#endif
            goto error;
        }
    }
    if (count > 0) {
        note_write_context(self);
        for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(items); i++) {
            PyObject *item = Py_NewRef(PySequence_Fast_GET_ITEM(items, i));
            int status = queue(self, item); /* escapes */
            Py_DECREF(item);
            if (status < 0) {
                goto error;
            }
            if (self->conn_lost > 0) {
                break;
            }
        }
        if (self->conn_lost == 0 && after_write(self) < 0) { /* escapes */
            goto error;
        }
    }
    Py_DECREF(items);
    Py_RETURN_NONE;

error:
    Py_DECREF(items);
    return NULL;
}

PyDoc_STRVAR(write_eof_doc, "write_eof($self, /)\n--\n\n"
                            "Close the write end once the buffered data is sent.\n\n"
                            "Source: asyncio, WriteTransport.write_eof.");

static PyObject *
SocketTransport_write_eof(al_stream *self, PyObject *Py_UNUSED(ignored))
{
    if (flush(self) < 0) { /* escapes */
        return NULL;
    }
    if (self->closing || self->eof) {
        Py_RETURN_NONE;
    }
    self->eof = true;
    if (self->out.size == 0) {
        int fd = descriptor(self);
        errno = EBADF;
        if (fd < 0 || al_sock_shutdown_write(fd) < 0) {
            return al_sock_raise(errno);
        }
    }
    Py_RETURN_NONE;
}

/* --- closing ------------------------------------------------------------------------------------- */

static int
stream_close(al_stream *self)
{
    if (flush(self) < 0) { /* escapes */
        return -1;
    }
    if (self->closing || self->loop == NULL) {
        return 0;
    }
    self->closing = true;
    stop_reading(self); /* escapes */
    if (self->out.size == 0 && self->conn_lost == 0) {
        stop_writing(self);
        return queue_lost(self, NULL); /* escapes */
    }
    return 0;
}

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\n"
                        "Close the transport once the buffered data is sent.\n\n"
                        "Source: asyncio, BaseTransport.close.");

static PyObject *
SocketTransport_close(al_stream *self, PyObject *Py_UNUSED(ignored))
{
    if (stream_close(self) < 0) {
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
    if (flush(self) < 0 || force_close(self, NULL) < 0) { /* escapes */
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
SocketTransport__force_close(al_stream *self, PyObject *exc)
{
    if (flush(self) < 0 ||
        force_close(self, exc == Py_None ? NULL : exc) < 0) { /* escapes */
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
SocketTransport__fatal_error(al_stream *self, PyObject *args)
{
    PyObject *exc, *message = NULL;
    if (!PyArg_ParseTuple(args, "O|U", &exc, &message)) {
        return NULL;
    }
    message = message != NULL ? Py_NewRef(message)
                              : PyUnicode_FromString("Fatal error on transport");
    int status = message == NULL ? -1 : fatal_error(self, exc, message); /* escapes */
    Py_XDECREF(message);
    if (status < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
SocketTransport__call_connection_lost(al_stream *self, PyObject *exc)
{
    if (call_connection_lost(self, exc) < 0) { /* escapes */
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
    return PyBool_FromLong(is_reading(self));
}

PyDoc_STRVAR(pause_reading_doc, "pause_reading($self, /)\n--\n\n"
                                "Pause the receiving end; no data is delivered until\n"
                                "resume_reading() is called.\n\n"
                                "Source: asyncio, ReadTransport.pause_reading.");

static PyObject *
SocketTransport_pause_reading(al_stream *self, PyObject *Py_UNUSED(ignored))
{
    if (!is_reading(self)) {
        Py_RETURN_NONE;
    }
    self->paused = true;
    stop_reading(self);
    if (self->loop != NULL && self->loop->debug &&
        log_debug(self->loop->st, "%r pauses reading", self, NULL, NULL) < 0) {
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
    if (self->closing || !self->paused) {
        Py_RETURN_NONE;
    }
    self->paused = false;
    if (self->context == NULL) {
        PyObject *context;
        if (al_context_capture(&context) < 0) {
            return NULL;
        }
        Py_XSETREF(self->read_context, context);
    }
    if (start_reading(self) < 0) {
        return NULL;
    }
    if (self->loop != NULL && self->loop->debug &&
        log_debug(self->loop->st, "%r resumes reading", self, NULL, NULL) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
SocketTransport__read_ready(al_stream *self, PyObject *Py_UNUSED(ignored))
{
    return al_transport_soon(self->loop, (PyObject *)self, stream_readable);
}

static PyObject *
SocketTransport__write_ready(al_stream *self, PyObject *Py_UNUSED(ignored))
{
    return al_transport_soon(self->loop, (PyObject *)self, stream_writable);
}

static PyObject *
SocketTransport__start_reading(al_stream *self, PyObject *Py_UNUSED(ignored))
{
    if (start_reading(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

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

static int
set_protocol(al_stream *self, PyObject *protocol)
{
    al_state *st = PyType_GetModuleState(Py_TYPE(self));
    const al_sink *sink = al_protocol_sink(st, self->loop, protocol); /* escapes */
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

PyDoc_STRVAR(set_protocol_doc, "set_protocol($self, /, protocol)\n--\n\n"
                               "Set a new protocol.");

static PyObject *
SocketTransport_set_protocol(al_stream *self, PyObject *protocol)
{
    if (set_protocol(self, protocol) < 0) {
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
    if (flush(self) < 0) { /* escapes */
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
    /* What was corked was written under the old marks. */
    if (flush(self) < 0 ||                                           /* escapes */
        al_flow_set_limits(&self->flow, args, nargs, kwnames) < 0) { /* escapes */
        return NULL;
    }
    if (maybe_pause(self) < 0) { /* escapes */
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
SocketTransport__maybe_pause_protocol(al_stream *self, PyObject *Py_UNUSED(ignored))
{
    if (flush(self) < 0 || maybe_pause(self) < 0) { /* escapes */
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
SocketTransport__maybe_resume_protocol(al_stream *self, PyObject *Py_UNUSED(ignored))
{
    if (flush(self) < 0 || maybe_resume(self) < 0) { /* escapes */
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
SocketTransport__make_empty_waiter(al_stream *self, PyObject *Py_UNUSED(ignored))
{
    if (flush(self) < 0) { /* escapes */
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
        settle(st, waiter, st->str.set_result, Py_None) < 0) { /* escapes */
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
    if (self->loop != NULL) {
        PyObject *user = lent == Py_True ? NULL : (PyObject *)self;
        if (al_fds_set_transport(self->loop, self->fd, user) < 0) {
            return NULL;
        }
        if (user != NULL) {
            watch(self);
        }
    }
    Py_RETURN_NONE;
}

/* --- get_extra_info ---------------------------------------------------------------------------------- */

static PyObject *
get_transport_socket(al_stream *self)
{
    if (self->transport_socket == NULL) {
        al_state *st = PyType_GetModuleState(Py_TYPE(self));
        PyObject *sock = get_sock(self);
        if (sock == Py_None) {
            /* Asked for the first time after the end: one that is closed, like the
             * one that asyncio would have. */
            Py_DECREF(sock);
            sock = PyObject_CallFunction(st->socket_type, "iii", self->family,
                                         SOCK_STREAM, self->proto);
            PyObject *closed =
                sock == NULL ? NULL : PyObject_CallMethod(sock, "close", NULL);
            if (closed == NULL) {
                Py_CLEAR(sock);
            }
            Py_XDECREF(closed);
        }
        if (sock == NULL) {
            return NULL;
        }
        self->transport_socket = PyObject_CallOneArg(st->TransportSocket, sock);
        Py_DECREF(sock);
    }
    return Py_XNewRef(self->transport_socket);
}

static PyObject *
get_sockname(al_stream *self)
{
    keep_sockname(self);
    if (self->sockname == NULL && self->sockname_raw.length > 0) {
        self->sockname = name_object(&self->sockname_raw);
        return Py_XNewRef(self->sockname);
    }
    if (self->sockname == NULL && self->sock != NULL) {
        /* A family that we do not know. */
        self->sockname = PyObject_CallMethod(self->sock, "getsockname", NULL);
        if (self->sockname == NULL) {
            if (!PyErr_ExceptionMatches(PyExc_OSError)) {
                return NULL;
            }
            PyErr_Clear(); /* asyncio says None as well. */
        }
    }
    return Py_NewRef(self->sockname == NULL ? Py_None : self->sockname);
}

static PyObject *
get_peername(al_stream *self)
{
    if (self->peername == NULL) {
        self->peername = name_object(&self->peername_raw);
    }
    return Py_XNewRef(self->peername);
}

/* The dictionary _extra with everything in it, borrowed. */
static PyObject *
get_whole_extra(al_stream *self)
{
    al_state *st = PyType_GetModuleState(Py_TYPE(self));
    if (self->complete_info) {
        return self->extra;
    }
    if (self->extra == NULL) {
        self->extra = PyDict_New();
        if (self->extra == NULL) {
            return NULL;
        }
    }
    PyObject *peername = NULL, *sockname = get_sockname(self);
    PyObject *sock = sockname == NULL ? NULL : get_transport_socket(self);
    int have = sock == NULL ? -1 : PyDict_Contains(self->extra, st->str.peername);
    if (have == 0) {
        peername = get_peername(self);
        have = peername == NULL
                   ? -1
                   : PyDict_SetItem(self->extra, st->str.peername, peername);
    }
    if (have >= 0 && (PyDict_SetItem(self->extra, st->str.sockname, sockname) < 0 ||
                      PyDict_SetItem(self->extra, st->str.socket, sock) < 0)) {
        have = -1;
    }
    Py_XDECREF(peername);
    Py_XDECREF(sockname);
    Py_XDECREF(sock);
    if (have < 0) {
        return NULL;
    }
    self->complete_info = true;
    return self->extra;
}

static PyObject *
extra_info(al_stream *self, PyObject *name, PyObject *fallback)
{
    al_state *st = PyType_GetModuleState(Py_TYPE(self));
    PyObject *value = NULL;
    if (!self->complete_info && PyUnicode_Check(name)) {
        if (PyUnicode_Compare(name, st->str.socket) == 0) {
            return get_transport_socket(self);
        }
        if (PyUnicode_Compare(name, st->str.sockname) == 0) {
            return get_sockname(self);
        }
    }
    if (self->extra != NULL) {
        value = PyDict_GetItemWithError(self->extra, name); /* escapes */
        if (value == NULL && PyErr_Occurred()) {
            return NULL;
        }
    }
    if (value == NULL && !self->complete_info && PyUnicode_Check(name) &&
        PyUnicode_Compare(name, st->str.peername) == 0) {
        return get_peername(self);
    }
    return Py_NewRef(value == NULL ? fallback : value);
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
    PyObject *values[2];
    if (al_args_parse(&signature, args, nargs, kwnames, values, NULL) < 0) {
        return NULL;
    }
    return extra_info(self, values[0], values[1] == NULL ? Py_None : values[1]);
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

/* --- making ---------------------------------------------------------------------------------------------- */

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
    self->io = al_io_new(loop->poll, fd, stream_ready, self);
    if (self->io == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}

/* A slot: the stream of `self` begins; arg: a waiter or NULL, extra: a context. */
static int
stream_begin(al_loop *loop, PyObject *op, PyObject *arg, PyObject *extra)
{
    PyObject *context = Py_XNewRef(extra);
    int status = al_stream_begin(loop, (al_stream *)op, arg, &context);
    Py_XDECREF(context);
    return status;
}

/* The second half of stream_begin, where connection_made was a Handle. */
static int
stream_made(al_loop *loop, PyObject *op, PyObject *arg, PyObject *Py_UNUSED(extra))
{
    al_stream *self = (al_stream *)op;
    if (start_reading(self) < 0) {
        return -1;
    }
    if (arg == NULL) {
        return 0;
    }
    if (settle(loop->st, arg, loop->st->str.set_result, Py_None) < 0) { /* escapes */
        return al_report_method(loop, arg, loop->st->str.set_result, Py_None);
    }
    return 0;
}

int
al_stream_begin(al_loop *loop, al_stream *self, PyObject *waiter, PyObject **context)
{
    al_state *st = loop->st;
    PyObject *entered, *pending = NULL;
    PyObject **place = context_place(self, context);
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
        chain(&pending);
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

int
al_stream_adopt(al_stream *self, PyObject *protocol, PyObject *server)
{
    if (set_protocol(self, protocol) < 0) { /* escapes */
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
    return al_fds_set_transport(self->loop, self->fd, (PyObject *)self);
}

PyObject *
al_stream_new(al_loop *loop, PyObject *sock, int fd, PyObject *protocol,
              PyObject *waiter, PyObject *extra, PyObject *server, PyObject *context)
{
    al_state *st = loop->st;
    al_stream *self = stream_alloc(loop, fd);
    al_addr addr;
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
    if (al_addr_of_socket(fd, &addr) == 0) {
        self->family = (short)addr.as.any.sa_family;
        if (al_addr_known(self->family) &&
            remember(&self->sockname_raw, &self->sockname, &addr) < 0) {
            goto error;
        }
    }
    if (al_addr_of_peer(fd, &addr) == 0) {
        if (al_addr_known(self->family)) {
            if (remember(&self->peername_raw, &self->peername, &addr) < 0) {
                goto error;
            }
        }
        else {
            self->peername = PyObject_CallMethod(sock, "getpeername", NULL);
            if (self->peername == NULL) {
                goto error;
            }
        }
    }
    al_sock_set_nodelay(fd, self->family);
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
            al_sched_push_steal(loop, stream_begin, Py_NewRef((PyObject *)self),
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
    if (remember(&self->peername_raw, &self->peername, peer) < 0) {
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
    leave_loop(self);
    if (close_descriptor(self) < 0 || detach_server(self) < 0) { /* escapes */
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_CLEAR(self->protocol);
    Py_CLEAR(self->loop);
    if (pending != NULL) {
        al_err_put_steal(pending);
    }
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
    leave_loop(self);
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
    Py_CLEAR(self->transport_socket);
    Py_CLEAR(self->sockname);
    Py_CLEAR(self->peername);
    Py_CLEAR(self->loop);
    return 0;
}

/* __del__: warns of a transport that nobody closed, and closes it. */
static void
stream_finalize(PyObject *op)
{
    al_stream *self = (al_stream *)op;
    if (!self->fd_open) {
        return;
    }
    PyObject *pending = PyErr_Occurred() ? al_err_take() : NULL;
    if (PyErr_ResourceWarning(op, 1, "unclosed transport %R", op) < 0) {
        /* A warning that is an error has nobody to catch it here. */
        if (PyErr_ExceptionMatches(PyExc_Warning)) {
            PyErr_WriteUnraisable(op);
        }
        PyErr_Clear();
    }
    leave_loop(self);
    self->closing = true;
    if (close_descriptor(self) < 0) {
        PyErr_WriteUnraisable(op);
    }
#if PY_VERSION_HEX >= 0x030D0000
    if (detach_server(self) < 0) {
        PyErr_WriteUnraisable(op);
    }
#endif
    if (pending != NULL) {
        al_err_put_steal(pending);
    }
}

static PyObject *
get_extra(al_stream *self, void *Py_UNUSED(closure))
{
    return Py_XNewRef(get_whole_extra(self));
}

static PyObject *
get_sock_attribute(al_stream *self, void *Py_UNUSED(closure))
{
    return get_sock(self);
}

static PyGetSetDef stream_getsets[] = {
    {"_extra", (getter)get_extra, NULL, NULL, NULL},
    {"_sock", (getter)get_sock_attribute, NULL, NULL, NULL},
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef stream_members[] = {
    {"_loop", T_OBJECT, offsetof(al_stream, loop), READONLY, NULL},
    {"_protocol", T_OBJECT, offsetof(al_stream, protocol), READONLY, NULL},
    {"_server", T_OBJECT, offsetof(al_stream, server), READONLY, NULL},
    {"_empty_waiter", T_OBJECT, offsetof(al_stream, empty_waiter), READONLY, NULL},
    {"_sock_fd", T_INT, offsetof(al_stream, fd), READONLY, NULL},
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
    {"writelines", (PyCFunction)SocketTransport_writelines, METH_O, writelines_doc},
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
    {"set_protocol", (PyCFunction)SocketTransport_set_protocol, METH_O,
     set_protocol_doc},
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

/* The class attributes that loop.sendfile, start_tls and curious programs read. */
static int
add_class_attributes(al_state *st)
{
    PyObject *type = (PyObject *)st->SocketTransport_type;
    PyObject *mode = PyObject_GetAttrString(st->asyncio_constants, "_SendfileMode");
    PyObject *native = mode == NULL ? NULL : PyObject_GetAttrString(mode, "TRY_NATIVE");
    PyObject *size = PyLong_FromLong(AL_RECEIVE_SIZE);
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
    const PyTypeObject *base = (PyTypeObject *)st->FlowControlMixin;
    if (base->tp_basicsize > (Py_ssize_t)offsetof(al_stream, sink)) {
        PyErr_SetString(PyExc_ImportError,
                        "asyncio's transports have more slots than this module knows");
        return -1;
    }
    st->flush_writes = flush_dirty;
    st->stream_readable = stream_readable;
    if (al_state_add_type(module, &st->SocketTransport_type, &stream_spec,
                          st->FlowControlMixin) < 0) {
        return -1;
    }
#if PY_VERSION_HEX >= 0x030C0000
    const char *write_ready = "_write_sendmsg";
#else
    const char *write_ready = "_write_ready";
#endif
    if (al_debug_describe_method(st, stream_readable, "_read_ready", false, 2) < 0 ||
        al_debug_describe_method(st, stream_writable, write_ready, false, 2) < 0 ||
        al_debug_describe_method(st, stream_lost, "_call_connection_lost", true, 1) <
            0 ||
        al_debug_describe(st, stream_begin, describe_begin, 0) < 0) {
        return -1;
    }
    return add_class_attributes(st);
}
