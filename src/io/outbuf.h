/* outbuf.h: what a stream still has to send.
 *
 * A queue of pieces, each a reference to a bytes object and the part of it that is left.
 * The first piece is stored in the stream itself, so that a connection with one write
 * under way allocates nothing. */
#ifndef AL_IO_OUTBUF_H
#define AL_IO_OUTBUF_H

#include "base/py.h"

#include <sys/uio.h>

typedef struct {
    PyObject *owner; /* owned, an exact bytes: releasing it runs no foreign code */
    const char *data;
    size_t size; /* never 0 */
} al_piece;

typedef struct {
    al_piece *pieces; /* &one, or allocated */
    uint32_t first, count, capacity;
    size_t size; /* bytes in all pieces */
    al_piece one;
} al_outbuf;

void al_outbuf_init(al_outbuf *out);
/* Appends size > 0 bytes that lie in `owner`, which is retained.  0 or -1. */
int al_outbuf_add(al_outbuf *out, PyObject *owner, const char *data, size_t size);
/* Appends a copy.  0 or -1. */
int al_outbuf_add_copy(al_outbuf *out, const char *data, size_t size);
/* Fills at most `most` vectors from the front; their number. */
int al_outbuf_vectors(const al_outbuf *out, struct iovec *vectors, int most);
/* Copies all of it, `size` bytes. */
void al_outbuf_copy(const al_outbuf *out, char *to);
/* Drops n bytes from the front. */
void al_outbuf_drop(al_outbuf *out, size_t n);
/* Drops everything. */
void al_outbuf_clear(al_outbuf *out);

#endif
