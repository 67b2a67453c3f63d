/* blocking.c: see blocking.h.
 *
 * What is decided here needs no text: whether the thread is in a slot, whether the event
 * is one of a call that may block, whether its arguments say that it does not (a socket
 * in non-blocking mode, a literal address), whether the program has allowed it.  Where it
 * is called from decides the rest, which Python code says once for each stack: asyncio's
 * own calls, imports and logging handlers do not count. */
#include "diag/blocking.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/socket.h>

/* What a loop has while its switch is on. */
typedef struct al_blocking {
    al_loop *loop; /* borrowed: it ends this before it dies */
    struct al_blocking *next;
    PyObject *report;  /* report(loop, event, args, frames): see ask */
    PyObject *allowed; /* a ContextVar */
    PyObject *seen;    /* {stack: what report said}, or NULL: it is always asked */
    int references;
    bool busy; /* what report itself calls does not count */
} al_blocking;

/* What the hook of an interpreter is given.  It lives as long as the hook: as the
 * process. */
typedef struct al_blocking_hook {
    _Atomic(al_blocking *) first; /* of the loops; changed with the GIL only */
    int64_t interpreter;          /* whose GIL that is */
    atomic_bool heard;            /* it has been called */
    PyObject *sleep;              /* time.sleep while it has our definition, or NULL */
} al_blocking_hook;

enum { SEEN_MAXIMUM = 1024 };

/* --- harmless arguments ---------------------------------------------------------------- */

/* The text of a str or bytes, NULL for others. */
static const char *
text_of(PyObject *obj)
{
    if (PyBytes_Check(obj)) {
        return PyBytes_AS_STRING(obj);
    }
    const char *text = PyUnicode_Check(obj) ? PyUnicode_AsUTF8(obj) : NULL;
    if (text == NULL) {
        PyErr_Clear(); /* UnicodeEncodeError: surrogates of a file's name. */
    }
    return text;
}

static PyObject *
argument(PyObject *args, Py_ssize_t i)
{
    return i < PyTuple_GET_SIZE(args) ? PyTuple_GET_ITEM(args, i) : Py_None;
}

static bool
sleeps_not(PyObject *args)
{
    PyObject *seconds = argument(args, 0);
    return (PyLong_CheckExact(seconds) || PyFloat_CheckExact(seconds)) &&
           PyObject_Not(seconds) == 1;
}

/* A descriptor that is open already, or what the kernel answers from its memory. */
static bool
is_no_disk(PyObject *args)
{
    static const char *const places[] = {"/proc/",    "/sys/",       "/dev/null",
                                         "/dev/zero", "/dev/random", "/dev/urandom",
                                         "/dev/fd/"};
    PyObject *path = argument(args, 0);
    if (PyLong_Check(path)) {
        return true;
    }
    const char *text = text_of(path);
    for (size_t i = 0; text != NULL && i < sizeof(places) / sizeof(places[0]); i++) {
        if (strncmp(text, places[i], strlen(places[i])) == 0) {
            return true;
        }
    }
    return false;
}

static bool
is_literal_address(PyObject *args)
{
    PyObject *host = argument(args, 0);
    const char *text = text_of(host);
    struct in6_addr parsed;
    char address[INET6_ADDRSTRLEN];
    if (text == NULL) {
        return host == Py_None;
    }
    size_t length = strcspn(text, "%"); /* The rest is a scope. */
    if (length == 0 || length >= sizeof(address)) {
        return length == 0;
    }
    memcpy(address, text, length);
    address[length] = '\0';
    return inet_pton(AF_INET, address, &parsed) == 1 ||
           inet_pton(AF_INET6, address, &parsed) == 1;
}

/* getattr(obj, name) as a number, or -1.  Escapes. */
static long
number_of(PyObject *obj, const char *name)
{
    PyObject *value = PyObject_GetAttrString(obj, name);
    long number = value == NULL ? -1 : PyLong_AsLong(value);
    Py_XDECREF(value);
    if (number == -1) {
        PyErr_Clear(); /* Whatever it is, it is no such socket. */
    }
    return number;
}

