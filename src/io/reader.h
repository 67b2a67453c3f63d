/* reader.h: asyncio.StreamReader fed from C, and its read methods in C.
 *
 * A reader of exactly asyncio's class, behind a StreamReaderProtocol of exactly asyncio's
 * class, on a transport of ours is adopted: its __class__ becomes a subclass of the same
 * name whose read, readline, readuntil, readexactly and exception are in C.  What the
 * first four return are lazy awaitables (task/lazy.h).  A read() that waits is given
 * what arrives past the buffer; should anything else come between before its task runs
 * (more data, the end, cancellation), that goes into the buffer after all.  The state stays where asyncio
 * has it, in the instance's attributes: whoever looks there, feeds a reader by hand or
 * calls asyncio's functions unbound sees no difference.
 *
 * asyncio's own functions run for arguments that are odd in any way and once anybody has
 * replaced a method that they would call.  (The protocol stays as it is:
 * a class of our own for it makes each look-up of its attributes dearer than the
 * coroutine that a _drain_helper in C would save.) */
#ifndef AL_IO_READER_H
#define AL_IO_READER_H

#include "io/stream.h"

/* Makes the types.  0 or -1. */
int al_reader_init_types(PyObject *module, al_state *st);
void al_reader_clear_free_list(al_state *st);

/* A stream of the loop is about to serve this protocol of asyncio's class, over TLS or
 * not: adopts its reader if it can be.  Leaves no exception.  Escapes. */
void al_reader_adopt(al_loop *loop, PyObject *protocol);

/* The StreamReader behind such a protocol, if it is an ordinary one that can take data,
 * and its waiter: new references; or NULL without exception. */
PyObject *al_reader_find(al_state *st, PyObject *protocol, PyObject **waiter);
/* Mirrors StreamReader.feed_data of what al_reader_find gave.  0 or -1.  Escapes. */
int al_reader_feed(al_stream *stream, PyObject *reader, PyObject *waiter,
                   const char *data, Py_ssize_t size);

/* How many bytes a read() would take that waits for this stream's data; 0 if none does.
 * That many or fewer may be given to it past the reader's buffer. */
size_t al_reader_wants(const al_stream *stream, PyObject *reader, PyObject *waiter);
/* Gives it a bytes object; steals that, which may be NULL with an exception.  0 or -1.
 * Escapes. */
int al_reader_hand_steal(al_stream *stream, PyObject *data);

#endif
