/* poll.h: our selector.  poll.c is the only file that knows libev.
 *
 * A watcher (al_io) belongs to its maker; its callback runs with the GIL held, inside
 * al_poll_wait, and may do nothing but push slots: libev invokes events last in first
 * out, and Python code started from there would see I/O in reverse.  al_poll_wait puts
 * what was pushed back into the kernel's order. */
#ifndef AL_CORE_POLL_H
#define AL_CORE_POLL_H

#include "base/py.h"

struct al_loop;

enum { AL_READ = 1, AL_WRITE = 2 };

typedef struct al_poll al_poll;
typedef struct al_io al_io;

/* What happened to a watched descriptor: `events` is AL_READ | AL_WRITE.  Pushes
 * slots; -1 with MemoryError makes al_poll_wait fail. */
typedef int (*al_io_fn)(struct al_loop *loop, void *owner, int events);

/* A selector for the loop, or NULL with an exception. */
al_poll *al_poll_new(struct al_loop *loop);
void al_poll_free(al_poll *poll);

/* Waits for events: timeout in nanoseconds, 0 to look only, below 0 for ever.  The GIL
 * is released only when it may block.  It may return early, also for a signal.
 * 0, or -1 with an exception. */
int al_poll_wait(al_poll *poll, int64_t timeout);

/* Keeps from now on, or no longer, what each wait found: 0, or -1 with MemoryError. */
int al_poll_keep_log(al_poll *poll, bool keep);
/* What the last wait found: the i-th descriptor and its events; false past the end. */
bool al_poll_logged(const al_poll *poll, size_t i, int *fd, int *events);

/* The loop has faults: from now on al_faults_hold_back is asked about each event. */
void al_poll_have_faults(al_poll *poll);
/* Watches again for what al_faults_hold_back said to wait with. */
void al_poll_resume(al_poll *poll);

/* In debug mode: nanoseconds that the last wait spent on getting the GIL back, and how
 * many descriptors were ready. */
int64_t al_poll_gil_wait(const al_poll *poll);
Py_ssize_t al_poll_events(const al_poll *poll);

/* The process is a fork's child: stop sharing the kernel's objects with the parent.
 * 0, or -1 with OSError. */
int al_poll_fork(al_poll *poll);

/* Whether the kernel watches files of this kind: 0, or -1 with errno (EPERM: it does
 * not).  libev takes any file for a ready one. */
int al_poll_check(int fd);

/* A stopped watcher for fd, or NULL with MemoryError, or with RuntimeError if `poll` is
 * NULL, as a closed loop's.  Its maker frees it, before or after the selector goes; once
 * that has gone the watcher does nothing. */
al_io *al_io_new(al_poll *poll, int fd, al_io_fn ready, void *owner);
/* Watches for `events` from now on (0: stop).  The kernel is told again even if the
 * set did not change, because the number may stand for another file by now. */
void al_io_set(al_io *io, int events);
/* The same for a number that stands for the file it stood for before: no system call if
 * the set is back to what it was by the next poll. */
void al_io_modify(al_io *io, int events);
void al_io_free(al_io *io);
/* Whether the kernel has yet to be told what is watched for. */
bool al_io_is_news(const al_io *io);
/* Whether no other started watcher has the number. */
bool al_io_is_alone(const al_io *io);

/* CLOCK_MONOTONIC in nanoseconds. */
int64_t al_poll_clock(void);
/* The same as of the kernel's last tick, at an eighth of the price. */
int64_t al_poll_coarse_clock(void);

/* libev's version and whose it is: "4.33 bundled", a part of this module, or "4.33
 * system". */
PyObject *al_poll_version(void);
/* Has libev tell us of its errors. */
void al_poll_init(void);

#endif
