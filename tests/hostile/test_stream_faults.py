"""Stream transports and servers when things go wrong: nothing lost, nothing leaked."""

import asyncio
import contextlib
import errno
import gc
import os
import resource
import socket
import ssl
import struct
import sys
import threading
import warnings
import weakref

import pytest

import aioloop
from tests.conftest import HARD, anonymous_context, needs_gil, open_descriptors

LIMIT = 30
single_calls = pytest.mark.skipif(
    HARD,
    reason="says what one system call sends; the hard build sends less",
)


class Acts:
    """Does ``acts[name](protocol)`` in the callback of that name."""

    def __init__(self, **acts):
        self.acts = acts
        self.received = bytearray()
        self.lost = asyncio.get_running_loop().create_future()
        self.calls = []

    def act(self, name):
        self.calls.append(name)
        act = self.acts.get(name)
        return act(self) if act is not None else None

    def connection_made(self, transport):
        self.transport = transport
        self.act("connection_made")

    def eof_received(self):
        return self.act("eof_received")

    def pause_writing(self):
        self.act("pause_writing")

    def resume_writing(self):
        self.act("resume_writing")

    def connection_lost(self, exc):
        self.lost.set_result(exc)
        self.act("connection_lost")


class Scripted(Acts, asyncio.Protocol):
    def data_received(self, data):
        self.received += data
        self.act("data_received")


class ScriptedBuffered(Acts, asyncio.BufferedProtocol):
    def get_buffer(self, sizehint):
        self.buffer = bytearray(100)
        self.act("get_buffer")
        return self.buffer

    def buffer_updated(self, count):
        self.received += self.buffer[:count]
        self.act("buffer_updated")


CALLBACKS = [
    pytest.param(kind, name, id=f"{kind.__name__}-{name}")
    for kind, reading in (
        (Scripted, ["data_received"]),
        (ScriptedBuffered, ["get_buffer", "buffer_updated"]),
    )
    for name in [
        "connection_made",
        *reading,
        "eof_received",
        "pause_writing",
        "resume_writing",
        "connection_lost",
    ]
]
KINDS = pytest.mark.parametrize("kind", [Scripted, ScriptedBuffered])


def small_pair():
    """Return two connected sockets, the first with a small send buffer."""
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    peer.setblocking(False)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return ours, peer


async def opened(peer_of=small_pair, kind=Scripted, **acts):
    ours, peer = peer_of()
    transport, protocol = await asyncio.get_running_loop().create_connection(
        lambda: kind(**acts), sock=ours
    )
    return transport, protocol, peer


async def read_all(peer):
    loop = asyncio.get_running_loop()
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while data := await loop.sock_recv(peer, 65536):
            received += data
    return bytes(received)


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


# --- closing and raising everywhere --------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), CALLBACKS)
@pytest.mark.parametrize(
    "how", ["close", "abort", "set_protocol", "drop", "write", "write_eof", "pause"]
)
def test_meddling_in_callbacks(run, loop, kind, name, how):
    def meddle(protocol):
        if how == "set_protocol":
            protocol.transport.set_protocol(protocol)
        elif how == "drop":
            protocol.transport.set_protocol(None)
            protocol.transport.abort()
        elif how == "write":
            protocol.transport.write(b"from a callback")
        elif how == "pause":
            protocol.transport.pause_reading()
            loop.call_later(0.001, protocol.transport.resume_reading)
        else:
            getattr(protocol.transport, how)()

    async def main():
        contexts = []
        loop.set_exception_handler(lambda _, context: contexts.append(context))
        transport, protocol, peer = await opened(kind=kind, **{name: meddle})
        with contextlib.suppress(OSError):
            peer.send(b"data")
        with contextlib.suppress(RuntimeError):  # connection_made called write_eof().
            transport.write(b"x" * 100_000)
        with contextlib.suppress(OSError):
            peer.shutdown(socket.SHUT_WR)
        await read_all(peer)
        peer.close()
        while transport.get_protocol() is not None:
            await asyncio.sleep(0.001)
        if how != "drop":
            assert protocol.calls.count("connection_lost") == 1
            assert not contexts
        assert transport._sock is None

    run(main())


