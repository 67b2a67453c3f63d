/* fds.h: who waits for a file descriptor: add_reader, add_writer, sock_* operations.
 *
 * A table by descriptor number.  An entry owns its watcher and up to two waiters, one
 * that reads and one that writes; the descriptor itself stays its caller's.  An event
 * queues the waiters, readers before writers, as asyncio's selector loop does.
 *
 * There are two kinds of waiters.  One that stays (the Handle of add_reader or add_writer,
 * a pipe) does so until it is removed; a Handle that was cancelled goes with the next
 * event.  Any other waiter (an operation) is taken out by the event that wakes it; the
 * watcher stays registered for reading then, so that a steady recv/send loop makes no
 * epoll_ctl, and an event that finds nobody waiting unregisters it.
 *
 * A number may stand for another file by the time somebody waits again.  For a Handle
 * the kernel is always told anew.  For the others the entry remembers, by weak
 * reference, the socket object for which the kernel was told: a socket object has one
 * descriptor in its life. */
#ifndef AL_CORE_FDS_H
#define AL_CORE_FDS_H

#include "base/ring.h"
#include "core/handle.h"
#include "core/poll.h"

typedef struct {
    al_run_fn run;  /* what an event queues; NULL: nobody waits */
    PyObject *self; /* owned */
    bool stays;     /* when an event has come */
} al_waiter;

typedef struct al_fd {
    struct al_loop *loop; /* borrowed */
    al_io *io;            /* NULL: nobody has waited yet */
    al_waiter reader, writer;
    PyObject *file;      /* owned weak reference, or NULL; see above */
    PyObject *fileobj;   /* owned while a Handle waits: what add_reader was given */
    PyObject *transport; /* borrowed: the transport that uses the descriptor, or NULL */
    bool transport_kept; /* the reference is owned: the loop watches for it */
    int watched;         /* what the watcher is set to */
    int number;
    uint32_t received; /* how many bytes the next sock_recv should have room for */
} al_fd;

typedef struct {
    al_fd **entries; /* NULL where the number has not been seen */
    int capacity;
} al_fds;

struct al_loop;

/* The entry of fd, borrowed, or NULL where nobody has ever waited. */
al_fd *al_fds_find(const al_fds *fds, int fd);
/* The same, made if need be; NULL with MemoryError. */
al_fd *al_fds_ensure(struct al_loop *loop, int fd);

/* Makes `handle` the reader or writer (`event` is AL_READ or AL_WRITE) of fd and
 * cancels the one before it.  `fileobj`, if not NULL, is the object whose descriptor fd
 * is; as in asyncio's selector it lives as long as a Handle waits.  0, or -1 with
 * OSError when the descriptor is bad or of a kind that cannot be watched (EPERM).
 * Escapes. */
int al_fds_add(struct al_loop *loop, int fd, int event, al_handle *handle,
               PyObject *fileobj);
/* Cancels and forgets the reader or writer.  1 if there was one, 0 if not, or -1.
 * Escapes. */
int al_fds_remove(struct al_loop *loop, int fd, int event);
/* The number that al_fds_add was told for the object, which may be closed by now; -1 if
 * no Handle waits for it. */
int al_fds_number_of(const al_fds *fds, PyObject *fileobj);

/* The next event queues {run, self}, or each one if it stays.  `file` is the socket object
 * that owns fd.  Replaces whoever waits there already.  0, or -1 with MemoryError. */
int al_fds_wait(struct al_loop *loop, int fd, int event, bool stays, al_run_fn run,
                PyObject *self, PyObject *file);
/* `self` no longer waits for the event, if it did. */
void al_fds_unwait(struct al_loop *loop, int fd, int event, PyObject *self);

/* The waiters of fd, borrowed, NULL where there is none; false if there is neither. */
bool al_fds_get(const al_fds *fds, int fd, PyObject **reader, PyObject **writer);

/* How many descriptors have a transport: of a socket, or of a pipe that waits. */
size_t al_fds_count_transports(const struct al_loop *loop);
/* The transport that uses fd, borrowed, or NULL. */
PyObject *al_fds_transport(const al_fds *fds, int fd);
/* What is watched although nobody waits, and may be closed by now, is forgotten. */
void al_fds_forget_idle(struct al_loop *loop);
/* Makes it the transport of fd; borrowed: the transport takes itself out (NULL) before
 * it closes the descriptor.  0, or -1 with MemoryError (never for NULL). */
int al_fds_set_transport(struct al_loop *loop, int fd, PyObject *transport);
/* While the loop watches the descriptor for its transport, it holds a reference to it,
 * as asyncio's selector does by way of the Handle; a transport that neither reads nor
 * writes is its owner's alone.  Nothing happens if another transport has taken the
 * number over.  Escapes when it lets go. */
void al_fds_keep_transport(struct al_loop *loop, int fd, PyObject *transport,
                           bool keep);

/* Forgets everything; descriptors are not closed.  Handles are not cancelled. */
void al_fds_clear(al_fds *fds);
int al_fds_traverse(const al_fds *fds, visitproc visit, void *arg);
/* The loop has stopped: see handle.h. */
void al_fds_track(const al_fds *fds);

#endif
