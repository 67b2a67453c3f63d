/* args.h: fastcall parsing with the messages that a Python function would give.
 *
 * The methods here replace Python functions, so their mistakes read like theirs:
 * "BaseEventLoop.call_soon() missing 1 required positional argument: 'callback'". */
#ifndef AL_BASE_ARGS_H
#define AL_BASE_ARGS_H

#include "base/py.h"

/* The signature of a function with up to 8 parameters that can be given by position or
 * name, then `*args` if `rest`, then keyword-only parameters. */
typedef struct {
    const char *function; /* for messages */
    const char *names[8]; /* positional, then keyword-only */
    int positional;       /* how many of them may be positional */
    int required;         /* how many of those must be given */
    int total;
    bool rest; /* more positional arguments go to *args */
} al_signature;

/* Stores borrowed values (NULL: not given) in `values[total]`; *rest_at is the index in
 * args where *args begins.  0, or -1 with TypeError. */
int al_args_parse(const al_signature *signature, PyObject *const *args,
                  Py_ssize_t nargs, PyObject *kwnames, PyObject **values,
                  Py_ssize_t *rest_at);

/* The argument of a method that has one parameter, borrowed, or NULL with TypeError. */
static inline PyObject *
al_args_one(const char *function, const char *name, PyObject *const *args,
            Py_ssize_t nargs, PyObject *kwnames)
{
    if (AL_LIKELY(nargs == 1 && kwnames == NULL)) {
        return args[0];
    }
    const al_signature signature = {.function = function,
                                    .names = {name},
                                    .positional = 1,
                                    .required = 1,
                                    .total = 1};
    PyObject *value;
    return al_args_parse(&signature, args, nargs, kwnames, &value, NULL) < 0 ? NULL
                                                                             : value;
}

#endif
