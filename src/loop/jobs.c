/* jobs.c: see jobs.h.  Mirrors asyncio.BaseEventLoop.run_in_executor, asyncio.futures'
 * _chain_future and concurrent.futures.ThreadPoolExecutor.submit. */
#include "loop/jobs.h"

#include "base/layout.h"
#include "base/origin.h"
#include "core/report.h"
#include "core/sched.h"
#include "loop/sockets.h"
#include "task/future.h"

typedef enum { QUEUED, RUNNING, DONE } al_phase;

typedef enum { RESULT, EXCEPTION, CANCEL } al_outcome;

typedef struct {
    PyObject_HEAD
    al_loop *loop;
    PyObject *waiter;          /* the asyncio future */
    PyObject *function, *args; /* NULL once it has run; args is a tuple */
    PyObject *value; /* the result or the exception; NULL: not known, or given */
    al_phase phase;
    al_outcome outcome;
} al_job;

/* --- the end of a job --------------------------------------------------------------------- */

/* Mirrors asyncio.futures._copy_future_state.  0 or -1, and then the value is still there.
 * Escapes. */
static int
tell_waiter(al_job *self)
{
    al_state *st = self->loop->st;
    al_future *waiter = (al_future *)self->waiter;
    if (!al_future_alive(waiter)) { /* escapes */
        PyErr_SetString(PyExc_RuntimeError, "Future object is not initialized.");
        return -1;
    }
    if (waiter->state == AL_FUTURE_CANCELLED) {
        Py_CLEAR(self->value); /* escapes */
        return 0;
    }
    if (waiter->state != AL_FUTURE_PENDING) {
        PyErr_SetNone(PyExc_AssertionError);
        return -1;
    }
    int status;
    if (self->outcome == CANCEL) {
        status = al_future_cancel(waiter, NULL) < 0 ? -1 : 0;
    }
    else if (self->outcome == RESULT) {
        status = al_future_set_result(waiter, self->value);
    }
    else {
        al_sched_settle(self->loop); /* escapes */
        PyObject *exc = PyObject_CallMethod(st->asyncio_futures, "_convert_future_exc",
                                            "O", self->value); /* escapes */
        status = exc == NULL ? -1 : al_future_set_exception(waiter, exc);
        Py_XDECREF(exc);
    }
    if (status == 0) {
        Py_CLEAR(self->value); /* escapes */
    }
    return status;
}

/* An al_run_fn. */
static int
tell_waiter_run(al_loop *loop, PyObject *self, PyObject *Py_UNUSED(arg),
                PyObject *Py_UNUSED(extra))
{
    if (tell_waiter((al_job *)self) == 0) { /* escapes */
        return 0;
    }
    if (PyErr_ExceptionMatches(PyExc_MemoryError)) {
        return al_sched_put_back(loop, tell_waiter_run, self, NULL, NULL);
    }
    return al_future_report(loop, self, ((al_job *)self)->waiter, NULL);
}

/* What call_soon_threadsafe calls, where that has been replaced. */
static PyObject *
job_call(PyObject *self, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    return tell_waiter((al_job *)self) < 0 ? NULL : Py_NewRef(Py_None);
}

/* Whether the loop's call_soon_threadsafe is ours. */
static bool
wakes_itself(al_loop *loop)
{
    al_state *st = loop->st;
    PyObject *name = st->str.call_soon_threadsafe;
    PyObject *dict = PyObject_GenericGetDict((PyObject *)loop, NULL);
    int own = dict == NULL ? -1 : PyDict_Contains(dict, name);
    Py_XDECREF(dict);
    PyErr_Clear(); /* MemoryError: it is asked for by its name then. */
    return own == 0 && _PyType_Lookup(Py_TYPE(loop), name) ==
                           _PyType_Lookup(st->EventLoop_type, name);
}

/* Mirrors _chain_future's _call_set_state, in any thread.  Leaves no exception: nobody is
 * there to be told, and concurrent.futures logs what comes out of a callback.  Escapes. */
