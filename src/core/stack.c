/* stack.c: see stack.h.
 *
 * A walk reads the interpreter's own frames (frame.h).  Its guards, each for a crash
 * that another loop has had:
 * - a frame owned by the interpreter's C code is skipped before anything else is read:
 *   a finalizer, a weakref's callback or a hook may call us right above one;
 * - a frame before its first traceable instruction is incomplete (the garbage collector
 *   can run there) and is skipped, except a generator's, which is always complete;
 * - no frame at all gives an empty stack;
 * - it is the calling thread's state that is walked, never the loop's;
 * - nothing in a walk raises, allocates or releases.
 *
 * The table is direct-mapped: a new stack takes the place of the one in its slot.  The
 * instruction pointers are a complete key, because an interned stack keeps its code
 * objects alive and their addresses with them.  Of the frames below a running loop, a
 * 64-bit hash is the key: most stacks are a frame or two on top of those. */
#include "core/stack.h"

#include <sys/stat.h>

#include "core/frame.h"

enum { TABLE_BITS = 12, TABLE_SIZE = 1 << TABLE_BITS, CODE_UNIT = 2 };

typedef al_stack_place place;

struct al_stack {
    PyVarObject ob_base;
    uint64_t base;       /* key of the base that the stack stands on, or 0 */
    int own;             /* frames above the base */
    PyObject *summaries; /* tuple of FrameSummary, oldest first; NULL: not yet made */
    place places[];      /* innermost first; the codes are owned */
};

struct al_stack_table {
    al_stack *slots[TABLE_SIZE];
};

/* --- walking ------------------------------------------------------------------------ */

/* Stops at the frame `base`; *met says whether it was there. */
static inline int
walk_frames(PyThreadState *tstate, place *places, const void *base, bool *met)
{
#if PY_VERSION_HEX < 0x030D0000
    const al_frame *frame =
        (const al_frame *)(const void *)tstate->cframe->current_frame;
#else
    const al_frame *frame = (const al_frame *)(const void *)tstate->current_frame;
#endif
    int n = 0;
    for (; frame != NULL && n < AL_STACK_DEPTH; frame = frame->previous) {
        if (frame == base) {
            *met = true;
            return n;
        }
        if (AL_UNLIKELY(frame->owner >= AL_FRAME_FOREIGN)) {
            continue;
        }
        PyCodeObject *code = (PyCodeObject *)(frame->code & ~(uintptr_t)3);
        const char *ip = frame->ip;
        if (AL_UNLIKELY(frame->owner != AL_FRAME_OF_GENERATOR &&
                        ip < code->co_code_adaptive +
                                 code->_co_firsttraceable * CODE_UNIT)) {
            continue;
        }
        places[n++] = (place){code, ip};
    }
    *met = false;
    return n;
}

/* The same by CPython's public functions.  The codes are borrowed from frames that are
 * being executed. */
static int
walk_public(PyThreadState *tstate, place *places)
{
    int n = 0;
    PyFrameObject *frame = PyThreadState_GetFrame(tstate);
    while (frame != NULL && n < AL_STACK_DEPTH) {
        PyCodeObject *code = PyFrame_GetCode(frame);
        places[n++] = (place){code, code->co_code_adaptive + PyFrame_GetLasti(frame)};
        Py_DECREF(code); /* The frame has another reference. */
        PyFrameObject *back = PyFrame_GetBack(frame);
        Py_DECREF(frame);
        frame = back;
    }
    Py_XDECREF(frame);
    return n;
}

static inline int
walk(const al_state *st, place *places, const al_stack_base *base, bool *met)
{
    PyThreadState *tstate = PyThreadState_Get();
    *met = false;
    return AL_LIKELY(!st->public_frames)
               ? walk_frames(tstate, places, base == NULL ? NULL : base->frame, met)
               : walk_public(tstate, places);
}

/* A 64-bit hash in which every bit of each word counts (the mixer of splitmix64). */
static uint64_t
mix(uint64_t hash, uintptr_t word)
{
    hash += word + 0x9E3779B97F4A7C15u;
    hash = (hash ^ hash >> 30) * 0xBF58476D1CE4E5B9u;
    hash = (hash ^ hash >> 27) * 0x94D049BB133111EBu;
    return hash ^ hash >> 31;
}

