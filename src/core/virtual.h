/* virtual.h: a loop whose time is a test's.
 *
 * A clock (VirtualClock; aioloop.testing.Clock is made of it) counts integer nanoseconds.
 * It stands still while the loop does anything, and moves on to the next timer exactly when
 * nothing else can happen: nothing is ready and the selector, asked again, has nothing.
 * The outside does not know of it:
 *
 * - Work that the loop has given away and that will come back (a job of an executor, a
 *   resolver's call, a child process: al_virtual.held counts it) takes real time, and
 *   before a timer runs beside it as much real time passes as it would without us.
 * - Where files are watched, up to `autojump` real nanoseconds pass first.
 *
 * The scheduler asks al_virtual_wait in the place of the selector, with the time until the
 * next timer; the rest of its iteration is that of a replaced loop.time.  Deadlines are
 * rounded to nanoseconds when they are set, so that 0.1 + 0.2 is 0.3.
 *
 * A loop without a clock pays for none of this: its `overrides.as_asyncio` is false, and
 * so is AL_DEBUG_CLOCK.  A clock may be shared by loops that run one after the other. */
#ifndef AL_CORE_VIRTUAL_H
#define AL_CORE_VIRTUAL_H

#include "base/state.h"

struct al_loop;

typedef struct al_virtual
    al_virtual; /* loop->virtual, NULL: it has the kernel's time */

/* Makes VirtualClock.  0 or -1. */
int al_virtual_init_type(PyObject *module, al_state *st);
int al_virtual_traverse(const struct al_loop *loop, visitproc visit, void *arg);
/* The loop is dead: gives the clock back.  Escapes. */
void al_virtual_free(struct al_loop *loop);

/* The clock's time in seconds. */
double al_virtual_now(const struct al_loop *loop);
/* The same in nanoseconds. */
int64_t al_virtual_nanoseconds(const struct al_loop *loop);
/* So much time passes at once, in a slot. */
void al_virtual_pass(struct al_loop *loop, int64_t nanoseconds);
/* A deadline in seconds on a whole nanosecond. */
double al_virtual_round(double when);
/* Nanoseconds of so many seconds; -1, for ever, for what no clock reaches. */
int64_t al_virtual_distance(double seconds);

/* Looks at the selector, and where that has nothing and nothing is ready moves the clock on
 * by `limit` nanoseconds (below 0: there is no timer), or waits for the outside.  It may
 * return early.  0 or -1.  Escapes. */
int al_virtual_wait(struct al_loop *loop, int64_t limit);

extern PyMethodDef al_virtual_methods[]; /* of the module, not public */

#endif
