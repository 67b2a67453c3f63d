/* knock.c: see knock.h. */
#include "diag/knock.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

/* A handler is the process's and is given nothing but the number, so this is static; it
 * belongs to the interpreter that asked last. */
static atomic_int knock_fd = -1;

static void
knock(int number)
{
    int saved = errno;
    unsigned char byte = (unsigned char)number;
    /* A full pipe wakes the thread too. */
    ssize_t written = write(atomic_load(&knock_fd), &byte, 1);
    (void)written;
    errno = saved;
}

/* _knock(signum, fd): from now on the signal writes its number to the descriptor, which
 * does not block. */
static PyObject *
knock_on(PyObject *Py_UNUSED(module), PyObject *args)
{
    int number, fd;
    if (!PyArg_ParseTuple(args, "ii:_knock", &number, &fd)) {
        return NULL;
    }
    struct sigaction action = {.sa_flags = SA_RESTART | SA_ONSTACK};
    action.sa_handler = knock;
    (void)sigemptyset(&action.sa_mask);
    int previous = atomic_exchange(&knock_fd, fd);
    if (sigaction(number, &action, NULL) < 0) {
        atomic_store(&knock_fd, previous);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

PyMethodDef al_knock_methods[] = {
    {"_knock", knock_on, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
