"""Timers: order, accuracy, cancelling, replaced clocks (src/core/timer)."""

import asyncio
import gc
import heapq
import math
import random
import threading
import time
import weakref
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import aioloop
from tests.conftest import PORTABLE


def run_for(loop, seconds):
    loop.call_later(seconds, loop.stop)
    loop.run_forever()


@pytest.mark.parametrize("delay", [0.0001, 0.0003, 0.001, 0.0025, 0.02])
def test_a_timer_is_never_early_and_no_millisecond_late(loop, delay):
    """The best of many sleeps shows the loop's own delay; the rest is the machine's.

    How late that wakes a thread is seen from time.sleep(), turn by turn: a virtual
    machine may take a millisecond. A selector that counts milliseconds is late by up to
    one more in every sleep.
    """
    late = []
    machine = []

    async def main():
        for _ in range(50):
            start = loop.time()
            await asyncio.sleep(delay)
            late.append(loop.time() - start - delay)
            start = loop.time()
            time.sleep(delay)
            machine.append(loop.time() - start - delay)

    loop.run_until_complete(main())
    assert min(late) >= 0
    # epoll alone counts milliseconds.
    assert min(late) - min(machine) < (0.0019 if PORTABLE else 0.0009)


@pytest.mark.parametrize("delays", [[0, 4.5e-5], [0, 1e-5, 3e-5, 4e-5]])
def test_timers_right_after_each_other_fire_together_and_none_early(loop, delays):
    """Those within 50 us need one iteration, in most rounds: machines are busy."""
    seen = []
    iterations = []

    def fire(when):
        seen.append((loop.time() - when, loop.metrics().iterations))

    for _ in range(21):
        seen.clear()
        now = loop.time() + 0.002
        for delay in delays:
            loop.call_at(now + delay, fire, now + delay)
        run_for(loop, 0.006)
        assert len(seen) == len(delays)
        assert min(seen)[0] >= 0
        iterations.append(len({iteration for _, iteration in seen}))
    assert sorted(iterations)[10] == 1


def test_a_loop_sleeps_after_its_last_timer(loop):
    """An expired timerfd is readable until it is armed anew."""
    loop.call_later(0.001, int)
    loop.call_soon(threading.Timer(0.05, loop.call_soon_threadsafe, [loop.stop]).start)
    before = loop.metrics().iterations
    loop.run_forever()
    assert loop.metrics().iterations - before < 10


def test_timers_run_by_deadline_then_in_order(loop):
    seen = []
    now = loop.time()
    deadlines = [now + random.Random(7).randrange(5) / 1000 for _ in range(200)]
    for i, when in enumerate(deadlines):
        loop.call_at(when, seen.append, (when, i))
    run_for(loop, 0.02)
    assert seen == sorted(seen)
    assert len(seen) == 200


def test_due_timers_run_after_what_was_ready(loop):
    seen = []
    loop.call_later(0, seen.append, "timer")
    loop.call_soon(seen.append, "soon")
    run_for(loop, 0)
    assert seen == ["soon", "timer"]


def test_past_deadlines_run_in_the_order_of_their_deadlines(loop):
    seen = []
    now = loop.time()
    for when in (5, 3, 4, 1, 2):
        loop.call_at(now - when, seen.append, -when)
    run_for(loop, 0)
    assert seen == [-5, -4, -3, -2, -1]


def test_call_later_zero_gives_a_timer_handle(loop):
    timer = loop.call_later(0, print)
    assert isinstance(timer, asyncio.TimerHandle)
    assert timer._scheduled
    timer.cancel()
    run_for(loop, 0)
    assert timer.cancelled()
    assert not timer._scheduled


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(
        st.tuples(st.integers(-3, 6), st.booleans(), st.integers(0, 2)), max_size=60
    )
)
def test_any_mix_of_scheduling_and_cancelling_keeps_the_order(plan):
    """The model is a heap of (deadline, order) without the cancelled ones."""
    clock = 100.0

    class Loop(aioloop.Loop):
        def time(self):
            return clock

    loop = Loop()
    try:
        seen, model, timers = [], [], []
        for i, (offset, cancel, victim) in enumerate(plan):
            when = clock + offset
            timers.append((when, i, loop.call_at(when, seen.append, (when, i))))
            heapq.heappush(model, (when, i))
            if cancel and victim < len(timers):
                when, j, timer = timers.pop(-1 - victim)
                timer.cancel()
                model.remove((when, j))
                heapq.heapify(model)
        clock = 110.0
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert seen == [heapq.heappop(model) for _ in range(len(model))]
    finally:
        loop.close()


