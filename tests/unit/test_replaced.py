"""What programs replace in asyncio is called (src/core/standin and watch)."""

import asyncio
import collections
import contextlib
import functools
import gc
import random
import selectors
import socket
import ssl
import sys
import textwrap
import time
import types
import weakref
from asyncio import events, futures, selector_events, sslproto, tasks
from unittest import mock

import pytest

import aioloop
from aioloop import _core
from tests.conftest import anonymous_context

pytestmark = pytest.mark.timeout(60)

BaseEventLoop = asyncio.BaseEventLoop
BaseSelectorEventLoop = selector_events.BaseSelectorEventLoop

STAND_INS = {
    _core.EventLoop: "call_soon _call_soon call_soon_threadsafe call_later call_at time"
    " create_future create_task get_task_factory run_forever _run_once stop is_running"
    " is_closed get_debug set_debug _check_closed _add_callback _write_to_self"
    " _timer_handle_cancelled _add_reader _add_writer _remove_reader _remove_writer"
    " sock_recv sock_recv_into sock_recvfrom sock_recvfrom_into sock_sendall"
    " sock_sendto sock_connect sock_accept _sock_sendfile_native getaddrinfo"
    " _make_socket_transport _start_serving _make_datagram_transport"
    " _make_read_pipe_transport _make_write_pipe_transport",
    _core.Handle: "cancel cancelled",
    _core.TimerHandle: "cancel cancelled when",
}


def in_place():
    """Return the methods that stand in for asyncio's, of all that there are."""
    return {
        (cls.__name__, name)
        for cls, names in STAND_INS.items()
        for name in names.split()
        if name in vars(cls)
    }


@pytest.fixture(autouse=True)
def all_is_put_back():
    before = in_place()
    yield
    loop = aioloop.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert in_place() == before


@contextlib.contextmanager
def wrapped(owner, name):
    """Count the calls of a method, as a tracer would."""
    calls = []
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapper(self, *args, **kwargs):
        calls.append(self)
        return original(self, *args, **kwargs)

    with mock.patch.object(owner, name, wrapper):
        yield calls


def test_nothing_is_taken_for_replaced_in_a_fresh_interpreter(python):
    done = python(
        "-c",
        "import asyncio, socket, sys, aioloop\n"
        "from aioloop import _core\n"
        f"names = {sorted(in_place())!r}\n"
        "missing = [n for c, n in names if n not in vars(getattr(_core, c))]\n"
        "async def main():\n"
        "    a, b = socket.socketpair()\n"
        "    reader, writer = await asyncio.open_connection(sock=a)\n"
        "    assert type(reader) is not asyncio.StreamReader\n"
        "    writer.close(); b.close()\n"
        "aioloop.run(main())\n"
        "print(missing)",
    )
    assert done.stdout == "[]\n", done.stderr
    expected = {
        (c.__name__, n) for c, names in STAND_INS.items() for n in names.split()
    }
    absent = {("EventLoop", "_sock_sendfile_native")}
    assert expected - in_place() <= absent


# --- wrappers on asyncio's classes ----------------------------------------------------


async def program():
    """Use what is counted; each use is one call in asyncio."""
    loop = asyncio.get_running_loop()
    reported = []
    loop.set_exception_handler(lambda loop, context: reported.append(context))
    await loop.create_task(asyncio.sleep(0.001))
    loop.call_later(0.001, int).cancel()
    loop.call_at(loop.time() + 0.001, int).cancel()
    loop.call_soon(int).cancel()
    loop.call_soon(lambda: 1 / 0)
    loop.call_later(0, lambda: 1 / 0)
    future = loop.create_future()
    future.add_done_callback(lambda future: 1 / 0)
    loop.call_soon_threadsafe(future.set_result, 5)
    assert await future == 5
    await asyncio.wait_for(asyncio.sleep(0.001), 5)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    await loop.sock_sendall(ours, b"!")
    assert await loop.sock_recv(theirs, 10) == b"!"
    arrived = loop.create_future()
    loop.add_reader(theirs, arrived.set_result, None)
    await loop.sock_sendall(ours, b"!")
    await arrived
    loop.remove_reader(theirs)
    assert theirs.recv(10) == b"!"
    reader, writer = await asyncio.open_connection(sock=ours)
    writer.write(b"\n")
    await asyncio.sleep(0)
    other, other_writer = await asyncio.open_connection(sock=theirs)
    assert await other.readline() == b"\n"
    writer.close()
    other_writer.close()
    await writer.wait_closed()
    await asyncio.sleep(0.001)
    loop.stop()
    await asyncio.sleep(0)
    return len(reported)


