/* trace.c: see trace.h. */
#include "core/trace.h"

#include "core/sched.h"
#include "core/usage.h"

typedef struct {
    uint64_t number;
    int64_t when;    /* ns on the loop's clock */
    uint32_t entry;  /* in core/usage */
    int last;        /* the last instruction in `code` */
    bool begins;     /* the coroutine has not begun */
    PyObject *name;  /* owned: the task's, a number if it is the default; or NULL */
    PyObject *code;  /* owned: where the task goes on, or NULL */
    PyObject *error; /* owned: the type of what is thrown into it, or NULL */
} trace_step;

/* A file name, as a code object has it, and whether that is none of asyncio's. */
typedef struct {
    PyObject *name; /* owned, or NULL */
    bool own;
} trace_file;

enum { FILES = 16 };

struct al_trace {
    al_usage usage;
    PyObject *foreign;       /* owned: a tuple, how names of asyncio's files begin */
    trace_file files[FILES]; /* that have been looked at, by their addresses */
    uint64_t count;
    trace_step steps[AL_TRACE_STEPS];
};

/* --- where a coroutine goes on ---------------------------------------------------------- */

/* An attribute of a coroutine or generator: new reference, NULL for None, and for want of
 * memory: then less is told. */
static PyObject *
look_up(PyObject *coro, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(coro, name);
    if (value == NULL) {
        PyErr_Clear();
    }
    else if (value == Py_None) {
        Py_CLEAR(value);
    }
    return value;
}

static inline bool
is_generator(PyObject *coro)
{
    return PyCoro_CheckExact(coro) || PyGen_CheckExact(coro);
}

/* Whether code is in none of asyncio's files. */
static bool
is_own(al_trace *trace, PyObject *code)
{
    PyObject *name = ((PyCodeObject *)code)->co_filename;
    trace_file *file = &trace->files[((uintptr_t)name >> 4) % FILES];
    if (file->name != name) {
        bool own = true;
        for (Py_ssize_t i = 0; own && i < PyTuple_GET_SIZE(trace->foreign); i++) {
            own = PyUnicode_Tailmatch(name, PyTuple_GET_ITEM(trace->foreign, i), 0,
                                      PY_SSIZE_T_MAX, -1) == 0;
        }
        Py_XSETREF(file->name, Py_NewRef(name));
        file->own = own;
    }
    return file->own;
}

/* The innermost of the program's own among those that wait for each other; new reference. */
static PyObject *
innermost(al_trace *trace, const al_state *st, PyObject *coro)
{
    PyObject *found = Py_NewRef(coro), *at = Py_NewRef(coro);
    while (at != NULL && is_generator(at)) {
        PyObject *code = al_usage_code(at);
        if (code != NULL && is_own(trace, code)) {
            Py_SETREF(found, Py_NewRef(at));
        }
        bool coroutine = PyCoro_CheckExact(at);
        Py_SETREF(at, look_up(at, coroutine ? st->str.cr_await : st->str.gi_yieldfrom));
    }
    Py_XDECREF(at);
    return found;
}

static void
find_place(al_trace *trace, const al_state *st, PyObject *task, trace_step *step)
{
    PyObject *coro = st->task_coro(task);
    if (coro == NULL || !is_generator(coro)) {
        return;
    }
    PyObject *suspended = look_up(
        coro, PyCoro_CheckExact(coro) ? st->str.cr_suspended : st->str.gi_suspended);
    step->begins = suspended == Py_False;
    Py_XDECREF(suspended);
    if (step->begins) {
        return;
    }
    PyObject *inner = innermost(trace, st, coro);
    PyObject *frame =
        look_up(inner, PyCoro_CheckExact(inner) ? st->str.cr_frame : st->str.gi_frame);
    if (frame != NULL) {
        step->code = (PyObject *)PyFrame_GetCode((PyFrameObject *)frame);
        step->last = PyFrame_GetLasti((PyFrameObject *)frame);
        Py_DECREF(frame);
    }
    Py_DECREF(inner);
}

/* --- the ring ------------------------------------------------------------------------------ */

static void
clear(trace_step *step)
{
    Py_XDECREF(step->name);
    Py_XDECREF(step->code);
    Py_XDECREF(step->error); /* escapes: the last reference to a class */
}

void
al_trace_step(al_loop *loop, const al_slot *slot)
{
    const al_state *st = loop->st;
    al_trace *trace = loop->trace;
    trace_step step = {
        .number = trace->count,
        .when = loop->virtual != NULL ? al_virtual_nanoseconds(loop) : al_poll_clock()};
    step.entry = al_usage_find(&trace->usage, loop, slot);
    if (step.entry == AL_USAGE_NOBODY) {
        return; /* It is cancelled. */
    }
    if (slot->run == st->task_step || slot->run == st->task_wakeup) {
        step.name = Py_XNewRef(st->task_name(slot->self));
        find_place(trace, st, slot->self, &step);
        if (slot->run == st->task_step && slot->arg != NULL) {
            step.error = Py_NewRef((PyObject *)Py_TYPE(slot->arg));
        }
    }
    trace_step *place = &trace->steps[trace->count++ % AL_TRACE_STEPS];
    trace_step old = *place;
    *place = step;
    clear(&old); /* escapes */
}

