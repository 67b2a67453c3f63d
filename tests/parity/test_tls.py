"""TLS: the same program on asyncio and aioloop, event by event (src/io/tls).

The server runs on the loop; the client is a blocking socket in a thread, so that what
it does is seen from outside. What a server notes down on asyncio's loop and on
aioloop's has to be equal.
"""

import asyncio
import collections
import contextlib
import logging
import socket
import ssl
import struct
import threading
from unittest import mock

import pytest

import aioloop
from tests.conftest import HARD, client_context
from tests.conftest import server_context as any_server_context

LIMIT = 20
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
RECORD = 16 * 1024


def server_context(version=None):
    context = any_server_context()
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


class Recorder(asyncio.Protocol):
    """Notes its callbacks, runs of received bytes as one.

    How often writing pauses depends on the kernel where much is sent: `pauses` is False
    there.
    """

    def __init__(self, pauses=True, **acts):
        self.acts = acts
        self.pauses = pauses
        self.journal = []
        self.lost = asyncio.get_running_loop().create_future()

    def note(self, *entry):
        if entry[0] == "data" and self.journal and self.journal[-1][0] == "data":
            self.journal[-1] = ("data", self.journal[-1][1] + entry[1])
        else:
            self.journal.append(entry)

    def act(self, name, *args):
        act = self.acts.get(name)
        return act(self, *args) if act is not None else None

    def connection_made(self, transport):
        self.transport = transport
        self.note("made")
        self.act("made")

    def data_received(self, data):
        assert type(data) is bytes
        self.note("data", data)
        self.act("data", data)

    def eof_received(self):
        self.note("eof")
        return self.act("eof")

    def pause_writing(self):
        if self.pauses:
            self.note("pause")

    def resume_writing(self):
        if self.pauses:
            self.note("resume")
        self.act("resume")

    def connection_lost(self, exc):
        self.note("lost", type(exc).__name__)
        self.lost.set_result(None)


class BufferedRecorder(Recorder, asyncio.BufferedProtocol):
    def __init__(self, **options):
        super().__init__(**options)
        self.buffer = bytearray(1000)

    def get_buffer(self, sizehint):
        return memoryview(self.buffer)  # asyncio fills copies of a bytearray's rest

    def buffer_updated(self, nbytes):
        data = bytes(self.buffer[:nbytes])
        self.note("data", data)
        self.act("data", data)


def on_both(client, factory=Recorder, context=server_context, **options):
    """Run `client(address)` against a server on both loops, and compare.

    Return what the client returned, the first protocol's journal and what the exception
    handler got.
    """
    journals = []
    for new_loop in (asyncio.SelectorEventLoop, aioloop.new_event_loop):
        protocols, reports = [], []

        def make(protocols=protocols):
            protocols.append(factory(**options))
            return protocols[-1]

        def report(loop, context, reports=reports):
            exc = context.get("exception")
            reports.append((context["message"], type(exc).__name__, str(exc)))

        async def main(make=make, protocols=protocols):
            loop = asyncio.get_running_loop()
            server = await loop.create_server(make, "127.0.0.1", 0, ssl=context())
            address = server.sockets[0].getsockname()
            answer = await loop.run_in_executor(None, client, address)
            for protocol in protocols:
                await protocol.lost
            server.close()
            return answer

        loop = new_loop()
        loop.set_exception_handler(report)
        try:
            answer = loop.run_until_complete(asyncio.wait_for(main(), LIMIT))
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()
        journals.append((answer, [p.journal for p in protocols], reports))
    assert journals[0] == journals[1]
    answer, made, reports = journals[1]
    return answer, made[0] if made else None, reports


@contextlib.contextmanager
def connected(address, context=None):
    with socket.create_connection(address, timeout=LIMIT) as raw:
        with (context or client_context()).wrap_socket(raw) as sock:
            yield sock


def all_of(sock):
    """Read to the end and answer it."""
    received = b""
    while data := sock.recv(100):
        received += data
    sock.unwrap()
    return received


def exactly(sock, count):
    received = bytearray()
    while len(received) < count:
        data = sock.recv(count - len(received))
        assert data, "the stream has ended"
        received += data
    return bytes(received)


def echo(protocol, data):
    protocol.transport.write(data)


def echo_lines(protocol, data):
    half = len(data) // 2
    protocol.transport.writelines([data[:half], bytearray(data[half:])])


