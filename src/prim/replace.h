/* replace.h: puts C in the place of functions of asyncio, and asyncio's back.
 *
 * While the switch is on, the attribute of asyncio's class or module is an `Accelerated`
 * object: C for the call, asyncio's function, which it keeps, for all else (signature,
 * code, doc, annotations, pickling).  Off, each attribute is asyncio's own object again,
 * except where somebody else has put another one there meanwhile: that stays.
 *
 * C runs for objects of exactly asyncio's class as long as each function that it stands in
 * for or would call is as it was when the switch was turned: the class's version tag tells
 * of changes, the size of the instance's dict of methods that were replaced there.  Else,
 * and where the arguments are not plain, asyncio's function is called.  A group whose
 * functions are not asyncio's own when the switch is turned is left alone.
 *
 * All that happens under the GIL; without one nothing is replaced. */
#ifndef AL_PRIM_REPLACE_H
#define AL_PRIM_REPLACE_H

#include "base/state.h"

/* The classes whose objects C works on. */
enum {
    AL_PRIM_LOCK,
    AL_PRIM_EVENT,
    AL_PRIM_CONDITION,
    AL_PRIM_SEMAPHORE,
    AL_PRIM_BOUNDED_SEMAPHORE,
    AL_PRIM_QUEUE,
    AL_PRIM_PRIORITY_QUEUE,
    AL_PRIM_LIFO_QUEUE,
    AL_PRIM_TASK_GROUP,
    AL_PRIM_CLASSES,
    AL_PRIM_NONE = AL_PRIM_CLASSES,
};

/* One function of asyncio.  `call` gives what it returns; or NULL without an exception
 * where asyncio's function has to be called, or with one.  args[0] is self in a method. */
typedef struct {
    size_t owner; /* the class or module in al_state */
    const char *name;
    PyObject *(*call)(al_state *st, PyObject *const *args, Py_ssize_t nargs);
    bool coroutine;
    bool module;   /* the package asyncio has it, too */
    bool callback; /* asyncio gives the bound method to add_done_callback() */
    /* NULL, or what is called in the place of `call`, with arguments by name. */
    PyObject *(*call_named)(al_state *st, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames);
} al_replacement;

/* Of which class an object is on whose attributes, *dict, C may work; or AL_PRIM_NONE,
 * and no exception.  *dict is a new reference. */
int al_replaced_class(al_state *st, PyObject *obj, PyObject **dict);

/* Whether nothing has been replaced in one of the classes. */
bool al_replaced_intact(al_state *st, int class);

/* Whether a function is what the class had under that name before or after the switch was
 * turned, where nothing has been replaced. */
bool al_replaced_is(al_state *st, int class, PyObject *name, const PyObject *function);

int al_replace_init_type(PyObject *module, al_state *st);
extern PyMethodDef al_replace_methods[];
int al_replace_traverse(al_state *st, visitproc visit, void *arg);
void al_replace_clear(al_state *st);

#endif