def run_program(loop):
    task = loop.create_task(program())
    task.add_done_callback(lambda task: loop.stop())
    while not task.done():
        loop.run_forever()
    return task.result()


COUNTED = [
    *[(BaseEventLoop, name) for name in ("create_task", "call_later", "call_at")],
    *[(BaseEventLoop, name) for name in ("call_soon_threadsafe", "create_future")],
    *[(BaseEventLoop, name) for name in ("run_forever", "stop", "call_soon")],
    (BaseEventLoop, "call_exception_handler"),
    (BaseEventLoop, "default_exception_handler"),
    (BaseSelectorEventLoop, "sock_recv"),
    (BaseSelectorEventLoop, "sock_sendall"),
    (BaseSelectorEventLoop, "add_reader"),
    (BaseSelectorEventLoop, "_make_socket_transport"),
    (asyncio.TimerHandle, "cancel"),
    (asyncio.StreamReader, "readline"),
    (asyncio.StreamReader, "readuntil"),
    (asyncio.StreamReader, "feed_data"),
    (asyncio.StreamReaderProtocol, "data_received"),
    (asyncio.StreamReaderProtocol, "connection_made"),
]


@pytest.mark.parametrize(
    ("owner", "name"), COUNTED, ids=[f"{o.__name__}.{n}" for o, n in COUNTED]
)
def test_a_wrapper_is_called_as_often_as_on_asyncio(owner, name, debug):
    counts = []
    for factory in (asyncio.SelectorEventLoop, aioloop.new_event_loop):
        loop = factory()
        loop.set_debug(debug)
        with wrapped(owner, name) as calls:
            assert run_program(loop) == 3
            counts.append(len(calls))
        run_program(loop)
        loop.close()
    if name == "call_soon":
        # What the transports schedule for themselves depends on how they are made.
        assert counts[1] >= 5
    else:
        assert counts[0] == counts[1] > 0 or name == "default_exception_handler"


@pytest.mark.parametrize("name", ["_run", "cancel", "cancelled", "__init__"])
def test_a_wrapper_on_handle(loop, name):
    with wrapped(asyncio.Handle, name) as calls:
        handles = [loop.call_soon(int), loop.call_later(0, int)]
        dead = [loop.call_soon(int), loop.call_later(50, int), loop.call_at(0, int)]
        for handle in dead:
            handle.cancel()
        assert [handle.cancelled() for handle in handles + dead] == (
            [False] * 2 + [True] * 3
        )
        loop.run_until_complete(asyncio.sleep(0))
    mine = [handle for handle in calls if handle in handles + dead]
    assert len(mine) == {"_run": 2, "cancel": 3, "cancelled": 5, "__init__": 5}[name]


def test_a_wrapper_on_everything_at_once(debug):
    """What a wrapper's original does works on our loop, whatever else is wrapped."""
    loop = aioloop.new_event_loop()
    loop.set_debug(debug)
    with contextlib.ExitStack() as stack:
        for cls in (_core.EventLoop, _core.TimerHandle):
            for base in (BaseEventLoop, BaseSelectorEventLoop, asyncio.TimerHandle):
                for name in STAND_INS[cls].split():
                    if isinstance(vars(base).get(name), types.FunctionType):
                        stack.enter_context(wrapped(base, name))
        assert run_program(loop) == 3
        assert not vars(_core.EventLoop).get("call_soon")
    assert run_program(loop) == 3
    assert vars(_core.EventLoop)["call_soon"]
    loop.close()


