/* sockets.c: see sockets.h.
 *
 * What the C rooms do not handle goes to the method that the loop inherits from asyncio,
 * with the arguments as they came, so its answers and errors are asyncio's own. */
#include "loop/sockets.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "base/args.h"
#include "core/sched.h"
#include "io/addr.h"
#include "io/dgram.h"
#include "io/pipe.h"
#include "io/sockops.h"

PyObject *
al_sockets_inherited(al_loop *self, const char *name, PyObject *const *args,
                     Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *result = NULL;
    PyObject *method = PyObject_GetAttrString(self->st->SelectorEventLoop, name);
    if (method == NULL) {
        return NULL;
    }
    Py_ssize_t total = nargs + (kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames));
    PyObject **stack = PyMem_New(PyObject *, (size_t)total + 1);
    if (stack == NULL) {
        PyErr_NoMemory();
    }
    else {
        stack[0] = (PyObject *)self;
        for (Py_ssize_t i = 0; i < total; i++) {
            stack[i + 1] = args[i];
        }
        result = PyObject_Vectorcall(method, stack, (size_t)nargs + 1, kwnames);
        PyMem_Free(stack);
    }
    Py_DECREF(method);
    return result;
}

/* --- sock_* ----------------------------------------------------------------------------- */

/* An exact int from `least` up that fits; -1 where asyncio's method has to judge. */
static Py_ssize_t
plain_size(PyObject *object, Py_ssize_t least)
{
    if (!PyLong_CheckExact(object)) {
        return -1;
    }
    Py_ssize_t size = PyLong_AsSsize_t(object);
    if (size == -1 && PyErr_Occurred()) {
        PyErr_Clear(); /* OverflowError: the socket method raises it when awaited. */
    }
    return size >= least ? size : -1;
}

#define SIGNATURE(name, count, ...)                                                    \
    static const al_signature name##_signature = {                                     \
        .function = "BaseSelectorEventLoop." #name,                                    \
        .names = {__VA_ARGS__},                                                        \
        .positional = count,                                                           \
        .required = count,                                                             \
        .total = count,                                                                \
    }

SIGNATURE(sock_recv, 2, "sock", "n");
SIGNATURE(sock_recv_into, 2, "sock", "buf");
SIGNATURE(sock_recvfrom, 2, "sock", "bufsize");
SIGNATURE(sock_sendall, 2, "sock", "data");
SIGNATURE(sock_sendto, 3, "sock", "data", "address");
SIGNATURE(sock_connect, 2, "sock", "address");
SIGNATURE(sock_accept, 1, "sock");

static const al_signature sock_recvfrom_into_signature = {
    .function = "BaseSelectorEventLoop.sock_recvfrom_into",
    .names = {"sock", "buf", "nbytes"},
    .positional = 3,
    .required = 2,
    .total = 3,
};

static const al_signature sendfile_native_signature = {
    .function = "_UnixSelectorEventLoop._sock_sendfile_native",
    .names = {"sock", "file", "offset", "count"},
    .positional = 4,
    .required = 4,
    .total = 4,
};

#define FAST_ARGS                                                                      \
    al_loop *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames

PyDoc_STRVAR(sock_recv_doc,
             "sock_recv($self, sock, n)\n--\n\n"
             "Receive up to n bytes from a non-blocking socket.\n\n"
             "The awaitable returns bytes, empty at the end of the stream. Nothing\n"
             "received is lost when it is cancelled.\n\n"
             "Source: asyncio, loop.sock_recv.");

static PyObject *
EventLoop_sock_recv(FAST_ARGS)
{
    AL_OBEY(self, "sock_recv", args, nargs, kwnames);
    PyObject *values[2];
    if (al_args_parse(&sock_recv_signature, args, nargs, kwnames, values, NULL) < 0) {
        return NULL;
    }
    Py_ssize_t size = plain_size(values[1], 1);
    if (AL_UNLIKELY(size < 0 || !al_sockop_takes(self->st, values[0]))) {
        return al_sockets_inherited(self, "sock_recv", args, nargs, kwnames);
    }
    return al_sockop_new_recv(self, AL_SOCKOP_RECV, values[0], NULL, size);
}

