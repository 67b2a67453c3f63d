/* ring.c: growing, clearing and walking the FIFO of slots. */
#include "base/ring.h"

#include "base/check.h"

int
al_ring_init(al_ring *ring)
{
    ring->slots = PyMem_New(al_slot, AL_RING_START);
    if (ring->slots == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    ring->mask = AL_RING_START - 1;
    ring->head = ring->tail = 0;
    ring->notes = NULL;
    ring->stamps = NULL;
    ring->stamped = 0;
    return 0;
}

int
al_ring_grow(al_ring *ring, size_t n)
{
    size_t length = al_ring_len(ring);
    size_t capacity = (ring->mask + 1) * 2;
    while (capacity <= length + n) {
        capacity *= 2;
    }
    al_slot *slots = ring->slots == NULL ? NULL : PyMem_New(al_slot, capacity);
    if (slots == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    size_t mask = capacity - 1;
    PyObject **notes =
        ring->notes == NULL ? NULL : PyMem_Calloc(capacity, sizeof(*notes));
    int64_t *stamps =
        ring->stamps == NULL ? NULL : PyMem_Calloc(capacity, sizeof(*stamps));
    if ((notes == NULL) != (ring->notes == NULL) ||
        (stamps == NULL) != (ring->stamps == NULL)) {
        PyMem_Free(slots);
        PyMem_Free(notes);
        PyMem_Free(stamps);
        PyErr_NoMemory();
        return -1;
    }
    if (stamps != NULL) {
        for (size_t i = 0; i < length; i++) {
            size_t at = ring->head + i;
            stamps[at & mask] = ring->stamps[at & ring->mask];
        }
        PyMem_Free(ring->stamps);
        ring->stamps = stamps;
    }
    if (notes != NULL) {
        for (size_t i = 0; i < length; i++) {
            size_t at = ring->head + i;
            notes[at & mask] = ring->notes[at & ring->mask];
        }
        PyMem_Free(ring->notes);
        ring->notes = notes;
    }
    for (size_t i = 0; i < length; i++) {
        slots[(ring->head + i) & mask] = *al_ring_at(ring, i);
    }
    PyMem_Free(ring->slots);
    ring->slots = slots;
    ring->mask = mask;
    return 0;
}

void
al_ring_clear(al_ring *ring)
{
    while (al_ring_len(ring) > 0) {
        PyObject *note = al_ring_take_note(ring);
        al_slot slot = al_ring_pop(ring);
        Py_XDECREF(note);     /* escapes */
        Py_DECREF(slot.self); /* escapes */
        Py_XDECREF(slot.arg);
        Py_XDECREF(slot.extra);
    }
}

int
al_ring_keep_notes(al_ring *ring)
{
    if (ring->notes == NULL) {
        ring->notes = PyMem_Calloc(ring->mask + 1, sizeof(*ring->notes));
        if (ring->notes == NULL) {
            PyErr_NoMemory();
            return -1;
        }
    }
    return 0;
}

void
al_ring_drop_notes(al_ring *ring)
{
    PyObject **notes = ring->notes;
    size_t capacity = ring->mask + 1;
    ring->notes = NULL;
    if (notes != NULL) {
        for (size_t i = 0; i < capacity; i++) {
            Py_XDECREF(notes[i]); /* escapes */
        }
        PyMem_Free(notes);
    }
}

int
al_ring_keep_stamps(al_ring *ring, int64_t now)
{
    if (ring->stamps == NULL) {
        ring->stamps = PyMem_Calloc(ring->mask + 1, sizeof(*ring->stamps));
        if (ring->stamps == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        ring->stamped = ring->head;
        al_ring_stamp(ring, now);
    }
    return 0;
}

void
al_ring_drop_stamps(al_ring *ring)
{
    PyMem_Free(ring->stamps);
    ring->stamps = NULL;
}

void
al_ring_free(al_ring *ring)
{
    al_ring_clear(ring);
    al_ring_drop_notes(ring);
    al_ring_drop_stamps(ring);
    PyMem_Free(ring->slots);
    *ring = (al_ring){0};
}

void
al_ring_reverse_tail(al_ring *ring, size_t n)
{
    size_t low = ring->tail - n, high = ring->tail - 1;
    for (; n > 1; n -= 2) { /* The counters may pass their end in between. */
        size_t a = low++ & ring->mask, b = high-- & ring->mask;
        al_slot swap = ring->slots[a];
        ring->slots[a] = ring->slots[b];
        ring->slots[b] = swap;
        if (ring->notes != NULL) {
            PyObject *note = ring->notes[a];
            ring->notes[a] = ring->notes[b];
            ring->notes[b] = note;
        }
    }
}

/* A slot with what belongs to it. */
typedef struct {
    al_slot slot;
    PyObject *note;
    int64_t stamp;
} whole_slot;

static whole_slot
get_whole(const al_ring *ring, size_t i)
{
    size_t at = (ring->head + i) & ring->mask;
    return (whole_slot){
        ring->slots[at],
        ring->notes == NULL ? NULL : ring->notes[at],
        ring->stamps == NULL ? 0 : ring->stamps[at],
    };
}

static void
put_whole(al_ring *ring, size_t i, whole_slot whole)
{
    size_t at = (ring->head + i) & ring->mask;
    ring->slots[at] = whole.slot;
    if (ring->notes != NULL) {
        ring->notes[at] = whole.note;
    }
    if (ring->stamps != NULL) {
        ring->stamps[at] = whole.stamp;
    }
}

void
al_ring_permute(al_ring *ring, size_t *from, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        /* One cycle; where it has been, from[j] is j. */
        whole_slot first = get_whole(ring, i);
        size_t j = i;
        while (from[j] != i) {
            size_t next = from[j];
            put_whole(ring, j, get_whole(ring, next));
            from[j] = j;
            j = next;
        }
        put_whole(ring, j, first);
        from[j] = j;
    }
}
