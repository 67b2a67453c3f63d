/* virtual.c: see virtual.h. */
#include "core/virtual.h"

#include <math.h>

#include "core/poll.h"
#include "core/sched.h"

typedef struct {
    PyObject_HEAD
    int64_t now;      /* ns */
    int64_t autojump; /* ns of real time; NEVER: it moves only when it is told to */
    uint64_t jumps;   /* so often it has moved by itself */
} al_clock;

struct al_virtual {
    al_clock *clock; /* owned */
    size_t held;     /* pieces of work outside that will come back */
    /* The real time since when nothing has run, and the head of the ready ring then. */
    int64_t idle_since;
    size_t idle_head;
    /* The same since when this timer is the next one, while `held`. */
    int64_t waited_since;
    uint64_t waited_for; /* its number, or NOBODY */
    int64_t last;        /* ns on the clock: it does not pass this, or NEVER: it may */
    PyObject *stuck;     /* what to call when nothing can happen, or `last` comes */
};

enum { NEVER = -1 };
/* Seconds that a clock may show: a third of what 64 bits hold. */
static const double LAST = 3e9;
static const uint64_t NOBODY = UINT64_MAX;

/* --- the clock --------------------------------------------------------------------- */

/* Nanoseconds of a number of seconds: 0, or -1 with ValueError or what the number's
 * conversion raises.  Escapes. */
static int
read_seconds(PyObject *number, const char *name, double least, int64_t *result)
{
    double seconds = PyFloat_AsDouble(number); /* escapes */
    if (seconds == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (!(seconds >= least && seconds <= LAST)) {
        PyErr_Format(PyExc_ValueError, "%s must be from %d to %lld seconds, not %R",
                     name, (int)least, (long long)LAST, number);
        return -1;
    }
    *result = llround(seconds * 1e9);
    return 0;
}

/* The same of `autojump`: None and infinity are NEVER. */
static int
read_autojump(PyObject *number, int64_t *result)
{
    if (number == Py_None ||
        (PyFloat_Check(number) && PyFloat_AS_DOUBLE(number) == Py_HUGE_VAL)) {
        *result = NEVER;
        return 0;
    }
    return read_seconds(number, "autojump", 0, result);
}

static PyObject *
clock_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    char start_name[] = "start", autojump_name[] = "autojump";
    char *names[] = {start_name, autojump_name, NULL};
    PyObject *start = NULL, *autojump = NULL;
    int64_t now = 0, patience = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO:VirtualClock", names, &start,
                                     &autojump) ||
        (start != NULL && read_seconds(start, "start", 0, &now) < 0) ||
        (autojump != NULL && read_autojump(autojump, &patience) < 0)) {
        return NULL;
    }
    al_clock *self = (al_clock *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->now = now;
        self->autojump = patience;
    }
    return (PyObject *)self;
}

static int
clock_traverse(al_clock *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static void
clock_dealloc(al_clock *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    type->tp_free(self);
    Py_DECREF(type);
}

PyDoc_STRVAR(clock_time_doc, "time($self, /)\n--\n\n"
                             "Return the clock's time in seconds.");

static PyObject *
VirtualClock_time(al_clock *self, PyObject *Py_UNUSED(ignored))
{
    return PyFloat_FromDouble((double)self->now / 1e9);
}

PyDoc_STRVAR(clock_move_doc, "_move($self, nanoseconds, /)\n--\n\n"
                             "Move on; the loops are told by _clock_moved().");

static PyObject *
VirtualClock__move(al_clock *self, PyObject *number)
{
    long long by = PyLong_AsLongLong(number);
    if (by == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (by < 0 || by > INT64_MAX - self->now) {
        PyErr_SetString(PyExc_OverflowError, "a clock cannot be moved so far");
        return NULL;
    }
    self->now += by;
    Py_RETURN_NONE;
}

static PyObject *
clock_get_nanoseconds(al_clock *self, void *Py_UNUSED(closure))
{
    return PyLong_FromLongLong(self->now);
}

static PyObject *
clock_get_jumps(al_clock *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(self->jumps);
}

static PyObject *
clock_get_autojump(al_clock *self, void *Py_UNUSED(closure))
{
    if (self->autojump == NEVER) {
        Py_RETURN_NONE;
    }
    return PyFloat_FromDouble((double)self->autojump / 1e9);
}

static int
clock_set_autojump(al_clock *self, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "can't delete this attribute");
        return -1;
    }
    return read_autojump(value, &self->autojump);
}