PyDoc_STRVAR(sock_recv_into_doc,
             "sock_recv_into($self, sock, buf)\n--\n\n"
             "Receive from a non-blocking socket into a writable buffer.\n\n"
             "The awaitable returns the number of bytes.\n\n"
             "Source: asyncio, loop.sock_recv_into.");

static PyObject *
EventLoop_sock_recv_into(FAST_ARGS)
{
    AL_OBEY(self, "sock_recv_into", args, nargs, kwnames);
    PyObject *values[2];
    if (al_args_parse(&sock_recv_into_signature, args, nargs, kwnames, values, NULL) <
        0) {
        return NULL;
    }
    if (!al_sockop_takes(self->st, values[0])) {
        return al_sockets_inherited(self, "sock_recv_into", args, nargs, kwnames);
    }
    return al_sockop_new(self, AL_SOCKOP_RECV_INTO, values[0], values[1], NULL);
}

PyDoc_STRVAR(sock_recvfrom_doc, "sock_recvfrom($self, sock, bufsize)\n--\n\n"
                                "Receive a datagram of up to bufsize bytes.\n\n"
                                "The awaitable returns (bytes, sender's address).\n\n"
                                "Source: asyncio, loop.sock_recvfrom.");

static PyObject *
EventLoop_sock_recvfrom(FAST_ARGS)
{
    AL_OBEY(self, "sock_recvfrom", args, nargs, kwnames);
    PyObject *values[2];
    if (al_args_parse(&sock_recvfrom_signature, args, nargs, kwnames, values, NULL) <
        0) {
        return NULL;
    }
    Py_ssize_t size = plain_size(values[1], 1);
    if (size < 0 || !al_sockop_takes(self->st, values[0])) {
        return al_sockets_inherited(self, "sock_recvfrom", args, nargs, kwnames);
    }
    return al_sockop_new_recv(self, AL_SOCKOP_RECVFROM, values[0], NULL, size);
}

PyDoc_STRVAR(sock_recvfrom_into_doc,
             "sock_recvfrom_into($self, sock, buf, nbytes=0)\n--\n\n"
             "Receive a datagram of up to nbytes bytes (0: all that buf holds).\n\n"
             "The awaitable returns (number of bytes, sender's address).\n\n"
             "Source: asyncio, loop.sock_recvfrom_into.");

static PyObject *
EventLoop_sock_recvfrom_into(FAST_ARGS)
{
    AL_OBEY(self, "sock_recvfrom_into", args, nargs, kwnames);
    PyObject *values[3];
    if (al_args_parse(&sock_recvfrom_into_signature, args, nargs, kwnames, values,
                      NULL) < 0) {
        return NULL;
    }
    Py_ssize_t size = values[2] == NULL ? 0 : plain_size(values[2], 0);
    if (size < 0 || !al_sockop_takes(self->st, values[0])) {
        return al_sockets_inherited(self, "sock_recvfrom_into", args, nargs, kwnames);
    }
    return al_sockop_new_recv(self, AL_SOCKOP_RECVFROM_INTO, values[0], values[1],
                              size);
}

PyDoc_STRVAR(sock_sendall_doc,
             "sock_sendall($self, sock, data)\n--\n\n"
             "Send all of a bytes-like object on a non-blocking socket.\n\n"
             "The awaitable returns None. After an error or a cancellation it is not\n"
             "known how much was sent.\n\n"
             "Source: asyncio, loop.sock_sendall.");

static PyObject *
EventLoop_sock_sendall(FAST_ARGS)
{
    AL_OBEY(self, "sock_sendall", args, nargs, kwnames);
    PyObject *values[2];
    if (al_args_parse(&sock_sendall_signature, args, nargs, kwnames, values, NULL) <
        0) {
        return NULL;
    }
    if (AL_UNLIKELY(!al_sockop_takes(self->st, values[0]))) {
        return al_sockets_inherited(self, "sock_sendall", args, nargs, kwnames);
    }
    return al_sockop_new(self, AL_SOCKOP_SENDALL, values[0], values[1], NULL);
}

