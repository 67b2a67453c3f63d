/* poll.c: libev behind poll.h.
 *
 * - The backend is epoll by name on Linux: libev's io_uring backend only polls
 *   readiness too and costs 20 us an iteration.  Elsewhere libev chooses (kqueue).
 *   The environment is not consulted.  Never libev's default loop and never
 *   ev_signal: both are process-wide, and Python owns the signals.
 * - epoll's timeout is in milliseconds.  On Linux a timerfd carries the deadline; it
 *   is armed anew only when the deadline moves to an earlier time or the armed one has
 *   passed, so a server whose keep-alive timers move at each request makes no system
 *   call for them.  kqueue's timeout is exact: there libev's own timer does it.  On
 *   Linux that one is a net, a little later than the deadline, and takes over for good
 *   when somebody has closed the timerfd.
 * - libev trusts its table of descriptors.  al_io_set goes through ev_io_set, which
 *   makes libev tell the kernel again, since a number can have been closed and reused.
 * - A descriptor that the kernel has no room to watch would be forgotten by libev: see
 *   try_again.
 * - libev ends the process when a system call fails, and by an assertion when epoll_ctl
 *   calls a descriptor bad, be it epoll's own: a mistake of its user, it says.  Here that
 *   is a program's rudeness, and an OSError.  See system_error, check_changes, and
 *   kernel_state_lost.  What is left: a thread that closes a file which the loop watches,
 *   between our look and libev's call, ends the process by the system's libev.  Compiled
 *   in, libev has no assertions, and calls us with EV_ERROR.
 * - With AL_BUNDLED_LIBEV its source is part of this file: nothing to install, nothing
 *   exported, and no other libev in the process is met.  ev.c is included as a system's
 *   header is, without our warnings. */
#include "core/poll.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/stat.h>
#if AL_LINUX
#include <sys/epoll.h>
#include <sys/timerfd.h>
#endif

#include "base/fileid.h"
#include "core/misuse.h"
#include "core/report.h"
#include "core/sched.h"

#ifdef AL_BUNDLED_LIBEV
#define EV_STANDALONE 1 /* no configure has run */
#define EV_API_STATIC 1
#define EV_FEATURES 0x0b /* large and fast code, all functions; the rest by name: */
#define EV_MULTIPLICITY 1
#define EV_FORK_ENABLE 1
#define EV_COMPAT3 0
#define EV_USE_MONOTONIC 1
#define EV_USE_IOURING 0
#if defined(__linux__)
#define EV_USE_EPOLL 1 /* also with musl, for which libev takes select */
#else
#define EV_USE_POLL 1
#if defined(__APPLE__) || defined(__FreeBSD__) || defined(__NetBSD__) ||               \
    defined(__OpenBSD__) || defined(__DragonFly__)
#define EV_USE_KQUEUE 1
#endif
#endif
#ifdef AL_HARD
#define EV_VERIFY 1 /* its tables, but not the numbers that programs close */
#else
#define EV_VERIFY 0
#ifndef NDEBUG
#define NDEBUG 1 /* of libev alone, whose assert.h this includes */
#define AL_HAS_ASSERTIONS 1
#endif
#endif
#include <ev.c>
#ifdef AL_HAS_ASSERTIONS
#undef NDEBUG
#include <assert.h>
#endif
#undef ev_set_priority /* There is one; its macro does nothing, with a warning. */
#define ev_set_priority(watcher, priority) ((void)0)
#define LIBEV_KIND "bundled"
#else
#include <ev.h>
#define LIBEV_KIND "system"
#endif

/* The GIL, where there are other threads; ns. */
enum {
    GIL_KEPT = 20 * 1000,     /* at most so long, if there is a poll */
    WAITED_FOR = 500,         /* giving it up takes longer if somebody waits for it */
    HANDING_OVER = 10 * 1000, /* for which it is then left to him */
    /* A processor that sleeps takes longer to run him.  For so long after he was woken
     * it is left as long as it was kept, in turns between these two, so that he finds it
     * free at one of his first attempts and the loop goes on meanwhile. */
    WAKING = 200 * 1000,
    SHORT_TURN = 4 * 1000,
    LONG_TURN = 100 * 1000,
};

enum { NET = 10 * 1000 * 1000 }; /* ns: so much later than the timerfd */

typedef struct {
    int fd, events;
} poll_event;

