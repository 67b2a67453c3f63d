/* override.c: see override.h. */
#include "core/override.h"

#include "core/sched.h"
#include "core/standin.h"
#include "core/watch.h"

/* Whether loop.<name> is the C function `ours`, bound to this loop.  1, 0 or -1. */
static int
is_ours(al_loop *loop, PyObject *name, PyCFunction ours)
{
    PyObject *method = PyObject_GetAttr((PyObject *)loop, name); /* escapes */
    if (method == NULL) {
        return -1;
    }
    int result = PyCFunction_Check(method) &&
                 PyCFunction_GET_FUNCTION(method) == ours &&
                 PyCFunction_GET_SELF(method) == (PyObject *)loop;
    Py_DECREF(method);
    return result;
}

/* Whether the instance has an attribute of its own.  1, 0 or -1. */
static int
has_own(PyObject *obj, PyObject *name)
{
    PyObject *dict = PyObject_GenericGetDict(obj, NULL);
    int found = dict == NULL ? -1 : PyDict_Contains(dict, name);
    Py_XDECREF(dict);
    return found;
}

/* Whether asyncio's iteration would wait in something else than our selector, or give the
 * events to something else than asyncio's method.  1, 0 or -1. */
static int
is_select_replaced(al_loop *loop)
{
    al_state *st = loop->st;
    PyObject *selector, *name = st->str._process_events;
    int own = has_own((PyObject *)loop, name);
    if (own != 0 || !al_standin_processes_events(st) ||
        _PyType_Lookup(Py_TYPE(loop), name) !=
            _PyType_Lookup((PyTypeObject *)st->SelectorEventLoop, name)) {
        return own < 0 ? -1 : 1;
    }
    int found = al_getattr_optional((PyObject *)loop, st->str._selector,
                                    &selector); /* escapes */
    if (found <= 0 || selector == Py_None || st->selector_type == NULL) {
        Py_XDECREF(selector);
        return found < 0 ? -1 : 0; /* A loop that is being made, or is closed. */
    }
    int replaced =
        !Py_IS_TYPE(selector, st->selector_type) ||
        _PyType_Lookup(st->selector_type, st->str.select) != st->selector_select;
    replaced = replaced ? 1 : has_own(selector, st->str.select);
    Py_DECREF(selector); /* escapes */
    return replaced;
}

static bool
goes_as_asyncio(const al_loop *loop, bool time)
{
    return time || loop->timers.lent != NULL || loop->virtual != NULL;
}

static int
refresh(al_loop *loop, bool closely)
{
    al_state *st = loop->st;
    if (al_standin_look(st, closely) < 0) {
        return -1;
    }
    int time = is_ours(loop, st->str.time, st->loop_time);
    int call_soon = is_ours(loop, st->str.call_soon, st->loop_call_soon);
    int call_at = is_ours(loop, st->str.call_at, st->loop_call_at);
    int create_future = is_ours(loop, st->str.create_future, st->loop_create_future);
    int create_task = is_ours(loop, st->str.create_task, st->loop_create_task);
    int run_once = is_ours(loop, st->str._run_once, st->loop_run_once);
    int select = is_select_replaced(loop); /* escapes */
    if (time < 0 || call_soon < 0 || call_at < 0 || create_future < 0 ||
        create_task < 0 || run_once < 0 || select < 0) {
        return -1;
    }
    loop->look.until_check = 0;
    loop->overrides = (al_overrides){
        .as_asyncio = goes_as_asyncio(loop, !time),
        .in_python = !run_once || select,
        .time = !time,
        .call_soon = !call_soon,
        .call_at = !call_at,
        .create_future = !create_future,
        .create_task = !create_task,
        .run_once = !run_once,
        .select = select,
        .handle_run = !al_standin_handle_runs(st),
    };
    AL_STORE(loop->seen_tags.type, al_tag_to_see(Py_TYPE(loop)));
    AL_STORE(loop->seen_tags.watched, al_tag_to_see((PyTypeObject *)st->watched));
    if (loop->overrides.in_python && loop->timers.lent == NULL) {
        /* An iteration in Python counts on its list, from the first timer on. */
        PyObject *list = al_timers_lend(&loop->timers);
        Py_XDECREF(list);
        al_override_timers_moved(loop);
        return list == NULL ? -1 : 0;
    }
    return 0;
}

int
al_override_refresh(al_loop *loop)
{
    return refresh(loop, false);
}

int
al_override_look_closely(al_loop *loop)
{
    return refresh(loop, true);
}

void
al_override_forget(al_loop *loop)
{
    AL_STORE(loop->seen_tags.type, UINT_MAX);
}

int
al_override_setattr(PyObject *self, PyObject *name, PyObject *value)
{
    if (PyObject_GenericSetAttr(self, name, value) < 0) { /* escapes */
        return -1;
    }
    al_loop *loop = (al_loop *)self;
    const al_state *st = loop->st;
    if (st != NULL && PyUnicode_Check(name)) {
        PyObject *const watched[] = {st->str.time,        st->str.call_soon,
                                     st->str.call_at,     st->str.create_future,
                                     st->str.create_task, st->str._run_once};
        for (size_t i = 0; i < sizeof(watched) / sizeof(watched[0]); i++) {
            if (PyUnicode_Compare(name, watched[i]) == 0) {
                return al_override_refresh(loop);
            }
        }
        bool selector = PyUnicode_Compare(name, st->str._selector) == 0;
        if (PyUnicode_Compare(name, st->str._process_events) == 0 ||
            (selector && (loop->overrides.select || value == NULL ||
                          !Py_IS_TYPE(value, st->selector_type)))) {
            al_override_forget(loop);
        }
    }
    return 0;
}

void
al_override_timers_moved(al_loop *loop)
{
    loop->overrides.as_asyncio = goes_as_asyncio(loop, loop->overrides.time);
    loop->look.until_check = 0; /* The next iteration looks at this. */
}

/* Whether methods have been replaced by now.  0, or -1 with an exception. */
static int
look(al_loop *loop)
{
    AL_HOLD(own, loop);
    return own.foreign
               ? al_standin_look(loop->st, false) /* The loop sees for itself. */
               : al_override_refresh(loop);       /* escapes */
}

bool
al_override_obeyed(al_loop *loop, const char *name, PyObject *const *args,
                   Py_ssize_t nargs, PyObject *kwnames, PyObject **result)
{
    *result = NULL;
    if (look(loop) < 0) { /* escapes */
        return true;
    }
    PyObject *other =
        Py_XNewRef(al_standin_other(loop->st, loop->st->EventLoop_type, name));
    if (other == NULL) {
        return false;
    }
    *result = al_standin_call(other, (PyObject *)loop, args, nargs, kwnames);
    Py_DECREF(other);
    return true;
}
