/* dgram.c: see dgram.h.  Mirrors asyncio.selector_events._SelectorDatagramTransport. */
#include "io/dgram.h"

#include <string.h>

#include "base/args.h"
#include "core/context.h"
#include "core/debug.h"
#include "core/report.h"
#include "io/flow.h"
#include "io/sock.h"
#include "io/stream.h"
#include "io/sockops.h"
#include "io/transport.h"

enum {
    SETS = 128, /* of two addresses that are remembered, a power of two */
#if PY_VERSION_HEX >= 0x030D0000
    HEADER = 8, /* what a queued datagram counts beyond its bytes */
#else
    HEADER = 0,
#endif
    /* asyncio.constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES */
    WARN_FROM = 5,
    MESSAGE_MAX = 256 * 1024, /* asyncio's max_size, for sockets that are not of IP */
};

/* An IP address as the kernel and as Python have it. */
typedef struct {
    PyObject *object; /* owned, a tuple of str and int; NULL: an empty entry */
    socklen_t length;
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } as;
} peer;

/* A datagram that waits to be sent. */
typedef struct queued {
    struct queued *next;
    PyObject *data; /* bytes */
    PyObject *to;   /* NULL: where the socket is connected to */
} queued;

typedef struct {
    al_transport base;
    PyObject *sock;     /* owns the descriptor; NULL after connection_lost */
    const int *sock_fd; /* the number inside of it: see al_stream_sock_fd */
    PyObject *address;  /* the remote one that was given, or NULL */
    al_io *io;
    queued *first, **last; /* to be sent */
    size_t buffered;
    PyObject *stash;    /* a list of (data, address) that came before pause_reading */
    peer recent;        /* where the datagram came from that came last */
    peer *peers;        /* SETS by a hash of the address, or NULL: there was one peer */
    uint8_t *by_object; /* SETS numbers of sets, by a hash of the object */
    int family, watched;
    bool connected; /* the socket has a peer */
    bool told;      /* the kernel has been told of the descriptor once */
} al_dgram;

/* --- addresses ---------------------------------------------------------------------------- */

static unsigned int
hash_address(const al_addr *addr)
{
    uint32_t words[5] = {0};
    if (addr->as.any.sa_family == AF_INET6) {
        memcpy(words, &addr->as.in6.sin6_addr, 16);
        words[4] = addr->as.in6.sin6_port;
    }
    else {
        words[0] = addr->as.in.sin_addr.s_addr;
        words[4] = addr->as.in.sin_port;
    }
    uint32_t hash = 0;
    for (int i = 0; i < 5; i++) {
        hash = (hash ^ words[i]) * 0x9E3779B1u;
    }
    return hash >> 16 & (SETS - 1);
}

static unsigned int
hash_object(const PyObject *object)
{
    return (unsigned int)((uintptr_t)object >> 4) & (SETS - 1);
}

static bool
is_address(const peer *entry, const al_addr *addr)
{
    if (entry->object == NULL || entry->length != addr->length) {
        return false;
    }
    /* Family, port and host of IPv4 are eight bytes: one comparison. */
    return addr->length == sizeof(struct sockaddr_in)
               ? memcmp(&entry->as, &addr->as, 8) == 0
               : memcmp(&entry->as, &addr->as, addr->length) == 0;
}

/* The newest of its set.  The entry's reference is stolen. */
static void
remember_steal(al_dgram *self, unsigned int number, peer entry)
{
    peer *set = &self->peers[2 * number];
    Py_XDECREF(set[1].object); /* no foreign code */
    set[1] = set[0];
    set[0] = entry;
    self->by_object[hash_object(entry.object)] = (uint8_t)number;
}

/* Where the recent address goes when another one comes.  False: no memory. */
static bool
make_room(al_dgram *self)
{
    if (self->peers == NULL && self->recent.object != NULL) {
        al_addr addr = {.length = self->recent.length};
        self->peers = PyMem_Calloc(2 * SETS, sizeof(peer));
        self->by_object = PyMem_Calloc(SETS, 1);
        if (self->peers == NULL || self->by_object == NULL) {
            PyMem_Free(self->peers);
            PyMem_Free(self->by_object);
            self->peers = NULL;
            self->by_object = NULL;
            return false;
        }
        memcpy(&addr.as, &self->recent.as, addr.length);
        Py_INCREF(self->recent.object);
        remember_steal(self, hash_address(&addr), self->recent);
    }
    return true;
}

/* The object for an address that came, the same one for the same address as long as it
 * is remembered.  New reference, or NULL. */
static PyObject *
object_of(al_dgram *self, const al_addr *from)
{
    int family = from->length == 0 ? AF_UNSPEC : from->as.any.sa_family;
    if ((family != AF_INET && family != AF_INET6) ||
        from->length > sizeof(self->recent.as)) {
        return al_addr_object(from);
    }
    if (is_address(&self->recent, from)) {
        return Py_NewRef(self->recent.object);
    }
    if (!make_room(self)) {
        return al_addr_object(from);
    }
    unsigned int number = hash_address(from);
    peer *set = self->peers == NULL ? NULL : &self->peers[2 * number];
    peer found = {0};
    if (set != NULL && is_address(&set[0], from)) {
        found = set[0];
        Py_INCREF(found.object);
    }
    else if (set != NULL && is_address(&set[1], from)) {
        found = set[1];
        set[1] = set[0];
        set[0] = found;
        Py_INCREF(found.object);
    }
    else {
        found.object = al_addr_object(from);
        if (found.object == NULL) {
            return NULL;
        }
        found.length = from->length;
        memcpy(&found.as, &from->as, from->length);
        if (set != NULL) {
            Py_INCREF(found.object);
            remember_steal(self, number, found);
        }
    }
    Py_XDECREF(self->recent.object); /* no foreign code */
    self->recent = found;
    return Py_NewRef(found.object);
}

