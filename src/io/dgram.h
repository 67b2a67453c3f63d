/* dgram.h: the transport of datagram endpoints; a subclass of asyncio.DatagramTransport.
 *
 * It owns the socket object that it is made with, and by it the descriptor, until
 * connection_lost.  Datagrams are received up to 32 at a time and sent at once; what the
 * kernel does not take is kept in order and sent when the descriptor is writable. */
#ifndef AL_IO_DGRAM_H
#define AL_IO_DGRAM_H

#include "core/sched.h"

/* Makes the type.  0 or -1. */
int al_dgram_init_types(PyObject *module, al_state *st);

/* Whether the socket is one that the transport can own. */
bool al_dgram_takes(al_state *st, PyObject *sock);

/* A transport that calls protocol.connection_made and begins to read in the next
 * iteration, and resolves the future `waiter` then.  `address` is the remote one that
 * the program gave.  The last three may be NULL or None.  New reference. */
PyObject *al_dgram_new(al_loop *loop, PyObject *sock, PyObject *protocol,
                       PyObject *address, PyObject *waiter, PyObject *extra);

#endif
