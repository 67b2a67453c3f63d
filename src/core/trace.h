/* trace.h: the last slots that a test's loop has run, to be told when the test fails.
 *
 * A ring of AL_TRACE_STEPS records, filled while the loop has one (loop->trace): when a
 * slot ran by the loop's clock, what it is (an entry of core/usage), and of a task's step
 * its name and where it went on: the innermost place outside asyncio that its coroutine
 * waits in.  A record keeps no task alive, only names and code.  Words are made of it by
 * aioloop/testing/_trace.py. */
#ifndef AL_CORE_TRACE_H
#define AL_CORE_TRACE_H

#include "base/ring.h"
#include "base/state.h"

enum { AL_TRACE_STEPS = 32 };

struct al_loop;

typedef struct al_trace al_trace; /* NULL: nobody wants it */

/* A slot is about to run. */
void al_trace_step(struct al_loop *loop, const al_slot *slot);
/* So many slots have run since there is a trace, the one that runs among them. */
uint64_t al_trace_steps(const struct al_loop *loop);
/* The last record as _trace() has it: new reference; NULL if there is none, or with
 * MemoryError. */
PyObject *al_trace_last(const struct al_loop *loop);

int al_trace_traverse(const struct al_loop *loop, visitproc visit, void *arg);
/* Escapes. */
void al_trace_free(struct al_loop *loop);

extern PyMethodDef al_trace_methods[]; /* of the module, not public */

#endif
