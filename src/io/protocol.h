/* protocol.h: the sinks that call a protocol: data_received, get_buffer and
 * buffer_updated, or, for the exact classes of asyncio's streams, none of these but
 * straight into the StreamReader. */
#ifndef AL_IO_PROTOCOL_H
#define AL_IO_PROTOCOL_H

#include "base/state.h"
#include "io/sink.h"

/* The sink for a protocol, or NULL with an exception. */
const al_sink *al_protocol_sink(al_state *st, PyObject *protocol);

#endif