/* Where a datagram came from whose address is this very object, or NULL. */
static const peer *
peer_of(const al_dgram *self, PyObject *object)
{
    if (self->recent.object == object) {
        return &self->recent;
    }
    if (self->peers == NULL) {
        return NULL;
    }
    const peer *set = &self->peers[2 * self->by_object[hash_object(object)]];
    return set[0].object == object ? &set[0] : set[1].object == object ? &set[1] : NULL;
}

/* Reads an address that the program gave: 1, 0 (for the socket object) or -1. */
static int
read_address(al_dgram *self, PyObject *object, al_addr *to)
{
    const peer *entry = peer_of(self, object);
    if (entry == NULL) {
        return al_addr_parse(to, self->family, object);
    }
    to->length = entry->length;
    memcpy(&to->as, &entry->as, entry->length);
    return 1;
}

static void
forget_addresses(al_dgram *self)
{
    peer *peers = self->peers;
    self->peers = NULL;
    PyMem_Free(self->by_object);
    self->by_object = NULL;
    Py_CLEAR(self->recent.object);
    for (int i = 0; peers != NULL && i < 2 * SETS; i++) {
        Py_XDECREF(peers[i].object);
    }
    PyMem_Free(peers);
}

/* --- watching --------------------------------------------------------------------------- */

static bool
is_reading(const al_dgram *self)
{
    return !self->base.closing && !self->base.paused;
}

/* The descriptor for a system call; -1 once somebody has closed the socket object: the
 * number may be somebody else's by now. */
static inline int
descriptor(const al_dgram *self)
{
    return self->sock == NULL ||
                   (self->sock_fd != NULL && *self->sock_fd != self->base.fd)
               ? -1
               : self->base.fd;
}

/* Watches for what is wanted now.  Escapes; the caller holds a reference. */
static void
update_watch(al_dgram *self)
{
    if (self->io == NULL) {
        return;
    }
    int events =
        descriptor(self) < 0
            ? 0
            : (self->base.started && is_reading(self) && self->stash == NULL ? AL_READ
                                                                             : 0) |
                  (self->first != NULL ? AL_WRITE : 0);
    if (events == self->watched) {
        return;
    }
    self->watched = events;
    if (self->told) {
        al_io_modify(self->io, events);
    }
    else {
        al_io_set(self->io, events);
        self->told = true;
    }
    al_fds_keep_transport(self->base.loop, self->base.fd, (PyObject *)self,
                          events != 0);
}

static int call_lost(al_dgram *self, PyObject *exc);

/* Mirrors _SelectorTransport._force_close; exc may be NULL. */
static int
force_close(al_dgram *self, PyObject *exc)
{
    if (self->base.conn_lost > 0 || self->base.loop == NULL) {
        return 0;
    }
    while (self->first != NULL) {
        queued *one = self->first;
        self->first = one->next;
        Py_DECREF(one->data);
        Py_XDECREF(one->to); /* escapes: a user's object */
        PyMem_Free(one);
    }
    self->last = &self->first;
    self->buffered = 0;
    self->base.closing = true;
    self->base.conn_lost++;
    update_watch(self); /* escapes */
    return call_lost(self, exc);
}

/* The pending exception is reported, and the transport closed, unless it has to leave
 * run_forever.  Mirrors _SelectorTransport._fatal_error for what is no OSError. */
static int
fatal_error(al_dgram *self, const char *message)
{
    if (al_report_must_leave()) {
        return -1;
    }
    PyObject *exc = al_err_take();
    al_err_put_steal(Py_NewRef(exc));
    int status =
        al_flow_report(self->base.loop, message, (PyObject *)self, self->base.protocol);
    if (status == 0) {
        status = force_close(self, exc); /* escapes */
    }
    Py_DECREF(exc);
    return status;
}

/* Calls a method of the protocol in the transport's context and reports what it raises.
 * Result as al_run_fn.  Escapes. */
static int
call_protocol(al_dgram *self, PyObject *name, PyObject *first, PyObject *second)
{
    PyObject *entered, *result = NULL;
    PyObject *protocol = self->base.protocol;
    al_loop *loop = self->base.loop;
    if (protocol == NULL) {
        return 0;
    }
    /* Somebody may call _call_connection_lost() by hand, which lets go of the context. */
    PyObject *context = Py_XNewRef(self->base.context);
    if (al_context_enter(loop, &context, &entered) < 0) {
        Py_XDECREF(context);
        return -1;
    }
    PyObject *stack[3] = {protocol, first, second};
    Py_INCREF(protocol);
    result = PyObject_VectorcallMethod(name, stack, second == NULL ? 2 : 3,
                                       NULL); /* escapes */
    if (al_context_leave(loop, &context, entered) < 0) {
        Py_CLEAR(result);
    }
    if (self->base.loop == NULL) {
        Py_XDECREF(context);
    }
    else {
        Py_XSETREF(self->base.context, context);
    }
    int status = 0;
    if (AL_UNLIKELY(result == NULL)) {
        status =
            al_report_method(loop, (PyObject *)self, loop->st->str._read_ready, NULL);
    }
    Py_XDECREF(result);
    Py_DECREF(protocol);
    return status;
}

