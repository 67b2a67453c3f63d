/* fds.h: add_reader and add_writer.
 *
 * A table by descriptor number.  An entry owns its watcher and up to two handles; the
 * descriptor itself stays its caller's.  An event queues the handles, readers before
 * writers, as asyncio's selector loop does. */
#ifndef AL_CORE_FDS_H
#define AL_CORE_FDS_H

#include "core/handle.h"
#include "core/poll.h"

typedef struct al_fd {
    struct al_loop *loop; /* borrowed */
    al_io *io;            /* NULL: the entry has never been used */
    al_handle *reader, *writer;
    int number;
} al_fd;

typedef struct {
    al_fd **entries; /* NULL where the number has not been seen */
    int capacity;
} al_fds;

struct al_loop;

/* Makes `handle` the reader or writer (`event` is AL_READ or AL_WRITE) of fd and
 * cancels the one before it.  0, or -1 with OSError when the descriptor is bad or of
 * a kind that cannot be watched (EPERM: regular files and directories). */
int al_fds_add(struct al_loop *loop, int fd, int event, al_handle *handle);
/* Cancels and forgets the reader or writer.  1 if there was one, 0 if not, or -1. */
int al_fds_remove(struct al_loop *loop, int fd, int event);
/* The handles of fd, borrowed, NULL where there is none; false if there is neither. */
bool al_fds_get(const al_fds *fds, int fd, al_handle **reader, al_handle **writer);
/* Forgets everything; descriptors are not closed.  Handles are not cancelled. */
void al_fds_clear(al_fds *fds);
int al_fds_traverse(const al_fds *fds, visitproc visit, void *arg);

#endif
