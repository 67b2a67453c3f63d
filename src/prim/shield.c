/* shield.c: see shield.h. */
#include "prim/shield.h"

#include <string.h>

#include "base/origin.h"
#include "prim/closure.h"
#include "prim/ensure.h"
#include "task/registry.h"

/* What asyncio's shield() does. */
enum {
    IS_KNOWN = 1 << 0,
    RETRIEVES = 1 << 1,  /* the exception, when the outer future was cancelled */
    HAS_PARENT = 1 << 2, /* the inner future is awaited by the task that calls it */
    LEAVES = 1 << 3,     /* and no longer when the outer one is done */
};

/* What the callbacks hold. */
enum { OUTER };
enum { INNER, INNER_DONE, CLEAR_AWAITED_BY, TASK };
enum { AWAITED_BY };

/* --- the callbacks --------------------------------------------------------------------------- */

/* Gives the inner future's exception or result to the outer one.  0 or -1.  Escapes. */
static int
hand_on(al_state *st, PyObject *inner, PyObject *outer)
{
    if (AL_LIKELY(al_primitive_has_result(st, inner))) {
        PyObject *result = Py_NewRef(((al_future *)inner)->result);
        int status = al_primitive_resolve(st, outer, result); /* escapes */
        Py_DECREF(result);
        return status;
    }
    PyObject *exc = PyObject_CallMethodNoArgs(inner, st->str.exception); /* escapes */
    int status = -1;
    if (exc != NULL && exc != Py_None) {
        status = al_primitive_settle(outer, st->str.set_exception, exc); /* escapes */
    }
    else if (exc != NULL) {
        PyObject *result = PyObject_CallMethodNoArgs(inner, st->str.result);
        status =
            result == NULL ? -1 : al_primitive_resolve(st, outer, result); /* escapes */
        Py_XDECREF(result);
    }
    Py_XDECREF(exc);
    return status;
}

/* Mirrors _inner_done_callback(inner).  0 or -1.  Escapes. */
static int
inner_done(al_closure *self, PyObject *inner)
{
    al_state *st = self->st;
    PyObject *outer = Py_NewRef(self->held[OUTER]);
    int over = al_primitive_is_cancelled(st, outer); /* escapes */
    int cancelled = 0, status = over < 0 ? -1 : 0;
    if (over == 0 || (over > 0 && (st->shield_steps & RETRIEVES) != 0)) {
        cancelled = al_primitive_is_cancelled(st, inner); /* escapes */
        if (cancelled < 0) {
            status = -1;
        }
        else if (over > 0) {
            status = cancelled ? 0 : al_primitive_call(inner, st->str.exception);
        }
        else {
            status = cancelled ? al_primitive_call(outer, st->str.cancel) /* escapes */
                               : hand_on(st, inner, outer);               /* escapes */
        }
    }
    Py_DECREF(outer);
    return status;
}

/* Mirrors _outer_done_callback(outer).  0 or -1.  Escapes. */
static int
outer_done(al_closure *self, PyObject *Py_UNUSED(outer))
{
    al_state *st = self->st;
    PyObject *inner = Py_NewRef(self->held[INNER]);
    PyObject *task = Py_XNewRef(self->held[TASK]);
    int done = al_primitive_is_done(st, inner); /* escapes */
    int status = done < 0 ? -1 : 0;
    if (done == 0) {
        status = al_closure_remove(st, inner, self->held[INNER_DONE]); /* escapes */
        if (status == 0 && task != NULL && (st->shield_steps & LEAVES) != 0) {
            status = al_closure_remove(st, inner, self->held[CLEAR_AWAITED_BY]);
            status = status < 0 ? -1 : al_primitive_discard_awaited_by(st, inner, task);
        }
    }
    Py_DECREF(inner);
    Py_XDECREF(task);
    return status;
}

/* Mirrors _clear_awaited_by_callback(inner).  0 or -1.  Escapes. */
static int
clear_awaited_by(al_closure *self, PyObject *inner)
{
    PyObject *task = Py_NewRef(self->held[AWAITED_BY]);
    int status = al_primitive_discard_awaited_by(self->st, inner, task); /* escapes */
    Py_DECREF(task);
    return status;
}

static const al_closure_kind inner_kind = {
    .code = AL_CLOSURE_SHIELDED,
    .name = "shield.<locals>._inner_done_callback",
    .held = {"outer"},
    .call = inner_done,
};
static const al_closure_kind outer_kind = {
    .code = AL_CLOSURE_UNSHIELD,
    .name = "shield.<locals>._outer_done_callback",
    .held = {"inner", "_inner_done_callback", "_clear_awaited_by_callback", "cur_task"},
    .call = outer_done,
};
static const al_closure_kind awaited_kind = {
    .code = AL_CLOSURE_UNAWAIT,
    .name = "shield.<locals>._clear_awaited_by_callback",
    .held = {"cur_task"},
    .call = clear_awaited_by,
};

/* --- shield() --------------------------------------------------------------------------------- */

/* The inner future is awaited by the running task, *task, until it is done: *clear is the
 * callback for that.  0 or -1.  New references, or NULL: there is none.  Escapes. */
static int
add_parent(al_state *st, PyObject *inner, PyObject **task, al_closure **clear)
{
    *task = al_primitive_current_task(st); /* escapes */
    if (*task == Py_None) {
        Py_CLEAR(*task);
        return 0;
    }
    if (*task == NULL ||
        al_primitive_add_awaited_by(st, inner, *task) < 0) { /* escapes */
        return -1;
    }
    *clear = al_closure_new(st, &awaited_kind);
    if (*clear == NULL) {
        return -1;
    }
    (*clear)->held[AWAITED_BY] = Py_NewRef(*task);
    return 0;
}

