"""Jobs of the default executor: one object each, and all else as asyncio has it.

Each test runs where our jobs do, on asyncio, and where somebody has replaced something
on the way, so that asyncio's own method runs.
"""

import asyncio
import concurrent.futures
import concurrent.futures.thread
import contextlib
import contextvars
import gc
import os
import sys
import threading
import traceback
import weakref

import pytest

import aioloop
from aioloop import _core

LIMIT = 60
HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()


def items(loop):
    """Return what waits in the default executor's queue."""
    queue = loop._default_executor._work_queue
    found = gc.get_referents(queue)
    return [
        item
        for held in [found, *(part for part in found if type(part) is list)]
        for item in held
        if hasattr(item, "run")
    ]


class Held:
    """A loop's executor whose only thread is held until the block ends."""

    def __init__(self, loop):
        self.loop = loop
        self.begun = asyncio.Event()
        self.ended = threading.Event()

    def hold(self):
        self.loop.call_soon_threadsafe(self.begun.set)
        assert self.ended.wait(LIMIT)

    async def __aenter__(self):
        await self.loop.run_in_executor(None, int)
        self.loop._default_executor._max_workers = 1
        self.job = self.loop.run_in_executor(None, self.hold)
        await self.begun.wait()
        return self

    async def __aexit__(self, *exc_info):
        self.ended.set()
        await self.job


@pytest.fixture(params=[asyncio.SelectorEventLoop, aioloop.new_event_loop, "wrapped"])
def run(request, monkeypatch):
    """A function that runs a coroutine function, which gets the loop, on a loop."""
    factory = request.param
    if factory == "wrapped":
        factory = aioloop.new_event_loop
        submit = concurrent.futures.ThreadPoolExecutor.submit
        monkeypatch.setattr(
            concurrent.futures.ThreadPoolExecutor,
            "submit",
            lambda *args, **kwargs: submit(*args, **kwargs),
        )

    def run_on(main):
        with asyncio.Runner(loop_factory=factory) as runner:

            async def with_loop():
                return await main(asyncio.get_running_loop())

            return runner.run(with_loop())

    return run_on


def test_results_and_arguments(run):
    async def main(loop):
        assert await loop.run_in_executor(None, int) == 0
        assert await loop.run_in_executor(None, max, 3, 7, 5) == 7
        assert await asyncio.to_thread(dict, [("a", 1)], b=2) == {"a": 1, "b": 2}
        jobs = [loop.run_in_executor(None, divmod, i, 7) for i in range(1000)]
        assert await asyncio.gather(*jobs) == [divmod(i, 7) for i in range(1000)]

    run(main)


def test_the_executor_is_asyncios(run):
    async def main(loop):
        assert loop._default_executor is None
        names = {
            await asyncio.to_thread(lambda: threading.current_thread().name)
            for _ in range(20)
        }
        executor = loop._default_executor
        assert type(executor) is concurrent.futures.ThreadPoolExecutor
        assert executor._thread_name_prefix == "asyncio"
        assert names <= {thread.name for thread in executor._threads}
        assert "asyncio_0" in names
        assert len(executor._threads) <= executor._max_workers
        return weakref.ref(executor)

    executor = run(main)
    gc.collect()
    assert executor() is None


def test_as_many_threads_as_there_may_be(run):
    async def main(loop):
        await loop.run_in_executor(None, int)
        executor = loop._default_executor
        executor._max_workers = 3
        barrier = threading.Barrier(3)
        await asyncio.gather(*(asyncio.to_thread(barrier.wait, LIMIT) for _ in "abc"))
        assert len(executor._threads) == 3

    run(main)


def test_contexts(run):
    variable = contextvars.ContextVar("variable", default=0)

    async def main(loop):
        await loop.run_in_executor(None, int)
        variable.set(1)
        assert await loop.run_in_executor(None, variable.get) == 0
        assert await asyncio.to_thread(variable.get) == 1
        await asyncio.to_thread(variable.set, 2)
        assert variable.get() == 1

    run(main)


class Failure(BaseException):
    pass