struct al_poll {
    struct ev_loop *ev;
    al_loop *loop; /* borrowed: the loop owns us */
    PyThreadState *released;
    size_t tail;         /* of the ready ring when this wait's watchers began to push */
    bool blocking;       /* this wait gives up the GIL */
    bool beside;         /* ... although slots are ready */
    int64_t released_at; /* ns: a poll beside ready slots gave up the GIL ... */
    int64_t left_until;  /* ... and that was over */
    int64_t waking_until; /* ns: a thread that waited for it was woken */
    bool failed;          /* a watcher's callback set an exception */
    al_io *watchers;      /* all that exist; their makers own them */
    int *changed;         /* numbers whose set has changed since the last wait */
    size_t changed_length, changed_capacity;
    bool unnoted;         /* ... and others, that there was no memory to note */
    unsigned int *active; /* by number: how many watchers are started ... */
    al_fileid *files;     /* ... and for which file, when one was set last */
    int active_capacity;
    uint64_t waits;  /* so many times the kernel was told what had changed */
    uint64_t paused; /* the last of them in which it refused, and was given time */
    int64_t gil_wait;
    Py_ssize_t events;
    int error;    /* errno of a system call of libev's that failed in this wait, or 0 */
    ev_fork lost; /* see kernel_state_lost */
    ev_timer timer;  /* the deadline where there is no timerfd, else the net below it */
    poll_event *log; /* NULL: none is kept */
    size_t log_length, log_capacity;
#if AL_LINUX
    int timerfd; /* -1: gone */
    al_fileid timer_file;
    ev_io timer_io;
    int64_t armed; /* absolute ns, 0: disarmed, or expired */
    bool expired;  /* ... and readable until it is armed anew */
    int backend;   /* the number of libev's epoll, or UNKNOWN, or NOT_FOUND */
    al_fileid backend_file;
#endif
};

#if AL_LINUX
enum { UNKNOWN = -1, NOT_FOUND = -2 }; /* `backend` */
#endif

struct al_io {
    ev_io ev;            /* first: libev hands it back */
    al_poll *poll;       /* NULL once that has been freed */
    al_io *next, **prev; /* in the list of the poll */
    al_io_fn ready;
    void *owner;
    uint64_t news; /* poll->waits at the last change */
    bool started;
    bool refused; /* that the kernel would not watch it has been reported */
    bool set;     /* it has been: the number's file is known */
};

int64_t
al_poll_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t
al_poll_coarse_clock(void)
{
#ifdef CLOCK_MONOTONIC_COARSE
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
#else
    return al_poll_clock();
#endif
}

PyObject *
al_poll_version(void)
{
    return PyUnicode_FromFormat("%d.%d " LIBEV_KIND, ev_version_major(),
                                ev_version_minor());
}

/* --- the GIL ------------------------------------------------------------------------ */

/* Whether a poll that does not block gives the GIL up, in the thread that runs the loop:
 * other threads live from that beside a loop which is never idle.  Alone, nothing is
 * paid.  Without a GIL there is nothing to give up. */
static bool
others_wait(al_poll *poll)
{
    if (AL_FREE_THREADED) {
        return false;
    }
    PyThreadState *newest = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
    bool alone = newest == NULL || PyThreadState_Next(newest) == NULL;
    poll->loop->look.seldom = LOOK_SELDOM;
    if (alone || poll->loop->tstate != PyThreadState_Get()) {
        return false;
    }
    int64_t now = al_poll_clock();
    int64_t kept = now < poll->waking_until ? SHORT_TURN : GIL_KEPT;
    poll->loop->look.seldom = kept;
    if (now - poll->released_at < kept) {
        return false;
    }
    poll->released_at = now;
    return true;
}

/* Gives the GIL up beside ready slots.  A thread that waits for it wakes some microseconds
 * later, when a poll would be over and the GIL taken back: it gets time for that.  Whether
 * there is one is not told, but a release that wakes nobody makes no system call. */
static void
hand_over_gil(al_poll *poll)
{
    int64_t began = al_poll_clock();
    poll->released = PyEval_SaveThread();
    int64_t now = al_poll_clock(), released = now;
    int64_t turn = Py_MIN(began - poll->left_until, LONG_TURN);
    if (released - began >= WAITED_FOR) {
        poll->waking_until = released + WAKING;
        turn = Py_MAX(turn, HANDING_OVER);
    }
    while (now < poll->waking_until && now - released < turn) {
        sched_yield(); /* It may be waiting for this very processor. */
        now = al_poll_clock();
    }
    poll->left_until = now;
}

static void wait_no_longer(al_poll *poll);

static void
release_gil(EV_P)
{
    al_poll *poll = ev_userdata(EV_A);
    if (AL_UNLIKELY(ev_pending_count(EV_A) > 0)) {
        wait_no_longer(poll);
    }
    if (poll->beside) {
        hand_over_gil(poll);
    }
    else if (poll->blocking) {
        poll->released = PyEval_SaveThread();
    }
}

static void
acquire_gil(EV_P)
{
    al_poll *poll = ev_userdata(EV_A);
    if (poll->blocking) {
        int64_t began =
            (poll->loop->debug.switches & AL_DEBUG_POLLS) != 0 ? al_poll_clock() : 0;
        poll->loop->taking_gil = true;
        PyEval_RestoreThread(poll->released);
        poll->loop->taking_gil = false;
        poll->gil_wait = began != 0 ? al_poll_clock() - began : 0;
        /* Other threads may have pushed meanwhile: theirs stay in front. */
        poll->tail = poll->loop->ready.tail;
    }
}

