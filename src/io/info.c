/* info.c: see info.h. */
#include "io/info.h"

#include <string.h>

#include "io/trsock.h"
#include "io/write.h"

static void
name_set(al_name *name, const al_addr *addr)
{
    if (addr->length <= sizeof(name->bytes)) {
        name->length = (unsigned char)addr->length;
        memcpy(name->bytes, &addr->as, addr->length);
    }
}

static PyObject *
name_object(const al_name *name)
{
    al_addr addr;
    addr.length = name->length;
    memcpy(&addr.as, name->bytes, name->length);
    return al_addr_object(&addr);
}

/* Remembers an address: in short form, or as an object where that is too short. */
int
al_info_remember(al_name *name, PyObject **object, const al_addr *addr)
{
    name_set(name, addr);
    if (name->length == 0 && addr->length > 0) {
        *object = al_addr_object(addr);
        return *object == NULL ? -1 : 0;
    }
    return 0;
}

/* Asks the kernel for the address. */
static void
ask_sockname(al_stream *self)
{
    al_addr addr;
    int fd = al_stream_descriptor(self);
    if (fd >= 0 && al_addr_of_socket(fd, &addr) == 0 &&
        al_addr_known(addr.as.any.sa_family)) {
        self->sockname_presumed = false;
        self->sockname_raw.length = 0;
        Py_CLEAR(self->sockname);
        if (al_info_remember(&self->sockname_raw, &self->sockname, &addr) < 0) {
            PyErr_Clear(); /* get_extra_info will say None. */
        }
    }
}

/* What get_extra_info says of the socket stays available. */
void
al_info_keep_sockname(al_stream *self)
{
    if (self->sockname == NULL && self->sockname_raw.length == 0) {
        ask_sockname(self);
    }
}

PyObject *
al_info_socket(al_stream *self)
{
    if (self->transport_socket == NULL) {
        al_state *st = PyType_GetModuleState(Py_TYPE(self));
        PyObject *sock = al_stream_sock(self);
        if (sock == Py_None) {
            /* Asked for the first time after the end: one that is closed, like the
             * one that asyncio would have. */
            Py_DECREF(sock);
            sock = PyObject_CallFunction(st->socket_type, "iii", self->family,
                                         SOCK_STREAM, self->proto);
            PyObject *closed =
                sock == NULL ? NULL : PyObject_CallMethod(sock, "close", NULL);
            if (closed == NULL) {
                Py_CLEAR(sock);
            }
            Py_XDECREF(closed);
        }
        if (sock == NULL) {
            return NULL;
        }
        PyObject *made =
            al_trsock_new(st, sock, self->fd_open ? self : NULL); /* escapes */
        Py_XSETREF(self->transport_socket, made);
        Py_DECREF(sock);
    }
    return Py_XNewRef(self->transport_socket);
}

static PyObject *
al_info_sockname(al_stream *self)
{
    if (self->sockname_presumed) {
        ask_sockname(self);
    }
    al_info_keep_sockname(self);
    if (self->sockname == NULL && self->sockname_raw.length > 0) {
        self->sockname = name_object(&self->sockname_raw);
        return Py_XNewRef(self->sockname);
    }
    if (self->sockname == NULL && self->sock != NULL) {
        /* A family that we do not know. */
        self->sockname = PyObject_CallMethod(self->sock, "getsockname", NULL);
        if (self->sockname == NULL) {
            if (!PyErr_ExceptionMatches(PyExc_OSError)) {
                return NULL;
            }
            PyErr_Clear(); /* asyncio says None as well. */
        }
    }
    return Py_NewRef(self->sockname == NULL ? Py_None : self->sockname);
}

static PyObject *
get_peername(al_stream *self)
{
    if (self->peername == NULL) {
        self->peername = name_object(&self->peername_raw);
    }
    return Py_XNewRef(self->peername);
}

/* The dictionary _extra with everything in it, borrowed. */
PyObject *
al_info_all(al_stream *self)
{
    al_state *st = PyType_GetModuleState(Py_TYPE(self));
    if (self->complete_info) {
        return self->extra;
    }
    if (self->extra == NULL) {
        self->extra = PyDict_New();
        if (self->extra == NULL) {
            return NULL;
        }
    }
    PyObject *peername = NULL, *sockname = al_info_sockname(self);
    PyObject *sock = sockname == NULL ? NULL : al_info_socket(self);
    int have = sock == NULL ? -1 : PyDict_Contains(self->extra, st->str.peername);
    if (have == 0) {
        peername = get_peername(self);
        have = peername == NULL
                   ? -1
                   : PyDict_SetItem(self->extra, st->str.peername, peername);
    }
    if (have >= 0 && (PyDict_SetItem(self->extra, st->str.sockname, sockname) < 0 ||
                      PyDict_SetItem(self->extra, st->str.socket, sock) < 0)) {
        have = -1;
    }
    Py_XDECREF(peername);
    Py_XDECREF(sockname);
    Py_XDECREF(sock);
    if (have < 0) {
        return NULL;
    }
    self->complete_info = true;
    return self->extra;
}

PyObject *
al_info_get(al_stream *self, PyObject *name, PyObject *fallback)
{
    AL_OWN(self->loop, NULL);
    al_state *st = PyType_GetModuleState(Py_TYPE(self));
    PyObject *value = NULL;
    if (!self->complete_info && PyUnicode_Check(name)) {
        if (PyUnicode_Compare(name, st->str.socket) == 0) {
            return al_info_socket(self);
        }
        if (PyUnicode_Compare(name, st->str.sockname) == 0) {
            return al_info_sockname(self);
        }
    }
    if (self->extra != NULL) {
        value = PyDict_GetItemWithError(self->extra, name); /* escapes */
        if (value == NULL && PyErr_Occurred()) {
            return NULL;
        }
    }
    if (value == NULL && !self->complete_info && PyUnicode_Check(name) &&
        PyUnicode_Compare(name, st->str.peername) == 0) {
        return get_peername(self);
    }
    return Py_NewRef(value == NULL ? fallback : value);
}
