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
 * A new stack takes its slot of the table; the one that was there goes to the slot beside
 * it, and the one there is dropped.  The instruction pointers are a complete key, because
 * an interned stack keeps its code objects alive and their addresses with them.  The
 * frames below a running loop are a stack of their own, which is the key's other part:
 * most stacks are a frame or two on top of that one.  Should that one be dropped and made
 * anew, those on top of it go where their old ones were.  A stack of more than NEAR frames
 * of its own is not interned. */
#include "core/stack.h"

#include <sys/stat.h>

#include "base/layout.h"
#include "core/frame.h"

#ifdef AL_HARD
enum { TABLE_BITS = 1 };
#else
enum { TABLE_BITS = 12 };
#endif
enum { TABLE_SIZE = 1 << TABLE_BITS, CODE_UNIT = 2, NEAR = 64 };

typedef struct {
    PyCodeObject *code;
    const char *ip;
} place;

struct al_stack {
    PyVarObject ob_base;
    al_stack *below;     /* owned: that below a running loop; or NULL */
    uint64_t shape;      /* see shape_of */
    uint64_t hash;       /* see hash_of */
    PyObject *summaries; /* of `places`, oldest first; NULL: not yet made */
    place places[];      /* innermost first; the codes are owned */
};

struct al_stack_table {
    al_stack *slots[TABLE_SIZE];
};

/* A stack that is being taken: everything is borrowed. */
typedef struct {
    place *places;   /* innermost first */
    int n;           /* of them */
    const void *end; /* the frame behind the last one, see walk_frames */
    uint64_t hash;   /* of the instruction pointers */
    al_stack *below; /* the rest, or NULL */
    uint64_t shape;
} sketch;

/* The numbers of a stack as one word: it has `n` frames of its own, so many innermost
 * frames of `below` are visible, and nothing was cut off if it is whole. */
static inline uint64_t
shape_of(int n, int visible, bool whole)
{
    return (uint64_t)visible << 32 | (uint64_t)whole << 31 | (unsigned)n;
}

static inline int
stack_visible(const al_stack *stack)
{
    return (int)(stack->shape >> 32);
}

static inline bool
stack_is_whole(const al_stack *stack)
{
    return (stack->shape >> 31 & 1) != 0;
}

/* --- walking ------------------------------------------------------------------------ */

static inline void
add_place(sketch *taken, PyCodeObject *code, const char *ip)
{
    taken->places[taken->n++] = (place){code, ip};
    taken->hash = (taken->hash << 5 | taken->hash >> 59) ^ (uintptr_t)ip;
}

/* Collects at most `max` frames from `frame` outwards, those before `stop`.  taken->end
 * is the frame it came to: `stop`, NULL behind the thread's first, or the next one. */
static inline void
walk_frames(const al_frame *frame, const void *stop, int max, sketch *taken)
{
    for (; frame != stop && frame != NULL && taken->n < max; frame = frame->previous) {
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
        add_place(taken, code, ip);
    }
    taken->end = frame;
}

/* The same by CPython's public functions: `frame` (stolen) and `stop` are frame objects.
 * The codes are borrowed from frames that are being executed. */
static void
walk_public_steal(PyFrameObject *frame, const void *stop, int max, sketch *taken)
{
    while (frame != NULL && (const void *)frame != stop && taken->n < max) {
        PyCodeObject *code = PyFrame_GetCode(frame);
        add_place(taken, code, code->co_code_adaptive + PyFrame_GetLasti(frame));
        Py_DECREF(code); /* The frame has another reference. */
        PyFrameObject *back = PyFrame_GetBack(frame);
        Py_DECREF(frame);
        frame = back;
    }
    taken->end = frame;
    Py_XDECREF(frame); /* The one before it has another reference. */
}

/* Takes what is between `start` (NULL: the calling thread's innermost frame) and `stop`
 * into taken->places. */
