"""Virtual time: the clock moves when nothing else can happen (src/core/virtual)."""

import asyncio
import contextlib
import gc
import io
import math
import socket
import sys
import threading
import time
import weakref
from fractions import Fraction

import pytest

import aioloop
from aioloop import testing
from tests.conftest import client_context, finish, open_descriptors, server_context

HOUR = 3600.0
LIMIT = 60.0  # real seconds, in which what is awaited has long come


@pytest.fixture
def make_loop(debug):
    """Return a function that makes a loop with virtual time, closed at the end."""
    before = open_descriptors()
    loops = []

    def make(**options):
        loop = testing.new_event_loop(**options)
        loop.set_debug(debug)
        loops.append(loop)
        return loop

    yield make
    for loop in loops:
        if not loop.is_closed():
            finish(loop)
    loops.clear()
    gc.collect()
    assert open_descriptors() == before


@pytest.fixture
def loop(make_loop):
    return make_loop()


@pytest.fixture
def run(loop):
    return loop.run_until_complete


# Sleeping.


def test_an_hour_takes_no_time(loop, run):
    began = time.perf_counter()
    run(asyncio.sleep(HOUR))
    assert loop.time() == HOUR
    assert time.perf_counter() - began < LIMIT


def test_the_clock_counts_whole_nanoseconds(loop, run):
    async def main():
        await asyncio.sleep(0.1)
        await asyncio.sleep(0.2)
        assert loop.time() == 0.3
        timer = loop.call_later(0.15, int)
        assert timer.when() == 0.45
        await asyncio.sleep(0.2 - 0.05)
        assert loop.time() == 0.45
        assert testing.current_clock().nanoseconds == 450_000_000

    run(main())


def test_sums_that_are_equal_in_nanoseconds_are_one_deadline(loop, run):
    """As doubles, 0.1 + 0.2 is later than 0.3."""
    seen = []

    async def main():
        loop.call_at(0.1 + 0.2, seen.append, "first")
        loop.call_at(0.3, seen.append, "second")
        await asyncio.sleep(1)

    run(main())
    assert seen == ["first", "second"]


def test_timers_run_by_deadline_then_in_order(loop, run):
    seen = []

    async def main():
        for i, delay in enumerate([3, 1, 2, 1, 3, 0]):
            loop.call_later(delay, lambda i=i: seen.append((loop.time(), i)))
        await asyncio.sleep(4)

    run(main())
    assert seen == [(0.0, 5), (1.0, 1), (1.0, 3), (2.0, 2), (3.0, 0), (3.0, 4)]


def test_the_clock_stands_still_while_anything_is_ready(loop, run):
    seen = []

    def again(left):
        seen.append(loop.time())
        if left:
            loop.call_soon(again, left - 1)

    async def main():
        loop.call_soon(again, 100)
        await asyncio.sleep(1e-9)
        assert len(seen) == 101

    run(main())
    assert set(seen) == {0.0}
    assert loop.time() == 1e-9


def test_both_ends_of_a_timeout_are_set_before_time_moves(loop, run):
    async def main():
        async with asyncio.timeout(9):
            await asyncio.sleep(1)
        assert loop.time() == 1.0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(9):
                await asyncio.sleep(10)
        assert loop.time() == 10.0
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.create_future(), 5)
        assert loop.time() == 15.0

    run(main())


def test_sleep_zero_yields_and_takes_no_time(loop, run):
    async def main():
        for _ in range(10):
            await asyncio.sleep(0)
        return loop.time()

    assert run(main()) == 0.0


def test_a_cancelled_timer_does_not_move_the_clock(loop, run):
    async def main():
        loop.call_later(1, int).cancel()
        later = loop.call_later(3, int)
        loop.call_later(2, later.cancel)
        await asyncio.sleep(5)

    run(main())
    assert loop.time() == 5.0


def test_tasks_that_sleep_beside_each_other(loop, run):
    async def worker(period, times):
        seen = []
        for _ in range(times):
            await asyncio.sleep(period)
            seen.append(loop.time())
        return seen

    async def main():
        return await asyncio.gather(worker(2, 3), worker(3, 2))

    assert run(main()) == [[2.0, 4.0, 6.0], [3.0, 6.0]]