static void
give_back(al_job *self)
{
    al_loop *loop = self->loop;
    int status = 0;
    self->phase = DONE;
    if (loop->closed) {
        Py_CLEAR(self->value); /* escapes */
        return;
    }
    if (loop->thread_id == PyThread_get_thread_ident()) {
        status = tell_waiter(self); /* escapes */
    }
    else if (AL_LIKELY(AL_LOAD(loop->debug.switches) == 0 && al_loop_direct(loop) &&
                       wakes_itself(loop))) {
        status = al_sched_push_steal(loop, tell_waiter_run, Py_NewRef((PyObject *)self),
                                     NULL, NULL);
        if (status == 0) {
            al_wake_up(loop);
        }
    }
    else {
        PyObject *handle = PyObject_CallMethodOneArg((PyObject *)loop,
                                                     loop->st->str.call_soon_threadsafe,
                                                     (PyObject *)self); /* escapes */
        status = handle == NULL ? -1 : 0;
        Py_XDECREF(handle);
    }
    if (status < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
}

/* --- what threads and executors ask for ----------------------------------------------------- */

static bool
is_cancelled(const al_job *self)
{
    return ((al_future *)self->waiter)->state == AL_FUTURE_CANCELLED;
}

/* _WorkItem.run(), from 3.14 on with the thread's context, which is for subclasses. */
static PyObject *
Job_run(al_job *self, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    PyObject *function = self->function, *arguments = self->args;
    if (self->phase == QUEUED && !is_cancelled(self)) {
        self->phase = RUNNING;
        self->value = PyObject_Call(function, arguments, NULL); /* escapes */
        self->outcome = self->value == NULL ? EXCEPTION : RESULT;
        if (self->value == NULL) {
            self->value = al_err_take();
        }
        give_back(self); /* escapes */
    }
    self->phase = DONE;
    self->function = self->args = NULL;
    Py_XDECREF(function); /* escapes */
    Py_XDECREF(arguments);
    Py_RETURN_NONE;
}

/* Ends a job that waits in the queue: False if it does not.  Steals the value. */
static PyObject *
end_steal(al_job *self, al_outcome outcome, PyObject *value)
{
    if (self->phase != QUEUED) {
        Py_XDECREF(value); /* escapes */
        Py_RETURN_FALSE;
    }
    self->outcome = outcome;
    self->value = value;
    give_back(self); /* escapes */
    Py_RETURN_TRUE;
}

static PyObject *
Job_cancel(al_job *self, PyObject *Py_UNUSED(ignored))
{
    return end_steal(self, CANCEL, NULL);
}

static PyObject *
Job_set_exception(al_job *self, PyObject *exc)
{
    return end_steal(self, EXCEPTION, Py_NewRef(exc));
}

static PyObject *
job_get_future(PyObject *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(self);
}

static PyObject *
job_get_function(al_job *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(self->function == NULL ? Py_None : self->function);
}

static PyObject *
job_get_waiter(al_job *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(self->waiter == NULL ? Py_None : self->waiter);
}

static int
job_traverse(al_job *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    Py_VISIT(self->waiter);
    Py_VISIT(self->function);
    Py_VISIT(self->args);
    Py_VISIT(self->value);
    return 0;
}

/* There is no tp_clear: the objects of a job are in no cycle without the waiter, which
 * clears itself, and a thread that runs the job relies on them. */
static void
job_dealloc(al_job *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->function); /* escapes */
    Py_CLEAR(self->args);
    Py_CLEAR(self->value);
    Py_CLEAR(self->waiter);
    Py_CLEAR(self->loop);
    type->tp_free(self);
    Py_DECREF(type);
}

#define FAST(function) (PyCFunction)(void (*)(void))(function), METH_FASTCALL