static inline void
walk(const al_state *st, const void *start, const void *stop, int max, sketch *taken)
{
    taken->n = 0;
    taken->hash = 0;
    taken->below = NULL;
    if (AL_LIKELY(!st->public_frames)) {
        walk_frames(start == NULL ? al_stack_top(PyThreadState_Get()) : start, stop,
                    max, taken);
    }
    else {
        PyFrameObject *frame =
            start == NULL ? PyThreadState_GetFrame(PyThreadState_Get())
                          : (PyFrameObject *)Py_NewRef((PyObject *)(uintptr_t)start);
        walk_public_steal(frame, stop, max, taken);
    }
    taken->shape = shape_of(taken->n, 0, true);
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
    Py_XDECREF((PyObject *)self->below); /* escapes */
    PyObject_Free(self);
    Py_DECREF(type);
}

/* Of what the stack is, not of where it is: a stack that is made anew takes the place of
 * the old one, and so do those on top of it. */
static inline uint64_t
hash_of(const sketch *taken)
{
    return taken->hash + (taken->below == NULL ? 0 : taken->below->hash) +
           (taken->shape >> 32);
}

static al_stack *
stack_new(al_state *st, const sketch *taken)
{
    al_stack *self = PyObject_NewVar(al_stack, st->Stack_type, taken->n);
    if (self == NULL) {
        return NULL;
    }
    self->summaries = NULL;
    self->below = (al_stack *)Py_XNewRef((PyObject *)taken->below);
    self->shape = taken->shape;
    self->hash = hash_of(taken);
    for (int i = 0; i < taken->n; i++) {
        self->places[i] = taken->places[i];
        Py_INCREF(self->places[i].code);
    }
    return self;
}

/* The slot of the table where such a stack is looked for first.  The slot beside it has
 * what was there before. */
static inline al_stack **
slot_of(al_stack_table *table, const sketch *taken)
{
    return &table->slots[hash_of(taken) * 0x9E3779B97F4A7C15u >> (64 - TABLE_BITS)];
}

static inline al_stack **
beside(al_stack_table *table, al_stack **slot)
{
    return &table->slots[(slot - table->slots) ^ 1];
}

static inline bool
is_same(const al_stack *stack, const sketch *taken)
{
    if (stack == NULL || stack->shape != taken->shape || stack->below != taken->below) {
        return false;
    }
#pragma GCC unroll 1
    for (int i = 0; i < taken->n; i++) {
        if (stack->places[i].ip != taken->places[i].ip) {
            return false;
        }
    }
    return true;
}

/* A stack that is not where it is looked for first.  Escapes. */
static al_stack *
intern_slowly(al_state *st, al_stack_table **table, const sketch *taken)
{
    if (table != NULL && *table != NULL) {
        al_stack *before = *beside(*table, slot_of(*table, taken));
        if (is_same(before, taken)) {
            return (al_stack *)Py_NewRef((PyObject *)before);
        }
    }
    al_stack *stack = stack_new(st, taken);
    if (stack == NULL || table == NULL) {
        return stack;
    }
    if (*table == NULL) {
        *table = PyMem_Calloc(1, sizeof(al_stack_table));
        if (*table == NULL) {
            Py_DECREF((PyObject *)stack); /* escapes */
            PyErr_NoMemory();
            return NULL;
        }
    }
    al_stack **slot = slot_of(*table, taken), *dropped = NULL;
    if (*slot != NULL) {
        al_stack **aside = beside(*table, slot);
        dropped = *aside;
        *aside = *slot;
    }
    *slot = (al_stack *)Py_NewRef((PyObject *)stack);
    Py_XDECREF((PyObject *)dropped); /* escapes */
    return stack;
}

static inline al_stack *
intern(al_state *st, al_stack_table **table, const sketch *taken)
{
    if (AL_LIKELY(table != NULL && *table != NULL)) {
        al_stack *stack = *slot_of(*table, taken);
        if (AL_LIKELY(is_same(stack, taken))) {
            return (al_stack *)Py_NewRef((PyObject *)stack);
        }
    }
    return intern_slowly(st, table, taken); /* escapes */
}

