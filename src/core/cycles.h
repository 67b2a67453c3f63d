/* cycles.h: the time of al_poll_clock, read often: by the processor's cycle counter.
 *
 * To read CLOCK_MONOTONIC takes 21 ns where the counter takes 9, which pass beside other
 * work: the kernel's reading waits for all instructions before it.  The counter is used
 * where the kernel itself keeps time by it.  CLOCK_MONOTONIC is still read once a
 * millisecond, and in between the time is what it said and the cycles since then.  What a
 * cycle takes is measured, again and again, and believed when two measurements agree;
 * nothing is assumed of the counter's frequency, and where it jumps (the machine slept, or
 * was moved) the clock is read.  The time is never ahead of al_poll_clock by more than the
 * error of that measurement, some nanoseconds.
 *
 * The meter has one for its loop (core/meter). */
#ifndef AL_CORE_CYCLES_H
#define AL_CORE_CYCLES_H

#include "base/py.h"

#if AL_LINUX && defined(__x86_64__)
#define AL_CYCLES_KNOWN 1
#else
#define AL_CYCLES_KNOWN 0
#endif

typedef struct {
    uint64_t span; /* cycles after `cycle` for which the next lines hold; 0: none */
    uint64_t cycle;
    int64_t time;   /* ns, at that cycle */
    uint64_t scale; /* ns that a cycle takes, times 1 << 32 */
    bool usable;
    uint64_t shortest; /* cycles: to read the clock took no less so far */
    /* The measurement: since that cycle and time; how long it takes; the last result. */
    uint64_t first_cycle;
    int64_t first_time, window; /* ns */
    double measured;            /* ns */
} al_cycles;

void al_cycles_init(al_cycles *cycles);
/* The same as al_cycles_now, by the kernel's clock. */
int64_t al_cycles_look(al_cycles *cycles);

static inline uint64_t
al_cycles_count(void)
{
#if AL_CYCLES_KNOWN
    return __builtin_ia32_rdtsc();
#else
    return 0;
#endif
}

/* Nanoseconds of al_poll_clock. */
static inline int64_t
al_cycles_now(al_cycles *cycles)
{
    if (AL_LIKELY(cycles->span != 0)) {
        uint64_t past = al_cycles_count() - cycles->cycle;
        if (AL_LIKELY(past < cycles->span)) {
            return cycles->time + (int64_t)((past * cycles->scale) >> 32);
        }
    }
    return al_cycles_look(cycles);
}

#endif
