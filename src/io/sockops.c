/* sockops.c: see sockops.h. */
#include "io/sockops.h"

#include <string.h>
#include <sys/stat.h>

#include "base/layout.h"
#include "core/debug.h"
#include "io/sock.h"
#include "task/future.h"
#include "task/lazy.h"

enum {
    /* Up to this many bytes are received on the C stack and copied into an exact
     * `bytes`.  The size that the caller asks for is never allocated: 256 KB is an
     * mmap, page faults and a munmap, ten times the cost of the system call. */
    SMALL = 16 * 1024,
    /* The most that is allocated for one receive from a stream. */
    LARGE = 256 * 1024,
    /* sendfile gives the loop a turn after this many bytes. */
    FILE_TURN = 1024 * 1024,
};

typedef struct al_sockop {
    al_lazy base; /* subject: the socket; NULL for a ready value.  arg: a buffer, data,
                       * address, file or value */
    PyObject *extra;     /* owned: a second one, or NULL */
    Py_buffer view;      /* what sock_sendall sends; view.obj NULL: none */
    Py_ssize_t size;     /* bytes asked for */
    Py_ssize_t position; /* bytes sent */
    long long offset;    /* in the file */
    int fd;              /* that it waits for */
    int file;            /* descriptor of the file */
    uint8_t operation;
} al_sockop;

/* The beginning of a socket.socket as socketmodule.c lays it out in every supported
 * version; layout_known compares it with live sockets before it is believed. */
typedef struct {
    PyObject_HEAD
    int fd, family, type, proto;
    PyObject *(*error_handler)(void);
    int64_t timeout; /* all bits zero: non-blocking, as a double and as an integer */
} socket_layout;

static const socket_layout *
layout(PyObject *sock)
{
    return (const socket_layout *)sock;
}

static const char *const names[] = {
    [AL_SOCKOP_RECV] = "sock_recv",
    [AL_SOCKOP_RECV_INTO] = "sock_recv_into",
    [AL_SOCKOP_RECVFROM] = "sock_recvfrom",
    [AL_SOCKOP_RECVFROM_INTO] = "sock_recvfrom_into",
    [AL_SOCKOP_SENDALL] = "sock_sendall",
    [AL_SOCKOP_SENDTO] = "sock_sendto",
    [AL_SOCKOP_CONNECT] = "sock_connect",
    [AL_SOCKOP_ACCEPT] = "sock_accept",
    [AL_SOCKOP_SENDFILE] = "_sock_sendfile_native",
    [AL_SOCKOP_VALUE] = "",
};

static int
event_of(int kind)
{
    switch (kind) {
    case AL_SOCKOP_SENDALL:
    case AL_SOCKOP_SENDTO:
    case AL_SOCKOP_CONNECT:
    case AL_SOCKOP_SENDFILE:
        return AL_WRITE;
    default:
        return AL_READ;
    }
}

/* --- socket objects ------------------------------------------------------------------- */

static int
attribute_is(PyObject *obj, const char *name, int value)
{
    PyObject *number = PyObject_GetAttrString(obj, name);
    long found = number == NULL ? -1 : PyLong_AsLong(number);
    Py_XDECREF(number);
    return found == -1 && PyErr_Occurred() ? -1 : found == value;
}

/* Compares the mirror struct with a socket: 1 as expected, 0 not, or -1. */
static int
compare_layout(al_state *st, int family, int type)
{
    PyObject *sock = PyObject_CallFunction(st->socket_type, "ii", family, type);
    if (sock == NULL) {
        return -1;
    }
    const socket_layout *view = layout(sock);
    int result = -1;
    PyObject *fileno = PyObject_CallMethod(sock, "fileno", NULL);
    PyObject *done = NULL;
    if (fileno == NULL) {
        goto done;
    }
    result = PyLong_AsLong(fileno) == view->fd &&
             view->family == family + al_layout_lie(AL_LAYOUT_SOCKET, 1) &&
             view->type == type && view->timeout != 0;
    int proto = attribute_is(sock, "proto", view->proto);
    done = PyObject_CallMethod(sock, "setblocking", "i", 0);
    result = proto < 0 || done == NULL ? -1 : result && proto && view->timeout == 0;
    if (result == 1) {
        Py_SETREF(done, PyObject_CallMethod(sock, "settimeout", "d", 0.5));
        result = done == NULL ? -1 : view->timeout != 0;
    }

done:
    Py_XDECREF(fileno);
    Py_XDECREF(done);
    PyObject *closed = PyObject_CallMethod(sock, "close", NULL);
    if (closed == NULL) {
        result = -1;
    }
    else {
        Py_DECREF(closed);
        result = result == 1 ? view->fd == -1 : result;
    }
    Py_DECREF(sock);
    return result;
}

