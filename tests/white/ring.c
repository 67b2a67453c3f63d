/* The ring of slots against an array: order, notes and stamps through growing, reversing,
 * permuting, and both ends. */
#include "white.h"

#include "base/ring.c"

enum { MOST = 4096 };

typedef struct {
    PyObject *self, *note; /* borrowed from the ring */
    int64_t stamp;
} modelled;

static modelled model[MOST];
static size_t length;

static int
run(struct al_loop *Py_UNUSED(loop), PyObject *Py_UNUSED(self),
    PyObject *Py_UNUSED(arg), PyObject *Py_UNUSED(extra))
{
    return 0;
}

static void
compare(const al_ring *ring, bool notes)
{
    CHECK(al_ring_len(ring) == length && length <= ring->mask);
    for (size_t i = 0; i < length; i++) {
        CHECK(al_ring_at(ring, i)->self == model[i].self);
        if (notes) {
            CHECK(ring->notes[(ring->head + i) & ring->mask] == model[i].note);
        }
    }
}

static void
push(al_ring *ring, bool notes)
{
    static long number;
    PyObject *self = PyLong_FromLong(1000000 + number++);
    CHECK(self != NULL);
    CHECK(al_ring_push_steal(ring, run, self, Py_NewRef(Py_None), NULL) == 0);
    model[length] = (modelled){self, NULL, -1};
    if (notes && number % 3 == 0) {
        model[length].note = PyLong_FromLong(-1000000 - number);
        al_ring_note_steal(ring, model[length].note);
    }
    length++;
}

static void
pop(al_ring *ring, bool stamps)
{
    CHECK(!stamps || model[0].stamp < 0 || al_ring_head_stamp(ring) == model[0].stamp);
    PyObject *note = al_ring_take_note(ring);
    al_slot slot = al_ring_pop(ring);
    CHECK(slot.run == run && slot.self == model[0].self && note == model[0].note);
    Py_DECREF(slot.self);
    Py_XDECREF(slot.arg);
    Py_XDECREF(note);
    memmove(model, model + 1, --length * sizeof(*model));
}

static void
pop_back(al_ring *ring)
{
    PyObject *note;
    al_slot slot = al_ring_pop_back(ring, &note);
    length--;
    CHECK(slot.self == model[length].self && note == model[length].note);
    Py_XDECREF(note);
    /* Put back in front, as a slot that goes first, without a note. */
    al_ring_push_front(ring, slot);
    memmove(model + 1, model, length * sizeof(*model));
    model[0] = (modelled){slot.self, NULL, -1};
    length++;
}

static void
reverse(al_ring *ring, size_t n)
{
    al_ring_reverse_tail(ring, n);
    for (size_t i = 0; i < n / 2; i++) {
        size_t a = length - n + i, b = length - 1 - i;
        modelled swap = model[a];
        model[a] = model[b];
        model[b] = swap;
    }
    for (size_t i = length - n; i < length; i++) {
        model[i].stamp = -1; /* What has been reversed has no stamps yet. */
    }
}

static void
permute(al_ring *ring, white_input *input, size_t n)
{
    static size_t from[MOST];
    static modelled before[MOST];
    for (size_t i = 0; i < n; i++) {
        from[i] = i;
    }
    for (size_t i = n; i > 1; i--) {
        size_t j = white_below(input, i), swap = from[i - 1];
        from[i - 1] = from[j];
        from[j] = swap;
    }
    memcpy(before, model, n * sizeof(*model));
    for (size_t i = 0; i < n; i++) {
        model[i] = before[from[i]];
    }
    al_ring_permute(ring, from, n);
}

static void
one(white_input *input)
{
    al_ring ring;
    bool notes = white_below(input, 2), stamps = white_below(input, 2);
    int64_t now = 1;
    length = 0;
    CHECK(al_ring_init(&ring) == 0);
    CHECK(!notes || al_ring_keep_notes(&ring) == 0);
    CHECK(!stamps || al_ring_keep_stamps(&ring, now) == 0);
    /* Starting near the counters' end, as after 2^64 slots. */
    if (white_below(input, 2) == 1 && !stamps) {
        ring.head = ring.tail = SIZE_MAX - white_below(input, 64);
    }
    while (white_more(input)) {
        switch (white_below(input, 16)) {
        case 0:
            if (length > 0 && !stamps) {
                pop_back(&ring);
            }
            break;
        case 1:
            if (!stamps) {
                reverse(&ring, white_below(input, length + 1));
            }
            break;
        case 2:
            al_ring_stamp(&ring, ++now);
            for (size_t i = 0; i < length && stamps; i++) {
                model[i].stamp = model[i].stamp < 0 ? now : model[i].stamp;
            }
            if (!stamps || length == 0) {
                break;
            }
            permute(&ring, input, white_below(input, length + 1));
            break;
        case 3:
            CHECK(al_ring_reserve(&ring, white_below(input, 200)) == 0);
            break;
        case 4:
        case 5:
        case 6:
        case 7:
        case 8:
        case 9:
            if (length > 0) {
                pop(&ring, stamps);
            }
            break;
        default:
            if (length < MOST - 1) {
                push(&ring, notes);
            }
        }
        compare(&ring, notes);
    }
    al_ring_free(&ring);
}
