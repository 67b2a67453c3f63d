/* sink.h: what stands between a stream and the protocol.
 *
 * A stream moves bytes and does not know what consumes them: it calls the functions of
 * its sink, from slots of the scheduler unless said otherwise.  protocol.c has the sinks
 * that hand the bytes to a protocol as they are; a layer that transforms them (TLS)
 * is one more table.
 *
 * Each function runs Python code, so the stream may be closing, lost or given another
 * protocol when it returns.  Results: 0, or -1 with an exception that has to leave
 * run_forever; other exceptions have been reported, and the stream closed, by then. */
#ifndef AL_IO_SINK_H
#define AL_IO_SINK_H

#include "base/py.h"

struct al_stream;

typedef struct al_sink {
    /* The stream is readable: takes bytes by al_stream_receive and hands them on. */
    int (*readable)(struct al_stream *stream);
    /* The peer has sent all it will; *keep_open: the stream stays open for writing. */
    int (*eof)(struct al_stream *stream, bool *keep_open);
    /* The stream exists.  Any exception stays pending: the caller reports it. */
    int (*connected)(struct al_stream *stream);
    /* The stream is gone; `exc` is None or why.  Any exception stays pending. */
    int (*lost)(struct al_stream *stream, PyObject *exc);
    /* The buffer has passed the high-water mark or fallen to the low one.  Called from
     * inside write() too. */
    int (*pause)(struct al_stream *stream);
    int (*resume)(struct al_stream *stream);
} al_sink;

#endif
