/* layout.c: see layout.h. */
#include "base/layout.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *key, *text;
} layouts[] = {
#define X(name, key, text) {key, text},
    AL_LAYOUTS(X)
#undef X
};

_Static_assert(AL_LAYOUT_NONE <= 32, "a bit each");

#ifdef AL_LIES

/* Whether a list with commas has the entry: the key, with the number unless that is 0. */
static bool
is_listed(const char *list, const char *key, int number)
{
    char entry[64];
    (void)PyOS_snprintf(entry, sizeof(entry), number == 0 ? "%s" : "%s%d", key, number);
    size_t length = strlen(entry);
    for (; list != NULL; list = strchr(list, ',')) {
        list += *list == ',';
        if (strncmp(list, entry, length) == 0 &&
            (list[length] == ',' || list[length] == '\0')) {
            return true;
        }
    }
    return false;
}

int
al_layout_lie(al_layout which, int comparison)
{
    return is_listed(getenv("AIOLOOP_LIES"), layouts[which].key, comparison);
}

#endif

bool
al_layout_slots_are_hidden(const PyTypeObject *base, const PyTypeObject *ours,
                           const char *but)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(base->tp_mro); i++) {
        const PyTypeObject *type = (PyTypeObject *)PyTuple_GET_ITEM(base->tp_mro, i);
        PyObject *name, *value;
        Py_ssize_t position = 0;
        while (
            PyType_HasFeature((PyTypeObject *)(uintptr_t)type, Py_TPFLAGS_HEAPTYPE) &&
            PyDict_Next(type->tp_dict, &position, &name, &value)) {
            if (Py_IS_TYPE(value, &PyMemberDescr_Type) &&
                (but == NULL || PyUnicode_CompareWithASCIIString(name, but) != 0) &&
                PyDict_GetItemWithError(ours->tp_dict, name) == NULL) {
                PyErr_Clear(); /* A name that has no hash. */
                return false;
            }
        }
    }
    return true;
}

PyDoc_STRVAR(
    layout_off_doc,
    "_layout_off($module, name, comparison, holds, /)\n--\n\n"
    "Turn a layout off if the comparison of this number shows that it does not\n"
    "hold.  Only before there is a loop.");

static PyObject *
core_layout_off(PyObject *module, PyObject *args)
{
    const char *key;
    int comparison, holds;
    if (!PyArg_ParseTuple(args, "sip:_layout_off", &key, &comparison, &holds)) {
        return NULL;
    }
    for (int i = 0; i < AL_LAYOUT_NONE; i++) {
        if (strcmp(layouts[i].key, key) == 0) {
            if (!holds || al_layout_lie((al_layout)i, comparison)) {
                al_layout_turn_off(al_state_of_module(module), (al_layout)i);
            }
            Py_RETURN_NONE;
        }
    }
    PyErr_SetString(PyExc_ValueError, "there is no such layout");
    return NULL;
}

PyDoc_STRVAR(layouts_off_doc,
             "_layouts_off($module, /)\n--\n\n"
             "Return the names of what this Python has in another form than is known.");

static PyObject *
core_layouts_off(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    const al_state *st = al_state_of_module(module);
    PyObject *list = PyList_New(0);
    for (int i = 0; list != NULL && i < AL_LAYOUT_NONE; i++) {
        PyObject *text = al_layout_is_off(st, (al_layout)i)
                             ? PyUnicode_FromString(layouts[i].text)
                             : NULL;
        if ((text != NULL && PyList_Append(list, text) < 0) || PyErr_Occurred()) {
            Py_CLEAR(list);
        }
        Py_XDECREF(text);
    }
    return list;
}

PyMethodDef al_layout_methods[] = {
    {"_layout_off", core_layout_off, METH_VARARGS, layout_off_doc},
    {"_layouts_off", core_layouts_off, METH_NOARGS, layouts_off_doc},
    {NULL, NULL, 0, NULL},
};
