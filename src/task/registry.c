/* registry.c: see registry.h. */
#include "task/registry.h"

#include "base/check.h"

#if PY_VERSION_HEX >= 0x030E0000
#include <dlfcn.h>
#endif

#if PY_VERSION_HEX < 0x030E0000
struct al_registry {
    /* All pending tasks; without a GIL those of loops that are not ours. */
    al_task_list tasks;
    /* The loops there are, where each has a list of its own. */
    al_loop *loops;
    al_lock loops_lock;
};
#endif

int
al_registry_resume_steal(al_loop *loop, PyObject *previous, int status)
{
    PyObject *other = NULL;
    if (previous == NULL) {
        return status;
    }
    PyObject *pending = status < 0 ? al_err_take() : NULL;
    if (al_registry_swap(loop->st, (PyObject *)loop, previous, &other) < 0) {
        status = -1;
        if (pending != NULL) {
            PyErr_Clear(); /* the complaint: the slot's own exception matters more */
        }
    }
    if (pending != NULL) {
        al_err_put_steal(pending);
    }
    Py_DECREF(previous); /* escapes */
    Py_XDECREF(other);
    return status;
}

/* --- all tasks -------------------------------------------------------------------------- */

/* Appends the list `more`, which may be NULL with an exception.  0 or -1. */
static int
extend_steal(PyObject *list, PyObject *more)
{
    Py_ssize_t end = PyList_GET_SIZE(list);
    int status = more == NULL ? -1 : PyList_SetSlice(list, end, end, more);
    Py_XDECREF(more);
    return status;
}

/* Appends tasks that stand for the connections which a loop is accepting, if this thread
 * may make some: see io/server.h.  0 or -1.  Escapes. */
static int
add_tasks_of(al_loop *loop, PyObject *list)
{
    if (AL_LOAD(loop->closed) ||
        (AL_LOAD(loop->thread_id) != 0 &&
         AL_LOAD(loop->thread_id) != PyThread_get_thread_ident()) ||
        al_inbox_was_foreign(loop) || loop->accepted_in == 0 ||
        loop->counts.iterations - loop->accepted_in > 1) {
        return 0;
    }
    Py_INCREF(loop);
    PyObject *tasks =
        PyObject_CallMethod((PyObject *)loop, "_accept_tasks", NULL); /* escapes */
    Py_DECREF(loop);                                                  /* escapes */
    return extend_steal(list, tasks);
}

/* Of the loop that runs in this thread, and of the last one that accepted anything, which
 * may have stopped. */
static int
add_accept_tasks(al_state *st, PyObject *list)
{
    if (AL_LIKELY(AL_LOAD(st->accepted_by) == NULL)) {
        return 0;
    }
    PyObject *running = PyObject_CallMethod(st->asyncio_events, "_get_running_loop",
                                            NULL); /* escapes */
    if (running == NULL) {
        return -1;
    }
    al_loop *ours = al_loop_check(st, running);
    int status = ours == NULL ? 0 : add_tasks_of(ours, list); /* escapes */
    Py_DECREF(running);
    if (status < 0 || AL_LOAD(st->accepted_by) == ours) {
        return status;
    }
    PyObject *last = al_read_at_rest((PyObject *const *)(void *)&st->accepted_by);
    if (last != NULL) {
        status = add_tasks_of((al_loop *)(void *)last, list); /* escapes */
        Py_DECREF(last);                                      /* escapes */
    }
    return status;
}

/* The methods of asyncio's WeakSet of tasks, with ours added.  They are methods and not
 * slots, because only those are told their defining class: a second copy of this module
 * in the interpreter stacks its class on ours. */

/* The same method of the class below.  New reference. */
static PyObject *
call_below(PyTypeObject *cls, PyObject *self, const char *name)
{
    PyObject *method = PyObject_GetAttrString((PyObject *)cls->tp_base, name);
    PyObject *result = method == NULL ? NULL : PyObject_CallOneArg(method, self);
    Py_XDECREF(method);
    return result;
}

/* How many tasks are linked where asyncio does not look, and a list of them. */
#if PY_VERSION_HEX < 0x030E0000
typedef struct {
    const struct al_registry *registry;
    PyObject *list;     /* gets as many as it has room for */
    Py_ssize_t n, room; /* n: how many there are */
} gathering;

static void
gather_list(gathering *all, al_future *task)
{
    for (; task != NULL; task = task->next_task) {
        if (Py_REFCNT(task) == 0) {
            continue; /* It waits for the list's lock. */
        }
        if (all->n < all->room) {
            PyList_SET_ITEM(all->list, all->n, Py_NewRef((PyObject *)task));
        }
        all->n++;
    }
}

