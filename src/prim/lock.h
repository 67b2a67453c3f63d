/* lock.h: asyncio.Lock in C. */
#ifndef AL_PRIM_LOCK_H
#define AL_PRIM_LOCK_H

#include "prim/replace.h"

extern const al_replacement al_lock_replacements[];

/* What `async with` a lock calls: __aenter__() and __aexit__(), to be awaited, of the
 * lock with these attributes.  New references. */
PyObject *al_lock_enter_steal(al_state *st, PyObject *lock, PyObject *dict);
PyObject *al_lock_exit_steal(al_state *st, PyObject *lock, PyObject *dict);

#endif
