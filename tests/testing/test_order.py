"""The order of what is ready, drawn by lot (src/core/order), and what it finds."""

import asyncio
import gc
import itertools
import os
import signal
import sys
import threading
from collections import Counter

import pytest

from aioloop import _core, testing
from tests.testing.test_bugs import check_then_act_on_a_dict

STRATEGIES = ["seeded", "pct"]


def trace_of(order, seed, tasks=4, steps=3, **options):
    """Run tasks that yield; return who made which step, in the order of the steps."""
    seen = []

    async def work(name):
        for step in range(steps):
            seen.append(f"{name}{step}")
            await asyncio.sleep(0)

    async def main():
        async with asyncio.TaskGroup() as group:
            for i in range(tasks):
                group.create_task(work("abcdefgh"[i]))

    testing.run(main(), order=order, seed=seed, **options)
    return " ".join(seen)


def test_fifo_is_asyncios_order():
    assert trace_of("fifo", None, 3, 2) == "a0 b0 c0 a1 b1 c1"


# One for all versions of Python, and for all times: seeds stand in bug reports.
KNOWN = {
    ("seeded", 7): "a0 c0 b0 d0 d1 c1 a1 b1 a2 d2 b2 c2",
    ("pct", 7): "c0 c1 c2 a0 a1 a2 d0 d1 d2 b0 b1 b2",
}


@pytest.mark.parametrize("order", STRATEGIES)
def test_a_seed_is_one_order_everywhere(order):
    trace = trace_of(order, 7)
    assert trace == KNOWN[order, 7]
    gc.collect()  # Other addresses, for what is made then.
    keep = [object() for _ in range(1000)]
    assert trace_of(order, 7) == trace
    del keep


@pytest.mark.parametrize("order", STRATEGIES)
def test_a_seed_is_the_same_in_another_process(order, python):
    program = f"""
import sys
sys.path.insert(0, {str(sys.path[0])!r})
import asyncio
from aioloop import testing
seen = []
async def work(name):
    for step in range(3):
        seen.append(f"{{name}}{{step}}")
        await asyncio.sleep(0)
async def main():
    async with asyncio.TaskGroup() as group:
        for i in range(4):
            group.create_task(work("abcdefgh"[i]))
testing.run(main(), order={order!r}, seed=12345)
print(*seen)
"""
    done = python("-c", program)
    assert done.stdout.strip() == trace_of(order, 12345), done.stderr


@pytest.mark.parametrize("order", STRATEGIES)
def test_other_seeds_are_other_orders(order):
    traces = {trace_of(order, seed, length=20) for seed in range(50)}
    assert len(traces) > 25


def test_each_order_of_one_iteration_comes():
    firsts = Counter(trace_of("seeded", seed, 3, 1) for seed in range(300))
    assert set(firsts) == {
        " ".join(f"{name}0" for name in names)
        for names in itertools.permutations("abc")
    }
    assert min(firsts.values()) > 20  # of 50


@pytest.mark.parametrize("order", STRATEGIES)
def test_a_tasks_own_steps_keep_their_order(order):
    for seed in range(30):
        trace = trace_of(order, seed).split()
        for name in "abcd":
            assert [s for s in trace if s[0] == name] == [
                f"{name}{i}" for i in range(3)
            ]


def test_seeded_exchanges_only_what_is_ready_together():
    for seed in range(30):
        trace = trace_of("seeded", seed).split()
        assert [step[1] for step in trace] == sorted(step[1] for step in trace)


def test_pct_leaves_tasks_behind():
    traces = [trace_of("pct", seed).split() for seed in range(30)]
    assert any(trace[:3] == ["b0", "b1", "b2"] for trace in traces)


def test_pct_with_one_task_that_polls():
    """With the highest priority it would run alone for ever."""

    async def main():
        done = False

        async def poll():
            while not done:
                await asyncio.sleep(0)

        async def work():
            nonlocal done
            for _ in range(3):
                await asyncio.sleep(0)
            done = True

        await asyncio.gather(poll(), work())

    assert not testing.explore(main, order="pct", seeds=range(20), max_steps=5000)


