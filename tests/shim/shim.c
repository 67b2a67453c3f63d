/* shim.c: a library to preload, below everything, that spoils system calls; tests only.
 *
 * A rule says which calls go wrong, and how: "recv:EAGAIN:1/3" refuses exactly one of each
 * three calls of recv, "send:short:2/5" lets two of each five move a part of what they
 * were given, "accept4:EMFILE:@2" fails the second call alone.  Which ones of the m they
 * are is the seed's choice, so a run is the same again wherever the calls are.  Of a call
 * that several rules spoil the first one counts.
 *
 *   SHIM_RULES    rules, separated by spaces
 *   SHIM_SEED     a number
 *   SHIM_CALLERS  parts of names, separated by spaces, of the programs and libraries whose
 *                 calls are meant; nothing: everybody's
 *   SHIM_COUNTS   a file, to which the process at its end adds how many calls it had spoilt
 *   SHIM_FILES    tcp, unix, udp, pipe, other: the kinds of descriptors that are meant;
 *                 nothing: all
 *
 * or, in the process itself, shim_begin() and shim_end().  shim_injected() and
 * shim_calls() count.
 *
 * Nothing is done that a kernel would not do: only descriptors that do not block get
 * EAGAIN, and not who writes one byte to a pipe that has room, only streams get short
 * counts, an interrupted connect goes on, and an epoll_wait that gives fewer events gives
 * the others next time.  What is not meant, and a call that no rule is for, passes
 * through.
 *
 * The dynamic linker finds these functions in place of the C library's; those are found
 * by RTLD_NEXT.  Some have two names, as headers with _FORTIFY_SOURCE call them. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <unistd.h>

#define CALLS(X)                                                                       \
    X(recv)                                                                            \
    X(recvfrom)                                                                        \
    X(recvmsg)                                                                         \
    X(recvmmsg)                                                                        \
    X(send)                                                                            \
    X(sendto)                                                                          \
    X(sendmsg)                                                                         \
    X(read)                                                                            \
    X(readv)                                                                           \
    X(write)                                                                           \
    X(writev)                                                                          \
    X(sendfile)                                                                        \
    X(accept)                                                                          \
    X(accept4)                                                                         \
    X(connect)                                                                         \
    X(socket)                                                                          \
    X(pipe)                                                                            \
    X(eventfd)                                                                         \
    X(timerfd_create)                                                                  \
    X(timerfd_settime)                                                                 \
    X(epoll_create1)                                                                   \
    X(epoll_ctl)                                                                       \
    X(epoll_wait)                                                                      \
    X(pidfd_open)

#define AS_NUMBER(name) CALL_##name,
#define AS_NAME(name) #name,
enum { CALLS(AS_NUMBER) CALL_COUNT };
static const char *const call_names[] = {CALLS(AS_NAME)};

static const struct {
    const char *name;
    int number;
} errors[] = {
    {"EAGAIN", EAGAIN},
    {"ECONNABORTED", ECONNABORTED},
    {"EBADF", EBADF},
    {"ECONNREFUSED", ECONNREFUSED},
    {"EINTR", EINTR},
    {"ECONNRESET", ECONNRESET},
    {"EIO", EIO},
    {"EHOSTUNREACH", EHOSTUNREACH},
    {"EMFILE", EMFILE},
    {"EMSGSIZE", EMSGSIZE},
    {"ENFILE", ENFILE},
    {"ENETUNREACH", ENETUNREACH},
    {"ENOBUFS", ENOBUFS},
    {"ENOSPC", ENOSPC},
    {"ENOMEM", ENOMEM},
    {"ENOSYS", ENOSYS},
    {"EPERM", EPERM},
    {"EPIPE", EPIPE},
    {"ETIMEDOUT", ETIMEDOUT},
};

enum { SHORT = 0, MOST_RULES = 64 };

typedef struct {
    int call, error; /* an errno value, or SHORT */
    unsigned n, m;   /* n of each m calls; m == 0: the n-th alone */
    atomic_uint asked;
} rule;

static rule rules[MOST_RULES];
static atomic_int rule_count;
static uint64_t seed;
static char callers[256], files[64];
static atomic_uint made[CALL_COUNT], injected[CALL_COUNT];
static atomic_ulong all_injected; /* since the process began */
static pid_t process;

/* --- rules -------------------------------------------------------------------------- */

static void
refuse_rules(const char *text)
{
    fprintf(stderr, "shim: no rule: %s\n", text);
    abort();
}

