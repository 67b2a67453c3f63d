/* wake.c: see wake.h. */
#include "core/wake.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "core/sched.h"

static int
wake_ready(al_loop *loop, void *Py_UNUSED(owner), int Py_UNUSED(events))
{
    al_wake *wake = &loop->wake;
    if (AL_UNLIKELY(!al_io_is_alone(wake->io)) &&
        !al_fileid_is(&wake->file, wake->read_fd)) {
        al_io_set(wake->io, 0); /* Somebody closed it, and this is another file's. */
        return 0;
    }
    wake->readable = true;
    return 0;
}

static int
open_pipe(int ends[2])
{
#ifdef __APPLE__ /* It has no pipe2. */
    if (pipe(ends) < 0) {
        return -1;
    }
    for (int i = 0; i < 2; i++) {
        int flags = fcntl(ends[i], F_GETFL);
        if (flags < 0 || fcntl(ends[i], F_SETFL, flags | O_NONBLOCK) < 0 ||
            fcntl(ends[i], F_SETFD, FD_CLOEXEC) < 0) {
            int saved = errno;
            close(ends[0]);
            close(ends[1]);
            errno = saved;
            return -1;
        }
    }
    return 0;
#else
    return pipe2(ends, O_NONBLOCK | O_CLOEXEC);
#endif
}

int
al_wake_open(al_loop *loop)
{
    al_wake *wake = &loop->wake;
    int ends[2];
    if (open_pipe(ends) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    wake->io = al_io_new(loop->poll, ends[0], wake_ready, NULL);
    if (wake->io == NULL) {
        close(ends[0]);
        close(ends[1]);
        return -1;
    }
    wake->read_fd = ends[0];
    wake->write_fd = ends[1];
    al_fileid_take(&wake->file, ends[0]);
    wake->sent = wake->readable = false;
    al_io_set(wake->io, AL_READ);
    return 0;
}

void
al_wake_close(al_wake *wake)
{
    if (wake->io == NULL) {
        return;
    }
    al_io_free(wake->io);
    wake->io = NULL;
    al_fileid_close(&wake->file, wake->read_fd);
    al_fileid_close(&wake->file, wake->write_fd);
    wake->read_fd = wake->write_fd = -1;
}

/* Whether the number has gone to another file. */
static bool
is_strangers(const al_wake *wake, int fd)
{
    return fcntl(fd, F_GETFD) >= 0 && !al_fileid_is(&wake->file, fd);
}

int
al_wake_fork(al_loop *loop)
{
    /* The numbers stay, since signal.set_wakeup_fd and asyncio may have been told. */
    int ends[2];
    if (is_strangers(&loop->wake, loop->wake.read_fd) ||
        is_strangers(&loop->wake, loop->wake.write_fd)) {
        errno = EBADF;
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    if (open_pipe(ends) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    /* The old numbers may be free, and the new ones these. */
    int above = 1 + (loop->wake.read_fd > loop->wake.write_fd ? loop->wake.read_fd
                                                              : loop->wake.write_fd);
    int moved[2] = {fcntl(ends[0], F_DUPFD_CLOEXEC, above),
                    fcntl(ends[1], F_DUPFD_CLOEXEC, above)};
    bool failed = moved[0] < 0 || moved[1] < 0;
    int saved = errno;
    close(ends[0]);
    close(ends[1]);
    if (!failed) {
        failed = dup2(moved[0], loop->wake.read_fd) < 0 ||
                 dup2(moved[1], loop->wake.write_fd) < 0 ||
                 fcntl(loop->wake.read_fd, F_SETFD, FD_CLOEXEC) < 0 ||
                 fcntl(loop->wake.write_fd, F_SETFD, FD_CLOEXEC) < 0;
        saved = errno;
    }
    for (int i = 0; i < 2; i++) {
        if (moved[i] >= 0) {
            close(moved[i]);
        }
    }
    if (failed) {
        errno = saved;
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    al_fileid_take(&loop->wake.file, loop->wake.read_fd);
    loop->wake.sent = false;
    al_io_set(loop->wake.io, AL_READ);
    return 0;
}

void
al_wake_up(al_loop *loop)
{
    if (!al_inbox_is_outside(loop)) {
        al_look_expect(&loop->look);
    }
    al_lock_take(&loop->wake.lock);
    al_wake_locked(loop);
    al_lock_give(&loop->wake.lock);
}

void
al_wake_locked(al_loop *loop)
{
    al_wake *wake = &loop->wake;
    if (!wake->blocked || wake->sent || !al_fileid_is(&wake->file, wake->write_fd)) {
        return;
    }
    wake->sent = true;
    const char byte = 0;
    /* A full pipe wakes the selector just as well: EAGAIN is no error. */
    while (write(wake->write_fd, &byte, 1) < 0 && errno == EINTR) {
    }
}

int
al_wake_drain(al_loop *loop)
{
    al_wake *wake = &loop->wake;
    while (wake->readable) {
        unsigned char bytes[256];
        ssize_t n = read(wake->read_fd, bytes, sizeof(bytes));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < (ssize_t)sizeof(bytes)) {
            wake->readable = false;
        }
        wake->sent = false;
        for (ssize_t i = 0; i < n; i++) {
            if (bytes[i] == 0) {
                continue;
            }
            PyObject *number = PyLong_FromLong(bytes[i]);
            PyObject *result =
                number == NULL ? NULL
                               : PyObject_CallMethodOneArg((PyObject *)loop,
                                                           loop->st->str._handle_signal,
                                                           number); /* escapes */
            Py_XDECREF(number);
            if (result == NULL) {
                return -1;
            }
            Py_DECREF(result);
        }
    }
    return 0;
}
