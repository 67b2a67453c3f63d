/* Load on one server from one thread: as many connections as asked for, each with one
 * request on its way at a time.
 *
 *   load MODE ADDRESS SIZE CONNECTIONS WARM_UP_SECONDS SECONDS SERVER_PID
 *
 * MODE: echo     a message of SIZE bytes there and back, over and over
 *       udp      the same with datagrams; a lost one is sent again and counted
 *       connect  connect, one message there and back, close
 *       push     bytes to the server as fast as it takes them; a request is a MiB
 *       pull     bytes from the server as fast as it gives them; a request is a MiB
 * ADDRESS: 127.0.0.1:PORT, or the path of a Unix socket.
 *
 * What comes back is compared with what was sent. After the warm-up it counts for
 * SECONDS and prints one JSON line: requests, seconds, the server's CPU seconds in the
 * meantime (by the server process's CPU clock, which is not based on ticks and counts
 * all its threads), the median and the 99th percentile of the time from a request's
 * first system call to its last byte, and lost datagrams; or {"error": TEXT} and exit
 * status 1. It gives up on a server that is silent for GIVE_UP_NS.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS 1000000000ull
#define GIVE_UP_NS (5 * SECOND_NS)
#define RESEND_MS 200
#define CHUNK (256 * 1024)
#define MIB (1024.0 * 1024.0)
/* Source addresses 127.0.1.1 and up: connections by the ten thousand would use up the
 * ports of one address, because each closed one keeps its port for a while. */
#define SOURCES 250

enum mode { ECHO, UDP, CONNECT, PUSH, PULL };
static const char *const mode_names[] = {"echo", "udp", "connect", "push", "pull"};

struct connection {
    int fd;
    size_t sent;
    size_t received;
    uint64_t began;
};

/* Latencies fall into 64 buckets per power of two: 1.6 % precise. */
#define SUB_BITS 6
#define BUCKETS ((64 - SUB_BITS + 1) << SUB_BITS)

static enum mode mode;
static size_t size;
static int connections;
static char *message;
static char *inbox;
static union {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_un un;
} address;
static socklen_t address_length;
static int poller;
static uint64_t last_answer;
static uint64_t requests, bytes, lost;
static uint64_t histogram[BUCKETS];

static _Noreturn __attribute__((format(printf, 1, 2))) void
fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    printf("{\"error\": \"load: ");
    vprintf(format, arguments);
    printf("\"}\n");
    va_end(arguments);
    exit(1);
}

static uint64_t
read_clock(clockid_t clock)
{
    struct timespec time;
    if (clock_gettime(clock, &time) < 0) {
        fail("clock_gettime: %s", strerror(errno));
    }
    return (uint64_t)time.tv_sec * SECOND_NS + (uint64_t)time.tv_nsec;
}

static uint64_t
now(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

static unsigned
bucket_of(uint64_t value)
{
    if (value < (1u << SUB_BITS)) {
        return (unsigned)value;
    }
    unsigned shift = 63u - (unsigned)__builtin_clzll(value) - SUB_BITS;
    return ((shift + 1) << SUB_BITS) +
           (unsigned)((value >> shift) & ((1u << SUB_BITS) - 1));
}

/* The lower bound of a bucket: the inverse of bucket_of(). */
static uint64_t
bound_of(unsigned bucket)
{
    unsigned group = bucket >> SUB_BITS;
    uint64_t low = bucket & ((1u << SUB_BITS) - 1);
    return group == 0 ? low : (low | (1u << SUB_BITS)) << (group - 1);
}

static uint64_t
percentile(double share)
{
    uint64_t wanted = (uint64_t)(share * (double)requests);
    uint64_t seen = 0;
    for (unsigned i = 0; i < BUCKETS; i++) {
        seen += histogram[i];
        if (seen > wanted) {
            return bound_of(i);
        }
    }
    return 0;
}

static void
parse_address(const char *text)
{
    if (text[0] == '/') {
        address.un.sun_family = AF_UNIX;
        if (strlen(text) >= sizeof address.un.sun_path) {
            fail("the path is too long");
        }
        strcpy(address.un.sun_path, text);
        address_length = sizeof address.un;
        return;
    }
    char host[64];
    unsigned port;
    if (sscanf(text, "%63[0-9.]:%u", host, &port) != 2) {
        fail("what address is %s?", text);
    }
    address.in.sin_family = AF_INET;
    address.in.sin_port = htons((uint16_t)port);
    if (inet_pton(AF_INET, host, &address.in.sin_addr) != 1) {
        fail("what host is %s?", host);
    }
    address_length = sizeof address.in;
}

/* Another source address for each new connection; the kernel chooses the port. */
static void
bind_to_next_source(int fd)
{
    static unsigned next;
    struct sockaddr_in source = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(0x7f000101u + next++ % SOURCES),
    };
    int on = 1;
    if (setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on) < 0 ||
        bind(fd, (struct sockaddr *)&source, sizeof source) < 0) {
        fail("bind: %s", strerror(errno));
    }
}