/* Runs at rest. */
static void
gather_all(void *arg)
{
    gathering *all = arg;
    gather_list(all, all->registry->tasks.first);
    for (const al_loop *loop = all->registry->loops; loop != NULL;
         loop = loop->next_loop) {
        gather_list(all, loop->tasks.first);
    }
}

static Py_ssize_t
count_tasks(const struct al_registry *registry)
{
    gathering all = {.registry = registry};
    al_at_rest(gather_all, &all);
    return all.n;
}

/* Allocating can run the garbage collector, which can link and unlink, so nothing is
 * allocated while the list is walked. */
static PyObject *
list_tasks(const struct al_registry *registry)
{
    for (;;) {
        gathering all = {.registry = registry, .room = count_tasks(registry)};
        all.list = PyList_New(all.room);
        if (all.list == NULL) {
            return NULL;
        }
        al_at_rest(gather_all, &all);
        if (all.n <= all.room) {
            Py_SET_SIZE(all.list, all.n);
            return all.list;
        }
        Py_DECREF(all.list); /* More tasks than counted: once more. */
    }
}
#else
static Py_ssize_t
count_tasks(const struct al_registry *Py_UNUSED(registry))
{
    return 0;
}

static PyObject *
list_tasks(const struct al_registry *Py_UNUSED(registry))
{
    return PyList_New(0);
}
#endif

PyDoc_STRVAR(task_set_iter_doc, "__iter__($self, /)\n--\n\n"
                                "Iterate over asyncio's tasks and aioloop's.");

static PyObject *
TaskSet_iter(PyObject *self, PyTypeObject *cls, PyObject *const *Py_UNUSED(args),
             Py_ssize_t Py_UNUSED(nargs), PyObject *Py_UNUSED(kwnames))
{
    al_state *st = PyType_GetModuleState(cls);
    PyObject *theirs = call_below(cls, self, "__iter__");            /* escapes */
    PyObject *all = theirs == NULL ? NULL : PySequence_List(theirs); /* escapes */
    Py_XDECREF(theirs);
    if (all != NULL && st->registry != NULL &&
        (add_accept_tasks(st, all) < 0 || /* escapes */
         extend_steal(all, list_tasks(st->registry)) < 0)) {
        Py_CLEAR(all);
    }
    PyObject *result = all == NULL ? NULL : PyObject_GetIter(all);
    Py_XDECREF(all);
    return result;
}

PyDoc_STRVAR(task_set_len_doc, "__len__($self, /)\n--\n\n"
                               "Return how many tasks the iteration gives at most.");

static PyObject *
TaskSet_len(PyObject *self, PyTypeObject *cls, PyObject *const *Py_UNUSED(args),
            Py_ssize_t Py_UNUSED(nargs), PyObject *Py_UNUSED(kwnames))
{
    const al_state *st = PyType_GetModuleState(cls);
    PyObject *theirs = call_below(cls, self, "__len__"); /* escapes */
    if (theirs == NULL) {
        return NULL;
    }
    Py_ssize_t length = PyLong_AsSsize_t(theirs);
    Py_DECREF(theirs);
    if (length >= 0 && st->registry != NULL) {
        length += count_tasks(st->registry);
    }
    return length < 0 ? NULL : PyLong_FromSsize_t(length);
}

static PyMethodDef task_set_methods[] = {
    {"__iter__", (PyCFunction)(void (*)(void))TaskSet_iter,
     METH_METHOD | METH_FASTCALL | METH_KEYWORDS, task_set_iter_doc},
    {"__len__", (PyCFunction)(void (*)(void))TaskSet_len,
     METH_METHOD | METH_FASTCALL | METH_KEYWORDS, task_set_len_doc},
    {NULL, NULL, 0, NULL},
};

static char task_set_doc[] = "asyncio's set of pending tasks, with aioloop's added.";

static PyType_Slot task_set_slots[] = {
    {Py_tp_doc, task_set_doc},
    {Py_tp_methods, task_set_methods},
    {0, NULL},
};

static PyType_Spec task_set_spec = {
    .name = "aioloop.TaskSet",
    .basicsize = 0,
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = task_set_slots,
};

