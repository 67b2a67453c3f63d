/* task.c: see task.h. */
#include "task/task.h"

#include "base/check.h"
#include "core/context.h"
#include "core/debug.h"
#include "core/misuse.h"
#include "core/report.h"
#include "core/stack.h"
#include "task/await.h"
#include "task/names.h"
#include "task/registry.h"

#if PY_VERSION_HEX >= 0x030E0000
#define STEP_NAME "__step()"
#else
#define STEP_NAME "_step()"
#endif

enum { NOT_ENTERED = -2 }; /* of run_step */

static int task_step(al_future *task, PyObject *exc);
static int take_outcome(al_future *task, PyObject *future, PyObject **exc);

/* --- the step as an object ---------------------------------------------------------- */

/* What call_soon gets where bare slots are not wanted.  A distinct type, because
 * asyncio's texts recognise a task by the callback's __self__. */
typedef struct {
    PyObject_HEAD
    PyObject *task;
    PyObject *exc; /* to throw, or NULL */
} al_task_step;

static PyObject *
step_object_new(al_future *task, PyObject *exc)
{
    al_state *st = al_future_state(task);
    al_task_step *self = PyObject_GC_New(al_task_step, st->TaskStep_type);
    if (self == NULL) {
        return NULL;
    }
    self->task = Py_NewRef((PyObject *)task);
    self->exc = Py_XNewRef(exc);
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static int
step_object_traverse(al_task_step *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->task);
    Py_VISIT(self->exc);
    return 0;
}

static int
step_object_clear(al_task_step *self)
{
    Py_CLEAR(self->task);
    Py_CLEAR(self->exc);
    return 0;
}

static void
step_object_dealloc(al_task_step *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)step_object_clear(self); /* escapes */
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyObject *
step_object_call(al_task_step *self, PyObject *args, PyObject *kwargs)
{
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) != 0) {
        PyErr_SetString(PyExc_TypeError, "function takes no keyword arguments");
        return NULL;
    }
    if (args != NULL && PyTuple_GET_SIZE(args) != 0) {
        PyErr_SetString(PyExc_TypeError, "function takes no positional arguments");
        return NULL;
    }
    PyObject *task = Py_XNewRef(self->task), *exc = Py_XNewRef(self->exc);
    int status = -1;
    if (task == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "uninitialized Task object");
    }
    else {
        status = task_step((al_future *)(void *)task, exc); /* escapes */
    }
    Py_XDECREF(task);
    Py_XDECREF(exc);
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

