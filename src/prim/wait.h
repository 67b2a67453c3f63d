/* wait.h: asyncio.wait in C, with what each of its futures calls at its end.
 *
 * Left to asyncio's function: what is no list, tuple or set, and a return_when that it
 * does not know; and all of it while `_wait` in asyncio.tasks is somebody else's. */
#ifndef AL_PRIM_WAIT_H
#define AL_PRIM_WAIT_H

#include "prim/replace.h"

extern const al_replacement al_wait_replacements[];

/* Takes what wait() calls from asyncio.  0 or -1. */
int al_wait_init(al_state *st);

#endif
