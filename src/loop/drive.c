/* drive.c: see drive.h. */
#include "loop/drive.h"

#include <math.h>

#include "core/debug.h"
#include "core/handle.h"
#include "task/registry.h"

/* --- a slot in the place of a Handle -------------------------------------------------- */

/* The slot stays until the handle dies, as the callback of a Handle does, so that a
 * program can tell what it has run. */
typedef struct {
    PyObject_HEAD
    al_loop *loop;
    al_slot slot;   /* slot.self is NULL once cancelled */
    PyObject *note; /* the slot's, or NULL */
    bool begun;     /* a slot runs once */
    bool cancelled;
} al_slot_handle;

static int
slot_handle_traverse(al_slot_handle *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    Py_VISIT(self->slot.self);
    Py_VISIT(self->slot.arg);
    Py_VISIT(self->slot.extra);
    Py_VISIT(self->note);
    return 0;
}

static void
slot_handle_drop(al_slot_handle *self)
{
    al_slot slot = self->slot;
    PyObject *note = self->note;
    self->slot = (al_slot){0};
    self->note = NULL;
    Py_XDECREF(slot.self); /* escapes */
    Py_XDECREF(slot.arg);
    Py_XDECREF(slot.extra);
    Py_XDECREF(note);
}

static int
slot_handle_clear(al_slot_handle *self)
{
    slot_handle_drop(self);
    Py_CLEAR(self->loop);
    return 0;
}

static void
slot_handle_dealloc(al_slot_handle *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)slot_handle_clear(self); /* escapes */
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

/* Whatever task the loop runs is put aside meanwhile: a slot sees its own or none.
 * Without memory for that the slot has not begun. */
static int
run_preempting(al_slot_handle *self, al_loop *loop)
{
    PyObject *preempted;
    /* Room for al_sched_put_back, which a slot may call when there is no memory left. */
    if (al_sched_check_thread(loop) < 0 || al_ring_reserve(&loop->ready, 1) < 0 ||
        al_registry_preempt(loop, &preempted) < 0) { /* escapes */
        return -1;
    }
    int status = 0;
    if (!self->begun && self->slot.self != NULL) {
        self->begun = true; /* From now on the slot stays what it is. */
        status = al_sched_run_slot(loop, &self->slot, self->note); /* escapes */
    }
    return al_registry_resume_steal(loop, preempted, status);
}

