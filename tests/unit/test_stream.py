"""The stream transport: corking, reading into asyncio's streams, memory, extra info."""

import asyncio
import gc
import inspect
import os
import socket
import sys
import time
import weakref
from unittest import mock

import pytest

import aioloop
from aioloop import _core
from tests.conftest import HARD, needs_corking


class Collector(asyncio.Protocol):
    """Keeps what it receives, and the sizes of the pieces."""

    def __init__(self):
        self.received = bytearray()
        self.sizes = []
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.received += data
        self.sizes.append(len(data))

    def connection_lost(self, exc):
        self.lost.set_result(exc)


class Peer:
    """The plain socket at the other end."""

    def __init__(self, sock):
        sock.setblocking(False)
        self.sock = sock

    def now(self):
        """Return what has arrived so far."""
        received = bytearray()
        try:
            while data := self.sock.recv(1 << 20):
                received += data
        except BlockingIOError:
            pass
        return bytes(received)

    async def exactly(self, count):
        received = bytearray()
        while len(received) < count:
            data = await asyncio.get_running_loop().sock_recv(
                self.sock, count - len(received)
            )
            assert data, "the stream has ended"
            received += data
        return bytes(received)

    async def send(self, data):
        await asyncio.get_running_loop().sock_sendall(self.sock, data)


@pytest.fixture
def connected(loop):
    """Return a coroutine function that makes (transport, protocol, peer)."""
    opened = []

    async def connect(factory=Collector):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        transport, protocol = await loop.create_connection(factory, sock=ours)
        opened.append((transport, theirs))
        return transport, protocol, Peer(theirs)

    yield connect
    for transport, theirs in opened:
        transport.abort()
        theirs.close()
    loop.call_soon(loop.stop)
    loop.run_forever()


# --- what is received ---------------------------------------------------------------

# Objects that the program keeps, objects that it has hashed, and dropped ones, of sizes
# around the bounds within which the loop writes a dropped object anew.
SIZES = [1, 511, 512, 513, 1000, 600, 1024, 700, 511, 5000, 2500, 2499, 16384, 16385]
# Large ones are received straight into the object, which is larger then.
LARGE = [20_000, 25_000, 24_000, 18_000, 30_000, 60_000, 90_000, 70_000, 70_000, 40_000]


class Keeper(asyncio.Protocol):
    """Keeps some of the objects, and hashes of all."""

    def __init__(self, keep):
        self.keep = keep
        self.kept = []
        self.hashes = []

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.hashes.append(hash(data))
        if self.keep(len(self.hashes)):
            self.kept.append((data, bytearray(data), hash(data)))
        self.transport.write(data)


@pytest.mark.parametrize(
    "keep",
    [lambda n: False, lambda n: True, lambda n: n % 2 == 0, lambda n: n % 3 == 0],
    ids=["none", "all", "every second", "every third"],
)
def test_received_bytes_stay_as_they_are(run, connected, keep):
    async def main():
        transport, protocol, peer = await connected(lambda: Keeper(keep))
        for turn, size in enumerate((SIZES + LARGE) * 3):
            message = bytes([turn + 1]) * size
            await peer.send(message)
            assert await peer.exactly(size) == message
            if size <= 16384 and not HARD:  # in one piece
                assert protocol.hashes[-1] == hash(message)
        for data, copy, value in protocol.kept:
            assert data == copy
            assert hash(data) == value == hash(bytes(copy))
        if not HARD and keep(1):
            assert len({id(data) for data, _, _ in protocol.kept}) == len(protocol.kept)

    run(main())


# --- corking ------------------------------------------------------------------------


def another_slot_is_ready(loop):
    """Make writes wait: they do while there is something else to run."""
    loop.call_soon(int)


@needs_corking
def test_writes_of_one_step_leave_together(run, loop, connected):
    async def main():
        transport, _, peer = await connected()
        another_slot_is_ready(loop)
        transport.write(b"one ")
        transport.writelines([b"two ", bytearray(b"three ")])
        assert peer.now() == b""
        await asyncio.sleep(0)
        assert await peer.exactly(14) == b"one two three "

    run(main())


