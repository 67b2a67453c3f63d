/* stall.c: see stall.h.
 *
 * The cause is decided without the GIL, in this order: stopped by a debugger; not
 * scheduled, when the thread has waited for a processor half of the time; the GIL, when
 * events have come and it has not; asleep in a system call, of which futex is a lock, or
 * the GIL: the caller's thread waits for that too by now, on the same word; the garbage
 * collector; else the thread runs, Python code if the instruction changes between looks,
 * or in one C call. */
#include "diag/stall.h"

#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#if AL_LINUX
#include <sys/syscall.h>
#endif

#include "base/fileid.h"
#include "core/poll.h"
#include "core/sched.h"
#include "core/ticker.h"
#include "diag/frames.h"
#include "diag/kernel.h"
#include "diag/peek.h"

enum {
    SAMPLES = 5,
    MOST_PLACES = 64, /* innermost ones */
    MOST_EXACT = 200,
    HOLDER_PLACES = 16,
    SAME_CONDITION = 64, /* bytes: the words of one condition variable are so near */
};
static const int64_t DEBUG_THRESHOLD = 500 * 1000 * 1000; /* ns, as the rest */
static const int64_t EVER = 900000000LL * 1000 * 1000 * 1000;
static const int64_t OFTEN = 1000 * 1000; /* between looks at a loop with slots */
static const int64_t BETWEEN_SAMPLES = 2 * 1000 * 1000;
static const int64_t CLOSELY = 10 * 1000 * 1000; /* between looks at a stuck loop */
static const int64_t LATE = 50 * 1000 * 1000;    /* the ticker is never so late */
static const int64_t GIL_IS_KEPT = 20 * 1000 * 1000;
static const int64_t GIL_IS_LOST = 1000 * 1000 * 1000;

typedef enum {
    UNKNOWN,
    PYTHON,
    C_CALL,
    SYSTEM_CALL,
    LOCK,
    GIL,
    COLLECTOR,
    STARVED,
    STOPPED,
} cause;

static const char *const cause_words[] = {
    [UNKNOWN] = "unknown",
    [PYTHON] = "running Python",
    [C_CALL] = "C call",
    [SYSTEM_CALL] = "system call",
    [LOCK] = "lock",
    [GIL] = "GIL",
    [COLLECTOR] = "garbage collection",
    [STARVED] = "not scheduled",
    [STOPPED] = "stopped",
};

/* One look at a thread that is stuck. */
typedef struct {
    al_kernel kernel;
    bool has_gil;
    al_spot spot;
    const PyThreadState *holder; /* of the GIL */
} sample;

/* What was found out. */
typedef struct {
    cause cause;
    char words[320]; /* the cause */
    int64_t stuck;   /* ns, when it was decided */
    al_kernel kernel;
    bool has_gil;
    bool may_be_gil;
    int fd;
    char described[160];
    int64_t ran, waited; /* since the slot began; -1: not known */
    unsigned long holder;
    int generation;    /* of the garbage collection */
    int64_t collected; /* ns since that began */
    size_t ready;
    int n_places, n_holder_places;
    al_place places[MOST_PLACES]; /* innermost first */
    al_place holder_places[HOLDER_PLACES];
} finding;

typedef struct al_guard {
    al_loop *loop;
    const PyThreadState *thread;
    unsigned long ident;
    int tid;
    /* All that follows is guarded by the lock. */
    int64_t threshold;
    /* The loop, when it was last looked at. */
    size_t head;
    int64_t polled_at, looked_at;
    /* The slot that does not end. */
    int64_t since;       /* when it began, or was first seen; 0: none runs */
    bool counted;        /* it is a stall */
    bool forked;         /* it is the parent's, in the child of a fork */
    int64_t next_report; /* after so long */
    al_kernel before;    /* its times then */
    int n_samples;
    sample samples[SAMPLES];
    /* The stall that is reported. */
    bool reported; /* it is one */
    bool wanted;   /* a record is to be made */
    bool logged;   /* one was */
    bool written;  /* to standard error */
    bool over;
    bool quiet; /* no further record of it */
    int64_t asked_at, began, ended;
    finding found;
    const void
        *server; /* guarded by the GIL: the thread that makes a record, or NULL */
    bool gone;   /* ... and so is this: the run has ended */
    struct al_guard *next;
} al_guard;

typedef struct al_stalls {
    al_ticker_user user; /* first: the ticker hands it back */
    al_state *st;
    PyInterpreterState *interpreter;
    al_guard *first;  /* guarded by the lock and the GIL */
    PyObject *report; /* aioloop._stall's */
    PyObject *hook;   /* in gc.callbacks, or NULL */
    bool hooked;      /* it is there, or will be once another thread goes on */
    bool has_stderr;  /* when a loop last began to run; guarded by the lock */
    al_fileid stderr_file;
    /* A garbage collection, as the hook saw it begin. */
    _Atomic int64_t collects_since; /* 0: none */
    atomic_int generation;
    atomic_ulong collects_in; /* this thread */
} al_stalls;

/* --- looking ------------------------------------------------------------------------------ */

/* The loop writes these for itself. */
#define GLANCE(word) (*(const volatile __typeof__(word) *)&(word))

static bool
is_idle(const al_loop *loop)
{
    if (GLANCE(loop->polling)) {
        return !GLANCE(loop->taking_gil);
    }
    /* Between slots a foreign selector may be waiting. */
    return GLANCE(loop->overrides.in_python) && !GLANCE(loop->in_slot);
}

