"""Loops in several threads at once, and what other threads may do to a loop.

With a GIL this is ordinary; without one (a free-threaded Python) the threads really run
at once, and ThreadSanitizer's build looks at every access.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import aioloop
from tests.conftest import FREE_THREADED

HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
LIMIT = 60 if HAS_GIL else 600  # ThreadSanitizer makes everything ten times slower.


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Call work(0), work(1) ... at once, each in a thread; raise what they raise."""
    errors: list[BaseException] = []
    start = threading.Barrier(count)

    def call(number: int) -> None:
        try:
            start.wait(LIMIT)
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads)


def run(main: Awaitable[Any], debug: bool = False) -> Any:
    """Run in a new loop, and close it with its executor."""
    loop = aioloop.new_event_loop()
    loop.set_debug(debug)
    try:
        return loop.run_until_complete(asyncio.wait_for(main, LIMIT))
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


class running_loops:
    """Some loops, each run by a thread until the block ends."""

    def __init__(self, count: int) -> None:
        self.loops = [aioloop.new_event_loop() for _ in range(count)]
        self.threads = [
            threading.Thread(target=loop.run_forever) for loop in self.loops
        ]

    def __enter__(self) -> list[asyncio.AbstractEventLoop]:
        for thread in self.threads:
            thread.start()
        return self.loops

    def __exit__(self, *_exc: object) -> None:
        for loop in self.loops:
            loop.call_soon_threadsafe(loop.stop)
        for thread, loop in zip(self.threads, self.loops, strict=True):
            thread.join(LIMIT)
            loop.close()


async def child(number: int) -> int:
    await asyncio.sleep(0)
    return number


async def tasks_and_timers() -> None:
    loop = asyncio.get_running_loop()
    assert await asyncio.gather(*(child(n) for n in range(50))) == list(range(50))
    future = loop.create_future()
    loop.call_later(0.001, future.set_result, 1)
    assert await future == 1
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.sleep(LIMIT), 0.001)
    task = asyncio.current_task()
    assert task in asyncio.all_tasks() and len(asyncio.all_tasks()) >= 1
    assert all(other.get_loop() is loop for other in asyncio.all_tasks())


async def other_threads() -> None:
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    thread = threading.Thread(
        target=loop.call_soon_threadsafe, args=(future.set_result, 2)
    )
    thread.start()
    assert await future == 2
    thread.join()
    work = (loop.run_in_executor(None, pow, n, 2) for n in range(10))
    assert await asyncio.gather(*work) == [n * n for n in range(10)]


async def network() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(5))
        writer.close()
        await writer.wait_closed()

    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello")
    assert await reader.read() == b"hello"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    one, two = socket.socketpair()
    with one, two:
        one.setblocking(False)
        two.setblocking(False)
        for _ in range(5):
            await loop.sock_sendall(one, b"x")
            assert await loop.sock_recv(two, 200) == b"x"


@pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
def test_loops_are_made_run_and_closed_in_eight_threads(debug: bool) -> None:
    async def main() -> None:
        await tasks_and_timers()
        await other_threads()
        await network()

    def work(_number: int) -> None:
        for _ in range(2):
            run(main(), debug)

    in_threads(8, work)


def test_many_threads_give_coroutines_to_many_loops() -> None:
    with running_loops(3) as loops:

        def work(number: int) -> None:
            for i in range(60):
                loop = loops[(number + i) % len(loops)]
                future = asyncio.run_coroutine_threadsafe(child(i), loop)
                assert future.result(LIMIT) == i

        in_threads(4, work)


def test_tasks_are_looked_at_from_other_threads() -> None:
    stop = threading.Event()

    async def busy() -> None:
        while not stop.is_set():
            await asyncio.gather(*(child(n) for n in range(20)))

    with running_loops(2) as loops:
        work = [asyncio.run_coroutine_threadsafe(busy(), loop) for loop in loops]
        try:
            for _ in range(30):
                for loop in loops:
                    for task in asyncio.all_tasks(loop):
                        assert task.get_loop() is loop
                        # With a GIL asyncio's repr shows the future that the task waits
                        # for, and reads its _callbacks twice: None at the second.
                        with contextlib.suppress(
                            *([] if FREE_THREADED else [TypeError])
                        ):
                            assert task.get_name() in repr(task)
                        task.get_coro(), task.done(), task.cancelled()
                    for _ in range(5):
                        current = asyncio.current_task(loop)
                        assert current is None or current.get_loop() is loop
        finally:
            stop.set()
        for future in work:
            future.result(LIMIT)


