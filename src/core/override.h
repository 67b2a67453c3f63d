/* override.h: notices when somebody replaces a method that C would bypass.
 *
 * A subclass, an instance attribute or a test's patch may replace loop.time,
 * loop.call_soon, loop.call_at, loop.create_future or loop._run_once, and tools patch asyncio.Handle._run.
 * CPython renews a type's version tag at each change of the type or of a base, so
 * comparing two tags per iteration is enough for classes; assignments to the instance
 * pass through al_override_setattr. */
#ifndef AL_CORE_OVERRIDE_H
#define AL_CORE_OVERRIDE_H

#include "core/sched.h"

/* tp_setattro of the loop. */
int al_override_setattr(PyObject *self, PyObject *name, PyObject *value);
/* Looks the methods up again.  0 or -1. */
int al_override_refresh(al_loop *loop);

static inline bool
al_override_stale(al_loop *loop)
{
    const PyTypeObject *handle = (PyTypeObject *)loop->st->asyncio_Handle;
    return Py_TYPE(loop)->tp_version_tag != loop->seen_type_tag ||
           handle->tp_version_tag != loop->seen_handle_tag;
}

#endif