static PyMethodDef clock_methods[] = {
    {"time", (PyCFunction)VirtualClock_time, METH_NOARGS, clock_time_doc},
    {"_move", (PyCFunction)VirtualClock__move, METH_O, clock_move_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef clock_getsets[] = {
    {"nanoseconds", (getter)clock_get_nanoseconds, NULL,
     PyDoc_STR("The clock's time as an integer."), NULL},
    {"jumps", (getter)clock_get_jumps, NULL,
     PyDoc_STR("How often the clock has moved by itself."), NULL},
    {"autojump", (getter)clock_get_autojump, (setter)clock_set_autojump,
     PyDoc_STR("Real seconds to wait for watched files before the clock moves by\n"
               "itself; None: it moves only when it is told to."),
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static char clock_doc[] = PyDoc_STR("VirtualClock(start=0.0, autojump=0.0)\n--\n\n"
                                    "The clock under aioloop.testing.Clock.");

static PyType_Slot clock_slots[] = {
    {Py_tp_doc, clock_doc},
    {Py_tp_new, clock_tp_new},
    {Py_tp_dealloc, clock_dealloc},
    {Py_tp_traverse, clock_traverse},
    {Py_tp_methods, clock_methods},
    {Py_tp_getset, clock_getsets},
    {0, NULL},
};

static PyType_Spec clock_spec = {
    .name = "aioloop._core.VirtualClock",
    .basicsize = sizeof(al_clock),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = clock_slots,
};

int
al_virtual_init_type(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->VirtualClock_type, &clock_spec, NULL) < 0
               ? -1
               : PyModule_AddType(module, st->VirtualClock_type);
}

/* --- what the loop asks -------------------------------------------------------------- */

double
al_virtual_now(const al_loop *loop)
{
    return (double)loop->virtual->clock->now / 1e9;
}

int64_t
al_virtual_nanoseconds(const al_loop *loop)
{
    return loop->virtual->clock->now;
}

void
al_virtual_pass(al_loop *loop, int64_t nanoseconds)
{
    al_clock *clock = loop->virtual->clock;
    clock->now += Py_MIN(nanoseconds, INT64_MAX - clock->now);
    al_look_must(&loop->look);
}

double
al_virtual_round(double when)
{
    return fabs(when) <= LAST ? (double)llround(when * 1e9) / 1e9 : when;
}

int64_t
al_virtual_distance(double seconds)
{
    return seconds <= LAST ? llround(fmax(seconds, 0.) * 1e9) : -1;
}

/* How long the next timer, so many nanoseconds away, has to wait for the outside: real
 * nanoseconds, 0: not at all, NEVER: for ever. */
static int64_t
patience(al_loop *loop, int64_t distance)
{
    al_virtual *virtual = loop->virtual;
    int64_t now = al_poll_clock(), autojump = virtual->clock->autojump;
    if (virtual->idle_head != loop->ready.head || virtual->idle_since == 0) {
        virtual->idle_head = loop->ready.head;
        virtual->idle_since = now;
    }
    if (autojump == NEVER) {
        return NEVER;
    }
    int64_t left = 0;
    if (virtual->held > 0) {
        const al_timers *timers = &loop->timers;
        uint64_t next = timers->length > 0 ? timers->heap[0].order : NOBODY - 1;
        if (next != virtual->waited_for) {
            virtual->waited_for = next;
            virtual->waited_since = now;
        }
        left = distance - (now - virtual->waited_since);
    }
    else if (al_look_has_watchers(&loop->look)) {
        left = Py_MIN(distance, autojump) - (now - virtual->idle_since);
    }
    return Py_MAX(left, 0);
}

/* Looks at the selector, seldom where nobody watches a file: all that can be seen then are
 * signals, and other threads get the GIL. */
static int
look(al_loop *loop)
{
    const al_look *last = &loop->look;
    if (loop->faults != NULL) {
        al_faults_let_go(loop);
    }
    return al_look_has_watchers(last) || last->must ||
                   al_poll_clock() - last->polled_at >= last->seldom
               ? al_sched_poll(loop, 0) /* escapes */
               : 0;
}

/* What was scheduled since `limit` was computed may come before, and so may an event that
 * is held back. */
static int
shorten(al_loop *loop, int64_t *limit)
{
    double when;
    int64_t event = al_faults_next(loop);
    if (event >= 0 && (*limit < 0 || event < *limit)) {
        *limit = event;
    }
    if (loop->timers.lent != NULL) {
        return 0; /* Who has the list has computed the limit. */
    }
    int found = al_timers_next(loop, &when); /* escapes */
    if (found > 0 && loop->virtual != NULL) {
        int64_t distance = al_virtual_distance(when - al_virtual_now(loop));
        if (distance >= 0 && (*limit < 0 || distance < *limit)) {
            *limit = distance;
        }
    }
    return found < 0 ? -1 : 0;
}

/* Whether the look at the selector, or foreign code in it, has given the loop something
 * to do. */
static bool
is_busy(const al_loop *loop)
{
    int fd, events;
    return loop->virtual == NULL || loop->stopping || al_ring_len(&loop->ready) > 0 ||
           al_poll_logged(loop->poll, 0, &fd, &events);
}

/* Tells the test that nothing can happen any more, or that too much time has passed.
 * Returns how many real nanoseconds to wait before it is told again, NEVER: not again;
 * or -2 with the exception that it has raised.  Escapes. */
static int64_t
tell_stuck(al_loop *loop, bool late)
{
    if (loop->virtual->stuck == NULL) {
        return NEVER;
    }
    PyObject *function = Py_NewRef(loop->virtual->stuck);
    PyObject *answer =
        PyObject_CallOneArg(function, late ? Py_True : Py_False); /* escapes */
    Py_DECREF(function);
    if (answer == NULL) {
        return -2;
    }
    double seconds = answer == Py_None ? -1. : PyFloat_AsDouble(answer); /* escapes */
    Py_DECREF(answer);
    return PyErr_Occurred() ? -2 : seconds < 0 ? NEVER : llround(seconds * 1e9);
}

/* There is no timer: waits for the outside, if there is any. */
static int
wait_for_outside(al_loop *loop)
{
    int64_t wait = NEVER;
    if (loop->virtual->held == 0 && !al_look_has_watchers(&loop->look)) {
        wait = tell_stuck(loop, false); /* escapes */
    }
    return wait == -2                        ? -1
           : wait != NEVER || !is_busy(loop) ? al_sched_poll(loop, wait) /* escapes */
                                             : 0;
}

/* The clock's next time would be later than the test allows.  0 or -1.  Escapes. */
static int
come_too_far(al_loop *loop)
{
    loop->virtual->last = NEVER; /* The program's clean-up may take its time. */
    return tell_stuck(loop, true) == -2 ? -1 : 0; /* escapes */
}

int
al_virtual_wait(al_loop *loop, int64_t limit)
{
    if (look(loop) < 0) { /* escapes */
        return -1;
    }
    if (limit == 0 || is_busy(loop)) {
        return 0;
    }
    if (shorten(loop, &limit) < 0) { /* escapes */
        return -1;
    }
    if (limit == 0 || is_busy(loop)) {
        return 0;
    }
    if (limit < 0) {
        return wait_for_outside(loop); /* escapes */
    }
    al_clock *clock = loop->virtual->clock;
    int64_t wait = patience(loop, limit);
    if (wait != 0) {
        return al_sched_poll(loop, wait); /* escapes */
    }
    if (limit > INT64_MAX - clock->now) {
        PyErr_SetString(PyExc_OverflowError, "the virtual clock has come to its end");
        return -1;
    }
    if (loop->virtual->last != NEVER && limit > loop->virtual->last - clock->now) {
        return come_too_far(loop); /* escapes */
    }
    clock->now += limit;
    clock->jumps++;
    loop->virtual->waited_for = NOBODY;
    loop->virtual->idle_since = 0;
    return 0;
}

int
al_virtual_traverse(const al_loop *loop, visitproc visit, void *arg)
{
    if (loop->virtual != NULL) {
        Py_VISIT(loop->virtual->clock);
        Py_VISIT(loop->virtual->stuck);
    }
    return 0;
}

/* Escapes. */
static void
release(al_virtual *virtual)
{
    if (virtual != NULL) {
        Py_DECREF(virtual->clock); /* escapes */
        Py_XDECREF(virtual->stuck);
        PyMem_Free(virtual);
    }
}

void
al_virtual_free(al_loop *loop)
{
    al_virtual *virtual = loop->virtual;
    loop->virtual = NULL;
    release(virtual); /* escapes */
}

/* --- for aioloop.testing ---------------------------------------------------------------- */

/* The loop has another clock from now on: its timers keep their distances. */
static void
shift_timers(al_loop *loop, double by)
{
    al_timers *timers = &loop->timers;
    for (size_t i = 0; i < timers->length; i++) {
        al_timer_entry *entry = &timers->heap[i];
        entry->when = entry->handle->when = al_virtual_round(entry->when + by);
    }
    for (size_t i = timers->due_head; i != timers->due_tail; i++) {
        al_timer_entry *entry = &timers->due[i & timers->due_mask];
        entry->when = entry->handle->when = al_virtual_round(entry->when + by);
    }
    PyObject *list = timers->lent;
    for (Py_ssize_t i = 0; list != NULL && i < PyList_GET_SIZE(list); i++) {
        PyObject *timer = PyList_GET_ITEM(list, i);
        if (Py_IS_TYPE(timer, loop->st->TimerHandle_type)) {
            al_handle *handle = (al_handle *)timer;
            handle->when = al_virtual_round(handle->when + by);
        }
    }
}

PyDoc_STRVAR(
    set_clock_doc,
    "_set_clock($module, loop, clock, stuck, last, /)\n--\n\n"
    "Give the loop a VirtualClock, or with None the kernel's time again. Its\n"
    "timers keep their distances.\n\n"
    "stuck(False) is called when nothing can happen any more, and\n"
    "stuck(True) once instead of passing `last` nanoseconds (below 0: never).\n"
    "It returns how many real seconds to wait before it is asked again, or\n"
    "None; what it raises leaves run_forever().");

static PyObject *
core_set_clock(PyObject *module, PyObject *args)
{
    const al_state *st = al_state_of_module(module);
    al_loop *loop;
    PyObject *clock, *stuck;
    long long last;
    if (!PyArg_ParseTuple(args, "O!OOL:_set_clock", st->EventLoop_type, &loop, &clock,
                          &stuck, &last)) {
        return NULL;
    }
    if (clock != Py_None && !PyObject_TypeCheck(clock, st->VirtualClock_type)) {
        PyErr_Format(PyExc_TypeError, "a VirtualClock was expected, got %R", clock);
        return NULL;
    }
    double before = al_sched_clock(loop);
    al_virtual *made = NULL;
    if (clock != Py_None) {
        made = PyMem_Calloc(1, sizeof(*made));
        if (made == NULL) {
            return PyErr_NoMemory();
        }
        made->clock = (al_clock *)Py_NewRef(clock);
        made->waited_for = NOBODY;
        made->last = last < 0 ? NEVER : last;
        made->stuck = stuck == Py_None ? NULL : Py_NewRef(stuck);
    }
    al_virtual *old = loop->virtual;
    loop->virtual = made;
    AL_STORE(loop->debug.switches,
             made != NULL ? loop->debug.switches | AL_DEBUG_CLOCK
                          : loop->debug.switches & ~(unsigned)AL_DEBUG_CLOCK);
    shift_timers(loop, al_sched_clock(loop) - before);
    al_override_timers_moved(loop);
    al_look_must(&loop->look);
    release(old); /* escapes */
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    hold_clock_doc,
    "_hold_clock($module, loop, clock, by, /)\n--\n\n"
    "So many more pieces of work outside will come back to the loop, or fewer,\n"
    "if its clock is this one.");

static PyObject *
core_hold_clock(PyObject *module, PyObject *args)
{
    al_loop *loop;
    PyObject *clock;
    int by;
    if (!PyArg_ParseTuple(args, "O!Oi:_hold_clock",
                          al_state_of_module(module)->EventLoop_type, &loop, &clock,
                          &by)) {
        return NULL;
    }
    al_virtual *virtual = loop->virtual;
    if (virtual != NULL && (PyObject *)virtual->clock == clock &&
        (by >= 0 || virtual->held >= (size_t)-(Py_ssize_t)by)) {
        if (virtual->held == 0) {
            virtual->waited_for = NOBODY;
        }
        virtual->held += (size_t)(Py_ssize_t)by;
        al_wake_up(loop);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(until_next_timer_doc,
             "_until_next_timer($module, loop, /)\n--\n\n"
             "Nanoseconds on the loop's clock until its next timer, or None.");

static PyObject *
core_until_next_timer(PyObject *module, PyObject *arg)
{
    al_loop *loop = al_loop_check(al_state_of_module(module), arg);
    double when;
    if (loop == NULL || loop->virtual == NULL) {
        PyErr_SetString(PyExc_TypeError, "a loop with a virtual clock was expected");
        return NULL;
    }
    int found = al_timers_next(loop, &when); /* escapes */
    if (found < 0) {
        return NULL;
    }
    int64_t distance = found == 0 || loop->virtual == NULL
                           ? -1
                           : al_virtual_distance(when - al_virtual_now(loop));
    int64_t event = loop->virtual == NULL ? -1 : al_faults_next(loop);
    if (event >= 0 && (distance < 0 || event < distance)) {
        distance = event;
    }
    if (distance < 0) {
        Py_RETURN_NONE;
    }
    return PyLong_FromLongLong(distance);
}

PyDoc_STRVAR(clock_moved_doc, "_clock_moved($module, loop, /)\n--\n\n"
                              "The loop's clock has been moved.");

static PyObject *
core_clock_moved(PyObject *module, PyObject *arg)
{
    al_loop *loop = al_loop_check(al_state_of_module(module), arg);
    if (loop != NULL && loop->poll != NULL) {
        al_look_must(&loop->look);
        al_wake_up(loop);
    }
    Py_RETURN_NONE;
}

PyMethodDef al_virtual_methods[] = {
    {"_set_clock", core_set_clock, METH_VARARGS, set_clock_doc},
    {"_hold_clock", core_hold_clock, METH_VARARGS, hold_clock_doc},
    {"_until_next_timer", core_until_next_timer, METH_O, until_next_timer_doc},
    {"_clock_moved", core_clock_moved, METH_O, clock_moved_doc},
    {NULL, NULL, 0, NULL},
};
