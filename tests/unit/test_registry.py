"""asyncio.current_task, asyncio.all_tasks and the call graph, with our tasks."""

import asyncio
import gc
import io
import subprocess
import sys
import threading
import weakref

import pytest

import aioloop
from tests.conftest import HARD

VERSION = sys.version_info[:2]
since_3_12 = pytest.mark.skipif(VERSION < (3, 12), reason="eager tasks came in 3.12")
since_3_14 = pytest.mark.skipif(VERSION < (3, 14), reason="new in 3.14")

CLASSES = [aioloop.Task, asyncio.Task]
if VERSION < (3, 14):
    # From then on asyncio's Python tasks have a current task and a set of their own.
    CLASSES.append(asyncio.tasks._PyTask)


async def nothing():
    await asyncio.sleep(0)


def run_once(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


# --- current_task -------------------------------------------------------------


def test_current_task_of_tasks_and_callbacks(loop):
    """A task sees itself, and nothing else sees a task, in whatever order they run."""
    seen = []

    def callback(*args):
        seen.append(asyncio.current_task() is None)

    async def stepping():
        myself = asyncio.current_task()
        for _ in range(3):
            loop.call_soon(callback)
            seen.append(asyncio.current_task() is myself is asyncio.current_task(loop))
            await asyncio.sleep(0)
            seen.append(asyncio.current_task() is myself)
            future = loop.create_future()
            future.add_done_callback(callback)
            loop.call_later(0, future.set_result, None)
            await future
            seen.append(asyncio.current_task() is myself)

    async def main():
        await asyncio.gather(*(cls(stepping(), loop=loop) for cls in CLASSES * 2))

    loop.run_until_complete(main())
    assert len(seen) == 2 * len(CLASSES) * 3 * 5 and all(seen)
    assert asyncio.current_task(loop) is None


def test_current_task_is_none_once_the_loop_stops(loop):
    async def stopping():
        loop.stop()
        await asyncio.sleep(0)

    task = loop.create_task(stopping())
    loop.run_forever()
    assert asyncio.current_task(loop) is None
    loop.run_until_complete(task)


@pytest.mark.parametrize("leaving", [SystemExit, KeyboardInterrupt])
def test_current_task_is_none_after_an_exit(loop, leaving):
    async def raising():
        raise leaving

    task = loop.create_task(raising())
    with pytest.raises(leaving):
        loop.run_forever()
    assert asyncio.current_task(loop) is None
    assert isinstance(task.exception(), leaving)


def test_current_task_seen_from_another_thread(loop, run):
    async def main():
        seen = []

        def look():
            seen.append(asyncio.current_task(loop))

        # Joining does not return to the loop: the task's step is still running.
        thread = threading.Thread(target=look)
        thread.start()
        thread.join(10)
        assert seen == [asyncio.current_task()]

    run(main())


def test_current_task_in_exception_handlers_and_finalizers(loop):
    seen = []
    loop.set_exception_handler(
        lambda loop, context: seen.append(asyncio.current_task())
    )

    def failing(*args):
        raise ValueError

    async def main():
        loop.call_soon(failing)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    loop.run_until_complete(main())
    assert seen == [None]


@pytest.mark.parametrize("cls", CLASSES)
def test_a_step_inside_a_step_is_refused(loop, run, cls):
    """asyncio's message, whichever class the outer task has."""
    errors = []

    class Loop(type(loop)):
        def call_soon(self, callback, *args, **kwargs):
            if hasattr(callback, "__self__") and callback.__self__ is not outer:
                try:
                    callback(*args)
                except RuntimeError as exc:
                    errors.append(str(exc))
            return super().call_soon(callback, *args, **kwargs)

    other = Loop()
    outer = None

    async def main():
        inner = aioloop.Task(nothing(), loop=other)
        await inner

    outer = cls(main(), loop=other)
    other.run_until_complete(outer)
    other.close()
    assert any(
        text.startswith("Cannot enter into task <Task ")
        and " while another task <Task " in text
        for text in errors
    )


def test_two_loops_in_two_threads(thread):
    results = []

    def program():
        async def main():
            tasks = [asyncio.create_task(nothing()) for _ in range(50)]
            for _ in range(50):
                await asyncio.sleep(0)
            mine = asyncio.all_tasks()
            assert asyncio.current_task() in mine
            await asyncio.gather(*tasks)
            return len(mine)

        results.append(aioloop.run(main()))

    threads = [thread(program) for _ in range(4)]
    for one in threads:
        one.join(20)
    assert results == [1] * 4


@since_3_12
@pytest.mark.parametrize("outer", CLASSES)
@pytest.mark.parametrize("inner", CLASSES)
def test_eager_tasks_of_all_classes(loop, outer, inner):
    seen = []

    async def eager(depth):
        myself = asyncio.current_task()
        seen.append(myself in asyncio.all_tasks())
        if depth:
            child = inner(eager(depth - 1), loop=loop, eager_start=True)
            assert asyncio.current_task() is myself
            await asyncio.sleep(0)
            await child
        seen.append(asyncio.current_task() is myself)

    loop.run_until_complete(outer(eager(3), loop=loop))
    assert len(seen) == 8 and all(seen)
    assert asyncio.current_task(loop) is None


# --- all_tasks ----------------------------------------------------------------


def test_all_tasks(loop, run):
    async def main():
        myself = asyncio.current_task()
        others = asyncio.all_tasks() - {myself}
        tasks = {cls(nothing(), loop=loop) for cls in CLASSES * 3}
        assert asyncio.all_tasks() == {myself} | others | tasks
        assert asyncio.all_tasks(loop) == asyncio.all_tasks()
        await asyncio.wait(tasks)
        assert asyncio.all_tasks() == {myself} | others
        assert all(task.done() for task in tasks)

    run(main())
    assert asyncio.all_tasks(loop) == set()


def test_all_tasks_of_another_loop(loop, run):
    other = aioloop.new_event_loop()

    async def main():
        coroutine = nothing()
        task = aioloop.Task(coroutine, loop=other)
        assert asyncio.all_tasks(other) == {task}
        assert task not in asyncio.all_tasks()

    run(main())
    (task,) = asyncio.all_tasks(other)
    other.run_until_complete(task)
    assert asyncio.all_tasks(other) == set()
    other.close()


def test_all_tasks_holds_nothing_alive(loop):
    task = loop.create_task(nothing())
    reference = weakref.ref(task)
    run_once(loop)
    run_once(loop)
    assert task.done()
    del task
    gc.collect()
    assert reference() is None


def test_a_task_that_dies_pending_leaves_the_list(loop):
    loop.set_exception_handler(lambda loop, context: None)
    future = loop.create_future()

    async def waiting():
        await future

    for _ in range(3):
        loop.create_task(waiting())
    run_once(loop)
    assert len(asyncio.all_tasks(loop)) == 3
    if VERSION >= (3, 14):
        for task in asyncio.all_tasks(loop):
            asyncio.future_discard_from_awaited_by(future, task)
        del task
    for callback, _ in future._callbacks or ():
        future.remove_done_callback(callback)
    del callback
    gc.collect()
    assert asyncio.all_tasks(loop) == set()


def test_all_tasks_while_the_garbage_collector_unlinks(loop):
    """Listing allocates, which collects, which unlinks dying tasks of the list."""
    loop.set_exception_handler(lambda loop, context: None)
    threshold = gc.get_threshold()
    kept = []
    try:
        for _ in range(20):
            for number in range(30):
                task = loop.create_task(nothing())
                task._log_destroy_pending = False
                task.cycle = task
                if number % 10 == 0:
                    kept.append(task)
            del task
            gc.set_threshold(1)
            assert len(asyncio.all_tasks(loop)) >= 3
            gc.set_threshold(*threshold)
    finally:
        gc.set_threshold(*threshold)
    loop.run_until_complete(asyncio.wait(kept))
    gc.collect()
    assert asyncio.all_tasks(loop) == set()


def test_foreign_loop_is_listed():
    class Loop:
        def get_debug(self):
            return False

        def call_soon(self, *args, context=None):
            pass

    loop = Loop()
    coroutine = nothing()
    task = aioloop.Task(coroutine, loop=loop)
    assert asyncio.all_tasks(loop) == {task}
    task._log_destroy_pending = False
    coroutine.close()
    del task
    gc.collect()
    assert asyncio.all_tasks(loop) == set()


@pytest.mark.skipif(VERSION >= (3, 14), reason="asyncio has a WeakSet until 3.13")
def test_asyncios_set_of_tasks_stays_one(loop):
    name = "_all_tasks" if VERSION < (3, 12) else "_scheduled_tasks"
    tasks = getattr(asyncio.tasks, name)
    assert isinstance(tasks, weakref.WeakSet)
    before = len(tasks)
    task = loop.create_task(nothing())
    foreign = asyncio.Task(nothing(), loop=loop)
    assert len(tasks) == before + 2
    assert {task, foreign} <= set(tasks)
    loop.run_until_complete(asyncio.wait([task, foreign]))


# --- who awaits whom ----------------------------------------------------------


@since_3_14
def test_awaited_by(loop, run):
    async def main():
        future = loop.create_future()

        async def waiting():
            await future

        first = asyncio.create_task(waiting())
        assert future._asyncio_awaited_by is None
        await asyncio.sleep(0)
        assert future._asyncio_awaited_by == {first}
        second = asyncio.Task(waiting(), loop=loop)
        third = asyncio.create_task(waiting())
        await asyncio.sleep(0)
        assert future._asyncio_awaited_by == {first, second, third}
        second.cancel()
        await asyncio.wait([second])
        first.cancel()
        await asyncio.wait([first])
        assert not future._asyncio_awaited_by
        assert third.cancelled() or third.cancelling() == 0
        await asyncio.wait([third])

    run(main())


@since_3_14
@pytest.mark.parametrize("future_class", [aioloop.Future, asyncio.Future])
@pytest.mark.parametrize("task_class", [aioloop.Task, asyncio.Task])
def test_awaited_by_is_discarded_after_waking(loop, run, future_class, task_class):
    async def main():
        future = future_class(loop=loop)

        async def waiting():
            await future

        tasks = [task_class(waiting(), loop=loop) for _ in range(3)]
        await asyncio.sleep(0)
        assert future._asyncio_awaited_by == set(tasks)
        future.set_result(None)
        await asyncio.wait(tasks)
        assert not future._asyncio_awaited_by

    run(main())


@since_3_14
def test_print_call_graph(loop, run):
    output = io.StringIO()

    async def inner():
        asyncio.print_call_graph(file=output)

    async def outer():
        await asyncio.create_task(inner(), name="inner task")

    async def main():
        await asyncio.create_task(outer(), name="outer task")

    run(main())
    text = output.getvalue()
    assert "inner task" in text and "outer task" in text
    assert text.index("inner task") < text.index("outer task")
    assert "inner()\n" in text and "outer()\n" in text


PROGRAM = """
import asyncio, sys

async def leaf():
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

async def middle():
    async with asyncio.TaskGroup() as group:
        group.create_task(leaf(), name="the leaf")

async def main():
    asyncio.current_task().set_name("the root")
    await asyncio.create_task(middle(), name="the middle")

asyncio.run(main())
"""


def tracing_is_allowed(process):
    """Whether this system lets a process read another one's memory."""
    try:
        with open(f"/proc/{process.pid}/mem", "rb"):
            return True
    except OSError:
        return False


@since_3_14
@pytest.mark.skipif(sys.platform != "linux", reason="needs rights elsewhere")
@pytest.mark.parametrize("command", ["ps", "pstree"])
def test_asyncio_ps(python, tmp_path, child_env, command):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    with subprocess.Popen(
        [sys.executable, "-m", "aioloop", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=child_env(),
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            if not tracing_is_allowed(process):
                pytest.skip("reading another process's memory is not permitted")
            result = python("-m", "asyncio", command, process.pid)
        finally:
            process.stdin.close()
            process.wait(20)
    assert result.returncode == 0, result.stderr
    for name in ("the root", "the middle", "the leaf"):
        assert name in result.stdout


def test_second_import_of_the_module(python):
    """Two instances of the extension module in one interpreter agree on all tasks."""
    program = """
import asyncio, importlib, sys
import aioloop
first = aioloop
for name in [n for n in sys.modules if n.startswith("aioloop")]:
    del sys.modules[name]
second = importlib.import_module("aioloop")
assert first.Task is not second.Task

async def nothing():
    await asyncio.sleep(0)

async def main():
    loop = asyncio.get_running_loop()
    tasks = {module.Task(nothing(), loop=loop) for module in (first, second)}
    assert asyncio.all_tasks() == tasks | {asyncio.current_task()}
    await asyncio.wait(tasks)

for module in (first, second):
    asyncio.run(main()) if module is None else module.run(main())
print("good")
"""
    result = python("-W", "error", "-c", program)
    assert result.stdout == "good\n", result.stderr


@since_3_14
def test_asyncios_functions_are_needed_only_in_the_hard_build(python):
    """The offsets into asyncio's structs are verified on the Pythons that CI knows."""
    program = """
import _asyncio, asyncio
calls = []

def counting(function):
    def count(*args):
        calls.append(args)
        return function(*args)
    return count

for name in ("_enter_task", "_leave_task", "_register_task"):
    setattr(_asyncio, name, counting(getattr(_asyncio, name)))
import aioloop
calls.clear()

async def main():
    await asyncio.create_task(asyncio.sleep(0))

aioloop.run(main())
print(len(calls))
"""
    result = python("-c", program)
    assert (int(result.stdout) > 0) == HARD, result.stderr
