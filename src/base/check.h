/* check.h: self-checks.
 *
 * AL_ASSERT costs nothing in a release build (Python's own flags define NDEBUG).
 * AL_HARD is the hard build: it makes rare things frequent (ring capacity 1, no free
 * lists, asyncio's functions for the current task, two interned stacks; io/sock.c: short
 * reads and writes, false EAGAIN, interruptions), so that the ordinary test-suite walks
 * the paths that production walks once a month.  Assertions are on. */
#ifndef AL_BASE_CHECK_H
#define AL_BASE_CHECK_H

#include "base/threads.h"

#include <assert.h>

#define AL_ASSERT(condition) assert(condition)

#ifdef AL_HARD
#define AL_RING_START 1
#else
#define AL_RING_START 64
#endif

/* Without a GIL the interpreter's allocator has free lists for each thread. */
#if defined(AL_HARD) || AL_FREE_THREADED
#define AL_FREELIST_MAX 0
#else
#define AL_FREELIST_MAX 1024
#endif

#endif
