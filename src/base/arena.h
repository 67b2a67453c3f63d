/* arena.h: the receive memory that a loop has for all its sockets.
 *
 * Whoever receives has the whole of it for the time between a system call and the copy
 * of what came, in which no foreign code runs; who has to run some takes it away, and
 * gives it back.  It is made at the first use and lives as long as the loop; pages that
 * nothing was received into cost nothing. */
#ifndef AL_BASE_ARENA_H
#define AL_BASE_ARENA_H

#include "base/py.h"

enum {
    AL_ARENA_PIECES = 32,       /* datagrams received by one recvmmsg */
    AL_ARENA_PIECE = 64 * 1024, /* no IP datagram is longer */
    /* Of small datagrams one cache set would have to hold the beginnings of all, were
     * they a power of two apart. */
    AL_ARENA_STRIDE = AL_ARENA_PIECE + 17 * 64,
    AL_ARENA_BYTES = AL_ARENA_PIECES * AL_ARENA_STRIDE,
    AL_ARENA_BUFFER = 256 *
        1024, /* what a stream receives at once; asyncio's max_size */
};

typedef struct {
    char *pieces; /* AL_ARENA_BYTES bytes, or NULL */
    char *buffer; /* AL_ARENA_BUFFER bytes, or NULL */
    /* The last bytes objects, a small and a large one, or NULL, and how many bytes each
     * was made for. */
    PyObject *small, *large;
    Py_ssize_t small_room, large_room;
} al_arena;

/* AL_ARENA_BYTES bytes, or NULL with MemoryError. */
char *al_arena_pieces(al_arena *arena);
/* AL_ARENA_BUFFER bytes, or NULL with MemoryError. */
char *al_arena_buffer(al_arena *arena);
void al_arena_clear(al_arena *arena);

/* The same; until it is given back, another one is made for who else receives. */
char *al_arena_take(al_arena *arena);
void al_arena_give_back(al_arena *arena, char *pieces);

/* A bytes object of what was received.  The loop keeps the last one: when nobody else
 * has it any more it is written anew, which takes the place of a free and a malloc of a
 * size that the C library has no quick list for. */
PyObject *al_arena_bytes(al_arena *arena, const char *data, Py_ssize_t size);

/* The same for what is received straight into the object, in two steps: one with at
 * least so much room, to be written to before anything else is called; then, with the
 * same loop, what was received as an object of that size. */
PyObject *al_arena_large(al_arena *arena, Py_ssize_t size);
PyObject *al_arena_fit_steal(al_arena *arena, PyObject *bytes, Py_ssize_t size);

#endif
