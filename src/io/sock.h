/* sock.h: the system calls of the io room.
 *
 * Every call is made on a non-blocking descriptor and with the GIL held.  EINTR is
 * retried here and nowhere else; EAGAIN is no error but an answer (al_sock_again).
 * Nothing here raises: a result below 0 means errno is set, and al_sock_raise makes the
 * exception of it.
 *
 * A test's loop may have faults (core/faults.h); they stand before the calls here.
 *
 * The hard build answers EAGAIN now and then without asking the kernel, has calls
 * interrupted, and lets those named _stream, and that of files, move a few bytes at a
 * time. */
#ifndef AL_IO_SOCK_H
#define AL_IO_SOCK_H

#include "base/py.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "io/addr.h"

struct al_loop;

#ifdef AL_HARD
/* The sequence of faults begins anew. */
void al_sock_begin_faults(void);
#endif

/* Whether errno's value says "not now". */
static inline bool
al_sock_again(int error)
{
#if EAGAIN == EWOULDBLOCK
    return error == EAGAIN;
#else
    return error == EAGAIN || error == EWOULDBLOCK;
#endif
}

/* Bytes received, 0 at the end of the stream, or -1. */
ssize_t al_sock_recv(struct al_loop *loop, int fd, void *buffer, size_t size);
/* The same where a short read is as good: never for datagrams. */
ssize_t al_sock_recv_stream(struct al_loop *loop, int fd, void *buffer, size_t size);
/* Bytes received and the sender's address, or -1.  from->length is 0 where the kernel
 * gives none. */
ssize_t al_sock_recvfrom(struct al_loop *loop, int fd, void *buffer, size_t size,
                         al_addr *from);

/* Bytes sent, or -1; never SIGPIPE. */
ssize_t al_sock_send(struct al_loop *loop, int fd, const void *data, size_t size);
ssize_t al_sock_send_stream(struct al_loop *loop, int fd, const void *data,
                            size_t size);
/* The same for `count` pieces (at most IOV_MAX). */
ssize_t al_sock_sendv_stream(struct al_loop *loop, int fd, const struct iovec *pieces,
                             int count);
/* One datagram: where it goes to, and what came. */
typedef struct {
    void *buffer;
    size_t room; /* bytes of the buffer */
    size_t size; /* bytes received; the rest of a longer datagram is lost */
    al_addr from;
} al_datagram;

/* As many datagrams as there are, at most `count` and at most 32; their number, or -1
 * with errno when there is none. */
int al_sock_recv_datagrams(struct al_loop *loop, int fd, al_datagram *datagrams,
                           int count);

/* One datagram; `to` may be NULL for a connected socket. */
ssize_t al_sock_sendto(struct al_loop *loop, int fd, const void *data, size_t size,
                       const al_addr *to);

/* read(2) and write(2), for pipes; and for those that are byte streams, of which any part
 * is as good, with writev(2). */
ssize_t al_sock_read(struct al_loop *loop, int fd, void *buffer, size_t size);
ssize_t al_sock_write(struct al_loop *loop, int fd, const void *data, size_t size);
ssize_t al_sock_read_stream(struct al_loop *loop, int fd, void *buffer, size_t size);
ssize_t al_sock_write_stream(struct al_loop *loop, int fd, const void *data,
                             size_t size);
ssize_t al_sock_writev_stream(struct al_loop *loop, int fd, const struct iovec *pieces,
                              int count);

/* The next connection, non-blocking and close-on-exec, and its peer's address; the
 * caller owns the descriptor.  -1 with errno. */
int al_sock_accept(struct al_loop *loop, int listener, al_addr *peer);
/* 0, or -1 with errno (EINPROGRESS: wait until writable). */
int al_sock_connect(int fd, const al_addr *to);
/* How many bytes a pipe or a socket holds to be read, or -1. */
int al_sock_waiting(int fd);
/* Whether the socket is a stream of bytes, not of messages. */
bool al_sock_is_stream(int fd);
/* The pending error of a socket (SO_ERROR), an errno value; 0: none. */
int al_sock_pending_error(int fd);
/* Bytes of a file sent from *offset, which moves on; 0 at the end of the file; -1. */
ssize_t al_sock_sendfile(struct al_loop *loop, int out, int in, off_t *offset,
                         size_t size);
/* shutdown(2) of the sending half.  0 or -1. */
int al_sock_shutdown_write(int fd);
/* Turns Nagle's algorithm off where the socket object says that this is TCP; errors do
 * not matter.  Mirrors asyncio.base_events._set_nodelay. */
void al_sock_set_nodelay(int fd, int family, int proto);
/* close(2); the number is free afterwards whatever it returns. */
void al_sock_close(int fd);

/* Raises OSError (or the subclass that Python has for it) for an errno value; NULL. */
PyObject *al_sock_raise(int error);

#endif
