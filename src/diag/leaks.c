/* leaks.c: see leaks.h. */
#include "diag/leaks.h"

#include "core/sched.h"

enum {
    WAITING = 1, /* a task that waits: alive when its future is */
    PART = 2,    /* a coroutine that only its task resumes: alive when that is */
    CUT = 4,     /* what it refers to is not looked at, and is alive for that reason */
    ALIVE = 8,
};

#define NONE UINT32_MAX

typedef struct {
    PyObject *obj;
    Py_ssize_t unexplained; /* its references, less those that were met */
    uint32_t first_wait;    /* for it: an index into `waits`, or NONE */
    uint8_t flags;
} node;

typedef struct {
    uint32_t task;
    uint32_t next_wait; /* for the same future, or NONE */
} wait_entry;

typedef struct {
    const al_state *st;
    node *nodes;
    uint32_t count, capacity;
    uint32_t *table; /* index of a node by its object's address, or NONE */
    uint32_t mask;
    wait_entry *waits;
    uint32_t *marked; /* whose references are still to be marked */
    uint32_t marked_count;
} graph;

static uint32_t *
place_of(const graph *g, const PyObject *obj)
{
    uint64_t hash = ((uint64_t)(uintptr_t)obj >> 4) * UINT64_C(0x9E3779B97F4A7C15);
    uint32_t i = (uint32_t)(hash >> 32) & g->mask;
    while (g->table[i] != NONE && g->nodes[g->table[i]].obj != obj) {
        i = (i + 1) & g->mask;
    }
    return &g->table[i];
}

/* Twice as many nodes; the table has two places for each.  0 or -1, no exception. */
static int
grow(graph *g)
{
    uint32_t capacity = g->capacity == 0 ? 1024 : 2 * g->capacity;
    if (capacity > NONE / 4) {
        return -1;
    }
    node *nodes = PyMem_RawRealloc(g->nodes, capacity * sizeof(node));
    if (nodes == NULL) {
        return -1;
    }
    g->nodes = nodes;
    uint32_t *table = PyMem_RawRealloc(g->table, 2 * capacity * sizeof(uint32_t));
    if (table == NULL) {
        return -1;
    }
    g->table = table;
    g->capacity = capacity;
    g->mask = 2 * capacity - 1;
    for (uint32_t i = 0; i <= g->mask; i++) {
        table[i] = NONE;
    }
    for (uint32_t i = 0; i < g->count; i++) {
        *place_of(g, nodes[i].obj) = i;
    }
    return 0;
}

/* The index of the object's node, made if need be; NONE without memory. */
static uint32_t
node_of(graph *g, PyObject *obj)
{
    if (g->count == g->capacity && grow(g) < 0) {
        return NONE;
    }
    uint32_t *place = place_of(g, obj);
    if (*place == NONE) {
        *place = g->count;
        g->nodes[g->count++] =
            (node){.obj = obj, .unexplained = Py_REFCNT(obj), .first_wait = NONE};
    }
    return *place;
}

/* Gives the object's node a flag; 0, or -1 without memory. */
static int
flag(graph *g, PyObject *obj, uint8_t flags)
{
    uint32_t i = node_of(g, obj);
    if (i == NONE) {
        return -1;
    }
    g->nodes[i].flags |= flags;
    return 0;
}

static bool
is_generator(PyObject *obj)
{
    return PyCoro_CheckExact(obj) || PyGen_CheckExact(obj) ||
           PyAsyncGen_CheckExact(obj);
}

/* Whether a generator may be looked into.  From 3.14 on the frame of one that runs may
 * refer to what it has no reference of its own to. */
static bool
is_at_rest(const graph *g, PyObject *generator)
{
#if PY_VERSION_HEX >= 0x030E0000
    const al_state *st = g->st;
    PyObject *name = PyCoro_CheckExact(generator)  ? st->str.cr_suspended
                     : PyGen_CheckExact(generator) ? st->str.gi_suspended
                                                   : st->str.ag_suspended;
    PyObject *suspended = PyObject_GetAttr(generator, name);
    if (suspended == NULL) {
        PyErr_Clear(); /* There is no such attribute: it cannot be judged. */
    }
    bool at_rest = suspended == Py_True;
    Py_XDECREF(suspended);
    return at_rest;
#else
    (void)g;
    (void)generator;
    return true;
#endif
}