void
al_stack_set_base(al_state *st, al_stack_base *base)
{
    *base = (al_stack_base){.frame = NULL};
    if (!st->public_frames) {
        bool met;
        PyThreadState *tstate = PyThreadState_Get();
#if PY_VERSION_HEX < 0x030D0000
        base->frame = tstate->cframe->current_frame;
#else
        base->frame = tstate->current_frame;
#endif
        base->count = walk_frames(tstate, base->places, NULL, &met);
    }
    uint64_t key = 0;
    for (int i = 0; i < base->count; i++) {
        key = mix(key, (uintptr_t)base->places[i].ip);
    }
    base->key = key | 1;
}

/* --- stacks -------------------------------------------------------------------------- */

static void
stack_dealloc(al_stack *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_CLEAR(self->summaries); /* escapes */
    for (Py_ssize_t i = 0; i < Py_SIZE(self); i++) {
        Py_DECREF(self->places[i].code); /* escapes */
    }
    PyObject_Free(self);
    Py_DECREF(type);
}

static al_stack *
stack_new(al_state *st, const place *places, int own, const al_stack_base *base)
{
    int n = own + (base == NULL ? 0 : base->count);
    if (n > AL_STACK_DEPTH) {
        n = AL_STACK_DEPTH;
    }
    al_stack *self = PyObject_NewVar(al_stack, st->Stack_type, n);
    if (self == NULL) {
        return NULL;
    }
    self->summaries = NULL;
    self->own = own;
    self->base = base == NULL ? 0 : base->key;
    for (int i = 0; i < n; i++) {
        self->places[i] = i < own ? places[i] : base->places[i - own];
        Py_INCREF(self->places[i].code);
    }
    return self;
}

static inline bool
same_stack(const al_stack *stack, const place *places, int own, uint64_t base)
{
    if (stack->own != own || stack->base != base) {
        return false;
    }
    for (int i = 0; i < own; i++) {
        if (stack->places[i].ip != places[i].ip) {
            return false;
        }
    }
    return true;
}

PyObject *
al_stack_capture(al_state *st, al_stack_table **table, const al_stack_base *base)
{
    place places[AL_STACK_DEPTH];
    bool met;
    int n = walk(st, places, base, &met);
    if (!met) {
        base = NULL;
    }
    if (table == NULL) {
        return (PyObject *)stack_new(st, places, n, base);
    }
    if (AL_UNLIKELY(*table == NULL)) {
        *table = PyMem_Calloc(1, sizeof(al_stack_table));
        if (*table == NULL) {
            return PyErr_NoMemory();
        }
    }
    uint64_t key = met ? base->key : 0;
    uint64_t hash = key;
    for (int i = 0; i < n; i++) {
        hash = (hash << 5 | hash >> 59) ^ (uintptr_t)places[i].ip;
    }
    hash *= 0x9E3779B97F4A7C15u;
    al_stack **slot = &(*table)->slots[hash >> (64 - TABLE_BITS)];
    if (AL_LIKELY(*slot != NULL && same_stack(*slot, places, n, key))) {
        return Py_NewRef((PyObject *)*slot);
    }
    al_stack *stack = stack_new(st, places, n, base);
    if (stack == NULL) {
        return NULL;
    }
    al_stack *old = *slot;
    *slot = (al_stack *)Py_NewRef((PyObject *)stack);
    Py_XDECREF(old); /* escapes */
    return (PyObject *)stack;
}

void
al_stack_flush(al_stack_table **table)
{
    al_stack_table *dead = *table;
    *table = NULL;
    if (dead != NULL) {
        for (int i = 0; i < TABLE_SIZE; i++) {
            Py_XDECREF(dead->slots[i]); /* escapes */
        }
        PyMem_Free(dead);
    }
}

/* --- reading ------------------------------------------------------------------------- */

static int
line_of(const place *at)
{
    return PyCode_Addr2Line(at->code, (int)(at->ip - at->code->co_code_adaptive));
}

/* linecache finds the source of a module that no file holds (in a zip archive, say)
 * through the module's loader.  asyncio tells it the frame's globals at each capture;
 * here the module is found by its file's name when the stack is read. */
