"""What do asyncio's primitives cost, most of which is Python code on every loop?

`--loops aioloop,aioloop+accelerate` shows what aioloop.accelerate() takes off.
"""

import asyncio

from ..row import row


async def lock_alone(n, lock):
    """Enter and leave a lock, or a semaphore, that nobody else wants."""
    for _ in range(n):
        async with lock:
            pass


async def lock_shared(n):
    """Two tasks take turns at a lock, and give way while they have it."""
    lock = asyncio.Lock()

    async def take():
        for _ in range(n // 2):
            async with lock:
                await asyncio.sleep(0)

    await asyncio.gather(take(), take())


async def queue_alone(n):
    """Put an item into a queue and get it: nobody waits."""
    queue = asyncio.Queue()
    for item in range(n):
        await queue.put(item)
        await queue.get()


@row("Lock, nobody waits")
async def lock(clock, n):
    """CPU time of `async with` a lock that is free."""
    with clock:
        await lock_alone(n, asyncio.Lock())


@row("Semaphore, nobody waits")
async def semaphore(clock, n):
    """CPU time of `async with` a semaphore that is free."""
    with clock:
        await lock_alone(n, asyncio.Semaphore(2))


@row("Lock, two tasks in turn", batch=2)
async def lock_in_turn(clock, n):
    """CPU time of an `async with` a lock that a task waits for, and of one step."""
    with clock:
        await lock_shared(n)


@row("Queue, nobody waits")
async def queue(clock, n):
    """CPU time of a put() and a get() that find what they need."""
    with clock:
        await queue_alone(n)