static int
find_call(const char *name)
{
    for (int i = 0; i < CALL_COUNT; i++) {
        if (strcmp(call_names[i], name) == 0) {
            return i;
        }
    }
    return -1;
}

static int
find_error(const char *name)
{
    if (strcmp(name, "short") == 0) {
        return SHORT;
    }
    for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++) {
        if (strcmp(errors[i].name, name) == 0) {
            return errors[i].number;
        }
    }
    return -1;
}

static void
add_rule(const char *text, int count)
{
    char call[32], fault[32];
    rule *one = &rules[count];
    one->m = 0;
    if (count == MOST_RULES ||
        (sscanf(text, "%31[^:]:%31[^:]:@%u", call, fault, &one->n) != 3 &&
         (sscanf(text, "%31[^:]:%31[^:]:%u/%u", call, fault, &one->n, &one->m) != 4 ||
          one->m == 0))) {
        refuse_rules(text);
    }
    one->call = find_call(call);
    one->error = find_error(fault);
    one->asked = 0;
    if (one->call < 0 || one->error < 0) {
        refuse_rules(text);
    }
}

static void
copy(char *to, size_t room, const char *from)
{
    if (snprintf(to, room, "%s", from == NULL ? "" : from) >= (int)room) {
        refuse_rules(from);
    }
}

/* Ends all faults; the counts stay. */
void
shim_end(void)
{
    rule_count = 0;
}

/* Begins anew: all calls are counted from 0. */
void
shim_begin(unsigned long long new_seed, const char *text, const char *whose,
           const char *which)
{
    char words[4096], *rest, *word;
    int count = 0;
    shim_end();
    copy(callers, sizeof(callers), whose);
    copy(files, sizeof(files), which);
    copy(words, sizeof(words), text);
    for (word = strtok_r(words, " \n", &rest); word != NULL;
         word = strtok_r(NULL, " \n", &rest)) {
        add_rule(word, count++);
    }
    for (int i = 0; i < CALL_COUNT; i++) {
        made[i] = injected[i] = 0;
    }
    seed = new_seed;
    rule_count = count;
}

__attribute__((constructor)) static void
begin_by_environment(void)
{
    process = getpid();
    const char *text = getenv("SHIM_RULES"), *number = getenv("SHIM_SEED");
    if (text != NULL) {
        shim_begin(number == NULL ? 0 : strtoull(number, NULL, 10), text,
                   getenv("SHIM_CALLERS"), getenv("SHIM_FILES"));
    }
}

__attribute__((destructor)) static void
tell_counts(void)
{
    const char *name = getenv("SHIM_COUNTS");
    FILE *file = name == NULL || process != getpid() ? NULL : fopen(name, "a");
    if (file != NULL) {
        fprintf(file, "%lu\n", (unsigned long)all_injected);
        fclose(file);
    }
}

/* How many calls of a name have been spoilt, and how many made by who is meant, on what
 * is meant; of all names with NULL. */
static unsigned
sum(const atomic_uint *counts, const char *name)
{
    unsigned all = 0;
    for (int i = 0; i < CALL_COUNT; i++) {
        all += name == NULL || strcmp(name, call_names[i]) == 0 ? counts[i] : 0;
    }
    return all;
}

unsigned
shim_injected(const char *name)
{
    return sum(injected, name);
}

unsigned
shim_calls(const char *name)
{
    return sum(made, name);
}

/* --- which calls -------------------------------------------------------------------- */

/* A number that looks like chance and is not (the finalizer of splitmix64). */
static uint64_t
mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

static uint64_t
draw(int which, unsigned call)
{
    return mix(mix(seed * 131 + (uint64_t)which) + call);
}

/* Whether the rule is for this one of its calls: one of the n of its m that drew least. */
static bool
applies(int which)
{
    rule *one = &rules[which];
    unsigned number = one->asked++;
    if (one->m == 0) {
        return number + 1 == one->n;
    }
    unsigned first = number - number % one->m, before = 0;
    uint64_t mine = draw(which, number);
    for (unsigned i = first; i < first + one->m; i++) {
        before += draw(which, i) < mine;
    }
    return before < one->n;
}

/* Whether the words have one of which the text is made up, or there are none. */
static bool
names(const char *words, const char *text)
{
    char list[256], *rest, *word;
    copy(list, sizeof(list), words);
    word = strtok_r(list, " ,", &rest);
    if (word == NULL) {
        return true;
    }
    for (; word != NULL; word = strtok_r(NULL, " ,", &rest)) {
        if (strstr(text, word) != NULL) {
            return true;
        }
    }
    return false;
}