/* Whether what an object refers to is alive without a look at it. */
static bool
is_cut(const graph *g, const node *n)
{
    PyObject *obj = n->obj;
    if ((n->flags & CUT) != 0 || !PyObject_GC_IsTracked(obj) || PyType_Check(obj) ||
        PyModule_Check(obj) || PyObject_TypeCheck(obj, g->st->EventLoop_type)) {
        return true;
    }
    if (is_generator(obj)) {
        return !is_at_rest(g, obj);
    }
    /* A task that is ready or runs, or is another loop's. */
    return (n->flags & WAITING) == 0 &&
           PyObject_TypeCheck(obj, (PyTypeObject *)(void *)g->st->asyncio_Task);
}

static bool
is_weakly_referenced(PyObject *obj)
{
    Py_ssize_t offset = Py_TYPE(obj)->tp_weaklistoffset;
    return offset != 0 &&
           *(PyObject *const *)(const void *)((const char *)obj + offset);
}

static int
meet(PyObject *obj, void *arg)
{
    graph *g = arg;
    if (!PyObject_IS_GC(obj)) {
        return 0;
    }
    uint32_t i = node_of(g, obj);
    if (i == NONE) {
        return -1;
    }
    g->nodes[i].unexplained--;
    return 0;
}

/* Meets everything that waiting tasks lead to.  0 or -1. */
static int
meet_all(graph *g)
{
    for (uint32_t i = 0; i < g->count; i++) {
        PyObject *obj = g->nodes[i].obj;
        if (is_cut(g, &g->nodes[i])) {
            g->nodes[i].flags |= CUT;
        }
        else if (Py_TYPE(obj)->tp_traverse(obj, meet, g) != 0) {
            return -1;
        }
    }
    return 0;
}

static void
mark(graph *g, uint32_t i)
{
    if ((g->nodes[i].flags & ALIVE) == 0) {
        g->nodes[i].flags |= ALIVE;
        g->marked[g->marked_count++] = i;
    }
}

static int
mark_met(PyObject *obj, void *arg)
{
    graph *g = arg;
    if (PyObject_IS_GC(obj)) {
        uint32_t i = *place_of(g, obj);
        if (i != NONE && (g->nodes[i].flags & (WAITING | PART)) == 0) {
            mark(g, i);
        }
    }
    return 0;
}

/* Marks what is alive by itself, and the list's objects. */
static void
mark_roots(graph *g, PyObject *alive)
{
    for (uint32_t i = 0; i < g->count; i++) {
        const node *n = &g->nodes[i];
        if ((n->flags & (WAITING | PART)) == 0 &&
            ((n->flags & CUT) != 0 || n->unexplained != 0 ||
             (!is_generator(n->obj) && is_weakly_referenced(n->obj)))) {
            mark(g, i);
        }
    }
    for (Py_ssize_t k = 0; k < PyList_GET_SIZE(alive); k++) {
        uint32_t i = *place_of(g, PyList_GET_ITEM(alive, k));
        if (i != NONE) {
            mark(g, i);
        }
    }
}

/* The tasks that wait for a future that is alive, with their coroutines. */
static void
mark_waiting(graph *g, PyObject *waiting, uint32_t first)
{
    for (uint32_t k = first; k != NONE; k = g->waits[k].next_wait) {
        mark(g, g->waits[k].task);
        PyObject *entry = PyList_GET_ITEM(waiting, k);
        for (Py_ssize_t j = 2; j < PyTuple_GET_SIZE(entry); j++) {
            mark(g, *place_of(g, PyTuple_GET_ITEM(entry, j)));
        }
    }
}

static void
mark_all(graph *g, PyObject *waiting, PyObject *alive)
{
    mark_roots(g, alive);
    while (g->marked_count > 0) {
        const node *n = &g->nodes[g->marked[--g->marked_count]];
        mark_waiting(g, waiting, n->first_wait);
        if ((n->flags & CUT) == 0) {
            (void)Py_TYPE(n->obj)->tp_traverse(n->obj, mark_met, g);
        }
    }
}

