/* write.c: see write.h. */
#include "io/write.h"

#include <string.h>

#include "core/context.h"
#include "core/debug.h"
#include "core/report.h"
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

/* --- flow control -------------------------------------------------------------------------------- */

int
al_write_maybe_pause(al_stream *self)
{
    if (self->out.size <= self->flow.high || self->flow.paused ||
        self->protocol == NULL || self->loop == NULL) {
        return 0;
    }
    self->flow.paused = true;
    return self->sink->pause(self); /* escapes */
}

int
al_write_maybe_resume(al_stream *self)
{
    if (!self->flow.paused || self->out.size > self->flow.low ||
        self->protocol == NULL || self->loop == NULL) {
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
    int fd = al_stream_descriptor(self);
    if (fd < 0) {
        errno = EBADF;
        return -1;
    }
    al_stream_before_send(self, fd);
    if (self->out.count > 1 && self->out.size <= JOINED_SIZE) {
        char joined[JOINED_SIZE];
        al_outbuf_copy(&self->out, joined);
        *offered = self->out.size;
        return al_count(&self->loop->counts.bytes_out,
                        al_sock_send_stream(self->loop, fd, joined, self->out.size));
    }
    struct iovec vectors[VECTORS];
    int count = al_outbuf_vectors(&self->out, vectors, VECTORS);
    *offered = vectors[0].iov_len;
    if (count == 1) {
        return al_count(&self->loop->counts.bytes_out,
                        al_sock_send_stream(self->loop, fd, vectors[0].iov_base,
                                            vectors[0].iov_len));
    }
    for (int i = 1; i < count; i++) {
        *offered += vectors[i].iov_len;
    }
    return al_count(&self->loop->counts.bytes_out,
                    al_sock_sendv_stream(self->loop, fd, vectors, count));
}

/* Sends from the queue until it is empty or the kernel takes no more.  0; 1 after an
 * error, with an exception. */
static int
send_queued(al_stream *self)
{
    al_look_expect(&self->loop->look);
    if (AL_UNLIKELY(self->send_error != 0)) {
        (void)al_sock_raise(self->send_error);
        self->send_error = 0;
        return 1;
    }
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

/* Ends the stream: shutdown(SHUT_WR).  0, or -1 with an exception. */
static int
send_eof(al_stream *self)
{
    int fd = al_stream_descriptor(self);
    errno = EBADF;
    if (fd < 0 || al_sock_shutdown_write(fd) < 0) {
        (void)al_sock_raise(errno);
        return -1;
    }
    if (self->loop != NULL) {
        al_look_expect(&self->loop->look);
    }
    return 0;
}

/* The queue is empty: close() may have waited for that, and write_eof() if `eof`. */
static int
after_drain(al_stream *self, bool eof)
{
    if (self->empty_waiter != NULL && self->loop != NULL) {
        al_state *st = self->loop->st;
        PyObject *waiter = Py_NewRef(self->empty_waiter);
        int status =
            al_future_settle(st, waiter, st->str.set_result, Py_None); /* escapes */
        Py_DECREF(waiter);
        if (status < 0) {
            return -1;
        }
    }
    if (self->closing) {
        if (self->conn_lost == 0 && self->loop != NULL) {
            self->conn_lost++;
            return al_stream_call_lost(self, Py_None); /* escapes */
        }
        return 0;
    }
    return eof ? send_eof(self) : 0;
}

/* What is left to do of a flush, and may run Python code. */
enum flushed { FLUSHED, FLUSH_FAILED, FLUSHED_ALL_OF_CLOSING };

/* The part of a flush that needs no context.  With FLUSH_FAILED an exception is
 * pending. */
static enum flushed
send_corked(al_stream *self)
{
    if (self->writing || self->conn_lost > 0) {
        return FLUSHED;
    }
    if (self->out.size > 0) {
        if (AL_UNLIKELY(send_queued(self) != 0)) {
            al_outbuf_clear(&self->out); /* Nobody tries again. */
            return FLUSH_FAILED;
        }
        if (self->out.size > 0) {
            al_stream_start_writing(self);
            return FLUSHED;
        }
        if (AL_UNLIKELY(self->closing)) {
            return FLUSHED_ALL_OF_CLOSING;
        }
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
                                     : after_drain(self, self->eof);       /* escapes */
}

/* Sends what write() queued.  0, or -1 with an exception to raise. */
int
al_write_flush(al_stream *self)
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
        al_stream_stop_writing(self);
        int status = al_stream_fatal(self, WRITE_FAILED); /* escapes */
        if (status == 0 && self->empty_waiter != NULL) {
            PyObject *waiter = Py_NewRef(self->empty_waiter);
            status =
                al_future_settle(st, waiter, st->str.set_exception, exc); /* escapes */
            Py_DECREF(waiter);
        }
        Py_DECREF(exc);
        return status;
    }
    if (self->out.size == 0) {
        al_stream_stop_writing(self);
    }
    /* A write_eof() that finds the queue empty ends the stream itself, and a peer that has
     * ended it too may be gone by then. */
    bool eof = self->eof;
    if (al_write_maybe_resume(self) < 0) { /* escapes; may write, end or close */
        return -1;
    }
    if (self->out.size == 0 && self->conn_lost == 0) {
        return after_drain(self, eof); /* escapes */
    }
    return 0;
}

int
al_write_ready(al_loop *loop, PyObject *op, PyObject *Py_UNUSED(arg),
               PyObject *Py_UNUSED(extra))
{
    al_stream *self = (al_stream *)op;
    PyObject *entered;
    if (!self->writing || self->conn_lost > 0) {
        return 0;
    }
    if (AL_UNLIKELY(al_stream_descriptor(self) < 0)) {
        al_stream_stop_writing(self); /* As in stream_readable. */
        return 0;
    }
    /* The queue may become empty and drop the context while it is entered. */
    PyObject *own = Py_XNewRef(self->write_context);
    PyObject **place = al_stream_context_place(self, &own);
    int status = al_context_enter(loop, place, &entered);
    if (status == 0) {
        status = write_ready(self); /* escapes */
        if (al_context_leave(loop, place, entered) < 0) {
            status = -1;
        }
    }
    Py_XDECREF(own);
    al_stream_check(self);
    if (AL_UNLIKELY(status < 0)) {
        return al_report_method(loop, op, loop->st->str._call_connection_lost, Py_None);
    }
    return 0;
}

/* --- corking ----------------------------------------------------------------------------------- */

/* Nobody else has the socket object, or the number. */
static inline bool
descriptor_is_ours(const al_stream *self)
{
    return !self->shared &&
           (self->sock == NULL ||
            Py_REFCNT(self->sock) == 1 + (self->transport_socket != NULL));
}

/* Whether what has just been queued may wait for the scheduler to send it: other slots
 * are ready, and the descriptor is nobody else's.  Who has it may use it right after the
 * write.  A peer that has ended may be gone: then the first write brings its reset, and the
 * second is the one to fail, as no event tells any more. */
static bool
may_cork(const al_stream *self)
{
    const al_loop *loop = self->loop;
    return loop->in_slot && al_ring_len(&loop->ready) > 0 && !loop->cork.off &&
           self->out.size <= self->flow.high && self->out.count < CORK_PIECES &&
           !self->ended && descriptor_is_ours(self) &&
           !(self->dirty && al_cork_is_old(&loop->cork));
}

/* Into the list of the loop.  False if it has to be sent at once.  Escapes, after which
 * the stream may be closed or lost: a flush of what is left of it does nothing. */
static bool
cork(al_stream *self)
{
    al_loop *loop = self->loop;
    if (!may_cork(self) || !al_cork_begin(loop->st, &loop->cork)) { /* escapes */
        return false;
    }
    if (self->out.size > CORK_LARGE) {
        loop->cork.hot = true;
    }
    if (self->dirty) {
        return true;
    }
    self->dirty = true;
    self->next_dirty = NULL;
    Py_INCREF(self);
    if (loop->cork.first == NULL) {
        loop->cork.first = self;
    }
    else {
        loop->cork.last->next_dirty = self;
    }
    loop->cork.last = self;
    return true;
}

/* al_state.send_corked: one system call for each stream.  The streams stay in the list,
 * and the rest is the scheduler's: what the kernel does not take, and errors. */
static void
send_from_outside(al_loop *loop)
{
    for (al_stream *self = loop->cork.first; self != NULL; self = self->next_dirty) {
        size_t offered;
        if (self->out.size == 0 || self->writing || self->conn_lost > 0 ||
            self->send_error != 0) {
            continue;
        }
        ssize_t n = send_some(self, &offered);
        if (n >= 0) {
            al_outbuf_drop(&self->out, (size_t)n);
        }
        else if (!al_sock_again(errno)) {
            self->send_error = errno;
        }
    }
    al_look_expect(&loop->look);
    atomic_store_explicit(&loop->cork.waiting, false, memory_order_relaxed);
}

/* Does the rest of a flush in the context of the write: an error queues connection_lost
 * in a copy of it.  Result as al_run_fn. */
static int
finish_in_context(al_loop *loop, al_stream *self, enum flushed outcome)
{
    PyObject *own = Py_XNewRef(self->write_context), *entered;
    PyObject **place = al_stream_context_place(self, &own);
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
    al_cork_ended(&loop->cork);
    while (loop->cork.first != NULL) {
        al_stream *self = loop->cork.first;
        loop->cork.first = self->next_dirty;
        self->dirty = false;
        enum flushed outcome = send_corked(self); /* escapes */
        if (AL_UNLIKELY(outcome != FLUSHED) &&
            finish_in_context(loop, self, outcome) < 0) { /* escapes */
            status = -1;
            al_stream_chain(&pending);
        }
        al_stream_check(self);
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
        if (al_write_flush(self) < 0) { /* escapes */
            return -1;
        }
        int fd = al_stream_descriptor(self);
        if (self->out.size == 0 && self->conn_lost == 0) {
            ssize_t n = -1;
            errno = EBADF;
            if (fd >= 0) {
                al_stream_before_send(self, fd);
                n = al_count(&self->loop->counts.bytes_out,
                             al_sock_send_stream(self->loop, fd, data, size));
            }
            al_look_expect(&self->loop->look);
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
                al_stream_start_writing(self);
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
        if (cork(self)) {
            return 0;
        }
        if (al_write_flush(self) < 0) { /* escapes */
            return -1;
        }
    }
    return al_write_maybe_pause(self); /* escapes */
}

static int
queue_bytes(al_stream *self, PyObject *data)
{
    Py_ssize_t size = PyBytes_GET_SIZE(data);
    return size == 0
               ? 0
               : al_outbuf_add(&self->out, data, PyBytes_AS_STRING(data), (size_t)size);
}

/* Queues one object.  0 or -1. */
static int
queue(al_stream *self, PyObject *data)
{
    if (AL_LIKELY(PyBytes_CheckExact(data))) {
        return queue_bytes(self, data);
    }
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) { /* escapes */
        return -1;
    }
    int status = write_view(self, &view); /* escapes */
    PyBuffer_Release(&view);              /* escapes */
    return status;
}

static void
release_views(Py_buffer *views, Py_ssize_t have)
{
    PyObject *pending = PyErr_Occurred() ? al_err_take() : NULL;
    for (Py_ssize_t i = 0; i < have; i++) {
        PyBuffer_Release(&views[i]); /* escapes */
    }
    PyMem_Free(views);
    if (pending != NULL) {
        al_err_put_steal(pending);
    }
}

PyObject *
al_write(al_stream *self, PyObject *data)
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

/* The buffers of all items that are no exact bytes, in their order: *views is an array
 * of *have of them, or NULL.  0, or -1 with an exception and none.  Escapes. */
static int
take_views(PyObject *items, Py_buffer **views, Py_ssize_t *have)
{
    Py_ssize_t count = PyTuple_GET_SIZE(items);
    *views = NULL;
    *have = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PyTuple_GET_ITEM(items, i);
        if (AL_LIKELY(PyBytes_CheckExact(item))) {
            continue;
        }
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
        if (*views == NULL) {
            *views = PyMem_New(Py_buffer, (size_t)(count - i));
            if (*views == NULL) {
                PyErr_NoMemory();
                goto error;
            }
        }
        if (PyObject_GetBuffer(item, *views + *have, PyBUF_SIMPLE) < 0) { /* escapes */
            goto error;
        }
        ++*have;
    }
    return 0;

error:
    release_views(*views, *have); /* escapes */
    return -1;
}

