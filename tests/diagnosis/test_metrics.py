"""loop.metrics(): what it counts, from which threads, and what a difference is."""

import asyncio
import dataclasses
import gc
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

import aioloop
from tests.conftest import HARD, needs_watchdog
from tests.diagnosis.metered import LIMIT, run


def test_it_is_off_and_an_attribute_of_the_loop():
    loop = aioloop.new_event_loop()
    try:
        assert loop.metering is False
        loop.metering = 1
        assert loop.metering is True
        loop.set_debug(True)
        loop.set_debug(False)
        assert loop.metering is True, "it is no part of debug mode"
        loop.debug_options = aioloop.DebugOptions.production()
        assert loop.metering is True
        loop.metering = False
        assert loop.metering is False
        with pytest.raises(AttributeError):
            del loop.metering
    finally:
        loop.close()
    loop.metering = True
    assert loop.metrics().timers == 0, "a closed loop can be asked"


def test_environment():
    program = "import aioloop; loop = aioloop.new_event_loop(); print(loop.metering)"
    for value, expected in (("1", "True"), ("0", "False"), ("", "False")):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "AIOLOOP_METERING": value},
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert done.stdout.strip() == expected, done.stderr


def test_a_snapshot_cannot_be_changed():
    async def main(loop):
        metrics = loop.metrics()
        with pytest.raises(dataclasses.FrozenInstanceError):
            metrics.callbacks = 1
        assert isinstance(metrics.queue_delay.counts, tuple)
        assert len(metrics.queue_delay.counts) == len(metrics.queue_delay.bounds) + 1
        with pytest.raises(TypeError):
            metrics - 1
        with pytest.raises(TypeError):
            metrics.queue_delay - 1

    run(main)


def test_utilization_of_an_idle_and_of_a_busy_interval():
    async def main(loop):
        start = loop.metrics()
        await asyncio.sleep(0.1)
        idle = loop.metrics()
        deadline = time.monotonic() + 0.1
        while time.monotonic() < deadline:
            pass
        await asyncio.sleep(0)
        busy = loop.metrics()
        assert (idle - start).utilization < 0.9
        assert (idle - start).time_idle >= 0.09
        assert (busy - idle).utilization > 0.9
        assert (busy - idle).time_active >= 0.1
        lasted = busy.when - start.when
        both = busy - start
        times = both.time_active + both.time_idle + both.time_waiting_gil
        assert times == pytest.approx(lasted, rel=0.01)

    run(main)


def test_times_stand_still_while_the_loop_does_not_run():
    loop = aioloop.new_event_loop()
    loop.metering = True
    try:
        loop.run_until_complete(asyncio.sleep(0.01))
        first = loop.metrics()
        time.sleep(0.05)
        second, began = loop.metrics(), loop.time()
        loop.run_until_complete(asyncio.sleep(0))
        third, lasted = loop.metrics(), loop.time() - began
    finally:
        loop.close()
    assert (second - first).time_active == (second - first).time_idle == 0
    assert (third - first).time_active <= lasted + 0.001
    assert third.callbacks > first.callbacks


def test_callbacks_steps_and_their_durations():
    async def main(loop):
        before = loop.metrics()
        for _ in range(10):
            await asyncio.sleep(0)
        loop.call_soon(time.sleep, 0.03)
        await asyncio.sleep(0)
        after = loop.metrics() - before
        assert after.task_steps == 11
        assert after.callbacks == 12
        assert after.callback_duration.count == 12
        assert after.callback_duration.quantile(1) in (0.05, 0.1, 0.2, 0.5)
        assert after.callback_duration.sum >= 0.03

    run(main)


def test_queue_delay_is_the_time_in_which_others_ran():
    async def main(loop):
        await asyncio.sleep(0)
        before, began, ran = loop.metrics(), loop.time(), []

        def sleeper():
            ran.append(loop.time())
            time.sleep(0.03)

        loop.call_soon(sleeper)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        delays = (loop.metrics() - before).queue_delay
        lasted, sleeper_waited = loop.time() - began, ran[0] - began
        assert delays.count == 3
        assert delays.sum >= 0.03, "this task waited for the sleeper"
        assert delays.sum <= lasted + sleeper_waited + 0.001, "nothing else waited"

    run(main)


def test_a_long_step_is_not_the_delay_of_its_own_next_step():
    async def main(loop):
        await asyncio.sleep(0)
        before = loop.metrics()
        time.sleep(0.05)
        slept = loop.time()
        await asyncio.sleep(0)
        delays = (loop.metrics() - before).queue_delay
        assert delays.count == 1
        assert delays.sum <= loop.time() - slept + 0.001

    run(main)


def test_timers_tell_how_late_they_are():
    async def main(loop):
        before = loop.metrics()
        late = loop.create_future()
        loop.call_later(0.001, late.set_result, None)
        loop.call_later(100, print).cancel()
        keep = loop.call_later(100, print)
        assert loop.metrics().timers == 3  # with that of wait_for
        time.sleep(0.05)
        await late
        after = loop.metrics() - before
        assert after.timer_lateness.count == 1
        assert after.timer_lateness.sum > 0.03
        keep.cancel()

    run(main)


def test_tasks_and_how_they_end():
    async def main(loop):
        async def fails():
            raise ValueError

        before = loop.metrics()
        pending = loop.create_task(asyncio.sleep(100))
        done = [loop.create_task(asyncio.sleep(0)) for _ in range(3)]
        failed = loop.create_task(fails())
        assert loop.metrics().tasks_alive == before.tasks_alive + 5
        await asyncio.gather(*done, failed, return_exceptions=True)
        pending.cancel()
        await asyncio.wait([pending])
        after = loop.metrics() - before
        assert after.tasks_created == 5
        assert after.tasks_done == 3
        assert after.tasks_failed == 1
        assert after.tasks_cancelled == 1
        assert after.tasks_alive == before.tasks_alive

    run(main)


