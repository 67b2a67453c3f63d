/* cork.c: see cork.h.
 *
 * The ticker's lock guards the list of loops and its sleep.  The list changes only with
 * the lock and the GIL, so either is enough to walk it.  A fork finds nothing that waits:
 * the child would have a copy of it, and would send it too. */
#include "core/cork.h"

#include <stdlib.h>
#include <string.h>

#include "core/sched.h"
#include "core/ticker.h"

/* The thread's time is in steps of 65.5 us: 32 bits of it are atomic everywhere, and what
 * is 78 hours old may look new for a moment, which wakes the thread in vain. */
enum { STEP_SHIFT = 16 };
enum {
    RESCUE = 2000 * 1000, /* ns: so long a write waits while a slot runs */
    RESCUE_STEPS = RESCUE >> STEP_SHIFT,
    STEPS_TO_SLEEP = 1000, /* without a write that waits */
};

typedef struct al_corks {
    al_ticker_user user; /* first: the ticker hands it back */
    al_state *st;
    al_cork *first;     /* loops that have corked; guarded by the lock and the GIL */
    atomic_bool asleep; /* no look is to come */
} al_corks;

/* --- in the ticker's threads ------------------------------------------------------------- */

static unsigned int
steps(int64_t time)
{
    return (unsigned int)((uint64_t)time >> STEP_SHIFT);
}

static unsigned int
age(const al_cork *cork, unsigned int now)
{
    return now - atomic_load_explicit(&cork->began, memory_order_relaxed);
}

static bool
is_stuck(const al_cork *cork, unsigned int now)
{
    return atomic_load_explicit(&cork->waiting, memory_order_acquire) &&
           age(cork, now) > RESCUE_STEPS;
}

/* Sends for the loops of which a slot does not end.  No Python code runs here. */
static void
rescue(al_ticker_user *user)
{
    al_corks *corks = (al_corks *)user;
    unsigned int now = steps(al_poll_clock());
    for (al_cork *cork = corks->first; cork != NULL; cork = cork->next) {
        if (is_stuck(cork, now)) {
            corks->st->send_corked(cork->loop);
        }
    }
}

/* No look is to come until a loop corks; one is if it has just now. */
static bool
fall_asleep(al_corks *corks)
{
    atomic_store(&corks->asleep, true);
    atomic_thread_fence(memory_order_seq_cst);
    for (al_cork *cork = corks->first; cork != NULL; cork = cork->next) {
        if (atomic_load(&cork->waiting)) {
            atomic_store(&corks->asleep, false);
        }
    }
    return atomic_load(&corks->asleep);
}

/* The next look is when the first write that waits now will have waited for too long, so
 * that a busy loop, whose writes never do, is looked at once in that time: a thread that
 * wakes up takes 10 us and more of the processor that the loop may be on. */
static int64_t
look(al_ticker_user *user, int64_t now)
{
    al_corks *corks = (al_corks *)user;
    unsigned int step = steps(now), oldest = 0;
    bool busy = false;
    for (al_cork *cork = corks->first; cork != NULL; cork = cork->next) {
        busy = busy || age(cork, step) <= STEPS_TO_SLEEP;
        if (is_stuck(cork, step)) {
            user->wants = true;
        }
        else if (atomic_load_explicit(&cork->waiting, memory_order_acquire)) {
            oldest = Py_MAX(oldest, age(cork, step));
        }
    }
    return !user->wants && !busy && fall_asleep(corks)
               ? AL_TICKER_NEVER
               : now + ((int64_t)(RESCUE_STEPS + 1 - oldest) << STEP_SHIFT);
}

static void
wake(al_corks *corks)
{
    al_ticker_lock(corks->st);
    atomic_store(&corks->asleep, false);
    al_ticker_wake_locked(corks->st, &corks->user, al_poll_clock() + RESCUE);
    al_ticker_unlock(corks->st);
}

/* --- forks and execs ---------------------------------------------------------------------- */

/* Under this name the interpreter's dictionary has a capsule of the module's state. */
static const char STATE_NAME[] = "aioloop._core.state";

static al_state *
published_state(void)
{
    PyObject *dict = PyInterpreterState_GetDict(PyInterpreterState_Get());
    PyObject *capsule = dict == NULL ? NULL : PyDict_GetItemString(dict, STATE_NAME);
    return capsule == NULL ? NULL : PyCapsule_GetPointer(capsule, STATE_NAME);
}

/* 0, or -1 with an exception. */
static int
publish_state(al_state *st)
{
    PyObject *dict = PyInterpreterState_GetDict(PyInterpreterState_Get());
    PyObject *capsule = PyCapsule_New(st, STATE_NAME, NULL);
    int status = dict == NULL || capsule == NULL
                     ? -1
                     : PyDict_SetItemString(dict, STATE_NAME, capsule);
    Py_XDECREF(capsule);
    return status;
}

static void
withdraw_state(const al_state *st)
{
    if (published_state() == st &&
        PyDict_DelItemString(PyInterpreterState_GetDict(PyInterpreterState_Get()),
                             STATE_NAME) < 0) {
        PyErr_Clear(); /* It was there a moment ago. */
    }
}

