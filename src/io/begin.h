/* begin.h: how a stream begins: made for a socket object or for a connection that a
 * listener accepted, given a protocol, and told to it by connection_made. */
#ifndef AL_IO_BEGIN_H
#define AL_IO_BEGIN_H

#include "io/stream.h"

int al_begin_init(al_state *st);

/* A transport for a connected socket object, already told about its protocol; `waiter`,
 * `extra` (a dict), `server` and `context` may be NULL or None.  connection_made is
 * queued.  New reference, or NULL. */
PyObject *al_stream_new(al_loop *loop, PyObject *sock, int fd, PyObject *protocol,
                        PyObject *waiter, PyObject *extra, PyObject *server,
                        PyObject *context);

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
/* The same as a slot (an al_run_fn); arg: a waiter or NULL, extra: a context or NULL. */
int al_stream_begin_run(al_loop *loop, PyObject *op, PyObject *arg, PyObject *extra);
/* The same by way of loop.call_soon, for replaced methods; in a copy of the current
 * context if `context` is NULL and none was given.  0 or -1. */
int al_stream_queue_begin(al_loop *loop, al_stream *self, PyObject *waiter,
                          PyObject *context);
/* Closes the descriptor of a stream that never began. */
void al_stream_discard(al_stream *self);

/* Gives the stream another protocol.  0 or -1.  Escapes. */
int al_stream_set_protocol(al_stream *self, PyObject *protocol);

#endif
