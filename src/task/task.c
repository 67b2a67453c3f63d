/* task.c: Future and Task are asyncio's own for now. */
#include "task/future.h"
#include "task/task.h"
#include "task/registry.h"
PyObject *
al_future_new(al_loop *loop)
{
    PyObject *k = Py_BuildValue("{s:O}", "loop", loop);
    PyObject *a = PyTuple_New(0);
    PyObject *r = PyObject_Call(loop->st->asyncio_Future, a, k);
    Py_DECREF(a);
    Py_DECREF(k);
    return r;
}
int
al_future_init_types(PyObject *module, al_state *st)
{
    (void)module;
    st->Future_type = (PyTypeObject *)Py_NewRef(st->asyncio_Future);
    return 0;
}
void
al_future_clear_free_lists(al_state *st)
{
    (void)st;
}
PyObject *
al_task_new(al_loop *loop, PyObject *coro, PyObject *name, PyObject *context, int eager)
{
    (void)eager;
    PyObject *k =
        Py_BuildValue("{s:O,s:O,s:O}", "loop", loop, "name", name ? name : Py_None,
                      "context", context ? context : Py_None);
    PyObject *a = PyTuple_Pack(1, coro);
    PyObject *r = PyObject_Call(loop->st->asyncio_Task, a, k);
    Py_DECREF(a);
    Py_DECREF(k);
    return r;
}
int
al_task_init_types(PyObject *module, al_state *st)
{
    (void)module;
    st->Task_type = (PyTypeObject *)Py_NewRef(st->asyncio_Task);
    return 0;
}
int
al_registry_init(PyObject *module, al_state *st)
{
    (void)module;
    (void)st;
    return 0;
}
void
al_registry_clear(al_state *st)
{
    (void)st;
}
void
al_registry_leave(al_loop *loop)
{
    (void)loop;
}
