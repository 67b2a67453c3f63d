/* protocol.c: see protocol.h.
 *
 * Bytes arrive in the loop's receive buffer and are copied into a bytes object of their
 * exact size: a fixed large object would be an mmap and a munmap per read.  A stream
 * whose last read was large receives into the bytes object itself. */
#include "io/protocol.h"

#include "io/reader.h"
#include "io/stream.h"
#include "io/tls.h"
#include "task/future.h"

enum {
    DIRECT_FROM = 16 * 1024, /* a read of this size makes the next one direct */
};

static const char DATA_RECEIVED_FAILED[] =
    "Fatal error: protocol.data_received() call failed.";
static const char GET_BUFFER_FAILED[] =
    "Fatal error: protocol.get_buffer() call failed.";
static const char BUFFER_UPDATED_FAILED[] =
    "Fatal error: protocol.buffer_updated() call failed.";
static const char EOF_RECEIVED_FAILED[] =
    "Fatal error: protocol.eof_received() call failed.";
static const char READ_FAILED[] = "Fatal read error on socket transport";

/* --- data_received ------------------------------------------------------------------ */

/* protocol.data_received(data); steals data. */
static int
hand_over_steal(al_stream *stream, PyObject *data)
{
    PyObject *protocol = Py_NewRef(stream->protocol);
    PyObject *result = PyObject_CallMethodOneArg(
        protocol, stream->loop->st->str.data_received, data); /* escapes */
    Py_DECREF(data);
    Py_DECREF(protocol);
    if (AL_UNLIKELY(result == NULL)) {
        return al_stream_fatal(stream, DATA_RECEIVED_FAILED);
    }
    Py_DECREF(result);
    return 0;
}

/* The size to receive straight into a bytes object, or 0 if the last read was small. */
static size_t
direct_size(const al_stream *stream)
{
    if (stream->last_read < DIRECT_FROM) {
        return 0;
    }
    size_t size = stream->last_read + stream->last_read / 4;
    return size < AL_ARENA_BUFFER ? size : AL_ARENA_BUFFER;
}

/* Receives up to `size` bytes: the object, or NULL with *status as the sink's result. */
static PyObject *
receive_directly(al_stream *stream, size_t size, int *status)
{
    al_loop *loop = stream->loop;
    PyObject *data = al_arena_large(&loop->arena, (Py_ssize_t)size);
    if (data == NULL) {
        *status = al_stream_fatal(stream, READ_FAILED);
        return NULL;
    }
    ssize_t n = al_stream_receive(stream, PyBytes_AS_STRING(data), size, status);
    if (n <= 0) {
        Py_DECREF(data);
        return NULL;
    }
    if ((size_t)n == size) {
        stream->last_read = AL_ARENA_BUFFER; /* There may be much more. */
    }
    data = al_arena_fit_steal(&loop->arena, data, n);
    if (data == NULL) {
        *status = al_stream_fatal(stream, READ_FAILED);
    }
    return data;
}

static int
data_readable(al_stream *stream)
{
    size_t size = direct_size(stream);
    int status;
    if (size > 0) {
        PyObject *data = receive_directly(stream, size, &status);
        return data == NULL ? status : hand_over_steal(stream, data); /* escapes */
    }
    char *buffer = al_stream_buffer(stream);
    if (AL_UNLIKELY(buffer == NULL)) {
        return al_stream_fatal(stream, READ_FAILED);
    }
    ssize_t n = al_stream_receive(stream, buffer, AL_ARENA_BUFFER, &status);
    if (n <= 0) {
        return status;
    }
    PyObject *data = al_arena_bytes(&stream->loop->arena, buffer, n);
    if (AL_UNLIKELY(data == NULL)) {
        return al_stream_fatal(stream, READ_FAILED);
    }
    return hand_over_steal(stream, data);
}

/* --- get_buffer, buffer_updated ------------------------------------------------------- */

/* What get_buffer gave is no writable buffer: finds the error that asyncio would meet,
 * len() first, then recv_into(). */