static PyMemberDef step_object_members[] = {
    {"__self__", T_OBJECT, offsetof(al_task_step, task), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot step_object_slots[] = {
    {Py_tp_dealloc, step_object_dealloc}, {Py_tp_traverse, step_object_traverse},
    {Py_tp_clear, step_object_clear},     {Py_tp_call, step_object_call},
    {Py_tp_members, step_object_members}, {0, NULL},
};

static PyType_Spec step_object_spec = {
    .name = "aioloop.TaskStepMethWrapper",
    .basicsize = sizeof(al_task_step),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = step_object_slots,
};

/* Queues the next step.  Escapes unless the loop takes bare slots. */
static int
step_soon(al_future *task, PyObject *exc)
{
    al_loop *loop = task->loop;
    if (AL_LIKELY(loop != NULL && al_loop_direct(loop))) {
        return al_sched_push_steal(loop, al_task_step_run, Py_NewRef((PyObject *)task),
                                   Py_XNewRef(exc), NULL);
    }
    if (AL_UNLIKELY(!al_future_alive(task))) {
        PyErr_SetString(PyExc_RuntimeError, "uninitialized Task object");
        return -1;
    }
    PyObject *step = step_object_new(task, exc);
    if (step == NULL) {
        return -1;
    }
    /* call_soon may change the task (gh-126080). */
    PyObject *loop_obj = Py_NewRef(task->loop_obj);
    PyObject *context = Py_XNewRef(al_task_context(task));
    if (context == NULL) {
        Py_DECREF(step);
        Py_DECREF(loop_obj);
        return -1;
    }
    int status = al_sched_call_soon(al_future_state(task), loop_obj, step, NULL,
                                    context); /* escapes */
    Py_DECREF(step);
    Py_DECREF(loop_obj);
    Py_DECREF(context);
    return status;
}

/* Queues a step that throws RuntimeError(message); steals the message, which is NULL
 * if formatting it failed. */
static int
throw_soon_steal(al_future *task, PyObject *message)
{
    PyObject *exc =
        message == NULL ? NULL : PyObject_CallOneArg(PyExc_RuntimeError, message);
    Py_XDECREF(message);
    if (exc == NULL) {
        return -1;
    }
    int status = step_soon(task, exc);
    Py_DECREF(exc);
    return status;
}

/* --- the wake-up as an object ------------------------------------------------------- */

static PyObject *
wakeup_call(PyObject *task, PyObject *future)
{
    PyObject *exc;
    int status = take_outcome((al_future *)(void *)task, future, &exc);
    if (status == 0) {
        status = task_step((al_future *)(void *)task, exc); /* escapes */
        Py_XDECREF(exc);
    }
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

static PyMethodDef wakeup_def = {"task_wakeup", wakeup_call, METH_O, NULL};

PyObject *
al_task_wakeup_new(PyObject *task)
{
    return PyCFunction_New(&wakeup_def, task);
}

/* The task of asyncio's own step object, which tells it to whoever asks. */
static PyObject *
task_of_asyncios_step(PyObject *callback)
{
    const PyTypeObject *type = Py_TYPE(callback);
    const char *dot = strrchr(type->tp_name, '.'); /* There is none on 3.11. */
    if ((type->tp_flags & Py_TPFLAGS_IMMUTABLETYPE) == 0 ||
        strcmp(dot == NULL ? type->tp_name : dot + 1, "TaskStepMethWrapper") != 0) {
        return NULL;
    }
    PyObject *task = PyObject_GetAttrString(callback, "__self__");
    if (task == NULL) {
        PyErr_Clear(); /* MemoryError: the step is one of the loop's own then. */
        return NULL;
    }
    Py_DECREF(task); /* The callback has it. */
    return task;
}

PyObject *
al_task_of_callback(const al_state *st, PyObject *callback)
{
    if (Py_IS_TYPE(callback, st->TaskStep_type)) {
        return ((al_task_step *)(void *)callback)->task;
    }
    PyObject *task = NULL;
    if (!PyCFunction_CheckExact(callback)) {
        task = task_of_asyncios_step(callback);
    }
    else if (strcmp(((PyCFunctionObject *)(void *)callback)->m_ml->ml_name,
                    wakeup_def.ml_name) == 0) {
        task = PyCFunction_GET_SELF(callback);
    }
    PyTypeObject *asyncios = (PyTypeObject *)(void *)st->asyncio_Task;
    return task != NULL && PyObject_TypeCheck(task, asyncios) ? task : NULL;
}

PyObject *
al_task_context(al_future *task)
{
    if (task->context == NULL) {
        task->context = PyContext_New();
    }
    return task->context;
}

/* --- what a step's result means -------------------------------------------------------- */

/* The future just awaited gets the cancellation that came while the step ran. */
static int
pass_cancellation(al_future *task, PyObject *future)
{
    al_state *st = al_future_state(task);
    PyObject *message = /* gh-126138: cancel may replace it */
        Py_NewRef(task->cancel_message == NULL ? Py_None : task->cancel_message);
    PyObject *answer =
        PyObject_CallMethodOneArg(future, st->str.cancel, message); /* escapes */
    Py_DECREF(message);
    int cancelled = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    if (cancelled > 0) {
        task->must_cancel = false;
    }
    return cancelled < 0 ? -1 : 0;
}

static int
wrong_loop(al_future *task, PyObject *future)
{
    return throw_soon_steal(
        task, PyUnicode_FromFormat("Task %R got Future %R attached to a different loop",
                                   task, future)); /* escapes */
}

static int
bare_future(al_future *task, PyObject *future)
{
    return throw_soon_steal(
        task,
        PyUnicode_FromFormat("yield was used instead of yield from in task %R with %R",
                             task, future)); /* escapes */
}

static void
set_waiter(al_future *task, PyObject *future)
{
    Py_XSETREF(task->fut_waiter, Py_NewRef(future));
    if (AL_LIKELY(task->loop != NULL)) {
        task->waits_since = al_future_wait_step(task->loop->look.clocked_at);
    }
}

/* `future` is exactly of one of our types. */
static int
wait_for_ours(al_future *task, PyObject *op)
{
    al_future *future = (al_future *)(void *)op;
    if (AL_UNLIKELY(future->loop_obj != task->loop_obj)) {
        return wrong_loop(task, op);
    }
    if (AL_UNLIKELY(!future->blocking)) {
        return bare_future(task, op);
    }
    future->blocking = false;
#if PY_VERSION_HEX >= 0x030E0000
    if (al_registry_add_awaited_by(al_future_state(task), future, task) < 0) {
        return -1;
    }
#endif
    if (al_future_add_waiter(future, task) < 0) {
        return -1;
    }
    set_waiter(task, op);
    return AL_UNLIKELY(task->must_cancel) ? pass_cancellation(task, op) : 0;
}

/* Mirrors asyncio.futures._get_loop.  New reference. */
static PyObject *
loop_of(al_state *st, PyObject *future)
{
    PyObject *method;
    if (al_getattr_optional(future, st->str.get_loop, &method) < 0) { /* escapes */
        return NULL;
    }
    if (method != NULL) {
        PyObject *loop = PyObject_CallNoArgs(method); /* escapes */
        Py_DECREF(method);
        return loop;
    }
    return PyObject_GetAttr(future, st->str._loop); /* escapes */
}

/* `future` has an _asyncio_future_blocking, whose truth is `blocking`. */
static int
wait_for_foreign(al_future *task, PyObject *future, bool blocking)
{
    al_state *st = al_future_state(task);
    PyObject *loop = loop_of(st, future); /* escapes */
    if (loop == NULL) {
        return -1;
    }
    bool same = loop == task->loop_obj;
    Py_DECREF(loop);
    if (!same) {
        return wrong_loop(task, future);
    }
    if (!blocking) {
        return bare_future(task, future);
    }
#if PY_VERSION_HEX >= 0x030E0000
    PyObject *pair[2] = {future, (PyObject *)task};
    PyObject *added = PyObject_Vectorcall(st->add_awaited_by, pair, 2, NULL);
    if (added == NULL) {
        return -1;
    }
    Py_DECREF(added);
#endif
    if (PyObject_SetAttr(future, st->str._asyncio_future_blocking, Py_False) <
        0) { /* escapes */
        return -1;
    }
    PyObject *wakeup = al_task_wakeup_new((PyObject *)task);
    if (wakeup == NULL) {
        return -1;
    }
    PyObject *context = Py_XNewRef(al_task_context(task));
    if (context == NULL) {
        Py_DECREF(wakeup);
        return -1;
    }
    PyObject *stack[3] = {future, wakeup, context};
    PyObject *result = PyObject_VectorcallMethod(st->str.add_done_callback, stack,
                                                 2 | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                                 st->kwnames_context); /* escapes */
    Py_DECREF(wakeup);
    Py_DECREF(context);
    if (result == NULL) {
        return -1;
    }
    Py_DECREF(result);
    set_waiter(task, future);
    return task->must_cancel ? pass_cancellation(task, future) : 0;
}

/* Mirrors the else branch of asyncio.tasks.Task.__step_run_and_handle_result.  `result`
 * stays the caller's. */
static int
handle_yielded(al_future *task, PyObject *result)
{
    al_state *st = al_future_state(task);
    if (AL_LIKELY(result == Py_None)) {
        return step_soon(task, NULL); /* a bare yield */
    }
    if (AL_UNLIKELY(result == (PyObject *)task)) {
        return throw_soon_steal(
            task, PyUnicode_FromFormat("Task cannot await on itself: %R", task));
    }
    if (AL_LIKELY(al_future_exact(st, result))) {
        return wait_for_ours(task, result);
    }
    PyObject *marker;
    if (al_getattr_optional(result, st->str._asyncio_future_blocking, &marker) <
        0) { /* escapes */
        return -1;
    }
    if (marker != NULL && marker != Py_None) {
        int blocking = PyObject_IsTrue(marker); /* escapes */
        Py_DECREF(marker);
        return blocking < 0 ? -1 : wait_for_foreign(task, result, blocking != 0);
    }
    Py_XDECREF(marker);
    int generator = PyObject_IsInstance(result, (PyObject *)&PyGen_Type); /* escapes */
    if (generator < 0) {
        return -1;
    }
    return throw_soon_steal(
        task, generator ? PyUnicode_FromFormat(
                              "yield was used instead of yield from for generator in "
                              "task %R with %R",
                              task, result)
                        : PyUnicode_FromFormat("Task got bad yield: %R", result));
}

/* --- the step -------------------------------------------------------------------------- */

/* Throws into the coroutine, with PyIter_Send's results. */
static PySendResult
throw_into(al_state *st, PyObject *coro, PyObject *exc, PyObject **result)
{
    *result = PyObject_CallMethodOneArg(coro, st->str.throw, exc); /* escapes */
    if (*result != NULL) {
        return PYGEN_NEXT;
    }
    if (!PyErr_Occurred()) {
        *result = Py_NewRef(Py_None);
        return PYGEN_RETURN;
    }
    if (!PyErr_ExceptionMatches(PyExc_StopIteration)) {
        return PYGEN_ERROR;
    }
    PyObject *stop = al_err_take();
    if (stop == NULL) {
        return PYGEN_ERROR; /* Not reached: an exception is pending. */
    }
    PyObject *value = ((PyStopIterationObject *)(void *)stop)->value;
    *result = Py_NewRef(value == NULL ? Py_None : value);
    Py_DECREF(stop);
    return PYGEN_RETURN;
}

static int finish_run(al_loop *loop, PyObject *op, PyObject *result, PyObject *exc);

/* What the coroutine has come to is known, but the future was not completed.  Without
 * memory for its callbacks a slot tries again.  -1. */
static int
finish_later(al_future *task, PyObject *result, PyObject *exc)
{
    al_loop *loop = task->loop;
    if (task->state != AL_FUTURE_PENDING || loop == NULL || !al_loop_direct(loop) ||
        !PyErr_ExceptionMatches(PyExc_MemoryError)) {
        return -1;
    }
    return al_sched_put_back(loop, finish_run, (PyObject *)task, result, exc);
}

/* Completes a task whose coroutine was cancelled, or right before it ended. */
static int
finish_cancelled(al_future *task)
{
    PyObject *message =
        task->cancelled_exc != NULL ? NULL : Py_XNewRef(task->cancel_message);
    int status = al_future_cancel(task, message); /* escapes */
    Py_XDECREF(message);
    return status < 0 ? finish_later(task, NULL, NULL) : 0;
}

static int
finish(al_future *task, PyObject *result)
{
    if (AL_UNLIKELY(task->must_cancel)) {
        /* Cancelled right before the coroutine ended. */
        task->must_cancel = false;
        return finish_cancelled(task);
    }
    int status = al_future_set_result(task, result); /* escapes */
    return AL_LIKELY(status == 0) ? 0 : finish_later(task, result, NULL);
}

static int
finish_raised(al_future *task, PyObject *exc)
{
    if (AL_UNLIKELY(al_future_set_exception(task, exc) < 0)) { /* escapes */
        return finish_later(task, NULL, exc);
    }
    if (PyErr_GivenExceptionMatches(exc, PyExc_KeyboardInterrupt) ||
        PyErr_GivenExceptionMatches(exc, PyExc_SystemExit)) {
        al_err_put_steal(Py_NewRef(exc));
        return -1;
    }
    return 0;
}

/* The end of a task's last step that lacked memory (an al_run_fn). */
static int
finish_run(al_loop *Py_UNUSED(loop), PyObject *op, PyObject *result, PyObject *exc)
{
    al_future *task = (al_future *)(void *)op;
    if (task->state != AL_FUTURE_PENDING) {
        return 0;
    }
    return result != NULL ? finish(task, result)
           : exc != NULL  ? finish_raised(task, exc)
                          : finish_cancelled(task);
}

/* The coroutine raised.  0, or -1 with an exception for the loop. */
static int
fail(al_future *task)
{
    const al_state *st = al_future_state(task);
    if (AL_UNLIKELY(!PyErr_Occurred())) {
        /* Out of memory, CPython's interpreter loop can fail without saying why. */
        PyErr_SetString(PyExc_SystemError, "the coroutine failed without an exception");
    }
    if (PyErr_ExceptionMatches(st->CancelledError)) {
        /* Kept, so that whoever awaits the task sees where it was cancelled. */
        PyObject *cancelled = al_err_take();
        Py_XSETREF(task->cancelled_exc, cancelled); /* escapes */
        return finish_cancelled(task);
    }
    PyObject *exc = al_err_take();
    int status = finish_raised(task, exc); /* escapes */
    Py_XDECREF(exc);
    return status;
}

/* The step broke off.  For want of memory, the coroutine hears of it at its next step: a
 * task that nobody wakes would neither go on nor end.  0, or -1 with the exception. */
static int
throw_shortage(al_future *task)
{
    if (task->state != AL_FUTURE_PENDING || task->fut_waiter != NULL ||
        !PyErr_ExceptionMatches(PyExc_MemoryError)) {
        return -1;
    }
    PyObject *shortage = al_err_take();
    int status = step_soon(task, shortage); /* escapes */
    Py_XDECREF(shortage);
    return status;
}

/* Mirrors asyncio's task_step_impl: the task is the current one already.  Part of each
 * of its callers: a call and what it saves is a tenth of a short step. */
static AL_ALWAYS_INLINE int
step_entered(al_future *task, PyObject *exc)
{
    al_state *st = al_future_state(task);
    if (AL_UNLIKELY(task->state != AL_FUTURE_PENDING)) {
        PyErr_Format(st->InvalidStateError, STEP_NAME ": already done: %R %R", task,
                     exc == NULL ? Py_None : exc); /* escapes */
        return -1;
    }
    PyObject *made = NULL;
    if (AL_UNLIKELY(task->must_cancel)) {
        if (exc == NULL || !PyErr_GivenExceptionMatches(exc, st->CancelledError)) {
            exc = made = al_future_make_cancelled_error(task); /* escapes */
            if (made == NULL) {
                Py_CLEAR(task->fut_waiter); /* escapes */
                return throw_shortage(task);
            }
        }
        task->must_cancel = false;
    }
    Py_CLEAR(task->fut_waiter); /* escapes */
    PyObject *coro = Py_XNewRef(task->coro);
    if (AL_UNLIKELY(coro == NULL)) {
        Py_XDECREF(made);
        PyErr_SetString(PyExc_RuntimeError, "uninitialized Task object");
        return -1;
    }
    PyObject *result = NULL;
    PySendResult sent = AL_LIKELY(exc == NULL)
                            ? PyIter_Send(coro, Py_None, &result)
                            : throw_into(st, coro, exc, &result); /* escapes */
    Py_DECREF(coro);
    Py_XDECREF(made);
    int status;
    if (sent == PYGEN_NEXT) {
        status = handle_yielded(task, result);
        if (AL_UNLIKELY(status < 0)) {
            status = throw_shortage(task); /* escapes */
        }
    }
    else if (sent == PYGEN_RETURN) {
        status = finish(task, result);
    }
    else {
        return fail(task);
    }
    Py_DECREF(result); /* escapes */
    return status;
}

/* A step by hand.  What is entered is also left, whatever the step does to the task (a
 * second __init__, say). */
static int
task_step(al_future *task, PyObject *exc)
{
    al_state *st = al_future_state(task);
    PyObject *loop = Py_XNewRef(task->loop_obj);
    int status = -1;
    if (loop == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "uninitialized Task object");
    }
    else if (al_registry_enter(st, loop, task) == 0) {
        status = step_entered(task, exc); /* escapes */
        status = al_registry_exit(st, loop, task, status);
    }
    Py_XDECREF(loop);
    return status;
}

/* The task's context is no Context, and could not be entered.  0 or -1. */
static int
run_step_foreign(al_loop *loop, al_future *task, PyObject *exc)
{
    PyObject *context = Py_NewRef(task->context);
    al_sched_settle(loop); /* The step enters by hand. */
    PyObject *step = step_object_new(task, exc);
    int status = step == NULL ? -1 : al_context_run(context, step, NULL); /* escapes */
    Py_XDECREF(step);
    Py_DECREF(context);
    return status;
}

/* A step as a slot of the loop: in the task's context, which an empty one borrows of the
 * loop.  It is the task's own meanwhile, so that Task.get_context() is right.  0, -1, or
 * NOT_ENTERED without memory for that context. */
static AL_ALWAYS_INLINE int
run_step(al_loop *loop, al_future *task, PyObject *exc)
{
    PyThreadState *thread = PyThreadState_Get();
    bool lent = task->context == NULL;
    int status = -1;
    loop->counts.steps++;
    PyObject *entered = al_context_enter_idle(loop, task->context);
    if (AL_UNLIKELY(entered == NULL)) {
        return lent ? NOT_ENTERED
               : al_context_is_foreign(task->context)
                   ? run_step_foreign(loop, task, exc)
                   : -1; /* escapes */
    }
    if (lent) {
        task->context = Py_NewRef(entered);
    }
    if (AL_UNLIKELY(loop != task->loop)) {
        status = task_step(task, exc); /* A second __init__ took it to another loop. */
    }
    else if (AL_LIKELY(al_registry_enter_slot(loop, thread, task) == 0)) { /* escapes */
        status = step_entered(task, exc);                                  /* escapes */
        status = al_registry_exit_slot(loop, thread, task, status);
    }
    else {
        if (PyErr_ExceptionMatches(PyExc_MemoryError)) {
            Py_CLEAR(task->fut_waiter); /* escapes */
        }
        status = throw_shortage(task); /* escapes */
    }
    bool spare = lent && task->context == entered && al_context_unused(entered, 3);
    if (spare) {
        task->context = NULL;
        Py_DECREF(entered); /* There is another reference. */
    }
    bool wanted = task->state == AL_FUTURE_PENDING;
    return al_context_leave_idle_steal(loop, thread, entered, spare, wanted) < 0
               ? -1
               : status;
}

/* What the task is to be thrown now that `future` is done: NULL for nothing, else a new
 * reference in *exc.  Mirrors the beginning of asyncio's task_wakeup.  0 or -1. */
static int
take_outcome(al_future *task, PyObject *future, PyObject **exc)
{
    al_state *st = al_future_state(task);
    int outcome;
    *exc = NULL;
    if (AL_LIKELY(al_future_exact(st, future))) {
        al_future *ours = (al_future *)(void *)future;
#if PY_VERSION_HEX >= 0x030E0000
        if (al_registry_discard_awaited_by(st, ours, task) < 0) {
            return -1;
        }
#endif
        outcome = al_future_outcome(ours, exc);
    }
    else {
#if PY_VERSION_HEX >= 0x030E0000
        PyObject *pair[2] = {future, (PyObject *)task};
        PyObject *discarded =
            PyObject_Vectorcall(st->discard_awaited_by, pair, 2, NULL);
        if (discarded == NULL) {
            return -1;
        }
        Py_DECREF(discarded);
#endif
        PyObject *result =
            PyObject_CallMethodNoArgs(future, st->str.result); /* escapes */
        outcome = result == NULL ? -1 : 0;
        Py_XDECREF(result);
    }
    if (outcome < 0) {
        *exc = al_err_take();
    }
    return 0;
}

/* --- slots --------------------------------------------------------------------------- */

/* The pending exception came out of a slot: it is reported as that of a handle for
 * callable(arg), where `callable` is the slot's Python form (stolen; NULL with another
 * exception if that could not be made). */
static int
report_slot(al_loop *loop, al_future *task, PyObject *(*make)(al_future *, PyObject *),
            PyObject *made_of, PyObject *arg)
{
    if (al_report_must_leave()) {
        return -1;
    }
    PyObject *saved = al_err_take();
    PyObject *callable = make(task, made_of);
    if (callable != NULL) {
        al_err_put_steal(saved);
    }
    else {
        Py_XDECREF(saved); /* No memory even to name the slot: that is raised. */
    }
    int status =
        al_future_report(loop, callable, arg, al_task_context(task)); /* escapes */
    Py_XDECREF(callable);
    return status;
}

static PyObject *
make_wakeup(al_future *task, PyObject *Py_UNUSED(unused))
{
    return al_task_wakeup_new((PyObject *)task);
}

int
al_task_step_run(al_loop *loop, PyObject *op, PyObject *exc, PyObject *Py_UNUSED(extra))
{
    al_future *task = (al_future *)(void *)op;
    int status = run_step(loop, task, exc); /* escapes */
    return AL_LIKELY(status == 0) ? 0
           : status == NOT_ENTERED
               ? al_sched_put_back(loop, al_task_step_run, op, exc, NULL)
               : report_slot(loop, task, step_object_new, exc, NULL);
}

int
al_task_wakeup_run(al_loop *loop, PyObject *op, PyObject *future,
                   PyObject *Py_UNUSED(extra))
{
    al_future *task = (al_future *)(void *)op;
    PyObject *exc;
    int status = take_outcome(task, future, &exc);
    if (AL_LIKELY(status == 0)) {
        status = run_step(loop, task, exc); /* escapes */
        Py_XDECREF(exc);
    }
    return AL_LIKELY(status == 0) ? 0
           : status == NOT_ENTERED
               ? al_sched_put_back(loop, al_task_wakeup_run, op, future, NULL)
               : report_slot(loop, task, make_wakeup, NULL, future);
}

static PyObject *
coro_of(PyObject *task)
{
    return ((al_future *)(void *)task)->coro;
}

static PyObject *
name_of(PyObject *task)
{
    return ((al_future *)(void *)task)->name;
}

/* What asyncio's Handles for a step and a wake-up hold (al_describe_fns). */
static int
describe_step(al_loop *Py_UNUSED(loop), const al_slot *slot, PyObject **callback,
              PyObject **Py_UNUSED(args), PyObject **context)
{
    al_future *task = (al_future *)(void *)slot->self;
    *context = Py_XNewRef(al_task_context(task));
    PyObject *exc = slot->run == al_task_step_run ? slot->arg : NULL;
    *callback = *context == NULL ? NULL : step_object_new(task, exc);
    if (*callback == NULL) {
        Py_CLEAR(*context);
        return -1;
    }
    return 0;
}

static int
describe_wakeup(al_loop *Py_UNUSED(loop), const al_slot *slot, PyObject **callback,
                PyObject **args, PyObject **context)
{
    al_future *task = (al_future *)(void *)slot->self;
    *context = Py_XNewRef(al_task_context(task));
    *args = *context == NULL ? NULL : PyTuple_Pack(1, slot->arg);
    *callback = *args == NULL ? NULL : al_task_wakeup_new(slot->self);
    if (*callback == NULL) {
        Py_CLEAR(*args);
        Py_CLEAR(*context);
        return -1;
    }
    return 0;
}

/* Runs the first step inside the constructor, as asyncio's task_eager_start does. */
static int
eager_start(al_state *st, al_future *task)
{
    PyObject *previous, *current;
    PyObject *loop_obj = Py_NewRef(task->loop_obj);
    PyObject *context = Py_NewRef(task->context);
    int status = al_registry_swap(st, loop_obj, (PyObject *)task, &previous);
    if (status < 0) {
        goto done;
    }
    status = al_registry_link(st, task);
    if (status == 0) {
        status = PyContext_Enter(context);
        if (status == 0) {
            status = step_entered(task, NULL); /* escapes */
            if (PyContext_Exit(context) < 0) {
                status = -1;
            }
        }
    }
    PyObject *exc = status < 0 ? al_err_take() : NULL;
    if (al_registry_swap(st, loop_obj, previous, &current) < 0) {
        status = -1;
    }
    else {
        Py_XDECREF(current);
    }
    Py_XDECREF(previous);
    if (exc != NULL) {
        al_err_put_steal(exc);
    }
    if (task->state != AL_FUTURE_PENDING) {
        Py_CLEAR(task->coro); /* escapes */
    }

done:
#if PY_VERSION_HEX >= 0x030F0000
    if (status < 0) {
        task->log_destroy_pending = false;
    }
#endif
    Py_DECREF(loop_obj);
    Py_DECREF(context);
    return status;
}

/* --- making --------------------------------------------------------------------------- */

static int
check_coroutine(al_state *st, PyObject *coro)
{
    if (AL_LIKELY(PyCoro_CheckExact(coro))) {
        return 1;
    }
    PyObject *answer = PyObject_CallOneArg(st->iscoroutine, coro); /* escapes */
    int is_coroutine = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    return is_coroutine;
}

static int
loop_is_running(al_state *st, const al_future *task)
{
    if (task->loop != NULL) {
        return AL_LOAD(task->loop->thread_id) != 0;
    }
    PyObject *loop_obj = Py_NewRef(task->loop_obj);
    PyObject *answer =
        PyObject_CallMethodNoArgs(loop_obj, st->str.is_running); /* escapes */
    int running = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    Py_DECREF(loop_obj);
    return running;
}

/* A context given by the caller; None and NULL: a copy of the current one.  A copy of an
 * empty one is made when somebody asks for it.  But 3.12 and 3.13 dereference the base's
 * word for the context in asyncio.Task.get_context(task). */
static int
choose_context(al_future *task, PyObject *context, bool eager, PyObject **chosen)
{
    if (context == NULL || context == Py_None) {
#if PY_VERSION_HEX < 0x030C0000 || PY_VERSION_HEX >= 0x030E0000
        if (!eager && task->loop != NULL && al_context_current_is_empty()) {
            *chosen = NULL;
            return 0;
        }
#else
        (void)eager, (void)task;
#endif
        *chosen = PyContext_CopyCurrent();
        return *chosen == NULL ? -1 : 0;
    }
#if PY_VERSION_HEX >= 0x030F0000
    if (!PyContext_CheckExact(context)) {
        task->log_destroy_pending = false;
        PyErr_Format(PyExc_TypeError, "a contextvars.Context was expected, got %T",
                     context);
        return -1;
    }
#endif
    *chosen = Py_NewRef(context);
    return 0;
}

/* Gives the int the value if nobody else can know it, who would take it for a constant.
 * Says so. */
static bool
renumber(PyObject *number, uint64_t value)
{
    if (Py_REFCNT(number) != 1 || !PyLong_CheckExact(number) || value > PyLong_MASK) {
        return false;
    }
    PyLongObject *digits = (PyLongObject *)(void *)number;
#if PY_VERSION_HEX >= 0x030C0000
    if (!PyUnstable_Long_IsCompact(digits)) {
        return false;
    }
    digits->long_value.ob_digit[0] = (digit)value;
#else
    if (Py_SIZE(digits) != 1) {
        return false;
    }
    digits->ob_digit[0] = (digit)value;
#endif
    return true;
}

static int
choose_name(al_future *task, al_state *st, PyObject *name)
{
    if (name == NULL || name == Py_None) {
        /* The text is made when somebody asks for it. */
        uint64_t number = al_names_next(st, task->loop); /* escapes */
        if (number == 0) {
            return -1;
        }
        if (task->name != NULL && renumber(task->name, number)) {
            return 0;
        }
        name = PyLong_FromUnsignedLongLong(number);
    }
    else {
        name = PyUnicode_CheckExact(name) ? Py_NewRef(name)
                                          : PyObject_Str(name); /* escapes */
    }
    if (name == NULL) {
        return -1;
    }
    Py_XSETREF(task->name, name);
    return 0;
}

/* The part of the constructor behind al_future_init. */
static int
start(al_future *self, al_state *st, PyObject *coro, PyObject *name, PyObject *context,
      bool eager)
{
    self->is_task = true;
#if PY_VERSION_HEX >= 0x030E0000
    self->base_is_task = 1;
#endif
    int is_coroutine = check_coroutine(st, coro);
    if (is_coroutine <= 0) {
        self->log_destroy_pending = false;
        if (is_coroutine == 0) {
            PyErr_Format(PyExc_TypeError, "a coroutine was expected, got %R", coro);
        }
        return -1;
    }
    self->cancel_requests = 0;
    self->must_cancel = false;
    self->log_destroy_pending = true;
    if (choose_context(self, context, eager, &context) < 0) {
        return -1;
    }
    Py_XSETREF(self->context, context);
    Py_XSETREF(self->coro, Py_NewRef(coro));
    if (choose_name(self, st, name) < 0) {
        return -1;
    }
    if (AL_LIKELY(self->loop != NULL)) {
        AL_ADD(self->loop->counts.tasks_made, 1);
    }
    if (AL_UNLIKELY(eager)) {
        int running = loop_is_running(st, self);
        if (running != 0) {
            return running < 0 || al_future_check_thread(self) < 0
                       ? -1
                       : eager_start(st, self);
        }
    }
    return step_soon(self, NULL) < 0 ? -1 : al_registry_link(st, self);
}

PyObject *
al_task_new(al_loop *loop, PyObject *coro, PyObject *name, PyObject *context, int eager)
{
    al_state *st = loop->st;
    al_future *self = al_future_alloc(st, st->Task_type);
    if (self == NULL) {
        return NULL;
    }
    self->is_task = true;
    if (al_future_init(self, st, (PyObject *)loop) < 0 ||
        start(self, st, coro, name, context, eager == 1) < 0) { /* escapes */
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyObject *
Task_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    al_state *st = al_state_of(type);
    al_future *self = st == NULL ? NULL : al_future_alloc(st, type);
    if (self != NULL) {
        self->is_task = true;
        Py_CLEAR(self->name);
    }
    return (PyObject *)self;
}

static int
Task_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    char coro_name[] = "coro", loop_name[] = "loop", name_name[] = "name",
         context_name[] = "context";
    PyObject *coro, *loop = Py_None, *name = Py_None, *context = Py_None;
    int eager = 0;
    Py_ssize_t given =
        PyTuple_GET_SIZE(args) + (kwargs == NULL ? 0 : PyDict_GET_SIZE(kwargs));
    if (PyTuple_GET_SIZE(args) > 1 && given <= (PY_VERSION_HEX >= 0x030C0000 ? 5 : 4)) {
        PyErr_Format(PyExc_TypeError,
                     "Task() takes exactly 1 positional argument (%zd given)",
                     PyTuple_GET_SIZE(args));
        return -1;
    }
#if PY_VERSION_HEX >= 0x030C0000
    char eager_name[] = "eager_start";
    char *names[] = {coro_name, loop_name, name_name, context_name, eager_name, NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$OOOp:Task", names, &coro, &loop,
                                     &name, &context, &eager)) {
        return -1;
    }
#else
    char *names[] = {coro_name, loop_name, name_name, context_name, NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$OOO:Task", names, &coro, &loop,
                                     &name, &context)) {
        return -1;
    }
#endif
    al_future *self = (al_future *)(void *)op;
    al_state *st = al_state_of(Py_TYPE(op));
    if (st == NULL || al_future_init(self, st, loop) < 0) { /* escapes */
        return -1;
    }
    return start(self, st, coro, name, context, eager != 0);
}

