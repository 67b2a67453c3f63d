/* pipe.h: the transports of connect_read_pipe, connect_write_pipe and subprocesses;
 * subclasses of asyncio.ReadTransport and asyncio.WriteTransport.
 *
 * A transport owns the file object that it is made with, and by it the descriptor, until
 * connection_lost: it closes the object, never the number. */
#ifndef AL_IO_PIPE_H
#define AL_IO_PIPE_H

#include "core/sched.h"

/* Makes both types.  0 or -1. */
int al_pipe_init_types(PyObject *module, al_state *st);

/* Transports that call protocol.connection_made in the next iteration and resolve the
 * future `waiter` then.  The last two may be NULL or None.  New reference; ValueError
 * for what is no pipe, socket or character device. */
PyObject *al_pipe_new_reader(al_loop *loop, PyObject *pipe, PyObject *protocol,
                             PyObject *waiter, PyObject *extra);
PyObject *al_pipe_new_writer(al_loop *loop, PyObject *pipe, PyObject *protocol,
                             PyObject *waiter, PyObject *extra);

#endif
