"""How much of the scheduling speed is left in a server at work?

A real server always has a timer pending (a keep-alive, a `wait_for`), idle connections
open, and more than one task busy. The rows repeat the scheduling rows in that state:
first with nothing but one timer, then in a whole server whose work is done by two
tasks at once.
"""

import asyncio
import contextlib
import socket

from ..row import row
from .callbacks import chain, nothing
from .futures import ping_pong, queue_transfer
from .tasks import MANY, bare_yield, create_and_await, gather_many, sleep_zero
from .timers import BATCH, schedule_and_cancel, time_limits, zero_delay_chain

CONNECTIONS = 50
FAR = 600


@contextlib.contextmanager
def pending_timer():
    """Keep one timer pending that does not come due."""
    handle = asyncio.get_running_loop().call_later(FAR, nothing)
    try:
        yield
    finally:
        handle.cancel()


@contextlib.asynccontextmanager
async def server_at_work():
    """Keep a server with CONNECTIONS idle connections, each with its time limit."""
    loop = asyncio.get_running_loop()
    all_made = loop.create_future()
    all_lost = loop.create_future()
    made = lost = 0

    class Idle(asyncio.Protocol):
        def connection_made(self, transport):
            nonlocal made
            self.limit = loop.call_later(FAR, transport.abort)
            made += 1
            if made == CONNECTIONS:
                all_made.set_result(None)

        def connection_lost(self, exc):
            nonlocal lost
            self.limit.cancel()
            lost += 1
            if lost == CONNECTIONS:
                all_lost.set_result(None)

    server = await loop.create_server(Idle, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    with contextlib.ExitStack() as clients:
        for _ in range(CONNECTIONS):
            clients.enter_context(socket.create_connection(address))
        await all_made
        yield
    await all_lost
    server.close()


async def in_two_tasks(clock, workload, n):
    """Measure `n` operations of `workload`, split between two tasks of a server."""
    async with server_at_work():
        with clock:
            first = asyncio.create_task(workload(n // 2))
            second = asyncio.create_task(workload(n // 2))
            await first
            await second


@row("chain, a timer pending")
async def chain_with_timer(clock, n):
    """CPU time of the call_soon chain while one timer is pending."""
    with pending_timer(), clock:
        await chain(n)


@row("bare yield, a timer pending")
async def bare_yield_with_timer(clock, n):
    """CPU time of one task's bare yield while one timer is pending."""
    with pending_timer(), clock:
        await bare_yield(n)


@row("one task, a timer pending")
async def task_with_timer(clock, n):
    """CPU time of one task's `sleep(0)` while one timer is pending."""
    with pending_timer(), clock:
        await sleep_zero(n)


@row("create + await, a timer pending")
async def create_with_timer(clock, n):
    """CPU time of create and await in turn while one timer is pending."""
    with pending_timer(), clock:
        await create_and_await(n)


@row("busy server: two chains", batch=2)
async def busy_chain(clock, n):
    """CPU time of a callback of two call_soon chains in a server at work."""
    await in_two_tasks(clock, chain, n)


@row("busy server: sleep(0), two tasks", batch=2)
async def busy_sleep_zero(clock, n):
    """CPU time of a step of two tasks in a server at work."""
    await in_two_tasks(clock, sleep_zero, n)


@row("busy server: create + await", batch=2)
async def busy_create(clock, n):
    """CPU time of create and await in turn, in two tasks of a server at work."""
    await in_two_tasks(clock, create_and_await, n)


@row("busy server: gather of 1000", batch=2 * MANY)
async def busy_gather(clock, n):
    """CPU time per gathered coroutine, in two tasks of a server at work."""
    await in_two_tasks(clock, gather_many, n)


@row("busy server: future ping-pong", batch=2)
async def busy_ping_pong(clock, n):
    """CPU time of a round trip of two pairs of tasks in a server at work."""
    await in_two_tasks(clock, ping_pong, n)


@row("busy server: Queue", batch=2)
async def busy_queue(clock, n):
    """CPU time per item of two queues in a server at work."""
    await in_two_tasks(clock, queue_transfer, n)


@row("busy server: call_later + cancel", batch=2 * BATCH)
async def busy_schedule_and_cancel(clock, n):
    """CPU time of a timer that is cancelled at once, in a server at work."""
    await in_two_tasks(clock, schedule_and_cancel, n)


@row("busy server: call_later(0) chain", batch=2)
async def busy_zero_delay_chain(clock, n):
    """CPU time of a timer without delay, two chains in a server at work."""
    await in_two_tasks(clock, zero_delay_chain, n)


@row("busy server: timeout()", batch=2)
async def busy_time_limits(clock, n):
    """CPU time of `timeout(30)` around `sleep(0)`, in two tasks of a server at work."""
    await in_two_tasks(clock, time_limits, n)
