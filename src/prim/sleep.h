/* sleep.h: asyncio.sleep in C: a bare yield, or a future and a timer. */
#ifndef AL_PRIM_SLEEP_H
#define AL_PRIM_SLEEP_H

#include "prim/replace.h"

extern const al_replacement al_sleep_replacements[];

#endif
