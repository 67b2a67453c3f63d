"""Stream transports: the same program on asyncio and aioloop, event by event.

Each program drives one end of a connection as a transport and the other as a plain
socket, so that what the peer does happens at a known point. What it notes down on
asyncio's loop and on aioloop's has to be equal.
"""

import asyncio
import contextlib
import contextvars
import errno
import gc
import logging
import os
import re
import socket
import struct
import sys
import warnings

import pytest

import aioloop
from tests.conftest import HARD

LIMIT = 20
VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


class Journal(list):
    """What happened, in order; runs of received bytes are joined."""

    def __call__(self, *entry):
        if entry[0] == "data" and self and self[-1][0] == "data":
            self[-1] = ("data", self[-1][1] + entry[1])
        else:
            self.append(entry)


class Recorder(asyncio.Protocol):
    """Notes its callbacks; ``acts`` maps a callback's name to what it does."""

    def __init__(self, note, **acts):
        self.note = note
        self.acts = acts
        self.lost = asyncio.get_running_loop().create_future()

    def act(self, name):
        act = self.acts.get(name)
        return act(self) if act is not None else None

    def connection_made(self, transport):
        self.transport = transport
        self.note("made")
        self.act("connection_made")

    def data_received(self, data):
        assert type(data) is bytes
        self.note("data", data)
        self.act("data_received")

    def eof_received(self):
        self.note("eof")
        return self.act("eof_received")

    def pause_writing(self):
        self.note("pause")
        self.act("pause_writing")

    def resume_writing(self):
        self.note("resume")
        self.act("resume_writing")

    def connection_lost(self, exc):
        self.note("lost", type(exc).__name__, getattr(exc, "errno", None))
        if not self.lost.done():
            self.lost.set_result(None)
        self.act("connection_lost")


class BufferedRecorder(Recorder, asyncio.BufferedProtocol):
    """The same with a buffer of its own, of ``size`` bytes."""

    size = 64

    def __init__(self, note, **acts):
        super().__init__(note, **acts)
        self.buffer = bytearray(self.size)

    def get_buffer(self, sizehint):
        assert sizehint == -1
        result = self.act("get_buffer")
        return self.buffer if result is None else result

    def buffer_updated(self, nbytes):
        self.note("data", bytes(self.buffer[:nbytes]))
        self.act("buffer_updated")


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), timeout=LIMIT)
        server, _ = listener.accept()
    return client, server


PAIRS = {"tcp": tcp_pair, "unix": socket.socketpair}


class Stage:
    """One transport, its protocol and its peer, a non-blocking socket."""

    def __init__(self, loop, note, kind, state):
        self.loop = loop
        self.note = note
        self.kind = kind
        self.state = state

    async def open(self, protocol=Recorder, **acts):
        ours, self.peer = PAIRS[self.kind]()
        ours.setblocking(False)
        self.peer.setblocking(False)
        # So that a large write never fits as a whole.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
        self.transport, self.protocol = await self.loop.create_connection(
            lambda: protocol(self.note, **acts), sock=ours
        )
        return self.transport

    async def send(self, data):
        assert self.peer.send(data) == len(data)
        await asyncio.sleep(0)

    async def receive(self, count):
        received = bytearray()
        while len(received) < count:
            data = await self.loop.sock_recv(self.peer, count - len(received))
            if not data:
                break
            received += data
        return bytes(received)

    async def receive_all(self):
        received = bytearray()
        while data := await self.loop.sock_recv(self.peer, 65536):
            received += data
        return bytes(received)

    def reset(self):
        """Make the peer's close a reset."""
        self.peer.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.peer.close()

    async def turns(self, count=3):
        """Let the loop look at its descriptors and run what that brings."""
        for _ in range(count):
            await asyncio.sleep(0.0005)

    async def until(self, *entry):
        async with asyncio.timeout(LIMIT):
            while not any(noted[: len(entry)] == entry for noted in self.note):
                await asyncio.sleep(0.001)

    async def gone(self):
        await asyncio.wait_for(asyncio.shield(self.protocol.lost), LIMIT)
        await self.turns()


