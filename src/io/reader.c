/* reader.c: see reader.h. */
#include "io/reader.h"

#include <string.h>

#include "base/attribute.h"
#include "base/layout.h"
#include "base/origin.h"
#include "task/future.h"
#include "task/lazy.h"

typedef enum {
    READ,
    READLINE,
    READUNTIL,
    READEXACTLY,
    EXCEPTION,
    /* asyncio's, after what a read() was given is back in the buffer: */
    FEED_DATA,
    FEED_EOF,
    AT_EOF,
} al_read_method;
enum { METHODS = AT_EOF + 1 };

/* What a reader has as StreamReader.__init__ leaves it; more attributes than these may
 * be methods that somebody has replaced. */
enum { ATTRIBUTES = 8 };

typedef struct al_read {
    al_lazy base;      /* subject: the reader.  arg: the separator, or NULL */
    al_stream *stream; /* owned: its `read_op` is this, or NULL */
    PyObject *data;    /* what a read() was given past the buffer, or NULL */
    Py_ssize_t size;   /* bytes asked for */
    Py_ssize_t most;   /* that may be given past the buffer, while `stream` is set */
    Py_ssize_t offset; /* of the buffer that hold no separator */
    uint8_t method;
} al_read;

/* A method of the adopted readers' class: asyncio's function for all but the call. */
typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    al_state *st;
    PyObject *function; /* asyncio's */
    PyObject *dict;     /* marks it as a coroutine function */
    al_read_method method;
} al_reader_method;

static const char *const names[METHODS] = {
    [READ] = "read",           [READLINE] = "readline",
    [READUNTIL] = "readuntil", [READEXACTLY] = "readexactly",
    [EXCEPTION] = "exception", [FEED_DATA] = "feed_data",
    [FEED_EOF] = "feed_eof",   [AT_EOF] = "at_eof",
};

/* --- whether asyncio is as we know it ------------------------------------------------------ */

/* What C stands in for, as al_read_method counts it, and then what that would call: of
 * the reader, and of the protocol that feeds it. */
static const char *const watched[AL_WATCHED_STREAM_NAMES] = {
    "read",
    "readline",
    "readuntil",
    "readexactly",
    "exception",
    "feed_data",
    "feed_eof",
    "at_eof",
    "_wakeup_waiter",
    "_wait_for_data",
    "_maybe_resume_transport",
    "data_received",
    "_stream_reader",
};
enum { DATA_RECEIVED = AL_WATCHED_STREAM_NAMES - 2 };

/* Where a replacement would be seen: the adopted class inherits all but the methods. */
static PyObject *
owner(const al_state *st, int i)
{
    return i >= DATA_RECEIVED ? st->StreamReaderProtocol
           : i < METHODS      ? st->StreamReader
                              : st->adopted_reader;
}

/* Whether the classes are as asyncio made them.  Their version tags change with any
 * assignment to them or to their bases. */
static inline bool
seen_as_they_are(const al_state *st)
{
    unsigned int reader = AL_LOAD(st->seen_reader_tag);
    unsigned int protocol = AL_LOAD(st->seen_reader_protocol_tag);
    return AL_LOAD(((PyTypeObject *)st->adopted_reader)->tp_version_tag) == reader &&
           AL_LOAD(((PyTypeObject *)st->StreamReaderProtocol)->tp_version_tag) ==
               protocol &&
           reader != 0 && protocol != 0;
}

/* In the guard's critical section; the tags come last. */
static void
look_at_streams(al_state *st)
{
    bool intact = !al_layout_is_off(st, AL_LAYOUT_STREAM_READER);
    for (int i = 0; i < AL_WATCHED_STREAM_NAMES; i++) {
        PyObject *name = PyUnicode_InternFromString(watched[i]);
        PyObject *found = name == NULL ? NULL : PyObject_GetAttr(owner(st, i), name);
        PyObject *ours = name == NULL || i >= METHODS
                             ? NULL
                             : PyObject_GetAttr(st->adopted_reader, name);
        bool same = found != NULL &&
                    al_origin_intact((PyTypeObject *)owner(st, i), name) &&
                    (i >= METHODS ||
                     (ours != NULL && Py_IS_TYPE(ours, st->StreamReaderMethod_type)));
        PyErr_Clear(); /* One that was deleted. */
        intact = intact && same;
        if (same) {
            Py_XSETREF(st->stream_functions[i], Py_NewRef(found));
        }
        Py_XDECREF(found);
        Py_XDECREF(ours);
        Py_XDECREF(name);
    }
    AL_STORE(st->streams_intact, intact);
    AL_STORE(st->seen_reader_tag,
             AL_LOAD(((PyTypeObject *)st->adopted_reader)->tp_version_tag));
    AL_STORE(st->seen_reader_protocol_tag,
             AL_LOAD(((PyTypeObject *)st->StreamReaderProtocol)->tp_version_tag));
}

