/* outbuf.c: see outbuf.h. */
#include "io/outbuf.h"

#include <string.h>

enum {
    FIRST_CAPACITY = 8, /* of an allocated array */
    KEPT_CAPACITY = 8,  /* an empty queue keeps an array no larger than this */
};

void
al_outbuf_init(al_outbuf *out)
{
    out->pieces = &out->one;
    out->capacity = 1;
    out->first = out->count = 0;
    out->size = 0;
}

/* Makes room for one more piece behind the last. */
static int
make_room(al_outbuf *out)
{
    if (out->first > out->capacity / 2) {
        memmove(out->pieces, out->pieces + out->first, out->count * sizeof(al_piece));
        out->first = 0;
        return 0;
    }
    size_t capacity =
        out->capacity < FIRST_CAPACITY ? FIRST_CAPACITY : (size_t)out->capacity * 2;
    al_piece *pieces = PyMem_New(al_piece, capacity);
    if (pieces == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(pieces, out->pieces + out->first, out->count * sizeof(al_piece));
    out->first = 0;
    if (out->pieces != &out->one) {
        PyMem_Free(out->pieces);
    }
    out->pieces = pieces;
    out->capacity = (uint32_t)capacity;
    return 0;
}

int
al_outbuf_add(al_outbuf *out, PyObject *owner, const char *data, size_t size)
{
    if (out->first + out->count == out->capacity && make_room(out) < 0) {
        return -1;
    }
    out->pieces[out->first + out->count++] = (al_piece){Py_NewRef(owner), data, size};
    out->size += size;
    return 0;
}

int
al_outbuf_add_copy(al_outbuf *out, const char *data, size_t size)
{
    PyObject *copy = PyBytes_FromStringAndSize(data, (Py_ssize_t)size);
    if (copy == NULL) {
        return -1;
    }
    int status = al_outbuf_add(out, copy, PyBytes_AS_STRING(copy), size);
    Py_DECREF(copy);
    return status;
}

int
al_outbuf_vectors(const al_outbuf *out, struct iovec *vectors, int most)
{
    int n = 0;
    for (; n < most && (uint32_t)n < out->count; n++) {
        const al_piece *piece = &out->pieces[out->first + (uint32_t)n];
        /* The kernel does not write through it; the field has no const. */
        memcpy(&vectors[n].iov_base, &piece->data, sizeof(piece->data));
        vectors[n].iov_len = piece->size;
    }
    return n;
}

void
al_outbuf_copy(const al_outbuf *out, char *to)
{
    for (uint32_t i = 0; i < out->count; i++) {
        const al_piece *piece = &out->pieces[out->first + i];
        memcpy(to, piece->data, piece->size);
        to += piece->size;
    }
}

static void
emptied(al_outbuf *out)
{
    out->first = 0;
    if (out->capacity > KEPT_CAPACITY) {
        PyMem_Free(out->pieces);
        al_outbuf_init(out);
    }
}

void
al_outbuf_drop(al_outbuf *out, size_t n)
{
    out->size -= n;
    while (n > 0) {
        al_piece *piece = &out->pieces[out->first];
        if (piece->size > n) {
            piece->data += n;
            piece->size -= n;
            return;
        }
        n -= piece->size;
        out->first++;
        out->count--;
        Py_DECREF(piece->owner);
    }
    if (out->count == 0) {
        emptied(out);
    }
}

void
al_outbuf_clear(al_outbuf *out)
{
    for (uint32_t i = 0; i < out->count; i++) {
        Py_DECREF(out->pieces[out->first + i].owner);
    }
    out->count = 0;
    out->size = 0;
    emptied(out);
    if (out->pieces != &out->one) {
        PyMem_Free(out->pieces);
        al_outbuf_init(out);
    }
}