def run_on(factory, program, kind, debug):
    note = Journal()
    state = {}

    def handler(loop, context):
        if "'NoneType' object" in str(context.get("exception")):
            return  # asyncio calls connection_lost twice (gh-156512).
        message = re.sub(r"_?\w*SocketTransport\.|\(.*\)$", "", context["message"])
        note(
            "handler",
            message,
            type(context.get("exception")).__name__,
            str(context.get("exception")),
            sorted(set(context) - {"source_traceback"}),
        )

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(handler)
        stage = Stage(loop, note, kind, state)
        try:
            await asyncio.wait_for(program(stage), LIMIT)
        finally:
            if hasattr(stage, "transport"):
                if not stage.protocol.lost.done():
                    stage.transport.abort()
                stage.peer.close()
                await stage.turns()

    with asyncio.Runner(loop_factory=factory, debug=debug) as runner:
        runner.run(main())
    gc.collect()
    return list(note)


def assert_equal_on_both(program, kind, debug):
    theirs = run_on(asyncio.SelectorEventLoop, program, kind, debug)
    ours = run_on(aioloop.new_event_loop, program, kind, debug)
    assert ours == theirs
    assert theirs, "the program notes nothing"


# --- programs ----------------------------------------------------------------------


async def data_then_close_of_peer(stage):
    await stage.open()
    await stage.send(b"hello")
    await stage.until("data", b"hello")
    await stage.send(b" world")
    stage.peer.close()
    await stage.gone()


async def eof_keeps_open(stage):
    transport = await stage.open(eof_received=lambda protocol: True)
    stage.peer.shutdown(socket.SHUT_WR)
    await stage.until("eof")
    await stage.turns()
    stage.note(transport.is_closing(), transport.is_reading())
    transport.write(b"still here")
    stage.note(await stage.receive(10))
    transport.close()
    stage.note(transport.is_closing(), transport.is_reading())
    await stage.gone()
    stage.note(await stage.receive_all())


async def eof_received_false(stage):
    transport = await stage.open(eof_received=lambda protocol: False)
    stage.peer.shutdown(socket.SHUT_WR)
    await stage.gone()
    stage.note(transport.is_closing(), transport.get_protocol())


async def eof_received_raises(stage):
    def fail(protocol):
        raise ValueError("eof")

    await stage.open(eof_received=fail)
    stage.peer.shutdown(socket.SHUT_WR)
    await stage.gone()


async def reset_while_idle(stage):
    await stage.open()
    stage.reset()
    await stage.gone()


async def reset_with_unread_data(stage):
    transport = await stage.open()
    transport.write(b"never read")
    await stage.turns()
    stage.peer.close()
    await stage.gone()


async def reset_while_paused_then_write(stage):
    transport = await stage.open()
    transport.pause_reading()
    stage.reset()
    for _ in range(3):
        transport.write(b"x" * 1000)
        stage.note(transport.get_write_buffer_size(), transport.is_closing())
        await stage.turns(1)
    await stage.gone()


async def writes_after_connection_lost(stage):
    records = []
    watcher = logging.Handler()
    watcher.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("asyncio")
    logger.addHandler(watcher)
    try:
        transport = await stage.open()
        transport.abort()
        for _ in range(8):
            transport.write(b"lost")
        stage.note(transport._conn_lost)
        await stage.gone()
        for _ in range(2):
            transport.write(b"lost")
        transport.close()
        transport.abort()
        transport.pause_reading()
        transport.resume_reading()
        stage.note(transport._conn_lost, transport.get_write_buffer_size())
    finally:
        logger.removeHandler(watcher)
    stage.note([text for text in records if "raised exception" in text])


async def backpressure(stage):
    transport = await stage.open()
    transport.set_write_buffer_limits(high=100_000, low=20_000)
    stage.note(transport.get_write_buffer_limits())
    total = 0
    for size in (10, 250_000, 50_000, 1):
        transport.write(b"x" * size)
        total += size
        left = transport.get_write_buffer_size()
        stage.note(left > 100_000, left <= total, transport._protocol_paused)
    stage.note("read", len(await stage.receive(total)))
    await stage.until("resume")
    await stage.turns()
    stage.note(transport.get_write_buffer_size())
    transport.write(b"more")
    stage.note(transport.get_write_buffer_size(), await stage.receive(4))


