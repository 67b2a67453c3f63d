/* semaphore.h: asyncio.Semaphore and BoundedSemaphore in C.
 *
 * Python 3.13 has a fairer semaphore: whoever is woken or cancelled wakes as many as may
 * go on, and one that was woken and then cancelled gives its turn to these. */
#ifndef AL_PRIM_SEMAPHORE_H
#define AL_PRIM_SEMAPHORE_H

#include "prim/replace.h"

extern const al_replacement al_semaphore_replacements[];

/* What `async with` a semaphore calls, as in lock.h. */
PyObject *al_semaphore_enter_steal(al_state *st, PyObject *semaphore, PyObject *dict);
PyObject *al_semaphore_exit_steal(al_state *st, PyObject *semaphore, PyObject *dict);

#endif
