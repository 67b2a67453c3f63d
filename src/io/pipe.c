/* pipe.c: see pipe.h.  Mirrors asyncio.unix_events._UnixReadPipeTransport and
 * _UnixWritePipeTransport.
 *
 * A pipe waits in the loop's table of descriptors (core/fds.h), as asyncio's does by way
 * of add_reader and add_writer, and stays there when an event has come: its callbacks see
 * it polling.  So two pipes may share a descriptor, one for each direction, and the loop
 * keeps alive what it waits for. */
#include "io/pipe.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/args.h"
#include "core/context.h"
#include "core/debug.h"
#include "core/report.h"
#include "io/flow.h"
#include "io/outbuf.h"
#include "io/sock.h"
#include "io/transport.h"

enum {
    /* A read of this size makes the next one direct, with room for a quarter more: that is
     * a page of any system, so a pipe in packet mode loses nothing. */
    DIRECT_FROM = 52 * 1024,
    VECTORS = 64,
    WARN_FROM = 5, /* asyncio.constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES */
};

typedef struct {
    al_transport base;
    PyObject *pipe; /* the file object; it owns the descriptor; NULL when it is lost */
    al_outbuf out;  /* to be written */
    size_t last_read; /* bytes that the last read gave */
    int waiting;      /* AL_READ, AL_WRITE: what it has asked the loop for */
    bool writer;
    bool keeps_messages; /* one read gives one of them, and drops what has no room */
    bool watches_peer;   /* a writer: the descriptor tells when the reader goes */
    bool lost;           /* connection_lost is scheduled */
} al_pipe;

static int pipe_readable(al_loop *loop, PyObject *op, PyObject *arg, PyObject *extra);
static int pipe_writable(al_loop *loop, PyObject *op, PyObject *arg, PyObject *extra);

/* --- waiting ------------------------------------------------------------------------------ */

static bool
waits(const al_pipe *self, int event)
{
    PyObject *reader, *writer;
    (void)al_fds_get(&self->base.loop->fds, self->base.fd, &reader, &writer);
    return (event == AL_READ ? reader : writer) == (const PyObject *)self;
}

/* Asks the loop to tell of an event, or not to; once, as asyncio does: a program that takes
 * the descriptor's reader away has it away.  0, or -1 with MemoryError.  Escapes. */
static int
set_waiting(al_pipe *self, int event, bool wanted, al_run_fn run)
{
    al_loop *loop = self->base.loop;
    if (wanted == ((self->waiting & event) != 0)) {
        return 0;
    }
    self->waiting ^= event;
    if (!wanted) {
        al_fds_unwait(loop, self->base.fd, event, (PyObject *)self);
        return 0;
    }
    if (al_fds_wait(loop, self->base.fd, event, true, run, (PyObject *)self,
                    (PyObject *)self) < 0) { /* escapes */
        self->waiting &= ~event;
        return -1;
    }
    return 0;
}

/* Waits for what is wanted now.  0, or -1 with MemoryError.  Escapes: another waiter of
 * the descriptor may be replaced. */
static int
update_waits(al_pipe *self)
{
    al_loop *loop = self->base.loop;
    if (loop == NULL || loop->poll == NULL || !self->base.started) {
        return 0;
    }
    bool read = self->writer ? self->watches_peer : !self->base.paused;
    bool write = self->out.count > 0;
    /* A writer that is closing still wants to know whether its reader goes. */
    read = read && !self->lost && (!self->base.closing || (self->writer && write));
    if (set_waiting(self, AL_READ, read, pipe_readable) < 0) { /* escapes */
        return -1;
    }
    return self->base.loop == NULL || self->base.loop->poll == NULL
               ? 0
               : set_waiting(self, AL_WRITE, write, pipe_writable); /* escapes */
}

/* --- closing ---------------------------------------------------------------------------- */

/* Has _call_connection_lost(exc) called in the next iteration, once; exc may be NULL. */
static int
schedule_lost(al_pipe *self, PyObject *exc)
{
    if (self->lost) {
        return 0;
    }
    self->lost = true;
    PyObject *method =
        PyObject_GetAttrString((PyObject *)self, "_call_connection_lost");
    if (method == NULL) {
        return -1;
    }
    int status = al_sched_call_soon(self->base.loop->st, (PyObject *)self->base.loop,
                                    method, exc == NULL ? Py_None : exc,
                                    self->base.context); /* escapes */
    Py_DECREF(method);
    return status;
}

