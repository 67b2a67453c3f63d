/* The floor: what a server costs that does nothing but the necessary system calls.
 *
 *   floor KIND [PATH]
 *
 * KIND: echo    sends back what it receives
 *       http    answers every piece that ends in an empty line with one fixed response
 *       udp     sends back every datagram, many at once by recvmmsg and sendmmsg
 *       sink    receives and forgets
 *       source  sends as fast as the peer takes it
 *
 * It listens on a port of 127.0.0.1 that the kernel chooses, or on a Unix socket at
 * PATH, and prints {"version": ..., "address": ...}. One recv and one send per readiness
 * of a descriptor, level-triggered; a peer that does not take its answer is not read
 * from until it has. The process ends itself after LIFE_SECONDS.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LIFE_SECONDS 300
#define BACKLOG 1024
#define BUFFER (256 * 1024)
#define DATAGRAM (4 * 1024)
#define DATAGRAMS (BUFFER / DATAGRAM)

static const char RESPONSE[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
                               "Content-Length: 13\r\n\r\nHello, World!";

enum kind { ECHO, HTTP, UDP, SINK, SOURCE };
static const char *const kind_names[] = {"echo", "http", "udp", "sink", "source"};

/* `rest` is what a peer has not taken yet of its answer; NULL: it is read from. */
struct peer {
    int fd;
    char *rest;
    size_t left;
    char *allocated;
};

static enum kind kind;
static int poller;
static char buffer[BUFFER];

static _Noreturn void
fail(const char *what)
{
    perror(what);
    exit(1);
}

static void
watch(int operation, struct peer *peer, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = peer};
    if (epoll_ctl(poller, operation, peer->fd, &event) < 0) {
        fail("epoll_ctl");
    }
}

static void
drop(struct peer *peer)
{
    close(peer->fd);
    free(peer->allocated);
    free(peer);
}

static void
accept_all(int listener)
{
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct peer *peer = calloc(1, sizeof *peer);
        if (peer == NULL) {
            fail("calloc");
        }
        peer->fd = fd;
        watch(EPOLL_CTL_ADD, peer, kind == SOURCE ? EPOLLOUT : EPOLLIN);
    }
}

/* Sends; keeps what the peer does not take. Returns -1 if the peer is gone. */
static int
answer(struct peer *peer, const char *bytes, size_t size)
{
    ssize_t n = send(peer->fd, bytes, size, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) {
        return -1;
    }
    size_t taken = n < 0 ? 0 : (size_t)n;
    if (taken < size) {
        peer->left = size - taken;
        peer->rest = peer->allocated = malloc(peer->left);
        if (peer->rest == NULL) {
            fail("malloc");
        }
        memcpy(peer->rest, bytes + taken, peer->left);
        watch(EPOLL_CTL_MOD, peer, EPOLLOUT);
    }
    return 0;
}

static int
send_rest(struct peer *peer)
{
    ssize_t n = send(peer->fd, peer->rest, peer->left, MSG_NOSIGNAL);
    if (n < 0) {
        return errno == EAGAIN ? 0 : -1;
    }
    peer->rest += n;
    peer->left -= (size_t)n;
    if (peer->left == 0) {
        free(peer->allocated);
        peer->rest = peer->allocated = NULL;
        watch(EPOLL_CTL_MOD, peer, EPOLLIN);
    }
    return 0;
}

static int
serve(struct peer *peer)
{
    if (kind == SOURCE) {
        ssize_t n = send(peer->fd, buffer, BUFFER, MSG_NOSIGNAL);
        return n < 0 && errno != EAGAIN ? -1 : 0;
    }
    if (peer->rest != NULL) {
        return send_rest(peer);
    }
    ssize_t n = recv(peer->fd, buffer, BUFFER, 0);
    if (n < 0 && errno == EAGAIN) {
        return 0;
    }
    if (n <= 0) {
        return -1;
    }
    if (kind == ECHO) {
        return answer(peer, buffer, (size_t)n);
    }
    if (kind == HTTP && n >= 4 && memcmp(buffer + n - 4, "\r\n\r\n", 4) == 0) {
        return answer(peer, RESPONSE, sizeof RESPONSE - 1);
    }
    return 0;
}

static void
serve_datagrams(int fd)
{
    static struct sockaddr_in from[DATAGRAMS];
    static struct iovec places[DATAGRAMS];
    static struct mmsghdr messages[DATAGRAMS];
    for (size_t i = 0; i < DATAGRAMS; i++) {
        places[i] = (struct iovec){buffer + i * DATAGRAM, DATAGRAM};
        messages[i].msg_hdr = (struct msghdr){
            .msg_name = &from[i],
            .msg_namelen = sizeof from[i],
            .msg_iov = &places[i],
            .msg_iovlen = 1,
        };
    }
    int count = recvmmsg(fd, messages, DATAGRAMS, MSG_DONTWAIT, NULL);
    for (int i = 0; i < count; i++) {
        places[i].iov_len = messages[i].msg_len;
    }
    if (count > 0 && sendmmsg(fd, messages, (unsigned)count, 0) < count) {
        fail("sendmmsg");
    }
}

static int
bound_socket(const char *path)
{
    int type = (kind == UDP ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK | SOCK_CLOEXEC;
    int fd = socket(path != NULL ? AF_UNIX : AF_INET, type, 0);
    if (fd < 0) {
        fail("socket");
    }
    if (path != NULL) {
        struct sockaddr_un name = {.sun_family = AF_UNIX};
        if (strlen(path) >= sizeof name.sun_path) {
            fail("the path is too long");
        }
        strcpy(name.sun_path, path);
        if (bind(fd, (struct sockaddr *)&name, sizeof name) < 0) {
            fail("bind");
        }
        printf("{\"version\": \"C\", \"address\": \"%s\"}\n", path);
    }
    else {
        struct sockaddr_in name = {
            .sin_family = AF_INET,
            .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
        };
        socklen_t length = sizeof name;
        if (bind(fd, (struct sockaddr *)&name, length) < 0 ||
            getsockname(fd, (struct sockaddr *)&name, &length) < 0) {
            fail("bind");
        }
        printf("{\"version\": \"C\", \"address\": \"127.0.0.1:%d\"}\n",
               ntohs(name.sin_port));
    }
    if (kind != UDP && listen(fd, BACKLOG) < 0) {
        fail("listen");
    }
    fflush(stdout);
    return fd;
}

int
main(int count, char **arguments)
{
    alarm(LIFE_SECONDS);
    for (kind = ECHO; count < 2 || strcmp(arguments[1], kind_names[kind]) != 0;) {
        if (count < 2 || ++kind > SOURCE) {
            fprintf(stderr, "what kind of server?\n");
            return 2;
        }
    }
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct peer listener = {.fd = bound_socket(count > 2 ? arguments[2] : NULL)};
    watch(EPOLL_CTL_ADD, &listener, EPOLLIN);
    for (;;) {
        struct epoll_event events[64];
        int ready = epoll_wait(poller, events, 64, -1);
        if (ready < 0 && errno != EINTR) {
            fail("epoll_wait");
        }
        for (int i = 0; i < ready; i++) {
            struct peer *peer = events[i].data.ptr;
            if (peer != &listener) {
                if (serve(peer) < 0) {
                    drop(peer);
                }
            }
            else if (kind == UDP) {
                serve_datagrams(listener.fd);
            }
            else {
                accept_all(listener.fd);
            }
        }
    }
}