static PyObject *
SlotHandle__run(al_slot_handle *self, PyObject *Py_UNUSED(ignored))
{
    al_loop *loop = (al_loop *)Py_NewRef((PyObject *)self->loop);
    Py_INCREF(self);
    int status = run_preempting(self, loop); /* escapes */
    Py_DECREF(self);
    Py_DECREF(loop);
    if (status < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
SlotHandle_cancel(al_slot_handle *self, PyObject *Py_UNUSED(ignored))
{
    self->cancelled = true;
    if (!self->begun) {
        slot_handle_drop(self); /* escapes */
    }
    Py_RETURN_NONE;
}

static PyObject *
SlotHandle_cancelled(al_slot_handle *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(self->cancelled);
}

static PyObject *
slot_handle_get_cancelled(al_slot_handle *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->cancelled);
}

/* The Handle that asyncio would have, or None.  Describing a slot escapes. */
static PyObject *
described(al_slot_handle *self)
{
    if (self->slot.self == NULL) {
        Py_RETURN_NONE;
    }
    al_slot slot = self->slot;
    PyObject *note = Py_XNewRef(self->note);
    Py_INCREF(slot.self);
    Py_XINCREF(slot.arg);
    Py_XINCREF(slot.extra);
    PyObject *handle = al_debug_handle_of(self->loop, &slot, note); /* escapes */
    Py_DECREF(slot.self);
    Py_XDECREF(slot.arg);
    Py_XDECREF(slot.extra);
    Py_XDECREF(note);
    return handle;
}

/* What else asyncio's Handle has: _callback, _args, get_context() ... */
static PyObject *
slot_handle_getattro(PyObject *self, PyObject *name)
{
    PyObject *value = PyObject_GenericGetAttr(self, name);
    if (value != NULL || !PyErr_ExceptionMatches(PyExc_AttributeError)) {
        return value;
    }
    PyErr_Clear();                                        /* the AttributeError */
    PyObject *handle = described((al_slot_handle *)self); /* escapes */
    if (handle != NULL) {
        value = PyObject_GetAttr(handle, name); /* escapes */
        Py_DECREF(handle);
    }
    return value;
}

static PyObject *
slot_handle_repr(al_slot_handle *self)
{
    PyObject *handle = described(self); /* escapes */
    if (handle == NULL) {
        return NULL;
    }
    PyObject *repr = handle == Py_None ? PyUnicode_FromString("<Handle cancelled>")
                                       : PyObject_Repr(handle); /* escapes */
    Py_DECREF(handle);
    return repr;
}

static PyMethodDef slot_handle_methods[] = {
    {"_run", (PyCFunction)SlotHandle__run, METH_NOARGS, NULL},
    {"cancel", (PyCFunction)SlotHandle_cancel, METH_NOARGS, NULL},
    {"cancelled", (PyCFunction)SlotHandle_cancelled, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef slot_handle_getsets[] = {
    {"_cancelled", (getter)slot_handle_get_cancelled, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static char slot_handle_doc[] =
    PyDoc_STR("What loop._ready.popleft() gives for work that has no Handle.");

static PyType_Slot slot_handle_slots[] = {
    {Py_tp_doc, slot_handle_doc},
    {Py_tp_dealloc, slot_handle_dealloc},
    {Py_tp_traverse, slot_handle_traverse},
    {Py_tp_clear, slot_handle_clear},
    {Py_tp_repr, slot_handle_repr},
    {Py_tp_getattro, slot_handle_getattro},
    {Py_tp_methods, slot_handle_methods},
    {Py_tp_getset, slot_handle_getsets},
    {0, NULL},
};

static PyType_Spec slot_handle_spec = {
    .name = "aioloop._core.SlotHandle",
    .basicsize = sizeof(al_slot_handle),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slot_handle_slots,
};

/* --- the queues ------------------------------------------------------------------------- */

/* loop._ready, or loop._scheduled if `timers`. */
typedef struct {
    PyObject_HEAD
    al_loop *loop;
    bool timers;
} al_queue_view;

static PyObject *
queue_view_new(al_loop *loop, bool timers)
{
    al_queue_view *view = PyObject_GC_New(al_queue_view, loop->st->QueueView_type);
    if (view == NULL) {
        return NULL;
    }
    view->loop = (al_loop *)Py_NewRef((PyObject *)loop);
    view->timers = timers;
    PyObject_GC_Track(view);
    return (PyObject *)view;
}

PyObject *
al_drive_get_ready(al_loop *loop, void *Py_UNUSED(closure))
{
    return queue_view_new(loop, false);
}

PyObject *
al_drive_get_scheduled(al_loop *loop, void *Py_UNUSED(closure))
{
    return queue_view_new(loop, true);
}

static int
queue_view_traverse(al_queue_view *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    return 0;
}

static void
queue_view_dealloc(al_queue_view *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_DECREF(self->loop); /* escapes */
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static Py_ssize_t
queue_view_length(al_queue_view *self)
{
    const al_timers *timers = &self->loop->timers;
    return (Py_ssize_t)(self->timers
                            ? timers->length + (timers->due_tail - timers->due_head)
                            : al_ring_len(&self->loop->ready));
}

static int
queue_view_bool(al_queue_view *self)
{
    al_loop *loop = self->loop;
    if (self->timers) {
        if (al_override_stale(loop) && al_override_refresh(loop) < 0) { /* escapes */
            return -1;
        }
        if (loop->overrides.run_once) {
            return 0; /* select() moves them. */
        }
    }
    return queue_view_length(self) > 0;
}

/* A list of what is queued; a bare slot shows as the object it works for. */
static PyObject *
queue_view_list(al_queue_view *self)
{
    PyObject *list = PyList_New(0);
    const al_loop *loop = self->loop;
    if (list == NULL) {
        return NULL;
    }
    /* Appending allocates and may collect garbage: indices are checked each time. */
    if (self->timers) {
        const al_timers *timers = &loop->timers;
        for (size_t i = 0; i < timers->length; i++) {
            if (PyList_Append(list, (PyObject *)timers->heap[i].handle) < 0) {
                goto error;
            }
        }
        for (size_t i = timers->due_head; i != timers->due_tail; i++) {
            al_handle *handle = timers->due[i & timers->due_mask].handle;
            if (PyList_Append(list, (PyObject *)handle) < 0) {
                goto error;
            }
        }
    }
    else {
        for (size_t i = 0; i < al_ring_len(&loop->ready); i++) {
            if (PyList_Append(list, al_ring_at(&loop->ready, i)->self) < 0) {
                goto error;
            }
        }
    }
    return list;

error:
    Py_DECREF(list);
    return NULL;
}

/* _scheduled[0] is the timer that comes first, as in asyncio's heap. */
static PyObject *
queue_view_item(al_queue_view *self, Py_ssize_t i)
{
    if (self->timers && i == 0) {
        PyObject *first = (PyObject *)al_timers_first(&self->loop->timers);
        if (first != NULL) {
            return Py_NewRef(first);
        }
    }
    PyObject *list = queue_view_list(self);
    if (list == NULL || (self->timers && PyList_Sort(list) < 0)) { /* escapes */
        Py_XDECREF(list);
        return NULL;
    }
    PyObject *item = PySequence_GetItem(list, i);
    Py_DECREF(list);
    return item;
}

static PyObject *
queue_view_iter(al_queue_view *self)
{
    PyObject *list = queue_view_list(self);
    if (list == NULL) {
        return NULL;
    }
    PyObject *iterator = PyObject_GetIter(list);
    Py_DECREF(list);
    return iterator;
}

static PyObject *
queue_view_repr(al_queue_view *self)
{
    PyObject *list = queue_view_list(self);
    if (list == NULL) {
        return NULL;
    }
    PyObject *repr = PyUnicode_FromFormat("<%s of %R: %R>",
                                          self->timers ? "timers" : "ready callbacks",
                                          self->loop, list);
    Py_DECREF(list);
    return repr;
}

static PyObject *
QueueView_clear(al_queue_view *self, PyObject *Py_UNUSED(ignored))
{
    al_loop *loop = self->loop;
    Py_INCREF(loop);
    if (self->timers) {
        al_timers_clear(&loop->timers); /* escapes */
    }
    else {
        al_ring_clear(&loop->ready); /* escapes */
    }
    Py_DECREF(loop);
    Py_RETURN_NONE;
}

static PyObject *
QueueView_append(al_queue_view *self, PyObject *handle)
{
    return PyObject_CallMethod((PyObject *)self->loop, "_add_callback", "O", handle);
}

static PyObject *
QueueView_popleft(al_queue_view *self, PyObject *Py_UNUSED(ignored))
{
    if (self->timers) {
        PyErr_SetString(
            PyExc_AttributeError,
            "_scheduled has no popleft(): the loop's select() moves timers");
        return NULL;
    }
    al_loop *loop = self->loop;
    al_ring *ready = &loop->ready;
    al_slot_handle *handle =
        PyObject_GC_New(al_slot_handle, loop->st->SlotHandle_type); /* escapes */
    if (handle == NULL) {
        return NULL;
    }
    handle->loop = (al_loop *)Py_NewRef((PyObject *)loop);
    handle->slot = (al_slot){0};
    handle->note = NULL;
    handle->begun = handle->cancelled = false;
    PyObject_GC_Track(handle);
    if (al_ring_len(ready) == 0) {
        Py_DECREF(handle);
        PyErr_SetString(PyExc_IndexError, "pop from an empty deque");
        return NULL;
    }
    handle->note = al_ring_take_note(ready);
    handle->slot = al_ring_pop(ready);
    if (!al_handle_is_run_by(handle->slot.run)) {
        return (PyObject *)handle;
    }
    PyObject *queued = Py_NewRef(handle->slot.self);
    Py_DECREF(handle);
    if (al_handle_check(loop->st, queued) && !PyObject_GC_IsTracked(queued)) {
        PyObject_GC_Track(queued); /* It has left the queue. */
    }
    return queued;
}

static PyMethodDef queue_view_methods[] = {
    {"append", (PyCFunction)QueueView_append, METH_O, NULL},
    {"clear", (PyCFunction)QueueView_clear, METH_NOARGS, NULL},
    {"popleft", (PyCFunction)QueueView_popleft, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot queue_view_slots[] = {
    {Py_tp_dealloc, queue_view_dealloc},
    {Py_tp_traverse, queue_view_traverse},
    {Py_tp_methods, queue_view_methods},
    {Py_sq_length, queue_view_length},
    {Py_sq_item, queue_view_item},
    {Py_nb_bool, queue_view_bool},
    {Py_tp_iter, queue_view_iter},
    {Py_tp_repr, queue_view_repr},
    {0, NULL},
};

static PyType_Spec queue_view_spec = {
    .name = "aioloop._core.QueueView",
    .basicsize = sizeof(al_queue_view),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = queue_view_slots,
};

/* --- the selector ------------------------------------------------------------------------- */

/* What Loop's selector does in select(timeout): seconds, or None for no limit. */
static PyObject *
EventLoop__select(al_loop *self, PyObject *timeout)
{
    int64_t limit = -1;
    if (timeout != Py_None) {
        double seconds = PyFloat_AsDouble(timeout); /* escapes */
        if (seconds == -1.0 && PyErr_Occurred()) {
            return NULL;
        }
        limit = !(seconds > 0)    ? 0
                : seconds < 86400 ? (int64_t)ceil(seconds * 1e9)
                                  : (int64_t)86400 * 1000000000;
    }
    if (al_sched_select(self, limit) < 0) { /* escapes */
        return NULL;
    }
    Py_RETURN_NONE;
}

PyMethodDef al_drive_methods[] = {
    {"_select", (PyCFunction)EventLoop__select, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

int
al_drive_init_types(PyObject *module, al_state *st)
{
    if (al_state_add_type(module, &st->SlotHandle_type, &slot_handle_spec, NULL) < 0) {
        return -1;
    }
    return al_state_add_type(module, &st->QueueView_type, &queue_view_spec, NULL);
}
