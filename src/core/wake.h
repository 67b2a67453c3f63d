/* wake.h: waking the selector from another thread or from a signal.
 *
 * One non-blocking pipe.  A thread that schedules while the loop is blocked in the
 * selector writes a zero byte, at most one per poll; CPython's C signal handler writes
 * the number of the signal into the same pipe (signal.set_wakeup_fd).  Whoever pushes
 * holds the GIL, so the ready ring itself needs no lock; without a GIL others push into
 * the inbox (inbox.h), under the lock that guards `blocked` here. */
#ifndef AL_CORE_WAKE_H
#define AL_CORE_WAKE_H

#include "base/fileid.h"
#include "base/threads.h"
#include "core/poll.h"

typedef struct {
    int read_fd, write_fd;
    al_fileid file; /* of both */
    al_io *io;
    al_lock lock;
    bool blocked;  /* the loop's thread is, or is about to be, inside the selector */
    bool sent;     /* a zero byte is in the pipe */
    bool readable; /* the pipe has something to read */
} al_wake;

struct al_loop;

/* 0, or -1 with OSError. */
int al_wake_open(struct al_loop *loop);
void al_wake_close(al_wake *wake);
/* Gives a fork's child a pipe of its own.  0, or -1 with OSError. */
int al_wake_fork(struct al_loop *loop);

/* Makes a blocked selector return.  Safe from any thread of Python's. */
void al_wake_up(struct al_loop *loop);
/* The same, with the lock. */
void al_wake_locked(struct al_loop *loop);

/* After a poll: empties the pipe and hands each signal number to the loop's
 * _handle_signal.  0, or -1 with an exception. */
int al_wake_drain(struct al_loop *loop);

#endif
