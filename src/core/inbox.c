/* inbox.c: see inbox.h. */
#include "core/inbox.h"

#if AL_FREE_THREADED

#include "core/debug.h"
#include "core/handle.h"
#include "core/sched.h"

int
al_inbox_open(al_loop *loop)
{
    return al_ring_init(&loop->inbox.ring);
}

/* What is dropped runs foreign code, so it is taken out with the lock and dropped without
 * it. */
void
al_inbox_clear(al_loop *loop)
{
    al_inbox *inbox = &loop->inbox;
    for (;;) {
        al_lock_take(&loop->wake.lock);
        bool some = al_ring_len(&inbox->ring) > 0;
        al_slot slot = {NULL, NULL, NULL, NULL};
        PyObject *note = NULL;
        if (some) {
            note = al_ring_take_note(&inbox->ring);
            slot = al_ring_pop(&inbox->ring);
        }
        AL_STORE(inbox->some, some);
        al_lock_give(&loop->wake.lock);
        if (!some) {
            return;
        }
        Py_DECREF(slot.self); /* escapes */
        Py_XDECREF(slot.arg);
        Py_XDECREF(slot.extra);
        Py_XDECREF(note);
    }
}

void
al_inbox_free(al_loop *loop)
{
    if (loop->inbox.ring.slots != NULL) {
        al_inbox_clear(loop); /* escapes */
        al_ring_free(&loop->inbox.ring);
    }
}

int
al_inbox_traverse(al_loop *loop, visitproc visit, void *arg)
{
    const al_ring *ring = &loop->inbox.ring;
    for (size_t i = 0; ring->slots != NULL && i < al_ring_len(ring); i++) {
        const al_slot *slot = al_ring_at(ring, i);
        Py_VISIT(slot->self);
        Py_VISIT(slot->arg);
        Py_VISIT(slot->extra);
    }
    return 0;
}

int
al_inbox_keep_notes(al_loop *loop)
{
    al_lock_take(&loop->wake.lock);
    int status = al_ring_keep_notes(&loop->inbox.ring);
    al_lock_give(&loop->wake.lock);
    return status;
}

/* The ring is another one while they are dropped, which runs foreign code. */
void
al_inbox_drop_notes(al_loop *loop)
{
    al_ring *ring = &loop->inbox.ring;
    al_lock_take(&loop->wake.lock);
    al_ring dropped = {.mask = ring->mask, .notes = ring->notes};
    ring->notes = NULL;
    al_lock_give(&loop->wake.lock);
    al_ring_drop_notes(&dropped); /* escapes */
}

/* Who only changes something of a loop that is nobody's has its critical section. */
void
al_inbox_set_runner(al_loop *loop, unsigned long thread)
{
    if (thread != 0) {
        AL_STORE(loop->inbox.last, thread);
    }
    if (thread != 0 || loop->inbox.drives == 0) {
        AL_STORE(loop->inbox.owner, thread);
    }
}

void
al_inbox_hold(al_hold *hold, al_loop *loop)
{
    unsigned long owner = loop == NULL ? 0 : AL_LOAD(loop->inbox.owner);
    hold->foreign = owner != 0 && owner != PyThread_get_thread_ident();
    hold->held = false;
    if (AL_UNLIKELY(loop != NULL && owner == 0)) {
        PyCriticalSection_Begin(&hold->section, (PyObject *)loop);
        hold->held = true;
        hold->foreign = al_inbox_is_foreign(loop); /* It may have begun to run. */
    }
}

void
al_inbox_let_go(al_hold *hold)
{
    if (AL_UNLIKELY(hold->held)) {
        PyCriticalSection_End(&hold->section);
    }
}