def test_tasks_are_listed_while_a_loop_that_has_accepted_runs_and_stops() -> None:
    """The list has tasks of connections just accepted, of the thread's own loops."""
    accepted, done = threading.Event(), threading.Event()

    def work() -> None:
        with asyncio.Runner(loop_factory=aioloop.new_event_loop) as runner:
            runner.run(network())
            accepted.set()
            for _ in range(200):
                runner.get_loop().run_until_complete(asyncio.sleep(0))
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert accepted.wait(LIMIT)
    with asyncio.Runner(loop_factory=aioloop.new_event_loop) as runner:
        loop = runner.get_loop()
        while not done.is_set():
            assert asyncio.all_tasks(loop) == set()
    thread.join()


# 3.14 keeps the current task in the thread's state.
has_dict = pytest.mark.skipif(sys.version_info >= (3, 14), reason="there is no dict")


@has_dict
def test_the_dict_of_current_tasks_has_it_for_who_looks() -> None:
    tasks: dict[Any, Any] = asyncio.tasks._current_tasks  # type: ignore[attr-defined]

    async def main() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        for look in (
            lambda: tasks[loop],
            lambda: tasks.get(loop),
            lambda: asyncio.current_task(loop),
            lambda: next(task for of, task in tasks.items() if of is loop),
            lambda: tasks.setdefault(loop, None),
        ):
            assert look() is task
        await asyncio.sleep(0)
        assert loop in tasks
        await asyncio.sleep(0)
        # What a program does to it is seen, and what it leaves is left.
        assert tasks.pop(loop) is task
        assert asyncio.current_task() is None and loop not in tasks
        tasks[loop] = task
        assert asyncio.current_task() is task
        await asyncio.sleep(0)
        seen = [1]
        loop.call_soon(lambda: seen.append(asyncio.current_task()))
        loop.call_soon(lambda: seen.append(tasks.get(loop)))
        await asyncio.sleep(0)
        assert seen == [1, None, None]

    run(main())
    assert not any(isinstance(loop, aioloop.Loop) for loop in tasks)


def test_a_step_that_begins_in_a_step_is_refused() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        errors = []
        loop.set_exception_handler(lambda _loop, context: errors.append(context))
        for look in (False, True):
            if look:
                asyncio.current_task()
            inner = loop.create_task(child(1))
            with pytest.raises(RuntimeError, match="Cannot enter into task"):
                steps = [call for call in loop._ready if call]  # type: ignore[attr-defined]
                steps[-1]._callback()
            assert await inner == 1
        assert not errors

    run(main())


class WithHash(aioloop.Loop):
    def __hash__(self) -> int:
        return 7


def test_a_loop_with_a_hash_of_its_own_has_a_current_task() -> None:
    async def main() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None and asyncio.current_task(loop) is task
        await asyncio.gather(*(child(n) for n in range(3)))
        assert asyncio.current_task() is task

    loop = WithHash()
    try:
        loop.run_until_complete(main())
        assert asyncio.current_task(loop) is None
    finally:
        loop.close()
    plain = aioloop.new_event_loop()
    assert hash(plain) == object.__hash__(plain)
    plain.close()


def test_default_names_in_several_threads_are_different() -> None:
    names: list[str] = []

    async def main() -> None:
        tasks = [asyncio.ensure_future(child(n)) for n in range(200)]
        mine = [task.get_name() for task in tasks]
        numbers = [int(name.removeprefix("Task-")) for name in mine]
        assert numbers == sorted(numbers)
        names.extend(mine)
        await asyncio.gather(*tasks)

    in_threads(4, lambda _: run(main()))
    assert len(set(names)) == len(names) == 800


def test_what_one_thread_schedules_arrives_in_its_order() -> None:
    got: dict[int, list[int]] = {n: [] for n in range(4)}
    with running_loops(1) as (loop,):

        def work(number: int) -> None:
            for i in range(500):
                loop.call_soon_threadsafe(got[number].append, i)

        in_threads(4, work)
        done = threading.Event()
        loop.call_soon_threadsafe(done.set)
        assert done.wait(LIMIT)
    assert all(numbers == list(range(500)) for numbers in got.values())


def test_a_loop_that_does_not_run_keeps_the_order_of_all_calls() -> None:
    loop = aioloop.new_event_loop()
    got: list[int] = []
    loop.call_soon(got.append, 1)
    loop.call_soon_threadsafe(got.append, 2)
    loop.call_soon(got.append, 3)
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(got.append, 4))
    thread.start()
    thread.join()
    loop.call_soon(got.append, 5)
    assert len(loop._ready) == 5  # type: ignore[attr-defined]
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert got == [1, 2, 3, 4, 5]
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_soon_threadsafe(got.append, 6)


def test_what_comes_while_a_loop_closes_is_refused_or_dropped() -> None:
    for _ in range(20):
        loop = aioloop.new_event_loop()
        ended = threading.Event()

        def schedule(loop: Any = loop, ended: Any = ended) -> None:
            limit = time.monotonic() + LIMIT
            try:
                while time.monotonic() < limit:
                    loop.call_soon_threadsafe(int)
            except RuntimeError:
                ended.set()

        thread = threading.Thread(target=schedule)
        thread.start()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        assert ended.wait(LIMIT)
        thread.join(LIMIT)


