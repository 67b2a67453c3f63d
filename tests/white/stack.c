/* Interned stacks: of frames that are made up, each capture is what an array says, stays
 * that, and is found again. */
#include "white.h"

#include "core/stack.c"

enum { CODES = 12, MOST = 600, BASES = 8, KEPT = 32 };

static const char source[] = "def one():\n"
                             "    a = 1\n"
                             "    b = a + \\\n"
                             "        a\n"
                             "    return [x for x in (a, b)]\n"
                             "def two(x):\n"
                             "    def inner():\n"
                             "        yield x\n"
                             "        yield x\n"
                             "    return inner\n"
                             "class Three:\n"
                             "    pass\n"
                             "lambda: 1\n";

static al_state state;
static PyCodeObject *originals[64];
static int original_count;
/* Code that the running program owns alone. */
static PyCodeObject *codes[CODES];
static al_frame frames[MOST]; /* outermost first */
static int depth;
static struct {
    al_stack_base *base;
    int depth; /* its frame is the last of so many */
} bases[BASES];
static int base_count;
static al_stack_base *list;
static al_stack_table *table;

typedef struct {
    PyCodeObject *code;
    const char *ip;
} expected_place;

/* A stack that somebody holds, and what it is, innermost first. */
static struct {
    PyObject *stack;
    int n, own;
    expected_place places[MOST]; /* of which we own the codes */
} kept[KEPT];

/* --- frames ---------------------------------------------------------------------------- */

static PyCodeObject *
code_of(const al_frame *frame)
{
    return (PyCodeObject *)(frame->code & ~(uintptr_t)3);
}

static bool
is_seen(const al_frame *frame)
{
    if (frame->owner >= AL_FRAME_FOREIGN) {
        return false;
    }
    PyCodeObject *code = code_of(frame);
    return frame->owner == AL_FRAME_OF_GENERATOR ||
           frame->ip >= code->co_code_adaptive + code->_co_firsttraceable * CODE_UNIT;
}

static void
push(white_input *input)
{
    if (depth == MOST) {
        return;
    }
    al_frame *frame = &frames[depth];
    PyCodeObject *code = codes[white_below(input, CODES)];
    *frame = (al_frame){.previous = depth > 0 ? &frames[depth - 1] : NULL};
    frame->owner = (char)white_below(input, 2);
    if (white_below(input, 8) == 0) {
        frame->owner = AL_FRAME_FOREIGN;
        frame->code = 4; /* Nobody may look at it. */
        depth++;
        return;
    }
    frame->code = (uintptr_t)Py_NewRef((PyObject *)code);
#if PY_VERSION_HEX >= 0x030E0000
    frame->code |= white_below(input, 2);
#endif
    frame->ip = code->co_code_adaptive +
                CODE_UNIT * ((Py_ssize_t)white_below(input, (size_t)Py_SIZE(code) + 1) -
                             1); /* -1: it has not begun */
    depth++;
}

static void
pop(void)
{
    depth--;
    if (frames[depth].owner < AL_FRAME_FOREIGN) {
        Py_DECREF((PyObject *)code_of(&frames[depth]));
    }
}

static int
lowest(void)
{
    int low = 0;
    for (int i = 0; i < base_count; i++) {
        low = bases[i].depth > low ? bases[i].depth : low;
    }
    return low;
}

/* Those of the frames from `from` (outermost, counted from 0) to below `to`, innermost
 * first. */
static int
seen(int from, int to, expected_place *places)
{
    int n = 0;
    for (int i = to; i-- > from;) {
        if (is_seen(&frames[i])) {
            places[n++] = (expected_place){code_of(&frames[i]), frames[i].ip};
        }
    }
    return n;
}

/* --- what is done ------------------------------------------------------------------------ */

static PyObject *
take(al_stack_table **where, al_stack_base *base, int limit, int hidden)
{
    PyThreadState *thread = PyThreadState_Get();
    const void *top = al_stack_top(thread);
    set_top(thread, depth > 0 ? &frames[depth - 1] : NULL);
    PyObject *stack = al_stack_capture(&state, where, base, limit, hidden);
    set_top(thread, top);
    CHECK(stack != NULL && Py_TYPE(stack) == state.Stack_type);
    return stack;
}

