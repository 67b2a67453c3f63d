/* stack.h: where something was created, at the price of a pointer.
 *
 * asyncio's debug mode extracts a traceback for every future, task and handle: 8-25 us
 * and 1-3 KB each.  Here a capture keeps the innermost frames as pairs of code object
 * and instruction pointer, and interns them: a program creates its objects in a few
 * thousand places, so nearly every capture finds its stack in the table and takes a
 * reference.  File names, lines and FrameSummary objects are made when somebody looks.
 *
 * An al_stack is an immutable Python object without a public type.  It stands in the
 * word where asyncio keeps the list `_source_traceback`, and is replaced there by the
 * list on the first read (al_stack_read), since programs delete items from it. */
#ifndef AL_CORE_STACK_H
#define AL_CORE_STACK_H

#include "base/state.h"

/* No limit for the number of frames. */
enum { AL_STACK_WHOLE = 1 << 30 };

typedef struct al_stack al_stack;

/* The interned stacks of a loop; NULL: none yet. */
typedef struct al_stack_table al_stack_table;

/* The stack below a running loop, which cannot change while the loop runs: a walk that
 * meets its first frame ends there.  It is on the heap: greenlets copy C stacks away, and
 * then nothing below the loop may be looked at from the stack that is in its place. */
typedef struct al_stack_base {
    struct al_stack_base *outer; /* of a run that this one is nested in, or NULL */
    int references;
    int bare_limit;        /* what `bare` was cut to */
    PyThreadState *thread; /* that runs it */
    const void *frame;     /* what a walk meets; NULL: the run has ended */
    PyObject *owner;       /* the same as an object that lives as long, or NULL */
    al_stack *stack;       /* made by the first capture that needs it */
    al_stack *bare; /* of the last capture right above it, which is the usual one */
} al_stack_base;

/* Makes the type and finds out how to walk.  0 or -1. */
int al_stack_init(PyObject *module, al_state *st);
extern PyMethodDef al_stack_methods[]; /* of the module, not public */

/* The calling thread's stack: the innermost `limit` frames, none if no Python code
 * runs.  `table` NULL: not interned.  `base`: what is known of a running loop, or NULL;
 * then `hidden` places of the limit count as taken by frames between that loop's caller
 * and the callback, which asyncio has and we have not.  Any thread that holds the GIL
 * may call it, also with an exception pending.  New reference, or NULL with MemoryError.
 * Escapes. */
PyObject *al_stack_capture(al_state *st, al_stack_table **table, al_stack_base *base,
                           int limit, int hidden);

/* The frame that a thread executes, as it stands in al_stack_base. */
static inline const void *
al_stack_top(const PyThreadState *tstate)
{
#if PY_VERSION_HEX < 0x030D0000
    return tstate->cframe->current_frame;
#else
    return tstate->current_frame;
#endif
}

/* The calling thread's stack becomes the base of what is about to run on it: the first of
 * the list, which owns it, or NULL with MemoryError. */
al_stack_base *al_stack_enter(al_state *st, al_stack_base **list);
/* ... and is that no longer; runs may end in any order.  Escapes. */
void al_stack_leave(al_stack_base **list, al_stack_base *base);

/* Forgets the interned stacks; whoever holds one keeps it.  Escapes. */
void al_stack_flush(al_stack_table **table);

/* Reads a word that holds an al_stack, what somebody else put there, or NULL (None).  A
 * stack becomes a traceback.StackSummary, oldest frame first, which stays in the word.
 * New reference, or NULL with an exception.  Escapes. */
PyObject *al_stack_read(al_state *st, PyObject **word);

/* The same, but NULL without an exception if there is no stack or an empty one. */
PyObject *al_stack_read_present(al_state *st, PyObject **word);

/* Those frames of it that are above the running loop; all, if it is not known to be above
 * one.  New reference, or NULL with an exception. */
PyObject *al_stack_above(PyObject *stack);

/* The place of the innermost frame in such a word: 1, 0 if there is none, -1 with an
 * exception.  *filename is a new reference.  Escapes unless the word holds a stack. */
int al_stack_last(al_state *st, PyObject *word, PyObject **filename, int *lineno);

/* Such a stack as a coroutine's cr_origin: (file name, line, function) of each frame,
 * innermost first.  New reference, or NULL with an exception. */
PyObject *al_stack_origin(PyObject *stack);

static inline bool
al_stack_check(const al_state *st, PyObject *obj)
{
    return Py_IS_TYPE(obj, st->Stack_type);
}

#endif
