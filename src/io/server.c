/* server.c: see server.h. */
#include "io/server.h"

#include <string.h>

#include "core/context.h"
#include "core/debug.h"
#include "core/report.h"
#include "io/sock.h"
#include "io/begin.h"
#include "io/info.h"

typedef struct {
    PyObject_HEAD
    al_loop *loop;
    al_listen what; /* owned references, NULL for None and for what was not given */
    const int *sock_fd;
    int fd;
    int family, proto;
    PyObject
        *sockname; /* of every connection, one of these; or none, where it depends */
    al_name sockname_raw;
} al_listener;

/* --- one connection ------------------------------------------------------------------ */

/* Mirrors what _accept_connection2 does with an exception: the program hears of it in
 * debug mode only. */
static int
creation_failed(al_listener *self, al_stream *stream, PyObject *protocol)
{
    if (al_report_must_leave()) {
        al_stream_discard(stream);
        return -1;
    }
    al_except block;
    al_except_enter(&block);
    int status = 0;
    if (self->loop->debug.switches) {
        status = al_report_context(
            self->loop->st, (PyObject *)self->loop,
            PyUnicode_FromString("Error on transport creation for incoming connection"),
            "exception", block.exc, "protocol", protocol, NULL); /* escapes */
    }
    al_except_leave(&block);
    al_stream_discard(stream);
    return status;
}

/* A slot: the accepted stream `op` gets its protocol; arg: the listener, extra: a copy
 * of its context, or NULL. */
static int
connection_accepted(al_loop *loop, PyObject *op, PyObject *arg, PyObject *extra)
{
    al_stream *stream = (al_stream *)op;
    al_listener *self = (al_listener *)arg;
    PyObject *context = Py_XNewRef(extra), *made_context = NULL, *entered;
    PyObject *protocol = NULL;
    int status = -1;

    if (self->what.factory == NULL || stream->loop == NULL) {
        goto done; /* Cleared by the garbage collector. */
    }
    if (AL_UNLIKELY(stream->closing)) {
        goto done; /* The task that stands for it was cancelled. */
    }
    if (al_context_enter(loop, &context, &entered) < 0) {
        goto done;
    }
    protocol = PyObject_CallNoArgs(self->what.factory); /* escapes */
    if (protocol != NULL && stream->loop != NULL &&
        al_stream_adopt(stream, protocol, self->what.server) == 0) { /* escapes */
        if (self->what.context != NULL) {
            stream->context = Py_NewRef(entered);
            status = 0;
        }
        else {
            status = al_context_capture(&made_context);
            if (status == 0) {
                status = al_context_capture(&stream->read_context);
            }
        }
        stream->accepted_in = loop->accepted_in = loop->counts.iterations;
    }
    if (al_context_leave(loop, &context, entered) < 0) {
        status = -1;
    }

done:
    if (AL_UNLIKELY(status < 0)) {
        status = PyErr_Occurred() ? creation_failed(self, stream, protocol) : 0;
    }
    else if (AL_LIKELY(al_loop_direct(loop) &&
                       (loop->debug.switches & AL_DEBUG_RUNS) == 0)) {
        status = al_stream_begin(loop, stream, NULL, &made_context); /* escapes */
    }
    else if (al_loop_direct(loop)) {
        /* Debug mode names it if it is slow, and the meter counts it. */
        al_slot begin = {.run = al_stream_begin_run,
                         .self = (PyObject *)stream,
                         .extra = made_context};
        status = al_debug_run_next(loop, &begin); /* escapes */
    }
    else {
        /* It does not run in the scheduler's own context: an empty one has to be
         * made. */
        if (made_context == NULL) {
            made_context = PyContext_New();
        }
        status =
            made_context == NULL
                ? -1
                : al_stream_queue_begin(loop, stream, NULL, made_context); /* escapes */
    }
    Py_XDECREF(context);
    Py_XDECREF(made_context);
    Py_XDECREF(protocol);
    return status;
}

/* A new socket object for an accepted descriptor, which it owns; takes the descriptor
 * over also on failure. */