def test_a_wrapper_takes_effect_in_the_same_step(run):
    async def main():
        loop = asyncio.get_running_loop()
        for owner, name, use in (
            (BaseEventLoop, "create_task", lambda: loop.create_task(asyncio.sleep(0))),
            (BaseEventLoop, "call_soon", lambda: loop.call_soon(int)),
            (BaseEventLoop, "call_later", lambda: loop.call_later(0, int)),
            (BaseEventLoop, "is_running", lambda: loop.is_running()),
            (asyncio.Handle, "cancel", lambda: loop.call_soon(int).cancel()),
            (asyncio.TimerHandle, "when", lambda: loop.call_later(0, int).when()),
            (BaseEventLoop, "time", lambda: loop.time()),
        ):
            before = use()
            with wrapped(owner, name) as calls:
                during = use()
                assert len(calls) == 1
            after = use()
            assert len(calls) == 1
            if name == "create_task":
                await asyncio.gather(before, during, after)
        # What the loop schedules for itself goes by the wrapper too.
        future = loop.create_future()
        future.add_done_callback(lambda future: None)
        with wrapped(BaseEventLoop, "call_soon") as calls:
            future.set_result(None)
            assert len(calls) == 1
        await asyncio.sleep(0)

    run(main())


@pytest.mark.parametrize("make", [asyncio.SelectorEventLoop, aioloop.new_event_loop])
def test_a_wrapper_on_what_a_transport_inherits(make):
    async def main():
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
        assert transport.get_extra_info("peername") == ""
        with wrapped(asyncio.BaseTransport, "get_extra_info") as calls:
            assert transport.get_extra_info("peername") == ""
            assert transport.get_extra_info(name="other", default=5) == 5
            assert calls == [transport, transport]
        with mock.patch("asyncio.BaseTransport.get_extra_info", return_value="mocked"):
            assert transport.get_extra_info("peername") == "mocked"
        with wrapped(asyncio.Transport, "get_extra_info") as calls:
            assert transport.get_extra_info("peername") == ""
            assert calls == [transport]
        assert transport.get_extra_info("peername") == ""
        with wrapped(asyncio.WriteTransport, "writelines") as calls:
            transport.writelines([b"one ", b"two"])
            # Newer ones have one of their own.
            assert calls == [transport] * (sys.version_info < (3, 12))
        transport.writelines([b" three"])
        transport.close()
        with theirs, theirs.makefile("rb") as file:
            theirs.settimeout(20)
            assert await asyncio.to_thread(file.read) == b"one two three"

    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(main())


def test_tasks_of_a_wrapped_create_task_are_ours(loop):
    async def main():
        task = loop.create_task(asyncio.sleep(0), name="named")
        assert task.get_name() == "named"
        await task
        unnamed = loop.create_task(asyncio.sleep(0))
        assert unnamed.get_name().startswith("Task-")
        await unnamed
        assert loop.get_task_factory() is None
        return task

    with wrapped(BaseEventLoop, "create_task") as calls:
        task = loop.run_until_complete(main())
    assert len(calls) == 3
    assert isinstance(task, asyncio.Task)
    if sys.version_info[:2] != (3, 13):
        assert type(task) is aioloop.Task
    if loop.get_debug():
        assert task._source_traceback[-1].name == "wrapper"


def test_thousands_of_assignments_to_asyncios_globals_do_not_make_it_slow(loop):
    """CPython 3.13 has a thousand version tags for each class."""

    def seconds():
        async def main():
            for _ in range(1000):
                await asyncio.sleep(0)

        began = time.process_time()
        loop.run_until_complete(main())
        return time.process_time() - began

    before = min(seconds() for _ in range(3))
    with mock.patch.object(asyncio.events, "_a_global", None, create=True):
        for i in range(2500):
            asyncio.events._a_global = i
            loop.call_soon(loop.stop)
            loop.run_forever()
    # It was a hundred times slower from there on.
    assert min(seconds() for _ in range(5)) < 20 * before


def test_a_wrapper_below_a_subclass_and_beside_an_override(debug):
    seen = []

    class Loop(aioloop.Loop):
        def call_soon(self, callback, *args, context=None):
            seen.append("subclass")
            return super().call_soon(callback, *args, context=context)

    loop = Loop()
    loop.set_debug(debug)
    with wrapped(BaseEventLoop, "call_soon") as calls:
        loop.call_soon(int)
        assert len(seen) == len(calls) == 1
        loop.run_until_complete(asyncio.sleep(0))
        assert len(seen) == len(calls) > 1
    loop.close()