@pytest.mark.parametrize("order", STRATEGIES)
def test_what_waits_for_one_future_keeps_its_order(order):
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        seen = []

        async def wait(i):
            await future
            seen.append(i)

        tasks = []
        for i in range(3):
            tasks.append(loop.create_task(wait(i)))
            while not tasks[-1]._fut_waiter:
                await asyncio.sleep(0)
            future.add_done_callback(lambda _, i=i: seen.append(f"callback {i}"))
        future.set_result(None)
        await asyncio.gather(*tasks)
        assert seen == [x for i in range(3) for x in (i, f"callback {i}")]

    assert not testing.explore(main, order=order, seeds=range(20))


@pytest.mark.parametrize("order", STRATEGIES)
def test_callbacks_run_in_the_order_of_call_soon(order):
    async def main():
        loop = asyncio.get_running_loop()
        seen = []
        for i in range(5):
            loop.call_soon(seen.append, i)
            loop.create_task(asyncio.sleep(0))
        while len(seen) < 5:
            await asyncio.sleep(0)
        assert seen == list(range(5))

    assert not testing.explore(main, order=order, seeds=range(20), leaks=True)


@pytest.mark.parametrize("order", STRATEGIES)
def test_many_ready_slots(order):
    async def main():
        tasks = [asyncio.create_task(asyncio.sleep(0, i)) for i in range(300)]
        assert await asyncio.gather(*tasks) == list(range(300))

    testing.run(main(), order=order, seed=3)


@pytest.mark.parametrize("order", STRATEGIES)
@pytest.mark.parametrize("switch", ["debug", "metering"])
def test_beside_debug_mode_and_metering(order, switch):
    async def main():
        loop = asyncio.get_running_loop()
        if switch == "debug":
            loop.set_debug(True)
        else:
            loop.metering = True
        await asyncio.gather(*(asyncio.sleep(0.001 * (i % 3)) for i in range(50)))
        return loop.time()

    assert testing.run(main(), order=order, seed=3) == 0.002


def test_a_seed_that_is_drawn_can_be_asked_for():
    async def main():
        return testing.current_seed()

    seed = testing.run(main(), order="seeded")
    assert testing.run(main(), order="seeded", seed=seed) == seed
    with pytest.raises(RuntimeError, match="has no seed"):
        testing.run(main())


def test_hypothesis_replays_what_it_draws():
    from hypothesis import find, settings
    from hypothesis import strategies as st

    def trace(tasks):
        seen = []

        async def work(i):
            seen.append(i)

        async def main():
            async with asyncio.TaskGroup() as group:
                for i in range(tasks):
                    group.create_task(work(i))

        testing.run(main(), order="seeded")
        return seen

    found = find(
        st.integers(1, 6),
        lambda tasks: trace(tasks) != list(range(tasks)),
        settings=settings(max_examples=200, database=None, deadline=None),
    )
    assert found >= 2


@pytest.mark.parametrize(
    "options",
    [
        {"order": "lifo"},
        {"depth": 0},
        {"length": 0},
        {"max_steps": 0},
        {"max_virtual_seconds": -1},
    ],
)
def test_what_is_refused(options):
    with pytest.raises(ValueError):
        testing.new_event_loop(**options)


@pytest.mark.parametrize("order", STRATEGIES)
def test_another_order_while_one_is_drawn(order):
    """A finalizer gives the loop a new order, wherever the collector runs."""

    class Meddler:
        def __init__(self, loop):
            self.itself, self.loop = self, loop

        def __del__(self):
            _core._set_order(self.loop, 2, 7, 2, 100, -1, None)

    async def work(loop):
        for _ in range(20):
            Meddler(loop)
            await asyncio.sleep(0)
        return 1

    async def main():
        loop = asyncio.get_running_loop()
        return sum(await asyncio.gather(*(work(loop) for _ in range(20))))

    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        assert testing.run(main(), order=order, seed=1) == 20
    finally:
        gc.set_threshold(*before)


# Bugs that asyncio's own order hides.


async def event_before_anybody_waits():
    """A condition without a loop around it: notified before the waiter is there."""
    condition = asyncio.Condition()

    async def consumer():
        async with condition:
            await condition.wait()

    async def producer():
        async with condition:
            condition.notify()

    await asyncio.gather(consumer(), producer())


