"""What does one callback cost, from `call_soon` until it has returned?"""

import asyncio
import contextlib
import socket

from ..row import row

BURST = 10_000


def nothing(*args):
    """Do nothing: the cheapest callback that a program can write."""


async def chain(n):
    """Run a callback that schedules itself until it has run `n` times."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    left = n

    def step():
        nonlocal left
        left -= 1
        if left > 0:
            loop.call_soon(step)
        else:
            done.set_result(None)

    loop.call_soon(step)
    await done


async def bursts(n, *args):
    """Queue BURST callbacks at once, wait until all have run, and so on."""
    loop = asyncio.get_running_loop()
    for _ in range(n // BURST):
        done = loop.create_future()
        for _ in range(BURST - 1):
            loop.call_soon(nothing, *args)
        loop.call_soon(done.set_result, None)
        await done


@contextlib.contextmanager
def idle_descriptors(count):
    """Watch `count` descriptors that never become readable."""
    loop = asyncio.get_running_loop()
    sockets = []
    try:
        for _ in range(count // 2):
            sockets.extend(socket.socketpair())
        for sock in sockets:
            sock.setblocking(False)
            loop.add_reader(sock, nothing)
        yield
    finally:
        for sock in sockets:
            loop.remove_reader(sock)
            sock.close()


@row("call_soon chain")
async def call_soon_chain(clock, n):
    """CPU time of a callback that schedules itself: one callback per iteration."""
    with clock:
        await chain(n)


@row("call_soon, bursts of 10 000", batch=BURST)
async def call_soon_bursts(clock, n):
    """CPU time of a callback when very many are ready in one iteration."""
    with clock:
        await bursts(n)


@row("call_soon, 3 arguments", batch=BURST)
async def call_soon_arguments(clock, n):
    """CPU time of a callback with three arguments, in bursts of 10 000."""
    with clock:
        await bursts(n, 1, 2, 3)


@row("call_soon chain, 250 idle fds")
async def call_soon_chain_idle_descriptors(clock, n):
    """CPU time of the chain while 250 descriptors are watched and none is ready."""
    with idle_descriptors(250), clock:
        await chain(n)
