"""What does it cost to hand something from one task to another?"""

import asyncio

from ..row import row

PAIRS = 500
ROUNDS = 20
QUEUE_SIZE = 10


class Table:
    """Two players and the futures that they wait for."""

    def __init__(self):
        loop = asyncio.get_running_loop()
        self.create_future = loop.create_future
        self.ping = self.create_future()
        self.pong = None

    async def first(self, rounds):
        for _ in range(rounds):
            self.pong = self.create_future()
            self.ping.set_result(None)
            await self.pong

    async def second(self, rounds):
        for _ in range(rounds):
            await self.ping
            self.ping = self.create_future()
            self.pong.set_result(None)


async def ping_pong(rounds, pairs=1):
    """Let `pairs` pairs of tasks wake each other, `rounds` times each."""
    tasks = []
    for _ in range(pairs):
        table = Table()
        tasks.append(asyncio.create_task(table.second(rounds)))
        tasks.append(asyncio.create_task(table.first(rounds)))
    for task in tasks:
        await task


async def queue_transfer(n):
    """Pass `n` items through a bounded queue from one task to another."""
    queue = asyncio.Queue(QUEUE_SIZE)

    async def produce():
        for item in range(n):
            await queue.put(item)

    producer = asyncio.create_task(produce())
    for _ in range(n):
        await queue.get()
    await producer


@row("future ping-pong, one pair")
async def ping_pong_one(clock, n):
    """CPU time of a round trip between two tasks: two futures, two wake-ups."""
    with clock:
        await ping_pong(n)


@row("future ping-pong, 500 pairs", batch=ROUNDS * PAIRS)
async def ping_pong_many(clock, n):
    """CPU time of a round trip while 500 pairs play 20 rounds each."""
    with clock:
        for _ in range(n // (ROUNDS * PAIRS)):
            await ping_pong(ROUNDS, PAIRS)


@row("Queue, producer and consumer")
async def queue(clock, n):
    """CPU time per item of a queue of 10 places between two tasks."""
    with clock:
        await queue_transfer(n)