static int
find_source(al_state *st, PyObject *filename)
{
    PyObject *modules = PySys_GetObject("modules"); /* borrowed */
    PyObject *list = modules == NULL ? NULL : PyMapping_Values(modules);
    if (list == NULL) {
        return -1;
    }
    int status = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        PyObject *module = PyList_GET_ITEM(list, i);
        PyObject *globals = PyModule_Check(module) ? PyModule_GetDict(module) : NULL;
        PyObject *file =
            globals == NULL ? NULL : PyDict_GetItemString(globals, "__file__");
        if (file == NULL || !PyUnicode_Check(file) ||
            PyUnicode_Compare(file, filename) != 0) {
            continue;
        }
        PyObject *result = PyObject_CallMethod(st->linecache, "lazycache", "OO",
                                               filename, globals); /* escapes */
        status = result == NULL ? -1 : 0;
        Py_XDECREF(result);
        break;
    }
    Py_DECREF(list);
    return status;
}

/* Whether a file has that name: 1 or 0, or -1 with MemoryError.  Not os.path.exists:
 * tools that forbid blocking calls in a running loop replace os.stat, and allow
 * linecache's. */
static int
file_exists(PyObject *filename)
{
    PyObject *path = PyUnicode_EncodeFSDefault(filename);
    if (path == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_UnicodeError)) {
            return -1;
        }
        PyErr_Clear(); /* UnicodeEncodeError: no file can be called that. */
        return 0;
    }
    struct stat info;
    int found = stat(PyBytes_AS_STRING(path), &info) == 0;
    Py_DECREF(path);
    return found;
}

/* What traceback.StackSummary.extract does to linecache for each file of a stack. */
static int
refresh_linecache(al_state *st, PyObject *filename)
{
    PyObject *cache = PyObject_GetAttrString(st->linecache, "cache");
    if (cache == NULL) {
        return -1;
    }
    int known = PySequence_Contains(cache, filename); /* escapes */
    Py_DECREF(cache);
    if (known > 0) {
        PyObject *result = PyObject_CallMethod(st->linecache, "checkcache", "O",
                                               filename); /* escapes */
        Py_XDECREF(result);
        return result == NULL ? -1 : 0;
    }
    if (known < 0 || PyUnicode_GET_LENGTH(filename) == 0 ||
        PyUnicode_READ_CHAR(filename, 0) == '<') {
        return known;
    }
    int found = file_exists(filename);
    return found != 0 ? (found < 0 ? -1 : 0) : find_source(st, filename);
}

static PyObject *
make_summary(al_state *st, const place *at)
{
    int number = line_of(at);
    PyObject *lineno = number < 0 ? Py_NewRef(Py_None) : PyLong_FromLong(number);
    if (lineno == NULL) {
        return NULL;
    }
    PyObject *stack[] = {at->code->co_filename, lineno, at->code->co_name, Py_False,
                         (PyObject *)at->code};
    PyObject *summary = PyObject_Vectorcall(st->FrameSummary, stack, 3,
                                            st->kwnames_frame_summary); /* escapes */
    Py_DECREF(lineno);
    return summary;
}

/* self->summaries, made if need be.  New reference. */
static PyObject *
stack_summaries(al_state *st, al_stack *self)
{
    if (self->summaries != NULL) {
        return Py_NewRef(self->summaries);
    }
    Py_ssize_t n = Py_SIZE(self);
    PyObject *tuple = PyTuple_New(n);
    if (tuple == NULL) {
        return NULL;
    }
    PyObject *last = NULL;
    for (Py_ssize_t i = 0; i < n; i++) {
        const place *at = &self->places[n - 1 - i];
        PyObject *filename = at->code->co_filename;
        PyObject *summary = make_summary(st, at);
        if (summary == NULL ||
            (filename != last && refresh_linecache(st, filename) < 0)) {
            Py_XDECREF(summary);
            Py_DECREF(tuple);
            return NULL;
        }
        last = filename;
        PyTuple_SET_ITEM(tuple, i, summary);
    }
    if (self->summaries == NULL) { /* Foreign code ran: it may have read us. */
        self->summaries = Py_NewRef(tuple);
    }
    return tuple;
}

