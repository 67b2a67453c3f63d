/* report.h: exceptions of callbacks go to the loop's exception handler.
 *
 * A report takes the pending exception.  It returns 0 when the exception handler has
 * been told, or -1 with an exception that has to leave run_forever: SystemExit and
 * KeyboardInterrupt always do, as in asyncio. */
#ifndef AL_CORE_REPORT_H
#define AL_CORE_REPORT_H

#include "core/handle.h"

struct al_loop;

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
