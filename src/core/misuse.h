/* misuse.h: tasks, coroutines, exceptions and transports that a program loses.
 *
 * The rooms in which they end count them here; aioloop/_orphans.py keeps their places and,
 * where a loop's switch is on, logs them.  It is told in any case: what asyncio itself
 * does about them (an exception handler, a warning) costs more. */
#ifndef AL_CORE_MISUSE_H
#define AL_CORE_MISUSE_H

#include "core/sched.h"

extern PyMethodDef al_misuse_methods[]; /* of the module, not public */

/* Where a transport was made, if io/transport.c has noted it: a StackSummary, or NULL.
 * New reference; leaves no exception.  Escapes. */
PyObject *al_misuse_made(al_state *st, PyObject *transport);

/* Counts what al_misuse_found is told of, and nothing else. */
static inline void
al_misuse_count(al_loop *loop, al_misuse_kind kind)
{
    AL_ADD(loop->misuse.counts[kind], 1);
    AL_ADD(loop->st->misuse.counts[kind], 1);
}

/* The selector has found a descriptor closed that somebody waits for: counts it, and
 * remembers its number for al_misuse_tell_lost. */
void al_misuse_lost_fd(al_loop *loop, int fd);
/* Tells of that number, once.  Escapes. */
void al_misuse_tell_lost(al_loop *loop);

/* The pending exception gets a note: `function` of aioloop/_orphans.py writes it, of two
 * objects; the second may be NULL.  Escapes. */
void al_misuse_note(const char *function, PyObject *first, PyObject *second);

/* Warns that a fork's child goes on with the loop of its parent.  0 or -1.  Escapes. */
int al_misuse_tell_forked(al_loop *loop);

/* One more.  `loop` is any loop object, or NULL; `created` is where obj was made, as a
 * StackSummary, or NULL.  A pending exception stays pending.  Escapes. */
void al_misuse_found(al_state *st, PyObject *loop, al_misuse_kind kind, PyObject *obj,
                     PyObject *created);

#endif
