/* misuse.c: see misuse.h.
 *
 * Coroutines that were never awaited are the interpreter's: it calls
 * warnings._warn_unawaited_coroutine for each.  The first loop puts a function of ours
 * there, which counts and calls what was there before.  It is in C so that the warning's
 * place, two frames up, stays what it is. */
#include "core/misuse.h"

static bool
is_finalizing(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
}

static const char *const names[] = {
#define X(kind, name) #name,
    AL_MISUSE_KINDS(X)
#undef X
};

static void
tell(al_state *st, PyObject *loop, al_misuse_kind kind, PyObject *obj,
     PyObject *created)
{
    if (st->misuse_found == NULL || is_finalizing()) {
        return;
    }
    PyObject *pending = al_err_take();
    PyObject *function = Py_NewRef(st->misuse_found);
    PyObject *result = PyObject_CallFunction(
        function, "OsOO", loop == NULL ? Py_None : loop, names[kind], obj,
        created == NULL ? Py_None : created); /* escapes */
    if (result == NULL) {
        PyErr_WriteUnraisable(function);
    }
    Py_XDECREF(result);
    Py_DECREF(function);
    al_err_put_steal(pending);
}

void
al_misuse_found(al_state *st, PyObject *loop, al_misuse_kind kind, PyObject *obj,
                PyObject *created)
{
    al_loop *ours = loop == NULL ? NULL : al_loop_check(st, loop);
    if (ours != NULL) {
        al_misuse_count(ours, kind);
    }
    else {
        AL_ADD(st->misuse.counts[kind], 1);
    }
    tell(st, loop, kind, obj, created); /* escapes */
}

PyObject *
al_misuse_made(al_state *st, PyObject *transport)
{
    PyObject *stack = PyObject_GenericGetAttr(transport, st->str._made);
    PyObject *created = stack == NULL ? NULL : al_stack_read_present(st, &stack);
    Py_XDECREF(stack);
    if (created == NULL) {
        PyErr_Clear(); /* AttributeError: it was made outside of debug mode. */
    }
    return created;
}

void
al_misuse_lost_fd(al_loop *loop, int fd)
{
    PyObject *reader, *writer;
    if (al_fds_get(&loop->fds, fd, &reader, &writer) ||
        al_fds_transport(&loop->fds, fd) != NULL) {
        al_misuse_count(loop, AL_CLOSED_FD);
        loop->lost_fd = fd;
    }
}

void
al_misuse_tell_lost(al_loop *loop)
{
    PyObject *reader, *writer, *owner = al_fds_transport(&loop->fds, loop->lost_fd);
    if (owner == NULL && al_fds_get(&loop->fds, loop->lost_fd, &reader, &writer)) {
        owner = reader != NULL ? reader : writer;
    }
    PyObject *pair =
        owner == NULL ? NULL : Py_BuildValue("(iN)", loop->lost_fd, Py_NewRef(owner));
    loop->lost_fd = -1;
    if (pair == NULL) {
        PyErr_Clear(); /* MemoryError: it is counted. */
        return;
    }
    PyObject *created = al_misuse_made(loop->st, PyTuple_GET_ITEM(pair, 1));
    tell(loop->st, (PyObject *)loop, AL_CLOSED_FD, pair, created); /* escapes */
    Py_XDECREF(created);
    Py_DECREF(pair);
}

void
al_misuse_note(const char *function, PyObject *first, PyObject *second)
{
    PyObject *raised = al_err_take(), *result = NULL;
    PyObject *module = PyImport_ImportModule("aioloop._orphans"); /* escapes */
    PyObject *note = module == NULL
                         ? NULL
                         : PyObject_CallMethod(module, function, "OO", first,
                                               second == NULL ? Py_None : second);
    if (note != NULL && note != Py_None) {
        result = PyObject_CallMethod(raised, "add_note", "O", note); /* escapes */
    }
    if (PyErr_Occurred()) {
        PyErr_Clear(); /* The exception itself is worth more than a note. */
    }
    Py_XDECREF(result);
    Py_XDECREF(note);
    Py_XDECREF(module);
    al_err_put_steal(raised);
}

int
al_misuse_tell_forked(al_loop *loop)
{
    PyObject *module = PyImport_ImportModule("aioloop._orphans"); /* escapes */
    PyObject *origin =
        module == NULL ? NULL : PyObject_CallMethod(module, "_loop_origin", "O", loop);
    /* ", made at app.py:3 in main,", or an empty text. */
    int status =
        origin == NULL
            ? -1
            : al_debug_warn(loop->st,
                            "%r%s was carried through a fork: the child now has a "
                            "selector of its own, but shares every open descriptor "
                            "with its parent",
                            (PyObject *)loop, origin); /* escapes */
    Py_XDECREF(origin);
    Py_XDECREF(module);
    return status;
}

