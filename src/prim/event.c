/* event.c: see event.h. */
#include "prim/event.h"

#include "prim/primitive.h"

/* Mirrors Event.set().  0 or -1.  Escapes. */
static int
set(al_state *st, PyObject *dict)
{
    int is_set = al_primitive_truth(dict, st->str._value); /* escapes */
    if (is_set != 0) {
        return is_set < 0 ? -1 : 0;
    }
    if (PyDict_SetItem(dict, st->str._value, Py_True) < 0) {
        return -1;
    }
    PyObject *waiters = al_attribute(dict, "Event", st->str._waiters);
    if (AL_LIKELY(waiters != NULL && Py_IS_TYPE(waiters, (PyTypeObject *)st->deque) &&
                  Py_SIZE(waiters) == 0)) {
        Py_DECREF(waiters);
        return 0;
    }
    PyObject *iterator = waiters == NULL ? NULL : PyObject_GetIter(waiters);
    PyObject *waiter = NULL;
    int status = iterator == NULL ? -1 : 0;
    while (status == 0 && (waiter = PyIter_Next(iterator)) != NULL) {
        int done = al_primitive_is_done(st, waiter); /* escapes */
        status = done < 0    ? -1
                 : done == 0 ? al_primitive_resolve(st, waiter, Py_True) /* escapes */
                             : 0;
        Py_DECREF(waiter);
    }
    Py_XDECREF(iterator);
    Py_XDECREF(waiters);
    return status < 0 || PyErr_Occurred() ? -1 : 0;
}

int
al_event_set(al_state *st, PyObject *event)
{
    PyObject *dict;
    int status = al_replaced_class(st, event, &dict) == AL_PRIM_EVENT
                     ? set(st, dict)                          /* escapes */
                     : al_primitive_call(event, st->str.set); /* escapes */
    Py_XDECREF(dict);
    return status;
}

int
al_event_clear(al_state *st, PyObject *event)
{
    PyObject *dict;
    int status;
    if (al_replaced_class(st, event, &dict) == AL_PRIM_EVENT) {
        PyObject *value = PyDict_GetItemWithError(dict, st->str._value);
        status = value == Py_False ? 0
                 : value == NULL && PyErr_Occurred()
                     ? -1
                     : PyDict_SetItem(dict, st->str._value, Py_False); /* escapes */
    }
    else {
        status = al_primitive_call(event, st->str.clear); /* escapes */
    }
    Py_XDECREF(dict);
    return status;
}
