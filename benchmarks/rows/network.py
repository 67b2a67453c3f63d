"""What do descriptors, addresses, connections and child processes cost?"""

import asyncio
import shutil
import socket

from ..row import WALL, row

MESSAGE = b"x" * 1024


def nonblocking_pair():
    """Return two connected non-blocking sockets."""
    pair = socket.socketpair()
    for sock in pair:
        sock.setblocking(False)
    return pair


@row("getaddrinfo, literal address")
async def getaddrinfo_literal(clock, n):
    """CPU time, of all threads, to resolve an address that needs no resolving."""
    loop = asyncio.get_running_loop()
    with clock:
        for _ in range(n):
            await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)


@row("add_reader round trip")
async def add_reader_round_trip(clock, n):
    """CPU time of a byte sent, its readiness reported, the callback, the byte read."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    left = n
    near, far = nonblocking_pair()

    def readable():
        nonlocal left
        far.recv(1)
        left -= 1
        if left > 0:
            near.send(b"x")
        elif not done.done():
            done.set_result(None)

    with near, far:
        loop.add_reader(far, readable)
        with clock:
            near.send(b"x")
            await done
        loop.remove_reader(far)


@row("sock_* ping-pong")
async def sock_ping_pong(clock, n):
    """CPU time of 1 KiB there and back by `sock_sendall` and `sock_recv`."""
    loop = asyncio.get_running_loop()
    near, far = nonblocking_pair()

    async def echo():
        for _ in range(n):
            await loop.sock_sendall(far, await loop.sock_recv(far, 4096))

    with near, far, clock:
        task = asyncio.create_task(echo())
        for _ in range(n):
            await loop.sock_sendall(near, MESSAGE)
            await loop.sock_recv(near, 4096)
        await task


@row("connect + close")
async def connect_and_close(clock, n):
    """CPU time of a TCP connection made and closed, both ends in this process."""
    loop = asyncio.get_running_loop()
    all_lost = loop.create_future()
    left = n

    class Accepted(asyncio.Protocol):
        def connection_lost(self, exc):
            nonlocal left
            left -= 1
            if left == 0:
                all_lost.set_result(None)

    class Client(asyncio.Protocol):
        def connection_made(self, transport):
            self.closed = loop.create_future()

        def connection_lost(self, exc):
            self.closed.set_result(None)

    server = await loop.create_server(Accepted, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    with clock:
        for _ in range(n):
            transport, protocol = await loop.create_connection(Client, host, port)
            transport.close()
            await protocol.closed
        await all_lost
    server.close()


@row("spawn true + wait", clock=WALL)
async def spawn(clock, n):
    """Wall time to start the program `true` and to wait for its end.

    Most of it is the kernel's and the child's, so the process's CPU time is not the
    question.
    """
    program = shutil.which("true")
    with clock:
        for _ in range(n):
            process = await asyncio.create_subprocess_exec(program)
            if await process.wait() != 0:
                raise RuntimeError(f"{program} ended with {process.returncode}")