def test_cancelled_timers_do_not_accumulate(loop):
    keep = [loop.call_later(1000 + i, print) for i in range(50)]
    for round in range(20):
        batch = [loop.call_later(2000 + i, print) for i in range(100)]
        for timer in batch:
            timer.cancel()
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert len(loop._scheduled) < 400, round
    for timer in keep:
        assert timer._scheduled
        timer.cancel()


def test_cancelled_timer_drops_its_callback_at_once(loop):
    class Callback:
        def __call__(self):
            raise AssertionError("cancelled")

    callback = Callback()
    gone = weakref.ref(callback)
    timers = [loop.call_later(100, callback), loop.call_later(101, print)]
    timers[0].cancel()
    del callback
    gc.collect()
    assert gone() is None


def test_timer_cancelled_by_an_earlier_timer_does_not_run(loop):
    seen = []
    now = loop.time()
    second = loop.call_at(now + 0.002, seen.append, "second")
    loop.call_at(now + 0.001, second.cancel)
    run_for(loop, 0.01)
    assert seen == []


def test_deadlines_of_other_numeric_types(loop):
    for when in (10**9, Fraction(10**10, 3), True):
        timer = loop.call_at(when, print)
        assert timer.when() is when
        assert timer._when is when
        timer.cancel()
    timer = loop.call_later(Fraction(1, 2), print)
    assert timer.when() == pytest.approx(loop.time() + 0.5, abs=0.4)
    timer.cancel()


def test_infinite_deadlines_never_come_and_nan_is_past(loop):
    seen = []
    never = loop.call_later(math.inf, seen.append, "never")
    loop.call_later(math.nan, seen.append, "nan")
    run_for(loop, 0.001)
    assert seen == ["nan"]
    never.cancel()


def test_timer_handles_compare_as_asyncio_does(loop):
    early, late = loop.call_at(10**9, print), loop.call_at(10**9 + 1, print)
    assert early < late
    assert early != late
    assert hash(early) == hash(early.when())
    same = loop.call_at(10**9, print)
    assert early == same
    for timer in (early, late, same):
        timer.cancel()


class TestReplacedClock:
    def check(self, loop, advance):
        seen = []
        loop.call_later(1000, seen.append, "fired")
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert seen == []
        advance(1000)
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert seen == ["fired"]

    def test_by_a_subclass(self):
        class Loop(aioloop.Loop):
            now = 0.0

            def time(self):
                return self.now

        loop = Loop()

        def advance(seconds):
            loop.now += seconds

        self.check(loop, advance)
        loop.close()

    def test_by_an_instance_attribute(self, loop):
        now = [loop.time()]
        loop.time = lambda: now[0]

        def advance(seconds):
            now[0] += seconds

        self.check(loop, advance)
        del loop.time
        assert loop.time() < now[0]

    def test_by_a_patch_of_the_class_while_running(self, loop, monkeypatch):
        now = [loop.time()]
        loop.run_until_complete(asyncio.sleep(0))
        monkeypatch.setattr(aioloop.Loop, "time", lambda self: now[0])

        def advance(seconds):
            now[0] += seconds

        self.check(loop, advance)
        monkeypatch.undo()
        loop.run_until_complete(asyncio.sleep(0.001))

    def test_error_of_a_replaced_clock_is_not_lost(self, loop):
        loop.call_later(1, print)
        loop.time = lambda: 1 / 0
        with pytest.raises(ZeroDivisionError):
            loop.run_forever()
        del loop.time