async def limits_of_zero(stage):
    transport = await stage.open()
    transport.set_write_buffer_limits(high=0)
    stage.note(transport.get_write_buffer_limits())
    transport.write(b"x" * 300_000)
    stage.note("written", transport.get_write_buffer_size() > 0)
    stage.note("read", len(await stage.receive(300_000)))
    await stage.until("resume")


async def limits_lowered_below_the_buffer(stage):
    transport = await stage.open()
    transport.set_write_buffer_limits(high=50_000_000)
    transport.write(b"x" * 300_000)
    stage.note("written", transport.get_write_buffer_size() > 1000)
    transport.set_write_buffer_limits(high=1000)
    stage.note("lowered", transport.get_write_buffer_limits())
    stage.note("read", len(await stage.receive(300_000)))
    await stage.until("resume")


async def writing_while_resuming(stage):
    def write_more(protocol):
        if not stage.state.setdefault(id(stage.loop), False):
            stage.state[id(stage.loop)] = True
            protocol.transport.write(b"y" * 250_000)

    transport = await stage.open(resume_writing=write_more)
    transport.write(b"x" * 250_000)
    received = await stage.receive(500_000)
    stage.note(received == b"x" * 250_000 + b"y" * 250_000)
    await stage.turns(10)


async def write_eof_at_once(stage):
    transport = await stage.open()
    transport.write(b"last")
    stage.note(transport.can_write_eof())
    transport.write_eof()
    transport.write_eof()
    for call in (
        lambda: transport.write(b"x"),
        lambda: transport.writelines([b"x"]),
    ):
        try:
            call()
        except RuntimeError as exc:
            # 3.11 has writelines call write.
            stage.note(str(exc).replace("writelines()", "write()"))
    stage.note(await stage.receive_all())
    await stage.send(b"answer")
    await stage.until("data", b"answer")
    stage.note(transport.is_closing())
    stage.peer.close()
    await stage.gone()


async def write_eof_behind_data(stage):
    transport = await stage.open()
    transport.write(b"x" * 300_000)
    transport.write_eof()
    stage.note("received", len(await stage.receive_all()))
    stage.peer.close()
    await stage.gone()


async def close_behind_data(stage):
    transport = await stage.open()
    transport.write(b"x" * 300_000)
    transport.close()
    stage.note(transport.is_closing(), transport.get_write_buffer_size() > 0)
    transport.write(b"y")
    received = await stage.receive_all()
    stage.note(len(received), received[-1:])
    await stage.gone()


async def abort_drops_data(stage):
    transport = await stage.open()
    transport.write(b"x" * 300_000)
    transport.abort()
    stage.note(transport.get_write_buffer_size(), transport.is_closing())
    await stage.gone()
    stage.note(len(await stage.receive_all()) < 300_000)


async def abort_keeps_what_was_sent(stage):
    transport = await stage.open()
    transport.write(b"sent")
    transport.abort()
    stage.note(await stage.receive_all())
    await stage.gone()


async def pause_and_resume_reading(stage):
    transport = await stage.open()
    stage.note(transport.is_reading())
    transport.pause_reading()
    transport.pause_reading()
    stage.note(transport.is_reading())
    await stage.send(b"early")
    await stage.turns(5)
    stage.note("nothing yet")
    transport.resume_reading()
    transport.resume_reading()
    stage.note(transport.is_reading())
    await stage.until("data", b"early")


async def pause_in_connection_made(stage):
    transport = await stage.open(
        connection_made=lambda protocol: protocol.transport.pause_reading()
    )
    await stage.send(b"early")
    await stage.turns(5)
    stage.note("nothing yet", transport.is_reading())
    transport.resume_reading()
    await stage.until("data", b"early")


async def pause_in_data_received(stage):
    transport = await stage.open(
        data_received=lambda protocol: protocol.transport.pause_reading()
    )
    await stage.send(b"one")
    await stage.until("data", b"one")
    await stage.send(b"two")
    await stage.turns(5)
    stage.note("paused", transport.is_reading())
    transport.resume_reading()
    await stage.until("data", b"two")


