"""asyncio.TaskGroup with the switch of aioloop.accelerate() on and off.

The same programs give the same traces, and whoever looks sees the same.
"""

import asyncio
import contextvars
import gc
import inspect
import random
import re
import sys
import weakref

import pytest

import aioloop
from tests.parity.accelerated import (
    awaited_by,
    both,
    give_way,
    needs_gil,
    plain,
    use_eager_tasks,
)

pytestmark = [needs_gil, pytest.mark.usefixtures("off_before_and_after")]
VARIABLE = contextvars.ContextVar("variable", default=0)
METHODS = ("create_task", "_on_task_done")


@pytest.fixture
def loop(either_loop):
    return either_loop


def outcome(function, *arguments, **names):
    try:
        return type(function(*arguments, **names)).__name__
    except Exception as exc:
        return type(exc), plain(str(exc))


# --- random programs ------------------------------------------------------------------


class Program:
    """Groups in groups, whose tasks end in all ways, with and without names."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.trace = []
        self.groups = []

    async def child(self, number, depth):
        for _ in range(self.random.randrange(3)):
            await give_way()
        end = self.random.randrange(9)
        if end == 0:
            raise ValueError(number)
        if end == 1:
            asyncio.current_task().cancel("itself")
            await give_way()
        if end == 2:
            raise asyncio.CancelledError(number)
        if end == 3 and depth < 3:
            self.begin(self.random.choice(self.groups), depth + 1)
        if end == 4 and depth < 2:
            await self.group(depth + 1)
        if end == 5:
            await asyncio.sleep(0)
        self.trace.append((number, VARIABLE.get()))

    def begin(self, group, depth):
        number = len(self.trace)
        names = {}
        if self.random.random() < 0.4:
            names["name"] = self.random.choice([None, f"n{number}"])
        if self.random.random() < 0.4:
            names["context"] = context = contextvars.copy_context()
            context.run(VARIABLE.set, number)
        if sys.version_info >= (3, 14) and self.random.random() < 0.2:
            names["eager_start"] = self.random.random() < 0.5
        coroutine = self.child(number, depth)
        try:
            task = group.create_task(coroutine, **names)
        except RuntimeError as exc:
            self.trace.append((plain(str(exc)), inspect.getcoroutinestate(coroutine)))
            coroutine.close()
            return
        self.trace.append(
            (
                plain(task.get_name()),
                task.done(),
                task.cancelling(),
                task in group._tasks,
                awaited_by(task),
                plain(repr(group)),
            )
        )

    async def group(self, depth=0):
        group = asyncio.TaskGroup()
        self.groups.append(group)
        try:
            async with group:
                for _ in range(self.random.randrange(5)):
                    self.begin(group, depth)
                    if self.random.random() < 0.3:
                        await give_way()
                end = self.random.randrange(10)
                if end == 0:
                    raise KeyError("body")
                if end == 1 and hasattr(group, "cancel"):
                    group.cancel()
        except* Exception as errors:
            self.trace.append(sorted(map(repr, errors.exceptions)))
        finally:
            task = asyncio.current_task()
            self.trace.append(
                (plain(repr(group)), task.cancelling(), len(group._tasks))
            )

    async def main(self):
        for _ in range(6):
            task = asyncio.create_task(self.group())
            for _ in range(self.random.randrange(8)):
                await give_way()
            if self.random.random() < 0.3:
                task.cancel("outside")
            try:
                await task
            except asyncio.CancelledError as exc:
                self.trace.append(exc.args)
        for _ in range(10):
            await give_way()
        return self.trace


@pytest.mark.parametrize("eager", [False, True], ids=["", "eager"])
def test_random_programs_do_the_same(loop, eager):
    use_eager_tasks(loop, eager)
    loop.set_exception_handler(lambda loop, context: None)

    def run(seed):
        return loop.run_until_complete(Program(seed).main())

    for seed in range(100):
        off, on = both(run, seed)
        assert on == off, f"seed {seed}"


# --- what is seen of it ---------------------------------------------------------------


async def child(number=1):
    await give_way()
    return number


def test_it_is_c_that_runs():
    """asyncio's code is one that is known, in each version that is tested."""
    seen = []

    def profile(frame, event, argument):
        if event == "call" and frame.f_code.co_qualname.startswith("TaskGroup."):
            seen.append(frame.f_code.co_name)

    async def main():
        async with asyncio.TaskGroup() as group:
            group.create_task(child(), name="named")
            group.create_task(child(), context=contextvars.copy_context())
            group.create_task(asyncio.sleep(100)).cancel()

    def run():
        seen.clear()
        sys.setprofile(profile)
        try:
            aioloop.run(main())
        finally:
            sys.setprofile(None)
        return [name for name in seen if name in METHODS]

    off, on = both(run)
    assert sorted(off) == sorted(METHODS * 3)
    assert on == []


