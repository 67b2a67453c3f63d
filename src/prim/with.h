/* with.h: `async with` locks, conditions and semaphores, whose __aenter__ and __aexit__ are
 * of one class. */
#ifndef AL_PRIM_WITH_H
#define AL_PRIM_WITH_H

#include "prim/replace.h"

extern const al_replacement al_with_replacements[];

#endif
