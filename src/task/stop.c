/* stop.c: see stop.h. */
#include "task/stop.h"

/* The next object of the free list is kept in its `value`. */
static PyObject **
value_of(PyObject *stop)
{
    return &((PyStopIterationObject *)stop)->value;
}

static PyObject *
stop_alloc(al_state *st)
{
    PyTypeObject *type = st->StopIteration_type;
    PyObject *stop = st->free_stops.first;
    if (AL_LIKELY(stop != NULL)) {
        st->free_stops.first = *value_of(stop);
        st->free_stops.count--;
        (void)PyObject_Init(stop, type);
        Py_DECREF(type); /* The object in the list had a reference. */
    }
    else {
        stop = type->tp_alloc(type, 0);
        if (stop == NULL) {
            return NULL;
        }
        PyObject_GC_UnTrack(stop);
    }
    ((PyBaseExceptionObject *)stop)->args = Py_NewRef(st->empty_tuple);
    return stop;
}

void
al_stop_raise_steal(al_state *st, PyObject *value)
{
    PyObject *stop = stop_alloc(st);
    if (AL_UNLIKELY(stop == NULL)) {
        Py_DECREF(value);
        return;
    }
    *value_of(stop) = value;
    PyObject_GC_Track(stop);
    al_err_put_steal(stop);
}

static int
stop_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return ((PyTypeObject *)PyExc_StopIteration)->tp_traverse(self, visit, arg);
}

static int
stop_clear(PyObject *self)
{
    return ((PyTypeObject *)PyExc_StopIteration)->tp_clear(self);
}

static void
stop_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    al_state *st = PyType_GetModuleState(type);
    PyObject_GC_UnTrack(self);
    /* Like that of StopIteration: the value, the arguments, the traceback and so on. */
    (void)stop_clear(self); /* escapes */
    if (st->StopIteration_type == type && st->free_stops.count < AL_FREELIST_MAX) {
        ((PyBaseExceptionObject *)self)->suppress_context = 0;
        *value_of(self) = st->free_stops.first;
        st->free_stops.first = self;
        st->free_stops.count++;
        return; /* It keeps its reference to the type. */
    }
    type->tp_free(self);
    Py_DECREF(type);
}

void
al_stop_clear_free_list(al_state *st)
{
    while (st->free_stops.first != NULL) {
        PyObject *stop = st->free_stops.first;
        PyTypeObject *type = Py_TYPE(stop);
        st->free_stops.first = *value_of(stop);
        type->tp_free(stop);
        Py_DECREF(type);
    }
    st->free_stops.count = 0;
}

static PyType_Slot stop_slots[] = {
    {Py_tp_dealloc, stop_dealloc},
    {Py_tp_traverse, stop_traverse},
    {Py_tp_clear, stop_clear},
    {0, NULL},
};

static PyType_Spec stop_spec = {
    .name = "aioloop._core.StopIteration",
    .basicsize = sizeof(PyStopIterationObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = stop_slots,
};

int
al_stop_init_type(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->StopIteration_type, &stop_spec,
                             PyExc_StopIteration);
}

void
al_stop_raise(PyObject *value)
{
    if (!PyTuple_Check(value) && !PyExceptionInstance_Check(value)) {
        PyErr_SetObject(PyExc_StopIteration, value);
        return;
    }
    PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, value);
    if (stop != NULL) {
        PyErr_SetObject(PyExc_StopIteration, stop);
        Py_DECREF(stop);
    }
}
