/* override.h: notices when somebody replaces a method that C would bypass.
 *
 * A subclass, an instance attribute or a test's patch may replace loop.time,
 * loop.call_soon, loop.call_at, loop.create_future or loop._run_once, and tools patch asyncio.Handle._run.
 * CPython renews a type's version tag at each change of the type or of a base, so
 * comparing two tags per iteration is enough for classes; assignments to the instance
 * pass through al_override_setattr. */
#ifndef AL_CORE_OVERRIDE_H
#define AL_CORE_OVERRIDE_H

#include "base/state.h"

struct al_loop;

/* What is not ours; the tags say of which moment that is. */
typedef struct {
    unsigned int seen_type_tag;
    unsigned int seen_handle_tag;
    bool time;
    bool call_soon;
    bool call_at;
    bool create_future;
    bool run_once;
    bool handle_run; /* asyncio.Handle._run is not the one found at import */
} al_overrides;

/* tp_setattro of the loop. */
int al_override_setattr(PyObject *self, PyObject *name, PyObject *value);
/* Looks the methods up again.  0 or -1. */
int al_override_refresh(struct al_loop *loop);

#endif
