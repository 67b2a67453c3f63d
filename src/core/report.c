/* report.c: see report.h. */
#include "core/report.h"

#include <stdarg.h>

#include "core/context.h"
#include "core/sched.h"
#include "core/stack.h"

bool
al_report_must_leave(void)
{
    return PyErr_ExceptionMatches(PyExc_SystemExit) ||
           PyErr_ExceptionMatches(PyExc_KeyboardInterrupt);
}

int
al_report_context(al_state *st, PyObject *loop, PyObject *message, ...)
{
    int status = -1;
    al_loop *ours = st->EventLoop_type == NULL ? NULL : al_loop_check(st, loop);
    if (ours != NULL && (AL_LOAD(ours->thread_id) == 0 ||
                         AL_LOAD(ours->thread_id) == PyThread_get_thread_ident())) {
        /* A task that dies between two slots is reported in its own context, which must
         * not be entered any more. */
        al_sched_settle(ours);
    }
    PyObject *context = message == NULL ? NULL : PyDict_New();
    if (context == NULL || PyDict_SetItem(context, st->str.message, message) < 0) {
        goto done;
    }
    va_list pairs;
    va_start(pairs, message);
    for (const char *key; (key = va_arg(pairs, const char *)) != NULL;) {
        PyObject *value = va_arg(pairs, PyObject *);
        if (value != NULL && PyDict_SetItemString(context, key, value) < 0) {
            va_end(pairs);
            goto done;
        }
    }
    va_end(pairs);
    PyObject *result = PyObject_CallMethodOneArg(loop, st->str.call_exception_handler,
                                                 context); /* escapes */
    if (result != NULL) {
        Py_DECREF(result);
        status = 0;
    }

done:
    Py_XDECREF(context);
    Py_XDECREF(message);
    return status;
}

/* Mirrors the except branch of asyncio.events.Handle._run. */
int
al_report_handle(al_loop *loop, al_handle *handle)
{
    if (al_report_must_leave()) {
        return -1;
    }
    al_state *st = loop->st;
    al_except block;
    al_except_enter(&block);
    al_sched_settle(loop); /* asyncio reports outside of the handle's context. */
    PyObject *message = NULL, *args = NULL, *source = NULL;
    PyObject *callback = handle->callback == NULL ? Py_None : handle->callback;
    Py_INCREF(callback);
    args = PyObject_GetAttrString((PyObject *)handle, "_args");
    if (args != NULL) {
        PyObject *kwargs = NULL;
#if PY_VERSION_HEX >= 0x030D0000
        if (AL_LOAD(loop->debug.switches) & AL_DEBUG_FDS) {
            kwargs = Py_BuildValue("{s:O}", "debug", Py_True);
        }
#endif
        PyObject *positional = PyTuple_Pack(2, callback, args);
        if (positional != NULL && !PyErr_Occurred()) {
            source = PyObject_Call(st->format_callback_source, positional,
                                   kwargs); /* escapes */
        }
        Py_XDECREF(positional);
        Py_XDECREF(kwargs);
    }
    if (source != NULL) {
        message = PyUnicode_FromFormat("Exception in callback %U", source);
    }
    PyObject *traceback =
        message == NULL ? NULL : al_stack_read_present(st, &handle->source_traceback);
    if (traceback == NULL && PyErr_Occurred()) {
        Py_CLEAR(message);
    }
    int status = al_report_context(st, (PyObject *)loop, message, "exception",
                                   block.exc, "handle", handle, "source_traceback",
                                   traceback, NULL); /* escapes */
    Py_XDECREF(traceback);
    Py_DECREF(callback);
    Py_XDECREF(args);
    Py_XDECREF(source);
    al_except_leave(&block); /* escapes */
    return status;
}

int
al_report_method(al_loop *loop, PyObject *target, PyObject *name, PyObject *arg)
{
    if (al_report_must_leave()) {
        return -1;
    }
    al_except block;
    al_except_enter(&block);
    PyObject *callback = PyObject_GetAttr(target, name); /* escapes */
    al_handle *handle = NULL;
    if (callback != NULL) {
        handle = al_handle_new(loop, loop->st->Handle_type, callback, &arg,
                               arg == NULL ? 0 : 1, NULL);
        Py_DECREF(callback);
    }
    if (handle == NULL) {
        PyErr_Clear(); /* The exception itself is worth more than its origin. */
        int status = al_report_context(loop->st, (PyObject *)loop,
                                       PyUnicode_FromString("Exception in callback"),
                                       "exception", block.exc, NULL); /* escapes */
        al_except_leave(&block);
        return status;
    }
    if (loop->debug.running.slot.run != NULL) {
        /* Asked for where the slot was, not here. */
        Py_XSETREF(handle->source_traceback, Py_XNewRef(loop->debug.running.note));
    }
    al_err_put_steal(Py_XNewRef(block.exc));
    al_except_leave(&block);
    int status = al_report_handle(loop, handle); /* escapes */
    al_handle_left_queue(handle);
    Py_DECREF(handle);
    return status;
}