def closing_in(name, how):
    async def program(stage):
        await stage.open(**{name: lambda protocol: getattr(protocol.transport, how)()})
        # What is closed already takes neither.
        with contextlib.suppress(OSError):
            await stage.send(b"data")
        await stage.turns()
        stage.transport.write(b"x" * 300_000)
        with contextlib.suppress(OSError):
            stage.peer.shutdown(socket.SHUT_WR)
        try:
            stage.note("received", len(await stage.receive_all()) <= 300_000)
        except ConnectionResetError:
            stage.note("reset")
        await stage.gone()

    program.__name__ = f"{how}_in_{name}"
    return program


def raising_in(name, protocol=Recorder):
    async def program(stage):
        def fail(protocol):
            raise ValueError(f"from {name}")

        await stage.open(protocol, **{name: fail})
        await stage.send(b"data")
        await stage.turns(5)
        stage.transport.write(b"x" * 300_000)
        try:
            stage.note("received", len(await stage.receive(300_000)) <= 300_000)
        except ConnectionResetError:
            stage.note("reset")
        await stage.turns(5)
        stage.peer.close()
        await stage.gone()

    program.__name__ = f"raising_in_{name}"
    return program


async def buffered_protocol(stage):
    await stage.open(BufferedRecorder)
    await stage.send(b"0123456789" * 50)
    await stage.until("data", b"0123456789" * 50)
    stage.peer.close()
    await stage.gone()


def odd_buffer(buffer, name):
    async def program(stage):
        await stage.open(BufferedRecorder, get_buffer=lambda protocol: buffer)
        await stage.send(b"data")
        await stage.gone()

    program.__name__ = name
    return program


async def buffer_as_memoryview(stage):
    memory = bytearray(8)
    received = []

    def updated(protocol):
        received.append(bytes(memory))

    await stage.open(
        BufferedRecorder,
        get_buffer=lambda protocol: memoryview(memory),
        buffer_updated=updated,
    )
    await stage.send(b"ab")
    await stage.until("data")
    stage.note(received)


async def another_protocol(stage):
    transport = await stage.open()
    await stage.send(b"first")
    await stage.until("data", b"first")
    other = BufferedRecorder(lambda *entry: stage.note("other", *entry))
    other.transport = transport
    transport.set_protocol(other)
    stage.note(transport.get_protocol() is other)
    await stage.send(b"second")
    await stage.until("other", "data", b"second")
    stage.peer.close()
    await asyncio.wait_for(other.lost, LIMIT)


async def kinds_of_data(stage):
    transport = await stage.open()
    mutable = bytearray(b"mutable ")
    transport.write(b"bytes ")
    transport.write(mutable)
    mutable[:] = b"changed!"
    transport.write(memoryview(b"view "))
    transport.write(memoryview(b"0s1l2i3c4e5d6 ")[1::2].tobytes())
    transport.write(b"")
    transport.write(bytearray())
    transport.writelines([b"li", bytearray(b"st "), memoryview(b"of "), b"", b"data"])
    transport.writelines([])
    transport.writelines(data for data in (b" from ", b"a generator"))
    expected = b"bytes mutable view slicedlist of data from a generator"
    stage.note(await stage.receive(len(expected)))
    for wrong in ("text", 1, None, [b"x"]):
        with pytest.raises(TypeError) as caught:
            transport.write(wrong)
        stage.note(str(caught.value))
    for wrong in (["text"], [1], 5, None):
        try:
            transport.writelines(wrong)
        except TypeError:
            stage.note(wrong, "TypeError")
        stage.note(wrong, transport.get_write_buffer_size())


async def large_mutable_buffer(stage):
    transport = await stage.open()
    mutable = bytearray(b"x" * 250_000)
    transport.write(mutable)
    mutable[:] = b"y" * 250_000
    transport.write(memoryview(mutable))
    transport.write(b"end")
    received = await stage.receive(500_003)
    stage.note(len(received), received[-3:])
    # Before 3.12 asyncio copies what it cannot send; later it keeps a view.
    if sys.version_info < (3, 12):
        stage.note(received == b"x" * 250_000 + b"y" * 250_000 + b"end")


