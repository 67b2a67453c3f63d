/* loop.h: the EventLoop type: life cycle, attributes, run_forever. */
#ifndef AL_LOOP_LOOP_H
#define AL_LOOP_LOOP_H

#include "base/state.h"

/* Makes EventLoop and QueueView.  0 or -1. */
int al_loop_init_types(PyObject *module, al_state *st);

#endif
