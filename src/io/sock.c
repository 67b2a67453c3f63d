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

#include "core/sched.h"

#ifdef MSG_NOSIGNAL
enum { SEND_FLAGS = MSG_NOSIGNAL };
#else
enum { SEND_FLAGS = 0 }; /* Python ignores SIGPIPE. */
#endif
#define REFUSED SIZE_MAX

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

#else
static inline bool
interrupt(void)
{
    return false;
}
#endif

/* Whether calls may be spoilt. */
static inline bool
is_tested(const al_loop *loop)
{
#ifdef AL_HARD
    (void)loop;
    return true;
#else
    return AL_UNLIKELY(loop->faults != NULL);
#endif
}

/* What tests make of a call that is to move up to `size` bytes: how many it may move, or
 * REFUSED: it must not be made, errno says why.  Only where is_tested(). */
static AL_COLD size_t
spoil(al_loop *loop, int fd, unsigned call, size_t size)
{
#ifdef AL_HARD
    if ((call & AL_CALL_STREAM) != 0) {
        size = cut(size);
    }
    if (refuse()) {
        return REFUSED;
    }
#endif
    return loop->faults != NULL && al_faults_spoil(loop, fd, call, &size) ? REFUSED
                                                                          : size;
}

/* Whether a call that moves all or nothing must not be made: errno says why. */
static inline bool
is_refused(al_loop *loop, int fd, unsigned call)
{
    return is_tested(loop) && spoil(loop, fd, call, 1) == REFUSED;
}

/* RETRY(result = call(...)): the one place for EINTR.  Signals that have a Python
 * handler wake the loop through its wake-up descriptor, so nothing is checked here. */
#define RETRY(call)                                                                    \
    do {                                                                               \
        result = -1;                                                                   \
        if (!interrupt()) {                                                            \
            call;                                                                      \
        }                                                                              \
    } while (AL_UNLIKELY(result < 0) && errno == EINTR)

/* The one of four calls that moves bytes from or to a file.  It does not write to what it
 * sends. */
static inline ssize_t
transfer(int fd, void *bytes, size_t size, unsigned call)
{
    ssize_t result;
    switch (call & (AL_CALL_IN | AL_CALL_SOCKET)) {
    case AL_CALL_IN | AL_CALL_SOCKET:
        RETRY(result = recv(fd, bytes, size, 0));
        break;
    case AL_CALL_SOCKET:
        RETRY(result = send(fd, bytes, size, SEND_FLAGS));
        break;
    case AL_CALL_IN:
        RETRY(result = read(fd, bytes, size));
        break;
    default:
        RETRY(result = write(fd, bytes, size));
    }
    return result;
}

/* The same, as far as it may go. */
static AL_COLD ssize_t
spoilt(al_loop *loop, int fd, void *bytes, size_t size, unsigned call)
{
    size = spoil(loop, fd, call, size);
    return size == REFUSED ? -1 : transfer(fd, bytes, size, call);
}

/* `call` is a constant, so that one system call of the four is left. */
static inline ssize_t
move(al_loop *loop, int fd, const void *bytes, size_t size, unsigned call)
{
    void *memory = (void *)(uintptr_t)bytes;
    return is_tested(loop) ? spoilt(loop, fd, memory, size, call)
                           : transfer(fd, memory, size, call);
}

static size_t
size_of(const struct iovec *pieces, int count)
{
    size_t size = 0;
    for (int i = 0; i < count; i++) {
        size += pieces[i].iov_len;
    }
    return size;
}

/* The first `size` bytes of the pieces: into `fewer`, whose number is the result. */
static int
cut_pieces(const struct iovec *pieces, int count, size_t size, struct iovec *fewer)
{
    int n = 0;
    for (; n < count && size > 0; n++) {
        fewer[n] = pieces[n];
        fewer[n].iov_len = size < pieces[n].iov_len ? size : pieces[n].iov_len;
        size -= fewer[n].iov_len;
    }
    return n;
}

static inline ssize_t
sendv(int fd, const struct iovec *pieces, int count)
{
    ssize_t result;
    struct msghdr message;
    memset(&message, 0, sizeof(message));
    /* sendmsg does not write through it; the field has no const. */
    memcpy(&message.msg_iov, &pieces, sizeof(pieces));
    message.msg_iovlen = (__typeof__(message.msg_iovlen))count;
    RETRY(result = sendmsg(fd, &message, SEND_FLAGS));
    return result;
}

/* Of the pieces as many bytes as may go. */
static AL_COLD ssize_t
send_front(al_loop *loop, int fd, const struct iovec *pieces, int count)
{
    struct iovec fewer[IOV_MAX];
    size_t size =
        spoil(loop, fd, AL_CALL_SOCKET | AL_CALL_STREAM, size_of(pieces, count));
    return size == REFUSED ? -1
                           : sendv(fd, fewer, cut_pieces(pieces, count, size, fewer));
}