def in_one_iteration(loop, *callbacks):
    """Return a future: the results of callbacks that run one after the other."""
    results = []
    done = loop.create_future()
    for callback in callbacks:
        loop.call_soon(lambda callback=callback: results.append(callback()))
    loop.call_soon(done.set_result, results)
    return done


@needs_corking
@pytest.mark.skipif(HARD, reason="sends one byte at a time")
def test_writes_of_an_iteration_leave_together(run, loop, connected):
    async def main():
        transport, _, peer = await connected()
        results = await in_one_iteration(
            loop, lambda: transport.write(b"hello"), peer.now
        )
        assert results[1] == b""
        assert await peer.exactly(5) == b"hello"

    run(main())


@pytest.mark.skipif(HARD, reason="sends one byte at a time")
def test_a_write_waits_for_one_slow_callback_at_most(run, loop, connected):
    async def main():
        transport, _, peer = await connected()
        results = await in_one_iteration(
            loop,
            lambda: transport.write(b"x"),
            lambda: time.sleep(0.001),
            peer.now,
        )
        assert results[2] == b"x"

    run(main())


@pytest.mark.skipif(HARD, reason="sends one byte at a time")
def test_a_large_write_leaves_when_its_callback_returns(run, loop, connected):
    async def main():
        transport, _, peer = await connected()
        data = bytes(5000)
        results = await in_one_iteration(loop, lambda: transport.write(data), peer.now)
        assert results[1] == data

    run(main())


@pytest.mark.parametrize(
    "look",
    [
        lambda transport: transport.get_write_buffer_size(),
        lambda transport: transport.set_write_buffer_limits(high=1000),
        lambda transport: transport.write_eof(),
        lambda transport: transport.close(),
        lambda transport: transport.abort(),
        lambda transport: transport.write(b"x" * 70_000),
    ],
    ids=["size", "limits", "write_eof", "close", "abort", "high water"],
)
def test_what_shows_the_buffer_sends_it_first(run, loop, connected, look):
    async def main():
        transport, _, peer = await connected()
        another_slot_is_ready(loop)
        transport.write(b"corked")
        look(transport)
        # At once as much as one system call takes.
        assert peer.now()[:6] == (b"c" if HARD else b"corked")

    run(main())


def test_many_pieces_do_not_wait(run, loop, connected):
    async def main():
        transport, _, peer = await connected()
        another_slot_is_ready(loop)
        for _ in range(64):
            transport.write(b"x")
        now = peer.now()
        assert now == b"x" * (1 if HARD else 64)
        assert await peer.exactly(64 - len(now)) == b"x" * (64 - len(now))

    run(main())


def test_writes_outside_of_the_loop_do_not_wait(run, loop, connected):
    transport, _, peer = loop.run_until_complete(connected())
    transport.write(b"at once")
    now = peer.now()
    assert now == (b"a" if HARD else b"at once")
    assert now + run(peer.exactly(7 - len(now))) == b"at once"


@needs_corking
def test_bytes_are_retained_and_other_buffers_copied(run, loop, connected):
    async def main():
        transport, _, peer = await connected()
        another_slot_is_ready(loop)
        data = b"retained" * 2
        references = sys.getrefcount(data)
        transport.write(data)
        assert sys.getrefcount(data) == references + 1
        mutable = bytearray(b"mutable")
        transport.write(mutable)
        mutable.clear()  # It would refuse if somebody held a view.
        assert await peer.exactly(23) == data + b"mutable"
        await asyncio.sleep(0)
        assert sys.getrefcount(data) == references

    run(main())


def test_one_error_for_all_writes_of_a_step(run, connected):
    async def main():
        transport, protocol, peer = await connected()
        peer.sock.close()
        for _ in range(5):
            transport.write(b"nobody reads")
        await asyncio.sleep(0)
        assert transport.is_closing()
        assert isinstance(await protocol.lost, (BrokenPipeError, type(None)))

    run(main())


# --- reading --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 100, 20_000, 200_000])
def test_received_bytes_are_exact(run, connected, size):
    async def main():
        _, protocol, peer = await connected()
        whole = os.urandom(size)
        for _ in range(5):
            await peer.send(whole)
        while len(protocol.received) < 5 * size:
            await asyncio.sleep(0.001)
        assert protocol.received == whole * 5
        assert max(protocol.sizes) <= _core.SocketTransport.max_size

    run(main())