async def many_small_writes(stage):
    transport = await stage.open()
    pieces = [str(number).encode() for number in range(2000)]
    for piece in pieces:
        transport.write(piece)
    whole = b"".join(pieces)
    stage.note(await stage.receive(len(whole)) == whole)
    transport.writelines(pieces)
    stage.note(await stage.receive(len(whole)) == whole)


async def sizes_after_each_write(stage):
    transport = await stage.open()
    for size in (1, 100, 5000):
        transport.write(b"x" * size)
        stage.note(transport.get_write_buffer_size())
    stage.note(len(await stage.receive(5101)))


async def contexts(stage):
    def look(name, change=None):
        def act(protocol):
            stage.note(name, VARIABLE.get())
            if change:
                VARIABLE.set(change)

        return act

    VARIABLE.set("opener")
    transport = await stage.open(
        connection_made=look("made in", "made"),
        data_received=look("data in", "data"),
        resume_writing=look("resume in"),
        pause_writing=look("pause in"),
        connection_lost=look("lost in"),
    )
    await stage.send(b"one")
    await stage.until("data", b"one")
    await stage.turns()
    stage.note.append(("between",))
    await stage.send(b"two")
    await stage.until("data", b"two")
    VARIABLE.set("writer")
    transport.write(b"x" * 300_000)
    VARIABLE.set("later")
    stage.note("read", len(await stage.receive(300_000)))
    await stage.until("resume in")
    VARIABLE.set("closer")
    transport.close()
    await stage.gone()


async def extra_info(stage):
    transport = await stage.open()
    sock = transport.get_extra_info("socket")
    stage.note(
        type(sock).__name__, sock.family, sock.type, sock.fileno() == transport._sock_fd
    )
    stage.note(sock is transport.get_extra_info("socket"))
    stage.note(transport.get_extra_info("sockname") == sock.getsockname())
    stage.note(transport.get_extra_info("peername") == sock.getpeername())
    stage.note(transport.get_extra_info("nothing", 5), sorted(transport._extra))
    stage.note(transport.get_extra_info("nothing"), transport.get_extra_info("ssl"))
    names = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
    transport.close()
    await stage.gone()
    stage.note(sock.fileno(), transport.get_extra_info("socket") is sock)
    stage.note(
        names
        == (transport.get_extra_info("sockname"), transport.get_extra_info("peername"))
    )


async def extra_info_asked_late(stage):
    transport = await stage.open()
    peer = stage.peer.getsockname(), stage.peer.getpeername()
    stage.peer.close()
    await stage.gone()
    stage.note(transport.get_extra_info("peername") == peer[0])
    stage.note(transport.get_extra_info("sockname") == peer[1])
    stage.note(transport.get_extra_info("socket").fileno())


async def representation(stage):
    transport = await stage.open()

    def shape():
        text = re.sub(r"fd=\d+", "fd=N", repr(transport))
        return re.sub(r"^<\w+", "<", text)

    stage.note(shape())
    transport.pause_reading()
    stage.note(shape())
    transport.resume_reading()
    transport.write(b"x" * 300_000)
    stage.note(re.sub("bufsize=[1-9][0-9]*", "bufsize=SOME", shape()))
    transport.close()
    stage.note(re.sub("bufsize=[1-9][0-9]*", "bufsize=SOME", shape()))
    await stage.receive_all()
    await stage.gone()
    stage.note(shape())


async def dropped_without_close(stage):
    transport = await stage.open()
    transport.pause_reading()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del transport, stage.transport, stage.protocol
        gc.collect()
    texts = [str(w.message) for w in caught if w.category is ResourceWarning]
    texts = [re.sub(r"<\w+|=\d+", "", text) for text in texts]
    stage.note([text for text in texts if "unclosed transport" in text])
    stage.note(stage.peer.recv(1))
    stage.peer.close()


async def used_by_transport(stage):
    transport = await stage.open()
    sock = transport._sock
    for call in (
        lambda: stage.loop.add_reader(sock, print),
        lambda: stage.loop.add_writer(sock.fileno(), print),
        lambda: stage.loop.remove_reader(sock),
        lambda: stage.loop.remove_writer(sock),
    ):
        with pytest.raises(RuntimeError) as caught:
            call()
        stage.note(re.sub(r"<.*>|\d+", "<>", str(caught.value)))
    with pytest.raises(RuntimeError):
        await stage.loop.sock_recv(sock, 10)
    transport.close()
    stage.note(stage.loop.remove_reader(sock))


