"""Signals that interrupt system calls all the time: nothing is lost, nothing ends."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading

import pytest

from tests.conftest import open_descriptors

SIZE = 1_000_000
PROGRAM = "import sys, shutil; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)"


@contextlib.contextmanager
def storm():
    """Send this thread SIGUSR1 again and again."""
    stop = threading.Event()
    target = threading.get_ident()

    def send():
        while not stop.wait(0.0001):
            signal.pthread_kill(target, signal.SIGUSR1)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture(params=["signal.signal", "add_signal_handler"])
def handled(request, loop):
    """Handle SIGUSR1, and return the list of the times that it came."""
    times = []
    before = signal.getsignal(signal.SIGUSR1)
    if request.param == "signal.signal":
        signal.signal(signal.SIGUSR1, lambda number, frame: times.append(number))
    else:
        loop.add_signal_handler(signal.SIGUSR1, times.append, None)
    yield times
    if request.param == "add_signal_handler":
        loop.remove_signal_handler(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()
    writer.close()
    await writer.wait_closed()


async def through_streams(data):
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())

    async def send():
        for start in range(0, len(data), 50_000):
            writer.write(data[start : start + 50_000])
            await writer.drain()
        writer.write_eof()

    _, received = await asyncio.gather(send(), reader.read())
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    return received


async def through_sock_operations(data):
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        listener.setblocking(False)
        client.setblocking(False)
        (accepted, _), _ = await asyncio.gather(
            loop.sock_accept(listener),
            loop.sock_connect(client, listener.getsockname()),
        )
        received = bytearray()

        async def receive():
            while piece := await loop.sock_recv(accepted, 65536):
                received.extend(piece)

        async def send():
            await loop.sock_sendall(client, data)
            client.shutdown(socket.SHUT_WR)

        with accepted:
            await asyncio.gather(receive(), send())
    return received


async def through_pipes(data):
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, stdin=-1, stdout=-1
    )
    received, _ = await child.communicate(data)
    assert child.returncode == 0
    return received


async def through_datagrams(data):
    received = asyncio.Queue()

    class Protocol(asyncio.DatagramProtocol):
        def datagram_received(self, data, address):
            received.put_nowait(data)

    loop = asyncio.get_running_loop()
    server, _ = await loop.create_datagram_endpoint(
        Protocol, local_addr=("127.0.0.1", 0)
    )
    client, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=server.get_extra_info("sockname")
    )
    answers = []
    for start in range(0, len(data), 10_000):
        client.sendto(data[start : start + 10_000])
        answers.append(await received.get())
    client.close()
    server.close()
    await asyncio.sleep(0)
    return b"".join(answers)


WAYS = [through_streams, through_sock_operations, through_pipes, through_datagrams]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_data_flows_through_a_storm_of_signals(run, handled, way):
    data = os.urandom(SIZE)

    async def main():
        assert await way(data) == data
        while len(handled) < 20:
            assert await way(data[:10_000]) == data[:10_000]

    with storm():
        run(main())


def test_connections_and_timers_in_a_storm_of_signals(run, loop, handled):
    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()

        async def one(number):
            began = loop.time()
            await asyncio.sleep(0.001 * number)
            assert loop.time() - began >= 0.001 * number
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"%d" % number)
            writer.write_eof()
            assert await reader.read() == b"%d" % number
            writer.close()
            await writer.wait_closed()

        before = open_descriptors()
        for _ in range(5):
            await asyncio.gather(*(one(number) for number in range(40)))
        # The peer of a connection may close a moment later.
        while open_descriptors() - before:
            await asyncio.sleep(0.001)
        server.close()
        await server.wait_closed()

    with storm():
        run(main())
    assert handled