/* The WeakSet that asyncio.all_tasks() iterates over: new reference, or NULL. */
#if PY_VERSION_HEX < 0x030E0000
static PyObject *
find_task_set(al_state *st)
{
#if PY_VERSION_HEX < 0x030C0000
    return PyObject_GetAttrString(st->asyncio_tasks, "_all_tasks");
#else
    return PyObject_GetAttrString(st->asyncio_tasks, "_scheduled_tasks");
#endif
}
#else
/* It has no name: it is the one that _asyncio's state holds.  None if there is none. */
static PyObject *
find_task_set(al_state *Py_UNUSED(st))
{
    PyObject *asyncio = PyImport_ImportModule("_asyncio");
    PyObject *gc = PyImport_ImportModule("gc");
    PyObject *weakref = PyImport_ImportModule("weakref");
    PyObject *type = NULL, *held = NULL, *found = NULL;
    if (asyncio != NULL && gc != NULL && weakref != NULL) {
        type = PyObject_GetAttrString(weakref, "WeakSet");
        held = PyObject_CallMethod(gc, "get_referents", "O", asyncio);
    }
    if (type != NULL && held != NULL && PyList_Check(held)) {
        found = Py_NewRef(Py_None);
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(held); i++) {
            PyObject *item = PyList_GET_ITEM(held, i);
            if (PyObject_TypeCheck(item, (PyTypeObject *)type)) {
                Py_SETREF(found, Py_NewRef(item));
                break;
            }
        }
    }
    Py_XDECREF(asyncio);
    Py_XDECREF(gc);
    Py_XDECREF(weakref);
    Py_XDECREF(type);
    Py_XDECREF(held);
    return found;
}
#endif

/* Gives it a class that knows our tasks. */
static int
adopt_task_set(PyObject *module, al_state *st)
{
    PyObject *set = find_task_set(st);
    int status = set == NULL ? -1 : 0;
    if (set != NULL && set != Py_None) {
        status = al_state_add_type(module, &st->TaskSet_type, &task_set_spec,
                                   (PyObject *)Py_TYPE(set));
        if (status == 0) {
            status =
                PyObject_SetAttrString(set, "__class__", (PyObject *)st->TaskSet_type);
        }
    }
    Py_XDECREF(set);
    return status;
}

#if PY_VERSION_HEX < 0x030E0000

/* --- current task, 3.11-3.13 ------------------------------------------------------------ */

#if AL_CURRENT_IN_LOOP

/* The loop if its current task may stay in it, else NULL: see core/current.h. */
static al_loop *
own_loop(const al_state *st, PyObject *loop)
{
    al_loop *ours = al_loop_check(st, loop);
    return AL_LIKELY(ours != NULL && al_current_is_own(ours)) ? ours : NULL;
}

static void
entry_is_gone(const al_state *st, PyObject *loop)
{
    al_loop *ours = al_loop_check(st, loop);
    if (ours != NULL) {
        al_current_is_removed(ours);
    }
}

#else

static void
entry_is_gone(const al_state *Py_UNUSED(st), PyObject *Py_UNUSED(loop))
{
}

#endif

/* Removes the loop's entry.  A missing one is no error: somebody used asyncio's
 * _leave_task from inside the step. */
static int
drop_entry(al_state *st, PyObject *loop)
{
    if (PyDict_DelItem(st->current_tasks, loop) < 0) { /* escapes */
        if (!PyErr_ExceptionMatches(PyExc_KeyError)) {
            return -1;
        }
        PyErr_Clear(); /* the KeyError */
    }
    entry_is_gone(st, loop);
    return 0;
}

static void
leave_current(al_loop *loop)
{
    PyObject *saved = al_err_take();
    loop->current_task = NULL;
    if (drop_entry(loop->st, (PyObject *)loop) < 0) { /* escapes */
        PyErr_WriteUnraisable((PyObject *)loop);
    }
    al_err_put_steal(saved);
}

int
al_registry_enter(al_state *st, PyObject *loop, al_future *task)
{
#if AL_CURRENT_IN_LOOP
    al_loop *own = own_loop(st, loop);
    if (AL_LIKELY(own != NULL && own->current.task == NULL)) {
        AL_STORE(own->current.task, Py_NewRef((PyObject *)task));
        return 0;
    }
#endif
    PyObject *other = PyDict_GetItemWithError(st->current_tasks, loop);
    if (AL_UNLIKELY(other != NULL)) {
        Py_INCREF(other);
        PyErr_Format(PyExc_RuntimeError,
                     "Cannot enter into task %R while another task %R is being "
                     "executed.",
                     task, other); /* escapes */
        Py_DECREF(other);
        return -1;
    }
    if (PyErr_Occurred()) {
        return -1;
    }
    return PyDict_SetItem(st->current_tasks, loop, (PyObject *)task);
}