uint64_t
al_trace_steps(const al_loop *loop)
{
    return loop->trace == NULL ? 0 : loop->trace->count;
}

/* An object, or None; a type by its name, so that the record keeps no class alive. */
static PyObject *
shown(PyObject *object)
{
    return object == NULL         ? Py_NewRef(Py_None)
           : PyType_Check(object) ? PyType_GetQualName((PyTypeObject *)object)
                                  : Py_NewRef(object);
}

/* A record as a tuple; new reference or NULL. */
static PyObject *
read_step(const al_trace *trace, uint64_t number)
{
    const trace_step *step = &trace->steps[number % AL_TRACE_STEPS];
    const al_usage_entry *entry = &trace->usage.entries[step->entry];
    return Py_BuildValue("(KLiNNNiNN)", (unsigned long long)step->number,
                         (long long)step->when, entry->kind, shown(entry->what),
                         shown(step->name), shown(step->code), step->last,
                         PyBool_FromLong(step->begins), shown(step->error));
}

PyObject *
al_trace_last(const al_loop *loop)
{
    const al_trace *trace = loop->trace;
    return trace == NULL || trace->count == 0 ? NULL
                                              : read_step(trace, trace->count - 1);
}

int
al_trace_traverse(const al_loop *loop, visitproc visit, void *arg)
{
    const al_trace *trace = loop->trace;
    if (trace == NULL) {
        return 0;
    }
    for (size_t i = 0; i < AL_TRACE_STEPS; i++) {
        Py_VISIT(trace->steps[i].error);
    }
    return al_usage_traverse(&trace->usage, visit, arg);
}

/* Escapes. */
static void
release(al_trace *trace)
{
    for (size_t i = 0; i < AL_TRACE_STEPS; i++) {
        clear(&trace->steps[i]); /* escapes */
    }
    for (size_t i = 0; i < FILES; i++) {
        Py_XDECREF(trace->files[i].name);
    }
    al_usage_clear(&trace->usage); /* escapes */
    Py_XDECREF(trace->foreign);
    PyMem_Free(trace);
}

void
al_trace_free(al_loop *loop)
{
    al_trace *trace = loop->trace;
    loop->trace = NULL;
    if (trace != NULL) {
        release(trace); /* escapes */
    }
}

/* --- for aioloop.testing -------------------------------------------------------------------- */

PyDoc_STRVAR(
    set_trace_doc,
    "_set_trace($module, loop, foreign, /)\n--\n\n"
    "Keep the loop's last slots. Frames of files whose names begin like one of\n"
    "the tuple `foreign` are no places.");

static PyObject *
core_set_trace(PyObject *module, PyObject *args)
{
    al_loop *loop;
    PyObject *foreign;
    if (!PyArg_ParseTuple(args, "O!O!:_set_trace",
                          al_state_of_module(module)->EventLoop_type, &loop,
                          &PyTuple_Type, &foreign)) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(foreign); i++) {
        if (!PyUnicode_Check(PyTuple_GET_ITEM(foreign, i))) {
            PyErr_SetString(PyExc_TypeError, "a tuple of str was expected");
            return NULL;
        }
    }
    al_trace *trace = PyMem_Calloc(1, sizeof(*trace));
    if (trace == NULL) {
        return PyErr_NoMemory();
    }
    al_usage_init(&trace->usage);
    trace->foreign = Py_NewRef(foreign);
    al_trace *old = loop->trace;
    loop->trace = trace;
    AL_STORE(loop->debug.switches, loop->debug.switches | AL_DEBUG_TEST);
    if (old != NULL) {
        release(old); /* escapes */
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    trace_doc,
    "_trace($module, loop, /)\n--\n\n"
    "The last slots as (number, when, kind, what, name, code, last, begins,\n"
    "error), oldest first; the name of a task is a number if it is the default.");

static PyObject *
core_trace(PyObject *module, PyObject *arg)
{
    const al_loop *loop = al_loop_check(al_state_of_module(module), arg);
    const al_trace *trace = loop == NULL ? NULL : loop->trace;
    PyObject *list = PyList_New(0);
    uint64_t count = trace == NULL ? 0 : trace->count;
    uint64_t first = count < AL_TRACE_STEPS ? 0 : count - AL_TRACE_STEPS;
    for (uint64_t i = first; list != NULL && i < count; i++) {
        PyObject *item = read_step(trace, i);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    return list;
}

PyMethodDef al_trace_methods[] = {
    {"_set_trace", core_set_trace, METH_VARARGS, set_trace_doc},
    {"_trace", core_trace, METH_O, trace_doc},
    {NULL, NULL, 0, NULL},
};
