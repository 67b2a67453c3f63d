"""What is wrong in asyncio's TLS, put right.

The C code (src/io/tls) gives an SSLProtocol of exactly asyncio's class this class, when
it is put on one of the loop's own transports.
"""

from __future__ import annotations

import contextvars
from asyncio import sslproto
from asyncio.streams import StreamReaderProtocol
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import BaseProtocol, BaseTransport

_HANDSHAKE = sslproto.SSLProtocolState.DO_HANDSHAKE
_UNWRAPPED = sslproto.SSLProtocolState.UNWRAPPED
_CONNECTED = sslproto.AppProtocolState.STATE_CON_MADE


class SSLProtocol(sslproto.SSLProtocol):
    """asyncio's class of the same name."""

    __module__ = sslproto.__name__

    _context: contextvars.Context

    def _adopted(self, below: BaseTransport) -> None:
        """Stand on the transport ``below``, which start_tls() took from a protocol."""
        self._context = contextvars.copy_context()
        protocol = self._app_protocol
        if isinstance(protocol, StreamReaderProtocol):
            reader = protocol._stream_reader
            if reader is not None and reader._transport is below:
                # asyncio replaces it when start_tls() has returned. The reader may
                # have paused the one by then, and would resume the other.
                reader._transport = self._app_transport
                if reader._paused:
                    self._pause_reading()

    def _set_app_protocol(self, app_protocol: BaseProtocol) -> None:
        super()._set_app_protocol(app_protocol)
        if type(app_protocol) is sslproto.SSLProtocol:  # TLS in TLS
            app_protocol.__class__ = SSLProtocol
            app_protocol._adopted(self._app_transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the protocol, and start_tls(), also during the handshake."""
        if self._state is _HANDSHAKE and self._app_state is _CONNECTED:
            self._set_state(_UNWRAPPED)
            if exc is None:
                self._wakeup_waiter(
                    ConnectionAbortedError(
                        "The connection was closed during the SSL handshake"
                    )
                )
        super().connection_lost(exc)

    def _start_shutdown(self) -> None:
        super()._start_shutdown()
        if self._transport is not None:
            # It is sent now, as by asyncio, and not with what other callbacks write.
            self._transport.get_write_buffer_size()

    def _resume_reading(self) -> None:
        # What has been received already comes in the connection's context too.
        self._context.run(super()._resume_reading)

    def _do_read__buffered(self) -> None:
        """Fill the protocol's buffer; a slice of a bytearray would be a copy."""
        offset = 0
        count = 1
        buffer = self._app_protocol_get_buffer(self._get_read_buffer_size())
        wants = len(buffer)
        try:
            count = self._sslobj.read(wants, buffer)
            offset += count
            if 0 < offset < wants:
                with memoryview(buffer) as view, view.cast("B") as octets:
                    while count > 0 and offset < wants:
                        count = self._sslobj.read(wants - offset, octets[offset:])
                        offset += count
            if 0 < offset == wants:
                self._loop.call_soon(self._do_read)
        except sslproto.SSLAgainErrors:
            pass
        if offset > 0:
            self._app_protocol_buffer_updated(offset)
        if not count:
            # close_notify
            self._call_eof_received()
            self._start_shutdown()