/* Task(coro, loop=loop) and its other names, without a tuple or a dict. */
static PyObject *
Task_vectorcall(PyObject *callable, PyObject *const *args, size_t nargsf,
                PyObject *kwnames)
{
    static const char *const known[] = {"loop", "name", "context"};
    PyTypeObject *type = (PyTypeObject *)(void *)callable;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    Py_ssize_t n = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    PyObject *values[3] = {Py_None, Py_None, Py_None};
    bool eager = false, simple = nargs == 1;
    for (Py_ssize_t i = 0; simple && i < n; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        PyObject *value = args[nargs + i];
        int at = 0;
        while (at < 3 && PyUnicode_CompareWithASCIIString(name, known[at]) != 0) {
            at++;
        }
        if (at < 3) {
            values[at] = value;
            continue;
        }
#if PY_VERSION_HEX >= 0x030C0000
        simple = PyBool_Check(value) &&
                 PyUnicode_CompareWithASCIIString(name, "eager_start") == 0;
        eager = value == Py_True;
#else
        simple = false;
#endif
    }
    if (!simple) {
        return al_future_call_type(type, args, nargs, kwnames);
    }
    al_state *st = PyType_GetModuleState(type);
    al_future *self = al_future_alloc(st, type);
    if (self == NULL) {
        return NULL;
    }
    self->is_task = true;
    if (al_future_init(self, st, values[0]) < 0 ||
        start(self, st, args[0], values[1], values[2], eager) < 0) { /* escapes */
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

/* --- cancelling ------------------------------------------------------------------------ */

/* Keeps where cancel() is called.  0 or -1.  Escapes. */
static int
note_cancel(al_future *self)
{
    PyObject *stack = al_debug_capture(self->loop->st, self->loop); /* escapes */
    if (stack == NULL) {
        return -1;
    }
    if (self->state == AL_FUTURE_PENDING) {
        Py_XSETREF(*al_future_cancel_stack(self), stack); /* escapes */
    }
    else {
        Py_DECREF(stack); /* escapes */
    }
    return 0;
}

int
al_task_cancel(al_future *self, PyObject *message)
{
    if (self->state == AL_FUTURE_PENDING && self->loop != NULL &&
        AL_UNLIKELY(AL_LOAD(self->loop->debug.switches) & AL_DEBUG_CANCELS) &&
        note_cancel(self) < 0) { /* escapes */
        return -1;
    }
    self->log_traceback = false;
    if (self->state != AL_FUTURE_PENDING) {
        return 0;
    }
    self->cancel_requests++;
    if (self->fut_waiter != NULL) {
        /* It stays the waiter even if it is cancelled: it may be a task that refuses,
         * and then it has to be asked again. */
        al_state *st = al_future_state(self);
        PyObject *waiter = Py_NewRef(self->fut_waiter);
        PyObject *answer =
            PyObject_CallMethodOneArg(waiter, st->str.cancel, message); /* escapes */
        Py_DECREF(waiter);
        int cancelled = answer == NULL ? -1 : PyObject_IsTrue(answer);
        Py_XDECREF(answer);
        if (cancelled != 0) {
            return cancelled;
        }
    }
    /* A step is queued, or running: it throws, or passes the cancellation on. */
    self->must_cancel = true;
    Py_XSETREF(self->cancel_message, Py_NewRef(message)); /* escapes */
    return 1;
}

PyDoc_STRVAR(
    cancel_doc,
    "cancel($self, /, msg=None)\n--\n\n"
    "Request that this task cancel itself.\n\n"
    "A CancelledError made with msg is thrown into the coroutine in the next\n"
    "turn of the loop; the coroutine may clean up, or refuse. Returns False if\n"
    "the task is done. Each request counts for cancelling().\n\n"
    "Source: asyncio.Task.cancel.");

static PyObject *
Task_cancel(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *message = al_future_parse_cancel(args, nargs, kwnames);
    al_future *self = (al_future *)(void *)op;
    int cancelled;
    AL_CRITICAL_BEGIN(op);
    cancelled = message == NULL || al_future_check_thread(self) < 0
                    ? -1
                    : al_task_cancel(self, message); /* escapes */
    AL_CRITICAL_END();
    return cancelled < 0 ? NULL : PyBool_FromLong(cancelled);
}

PyDoc_STRVAR(cancelling_doc, "cancelling($self, /)\n--\n\n"
                             "Return how many cancellation requests there are.\n\n"
                             "cancel() adds one, uncancel() takes one away.");

static PyObject *
Task_cancelling(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(((al_future *)(void *)op)->cancel_requests);
}

PyDoc_STRVAR(uncancel_doc,
             "uncancel($self, /)\n--\n\n"
             "Take one cancellation request away; return how many remain.\n\n"
             "For code that caught a CancelledError and goes on.\n\n"
             "Source: asyncio.Task.uncancel.");

static PyObject *
Task_uncancel(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    al_future *self = (al_future *)(void *)op;
    if (al_future_check_thread(self) < 0) {
        return NULL;
    }
    if (self->cancel_requests > 0) {
        self->cancel_requests--;
#if PY_VERSION_HEX >= 0x030D0000
        if (self->cancel_requests == 0) {
            self->must_cancel = false;
        }
#endif
    }
    return PyLong_FromLong(self->cancel_requests);
}

/* --- methods --------------------------------------------------------------------------- */

static PyObject *
Task_set_result(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(result))
{
    PyErr_SetString(PyExc_RuntimeError, "Task does not support set_result operation");
    return NULL;
}

static PyObject *
Task_set_exception(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(exc))
{
    PyErr_SetString(PyExc_RuntimeError,
                    "Task does not support set_exception operation");
    return NULL;
}

PyDoc_STRVAR(get_coro_doc, "get_coro($self, /)\n--\n\n"
                           "Return the coroutine, or None if it was finished eagerly.");

static PyObject *
Task_get_coro(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    al_future *self = (al_future *)(void *)op;
    return al_future_word(self, &self->coro);
}

#if PY_VERSION_HEX >= 0x030C0000
PyDoc_STRVAR(get_context_doc, "get_context($self, /)\n--\n\n"
                              "Return the contextvars.Context the coroutine runs in.");

static PyObject *
Task_get_context(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    al_future *self = (al_future *)(void *)op;
    return self->coro == NULL || al_future_is_foreign(self)
               ? al_future_word(self, &self->context)
               : Py_XNewRef(al_task_context(self));
}
#endif

PyDoc_STRVAR(get_name_doc, "get_name($self, /)\n--\n\nReturn the task's name.");

static PyObject *
Task_get_name(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    al_future *self = (al_future *)(void *)op;
    PyObject *name = al_future_word(self, &self->name);
    if (PyLong_CheckExact(name)) {
        Py_SETREF(name, PyUnicode_FromFormat("Task-%S", name));
        if (name != NULL && !al_future_is_foreign(self)) {
            Py_SETREF(self->name, Py_NewRef(name));
        }
    }
    return name;
}

PyDoc_STRVAR(set_name_doc, "set_name($self, value, /)\n--\n\n"
                           "Set the task's name to str(value).");

static PyObject *
Task_set_name(PyObject *op, PyObject *value)
{
    al_future *self = (al_future *)(void *)op;
    if (al_future_check_thread(self) < 0) {
        return NULL;
    }
    PyObject *name = PyUnicode_CheckExact(value) ? Py_NewRef(value)
                                                 : PyObject_Str(value); /* escapes */
    if (name == NULL) {
        return NULL;
    }
    Py_XSETREF(self->name, name);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    get_stack_doc,
    "get_stack($self, /, *, limit=None)\n--\n\n"
    "Return the list of frames the coroutine is suspended in, oldest first.\n\n"
    "It is empty once the coroutine has returned or was cancelled, and holds\n"
    "the traceback's frames if it raised. limit is the greatest number of\n"
    "frames: the newest of a stack, the oldest of a traceback.\n\n"
    "Source: asyncio.Task.get_stack.");

static PyObject *
Task_get_stack(PyObject *op, PyObject *args, PyObject *kwargs)
{
    char limit_name[] = "limit";
    char *names[] = {limit_name, NULL};
    PyObject *limit = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$O:get_stack", names, &limit)) {
        return NULL;
    }
    al_state *st = al_future_state((al_future *)(void *)op);
    PyObject *stack[2] = {op, limit};
    return PyObject_Vectorcall(st->task_get_stack, stack, 2, NULL); /* escapes */
}

PyDoc_STRVAR(print_stack_doc,
             "print_stack($self, /, *, limit=None, file=None)\n--\n\n"
             "Print the frames of get_stack(limit=limit) as a traceback.\n\n"
             "file is a text stream; None means sys.stderr.\n\n"
             "Source: asyncio.Task.print_stack.");

static PyObject *
Task_print_stack(PyObject *op, PyObject *args, PyObject *kwargs)
{
    char limit_name[] = "limit", file_name[] = "file";
    char *names[] = {limit_name, file_name, NULL};
    PyObject *limit = Py_None, *file = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$OO:print_stack", names, &limit,
                                     &file)) {
        return NULL;
    }
    al_state *st = al_future_state((al_future *)(void *)op);
    PyObject *stack[3] = {op, limit, file};
    return PyObject_Vectorcall(st->task_print_stack, stack, 3, NULL); /* escapes */
}