@pytest.mark.parametrize(("kind", "name"), CALLBACKS)
@pytest.mark.parametrize("error", [ValueError, OSError, GeneratorExit, MemoryError])
def test_exceptions_out_of_callbacks(run, loop, kind, name, error):
    def fail(protocol):
        raise error(f"from {name}")

    async def main():
        contexts = []
        loop.set_exception_handler(lambda _, context: contexts.append(context))
        transport, protocol, peer = await opened(kind=kind, **{name: fail})
        peer.send(b"data")
        transport.write(b"x" * 100_000)
        peer.shutdown(socket.SHUT_WR)
        await read_all(peer)
        await protocol.lost
        await asyncio.sleep(0)
        peer.close()
        assert protocol.calls.count("connection_lost") == 1
        # An OSError that ends a connection is no news, as in asyncio.
        if error is not OSError or name in ("connection_made", "pause_writing"):
            assert isinstance(contexts[0]["exception"], error)

    run(main())


# --- nothing is lost ---------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 1000, 4096, 70_000, 1_000_000])
@pytest.mark.parametrize("pieces", [1, 7, 200])
def test_every_byte_arrives_through_a_small_buffer(run, size, pieces):
    whole = os.urandom(size * pieces if size < 70_000 else size)
    step = max(1, len(whole) // pieces)

    async def main():
        transport, protocol, peer = await opened()
        for start in range(0, len(whole), step):
            transport.write(whole[start : start + step])
        transport.close()
        assert await read_all(peer) == whole
        assert await protocol.lost is None
        peer.close()

    run(main())


@single_calls
def test_what_is_written_before_the_loop_stops_is_sent(loop):
    ours, peer = small_pair()
    transport = None

    async def main():
        nonlocal transport
        transport, _ = await loop.create_connection(
            lambda: asyncio.Protocol(), sock=ours
        )

    loop.run_until_complete(main())

    def write_and_stop():
        transport.write(b"first ")
        transport.write(b"second")
        loop.stop()

    loop.call_soon(write_and_stop)
    loop.run_forever()
    assert peer.recv(100) == b"first second"
    transport.write(b"outside")
    assert peer.recv(100) == b"outside"

    def write_and_exit():
        transport.write(b"third")
        raise SystemExit

    loop.call_soon(write_and_exit)
    with pytest.raises(SystemExit):
        loop.run_forever()
    assert peer.recv(100) == b"third"
    transport.abort()
    loop.call_soon(loop.stop)
    loop.run_forever()
    peer.close()


@needs_gil("another thread may not write")
def test_a_write_from_another_thread_arrives(run, loop, thread):
    async def main():
        transport, _, peer = await opened()
        thread(transport.write, b"from a thread")
        received = b""
        while len(received) < 13:
            received += await loop.sock_recv(peer, 100)
        assert received == b"from a thread"
        transport.abort()
        peer.close()

    run(main())


# --- resets ------------------------------------------------------------------------


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), timeout=LIMIT)
        server, _ = listener.accept()
    for sock in (client, server):
        sock.setblocking(False)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return client, server


@KINDS
@pytest.mark.parametrize(
    "state",
    [
        "idle",
        "paused",
        "writing",
        "paused and writing",
        "closing",
        "half closed",
        "half closed and writing",
        "half closed by the peer",
        "corked",
        "data unread",
    ],
)
def test_reset_in_every_state(run, loop, kind, state):
    async def main():
        contexts = []
        loop.set_exception_handler(lambda _, context: contexts.append(context))
        transport, protocol, peer = await opened(
            tcp_pair, kind, eof_received=lambda self: True
        )
        if state == "paused":
            transport.pause_reading()
        elif state == "paused and writing":
            transport.pause_reading()
            transport.write(b"x" * 3_000_000)
            assert "pause_writing" in protocol.calls
        elif state == "half closed and writing":
            transport.write(b"x" * 3_000_000)
            transport.write_eof()
        elif state == "half closed by the peer":
            peer.shutdown(socket.SHUT_WR)
            while "eof_received" not in protocol.calls:
                await asyncio.sleep(0)
        elif state == "data unread":
            peer.send(b"never read")
        elif state == "writing":
            transport.write(b"x" * 3_000_000)
        elif state == "closing":
            transport.write(b"x" * 3_000_000)
            transport.close()
        elif state == "half closed":
            transport.write_eof()
        elif state == "corked":
            loop.call_soon(int)  # with nothing else to run it would be sent at once
            transport.write(b"corked")
        reset(peer)
        if state == "paused":
            transport.resume_reading()
        elif state == "half closed by the peer":
            # Nobody reads any more: only a write can find out.
            while not transport.is_closing():
                transport.write(b"x")
                await asyncio.sleep(0)
        error = await protocol.lost
        assert error is None or isinstance(error, OSError)
        assert protocol.calls.count("connection_lost") == 1
        assert "resume_writing" not in protocol.calls
        assert transport.get_write_buffer_size() == 0
        assert not contexts

    run(main())