def test_another_thread_cancels_handles() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        timers = [loop.call_later(10 * LIMIT, print) for _ in range(200)]
        cancelled = loop.create_future()

        def cancel() -> None:
            for timer in timers:
                timer.cancel()
                timer.cancel()
            loop.call_soon_threadsafe(int).cancel()
            loop.call_soon_threadsafe(cancelled.set_result, None)

        thread = threading.Thread(target=cancel)
        thread.start()
        await cancelled
        thread.join()
        assert all(timer.cancelled() for timer in timers)

    run(main())


@pytest.mark.skipif(HAS_GIL, reason="with a GIL it is the program's own risk")
def test_without_a_gil_another_threads_changes_are_refused() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        future, task = loop.create_future(), asyncio.current_task()
        assert task is not None
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        changes: list[Callable[[], object]] = [
            lambda: future.set_result(1),
            lambda: future.set_exception(ValueError()),
            lambda: future.add_done_callback(print),
            lambda: future.remove_done_callback(print),
            future.cancel,
            task.cancel,
            task.uncancel,
            lambda: loop.call_later(1, print),
            lambda: loop.add_reader(0, print),
            lambda: transport.sendto(b"x", ("127.0.0.1", 1)),
            lambda: transport.pause_reading(),  # type: ignore[attr-defined]
            lambda: len(ready),
            lambda: ready.appendleft(None),
            lambda: ready.clear(),
        ]
        ready = loop._ready  # type: ignore[attr-defined]
        refused: list[str] = []

        def change() -> None:
            for call in changes:
                try:
                    call()
                except RuntimeError as error:
                    refused.append(str(error))
            transport.close()

        await loop.run_in_executor(None, change)
        assert len(refused) == len(changes)
        assert all("Non-thread-safe operation" in text for text in refused)
        await asyncio.sleep(0)
        assert transport.is_closing() and not future.done()
        assert task.cancelling() == 0

    run(main())


def test_another_thread_asks_a_loop_how_it_is() -> None:
    with running_loops(2) as loops:
        for loop in loops:
            loop.metering = True  # type: ignore[attr-defined]
            ran = threading.Event()
            loop.call_soon_threadsafe(ran.set)
            assert ran.wait(LIMIT)
        before = [loop.metrics() for loop in loops]  # type: ignore[attr-defined]
        assert all(metrics.callbacks > 0 for metrics in before)
        assert all(loop.metering for loop in loops)  # type: ignore[attr-defined]
        assert loops[0].usage() is not None  # type: ignore[attr-defined]
        text = io.StringIO()
        aioloop.dump(text)
        assert text.getvalue().count("the loop of thread") == 2
        loops[1].metering = False  # type: ignore[attr-defined]


def test_another_thread_changes_loops_that_begin_to_run() -> None:
    """That is refused, left to the loop, or done before it begins."""
    for _ in range(20):
        with running_loops(4) as loops:
            for loop in loops:
                loop.metering = True  # type: ignore[attr-defined]
                loop.set_debug(True)
                try:
                    loop.call_later(0.001, int).cancel()
                    loop.slow_callback_duration = 1.0  # type: ignore[attr-defined]
                    loop.set_task_factory(None)
                    loop.remove_reader(0)
                except RuntimeError as error:
                    assert "Non-thread-safe operation" in str(error)


def test_a_stuck_loop_is_told_as_such(monkeypatch: Any) -> None:
    from aioloop import _metrics

    monkeypatch.setattr(_metrics, "PATIENCE", 0.01)
    stuck, done = threading.Event(), threading.Event()

    def callback() -> None:
        stuck.set()
        done.wait(LIMIT)

    with running_loops(1) as [loop]:
        loop.call_soon_threadsafe(callback)
        stuck.wait(LIMIT)
        text = io.StringIO()
        aioloop.dump(text)
        if FREE_THREADED:
            assert "it is stuck in a callback" in text.getvalue()
            with pytest.raises(TimeoutError):
                loop.metrics()  # type: ignore[attr-defined]
        else:
            assert "in a callback" in text.getvalue()
            assert loop.metrics().callbacks >= 0  # type: ignore[attr-defined]
        done.set()


def test_another_thread_appends_to_the_ready_queue() -> None:
    """As asyncio's own call_soon_threadsafe does, where that runs."""
    with running_loops(1) as [loop]:
        ran = threading.Event()
        handle = asyncio.Handle(ran.set, (), loop)
        loop._ready.append(handle)  # type: ignore[attr-defined]
        loop.call_soon_threadsafe(int)
        assert ran.wait(LIMIT)


