/* net.c: see net.h.
 *
 * The hooks take what socket.socket makes.  Anything else that behaves like a socket (a
 * test's mock, a subclass that does its own I/O) goes to asyncio's own transport, which
 * works on add_reader and add_writer. */
#include "loop/net.h"

#include "base/args.h"
#include "core/misuse.h"
#include "core/report.h"
#include "core/sched.h"
#include "io/server.h"
#include "io/begin.h"

/* Calls asyncio's method of the same name. */
static PyObject *
call_base(al_loop *self, const char *name, PyObject *const *args, Py_ssize_t nargs,
          PyObject *kwnames)
{
    Py_ssize_t n = nargs + (kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames));
    PyObject *method = PyObject_GetAttrString(self->st->SelectorEventLoop, name);
    PyObject **stack = PyMem_New(PyObject *, (size_t)n + 1);
    PyObject *result = NULL;
    if (stack == NULL) {
        PyErr_NoMemory();
    }
    else if (method != NULL) {
        stack[0] = (PyObject *)self;
        memcpy(stack + 1, args, (size_t)n * sizeof(*stack));
        result = PyObject_Vectorcall(method, stack, (size_t)nargs + 1,
                                     kwnames); /* escapes */
    }
    PyMem_Free(stack);
    Py_XDECREF(method);
    return result;
}

/* The number of a socket that our transports can work on; -2: it is for asyncio's; -1:
 * exception. */
static int
number_of(al_loop *self, PyObject *sock)
{
    if (!PyObject_TypeCheck(sock, (PyTypeObject *)self->st->socket_type)) {
        return -2;
    }
    PyObject *number = PyObject_CallMethodNoArgs(sock, self->st->str.fileno);
    if (number == NULL) {
        return -1;
    }
    int fd = -2;
    if (PyLong_CheckExact(number)) {
        long value = PyLong_AsLong(number);
        if (value == -1 && PyErr_Occurred()) {
            PyErr_Clear(); /* Too large for a descriptor. */
        }
        if (value >= 0 && value <= INT_MAX) {
            fd = (int)value;
        }
    }
    Py_DECREF(number);
    return fd >= 0 && al_stream_sock_fd(self->st, sock, fd) == NULL ? -2 : fd;
}

/* Mirrors BaseSelectorEventLoop._ensure_fd_no_transport for our own transports. */
static int
ensure_no_transport(al_loop *self, PyObject *fileobj, int fd)
{
    PyObject *transport = Py_XNewRef(al_fds_transport(&self->fds, fd));
    if (transport == NULL) {
        return 0;
    }
    PyObject *closing =
        PyObject_CallMethodNoArgs(transport, self->st->str.is_closing); /* escapes */
    int free = closing == NULL ? -1 : PyObject_IsTrue(closing);
    Py_XDECREF(closing);
    if (free == 0) {
        PyErr_Format(PyExc_RuntimeError, "File descriptor %R is used by transport %R",
                     fileobj, transport);
        PyObject *raised = al_err_take();
        PyObject *created = al_misuse_made(self->st, transport);
        al_err_put_steal(raised);
        al_misuse_note("_note_of_transport", transport, created); /* escapes */
        Py_XDECREF(created);
    }
    Py_DECREF(transport);
    return free > 0 ? 0 : -1;
}

/* In an except block for the pending exception: raise ValueError(...) from None. */
static void
raise_invalid_file(PyObject *fileobj)
{
    al_except block;
    al_except_enter(&block);
    PyObject *text = PyUnicode_FromFormat("Invalid file object: %R", fileobj);
    if (text != NULL) {
        PyErr_SetObject(PyExc_ValueError, text);
        PyObject *error = al_err_take();
        PyException_SetCause(error, NULL); /* suppresses the context */
        al_err_put_steal(error);
        Py_DECREF(text);
    }
    al_except_leave(&block);
}

static PyObject *
EventLoop__ensure_fd_no_transport(al_loop *self, PyObject *fileobj)
{
    AL_OWN(self, NULL);
    AL_OBEY(self, "_ensure_fd_no_transport", &fileobj, 1, NULL);
    PyObject *number = NULL;
    if (PyLong_Check(fileobj)) {
        number = Py_NewRef(fileobj);
    }
    else {
        PyObject *given = PyObject_CallMethodNoArgs(fileobj, self->st->str.fileno);
        number = given == NULL ? NULL : PyNumber_Long(given); /* escapes */
        Py_XDECREF(given);
        if (number == NULL && (PyErr_ExceptionMatches(PyExc_AttributeError) ||
                               PyErr_ExceptionMatches(PyExc_TypeError) ||
                               PyErr_ExceptionMatches(PyExc_ValueError))) {
            raise_invalid_file(fileobj);
        }
    }
    if (number == NULL) {
        return NULL;
    }
    int overflow;
    long fd = PyLong_AsLongAndOverflow(number, &overflow);
    Py_DECREF(number);
    if (fd >= 0 && fd <= INT_MAX && overflow == 0 &&
        ensure_no_transport(self, fileobj, (int)fd) < 0) {
        return NULL;
    }
    return call_base(self, "_ensure_fd_no_transport", &fileobj, 1, NULL);
}

