/* closure.h: C in the place of the functions that asyncio's functions make inside themselves.
 *
 * gather(), wait() and shield() have a future call such a function at its end.  What they
 * give it here is a `Closure`: C for the call; what is not the call (name, code, free
 * variables) is a function of asyncio's code, made when somebody asks. */
#ifndef AL_PRIM_CLOSURE_H
#define AL_PRIM_CLOSURE_H

#include "base/state.h"

enum { AL_CLOSURE_HELD = 4, AL_CLOSURE_COUNTS = 2 };

typedef struct al_closure al_closure;

typedef struct {
    int code;         /* which one of al_state.closures.codes; see base/state.h */
    const char *name; /* "gather.<locals>._done_callback" */
    /* The free variables: those that are objects, numbers and a bool. */
    const char *held[AL_CLOSURE_HELD], *counts[AL_CLOSURE_COUNTS], *flag;
    /* A future is done.  0 or -1.  Escapes. */
    int (*call)(al_closure *self, PyObject *future);
} al_closure_kind;

struct al_closure {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    al_state *st;
    const al_closure_kind *kind;
    PyObject *held[AL_CLOSURE_HELD]; /* owned; NULL: None */
    Py_ssize_t counts[AL_CLOSURE_COUNTS];
    PyObject *weakrefs;
    bool flag;
    bool cleared; /* by the garbage collector: calls do nothing any more */
};

/* A new one that holds nothing.  NULL with MemoryError. */
al_closure *al_closure_new(al_state *st, const al_closure_kind *kind);

/* future.add_done_callback(callable) and its opposite.  0 or -1.  Escape. */
int al_closure_add(al_state *st, PyObject *future, PyObject *callable);
int al_closure_remove(al_state *st, PyObject *future, PyObject *callable);

/* Remembers the code of the function `inner` that asyncio.tasks's function makes, if both
 * are as asyncio has them.  0 or -1. */
int al_closure_find(al_state *st, int code, const char *function, const char *inner);

int al_closure_init_type(PyObject *module, al_state *st);

#endif