/* The frame that called the running loop, or NULL. */
static const void *
base_frame(const al_loop *loop)
{
    al_stack_base base;
    const void *address = GLANCE(loop->debug.base);
    return address != NULL && al_peek(&base, address, sizeof(base)) ? base.frame : NULL;
}

static void
take_sample(al_stalls *stalls, al_guard *guard)
{
    sample *taken = &guard->samples[guard->n_samples++];
    al_kernel_read(guard->tid, &taken->kernel);
    taken->has_gil = al_frames_has_gil(guard->thread);
    taken->holder = al_frames_gil_holder(stalls->interpreter);
    taken->spot = stalls->st->public_frames ? (al_spot){NULL, NULL}
                                            : al_frames_spot(guard->thread);
}

static int
samples_with_gil(const al_guard *guard)
{
    int n = 0;
    for (int i = 0; i < guard->n_samples; i++) {
        n += guard->samples[i].has_gil;
    }
    return n;
}

/* A sample of the system call that most of them are asleep in, or NULL. */
static const sample *
asleep_in(const al_guard *guard)
{
    for (int i = 0; i < guard->n_samples; i++) {
        const al_kernel *one = &guard->samples[i].kernel;
        int same = 0;
        for (int j = 0; j < guard->n_samples; j++) {
            const al_kernel *other = &guard->samples[j].kernel;
            same += (other->state == 'S' || other->state == 'D') &&
                    other->call == one->call;
        }
        if (one->call >= 0 && same * 2 > guard->n_samples) {
            return &guard->samples[i];
        }
    }
    return NULL;
}

static bool
is_on_one_spot(const al_guard *guard)
{
    const al_spot *first = &guard->samples[0].spot;
    for (int i = 1; i < guard->n_samples; i++) {
        const al_spot *other = &guard->samples[i].spot;
        if (first->ip != other->ip || first->frame != other->frame) {
            return false;
        }
    }
    return first->ip != NULL;
}

static bool
is_stopped(const al_guard *guard)
{
    for (int i = 0; i < guard->n_samples; i++) {
        char state = guard->samples[i].kernel.state;
        if (state == 'T' || state == 't') {
            return true;
        }
    }
    return false;
}

/* Whether it could run during the samples and did not.  What a thread waits for a
 * processor the kernel adds up when it gets one, so that does not tell. */
static bool
is_starved_now(const al_guard *guard)
{
    const al_kernel *first = &guard->samples[0].kernel;
    const al_kernel *last = &guard->samples[guard->n_samples - 1].kernel;
    for (int i = 0; i < guard->n_samples; i++) {
        if (guard->samples[i].kernel.state != 'R') {
            return false;
        }
    }
    return last->ran >= 0 &&
           (last->ran - first->ran) * 2 < BETWEEN_SAMPLES * (guard->n_samples - 1);
}

/* --- the cause -------------------------------------------------------------------------------- */

static double
in_seconds(int64_t ns)
{
    return (double)ns / 1e9;
}

/* The thread that has the GIL, and what it executes. */
static void
find_holder(const al_stalls *stalls, const al_guard *guard, finding *found)
{
    const PyThreadState *holder = al_frames_gil_holder(stalls->interpreter);
    int tid;
    al_spot spot;
    if (holder == NULL || holder == guard->thread ||
        !al_frames_thread_ids(holder, &found->holder, &tid)) {
        return;
    }
    if (!stalls->st->public_frames) {
        found->n_holder_places =
            al_frames_read(holder, NULL, found->holder_places, HOLDER_PLACES, &spot);
    }
}

static void
say_gil(const al_stalls *stalls, const al_guard *guard, finding *found)
{
    found->cause = GIL;
    found->holder = 0;
    found->n_holder_places = 0;
    find_holder(stalls, guard, found);
    (void)snprintf(found->words, sizeof(found->words), "waiting for the GIL");
}

static void
say_system_call(finding *found)
{
    const char *name = al_kernel_call_name(found->kernel.call);
    char number[32];
    if (name == NULL) {
        (void)snprintf(number, sizeof(number), "%ld", found->kernel.call);
        name = number;
    }
    found->cause = SYSTEM_CALL;
    found->fd = al_kernel_fd(&found->kernel);
    int n = snprintf(found->words, sizeof(found->words), "in the system call %s", name);
    if (found->fd >= 0) {
        al_kernel_describe(&found->kernel, found->fd, found->described,
                           sizeof(found->described));
        bool known = found->described[0] != '\0';
        n += snprintf(found->words + n, sizeof(found->words) - (size_t)n,
                      " on descriptor %d%s%s%s", found->fd, known ? " (" : "",
                      found->described, known ? ")" : "");
    }
    if (found->has_gil) {
        (void)snprintf(found->words + n, sizeof(found->words) - (size_t)n,
                       ", with the GIL held");
    }
}

