/* override.c: see override.h. */
#include "core/override.h"

#include "core/handle.h"

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

int
al_override_refresh(al_loop *loop)
{
    al_state *st = loop->st;
    int time = is_ours(loop, st->str.time, st->loop_time);
    int call_soon = is_ours(loop, st->str.call_soon, st->loop_call_soon);
    if (time < 0 || call_soon < 0) {
        return -1;
    }
    PyObject *run = PyObject_GetAttr(st->asyncio_Handle, st->str._run); /* escapes */
    if (run == NULL) {
        return -1;
    }
    loop->own_time = !time;
    loop->own_call_soon = !call_soon;
    loop->handle_patched = run != st->handle_run;
    Py_DECREF(run);
    loop->seen_type_tag = Py_TYPE(loop)->tp_version_tag;
    loop->seen_handle_tag = ((PyTypeObject *)st->asyncio_Handle)->tp_version_tag;
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
    if (st != NULL && PyUnicode_Check(name) &&
        (PyUnicode_Compare(name, st->str.time) == 0 ||
         PyUnicode_Compare(name, st->str.call_soon) == 0)) {
        return al_override_refresh(loop);
    }
    return 0;
}
