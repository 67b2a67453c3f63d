/* meter.c: see meter.h. */
#include "core/meter.h"

#include "core/cycles.h"
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

/* So many records are added up at once. */
enum { BATCH = 256 };

struct al_meter {
    al_cycles cycles;
    al_metered running; /* by al_meter_run */
    uint64_t added;     /* so many of the recorder's records are in the numbers */
    al_histogram queue_delay, callback_duration, timer_lateness;
    int64_t active, idle, gil; /* ns, of phases that are over */
    int64_t mark;              /* ns: since then it is active; 0: it does not run */
    size_t most_ready;
    /* For a number whose highest bit is n, the first bound that is not below 1 << n:
     * between two powers of two there is one bound at most. */
    uint8_t first[64];
    al_usage usage;
    al_recorder recorder;
};

/* --- histograms --------------------------------------------------------------------------- */

static void
fill_first(al_meter *meter)
{
    uint8_t i = 0;
    for (int bit = 0; bit < 64; bit++) {
        while (i < AL_METER_BUCKETS - 1 && (uint64_t)bounds[i] < (uint64_t)1 << bit) {
            i++;
        }
        meter->first[bit] = i;
    }
}

/* ns is not negative. */
static inline void
observe(const al_meter *meter, al_histogram *histogram, int64_t ns)
{
    size_t i = meter->first[63 - __builtin_clzll((uint64_t)ns | 1)];
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
            AL_STORE(loop->debug.switches,
                     loop->debug.switches & ~(unsigned)AL_DEBUG_METER);
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
        al_cycles_init(&loop->meter->cycles);
        loop->meter->running = AL_NOT_METERED;
        al_usage_init(&loop->meter->usage);
        al_recorder_init(&loop->meter->recorder);
    }
    int64_t now = al_poll_clock();
    if (!loop->closed && al_ring_keep_stamps(&loop->ready, now) < 0) {
        return -1;
    }
    AL_STORE(loop->debug.switches, loop->debug.switches | AL_DEBUG_METER);
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

/* A timer is about to run, by the loop's own clock: how late it is. */
static void
observe_lateness(al_loop *loop, const al_handle *timer)
{
    double late = (double)al_sched_slot_begins(loop) - timer->when * 1e9;
    if (late < 9e18) {
        observe(loop->meter, &loop->meter->timer_lateness,
                late > 0 ? (int64_t)late : 0);
    }
}

inline al_metered
al_meter_begin(al_loop *loop, const al_slot *slot, int64_t pushed)
{
    al_metered what = {.pushed = pushed,
                       .entry = al_usage_find(&loop->meter->usage, loop, slot)};
    if (slot->run == al_handle_run &&
        AL_UNLIKELY(Py_IS_TYPE(slot->self, loop->st->TimerHandle_type)) &&
        what.entry != AL_USAGE_NOBODY && !loop->overrides.time &&
        loop->virtual == NULL) {
        observe_lateness(loop, (const al_handle *)slot->self);
    }
    return what;
}

static AL_COLD void
take_sample(al_loop *loop, int64_t now)
{
    al_meter *meter = loop->meter;
    int64_t active = meter->active + (meter->mark == 0 ? 0 : now - meter->mark);
    al_recorder_sample(&meter->recorder,
                       (al_sample){now, active, meter->idle, meter->gil});
}

/* Adds up what has been recorded. */
static __attribute__((noinline)) void
add_up(al_meter *meter)
{
    const al_recorder *recorder = &meter->recorder;
    uint64_t end = recorder->count;
    for (uint64_t i = meter->added; i != end; i++) {
        const al_record *record = &recorder->records[i % AL_RECORDER_SLOTS];
        int64_t took = record->ended - record->began, delay = al_record_delay(record);
        al_usage_add(&meter->usage, record->entry, took, delay, record->self_wake);
        observe(meter, &meter->callback_duration, took);
        if (AL_LIKELY(record->pushed != AL_NO_STAMP)) {
            observe(meter, &meter->queue_delay, delay);
        }
    }
    meter->added = end;
}

/* Whether a task's step has queued the next one, the last thing that a step does. */
static inline bool
is_own_next_step(const al_loop *loop, const PyObject *self)
{
    const al_ring *ready = &loop->ready;
    const al_slot *newest = &ready->slots[(ready->tail - 1) & ready->mask];
    return al_ring_len(ready) > 0 && newest->self == self &&
           newest->run == loop->st->task_step;
}

/* A slot, or one of the several callbacks that it is, has run. */
static inline void
record(al_loop *loop, const PyObject *self, al_metered what, int64_t began,
       int64_t ended)
{
    al_meter *meter = loop->meter;
    al_ring_stamp(&loop->ready, began);
    if (AL_UNLIKELY(what.entry == AL_USAGE_NOBODY)) {
        return; /* It was cancelled, or has turned the meter on. */
    }
    bool self_wake = is_own_next_step(loop, self);
    if (self_wake) {
        al_ring_stamp_newest(&loop->ready, ended);
    }
    al_recorder_add(&meter->recorder,
                    (al_record){began, ended, what.pushed, what.entry, self_wake});
    if (AL_UNLIKELY(meter->recorder.count % BATCH == 0)) {
        add_up(meter);
    }
    if (AL_UNLIKELY(ended >= meter->recorder.next_sample)) {
        take_sample(loop, ended);
    }
}

void
al_meter_ran(al_loop *loop, const al_slot *slot, al_metered what, int64_t began,
             int64_t ended)
{
    /* In debug mode the clock may be a coarse one, which is behind. */
    record(loop, slot->self, what, began, ended > began ? ended : began);
}

/* The loop's running slot or callback has ended at the time that is returned, and the next
 * one begins. */
static inline int64_t
end_slot(al_loop *loop, int64_t began)
{
    int64_t now = al_cycles_now(&loop->meter->cycles);
    now = AL_LIKELY(now > began) ? now : began;
    loop->debug.slot_began = now;
    return now;
}

/* Not inline: beside al_debug_run's other half the compiler takes two objects of the slot
 * from the ring at once, which were not stored at once, and the processor waits. */
int
al_meter_run(al_loop *loop, const al_slot *slot, int64_t pushed)
{
    al_meter *meter = loop->meter;
    al_metered outer = meter->running;
    al_metered what = al_meter_begin(loop, slot, pushed); /* escapes */
    int64_t began = al_sched_slot_begins(loop);
    meter->running = what;
    int status = slot->run(loop, slot->self, slot->arg, slot->extra); /* escapes */
    meter->running = outer;
    if (AL_UNLIKELY(status < 0 || (loop->debug.switches & AL_DEBUG_METER) == 0)) {
        return status;
    }
    if (AL_UNLIKELY(loop->debug.slot_began > began)) {
        began = loop->debug.slot_began; /* al_meter_next */
        what.pushed = AL_NO_STAMP;
    }
    record(loop, slot->self, what, began, end_slot(loop, began));
    return status;
}

void
al_meter_next(al_loop *loop)
{
    int64_t began = al_sched_slot_begins(loop);
    record(loop, NULL, loop->meter->running, began, end_slot(loop, began));
    loop->meter->running.pushed = AL_NO_STAMP; /* It waited once. */
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
    if (loop->meter != NULL) {
        add_up(loop->meter);
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
        add_up(loop->meter);
        (open ? al_usage_open_window : al_usage_close_window)(&loop->meter->usage);
    }
}

PyObject *
al_meter_read_usage(al_loop *loop)
{
    if (loop->meter == NULL) {
        return PyList_New(0);
    }
    add_up(loop->meter);
    return al_usage_read(&loop->meter->usage);
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
