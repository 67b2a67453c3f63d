/* flow.c: see flow.h. */
#include "io/flow.h"

#include "base/args.h"
#include "core/report.h"

enum { HIGH_WATER = 64 * 1024 };

void
al_flow_init(al_flow *flow)
{
    *flow = (al_flow){.high = HIGH_WATER, .low = HIGH_WATER / 4, .paused = false};
}

PyObject *
al_flow_limits(const al_flow *flow)
{
    return Py_BuildValue("nn", (Py_ssize_t)flow->low, (Py_ssize_t)flow->high);
}

static const al_signature limits_signature = {
    .function = "_FlowControlMixin.set_write_buffer_limits",
    .names = {"high", "low"},
    .positional = 2,
    .total = 2,
};

/* A mark as the bytes that we count; more than the largest size is as good as that. */
static int
to_size(PyObject *mark, size_t *size)
{
    if (PyIndex_Check(mark)) {
        Py_ssize_t number = PyNumber_AsSsize_t(mark, NULL); /* escapes */
        *size = (size_t)number;
        return number == -1 && PyErr_Occurred() ? -1 : 0;
    }
    double number = PyFloat_AsDouble(mark); /* escapes */
    if (number == -1 && PyErr_Occurred()) {
        return -1;
    }
    *size = number >= (double)PY_SSIZE_T_MAX ? PY_SSIZE_T_MAX : (size_t)number;
    return 0;
}

/* high >= low >= 0: 1, 0 or -1.  Escapes. */
static int
in_order(PyObject *high, PyObject *low, PyObject *zero)
{
    int status = PyObject_RichCompareBool(high, low, Py_GE);
    return status == 1 ? PyObject_RichCompareBool(low, zero, Py_GE) : status;
}

int
al_flow_set_limits(al_flow *flow, PyObject *const *args, Py_ssize_t nargs,
                   PyObject *kwnames)
{
    PyObject *values[2];
    if (al_args_parse(&limits_signature, args, nargs, kwnames, values, NULL) < 0) {
        return -1;
    }
    /* Whatever can be multiplied and compared is a mark, as in asyncio. */
    bool have_high = values[0] != NULL && values[0] != Py_None;
    bool have_low = values[1] != NULL && values[1] != Py_None;
    int status = -1;
    PyObject *high = NULL, *low = NULL;
    PyObject *zero = PyLong_FromLong(0), *four = PyLong_FromLong(4);
    if (zero == NULL || four == NULL) {
        goto done;
    }
    high = have_high  ? Py_NewRef(values[0])
           : have_low ? PyNumber_Multiply(four, values[1])
                      : PyLong_FromLong(HIGH_WATER); /* escapes */
    if (high == NULL) {
        goto done;
    }
    low = have_low ? Py_NewRef(values[1])
                   : PyNumber_FloorDivide(high, four); /* escapes */
    if (low == NULL) {
        goto done;
    }
    int good = in_order(high, low, zero); /* escapes */
    if (good == 0) {
        PyErr_Format(PyExc_ValueError, "high (%R) must be >= low (%R) must be >= 0",
                     high, low);
    }
    al_flow set = *flow;
    if (good == 1 && to_size(high, &set.high) == 0 && to_size(low, &set.low) == 0) {
        flow->high = set.high;
        flow->low = set.low;
        status = 0;
    }
done:
    Py_XDECREF(low);
    Py_XDECREF(high);
    Py_XDECREF(four);
    Py_XDECREF(zero);
    return status;
}

int
al_flow_report(al_loop *loop, const char *message, PyObject *transport,
               PyObject *protocol)
{
    if (al_report_must_leave()) {
        return -1;
    }
    al_except block;
    al_except_enter(&block);
    int status = al_report_context(
        loop->st, (PyObject *)loop, PyUnicode_FromString(message), "exception",
        block.exc, "transport", transport, "protocol", protocol, NULL); /* escapes */
    al_except_leave(&block);
    return status;
}

static int
tell(al_loop *loop, PyObject *name, const char *message, PyObject *transport,
     PyObject *protocol)
{
    if (protocol == NULL) {
        return 0;
    }
    Py_INCREF(protocol);
    Py_INCREF(loop);
    PyObject *result = PyObject_CallMethodNoArgs(protocol, name); /* escapes */
    int status = 0;
    if (result == NULL) {
        status = al_flow_report(loop, message, transport, protocol);
    }
    Py_XDECREF(result);
    Py_DECREF(loop);
    Py_DECREF(protocol);
    return status;
}

int
al_flow_tell_pause(al_loop *loop, PyObject *transport, PyObject *protocol)
{
    return tell(loop, loop->st->str.pause_writing, "protocol.pause_writing() failed",
                transport, protocol);
}

int
al_flow_tell_resume(al_loop *loop, PyObject *transport, PyObject *protocol)
{
    return tell(loop, loop->st->str.resume_writing, "protocol.resume_writing() failed",
                transport, protocol);
}

int
al_flow_grown(al_loop *loop, al_flow *flow, size_t size, PyObject *transport,
              PyObject *protocol)
{
    if (size <= flow->high || flow->paused) {
        return 0;
    }
    flow->paused = true;
    return al_flow_tell_pause(loop, transport, protocol);
}

int
al_flow_shrunk(al_loop *loop, al_flow *flow, size_t size, PyObject *transport,
               PyObject *protocol)
{
    if (size > flow->low || !flow->paused) {
        return 0;
    }
    flow->paused = false;
    return al_flow_tell_resume(loop, transport, protocol);
}