static bool
layout_known(al_state *st)
{
    if (AL_UNLIKELY(AL_LOAD(st->socket_layout) == 0)) {
        size_t size = (size_t)((PyTypeObject *)st->socket_type)->tp_basicsize;
        int result = 0;
        if (size >= sizeof(socket_layout) && !al_layout_lie(AL_LAYOUT_SOCKET, 0)) {
            result = compare_layout(st, AF_UNIX, SOCK_STREAM);
            if (result == 1) {
                result = compare_layout(st, AF_UNIX, SOCK_DGRAM);
            }
        }
        if (result < 0) {
            PyErr_Clear(); /* No sockets can be made here: nothing is known. */
        }
        else if (result == 0) {
            al_layout_turn_off(st, AL_LAYOUT_SOCKET);
        }
        AL_STORE(st->socket_layout, result == 1 ? 1 : -1);
    }
    return AL_LOAD(st->socket_layout) > 0;
}

bool
al_sockop_takes(al_state *st, PyObject *sock)
{
    return Py_IS_TYPE(sock, (PyTypeObject *)st->socket_type) && layout_known(st);
}

int
al_sockop_family(PyObject *sock)
{
    return layout(sock)->family;
}

bool
al_sockop_non_blocking(PyObject *sock)
{
    return layout(sock)->timeout == 0;
}

static bool
non_blocking(const al_sockop *op)
{
    return al_sockop_non_blocking(op->base.subject);
}

/* --- attempts -----------------------------------------------------------------------------
 *
 * Each makes its system call once.  1: *result is the operation's result; 0: not now;
 * -1: an exception. */

/* The answer to a call that failed. */
static int
failed(void)
{
    int error = errno;
    if (al_sock_again(error)) {
        return 0;
    }
    al_sock_raise(error);
    return -1;
}

/* The socket object's own method, for what is odd: it raises the error that asyncio's
 * operation would, and waits on a blocking socket without holding the GIL. */
static int
attempt_method(PyObject *called, PyObject **result)
{
    if (called != NULL) {
        *result = called;
        return 1;
    }
    if (PyErr_ExceptionMatches(PyExc_BlockingIOError) ||
        PyErr_ExceptionMatches(PyExc_InterruptedError)) {
        PyErr_Clear(); /* "Not now", as asyncio reads it. */
        return 0;
    }
    return -1;
}

/* Receives straight into a `bytes` of at most `size` bytes. */
static int
receive_large(al_sockop *op, int fd, size_t size, size_t *received, PyObject **result)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (bytes == NULL) {
        return -1;
    }
    ssize_t n =
        layout(op->base.subject)->type == SOCK_STREAM
            ? al_count(&op->base.loop->counts.bytes_in,
                       al_sock_recv_stream(op->base.loop, fd, PyBytes_AS_STRING(bytes),
                                           size))
            : al_count(&op->base.loop->counts.bytes_in,
                       al_sock_recv(op->base.loop, fd, PyBytes_AS_STRING(bytes), size));
    if (n < 0) {
        int status = failed();
        Py_DECREF(bytes);
        return status;
    }
    *received = (size_t)n;
    if (_PyBytes_Resize(&bytes, n) < 0) {
        return -1;
    }
    *result = bytes;
    return 1;
}

