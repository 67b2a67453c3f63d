/* server.h: listening sockets.
 *
 * A Listener is what a Server's socket has for a reader callback: it accepts, in a loop
 * of at most `backlog`, and each connection becomes a slot that makes the protocol and
 * begins the stream.  The listening socket stays the Server's.  Connections with TLS go
 * through asyncio's own coroutine (_accept_connection2).
 *
 * asyncio's task for a connection is pending from the accept until one iteration after
 * that in which the protocol was told.  Who cancels all tasks meanwhile (a program that is
 * stopped while a protocol factory is slow) has the connection closed.  No task is made
 * here, until asyncio.all_tasks() is asked for it: see aioloop.Loop._accept_tasks. */
#ifndef AL_IO_SERVER_H
#define AL_IO_SERVER_H

#include "core/sched.h"

typedef struct {
    PyObject *factory, *sock, *sslcontext, *server;
    PyObject *handshake_timeout, *shutdown_timeout; /* NULL: asyncio's defaults */
    PyObject *context;                              /* NULL: none given */
    Py_ssize_t backlog;
} al_listen;

int al_server_init_type(PyObject *module, al_state *st);

/* Makes a Listener the reader of the listening socket whose number is fd.  0 or -1. */
int al_server_start(al_loop *loop, const al_listen *what, int fd);

/* The streams for which asyncio would have such a task, as a list.  New reference. */
PyObject *al_server_accepting(al_loop *loop);

#endif