static void
open_connection(struct connection *connection)
{
    int type = mode == UDP ? SOCK_DGRAM : SOCK_STREAM;
    int flags = SOCK_CLOEXEC | (mode == CONNECT ? SOCK_NONBLOCK : 0);
    int fd = socket(address.any.sa_family, type | flags, 0);
    if (fd < 0) {
        fail("socket: %s", strerror(errno));
    }
    if (address.any.sa_family == AF_INET && mode != UDP) {
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (mode == CONNECT) {
            bind_to_next_source(fd);
        }
    }
    *connection = (struct connection){.fd = fd, .began = now()};
    if (connect(fd, &address.any, address_length) < 0 && errno != EINPROGRESS) {
        fail("connect: %s", strerror(errno));
    }
    struct epoll_event event = {
        .events = mode == PUSH   ? EPOLLOUT
                  : mode == PULL ? EPOLLIN
                                 : EPOLLIN | EPOLLOUT | EPOLLET,
        .data.ptr = connection,
    };
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0) {
        fail("epoll_ctl: %s", strerror(errno));
    }
}

static void
send_more(struct connection *connection)
{
    while (connection->sent < size) {
        ssize_t n = send(connection->fd, message + connection->sent,
                         size - connection->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) {
                return;
            }
            if (errno == EINTR) {
                continue;
            }
            fail("send: %s", strerror(errno));
        }
        connection->sent += (size_t)n;
    }
}

static void
complete(struct connection *connection)
{
    uint64_t time = now();
    requests++;
    histogram[bucket_of(time - connection->began)]++;
    last_answer = time;
    if (mode == CONNECT) {
        close(connection->fd);
        open_connection(connection);
        return;
    }
    connection->sent = connection->received = 0;
    connection->began = time;
    send_more(connection);
}

static void
receive_more(struct connection *connection)
{
    /* Nothing comes before it was asked for. */
    while (connection->sent > 0) {
        size_t missing = size - connection->received;
        ssize_t n = recv(connection->fd, inbox, missing, MSG_DONTWAIT);
        if (n < 0) {
            if (errno == EAGAIN) {
                return;
            }
            if (errno == EINTR) {
                continue;
            }
            fail("recv: %s", strerror(errno));
        }
        if (n == 0) {
            fail("the server closed the connection");
        }
        if (memcmp(inbox, message + connection->received, (size_t)n) != 0) {
            fail("other bytes came back than were sent");
        }
        connection->received += (size_t)n;
        if (connection->received == size) {
            complete(connection);
            return;
        }
    }
}

/* One system call: the socket stays ready, and the clock is looked at in between. */
static void
push_or_pull(struct connection *connection)
{
    ssize_t n = mode == PUSH
                    ? send(connection->fd, message, size, MSG_DONTWAIT | MSG_NOSIGNAL)
                    : recv(connection->fd, inbox, size, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n <= 0) {
        fail("%s: %s", mode_names[mode], n < 0 ? strerror(errno) : "end of file");
    }
    bytes += (uint64_t)n;
    last_answer = now();
}

