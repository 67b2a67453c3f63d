"""The classes by which programs know uvloop's objects: here aioloop's and asyncio's."""

from __future__ import annotations

from asyncio import (
    DatagramTransport,
    ReadTransport,
    Server,
    SubprocessTransport,
    WriteTransport,
    sslproto,
    trsock,
)

from aioloop import Handle, Loop, TimerHandle, _core

TCPTransport = UnixTransport = _core.SocketTransport
UDPTransport = DatagramTransport
ReadUnixTransport = ReadTransport
WriteUnixTransport = WriteTransport
UVProcessTransport = SubprocessTransport
SSLProtocol = sslproto.SSLProtocol
PseudoSocket = trsock.TransportSocket

__all__ = [
    "Handle",
    "Loop",
    "PseudoSocket",
    "ReadUnixTransport",
    "SSLProtocol",
    "Server",
    "TCPTransport",
    "TimerHandle",
    "UDPTransport",
    "UVProcessTransport",
    "UnixTransport",
    "WriteUnixTransport",
]