int
al_inbox_claim(al_loop *loop)
{
    bool foreign;
    AL_CRITICAL_BEGIN((PyObject *)loop);
    foreign = al_inbox_is_foreign(loop);
    if (!foreign) {
        unsigned long thread = PyThread_get_thread_ident();
        AL_STORE(loop->inbox.owner, thread);
        AL_STORE(loop->inbox.last, thread);
        loop->inbox.drives++;
    }
    AL_CRITICAL_END();
    return foreign ? al_inbox_refuse() : 0;
}

void
al_inbox_leave(al_loop *loop)
{
    if (--loop->inbox.drives == 0 && AL_LOAD(loop->thread_id) == 0) {
        AL_STORE(loop->inbox.owner, 0);
    }
}

bool
al_inbox_is_foreign(const al_loop *loop)
{
    unsigned long owner = loop == NULL ? 0 : AL_LOAD(loop->inbox.owner);
    return owner != 0 && owner != PyThread_get_thread_ident();
}

bool
al_inbox_is_outside(const al_loop *loop)
{
    return AL_LOAD(loop->inbox.owner) != PyThread_get_thread_ident();
}

bool
al_inbox_was_foreign(const al_loop *loop)
{
    return AL_LOAD(loop->inbox.last) != PyThread_get_thread_ident();
}

int
al_inbox_refuse(void)
{
    PyErr_SetString(PyExc_RuntimeError,
                    "Non-thread-safe operation invoked on an event loop other than the "
                    "current one");
    return -1;
}

int
al_inbox_push_steal(al_loop *loop, al_run_fn run, PyObject *self, PyObject *arg,
                    PyObject *extra)
{
    al_inbox *inbox = &loop->inbox;
    PyObject *note = al_inbox_is_foreign(loop) || al_handle_is_run_by(run)
                         ? NULL
                         : al_debug_note(loop); /* escapes */
    al_lock_take(&loop->wake.lock);
    bool closed = AL_LOAD(loop->closed);
    int status = closed ? -1 : al_ring_reserve(&inbox->ring, 1);
    if (status == 0) {
        al_ring_put_steal(&inbox->ring, run, self, arg, extra);
        if (note != NULL && inbox->ring.notes != NULL) {
            al_ring_note_steal(&inbox->ring, note);
            note = NULL;
        }
        AL_STORE(inbox->some, true);
        al_wake_locked(loop);
    }
    al_lock_give(&loop->wake.lock);
    Py_XDECREF(note);
    if (status < 0) {
        if (closed) {
            PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
        }
        PyObject *error = al_err_take();
        Py_DECREF(self); /* escapes */
        Py_XDECREF(arg);
        Py_XDECREF(extra);
        al_err_put_steal(error);
    }
    return status;
}

int
al_inbox_move(al_loop *loop)
{
    al_inbox *inbox = &loop->inbox;
    if (AL_LIKELY(!AL_LOAD(inbox->some))) {
        return 0;
    }
    al_lock_take(&loop->wake.lock);
    size_t length = al_ring_len(&inbox->ring);
    int status = al_ring_reserve(&loop->ready, length);
    for (; status == 0 && length > 0; length--) {
        PyObject *note = al_ring_take_note(&inbox->ring);
        al_slot slot = al_ring_pop(&inbox->ring);
        al_ring_put_steal(&loop->ready, slot.run, slot.self, slot.arg, slot.extra);
        if (note != NULL) {
            al_ring_note_steal(&loop->ready, note); /* It keeps them as long as this. */
        }
    }
    AL_STORE(inbox->some, length > 0);
    al_lock_give(&loop->wake.lock);
    al_look_expect(&loop->look);
    return status;
}

bool
al_inbox_waits(al_loop *loop, Py_ssize_t *slots)
{
    al_lock_take(&loop->wake.lock);
    bool blocked = loop->wake.blocked;
    *slots = (Py_ssize_t)al_ring_len(&loop->inbox.ring);
    al_lock_give(&loop->wake.lock);
    return blocked;
}

bool
al_inbox_has_some(const al_loop *loop)
{
    return al_ring_len(&loop->inbox.ring) > 0;
}

#endif