static void
handle(struct connection *connection, uint32_t events)
{
    if (mode == PUSH || mode == PULL) {
        push_or_pull(connection);
        return;
    }
    if (mode == CONNECT && connection->sent == 0 && (events & (EPOLLERR | EPOLLHUP))) {
        int error = 0;
        socklen_t length = sizeof error;
        getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &length);
        fail("connect: %s", strerror(error));
    }
    if ((events & EPOLLOUT) && connection->sent < size) {
        send_more(connection);
    }
    if (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) {
        receive_more(connection);
    }
}

static void
send_lost_datagrams_again(struct connection *all)
{
    for (int i = 0; i < connections; i++) {
        lost++;
        all[i].sent = all[i].received = 0;
        send_more(&all[i]);
    }
}

static void
run_until(uint64_t end, struct connection *all)
{
    struct epoll_event events[64];
    uint64_t time;
    while ((time = now()) < end) {
        if (time - last_answer > GIVE_UP_NS) {
            fail("the server is silent");
        }
        int count = epoll_wait(poller, events, 64, RESEND_MS);
        if (count < 0 && errno != EINTR) {
            fail("epoll_wait: %s", strerror(errno));
        }
        if (count == 0 && mode == UDP) {
            send_lost_datagrams_again(all);
        }
        for (int i = 0; i < count; i++) {
            handle(events[i].data.ptr, events[i].events);
        }
    }
}

static void
parse(char **arguments)
{
    for (mode = ECHO; strcmp(arguments[1], mode_names[mode]) != 0;) {
        if (++mode > PULL) {
            fail("what mode is %s?", arguments[1]);
        }
    }
    parse_address(arguments[2]);
    size = mode == PUSH || mode == PULL ? CHUNK : strtoul(arguments[3], NULL, 10);
    connections = atoi(arguments[4]);
    if (size == 0 || connections <= 0) {
        fail("size and connections are to be positive");
    }
}

int
main(int count, char **arguments)
{
    if (count != 8) {
        fail("seven arguments are needed");
    }
    parse(arguments);
    clockid_t server;
    int error = clock_getcpuclockid((pid_t)atoi(arguments[7]), &server);
    if (error != 0) {
        fail("the server's CPU clock: %s", strerror(error));
    }
    message = malloc(size);
    inbox = malloc(size);
    struct connection *all = calloc((size_t)connections, sizeof *all);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (message == NULL || inbox == NULL || all == NULL || poller < 0) {
        fail("out of memory or descriptors");
    }
    memset(message, 'x', size - 1);
    message[size - 1] = '\n';
    last_answer = now();
    for (int i = 0; i < connections; i++) {
        open_connection(&all[i]);
    }
    run_until(now() + (uint64_t)(atof(arguments[5]) * SECOND_NS), all);

    requests = bytes = lost = 0;
    memset(histogram, 0, sizeof histogram);
    uint64_t cpu = read_clock(server);
    uint64_t start = now();
    run_until(start + (uint64_t)(atof(arguments[6]) * SECOND_NS), all);
    cpu = read_clock(server) - cpu;
    uint64_t elapsed = now() - start;

    int bulk = mode == PUSH || mode == PULL;
    double done = bulk ? (double)bytes / MIB : (double)requests;
    if (done == 0) {
        fail("no request was answered");
    }
    printf("{\"requests\": %.3f, \"seconds\": %.9f, \"cpu\": %.9f, \"lost\": %llu, ",
           done, (double)elapsed / SECOND_NS, (double)cpu / SECOND_NS,
           (unsigned long long)lost);
    if (bulk) {
        printf("\"p50\": null, \"p99\": null}\n");
    }
    else {
        printf("\"p50\": %.9f, \"p99\": %.9f}\n", (double)percentile(0.5) / SECOND_NS,
               (double)percentile(0.99) / SECOND_NS);
    }
    return 0;
}