static void
check(int number)
{
    PyObject *word = kept[number].stack;
    al_stack *stack = (al_stack *)word;
    int own = kept[number].own, n = kept[number].n;
    CHECK(Py_SIZE(stack) == own && (n == own || stack_visible(stack) == n - own));
    PyObject *origin = al_stack_origin(word), *above = al_stack_above(word);
    CHECK(origin != NULL && PyTuple_GET_SIZE(origin) == n);
    CHECK(above != NULL && PyTuple_GET_SIZE(above) == own);
    for (int i = 0; i < n; i++) {
        expected_place at = kept[number].places[i];
        const place *real =
            i < own ? &stack->places[i] : &stack->below->places[i - own];
        CHECK(real->code == at.code && real->ip == at.ip);
        PyObject *item = PyTuple_GET_ITEM(origin, i);
        int offset = (int)(at.ip - at.code->co_code_adaptive);
        CHECK(PyTuple_GET_ITEM(item, 0) == at.code->co_filename);
        CHECK(PyLong_AsLong(PyTuple_GET_ITEM(item, 1)) ==
              PyCode_Addr2Line(at.code, offset));
        CHECK(PyTuple_GET_ITEM(item, 2) == at.code->co_name);
    }
    Py_DECREF(origin);
    Py_DECREF(above);
    PyObject *filename;
    int line, found = al_stack_last(&state, word, &filename, &line);
    CHECK(found == (n > 0));
    if (found) {
        expected_place at = kept[number].places[0];
        CHECK(filename == at.code->co_filename);
        CHECK(line ==
              PyCode_Addr2Line(at.code, (int)(at.ip - at.code->co_code_adaptive)));
        Py_DECREF(filename);
    }
}

/* As a program reads it: a list of FrameSummary objects, oldest first. */
static void
check_text(int number)
{
    PyObject *word = Py_NewRef(kept[number].stack);
    PyObject *text = al_stack_read(&state, &word);
    int n = kept[number].n;
    CHECK(text != NULL && text == word && PyList_GET_SIZE(text) == n);
    for (int i = 0; i < n; i++) {
        expected_place at = kept[number].places[n - 1 - i];
        PyObject *line = PyObject_GetAttrString(PyList_GET_ITEM(text, i), "lineno");
        int offset = (int)(at.ip - at.code->co_code_adaptive);
        int real = PyCode_Addr2Line(at.code, offset);
        CHECK(line != NULL &&
              (real < 0 ? line == Py_None : PyLong_AsLong(line) == real));
        Py_DECREF(line);
    }
    Py_DECREF(text);
    Py_DECREF(word);
}

static void
forget(int number)
{
    if (kept[number].stack == NULL) {
        return;
    }
    Py_CLEAR(kept[number].stack);
    for (int i = 0; i < kept[number].n; i++) {
        Py_DECREF((PyObject *)kept[number].places[i].code);
    }
}

static void
capture_one(white_input *input)
{
    int number = (int)white_below(input, KEPT), which = -1;
    if (base_count > 0 && white_below(input, 8) > 0) {
        which = white_below(input, 4) ? base_count - 1
                                      : (int)white_below(input, (size_t)base_count);
    }
    bool whole = white_below(input, 2);
    int limit = whole ? AL_STACK_WHOLE : 1 + (int)white_below(input, 40);
    al_stack_base *base = which < 0 ? NULL : bases[which].base;
    int hidden = base == NULL || whole ? 0 : (int)white_below(input, 8);
    al_stack_table **where = white_below(input, 16) == 0 ? NULL : &table;
    PyObject *stack = take(where, base, limit, hidden);
    forget(number);
    kept[number].stack = stack;
    expected_place *places = kept[number].places;
    /* The base's own frame is where the walk ends; it is the first one below. */
    int end = which < 0 ? 0 : bases[which].depth;
    int own = seen(end, depth, places), n = own;
    if (own > limit || (own == limit && base == NULL)) {
        n = own = limit;
    }
    else if (base != NULL) {
        int visible = limit - own - hidden;
        int below = visible <= 0 ? 0 : seen(0, end, places + own);
        n = own + (visible < below ? visible > 0 ? visible : 0 : below);
    }
    kept[number].n = n;
    kept[number].own = own;
    for (int i = 0; i < n; i++) {
        Py_INCREF((PyObject *)places[i].code);
    }
    check(number);
    if (where != NULL && own < NEAR) { /* found again */
        PyObject *again = take(where, base, limit, hidden);
        CHECK(again == stack);
        Py_DECREF(again);
    }
}