/* --- receiving ---------------------------------------------------------------------------- */

static const char read_error[] = "Fatal read error on datagram transport";

/* One datagram as Python objects: two new references, or -1 with an exception. */
static int
copy_out(al_dgram *self, const al_datagram *datagram, PyObject **data, PyObject **from)
{
    *from = NULL;
    *data = al_arena_bytes(&self->base.loop->arena, datagram->buffer,
                           (Py_ssize_t)datagram->size);
    if (*data == NULL || (*from = object_of(self, &datagram->from)) == NULL) {
        Py_XDECREF(*data);
        return -1;
    }
    return 0;
}

/* Keeps what left the kernel before pause_reading was called. */
static int
keep_in_stash(al_dgram *self, const al_datagram *datagram)
{
    PyObject *data, *from;
    if (copy_out(self, datagram, &data, &from) < 0) {
        return -1;
    }
    PyObject *pair = PyTuple_Pack(2, data, from);
    Py_DECREF(data);
    Py_DECREF(from);
    if (self->stash == NULL) {
        self->stash = PyList_New(0);
    }
    int status =
        pair == NULL || self->stash == NULL ? -1 : PyList_Append(self->stash, pair);
    Py_XDECREF(pair);
    return status;
}

/* Hands over what has been received.  An object is made when its turn comes: the last
 * one's memory is warm, and mostly free again. */
static int
deliver(al_dgram *self, const al_datagram *datagrams, int count)
{
    int status = 0, i = 0;
    for (; i < count && status == 0 && is_reading(self); i++) {
        PyObject *data, *from;
        if (copy_out(self, &datagrams[i], &data, &from) < 0) {
            return fatal_error(self, read_error); /* escapes */
        }
        status = call_protocol(self, self->base.loop->st->str.datagram_received, data,
                               from); /* escapes */
        Py_DECREF(data);
        Py_DECREF(from);
        if (self->base.loop == NULL) {
            return status; /* Somebody called _call_connection_lost() by hand. */
        }
        if (status == 0 && i + 1 < count) {
            status = al_debug_next(self->base.loop); /* escapes */
        }
    }
    /* The loop is being left, or reading is paused. */
    PyObject *leaving = status < 0 ? al_err_take() : NULL;
    for (; i < count && !self->base.closing; i++) {
        if (keep_in_stash(self, &datagrams[i]) < 0) {
            if (leaving == NULL) {
                return fatal_error(self, read_error); /* escapes */
            }
            PyErr_Clear();
        }
    }
    if (leaving != NULL) {
        al_err_put_steal(leaving);
    }
    return status;
}

static int
deliver_stash(al_dgram *self)
{
    int status = 0;
    while (status == 0 && self->stash != NULL && is_reading(self)) {
        PyObject *pair = Py_NewRef(PyList_GET_ITEM(self->stash, 0));
        if (PyList_GET_SIZE(self->stash) == 1) {
            Py_CLEAR(self->stash);
        }
        else if (PyList_SetSlice(self->stash, 0, 1, NULL) < 0) {
            Py_DECREF(pair);
            return -1;
        }
        status = call_protocol(self, self->base.loop->st->str.datagram_received,
                               PyTuple_GET_ITEM(pair, 0),
                               PyTuple_GET_ITEM(pair, 1)); /* escapes */
        Py_DECREF(pair);
        if (status == 0 && self->stash != NULL && self->base.loop != NULL) {
            status = al_debug_next(self->base.loop); /* escapes */
        }
    }
    return status;
}

static int
receive(al_dgram *self, char *arena)
{
    al_loop *loop = self->base.loop;
    al_datagram datagrams[AL_ARENA_PIECES];
    bool one = self->family == AF_UNIX; /* Only IP limits them to 64 KiB. */
    int count = one ? 1 : AL_ARENA_PIECES;
    size_t room = one ? MESSAGE_MAX : AL_ARENA_PIECE;
    for (int i = 0; i < count; i++) {
        datagrams[i].buffer = arena + (size_t)i * AL_ARENA_STRIDE;
        datagrams[i].room = room;
    }
    count = al_sock_recv_datagrams(self->base.loop, descriptor(self), datagrams, count);
    for (int i = 0; i < count; i++) {
        loop->counts.bytes_in += datagrams[i].size;
    }
    if (count >= 0) {
        return deliver(self, datagrams, count); /* escapes */
    }
    int error = errno;
    if (al_sock_again(error)) {
        return 0;
    }
    al_sock_raise(error);
    al_except block;
    al_except_enter(&block);
    int status = call_protocol(self, loop->st->str.error_received, block.exc,
                               NULL); /* escapes */
    al_except_leave(&block);
    return status;
}