def test_debug_mode_is_switched_from_another_thread() -> None:
    with running_loops(1) as [loop]:
        for debug in (True, False):
            loop.set_debug(debug)
            ran = threading.Event()
            loop.call_soon_threadsafe(ran.set)
            assert ran.wait(LIMIT)
            assert loop.get_debug() is debug
            options = aioloop.DebugOptions(thread_checks=debug)
            loop.debug_options = options  # type: ignore[attr-defined]
            ran.clear()
            loop.call_soon_threadsafe(ran.set)
            assert ran.wait(LIMIT)
            assert loop.debug_options == options  # type: ignore[attr-defined]


@pytest.mark.skipif(not FREE_THREADED, reason="there is nothing but a GIL")
def test_importing_leaves_the_gil_off() -> None:
    program = "import sys, aioloop; sys.exit(sys._is_gil_enabled())"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHON_GIL"}
    command = [sys.executable, "-W", "error", "-c", program]
    assert subprocess.run(command, env=environment, timeout=LIMIT).returncode == 0


def test_another_thread_reports_an_error() -> None:
    reports: list[dict[str, Any]] = []
    with running_loops(1) as [loop]:
        ran = threading.Event()
        loop.set_debug(True)
        loop.call_soon_threadsafe(ran.set)
        assert ran.wait(LIMIT)
        loop.set_exception_handler(lambda _, context: reports.append(context))
        loop.call_exception_handler({"message": "from outside"})
        loop.set_exception_handler(None)
        loop.default_exception_handler({"message": "and by asyncio's own"})
    assert [report["message"] for report in reports] == ["from outside"]


@pytest.mark.skipif(not FREE_THREADED, reason="with a GIL there is a watchdog")
def test_the_watchdog_says_that_it_does_nothing(monkeypatch: Any) -> None:
    loop = aioloop.new_event_loop()
    with pytest.warns(RuntimeWarning, match="no watchdog"):
        loop.stall_threshold = 1  # type: ignore[attr-defined]
    loop.close()
    monkeypatch.setenv("AIOLOOP_STALL", "1")
    with pytest.warns(RuntimeWarning, match="no watchdog"):
        aioloop.new_event_loop().close()


@pytest.mark.skipif(not FREE_THREADED, reason="with a GIL it is the program's own risk")
def test_one_thread_at_a_time_drives_a_loop() -> None:
    """Each of many threads runs iterations by hand of a loop that nobody runs."""
    loop: Any = aioloop.new_event_loop()
    ran: list[int] = []

    def again() -> None:
        loop.call_soon(again)  # So no iteration waits.

    again()
    wanted = {n * 1000 + i for n in range(8) for i in range(200)}

    def drive(number: int) -> None:
        for i in range(200):
            loop.call_soon_threadsafe(ran.append, number * 1000 + i)
            with contextlib.suppress(RuntimeError):
                loop._run_once()

    in_threads(8, drive)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert sorted(ran) == sorted(wanted)
    loop.close()


def test_the_ready_queue_has_what_was_pushed_after_it_was_got() -> None:
    loop = aioloop.new_event_loop()
    ready: Any = loop._ready  # type: ignore[attr-defined]
    seen: list[int] = []
    handles = [loop.call_soon(seen.append, n) for n in range(3)]
    assert len(ready) == 3 and ready and list(ready) == handles
    assert ready[0] is handles[0] and ready[-1] is handles[2]
    loop.call_soon_threadsafe(seen.append, 3)
    assert ready.popleft() is handles[0]
    loop.call_soon(seen.append, 4)
    ready.append(handles[0])
    in_threads(1, lambda _: loop.call_soon_threadsafe(seen.append, 5))
    ready.rotate(1)
    run_once = loop.create_future()
    loop.call_soon(run_once.set_result, None)
    loop.run_until_complete(run_once)
    assert seen == [5, 1, 2, 3, 4, 0]
    loop.call_soon(seen.append, 6)
    ready.clear()
    assert not ready
    loop.close()


def test_signals_come_to_the_main_thread_beside_other_loops() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(5):
            came = loop.create_future()
            loop.add_signal_handler(signal.SIGUSR1, came.set_result, None)
            os.kill(os.getpid(), signal.SIGUSR1)
            await came
        loop.remove_signal_handler(signal.SIGUSR1)

    with running_loops(2) as loops:
        stop = threading.Event()

        async def busy() -> None:
            while not stop.is_set():
                await asyncio.sleep(0)

        work = [asyncio.run_coroutine_threadsafe(busy(), loop) for loop in loops]
        try:
            run(main())
        finally:
            stop.set()
        for future in work:
            future.result(LIMIT)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_beside_running_loops_has_a_loop_of_its_own() -> None:
    with running_loops(2) as loops:
        for loop in loops:
            asyncio.run_coroutine_threadsafe(child(1), loop).result(LIMIT)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = aioloop.run(child(7))
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