static void
decide_cause(al_stalls *stalls, const al_guard *guard, finding *found)
{
    const sample *asleep = asleep_in(guard);
    int64_t collects_since = atomic_load(&stalls->collects_since);
    bool seen = guard->samples[0].kernel.state != 0;
    found->has_gil = samples_with_gil(guard) * 2 > guard->n_samples;
    if (asleep != NULL) {
        found->kernel = asleep->kernel;
    }
    if (found->ran >= 0 && is_starved_now(guard) &&
        found->waited < found->stuck - found->ran) {
        found->waited = found->stuck - found->ran;
    }
    if (is_stopped(guard)) {
        found->cause = STOPPED;
    }
    else if (found->waited >= 0 && found->waited * 2 > found->stuck) {
        found->cause = STARVED;
        (void)snprintf(
            found->words, sizeof(found->words),
            "not scheduled by the machine, it has waited %.2f of %.2f s for a "
            "processor",
            in_seconds(found->waited), in_seconds(found->stuck));
    }
    else if (GLANCE(guard->loop->taking_gil)) {
        say_gil(stalls, guard, found);
    }
    else if (asleep != NULL && al_kernel_is_lock(asleep->kernel.call)) {
        found->cause = LOCK;
        found->may_be_gil = !found->has_gil && asleep->holder != NULL;
        (void)snprintf(found->words, sizeof(found->words),
                       "waiting for a lock or another thread");
    }
    else if (asleep != NULL) {
        say_system_call(found);
    }
    else if (collects_since != 0 && atomic_load(&stalls->collects_in) == guard->ident) {
        found->cause = COLLECTOR;
        found->generation = atomic_load(&stalls->generation);
        found->collected = guard->looked_at - collects_since;
        (void)snprintf(found->words, sizeof(found->words),
                       "in garbage collection (generation %d, for %.2f s)",
                       found->generation, in_seconds(found->collected));
    }
    else if (seen && (is_on_one_spot(guard) || !found->has_gil)) {
        found->cause = C_CALL;
        (void)snprintf(found->words, sizeof(found->words), "in a C call%s",
                       found->has_gil ? " that keeps the GIL" : "");
    }
    else if (found->has_gil) {
        found->cause = PYTHON;
        (void)snprintf(found->words, sizeof(found->words), "running Python");
    }
    else {
        (void)snprintf(found->words, sizeof(found->words), "cause unknown");
    }
}

/* The samples are there: what they say. */
static void
find_out(al_stalls *stalls, al_guard *guard, int64_t now)
{
    finding *found = &guard->found;
    al_kernel after;
    al_spot spot;
    memset(found, 0, offsetof(finding, places));
    found->fd = -1;
    found->kernel.call = -1;
    found->stuck = now - guard->since;
    found->ready = GLANCE(guard->loop->ready.tail) - GLANCE(guard->loop->ready.head);
    al_kernel_read_times(guard->tid, &after);
    bool known = after.ran >= 0 && guard->before.ran >= 0;
    found->ran = known ? after.ran - guard->before.ran : -1;
    found->waited = known ? after.waited - guard->before.waited : -1;
    decide_cause(stalls, guard, found);
    if (!stalls->st->public_frames) {
        found->n_places = al_frames_read(guard->thread, base_frame(guard->loop),
                                         found->places, MOST_PLACES, &spot);
    }
}

/* The caller's thread waits for the GIL: if for the same thing as the loop's, that is the
 * cause. */
static void
compare_with_caller(al_stalls *stalls, al_guard *guard)
{
    int tid = al_ticker_waits_for_gil(stalls->st);
    al_kernel ours, caller;
    if (tid <= 0) {
        return;
    }
    al_kernel_read(tid, &caller);
    al_kernel_read(guard->tid, &ours);
    if (!al_kernel_is_lock(caller.call) || !al_kernel_is_lock(ours.call)) {
        return; /* Both look up now and then. */
    }
    guard->found.may_be_gil = false;
    uintptr_t one = caller.args[0], other = ours.args[0];
    if ((one > other ? one - other : other - one) < SAME_CONDITION) {
        say_gil(stalls, guard, &guard->found);
    }
}

/* --- standard error -------------------------------------------------------------------------- */

/* A full pipe must not hold the ticker, nor whoever wants its lock: what has no room is
 * left out, for there is nowhere else.  A pipe that can be written to has room for more
 * than a line. */
static void
write_error(const char *text, int length)
{
    struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};
    while (length > 0 && poll(&out, 1, 0) > 0 && (out.revents & POLLOUT) != 0) {
        ssize_t n = write(STDERR_FILENO, text, (size_t)length);
        if (n <= 0) {
            return;
        }
        text += n;
        length -= (int)n;
    }
}

/* A program may have closed its standard error, and the number may be another file's: of
 * a database, say, which is open for reading too. */
static void
find_error_file(al_stalls *stalls)
{
    const PyObject *file = PySys_GetObject("__stderr__");
    int flags = fcntl(STDERR_FILENO, F_GETFL);
    struct stat info;
    stalls->has_stderr = file != NULL && file != Py_None && flags >= 0 &&
                         fstat(STDERR_FILENO, &info) == 0 &&
                         (!S_ISREG(info.st_mode) || (flags & O_ACCMODE) == O_WRONLY);
    if (stalls->has_stderr) {
        al_fileid_take(&stalls->stderr_file, STDERR_FILENO);
    }
}

static int
clipped(int length, size_t size)
{
    return length < (int)size ? length : (int)size - 1;
}

static void
write_place(const al_place *place)
{
    char line[AL_FILE_SIZE + AL_NAME_SIZE + 64];
    write_error(line, clipped(snprintf(line, sizeof(line), "  %s:%d in %s\n",
                                       place->file, place->line, place->function),
                              sizeof(line)));
}

/* Nobody gets the GIL, or a logging handler does not return: it may wait for what the
 * stuck loop has locked. */
