/* frames.c: see frames.h.
 *
 * The shapes of thread states, code objects and strings are in CPython's public headers;
 * of interpreter frames core/frame.h is a mirror.  Where core/stack has found that that
 * does not hold, al_state.public_frames, nobody calls us. */
#include "diag/frames.h"

#include <limits.h>
#include <string.h>

#include "core/frame.h"
#include "core/stack.h"
#include "diag/peek.h"

enum {
    CODE_UNIT = 2,
    MOST_FRAMES = 10000, /* a cycle in memory that was used again ends */
    MOST_THREADS = 10000,
    MOST_ENTRIES = 100000, /* of a line table */
};

/* --- threads ----------------------------------------------------------------------------- */

#if PY_VERSION_HEX >= 0x030C0000
static bool
state_has_gil(const PyThreadState *copy)
{
    return copy->_status.active;
}
#endif

bool
al_frames_has_gil(const PyThreadState *thread)
{
#if PY_VERSION_HEX >= 0x030C0000
    PyThreadState copy;
    return al_peek(&copy, thread, sizeof(copy)) && state_has_gil(&copy);
#else
    return _PyThreadState_UncheckedGet() == thread;
#endif
}

const PyThreadState *
al_frames_gil_holder(PyInterpreterState *interpreter)
{
#if PY_VERSION_HEX >= 0x030C0000
    const PyThreadState *thread = PyInterpreterState_ThreadHead(interpreter);
    PyThreadState copy;
    for (int i = 0; i < MOST_THREADS && thread != NULL; i++, thread = copy.next) {
        if (!al_peek(&copy, thread, sizeof(copy))) {
            return NULL;
        }
        if (state_has_gil(&copy)) {
            return thread;
        }
    }
    return NULL;
#else
    (void)interpreter;
    return _PyThreadState_UncheckedGet(); /* All interpreters share one. */
#endif
}

bool
al_frames_thread_ids(const PyThreadState *thread, unsigned long *ident, int *tid)
{
    PyThreadState copy;
    if (!al_peek(&copy, thread, sizeof(copy))) {
        return false;
    }
    *ident = copy.thread_id;
    *tid = (int)copy.native_thread_id;
    return true;
}

/* The address of the innermost frame, or NULL. */
static const al_frame *
innermost(const PyThreadState *thread)
{
    const void *frame = NULL;
#if PY_VERSION_HEX >= 0x030D0000
    const char *word = (const char *)thread + offsetof(PyThreadState, current_frame);
#else
    const char *word = NULL;
    const _PyCFrame *inner;
    if (al_peek(&inner, (const char *)thread + offsetof(PyThreadState, cframe),
                sizeof(inner))) {
        word = (const char *)inner + offsetof(_PyCFrame, current_frame);
    }
#endif
    return word != NULL && al_peek(&frame, word, sizeof(frame)) ? frame : NULL;
}

/* --- strings ------------------------------------------------------------------------------ */

/* Appends a character as UTF-8; false if there is no room. */
static bool
put_character(char **out, const char *end, uint32_t c)
{
    unsigned char bytes[4];
    size_t n = 0;
    if (c >= 0xD800 && c < 0xE000) {
        c = '?'; /* A byte of a file name that is no text. */
    }
    if (c < 0x80) {
        bytes[n++] = (unsigned char)c;
    }
    else if (c < 0x800) {
        bytes[n++] = (unsigned char)(0xC0 | c >> 6);
        bytes[n++] = (unsigned char)(0x80 | (c & 0x3F));
    }
    else if (c < 0x10000) {
        bytes[n++] = (unsigned char)(0xE0 | c >> 12);
        bytes[n++] = (unsigned char)(0x80 | (c >> 6 & 0x3F));
        bytes[n++] = (unsigned char)(0x80 | (c & 0x3F));
    }
    else {
        bytes[n++] = (unsigned char)(0xF0 | (c >> 18 & 7));
        bytes[n++] = (unsigned char)(0x80 | (c >> 12 & 0x3F));
        bytes[n++] = (unsigned char)(0x80 | (c >> 6 & 0x3F));
        bytes[n++] = (unsigned char)(0x80 | (c & 0x3F));
    }
    if ((size_t)(end - *out) <= n) {
        return false;
    }
    memcpy(*out, bytes, n);
    *out += n;
    return true;
}

