/* drive.c: see drive.h. */
#include "loop/drive.h"

#include <math.h>

#include "core/debug.h"
#include "core/handle.h"
#include "core/poll.h"
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
    int status = al_inbox_claim(loop);
    if (status == 0) {
        status = run_preempting(self, loop); /* escapes */
        al_inbox_leave(loop);
    }
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

/* Runs such a handle that is queued again (an al_run_fn), as the slot that it was. */
static int
run_slot_handle(al_loop *loop, PyObject *op, PyObject *Py_UNUSED(arg),
                PyObject *Py_UNUSED(extra))
{
    al_slot_handle *self = (al_slot_handle *)op;
    if (self->begun || self->slot.self == NULL) {
        return 0;
    }
    self->begun = true; /* From now on the slot stays what it is. */
    const al_slot *slot = &self->slot;
    return slot->run(loop, slot->self, slot->arg, slot->extra); /* escapes */
}

/* Describes it (an al_describe_fn). */
static int
describe_slot_handle(al_loop *Py_UNUSED(loop), const al_slot *slot, PyObject **callback,
                     PyObject **args, PyObject **context)
{
    PyObject *handle = described((al_slot_handle *)slot->self); /* escapes */
    int status = handle == NULL ? -1 : 0;
    if (handle == Py_None) {
        *callback = Py_NewRef(Py_None);
    }
    else if (handle != NULL) {
        *callback = PyObject_GetAttrString(handle, "_callback");
        *args = PyObject_GetAttrString(handle, "_args");
        *context = PyObject_GetAttrString(handle, "_context");
        status = *callback == NULL || *args == NULL || *context == NULL ? -1 : 0;
    }
    if (status < 0) {
        Py_CLEAR(*callback);
        Py_CLEAR(*args);
        Py_CLEAR(*context);
    }
    Py_XDECREF(handle);
    return status;
}

/* --- loop._ready ------------------------------------------------------------------------ */

typedef struct {
    PyObject_HEAD
    al_loop *loop;
} al_queue_view;

/* Before the ready ring is looked at or changed: it has what others have pushed by now.  Of a
 * loop that another thread runs this is refused; see core/inbox.h.  0 or -1. */
static int
complete(al_loop *loop)
{
    AL_OWN(loop, -1);
    return al_inbox_move(loop);
}

