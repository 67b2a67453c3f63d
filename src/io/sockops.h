/* sockops.h: what loop.sock_recv() and its kin return: lazy awaitables in C.
 *
 * An operation behaves as the coroutine that asyncio's method returns: it starts when it
 * is first awaited, has send, throw and close, and warns if it is never awaited.  It
 * tries the system call first; on EAGAIN it yields a Future of the loop that the
 * descriptor's next event resolves, and tries again when it is resumed.  The event
 * itself moves no data, so whatever is cancelled at whatever moment, nothing received
 * is lost.
 *
 * Only an exact socket.socket is handled here.  Any other object, and arguments that are
 * odd in any way, go to asyncio's own method, with its checks and its errors. */
#ifndef AL_IO_SOCKOPS_H
#define AL_IO_SOCKOPS_H

#include "core/sched.h"

typedef enum {
    AL_SOCKOP_RECV,
    AL_SOCKOP_RECV_INTO,
    AL_SOCKOP_RECVFROM,
    AL_SOCKOP_RECVFROM_INTO,
    AL_SOCKOP_SENDALL,
    AL_SOCKOP_SENDTO,
    AL_SOCKOP_CONNECT,
    AL_SOCKOP_ACCEPT,
    AL_SOCKOP_SENDFILE,
    AL_SOCKOP_VALUE,
} al_sockop_kind;

/* Makes the type.  0 or -1. */
int al_sockop_init_types(PyObject *module, al_state *st);
void al_sockop_clear_free_list(al_state *st);

/* Whether the object is a socket that operations can be made for. */
bool al_sockop_takes(al_state *st, PyObject *sock);
/* The address family of such a socket, and whether its timeout is 0. */
int al_sockop_family(PyObject *sock);
bool al_sockop_non_blocking(PyObject *sock);

/* An operation on `sock` with up to two more objects, whose meaning is the kind's; all
 * are borrowed.  New reference. */
PyObject *al_sockop_new(al_loop *loop, al_sockop_kind kind, PyObject *sock,
                        PyObject *arg, PyObject *extra);

/* The receiving ones of at most `size` bytes; `buffer` is for those called _into. */
PyObject *al_sockop_new_recv(al_loop *loop, al_sockop_kind kind, PyObject *sock,
                             PyObject *buffer, Py_ssize_t size);

/* sendfile(2) of `count` bytes (0: all) of a file from `offset`. */
PyObject *al_sockop_new_sendfile(al_loop *loop, PyObject *sock, PyObject *file,
                                 long long offset, Py_ssize_t count);

/* An awaitable named `name` that returns `value`; steals it. */
PyObject *al_sockop_new_value_steal(al_loop *loop, const char *name, PyObject *value);

#endif