int
al_registry_enter_slot_slowly(al_loop *loop, al_future *task)
{
    al_state *st = loop->st;
    if (loop->current_task == NULL) {
        return al_registry_enter(st, (PyObject *)loop, task);
    }
    PyObject *last = loop->current_task;
    loop->current_task = NULL;
    return last == (PyObject *)task
               ? 0 /* It goes on. */
               : PyDict_SetItem(st->current_tasks, (PyObject *)loop,
                                (PyObject *)task); /* escapes */
}

/* Mirrors asyncio's leave_task. */
static int
leave_task(al_state *st, PyObject *loop, al_future *task)
{
    PyObject *current = PyDict_GetItemWithError(st->current_tasks, loop);
    if (current != (PyObject *)task) {
        if (!PyErr_Occurred()) {
            current = Py_NewRef(current == NULL ? Py_None : current);
            PyErr_Format(PyExc_RuntimeError,
                         "Leaving task %R does not match the current task %R.", task,
                         current); /* escapes */
            Py_DECREF(current);
        }
        return -1;
    }
    int status = PyDict_DelItem(st->current_tasks, loop); /* escapes */
    if (status == 0) {
        entry_is_gone(st, loop);
    }
    return status;
}

int
al_registry_exit(al_state *st, PyObject *loop, al_future *task, int status)
{
#if AL_CURRENT_IN_LOOP
    al_loop *ours = al_loop_check(st, loop);
    if (AL_LIKELY(ours != NULL && al_current_leave(ours, (PyObject *)task))) {
        return status;
    }
#endif
    PyObject *saved = status < 0 ? al_err_take() : NULL;
    if (leave_task(st, loop, task) < 0) {
        status = -1;
        if (saved != NULL) {
            PyErr_Clear(); /* the complaint: the step's own exception matters more */
        }
    }
    if (saved != NULL) {
        al_err_put_steal(saved);
    }
    return status;
}

int
al_registry_exit_slot_slowly(al_loop *loop, al_future *Py_UNUSED(task), int status)
{
    leave_current(loop); /* escapes */
    return status;
}

int
al_registry_swap(al_state *st, PyObject *loop, PyObject *task, PyObject **previous)
{
#if AL_CURRENT_IN_LOOP
    al_loop *own = own_loop(st, loop);
    if (AL_LIKELY(own != NULL)) {
        *previous = own->current.task;
        AL_STORE(own->current.task, Py_XNewRef(task));
        return 0;
    }
#endif
    *previous = PyDict_GetItemWithError(st->current_tasks, loop);
    if (*previous == NULL && PyErr_Occurred()) {
        return -1;
    }
    Py_XINCREF(*previous);
    int status = task != NULL        ? PyDict_SetItem(st->current_tasks, loop, task)
                 : *previous != NULL ? drop_entry(st, loop)
                                     : 0; /* escapes */
    if (status < 0) {
        Py_CLEAR(*previous);
    }
    return status;
}

int
al_registry_preempt(al_loop *loop, PyObject **previous)
{
    return al_registry_swap(loop->st, (PyObject *)loop, NULL, previous); /* escapes */
}

/* --- all tasks, 3.11-3.13 --------------------------------------------------------------- */

#if AL_FREE_THREADED

/* Each loop has a list and a lock, which its thread has to itself nearly always. */
static al_task_list *
list_of(const al_state *st, al_future *task)
{
    return task->loop != NULL ? &task->loop->tasks : &st->registry->tasks;
}

int
al_registry_add_loop(al_loop *loop)
{
    struct al_registry *registry = loop->st->registry;
    al_lock_take(&registry->loops_lock);
    loop->next_loop = registry->loops;
    loop->loop_link = &registry->loops;
    if (loop->next_loop != NULL) {
        loop->next_loop->loop_link = &loop->next_loop;
    }
    registry->loops = loop;
    al_lock_give(&registry->loops_lock);
    return 0;
}

void
al_registry_drop_loop(al_loop *loop)
{
    struct al_registry *registry = loop->st == NULL ? NULL : loop->st->registry;
    if (registry == NULL) {
        return;
    }
    /* The link is written by whoever drops the loop in front of this one. */
    al_lock_take(&registry->loops_lock);
    if (loop->loop_link != NULL) {
        *loop->loop_link = loop->next_loop;
        if (loop->next_loop != NULL) {
            loop->next_loop->loop_link = loop->loop_link;
        }
        loop->loop_link = NULL;
    }
    al_lock_give(&registry->loops_lock);
}

#else

static al_task_list *
list_of(const al_state *st, al_future *Py_UNUSED(task))
{
    return &st->registry->tasks;
}

#endif

