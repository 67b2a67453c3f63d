/* ticker.c: see ticker.h.
 *
 * The threads are joined before a fork and at the end.  The caller may be in Python code
 * then, a handler of the program's logging for example, which may wait for a lock that
 * the very thread holds that forks.  So it is waited for with a limit, and left alone
 * after that: the number of its generation tells it that it is the caller no longer. */
#include "core/ticker.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#if AL_LINUX
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "core/poll.h"

/* ns, for a caller in Python code */
static const int64_t PATIENCE = 2000 * 1000 * 1000;

typedef struct al_ticker {
    pthread_mutex_t lock;
    pthread_cond_t woken;  /* for the ticker's thread */
    pthread_cond_t wanted; /* for the caller's */
    pthread_cond_t ended;  /* for who waits for the caller's end */
    PyInterpreterState *interpreter;
    al_ticker_user *users; /* guarded by the lock and the GIL */
    /* Guarded by the lock. */
    bool stopping;
    bool calling;        /* the caller's thread exists */
    unsigned generation; /* of the caller */
    int waits_for_gil;   /* see al_ticker_waits_for_gil */
    pthread_t caller;
    /* Guarded by the GIL, or the critical section of al_state_guard. */
    pthread_t thread;
    bool running;   /* the ticker's thread exists */
    bool ended_all; /* the interpreter ends: no thread any more */
    bool lost;      /* a caller was left alone, and still uses this struct */
    int forks;      /* under way: no thread before they are over */
} al_ticker;

/* --- sleeping ------------------------------------------------------------------------- */

static void
init_condition(pthread_cond_t *condition)
{
#ifdef __APPLE__
    pthread_cond_init(condition, NULL);
#else
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
#endif
}

/* Waits with the lock held, at most until `due`; may come back before. */
static void
wait_until(al_ticker *ticker, pthread_cond_t *condition, int64_t due)
{
    if (due == AL_TICKER_NEVER) {
        pthread_cond_wait(condition, &ticker->lock);
        return;
    }
#ifdef __APPLE__
    int64_t left = due - al_poll_clock();
    left = left < 0 ? 0 : left;
    struct timespec span = {.tv_sec = (time_t)(left / 1000000000),
                            .tv_nsec = (long)(left % 1000000000)};
    (void)pthread_cond_timedwait_relative_np(condition, &ticker->lock, &span);
#else
    struct timespec when = {.tv_sec = (time_t)(due / 1000000000),
                            .tv_nsec = (long)(due % 1000000000)};
    (void)pthread_cond_timedwait(condition, &ticker->lock, &when);
#endif
}

static void
init_primitives(al_ticker *ticker)
{
    pthread_mutex_init(&ticker->lock, NULL);
    init_condition(&ticker->woken);
    init_condition(&ticker->wanted);
    init_condition(&ticker->ended);
}

/* A thread that takes no signals: they are the program's threads'. */
static bool
create_thread(pthread_t *thread, void *(*run)(void *), void *arg)
{
    sigset_t all, before;
    sigfillset(&all);
    if (pthread_sigmask(SIG_SETMASK, &all, &before) != 0) {
        return false;
    }
    bool created = pthread_create(thread, NULL, run, arg) == 0;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return created;
}

/* For top, gdb and the like. */
static void
name_thread(const char *name)
{
#if AL_LINUX
    (void)prctl(PR_SET_NAME, name, 0, 0, 0);
#else
    (void)name;
#endif
}

/* --- the caller -------------------------------------------------------------------------- */

static bool
is_wanted(const al_ticker *ticker)
{
    const al_ticker_user *user = ticker->users;
    while (user != NULL && !user->wants) {
        user = user->next;
    }
    return user != NULL;
}

/* Takes the GIL and calls who wants it.  Called and left with the lock, which is not held
 * meanwhile. */
