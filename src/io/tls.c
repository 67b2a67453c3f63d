/* tls.c: see tls.h.  Mirrors asyncio.sslproto.
 *
 * Objects of the ssl module do the cryptography: SSLObject's inner object decrypts one
 * record per read(), from one MemoryBIO, and encrypts into another. */
#include "io/tls.h"

#include <string.h>

#include "base/attribute.h"
#include "base/layout.h"
#include "base/origin.h"
#include "core/report.h"
#include "io/reader.h"

enum {
    RECORD = 16 * 1024,   /* no record holds more */
    COPIED = 16 * 1024,   /* more is given to the BIO as a view */
    FIRST_OF_OBJECT = 11, /* in `watched` */
    FIRST_OF_TRANSPORT = 13,
};

/* What is stood in for, or called with the knowledge of what it does. */
static const char *const watched[] = {
    /* SSLProtocol */
    "get_buffer",
    "buffer_updated",
    "_do_read",
    "_do_read__copied",
    "_write_appdata",
    "_do_write",
    "_process_outgoing",
    "_control_app_writing",
    "_get_write_buffer_size",
    "_get_read_buffer_size",
    "_control_ssl_reading",
    /* SSLObject */
    "read",
    "write",
    /* _SSLProtocolTransport */
    "write",
};

static const char FATAL[] = "Fatal error on SSL protocol";
static const char READ_FAILED[] = "Fatal read error on socket transport";
static const char BUFFER_UPDATED_FAILED[] =
    "Fatal error: protocol.buffer_updated() call failed.";

/* --- what may be served ------------------------------------------------------------------- */

static PyObject *
owner(const al_state *st, int name)
{
    return name < FIRST_OF_OBJECT      ? st->SSLProtocol
           : name < FIRST_OF_TRANSPORT ? st->tls.object_type
                                       : st->SSLProtocolTransport;
}

/* Whether the classes are as asyncio made them.  Their version tags change with any
 * assignment to them or to their bases. */
static const int first_of[3] = {0, FIRST_OF_OBJECT, FIRST_OF_TRANSPORT};

static unsigned int
tag_of(const al_state *st, int i)
{
    return AL_LOAD(((PyTypeObject *)owner(st, first_of[i]))->tp_version_tag);
}

static bool
seen_as_they_are(const al_state *st)
{
    bool seen = true;
    for (int i = 0; i < 3; i++) {
        unsigned int tag = tag_of(st, i);
        seen = seen && tag != 0 && tag == AL_LOAD(st->tls.seen_tags[i]);
    }
    return seen;
}

/* In the guard's critical section; the tags come last. */
static void
look_at_classes(al_state *st)
{
    bool intact = !al_layout_is_off(st, AL_LAYOUT_SSL_PROTOCOL);
    for (int i = 0; i < (int)(sizeof(watched) / sizeof(watched[0])); i++) {
        PyTypeObject *type = (PyTypeObject *)owner(st, i);
        PyObject *name = PyUnicode_InternFromString(watched[i]);
        PyObject *found =
            name == NULL ? NULL : PyObject_GetAttr((PyObject *)type, name);
        intact = intact && found != NULL && al_origin_intact(type, name);
        PyErr_Clear(); /* One that was deleted. */
        Py_XDECREF(found);
        Py_XDECREF(name);
    }
    AL_STORE(st->tls.intact, intact);
    for (int i = 0; i < 3; i++) {
        AL_STORE(st->tls.seen_tags[i], tag_of(st, i));
    }
}

static bool
classes_intact(al_state *st)
{
    if (st->tls.object_type == NULL) {
        return false;
    }
    if (AL_UNLIKELY(!seen_as_they_are(st))) {
        AL_CRITICAL_BEGIN(al_state_guard(st));
        if (!seen_as_they_are(st)) {
            look_at_classes(st); /* escapes */
        }
        AL_CRITICAL_END();
    }
    return AL_LOAD(st->tls.intact);
}

bool
al_tls_serves(al_state *st, PyObject *protocol)
{
    return (Py_IS_TYPE(protocol, (PyTypeObject *)st->tls.mended) ||
            Py_IS_TYPE(protocol, (PyTypeObject *)st->SSLProtocol)) &&
           classes_intact(st);
}

