/* What the watchdog reads of another thread, against CPython's own functions: the lines of
 * real code and of line tables that are made up, and the names.  Bytes that are no line
 * table, and addresses that are nothing, are survived. */
#include "white.h"

#include "diag/frames.c"
#include "diag/peek.c"

enum { UNITS = 600, MOST_BYTES = 4096, CODES = 4096 };

static PyObject *room; /* a code object of UNITS units */
static PyCodeObject *codes[CODES];
static size_t code_count;

/* --- lines ------------------------------------------------------------------------------ */

/* CPython's answer, as ours says it. */
static int
line_by_python(PyCodeObject *code, int unit)
{
    int line = PyCode_Addr2Line(code, unit * CODE_UNIT);
    return line < 0 ? 0 : line;
}

static PyCodeObject *
with_table(const char *table, size_t size, long first)
{
    PyObject *replace = PyObject_GetAttrString(room, "replace");
    PyObject *none = PyTuple_New(0);
    PyObject *words = Py_BuildValue("{s:y#,s:l}", "co_linetable", table,
                                    (Py_ssize_t)size, "co_firstlineno", first);
    CHECK(replace != NULL && none != NULL && words != NULL);
    PyObject *code = PyObject_Call(replace, none, words);
    CHECK(code != NULL);
    Py_DECREF(replace);
    Py_DECREF(none);
    Py_DECREF(words);
    return (PyCodeObject *)code;
}

static size_t
put_number(char *to, unsigned long value)
{
    size_t n = 0;
    for (; value >= 64; value >>= 6) {
        to[n++] = (char)(64 | (value & 63));
    }
    to[n++] = (char)value;
    return n;
}

static size_t
put_signed(char *to, long value)
{
    unsigned long size = (unsigned long)(value < 0 ? -value : value);
    return put_number(to, size << 1 | (value < 0));
}

/* An entry of each kind (Objects/locations.md).  Lines stay positive. */
static size_t
put_entry(white_input *input, char *to, long *line)
{
    int kind = (int)white_below(input, 16);
    size_t n = 0;
    to[n++] = (char)(0x80 | kind << 3 | (int)white_below(input, 8));
    long step = (long)white_below(input, 3) == 0 ? (long)white_below(input, 65536) * 30
                                                 : (long)white_below(input, 200);
    step = white_below(input, 2) && step < *line ? -step : step;
    if (kind == 13 || kind == 14) {
        n += put_signed(to + n, step);
        *line += step;
    }
    if (kind == 14) {
        n += put_number(to + n, white_below(input, 3000));
        n += put_number(to + n, white_below(input, 3000));
        n += put_number(to + n, white_below(input, 3000));
    }
    else if (kind < 10) {
        to[n++] = (char)white_below(input, 128);
    }
    else if (kind < 13) {
        *line += kind - 10;
        to[n++] = (char)white_below(input, 128);
        to[n++] = (char)white_below(input, 128);
    }
    return n;
}

static void
check_table(white_input *input)
{
    static char table[MOST_BYTES];
    size_t size = 0, most = white_below(input, 300);
    long first = 1 + (long)white_below(input, 5000), line = first;
    for (size_t i = 0; i < most && size < MOST_BYTES - 32; i++) {
        size += put_entry(input, table + size, &line);
    }
    PyCodeObject *code = with_table(table, size, first);
    for (int unit = 0; unit < UNITS; unit++) {
        CHECK(find_line(code, unit) == line_by_python(code, unit));
    }
    Py_DECREF((PyObject *)code);
}

static void
survive_table(white_input *input)
{
    static char table[MOST_BYTES];
    size_t size = white_below(input, 600);
    for (size_t i = 0; i < size; i++) {
        table[i] = (char)white_below(input, 256);
    }
    PyCodeObject *code =
        with_table(table, size, (long)white_below(input, 3) * 1000000000);
    for (int unit = 0; unit < UNITS; unit += 7) {
        CHECK(find_line(code, unit) >= 0);
    }
    Py_DECREF((PyObject *)code);
}

/* Each unit of a function of the standard library: as CPython's C function has it, and its
 * co_positions(). */
static void
check_code(PyCodeObject *code)
{
    PyObject *method = PyObject_GetAttrString((PyObject *)code, "co_positions");
    PyObject *all = method == NULL ? NULL : PyObject_CallNoArgs(method);
    PyObject *list = all == NULL ? NULL : PySequence_List(all);
    CHECK(list != NULL && PyList_GET_SIZE(list) == Py_SIZE(code));
    for (int unit = 0; unit < Py_SIZE(code); unit++) {
        PyObject *line = PyTuple_GET_ITEM(PyList_GET_ITEM(list, unit), 0);
        int found = find_line(code, unit);
        CHECK(found == line_by_python(code, unit));
        CHECK(found == (line == Py_None ? 0 : PyLong_AsLong(line)));
    }
    Py_DECREF(method);
    Py_DECREF(all);
    Py_DECREF(list);
}

/* --- names ------------------------------------------------------------------------------- */

/* The end of a string that has room, as Python makes UTF-8 of it. */
static void
check_string(PyObject *string, size_t size)
{
    static char ours[4 * AL_FILE_SIZE];
    Py_ssize_t length = PyUnicode_GET_LENGTH(string);
    Py_ssize_t most =
        (Py_ssize_t)(PyUnicode_IS_ASCII(string) ? size - 1 : (size - 1) / 4);
    PyObject *end =
        PyUnicode_Substring(string, length > most ? length - most : 0, length);
    PyObject *bytes = PyUnicode_AsEncodedString(end, "utf-8", "replace");
    CHECK(bytes != NULL);
    memset(ours, 1, sizeof(ours));
    CHECK(read_string(string, ours, size));
    CHECK(strcmp(ours, PyBytes_AS_STRING(bytes)) == 0);
    CHECK(strlen(ours) < size && ours[size] == 1);
    Py_DECREF(end);
    Py_DECREF(bytes);
}

