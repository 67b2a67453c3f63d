"""asyncio.wait and asyncio.shield with the switch of aioloop.accelerate() on and off.

The same programs give the same traces, and whoever looks sees the same.
"""

import asyncio
import contextlib
import gc
import inspect
import random
import sys
import weakref

import pytest

import aioloop
from tests.parity.accelerated import (
    awaited_by,
    both,
    describe,
    give_way,
    needs_gil,
    plain,
    use_eager_tasks,
)

pytestmark = [needs_gil, pytest.mark.usefixtures("off_before_and_after")]
WHENS = [asyncio.FIRST_COMPLETED, asyncio.FIRST_EXCEPTION, asyncio.ALL_COMPLETED]
INNER = {
    "wait": "_wait.<locals>._on_completion",
    "shield": "shield.<locals>._inner_done_callback",
}


@pytest.fixture
def loop(either_loop):
    return either_loop


def outcome(function, *arguments, **names):
    try:
        value = function(*arguments, **names)
        if asyncio.iscoroutine(value):
            value.close()
        return type(value).__name__
    except Exception as exc:
        return type(exc), plain(str(exc))


async def outcome_of(awaitable):
    try:
        return await awaitable
    except Exception as exc:
        return type(exc), plain(str(exc))


# --- random programs ------------------------------------------------------------------


class Program:
    """Tasks that wait for and shield each other's futures, which end in all ways."""

    def __init__(self, seed, loop):
        self.random = random.Random(seed)
        self.loop = loop
        self.trace = []
        self.futures = []

    def settle(self, future):
        if not future.done():
            end = self.random.randrange(4)
            if isinstance(future, asyncio.Task):
                future.cancel()
            elif end == 0:
                future.set_exception(KeyError(len(self.trace)))
            elif end == 1:
                future.cancel("why")
            else:
                future.set_result(len(self.trace))

    async def child(self, number):
        for _ in range(self.random.randrange(4)):
            await give_way()
        self.trace.append(number)
        end = self.random.randrange(6)
        if end == 0:
            raise ValueError(number)
        if end == 1:
            raise asyncio.CancelledError(number)
        return number

    def make_future(self):
        kind = self.random.randrange(4)
        if kind == 0:
            future = asyncio.create_task(self.child(len(self.futures)))
        else:
            future = self.loop.create_future()
            if kind == 1:
                self.settle(future)
            elif kind == 2:
                self.loop.call_soon(self.settle, future)
        self.futures.append(future)
        return future

    def number(self, future):
        return self.futures.index(future)

    def state(self):
        return [
            (f._state, awaited_by(f), len(f._callbacks or ())) for f in self.futures
        ]

    async def wait(self):
        chosen = [self.make_future() for _ in range(self.random.randrange(1, 5))]
        chosen += self.random.sample(self.futures, min(len(self.futures), 2))
        names = {"return_when": self.random.choice(WHENS)}
        if self.random.random() < 0.7:
            names["timeout"] = self.random.choice([None, -1, 1000])
        if self.random.random() < 0.3:
            del names["return_when"]
        kind = self.random.choice([list, tuple, set, frozenset])
        done, pending = await asyncio.wait(kind(chosen), **names)
        return (
            type(done).__name__,
            sorted(map(self.number, done)),
            sorted(map(self.number, pending)),
        )

    async def shield(self):
        if self.random.random() < 0.4:
            outer = asyncio.shield(self.child(-1))
        elif self.futures and self.random.random() < 0.4:
            outer = asyncio.shield(self.random.choice(self.futures))
        else:
            outer = asyncio.shield(self.make_future())
        if self.random.random() < 0.3:
            for _ in range(self.random.randrange(3)):
                await give_way()
            self.trace.append(outer.cancel("outer"))
        self.trace.append(
            (outer._state, awaited_by(outer), len(outer._callbacks or ()))
        )
        return await outer

    async def work(self):
        for _ in range(4):
            action = self.random.choice([self.wait, self.shield])
            try:
                self.trace.append(await action())
            except BaseException as exc:
                self.trace.append(describe(exc))
            self.trace.append(self.state())

    async def main(self):
        tasks = [asyncio.create_task(self.work()) for _ in range(3)]
        for _ in range(200):
            await give_way()
            self.trace.append(self.state())
            waiting = [task for task in tasks if not task.done()]
            if not waiting:
                break
            if self.random.random() < 0.1:
                self.random.choice(waiting).cancel("main")
            unsettled = [future for future in self.futures if not future.done()]
            if unsettled and self.random.random() < 0.2:
                self.settle(self.random.choice(unsettled))
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for future in [*left, *self.futures]:
            future.cancel()
        ends = await asyncio.gather(*tasks, *self.futures, return_exceptions=True)
        await asyncio.gather(*left, return_exceptions=True)
        self.trace += map(repr, ends)
        return self.trace


