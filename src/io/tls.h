/* tls.h: the hot paths of asyncio's TLS in C.
 *
 * asyncio.sslproto.SSLProtocol stays the protocol of an encrypted stream, with its state
 * where asyncio has it: handshake, shutdown, errors and everything rare are its own
 * methods.  In C are what runs for each message: what came is given to the BIO, what can
 * be decrypted is read and handed on; and write() of the transport that the program has,
 * whose __class__ becomes a subclass of the same name.
 *
 * What is wrong in asyncio's class is put right by a subclass of the same name, which
 * becomes the protocol's __class__: aioloop/_tls.py.
 *
 * The 256 KB that each SSLProtocol holds to receive into are given back: the loop's own
 * receive memory takes their place.
 *
 * Only an SSLProtocol of exactly asyncio's class is served so, while nobody has replaced
 * a method that C stands in for. */
#ifndef AL_IO_TLS_H
#define AL_IO_TLS_H

#include "io/stream.h"

/* Makes the type; without the ssl module nothing is ever served.  0 or -1. */
int al_tls_init_type(PyObject *module, al_state *st);

/* Whether the protocol is one that al_tls_readable can serve. */
bool al_tls_serves(al_state *st, PyObject *protocol);

/* A stream of ours, `below`, is about to carry it.  Leaves no exception.  Escapes. */
void al_tls_adopt(al_state *st, PyObject *protocol, PyObject *below);

/* The `readable` of its sink.  Result as al_run_fn.  Escapes. */
int al_tls_readable(al_stream *stream);

#endif
