/* arena.c: see arena.h. */
#include "base/arena.h"

#include <string.h>

#include "base/check.h"

enum {
    KEPT_FROM = 512, /* Python has free lists for smaller objects */
    KEPT_TO = 16 * 1024,
};

char *
al_arena_pieces(al_arena *arena)
{
    if (AL_UNLIKELY(arena->pieces == NULL)) {
        arena->pieces = PyMem_RawMalloc(AL_ARENA_BYTES);
        if (arena->pieces == NULL) {
            PyErr_NoMemory();
        }
    }
    return arena->pieces;
}

char *
al_arena_take(al_arena *arena)
{
    char *pieces = al_arena_pieces(arena);
    arena->pieces = NULL;
    return pieces;
}

void
al_arena_give_back(al_arena *arena, char *pieces)
{
    PyMem_RawFree(arena->pieces);
    arena->pieces = pieces;
}

/* The object has another length now, and perhaps content: nobody but us can have seen
 * it. */
static void
set_size(PyObject *bytes, Py_ssize_t size)
{
    PyBytes_AS_STRING(bytes)[size] = '\0';
    Py_SET_SIZE((PyVarObject *)bytes, size);
    al_bytes_forget_hash(bytes);
}

PyObject *
al_arena_bytes(al_arena *arena, const char *data, Py_ssize_t size)
{
    if (size < KEPT_FROM || size > KEPT_TO) {
        return PyBytes_FromStringAndSize(data, size);
    }
    PyObject *last = arena->small;
    if (last != NULL && Py_REFCNT(last) == 1 && size <= arena->small_room &&
        size >= arena->small_room / 2) {
        memcpy(PyBytes_AS_STRING(last), data, (size_t)size);
        set_size(last, size);
        return Py_NewRef(last);
    }
    PyObject *made = PyBytes_FromStringAndSize(data, size);
    if (made != NULL) {
        arena->small = Py_NewRef(made);
        arena->small_room = size;
        Py_XDECREF(last);
    }
    return made;
}

PyObject *
al_arena_large(al_arena *arena, Py_ssize_t size)
{
    PyObject *last = arena->large;
    if (last != NULL && Py_REFCNT(last) == 1 && size <= arena->large_room &&
        size >= arena->large_room / 2) {
        return Py_NewRef(last);
    }
    PyObject *made = PyBytes_FromStringAndSize(NULL, size);
    if (made != NULL) {
        arena->large = Py_NewRef(made);
        arena->large_room = size;
        Py_XDECREF(last);
    }
    return made;
}

PyObject *
al_arena_fit_steal(al_arena *arena, PyObject *bytes, Py_ssize_t size)
{
    Py_ssize_t room = arena->large_room;
    AL_ASSERT(bytes == arena->large && size <= room);
    set_size(bytes, size);
    if (size < room / 4 * 3) {
        /* Should the program keep it, it would take much more than it holds. */
        Py_CLEAR(arena->large);
        Py_SET_SIZE((PyVarObject *)bytes, room);
        (void)_PyBytes_Resize(&bytes, size);
    }
    return bytes;
}

char *
al_arena_buffer(al_arena *arena)
{
    if (AL_UNLIKELY(arena->buffer == NULL)) {
        arena->buffer = PyMem_Malloc(AL_ARENA_BUFFER);
        if (arena->buffer == NULL) {
            PyErr_NoMemory();
        }
    }
    return arena->buffer;
}

void
al_arena_clear(al_arena *arena)
{
    PyMem_Free(arena->buffer);
    PyMem_RawFree(arena->pieces);
    arena->buffer = arena->pieces = NULL;
    Py_CLEAR(arena->small);
    Py_CLEAR(arena->large);
}
