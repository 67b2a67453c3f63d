/* look.h: when an iteration looks at the selector although slots are ready.
 *
 * asyncio looks in each iteration, and programs rely on it: what the kernel had before an
 * iteration began is seen in it (`asyncio.wait(..., timeout=0)` as "has it come?").  A
 * look costs as much as three short slots, so it is left out where nobody can tell:
 *
 * - Nobody watches a descriptor: there is nothing to see.  A look every LOOK_SELDOM
 *   serves signals, one more often than that other threads (see poll.c).
 * - No foreign code has run since the last look: slots that only pass an event on to the
 *   task that waits for it (they say so by al_look_quiet).
 * - LOOK_EAGER looks in a row were in vain, and nothing was done since that can make an
 *   event (al_look_expect: a descriptor registered, taken back or closed, something sent,
 *   a wake-up, a wait; the other end of what is closed may be this loop's, too).  Then
 *   the time between looks doubles up to LOOK_SELDOM.  What can be missed so is an event
 *   made by a system call of the program's own behind asyncio's back, for so long.
 *   (Where short slots are followed by longer ones: until the kernel ticks, 1 to 4 ms.)
 *
 * Timers that are due are preceded by a look whatever the rest says: events come before
 * timers.
 *
 * The clock is read once per stride of slots.  The stride doubles while a stride is over
 * in LOOK_SHORT and falls back to 1 at the first that is not.  Within a stride the coarse
 * clock, which costs an eighth, tells of slots that last for milliseconds. */
#ifndef AL_CORE_LOOK_H
#define AL_CORE_LOOK_H

#include "base/py.h"

enum {
    LOOK_SELDOM = 50 * 1000, /* ns: a poll so often costs 0.3 % of the time */
    LOOK_EAGER = 16,
    LOOK_DOUBLINGS = 5, /* from 1.5 us to LOOK_SELDOM */
    LOOK_STRIDE = 16,
    LOOK_SHORT = 5 * 1000, /* ns */
    /* Looks before blocking, with the GIL held: see al_look_before_wait. */
    LOOK_MISSES = 4,
    LOOK_AGAIN = 16,
};

typedef struct {
    int64_t tick;       /* the coarse clock when an iteration in a stride read it */
    int64_t clocked_at; /* ns: when the clock was read last */
    int64_t polled_at;  /* ns: the end of the last poll */
    size_t polled_head; /* of the ready ring then */
    int64_t seldom;     /* ns: LOOK_SELDOM, or less beside other threads */
    uint32_t stride;    /* slots between two looks at the clock */
    uint32_t
        until_check; /* slots left before the next one; always 0 if loop.time is not ours */
    uint32_t watchers; /* started ones; the first is that of wake.c */
    uint32_t in_vain;  /* looks in a row that found nothing */
    uint32_t misses;   /* looks in vain before a wait */
    uint32_t quiet;    /* slots of this iteration that ran no foreign code */
    bool must;         /* the next iteration polls whatever the rest says */
} al_look;

static inline bool
al_look_has_watchers(const al_look *look)
{
    return look->watchers > 1;
}

/* Something was done that can make an event. */
static inline void
al_look_expect(al_look *look)
{
    look->in_vain = 0;
    look->until_check = 0;
}

/* The next iteration polls, whatever the clock says. */
static inline void
al_look_must(al_look *look)
{
    look->must = true;
    look->until_check = 0;
}

/* The slot that runs has run no foreign code. */
static inline void
al_look_quiet(al_look *look)
{
    look->quiet++;
}

/* An iteration begins that runs `todo` slots. */
static inline void
al_look_count(al_look *look, size_t todo)
{
    look->until_check =
        todo < look->until_check ? look->until_check - (uint32_t)todo : 0;
}

/* It has ended. */
static inline void
al_look_iterated(al_look *look, size_t ran)
{
    if (look->quiet != 0) {
        if (look->quiet == ran && look->until_check == 0 && !look->must) {
            look->until_check = 1;
        }
        look->quiet = 0;
    }
}

/* Whether the next iteration looks before it reads the clock. */
static inline bool
al_look_is_eager(const al_look *look, bool timers_due)
{
    return look->must ||
           (al_look_has_watchers(look) && (look->in_vain < LOOK_EAGER || timers_due));
}

/* The same once it is `now`. */
static inline bool
al_look_is_due(const al_look *look, int64_t now)
{
    int64_t interval = look->seldom;
    if (al_look_has_watchers(look) && look->in_vain < LOOK_EAGER + LOOK_DOUBLINGS) {
        interval >>= LOOK_EAGER + LOOK_DOUBLINGS - look->in_vain;
    }
    return now - look->polled_at >= interval;
}

/* The clock was read in the place of a look. */
static inline void
al_look_clocked(al_look *look, int64_t now)
{
    bool quick = now - look->clocked_at < LOOK_SHORT;
    look->stride = !quick                       ? 1
                   : look->stride < LOOK_STRIDE ? look->stride * 2
                                                : LOOK_STRIDE;
    look->until_check = look->stride;
    look->clocked_at = now;
}

/* The selector has been looked at beside ready slots, and `found` says whether it had
 * something. */
static inline void
al_look_looked(al_look *look, bool found)
{
    look->in_vain = found ? 0 : look->in_vain + 1;
    look->until_check =
        al_look_has_watchers(look) && look->in_vain < LOOK_EAGER ? 0 : look->stride;
}

/* Nothing is ready.  Whether to look at the selector with the GIL held before blocking
 * without it: under load there is always an event, and giving the GIL up costs 60 ns and,
 * with a busy thread beside the loop, 5 ms to get it back.  After LOOK_MISSES looks in
 * vain only every LOOK_AGAIN-th wait tries. */
static inline bool
al_look_before_wait(const al_look *look)
{
    return look->misses < LOOK_MISSES || look->misses % LOOK_AGAIN == 0;
}

#endif