/* Queues what take_views has taken, and the bytes between.  0 or -1.  Escapes. */
static int
queue_all(al_stream *self, PyObject *items, const Py_buffer *views)
{
    int status = 0;
    for (Py_ssize_t i = 0;
         i < PyTuple_GET_SIZE(items) && status == 0 && self->conn_lost == 0; i++) {
        PyObject *item = PyTuple_GET_ITEM(items, i);
        status = views == NULL || PyBytes_CheckExact(item)
                     ? queue_bytes(self, item)
                     : write_view(self, views++); /* escapes */
    }
    return status;
}

/* All or nothing: an item that has no buffer to give must not leave those before it
 * queued.  0 or -1.  Escapes. */
static int
write_items(al_stream *self, PyObject *items)
{
    Py_buffer *views;
    Py_ssize_t have;
    if (take_views(items, &views, &have) < 0) { /* escapes */
#if PY_VERSION_HEX >= 0x030C0000
        if (PyErr_ExceptionMatches(PyExc_BufferError)) {
            /* asyncio meets it in socket.sendmsg(). */
            return al_stream_fatal(self, WRITE_FAILED); /* escapes */
        }
#endif
        return -1;
    }
    int status = 0;
    if (self->conn_lost == 0 && self->loop != NULL) {
        note_write_context(self);
        status = queue_all(self, items, views); /* escapes */
        if (status == 0 && self->conn_lost == 0) {
            status = after_write(self); /* escapes */
        }
    }
    release_views(views, have); /* escapes */
    return status;
}