static AL_COLD ssize_t
write_front(al_loop *loop, int fd, const struct iovec *pieces, int count)
{
    ssize_t result;
    struct iovec fewer[IOV_MAX];
    size_t size = spoil(loop, fd, AL_CALL_STREAM, size_of(pieces, count));
    if (size == REFUSED) {
        return -1;
    }
    count = cut_pieces(pieces, count, size, fewer);
    RETRY(result = writev(fd, fewer, count));
    return result;
}

ssize_t
al_sock_recv(al_loop *loop, int fd, void *buffer, size_t size)
{
    return move(loop, fd, buffer, size, AL_CALL_IN | AL_CALL_SOCKET);
}

ssize_t
al_sock_recv_stream(al_loop *loop, int fd, void *buffer, size_t size)
{
    return move(loop, fd, buffer, size, AL_CALL_IN | AL_CALL_SOCKET | AL_CALL_STREAM);
}

ssize_t
al_sock_recvfrom(al_loop *loop, int fd, void *buffer, size_t size, al_addr *from)
{
    ssize_t result;
    if (is_refused(loop, fd, AL_CALL_IN | AL_CALL_SOCKET)) {
        return -1;
    }
    RETRY(from->length = sizeof(from->as);
          result = recvfrom(fd, buffer, size, 0, &from->as.any, &from->length));
    return result;
}

#if AL_LINUX
int
al_sock_recv_datagrams(al_loop *loop, int fd, al_datagram *datagrams, int count)
{
    enum { MOST = 32 };
    struct mmsghdr headers[MOST];
    struct iovec pieces[MOST];
    int result;
    if (is_refused(loop, fd, AL_CALL_IN | AL_CALL_SOCKET)) {
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
al_sock_recv_datagrams(al_loop *loop, int fd, al_datagram *datagrams, int count)
{
    for (int i = 0; i < count; i++) {
        al_datagram *one = &datagrams[i];
        ssize_t n = al_sock_recvfrom(loop, fd, one->buffer, one->room, &one->from);
        if (n < 0) {
            return i > 0 ? i : -1; /* An error shows again or has passed. */
        }
        one->size = (size_t)n;
    }
    return count;
}
#endif

ssize_t
al_sock_send(al_loop *loop, int fd, const void *data, size_t size)
{
    return move(loop, fd, data, size, AL_CALL_SOCKET);
}

ssize_t
al_sock_send_stream(al_loop *loop, int fd, const void *data, size_t size)
{
    return move(loop, fd, data, size, AL_CALL_SOCKET | AL_CALL_STREAM);
}

ssize_t
al_sock_sendv_stream(al_loop *loop, int fd, const struct iovec *pieces, int count)
{
    if (is_tested(loop)) {
        return send_front(loop, fd, pieces, count);
    }
    return sendv(fd, pieces, count);
}

ssize_t
al_sock_sendto(al_loop *loop, int fd, const void *data, size_t size, const al_addr *to)
{
    ssize_t result;
    if (is_refused(loop, fd, AL_CALL_SOCKET)) {
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
al_sock_read(al_loop *loop, int fd, void *buffer, size_t size)
{
    return move(loop, fd, buffer, size, AL_CALL_IN);
}

ssize_t
al_sock_read_stream(al_loop *loop, int fd, void *buffer, size_t size)
{
    return move(loop, fd, buffer, size, AL_CALL_IN | AL_CALL_STREAM);
}

ssize_t
al_sock_write(al_loop *loop, int fd, const void *data, size_t size)
{
    return move(loop, fd, data, size, 0);
}

ssize_t
al_sock_write_stream(al_loop *loop, int fd, const void *data, size_t size)
{
    return move(loop, fd, data, size, AL_CALL_STREAM);
}

ssize_t
al_sock_writev_stream(al_loop *loop, int fd, const struct iovec *pieces, int count)
{
    if (is_tested(loop)) {
        return write_front(loop, fd, pieces, count);
    }
    ssize_t result;
    RETRY(result = writev(fd, pieces, count));
    return result;
}

int
al_sock_accept(al_loop *loop, int listener, al_addr *peer)
{
    int result;
    if (is_refused(loop, listener, AL_CALL_IN | AL_CALL_ACCEPT)) {
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
al_sock_sendfile(al_loop *loop, int out, int in, off_t *offset, size_t size)
{
    if (is_tested(loop) &&
        (size = spoil(loop, out, AL_CALL_SOCKET | AL_CALL_STREAM, size)) == REFUSED) {
        return -1;
    }
#if AL_LINUX
    ssize_t result;
    RETRY(result = sendfile(out, in, offset, size));
    return result;
#elif defined(__APPLE__)
    off_t sent = (off_t)size;
    int status = sendfile(in, out, *offset, &sent, NULL, 0);
    if (status < 0 && sent == 0) {
        return -1;
    }
    *offset += sent;
    return (ssize_t)sent;
#elif defined(__FreeBSD__) || defined(__DragonFly__)
    off_t sent = 0;
    int status = sendfile(in, out, *offset, size, NULL, &sent, 0);
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
