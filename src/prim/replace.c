/* replace.c: see replace.h. */
#include "prim/replace.h"

#include "base/layout.h"
#include "base/origin.h"
#include "prim/closure.h"
#include "prim/condition.h"
#include "prim/ensure.h"
#include "prim/gather.h"
#include "prim/group.h"
#include "prim/lock.h"
#include "prim/queue.h"
#include "prim/semaphore.h"
#include "prim/shield.h"
#include "prim/sleep.h"
#include "prim/wait.h"
#include "prim/with.h"
#include "task/lazy.h"

/* A function of asyncio's that C stands in for. */
typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    al_state *st;
    const al_replacement *what;
    PyObject *function; /* asyncio's */
    PyObject *dict;     /* marks it as a coroutine function */
    PyObject *weakrefs;
} al_accelerated;

/* A class, and what C relies on there: `functions` has what each name led to when the
 * switch was turned, NULL while C may not be used. */
typedef struct {
    PyTypeObject *type; /* borrowed from the state */
    PyObject *functions;
    unsigned int seen_tag;
    bool intact;
    Py_ssize_t attributes; /* that __init__ leaves; `_loop` may come later */
} al_replaced_type;

struct al_replaced {
    bool on;
    PyObject *done; /* list of (owner, name, asyncio's, ours) */
    al_replaced_type classes[AL_PRIM_CLASSES];
};

/* asyncio's queues can be shut down since 3.13. */
enum { QUEUE_ATTRIBUTES = PY_VERSION_HEX >= 0x030D0000 ? 7 : 6 };
/* A task group can be cancelled since 3.15. */
enum { GROUP_ATTRIBUTES = PY_VERSION_HEX >= 0x030F0000 ? 11 : 10 };

/* What a condition's notify() calls since 3.13. */
#define CONDITION_NOTIFY (PY_VERSION_HEX >= 0x030D0000 ? "_notify" : NULL)

/* What the methods in C stand in for, and what those of asyncio would call. */
static const struct {
    size_t type;
    Py_ssize_t attributes;
    const char *names[16];
} classes[AL_PRIM_CLASSES] = {
    [AL_PRIM_LOCK] = {offsetof(al_state, Lock),
                      2,
                      {"__aenter__", "__aexit__", "acquire", "release", "locked",
                       "_wake_up_first", "_get_loop"}},
    [AL_PRIM_EVENT] = {offsetof(al_state, Event), 2, {"set", "clear"}},
    [AL_PRIM_CONDITION] = {offsetof(al_state, Condition),
                           5,
                           {"__aenter__", "__aexit__", "notify", "notify_all",
                            CONDITION_NOTIFY}},
    [AL_PRIM_SEMAPHORE] = {offsetof(al_state, Semaphore),
                           2,
                           {"__aenter__", "__aexit__", "acquire", "release", "locked",
                            "_wake_up_next", "_get_loop"}},
    [AL_PRIM_BOUNDED_SEMAPHORE] = {offsetof(al_state, BoundedSemaphore),
                                   3,
                                   {"__aenter__", "__aexit__", "acquire", "release",
                                    "locked", "_wake_up_next", "_get_loop"}},
#define QUEUE_NAMES                                                                    \
    {"get",  "get_nowait", "put",  "put_nowait", "task_done",    "empty",              \
     "full", "qsize",      "_get", "_put",       "_wakeup_next", "_get_loop"}
    [AL_PRIM_QUEUE] = {offsetof(al_state, Queue), QUEUE_ATTRIBUTES, QUEUE_NAMES},
    [AL_PRIM_PRIORITY_QUEUE] = {offsetof(al_state, PriorityQueue), QUEUE_ATTRIBUTES,
                                QUEUE_NAMES},
    [AL_PRIM_LIFO_QUEUE] = {offsetof(al_state, LifoQueue), QUEUE_ATTRIBUTES,
                            QUEUE_NAMES},
    [AL_PRIM_TASK_GROUP] = {offsetof(al_state, TaskGroup),
                            GROUP_ATTRIBUTES,
                            {"create_task", "_on_task_done"}},
};

static const al_replacement *const tables[] = {
    al_condition_replacements, al_lock_replacements,  al_semaphore_replacements,
    al_queue_replacements,     al_sleep_replacements, al_with_replacements,
    al_gather_replacements,    al_group_replacements, al_wait_replacements,
    al_shield_replacements,
};

