/* group.c: see group.h. */
#include "prim/group.h"

#include <string.h>

#include "prim/closure.h"
#include "prim/primitive.h"

/* What asyncio's create_task() does. */
enum {
    IS_KNOWN = 1 << 0,
    PASSES_ALL = 1 << 1,     /* hands all arguments by name to the loop */
    PASSES_NAME = 1 << 2,    /* the loop gets the name, also None */
    SETS_NAME = 1 << 3,      /* tasks._set_task_name() */
    HAS_PARENT = 1 << 4,     /* the task is awaited by the group's */
    ENDS_AT_ONCE = 1 << 5,   /* a task that is done already is not waited for */
    CALLBACK_FIRST = 1 << 6, /* and is in the group after that */
    CANCELS_LATE = 1 << 7,   /* a task that has aborted the group, too */
};

#define REFUSES "_entered,RuntimeError,_exiting,_tasks,_aborting,_loop,create_task,"
#define CLOSES                                                                         \
    "_entered,close,RuntimeError,_exiting,_tasks,_aborting,_loop,create_task,"
#define ADDS "add,add_done_callback,_on_task_done"
#define AWAITED "futures,future_add_to_awaited_by,_parent_task,"

/* By the names in its code, in the order of their first use. */
static const struct {
    const char *names;
    int steps;
} known[] = {
    {REFUSES "tasks,_set_task_name,add_done_callback,_on_task_done,add",
     SETS_NAME | CALLBACK_FIRST},
    {REFUSES "tasks,_set_task_name,done,_on_task_done,add,add_done_callback",
     SETS_NAME | ENDS_AT_ONCE},
    {REFUSES "tasks,_set_task_name," ADDS, SETS_NAME},
    {CLOSES "done,_on_task_done,add,add_done_callback", PASSES_NAME | ENDS_AT_ONCE},
    {CLOSES ADDS, PASSES_NAME},
    {CLOSES ADDS ",done,cancel", PASSES_NAME | CANCELS_LATE},
    {CLOSES AWAITED ADDS, PASSES_NAME | HAS_PARENT},
    {CLOSES AWAITED ADDS ",done,cancel", PASSES_NAME | HAS_PARENT | CANCELS_LATE},
};

/* What _on_task_done() does until it knows that a task has no exception. */
static const char *const ends[] = {
    "_tasks,discard,_on_completed_fut,done,set_result,cancelled,exception,_errors,",
    "_tasks,discard,futures,future_discard_from_awaited_by,_parent_task,"
    "_on_completed_fut,done,set_result,cancelled,exception,_errors,",
};

/* --- attributes ------------------------------------------------------------------------------ */

/* Where __init__ puts an attribute into the instance's dict. */
enum {
    ENTERED = 0,
    EXITING = 1,
    ABORTING = 2,
    LOOP = 3,
    PARENT_TASK = 4,
    TASKS = 6,
    ON_COMPLETED_FUT = 9,
};

/* dict[name]: a new reference, or NULL with asyncio's AttributeError. */
static PyObject *
need(PyObject *dict, Py_ssize_t place, PyObject *name)
{
    PyObject *value = al_attribute_at(dict, place, name);
    return AL_LIKELY(value != NULL) ? Py_NewRef(value)
                                    : al_attribute(dict, "TaskGroup", name);
}

/* Whether the group takes a task.  False also where asyncio's function has to say. */
static bool
is_open(const al_state *st, PyObject *dict)
{
    if (al_attribute_at(dict, ENTERED, st->str._entered) != Py_True ||
        al_attribute_at(dict, ABORTING, st->str._aborting) != Py_False) {
        return false;
    }
    const PyObject *exiting = al_attribute_at(dict, EXITING, st->str._exiting);
    if (AL_UNLIKELY(exiting != Py_False)) {
        PyObject *tasks = al_attribute_at(dict, TASKS, st->str._tasks);
        return exiting == Py_True && tasks != NULL && PySet_CheckExact(tasks) &&
               PySet_GET_SIZE(tasks) > 0;
    }
    return true;
}

/* --- create_task() --------------------------------------------------------------------------- */

