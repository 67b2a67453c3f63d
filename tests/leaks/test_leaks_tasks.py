"""Futures and tasks leave nothing behind: blocks, references, links in lists."""

import asyncio
import contextlib
import contextvars
import ctypes
import gc
import inspect
import sys

import pytest

import aioloop

VERSION = sys.version_info[:2]


async def nothing():
    pass


async def stepping():
    await asyncio.sleep(0)


@pytest.mark.skipif(
    not hasattr(sys, "gettotalrefcount"), reason="for a debug build of CPython"
)
def test_a_reference_lost_to_an_object_that_lives_on_is_seen(no_leak):
    kept = object()
    lose = ctypes.pythonapi.Py_IncRef
    with pytest.raises(AssertionError, match="blocks and references"):
        no_leak(lambda: lose(ctypes.py_object(kept)))


def test_futures(loop, no_leak):
    def round():
        future = loop.create_future()
        future.attribute = future
        future.add_done_callback(len)
        future.add_done_callback(max)
        future.add_done_callback(min, context=contextvars.Context())
        future.remove_done_callback(max)
        future.remove_done_callback(len)
        future.remove_done_callback(min)
        future.set_result(object())
        future.result()
        repr(future)
        aioloop.Future(loop=loop).cancel("message")
        iterator = iter(loop.create_future())
        next(iterator)
        iterator.close()

    no_leak(round)


def test_callbacks(loop, no_leak):
    async def main():
        future = loop.create_future()
        for _ in range(5):
            future.add_done_callback(lambda future: None)
        future.set_result(None)
        await asyncio.sleep(0)

    no_leak(lambda: loop.run_until_complete(main()), rounds=300)


def test_exceptions(loop, no_leak):
    loop.set_exception_handler(lambda loop, context: None)

    async def raising():
        raise ValueError

    async def main():
        future = loop.create_future()
        future.set_exception(KeyError)
        with pytest.raises(KeyError):
            await future
        loop.create_future().set_exception(KeyError)  # never retrieved
        task = asyncio.create_task(raising())
        with pytest.raises(ValueError):
            await task
        asyncio.create_task(raising())
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    no_leak(lambda: loop.run_until_complete(main()), rounds=300)


@pytest.mark.parametrize("cls", [aioloop.Task, asyncio.Task])
@pytest.mark.parametrize("future_class", [aioloop.Future, asyncio.Future])
def test_tasks(loop, no_leak, cls, future_class):
    async def main():
        future = future_class(loop=loop)

        async def waiting():
            await future

        tasks = [cls(waiting(), loop=loop) for _ in range(3)]
        tasks.append(cls(stepping(), loop=loop))
        await asyncio.sleep(0)
        asyncio.all_tasks()
        asyncio.current_task()
        repr(tasks)
        tasks[-1].cancel("message")
        future.set_result(None)
        await asyncio.wait(tasks)

    no_leak(lambda: loop.run_until_complete(main()), rounds=300)


def test_cancellation(loop, no_leak):
    async def main():
        task = asyncio.create_task(stepping())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        task = asyncio.create_task(asyncio.sleep(100))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.sleep(100), 0)

    no_leak(lambda: loop.run_until_complete(main()), rounds=300)


def test_misuse(loop, no_leak):
    class Awaitable:
        def __init__(self, value):
            self.value = value

        def __await__(self):
            yield self.value

    async def awaiting(value):
        await Awaitable(value)

    async def main():
        for value in (1, (i for i in ()), loop.create_future()):
            with pytest.raises(RuntimeError):
                await asyncio.create_task(awaiting(value))
        with pytest.raises(TypeError):
            aioloop.Task(1, loop=loop)

    no_leak(lambda: loop.run_until_complete(main()), rounds=300)


def test_pending_tasks_that_die(no_leak):
    """In cycles, with their futures, on loops that are closed."""

    def round():
        loop = aioloop.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)

        async def waiting():
            await loop.create_future()

        tasks = [loop.create_task(waiting()) for _ in range(3)]
        tasks[0].cycle = tasks
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()

    no_leak(round, rounds=100)


def test_subclasses(loop, no_leak):
    class Future(aioloop.Future):
        pass

    class Task(aioloop.Task):
        pass

    async def main():
        future = Future(loop=loop)
        future.attribute = future
        loop.call_soon(future.set_result, 1)
        await future
        await Task(stepping(), loop=loop)

    no_leak(lambda: loop.run_until_complete(main()), rounds=300)