static int
attempt_recv(al_sockop *op, PyObject **result)
{
    int fd = layout(op->base.subject)->fd;
    size_t size = (size_t)op->size;
    size_t received;
    if (AL_UNLIKELY(!non_blocking(op))) {
        return attempt_method(
            PyObject_CallMethod(op->base.subject, "recv", "n", op->size), result);
    }
    if (layout(op->base.subject)->type != SOCK_STREAM) {
        /* What does not fit of a message is lost: room for all that was asked for. */
        if (size <= AL_ARENA_BYTES) {
            char *arena = al_arena_pieces(&op->base.loop->arena);
            if (arena == NULL) {
                return -1;
            }
            ssize_t n = al_count(&op->base.loop->counts.bytes_in,
                                 al_sock_recv(op->base.loop, fd, arena, size));
            if (n < 0) {
                return failed();
            }
            *result = al_arena_bytes(&op->base.loop->arena, arena, n);
            return *result == NULL ? -1 : 1;
        }
        return receive_large(op, fd, size, &received, result);
    }
    al_fd *entry = al_fds_find(&op->base.loop->fds, fd);
    if (size > SMALL && entry != NULL && entry->received >= SMALL) {
        /* The last receive filled the small buffer: this one may be as long. */
        size_t room = entry->received;
        room = room < LARGE ? room : LARGE;
        size = size < room ? size : room;
        int status = receive_large(op, fd, size, &received, result);
        if (status > 0) {
            /* It shrinks slowly: the last piece of a message is often a short one. */
            size_t fit = received * 5 / 4;
            size_t next = received == room   ? 2 * room
                          : received == size ? room
                          : fit < room       ? (3 * room + fit) / 4
                                             : fit;
            entry->received = (uint32_t)next;
        }
        return status;
    }
    char buffer[SMALL];
    size = size < SMALL ? size : SMALL;
    ssize_t n = al_count(&op->base.loop->counts.bytes_in,
                         al_sock_recv_stream(op->base.loop, fd, buffer, size));
    if (n < 0) {
        return failed();
    }
    if (n == SMALL && entry == NULL) {
        entry = al_fds_ensure(op->base.loop, fd);
        if (entry == NULL) {
            PyErr_Clear(); /* Only a hint is lost. */
        }
    }
    if (entry != NULL) {
        entry->received = n == SMALL ? 4 * SMALL : (uint32_t)n;
    }
    *result = al_arena_bytes(&op->base.loop->arena, buffer, n);
    return *result == NULL ? -1 : 1;
}

static int
attempt_recv_into(al_sockop *op, PyObject **result)
{
    Py_buffer view;
    if (!non_blocking(op) ||
        PyObject_GetBuffer(op->base.arg, &view, PyBUF_WRITABLE) < 0) { /* escapes */
        PyErr_Clear(); /* The method raises its own error for the buffer. */
        return attempt_method(
            PyObject_CallMethod(op->base.subject, "recv_into", "(O)", op->base.arg),
            result);
    }
    ssize_t n = 0;
    if (view.len > 0) {
        const socket_layout *sock = layout(op->base.subject);
        size_t size = (size_t)view.len;
        n = al_count(&op->base.loop->counts.bytes_in,
                     sock->type == SOCK_STREAM
                         ? al_sock_recv_stream(op->base.loop, sock->fd, view.buf, size)
                         : al_sock_recv(op->base.loop, sock->fd, view.buf, size));
    }
    int error = errno;
    PyBuffer_Release(&view);
    if (n < 0) {
        errno = error;
        return failed();
    }
    *result = PyLong_FromSsize_t(n);
    return *result == NULL ? -1 : 1;
}

/* The tuple (first, address); steals `first`. */
static int
with_address_steal(PyObject *first, const al_addr *addr, PyObject **result)
{
    PyObject *address = first == NULL ? NULL : al_addr_object(addr);
    PyObject *pair = address == NULL ? NULL : PyTuple_New(2);
    if (pair == NULL) {
        Py_XDECREF(first);
        Py_XDECREF(address);
        return -1;
    }
    PyTuple_SET_ITEM(pair, 0, first);
    PyTuple_SET_ITEM(pair, 1, address);
    *result = pair;
    return 1;
}

static int
attempt_recvfrom(al_sockop *op, PyObject **result)
{
    al_addr from;
    if (!non_blocking(op) || op->size > AL_ARENA_BYTES ||
        !al_addr_known(layout(op->base.subject)->family)) {
        return attempt_method(
            PyObject_CallMethod(op->base.subject, "recvfrom", "n", op->size), result);
    }
    char *arena = al_arena_pieces(&op->base.loop->arena);
    if (arena == NULL) {
        return -1;
    }
    ssize_t n = al_count(&op->base.loop->counts.bytes_in,
                         al_sock_recvfrom(op->base.loop, layout(op->base.subject)->fd,
                                          arena, (size_t)op->size, &from));
    if (n < 0) {
        return failed();
    }
    return with_address_steal(PyBytes_FromStringAndSize(arena, n), &from, result);
}