static void
call_users(al_ticker *ticker, unsigned generation)
{
    pthread_mutex_unlock(&ticker->lock);
    PyThreadState *thread = PyThreadState_New(ticker->interpreter);
    if (thread == NULL) {
        const struct timespec pause = {.tv_nsec = 1000 * 1000};
        nanosleep(&pause, NULL); /* There may be memory then. */
        pthread_mutex_lock(&ticker->lock);
        return;
    }
    pthread_mutex_lock(&ticker->lock);
#if AL_LINUX
    ticker->waits_for_gil = (int)syscall(SYS_gettid);
#else
    ticker->waits_for_gil = -1;
#endif
    pthread_mutex_unlock(&ticker->lock);
    PyEval_RestoreThread(thread);
    pthread_mutex_lock(&ticker->lock);
    ticker->waits_for_gil = 0;
    bool ours = ticker->generation == generation && !ticker->stopping;
    for (al_ticker_user *user = ticker->users; ours && user != NULL;
         user = user->next) {
        if (!user->wants) {
            continue;
        }
        user->wants = false;
        pthread_mutex_unlock(&ticker->lock);
        user->act(user); /* escapes */
        pthread_mutex_lock(&ticker->lock);
        ours = ticker->generation == generation && !ticker->stopping;
    }
    pthread_mutex_unlock(&ticker->lock);
    PyThreadState_Clear(thread); /* escapes */
    PyThreadState_DeleteCurrent();
    pthread_mutex_lock(&ticker->lock);
}

static void *
call(void *arg)
{
    al_ticker *ticker = arg;
    name_thread("aioloop-caller");
    pthread_mutex_lock(&ticker->lock);
    unsigned generation = ticker->generation;
    while (!ticker->stopping && ticker->generation == generation) {
        if (is_wanted(ticker)) {
            call_users(ticker, generation);
        }
        else {
            pthread_cond_wait(&ticker->wanted, &ticker->lock);
        }
    }
    if (ticker->generation == generation) {
        ticker->calling = false;
        pthread_cond_broadcast(&ticker->ended);
    }
    pthread_mutex_unlock(&ticker->lock);
    return NULL;
}

/* --- the ticker ------------------------------------------------------------------------ */

static void *
tick(void *arg)
{
    al_ticker *ticker = arg;
    name_thread("aioloop-ticker");
    pthread_mutex_lock(&ticker->lock);
    while (!ticker->stopping) {
        int64_t now = al_poll_clock(), next = AL_TICKER_NEVER;
        for (al_ticker_user *user = ticker->users; user != NULL; user = user->next) {
            if (user->due <= now) {
                user->due = user->look(user, now);
            }
            next = user->due < next ? user->due : next;
        }
        if (is_wanted(ticker)) {
            if (!ticker->calling) {
                ticker->calling = create_thread(&ticker->caller, call, ticker);
            }
            pthread_cond_signal(&ticker->wanted);
        }
        if (al_poll_clock() < next) {
            wait_until(ticker, &ticker->woken, next);
        }
    }
    pthread_mutex_unlock(&ticker->lock);
    return NULL;
}

/* --- starting and ending ------------------------------------------------------------------ */

static al_ticker *
make_ticker(al_state *st)
{
    if (st->ticker == NULL) {
        al_ticker *ticker = PyMem_RawCalloc(1, sizeof(*ticker));
        if (ticker == NULL) {
            return NULL;
        }
        ticker->interpreter = PyInterpreterState_Get();
        init_primitives(ticker);
        AL_STORE(st->ticker, ticker);
    }
    return st->ticker;
}

static bool
start(al_state *st, al_ticker_user *user)
{
    al_ticker *ticker = make_ticker(st);
    if (ticker == NULL || ticker->ended_all) {
        return false;
    }
    if (!user->known) {
        user->known = true;
        pthread_mutex_lock(&ticker->lock);
        user->next = ticker->users;
        ticker->users = user;
        pthread_cond_signal(&ticker->woken);
        pthread_mutex_unlock(&ticker->lock);
    }
    if (!ticker->running && ticker->forks == 0) {
        ticker->stopping = false;
        AL_STORE(ticker->running, create_thread(&ticker->thread, tick, ticker));
    }
    return ticker->running || ticker->forks > 0;
}

bool
al_ticker_start(al_state *st, al_ticker_user *user)
{
    bool started;
    AL_CRITICAL_BEGIN(al_state_guard(st));
    started = start(st, user);
    AL_CRITICAL_END();
    return started;
}

bool
al_ticker_runs(const al_state *st)
{
    return AL_LOAD(st->ticker) != NULL && AL_LOAD(st->ticker->running);
}

/* Waits for the end of the caller's thread, without the GIL and not for ever.  Called and
 * left with the lock.  False: it is left alone. */
static bool
await_caller(al_ticker *ticker)
{
    /* A handler of the program's logging may fork. */
    bool is_self = pthread_equal(ticker->caller, pthread_self()) != 0;
    int64_t limit = al_poll_clock() + (is_self ? 0 : PATIENCE);
    while (ticker->calling && al_poll_clock() < limit) {
        wait_until(ticker, &ticker->ended, limit);
    }
    if (ticker->calling) {
        pthread_detach(ticker->caller);
        ticker->generation++;
        ticker->calling = false;
        return false;
    }
    return true;
}