static bool
is_meant_caller(const void *address)
{
    Dl_info info;
    return callers[0] == '\0' ||
           (dladdr(address, &info) != 0 && info.dli_fname != NULL &&
            names(callers, info.dli_fname));
}

static int
option(int fd, int name)
{
    int value = -1;
    socklen_t length = sizeof(value);
    return getsockopt(fd, SOL_SOCKET, name, &value, &length) < 0 ? -1 : value;
}

static const char *
kind_of(int fd)
{
    struct stat status;
    if (fstat(fd, &status) < 0) {
        return "other";
    }
    if (S_ISFIFO(status.st_mode)) {
        return "pipe";
    }
    int domain = S_ISSOCK(status.st_mode) ? option(fd, SO_DOMAIN) : -1;
    return domain == AF_UNIX                         ? "unix"
           : domain != AF_INET && domain != AF_INET6 ? "other"
           : option(fd, SO_TYPE) == SOCK_DGRAM       ? "udp"
                                                     : "tcp";
}

/* Whether a part of what is asked for is as good. */
static bool
is_stream(int fd)
{
    int type = option(fd, SO_TYPE);
    return type == SOCK_STREAM ||
           (type < 0 && (fcntl(fd, F_GETFL) & O_DIRECT) == 0); /* packet mode */
}

/* A pipe that has room takes a byte: who wakes a loop by one relies on it.  (More may
 * find another writer's bytes in their way.) */
static bool
has_room(int fd)
{
    struct stat status;
    struct pollfd asked = {.fd = fd, .events = POLLOUT};
    return fstat(fd, &status) == 0 && S_ISFIFO(status.st_mode) &&
           poll(&asked, 1, 0) == 1 && (asked.revents & POLLERR) == 0;
}

static bool
is_possible(int fd, int call, int error, const size_t *size)
{
    if (error == EAGAIN) {
        return call == CALL_recvmmsg ||
               ((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0 &&
                (call != CALL_write || *size > 1 || !has_room(fd)));
    }
    return error != SHORT || call == CALL_recvmmsg || call == CALL_epoll_wait ||
           is_stream(fd);
}

/* A part of `size`, at least 1 of it. */
static size_t
part_of(size_t size, uint64_t chance)
{
    uint64_t more = chance >> 8;
    size_t part = chance % 4 == 0   ? 1
                  : chance % 4 == 1 ? 1 + more % 16
                  : chance % 4 == 2 ? size / 2
                                    : size - 1;
    return part < 1 ? 1 : part < size ? part : size;
}

/* What becomes of a call: true, with errno, when it fails; else *size, if there is one, is
 * what it may move. */
static bool
spoil(int call, int fd, size_t *size, const void *caller)
{
    int count = rule_count, before = errno;
    if (count == 0 || !is_meant_caller(caller) ||
        (files[0] != '\0' && fd >= 0 && !names(files, kind_of(fd)))) {
        errno = before;
        return false;
    }
    made[call]++;
    for (int i = 0; i < count; i++) {
        int error = rules[i].error;
        if (rules[i].call != call || (error == SHORT && (size == NULL || *size < 2)) ||
            (fd >= 0 && !is_possible(fd, call, error, size)) || !applies(i)) {
            continue;
        }
        injected[call]++;
        all_injected++;
        if (error != SHORT) {
            errno = error;
            return true;
        }
        *size = part_of(*size, draw(i + MOST_RULES, made[call]));
        break;
    }
    errno = before;
    return false;
}

#define CALLER __builtin_return_address(0)
/* The function of this name that would be there without us. */
#define NEXT(name)                                                                     \
    static __typeof__(name) *next;                                                     \
    if (next == NULL) {                                                                \
        next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name);                            \
    }

/* --- bytes -------------------------------------------------------------------------- */

ssize_t
recv(int fd, void *buffer, size_t size, int flags)
{
    NEXT(recv);
    return spoil(CALL_recv, fd, &size, CALLER) ? -1 : next(fd, buffer, size, flags);
}

ssize_t __recv_chk(int fd, void *buffer, size_t size, size_t room, int flags);
ssize_t
__recv_chk(int fd, void *buffer, size_t size, size_t room, int flags)
{
    NEXT(__recv_chk);
    return spoil(CALL_recv, fd, &size, CALLER) ? -1
                                               : next(fd, buffer, size, room, flags);
}

ssize_t
recvfrom(int fd, void *buffer, size_t size, int flags, struct sockaddr *from,
         socklen_t *length)
{
    NEXT(recvfrom);
    return spoil(CALL_recvfrom, fd, &size, CALLER)
               ? -1
               : next(fd, buffer, size, flags, from, length);
}

