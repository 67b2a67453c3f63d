/* calls.h: the methods by which programs give work to the loop. */
#ifndef AL_LOOP_CALLS_H
#define AL_LOOP_CALLS_H

#include "base/py.h"

/* Ends with a NULL entry; loop.c joins it with its own methods. */
extern PyMethodDef al_calls_methods[];

/* The C functions behind loop.time and loop.call_soon, for override.c. */
PyCFunction al_calls_time_function(void);
PyCFunction al_calls_call_soon_function(void);

#endif
