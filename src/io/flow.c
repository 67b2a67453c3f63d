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

int
al_flow_set_limits(al_flow *flow, PyObject *const *args, Py_ssize_t nargs,
                   PyObject *kwnames)
{
    PyObject *values[2];
    if (al_args_parse(&limits_signature, args, nargs, kwnames, values, NULL) < 0) {
        return -1;
    }
    Py_ssize_t numbers[2] = {-1, -1}; /* -1: not given */
    for (int i = 0; i < 2; i++) {
        if (values[i] != NULL && values[i] != Py_None) {
            numbers[i] = PyNumber_AsSsize_t(values[i], PyExc_OverflowError);
            if (numbers[i] == -1 && PyErr_Occurred()) {
                return -1;
            }
            if (numbers[i] < 0) {
                numbers[i] = -2;
            }
        }
    }
    Py_ssize_t high = numbers[0], low = numbers[1];
    if (high == -1) {
        high = low == -1                  ? HIGH_WATER
               : low > PY_SSIZE_T_MAX / 4 ? PY_SSIZE_T_MAX
                                          : 4 * low;
    }
    if (low == -1) {
        low = high / 4;
    }
    if (!(high >= low && low >= 0)) {
        PyObject *shown[2] = {values[0], values[1]};
        PyObject *made =
            PyLong_FromSsize_t(shown[0] == NULL || shown[0] == Py_None ? high : low);
        if (made != NULL) {
            shown[0] = shown[0] == NULL || shown[0] == Py_None ? made : shown[0];
            shown[1] = shown[1] == NULL || shown[1] == Py_None ? made : shown[1];
            PyErr_Format(PyExc_ValueError, "high (%R) must be >= low (%R) must be >= 0",
                         shown[0], shown[1]);
            Py_DECREF(made);
        }
        return -1;
    }
    flow->high = (size_t)high;
    flow->low = (size_t)low;
    return 0;
}

int
al_flow_report(al_loop *loop, const char *message, PyObject *transport,
               PyObject *protocol)
{
    if (al_report_must_leave()) {
        return -1;
    }
    PyObject *exc = al_err_take();
    int status = al_report_context(
        loop->st, (PyObject *)loop, PyUnicode_FromString(message), "exception", exc,
        "transport", transport, "protocol", protocol, NULL); /* escapes */
    Py_DECREF(exc);
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
    PyObject *result = PyObject_CallMethodNoArgs(protocol, name); /* escapes */
    int status = 0;
    if (result == NULL) {
        status = al_flow_report(loop, message, transport, protocol);
    }
    Py_XDECREF(result);
    Py_DECREF(protocol);
    return status;
}

int
al_flow_grown(al_loop *loop, al_flow *flow, size_t size, PyObject *transport,
              PyObject *protocol)
{
    if (size <= flow->high || flow->paused) {
        return 0;
    }
    flow->paused = true;
    return tell(loop, loop->st->str.pause_writing, "protocol.pause_writing() failed",
                transport, protocol);
}

int
al_flow_shrunk(al_loop *loop, al_flow *flow, size_t size, PyObject *transport,
               PyObject *protocol)
{
    if (size > flow->low || !flow->paused) {
        return 0;
    }
    flow->paused = false;
    return tell(loop, loop->st->str.resume_writing, "protocol.resume_writing() failed",
                transport, protocol);
}