static PyObject *
in_state(al_state *st, size_t offset)
{
    return *(PyObject **)(void *)((char *)st + offset);
}

/* --- whether C may be used ------------------------------------------------------------------ */

/* Looks whether each name leads to what it did when the switch was turned. */
static void
look_again(al_replaced_type *class)
{
    PyObject *name, *function;
    Py_ssize_t at = 0;
    class->intact = class->functions != NULL;
    while (class->intact && PyDict_Next(class->functions, &at, &name, &function)) {
        if (_PyType_Lookup(class->type, name) != function) {
            class->intact = false;
        }
    }
    class->seen_tag = class->type->tp_version_tag;
}

/* Whether an instance that has more attributes than asyncio gave it has none that stands
 * in for a method. */
AL_COLD static bool
has_no_methods(const al_replaced_type *class, PyObject *dict)
{
    PyObject *name, *function;
    Py_ssize_t at = 0;
    PyErr_Clear(); /* No memory to look for `_loop`. */
    while (PyDict_Next(class->functions, &at, &name, &function)) {
        if (PyDict_Contains(dict, name) != 0) {
            PyErr_Clear(); /* No memory to look: asyncio's function is called. */
            return false;
        }
    }
    return true;
}

static bool
is_intact(al_replaced_type *class)
{
    const PyTypeObject *type = class->type;
    if (AL_UNLIKELY(class->seen_tag != type->tp_version_tag || class->seen_tag == 0)) {
        look_again(class);
    }
    return class->intact;
}

bool
al_replaced_intact(al_state *st, int class)
{
    return st->replaced != NULL && st->replaced->classes[class].type != NULL &&
           is_intact(&st->replaced->classes[class]);
}

int
al_replaced_class(al_state *st, PyObject *obj, PyObject **dict)
{
    struct al_replaced *replaced = st->replaced;
    const PyTypeObject *type = Py_TYPE(obj);
    int i = 0;
    *dict = NULL;
    if (AL_UNLIKELY(replaced == NULL)) {
        return AL_PRIM_NONE;
    }
    while (replaced->classes[i].type != type) {
        if (++i == AL_PRIM_CLASSES) {
            return AL_PRIM_NONE;
        }
    }
    al_replaced_type *class = &replaced->classes[i];
    /* A BoundedSemaphore's release() calls a Semaphore's. */
    if (AL_UNLIKELY(!is_intact(class)) ||
        (i == AL_PRIM_BOUNDED_SEMAPHORE &&
         !al_replaced_intact(st, AL_PRIM_SEMAPHORE))) {
        return AL_PRIM_NONE;
    }
    *dict = PyObject_GenericGetDict(obj, NULL);
    if (AL_UNLIKELY(*dict == NULL)) {
        PyErr_Clear(); /* MemoryError: asyncio's function meets it, too. */
        return AL_PRIM_NONE;
    }
    Py_ssize_t more = PyDict_GET_SIZE(*dict) - class->attributes;
    if (AL_LIKELY(more <= 0) ||
        (more == 1 && i != AL_PRIM_TASK_GROUP &&
         PyDict_GetItemWithError(*dict, st->str._loop) != NULL) ||
        has_no_methods(class, *dict)) {
        return i;
    }
    Py_CLEAR(*dict);
    return AL_PRIM_NONE;
}

bool
al_replaced_is(al_state *st, int class, PyObject *name, const PyObject *function)
{
    if (!al_replaced_intact(st, class)) {
        return false;
    }
    PyObject *known =
        PyDict_GetItemWithError(st->replaced->classes[class].functions, name);
    return known != NULL &&
           (known == function || (Py_IS_TYPE(known, st->Accelerated_type) &&
                                  ((al_accelerated *)known)->function == function));
}

/* --- the object in a function's place -------------------------------------------------------- */

static PyObject *
accelerated_vectorcall(PyObject *callable, PyObject *const *args, size_t nargsf,
                       PyObject *kwnames)
{
    al_accelerated *self = (al_accelerated *)callable;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    const al_replacement *what = self->what;
    /* Debug mode wants to know where a coroutine was created: asyncio's can tell. */
    if (AL_LIKELY((kwnames == NULL || what->call_named != NULL) && nargs > 0 &&
                  self->st->replaced != NULL &&
                  (!what->coroutine ||
                   PyThreadState_Get()->coroutine_origin_tracking_depth == 0))) {
        PyObject *result =
            what->call_named != NULL
                ? what->call_named(self->st, args, nargs, kwnames) /* escapes */
                : what->call(self->st, args, nargs);               /* escapes */
        if (AL_LIKELY(result != NULL) || PyErr_Occurred()) {
            return result;
        }
    }
    PyObject *function = Py_NewRef(self->function);
    PyObject *result = PyObject_Vectorcall(function, args, nargsf, kwnames);
    Py_DECREF(function);
    return result;
}

