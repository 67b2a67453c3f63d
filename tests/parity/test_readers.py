"""Reading from streams: the same steps on asyncio and aioloop, result by result.

aioloop's readers have their read methods in C, and give a waiting read() what arrives
past the buffer. Each step here is followed by a mark on another socket, so that both
loops have seen the same things when the next one is taken.
"""

import asyncio
import contextlib
import inspect
import io
import pickle
import random
import socket
import ssl
import types

import pytest

import aioloop
from tests.conftest import HARD, anonymous_context

LIMIT = 20
step_by_step = pytest.mark.skipif(
    HARD,
    reason="a message arrives byte by byte on one of the loops",
)


class Stage:
    """One reader, the peer that feeds it, and what was seen."""

    def __init__(self, limit):
        self.limit = limit
        self.seen = []
        self.reading = None

    async def open(self):
        self.loop = asyncio.get_running_loop()
        ours, self.peer = socket.socketpair()
        self.peer.setblocking(False)
        self.reader, self.writer = await asyncio.open_connection(
            sock=ours, limit=self.limit
        )

    async def close(self):
        if self.reading is not None:
            self.reading.cancel()
            await asyncio.wait([self.reading])
        self.writer.close()
        with contextlib.suppress(OSError, RuntimeError):
            await self.writer.wait_closed()
        self.peer.close()

    async def polled(self, act=None):
        """Wait until what was sent before has arrived, and call `act` right then.

        The kernel tells of a socket that is new to it, and readable, after those that
        became readable before: `act` is called behind the reader's transport and
        before the tasks that this wakes.
        """
        mark, marked = socket.socketpair()
        seen = self.loop.create_future()

        def ready():
            self.loop.remove_reader(mark)
            if act is not None:
                act()
            seen.set_result(None)

        marked.send(b"!")
        self.loop.add_reader(mark, ready)
        await seen
        mark.close()
        marked.close()

    async def settled(self, act=None):
        """Do that, and wait for what comes of it: a reader that was paused goes on."""
        await self.polled(act)
        for _ in range(3):
            await self.polled()
            await asyncio.sleep(0)

    def note(self, what):
        reader = self.reader
        self.seen.append(
            (what, bytes(reader._buffer), reader._paused, reader.at_eof(), reader._eof)
        )

    def collect(self):
        """Note the result of the read that is under way, if it has one."""
        if self.reading is None or not self.reading.done():
            return
        task, self.reading = self.reading, None
        if task.cancelled():
            self.note("cancelled")
        elif task.exception() is not None:
            exc = task.exception()
            context = exc.__context__
            self.note((type(exc), str(exc), exc.args, type(context), str(context)))
        else:
            assert type(task.result()) is bytes
            self.note(task.result())

    async def read(self, method, *args):
        other = self.loop.create_task(getattr(self.reader, method)(*args))
        await self.settled()
        if self.reading is None:
            self.reading = other
        else:
            # Two at a time: the second one is refused if it has to wait.
            other.cancel()
            await asyncio.wait([other])
            if other.cancelled():
                self.note("a second read was pending")
            else:
                self.note(str(other.exception() or other.result()))
        self.collect()

    async def send(self, data, act=None):
        self.peer.sendall(data)
        await self.settled(act)
        self.collect()
        self.note("sent")

    async def end(self, act=None):
        self.peer.shutdown(socket.SHUT_WR)
        await self.settled(act)
        self.collect()
        self.note("end")

    def cancel(self):
        if self.reading is not None:
            self.reading.cancel()


def both(program, limit=100):
    """Run a program on both loops; what they saw has to be equal."""
    seen = []
    for factory in (asyncio.SelectorEventLoop, aioloop.new_event_loop):
        stage = Stage(limit)

        async def main(stage=stage):
            await stage.open()
            try:
                await program(stage)
            finally:
                await stage.close()

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(asyncio.wait_for(main(), LIMIT))
        seen.append(stage.seen)
    assert seen[1] == seen[0]
    assert seen[0]


