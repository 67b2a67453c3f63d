/* standin.c: see standin.h. */
#include "core/standin.h"

#include <string.h>

#include "base/layout.h"
#include "base/origin.h"
#include "core/watch.h"

/* What asyncio's functions find by global names, and what has to be as asyncio made it,
 * and of a known layout, before one of ours stands in for one that uses it. */
enum {
    HANDLES = 1, /* events.Handle and TimerHandle, their __init__ */
    TASK = 2,
    FUTURE = 4,
    CLOCK = 8,       /* base_events.time.monotonic */
    TRANSPORTS = 16, /* the layout of asyncio.transports' classes */
};

static const struct {
    const char *method;
    unsigned uses;
    const char *calls; /* another method of the class, or NULL */
} uses_of[] = {
    {"call_soon", HANDLES, "_call_soon"},
    {"_call_soon", HANDLES, NULL},
    {"call_soon_threadsafe", HANDLES, "_call_soon"},
    {"call_at", HANDLES, NULL},
    {"_add_reader", HANDLES, NULL},
    {"_add_writer", HANDLES, NULL},
    {"create_task", TASK, NULL},
    {"create_future", FUTURE, NULL},
    {"time", CLOCK, NULL},
    {"_make_socket_transport", TRANSPORTS, NULL},
    {"_make_datagram_transport", TRANSPORTS, NULL},
    {"_make_read_pipe_transport", TRANSPORTS, NULL},
    {"_make_write_pipe_transport", TRANSPORTS, NULL},
    {"_start_serving", TRANSPORTS, NULL},
};

typedef struct {
    PyTypeObject *ours; /* borrowed: the state has it */
    PyTypeObject *asyncios;
    PyObject *name, *method;
    unsigned uses;
    PyObject *calls; /* or NULL */
    bool out;        /* of our class's dict */
} standin;

/* A function and the code that it had at the last look. */
typedef struct {
    PyObject *function, *code;
} seen_function;

struct al_standins {
    standin *entries;
    size_t length;
    seen_function *seen;
    size_t seen_length, seen_capacity;
    unsigned int loop_tag, timer_tag, threadsafe_tag;
    unsigned broken; /* of HANDLES, TASK ... */
    bool handle_runs;
    bool processes_events;
    bool eager_factory; /* asyncio.eager_task_factory is asyncio's */
};

/* --- what our methods stand for ---------------------------------------------------------- */