@pytest.mark.skipif(VERSION < (3, 12), reason="new in 3.12")
def test_eager_tasks(loop, no_leak):
    async def raising():
        raise ValueError

    async def main():
        loop.set_task_factory(asyncio.eager_task_factory)
        await asyncio.create_task(nothing())
        await asyncio.create_task(stepping())
        with pytest.raises(ValueError):
            await asyncio.create_task(raising())
        loop.set_task_factory(None)

    no_leak(lambda: loop.run_until_complete(main()), rounds=300)


def test_references_to_shared_objects(loop):
    """Counts on the objects that every operation touches stay the same."""
    shared = [loop, None, nothing, aioloop.Future, aioloop.Task]

    async def main():
        future = loop.create_future()
        task = asyncio.create_task(stepping())
        loop.call_soon(future.set_result, None)
        await future
        await task

    def counts():
        gc.collect()
        return [sys.getrefcount(obj) for obj in shared]

    for _ in range(300):
        loop.run_until_complete(main())
    before = counts()
    for _ in range(1000):
        loop.run_until_complete(main())
    for one, other in zip(before, counts(), strict=True):
        assert abs(one - other) < 50


def test_free_lists_keep_a_bounded_number(loop, no_leak):
    def round():
        futures = [loop.create_future() for _ in range(1000)]
        for future in futures:
            iter(future)

    no_leak(round, rounds=30)


def test_gather_in_c(loop, no_leak):
    async def end(number):
        await asyncio.sleep(0)
        if number == 2:
            raise ValueError(number)
        return number

    async def main():
        await asyncio.gather(end(1), end(2), end(3), return_exceptions=True)
        with contextlib.suppress(ValueError):
            await asyncio.gather(end(1), end(2), end(3))
        outer = asyncio.gather(end(1), loop.create_future())
        repr(outer._children[1]._callbacks[0][0].__closure__)
        await asyncio.sleep(0)
        outer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await outer
        with contextlib.suppress(TypeError):
            asyncio.gather(end(1), 3)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    aioloop.accelerate()
    try:
        no_leak(lambda: loop.run_until_complete(main()), rounds=300)
    finally:
        aioloop.accelerate(False)


def test_task_groups_in_c(loop, no_leak):
    async def end(number):
        await asyncio.sleep(0)
        if number == 2:
            raise ValueError(number)
        return number

    async def main():
        async with asyncio.TaskGroup() as group:
            for number in (1, 3):
                group.create_task(end(number), name="name")
            repr(group.create_task(end(1), context=contextvars.Context()))
            group.create_task(end(1)).cancel()
        with contextlib.suppress(RuntimeError):
            coroutine = end(1)
            group.create_task(coroutine)
        coroutine.close()
        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(end(2))
                group.create_task(asyncio.sleep(1000))
                with contextlib.suppress(TypeError):
                    group.create_task(3)

    aioloop.accelerate()
    try:
        no_leak(lambda: loop.run_until_complete(main()), rounds=300)
    finally:
        aioloop.accelerate(False)


def test_waits_in_c(loop, no_leak):
    """wait(), shield() and conditions, with their errors."""

    async def end(number):
        await asyncio.sleep(0)
        if number == 3:
            raise ValueError(number)

    async def main():
        never = loop.create_future()
        tasks = [asyncio.create_task(end(number)) for number in range(1, 5)]
        await asyncio.wait(tasks, timeout=1000, return_when=asyncio.FIRST_EXCEPTION)
        await asyncio.wait([*tasks, never], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait([never], timeout=0)
        for wrong in ([], [3], [[]]):
            with pytest.raises((ValueError, TypeError, AttributeError)):
                await asyncio.wait(wrong)
        waiting = asyncio.create_task(asyncio.wait([never], timeout=1000))
        outer = asyncio.shield(never)
        repr(never), repr(outer)
        inspect.unwrap(never._callbacks[0][0])
        await asyncio.sleep(0)
        waiting.cancel()
        outer.cancel()
        await asyncio.shield(end(1))
        with pytest.raises(ValueError):
            await asyncio.shield(end(3))
        condition = asyncio.Condition()
        async with condition:
            condition.notify()
            condition.notify_all()
        with pytest.raises(RuntimeError):
            condition.notify()
        await asyncio.sleep(0)

    aioloop.accelerate()
    try:
        no_leak(lambda: loop.run_until_complete(main()))
    finally:
        aioloop.accelerate(False)
