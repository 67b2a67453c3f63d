/* jobs.h: what run_in_executor() gives to the threads of the loop's own executor.
 *
 * asyncio takes a concurrent.futures.Future, a work item and three closures for each job.
 * A Job is one object in their place: the executor's own threads take it from their queue
 * and run it, and its outcome goes to the asyncio future, in the loop's thread.  All else
 * is asyncio's: the executor, which it makes, its threads and their names, its locks, the
 * ends of executor and interpreter, fork.  So a job may be in the queue when the executor
 * is shut down: it has what a work item and its future are asked for then.
 *
 * That is so for the default executor if asyncio made it for this loop, not in debug mode,
 * and as long as nobody has replaced what a job passes by: the methods of the classes of
 * concurrent.futures, asyncio's functions that chain futures, call_soon and its kin.  Else
 * asyncio's method is called.  Without a GIL it always is, and where futures are asyncio's
 * own (base/layout.h).
 *
 * A cancelled job is not run: whoever takes it from the queue asks its future, which in
 * asyncio tells the job of it an iteration later. */
#ifndef AL_LOOP_JOBS_H
#define AL_LOOP_JOBS_H

#include "base/state.h"

int al_jobs_init_type(PyObject *module, al_state *st);

/* loop.run_in_executor; loop.c joins it with its own methods. */
extern PyMethodDef al_jobs_methods[];

#endif