/* Connects the two futures.  0 or -1.  Escapes. */
static int
connect(al_state *st, PyObject *inner, PyObject *outer)
{
    al_closure *clear = NULL, *first = NULL, *second = NULL;
    PyObject *task = NULL;
    int status = 0;
    if ((st->shield_steps & HAS_PARENT) != 0) {
        status = add_parent(st, inner, &task, &clear); /* escapes */
    }
    if (status == 0) {
        first = al_closure_new(st, &inner_kind);
        second = al_closure_new(st, &outer_kind);
        status = first == NULL || second == NULL ? -1 : 0;
    }
    if (status == 0) {
        first->held[OUTER] = Py_NewRef(outer);
        second->held[INNER] = Py_NewRef(inner);
        second->held[INNER_DONE] = Py_NewRef((PyObject *)first);
        second->held[CLEAR_AWAITED_BY] = Py_XNewRef((PyObject *)clear);
        second->held[TASK] = Py_XNewRef(task);
        status = clear == NULL ? 0 : al_closure_add(st, inner, (PyObject *)clear);
    }
    if (status == 0 &&
        (al_closure_add(st, inner, (PyObject *)first) < 0 ||
         al_closure_add(st, outer, (PyObject *)second) < 0)) { /* escape */
        status = -1;
    }
    Py_XDECREF(task);
    Py_XDECREF(clear);
    Py_XDECREF(first);
    Py_XDECREF(second);
    return status;
}

/* New reference, or NULL.  Escapes. */
static PyObject *
shield(al_state *st, PyObject *loop, PyObject *arg)
{
    PyObject *inner = al_ensure_future(st, loop, arg, false);        /* escapes */
    int done = inner == NULL ? -1 : al_primitive_is_done(st, inner); /* escapes */
    if (done > 0) {
        return inner;
    }
    PyObject *outer = done < 0 ? NULL : al_primitive_future(st, loop); /* escapes */
    if (outer != NULL && connect(st, inner, outer) < 0) {              /* escapes */
        Py_CLEAR(outer);
    }
    Py_XDECREF(inner);
    return outer;
}

static PyObject *
call_shield(al_state *st, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *loop = nargs == 1 && (st->shield_steps & IS_KNOWN) != 0
                         ? al_registry_running_loop(st)
                         : NULL;
    PyObject *outer = NULL;
    if (loop != NULL && loop != Py_None && !al_primitive_is_debugged(st, loop) &&
        (al_ensure_is_coroutine(st, args[0]) || al_ensure_is_own(st, args[0], loop))) {
        outer = shield(st, loop, args[0]); /* escapes */
    }
    Py_XDECREF(loop);
    return outer;
}

const al_replacement al_shield_replacements[] = {
    {.owner = offsetof(al_state, asyncio_tasks),
     .name = "shield",
     .call = call_shield,
     .module = true},
    {.name = NULL},
};

/* --- which version it is ---------------------------------------------------------------------- */

#define BEGINS "done,futures,_get_loop,create_future,"
#define SETTLES "set_exception,set_result,result"

/* By the names in the code, in the order of their first use. */
static const struct {
    const char *names[3]; /* of shield() after ensure_future, and of its callbacks */
    int steps;
} known[] = {
    {{BEGINS "add_done_callback", "cancelled,exception,cancel," SETTLES,
      "done,remove_done_callback"},
     RETRIEVES},
    {{BEGINS "current_task,future_add_to_awaited_by,add_done_callback",
      "cancelled,cancel,exception," SETTLES,
      "done,remove_done_callback,futures,future_discard_from_awaited_by"},
     HAS_PARENT | LEAVES},
};

/* Whether a code has those names from the n-th on.  No exception is left. */
static bool
has_names(PyObject *code, Py_ssize_t first, const char *names)
{
    PyObject *all = PyObject_GetAttrString(code, "co_names");
    PyObject *comma = PyUnicode_FromString(",");
    PyObject *some =
        all == NULL ? NULL : PyTuple_GetSlice(all, first, PyTuple_GET_SIZE(all));
    PyObject *text = some == NULL || comma == NULL ? NULL : PyUnicode_Join(comma, some);
    bool same = text != NULL && PyUnicode_CompareWithASCIIString(text, names) == 0;
    Py_XDECREF(all);
    Py_XDECREF(comma);
    Py_XDECREF(some);
    Py_XDECREF(text);
    PyErr_Clear(); /* No memory: not known. */
    return same;
}

int
al_shield_init(al_state *st)
{
    if (al_closure_find(st, AL_CLOSURE_SHIELDED, "shield", "_inner_done_callback") <
            0 ||
        al_closure_find(st, AL_CLOSURE_UNSHIELD, "shield", "_outer_done_callback") <
            0 ||
        al_closure_find(st, AL_CLOSURE_UNAWAIT, "shield",
                        "_clear_awaited_by_callback") < 0) {
        return -1;
    }
    PyObject *inner = st->closures.codes[AL_CLOSURE_SHIELDED];
    PyObject *outer = st->closures.codes[AL_CLOSURE_UNSHIELD];
    bool clears = st->closures.codes[AL_CLOSURE_UNAWAIT] != NULL;
    PyObject *function = PyDict_GetItemString(st->closures.globals, "shield");
    for (size_t i = 0; inner != NULL && outer != NULL && function != NULL &&
                       i < sizeof(known) / sizeof(known[0]);
         i++) {
        if (has_names(PyFunction_GET_CODE(function), 1, known[i].names[0]) &&
            has_names(inner, 0, known[i].names[1]) &&
            has_names(outer, 0, known[i].names[2]) &&
            clears == ((known[i].steps & HAS_PARENT) != 0)) {
            st->shield_steps = IS_KNOWN | known[i].steps;
        }
    }
    return PyErr_Occurred() ? -1 : 0;
}
