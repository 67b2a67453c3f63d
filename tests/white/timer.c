/* Timers against an array of those that are pending: each comes when it is due, in order,
 * and once; a cancelled one never; whatever is released may schedule and cancel others. */
#include "white.h"

#include <structmember.h>

#include "base/ring.c"
#include "core/timer.c"

enum { MOST = 1024 };

typedef struct {
    al_handle *handle; /* the timers own it; we too if it is kept */
    double when;
    unsigned long long number;
    bool kept;
} modelled;

static modelled model[MOST];
static size_t pending;
static al_state state;
static al_loop loop;
static double now;
static unsigned long long numbers;
static long living;
/* Where less is certain: of the order, and of the count of garbage. */
static bool lent_once, disturbed, disturbed_once;
static white_input *foreign; /* what released handles do; NULL: nothing */

/* --- handles -------------------------------------------------------------------------- */

static void disturb(white_input *input);

static void
handle_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    PyObject_GC_Del(self);
    living--;
    if (foreign != NULL) {
        white_input *input = foreign;
        foreign = NULL; /* Once, or the garbage would never end. */
        disturb(input);
        foreign = input;
    }
}

static int
handle_traverse(PyObject *Py_UNUSED(self), visitproc Py_UNUSED(visit),
                void *Py_UNUSED(arg))
{
    return 0;
}

static PyObject *
handle_compare(PyObject *a, PyObject *b, int how)
{
    CHECK(how == Py_LT);
    return PyBool_FromLong(((al_handle *)a)->when < ((al_handle *)b)->when);
}