static PyObject *
Task_repr(PyObject *op)
{
    al_future *self = (al_future *)(void *)op;
    if (!al_future_alive(self)) {
        PyErr_SetString(PyExc_RuntimeError, "Future object is not initialized.");
        return NULL;
    }
    return PyObject_CallOneArg(al_future_state(self)->task_repr, op); /* escapes */
}

/* --- attributes that asyncio and tools read ------------------------------------------ */

static PyObject *
task_get_coro(PyObject *op, void *Py_UNUSED(closure))
{
    al_future *self = (al_future *)(void *)op;
    return al_future_word(self, &self->coro);
}

static PyObject *
task_get_fut_waiter(PyObject *op, void *Py_UNUSED(closure))
{
    al_future *self = (al_future *)(void *)op;
    PyObject *waiter = al_future_word(self, &self->fut_waiter);
    if (al_future_is_foreign(self)) {
        /* For a repr, which looks into it: asyncio's own have no locks before 3.14, so that
         * of a gather() that another thread is completing would end the process. */
        const al_state *st = al_future_state(self);
        if (!PyObject_TypeCheck(waiter, st->Future_type) &&
            !PyObject_TypeCheck(waiter, st->Task_type)) {
            Py_SETREF(waiter, Py_NewRef(Py_None)); /* escapes */
        }
    }
    return waiter;
}

