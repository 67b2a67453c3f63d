/* transport.h: what the transports of streams, datagrams and pipes do alike: begin, be
 * asked for an event by hand, and end. */
#ifndef AL_IO_TRANSPORT_H
#define AL_IO_TRANSPORT_H

#include "core/sched.h"

/* protocol.connection_made(transport) in the next iteration, and behind it the slot
 * {start, transport, waiter}; waiter may be None or NULL.  0 or -1.  Escapes. */
int al_transport_begin(al_loop *loop, PyObject *transport, PyObject *protocol,
                       PyObject *waiter, al_run_fn start);
/* The transport works: whoever waits for it is told; waiter may be NULL.  0 or -1.
 * Escapes. */
int al_transport_tell(al_loop *loop, PyObject *waiter);

/* The methods that asyncio's loop calls when the descriptor is ready, and that debug mode
 * names: the slot runs in the next iteration.  loop may be NULL.  None, or NULL. */
PyObject *al_transport_soon(al_loop *loop, PyObject *transport, al_run_fn run);

/* For a tp_finalize: the transport was not closed.  Leaves no exception.  Escapes. */
void al_transport_warn_unclosed(PyObject *transport);
/* A tp_dealloc, by the type's tp_finalize and tp_clear. */
void al_transport_dealloc(PyObject *transport);

#endif