PyDoc_STRVAR(sock_sendto_doc, "sock_sendto($self, sock, data, address)\n--\n\n"
                              "Send a datagram to an address.\n\n"
                              "The awaitable returns the number of bytes.\n\n"
                              "Source: asyncio, loop.sock_sendto.");

static PyObject *
EventLoop_sock_sendto(FAST_ARGS)
{
    AL_OBEY(self, "sock_sendto", args, nargs, kwnames);
    PyObject *values[3];
    if (al_args_parse(&sock_sendto_signature, args, nargs, kwnames, values, NULL) < 0) {
        return NULL;
    }
    if (!al_sockop_takes(self->st, values[0])) {
        return al_sockets_inherited(self, "sock_sendto", args, nargs, kwnames);
    }
    return al_sockop_new(self, AL_SOCKOP_SENDTO, values[0], values[1], values[2]);
}

PyDoc_STRVAR(sock_connect_doc,
             "sock_connect($self, sock, address)\n--\n\n"
             "Connect a non-blocking socket.\n\n"
             "A host name is resolved first, by getaddrinfo(); a literal address is\n"
             "not looked up. The awaitable returns None.\n\n"
             "Source: asyncio, loop.sock_connect.");

static PyObject *
EventLoop_sock_connect(FAST_ARGS)
{
    AL_OBEY(self, "sock_connect", args, nargs, kwnames);
    PyObject *values[2];
    al_addr addr;
    if (al_args_parse(&sock_connect_signature, args, nargs, kwnames, values, NULL) <
        0) {
        return NULL;
    }
    int plain = 0;
    if (al_sockop_takes(self->st, values[0])) {
        plain = al_addr_parse(&addr, al_sockop_family(values[0]), values[1]);
    }
    if (plain <= 0) {
        PyErr_Clear(); /* asyncio's method raises it when it is awaited. */
        return al_sockets_inherited(self, "sock_connect", args, nargs, kwnames);
    }
    return al_sockop_new(self, AL_SOCKOP_CONNECT, values[0], values[1], NULL);
}

PyDoc_STRVAR(sock_accept_doc,
             "sock_accept($self, sock)\n--\n\n"
             "Accept a connection on a listening non-blocking socket.\n\n"
             "The awaitable returns (socket, peer's address); the socket is\n"
             "non-blocking.\n\n"
             "Source: asyncio, loop.sock_accept.");

static PyObject *
EventLoop_sock_accept(FAST_ARGS)
{
    AL_OBEY(self, "sock_accept", args, nargs, kwnames);
    PyObject *values[1];
    if (al_args_parse(&sock_accept_signature, args, nargs, kwnames, values, NULL) < 0) {
        return NULL;
    }
    if (!al_sockop_takes(self->st, values[0])) {
        return al_sockets_inherited(self, "sock_accept", args, nargs, kwnames);
    }
    return al_sockop_new(self, AL_SOCKOP_ACCEPT, values[0], NULL, NULL);
}

/* Whether asyncio's module has a sendfile in C: systems may lack it, tests replace it.
 * 1, 0 or -1. */
static int
sendfile_is_ours(al_state *st)
{
    PyObject *module = PyObject_GetAttrString(st->unix_events, "os");
    PyObject *function = NULL;
    int found =
        module == NULL ? -1 : al_getattr_optional(module, st->str.sendfile, &function);
    int ours = found <= 0 ? found : PyCFunction_Check(function);
    Py_XDECREF(module);
    Py_XDECREF(function);
    return ours;
}

/* What sock_sendfile() tries first; asyncio's own code falls back from there. */
static PyObject *
EventLoop__sock_sendfile_native(FAST_ARGS)
{
    AL_OBEY(self, "_sock_sendfile_native", args, nargs, kwnames);
    PyObject *values[4];
    if (al_args_parse(&sendfile_native_signature, args, nargs, kwnames, values, NULL) <
        0) {
        return NULL;
    }
    int ours = sendfile_is_ours(self->st);
    if (ours < 0) {
        return NULL;
    }
    Py_ssize_t offset = plain_size(values[2], 0);
    Py_ssize_t count = values[3] == Py_None ? 0 : plain_size(values[3], 0);
    if (!ours || offset < 0 || count < 0 || !al_sockop_takes(self->st, values[0]) ||
        !al_sockop_non_blocking(values[0])) {
        return al_sockets_inherited(self, "_sock_sendfile_native", args, nargs,
                                    kwnames);
    }
    return al_sockop_new_sendfile(self, values[0], values[1], offset, count);
}

