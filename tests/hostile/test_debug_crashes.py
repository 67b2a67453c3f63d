"""Debug mode where other loops crash: frames of C, frames being cleared, other threads.

A loop in debug mode is called from finalizers, hooks and weakref callbacks, with the
interpreter's own frames on top of the stack; its switches change at the worst moments.
"""

from __future__ import annotations

import _thread
import asyncio
import collections
import contextlib
import functools
import gc
import itertools
import linecache
import logging
import sys
import threading
import time
import traceback
import weakref

import pytest

import aioloop
from aioloop import DebugOptions
from tests.conftest import needs_gil

LIMIT = 20


@pytest.fixture
def debug_loop():
    loop = aioloop.new_event_loop()
    loop.set_debug(True)
    yield loop
    if not loop.is_closed():
        loop.close()


def nothing(*args):
    pass


def turn(loop):
    loop.run_until_complete(asyncio.sleep(0))


def read_all(handles):
    """Read each stack: touches every code object that is kept."""
    for handle in handles:
        assert type(handle._source_traceback) is traceback.StackSummary
        repr(handle)


class Scheduling:
    """Its finalizer, a C function, calls the loop."""


@pytest.fixture
def scheduling(debug_loop):
    """Return a class whose instances call the loop when they die, without a frame."""
    handles = []
    schedule = functools.partial(debug_loop.call_soon, nothing)

    class Dies:
        def __init__(self):
            weakref.finalize(self, schedule).atexit = False

        def __del__(self):
            handles.append(debug_loop.call_soon(nothing))
            handles.append(debug_loop.call_later(0, nothing))
            debug_loop.create_future()

    Dies.handles = handles
    return Dies


# --- finalizers, frames of C, frames being cleared ------------------------------------


async def suspended():
    try:
        while True:
            yield 1
    finally:
        await asyncio.sleep(0)


def test_asynchronous_generators_finalized_on_a_live_loop(debug_loop):
    # uvloop #611, #715: the finalizer hook calls call_soon_threadsafe above a C frame.
    async def start():
        generator = suspended()
        await generator.__anext__()
        return generator

    async def main():
        for debug in (True, False) * 10:
            asyncio.get_running_loop().set_debug(debug)
            generators = [await start() for _ in range(10)]
            cycle = [generators]
            cycle.append(cycle)
            del generators, cycle
            gc.collect()
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    debug_loop.run_until_complete(main())
    debug_loop.run_until_complete(debug_loop.shutdown_asyncgens())


@pytest.mark.parametrize("hook", ["firstiter", "finalizer"])
def test_hooks_that_are_c_functions(debug_loop, hook):
    hooks = sys.get_asyncgen_hooks()
    call = functools.partial(debug_loop.call_soon, nothing)

    async def simple():
        yield 1

    sys.set_asyncgen_hooks(**{hook: call})
    try:
        for _ in range(100):
            generator = simple()
            step = generator.__anext__()
            with pytest.raises(StopIteration):
                step.send(None)
            del step, generator
    finally:
        sys.set_asyncgen_hooks(*hooks)
    queued = list(debug_loop._ready)
    assert len(queued) == 100
    read_all(queued)
    turn(debug_loop)


def test_a_weak_references_callback_in_c(debug_loop):
    references = []
    for _ in range(100):
        thing = Scheduling()
        call = functools.partial(debug_loop.call_soon, nothing)
        references.append(weakref.ref(thing, call))
        del thing
    queued = list(debug_loop._ready)
    assert len(queued) == 100
    read_all(queued)
    turn(debug_loop)


def test_finalizers_while_frames_are_cleared(debug_loop, scheduling):
    # uvloop #730, #756.
    def returns():
        local = scheduling()
        return id(local)

    def raises():
        local = scheduling()
        raise ValueError(local)

    def yields():
        local = scheduling()
        yield local

    for _ in range(100):
        returns()
        with pytest.raises(ValueError):
            raises()
        generator = yields()
        next(generator)
        del generator
        frame = sys._getframe()
        try:
            raise KeyError
        except KeyError as exc:
            exc.__traceback__.tb_frame  # noqa: B018
            exc.thing = scheduling()
            traceback.clear_frames(exc.__traceback__)
        del frame
    gc.collect()
    assert len(scheduling.handles) >= 600
    read_all(scheduling.handles)
    turn(debug_loop)


def test_frames_cleared_by_hand(debug_loop, scheduling):
    async def coroutine():
        local = scheduling()
        await asyncio.sleep(0)
        return local

    async def main():
        for _ in range(50):
            suspended_one = coroutine()
            suspended_one.send(None)
            frame = suspended_one.cr_frame
            with contextlib.suppress(RuntimeError):  # 3.13 refuses.
                frame.clear()
            del frame, suspended_one
            task = asyncio.create_task(coroutine())
            await asyncio.sleep(0)
            task.cancel()
            del task
            gc.collect()
            await asyncio.sleep(0)

    debug_loop.run_until_complete(main())
    read_all(scheduling.handles)