static bool
streams_intact(al_state *st)
{
    if (AL_UNLIKELY(!seen_as_they_are(st))) {
        AL_CRITICAL_BEGIN(al_state_guard(st));
        if (!seen_as_they_are(st)) {
            look_at_streams(st); /* escapes */
        }
        AL_CRITICAL_END();
    }
    return AL_LOAD(st->streams_intact);
}

static bool
is_reader(const al_state *st, PyObject *obj)
{
    return Py_IS_TYPE(obj, (PyTypeObject *)st->adopted_reader) ||
           Py_IS_TYPE(obj, (PyTypeObject *)st->StreamReader);
}

/* Whether StreamReader.__init__ has left as much in the dict; debug mode's is more. */
static bool
has_few(const al_state *st, PyObject *dict)
{
    Py_ssize_t size = PyDict_GET_SIZE(dict);
    if (AL_LIKELY(size <= ATTRIBUTES)) {
        return true;
    }
    int traced =
        size > ATTRIBUTES + 1 ? 0 : PyDict_Contains(dict, st->str._source_traceback);
    if (traced < 0) {
        PyErr_Clear(); /* No memory to look. */
    }
    return traced > 0;
}

/* Whether the instance has an attribute of its own, or no memory to look. */
static bool
has_own(const al_state *st, PyObject *obj, PyObject *name)
{
    PyObject *dict = PyObject_GenericGetDict(obj, NULL);
    int found = dict == NULL ? -1 : has_few(st, dict) ? 0 : PyDict_Contains(dict, name);
    Py_XDECREF(dict);
    return found != 0;
}

/* The instance has no attribute that stands in for one of the methods from `first` on. */
static bool
instance_intact(const al_state *st, PyObject *dict, int first)
{
    if (AL_LIKELY(has_few(st, dict))) {
        return true;
    }
    for (int i = first; i < DATA_RECEIVED; i++) {
        PyObject *name = PyUnicode_FromString(watched[i]);
        int found = name == NULL ? -1 : PyDict_Contains(dict, name);
        Py_XDECREF(name);
        if (found != 0) {
            PyErr_Clear(); /* No memory to look: asyncio's own code runs. */
            return false;
        }
    }
    return true;
}

static PyObject *
attribute(PyObject *dict, PyObject *name)
{
    return al_attribute(dict, "StreamReader", name);
}

static int
attribute_is_true(PyObject *dict, PyObject *name)
{
    return al_attribute_is_true(dict, "StreamReader", name); /* escapes */
}

/* --- feeding ---------------------------------------------------------------------------- */

