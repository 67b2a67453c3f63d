/* protocol.c: see protocol.h.
 *
 * Bytes arrive in the loop's receive buffer and are copied into a bytes object of their
 * exact size: a fixed large object would be an mmap and a munmap per read.  A stream
 * whose last read was large receives into the bytes object itself. */
#include "io/protocol.h"

#include "core/report.h"
#include "io/stream.h"
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

static int
read_directly(al_stream *stream)
{
    size_t size = stream->last_read + stream->last_read / 4;
    int status;
    size = size < AL_RECEIVE_SIZE ? size : AL_RECEIVE_SIZE;
    PyObject *data = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (data == NULL) {
        return al_stream_fatal(stream, READ_FAILED);
    }
    ssize_t n = al_stream_receive(stream, PyBytes_AS_STRING(data), size, &status);
    if (n <= 0) {
        Py_DECREF(data);
        return status;
    }
    if ((size_t)n == size) {
        stream->last_read = AL_RECEIVE_SIZE; /* There may be much more. */
    }
    if (_PyBytes_Resize(&data, n) < 0) {
        return al_stream_fatal(stream, READ_FAILED);
    }
    return hand_over_steal(stream, data);
}

static int
data_readable(al_stream *stream)
{
    if (stream->last_read >= DIRECT_FROM) {
        return read_directly(stream);
    }
    char *buffer = al_stream_buffer(stream);
    int status;
    if (AL_UNLIKELY(buffer == NULL)) {
        return al_stream_fatal(stream, READ_FAILED);
    }
    ssize_t n = al_stream_receive(stream, buffer, AL_RECEIVE_SIZE, &status);
    if (n <= 0) {
        return status;
    }
    PyObject *data = PyBytes_FromStringAndSize(buffer, n);
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

/* --- asyncio's streams ----------------------------------------------------------------- */

/* Whether the two classes are as asyncio made them.  Their version tags change with any
 * assignment to them. */
static int
streams_intact(al_state *st)
{
    const PyTypeObject *reader = (PyTypeObject *)st->StreamReader;
    const PyTypeObject *protocol = (PyTypeObject *)st->StreamReaderProtocol;
    if (AL_LIKELY(reader->tp_version_tag == st->seen_reader_tag &&
                  protocol->tp_version_tag == st->seen_reader_protocol_tag &&
                  st->seen_reader_tag != 0 && st->seen_reader_protocol_tag != 0)) {
        return st->streams_intact;
    }
    PyObject *feed = PyObject_GetAttrString(st->StreamReader, "feed_data");
    PyObject *wake = PyObject_GetAttrString(st->StreamReader, "_wakeup_waiter");
    PyObject *received =
        PyObject_GetAttrString(st->StreamReaderProtocol, "data_received");
    PyObject *property =
        PyObject_GetAttrString(st->StreamReaderProtocol, "_stream_reader");
    PyErr_Clear(); /* An attribute that was deleted: not intact. */
    st->streams_intact = feed == st->feed_data && wake == st->wakeup_waiter &&
                         received == st->stream_data_received &&
                         property == st->stream_reader_property;
    Py_XDECREF(feed);
    Py_XDECREF(wake);
    Py_XDECREF(received);
    Py_XDECREF(property);
    st->seen_reader_tag = reader->tp_version_tag;
    st->seen_reader_protocol_tag = protocol->tp_version_tag;
    return st->streams_intact;
}

/* The StreamReader behind the protocol, if it is an ordinary one that can take data, and
 * its waiter: new references, or NULL without exception. */
static PyObject *
find_reader(al_state *st, PyObject *protocol, PyObject **waiter)
{
    PyObject *reference = NULL, *reader = NULL, *eof = NULL;
    if (!streams_intact(st) ||
        !al_method_is(protocol, st->str.data_received, st->stream_data_received) ||
        al_getattr_optional(protocol, st->str._stream_reader_wr, &reference) <= 0) {
        PyErr_Clear(); /* data_received meets the same and reports it. */
        return NULL;
    }
    if (PyWeakref_CheckRef(reference)) {
#if PY_VERSION_HEX >= 0x030D0000
        (void)PyWeakref_GetRef(reference, &reader);
#else
        reader = Py_NewRef(PyWeakref_GET_OBJECT(reference));
#endif
    }
    Py_DECREF(reference);
    if (reader == NULL) {
        return NULL;
    }
    if (!Py_IS_TYPE(reader, (PyTypeObject *)st->StreamReader) ||
        !al_method_is(reader, st->str.feed_data, st->feed_data) ||
        al_getattr_optional(reader, st->str._waiter, waiter) <= 0) {
        PyErr_Clear(); /* As above. */
        Py_CLEAR(reader);
        return NULL;
    }
    /* Nobody waits once the end has been fed. */
    if (*waiter == Py_None &&
        (al_getattr_optional(reader, st->str._eof, &eof) <= 0 || eof != Py_False)) {
        PyErr_Clear(); /* As above. */
        Py_CLEAR(*waiter);
        Py_CLEAR(reader);
    }
    Py_XDECREF(eof);
    return reader;
}

/* waiter.set_result(None) unless it is cancelled.  0 or -1. */
static int
resolve(al_state *st, PyObject *waiter)
{
    if (AL_LIKELY(al_future_exact(st, waiter)) &&
        ((al_future *)waiter)->state == AL_FUTURE_PENDING) {
        return al_future_set_result((al_future *)waiter, Py_None); /* escapes */
    }
    PyObject *cancelled =
        PyObject_CallMethodNoArgs(waiter, st->str.cancelled); /* escapes */
    int skip = cancelled == NULL ? -1 : PyObject_IsTrue(cancelled);
    Py_XDECREF(cancelled);
    if (skip != 0) {
        return skip < 0 ? -1 : 0;
    }
    PyObject *result =
        PyObject_CallMethodOneArg(waiter, st->str.set_result, Py_None); /* escapes */
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* More than twice the limit is buffered: mirrors the end of StreamReader.feed_data. */
static int
pause_full_reader(al_state *st, PyObject *reader)
{
    PyObject *transport = PyObject_GetAttr(reader, st->str._transport);
    if (transport == NULL) {
        return -1;
    }
    int status = 0;
    PyObject *paused = PyObject_GetAttr(reader, st->str._paused);
    int is_paused = paused == NULL ? -1 : PyObject_IsTrue(paused);
    if (is_paused < 0) {
        status = -1;
    }
    else if (transport != Py_None && !is_paused) {
        PyObject *result =
            PyObject_CallMethodNoArgs(transport, st->str.pause_reading); /* escapes */
        if (result != NULL) {
            status = PyObject_SetAttr(reader, st->str._paused, Py_True);
        }
        else if (PyErr_ExceptionMatches(PyExc_NotImplementedError)) {
            PyErr_Clear(); /* The transport cannot be paused: forget it. */
            status = PyObject_SetAttr(reader, st->str._transport, Py_None);
        }
        else {
            status = -1;
        }
        Py_XDECREF(result);
    }
    Py_XDECREF(paused);
    Py_DECREF(transport);
    return status;
}

/* Whether a number of bytes is above 2 * limit.  1, 0 or -1. */
static int
is_above_twice(Py_ssize_t size, PyObject *limit)
{
    if (AL_LIKELY(PyLong_CheckExact(limit))) {
        int overflow;
        long long most = PyLong_AsLongLongAndOverflow(limit, &overflow);
        return overflow != 0 ? overflow < 0 : most < (size + 1) / 2;
    }
    double most = PyFloat_AsDouble(limit); /* escapes */
    return most < 0 && PyErr_Occurred() ? -1 : (double)size > 2 * most;
}

/* Mirrors asyncio.StreamReader.feed_data; `waiter` is the reader's.  0 or -1. */
static int
feed(al_state *st, PyObject *reader, PyObject *waiter, const char *data,
     Py_ssize_t size)
{
    PyObject *buffer = PyObject_GetAttr(reader, st->str._buffer);
    PyObject *limit = NULL;
    int status = -1;
    if (buffer == NULL) {
        return -1;
    }
    if (!PyByteArray_CheckExact(buffer)) {
        PyErr_SetString(PyExc_TypeError, "StreamReader._buffer is not a bytearray");
        goto done;
    }
    Py_ssize_t length = PyByteArray_GET_SIZE(buffer);
    if (PyByteArray_Resize(buffer, length + size) < 0) {
        goto done;
    }
    memcpy(PyByteArray_AS_STRING(buffer) + length, data, (size_t)size);
    if (waiter != Py_None && (PyObject_SetAttr(reader, st->str._waiter, Py_None) < 0 ||
                              resolve(st, waiter) < 0)) { /* escapes */
        goto done;
    }
    limit = PyObject_GetAttr(reader, st->str._limit);
    if (limit == NULL) {
        goto done;
    }
    status = is_above_twice(PyByteArray_GET_SIZE(buffer), limit);
    if (status > 0) {
        status = pause_full_reader(st, reader); /* escapes */
    }

done:
    Py_XDECREF(limit);
    Py_DECREF(buffer);
    return status;
}

static int
reader_readable(al_stream *stream)
{
    al_state *st = stream->loop->st;
    PyObject *waiter = NULL, *reader = find_reader(st, stream->protocol, &waiter);
    if (reader == NULL) {
        return data_readable(stream);
    }
    char *buffer = al_stream_buffer(stream);
    int status;
    if (buffer == NULL) {
        status = al_stream_fatal(stream, READ_FAILED);
    }
    else {
        ssize_t n = al_stream_receive(stream, buffer, AL_RECEIVE_SIZE, &status);
        if (n > 0 && feed(st, reader, waiter, buffer, n) < 0) { /* escapes */
            status = al_stream_fatal(stream, DATA_RECEIVED_FAILED);
        }
    }
    Py_DECREF(waiter); /* escapes */
    Py_DECREF(reader); /* escapes */
    return status;
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

/* Mirrors the two halves of asyncio.transports._FlowControlMixin. */
static int
call_flow_control(al_stream *stream, PyObject *name, const char *message)
{
    PyObject *protocol = Py_NewRef(stream->protocol);
    al_loop *loop = (al_loop *)Py_NewRef((PyObject *)stream->loop);
    int status = 0;
    PyObject *result = PyObject_CallMethodNoArgs(protocol, name); /* escapes */
    if (result == NULL) {
        if (al_report_must_leave()) {
            status = -1;
        }
        else {
            PyObject *exc = al_err_take();
            status = al_report_context(loop->st, (PyObject *)loop,
                                       PyUnicode_FromString(message), "exception", exc,
                                       "transport", (PyObject *)stream, "protocol",
                                       protocol, NULL); /* escapes */
            Py_XDECREF(exc);
        }
    }
    Py_XDECREF(result);
    Py_DECREF(protocol);
    Py_DECREF(loop);
    return status;
}

static int
protocol_pause(al_stream *stream)
{
    return call_flow_control(stream, stream->loop->st->str.pause_writing,
                             "protocol.pause_writing() failed");
}

static int
protocol_resume(al_stream *stream)
{
    return call_flow_control(stream, stream->loop->st->str.resume_writing,
                             "protocol.resume_writing() failed");
}

#define COMMON                                                                         \
    protocol_eof, protocol_connected, protocol_lost, protocol_pause, protocol_resume
static const al_sink data_sink = {data_readable, COMMON};
static const al_sink buffer_sink = {buffer_readable, COMMON};
static const al_sink reader_sink = {reader_readable, COMMON};
#undef COMMON

const al_sink *
al_protocol_sink(al_state *st, PyObject *protocol)
{
    if (Py_IS_TYPE(protocol, (PyTypeObject *)st->StreamReaderProtocol)) {
        return &reader_sink;
    }
    int buffered = PyObject_IsInstance(protocol, st->BufferedProtocol); /* escapes */
    return buffered < 0 ? NULL : buffered ? &buffer_sink : &data_sink;
}
