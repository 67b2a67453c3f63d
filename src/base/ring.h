/* ring.h: a FIFO of slots that grows.
 *
 * A slot is one unit of work for the scheduler: a C function and up to three objects
 * that it needs.  The ring owns the objects of the slots inside it.  Capacity is a
 * power of two; head and tail are free-running counters that growing does not change.
 * Pushing leaves one slot free, in reserve for al_ring_put_steal.
 *
 * A ring may keep a note for each slot: an object, or NULL, that says where the slot
 * comes from.  Notes of free slots are NULL.  In debug mode they are stacks.
 *
 * It may keep a stamp for each slot, too: a time, given to all slots at once that were
 * pushed since the last stamp, so that a push costs nothing. */
#ifndef AL_BASE_RING_H
#define AL_BASE_RING_H

#include "base/py.h"

struct al_loop;

/* Runs a slot.  The arguments are borrowed from the scheduler, which releases them
 * afterwards.  0, or -1 with an exception that has to leave run_forever
 * (KeyboardInterrupt, SystemExit, MemoryError of our own): everything else has been
 * reported to the loop's exception handler by the time it returns. */
typedef int (*al_run_fn)(struct al_loop *loop, PyObject *self, PyObject *arg,
                         PyObject *extra);

typedef struct {
    al_run_fn run;
    PyObject *self;  /* owned, never NULL */
    PyObject *arg;   /* owned or NULL */
    PyObject *extra; /* owned or NULL */
} al_slot;

/* When a slot was pushed, if that is not known: long after it runs. */
#define AL_NO_STAMP INT64_MAX

typedef struct {
    al_slot *slots;
    size_t mask; /* capacity - 1 */
    size_t head, tail;
    PyObject **notes; /* parallel to slots; NULL: none are kept */
    int64_t *stamps;  /* the same */
    size_t stamped;   /* the slots below this one have their stamps */
} al_ring;

/* 0, or -1 with MemoryError. */
int al_ring_init(al_ring *ring);
/* Doubles the capacity until `n` slots more have room.  0, or -1 with MemoryError and
 * the ring as it was. */
int al_ring_grow(al_ring *ring, size_t n);
/* Releases every slot's objects; foreign code may run and may push again, so the
 * ring is empty only when it returns with length 0 (it loops until it is). */
void al_ring_clear(al_ring *ring);
/* Begins to keep notes (0, or -1 with MemoryError), or ceases to and drops those there
 * are (escapes). */
int al_ring_keep_notes(al_ring *ring);
void al_ring_drop_notes(al_ring *ring);
/* Begins to keep stamps, `now` for the slots there are (0, or -1 with MemoryError), or
 * ceases to. */
int al_ring_keep_stamps(al_ring *ring, int64_t now);
void al_ring_drop_stamps(al_ring *ring);
/* Clears, and frees the storage. */
void al_ring_free(al_ring *ring);
/* Reverses the order of the newest `n` slots. */
void al_ring_reverse_tail(al_ring *ring, size_t n);
/* Gives the oldest `n` slots, notes and stamps another order: the i-th becomes the one that
 * was the from[i]-th, each once.  `from` is used up. */
void al_ring_permute(al_ring *ring, size_t *from, size_t n);

static inline size_t
al_ring_len(const al_ring *ring)
{
    return ring->tail - ring->head;
}

/* The i-th slot from the head; i must be below the length. */
static inline al_slot *
al_ring_at(const al_ring *ring, size_t i)
{
    return &ring->slots[(ring->head + i) & ring->mask];
}

static inline bool
al_ring_has_room(const al_ring *ring, size_t n)
{
    return AL_LIKELY(al_ring_len(ring) + n <= ring->mask);
}

/* Makes room for `n` more slots, so that the next `n` pushes cannot fail.
 * 0, or -1 with MemoryError. */
static inline int
al_ring_reserve(al_ring *ring, size_t n)
{
    return al_ring_has_room(ring, n) ? 0 : al_ring_grow(ring, n);
}

/* Appends a slot without looking for room: there is some, if only the reserve. */
static inline void
al_ring_put_steal(al_ring *ring, al_run_fn run, PyObject *self, PyObject *arg,
                  PyObject *extra)
{
    ring->slots[ring->tail++ & ring->mask] = (al_slot){run, self, arg, extra};
}

/* Appends a slot; steals the three references, also when it fails.
 * 0, or -1 with MemoryError. */
static inline int
al_ring_push_steal(al_ring *ring, al_run_fn run, PyObject *self, PyObject *arg,
                   PyObject *extra)
{
    if (AL_UNLIKELY(al_ring_reserve(ring, 1) < 0)) {
        Py_DECREF(self);
        Py_XDECREF(arg);
        Py_XDECREF(extra);
        return -1;
    }
    al_ring_put_steal(ring, run, self, arg, extra);
    return 0;
}

/* Gives the newest slot a note, and steals it; the ring keeps notes. */
static inline void
al_ring_note_steal(al_ring *ring, PyObject *note)
{
    ring->notes[(ring->tail - 1) & ring->mask] = note;
}

/* Takes the note of the oldest slot, or NULL.  New reference. */
static inline PyObject *
al_ring_take_note(al_ring *ring)
{
    if (AL_LIKELY(ring->notes == NULL)) {
        return NULL;
    }
    PyObject *note = ring->notes[ring->head & ring->mask];
    ring->notes[ring->head & ring->mask] = NULL;
    return note;
}

/* Takes the newest slot and its note, which the caller owns.  The ring must not be empty. */
static inline al_slot
al_ring_pop_back(al_ring *ring, PyObject **note)
{
    size_t at = --ring->tail & ring->mask;
    *note = ring->notes == NULL ? NULL : ring->notes[at];
    if (ring->notes != NULL) {
        ring->notes[at] = NULL;
    }
    return ring->slots[at];
}

/* Puts a slot in front, whose references it takes over: there is room. */
static inline void
al_ring_push_front(al_ring *ring, al_slot slot)
{
    ring->slots[--ring->head & ring->mask] = slot;
}

/* Stamps the slots that were pushed since the last stamp, if the ring keeps stamps. */
static inline void
al_ring_stamp(al_ring *ring, int64_t now)
{
    if (AL_UNLIKELY(ring->stamps == NULL)) {
        return;
    }
    size_t at = ring->stamped, mask = ring->mask;
    if (AL_UNLIKELY(ring->tail - at > al_ring_len(ring))) {
        at = ring->head; /* Some were taken out before. */
    }
    for (; at != ring->tail; at++) {
        ring->stamps[at & mask] = now;
    }
    ring->stamped = at;
}

/* Gives the newest slot, which has a stamp, another one. */
static inline void
al_ring_stamp_newest(al_ring *ring, int64_t now)
{
    if (AL_LIKELY(ring->stamps != NULL)) {
        ring->stamps[(ring->tail - 1) & ring->mask] = now;
    }
}

/* The stamp of the oldest slot, or AL_NO_STAMP. */
static inline int64_t
al_ring_head_stamp(const al_ring *ring)
{
    return ring->stamps == NULL ? AL_NO_STAMP : ring->stamps[ring->head & ring->mask];
}

/* Takes the oldest slot, whose note must have been taken; the caller owns its objects.
 * The ring must not be empty. */
static inline al_slot
al_ring_pop(al_ring *ring)
{
    return ring->slots[ring->head++ & ring->mask];
}

#endif