static int
add_entry(struct al_standins *all, PyTypeObject *ours, PyObject *asyncios,
          PyObject *name, PyObject *method)
{
    standin *entries = all->entries;
    PyMem_Resize(entries, standin, all->length + 1);
    if (entries == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    all->entries = entries;
    standin *entry = &entries[all->length++];
    *entry = (standin){.ours = ours,
                       .asyncios = (PyTypeObject *)Py_NewRef(asyncios),
                       .name = Py_NewRef(name),
                       .method = Py_NewRef(method)};
    for (size_t i = 0; i < sizeof(uses_of) / sizeof(uses_of[0]); i++) {
        if (PyUnicode_CompareWithASCIIString(name, uses_of[i].method) != 0) {
            continue;
        }
        entry->uses = uses_of[i].uses;
        if (uses_of[i].calls != NULL) {
            entry->calls = PyUnicode_InternFromString(uses_of[i].calls);
            return entry->calls == NULL ? -1 : 0;
        }
    }
    return 0;
}

int
al_standin_add(al_state *st, PyTypeObject *ours, PyObject *asyncios)
{
    if (st->standins == NULL) {
        st->standins = PyMem_Calloc(1, sizeof(*st->standins));
        if (st->standins == NULL) {
            PyErr_NoMemory();
            return -1;
        }
    }
    PyObject *name, *method;
    Py_ssize_t position = 0;
    while (PyDict_Next(ours->tp_dict, &position, &name, &method)) {
        if (Py_IS_TYPE(method, &PyMethodDescr_Type) &&
            _PyType_Lookup((PyTypeObject *)asyncios, name) != NULL &&
            add_entry(st->standins, ours, asyncios, name, method) < 0) {
            return -1;
        }
    }
    return 0;
}

/* --- looking ------------------------------------------------------------------------------ */

static int
remember(PyObject *function, PyTypeObject *Py_UNUSED(owner), void *arg)
{
    struct al_standins *all = arg;
    if (!PyFunction_Check(function)) {
        return 0;
    }
    if (all->seen_length == all->seen_capacity) {
        size_t capacity = all->seen_capacity * 2 + 64;
        seen_function *seen = all->seen;
        PyMem_Resize(seen, seen_function, capacity);
        if (seen == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        all->seen = seen;
        all->seen_capacity = capacity;
    }
    all->seen[all->seen_length++] =
        (seen_function){Py_NewRef(function), Py_NewRef(PyFunction_GET_CODE(function))};
    return 0;
}

static void
forget_seen(struct al_standins *all)
{
    while (all->seen_length > 0) {
        seen_function seen = all->seen[--all->seen_length];
        Py_DECREF(seen.function); /* escapes */
        Py_DECREF(seen.code);
    }
}

static bool
code_changed(const struct al_standins *all)
{
    for (size_t i = 0; i < all->seen_length; i++) {
        if (PyFunction_GET_CODE(all->seen[i].function) != all->seen[i].code) {
            return true;
        }
    }
    return false;
}

/* Whether a module's global is that object. */
static bool
global_is(PyObject *module, const char *name, PyObject *object)
{
    return PyDict_GetItemString(PyModule_GetDict(module), name) == object;
}

static bool
init_intact(PyObject *type)
{
    PyObject *name = PyUnicode_InternFromString("__init__");
    bool intact = name != NULL && al_origin_intact((PyTypeObject *)type, name);
    Py_XDECREF(name);
    return intact;
}

/* asyncio's loops ask base_events.time.monotonic(). */
static bool
clock_intact(const al_state *st)
{
    PyObject *module = PyDict_GetItemString(PyModule_GetDict(st->base_events), "time");
    PyObject *monotonic =
        module == NULL || !PyModule_CheckExact(module)
            ? NULL
            : PyDict_GetItemString(PyModule_GetDict(module), "monotonic");
    return monotonic != NULL && al_origin_is_c(monotonic, "time", "monotonic");
}

static unsigned
broken_globals(const al_state *st)
{
    bool handles =
        !al_layout_is_off(st, AL_LAYOUT_HANDLE) &&
        global_is(st->asyncio_events, "Handle", st->asyncio_Handle) &&
        global_is(st->asyncio_events, "TimerHandle", st->asyncio_TimerHandle) &&
        init_intact(st->asyncio_TimerHandle);
    bool task = global_is(st->asyncio_tasks, "Task", st->asyncio_Task) &&
                !al_layout_is_off(st, AL_LAYOUT_TASK);
    bool future = global_is(st->asyncio_futures, "Future", st->asyncio_Future) &&
                  !al_layout_is_off(st, AL_LAYOUT_FUTURE);
    return (handles ? 0U : HANDLES) | (task ? 0U : TASK) | (future ? 0U : FUTURE) |
           (clock_intact(st) ? 0U : CLOCK) |
           (al_layout_is_off(st, AL_LAYOUT_TRANSPORT) ? TRANSPORTS : 0U);
}

/* Takes the method out of our class or puts it back.  Somebody may have put something
 * else into our class: that stays. */
static int
move(standin *entry, bool out)
{
    PyObject *there = PyDict_GetItemWithError(entry->ours->tp_dict, entry->name);
    if (there == NULL && PyErr_Occurred()) {
        return -1;
    }
    if (there == (out ? entry->method : NULL) &&
        PyObject_SetAttr((PyObject *)entry->ours, entry->name,
                         out ? NULL : entry->method) < 0) {
        return -1;
    }
    entry->out = out;
    return 0;
}

/* The one of asyncio's loops, for al_standin_create_task_changed. */
static void
note_create_task(al_state *st)
{
    PyObject *found =
        _PyType_Lookup((PyTypeObject *)st->SelectorEventLoop, st->str.create_task);
    bool function = found != NULL && PyFunction_Check(found);
    Py_XSETREF(st->create_task, function ? Py_NewRef(found) : NULL); /* escapes */
    Py_XSETREF(st->create_task_code,
               function ? Py_NewRef(PyFunction_GET_CODE(found)) : NULL);
}

static int
look_at(struct al_standins *all, standin *entry)
{
    bool out =
        (entry->uses & all->broken) != 0 ||
        !al_origin_intact(entry->asyncios, entry->name) ||
        (entry->calls != NULL && !al_origin_intact(entry->asyncios, entry->calls));
    if (al_origin_each(entry->asyncios, entry->name, remember, all) < 0) {
        return -1;
    }
    return out == entry->out ? 0 : move(entry, out);
}

/* A tag to compare with later: looking a name up makes one. */
static unsigned int
tag_of(PyObject *type, PyObject *name)
{
    if (type == NULL) {
        return 0;
    }
    (void)_PyType_Lookup((PyTypeObject *)type, name);
    return al_tag_to_see((PyTypeObject *)type);
}

static bool
tag_changed(PyObject *type, unsigned int seen)
{
    return type != NULL && AL_LOAD(((PyTypeObject *)type)->tp_version_tag) != seen;
}

static int
look(al_state *st, bool closely)
{
    struct al_standins *all = st->standins;
    al_watch_look(st, closely);
    if (!tag_changed(st->SelectorEventLoop, all->loop_tag) &&
        !tag_changed(st->asyncio_TimerHandle, all->timer_tag) &&
        !tag_changed(st->asyncio_ThreadSafeHandle, all->threadsafe_tag) &&
        !tag_changed(st->watched, st->seen_watched_tag) &&
        !(closely && code_changed(all)) && !al_standin_create_task_changed(st)) {
        return 0;
    }
    forget_seen(all); /* escapes */
    AL_STORE(all->broken, broken_globals(st));
    AL_STORE(all->handle_runs,
             al_origin_intact((PyTypeObject *)st->asyncio_TimerHandle, st->str._run) &&
                 (st->asyncio_ThreadSafeHandle == NULL ||
                  al_origin_intact((PyTypeObject *)st->asyncio_ThreadSafeHandle,
                                   st->str._run)));
    AL_STORE(all->processes_events,
             al_origin_intact((PyTypeObject *)st->SelectorEventLoop,
                              st->str._process_events));
    if (al_origin_each((PyTypeObject *)st->asyncio_TimerHandle, st->str._run, remember,
                       all) < 0) {
        return -1;
    }
    PyObject *eager = st->eager_task_factory;
    AL_STORE(all->eager_factory,
             eager != NULL && al_origin_is_function(eager, "asyncio.tasks",
                                                    "create_eager_task_factory.<locals>"
                                                    ".factory"));
    if (eager != NULL && remember(eager, NULL, all) < 0) {
        return -1;
    }
    note_create_task(st);
    st->handle_cancel_replaced = false;
    for (size_t i = 0; i < all->length; i++) {
        standin *entry = &all->entries[i];
        if (look_at(all, entry) < 0) {
            return -1;
        }
        st->handle_cancel_replaced |= entry->out && entry->name == st->str.cancel;
    }
    all->loop_tag = tag_of(st->SelectorEventLoop, st->str._run);
    all->timer_tag = tag_of(st->asyncio_TimerHandle, st->str._run);
    all->threadsafe_tag = tag_of(st->asyncio_ThreadSafeHandle, st->str._run);
    if (AL_UNLIKELY(tag_of(st->watched, st->str._run) == UINT_MAX) &&
        al_watch_renew(st) < 0) { /* escapes */
        return -1;
    }
    AL_STORE(st->seen_watched_tag, tag_of(st->watched, st->str._run));
    return 0;
}

int
al_standin_look(al_state *st, bool closely)
{
    int status;
    if (st->EventLoop_type == NULL) {
        return look(st, closely); /* at import: nobody else has the module */
    }
    AL_CRITICAL_BEGIN(al_state_guard(st));
    status = look(st, closely); /* escapes */
    AL_CRITICAL_END();
    return status;
}

/* --- while they are out ------------------------------------------------------------------- */

PyObject *
al_standin_other(const al_state *st, const PyTypeObject *ours, const char *name)
{
    const struct al_standins *all = st->standins;
    for (size_t i = 0; i < all->length; i++) {
        const standin *entry = &all->entries[i];
        if (entry->ours == ours &&
            PyUnicode_CompareWithASCIIString(entry->name, name) == 0) {
            return entry->out ? _PyType_Lookup(entry->asyncios, entry->name) : NULL;
        }
    }
    return NULL;
}

PyObject *
al_standin_call(PyObject *other, PyObject *self, PyObject *const *args,
                Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *bound, *result = NULL;
    descrgetfunc get = Py_TYPE(other)->tp_descr_get;
    if (get == NULL) {
        bound = Py_NewRef(other);
    }
    else {
        bound = get(other, self, (PyObject *)Py_TYPE(self)); /* escapes */
    }
    if (bound != NULL) {
        result = PyObject_Vectorcall(bound, args, (size_t)nargs, kwnames); /* escapes */
        Py_DECREF(bound);
    }
    return result;
}

bool
al_standin_handle_runs(const al_state *st)
{
    return AL_LOAD(st->standins->handle_runs);
}

bool
al_standin_eager_factory_intact(const al_state *st)
{
    return AL_LOAD(st->standins->eager_factory);
}

bool
al_standin_processes_events(const al_state *st)
{
    return AL_LOAD(st->standins->processes_events);
}

bool
al_standin_task_intact(const al_state *st)
{
    return (AL_LOAD(st->standins->broken) & TASK) == 0;
}

/* --- life --------------------------------------------------------------------------------- */

int
al_standin_traverse(const al_state *st, visitproc visit, void *arg)
{
    const struct al_standins *all = st->standins;
    for (size_t i = 0; all != NULL && i < all->length; i++) {
        Py_VISIT(all->entries[i].asyncios);
        Py_VISIT(all->entries[i].method);
    }
    for (size_t i = 0; all != NULL && i < all->seen_length; i++) {
        Py_VISIT(all->seen[i].function);
        Py_VISIT(all->seen[i].code);
    }
    return 0;
}

void
al_standin_free(al_state *st)
{
    struct al_standins *all = st->standins;
    if (all == NULL) {
        return;
    }
    st->standins = NULL;
    forget_seen(all); /* escapes */
    for (size_t i = 0; i < all->length; i++) {
        Py_DECREF(all->entries[i].asyncios);
        Py_DECREF(all->entries[i].name);
        Py_DECREF(all->entries[i].method);
        Py_XDECREF(all->entries[i].calls);
    }
    PyMem_Free(all->entries);
    PyMem_Free(all->seen);
    PyMem_Free(all);
}
