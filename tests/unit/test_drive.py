"""Programs with an iteration of their own (src/loop/drive)."""

import asyncio
import contextlib
import contextvars
import gc
import heapq
import os
import signal
import socket
import sys
import threading
import time
import types
import weakref

import pytest

import aioloop

pytestmark = pytest.mark.timeout(60)


class DrivenLoop(aioloop.Loop):
    """Its iteration is in Python and may run inside of itself."""

    def _run_once(self):
        ready, scheduled = self._ready, self._scheduled
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)
        if ready or self._stopping:
            timeout = 0
        elif scheduled:
            timeout = max(0, scheduled[0]._when - self.time())
        else:
            timeout = None
        self._process_events(self._selector.select(timeout))
        end = self.time() + self._clock_resolution
        while scheduled and scheduled[0]._when < end:
            ready.append(heapq.heappop(scheduled))
        for _ in range(len(ready)):
            if not ready:
                break
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def nest(self, awaitable):
        """Run the loop inside of a callback or step until the awaitable is done."""
        future = asyncio.ensure_future(awaitable, loop=self)
        while not future.done():
            self._run_once()
        return future.result()


class StandardIteration(aioloop.Loop):
    """The iteration is asyncio's own."""

    def _run_once(self):
        asyncio.BaseEventLoop._run_once(self)


@pytest.fixture(params=[DrivenLoop, StandardIteration])
def driven(request, debug):
    loop = request.param()
    loop.set_debug(debug)
    yield loop
    loop.close()


@pytest.fixture
def nesting(debug):
    loop = DrivenLoop()
    loop.set_debug(debug)
    yield loop
    loop.close()


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


async def after(delay, value):
    await asyncio.sleep(delay)
    return value


# --- a replaced iteration -------------------------------------------------------------


def test_order_of_callbacks_timers_and_tasks(driven):
    seen = []

    async def task(name):
        seen.append(name)
        await asyncio.sleep(0)
        seen.append(name + " again")

    driven.call_later(0, seen.append, "due")
    driven.call_later(0.002, seen.append, "second")
    driven.call_later(0.001, seen.append, "first")
    driven.call_later(0.001, seen.append, "never").cancel()
    driven.call_soon(seen.append, "soon")
    tasks = [driven.create_task(task(name)) for name in "ab"]
    driven.run_until_complete(asyncio.wait(tasks))
    driven.run_until_complete(asyncio.sleep(0.003))
    late = [name for name in seen if name in ("first", "second")]
    assert late == ["first", "second"]
    assert [name for name in seen if name not in late] == (
        ["soon", "a", "b", "due", "a again", "b again"]
    )


def test_many_timers_of_which_most_are_cancelled(driven):
    seen = []
    for i in range(400):
        timer = driven.call_later(0.001 * (i % 3), seen.append, i)
        if i % 4:
            timer.cancel()
    driven.run_until_complete(asyncio.sleep(0.005))
    assert sorted(seen) == list(range(0, 400, 4))


def test_sockets_and_streams(driven, pair):
    ours, theirs = pair

    async def main():
        driven.call_later(0.001, theirs.send, b"x")
        assert await driven.sock_recv(ours, 10) == b"x"

        async def serve(reader, writer):
            writer.write((await reader.readline()).upper())
            writer.write_eof()
            await writer.drain()
            assert await reader.read() == b""
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"hello\n")
        assert await reader.read() == b"HELLO\n"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    driven.run_until_complete(asyncio.wait_for(main(), 20))


def test_exceptions_of_slots_leave_or_are_reported_as_ever(driven):
    contexts = []
    driven.set_exception_handler(lambda loop, context: contexts.append(context))
    future = driven.create_future()
    future.add_done_callback(lambda future: 1 / 0)
    future.set_result(None)
    driven.call_soon(driven.stop)
    driven.run_forever()
    assert isinstance(contexts.pop()["exception"], ZeroDivisionError)
    assert not contexts

    future = driven.create_future()

    def interrupt(future):
        raise KeyboardInterrupt

    future.add_done_callback(interrupt)
    future.set_result(None)
    with pytest.raises(KeyboardInterrupt):
        driven.run_forever()
    assert driven.run_until_complete(after(0.001, "alive")) == "alive"


