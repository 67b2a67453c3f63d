/* protocol.h: the sinks that call a protocol: data_received, get_buffer and
 * buffer_updated, or, for the exact classes of asyncio's streams, none of these but
 * straight into the StreamReader. */
#ifndef AL_IO_PROTOCOL_H
#define AL_IO_PROTOCOL_H

#include "core/sched.h"
#include "io/sink.h"

/* The sink for a protocol of the stream and its loop (NULL: of none any more), or NULL
 * with an exception.  Escapes. */
const al_sink *al_protocol_sink(al_state *st, al_loop *loop, PyObject *protocol,
                                PyObject *stream);

#endif
