"""aioloop.spawn() keeps a task alive and tells of its failure at once."""

import asyncio
import contextvars
import gc
import textwrap
import weakref

import pytest

import aioloop


def test_the_task_is_kept_and_then_forgotten(run):
    async def worker(started, done):
        started.set()
        await asyncio.get_running_loop().create_future()

    async def main():
        started = asyncio.Event()
        task = weakref.ref(aioloop.spawn(worker(started, None), name="kept"))
        await started.wait()
        gc.collect()
        assert task() is not None
        assert task().get_name() == "kept"
        task().cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        gc.collect()
        assert task() is None

    run(main())


def test_a_failure_is_reported_at_once(loop, run):
    contexts = []
    loop.set_exception_handler(lambda loop, context: contexts.append(context))

    async def fail():
        raise ValueError("no")

    async def main():
        task = aioloop.spawn(fail(), name="worker")
        for _ in range(3):
            await asyncio.sleep(0)
        (context,) = contexts
        assert context["task"] is task
        assert context["exception"] is task.exception()
        assert context["message"].startswith("Task 'worker' of ")
        assert context["message"].endswith("fail() failed")
        assert ("source_traceback" in context) is loop.get_debug()

    run(main())
    gc.collect()
    assert len(contexts) == 1


def test_cancelled_and_successful_tasks_are_silent(loop, run):
    contexts = []
    loop.set_exception_handler(lambda loop, context: contexts.append(context))

    async def main():
        assert await aioloop.spawn(asyncio.sleep(0, "result")) == "result"
        task = aioloop.spawn(asyncio.sleep(60))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    assert contexts == []


def test_the_context(run):
    variable = contextvars.ContextVar("variable", default=0)

    async def read():
        return variable.get()

    async def main():
        context = contextvars.copy_context()
        context.run(variable.set, 7)
        assert await aioloop.spawn(read(), context=context) == 7
        assert await aioloop.spawn(read()) == 0

    run(main())


def test_it_needs_a_running_loop_and_a_coroutine(run):
    async def nothing():
        pass

    coro = nothing()
    with pytest.raises(RuntimeError, match="no running event loop"):
        aioloop.spawn(coro)
    coro.close()

    async def main():
        with pytest.raises(TypeError, match="a coroutine was expected, got 1"):
            aioloop.spawn(1)

    run(main())


def test_asyncios_own_loop():
    contexts = []

    async def fail():
        raise ValueError

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: contexts.append(context))
        aioloop.spawn(fail())
        gc.collect()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    aioloop.run(main(), loop_factory=asyncio.SelectorEventLoop)
    assert len(contexts) == 1


def test_what_the_log_says(python, tmp_path):
    path = tmp_path / "app.py"
    path.write_text(
        textwrap.dedent(
            """
            import asyncio, aioloop, sys
            async def fetch():
                raise ValueError("no")
            async def main():
                aioloop.spawn(fetch(), name="worker")
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                print("before the end", file=sys.stderr)
            aioloop.run(main())
            """
        )
    )
    lines = python(path).stderr.splitlines()
    assert lines[0] == "Task 'worker' of fetch() failed"
    assert lines[-2:] == ["ValueError: no", "before the end"]


def test_a_loop_that_is_dropped_takes_its_tasks_along():
    class Loop(aioloop.Loop):
        pass

    async def main():
        aioloop.spawn(asyncio.sleep(60))

    loop = Loop()
    loop.set_exception_handler(lambda loop, context: None)
    loop.run_until_complete(main())
    loop.close()
    reference = weakref.ref(loop)
    del loop
    gc.collect()
    assert reference() is None