static al_stack *stack_of_base(al_state *st, al_stack_table **table,
                               al_stack_base *base);

/* All frames from `start` (see walk) to the base, which may be NULL, however many. */
static al_stack *
capture_deep(al_state *st, al_stack_table **table, const void *start,
             al_stack_base *base)
{
    const void *stop = base == NULL ? NULL : base->frame;
    sketch taken = {.places = NULL};
    int room = NEAR;
    do {
        room *= 4;
        place *larger = PyMem_Realloc(taken.places, (size_t)room * sizeof(*larger));
        if (larger == NULL) {
            PyMem_Free(taken.places);
            PyErr_NoMemory();
            return NULL;
        }
        taken.places = larger;
        walk(st, start, stop, room, &taken);
    } while (taken.n == room);
    al_stack *stack = NULL;
    bool met = stop != NULL && taken.end == stop;
    if (met) {
        taken.below = stack_of_base(st, table, base); /* escapes */
    }
    if (!met || taken.below != NULL) {
        if (met) {
            taken.shape = shape_of(taken.n, (int)Py_SIZE(taken.below), true);
        }
        stack = stack_new(st, &taken);
    }
    PyMem_Free(taken.places);
    return stack;
}

/* base->stack, made if need be, for a walk that has met the base.  Borrowed.  Escapes. */
static al_stack *
stack_of_base(al_state *st, al_stack_table **table, al_stack_base *base)
{
    if (AL_UNLIKELY(base->stack == NULL)) {
        place places[NEAR];
        sketch taken = {.places = places};
        walk(st, base->frame, NULL, NEAR, &taken);
        al_stack *stack = taken.end != NULL ? capture_deep(st, table, base->frame, NULL)
                                            : intern(st, table, &taken);
        if (stack != NULL && base->stack == NULL) {
            base->stack = stack;
        }
        else {
            Py_XDECREF((PyObject *)stack); /* Foreign code ran: it captured, too. */
        }
    }
    return base->stack;
}

static void
base_release(al_stack_base *base)
{
    if (--base->references == 0) {
        PyMem_Free(base);
    }
}

static inline PyObject *
capture(al_state *st, al_stack_table **table, al_stack_base *base, int limit,
        int hidden)
{
    place places[NEAR];
    sketch taken;
    taken.places = places;
    const void *stop = base == NULL ? NULL : base->frame;
    walk(st, NULL, stop, limit < NEAR ? limit : NEAR, &taken);
    if (AL_LIKELY(stop != NULL && taken.end == stop)) {
        int visible = limit - taken.n - hidden;
        if (taken.n == 0 && base->bare != NULL && base->bare_limit == visible) {
            return Py_NewRef((PyObject *)base->bare);
        }
        if (AL_LIKELY(visible > 0)) {
            taken.below = base->stack;
            if (AL_UNLIKELY(taken.below == NULL)) {
                taken.below = stack_of_base(st, table, base); /* escapes */
                if (taken.below == NULL) {
                    return NULL;
                }
            }
            int size = (int)Py_SIZE(taken.below);
            visible = visible < size ? visible : size;
        }
        else {
            visible = 0;
        }
        taken.shape = shape_of(taken.n, visible, limit == AL_STACK_WHOLE);
        al_stack *stack = intern(st, table, &taken); /* escapes */
        if (taken.n == 0 && stack != NULL) {
            base->bare_limit = limit - hidden;
            Py_XSETREF(base->bare, /* escapes */
                       (al_stack *)Py_NewRef((PyObject *)stack));
        }
        return (PyObject *)stack;
    }
    if (AL_LIKELY(taken.end == NULL || taken.n == limit)) {
        taken.shape = shape_of(taken.n, 0, limit == AL_STACK_WHOLE);
        return (PyObject *)intern(st, table, &taken); /* escapes */
    }
    return (PyObject *)capture_deep(st, table, NULL, base); /* escapes */
}