def put_bytecode(function, wrapper):
    """Wrap a function as ddtrace does: other code in the function itself."""

    def template(self, *args, **kwargs):
        call = "wrapper"
        original = "original"
        return call(original, self, *args, **kwargs)

    code = function.__code__
    original = types.FunctionType(
        code, function.__globals__, "<wrapped>", function.__defaults__
    )
    original.__kwdefaults__ = function.__kwdefaults__
    replaced = {"wrapper": wrapper, "original": original}
    function.__code__ = template.__code__.replace(
        co_consts=tuple(
            replaced.get(const, const) if isinstance(const, str) else const
            for const in template.__code__.co_consts
        ),
        co_filename=code.co_filename,
        co_name=code.co_name,
        co_qualname=code.co_qualname,
        co_firstlineno=code.co_firstlineno,
    )
    return code


@pytest.mark.parametrize("name", ["create_task", "call_soon", "call_later"])
def test_other_code_in_asyncios_function(loop, name):
    calls = []

    def wrapper(original, self, *args, **kwargs):
        calls.append(self)
        return original(self, *args, **kwargs)

    function = vars(BaseEventLoop)[name]
    code = put_bytecode(function, wrapper)
    try:
        run_program(loop)
        assert loop in calls
        if name == "create_task":
            assert len(calls) >= 2
    finally:
        function.__code__ = code
    calls.clear()
    run_program(loop)
    loop.call_soon(int)
    assert not calls


def test_other_code_in_handle_run_and_the_eager_factory(loop):
    calls = []

    def wrapper(original, *args, **kwargs):
        calls.append(args)
        return original(*args, **kwargs)

    code = put_bytecode(asyncio.Handle._run, wrapper)
    try:
        loop.call_soon(int)
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        asyncio.Handle._run.__code__ = code
    assert calls


def test_what_was_wrapped_before_the_import(python, tmp_path):
    tracer = textwrap.dedent(
        """
        import asyncio, functools, socket, sys
        from asyncio import sslproto
        called = set()

        def wrap(owner, name):
            original = vars(owner)[name]
            @functools.wraps(original)
            def wrapper(*args, **kwargs):
                called.add(f"{owner.__name__}.{name}")
                return original(*args, **kwargs)
            setattr(owner, name, wrapper)

        wrap(asyncio.Handle, "_run")
        for name in ("read", "readline", "readuntil", "feed_data", "feed_eof"):
            wrap(asyncio.StreamReader, name)
        wrap(asyncio.StreamReaderProtocol, "data_received")
        wrap(sslproto.SSLProtocol, "buffer_updated")
        for name in ("create_task", "call_soon", "call_later", "run_forever"):
            wrap(asyncio.BaseEventLoop, name)
        expected = {
            "Handle._run", "StreamReader.readline", "StreamReader.readuntil",
            "StreamReader.feed_data", "StreamReaderProtocol.data_received",
            "BaseEventLoop.create_task", "BaseEventLoop.call_soon",
            "BaseEventLoop.call_later", "BaseEventLoop.run_forever",
        }
        import aioloop

        async def main():
            ours, theirs = socket.socketpair()
            reader, writer = await asyncio.open_connection(sock=ours)
            theirs.send(b"line\\n")
            assert await reader.readline() == b"line\\n"
            writer.close()
            theirs.close()
            await asyncio.sleep(0.001)

        aioloop.run(main())
        print(sorted(expected - called))
        """
    )
    program = tmp_path / "tracer.py"
    program.write_text(tracer)
    done = python(program)
    assert done.stdout == "[]\n", done.stdout + done.stderr


# --- globals of asyncio's modules -----------------------------------------------------


@pytest.mark.parametrize("where", ["time.monotonic", "asyncio.base_events.time"])
def test_the_clock_is_time_monotonic_whoever_that_is(loop, where):
    seen = []
    now = time.monotonic()

    def clock():
        return now

    fake = (
        clock if where == "time.monotonic" else types.SimpleNamespace(monotonic=clock)
    )

    async def main():
        nonlocal now
        real = loop.time()
        with mock.patch(where, fake):
            assert loop.time() == now
            loop.call_later(3600, seen.append, "hour")
            loop.call_later(0, seen.append, "now")
            for _ in range(3):
                await asyncio.sleep(0)
            assert seen == ["now"]
            now += 3601
            assert loop.time() == now
            for _ in range(3):
                await asyncio.sleep(0)
            assert seen == ["now", "hour"]
        assert 0 <= loop.time() - real < 50
        await asyncio.sleep(0.001)

    loop.run_until_complete(main())


