/* names.c: see names.h. */
#include "task/names.h"

#include "base/check.h"
#include "base/layout.h"
#include "core/sched.h"

#if PY_VERSION_HEX < 0x030C0000 && AL_LINUX
#include <link.h>
#endif

/* How many numbers are drawn to find the word; 0 where it is not looked for. */
enum { DRAWS = PY_VERSION_HEX >= 0x030C0000 || AL_LINUX ? 4 : 0 };

/* How many numbers a loop takes at once; see names.h. */
enum { BLOCK = 64 };

struct al_names {
    uint64_t *counter; /* asyncio's, or NULL */
    PyObject *asyncio; /* the module whose state the word may lie in */
    PyObject *task;    /* asyncio.Task.  All of this is needed to draw a number: */
    PyObject *coro;
    PyObject *kwargs; /* {"loop": something that takes a task} */
};

/* --- drawing a number ------------------------------------------------------------------ */

/* A coroutine that is closed already. */
static PyObject *
make_coroutine(al_state *st)
{
    PyObject *coro = PyObject_CallMethod(st->asyncio_tasks, "sleep", "i", 0);
    PyObject *closed = coro == NULL ? NULL : PyObject_CallMethod(coro, "close", NULL);
    if (closed == NULL) {
        Py_CLEAR(coro);
    }
    Py_XDECREF(closed);
    return coro;
}

/* An object with the two methods of a loop that a new task calls: get_debug() is False,
 * and call_soon() takes anything. */
static PyObject *
make_loop(void)
{
    PyObject *types = PyImport_ImportModule("types");
    PyObject *functools = PyImport_ImportModule("functools");
    PyObject *namespace =
        types == NULL ? NULL : PyObject_GetAttrString(types, "SimpleNamespace");
    PyObject *partial =
        functools == NULL ? NULL : PyObject_GetAttrString(functools, "partial");
    PyObject *loop = NULL, *none = PyTuple_New(0), *methods = NULL;
    if (namespace != NULL && partial != NULL && none != NULL) {
        methods =
            Py_BuildValue("{s:O,s:O}", "get_debug", &PyBool_Type, "call_soon", partial);
    }
    if (methods != NULL) {
        loop = PyObject_Call(namespace, none, methods);
    }
    Py_XDECREF(types);
    Py_XDECREF(functools);
    Py_XDECREF(namespace);
    Py_XDECREF(partial);
    Py_XDECREF(none);
    Py_XDECREF(methods);
    return loop;
}

/* The number that asyncio gives to a task of its own, or 0 with an exception. */
static uint64_t
draw(const struct al_names *names)
{
    uint64_t number = 0;
    PyObject *name = NULL, *args = PyTuple_Pack(1, names->coro);
    PyObject *task =
        args == NULL ? NULL : PyObject_Call(names->task, args, names->kwargs);
    if (task != NULL &&
        PyObject_SetAttrString(task, "_log_destroy_pending", Py_False) == 0) {
        name = PyObject_CallMethod(task, "get_name", NULL);
    }
    const char *text = name == NULL ? NULL : PyUnicode_AsUTF8(name);
    if (text != NULL) {
        number = strncmp(text, "Task-", 5) == 0 ? strtoull(text + 5, NULL, 10) : 0;
        if (number == 0) {
            PyErr_Format(PyExc_RuntimeError, "a task has the default name %R", name);
        }
    }
    Py_XDECREF(name);
    Py_XDECREF(task);
    Py_XDECREF(args);
    return number;
}

/* --- finding the word ------------------------------------------------------------------- */

typedef struct {
    uint64_t number; /* that the word must hold */
    uint64_t **words;
    size_t count, room;
} search;

#if PY_VERSION_HEX >= 0x030C0000 || AL_LINUX
/* Adds the words of a piece of memory that hold the number.  0, or -1 with MemoryError. */
static int
look_at(search *found, void *start, size_t bytes)
{
    uint64_t *word = start, *end = word + bytes / sizeof(*word);
    for (; word < end; word++) {
        if (*word != found->number) {
            continue;
        }
        if (found->count == found->room) {
            size_t room = found->room == 0 ? 64 : found->room * 2;
            uint64_t **words = found->words;
            PyMem_Resize(words, uint64_t *, room);
            if (words == NULL) {
                PyErr_NoMemory();
                return -1;
            }
            found->words = words;
            found->room = room;
        }
        found->words[found->count++] = word;
    }
    return 0;
}
#endif

#if PY_VERSION_HEX >= 0x030C0000

static int
look_everywhere(search *found, PyObject *asyncio)
{
    const PyModuleDef *def = PyModule_GetDef(asyncio);
    void *state = PyModule_GetState(asyncio);
    if (def == NULL || state == NULL || def->m_size <= 0) {
        PyErr_Clear(); /* "not a module with a definition" */
        return 0;
    }
    return look_at(found, state, (size_t)def->m_size);
}

#elif AL_LINUX

