/* debug.c: see debug.h. */
#include "core/debug.h"

#include "core/handle.h"
#include "core/sched.h"

static PyObject *
extract(al_state *st, PyObject *function)
{
    PyFrameObject *frame = PyThreadState_GetFrame(PyThreadState_Get());
    if (frame == NULL) {
        /* No Python code on this thread: asyncio's helpers would look above their own
         * frame and find nothing either. */
        return PyObject_CallNoArgs(st->StackSummary);
    }
    PyObject *result = PyObject_CallOneArg(function, (PyObject *)frame); /* escapes */
    Py_DECREF(frame);
    return result;
}

PyObject *
al_debug_handle_traceback(al_state *st)
{
    return extract(st, st->extract_stack);
}

PyObject *
al_debug_future_traceback(al_state *st)
{
    return extract(st, st->traceback_extract_stack);
}

int
al_debug_of_loop(al_state *st, PyObject *loop)
{
    if (loop == NULL || loop == Py_None) {
        return 0;
    }
    const al_loop *ours = al_loop_check(st, loop);
    if (ours != NULL) {
        return ours->debug;
    }
    PyObject *result = PyObject_CallMethodNoArgs(loop, st->str.get_debug); /* escapes */
    if (result == NULL) {
        return -1;
    }
    int debug = PyObject_IsTrue(result);
    Py_DECREF(result);
    return debug;
}

int
al_debug_warn(al_state *st, const char *format, PyObject *first, PyObject *second)
{
    PyObject *logger = PyObject_GetAttr(st->base_events, st->str.logger);
    if (logger == NULL) {
        return -1;
    }
    PyObject *text = PyUnicode_FromString(format);
    PyObject *result =
        text == NULL ? NULL
                     : PyObject_CallMethodObjArgs(logger, st->str.warning, text, first,
                                                  second, NULL); /* escapes */
    Py_XDECREF(text);
    Py_DECREF(logger);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Logs "Executing %s took %.3f seconds" as BaseEventLoop._run_once does. */
static int
log_slow(al_loop *loop, const al_slot *slot, double seconds)
{
    al_state *st = loop->st;
    PyObject *what = al_handle_check(st, slot->self)
                         ? PyObject_CallOneArg(st->format_handle, slot->self)
                         : PyObject_Repr(slot->self); /* escapes */
    if (what == NULL) {
        return -1;
    }
    PyObject *duration = PyFloat_FromDouble(seconds);
    int status = duration == NULL ? -1
                                  : al_debug_warn(st, "Executing %s took %.3f seconds",
                                                  what, duration);
    Py_DECREF(what);
    Py_XDECREF(duration);
    return status;
}

int
al_debug_run(al_loop *loop, const al_slot *slot)
{
    double before, after;
    if (al_sched_time(loop, &before) < 0) {
        return -1;
    }
    bool handle = al_handle_check(loop->st, slot->self);
    Py_XSETREF(loop->current_handle, handle ? Py_NewRef(slot->self) : NULL);
    int status = slot->run(loop, slot->self, slot->arg, slot->extra); /* escapes */
    if (status == 0) {
        status = al_sched_time(loop, &after);
    }
    if (status == 0) {
        double limit = PyFloat_AsDouble(loop->slow_callback_duration);
        if (limit == -1.0 && PyErr_Occurred()) {
            status = -1;
        }
        else if (after - before >= limit) {
            status = log_slow(loop, slot, after - before); /* escapes */
        }
    }
    PyObject *current = loop->current_handle;
    loop->current_handle = NULL;
    Py_XDECREF(current);
    return status;
}