/* What a caller gave by name. */
typedef struct {
    PyObject *name, *context; /* borrowed; None if they are not given */
    PyObject *const *all;
    PyObject *kwnames;
} arguments;

/* Whether only arguments are given that every version of a loop or a task knows. */
static bool
understands(const al_state *st, arguments *given)
{
    Py_ssize_t count = given->kwnames == NULL ? 0 : PyTuple_GET_SIZE(given->kwnames);
    given->name = given->context = Py_None;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *key = PyTuple_GET_ITEM(given->kwnames, i);
        if (PyUnicode_CompareWithASCIIString(key, "name") == 0) {
            given->name = given->all[i];
        }
        else if (PyUnicode_CompareWithASCIIString(key, "context") == 0) {
            given->context = given->all[i];
        }
        else if ((st->group.steps & PASSES_ALL) == 0 ||
                 PyUnicode_CompareWithASCIIString(key, "eager_start") != 0) {
            return false;
        }
    }
    return true;
}

/* loop.create_task(coro, ...).  New reference.  Escapes. */
static PyObject *
start(const al_state *st, PyObject *loop, PyObject *coro, const arguments *given)
{
    PyObject *args[5] = {loop, coro}, *kwnames = NULL;
    if ((st->group.steps & PASSES_ALL) != 0) {
        kwnames = given->kwnames;
        for (Py_ssize_t i = 0; kwnames != NULL && i < PyTuple_GET_SIZE(kwnames); i++) {
            args[2 + i] = given->all[i];
        }
    }
    else if ((st->group.steps & PASSES_NAME) != 0) {
        args[2] = given->name;
        args[3] = given->context;
        kwnames = given->context == Py_None ? st->group.name : st->group.both;
    }
    else if (given->context != Py_None) {
        args[2] = given->context;
        kwnames = st->group.context;
    }
    al_loop *ours = al_loop_check(st, loop);
    if (AL_LIKELY(ours != NULL) && !al_override_stale(ours) &&
        !ours->overrides.create_task) {
        return ((_PyCFunctionFastWithKeywords)(void (*)(void))st->loop_create_task)(
            loop, args + 1, 1, kwnames); /* escapes */
    }
    return PyObject_VectorcallMethod(st->str.create_task, args, 2, kwnames);
}

/* self._tasks.add(task).  0 or -1.  Escapes. */
static int
add(const al_state *st, PyObject *dict, PyObject *task)
{
    PyObject *tasks = need(dict, TASKS, st->str._tasks);
    if (AL_LIKELY(tasks != NULL && PySet_CheckExact(tasks))) {
        int status = PySet_Add(tasks, task); /* escapes */
        Py_DECREF(tasks);
        return status;
    }
    PyObject *added =
        tasks == NULL ? NULL : PyObject_CallMethodOneArg(tasks, st->str.add, task);
    Py_XDECREF(tasks);
    Py_XDECREF(added);
    return added == NULL ? -1 : 0;
}

/* task.add_done_callback(self._on_task_done).  0 or -1.  Escapes. */
static int
call_at_end(al_state *st, PyObject *self, PyObject *task)
{
    PyObject *method = PyObject_GetAttr(self, st->str._on_task_done);
    if (method == NULL) {
        return -1;
    }
    int status = al_closure_add(st, task, method); /* escapes */
    Py_DECREF(method);
    return status;
}

/* Adds what is to wait for the task's end, in the version's order.  0 or -1.  Escapes. */
static int
wait_for(al_state *st, PyObject *self, PyObject *dict, PyObject *task)
{
    if ((st->group.steps & ENDS_AT_ONCE) != 0) {
        int done = al_primitive_is_done(st, task); /* escapes */
        if (done > 0) {
            PyObject *ended =
                PyObject_CallMethodOneArg(self, st->str._on_task_done, task);
            Py_XDECREF(ended);
            return ended == NULL ? -1 : 0;
        }
        if (done < 0) {
            return -1;
        }
    }
    if ((st->group.steps & CALLBACK_FIRST) != 0) {
        return call_at_end(st, self, task) < 0 ? -1 : add(st, dict, task);
    }
    return add(st, dict, task) < 0 ? -1 : call_at_end(st, self, task);
}

