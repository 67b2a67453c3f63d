/* fds.c: see fds.h. */
#include "core/fds.h"

#include <errno.h>
#include <sys/stat.h>

#include "core/sched.h"

/* The watcher's callback.  A cancelled handle is taken out of the table, as in
 * asyncio's _process_events. */
static int
fd_ready(al_loop *loop, void *owner, int events)
{
    al_fd *entry = owner;
    int keep =
        (entry->reader != NULL ? AL_READ : 0) | (entry->writer != NULL ? AL_WRITE : 0);
    int watched = keep;
    al_handle *dead[2] = {NULL, NULL};
    int status = 0;

    /* al_poll_wait reverses what watchers push: the writer goes in first. */
    if ((events & AL_WRITE) && entry->writer != NULL) {
        if (entry->writer->cancelled) {
            dead[0] = entry->writer;
            entry->writer = NULL;
            keep &= ~AL_WRITE;
        }
        else if (al_sched_push_steal(loop, al_handle_run,
                                     Py_NewRef((PyObject *)entry->writer), NULL,
                                     NULL) < 0) {
            status = -1;
        }
    }
    if ((events & AL_READ) && entry->reader != NULL) {
        if (entry->reader->cancelled) {
            dead[1] = entry->reader;
            entry->reader = NULL;
            keep &= ~AL_READ;
        }
        else if (al_sched_push_steal(loop, al_handle_run,
                                     Py_NewRef((PyObject *)entry->reader), NULL,
                                     NULL) < 0) {
            status = -1;
        }
    }
    if (keep != watched) {
        al_io_set(entry->io, keep);
        for (int i = 0; i < 2; i++) {
            if (dead[i] != NULL) {
                /* A slot may do what a watcher may not: release user's objects. */
                if (al_sched_push_steal(loop, al_handle_run, (PyObject *)dead[i], NULL,
                                        NULL) < 0) {
                    status = -1;
                }
            }
        }
    }
    return status;
}

static al_fd *
find(const al_fds *fds, int fd)
{
    return fd >= 0 && fd < fds->capacity ? fds->entries[fd] : NULL;
}

/* The entry for fd, made if need be; NULL with MemoryError. */
static al_fd *
ensure(al_loop *loop, int fd)
{
    al_fds *fds = &loop->fds;
    if (fd >= fds->capacity) {
        int capacity = fds->capacity == 0 ? 32 : fds->capacity;
        while (capacity <= fd) {
            capacity *= 2;
        }
        al_fd **entries = fds->entries;
        PyMem_Resize(entries, al_fd *, (size_t)capacity);
        if (entries == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        memset(entries + fds->capacity, 0,
               (size_t)(capacity - fds->capacity) * sizeof(*entries));
        fds->entries = entries;
        fds->capacity = capacity;
    }
    al_fd *entry = fds->entries[fd];
    if (entry == NULL) {
        entry = PyMem_Calloc(1, sizeof(*entry));
        if (entry == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        entry->loop = loop;
        entry->number = fd;
        entry->io = al_io_new(loop->poll, fd, fd_ready, entry);
        if (entry->io == NULL) {
            PyMem_Free(entry);
            return NULL;
        }
        fds->entries[fd] = entry;
    }
    return entry;
}

/* libev reports a bad descriptor only at the next poll, and watches a regular file as
 * always ready; asyncio's selector raises at once in both cases, and so do we. */
static int
check_watchable(int fd)
{
    struct stat info;
    if (fstat(fd, &info) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    if (S_ISREG(info.st_mode) || S_ISDIR(info.st_mode)) {
        errno = EPERM;
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    return 0;
}

static void
watch(al_fd *entry)
{
    al_io_set(entry->io, (entry->reader != NULL ? AL_READ : 0) |
                             (entry->writer != NULL ? AL_WRITE : 0));
}

int
al_fds_add(al_loop *loop, int fd, int event, al_handle *handle)
{
    if (check_watchable(fd) < 0) {
        return -1;
    }
    al_fd *entry = ensure(loop, fd);
    if (entry == NULL) {
        return -1;
    }
    al_handle **place = event == AL_READ ? &entry->reader : &entry->writer;
    al_handle *old = *place;
    *place = (al_handle *)Py_NewRef((PyObject *)handle);
    watch(entry);
    int status = 0;
    if (old != NULL) {
        status = al_handle_cancel(old); /* escapes */
        al_handle_left_queue(old);
        Py_DECREF(old); /* escapes */
    }
    return status;
}

int
al_fds_remove(al_loop *loop, int fd, int event)
{
    al_fd *entry = find(&loop->fds, fd);
    if (entry == NULL) {
        return 0;
    }
    al_handle **place = event == AL_READ ? &entry->reader : &entry->writer;
    al_handle *old = *place;
    if (old == NULL) {
        return 0;
    }
    *place = NULL;
    watch(entry);
    int status = al_handle_cancel(old) < 0 ? -1 : 1; /* escapes */
    al_handle_left_queue(old);
    Py_DECREF(old); /* escapes */
    return status;
}

bool
al_fds_get(const al_fds *fds, int fd, al_handle **reader, al_handle **writer)
{
    const al_fd *entry = find(fds, fd);
    *reader = entry == NULL ? NULL : entry->reader;
    *writer = entry == NULL ? NULL : entry->writer;
    return *reader != NULL || *writer != NULL;
}

void
al_fds_clear(al_fds *fds)
{
    al_fd **entries = fds->entries;
    int capacity = fds->capacity;
    fds->entries = NULL;
    fds->capacity = 0;
    for (int i = 0; i < capacity; i++) {
        if (entries[i] != NULL) {
            al_io_free(entries[i]->io);
            al_handle *handles[2] = {entries[i]->reader, entries[i]->writer};
            PyMem_Free(entries[i]);
            for (int j = 0; j < 2; j++) {
                if (handles[j] != NULL) {
                    al_handle_left_queue(handles[j]);
                    Py_DECREF(handles[j]); /* escapes */
                }
            }
        }
    }
    PyMem_Free(entries);
}

int
al_fds_traverse(const al_fds *fds, visitproc visit, void *arg)
{
    for (int i = 0; i < fds->capacity; i++) {
        const al_fd *entry = fds->entries[i];
        al_handle *handles[2] = {entry == NULL ? NULL : entry->reader,
                                 entry == NULL ? NULL : entry->writer};
        for (int j = 0; j < 2; j++) {
            if (handles[j] != NULL) {
                int status = al_handle_traverse_queued(handles[j], visit, arg);
                if (status != 0) {
                    return status;
                }
            }
        }
    }
    return 0;
}
