/* addr.h: socket addresses as the kernel has them and as Python shows them. */
#ifndef AL_IO_ADDR_H
#define AL_IO_ADDR_H

#include "base/py.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

typedef struct {
    socklen_t length; /* 0: no address */
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
        struct sockaddr_storage storage;
    } as;
} al_addr;

/* Whether the functions below know the family: AF_INET, AF_INET6, AF_UNIX.  The
 * addresses of other families are left to socket.socket. */
bool al_addr_known(int family);

/* The object that the socket module gives for the address: (host, port), (host, port,
 * flow, scope), a path (str) or an abstract name (bytes); None for no address.  New
 * reference, or NULL. */
PyObject *al_addr_object(const al_addr *addr);

/* Reads an address given by a program.  1: done.  0: not one that can be read without a
 * resolver, or odd in a way that is for the socket module to accept or to complain of.
 * -1: exception. */
int al_addr_parse(al_addr *addr, int family, PyObject *object);

/* The address of a socket and of its peer.  0, or -1 with errno. */
int al_addr_of_socket(int fd, al_addr *addr);
int al_addr_of_peer(int fd, al_addr *addr);

#endif