/* A non-blocking socket, or one whose connect() only notes the address.  Escapes. */
static bool
connects_at_once(PyObject *args)
{
    PyObject *sock = argument(args, 0);
    PyObject *timeout = PyObject_CallMethod(sock, "gettimeout", NULL);
    if (timeout == NULL) {
        PyErr_Clear(); /* No socket at all. */
        return false;
    }
    bool never = PyFloat_Check(timeout) && PyFloat_AS_DOUBLE(timeout) == 0.0;
    Py_DECREF(timeout);
    return never || number_of(sock, "type") == SOCK_DGRAM;
}

static bool
locks_not(PyObject *args)
{
    PyObject *operation = argument(args, 1);
    long bits = PyLong_Check(operation) ? PyLong_AsLong(operation) : 0;
    if (bits == -1) {
        PyErr_Clear(); /* OverflowError: the call itself will say it. */
    }
    return (bits & (LOCK_NB | LOCK_UN)) != 0;
}

static bool
is_in_memory(PyObject *args)
{
    const char *text = text_of(argument(args, 0));
    return text != NULL && (strcmp(text, ":memory:") == 0 || *text == '\0');
}

/* --- which calls ------------------------------------------------------------------------ */

typedef struct {
    const char *event;
    bool (*harmless)(PyObject *args); /* NULL: never.  Leaves no exception. */
} kind;

/* Sorted; aioloop/_blocking.py says of each what to do instead. */
static const kind kinds[] = {
    {"builtins.input", NULL},
    {"fcntl.flock", locks_not},
    {"fcntl.lockf", locks_not},
    {"ftplib.connect", NULL},
    {"glob.glob", NULL},
    {"http.client.connect", NULL},
    {"imaplib.open", NULL},
    {"open", is_no_disk},
    {"os.chmod", is_no_disk},
    {"os.chown", is_no_disk},
    {"os.fwalk", is_no_disk},
    {"os.link", is_no_disk},
    {"os.listdir", is_no_disk},
    {"os.lockf", NULL},
    {"os.mkdir", is_no_disk},
    {"os.posix_spawn", NULL},
    {"os.remove", is_no_disk},
    {"os.rename", is_no_disk},
    {"os.rmdir", is_no_disk},
    {"os.scandir", is_no_disk},
    {"os.spawn", NULL},
    {"os.symlink", is_no_disk},
    {"os.system", NULL},
    {"os.truncate", is_no_disk},
    {"os.utime", is_no_disk},
    {"os.walk", is_no_disk},
    {"pathlib.Path.glob", NULL},
    {"pathlib.Path.rglob", NULL},
    {"poplib.connect", NULL},
    {"pty.spawn", NULL},
    {"shutil.chown", NULL},
    {"shutil.copyfile", NULL},
    {"shutil.copymode", NULL},
    {"shutil.copystat", NULL},
    {"shutil.copytree", NULL},
    {"shutil.make_archive", NULL},
    {"shutil.move", NULL},
    {"shutil.rmtree", NULL},
    {"shutil.unpack_archive", NULL},
    {"smtplib.connect", NULL},
    {"socket.connect", connects_at_once},
    {"socket.getaddrinfo", is_literal_address},
    {"socket.gethostbyaddr", NULL},
    {"socket.gethostbyname", is_literal_address},
    {"sqlite3.connect", is_in_memory},
    {"subprocess.Popen", NULL},
    {"tempfile.mkdtemp", NULL},
    {"tempfile.mkstemp", NULL},
    {"time.sleep", sleeps_not},
    {"urllib.Request", NULL},
};

static int
compare_kinds(const void *event, const void *entry)
{
    return strcmp(event, ((const kind *)entry)->event);
}

static const kind *
find_kind(const char *event)
{
    return bsearch(event, kinds, sizeof(kinds) / sizeof(kinds[0]), sizeof(kinds[0]),
                   compare_kinds);
}

