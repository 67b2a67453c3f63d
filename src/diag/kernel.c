/* kernel.c: see kernel.h. */
#include "diag/kernel.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#if AL_LINUX
#include <sys/syscall.h>
#endif

#include "diag/peek.h"

/* --- /proc ------------------------------------------------------------------------------- */

/* Reads a small file of the thread; its length, or -1. */
static ssize_t
read_file(int tid, const char *name, char *text, size_t size)
{
#if AL_LINUX
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/self/task/%d/%s", tid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -1;
    }
    ssize_t n;
    do {
        n = read(fd, text, size - 1);
    } while (n < 0 && errno == EINTR);
    close(fd);
    text[n < 0 ? 0 : n] = '\0';
    return n;
#else
    (void)tid;
    (void)name;
    (void)text;
    (void)size;
    return -1;
#endif
}

void
al_kernel_read_times(int tid, al_kernel *kernel)
{
    char text[128], *end;
    kernel->ran = kernel->waited = -1;
    if (read_file(tid, "schedstat", text, sizeof(text)) > 0) {
        kernel->ran = strtoll(text, &end, 10);
        kernel->waited = strtoll(end, NULL, 10);
    }
}

void
al_kernel_read(int tid, al_kernel *kernel)
{
    char text[512];
    *kernel = (al_kernel){.call = -1, .ran = -1, .waited = -1};
    if (read_file(tid, "stat", text, sizeof(text)) > 0) {
        const char *name_end =
            strrchr(text, ')'); /* The name may have anything in it. */
        kernel->state = name_end != NULL && name_end[1] == ' ' ? name_end[2] : 0;
    }
    if (read_file(tid, "syscall", text, sizeof(text)) > 0 && text[0] >= '0' &&
        text[0] <= '9') {
        char *at = text;
        kernel->call = strtol(at, &at, 10);
        for (int i = 0; i < 6; i++) {
            kernel->args[i] = strtoul(at, &at, 16);
        }
    }
    al_kernel_read_times(tid, kernel);
}

/* --- system calls -------------------------------------------------------------------------- */

/* What the first argument of a system call is. */
typedef enum { NOTHING, DESCRIPTOR, POLLED, SELECTED } subject;

typedef struct {
    long number;
    const char *name;
    subject subject;
} call_entry;

#if AL_LINUX
#define CALL(name, subject) {SYS_##name, #name, subject}

static const call_entry calls[] = {
    CALL(read, DESCRIPTOR),
    CALL(write, DESCRIPTOR),
    CALL(readv, DESCRIPTOR),
    CALL(writev, DESCRIPTOR),
    CALL(pread64, DESCRIPTOR),
    CALL(pwrite64, DESCRIPTOR),
    CALL(preadv, DESCRIPTOR),
    CALL(pwritev, DESCRIPTOR),
    CALL(recvfrom, DESCRIPTOR),
    CALL(recvmsg, DESCRIPTOR),
    CALL(recvmmsg, DESCRIPTOR),
    CALL(sendto, DESCRIPTOR),
    CALL(sendmsg, DESCRIPTOR),
    CALL(sendmmsg, DESCRIPTOR),
    CALL(connect, DESCRIPTOR),
#ifdef SYS_accept
    CALL(accept, DESCRIPTOR),
#endif
    CALL(accept4, DESCRIPTOR),
    CALL(shutdown, DESCRIPTOR),
    CALL(close, DESCRIPTOR),
    CALL(fsync, DESCRIPTOR),
    CALL(fdatasync, DESCRIPTOR),
    CALL(ftruncate, DESCRIPTOR),
    CALL(fallocate, DESCRIPTOR),
    CALL(flock, DESCRIPTOR),
    CALL(fcntl, DESCRIPTOR),
    CALL(fstat, DESCRIPTOR),
    CALL(ioctl, DESCRIPTOR),
    CALL(getdents64, DESCRIPTOR),
    CALL(sendfile, DESCRIPTOR),
    CALL(splice, DESCRIPTOR),
    CALL(syncfs, DESCRIPTOR),
    CALL(epoll_pwait, DESCRIPTOR),
    CALL(ppoll, POLLED),
    CALL(pselect6, SELECTED),
    CALL(openat, NOTHING),
    CALL(statx, NOTHING),
    CALL(unlinkat, NOTHING),
    CALL(mkdirat, NOTHING),
    CALL(renameat2, NOTHING),
    CALL(sync, NOTHING),
    CALL(nanosleep, NOTHING),
#ifdef SYS_clock_nanosleep
    CALL(clock_nanosleep, NOTHING),
#endif
    CALL(futex, NOTHING),
    CALL(wait4, NOTHING),
    CALL(waitid, NOTHING),
    CALL(rt_sigtimedwait, NOTHING),
    CALL(rt_sigsuspend, NOTHING),
#ifdef SYS_semtimedop
    CALL(semtimedop, NOTHING),
#endif
    CALL(msgrcv, NOTHING),
    CALL(msgsnd, NOTHING),
    CALL(io_getevents, NOTHING),
    CALL(mmap, NOTHING),
    CALL(munmap, NOTHING),
    CALL(mremap, NOTHING),
    CALL(madvise, NOTHING),
    CALL(msync, NOTHING),
    CALL(brk, NOTHING),
    CALL(execve, NOTHING),
    CALL(process_vm_readv, NOTHING),
    CALL(getrandom, NOTHING),
#ifdef SYS_poll
    CALL(poll, POLLED),
    CALL(select, SELECTED),
    CALL(epoll_wait, DESCRIPTOR),
    CALL(open, NOTHING),
    CALL(stat, NOTHING),
    CALL(lstat, NOTHING),
    CALL(unlink, NOTHING),
    CALL(rename, NOTHING),
    CALL(mkdir, NOTHING),
    CALL(rmdir, NOTHING),
    CALL(pause, NOTHING),
    CALL(fork, NOTHING),
    CALL(vfork, NOTHING),
#endif
#ifdef SYS_newfstatat
    CALL(newfstatat, NOTHING),
#endif
#ifdef SYS_epoll_pwait2
    CALL(epoll_pwait2, DESCRIPTOR),
#endif
#ifdef SYS_clone
    CALL(clone, NOTHING),
#endif
};

