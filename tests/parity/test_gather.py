"""asyncio.gather with the switch of aioloop.accelerate() on and off.

The same programs give the same traces, and whoever looks sees the same.
"""

import asyncio
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
ROUNDS = 8


@pytest.fixture
def loop(either_loop):
    return either_loop


class Awaitable:
    """What ensure_future has to wrap."""

    def __init__(self, function, *arguments):
        self.function = function
        self.arguments = arguments

    def __await__(self):
        return self.function(*self.arguments).__await__()


# --- random programs ------------------------------------------------------------------


class Program:
    """gather() of all kinds of awaitables, with all kinds of ends."""

    def __init__(self, seed, loop):
        self.random = random.Random(seed)
        self.loop = loop
        self.trace = []

    async def child(self, number):
        for _ in range(self.random.randrange(4)):
            await give_way()
        self.trace.append(number)
        end = self.random.randrange(6)
        if end == 0:
            raise ValueError(number)
        if end == 1:
            raise asyncio.CancelledError(number)
        if end == 2:
            await asyncio.sleep(0)
        return number

    def settle(self, future):
        if not future.done():
            end = self.random.randrange(3)
            if end == 0:
                future.set_exception(KeyError(1))
            elif end == 1:
                future.cancel("why")
            else:
                future.set_result("settled")

    def argument(self, number, arguments):
        kind = self.random.randrange(8)
        if kind == 0 and arguments and not asyncio.iscoroutine(arguments[-1]):
            return arguments[-1]
        if kind == 1:
            return asyncio.create_task(self.child(number))
        if kind == 2:
            future = self.loop.create_future()
            self.loop.call_soon(self.settle, future)
            return future
        if kind == 3:
            future = self.loop.create_future()
            self.settle(future)
            return future
        if kind == 4:
            return Awaitable(self.child, number)
        return self.child(number)

    async def gather(self):
        arguments = []
        for number in range(self.random.randrange(1, 7)):
            arguments.append(self.argument(number, arguments))
        if self.random.random() < 0.5:
            outer = asyncio.gather(
                *arguments, return_exceptions=self.random.random() < 0.7
            )
        else:
            outer = asyncio.gather(*arguments)
        if self.random.random() < 0.3:
            for _ in range(self.random.randrange(4)):
                await give_way()
            self.trace.append(outer.cancel("outer"))
        children = list(outer._children)
        self.trace.append((type(outer).__name__, outer._state, len(children)))
        self.trace.append([awaited_by(child) for child in children])
        try:
            results = await outer
            self.trace.append([repr(result) for result in results])
        except BaseException as exc:
            self.trace.append(describe(exc))
        self.trace.append([awaited_by(child) for child in children])
        for _ in range(8):
            await give_way()
        for child in children:
            if not child.cancelled() and child.exception() is None:
                self.trace.append(repr(child.result()))
        self.trace.append((outer._state, outer._cancel_requested))

    async def main(self):
        for _ in range(ROUNDS):
            await asyncio.create_task(self.gather())
        return self.trace


@pytest.mark.parametrize("eager", [False, True], ids=["", "eager"])
def test_random_programs_do_the_same(loop, eager):
    use_eager_tasks(loop, eager)

    def run(seed):
        return loop.run_until_complete(Program(seed, loop).main())

    for seed in range(60):
        off, on = both(run, seed)
        assert on == off, f"seed {seed}"


# --- what is seen of it ---------------------------------------------------------------


def test_the_callback_looks_like_asyncios(loop):
    async def main():
        future = loop.create_future()
        task = asyncio.create_task(give_way_once())
        outer = asyncio.gather(task, future)
        [(callback, context)] = future._callbacks
        function = inspect.unwrap(callback)
        seen = [
            plain(repr(task)),
            plain(repr(future)),
            plain(repr(callback)),
            callable(callback),
            callback.__name__,
            callback.__qualname__,
            callback.__module__,
            callback.__code__,
            function.__code__,
            callback.__code__.co_freevars,
            [cell_type(cell) for cell in callback.__closure__],
            getattr(callback, "__self__", None),
            task._callbacks[0][0] is callback,
            future.remove_done_callback(callback),
        ]
        assert closure(callback, "outer") is outer
        assert closure(callback, "children") == outer._children
        outer.cancel()
        await give_way()
        return seen

    async def give_way_once():
        await give_way()

    def closure(function, name):
        names = function.__code__.co_freevars
        return function.__closure__[names.index(name)].cell_contents

    def cell_type(cell):
        try:
            return type(cell.cell_contents)
        except ValueError:
            return None

    off, on = both(lambda: loop.run_until_complete(main()))
    assert on == off


def test_debug_mode_keeps_stacks(loop):
    async def child():
        pass

    async def main():
        outer = asyncio.gather(child())
        stack = outer._children[0]._source_traceback
        await outer
        return [frame.name for frame in stack][-4:]

    loop.set_debug(True)
    off, on = both(lambda: loop.run_until_complete(main()))
    assert "gather" in off
    assert on == off


def outcome(function, *arguments, **names):
    try:
        return type(function(*arguments, **names)).__name__
    except Exception as exc:
        return type(exc), str(exc)


def test_bad_arguments(loop):
    other = asyncio.SelectorEventLoop()
    foreign = other.create_future()

    async def child():
        await give_way()

    async def main():
        made = [child() for _ in range(6)]
        trace = [
            outcome(asyncio.gather, made[0], 3),
            outcome(asyncio.gather, 3),
            outcome(asyncio.gather, made[1], foreign),
            outcome(asyncio.gather, made[2], return_exceptions=3),
            outcome(asyncio.gather, made[3], other=True),
            outcome(asyncio.gather, made[4], made[4]),
            outcome(asyncio.gather, made[5], []),
            outcome(asyncio.gather),
            outcome(asyncio.gather, return_exceptions=True),
        ]
        for _ in range(5):
            await give_way()
        trace += [inspect.getcoroutinestate(coroutine) for coroutine in made]
        made[3].close()
        return trace

    try:
        off, on = both(lambda: loop.run_until_complete(main()))
        assert on == off
    finally:
        other.close()