static int
refuse_buffer(al_stream *stream, PyObject *given)
{
    PyObject *reason = al_err_take();
    Py_ssize_t length = PyObject_Size(given); /* escapes */
    if (length < 0) {
        Py_XDECREF(reason);
        return al_stream_fatal(stream, GET_BUFFER_FAILED);
    }
    if (length == 0) {
        Py_XDECREF(reason);
        PyErr_SetString(PyExc_RuntimeError, "get_buffer() returned an empty buffer");
        return al_stream_fatal(stream, GET_BUFFER_FAILED);
    }
    Py_XDECREF(reason);
    PyErr_Format(PyExc_TypeError,
                 "recv_into() argument 1 must be read-write bytes-like object, not %s",
                 Py_TYPE(given)->tp_name);
    return al_stream_fatal(stream, READ_FAILED);
}

static int
buffer_readable(al_stream *stream)
{
    al_state *st = stream->loop->st;
    PyObject *protocol = Py_NewRef(stream->protocol);
    PyObject *given = NULL, *count = NULL, *result = NULL;
    Py_buffer view;
    int status = 0;

    given = PyObject_CallMethodOneArg(protocol, st->str.get_buffer,
                                      st->minus_one); /* escapes */
    if (given == NULL) {
        status = al_stream_fatal(stream, GET_BUFFER_FAILED);
        goto done;
    }
    if (PyObject_GetBuffer(given, &view, PyBUF_WRITABLE) < 0) { /* escapes */
        status = refuse_buffer(stream, given);
        goto done;
    }
    if (view.len == 0) {
        PyBuffer_Release(&view); /* escapes */
        PyErr_SetString(PyExc_RuntimeError, "get_buffer() returned an empty buffer");
        status = al_stream_fatal(stream, GET_BUFFER_FAILED);
        goto done;
    }
    ssize_t n = al_stream_receive(stream, view.buf, (size_t)view.len, &status);
    PyBuffer_Release(&view); /* escapes */
    if (n <= 0) {
        goto done;
    }
    count = PyLong_FromSsize_t(n);
    if (count != NULL) {
        result = PyObject_CallMethodOneArg(protocol, st->str.buffer_updated,
                                           count); /* escapes */
    }
    if (result == NULL) {
        status = al_stream_fatal(stream, BUFFER_UPDATED_FAILED);
    }

done:
    Py_XDECREF(given);
    Py_XDECREF(count);
    Py_XDECREF(result);
    Py_DECREF(protocol);
    return status;
}

static int
tls_readable(al_stream *stream)
{
    return al_tls_serves(stream->loop->st, stream->protocol) ? al_tls_readable(stream)
                                                             : buffer_readable(stream);
}

/* --- what all kinds have in common ------------------------------------------------------- */

static int
protocol_eof(al_stream *stream, bool *keep_open)
{
    PyObject *protocol = Py_NewRef(stream->protocol);
    PyObject *result = PyObject_CallMethodNoArgs(
        protocol, stream->loop->st->str.eof_received); /* escapes */
    Py_DECREF(protocol);
    int truth = result == NULL ? -1 : PyObject_IsTrue(result); /* escapes */
    Py_XDECREF(result);
    *keep_open = truth != 0; /* After an error nothing is left to close. */
    return truth < 0 ? al_stream_fatal(stream, EOF_RECEIVED_FAILED) : 0;
}

