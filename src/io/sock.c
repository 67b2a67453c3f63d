/* sock.c: see sock.h. */
#include "io/sock.h"

#include <limits.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#if AL_LINUX
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
/* The sequences begin anew with each loop: a test finds the same ones wherever it runs. */
static _Atomic unsigned int refusals, cuts, interruptions;

void
al_sock_begin_faults(void)
{
    refusals = cuts = interruptions = 0;
}

/* Every thirteenth call is refused. */
static bool
refuse(void)
{
    if (++refusals % 13 == 0) {
        errno = EAGAIN;
        return true;
    }
    return false;
}

/* Every fifth system call is interrupted by a signal before it has done anything. */
static bool
interrupt(void)
{
    if (++interruptions % 5 == 0) {
        errno = EINTR;
        return true;
    }
    return false;
}

/* How much of `size` one call moves: few bytes, but large transfers have to end. */
static size_t
cut(size_t size)
{
    enum { HALF = -1, ALL = -2 };
    static const signed char pattern[] = {
        1, 1, 1, 2, 1, 3, 1, 7, 1, 1, HALF, 1, 100, 2, 1, ALL, 1,
    };
    int most = pattern[cuts++ % sizeof(pattern)];
    size_t moved = most == ALL ? size : most == HALF ? (size + 1) / 2 : (size_t)most;
    return moved < size ? moved : size;
}

/* The pieces, cut in the same way: into `fewer`, whose number is the result. */
static int
cut_pieces(const struct iovec *pieces, int count, struct iovec *fewer)
{
    size_t size = 0;
    for (int i = 0; i < count; i++) {
        size += pieces[i].iov_len;
    }
    size_t left = cut(size);
    int n = 0;
    for (; n < count && left > 0; n++) {
        fewer[n] = pieces[n];
        fewer[n].iov_len = left < pieces[n].iov_len ? left : pieces[n].iov_len;
        left -= fewer[n].iov_len;
    }
    return n;
}
#else
static inline bool
refuse(void)
{
    return false;
}

static inline bool
interrupt(void)
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
#define RETRY(call)                                                                    \
    do {                                                                               \
        result = -1;                                                                   \
        if (!interrupt()) {                                                            \
            call;                                                                      \
        }                                                                              \
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
    RETRY(from->length = sizeof(from->as);
          result = recvfrom(fd, buffer, size, 0, &from->as.any, &from->length));
    return result;
}

#if AL_LINUX
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
    ssize_t result;
    struct msghdr message;
#ifdef AL_HARD
    struct iovec fewer[IOV_MAX];
    if (refuse()) {
        return -1;
    }
    count = cut_pieces(pieces, count, fewer);
    pieces = fewer;
#endif
    memset(&message, 0, sizeof(message));
    /* sendmsg does not write through it; the field has no const. */
    memcpy(&message.msg_iov, &pieces, sizeof(pieces));
    message.msg_iovlen = (__typeof__(message.msg_iovlen))count;
    RETRY(result = sendmsg(fd, &message, SEND_FLAGS));
    return result;
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
    RETRY(result = read(fd, buffer, size));
    return result;
}

ssize_t
al_sock_read_stream(int fd, void *buffer, size_t size)
{
    return al_sock_read(fd, buffer, cut(size));
}

ssize_t
al_sock_write(int fd, const void *data, size_t size)
{
    ssize_t result;
    if (refuse()) {
        return -1;
    }
    RETRY(result = write(fd, data, size));
    return result;
}

ssize_t
al_sock_write_stream(int fd, const void *data, size_t size)
{
    return al_sock_write(fd, data, cut(size));
}

ssize_t
al_sock_writev_stream(int fd, const struct iovec *pieces, int count)
{
    ssize_t result;
#ifdef AL_HARD
    struct iovec fewer[IOV_MAX];
    if (refuse()) {
        return -1;
    }
    count = cut_pieces(pieces, count, fewer);
    pieces = fewer;
#endif
    RETRY(result = writev(fd, pieces, count));
    return result;
}

int
al_sock_accept(int listener, al_addr *peer)
{
    int result;
    if (refuse()) {
        return -1;
    }
#if defined(SOCK_NONBLOCK) && !defined(AL_PORTABLE)
    RETRY(peer->length = sizeof(peer->as);
          result = accept4(listener, &peer->as.any, &peer->length,
                           SOCK_NONBLOCK | SOCK_CLOEXEC));
#else
    RETRY(peer->length = sizeof(peer->as);
          result = accept(listener, &peer->as.any, &peer->length));
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
    if (result == 0 && interrupt()) {
        result = -1; /* As if it had only begun. */
    }
    if (result < 0 && errno == EINTR) {
        errno = EINPROGRESS; /* The attempt goes on; asking again gives EALREADY. */
    }
    return result;
}

int
al_sock_waiting(int fd)
{
    int count;
    return ioctl(fd, FIONREAD, &count) < 0 ? -1 : count;
}

bool
al_sock_is_stream(int fd)
{
    int type = 0;
    socklen_t length = sizeof(type);
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 &&
           type == SOCK_STREAM;
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
#if AL_LINUX
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
al_sock_set_nodelay(int fd, int family, int proto)
{
    if ((family == AF_INET || family == AF_INET6) && proto == IPPROTO_TCP) {
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