/* Escapes: gives the GIL up, which the caller may be waiting for.  Who needs the ticker
 * meanwhile must not start another one: `ended_all` or `forks` says so. */
static void
stop_threads(al_ticker *ticker)
{
    if (!ticker->running) {
        return;
    }
    AL_STORE(ticker->running, false);
    pthread_t thread = ticker->thread;
    bool lost = false;
    Py_BEGIN_ALLOW_THREADS
    pthread_mutex_lock(&ticker->lock);
    ticker->stopping = true;
    bool called = ticker->calling; /* It may end before we look again. */
    pthread_t caller = ticker->caller;
    pthread_cond_signal(&ticker->woken);
    pthread_cond_signal(&ticker->wanted);
    pthread_mutex_unlock(&ticker->lock);
    pthread_join(thread, NULL);
    pthread_mutex_lock(&ticker->lock);
    if (called) {
        lost = !await_caller(ticker);
        if (!lost) {
            pthread_mutex_unlock(&ticker->lock);
            pthread_join(caller, NULL);
            pthread_mutex_lock(&ticker->lock);
        }
    }
    pthread_mutex_unlock(&ticker->lock);
    Py_END_ALLOW_THREADS
    ticker->lost = ticker->lost || lost;
}

static void
tell_before_end(const al_ticker *ticker)
{
    for (al_ticker_user *user = ticker->users; user != NULL; user = user->next) {
        user->before_end(user);
    }
}

void
al_ticker_before_fork(al_state *st)
{
    al_ticker *ticker = st->ticker;
    if (ticker != NULL) {
        ticker->forks++;
        tell_before_end(ticker);
        stop_threads(ticker); /* escapes */
    }
}

void
al_ticker_after_fork(al_state *st, bool child)
{
    al_ticker *ticker = st->ticker;
    if (ticker == NULL) {
        return;
    }
    if (ticker->forks > 0) {
        ticker->forks--;
    }
    if (child) {
        /* Another thread may have forked too, or started the ticker. */
        ticker->forks = 0;
        ticker->running = ticker->calling = false;
        ticker->generation++;
        ticker->waits_for_gil = 0;
        init_primitives(ticker);
    }
    for (al_ticker_user *user = ticker->users; user != NULL; user = user->next) {
        user->wants = user->wants && !child;
        user->after_fork(user, child);
    }
}

/* atexit.register(...): the threads must not wait for the GIL of an interpreter that
 * ends. */
static PyObject *
at_exit(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    al_ticker *ticker = al_state_of_module(module)->ticker;
    if (ticker != NULL) {
        ticker->ended_all = true;
        tell_before_end(ticker);
        stop_threads(ticker); /* escapes */
    }
    Py_RETURN_NONE;
}

static PyMethodDef at_exit_method = {"_at_exit", at_exit, METH_NOARGS, NULL};

int
al_ticker_init(PyObject *module)
{
    PyObject *function = PyCFunction_NewEx(&at_exit_method, module, NULL);
    PyObject *atexit = PyImport_ImportModule("atexit");
    PyObject *result = function == NULL || atexit == NULL
                           ? NULL
                           : PyObject_CallMethod(atexit, "register", "O", function);
    Py_XDECREF(function);
    Py_XDECREF(atexit);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

void
al_ticker_free(al_state *st)
{
    al_ticker *ticker = st->ticker;
    if (ticker == NULL) {
        return;
    }
    ticker->ended_all = true;
    stop_threads(ticker);
    st->ticker = NULL;
    if (!ticker->lost) {
        pthread_cond_destroy(&ticker->woken);
        pthread_cond_destroy(&ticker->wanted);
        pthread_cond_destroy(&ticker->ended);
        pthread_mutex_destroy(&ticker->lock);
        PyMem_RawFree(ticker);
    }
}

/* --- for the users ------------------------------------------------------------------------- */

void
al_ticker_lock(al_state *st)
{
    pthread_mutex_lock(&st->ticker->lock);
}

void
al_ticker_unlock(al_state *st)
{
    pthread_mutex_unlock(&st->ticker->lock);
}

void
al_ticker_wake_locked(al_state *st, al_ticker_user *user, int64_t due)
{
    user->due = due;
    pthread_cond_signal(&st->ticker->woken);
}

int
al_ticker_waits_for_gil(al_state *st)
{
    return st->ticker->waits_for_gil;
}
