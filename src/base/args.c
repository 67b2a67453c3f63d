/* args.c: see args.h. */
#include "base/args.h"

static int
find_name(const al_signature *signature, PyObject *name)
{
    for (int i = 0; i < signature->total; i++) {
        if (PyUnicode_CompareWithASCIIString(name, signature->names[i]) == 0) {
            return i;
        }
    }
    return -1;
}

static int
missing(const al_signature *signature, PyObject **values)
{
    /* "'a'", "'a' and 'b'", "'a', 'b', and 'c'" */
    int count = 0, seen = 0;
    for (int i = 0; i < signature->required; i++) {
        count += values[i] == NULL;
    }
    PyObject *list = PyUnicode_FromString("");
    for (int i = 0; i < signature->required && list != NULL; i++) {
        if (values[i] != NULL) {
            continue;
        }
        seen++;
        const char *before = seen == 1      ? ""
                             : seen < count ? ", "
                             : count == 2   ? " and "
                                            : ", and ";
        PyObject *longer =
            PyUnicode_FromFormat("%U%s'%s'", list, before, signature->names[i]);
        Py_SETREF(list, longer);
    }
    if (list != NULL) {
        PyErr_Format(PyExc_TypeError,
                     "%s() missing %d required positional argument%s: %U",
                     signature->function, count, count == 1 ? "" : "s", list);
        Py_DECREF(list);
    }
    return -1;
}

/* "f() takes from 2 to 3 positional arguments but 4 were given" */
static int
too_many(const al_signature *signature, PyObject **values, Py_ssize_t nargs)
{
    int most = signature->positional + 1; /* with self */
    int least = signature->required + 1;
    Py_ssize_t given = nargs + 1;
    int by_name = 0;
    for (int i = signature->positional; i < signature->total; i++) {
        by_name += values[i] != NULL;
    }
    PyObject *takes = least < most ? PyUnicode_FromFormat("from %d to %d", least, most)
                                   : PyUnicode_FromFormat("%d", most);
    PyObject *extra = PyUnicode_FromString("");
    if (by_name > 0 && extra != NULL) {
        Py_SETREF(extra,
                  PyUnicode_FromFormat(" positional arguments (and %d keyword-only "
                                       "argument%s)",
                                       by_name, by_name == 1 ? "" : "s"));
    }
    if (takes != NULL && extra != NULL) {
        PyErr_Format(PyExc_TypeError,
                     "%s() takes %U positional argument%s but %zd%U were given",
                     signature->function, takes, most == 1 ? "" : "s", given, extra);
    }
    Py_XDECREF(takes);
    Py_XDECREF(extra);
    return -1;
}

int
al_args_parse(const al_signature *signature, PyObject *const *args, Py_ssize_t nargs,
              PyObject *kwnames, PyObject **values, Py_ssize_t *rest_at)
{
    for (int i = 0; i < signature->total; i++) {
        values[i] = NULL;
    }
    Py_ssize_t taken = nargs < signature->positional ? nargs : signature->positional;
    for (Py_ssize_t i = 0; i < taken; i++) {
        values[i] = args[i];
    }
    if (rest_at != NULL) {
        *rest_at = taken;
    }
    /* The order of the mistakes is the interpreter's. */
    Py_ssize_t n = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        int at = find_name(signature, name);
        if (at < 0) {
            PyErr_Format(PyExc_TypeError,
                         "%s() got an unexpected keyword argument '%U'",
                         signature->function, name);
            return -1;
        }
        if (values[at] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%s'",
                         signature->function, signature->names[at]);
            return -1;
        }
        values[at] = args[nargs + i];
    }
    if (nargs > signature->positional && !signature->rest) {
        return too_many(signature, values, nargs);
    }
    for (int i = 0; i < signature->required; i++) {
        if (values[i] == NULL) {
            return missing(signature, values);
        }
    }
    return 0;
}
