/* condition.h: `async with` an asyncio.Condition, and its notify().
 *
 * A condition has the bound methods of its lock among its attributes; C works on the lock
 * where they are those of an asyncio.Lock.  wait() stays asyncio's. */
#ifndef AL_PRIM_CONDITION_H
#define AL_PRIM_CONDITION_H

#include "prim/replace.h"

extern const al_replacement al_condition_replacements[];

/* What __aenter__ and __aexit__ return; or NULL without an exception where asyncio's
 * function has to be called, or with one.  Borrows the condition's attributes. */
PyObject *al_condition_enter(al_state *st, PyObject *dict);
PyObject *al_condition_exit(al_state *st, PyObject *dict);

#endif
