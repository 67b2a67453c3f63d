/* sock.c: see sock.h. */
#include "io/sock.h"

#include <limits.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/sendfile.h>
#else
#include <fcntl.h>
#endif

#ifdef MSG_NOSIGNAL
enum { SEND_FLAGS = MSG_NOSIGNAL };
#else
enum { SEND_FLAGS = 0 }; /* Python ignores SIGPIPE. */
#endif

#ifdef AL_HARD
/* Every thirteenth call is refused. */
static bool
refuse(void)
{
    static _Atomic unsigned int calls;
    if (++calls % 13 == 0) {
        errno = EAGAIN;
        return true;
    }
    return false;
}

/* One byte, except for every eighth call: large transfers have to end. */
static size_t
cut(size_t size)
{
    static _Atomic unsigned int calls;
    return ++calls % 8 == 0 || size == 0 ? size : 1;
}
#else
static inline bool
refuse(void)
{
    return false;
}

static inline size_t
cut(size_t size)
{
    return size;
}
#endif

/* RETRY(result = call(...)): the one place for EINTR.  Signals that have a Python
 * handler wake the loop through its wake-up descriptor, so nothing is checked here. */
#define RETRY(assignment)                                                              \
    do {                                                                               \
        assignment;                                                                    \
    } while (AL_UNLIKELY(result < 0) && errno == EINTR)

ssize_t
al_sock_recv(int fd, void *buffer, size_t size)
{
    ssize_t result;
    if (refuse()) {
        return -1;
    }
    RETRY(result = recv(fd, buffer, size, 0));
    return result;
}

ssize_t
al_sock_recv_stream(int fd, void *buffer, size_t size)
{
    return al_sock_recv(fd, buffer, cut(size));
}

ssize_t
al_sock_recvfrom(int fd, void *buffer, size_t size, al_addr *from)
{
    ssize_t result;
    if (refuse()) {
        return -1;
    }
    do {
        from->length = sizeof(from->as);
        result = recvfrom(fd, buffer, size, 0, &from->as.any, &from->length);
    } while (AL_UNLIKELY(result < 0) && errno == EINTR);
    return result;
}

#ifdef __linux__
int
al_sock_recv_datagrams(int fd, al_datagram *datagrams, int count)
{
    enum { MOST = 32 };
    struct mmsghdr headers[MOST];
    struct iovec pieces[MOST];
    int result;
    if (refuse()) {
        return -1;
    }
    count = count < MOST ? count : MOST;
    for (int i = 0; i < count; i++) {
        pieces[i] = (struct iovec){datagrams[i].buffer, datagrams[i].room};
        headers[i].msg_hdr = (struct msghdr){
            .msg_name = &datagrams[i].from.as,
            .msg_namelen = sizeof(datagrams[i].from.as),
            .msg_iov = &pieces[i],
            .msg_iovlen = 1,
        };
    }
    RETRY(result = recvmmsg(fd, headers, (unsigned int)count, MSG_DONTWAIT, NULL));
    for (int i = 0; i < result; i++) {
        datagrams[i].size = headers[i].msg_len;
        datagrams[i].from.length = headers[i].msg_hdr.msg_namelen;
    }
    return result;
}
#else
int
al_sock_recv_datagrams(int fd, al_datagram *datagrams, int count)
{
    for (int i = 0; i < count; i++) {
        al_datagram *one = &datagrams[i];
        ssize_t n = al_sock_recvfrom(fd, one->buffer, one->room, &one->from);
        if (n < 0) {
            return i > 0 ? i : -1; /* An error shows again or has passed. */
        }
        one->size = (size_t)n;
    }
    return count;
}
#endif

ssize_t
al_sock_send(int fd, const void *data, size_t size)
{
    ssize_t result;
    if (refuse()) {
        return -1;
    }
    RETRY(result = send(fd, data, size, SEND_FLAGS));
    return result;
}

ssize_t
al_sock_send_stream(int fd, const void *data, size_t size)
{
    return al_sock_send(fd, data, cut(size));
}