static void
write_found(const al_stalls *stalls, const al_guard *guard, int64_t now)
{
    char line[512];
    const finding *found = &guard->found;
    if (!stalls->has_stderr || !al_fileid_is(&stalls->stderr_file, STDERR_FILENO)) {
        return;
    }
    int n = snprintf(
        line, sizeof(line),
        "aioloop: the loop of thread %lu has been stuck for %.2f s: %s; %s, so "
        "this stack is approximate:\n",
        guard->ident, in_seconds(now - guard->since), found->words,
        al_ticker_waits_for_gil(stalls->st) != 0
            ? "the GIL cannot be had"
            : "logging has not taken the record yet");
    write_error(line, clipped(n, sizeof(line)));
    if (found->n_places == MOST_PLACES) {
        write_error("  ...\n", 6);
    }
    for (int i = found->n_places; i > 0; i--) {
        write_place(&found->places[i - 1]);
    }
    if (found->n_holder_places > 0) {
        n = snprintf(line, sizeof(line), "the GIL is held by thread %lu:\n",
                     found->holder);
        write_error(line, clipped(n, sizeof(line)));
        for (int i = found->n_holder_places; i > 0; i--) {
            write_place(&found->holder_places[i - 1]);
        }
    }
}

/* --- a look --------------------------------------------------------------------------------- */

/* The slot that was stuck has ended, at the latest now. */
static void
end_stall(al_stalls *stalls, al_guard *guard, int64_t ended)
{
    if (guard->reported && !guard->over) {
        guard->over = true;
        guard->ended = ended;
        guard->began = guard->since;
        stalls->user.wants |= guard->wanted || guard->logged;
        if (!guard->wanted && !guard->logged && guard->server == NULL) {
            guard->over = guard->reported = false; /* Nobody was told. */
        }
    }
}

/* Another slot runs, or none. */
static void
begin_anew(al_stalls *stalls, al_guard *guard, int64_t now, bool idle)
{
    const al_loop *loop = guard->loop;
    int64_t polled_at = GLANCE(loop->look.polled_at);
    size_t head = GLANCE(loop->ready.head);
    bool polled = polled_at > guard->looked_at && polled_at <= now;
    end_stall(stalls, guard, polled ? polled_at : now);
    int64_t began = GLANCE(loop->debug.slot_began);
    if ((GLANCE(loop->debug.switches) & AL_DEBUG_TIMED) == 0 || began > now ||
        began < guard->looked_at) {
        /* Only the first slot after a poll has a time. */
        began = polled && head == GLANCE(loop->look.polled_head) + 1 ? polled_at : now;
    }
    guard->head = head;
    guard->polled_at = polled_at;
    guard->since = idle ? 0 : began;
    guard->next_report = guard->threshold;
    guard->n_samples = 0;
    guard->counted = false;
    if (!idle) {
        al_kernel_read_times(guard->tid, &guard->before);
    }
}

/* When to look next. */
static int64_t
next_look(const al_guard *guard, int64_t now)
{
    int64_t seldom = guard->threshold / 2 > OFTEN ? guard->threshold / 2 : OFTEN;
    if (guard->since == 0) {
        return now + seldom;
    }
    if (guard->counted) {
        int64_t stuck = now - guard->since;
        int64_t pause = stuck / 128 > CLOSELY ? stuck / 128 : CLOSELY;
        seldom = pause < seldom ? pause : seldom;
    }
    int64_t due = guard->since + guard->next_report;
    return due > now && due < now + seldom ? due : now + seldom;
}

/* The record of the last one is being made, or is still to be. */
static bool
is_busy(const al_guard *guard)
{
    return guard->wanted || guard->over || guard->server != NULL;
}

static void
count_once(al_guard *guard)
{
    guard->loop->stalls += !guard->counted;
    guard->counted = true;
}

static void
ask_for_record(al_stalls *stalls, al_guard *guard, int64_t now)
{
    guard->wanted = true;
    guard->asked_at = now;
    guard->began = guard->since;
    stalls->user.wants = true;
}

static int64_t
look_at(al_stalls *stalls, al_guard *guard, int64_t now)
{
    const al_loop *loop = guard->loop;
    guard->forked = guard->forked && GLANCE(loop->ready.head) == guard->head;
    bool idle = guard->forked || is_idle(loop);
    if (idle || guard->since == 0 || GLANCE(loop->ready.head) != guard->head ||
        GLANCE(loop->look.polled_at) != guard->polled_at) {
        begin_anew(stalls, guard, now, idle);
        guard->looked_at = now;
        return next_look(guard, now);
    }
    guard->looked_at = now;
    if (is_busy(guard) && !guard->over) {
        int64_t asked = now - guard->asked_at;
        if (guard->wanted && guard->found.may_be_gil && asked > GIL_IS_KEPT) {
            compare_with_caller(stalls, guard);
        }
        if (asked > GIL_IS_LOST && !guard->written) {
            guard->written = true;
            write_found(stalls, guard, now);
        }
    }
    if (now - guard->since < guard->next_report) {
        return next_look(guard, now);
    }
    if (is_busy(guard)) {
        count_once(guard); /* A logging handler takes its time. */
        return next_look(guard, now);
    }
    take_sample(stalls, guard);
    if (guard->n_samples < SAMPLES) {
        return now + BETWEEN_SAMPLES;
    }
    find_out(stalls, guard, now);
    guard->n_samples = 0;
    if (guard->found.cause == STOPPED) {
        guard->since = now; /* A debugger has it: its time does not count. */
        return next_look(guard, now);
    }
    guard->next_report *= 2;
    count_once(guard);
    if (!guard->reported) {
        guard->reported = true;
        guard->logged = guard->written = guard->quiet = false;
    }
    if (!guard->quiet) {
        ask_for_record(stalls, guard, now);
    }
    return next_look(guard, now);
}