PyObject *
al_reader_find(al_state *st, PyObject *protocol, PyObject **waiter)
{
    PyObject *reference = NULL, *reader = NULL, *eof = NULL;
    if (!streams_intact(st) ||
        !al_method_is(protocol, st->str.data_received,
                      st->stream_functions[DATA_RECEIVED]) ||
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
    if (!is_reader(st, reader) || has_own(st, reader, st->str.feed_data) ||
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

static PyObject *
product(int times, PyObject *limit)
{
    PyObject *factor = PyLong_FromLong(times);
    PyObject *result =
        factor == NULL ? NULL : PyNumber_Multiply(factor, limit); /* escapes */
    Py_XDECREF(factor);
    return result;
}

/* Whether a number of bytes is above times * limit.  1, 0 or -1. */
static int
is_above(Py_ssize_t size, int times, PyObject *limit)
{
    if (AL_LIKELY(PyLong_CheckExact(limit))) {
        int overflow;
        long long most = PyLong_AsLongLongAndOverflow(limit, &overflow);
        return overflow != 0 ? overflow < 0 : most < (size + times - 1) / times;
    }
    PyObject *number = PyLong_FromSsize_t(size);
    PyObject *most = number == NULL ? NULL
                     : times == 1   ? Py_NewRef(limit)
                                    : product(times, limit); /* escapes */
    int status =
        most == NULL ? -1 : PyObject_RichCompareBool(number, most, Py_GT); /* escapes */
    Py_XDECREF(most);
    Py_XDECREF(number);
    return status;
}

/* What was found as reader._buffer, if that is a bytearray; steals it.  Or NULL. */
static PyObject *
check_buffer_steal(PyObject *buffer)
{
    if (buffer != NULL && !PyByteArray_CheckExact(buffer)) {
        PyErr_SetString(PyExc_TypeError, "StreamReader._buffer is not a bytearray");
        Py_CLEAR(buffer);
    }
    return buffer;
}

static PyObject *
buffer_of(al_state *st, PyObject *reader)
{
    return check_buffer_steal(PyObject_GetAttr(reader, st->str._buffer));
}

/* Puts what the operation was given at the front of the buffer.  0, or -1: it still has
 * it. */
static int
put_back(al_read *op)
{
    PyObject *buffer = buffer_of(op->base.loop->st, op->base.subject);
    int status = buffer == NULL ? -1 : PySequence_SetSlice(buffer, 0, 0, op->data);
    Py_XDECREF(buffer);
    if (status == 0) {
        Py_CLEAR(op->data);
    }
    return status;
}

/* What a read() was given and has not returned goes into the buffer.  0 or -1. */
static int
settle(al_stream *stream)
{
    al_read *op = stream->read_op;
    return op == NULL || op->data == NULL ? 0 : put_back(op);
}

size_t
al_reader_wants(const al_stream *stream, PyObject *reader, PyObject *waiter)
{
    /* It waits on an empty buffer; whoever fills that by hand resolves the future. */
    const al_read *op = stream->read_op;
    return op != NULL && op->method == READ && op->base.subject == reader &&
                   op->base.future == waiter &&
                   ((al_future *)waiter)->state == AL_FUTURE_PENDING
               ? (size_t)op->most
               : 0;
}

int
al_reader_hand_steal(al_stream *stream, PyObject *data)
{
    al_state *st = stream->loop->st;
    al_read *op = stream->read_op;
    if (data == NULL ||
        PyObject_SetAttr(op->base.subject, st->str._waiter, Py_None) < 0) {
        Py_XDECREF(data);
        return -1;
    }
    op->data = data;
    PyObject *waiter = Py_NewRef(op->base.future);
    int status = resolve(st, waiter); /* escapes */
    Py_DECREF(waiter);
    return status;
}

int
al_reader_feed(al_stream *stream, PyObject *reader, PyObject *waiter, const char *data,
               Py_ssize_t size)
{
    al_state *st = stream->loop->st;
    PyObject *limit = NULL, *buffer = NULL;
    int status = -1;
    if (settle(stream) < 0) {
        return -1;
    }
    buffer = buffer_of(st, reader);
    if (buffer == NULL) {
        return -1;
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
    status = is_above(PyByteArray_GET_SIZE(buffer), 2, limit);
    if (status > 0) {
        status = pause_full_reader(st, reader); /* escapes */
    }

done:
    Py_XDECREF(limit);
    Py_DECREF(buffer);
    return status;
}

/* --- reading ------------------------------------------------------------------------------ */

/* raise exc: what set_exception() was given. */
static int
raise_object(PyObject *exc)
{
    if (PyExceptionInstance_Check(exc)) {
        PyErr_SetObject(PyExceptionInstance_Class(exc), exc);
    }
    else if (PyExceptionClass_Check(exc)) {
        PyErr_SetNone(exc);
    }
    else {
        PyErr_SetString(PyExc_TypeError, "exceptions must derive from BaseException");
    }
    return -1;
}

/* Raises the exception that the reader was given, if it was.  0 or -1. */
static int
raise_pending(al_state *st, PyObject *dict)
{
    PyObject *exc = attribute(dict, st->str._exception);
    int status = exc == NULL ? -1 : exc == Py_None ? 0 : raise_object(exc);
    Py_XDECREF(exc);
    return status;
}

/* StreamReader._maybe_resume_transport().  0 or -1. */
static int
maybe_resume(al_state *st, PyObject *reader, PyObject *dict)
{
    int paused = attribute_is_true(dict, st->str._paused);
    if (AL_LIKELY(paused <= 0)) {
        return paused;
    }
    PyObject *result = PyObject_CallMethodNoArgs(
        reader, st->str._maybe_resume_transport); /* escapes */
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Removes up to `size` first bytes of the buffer: returns them, or NULL.  Whoever found
 * the size may have run Python code since, so it is compared with what is there now. */
static PyObject *
take(PyObject *buffer, Py_ssize_t size)
{
    Py_ssize_t length = PyByteArray_GET_SIZE(buffer);
    size = size < length ? size : length;
    PyObject *data = PyBytes_FromStringAndSize(PyByteArray_AS_STRING(buffer), size);
    if (data == NULL) {
        return NULL;
    }
    int status = size == length ? PyByteArray_Resize(buffer, 0)
                                : PySequence_DelSlice(buffer, 0, size);
    if (status < 0) {
        Py_CLEAR(data); /* Somebody holds a view of the buffer: it stays as it is. */
    }
    return data;
}

/* What give() would give is there, though code has run since it was found.  0 or -1:
 * bytearray.take_bytes(), which asyncio calls since 3.15, raises where a slice ends. */
static int
check_size(PyObject *buffer, Py_ssize_t size)
{
#if PY_VERSION_HEX >= 0x030F0000
    if (AL_UNLIKELY(size > PyByteArray_GET_SIZE(buffer))) {
        PyErr_Format(PyExc_IndexError, "can't take %zd bytes outside size %zd", size,
                     PyByteArray_GET_SIZE(buffer));
        return -1;
    }
#else
    (void)buffer;
    (void)size;
#endif
    return 0;
}

/* The same as the result of the operation.  1 or -1. */
static int
give(al_read *op, PyObject *dict, PyObject *buffer, Py_ssize_t size, PyObject **result)
{
    PyObject *data = take(buffer, size);
    if (data == NULL || maybe_resume(op->base.loop->st, op->base.subject, dict) < 0) {
        Py_XDECREF(data);
        return -1;
    }
    *result = data;
    return 1;
}

/* The end came too early: everything in the buffer is the partial result.  Always -1 but
 * for readline, which returns it: 1. */
static int
give_partial(al_read *op, PyObject *buffer, PyObject **result)
{
    PyObject *data = take(buffer, PY_SSIZE_T_MAX);
    if (data == NULL) {
        return -1;
    }
    if (op->method == READLINE) {
        *result = data;
        return 1;
    }
    PyObject *exc = op->method == READEXACTLY
                        ? PyObject_CallFunction(op->base.loop->st->IncompleteReadError,
                                                "On", data, op->size)
                        : PyObject_CallFunction(op->base.loop->st->IncompleteReadError,
                                                "OO", data, Py_None);
    Py_DECREF(data);
    if (exc != NULL) {
        (void)raise_object(exc);
        Py_DECREF(exc);
    }
    return -1;
}

/* The separator is beyond the limit: LimitOverrunError(message, consumed), of which
 * readline makes a ValueError after it has dropped the line.  -1. */
static int
raise_overrun(al_read *op, PyObject *dict, PyObject *buffer, const char *message,
              Py_ssize_t consumed)
{
    al_state *st = op->base.loop->st;
    PyObject *overrun =
        PyObject_CallFunction(st->LimitOverrunError, "sn", message, consumed);
    if (overrun == NULL) {
        return -1;
    }
    (void)raise_object(overrun);
    Py_DECREF(overrun);
    if (op->method != READLINE) {
        return -1;
    }
    PyObject *cause = al_err_take();
    Py_ssize_t size = PyByteArray_GET_SIZE(buffer);
    bool found = consumed < size && PyByteArray_AS_STRING(buffer)[consumed] == '\n';
    PyObject *dropped = take(buffer, found ? consumed + 1 : PY_SSIZE_T_MAX);
    if (dropped != NULL && maybe_resume(st, op->base.subject, dict) == 0) {
        PyErr_SetString(PyExc_ValueError, message);
    }
    Py_XDECREF(dropped);
    PyObject *exc = al_err_take();
    PyException_SetContext(exc, cause);
    al_err_put_steal(exc);
    return -1;
}

/* A read() waits: its stream may give it what would not make the buffer too full. */
static void
expect_data(al_read *op, PyObject *dict)
{
    al_state *st = op->base.loop->st;
    PyObject *transport = attribute(dict, st->str._transport);
    PyObject *limit = attribute(dict, st->str._limit);
    Py_ssize_t most =
        limit != NULL && PyLong_CheckExact(limit) ? PyLong_AsSsize_t(limit) : -1;
    if (most > 0 && transport != NULL &&
        Py_IS_TYPE(transport, st->SocketTransport_type) &&
        ((al_stream *)transport)->read_op == NULL) {
        most = most > PY_SSIZE_T_MAX / 2 ? PY_SSIZE_T_MAX : 2 * most;
        op->most = op->size < most ? op->size : most;
        op->stream = (al_stream *)Py_NewRef(transport);
        op->stream->read_op = op;
    }
    Py_XDECREF(limit);
    Py_XDECREF(transport);
    PyErr_Clear(); /* Without a stream it takes its data from the buffer. */
}

/* Mirrors StreamReader._wait_for_data: *result is the future to yield.  0 or -1. */
static int
wait_for_data(al_read *op, PyObject *dict, PyObject **result)
{
    al_state *st = op->base.loop->st;
    PyObject *waiter = attribute(dict, st->str._waiter);
    if (waiter == NULL) {
        return -1;
    }
    Py_DECREF(waiter);
    if (waiter != Py_None) {
        PyErr_Format(PyExc_RuntimeError,
                     "%s() called while another coroutine is already waiting for "
                     "incoming data",
                     names[op->method == READLINE ? READUNTIL : op->method]);
        return -1;
    }
    int paused = attribute_is_true(dict, st->str._paused);
    if (AL_UNLIKELY(paused > 0)) {
        /* Nobody would ever feed a reader that is paused while it is waited for. */
        PyObject *transport = attribute(dict, st->str._transport), *done = NULL;
        if (transport != NULL && PyDict_SetItem(dict, st->str._paused, Py_False) == 0) {
            done = PyObject_CallMethod(transport, "resume_reading", NULL); /* escapes */
        }
        paused = done == NULL ? -1 : 0;
        Py_XDECREF(transport);
        Py_XDECREF(done);
    }
    if (paused < 0 || al_lazy_wait(&op->base, result) < 0) {
        return -1;
    }
    if (PyDict_SetItem(dict, st->str._waiter, op->base.future) < 0) {
        Py_CLEAR(*result);
        al_lazy_give_up(&op->base);
        return -1;
    }
    if (op->method == READ) {
        expect_data(op, dict);
    }
    return 0;
}

/* Each of the next three mirrors the method of its name.  1: *result is the result; 0:
 * wait for data; -1. */

static int
try_read(al_read *op, PyObject *dict, PyObject *buffer, PyObject **result)
{
    if (PyByteArray_GET_SIZE(buffer) == 0 && !op->base.started) {
        int eof = attribute_is_true(dict, op->base.loop->st->str._eof);
        if (eof <= 0) {
            return eof;
        }
    }
    return give(op, dict, buffer, op->size, result);
}

static int
try_readexactly(al_read *op, PyObject *dict, PyObject *buffer, PyObject **result)
{
    if (PyByteArray_GET_SIZE(buffer) >= op->size) {
        return give(op, dict, buffer, op->size, result);
    }
    int eof = attribute_is_true(dict, op->base.loop->st->str._eof);
    return eof > 0 ? give_partial(op, buffer, result) : eof;
}

/* Where the separator begins in the buffer from op->offset on, or -1. */
static Py_ssize_t
find_separator(const al_read *op, PyObject *buffer, Py_ssize_t length)
{
    const char *start = PyByteArray_AS_STRING(buffer);
    Py_ssize_t left = PyByteArray_GET_SIZE(buffer) - op->offset;
    if (left < length) {
        return -1;
    }
    const char *found =
        length == 1
            ? memchr(start + op->offset,
                     op->base.arg == NULL ? '\n' : PyBytes_AS_STRING(op->base.arg)[0],
                     (size_t)left)
            : memmem(start + op->offset, (size_t)left, PyBytes_AS_STRING(op->base.arg),
                     (size_t)length);
    return found == NULL ? -1 : found - start;
}

/* Whether a number of bytes is above the reader's limit.  1, 0 or -1. */
static int
is_above_limit(al_state *st, PyObject *dict, Py_ssize_t size)
{
    PyObject *limit = attribute(dict, st->str._limit);
    int status = limit == NULL ? -1 : is_above(size, 1, limit); /* escapes */
    Py_XDECREF(limit);
    return status;
}

static int
try_readuntil(al_read *op, PyObject *dict, PyObject *buffer, PyObject **result)
{
    al_state *st = op->base.loop->st;
    Py_ssize_t length = op->base.arg == NULL ? 1 : PyBytes_GET_SIZE(op->base.arg);
    Py_ssize_t size = PyByteArray_GET_SIZE(buffer);
    Py_ssize_t found = find_separator(op, buffer, length);
    if (found >= 0) {
        int above = is_above_limit(st, dict, found); /* escapes */
        if (above > 0) {
            return raise_overrun(op, dict, buffer,
                                 "Separator is found, but chunk is longer than limit",
                                 found);
        }
        return above < 0 || check_size(buffer, found + length) < 0
                   ? -1
                   : give(op, dict, buffer, found + length, result);
    }
    if (size - op->offset >= length) {
        op->offset = size + 1 - length;
        int above = is_above_limit(st, dict, op->offset); /* escapes */
        if (above != 0) {
            return above < 0 ? -1
                             : raise_overrun(op, dict, buffer,
                                             "Separator is not found, and chunk exceed "
                                             "the limit",
                                             op->offset);
        }
    }
    int eof = attribute_is_true(dict, st->str._eof);
    return eof > 0 ? give_partial(op, buffer, result) : eof;
}

/* The kind's `step`. */
static int
step(al_lazy *base, PyObject **result)
{
    static int (*const tries[])(al_read *, PyObject *, PyObject *, PyObject **) = {
        [READ] = try_read,
        [READLINE] = try_readuntil,
        [READUNTIL] = try_readuntil,
        [READEXACTLY] = try_readexactly,
    };
    al_read *op = (al_read *)base;
    al_state *st = base->loop->st;
    if (op->data != NULL) {
        *result = op->data;
        op->data = NULL;
        return 1;
    }
    PyObject *buffer = NULL, *dict = PyObject_GenericGetDict(base->subject, NULL);
    int status = -1;
    if (dict == NULL || (!base->started && raise_pending(st, dict) < 0)) {
        goto done;
    }
    if (op->size == 0 && (op->method == READ || op->method == READEXACTLY)) {
        *result = PyBytes_FromStringAndSize(NULL, 0);
        status = *result == NULL ? -1 : 1;
        goto done;
    }
    buffer = check_buffer_steal(attribute(dict, st->str._buffer));
    if (buffer == NULL) {
        goto done;
    }
    status = tries[op->method](op, dict, buffer, result); /* escapes */
    if (status == 0) {
        status = wait_for_data(op, dict, result); /* escapes */
    }

done:
    Py_XDECREF(buffer);
    Py_XDECREF(dict);
    return status;
}

/* The reader has no waiter any more (a kind's `woken`). */
static void
forget_waiter(al_lazy *base)
{
    al_state *st = base->loop->st;
    al_read *op = (al_read *)base;
    if (op->stream != NULL) {
        op->stream->read_op = NULL;
        Py_CLEAR(op->stream); /* escapes */
    }
    PyObject *pending = al_err_take();
    PyObject *dict = PyObject_GenericGetDict(base->subject, NULL);
    if (dict == NULL ||
        (PyDict_GetItemWithError(dict, st->str._waiter) == base->future &&
         PyDict_SetItem(dict, st->str._waiter, Py_None) < 0)) {
        PyErr_WriteUnraisable(base->subject);
    }
    Py_XDECREF(dict);
    al_err_put_steal(pending);
}

/* The operation was cancelled or closed after it had been given data: a read() later
 * finds it (a kind's `ended`). */
static void
ended(al_lazy *base)
{
    al_read *op = (al_read *)base;
    if (AL_UNLIKELY(op->data != NULL)) {
        PyObject *pending = al_err_take();
        if (put_back(op) < 0) {
            PyErr_WriteUnraisable(base->subject); /* escapes */
            Py_CLEAR(op->data);
        }
        al_err_put_steal(pending);
    }
}

static const al_lazy_kind read_kind = {
    "StreamReader", offsetof(al_state, StreamReader), step, forget_waiter, ended, NULL};

/* --- the operation's type ------------------------------------------------------------------- */

static int
read_traverse(al_read *op, visitproc visit, void *arg)
{
    Py_VISIT(op->stream);
    return al_lazy_traverse(&op->base, visit, arg);
}

static PyObject *
read_repr(al_read *op)
{
    return PyUnicode_FromFormat("<%s of %R (%s)>", op->base.name, op->base.subject,
                                al_lazy_state_names[op->base.state]);
}

static void
read_dealloc(al_read *op)
{
    al_state *st = op->base.loop == NULL ? NULL : op->base.loop->st;
    bool plain = st != NULL && Py_IS_TYPE(op, st->StreamRead_type);
    al_lazy_dealloc(&op->base, plain ? &st->free_reads : NULL); /* escapes */
}

void
al_reader_clear_free_list(al_state *st)
{
    al_lazy_clear_list(&st->free_reads);
}

static char read_doc[] = PyDoc_STR("What a StreamReader's read methods return, to be\n"
                                   "awaited once.");

static PyType_Slot read_slots[] = {
    {Py_tp_doc, read_doc},
    {Py_tp_dealloc, read_dealloc},
    {Py_tp_traverse, read_traverse},
    {Py_tp_repr, read_repr},
    AL_LAZY_SLOTS,
    {0, NULL},
};

static PyType_Spec read_spec = {
    .name = "aioloop._core.StreamRead",
    .basicsize = sizeof(al_read),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = read_slots,
};

/* --- the methods of adopted readers --------------------------------------------------------- */

/* The loop of a reader for which C may stand in for asyncio, borrowed from `dict`; or
 * NULL without exception. */
static al_loop *
plain_loop(al_state *st, PyObject *dict, al_read_method method)
{
    PyObject *found = PyDict_GetItemWithError(dict, st->str._loop);
    if (found == NULL || !PyObject_TypeCheck(found, st->EventLoop_type)) {
        PyErr_Clear(); /* asyncio's function finds it missing too. */
        return NULL;
    }
    al_loop *loop = (al_loop *)found;
    bool plain = !loop->overrides.create_future && streams_intact(st) &&
                 instance_intact(st, dict, (int)method + 1);
    return plain ? loop : NULL;
}

/* The arguments as the operation has them: 1, or 0 if asyncio's function is to look at
 * them. */
static int
parse(al_read_method method, PyObject *const *args, Py_ssize_t nargs, Py_ssize_t *size,
      PyObject **separator)
{
    *size = 0;
    *separator = NULL;
    switch (method) {
    case READ:
    case READEXACTLY:
        if (nargs != 1 || !PyLong_CheckExact(args[0])) {
            return 0;
        }
        *size = PyLong_AsSsize_t(args[0]);
        if (*size < 0) {
            PyErr_Clear(); /* Negative, or too large for an ssize_t. */
            return 0;
        }
        return 1;
    case READUNTIL:
        if (nargs == 1 && PyBytes_CheckExact(args[0])) {
            *separator = args[0];
            return PyBytes_GET_SIZE(args[0]) > 0;
        }
        return nargs == 0;
    case READLINE:
    case EXCEPTION:
        return nargs == 0;
    default:
        return 1;
    }
}

/* The same for a reader, whoever feeds it. */
static int
settle_reader(al_state *st, PyObject *reader, PyObject *dict)
{
    PyObject *transport = attribute(dict, st->str._transport);
    int status = transport == NULL ? -1 : 0;
    if (transport != NULL && Py_IS_TYPE(transport, st->SocketTransport_type)) {
        const al_read *op = ((al_stream *)transport)->read_op;
        if (op != NULL && op->base.subject == reader) {
            status = settle((al_stream *)transport);
        }
    }
    Py_XDECREF(transport);
    return status;
}

/* What the method returns, or NULL without exception if asyncio's function has to be
 * called, or NULL with an exception. */
static PyObject *
call_in_c(al_reader_method *self, PyObject *reader, PyObject *const *args,
          Py_ssize_t nargs)
{
    al_state *st = self->st;
    Py_ssize_t size;
    PyObject *separator, *result = NULL;
    if (!Py_IS_TYPE(reader, (PyTypeObject *)st->adopted_reader) ||
        !parse(self->method, args, nargs, &size, &separator)) {
        return NULL;
    }
    PyObject *dict = PyObject_GenericGetDict(reader, NULL);
    if (dict == NULL) {
        return NULL;
    }
    if (self->method >= FEED_DATA) {
        (void)settle_reader(st, reader, dict);
        Py_DECREF(dict);
        return NULL;
    }
    if (self->method == EXCEPTION) {
        if (streams_intact(st)) {
            result = Py_XNewRef(PyDict_GetItemWithError(dict, st->str._exception));
        }
        Py_DECREF(dict);
        return result;
    }
    al_loop *loop = plain_loop(st, dict, self->method);
    Py_DECREF(dict);
    if (loop == NULL) {
        return NULL;
    }
    al_read *op = (al_read *)al_lazy_alloc(&st->free_reads, st->StreamRead_type, loop,
                                           &read_kind, names[self->method]);
    if (op != NULL) {
        op->base.subject = Py_NewRef(reader);
        op->base.arg = Py_XNewRef(separator);
        op->size = size;
        op->offset = 0;
        op->method = (uint8_t)self->method;
        PyObject_GC_Track(op);
    }
    return (PyObject *)op;
}

/* What super().<name>(...) would call: asyncio's function, or what has replaced it. */
static PyObject *
call_asyncios(al_reader_method *self, PyObject *const *args, size_t nargsf,
              PyObject *kwnames)
{
    const al_state *st = self->st;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    PyTypeObject *base = (PyTypeObject *)st->StreamReader;
    PyObject *name = PyUnicode_InternFromString(names[self->method]);
    PyObject *found = name == NULL ? NULL : Py_XNewRef(_PyType_Lookup(base, name));
    PyObject *result = NULL;
    if (found == NULL && name != NULL) {
        PyErr_Format(PyExc_AttributeError,
                     "type object 'StreamReader' has no attribute %R", name);
    }
    else if (found != NULL && (found == self->function || nargs == 0)) {
        result = PyObject_Vectorcall(found, args, nargsf, kwnames); /* escapes */
    }
    else if (found != NULL) {
        descrgetfunc get = Py_TYPE(found)->tp_descr_get;
        PyObject *bound = get == NULL ? Py_NewRef(found)
                                      : get(found, args[0],
                                            (PyObject *)Py_TYPE(args[0])); /* escapes */
        if (bound != NULL) {
            result = PyObject_Vectorcall(bound, args + 1, (size_t)(nargs - 1),
                                         kwnames); /* escapes */
            Py_DECREF(bound);
        }
    }
    Py_XDECREF(found);
    Py_XDECREF(name);
    return result;
}

static PyObject *
method_vectorcall(PyObject *callable, PyObject *const *args, size_t nargsf,
                  PyObject *kwnames)
{
    al_reader_method *self = (al_reader_method *)callable;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    if (AL_LIKELY(nargs > 0 && kwnames == NULL)) {
        PyObject *result = call_in_c(self, args[0], args + 1, nargs - 1);
        if (AL_LIKELY(result != NULL) || PyErr_Occurred()) {
            return result;
        }
    }
    return call_asyncios(self, args, nargsf, kwnames); /* escapes */
}

static PyObject *
method_get(PyObject *self, PyObject *obj, PyObject *Py_UNUSED(type))
{
    return obj == NULL || obj == Py_None ? Py_NewRef(self) : PyMethod_New(self, obj);
}

/* What is not its own is the function's: __name__, __doc__, __code__ ... */
static PyObject *
method_getattro(PyObject *self, PyObject *name)
{
    PyObject *value = PyObject_GenericGetAttr(self, name); /* escapes */
    if (value != NULL || !PyErr_ExceptionMatches(PyExc_AttributeError)) {
        return value;
    }
    PyErr_Clear();
    return PyObject_GetAttr(((al_reader_method *)self)->function, name); /* escapes */
}

static PyObject *
method_repr(al_reader_method *self)
{
    return PyObject_Repr(self->function);
}

static int
method_traverse(al_reader_method *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->function);
    Py_VISIT(self->dict);
    return 0;
}

static int
method_clear(al_reader_method *self)
{
    Py_CLEAR(self->function);
    Py_CLEAR(self->dict);
    return 0;
}

static void
method_dealloc(al_reader_method *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)method_clear(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

/* The two attributes that every type has of its own. */
static PyObject *
method_get_doc(al_reader_method *self, void *Py_UNUSED(closure))
{
    return PyObject_GetAttrString(self->function, "__doc__");
}

static PyObject *
method_get_module(al_reader_method *self, void *Py_UNUSED(closure))
{
    return PyObject_GetAttrString(self->function, "__module__");
}

static PyGetSetDef method_getsets[] = {
    {"__doc__", (getter)method_get_doc, NULL, NULL, NULL},
    {"__module__", (getter)method_get_module, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef method_members[] = {
    {"__wrapped__", T_OBJECT, offsetof(al_reader_method, function), READONLY, NULL},
    {"__dictoffset__", T_PYSSIZET, offsetof(al_reader_method, dict), READONLY, NULL},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(al_reader_method, vectorcall),
     READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot method_slots[] = {
    {Py_tp_dealloc, method_dealloc},   {Py_tp_traverse, method_traverse},
    {Py_tp_clear, method_clear},       {Py_tp_repr, method_repr},
    {Py_tp_call, PyVectorcall_Call},   {Py_tp_descr_get, method_get},
    {Py_tp_getattro, method_getattro}, {Py_tp_members, method_members},
    {Py_tp_getset, method_getsets},    {0, NULL},
};

static PyType_Spec method_spec = {
    .name = "aioloop._core.StreamReaderMethod",
    .basicsize = sizeof(al_reader_method),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
             Py_TPFLAGS_METHOD_DESCRIPTOR | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = method_slots,
};

static PyObject *
make_method(al_state *st, al_read_method method)
{
    al_reader_method *self =
        PyObject_GC_New(al_reader_method, st->StreamReaderMethod_type);
    if (self == NULL) {
        return NULL;
    }
    self->vectorcall = method_vectorcall;
    self->st = st;
    self->function = Py_NewRef(st->stream_functions[method]);
    self->dict = NULL;
    self->method = method;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

/* The class of adopted readers, called as asyncio's is.  New reference, or NULL. */
static PyObject *
make_class(al_state *st)
{
    PyObject *dict = Py_BuildValue("{s:s,s:s}", "__module__", "asyncio.streams",
                                   "__qualname__", "StreamReader");
    PyObject *result = NULL;
    if (dict == NULL) {
        return NULL;
    }
    for (int i = 0; i < METHODS; i++) {
        PyObject *method = make_method(st, (al_read_method)i);
        if (method == NULL || (i < EXCEPTION && al_lazy_mark_function(method) < 0) ||
            PyDict_SetItemString(dict, names[i], method) < 0) {
            Py_XDECREF(method);
            goto done;
        }
        Py_DECREF(method);
    }
    result = PyObject_CallFunction((PyObject *)&PyType_Type, "s(O)O", "StreamReader",
                                   st->StreamReader, dict);
done:
    Py_DECREF(dict);
    return result;
}

int
al_reader_init_types(PyObject *module, al_state *st)
{
    if (al_state_add_type(module, &st->StreamRead_type, &read_spec, NULL) < 0 ||
        al_state_add_type(module, &st->StreamReaderMethod_type, &method_spec, NULL) <
            0) {
        return -1;
    }
    for (int i = 0; i < AL_WATCHED_STREAM_NAMES; i++) {
        st->stream_functions[i] = PyObject_GetAttrString(
            i < DATA_RECEIVED ? st->StreamReader : st->StreamReaderProtocol,
            watched[i]);
        if (st->stream_functions[i] == NULL) {
            if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
                return -1;
            }
            PyErr_Clear(); /* A method that has gone. */
            al_layout_turn_off(st, AL_LAYOUT_STREAM_READER);
        }
    }
    /* Its attributes are compared by aioloop/_layouts.py. */
    st->adopted_reader = al_layout_is_off(st, AL_LAYOUT_STREAM_READER)
                             ? Py_NewRef(st->StreamReader)
                             : make_class(st);
    return st->adopted_reader == NULL ? -1 : 0;
}

void
al_reader_adopt(al_loop *loop, PyObject *protocol)
{
    al_state *st = loop->st;
    PyObject *waiter = NULL, *reader = al_reader_find(st, protocol, &waiter);
    if (reader != NULL && Py_IS_TYPE(reader, (PyTypeObject *)st->StreamReader) &&
        PyObject_SetAttrString(reader, "__class__", st->adopted_reader) < 0) {
        PyErr_Clear(); /* It stays with asyncio's methods. */
    }
    Py_XDECREF(waiter);
    Py_XDECREF(reader); /* escapes */
}
