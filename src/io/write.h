/* write.h: what a stream has to send: write() and its kin, the water marks, corking.
 *
 * Writes are corked: write() called from a running slot queues a reference, and the
 * scheduler has the queue sent, by one system call, at the end of the iteration, or
 * before it when much has been written or time has passed (core/cork.h).  What passes the
 * high-water mark, and what is written while no slot runs, is sent at once.  Whatever
 * shows how much has been sent sends first: get_write_buffer_size, the water marks,
 * write_eof, close, abort. */
#ifndef AL_IO_WRITE_H
#define AL_IO_WRITE_H

#include "io/stream.h"

int al_write_init(al_state *st);

/* The methods of the transport: None, or NULL with an exception.  Escape. */
PyObject *al_write(al_stream *self, PyObject *data);
PyObject *al_writelines(al_stream *self, PyObject *list);
PyObject *al_write_eof(al_stream *self);

/* Sends what write() queued.  0, or -1 with an exception to raise.  Escapes. */
int al_write_flush(al_stream *self);
/* A slot: the descriptor is writable.  Mirrors _write_ready. */
int al_write_ready(al_loop *loop, PyObject *op, PyObject *arg, PyObject *extra);

/* Tell the protocol to pause or resume, if the marks say so.  0 or -1.  Escape. */
int al_write_maybe_pause(al_stream *self);
int al_write_maybe_resume(al_stream *self);

#endif
