"""What does work from and in other threads cost?

Where the kernel puts the other thread decides the time of a hand-over more than any
loop does: on the same CPU it takes a few microseconds, on a sleeping one tens of them.
So each hand-over has two rows, with the threads pinned to the same CPU and to two of
them; where the system cannot pin threads both rows run as the kernel likes it.
"""

import asyncio
import concurrent.futures
import contextlib
import os
import queue
import threading
import time

from ..row import WALL, row
from .callbacks import nothing

BURST = 1000


@contextlib.contextmanager
def two_places(apart):
    """Pin the calling thread to a CPU; give a function that pins another thread.

    The other one goes to the same CPU, or to a different one if `apart` is true and
    the machine has it.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield nothing
        return
    allowed = os.sched_getaffinity(0)
    here = min(allowed)
    there = max(allowed) if apart else here
    os.sched_setaffinity(0, {here})
    try:
        yield lambda: os.sched_setaffinity(0, {there})
    finally:
        os.sched_setaffinity(0, allowed)


async def wake_ups(clock, n, apart):
    """Let another thread answer `n` requests, one after the other."""
    loop = asyncio.get_running_loop()
    requests = queue.SimpleQueue()

    def answer(pin):
        pin()
        for future in iter(requests.get, None):
            loop.call_soon_threadsafe(future.set_result, None)

    with two_places(apart) as pin:
        thread = threading.Thread(target=answer, args=[pin])
        thread.start()
        try:
            with clock:
                for _ in range(n):
                    future = loop.create_future()
                    requests.put(future)
                    await future
        finally:
            requests.put(None)
            thread.join()


async def jobs(clock, n, apart):
    """Run `n` empty jobs in an executor, one after the other."""
    loop = asyncio.get_running_loop()
    with (
        two_places(apart) as pin,
        concurrent.futures.ThreadPoolExecutor(initializer=pin) as executor,
    ):
        await loop.run_in_executor(executor, nothing)
        with clock:
            for _ in range(n):
                await loop.run_in_executor(executor, nothing)


@contextlib.asynccontextmanager
async def busy_loop(work):
    """Keep the loop from resting: a task runs `work()` again and again."""
    stop = False

    async def repeat():
        while not stop:
            await work()

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        stop = True
        await task


@contextlib.asynccontextmanager
async def echo_round_trips():
    """Give a coroutine function that echoes a message over eight connections."""

    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(data)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    clients = [await asyncio.open_connection(*address) for _ in range(8)]

    async def echo():
        for _, writer in clients:
            writer.write(b"x" * 100)
        for reader, _ in clients:
            await reader.readexactly(100)

    yield echo
    for _, writer in clients:
        writer.close()
    server.close()


async def turns(clock, n):
    """Let another thread give the GIL up, and get it back, `n` times."""
    loop = asyncio.get_running_loop()

    def take_turns():
        for _ in range(n):
            time.sleep(0)

    with clock:
        await loop.run_in_executor(None, take_turns)


@row("call_soon_threadsafe, bursts", batch=BURST)
async def threadsafe_bursts(clock, n):
    """CPU time of `call_soon_threadsafe` in bursts of 1000 from the loop's thread."""
    loop = asyncio.get_running_loop()
    with clock:
        for _ in range(n // BURST):
            done = loop.create_future()
            for _ in range(BURST - 1):
                loop.call_soon_threadsafe(nothing)
            loop.call_soon_threadsafe(done.set_result, None)
            await done


@row("threadsafe wake-up, same CPU", clock=WALL)
async def wake_up_same(clock, n):
    """Wall time of a round trip to a thread that answers by `call_soon_threadsafe`.

    The loop sleeps in its selector each time; what it costs until it is awake is the
    question, so CPU time is not.
    """
    await wake_ups(clock, n, apart=False)


@row("threadsafe wake-up, other CPU", clock=WALL)
async def wake_up_other(clock, n):
    """Wall time of the same round trip to a thread on another CPU."""
    await wake_ups(clock, n, apart=True)


@row("run_in_executor, same CPU", clock=WALL)
async def run_in_executor_same(clock, n):
    """Wall time of an empty job in a thread pool on the loop's CPU, in turn."""
    await jobs(clock, n, apart=False)


@row("run_in_executor, other CPU", clock=WALL)
async def run_in_executor_other(clock, n):
    """Wall time of an empty job in a thread pool on another CPU, in turn."""
    await jobs(clock, n, apart=True)


@row("run_in_executor beside a busy task", clock=WALL)
async def jobs_beside_a_task(clock, n):
    """Wall time of an empty job in a thread pool while a task yields all the time."""
    async with busy_loop(lambda: asyncio.sleep(0)):
        await jobs(clock, n, apart=True)


@row("run_in_executor beside connections", clock=WALL)
async def jobs_beside_connections(clock, n):
    """Wall time of an empty job in a thread pool while eight connections echo."""
    async with echo_round_trips() as echo, busy_loop(echo):
        await jobs(clock, n, apart=True)


@row("a thread's turns beside a busy task", clock=WALL)
async def turns_beside_a_task(clock, n):
    """Wall time until another thread has the GIL again while a task yields."""
    async with busy_loop(lambda: asyncio.sleep(0)):
        await turns(clock, n)


@row("a thread's turns beside connections", clock=WALL)
async def turns_beside_connections(clock, n):
    """Wall time until another thread has the GIL again while connections echo."""
    async with echo_round_trips() as echo, busy_loop(echo):
        await turns(clock, n)