def test_an_iteration_may_be_replaced_and_given_back_while_the_loop_runs(loop):
    rounds = []

    def own():
        rounds.append(1)
        DrivenLoop._run_once(loop)

    async def main():
        await asyncio.sleep(0)
        assert not rounds
        loop._run_once = own
        for _ in range(3):
            await asyncio.sleep(0.001)
        assert rounds
        del loop._run_once
        await asyncio.sleep(0)
        rounds.clear()
        for _ in range(3):
            await asyncio.sleep(0.001)
        assert not rounds

    loop.run_until_complete(main())


# --- a loop inside of itself ----------------------------------------------------------


def test_nested_levels_and_the_current_task(nesting):
    async def level(n):
        me = asyncio.current_task()
        await asyncio.sleep(0.001)
        inner = nesting.nest(level(n - 1)) if n else []
        assert asyncio.current_task() is me
        await asyncio.sleep(0)
        assert asyncio.current_task() is me
        return [*inner, n]

    assert nesting.run_until_complete(level(6)) == list(range(7))
    assert asyncio.current_task(nesting) is None


def test_callbacks_in_a_nested_loop_see_no_task(nesting):
    seen = []

    async def main():
        future = nesting.create_future()
        future.add_done_callback(lambda f: seen.append(asyncio.current_task()))
        future.set_result(None)
        nesting.nest(asyncio.sleep(0.001))

    nesting.run_until_complete(main())
    assert seen == [None]


def test_contexts_are_kept_apart(nesting):
    var = contextvars.ContextVar("var", default="unset")

    async def inner(value):
        assert var.get() == "outer"
        var.set(value)
        await asyncio.sleep(0)
        return var.get()

    async def main():
        var.set("outer")
        for value in range(3):
            assert nesting.nest(inner(value)) == value
            assert var.get() == "outer"
            await asyncio.sleep(0)
            assert var.get() == "outer"

    nesting.run_until_complete(main())
    assert var.get() == "unset"


