"""Streams, servers, datagrams, pipes, processes, sock_*: nothing is left behind."""

import asyncio
import logging
import os
import signal
import socket
import ssl
import sys

import pytest

from tests.conftest import anonymous_context


class Protocol(asyncio.Protocol):
    """Remembers its end; sends the first data back if it is to echo."""

    def __init__(self, loop, echo=False):
        self.lost = loop.create_future()
        self.got = loop.create_future()
        self.echo = echo

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if self.echo:
            self.transport.write(data)
        if not self.got.done():
            self.got.set_result(None)

    def connection_lost(self, exc):
        self.lost.set_result(None)


class BufferedProtocol(asyncio.BufferedProtocol):
    def __init__(self, loop):
        self.lost = loop.create_future()
        self.got = loop.create_future()
        self.buffer = bytearray(100)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        if not self.got.done():
            self.got.set_result(None)

    def connection_lost(self, exc):
        self.lost.set_result(None)


class DatagramProtocol(asyncio.DatagramProtocol):
    def __init__(self, loop):
        self.lost = loop.create_future()
        self.got = loop.create_future()

    def datagram_received(self, data, address):
        self.got.set_result(address)

    def connection_lost(self, exc):
        self.lost.set_result(None)


def pair():
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    return ends


@pytest.fixture
def repeat(loop, no_leak):
    """Return a function that runs a coroutine function again and again."""

    def repeat(main, rounds=100):
        no_leak(lambda: loop.run_until_complete(main()), rounds=rounds)

    return repeat


@pytest.mark.parametrize("make", [Protocol, BufferedProtocol])
def test_stream_transports(loop, repeat, make):
    async def main():
        ours, theirs = pair()
        one, first = await loop.create_connection(lambda: Protocol(loop), sock=ours)
        two, second = await loop.create_connection(lambda: make(loop), sock=theirs)
        one.write(b"bytes")
        one.writelines([bytearray(b"more"), memoryview(b"of it")])
        await second.got
        two.pause_reading()
        two.write(bytes(50))
        await first.got
        one.get_extra_info("peername")
        repr(one)
        one.set_write_buffer_limits(100, 10)
        one.write(bytes(1_000_000))  # more than the kernel takes
        one.abort()
        two.close()
        await first.lost
        await second.lost

    repeat(main)


def test_stream_ends(loop, repeat):
    """The end of what is sent, and changing the protocol."""

    async def main():
        ours, theirs = pair()
        one, first = await loop.create_connection(lambda: Protocol(loop), sock=ours)
        two, second = await loop.create_connection(lambda: Protocol(loop), sock=theirs)
        other = Protocol(loop, echo=True)
        other.connection_made(two)
        two.set_protocol(other)
        one.write(b"bytes")
        await first.got
        one.write_eof()
        await other.lost
        await first.lost
        one.close()
        two.close()

    repeat(main)


