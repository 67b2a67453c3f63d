/* shield.h: asyncio.shield in C, with what its two futures call at their ends.
 *
 * Left to asyncio's function: no running loop, debug mode, what is neither a coroutine nor
 * a future of ours and of the running loop, and a shield() that no known version has. */
#ifndef AL_PRIM_SHIELD_H
#define AL_PRIM_SHIELD_H

#include "prim/replace.h"

extern const al_replacement al_shield_replacements[];

/* Looks which version asyncio's is.  0 or -1. */
int al_shield_init(al_state *st);

#endif
