"""What aioloop has beyond asyncio, as operations of sweep.py.

python sweep_package.py NAME
"""

from __future__ import annotations

import _testcapi
import asyncio
import gc
import io
import json
import os
import sys
import tempfile
import time
import traceback
from asyncio import events

import sweep
from sweep import coroutine, loop

import aioloop
from aioloop import _core, _install, _orphans, _report


async def wait_for(future):
    await future


async def nothing():
    await asyncio.sleep(0)


def turn_of(other):
    other.call_soon(other.stop)
    other.run_forever()


def run(other, coro):
    """Run what ends in a few turns: run_until_complete() may lose that it has ended."""
    task = other.create_task(coro)
    for _ in range(4):
        turn_of(other)
    return task.result()


class Waiting:
    """A loop with tasks that wait for each other, a timer and a descriptor."""

    def __init__(self):
        self.loop = other = aioloop.new_event_loop()
        other.set_exception_handler(lambda loop, context: sweep.report(None))
        self.future = other.create_future()
        first = other.create_task(wait_for(self.future), name="first")
        second = other.create_task(wait_for(first), name="second")
        self.tasks = [first, second, other.create_task(asyncio.sleep(1000))]
        turn_of(other)

    def end(self):
        """The tasks end as they would have, and the loop works."""
        self.tasks[2].cancel()
        self.future.set_result(None)
        for _ in range(4):
            turn_of(self.loop)
        assert all(task.done() for task in self.tasks)
        self.loop.close()


# --- looks ----------------------------------------------------------------------------


def looks(write, check):
    """Return the operation that writes about a loop: all of it, or an exception."""

    def operation():
        waiting = Waiting()

        def body():
            text = io.StringIO()
            write(text, waiting.loop)
            check(text.getvalue())

        return body, waiting.end

    return operation


def check_text(text):
    assert '"wait_for"' in text and "first" in text and "second" in text, text


def check_json(text):
    (found,) = json.loads(text)["loops"]
    assert {task["name"] for task in found["tasks"]} >= {"first", "second"}, text


dump = looks(lambda file, loop: aioloop.dump(file, loop=loop, leaks=True), check_text)
dump_as_json = looks(
    lambda file, loop: aioloop.dump(file, loop=loop, format="json"), check_json
)


def cancelled_from():
    other = aioloop.new_event_loop()
    other.debug_options = aioloop.DebugOptions(cancel_tracebacks=True)
    future = other.create_future()
    task = other.create_task(wait_for(future))

    turn_of(other)

    def body():
        task.cancel()
        stack = aioloop.cancelled_from(task)
        assert stack and stack[-1].name == "body"
        assert "task.cancel()" in repr(stack)

    def verify():
        task.cancel()
        for _ in range(2):
            turn_of(other)
        assert task.cancelled()
        assert aioloop.cancelled_from(task)
        other.close()

    return body, verify


def task_looks():
    """Looks at a task change nothing, whether they fail or not."""
    waiting = Waiting()
    task = waiting.tasks[0]

    def body():
        assert len(task.get_stack()) == 1
        text = io.StringIO()
        task.print_stack(file=text)
        assert "wait_for" in text.getvalue()
        task.set_name(17)
        assert task.get_name() == "17"
        assert task.uncancel() == 0
        iterator = iter(waiting.loop.create_future())
        next(iterator)
        try:
            iterator.throw(KeyError)
        except KeyError:
            pass

    def verify():
        assert task.get_name() in ("first", "17")
        assert task.cancelling() == 0
        waiting.end()

    return body, verify


# --- what is counted ------------------------------------------------------------------


def numbers():
    """What a snapshot tells is so, and its reading changes nothing."""
    other = aioloop.new_event_loop()
    other.metering = True
    run(other, nothing())
    before = other.metrics(), other.usage()

    def body():
        run(other, nothing())
        metrics = other.metrics() - before[0]
        assert metrics.tasks_created == metrics.tasks_done == 1
        steps = metrics.callback_duration
        assert steps.count == metrics.callbacks > 0
        assert steps.mean <= steps.quantile(1) and 0 <= metrics.utilization <= 1
        used = other.usage() - before[1]
        (use,) = [use for use in used if use.name == "nothing"]
        assert use.steps == 2 and not use.spins
        assert str(used) and use.place
        assert any(slot["name"] == "nothing" for slot in other.recent_callbacks())
        assert "nothing" in other.chrome_trace()

    def verify():
        run(other, nothing())
        metrics = other.metrics() - before[0]
        assert metrics.tasks_created == (
            metrics.tasks_done + metrics.tasks_cancelled + metrics.tasks_failed
        )
        other.metering = False
        other.close()

    return body, verify


def metering():
    """It is on or off, and what runs meanwhile runs."""
    other = aioloop.new_event_loop()

    def body():
        other.metering = True
        run(other, nothing())
        run(other, other.top(seconds=0))

    def verify():
        other.metering = True
        run(other, nothing())
        assert other.metrics().callback_duration.count > 0
        other.metering = False
        other.close()

    return body, verify


async def fail():
    raise KeyError


