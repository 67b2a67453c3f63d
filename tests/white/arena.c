/* Bytes objects that are written anew: what somebody has kept never changes. */
#include "white.h"

#include "base/arena.c"

enum { KEPT = 16, LARGEST = 300 * 1024 };

typedef struct {
    PyObject *bytes; /* NULL: none */
    Py_ssize_t size;
    unsigned char content;
} keepsake;

static keepsake kept[KEPT];

static void
check(const keepsake *it)
{
    const char *data = PyBytes_AS_STRING(it->bytes);
    CHECK(PyBytes_GET_SIZE(it->bytes) == it->size && data[it->size] == '\0');
    CHECK(it->size == 0 || ((unsigned char)data[0] == it->content &&
                            memcmp(data, data + 1, (size_t)it->size - 1) == 0));
    PyObject *copy = PyBytes_FromStringAndSize(data, it->size);
    CHECK(copy != NULL && PyObject_Hash(copy) == PyObject_Hash(it->bytes));
    Py_DECREF(copy);
}

static PyObject *
receive(al_arena *arena, white_input *input, unsigned char content, Py_ssize_t *size)
{
    if (white_below(input, 2) == 0) {
        *size = (Py_ssize_t)white_below(input, 20000);
        memset(al_arena_buffer(arena), content, (size_t)*size);
        return al_arena_bytes(arena, arena->buffer, *size);
    }
    Py_ssize_t room = 1 + (Py_ssize_t)white_below(input, 65536) * 4;
    PyObject *bytes = al_arena_large(arena, room);
    CHECK(bytes != NULL);
    *size = 1 + (Py_ssize_t)white_below(input, 65536) * 4 % room;
    memset(PyBytes_AS_STRING(bytes), content, (size_t)*size);
    return al_arena_fit_steal(arena, bytes, *size);
}

static void
one(white_input *input)
{
    al_arena arena = {0};
    unsigned char content = 0;
    memset(kept, 0, sizeof(kept));
    while (white_more(input)) {
        keepsake *it = &kept[white_below(input, KEPT)];
        if (white_below(input, 3) == 0) {
            Py_CLEAR(it->bytes);
        }
        else {
            keepsake new = {.content = ++content};
            new.bytes = receive(&arena, input, content, &new.size);
            CHECK(new.bytes != NULL);
            Py_XSETREF(it->bytes, new.bytes);
            *it = new;
        }
        for (int i = 0; i < KEPT; i++) {
            if (kept[i].bytes != NULL) {
                check(&kept[i]);
            }
        }
    }
    for (int i = 0; i < KEPT; i++) {
        Py_CLEAR(kept[i].bytes);
    }
    al_arena_clear(&arena);
}