static int
attempt_recvfrom_into(al_sockop *op, PyObject **result)
{
    Py_buffer view;
    al_addr from;
    if (op->size == 0) { /* asyncio: "if not nbytes: nbytes = len(buf)" */
        op->size = PyObject_Size(op->base.arg); /* escapes */
        if (op->size < 0) {
            return -1;
        }
    }
    int status = -1;
    if (non_blocking(op) && al_addr_known(layout(op->base.subject)->family)) {
        status = PyObject_GetBuffer(op->base.arg, &view, PyBUF_WRITABLE); /* escapes */
    }
    if (status == 0 && op->size > view.len) {
        PyBuffer_Release(&view);
        status = -1;
    }
    if (status < 0) {
        PyErr_Clear(); /* The method raises its own error for the buffer. */
        return attempt_method(PyObject_CallMethod(op->base.subject, "recvfrom_into",
                                                  "On", op->base.arg, op->size),
                              result);
    }
    ssize_t n = al_count(&op->base.loop->counts.bytes_in,
                         al_sock_recvfrom(op->base.loop, layout(op->base.subject)->fd,
                                          view.buf, (size_t)op->size, &from));
    int error = errno;
    PyBuffer_Release(&view);
    if (n < 0) {
        errno = error;
        return failed();
    }
    return with_address_steal(PyLong_FromSsize_t(n), &from, result);
}

static int
attempt_sendall(al_sockop *op, PyObject **result)
{
    Py_buffer *view = &op->view;
    if (AL_UNLIKELY(!non_blocking(op))) {
        return attempt_method(
            PyObject_CallMethod(op->base.subject, "sendall", "(O)", op->base.arg),
            result);
    }
    if (view->obj == NULL &&
        PyObject_GetBuffer(op->base.arg, view, PyBUF_SIMPLE) < 0) { /* escapes */
        PyErr_Clear(); /* The method raises its own error for the buffer. */
        return attempt_method(
            PyObject_CallMethod(op->base.subject, "send", "(O)", op->base.arg), result);
    }
    ssize_t n =
        al_count(&op->base.loop->counts.bytes_out,
                 al_sock_send_stream(op->base.loop, layout(op->base.subject)->fd,
                                     (char *)view->buf + op->position,
                                     (size_t)(view->len - op->position)));
    if (n < 0) {
        return failed();
    }
    op->position += n;
    if (op->position < view->len) {
        return 0;
    }
    *result = Py_NewRef(Py_None);
    return 1;
}

static int
attempt_sendto(al_sockop *op, PyObject **result)
{
    al_addr to;
    Py_buffer view;
    int status = 0;
    if (non_blocking(op)) {
        status = al_addr_parse(&to, layout(op->base.subject)->family, op->extra);
        if (status < 0 ||
            PySys_Audit("socket.sendto", "OO", op->base.subject, op->extra) < 0) {
            return -1;
        }
    }
    if (status == 1 &&
        PyObject_GetBuffer(op->base.arg, &view, PyBUF_SIMPLE) < 0) { /* escapes */
        PyErr_Clear(); /* The method raises its own error for the buffer. */
        status = 0;
    }
    if (status == 0) {
        return attempt_method(PyObject_CallMethod(op->base.subject, "sendto", "OO",
                                                  op->base.arg, op->extra),
                              result);
    }
    ssize_t n = al_count(&op->base.loop->counts.bytes_out,
                         al_sock_sendto(op->base.loop, layout(op->base.subject)->fd,
                                        view.buf, (size_t)view.len, &to));
    int error = errno;
    PyBuffer_Release(&view);
    if (n < 0) {
        errno = error;
        return failed();
    }
    *result = PyLong_FromSsize_t(n);
    return *result == NULL ? -1 : 1;
}

/* The address as asyncio's _ensure_resolved gives it, for the message. */
static PyObject *
resolved_address(const al_sockop *op)
{
    if (layout(op->base.subject)->family != AF_INET6) {
        return Py_NewRef(op->base.arg);
    }
    PyObject *flow = NULL, *scope = NULL, *zero = PyLong_FromLong(0);
    if (zero == NULL) {
        return NULL;
    }
    Py_ssize_t n = PyTuple_GET_SIZE(op->base.arg);
    flow = n > 2 ? PyTuple_GET_ITEM(op->base.arg, 2) : zero;
    scope = n > 3 ? PyTuple_GET_ITEM(op->base.arg, 3) : zero;
    PyObject *full = PyTuple_Pack(4, PyTuple_GET_ITEM(op->base.arg, 0),
                                  PyTuple_GET_ITEM(op->base.arg, 1), flow, scope);
    Py_DECREF(zero);
    return full;
}