static const call_entry *
find_call(long number)
{
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        if (calls[i].number == number) {
            return &calls[i];
        }
    }
    return NULL;
}

bool
al_kernel_is_lock(long call)
{
    return call == SYS_futex;
}
#else
static const call_entry *
find_call(long Py_UNUSED(number))
{
    return NULL;
}

bool
al_kernel_is_lock(long Py_UNUSED(call))
{
    return false;
}
#endif

const char *
al_kernel_call_name(long call)
{
    const call_entry *entry = find_call(call);
    return entry == NULL ? NULL : entry->name;
}

/* The lowest descriptor of a set that select waits for, or -1. */
static int
lowest_of_set(uintptr_t address, uintptr_t count)
{
    unsigned char bits[FD_SETSIZE / 8];
    size_t bytes = count > FD_SETSIZE ? sizeof(bits) : (count + 7) / 8;
    if (address == 0 || !al_peek(bits, (const void *)address, bytes)) {
        return -1;
    }
    for (size_t i = 0; i < bytes * 8; i++) {
        if (bits[i / 8] >> (i % 8) & 1) {
            return (int)i;
        }
    }
    return -1;
}

int
al_kernel_fd(const al_kernel *kernel)
{
    const call_entry *entry = find_call(kernel->call);
    struct pollfd first;
    switch (entry == NULL ? NOTHING : entry->subject) {
    case DESCRIPTOR:
        return (int)kernel->args[0];
    case POLLED:
        return kernel->args[1] > 0 &&
                       al_peek(&first, (const void *)kernel->args[0], sizeof(first))
                   ? first.fd
                   : -1;
    case SELECTED:
        for (int i = 1; i <= 3; i++) {
            int fd = lowest_of_set(kernel->args[i], kernel->args[0]);
            if (fd >= 0) {
                return fd;
            }
        }
        return -1;
    case NOTHING:
    default:
        return -1;
    }
}

/* --- descriptors --------------------------------------------------------------------------- */

typedef union {
    struct sockaddr any;
    struct sockaddr_in inet;
    struct sockaddr_in6 inet6;
    struct sockaddr_un local;
} address;

static bool
format_address(const address *from, size_t length, char *text, size_t size)
{
    char host[INET6_ADDRSTRLEN];
    if (from->any.sa_family == AF_INET && length >= sizeof(from->inet)) {
        inet_ntop(AF_INET, &from->inet.sin_addr, host, sizeof(host));
        (void)snprintf(text, size, "peer %s:%d", host, ntohs(from->inet.sin_port));
        return true;
    }
    if (from->any.sa_family == AF_INET6 && length >= sizeof(from->inet6)) {
        inet_ntop(AF_INET6, &from->inet6.sin6_addr, host, sizeof(host));
        (void)snprintf(text, size, "peer [%s]:%d", host, ntohs(from->inet6.sin6_port));
        return true;
    }
    size_t begin = offsetof(struct sockaddr_un, sun_path);
    if (from->any.sa_family == AF_UNIX && length > begin) {
        bool hidden = from->local.sun_path[0] == '\0'; /* an abstract address */
        (void)snprintf(text, size, "peer %s%.*s", hidden ? "@" : "",
                       (int)(length - begin) - hidden, from->local.sun_path + hidden);
        return true;
    }
    return false;
}

/* The other end of a socket. */
static bool
describe_peer(const al_kernel *kernel, int fd, char *text, size_t size)
{
    address peer;
    memset(&peer, 0, sizeof(peer));
    socklen_t length = sizeof(peer);
    if (getpeername(fd, &peer.any, &length) == 0 &&
        format_address(&peer, length, text, size)) {
        return true;
    }
    const char *name = al_kernel_call_name(kernel->call);
    length = (socklen_t)kernel->args[2];
    return name != NULL && strcmp(name, "connect") == 0 && length <= sizeof(peer) &&
           al_peek(&peer, (const void *)kernel->args[1], length) &&
           format_address(&peer, length, text, size);
}

void
al_kernel_describe(const al_kernel *kernel, int fd, char *text, size_t size)
{
    char path[64];
    *text = '\0';
    if (fd < 0) {
        return;
    }
    /* Not fstat: it asks the file system, which may be what the thread waits for. */
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(path, text, size - 1);
    text[n < 0 ? 0 : n] = '\0';
    if (strncmp(text, "socket:", 7) == 0) {
        if (!describe_peer(kernel, fd, text, size)) {
            (void)snprintf(text, size, "a socket");
        }
    }
    else if (strncmp(text, "pipe:", 5) == 0) {
        (void)snprintf(text, size, "a pipe");
    }
}