/* An audit hook: the event's interpreter is about to become another program, or to start
 * one. */
static int
before_program(const char *event, PyObject *Py_UNUSED(args), void *Py_UNUSED(data))
{
    static const char *const events[] = {"os.exec", "os.posix_spawn",
                                         "subprocess.Popen", "os.spawn", "os.system"};
    if (event[0] != 'o' && event[0] != 's') {
        return 0;
    }
    for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
        if (strcmp(event, events[i]) == 0) {
            al_state *st = published_state();
            if (st != NULL) {
                al_cork_send_all(st);
            }
            break;
        }
    }
    return 0;
}

/* Audit hooks are the process's and stay: one is enough for all interpreters, and a
 * program that never corks has none. */
static void
hook_programs(void)
{
    static atomic_flag hooked = ATOMIC_FLAG_INIT;
    if (!atomic_flag_test_and_set(&hooked) &&
        PySys_AddAuditHook(before_program, NULL) < 0) {
        PyErr_Clear(); /* Another hook forbids it: what waits may be lost in an exec. */
    }
}

static void
before_end(al_ticker_user *user)
{
    /* What waits would be sent by parent and child; and a daemon thread's slot may never
     * end. */
    al_cork_send_all(((al_corks *)user)->st);
}

static void
after_fork(al_ticker_user *user, bool child)
{
    al_corks *corks = (al_corks *)user;
    for (al_cork *cork = corks->first; child && cork != NULL; cork = cork->next) {
        atomic_store(&cork->waiting, false);
    }
}

/* The interpreter's corks, with a ticker; NULL if that cannot be had.  Escapes. */
static al_corks *
start_corks(al_state *st)
{
    if (st->corks == NULL) {
        al_corks *corks = PyMem_RawCalloc(1, sizeof(*corks));
        if (corks == NULL) {
            return NULL;
        }
        corks->user = (al_ticker_user){.look = look,
                                       .due = al_poll_clock() + RESCUE,
                                       .act = rescue,
                                       .before_end = before_end,
                                       .after_fork = after_fork};
        corks->st = st;
        st->corks = corks;
    }
    if (!al_ticker_start(st, &st->corks->user)) {
        return NULL;
    }
    hook_programs();                              /* escapes */
    return al_ticker_runs(st) ? st->corks : NULL; /* A fork may be under way. */
}

int
al_cork_init(PyObject *module)
{
    return publish_state(al_state_of_module(module));
}

void
al_cork_free(al_state *st)
{
    withdraw_state(st);
    /* The loops are gone: they hold the module. */
    AL_ASSERT(st->corks == NULL || st->corks->first == NULL);
    PyMem_RawFree(st->corks);
    st->corks = NULL;
}

/* --- loops --------------------------------------------------------------------------------- */

void
al_cork_open(al_loop *loop)
{
    const char *wanted = getenv("AIOLOOP_CORK");
    loop->cork.loop = loop;
    loop->cork.off = AL_FREE_THREADED || (wanted != NULL && strcmp(wanted, "0") == 0);
}

void
al_cork_close(al_cork *cork)
{
    if (cork->prev == NULL) {
        return;
    }
    al_state *st = cork->loop->st;
    al_ticker_lock(st);
    *cork->prev = cork->next;
    if (cork->next != NULL) {
        cork->next->prev = cork->prev;
    }
    cork->prev = NULL;
    al_ticker_unlock(st);
}

static void
enlist(al_corks *corks, al_cork *cork)
{
    al_ticker_lock(corks->st);
    cork->next = corks->first;
    cork->prev = &corks->first;
    if (cork->next != NULL) {
        cork->next->prev = &cork->next;
    }
    corks->first = cork;
    al_ticker_unlock(corks->st);
}

bool
al_cork_begin(al_state *st, al_cork *cork)
{
    if (AL_LIKELY(atomic_load_explicit(&cork->waiting, memory_order_relaxed))) {
        return true;
    }
    al_corks *corks = st->corks;
    if (AL_UNLIKELY(corks == NULL || !al_ticker_runs(st))) {
        corks = start_corks(st); /* escapes */
        if (corks == NULL) {
            return false;
        }
    }
    if (AL_UNLIKELY(cork->prev == NULL)) {
        enlist(corks, cork);
    }
    cork->since = al_poll_clock();
    atomic_store_explicit(&cork->began, steps(cork->since), memory_order_relaxed);
    atomic_store_explicit(&cork->waiting, true, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);
    if (AL_UNLIKELY(atomic_load_explicit(&corks->asleep, memory_order_relaxed))) {
        wake(corks);
    }
    return true;
}

void
al_cork_send_all(al_state *st)
{
    const al_corks *corks = st->corks;
    for (al_cork *cork = corks == NULL ? NULL : corks->first; cork != NULL;
         cork = cork->next) {
        /* What the kernel has not taken is as if it had never waited: after a fork it is
         * the parent's to send. */
        if (atomic_load_explicit(&cork->waiting, memory_order_relaxed)) {
            st->send_corked(cork->loop);
        }
    }
}
