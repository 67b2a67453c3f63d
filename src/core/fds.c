/* fds.c: see fds.h. */
#include "core/fds.h"

#include "core/sched.h"

/* Sets the watcher.  `again` tells the kernel even if the set did not change, because
 * the number may stand for another file. */
static void
set_watched(al_fd *entry, int events, bool again)
{
    if (again) {
        al_io_set(entry->io, events);
    }
    else if (events != entry->watched) {
        al_io_modify(entry->io, events);
    }
    entry->watched = events;
}

static bool
nobody_waits(const al_fd *entry)
{
    return entry->reader.run == NULL && entry->writer.run == NULL;
}

/* Sets the watcher once a waiter has gone.  Where nobody waits any more it stays as it is,
 * but not with news for the kernel: by the time of the next poll the program may have
 * closed the file, and another thread may have the number, and close it in that moment. */
static void
settle(al_fd *entry, int keep)
{
    if (nobody_waits(entry) && (keep != entry->watched || al_io_is_news(entry->io))) {
        keep = 0;
    }
    set_watched(entry, keep, false);
}

/* The file object goes with the last Handle: takes it out then, else NULL. */
static PyObject *
take_fileobj(al_fd *entry)
{
    PyObject *fileobj = entry->fileobj;
    if (entry->reader.run == al_handle_run || entry->writer.run == al_handle_run) {
        return NULL;
    }
    entry->fileobj = NULL;
    return fileobj;
}

/* Queues a waiter; -1 with MemoryError.  Takes it out unless it stays, or if it is a
 * cancelled handle, as asyncio's _process_events does; a slot releases the references,
 * because a watcher may not run foreign code. */
static int
wake(al_fd *entry, al_waiter *waiter)
{
    al_waiter woken = *waiter;
    PyObject *released = NULL;
    if (al_ring_reserve(&entry->loop->ready, 1) < 0) {
        return -1; /* It waits on, and the next poll tells it again. */
    }
    if (woken.stays &&
        !(woken.run == al_handle_run && ((al_handle *)woken.self)->cancelled)) {
        Py_INCREF(woken.self);
    }
    else {
        *waiter = (al_waiter){NULL, NULL, false};
        released = take_fileobj(entry);
    }
    return al_sched_push_steal(entry->loop, woken.run, woken.self, released, NULL);
}

/* The watcher's callback. */
static int
fd_ready(al_loop *Py_UNUSED(loop), void *owner, int events)
{
    al_fd *entry = owner;
    int keep = entry->watched;
    int status = 0;

    /* al_poll_wait reverses what watchers push: the writer goes in first. */
    if (events & AL_WRITE) {
        if (entry->writer.run != NULL && wake(entry, &entry->writer) < 0) {
            status = -1;
        }
        /* A socket stays writable: unlike reading, watching on would wake us at once. */
        if (entry->writer.run == NULL) {
            keep &= ~AL_WRITE;
        }
    }
    if (events & AL_READ) {
        if (entry->reader.run == NULL) {
            keep &= ~AL_READ;
        }
        else {
            bool stays = entry->reader.stays;
            if (wake(entry, &entry->reader) < 0) {
                status = -1;
            }
            if (stays && entry->reader.run == NULL) {
                keep &= ~AL_READ;
            }
        }
    }
    settle(entry, keep);
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
        fds->entries[fd] = entry;
    }
    return entry;
}

/* The entry for fd with a watcher, made if need be; NULL with MemoryError. */
static al_fd *
ensure_watcher(al_loop *loop, int fd)
{
    al_fd *entry = ensure(loop, fd);
    if (entry != NULL && entry->io == NULL) {
        entry->io = al_io_new(loop->poll, fd, fd_ready, entry);
        if (entry->io == NULL) {
            return NULL;
        }
    }
    return entry;
}

/* Watches for exactly what somebody waits for. */
static void
watch(al_fd *entry)
{
    set_watched(entry,
                (entry->reader.run != NULL ? AL_READ : 0) |
                    (entry->writer.run != NULL ? AL_WRITE : 0),
                true);
}

static al_waiter *
waiter_of(al_fd *entry, int event)
{
    return event == AL_READ ? &entry->reader : &entry->writer;
}