ssize_t
al_sock_sendv_stream(int fd, const struct iovec *pieces, int count)
{
#ifdef AL_HARD
    (void)count;
    return al_sock_send_stream(fd, pieces[0].iov_base, pieces[0].iov_len);
#else
    ssize_t result;
    struct msghdr message;
    memset(&message, 0, sizeof(message));
    /* sendmsg does not write through it; the field has no const. */
    memcpy(&message.msg_iov, &pieces, sizeof(pieces));
    message.msg_iovlen = (__typeof__(message.msg_iovlen))count;
    RETRY(result = sendmsg(fd, &message, SEND_FLAGS));
    return result;
#endif
}

ssize_t
al_sock_sendto(int fd, const void *data, size_t size, const al_addr *to)
{
    ssize_t result;
    if (refuse()) {
        return -1;
    }
    if (to == NULL) {
        RETRY(result = send(fd, data, size, SEND_FLAGS));
    }
    else {
        RETRY(result = sendto(fd, data, size, SEND_FLAGS, &to->as.any, to->length));
    }
    return result;
}

ssize_t
al_sock_read(int fd, void *buffer, size_t size)
{
    ssize_t result;
    if (refuse()) {
        return -1;
    }
    RETRY(result = read(fd, buffer, cut(size)));
    return result;
}

ssize_t
al_sock_write(int fd, const void *data, size_t size)
{
    ssize_t result;
    if (refuse()) {
        return -1;
    }
    RETRY(result = write(fd, data, cut(size)));
    return result;
}

ssize_t
al_sock_writev(int fd, const struct iovec *pieces, int count)
{
#ifdef AL_HARD
    (void)count;
    return al_sock_write(fd, pieces[0].iov_base, pieces[0].iov_len);
#else
    ssize_t result;
    RETRY(result = writev(fd, pieces, count));
    return result;
#endif
}

int
al_sock_accept(int listener, al_addr *peer)
{
    int result;
    if (refuse()) {
        return -1;
    }
    do {
        peer->length = sizeof(peer->as);
#ifdef SOCK_NONBLOCK
        result = accept4(listener, &peer->as.any, &peer->length,
                         SOCK_NONBLOCK | SOCK_CLOEXEC);
#else
        result = accept(listener, &peer->as.any, &peer->length);
#endif
    } while (result < 0 && errno == EINTR);
#ifndef SOCK_NONBLOCK
    if (result >= 0 && (fcntl(result, F_SETFD, FD_CLOEXEC) < 0 ||
                        fcntl(result, F_SETFL, O_NONBLOCK) < 0)) {
        int error = errno;
        al_sock_close(result);
        errno = error;
        return -1;
    }
#endif
    return result;
}

int
al_sock_connect(int fd, const al_addr *to)
{
    int result = connect(fd, &to->as.any, to->length);
    if (result < 0 && errno == EINTR) {
        errno = EINPROGRESS; /* The attempt goes on; asking again gives EALREADY. */
    }
    return result;
}

int
al_sock_pending_error(int fd)
{
    int error = 0;
    socklen_t length = sizeof(error);
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0) {
        return errno;
    }
    return error;
}

ssize_t
al_sock_sendfile(int out, int in, off_t *offset, size_t size)
{
    if (refuse()) {
        return -1;
    }
#ifdef __linux__
    ssize_t result;
    RETRY(result = sendfile(out, in, offset, cut(size)));
    return result;
#elif defined(__APPLE__)
    off_t sent = (off_t)cut(size);
    int status = sendfile(in, out, *offset, &sent, NULL, 0);
    if (status < 0 && sent == 0) {
        return -1;
    }
    *offset += sent;
    return (ssize_t)sent;
#elif defined(__FreeBSD__) || defined(__DragonFly__)
    off_t sent = 0;
    int status = sendfile(in, out, *offset, cut(size), NULL, &sent, 0);
    if (status < 0 && sent == 0) {
        return -1;
    }
    *offset += sent;
    return (ssize_t)sent;
#else
    (void)out;
    (void)in;
    (void)offset;
    (void)size;
    errno = ENOTSUP;
    return -1;
#endif
}

int
al_sock_shutdown_write(int fd)
{
    return shutdown(fd, SHUT_WR);
}

void
al_sock_set_nodelay(int fd, int family)
{
    if (family == AF_INET || family == AF_INET6) {
        int on = 1;
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
}

void
al_sock_close(int fd)
{
    (void)close(fd); /* Linux frees the number even where it says EINTR. */
}

PyObject *
al_sock_raise(int error)
{
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
}
