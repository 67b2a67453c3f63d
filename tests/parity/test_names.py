"""Default names of tasks: asyncio's tasks and aioloop's count together."""

import asyncio
import subprocess
import sys

import aioloop


def numbers(tasks):
    return [int(task.get_name().removeprefix("Task-")) for task in tasks]


async def make_all_kinds():
    loop = asyncio.get_running_loop()
    tasks = [
        asyncio.Task(asyncio.sleep(0), loop=loop),
        loop.create_task(asyncio.sleep(0)),
        asyncio.Task(asyncio.sleep(0), loop=loop),
        asyncio.Task(asyncio.sleep(0), loop=loop, name="of its own"),
        aioloop.Task(asyncio.sleep(0), loop=loop),
        asyncio.create_task(asyncio.sleep(0)),
        asyncio.ensure_future(asyncio.sleep(0)),
        asyncio.Task(asyncio.sleep(0), loop=loop),
    ]
    del tasks[3]
    await asyncio.gather(*tasks)
    return tasks


def test_one_count(loop):
    tasks = loop.run_until_complete(make_all_kinds())
    first = numbers(tasks[:1])[0]
    assert numbers(tasks) == list(range(first, first + len(tasks)))


def test_one_count_for_asyncios_loops():
    for _ in range(2):
        for factory in (asyncio.SelectorEventLoop, aioloop.new_event_loop):
            with asyncio.Runner(loop_factory=factory) as runner:
                tasks = runner.run(make_all_kinds())
            first = numbers(tasks[:1])[0]
            assert numbers(tasks) == list(range(first, first + len(tasks)))


def test_names_that_are_asked_for_late(loop):
    async def main():
        first = asyncio.current_task()
        second = asyncio.Task(asyncio.sleep(0), loop=loop)
        third = loop.create_task(asyncio.sleep(0))
        await asyncio.gather(second, third)
        third, second, first = numbers([third, second, first])
        assert (second, third) == (first + 1, first + 2)

    loop.run_until_complete(main())


PROGRAM = """
import asyncio, aioloop

async def main():
    print(asyncio.current_task().get_name())
    print(asyncio.Task(asyncio.sleep(0)).get_name())
    print(asyncio.create_task(asyncio.sleep(0)).get_name())

for run in (aioloop.run, asyncio.run):
    run(main())
"""


def test_the_first_task_is_the_first(child_env):
    """Finding asyncio's count leaves it as it was, and makes no task that is seen."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", PROGRAM],
        env=child_env(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    # When a Runner ends it makes two tasks.
    assert done.stdout.split() == [f"Task-{n}" for n in (1, 2, 3, 6, 7, 8)]