/* --- attributes --------------------------------------------------------------------------- */

/* The instance's own attributes, a new reference.  An SSLProtocol has more of them than
 * an object holds inline: this is its real dict. */
static PyObject *
dict_of(PyObject *protocol)
{
    return PyObject_GenericGetDict(protocol, NULL);
}

static PyObject *
attribute(PyObject *dict, PyObject *name)
{
    return al_attribute(dict, "SSLProtocol", name);
}

static int
is_true(PyObject *dict, PyObject *name)
{
    return al_attribute_is_true(dict, "SSLProtocol", name); /* escapes */
}

/* Whether a BIO holds bytes, or -1.  Escapes. */
static int
has_pending(al_state *st, PyObject *bio)
{
    PyObject *count = PyObject_GetAttr(bio, st->str.pending); /* escapes */
    int truth = count == NULL ? -1 : PyObject_IsTrue(count);  /* escapes */
    Py_XDECREF(count);                                        /* escapes */
    return truth;
}

/* obj.<name>() for what it does.  0 or -1. */
static int
call(PyObject *obj, PyObject *name)
{
    PyObject *result = PyObject_CallMethodNoArgs(obj, name); /* escapes */
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* The inner object of the SSLObject, if that is one of exactly ssl's class: a new
 * reference; or NULL, perhaps with an exception. */
static PyObject *
inner_object(al_state *st, PyObject *dict)
{
    PyObject *object = attribute(dict, st->str._sslobj);
    PyObject *inner = NULL;
    if (object != NULL && Py_IS_TYPE(object, (PyTypeObject *)st->tls.object_type)) {
        inner = PyObject_GetAttr(object, st->str._sslobj); /* escapes */
    }
    Py_XDECREF(object); /* escapes */
    return inner;
}

/* The pending exception goes to SSLProtocol._fatal_error(), unless it is none of
 * Exception.  0 or -1. */
static int
fatal(PyObject *protocol)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception)) {
        return -1;
    }
    al_except block;
    al_except_enter(&block);
    PyObject *result = PyObject_CallMethod(protocol, "_fatal_error", "Os", block.exc,
                                           FATAL); /* escapes */
    al_except_leave(&block);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* --- reading ------------------------------------------------------------------------------ */

/* b"".join(chunks) */
static PyObject *
joined(PyObject *chunks)
{
    Py_ssize_t count = PyList_GET_SIZE(chunks), size = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        size += PyBytes_GET_SIZE(PyList_GET_ITEM(chunks, i));
    }
    PyObject *result = PyBytes_FromStringAndSize(NULL, size);
    char *to = result == NULL ? NULL : PyBytes_AS_STRING(result);
    for (Py_ssize_t i = 0; i < count && to != NULL; i++) {
        PyObject *chunk = PyList_GET_ITEM(chunks, i);
        memcpy(to, PyBytes_AS_STRING(chunk), (size_t)PyBytes_GET_SIZE(chunk));
        to += PyBytes_GET_SIZE(chunk);
    }
    return result;
}

/* Decrypts what there is: *data is a bytes object or NULL; *closed: the peer has said
 * that nothing follows.  0 or -1. */
