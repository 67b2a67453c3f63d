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