/* Whether it is a list of tuples of a task, its future, and coroutines. */
static bool
is_list_of_waits(PyObject *waiting)
{
    if (!PyList_Check(waiting) || (size_t)PyList_GET_SIZE(waiting) >= NONE) {
        return false;
    }
    for (Py_ssize_t k = 0; k < PyList_GET_SIZE(waiting); k++) {
        PyObject *entry = PyList_GET_ITEM(waiting, k);
        if (!PyTuple_CheckExact(entry) || PyTuple_GET_SIZE(entry) < 2) {
            return false;
        }
        for (Py_ssize_t j = 2; j < PyTuple_GET_SIZE(entry); j++) {
            if (!is_generator(PyTuple_GET_ITEM(entry, j))) {
                return false;
            }
        }
    }
    return true;
}

/* Begins with the tasks and the dictionaries of modules.  0 or -1. */
static int
begin(graph *g, PyObject *waiting)
{
    PyObject *modules = PySys_GetObject("modules"); /* borrowed */
    PyObject *module;
    for (Py_ssize_t at = 0; modules != NULL && PyDict_Check(modules) &&
                            PyDict_Next(modules, &at, NULL, &module);) {
        if (PyModule_Check(module) && flag(g, PyModule_GetDict(module), CUT) < 0) {
            return -1;
        }
    }
    Py_ssize_t size = PyList_GET_SIZE(waiting);
    g->waits = PyMem_RawMalloc((size_t)size * sizeof(wait_entry));
    if (g->waits == NULL) {
        return -1;
    }
    for (Py_ssize_t k = 0; k < size; k++) {
        PyObject *entry = PyList_GET_ITEM(waiting, k);
        uint32_t task = node_of(g, PyTuple_GET_ITEM(entry, 0));
        uint32_t future = node_of(g, PyTuple_GET_ITEM(entry, 1));
        if (task == NONE || future == NONE) {
            return -1;
        }
        g->nodes[task].flags |= WAITING;
        g->nodes[future].unexplained--; /* the tuple's reference */
        g->waits[k] = (wait_entry){task, g->nodes[future].first_wait};
        g->nodes[future].first_wait = (uint32_t)k;
        for (Py_ssize_t j = 2; j < PyTuple_GET_SIZE(entry); j++) {
            if (flag(g, PyTuple_GET_ITEM(entry, j), PART) < 0) {
                return -1;
            }
        }
    }
    return 0;
}

/* The tasks that were not marked: new reference. */
static PyObject *
lost(const graph *g, PyObject *waiting)
{
    PyObject *list = PyList_New(0);
    for (Py_ssize_t k = 0; list != NULL && k < PyList_GET_SIZE(waiting); k++) {
        const node *task = &g->nodes[g->waits[k].task];
        if ((task->flags & ALIVE) == 0 && PyList_Append(list, task->obj) < 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

/* _find_leaks(waiting, alive): `waiting` is a list of tuples, each of a task, the future
 * that it waits for, and the coroutines that it is suspended in; `alive` are tasks and
 * futures of which it is known by other means that something will wake or set them.
 * Returns the tasks of `waiting` that nothing can wake. */
static PyObject *
find_leaks(PyObject *module, PyObject *args)
{
    PyObject *waiting, *alive, *result = NULL;
    if (!PyArg_ParseTuple(args, "OO!:_find_leaks", &waiting, &PyList_Type, &alive)) {
        return NULL;
    }
    if (!is_list_of_waits(waiting)) {
        PyErr_SetString(PyExc_TypeError, "a list of tuples was expected");
        return NULL;
    }
#ifdef Py_GIL_DISABLED
    /* Other threads would change what is looked at. */
    return PyList_New(0);
#endif
    graph g = {.st = al_state_of_module(module)};
    if (grow(&g) < 0 || begin(&g, waiting) < 0 || meet_all(&g) < 0) {
        PyErr_NoMemory();
        goto done;
    }
    g.marked = PyMem_RawMalloc(g.count * sizeof(uint32_t));
    if (g.marked == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    mark_all(&g, waiting, alive);
    result = lost(&g, waiting);

done:
    PyMem_RawFree(g.nodes);
    PyMem_RawFree(g.table);
    PyMem_RawFree(g.waits);
    PyMem_RawFree(g.marked);
    return result;
}

PyMethodDef al_leaks_methods[] = {
    {"_find_leaks", find_leaks, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
