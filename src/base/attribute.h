/* attribute.h: attributes that asyncio's objects have in their instance dicts, for rooms
 * that work on those objects in its place: one look-up, no search through the classes. */
#ifndef AL_BASE_ATTRIBUTE_H
#define AL_BASE_ATTRIBUTE_H

#include "base/py.h"

/* dict[name]: a new reference, or NULL with the error of an attribute that an object of
 * the class named `owner` lacks. */
static inline PyObject *
al_attribute(PyObject *dict, const char *owner, PyObject *name)
{
    PyObject *value = Py_XNewRef(PyDict_GetItemWithError(dict, name));
    if (AL_UNLIKELY(value == NULL) && !PyErr_Occurred()) {
        PyErr_Format(PyExc_AttributeError, "'%s' object has no attribute %R", owner,
                     name);
    }
    return value;
}

/* dict[name], which is most often the place-th thing that __init__ put there: a look that
 * costs a third of a search.  Borrowed, or NULL, maybe with an exception.  Escapes. */
static inline PyObject *
al_attribute_at(PyObject *dict, Py_ssize_t place, PyObject *name)
{
    PyObject *key, *value;
    return AL_LIKELY(PyDict_Next(dict, &place, &key, &value) && key == name)
               ? value
               : PyDict_GetItemWithError(dict, name); /* escapes */
}

/* Whether that is what the place-th thing is, without a search: no exception, no escape. */
static inline bool
al_attribute_is_at(PyObject *dict, Py_ssize_t place, const PyObject *name,
                   const PyObject *expected)
{
    PyObject *key, *value;
    return PyDict_Next(dict, &place, &key, &value) && key == name && value == expected;
}

/* The truth of dict[name], or -1.  Escapes. */
static inline int
al_attribute_is_true(PyObject *dict, const char *owner, PyObject *name)
{
    PyObject *value = al_attribute(dict, owner, name);
    int truth = value == NULL       ? -1
                : value == Py_False ? 0
                : value == Py_True  ? 1
                                    : PyObject_IsTrue(value); /* escapes */
    Py_XDECREF(value);                                        /* escapes */
    return truth;
}

#endif
