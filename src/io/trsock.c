/* trsock.c: see trsock.h. */
#include "io/trsock.h"

#include "base/layout.h"
#include "io/write.h"

typedef struct {
    PyObject_HEAD
    PyObject *sock;    /* the word of asyncio's slot _sock */
    al_stream *stream; /* borrowed, or NULL: it has parted */
} al_trsock;

static void trsock_dealloc(al_trsock *self);

static bool
is_ours(PyObject *op)
{
    return Py_TYPE(op)->tp_dealloc == (destructor)trsock_dealloc;
}

/* One of asyncio's, which sends nothing first: nothing will be corked any more. */
static PyObject *
make_asyncios(const al_state *st, PyObject *sock, al_stream *stream)
{
    int status = 0;
    if (stream != NULL) {
        stream->shared = true;
        status = al_write_flush(stream); /* escapes */
    }
    return status < 0 ? NULL : PyObject_CallOneArg(st->TransportSocket, sock);
}

PyObject *
al_trsock_new(al_state *st, PyObject *sock, al_stream *stream)
{
    if (AL_UNLIKELY(st->TransportSocket_type == NULL)) {
        return make_asyncios(st, sock, stream); /* escapes */
    }
    al_trsock *self = PyObject_GC_New(al_trsock, st->TransportSocket_type);
    if (self != NULL) {
        self->sock = Py_NewRef(sock);
        self->stream = stream;
        PyObject_GC_Track(self);
    }
    return (PyObject *)self;
}

void
al_trsock_part(PyObject *op)
{
    if (op != NULL && is_ours(op)) {
        ((al_trsock *)op)->stream = NULL;
    }
}

/* The socket, when what was written before has been sent.  New reference, or NULL.
 * Escapes. */
static PyObject *
get_sock(al_trsock *self, void *Py_UNUSED(closure))
{
    PyObject *sock = Py_XNewRef(self->sock);
    al_stream *stream = self->stream;
    if (sock == NULL) {
        PyErr_SetString(PyExc_AttributeError, "_sock");
        return NULL;
    }
    if (stream != NULL) {
        Py_INCREF(stream);
        int status = al_write_flush(stream); /* escapes */
        Py_DECREF(stream);                   /* escapes */
        if (status < 0) {
            Py_CLEAR(sock);
        }
    }
    return sock;
}

/* A method that gives the descriptor away. */
static PyObject *
give_away(al_trsock *self, const char *method)
{
    if (self->stream != NULL) {
        self->stream->shared = true;
    }
    PyObject *sock = get_sock(self, NULL); /* escapes */
    PyObject *result =
        sock == NULL ? NULL : PyObject_CallMethod(sock, method, NULL); /* escapes */
    Py_XDECREF(sock);
    return result;
}

static PyObject *
TransportSocket_fileno(al_trsock *self, PyObject *Py_UNUSED(ignored))
{
    return give_away(self, "fileno");
}

static PyObject *
TransportSocket_dup(al_trsock *self, PyObject *Py_UNUSED(ignored))
{
    return give_away(self, "dup");
}

/* --- the type ---------------------------------------------------------------------------------- */

static int
trsock_traverse(al_trsock *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->sock);
    return 0;
}

static int
trsock_clear(al_trsock *self)
{
    Py_CLEAR(self->sock);
    return 0;
}

static void
trsock_dealloc(al_trsock *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)trsock_clear(self); /* escapes */
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef trsock_methods[] = {
    {"fileno", (PyCFunction)TransportSocket_fileno, METH_NOARGS, NULL},
    {"dup", (PyCFunction)TransportSocket_dup, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef trsock_getsets[] = {
    {"_sock", (getter)get_sock, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot trsock_slots[] = {
    {Py_tp_dealloc, trsock_dealloc}, {Py_tp_traverse, trsock_traverse},
    {Py_tp_clear, trsock_clear},     {Py_tp_methods, trsock_methods},
    {Py_tp_getset, trsock_getsets},  {0, NULL},
};

static PyType_Spec trsock_spec = {
    .name = "aioloop._core.TransportSocket",
    .basicsize = sizeof(al_trsock),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = trsock_slots,
};

int
al_trsock_init_type(PyObject *module, al_state *st)
{
    const PyTypeObject *base = (PyTypeObject *)st->TransportSocket;
    size_t size = (size_t)base->tp_basicsize;
    if (size == offsetof(al_trsock, stream) +
                    (size_t)al_layout_lie(AL_LAYOUT_TRANSPORT_SOCKET, 0)) {
        if (al_state_add_type(module, &st->TransportSocket_type, &trsock_spec,
                              st->TransportSocket) < 0) {
            return -1;
        }
        if (al_layout_slots_are_hidden(base, st->TransportSocket_type, NULL)) {
            return 0;
        }
        Py_CLEAR(st->TransportSocket_type);
    }
    al_layout_turn_off(st, AL_LAYOUT_TRANSPORT_SOCKET);
    return 0;
}