/* --- getaddrinfo -------------------------------------------------------------------------
 *
 * For a literal address and a numeric port the resolver only repeats them once for each
 * protocol, which depends on the C library and on the hints, and not on the address.
 * So the first call with given hints asks socket.getaddrinfo about a sample address,
 * with AI_NUMERICHOST and AI_NUMERICSERV: nothing is looked up.  The answer without its
 * address is the template for all literals with these hints. */

enum { TEMPLATES_MAX = 64 };

typedef struct {
    bool v6;
    bool service; /* a port was given */
    int port;
    int family, type, proto, flags;
    char text[INET6_ADDRSTRLEN]; /* the canonical form */
} literal;

/* Dotted quad without leading zeros, which inet_aton would read as octal. */
static bool
canonical_v4(const char *host)
{
    for (const char *c = host; *c != '\0'; c++) {
        bool begins = c == host || c[-1] == '.';
        if (begins && c[0] == '0' && c[1] != '.' && c[1] != '\0') {
            return false;
        }
    }
    return true;
}

static bool
read_host(PyObject *object, literal *out)
{
    const char *host;
    Py_ssize_t size;
    if (PyUnicode_CheckExact(object)) {
        if (!PyUnicode_IS_COMPACT_ASCII(object)) {
            return false;
        }
        host = (const char *)PyUnicode_1BYTE_DATA(object);
        size = PyUnicode_GET_LENGTH(object);
    }
    else if (PyBytes_CheckExact(object)) {
        host = PyBytes_AS_STRING(object);
        size = PyBytes_GET_SIZE(object);
    }
    else {
        return false;
    }
    if (size < 2 || size >= INET6_ADDRSTRLEN || strlen(host) != (size_t)size) {
        return false;
    }
    struct in6_addr addr;
    out->v6 = memchr(host, ':', (size_t)size) != NULL;
    if (!out->v6) {
        if (inet_pton(AF_INET, host, &addr) != 1 || !canonical_v4(host)) {
            return false;
        }
        memcpy(out->text, host, (size_t)size + 1);
        return true;
    }
    /* A mapped address can turn into an IPv4 one. */
    return inet_pton(AF_INET6, host, &addr) == 1 && !IN6_IS_ADDR_V4MAPPED(&addr) &&
           inet_ntop(AF_INET6, &addr, out->text, sizeof(out->text)) != NULL;
}

static bool
read_port(PyObject *object, literal *out)
{
    const char *text;
    Py_ssize_t size;
    out->service = object != Py_None;
    out->port = 0;
    if (object == Py_None) {
        return true;
    }
    if (PyLong_CheckExact(object)) {
        int overflow;
        long port = PyLong_AsLongAndOverflow(object, &overflow);
        out->port = (int)port;
        return overflow == 0 && port >= 0 && port <= 65535;
    }
    if (PyUnicode_CheckExact(object) && PyUnicode_IS_COMPACT_ASCII(object)) {
        text = (const char *)PyUnicode_1BYTE_DATA(object);
        size = PyUnicode_GET_LENGTH(object);
    }
    else if (PyBytes_CheckExact(object)) {
        text = PyBytes_AS_STRING(object);
        size = PyBytes_GET_SIZE(object);
    }
    else {
        return false;
    }
    if (size < 1 || size > 5 || (text[0] == '0' && size > 1)) {
        return false;
    }
    for (Py_ssize_t i = 0; i < size; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return false;
        }
        out->port = out->port * 10 + (text[i] - '0');
    }
    return out->port <= 65535;
}

static bool
read_hint(PyObject *object, int limit, int *out)
{
    int overflow = 0;
    *out = 0;
    if (object == NULL) {
        return true;
    }
    if (!PyLong_Check(object)) {
        return false;
    }
    long value = PyLong_AsLongAndOverflow(object, &overflow);
    *out = (int)value;
    return overflow == 0 && value >= 0 && value < limit;
}