@pytest.mark.parametrize("state", ["reading", "waiting", "draining", "closing"])
def test_reset_under_a_stream(run, state):
    async def main():
        ours, peer = tcp_pair()
        reader, writer = await asyncio.open_connection(sock=ours)
        task = None
        if state == "waiting":
            task = asyncio.ensure_future(reader.readexactly(10))
        elif state != "reading":
            writer.write(b"x" * 3_000_000)
        if state == "draining":
            task = asyncio.ensure_future(writer.drain())
        elif state == "closing":
            writer.close()
        await asyncio.sleep(0)
        reset(peer)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await (task or reader.readexactly(1))
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    run(main())


@pytest.mark.parametrize("steps", range(8))
def test_reset_while_connecting(run, loop, steps):
    """At each step on the way from connect(2) to connection_made."""

    async def main():
        made = []

        def factory():
            made.append(Scripted())
            return made[-1]

        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            task = loop.create_task(
                loop.create_connection(factory, *listener.getsockname())
            )
            accepted, _ = await loop.sock_accept(listener)
            for _ in range(steps):
                await asyncio.sleep(0)
            reset(accepted)
            try:
                await task
            except OSError:
                assert not made
            else:
                assert isinstance(await made[0].lost, (ConnectionError, type(None)))
                assert made[0].calls.count("connection_lost") == 1

    run(main())


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("cancelled", [False, True])
def test_connecting_to_a_listener_that_goes(run, loop, steps, cancelled):
    """Its queue is full, so that the connection is neither made nor refused yet."""

    async def main():
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = []
        for _ in range(2):
            fillers.append(socket.socket())
            fillers[-1].setblocking(False)
            with contextlib.suppress(BlockingIOError):
                fillers[-1].connect(address)
        task = loop.create_task(loop.create_connection(Scripted, *address))
        for _ in range(steps):
            await asyncio.sleep(0)
        if cancelled:
            task.cancel()
        listener.close()
        for filler in fillers:
            filler.close()
        with pytest.raises((OSError, asyncio.CancelledError)) as caught:
            await task
        assert (caught.type is asyncio.CancelledError) == cancelled

    run(main())


