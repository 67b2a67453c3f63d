/* faults.h: what goes wrong on a test's loop: with its files, and with its callbacks.
 *
 * The kernel moves fewer bytes than it could, says EAGAIN of what is ready, is late with
 * that, or resets a connection; a callback takes long.  All of it happens in production
 * and hardly ever in a test.  Here each kind of fault has a lot (fault_lot), which is
 * asked for each candidate in turn: the one with a given number, so many of so many, or
 * each with a probability.  A candidate is what the fault would change: a call on a file
 * that is ready, an event, a slot.  Each lot draws from the seed by itself, so the same
 * program with the same seed has the same faults where the kernel answers alike.
 *
 * - al_faults_spoil stands before the system calls of io/sock, where the hard build has
 *   its own faults.  What it changes is what the kernel may do: nothing is lost.  A call
 *   that is refused is not refused again, so everything comes to an end.
 * - al_faults_hold_back stands before the watchers of core/poll: an event that is held
 *   back comes when the virtual clock has moved on by so much; core/virtual asks for that
 *   time.
 * - A reset is real: the kernel sends the peer a RST (Linux, TCP; elsewhere when the
 *   socket is closed), or shuts both directions down where there is no such thing.
 * - A slow callback moves the clock when it has ended.
 *
 * The last faults are kept, to be told.  A loop without faults pays a test of
 * loop->faults per system call. */
#ifndef AL_CORE_FAULTS_H
#define AL_CORE_FAULTS_H

#include "base/state.h"

struct al_loop;

typedef struct al_faults al_faults; /* loop->faults, NULL: nothing goes wrong */

/* A system call, by what may become of it. */
enum {
    AL_CALL_IN = 1,     /* it moves bytes from the file, else to it */
    AL_CALL_STREAM = 2, /* any part of them is as good */
    AL_CALL_SOCKET = 4, /* it belongs to a connection, if it is a stream, too */
    AL_CALL_ACCEPT = 8,
};

/* A call is about to move up to *size bytes (1: messages, a connection).  True: it must
 * not be made, errno says why.  Else *size may be less than before. */
bool al_faults_spoil(struct al_loop *loop, int fd, unsigned call, size_t *size);

/* Whether the loop must not hear of an event yet: the watcher pauses until
 * al_poll_resume. */
bool al_faults_hold_back(struct al_loop *loop, int fd);
/* Nanoseconds on the clock until the next event that is held back, or -1. */
int64_t al_faults_next(const struct al_loop *loop);
/* Lets go what was held back for long enough. */
void al_faults_let_go(struct al_loop *loop);

/* A slot has run. */
void al_faults_ran(struct al_loop *loop);

int al_faults_traverse(const struct al_loop *loop, visitproc visit, void *arg);
/* Escapes. */
void al_faults_free(struct al_loop *loop);

extern PyMethodDef al_faults_methods[]; /* of the module, not public */

#endif