static int
decrypt_all(al_state *st, PyObject *inner, PyObject *incoming, PyObject **data,
            bool *closed)
{
    PyObject *chunks = NULL;
    int status = -1;
    *data = NULL;
    for (;;) {
        PyObject *chunk = PyObject_CallMethodOneArg(inner, st->str.read,
                                                    st->tls.record); /* escapes */
        if (chunk == NULL) {
            if (!PyErr_ExceptionMatches(st->tls.again)) {
                goto failed;
            }
            PyErr_Clear();
            break;
        }
        if (!PyBytes_Check(chunk)) {
            PyErr_Format(PyExc_TypeError, "read() returned %R, not bytes", chunk);
            Py_DECREF(chunk);
            goto failed;
        }
        if (PyBytes_GET_SIZE(chunk) == 0) {
            Py_DECREF(chunk);
            *closed = true;
            break;
        }
        if (*data == NULL) {
            *data = chunk;
        }
        else {
            if (chunks == NULL) {
                chunks = PyList_New(0);
                if (chunks == NULL || PyList_Append(chunks, *data) < 0) {
                    Py_DECREF(chunk);
                    goto failed;
                }
            }
            int appended = PyList_Append(chunks, chunk);
            Py_DECREF(chunk);
            if (appended < 0) {
                goto failed;
            }
        }
        /* asyncio asks until it is told that there is no more, by an exception.  A full
         * record leaves nothing behind that is not in the BIO. */
        int more = has_pending(st, incoming);
        if (more < 0) {
            goto failed;
        }
        if (!more) {
            break;
        }
    }
    if (chunks != NULL) {
        Py_SETREF(*data, joined(chunks));
        if (*data == NULL) {
            goto failed;
        }
    }
    status = 0;

failed:
    Py_XDECREF(chunks);
    if (status < 0) {
        Py_CLEAR(*data);
    }
    return status;
}

/* Gives the program what was decrypted.  0 or -1.  Escapes. */
static int
hand_over(al_state *st, al_stream *stream, PyObject *dict, PyObject *data)
{
    PyObject *above = attribute(dict, st->str._app_protocol);
    PyObject *result = NULL, *waiter = NULL, *reader = NULL;
    int status = -1;
    if (above == NULL) {
        return -1;
    }
    if (stream->loop != NULL &&
        Py_IS_TYPE(above, (PyTypeObject *)st->StreamReaderProtocol)) {
        reader = al_reader_find(st, above, &waiter);
    }
    if (reader != NULL) {
        status = al_reader_feed(stream, reader, waiter, PyBytes_AS_STRING(data),
                                PyBytes_GET_SIZE(data)); /* escapes */
    }
    else {
        result =
            PyObject_CallMethodOneArg(above, st->str.data_received, data); /* escapes */
        status = result == NULL ? -1 : 0;
    }
    Py_XDECREF(result);
    Py_XDECREF(waiter);
    Py_XDECREF(reader);
    Py_DECREF(above);
    return status;
}

/* Whether nothing waits to be encrypted; -1: an exception. */
static int
backlog_is_empty(al_state *st, PyObject *dict)
{
    PyObject *backlog = attribute(dict, st->str._write_backlog);
    Py_ssize_t waiting = backlog == NULL ? -1 : PyObject_Size(backlog); /* escapes */
    Py_XDECREF(backlog);                                                /* escapes */
    return waiting < 0 ? -1 : waiting == 0;
}

/* What SSLProtocol._do_read() does behind the reading, which has left nothing in the
 * BIO unless the peer has `closed`.  0 or -1.  Escapes. */
static int
settle(al_state *st, PyObject *protocol, PyObject *dict, bool closed)
{
    int empty = backlog_is_empty(st, dict);
    if (empty == 0) {
        empty = call(protocol, st->str._do_write); /* escapes */
    }
    else if (empty > 0) {
        PyObject *outgoing = attribute(dict, st->str._outgoing);
        int pending = outgoing == NULL ? -1 : has_pending(st, outgoing); /* escapes */
        Py_XDECREF(outgoing);                                            /* escapes */
        int paused = is_true(dict, st->str._app_writing_paused);
        int limit = is_true(dict, st->str._outgoing_high_water);
        empty = pending < 0 || paused < 0 || limit < 0 ? -1
                : pending || paused || !limit
                    ? call(protocol, st->str._process_outgoing)
                    : 0; /* escapes */
    }
    int paused = empty < 0 ? -1 : is_true(dict, st->str._ssl_reading_paused);
    int limit = paused < 0 ? -1 : is_true(dict, st->str._incoming_high_water);
    return limit < 0                    ? -1
           : paused || !limit || closed ? call(protocol, st->str._control_ssl_reading)
                                        : 0; /* escapes */
}