/* Asks the real function about a sample: a tuple of (family, type, proto, canonname),
 * or None where the answer does not have the expected form.  New reference. */
static PyObject *
learn_template(al_state *st, const literal *hints)
{
    const char *sample = hints->v6 ? "::1" : "127.0.0.1";
    PyObject *port = hints->service ? PyLong_FromLong(0) : Py_NewRef(Py_None);
    if (port == NULL) {
        return NULL;
    }
    PyObject *answer = PyObject_CallFunction(
        st->socket_getaddrinfo, "sOiiii", sample, port, hints->family, hints->type,
        hints->proto, hints->flags | AI_NUMERICHOST | AI_NUMERICSERV);
    Py_DECREF(port);
    if (answer == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_OSError)) {
            return NULL;
        }
        PyErr_Clear(); /* gaierror: asyncio's method raises it when it is awaited. */
        return Py_NewRef(Py_None);
    }
    PyObject *expected = hints->v6 ? Py_BuildValue("siii", sample, 0, 0, 0)
                                   : Py_BuildValue("si", sample, 0);
    PyObject *list = PyList_New(0);
    bool usable = PyList_CheckExact(answer);
    for (Py_ssize_t i = 0;
         list != NULL && expected != NULL && usable && i < PyList_GET_SIZE(answer);
         i++) {
        PyObject *entry = PyList_GET_ITEM(answer, i);
        int same =
            PyTuple_CheckExact(entry) && PyTuple_GET_SIZE(entry) == 5
                ? PyObject_RichCompareBool(PyTuple_GET_ITEM(entry, 4), expected, Py_EQ)
                : 0;
        PyObject *head = same > 0 ? PyTuple_GetSlice(entry, 0, 4) : NULL;
        if (same < 0 || (same > 0 && (head == NULL || PyList_Append(list, head) < 0))) {
            Py_CLEAR(list);
        }
        usable = same > 0;
        Py_XDECREF(head);
    }
    Py_DECREF(answer);
    PyObject *result = NULL;
    if (list != NULL && expected != NULL) {
        result = usable ? PyList_AsTuple(list) : Py_NewRef(Py_None);
    }
    Py_XDECREF(expected);
    Py_XDECREF(list);
    return result;
}

/* The template, borrowed from the cache; None where there is none; or NULL. */
static PyObject *
find_template(al_state *st, const literal *hints)
{
    long long packed = (long long)hints->family;
    packed = packed << 8 | hints->type;
    packed = packed << 16 | hints->proto;
    packed = packed << 16 | hints->flags;
    packed = packed << 2 | hints->v6 << 1 | hints->service;
    PyObject *key = PyLong_FromLongLong(packed);
    if (key == NULL) {
        return NULL;
    }
    PyObject *found = PyDict_GetItemWithError(st->addrinfo_templates, key);
    if (found == NULL && !PyErr_Occurred()) {
        if (PyDict_GET_SIZE(st->addrinfo_templates) >= TEMPLATES_MAX) {
            PyDict_Clear(st->addrinfo_templates);
        }
        found = learn_template(st, hints); /* escapes */
        if (found != NULL) {
            if (PyDict_SetItem(st->addrinfo_templates, key, found) < 0) {
                Py_CLEAR(found);
            }
            else {
                Py_DECREF(found); /* The dictionary holds it. */
            }
        }
    }
    Py_DECREF(key);
    return found;
}

