"""What the kernel has is seen by the next iteration, as on asyncio (src/core/look)."""

import asyncio
import os
import socket

import pytest

import aioloop
from tests.conftest import HARD

ROUNDS = 40
LIMIT = 30


class Receiver(asyncio.Protocol):
    def __init__(self):
        self.data = b""

    def data_received(self, data):
        self.data += data


async def waiting_task(kind):
    """Return a task that waits for data which is in the kernel by now."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    if kind == "sock_recv":
        task = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(ours, 10))
        close = ours.close
    else:
        reader, writer = await asyncio.open_connection(sock=ours)
        task = asyncio.ensure_future(reader.read(10))
        close = writer.close
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # it waits
    theirs.send(b"x")
    return task, lambda: (close(), theirs.close())


async def wait_with_no_time(kind):
    """`asyncio.wait(..., timeout=0)`: has it come?"""
    task, close = await waiting_task(kind)
    done, _ = await asyncio.wait({task}, timeout=0)
    await task
    close()
    return bool(done)


async def three_sleeps(kind):
    task, close = await waiting_task(kind)
    for _ in range(3):
        await asyncio.sleep(0)
    seen = task.done()
    await task
    close()
    return seen


async def new_reader(check):
    """psycopg's wait_async(interval=0)."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.send(b"x")
    seen, future = [], loop.create_future()

    def give_up():
        if not future.done():
            future.set_result(None)

    loop.add_reader(ours, lambda: (seen.append(1), give_up()))
    if check == "call_soon":
        handle = loop.call_soon(give_up)
    else:
        handle = loop.call_later(0, give_up)
    await future
    handle.cancel()
    loop.remove_reader(ours)
    ours.close()
    theirs.close()
    return bool(seen)


async def closed_soon(kind):
    """Data that waits when a transport is made, which is closed soon after."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    theirs.send(b"data")
    lost = loop.create_future()

    class Closing(Receiver):
        def connection_lost(self, exc):
            lost.set_result(exc)

    if kind == "pipe":
        file = os.fdopen(ours.detach(), "rb", buffering=0)
        transport, protocol = await loop.connect_read_pipe(Closing, file)
    else:
        transport, protocol = await loop.create_connection(Closing, sock=ours)
    loop.call_soon(transport.close)
    await lost
    theirs.close()
    return protocol.data == b"data"


async def two_turns(_kind):
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    one, _ = await loop.create_connection(Receiver, sock=left)
    other, receiver = await loop.create_connection(Receiver, sock=right)
    one.write(b"x")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    seen = receiver.data == b"x"
    one.close()
    other.close()
    return seen


async def beside_a_busy_task(kind):
    """The same, where a task has kept the loop busy in vain for long."""
    stop = False

    async def spin():
        while not stop:
            await asyncio.sleep(0)

    task = asyncio.create_task(spin())
    for _ in range(200):
        await asyncio.sleep(0)
    try:
        return await wait_with_no_time(kind)
    finally:
        stop = True
        await task


async def a_timer_in_the_past(kind):
    """A timer that came due while the program blocked: the event comes first."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    order = []
    loop.add_reader(ours, lambda: (order.append("event"), loop.remove_reader(ours)))
    loop.call_later(0 if kind == "now" else 1e-4, order.append, "timer")
    theirs.send(b"x")
    end = loop.time() + 2e-4
    while loop.time() < end:
        pass
    while len(order) < 2:
        await asyncio.sleep(0)
    ours.close()
    theirs.close()
    return order == ["event", "timer"]


