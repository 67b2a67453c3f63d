"""Descriptor numbers that are closed and reused all the time are never confused.

Threads open and close descriptors while the loop makes sock_* operations, readers,
datagram endpoints and pipes, so that every number changes hands again and again:
between the loop's own objects, and between the loop and the threads.
"""

import asyncio
import os
import random
import socket
import threading

import pytest

ROUNDS = 150
SIZE = 300_000
THREADS = 3


class Churn:
    """Threads that open pairs, check that they are theirs alone, and close them."""

    def __init__(self):
        self.stop = threading.Event()
        self.errors = []
        self.rounds = 0
        self.threads = [
            threading.Thread(target=self.work, args=(seed,)) for seed in range(THREADS)
        ]

    def work(self, seed):
        choose = random.Random(seed)
        try:
            while not self.stop.is_set():
                self.rounds += 1
                mark = os.urandom(8)
                if choose.random() < 0.5:
                    ours, theirs = socket.socketpair()
                    with ours, theirs:
                        ours.sendall(mark)
                        theirs.settimeout(10)
                        assert theirs.recv(100) == mark
                        theirs.setblocking(False)
                        with pytest.raises(BlockingIOError):
                            theirs.recv(1)
                else:
                    read_end, write_end = os.pipe()
                    os.write(write_end, mark)
                    assert os.read(read_end, 100) == mark
                    os.close(write_end)
                    assert os.read(read_end, 100) == b""
                    os.close(read_end)
        except BaseException as exc:
            self.errors.append(exc)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exc_info):
        self.stop.set()
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()
        assert self.errors == []
        assert self.rounds > 0


async def read_exactly(loop, sock, size, task=None):
    data = b""
    while len(data) < size:
        task = task or loop.create_task(loop.sock_recv(sock, size))
        data += await asyncio.wait_for(task, 10)
        task = None
    return data


async def ping_pong(loop, turn):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        task = loop.create_task(loop.sock_recv(ours, 100))
        await asyncio.sleep(0)
        mark = b"%d" % turn
        await loop.sock_sendall(theirs, mark)
        assert await read_exactly(loop, ours, len(mark), task) == mark
        if turn % 3 == 0:
            # The watcher stays registered when the socket is closed.
            abandoned = loop.create_task(loop.sock_recv(ours, 100))
            await asyncio.sleep(0)
            if turn % 2:
                theirs.close()
                assert await asyncio.wait_for(abandoned, 10) == b""
            else:
                ours.close()
                abandoned.cancel()
                await asyncio.wait([abandoned])


async def full_buffer(loop, turn):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        data = bytes([turn % 256]) * SIZE
        task = loop.create_task(loop.sock_sendall(ours, data))
        assert await read_exactly(loop, theirs, len(data)) == data
        await task


async def readers(loop, turn):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        seen = loop.create_future()
        mark = b"%d" % turn

        def readable():
            if not seen.done():
                seen.set_result(ours.recv(100))

        loop.add_reader(ours, readable)
        theirs.send(mark)
        assert await asyncio.wait_for(seen, 10) == mark
        assert loop.remove_reader(ours)


async def connect(loop, turn):
    with socket.socket() as listener, socket.socket() as client:
        listener.setblocking(False)
        client.setblocking(False)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        task = loop.create_task(loop.sock_accept(listener))
        await loop.sock_connect(client, listener.getsockname())
        accepted, _ = await asyncio.wait_for(task, 10)
        with accepted:
            mark = b"%d" % turn
            await loop.sock_sendall(client, mark)
            assert await read_exactly(loop, accepted, len(mark)) == mark


async def pipes(loop, turn):
    lost = loop.create_future()

    class Reader(asyncio.Protocol):
        data = b""

        def data_received(self, data):
            self.data += data

        def connection_lost(self, exc):
            lost.set_result(exc)

    read_end, write_end = os.pipe()
    _, reader = await loop.connect_read_pipe(Reader, os.fdopen(read_end, "rb", 0))
    writer, _ = await loop.connect_write_pipe(
        asyncio.BaseProtocol, os.fdopen(write_end, "wb", 0)
    )
    writer.write(b"%d" % turn)
    writer.close()
    assert await asyncio.wait_for(lost, 10) is None
    assert reader.data == b"%d" % turn