static PyObject *
make_socket(al_listener *self, int fd)
{
    int type = SOCK_STREAM;
#ifdef SOCK_NONBLOCK
    type |= SOCK_NONBLOCK;
#endif
    PyObject *sock = PyObject_CallFunction(self->loop->st->socket_type, "iiii",
                                           self->family, type, self->proto, fd);
    if (sock == NULL) {
        al_sock_close(fd);
        return NULL;
    }
#ifndef SOCK_NONBLOCK
    PyObject *result = PyObject_CallMethod(sock, "setblocking", "O", Py_False);
    if (result == NULL) {
        Py_CLEAR(sock);
    }
    Py_XDECREF(result);
#endif
    return sock;
}

/* With TLS: asyncio's coroutine does the rest in a task. */
static int
begin_tls(al_listener *self, int fd, const al_addr *peer)
{
    PyObject *loop = (PyObject *)self->loop;
    PyObject *sock = NULL, *name = NULL, *positional = NULL, *keywords = NULL;
    PyObject *coroutine = NULL, *task = NULL, *method = NULL, *context = NULL;
    int status = -1;

    sock = make_socket(self, fd);
    name = sock == NULL ? NULL : al_addr_object(peer);
    if (name == NULL) {
        goto done;
    }
    keywords = PyDict_New();
    positional = Py_BuildValue("(OO{s:O}OO)", self->what.factory, sock, "peername",
                               name, self->what.sslcontext,
                               self->what.server == NULL ? Py_None : self->what.server);
    if (keywords == NULL || positional == NULL) {
        goto done;
    }
    if ((self->what.handshake_timeout != NULL &&
         PyDict_SetItemString(keywords, "ssl_handshake_timeout",
                              self->what.handshake_timeout) < 0) ||
        (self->what.shutdown_timeout != NULL &&
         PyDict_SetItemString(keywords, "ssl_shutdown_timeout",
                              self->what.shutdown_timeout) < 0)) {
        goto done;
    }
    if (self->what.context != NULL) {
        context = PyContext_Copy(self->what.context);
        if (context == NULL || PyDict_SetItemString(keywords, "context", context) < 0) {
            goto done;
        }
    }
    method = PyObject_GetAttr(loop, self->loop->st->str._accept_connection2);
    coroutine = method == NULL ? NULL : PyObject_Call(method, positional, keywords);
    if (coroutine == NULL) {
        goto done;
    }
    PyDict_Clear(keywords);
    if (context != NULL && PyDict_SetItemString(keywords, "context", context) < 0) {
        goto done;
    }
    Py_SETREF(method, PyObject_GetAttrString(loop, "create_task"));
    Py_SETREF(positional, PyTuple_Pack(1, coroutine));
    if (method != NULL && positional != NULL) {
        task = PyObject_Call(method, positional, keywords); /* escapes */
        status = task == NULL ? -1 : 0;
    }

done:
    Py_XDECREF(sock);
    Py_XDECREF(name);
    Py_XDECREF(positional);
    Py_XDECREF(keywords);
    Py_XDECREF(method);
    Py_XDECREF(coroutine);
    Py_XDECREF(context);
    Py_XDECREF(task);
    return status;
}

static int
begin_plain(al_listener *self, int fd, const al_addr *peer)
{
    al_loop *loop = self->loop;
    PyObject *context = NULL;
    al_stream *stream = al_stream_accepted(loop, fd, peer, self->family, self->proto);
    if (stream == NULL) {
        return -1;
    }
#if AL_LINUX
    stream->nagle = 2;
#else
    al_sock_set_nodelay(fd, self->family, self->proto);
#endif
    stream->sockname_raw = self->sockname_raw;
    stream->sockname = Py_XNewRef(self->sockname);
    stream->sockname_presumed = self->family != AF_UNIX;
    if (self->what.context != NULL) {
        context = PyContext_Copy(self->what.context);
    }
    if ((self->what.context != NULL && context == NULL) ||
        (self->what.context == NULL && al_context_capture(&context) < 0)) {
        al_stream_discard(stream);
        Py_DECREF(stream);
        return -1;
    }
    loop->accepted_in = loop->counts.iterations;
    AL_STORE(loop->st->accepted_by, loop);
    return al_sched_push_steal(loop, connection_accepted, (PyObject *)stream,
                               Py_NewRef((PyObject *)self), context);
}

