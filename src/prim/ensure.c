/* ensure.c: see ensure.h. */
#include "prim/ensure.h"

#include "base/origin.h"

/* loop.create_task(coroutine), as ensure_future() calls it.  New reference.  Escapes. */
static PyObject *
start(const al_state *st, PyObject *loop, PyObject *coroutine)
{
    PyObject *task =
        PyObject_CallMethodOneArg(loop, st->str.create_task, coroutine); /* escapes */
    if (AL_UNLIKELY(task == NULL) && PyErr_ExceptionMatches(PyExc_RuntimeError)) {
        PyObject *exc = al_err_take();
        if (al_primitive_call(coroutine, st->str.close) < 0) { /* escapes */
            al_primitive_chain(&exc);
        }
        al_err_put_steal(exc);
    }
    return task;
}

PyObject *
al_ensure_future(const al_state *st, PyObject *loop, PyObject *arg, bool names_loop)
{
    PyObject *ensure = al_attribute(st->closures.globals, "module", st->ensure.name);
    PyObject *future = NULL, *args[] = {arg, loop};
    if (ensure == NULL) {
        return NULL;
    }
    if (AL_LIKELY(ensure == st->ensure.function && al_ensure_is_coroutine(st, arg))) {
        future = start(st, loop, arg); /* escapes */
    }
    else if (ensure == st->ensure.function && al_ensure_is_own(st, arg, loop)) {
        future = Py_NewRef(arg);
    }
    else {
        future = PyObject_Vectorcall(ensure, args, 1,
                                     names_loop ? st->ensure.kwnames_loop : NULL);
    }
    Py_DECREF(ensure);
    return future;
}

int
al_ensure_init(al_state *st)
{
    const char *name = PY_VERSION_HEX < 0x030C0000 ? "_ensure_future" : "ensure_future";
    PyObject *function = PyDict_GetItemString(st->closures.globals, name);
    st->ensure.name = PyUnicode_InternFromString(name);
    st->ensure.kwnames_loop = Py_BuildValue("(s)", "loop");
    if (function != NULL && al_origin_is_function(function, "asyncio.tasks", name)) {
        st->ensure.function = Py_NewRef(function);
    }
    return st->ensure.name == NULL || st->ensure.kwnames_loop == NULL ? -1 : 0;
}