PyObject *
al_stack_read(al_state *st, PyObject **word)
{
    PyObject *value = *word;
    if (value == NULL) {
        Py_RETURN_NONE;
    }
    if (!al_stack_check(st, value)) {
        return Py_NewRef(value);
    }
    Py_INCREF(value);
    PyObject *summaries = stack_summaries(st, (al_stack *)value); /* escapes */
    PyObject *list =
        summaries == NULL ? NULL : PyObject_CallOneArg(st->StackSummary, summaries);
    Py_XDECREF(summaries);
    if (list != NULL && *word == value) {
        *word = Py_NewRef(list);
        Py_DECREF(value); /* We hold another reference. */
    }
    else if (list != NULL && *word != NULL) {
        Py_SETREF(list, Py_NewRef(*word)); /* Somebody was faster. */
    }
    Py_DECREF(value);
    return list;
}

PyObject *
al_stack_read_present(al_state *st, PyObject **word)
{
    PyObject *list = al_stack_read(st, word); /* escapes */
    int there = list == NULL ? -1 : PyObject_IsTrue(list);
    if (there <= 0) {
        Py_CLEAR(list);
    }
    return list;
}

int
al_stack_last(al_state *st, PyObject *word, PyObject **filename, int *lineno)
{
    if (word == NULL || word == Py_None) {
        return 0;
    }
    if (al_stack_check(st, word)) {
        al_stack *stack = (al_stack *)word;
        if (Py_SIZE(stack) == 0) {
            return 0;
        }
        *filename = Py_NewRef(stack->places[0].code->co_filename);
        *lineno = line_of(&stack->places[0]);
        return 1;
    }
    Py_INCREF(word);
    int found = PyObject_IsTrue(word); /* escapes */
    PyObject *item = found > 0 ? PySequence_GetItem(word, -1) : NULL;
    Py_DECREF(word);
    if (item == NULL) {
        return found > 0 ? -1 : found;
    }
    PyObject *number = PySequence_GetItem(item, 1); /* escapes */
    *filename = PySequence_GetItem(item, 0);
    Py_DECREF(item);
    *lineno = number == NULL || number == Py_None ? -1 : (int)PyLong_AsLong(number);
    Py_XDECREF(number);
    if (*filename == NULL || PyErr_Occurred()) {
        Py_CLEAR(*filename);
        return -1;
    }
    return 1;
}

/* --- set-up -------------------------------------------------------------------------- */

static char stack_doc[] = PyDoc_STR("Where an object was created, as raw frames.");

static PyType_Slot stack_slots[] = {
    {Py_tp_doc, stack_doc},
    {Py_tp_dealloc, stack_dealloc},
    {0, NULL},
};

static PyType_Spec stack_spec = {
    .name = "aioloop._core.Stack",
    .basicsize = sizeof(al_stack),
    .itemsize = sizeof(place),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = stack_slots,
};

#if PY_VERSION_HEX >= 0x030D0000 && !defined(Py_GIL_DISABLED)
extern const uint64_t _PyRuntime[];

/* Whether CPython's table for debuggers (struct _Py_DebugOffsets, at the start of its
 * runtime state) agrees with frame.h and with the thread state's public field. */
static bool
layout_is_known(void)
{
    /* Words of the table: the thread state's and the frame's parts. */
#if PY_VERSION_HEX >= 0x030F0000
    enum { THREAD = 22, FRAME = 39 };
#elif PY_VERSION_HEX >= 0x030E0000
    enum { THREAD = 22, FRAME = 31 };
#else
    enum { THREAD = 19, FRAME = 28 };
#endif
    const uint64_t *table = _PyRuntime, *frame = table + FRAME;
    const uint64_t version = Py_Version;
    return memcmp(table, "xdebugpy", 8) == 0 && table[1] == version && table[2] == 0 &&
           table[THREAD + 4] == offsetof(PyThreadState, current_frame) &&
           frame[1] == offsetof(al_frame, previous) &&
           frame[2] == offsetof(al_frame, code) && frame[3] == offsetof(al_frame, ip) &&
           frame[5] == offsetof(al_frame, owner);
}
#elif PY_VERSION_HEX >= 0x030D0000
static bool
layout_is_known(void)
{
    return false; /* Free-threaded: each thread has its own copy of the bytecode. */
}
#else
static bool
layout_is_known(void)
{
    return true; /* 3.11 and 3.12 only get security fixes. */
}
#endif

