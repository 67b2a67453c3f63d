/* peek.h: reading memory that may be gone.
 *
 * The stall watchdog looks at what other threads own, without the GIL: a frame, a code
 * object or a string may be freed while it looks.  Every load goes through the kernel,
 * which refuses an address that is not there; what has been freed and used again gives
 * wrong values, and no more. */
#ifndef AL_DIAG_PEEK_H
#define AL_DIAG_PEEK_H

#include "base/py.h"

/* Copies `size` bytes from an address of this process.  False if it cannot be read, or
 * if this system has no way to do it. */
bool al_peek(void *to, const void *from, size_t size);

#endif
