/* inbox.c: see inbox.h. */
#include "core/inbox.h"

#if AL_FREE_THREADED

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
        if (some) {
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

bool
al_inbox_is_foreign(const al_loop *loop)
{
    unsigned long runner = loop == NULL ? 0 : AL_LOAD(loop->thread_id);
    return runner != 0 && runner != PyThread_get_thread_ident();
}

bool
al_inbox_is_outside(const al_loop *loop)
{
    return AL_LOAD(loop->thread_id) != PyThread_get_thread_ident();
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
    al_lock_take(&loop->wake.lock);
    bool closed = AL_LOAD(loop->closed);
    int status = closed ? -1 : al_ring_reserve(&inbox->ring, 1);
    if (status == 0) {
        al_ring_put_steal(&inbox->ring, run, self, arg, extra);
        AL_STORE(inbox->some, true);
        al_wake_locked(loop);
    }
    al_lock_give(&loop->wake.lock);
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
        al_slot slot = al_ring_pop(&inbox->ring);
        al_ring_put_steal(&loop->ready, slot.run, slot.self, slot.arg, slot.extra);
    }
    AL_STORE(inbox->some, length > 0);
    al_lock_give(&loop->wake.lock);
    al_look_expect(&loop->look);
    return status;
}

bool
al_inbox_has_some(const al_loop *loop)
{
    return al_ring_len(&loop->inbox.ring) > 0;
}

#endif