static PyObject *
text(white_input *input)
{
    static const unsigned limits[] = {0x80, 0x100, 0x10000, 0x110000};
    static Py_UCS4 characters[400];
    unsigned limit = limits[white_below(input, 4)];
    Py_ssize_t length = (Py_ssize_t)white_below(input, 400);
    for (Py_ssize_t i = 0; i < length; i++) {
        unsigned c =
            (unsigned)(white_below(input, 65536) * 17 + white_below(input, 17));
        c = white_below(input, 3) == 0 ? c % limit : c % 0x80;
        characters[i] = c == 0 ? 1 : c; /* C strings end there. */
    }
    PyObject *string =
        PyUnicode_FromKindAndData(PyUnicode_4BYTE_KIND, characters, length);
    CHECK(string != NULL);
    return string;
}

static void
check_names(white_input *input)
{
    static const size_t sizes[] = {AL_FILE_SIZE, AL_NAME_SIZE, 8, 5};
    PyObject *string = text(input);
    check_string(string, sizes[white_below(input, 4)]);
    Py_DECREF(string);
}

/* --- frames -------------------------------------------------------------------------------- */

/* A frame whose words are anything, or nearly a real one's. */
static void
survive_frame(white_input *input)
{
    al_frame frame = {0};
    al_place where;
    PyCodeObject copy;
    const PyCodeObject *address;
    PyCodeObject *code = codes[white_below(input, code_count)];
    unsigned char *bytes = (unsigned char *)&frame;
    for (size_t i = 0; i < sizeof(frame); i++) {
        bytes[i] = (unsigned char)white_below(input, 256);
    }
    frame.owner = (char)white_below(input, 5);
    switch (white_below(input, 4)) {
    case 0:
        frame.code = (uintptr_t)code;
        break;
    case 1:
        frame.code = (uintptr_t)code->co_name; /* an object of another kind */
        break;
    case 2:
        frame.code &= 0xffffffff;
        break;
    default:
        frame.code = (uintptr_t)code;
        frame.ip = code->co_code_adaptive +
                   CODE_UNIT * ((Py_ssize_t)white_below(input, UNITS * 2) - UNITS);
    }
    if (!is_shown(&frame, &address, &copy)) {
        return;
    }
    CHECK(address == code);
    read_place(&frame, address, &copy, &where);
    Py_ssize_t unit = (frame.ip - code->co_code_adaptive) / CODE_UNIT;
    CHECK(unit < Py_SIZE(code));
    CHECK(where.line == (frame.ip < code->co_code_adaptive
                             ? code->co_firstlineno
                             : line_by_python(code, (int)unit)));
    CHECK(strlen(where.file) < AL_FILE_SIZE && strlen(where.function) < AL_NAME_SIZE);
    check_string(code->co_filename, AL_FILE_SIZE);
    check_string(code->co_name, AL_NAME_SIZE);
}

/* --- set-up -------------------------------------------------------------------------------- */

static void
find_codes(PyCodeObject *code)
{
    if (code_count == CODES) {
        return;
    }
    codes[code_count++] = (PyCodeObject *)Py_NewRef((PyObject *)code);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(code->co_consts); i++) {
        PyObject *constant = PyTuple_GET_ITEM(code->co_consts, i);
        if (PyCode_Check(constant)) {
            find_codes((PyCodeObject *)constant);
        }
    }
}

static const char set_up_code[] =
    "import importlib.util\n"
    "def code_of(name):\n"
    "    spec = importlib.util.find_spec(name)\n"
    "    return spec.loader.get_code(name)\n"
    "names = ['argparse', 'tarfile', 'typing', 'inspect', 'dataclasses', 'textwrap',\n"
    "         'asyncio.base_events', 'asyncio.sslproto', 'asyncio.tasks', "
    "'contextlib',\n"
    "         'pydoc', 'statistics']\n"
    "codes = [code_of(name) for name in names]\n"
    "long = compile('\\n'.join(f'x = {i}' for i in range(2000)), '<long>', 'exec')\n"
    "codes.append(long)\n"
    "codes.append(compile('x = (1,' + '\\n' * 70000 + 'y)', '<deep>', 'exec'))\n"
    "room = compile('x\\n' * 600, '<room>', 'exec')\n"
    "room = room.replace(co_code=room.co_code[:2 * 600])\n";

static void
set_up(void)
{
    PyObject *names = PyDict_New();
    CHECK(names != NULL &&
          PyDict_SetItemString(names, "__builtins__", PyEval_GetBuiltins()) == 0);
    PyObject *done = PyRun_String(set_up_code, Py_file_input, names, names);
    if (done == NULL) {
        PyErr_Print();
    }
    CHECK(done != NULL);
    Py_DECREF(done);
    PyObject *list = PyDict_GetItemString(names, "codes");
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        find_codes((PyCodeObject *)PyList_GET_ITEM(list, i));
    }
    room = Py_NewRef(PyDict_GetItemString(names, "room"));
    CHECK(Py_SIZE((PyCodeObject *)room) == UNITS);
    Py_DECREF(names);
    for (size_t i = 0; i < code_count; i++) {
        check_code(codes[i]);
    }
}

static void
one(white_input *input)
{
    if (room == NULL) {
        set_up();
    }
    while (white_more(input)) {
        switch (white_below(input, 4)) {
        case 0:
            check_table(input);
            break;
        case 1:
            survive_table(input);
            break;
        case 2:
            check_names(input);
            break;
        default:
            survive_frame(input);
        }
    }
}