@step_by_step
@pytest.mark.parametrize("limit", [1, 10, 64 * 1024])
@pytest.mark.parametrize("seed", range(25))
def test_any_sequence_of_steps(seed, limit):
    async def program(stage):
        rng = random.Random(f"{seed} {limit}")
        for _ in range(40):
            size = rng.choice([0, 1, 2, 5, 19, 20, 21, 100])
            step = rng.randrange(10)
            if step < 3:
                data = bytes(rng.choice(b"ab\n") for _ in range(size))
                act = rng.choice([None, None, stage.cancel])
                if data:
                    await stage.send(data, act)
            elif step == 3:
                await stage.read("read", size)
            elif step == 4:
                await stage.read("readexactly", size)
            elif step == 5:
                await stage.read("readline")
            elif step == 6:
                await stage.read("readuntil", rng.choice([b"\n", b"ab", b"aab\n"]))
            elif step == 7:
                await stage.read("read", 1000)
            elif step == 8:
                stage.cancel()
                await stage.settled()
                stage.collect()
            elif rng.randrange(10) == 0:
                await stage.read("read")
        if stage.reading is not None:
            stage.cancel()
            await stage.settled()
            stage.collect()
        stage.peer.shutdown(socket.SHUT_WR)
        stage.note(await stage.reader.read())
        await stage.read("readline")
        await stage.read("readexactly", 1)

    both(program, limit)


async def cancelled_when_data_is_there(stage):
    await stage.read("read", 100)
    await stage.send(b"abc", stage.cancel)
    await stage.read("read", 2)
    await stage.read("read", 100)


async def more_arrives_before_the_task_runs(stage):
    await stage.read("read", 100)
    await stage.send(b"abc", lambda: stage.reader.feed_data(b"def"))
    await stage.read("read", 100)


async def end_before_the_task_runs(stage):
    def end():
        stage.reader.feed_eof()
        stage.seen.append(stage.reader.exception())

    await stage.read("read", 100)
    await stage.send(b"abc", end)
    await stage.read("read", 100)


async def error_before_the_task_runs(stage):
    await stage.read("read", 100)
    await stage.send(b"abc", lambda: stage.reader.set_exception(OSError("lost")))
    await stage.read("read", 100)
    await stage.read("readline")
    await stage.read("readexactly", 0)


async def error_while_it_waits(stage):
    await stage.read("read", 100)
    stage.reader.set_exception(ConnectionResetError("gone"))
    await stage.settled()
    stage.collect()
    await stage.read("read", 0)


async def class_as_exception(stage):
    stage.reader.set_exception(ValueError)
    await stage.read("read", 1)


async def shorter_than_what_arrives(stage):
    await stage.read("read", 2)
    await stage.send(b"abcdef")
    await stage.read("readexactly", 4)


async def beyond_the_limit(stage):
    await stage.send(b"x" * 150)
    await stage.read("readline")
    await stage.send(b"y" * 150 + b"\nrest")
    await stage.read("readline")
    await stage.read("readuntil", b"z")
    await stage.read("read", 1000)


async def found_beyond_the_limit(stage):
    await stage.read("readuntil", b"--")
    await stage.send(b"x" * 120 + b"--y")
    await stage.read("readexactly", 123)


async def by_hand(stage):
    await stage.read("read", 100)
    stage.reader.feed_data(b"by hand")
    await stage.settled()
    stage.collect()
    stage.reader.feed_data(b"more\n")
    await stage.read("readline")


async def odd_arguments(stage):
    await stage.send(b"abc\n" * 8)
    for method, *args in [
        ("read", True),
        ("read", 2.0),
        ("read", "x"),
        ("read", 2**70),
        ("readexactly", -1),
        ("readexactly", None),
        ("readuntil", b""),
        ("readuntil", bytearray(b"c")),
        ("readuntil", "c"),
    ]:
        await stage.read(method, *args)
    await stage.send(b"abc\n")
    stage.reading = stage.loop.create_task(stage.reader.read(n=2))
    await stage.settled()
    stage.collect()


async def lines(stage):
    async def all_lines():
        return b"|".join([line async for line in stage.reader])

    stage.reading = stage.loop.create_task(all_lines())
    await stage.send(b"one\ntwo\nthr")
    await stage.send(b"ee\nfour")
    await stage.end()


async def waited_for(stage):
    for data in (b"", b"data"):
        if data:
            await stage.send(data)
        try:
            result = await asyncio.wait_for(stage.reader.read(10), 0.01)
        except TimeoutError:
            result = "timeout"
        stage.note(result)


async def buffer_in_use(stage):
    await stage.send(b"abcdef")
    view = memoryview(stage.reader._buffer)
    await stage.read("read", 3)
    await stage.read("readexactly", 6)
    view.release()
    await stage.read("read", 100)


