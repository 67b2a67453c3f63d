/* addr.c: see addr.h. */
#include "io/addr.h"

#include <arpa/inet.h>
#include <stddef.h>
#include <string.h>

bool
al_addr_known(int family)
{
    return family == AF_INET || family == AF_INET6 || family == AF_UNIX;
}

static PyObject *
unix_object(const al_addr *addr)
{
    const char *path = addr->as.un.sun_path;
    size_t base = offsetof(struct sockaddr_un, sun_path);
    size_t length = addr->length > base ? addr->length - base : 0;
#ifdef __linux__
    if (length > 0 && path[0] == '\0') {
        return PyBytes_FromStringAndSize(path, (Py_ssize_t)length);
    }
#endif
    /* The kernel's length may or may not count a terminating zero. */
    length = strnlen(path, length);
    return PyUnicode_DecodeFSDefaultAndSize(path, (Py_ssize_t)length);
}

PyObject *
al_addr_object(const al_addr *addr)
{
    char host[INET6_ADDRSTRLEN];
    if (addr->length == 0) {
        Py_RETURN_NONE;
    }
    switch (addr->as.any.sa_family) {
    case AF_INET:
        if (inet_ntop(AF_INET, &addr->as.in.sin_addr, host, sizeof(host)) == NULL) {
            return PyErr_SetFromErrno(PyExc_OSError);
        }
        return Py_BuildValue("si", host, ntohs(addr->as.in.sin_port));
    case AF_INET6:
        if (inet_ntop(AF_INET6, &addr->as.in6.sin6_addr, host, sizeof(host)) == NULL) {
            return PyErr_SetFromErrno(PyExc_OSError);
        }
        return Py_BuildValue("siII", host, ntohs(addr->as.in6.sin6_port),
                             (unsigned int)ntohl(addr->as.in6.sin6_flowinfo),
                             (unsigned int)addr->as.in6.sin6_scope_id);
    case AF_UNIX:
        return unix_object(addr);
    default:
        PyErr_SetString(PyExc_OSError, "unknown address family");
        return NULL;
    }
}

static int
parse_unix(al_addr *addr, PyObject *object)
{
    PyObject *bytes;
    if (PyBytes_Check(object)) {
        bytes = Py_NewRef(object);
    }
    else if (PyUnicode_Check(object)) {
        bytes = PyUnicode_EncodeFSDefault(object);
        if (bytes == NULL) {
            return -1;
        }
    }
    else {
        return 0;
    }
    size_t size = (size_t)PyBytes_GET_SIZE(bytes);
    const char *path = PyBytes_AS_STRING(bytes);
    int status = 0;
    /* Abstract names have no terminating zero; paths are given one. */
    bool abstract = size > 0 && path[0] == '\0';
#ifndef __linux__
    if (abstract) {
        goto done;
    }
#endif
    /* The empty path asks Linux to choose an abstract name: for the socket module. */
    if (size > 0 && size + (abstract ? 0 : 1) <= sizeof(addr->as.un.sun_path) &&
        (abstract || strlen(path) == size)) {
        memset(&addr->as.un, 0, sizeof(addr->as.un));
        addr->as.un.sun_family = AF_UNIX;
        memcpy(addr->as.un.sun_path, path, size);
        addr->length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size +
                                   (abstract ? 0 : 1));
        status = 1;
    }
#ifndef __linux__
done:
#endif
    Py_DECREF(bytes);
    return status;
}

/* A number of at most `limit`; -1 where the socket module has to judge. */
static long long
small_number(PyObject *object, long long limit)
{
    if (!PyLong_CheckExact(object)) {
        return -1;
    }
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(object, &overflow);
    return overflow != 0 || value < 0 || value > limit ? -1 : value;
}

int
al_addr_parse(al_addr *addr, int family, PyObject *object)
{
    if (family == AF_UNIX) {
        return parse_unix(addr, object);
    }
    Py_ssize_t most = family == AF_INET ? 2 : family == AF_INET6 ? 4 : 0;
    if (!PyTuple_Check(object) || PyTuple_GET_SIZE(object) < 2 ||
        PyTuple_GET_SIZE(object) > most ||
        !PyUnicode_CheckExact(PyTuple_GET_ITEM(object, 0))) {
        return 0;
    }
    Py_ssize_t size;
    const char *host = PyUnicode_AsUTF8AndSize(PyTuple_GET_ITEM(object, 0), &size);
    if (host == NULL) {
        PyErr_Clear(); /* Lone surrogates: for the socket module to complain of. */
        return 0;
    }
    if (strlen(host) != (size_t)size) {
        return 0;
    }
    long long port = small_number(PyTuple_GET_ITEM(object, 1), 65535);
    if (port < 0) {
        return 0;
    }
    if (family == AF_INET) {
        memset(&addr->as.in, 0, sizeof(addr->as.in));
        addr->as.in.sin_family = AF_INET;
        addr->as.in.sin_port = htons((uint16_t)port);
        addr->length = sizeof(addr->as.in);
        return inet_pton(AF_INET, host, &addr->as.in.sin_addr) == 1;
    }
    long long flow = 0, scope = 0;
    if (PyTuple_GET_SIZE(object) > 2) {
        flow = small_number(PyTuple_GET_ITEM(object, 2), 0xfffff);
    }
    if (PyTuple_GET_SIZE(object) > 3) {
        scope = small_number(PyTuple_GET_ITEM(object, 3), UINT32_MAX);
    }
    if (flow < 0 || scope < 0) {
        return 0;
    }
    memset(&addr->as.in6, 0, sizeof(addr->as.in6));
    addr->as.in6.sin6_family = AF_INET6;
    addr->as.in6.sin6_port = htons((uint16_t)port);
    addr->as.in6.sin6_flowinfo = htonl((uint32_t)flow);
    addr->as.in6.sin6_scope_id = (uint32_t)scope;
    addr->length = sizeof(addr->as.in6);
    return inet_pton(AF_INET6, host, &addr->as.in6.sin6_addr) == 1;
}

int
al_addr_of_socket(int fd, al_addr *addr)
{
    addr->length = sizeof(addr->as);
    return getsockname(fd, &addr->as.any, &addr->length);
}

int
al_addr_of_peer(int fd, al_addr *addr)
{
    addr->length = sizeof(addr->as);
    return getpeername(fd, &addr->as.any, &addr->length);
}