/* --- deadlines ---------------------------------------------------------------------- */

/* The wait for libev's own timer is over. */
static void
timeout_over(EV_P_ ev_timer *watcher, int Py_UNUSED(events))
{
    ev_timer_stop(EV_A_ watcher);
#if AL_LINUX
    al_poll *poll = ev_userdata(EV_A);
    poll->armed = 0;
#endif
}

/* Makes libev return after so many seconds of its own time, which is that of its last
 * wait's end. */
static void
start_timeout(al_poll *poll, double seconds)
{
    poll->timer.repeat = seconds;
    ev_timer_again(poll->ev, &poll->timer);
}

#if AL_LINUX
static bool drop_if_closed(al_poll *poll, int fd);

/* Does not close it: the number is closed already, or another file's, and watched for
 * that, perhaps. */
static void
leave_timerfd(al_poll *poll)
{
    ev_io_stop(poll->ev, &poll->timer_io);
    ev_timer_stop(poll->ev, &poll->timer);
    (void)drop_if_closed(poll, poll->timerfd);
    poll->timerfd = -1;
    poll->armed = 0;
}

/* Empties an expired timer as a read would, but not a file that has the number now. */
static void
disarm(al_poll *poll)
{
    const struct itimerspec disarmed = {.it_value = {.tv_sec = 0}};
    if (timerfd_settime(poll->timerfd, 0, &disarmed, NULL) < 0) {
        leave_timerfd(poll);
    }
    poll->expired = false;
}

/* libev has stopped watchers that the kernel refuses, and would wait all the same before
 * it says so. */
static void
wait_no_longer(al_poll *poll)
{
    const struct itimerspec now = {.it_value = {.tv_nsec = 1}};
    if (poll->timerfd >= 0 && timerfd_settime(poll->timerfd, 0, &now, NULL) == 0) {
        poll->armed = 1;
    }
}

/* Most are armed anew next, which empties them too. */
static void
timer_expired(EV_P_ ev_io *watcher, int events)
{
    al_poll *poll = ev_userdata(EV_A);
    if ((events & EV_ERROR) != 0 && al_fileid_is(&poll->timer_file, poll->timerfd)) {
        /* The kernel had no room to watch it. */
        ev_io_set(watcher, poll->timerfd, EV_READ);
        ev_io_start(EV_A_ watcher);
        return;
    }
    if (poll->expired) {
        disarm(poll);
        return;
    }
    poll->expired = true;
    poll->armed = 0;
    ev_timer_stop(EV_A_ & poll->timer);
}

static int
open_timer(al_poll *poll)
{
    poll->timerfd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (poll->timerfd < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    al_fileid_take(&poll->timer_file, poll->timerfd);
    poll->armed = 0;
    poll->expired = false;
    ev_io_init(&poll->timer_io, timer_expired, poll->timerfd, EV_READ);
    ev_io_start(poll->ev, &poll->timer_io);
    return 0;
}

static void
close_timer(al_poll *poll)
{
    int fd = poll->timerfd;
    if (fd >= 0) {
        leave_timerfd(poll);
        al_fileid_close(&poll->timer_file, fd);
    }
    ev_timer_stop(poll->ev, &poll->timer);
}

/* Without a timerfd: as exact as the selector is. */
static void
set_timeout(al_poll *poll, int64_t timeout)
{
    ev_now_update(poll->ev);
    start_timeout(poll, (double)timeout * 1e-9);
}

static void
set_deadline(al_poll *poll, int64_t timeout)
{
    if (AL_UNLIKELY(poll->timerfd < 0)) {
        set_timeout(poll, timeout);
        return;
    }
    int64_t now = al_poll_clock();
    int64_t deadline = timeout < INT64_MAX / 2 - now ? now + timeout : INT64_MAX / 2;
    if (poll->armed != 0 && poll->armed > now && poll->armed <= deadline) {
        return; /* It wakes us early at worst, and is set right then. */
    }
    struct itimerspec spec = {
        .it_value = {.tv_sec = (time_t)(deadline / 1000000000),
                     .tv_nsec = (long)(deadline % 1000000000)},
    };
    if (AL_UNLIKELY(timerfd_settime(poll->timerfd, TFD_TIMER_ABSTIME, &spec, NULL) <
                    0)) {
        leave_timerfd(poll);
        set_timeout(poll, timeout);
        return;
    }
    poll->armed = deadline;
    poll->expired = false;
    int64_t polled_at = poll->loop->look.polled_at;
    int64_t late = deadline - (polled_at != 0 ? polled_at : now) + NET;
    start_timeout(poll, (double)late * 1e-9);
}

static void
set_no_deadline(al_poll *poll)
{
    if (poll->expired) {
        disarm(poll);
    }
}

static void
clear_deadline(al_poll *poll)
{
    if (AL_UNLIKELY(poll->timerfd < 0)) {
        ev_timer_stop(poll->ev, &poll->timer);
    }
}

#else

static int
open_timer(al_poll *Py_UNUSED(poll))
{
    return 0;
}

static void
close_timer(al_poll *poll)
{
    ev_timer_stop(poll->ev, &poll->timer);
}

static void
set_deadline(al_poll *poll, int64_t timeout)
{
    ev_now_update(poll->ev);
    start_timeout(poll, (double)timeout * 1e-9);
}

static void
set_no_deadline(al_poll *Py_UNUSED(poll))
{
}

static void
clear_deadline(al_poll *poll)
{
    ev_timer_stop(poll->ev, &poll->timer);
}

static void
wait_no_longer(al_poll *Py_UNUSED(poll))
{
}
#endif

/* --- what can be watched ------------------------------------------------------------- */

int
al_poll_check(int fd)
{
    struct stat info;
    if (fstat(fd, &info) < 0) {
        return -1;
    }
    if (S_ISSOCK(info.st_mode) || S_ISFIFO(info.st_mode)) {
        return 0;
    }
#if AL_LINUX
    /* Among regular files and devices are some of each kind.  libev does not lend its
     * own descriptor. */
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll >= 0) {
        struct epoll_event nothing = {.events = 0};
        int status = epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &nothing);
        int error = errno;
        close(epoll);
        errno = error;
        return status;
    }