static int64_t
look(al_ticker_user *user, int64_t now)
{
    al_stalls *stalls = (al_stalls *)user;
    int64_t next = AL_TICKER_NEVER, late = user->due == 0 ? 0 : now - user->due;
    for (al_guard *guard = stalls->first; guard != NULL; guard = guard->next) {
        if (late > LATE && guard->since != 0) {
            guard->since += late; /* Nobody ran: the process was stopped. */
            guard->since = guard->since > now ? now : guard->since;
        }
        int64_t due = look_at(stalls, guard, now);
        next = due < next ? due : next;
    }
    return next;
}

/* --- records ----------------------------------------------------------------------------------- */

/* ((file, line, function) ...), innermost first. */
static PyObject *
places_as_tuple(const al_place *places, int n)
{
    PyObject *tuple = PyTuple_New(n);
    for (int i = 0; tuple != NULL && i < n; i++) {
        PyObject *file = PyUnicode_DecodeUTF8(
            places[i].file, (Py_ssize_t)strlen(places[i].file), "replace");
        PyObject *function = PyUnicode_DecodeUTF8(
            places[i].function, (Py_ssize_t)strlen(places[i].function), "replace");
        PyObject *place = file == NULL || function == NULL
                              ? NULL
                              : Py_BuildValue("(OiO)", file, places[i].line, function);
        Py_XDECREF(file);
        Py_XDECREF(function);
        if (place == NULL) {
            Py_CLEAR(tuple);
            break;
        }
        PyTuple_SET_ITEM(tuple, i, place);
    }
    return tuple;
}

static PyObject *
text_or_none(const char *text)
{
    if (text == NULL || *text == '\0') {
        Py_RETURN_NONE;
    }
    return PyUnicode_DecodeFSDefault(text);
}

static PyObject *
seconds_or_none(int64_t ns)
{
    if (ns < 0) {
        Py_RETURN_NONE;
    }
    return PyFloat_FromDouble(in_seconds(ns));
}

/* The module that a frame of importlib imports, or None.  New reference. */
static PyObject *
imported_by(PyFrameObject *frame, const PyCodeObject *code)
{
    PyObject *name = NULL;
    if (PyUnicode_CompareWithASCIIString(code->co_name, "_find_and_load") == 0 &&
        PyUnicode_CompareWithASCIIString(code->co_filename,
                                         "<frozen importlib._bootstrap>") == 0) {
        PyObject *locals = PyFrame_GetLocals(frame);
        name = locals == NULL ? NULL : PyMapping_GetItemString(locals, "name");
        Py_XDECREF(locals);
        if (name == NULL) {
            PyErr_Clear(); /* It has not got so far. */
        }
    }
    return name == NULL ? Py_NewRef(Py_None) : name;
}

/* (code, line, offset of the instruction, globals, imported module). */
static PyObject *
describe_frame(PyFrameObject *frame)
{
    PyCodeObject *code = PyFrame_GetCode(frame);
    PyObject *result = Py_BuildValue("(OiiNN)", code, PyFrame_GetLineNumber(frame),
                                     PyFrame_GetLasti(frame), PyFrame_GetGlobals(frame),
                                     imported_by(frame, code));
    Py_DECREF(code);
    return result;
}

/* What the loop's thread executes above its loop, innermost first, while it stands still
 * for want of the GIL: no Python code runs here.  *left_out is how many frames are not in
 * it, or -1 if nobody knows. */
