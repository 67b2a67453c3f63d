/* origin.c: see origin.h. */
#include "base/origin.h"

#include <dlfcn.h>
#include <string.h>

/* --- constants ---------------------------------------------------------------------------- */

/* Whether a constant is of a type that marshal writes. */
static bool
is_compiled(PyObject *constant)
{
    if (PyTuple_CheckExact(constant)) {
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(constant); i++) {
            if (!is_compiled(PyTuple_GET_ITEM(constant, i))) {
                return false;
            }
        }
        return true;
    }
    return constant == Py_None || constant == Py_Ellipsis || PyBool_Check(constant) ||
           PyLong_CheckExact(constant) || PyFloat_CheckExact(constant) ||
           PyComplex_CheckExact(constant) || PyUnicode_CheckExact(constant) ||
           PyBytes_CheckExact(constant) || PyFrozenSet_CheckExact(constant) ||
           PySlice_Check(constant) || PyCode_Check(constant);
}

/* --- where a function comes from -------------------------------------------------------- */

/* The attribute of a class that is a str, borrowed, or NULL. */
static PyObject *
text_of(const PyTypeObject *type, const char *name)
{
    PyObject *value = PyDict_GetItemString(type->tp_dict, name);
    return value != NULL && PyUnicode_Check(value) ? value : NULL;
}

/* Whether a file is called as the module is, whatever its directory: `filename` may be
 * that of another machine, or relative. */
static bool
is_file_of(PyObject *filename, PyObject *module)
{
    const char *path = PyUnicode_AsUTF8(filename), *name = PyUnicode_AsUTF8(module);
    if (path == NULL || name == NULL) {
        return false;
    }
    const char *dot = strrchr(name, '.');
    name = dot == NULL ? name : dot + 1;
    size_t length = strlen(name), total = strlen(path);
    if (total < length + 3 || strcmp(path + total - 3, ".py") != 0 ||
        strncmp(path + total - 3 - length, name, length) != 0) {
        return false;
    }
    const char *begin = path + total - 3 - length;
    return begin == path || begin[-1] == '/' || begin[-1] == '\\';
}

static bool
is_named(PyObject *text, const char *expected)
{
    return text != NULL && PyUnicode_Check(text) && expected != NULL &&
           PyUnicode_CompareWithASCIIString(text, expected) == 0;
}

/* Leaves no exception; NULL for a text is "no". */
static bool
comes_from(PyObject *function, PyObject *module, PyObject *qualname)
{
    bool same = false;
    if (PyFunction_Check(function) && module != NULL && qualname != NULL) {
        const PyCodeObject *code = (PyCodeObject *)PyFunction_GET_CODE(function);
        PyObject *home =
            PyDict_GetItemString(PyFunction_GET_GLOBALS(function), "__name__");
        same = home != NULL && PyUnicode_Check(home) &&
               PyUnicode_Compare(home, module) == 0 &&
               PyUnicode_Compare(code->co_qualname, qualname) == 0 &&
               is_file_of(code->co_filename, module) && is_compiled(code->co_consts);
    }
    PyErr_Clear(); /* MemoryError, or a name that has no UTF-8: not to be told apart. */
    return same;
}

bool
al_origin_is(PyObject *function, PyTypeObject *type, PyObject *name)
{
    PyObject *module = text_of(type, "__module__");
    PyObject *qualname =
        PyUnicode_FromFormat("%U.%U", ((PyHeapTypeObject *)type)->ht_qualname, name);
    PyObject *inner = Py_IS_TYPE(function, &PyProperty_Type)
                          ? PyObject_GetAttrString(function, "fget")
                          : Py_NewRef(function);
    bool same = inner != NULL && comes_from(inner, module, qualname);
    Py_XDECREF(inner);
    Py_XDECREF(qualname);
    PyErr_Clear(); /* MemoryError. */
    return same;
}

bool
al_origin_is_function(PyObject *function, const char *module, const char *qualname)
{
    PyObject *home = PyUnicode_FromString(module);
    PyObject *full = PyUnicode_FromString(qualname);
    bool same = comes_from(function, home, full);
    Py_XDECREF(home);
    Py_XDECREF(full);
    return same;
}

bool
al_origin_is_c(PyObject *function, const char *module, const char *name)
{
    Dl_info definition, meth;
    if (!PyCFunction_Check(function) ||
        strcmp(((PyCFunctionObject *)function)->m_ml->ml_name, name) != 0 ||
        !is_named(((PyCFunctionObject *)function)->m_module, module)) {
        return false;
    }
    PyMethodDef *def = ((PyCFunctionObject *)function)->m_ml;
    void *address;
    memcpy(&address, &def->ml_meth, sizeof(address));
    /* Without an answer, in a static executable, there is nothing to compare. */
    return dladdr(def, &definition) == 0 || dladdr(address, &meth) == 0 ||
           definition.dli_fbase == meth.dli_fbase;
}

/* --- a name of a class -------------------------------------------------------------------- */

int
al_origin_each(PyTypeObject *type, PyObject *name,
               int (*visit)(PyObject *function, PyTypeObject *owner, void *arg),
               void *arg)
{
    PyObject *mro = type->tp_mro;
    for (Py_ssize_t i = 0; mro != NULL && i < PyTuple_GET_SIZE(mro); i++) {
        PyTypeObject *owner = (PyTypeObject *)PyTuple_GET_ITEM(mro, i);
        if (!PyType_HasFeature(owner, Py_TPFLAGS_HEAPTYPE)) {
            continue; /* object: nobody can set its attributes */
        }
        PyObject *function = PyDict_GetItemWithError(owner->tp_dict, name);
        int status = function == NULL ? 0 : visit(function, owner, arg);
        if (status != 0) {
            return status;
        }
    }
    return 0;
}

struct intact {
    PyObject *name;
    bool found, replaced;
};

static int
check_one(PyObject *function, PyTypeObject *owner, void *arg)
{
    struct intact *state = arg;
    state->found = true;
    state->replaced = !al_origin_is(function, owner, state->name);
    return state->replaced;
}

bool
al_origin_intact(PyTypeObject *type, PyObject *name)
{
    struct intact state = {.name = name};
    (void)al_origin_each(type, name, check_one, &state);
    PyErr_Clear(); /* No memory to look. */
    return state.found && !state.replaced;
}