/* The descriptor is readable, or there are datagrams in the stash (an al_run_fn). */
static int
dgram_readable(al_loop *loop, PyObject *op, PyObject *Py_UNUSED(arg),
               PyObject *Py_UNUSED(extra))
{
    al_dgram *self = (al_dgram *)op;
    int status;
    bool stashed = self->stash != NULL;
    if (self->base.conn_lost > 0 || self->io == NULL || !is_reading(self)) {
        return 0;
    }
    if (AL_UNLIKELY(descriptor(self) < 0)) {
        update_watch(self); /* Like asyncio's selector, it hears no more. */
        return 0;
    }
    if (stashed) {
        status = deliver_stash(self); /* escapes */
    }
    else {
        char *arena = al_arena_take(&loop->arena);
        if (arena == NULL) {
            return fatal_error(self, read_error);
        }
        status = receive(self, arena); /* escapes */
        al_arena_give_back(&loop->arena, arena);
    }
    if (!stashed && self->stash == NULL) {
        return status;
    }
    PyObject *leaving = status < 0 ? al_err_take() : NULL;
    if (self->stash != NULL && is_reading(self) && self->base.loop != NULL) {
        status = al_sched_push_steal(loop, dgram_readable, Py_NewRef(op), NULL, NULL);
    }
    update_watch(self); /* escapes */
    if (leaving != NULL) {
        al_err_put_steal(leaving); /* in place of a MemoryError */
        status = -1;
    }
    return status;
}

/* --- sending -------------------------------------------------------------------------- */

/* 1: sent; 0: not now; -1: an exception. */
static int
send_now(al_dgram *self, PyObject *data, PyObject *to)
{
    al_addr addr;
    Py_buffer view;
    int fd = descriptor(self);
    if (AL_UNLIKELY(fd < 0)) {
        al_sock_raise(EBADF);
        return -1;
    }
    if (!self->connected) {
        int status = to == NULL ? 0 : read_address(self, to, &addr);
        if (status < 0) {
            return -1;
        }
        if (status == 0) {
            /* A name, "<broadcast>" or a mistake: the socket object knows. */
            PyObject *sent =
                PyObject_CallMethod(self->sock, "sendto", "OO", data,
                                    to == NULL ? Py_None : to); /* escapes */
            if (sent == NULL) {
                if (PyErr_ExceptionMatches(PyExc_BlockingIOError) ||
                    PyErr_ExceptionMatches(PyExc_InterruptedError)) {
                    PyErr_Clear(); /* "Not now", as asyncio reads it. */
                    return 0;
                }
                return -1;
            }
            Py_DECREF(sent);
            return 1;
        }
        if (PySys_Audit("socket.sendto", "OO", self->sock, to) < 0) {
            return -1;
        }
    }
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    ssize_t n = al_count(&self->base.loop->counts.bytes_out,
                         al_sock_sendto(self->base.loop, fd, view.buf, (size_t)view.len,
                                        self->connected ? NULL : &addr));
    int error = errno;
    al_look_expect(&self->base.loop->look);
    PyBuffer_Release(&view);
    if (n >= 0) {
        return 1;
    }
    if (al_sock_again(error)) {
        return 0;
    }
    al_sock_raise(error);
    return -1;
}

/* Sending raised: OSError goes to the protocol, straight from sendto as in asyncio;
 * anything else is fatal.  0, or -1 with an exception.  Escapes. */
static int
send_failed(al_dgram *self)
{
    if (!PyErr_ExceptionMatches(PyExc_OSError)) {
        return fatal_error(self, "Fatal write error on datagram transport");
    }
    al_except block;
    al_except_enter(&block);
    PyObject *result = NULL;
    if (self->base.protocol != NULL) {
        PyObject *protocol = Py_NewRef(self->base.protocol);
        result = PyObject_CallMethodOneArg(
            protocol, self->base.loop->st->str.error_received, block.exc); /* escapes */
        Py_DECREF(protocol);
    }
    al_except_leave(&block);
    Py_XDECREF(result);
    return result == NULL && PyErr_Occurred() ? -1 : 0;
}

