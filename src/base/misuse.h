/* misuse.h: what programs do that they did not mean, counted always.
 *
 * Each loop has these counters and so has the interpreter (st->misuse), for what no loop
 * can be blamed for, and for the time after its loop has gone. */
#ifndef AL_BASE_MISUSE_H
#define AL_BASE_MISUSE_H

#include <stdint.h>

typedef struct {
    uint64_t blocking_calls; /* seen by diag/blocking while its switch is on */
} al_misuse;

#endif