ssize_t __recvfrom_chk(int fd, void *buffer, size_t size, size_t room, int flags,
                       struct sockaddr *from, socklen_t *length);
ssize_t
__recvfrom_chk(int fd, void *buffer, size_t size, size_t room, int flags,
               struct sockaddr *from, socklen_t *length)
{
    NEXT(__recvfrom_chk);
    return spoil(CALL_recvfrom, fd, &size, CALLER)
               ? -1
               : next(fd, buffer, size, room, flags, from, length);
}

ssize_t
send(int fd, const void *data, size_t size, int flags)
{
    NEXT(send);
    return spoil(CALL_send, fd, &size, CALLER) ? -1 : next(fd, data, size, flags);
}

ssize_t
sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to,
       socklen_t length)
{
    NEXT(sendto);
    return spoil(CALL_sendto, fd, &size, CALLER)
               ? -1
               : next(fd, data, size, flags, to, length);
}

ssize_t
read(int fd, void *buffer, size_t size)
{
    NEXT(read);
    return spoil(CALL_read, fd, &size, CALLER) ? -1 : next(fd, buffer, size);
}

ssize_t __read_chk(int fd, void *buffer, size_t size, size_t room);
ssize_t
__read_chk(int fd, void *buffer, size_t size, size_t room)
{
    NEXT(__read_chk);
    return spoil(CALL_read, fd, &size, CALLER) ? -1 : next(fd, buffer, size, room);
}

ssize_t
write(int fd, const void *data, size_t size)
{
    NEXT(write);
    return spoil(CALL_write, fd, &size, CALLER) ? -1 : next(fd, data, size);
}

ssize_t
sendfile64(int out, int in, off64_t *offset, size_t size)
{
    NEXT(sendfile64);
    return spoil(CALL_sendfile, out, &size, CALLER) ? -1 : next(out, in, offset, size);
}

ssize_t
sendfile(int out, int in, off_t *offset, size_t size)
{
    NEXT(sendfile);
    return spoil(CALL_sendfile, out, &size, CALLER) ? -1 : next(out, in, offset, size);
}

/* --- bytes in pieces ---------------------------------------------------------------- */

static size_t
size_of(const struct iovec *pieces, size_t count)
{
    size_t size = 0;
    for (size_t i = 0; i < count; i++) {
        size += pieces[i].iov_len;
    }
    return size;
}

/* The first `size` bytes of the pieces, a number of which is the result; `fewer` has room
 * for all.  They are what was given where nothing is cut. */
static size_t
cut(const struct iovec *pieces, size_t count, size_t size, struct iovec *fewer)
{
    size_t n = 0;
    for (; n < count && size > 0; n++) {
        fewer[n] = pieces[n];
        fewer[n].iov_len = size < pieces[n].iov_len ? size : pieces[n].iov_len;
        size -= fewer[n].iov_len;
    }
    return n;
}

enum { MOST_PIECES = 1024 };

ssize_t
readv(int fd, const struct iovec *pieces, int count)
{
    NEXT(readv);
    struct iovec fewer[MOST_PIECES];
    size_t all = size_of(pieces, (size_t)count), size = all;
    if (spoil(CALL_readv, fd, &size, CALLER)) {
        return -1;
    }
    return size == all ? next(fd, pieces, count)
                       : next(fd, fewer, (int)cut(pieces, (size_t)count, size, fewer));
}

ssize_t
writev(int fd, const struct iovec *pieces, int count)
{
    NEXT(writev);
    struct iovec fewer[MOST_PIECES];
    size_t all = size_of(pieces, (size_t)count), size = all;
    if (spoil(CALL_writev, fd, &size, CALLER)) {
        return -1;
    }
    return size == all ? next(fd, pieces, count)
                       : next(fd, fewer, (int)cut(pieces, (size_t)count, size, fewer));
}

ssize_t
sendmsg(int fd, const struct msghdr *message, int flags)
{
    NEXT(sendmsg);
    struct iovec fewer[MOST_PIECES];
    struct msghdr part = *message;
    size_t all = size_of(message->msg_iov, message->msg_iovlen), size = all;
    if (spoil(CALL_sendmsg, fd, &size, CALLER)) {
        return -1;
    }
    if (size < all) {
        part.msg_iovlen = cut(message->msg_iov, message->msg_iovlen, size, fewer);
        part.msg_iov = fewer;
    }
    return next(fd, &part, flags);
}