static PyObject *
task_get_must_cancel(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((al_future *)(void *)op)->must_cancel);
}

static PyObject *
task_get_log_destroy_pending(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((al_future *)(void *)op)->log_destroy_pending);
}

static int
task_set_log_destroy_pending(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "cannot delete attribute");
        return -1;
    }
    int wanted = PyObject_IsTrue(value); /* escapes */
    if (wanted < 0) {
        return -1;
    }
    ((al_future *)(void *)op)->log_destroy_pending = wanted != 0;
    return 0;
}

/* --- the end ---------------------------------------------------------------------------- */

void
al_task_finalize(PyObject *op)
{
    al_future *self = (al_future *)(void *)op;
    al_registry_unlink(self);
    if (self->state == AL_FUTURE_PENDING && self->loop != NULL && self->coro != NULL) {
        AL_ADD(self->loop->counts.tasks_lost, 1);
    }
    if (self->state == AL_FUTURE_PENDING && self->log_destroy_pending &&
        al_future_alive(self)) {
        al_state *st = al_future_state(self);
        if (st->Task_type == NULL) {
            return; /* The module has been cleared: the interpreter is shutting down. */
        }
        PyObject *saved = al_err_take();
        PyObject *loop = Py_NewRef(self->loop_obj);
        PyObject *message =
            PyUnicode_FromString("Task was destroyed but it is pending!");
        PyObject *traceback = al_stack_read_present(st, &self->source_traceback);
        if (traceback == NULL && PyErr_Occurred()) {
            Py_CLEAR(message);
        }
        al_misuse_found(st, loop, AL_PENDING_TASK, op, traceback); /* escapes */
        PyObject *cancelled =
            message == NULL ? NULL : al_future_cancel_told(st, self); /* escapes */
        if (al_report_context(st, loop, message, "task", op, "source_traceback",
                              traceback, "cancelled_from", cancelled,
                              NULL) < 0) { /* escapes */
            PyErr_WriteUnraisable(loop);
        }
        Py_XDECREF(cancelled);
        Py_XDECREF(traceback);
        Py_DECREF(loop);
        al_err_put_steal(saved);
    }
    al_future_finalize(op);
}