async def methods_called_unbound(stage):
    await stage.send(b"abc\ndef")
    stage.note(await asyncio.StreamReader.readline(stage.reader))
    stage.note(await type(stage.reader).read(stage.reader, 100))


@step_by_step
@pytest.mark.parametrize(
    "program",
    [
        cancelled_when_data_is_there,
        more_arrives_before_the_task_runs,
        end_before_the_task_runs,
        error_before_the_task_runs,
        error_while_it_waits,
        class_as_exception,
        shorter_than_what_arrives,
        beyond_the_limit,
        found_beyond_the_limit,
        by_hand,
        odd_arguments,
        lines,
        waited_for,
        buffer_in_use,
        methods_called_unbound,
    ],
    ids=lambda program: program.__name__,
)
def test_program(program):
    both(program)


async def on_a_reader(use, **options):
    """Call ``use(stage)`` with a stage of aioloop's."""
    stage = Stage(64 * 1024)
    await stage.open()
    try:
        return await use(stage)
    finally:
        await stage.close()


def test_the_class_is_called_as_asyncios():
    async def use(stage):
        reader = stage.reader
        assert isinstance(reader, asyncio.StreamReader)
        assert repr(type(reader)) == repr(asyncio.StreamReader)
        assert type(reader).__mro__[1] is asyncio.StreamReader
        for name in ("read", "readline", "readuntil", "readexactly"):
            ours = getattr(reader, name)
            theirs = getattr(asyncio.StreamReader, name)
            assert inspect.iscoroutinefunction(ours)
            assert ours.__doc__ == theirs.__doc__
            assert ours.__qualname__ == theirs.__qualname__
            parameters = list(inspect.signature(theirs).parameters.values())[1:]
            assert list(inspect.signature(ours).parameters.values()) == parameters
        call = reader.read(1)
        assert asyncio.iscoroutine(call)
        assert inspect.iscoroutine(call)
        call.close()

    aioloop.run(on_a_reader(use))


def test_a_call_looks_like_a_coroutine():
    """What asks for coroutines, as anyio's start_soon() does, takes it."""

    async def use(stage):
        call = stage.reader.readline()
        code = asyncio.StreamReader.readline.__code__
        assert isinstance(call, types.CoroutineType)
        assert call.__class__ is types.CoroutineType
        assert inspect.iscoroutine(call)
        assert inspect.getcoroutinestate(call) == inspect.CORO_CREATED
        assert call.cr_code is code
        assert call.cr_frame.f_code is code
        assert inspect.getcoroutinelocals(call) == {}
        assert call.cr_await is None
        assert call.cr_origin is None
        task = asyncio.create_task(call)
        await asyncio.sleep(0)
        assert inspect.getcoroutinestate(call) == inspect.CORO_SUSPENDED
        assert call.cr_await is not None
        assert [frame.f_code for frame in task.get_stack()] == [code]
        line = call.cr_frame.f_lineno
        running = f"StreamReader.readline() running at {code.co_filename}:{line}>"
        assert running in repr(task)
        text = io.StringIO()
        task.print_stack(file=text)
        assert f"line {line}, in readline" in text.getvalue()
        stage.peer.sendall(b"line\n")
        assert await task == b"line\n"
        assert inspect.getcoroutinestate(call) == inspect.CORO_CLOSED
        assert call.cr_frame is None
        done = f"StreamReader.readline() done, defined at {code.co_filename}:"
        assert done in repr(task)
        with pytest.raises(AttributeError):
            call.__class__ = object
        with pytest.raises(TypeError):
            pickle.dumps(call)

    aioloop.run(on_a_reader(use))


def test_a_reader_that_is_not_asyncios_stays_what_it_is():
    class Own(asyncio.StreamReader):
        async def readexactly(self, n):
            return await super().readexactly(n)

    async def main():
        ours, peer = socket.socketpair()
        reader = Own()
        protocol = asyncio.StreamReaderProtocol(reader)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
        assert type(reader) is Own
        peer.sendall(b"abc")
        assert await reader.readexactly(3) == b"abc"
        transport.close()
        peer.close()

    aioloop.run(main())


def test_debug_mode_reads_in_c_too():
    async def use(stage):
        for debug in (True, False, True):
            stage.loop.set_debug(debug)
            call = stage.reader.read(1)
            assert type(call) is not types.CoroutineType
            call.close()
            await stage.close()
            await stage.open()

    aioloop.run(on_a_reader(use), debug=True)