/* Whether both walks find the same frames: 0, or -1 with AssertionError. */
static int
compare_walks(void)
{
    PyThreadState *tstate = PyThreadState_Get();
    place raw[AL_STACK_DEPTH], public[AL_STACK_DEPTH];
    bool met;
    int n = walk_frames(tstate, raw, NULL, &met);
    int expected = walk_public(tstate, public);
    for (int i = 0; i < n && i < expected; i++) {
        if (raw[i].code != public[i].code || raw[i].ip != public[i].ip) {
            PyErr_Format(PyExc_AssertionError, "frame %d: %R at %zd, not %R at %zd", i,
                         raw[i].code, raw[i].ip - raw[i].code->co_code_adaptive,
                         public[i].code,
                         public[i].ip - public[i].code->co_code_adaptive);
            return -1;
        }
    }
    if (n != expected) {
        PyErr_Format(PyExc_AssertionError, "%d frames, not %d", n, expected);
        return -1;
    }
    return n;
}

int
al_stack_init(PyObject *module, al_state *st)
{
    if (al_state_add_type(module, &st->Stack_type, &stack_spec, NULL) < 0) {
        return -1;
    }
    /* 3.13.1 and later show the source of code that no file holds. */
    bool with_code = PyObject_HasAttrString(st->FrameSummary, "_code");
    st->kwnames_frame_summary = with_code
                                    ? Py_BuildValue("(ss)", "lookup_line", "_code")
                                    : Py_BuildValue("(s)", "lookup_line");
    if (st->kwnames_frame_summary == NULL) {
        return -1;
    }
    const char *wanted = getenv("AIOLOOP_PUBLIC_FRAMES");
    st->public_frames =
        (wanted != NULL && *wanted != '\0' && *wanted != '0') || !layout_is_known();
    if (!st->public_frames && compare_walks() < 0) {
        PyErr_Clear(); /* AssertionError: the layout is another one after all. */
        st->public_frames = true;
    }
    return 0;
}

/* --- for the tests -------------------------------------------------------------------- */

PyDoc_STRVAR(use_public_frames_doc,
             "_use_public_frames($module, public, /)\n--\n\n"
             "Choose how stacks are walked; return what was chosen before.");

static PyObject *
core_use_public_frames(PyObject *module, PyObject *public)
{
    al_state *st = al_state_of_module(module);
    int truth = PyObject_IsTrue(public);
    if (truth < 0) {
        return NULL;
    }
    bool before = st->public_frames;
    st->public_frames = truth;
    return PyBool_FromLong(before);
}

PyDoc_STRVAR(compare_stacks_doc,
             "_compare_stacks($module, /, *args)\n--\n\n"
             "Walk the stack in both ways and return the number of frames.\n\n"
             "AssertionError tells of a difference.  The arguments are those of a\n"
             "profile function.");

static PyObject *
core_compare_stacks(PyObject *module, PyObject *const *Py_UNUSED(args),
                    Py_ssize_t Py_UNUSED(nargs))
{
    al_state *st = al_state_of_module(module);
    int n = compare_walks();
    if (n < 0) {
        return NULL;
    }
    st->compared_frames += (uint64_t)n;
    return PyLong_FromLong(n);
}

PyDoc_STRVAR(compared_frames_doc, "_compared_frames($module, /)\n--\n\n"
                                  "Return how many frames _compare_stacks compared.");

static PyObject *
core_compared_frames(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLongLong(al_state_of_module(module)->compared_frames);
}

PyDoc_STRVAR(capture_doc, "_capture($module, /)\n--\n\n"
                          "Return the caller's stack as a StackSummary.");

static PyObject *
core_capture(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    al_state *st = al_state_of_module(module);
    PyObject *stack = al_stack_capture(st, NULL, NULL);
    if (stack == NULL) {
        return NULL;
    }
    PyObject *list = al_stack_read(st, &stack); /* escapes */
    Py_DECREF(stack);
    return list;
}

PyMethodDef al_stack_methods[] = {
    {"_use_public_frames", core_use_public_frames, METH_O, use_public_frames_doc},
    {"_compare_stacks", (PyCFunction)(void (*)(void))core_compare_stacks, METH_FASTCALL,
     compare_stacks_doc},
    {"_compared_frames", core_compared_frames, METH_NOARGS, compared_frames_doc},
    {"_capture", core_capture, METH_NOARGS, capture_doc},
    {NULL, NULL, 0, NULL},
};