@pytest.mark.parametrize("eager", [False, True], ids=["", "eager"])
def test_random_programs_do_the_same(loop, eager):
    use_eager_tasks(loop, eager)
    loop.set_exception_handler(lambda loop, context: told.append(context["message"]))
    told = []

    def run(seed):
        told.clear()
        trace = loop.run_until_complete(Program(seed, loop).main())
        return trace, list(told)

    for seed in range(60):
        off, on = both(run, seed)
        assert on == off, f"seed {seed}"


# --- what is seen of it ---------------------------------------------------------------


@pytest.mark.parametrize("how", INNER)
def test_the_callbacks_look_like_asyncios(loop, how):
    def look(callback):
        function = inspect.unwrap(callback)
        return [
            plain(repr(callback)),
            callable(callback),
            callback.__name__,
            callback.__qualname__,
            callback.__module__,
            callback.__code__,
            callback.__defaults__,
            function.__code__,
            getattr(callback, "__self__", None),
            callback.__code__.co_freevars,
            len(callback.__closure__ or ()),
            outcome(callback),
        ]

    async def main():
        future = loop.create_future()
        if how == "wait":
            waiting = asyncio.create_task(asyncio.wait([future], timeout=1000))
            await give_way()
            futures = [future]
        else:
            waiting = asyncio.shield(future)
            futures = [future, waiting]
        seen = [plain(repr(f)) for f in futures]
        callbacks = [pair[0] for f in futures for pair in f._callbacks or ()]
        seen += [look(callback) for callback in callbacks]
        seen.append(sum(future.remove_done_callback(c) for c in callbacks))
        waiting.cancel()
        await asyncio.wait([waiting])
        return seen

    off, on = both(lambda: loop.run_until_complete(main()))
    names = [entry[3] for entry in off if isinstance(entry, list)]
    assert INNER[how] in names
    # A function says what it misses in other words.
    for entry in [*off, *on]:
        if isinstance(entry, list):
            assert entry.pop()[0] is TypeError
    assert on == off


def test_it_is_c_that_runs():
    codes = []

    def profile(frame, event, argument):
        if event == "call":
            codes.append(frame.f_code.co_name)

    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_soon(future.set_result, 1)
        sys.setprofile(profile)
        await asyncio.shield(future)
        await asyncio.wait([future], timeout=5)
        sys.setprofile(None)

    def run():
        codes.clear()
        with contextlib.closing(aioloop.new_event_loop()) as loop:
            loop.run_until_complete(main())
        return {"_wait", "shield", "_on_completion", "_inner_done_callback"} & {*codes}

    off, on = both(run)
    assert len(off) == 4
    assert not on


@pytest.mark.skipif(sys.version_info < (3, 14), reason="call graphs came in 3.14")
def test_call_graphs(loop):
    async def main():
        future = loop.create_future()
        task = asyncio.create_task(asyncio.wait([future]), name="waits")
        outer = asyncio.shield(future)
        other = asyncio.create_task(asyncio.wait([outer]), name="shields")
        await give_way()
        graph = asyncio.format_call_graph(future)
        future.set_result(None)
        await task
        await other
        return (
            plain(graph).count("\n"),
            [name for name in ("waits", "shields") if name in graph],
            awaited_by(future),
        )

    off, on = both(lambda: loop.run_until_complete(main()))
    assert on[1:] == off[1:]


def test_debug_mode_keeps_stacks(loop):
    async def main():
        future = loop.create_future()
        outer = asyncio.shield(future)
        waiting = asyncio.create_task(asyncio.wait([outer], timeout=1000))
        await give_way()
        [callback] = [c for c, _ in outer._callbacks if "_on_completion" in repr(c)]
        free = callback.__code__.co_freevars
        waiter = callback.__closure__[free.index("waiter")].cell_contents
        stacks = [
            [frame.name for frame in made._source_traceback][-3:]
            for made in (outer, waiter)
        ]
        future.set_result(None)
        await waiting
        return stacks

    loop.set_debug(True)
    off, on = both(lambda: loop.run_until_complete(main()))
    assert {"shield", "_wait"} <= {name for stack in off for name in stack}
    assert on == off