/* --- the types -------------------------------------------------------------------------- */

PyDoc_STRVAR(set_result_doc, "set_result($self, result, /)\n--\n\n"
                             "Raise RuntimeError: the coroutine gives the result.");
PyDoc_STRVAR(set_exception_doc, "set_exception($self, exception, /)\n--\n\n"
                                "Raise RuntimeError: the coroutine gives the outcome.");

static PyMethodDef task_methods[] = {
    {"set_result", Task_set_result, METH_O, set_result_doc},
    {"set_exception", Task_set_exception, METH_O, set_exception_doc},
    {"cancel", (PyCFunction)(void (*)(void))Task_cancel, METH_FASTCALL | METH_KEYWORDS,
     cancel_doc},
    {"cancelling", Task_cancelling, METH_NOARGS, cancelling_doc},
    {"uncancel", Task_uncancel, METH_NOARGS, uncancel_doc},
    {"get_coro", Task_get_coro, METH_NOARGS, get_coro_doc},
#if PY_VERSION_HEX >= 0x030C0000
    {"get_context", Task_get_context, METH_NOARGS, get_context_doc},
#endif
    {"get_name", Task_get_name, METH_NOARGS, get_name_doc},
    {"set_name", Task_set_name, METH_O, set_name_doc},
    {"get_stack", (PyCFunction)(void (*)(void))Task_get_stack,
     METH_VARARGS | METH_KEYWORDS, get_stack_doc},
    {"print_stack", (PyCFunction)(void (*)(void))Task_print_stack,
     METH_VARARGS | METH_KEYWORDS, print_stack_doc},
    AL_FUTURE_METHODS{NULL, NULL, 0, NULL},
};

