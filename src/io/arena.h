/* arena.h: the receive memory that a loop has for all its sockets.
 *
 * Whoever receives has the whole of it for the time between a system call and the copy
 * of what came, in which no foreign code runs; who has to run some takes it away, and
 * gives it back.  It is made at the first use and lives as long as the loop; pages that
 * nothing was received into cost nothing. */
#ifndef AL_IO_ARENA_H
#define AL_IO_ARENA_H

#include "core/sched.h"

enum {
    AL_ARENA_PIECES = 32,       /* datagrams received by one recvmmsg */
    AL_ARENA_PIECE = 64 * 1024, /* no IP datagram is longer */
    /* Of small datagrams one cache set would have to hold the beginnings of all, were
     * they a power of two apart. */
    AL_ARENA_STRIDE = AL_ARENA_PIECE + 17 * 64,
    AL_ARENA_BYTES = AL_ARENA_PIECES * AL_ARENA_STRIDE,
};

/* AL_ARENA_BYTES bytes, or NULL with MemoryError. */
char *al_arena(al_loop *loop);

/* The same; until it is given back, another one is made for who else receives. */
char *al_arena_take(al_loop *loop);
void al_arena_give_back(al_loop *loop, char *arena);

/* A bytes object of what was received.  The loop keeps the last one: when nobody else
 * has it any more it is written anew, which takes the place of a free and a malloc of a
 * size that the C library has no quick list for. */
PyObject *al_arena_bytes(al_loop *loop, const char *data, Py_ssize_t size);

/* The same for what is received straight into the object, in two steps: one with at
 * least so much room, to be written to before anything else is called; then, with the
 * same loop, what was received as an object of that size. */
PyObject *al_arena_large(al_loop *loop, Py_ssize_t size);
PyObject *al_arena_fit_steal(al_loop *loop, PyObject *bytes, Py_ssize_t size);

#endif
