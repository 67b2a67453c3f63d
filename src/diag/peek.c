/* peek.c: see peek.h.  process_vm_readv on ourselves needs no permission; where a sandbox
 * forbids it, nothing can be read. */
#include "diag/peek.h"

#if AL_LINUX
#include <sys/uio.h>
#include <unistd.h>
#endif

bool
al_peek(void *to, const void *from, size_t size)
{
#if AL_LINUX
    struct iovec here = {.iov_base = to, .iov_len = size};
    struct iovec there = {.iov_base = (void *)(uintptr_t)from, .iov_len = size};
    return process_vm_readv(getpid(), &here, 1, &there, 1, 0) == (ssize_t)size;
#else
    (void)to;
    (void)from;
    (void)size;
    return false;
#endif
}