@pytest.mark.parametrize(
    "kind",
    [
        ValueError,
        Failure,
        asyncio.CancelledError,
        concurrent.futures.CancelledError,
        concurrent.futures.InvalidStateError,
        TimeoutError,
        StopIteration,
        GeneratorExit,
    ],
)
def test_exceptions(run, kind):
    def fail():
        raise kind("it")

    async def main(loop):
        await loop.run_in_executor(None, int)
        reported = loop.create_future()
        loop.set_exception_handler(
            lambda loop, context: reported.set_result(context["exception"])
        )
        future = loop.run_in_executor(None, fail)
        either = asyncio.FIRST_COMPLETED
        await asyncio.wait([future, reported], return_when=either)
        if reported.done():
            return type(reported.result()), ""
        exc = future.exception()
        frames = traceback.extract_tb(exc.__traceback__)
        assert frames == [] or frames[-1].name == "fail"
        return type(exc), str(exc)

    expected = {
        concurrent.futures.CancelledError: asyncio.CancelledError,
        concurrent.futures.InvalidStateError: asyncio.InvalidStateError,
    }
    found, text = run(main)
    if kind is StopIteration:  # Older futures refuse it.
        assert found in (TypeError, RuntimeError)
    else:
        assert (found, text) == (expected.get(kind, kind), "it")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_exceptions_that_end_the_program_reach_who_waits(run, kind):
    def leave():
        raise kind

    async def main(loop):
        await loop.run_in_executor(None, int)
        with pytest.raises(kind):
            await loop.run_in_executor(None, leave)
        return await loop.run_in_executor(None, int)

    assert run(main) == 0


def test_an_exception_is_in_no_cycle(run):
    class Local:
        pass

    def fail():
        local = Local()
        kept.append(weakref.ref(local))
        raise ValueError

    kept = []

    async def main(loop):
        await loop.run_in_executor(None, int)
        loop._default_executor._max_workers = 1
        with contextlib.suppress(ValueError):
            await loop.run_in_executor(None, fail)
        # The thread has let go of the job once it does another one.
        await loop.run_in_executor(None, int)

    gc.collect()
    gc.disable()
    try:
        run(main)
        assert kept[0]() is None
    finally:
        gc.enable()


def test_what_waits_and_is_cancelled_is_not_run(run):
    ran = []

    async def main(loop):
        async with Held(loop):
            jobs = [loop.run_in_executor(None, ran.append, i) for i in range(4)]
            jobs[1].cancel()
            jobs[2].cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await asyncio.gather(jobs[0], jobs[3])
        assert jobs[1].cancelled() and jobs[2].cancelled()

    run(main)
    assert ran == [0, 3]


def test_what_runs_and_is_cancelled_goes_on(run):
    done = []

    async def main(loop):
        async with Held(loop) as held:
            held.job.cancel()
            with pytest.raises(asyncio.CancelledError):
                await held.job
            held.job = loop.run_in_executor(None, done.append, 1)

    run(main)
    assert done == [1]


def test_a_waiter_that_somebody_sets(run):
    reports = []

    async def main(loop):
        loop.set_exception_handler(lambda loop, context: reports.append(context))
        async with Held(loop) as held:
            job = loop.run_in_executor(None, int)
            job.set_result("mine")
            held.ended.set()
            assert await loop.run_in_executor(None, str) == ""
        assert await job == "mine"

    run(main)
    assert [type(context["exception"]) for context in reports] == [AssertionError]


def test_futures_that_nobody_waits_for(run):
    done = []

    async def main(loop):
        await loop.run_in_executor(None, int)
        for i in range(50):
            loop.run_in_executor(None, done.append, i)
        await loop.shutdown_default_executor()

    run(main)
    assert sorted(done) == list(range(50))


def test_exceptions_that_nobody_asks_for(run):
    reports = []

    async def main(loop):
        loop.set_exception_handler(lambda loop, context: reports.append(context))
        await loop.run_in_executor(None, int)
        loop.run_in_executor(None, divmod, 1, 0)
        await loop.shutdown_default_executor()
        for _ in range(3):
            await asyncio.sleep(0)
        gc.collect()

    run(main)
    assert [context["message"] for context in reports] == [
        "Future exception was never retrieved"
    ]


def test_after_its_end(run):
    async def main(loop):
        await loop.run_in_executor(None, int)
        executor = loop._default_executor
        executor.shutdown()
        with pytest.raises(RuntimeError, match="new futures after shutdown"):
            loop.run_in_executor(None, int)
        await loop.shutdown_default_executor()
        with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
            loop.run_in_executor(None, int)

    run(main)