/* Mirrors SSLProtocol._do_read() in the state WRAPPED, without its handler. */
static int
read_wrapped(al_state *st, al_stream *stream, PyObject *protocol, PyObject *dict,
             PyObject *inner, PyObject *incoming)
{
    PyObject *data;
    bool closed = false;
    int status = decrypt_all(st, inner, incoming, &data, &closed); /* escapes */
    if (status == 0 && data != NULL) {
        status = hand_over(st, stream, dict, data); /* escapes */
        Py_DECREF(data);
    }
    if (status == 0 && closed) {
        status = call(protocol, st->str._call_eof_received); /* escapes */
        if (status == 0) {
            status = call(protocol, st->str._start_shutdown); /* escapes */
        }
    }
    return status < 0 ? -1 : settle(st, protocol, dict, closed); /* escapes */
}

/* Mirrors SSLProtocol._do_read() in the state WRAPPED. */
static int
do_read(al_state *st, al_stream *stream, PyObject *protocol, PyObject *dict,
        PyObject *incoming)
{
    int paused = is_true(dict, st->str._app_reading_paused);
    int buffered = is_true(dict, st->str._app_protocol_is_buffer);
    PyObject *inner = paused != 0 || buffered != 0 ? NULL : inner_object(st, dict);
    if (inner == NULL) {
        return paused < 0 || buffered < 0 || PyErr_Occurred()
                   ? -1
                   : call(protocol, st->str._do_read); /* escapes */
    }
    int status =
        read_wrapped(st, stream, protocol, dict, inner, incoming); /* escapes */
    Py_DECREF(inner);
    return status < 0 ? fatal(protocol) : 0; /* escapes */
}

/* Mirrors SSLProtocol.buffer_updated(). */
static int
received(al_stream *stream, PyObject *protocol, PyObject *dict, char *buffer,
         Py_ssize_t size)
{
    al_state *st = stream->loop->st;
    PyObject *incoming = attribute(dict, st->str._incoming);
    PyObject *data = NULL, *result = NULL, *state = NULL;
    int status = -1;
    if (incoming == NULL) {
        return -1;
    }
    data = size <= COPIED ? al_arena_bytes(&stream->loop->arena, buffer, size)
                          : PyMemoryView_FromMemory(buffer, size, PyBUF_READ);
    if (data != NULL) {
        result = PyObject_CallMethodOneArg(incoming, st->str.write, data);
        Py_DECREF(data);
    }
    if (result != NULL) {
        Py_DECREF(result);
        state = attribute(dict, st->str._state);
    }
    if (state != NULL) {
        status = state == st->tls.wrapped
                     ? do_read(st, stream, protocol, dict, incoming)
                 : state == st->tls.handshake ? call(protocol, st->str._do_handshake)
                 : state == st->tls.flushing  ? call(protocol, st->str._do_flush)
                 : state == st->tls.shutdown  ? call(protocol, st->str._do_shutdown)
                                              : 0; /* escapes */
    }
    Py_XDECREF(state);
    Py_DECREF(incoming);
    return status;
}

int
al_tls_readable(al_stream *stream)
{
    char *buffer = al_stream_buffer(stream);
    int status;
    if (buffer == NULL) {
        return al_stream_fatal(stream, READ_FAILED);
    }
    ssize_t n = al_stream_receive(stream, buffer, AL_ARENA_BUFFER, &status);
    if (n <= 0) {
        return status;
    }
    PyObject *protocol = Py_NewRef(stream->protocol);
    PyObject *dict = dict_of(protocol);
    status = dict == NULL ? -1 : received(stream, protocol, dict, buffer, n);
    Py_XDECREF(dict); /* escapes, as the call before */
    Py_DECREF(protocol);
    return status < 0 ? al_stream_fatal(stream, BUFFER_UPDATED_FAILED) : 0;
}

/* --- writing ------------------------------------------------------------------------------ */