async def closed_under_its_user():
    """Two tasks close what one of them has just looked at."""
    connection = {"open": True}

    async def user():
        await asyncio.sleep(1)
        if connection["open"]:
            await asyncio.sleep(0)
            assert connection["open"]

    async def closer():
        await asyncio.sleep(1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        connection["open"] = False

    await asyncio.gather(user(), closer())


async def order_of_two_writers():
    """The last one wins: who that is was never said."""
    value = []

    async def write(what):
        await asyncio.sleep(0)
        value.append(what)

    async with asyncio.TaskGroup() as group:
        group.create_task(write("default"))
        group.create_task(write("override"))
    assert value[-1] == "override"


# And the strategies that find them; pct leaves a task behind for as long as it takes.
BUGS = [
    (event_before_anybody_waits, STRATEGIES),
    (check_then_act_on_a_dict, STRATEGIES),
    (order_of_two_writers, STRATEGIES),
    (closed_under_its_user, ["pct"]),
]
CASES = [(bug, order) for bug, orders in BUGS for order in orders]


@pytest.mark.parametrize(("bug", "order"), CASES)
def test_a_bug_that_fifo_hides_is_found_and_found_again(bug, order):
    testing.run(bug())
    found = testing.explore(bug, order=order, seeds=range(50), first=True)
    assert found
    [(seed, error)] = found.items()
    with pytest.raises(type(error)) as again:
        testing.run(bug(), order=order, seed=seed)
    assert f"order={order!r}, seed={seed}" in again.value.__notes__


# Errors that name the culprit.


def test_a_circle_of_locks_is_an_error_with_names():
    a, b = asyncio.Lock(), asyncio.Lock()

    async def first():
        async with a:
            await asyncio.sleep(1)
            async with b:
                pass

    async def second():
        async with b:
            await asyncio.sleep(1)
            async with a:
                pass

    async def main():
        async with asyncio.TaskGroup() as group:
            group.create_task(first(), name="First")
            group.create_task(second(), name="Second")

    with pytest.raises(testing.SleepForever) as caught:
        testing.run(main())
    text = str(caught.value)
    assert "nothing can happen any more at 1.0 s" in text
    assert "DEADLOCK" in text
    assert "created at" in text
    assert {"First", "Second"} <= set(caught.value.tasks)
    assert caught.value.time == 1.0


def test_an_event_that_nobody_sets():
    async def main():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(5)  # The clean-up runs.

    with pytest.raises(testing.SleepForever, match="Event"):
        testing.run(main())


def test_a_thread_may_yet_call(thread):
    async def main():
        future = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()

        def work():
            asyncio.run_coroutine_threadsafe(asyncio.sleep(60), loop).result(60)
            loop.call_soon_threadsafe(future.set_result, 7)

        thread(work)
        return await future

    assert testing.run(main()) == 7


def test_the_idle_threads_of_an_executor_may_not():
    async def main():
        await asyncio.to_thread(int)
        await asyncio.get_running_loop().create_future()

    with pytest.raises(testing.SleepForever):
        testing.run(main())


def test_a_signal_may_yet_come():
    async def main():
        loop = asyncio.get_running_loop()
        came = loop.create_future()
        loop.add_signal_handler(signal.SIGUSR1, came.set_result, None)
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        await came
        timer.join()
        loop.remove_signal_handler(signal.SIGUSR1)

    testing.run(main())


def test_too_many_steps():
    async def main():
        while True:
            await asyncio.sleep(0)

    for order in ("fifo", *STRATEGIES):
        with pytest.raises(testing.TooManySteps, match="more than 500") as caught:
            testing.run(main(), order=order, max_steps=500)
        assert "main" in str(caught.value)


def test_too_much_time():
    async def main():
        while True:
            await asyncio.sleep(10)

    with pytest.raises(testing.TooMuchTime, match="main") as caught:
        testing.run(main(), start=5, max_virtual_seconds=60)
    assert caught.value.time == 65.0


def test_tasks_that_are_left():
    async def main():
        asyncio.create_task(asyncio.sleep(10), name="Forgotten")

    with pytest.raises(testing.LeakedTasks, match="Forgotten.*created at"):
        testing.run(main())
    testing.run(main(), leaks=True)


def test_explore_returns_what_failed():
    async def main():
        assert testing.current_seed() % 3

    found = testing.explore(main, seeds=range(7))
    assert sorted(found) == [0, 3, 6]
    assert all(isinstance(error, AssertionError) for error in found.values())
    assert list(testing.explore(main, seeds=range(1, 9), first=True)) == [3]


# Tasks whose steps are handles.


def asyncios_tasks(loop):
    """As loop.set_task_factory(asyncio.eager_task_factory) has them (3.12+)."""

    def make(loop, coro, **options):
        return asyncio.Task(coro, loop=loop, **options)

    loop.set_task_factory(make)


def replaced_call_soon(loop):
    call_soon = loop.call_soon
    loop.call_soon = lambda *args, **options: call_soon(*args, **options)


@pytest.mark.parametrize("prepare", [asyncios_tasks, replaced_call_soon])
@pytest.mark.parametrize("order", STRATEGIES)
def test_steps_that_are_handles_are_exchanged(prepare, order):
    async def main():
        prepare(asyncio.get_running_loop())
        event = asyncio.Event()
        began, woken, called = [], [], []

        async def worker(name):
            began.append(name)
            await event.wait()
            woken.append(name)

        workers = [asyncio.create_task(worker(name)) for name in "ab"]
        for number in range(3):
            asyncio.get_running_loop().call_soon(called.append, number)
        await asyncio.sleep(1)
        event.set()
        await asyncio.gather(*workers)
        assert called == [0, 1, 2]
        return "".join(began), "".join(woken)

    for _ in range(2):
        found = [testing.run(main(), order=order, seed=seed) for seed in range(30)]
        assert {began for began, woken in found} == {"ab", "ba"}
        assert {woken for began, woken in found} == {"ab", "ba"}


@pytest.mark.parametrize("prepare", [asyncios_tasks, replaced_call_soon])
@pytest.mark.parametrize("order", STRATEGIES)
def test_what_waits_for_a_future_keeps_its_order_as_handles(prepare, order):
    async def main():
        loop = asyncio.get_running_loop()
        prepare(loop)
        future = loop.create_future()
        woken = []

        async def wait(name):
            await future
            woken.append(name)

        first = asyncio.create_task(wait("first"))
        await asyncio.sleep(1)
        future.add_done_callback(lambda future: woken.append("callback"))
        second = asyncio.create_task(wait("second"))
        await asyncio.sleep(1)
        future.set_result(None)
        await asyncio.gather(first, second)
        return woken

    for seed in range(20):
        woken = testing.run(main(), order=order, seed=seed)
        assert woken == ["first", "callback", "second"]


def test_a_task_of_asyncios_is_cancelled():
    async def main():
        asyncios_tasks(asyncio.get_running_loop())
        return await two_users_of_a_lock(release=True)

    counts = {
        testing.run(main(), seed=1, faults=testing.Faults(cancel=number))
        for number in range(15)
    }
    assert counts == {0, 1}


# Cancellation.


async def two_users_of_a_lock(release):
    lock = asyncio.Lock()

    async def worker():
        await lock.acquire()
        try:
            await asyncio.sleep(1)
        except BaseException:
            if release:
                lock.release()
            raise
        lock.release()

    workers = [asyncio.create_task(worker()) for _ in range(3)]
    done, pending = await asyncio.wait(workers)
    assert not lock.locked()
    return sum(task.cancelled() for task in done)


@pytest.mark.parametrize("order", ["fifo", *STRATEGIES])
def test_a_cancellation_that_leaks_a_lock_is_found(order):
    found = testing.explore(
        lambda: two_users_of_a_lock(release=False),
        order=order,
        seeds=range(30),
        faults=testing.Faults(cancel=range(10)),
    )
    assert found
    for seed, error in found.items():
        assert isinstance(error, (AssertionError, testing.SleepForever))
        assert f"seed={seed}" in error.__notes__[-2]
        assert "was cancelled at" in error.__notes__[-1]
        assert "in worker" in error.__notes__[-1]


@pytest.mark.parametrize("order", ["fifo", *STRATEGIES])
def test_one_task_is_cancelled_and_never_the_test(order):
    counts = set()
    for number in range(15):
        main = two_users_of_a_lock(release=True)
        faults = testing.Faults(cancel=number)
        counts.add(testing.run(main, order=order, seed=1, faults=faults))
    assert counts == {0, 1}


def test_what_faults_are():
    with pytest.raises(TypeError, match="Faults were expected"):
        testing.new_event_loop(faults=7)
    with pytest.raises(ValueError):
        testing.new_event_loop(faults=testing.Faults(cancel=-1))
    assert testing.run(asyncio.sleep(1, 7), faults=testing.Faults()) == 7
