/* flow.h: flow control of the transports that write: the water marks, and telling the
 * protocol to pause and to resume.  Mirrors asyncio.transports._FlowControlMixin. */
#ifndef AL_IO_FLOW_H
#define AL_IO_FLOW_H

#include "core/sched.h"

typedef struct {
    size_t high, low;
    bool paused; /* the protocol has been told to pause */
} al_flow;

/* asyncio's defaults: 64 KiB and a quarter of it. */
void al_flow_init(al_flow *flow);
/* (low, high), as get_write_buffer_limits returns it. */
PyObject *al_flow_limits(const al_flow *flow);
/* The arguments of set_write_buffer_limits(high=None, low=None); fractions of a byte are
 * dropped.  0, or -1.  Escapes. */
int al_flow_set_limits(al_flow *flow, PyObject *const *args, Py_ssize_t nargs,
                       PyObject *kwnames);

/* The buffer of the transport has become larger or smaller.  What the protocol's method
 * raises is reported.  0, or -1 with an exception that must leave run_forever.  Both
 * escape; `flow` lives in the transport, which the caller keeps alive. */
int al_flow_grown(al_loop *loop, al_flow *flow, size_t size, PyObject *transport,
                  PyObject *protocol);
int al_flow_shrunk(al_loop *loop, al_flow *flow, size_t size, PyObject *transport,
                   PyObject *protocol);

/* Calls protocol.pause_writing() or resume_writing(); the same for what they raise. */
int al_flow_tell_pause(al_loop *loop, PyObject *transport, PyObject *protocol);
int al_flow_tell_resume(al_loop *loop, PyObject *transport, PyObject *protocol);

/* The pending exception came from the protocol or the system:
 * loop.call_exception_handler({message, exception, transport, protocol}).  0 or -1 as
 * above.  Escapes. */
int al_flow_report(al_loop *loop, const char *message, PyObject *transport,
                   PyObject *protocol);

#endif
