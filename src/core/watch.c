/* watch.c: see watch.h. */
#include "core/watch.h"

static PyObject *
module_dict(const char *name)
{
    PyObject *module = PyImport_ImportModule(name);
    PyObject *dict = module == NULL ? NULL : Py_NewRef(PyModule_GetDict(module));
    Py_XDECREF(module);
    return dict;
}

#if PY_VERSION_HEX < 0x030C0000

void
al_watch_look(al_state *st, bool Py_UNUSED(closely))
{
    if (al_watch_stale(st)) {
        for (int i = 0; i < AL_WATCHED_MODULES; i++) {
            st->seen_globals[i] =
                ((PyDictObject *)st->watched_globals[i])->ma_version_tag;
        }
        PyType_Modified((PyTypeObject *)st->watched);
    }
}

static int
publish(PyObject *Py_UNUSED(watched))
{
    return 0;
}

static int
watch_globals(al_state *Py_UNUSED(st))
{
    return 0;
}

void
al_watch_free(al_state *Py_UNUSED(st))
{
}

#else

/* A watcher is told nothing but the dict: the state is in the interpreter's own. */
static const char KEY[] = "aioloop._core.watched";

static int
publish(PyObject *watched)
{
    PyObject *ours = PyInterpreterState_GetDict(PyInterpreterState_Get());
    return ours == NULL ? 0 : PyDict_SetItemString(ours, KEY, watched);
}

/* The interpreter has eight watchers, all of them taken. */
static bool
is_blind(const al_state *st)
{
    return st->dict_watcher == 0;
}

void
al_watch_look(al_state *st, bool closely)
{
    if (closely && is_blind(st)) {
        PyType_Modified((PyTypeObject *)st->watched);
    }
}

static int
globals_change(PyDict_WatchEvent event, PyObject *Py_UNUSED(dict),
               PyObject *Py_UNUSED(key), PyObject *Py_UNUSED(value))
{
    PyObject *ours = PyInterpreterState_GetDict(PyInterpreterState_Get());
    PyObject *watched = ours == NULL ? NULL : PyDict_GetItemString(ours, KEY);
    if (event != PyDict_EVENT_DEALLOCATED && watched != NULL) {
        PyType_Modified((PyTypeObject *)watched);
    }
    return 0;
}

static int
watch_globals(al_state *st)
{
    int id = PyDict_AddWatcher(globals_change);
    if (id < 0) {
        PyErr_Clear(); /* RuntimeError: there is none left. */
        return 0;
    }
    st->dict_watcher = id + 1;
    for (int i = 0; i < AL_WATCHED_MODULES; i++) {
        if (PyDict_Watch(id, st->watched_globals[i]) < 0) {
            return -1;
        }
    }
    return 0;
}

void
al_watch_free(al_state *st)
{
    PyObject *ours = PyInterpreterState_GetDict(PyInterpreterState_Get());
    if (st->dict_watcher == 0) {
        return;
    }
    if (PyDict_ClearWatcher(st->dict_watcher - 1) < 0) {
        PyErr_Clear(); /* The interpreter has none any more. */
    }
    st->dict_watcher = 0;
    if (ours != NULL && PyDict_GetItemString(ours, KEY) == st->watched &&
        PyDict_DelItemString(ours, KEY) < 0) {
        PyErr_Clear(); /* It goes with the interpreter. */
    }
}

#endif

int
al_watch_class(al_state *st, PyObject *watched)
{
    if (!PyType_Check(watched)) {
        PyErr_SetString(PyExc_TypeError, "a class was expected");
        return -1;
    }
    if (AL_FREE_THREADED) {
        Py_XINCREF(st->watched); /* Another thread may be looking at it. */
    }
    Py_XSETREF(st->watched, Py_NewRef(watched));
    return publish(watched);
}

int
al_watch_renew(al_state *st)
{
    PyObject *old = st->watched;
    PyObject *heir =
        PyObject_CallFunction((PyObject *)Py_TYPE(old), "sO{}", "watched",
                              ((PyTypeObject *)old)->tp_bases); /* escapes */
    int status = heir == NULL ? -1 : al_watch_class(st, heir);
    Py_XDECREF(heir);
    return status;
}

int
al_watch_init(al_state *st)
{
    static const char *const modules[AL_WATCHED_MODULES] = {
        "time", "asyncio.base_events", "asyncio.tasks", "asyncio.futures",
        "asyncio.events"};
    for (int i = 0; i < AL_WATCHED_MODULES; i++) {
        st->watched_globals[i] = module_dict(modules[i]);
        if (st->watched_globals[i] == NULL) {
            return -1;
        }
    }
    return al_watch_class(st, st->asyncio_TimerHandle) < 0 ? -1 : watch_globals(st);
}
