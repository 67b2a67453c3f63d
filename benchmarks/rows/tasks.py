"""What do tasks cost: a step, and a whole life from `create_task` to the result?"""

import asyncio
import types

from ..row import row

MANY = 1000
STEPS = 100
GROUP = 100


async def nothing():
    """Finish in the first step: the cheapest coroutine that a program can write."""


@types.coroutine
def bare_yield(n):
    """Give way to the loop `n` times by a bare yield: the least Python code."""
    for _ in range(n):
        yield


async def sleep_zero(n):
    """Give way to the loop `n` times."""
    for _ in range(n):
        await asyncio.sleep(0)


async def create_and_await(n):
    """Create a task and await it, `n` times in turn."""
    for _ in range(n):
        await asyncio.create_task(nothing())


async def gather_many(n):
    """Gather MANY coroutines, again and again until `n` have run."""
    for _ in range(n // MANY):
        await asyncio.gather(*[nothing() for _ in range(MANY)])


@row("bare yield, one task")
async def bare_yield_alone(clock, n):
    """CPU time of one task's step while it is the only thing to do.

    asyncio.sleep(0) is a coroutine around such a yield, whose own 120 ns hide the loop.
    """
    with clock:
        await bare_yield(n)


@row("sleep(0), one task")
async def sleep_zero_alone(clock, n):
    """CPU time of one task's step while it is the only thing to do."""
    with clock:
        await sleep_zero(n)


@row("sleep(0), 1000 tasks", batch=STEPS * MANY)
async def sleep_zero_many(clock, n):
    """CPU time of a step, 100 to each task, while 1000 tasks are always ready."""
    with clock:
        for _ in range(n // (STEPS * MANY)):
            tasks = [asyncio.create_task(sleep_zero(STEPS)) for _ in range(MANY)]
            for task in tasks:
                await task


@row("create_task + await in turn")
async def create_task_in_turn(clock, n):
    """CPU time of a task that is created and awaited, one after the other."""
    with clock:
        await create_and_await(n)


@row("fan-out: create 1000, then await", batch=MANY)
async def fan_out(clock, n):
    """CPU time per task when 1000 are created before the first is awaited."""
    with clock:
        for _ in range(n // MANY):
            tasks = [asyncio.create_task(nothing()) for _ in range(MANY)]
            for task in tasks:
                await task


@row("gather of 1000, per item", batch=MANY)
async def gather(clock, n):
    """CPU time per coroutine given to `gather`."""
    with clock:
        await gather_many(n)


@row("TaskGroup of 100, per task", batch=GROUP)
async def task_group(clock, n):
    """CPU time per task of a TaskGroup."""
    with clock:
        for _ in range(n // GROUP):
            async with asyncio.TaskGroup() as group:
                for _ in range(GROUP):
                    group.create_task(nothing())