# --- arguments ------------------------------------------------------------------------


def test_arguments_of_wait(loop):
    async def child():
        pass

    class Futures(list):
        pass

    class When(str):
        __slots__ = ()

    async def main():
        done = loop.create_future()
        done.set_result(None)
        coroutine = child()
        trace = [
            outcome(asyncio.wait),
            outcome(asyncio.wait, [done], 3),
            outcome(asyncio.wait, [done], other=3),
            inspect.iscoroutinefunction(asyncio.wait),
        ]
        for fs, names in [
            ([], {}),
            ((), {"return_when": "never"}),
            (set(), {}),
            ([done], {"return_when": "never"}),
            ([done], {"return_when": None}),
            ([done], {"return_when": "".join(["FIRST_", "COMPLETED"])}),
            ([done], {"return_when": When("FIRST_EXCEPTION")}),
            ([done], {"timeout": "1"}),
            ([done], {"timeout": None}),
            ([done], {"timeout": float("nan")}),
            (done, {}),
            (coroutine, {}),
            ([coroutine], {}),
            ([done, coroutine], {}),
            ([done, 3], {}),
            ([done, []], {}),
            (Futures([done, done]), {}),
            ({done: 1}, {}),
            ({done: 1}.keys(), {}),
            (iter([done]), {}),
            (None, {}),
            ("text", {}),
        ]:
            seen = await outcome_of(asyncio.wait(fs, **names))
            trace.append(plain(repr(seen)))
            trace.append(len(done._callbacks or ()))
        coroutine.close()
        return trace

    off, on = both(lambda: loop.run_until_complete(main()))
    assert on == off


def test_arguments_of_shield(loop):
    other = asyncio.SelectorEventLoop()

    class Awaitable:
        def __await__(self):
            yield
            return 5

    async def child():
        return 4

    async def main():
        foreign = other.create_future()
        settled = loop.create_future()
        settled.set_result(3)
        trace = [
            outcome(asyncio.shield),
            outcome(asyncio.shield, 3),
            outcome(asyncio.shield, [settled]),
            outcome(asyncio.shield, settled, 5),
            outcome(asyncio.shield, arg=settled),
            asyncio.shield(settled) is settled,
            asyncio.shield(foreign).get_loop() is other,
            await asyncio.shield(Awaitable()),
            await asyncio.shield(child()),
        ]
        foreign.cancel()
        return trace

    try:
        off, on = both(lambda: loop.run_until_complete(main()))
        assert on == off
    finally:
        other.close()


def test_without_a_running_loop(loop):
    def run():
        future = loop.create_future()
        outer = asyncio.shield(future)
        future.set_result(3)
        coroutine = asyncio.wait([future])
        try:
            coroutine.send(None)
        except RuntimeError as exc:
            told = str(exc)
        return loop.run_until_complete(outer), told, len(future._callbacks or ())

    off, on = both(run)
    assert on == off


def test_the_futures_change_before_the_wait_begins(loop):
    async def main():
        future = loop.create_future()
        given = [future]
        waiting = asyncio.wait(given)
        given.clear()
        first = await outcome_of(waiting)
        given.append(future)
        waiting = asyncio.create_task(asyncio.wait(given))
        await give_way()
        given.clear()
        future.set_result(1)
        done, pending = await waiting
        return first, len(done), len(pending)

    off, on = both(lambda: loop.run_until_complete(main()))
    assert on == off


# --- what asyncio's functions would call ----------------------------------------------


def test_what_wait_calls_is_replaced(loop, monkeypatch):
    release = asyncio.tasks._release_waiter
    original = asyncio.tasks._wait
    seen = []

    def released(waiter):
        seen.append("released")
        release(waiter)

    async def other_wait(fs, timeout, return_when, loop):
        seen.append((len(fs), timeout, return_when))
        return await original(fs, timeout, return_when, loop)

    async def main():
        future = loop.create_future()
        seen.clear()
        with monkeypatch.context() as patch:
            patch.setattr(asyncio.tasks, "_release_waiter", released)
            await asyncio.wait([future], timeout=1e-9)
            patch.setattr(asyncio.tasks, "_wait", other_wait)
            await asyncio.wait([future], timeout=0)
        return list(seen)

    off, on = both(lambda: loop.run_until_complete(main()))
    assert on == off
    assert "released" in off


