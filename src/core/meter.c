/* meter.c: see meter.h. */
#include "core/meter.h"

#include "core/handle.h"
#include "core/poll.h"
#include "core/recorder.h"
#include "core/sched.h"
#include "core/usage.h"

/* 1, 2, 5 and so on, from a microsecond to ten seconds. */
static const int64_t bounds[AL_METER_BUCKETS] = {
    1000,       2000,       5000,       10000,       20000,     50000,
    100000,     200000,     500000,     1000000,     2000000,   5000000,
    10000000,   20000000,   50000000,   100000000,   200000000, 500000000,
    1000000000, 2000000000, 5000000000, 10000000000, INT64_MAX,
};

struct al_meter {
    al_histogram queue_delay, callback_duration, timer_lateness;
    int64_t active, idle, gil; /* ns, of phases that are over */
    int64_t mark;              /* ns: since then it is active; 0: it does not run */
    size_t most_ready;
    /* For a number of n bits, the first bound that is not below 1 << (n - 1): between
     * two powers of two there is one bound at most. */
    uint8_t first[65];
    al_usage usage;
    al_recorder recorder;
};

/* --- histograms --------------------------------------------------------------------------- */

static int
count_bits(uint64_t number)
{
    return number == 0 ? 0 : 64 - __builtin_clzll(number);
}

static void
fill_first(al_meter *meter)
{
    for (int bits = 0; bits <= 64; bits++) {
        uint64_t least = bits == 0 ? 0 : (uint64_t)1 << (bits - 1);
        uint8_t i = 0;
        while (i < AL_METER_BUCKETS - 1 && (uint64_t)bounds[i] < least) {
            i++;
        }
        meter->first[bits] = i;
    }
}

static inline void
observe(const al_meter *meter, al_histogram *histogram, int64_t ns)
{
    if (AL_UNLIKELY(ns < 0)) {
        ns = 0; /* Two processors' clocks, or a coarse reading before. */
    }
    size_t i = meter->first[count_bits((uint64_t)ns)];
    i += ns > bounds[i];
    histogram->counts[i]++;
    histogram->sum += ns;
}

/* --- the switch --------------------------------------------------------------------------- */

