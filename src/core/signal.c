/* signal.c: see signal.h. */
#include "core/signal.h"

/* signal.set_wakeup_fd(fd, warn_on_full_buffer=False): the old descriptor, -1 for none,
 * -2 when this is not the main thread, -3 with an exception. */
static long
set_wakeup_fd(al_state *st, int fd)
{
    PyObject *number = PyLong_FromLong(fd);
    if (number == NULL) {
        return -3;
    }
    PyObject *stack[2] = {number, Py_False};
    PyObject *old = PyObject_Vectorcall(st->set_wakeup_fd, stack, 1,
                                        st->kwnames_warn_on_full_buffer);
    Py_DECREF(number);
    if (old == NULL) {
        if (PyErr_ExceptionMatches(PyExc_ValueError)) {
            PyErr_Clear(); /* "only works in main thread of the main interpreter" */
            return -2;
        }
        return -3;
    }
    long result = PyLong_AsLong(old);
    Py_DECREF(old);
    return result == -1 && PyErr_Occurred() ? -3 : result;
}

int
al_signal_enter(al_loop *loop)
{
    long old = set_wakeup_fd(loop->st, loop->wake.write_fd);
    if (old >= 0 && old != loop->wake.write_fd) {
        old = set_wakeup_fd(loop->st, (int)old); /* somebody else's: give it back */
    }
    /* A signal that came before this would not wake the loop. */
    return old == -3 ? -1 : PyErr_CheckSignals(); /* escapes */
}

int
al_signal_leave(al_loop *loop, bool keep)
{
    if (keep || loop->wake.write_fd < 0) {
        return 0;
    }
    long old = set_wakeup_fd(loop->st, -1);
    if (old >= 0 && old != loop->wake.write_fd) {
        old = set_wakeup_fd(loop->st, (int)old);
    }
    return old == -3 ? -1 : 0;
}
