/* fileid.h: whether a descriptor's number still stands for the file that it stood for.
 *
 * Rude programs close descriptors that are not theirs (os.closerange, a second close of
 * a number), and the numbers go to other files.  Who owns a descriptor without an object
 * that tells of its end remembers the file, and looks before it closes the number or
 * writes to it.  Files without an inode of their own (epoll, timerfd) are told from all
 * others, but not from each other. */
#ifndef AL_BASE_FILEID_H
#define AL_BASE_FILEID_H

#include "base/py.h"
#include <sys/types.h>

typedef struct {
    dev_t device;
    ino_t inode;
} al_fileid;

/* Remembers the file of an open descriptor. */
void al_fileid_take(al_fileid *id, int fd);
/* Whether fd stands for it; false for a closed or negative number. */
bool al_fileid_is(const al_fileid *id, int fd);
/* close(fd) if it does.  Keeps errno. */
void al_fileid_close(const al_fileid *id, int fd);

#endif
