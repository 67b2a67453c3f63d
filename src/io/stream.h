/* stream.h: the transport of a connected stream socket, TCP or Unix.
 *
 * A subclass of asyncio's _FlowControlMixin, the class of transports with a write buffer,
 * and so of asyncio.Transport.  It owns its descriptor, either itself (a connection
 * that a listener accepted) or by way of the socket object that it was given or that
 * somebody asked for.
 *
 * Writes are corked: write() called from a running slot queues a reference, and the
 * scheduler has the queue sent, by one system call, at the end of the iteration, or
 * before it when much has been written or time has passed (loop->dirty; flush_due in
 * core/sched.c).  What passes the high-water mark, and what is written while no slot
 * runs, is sent at once.  Whatever shows how much has been sent sends first:
 * get_write_buffer_size, the water marks, write_eof, close, abort.  So corking is not
 * visible, with one exception: after a write that fails, is_closing() is True from the
 * end of the iteration on.
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

enum {
    AL_RECEIVE_SIZE = 256 * 1024, /* of the loop's receive buffer; asyncio's max_size */
};

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
    bool eof; /* write_eof was called */
    bool protocol_connected;
    bool dirty;         /* in loop->dirty, which holds a reference */
    bool complete_info; /* `extra` has the names and the socket */
    short family, proto;
    uint32_t last_read; /* bytes that the last read gave */
    al_flow flow;
    al_outbuf out;
    struct al_stream *next_dirty;
    PyObject *context;      /* given by the program (3.15), or NULL */
    PyObject *read_context; /* see core/context.h */
    PyObject *write_context;
    PyObject *empty_waiter; /* sendfile waits for an empty buffer, or NULL */
    PyObject *transport_socket;
    PyObject *sockname, *peername; /* objects, or NULL: in the next two */
    al_name sockname_raw, peername_raw;
} al_stream;

int al_stream_init_type(PyObject *module, al_state *st);

/* A transport for a connected socket object, already told about its protocol; `waiter`,
 * `extra` (a dict), `server` and `context` may be NULL or None.  connection_made is
 * queued.  New reference, or NULL. */
PyObject *al_stream_new(al_loop *loop, PyObject *sock, int fd, PyObject *protocol,
                        PyObject *waiter, PyObject *extra, PyObject *server,
                        PyObject *context);

/* The number inside a socket object, if that has the layout we know and the class works
 * as socket.socket does; else NULL.  `fd` is what its fileno() says. */
const int *al_stream_sock_fd(const al_state *st, PyObject *sock, int fd);

/* A transport for an accepted connection; takes the descriptor over, also on failure.
 * It has no protocol yet. */
al_stream *al_stream_accepted(al_loop *loop, int fd, const al_addr *peer, int family,
                              int proto);
/* Gives it a protocol and a server.  0 or -1. */
int al_stream_adopt(al_stream *self, PyObject *protocol, PyObject *server);
/* Calls connection_made in the context kept in *context, starts reading, wakes `waiter`
 * (or NULL).  Result as al_run_fn. */
int al_stream_begin(al_loop *loop, al_stream *self, PyObject *waiter,
                    PyObject **context);
/* The same by way of loop.call_soon, for debug mode and replaced methods; in a copy of
 * the current context if `context` is NULL and none was given.  0 or -1. */
int al_stream_queue_begin(al_loop *loop, al_stream *self, PyObject *waiter,
                          PyObject *context);
/* Closes the descriptor of a stream that never began. */
void al_stream_discard(al_stream *self);

/* For sinks: receives up to `size` bytes.  Above 0: that many came.  0: *status is for
 * the sink to return, and everything has been done. */
ssize_t al_stream_receive(al_stream *self, void *buffer, size_t size, int *status);
/* For sinks: the loop's receive buffer, or NULL with MemoryError. */
char *al_stream_buffer(al_stream *self);
/* For sinks: the pending exception came out of the protocol or a system call: reports
 * it with asyncio's words and closes the stream.  Result as al_run_fn. */
int al_stream_fatal(al_stream *self, const char *message);

#endif