static PyGetSetDef task_getsets[] = {
    {"_coro", task_get_coro, NULL, NULL, NULL},
    {"_fut_waiter", task_get_fut_waiter, NULL, NULL, NULL},
    {"_must_cancel", task_get_must_cancel, NULL, NULL, NULL},
    {"_log_destroy_pending", task_get_log_destroy_pending, task_set_log_destroy_pending,
     NULL, NULL},
    AL_FUTURE_GETSETS{NULL, NULL, NULL, NULL, NULL},
};

#if PY_VERSION_HEX >= 0x030C0000
#define TASK_SIGNATURE                                                                 \
    "Task(coro, *, loop=None, name=None, context=None, eager_start=False)\n--\n\n"
#define TASK_EAGER_DOC                                                                 \
    " With eager_start the first step runs\n"                                          \
    "at once if the loop is running."
#else
#define TASK_SIGNATURE "Task(coro, *, loop=None, name=None, context=None)\n--\n\n"
#define TASK_EAGER_DOC
#endif

static char task_doc[] =
    TASK_SIGNATURE "A coroutine that the event loop runs; an asyncio.Task.\n\n"
                   "name defaults to \"Task-N\", context to a copy of the current\n"
                   "contextvars.Context." TASK_EAGER_DOC;

static PyType_Slot task_slots[] = {
    {Py_tp_doc, task_doc},
    {Py_tp_new, Task_new},
    {Py_tp_init, Task_init},
    {Py_tp_dealloc, al_future_dealloc},
    {Py_tp_traverse, al_future_traverse},
    {Py_tp_clear, al_future_clear_fields},
    {Py_tp_finalize, al_task_finalize},
    {Py_tp_repr, Task_repr},
    {Py_tp_iter, al_await_new},
    {Py_am_await, al_await_new},
    {Py_tp_methods, task_methods},
    {Py_tp_getset, task_getsets},
    {0, NULL},
};