def test_never_retrieved_and_destroyed():
    async def main(loop):
        messages = []
        loop.set_exception_handler(lambda loop, ctx: messages.append(ctx["message"]))
        before = loop.metrics()

        async def fails():
            raise ValueError

        async def waits():
            await loop.create_future()

        failed = loop.create_task(fails())
        lost = loop.create_task(waits())
        await asyncio.sleep(0)
        del failed, lost
        gc.collect()
        after = loop.metrics() - before
        assert len(messages) == 2
        assert after.never_retrieved_exceptions == 1
        assert after.destroyed_pending_tasks == 1
        assert after.tasks_alive == before.tasks_alive

    run(main)


@needs_watchdog
def test_stalls():
    async def main(loop):
        loop.stall_threshold = 0.05
        before = loop.metrics()
        time.sleep(0.3)
        await asyncio.sleep(0)
        assert (loop.metrics() - before).stalls == 1

    run(main)


def test_slow_callbacks_of_debug_mode(caplog):
    async def main(loop):
        loop.slow_callback_duration = 0.02
        loop.debug_options = dataclasses.replace(
            loop.debug_options, slow_callbacks=True
        )
        await asyncio.sleep(0)  # asyncio times what begins in debug mode
        before = loop.metrics()
        time.sleep(0.03)
        await asyncio.sleep(0)
        assert (loop.metrics() - before).slow_callbacks == 1

    run(main)
    assert "Executing" in caplog.text


@pytest.mark.skipif(HARD, reason="sends one byte at a time")
def test_bytes_descriptors_and_transports():
    async def main(loop):
        a, b = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=a)
        b.setblocking(False)
        before = loop.metrics()
        assert before.transports == 1
        assert before.descriptors == 1
        writer.write(b"x" * 1000)
        await writer.drain()
        assert len(await loop.sock_recv(b, 2000)) == 1000
        await loop.sock_sendall(b, b"y" * 500)
        await reader.readexactly(500)
        after = loop.metrics() - before
        assert after.bytes_sent == 1500
        assert after.bytes_received == 1500
        writer.close()
        await writer.wait_closed()
        b.close()
        assert loop.metrics().transports == 0

    run(main)


def test_executor_jobs():
    async def main(loop):
        from concurrent.futures import ThreadPoolExecutor

        assert loop.metrics().executor_running == 0
        loop.set_default_executor(ThreadPoolExecutor(1))
        started, finish = threading.Event(), threading.Event()

        def job():
            started.set()
            finish.wait(LIMIT)

        jobs = [loop.run_in_executor(None, job) for _ in range(3)]
        started.wait(LIMIT)
        metrics = loop.metrics()
        assert (metrics.executor_running, metrics.executor_queued) == (1, 2)
        finish.set()
        await asyncio.gather(*jobs)

    run(main)


def test_from_another_thread_while_the_loop_waits():
    async def main(loop):
        snapshots = []

        def look():
            first = loop.metrics()
            while loop.metrics().time_idle == first.time_idle:
                time.sleep(0.001)  # The loop has not begun to wait.
            first = loop.metrics()
            time.sleep(0.05)
            snapshots.append(loop.metrics() - first)

        thread = threading.Thread(target=look)
        thread.start()
        while not snapshots:
            await asyncio.sleep(0.2)
        thread.join()
        interval = snapshots[0]
        assert interval.time_idle > 0.04
        assert interval.utilization < 0.5

    run(main)


def test_it_may_be_switched_in_any_callback():
    async def main(loop):
        for _ in range(20):
            for on in (False, True, False):
                loop.call_soon(setattr, loop, "metering", on)
                loop.call_soon(lambda: None)
            for _ in range(10):
                await asyncio.sleep(0)
        loop.metering = True
        await asyncio.sleep(0)
        before = loop.metrics()
        await asyncio.sleep(0)
        assert (loop.metrics() - before).callback_duration.count == 1

    run(main)


def test_a_growing_queue_keeps_its_times():
    async def main(loop):
        before = loop.metrics()
        for _ in range(5000):
            loop.call_soon(int)
        await asyncio.sleep(0)
        after = loop.metrics() - before
        assert after.queue_delay.count >= 5000
        assert after.queue_delay.quantile(1) < 10
        assert after.ready_max >= 5000

    run(main)


def test_with_a_replaced_clock():
    async def main(loop):
        loop.time = time.monotonic
        loop.set_debug(True)
        before = loop.metrics()
        time.sleep(0.02)
        await asyncio.sleep(0)
        after = loop.metrics() - before
        assert after.callback_duration.sum >= 0.02
        del loop.time

    run(main)


def test_quantiles():
    async def main(loop):
        return loop.metrics().queue_delay

    histogram = run(main)
    empty = dataclasses.replace(histogram, counts=(0,) * len(histogram.counts), sum=0.0)
    assert empty.quantile(0.5) == empty.mean == empty.count == 0
    counts = [0] * len(histogram.counts)
    counts[3], counts[-1] = 9, 1
    some = dataclasses.replace(histogram, counts=tuple(counts), sum=1.0)
    assert some.quantile(0.9) == histogram.bounds[3] == 1e-05
    assert some.quantile(1) == float("inf")
    assert some.mean == 0.1
    with pytest.raises(ValueError):
        some.quantile(2)