static const al_signature make_socket_transport_signature = {
    .function = "BaseSelectorEventLoop._make_socket_transport",
    .names = {"sock", "protocol", "waiter", "extra", "server", "context"},
    .positional = 3,
    .required = 2,
    .total = PY_VERSION_HEX >= 0x030F0000 ? 6 : 5,
};

static PyObject *
EventLoop__make_socket_transport(al_loop *self, PyObject *const *args, Py_ssize_t nargs,
                                 PyObject *kwnames)
{
    AL_OWN(self, NULL);
    AL_OBEY(self, "_make_socket_transport", args, nargs, kwnames);
    PyObject *values[6] = {NULL, NULL, NULL, NULL, NULL, NULL};
    if (al_args_parse(&make_socket_transport_signature, args, nargs, kwnames, values,
                      NULL) < 0) {
        return NULL;
    }
    int fd = number_of(self, values[0]);
    if (fd == -1) {
        return NULL;
    }
    if (fd < 0 || self->poll == NULL) {
        return call_base(self, "_make_socket_transport", args, nargs, kwnames);
    }
#if PY_VERSION_HEX >= 0x030C0000
    if (ensure_no_transport(self, values[0], fd) < 0) {
        return NULL;
    }
#endif
    /* asyncio's method and its transport's __init__. */
    self->debug.frames_above += 1 + AL_DEBUG_METHOD_FRAMES;
    PyObject *transport = al_stream_new(self, values[0], fd, values[1], values[2],
                                        values[3], values[4], values[5]); /* escapes */
    self->debug.frames_above -= 1 + AL_DEBUG_METHOD_FRAMES;
    return transport;
}

static const al_signature start_serving_signature = {
    .function = "BaseSelectorEventLoop._start_serving",
    .names = {"protocol_factory", "sock", "sslcontext", "server", "backlog",
              "ssl_handshake_timeout", "ssl_shutdown_timeout", "context"},
    .positional = 8,
    .required = 2,
    .total = PY_VERSION_HEX >= 0x030F0000 ? 8 : 7,
};

static PyObject *
given(PyObject *value)
{
    return value == Py_None ? NULL : value;
}

static PyObject *
EventLoop__start_serving(al_loop *self, PyObject *const *args, Py_ssize_t nargs,
                         PyObject *kwnames)
{
    AL_OWN(self, NULL);
    AL_OBEY(self, "_start_serving", args, nargs, kwnames);
    PyObject *values[8] = {NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL};
    al_signature signature = start_serving_signature;
    signature.positional = signature.total;
    if (al_args_parse(&signature, args, nargs, kwnames, values, NULL) < 0) {
        return NULL;
    }
    int fd = number_of(self, values[1]);
    if (fd == -1) {
        return NULL;
    }
    al_addr addr;
    if (fd < 0 || self->poll == NULL || al_addr_of_socket(fd, &addr) < 0 ||
        !al_addr_known(addr.as.any.sa_family)) {
        return call_base(self, "_start_serving", args, nargs, kwnames);
    }
    al_listen what = {
        .factory = values[0],
        .sock = values[1],
        .sslcontext = given(values[2]),
        .server = given(values[3]),
        .handshake_timeout = values[5],
        .shutdown_timeout = values[6],
        .context = given(values[7]),
        .backlog = 100,
    };
    if (values[4] != NULL) {
        what.backlog = PyNumber_AsSsize_t(values[4], NULL);
        if (what.backlog == -1 && PyErr_Occurred()) {
            return NULL;
        }
    }
#if PY_VERSION_HEX >= 0x030E0000
    what.backlog += what.backlog < PY_SSIZE_T_MAX; /* as asyncio from 3.14 on */
#endif
    if (al_server_start(self, &what, fd) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
EventLoop__accepting(al_loop *self, PyObject *Py_UNUSED(ignored))
{
    AL_OWN(self, NULL);
    return al_server_accepting(self);
}

#define FAST(function)                                                                 \
    (PyCFunction)(void (*)(void))(function), METH_FASTCALL | METH_KEYWORDS

PyMethodDef al_net_methods[] = {
    {"_make_socket_transport", FAST(EventLoop__make_socket_transport), NULL},
    {"_accepting", (PyCFunction)EventLoop__accepting, METH_NOARGS, NULL},
    {"_start_serving", FAST(EventLoop__start_serving), NULL},
    {"_ensure_fd_no_transport", (PyCFunction)EventLoop__ensure_fd_no_transport, METH_O,
     NULL},
    {NULL, NULL, 0, NULL},
};