int
al_registry_link(al_state *st, al_future *task)
{
    if (task->task_link != NULL || task->state != AL_FUTURE_PENDING) {
        return 0;
    }
    al_task_list *list = list_of(st, task);
    al_lock_take(&list->lock);
    task->next_task = list->first;
    task->task_link = &list->first;
    if (list->first != NULL) {
        list->first->task_link = &task->next_task;
    }
    list->first = task;
    al_lock_give(&list->lock);
    return 0;
}

void
al_registry_unlink(al_future *task)
{
    if (AL_LOAD(task->task_link) == NULL) {
        return;
    }
#if AL_FREE_THREADED
    al_task_list *list = list_of(al_future_state(task), task);
    al_lock_take(&list->lock);
#endif
    if (task->task_link != NULL) {
        *task->task_link = task->next_task;
    }
    if (task->next_task != NULL) {
        task->next_task->task_link = task->task_link;
    }
    task->next_task = NULL;
    task->task_link = NULL;
#if AL_FREE_THREADED
    al_lock_give(&list->lock);
#endif
}

void
al_registry_clear(al_state *st)
{
    if (st->registry == NULL) {
        return;
    }
    while (st->registry->tasks.first != NULL) {
        al_registry_unlink(st->registry->tasks.first);
    }
    PyMem_Free(st->registry);
    st->registry = NULL;
}