def test_a_frozen_clock_is_noticed_without_a_call(loop):
    """A timer fires as soon as somebody else's clock says so."""
    seen = []
    real = time.monotonic

    async def main():
        loop.call_later(3600, seen.append, 1)
        for _ in range(100):
            await asyncio.sleep(0)
        with mock.patch("time.monotonic", lambda: real() + 4000):
            for _ in range(40):
                await asyncio.sleep(0)
            assert seen == [1]

    loop.run_until_complete(main())


def test_the_clock_is_read_from_asyncios_module(loop):
    """freezegun looks who asks."""
    callers = []
    real = time.monotonic

    def clock():
        callers.append(sys._getframe(1).f_globals["__name__"])
        return real()

    with mock.patch("time.monotonic", clock):
        loop.time()
        loop.run_until_complete(asyncio.sleep(0.001))
    assert set(callers) == {"asyncio.base_events"}


def test_other_classes_in_asyncios_modules(loop):
    class MyTask(tasks._PyTask):
        pass

    class MyFuture(futures._PyFuture):
        pass

    class MyHandle(events.Handle):
        pass

    async def main():
        return asyncio.current_task()

    with mock.patch.object(tasks, "Task", MyTask):
        task = loop.create_task(main())
        assert type(task) is MyTask
        loop.run_until_complete(task)
    with mock.patch.object(futures, "Future", MyFuture):
        assert type(loop.create_future()) is MyFuture
    with mock.patch.object(events, "Handle", MyHandle):
        loop.run_until_complete(asyncio.sleep(0))
        assert type(loop.call_soon(int)) is MyHandle
    loop.run_until_complete(asyncio.sleep(0))
    assert type(loop.create_future()) is aioloop.Future
    assert type(loop.call_soon(int)) is aioloop.Handle


# --- the selector ---------------------------------------------------------------------


class VirtualTime:
    """Time that jumps to the next timer, as looptime and aiotools make it."""

    def __init__(self, loop):
        self.now = 1000.0
        self.selects = 0
        self.original = loop._selector.select
        self.loop = loop

    def time(self):
        return self.now

    def select(self, timeout=None):
        self.selects += 1
        events = self.original(0 if timeout else timeout)
        if not events and timeout is not None:
            self.now += timeout
        return events


@pytest.fixture
def virtual(loop):
    clock = VirtualTime(loop)
    with (
        mock.patch.object(loop, "time", clock.time),
        mock.patch.object(loop._selector, "select", clock.select),
    ):
        yield clock
    loop.run_until_complete(asyncio.sleep(0.001))
    selects = clock.selects
    loop.run_until_complete(asyncio.sleep(0.001))
    assert clock.selects == selects


def test_a_clock_that_jumps(loop, virtual):
    began = time.monotonic()
    seen = []

    async def main():
        async def late(delay):
            await asyncio.sleep(delay)
            seen.append((delay, loop.time()))

        await asyncio.gather(late(3600), late(60), late(1))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.sleep(500), 100)

    loop.run_until_complete(main())
    assert seen == [(1, 1001.0), (60, 1060.0), (3600, 4600.0)]
    assert virtual.now == 4700.0
    assert time.monotonic() - began < 20


def test_sockets_and_threads_beside_a_clock_that_jumps(loop, virtual):
    async def main():
        async def serve(reader, writer):
            writer.write((await reader.readline()).upper())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\n")
        assert await reader.read() == b"HELLO\n"
        writer.close()
        await writer.wait_closed()
        server.close()
        assert await asyncio.to_thread(lambda: 5) == 5
        await asyncio.sleep(10)

    loop.run_until_complete(main())
    assert virtual.now >= 1010


def test_select_may_be_replaced_and_given_back_while_the_loop_runs(loop):
    selects = []
    original = loop._selector.select

    def select(timeout=None):
        selects.append(timeout)
        return original(timeout)

    async def main():
        await asyncio.sleep(0)
        timer = loop.call_later(0.001, lambda: None)
        loop._selector.select = select
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert selects and selects[0] == 0
        await asyncio.sleep(0.002)
        assert not timer._scheduled
        del loop._selector.select
        await asyncio.sleep(0)
        selects.clear()
        await asyncio.sleep(0.001)
        assert not selects

    loop.run_until_complete(main())