def test_a_task_looks_the_same(loop):
    async def main():
        async with asyncio.TaskGroup() as group:
            task = group.create_task(child(), name="child")
            [(callback, context)] = task._callbacks or [
                (group._on_task_done, None)  # asyncio's own task shows none
            ]
            seen = [
                plain(repr(task)),
                plain(repr(callback)),
                type(callback),
                callback == group._on_task_done,
                callback.__self__ is group,
                callback.__name__,
                callback.__code__,
                inspect.signature(callback),
                hasattr(callback, "__wrapped__"),
                inspect.signature(type(group)._on_task_done),
                task.remove_done_callback(group._on_task_done),
            ]
            task.add_done_callback(callback)
        return seen

    off, on = both(lambda: loop.run_until_complete(main()))
    assert on == off


def test_debug_mode_keeps_stacks(loop):
    async def main():
        async with asyncio.TaskGroup() as group:
            stack = group.create_task(child())._source_traceback
        return [frame.name for frame in stack][-3:]

    loop.set_debug(True)
    off, on = both(lambda: loop.run_until_complete(main()))
    assert "create_task" in off
    assert on == off


@pytest.mark.skipif(sys.version_info < (3, 14), reason="call graphs came in 3.14")
def test_call_graphs(loop):
    async def main():
        async with asyncio.TaskGroup() as group:
            task = group.create_task(child(), name="child")
            await give_way()
            text = asyncio.format_call_graph(task)
        return plain(text), awaited_by(task)

    off, on = both(lambda: loop.run_until_complete(main()))
    assert on == off


# --- arguments ------------------------------------------------------------------------


def test_arguments(loop):
    async def main():
        made = [child() for _ in range(10)]
        async with asyncio.TaskGroup() as group:
            trace = [
                outcome(group.create_task),
                outcome(group.create_task, 3),
                outcome(group.create_task, made[0], "positional"),
                outcome(group.create_task, coro=made[1]),
                outcome(group.create_task, made[2], name=3, context=None),
                outcome(group.create_task, made[3], nme="wrong"),
                outcome(group.create_task, made[4], coro=made[4]),
                outcome(group.create_task, made[5], self=made[5]),
                outcome(group.create_task, made[6], eager_start=None),
                outcome(group.create_task, made[7], name="", eager_start=True),
                outcome(group.create_task, made[8], **{"name": "n", "x" * 3: 1}),
                outcome(asyncio.TaskGroup.create_task, group, made[9]),
                outcome(asyncio.TaskGroup.create_task, 3, 4),
                outcome(asyncio.TaskGroup.create_task),
                outcome(group._on_task_done),
                outcome(group._on_task_done, 3),
                outcome(group._on_task_done, loop.create_future()),
            ]
            trace.append(sorted(plain(task.get_name()) for task in group._tasks))
        trace += [inspect.getcoroutinestate(coroutine) for coroutine in made]
        for coroutine in made:
            coroutine.close()
        return trace

    off, on = both(lambda: loop.run_until_complete(main()))
    assert on == off