def orphans():
    """What is lost is counted, and told of or reported as not told of."""
    _orphans._found.clear()
    other = aioloop.new_event_loop()
    other.report_orphans = True
    told = []
    other.set_exception_handler(lambda loop, context: None)
    _orphans.on_orphan[:] = [told.append]

    tasks = [other.create_task(wait_for(asyncio.Future(loop=other))), None, None]
    turn_of(other)
    tasks[1] = other.create_task(fail())
    turn_of(other)
    tasks[2] = nothing()

    def body():
        gc.collect()
        while tasks:
            tasks.pop()
        gc.collect()
        assert len(told) == 3, told
        found = aioloop.orphans()
        assert sum(orphan.count for orphan in found) == 3
        assert all(str(orphan) for orphan in found)

    def verify():
        tasks.clear()
        gc.collect()
        counts = _core._misuse(other)
        assert counts["pending_tasks"] == counts["unretrieved_exceptions"] == 1
        _orphans.on_orphan.clear()
        other.close()

    return body, verify


# --- reports --------------------------------------------------------------------------


def report():
    waiting = Waiting()
    waiting.loop.metering = True
    turn_of(waiting.loop)
    place = os.path.join(sweep.FOLDER, "report.html")

    def body():
        aioloop.report(place, loop=waiting.loop)
        with open(place) as file:
            assert "second" in file.read()

    def verify():
        _report._follower.loops.clear()
        assert not [name for name in os.listdir(sweep.FOLDER) if name[0] == "."]
        waiting.end()

    return body, verify


# --- blocking calls -------------------------------------------------------------------


def allow_blocking():
    """What is allowed is allowed there alone."""
    other = aioloop.new_event_loop()
    other.blocking_calls = "raise"

    async def main():
        with aioloop.allow_blocking():
            time.sleep(1e-9)
        try:
            time.sleep(1e-9)
        except aioloop.BlockingCallError:
            return
        raise AssertionError("a call that blocks was not noticed")

    def body():
        run(other, main())

    def verify():
        run(other, main())
        other.blocking_calls = None
        other.close()

    return body, verify


# --- tasks of nobody's, and the switches ----------------------------------------------


@coroutine
def spawn(opened):
    async def main():
        assert not loop._spawned  # Nor did earlier failures leave any.
        future = loop.create_future()
        first = aioloop.spawn(wait_for(future), name="first")
        second = aioloop.spawn(nothing())
        assert loop._spawned == {first, second}
        await second
        future.set_result(None)
        await first
        await asyncio.sleep(0)
        assert not loop._spawned

    return main


def names():
    """Return what install() replaces."""
    found = {name: vars(events).get(name) for name in ("new_event_loop",)}
    for name in ("new_event_loop", "EventLoop", "sleep", "gather"):
        found[f"asyncio.{name}"] = vars(asyncio).get(name)
    found["policy"] = vars(events).get("_event_loop_policy")
    found["finders"] = [*sys.meta_path]
    return found


def install():
    """uninstall() puts back what there was, also after half an install()."""
    before = names()

    def body():
        aioloop.install(accelerate=True, as_uvloop=True)
        made = asyncio.new_event_loop()
        made.close()
        assert type(made) is aioloop.Loop
        aioloop.uninstall()
        after = names()
        assert after == before, {
            name: (before[name], after[name])
            for name in before
            if before[name] != after[name]
        }

    def verify():
        aioloop.uninstall()
        assert names() == before
        assert not _install._replaced
        assert not aioloop._accelerate._accelerate(False)

    return body, verify


# --- processes ------------------------------------------------------------------------


def fork():
    """The loop works in the child of a fork, or an exception says why not.

    CPython ends the process where a fork itself lacks memory, so allocations fail from
    then on, in the child alone.
    """
    asyncio.log.logger.disabled = True
    for n in range(1, 150):
        other = aioloop.new_event_loop()
        turn_of(other)  # It has its context: PyContext_New() crashes without memory.
        ours, theirs = sweep.pair()
        events, timers = sweep.Tokens(9), sweep.Tokens(9)
        other.add_reader(ours, events.take)
        other.call_later(0, timers.take)
        pid = os.fork()
        if pid == 0:
            work_in_child(n, other, theirs, events, timers)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status == 0, (n, status)
        other.close()
        ours.close()
        theirs.close()
    print("survived")


def work_in_child(n, other, theirs, events, timers):
    status = 1
    try:
        theirs.send(b"x")
        _testcapi.set_nomemory(n, n + 1)
        try:
            turn_of(other)
        except Exception:
            pass  # MemoryError, or what CPython makes of it.
        finally:
            _testcapi.remove_mem_hooks()
        for _ in range(2):
            turn_of(other)
        if events.taken and timers.taken == 1:
            status = 0
        else:
            print(n, "events", events.taken, "timers", timers.taken, flush=True)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    sweep.strict = True
    with tempfile.TemporaryDirectory() as sweep.FOLDER:
        if sys.argv[1] == "fork":
            fork()
        else:
            sweep.main(globals()[sys.argv[1]])