def echo_view(protocol, data):
    protocol.transport.write(memoryview(data))


def echo_array(protocol, data):
    protocol.transport.write(bytearray(data))


# --- data -----------------------------------------------------------------------------

SIZES = [1, 100, 1000, RECORD - 1, RECORD, RECORD + 1, 2 * RECORD, 100_000, 700_000, 1]


@pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("act", [echo, echo_lines, echo_view, echo_array])
@pytest.mark.parametrize("version", VERSIONS)
def test_echo(version, act, factory):
    messages = [bytes([i + 1]) * size for i, size in enumerate(SIZES)]

    def client(address):
        answers = []
        with connected(address) as sock:
            for message in messages:
                sock.sendall(message)
                answers.append(exactly(sock, len(message)))
            sock.unwrap()
        return answers

    answers, journal, reports = on_both(
        client, factory, lambda: server_context(version), pauses=False, data=act
    )
    assert answers == messages
    data = b"".join(entry[1] for entry in journal if entry[0] == "data")
    assert data == b"".join(messages)
    assert reports == []


@pytest.mark.parametrize("version", VERSIONS)
def test_streams(version):
    """Lines, exact counts and whatever comes, through StreamReader and StreamWriter."""
    total = 0

    async def serve(reader, writer):
        nonlocal total
        while line := await reader.readline():
            total += len(line)
            writer.write(line)
            data = await reader.readexactly(int(line))
            total += len(data)
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    def client(address):
        with connected(address) as sock:
            for size in SIZES:
                head = b"%d\n" % size
                sock.sendall(head + b"x" * size)
                assert exactly(sock, len(head) + size) == head + b"x" * size
            sock.unwrap()
        return True

    async def main():
        server = await asyncio.start_server(
            serve, "127.0.0.1", 0, ssl=server_context(version)
        )
        address = server.sockets[0].getsockname()
        loop = asyncio.get_running_loop()
        assert await asyncio.wait_for(
            loop.run_in_executor(None, client, address), LIMIT
        )
        server.close()

    aioloop.run(main())
    assert total == sum(SIZES) + sum(len(b"%d\n" % size) for size in SIZES)


def test_client_side_of_two_loops_ends():
    """Both ends on the loop: what one writes the other reads."""

    async def main():
        done = asyncio.get_running_loop().create_future()

        async def serve(reader, writer):
            while data := await reader.read(RECORD):
                writer.write(data)
                await writer.drain()
            writer.close()
            done.set_result(None)

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context())
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address, ssl=client_context())
        for size in SIZES[:-2]:
            writer.write(b"y" * size)
            assert await reader.readexactly(size) == b"y" * size
        writer.close()
        await writer.wait_closed()
        await done
        server.close()

    aioloop.run(asyncio.wait_for(main(), LIMIT))


# --- ends -----------------------------------------------------------------------------


def say_hello(address):
    with connected(address) as sock:
        sock.sendall(b"hello")
        with contextlib.suppress(ssl.SSLEOFError, ConnectionError):
            return sock.recv(100)


def unwrap_behind_data(address):
    """Data and close_notify leave together."""
    with socket.create_connection(address, timeout=LIMIT) as raw:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = client_context().wrap_bio(incoming, outgoing)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                raw.sendall(outgoing.read())
                incoming.write(raw.recv(RECORD))
        tls.write(b"first")
        tls.write(b"second")
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.unwrap()
        raw.sendall(outgoing.read())
        while raw.recv(RECORD):
            pass


def reset(address):
    with socket.create_connection(address, timeout=LIMIT) as raw:
        linger = struct.pack("ii", 1, 0)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        with client_context().wrap_socket(raw) as sock:
            sock.sendall(b"x")
            exactly(sock, 1)


def garbage(address):
    with socket.create_connection(address, timeout=LIMIT) as raw:
        with client_context().wrap_socket(
            raw.dup(), do_handshake_on_connect=True
        ) as sock:
            sock.sendall(b"x")
            exactly(sock, 1)
            raw.sendall(b"\x17\x03\x03\x00\x20" + b"no record of theirs at all......")
            with contextlib.suppress(ConnectionError):
                while raw.recv(100):
                    pass


def end_properly(address):
    with connected(address) as sock:
        sock.sendall(b"hello")
        sock.unwrap()


