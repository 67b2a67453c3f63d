/* override.c: see override.h. */
#include "core/override.h"

#include "core/sched.h"

/* Whether loop.<name> is the C function `ours`, bound to this loop.  1, 0 or -1. */
static int
is_ours(al_loop *loop, PyObject *name, PyCFunction ours)
{
    PyObject *method = PyObject_GetAttr((PyObject *)loop, name); /* escapes */
    if (method == NULL) {
        return -1;
    }
    int result = PyCFunction_Check(method) &&
                 PyCFunction_GET_FUNCTION(method) == ours &&
                 PyCFunction_GET_SELF(method) == (PyObject *)loop;
    Py_DECREF(method);
    return result;
}

/* What a type's version tag will be as long as the type stays as it is.  0 means that
 * CPython has run out of tags for it: no tag is to be seen again, so that each look finds
 * a change. */
static unsigned int
tag_to_see(const PyTypeObject *type)
{
    return type->tp_version_tag != 0 ? type->tp_version_tag : UINT_MAX;
}

int
al_override_refresh(al_loop *loop)
{
    al_state *st = loop->st;
    int time = is_ours(loop, st->str.time, st->loop_time);
    int call_soon = is_ours(loop, st->str.call_soon, st->loop_call_soon);
    int call_at = is_ours(loop, st->str.call_at, st->loop_call_at);
    int create_future = is_ours(loop, st->str.create_future, st->loop_create_future);
    int run_once = is_ours(loop, st->str._run_once, st->loop_run_once);
    if (time < 0 || call_soon < 0 || call_at < 0 || create_future < 0 || run_once < 0) {
        return -1;
    }
    PyObject *run = PyObject_GetAttr(st->asyncio_Handle, st->str._run); /* escapes */
    if (run == NULL) {
        return -1;
    }
    loop->overrides.time = !time;
    loop->look.until_check = 0;
    loop->overrides.call_soon = !call_soon;
    loop->overrides.call_at = !call_at;
    loop->overrides.create_future = !create_future;
    loop->overrides.run_once = !run_once;
    loop->overrides.handle_run = run != st->handle_run;
    Py_DECREF(run);
    loop->overrides.seen_type_tag = tag_to_see(Py_TYPE(loop));
    loop->overrides.seen_handle_tag = tag_to_see((PyTypeObject *)st->asyncio_Handle);
    return 0;
}

int
al_override_setattr(PyObject *self, PyObject *name, PyObject *value)
{
    if (PyObject_GenericSetAttr(self, name, value) < 0) { /* escapes */
        return -1;
    }
    al_loop *loop = (al_loop *)self;
    const al_state *st = loop->st;
    if (st != NULL && PyUnicode_Check(name)) {
        PyObject *const watched[] = {st->str.time, st->str.call_soon, st->str.call_at,
                                     st->str.create_future, st->str._run_once};
        for (size_t i = 0; i < sizeof(watched) / sizeof(watched[0]); i++) {
            if (PyUnicode_Compare(name, watched[i]) == 0) {
                return al_override_refresh(loop);
            }
        }
    }
    return 0;
}
