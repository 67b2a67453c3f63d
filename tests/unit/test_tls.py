"""TLS where it does better than asyncio (aioloop/_tls.py, src/io/tls)."""

import asyncio
import contextvars
import gc
import socket
import ssl

import pytest

from tests.conftest import HARD, anonymous_context

LIMIT = 20
VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


def server_context():
    return anonymous_context(ssl.PROTOCOL_TLS_SERVER)


def client_context():
    return anonymous_context(ssl.PROTOCOL_TLS_CLIENT)


class Recorder(asyncio.Protocol):
    def __init__(self):
        self.events = []
        self.received = b""
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.events.append("made")
        self.transport = transport

    def data_received(self, data):
        self.received += data

    def eof_received(self):
        self.events.append("eof")

    def connection_lost(self, exc):
        self.events.append("lost")
        self.lost.set_result(exc)


class Filled(Recorder, asyncio.BufferedProtocol):
    """Gives a bytearray, which it shortens and lengthens between two calls."""

    size = 65_536

    def get_buffer(self, sizehint):
        self.buffer = bytearray(self.size)
        return self.buffer

    def buffer_updated(self, count):
        self.buffer.append(0)
        del self.buffer[count:]
        self.received += self.buffer


class FilledBySome(Filled):
    """The buffer is smaller than a record."""

    size = 700


class FilledOnceInAWhile(Filled):
    """Pauses, so that the loop reads what waits when it resumes."""

    def buffer_updated(self, count):
        super().buffer_updated(count)
        self.transport.pause_reading()
        asyncio.get_running_loop().call_soon(self.transport.resume_reading)


class Words(Filled):
    """Gives a memoryview of larger items."""

    def get_buffer(self, sizehint):
        self.buffer = bytearray(self.size)
        return memoryview(self.buffer).cast("I")

    def buffer_updated(self, count):
        self.received += self.buffer[:count]


class Peer:
    """The other end: TLS by hand, so that it is known what leaves together."""

    def __init__(self, sock, server_side=True):
        sock.setblocking(False)
        self.sock = sock
        self.loop = asyncio.get_running_loop()
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = server_context() if server_side else client_context()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side)

    async def flush(self):
        await self.loop.sock_sendall(self.sock, self.outgoing.read())

    async def handshake(self):
        """Shake hands; the last message stays to be flushed."""
        while True:
            try:
                self.tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                await self.flush()
                self.incoming.write(await self.loop.sock_recv(self.sock, 100_000))

    def write(self, *records):
        for record in records:
            assert self.tls.write(record) == len(record)


RECORDS = [bytes([letter]) * 1000 for letter in b"abcdefgh"]


@pytest.mark.parametrize("factory", [Filled, FilledBySome, FilledOnceInAWhile, Words])
@pytest.mark.parametrize("when", ["behind the handshake", "later"])
def test_records_into_a_buffer(run, loop, factory, when):
    async def main():
        ours, theirs = socket.socketpair()
        peer = Peer(theirs)
        opening = asyncio.create_task(
            loop.create_connection(
                factory, sock=ours, ssl=client_context(), server_hostname=""
            )
        )
        await peer.handshake()
        if when == "later":
            await peer.flush()
            _, protocol = await opening
        peer.write(*RECORDS)
        await peer.flush()
        _, protocol = await opening
        while len(protocol.received) < 8000:
            await asyncio.sleep(0.001)
        peer.write(*RECORDS[::-1])
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.unwrap()
        await peer.flush()
        assert await protocol.lost is None
        assert protocol.received == b"".join(RECORDS + RECORDS[::-1])
        assert protocol.events == ["made", "eof", "lost"]
        theirs.close()

    run(main())


def test_records_into_a_buffer_above_tls_in_tls(run, loop):
    async def serve(reader, writer):
        await writer.start_tls(server_context())
        for record in RECORDS:
            writer.write(record)
        writer.close()
        await writer.wait_closed()
        served.set_result(None)

    async def main():
        nonlocal served
        served = loop.create_future()
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context())
        transport, _ = await loop.create_connection(
            asyncio.Protocol,
            *server.sockets[0].getsockname(),
            ssl=client_context(),
        )
        protocol = Filled()
        protocol.transport = await loop.start_tls(transport, protocol, client_context())
        await protocol.lost
        assert protocol.received == b"".join(RECORDS)
        await served
        server.close()

    served = None
    run(main())


@pytest.mark.parametrize("kind", ["list", "bytes", "odd memoryview", "error"])
def test_what_is_no_buffer(run, loop, kind):
    class Odd(Filled):
        def get_buffer(self, sizehint):
            if kind == "error":
                raise ValueError
            if kind == "odd memoryview":
                return memoryview(bytearray(100))[::2]
            return [1] if kind == "list" else b"1"

    async def main():
        reports = []
        loop.set_exception_handler(lambda loop, context: reports.append(context))
        ours, theirs = socket.socketpair()
        peer = Peer(theirs)
        opening = asyncio.create_task(
            loop.create_connection(
                Odd, sock=ours, ssl=client_context(), server_hostname=""
            )
        )
        await peer.handshake()
        await peer.flush()
        _, protocol = await opening  # It has looked for data behind the handshake.
        exc = await protocol.lost
        assert isinstance(exc, (TypeError, BufferError, ValueError))
        assert [context["exception"] for context in reports] == [exc]
        assert reports[0]["message"] == "Fatal error on SSL protocol"
        theirs.close()

    run(main())


# --- start_tls ------------------------------------------------------------------------


def abort(transport, task, peer):
    transport.abort()
    return ConnectionAbortedError


def cancel(transport, task, peer):
    task.cancel()
    return asyncio.CancelledError