PyObject *
al_drive_get_ready(al_loop *loop, void *Py_UNUSED(closure))
{
    if (!al_inbox_is_foreign(loop) && al_inbox_move(loop) < 0) {
        return NULL;
    }
    al_queue_view *view = PyObject_GC_New(al_queue_view, loop->st->QueueView_type);
    if (view == NULL) {
        return NULL;
    }
    view->loop = (al_loop *)Py_NewRef((PyObject *)loop);
    PyObject_GC_Track(view);
    return (PyObject *)view;
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

/* The slot for what a program puts into the queue; borrows the handle. */
static al_slot
slot_for(const al_state *st, PyObject *handle)
{
    al_run_fn run = Py_IS_TYPE(handle, st->SlotHandle_type) ? run_slot_handle
                    : Py_IS_TYPE(handle, st->ThreadSafeHandle_type)
                        ? al_handle_run_threadsafe
                    : al_handle_check(st, handle) ? al_handle_run
                                                  : al_handle_run_foreign;
    return (al_slot){run, handle, NULL, NULL};
}

static bool
is_handle(const al_slot *slot)
{
    return al_handle_is_run_by(slot->run) || slot->run == run_slot_handle;
}

static void
release_slot(al_slot slot, PyObject *note)
{
    Py_DECREF(slot.self); /* escapes */
    Py_XDECREF(slot.arg);
    Py_XDECREF(slot.extra);
    Py_XDECREF(note);
}

/* An empty SlotHandle.  Making it may collect garbage: escapes. */
static al_slot_handle *
new_slot_handle(al_loop *loop)
{
    al_slot_handle *handle =
        PyObject_GC_New(al_slot_handle, loop->st->SlotHandle_type); /* escapes */
    if (handle != NULL) {
        handle->loop = (al_loop *)Py_NewRef((PyObject *)loop);
        handle->slot = (al_slot){0};
        handle->note = NULL;
        handle->begun = handle->cancelled = false;
        PyObject_GC_Track(handle);
    }
    return handle;
}

/* The i-th handle.  A bare slot becomes a SlotHandle where it is, so that it is the same
 * one for whoever looks again.  New reference, NULL with IndexError.  Escapes. */
static PyObject *
handle_at(al_loop *loop, size_t i)
{
    al_ring *ready = &loop->ready;
    al_slot_handle *made = NULL;
    if (i < al_ring_len(ready) && !is_handle(al_ring_at(ready, i))) {
        made = new_slot_handle(loop); /* escapes */
        if (made == NULL) {
            return NULL;
        }
    }
    if (i >= al_ring_len(ready)) {
        Py_XDECREF(made);
        PyErr_SetString(PyExc_IndexError, "deque index out of range");
        return NULL;
    }
    al_slot *slot = al_ring_at(ready, i);
    if (!is_handle(slot)) {
        if (made == NULL) {
            return handle_at(loop, i); /* It is another one by now. */
        }
        made->slot = *slot;
        if (ready->notes != NULL) {
            made->note = Py_XNewRef(ready->notes[(ready->head + i) & ready->mask]);
        }
        *slot = (al_slot){run_slot_handle, Py_NewRef((PyObject *)made), NULL, NULL};
    }
    PyObject *handle = Py_NewRef(slot->self);
    Py_XDECREF(made);
    return handle;
}

/* A collections.deque of the handles.  New reference.  Escapes. */
static PyObject *
as_deque(al_queue_view *self)
{
    PyObject *list = complete(self->loop) < 0 ? NULL : PyList_New(0);
    PyObject *deque = NULL;
    if (list == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < al_ring_len(&self->loop->ready); i++) {
        PyObject *handle = handle_at(self->loop, i); /* escapes */
        int status = handle == NULL ? -1 : PyList_Append(list, handle);
        Py_XDECREF(handle);
        if (status < 0) {
            goto done;
        }
    }
    deque = PyObject_CallOneArg(self->loop->st->deque, list);

done:
    Py_DECREF(list);
    return deque;
}

/* What asyncio's own call_soon_threadsafe does in another thread, where it runs.  A loop that
 * nobody runs yet may begin to meanwhile. */
static int
push_right(al_loop *loop, PyObject *handle)
{
    al_slot slot = slot_for(loop->st, handle);
    if (al_inbox_is_foreign(loop) ||
        (al_inbox_is_outside(loop) && slot.run != run_slot_handle)) {
        return al_inbox_push_steal(loop, slot.run, Py_NewRef(handle), NULL, NULL);
    }
    if (complete(loop) < 0 ||
        al_ring_push_steal(&loop->ready, slot.run, Py_NewRef(handle), NULL, NULL) < 0) {
        return -1;
    }
    if (loop->ready.notes != NULL && slot.run == run_slot_handle) {
        al_ring_note_steal(&loop->ready, Py_XNewRef(((al_slot_handle *)handle)->note));
    }
    return 0;
}

static int
push_left(al_loop *loop, PyObject *handle)
{
    al_ring *ready = &loop->ready;
    if (complete(loop) < 0 || al_ring_reserve(ready, 1) < 0) {
        return -1;
    }
    al_ring_push_front(ready, slot_for(loop->st, handle));
    Py_INCREF(handle);
    if (ready->notes != NULL && Py_IS_TYPE(handle, loop->st->SlotHandle_type)) {
        ready->notes[ready->head & ready->mask] =
            Py_XNewRef(((al_slot_handle *)handle)->note);
    }
    return 0;
}

/* Pushes each of an iterable.  0 or -1.  Escapes. */
static int
push_each(al_loop *loop, PyObject *iterable, int (*push)(al_loop *, PyObject *))
{
    PyObject *list = PySequence_List(iterable); /* escapes */
    int status = list == NULL ? -1 : 0;
    for (Py_ssize_t i = 0; status == 0 && i < PyList_GET_SIZE(list); i++) {
        status = push(loop, PyList_GET_ITEM(list, i));
    }
    Py_XDECREF(list);
    return status;
}

/* Makes the queue hold what the list does.  0 or -1.  Escapes. */
static int
refill(al_loop *loop, PyObject *list)
{
    al_ring *ready = &loop->ready;
    size_t count = (size_t)PyList_GET_SIZE(list), old = al_ring_len(ready);
    al_ring before = {.slots = PyMem_New(al_slot, old + 1)};
    PyObject **notes = PyMem_New(PyObject *, old + 1);
    if (before.slots == NULL || notes == NULL) {
        PyErr_NoMemory();
    }
    if (before.slots == NULL || notes == NULL || al_ring_reserve(ready, count) < 0) {
        PyMem_Free(before.slots);
        PyMem_Free(notes);
        return -1;
    }
    for (size_t i = 0; i < old; i++) {
        notes[i] = al_ring_take_note(ready);
        before.slots[i] = al_ring_pop(ready);
    }
    for (size_t i = 0; i < count; i++) {
        (void)push_right(loop, PyList_GET_ITEM(list, (Py_ssize_t)i));
    }
    for (size_t i = 0; i < old; i++) {
        release_slot(before.slots[i], notes[i]); /* escapes */
    }
    PyMem_Free(before.slots);
    PyMem_Free(notes);
    return 0;
}

int
al_drive_set_ready(al_loop *loop, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "can't delete this attribute");
        return -1;
    }
    PyObject *list = PySequence_List(value); /* escapes */
    int status = list == NULL || complete(loop) < 0 ? -1 : refill(loop, list);
    Py_XDECREF(list);
    return status;
}