static int
protocol_connected(al_stream *stream)
{
    PyObject *protocol = Py_NewRef(stream->protocol);
    PyObject *result =
        PyObject_CallMethodOneArg(protocol, stream->loop->st->str.connection_made,
                                  (PyObject *)stream); /* escapes */
    Py_DECREF(protocol);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static int
protocol_lost(al_stream *stream, PyObject *exc)
{
    PyObject *protocol = Py_NewRef(stream->protocol);
    PyObject *result = PyObject_CallMethodOneArg(
        protocol, stream->loop->st->str.connection_lost, exc); /* escapes */
    Py_DECREF(protocol);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static int
protocol_pause(al_stream *stream)
{
    return al_flow_tell_pause(stream->loop, (PyObject *)stream, stream->protocol);
}

static int
protocol_resume(al_stream *stream)
{
    return al_flow_tell_resume(stream->loop, (PyObject *)stream, stream->protocol);
}

/* --- asyncio's streams ----------------------------------------------------------------- */

/* Receives for the reader, which has a waiter or None.  Result as al_run_fn. */
static int
receive_for(al_stream *stream, PyObject *reader, PyObject *waiter)
{
    al_loop *loop = stream->loop;
    /* A read() that waits for as much as may come gets the object that was received. */
    size_t wanted = al_reader_wants(stream, reader, waiter);
    size_t size = direct_size(stream);
    int status;
    if (size > 0 && wanted >= DIRECT_FROM) {
        size = size < wanted ? size : wanted;
        PyObject *data = receive_directly(stream, size, &status);
        return data == NULL ? status
               : al_reader_hand_steal(stream, data) < 0 /* escapes */
                   ? al_stream_fatal(stream, DATA_RECEIVED_FAILED)
                   : 0;
    }
    char *buffer = al_stream_buffer(stream);
    if (buffer == NULL) {
        return al_stream_fatal(stream, READ_FAILED);
    }
    ssize_t n = al_stream_receive(stream, buffer, AL_ARENA_BUFFER, &status);
    if (n <= 0) {
        return status;
    }
    status = (size_t)n <= wanted
                 ? al_reader_hand_steal(stream, al_arena_bytes(&loop->arena, buffer, n))
                 : al_reader_feed(stream, reader, waiter, buffer, n); /* escapes */
    if (status == 0 && al_future_exact(loop->st, waiter)) {
        al_look_quiet(&loop->look);
    }
    return status < 0 ? al_stream_fatal(stream, DATA_RECEIVED_FAILED) : 0;
}

static int
reader_readable(al_stream *stream)
{
    al_state *st = stream->loop->st;
    PyObject *waiter = NULL, *reader = al_reader_find(st, stream->protocol, &waiter);
    if (reader == NULL) {
        return data_readable(stream);
    }
    int status = receive_for(stream, reader, waiter); /* escapes */
    Py_DECREF(waiter);                                /* escapes */
    Py_DECREF(reader);                                /* escapes */
    return status;
}

/* --- the sinks ---------------------------------------------------------------------------- */

#define COMMON                                                                         \
    protocol_eof, protocol_connected, protocol_lost, protocol_pause, protocol_resume
static const al_sink data_sink = {data_readable, COMMON};
static const al_sink buffer_sink = {buffer_readable, COMMON};
static const al_sink reader_sink = {reader_readable, COMMON};
static const al_sink tls_sink = {tls_readable, COMMON};
#undef COMMON

/* The same for asyncio's streams over TLS: they are fed by SSLProtocol. */
static void
adopt_above_tls(al_loop *loop, PyObject *protocol)
{
    PyObject *above = NULL;
    if (al_getattr_optional(protocol, loop->st->str._app_protocol, &above) < 0) {
        PyErr_Clear(); /* The reader stays as it is. */
    }
    if (above != NULL &&
        Py_IS_TYPE(above, (PyTypeObject *)loop->st->StreamReaderProtocol)) {
        al_reader_adopt(loop, above); /* escapes */
    }
    Py_XDECREF(above);
}

const al_sink *
al_protocol_sink(al_state *st, al_loop *loop, PyObject *protocol, PyObject *stream)
{
    if (Py_IS_TYPE(protocol, (PyTypeObject *)st->StreamReaderProtocol)) {
        if (loop != NULL) {
            al_reader_adopt(loop, protocol); /* escapes */
        }
        return &reader_sink;
    }
    if (loop != NULL && PyObject_TypeCheck(protocol, (PyTypeObject *)st->SSLProtocol)) {
        adopt_above_tls(loop, protocol); /* escapes */
    }
    if (al_tls_serves(st, protocol)) {
        al_tls_adopt(st, protocol, stream); /* escapes */
        return &tls_sink;
    }
    int buffered = PyObject_IsInstance(protocol, st->BufferedProtocol); /* escapes */
    return buffered < 0 ? NULL : buffered ? &buffer_sink : &data_sink;
}