@pytest.mark.parametrize(
    "client",
    [end_properly, unwrap_behind_data, reset, garbage],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])
def test_how_the_peer_ends(client, factory):
    act = echo if client in (reset, garbage) else None
    _, journal, _ = on_both(client, factory, data=act)
    assert journal[0] == ("made",)
    assert journal[-1][0] == "lost"


@pytest.mark.parametrize("name", ["close", "abort", "pause_reading"])
def test_transport_is_told_inside_data_received(name):
    def act(protocol, data):
        getattr(protocol.transport, name)()
        protocol.transport.write(b"after")
        if name == "pause_reading":
            loop = asyncio.get_running_loop()
            loop.call_later(0.01, protocol.transport.resume_reading)
            loop.call_later(0.02, protocol.transport.close)

    _, journal, reports = on_both(say_hello, data=act)
    assert journal[:2] == [("made",), ("data", b"hello")]
    assert reports == []


def test_exceptions_of_data_received():
    def act(protocol, data):
        raise RuntimeError(f"for {data!r}")

    _, journal, reports = on_both(say_hello, data=act)
    assert reports == [("Fatal error on SSL protocol", "RuntimeError", "for b'hello'")]
    assert journal[-1] == ("lost", "RuntimeError")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_leaves_the_loop_leaves_it(kind):
    def act(protocol, data):
        protocol.transport.abort()
        raise kind("now")

    journals = []
    for new_loop in (asyncio.SelectorEventLoop, aioloop.new_event_loop):
        loop = new_loop()
        protocols = []

        async def main(loop=loop, protocols=protocols):
            protocols.append(Recorder(data=act))
            server = await loop.create_server(
                lambda: protocols[0], "127.0.0.1", 0, ssl=server_context()
            )
            loop.run_in_executor(None, say_hello, server.sockets[0].getsockname())
            return server

        server = loop.run_until_complete(main())
        with pytest.raises(kind, match="now"):
            loop.run_forever()
        loop.run_until_complete(asyncio.wait_for(protocols[0].lost, LIMIT))
        server.close()
        loop.run_until_complete(server.wait_closed())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        journals.append(protocols[0].journal)
    assert journals[0] == journals[1]


# --- writing --------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["text", None, 5, object(), [b"x"]], ids=repr)
def test_what_is_no_data(data):
    errors = []

    def act(protocol):
        try:
            protocol.transport.write(data)
        except TypeError as exc:
            errors.append(str(exc))
        protocol.transport.write(b"")
        protocol.transport.write(memoryview(b""))
        with pytest.raises(TypeError):
            protocol.transport.write()
        protocol.transport.write(data=b"end")
        protocol.transport.close()

    def client(address):
        with connected(address) as sock:
            return all_of(sock)

    answer, _, _ = on_both(client, made=act)
    assert answer == b"end"
    assert errors[0] == errors[1]


def test_writing_waits_for_a_slow_peer():
    """pause_writing and resume_writing, and nothing is lost."""
    count, size = 200, 100_000  # More than the kernel takes.
    written = threading.Event()

    def act(protocol):
        written.clear()
        protocol.transport.set_write_buffer_limits(200_000, 1000)
        for i in range(count):
            protocol.transport.write(bytes([i]) * size)
        protocol.note("written", protocol.transport.get_write_buffer_size() > 0)
        written.set()

    def ended(protocol):
        protocol.transport.close()

    def client(address):
        with connected(address) as sock:
            assert written.wait(LIMIT)
            received = exactly(sock, count * size)
            assert sock.recv(1) == b""
            sock.unwrap()
        return received

    answer, journal, reports = on_both(client, made=act, resume=ended)
    assert answer == b"".join(bytes([i]) * size for i in range(count))
    assert journal[:3] == [("made",), ("pause",), ("written", True)]
    assert journal[3] == ("resume",)
    assert reports == []


@pytest.mark.skipif(HARD, reason="as many pauses as pieces, and pieces are bytes there")
def test_limits_of_nothing():
    """A limit of 0 pauses for whatever waits, as asyncio understands it."""

    def act(protocol):
        protocol.transport.set_write_buffer_limits(0)
        protocol.note(protocol.transport.get_write_buffer_limits())
        protocol.transport.write(b"x" * 10)
        protocol.transport.set_read_buffer_limits(0)
        protocol.transport.close()

    def client(address):
        with connected(address) as sock:
            return all_of(sock)

    on_both(client, made=act)