/* What a deque's method returns, called on a copy.  New reference.  Escapes. */
static PyObject *
look(al_queue_view *self, const char *method, PyObject *args)
{
    PyObject *deque = as_deque(self); /* escapes */
    PyObject *function = deque == NULL ? NULL : PyObject_GetAttrString(deque, method);
    PyObject *result =
        function == NULL ? NULL : PyObject_CallObject(function, args); /* escapes */
    Py_XDECREF(function);
    Py_XDECREF(deque);
    return result;
}

/* The same of a method that changes the deque: so does the queue.  New reference. */
static PyObject *
edit(al_queue_view *self, const char *method, PyObject *args)
{
    al_loop *loop = (al_loop *)Py_NewRef((PyObject *)self->loop);
    PyObject *deque = as_deque(self), *list = NULL, *result = NULL; /* escapes */
    PyObject *function = deque == NULL ? NULL : PyObject_GetAttrString(deque, method);
    size_t head = loop->ready.head, tail = loop->ready.tail;
    if (function != NULL) {
        result = PyObject_CallObject(function, args); /* escapes */
    }
    if (result != NULL && (head != loop->ready.head || tail != loop->ready.tail)) {
        PyErr_SetString(PyExc_RuntimeError, "deque mutated during iteration");
        Py_CLEAR(result);
    }
    if (result != NULL) {
        list = PySequence_List(deque);
        if (list == NULL || refill(loop, list) < 0) { /* escapes */
            Py_CLEAR(result);
        }
    }
    Py_XDECREF(list);
    Py_XDECREF(function);
    Py_XDECREF(deque);
    Py_DECREF(loop);
    return result;
}

