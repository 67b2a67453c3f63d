/* cork.c: see cork.h.
 *
 * The lock guards the list of loops and the thread's sleep.  The list changes only with
 * the lock and the GIL, so either is enough to walk it; the thread never waits for the
 * GIL with the lock held.  A fork finds no thread: it is ended before, because Python
 * warns of a fork with threads, and because the child would inherit its lock.  Until the
 * fork is over no write waits: the child has a copy of what waits, and would send it too. */
#include "core/cork.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if AL_LINUX
#include <sys/prctl.h>
#endif

#include "core/sched.h"

enum {
    TICK = 1000 * 1000, /* ns */
    TICKS_TO_RESCUE = 2,
    TICKS_TO_SLEEP = 64,
};

typedef struct al_ticker {
    pthread_mutex_t lock;
    pthread_cond_t woken;
    pthread_t thread;
    PyInterpreterState *interpreter;
    al_state *st;
    al_cork *corks; /* loops that have corked; guarded by the lock and the GIL */
    atomic_uint count;
    atomic_bool asleep;
    bool stopping; /* guarded by the lock */
    bool running;  /* guarded by the GIL, as the next two */
    bool ended;    /* the interpreter ends: no thread any more */
    int forks;     /* under way: no thread before they are over */
} al_ticker;

/* --- the thread --------------------------------------------------------------------------- */

static bool
is_stuck(const al_cork *cork, unsigned int now)
{
    return atomic_load_explicit(&cork->waiting, memory_order_relaxed) &&
           now - atomic_load_explicit(&cork->tick, memory_order_relaxed) >=
               TICKS_TO_RESCUE;
}

/* Sends for the loops of which a slot does not end.  No Python code runs here. */
static void
rescue(al_ticker *ticker)
{
    PyThreadState *thread = PyThreadState_New(ticker->interpreter);
    if (thread == NULL) {
        return; /* The next tick tries again. */
    }
    PyEval_RestoreThread(thread);
    unsigned int now = atomic_load_explicit(&ticker->count, memory_order_relaxed);
    for (al_cork *cork = ticker->corks; cork != NULL; cork = cork->next) {
        if (is_stuck(cork, now)) {
            ticker->st->send_corked(cork->loop);
        }
    }
    PyThreadState_Clear(thread);
    PyThreadState_DeleteCurrent();
}

/* Sleeps with the lock held until a loop corks; not at all if one has just now. */
static void
sleep_until_woken(al_ticker *ticker)
{
    atomic_store(&ticker->asleep, true);
    atomic_thread_fence(memory_order_seq_cst);
    for (al_cork *cork = ticker->corks; cork != NULL; cork = cork->next) {
        if (atomic_load(&cork->waiting)) {
            atomic_store(&ticker->asleep, false);
        }
    }
    while (atomic_load(&ticker->asleep) && !ticker->stopping) {
        pthread_cond_wait(&ticker->woken, &ticker->lock);
    }
}

static void *
tick(void *arg)
{
    al_ticker *ticker = arg;
    const struct timespec pause = {.tv_nsec = TICK};
#if AL_LINUX
    (void)prctl(PR_SET_NAME, "aioloop-cork", 0, 0, 0); /* for top, gdb and the like */
#endif
    pthread_mutex_lock(&ticker->lock);
    while (!ticker->stopping) {
        bool stuck = false, busy = false;
        unsigned int now =
            atomic_fetch_add_explicit(&ticker->count, 1, memory_order_relaxed) + 1;
        for (al_cork *cork = ticker->corks; cork != NULL; cork = cork->next) {
            stuck = stuck || is_stuck(cork, now);
            busy =
                busy || now - atomic_load_explicit(&cork->tick, memory_order_relaxed) <
                            TICKS_TO_SLEEP;
        }
        if (!stuck && !busy) {
            sleep_until_woken(ticker);
        }
        pthread_mutex_unlock(&ticker->lock);
        if (stuck) {
            rescue(ticker);
        }
        nanosleep(&pause, NULL);
        pthread_mutex_lock(&ticker->lock);
    }
    pthread_mutex_unlock(&ticker->lock);
    return NULL;
}

