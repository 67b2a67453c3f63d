"""Debug mode: its switches one by one, what each does, and what it costs in memory."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import itertools
import logging
import re
import socket
import sys
import threading
import time
import tracemalloc
import warnings

import pytest

import aioloop
from aioloop import DebugOptions
from tests.conftest import HARD, needs_gil, needs_shared_stacks

SWITCHES = [
    field.name
    for field in dataclasses.fields(DebugOptions)
    if not field.name.startswith(("coroutine_origin", "blocking_calls"))
]


@pytest.fixture
def plain_loop():
    loop = aioloop.new_event_loop()
    loop.set_debug(False)
    yield loop
    if not loop.is_closed():
        loop.close()


@pytest.fixture
def logged(caplog):
    """Return a function that gives the messages of the logger "asyncio" so far."""
    caplog.set_level(logging.INFO, logger="asyncio")

    def logged(start=""):
        messages = [record.getMessage() for record in caplog.records]
        return [text for text in messages if text.startswith(start)]

    return logged


def nothing(*args):
    pass


async def no_coroutine():
    pass


# --- turning it on --------------------------------------------------------------------

SHOW = (
    "import asyncio, aioloop\n"
    "async def main():\n"
    "    loop = asyncio.get_running_loop()\n"
    "    print(type(loop).__name__, loop.get_debug(), loop.debug_options)\n"
)
RUN = SHOW + "aioloop.run(main())\n"
ALL, NONE = (f"Loop {bool(o)} {o}" for o in (DebugOptions.all(), DebugOptions()))


@pytest.mark.parametrize(
    ("arguments", "env", "shown"),
    [
        (["-c", RUN], {}, NONE),
        (["-c", RUN], {"PYTHONASYNCIODEBUG": "1"}, ALL),
        (["-X", "dev", "-c", RUN], {}, ALL),
        (["-c", RUN.replace("main())", "main(), debug=True)")], {}, ALL),
        (
            ["-X", "dev", "-c", RUN.replace("main())", "main(), debug=False)")],
            {},
            NONE,
        ),
        (
            [
                "-c",
                SHOW + "asyncio.Runner(debug=True,"
                " loop_factory=aioloop.new_event_loop).run(main())\n",
            ],
            {},
            ALL,
        ),
        (["-m", "aioloop", "--debug", "-c", SHOW + "asyncio.run(main())"], {}, ALL),
        (["-m", "aioloop", "-c", SHOW + "asyncio.run(main())"], {}, NONE),
        (["-E", "-c", RUN], {"PYTHONASYNCIODEBUG": "1"}, NONE),
    ],
)
def test_the_ways_to_turn_it_on(python, arguments, env, shown):
    if "-E" in arguments:
        # The package is then found through the current directory alone.
        from tests.conftest import PACKAGE_PARENT

        code = f"import sys; sys.path.insert(0, {str(PACKAGE_PARENT)!r})\n"
        arguments = [*arguments[:-1], code + arguments[-1]]
    done = python(*arguments, env=env)
    assert done.stdout.strip() == shown, done.stderr


def test_set_debug_is_all_or_nothing(plain_loop):
    assert plain_loop.debug_options == DebugOptions()
    plain_loop.set_debug(True)
    assert plain_loop.debug_options == DebugOptions.all()
    everything = dataclasses.asdict(DebugOptions.all())
    assert everything.pop("blocking_calls") is None  # A switch of its own.
    assert all(everything.values())
    plain_loop.set_debug(enabled=False)
    assert plain_loop.debug_options == DebugOptions()
    with pytest.raises(TypeError):
        plain_loop.set_debug()


def test_origins_are_as_deep_as_asyncios(plain_loop, monkeypatch):
    from asyncio import constants

    monkeypatch.setattr(constants, "DEBUG_STACK_DEPTH", 3)
    plain_loop.set_debug(True)
    assert plain_loop.debug_options.coroutine_origin_depth == 3


@pytest.mark.parametrize("name", SWITCHES)
def test_each_switch_alone(plain_loop, name):
    options = DebugOptions(**{name: True})
    plain_loop.debug_options = options
    assert plain_loop.debug_options == options
    # What libraries ask: aiohttp extracts a traceback for each request then.
    assert plain_loop.get_debug() is plain_loop._debug is (name == "fd_checks")
    assert bool(options)
    plain_loop.debug_options = DebugOptions()
    assert plain_loop.get_debug() is False


def test_options_refuse_nonsense(plain_loop):
    with pytest.raises(ValueError, match="must not be negative"):
        DebugOptions(coroutine_origin_depth=-1)
    with pytest.raises(ValueError, match="must be positive"):
        DebugOptions(coroutine_origin_interval=0)
    with pytest.raises(AttributeError):
        plain_loop.debug_options = None
    with pytest.raises(dataclasses.FrozenInstanceError):
        DebugOptions().slow_callbacks = True


def test_production_options():
    options = DebugOptions.production()
    assert options.coroutine_origin_depth == 1
    assert options.coroutine_origin_interval == 16
    assert options.slow_callbacks and options.source_tracebacks
    assert not options.fd_checks and not options.wakeup_tracebacks


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_origin_depth_follows_on_a_running_loop(plain_loop, thread, depth):
    before = sys.get_coroutine_origin_tracking_depth()

    async def main():
        loop = asyncio.get_running_loop()
        changed = loop.create_future()

        def change():
            loop.debug_options = DebugOptions(coroutine_origin_depth=depth)
            loop.call_soon_threadsafe(changed.set_result, None)

        thread(change)
        await changed
        assert sys.get_coroutine_origin_tracking_depth() == depth
        coroutine = no_coroutine()
        assert len(coroutine.cr_origin or ()) == min(depth, 5)
        coroutine.close()

    plain_loop.run_until_complete(main())
    assert sys.get_coroutine_origin_tracking_depth() == before
    plain_loop.run_until_complete(asyncio.sleep(0))
    assert sys.get_coroutine_origin_tracking_depth() == before


@pytest.mark.parametrize("kind", ["callbacks", "steps"])
def test_origins_in_one_slot_of_many(plain_loop, kind):
    def create():
        coroutine = no_coroutine()
        origins.append(coroutine.cr_origin)
        coroutine.close()

    async def steps():
        for _ in range(1600):
            create()
            await asyncio.sleep(0)

    async def callbacks():
        for _ in range(1600):
            plain_loop.call_soon(create)
        await asyncio.sleep(0)

    origins = []
    options = DebugOptions(coroutine_origin_depth=1, coroutine_origin_interval=16)
    plain_loop.debug_options = options
    assert plain_loop.debug_options == options
    plain_loop.run_until_complete({"callbacks": callbacks, "steps": steps}[kind]())
    sampled = [i for i, origin in enumerate(origins) if origin]
    assert {origins[i][0][2] for i in sampled} == {"create"}
    assert 50 <= len(sampled) <= 200
    distances = [b - a for a, b in itertools.pairwise(sampled)]
    assert len(set(distances)) > 10 and max(distances) < 32
    assert sys.get_coroutine_origin_tracking_depth() == 0
    # And from here on in all of them.
    origins.clear()
    plain_loop.debug_options = DebugOptions(coroutine_origin_depth=1)
    plain_loop.run_until_complete(steps())
    assert all(origins)


def test_a_deeper_origin_tracking_stays(plain_loop):
    async def main():
        for _ in range(100):
            coroutine = no_coroutine()
            assert len(coroutine.cr_origin) == 2
            coroutine.close()
            await asyncio.sleep(0)

    plain_loop.debug_options = DebugOptions.production()
    before = sys.get_coroutine_origin_tracking_depth()
    sys.set_coroutine_origin_tracking_depth(2)
    try:
        plain_loop.run_until_complete(main())
        assert sys.get_coroutine_origin_tracking_depth() == 2
    finally:
        sys.set_coroutine_origin_tracking_depth(before)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_operations_in_c_remember_their_origin(plain_loop, depth):
    def forget():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            plain_loop.sock_recv(one, 1)
        return str(caught[0].message)

    async def main():
        text = forget()
        places = re.findall(r'File "(.*)", line (\d+), in (\w+)', text)
        assert text.startswith("coroutine 'EventLoop.sock_recv' was never awaited")
        assert [place[2] for place in places] == ["main", "forget"][2 - depth :]
        line = forget.__code__.co_firstlineno + 3
        assert depth == 0 or places[-1][:2] == (__file__, str(line))
        operation = plain_loop.sock_recv(one, 1)
        assert len(operation.cr_origin or ()) == depth
        assert await operation == b"x"
        assert operation.cr_origin is None

    one, two = socket.socketpair()
    with one, two:
        one.setblocking(False)
        two.send(b"x")
        plain_loop.debug_options = DebugOptions(coroutine_origin_depth=depth)
        plain_loop.run_until_complete(main())


# --- switches do what they say, and no more -------------------------------------------


def set_only(loop, *names):
    loop.debug_options = DebugOptions(**dict.fromkeys(names, True))


def set_all_but(loop, name):
    loop.debug_options = dataclasses.replace(DebugOptions.all(), **{name: False})


def made(loop):
    coroutine = asyncio.sleep(0)
    objects = {
        "future": loop.create_future(),
        "Future": aioloop.Future(loop=loop),
        "handle": loop.call_soon(nothing),
        "timer": loop.call_later(0, nothing),
        "task": loop.create_task(coroutine),
    }
    loop.run_until_complete(objects["task"])
    return objects


def test_source_tracebacks(plain_loop):
    set_only(plain_loop, "source_tracebacks")
    for name, thing in made(plain_loop).items():
        assert thing._source_traceback[-1].name == "made", name
        assert "created at" in repr(thing)
    set_all_but(plain_loop, "source_tracebacks")
    for thing in made(plain_loop).values():
        assert thing._source_traceback is None
        assert "created at" not in repr(thing)


def test_wakeup_tracebacks(plain_loop):
    contexts = []
    plain_loop.set_exception_handler(lambda loop, context: contexts.append(context))

    def report(future):
        handle = plain_loop._current_handle
        contexts.append(handle and handle._source_traceback)

    def wake_up():
        contexts.clear()
        future = plain_loop.create_future()
        future.add_done_callback(report)
        future.set_result(None)
        plain_loop.run_until_complete(future)
        return contexts[0]

    set_only(plain_loop, "wakeup_tracebacks")
    assert wake_up()[-1].name == "wake_up"
    set_all_but(plain_loop, "wakeup_tracebacks")
    assert wake_up() is None
    plain_loop.set_debug(False)
    assert wake_up() is None


def from_another_thread(thread, function, *args):
    outcome = []

    def call():
        try:
            outcome.append(function(*args))
        except RuntimeError as exc:
            outcome.append(str(exc))

    thread(call).join(20)
    return outcome[0]


@needs_gil("another thread is refused whatever the switch says")
def test_thread_checks(plain_loop, thread):
    async def main():
        loop = asyncio.get_running_loop()
        for switch in (True, False):
            if switch:
                set_only(loop, "thread_checks")
            else:
                set_all_but(loop, "thread_checks")
            future = loop.create_future()
            future.add_done_callback(nothing)
            coroutine = no_coroutine()
            calls = [
                (loop.call_soon, nothing),
                (loop.call_later, 1, nothing),
                (loop.call_at, 1, nothing),
                (future.set_result, 1),
            ]
            for call in calls:
                outcome = from_another_thread(thread, *call)
                refused = isinstance(outcome, str) and "Non-thread-safe" in outcome
                assert refused is switch, call
            coroutine.close()

    plain_loop.run_until_complete(main())


def test_callback_checks(plain_loop):
    set_only(plain_loop, "callback_checks")
    with pytest.raises(TypeError, match="coroutines cannot be used with call_soon"):
        plain_loop.call_soon(no_coroutine)
    with pytest.raises(TypeError, match="a callable object was expected by call_at"):
        plain_loop.call_later(0, 1)
    set_all_but(plain_loop, "callback_checks")
    plain_loop.call_soon(no_coroutine).cancel()
    plain_loop.call_later(0, 1).cancel()


@pytest.mark.parametrize("marked", ["attribute", "partial", "bound", "builtin", "mock"])
def test_what_passes_as_a_callback(plain_loop, marked):
    import functools
    from unittest import mock

    plain_loop.set_debug(True)

    def function():
        pass

    function.note = 1
    callback = {
        "attribute": function,
        "partial": functools.partial(function),
        "bound": DebugOptions.__bool__.__get__(DebugOptions()),
        "builtin": [].append,
        "mock": mock.Mock(),
    }[marked]
    plain_loop.call_soon(callback, *([1] if marked == "builtin" else []))
    plain_loop.run_until_complete(asyncio.sleep(0))


def test_fd_checks(plain_loop):
    one, two = socket.socketpair()
    with one, two:
        two.send(b"x")
        set_only(plain_loop, "fd_checks")
        with pytest.raises(ValueError, match="must be non-blocking"):
            plain_loop.run_until_complete(plain_loop.sock_recv(one, 1))
        set_all_but(plain_loop, "fd_checks")
        received = plain_loop.run_until_complete(plain_loop.sock_recv(one, 1))
        assert received == b"x"


# --- slow callbacks -------------------------------------------------------------------


def run_slow(loop, seconds, *args):
    loop.call_soon(time.sleep, seconds)
    loop.run_until_complete(asyncio.sleep(0))


def test_a_callback_is_slow_from_a_tenth_of_a_second(plain_loop, logged):
    set_only(plain_loop, "slow_callbacks")
    assert plain_loop.slow_callback_duration == 0.1
    run_slow(plain_loop, 0.001)
    assert logged() == []
    run_slow(plain_loop, 0.1)
    (text,) = logged("Executing <Handle")
    seconds = float(text.split()[-2])
    assert 0.1 <= seconds < 1


@pytest.mark.parametrize("limit", [0.06, 0.01])  # by the coarse and the precise clock
def test_only_the_slow_one_of_many_is_named(plain_loop, logged, limit):
    plain_loop.slow_callback_duration = limit
    set_only(plain_loop, "slow_callbacks")
    for number in range(30):
        plain_loop.call_soon(nothing, number)
        if number == 20:
            plain_loop.call_soon(time.sleep, limit)
    plain_loop.run_until_complete(asyncio.sleep(0))
    assert any("sleep" in text for text in logged("Executing"))
    # A shared machine may make another one slow, but not most of them.
    assert len(logged("Executing")) < 10


def test_slow_callbacks_can_be_off(plain_loop, logged):
    plain_loop.slow_callback_duration = 0.0
    set_all_but(plain_loop, "slow_callbacks")
    run_slow(plain_loop, 0.0)
    assert logged("Executing") == []


def test_the_clock_that_a_program_replaces_counts(plain_loop, logged):
    plain_loop.set_debug(True)
    times = [5.0]
    plain_loop.time = lambda: times[-1]
    plain_loop.call_soon(times.append, 7.0)
    plain_loop.run_until_complete(asyncio.sleep(0))
    (text,) = logged("Executing")
    assert text.endswith("took 2.000 seconds")


def test_an_event_of_a_sock_operation_has_asyncios_name(plain_loop, logged):
    async def main():
        plain_loop.slow_callback_duration = 0.0
        receiving = asyncio.ensure_future(plain_loop.sock_recv(one, 10))
        await asyncio.sleep(0)
        two.send(b"x")
        assert await receiving == b"x"
        plain_loop.slow_callback_duration = 100.0

    one, two = socket.socketpair()
    with one, two:
        one.setblocking(False)
        # The arguments are shown to whoever asks for asyncio's debug mode.
        set_only(plain_loop, "slow_callbacks", "fd_checks")
        plain_loop.run_until_complete(main())
    (text,) = logged("Executing <Handle BaseSelectorEventLoop._sock_recv(<Future ")


def test_a_slow_factory_of_protocols_is_named(plain_loop, logged):
    class Protocol(asyncio.Protocol):
        def connection_made(self, transport):
            transports.append(transport)

    def factory():
        plain_loop.slow_callback_duration = 0.0
        return Protocol()

    async def main():
        server = await plain_loop.create_server(factory, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        transport, _ = await plain_loop.create_connection(asyncio.Protocol, *address)
        async with asyncio.timeout(20):
            while not logged(f"Executing <Handle {name}.Protocol.connection_made("):
                await asyncio.sleep(0)
        plain_loop.slow_callback_duration = 100.0
        for each in (transport, *transports):
            each.abort()
        server.close()
        await server.wait_closed()

    transports = []
    name = "test_a_slow_factory_of_protocols_is_named.<locals>"
    set_only(plain_loop, "slow_callbacks")
    plain_loop.run_until_complete(main())
    place = f"{__file__}:{factory.__code__.co_firstlineno}"
    assert logged(f"Executing <Handle {name}.factory() at {place}> took ")


WRITE_METHODS = ["_write_ready"]
if sys.version_info >= (3, 12):
    WRITE_METHODS.append("_write_sendmsg")


@pytest.mark.parametrize("method", ["_read_ready", *WRITE_METHODS])
def test_asyncios_methods_for_events_exist(plain_loop, method):
    # What the Handle of a slow event calls: it does so in the next iteration.
    one, two = socket.socketpair()

    class Protocol(asyncio.Protocol):
        def data_received(self, data):
            received.append(data)

    async def main():
        transport, _ = await plain_loop.create_connection(Protocol, sock=one)
        two.send(b"x")
        transport.write(b"y")
        getattr(transport, method)()
        while not received:
            await asyncio.sleep(0)
        assert two.recv(10) == b"y"
        transport.close()
        await asyncio.sleep(0)
        getattr(transport, method)()
        await asyncio.sleep(0)

    received = []
    with one, two:
        plain_loop.run_until_complete(main())
    assert received == [b"x"]


def test_the_place_of_a_slow_step_is_told(plain_loop, logged):
    plain_loop.slow_callback_duration = 0.01
    set_only(plain_loop, "slow_callbacks")

    async def inner():
        time.sleep(0.02)
        await asyncio.sleep(0)  # here

    async def generator():
        await inner()
        yield

    async def outer():
        async for _ in generator():
            pass

    task = plain_loop.create_task(outer(), name="the slow one")
    plain_loop.run_until_complete(task)
    records = logged("The slow step of task the slow one ended in File")
    assert records
    assert records[0].endswith((", in outer", ", in inner"))
    assert __file__ in records[0]


def test_the_innermost_frame_is_the_programs(plain_loop, logged):
    plain_loop.slow_callback_duration = 0.01
    set_only(plain_loop, "slow_callbacks")

    async def inner():
        time.sleep(0.02)
        await asyncio.sleep(0)

    async def outer():
        await inner()

    plain_loop.run_until_complete(outer())
    line = inner.__code__.co_firstlineno + 2
    (text,) = logged("The slow step of task")
    assert text.endswith(f'ended in File "{__file__}", line {line}, in inner')


def test_a_log_handler_sees_no_current_task(plain_loop):
    seen = []

    class Handler(logging.Handler):
        def emit(self, record):
            seen.append((asyncio.current_task(), plain_loop._current_handle))

    async def main():
        plain_loop.slow_callback_duration = 0.0
        await asyncio.sleep(0)
        plain_loop.slow_callback_duration = 100.0

    handler = Handler()
    logging.getLogger("asyncio").addHandler(handler)
    try:
        set_only(plain_loop, "slow_callbacks")
        plain_loop.run_until_complete(main())
    finally:
        logging.getLogger("asyncio").removeHandler(handler)
    assert seen
    assert {task for task, _ in seen} == {None}


# --- slow iterations and polls --------------------------------------------------------


def test_many_small_callbacks_make_a_slow_iteration(plain_loop, logged):
    plain_loop.slow_callback_duration = 0.06
    set_only(plain_loop, "slow_callbacks", "slow_iterations")
    for _ in range(100):
        plain_loop.call_soon(time.sleep, 0.001)
    plain_loop.run_until_complete(asyncio.sleep(0))
    (text,) = logged("An iteration of")
    assert int(text.split()[3]) > 100
    assert float(text.split()[-2]) >= 0.1


def test_an_iteration_with_a_slow_callback_is_not_told_twice(plain_loop, logged):
    plain_loop.slow_callback_duration = 0.05
    plain_loop.set_debug(True)
    plain_loop.call_soon(nothing)
    plain_loop.call_soon(time.sleep, 0.06)
    plain_loop.call_soon(nothing)
    plain_loop.run_until_complete(asyncio.sleep(0))
    assert len(logged("Executing")) == 1
    assert logged("An iteration of") == []


def test_an_idle_wait_is_no_slow_poll(plain_loop, logged, thread):
    plain_loop.slow_callback_duration = 0.25
    plain_loop.set_debug(True)
    plain_loop.run_until_complete(asyncio.sleep(0.6))

    async def wait_without_timeout():
        done = asyncio.Event()
        thread(
            lambda: (
                time.sleep(0.4),
                plain_loop.call_soon_threadsafe(done.set),
            )
        )
        await done.wait()

    plain_loop.run_until_complete(wait_without_timeout())
    assert logged("poll") == []


@needs_gil("no GIL is waited for")
def test_a_poll_that_waits_for_the_gil_is_slow(plain_loop, logged, thread):
    plain_loop.slow_callback_duration = 0.02
    set_only(plain_loop, "slow_selector")
    stop = threading.Event()

    def hold_the_gil():
        while not stop.is_set():
            sum(range(5_000_000))

    async def main():
        deadline = time.monotonic() + 20
        while not logged("poll") and time.monotonic() < deadline:
            await asyncio.sleep(0.001)

    thread(hold_the_gil)
    try:
        plain_loop.run_until_complete(main())
    finally:
        stop.set()
    text = logged("poll")[0]
    assert re.fullmatch(
        r"poll (of \d+\.\d{3} seconds )?took \d+\.\d{3} seconds: "
        r"(\d+ events|timeout)",
        text,
    )


# --- what it costs --------------------------------------------------------------------


def bytes_each(loop, make, count=4096):
    def make_all():
        return [make(loop) for _ in range(count)]

    def drop(things):
        for thing in things:
            thing.cancel()
        if isinstance(things[0], asyncio.Task):
            loop.run_until_complete(asyncio.gather(*things, return_exceptions=True))
        things.clear()
        loop.run_until_complete(asyncio.sleep(0))

    # What exists once grows first: the ring and its notes, the table of stacks.
    drop(make_all())
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        things = make_all()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    drop(things)
    return (after - before) / count


@needs_shared_stacks
@pytest.mark.parametrize(
    "make",
    [
        lambda loop: loop.create_future(),
        lambda loop: loop.call_soon(nothing),
        lambda loop: loop.call_later(1000, nothing),
        pytest.param(
            # A default name, where it is made at once, grows with its number.
            lambda loop: loop.create_task(asyncio.sleep(0), name="one"),
            marks=pytest.mark.skipif(
                HARD,
                reason="the table of stacks is too small for a task's: none is shared",
            ),
        ),
    ],
    ids=["Future", "Handle", "TimerHandle", "Task"],
)
def test_debug_mode_makes_no_object_larger(plain_loop, make):
    production = bytes_each(plain_loop, make)
    options = dataclasses.replace(DebugOptions.all(), coroutine_origin_depth=0)
    plain_loop.debug_options = options
    # One stack for all of them is what is left.
    assert bytes_each(plain_loop, make) <= production + 1


@needs_shared_stacks
def test_a_slot_has_a_note_of_eight_bytes(plain_loop):
    # The other thing that debug mode keeps for a callback, while it is queued.
    def grow(debug):
        loop = aioloop.new_event_loop()
        loop.set_debug(debug)
        tracemalloc.start()
        try:
            for _ in range(4095):  # One place of 4096 stays free.
                loop.call_soon(nothing)
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
            loop.close()

    grow(False)
    table = 4096 * 8
    extra = grow(True) - grow(False)
    assert 4096 * 8 <= extra <= 4096 * 8 + table + 4096