/* --- the hook ---------------------------------------------------------------------------- */

static PyThreadState *
thread_if_any(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return PyThreadState_GetUnchecked();
#else
    return _PyThreadState_UncheckedGet();
#endif
}

/* The loop's entry whose slot the calling thread is in, or NULL. */
static al_blocking *
entry_of_thread(const al_blocking_hook *hook)
{
    al_blocking *entry = atomic_load_explicit(&hook->first, memory_order_relaxed);
    if (AL_LIKELY(entry == NULL)) {
        return NULL;
    }
    PyThreadState *tstate = thread_if_any();
    if (tstate == NULL || PyInterpreterState_GetID(PyThreadState_GetInterpreter(
                              tstate)) != hook->interpreter) {
        return NULL;
    }
    for (; entry != NULL; entry = entry->next) {
        const al_loop *loop = entry->loop;
        if (loop->in_slot && (loop->tstate == tstate ||
                              (loop->tstate == NULL &&
                               loop->thread_id == PyThread_get_thread_ident()))) {
            return entry;
        }
    }
    return NULL;
}

static void
release(al_blocking *entry)
{
    if (--entry->references == 0) {
        Py_XDECREF(entry->seen); /* escapes */
        Py_DECREF(entry->report);
        Py_DECREF(entry->allowed);
        PyMem_Free(entry);
    }
}

/* Whether the program is inside of allow_blocking().  1, 0 or -1. */
static int
is_allowed(const al_blocking *entry)
{
    PyObject *value;
    if (PyContextVar_Get(entry->allowed, Py_False, &value) < 0) {
        return -1;
    }
    int allowed = value == Py_True;
    Py_XDECREF(value);
    return allowed;
}

/* Asks about the frames: report gives True if the call counts, False if it does not, or
 * an exception to be raised in its place, which has no frames of ours in its traceback.
 * 1, 0 or -1.  Escapes. */
static int
ask(al_blocking *entry, const char *event, PyObject *args, PyObject *stack)
{
    PyObject *frames = al_stack_above(stack);
    PyObject *answer = frames == NULL
                           ? NULL
                           : PyObject_CallFunction(entry->report, "OsOO", entry->loop,
                                                   event, args, frames); /* escapes */
    Py_XDECREF(frames);
    int counts = answer == NULL ? -1 : answer == Py_True;
    if (answer != NULL && PyExceptionInstance_Check(answer)) {
        PyErr_SetObject((PyObject *)Py_TYPE(answer), answer);
        counts = -1;
    }
    Py_XDECREF(answer);
    return counts;
}

/* The same, from memory where the stack is known.  Escapes. */
static int
judge(al_blocking *entry, const char *event, PyObject *args)
{
    al_loop *loop = entry->loop;
    PyObject *stack = al_stack_capture(loop->st, &loop->debug.stacks, loop->debug.base,
                                       AL_STACK_WHOLE, 0); /* escapes */
    if (stack == NULL) {
        return -1;
    }
    PyObject *known =
        entry->seen == NULL ? NULL : PyDict_GetItemWithError(entry->seen, stack);
    int counts = known != NULL ? known == Py_True : -1;
    if (known == NULL && !PyErr_Occurred()) {
        counts = ask(entry, event, args, stack); /* escapes */
        if (counts < 0 && entry->seen != NULL &&
            PyErr_ExceptionMatches(PyExc_Exception)) {
            PyErr_WriteUnraisable(entry->report); /* The call itself goes on. */
            counts = 1;
        }
        if (counts >= 0 && entry->seen != NULL) {
            if (PyDict_GET_SIZE(entry->seen) >= SEEN_MAXIMUM) {
                PyDict_Clear(entry->seen); /* escapes */
            }
            if (PyDict_SetItem(entry->seen, stack, counts ? Py_True : Py_False) < 0) {
                counts = -1;
            }
        }
    }
    Py_DECREF(stack); /* escapes */
    return counts;
}