/* Mirrors _close: what is not written yet is dropped.  Escapes. */
static int
close_now(al_pipe *self, PyObject *exc)
{
    if (self->base.loop == NULL) {
        return 0;
    }
    self->base.closing = true;
    al_outbuf_clear(&self->out);
    int status = schedule_lost(self, exc); /* escapes */
    return update_waits(self) < 0 ? -1 : status;
}

/* asyncio's logger, at the level that `method` names, with the pipe as the argument and
 * the exception, which may be NULL, as exc_info.  0 or -1.  Escapes. */
static int
log_debug(al_pipe *self, const char *method, const char *text, PyObject *exc)
{
    if ((self->base.loop->debug.switches & AL_DEBUG_FDS) == 0) {
        return 0;
    }
    PyObject *result = NULL, *function = NULL, *args = NULL, *kwargs = NULL;
    PyObject *logger = PyObject_GetAttr(self->base.loop->st->base_events,
                                        self->base.loop->st->str.logger);
    if (logger != NULL) {
        function = PyObject_GetAttrString(logger, method);
        args = Py_BuildValue("sO", text, self);
        kwargs = exc == NULL ? PyDict_New() : Py_BuildValue("{s:O}", "exc_info", exc);
    }
    if (function != NULL && args != NULL && kwargs != NULL) {
        result = PyObject_Call(function, args, kwargs); /* escapes */
    }
    Py_XDECREF(logger);
    Py_XDECREF(function);
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Mirrors _fatal_error for the pending exception.  0, or -1 with an exception that must
 * leave run_forever.  Escapes. */
static int
fatal_error(al_pipe *self, bool quiet, const char *message, const char *log)
{
    if (al_report_must_leave()) {
        return -1;
    }
    int status;
    PyObject *exc = al_err_take();
    if (quiet) {
        status = log_debug(self, "debug", log, exc);
    }
    else {
        al_err_put_steal(Py_NewRef(exc));
        status = al_flow_report(self->base.loop, message, (PyObject *)self,
                                self->base.protocol);
    }
    if (status == 0) {
        status = close_now(self, exc); /* escapes */
    }
    Py_DECREF(exc);
    return status;
}

/* Gives the descriptor back, by closing the file object.  Escapes. */
static int
release(al_pipe *self)
{
    al_loop *loop = self->base.loop;
    PyObject *pipe = self->pipe;
    int status = 0;
    if (loop != NULL && loop->poll != NULL) {
        al_fds_unwait(loop, self->base.fd, AL_READ, (PyObject *)self);
        al_fds_unwait(loop, self->base.fd, AL_WRITE, (PyObject *)self);
    }
    self->base.loop = NULL;
    self->pipe = NULL;
    al_outbuf_clear(&self->out);
    if (pipe != NULL) {
        if (loop != NULL) {
            al_look_expect(&loop->look);
        }
        PyObject *closed = PyObject_CallMethod(pipe, "close", NULL); /* escapes */
        status = closed == NULL ? -1 : 0;
        Py_XDECREF(closed);
        Py_DECREF(pipe);
    }
    Py_CLEAR(self->base.protocol);
    Py_CLEAR(self->base.context);
    Py_XDECREF((PyObject *)loop);
    return status;
}

static PyObject *
Pipe__call_connection_lost(al_pipe *self, PyObject *exc)
{
    AL_OWN(self->base.loop, NULL);
    PyObject *result = NULL;
    if (self->base.loop == NULL) {
        Py_RETURN_NONE;
    }
    self->lost = true;
    if (self->base.protocol != NULL) {
        PyObject *protocol = Py_NewRef(self->base.protocol);
        result = PyObject_CallMethodOneArg(
            protocol, self->base.loop->st->str.connection_lost, exc); /* escapes */
        Py_DECREF(protocol);
    }
    PyObject *pending = result == NULL ? al_err_take() : NULL;
    Py_XDECREF(result);
    int status = release(self); /* escapes */
    if (pending != NULL) {
        if (status < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        al_err_put_steal(pending);
        status = -1;
    }
    if (status < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* --- reading ---------------------------------------------------------------------------- */

/* Calls protocol.data_received in the transport's context; reports what it raises. */
static int
hand_over_steal(al_pipe *self, PyObject *data)
{
    al_loop *loop = self->base.loop;
    PyObject *protocol = self->base.protocol, *entered;
    if (protocol == NULL || data == NULL ||
        al_context_enter(loop, &self->base.context, &entered) < 0) {
        Py_XDECREF(data);
        return protocol == NULL ? 0 : -1;
    }
    Py_INCREF(protocol);
    PyObject *result = PyObject_CallMethodOneArg(protocol, loop->st->str.data_received,
                                                 data); /* escapes */
    Py_DECREF(data);
    if (al_context_leave(loop, &self->base.context, entered) < 0) {
        Py_CLEAR(result);
    }
    int status = 0;
    if (result == NULL) {
        status =
            al_report_method(loop, (PyObject *)self, loop->st->str._read_ready, NULL);
    }
    Py_XDECREF(result);
    Py_DECREF(protocol);
    return status;
}

static int
at_eof(al_pipe *self)
{
    al_loop *loop = self->base.loop;
    int status = log_debug(self, "info", "%r was closed by peer", NULL); /* escapes */
    if (self->lost) {
        return status; /* Who was told has closed it. */
    }
    self->base.closing = true;
    if (status == 0 && self->base.protocol != NULL) {
        PyObject *method =
            PyObject_GetAttr(self->base.protocol, loop->st->str.eof_received);
        status = method == NULL
                     ? -1
                     : al_sched_call_soon(loop->st, (PyObject *)loop, method, NULL,
                                          self->base.context); /* escapes */
        Py_XDECREF(method);
    }
    if (status < 0) {
        return fatal_error(self, false, "Fatal read error on pipe transport", NULL);
    }
    return schedule_lost(self, NULL); /* escapes */
}

/* One read: a bytes object; NULL with *n <= 0 and errno, or with an exception. */
static PyObject *
receive(al_pipe *self, ssize_t *n)
{
    al_loop *loop = self->base.loop;
    PyObject *data = NULL;
    if (self->last_read < DIRECT_FROM || self->keeps_messages) {
        size_t most = AL_ARENA_BUFFER;
        char *buffer = al_arena_buffer(&loop->arena);
        *n = buffer == NULL ? 0
             : self->keeps_messages
                 ? al_count(&loop->counts.bytes_in,
                            al_sock_read(self->base.loop, self->base.fd, buffer, most))
                 : al_count(&loop->counts.bytes_in,
                            al_sock_read_stream(self->base.loop, self->base.fd, buffer,
                                                most));
        data = *n <= 0 ? NULL : al_arena_bytes(&loop->arena, buffer, *n);
    }
    else {
        size_t size = self->last_read + self->last_read / 4;
        size = size < AL_ARENA_BUFFER ? size : AL_ARENA_BUFFER;
        data = al_arena_large(&loop->arena, (Py_ssize_t)size);
        *n = data == NULL
                 ? 0
                 : al_count(&loop->counts.bytes_in,
                            al_sock_read_stream(self->base.loop, self->base.fd,
                                                PyBytes_AS_STRING(data), size));
        if (*n > 0) {
            data = al_arena_fit_steal(&loop->arena, data, *n);
        }
        else if (data != NULL) {
            int error = errno;
            Py_CLEAR(data);
            errno = error;
        }
    }
    if (*n > 0) {
        self->last_read = (size_t)*n;
    }
    return data;
}

static int
read_some(al_pipe *self)
{
    ssize_t n;
    PyObject *data = receive(self, &n);
    if (data != NULL) {
        return hand_over_steal(self, data); /* escapes */
    }
    if (n < 0) {
        int error = errno;
        if (al_sock_again(error)) {
            return 0;
        }
        al_sock_raise(error);
        return fatal_error(self, error == EIO, "Fatal read error on pipe transport",
                           "%r: Fatal read error on pipe transport"); /* escapes */
    }
    if (PyErr_Occurred()) {
        return fatal_error(self, false, "Fatal read error on pipe transport", NULL);
    }
    return at_eof(self); /* escapes */
}

/* Reads and hands over what a pipe holds now, be the loop about to look at it or not: its
 * writer has ended. */
static PyObject *
Pipe__read_waiting(al_pipe *self, PyObject *Py_UNUSED(ignored))
{
    int left = self->base.loop != NULL && self->base.started && !self->keeps_messages
                   ? al_sock_waiting(self->base.fd)
                   : 0;
    while (left > 0 && self->base.loop != NULL && !self->base.closing &&
           !self->base.paused) {
        self->last_read = 0;
        if (read_some(self) < 0) { /* escapes */
            return NULL;
        }
        /* Refused, or somebody else reads it too. */
        left = self->last_read == 0 ? al_sock_waiting(self->base.fd)
                                    : left - (int)self->last_read;
    }
    Py_RETURN_NONE;
}

/* The descriptor is readable (an al_run_fn). */
static int
pipe_readable(al_loop *Py_UNUSED(loop), PyObject *op, PyObject *Py_UNUSED(arg),
              PyObject *Py_UNUSED(extra))
{
    al_pipe *self = (al_pipe *)op;
    int status = 0;
    if (self->base.loop == NULL || self->lost) {
        return 0;
    }
    if (self->writer) {
        /* The reader has gone. */
        status = log_debug(self, "info", "%r was closed by peer", NULL); /* escapes */
        PyObject *exc = NULL;
        if (self->out.count > 0) {
            exc = PyObject_CallNoArgs(PyExc_BrokenPipeError);
        }
        if (close_now(self, exc) < 0) { /* escapes */
            status = -1;
        }
        Py_XDECREF(exc);
    }
    else if (!self->base.closing && !self->base.paused) {
        status = read_some(self); /* escapes */
    }
    return update_waits(self) < 0 ? -1 : status;
}

/* --- writing ---------------------------------------------------------------------------- */

/* Mirrors the error branch of _write_ready and write. */
static int
write_failed(al_pipe *self, int error)
{
    al_outbuf_clear(&self->out);
    self->base.conn_lost++;
    if (update_waits(self) < 0) { /* escapes */
        return -1;
    }
    al_sock_raise(error);
    return fatal_error(self, true, NULL,
                       "%r: Fatal write error on pipe transport"); /* escapes */
}

/* Writes from the queue.  asyncio joins what waits, also where each write is a message of
 * its own.  0, or -1 with errno after an error. */
static int
write_some(al_pipe *self)
{
    struct iovec vectors[VECTORS];
    int count = al_outbuf_vectors(&self->out, vectors, VECTORS);
    al_look_expect(&self->base.loop->look);
    if (!self->keeps_messages) {
        ssize_t n = al_count(
            &self->base.loop->counts.bytes_out,
            al_sock_writev_stream(self->base.loop, self->base.fd, vectors, count));
        if (n > 0) {
            al_outbuf_drop(&self->out, (size_t)n);
        }
        return n < 0 && !al_sock_again(errno) ? -1 : 0;
    }
    for (int i = 0; i < count; i++) {
        size_t size = vectors[i].iov_len;
        ssize_t n = al_count(
            &self->base.loop->counts.bytes_out,
            al_sock_write(self->base.loop, self->base.fd, vectors[i].iov_base, size));
        if (n < 0) {
            return al_sock_again(errno) ? 0 : -1;
        }
        al_outbuf_drop(&self->out, (size_t)n);
        if ((size_t)n < size) {
            break;
        }
    }
    return 0;
}

/* The descriptor is writable (an al_run_fn). */
static int
pipe_writable(al_loop *loop, PyObject *op, PyObject *Py_UNUSED(arg),
              PyObject *Py_UNUSED(extra))
{
    al_pipe *self = (al_pipe *)op;
    int status = 0;
    if (self->base.loop == NULL || self->lost || self->out.count == 0) {
        return 0;
    }
    if (write_some(self) < 0) {
        status = write_failed(self, errno); /* escapes */
    }
    else if (self->out.count == 0) {
        /* asyncio resumes the protocol when the buffer is empty. */
        status = update_waits(self); /* escapes */
        if (status == 0) {
            status = al_flow_shrunk(loop, &self->base.flow, 0, op,
                                    self->base.protocol); /* escapes; may write */
        }
        if (status == 0 && self->base.loop != NULL && self->base.closing &&
            !self->lost && self->out.count == 0) {
            status = schedule_lost(self, NULL); /* escapes */
        }
    }
    return update_waits(self) < 0 ? -1 : status;
}

PyDoc_STRVAR(write_doc, "write($self, /, data)\n--\n\n"
                        "Write bytes, at once as far as the pipe takes them.\n\n"
                        "Source: asyncio, WriteTransport.write.");

static PyObject *
Pipe_write(al_pipe *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    AL_OWN(self->base.loop, NULL);
    Py_buffer view;
    PyObject *data =
        al_args_one("_UnixWritePipeTransport.write", "data", args, nargs, kwnames);
    if (data == NULL) {
        return NULL;
    }
    if (!PyBytes_Check(data) && !PyByteArray_Check(data) && !PyMemoryView_Check(data)) {
        PyErr_Format(PyExc_AssertionError, "%R", data);
        return NULL;
    }
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    bool failed = false;
    if (view.len == 0) {
        goto done;
    }
    if (self->base.conn_lost > 0 || self->base.closing || self->base.loop == NULL) {
        if (self->base.conn_lost >= WARN_FROM) {
            failed = al_debug_warn(al_state_of(Py_TYPE(self)),
                                   "pipe closed by peer or "
                                   "os.write(pipe, data) raised exception.",
                                   NULL, NULL) < 0; /* escapes */
        }
        self->base.conn_lost++;
        goto done;
    }
    ssize_t n = 0;
    if (self->out.count == 0) {
        size_t size = (size_t)view.len;
        al_look_expect(&self->base.loop->look);
        n = self->keeps_messages
                ? al_count(
                      &self->base.loop->counts.bytes_out,
                      al_sock_write(self->base.loop, self->base.fd, view.buf, size))
                : al_count(&self->base.loop->counts.bytes_out,
                           al_sock_write_stream(self->base.loop, self->base.fd,
                                                view.buf, size));
        if (n < 0) {
            int error = errno;
            if (!al_sock_again(error)) {
                failed = write_failed(self, error) < 0; /* escapes */
                goto done;
            }
            n = 0;
        }
        if (n == view.len) {
            goto done;
        }
    }
    const char *rest = (const char *)view.buf + n;
    size_t size = (size_t)(view.len - n);
    failed =
        (PyBytes_CheckExact(data) ? al_outbuf_add(&self->out, data, rest, size)
                                  : al_outbuf_add_copy(&self->out, rest, size)) < 0 ||
        update_waits(self) < 0 || /* escapes */
        al_flow_grown(self->base.loop, &self->base.flow, self->out.size,
                      (PyObject *)self, self->base.protocol) < 0; /* escapes */

done:
    PyBuffer_Release(&view);
    if (failed) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(write_eof_doc, "write_eof($self, /)\n--\n\n"
                            "Close the pipe once what is queued has been written; its\n"
                            "reader sees the end.\n\n"
                            "Source: asyncio, WriteTransport.write_eof.");

static PyObject *
Pipe_write_eof(al_pipe *self, PyObject *Py_UNUSED(ignored))
{
    AL_OWN(self->base.loop, NULL);
    if (!self->base.closing && self->base.loop != NULL) {
        self->base.closing = true;
        if ((self->out.count == 0 && schedule_lost(self, NULL) < 0) || /* escapes */
            update_waits(self) < 0) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(can_write_eof_doc, "can_write_eof($self, /)\n--\n\n"
                                "Return True: write_eof() is supported.");

static PyObject *
Pipe_can_write_eof(al_pipe *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(abort_doc, "abort($self, /)\n--\n\n"
                        "Close the pipe; what is queued is dropped.");

static PyObject *
Pipe_abort(al_pipe *self, PyObject *Py_UNUSED(ignored))
{
    AL_END_SOON(self->base.loop, self, "abort");
    if (close_now(self, NULL) < 0) { /* escapes */
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\n"
                        "Close the pipe; a writer writes what is queued first.\n\n"
                        "Source: asyncio, BaseTransport.close.");

static PyObject *
Pipe_close(al_pipe *self, PyObject *ignored)
{
    AL_END_SOON(self->base.loop, self, "close");
    if (self->writer) {
        return Pipe_write_eof(self, ignored);
    }
    if (!self->base.closing && close_now(self, NULL) < 0) { /* escapes */
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(size_doc, "get_write_buffer_size($self, /)\n--\n\n"
                       "Return how many bytes wait to be written.");

static PyObject *
Pipe_get_write_buffer_size(al_pipe *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromSize_t(self->out.size);
}

static PyObject *
Pipe_set_write_buffer_limits(al_pipe *self, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames)
{
    AL_OWN(self->base.loop, NULL);
    return al_transport_set_limits(&self->base, self->out.size, args, nargs, kwnames);
}

/* --- reading on and off ------------------------------------------------------------------- */

PyDoc_STRVAR(pause_reading_doc, "pause_reading($self, /)\n--\n\n"
                                "Read no more until resume_reading().");

static PyObject *
Pipe_pause_reading(al_pipe *self, PyObject *Py_UNUSED(ignored))
{
    AL_OWN(self->base.loop, NULL);
    if (self->base.loop != NULL && !self->base.closing && !self->base.paused) {
        self->base.paused = true;
        if (update_waits(self) < 0 ||
            log_debug(self, "debug", "%r pauses reading", NULL) < 0) { /* escapes */
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(resume_reading_doc, "resume_reading($self, /)\n--\n\n"
                                 "Read again.");

static PyObject *
Pipe_resume_reading(al_pipe *self, PyObject *Py_UNUSED(ignored))
{
    AL_OWN(self->base.loop, NULL);
    if (self->base.loop != NULL && !self->base.closing && self->base.paused) {
        self->base.paused = false;
        if (update_waits(self) < 0 ||
            log_debug(self, "debug", "%r resumes reading", NULL) < 0) { /* escapes */
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(is_reading_doc, "is_reading($self, /)\n--\n\n"
                             "Return True if the pipe is being read.");

static PyObject *
Pipe_is_reading(al_pipe *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(!self->base.closing && !self->base.paused);
}

static PyObject *
Pipe__read_ready(al_pipe *self, PyObject *Py_UNUSED(ignored))
{
    return al_transport_soon(self->base.loop, (PyObject *)self, pipe_readable);
}

static PyObject *
Pipe__write_ready(al_pipe *self, PyObject *Py_UNUSED(ignored))
{
    return al_transport_soon(self->base.loop, (PyObject *)self, pipe_writable);
}

/* --- making and freeing ------------------------------------------------------------------- */

/* Waiting begins, and whoever made the pipe is told (an al_run_fn).  connection_made has
 * been called. */
static int
pipe_start(al_loop *loop, PyObject *op, PyObject *waiter, PyObject *Py_UNUSED(extra))
{
    al_pipe *self = (al_pipe *)op;
    self->base.started = true;
    int status = update_waits(self);                          /* escapes */
    if (status == 0 && al_transport_tell(loop, waiter) < 0) { /* escapes */
        return al_flow_report(loop, "Exception in a pipe transport", op,
                              self->base.protocol);
    }
    return status;
}

/* Whether a write end tells when its read end is closed; see the comment in asyncio. */
static bool
tells_of_peer(const struct stat *info)
{
    if (S_ISSOCK(info->st_mode)) {
        return true;
    }
    if (!S_ISFIFO(info->st_mode)) {
        return false;
    }
#if defined(_AIX)
    return false;
#elif defined(__APPLE__) || defined(__sun)
    return info->st_nlink == 0; /* Named FIFOs report what is not so (gh-145030). */
#else
    return true;
#endif
}

/* Whether a read that is too short loses the rest: datagrams, and what devices give packet
 * by packet. */
static bool
keeps_messages(int fd, const struct stat *info)
{
    return S_ISSOCK(info->st_mode) ? !al_sock_is_stream(fd) : !S_ISFIFO(info->st_mode);
}

static int
open_descriptor(al_pipe *self, al_state *st)
{
    struct stat info;
    PyObject *fileno = PyObject_CallMethodNoArgs(self->pipe, st->str.fileno);
    if (fileno == NULL) {
        return -1;
    }
    self->base.fd = (int)PyLong_AsLong(fileno);
    Py_DECREF(fileno);
    if (self->base.fd == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (fstat(self->base.fd, &info) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    if (!S_ISFIFO(info.st_mode) && !S_ISSOCK(info.st_mode) && !S_ISCHR(info.st_mode)) {
        PyErr_SetString(PyExc_ValueError,
                        self->writer ? "Pipe transport is only for "
                                       "pipes, sockets and character devices"
                                     : "Pipe transport is for pipes/sockets only.");
        return -1;
    }
    self->watches_peer = self->writer && tells_of_peer(&info);
    int flags = fcntl(self->base.fd, F_GETFL);
    if (flags < 0 || (!(flags & O_NONBLOCK) &&
                      fcntl(self->base.fd, F_SETFL, flags | O_NONBLOCK) < 0)) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    self->keeps_messages = keeps_messages(self->base.fd, &info);
    return 0;
}

static PyObject *
pipe_new(al_loop *loop, PyTypeObject *type, PyObject *pipe, PyObject *protocol,
         PyObject *waiter, PyObject *extra)
{
    al_state *st = loop->st;
    al_pipe *self = (al_pipe *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->base.fd = -1;
    self->writer = type == st->WritePipeTransport_type;
    al_flow_init(&self->base.flow);
    al_outbuf_init(&self->out);
    self->pipe = Py_NewRef(pipe);
    self->base.extra =
        extra == NULL || extra == Py_None ? PyDict_New() : Py_NewRef(extra);
    if (self->base.extra == NULL ||
        PyDict_SetItem(self->base.extra, st->str.pipe, pipe) < 0 ||
        open_descriptor(self, st) < 0 || al_context_capture(&self->base.context) < 0) {
        goto error;
    }
    self->base.loop = (al_loop *)Py_NewRef((PyObject *)loop);
    self->base.protocol = Py_NewRef(protocol);
    if (al_transport_begin(loop, (PyObject *)self, protocol, waiter, pipe_start) <
        0) { /* escapes */
        goto error;
    }
    return (PyObject *)self;

error:
    Py_CLEAR(self->pipe); /* Still its maker's. */
    Py_DECREF(self);
    return NULL;
}

PyObject *
al_pipe_new_reader(al_loop *loop, PyObject *pipe, PyObject *protocol, PyObject *waiter,
                   PyObject *extra)
{
    return pipe_new(loop, loop->st->ReadPipeTransport_type, pipe, protocol, waiter,
                    extra);
}

PyObject *
al_pipe_new_writer(al_loop *loop, PyObject *pipe, PyObject *protocol, PyObject *waiter,
                   PyObject *extra)
{
    return pipe_new(loop, loop->st->WritePipeTransport_type, pipe, protocol, waiter,
                    extra);
}

static int
pipe_traverse(al_pipe *self, visitproc visit, void *arg)
{
    Py_VISIT(self->pipe);
    return al_transport_traverse(&self->base, visit, arg);
}

static int
pipe_clear(al_pipe *self)
{
    if (release(self) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    al_transport_clear(&self->base);
    return 0;
}

static int pipe_finalize_here(al_loop *loop, PyObject *op, PyObject *arg,
                              PyObject *extra);

static void
pipe_finalize(PyObject *op)
{
    al_pipe *self = (al_pipe *)op;
    if (self->pipe == NULL ||
        al_transport_finalize_soon(self->base.loop, op, pipe_finalize_here)) {
        return;
    }
    PyObject *pending = al_err_take();
    al_transport_warn_unclosed(self->base.loop, op); /* escapes */
    if (release(self) < 0) {                         /* escapes */
        PyErr_WriteUnraisable(op);
    }
    al_err_put_steal(pending);
}

static int
pipe_finalize_here(al_loop *Py_UNUSED(loop), PyObject *op, PyObject *Py_UNUSED(arg),
                   PyObject *Py_UNUSED(extra))
{
    pipe_finalize(op); /* escapes */
    return 0;
}

static PyObject *
pipe_repr(al_pipe *self)
{
    const char *name = self->writer ? "WritePipeTransport" : "ReadPipeTransport";
    if (self->pipe == NULL) {
        return PyUnicode_FromFormat("<%s closed fd=%d closed>", name, self->base.fd);
    }
    const char *state = self->base.closing ? " closing" : "";
    if (self->base.loop == NULL || self->base.loop->poll == NULL) {
        return PyUnicode_FromFormat("<%s%s fd=%d open>", name, state, self->base.fd);
    }
    const char *polling =
        waits(self, self->writer ? AL_WRITE : AL_READ) ? "polling" : "idle";
    if (!self->writer) {
        return PyUnicode_FromFormat("<%s%s fd=%d %s>", name, state, self->base.fd,
                                    polling);
    }
    return PyUnicode_FromFormat("<%s%s fd=%d %s bufsize=%zu>", name, state,
                                self->base.fd, polling, self->out.size);
}

#define COMMON_METHODS                                                                 \
    {"close", (PyCFunction)Pipe_close, METH_NOARGS, close_doc}, AL_TRANSPORT_METHODS,  \
        {"_read_ready", (PyCFunction)Pipe__read_ready, METH_NOARGS, NULL},             \
    {                                                                                  \
        "_call_connection_lost", (PyCFunction)Pipe__call_connection_lost, METH_O, NULL \
    }

static PyMethodDef reader_methods[] = {
    COMMON_METHODS,
    {"_read_waiting", (PyCFunction)Pipe__read_waiting, METH_NOARGS, NULL},
    {"is_reading", (PyCFunction)Pipe_is_reading, METH_NOARGS, is_reading_doc},
    {"pause_reading", (PyCFunction)Pipe_pause_reading, METH_NOARGS, pause_reading_doc},
    {"resume_reading", (PyCFunction)Pipe_resume_reading, METH_NOARGS,
     resume_reading_doc},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef writer_methods[] = {
    COMMON_METHODS,
    {"_write_ready", (PyCFunction)Pipe__write_ready, METH_NOARGS, NULL},
    {"write", (PyCFunction)(void (*)(void))Pipe_write, METH_FASTCALL | METH_KEYWORDS,
     write_doc},
    {"write_eof", (PyCFunction)Pipe_write_eof, METH_NOARGS, write_eof_doc},
    {"can_write_eof", (PyCFunction)Pipe_can_write_eof, METH_NOARGS, can_write_eof_doc},
    {"abort", (PyCFunction)Pipe_abort, METH_NOARGS, abort_doc},
    {"get_write_buffer_size", (PyCFunction)Pipe_get_write_buffer_size, METH_NOARGS,
     size_doc},
    AL_TRANSPORT_GET_LIMITS,
    {"set_write_buffer_limits",
     (PyCFunction)(void (*)(void))Pipe_set_write_buffer_limits,
     METH_FASTCALL | METH_KEYWORDS, al_transport_set_limits_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef pipe_members[] = {
    AL_TRANSPORT_MEMBERS,
    {"_fileno", T_INT, offsetof(al_pipe, base.fd), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

/* Tests set it to None, which takes the object away from the transport. */
static PyObject *
get_pipe(al_pipe *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(self->pipe == NULL ? Py_None : self->pipe);
}

static int
set_pipe(al_pipe *self, PyObject *value, void *Py_UNUSED(closure))
{
    PyObject *old = self->pipe;
    self->pipe = value == NULL || value == Py_None ? NULL : Py_NewRef(value);
    Py_XDECREF(old); /* escapes */
    return 0;
}

static PyGetSetDef pipe_getsets[] = {
    {"_pipe", (getter)get_pipe, (setter)set_pipe, NULL, NULL},
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static int
add_type(PyObject *module, PyTypeObject **slot, const char *name, const char *doc,
         PyMethodDef *methods, PyObject *base)
{
    al_state *st = al_state_of_module(module);
    if (!al_transport_fits(st, base, offsetof(al_transport, loop))) {
        base = NULL; /* Nobody will make one. */
    }
    PyType_Slot slots[] = {
        {Py_tp_doc, (void *)(uintptr_t)doc},
        {Py_tp_dealloc, al_transport_dealloc},
        {Py_tp_finalize, pipe_finalize},
        {Py_tp_traverse, pipe_traverse},
        {Py_tp_clear, pipe_clear},
        {Py_tp_repr, pipe_repr},
        {Py_tp_methods, methods},
        {Py_tp_members, pipe_members},
        {Py_tp_getset, pipe_getsets},
        {0, NULL},
    };
    PyType_Spec spec = {
        .name = name,
        .basicsize = sizeof(al_pipe),
        .flags =
            Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
        .slots = slots,
    };
    return al_state_add_type(module, slot, &spec, base);
}

int
al_pipe_init_types(PyObject *module, al_state *st)
{
    if (add_type(module, &st->ReadPipeTransport_type, "aioloop._core.ReadPipeTransport",
                 "The transport of a pipe's read end.", reader_methods,
                 st->ReadTransport) < 0 ||
        al_debug_describe_method(st, pipe_readable, "_read_ready", false, 1) < 0 ||
        al_debug_describe_method(st, pipe_writable, "_write_ready", false, 2) < 0) {
        return -1;
    }
    /* asyncio's writer is an asyncio.Transport, by its flow control's base class. */
    return add_type(
        module, &st->WritePipeTransport_type, "aioloop._core.WritePipeTransport",
        "The transport of a pipe's write end.", writer_methods, st->Transport);
}
