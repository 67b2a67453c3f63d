/* report.h: exceptions of callbacks go to the loop's exception handler.
 *
 * A report takes the pending exception.  It returns 0 when the exception handler has
 * been told, or -1 with an exception that has to leave run_forever: SystemExit and
 * KeyboardInterrupt always do, as in asyncio. */
#ifndef AL_CORE_REPORT_H
#define AL_CORE_REPORT_H

#include "core/handle.h"

struct al_loop;

/* An except block of asyncio's: meanwhile sys.exc_info() is the exception, and what is
 * raised has it as its __context__. */
typedef struct {
    PyObject *exc;   /* the exception, or NULL */
    PyObject *outer; /* what was being handled before */
} al_except;

/* The block begins with the pending exception, which is pending no longer. */
static inline void
al_except_enter(al_except *block)
{
    block->exc = al_err_take();
    block->outer = al_err_handle_steal(Py_XNewRef(block->exc));
}

/* The block is over; an exception that is pending stays pending.  Escapes. */
static inline void
al_except_leave(al_except *block)
{
    Py_XDECREF(al_err_handle_steal(block->outer)); /* No last reference. */
    Py_CLEAR(block->exc);
}

/* The pending exception came out of a handle's callback. */
int al_report_handle(struct al_loop *loop, al_handle *handle);

/* The pending exception came out of the running slot, which asyncio runs as a Handle of
 * target.<name>(arg), arg may be NULL: reports it as that Handle would. */
int al_report_method(struct al_loop *loop, PyObject *target, PyObject *name,
                     PyObject *arg);

/* loop.call_exception_handler({"message": message, key: value, ...}): pairs of
 * (const char *, PyObject *borrowed) end with NULL; a NULL value leaves its key out.
 * `loop` is any loop object.  Steals `message`; NULL message means an exception is
 * pending.  0, or -1 with what the handler raised. */
int al_report_context(al_state *st, PyObject *loop, PyObject *message, ...);

/* The pending exception is SystemExit or KeyboardInterrupt. */
bool al_report_must_leave(void);

#endif
