/* What a stream has still to send against one long string. */
#include "white.h"

#include "io/outbuf.c"

enum { MOST = 1 << 20, VECTORS = 64 };

static char model[MOST];
static size_t length;

static void
compare(const al_outbuf *out)
{
    static char copy[MOST];
    struct iovec vectors[VECTORS];
    CHECK(out->size == length);
    al_outbuf_copy(out, copy);
    CHECK(memcmp(copy, model, length) == 0);
    int count = al_outbuf_vectors(out, vectors, VECTORS);
    size_t seen = 0;
    CHECK(count <= VECTORS && (count > 0) == (length > 0));
    for (int i = 0; i < count; i++) {
        CHECK(vectors[i].iov_len > 0);
        CHECK(memcmp(vectors[i].iov_base, model + seen, vectors[i].iov_len) == 0);
        seen += vectors[i].iov_len;
    }
    CHECK(count == VECTORS || seen == length);
}

static void
add(al_outbuf *out, white_input *input)
{
    static unsigned char next;
    size_t size = 1 + white_below(input, white_below(input, 8) == 0 ? 3000 : 50);
    PyObject *owner = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    CHECK(owner != NULL);
    memset(PyBytes_AS_STRING(owner), next++, size);
    size_t skip = white_below(input, size);
    const char *data = PyBytes_AS_STRING(owner) + skip;
    size -= skip;
    if (length + size <= MOST) {
        int status = white_below(input, 2) ? al_outbuf_add(out, owner, data, size)
                                           : al_outbuf_add_copy(out, data, size);
        CHECK(status == 0);
        memcpy(model + length, data, size);
        length += size;
    }
    Py_DECREF(owner);
}

static void
one(white_input *input)
{
    al_outbuf out;
    al_outbuf_init(&out);
    length = 0;
    while (white_more(input)) {
        size_t what = white_below(input, 16);
        if (what == 0) {
            al_outbuf_clear(&out);
            length = 0;
        }
        else if (what < 7) {
            size_t n = white_below(input, length + 1 < 65536 ? length + 1 : 65536);
            al_outbuf_drop(&out, n);
            length -= n;
            memmove(model, model + n, length);
        }
        else {
            add(&out, input);
        }
        compare(&out);
    }
    al_outbuf_clear(&out);
    CHECK(out.size == 0 && out.count == 0);
}