def test_groups_that_take_no_task(loop):
    async def main():
        group = asyncio.TaskGroup()
        made = [child() for _ in range(3)]
        trace = [outcome(group.create_task, made[0])]
        with pytest.raises(ExceptionGroup):
            async with group:
                group.create_task(child())
                bad = group.create_task(asyncio.sleep(0, 1), name="bad")
                await bad
                raise ValueError
        trace.append(outcome(group.create_task, made[1]))
        group = asyncio.TaskGroup()
        with pytest.raises(asyncio.CancelledError):
            async with group:
                group._abort()
                trace.append(outcome(group.create_task, made[2]))
                raise asyncio.CancelledError
        trace += [inspect.getcoroutinestate(coroutine) for coroutine in made]
        for coroutine in made:
            coroutine.close()
        return trace

    off, on = both(lambda: loop.run_until_complete(main()))
    assert on == off


def test_what_the_loop_is_given(loop, monkeypatch):
    create_task = loop.create_task

    async def main(seen):
        def look(coroutine, **names):
            seen.append(sorted((key, type(names[key]).__name__) for key in names))
            return create_task(coroutine)

        async with asyncio.TaskGroup() as group:
            with monkeypatch.context() as patch:
                patch.setattr(loop, "create_task", look)
                group.create_task(child())
                group.create_task(child(), name="name")
                group.create_task(child(), name=None)
                group.create_task(child(), context=contextvars.copy_context())
                group.create_task(child(), context=None, name="name")
        loop.set_task_factory(
            lambda loop, coroutine, **names: (
                seen.append(sorted(names)),
                asyncio.Task(coroutine, loop=loop, **names),
            )[1]
        )
        async with asyncio.TaskGroup() as group:
            seen.append(group.create_task(child(), name="name").get_name())
            group.create_task(child(), context=contextvars.copy_context())
        loop.set_task_factory(None)
        return seen

    off, on = both(lambda: loop.run_until_complete(main([])))
    assert on == off


def test_a_factory_that_makes_no_tasks(loop):
    class Thing:
        """What has no more than a group asks for."""

        def __init__(self, coroutine):
            coroutine.close()
            self.names = []

        def set_name(self, name):
            self.names.append(name)

        def done(self):
            return False

        def add_done_callback(self, callback):
            self.callback = callback

        def cancelled(self):
            return True

    async def main():
        async with asyncio.TaskGroup() as group:
            loop.set_task_factory(lambda loop, coroutine, **names: Thing(coroutine))
            thing = group.create_task(child(), name="name")
            loop.set_task_factory(None)
            seen = [thing.names, thing in group._tasks]
            loop.call_soon(thing.callback, thing)
        return seen

    off, on = both(lambda: loop.run_until_complete(main()))
    assert on == off


# --- who has replaced what ------------------------------------------------------------


def test_subclasses_are_obeyed(loop):
    class Group(asyncio.TaskGroup):
        def __init__(self):
            super().__init__()
            self.trace = []

        def create_task(self, coroutine, **names):
            self.trace.append("create_task")
            return super().create_task(coroutine, **names)

        def _on_task_done(self, task):
            self.trace.append(("_on_task_done", task.result()))
            return super()._on_task_done(task)

    async def main():
        async with Group() as group:
            group.create_task(child(1))
            group.create_task(child(2))
        return group.trace

    off, on = both(lambda: loop.run_until_complete(main()))
    assert on == off
    assert len(off) == 4


@pytest.mark.parametrize("where", ["class", "instance"])
@pytest.mark.parametrize("late", [False, True], ids=["first", "late"])
def test_replaced_methods_are_obeyed(loop, where, late, monkeypatch):
    def replace(patch, group, name, trace):
        owner = asyncio.TaskGroup if where == "class" else group
        original = getattr(owner, name)

        def method(*arguments, **names):
            trace.append(name)
            return original(*arguments, **names)

        patch.setattr(owner, name, method)

    async def main():
        trace = []
        with monkeypatch.context() as patch:
            async with asyncio.TaskGroup() as group:
                if late:
                    group.create_task(child())
                for name in METHODS:
                    replace(patch, group, name, trace)
                group.create_task(child())
                group.create_task(child())
            async with asyncio.TaskGroup() as group:
                group.create_task(child())
        return trace

    off, on = both(lambda: loop.run_until_complete(main()))
    assert on == off
    assert len(off) == (6 if where == "class" else 4)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came in 3.12")