@step_by_step
@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("_wait_for_data", "read"),
        ("readuntil", "readline"),
        ("_maybe_resume_transport", "readexactly"),
        ("readline", "readline"),
    ],
)
@pytest.mark.parametrize("where", ["class", "instance", "own class"])
def test_a_replaced_method_is_called(monkeypatch, name, method, where):
    calls = []
    original = getattr(asyncio.StreamReader, name)

    async def use(stage):
        reader = stage.reader
        arguments = {"read": (4,), "readexactly": (4,), "readline": ()}[method]
        target = {
            "class": asyncio.StreamReader,
            "instance": reader,
            "own class": type(reader),
        }[where]

        def replaced(*args):
            calls.append(name)
            return original(*args) if where != "instance" else original(reader, *args)

        monkeypatch.setattr(target, name, replaced)
        await stage.read(method, *arguments)
        await stage.send(b"abc\n")
        assert stage.seen[0][0] == b"abc\n"
        assert calls
        monkeypatch.undo()
        calls.clear()
        await stage.read(method, *arguments)
        await stage.send(b"abc\n")
        assert not calls

    aioloop.run(on_a_reader(use))


@step_by_step
def test_create_future_of_the_loop_is_called():
    class Own(aioloop.Loop):
        made = 0

        def create_future(self):
            Own.made += 1
            return super().create_future()

    async def use(stage):
        before = Own.made
        await stage.read("read", 4)
        assert Own.made > before
        await stage.send(b"abc")
        assert stage.seen[0][0] == b"abc"

    with asyncio.Runner(loop_factory=Own) as runner:
        runner.run(on_a_reader(use))


def test_never_awaited():
    async def use(stage):
        with pytest.warns(RuntimeWarning, match=r"'StreamReader.read' was never await"):
            stage.reader.read(1)

    aioloop.run(on_a_reader(use))


def test_large_messages_are_given_as_they_came():
    async def use(stage):
        received = 0
        data = bytes(range(256)) * 2000
        sent = 0
        while received < len(data):
            with contextlib.suppress(BlockingIOError):
                sent += stage.peer.send(data[sent:])
            part = await stage.reader.read(1 << 20)
            assert part == data[received : received + len(part)]
            received += len(part)
        assert not stage.reader._buffer

    aioloop.run(on_a_reader(use))


def test_readers_over_tls():
    data = bytes(range(256)) * 1000

    async def echo(reader, writer):
        while received := await reader.read(100_000):
            writer.write(received)
            await writer.drain()
        writer.close()

    async def main():
        server = await asyncio.start_server(
            echo, "127.0.0.1", 0, ssl=anonymous_context(ssl.PROTOCOL_TLS_SERVER)
        )
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(),
            ssl=anonymous_context(ssl.PROTOCOL_TLS_CLIENT),
        )
        assert type(line := reader.readline()) is not types.CoroutineType
        writer.write(b"line\n")
        assert await line == b"line\n"
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(10), 0.01)
        writer.write(b"end")
        assert await reader.readexactly(3) == b"end"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    aioloop.run(main())


@pytest.mark.parametrize("seed", range(10))
def test_cancelled_reads_lose_nothing(seed):
    """However the bytes are cut, and whenever a read is cancelled."""
    rng = random.Random(seed)
    data = bytes(rng.choice(b"ab\n") for _ in range(3000))

    async def one_read(stage):
        method, *arguments = rng.choice(
            [("read", 100), ("readline",), ("readexactly", 7), ("readuntil", b"ab")]
        )
        task = stage.loop.create_task(getattr(stage.reader, method)(*arguments))
        if rng.randrange(3) == 0:
            await stage.polled(task.cancel)
        try:
            return await task
        except asyncio.CancelledError:
            return b""
        except asyncio.IncompleteReadError as exc:
            return exc.partial

    async def feed(stage):
        sent = 0
        while sent < len(data):
            size = rng.randrange(1, 50)
            stage.peer.sendall(data[sent : sent + size])
            sent += size
            await stage.polled()
        stage.peer.shutdown(socket.SHUT_WR)

    async def use(stage):
        received = b""
        feeding = stage.loop.create_task(feed(stage))
        while len(received) < len(data):
            received += await one_read(stage)
            assert data.startswith(received)
        await feeding
        assert await stage.reader.read() == b""

    aioloop.run(on_a_reader(use))