@needs_gil("collections are too rare")
def test_the_collector_calls_the_loop_while_a_call_begins(debug_loop):
    handles = collections.deque(maxlen=1000)

    def collected(phase, info):
        handles.append(debug_loop.call_soon(nothing))

    in_c = functools.partial(debug_loop.call_later, 1000, nothing)
    threshold = gc.get_threshold()
    gc.callbacks.extend([collected, in_c])
    gc.set_threshold(3)
    try:
        for _ in range(20):

            async def work(depth):
                if depth:
                    return [await work(depth - 1) for _ in range(2)]
                return {"some": ["garbage", (lambda: depth)()]}

            debug_loop.run_until_complete(work(4))
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(collected)
        gc.callbacks.remove(in_c)
    assert len(handles) > 100
    read_all(handles)


def test_threads_without_a_frame(debug_loop):
    finished = _thread.allocate_lock()
    finished.acquire()
    handles = []
    call = functools.partial(debug_loop.call_soon_threadsafe, nothing)
    some = itertools.islice(iter(call, None), 10)
    signal = itertools.islice(iter(finished.release, 0), 1)
    _thread.start_new_thread(handles.extend, (itertools.chain(some, signal),))
    assert finished.acquire(timeout=LIMIT)
    for handle in handles[:10]:
        assert handle._source_traceback == []
        assert "created at" not in repr(handle)
    turn(debug_loop)


def test_at_exit(python):
    code = (
        "import asyncio, atexit, aioloop\n"
        "loop = aioloop.new_event_loop()\n"
        "loop.set_debug(True)\n"
        "atexit.register(loop.call_soon, print)\n"
        "class Dies:\n"
        "    def __del__(self):\n"
        "        loop.call_soon(print)\n"
        "        loop.create_future()\n"
        "thing = Dies()\n"
        "loop.thing = Dies()\n"
        "future = loop.create_future()\n"
        "future.set_exception(ValueError('never retrieved'))\n"
    )
    done = python("-W", "ignore", "-c", code)
    assert done.returncode == 0, done.stderr
    assert "Fatal" not in done.stderr


# --- other threads --------------------------------------------------------------------


def test_switches_change_under_a_busy_loop(debug_loop, thread):
    stop = threading.Event()
    options = [
        DebugOptions.all(),
        DebugOptions(),
        DebugOptions.production(),
        DebugOptions(wakeup_tracebacks=True),
        DebugOptions(source_tracebacks=True),
        DebugOptions(slow_callbacks=True, coroutine_origin_depth=2),
    ]
    failures = []

    def change():
        while not stop.is_set():
            for option in options:
                debug_loop.debug_options = option
                time.sleep(0)

    def schedule():
        try:
            while not stop.is_set():
                debug_loop.call_soon_threadsafe(nothing)
                asyncio.run_coroutine_threadsafe(asyncio.sleep(0), debug_loop)
                time.sleep(0)
        except RuntimeError as exc:
            failures.append(exc)

    async def work():
        queue = asyncio.Queue(1)

        async def produce():
            for number in range(300):
                await queue.put(number)

        async def consume():
            return [await queue.get() for _ in range(300)]

        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            _, got = await asyncio.gather(produce(), consume())
            assert got == list(range(300))
            handle = debug_loop.call_later(1000, nothing)
            debug_loop.call_exception_handler({"message": "hello"})
            handle.cancel()
            await asyncio.gather(*(asyncio.sleep(0) for _ in range(30)))

    logging.getLogger("asyncio").disabled = True
    try:
        threads = [thread(change), thread(schedule)]
        debug_loop.run_until_complete(work())
    finally:
        stop.set()
        logging.getLogger("asyncio").disabled = False
    for started in threads:
        started.join(LIMIT)
    assert failures == []
    debug_loop.set_debug(False)
    debug_loop.run_until_complete(asyncio.sleep(0.01))


def test_a_live_server_gets_debug_mode(debug_loop):
    # uvloop #730: set_debug(True) on a server under load.
    served = []

    async def echo(reader, writer):
        served.append(asyncio.current_task())
        async for line in reader:
            writer.write(line)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def client(address):
        reader, writer = await asyncio.open_connection(*address)
        for number in range(100):
            writer.write(b"%d\n" % number)
            assert await reader.readline() == b"%d\n" % number
            if number % 10 == 0:
                debug_loop.set_debug(number % 20 == 0)
                gc.collect()
        writer.close()
        await writer.wait_closed()

    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            address = server.sockets[0].getsockname()
            await asyncio.gather(*(client(address) for _ in range(10)))
            await asyncio.gather(*served)

    debug_loop.run_until_complete(asyncio.wait_for(main(), LIMIT))


# --- switches at the worst moments ----------------------------------------------------


