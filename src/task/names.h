/* names.h: the N of a task's default name "Task-N".
 *
 * Programs tell tasks by their names, so asyncio's C tasks and ours count together.
 * asyncio keeps the count in a word that no function gives out: of its module state since
 * 3.12, a static one before.  The word is found at import: it is the only one that goes
 * along when some tasks of asyncio's are made, and it is put back after that.  Where it is not
 * found (3.11 without dl_iterate_phdr, and the hard build), each number is drawn by
 * making a task of asyncio's, which is slow but right.
 *
 * Threads that all count with one word wait for it.  So without a GIL, while several loops
 * run, each takes a block of numbers: its own tasks are in their order, and no number is
 * given twice. */
#ifndef AL_TASK_NAMES_H
#define AL_TASK_NAMES_H

#include "base/state.h"

/* 0 or -1. */
int al_names_init(al_state *st);
void al_names_clear(al_state *st);

struct al_loop;

/* The next number for a task of the loop, which may be NULL; or 0 with an exception.
 * Escapes where it is drawn. */
uint64_t al_names_next(al_state *st, struct al_loop *loop);

#endif