def test_futures_of_other_classes(loop):
    """Their methods are called as asyncio's function calls them, and may fail."""

    class Odd(asyncio.Future):
        trace, fail = [], None

        def _note(self, name):
            self.trace.append(name)
            if self.fail == name:
                raise ValueError(name)

        def add_done_callback(self, callback, **names):
            self._note("add_done_callback")
            super().add_done_callback(callback, **names)

        def remove_done_callback(self, callback):
            self._note("remove_done_callback")
            return super().remove_done_callback(callback)

        def done(self):
            self._note("done")
            return super().done()

        def cancelled(self):
            self._note("cancelled")
            return super().cancelled()

        def exception(self):
            self._note("exception")
            return super().exception()

        def result(self):
            self._note("result")
            return super().result()

    async def use(odd, how):
        if how != "shield":
            return await asyncio.wait([odd], timeout=0.02, return_when=how)
        async with asyncio.timeout(0.02):
            return await asyncio.shield(odd)

    async def run(how, fail):
        odd = Odd(loop=loop)
        Odd.trace, Odd.fail = [], fail
        loop.call_soon(odd.set_result, 5)
        seen = await outcome_of(use(odd, how))
        Odd.fail = None
        return plain(repr(seen)), list(Odd.trace), len(odd._callbacks or ())

    async def main():
        return [
            await run(how, fail)
            for how in ["shield", *WHENS]
            for fail in (
                None,
                "add_done_callback",
                "remove_done_callback",
                "done",
                "cancelled",
                "exception",
                "result",
            )
        ]

    told = []
    loop.set_exception_handler(lambda loop, context: told.append(context["message"]))

    def main_and_told():
        told.clear()
        return loop.run_until_complete(main()), [plain(text) for text in told]

    off, on = both(main_and_told)
    assert on == off


def test_a_loop_that_replaces_methods(loop, monkeypatch):
    seen = []

    def spy(name, original):
        def method(*arguments, **names):
            seen.append(name)
            return original(*arguments, **names)

        return method

    async def main():
        future = loop.create_future()
        loop.call_soon(future.set_result, 5)
        seen.clear()
        with monkeypatch.context() as patch:
            for name in ("create_future", "call_later", "create_task"):
                patch.setattr(loop, name, spy(name, getattr(loop, name)))
            await asyncio.wait([future], timeout=3)
            await asyncio.shield(give_way())
            return list(seen)

    off, on = both(lambda: loop.run_until_complete(main()))
    assert on == off
    assert off[:2] == ["create_future", "call_later"]


# --- ends -----------------------------------------------------------------------------


@pytest.mark.parametrize("first", [False, True])
def test_the_switch_is_turned_meanwhile(loop, first):
    async def main():
        future = loop.create_future()
        aioloop.accelerate(first)
        waiting = asyncio.create_task(asyncio.wait([future]))
        outer = asyncio.shield(future)
        await give_way()
        aioloop.accelerate(not first)
        future.set_result(3)
        done, pending = await waiting
        return await outer, len(done), len(pending)

    assert loop.run_until_complete(main()) == (3, 1, 0)


@pytest.mark.parametrize("end", ["close", "throw", "drop", "cancel"])
def test_a_wait_that_is_given_up_leaves_nothing(loop, end):
    async def main():
        future = loop.create_future()
        coroutine = asyncio.wait([future], timeout=1000)
        if end == "cancel":
            task = asyncio.create_task(coroutine)
            await give_way()
            task.cancel("why")
            try:
                seen = await task
            except asyncio.CancelledError as exc:
                seen = describe(exc)
            return seen, len(future._callbacks or ()), awaited_by(future)
        coroutine.send(None)
        before = len(future._callbacks)
        seen = None
        if end == "close":
            coroutine.close()
        elif end == "throw":
            seen = outcome(coroutine.throw, ValueError("thrown"))
        del coroutine
        return seen, before, len(future._callbacks or ()), awaited_by(future)

    def pending_timers():
        seen = loop.run_until_complete(main())
        return seen, [t for t in loop._scheduled if not t.cancelled()]

    off, on = both(pending_timers)
    assert on == off
    assert off[1] == []


