"""aioloop.cancelled_from(): who cancelled a task, and where that is told."""

import asyncio
import gc
import io
import logging

import pytest

import aioloop


@pytest.fixture
def run():
    """Return a function that runs a coroutine on a loop with these debug options."""

    def run(coroutine, handler=None, **options):
        options = options or {"cancel_tracebacks": True}
        with asyncio.Runner(loop_factory=aioloop.new_event_loop) as runner:
            loop = runner.get_loop()
            loop.debug_options = aioloop.DebugOptions(**options)
            loop.set_exception_handler(handler)
            return runner.run(coroutine)

    return run


async def swallow(event):
    while not event.is_set():
        try:
            await event.wait()
        except asyncio.CancelledError:
            pass
    return "done"


def cancel(task):
    task.cancel()


def names(stack):
    return [frame.name for frame in stack]


def test_who_cancelled_it(run):
    async def main():
        event = asyncio.Event()
        task = asyncio.create_task(swallow(event))
        assert aioloop.cancelled_from(task) is None
        await asyncio.sleep(0)
        cancel(task)
        stack = aioloop.cancelled_from(task)
        assert names(stack)[-2:] == ["main", "cancel"]
        assert stack[-1].line == "task.cancel()"
        task.cancel()
        assert names(aioloop.cancelled_from(task))[-1] == "main"
        event.set()
        assert await task == "done"
        assert names(aioloop.cancelled_from(task))[-1] == "main"
        task.cancel()  # It has ended.
        assert names(aioloop.cancelled_from(task))[-1] == "main"

    run(main())


async def fail():
    try:
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        raise ZeroDivisionError from None


def test_a_cancelled_task_and_one_that_fails(run):
    async def main():
        tasks = [asyncio.create_task(c) for c in (asyncio.sleep(1000), fail())]
        await asyncio.sleep(0)
        for task in tasks:
            cancel(task)
        await asyncio.wait(tasks)
        assert tasks[0].cancelled()
        for task in tasks:
            assert names(aioloop.cancelled_from(task))[-1] == "cancel"
        failed = tasks[1]
        assert failed._result is None
        with pytest.raises(ZeroDivisionError) as raised:
            failed.result()
        assert raised.traceback[-1].name == "fail"
        assert names(aioloop.cancelled_from(failed))[-1] == "cancel"

    run(main())


def test_asyncio_itself(run):
    async def timed(tasks):
        tasks.append(asyncio.current_task())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.sleep(1000)

    async def fail():
        raise ZeroDivisionError

    async def main():
        tasks = []
        await asyncio.create_task(timed(tasks))
        (task,) = tasks
        last = aioloop.cancelled_from(task)[-1]
        assert (last.filename, last.name) == (asyncio.timeouts.__file__, "_on_timeout")
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                other = group.create_task(asyncio.sleep(1000))
                group.create_task(fail())
        last = aioloop.cancelled_from(other)[-1]
        assert (last.filename, last.name) == (asyncio.taskgroups.__file__, "_abort")

    run(main())


def test_the_switch(run):
    async def main():
        task = asyncio.create_task(asyncio.sleep(1000))
        task.cancel()
        return aioloop.cancelled_from(task)

    assert run(main(), source_tracebacks=True) is None
    assert run(main())[-1].name == "main"
    with pytest.raises(TypeError, match="a task was expected"):
        aioloop.cancelled_from(1)


def test_a_task_of_another_loop():
    async def main():
        task = asyncio.create_task(asyncio.sleep(1000))
        task.cancel()
        assert aioloop.cancelled_from(task) is None

    loop = asyncio.SelectorEventLoop()
    try:
        loop.run_until_complete(main())
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        loop.close()


def test_the_dump(run):
    out = io.StringIO()

    async def main():
        event = asyncio.Event()
        task = asyncio.create_task(swallow(event), name="deaf")
        await asyncio.sleep(0)
        cancel(task)
        await asyncio.sleep(0)
        aioloop.dump(out)
        event.set()
        await task

    run(main())
    line = next(line for line in out.getvalue().splitlines() if line[:4] == "deaf")
    assert "cancelled and still not done] cancelled at " in line
    assert line.endswith(" in cancel")


def test_a_pending_task_that_is_destroyed(run, caplog):
    contexts = []

    def handle(loop, context):
        contexts.append(context)
        loop.default_exception_handler(context)

    async def main():
        async def forget():
            future = asyncio.get_running_loop().create_future()
            while True:
                try:
                    await future
                except asyncio.CancelledError:
                    future = asyncio.get_running_loop().create_future()

        task = asyncio.create_task(forget())
        await asyncio.sleep(0)
        cancel(task)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task
        gc.collect()

    with caplog.at_level(logging.ERROR, "asyncio"):
        run(main(), handle)
    (context,) = (c for c in contexts if c["message"].startswith("Task was destroyed"))
    assert names(context["cancelled_from"])[-1] == "cancel"
    assert "cancelled_from: Task.cancel() called at (most recent call last)" in (
        caplog.text
    )


def test_an_exception_that_nobody_retrieves(run):
    contexts = []

    async def main():
        task = asyncio.create_task(fail())
        await asyncio.sleep(0)
        cancel(task)
        await asyncio.wait([task])
        del task
        gc.collect()

    run(main(), lambda loop, context: contexts.append(context))
    (context,) = (c for c in contexts if "never retrieved" in c["message"])
    assert names(context["cancelled_from"])[-1] == "cancel"
