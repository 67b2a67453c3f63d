/* queue.h: asyncio.Queue, PriorityQueue and LifoQueue in C. */
#ifndef AL_PRIM_QUEUE_H
#define AL_PRIM_QUEUE_H

#include "prim/replace.h"

extern const al_replacement al_queue_replacements[];

#endif