#define LOOK(name)                                                                     \
    static PyObject *QueueView_##name(al_queue_view *self, PyObject *args)             \
    {                                                                                  \
        return look(self, #name, args);                                                \
    }
#define EDIT(name)                                                                     \
    static PyObject *QueueView_##name(al_queue_view *self, PyObject *args)             \
    {                                                                                  \
        return edit(self, #name, args);                                                \
    }

LOOK(index)
LOOK(count)
LOOK(copy)
LOOK(__reversed__)
EDIT(insert)
EDIT(remove)
EDIT(reverse)
EDIT(rotate)

static Py_ssize_t
queue_view_length(al_queue_view *self)
{
    return complete(self->loop) < 0 ? -1 : (Py_ssize_t)al_ring_len(&self->loop->ready);
}

static int
queue_view_bool(al_queue_view *self)
{
    return complete(self->loop) < 0 ? -1 : al_ring_len(&self->loop->ready) > 0;
}

static PyObject *
queue_view_item(al_queue_view *self, Py_ssize_t i)
{
    return complete(self->loop) < 0
               ? NULL
               : handle_at(self->loop, i < 0 ? SIZE_MAX : (size_t)i); /* escapes */
}

static PyObject *
queue_view_subscript(al_queue_view *self, PyObject *key)
{
    if (PyLong_Check(key)) {
        Py_ssize_t i = PyLong_AsSsize_t(key);
        if (i == -1 && PyErr_Occurred()) {
            return NULL;
        }
        Py_ssize_t length = i < 0 ? queue_view_length(self) : 0;
        return length < 0 ? NULL : queue_view_item(self, i + length);
    }
    PyObject *args = PyTuple_Pack(1, key);
    PyObject *result = args == NULL ? NULL : look(self, "__getitem__", args);
    Py_XDECREF(args);
    return result;
}

static int
queue_view_assign(al_queue_view *self, PyObject *key, PyObject *value)
{
    PyObject *args = value == NULL ? PyTuple_Pack(1, key) : PyTuple_Pack(2, key, value);
    PyObject *result =
        args == NULL ? NULL
                     : edit(self, value == NULL ? "__delitem__" : "__setitem__", args);
    Py_XDECREF(args);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static int
queue_view_contains(al_queue_view *self, PyObject *handle)
{
    PyObject *deque = as_deque(self);
    int found = deque == NULL ? -1 : PySequence_Contains(deque, handle); /* escapes */
    Py_XDECREF(deque);
    return found;
}

static PyObject *
queue_view_concat(al_queue_view *self, PyObject *other)
{
    PyObject *deque = as_deque(self);
    PyObject *result = deque == NULL ? NULL : PySequence_Concat(deque, other);
    Py_XDECREF(deque);
    return result;
}

static PyObject *
queue_view_iadd(al_queue_view *self, PyObject *other)
{
    return push_each(self->loop, other, push_right) < 0 ? NULL
                                                        : Py_NewRef((PyObject *)self);
}

static PyObject *
queue_view_repeat(al_queue_view *self, Py_ssize_t times)
{
    PyObject *deque = as_deque(self);
    PyObject *result = deque == NULL ? NULL : PySequence_Repeat(deque, times);
    Py_XDECREF(deque);
    return result;
}

static PyObject *
queue_view_imul(al_queue_view *self, Py_ssize_t times)
{
    PyObject *args = Py_BuildValue("(n)", times);
    PyObject *result = args == NULL ? NULL : edit(self, "__imul__", args);
    Py_XDECREF(args);
    Py_XDECREF(result);
    return result == NULL ? NULL : Py_NewRef((PyObject *)self);
}

/* A view compares as a deque does, with deques and with views. */
static PyObject *
queue_view_compare(PyObject *self, PyObject *other, int op)
{
    PyObject *mine = as_deque((al_queue_view *)self);
    PyObject *theirs = NULL, *result = NULL;
    if (mine != NULL) {
        theirs = Py_IS_TYPE(other, Py_TYPE(self)) ? as_deque((al_queue_view *)other)
                                                  : Py_NewRef(other);
    }
    if (theirs != NULL) {
        result = PyObject_RichCompare(mine, theirs, op); /* escapes */
    }
    Py_XDECREF(theirs);
    Py_XDECREF(mine);
    return result;
}

static PyObject *
queue_view_iter(al_queue_view *self)
{
    PyObject *deque = as_deque(self);
    PyObject *iterator = deque == NULL ? NULL : PyObject_GetIter(deque);
    Py_XDECREF(deque);
    return iterator;
}

static PyObject *
queue_view_repr(al_queue_view *self)
{
    PyObject *deque = as_deque(self);
    PyObject *list = deque == NULL ? NULL : PySequence_List(deque);
    PyObject *repr = list == NULL ? NULL
                                  : PyUnicode_FromFormat("<ready callbacks of %R: %R>",
                                                         self->loop, list);
    Py_XDECREF(list);
    Py_XDECREF(deque);
    return repr;
}

static PyObject *
QueueView_clear(al_queue_view *self, PyObject *Py_UNUSED(ignored))
{
    if (complete(self->loop) < 0) {
        return NULL;
    }
    al_loop *loop = (al_loop *)Py_NewRef((PyObject *)self->loop);
    al_ring_clear(&loop->ready); /* escapes */
    Py_DECREF(loop);
    Py_RETURN_NONE;
}

static PyObject *
none_if(int status)
{
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
QueueView_append(al_queue_view *self, PyObject *handle)
{
    return none_if(push_right(self->loop, handle));
}

static PyObject *
QueueView_appendleft(al_queue_view *self, PyObject *handle)
{
    return none_if(push_left(self->loop, handle));
}

static PyObject *
QueueView_extend(al_queue_view *self, PyObject *iterable)
{
    return none_if(push_each(self->loop, iterable, push_right));
}

static PyObject *
QueueView_extendleft(al_queue_view *self, PyObject *iterable)
{
    return none_if(push_each(self->loop, iterable, push_left));
}

/* What leaves the queue at one end, as a handle; steals the slot's references. */
static PyObject *
taken_steal(al_slot_handle *made, al_slot slot, PyObject *note)
{
    if (!is_handle(&slot)) {
        made->slot = slot;
        made->note = note;
        return (PyObject *)made;
    }
    al_state *st = made->loop->st;
    Py_DECREF(made);
    Py_XDECREF(note);
    if (al_handle_check(st, slot.self)) {
        al_handle_track((al_handle *)slot.self); /* It has left the queue. */
    }
    return slot.self;
}

/* A SlotHandle to put a slot into, if there is one: NULL with IndexError. */
static al_slot_handle *
prepare_to_take(al_queue_view *self)
{
    al_slot_handle *made = new_slot_handle(self->loop); /* escapes */
    if (made != NULL && complete(self->loop) < 0) {
        Py_CLEAR(made);
    }
    if (made != NULL && al_ring_len(&self->loop->ready) == 0) {
        Py_CLEAR(made);
        PyErr_SetString(PyExc_IndexError, "pop from an empty deque");
    }
    return made;
}

static PyObject *
QueueView_popleft(al_queue_view *self, PyObject *Py_UNUSED(ignored))
{
    al_ring *ready = &self->loop->ready;
    al_slot_handle *made = prepare_to_take(self); /* escapes */
    if (made == NULL) {
        return NULL;
    }
    PyObject *note = al_ring_take_note(ready);
    return taken_steal(made, al_ring_pop(ready), note);
}

static PyObject *
QueueView_pop(al_queue_view *self, PyObject *Py_UNUSED(ignored))
{
    al_slot_handle *made = prepare_to_take(self); /* escapes */
    PyObject *note;
    if (made == NULL) {
        return NULL;
    }
    al_slot slot = al_ring_pop_back(&self->loop->ready, &note);
    return taken_steal(made, slot, note);
}

static PyObject *
queue_view_get_maxlen(al_queue_view *Py_UNUSED(self), void *Py_UNUSED(closure))
{
    Py_RETURN_NONE;
}

static PyGetSetDef queue_view_getsets[] = {
    {"maxlen", (getter)queue_view_get_maxlen, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef queue_view_methods[] = {
    {"append", (PyCFunction)QueueView_append, METH_O, NULL},
    {"appendleft", (PyCFunction)QueueView_appendleft, METH_O, NULL},
    {"clear", (PyCFunction)QueueView_clear, METH_NOARGS, NULL},
    {"copy", (PyCFunction)QueueView_copy, METH_VARARGS, NULL},
    {"__copy__", (PyCFunction)QueueView_copy, METH_VARARGS, NULL},
    {"count", (PyCFunction)QueueView_count, METH_VARARGS, NULL},
    {"extend", (PyCFunction)QueueView_extend, METH_O, NULL},
    {"extendleft", (PyCFunction)QueueView_extendleft, METH_O, NULL},
    {"index", (PyCFunction)QueueView_index, METH_VARARGS, NULL},
    {"insert", (PyCFunction)QueueView_insert, METH_VARARGS, NULL},
    {"pop", (PyCFunction)QueueView_pop, METH_NOARGS, NULL},
    {"popleft", (PyCFunction)QueueView_popleft, METH_NOARGS, NULL},
    {"remove", (PyCFunction)QueueView_remove, METH_VARARGS, NULL},
    {"reverse", (PyCFunction)QueueView_reverse, METH_VARARGS, NULL},
    {"rotate", (PyCFunction)QueueView_rotate, METH_VARARGS, NULL},
    {"__reversed__", (PyCFunction)QueueView___reversed__, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot queue_view_slots[] = {
    {Py_tp_dealloc, queue_view_dealloc},     {Py_tp_traverse, queue_view_traverse},
    {Py_tp_methods, queue_view_methods},     {Py_tp_getset, queue_view_getsets},
    {Py_tp_richcompare, queue_view_compare}, {Py_tp_hash, PyObject_HashNotImplemented},
    {Py_sq_length, queue_view_length},       {Py_sq_item, queue_view_item},
    {Py_sq_contains, queue_view_contains},   {Py_sq_concat, queue_view_concat},
    {Py_sq_inplace_concat, queue_view_iadd}, {Py_sq_repeat, queue_view_repeat},
    {Py_sq_inplace_repeat, queue_view_imul}, {Py_mp_length, queue_view_length},
    {Py_mp_subscript, queue_view_subscript}, {Py_mp_ass_subscript, queue_view_assign},
    {Py_nb_bool, queue_view_bool},           {Py_tp_iter, queue_view_iter},
    {Py_tp_repr, queue_view_repr},           {0, NULL},
};

static PyType_Spec queue_view_spec = {
    .name = "aioloop._core.QueueView",
    .basicsize = sizeof(al_queue_view),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = queue_view_slots,
};

/* --- loop._scheduled -------------------------------------------------------------------- */

PyObject *
al_drive_get_scheduled(al_loop *loop, void *Py_UNUSED(closure))
{
    AL_OWN(loop, NULL);
    PyObject *list = al_timers_lend(&loop->timers);
    al_override_timers_moved(loop); /* An iteration of ours takes them back. */
    return list;
}

int
al_drive_set_scheduled(al_loop *loop, PyObject *value, void *Py_UNUSED(closure))
{
    AL_OWN(loop, -1);
    if (value == NULL || !PyList_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "_scheduled is a list");
        return -1;
    }
    bool none = loop->timers.lent == NULL && loop->timers.length == 0 &&
                !al_timers_have_due(&loop->timers);
    if (none && PyList_GET_SIZE(value) == 0) {
        return 0; /* asyncio's __init__ */
    }
    int status = al_timers_replace(&loop->timers, value); /* escapes */
    al_override_timers_moved(loop);
    return status;
}

PyObject *
al_drive_get_cancelled_count(al_loop *loop, void *Py_UNUSED(closure))
{
    return PyLong_FromSize_t(loop->timers.cancelled);
}

/* asyncio's iteration counts; while the timers are in our heap, we do. */
int
al_drive_set_cancelled_count(al_loop *loop, PyObject *value, void *Py_UNUSED(closure))
{
    Py_ssize_t count = value == NULL ? 0 : PyLong_AsSsize_t(value); /* escapes */
    if (count == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (loop->timers.lent != NULL) {
        loop->timers.cancelled = count < 0 ? 0 : (size_t)count;
    }
    return 0;
}

/* --- the selector ------------------------------------------------------------------------- */

/* What the last wait found: a list of (descriptor, events). */
static PyObject *
found_events(al_loop *self)
{
    PyObject *list = PyList_New(0);
    int fd, events;
    for (size_t i = 0; list != NULL && self->poll != NULL &&
                       al_poll_logged(self->poll, i, &fd, &events);
         i++) {
        PyObject *pair = Py_BuildValue("ii", fd, events);
        if (pair == NULL || PyList_Append(list, pair) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(pair);
    }
    return list;
}

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
    if (al_sched_claim(self) < 0) {
        return NULL;
    }
    PyObject *events = NULL;
    if (al_poll_keep_log(self->poll, true) == 0) {
        int status = al_sched_select(self, limit); /* escapes */
        events = status < 0 ? NULL : found_events(self);
        if (self->poll != NULL) {
            (void)al_poll_keep_log(self->poll, false);
        }
    }
    al_inbox_leave(self);
    return events;
}

/* LibevSelector has been given another select(). */
static PyObject *
EventLoop__look_again(al_loop *self, PyObject *Py_UNUSED(ignored))
{
    AL_OWN(self, NULL);
    al_override_forget(self);
    Py_RETURN_NONE;
}

PyMethodDef al_drive_methods[] = {
    {"_select", (PyCFunction)EventLoop__select, METH_O, NULL},
    {"_look_again", (PyCFunction)EventLoop__look_again, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

int
al_drive_init_types(PyObject *module, al_state *st)
{
    if (al_state_add_type(module, &st->SlotHandle_type, &slot_handle_spec, NULL) < 0) {
        return -1;
    }
    if (al_state_add_type(module, &st->QueueView_type, &queue_view_spec, NULL) < 0) {
        return -1;
    }
    return al_debug_describe(st, run_slot_handle, describe_slot_handle, 0);
}