static PyObject *
accelerated_get(PyObject *self, PyObject *obj, PyObject *Py_UNUSED(type))
{
    return obj == NULL || obj == Py_None ? Py_NewRef(self) : PyMethod_New(self, obj);
}

/* What is not its own is the function's: __name__, __doc__, __code__ ... */
static PyObject *
accelerated_getattro(PyObject *self, PyObject *name)
{
    PyObject *value = PyObject_GenericGetAttr(self, name); /* escapes */
    if (value != NULL || !PyErr_ExceptionMatches(PyExc_AttributeError)) {
        return value;
    }
    PyErr_Clear();
    return PyObject_GetAttr(((al_accelerated *)self)->function, name); /* escapes */
}

static PyObject *
accelerated_repr(al_accelerated *self)
{
    return PyObject_Repr(self->function);
}

/* As for a function: the name under which its module has it. */
static PyObject *
accelerated_reduce(al_accelerated *self, PyObject *Py_UNUSED(ignored))
{
    return PyObject_GetAttrString(self->function, "__qualname__");
}

static int
accelerated_traverse(al_accelerated *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->function);
    Py_VISIT(self->dict);
    return 0;
}

/* The function stays: whoever has the object may call it. */
static int
accelerated_clear(al_accelerated *self)
{
    Py_CLEAR(self->dict);
    return 0;
}