def test_a_future_of_another_loop_decides_as_in_asyncio(loop):
    other = asyncio.SelectorEventLoop()

    async def main():
        future = other.create_future()
        try:
            return asyncio.gather(future).get_loop() is other
        except ValueError as exc:
            return str(exc)

    try:
        off, on = both(lambda: loop.run_until_complete(main()))
        assert on == off
    finally:
        other.close()


def test_without_a_running_loop(loop):
    def run():
        future = loop.create_future()
        outer = asyncio.gather(future, future)
        future.set_result(3)
        return loop.run_until_complete(outer)

    off, on = both(run)
    assert on == off == [3, 3]


def test_a_closed_loop_closes_the_coroutine(loop, monkeypatch):
    async def child():
        pass

    def refuse(coroutine, **names):
        raise RuntimeError("refused")

    async def main():
        coroutine = child()
        with monkeypatch.context() as patch:
            patch.setattr(loop, "create_task", refuse)
            result = outcome(asyncio.gather, coroutine)
        return result, inspect.getcoroutinestate(coroutine)

    off, on = both(lambda: loop.run_until_complete(main()))
    assert on == off == ((RuntimeError, "refused"), "CORO_CLOSED")


def test_what_gather_calls_is_replaced(loop, monkeypatch):
    ensure = "ensure_future" if sys.version_info >= (3, 12) else "_ensure_future"
    ensure_future = getattr(asyncio.tasks, ensure)
    seen = []

    def other_ensure_future(arg, **names):
        seen.append(sorted(names))
        return ensure_future(arg, **names)

    class GatheringFuture(asyncio.tasks._GatheringFuture):
        def set_result(self, result):
            super().set_result(tuple(result))

    async def child():
        return 1

    async def main():
        seen.clear()
        with monkeypatch.context() as patch:
            patch.setattr(asyncio.tasks, ensure, other_ensure_future)
            patch.setattr(asyncio.tasks, "_GatheringFuture", GatheringFuture)
            outer = asyncio.gather(child(), child())
        return type(outer), await outer, list(seen)

    off, on = both(lambda: loop.run_until_complete(main()))
    assert on == off == (GatheringFuture, (1, 1), [["loop"]] * 2)


def test_exceptions_that_nobody_retrieves_are_told(loop):
    told = []
    loop.set_exception_handler(lambda loop, context: told.append(context["message"]))

    async def child(number):
        await give_way()
        raise ValueError(number)

    async def main():
        asyncio.gather(child(1), child(2))
        asyncio.gather(child(3), child(4), return_exceptions=True)
        for _ in range(5):
            await give_way()

    def run():
        told.clear()
        loop.run_until_complete(main())
        gc.collect()
        return [text for text in told if "Gathering" in text]

    off, on = both(run)
    assert on == off
    assert len(off) == 1


def test_the_list_of_children_is_emptied(loop):
    async def main():
        trace = []
        for cancel in (False, True):
            future = loop.create_future()
            outer = asyncio.gather(future)
            if cancel:
                outer.cancel()
            else:
                future.set_result(1)
            outer._children.clear()
            try:
                trace.append(await outer)
            except asyncio.CancelledError as exc:
                trace.append(describe(exc))
        return trace

    off, on = both(lambda: loop.run_until_complete(main()))
    assert on == off


def test_the_switch_is_turned_while_children_run(loop):
    async def child(number):
        await give_way()
        await give_way()
        return number

    async def main(first):
        aioloop.accelerate(first)
        one = asyncio.gather(child(1), child(2))
        aioloop.accelerate(not first)
        two = asyncio.gather(one, child(3))
        await give_way()
        aioloop.accelerate(first)
        return await two

    for first in (False, True):
        assert loop.run_until_complete(main(first)) == [[1, 2], 3]


def test_nothing_keeps_the_futures(loop):
    async def child():
        await give_way()

    async def main():
        outer = asyncio.gather(child(), child(), return_exceptions=True)
        seen = weakref.ref(outer._children[0])
        await outer
        del outer
        await give_way()
        return seen

    aioloop.accelerate()
    gc.collect()
    gc.disable()
    try:
        assert loop.run_until_complete(main())() is None
    finally:
        gc.enable()


def test_a_gather_that_never_ends_is_collected(loop):
    async def main():
        future = loop.create_future()
        outer = asyncio.gather(future, loop.create_future())
        outer.add_done_callback(lambda _: outer)
        return weakref.ref(outer), weakref.ref(future._callbacks[0][0])

    aioloop.accelerate()
    references = loop.run_until_complete(main())
    gc.collect()
    assert [reference() for reference in references] == [None, None]


@pytest.mark.skipif(sys.version_info < (3, 14), reason="call graphs came in 3.14")
def test_call_graphs(loop):
    async def inner(waiter):
        await waiter

    async def main():
        waiter = loop.create_future()
        tasks = [asyncio.create_task(inner(waiter), name=f"t{i}") for i in range(2)]
        outer = asyncio.ensure_future(asyncio.gather(*tasks))
        await give_way()
        text = [asyncio.format_call_graph(task, depth=2) for task in tasks]
        waiter.set_result(None)
        await outer
        return list(map(plain, text))

    off, on = both(lambda: loop.run_until_complete(main()))
    assert on == off