/* It may have aborted the group before it was in it.  0 or -1.  Escapes. */
static int
cancel_late(al_state *st, PyObject *dict, PyObject *task)
{
    int aborting = al_attribute_is_true(dict, "TaskGroup", st->str._aborting);
    int done = aborting > 0 ? al_primitive_is_done(st, task) : 1; /* escapes */
    if (aborting < 0 || done < 0) {
        return -1;
    }
    return done ? 0 : al_primitive_call(task, st->str.cancel); /* escapes */
}

/* A task of the loop is one of the group.  0 or -1.  Escapes. */
static int
adopt(al_state *st, PyObject *self, PyObject *dict, PyObject *task, PyObject *name)
{
    int status = 0;
    if ((st->group.steps & SETS_NAME) != 0 && name != Py_None) {
        PyObject *set = PyObject_CallMethodObjArgs(
            st->asyncio_tasks, st->str._set_task_name, task, name, NULL); /* escapes */
        status = set == NULL ? -1 : 0;
        Py_XDECREF(set);
    }
    if (status == 0 && (st->group.steps & HAS_PARENT) != 0) {
        PyObject *parent = need(dict, PARENT_TASK, st->str._parent_task);
        status = parent == NULL ? -1 : al_primitive_add_awaited_by(st, task, parent);
        Py_XDECREF(parent);
    }
    if (status == 0) {
        status = wait_for(st, self, dict, task); /* escapes */
    }
    if (status == 0 && (st->group.steps & CANCELS_LATE) != 0) {
        status = cancel_late(st, dict, task); /* escapes */
    }
    return status;
}

static PyObject *
call_create_task(al_state *st, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    arguments given = {.all = args + 2, .kwnames = kwnames};
    PyObject *dict, *task = NULL;
    if (nargs != 2 || (st->group.steps & IS_KNOWN) == 0 || !understands(st, &given)) {
        return NULL;
    }
    if (al_replaced_class(st, args[0], &dict) == AL_PRIM_TASK_GROUP &&
        is_open(st, dict)) {
        PyObject *loop = need(dict, LOOP, st->str._loop);
        if (loop != NULL && !al_primitive_is_debugged(st, loop)) {
            task = start(st, loop, args[1], &given); /* escapes */
            if (task != NULL && adopt(st, args[0], dict, task, given.name) < 0) {
                Py_CLEAR(task);
            }
        }
        Py_XDECREF(loop);
    }
    Py_XDECREF(dict);
    return task;
}

/* --- a task is done -------------------------------------------------------------------------- */

/* Whether a task of ours ended without an exception that the group has to see. */
static bool
ended_well(const al_state *st, PyObject *task)
{
    if (AL_UNLIKELY(!al_future_exact(st, task))) {
        return false;
    }
    const al_future *future = (al_future *)task;
    return future->state == AL_FUTURE_CANCELLED ||
           (future->state == AL_FUTURE_FINISHED && future->exception == NULL);
}

/* Whether the group has tasks: 1, 0 or -1.  Escapes. */
static int
has_tasks(const al_state *st, PyObject *dict)
{
    PyObject *tasks = need(dict, TASKS, st->str._tasks);
    int truth = tasks == NULL                        ? -1
                : AL_LIKELY(PySet_CheckExact(tasks)) ? PySet_GET_SIZE(tasks) > 0
                                                     : PyObject_IsTrue(tasks);
    Py_XDECREF(tasks); /* escapes */
    return truth;
}

/* Wakes __aexit__, if it waits and no task is left.  0 or -1.  Escapes. */
static int
wake(al_state *st, PyObject *dict)
{
    PyObject *future = need(dict, ON_COMPLETED_FUT, st->str._on_completed_fut);
    int status = future == NULL      ? -1
                 : future == Py_None ? 1
                                     : has_tasks(st, dict); /* escapes */
    if (status == 0) {
        status = al_primitive_is_done(st, future); /* escapes */
    }
    if (status == 0) {
        status = al_primitive_resolve(st, future, Py_True); /* escapes */
    }
    Py_XDECREF(future);
    return status < 0 ? -1 : 0;
}