static PyObject *
exact_stack(const al_guard *guard, int *left_out)
{
    const al_stack_base *base = guard->loop->debug.base;
    bool public = guard->loop->st->public_frames;
    int depth = public ? -1 : al_frames_depth(guard->thread, base_frame(guard->loop));
    PyObject *list = PyList_New(0);
    PyFrameObject *frame =
        PyThreadState_GetFrame((PyThreadState *)(uintptr_t)guard->thread);
    *left_out = 0;
    for (int i = 0; list != NULL && frame != NULL && depth != 0 &&
                    (base == NULL || (PyObject *)frame != base->owner);
         i++) {
        if (i == MOST_EXACT) {
            *left_out = depth;
            break;
        }
        PyObject *described = describe_frame(frame);
        if (described == NULL || PyList_Append(list, described) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(described);
        PyFrameObject *back = PyFrame_GetBack(frame);
        Py_DECREF(frame);
        frame = back;
        depth -= depth > 0;
    }
    Py_XDECREF((PyObject *)frame);
    return list;
}

/* What one of asyncio's functions says about the loop's tasks. */
static PyObject *
ask_asyncio(al_loop *loop, const char *function)
{
    return PyObject_CallMethod(loop->st->asyncio_tasks, function, "O",
                               (PyObject *)loop); /* escapes */
}

/* What aioloop/_stall.py is told: see its report(). */
static PyObject *
describe(const al_guard *guard, const finding *found, const char *event, int64_t stuck,
         bool over, double waited_for_gil)
{
    int left_out = found->n_places == MOST_PLACES ? -1 : 0;
    PyObject *stack = over ? Py_NewRef(Py_None) : exact_stack(guard, &left_out);
    PyObject *task = over || stack == NULL ? Py_NewRef(Py_None)
                                           : ask_asyncio(guard->loop, "current_task");
    PyObject *tasks = task == NULL ? NULL : ask_asyncio(guard->loop, "all_tasks");
    if (tasks == NULL) {
        Py_XDECREF(stack);
        Py_XDECREF(task);
        return NULL;
    }
    return Py_BuildValue(
        "{s:s,s:d,s:d,s:O,s:s,s:N,s:O,s:N,s:i,s:N,s:N,s:N,s:k,s:i,s:d,s:n,s:N,s:N,s:k,"
        "s:N,s:N,s:N,s:d,s:i}",
        "event", event, "began", in_seconds(guard->began), "seconds", in_seconds(stuck),
        "over", over ? Py_True : Py_False, "cause", cause_words[found->cause], "words",
        text_or_none(found->words), "has_gil", found->has_gil ? Py_True : Py_False,
        "system_call",
        text_or_none(found->cause == SYSTEM_CALL
                         ? al_kernel_call_name(found->kernel.call)
                         : NULL),
        "fd", found->fd, "fd_is", text_or_none(found->described), "ran",
        seconds_or_none(found->ran), "waited", seconds_or_none(found->waited), "holder",
        found->holder, "generation", found->cause == COLLECTOR ? found->generation : -1,
        "collected", in_seconds(found->collected), "callbacks",
        (Py_ssize_t)found->ready, "places",
        places_as_tuple(found->places, found->n_places), "holder_places",
        places_as_tuple(found->holder_places, found->n_holder_places), "thread",
        guard->ident, "stack", stack, "task", task, "tasks", tasks, "waited_for_gil",
        waited_for_gil, "left_out", left_out);
}

/* Calls aioloop._stall.report: 1 if it made a record, 0 if it did not, -1 with an
 * exception.  Escapes. */
static int
call_report(al_stalls *stalls, al_guard *guard, PyObject *info_stolen)
{
    if (info_stolen == NULL) {
        return -1;
    }
    PyObject *loop = Py_NewRef((PyObject *)guard->loop);
    PyObject *report = Py_XNewRef(stalls->report);
    PyObject *result = report == NULL
                           ? Py_NewRef(Py_False)
                           : PyObject_CallFunctionObjArgs(report, loop, info_stolen,
                                                          NULL); /* escapes */
    int logged = result == NULL ? -1 : PyObject_IsTrue(result);
    Py_XDECREF(result);
    Py_XDECREF(report);
    Py_DECREF(info_stolen); /* escapes */
    Py_DECREF(loop);        /* escapes */
    return logged;
}

/* Makes the records that are wanted of a guard.  Called and left with the lock and the
 * GIL.  0, or -1 with an exception.  Escapes. */
static int
serve(al_stalls *stalls, al_guard *guard)
{
    int status = 0;
    al_state *st = stalls->st;
    finding *found = PyMem_RawMalloc(sizeof(*found));
    if (found == NULL) {
        return 0; /* The ticker wants it again. */
    }
    guard->server = PyThreadState_Get();
    while (status >= 0 && (guard->wanted || (guard->over && guard->logged))) {
        int64_t now = al_poll_clock();
        const al_loop *loop = guard->loop;
        bool first = guard->wanted;
        /* The ticker may not have seen yet that the slot has ended. */
        if (first && !guard->over && GLANCE(loop->ready.head) != guard->head) {
            end_stall(stalls, guard, now);
        }
        bool over = guard->over;
        int64_t until = over ? guard->ended : now;
        const char *event = !first || (over && guard->logged) ? "ended"
                            : over                            ? "was"
                            : guard->logged                   ? "again"
                                                              : "stuck";
        guard->wanted = false;
        *found = guard->found;
        double waited_for_gil = in_seconds(now - guard->asked_at);
        al_ticker_unlock(st);
        status = call_report(stalls, guard,
                             describe(guard, found, event, until - guard->began, over,
                                      waited_for_gil)); /* escapes */
        al_ticker_lock(st);
        while (2 * guard->next_report < 3 * (until - guard->began)) {
            guard->next_report *= 2; /* The GIL came late: that would be too soon. */
        }
        guard->logged = status > 0 || guard->logged;
        guard->quiet = status == 0;
        if (over) {
            break;
        }
    }
    if (guard->over) {
        guard->over = guard->reported = guard->logged = guard->wanted = false;
    }
    guard->server = NULL;
    PyMem_RawFree(found);
    return status < 0 ? -1 : 0;
}

static bool
has_to_be_served(const al_guard *guard)
{
    return guard->server == NULL && (guard->wanted || (guard->over && guard->logged));
}

static void
act(al_ticker_user *user)
{
    al_stalls *stalls = (al_stalls *)user;
    al_ticker_lock(stalls->st);
    al_guard *guard = stalls->first;
    while (guard != NULL) {
        if (!has_to_be_served(guard)) {
            guard = guard->next;
            continue;
        }
        PyObject *loop = Py_NewRef((PyObject *)guard->loop); /* It may end meanwhile. */
        int status = serve(stalls, guard);                   /* escapes */
        bool gone = guard->gone;
        al_ticker_unlock(stalls->st);
        if (status < 0) {
            PyErr_WriteUnraisable(stalls->report); /* escapes */
        }
        Py_DECREF(loop); /* escapes */
        if (gone) {
            PyMem_RawFree(guard);
        }
        al_ticker_lock(stalls->st);
        guard = stalls->first; /* The list may be another one. */
    }
    al_ticker_unlock(stalls->st);
}

/* --- watching ------------------------------------------------------------------------------------ */

static int64_t
threshold_of(const al_loop *loop)
{
    if (loop->stall_threshold >= 0) {
        return loop->stall_threshold;
    }
    return (loop->debug.switches & AL_DEBUG_SLOW_CALLBACKS) != 0 ? DEBUG_THRESHOLD : 0;
}

static PyObject *
collector_callbacks(void)
{
    PyObject *gc = PyImport_ImportModule("gc");
    PyObject *callbacks = gc == NULL ? NULL : PyObject_GetAttrString(gc, "callbacks");
    Py_XDECREF(gc);
    return callbacks;
}

/* The hook is in gc.callbacks while a loop is watched, whichever thread began or ended to
 * watch one while another was about to do this.  Escapes. */
static void
hook_collector(al_stalls *stalls)
{
    bool on = stalls->first != NULL;
    if (on == stalls->hooked) {
        return;
    }
    stalls->hooked = on;
    PyObject *callbacks = collector_callbacks();
    PyObject *result = callbacks == NULL || stalls->hook == NULL
                           ? NULL
                           : PyObject_CallMethod(callbacks, on ? "append" : "remove",
                                                 "O", stalls->hook);
    if (result == NULL) {
        PyErr_Clear(); /* Somebody has emptied the list, or the interpreter ends. */
    }
    Py_XDECREF(result);
    Py_XDECREF(callbacks);
    atomic_store(&stalls->collects_since, 0);
}

static int
thread_number(const PyThreadState *thread)
{
#if AL_LINUX
    if (thread == PyThreadState_Get()) {
        return (int)syscall(SYS_gettid);
    }
#endif
    return (int)thread->native_thread_id;
}

/* With the GIL; without memory or threads the loop is not watched. */
static void
begin_watch(al_stalls *stalls, al_loop *loop, int64_t threshold)
{
    al_guard *guard = PyMem_RawCalloc(1, sizeof(*guard));
    if (guard == NULL || !al_ticker_start(stalls->st, &stalls->user)) {
        PyMem_RawFree(guard);
        return;
    }
    guard->loop = loop;
    guard->thread = loop->debug.base->thread;
    guard->ident = guard->thread->thread_id;
    guard->tid = thread_number(guard->thread);
    guard->threshold = threshold;
    loop->guard = guard;
    al_ticker_lock(stalls->st);
    find_error_file(stalls);
    guard->next = stalls->first;
    stalls->first = guard;
    al_ticker_wake_locked(stalls->st, &stalls->user, 0);
    al_ticker_unlock(stalls->st);
    hook_collector(stalls); /* escapes */
}

/* The run has ended, or the watch has been switched off: then nothing more is said.  0, or
 * -1 with an exception of a signal's handler, or the like.  Escapes. */
static int
end_watch(al_stalls *stalls, al_loop *loop)
{
    al_guard *guard = loop->guard, **link = &stalls->first;
    int status = 0;
    PyObject *ended_by = al_err_take(); /* the run */
    loop->guard = NULL;
    al_ticker_lock(stalls->st);
    while (*link != guard) {
        link = &(*link)->next;
    }
    *link = guard->next;
    if (loop->debug.base != NULL) {
        guard->wanted = guard->logged = guard->over = false;
    }
    else if (guard->since != 0) {
        end_stall(stalls, guard, al_poll_clock());
    }
    guard->gone = true;
    if (has_to_be_served(guard)) {
        status = serve(stalls, guard); /* escapes */
    }
    bool ours = guard->server == NULL;
    al_ticker_unlock(stalls->st);
    if (ours) {
        PyMem_RawFree(guard);
    }
    if (status < 0 && (ended_by != NULL || PyErr_ExceptionMatches(PyExc_Exception))) {
        PyErr_WriteUnraisable(stalls->report); /* escapes */
        status = 0;
    }
    if (status == 0) {
        al_err_put_steal(ended_by);
    }
    PyObject *pending = al_err_take();
    hook_collector(stalls); /* escapes */
    al_err_put_steal(pending);
    return status;
}

/* Python's part is imported when a loop is first watched: it calls _set_stall_report.  A
 * program runs on without it.  Escapes. */
static void
import_report(al_loop *loop)
{
    PyObject *module = PyImport_ImportModule("aioloop._stall"); /* escapes */
    if (module == NULL) {
        PyErr_WriteUnraisable((PyObject *)loop); /* escapes */
    }
    Py_XDECREF(module);
}

/* See al_state.follow_stall. */
static int
follow(al_loop *loop)
{
    if (AL_FREE_THREADED) {
        return 0; /* The exact stack is taken while the loop's thread waits for the GIL. */
    }
    if (loop->st->stalls == NULL && loop->debug.base != NULL &&
        threshold_of(loop) != 0) {
        import_report(loop); /* escapes */
    }
    al_stalls *stalls = loop->st->stalls;
    int64_t threshold = loop->debug.base == NULL ? 0 : threshold_of(loop);
    if (stalls == NULL) {
        return 0;
    }
    if (threshold == 0 || stalls->report == NULL) {
        return loop->guard == NULL ? 0 : end_watch(stalls, loop); /* escapes */
    }
    if (loop->guard == NULL) {
        begin_watch(stalls, loop, threshold); /* escapes */
        return 0;
    }
    al_ticker_lock(stalls->st);
    loop->guard->threshold = loop->guard->next_report = threshold;
    al_ticker_wake_locked(stalls->st, &stalls->user, 0);
    al_ticker_unlock(stalls->st);
    return 0;
}

/* --- forks --------------------------------------------------------------------------------------- */

static void
before_end(al_ticker_user *Py_UNUSED(user))
{
}

static void
after_fork(al_ticker_user *user, bool child)
{
    al_stalls *stalls = (al_stalls *)user;
    const PyThreadState *thread = PyThreadState_Get();
    for (al_guard **link = &stalls->first, *guard; child && (guard = *link) != NULL;) {
        bool is_served = guard->server == thread; /* A logging handler has forked. */
        guard->wanted = guard->logged = guard->reported = guard->over = false;
        guard->since = 0;
        if (guard->thread == thread) {
            /* The child may never come back to the loop that it was forked in. */
            guard->forked = true;
            guard->head = guard->loop->ready.head;
            guard->server = is_served ? thread : NULL;
            guard->tid = thread_number(guard->thread);
            guard->ident = guard->thread->thread_id;
            link = &guard->next;
            continue;
        }
        *link = guard->next; /* Its thread is not in the child. */
        guard->loop->guard = NULL;
        guard->gone = true;
        if (!is_served) {
            PyMem_RawFree(guard);
        }
    }
    user->due = 0;
    if (stalls->first != NULL) {
        (void)al_ticker_start(stalls->st, user);
    }
}

/* --- the module's part ------------------------------------------------------------------------- */

void
al_stall_init(al_state *st)
{
    st->follow_stall = follow;
}

int
al_stall_traverse(al_state *st, visitproc visit, void *arg)
{
    if (st->stalls != NULL) {
        Py_VISIT(st->stalls->report);
        Py_VISIT(st->stalls->hook);
    }
    return 0;
}

void
al_stall_clear(al_state *st)
{
    if (st->stalls != NULL) {
        Py_CLEAR(st->stalls->report);
        Py_CLEAR(st->stalls->hook);
    }
}

void
al_stall_free(al_state *st)
{
    PyMem_RawFree(st->stalls);
    st->stalls = NULL;
}

/* gc.callbacks call it. */
static PyObject *
core_collector(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    al_stalls *stalls = al_state_of_module(module)->stalls;
    if (stalls == NULL || nargs < 2 || !PyUnicode_Check(args[0])) {
        Py_RETURN_NONE;
    }
    if (PyUnicode_CompareWithASCIIString(args[0], "start") != 0) {
        atomic_store(&stalls->collects_since, 0);
        Py_RETURN_NONE;
    }
    PyObject *generation =
        PyDict_Check(args[1]) ? PyDict_GetItemString(args[1], "generation") : NULL;
    long number = generation == NULL ? -1 : PyLong_AsLong(generation);
    if (number == -1 && PyErr_Occurred()) {
        return NULL;
    }
    atomic_store(&stalls->generation, (int)number);
    atomic_store(&stalls->collects_in, PyThread_get_thread_ident());
    atomic_store(&stalls->collects_since, al_poll_clock());
    Py_RETURN_NONE;
}

static PyMethodDef collector_method = {
    "_collector", (PyCFunction)(void (*)(void))core_collector, METH_FASTCALL, NULL};

PyDoc_STRVAR(set_stall_report_doc,
             "_set_stall_report($module, report, /)\n--\n\n"
             "Choose the function that makes the records of stalls.");

static PyObject *
core_set_stall_report(PyObject *module, PyObject *report)
{
    al_state *st = al_state_of_module(module);
    if (st->stalls == NULL) {
        al_stalls *stalls = PyMem_RawCalloc(1, sizeof(*stalls));
        if (stalls == NULL) {
            return PyErr_NoMemory();
        }
        stalls->user = (al_ticker_user){.look = look,
                                        .act = act,
                                        .before_end = before_end,
                                        .after_fork = after_fork};
        stalls->st = st;
        stalls->interpreter = PyInterpreterState_Get();
        stalls->hook = PyCFunction_NewEx(&collector_method, module, NULL);
        st->stalls = stalls;
    }
    Py_XSETREF(st->stalls->report, Py_NewRef(report)); /* escapes */
    Py_RETURN_NONE;
}

static al_loop *
check_loop(PyObject *module, PyObject *loop)
{
    al_loop *ours = al_loop_check(al_state_of_module(module), loop);
    if (ours == NULL) {
        PyErr_SetString(PyExc_TypeError, "an aioloop loop is needed");
    }
    return ours;
}

PyDoc_STRVAR(set_stall_threshold_doc,
             "_set_stall_threshold($module, loop, seconds, /)\n--\n\n"
             "Set loop.stall_threshold; -1 is what debug mode says, 0 is off.");

static PyObject *
core_set_stall_threshold(PyObject *module, PyObject *args)
{
    PyObject *object;
    double seconds;
    if (!PyArg_ParseTuple(args, "Od:_set_stall_threshold", &object, &seconds)) {
        return NULL;
    }
    al_loop *loop = check_loop(module, object);
    if (loop == NULL) {
        return NULL;
    }
    loop->stall_threshold = seconds < 0 ? -1
                            : seconds * 1e9 < (double)EVER
                                ? (int64_t)ceil(seconds * 1e9)
                                : EVER;
    if (follow(loop) < 0) { /* escapes */
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(stall_threshold_doc, "_stall_threshold($module, loop, /)\n--\n\n"
                                  "Return the threshold in seconds, 0 if it is off.");

static PyObject *
core_stall_threshold(PyObject *module, PyObject *object)
{
    const al_loop *loop = check_loop(module, object);
    if (loop == NULL) {
        return NULL;
    }
    int64_t threshold = threshold_of(loop);
    return PyFloat_FromDouble(threshold == EVER ? Py_HUGE_VAL : in_seconds(threshold));
}

PyMethodDef al_stall_methods[] = {
    {"_set_stall_report", core_set_stall_report, METH_O, set_stall_report_doc},
    {"_set_stall_threshold", core_set_stall_threshold, METH_VARARGS,
     set_stall_threshold_doc},
    {"_stall_threshold", core_stall_threshold, METH_O, stall_threshold_doc},
    {NULL, NULL, 0, NULL},
};
