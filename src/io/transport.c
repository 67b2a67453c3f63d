/* transport.c: see transport.h. */
#include "io/transport.h"

int
al_transport_begin(al_loop *loop, PyObject *transport, PyObject *protocol,
                   PyObject *waiter, al_run_fn start)
{
    al_state *st = loop->st;
    PyObject *method = PyObject_GetAttr(protocol, st->str.connection_made);
    if (method == NULL) {
        return -1;
    }
    int status =
        al_sched_call_soon(st, (PyObject *)loop, method, transport, NULL); /* escapes */
    Py_DECREF(method);
    if (status < 0) {
        return -1;
    }
    waiter = waiter == Py_None ? NULL : waiter;
    return al_sched_push_steal(loop, start, Py_NewRef(transport), Py_XNewRef(waiter),
                               NULL);
}

int
al_transport_tell(al_loop *loop, PyObject *waiter)
{
    if (waiter == NULL) {
        return 0;
    }
    PyObject *done = PyObject_CallFunctionObjArgs(loop->st->set_result_unless_cancelled,
                                                  waiter, Py_None, NULL); /* escapes */
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

PyObject *
al_transport_soon(al_loop *loop, PyObject *transport, al_run_fn run)
{
    if (loop == NULL || loop->closed ||
        al_sched_push_steal(loop, run, Py_NewRef(transport), NULL, NULL) == 0) {
        Py_RETURN_NONE;
    }
    return NULL;
}

void
al_transport_warn_unclosed(PyObject *transport)
{
    if (PyErr_ResourceWarning(transport, 1, "unclosed transport %R", transport) <
        0) { /* escapes */
        PyErr_WriteUnraisable(transport);
    }
}

void
al_transport_dealloc(PyObject *transport)
{
    PyTypeObject *type = Py_TYPE(transport);
    if (PyObject_CallFinalizerFromDealloc(transport) < 0) { /* escapes */
        return;
    }
    PyObject_GC_UnTrack(transport);
    if (*(PyObject **)(void *)((char *)transport + type->tp_weaklistoffset) != NULL) {
        PyObject_ClearWeakRefs(transport); /* escapes */
    }
    (void)type->tp_clear(transport); /* escapes */
    type->tp_free(transport);
    Py_DECREF(type);
}