def test_a_deadline_that_no_clock_reaches_never_comes(loop, run):
    async def main():
        loop.call_later(math.inf, pytest.fail)
        loop.call_later(1e15, pytest.fail)
        task = asyncio.ensure_future(asyncio.sleep(math.inf))
        await asyncio.sleep(24 * HOUR * 365)
        assert not task.done()
        task.cancel()

    run(main())
    assert loop.time() == 24 * HOUR * 365


def test_a_deadline_that_is_no_float(loop, run):
    seen = []

    async def main():
        loop.call_later(Fraction(1, 3), lambda: seen.append(loop.time()))
        loop.call_at(Fraction(2, 3), lambda: seen.append(loop.time()))
        await asyncio.sleep(1)

    run(main())
    assert seen == [0.333333333, 0.666666667]


def test_a_deadline_in_the_past_is_due_now(loop, run):
    seen = []

    async def main():
        await asyncio.sleep(10)
        loop.call_at(3, lambda: seen.append(loop.time()))
        loop.call_at(math.nan, lambda: seen.append(loop.time()))
        await asyncio.sleep(1)

    run(main())
    assert seen == [10.0, 10.0]


def test_time_goes_on_in_the_next_run(loop, run):
    run(asyncio.sleep(1))
    run(asyncio.sleep(2))
    assert loop.time() == 3.0
    loop.close()
    assert loop.time() == 3.0


def test_the_clock_starts_where_it_is_told_to(make_loop):
    loop = make_loop(start=1e9)
    loop.run_until_complete(asyncio.sleep(0.25))
    assert loop.time() == 1e9 + 0.25


def test_one_clock_serves_loops_one_after_the_other(make_loop):
    clock = testing.Clock(5)
    first = make_loop(clock=clock)
    first.run_until_complete(asyncio.sleep(1))
    second = make_loop(clock=clock)
    second.run_until_complete(asyncio.sleep(1))
    assert first.time() == second.time() == clock.time() == 7.0


def test_as_a_loop_factory():
    async def main():
        await asyncio.sleep(HOUR)
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=testing.new_event_loop) as runner:
        assert runner.run(main()) == HOUR


# Moving the clock by hand.


def test_advance_makes_due_what_it_passes(make_loop):
    loop = make_loop(autojump=None)
    seen = []

    async def main():
        clock = testing.current_clock()
        for delay in (3, 1, 7):
            loop.call_later(delay, lambda d=delay: seen.append((d, loop.time())))
        clock.advance(5)
        assert loop.time() == 5.0
        assert not seen
        await asyncio.sleep(0)

    loop.run_until_complete(main())
    assert seen == [(1, 5.0), (3, 5.0)]


def test_jump_to_next(make_loop):
    clock = testing.Clock(autojump=None)
    loop = make_loop(clock=clock)
    assert clock.jump_to_next() is None
    seen = []
    loop.call_later(2, lambda: seen.append(loop.time()))
    loop.call_later(1, int).cancel()
    loop.call_later(5, lambda: seen.append(loop.time()))
    assert clock.jump_to_next() == 2.0
    assert clock.jump_to_next() == 0.0
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == [2.0]
    assert clock.jump_to_next() == 3.0
    assert clock.time() == 5.0


def test_without_autojump_the_clock_waits_for_another_thread(make_loop, thread):
    clock = testing.Clock(autojump=None)
    loop = make_loop(clock=clock)
    sleeps = threading.Event()

    def move():
        sleeps.wait(LIMIT)
        clock.advance(HOUR)

    async def main():
        loop.call_soon(sleeps.set)
        await asyncio.sleep(HOUR)

    thread(move)
    loop.run_until_complete(main())
    assert loop.time() == HOUR
    assert clock.jumps == 0


