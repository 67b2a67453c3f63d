/* group.h: what asyncio.TaskGroup pays for each task, in C: create_task() and what the task
 * calls at its end.
 *
 * The group's state stays in its attributes.  __aenter__ and __aexit__ are asyncio's; so is
 * whatever is no plain case: a group that takes no tasks, debug mode, a task that ends with
 * an exception or is none of ours.
 *
 * What create_task() does besides creating a task differs between asyncio's versions, bugfix
 * releases too.  The names in its code tell which one runs; if they are none of those that are
 * listed here, asyncio's function is called. */
#ifndef AL_PRIM_GROUP_H
#define AL_PRIM_GROUP_H

#include "prim/replace.h"

extern const al_replacement al_group_replacements[];

/* Looks which functions asyncio has.  0 or -1. */
int al_group_init(al_state *st);

#endif