static void
enter(void)
{
    /* Two loops do not run in one frame. */
    if (base_count == BASES || depth == lowest()) {
        return;
    }
    PyThreadState *thread = PyThreadState_Get();
    const void *top = al_stack_top(thread);
    set_top(thread, &frames[depth - 1]);
    bases[base_count].base = al_stack_enter(&state, &list);
    set_top(thread, top);
    CHECK(bases[base_count].base != NULL && list == bases[base_count].base);
    bases[base_count++].depth = depth;
}

static void
leave(int which)
{
    al_stack_leave(&list, bases[which].base);
    for (int i = which; i < base_count - 1; i++) {
        bases[i] = bases[i + 1];
    }
    base_count--;
}

/* Another code object at, perhaps, the same address. */
static void
renew(int which, int original)
{
    PyObject *replace =
        PyObject_GetAttrString((PyObject *)originals[original], "replace");
    PyObject *new = PyObject_CallNoArgs(replace);
    CHECK(new != NULL &&PyCode_Check(new));
    Py_DECREF(replace);
    Py_XSETREF(codes[which], (PyCodeObject *)new);
}

/* --- set-up -------------------------------------------------------------------------------- */

/* al_stack_init is not called: it looks at frames that are real. */
int
al_state_add_type(PyObject *Py_UNUSED(module), PyTypeObject **Py_UNUSED(slot),
                  PyType_Spec *Py_UNUSED(spec), PyObject *Py_UNUSED(given))
{
    abort();
}

static void
find_codes(PyCodeObject *code)
{
    CHECK(original_count < 64);
    originals[original_count++] = (PyCodeObject *)Py_NewRef((PyObject *)code);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(code->co_consts); i++) {
        PyObject *constant = PyTuple_GET_ITEM(code->co_consts, i);
        if (PyCode_Check(constant)) {
            find_codes((PyCodeObject *)constant);
        }
    }
}

static void
set_up(void)
{
    PyObject *module = PyImport_ImportModule("traceback");
    CHECK(module != NULL);
    state.StackSummary = PyObject_GetAttrString(module, "StackSummary");
    state.FrameSummary = PyObject_GetAttrString(module, "FrameSummary");
    state.linecache = PyObject_GetAttrString(module, "linecache");
    Py_DECREF(module);
    state.kwnames_frame_summary = Py_BuildValue("(s)", "lookup_line");
    state.Stack_type = (PyTypeObject *)PyType_FromSpec(&stack_spec);
    PyObject *code = Py_CompileString(source, "<made up>", Py_file_input);
    CHECK(state.Stack_type != NULL && code != NULL);
    find_codes((PyCodeObject *)code);
    Py_DECREF(code);
    for (int i = 0; i < CODES; i++) {
        renew(i, i % original_count);
    }
}

static void
one(white_input *input)
{
    if (state.Stack_type == NULL) {
        set_up();
    }
    while (white_more(input)) {
        switch (white_below(input, 16)) {
        case 0:
            for (size_t n = white_below(input, 100); n > 0; n--) {
                push(input);
            }
            break;
        case 1:
        case 2:
        case 3:
            push(input);
            break;
        case 4:
            for (size_t n = white_below(input, 100); n > 0 && depth > lowest(); n--) {
                pop();
            }
            break;
        case 5:
        case 6:
            if (depth > lowest()) {
                pop();
            }
            break;
        case 7:
            enter();
            break;
        case 8:
            if (base_count > 0) {
                leave(white_below(input, 2)
                          ? base_count - 1
                          : (int)white_below(input, (size_t)base_count));
            }
            break;
        case 9:
            if (white_below(input, 4) == 0) {
                al_stack_flush(&table);
            }
            break;
        case 10:
            renew((int)white_below(input, CODES),
                  (int)white_below(input, (size_t)original_count));
            break;
        case 11: {
            int number = (int)white_below(input, KEPT);
            if (kept[number].stack != NULL) {
                check(number);
                if (white_below(input, 8) == 0) {
                    check_text(number);
                }
            }
            break;
        }
        default:
            capture_one(input);
        }
    }
    while (base_count > 0) {
        leave(base_count - 1);
    }
    while (depth > 0) {
        pop();
    }
    al_stack_flush(&table);
    for (int i = 0; i < KEPT; i++) {
        if (kept[i].stack != NULL) {
            check(i);
        }
        forget(i);
    }
    CHECK(list == NULL);
    for (int i = 0; i < CODES; i++) {
        CHECK(Py_REFCNT((PyObject *)codes[i]) == 1);
    }
}