#endif
    if (S_ISREG(info.st_mode) || S_ISDIR(info.st_mode)) {
        errno = EPERM;
        return -1;
    }
    return 0;
}

/* --- descriptors that are gone ----------------------------------------------------------- */

/* Remembers that the set of a number changed. */
static void
note_change(al_poll *poll, int fd)
{
    if (poll->changed_length > 0 && poll->changed[poll->changed_length - 1] == fd) {
        return;
    }
    if (poll->changed_length == poll->changed_capacity) {
        size_t capacity = poll->changed_capacity * 2 + 16;
        int *changed = PyMem_Realloc(poll->changed, capacity * sizeof(int));
        if (changed == NULL) {
            poll->unnoted = true;
            return;
        }
        poll->changed = changed;
        poll->changed_capacity = capacity;
    }
    poll->changed[poll->changed_length++] = fd;
}

/* Makes room for the number in `active`.  0, or -1 with MemoryError. */
static int
reserve_number(al_poll *poll, int fd)
{
    if (fd < poll->active_capacity) {
        return 0;
    }
    int capacity = poll->active_capacity == 0 ? 32 : poll->active_capacity;
    while (capacity <= fd) {
        capacity *= 2;
    }
    unsigned int *active =
        PyMem_Realloc(poll->active, (size_t)capacity * sizeof(*active));
    if (active == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memset(active + poll->active_capacity, 0,
           (size_t)(capacity - poll->active_capacity) * sizeof(*active));
    poll->active = active;
    al_fileid *files = PyMem_Realloc(poll->files, (size_t)capacity * sizeof(*files));
    if (files == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    poll->files = files;
    poll->active_capacity = capacity;
    return 0;
}

/* Whether the number still stands for the file that its watchers are for.  A thread may
 * have the number of a closed one by now, and close it the next moment. */
static bool
is_watched_file(const al_poll *poll, int fd)
{
    return al_fileid_is(&poll->files[fd], fd);
}

/* A watcher's maker says that the number stands for its file. */
static void
take_file(al_io *io)
{
    al_fileid *file = &io->poll->files[io->ev.fd];
    *file = (al_fileid){.inode = 0}; /* of none */
    al_fileid_take(file, io->ev.fd);
    io->set = true;
}

static void
start(al_io *io)
{
    ev_io_start(io->poll->ev, &io->ev);
    io->started = true;
    io->news = io->poll->waits;
    io->poll->loop->look.watchers++;
    al_look_expect(&io->poll->loop->look);
    io->poll->active[io->ev.fd]++;
    note_change(io->poll, io->ev.fd);
}

static void
stop(al_io *io)
{
    if (io->started) {
        ev_io_stop(io->poll->ev, &io->ev);
        io->started = false;
        io->poll->loop->look.watchers--;
        al_look_expect(&io->poll->loop->look); /* it is likely to be closed next */
        /* libev tells the kernel of what is left for the number, if anything. */
        if (--io->poll->active[io->ev.fd] > 0) {
            note_change(io->poll, io->ev.fd);
        }
    }
}

/* Stops the watchers of the number if their file is gone from it.  Says whether somebody
 * watches it still. */
static bool
drop_if_closed(al_poll *poll, int fd)
{
    if (fd >= poll->active_capacity || poll->active[fd] == 0) {
        return false;
    }
    if (AL_LIKELY(is_watched_file(poll, fd))) {
        return true;
    }
    for (al_io *io = poll->watchers; io != NULL; io = io->next) {
        if (io->ev.fd == fd) {
            stop(io);
        }
    }
    al_misuse_lost_fd(poll->loop, fd);
    return false;
}

/* Stops the watchers of all descriptors that are gone. */
static void
drop_all_closed(al_poll *poll)
{
    for (al_io *io = poll->watchers; io != NULL; io = io->next) {
        if (io->started && !is_watched_file(poll, io->ev.fd)) {
            stop(io);
            al_misuse_lost_fd(poll->loop, io->ev.fd);
        }
    }
    poll->unnoted = false;
}

/* The same of the numbers whose set has changed; asyncio's selector has forgotten a closed
 * descriptor by then and says nothing.  Numbers that nobody watches any more cost nothing
 * here: connections close all the time.  False: there is nothing for libev to do. */
static bool
drop_closed(al_poll *poll)
{
    bool work = poll->unnoted;
    for (size_t i = 0; i < poll->changed_length; i++) {
        work = drop_if_closed(poll, poll->changed[i]) || work;
    }
    poll->changed_length = 0;
    if (AL_UNLIKELY(poll->unnoted)) {
        drop_all_closed(poll);
    }
    return work;
}

/* --- libev's own descriptor -------------------------------------------------------------- */

#if AL_LINUX
/* Whether `number` is the epoll that watches the timerfd, which is in no other.  Only such
 * a one says that it is there already; another one loses it again at once. */
static bool
watches_timer(const al_poll *poll, int number)
{
    struct epoll_event nothing = {.events = 0};
    if (epoll_ctl(number, EPOLL_CTL_ADD, poll->timerfd, &nothing) == 0) {
        (void)epoll_ctl(number, EPOLL_CTL_DEL, poll->timerfd, &nothing);
        return false;
    }
    return errno == EEXIST;
}

#ifdef AL_BUNDLED_LIBEV
static void
find_backend(al_poll *poll)
{
    poll->backend = poll->ev->backend_fd < 0 ? NOT_FOUND : poll->ev->backend_fd;
    if (poll->backend >= 0) {
        al_fileid_take(&poll->backend_file, poll->backend);
    }
}
#else
/* The system's libev does not tell its descriptor.  It was opened right before the timerfd,
 * or got the least free number later. */
static void
find_backend(al_poll *poll)
{
    enum { REACH = 1024 };
    poll->backend = NOT_FOUND;
    if (poll->timerfd < 0) {
        return;
    }
    for (int distance = 1; distance <= REACH && poll->backend < 0; distance++) {
        for (int sign = -1; sign <= 1; sign += 2) {
            int number = poll->timerfd + sign * distance;
            if (number >= 0 && watches_timer(poll, number)) {
                poll->backend = number;
                al_fileid_take(&poll->backend_file, number);
                break;
            }
        }
    }
}
#endif

static int
check_backend_slowly(al_poll *poll)
{
    if (poll->timerfd >= 0 && !al_fileid_is(&poll->timer_file, poll->timerfd)) {
        leave_timerfd(poll);
    }
    if (poll->backend == UNKNOWN) {
        find_backend(poll);
    }
    if (poll->backend < 0 || al_fileid_is(&poll->backend_file, poll->backend)) {
        return 0; /* As far as can be told. */
    }
    errno = fcntl(poll->backend, F_GETFD) < 0 ? EBADF : EINVAL;
    return -1;
}

/* Whether libev may call epoll_ctl: 0, or -1 with errno. */
static int
check_backend(al_poll *poll)
{
    return AL_LIKELY(watches_timer(poll, poll->backend)) ? 0
                                                         : check_backend_slowly(poll);
}

/* Whether libev's number has gone to another file. */
static bool
backend_is_strangers(al_poll *poll)
{
    if (poll->backend == UNKNOWN) {
        find_backend(poll);
    }
    return poll->backend >= 0 && fcntl(poll->backend, F_GETFD) >= 0 &&
           !al_fileid_is(&poll->backend_file, poll->backend);
}

static void
forget_backend(al_poll *poll)
{
    poll->backend = UNKNOWN;
}
#else
static int
check_backend(al_poll *Py_UNUSED(poll))
{
    return 0; /* kqueue's errors are reported. */
}

static bool
backend_is_strangers(al_poll *Py_UNUSED(poll))
{
    return false;
}

static void
forget_backend(al_poll *Py_UNUSED(poll))
{
}
#endif

/* A wait has changes for libev to tell the kernel.  0, or -1 with errno. */
static int
check_changes(al_poll *poll)
{
    return drop_closed(poll) ? check_backend(poll) : 0;
}

/* libev is about to make its kernel object anew, after a fork or because the old one told
 * of a file that libev knows nothing of, and to tell it of every number that is watched. */
static void
kernel_state_lost(EV_P_ ev_fork *Py_UNUSED(watcher), int Py_UNUSED(events))
{
    al_poll *poll = ev_userdata(EV_A);
#if AL_LINUX
    if (poll->timerfd >= 0 && !al_fileid_is(&poll->timer_file, poll->timerfd)) {
        leave_timerfd(poll);
    }
#endif
    al_fds_forget_idle(poll->loop);
    drop_all_closed(poll);
    forget_backend(poll);
}

/* The poll whose libev runs in this thread: libev's function for errors is one for all of
 * the process, and has no argument. */
static _Thread_local al_poll *running;

/* A system call of libev's has failed.  If this returns, libev goes on, or tries again
 * where it cannot: it needs an epoll, and gets the timerfd's descriptor for it. */
static void
system_error(const char *message)
{
    al_poll *poll = running;
    if (poll == NULL) {
        perror(message); /* Another user of libev: what libev does itself. */
        abort();
    }
    int error = errno;
    if (strstr(message, "epoll_create") == NULL) {
        poll->error = error;
        return;
    }
    close_timer(poll);
    const struct timespec pause = {.tv_nsec = 1000 * 1000};
    nanosleep(&pause, NULL);
}

void
al_poll_init(void)
{
    ev_set_syserr_cb(system_error);
}

/* libev's ev_run.  0, or -1 with an exception. */
static int
run(al_poll *poll, int flags)
{
    al_ring *ready = &poll->loop->ready;
    poll->tail = ready->tail;
    poll->failed = false;
    poll->error = 0;
    poll->waits++;
    running = poll;
    ev_run(poll->ev, flags);
    running = NULL;
#ifdef AL_HARD
    ev_verify(poll->ev);
#endif
    al_ring_reverse_tail(ready, ready->tail - poll->tail);
    if (AL_UNLIKELY(poll->error != 0 && !poll->failed)) {
        errno = poll->error;
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    return poll->failed ? -1 : 0;
}

/* --- life cycle ----------------------------------------------------------------------- */

al_poll *
al_poll_new(al_loop *loop)
{
    al_poll *poll = PyMem_Calloc(1, sizeof(*poll));
    if (poll == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    poll->loop = loop;
#if AL_LINUX
    poll->timerfd = -1;
#endif
    unsigned int flags = EVFLAG_NOENV;
#ifdef EVFLAG_NOTIMERFD
    flags |= EVFLAG_NOTIMERFD;
#endif
#ifdef __linux__
    flags |= EVBACKEND_EPOLL;
#endif
    errno = 0;
    poll->ev = ev_loop_new(flags);
    if (poll->ev == NULL) {
        if (errno != 0) {
            PyErr_SetFromErrno(PyExc_OSError);
        }
        else {
            PyErr_SetString(PyExc_OSError, "libev has no usable backend");
        }
        PyMem_Free(poll);
        return NULL;
    }
    ev_set_userdata(poll->ev, poll);
    ev_set_loop_release_cb(poll->ev, release_gil, acquire_gil);
    ev_init(&poll->timer, timeout_over);
    ev_fork_init(&poll->lost, kernel_state_lost);
    ev_fork_start(poll->ev, &poll->lost);
    forget_backend(poll);
    /* The run tells epoll of the timer, by which it is found. */
    if (open_timer(poll) < 0 || run(poll, EVRUN_NOWAIT) < 0) {
        al_poll_free(poll);
        return NULL;
    }
    return poll;
}

void
al_poll_free(al_poll *poll)
{
    for (al_io *io = poll->watchers; io != NULL; io = io->next) {
        ev_io_stop(poll->ev, &io->ev);
        io->started = false;
        io->poll = NULL; /* Its maker lives on: a transport of a closed loop. */
    }
    bool strangers = backend_is_strangers(poll);
    close_timer(poll);
    ev_fork_stop(poll->ev, &poll->lost);
    /* Its memory is left rather than a stranger's file closed. */
    if (!strangers) {
        ev_loop_destroy(poll->ev);
    }
    PyMem_Free(poll->log);
    PyMem_Free(poll->changed);
    PyMem_Free(poll->active);
    PyMem_Free(poll->files);
    PyMem_Free(poll);
}

int
al_poll_fork(al_poll *poll)
{
    if (backend_is_strangers(poll)) {
        errno = EBADF; /* libev would close the number. */
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    poll->blocking = poll->beside = false;
    close_timer(poll);
    forget_backend(poll);
    drop_all_closed(poll);
    /* libev closes its number in the first run: nothing may have taken it until then.  The
     * second one tells epoll of the timer.  Events are for the wait that follows. */
    for (al_io *io = poll->watchers; io != NULL; io = io->next) {
        ev_io_stop(poll->ev, &io->ev);
    }
    ev_loop_fork(poll->ev);
    int status = run(poll, EVRUN_NOWAIT);
    if (status == 0 && (status = open_timer(poll)) == 0) {
        status = run(poll, EVRUN_NOWAIT);
    }
    for (al_io *io = poll->watchers; io != NULL; io = io->next) {
        if (io->started) {
            ev_io_start(poll->ev, &io->ev);
            io->news = poll->waits;
            note_change(poll, io->ev.fd);
        }
    }
    return status;
}

int
al_poll_wait(al_poll *poll, int64_t timeout)
{
    poll->beside = timeout == 0 && others_wait(poll);
    poll->blocking = timeout != 0 || poll->beside;
    poll->gil_wait = 0;
    poll->events = 0;
    poll->log_length = 0;
    if ((poll->changed_length > 0 || AL_UNLIKELY(poll->unnoted)) &&
        AL_UNLIKELY(check_changes(poll) < 0)) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    if (timeout > 0) {
        set_deadline(poll, timeout);
    }
    else if (timeout < 0) {
        set_no_deadline(poll);
    }
    int status = run(poll, timeout == 0 ? EVRUN_NOWAIT : EVRUN_ONCE);
    if (timeout > 0) {
        clear_deadline(poll);
    }
    return status;
}

int64_t
al_poll_gil_wait(const al_poll *poll)
{
    return poll->gil_wait;
}

Py_ssize_t
al_poll_events(const al_poll *poll)
{
    return poll->events;
}

/* --- watchers ------------------------------------------------------------------------- */

int
al_poll_keep_log(al_poll *poll, bool keep)
{
    enum { START = 64 };
    if (!keep) {
        PyMem_Free(poll->log);
        poll->log = NULL;
        poll->log_capacity = poll->log_length = 0;
    }
    else if (poll->log == NULL) {
        poll->log = PyMem_New(poll_event, START);
        if (poll->log == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        poll->log_capacity = START;
    }
    return 0;
}

bool
al_poll_logged(const al_poll *poll, size_t i, int *fd, int *events)
{
    if (i >= poll->log_length) {
        return false;
    }
    *fd = poll->log[i].fd;
    *events = poll->log[i].events;
    return true;
}

/* Without memory for more, some events go unlogged. */
static void
log_event(al_poll *poll, int fd, int events)
{
    if (poll->log_length == poll->log_capacity) {
        poll_event *log =
            PyMem_Realloc(poll->log, 2 * poll->log_capacity * sizeof(*log));
        if (log == NULL) {
            return;
        }
        poll->log = log;
        poll->log_capacity *= 2;
    }
    poll->log[poll->log_length++] = (poll_event){fd, events};
}

/* Why the kernel does not watch an open descriptor, an errno value: no memory, or as many
 * are watched as a user may have (fs.epoll.max_user_watches); 0: now it would. */
static int
why_refused(const al_poll *poll, int fd)
{
#if AL_LINUX
    struct epoll_event nothing = {.events = 0};
    if (poll->backend < 0) {
        return ENOSPC;
    }
    if (epoll_ctl(poll->backend, EPOLL_CTL_ADD, fd, &nothing) == 0) {
        (void)epoll_ctl(poll->backend, EPOLL_CTL_DEL, fd, &nothing);
        return 0;
    }
    return errno == EEXIST ? 0 : errno;
#else
    (void)poll;
    (void)fd;
    return ENOMEM; /* It is not told. */
#endif
}

/* An al_run_fn: the number, and the OSError. */
static int
tell_refused(al_loop *loop, PyObject *number, PyObject *exc, PyObject *Py_UNUSED(extra))
{
    PyObject *message =
        PyUnicode_FromFormat("File descriptor %S cannot be watched yet", number);
    return al_report_context(loop->st, (PyObject *)loop, message, "exception", exc,
                             NULL);
}

/* 0 or -1. */
static int
push_refused(al_poll *poll, int fd, int error)
{
    errno = error;
    PyErr_SetFromErrno(PyExc_OSError);
    PyObject *exc = al_err_take();
    PyObject *number = PyLong_FromLong(fd);
    if (number == NULL) {
        Py_XDECREF(exc);
        return -1;
    }
    return al_sched_push_steal(poll->loop, tell_refused, number, exc, NULL);
}

/* libev has stopped the watcher, as it does when the kernel refuses.  The loop asks again
 * until there is room, and says so once. */
static void
try_again(al_poll *poll, al_io *io)
{
    int error = why_refused(poll, io->ev.fd);
    if (error != 0 && poll->paused != poll->waits) { /* once in a wait */
        const struct timespec pause = {.tv_nsec = 1000 * 1000};
        nanosleep(&pause, NULL);
        poll->paused = poll->waits;
    }
    if (error != 0 && !io->refused) {
        io->refused = true;
        if (push_refused(poll, io->ev.fd, error) < 0) {
            poll->failed = true;
        }
    }
    /* Without ev_io_set libev would believe that the kernel knows. */
    ev_io_set(&io->ev, io->ev.fd, io->ev.events & (EV_READ | EV_WRITE));
    ev_io_start(poll->ev, &io->ev);
    note_change(poll, io->ev.fd);
}

static void
io_ready(EV_P_ ev_io *watcher, int revents)
{
    al_io *io = (al_io *)watcher;
    al_poll *poll = ev_userdata(EV_A);
    int events = 0;
    if (revents & EV_ERROR) {
        if (is_watched_file(poll, io->ev.fd)) {
            try_again(poll, io);
            return;
        }
        /* The descriptor was closed under the watcher, and libev has stopped it: as in
         * drop_closed. */
        stop(io);
        al_misuse_lost_fd(poll->loop, io->ev.fd);
        return;
    }
    poll->events++;
    events |= revents & EV_READ ? AL_READ : 0;
    events |= revents & EV_WRITE ? AL_WRITE : 0;
    if (AL_UNLIKELY(poll->log != NULL)) {
        log_event(poll, io->ev.fd, events);
    }
    if (io->ready(poll->loop, io->owner, events) < 0) {
        poll->failed = true;
    }
}

/* The same on a loop with faults. */
static void
io_ready_or_late(EV_P_ ev_io *watcher, int revents)
{
    al_io *io = (al_io *)watcher;
    al_poll *poll = ev_userdata(EV_A);
    if ((revents & EV_ERROR) == 0 && al_faults_hold_back(poll->loop, io->ev.fd)) {
        ev_io_stop(EV_A_ watcher); /* It is `started` all the same. */
        note_change(poll, io->ev.fd);
        return;
    }
    io_ready(EV_A_ watcher, revents);
}

void
al_poll_have_faults(al_poll *poll)
{
    for (al_io *io = poll->watchers; io != NULL; io = io->next) {
        ev_set_cb(&io->ev, io_ready_or_late);
    }
    al_poll_resume(poll); /* The faults before may have held events back. */
}

void
al_poll_resume(al_poll *poll)
{
    for (al_io *io = poll->watchers; io != NULL; io = io->next) {
        if (io->started && !ev_is_active(&io->ev)) {
            ev_io_start(poll->ev, &io->ev);
            io->news = poll->waits;
            note_change(poll, io->ev.fd);
        }
    }
}

al_io *
al_io_new(al_poll *poll, int fd, al_io_fn ready, void *owner)
{
    if (poll == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
        return NULL;
    }
    if (reserve_number(poll, fd) < 0) {
        return NULL;
    }
    al_io *io = PyMem_New(al_io, 1);
    if (io == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    io->started = io->refused = io->set = false;
    io->news = 0;
    ev_io_init(&io->ev, poll->loop->faults == NULL ? io_ready : io_ready_or_late, fd,
               0);
    io->poll = poll;
    io->ready = ready;
    io->owner = owner;
    io->next = poll->watchers;
    io->prev = &poll->watchers;
    if (io->next != NULL) {
        io->next->prev = &io->next;
    }
    poll->watchers = io;
    return io;
}

bool
al_io_is_alone(const al_io *io)
{
    return io->poll == NULL || io->poll->active[io->ev.fd] <= 1;
}

void
al_io_set(al_io *io, int events)
{
    int fd = io->ev.fd;
    if (io->poll == NULL) {
        return;
    }
    stop(io);
    if (events != 0) {
        take_file(io);
        ev_io_set(
            &io->ev, fd,
            (events & AL_READ ? EV_READ : 0) | (events & AL_WRITE ? EV_WRITE : 0));
        start(io);
    }
}

void
al_io_modify(al_io *io, int events)
{
#ifdef ev_io_modify
    if (io->poll == NULL) {
        return;
    }
    stop(io);
    if (events != 0) {
        if (!io->set) {
            take_file(io);
        }
        ev_io_modify(&io->ev, (events & AL_READ ? EV_READ : 0) |
                                  (events & AL_WRITE ? EV_WRITE : 0));
        start(io);
    }
#else
    al_io_set(io, events); /* libev before 4.32 */
#endif
}

void
al_io_free(al_io *io)
{
    if (io->poll != NULL) {
        stop(io);
        *io->prev = io->next;
        if (io->next != NULL) {
            io->next->prev = io->prev;
        }
    }
    PyMem_Free(io);
}

bool
al_io_is_news(const al_io *io)
{
    return io->started && io->poll != NULL && io->news == io->poll->waits;
}