/* The end of a string, in UTF-8, as much as has room.  False if it is no string. */
static bool
read_string(const PyObject *string, char *out, size_t size)
{
    PyASCIIObject head;
    *out = '\0';
    if (string == NULL || !al_peek(&head, string, sizeof(head)) ||
        head.ob_base.ob_type != &PyUnicode_Type || !head.state.compact ||
        (head.state.kind & (head.state.kind - 1)) != 0 || head.state.kind == 0 ||
        head.length < 0) {
        return false;
    }
    size_t kind = head.state.kind, length = (size_t)head.length;
    size_t most = head.state.ascii ? size - 1 : (size - 1) / 4;
    size_t skipped = length > most ? length - most : 0;
    const char *data =
        (const char *)string +
        (head.state.ascii ? sizeof(PyASCIIObject) : sizeof(PyCompactUnicodeObject)) +
        skipped * kind;
    unsigned char raw[AL_FILE_SIZE];
    size_t n = length - skipped;
    char *to = out;
    if (n * kind > sizeof(raw) || !al_peek(raw, data, n * kind)) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t two;
        uint32_t c = raw[i * kind];
        if (kind == 2) {
            memcpy(&two, raw + i * kind, sizeof(two));
            c = two;
        }
        else if (kind == 4) {
            memcpy(&c, raw + i * kind, sizeof(c));
        }
        if (!put_character(&to, out + size, c)) {
            break;
        }
    }
    *to = '\0';
    return true;
}

/* --- lines --------------------------------------------------------------------------------- */

/* A line table, byte by byte (CPython's Objects/locations.md tells its form). */
typedef struct {
    const char *next;
    Py_ssize_t left; /* behind the window */
    unsigned char window[256];
    int at, length;
} line_reader;

/* The next byte, or -1 at the end. */
static int
next_byte(line_reader *reader)
{
    if (reader->at == reader->length) {
        Py_ssize_t n = reader->left < (Py_ssize_t)sizeof(reader->window)
                           ? reader->left
                           : (Py_ssize_t)sizeof(reader->window);
        if (n <= 0 || !al_peek(reader->window, reader->next, (size_t)n)) {
            return -1;
        }
        reader->next += n;
        reader->left -= n;
        reader->at = 0;
        reader->length = (int)n;
    }
    return reader->window[reader->at++];
}

/* The signed number whose first byte is next; *last is the byte behind it, or -1. */
static int
read_number(line_reader *reader, int *last)
{
    unsigned value = 0;
    int byte, shift = 0;
    do {
        byte = next_byte(reader);
        if (byte < 0 || shift > 24) {
            *last = -1;
            return 0;
        }
        value |= (unsigned)(byte & 0x3F) << shift;
        shift += 6;
    } while (byte & 0x40);
    *last = next_byte(reader);
    return value & 1 ? -(int)(value >> 1) : (int)(value >> 1);
}

/* The line of an instruction, given by its offset in code units; 0 if not known. */
static int
find_line(const PyCodeObject *code, Py_ssize_t unit)
{
    enum { ONE_LINE = 10, NO_COLUMNS = 13, LONG = 14, NO_LINE = 15 };
    PyVarObject head;
    if (!al_peek(&head, code->co_linetable, sizeof(head)) ||
        head.ob_base.ob_type != &PyBytes_Type) {
        return 0;
    }
    line_reader reader = {
        .next = (const char *)code->co_linetable + offsetof(PyBytesObject, ob_sval),
        .left = head.ob_size,
    };
    int64_t line = code->co_firstlineno;
    int byte = next_byte(&reader);
    for (int i = 0; byte >= 0 && i < MOST_ENTRIES; i++) {
        int kind = byte >> 3 & 15;
        Py_ssize_t units = (byte & 7) + 1;
        if (kind == NO_COLUMNS || kind == LONG) {
            line += read_number(&reader, &byte);
        }
        else {
            line += kind >= ONE_LINE && kind < NO_COLUMNS ? kind - ONE_LINE : 0;
            byte = next_byte(&reader);
        }
        if (unit < units) {
            return kind == NO_LINE || line < 0 || line > INT_MAX ? 0 : (int)line;
        }
        unit -= units;
        while (byte >= 0 && (byte & 0x80) == 0) {
            byte = next_byte(&reader); /* The rest of the entry: columns. */
        }
    }
    return 0;
}