static int
attempt_connect(al_sockop *op, PyObject **result)
{
    if (!op->base.started) {
        al_addr to;
        int status = 0;
        if (non_blocking(op)) {
            status = al_addr_parse(&to, layout(op->base.subject)->family, op->base.arg);
        }
        if (status < 0) {
            return -1;
        }
        if (status == 0) {
            return attempt_method(
                PyObject_CallMethod(op->base.subject, "connect", "(O)", op->base.arg),
                result);
        }
        if (PySys_Audit("socket.connect", "OO", op->base.subject, op->base.arg) < 0) {
            return -1;
        }
        if (al_sock_connect(layout(op->base.subject)->fd, &to) < 0) {
            return errno == EINPROGRESS || errno == EALREADY ? 0 : failed();
        }
    }
    else {
        int error = al_sock_pending_error(layout(op->base.subject)->fd);
        if (error != 0) {
            PyObject *address = resolved_address(op);
            PyObject *text = address == NULL ? NULL
                                             : PyUnicode_FromFormat(
                                                   "Connect call failed %S", address);
            PyObject *exc =
                text == NULL ? NULL
                             : PyObject_CallFunction(PyExc_OSError, "iO", error, text);
            if (exc != NULL) {
                PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
            }
            Py_XDECREF(address);
            Py_XDECREF(text);
            Py_XDECREF(exc);
            return -1;
        }
    }
    *result = Py_NewRef(Py_None);
    return 1;
}

/* `conn, address = sock.accept()`, whatever somebody has made of it. */
static int
without_blocking_steal(PyObject *pair, PyObject **result)
{
    PyObject *done = NULL, *items = PySequence_Tuple(pair); /* escapes */
    if (items == NULL && PyErr_ExceptionMatches(PyExc_TypeError) &&
        Py_TYPE(pair)->tp_iter == NULL && !PySequence_Check(pair)) {
        PyErr_Format(PyExc_TypeError, "cannot unpack non-iterable %.200s object",
                     Py_TYPE(pair)->tp_name);
    }
    Py_DECREF(pair); /* escapes */
    if (items == NULL) {
        return -1;
    }
    Py_ssize_t count = PyTuple_GET_SIZE(items);
    if (count == 2) {
        done = PyObject_CallMethod(PyTuple_GET_ITEM(items, 0), "setblocking", "i",
                                   0); /* escapes */
    }
    else if (count < 2) {
        PyErr_Format(PyExc_ValueError,
                     "not enough values to unpack (expected 2, got %zd)", count);
    }
    else {
        PyErr_SetString(PyExc_ValueError, "too many values to unpack (expected 2)");
    }
    if (done == NULL) {
        Py_DECREF(items);
        return -1;
    }
    Py_DECREF(done);
    *result = items;
    return 1;
}

static int
attempt_accept(al_sockop *op, PyObject **result)
{
    const socket_layout *listener = layout(op->base.subject);
    al_addr peer;
    if (!non_blocking(op) || !al_addr_known(listener->family)) {
        PyObject *pair = NULL;
        int status = attempt_method(
            PyObject_CallMethod(op->base.subject, "accept", NULL), &pair);
        if (status <= 0) {
            return status;
        }
        return without_blocking_steal(pair, result); /* escapes */
    }
    int fd = al_sock_accept(op->base.loop, listener->fd, &peer);
    if (fd < 0) {
        return failed();
    }
    int type = listener->type;
#ifdef SOCK_NONBLOCK
    type |= SOCK_NONBLOCK; /* The object takes it as "timeout 0" and asks no kernel. */
#endif
    PyObject *sock = PyObject_CallFunction(op->base.loop->st->socket_type, "iiii",
                                           listener->family, type, listener->proto, fd);
    if (sock == NULL) {
        al_sock_close(fd); /* Nobody else owns it. */
        return -1;
    }
#ifndef SOCK_NONBLOCK
    PyObject *done = PyObject_CallMethod(sock, "setblocking", "i", 0);
    if (done == NULL) {
        Py_DECREF(sock);
        return -1;
    }
    Py_DECREF(done);
#endif
    return with_address_steal(sock, &peer, result);
}