static PyObject *
call_on_task_done(al_state *st, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *dict, *tasks = NULL;
    int status = 1; /* asyncio's function has to be called */
    if (nargs != 2 || (st->group.steps & IS_KNOWN) == 0 || !ended_well(st, args[1])) {
        return NULL;
    }
    if (al_replaced_class(st, args[0], &dict) == AL_PRIM_TASK_GROUP) {
        tasks = Py_XNewRef(al_attribute_at(dict, TASKS, st->str._tasks));
    }
    if (AL_LIKELY(tasks != NULL && PySet_CheckExact(tasks))) {
        status = PySet_Discard(tasks, args[1]) < 0 ? -1 : 0; /* escapes */
        if (status == 0 && (st->group.steps & HAS_PARENT) != 0) {
            PyObject *parent = need(dict, PARENT_TASK, st->str._parent_task);
            status = parent == NULL
                         ? -1
                         : al_primitive_discard_awaited_by(st, args[1], parent);
            Py_XDECREF(parent);
        }
        if (status == 0) {
            status = wake(st, dict); /* escapes */
        }
    }
    Py_XDECREF(tasks);
    Py_XDECREF(dict);
    return status == 0 ? Py_NewRef(Py_None) : NULL;
}

const al_replacement al_group_replacements[] = {
    {.owner = offsetof(al_state, TaskGroup),
     .name = "create_task",
     .call_named = call_create_task},
    {.owner = offsetof(al_state, TaskGroup),
     .name = "_on_task_done",
     .call = call_on_task_done,
     .callback = true},
    {.name = NULL},
};

/* --- which version it is ---------------------------------------------------------------------- */

/* The names that the code of a method of TaskGroup's has, with commas between, and its
 * flags.  A new str; or NULL, without an exception where there is no such function. */
static PyObject *
names_of(const al_state *st, const char *method, int *flags)
{
    PyObject *function =
        PyDict_GetItemString(((PyTypeObject *)st->TaskGroup)->tp_dict, method);
    if (function == NULL || !PyFunction_Check(function)) {
        return NULL;
    }
    PyCodeObject *code = (PyCodeObject *)PyFunction_GET_CODE(function);
    PyObject *comma = PyUnicode_FromString(",");
    PyObject *names = comma == NULL ? NULL : PyUnicode_Join(comma, code->co_names);
    *flags = code->co_flags;
    Py_XDECREF(comma);
    return names;
}

static int
steps_of_create_task(const al_state *st)
{
    int flags = 0, steps = 0;
    PyObject *names = names_of(st, "create_task", &flags);
    for (size_t i = 0; names != NULL && i < sizeof(known) / sizeof(known[0]); i++) {
        if (PyUnicode_CompareWithASCIIString(names, known[i].names) == 0) {
            steps = IS_KNOWN | known[i].steps;
            steps |= (flags & CO_VARKEYWORDS) != 0 ? PASSES_ALL : 0;
        }
    }
    Py_XDECREF(names);
    return steps;
}

/* Whether _on_task_done() is the one that belongs to it. */
static bool
is_end_known(const al_state *st, bool has_parent)
{
    int flags = 0;
    PyObject *names = names_of(st, "_on_task_done", &flags);
    const char *text = names == NULL ? NULL : PyUnicode_AsUTF8(names);
    bool same =
        text != NULL && strncmp(text, ends[has_parent], strlen(ends[has_parent])) == 0;
    Py_XDECREF(names);
    return same;
}

int
al_group_init(al_state *st)
{
    st->group.name = Py_BuildValue("(s)", "name");
    st->group.context = Py_BuildValue("(s)", "context");
    st->group.both = Py_BuildValue("(ss)", "name", "context");
    int steps = steps_of_create_task(st);
    if (steps != 0 && is_end_known(st, (steps & HAS_PARENT) != 0)) {
        st->group.steps = steps;
    }
    return PyErr_Occurred() ? -1 : 0;
}