def test_autojump_may_change(make_loop):
    clock = testing.Clock(autojump=math.inf)
    assert clock.autojump is None
    loop = make_loop(clock=clock)

    async def main():
        loop.call_soon(setattr, clock, "autojump", 0)
        await asyncio.sleep(HOUR)

    loop.run_until_complete(main())
    assert clock.autojump == 0.0
    assert repr(clock) == "<Clock at 3600.0 seconds>"


@pytest.mark.parametrize("seconds", [-1, -1e-9, math.nan, math.inf])
def test_a_clock_moves_forward(seconds):
    with pytest.raises(ValueError, match="moves forward"):
        testing.Clock().advance(seconds)


def test_a_clock_has_an_end(make_loop):
    clock = testing.Clock(3e9)
    with pytest.raises(OverflowError):
        clock.advance(1e10)
    loop = make_loop(clock=clock)
    with pytest.raises(OverflowError):
        for _ in range(10):
            loop.run_until_complete(asyncio.sleep(2.9e9))


@pytest.mark.parametrize("name", ["start", "autojump"])
@pytest.mark.parametrize("value", [-1, math.nan, 1e300])
def test_what_a_clock_refuses(name, value):
    with pytest.raises(ValueError, match=name):
        testing.new_event_loop(**{name: value})
    with pytest.raises(TypeError):
        testing.new_event_loop(**{name: "soon"})
    with pytest.raises(TypeError, match="Clock was expected"):
        testing.new_event_loop(clock=value)


# What is outside.


def test_a_job_of_an_executor_takes_real_time_only(loop, run):
    async def main():
        async with asyncio.timeout(HOUR):
            assert await asyncio.to_thread(lambda: time.sleep(0.02) or 7) == 7
            jobs = [loop.run_in_executor(None, time.sleep, 0.01) for _ in range(3)]
            return await asyncio.gather(*jobs)

    assert run(main()) == [None] * 3
    assert loop.time() == 0.0
    run(asyncio.sleep(HOUR))  # The threads that wait for jobs hold up nothing.
    assert loop.time() == HOUR


def test_a_timeout_beside_a_job_takes_as_long_as_without_us(loop, run):
    release = threading.Event()
    began = time.monotonic()

    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await asyncio.to_thread(release.wait, LIMIT)
        assert time.monotonic() - began >= 0.05
        assert loop.time() == 0.05
        release.set()

    run(main())


def test_a_job_that_fails_or_is_refused_is_over(loop, run):
    class Full:
        def submit(self, function, *args):
            raise RuntimeError("full")

    async def main():
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, lambda: 1 / 0)
        with pytest.raises(RuntimeError, match="full"):
            await loop.run_in_executor(Full(), int)
        await asyncio.sleep(HOUR)

    run(main())
    assert loop.time() == HOUR


def test_the_resolver_is_waited_for(loop, run, monkeypatch):
    real = socket.getaddrinfo

    def slow(*args, **kwargs):
        time.sleep(0.02)
        return real("127.0.0.1", *args[1:], **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slow)

    async def main():
        async with asyncio.timeout(HOUR):
            return await loop.getaddrinfo(
                "name.invalid", 80, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
            )

    [info] = run(main())
    assert info[4] == ("127.0.0.1", 80)
    assert loop.time() == 0.0


def test_a_thread_of_the_programs_own_is_waited_for_if_it_says_so(make_loop, thread):
    clock = testing.Clock()
    loop = make_loop(clock=clock)

    async def main():
        future = loop.create_future()
        held = threading.Event()

        def work():
            with clock.hold():
                held.set()
                time.sleep(0.02)
                loop.call_soon_threadsafe(future.set_result, 7)

        thread(work)
        assert held.wait(LIMIT)
        async with asyncio.timeout(HOUR):
            return await future

    assert loop.run_until_complete(main()) == 7
    assert loop.time() == 0.0


def test_a_child_process_is_waited_for(loop, run):
    program = "import sys, time; time.sleep(0.05); sys.stdout.write(sys.stdin.read())"

    async def main():
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            program,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(HOUR):
            output, _ = await process.communicate(b"hello")
            assert await process.wait() == 0
        assert output == b"hello"
        assert loop.time() == 0.0
        await asyncio.sleep(HOUR)

    run(main())
    assert loop.time() == HOUR