def test_stream_readers(loop, repeat):
    async def main():
        ours, theirs = pair()
        reader, writer = await asyncio.open_connection(sock=ours)
        other_reader, other_writer = await asyncio.open_connection(sock=theirs)
        waiting = asyncio.create_task(other_reader.readline())
        await asyncio.sleep(0)
        writer.write(b"a line\n")
        await writer.drain()
        assert await waiting == b"a line\n"
        writer.writelines([b"0123456789", b"rest"])
        assert await other_reader.readexactly(10) == b"0123456789"
        writer.close()
        assert await other_reader.read() == b"rest"
        with pytest.raises(asyncio.IncompleteReadError):
            await other_reader.readexactly(1)
        other_writer.close()
        await writer.wait_closed()
        await other_writer.wait_closed()

    repeat(main)


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_servers(loop, repeat, family, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # A path of a Unix socket is short.

    async def main():
        served = []

        def make():
            served.append(Protocol(loop, echo=True))
            return served[-1]

        if family == "tcp":
            server = await loop.create_server(make, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            connecting = loop.create_connection(lambda: Protocol(loop), *address)
        else:
            server = await loop.create_unix_server(make, "place")
            connecting = loop.create_unix_connection(lambda: Protocol(loop), "place")
        transport, client = await connecting
        transport.write(b"hello")
        await client.got
        transport.close()
        await client.lost
        await served[0].lost
        server.close()
        await server.wait_closed()
        if os.path.exists("place"):
            os.unlink("place")

    repeat(main)


def test_refused_connections(loop, repeat, monkeypatch):
    # 3.13 logs an address that cannot be bound, and pytest keeps what is logged.
    monkeypatch.setattr(logging.getLogger("asyncio"), "disabled", True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()

    async def main():
        with pytest.raises(OSError):
            await loop.create_connection(lambda: Protocol(loop), *address)
        with pytest.raises(OSError):
            await loop.create_unix_connection(lambda: Protocol(loop), "/nowhere")
        with pytest.raises(OSError):
            await loop.create_server(lambda: Protocol(loop), "192.0.2.1", 1)

    repeat(main)


def test_datagrams(loop, repeat):
    async def main():
        one, first = await loop.create_datagram_endpoint(
            lambda: DatagramProtocol(loop), ("127.0.0.1", 0)
        )
        two, second = await loop.create_datagram_endpoint(
            lambda: DatagramProtocol(loop),
            remote_addr=one.get_extra_info("sockname"),
        )
        two.sendto(b"there")
        one.sendto(b"and back", await first.got)
        await second.got
        with pytest.raises((TypeError, ValueError)):
            two.sendto("text")
        one.close()
        two.abort()
        await first.lost
        await second.lost

    repeat(main)


def test_pipes(loop, repeat):
    async def main():
        reading, writing = (
            os.fdopen(fd, mode, 0)
            for fd, mode in zip(os.pipe(), ("rb", "wb"), strict=True)
        )
        source, reader = await loop.connect_read_pipe(lambda: Protocol(loop), reading)
        target, writer = await loop.connect_write_pipe(lambda: Protocol(loop), writing)
        target.write(b"bytes")
        await reader.got
        source.pause_reading()
        target.write(bytes(200_000))  # more than a pipe holds
        source.resume_reading()
        target.write_eof()
        await reader.lost
        await writer.lost

    repeat(main)


def test_processes(loop, repeat):
    async def main():
        process = await asyncio.create_subprocess_exec(
            "/bin/cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate(b"through the cat")
        assert output == b"through the cat"
        with pytest.raises(FileNotFoundError):
            await asyncio.create_subprocess_exec("/nowhere")
        await asyncio.sleep(0)

    # Caches of CPython's fill slowly here: they grow for hundreds of rounds.
    repeat(main, rounds=250)


def test_sock_calls(loop, repeat):
    buffer = bytearray(10)

    async def main():
        ours, theirs = pair()
        waiting = asyncio.create_task(loop.sock_recv(theirs, 100))
        await asyncio.sleep(0)
        await loop.sock_sendall(ours, b"x")
        assert await waiting == b"x"
        await loop.sock_sendall(ours, b"x")
        assert await loop.sock_recv_into(theirs, buffer) == 1
        cancelled = asyncio.create_task(loop.sock_recv(theirs, 100))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        loop.sock_recv(theirs, 100).close()  # never awaited
        ours.close()
        assert await loop.sock_recv(theirs, 100) == b""
        with pytest.raises(OSError):
            await loop.sock_recv(ours, 100)
        theirs.close()

    repeat(main)


def test_sock_connections_and_datagrams(loop, repeat):
    buffer = bytearray(10)

    async def main():
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.socket() as client,
            socket.socket(type=socket.SOCK_DGRAM) as sender,
            socket.socket(type=socket.SOCK_DGRAM) as receiver,
        ):
            receiver.bind(("127.0.0.1", 0))
            for sock in (listener, client, sender, receiver):
                sock.setblocking(False)
            accepting = asyncio.create_task(loop.sock_accept(listener))
            await loop.sock_connect(client, listener.getsockname())
            accepted, _ = await accepting
            accepted.close()
            to = receiver.getsockname()
            await loop.sock_sendto(sender, b"one", to)
            assert (await loop.sock_recvfrom(receiver, 100))[0] == b"one"
            await loop.sock_sendto(sender, b"two", to)
            assert (await loop.sock_recvfrom_into(receiver, buffer))[0] == 3

    repeat(main)


def test_sendfile(loop, repeat, tmp_path):
    (tmp_path / "file").write_bytes(b"some bytes")

    async def main():
        ours, theirs = pair()
        with open(tmp_path / "file", "rb") as file:
            assert await loop.sock_sendfile(ours, file) == 10
        ours.close()
        theirs.close()

    repeat(main)


def test_signals(loop, repeat):
    async def main():
        came = loop.create_future()
        loop.add_signal_handler(signal.SIGUSR1, came.set_result, None)
        os.kill(os.getpid(), signal.SIGUSR1)
        await came
        loop.remove_signal_handler(signal.SIGUSR1)

    repeat(main)


def test_executors_and_names(loop, repeat):
    async def main():
        assert await loop.run_in_executor(None, max, 1, 2) == 2
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, divmod, 1, 0)
        assert await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
        assert await loop.getaddrinfo("::1", "443", flags=socket.AI_NUMERICHOST)
        with pytest.raises(socket.gaierror):
            await loop.getaddrinfo("no number", 1, flags=socket.AI_NUMERICHOST)
        await loop.getnameinfo(
            ("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        )

    repeat(main)


def test_tls(loop, repeat):
    """With an anonymous cipher, which needs no certificate."""
    client_context = anonymous_context(ssl.PROTOCOL_TLS_CLIENT)
    server_context = anonymous_context(ssl.PROTOCOL_TLS_SERVER)

    async def main():
        served = []

        def make():
            served.append(Protocol(loop, echo=True))
            return served[-1]

        server = await loop.create_server(make, "127.0.0.1", 0, ssl=server_context)
        transport, client = await loop.create_connection(
            lambda: Protocol(loop),
            *server.sockets[0].getsockname(),
            ssl=client_context,
            server_hostname="",
        )
        transport.write(b"hello")
        await client.got
        transport.close()
        await client.lost
        await served[0].lost
        server.close()
        await server.wait_closed()

    repeat(main, rounds=150)  # Each is a new address, and 256 are remembered.


def test_references_to_shared_objects(loop):
    """Counts on what every connection touches stay the same."""
    shared = [loop, None, Protocol, b"", type(loop)]

    async def main():
        ours, theirs = pair()
        one, first = await loop.create_connection(lambda: Protocol(loop), sock=ours)
        await loop.sock_sendall(theirs, b"x")
        await first.got
        theirs.close()
        await first.lost

    def counts():
        return [sys.getrefcount(obj) for obj in shared]

    for _ in range(100):
        loop.run_until_complete(main())
    before = counts()
    for _ in range(300):
        loop.run_until_complete(main())
    for one, other in zip(before, counts(), strict=True):
        assert abs(one - other) < 50
