/* override.h: notices when somebody replaces a method that C would bypass.
 *
 * A subclass, an instance attribute or a test's patch may replace loop.time, call_soon,
 * call_at, create_future, _run_once or _process_events; the selector in loop._selector or
 * its select(); asyncio.Handle._run.  What was put on one of asyncio's classes becomes
 * such an override by core/standin.h.  CPython renews a type's version tag at each change
 * of the type or of a base, so comparing two tags per iteration is enough: that of the
 * loop's class, and that of the class that core/watch.h watches.  Assignments to the
 * instance pass through al_override_setattr. */
#ifndef AL_CORE_OVERRIDE_H
#define AL_CORE_OVERRIDE_H

#include "base/state.h"

struct al_loop;

/* Of which moment al_overrides is. */
typedef struct {
    unsigned int type;
    unsigned int watched;
} al_seen_tags;

/* What is not ours, as of the moment that loop->seen_tags say.  For the loop's thread. */
typedef struct {
    bool as_asyncio; /* asyncio's clock and order of looks: time, or timers are lent, or
                      * the clock is a test's */
    bool in_python;  /* the iteration is in Python: run_once or select */
    bool time;
    bool call_soon;
    bool call_at;
    bool create_future;
    bool create_task;
    bool run_once;
    bool select;     /* an iteration of asyncio's would not wait in our selector */
    bool handle_run; /* asyncio.Handle._run */
} al_overrides;

/* tp_setattro of the loop. */
int al_override_setattr(PyObject *self, PyObject *name, PyObject *value);
/* Looks the methods up again.  0 or -1. */
int al_override_refresh(struct al_loop *loop);
/* The same, and looks at what changes no tag: the code in asyncio's functions. */
int al_override_look_closely(struct al_loop *loop);
/* Something has changed that changes no tag: the next look looks again. */
void al_override_forget(struct al_loop *loop);
/* The loop's timers have been lent, or taken back; or it has another clock. */
void al_override_timers_moved(struct al_loop *loop);

/* For AL_OBEY: refreshes, and calls what the method has to call instead.  True with its
 * result; or false, and the method is to go on.  Escapes. */
bool al_override_obeyed(struct al_loop *loop, const char *name, PyObject *const *args,
                        Py_ssize_t nargs, PyObject *kwnames, PyObject **result)
    __attribute__((cold, noinline));

/* At the beginning of a method of the loop: it may have been looked up before it was
 * noticed that somebody has replaced what it stands in for. */
#define AL_OBEY_IF(stale, loop, name, args, nargs, kwnames)                            \
    do {                                                                               \
        PyObject *instead;                                                             \
        if (AL_UNLIKELY(stale) &&                                                      \
            al_override_obeyed(loop, name, args, nargs, kwnames, &instead)) {          \
            return instead;                                                            \
        }                                                                              \
    } while (0)
#define AL_OBEY(loop, name, args, nargs, kwnames)                                      \
    AL_OBEY_IF(al_override_stale(loop), loop, name, args, nargs, kwnames)

#endif