def test_an_eager_task_changes_the_group(loop, monkeypatch):
    async def meddle(group, how, trace, patch):
        if how == "abort":
            group._abort()
        elif how == "method":
            patch.setattr(
                asyncio.TaskGroup, "_on_task_done", lambda self, task: trace.append(how)
            )
        elif how == "instance":
            group._on_task_done = lambda task: trace.append(how)
        elif how == "leave":
            group._parent_task = None
        elif how == "error":
            raise ValueError(how)
        if how != "done":
            await give_way()

    async def main(how):
        trace = []
        loop.set_task_factory(asyncio.eager_task_factory)
        with monkeypatch.context() as patch:
            group = await asyncio.TaskGroup().__aenter__()
            try:
                task = group.create_task(meddle(group, how, trace, patch))
            except Exception as exc:
                trace.append(repr(exc))
            else:
                trace += [task.done(), task.cancelling(), task in group._tasks]
            loop.set_task_factory(None)
            for _ in range(5):
                await give_way()
            trace.append(len(group._tasks))
        if asyncio.current_task().cancelling():
            asyncio.current_task().uncancel()
        return trace

    def run(how):
        try:
            return loop.run_until_complete(main(how))
        except asyncio.CancelledError as exc:
            return repr(exc)

    for how in ("done", "abort", "method", "instance", "leave", "error"):
        off, on = both(run, how)
        assert on == off, how


@pytest.mark.parametrize("change", ["delete", "replace"])
@pytest.mark.parametrize(
    "name",
    ["_entered", "_aborting", "_exiting", "_loop", "_tasks"]
    + ["_parent_task", "_on_completed_fut"],
)
def test_odd_attributes(loop, name, change):
    """Each is taken away before a task begins, and before it ends."""

    class Odd:
        """False, a set that takes nothing, and a future that takes all."""

        def __bool__(self):
            return name == "_entered"

        def __len__(self):
            return 1

        def add(self, task):
            trace.append("add")

        def discard(self, task):
            trace.append("discard")

        def done(self):
            trace.append("done")
            return False

        def set_result(self, value):
            trace.append(("set_result", value))

        def create_task(self, coroutine, **names):
            trace.append("create_task")
            return loop.create_task(coroutine, **names)

    def meddle(group):
        if change == "delete":
            delattr(group, name)
        else:
            setattr(group, name, Odd())

    async def main():
        group = await asyncio.TaskGroup().__aenter__()
        task = group.create_task(child())
        meddle(group)
        other = child()
        trace.append(outcome(group.create_task, other))
        for _ in range(4):
            await give_way()
        trace.append(task.done())
        other.close()

    def run():
        trace.clear()
        loop.run_until_complete(main())
        return list(trace)

    trace = []
    loop.set_exception_handler(
        lambda loop, context: trace.append(plain(str(context.get("exception"))))
    )
    off, on = both(run)
    assert on == off


# --- which create_task() it is --------------------------------------------------------