int
al_meter_set(al_loop *loop, bool on)
{
    if (!on) {
        if ((loop->debug.switches & AL_DEBUG_METER) != 0) {
            al_meter_leave(loop);
            loop->debug.switches &= ~(unsigned)AL_DEBUG_METER;
            al_ring_drop_stamps(&loop->ready);
        }
        return 0;
    }
    if (loop->meter == NULL) {
        loop->meter = PyMem_Calloc(1, sizeof(al_meter));
        if (loop->meter == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        fill_first(loop->meter);
        al_usage_init(&loop->meter->usage);
        al_recorder_init(&loop->meter->recorder);
    }
    int64_t now = al_poll_clock();
    if (!loop->closed && al_ring_keep_stamps(&loop->ready, now) < 0) {
        return -1;
    }
    loop->debug.switches |= AL_DEBUG_METER;
    loop->debug.slot_began = 0;
    if (loop->debug.base != NULL) {
        al_meter_enter(loop);
    }
    return 0;
}

int
al_meter_traverse(const al_loop *loop, visitproc visit, void *arg)
{
    return loop->meter == NULL ? 0 : al_usage_traverse(&loop->meter->usage, visit, arg);
}

void
al_meter_forget(al_loop *loop)
{
    if (loop->meter != NULL) {
        al_usage_clear(&loop->meter->usage); /* escapes */
    }
}

void
al_meter_free(al_loop *loop)
{
    PyMem_Free(loop->meter);
    loop->meter = NULL;
}

/* --- what the loop tells ------------------------------------------------------------------ */

void
al_meter_enter(al_loop *loop)
{
    if ((loop->debug.switches & AL_DEBUG_METER) != 0 && loop->meter->mark == 0) {
        loop->meter->mark = al_poll_clock();
    }
}

void
al_meter_leave(al_loop *loop)
{
    al_meter *meter = loop->meter;
    if (meter != NULL && meter->mark != 0) {
        meter->active += al_poll_clock() - meter->mark;
        meter->mark = 0;
    }
}

void
al_meter_polled(al_loop *loop, int64_t timeout, int64_t began, int64_t ended)
{
    al_meter *meter = loop->meter;
    int64_t gil = al_poll_gil_wait(loop->poll);
    if (meter->mark == 0) {
        return; /* A wait by hand, of a loop that does not run. */
    }
    meter->gil += gil;
    if (timeout == 0) {
        meter->active -= gil; /* It is part of what will be added. */
        return;
    }
    meter->active += began - meter->mark;
    meter->idle += ended - began - gil;
    meter->mark = ended;
}

void
al_meter_gathered(al_loop *loop, int64_t now)
{
    size_t ready = al_ring_len(&loop->ready);
    if (ready > loop->meter->most_ready) {
        loop->meter->most_ready = ready;
    }
    al_ring_stamp(&loop->ready, now);
}

struct al_usage_entry *
al_meter_begin(al_loop *loop, const al_slot *slot)
{
    return al_usage_find(&loop->meter->usage, loop, slot);
}

/* How late a timer is, or -1 if the slot is none of the loop's own time. */
static inline int64_t
lateness(const al_loop *loop, const al_slot *slot, int64_t began)
{
    if (slot->run != al_handle_run ||
        !Py_IS_TYPE(slot->self, loop->st->TimerHandle_type) || loop->overrides.time ||
        loop->virtual != NULL) {
        return -1;
    }
    const al_handle *handle = (const al_handle *)slot->self;
    double late = (double)began - handle->when * 1e9;
    return handle->cancelled || !(late < 9e18) ? -1 : late > 0 ? (int64_t)late : 0;
}

static AL_COLD void
take_sample(al_loop *loop, int64_t now)
{
    al_meter *meter = loop->meter;
    int64_t active = meter->active + (meter->mark == 0 ? 0 : now - meter->mark);
    al_recorder_sample(&meter->recorder,
                       (al_sample){now, active, meter->idle, meter->gil});
}

/* Whether a task's step has queued the next one, the last thing that a step does. */
static inline bool
is_own_next_step(const al_loop *loop, const al_slot *slot)
{
    const al_ring *ready = &loop->ready;
    if (al_ring_len(ready) == 0) {
        return false;
    }
    const al_slot *newest = &ready->slots[(ready->tail - 1) & ready->mask];
    return newest->self == slot->self && newest->run == loop->st->task_step;
}

void
al_meter_ran(al_loop *loop, const al_slot *slot, struct al_usage_entry *entry,
             int64_t pushed, int64_t began, int64_t ended)
{
    al_meter *meter = loop->meter;
    al_ring_stamp(&loop->ready, began);
    if (AL_UNLIKELY(entry == NULL)) {
        return; /* It was cancelled, or has turned the meter on. */
    }
    int64_t took = ended - began, delay = pushed == 0 ? 0 : began - pushed;
    if (is_own_next_step(loop, slot)) {
        al_ring_stamp_newest(&loop->ready, ended);
        entry->self_wakes++;
    }
    al_usage_add(&meter->usage, entry, took, delay);
    al_recorder_add(
        &meter->recorder,
        (al_record){began, took, delay, (uint32_t)(entry - meter->usage.entries),
                    (uint32_t)entry->kind});
    if (AL_UNLIKELY(ended >= meter->recorder.next_sample)) {
        take_sample(loop, ended);
    }
    observe(meter, &meter->callback_duration, took);
    if (pushed != 0) {
        observe(meter, &meter->queue_delay, delay);
    }
    int64_t late = lateness(loop, slot, began);
    if (late >= 0) {
        observe(meter, &meter->timer_lateness, late);
    }
}

/* --- readings ----------------------------------------------------------------------------- */

/* The bounds of all histograms, in ns. */
static PyObject *
make_bounds(void)
{
    PyObject *tuple = PyTuple_New(AL_METER_BUCKETS - 1);
    for (Py_ssize_t i = 0; tuple != NULL && i < AL_METER_BUCKETS - 1; i++) {
        PyObject *number = PyLong_FromLongLong(bounds[i]);
        if (number == NULL) {
            Py_CLEAR(tuple);
            break;
        }
        PyTuple_SET_ITEM(tuple, i, number);
    }
    return tuple;
}

/* Puts a value into the dict and steals it; NULL is an error already.  0 or -1. */
static int
put_steal(PyObject *dict, const char *name, PyObject *value)
{
    int status = value == NULL ? -1 : PyDict_SetItemString(dict, name, value);
    Py_XDECREF(value);
    return status;
}

static int
put(PyObject *dict, const char *name, uint64_t number)
{
    return put_steal(dict, name, PyLong_FromUnsignedLongLong(number));
}

/* (counts, sum). */
static int
put_histogram(PyObject *dict, const char *name, const al_histogram *histogram)
{
    PyObject *counts = PyTuple_New(AL_METER_BUCKETS);
    for (Py_ssize_t i = 0; counts != NULL && i < AL_METER_BUCKETS; i++) {
        PyObject *number = PyLong_FromUnsignedLongLong(histogram->counts[i]);
        if (number == NULL) {
            Py_CLEAR(counts);
            break;
        }
        PyTuple_SET_ITEM(counts, i, number);
    }
    return put_steal(dict, name,
                     counts == NULL
                         ? NULL
                         : Py_BuildValue("(NL)", counts, (long long)histogram->sum));
}

/* The times up to now: the phase that lasts is counted so far. */
static int
put_times(PyObject *dict, const al_loop *loop, int64_t now)
{
    const al_meter *meter = loop->meter;
    int64_t active = meter->active, idle = meter->idle;
    if (meter->mark != 0) {
        bool waits = loop->polling && loop->wake.blocked && loop->debug.poll_began != 0;
        int64_t until = waits ? loop->debug.poll_began : now;
        active += until - meter->mark;
        idle += now - until;
    }
    return put_steal(dict, "active", PyLong_FromLongLong(active)) < 0 ||
                   put_steal(dict, "idle", PyLong_FromLongLong(idle)) < 0 ||
                   put_steal(dict, "gil", PyLong_FromLongLong(meter->gil)) < 0 ||
                   put(dict, "most_ready", meter->most_ready) < 0 ||
                   put_histogram(dict, "queue_delay", &meter->queue_delay) < 0 ||
                   put_histogram(dict, "callback_duration", &meter->callback_duration) <
                       0 ||
                   put_histogram(dict, "timer_lateness", &meter->timer_lateness) < 0
               ? -1
               : 0;
}

static int
put_counts(PyObject *dict, const al_loop *loop)
{
    const al_counts *counts = &loop->counts;
    const al_timers *timers = &loop->timers;
    size_t timers_set = timers->length + timers->due_tail - timers->due_head;
    uint64_t ended =
        counts->tasks_ended[0] + counts->tasks_ended[1] + counts->tasks_ended[2];
    const struct {
        const char *name;
        uint64_t number;
    } numbers[] = {
        {"iterations", counts->iterations},
        {"callbacks", loop->ready.head},
        {"task_steps", counts->steps},
        {"tasks_created", counts->tasks_made},
        {"tasks_done", counts->tasks_ended[0]},
        {"tasks_cancelled", counts->tasks_ended[1]},
        {"tasks_failed", counts->tasks_ended[2]},
        {"tasks_alive", counts->tasks_made - ended - counts->tasks_lost},
        {"destroyed_pending_tasks", loop->misuse.counts[AL_PENDING_TASK]},
        {"never_retrieved_exceptions", loop->misuse.counts[AL_UNRETRIEVED]},
        {"stalls", loop->stalls},
        {"slow_callbacks", counts->slow_callbacks},
        {"bytes_received", counts->bytes_in},
        {"bytes_sent", counts->bytes_out},
        {"transports", al_fds_count_transports(loop)},
        {"ready", al_ring_len(&loop->ready)},
        {"timers", timers_set > timers->cancelled ? timers_set - timers->cancelled : 0},
        /* The first watcher is the loop's own, for wake-ups. */
        {"descriptors", loop->look.watchers > 0 ? loop->look.watchers - 1 : 0},
    };
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        if (put(dict, numbers[i].name, numbers[i].number) < 0) {
            return -1;
        }
    }
    return 0;
}

