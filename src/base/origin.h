/* origin.h: whether a function is as its module made it.
 *
 * Tracers replace methods of asyncio's classes, many of them before this module is
 * imported (ddtrace-run, opentelemetry-instrument, sitecustomize).  So what was there at
 * import says nothing: a function tells by itself where it comes from.  functools.wraps
 * copies names, but neither the globals nor the code object, and a tracer that puts other
 * bytecode into the function itself (ddtrace) leaves constants that no compiler makes.
 *
 * An unusual build of the standard library may fail the test.  Then asyncio's own methods
 * run: slower, and right. */
#ifndef AL_BASE_ORIGIN_H
#define AL_BASE_ORIGIN_H

#include "base/py.h"

/* Whether `function` was compiled as the method, or property, `name` of `type`, in the
 * source file of the type's module.  No exception is left. */
bool al_origin_is(PyObject *function, PyTypeObject *type, PyObject *name);

/* Whether the attribute `name` is that for each class of the type's MRO that has it, and
 * one does. */
bool al_origin_intact(PyTypeObject *type, PyObject *name);

/* The same for any function of a module. */
bool al_origin_is_function(PyObject *function, const char *module,
                           const char *qualname);

/* Whether a C function is of the module file that defines it under that name: some tools
 * put another C function into its method definition. */
bool al_origin_is_c(PyObject *function, const char *module, const char *name);

/* Calls `visit` with each function of the MRO that has the name, until that returns other
 * than 0.  Borrowed references. */
int al_origin_each(PyTypeObject *type, PyObject *name,
                   int (*visit)(PyObject *function, PyTypeObject *owner, void *arg),
                   void *arg);

#endif
