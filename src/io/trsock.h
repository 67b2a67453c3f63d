/* trsock.h: what get_extra_info("socket") of a stream is: an asyncio.TransportSocket that
 * knows its stream.
 *
 * Every method of asyncio's class goes to its attribute _sock, which here sends first what
 * the stream has corked: what the program does with the socket comes after what it has
 * written.  fileno() and dup() give a descriptor away that works without us: from then on
 * the stream corks nothing. */
#ifndef AL_IO_TRSOCK_H
#define AL_IO_TRSOCK_H

#include "io/stream.h"

int al_trsock_init_type(PyObject *module, al_state *st);

/* Around a socket object, which becomes this object's too; `stream` may be NULL.  New
 * reference, or NULL.  Of asyncio's own class, and escapes, where that has other slots
 * than one (base/layout.h). */
PyObject *al_trsock_new(al_state *st, PyObject *sock, al_stream *stream);
/* The stream dies, or has closed its socket. */
void al_trsock_part(PyObject *op);

#endif