/* --- sendfile ----------------------------------------------------------------------------- */

static int
sendfile_unavailable(al_sockop *op, const char *message)
{
    PyErr_SetString(op->base.loop->st->SendfileNotAvailableError, message);
    return -1;
}

/* Mirrors the head of asyncio.unix_events._sock_sendfile_native.  1: nothing to send;
 * 0: go on; -1. */
static int
start_sendfile(al_sockop *op, PyObject **result)
{
    struct stat info;
    PyObject *number = PyObject_CallMethod(op->base.arg, "fileno", NULL); /* escapes */
    if (number == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError) &&
            !PyErr_ExceptionMatches(op->base.loop->st->UnsupportedOperation)) {
            return -1;
        }
        return sendfile_unavailable(op, "not a regular file");
    }
    op->file = (int)PyLong_AsLong(number);
    Py_DECREF(number);
    if (op->file == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (fstat(op->file, &info) < 0) {
        return sendfile_unavailable(op, "not a regular file");
    }
    if (op->size == 0 && info.st_size == 0) {
        *result = PyLong_FromLong(0);
        return *result == NULL ? -1 : 1;
    }
    return 0;
}

/* asyncio leaves the file's position behind what was sent, whatever happened. */
static void
set_file_position(const al_sockop *op)
{
    (void)lseek(op->file, (off_t)op->offset, SEEK_SET);
}

static int
attempt_sendfile(al_sockop *op, PyObject **result)
{
    size_t turn = 0;
    while (turn < FILE_TURN) {
        size_t left = SIZE_MAX / 4;
        if (op->size > 0) {
            left = (size_t)(op->size - op->position);
        }
        off_t offset = (off_t)op->offset;
        ssize_t n =
            left == 0
                ? 0
                : al_count(&op->base.loop->counts.bytes_out,
                           al_sock_sendfile(op->base.loop, layout(op->base.subject)->fd,
                                            op->file, &offset,
                                            left < FILE_TURN ? left : FILE_TURN));
        if (n < 0) {
            int error = errno;
            if (al_sock_again(error)) {
                return 0;
            }
            set_file_position(op);
            if (op->position == 0) {
                return sendfile_unavailable(op, "os.sendfile call failed");
            }
            al_sock_raise(error);
            if (error == ENOTCONN && op->base.started) {
                /* The connection went away meanwhile: one error on all systems. */
                PyObject *cause = al_err_take();
                PyObject *exc = PyObject_CallFunction(
                    PyExc_ConnectionError, "si", "socket is not connected", ENOTCONN);
                if (exc == NULL) {
                    Py_DECREF(cause);
                    return -1;
                }
                PyException_SetCause(exc, cause);
                al_err_put_steal(exc);
            }
            return -1;
        }
        if (n == 0) {
            set_file_position(op);
            *result = PyLong_FromSsize_t(op->position);
            return *result == NULL ? -1 : 1;
        }
        op->offset += n;
        op->position += n;
        turn += (size_t)n;
    }
    return 0;
}

static int
attempt(al_sockop *op, PyObject **result)
{
    switch (op->operation) {
    case AL_SOCKOP_RECV:
        return attempt_recv(op, result);
    case AL_SOCKOP_RECV_INTO:
        return attempt_recv_into(op, result);
    case AL_SOCKOP_RECVFROM:
        return attempt_recvfrom(op, result);
    case AL_SOCKOP_RECVFROM_INTO:
        return attempt_recvfrom_into(op, result);
    case AL_SOCKOP_SENDALL:
        return attempt_sendall(op, result);
    case AL_SOCKOP_SENDTO:
        return attempt_sendto(op, result);
    case AL_SOCKOP_CONNECT:
        return attempt_connect(op, result);
    case AL_SOCKOP_ACCEPT:
        return attempt_accept(op, result);
    case AL_SOCKOP_SENDFILE:
        return attempt_sendfile(op, result);
    default:
        *result = op->base.arg;
        op->base.arg = NULL;
        return 1;
    }
}

/* --- waiting -------------------------------------------------------------------------- */