/* The loop that runs in this thread, or NULL.  New reference; leaves no exception. */
static PyObject *
running_loop(const al_state *st)
{
    PyObject *loop = PyObject_CallMethod(st->asyncio_events, "_get_running_loop", NULL);
    if (loop == NULL) {
        PyErr_Clear(); /* The interpreter is going. */
    }
    else if (loop == Py_None) {
        Py_CLEAR(loop);
    }
    return loop;
}

PyDoc_STRVAR(warn_unawaited_doc, "_warn_unawaited_coroutine($module, coro, /)\n--\n\n"
                                 "Count the coroutine and warn as before.");

static PyObject *
core_warn_unawaited(PyObject *module, PyObject *coro)
{
    al_state *st = al_state_of_module(module);
    PyObject *loop = running_loop(st);
    al_misuse_found(st, loop, AL_UNAWAITED, coro, NULL); /* escapes */
    Py_XDECREF(loop);
    return PyObject_CallOneArg(st->warn_unawaited, coro); /* escapes */
}

PyDoc_STRVAR(on_misuse_doc,
             "_on_misuse($module, found, /)\n--\n\n"
             "Call found(loop, kind, obj, created) for what a program loses.");

static PyObject *
core_on_misuse(PyObject *module, PyObject *found)
{
    al_state *st = al_state_of_module(module);
    Py_XSETREF(st->misuse_found, Py_NewRef(found)); /* escapes */
    Py_RETURN_NONE;
}

PyDoc_STRVAR(watch_unawaited_doc,
             "_watch_unawaited($module, /)\n--\n\n"
             "Count coroutines that are never awaited, from now on.");

static PyObject *
watch_unawaited(PyObject *module)
{
    al_state *st = al_state_of_module(module);
    if (st->warn_unawaited != NULL) {
        Py_RETURN_NONE;
    }
    PyObject *before =
        PyObject_GetAttr(st->warnings, st->str._warn_unawaited_coroutine);
    PyObject *ours = before == NULL
                         ? NULL
                         : PyObject_GetAttrString(module, "_warn_unawaited_coroutine");
    if (before == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear(); /* AttributeError: somebody has deleted it. */
        Py_RETURN_NONE;
    }
    if (ours == NULL ||
        PyObject_SetAttr(st->warnings, st->str._warn_unawaited_coroutine, ours) < 0) {
        Py_XDECREF(ours);
        Py_XDECREF(before);
        return NULL;
    }
    Py_DECREF(ours);
    st->warn_unawaited = before;
    Py_RETURN_NONE;
}

static PyObject *
core_watch_unawaited(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    PyObject *result;
    AL_CRITICAL_BEGIN(al_state_guard(al_state_of_module(module)));
    result = watch_unawaited(module);
    AL_CRITICAL_END();
    return result;
}

PyDoc_STRVAR(misuse_doc, "_misuse($module, loop, /)\n--\n\n"
                         "Return the counters of a loop, or of all with None.");

static PyObject *
core_misuse(PyObject *module, PyObject *loop)
{
    al_state *st = al_state_of_module(module);
    const al_loop *ours = loop == Py_None ? NULL : al_loop_check(st, loop);
    if (ours == NULL && loop != Py_None) {
        PyErr_SetString(PyExc_TypeError, "not a loop of aioloop");
        return NULL;
    }
    const al_misuse *misuse = ours == NULL ? &st->misuse : &ours->misuse;
    PyObject *counts = PyDict_New();
    for (size_t i = 0; counts != NULL && i < AL_MISUSES; i++) {
        PyObject *count = PyLong_FromUnsignedLongLong(AL_LOAD(misuse->counts[i]));
        if (count == NULL || PyDict_SetItemString(counts, names[i], count) < 0) {
            Py_CLEAR(counts);
        }
        Py_XDECREF(count);
    }
    return counts;
}

PyMethodDef al_misuse_methods[] = {
    {"_misuse", core_misuse, METH_O, misuse_doc},
    {"_on_misuse", core_on_misuse, METH_O, on_misuse_doc},
    {"_watch_unawaited", core_watch_unawaited, METH_NOARGS, watch_unawaited_doc},
    {"_warn_unawaited_coroutine", core_warn_unawaited, METH_O, warn_unawaited_doc},
    {NULL, NULL, 0, NULL},
};