def test_a_child_process_that_takes_too_long(loop, run):
    async def main():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", f"import time; time.sleep({LIMIT})"
        )
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.wait(), 0.05)
        process.kill()
        assert await process.wait() != 0

    run(main())
    assert loop.time() == 0.05


def test_an_executor_that_ends_slowly_is_waited_for(make_loop, recwarn):
    """asyncio.run() gives it 300 seconds, from Python 3.12 on."""
    loop = make_loop()

    async def main():
        job = loop.run_in_executor(None, time.sleep, 0.05)
        job.cancel()

    loop.run_until_complete(main())
    if sys.version_info >= (3, 12):
        loop.run_until_complete(loop.shutdown_default_executor(300))
    else:
        loop.run_until_complete(loop.shutdown_default_executor())
    assert loop.time() == 0.0
    assert not recwarn.list


async def echo(reader, writer):
    while data := await reader.read(100):
        writer.write(data)
        await writer.drain()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
def test_real_sockets_answer_before_the_clock_moves(make_loop, tls):
    """Nothing here is waited for in vain: only then does autojump take so long."""
    loop = make_loop(autojump=LIMIT)

    async def main():
        served = server_context() if tls else None
        trust = client_context() if tls else None
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=served)
        async with server:
            address = server.sockets[0].getsockname()
            async with asyncio.timeout(HOUR):
                reader, writer = await asyncio.open_connection(*address, ssl=trust)
                for _ in range(10):
                    writer.write(b"x" * 50)
                    assert await reader.readexactly(50) == b"x" * 50
                writer.close()
                await writer.wait_closed()
        assert loop.time() == 0.0

    loop.run_until_complete(main())


def test_the_clock_waits_for_watched_files_as_long_as_it_is_told_to(make_loop):
    loop = make_loop(autojump=0.05)

    async def main():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            loop.add_reader(ours, int)
            began = time.monotonic()
            await asyncio.sleep(HOUR)
            waited = time.monotonic() - began
            await asyncio.sleep(0.001)  # A timer that is nearer is waited for so long.
            loop.remove_reader(ours)
        assert waited >= 0.05
        testing.current_clock().autojump = LIMIT
        await asyncio.sleep(HOUR)  # Nothing is watched: no wait.

    loop.run_until_complete(main())
    assert loop.time() == 2 * HOUR + 0.001


def test_sock_operations_follow_the_clock(loop, run):
    async def main():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(loop.sock_recv(ours, 10), 5)
            assert loop.time() == 5.0
            loop.call_later(5, theirs.send, b"x")
            assert await asyncio.wait_for(loop.sock_recv(ours, 10), 6) == b"x"
            assert loop.time() == 10.0

    run(main())


# In a block.


def test_virtual_time_in_a_coroutine(loop_of_production):
    loop = loop_of_production
    seen = []

    async def main():
        before = loop.time()
        loop.call_later(7, lambda: seen.append(loop.time()))
        far = loop.call_later(2 * HOUR, pytest.fail)
        with testing.virtual_time(start=100) as clock:
            assert testing.current_clock() is clock
            assert loop.time() == 100.0
            await asyncio.sleep(HOUR)
            assert loop.time() == clock.time() == 100 + HOUR
        assert before <= loop.time() <= before + LIMIT
        assert HOUR - LIMIT <= far.when() - loop.time() <= HOUR
        far.cancel()
        await asyncio.sleep(0.001)
        assert clock.time() == 100 + HOUR
        with pytest.raises(RuntimeError, match="not virtual"):
            testing.current_clock()

    loop.run_until_complete(main())
    assert seen and 106 < seen[0] <= 107


@pytest.fixture
def loop_of_production(debug):
    loop = aioloop.new_event_loop()
    loop.set_debug(debug)
    yield loop
    finish(loop)