/* Releases a waiter that was taken out of its entry; a handle is cancelled first.
 * 0 or -1.  Escapes. */
static int
drop(al_fd *entry, al_waiter old)
{
    int status = 0;
    PyObject *fileobj = take_fileobj(entry);
    if (old.run == al_handle_run) {
        status = al_handle_cancel((al_handle *)old.self);
        al_handle_left_queue((al_handle *)old.self);
    }
    Py_XDECREF(old.self);
    Py_XDECREF(fileobj);
    return status;
}

int
al_fds_add(al_loop *loop, int fd, int event, al_handle *handle, PyObject *fileobj)
{
    /* libev reports a bad descriptor only at the next poll; asyncio's selector raises at
     * once, and so do we. */
    if (al_poll_check(fd) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    al_fd *entry = ensure_watcher(loop, fd);
    if (entry == NULL) {
        return -1;
    }
    al_waiter *waiter = waiter_of(entry, event);
    al_waiter old = *waiter;
    *waiter = (al_waiter){al_handle_run, Py_NewRef((PyObject *)handle), true};
    watch(entry);
    PyObject *before = entry->fileobj;
    entry->fileobj = Py_XNewRef(fileobj != NULL ? fileobj : before);
    int status = drop(entry, old); /* escapes */
    Py_XDECREF(before);            /* escapes */
    return status;
}

int
al_fds_remove(al_loop *loop, int fd, int event)
{
    al_fd *entry = find(&loop->fds, fd);
    if (entry == NULL || waiter_of(entry, event)->run == NULL) {
        return 0;
    }
    al_waiter *waiter = waiter_of(entry, event);
    al_waiter old = *waiter;
    *waiter = (al_waiter){NULL, NULL, false};
    watch(entry);
    return drop(entry, old) < 0 ? -1 : 1; /* escapes */
}

int
al_fds_number_of(const al_fds *fds, PyObject *fileobj)
{
    for (int fd = 0; fd < fds->capacity; fd++) {
        if (fds->entries[fd] != NULL && fds->entries[fd]->fileobj == fileobj) {
            return fd;
        }
    }
    return -1;
}

int
al_fds_wait(al_loop *loop, int fd, int event, bool stays, al_run_fn run, PyObject *self,
            PyObject *file)
{
    al_fd *entry = ensure_watcher(loop, fd);
    if (entry == NULL) {
        return -1;
    }
    bool known = entry->file != NULL && al_weakref_is(entry->file, file);
    if (!known) {
        PyObject *reference = PyWeakref_NewRef(file, NULL);
        if (reference == NULL) {
            return -1;
        }
        Py_XSETREF(entry->file, reference);
    }
    al_waiter *waiter = waiter_of(entry, event);
    al_waiter old = *waiter;
    *waiter = (al_waiter){run, Py_NewRef(self), stays};
    if (known) {
        set_watched(entry, entry->watched | event, false);
    }
    else {
        watch(entry);
    }
    return old.run == NULL ? 0 : drop(entry, old); /* escapes */
}

void
al_fds_unwait(al_loop *loop, int fd, int event, PyObject *self)
{
    al_fd *entry = find(&loop->fds, fd);
    if (entry != NULL && waiter_of(entry, event)->self == self) {
        *waiter_of(entry, event) = (al_waiter){NULL, NULL, false};
        settle(entry, event == AL_WRITE ? entry->watched & ~AL_WRITE : entry->watched);
        Py_DECREF(self); /* The caller has another reference. */
    }
}

bool
al_fds_get(const al_fds *fds, int fd, PyObject **reader, PyObject **writer)
{
    const al_fd *entry = find(fds, fd);
    *reader = entry == NULL ? NULL : entry->reader.self;
    *writer = entry == NULL ? NULL : entry->writer.self;
    return *reader != NULL || *writer != NULL;
}

static bool
is_pipe(const al_state *st, const al_waiter *waiter)
{
    return waiter->run != NULL &&
           (Py_IS_TYPE(waiter->self, st->ReadPipeTransport_type) ||
            Py_IS_TYPE(waiter->self, st->WritePipeTransport_type));
}

size_t
al_fds_count_transports(const al_loop *loop)
{
    size_t count = 0;
    for (int fd = 0; fd < loop->fds.capacity; fd++) {
        const al_fd *entry = loop->fds.entries[fd];
        count += entry != NULL &&
                 (entry->transport != NULL || is_pipe(loop->st, &entry->reader) ||
                  is_pipe(loop->st, &entry->writer));
    }
    return count;
}

PyObject *
al_fds_transport(const al_fds *fds, int fd)
{
    const al_fd *entry = find(fds, fd);
    return entry == NULL ? NULL : entry->transport;
}

/* Nobody waits, and what is left registered stops. */
static void
forget_idle(al_fd *entry)
{
    if (entry != NULL && entry->io != NULL && entry->watched != 0 &&
        nobody_waits(entry)) {
        set_watched(entry, 0, false);
    }
}

void
al_fds_forget_idle(al_loop *loop)
{
    for (int fd = 0; fd < loop->fds.capacity; fd++) {
        forget_idle(loop->fds.entries[fd]);
    }
}

int
al_fds_set_transport(al_loop *loop, int fd, PyObject *transport)
{
    al_fd *entry = transport == NULL ? find(&loop->fds, fd) : ensure(loop, fd);
    if (entry == NULL) {
        return transport == NULL ? 0 : -1;
    }
    if (transport != NULL) {
        /* The transport watches it: what is left of a file before is not to be told to
         * the kernel again when that stops. */
        forget_idle(entry);
    }
    PyObject *old = entry->transport_kept ? entry->transport : NULL;
    entry->transport = transport;
    entry->transport_kept = false;
    Py_XDECREF(old); /* escapes */
    return 0;
}

void
al_fds_keep_transport(al_loop *loop, int fd, PyObject *transport, bool keep)
{
    al_fd *entry = find(&loop->fds, fd);
    if (entry == NULL || entry->transport != transport ||
        entry->transport_kept == keep) {
        return;
    }
    entry->transport_kept = keep;
    if (keep) {
        Py_INCREF(transport);
    }
    else {
        Py_DECREF(transport); /* escapes */
    }
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
            if (entries[i]->io != NULL) {
                al_io_free(entries[i]->io);
            }
            PyObject *transport =
                entries[i]->transport_kept ? entries[i]->transport : NULL;
            al_waiter waiters[2] = {entries[i]->reader, entries[i]->writer};
            PyObject *fileobj = entries[i]->fileobj;
            Py_XDECREF(entries[i]->file);
            PyMem_Free(entries[i]);
            Py_XDECREF(transport); /* escapes */
            Py_XDECREF(fileobj);
            for (int j = 0; j < 2; j++) {
                if (waiters[j].run == al_handle_run) {
                    al_handle_left_queue((al_handle *)waiters[j].self);
                }
                Py_XDECREF(waiters[j].self); /* escapes */
            }
        }
    }
    PyMem_Free(entries);
}