static PyMemberDef handle_members[] = {
    {"_scheduled", T_BOOL, offsetof(al_handle, scheduled), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyTypeObject handle_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "TimerHandle",
    .tp_basicsize = sizeof(al_handle),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_dealloc = handle_dealloc,
    .tp_traverse = handle_traverse,
    .tp_richcompare = handle_compare,
    .tp_members = handle_members,
};

int
al_handle_run(al_loop *Py_UNUSED(of), PyObject *Py_UNUSED(self),
              PyObject *Py_UNUSED(arg), PyObject *Py_UNUSED(extra))
{
    return 0;
}

int
al_handle_run_foreign(al_loop *Py_UNUSED(of), PyObject *Py_UNUSED(self),
                      PyObject *Py_UNUSED(arg), PyObject *Py_UNUSED(extra))
{
    abort();
}

static size_t visited;

int
al_handle_traverse_queued(al_handle *handle, visitproc Py_UNUSED(visit),
                          void *Py_UNUSED(arg))
{
    CHECK(Py_TYPE(handle) == &handle_type && Py_REFCNT(handle) > 0);
    visited++;
    return 0;
}

/* --- what is done ---------------------------------------------------------------------- */

static double
deadline(white_input *input, bool strange)
{
    switch (white_below(input, strange ? 12 : 10)) {
    case 0:
        return now;
    case 1:
        return now - 1e-3 * (double)white_below(input, 10);
    case 2:
        return INFINITY;
    case 3:
    case 4:
        return now + 1e-5 * (double)white_below(input, 16);
    case 10:
        return NAN;
    case 11:
        return -INFINITY;
    default:
        return now + 0.5 * (double)white_below(input, 100);
    }
}

static void
add(white_input *input, bool strange)
{
    if (pending == MOST) {
        return;
    }
    al_handle *handle = PyObject_GC_New(al_handle, &handle_type);
    CHECK(handle != NULL);
    memset((char *)handle + sizeof(PyObject), 0, sizeof(al_handle) - sizeof(PyObject));
    living++;
    handle->loop = (PyObject *)&loop;
    handle->when = deadline(input, strange && loop.timers.lent == NULL);
    CHECK(al_timers_add(&loop, handle, now) == 0);
    CHECK(handle->scheduled && Py_REFCNT(handle) >= 2);
    double when = isnan(handle->when) ? -INFINITY : handle->when;
    bool kept = white_below(input, 2);
    model[pending++] = (modelled){handle, when, numbers++, kept};
    if (!kept) {
        Py_DECREF(handle);
    }
}

static void
cancel(size_t i)
{
    modelled it = model[i];
    model[i] = model[--pending];
    Py_INCREF(it.handle);
    it.handle->cancelled = true;
    al_timers_cancelled(&loop.timers, it.handle);
    Py_DECREF(it.handle);
    if (it.kept) {
        Py_DECREF(it.handle);
    }
}

static void
disturb(white_input *input)
{
    size_t what = white_below(input, 8);
    if (what == 0) {
        disturbed = disturbed_once = true;
        add(input, false);
    }
    else if (what == 1 && pending > 0) {
        disturbed = disturbed_once = true;
        cancel(white_below(input, pending));
    }
}

static size_t
garbage(void)
{
    size_t n = 0;
    for (size_t i = 0; i < loop.timers.length; i++) {
        n += loop.timers.heap[i].handle->cancelled;
    }
    return n;
}

/* Everything that is due, and nothing else, in order. */
static void
collect(white_input *input)
{
    disturbed = false;
    size_t before_it = loop.timers.length;
    now += 0.25 * (double)white_below(input, 16);
    CHECK(al_timers_collect(&loop, now) == 0);
    if (loop.timers.lent == NULL && !disturbed) {
        CHECK(!al_timers_have_due(&loop.timers));
        CHECK(lent_once || disturbed_once || loop.timers.cancelled == garbage());
        CHECK(garbage() <= GARBAGE_MIN || garbage() * 2 <= before_it);
    }
    bool ordered = !disturbed;
    double last = -INFINITY;
    unsigned long long last_number = 0;
    while (al_ring_len(&loop.ready) > 0) {
        al_slot slot = al_ring_pop(&loop.ready);
        CHECK(slot.run == al_handle_run && slot.arg == NULL && slot.extra == NULL);
        size_t i = 0;
        while (i < pending && (PyObject *)model[i].handle != slot.self) {
            i++;
        }
        /* Releasing an earlier one may have cancelled this one. */
        CHECK(i < pending || (disturbed && ((al_handle *)slot.self)->cancelled));
        if (i < pending) {
            modelled it = model[i];
            CHECK(it.when <= now && !it.handle->cancelled && !it.handle->scheduled);
            CHECK(!ordered || it.when > last ||
                  (it.when == last && (lent_once || it.number >= last_number)));
            last = it.when;
            last_number = it.number;
            model[i] = model[--pending];
            if (it.kept) {
                Py_DECREF(it.handle);
            }
        }
        Py_DECREF(slot.self);
    }
    for (size_t i = 0; i < pending && !disturbed; i++) {
        CHECK(model[i].when > now && model[i].handle->scheduled);
    }
}

static void
next(void)
{
    double when, least = INFINITY;
    bool due = al_timers_have_due(&loop.timers);
    disturbed = false;
    int status = al_timers_next(&loop, &when);
    if (disturbed) {
        return;
    }
    for (size_t i = 0; i < pending; i++) {
        least = model[i].when < least ? model[i].when : least;
    }
    CHECK(status == (due || pending > 0));
    CHECK(status == 0 || when == (due ? -INFINITY : least));
    if (status == 1 && !due) {
        double together = al_timers_together(&loop.timers, when);
        CHECK(together == when || (together > when && together <= when + 50e-6));
        bool found = false;
        for (size_t i = 0; i < loop.timers.length; i++) {
            found |= loop.timers.heap[i].when == together;
        }
        CHECK(found || loop.timers.lent != NULL);
    }
}

/* The program gets the list, or gives it back. */
static void
lend(white_input *input, PyObject **held)
{
    if (*held != NULL && white_below(input, 2) == 0) {
        Py_CLEAR(*held);
        CHECK(al_timers_take_back(&loop) == 0);
        CHECK(loop.timers.lent == NULL);
        return;
    }
    bool first = loop.timers.lent == NULL;
    PyObject *list = al_timers_lend(&loop.timers);
    CHECK(list != NULL && list == loop.timers.lent && loop.timers.length == 0);
    lent_once = true;
    size_t found = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        al_handle *handle = (al_handle *)PyList_GET_ITEM(list, i);
        found += !handle->cancelled;
        CHECK(PyObject_GC_IsTracked((PyObject *)handle) && handle->scheduled);
        CHECK(!first || i == 0 ||
              !(handle->when <
                ((al_handle *)PyList_GET_ITEM(list, i - 1))->when)); /* may be NAN */
    }
    CHECK(found == pending);
    if (white_below(input, 4) == 0) {
        Py_SETREF(list, PyList_GetSlice(list, 0, PyList_GET_SIZE(list)));
        CHECK(list != NULL && al_timers_replace(&loop.timers, list) == 0);
    }
    Py_XSETREF(*held, list);
}