PyObject *
al_meter_read(al_loop *loop)
{
    int64_t now = al_poll_clock();
    PyObject *dict = PyDict_New();
    if (dict == NULL) {
        return NULL;
    }
    if (put_steal(dict, "when", PyLong_FromLongLong(now)) < 0 ||
        put_steal(dict, "bounds", make_bounds()) < 0 || put_counts(dict, loop) < 0 ||
        (loop->meter != NULL && put_times(dict, loop, now) < 0)) {
        Py_CLEAR(dict);
    }
    return dict;
}

void
al_meter_window(al_loop *loop, bool open)
{
    if (loop->meter != NULL) {
        (open ? al_usage_open_window : al_usage_close_window)(&loop->meter->usage);
    }
}

PyObject *
al_meter_read_usage(al_loop *loop)
{
    return loop->meter == NULL ? PyList_New(0) : al_usage_read(&loop->meter->usage);
}

PyObject *
al_meter_read_records(al_loop *loop, uint64_t most)
{
    return loop->meter == NULL ? PyList_New(0)
                               : al_recorder_read(&loop->meter->recorder, most);
}

PyObject *
al_meter_read_timeline(al_loop *loop)
{
    return loop->meter == NULL ? PyList_New(0)
                               : al_recorder_timeline(&loop->meter->recorder);
}