/* The next of the streams being accepted, borrowed, or NULL: first those whose slot is
 * still to run, then those whose protocol has just been made.  *place begins at 0. */
static PyObject *
next_accepting(const al_loop *loop, size_t *place)
{
    size_t length = al_ring_len(&loop->ready);
    size_t end = length + (size_t)loop->fds.capacity;
    while (*place < end) {
        size_t i = (*place)++;
        if (i < length) {
            const al_slot *slot = al_ring_at(&loop->ready, i);
            if (slot->run == connection_accepted &&
                !((al_stream *)slot->self)->closing) {
                return slot->self;
            }
            continue;
        }
        const al_fd *entry = loop->fds.entries[i - length];
        PyObject *transport = entry == NULL ? NULL : entry->transport;
        if (transport != NULL &&
            Py_IS_TYPE(transport, loop->st->SocketTransport_type)) {
            const al_stream *stream = (al_stream *)transport;
            if (stream->accepted_in != 0 && !stream->closing &&
                loop->counts.iterations - stream->accepted_in <= 1) {
                return transport;
            }
        }
    }
    return NULL;
}

PyObject *
al_server_accepting(al_loop *loop)
{
    for (;;) {
        Py_ssize_t room = 0, n = 0;
        PyObject *stream = NULL;
        for (size_t place = 0; next_accepting(loop, &place) != NULL;) {
            room++;
        }
        PyObject *list = PyList_New(room); /* The garbage collector may run. */
        if (list == NULL) {
            return NULL;
        }
        size_t place = 0;
        while (n < room && (stream = next_accepting(loop, &place)) != NULL) {
            PyList_SET_ITEM(list, n++, Py_NewRef(stream));
        }
        if (n == room) {
            return list;
        }
        Py_DECREF(list); /* Fewer than counted. */
    }
}

/* --- accepting ----------------------------------------------------------------------- */

static int
log_accepted(al_listener *self, int fd, const al_addr *peer)
{
    al_state *st = self->loop->st;
    PyObject *logger = PyObject_GetAttr(st->base_events, st->str.logger);
    PyObject *name = logger == NULL ? NULL : al_addr_object(peer);
    PyObject *result = NULL;
    if (name != NULL) {
        result = PyObject_CallMethod(
            logger, "debug", "sOOi", "%r got a new connection from %r: fd=%r",
            self->what.server == NULL ? Py_None : self->what.server, name,
            fd); /* escapes */
    }
    Py_XDECREF(result);
    Py_XDECREF(name);
    Py_XDECREF(logger);
    return result == NULL ? -1 : 0;
}

/* Out of descriptors or memory: nothing of the listener's for a while.  Mirrors
 * _accept_connection. */
static int
back_off(al_listener *self, int error)
{
    al_loop *loop = self->loop;
    al_state *st = loop->st;
    PyObject *transport_socket = NULL, *resume = NULL, *delay = NULL, *timer = NULL;
    int status = -1;

    (void)al_sock_raise(error);
    al_except block;
    al_except_enter(&block);
    transport_socket = PyObject_CallOneArg(st->TransportSocket, self->what.sock);
    if (transport_socket == NULL ||
        al_report_context(
            st, (PyObject *)loop,
            PyUnicode_FromString("socket.accept() out of system resource"), "exception",
            block.exc, "socket", transport_socket, NULL) < 0) { /* escapes */
        goto done;
    }
    if (self->sock_fd != NULL && *self->sock_fd != self->fd) {
        status = 0; /* The handler closed it. */
        goto done;
    }
    /* The timer first: without one nobody would listen again. */
    resume = PyObject_GetAttrString((PyObject *)self, "resume");
    delay = PyObject_GetAttrString(st->asyncio_constants, "ACCEPT_RETRY_DELAY");
    if (resume != NULL && delay != NULL) {
        timer = PyObject_CallMethod((PyObject *)loop, "call_later", "OO", delay,
                                    resume); /* escapes */
    }
    if (timer != NULL) {
        status = al_fds_remove(loop, self->fd, AL_READ) < 0 ? -1 : 0; /* escapes */
    }

done:
    al_except_leave(&block);
    Py_XDECREF(transport_socket);
    Py_XDECREF(resume);
    Py_XDECREF(delay);
    Py_XDECREF(timer);
    return status;
}

