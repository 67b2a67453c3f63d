/* poll.c: libev behind poll.h.
 *
 * - The backend is epoll by name on Linux: libev's io_uring backend only polls
 *   readiness too and costs 20 us an iteration.  Elsewhere libev chooses (kqueue).
 *   The environment is not consulted.  Never libev's default loop and never
 *   ev_signal: both are process-wide, and Python owns the signals.
 * - epoll's timeout is in milliseconds.  On Linux a timerfd carries the deadline; it
 *   is armed anew only when the deadline moves to an earlier time or the armed one has
 *   passed, so a server whose keep-alive timers move at each request makes no system
 *   call for them.  kqueue's timeout is exact: there libev's own timer does it.
 * - libev trusts its table of descriptors.  al_io_set goes through ev_io_set, which
 *   makes libev tell the kernel again, since a number can have been closed and reused.
 */
#include "core/poll.h"

#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>
#include <sys/stat.h>
#if AL_LINUX
#include <sys/epoll.h>
#include <sys/timerfd.h>
#endif

#include "core/sched.h"

/* The GIL, where there are other threads; ns. */
enum {
    GIL_KEPT = 20 * 1000,     /* at most so long, if there is a poll */
    WAKING = 500,             /* giving it up takes longer if somebody waits for it */
    HANDING_OVER = 10 * 1000, /* for which it is then left to him */
};

struct al_poll {
    struct ev_loop *ev;
    al_loop *loop; /* borrowed: the loop owns us */
    PyThreadState *released;
    size_t tail;         /* of the ready ring when this wait's watchers began to push */
    bool blocking;       /* this wait gives up the GIL */
    bool beside;         /* ... although slots are ready */
    int64_t released_at; /* ns: a poll beside ready slots gave up the GIL */
    bool failed;         /* a watcher's callback set an exception */
    al_io *watchers;     /* all that exist; their makers own them */
    int *changed;        /* numbers whose set has changed since the last wait */
    size_t changed_length, changed_capacity;
    unsigned int *active; /* by number: how many watchers are started */
    int active_capacity;
    ev_fork lost;   /* see kernel_state_lost */
    uint64_t waits; /* so many times the kernel was told what had changed */
    int64_t gil_wait;
    Py_ssize_t events;
#if AL_LINUX
    int timerfd;
    ev_io timer_io;
    int64_t armed; /* absolute ns, 0: disarmed */
#else
    ev_timer timer;
#endif
};

struct al_io {
    ev_io ev;            /* first: libev hands it back */
    al_poll *poll;       /* NULL once that has been freed */
    al_io *next, **prev; /* in the list of the poll */
    al_io_fn ready;
    void *owner;
    uint64_t news; /* poll->waits at the last change */
    bool started;
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
    return PyUnicode_FromFormat("%d.%d", ev_version_major(), ev_version_minor());
}

/* --- the GIL ------------------------------------------------------------------------ */

/* Whether a poll that does not block gives the GIL up, in the thread that runs the loop:
 * other threads live from that beside a loop which is never idle.  Alone, nothing is
 * paid. */
static bool
others_wait(al_poll *poll)
{
    PyThreadState *newest = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
    bool alone = newest == NULL || PyThreadState_Next(newest) == NULL;
    poll->loop->look.seldom = alone ? LOOK_SELDOM : GIL_KEPT;
    if (alone || poll->loop->tstate != PyThreadState_Get()) {
        return false;
    }
    int64_t now = al_poll_clock();
    if (now - poll->released_at < GIL_KEPT) {
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
    int64_t released = al_poll_clock();
    if (released - began < WAKING) {
        return;
    }
    int64_t now;
    do {
        sched_yield(); /* It may be waiting for this very processor. */
        now = al_poll_clock();
    } while (now - released < HANDING_OVER);
}

static void
release_gil(EV_P)
{
    al_poll *poll = ev_userdata(EV_A);
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
        int64_t began = (poll->loop->debug.switches & AL_DEBUG_SLOW_SELECTOR) != 0
                            ? al_poll_clock()
                            : 0;
        PyEval_RestoreThread(poll->released);
        poll->gil_wait = began != 0 ? al_poll_clock() - began : 0;
        /* Other threads may have pushed meanwhile: theirs stay in front. */
        poll->tail = poll->loop->ready.tail;
    }
}

/* --- deadlines ---------------------------------------------------------------------- */

#if AL_LINUX
static void
timer_expired(EV_P_ ev_io *watcher, int Py_UNUSED(events))
{
    al_poll *poll = ev_userdata(EV_A);
    uint64_t count;
    while (read(watcher->fd, &count, sizeof(count)) < 0 && errno == EINTR) {
    }
    poll->armed = 0;
}

