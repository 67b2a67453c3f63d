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

/* The object has another content and length now: nobody but us can have seen it. */
static PyObject *
written_anew(PyObject *bytes, const char *data, Py_ssize_t size)
{
    memcpy(PyBytes_AS_STRING(bytes), data, (size_t)size);
    PyBytes_AS_STRING(bytes)[size] = '\0';
    Py_SET_SIZE((PyVarObject *)bytes, size);
    al_bytes_forget_hash(bytes);
    return Py_NewRef(bytes);
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
        return written_anew(last, data, size);
    }
    PyObject *made = PyBytes_FromStringAndSize(data, size);
    if (made != NULL) {
        loop->received = Py_NewRef(made);
        loop->received_room = size;
        Py_XDECREF(last);
    }
    return made;
}
