/* usage.c: see usage.h. */
#include "core/usage.h"

#include "core/handle.h"
#include "core/sched.h"

/* A chain of places that is longer than this is given up. */
enum { PROBES = 32 };

void
al_usage_init(al_usage *usage)
{
    usage->count = 1; /* The first entry is that of all the rest. */
    usage->entries[0].kind = AL_USAGE_LOOP;
}

int
al_usage_traverse(const al_usage *usage, visitproc visit, void *arg)
{
    for (uint32_t i = 0; i < usage->count; i++) {
        Py_VISIT(usage->entries[i].what);
    }
    return 0;
}

void
al_usage_clear(al_usage *usage)
{
    for (uint32_t i = 0; i < usage->count; i++) {
        Py_CLEAR(usage->entries[i].what); /* escapes */
    }
}

/* --- whose slot it is ----------------------------------------------------------------- */

typedef struct {
    const void *key;
    PyObject *what; /* borrowed; NULL: a name has to be made */
    int kind;
} owner;

inline PyObject *
al_usage_code(PyObject *coro)
{
#if PY_VERSION_HEX < 0x030C0000
    return (PyObject *)((PyGenObject *)(void *)coro)->gi_code;
#elif defined(Py_DEBUG)
    /* PyGen_GetCode asserts that it is no coroutine. */
    PyObject *code =
        PyObject_GetAttrString(coro, PyCoro_CheckExact(coro) ? "cr_code" : "gi_code");
    if (code == NULL) {
        PyErr_Clear(); /* MemoryError: it goes by its type. */
        return NULL;
    }
    Py_DECREF(code);
    return code;
#else
    PyObject *code = (PyObject *)PyGen_GetCode((PyGenObject *)(void *)coro);
    Py_DECREF(code);
    return code;
#endif
}

static inline owner
owner_of_coroutine(PyObject *coro)
{
    if (AL_LIKELY(PyCoro_CheckExact(coro) || PyGen_CheckExact(coro))) {
        PyObject *code = al_usage_code(coro);
        if (code != NULL) {
            return (owner){code, code, AL_USAGE_TASK};
        }
    }
    PyObject *type = (PyObject *)Py_TYPE(coro);
    return (owner){type, type, AL_USAGE_TASK};
}

static inline bool
is_partial(const al_state *st, PyObject *callback)
{
    return (PyObject *)Py_TYPE(callback) == st->partial;
}

/* What a partial object calls in the end, or as far as four deep; borrowed. */
static PyObject *
function_of_partial(const al_state *st, PyObject *callback)
{
    for (int depth = 0; depth < 4 && is_partial(st, callback); depth++) {
        PyObject *inner = PyObject_GetAttr(callback, st->str.func);
        if (inner == NULL) {
            PyErr_Clear(); /* MemoryError: it goes by its type. */
            break;
        }
        Py_DECREF(inner); /* The partial object keeps it. */
        callback = inner;
    }
    return callback;
}

static inline owner
owner_of_callback(const al_state *st, PyObject *callback)
{
    if (AL_UNLIKELY(is_partial(st, callback))) {
        callback = function_of_partial(st, callback);
    }
    if (PyMethod_Check(callback)) {
        callback = PyMethod_GET_FUNCTION(callback);
    }
    if (AL_LIKELY(PyFunction_Check(callback))) {
        PyObject *code = PyFunction_GET_CODE(callback);
        return (owner){code, code, AL_USAGE_CALLBACK};
    }
    if (PyCFunction_CheckExact(callback)) {
        /* A method of a type that is gone may have left its place to another one. */
        return (owner){((PyCFunctionObject *)callback)->m_ml, NULL, AL_USAGE_CALLBACK};
    }
    PyObject *type = (PyObject *)Py_TYPE(callback);
    return (owner){type, type, AL_USAGE_CALLBACK};
}

static inline owner
owner_of(const al_loop *loop, const al_slot *slot)
{
    const al_state *st = loop->st;
    if (slot->run == st->task_wakeup || slot->run == st->task_step) {
        PyObject *coro = st->task_coro(slot->self);
        return coro == NULL ? (owner){NULL, NULL, 0} : owner_of_coroutine(coro);
    }
    if (slot->run == al_handle_run || slot->run == al_handle_run_threadsafe) {
        PyObject *callback = ((al_handle *)slot->self)->callback;
        return callback == NULL ? (owner){NULL, NULL, 0}
                                : owner_of_callback(st, callback);
    }
    if (slot->run == st->future_call) {
        return owner_of_callback(st, slot->self);
    }
    PyObject *protocol =
        slot->run == st->stream_readable ? st->stream_protocol(slot->self) : NULL;
    if (protocol != NULL) {
        PyObject *type = (PyObject *)Py_TYPE(protocol);
        return (owner){type, type, AL_USAGE_PROTOCOL};
    }
    return (owner){(const void *)(uintptr_t)slot->run, NULL, AL_USAGE_LOOP};
}