PyObject *
al_writelines(al_stream *self, PyObject *list)
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
#if PY_VERSION_HEX >= 0x030C0000
    PyObject *items = PySequence_Tuple(list); /* escapes */
#else
    PyObject *sequence =
        PySequence_Fast(list, "can only join an iterable"); /* escapes */
    PyObject *items = sequence == NULL ? NULL : PySequence_Tuple(sequence);
    Py_XDECREF(sequence);
#endif
    if (items == NULL) {
        return NULL;
    }
    int status = 0;
    if (AL_LIKELY(self->conn_lost == 0 && self->loop != NULL)) {
        status = write_items(self, items); /* escapes */
    }
    else if (PyTuple_GET_SIZE(items) > 0) {
        status = count_lost_write(self); /* escapes */
    }
    Py_DECREF(items); /* escapes */
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

PyObject *
al_write_eof(al_stream *self)
{
    if (al_write_flush(self) < 0) { /* escapes */
        return NULL;
    }
    if (self->closing || self->eof) {
        Py_RETURN_NONE;
    }
    self->eof = true;
    if (self->out.size == 0 && send_eof(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}
int
al_write_init(al_state *st)
{
#if PY_VERSION_HEX >= 0x030C0000
    const char *method = "_write_sendmsg";
#else
    const char *method = "_write_ready";
#endif
    st->flush_writes = flush_dirty;
    st->send_corked = send_from_outside;
    return al_debug_describe_method(st, al_write_ready, method, false, 2);
}