def test_each_callback_toggles_debug_mode(debug_loop):
    order = []

    def toggle(number, *args):
        debug_loop.set_debug(number % 3 != 0)
        order.append(number)

    futures = []
    for number in range(200):
        if number % 2:
            debug_loop.call_soon(toggle, number)
        else:
            future = debug_loop.create_future()
            future.add_done_callback(functools.partial(toggle, number))
            future.set_result(number)
            futures.append(future)
        if number % 50 == 7:
            debug_loop.set_debug(number % 4 == 1)
    turn(debug_loop)
    assert order == list(range(200))


def test_debug_mode_ends_while_a_stack_is_read(debug_loop, monkeypatch):
    handle = debug_loop.call_soon(nothing)
    other = debug_loop.call_soon(nothing)
    calls = []

    def checkcache(filename=None):
        calls.append(filename)
        debug_loop.set_debug(False)
        debug_loop.set_debug(True)
        if len(calls) == 1:
            handle._source_traceback = ["replaced"]
            assert other._source_traceback

    linecache.getlines(__file__)
    monkeypatch.setattr(linecache, "checkcache", checkcache)
    assert handle._source_traceback == ["replaced"]
    assert handle._source_traceback == ["replaced"]
    assert calls
    read_all([other])


def test_a_stack_that_cannot_be_read_raises(debug_loop, monkeypatch):
    future = debug_loop.create_future()

    def broken(*args):
        raise OSError("no disk")

    with monkeypatch.context() as patch:
        patch.setattr("linecache.checkcache", broken)
        linecache.getlines(__file__)
        with pytest.raises(OSError, match="no disk"):
            _ = future._source_traceback
    assert future._source_traceback[-1].filename == __file__


def test_a_log_handler_that_changes_everything(debug_loop):
    class Handler(logging.Handler):
        def emit(self, record):
            if next(left, None) is None:
                return
            debug_loop.set_debug(False)
            debug_loop.call_soon(nothing)
            gc.collect()
            debug_loop.set_debug(True)
            repr(debug_loop._current_handle)

    async def main():
        debug_loop.slow_callback_duration = 0.0
        for _ in range(20):
            await asyncio.sleep(0)
            await asyncio.create_task(asyncio.sleep(0))
        debug_loop.slow_callback_duration = 100.0

    left = iter(range(50))
    handler = Handler()
    logging.getLogger("asyncio").addHandler(handler)
    try:
        debug_loop.run_until_complete(main())
    finally:
        logging.getLogger("asyncio").removeHandler(handler)


def test_a_logger_that_raises_ends_the_run(debug_loop, monkeypatch):
    class Logger:
        def __getattr__(self, name):
            raise ZeroDivisionError

    debug_loop.slow_callback_duration = 0.0
    with monkeypatch.context() as patch:
        patch.setattr("asyncio.base_events.logger", Logger())
        debug_loop.call_soon(nothing)
        with pytest.raises(ZeroDivisionError):
            debug_loop.run_forever()
    debug_loop.slow_callback_duration = 100.0
    turn(debug_loop)


def test_a_limit_that_changes_things_when_it_is_read(debug_loop):
    class Limit(float):
        def __float__(self):
            debug_loop.set_debug(False)
            return 0.5

        def __del__(self):
            debug_loop.set_debug(True)

    for value in (Limit(), 1, 2.0):
        debug_loop.slow_callback_duration = value
    with pytest.raises(TypeError):
        debug_loop.slow_callback_duration = "x"
    with pytest.raises(AttributeError):
        del debug_loop.slow_callback_duration
    assert debug_loop.slow_callback_duration == 2.0


def test_the_current_handle_outlives_its_callback(debug_loop):
    kept = []

    async def main():
        for _ in range(100):
            kept.append(debug_loop._current_handle)
            await asyncio.sleep(0)

    debug_loop.run_until_complete(main())
    assert debug_loop._current_handle is None
    gc.collect()
    assert len({id(handle) for handle in kept}) == 100
    for handle in kept:
        repr(handle)
        assert handle.cancelled() is False
        handle.cancel()
        handle._run()
    kept.clear()
    gc.collect()


def test_the_current_handle_can_be_set(debug_loop):
    seen = []

    def callback():
        debug_loop._current_handle = marker
        seen.append(debug_loop._current_handle)
        debug_loop._current_handle = None
        seen.append(type(debug_loop._current_handle))

    marker = object()
    debug_loop.call_soon(callback)
    turn(debug_loop)
    assert seen == [marker, aioloop.Handle]


def test_close_in_debug_mode_releases_everything():
    class Thing:
        pass

    def leave(loop):
        thing = Thing()
        loop.call_soon(nothing, thing)
        loop.call_later(1000, nothing, thing)
        future = loop.create_future()
        future.add_done_callback(functools.partial(nothing, thing))
        future.set_result(thing)
        return weakref.ref(thing)

    loop = aioloop.new_event_loop()
    loop.set_debug(True)
    turn(loop)
    alive = leave(loop)
    loop.close()
    gc.collect()
    assert alive() is None

    loop = aioloop.new_event_loop()
    loop.set_debug(True)
    turn(loop)
    alive = leave(loop)
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        del loop
        gc.collect()
    assert alive() is None