async def socket_closed_behind_its_back(stage):
    transport = await stage.open()
    transport._sock.close()
    await stage.turns()
    stage.note("quiet")
    transport.write(b"x")
    stage.note(transport.get_write_buffer_size())
    await stage.gone()


PROGRAMS = [
    data_then_close_of_peer,
    eof_keeps_open,
    eof_received_false,
    eof_received_raises,
    reset_with_unread_data,
    writes_after_connection_lost,
    backpressure,
    limits_of_zero,
    limits_lowered_below_the_buffer,
    writing_while_resuming,
    write_eof_at_once,
    write_eof_behind_data,
    close_behind_data,
    abort_drops_data,
    abort_keeps_what_was_sent,
    pause_and_resume_reading,
    pause_in_connection_made,
    pause_in_data_received,
    *(
        closing_in(name, how)
        for name in (
            "connection_made",
            "data_received",
            "pause_writing",
            "resume_writing",
            "eof_received",
            "connection_lost",
        )
        for how in ("close", "abort")
    ),
    *(
        raising_in(name)
        for name in (
            "connection_made",
            "data_received",
            "pause_writing",
            "resume_writing",
            "connection_lost",
        )
    ),
    raising_in("get_buffer", BufferedRecorder),
    raising_in("buffer_updated", BufferedRecorder),
    buffered_protocol,
    odd_buffer(bytearray(), "empty_buffer"),
    odd_buffer(b"read only", "read_only_buffer"),
    odd_buffer(5, "integer_for_a_buffer"),
    buffer_as_memoryview,
    another_protocol,
    kinds_of_data,
    large_mutable_buffer,
    many_small_writes,
    sizes_after_each_write,
    contexts,
    extra_info,
    extra_info_asked_late,
    representation,
    dropped_without_close,
    used_by_transport,
    socket_closed_behind_its_back,
]
# Programs in which it matters how many bytes one system call moves: the hard build
# moves one and refuses now and then.
COUNTING_CALLS = {
    "backpressure",
    "abort_keeps_what_was_sent",
    "pause_in_data_received",
    "close_in_data_received",
    "abort_in_data_received",
    "raising_in_data_received",
    "raising_in_buffer_updated",
    "buffer_as_memoryview",
    "another_protocol",
    "kinds_of_data",
    "sizes_after_each_write",
    "contexts",
}
TCP_PROGRAMS = [reset_while_idle, reset_while_paused_then_write]


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_same_events(program, kind, debug):
    if HARD and program.__name__ in COUNTING_CALLS:
        pytest.skip("the hard build moves single bytes")
    assert_equal_on_both(program, kind, debug)


@pytest.mark.parametrize("program", TCP_PROGRAMS, ids=lambda program: program.__name__)
def test_same_events_on_tcp(program, debug):
    assert_equal_on_both(program, "tcp", debug)


# --- what leaves run_forever ---------------------------------------------------------