def test_exceptions_that_nobody_retrieves_are_told(loop):
    told = []
    loop.set_exception_handler(lambda loop, context: told.append(context["message"]))

    async def main(how):
        future = loop.create_future()
        if how == "shield":
            outer = asyncio.shield(future)
            outer.cancel()
            await give_way()
        elif how == "kept":
            asyncio.shield(future)
        else:
            loop.call_soon(future.set_exception, ValueError(how))
            await asyncio.wait([future, loop.create_future()], return_when=how)
        if not future.done():
            future.set_exception(ValueError(how))
        for _ in range(5):
            await give_way()

    def run():
        trace = []
        for how in ("shield", "kept", *WHENS[:2]):
            told.clear()
            loop.run_until_complete(main(how))
            gc.collect()
            trace.append(list(told))
        return trace

    off, on = both(run)
    assert on == off
    assert off[1] and off[2] and not off[3]


def test_nothing_keeps_the_futures(loop):
    async def main():
        future = loop.create_future()
        seen = [weakref.ref(future)]
        loop.call_soon(future.set_result, None)
        outer = asyncio.shield(future)
        seen.append(weakref.ref(outer))
        done, pending = await asyncio.wait([outer, future], timeout=1000)
        del future, outer, done, pending
        await give_way()
        return [reference() for reference in seen]

    aioloop.accelerate()
    gc.collect()
    gc.disable()
    try:
        assert loop.run_until_complete(main()) == [None, None]
    finally:
        gc.enable()


def test_what_never_ends_is_collected(loop):
    async def main():
        future = loop.create_future()
        outer = asyncio.shield(future)
        outer.add_done_callback(lambda _: future)
        coroutine = asyncio.wait([outer])
        waiter = coroutine.send(None)
        waiter.add_done_callback(lambda _: coroutine)
        return [weakref.ref(obj) for obj in (future, outer, waiter)]

    aioloop.accelerate()
    references = loop.run_until_complete(main())
    gc.collect()
    assert [reference() for reference in references] == [None, None, None]


# --- conditions -----------------------------------------------------------------------


def test_conditions(loop):
    """asyncio's wait() with `async with` and notify() in C."""

    class Lock(asyncio.Lock):
        async def acquire(self):
            trace.append("acquire")
            return await super().acquire()

    trace = []

    async def wait(condition, number):
        async with condition as value:
            trace.append((number, value, condition.locked()))
            await condition.wait()
            trace.append(number)

    async def main(lock):
        trace.clear()
        condition = asyncio.Condition(lock)
        for counts in ((1,), (2, 1), (0, -1, 10**30), ("all",), (True, 7), ("3",)):
            tasks = [asyncio.create_task(wait(condition, i)) for i in range(5)]
            for _ in range(10):
                await give_way()
            for count in counts:
                async with condition:
                    if count == "all":
                        trace.append(outcome(condition.notify_all))
                    elif count == 1:
                        trace.append(outcome(condition.notify))
                    else:
                        trace.append(outcome(condition.notify, count))
                    trace.append(repr(condition).partition("[")[2])
                for _ in range(10):
                    await give_way()
                trace.append([task.done() for task in tasks])
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        trace.append(outcome(condition.notify))
        trace.append(outcome(condition.notify_all))
        trace.append(outcome(condition.notify, n=1))
        trace.append(outcome(condition.notify, 1, 2))
        trace.append(await outcome_of(condition.wait()))
        trace.append(await outcome_of(condition.__aexit__(None, None, None)))
        return list(trace)

    for make in (lambda: None, asyncio.Lock, Lock):
        off, on = both(lambda make=make: loop.run_until_complete(main(make())))
        assert on == off


@pytest.mark.parametrize("name", ["acquire", "release", "locked", "notify", "_notify"])
def test_replaced_methods_of_a_condition_are_obeyed(loop, name):
    seen = []

    async def main(replace):
        seen.clear()
        condition = asyncio.Condition()
        original = getattr(condition, name, None)

        def method(*arguments):
            seen.append(arguments)
            return original(*arguments)

        if replace and original is not None:
            setattr(condition, name, method)
        async with condition:
            condition.notify()
            condition.notify_all()
        return list(seen)

    off, on = both(lambda: [loop.run_until_complete(main(r)) for r in (False, True)])
    assert on == off


def test_a_condition_of_before_the_switch(loop):
    async def main(first):
        aioloop.accelerate(first)
        condition = asyncio.Condition()
        async with condition:
            aioloop.accelerate(not first)
            condition.notify_all()
        async with condition:
            aioloop.accelerate(first)
        return condition.locked()

    for first in (False, True):
        assert loop.run_until_complete(main(first)) is False