async def datagrams(loop, turn):
    received = loop.create_future()

    class Receiver(asyncio.DatagramProtocol):
        def datagram_received(self, data, addr):
            if not received.done():
                received.set_result(data)

    one, _ = await loop.create_datagram_endpoint(Receiver, local_addr=("127.0.0.1", 0))
    two, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=one.get_extra_info("sockname")
    )
    two.sendto(b"%d" % turn)
    assert await asyncio.wait_for(received, 10) == b"%d" % turn
    one.close()
    two.close()


ACTORS = [ping_pong, full_buffer, readers, connect, pipes, datagrams]


def test_loop_and_threads_share_the_numbers(loop):
    async def actor(function):
        for turn in range(ROUNDS):
            await function(loop, turn)

    async def main():
        await asyncio.gather(*(actor(function) for function in ACTORS))
        await asyncio.sleep(0)

    with Churn():
        loop.run_until_complete(asyncio.wait_for(main(), 50))


@pytest.mark.parametrize("function", ACTORS)
def test_one_actor_reuses_its_own_numbers(loop, function):
    async def main():
        for turn in range(30):
            await function(loop, turn)
        await asyncio.sleep(0)

    loop.run_until_complete(asyncio.wait_for(main(), 50))


@pytest.mark.parametrize("event", ["reader", "writer"])
def test_descriptor_closed_under_its_watcher(loop, event):
    """Before the selector has heard of it, and after."""

    async def main():
        for poll_first in (False, True):
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            number = ours.fileno()
            called = []
            add = getattr(loop, f"add_{event}")
            add(number, called.append, 1)
            if poll_first:
                await asyncio.sleep(0.001)
            ours.close()
            theirs.close()
            await asyncio.sleep(0)  # What was queued before still runs.
            called.clear()
            await asyncio.sleep(0.001)
            assert called == []
            assert getattr(loop, f"remove_{event}")(number)
            await asyncio.sleep(0.001)

    loop.run_until_complete(asyncio.wait_for(main(), 10))


@pytest.mark.parametrize("event", ["reader", "writer"])
def test_number_taken_by_a_strangers_file_before_the_selector_has_heard(loop, event):
    """Nobody watches the stranger's file, as with asyncio.

    The system's libev ends the process when that is closed at the wrong moment.
    """

    async def main():
        other, peer = socket.socketpair()
        ours, theirs = socket.socketpair()
        number = ours.fileno()
        called = []
        getattr(loop, f"add_{event}")(number, called.append, 1)
        ours.close()
        with theirs, other, peer:
            os.dup2(other.fileno(), number)
            peer.send(b"a")
            await asyncio.sleep(0.001)
            assert called == []
            assert getattr(loop, f"remove_{event}")(number)
            # And it can be watched by who has it.
            got = loop.create_future()
            getattr(loop, f"add_{event}")(number, got.cancel)
            await asyncio.wait([got], timeout=10)
            assert got.cancelled()
            assert getattr(loop, f"remove_{event}")(number)
            os.close(number)

    loop.run_until_complete(asyncio.wait_for(main(), 10))


def test_number_closed_by_somebody_else_while_an_operation_waits(loop):
    async def main():
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        task = loop.create_task(loop.sock_recv(ours, 10))
        await asyncio.sleep(0.001)
        os.close(ours.detach())
        other, peer = socket.socketpair()
        with other, peer:
            other.setblocking(False)
            peer.send(b"a")
            assert await asyncio.wait_for(loop.sock_recv(other, 10), 10) == b"a"
            peer.send(b"b")
            await asyncio.sleep(0.001)
            # The old operation has got nothing of it.
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.wait_for(loop.sock_recv(other, 10), 10) == b"b"
        theirs.close()

    loop.run_until_complete(asyncio.wait_for(main(), 20))