int
al_registry_init(PyObject *module, al_state *st)
{
    st->registry = PyMem_Calloc(1, sizeof(*st->registry));
    if (st->registry == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    st->task_step = al_task_step_run;
    st->task_wakeup = al_task_wakeup_run;
    st->future_call = al_future_call_run;
    st->leave_current = leave_current;
    return al_current_init(st) < 0 ? -1 : adopt_task_set(module, st);
}

#else

/* --- current task, 3.14+ ------------------------------------------------------------------ */

static PyObject **
thread_word(size_t offset)
{
    return (PyObject **)(void *)((char *)PyThreadState_Get() + offset);
}

/* Calls one of asyncio's functions of (loop, task).  New reference. */
static PyObject *
call_pair(PyObject *function, PyObject *first, PyObject *second)
{
    PyObject *stack[2] = {first, second};
    return PyObject_Vectorcall(function, stack, 2, NULL); /* escapes */
}

static int
call_status(PyObject *result)
{
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static void
leave_current(al_loop *loop)
{
    PyObject *last = loop->current_task;
    PyObject **current =
        al_registry_current(loop->st, PyThreadState_Get(), (PyObject *)loop);
    loop->current_task = NULL;
    if (AL_LIKELY(current != NULL && *current == last)) {
        *current = NULL;
        Py_DECREF(last); /* escapes */
    }
}

int
al_registry_enter(al_state *st, PyObject *loop, al_future *task)
{
    PyObject **current = al_registry_current(st, PyThreadState_Get(), loop);
    if (AL_LIKELY(current != NULL && *current == NULL)) {
        *current = Py_NewRef((PyObject *)task);
        return 0;
    }
    return call_status(call_pair(st->enter_task, loop, (PyObject *)task));
}

int
al_registry_enter_slot_slowly(al_loop *loop, al_future *task)
{
    if (loop->current_task != NULL) {
        leave_current(loop); /* escapes */
    }
    return call_status(
        call_pair(loop->st->enter_task, (PyObject *)loop, (PyObject *)task));
}

int
al_registry_exit(al_state *st, PyObject *loop, al_future *task, int status)
{
    PyObject **current = al_registry_current(st, PyThreadState_Get(), loop);
    if (AL_LIKELY(current != NULL && *current == (PyObject *)task)) {
        *current = NULL;
        Py_DECREF(task); /* The caller holds another reference. */
        return status;
    }
    PyObject *saved = status < 0 ? al_err_take() : NULL;
    if (call_status(call_pair(st->leave_task, loop, (PyObject *)task)) <
        0) { /* escapes */
        status = -1;
        if (saved != NULL) {
            PyErr_Clear(); /* the complaint: the step's own exception matters more */
        }
    }
    if (saved != NULL) {
        al_err_put_steal(saved);
    }
    return status;
}

int
al_registry_exit_slot_slowly(al_loop *loop, al_future *task, int status)
{
    return al_registry_exit(loop->st, (PyObject *)loop, task, status); /* escapes */
}

int
al_registry_swap(al_state *st, PyObject *loop, PyObject *task, PyObject **previous)
{
    const struct al_registry *registry = st->registry;
    if (registry->direct && *thread_word(registry->running_loop) == loop) {
        PyObject **current = thread_word(registry->running_task);
        *previous = *current;
        *current = Py_XNewRef(task);
        return 0;
    }
    PyObject *result = call_pair(st->swap_current_task, loop,
                                 task == NULL ? Py_None : task); /* escapes */
    if (result == Py_None) {
        Py_CLEAR(result);
        *previous = NULL;
        return 0;
    }
    *previous = result;
    return result == NULL ? -1 : 0;
}

/* asyncio's function refuses a loop that does not run in this thread; that has no task. */
int
al_registry_preempt(al_loop *loop, PyObject **previous)
{
    al_state *st = loop->st;
    *previous = NULL;
    bool running = st->registry->direct &&
                   *thread_word(st->registry->running_loop) == (PyObject *)loop;
    if (AL_UNLIKELY(!st->registry->direct)) {
        PyObject *current =
            PyObject_CallMethod(st->asyncio_events, "_get_running_loop", NULL);
        if (current == NULL) {
            return -1;
        }
        running = current == (PyObject *)loop;
        Py_DECREF(current);
    }
    return running ? al_registry_swap(st, (PyObject *)loop, NULL, previous) : 0;
}

/* --- all tasks, 3.14+ ----------------------------------------------------------------------- */

int
al_registry_link(al_state *st, al_future *task)
{
    const struct al_registry *registry = st->registry;
    if (task->node.next != NULL || task->state != AL_FUTURE_PENDING) {
        return 0;
    }
    if (AL_UNLIKELY(!registry->direct)) {
        return call_status(PyObject_CallOneArg(st->register_task, (PyObject *)task));
    }
    struct al_task_node *head =
        (struct al_task_node *)(void *)thread_word(registry->tasks_head);
#if AL_FREE_THREADED
    task->base_thread = _Py_ThreadId(); /* whose list it is in */
    PyUnstable_EnableTryIncRef((PyObject *)task);
#endif
    task->node.prev = head->prev;
    task->node.next = head;
    head->prev->next = &task->node;
    head->prev = &task->node;
    return 0;
}

static void
unlink_node(void *arg)
{
    struct al_task_node *node = arg;
    if (node->next != NULL) {
        node->prev->next = node->next;
        node->next->prev = node->prev;
        node->next = node->prev = NULL;
    }
}

void
al_registry_unlink(al_future *task)
{
    /* The node lies where asyncio has it: where it does not there are no tasks of ours
     * (al_registry_task_matches), so this needs no function of asyncio's even where
     * linking does. */
    if (AL_LOAD(task->node.next) == NULL) {
        return;
    }
#if AL_FREE_THREADED
    if (task->base_thread != _Py_ThreadId()) {
        al_at_rest(unlink_node,
                   &task->node); /* Another thread's list, as asyncio does. */
        return;
    }
#endif
    unlink_node(&task->node);
}

void
al_registry_clear(al_state *st)
{
    PyMem_Free(st->registry);
    st->registry = NULL;
}

/* --- who awaits whom --------------------------------------------------------------------- */

int
al_registry_add_awaited_by(al_state *st, al_future *future, al_future *task)
{
    if (AL_LIKELY(future->awaited_by == NULL)) {
        future->awaited_by = Py_NewRef((PyObject *)task);
        return 0;
    }
    return call_status(
        call_pair(st->add_awaited_by, (PyObject *)future, (PyObject *)task));
}

int
al_registry_discard_awaited_by(al_state *st, al_future *future, al_future *task)
{
    if (future->awaited_by == NULL) {
        return 0;
    }
    if (AL_LIKELY(future->awaited_by == (PyObject *)task)) {
        future->awaited_by = NULL;
        Py_DECREF(task); /* The caller holds another reference. */
        return 0;
    }
    return call_status(
        call_pair(st->discard_awaited_by, (PyObject *)future, (PyObject *)task));
}

/* --- offsets --------------------------------------------------------------------------------- */

/* _asyncio's table for debuggers, as 3.14 and 3.15 have it. */
typedef struct {
    struct {
        uint64_t size, name, awaited_by, is_task, awaited_by_is_set, coro, node;
    } task;
    struct {
        uint64_t size, tasks_head;
    } interpreter;
    struct {
        uint64_t size, running_loop, running_task, tasks_head;
    } thread;
} debug_table;

/* The table, which is what the last word of _asyncio's module state points to; NULL if
 * that word does not look like it.  The table is static data of the same binary as the
 * module's definition, which is what dladdr compares before anything is read. */
static const debug_table *
find_table(PyObject *module)
{
    const PyModuleDef *def = PyModule_GetDef(module);
    const char *state = PyModule_GetState(module);
    Dl_info home, there;
    if (def == NULL || state == NULL || def->m_size < (Py_ssize_t)sizeof(void *) ||
        def->m_size % (Py_ssize_t)sizeof(void *) != 0) {
        PyErr_Clear(); /* "not a module with a definition" */
        return NULL;
    }
    const void *word;
    memcpy(&word, state + def->m_size - sizeof(word), sizeof(word));
    if (word == NULL || (uintptr_t)word % sizeof(uint64_t) != 0 ||
        dladdr(def, &home) == 0 || dladdr(word, &there) == 0 ||
        home.dli_fbase != there.dli_fbase) {
        return NULL;
    }
    return word;
}

/* Whether the table describes the struct of future.h. */
static bool
table_matches(const debug_table *table)
{
    return table->task.size ==
               AL_TASK_BASE_BYTES + (size_t)al_layout_lie(AL_LAYOUT_CURRENT_TASK, 0) &&
           table->task.name == offsetof(al_future, name) &&
           table->task.coro == offsetof(al_future, coro) &&
           table->task.awaited_by == offsetof(al_future, awaited_by) &&
           table->task.is_task == offsetof(al_future, base_is_task) &&
           table->task.awaited_by_is_set == offsetof(al_future, awaited_by_is_set) &&
           table->task.node == offsetof(al_future, node) &&
           table->thread.size < 1 << 20 &&
           table->thread.running_loop + sizeof(void *) <= table->thread.size &&
           table->thread.running_task + sizeof(void *) <= table->thread.size &&
           table->thread.tasks_head + sizeof(struct al_task_node) <= table->thread.size;
}

/* Lets asyncio's functions write a sentinel as the current task, with `loop` running,
 * and looks whether it arrives where the table says.  1, 0 or -1. */
static int
thread_matches(al_state *st, PyObject *loop, PyObject *sentinel)
{
    const struct al_registry *registry = st->registry;
    if (*thread_word(registry->running_loop) != loop) {
        return 0;
    }
    PyObject *previous = call_pair(st->swap_current_task, loop, sentinel);
    if (previous == NULL) {
        return -1;
    }
    bool matches = *thread_word(registry->running_task) == sentinel &&
                   !al_layout_lie(AL_LAYOUT_CURRENT_TASK, 1);
    PyObject *back = call_pair(st->swap_current_task, loop, previous);
    matches =
        matches && back == sentinel &&
        *thread_word(registry->running_task) == (previous == Py_None ? NULL : previous);
    Py_DECREF(previous);
    Py_XDECREF(back);
    return back == NULL ? -1 : matches;
}

/* Lets asyncio's functions link an empty task into the list of the table.  1, 0 or -1. */
static int
list_matches(al_state *st, al_future *specimen)
{
    struct al_task_node *head =
        (struct al_task_node *)(void *)thread_word(st->registry->tasks_head);
    if (call_status(PyObject_CallOneArg(st->register_task, (PyObject *)specimen)) < 0) {
        return -1;
    }
    bool matches = specimen->node.next == head && head->prev == &specimen->node;
    if (call_status(PyObject_CallOneArg(st->unregister_task, (PyObject *)specimen)) <
        0) {
        return -1;
    }
    return matches && specimen->node.next == NULL && head->prev != &specimen->node;
}

/* Which words of the base's struct differ between two copies of it, a bit each. */
static uint64_t
words_changed(const void *before, const void *after)
{
    uint64_t bits = 0;
    for (size_t i = 0; i < AL_TASK_BASE_BYTES / sizeof(void *); i++) {
        size_t at = i * sizeof(void *);
        bits |= (uint64_t)(memcmp((const char *)before + at, (const char *)after + at,
                                  sizeof(void *)) != 0)
                << i;
    }
    return bits;
}

static uint64_t
word_bit(size_t offset)
{
    return (uint64_t)1 << offset / sizeof(void *);
}

_Static_assert(AL_TASK_BASE_BYTES / sizeof(void *) <= 64, "a bit for each word");

/* Whether linking an empty task changes the words of our node, and no others.  Nothing
 * is followed that is read there.  1, 0 or -1. */
static int
node_matches(al_state *st, al_future *specimen)
{
    char before[AL_TASK_BASE_BYTES], linked[AL_TASK_BASE_BYTES];
    uint64_t expected = word_bit(offsetof(al_future, node.next)) |
                        word_bit(offsetof(al_future, node.prev));
#ifdef Py_GIL_DISABLED
    uint64_t optional = word_bit(offsetof(al_future, base_thread));
#else
    uint64_t optional = 0;
#endif
    memcpy(before, specimen, sizeof(before));
    if (call_status(PyObject_CallOneArg(st->register_task, (PyObject *)specimen)) < 0) {
        return -1;
    }
    memcpy(linked, specimen, sizeof(linked));
    if (call_status(PyObject_CallOneArg(st->unregister_task, (PyObject *)specimen)) <
        0) {
        return -1;
    }
    return (words_changed(before, linked) & ~optional) == expected &&
           (words_changed(before, specimen) & ~optional) == 0;
}

/* Whether the words that are written for asyncio's eyes lie where it looks: 1, 0, -1. */
static int
awaited_by_matches(al_state *st, al_future *specimen, PyObject *other)
{
    PyObject *op = (PyObject *)specimen;
    if (call_status(call_pair(st->add_awaited_by, op, op)) < 0) {
        return -1;
    }
    bool matches = specimen->awaited_by == op && !specimen->awaited_by_is_set;
    if (call_status(call_pair(st->add_awaited_by, op, other)) < 0) {
        return -1;
    }
    matches = matches && specimen->awaited_by != NULL && specimen->awaited_by != op &&
              specimen->awaited_by_is_set == 1;
    if (call_status(call_pair(st->discard_awaited_by, op, op)) < 0 ||
        call_status(call_pair(st->discard_awaited_by, op, other)) < 0) {
        return -1;
    }
    return matches;
}

int
al_registry_task_matches(al_state *st)
{
    al_future *specimen = al_future_alloc(st, st->Task_type);
    PyObject *other = (PyObject *)al_future_alloc(st, st->Task_type);
    int matches = specimen == NULL || other == NULL ? -1 : 0;
    if (matches == 0) {
        /* What asyncio takes for a task has to say so, for its own functions. */
        specimen->base_is_task = ((al_future *)(void *)other)->base_is_task = 1;
        matches = al_layout_lie(AL_LAYOUT_TASK, 2) ? 0 : node_matches(st, specimen);
    }
    if (matches == 1) {
        matches = awaited_by_matches(st, specimen, other);
    }
    Py_XDECREF(specimen);
    Py_XDECREF(other);
    return matches;
}

/* Verifies everything on a specimen.  1 right, 0 unknown layout, -1 error. */
static int
verify_offsets(al_state *st, PyObject *asyncio)
{
    struct al_registry *registry = st->registry;
    const debug_table *table = find_table(asyncio);
    if (table == NULL || !table_matches(table)) {
        return 0;
    }
    registry->running_loop = (size_t)table->thread.running_loop;
    registry->running_task = (size_t)table->thread.running_task;
    registry->tasks_head = (size_t)table->thread.tasks_head;

    PyObject *specimen = (PyObject *)al_future_alloc(st, st->Task_type);
    PyObject *loop = PyObject_CallMethod(asyncio, "_get_running_loop", NULL);
    bool idle = loop == Py_None;
    int matches = specimen == NULL || loop == NULL ? -1 : 1;
    if (matches == 1 && idle) {
        Py_SETREF(loop, PyDict_New());
        matches = loop == NULL ? -1
                               : call_status(PyObject_CallMethod(
                                     asyncio, "_set_running_loop", "O", loop)) +
                                     1;
    }
    if (matches == 1) {
        matches = thread_matches(st, loop, specimen);
    }
    if (idle && call_status(PyObject_CallMethod(asyncio, "_set_running_loop", "O",
                                                Py_None)) < 0) {
        matches = -1;
    }
    if (matches == 1) {
        matches = list_matches(st, (al_future *)(void *)specimen);
    }
    Py_XDECREF(specimen);
    Py_XDECREF(loop);
    return matches;
}

int
al_registry_init(PyObject *module, al_state *st)
{
    st->registry = PyMem_Calloc(1, sizeof(*st->registry));
    if (st->registry == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    st->task_step = al_task_step_run;
    st->task_wakeup = al_task_wakeup_run;
    st->future_call = al_future_call_run;
    st->leave_current = leave_current;
    if (al_layout_is_off(st, AL_LAYOUT_TASK)) {
        return adopt_task_set(module, st); /* There is no task of ours. */
    }
    PyObject *asyncio = PyImport_ImportModule("_asyncio");
    int verified = asyncio == NULL ? -1 : verify_offsets(st, asyncio);
    Py_XDECREF(asyncio);
    if (verified == 0) {
        al_layout_turn_off(st, AL_LAYOUT_CURRENT_TASK);
    }
#ifdef AL_HARD
    verified = verified < 0 ? -1 : 0; /* The hard build walks the slower path. */
#endif
    st->registry->direct = verified == 1;
    return verified < 0 ? -1 : adopt_task_set(module, st);
}

#endif
