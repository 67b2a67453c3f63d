"""What do timers cost: set and cancelled, fired, due at once, and as a time limit?"""

import asyncio

from ..row import row
from .callbacks import nothing

BATCH = 1000
SLEEPERS = 1000
SLEEPS = 20


async def schedule_and_cancel(n):
    """Set `n` timers and cancel each at once; the loop has a turn after each BATCH."""
    loop = asyncio.get_running_loop()
    for _ in range(n // BATCH):
        for _ in range(BATCH):
            loop.call_later(30, nothing).cancel()
        await asyncio.sleep(0)


async def zero_delay_chain(n):
    """Run a timer that sets itself again with no delay, until it has run `n` times."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    left = n

    def step():
        nonlocal left
        left -= 1
        if left > 0:
            loop.call_later(0, step)
        else:
            done.set_result(None)

    loop.call_later(0, step)
    await done


async def time_limits(n):
    """Give way to the loop `n` times, each time within a time limit."""
    for _ in range(n):
        async with asyncio.timeout(30):
            await asyncio.sleep(0)


@row("call_later + cancel", batch=BATCH)
async def call_later_cancel(clock, n):
    """CPU time of a timer that is cancelled long before it is due."""
    with clock:
        await schedule_and_cancel(n)


@row("call_later, fired", batch=BATCH)
async def call_later_fired(clock, n):
    """CPU time of a timer that fires; 1000 of them come due together after 1 ms."""
    loop = asyncio.get_running_loop()
    with clock:
        for _ in range(n // BATCH):
            done = loop.create_future()
            for _ in range(BATCH - 1):
                loop.call_later(0.001, nothing)
            loop.call_later(0.001, done.set_result, None)
            await done


@row("call_later(0) chain")
async def call_later_zero_chain(clock, n):
    """CPU time of a timer without delay that sets itself again."""
    with clock:
        await zero_delay_chain(n)


@row("timeout()")
async def timeout(clock, n):
    """CPU time of `async with timeout(30)` around one `sleep(0)`."""
    with clock:
        await time_limits(n)


@row("sleep(0.0001) in 1000 tasks", batch=SLEEPS * SLEEPERS)
async def short_sleeps(clock, n):
    """CPU time of a sleep of 100 us while 1000 tasks sleep; waiting is not counted."""

    async def sleeper():
        for _ in range(SLEEPS):
            await asyncio.sleep(0.0001)

    with clock:
        for _ in range(n // (SLEEPS * SLEEPERS)):
            tasks = [asyncio.create_task(sleeper()) for _ in range(SLEEPERS)]
            for task in tasks:
                await task
