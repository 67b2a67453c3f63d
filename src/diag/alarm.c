/* alarm.c: see alarm.h. */
#include "diag/alarm.h"

#include <math.h>

#include "base/threads.h"
#include "core/poll.h"
#include "core/ticker.h"

typedef struct al_alarm {
    int64_t due; /* ns of al_poll_clock */
    PyObject *function;
    struct al_alarm *next;
} al_alarm;

typedef struct al_alarms {
    al_ticker_user user; /* first: the ticker hands it back */
    al_state *st;
    al_alarm *first; /* in no order; guarded by the GIL, or list_lock */
    al_lock list_lock;
    int64_t due; /* of the earliest; guarded by the lock */
} al_alarms;

static int64_t
look(al_ticker_user *user, int64_t now)
{
    al_alarms *alarms = (al_alarms *)user;
    if (now >= alarms->due) {
        alarms->due = AL_TICKER_NEVER; /* `act` finds out what comes next. */
        user->wants = true;
    }
    return alarms->due;
}

/* Tells the ticker, if there is one, when the earliest is due. */
static void
tell_ticker(al_alarms *alarms)
{
    int64_t due = AL_TICKER_NEVER;
    al_lock_take(&alarms->list_lock);
    for (const al_alarm *alarm = alarms->first; alarm != NULL; alarm = alarm->next) {
        due = alarm->due < due ? alarm->due : due;
    }
    al_lock_give(&alarms->list_lock);
    al_ticker_lock(alarms->st);
    alarms->due = due;
    al_ticker_wake_locked(alarms->st, &alarms->user, due);
    al_ticker_unlock(alarms->st);
}

/* Takes an alarm out of the list, that of the function, or with NULL one that is due at
 * that time: the caller owns it; or NULL. */
static al_alarm *
take(al_alarms *alarms, const PyObject *function, int64_t now)
{
    al_alarm *taken = NULL;
    al_lock_take(&alarms->list_lock);
    for (al_alarm **link = &alarms->first; *link != NULL; link = &(*link)->next) {
        al_alarm *alarm = *link;
        if (function != NULL ? alarm->function == function : alarm->due <= now) {
            *link = alarm->next;
            taken = alarm;
            break;
        }
    }
    al_lock_give(&alarms->list_lock);
    return taken;
}

static void
act(al_ticker_user *user)
{
    al_alarms *alarms = (al_alarms *)user;
    int64_t now = al_poll_clock(); /* What they set themselves is later. */
    for (al_alarm *alarm; (alarm = take(alarms, NULL, now)) != NULL;) {
        PyObject *result = PyObject_CallNoArgs(alarm->function); /* escapes */
        if (result == NULL) {
            PyErr_WriteUnraisable(alarm->function); /* escapes */
        }
        Py_XDECREF(result);
        Py_DECREF(alarm->function); /* escapes */
        PyMem_RawFree(alarm);
    }
    tell_ticker(alarms);
}

static void
before_end(al_ticker_user *Py_UNUSED(user))
{
}

static void
after_fork(al_ticker_user *user, bool Py_UNUSED(child))
{
    al_alarms *alarms = (al_alarms *)user;
    if (alarms->first != NULL && al_ticker_start(alarms->st, user)) {
        tell_ticker(alarms);
    }
}

int
al_alarm_traverse(al_state *st, visitproc visit, void *arg)
{
    const al_alarms *alarms = st->alarms;
    for (const al_alarm *alarm = alarms == NULL ? NULL : alarms->first; alarm != NULL;
         alarm = alarm->next) {
        Py_VISIT(alarm->function);
    }
    return 0;
}

void
al_alarm_clear(al_state *st)
{
    al_alarms *alarms = st->alarms;
    for (al_alarm *alarm;
         alarms != NULL && (alarm = take(alarms, NULL, INT64_MAX)) != NULL;) {
        Py_DECREF(alarm->function); /* escapes */
        PyMem_RawFree(alarm);
    }
}

void
al_alarm_free(al_state *st)
{
    PyMem_RawFree(st->alarms);
    st->alarms = NULL;
}

static al_alarms *
make_alarms(al_state *st)
{
    if (st->alarms == NULL) {
        al_alarms *alarms = PyMem_RawCalloc(1, sizeof(*alarms));
        if (alarms == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        alarms->user = (al_ticker_user){.look = look,
                                        .act = act,
                                        .before_end = before_end,
                                        .after_fork = after_fork};
        alarms->st = st;
        alarms->due = AL_TICKER_NEVER;
        AL_STORE(st->alarms, alarms);
    }
    return st->alarms;
}

/* The room's memory, made now if there is none: NULL with MemoryError. */
static al_alarms *
alarms_of(al_state *st)
{
    al_alarms *alarms;
    AL_CRITICAL_BEGIN(al_state_guard(st));
    alarms = make_alarms(st);
    AL_CRITICAL_END();
    return alarms;
}

PyDoc_STRVAR(set_alarm_doc,
             "_set_alarm($module, function, seconds, /)\n--\n\n"
             "Call function() in so many seconds, in a thread of its own.\n\n"
             "It replaces an alarm that the function has; None takes it back. Where\n"
             "no thread can be started, none comes.");

static PyObject *
core_set_alarm(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    al_state *st = al_state_of_module(module);
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "_set_alarm() takes a function and seconds");
        return NULL;
    }
    PyObject *function = args[0];
    bool off = args[1] == Py_None;
    double seconds = off ? 0. : PyFloat_AsDouble(args[1]); /* escapes */
    al_alarms *alarms = PyErr_Occurred() ? NULL : alarms_of(st);
    if (alarms == NULL) {
        return NULL;
    }
    al_alarm *alarm = take(alarms, function, 0);
    if (alarm != NULL) {
        Py_DECREF(alarm->function); /* no last reference: the caller has one */
        PyMem_RawFree(alarm);
    }
    if (off) {
        if (al_ticker_runs(st)) {
            tell_ticker(alarms);
        }
        Py_RETURN_NONE;
    }
    alarm = PyMem_RawMalloc(sizeof(*alarm));
    if (alarm == NULL) {
        return PyErr_NoMemory();
    }
    alarm->due = al_poll_clock() + (int64_t)ceil(fmin(fmax(seconds, 0.), 9e8) * 1e9);
    alarm->function = Py_NewRef(function);
    al_lock_take(&alarms->list_lock);
    alarm->next = alarms->first;
    alarms->first = alarm;
    al_lock_give(&alarms->list_lock);
    if (al_ticker_start(st, &alarms->user)) {
        tell_ticker(alarms);
    }
    Py_RETURN_NONE;
}

PyMethodDef al_alarm_methods[] = {
    {"_set_alarm", (PyCFunction)(void (*)(void))core_set_alarm, METH_FASTCALL,
     set_alarm_doc},
    {NULL, NULL, 0, NULL},
};