static int
audit(const char *event, PyObject *args, void *data)
{
    al_blocking_hook *hook = data;
    if (AL_UNLIKELY(!atomic_load_explicit(&hook->heard, memory_order_relaxed))) {
        atomic_store(&hook->heard, true);
    }
    al_blocking *entry = entry_of_thread(hook);
    if (AL_LIKELY(entry == NULL) || entry->busy) {
        return 0;
    }
    const kind *found = find_kind(event);
    if (found == NULL) {
        return 0;
    }
    entry->references++;
    entry->busy = true;
    int status = 0;
    if (found->harmless == NULL || !found->harmless(args)) { /* escapes */
        int counts = is_allowed(entry);
        counts = counts == 0 ? judge(entry, event, args) : counts < 0 ? -1 : 0;
        if (counts != 0) {
            entry->loop->misuse.counts[AL_BLOCKING_CALL]++;
            entry->loop->st->misuse.counts[AL_BLOCKING_CALL]++;
        }
        status = counts < 0 ? -1 : 0;
    }
    entry->busy = false;
    release(entry); /* escapes */
    return status;
}

/* --- time.sleep ------------------------------------------------------------------------- */

#if PY_VERSION_HEX < 0x030D0000
/* Python 3.13 audits it.  Before, the function's object is given another definition while
 * a loop wants to know, so that whoever has it already is seen as well; both versions
 * get security fixes only. */
static PyMethodDef *sleep_definition; /* of the process: written once, like the next */
static PyMethodDef audited_definition;

static PyObject *
audited_sleep(PyObject *module, PyObject *seconds)
{
    return PySys_Audit("time.sleep", "O", seconds) < 0
               ? NULL
               : sleep_definition->ml_meth(module, seconds);
}

/* 0 or -1. */
static int
begin_sleep(al_blocking_hook *hook)
{
    PyObject *module = hook->sleep != NULL ? NULL : PyImport_ImportModule("time");
    if (module == NULL) {
        return hook->sleep != NULL ? 0 : -1;
    }
    PyObject *sleep = PyObject_GetAttrString(module, "sleep");
    Py_DECREF(module);
    if (sleep == NULL) {
        return -1;
    }
    PyCFunctionObject *function = (PyCFunctionObject *)sleep;
    if (!PyCFunction_CheckExact(sleep) || function->m_ml->ml_flags != METH_O) {
        Py_DECREF(sleep); /* Another tool has replaced it. */
        return 0;
    }
    if (sleep_definition == NULL) {
        sleep_definition = function->m_ml;
        audited_definition = *sleep_definition;
        audited_definition.ml_meth = audited_sleep;
    }
    function->m_ml = &audited_definition;
    hook->sleep = sleep;
    return 0;
}

static void
end_sleep(al_blocking_hook *hook)
{
    if (hook->sleep != NULL) {
        ((PyCFunctionObject *)hook->sleep)->m_ml = sleep_definition;
        Py_CLEAR(hook->sleep); /* escapes */
    }
}
#else
static int
begin_sleep(al_blocking_hook *Py_UNUSED(hook))
{
    return 0;
}

static void
end_sleep(al_blocking_hook *Py_UNUSED(hook))
{
}
#endif

/* --- switching --------------------------------------------------------------------------- */