void
al_fds_track(const al_fds *fds)
{
    for (int i = 0; i < fds->capacity; i++) {
        const al_fd *entry = fds->entries[i];
        if (entry != NULL && entry->reader.run == al_handle_run) {
            al_handle_track((al_handle *)entry->reader.self);
        }
        if (entry != NULL && entry->writer.run == al_handle_run) {
            al_handle_track((al_handle *)entry->writer.self);
        }
    }
}

int
al_fds_traverse(const al_fds *fds, visitproc visit, void *arg)
{
    for (int i = 0; i < fds->capacity; i++) {
        const al_fd *entry = fds->entries[i];
        if (entry == NULL) {
            continue;
        }
        const al_waiter *waiters[2] = {&entry->reader, &entry->writer};
        for (int j = 0; j < 2; j++) {
            PyObject *self = waiters[j]->self;
            if (waiters[j]->run == al_handle_run) {
                int status = al_handle_traverse_queued((al_handle *)self, visit, arg);
                if (status != 0) {
                    return status;
                }
            }
            else {
                Py_VISIT(self);
            }
        }
        Py_VISIT(entry->file);
        Py_VISIT(entry->fileobj);
        if (entry->transport_kept) {
            Py_VISIT(entry->transport);
        }
    }
    return 0;
}

al_fd *
al_fds_find(const al_fds *fds, int fd)
{
    return find(fds, fd);
}

al_fd *
al_fds_ensure(al_loop *loop, int fd)
{
    return ensure(loop, fd);
}
