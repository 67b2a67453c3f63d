/* sockets.h: the loop's methods for sockets that have no stream transport: sock_*, the
 * transports of datagrams and pipes, and getaddrinfo of literal addresses. */
#ifndef AL_LOOP_SOCKETS_H
#define AL_LOOP_SOCKETS_H

#include "base/py.h"

struct al_loop;

/* asyncio.SelectorEventLoop.<name>(self, ...).  Escapes. */
PyObject *al_sockets_inherited(struct al_loop *self, const char *name,
                               PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames);

/* Ends with a NULL entry; loop.c joins it with the other rooms' tables. */
extern PyMethodDef al_sockets_methods[];

#endif