OTHER_CODE = """
import asyncio, inspect, sys
before, after = sys.argv[1:]
module = asyncio.taskgroups
source = inspect.getsource(module)
assert source.count(before) == 1, source
code = compile(source.replace(before, after), "taskgroups.py", "exec")
exec(code, vars(module))
asyncio.TaskGroup = module.TaskGroup
import aioloop

async def meddle(group, end):
    if end == "abort":
        group._abort()
    if end != "done":
        await asyncio.sleep(0)

async def main():
    seen = []
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12):
        loop.set_task_factory(asyncio.eager_task_factory)
    for end in ("done", "wait", "abort"):
        group = await asyncio.TaskGroup().__aenter__()
        sys.setprofile(lambda frame, event, argument: called.append(frame.f_code))
        task = group.create_task(meddle(group, end))
        sys.setprofile(None)
        seen.append((task.done(), task.cancelling(), task in group._tasks))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        seen.append((task.done(), task.cancelled(), task in group._tasks))
    return seen

traces = []
for on in (False, True):
    aioloop.accelerate(on)
    called = []
    traces.append(aioloop.run(main()))
assert traces[0] == traces[1], traces
code = inspect.unwrap(asyncio.TaskGroup.create_task).__code__
print("asyncio's" if code in called else "ours")
"""
CALLBACK = "        task.add_done_callback(self._on_task_done)\n"
LATE = CALLBACK + "        if self._aborting and not task.done(): task.cancel()\n"


@pytest.mark.parametrize("change", ["unknown", "unknown end", "always", "late"])
def test_other_code_of_asyncios(python, change):
    """What a bugfix release changes, and what nobody knows yet."""
    source = inspect.getsource(asyncio.taskgroups)
    at_once = re.search(
        r"        if task\.done\(\):\n.*\n        else:\n.*\n.*\n", source
    )
    adds = "        self._tasks.add(task)\n" + CALLBACK
    if change == "unknown":
        before = 'is shutting down"'
        after = before + " + str()"
    elif change == "unknown end":
        before = "        if task.cancelled():\n"
        after = "        str()\n" + before
    elif change == "always":
        if at_once is None:
            pytest.skip("asyncio's code is that already")
        before, after = at_once[0], adds
    elif sys.version_info < (3, 13) or "not task.done()" in source:
        pytest.skip("asyncio's code was never that, or is that already")
    else:
        before = at_once[0] if at_once else adds
        after = adds.replace(CALLBACK, LATE)
    result = python("-c", OTHER_CODE, before, after)
    expected = "asyncio's" if change.startswith("unknown") else "ours"
    assert result.stdout == expected + "\n", result.stderr


# --- objects, loops and ends ----------------------------------------------------------


@pytest.mark.parametrize("first", [False, True], ids=["newer", "older"])
def test_the_switch_is_turned_while_tasks_run(loop, first):
    async def main():
        aioloop.accelerate(first)
        async with asyncio.TaskGroup() as one:
            tasks = [one.create_task(child(n)) for n in range(3)]
            aioloop.accelerate(not first)
            tasks += [one.create_task(child(n)) for n in range(3)]
            await give_way()
            aioloop.accelerate(first)
            tasks.append(one.create_task(child(7)))
        return [task.result() for task in tasks], len(one._tasks)

    assert loop.run_until_complete(main()) == ([0, 1, 2, 0, 1, 2, 7], 0)


def test_the_first_error_cancels_the_others(loop):
    async def fail(exc):
        await give_way()
        raise exc

    async def main(exc):
        tasks = []
        try:
            async with asyncio.TaskGroup() as group:
                tasks.append(group.create_task(child(1)))
                tasks.append(group.create_task(fail(exc)))
                tasks.append(group.create_task(asyncio.sleep(1000)))
                tasks.append(group.create_task(fail(KeyError(1))))
                await asyncio.sleep(1000)
        except BaseException as error:
            return repr(error), [task.cancelled() for task in tasks]

    for exc in (ValueError(1), asyncio.CancelledError("own")):
        off, on = both(lambda exc=exc: loop.run_until_complete(main(exc)))
        assert on == off


def test_nothing_keeps_the_group_and_its_tasks(loop):
    async def main():
        async with asyncio.TaskGroup() as group:
            seen = [weakref.ref(group), weakref.ref(group.create_task(child()))]
        del group
        await give_way()
        return seen

    def run():
        gc.collect()
        gc.disable()
        try:
            return [seen() is None for seen in loop.run_until_complete(main())]
        finally:
            gc.enable()

    off, on = both(run)
    assert on == off
    assert on[1] is True