/* socket.getaddrinfo's list.  New reference. */
static PyObject *
fill_template(PyObject *template, const literal *what, PyObject *host)
{
    PyObject *text = PyUnicode_CheckExact(host) &&
                             PyUnicode_CompareWithASCIIString(host, what->text) == 0
                         ? Py_NewRef(host)
                         : PyUnicode_FromString(what->text);
    if (text == NULL) {
        return NULL;
    }
    PyObject *address = what->v6 ? Py_BuildValue("Oiii", text, what->port, 0, 0)
                                 : Py_BuildValue("Oi", text, what->port);
    Py_DECREF(text);
    Py_ssize_t n = PyTuple_GET_SIZE(template);
    PyObject *list = address == NULL ? NULL : PyList_New(n);
    for (Py_ssize_t i = 0; list != NULL && i < n; i++) {
        PyObject *entry = PyTuple_New(5);
        if (entry == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyObject *head = PyTuple_GET_ITEM(template, i);
        for (Py_ssize_t j = 0; j < 4; j++) {
            PyTuple_SET_ITEM(entry, j, Py_NewRef(PyTuple_GET_ITEM(head, j)));
        }
        PyTuple_SET_ITEM(entry, 4, Py_NewRef(address));
        PyList_SET_ITEM(list, i, entry);
    }
    Py_XDECREF(address);
    return list;
}

/* Whether asyncio's module still uses the socket.getaddrinfo of the import. */
static int
resolver_is_ours(al_state *st)
{
    PyObject *module = PyObject_GetAttr(st->base_events, st->str.socket);
    PyObject *function =
        module == NULL ? NULL : PyObject_GetAttr(module, st->str.getaddrinfo);
    int result = function == NULL ? -1 : function == st->socket_getaddrinfo;
    Py_XDECREF(module);
    Py_XDECREF(function);
    return result;
}

static const al_signature getaddrinfo_signature = {
    .function = "BaseEventLoop.getaddrinfo",
    .names = {"host", "port", "family", "type", "proto", "flags"},
    .positional = 2,
    .required = 2,
    .total = 6,
};

PyDoc_STRVAR(getaddrinfo_doc,
             "getaddrinfo($self, host, port, *, family=0, type=0, proto=0, flags=0)\n"
             "--\n\n"
             "Resolve a host and a port: socket.getaddrinfo() without blocking.\n\n"
             "A literal address with a numeric port is answered at once; everything\n"
             "else is looked up by a thread of the default executor.\n\n"
             "Source: asyncio, loop.getaddrinfo.");

static PyObject *
EventLoop_getaddrinfo(FAST_ARGS)
{
    AL_OBEY(self, "getaddrinfo", args, nargs, kwnames);
    enum { QUIET_FLAGS = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV };
    al_state *st = self->st;
    PyObject *values[6];
    literal what;
    if (al_args_parse(&getaddrinfo_signature, args, nargs, kwnames, values, NULL) < 0) {
        return NULL;
    }
    /* Debug mode logs how long the resolver takes. */
    if ((AL_LOAD(self->debug.switches) & AL_DEBUG_FDS) == 0 && !self->closed &&
        read_hint(values[2], 256, &what.family) &&
        read_hint(values[3], 256, &what.type) &&
        read_hint(values[4], 65536, &what.proto) &&
        read_hint(values[5], 65536, &what.flags) && (what.flags & ~QUIET_FLAGS) == 0 &&
        read_port(values[1], &what) && read_host(values[0], &what)) {
        int ours = resolver_is_ours(st);
        PyObject *template = ours == 1 ? find_template(st, &what) : NULL;
        if (ours < 0 || (ours == 1 && template == NULL) ||
            PySys_Audit("socket.getaddrinfo", "OOiii", values[0], values[1],
                        what.family, what.type, what.proto) < 0) {
            return NULL;
        }
        if (ours == 1 && template != Py_None) {
            Py_INCREF(template);
            PyObject *list = fill_template(template, &what, values[0]);
            Py_DECREF(template);
            return al_sockop_new_value_steal(self, "getaddrinfo", list);
        }
    }
    return al_sockets_inherited(self, "getaddrinfo", args, nargs, kwnames);
}

/* --- transports ------------------------------------------------------------------------- */

static const al_signature make_datagram_signature = {
    .function = "BaseSelectorEventLoop._make_datagram_transport",
    .names = {"sock", "protocol", "address", "waiter", "extra"},
    .positional = 5,
    .required = 2,
    .total = 5,
};

static PyObject *
EventLoop__make_datagram_transport(FAST_ARGS)
{
    AL_OWN(self, NULL);
    AL_OBEY(self, "_make_datagram_transport", args, nargs, kwnames);
    PyObject *values[5];
    if (al_args_parse(&make_datagram_signature, args, nargs, kwnames, values, NULL) <
        0) {
        return NULL;
    }
    PyObject *checked = PyObject_CallMethod((PyObject *)self, "_ensure_fd_no_transport",
                                            "O", values[0]); /* escapes */
    if (checked == NULL) {
        return NULL;
    }
    Py_DECREF(checked);
    if (!al_dgram_takes(self->st, values[0])) {
        return al_sockets_inherited(self, "_make_datagram_transport", args, nargs,
                                    kwnames);
    }
    /* asyncio's method and its transport's __init__. */
    self->debug.frames_above += 1 + AL_DEBUG_METHOD_FRAMES;
    PyObject *transport =
        al_dgram_new(self, values[0], values[1], values[2], values[3], values[4]);
    self->debug.frames_above -= 1 + AL_DEBUG_METHOD_FRAMES;
    return transport;
}

static const al_signature make_read_pipe_signature = {
    .function = "_UnixSelectorEventLoop._make_read_pipe_transport",
    .names = {"pipe", "protocol", "waiter", "extra"},
    .positional = 4,
    .required = 2,
    .total = 4,
};

static const al_signature make_write_pipe_signature = {
    .function = "_UnixSelectorEventLoop._make_write_pipe_transport",
    .names = {"pipe", "protocol", "waiter", "extra"},
    .positional = 4,
    .required = 2,
    .total = 4,
};

static PyObject *
EventLoop__make_read_pipe_transport(FAST_ARGS)
{
    AL_OWN(self, NULL);
    AL_OBEY(self, "_make_read_pipe_transport", args, nargs, kwnames);
    PyObject *values[4];
    if (al_args_parse(&make_read_pipe_signature, args, nargs, kwnames, values, NULL) <
        0) {
        return NULL;
    }
    self->debug.frames_above += 2; /* asyncio's method and its transport's __init__ */
    PyObject *transport =
        al_pipe_new_reader(self, values[0], values[1], values[2], values[3]);
    self->debug.frames_above -= 2;
    return transport;
}

static PyObject *
EventLoop__make_write_pipe_transport(FAST_ARGS)
{
    AL_OWN(self, NULL);
    AL_OBEY(self, "_make_write_pipe_transport", args, nargs, kwnames);
    PyObject *values[4];
    if (al_args_parse(&make_write_pipe_signature, args, nargs, kwnames, values, NULL) <
        0) {
        return NULL;
    }
    self->debug.frames_above += 2; /* asyncio's method and its transport's __init__ */
    PyObject *transport =
        al_pipe_new_writer(self, values[0], values[1], values[2], values[3]);
    self->debug.frames_above -= 2;
    return transport;
}

#define FAST(function)                                                                 \
    (PyCFunction)(void (*)(void))(function), METH_FASTCALL | METH_KEYWORDS

PyMethodDef al_sockets_methods[] = {
    {"sock_recv", FAST(EventLoop_sock_recv), sock_recv_doc},
    {"sock_recv_into", FAST(EventLoop_sock_recv_into), sock_recv_into_doc},
    {"sock_recvfrom", FAST(EventLoop_sock_recvfrom), sock_recvfrom_doc},
    {"sock_recvfrom_into", FAST(EventLoop_sock_recvfrom_into), sock_recvfrom_into_doc},
    {"sock_sendall", FAST(EventLoop_sock_sendall), sock_sendall_doc},
    {"sock_sendto", FAST(EventLoop_sock_sendto), sock_sendto_doc},
    {"sock_connect", FAST(EventLoop_sock_connect), sock_connect_doc},
    {"sock_accept", FAST(EventLoop_sock_accept), sock_accept_doc},
    {"_sock_sendfile_native", FAST(EventLoop__sock_sendfile_native), NULL},
    {"getaddrinfo", FAST(EventLoop_getaddrinfo), getaddrinfo_doc},
    {"_make_datagram_transport", FAST(EventLoop__make_datagram_transport), NULL},
    {"_make_read_pipe_transport", FAST(EventLoop__make_read_pipe_transport), NULL},
    {"_make_write_pipe_transport", FAST(EventLoop__make_write_pipe_transport), NULL},
    {NULL, NULL, 0, NULL},
};
