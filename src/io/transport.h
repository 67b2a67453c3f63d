/* transport.h: what the transports of streams, datagrams and pipes do alike: begin, be
 * asked for an event by hand, and end; and what those of datagrams and of pipes have in
 * common (that of streams has the layout of another class of asyncio). */
#ifndef AL_IO_TRANSPORT_H
#define AL_IO_TRANSPORT_H

#include "base/layout.h"
#include "io/flow.h"

/* What the structs of datagram and pipe transports begin with. */
typedef struct {
    PyObject_HEAD
    PyObject *extra; /* BaseTransport's slot _extra */
    al_loop *loop;   /* NULL after connection_lost, like the next one */
    PyObject *protocol;
    PyObject *context; /* NULL: empty; see core/context.h */
    PyObject *weakrefs, *dict;
    al_flow flow;
    int fd, conn_lost;
    bool started; /* connection_made has been called */
    bool closing, paused;
} al_transport;

/* protocol.connection_made(transport) in the next iteration, and behind it the slot
 * {start, transport, waiter}; waiter may be None or NULL.  0 or -1.  Escapes. */
int al_transport_begin(al_loop *loop, PyObject *transport, PyObject *protocol,
                       PyObject *waiter, al_run_fn start);
/* The transport works: whoever waits for it is told; waiter may be NULL.  0 or -1.
 * Escapes. */
int al_transport_tell(al_loop *loop, PyObject *waiter);

/* The methods that asyncio's loop calls when the descriptor is ready, and that debug mode
 * names: the slot runs in the next iteration.  loop may be NULL.  None, or NULL. */
PyObject *al_transport_soon(al_loop *loop, PyObject *transport, al_run_fn run);

/* A method that ends a transport may be called wherever the garbage collector runs: in
 * another thread than the loop's it is called there instead, in the next iteration. */
PyObject *al_transport_end_soon(al_loop *loop, PyObject *transport, const char *method);
#define AL_END_SOON(loop, transport, method)                                           \
    AL_HOLD(own, loop);                                                                \
    if (AL_UNLIKELY(own.foreign)) {                                                    \
        return al_transport_end_soon(loop, (PyObject *)(transport), method);           \
    }

/* It is being made by whoever calls: debug mode remembers where.  0 or -1. */
int al_transport_made(al_loop *loop, PyObject *transport);
/* The number is about to be its transport's: if it is that of another one, which does not
 * know, that one's descriptor was closed under it, which is counted.  0 or -1.  Escapes. */
int al_transport_takes_number(al_loop *loop, int fd);

/* For a tp_finalize: the transport was not closed; loop may be NULL.  The first counts
 * it, the second warns, too.  They leave no exception.  Escape. */
void al_transport_count_unclosed(al_loop *loop, PyObject *transport);
void al_transport_warn_unclosed(al_loop *loop, PyObject *transport);
/* The last reference to a transport may go where the loop does not run: then `finalize`, a
 * tp_finalize, is called in the loop, which has the transport until then.  False: it is to
 * be called here. */
bool al_transport_finalize_soon(al_loop *loop, PyObject *transport, al_run_fn finalize);
/* A tp_dealloc, by the type's tp_finalize and tp_clear. */
void al_transport_dealloc(PyObject *transport);

/* The words of al_transport, for a tp_traverse and a tp_clear. */
int al_transport_traverse(al_transport *self, visitproc visit, void *arg);
void al_transport_clear(al_transport *self);

/* set_write_buffer_limits(...) of a transport with `size` bytes to send.  None, or NULL.
 * Escapes. */
PyObject *al_transport_set_limits(al_transport *self, size_t size,
                                  PyObject *const *args, Py_ssize_t nargs,
                                  PyObject *kwnames);

extern const char al_transport_is_closing_doc[], al_transport_set_protocol_doc[],
    al_transport_get_protocol_doc[], al_transport_limits_doc[],
    al_transport_set_limits_doc[];
PyObject *al_transport_is_closing(al_transport *self, PyObject *ignored);
PyObject *al_transport_set_protocol(al_transport *self, PyObject *const *args,
                                    Py_ssize_t nargs, PyObject *kwnames);
PyObject *al_transport_get_protocol(al_transport *self, PyObject *ignored);
PyObject *al_transport_get_limits(al_transport *self, PyObject *ignored);

/* Entries of a PyMethodDef: for each transport, and for those that write. */
#define AL_TRANSPORT_METHODS                                                           \
    {"is_closing", (PyCFunction)al_transport_is_closing, METH_NOARGS,                  \
     al_transport_is_closing_doc},                                                     \
        {"set_protocol", (PyCFunction)(void (*)(void))al_transport_set_protocol,       \
         METH_FASTCALL | METH_KEYWORDS, al_transport_set_protocol_doc},                \
    {                                                                                  \
        "get_protocol", (PyCFunction)al_transport_get_protocol, METH_NOARGS,           \
            al_transport_get_protocol_doc                                              \
    }
#define AL_TRANSPORT_GET_LIMITS                                                        \
    {"get_write_buffer_limits", (PyCFunction)al_transport_get_limits, METH_NOARGS,     \
     al_transport_limits_doc}

/* Whether the class of asyncio's has the size that is expected of it; else that layout is
 * off, and asyncio's own transports are used. */
static inline bool
al_transport_fits(al_state *st, PyObject *base, size_t size)
{
    size_t given = (size_t)((PyTypeObject *)base)->tp_basicsize;
    bool fits = given == size + (size_t)al_layout_lie(AL_LAYOUT_TRANSPORT, 0);
    if (!fits) {
        al_layout_turn_off(st, AL_LAYOUT_TRANSPORT);
    }
    return fits;
}

/* Entries of a PyMemberDef. */
#define AL_TRANSPORT_MEMBERS                                                           \
    {"__weaklistoffset__", T_PYSSIZET, offsetof(al_transport, weakrefs), READONLY,     \
     NULL},                                                                            \
        {"__dictoffset__", T_PYSSIZET, offsetof(al_transport, dict), READONLY, NULL},  \
        {"_loop", T_OBJECT, offsetof(al_transport, loop), READONLY, NULL},             \
        {"_protocol", T_OBJECT, offsetof(al_transport, protocol), READONLY, NULL},     \
        {"_conn_lost", T_INT, offsetof(al_transport, conn_lost), READONLY, NULL},      \
        {"_closing", T_BOOL, offsetof(al_transport, closing), READONLY, NULL},         \
    {                                                                                  \
        "_paused", T_BOOL, offsetof(al_transport, paused), READONLY, NULL              \
    }

#endif