static int
enqueue(al_dgram *self, PyObject *data, PyObject *to)
{
    queued *one = PyMem_New(queued, 1);
    if (one == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    one->data = PyBytes_CheckExact(data) ? Py_NewRef(data) : PyBytes_FromObject(data);
    if (one->data == NULL) {
        PyMem_Free(one);
        return -1;
    }
    one->to = Py_XNewRef(to);
    one->next = NULL;
    *self->last = one;
    self->last = &one->next;
    self->buffered += (size_t)PyBytes_GET_SIZE(one->data) + HEADER;
    return 0;
}

/* The descriptor is writable (an al_run_fn). */
static int
dgram_writable(al_loop *loop, PyObject *op, PyObject *Py_UNUSED(arg),
               PyObject *Py_UNUSED(extra))
{
    al_dgram *self = (al_dgram *)op;
    int status = 0;
    while (status == 0 && self->first != NULL && self->base.loop != NULL) {
        queued *one = self->first;
        /* It stays in the queue meanwhile, so that sendto() from a hook of the program
         * goes behind it. */
        PyObject *data = Py_NewRef(one->data), *to = Py_XNewRef(one->to);
        int sent = send_now(self, data, to); /* escapes */
        if (sent != 0 && self->first == one) {
            self->first = one->next;
            if (self->first == NULL) {
                self->last = &self->first;
            }
            self->buffered -= (size_t)PyBytes_GET_SIZE(data) + HEADER;
            Py_DECREF(one->data);
            Py_XDECREF(one->to);
            PyMem_Free(one);
        }
        Py_DECREF(data);
        Py_XDECREF(to); /* escapes: a user's object */
        if (sent == 0) {
            break;
        }
        if (sent < 0 && send_failed(self) < 0) { /* escapes */
            status =
                al_report_must_leave()
                    ? -1
                    : al_flow_report(
                          loop,
                          "Exception in callback DatagramTransport._sendto_ready()", op,
                          self->base.protocol);
            break;
        }
    }
    if (self->base.loop == NULL || status < 0) {
        return status;
    }
    status = al_flow_shrunk(loop, &self->base.flow, self->buffered, op,
                            self->base.protocol); /* escapes; may call sendto */
    update_watch(self);                           /* escapes */
    if (status == 0 && self->first == NULL && self->base.closing &&
        self->base.conn_lost == 0) {
        self->base.conn_lost++;
        status = call_lost(self, NULL);
    }
    return status;
}

/* The watcher's callback. */
static int
dgram_ready(al_loop *loop, void *owner, int events)
{
    PyObject *self = owner;
    int status = 0;
    if ((events & AL_WRITE) &&
        al_sched_push_steal(loop, dgram_writable, Py_NewRef(self), NULL, NULL) < 0) {
        status = -1;
    }
    if ((events & AL_READ) &&
        al_sched_push_steal(loop, dgram_readable, Py_NewRef(self), NULL, NULL) < 0) {
        status = -1;
    }
    return status;
}

PyDoc_STRVAR(sendto_doc, "sendto($self, data, addr=None)\n--\n\n"
                         "Send a datagram, at once if the kernel takes it.\n\n"
                         "addr is None where the endpoint has a remote address. An\n"
                         "OSError is given to the protocol's error_received().\n\n"
                         "Source: asyncio, DatagramTransport.sendto.");

static const al_signature sendto_signature = {
    .function = "_SelectorDatagramTransport.sendto",
    .names = {"data", "addr"},
    .positional = 2,
    .required = 1,
    .total = 2,
};

static PyObject *
Dgram_sendto(al_dgram *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    AL_OWN(self->base.loop, NULL);
    PyObject *values[2];
    if (AL_LIKELY(kwnames == NULL && nargs == 2)) {
        values[0] = args[0];
        values[1] = args[1];
    }
    else if (al_args_parse(&sendto_signature, args, nargs, kwnames, values, NULL) < 0) {
        return NULL;
    }
    PyObject *data = values[0];
    PyObject *to = values[1] == Py_None ? NULL : values[1];
    if (!PyBytes_Check(data) && !PyByteArray_Check(data) && !PyMemoryView_Check(data)) {
        PyErr_Format(PyExc_TypeError,
                     "data argument must be a bytes-like object, not '%s'",
                     Py_TYPE(data)->tp_name);
        return NULL;
    }
#if PY_VERSION_HEX < 0x030D0000
    if (PyObject_Size(data) == 0) { /* Empty datagrams can be sent from 3.13 on. */
        Py_RETURN_NONE;
    }
#endif
    if (self->address != NULL) {
        if (to != NULL && to != self->address) {
            int same = PyObject_RichCompareBool(to, self->address, Py_EQ); /* escapes */
            if (same < 0) {
                return NULL;
            }
            if (!same) {
                PyErr_Format(PyExc_ValueError, "Invalid address: must be None or %S",
                             self->address);
                return NULL;
            }
        }
        to = self->address;
    }
    if ((self->base.conn_lost > 0 && self->address != NULL) ||
        self->base.loop == NULL) {
        if (self->base.conn_lost >= WARN_FROM && self->address != NULL &&
            al_debug_warn(al_state_of(Py_TYPE(self)), "socket.send() raised exception.",
                          NULL, NULL) < 0) { /* escapes */
            return NULL;
        }
        self->base.conn_lost++;
        Py_RETURN_NONE;
    }
    if (self->first == NULL) {
        int sent = send_now(self, data, to); /* escapes */
        if (sent > 0) {
            Py_RETURN_NONE;
        }
        if (sent < 0) {
            if (send_failed(self) < 0) { /* escapes */
                return NULL;
            }
            Py_RETURN_NONE;
        }
    }
    if (enqueue(self, data, to) < 0) {
        return NULL;
    }
    update_watch(self); /* escapes */
    if (al_flow_grown(self->base.loop, &self->base.flow, self->buffered,
                      (PyObject *)self, self->base.protocol) < 0) { /* escapes */
        return NULL;
    }
    Py_RETURN_NONE;
}

/* --- closing ---------------------------------------------------------------------------- */

/* Has _call_connection_lost(exc) called in the next iteration; exc may be NULL. */
static int
call_lost(al_dgram *self, PyObject *exc)
{
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

/* Gives the descriptor back: from here on the number is not ours.  Escapes. */
static int
release(al_dgram *self)
{
    al_io *io = self->io;
    PyObject *sock = self->sock;
    al_loop *loop = self->base.loop;
    self->io = NULL;
    self->sock = NULL;
    self->sock_fd = NULL;
    self->base.loop = NULL;
    self->watched = 0;
    if (io != NULL) {
        al_io_free(io);
    }
    if (loop != NULL &&
        al_fds_transport(&loop->fds, self->base.fd) == (PyObject *)self) {
        (void)al_fds_set_transport(loop, self->base.fd, NULL); /* escapes */
    }
    int status = 0;
    if (sock != NULL) {
        if (loop != NULL) {
            al_look_expect(&loop->look);
        }
        PyObject *closed = PyObject_CallMethod(sock, "close", NULL); /* escapes */
        status = closed == NULL ? -1 : 0;
        Py_XDECREF(closed);
        Py_DECREF(sock);
    }
    Py_CLEAR(self->base.protocol);
    Py_CLEAR(self->base.context);
    Py_CLEAR(self->stash);
    Py_XDECREF((PyObject *)loop);
    return status;
}

static PyObject *
Dgram__call_connection_lost(al_dgram *self, PyObject *exc)
{
    AL_OWN(self->base.loop, NULL);
    PyObject *result = NULL;
    if (self->base.loop == NULL) {
        Py_RETURN_NONE;
    }
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

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\n"
                        "Close the endpoint once what is queued has been sent.\n\n"
                        "Source: asyncio, BaseTransport.close.");

static PyObject *
Dgram_close(al_dgram *self, PyObject *Py_UNUSED(ignored))
{
    AL_END_SOON(self->base.loop, self, "close");
    if (self->base.closing || self->base.loop == NULL) {
        Py_RETURN_NONE;
    }
    self->base.closing = true;
    update_watch(self); /* escapes */
    if (self->first == NULL) {
        self->base.conn_lost++;
        if (call_lost(self, NULL) < 0) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(abort_doc, "abort($self, /)\n--\n\n"
                        "Close the endpoint; what is queued is dropped.\n\n"
                        "Source: asyncio, DatagramTransport.abort.");

static PyObject *
Dgram_abort(al_dgram *self, PyObject *Py_UNUSED(ignored))
{
    AL_END_SOON(self->base.loop, self, "abort");
    if (force_close(self, NULL) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
Dgram__force_close(al_dgram *self, PyObject *exc)
{
    AL_OWN(self->base.loop, NULL);
    if (force_close(self, exc == Py_None ? NULL : exc) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* --- reading on and off ------------------------------------------------------------------- */

PyDoc_STRVAR(pause_reading_doc, "pause_reading($self, /)\n--\n\n"
                                "Deliver no datagrams until resume_reading().");

static int
log_debug(al_dgram *self, const char *text)
{
    if ((self->base.loop->debug.switches & AL_DEBUG_FDS) == 0) {
        return 0;
    }
    PyObject *logger = PyObject_GetAttr(self->base.loop->st->base_events,
                                        self->base.loop->st->str.logger);
    PyObject *result = logger == NULL ? NULL
                                      : PyObject_CallMethod(logger, "debug", "sO", text,
                                                            self); /* escapes */
    Py_XDECREF(logger);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static PyObject *
Dgram_pause_reading(al_dgram *self, PyObject *Py_UNUSED(ignored))
{
    AL_OWN(self->base.loop, NULL);
    if (self->base.loop != NULL && is_reading(self)) {
        self->base.paused = true;
        update_watch(self); /* escapes */
        if (log_debug(self, "%r pauses reading") < 0) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(resume_reading_doc, "resume_reading($self, /)\n--\n\n"
                                 "Deliver datagrams again.");

static PyObject *
Dgram_resume_reading(al_dgram *self, PyObject *Py_UNUSED(ignored))
{
    AL_OWN(self->base.loop, NULL);
    if (self->base.loop != NULL && !self->base.closing && self->base.paused) {
        self->base.paused = false;
        if (self->stash != NULL &&
            al_sched_push_steal(self->base.loop, dgram_readable,
                                Py_NewRef((PyObject *)self), NULL, NULL) < 0) {
            return NULL;
        }
        update_watch(self); /* escapes */
        if (log_debug(self, "%r resumes reading") < 0) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(is_reading_doc, "is_reading($self, /)\n--\n\n"
                             "Return True if datagrams are being delivered.");

static PyObject *
Dgram_is_reading(al_dgram *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(is_reading(self));
}

/* --- flow control ------------------------------------------------------------------------- */

PyDoc_STRVAR(size_doc, "get_write_buffer_size($self, /)\n--\n\n"
                       "Return how many bytes wait to be sent.");

static PyObject *
Dgram_get_write_buffer_size(al_dgram *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromSize_t(self->buffered);
}

static PyObject *
Dgram_set_write_buffer_limits(al_dgram *self, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames)
{
    AL_OWN(self->base.loop, NULL);
    return al_transport_set_limits(&self->base, self->buffered, args, nargs, kwnames);
}

static PyObject *
Dgram__read_ready(al_dgram *self, PyObject *Py_UNUSED(ignored))
{
    return al_transport_soon(self->base.loop, (PyObject *)self, dgram_readable);
}

static PyObject *
Dgram__sendto_ready(al_dgram *self, PyObject *Py_UNUSED(ignored))
{
    return al_transport_soon(self->base.loop, (PyObject *)self, dgram_writable);
}

/* --- making and freeing ----------------------------------------------------------------- */

/* Reading begins, and whoever made the endpoint is told (an al_run_fn).  connection_made
 * has been called. */
static int
dgram_start(al_loop *loop, PyObject *op, PyObject *waiter, PyObject *Py_UNUSED(extra))
{
    al_dgram *self = (al_dgram *)op;
    self->base.started = true;
    update_watch(self);                         /* escapes */
    return al_transport_tell(loop, waiter) == 0 /* escapes */
               ? 0
               : al_flow_report(loop, "Exception in DatagramTransport", op,
                                self->base.protocol);
}

bool
al_dgram_takes(al_state *st, PyObject *sock)
{
    return al_sockop_takes(st, sock) && al_addr_known(al_sockop_family(sock));
}

/* sock.getsockname() or sock.getpeername(); None for an OSError. */
static int
store_name(al_dgram *self, PyObject *key, const char *method)
{
    PyObject *name = PyObject_CallMethod(self->sock, method, NULL);
    if (name == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_OSError)) {
            return -1;
        }
        PyErr_Clear(); /* There is no such name: None. */
        name = Py_NewRef(Py_None);
    }
    int status = PyDict_SetItem(self->base.extra, key, name);
    Py_DECREF(name);
    return status;
}

static int
fill_extra(al_dgram *self, al_state *st, PyObject *extra)
{
    self->base.extra =
        extra == NULL || extra == Py_None ? PyDict_New() : Py_NewRef(extra);
    if (self->base.extra == NULL) {
        return -1;
    }
    PyObject *wrapper = PyObject_CallOneArg(st->TransportSocket, self->sock);
    if (wrapper == NULL) {
        return -1;
    }
    int status = PyDict_SetItem(self->base.extra, st->str.socket, wrapper);
    Py_DECREF(wrapper);
    if (status < 0 || store_name(self, st->str.sockname, "getsockname") < 0) {
        return -1;
    }
    PyObject *peername = PyDict_GetItemWithError(self->base.extra, st->str.peername);
    if (peername == NULL) {
        if (PyErr_Occurred() || store_name(self, st->str.peername, "getpeername") < 0) {
            return -1;
        }
        peername = PyDict_GetItemWithError(self->base.extra, st->str.peername);
    }
    int connected = peername == NULL ? -1 : PyObject_IsTrue(peername);
    self->connected = connected > 0;
    return connected < 0 ? -1 : 0;
}

PyObject *
al_dgram_new(al_loop *loop, PyObject *sock, PyObject *protocol, PyObject *address,
             PyObject *waiter, PyObject *extra)
{
    al_state *st = loop->st;
    PyTypeObject *type = st->DatagramTransport_type;
    al_dgram *self = (al_dgram *)type->tp_alloc(type, 0);
    PyObject *fileno = NULL;
    if (self == NULL) {
        return NULL;
    }
    self->last = &self->first;
    self->base.fd = -1;
    self->family = al_sockop_family(sock);
    al_flow_init(&self->base.flow);
    self->sock = Py_NewRef(sock);
    if (fill_extra(self, st, extra) < 0 ||
        al_context_capture(&self->base.context) < 0) {
        goto error;
    }
    fileno = PyObject_CallMethodNoArgs(sock, st->str.fileno);
    if (fileno == NULL) {
        goto error;
    }
    self->base.fd = (int)PyLong_AsLong(fileno);
    self->sock_fd = al_stream_sock_fd(st, sock, self->base.fd);
    int truth = address == NULL || address == Py_None ? 0 : PyObject_IsTrue(address);
    if (truth < 0 || (self->base.fd == -1 && PyErr_Occurred())) {
        goto error;
    }
    self->address = truth ? Py_NewRef(address) : NULL;
    self->base.protocol = Py_NewRef(protocol);
    self->io = al_io_new(loop->poll, self->base.fd, dgram_ready, self);
    if (self->io == NULL ||
        al_transport_takes_number(loop, self->base.fd) < 0 || /* escapes */
        al_fds_set_transport(loop, self->base.fd, (PyObject *)self) < 0) {
        goto error;
    }
    self->base.loop = (al_loop *)Py_NewRef((PyObject *)loop);
    if (al_transport_begin(loop, (PyObject *)self, protocol, waiter, dgram_start) <
        0) { /* escapes */
        goto error;
    }
    Py_DECREF(fileno);
    return (PyObject *)self;

error:
    Py_XDECREF(fileno);
    self->sock_fd = NULL;
    Py_CLEAR(self->sock); /* Still its maker's. */
    Py_DECREF(self);
    return NULL;
}

static int
dgram_traverse(al_dgram *self, visitproc visit, void *arg)
{
    Py_VISIT(self->sock);
    Py_VISIT(self->address);
    Py_VISIT(self->stash);
    for (const queued *one = self->first; one != NULL; one = one->next) {
        Py_VISIT(one->to);
    }
    return al_transport_traverse(&self->base, visit, arg);
}

static int
dgram_clear(al_dgram *self)
{
    if (release(self) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    while (self->first != NULL) {
        queued *one = self->first;
        self->first = one->next;
        Py_DECREF(one->data);
        Py_XDECREF(one->to);
        PyMem_Free(one);
    }
    self->last = &self->first;
    forget_addresses(self);
    Py_CLEAR(self->address);
    al_transport_clear(&self->base);
    return 0;
}

static int dgram_finalize_here(al_loop *loop, PyObject *op, PyObject *arg,
                               PyObject *extra);

static void
dgram_finalize(PyObject *op)
{
    al_dgram *self = (al_dgram *)op;
    if (self->sock == NULL ||
        al_transport_finalize_soon(self->base.loop, op, dgram_finalize_here)) {
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
dgram_finalize_here(al_loop *Py_UNUSED(loop), PyObject *op, PyObject *Py_UNUSED(arg),
                    PyObject *Py_UNUSED(extra))
{
    dgram_finalize(op); /* escapes */
    return 0;
}

static PyObject *
dgram_repr(al_dgram *self)
{
    const char *state = self->sock == NULL   ? " closed"
                        : self->base.closing ? " closing"
                                             : "";
    if (self->base.loop == NULL || self->base.loop->closed) {
        return PyUnicode_FromFormat("<DatagramTransport%s fd=%d>", state,
                                    self->base.fd);
    }
    /* While the stash is delivered, nothing is watched. */
    bool reads = (self->watched & AL_READ) != 0 ||
                 (self->io != NULL && self->base.started && is_reading(self));
    return PyUnicode_FromFormat(
        "<DatagramTransport%s fd=%d read=%s write=<%s, bufsize=%zu>>", state,
        self->base.fd, reads ? "polling" : "idle",
        self->watched & AL_WRITE ? "polling" : "idle", self->buffered);
}

static PyMethodDef dgram_methods[] = {
    {"sendto", (PyCFunction)(void (*)(void))Dgram_sendto, METH_FASTCALL | METH_KEYWORDS,
     sendto_doc},
    {"close", (PyCFunction)Dgram_close, METH_NOARGS, close_doc},
    {"abort", (PyCFunction)Dgram_abort, METH_NOARGS, abort_doc},
    AL_TRANSPORT_METHODS,
    AL_TRANSPORT_GET_LIMITS,
    {"is_reading", (PyCFunction)Dgram_is_reading, METH_NOARGS, is_reading_doc},
    {"pause_reading", (PyCFunction)Dgram_pause_reading, METH_NOARGS, pause_reading_doc},
    {"resume_reading", (PyCFunction)Dgram_resume_reading, METH_NOARGS,
     resume_reading_doc},
    {"get_write_buffer_size", (PyCFunction)Dgram_get_write_buffer_size, METH_NOARGS,
     size_doc},
    {"set_write_buffer_limits",
     (PyCFunction)(void (*)(void))Dgram_set_write_buffer_limits,
     METH_FASTCALL | METH_KEYWORDS, al_transport_set_limits_doc},
    {"_call_connection_lost", (PyCFunction)Dgram__call_connection_lost, METH_O, NULL},
    {"_force_close", (PyCFunction)Dgram__force_close, METH_O, NULL},
    {"_read_ready", (PyCFunction)Dgram__read_ready, METH_NOARGS, NULL},
    {"_sendto_ready", (PyCFunction)Dgram__sendto_ready, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef dgram_members[] = {
    AL_TRANSPORT_MEMBERS,
    {"_sock_fd", T_INT, offsetof(al_dgram, base.fd), READONLY, NULL},
    {"_address", T_OBJECT, offsetof(al_dgram, address), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

/* Tests set it to None, which takes the object away from the transport. */
static PyObject *
get_sock(al_dgram *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(self->sock == NULL ? Py_None : self->sock);
}

static int
set_sock(al_dgram *self, PyObject *value, void *Py_UNUSED(closure))
{
    PyObject *old = self->sock;
    self->sock = value == NULL || value == Py_None ? NULL : Py_NewRef(value);
    self->sock_fd = NULL;
    Py_XDECREF(old); /* escapes */
    return 0;
}

static PyGetSetDef dgram_getsets[] = {
    {"_sock", (getter)get_sock, (setter)set_sock, NULL, NULL},
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static char dgram_doc[] = PyDoc_STR("The transport of a datagram endpoint.");

static PyType_Slot dgram_slots[] = {
    {Py_tp_doc, dgram_doc},           {Py_tp_dealloc, al_transport_dealloc},
    {Py_tp_finalize, dgram_finalize}, {Py_tp_traverse, dgram_traverse},
    {Py_tp_clear, dgram_clear},       {Py_tp_repr, dgram_repr},
    {Py_tp_methods, dgram_methods},   {Py_tp_members, dgram_members},
    {Py_tp_getset, dgram_getsets},    {0, NULL},
};

static PyType_Spec dgram_spec = {
    .name = "aioloop._core.DatagramTransport",
    .basicsize = sizeof(al_dgram),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = dgram_slots,
};

int
al_dgram_init_types(PyObject *module, al_state *st)
{
    PyObject *bases = NULL;
    if (al_transport_fits(st, st->DatagramTransport, offsetof(al_transport, loop)) &&
        al_transport_fits(st, st->Transport, offsetof(al_transport, loop))) {
        /* asyncio's own is both: its selector transports share a base class. */
        bases = PyTuple_Pack(2, st->Transport, st->DatagramTransport);
        if (bases == NULL) {
            return -1;
        }
    }
    int status =
        al_state_add_type(module, &st->DatagramTransport_type, &dgram_spec, bases);
    Py_XDECREF(bases);
    if (status == 0 &&
        (al_debug_describe_method(st, dgram_readable, "_read_ready", false, 1) < 0 ||
         al_debug_describe_method(st, dgram_writable, "_sendto_ready", false, 2) < 0)) {
        status = -1;
    }
    return status;
}