static int
open_timer(al_poll *poll)
{
    poll->timerfd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (poll->timerfd < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    poll->armed = 0;
    ev_io_init(&poll->timer_io, timer_expired, poll->timerfd, EV_READ);
    ev_io_start(poll->ev, &poll->timer_io);
    return 0;
}

static void
close_timer(al_poll *poll)
{
    if (poll->timerfd >= 0) {
        ev_io_stop(poll->ev, &poll->timer_io);
        close(poll->timerfd);
        poll->timerfd = -1;
    }
}

static void
set_deadline(al_poll *poll, int64_t timeout)
{
    int64_t now = al_poll_clock();
    int64_t deadline = timeout < INT64_MAX / 2 - now ? now + timeout : INT64_MAX / 2;
    if (poll->armed != 0 && poll->armed > now && poll->armed <= deadline) {
        return; /* It wakes us early at worst, and is set right then. */
    }
    struct itimerspec spec = {
        .it_value = {.tv_sec = (time_t)(deadline / 1000000000),
                     .tv_nsec = (long)(deadline % 1000000000)},
    };
    if (timerfd_settime(poll->timerfd, TFD_TIMER_ABSTIME, &spec, NULL) == 0) {
        poll->armed = deadline;
    }
}

static void
clear_deadline(al_poll *Py_UNUSED(poll))
{
}

#else

static void
timer_expired(struct ev_loop *Py_UNUSED(ev), ev_timer *Py_UNUSED(watcher),
              int Py_UNUSED(events))
{
}

static int
open_timer(al_poll *poll)
{
    ev_timer_init(&poll->timer, timer_expired, 0., 0.);
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
    ev_timer_stop(poll->ev, &poll->timer);
    ev_timer_set(&poll->timer, (double)timeout * 1e-9, 0.);
    ev_timer_start(poll->ev, &poll->timer);
}

static void
clear_deadline(al_poll *poll)
{
    ev_timer_stop(poll->ev, &poll->timer);
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
            return; /* This one goes unchecked. */
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
    poll->active_capacity = capacity;
    return 0;
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
        /* libev tells the kernel of what is left for the number, if anything. */
        if (--io->poll->active[io->ev.fd] > 0) {
            note_change(io->poll, io->ev.fd);
        }
    }
}

/* Stops the watchers of a number that stands for no file. */
static void
drop_if_closed(al_poll *poll, int fd)
{
    if (poll->active[fd] == 0 || fcntl(fd, F_GETFD) >= 0) {
        return;
    }
    for (al_io *io = poll->watchers; io != NULL; io = io->next) {
        if (io->ev.fd == fd) {
            stop(io);
        }
    }
}

/* The same of descriptors that were closed after they were set.  libev calls that a
 * mistake of its user and ends the process (where it is built with assertions);
 * asyncio's selector has forgotten the descriptor by then and says nothing.  Numbers
 * that nobody watches any more cost nothing here: connections close all the time. */
static void
drop_closed(al_poll *poll)
{
    for (size_t i = 0; i < poll->changed_length; i++) {
        drop_if_closed(poll, poll->changed[i]);
    }
    poll->changed_length = 0;
}

/* libev is about to make its kernel object anew, after a fork or because the old one told
 * of a file that libev knows nothing of, and to tell it of every number that is watched. */
static void
kernel_state_lost(EV_P_ ev_fork *Py_UNUSED(watcher), int Py_UNUSED(events))
{
    al_poll *poll = ev_userdata(EV_A);
    al_fds_forget_idle(poll->loop);
    for (int fd = 0; fd < poll->active_capacity; fd++) {
        drop_if_closed(poll, fd);
    }
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
    ev_fork_init(&poll->lost, kernel_state_lost);
    ev_fork_start(poll->ev, &poll->lost);
    if (open_timer(poll) < 0) {
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
    close_timer(poll);
    ev_fork_stop(poll->ev, &poll->lost);
    ev_loop_destroy(poll->ev);
    PyMem_Free(poll->changed);
    PyMem_Free(poll->active);
    PyMem_Free(poll);
}

int
al_poll_fork(al_poll *poll)
{
    close_timer(poll);
    ev_loop_fork(poll->ev);
    return open_timer(poll);
}

int
al_poll_wait(al_poll *poll, int64_t timeout)
{
    al_ring *ready = &poll->loop->ready;
    poll->tail = ready->tail;
    poll->beside = timeout == 0 && others_wait(poll);
    poll->blocking = timeout != 0 || poll->beside;
    poll->failed = false;
    poll->gil_wait = 0;
    poll->events = 0;
    if (timeout > 0) {
        set_deadline(poll, timeout);
    }
    if (poll->changed_length > 0) {
        drop_closed(poll);
    }
    poll->waits++;
    ev_run(poll->ev, timeout == 0 ? EVRUN_NOWAIT : EVRUN_ONCE);
    if (timeout > 0) {
        clear_deadline(poll);
    }
    al_ring_reverse_tail(ready, ready->tail - poll->tail);
    return poll->failed ? -1 : 0;
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

static void
io_ready(EV_P_ ev_io *watcher, int revents)
{
    al_io *io = (al_io *)watcher;
    al_poll *poll = ev_userdata(EV_A);
    int events = 0;
    if (revents & EV_ERROR) {
        /* The descriptor was closed under the watcher, and libev has stopped it: as in
         * drop_closed. */
        stop(io);
        return;
    }
    poll->events++;
    events |= revents & EV_READ ? AL_READ : 0;
    events |= revents & EV_WRITE ? AL_WRITE : 0;
    if (io->ready(poll->loop, io->owner, events) < 0) {
        poll->failed = true;
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
    io->started = false;
    io->news = 0;
    ev_io_init(&io->ev, io_ready, fd, 0);
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

void
al_io_set(al_io *io, int events)
{
    int fd = io->ev.fd;
    if (io->poll == NULL) {
        return;
    }
    stop(io);
    if (events != 0) {
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
