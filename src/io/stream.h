/* stream.h: the transport of a connected stream socket, TCP or Unix.
 *
 * A subclass of asyncio's _FlowControlMixin, the class of transports with a write buffer,
 * and so of asyncio.Transport.  It owns its descriptor, either itself (a connection
 * that a listener accepted) or by way of the socket object that it was given or that
 * somebody asked for.
 *
 * Its rooms: this one has the descriptor, watching, reading, errors and the end; begin how
 * it comes about; write what it has to send; info what get_extra_info says;
 * socket_transport its Python type.
 *
 * Life: reading and writing say what the watcher watches; `closing` follows close();
 * conn_lost counts from the moment at which connection_lost is queued; when that has
 * run, `loop` and `protocol` are NULL and the descriptor is closed. */
#ifndef AL_IO_STREAM_H
#define AL_IO_STREAM_H

#include "core/sched.h"
#include "io/addr.h"
#include "io/flow.h"
#include "io/outbuf.h"
#include "io/sink.h"
#include "io/sock.h"

/* A socket address of up to 28 bytes (IPv4, IPv6), or none. */
typedef struct {
    unsigned char length; /* 0: none */
    unsigned char bytes[28];
} al_name;

typedef struct al_stream {
    PyObject_HEAD
    /* The words of the slots of asyncio's class and its bases: _extra, then _high_water,
     * _loop, _low_water and _protocol_paused, whose names lead to our own fields. */
    PyObject *extra; /* a dict or NULL */
    PyObject *dict;
    al_loop *loop; /* owned; NULL once lost */
    PyObject *protocol;
    PyObject *weakrefs;
    const al_sink *sink;
    struct al_read *read_op; /* a read() of io/reader.c that waits for data, or NULL */
    PyObject *server;        /* a Server that has us attached, or NULL */
    al_io *io;               /* NULL once lost */
    PyObject *sock;          /* owns the descriptor, or NULL: we do */
    const int *sock_fd;      /* the number inside `sock`: -1 if somebody closed it */
    int fd;                  /* stays readable in repr once lost */
    int conn_lost;
    bool fd_open;
    bool registered;       /* the watcher has been set for this file */
    bool reading, writing; /* watched for */
    bool paused;           /* by pause_reading */
    bool closing;
    bool eof;   /* write_eof was called */
    bool ended; /* the peer has */
    bool protocol_connected;
    bool dirty;             /* in loop->cork, which holds a reference */
    bool shared;            /* somebody has the descriptor's number, or a copy of it */
    bool sockname_presumed; /* it is the listener's, and nobody has asked the kernel */
    bool complete_info;     /* `extra` has the names and the socket */
    short family, proto;
    uint8_t nagle;      /* at the send of this number, if not 0, it is turned off */
    int send_error;     /* errno of a send from outside of the loop, or 0 */
    uint32_t last_read; /* bytes that the last read gave */
    al_flow flow;
    al_outbuf out;
    struct al_stream *next_dirty;
    uint64_t accepted_in;   /* the iteration in which the protocol was made, or 0 */
    PyObject *context;      /* given by the program (3.15), or NULL */
    PyObject *read_context; /* see core/context.h */
    PyObject *write_context;
    PyObject *empty_waiter; /* sendfile waits for an empty buffer, or NULL */
    PyObject *transport_socket;
    PyObject *sockname, *peername; /* objects, or NULL: in the next two */
    al_name sockname_raw, peername_raw;
} al_stream;

int al_stream_init_type(PyObject *module, al_state *st); /* socket_transport.c */
int al_stream_init(al_state *st);

/* The number inside a socket object, if that has the layout we know and the class works
 * as socket.socket does; else NULL.  `fd` is what its fileno() says. */
const int *al_stream_sock_fd(const al_state *st, PyObject *sock, int fd);
/* The protocol number that a socket object has.  0 or -1. */
int al_stream_sock_proto(PyObject *sock, int *proto);

/* For sinks: receives up to `size` bytes.  Above 0: that many came.  0: *status is for
 * the sink to return, and everything has been done. */