@pytest.mark.skipif(HARD, reason="the hard build moves single bytes")
@pytest.mark.parametrize("exit", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize(
    "name",
    [
        "connection_made",
        "data_received",
        "eof_received",
        "pause_writing",
        "resume_writing",
        "connection_lost",
    ],
)
def test_exits_leave_run_forever(name, exit):
    def leaves(factory):
        note = Journal()
        loop = factory()
        ours, peer = socket.socketpair()
        ours.setblocking(False)
        peer.settimeout(LIMIT)

        def leave(protocol):
            raise exit(5)

        async def opened():
            return await loop.create_connection(
                lambda: Recorder(note, **{name: leave}), sock=ours
            )

        def drive():
            transport, _ = loop.run_until_complete(opened())
            peer.send(b"data")
            peer.shutdown(socket.SHUT_WR)
            if name in ("pause_writing", "resume_writing"):
                transport.write(b"x" * 300_000)
                transport.close()
                while peer.recv(1 << 20):
                    loop.call_soon(loop.stop)
                    loop.run_forever()
            loop.call_later(LIMIT, loop.stop)
            loop.run_forever()

        try:
            with pytest.raises(exit):
                drive()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                for _ in range(4):
                    loop.call_soon(loop.stop)
                    try:
                        loop.run_forever()
                    except exit:
                        note("again")
                loop.close()
                gc.collect()
        finally:
            peer.close()
            ours.close()
        return list(note)

    assert leaves(aioloop.new_event_loop) == leaves(asyncio.SelectorEventLoop)


# --- connecting ----------------------------------------------------------------------


def outcome_of(factory, connect):
    async def main():
        try:
            await asyncio.wait_for(connect(asyncio.get_running_loop()), LIMIT)
        except Exception as exc:
            return type(exc), getattr(exc, "errno", None), str(exc)
        return None

    with warnings.catch_warnings():
        # asyncio leaves the socket to the garbage collector when a factory fails.
        warnings.simplefilter("ignore", ResourceWarning)
        with asyncio.Runner(loop_factory=factory) as runner:
            result = runner.run(main())
        gc.collect()
    return result


def test_refused_connections():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()

    async def connect(loop):
        await loop.create_connection(asyncio.Protocol, *address)

    ours = outcome_of(aioloop.new_event_loop, connect)
    assert ours[:2] == (ConnectionRefusedError, errno.ECONNREFUSED)
    assert ours == outcome_of(asyncio.SelectorEventLoop, connect)


def test_connecting_to_no_unix_socket(tmp_path):
    async def connect(loop):
        await loop.create_unix_connection(asyncio.Protocol, str(tmp_path / "none"))

    ours = outcome_of(aioloop.new_event_loop, connect)
    assert ours[0] is FileNotFoundError
    assert ours == outcome_of(asyncio.SelectorEventLoop, connect)


def test_unreachable_addresses():
    async def connect(loop):
        # A broadcast address: refused at once, without anything on the wire.
        await loop.create_connection(asyncio.Protocol, "255.255.255.255", 9)

    ours = outcome_of(aioloop.new_event_loop, connect)
    assert issubclass(ours[0], OSError)
    assert ours == outcome_of(asyncio.SelectorEventLoop, connect)


def test_factories_that_raise():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        async def connect(loop):
            await loop.create_connection(lambda: 1 / 0, *listener.getsockname())

        ours = outcome_of(aioloop.new_event_loop, connect)
        assert ours[0] is ZeroDivisionError
        assert ours == outcome_of(asyncio.SelectorEventLoop, connect)


# --- the interface -------------------------------------------------------------------


def test_every_public_method_is_there():
    theirs = asyncio.selector_events._SelectorSocketTransport
    ours = aioloop._core.SocketTransport
    assert issubclass(ours, asyncio.Transport)
    missing = [
        name
        for name in dir(theirs)
        if not name.startswith("_") and not hasattr(ours, name)
    ]
    assert not missing


def logged_after_the_end(new_loop, caplog, open_one, write):
    """Write on a transport that is lost for long, and return what is logged of that."""
    caplog.clear()

    async def main():
        transport = await open_one(asyncio.get_running_loop())
        transport.abort()
        for _ in range(8):
            await asyncio.sleep(0)
            write(transport)

    with contextlib.closing(new_loop()) as loop:
        loop.run_until_complete(main())
    return [text for text in caplog.messages if "raised exception" in text]


async def connected_datagrams(loop):
    transport, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=("127.0.0.1", 9)
    )
    return transport


async def writing_pipe(loop):
    reader, writer = os.pipe()
    os.close(reader)
    pipe = open(writer, "wb", 0)
    transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, pipe)
    return transport


@pytest.mark.parametrize(
    ("open_one", "write"),
    [
        (connected_datagrams, lambda transport: transport.sendto(b"lost")),
        (writing_pipe, lambda transport: transport.write(b"lost")),
    ],
)
def test_the_fifth_write_after_connection_lost_is_warned_of(open_one, write, caplog):
    theirs = logged_after_the_end(asyncio.SelectorEventLoop, caplog, open_one, write)
    ours = logged_after_the_end(aioloop.new_event_loop, caplog, open_one, write)
    assert ours == theirs
    assert theirs
