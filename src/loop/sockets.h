/* sockets.h: the loop's methods for sockets that have no stream transport: sock_*, the
 * transports of datagrams and pipes, and getaddrinfo of literal addresses. */
#ifndef AL_LOOP_SOCKETS_H
#define AL_LOOP_SOCKETS_H

#include "base/py.h"

/* Ends with a NULL entry; loop.c joins it with the other rooms' tables. */
extern PyMethodDef al_sockets_methods[];

#endif
