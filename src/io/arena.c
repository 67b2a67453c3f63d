/* arena.c: see arena.h. */
#include "io/arena.h"

char *
al_arena(al_loop *loop)
{
    if (AL_UNLIKELY(loop->arena == NULL)) {
        loop->arena = PyMem_RawMalloc(AL_ARENA_BYTES);
        if (loop->arena == NULL) {
            PyErr_NoMemory();
        }
    }
    return loop->arena;
}