def test_write_after_the_end(caplog):
    def act(protocol):
        protocol.transport.abort()
        for _ in range(7):
            protocol.transport.write(b"late")

    def client(address):
        with contextlib.suppress(OSError), connected(address) as sock:
            sock.recv(1)

    with caplog.at_level(logging.WARNING, "asyncio"):
        on_both(client, made=act)
    late = [r.getMessage() for r in caplog.records if "closed" in r.getMessage()]
    assert len(late) % 2 == 0
    assert late[: len(late) // 2] == late[len(late) // 2 :]


# --- what is stood in for -------------------------------------------------------------


def on_aioloop(act, client=say_hello, context=server_context):
    """Run one connection; return what `act` returned."""
    results = []

    async def main():
        loop = asyncio.get_running_loop()
        protocols = []

        def make():
            protocols.append(Recorder(data=lambda p, data: results.append(act(p))))
            return protocols[-1]

        server = await loop.create_server(make, "127.0.0.1", 0, ssl=context())
        answer = loop.run_in_executor(None, client, server.sockets[0].getsockname())
        while not results:
            await asyncio.sleep(0.001)
        protocols[0].transport.close()
        await answer
        await protocols[0].lost
        server.close()

    aioloop.run(asyncio.wait_for(main(), LIMIT))
    return results[0]


def test_the_transport_is_asyncios():
    def act(protocol):
        transport = protocol.transport
        kind = type(transport)
        assert isinstance(transport, asyncio.sslproto._SSLProtocolTransport)
        assert kind is not asyncio.sslproto._SSLProtocolTransport
        assert (kind.__name__, kind.__module__) == (
            "_SSLProtocolTransport",
            "asyncio.sslproto",
        )
        assert transport.get_extra_info("ssl_object").version()
        return True

    assert on_aioloop(act)


def test_receive_buffers_are_given_back():
    """asyncio holds 256 KB for each connection."""
    assert on_aioloop(lambda p: len(p.transport._ssl_protocol._ssl_buffer)) == 0


@pytest.mark.parametrize(
    "owner, name",
    [
        (asyncio.sslproto.SSLProtocol, "_do_read"),
        (asyncio.sslproto.SSLProtocol, "buffer_updated"),
        (asyncio.sslproto.SSLProtocol, "_write_appdata"),
        (asyncio.sslproto._SSLProtocolTransport, "write"),
        (ssl.SSLObject, "read"),
        (ssl.SSLObject, "write"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_replaced_methods_are_called(owner, name, when):
    calls = collections.Counter()
    original = getattr(owner, name)

    def replacement(self, *args):
        calls[name] += 1
        return original(self, *args)

    with contextlib.ExitStack() as stack:
        if when == "before":
            stack.enter_context(mock.patch.object(owner, name, replacement))

        def act(protocol, data):
            if when == "meanwhile" and not calls:
                stack.enter_context(mock.patch.object(owner, name, replacement))
                calls["patched"] += 1
            protocol.transport.write(data)

        def client(address):
            with connected(address) as sock:
                for _ in range(3):
                    sock.sendall(b"hello")
                    assert exactly(sock, 5) == b"hello"
                sock.unwrap()

        async def main():
            loop = asyncio.get_running_loop()
            protocol = Recorder(data=act)
            server = await loop.create_server(
                lambda: protocol, "127.0.0.1", 0, ssl=server_context()
            )
            address = server.sockets[0].getsockname()
            await loop.run_in_executor(None, client, address)
            await protocol.lost
            server.close()

        aioloop.run(asyncio.wait_for(main(), LIMIT))
    assert calls[name] >= 2


def test_a_class_for_ssl_objects():
    """SSLContext.sslobject_class is used for all that is read and written."""
    calls = collections.Counter()

    class Object(ssl.SSLObject):
        def read(self, *args):
            calls["read"] += 1
            return super().read(*args)

        def write(self, data):
            calls["write"] += 1
            return super().write(data)

    def context():
        context = server_context()
        context.sslobject_class = Object
        return context

    on_aioloop(lambda protocol: protocol.transport.write(b"x"), context=context)
    assert calls["read"] >= 1
    assert calls["write"] == 1
