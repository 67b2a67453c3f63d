/* usage.c: see usage.h. */
#include "core/usage.h"

#include "core/handle.h"
#include "core/sched.h"

/* The table is open-addressed; a chain that is longer than this is given up. */
enum { PROBES = 32 };

void
al_usage_init(al_usage *usage)
{
    usage->count = 1; /* The first entry is that of all the rest. */
    usage->window = 1;
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

/* The code of a coroutine or generator; borrowed: the object keeps it. */
static inline PyObject *
code_of_generator(PyObject *coro)
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
        PyObject *code = code_of_generator(coro);
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

static inline owner
owner_of_callback(const al_state *st, PyObject *callback)
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
    if (PyMethod_Check(callback)) {
        callback = PyMethod_GET_FUNCTION(callback);
    }
    if (PyFunction_Check(callback)) {
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
        /* Not the key that the type has as a callback. */
        return (owner){(const char *)type + 1, type, AL_USAGE_PROTOCOL};
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

static AL_COLD al_usage_entry *
add_entry(al_usage *usage, uint16_t *place, owner of, const al_loop *loop,
          const al_slot *slot)
{
    if (usage->count == AL_USAGE_ENTRIES) {
        return &usage->entries[0];
    }
    PyObject *what =
        of.what != NULL ? Py_NewRef(of.what) : make_name(loop, slot, of.kind);
    if (what == NULL) {
        return &usage->entries[0];
    }
    al_usage_entry *entry = &usage->entries[usage->count];
    *entry = (al_usage_entry){.key = of.key, .what = what, .kind = of.kind};
    *place = (uint16_t)usage->count++;
    return entry;
}

al_usage_entry *
al_usage_find(al_usage *usage, al_loop *loop, const al_slot *slot)
{
    owner of = owner_of(loop, slot);
    if (AL_UNLIKELY(of.key == NULL)) {
        return NULL;
    }
    uint64_t hash = (uint64_t)(uintptr_t)of.key * 0x9E3779B97F4A7C15u;
    size_t i = (size_t)(hash >> 53); /* 11 bits: 2 * AL_USAGE_ENTRIES */
    for (int probe = 0; probe < PROBES; probe++, i++) {
        uint16_t *place = &usage->slots[i % (2 * AL_USAGE_ENTRIES)];
        if (*place == 0) {
            return add_entry(usage, place, of, loop, slot);
        }
        al_usage_entry *entry = &usage->entries[*place];
        if (AL_LIKELY(entry->key == of.key && entry->kind == of.kind)) {
            return entry;
        }
    }
    return &usage->entries[0];
}

/* --- readings ------------------------------------------------------------------------- */

void
al_usage_open_window(al_usage *usage)
{
    if (usage->windows_open++ == 0) {
        usage->window++;
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
            (long long)entry->longest,
            (long long)(entry->window == usage->window ? entry->recent : 0),
            (long long)entry->delay, (unsigned long long)entry->self_wakes);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    return list;
}