typedef struct {
    search *found;
    uintptr_t home; /* an address in the binary that the word is in */
} visit;

static int
look_at_binary(struct dl_phdr_info *info, size_t Py_UNUSED(size), void *arg)
{
    const visit *v = arg;
    int status = 0, home = 0;
    for (int pass = 0; pass < 2 && status == 0; pass++) {
        for (size_t i = 0; i < info->dlpi_phnum && status == 0; i++) {
            const ElfW(Phdr) *part = &info->dlpi_phdr[i];
            uintptr_t start = info->dlpi_addr + part->p_vaddr;
            if (part->p_type != PT_LOAD || (part->p_flags & PF_W) == 0) {
                continue;
            }
            if (pass == 0) {
                home |= v->home >= start && v->home - start < part->p_memsz;
            }
            else if (home) {
                uintptr_t skipped = -start % sizeof(uint64_t);
                status = look_at(v->found, (void *)(start + skipped),
                                 part->p_memsz - skipped);
            }
        }
    }
    return status;
}

static int
look_everywhere(search *found, PyObject *asyncio)
{
    visit v = {found, (uintptr_t)PyModule_GetDef(asyncio)};
    if (v.home == 0) {
        PyErr_Clear(); /* "not a module with a definition" */
        return 0;
    }
    return dl_iterate_phdr(look_at_binary, &v);
}

#else

static int
look_everywhere(search *Py_UNUSED(found), PyObject *Py_UNUSED(asyncio))
{
    return 0;
}

#endif

/* Sets names->counter if exactly one word counts along.  0 or -1. */
static int
find_counter(struct al_names *names)
{
    if (DRAWS == 0) {
        return 0;
    }
    search found = {.number = draw(names)};
    uint64_t first = found.number;
    int status = -1;
    if (first == 0 || look_everywhere(&found, names->asyncio) < 0) {
        goto done;
    }
    for (int i = 1; i < DRAWS; i++) {
        size_t kept = 0;
        found.number = draw(names);
        if (found.number == 0) {
            goto done;
        }
        for (size_t j = 0; j < found.count; j++) {
            if (*found.words[j] == found.number) {
                found.words[kept++] = found.words[j];
            }
        }
        found.count = kept;
    }
    status = 0;
    if (found.count == 1) {
        names->counter = found.words[0];
        if (found.number == first + DRAWS - 1) { /* Nobody else made a task. */
            *names->counter -= DRAWS;
        }
    }

done:
    PyMem_Free(found.words);
    return status;
}

/* --- what the others call -------------------------------------------------------------- */

int
al_names_init(al_state *st)
{
    if (al_layout_is_off(st, AL_LAYOUT_TASK)) {
        return 0; /* asyncio's own tasks count by themselves. */
    }
    struct al_names *names = st->names = PyMem_Calloc(1, sizeof(*names));
    if (names == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    PyObject *loop = make_loop();
    names->kwargs = loop == NULL ? NULL : Py_BuildValue("{s:O}", "loop", loop);
    Py_XDECREF(loop);
    names->asyncio = PyImport_ImportModule("_asyncio");
    names->task = Py_NewRef(st->asyncio_Task);
    names->coro = make_coroutine(st);
    if (names->kwargs == NULL || names->asyncio == NULL || names->coro == NULL ||
        find_counter(names) < 0) {
        return -1;
    }
#ifdef AL_HARD
    names->counter = NULL; /* The hard build walks the slower path. */
#endif
    return 0;
}

void
al_names_clear(al_state *st)
{
    struct al_names *names = st->names;
    if (names != NULL) {
        st->names = NULL;
        Py_XDECREF(names->asyncio);
        Py_XDECREF(names->task);
        Py_XDECREF(names->coro);
        Py_XDECREF(names->kwargs);
        PyMem_Free(names);
    }
}

/* Whether the loop has a block of numbers, or should. */
static bool
loop_counts_alone(const al_state *st, const al_loop *loop)
{
    return AL_FREE_THREADED && loop != NULL &&
           (loop->next_name < loop->last_name || AL_LOAD(st->running) > 1) &&
           !al_inbox_is_outside(loop);
}

static uint64_t
next_of_block(const struct al_names *names, al_loop *loop)
{
    if (loop->next_name == loop->last_name) {
        loop->last_name = AL_ADD(*names->counter, BLOCK);
        loop->next_name = loop->last_name - BLOCK;
    }
    return ++loop->next_name;
}

uint64_t
al_names_next(al_state *st, al_loop *loop)
{
    const struct al_names *names = st->names;
    if (AL_UNLIKELY(names == NULL)) {
        PyErr_SetString(PyExc_RuntimeError, "aioloop has been unloaded");
        return 0;
    }
    if (AL_UNLIKELY(names->counter == NULL)) {
        return draw(names); /* escapes */
    }
    return loop_counts_alone(st, loop) ? next_of_block(names, loop)
                                       : AL_ADD(*names->counter, 1);
}