/* Encrypts data, of bytes or bytearray; *done counts what was taken.  0 or -1. */
static int
encrypt_all(al_state *st, PyObject *inner, PyObject *data, Py_ssize_t *done)
{
    /* While there is a view, a bytearray keeps its size. */
    PyObject *view =
        PyBytes_CheckExact(data) ? Py_NewRef(data) : PyMemoryView_FromObject(data);
    Py_ssize_t size = view == NULL ? -1 : PyObject_Size(view);
    int status = -1;
    *done = 0;
    while (size >= 0) {
        PyObject *piece =
            *done == 0 ? Py_NewRef(view) : PySequence_GetSlice(view, *done, size);
        PyObject *count =
            piece == NULL
                ? NULL
                : PyObject_CallMethodOneArg(inner, st->str.write, piece); /* escapes */
        Py_ssize_t taken = count == NULL ? -1 : PyLong_AsSsize_t(count);
        Py_XDECREF(piece);
        Py_XDECREF(count);
        if (taken < 0) {
            break;
        }
        *done += taken;
        if (*done >= size) {
            status = 0;
            break;
        }
        if (PyBytes_CheckExact(view)) { /* From here on pieces are no copies. */
            Py_SETREF(view, PyMemoryView_FromObject(data));
            size = view == NULL ? -1 : size;
        }
    }
    Py_XDECREF(view);
    return status;
}

/* What could not be encrypted now waits where asyncio has it.  0 or -1. */
static int
keep_rest(al_state *st, PyObject *protocol, PyObject *data, Py_ssize_t from)
{
    PyObject *backlog = NULL, *rest = NULL, *appended = NULL, *before = NULL;
    PyObject *more = NULL, *after = NULL;
    int status = -1;
    backlog = PyObject_GetAttr(protocol, st->str._write_backlog);
    rest = PySequence_GetSlice(data, from, PyObject_Size(data));
    if (backlog == NULL || rest == NULL) {
        goto done;
    }
    appended = PyObject_CallMethod(backlog, "append", "O", rest);
    before = PyObject_GetAttrString(protocol, "_write_buffer_size");
    more = PyLong_FromSsize_t(PyObject_Size(rest));
    if (appended == NULL || before == NULL || more == NULL) {
        goto done;
    }
    after = PyNumber_Add(before, more);
    if (after != NULL) {
        status = PyObject_SetAttrString(protocol, "_write_buffer_size", after);
    }

done:
    Py_XDECREF(backlog);
    Py_XDECREF(rest);
    Py_XDECREF(appended);
    Py_XDECREF(before);
    Py_XDECREF(more);
    Py_XDECREF(after);
    return status;
}

/* Mirrors SSLProtocol._process_outgoing() while the stream takes data; `rest`: not all
 * has been encrypted. */
static int
send_encrypted(al_state *st, PyObject *protocol, PyObject *dict, bool rest)
{
    PyObject *outgoing = attribute(dict, st->str._outgoing);
    PyObject *data =
        outgoing == NULL ? NULL : PyObject_CallMethodNoArgs(outgoing, st->str.read);
    Py_XDECREF(outgoing);
    int status = data == NULL ? -1 : 0;
    if (data != NULL && PyObject_Size(data) != 0) {
        PyObject *transport = attribute(dict, st->str._transport);
        PyObject *result = transport == NULL
                               ? NULL
                               : PyObject_CallMethodOneArg(transport, st->str.write,
                                                           data); /* escapes */
        status = result == NULL ? -1 : 0;
        Py_XDECREF(result);
        Py_XDECREF(transport);
    }
    Py_XDECREF(data);
    int paused = status < 0 ? -1 : is_true(dict, st->str._app_writing_paused);
    int limit = paused < 0 ? -1 : is_true(dict, st->str._outgoing_high_water);
    return limit < 0                  ? -1
           : paused || !limit || rest ? call(protocol, st->str._control_app_writing)
                                      : 0; /* escapes */
}

/* Mirrors SSLProtocol._write_appdata() in the state WRAPPED, with nothing waiting. */
static int
write_wrapped(al_state *st, PyObject *protocol, PyObject *dict, PyObject *inner,
              PyObject *data)
{
    Py_ssize_t done;
    int status = encrypt_all(st, inner, data, &done); /* escapes */
    bool rest = status < 0;
    if (rest) {
        bool again = PyErr_ExceptionMatches(st->tls.again);
        PyObject *exc = al_err_take();
        status = keep_rest(st, protocol, data, done);
        if (status == 0 && !again) {
            al_err_put_steal(Py_NewRef(exc));
            status = -1;
        }
        Py_DECREF(exc);
    }
    if (status == 0) {
        status = send_encrypted(st, protocol, dict, rest); /* escapes */
    }
    return status < 0 ? fatal(protocol) : 0; /* escapes */
}