def test_shutdown_cancels_what_waits(run):
    async def main(loop):
        async with Held(loop):
            jobs = [loop.run_in_executor(None, int) for _ in range(3)]
            loop._default_executor.shutdown(wait=False, cancel_futures=True)
            results = await asyncio.gather(*jobs, return_exceptions=True)
            assert [type(result) for result in results] == [asyncio.CancelledError] * 3

    run(main)


def test_a_broken_pool(run):
    async def main(loop):
        async with Held(loop):
            job = loop.run_in_executor(None, int)
            loop._default_executor._initializer_failed()
            with pytest.raises(concurrent.futures.thread.BrokenThreadPool):
                await job
            with pytest.raises(concurrent.futures.thread.BrokenThreadPool):
                loop.run_in_executor(None, int)

    run(main)


def test_the_loop_is_closed_while_a_job_runs(run, capfd):
    held = []

    async def main(loop):
        # Not to be waited for at the end of the loop.
        held.append(Held(loop))
        await held[0].__aenter__()
        executor, loop._default_executor = loop._default_executor, None
        return executor

    executor = run(main)
    held[0].ended.set()
    executor.shutdown()
    gc.collect()
    assert capfd.readouterr().err == ""


def test_an_executor_of_the_programs_own(run):
    class Own(concurrent.futures.ThreadPoolExecutor):
        jobs = 0

        def submit(self, *args, **kwargs):
            Own.jobs += 1
            return super().submit(*args, **kwargs)

    async def main(loop):
        await loop.run_in_executor(None, int)
        loop.set_default_executor(Own(1))
        await loop.run_in_executor(None, int)
        await asyncio.to_thread(int)

    run(main)
    assert Own.jobs == 2


def test_what_others_put_on_the_way_is_called():
    seen = []

    async def main():
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, int)
        executor = loop._default_executor
        submit = executor.submit
        executor.submit = lambda *args: seen.append("submit") or submit(*args)
        await loop.run_in_executor(None, int)
        del executor.submit
        soon = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *args: seen.append("soon") or soon(*args)
        await loop.run_in_executor(None, int)
        del loop.call_soon_threadsafe
        with pytest.MonkeyPatch.context() as patch:
            chain = asyncio.futures._chain_future
            patch.setattr(
                asyncio.futures,
                "_chain_future",
                lambda *args: seen.append("chain") or chain(*args),
            )
            await loop.run_in_executor(None, int)
        with pytest.MonkeyPatch.context() as patch:
            item_run = concurrent.futures.thread._WorkItem.run
            patch.setattr(
                concurrent.futures.thread._WorkItem,
                "run",
                lambda *args: seen.append("run") or item_run(*args),
            )
            await loop.run_in_executor(None, int)
        await loop.run_in_executor(None, int)

    with asyncio.Runner(loop_factory=aioloop.new_event_loop) as runner:
        runner.run(main())
    assert seen == ["submit", "soon", "chain", "run"]


def test_which_jobs_are_ours():
    async def main(debug):
        loop = asyncio.get_running_loop()
        loop.set_debug(debug)
        async with Held(loop):
            job = loop.run_in_executor(None, int)
            kinds = {isinstance(item, _core.Job) for item in items(loop)}
            (item,) = items(loop)
            if item.__class__ is _core.Job:
                assert item.waiter is job and item.fn is int
        return kinds

    with asyncio.Runner(loop_factory=aioloop.new_event_loop) as runner:
        # Without a GIL asyncio's own method always runs.
        assert runner.run(main(False)) == {"t" not in sys.abiflags}
        assert runner.run(main(True)) == {False}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_while_jobs_wait(run):
    async def main(loop):
        async with Held(loop):
            job = loop.run_in_executor(None, int)
            # The child has none of the threads; nothing of it may hang or crash.
            if (child := os.fork()) == 0:
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        assert await job == 0

    if sys.version_info >= (3, 12):
        with pytest.warns(DeprecationWarning, match="fork"):
            run(main)
    else:
        run(main)


@pytest.mark.skipif(not HAS_GIL, reason="another thread completes no future then")
def test_from_inside_a_job(run):
    """A job that is given by a thread of the executor, which asyncio allows."""

    async def main(loop):
        await loop.run_in_executor(None, int)
        inner = await loop.run_in_executor(None, loop.run_in_executor, None, int)
        return await inner

    assert run(main) == 0
