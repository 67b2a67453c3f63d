/* cork.h: when the writes that slots have corked are sent.
 *
 * A burst of sends costs the kernel and the processor less than one after each slot: the
 * peer's process is woken once, and the caches stay warm (aiohttp's server: a quarter of
 * its time).  The list is of streams, whose room (io/write.h) fills it and sends it; the
 * scheduler says when. */
#ifndef AL_CORE_CORK_H
#define AL_CORE_CORK_H

#include "base/py.h"

struct al_stream;

typedef struct {
    struct al_stream *first, *last; /* a list of owned references */
    bool hot;                       /* one is to be sent from warm caches */
    int64_t since;                  /* ns: when the scheduler first saw it, or 0 */
} al_cork;

#endif