static void
accelerated_dealloc(al_accelerated *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    Py_CLEAR(self->dict);
    Py_CLEAR(self->function);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

/* The attributes that every type has of its own. */
static PyObject *
accelerated_get_doc(al_accelerated *self, void *Py_UNUSED(closure))
{
    return PyObject_GetAttrString(self->function, "__doc__");
}

static PyObject *
accelerated_get_module(al_accelerated *self, void *Py_UNUSED(closure))
{
    return PyObject_GetAttrString(self->function, "__module__");
}

/* What finds the function behind this, as inspect.getsource() does.  asyncio's text of a
 * task names the source of the callbacks that have it, and of a function's method it names
 * none: so the one that is such a callback does not have it. */
static PyObject *
accelerated_get_wrapped(al_accelerated *self, void *Py_UNUSED(closure))
{
    if (self->what->callback) {
        PyErr_SetString(PyExc_AttributeError, "__wrapped__");
        return NULL;
    }
    return Py_NewRef(self->function);
}

static PyGetSetDef accelerated_getsets[] = {
    {"__wrapped__", (getter)accelerated_get_wrapped, NULL, NULL, NULL},
    {"__doc__", (getter)accelerated_get_doc, NULL, NULL, NULL},
    {"__module__", (getter)accelerated_get_module, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef accelerated_methods[] = {
    {"__reduce__", (PyCFunction)accelerated_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef accelerated_members[] = {
    {"__dictoffset__", T_PYSSIZET, offsetof(al_accelerated, dict), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(al_accelerated, weakrefs), READONLY,
     NULL},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(al_accelerated, vectorcall), READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot accelerated_slots[] = {
    {Py_tp_dealloc, accelerated_dealloc},
    {Py_tp_traverse, accelerated_traverse},
    {Py_tp_clear, accelerated_clear},
    {Py_tp_repr, accelerated_repr},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_descr_get, accelerated_get},
    {Py_tp_getattro, accelerated_getattro},
    {Py_tp_methods, accelerated_methods},
    {Py_tp_members, accelerated_members},
    {Py_tp_getset, accelerated_getsets},
    {0, NULL},
};

static PyType_Spec accelerated_spec = {
    .name = "aioloop._core.Accelerated",
    .basicsize = sizeof(al_accelerated),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
             Py_TPFLAGS_METHOD_DESCRIPTOR | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = accelerated_slots,
};

static PyObject *
accelerated_new(al_state *st, const al_replacement *what, PyObject *function)
{
    al_accelerated *self = PyObject_GC_New(al_accelerated, st->Accelerated_type);
    if (self == NULL) {
        return NULL;
    }
    self->vectorcall = accelerated_vectorcall;
    self->st = st;
    self->what = what;
    self->function = Py_NewRef(function);
    self->dict = self->weakrefs = NULL;
    PyObject_GC_Track(self);
    if (what->coroutine && al_lazy_mark_function((PyObject *)self) < 0) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

/* --- the switch ------------------------------------------------------------------------------ */

/* Puts asyncio's function back where ours is.  0 or -1. */
static int
put_back(PyObject *change)
{
    PyObject *owner = PyTuple_GET_ITEM(change, 0), *name = PyTuple_GET_ITEM(change, 1);
    PyObject *dict = PyObject_GetAttrString(owner, "__dict__");
    PyObject *found = dict == NULL ? NULL : PyObject_GetItem(dict, name);
    int status = 0;
    if (found == NULL && (dict == NULL || !PyErr_ExceptionMatches(PyExc_KeyError))) {
        status = -1; /* No memory to look. */
    }
    else if (found == NULL) {
        PyErr_Clear(); /* Somebody has deleted it: that stays so. */
    }
    else if (found == PyTuple_GET_ITEM(change, 3)) {
        status = PyObject_SetAttr(owner, name, PyTuple_GET_ITEM(change, 2));
    }
    Py_XDECREF(dict);
    Py_XDECREF(found);
    return status;
}

/* Undoes the changes, the last one first.  0, or -1: those that are left stay listed. */
static int
switch_off(struct al_replaced *replaced)
{
    for (int i = 0; i < AL_PRIM_CLASSES; i++) {
        Py_CLEAR(replaced->classes[i].functions);
        replaced->classes[i].intact = false;
    }
    Py_ssize_t count;
    while ((count = PyList_GET_SIZE(replaced->done)) > 0) {
        PyObject *change = Py_NewRef(PyList_GET_ITEM(replaced->done, count - 1));
        int status = put_back(change); /* escapes */
        Py_DECREF(change);
        if (status < 0 || PyList_SetSlice(replaced->done, count - 1, count, NULL) < 0) {
            return -1;
        }
    }
    replaced->on = false;
    return 0;
}

/* owner.name becomes `ours`, and is listed.  0 or -1. */
static int
put(struct al_replaced *replaced, PyObject *owner, const char *name, PyObject *theirs,
    PyObject *ours)
{
    PyObject *change = Py_BuildValue("(OsOO)", owner, name, theirs, ours);
    int status = change == NULL ? -1 : PyList_Append(replaced->done, change);
    Py_XDECREF(change);
    return status < 0 ? -1 : PyObject_SetAttrString(owner, name, ours);
}

/* Whether the functions of a class are asyncio's own. */
static bool
is_asyncios(al_state *st, int class)
{
    PyTypeObject *type = (PyTypeObject *)in_state(st, classes[class].type);
    for (const char *const *name = classes[class].names; *name != NULL; name++) {
        PyObject *key = PyUnicode_InternFromString(*name);
        bool intact = key != NULL && al_origin_intact(type, key);
        Py_XDECREF(key);
        if (!intact) {
            PyErr_Clear(); /* No memory to look. */
            return false;
        }
    }
    return true;
}

static int
replace_one(al_state *st, const al_replacement *what)
{
    PyObject *owner = in_state(st, what->owner);
    PyObject *function = PyObject_GetAttrString(owner, what->name);
    int status = -1;
    if (function == NULL) {
        return -1;
    }
    PyObject *key = PyUnicode_InternFromString(what->name);
    bool own = key != NULL &&
               (what->module ? al_origin_is_function(function, PyModule_GetName(owner),
                                                     what->name)
                             : al_origin_is(function, (PyTypeObject *)owner, key));
    Py_XDECREF(key);
    if (!own) {
        Py_DECREF(function);
        return PyErr_Occurred() ? -1 : 0; /* Somebody has replaced it: that stays. */
    }
    PyObject *ours = accelerated_new(st, what, function);
    if (ours != NULL) {
        status = put(st->replaced, owner, what->name, function, ours);
    }
    if (status == 0 && what->module) {
        PyObject *package = PyImport_ImportModule("asyncio");
        PyObject *found =
            package == NULL ? NULL : PyObject_GetAttrString(package, what->name);
        status = found == NULL ? -1
                 : found == function
                     ? put(st->replaced, package, what->name, function, ours)
                     : 0;
        Py_XDECREF(found);
        Py_XDECREF(package);
    }
    Py_XDECREF(ours);
    Py_DECREF(function);
    return status;
}

/* Remembers what a class's names lead to.  0 or -1. */
static int
remember(al_state *st, int i)
{
    al_replaced_type *class = &st->replaced->classes[i];
    PyObject *functions = PyDict_New();
    class->type = (PyTypeObject *)in_state(st, classes[i].type);
    class->attributes = classes[i].attributes;
    class->seen_tag = 0;
    for (const char *const *name = classes[i].names; functions != NULL && *name != NULL;
         name++) {
        PyObject *key = PyUnicode_InternFromString(*name);
        PyObject *found = key == NULL ? NULL : _PyType_Lookup(class->type, key);
        if (found == NULL || PyDict_SetItem(functions, key, found) < 0) {
            Py_CLEAR(functions);
        }
        Py_XDECREF(key);
    }
    Py_XSETREF(class->functions, functions);
    return functions == NULL ? -1 : 0;
}

static int
switch_on(al_state *st)
{
    struct al_replaced *replaced = st->replaced;
    if (AL_FREE_THREADED || al_layout_is_off(st, AL_LAYOUT_PRIMITIVES)) {
        replaced->on = true;
        return 0;
    }
    bool own[AL_PRIM_CLASSES];
    for (int i = 0; i < AL_PRIM_CLASSES; i++) {
        own[i] = is_asyncios(st, i);
    }
    replaced->on = true;
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
        for (const al_replacement *what = tables[i]; what->name != NULL; what++) {
            if (replace_one(st, what) < 0) {
                return -1;
            }
        }
    }
    for (int i = 0; i < AL_PRIM_CLASSES; i++) {
        if (own[i] && remember(st, i) < 0) {
            return -1;
        }
    }
    return 0;
}

PyDoc_STRVAR(accelerate_doc,
             "_accelerate($module, on, /)\n--\n\n"
             "Put C in the place of asyncio's primitives, or asyncio's own back.\n"
             "Return whether the switch was on.");

static PyObject *
core_accelerate(PyObject *module, PyObject *on)
{
    al_state *st = al_state_of_module(module);
    int wanted = PyObject_IsTrue(on); /* escapes */
    if (wanted < 0) {
        return NULL;
    }
    if (st->replaced == NULL) {
        st->replaced = PyMem_Calloc(1, sizeof(struct al_replaced));
        if (st->replaced == NULL) {
            return PyErr_NoMemory();
        }
        st->replaced->done = PyList_New(0);
        if (st->replaced->done == NULL) {
            PyMem_Free(st->replaced);
            st->replaced = NULL;
            return NULL;
        }
    }
    int status = 0;
    bool was_on = st->replaced->on;
    if (wanted && !was_on) {
        status = switch_on(st); /* escapes */
        if (status < 0) {
            PyObject *exc = al_err_take();
            (void)switch_off(st->replaced); /* escapes */
            al_err_put_steal(exc);
        }
    }
    else if (!wanted && was_on) {
        status = switch_off(st->replaced); /* escapes */
    }
    return status < 0 ? NULL : PyBool_FromLong(was_on);
}

PyMethodDef al_replace_methods[] = {
    {"_accelerate", core_accelerate, METH_O, accelerate_doc},
    {NULL, NULL, 0, NULL},
};

int
al_replace_init_type(PyObject *module, al_state *st)
{
    return al_closure_init_type(module, st) < 0 || al_ensure_init(st) < 0 ||
                   al_gather_init(st) < 0 || al_wait_init(st) < 0 ||
                   al_shield_init(st) < 0 || al_group_init(st) < 0 ||
                   al_state_add_type(module, &st->Accelerated_type, &accelerated_spec,
                                     NULL) < 0
               ? -1
               : PyModule_AddType(module, st->Accelerated_type);
}

int
al_replace_traverse(al_state *st, visitproc visit, void *arg)
{
    if (st->replaced != NULL) {
        Py_VISIT(st->replaced->done);
        for (int i = 0; i < AL_PRIM_CLASSES; i++) {
            Py_VISIT(st->replaced->classes[i].functions);
        }
    }
    return 0;
}

void
al_replace_clear(al_state *st)
{
    struct al_replaced *replaced = st->replaced;
    if (replaced == NULL) {
        return;
    }
    st->replaced = NULL;
    for (int i = 0; i < AL_PRIM_CLASSES; i++) {
        Py_CLEAR(replaced->classes[i].functions);
    }
    Py_CLEAR(replaced->done);
    PyMem_Free(replaced);
}