/* The name of what has neither code nor a type of its own: a C function, or work of the
 * loop.  NULL without memory, and no exception. */
static PyObject *
make_name(const al_loop *loop, const al_slot *slot, int kind)
{
    PyObject *name = NULL;
    if (kind == AL_USAGE_LOOP) {
        const char *method = al_debug_method_of(loop->st, slot->run);
        const char *type = Py_TYPE(slot->self)->tp_name;
        const char *dot = strrchr(type, '.');
        type = dot == NULL ? type : dot + 1;
        name = method == NULL ? PyUnicode_FromString(type)
                              : PyUnicode_FromFormat("%s.%s", type, method);
    }
    else {
        PyObject *callback = slot->run == loop->st->future_call
                                 ? slot->self
                                 : ((al_handle *)slot->self)->callback;
        while (is_partial(loop->st, callback)) {
            PyObject *inner = PyObject_GetAttr(callback, loop->st->str.func);
            if (inner == NULL) {
                break;
            }
            Py_DECREF(inner);
            callback = inner;
        }
        if (PyCFunction_CheckExact(callback)) {
            const PyCFunctionObject *function = (PyCFunctionObject *)callback;
            PyObject *self = function->m_self;
            name = self == NULL || PyModule_Check(self)
                       ? PyUnicode_FromString(function->m_ml->ml_name)
                       : PyUnicode_FromFormat("%s.%s",
                                              PyType_Check(self)
                                                  ? ((PyTypeObject *)self)->tp_name
                                                  : Py_TYPE(self)->tp_name,
                                              function->m_ml->ml_name);
        }
    }
    if (name == NULL) {
        PyErr_Clear(); /* MemoryError: the entry is one of the rest. */
    }
    return name;
}

/* The number of a new entry, whose place that is; 0 where there is no room. */
static uint32_t
add_entry(al_usage *usage, al_usage_place *place, uintptr_t key, owner of,
          const al_loop *loop, const al_slot *slot)
{
    if (usage->count == AL_USAGE_ENTRIES) {
        return 0;
    }
    PyObject *what =
        of.what != NULL ? Py_NewRef(of.what) : make_name(loop, slot, of.kind);
    if (what == NULL) {
        return 0;
    }
    uint32_t number = usage->count++;
    usage->entries[number] = (al_usage_entry){.what = what, .kind = of.kind};
    *place = (al_usage_place){key, number};
    return number;
}

/* The key is not in its first place, i. */
static AL_COLD uint32_t
find_further(al_usage *usage, size_t i, uintptr_t key, owner of, const al_loop *loop,
             const al_slot *slot)
{
    for (size_t end = i + PROBES; i < end; i++) {
        al_usage_place *place = &usage->places[i % (2 * AL_USAGE_ENTRIES)];
        if (place->key == key) {
            return place->number;
        }
        if (place->key == 0) {
            return add_entry(usage, place, key, of, loop, slot);
        }
    }
    return 0;
}

inline uint32_t
al_usage_find(al_usage *usage, const al_loop *loop, const al_slot *slot)
{
    owner of = owner_of(loop, slot);
    if (AL_UNLIKELY(of.key == NULL)) {
        return AL_USAGE_NOBODY;
    }
    /* Objects are aligned, so what is two kinds has two keys. */
    uintptr_t key = (uintptr_t)of.key + (uintptr_t)of.kind;
    size_t i = (size_t)((uint64_t)key * 0x9E3779B97F4A7C15u >> 53);
    const al_usage_place *place = &usage->places[i]; /* 11 bits: 2 * ENTRIES */
    return AL_LIKELY(place->key == key) ? place->number
                                        : find_further(usage, i, key, of, loop, slot);
}

/* --- readings ------------------------------------------------------------------------- */

void
al_usage_open_window(al_usage *usage)
{
    if (usage->windows_open++ > 0) {
        return;
    }
    for (uint32_t i = 0; i < usage->count; i++) {
        al_usage_entry *entry = &usage->entries[i];
        entry->longest = Py_MAX(entry->longest, entry->recent);
        entry->recent = 0;
    }
}

void
al_usage_close_window(al_usage *usage)
{
    if (usage->windows_open > 0) {
        usage->windows_open--;
    }
}

PyObject *
al_usage_read(const al_usage *usage)
{
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list != NULL && i < usage->count; i++) {
        const al_usage_entry *entry = &usage->entries[i];
        PyObject *item = Py_BuildValue(
            "(IiOKLLLLK)", i, entry->kind, entry->what == NULL ? Py_None : entry->what,
            (unsigned long long)entry->steps, (long long)entry->time,
            (long long)Py_MAX(entry->longest, entry->recent), (long long)entry->recent,
            (long long)entry->delay, (unsigned long long)entry->self_wakes);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    return list;
}