ssize_t al_stream_receive(al_stream *self, void *buffer, size_t size, int *status);
/* For sinks: the loop's receive buffer, or NULL with MemoryError. */
char *al_stream_buffer(al_stream *self);
/* For sinks: the pending exception came out of the protocol or a system call: reports
 * it with asyncio's words and closes the stream.  Result as al_run_fn. */
int al_stream_fatal(al_stream *self, const char *message);

/* --- for the rooms of a stream: begin, write, info, socket_transport ------------------- */

/* The descriptor for a system call; -1 (EBADF) once somebody has closed the socket
 * object: the number may be somebody else's by now. */
static inline int
al_stream_descriptor(const al_stream *self)
{
    return !self->fd_open || (self->sock_fd != NULL && *self->sock_fd != self->fd)
               ? -1
               : self->fd;
}

/* Goes before each send.  Nagle's algorithm holds back no first one: an accepted
 * connection that sends once does without a system call. */
static inline void
al_stream_before_send(al_stream *self, int fd)
{
    if (AL_UNLIKELY(self->nagle != 0) && --self->nagle == 0) {
        al_sock_set_nodelay(fd, self->family, self->proto);
    }
}

static inline bool
al_stream_is_reading(const al_stream *self)
{
    return !self->closing && !self->paused;
}

/* Where the context of a kind of callback is kept. */
static inline PyObject **
al_stream_context_place(al_stream *self, PyObject **own)
{
    return self->context != NULL ? &self->context : own;
}

/* Whatever is to be sent has somebody who will send it, and only what is wanted is
 * watched: else data or a wake-up would be lost. */
static inline void
al_stream_check(const al_stream *self)
{
    AL_ASSERT(self->out.size == 0 || self->writing || self->dirty ||
              self->conn_lost > 0 || self->loop == NULL ||
              al_stream_descriptor(self) < 0);
    AL_ASSERT(!self->writing || self->out.size > 0);
    AL_ASSERT(!self->reading || al_stream_is_reading(self));
    (void)self;
}

/* Closes the descriptor.  Escapes only where there is a socket object.  0 or -1. */
int al_stream_close_descriptor(al_stream *self);
/* The socket object, made now if need be; it owns the descriptor from here on.  New
 * reference; None once the transport is closed. */
PyObject *al_stream_sock(al_stream *self);

/* What the watcher's al_io_fn is. */
int al_stream_ready(al_loop *loop, void *owner, int events);
/* Brings the watcher in line with `reading` and `writing`.  Escapes when it stops, for
 * then the loop lets go of us. */
void al_stream_watch(al_stream *self);
/* Mirrors _SelectorTransport._add_reader.  0 or -1. */
int al_stream_start_reading(al_stream *self);
void al_stream_stop_reading(al_stream *self);
void al_stream_start_writing(al_stream *self);
void al_stream_stop_writing(al_stream *self);
/* The method _read_ready: see al_transport_soon. */
PyObject *al_stream_read_soon(al_stream *self);

/* The next exception: *pending if there was one, with the one that is set dropped as
 * `finally` drops none: it becomes the context of the later one. */
void al_stream_chain(PyObject **pending);

/* The end, in its steps.  Results: 0, or -1 with an exception.  All escape. */
int al_stream_close(al_stream *self);
int al_stream_force_close(al_stream *self, PyObject *exc); /* exc may be NULL */
int al_stream_call_lost(al_stream *self, PyObject *exc);
int al_stream_detach_server(al_stream *self);
/* Frees the watcher and takes the descriptor out of the loop's table. */
void al_stream_leave_loop(al_stream *self);
/* Mirrors _SelectorTransport._fatal_error. */
int al_stream_fatal_error(al_stream *self, PyObject *exc, PyObject *message);
/* logger.debug(format, self[, argument], exc_info=exc); argument and exc may be NULL. */
int al_stream_log(al_state *st, const char *format, al_stream *self,
                  const char *argument, PyObject *exc);

#endif
