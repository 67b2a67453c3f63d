/* Addresses: what a kernel may give becomes an object, and that the same address again;
 * any object is read or refused, and nothing else happens. */
#include "white.h"

#include "io/addr.c"

static void
there_and_back(al_addr *addr, int family)
{
    PyObject *object = al_addr_object(addr);
    if (object == NULL) {
        PyErr_Clear(); /* a path that is no text */
        return;
    }
    al_addr again = {0};
    int status = al_addr_parse(&again, family, object);
    CHECK(status >= 0);
    if (status == 1) {
        PyObject *same = al_addr_object(&again);
        CHECK(same != NULL && PyObject_RichCompareBool(object, same, Py_EQ) == 1);
        Py_DECREF(same);
    }
    else {
        CHECK(family == AF_UNIX); /* no name, or one that fills all of sun_path */
    }
    Py_DECREF(object);
}

static void
from_kernel(white_input *input)
{
    static const int families[] = {AF_INET, AF_INET6, AF_UNIX};
    al_addr addr = {0};
    int family = families[white_below(input, 3)];
    unsigned char *bytes = (unsigned char *)&addr.as.storage;
    size_t sizes[] = {sizeof(addr.as.in), sizeof(addr.as.in6),
                      2 + white_below(input, sizeof(addr.as.un.sun_path) + 1)};
    for (size_t i = 0; i < sizeof(addr.as.un); i++) {
        bytes[i] = (unsigned char)white_below(input, 256);
    }
    addr.as.any.sa_family = (sa_family_t)family;
    if (family == AF_INET6) {
        addr.as.in6.sin6_flowinfo &= htonl(0xfffff); /* It has 20 bits. */
    }
    addr.length = (socklen_t)(family == AF_INET    ? sizes[0]
                              : family == AF_INET6 ? sizes[1]
                                                   : sizes[2]);
    there_and_back(&addr, family);
}

/* Characters of addresses, more often than others. */
static PyObject *
text(white_input *input)
{
    static const char often[] = "0123456789.:abcdef%/fe80::1";
    char data[128];
    size_t size = white_below(input, sizeof(data));
    for (size_t i = 0; i < size; i++) {
        data[i] = white_below(input, 8) == 0 ? (char)white_below(input, 128)
                                             : often[white_below(input, sizeof(often))];
    }
    return white_below(input, 4) == 0
               ? PyBytes_FromStringAndSize(data, (Py_ssize_t)size)
               : PyUnicode_FromStringAndSize(data, (Py_ssize_t)size);
}

static PyObject *
item(white_input *input)
{
    switch (white_below(input, 4)) {
    case 0:
        return text(input);
    case 1:
        return PyFloat_FromDouble(80);
    default:
        return PyLong_FromLong((long)white_below(input, 65536) * 3 - 1000);
    }
}

static void
from_program(white_input *input)
{
    Py_ssize_t size = (Py_ssize_t)white_below(input, 6);
    PyObject *object = PyTuple_New(size);
    CHECK(object != NULL);
    for (Py_ssize_t i = 0; i < size; i++) {
        PyObject *part = i == 0 ? text(input) : item(input);
        CHECK(part != NULL);
        PyTuple_SET_ITEM(object, i, part);
    }
    if (white_below(input, 3) == 0) {
        Py_SETREF(object, text(input));
    }
    static const int families[] = {AF_INET, AF_INET6, AF_UNIX};
    int family = families[white_below(input, 3)];
    al_addr addr = {0};
    int status = al_addr_parse(&addr, family, object);
    CHECK(status >= -1 && status <= 1);
    if (status == 1) {
        CHECK(addr.as.any.sa_family == family && addr.length > 0);
        CHECK(addr.length <= sizeof(addr.as));
        there_and_back(&addr, family);
    }
    else if (status < 0) {
        PyErr_Clear();
    }
    Py_DECREF(object);
}

static void
one(white_input *input)
{
    while (white_more(input)) {
        if (white_below(input, 2) == 0) {
            from_kernel(input);
        }
        else {
            from_program(input);
        }
    }
}