static void
wake(al_ticker *ticker)
{
    pthread_mutex_lock(&ticker->lock);
    atomic_store(&ticker->asleep, false);
    pthread_cond_signal(&ticker->woken);
    pthread_mutex_unlock(&ticker->lock);
}

/* --- forks and execs ------------------------------------------------------------------------ */

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

/* --- starting and ending the thread ---------------------------------------------------------- */

/* A thread that takes no signals: they are the program's threads'. */
static bool
start_thread(al_ticker *ticker)
{
    sigset_t all, before;
    sigfillset(&all);
    if (ticker->ended || ticker->forks > 0 ||
        pthread_sigmask(SIG_SETMASK, &all, &before) != 0) {
        return false;
    }
    ticker->stopping = false;
    atomic_store(&ticker->asleep, false);
    ticker->running = pthread_create(&ticker->thread, NULL, tick, ticker) == 0;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (ticker->running) {
        hook_programs();
    }
    return ticker->running;
}

/* Escapes: gives the GIL up, which the thread may be waiting for.  Who writes meanwhile
 * must not start another one: `ended` or `forks` says so. */
static void
stop_thread(al_ticker *ticker)
{
    if (!ticker->running) {
        return;
    }
    ticker->running = false;
    pthread_mutex_lock(&ticker->lock);
    ticker->stopping = true;
    pthread_cond_signal(&ticker->woken);
    pthread_mutex_unlock(&ticker->lock);
    pthread_t thread = ticker->thread;
    Py_BEGIN_ALLOW_THREADS
    pthread_join(thread, NULL);
    Py_END_ALLOW_THREADS
}

/* The interpreter's ticker with its thread, made if need be; NULL if it cannot be had. */
static al_ticker *
start_ticker(al_state *st)
{
    if (st->ticker == NULL) {
        al_ticker *ticker = PyMem_RawCalloc(1, sizeof(*ticker));
        if (ticker == NULL) {
            return NULL;
        }
        ticker->interpreter = PyInterpreterState_Get();
        ticker->st = st;
        pthread_mutex_init(&ticker->lock, NULL);
        pthread_cond_init(&ticker->woken, NULL);
        st->ticker = ticker;
    }
    return start_thread(st->ticker) ? st->ticker : NULL;
}

void
al_cork_before_fork(al_state *st)
{
    if (st->ticker != NULL) {
        st->ticker->forks++; /* Nothing waits any more, in no loop's thread. */
        al_cork_send_all(st);
        stop_thread(st->ticker); /* escapes */
    }
}

void
al_cork_after_fork(al_state *st, bool child)
{
    al_ticker *ticker = st->ticker;
    if (ticker == NULL) {
        return;
    }
    if (ticker->forks > 0) {
        ticker->forks--;
    }
    if (child) {
        /* Another thread may have forked too, or corked for the first time. */
        ticker->forks = 0;
        ticker->running = false;
        for (al_cork *cork = ticker->corks; cork != NULL; cork = cork->next) {
            atomic_store(&cork->waiting, false);
        }
        pthread_mutex_init(&ticker->lock, NULL);
        pthread_cond_init(&ticker->woken, NULL);
    }
}

/* atexit.register(...): the thread must not wait for the GIL of an interpreter that
 * ends. */
static PyObject *
at_exit(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    al_ticker *ticker = al_state_of_module(module)->ticker;
    if (ticker != NULL) {
        ticker->ended = true;
        al_cork_send_all(ticker->st); /* A daemon thread's slot may never end. */
        stop_thread(ticker);          /* escapes */
    }
    Py_RETURN_NONE;
}

