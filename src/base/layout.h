/* layout.h: what is known of the insides of Python and asyncio, and what of it does not
 * hold in the Python that runs.
 *
 * Some fast paths rest on structs and attributes that no header gives: the words of
 * _asyncio.Future, the slots of asyncio.Handle, the interpreter's frames.  The room of each
 * compares what it believes with the running Python when the module is imported: sizes of
 * types, offsets that types publish, what a getter gives with what is in the word, never
 * memory outside of an object.  (Attributes of Python instances: aioloop/_layouts.py.)
 * What does not hold is off: that room stays out of the way, asyncio's own code runs in its
 * place, slower and right, and all others stay.
 *
 * The package warns once when something is off, and `python -m aioloop -V` lists it.
 *
 * In a build with AL_LIES (the sanitizers', the hard one, one of its own) the variable
 * AIOLOOP_LIES names layouts of which a comparison is told something false, so that each of
 * them can be off where all of them hold: "future", "future1" for the second comparison of
 * that room, and so on, with commas between. */
#ifndef AL_BASE_LAYOUT_H
#define AL_BASE_LAYOUT_H

#include "base/state.h"

/* X(name, what the variable calls it, what users read). */
#define AL_LAYOUTS(X)                                                                  \
    X(FUTURE, "future", "asyncio.Future")                                              \
    X(TASK, "task", "asyncio.Task")                                                    \
    X(CURRENT_TASK, "current_task", "asyncio.current_task()")                          \
    X(HANDLE, "handle", "asyncio.Handle")                                              \
    X(TRANSPORT, "transport", "asyncio.Transport")                                     \
    X(TRANSPORT_SOCKET, "transport_socket", "get_extra_info('socket')")                \
    X(STREAM_READER, "stream_reader", "asyncio.StreamReader")                          \
    X(SSL_PROTOCOL, "ssl_protocol", "asyncio.sslproto.SSLProtocol")                    \
    X(PRIMITIVES, "primitives", "accelerate()")                                        \
    X(SOCKET, "socket", "socket.socket")                                               \
    X(FRAMES, "frames", "interpreter frames")

typedef enum {
#define X(name, key, text) AL_LAYOUT_##name,
    AL_LAYOUTS(X)
#undef X
        AL_LAYOUT_NONE,
} al_layout;

static inline bool
al_layout_is_off(const al_state *st, al_layout which)
{
    return (st->layouts_off >> which & 1) != 0;
}

/* The layout is not as it is believed to be. */
static inline void
al_layout_turn_off(al_state *st, al_layout which)
{
    st->layouts_off |= 1U << which;
}

/* What a comparison is to be misled by: 1, or 0, which it always is outside of the build
 * that lies.  `comparison` counts those of one layout from 0. */
#ifdef AL_LIES
int al_layout_lie(al_layout which, int comparison);
#else
static inline int
al_layout_lie(al_layout Py_UNUSED(which), int Py_UNUSED(comparison))
{
    return 0;
}
#endif

/* Whether each slot of the class and of its bases is out of sight in a subclass of ours,
 * which keeps other things in those words: it has the name too, or `but` is its name. */
bool al_layout_slots_are_hidden(const PyTypeObject *base, const PyTypeObject *ours,
                                const char *but);

extern PyMethodDef al_layout_methods[]; /* of the module, not public */

#endif