ssize_t
recvmsg(int fd, struct msghdr *message, int flags)
{
    NEXT(recvmsg);
    struct iovec fewer[MOST_PIECES], *pieces = message->msg_iov;
    size_t count = message->msg_iovlen, all = size_of(pieces, count), size = all;
    if (spoil(CALL_recvmsg, fd, &size, CALLER)) {
        return -1;
    }
    if (size < all) {
        message->msg_iovlen = cut(pieces, count, size, fewer);
        message->msg_iov = fewer;
    }
    ssize_t result = next(fd, message, flags);
    message->msg_iov = pieces;
    message->msg_iovlen = count;
    return result;
}

/* --- messages, connections ---------------------------------------------------------- */

int
recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags,
         struct timespec *timeout)
{
    NEXT(recvmmsg);
    size_t fewer = count;
    return spoil(CALL_recvmmsg, fd, &fewer, CALLER)
               ? -1
               : next(fd, messages, (unsigned)fewer, flags, timeout);
}

int
accept(int fd, struct sockaddr *from, socklen_t *length)
{
    NEXT(accept);
    return spoil(CALL_accept, fd, NULL, CALLER) ? -1 : next(fd, from, length);
}

int
accept4(int fd, struct sockaddr *from, socklen_t *length, int flags)
{
    NEXT(accept4);
    return spoil(CALL_accept4, fd, NULL, CALLER) ? -1 : next(fd, from, length, flags);
}

/* A connect that was interrupted goes on; one of a Unix socket is over. */
int
connect(int fd, const struct sockaddr *to, socklen_t length)
{
    NEXT(connect);
    if (!spoil(CALL_connect, fd, NULL, CALLER)) {
        return next(fd, to, length);
    }
    int error = errno;
    if (error == EINTR && next(fd, to, length) < 0 && errno != EINPROGRESS) {
        return -1;
    }
    errno = error;
    return -1;
}

/* --- new descriptors ---------------------------------------------------------------- */

int
socket(int domain, int type, int protocol)
{
    NEXT(socket);
    return spoil(CALL_socket, -1, NULL, CALLER) ? -1 : next(domain, type, protocol);
}

int
pipe(int ends[2])
{
    NEXT(pipe);
    return spoil(CALL_pipe, -1, NULL, CALLER) ? -1 : next(ends);
}

int
pipe2(int ends[2], int flags)
{
    NEXT(pipe2);
    return spoil(CALL_pipe, -1, NULL, CALLER) ? -1 : next(ends, flags);
}

int
eventfd(unsigned count, int flags)
{
    NEXT(eventfd);
    return spoil(CALL_eventfd, -1, NULL, CALLER) ? -1 : next(count, flags);
}

int
timerfd_create(int clock, int flags)
{
    NEXT(timerfd_create);
    return spoil(CALL_timerfd_create, -1, NULL, CALLER) ? -1 : next(clock, flags);
}

int
timerfd_settime(int fd, int flags, const struct itimerspec *new, struct itimerspec *old)
{
    NEXT(timerfd_settime);
    return spoil(CALL_timerfd_settime, fd, NULL, CALLER) ? -1
                                                         : next(fd, flags, new, old);
}

/* --- epoll -------------------------------------------------------------------------- */

int
epoll_create1(int flags)
{
    NEXT(epoll_create1);
    return spoil(CALL_epoll_create1, -1, NULL, CALLER) ? -1 : next(flags);
}

/* What is taken away is taken away. */
int
epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    NEXT(epoll_ctl);
    return operation != EPOLL_CTL_DEL && spoil(CALL_epoll_ctl, fd, NULL, CALLER)
               ? -1
               : next(epoll, operation, fd, event);
}

int
epoll_wait(int epoll, struct epoll_event *events, int count, int timeout)
{
    NEXT(epoll_wait);
    size_t fewer = (size_t)count;
    return spoil(CALL_epoll_wait, epoll, &fewer, CALLER)
               ? -1
               : next(epoll, events, (int)fewer, timeout);
}

/* --- system calls by number --------------------------------------------------------- */

long
syscall(long number, ...)
{
    static long (*next)(long, ...);
    va_list list;
    if (next == NULL) {
        next = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    }
    va_start(list, number);
    long a = va_arg(list, long), b = va_arg(list, long), c = va_arg(list, long),
         d = va_arg(list, long), e = va_arg(list, long), f = va_arg(list, long);
    va_end(list);
    if (number == SYS_pidfd_open && spoil(CALL_pidfd_open, -1, NULL, CALLER)) {
        return -1;
    }
    return next(number, a, b, c, d, e, f);
}
