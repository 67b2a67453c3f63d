/* gather.h: asyncio.gather in C: its loop over the arguments, and what it has each child call
 * at its end.
 *
 * The future that it returns is asyncio's _GatheringFuture; what the children call is a closure.
 *
 * Left to asyncio's function: no running loop, debug mode, a first argument that is neither
 * a coroutine nor a future of ours (up to 3.13 it decides about the loop). */
#ifndef AL_PRIM_GATHER_H
#define AL_PRIM_GATHER_H

#include "prim/replace.h"

extern const al_replacement al_gather_replacements[];

/* Takes what gather() calls from asyncio.  0 or -1. */
int al_gather_init(al_state *st);

#endif