/* Adds the interpreter's hook, once.  0 or -1. */
static int
add_hook(al_state *st)
{
    if (st->blocking_hook != NULL) {
        return 0;
    }
    al_blocking_hook *hook = PyMem_RawCalloc(1, sizeof(*hook));
    if (hook == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    hook->interpreter = PyInterpreterState_GetID(PyInterpreterState_Get());
    int status = PySys_AddAuditHook(audit, hook); /* escapes */
    if (status == 0) {
        status = PySys_Audit("aioloop.blocking_calls", NULL); /* escapes */
    }
    if (status < 0 && !atomic_load(&hook->heard)) {
        PyMem_RawFree(hook);
        return -1;
    }
    if (!atomic_load(&hook->heard)) {
        /* The interpreter is silent about it. */
        PyMem_RawFree(hook);
        PyErr_SetString(PyExc_RuntimeError,
                        "an audit hook of this program refuses to have others added");
        return -1;
    }
    st->blocking_hook = hook;
    return status;
}

static void
end(al_loop *loop)
{
    al_blocking *entry = loop->blocking;
    if (entry == NULL) {
        return;
    }
    loop->blocking = NULL;
    al_blocking_hook *hook = loop->st->blocking_hook;
    al_blocking *first = atomic_load(&hook->first);
    if (first == entry) {
        atomic_store(&hook->first, entry->next);
    }
    else {
        while (first->next != entry) {
            first = first->next;
        }
        first->next = entry->next;
    }
    if (atomic_load(&hook->first) == NULL) {
        end_sleep(hook); /* escapes */
    }
    release(entry); /* escapes */
}

static int
begin(al_loop *loop, PyObject *report, PyObject *allowed, bool remember)
{
    al_state *st = loop->st;
    end(loop);              /* escapes */
    if (add_hook(st) < 0) { /* escapes */
        return -1;
    }
    PyObject *seen = remember ? PyDict_New() : NULL;
    al_blocking *entry = PyMem_Calloc(1, sizeof(*entry));
    if (entry == NULL || (remember && seen == NULL) ||
        begin_sleep(st->blocking_hook) < 0) {
        PyMem_Free(entry);
        Py_XDECREF(seen);
        return PyErr_Occurred() ? -1 : (PyErr_NoMemory(), -1);
    }
    *entry = (al_blocking){
        .loop = loop,
        .next = atomic_load(&st->blocking_hook->first),
        .report = Py_NewRef(report),
        .allowed = Py_NewRef(allowed),
        .seen = seen,
        .references = 1,
    };
    loop->blocking = entry;
    atomic_store(&st->blocking_hook->first, entry);
    return 0;
}

PyDoc_STRVAR(watch_blocking_doc,
             "_watch_blocking($module, loop, report, allowed, remember, /)\n--\n\n"
             "Call report(loop, event, args, frames) for calls that block the loop.\n\n"
             "It says whether the call counts, or gives an exception that is raised.\n"
             "None for it turns this off.");

static PyObject *
core_watch_blocking(PyObject *module, PyObject *args)
{
    al_state *st = al_state_of_module(module);
    PyObject *loop, *report, *allowed;
    int remember;
    if (!PyArg_ParseTuple(args, "O!OOp:_watch_blocking", st->EventLoop_type, &loop,
                          &report, &allowed, &remember)) {
        return NULL;
    }
    al_loop *ours = (al_loop *)loop;
    if (report == Py_None) {
        end(ours); /* escapes */
    }
    else if (!ours->closed && begin(ours, report, allowed, remember != 0) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(blocking_events_doc, "_blocking_events($module, /)\n--\n\n"
                                  "Return the audit events of calls that block.");

static PyObject *
core_blocking_events(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    size_t n = sizeof(kinds) / sizeof(kinds[0]);
    PyObject *events = PyTuple_New((Py_ssize_t)n);
    for (size_t i = 0; events != NULL && i < n; i++) {
        PyObject *event = PyUnicode_FromString(kinds[i].event);
        if (event == NULL) {
            Py_CLEAR(events);
            break;
        }
        PyTuple_SET_ITEM(events, (Py_ssize_t)i, event);
    }
    return events;
}

PyMethodDef al_blocking_methods[] = {
    {"_watch_blocking", core_watch_blocking, METH_VARARGS, watch_blocking_doc},
    {"_blocking_events", core_blocking_events, METH_NOARGS, blocking_events_doc},
    {NULL, NULL, 0, NULL},
};

void
al_blocking_init(al_state *st)
{
    st->end_blocking = end;
}

void
al_blocking_free(al_state *st)
{
    if (st->blocking_hook != NULL) {
        atomic_store(&st->blocking_hook->first, NULL);
    }
}