def test_a_peer_that_resets_while_it_waits_to_be_accepted(run, loop):
    async def main():
        made = []

        class Server(asyncio.Protocol):
            def connection_made(self, transport):
                made.append(transport.get_extra_info("peername"))

        server = await loop.create_server(Server, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        for _ in range(20):
            reset(socket.create_connection(address))
        last = socket.create_connection(address)
        while last.getsockname() not in made:
            await asyncio.sleep(0.001)
        last.close()
        server.close()
        await server.wait_closed()

    run(main())


# --- servers -----------------------------------------------------------------------


@contextlib.contextmanager
def few_descriptors(spare):
    """Leave this process only ``spare`` unused descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(open_descriptors())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + spare, hard))
    fillers = []
    try:
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.dup(0))
        for _ in range(spare):
            os.close(fillers.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in fillers:
            os.close(fd)


def test_a_server_waits_when_descriptors_run_out(run, loop, monkeypatch):
    monkeypatch.setattr(asyncio.constants, "ACCEPT_RETRY_DELAY", 0.05)

    async def main():
        contexts = []
        loop.set_exception_handler(lambda _, context: contexts.append(context))
        accepted = loop.create_future()

        class Server(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport
                accepted.set_result(transport)

        server = await loop.create_server(Server, "127.0.0.1", 0)
        with few_descriptors(1):
            client = socket.create_connection(server.sockets[0].getsockname())
            while not contexts:
                await asyncio.sleep(0.001)
        assert contexts[0]["message"] == "socket.accept() out of system resource"
        assert contexts[0]["exception"].errno == errno.EMFILE
        assert contexts[0]["socket"].fileno() == server.sockets[0].fileno()
        transport = await accepted
        transport.abort()
        client.close()
        server.close()
        await server.wait_closed()

    run(main())


def test_a_server_closed_while_it_waits_for_descriptors(run, loop, monkeypatch):
    monkeypatch.setattr(asyncio.constants, "ACCEPT_RETRY_DELAY", 0.01)

    async def main():
        contexts = []
        loop.set_exception_handler(lambda _, context: contexts.append(context))
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        with few_descriptors(1):
            client = socket.create_connection(server.sockets[0].getsockname())
            while not contexts:
                await asyncio.sleep(0.001)
            server.close()
        await asyncio.sleep(0.05)
        assert len(contexts) == 1
        client.close()

    run(main())


@pytest.mark.parametrize("error", [ValueError, OSError])
def test_a_factory_that_raises(run, loop, debug, error):
    async def main():
        contexts = []
        loop.set_exception_handler(lambda _, context: contexts.append(context))
        fails = [True, True, False]
        made = loop.create_future()

        def factory():
            if fails.pop(0):
                raise error("no protocol")
            return Scripted(connection_made=lambda self: made.set_result(self))

        server = await loop.create_server(factory, "127.0.0.1", 0)
        for _ in range(2):
            client = socket.create_connection(server.sockets[0].getsockname())
            client.setblocking(False)
            assert await read_all(client) == b""
            client.close()
        client = socket.create_connection(server.sockets[0].getsockname())
        protocol = await made
        client.close()
        await protocol.lost
        server.close()
        await server.wait_closed()
        messages = [context["message"] for context in contexts]
        expected = "Error on transport creation for incoming connection"
        assert messages == ([expected] * 2 if debug else [])

    run(main())


def test_a_server_closed_inside_its_factory(run, loop):
    async def main():
        loop.set_exception_handler(lambda _, context: None)
        called = loop.create_future()

        def factory():
            server.close()
            called.set_result(None)
            return asyncio.Protocol()

        server = await loop.create_server(factory, "127.0.0.1", 0)
        client = socket.create_connection(server.sockets[0].getsockname())
        client.setblocking(False)
        await called
        if sys.version_info < (3, 13):
            assert await read_all(client) == b""
        client.close()
        await asyncio.sleep(0.01)

    run(main())


# --- life and death ----------------------------------------------------------------


@single_calls
def test_a_loop_closed_under_its_transports():
    loop = aioloop.new_event_loop()
    ours, peer = small_pair()
    server = loop.run_until_complete(
        loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    )

    async def connect(loop):
        return await loop.create_connection(lambda: Scripted(), sock=ours)

    transport, protocol = loop.run_until_complete(connect(loop))
    transport.write(b"sent")
    server.close()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        transport.close()
    assert "closing" in repr(transport)
    assert peer.recv(10) == b"sent"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        protocol.transport = None
        del transport, protocol, loop, server
        gc.collect()
    assert any("unclosed transport" in str(w.message) for w in caught)
    ours.close()
    assert peer.recv(10) == b""
    peer.close()


def test_an_end_is_sent_once_by_write_eof_in_resume_writing(run, loop):
    """The peer has ended too: a second shutdown() would find no connection any more."""

    def end(protocol):
        protocol.transport.write_eof()

    async def main():
        contexts = []
        loop.set_exception_handler(lambda _, context: contexts.append(context))
        transport, protocol, peer = await opened(
            tcp_pair, eof_received=lambda self: True, resume_writing=end
        )
        peer.shutdown(socket.SHUT_WR)
        while "eof_received" not in protocol.calls:
            await asyncio.sleep(0)
        transport.set_write_buffer_limits(high=0)
        transport.write(b"x" * 3_000_000)
        assert await read_all(peer) == b"x" * 3_000_000
        assert "resume_writing" in protocol.calls
        peer.close()
        transport.close()
        assert await protocol.lost is None
        assert not contexts

    run(main(), LIMIT)


def test_a_dropped_transport_is_closed_with_a_warning(run, loop):
    async def main():
        transport, protocol, peer = await opened()
        transport.pause_reading()
        dead = weakref.ref(transport)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            protocol.transport = None
            del transport
            gc.collect()
        texts = [str(w.message) for w in caught]
        assert sum("unclosed transport" in text for text in texts) == 1
        caught.clear()
        assert dead() is None
        assert await read_all(peer) == b""
        peer.close()

    run(main())


def test_a_reading_transport_lives_without_other_references(run, loop):
    async def main():
        got = loop.create_future()

        class Echo(asyncio.Protocol):
            def data_received(self, data):
                if not got.done():
                    got.set_result(data)

        ours, peer = small_pair()
        await loop.create_connection(Echo, sock=ours)
        gc.collect()
        peer.send(b"still there")
        assert b"still there".startswith(await got)
        peer.close()
        await asyncio.sleep(0.01)

    run(main())


def test_numbers_reused_by_other_threads_are_never_confused(run, loop):
    """Threads open and close descriptors while connections come and go."""
    stop = threading.Event()
    broken = []

    def churn():
        while not stop.is_set():
            first, second = socket.socketpair()
            first.send(b"mine")
            data = second.recv(100)
            if data != b"mine":
                broken.append(data)
            first.close()
            if second.recv(100) != b"":
                broken.append("not closed")
            second.close()

    async def client(address, number):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"%d" % number)
        writer.write_eof()
        assert await reader.read() == b"%d" % number
        writer.close()
        await writer.wait_closed()

    async def echo(reader, writer):
        writer.write(await reader.read())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        for start in range(0, 200, 20):
            await asyncio.gather(*(client(address, start + i) for i in range(20)))
        server.close()
        await server.wait_closed()

    threads = [threading.Thread(target=churn) for _ in range(3)]
    for started in threads:
        started.start()
    try:
        run(main(), LIMIT)
    finally:
        stop.set()
        for started in threads:
            started.join(LIMIT)
    assert not broken


async def closed_by_protocols(loop, folder):
    """Return a server, and a coroutine function that uses and drops a connection.

    The server closes first: the end that does leaves its port in TIME_WAIT for a
    minute, and ten thousand ports of clients are a third of all there are to bind to.
    """

    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
            self.left = 64

        def data_received(self, data):
            self.transport.write(data)
            self.left -= len(data)
            if self.left == 0:
                self.transport.close()

    class Client(asyncio.Protocol):
        def __init__(self):
            self.lost = loop.create_future()
            self.received = b""

        def connection_made(self, transport):
            transport.write(b"x" * 64)

        def data_received(self, data):
            self.received += data

        def connection_lost(self, exc):
            self.lost.set_result(exc)

    server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=200)
    address = server.sockets[0].getsockname()

    async def one():
        _, protocol = await loop.create_connection(Client, *address)
        assert await protocol.lost is None
        assert protocol.received == b"x" * 64

    return server, one


async def closed_by_streams(loop, folder):
    """Return the same over a Unix socket, where the client closes first."""
    path = str(folder / "socket")

    async def echo(reader, writer):
        writer.write(await reader.readline())
        await reader.read()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_unix_server(echo, path, backlog=200)

    async def one():
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"line\n")
        assert await reader.readline() == b"line\n"
        writer.close()
        await writer.wait_closed()

    return server, one


async def reset_under_a_full_buffer(loop, folder):
    class Flood(asyncio.Protocol):
        def connection_made(self, transport):
            transport.set_write_buffer_limits(high=1000)
            transport.write(b"x" * 100_000)
            assert transport.get_write_buffer_size() > 0

    server = await loop.create_server(Flood, "127.0.0.1", 0, backlog=200)
    server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    address = server.sockets[0].getsockname()

    async def one():
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.setblocking(False)
            await loop.sock_connect(client, address)
            assert await loop.sock_recv(client, 1) == b"x"
            reset(client)

    return server, one


def connections(loop, count, way, folder):
    """Open, use and drop ``count`` connections, a hundred at a time."""

    async def main():
        server, one = await way(loop, folder)
        before = open_descriptors()
        for _ in range(0, count, 100):
            await asyncio.gather(*(one() for _ in range(100)))
        while open_descriptors() - before:
            await asyncio.sleep(0.001)  # Nobody tells when the server's ends have gone.
        server.close()
        await server.wait_closed()

    loop.run_until_complete(asyncio.wait_for(main(), 120))


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
@pytest.mark.parametrize(
    "way", [closed_by_protocols, closed_by_streams, reset_under_a_full_buffer]
)
def test_ten_thousand_connections_leave_nothing_behind(way, tmp_path):
    loop = aioloop.new_event_loop()
    try:
        connections(loop, 1000, way, tmp_path)
        gc.collect()
        descriptors = open_descriptors()
        blocks = sys.getallocatedblocks()
        resident = resident_bytes()
        connections(loop, 10_000, way, tmp_path)
        gc.collect()
        assert open_descriptors() <= descriptors
        assert abs(sys.getallocatedblocks() - blocks) < 2000
        # AddressSanitizer, which runs with this setting, keeps freed memory resident.
        if os.environ.get("PYTHONMALLOC") != "malloc":
            assert resident_bytes() - resident < 8_000_000
    finally:
        loop.close()


# --- TLS over a full buffer ----------------------------------------------------------


@pytest.mark.parametrize("same", [True, False], ids=["same", "another"])
def test_start_tls_while_the_protocol_is_paused(run, loop, same):
    """gh-109051: the TLS protocol has to know that writing is paused.

    On asyncio its resume_writing() fails, and the protocol above it, if it is the one
    that was told to pause, is never told to resume.
    """
    plain = b"x" * 1_000_000

    async def main():
        contexts = []
        loop.set_exception_handler(lambda _, context: contexts.append(context))
        transport, protocol, peer = await opened()
        transport.write(plain)
        assert protocol.calls == ["connection_made", "pause_writing"]

        async def receive():
            left = len(plain)
            while left > 0:
                left -= len(await loop.sock_recv(peer, left))
            return await loop.connect_accepted_socket(
                Scripted, peer, ssl=anonymous_context(ssl.PROTOCOL_TLS_SERVER)
            )

        above = protocol if same else Scripted()
        secure, (theirs, receiver) = await asyncio.gather(
            loop.start_tls(
                transport, above, anonymous_context(ssl.PROTOCOL_TLS_CLIENT)
            ),
            receive(),
        )
        assert above.calls == (
            ["connection_made", "pause_writing", "resume_writing"] if same else []
        )
        secure.write(b"secret")
        while receiver.received != b"secret":
            await asyncio.sleep(0.001)
        secure.close()
        theirs.close()
        assert await above.lost is None
        assert await receiver.lost is None
        assert not contexts

    run(main())


# --- readers whose attributes run code ------------------------------------------------


@contextlib.asynccontextmanager
async def stream_of_pair():
    """Give the reader and writer of one end, and the other end; close both."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    with theirs:
        try:
            yield reader, writer, theirs
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@pytest.mark.parametrize("found", [True, False], ids=["found", "not found"])
@pytest.mark.parametrize("method", ["readline", "readuntil"])
def test_a_limit_that_empties_the_buffer(run, method, found):
    """What is read ends where the buffer ends by then: asyncio's slices until 3.14.

    bytearray.take_bytes(), which asyncio calls since 3.15, raises IndexError instead.
    """
    raises = found and sys.version_info >= (3, 15)

    class Limit(int):
        def __lt__(self, other):
            reader._buffer.clear()
            return False

    reader = None

    async def main():
        nonlocal reader
        async with stream_of_pair() as (reader, _, theirs):
            theirs.sendall(b"x" * 50_000 + (b"\n" if found else b""))
            theirs.shutdown(socket.SHUT_WR)
            while not reader._eof:
                await asyncio.sleep(0)
            reader._limit = Limit(2**16)
            try:
                assert await getattr(reader, method)() == b""
                assert not raises
            except asyncio.IncompleteReadError as exc:
                assert method == "readuntil" and not found
                assert exc.partial == b""
            except IndexError as exc:
                assert raises
                assert str(exc) == "can't take 50001 bytes outside size 0"
            assert not reader._buffer

    run(main())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_a_limit_that_closes_the_transport_when_fed(run, how):
    """feed_data() multiplies it, inside of the transport's own event."""

    class Limit(int):
        def __rmul__(self, other):
            getattr(transport, how)()
            reader._transport = None
            asked.append(other)
            return 2**20

    reader = transport = None
    asked = []

    async def main():
        nonlocal reader, transport
        async with stream_of_pair() as (reader, writer, theirs):
            transport = writer.transport
            reader._limit = Limit(2**16)
            theirs.sendall(b"x")
            while not asked:
                await asyncio.sleep(0)
            assert transport.is_closing()
            assert await reader.read() == b"x"
        assert set(asked) == {2}

    run(main())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_water_marks_that_close_the_transport(run, how):
    class Mark(int):
        def __ge__(self, other):
            getattr(transport, how)()
            return True

    transport = None

    async def main():
        nonlocal transport
        async with stream_of_pair() as (reader, writer, theirs):
            transport = writer.transport
            # The hard build writes one byte at once, and abort() drops the rest.
            writer.write(b"!")
            transport.set_write_buffer_limits(high=Mark(10), low=Mark(5))
            assert transport.is_closing()
            assert await reader.read() == b""
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            assert theirs.recv(10) == b"!"

    run(main())