def garbage(transport, task, peer):
    peer.send(b"this is no TLS at all, is it?" * 10)
    return ssl.SSLError


def eof(transport, task, peer):
    peer.shutdown(socket.SHUT_WR)
    return ConnectionResetError


def reset(transport, task, peer):
    peer.close()
    return ConnectionError  # BrokenPipeError where the hard build is still sending


def no_answer(transport, task, peer):
    return ConnectionAbortedError


@pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])
@pytest.mark.parametrize("other", [False, True], ids=["same", "other"])
@pytest.mark.parametrize("end", [abort, cancel, garbage, eof, reset, no_answer])
def test_start_tls_that_comes_to_nothing(run, loop, end, other, server_side):
    async def main():
        reports = []
        loop.set_exception_handler(lambda loop, context: reports.append(context))
        ours, peer = socket.socketpair()
        peer.setblocking(False)
        transport, protocol = await loop.create_connection(Recorder, sock=ours)
        after = Recorder() if other else protocol
        task = asyncio.create_task(
            loop.start_tls(
                transport,
                after,
                server_context() if server_side else client_context(),
                server_side=server_side,
                ssl_handshake_timeout=0.05 if end is no_answer else LIMIT,
            )
        )
        if not server_side:
            await loop.sock_recv(peer, 10_000)  # The handshake has begun.
        else:
            while not isinstance(
                transport.get_protocol(), asyncio.sslproto.SSLProtocol
            ):
                await asyncio.sleep(0)
            await asyncio.sleep(0)
        with pytest.raises(end(transport, task, peer)):
            await task
        exc = await after.lost
        if end in (abort, cancel):
            assert exc is None
        assert ours.fileno() == -1
        assert after.events == (["lost"] if other else ["made", "lost"])
        assert not reports
        peer.close()

    run(main())
    gc.collect()


def test_streams_whose_start_tls_comes_to_nothing(run):
    async def main():
        ours, peer = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        task = asyncio.create_task(writer.start_tls(client_context()))
        peer.setblocking(False)
        await asyncio.get_running_loop().sock_recv(peer, 10_000)
        writer.transport.abort()
        with pytest.raises(ConnectionAbortedError):
            await task
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        peer.close()

    run(main())


@pytest.mark.parametrize("before", [0, 2000], ids=["empty", "paused"])
def test_a_reader_is_full_when_start_tls_returns(run, before):
    """It pauses and resumes the same transport, and holds no more than its limit."""

    async def main():
        ours, theirs = socket.socketpair()
        peer = Peer(theirs)
        reader, writer = await asyncio.open_connection(sock=ours, limit=500)
        await peer.loop.sock_sendall(theirs, b"-" * before)
        while len(reader._buffer) < before and not reader._paused:
            await asyncio.sleep(0.001)
        buffered = len(reader._buffer)
        task = asyncio.create_task(writer.start_tls(client_context()))
        await peer.handshake()
        peer.write(*RECORDS)
        await peer.flush()
        await task
        if before and not HARD:
            assert buffered == before
            assert len(reader._buffer) == before
        sending = asyncio.create_task(send_more(peer))
        data = await reader.readexactly(before + 8000 + 20 * 8000)
        assert data == b"-" * before + b"".join(RECORDS) * 21
        await sending
        writer.transport.abort()
        theirs.close()

    async def send_more(peer):
        for _ in range(20):
            peer.write(*RECORDS)
            await peer.flush()

    run(main())


# --- the end, and contexts ------------------------------------------------------------


@pytest.mark.skipif(HARD, reason="it sends byte by byte")
def test_close_sends_at_once(run, loop):
    """Also beside another callback, with which a write would wait."""

    async def main():
        peer, *sockets = socket.socketpair()
        peer = Peer(peer)
        opening = asyncio.create_task(
            loop.create_connection(
                Recorder, sock=sockets.pop(), ssl=client_context(), server_hostname=""
            )
        )
        await peer.handshake()
        await peer.flush()
        transport, protocol = await opening
        loop.call_soon(int)
        transport.write(b"last words")
        transport.close()
        peer.incoming.write(peer.sock.recv(10_000))
        assert peer.tls.read(100) == b"last words"
        assert peer.tls.read(100) == b""
        peer.sock.close()
        await protocol.lost

    run(main())


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_resume_reading_does_not_change_the_context(run, loop, tls):
    """asyncio calls data_received() in the context of whoever resumed, up to 3.14."""

    class Server(Recorder):
        def data_received(self, data):
            self.events.append(VARIABLE.get())
            super().data_received(data)
            self.transport.pause_reading()
            asyncio.get_running_loop().create_task(self.handle())

        async def handle(self):
            VARIABLE.set("task")
            if len(self.received) == 1 and tls:
                # More has come: it is read from what OpenSSL holds.
                ssl_protocol = self.transport._ssl_protocol
                while ssl_protocol._incoming.pending < 10:
                    await asyncio.sleep(0.001)
            self.transport.resume_reading()

    async def main():
        VARIABLE.set("connection")
        ours, theirs = socket.socketpair()
        peer = Peer(theirs)
        opening = asyncio.create_task(
            loop.create_connection(
                Server,
                sock=ours,
                ssl=client_context() if tls else None,
                server_hostname="" if tls else None,
            )
        )
        if tls:
            await peer.handshake()
        await peer.flush()
        _, protocol = await opening
        for count in 1, 2, 3:
            if tls:
                peer.write(b"x")
                await peer.flush()
            else:
                await loop.sock_sendall(theirs, b"x")
            while len(protocol.received) < count:
                await asyncio.sleep(0.001)
        assert protocol.events == ["made"] + ["connection"] * 3
        protocol.transport.abort()
        await protocol.lost
        theirs.close()

    run(main())