def test_virtual_time_around_a_run():
    async def main():
        await asyncio.sleep(HOUR)
        return asyncio.get_running_loop().time()

    with testing.virtual_time() as clock:
        assert aioloop.run(main()) == HOUR
        assert aioloop.run(main()) == 2 * HOUR
    assert clock.time() == 2 * HOUR
    loop = aioloop.new_event_loop()
    assert loop.time() != clock.time()
    loop.close()


def test_virtual_time_is_of_one_thread(thread):
    made = []
    with testing.virtual_time() as clock:
        thread(lambda: made.append(aioloop.new_event_loop())).join(LIMIT)
        made.append(aioloop.new_event_loop())
    assert clock.time() == 0.0
    with testing.virtual_time():
        assert made[0].time() != 0.0
    for loop in made:
        loop.close()


def test_virtual_time_that_is_there_already(loop, run):
    async def main():
        with pytest.raises(RuntimeError, match="virtual already"):
            with testing.virtual_time():
                pytest.fail("not reached")
        await asyncio.sleep(HOUR)

    run(main())
    assert loop.time() == HOUR


def test_virtual_time_of_another_loop():
    async def main():
        with testing.virtual_time():
            pytest.fail("not reached")

    loop = asyncio.SelectorEventLoop()
    try:
        with pytest.raises(RuntimeError, match="aioloop loop is needed"):
            loop.run_until_complete(main())
        with pytest.raises(RuntimeError):
            testing.current_clock()
    finally:
        loop.close()


def test_a_job_that_outlives_the_block_belongs_to_no_later_one(loop_of_production):
    loop = loop_of_production
    release = threading.Event()

    async def main():
        with testing.virtual_time():
            job = loop.run_in_executor(None, release.wait, LIMIT)
        with testing.virtual_time():
            await asyncio.sleep(HOUR)
            release.set()
            await job
            await asyncio.sleep(HOUR)
            assert loop.time() == 2 * HOUR

    loop.run_until_complete(main())


# Beside what else replaces parts of a loop.


def test_a_replaced_time_is_obeyed(loop, run):
    now = [0.0]

    async def main():
        loop.time = lambda: now[0]
        loop.call_soon(now.__setitem__, 0, 9.0)
        await asyncio.sleep(8)
        assert loop.time() == 9.0
        del loop.time
        assert loop.time() == 0.0
        await asyncio.sleep(HOUR)

    run(main())
    assert loop.time() == HOUR


def test_an_iteration_of_asyncios_own(loop, run):
    """As nest_asyncio has one: the selector's timeout is virtual time."""
    loop._run_once = lambda: asyncio.BaseEventLoop._run_once(loop)

    async def main():
        await asyncio.sleep(0.1)
        await asyncio.sleep(0.2)
        assert loop.time() == 0.3
        async with asyncio.timeout(HOUR):
            await asyncio.to_thread(time.sleep, 0.01)
        assert loop.time() == 0.3
        await asyncio.sleep(HOUR)

    run(main())
    del loop._run_once
    assert loop.time() == HOUR + 0.3


def test_the_list_of_timers_may_be_looked_at(loop, run):
    async def main():
        loop.call_later(5, int)
        timers = loop._scheduled
        assert [timer.when() for timer in timers] == [5.0]
        await asyncio.sleep(HOUR)
        assert not timers

    run(main())
    assert loop.time() == HOUR


def test_metrics_know_of_no_late_timer(loop, run):
    loop.metering = True
    run(asyncio.sleep(HOUR))
    assert loop.metrics().timer_lateness.count == 0
    loop.metering = False


def test_a_dump_counts_on_the_loops_clock(loop, run):
    text = io.StringIO()

    async def main():
        await asyncio.sleep(HOUR)
        loop.call_later(90, int)
        aioloop.dump(text, loop=loop)

    run(main())
    assert "in 1 min 30 s" in text.getvalue() or "in 90" in text.getvalue()


def test_a_loop_is_freed_with_its_last_reference():
    clock = testing.Clock()
    loop = testing.new_event_loop(clock=clock)
    loop.run_until_complete(asyncio.sleep(1))
    loop.close()
    gone = weakref.ref(loop)
    del loop
    assert gone() is None
    clock.advance(1)
    assert clock.jump_to_next() is None