def test_select_replaced_on_the_class(loop):
    selects = []
    cls = type(loop._selector)
    original = cls.select

    def select(self, timeout=None):
        selects.append(timeout)
        return original(self, timeout)

    with mock.patch.object(cls, "select", select):
        loop.run_until_complete(asyncio.sleep(0.001))
        assert selects
    selects.clear()
    loop.run_until_complete(asyncio.sleep(0.001))
    assert not selects


class Proxy(selectors.BaseSelector):
    """Another object in the place of the loop's selector."""

    def __init__(self, selector):
        self.selector = selector
        self.selects = 0

    def register(self, *args):
        return self.selector.register(*args)

    def unregister(self, *args):
        return self.selector.unregister(*args)

    def modify(self, *args):
        return self.selector.modify(*args)

    def select(self, timeout=None):
        self.selects += 1
        return self.selector.select(timeout)

    def get_map(self):
        return self.selector.get_map()

    def close(self):
        self.selector.close()


def test_another_object_in_the_place_of_the_selector(loop):
    proxy = loop._selector = Proxy(loop._selector)
    assert run_program(loop) == 3
    assert proxy.selects > 5
    with (
        wrapped(BaseSelectorEventLoop, "_add_reader"),
        wrapped(BaseSelectorEventLoop, "_make_socket_transport"),
    ):
        assert run_program(loop) == 3


def test_a_mock_in_the_place_of_the_selector(loop):
    kept = loop._selector
    loop._selector = mock.Mock()
    loop._selector.select.return_value = ()
    loop.stop()
    loop.run_forever()
    loop._selector.select.assert_called_once_with(0)
    loop._selector = kept
    with mock.patch.object(loop, "_process_events") as process:
        loop.call_soon(loop.stop)
        loop.run_forever()
        process.assert_called_once_with([])
    loop.run_until_complete(asyncio.sleep(0))


def test_events_are_told_and_wake_who_waits(loop):
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    seen = []
    with ours, theirs:
        loop.add_reader(ours, seen.append, "readable")
        assert loop._selector.select(0) == []
        theirs.send(b"x")
        [(key, mask)] = loop._selector.select(20)
        assert (key.fd, mask) == (ours.fileno(), selectors.EVENT_READ)
        loop._process_events([(key, mask)])
        assert len(loop._ready) == 1
        loop.run_until_complete(asyncio.sleep(0))
        assert "readable" in seen
        loop.remove_reader(ours)


def test_the_selector_takes_what_asyncios_functions_register(loop):
    selector = loop._selector
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    seen = []

    def handle(name):
        return asyncio.Handle(seen.append, (name,), loop)

    with ours, theirs:
        reader, writer = handle("reader"), handle("writer")
        key = selector.register(ours, selectors.EVENT_READ, (reader, None))
        assert key.data == (reader, None) and key.fd == ours.fileno()
        with pytest.raises(KeyError):
            selector.register(ours, selectors.EVENT_READ, (reader, None))
        theirs.send(b"x")
        loop.run_until_complete(asyncio.sleep(0.001))
        assert set(seen) == {"reader"}
        ours.recv(1)
        selector.modify(ours, selectors.EVENT_WRITE, (None, writer))
        seen.clear()
        theirs.send(b"x")
        loop.run_until_complete(asyncio.sleep(0.001))
        assert set(seen) == {"writer"}
        writer.cancel()
        loop.run_until_complete(asyncio.sleep(0.001))
        assert not selector.get_map()
        with pytest.raises(KeyError):
            selector.unregister(ours)
        with pytest.raises(KeyError):
            selector.modify(ours, 1, (reader, None))
        with pytest.raises(RuntimeError, match="add_reader"):
            selector.register(ours, 1, "something else")


# --- loop._ready ----------------------------------------------------------------------

OPERATIONS = {
    "append": 1,
    "appendleft": 1,
    "extend": 2,
    "extendleft": 2,
    "pop": 0,
    "popleft": 0,
    "insert": "at",
    "remove": 1,
    "index": 1,
    "count": 1,
    "rotate": "number",
    "reverse": 0,
    "__contains__": 1,
    "__getitem__": "number",
    "__delitem__": "number",
    "__setitem__": "at",
    "copy": 0,
    "__iadd__": 2,
    "__imul__": "number",
    "__add__": "deque",
    "__mul__": "number",
    "__eq__": "deque",
    "__lt__": "deque",
    "__len__": 0,
}