static PyType_Spec task_spec = {
    .name = "aioloop.Task",
    .basicsize = sizeof(al_future),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = task_slots,
};

int
al_task_init_types(PyObject *module, al_state *st)
{
    int known = al_future_add_type(module, st, AL_LAYOUT_TASK, &st->Task_type,
                                   &task_spec, st->asyncio_Task, AL_TASK_BASE_BYTES);
#if PY_VERSION_HEX >= 0x030E0000
    if (known == 1) {
        known = al_registry_task_matches(st);
        if (known == 0) {
            Py_CLEAR(st->Task_type);
            al_layout_turn_off(st, AL_LAYOUT_TASK);
        }
    }
#endif
    if (known < 0) {
        return -1;
    }
    if (known) {
        st->Task_type->tp_vectorcall = Task_vectorcall;
    }
    st->task_coro = coro_of;
    st->task_of_callback = al_task_of_callback;
    st->task_name = name_of;
    if (al_debug_describe(st, al_task_step_run, describe_step, 0) < 0 ||
        al_debug_describe(st, finish_run, describe_step, 0) < 0 ||
        al_debug_describe(st, al_task_wakeup_run, describe_wakeup, 0) < 0) {
        return -1;
    }
    return al_state_add_type(module, &st->TaskStep_type, &step_object_spec, NULL);
}