def test_a_nested_loop_sends_what_the_outer_slot_wrote(nesting):
    """The writes of a slot are sent when it ends, or when the nested loop waits."""
    answers = []

    class Server(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(data)
            nesting.nest(asyncio.sleep(0.001))
            self.transport.write(b"!")

    class Client(asyncio.Protocol):
        def __init__(self):
            self.done = nesting.create_future()

        def data_received(self, data):
            answers.append(data)
            if data.endswith(b"!"):
                self.done.set_result(None)

    async def main():
        server = await nesting.create_server(Server, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        transport, client = await nesting.create_connection(Client, *address)
        transport.write(b"x")
        nesting.nest(client.done)
        transport.close()
        server.close()
        await asyncio.sleep(0.001)

    nesting.run_until_complete(asyncio.wait_for(main(), 20))
    assert b"".join(answers) == b"x!"


def test_more_data_for_a_protocol_that_nests(nesting):
    """The same connection becomes readable again inside of its data_received."""
    got = []
    done = nesting.create_future()

    class Server(asyncio.Protocol):
        depth = 0

        def data_received(self, data):
            got.append(data)
            if data == b"a":
                nesting.nest(asyncio.sleep(0.02))
            elif data.endswith(b"c"):
                done.set_result(None)

        def connection_lost(self, exc):
            if not done.done():
                done.set_exception(exc or EOFError())

    async def main():
        server = await nesting.create_server(Server, "127.0.0.1", 0)
        client = socket.create_connection(server.sockets[0].getsockname())
        client.send(b"a")
        nesting.call_later(0.005, client.send, b"b")
        nesting.call_later(0.04, client.send, b"c")
        await done
        client.close()
        server.close()
        await asyncio.sleep(0.001)

    nesting.run_until_complete(asyncio.wait_for(main(), 20))
    assert b"".join(got) == b"abc"


@pytest.mark.parametrize("act", ["cancel", "_run"])
def test_a_loop_whose_hash_meddles_with_the_handle_that_is_run(act):
    """asyncio looks for the loop's current task by it, until 3.13."""
    ran, reported, handle = [], [], None

    class Loop(DrivenLoop):
        def __hash__(self):
            nonlocal handle
            if handle is not None:
                meddled, handle = handle, None
                getattr(meddled, act)()
            return 1

        def _run_once(self):
            nonlocal handle
            handle = held = self._ready.popleft()
            held._run()
            handle = None
            self.stop()

    async def main():
        ran.append(True)

    loop = Loop()
    loop.set_exception_handler(lambda loop, context: reported.append(context))
    coroutine = main()
    task = loop.create_task(coroutine)
    loop.run_forever()
    if act == "cancel" and sys.version_info < (3, 14):
        assert not ran
        task._log_destroy_pending = False
        coroutine.close()
    else:
        assert ran == [True] and task.done()
    assert not reported
    loop.close()


def test_a_task_that_nests_until_its_own_write_is_through(nesting, pair):
    """The write's context is the task's, in which the nested loop runs."""
    var = contextvars.ContextVar("var")
    size = 3_000_000

    async def main():
        ours, theirs = pair
        _, writer = await asyncio.open_connection(sock=ours)
        other, other_writer = await asyncio.open_connection(sock=theirs)
        var.set("not empty")
        writer.write(bytes(size))
        read = asyncio.ensure_future(other.readexactly(size))
        nesting.nest(writer.drain())
        assert len(nesting.nest(read)) == size
        writer.close()
        other_writer.close()
        await asyncio.sleep(0.001)

    nesting.run_until_complete(asyncio.wait_for(main(), 20))


def test_threads_and_signals_wake_a_nested_loop(nesting, thread):
    async def main():
        future = nesting.create_future()
        thread(nesting.call_soon_threadsafe, future.set_result, "thread")
        assert nesting.nest(future) == "thread"
        future = nesting.create_future()
        nesting.add_signal_handler(signal.SIGUSR1, future.set_result, "signal")
        thread(os.kill, os.getpid(), signal.SIGUSR1)
        assert nesting.nest(future) == "signal"
        nesting.remove_signal_handler(signal.SIGUSR1)

    nesting.run_until_complete(main())


def test_keyboard_interrupt_leaves_a_nested_loop(nesting, thread):
    async def main():
        main_thread = threading.main_thread().ident
        future = nesting.create_future()
        nesting.call_soon(
            thread, lambda: signal.pthread_kill(main_thread, signal.SIGINT)
        )
        with pytest.raises(KeyboardInterrupt):
            nesting.nest(future)
        return nesting.nest(after(0.001, "alive"))

    assert nesting.run_until_complete(main()) == "alive"


# --- the queues -----------------------------------------------------------------------


def test_popleft_gives_the_handles_themselves(loop):
    seen = []
    soon = loop.call_soon(seen.append, 1)
    foreign = asyncio.Handle(seen.append, (2,), loop)
    loop._ready.append(foreign)
    other = loop.call_soon_threadsafe(seen.append, 3)
    ready = loop._ready
    assert ready[0] is soon and ready[-1] is other
    for handle in (soon, foreign, other):
        popped = ready.popleft()
        assert popped is handle
        assert gc.is_tracked(popped)
        popped._run()
    assert seen == [1, 2, 3]
    assert not ready
    with pytest.raises(IndexError, match="pop from an empty deque"):
        ready.popleft()
    with pytest.raises(IndexError):
        ready[0]


def test_a_slot_is_run_once_and_can_be_cancelled_or_queued_again(loop):
    seen = []

    def make():
        future = loop.create_future()
        future.add_done_callback(seen.append)
        future.set_result(None)
        return future

    future = make()
    handle = loop._ready.popleft()
    assert not handle._cancelled and not handle.cancelled()
    assert handle._callback == seen.append
    assert handle._args == (future,)
    assert handle.get_context() if sys.version_info >= (3, 12) else True
    assert repr(handle).startswith("<Handle ")
    handle._run()
    handle._run()
    assert seen == [future]
    assert repr(handle).startswith("<Handle ")

    make()
    handle = loop._ready.popleft()
    handle.cancel()
    assert handle._cancelled and handle.cancelled()
    handle._run()
    assert repr(handle) == "<Handle cancelled>"
    assert seen == [future]

    again = make()
    loop._ready.append(loop._ready.popleft())
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == [future, again]


def test_a_slot_that_cancels_itself_goes_on(loop):
    seen = []

    def callback(future):
        handle.cancel()
        seen.append(future)

    future = loop.create_future()
    future.add_done_callback(callback)
    future.set_result(None)
    handle = loop._ready.popleft()
    handle._run()
    assert seen == [future]


def test_slots_that_are_dropped_are_freed(loop):
    future = loop.create_future()

    class Callback:
        def __call__(self, future):
            self.future = future

    callback = Callback()
    future.add_done_callback(callback)
    future.set_result(None)
    handle = loop._ready.popleft()
    handle._run()
    callback.handle = handle  # a cycle
    gone = weakref.ref(callback)
    del handle, callback, future
    gc.collect()
    assert gone() is None

    async def never():
        raise AssertionError

    task = loop.create_task(never())
    coro = task.get_coro()
    loop._ready.popleft()
    task.cancel()
    loop._ready.clear()
    coro.close()
    del task
    gc.collect()


def test_scheduled_shows_the_first_timer_in_front(loop):
    assert not loop._scheduled
    timers = [loop.call_later(delay, print) for delay in (50, 20, 90, 10, 0, 30)]
    assert loop._scheduled
    assert loop._scheduled[0] is timers[4]
    assert loop._scheduled[1] is timers[3]
    assert loop._scheduled[-1] is timers[2]
    with pytest.raises(IndexError):
        loop._scheduled[6]
    with pytest.raises(AttributeError):
        loop._scheduled.popleft()
    loop._scheduled.clear()
    with pytest.raises(IndexError):
        loop._scheduled[0]


def test_scheduled_is_a_list_that_heapq_and_the_loop_share(loop):
    seen = []
    third = loop.call_later(0.003, seen.append, "third")
    scheduled = loop._scheduled
    assert type(scheduled) is list and scheduled == [third]
    second = asyncio.TimerHandle(loop.time() + 0.002, seen.append, ("second",), loop)
    heapq.heappush(scheduled, second)
    second._scheduled = True
    first = loop.call_later(0.001, seen.append, "first")
    never = loop.call_later(0.001, seen.append, "never")
    never.cancel()
    assert sorted(scheduled)[0] is first and loop._scheduled is scheduled
    assert loop._timer_cancelled_count == 1
    loop.run_until_complete(asyncio.sleep(0.01))
    assert seen == ["first", "second", "third"]
    assert scheduled == [] and loop._timer_cancelled_count == 0
    assert not first._scheduled and not second._scheduled
    del scheduled
    loop.run_until_complete(asyncio.sleep(0.001))


def test_timers_go_back_to_the_heap_when_nobody_has_the_list(loop):
    seen = []
    now = loop.time()
    timers = [
        loop.call_at(now + 0.001 * (i % 7), seen.append, i % 7) for i in range(50)
    ]
    assert len(loop._scheduled) == 50
    timers[3].cancel()
    timers[-1].cancel()
    loop.run_until_complete(asyncio.sleep(0.01))
    assert sorted(seen) == seen and len(seen) == 48
    # Of the same deadline, in the order of scheduling.
    late = loop.time() + 0.003
    seen.clear()
    for i in range(20):
        loop.call_at(late, seen.append, i)
    assert len(loop._scheduled) == 20
    loop.run_until_complete(asyncio.sleep(0.01))
    assert seen == list(range(20))


def test_another_list_in_the_place_of_scheduled(loop):
    seen = []
    loop.call_later(0.002, seen.append, "dropped")
    kept = loop.call_later(0.001, seen.append, "kept")
    loop._scheduled = [timer for timer in loop._scheduled if timer is kept]
    loop.run_until_complete(asyncio.sleep(0.01))
    assert seen == ["kept"]
    with pytest.raises(TypeError):
        loop._scheduled = None


def test_a_timer_whose_deadline_is_no_number_in_the_list(loop):
    timer = loop.call_later(50, print)
    held = loop._scheduled
    assert held == [timer]
    held[0] = mock = types.SimpleNamespace(_when="soon", _cancelled=False)
    with pytest.raises(TypeError):
        loop.run_until_complete(asyncio.sleep(0))
    assert held == [mock]
    held.clear()


# --- the selector ---------------------------------------------------------------------


def test_select_waits_no_longer_than_it_is_told_or_a_timer_allows(loop):
    began = time.monotonic()
    assert loop._selector.select(0.01) == []
    assert loop._selector.select(0) == loop._selector.select(-1) == []
    waited = time.monotonic() - began
    assert 0.01 <= waited < 5
    timer = loop.call_later(0.01, print)
    assert loop._selector.select() == []
    assert list(loop._ready) == [timer]
    assert loop._selector.select(None) == []  # something is ready: it does not wait
    loop._ready.clear()
    with pytest.raises(TypeError):
        loop._selector.select("soon")


def test_select_queues_what_is_ready(loop, pair):
    ours, theirs = pair
    seen = []
    loop.add_reader(ours, seen.append, "readable")
    theirs.send(b"x")
    loop._process_events(loop._selector.select(20))
    loop._ready.popleft()._run()
    assert seen == ["readable"]
    loop.remove_reader(ours)


def test_an_iteration_believes_a_replaced_clock(debug):
    class Loop(DrivenLoop):
        now = 1000.0

        def time(self):
            return self.now

    loop = Loop()
    loop.set_debug(debug)
    seen = []
    loop.call_later(50, seen.append, 1)
    loop.call_soon(seen.append, 0)
    loop._run_once()
    assert seen == [0]
    loop.now += 50
    loop._run_once()
    assert seen == [0, 1]
    loop.close()


def test_one_thread_at_a_time_uses_the_selector(loop, thread):
    errors = []
    timer = loop.call_later(50, print)

    def try_to(call):
        try:
            call()
        except RuntimeError as exc:
            errors.append(str(exc))

    def other():
        while not errors:  # until the main thread waits
            try_to(lambda: loop._selector.select(0))
        try_to(loop._run_once)
        try_to(loop._selector.close)
        loop.call_soon_threadsafe(timer.cancel)

    thread(other)
    waited = None
    while waited is None:  # Without a GIL the other thread may just be inside.
        with contextlib.suppress(RuntimeError):
            waited = loop._selector.select()
    assert errors[:2] == ["the selector is being waited for in another thread"] * 2
    assert errors[2:] == ["Cannot close a running event loop"]
    loop._ready.clear()


def test_a_closed_loop_selects_no_more(loop):
    selector = loop._selector
    loop.close()
    for call in (selector.select, loop._run_once):
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            call()


# --- a pump ---------------------------------------------------------------------------


def test_a_pump_of_stop_and_run_forever(loop, pair):
    """A game's frame: whatever is ready runs, nothing is waited for."""
    ours, theirs = pair
    seen = []

    async def task():
        for i in range(3):
            seen.append(i)
            await asyncio.sleep(0)
        seen.append(await loop.sock_recv(ours, 10))

    running = loop.create_task(task())
    for frame in range(10_000):
        if frame == 5:
            theirs.send(b"x")
        loop.stop()
        loop.run_forever()
        if running.done():
            break
    assert seen == [0, 1, 2, b"x"]