def perform(target, name, args):
    try:
        result = getattr(target, name)(*args)
    except Exception as exc:
        return type(exc), str(exc)
    return "itself" if result is target else result


@pytest.mark.parametrize("seed", range(5))
def test_ready_does_what_a_deque_does(loop, seed):
    chooser = random.Random(seed)
    handles = [asyncio.Handle(int, (), loop) for _ in range(3)]
    handles += [loop.call_soon(int) for _ in range(3)]
    future = loop.create_future()
    for _ in range(3):
        future.add_done_callback(lambda future: None)
    future.set_result(None)
    handles += list(loop._ready)[3:]
    assert len(handles) == 9
    expected = collections.deque(loop._ready)
    ready = loop._ready
    assert expected == ready and list(reversed(ready)) == list(reversed(expected))
    for _ in range(300):
        name, kind = chooser.choice(list(OPERATIONS.items()))
        handle, number = chooser.choice(handles), chooser.randrange(-3, 4)
        args = {
            0: (),
            1: (handle,),
            2: ([handle, chooser.choice(handles)],),
            "at": (number, handle),
            "number": (number,),
            "deque": (collections.deque(chooser.choices(handles, k=2)),),
        }[kind]
        if name == "__imul__" and len(expected) > 20:
            continue
        mine, theirs = perform(ready, name, args), perform(expected, name, args)
        assert mine == theirs, (name, args)
        assert list(ready) == list(expected), (name, args)
        assert bool(ready) == bool(expected)
    ready.clear()
    with pytest.raises(IndexError, match="pop from an empty deque"):
        ready.pop()


def test_a_slot_that_was_looked_at_runs_once_in_its_turn(loop):
    seen = []

    async def task():
        seen.append("task")
        assert asyncio.current_task() is mine
        await asyncio.sleep(0)
        seen.append("again")

    future = loop.create_future()
    future.add_done_callback(lambda future: seen.append("callback"))
    loop.call_soon(seen.append, "soon")
    mine = loop.create_task(task())
    future.set_result(None)
    shown = list(loop._ready)
    assert [loop._ready.index(handle) for handle in shown] == [0, 1, 2]
    assert loop._ready[2] is shown[2]
    loop._ready.rotate(-1)
    loop.run_until_complete(mine)
    assert seen == ["task", "callback", "soon", "again"]
    shown[1]._run()
    assert len(seen) == 4


def test_ready_may_be_assigned(loop):
    seen = []
    first = loop.call_soon(seen.append, 1)
    loop.call_soon(seen.append, 2)
    loop._ready = collections.deque([first])
    loop.run_until_complete(asyncio.sleep(0))
    assert seen == [1]
    with pytest.raises(AttributeError):
        del loop._ready


def test_handles_that_are_dropped_from_ready_are_freed(loop):
    class Callback:
        def __call__(self, *args):
            pass

    gone = []
    for drop in ("clear", "pop", "popleft"):
        callback = Callback()
        gone.append(weakref.ref(callback))
        loop.call_soon(callback)
        assert len(list(loop._ready)) == 1
        getattr(loop._ready, drop)()
        del callback
    gc.collect()
    assert [reference() for reference in gone] == [None] * 3


def test_ssl_protocols_methods(loop):
    """A wrapped method of SSLProtocol is called, and C serves it again afterwards."""

    async def closed(writer):
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()

    async def echo():
        served = loop.create_future()

        async def serve(reader, writer):
            writer.write(await reader.readline())
            await writer.drain()
            await closed(writer)
            served.set_result(None)

        server = await asyncio.start_server(
            serve,
            "127.0.0.1",
            0,
            ssl=anonymous_context(ssl.PROTOCOL_TLS_SERVER),
        )
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(),
            ssl=anonymous_context(ssl.PROTOCOL_TLS_CLIENT),
        )
        kind = type(writer.transport)
        writer.write(b"hello\n")
        assert await reader.readline() == b"hello\n"
        await closed(writer)
        await served
        server.close()
        await server.wait_closed()
        return kind

    own = loop.run_until_complete(asyncio.wait_for(echo(), 20))
    with wrapped(sslproto.SSLProtocol, "buffer_updated") as calls:
        loop.run_until_complete(asyncio.wait_for(echo(), 20))
    assert calls
    assert loop.run_until_complete(asyncio.wait_for(echo(), 20)) is own