async def stream_of(loop, peer_data, **kwargs):
    ours, theirs = socket.socketpair()
    theirs.sendall(peer_data)
    reader, writer = await asyncio.open_connection(sock=ours, **kwargs)
    return reader, writer, theirs


def test_stream_readers_are_fed(run, loop):
    async def main():
        reader, writer, theirs = await stream_of(loop, b"line\nrest")
        assert isinstance(reader, asyncio.StreamReader)
        assert type(reader).__name__ == "StreamReader"
        assert await reader.readline() == b"line\n"
        assert await reader.readexactly(4) == b"rest"
        theirs.close()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    run(main())


def test_a_full_reader_pauses_its_transport(run, loop):
    async def main():
        reader, writer, theirs = await stream_of(loop, b"x" * 50_000, limit=1000)
        while not reader._paused:
            await asyncio.sleep(0.001)
        assert not writer.transport.is_reading()
        assert len(await reader.readexactly(50_000)) == 50_000
        assert writer.transport.is_reading()
        writer.close()
        await writer.wait_closed()
        theirs.close()

    run(main())


def test_patched_stream_classes_are_called(run, loop, monkeypatch):
    fed = []
    original = asyncio.StreamReader.feed_data

    def feed_data(self, data):
        fed.append(bytes(data))
        original(self, data)

    async def main():
        reader, writer, theirs = await stream_of(loop, b"plain")
        assert await reader.readexactly(5) == b"plain"
        assert not fed
        monkeypatch.setattr(asyncio.StreamReader, "feed_data", feed_data)
        theirs.sendall(b"patched")
        assert await reader.readexactly(7) == b"patched"
        assert b"".join(fed) == b"patched"
        monkeypatch.undo()
        theirs.sendall(b"plain")
        assert await reader.readexactly(5) == b"plain"
        assert b"".join(fed) == b"patched"
        writer.close()
        await writer.wait_closed()
        theirs.close()

    run(main())


@pytest.mark.parametrize("where", ["feed_data", "data_received"])
def test_patched_instances_of_the_stream_classes_are_called(run, loop, where):
    async def main():
        reader, writer, theirs = await stream_of(loop, b"plain")
        assert await reader.readexactly(5) == b"plain"
        target = reader if where == "feed_data" else writer.transport.get_protocol()
        with mock.patch.object(target, where, wraps=getattr(target, where)) as patched:
            theirs.sendall(b"patched")
            assert await reader.readexactly(7) == b"patched"
        fed = b"".join(call.args[0] for call in patched.call_args_list)
        assert fed == b"patched"
        theirs.sendall(b"plain")
        assert await reader.readexactly(5) == b"plain"
        assert b"".join(call.args[0] for call in patched.call_args_list) == fed
        writer.close()
        await writer.wait_closed()
        theirs.close()

    run(main())


def test_subclasses_of_the_stream_classes_are_called(run, loop):
    class Reader(asyncio.StreamReader):
        def feed_data(self, data):
            super().feed_data(data.upper())

    async def main():
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        reader = Reader()
        transport, _ = await loop.create_connection(
            lambda: asyncio.StreamReaderProtocol(reader), sock=ours
        )
        theirs.sendall(b"text")
        assert await reader.readexactly(4) == b"TEXT"
        transport.close()
        theirs.close()
        await asyncio.sleep(0)

    run(main())


def test_a_collected_reader_drops_its_data(run, loop):
    async def main():
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())
        gc.collect()
        transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
        theirs.sendall(b"for nobody")
        theirs.close()
        while transport.is_reading() and protocol._stream_reader is not None:
            await asyncio.sleep(0.001)
        transport.close()
        await asyncio.sleep(0.001)

    run(main())


# --- the object ----------------------------------------------------------------------


def test_it_is_an_asyncio_transport(run, connected):
    async def main():
        transport, _, _ = await connected()
        assert isinstance(transport, asyncio.Transport)
        assert isinstance(transport, asyncio.transports._FlowControlMixin)
        assert type(transport).__module__ == "aioloop._core"
        with pytest.raises(TypeError):
            _core.SocketTransport()
        transport.attribute = 5
        assert transport.attribute == 5
        assert weakref.ref(transport)() is transport

    run(main())