/* The descriptor's event (an al_run_fn). */
static int
op_ready(al_loop *loop, PyObject *self, PyObject *Py_UNUSED(arg),
         PyObject *Py_UNUSED(extra))
{
    const al_sockop *op = (const al_sockop *)self;
    if (op->base.state != AL_LAZY_WAITING || op->base.future == NULL) {
        return 0; /* Cancelled or closed meanwhile. */
    }
    PyObject *future = Py_NewRef(op->base.future);
    if (al_future_exact(loop->st, future)) {
        al_look_quiet(&loop->look);
    }
    int status = al_future_settle(loop->st, future, loop->st->str.set_result,
                                  Py_None); /* escapes */
    Py_DECREF(future);
    return status;
}

/* Leaves the table of waiters (a kind's `woken`).  Escapes. */
static void
leave_table(al_lazy *base)
{
    al_sockop *op = (al_sockop *)base;
    if (op->operation == AL_SOCKOP_SENDFILE) {
        set_file_position(op);
    }
    if (base->loop->poll != NULL) {
        al_fds_unwait(base->loop, op->fd, event_of(op->operation), (PyObject *)op);
    }
}

/* Waits for the descriptor: *result is the future to yield.  0 or -1. */
static int
start_waiting(al_sockop *op, PyObject **result)
{
    al_loop *loop = op->base.loop;
    op->fd = layout(op->base.subject)->fd;
    if (loop->closed || loop->poll == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
        return -1;
    }
    if (op->fd < 0) {
        al_sock_raise(EBADF);
        return -1;
    }
    if (AL_UNLIKELY(al_fds_transport(&loop->fds, op->fd) != NULL)) {
        PyObject *checked = PyObject_CallMethod(
            (PyObject *)loop, "_ensure_fd_no_transport", "i", op->fd); /* escapes */
        if (checked == NULL) {
            return -1;
        }
        Py_DECREF(checked);
    }
    if (al_lazy_wait(&op->base, result) < 0) {
        return -1;
    }
    if (al_fds_wait(loop, op->fd, event_of(op->operation), false, op_ready,
                    (PyObject *)op, op->base.subject) < 0) { /* escapes */
        Py_CLEAR(*result);
        al_lazy_give_up(&op->base);
        return -1;
    }
    return 0;
}

/* asyncio's checks, made when the operation is first awaited.  1: there is a result; 0
 * or -1. */
static int
start(al_sockop *op, PyObject **result)
{
    if (op->base.subject == NULL) {
        return 0;
    }
    if ((op->base.loop->debug.switches & AL_DEBUG_FDS) && !non_blocking(op)) {
        PyErr_SetString(PyExc_ValueError, "the socket must be non-blocking");
        return -1;
    }
    return op->operation == AL_SOCKOP_SENDFILE ? start_sendfile(op, result) : 0;
}

static int
step(al_lazy *base, PyObject **result)
{
    al_sockop *op = (al_sockop *)base;
    int status = base->started ? 0 : start(op, result); /* escapes */
    if (status == 0) {
        al_look_expect(&base->loop->look);
        status = attempt(op, result); /* escapes */
    }
    return status == 0 ? start_waiting(op, result) : status; /* escapes */
}

static void
ended(al_lazy *base)
{
    al_sockop *op = (al_sockop *)base;
    if (op->view.obj != NULL) {
        PyBuffer_Release(&op->view);
    }
    Py_CLEAR(op->extra);
}

static const al_lazy_kind sockop_kind = {
    "EventLoop", offsetof(al_state, SelectorEventLoop), step, leave_table, ended, NULL};

static PyObject *
op_repr(al_sockop *op)
{
    const char *state = al_lazy_state_names[op->base.state];
    return op->base.subject == NULL
               ? PyUnicode_FromFormat("<%s (%s)>", op->base.name, state)
               : PyUnicode_FromFormat("<%s of fd %d (%s)>", op->base.name,
                                      layout(op->base.subject)->fd, state);
}

/* --- life ------------------------------------------------------------------------------- */

static al_sockop *
op_alloc(al_loop *loop, al_sockop_kind kind, const char *name)
{
    al_state *st = loop->st;
    al_sockop *op = (al_sockop *)al_lazy_alloc(&st->free_sockops, st->SockOp_type, loop,
                                               &sockop_kind, name);
    if (op != NULL) {
        op->operation = (uint8_t)kind;
        op->size = op->position = 0;
        op->fd = op->file = -1;
    }
    return op;
}