/* The inner object if write_wrapped() will do, a new reference; or NULL, perhaps with
 * an exception. */
static PyObject *
ready_to_write(al_state *st, PyObject *dict, PyObject *data)
{
    if (!(PyBytes_CheckExact(data) || PyByteArray_CheckExact(data)) ||
        PyObject_Size(data) == 0) {
        return NULL;
    }
    PyObject *state = attribute(dict, st->str._state);
    bool wrapped = state == st->tls.wrapped;
    Py_XDECREF(state); /* escapes */
    if (!wrapped || backlog_is_empty(st, dict) != 1 ||
        is_true(dict, st->str._ssl_writing_paused) != 0) {
        return NULL;
    }
    return inner_object(st, dict);
}

PyDoc_STRVAR(write_doc, "write($self, data)\n--\n\n"
                        "Encrypt data and send it.\n\n"
                        "Does not block: what cannot be sent now is buffered.\n\n"
                        "Source: asyncio, WriteTransport.write.");

/* asyncio's write(), or who has taken its place. */
static PyObject *
call_asyncios_write(al_state *st, PyObject *self, PyObject *const *args,
                    Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *rest = PyTuple_New(nargs + 1);
    PyObject *keywords = kwnames == NULL ? NULL : PyDict_New();
    PyObject *function = NULL, *result = NULL;
    if (rest == NULL || (kwnames != NULL && keywords == NULL)) {
        goto done;
    }
    PyTuple_SET_ITEM(rest, 0, Py_NewRef(self));
    for (Py_ssize_t i = 0; i < nargs; i++) {
        PyTuple_SET_ITEM(rest, i + 1, Py_NewRef(args[i]));
    }
    for (Py_ssize_t i = 0; keywords != NULL && i < PyTuple_GET_SIZE(kwnames); i++) {
        if (PyDict_SetItem(keywords, PyTuple_GET_ITEM(kwnames, i), args[nargs + i]) <
            0) {
            goto done;
        }
    }
    function = PyObject_GetAttr(st->SSLProtocolTransport, st->str.write);
    if (function != NULL) {
        result = PyObject_Call(function, rest, keywords); /* escapes */
    }

done:
    Py_XDECREF(function);
    Py_XDECREF(keywords);
    Py_XDECREF(rest);
    return result;
}

static PyObject *
TlsTransport_write(PyObject *self, PyTypeObject *defining_class, PyObject *const *args,
                   Py_ssize_t nargs, PyObject *kwnames)
{
    al_state *st = PyType_GetModuleState(defining_class);
    PyObject *protocol = PyObject_GetAttr(self, st->str._ssl_protocol);
    PyObject *dict = NULL, *inner = NULL, *result = NULL;
    if (protocol != NULL && kwnames == NULL && nargs == 1 &&
        al_tls_serves(st, protocol)) {
        dict = dict_of(protocol);
        inner = dict == NULL ? NULL : ready_to_write(st, dict, args[0]);
    }
    if (inner != NULL) {
        int status = write_wrapped(st, protocol, dict, inner, args[0]); /* escapes */
        result = status < 0 ? NULL : Py_NewRef(Py_None);
    }
    else if (!PyErr_Occurred()) {
        result = call_asyncios_write(st, self, args, nargs, kwnames); /* escapes */
    }
    Py_XDECREF(inner);
    Py_XDECREF(dict);
    Py_XDECREF(protocol);
    return result;
}

/* --- the transport's class ------------------------------------------------------------------ */