def test_the_socket_is_made_when_asked_for(run, loop):
    async def main():
        made = loop.create_future()

        class Server(asyncio.Protocol):
            def connection_made(self, transport):
                made.set_result(transport)

        server = await loop.create_server(Server, "127.0.0.1", 0)
        client = socket.create_connection(server.sockets[0].getsockname())
        transport = await made
        before = len([o for o in gc.get_objects() if type(o) is socket.socket])
        assert transport.get_extra_info("peername") == client.getsockname()
        assert transport.get_extra_info("sockname") == client.getpeername()
        after = len([o for o in gc.get_objects() if type(o) is socket.socket])
        assert after == before
        sock = transport.get_extra_info("socket")
        assert isinstance(sock, asyncio.trsock.TransportSocket)
        assert sock.getpeername() == client.getsockname()
        assert sock._sock.gettimeout() == 0
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        transport.close()
        await asyncio.sleep(0)
        assert sock.fileno() == -1
        client.close()
        server.close()
        await server.wait_closed()

    run(main())


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_names_outlive_the_connection(run, loop, host):
    async def main():
        lost = loop.create_future()

        class Server(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

            def connection_lost(self, exc):
                lost.set_result(self.transport)

        server = await loop.create_server(Server, host, 0)
        port = server.sockets[0].getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        names = client.getsockname(), client.getpeername()
        client.close()
        transport = await lost
        await asyncio.sleep(0)
        assert transport.get_extra_info("peername") == names[0]
        assert transport.get_extra_info("sockname") == names[1]
        assert transport.get_extra_info("socket").fileno() == -1
        server.close()
        await server.wait_closed()

    run(main())


def test_signatures_are_asyncio_s():
    theirs = asyncio.Transport
    for name in (
        "write",
        "writelines",
        "close",
        "abort",
        "get_extra_info",
        "set_write_buffer_limits",
        "set_protocol",
        "pause_reading",
        "is_closing",
    ):
        ours = inspect.signature(getattr(_core.SocketTransport, name))
        assert list(ours.parameters) == list(
            inspect.signature(getattr(theirs, name)).parameters
        )


def test_socket_objects_that_are_no_sockets_get_asyncio_s_transport(run, loop):
    class Odd(socket.socket):
        def recv(self, *args):
            return super().recv(*args).upper()

    async def main():
        ours, theirs = socket.socketpair()
        odd = Odd(ours.family, ours.type, ours.proto, fileno=ours.detach())
        odd.setblocking(False)
        transport, protocol = await loop.create_connection(Collector, sock=odd)
        assert not isinstance(transport, _core.SocketTransport)
        theirs.sendall(b"text")
        while len(protocol.received) < 4:
            await asyncio.sleep(0.001)
        assert protocol.received == b"TEXT"
        transport.close()
        theirs.close()
        await asyncio.sleep(0.001)

    run(main())


@pytest.mark.skipif(HARD, reason="free lists are off")
def test_an_idle_connection_is_small():
    """A pair of protocol connections in one process takes at most 2.5 KB of heap."""
    count = 500
    loop = aioloop.new_event_loop()
    made, lost = asyncio.Semaphore(0), asyncio.Semaphore(0)

    class Accepted(asyncio.Protocol):
        def connection_made(self, transport):
            made.release()

        def connection_lost(self, exc):
            lost.release()

    async def main():
        server = await loop.create_server(Accepted, "127.0.0.1", 0, backlog=1000)
        address = server.sockets[0].getsockname()
        keep = [await loop.create_connection(asyncio.Protocol, *address)]
        await made.acquire()
        import tracemalloc

        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(count):
            keep.append(await loop.create_connection(asyncio.Protocol, *address))
            await made.acquire()
        gc.collect()
        used = (tracemalloc.get_traced_memory()[0] - before) / count
        tracemalloc.stop()
        for transport, _ in keep:
            transport.abort()
            await lost.acquire()
        server.close()
        await asyncio.sleep(0)
        return used

    try:
        assert loop.run_until_complete(main()) <= 2500
    finally:
        loop.close()