static PyMethodDef job_methods[] = {
    {"run", FAST(Job_run), NULL},
    {"cancel", (PyCFunction)Job_cancel, METH_NOARGS, NULL},
    {"set_exception", (PyCFunction)Job_set_exception, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef job_getsets[] = {
    {"future", job_get_future, NULL, NULL, NULL},
    {"fn", (getter)job_get_function, NULL, NULL, NULL},
    {"waiter", (getter)job_get_waiter, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot job_slots[] = {
    {Py_tp_dealloc, job_dealloc}, {Py_tp_traverse, job_traverse},
    {Py_tp_call, job_call},       {Py_tp_methods, job_methods},
    {Py_tp_getset, job_getsets},  {0, NULL},
};

static PyType_Spec job_spec = {
    .name = "aioloop._core.Job",
    .basicsize = sizeof(al_job),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = job_slots,
};

int
al_jobs_init_type(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->Job_type, &job_spec, NULL) < 0
               ? -1
               : PyModule_AddType(module, st->Job_type);
}

static PyObject *
job_new(al_loop *loop, PyObject *function, PyObject *const *args, Py_ssize_t nargs)
{
    PyTypeObject *type = loop->st->Job_type;
    PyObject *arguments =
        nargs == 0 ? Py_NewRef(loop->st->empty_tuple) : PyTuple_New(nargs);
    PyObject *waiter = arguments == NULL ? NULL : al_future_new(loop);
    al_job *self = waiter == NULL ? NULL : (al_job *)type->tp_alloc(type, 0);
    if (self == NULL) {
        Py_XDECREF(arguments);
        Py_XDECREF(waiter);
        return NULL;
    }
    for (Py_ssize_t i = 0; i < nargs; i++) {
        PyTuple_SET_ITEM(arguments, i, Py_NewRef(args[i]));
    }
    self->loop = (al_loop *)Py_NewRef((PyObject *)loop);
    self->waiter = waiter;
    self->function = Py_NewRef(function);
    self->args = arguments;
    return (PyObject *)self;
}

/* --- whether a job may be one of ours ------------------------------------------------------- */

/* The classes of concurrent.futures, and their methods that a job passes by. */
enum { POOL, WORK_ITEM, THREAD_FUTURE };

static const struct {
    int type;
    const char *name;
} methods[] = {
    {POOL, "submit"},
    {POOL, "_adjust_thread_count"},
    {WORK_ITEM, "__init__"},
    {WORK_ITEM, "run"},
    {THREAD_FUTURE, "__init__"},
    {THREAD_FUTURE, "add_done_callback"},
    {THREAD_FUTURE, "cancel"},
    {THREAD_FUTURE, "set_running_or_notify_cancel"},
    {THREAD_FUTURE, "set_result"},
    {THREAD_FUTURE, "set_exception"},
    {THREAD_FUTURE, "_invoke_callbacks"},
};

/* The same of functions: the global `i` of concurrent.futures.thread or asyncio.futures, as
 * it is now.  Borrowed, or NULL without an exception. */
static PyObject *
function_now(const al_state *st, int i)
{
    PyObject *names[AL_JOB_FUNCTIONS] = {st->str._worker, st->str.wrap_future,
                                         st->str._chain_future,
                                         st->str._copy_future_state};
    PyObject *module = i == 0 ? st->jobs.module : st->asyncio_futures;
    PyObject *found = PyDict_GetItemWithError(PyModule_GetDict(module), names[i]);
    PyErr_Clear(); /* MemoryError. */
    return found;
}

static const char *const function_names[AL_JOB_FUNCTIONS] = {
    "_worker", "wrap_future", "_chain_future", "_copy_future_state"};

/* Finds concurrent.futures.thread once somebody has imported it. */
static bool
find_module(al_state *st)
{
    PyObject *name = PyUnicode_FromString("concurrent.futures.thread");
    PyObject *module = name == NULL ? NULL : PyImport_GetModule(name);
    Py_XDECREF(name);
    if (module != NULL && PyModule_Check(module)) {
        st->jobs.module = Py_NewRef(module);
    }
    Py_XDECREF(module);
    PyErr_Clear(); /* MemoryError: asyncio's method goes on. */
    return st->jobs.module != NULL;
}

static PyObject *
class_of(PyObject *module, const char *first, const char *second)
{
    PyObject *inner = PyObject_GetAttrString(module, first);
    if (inner != NULL && second != NULL) {
        Py_SETREF(inner, PyObject_GetAttrString(inner, second));
    }
    if (inner != NULL && !PyType_Check(inner)) {
        Py_CLEAR(inner);
    }
    return inner;
}

/* Looks at all that a job passes by.  Leaves no exception. */
static AL_COLD void
look(al_state *st)
{
    PyObject *found[AL_JOB_TYPES] = {
        class_of(st->jobs.module, "ThreadPoolExecutor", NULL),
        class_of(st->jobs.module, "_WorkItem", NULL),
        class_of(st->jobs.module, "_base", "Future"),
    };
    bool intact = true;
    for (int i = 0; i < AL_JOB_TYPES; i++) {
        intact = intact && found[i] != NULL;
        Py_XSETREF(st->jobs.types[i], found[i]);
    }
    for (size_t i = 0; intact && i < sizeof(methods) / sizeof(methods[0]); i++) {
        PyTypeObject *type = (PyTypeObject *)st->jobs.types[methods[i].type];
        PyObject *name = PyUnicode_InternFromString(methods[i].name);
        /* Looking the name up gives the class a version tag. */
        intact = name != NULL && _PyType_Lookup(type, name) != NULL &&
                 al_origin_intact(type, name);
        Py_XDECREF(name);
    }
    for (int i = 0; i < AL_JOB_FUNCTIONS; i++) {
        PyObject *function = function_now(st, i);
        intact = intact && function != NULL &&
                 al_origin_is_function(
                     function, i == 0 ? "concurrent.futures.thread" : "asyncio.futures",
                     function_names[i]);
        Py_XSETREF(st->jobs.functions[i], Py_XNewRef(function));
    }
    for (int i = 0; i < AL_JOB_TYPES; i++) {
        const PyTypeObject *type = (PyTypeObject *)st->jobs.types[i];
        st->jobs.seen_tags[i] = type == NULL ? 0 : type->tp_version_tag;
    }
    if (PyErr_Occurred()) {
        PyErr_Clear(); /* MemoryError, or a class that is not there: not for long. */
        st->jobs.seen_tags[POOL] = 0;
    }
    st->jobs.intact = intact;
}

static bool
seen_as_it_is(const al_state *st)
{
    bool seen = true;
    for (int i = 0; i < AL_JOB_TYPES; i++) {
        const PyTypeObject *type = (PyTypeObject *)st->jobs.types[i];
        seen = seen && type != NULL && type->tp_version_tag != 0 &&
               type->tp_version_tag == st->jobs.seen_tags[i];
    }
    for (int i = 0; seen && i < AL_JOB_FUNCTIONS; i++) {
        seen = function_now(st, i) == st->jobs.functions[i];
    }
    return seen;
}

static bool
is_intact(al_state *st)
{
    if (st->jobs.module == NULL && !find_module(st)) {
        return false;
    }
    if (AL_UNLIKELY(!seen_as_it_is(st))) {
        look(st); /* escapes */
    }
    return st->jobs.intact;
}

/* --- run_in_executor -------------------------------------------------------------------------- */

/* An attribute of the executor, borrowed; or NULL, and no exception. */
static PyObject *
get(PyObject *dict, PyObject *name)
{
    PyObject *value = PyDict_GetItemWithError(dict, name);
    PyErr_Clear(); /* MemoryError: asyncio's method goes on. */
    return value;
}

/* Whether submit() would take a job. */
static bool
is_open(const al_state *st, PyObject *dict)
{
    return get(dict, st->str._broken) == Py_False &&
           get(dict, st->str._shutdown) == Py_False &&
           get(PyModule_GetDict(st->jobs.module), st->str._shutdown) == Py_False;
}

/* Whether _adjust_thread_count() would do nothing. */
static bool
is_full(const al_state *st, PyObject *dict)
{
    /* The dict may be made now, and a collection with it: what is borrowed comes after. */
    PyObject *idle = Py_XNewRef(get(dict, st->str._idle_semaphore));
    PyObject *idle_dict = idle == NULL ? NULL : PyObject_GenericGetDict(idle, NULL);
    Py_XDECREF(idle); /* escapes */
    PyObject *count = idle_dict == NULL ? NULL : get(idle_dict, st->str._value);
    PyObject *threads = get(dict, st->str._threads);
    PyObject *most = get(dict, st->str._max_workers);
    bool full = threads != NULL && PyAnySet_Check(threads) && most != NULL &&
                PyLong_CheckExact(most) && count != NULL && PyLong_CheckExact(count) &&
                PyLong_AsLong(count) == 0 &&
                PySet_GET_SIZE(threads) >= PyLong_AsLong(most);
    Py_XDECREF(idle_dict);
    PyErr_Clear(); /* OverflowError: not full. */
    return full;
}

static int
put(const al_state *st, PyObject *dict, PyObject *job)
{
    PyObject *queue = get(dict, st->str._work_queue);
    PyObject *done = NULL;
    if (queue == NULL) {
        PyErr_SetObject(PyExc_AttributeError, st->str._work_queue);
    }
    else {
        Py_INCREF(queue);
        done = PyObject_CallMethodOneArg(queue, st->str.put, job); /* escapes */
        Py_DECREF(queue);
    }
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* lock.<name>(), with an exception kept.  0 or -1.  Escapes. */
static int
call_lock(PyObject *lock, PyObject *name)
{
    PyObject *exc = al_err_take();
    PyObject *done = PyObject_CallMethodNoArgs(lock, name); /* escapes */
    int status = done == NULL ? -1 : 0;
    Py_XDECREF(done);
    if (exc != NULL) {
        if (status < 0) {
            PyErr_WriteUnraisable(lock);
        }
        al_err_put_steal(exc);
    }
    return status;
}

/* With both locks: as submit(), which may start a thread.  1, 0 if it is for submit() to
 * say why not, or -1.  Escapes. */
static int
submit_locked(const al_state *st, PyObject *executor, PyObject *dict, PyObject *job)
{
    if (!is_open(st, dict)) {
        return 0;
    }
    if (put(st, dict, job) < 0) { /* escapes */
        return -1;
    }
    PyObject *done =
        PyObject_CallMethodNoArgs(executor, st->str._adjust_thread_count); /* escapes */
    Py_XDECREF(done);
    return done == NULL ? -1 : 1;
}

/* Mirrors concurrent.futures.ThreadPoolExecutor.submit: 1, 0 or -1.  Its two locks keep
 * others from a change while it looks, puts and starts a thread; where there is no thread to
 * be started the GIL does.  Escapes. */
static int
submit(const al_state *st, PyObject *executor, PyObject *dict, PyObject *job)
{
    if (!is_open(st, dict) || get(dict, st->str.submit) != NULL ||
        get(dict, st->str._adjust_thread_count) != NULL) {
        return 0;
    }
    if (is_full(st, dict)) {
        return put(st, dict, job) < 0 ? -1 : 1; /* escapes */
    }
    PyObject *own = Py_XNewRef(get(dict, st->str._shutdown_lock));
    PyObject *global = Py_XNewRef(
        get(PyModule_GetDict(st->jobs.module), st->str._global_shutdown_lock));
    int result = 0;
    if (own != NULL && global != NULL) {
        result = call_lock(own, st->str.acquire); /* escapes */
        if (result == 0) {
            result = call_lock(global, st->str.acquire); /* escapes */
            if (result == 0) {
                result = submit_locked(st, executor, dict, job); /* escapes */
                if (call_lock(global, st->str.release) < 0) {
                    result = -1;
                }
            }
            if (call_lock(own, st->str.release) < 0) {
                result = -1;
            }
        }
    }
    Py_XDECREF(own);
    Py_XDECREF(global);
    return result;
}

/* Gives the job to the executor; NULL: asyncio's method has to, or with an exception.
 * Escapes. */
static PyObject *
run_in(al_loop *self, PyObject *executor, PyObject *const *args, Py_ssize_t nargs)
{
    const al_state *st = self->st;
    PyObject *result = NULL;
    PyObject *dict = PyObject_GenericGetDict(executor, NULL);
    PyObject *job = dict == NULL ? NULL : job_new(self, args[0], args + 1, nargs - 1);
    if (job != NULL && submit(st, executor, dict, job) > 0) { /* escapes */
        result = Py_NewRef(((al_job *)job)->waiter);
    }
    Py_XDECREF(job);
    Py_XDECREF(dict);
    return result;
}

PyDoc_STRVAR(run_in_executor_doc,
             "run_in_executor($self, executor, func, *args)\n--\n\n"
             "Call func(*args) in a thread or process of an executor.\n\n"
             "executor is a concurrent.futures.Executor, or None for the loop's\n"
             "default one.  Returns a Future of the result.\n\n"
             "Source: asyncio, loop.run_in_executor.");

static PyObject *
EventLoop_run_in_executor(al_loop *self, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames)
{
    AL_OBEY(self, "run_in_executor", args, nargs, kwnames);
    bool first = false;
    if (!AL_FREE_THREADED && kwnames == NULL && nargs >= 2 && args[0] == Py_None &&
        AL_LOAD(self->debug.switches) == 0 && !self->overrides.create_future &&
        al_loop_direct(self) && !al_layout_is_off(self->st, AL_LAYOUT_FUTURE)) {
        al_state *st = self->st;
        PyObject *result = NULL;
        PyObject *executor =
            PyObject_GetAttr((PyObject *)self, st->str._default_executor); /* escapes */
        PyObject *ended =
            PyObject_GetAttr((PyObject *)self, st->str._executor_shutdown_called);
        first = executor == Py_None;
        if (executor != NULL && executor == self->own_executor && ended == Py_False &&
            is_intact(st) &&
            Py_IS_TYPE(executor, (PyTypeObject *)st->jobs.types[POOL])) {
            result = run_in(self, executor, args + 1, nargs - 1); /* escapes */
        }
        Py_XDECREF(executor);
        Py_XDECREF(ended);
        if (result != NULL || PyErr_Occurred()) {
            return result;
        }
    }
    PyObject *result = al_sockets_inherited(self, "run_in_executor", args, nargs,
                                            kwnames); /* escapes */
    if (first && result != NULL) {
        PyObject *made =
            PyObject_GetAttr((PyObject *)self, self->st->str._default_executor);
        if (made == NULL) {
            Py_DECREF(result);
            return NULL;
        }
        self->own_executor = made;
        Py_DECREF(made);
    }
    return result;
}

PyMethodDef al_jobs_methods[] = {
    {"run_in_executor", (PyCFunction)(void (*)(void))EventLoop_run_in_executor,
     METH_FASTCALL | METH_KEYWORDS, run_in_executor_doc},
    {NULL, NULL, 0, NULL},
};