static PyMethodDef transport_methods[] = {
    {"write", (PyCFunction)(void (*)(void))TlsTransport_write,
     METH_METHOD | METH_FASTCALL | METH_KEYWORDS, write_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot transport_slots[] = {
    {Py_tp_methods, transport_methods},
    {0, NULL},
};

static PyType_Spec transport_spec = {
    .name = "asyncio.sslproto._SSLProtocolTransport",
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = transport_slots,
};

/* The class of aioloop/_tls.py, which imports this module: borrowed, or NULL. */
static PyObject *
mended_class(al_state *st)
{
    if (st->tls.mended == NULL) {
        PyObject *module = PyImport_ImportModule("aioloop._tls");
        if (module != NULL) {
            st->tls.mended = PyObject_GetAttrString(module, "SSLProtocol");
            Py_DECREF(module);
        }
    }
    return st->tls.mended;
}

void
al_tls_adopt(al_state *st, PyObject *protocol, PyObject *below)
{
    PyObject *class = mended_class(st);
    if (class != NULL && PyObject_SetAttrString(protocol, "__class__", class) == 0) {
        PyObject *result =
            PyObject_CallMethod(protocol, "_adopted", "O", below); /* escapes */
        Py_XDECREF(result);
    }
    PyErr_Clear(); /* It stays asyncio's. */
    PyObject *transport = PyObject_GetAttrString(protocol, "_app_transport");
    if (transport != NULL &&
        Py_IS_TYPE(transport, (PyTypeObject *)st->SSLProtocolTransport)) {
        (void)PyObject_SetAttrString(transport, "__class__",
                                     (PyObject *)st->TlsTransport_type);
    }
    Py_XDECREF(transport);
    PyErr_Clear(); /* It stays with asyncio's write(). */
    /* get_buffer() makes them anew, should anybody call it. */
    PyObject *buffer = PyByteArray_FromStringAndSize(NULL, 0);
    PyObject *view = buffer == NULL ? NULL : PyMemoryView_FromObject(buffer);
    if (view != NULL && PyObject_SetAttrString(protocol, "_ssl_buffer", buffer) == 0) {
        (void)PyObject_SetAttrString(protocol, "_ssl_buffer_view", view);
    }
    Py_XDECREF(view);
    Py_XDECREF(buffer);
    PyErr_Clear();
}

/* What the names stand for: 1; 0 if one has gone, or -1. */
static int
find_names(al_state *st, PyObject *ssl, PyObject *sslproto)
{
    const struct {
        PyObject **place, *owner;
        const char *name;
    } wanted[] = {
        {&st->tls.again, sslproto, "SSLAgainErrors"},
        {&st->tls.wrapped, st->SSLProtocolState, "WRAPPED"},
        {&st->tls.handshake, st->SSLProtocolState, "DO_HANDSHAKE"},
        {&st->tls.flushing, st->SSLProtocolState, "FLUSHING"},
        {&st->tls.shutdown, st->SSLProtocolState, "SHUTDOWN"},
        {&st->tls.object_type, ssl, "SSLObject"},
    };
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        *wanted[i].place = PyObject_GetAttrString(wanted[i].owner, wanted[i].name);
        if (*wanted[i].place == NULL) {
            if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
                return -1;
            }
            PyErr_Clear();
            return 0;
        }
    }
    return 1;
}

int
al_tls_init_type(PyObject *module, al_state *st)
{
    PyObject *ssl = PyImport_ImportModule("ssl");
    PyObject *sslproto = NULL;
    int status = -1;
    if (ssl == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_ImportError)) {
            return -1;
        }
        PyErr_Clear(); /* This Python was built without it. */
        return 0;
    }
    sslproto = PyImport_ImportModule("asyncio.sslproto");
    st->tls.record = PyLong_FromLong(RECORD);
    if (sslproto == NULL || st->tls.record == NULL) {
        goto done;
    }
    int found = find_names(st, ssl, sslproto);
    if (found == 0) {
        al_layout_turn_off(st, AL_LAYOUT_SSL_PROTOCOL);
        Py_CLEAR(st->tls.object_type); /* Nothing is ever served. */
    }
    if (found < 0 ||
        (found && al_state_add_type(module, &st->TlsTransport_type, &transport_spec,
                                    st->SSLProtocolTransport) < 0)) {
        goto done;
    }
    status = 0;

done:
    Py_DECREF(ssl);
    Py_XDECREF(sslproto);
    return status;
}
