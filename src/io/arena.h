/* arena.h: the receive memory that a loop has for all its sockets.
 *
 * Whoever receives takes the whole of it for the time between a system call and the
 * copy of what came, in which no foreign code runs.  It is made at the first use and
 * lives as long as the loop; pages that nothing was received into cost nothing. */
#ifndef AL_IO_ARENA_H
#define AL_IO_ARENA_H

#include "core/sched.h"

enum {
    AL_ARENA_PIECES = 32,       /* datagrams received by one recvmmsg */
    AL_ARENA_PIECE = 64 * 1024, /* no IP datagram is longer */
    AL_ARENA_BYTES = AL_ARENA_PIECES * AL_ARENA_PIECE,
};

/* AL_ARENA_BYTES bytes, or NULL with MemoryError. */
char *al_arena(al_loop *loop);

#endif
