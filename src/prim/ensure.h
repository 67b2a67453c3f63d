/* ensure.h: asyncio.ensure_future, for what calls it in C. */
#ifndef AL_PRIM_ENSURE_H
#define AL_PRIM_ENSURE_H

#include "prim/primitive.h"

static inline bool
al_ensure_is_coroutine(const al_state *st, PyObject *obj)
{
    return PyCoro_CheckExact(obj) || Py_IS_TYPE(obj, st->Primitive_type);
}

/* Whether it is a future of ours and of that loop. */
static inline bool
al_ensure_is_own(const al_state *st, PyObject *obj, PyObject *loop)
{
    return al_future_exact(st, obj) && ((al_future *)obj)->loop_obj == loop;
}

/* ensure_future(arg, loop=loop), or ensure_future(arg) where the loop runs: asyncio's own
 * name for it is looked up.  New reference.  Escapes. */
PyObject *al_ensure_future(const al_state *st, PyObject *loop, PyObject *arg,
                           bool names_loop);

int al_ensure_init(al_state *st);

#endif