static bool
is_exhaustion(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

/* The reader callback.  Connections that wait are accepted in one go, as asyncio does
 * (bpo-27906). */
static PyObject *
Listener_accept(al_listener *self, PyObject *Py_UNUSED(ignored))
{
    for (Py_ssize_t i = 0; i < self->what.backlog; i++) {
        al_addr peer;
        if (self->loop == NULL ||
            (self->sock_fd != NULL && *self->sock_fd != self->fd)) {
            break; /* Closed meanwhile. */
        }
        int fd = al_sock_accept(self->loop, self->fd, &peer);
        if (fd < 0) {
            int error = errno;
            if (al_sock_again(error)) {
                break;
            }
            if (error == ECONNABORTED) {
                continue;
            }
            if (!is_exhaustion(error)) {
                return al_sock_raise(error);
            }
            if (back_off(self, error) < 0) {
                return NULL;
            }
            break;
        }
        if ((self->loop->debug.switches & AL_DEBUG_FDS) &&
            log_accepted(self, fd, &peer) < 0) { /* escapes */
            al_sock_close(fd);
            return NULL;
        }
        bool tls = self->what.sslcontext != NULL;
        if ((tls ? begin_tls(self, fd, &peer) : begin_plain(self, fd, &peer)) < 0) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

static int
watch_listener(al_listener *self)
{
    PyObject *callback = PyObject_GetAttr((PyObject *)self, self->loop->st->str.accept);
    if (callback == NULL) {
        return -1;
    }
    al_handle *handle = al_handle_new(self->loop, self->loop->st->Handle_type, callback,
                                      NULL, 0, self->what.context);
    Py_DECREF(callback);
    if (handle == NULL) {
        return -1;
    }
    int status = al_fds_add(self->loop, self->fd, AL_READ, handle, NULL); /* escapes */
    Py_DECREF(handle);
    return status;
}

/* The end of a back-off. */
static PyObject *
Listener_resume(al_listener *self, PyObject *Py_UNUSED(ignored))
{
    if (self->loop != NULL && !self->loop->closed &&
        (self->sock_fd == NULL || *self->sock_fd == self->fd) &&
        watch_listener(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* --- making and freeing ----------------------------------------------------------------- */

/* Whether a proxy's listener takes connections to any address, whatever its own is. */
static bool
is_transparent(const al_listener *self)
{
    int on = 0;
    socklen_t length = sizeof(on);
#if defined(IP_TRANSPARENT) && defined(IPV6_TRANSPARENT)
    if (self->family == AF_INET6) {
        (void)getsockopt(self->fd, IPPROTO_IPV6, IPV6_TRANSPARENT, &on, &length);
    }
    else {
        (void)getsockopt(self->fd, IPPROTO_IP, IP_TRANSPARENT, &on, &length);
    }
#endif
    (void)self, (void)length;
    return on != 0;
}

/* The family, and the address that accepted connections have at this end, unless the
 * socket listens on a wildcard address: of Unix sockets always, of IP as long as the
 * kernel has not been asked for the connection's own (sk_lookup). */
static int
find_sockname(al_listener *self)
{
    static const struct in6_addr any = IN6ADDR_ANY_INIT;
    al_addr addr;
    if (al_addr_of_socket(self->fd, &addr) < 0) {
        return 0;
    }
    self->family = addr.as.any.sa_family;
    bool presumed =
        (self->family == AF_INET && addr.as.in.sin_addr.s_addr != htonl(INADDR_ANY)) ||
        (self->family == AF_INET6 &&
         memcmp(&addr.as.in6.sin6_addr, &any, sizeof(any)) != 0 &&
         addr.as.in6.sin6_scope_id == 0);
    return self->family == AF_UNIX || (presumed && !is_transparent(self))
               ? al_info_remember(&self->sockname_raw, &self->sockname, &addr)
               : 0;
}

int
al_server_start(al_loop *loop, const al_listen *what, int fd)
{
    al_state *st = loop->st;
    al_listener *self = PyObject_GC_New(al_listener, st->Listener_type);
    if (self == NULL) {
        return -1;
    }
    memset((char *)self + sizeof(PyObject), 0, sizeof(*self) - sizeof(PyObject));
    self->loop = (al_loop *)Py_NewRef((PyObject *)loop);
    self->what = (al_listen){
        .factory = Py_NewRef(what->factory),
        .sock = Py_NewRef(what->sock),
        .sslcontext = Py_XNewRef(what->sslcontext),
        .server = Py_XNewRef(what->server),
        .handshake_timeout = Py_XNewRef(what->handshake_timeout),
        .shutdown_timeout = Py_XNewRef(what->shutdown_timeout),
        .context = Py_XNewRef(what->context),
        .backlog = what->backlog,
    };
    self->fd = fd;
    self->sock_fd = al_stream_sock_fd(st, what->sock, fd);
    PyObject_GC_Track(self);

    int status = al_stream_sock_proto(what->sock, &self->proto);
    if (status == 0) {
        status = find_sockname(self);
    }
    if (status == 0) {
        status = watch_listener(self); /* escapes */
    }
    Py_DECREF(self);
    return status;
}

static int
listener_traverse(al_listener *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    Py_VISIT(self->what.factory);
    Py_VISIT(self->what.sock);
    Py_VISIT(self->what.sslcontext);
    Py_VISIT(self->what.server);
    Py_VISIT(self->what.handshake_timeout);
    Py_VISIT(self->what.shutdown_timeout);
    Py_VISIT(self->what.context);
    Py_VISIT(self->sockname);
    return 0;
}

static int
listener_clear(al_listener *self)
{
    self->sock_fd = NULL;
    Py_CLEAR(self->loop);
    Py_CLEAR(self->what.factory);
    Py_CLEAR(self->what.sock);
    Py_CLEAR(self->what.sslcontext);
    Py_CLEAR(self->what.server);
    Py_CLEAR(self->what.handshake_timeout);
    Py_CLEAR(self->what.shutdown_timeout);
    Py_CLEAR(self->what.context);
    Py_CLEAR(self->sockname);
    return 0;
}

static void
listener_dealloc(al_listener *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)listener_clear(self); /* escapes */
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyObject *
listener_repr(al_listener *self)
{
    return PyUnicode_FromFormat(
        "<Listener fd=%d server=%R>", self->fd,
        self->what.server == NULL ? Py_None : self->what.server);
}

static PyMethodDef listener_methods[] = {
    {"accept", (PyCFunction)Listener_accept, METH_NOARGS, NULL},
    {"resume", (PyCFunction)Listener_resume, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot listener_slots[] = {
    {Py_tp_dealloc, listener_dealloc}, {Py_tp_traverse, listener_traverse},
    {Py_tp_clear, listener_clear},     {Py_tp_repr, listener_repr},
    {Py_tp_methods, listener_methods}, {0, NULL},
};

static PyType_Spec listener_spec = {
    .name = "aioloop._core.Listener",
    .basicsize = sizeof(al_listener),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = listener_slots,
};

/* asyncio has a task there; what takes time in it is the program's factory (an
 * al_describe_fn). */
static int
describe_accepted(al_loop *Py_UNUSED(loop), const al_slot *slot, PyObject **callback,
                  PyObject **Py_UNUSED(args), PyObject **Py_UNUSED(context))
{
    const al_listener *self = (al_listener *)slot->arg;
    *callback = Py_NewRef(self->what.factory == NULL ? Py_None : self->what.factory);
    return 0;
}

int
al_server_init_type(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->Listener_type, &listener_spec, NULL) < 0
               ? -1
               : al_debug_describe(st, connection_accepted, describe_accepted, 1);
}