PyObject *
al_stack_capture(al_state *st, al_stack_table **table, al_stack_base *base, int limit,
                 int hidden)
{
    if (base == NULL) {
        return capture(st, table, NULL, limit, hidden); /* escapes */
    }
    base->references++;
    PyObject *stack = capture(st, table, base, limit, hidden); /* escapes */
    base_release(base);
    return stack;
}

al_stack_base *
al_stack_enter(al_state *st, al_stack_base **list)
{
    al_stack_base *base = PyMem_Calloc(1, sizeof(*base));
    if (base == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    base->references = 1;
    base->thread = PyThreadState_Get();
    base->outer = *list;
    *list = base;
    if (AL_LIKELY(!st->public_frames)) {
        base->frame = al_stack_top(PyThreadState_Get());
    }
    else {
        base->owner = (PyObject *)PyThreadState_GetFrame(PyThreadState_Get());
        base->frame = base->owner;
    }
    return base;
}

void
al_stack_leave(al_stack_base **list, al_stack_base *base)
{
    while (*list != base) {
        list = &(*list)->outer;
    }
    *list = base->outer;
    base->frame = NULL;
    Py_CLEAR(base->owner);
    Py_CLEAR(base->stack); /* escapes */
    Py_CLEAR(base->bare);  /* escapes */
    base_release(base);
}

void
al_stack_flush(al_stack_table **table)
{
    al_stack_table *dead = *table;
    *table = NULL;
    if (dead != NULL) {
        for (int i = 0; i < TABLE_SIZE; i++) {
            Py_XDECREF((PyObject *)dead->slots[i]); /* escapes */
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
own_summaries(al_state *st, al_stack *self)
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

/* sys.tracebacklimit cuts the stacks that traceback.extract_stack returns, which are
 * those of asyncio's futures and tasks.  Borrows nothing; never raises. */
static Py_ssize_t
length_limit(const al_stack *self)
{
    PyObject *limit = stack_is_whole(self) ? PySys_GetObject("tracebacklimit") : NULL;
    if (limit == NULL || !PyLong_Check(limit)) {
        return PY_SSIZE_T_MAX;
    }
    int overflow;
    long value = PyLong_AsLongAndOverflow(limit, &overflow);
    return overflow > 0 ? PY_SSIZE_T_MAX : overflow < 0 || value < 0 ? 0 : value;
}

/* A new list of the stack's items, oldest first. */
static PyObject *
stack_list(al_state *st, al_stack *self)
{
    PyObject *own = own_summaries(st, self); /* escapes */
    PyObject *list = own == NULL ? NULL : PySequence_List(own);
    Py_XDECREF(own);
    if (list != NULL && self->below != NULL) {
        PyObject *below = own_summaries(st, self->below); /* escapes */
        Py_ssize_t n = below == NULL ? 0 : PyTuple_GET_SIZE(below);
        PyObject *seen =
            below == NULL ? NULL : PyTuple_GetSlice(below, n - stack_visible(self), n);
        if (seen == NULL || PyList_SetSlice(list, 0, 0, seen) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(seen);
        Py_XDECREF(below);
    }
    Py_ssize_t limit = length_limit(self);
    if (list != NULL && PyList_GET_SIZE(list) > limit &&
        PyList_SetSlice(list, 0, PyList_GET_SIZE(list) - limit, NULL) < 0) {
        Py_CLEAR(list);
    }
    return list;
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
    PyObject *items = stack_list(st, (al_stack *)value); /* escapes */
    PyObject *list =
        items == NULL ? NULL : PyObject_CallOneArg(st->StackSummary, items);
    Py_XDECREF(items);
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

/* Puts the innermost `n` frames of a stack into the tuple, from `i` on.  0 or -1. */
static int
fill_origin(PyObject *origin, Py_ssize_t i, const al_stack *stack, Py_ssize_t n)
{
    for (Py_ssize_t k = 0; k < n; k++) {
        const place *at = &stack->places[k];
        PyObject *frame = Py_BuildValue("(OiO)", at->code->co_filename, line_of(at),
                                        at->code->co_name);
        if (frame == NULL) {
            return -1;
        }
        PyTuple_SET_ITEM(origin, i + k, frame);
    }
    return 0;
}

PyObject *
al_stack_origin(PyObject *word)
{
    al_stack *stack = (al_stack *)word;
    Py_ssize_t own = Py_SIZE(stack);
    Py_ssize_t seen = stack->below == NULL ? 0 : stack_visible(stack);
    PyObject *origin = PyTuple_New(own + seen);
    if (origin != NULL &&
        (fill_origin(origin, 0, stack, own) < 0 ||
         (seen > 0 && fill_origin(origin, own, stack->below, seen) < 0))) {
        Py_CLEAR(origin);
    }
    return origin;
}

PyObject *
al_stack_above(PyObject *word)
{
    al_stack *stack = (al_stack *)word;
    PyObject *frames = PyTuple_New(Py_SIZE(stack));
    if (frames != NULL && fill_origin(frames, 0, stack, Py_SIZE(stack)) < 0) {
        Py_CLEAR(frames);
    }
    return frames;
}

int
al_stack_last(al_state *st, PyObject *word, PyObject **filename, int *lineno)
{
    if (word == NULL || word == Py_None) {
        return 0;
    }
    if (al_stack_check(st, word)) {
        al_stack *stack = (al_stack *)word;
        if (Py_SIZE(stack) == 0 && stack_visible(stack) > 0) {
            stack = stack->below;
        }
        if (Py_SIZE(stack) == 0 || length_limit((al_stack *)word) == 0) {
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
extern const uint64_t _PyRuntime[] __attribute__((weak));

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
    return (uintptr_t)table != 0 && memcmp(table, "xdebugpy", 8) == 0 &&
           table[1] == version && table[2] == 0 &&
           table[THREAD + 4] == offsetof(PyThreadState, current_frame) &&
           frame[1] == offsetof(al_frame, previous) +
                           (size_t)al_layout_lie(AL_LAYOUT_FRAMES, 0) &&
           frame[2] == offsetof(al_frame, code) && frame[3] == offsetof(al_frame, ip) &&
           frame[5] == offsetof(al_frame, owner);
}
#elif PY_VERSION_HEX >= 0x030D0000
static bool
layout_is_known(void)
{
    return true; /* but see al_stack_init */
}
#else
static bool
layout_is_known(void)
{
    /* 3.11 and 3.12 only get security fixes. */
    return !al_layout_lie(AL_LAYOUT_FRAMES, 0);
}
#endif

/* Whether both walks find the same frames: their number, or -1 with AssertionError. */
static int
compare_walks(al_state *st)
{
    place raw_places[NEAR], public_places[NEAR];
    sketch raw = {.places = raw_places}, public = {.places = public_places};
    walk_frames(al_stack_top(PyThreadState_Get()), NULL, NEAR, &raw);
    walk_public_steal(PyThreadState_GetFrame(PyThreadState_Get()), NULL, NEAR, &public);
    st->compared_frames += (uint64_t)raw.n;
    for (int i = 0; i < raw.n && i < public.n; i++) {
        place ours = raw.places[i], theirs = public.places[i];
        if (ours.code != theirs.code || ours.ip != theirs.ip) {
            PyErr_Format(PyExc_AssertionError, "frame %d: %R at %zd, not %R at %zd", i,
                         ours.code, ours.ip - ours.code->co_code_adaptive, theirs.code,
                         theirs.ip - theirs.code->co_code_adaptive);
            return -1;
        }
    }
    if (raw.n != public.n) {
        PyErr_Format(PyExc_AssertionError, "%d frames, not %d", raw.n, public.n);
        return -1;
    }
    return raw.n;
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
    st->public_frames = wanted != NULL && *wanted != '\0' && *wanted != '0';
#if PY_VERSION_HEX >= 0x030D0000 && defined(Py_GIL_DISABLED)
    st->public_frames = true; /* Each thread has its own copy of the bytecode. */
#endif
    if (st->public_frames) {
        return 0;
    }
    bool known = layout_is_known() && !al_layout_lie(AL_LAYOUT_FRAMES, 1);
    if (known && compare_walks(st) < 0) {
        PyErr_Clear(); /* AssertionError: the layout is another one after all. */
        known = false;
    }
    if (!known) {
        st->public_frames = true;
        al_layout_turn_off(st, AL_LAYOUT_FRAMES);
    }
    return 0;
}

/* --- for `python -m aioloop` ----------------------------------------------------------- */

static void
set_top(PyThreadState *tstate, const void *frame)
{
    struct _PyInterpreterFrame *top = (struct _PyInterpreterFrame *)(uintptr_t)frame;
#if PY_VERSION_HEX < 0x030D0000
    tstate->cframe->current_frame = top;
#else
    tstate->current_frame = top;
#endif
}

/* Where a thread is that executes no Python code: NULL, or the interpreter's own first
 * frame. */
static const al_frame *
bottom_of(const al_frame *frame)
{
    while (frame != NULL && frame->previous != NULL) {
        frame = frame->previous;
    }
    return frame != NULL && frame->owner >= AL_FRAME_FOREIGN ? frame : NULL;
}

PyDoc_STRVAR(
    call_at_bottom_doc,
    "_call_at_bottom($module, function, /, *args)\n--\n\n"
    "Call a function whose stack begins with itself, as a program's does.\n\n"
    "The frames of the callers are out of sight until it returns.  Where their\n"
    "layout is not known it is an ordinary call.");

static PyObject *
core_call_at_bottom(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    const al_state *st = al_state_of_module(module);
    if (nargs < 1) {
        PyErr_SetString(PyExc_TypeError, "a function is missing");
        return NULL;
    }
    PyThreadState *tstate = PyThreadState_Get();
    const void *top = al_stack_top(tstate);
    if (!st->public_frames) {
        set_top(tstate, bottom_of(top));
    }
    PyObject *result =
        PyObject_Vectorcall(args[0], args + 1, (size_t)nargs - 1, NULL); /* escapes */
    set_top(tstate, top);
    return result;
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
    st->compared_stacks++;
    int n = compare_walks(st);
    return n < 0 ? NULL : PyLong_FromLong(n);
}

PyDoc_STRVAR(compared_doc,
             "_compared($module, /)\n--\n\n"
             "Return how many stacks _compare_stacks compared, and how many frames.");

static PyObject *
core_compared(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    const al_state *st = al_state_of_module(module);
    return Py_BuildValue("(KK)", (unsigned long long)st->compared_stacks,
                         (unsigned long long)st->compared_frames);
}

PyDoc_STRVAR(capture_doc, "_capture($module, /)\n--\n\n"
                          "Return the caller's stack as a StackSummary.");

static PyObject *
core_capture(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    al_state *st = al_state_of_module(module);
    PyObject *stack = al_stack_capture(st, NULL, NULL, AL_STACK_WHOLE, 0);
    if (stack == NULL) {
        return NULL;
    }
    PyObject *list = al_stack_read(st, &stack); /* escapes */
    Py_DECREF(stack);
    return list;
}

PyMethodDef al_stack_methods[] = {
    {"_call_at_bottom", (PyCFunction)(void (*)(void))core_call_at_bottom, METH_FASTCALL,
     call_at_bottom_doc},
    {"_use_public_frames", core_use_public_frames, METH_O, use_public_frames_doc},
    {"_compare_stacks", (PyCFunction)(void (*)(void))core_compare_stacks, METH_FASTCALL,
     compare_stacks_doc},
    {"_compared", core_compared, METH_NOARGS, compared_doc},
    {"_capture", core_capture, METH_NOARGS, capture_doc},
    {NULL, NULL, 0, NULL},
};