/* --- frames ---------------------------------------------------------------------------------- */

/* Whether the frame is one of Python code that has begun; then *code is a copy. */
static bool
is_shown(const al_frame *frame, const PyCodeObject **where, PyCodeObject *code)
{
    const char *address = (const char *)(frame->code & ~(uintptr_t)3);
    *where = (const PyCodeObject *)(const void *)address;
    if (frame->owner >= AL_FRAME_FOREIGN ||
        !al_peek(code, address, offsetof(PyCodeObject, co_code_adaptive)) ||
        Py_TYPE(code) != &PyCode_Type) {
        return false;
    }
    /* Numbers, not pointers: what is read may be anything. */
    int64_t at = (int64_t)((uintptr_t)frame->ip - (uintptr_t)address -
                           offsetof(PyCodeObject, co_code_adaptive));
    int64_t first =
        frame->owner == AL_FRAME_OF_GENERATOR ? -1 : code->_co_firsttraceable;
    return at >= first * CODE_UNIT && at / CODE_UNIT < Py_SIZE(code);
}

static void
read_place(const al_frame *frame, const PyCodeObject *where, const PyCodeObject *code,
           al_place *place)
{
    (void)read_string(code->co_filename, place->file, sizeof(place->file));
    (void)read_string(code->co_name, place->function, sizeof(place->function));
    const char *begin = (const char *)where + offsetof(PyCodeObject, co_code_adaptive);
    place->line = frame->ip < begin ? code->co_firstlineno
                                    : find_line(code, (frame->ip - begin) / CODE_UNIT);
}

int
al_frames_read(const PyThreadState *thread, const void *stop, al_place *places, int max,
               al_spot *spot)
{
    const al_frame *frame = innermost(thread);
    int n = 0;
    al_frame copy;
    *spot = (al_spot){NULL, NULL};
    for (int i = 0; i < MOST_FRAMES && n < max && frame != NULL && frame != stop; i++) {
        PyCodeObject code;
        const PyCodeObject *where;
        if (!al_peek(&copy, frame, sizeof(copy))) {
            break;
        }
        if (is_shown(&copy, &where, &code)) {
            if (n == 0) {
                *spot = (al_spot){frame, copy.ip};
            }
            read_place(&copy, where, &code, &places[n++]);
        }
        frame = copy.previous;
    }
    return n;
}

al_spot
al_frames_spot(const PyThreadState *thread)
{
    const al_frame *frame = innermost(thread);
    al_frame copy;
    for (int i = 0; i < MOST_FRAMES && frame != NULL; i++) {
        PyCodeObject code;
        const PyCodeObject *where;
        if (!al_peek(&copy, frame, sizeof(copy))) {
            break;
        }
        if (is_shown(&copy, &where, &code)) {
            return (al_spot){frame, copy.ip};
        }
        frame = copy.previous;
    }
    return (al_spot){NULL, NULL};
}

int
al_frames_depth(const PyThreadState *thread, const void *stop)
{
    const al_frame *frame = innermost(thread);
    al_frame copy;
    int n = 0;
    for (int i = 0; frame != NULL && frame != stop; i++) {
        PyCodeObject code;
        const PyCodeObject *where;
        if (i == MOST_FRAMES || !al_peek(&copy, frame, sizeof(copy))) {
            return -1;
        }
        n += is_shown(&copy, &where, &code);
        frame = copy.previous;
    }
    return frame == NULL ? -1 : n;
}
