/* timer.c: see timer.h. */
#include "core/timer.h"

#include <math.h>
#include <stdlib.h>

#include "core/sched.h"

enum { ARITY = 4, START = 64, GARBAGE_MIN = 100 };

int
al_timers_init(al_timers *timers)
{
    *timers = (al_timers){0};
    timers->due = PyMem_New(al_timer_entry, AL_RING_START);
    if (timers->due == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    timers->due_mask = AL_RING_START - 1;
    return 0;
}

/* --- the heap -------------------------------------------------------------------- */

static inline bool
before(const al_timer_entry *a, const al_timer_entry *b)
{
    return a->when < b->when || (a->when == b->when && a->order < b->order);
}

static void
sift_up(al_timer_entry *heap, size_t i)
{
    al_timer_entry entry = heap[i];
    while (i > 0) {
        size_t parent = (i - 1) / ARITY;
        if (!before(&entry, &heap[parent])) {
            break;
        }
        heap[i] = heap[parent];
        i = parent;
    }
    heap[i] = entry;
}

static void
sift_down(al_timer_entry *heap, size_t length, size_t i)
{
    al_timer_entry entry = heap[i];
    for (;;) {
        size_t child = i * ARITY + 1;
        if (child >= length) {
            break;
        }
        size_t last = child + ARITY < length ? child + ARITY : length;
        size_t least = child;
        for (size_t j = child + 1; j < last; j++) {
            if (before(&heap[j], &heap[least])) {
                least = j;
            }
        }
        if (!before(&heap[least], &entry)) {
            break;
        }
        heap[i] = heap[least];
        i = least;
    }
    heap[i] = entry;
}

/* Takes the top; the caller owns its handle. */
static al_handle *
heap_pop(al_timers *timers)
{
    al_handle *handle = timers->heap[0].handle;
    timers->length--;
    if (timers->length > 0) {
        timers->heap[0] = timers->heap[timers->length];
        sift_down(timers->heap, timers->length, 0);
    }
    handle->scheduled = false;
    return handle;
}

static int
heap_push(al_timers *timers, al_timer_entry entry)
{
    if (timers->length == timers->capacity) {
        size_t capacity = timers->capacity == 0 ? START : timers->capacity * 2;
        al_timer_entry *heap = timers->heap;
        PyMem_Resize(heap, al_timer_entry, capacity);
        if (heap == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        timers->heap = heap;
        timers->capacity = capacity;
    }
    timers->heap[timers->length++] = entry;
    sift_up(timers->heap, timers->length - 1);
    return 0;
}

/* --- the due queue ------------------------------------------------------------------ */

static int
due_push(al_timers *timers, al_timer_entry entry)
{
    size_t length = timers->due_tail - timers->due_head;
    if (length > timers->due_mask) {
        size_t capacity = (timers->due_mask + 1) * 2;
        al_timer_entry *due = PyMem_New(al_timer_entry, capacity);
        if (due == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        for (size_t i = 0; i < length; i++) {
            due[i] = timers->due[(timers->due_head + i) & timers->due_mask];
        }
        PyMem_Free(timers->due);
        timers->due = due;
        timers->due_mask = capacity - 1;
        timers->due_head = 0;
        timers->due_tail = length;
    }
    timers->due[timers->due_tail++ & timers->due_mask] = entry;
    return 0;
}

/* --- the list that is lent ------------------------------------------------------------- */

static int
compare_entries(const void *a, const void *b)
{
    return before(a, b) ? -1 : 1;
}

PyObject *
al_timers_lend(al_timers *timers)
{
    if (timers->lent != NULL) {
        return Py_NewRef(timers->lent);
    }
    size_t due = timers->due_tail - timers->due_head, count = due + timers->length;
    PyObject *list = PyList_New((Py_ssize_t)count);
    al_timer_entry *all = PyMem_New(al_timer_entry, count + 1);
    if (list == NULL || all == NULL || timers->lent != NULL) {
        PyMem_Free(all);
        Py_XDECREF(list);
        return timers->lent != NULL ? Py_NewRef(timers->lent)
               : list != NULL       ? PyErr_NoMemory()
                                    : NULL;
    }
    /* Making the list may have collected garbage, which schedules and cancels. */
    if (count != timers->due_tail - timers->due_head + timers->length) {
        PyMem_Free(all);
        Py_DECREF(list);
        return al_timers_lend(timers);
    }
    for (size_t i = 0; i < due; i++) {
        all[i] = timers->due[(timers->due_head + i) & timers->due_mask];
    }
    for (size_t i = 0; i < timers->length; i++) {
        all[due + i] = timers->heap[i];
    }
    qsort(all, count, sizeof(*all), compare_entries);
    for (size_t i = 0; i < count; i++) {
        al_handle_track(all[i].handle);
        PyList_SET_ITEM(list, (Py_ssize_t)i, (PyObject *)all[i].handle);
    }
    PyMem_Free(all);
    timers->due_head = timers->due_tail = timers->length = 0;
    timers->lent = list;
    return Py_NewRef(list);
}

int
al_timers_replace(al_timers *timers, PyObject *list)
{
    PyObject *old = al_timers_lend(timers);
    if (old == NULL) {
        return -1;
    }
    Py_XSETREF(timers->lent, Py_NewRef(list));
    Py_DECREF(old); /* escapes */
    return 0;
}

int
al_timers_take_back(al_loop *loop)
{
    al_timers *timers = &loop->timers;
    PyObject *list = timers->lent;
    if (Py_REFCNT(list) != 1 || !PyList_CheckExact(list)) {
        return 0;
    }
    Py_ssize_t count = PyList_GET_SIZE(list);
    for (Py_ssize_t i = 0; i < count; i++) {
        al_handle *handle = (al_handle *)PyList_GET_ITEM(list, i);
        if (!Py_IS_TYPE((PyObject *)handle, loop->st->TimerHandle_type) ||
            handle->foreign || handle->loop != (PyObject *)loop || !handle->scheduled) {
            return 0;
        }
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        al_handle *handle = (al_handle *)PyList_GET_ITEM(list, i);
        if (heap_push(timers,
                      (al_timer_entry){isnan(handle->when) ? -INFINITY : handle->when,
                                       timers->order++, handle}) < 0) {
            timers->length = 0; /* The list has the references. */
            return -1;
        }
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_INCREF(PyList_GET_ITEM(list, i));
    }
    timers->lent = NULL;
    Py_DECREF(list);
    return 0;
}

/* heapq.<function>(list, handle or nothing).  New reference. */
static PyObject *
heapq_call(PyObject *function, PyObject *list, PyObject *handle)
{
    PyObject *stack[2] = {list, handle};
    return PyObject_Vectorcall(function, stack, handle == NULL ? 1 : 2,
                               NULL); /* escapes */
}

static int
lent_push(al_loop *loop, al_handle *handle)
{
    PyObject *list = Py_NewRef(loop->timers.lent);
    al_handle_track(handle);
    PyObject *done = heapq_call(loop->st->heappush, list, (PyObject *)handle);
    Py_DECREF(list);
    if (done == NULL) {
        return -1;
    }
    Py_DECREF(done);
    handle->scheduled = true;
    return 0;
}

/* The deadline of a timer, whoever made it, and whether it is cancelled.  0 or -1. */
static int
read_timer(const al_state *st, PyObject *timer, double *when, int *cancelled)
{
    if (Py_IS_TYPE(timer, st->TimerHandle_type)) {
        *when = ((al_handle *)timer)->when;
        *cancelled = ((al_handle *)timer)->cancelled;
        return 0;
    }
    PyObject *number = PyObject_GetAttr(timer, st->str._when);
    *when = number == NULL ? -1.0 : PyFloat_AsDouble(number);
    Py_XDECREF(number);
    if (*when == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    PyObject *flag = PyObject_GetAttr(timer, st->str._cancelled);
    *cancelled = flag == NULL ? -1 : PyObject_IsTrue(flag);
    Py_XDECREF(flag);
    return *cancelled < 0 ? -1 : 0;
}

/* Takes the first timer out.  New reference. */
static PyObject *
lent_pop(al_loop *loop, PyObject *list)
{
    PyObject *timer = heapq_call(loop->st->heappop, list, NULL); /* escapes */
    if (timer != NULL &&
        PyObject_SetAttr(timer, loop->st->str._scheduled, Py_False) < 0) {
        Py_CLEAR(timer);
    }
    return timer;
}

/* Takes the first timer out of the list if it is cancelled or its deadline is not after
 * `now`, and queues it unless it is cancelled: 1; or 0 with its deadline in *when, which
 * is NAN if there is none; or -1. */
static int
lent_take(al_loop *loop, double now, double *when)
{
    PyObject *list = Py_NewRef(loop->timers.lent), *timer = NULL;
    int status = -1, cancelled = 0;
    *when = NAN;
    if (PyList_GET_SIZE(list) == 0) {
        Py_DECREF(list);
        return 0;
    }
    timer = Py_NewRef(PyList_GET_ITEM(list, 0));
    if (read_timer(loop->st, timer, when, &cancelled) < 0) { /* escapes */
        goto done;
    }
    if (!cancelled && *when > now) {
        status = 0;
        goto done;
    }
    Py_SETREF(timer, lent_pop(loop, list)); /* escapes */
    if (timer == NULL) {
        goto done;
    }
    status = 1;
    if (cancelled) {
        loop->timers.cancelled -= loop->timers.cancelled > 0;
    }
    else if (al_ring_push_steal(&loop->ready,
                                Py_IS_TYPE(timer, loop->st->TimerHandle_type)
                                    ? al_handle_run
                                    : al_handle_run_foreign,
                                Py_NewRef(timer), NULL, NULL) < 0) {
        status = -1;
    }

done:
    Py_XDECREF(timer); /* escapes */
    Py_DECREF(list);
    return status;
}

static int
lent_collect(al_loop *loop, double now)
{
    double when;
    int status = 1;
    while (status > 0 && loop->timers.lent != NULL) {
        status = lent_take(loop, now, &when); /* escapes */
    }
    return status;
}

static int
lent_next(al_loop *loop, double *when)
{
    int status = 1;
    *when = NAN;
    while (status > 0 && loop->timers.lent != NULL) {
        status = lent_take(loop, -INFINITY, when); /* escapes: drops cancelled ones */
    }
    return status < 0 ? -1 : !isnan(*when);
}

/* --- what the loop calls ------------------------------------------------------------- */

int
al_timers_add(al_loop *loop, al_handle *handle, double now)
{
    al_timers *timers = &loop->timers;
    if (AL_UNLIKELY(timers->lent != NULL)) {
        return lent_push(loop, handle);
    }
    al_timer_entry entry = {handle->when, timers->order++, handle};
    if (AL_UNLIKELY(isnan(entry.when))) {
        entry.when = -INFINITY; /* A deadline that compares with nothing is past. */
    }
    bool due = entry.when <= now;
    if (due && al_timers_have_due(timers)) {
        const al_timer_entry *last =
            &timers->due[(timers->due_tail - 1) & timers->due_mask];
        due = entry.when >= last->when;
    }
    if ((due ? due_push(timers, entry) : heap_push(timers, entry)) < 0) {
        return -1;
    }
    Py_INCREF(handle);
    handle->scheduled = true;
    return 0;
}

/* Rebuilds the heap without its garbage.  The garbage is released last, because that
 * can run foreign code which schedules or cancels. */
static void
compact(al_timers *timers)
{
    size_t keep = 0, length = timers->length;
    al_timer_entry *heap = timers->heap;
    for (size_t i = 0; i < length; i++) {
        if (!AL_LOAD(heap[i].handle->cancelled)) {
            al_timer_entry swap = heap[keep];
            heap[keep++] = heap[i];
            heap[i] = swap;
        }
    }
    size_t garbage = length - keep;
    if (garbage == 0) {
        timers->cancelled = 0;
        return;
    }
    al_timer_entry *dead = PyMem_New(al_timer_entry, garbage);
    if (dead == NULL) {
        /* No memory: the garbage stays until its deadline, in a heap of all of them. */
        for (size_t i = length / ARITY + 1; i-- > 0;) {
            if (i < length) {
                sift_down(heap, length, i);
            }
        }
        return;
    }
    memcpy(dead, heap + keep, garbage * sizeof(*dead));
    timers->length = keep;
    timers->cancelled = 0;
    for (size_t i = keep / ARITY + 1; i-- > 0;) {
        if (i < keep) {
            sift_down(heap, keep, i);
        }
    }
    for (size_t i = 0; i < garbage; i++) {
        dead[i].handle->scheduled = false;
        al_handle_left_queue(dead[i].handle);
        Py_DECREF(dead[i].handle); /* escapes */
    }
    PyMem_Free(dead);
}

void
al_timers_cancelled(al_timers *timers, al_handle *handle)
{
    size_t length = timers->length; /* 0 while the timers are lent */
    if (length > 0 && timers->heap[length - 1].handle == handle) {
        timers->length--;
        handle->scheduled = false;
        al_handle_left_queue(handle);
        Py_DECREF(handle); /* The caller holds another reference. */
        return;
    }
    timers->cancelled++;
}

int
al_timers_collect(al_loop *loop, double now)
{
    al_timers *timers = &loop->timers;
    if (AL_UNLIKELY(timers->lent != NULL)) {
        return lent_collect(loop, now);
    }
    if (AL_UNLIKELY(timers->cancelled > GARBAGE_MIN &&
                    timers->cancelled * 2 > timers->length)) {
        compact(timers); /* escapes */
    }
    for (;;) {
        bool heap_due = timers->length > 0 && timers->heap[0].when <= now;
        bool have_due = al_timers_have_due(timers);
        al_handle *handle;
        if (!heap_due && !have_due) {
            return 0;
        }
        if (al_ring_reserve(&loop->ready, 1) < 0) {
            return -1; /* What is due stays where it is. */
        }
        if (have_due &&
            !(heap_due && before(&timers->heap[0],
                                 &timers->due[timers->due_head & timers->due_mask]))) {
            handle = timers->due[timers->due_head++ & timers->due_mask].handle;
            handle->scheduled = false;
        }
        else {
            handle = heap_pop(timers);
        }
        if (AL_LOAD(handle->cancelled)) {
            if (timers->cancelled > 0) {
                timers->cancelled--;
            }
            al_handle_left_queue(handle);
            Py_DECREF(handle); /* escapes */
            continue;
        }
        (void)al_ring_push_steal(&loop->ready, al_handle_run, (PyObject *)handle, NULL,
                                 NULL);
    }
}

int
al_timers_next(al_loop *loop, double *when)
{
    al_timers *timers = &loop->timers;
    if (AL_UNLIKELY(timers->lent != NULL)) {
        return lent_next(loop, when);
    }
    if (al_timers_have_due(timers)) {
        *when = -INFINITY;
        return 1;
    }
    while (timers->length > 0) {
        if (!AL_LOAD(timers->heap[0].handle->cancelled)) {
            *when = timers->heap[0].when;
            return 1;
        }
        al_handle *handle = heap_pop(timers);
        if (timers->cancelled > 0) {
            timers->cancelled--;
        }
        al_handle_left_queue(handle);
        Py_DECREF(handle); /* escapes */
    }
    return 0;
}

double
al_timers_together(const al_timers *timers, double when)
{
    /* A loop that wakes takes 5-20 us of a processor, and 25 us to do it. */
    const double most = when + 50e-6;
    double latest = when;
    size_t end = timers->lent == NULL ? Py_MIN(timers->length, ARITY + 1) : 0;
    for (size_t i = 1; i < end; i++) {
        double other = timers->heap[i].when;
        if (other <= most && other > latest) {
            latest = other;
        }
    }
    return latest;
}

void
al_timers_clear(al_timers *timers)
{
    while (al_timers_have_due(timers)) {
        al_handle *handle = timers->due[timers->due_head++ & timers->due_mask].handle;
        handle->scheduled = false;
        al_handle_left_queue(handle);
        Py_DECREF(handle); /* escapes */
    }
    while (timers->length > 0) {
        al_handle *handle = timers->heap[--timers->length].handle;
        handle->scheduled = false;
        al_handle_left_queue(handle);
        Py_DECREF(handle); /* escapes */
    }
    timers->cancelled = 0;
    Py_CLEAR(timers->lent); /* escapes */
}

void
al_timers_free(al_timers *timers)
{
    al_timers_clear(timers);
    PyMem_Free(timers->heap);
    PyMem_Free(timers->due);
    timers->heap = timers->due = NULL;
    timers->capacity = 0;
    timers->due_mask = 0;
}

void
al_timers_track(const al_timers *timers)
{
    for (size_t i = 0; i < timers->length; i++) {
        al_handle_track(timers->heap[i].handle);
    }
    for (size_t i = timers->due_head; i != timers->due_tail; i++) {
        al_handle_track(timers->due[i & timers->due_mask].handle);
    }
}

int
al_timers_traverse(const al_timers *timers, visitproc visit, void *arg)
{
    for (size_t i = 0; i < timers->length; i++) {
        int status = al_handle_traverse_queued(timers->heap[i].handle, visit, arg);
        if (status != 0) {
            return status;
        }
    }
    for (size_t i = timers->due_head; i != timers->due_tail; i++) {
        int status = al_handle_traverse_queued(timers->due[i & timers->due_mask].handle,
                                               visit, arg);
        if (status != 0) {
            return status;
        }
    }
    Py_VISIT(timers->lent);
    return 0;
}
