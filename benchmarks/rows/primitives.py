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


async def finish_soon(n, use):
    """Have a future that is done in the next iteration used n times."""
    loop = asyncio.get_running_loop()
    for _ in range(n):
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        await use(future)


@row("wait, first of two")
async def wait_first(clock, n):
    """CPU time of a wait() for one of two futures, and of one step."""
    never = asyncio.get_running_loop().create_future()

    def wait(future):
        return asyncio.wait([future, never], return_when=asyncio.FIRST_COMPLETED)

    with clock:
        await finish_soon(n, wait)


@row("wait, timeout")
async def wait_timeout(clock, n):
    """CPU time of a wait() for a future that is quicker than the timeout."""
    with clock:
        await finish_soon(n, lambda future: asyncio.wait([future], timeout=10))


@row("shield")
async def shield(clock, n):
    """CPU time of awaiting a future through shield()."""
    with clock:
        await finish_soon(n, asyncio.shield)


@row("Condition, nobody waits")
async def condition(clock, n):
    """CPU time of `async with` a condition that is free, and of its notify()."""
    free = asyncio.Condition()
    with clock:
        for _ in range(n):
            async with free:
                free.notify()
