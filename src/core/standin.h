/* standin.h: our methods stand in for asyncio's, as long as those are as asyncio made them.
 *
 * Our classes come first in the order in which Python looks for a method, so a wrapper
 * that somebody puts on asyncio.BaseEventLoop, asyncio.Handle or another class below
 * would never be called.  While there is one (see base/origin.h), the method of ours in
 * front of it is taken out of our class: Python finds the wrapper, as it finds any other
 * override, and what the wrapper calls is asyncio's own function.
 *
 * The same goes for what asyncio's functions use by its global name: time.monotonic,
 * tasks.Task, futures.Future, events.Handle.
 *
 * Changes are noticed by the version tags of asyncio's classes, which core/override.h
 * compares, and by core/watch.h.  What replaces the code inside of a function changes no
 * tag: that is noticed when a loop begins to run. */
#ifndef AL_CORE_STANDIN_H
#define AL_CORE_STANDIN_H

#include "base/state.h"

/* Every method of ours whose name `asyncios` or a base of it has is one that stands in
 * from now on.  0 or -1. */
int al_standin_add(al_state *st, PyTypeObject *ours, PyObject *asyncios);

/* Takes out and puts back what is due.  Costs next to nothing if no tag has changed;
 * `closely` looks at the code of each function too.  0 or -1. */
int al_standin_look(al_state *st, bool closely);

/* What a method of ours has to call instead: it has been looked up a moment before the
 * look that took it out.  Borrowed, NULL (no exception) if it is in place. */
PyObject *al_standin_other(const al_state *st, const PyTypeObject *ours,
                           const char *name);
/* other(self, *args). */
PyObject *al_standin_call(PyObject *other, PyObject *self, PyObject *const *args,
                          Py_ssize_t nargs, PyObject *kwnames);

/* Whether, as of the last look, asyncio.Handle._run, asyncio.eager_task_factory,
 * asyncio.tasks.Task and BaseSelectorEventLoop._process_events are asyncio's. */
bool al_standin_handle_runs(const al_state *st);
bool al_standin_eager_factory_intact(const al_state *st);
bool al_standin_task_intact(const al_state *st);
bool al_standin_processes_events(const al_state *st);

/* Whether there is other code in BaseEventLoop.create_task since the last look: tracers
 * put some there. */
static inline bool
al_standin_create_task_changed(const al_state *st)
{
    return st->create_task != NULL &&
           PyFunction_GET_CODE(st->create_task) != st->create_task_code;
}

int al_standin_traverse(const al_state *st, visitproc visit, void *arg);
void al_standin_free(al_state *st);

#endif
