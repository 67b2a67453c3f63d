/* py.h: the only place that includes Python.h, and the bridges between its versions.
 *
 * Rooms include this (or a header that does) and never <Python.h>.  A bridge is a
 * small inline function with the name of the newest API and the prefix al_, so
 * that it can be dropped when the oldest supported version has the real one. */
#ifndef AL_BASE_PY_H
#define AL_BASE_PY_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <frameobject.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <structmember.h>

#if PY_VERSION_HEX < 0x030B0000
#error "aioloop needs CPython 3.11 or newer"
#endif

/* Where it is 1, system calls that Linux alone has are used. Defining AL_PORTABLE leaves
 * them out, so that the code of the other systems runs on Linux too. */
#if defined(__linux__) && !defined(AL_PORTABLE)
#define AL_LINUX 1
#else
#define AL_LINUX 0
#endif

#define AL_ALWAYS_INLINE inline __attribute__((always_inline))
#define AL_COLD __attribute__((cold, noinline))
#define AL_LIKELY(x) __builtin_expect(!!(x), 1)
#define AL_UNLIKELY(x) __builtin_expect(!!(x), 0)

/* The pending exception as one object, or NULL; clears it.  New reference. */
static inline PyObject *
al_err_take(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == NULL) {
        return NULL;
    }
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(value, traceback);
    }
    Py_DECREF(type);
    Py_XDECREF(traceback);
    return value;
#endif
}

/* Raises an exception object as it is, traceback included; steals it. */
static inline void
al_err_put_steal(PyObject *exc)
{
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(exc);
#else
    if (exc == NULL) {
        PyErr_Clear(); /* The caller saved "no exception": nothing is dropped. */
        return;
    }
    PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(exc)), exc,
                  PyException_GetTraceback(exc));
#endif
}

/* Makes `exc` (NULL: none) the exception that is being handled, which is what
 * sys.exc_info() gives; steals it and returns its predecessor, or NULL.  It is the word
 * of the innermost generator or call that runs: PyErr_GetHandledException would find an
 * outer one's instead of an empty word. */
static inline PyObject *
al_err_handle_steal(PyObject *exc)
{
    _PyErr_StackItem *item = PyThreadState_Get()->exc_info;
    PyObject *outer = item->exc_value;
    item->exc_value = exc;
    return outer;
}

/* Three-way attribute look-up: 1 found, 0 absent, -1 error. */
static inline int
al_getattr_optional(PyObject *obj, PyObject *name, PyObject **result)
{
#if PY_VERSION_HEX >= 0x030D0000
    return PyObject_GetOptionalAttr(obj, name, result);
#else
    return _PyObject_LookupAttr(obj, name, result);
#endif
}

#if PY_VERSION_HEX >= 0x030D0000
/* Exported by every version, declared by none of these.  1: *method is a function found
 * in the type, to be called with obj; 0: an attribute, or NULL with an exception. */
extern int _PyObject_GetMethod(PyObject *obj, PyObject *name, PyObject **method);
#endif

/* Whether obj.<name> is the given function of its class: neither the class nor the
 * instance has another one.  Without the bound method that getattr would make. */
static inline bool
al_method_is(PyObject *obj, PyObject *name, PyObject *function)
{
    PyObject *found = NULL;
    bool same = _PyObject_GetMethod(obj, name, &found) == 1 && found == function;
    if (found == NULL) {
        PyErr_Clear(); /* AttributeError: it has been deleted. */
    }
    Py_XDECREF(found);
    return same;
}

/* The current context of the calling thread, borrowed, or NULL when it has none.
 * PyThreadState.context is a public field in every supported version. */
static inline PyObject *
al_current_context_borrow(void)
{
    return PyThreadState_Get()->context;
}

/* Whether a contextvars.Context holds no variable at all. */
static inline bool
al_context_is_empty(PyObject *context)
{
    return Py_TYPE(context)->tp_as_mapping->mp_length(context) == 0;
}

/* The hash of a bytes object is computed anew: its content has changed.  The field is in
 * every supported version, deprecated for who does not own the object. */
static inline void
al_bytes_forget_hash(PyObject *bytes)
{
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    ((PyBytesObject *)bytes)->ob_shash = -1;
#pragma GCC diagnostic pop
}

/* Whether a weak reference refers to obj, which is alive. */
static inline bool
al_weakref_is(PyObject *reference, PyObject *obj)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *target;
    if (PyWeakref_GetRef(reference, &target) <= 0) {
        return false; /* Dead; an error needs another type of argument. */
    }
    Py_DECREF(target); /* If it is obj, the caller holds another reference. */
    return target == obj;
#else
    return PyWeakref_GET_OBJECT(reference) == obj;
#endif
}

#endif
