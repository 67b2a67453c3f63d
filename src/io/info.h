/* info.h: what a stream's get_extra_info says: its addresses and its socket.
 *
 * Addresses are kept in the kernel's form and become objects when somebody asks; so does
 * the socket object of an accepted connection. */
#ifndef AL_IO_INFO_H
#define AL_IO_INFO_H

#include "io/stream.h"

/* Remembers an address: in short form, or as an object where that is too short.  0 or
 * -1. */
int al_info_remember(al_name *name, PyObject **object, const al_addr *addr);
/* The stream is about to close its descriptor: its address stays known. */
void al_info_keep_sockname(al_stream *self);

/* get_extra_info(name, fallback).  New reference, or NULL. */
PyObject *al_info_get(al_stream *self, PyObject *name, PyObject *fallback);
/* The TransportSocket.  New reference, or NULL. */
PyObject *al_info_socket(al_stream *self);
/* The dictionary _extra with everything in it.  Borrowed, or NULL. */
PyObject *al_info_all(al_stream *self);

#endif
