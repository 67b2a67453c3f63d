/* arena.c: see arena.h. */
#include "io/arena.h"

#include <string.h>

enum {
    KEPT_FROM = 512, /* Python has free lists for smaller objects */
    KEPT_TO = 16 * 1024,
};

char *
al_arena(al_loop *loop)
{
    if (AL_UNLIKELY(loop->arena == NULL)) {
        loop->arena = PyMem_RawMalloc(AL_ARENA_BYTES);
        if (loop->arena == NULL) {
            PyErr_NoMemory();
        }
    }
    return loop->arena;
}

char *
al_arena_take(al_loop *loop)
{
    char *arena = al_arena(loop);
    loop->arena = NULL;
    return arena;
}

void
al_arena_give_back(al_loop *loop, char *arena)
{
    PyMem_RawFree(loop->arena);
    loop->arena = arena;
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
al_arena_bytes(al_loop *loop, const char *data, Py_ssize_t size)
{
    if (size < KEPT_FROM || size > KEPT_TO) {
        return PyBytes_FromStringAndSize(data, size);
    }
    PyObject *last = loop->received;
    if (last != NULL && Py_REFCNT(last) == 1 && size <= loop->received_room &&
        size >= loop->received_room / 2) {
        memcpy(PyBytes_AS_STRING(last), data, (size_t)size);
        set_size(last, size);
        return Py_NewRef(last);
    }
    PyObject *made = PyBytes_FromStringAndSize(data, size);
    if (made != NULL) {
        loop->received = Py_NewRef(made);
        loop->received_room = size;
        Py_XDECREF(last);
    }
    return made;
}

PyObject *
al_arena_large(al_loop *loop, Py_ssize_t size)
{
    PyObject *last = loop->received_large;
    if (last != NULL && Py_REFCNT(last) == 1 && size <= loop->received_large_room &&
        size >= loop->received_large_room / 2) {
        return Py_NewRef(last);
    }
    PyObject *made = PyBytes_FromStringAndSize(NULL, size);
    if (made != NULL) {
        loop->received_large = Py_NewRef(made);
        loop->received_large_room = size;
        Py_XDECREF(last);
    }
    return made;
}

PyObject *
al_arena_fit_steal(al_loop *loop, PyObject *bytes, Py_ssize_t size)
{
    Py_ssize_t room = loop->received_large_room;
    AL_ASSERT(bytes == loop->received_large && size <= room);
    set_size(bytes, size);
    if (size < room / 4 * 3) {
        /* Should the program keep it, it would take much more than it holds. */
        Py_CLEAR(loop->received_large);
        Py_SET_SIZE((PyVarObject *)bytes, room);
        (void)_PyBytes_Resize(&bytes, size);
    }
    return bytes;
}