static PyMethodDef at_exit_method = {"_at_exit", at_exit, METH_NOARGS, NULL};

int
al_cork_init(PyObject *module)
{
    PyObject *function = PyCFunction_NewEx(&at_exit_method, module, NULL);
    PyObject *atexit = PyImport_ImportModule("atexit");
    PyObject *result = function == NULL || atexit == NULL
                           ? NULL
                           : PyObject_CallMethod(atexit, "register", "O", function);
    Py_XDECREF(function);
    Py_XDECREF(atexit);
    Py_XDECREF(result);
    return result == NULL ? -1 : publish_state(al_state_of_module(module));
}

void
al_cork_free(al_state *st)
{
    al_ticker *ticker = st->ticker;
    withdraw_state(st);
    if (ticker == NULL) {
        return;
    }
    ticker->ended = true;
    stop_thread(ticker);
    AL_ASSERT(ticker->corks == NULL); /* The loops are gone: they hold the module. */
    pthread_cond_destroy(&ticker->woken);
    pthread_mutex_destroy(&ticker->lock);
    PyMem_RawFree(ticker);
    st->ticker = NULL;
}

/* --- loops --------------------------------------------------------------------------------- */

void
al_cork_open(al_loop *loop)
{
    const char *wanted = getenv("AIOLOOP_CORK");
    loop->cork.loop = loop;
    loop->cork.off = wanted != NULL && strcmp(wanted, "0") == 0;
}

void
al_cork_close(al_cork *cork)
{
    if (cork->prev == NULL) {
        return;
    }
    al_ticker *ticker = cork->loop->st->ticker;
    pthread_mutex_lock(&ticker->lock);
    *cork->prev = cork->next;
    if (cork->next != NULL) {
        cork->next->prev = cork->prev;
    }
    cork->prev = NULL;
    pthread_mutex_unlock(&ticker->lock);
}

static void
enlist(al_ticker *ticker, al_cork *cork)
{
    pthread_mutex_lock(&ticker->lock);
    cork->next = ticker->corks;
    cork->prev = &ticker->corks;
    if (cork->next != NULL) {
        cork->next->prev = &cork->next;
    }
    ticker->corks = cork;
    pthread_mutex_unlock(&ticker->lock);
}

bool
al_cork_begin(al_state *st, al_cork *cork)
{
    if (AL_LIKELY(atomic_load_explicit(&cork->waiting, memory_order_relaxed))) {
        return true;
    }
    al_ticker *ticker = st->ticker;
    if (AL_UNLIKELY(ticker == NULL || !ticker->running)) {
        ticker = start_ticker(st);
        if (ticker == NULL) {
            return false;
        }
    }
    if (AL_UNLIKELY(cork->prev == NULL)) {
        enlist(ticker, cork);
    }
    atomic_store_explicit(&cork->tick,
                          atomic_load_explicit(&ticker->count, memory_order_relaxed),
                          memory_order_relaxed);
    atomic_store_explicit(&cork->waiting, true, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    if (AL_UNLIKELY(atomic_load_explicit(&ticker->asleep, memory_order_relaxed))) {
        wake(ticker);
    }
    return true;
}

bool
al_cork_is_old(const al_state *st, const al_cork *cork)
{
    const al_ticker *ticker = st->ticker;
    return ticker == NULL ||
           atomic_load_explicit(&ticker->count, memory_order_relaxed) !=
               atomic_load_explicit(&cork->tick, memory_order_relaxed);
}

void
al_cork_send_all(al_state *st)
{
    const al_ticker *ticker = st->ticker;
    for (al_cork *cork = ticker == NULL ? NULL : ticker->corks; cork != NULL;
         cork = cork->next) {
        /* What the kernel has not taken is as if it had never waited: after a fork it is
         * the parent's to send. */
        if (atomic_load_explicit(&cork->waiting, memory_order_relaxed)) {
            st->send_corked(cork->loop);
        }
    }
}