static int
visit_nothing(PyObject *Py_UNUSED(object), void *Py_UNUSED(arg))
{
    return 0;
}

static void
compare(void)
{
    al_timers *timers = &loop.timers;
    size_t due = timers->due_tail - timers->due_head;
    CHECK(due <= timers->due_mask + 1);
    for (size_t i = 1; i < timers->length; i++) {
        CHECK(!before(&timers->heap[i], &timers->heap[(i - 1) / ARITY]));
    }
    for (size_t i = timers->due_head + 1; due > 0 && i != timers->due_tail; i++) {
        CHECK(before(&timers->due[(i - 1) & timers->due_mask],
                     &timers->due[i & timers->due_mask]));
    }
    visited = 0;
    CHECK(al_timers_traverse(timers, visit_nothing, NULL) == 0);
    CHECK(visited == timers->length + due);
    CHECK(timers->lent != NULL || visited >= pending);
}

static void
forget(void)
{
    while (pending > 0) {
        modelled it = model[--pending];
        if (it.kept) {
            CHECK(!it.handle->scheduled || loop.timers.lent != NULL || lent_once);
            Py_DECREF(it.handle);
        }
    }
}

static void
set_up(void)
{
    CHECK(PyType_Ready(&handle_type) == 0);
    state.TimerHandle_type = &handle_type;
    PyObject *heapq = PyImport_ImportModule("heapq");
    CHECK(heapq != NULL);
    state.heappush = PyObject_GetAttrString(heapq, "heappush");
    state.heappop = PyObject_GetAttrString(heapq, "heappop");
    state.str._scheduled = PyUnicode_InternFromString("_scheduled");
    Py_DECREF(heapq);
    loop.st = &state;
}

static void
one(white_input *input)
{
    PyObject *held = NULL;
    if (loop.st == NULL) {
        set_up();
    }
    CHECK(al_timers_init(&loop.timers) == 0 && al_ring_init(&loop.ready) == 0);
    now = 1000;
    lent_once = disturbed_once = false;
    foreign = NULL;
    bool lending = white_below(input, 2), strange = !lending;
    bool hostile = white_below(input, 2);
    while (white_more(input)) {
        foreign = hostile ? input : NULL;
        switch (white_below(input, 16)) {
        case 0:
        case 1:
            collect(input);
            break;
        case 2:
            next();
            break;
        case 3:
            if (lending) {
                foreign = NULL;
                lend(input, &held);
            }
            break;
        case 4:
            for (size_t n = white_below(input, 128); n > 0 && pending > 0; n--) {
                cancel(white_below(input, pending));
            }
            break;
        case 5:
            for (size_t n = white_below(input, 128); n > 0; n--) {
                add(input, strange);
            }
            break;
        case 6:
            al_timers_track(&loop.timers);
            break;
        case 7:
            foreign = NULL;
            if (white_below(input, 16) == 0 && held == NULL) {
                al_timers_clear(&loop.timers);
                forget();
            }
            break;
        case 8:
        case 9:
        case 10:
            if (pending > 0) { /* often the newest, as a timeout that did not happen */
                cancel(white_below(input, 2) ? pending - 1
                                             : white_below(input, pending));
            }
            break;
        default:
            add(input, strange);
        }
        CHECK(!PyErr_Occurred());
        compare();
    }
    foreign = NULL;
    Py_CLEAR(held);
    al_timers_free(&loop.timers);
    al_ring_free(&loop.ready);
    forget();
    CHECK(living == 0);
}