PyObject *
al_sockop_new(al_loop *loop, al_sockop_kind kind, PyObject *sock, PyObject *arg,
              PyObject *extra)
{
    al_sockop *op = op_alloc(loop, kind, names[kind]);
    if (op != NULL) {
        op->base.subject = Py_NewRef(sock);
        op->base.arg = Py_XNewRef(arg);
        op->extra = Py_XNewRef(extra);
        PyObject_GC_Track(op);
    }
    return (PyObject *)op;
}

PyObject *
al_sockop_new_recv(al_loop *loop, al_sockop_kind kind, PyObject *sock, PyObject *buffer,
                   Py_ssize_t size)
{
    al_sockop *op = (al_sockop *)al_sockop_new(loop, kind, sock, buffer, NULL);
    if (op != NULL) {
        op->size = size;
    }
    return (PyObject *)op;
}

PyObject *
al_sockop_new_sendfile(al_loop *loop, PyObject *sock, PyObject *file, long long offset,
                       Py_ssize_t count)
{
    al_sockop *op =
        (al_sockop *)al_sockop_new(loop, AL_SOCKOP_SENDFILE, sock, file, NULL);
    if (op != NULL) {
        op->offset = offset;
        op->size = count;
    }
    return (PyObject *)op;
}

PyObject *
al_sockop_new_value_steal(al_loop *loop, const char *name, PyObject *value)
{
    al_sockop *op = value == NULL ? NULL : op_alloc(loop, AL_SOCKOP_VALUE, name);
    if (op == NULL) {
        Py_XDECREF(value);
        return NULL;
    }
    op->base.arg = value;
    PyObject_GC_Track(op);
    return (PyObject *)op;
}

static int
op_traverse(al_sockop *op, visitproc visit, void *arg)
{
    Py_VISIT(op->extra);
    Py_VISIT(op->view.obj);
    return al_lazy_traverse(&op->base, visit, arg);
}

static void
op_dealloc(al_sockop *op)
{
    al_state *st = op->base.loop == NULL ? NULL : op->base.loop->st;
    bool plain = st != NULL && Py_IS_TYPE(op, st->SockOp_type);
    al_lazy_dealloc(&op->base, plain ? &st->free_sockops : NULL); /* escapes */
}

void
al_sockop_clear_free_list(al_state *st)
{
    al_lazy_clear_list(&st->free_sockops);
}

static char op_doc[] = PyDoc_STR("An operation on a socket, to be awaited once: what\n"
                                 "loop.sock_recv() and its kin return.");

static PyType_Slot op_slots[] = {
    {Py_tp_doc, op_doc},
    {Py_tp_dealloc, op_dealloc},
    {Py_tp_traverse, op_traverse},
    {Py_tp_repr, op_repr},
    AL_LAZY_SLOTS,
    {0, NULL},
};

static PyType_Spec op_spec = {
    .name = "aioloop._core.SockOp",
    .basicsize = sizeof(al_sockop),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = op_slots,
};

/* The Handle of asyncio's add_reader or add_writer (an al_describe_fn). */
static int
describe_ready(al_loop *loop, const al_slot *slot, PyObject **callback, PyObject **args,
               PyObject **Py_UNUSED(context))
{
    const al_sockop *op = (al_sockop *)slot->self;
    const char *format = op->operation == AL_SOCKOP_CONNECT    ? "_%s_cb"
                         : op->operation == AL_SOCKOP_SENDFILE ? "%s_impl"
                                                               : "_%s";
    PyObject *name = PyUnicode_FromFormat(format, op->base.name);
    if (name == NULL) {
        return -1;
    }
    *args = PyTuple_Pack(2, op->base.future == NULL ? Py_None : op->base.future,
                         op->base.subject == NULL ? Py_None : op->base.subject);
    *callback =
        *args == NULL ? NULL : PyObject_GetAttr((PyObject *)loop, name); /* escapes */
    Py_DECREF(name);
    if (*callback == NULL) {
        Py_CLEAR(*args);
        return -1;
    }
    return 0;
}

int
al_sockop_init_types(PyObject *module, al_state *st)
{
    (void)layout_known(st);
    return al_state_add_type(module, &st->SockOp_type, &op_spec, NULL) < 0
               ? -1
               : al_debug_describe(st, op_ready, describe_ready, 1);
}
