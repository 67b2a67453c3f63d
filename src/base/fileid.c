/* fileid.c: see fileid.h. */
#include "base/fileid.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

void
al_fileid_take(al_fileid *id, int fd)
{
    struct stat info;
    if (fstat(fd, &info) == 0) {
        id->device = info.st_dev;
        id->inode = info.st_ino;
    }
}

bool
al_fileid_is(const al_fileid *id, int fd)
{
    struct stat info;
    return fd >= 0 && fstat(fd, &info) == 0 && info.st_dev == id->device &&
           info.st_ino == id->inode;
}

void
al_fileid_close(const al_fileid *id, int fd)
{
    int saved = errno;
    if (al_fileid_is(id, fd)) {
        close(fd);
    }
    errno = saved;
}