@pytest.mark.skipif(HARD, reason="a false EAGAIN is one iteration late")
@pytest.mark.parametrize(
    "new_loop", [asyncio.SelectorEventLoop, aioloop.new_event_loop]
)
@pytest.mark.parametrize(
    ("idiom", "kind"),
    [
        (wait_with_no_time, "sock_recv"),
        (wait_with_no_time, "stream"),
        (three_sleeps, "sock_recv"),
        (three_sleeps, "stream"),
        (new_reader, "call_soon"),
        (new_reader, "call_later(0)"),
        (closed_soon, "pipe"),
        (closed_soon, "socket"),
        (two_turns, "socket"),
        (beside_a_busy_task, "sock_recv"),
        (beside_a_busy_task, "stream"),
        (a_timer_in_the_past, "now"),
        (a_timer_in_the_past, "soon"),
    ],
)
def test_the_next_iteration_sees_it(new_loop, idiom, kind):
    async def main():
        return sum([await idiom(kind) for _ in range(ROUNDS)])

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(asyncio.wait_for(main(), LIMIT)) == ROUNDS


# --- what the loop itself ends ----------------------------------------


class End(asyncio.Protocol):
    def __init__(self, seen):
        self.seen = seen

    def eof_received(self):
        self.seen.append("eof")

    def connection_lost(self, exc):
        self.seen.append("lost")


async def end_of_a_stream(loop, how):
    ours, theirs = socket.socketpair()
    seen = []
    await loop.create_connection(lambda: End(seen), sock=theirs)
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    transport.pause_reading()
    return seen, getattr(transport, how), transport.abort


async def end_of_a_pipe(loop, how):
    read, write = os.pipe()
    read, write = os.fdopen(read, "rb", 0), os.fdopen(write, "wb", 0)
    seen = []
    reading, _ = await loop.connect_read_pipe(lambda: End(seen), read)
    writing, _ = await loop.connect_write_pipe(lambda: End(seen), write)
    if how == "the reader's":
        reading.pause_reading()
    close = reading.close if how == "the reader's" else writing.close
    return seen, close, lambda: (reading.close(), writing.close())


async def end_of_datagrams(loop, _how):
    """A Unix socket resets its peer if it has datagrams that nobody has read."""
    ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
    seen = []

    def reset():
        seen.append(theirs.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        loop.remove_reader(theirs)

    class Paused(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            loop.call_soon(lambda: loop.remove_reader(transport._sock_fd))

    transport, _ = await loop.create_datagram_endpoint(Paused, sock=ours)
    loop.add_reader(theirs, reset)
    await asyncio.sleep(0)
    theirs.send(b"unread")
    return seen, transport.abort, theirs.close


async def end_of_a_reader(loop, _how):
    ours, theirs = socket.socketpair()
    seen = []
    await loop.create_connection(lambda: End(seen), sock=theirs)
    loop.add_reader(ours, seen.append, "never")

    def close():
        loop.remove_reader(ours)
        ours.close()

    return seen, close, int


def turns_until_seen(loop, what, how):
    """Return how many turns of a busy loop after an end its other end is told."""
    seen, act, clean = loop.run_until_complete(what(loop, how))
    turns = 0

    def turn():
        nonlocal turns
        turns += 1
        # By now so many looks were in vain that the next one is 50 us away.
        if turns == 60:
            act()
        if seen or turns == 100:
            loop.stop()
        else:
            loop.call_soon(turn)

    loop.call_soon(turn)
    loop.run_forever()
    clean()
    loop.run_until_complete(asyncio.sleep(0))
    return turns - 60, seen


@pytest.mark.skipif(HARD, reason="a false EAGAIN is one iteration late")
@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(
    ("what", "how"),
    [
        (end_of_a_stream, "close"),
        (end_of_a_stream, "abort"),
        (end_of_a_stream, "write_eof"),
        (end_of_a_pipe, "the reader's"),
        (end_of_a_pipe, "the writer's"),
        (end_of_datagrams, ""),
        (end_of_a_reader, ""),
    ],
)
def test_an_end_is_seen_at_the_other_end_as_soon_as_on_asyncio(what, how, debug):
    """Where both ends are the loop's own, and it is never idle."""
    found = []
    for new_loop in (asyncio.SelectorEventLoop, aioloop.new_event_loop):
        loop = new_loop()
        loop.set_debug(debug)
        found.append(turns_until_seen(loop, what, how))
        loop.close()
    assert found[0] == found[1]
