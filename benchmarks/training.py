"""What is hot in the C code? A run of everything, from which the compiler learns it.

`python -m benchmarks.training` runs every row of this process for a moment, then echoes
over protocols, streams, TLS and datagrams, on aioloop alone. It measures nothing: where
aioloop was built with gcc's -fprofile-generate, a profile is written at exit, which
`.ci/wheels` gives to the build of the wheel.
"""

import asyncio
import ssl
import sys
from pathlib import Path

import aioloop

from . import loops, rows  # noqa: F401
from .row import CPU, ROWS, WALL
from .worker import round_up, sample

CERTIFICATE = Path(__file__).resolve().parents[1] / "tests" / "certificate.pem"
OPERATIONS = {CPU: 20_000, WALL: 200}  # of a row
MESSAGES = 3_000
# Bytes of a message, and connections.
LOADS = ((128, 1), (1024, 64), (10_240, 8), (100_000, 2))


class Echo(asyncio.Protocol):
    """Sends back what comes."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class BufferedEcho(asyncio.BufferedProtocol):
    """Sends back what comes, from a buffer of its own."""

    def connection_made(self, transport):
        self.transport = transport
        self.buffer = bytearray(65_536)

    def get_buffer(self, hint):
        return self.buffer

    def buffer_updated(self, n):
        self.transport.write(bytes(self.buffer[:n]))


class Ping(asyncio.Protocol):
    """Sends a message so many times, each when the one before has come back."""

    def __init__(self, size, times, done):
        self.message = bytes(size)
        self.times = times
        self.done = done
        self.received = 0

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self.message)

    def data_received(self, data):
        self.received += len(data)
        if self.received == len(self.message):
            self.received = 0
            self.times -= 1
            if self.times:
                self.transport.write(self.message)
            else:
                self.transport.close()
                self.done.set_result(None)


class DatagramEcho(asyncio.DatagramProtocol):
    """Sends back what comes to whom it comes from."""

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.transport.sendto(data, address)


class DatagramPing(DatagramEcho):
    """Begins with a message, and sends back so many."""

    def __init__(self, times, done):
        self.times = times
        self.done = done

    def connection_made(self, transport):
        super().connection_made(transport)
        transport.sendto(bytes(128))

    def datagram_received(self, data, address):
        self.times -= 1
        if self.times:
            self.transport.sendto(data)
        else:
            self.transport.close()
            self.done.set_result(None)


async def protocols(factory, server_tls, client_tls):
    """Echo over transports and protocols."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=server_tls)
    address = server.sockets[0].getsockname()
    for size, connections in LOADS:
        waits = [loop.create_future() for _ in range(connections)]
        times = MESSAGES // connections
        for done in waits:
            ping = Ping(size, times if size < 100_000 else times // 10, done)
            await loop.create_connection(
                lambda ping=ping: ping, *address, ssl=client_tls
            )
        await asyncio.gather(*waits)
    server.close()


async def streams(server_tls, client_tls):
    """Echo over StreamReader and StreamWriter, a line with the length before each."""

    async def serve(reader, writer):
        while line := await reader.readline():
            writer.write(await reader.readexactly(int(line)))
            await writer.drain()
        writer.close()

    async def ask(size, times):
        reader, writer = await asyncio.open_connection(*address, ssl=client_tls)
        for _ in range(times):
            writer.write(b"%d\n" % size)
            writer.write(bytes(size))
            await reader.readexactly(size)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_tls)
    address = server.sockets[0].getsockname()
    for size, connections in LOADS:
        times = MESSAGES // connections // (1 if size < 100_000 else 10)
        await asyncio.gather(*(ask(size, times) for _ in range(connections)))
    server.close()


async def datagrams():
    """Echo over UDP."""
    loop = asyncio.get_running_loop()
    local = ("127.0.0.1", 0)
    server, _ = await loop.create_datagram_endpoint(DatagramEcho, local)
    done = loop.create_future()
    await loop.create_datagram_endpoint(
        lambda: DatagramPing(MESSAGES, done),
        remote_addr=server.get_extra_info("sockname"),
    )
    await done
    server.close()


async def echoes():
    """Echo over everything."""
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_tls.load_cert_chain(CERTIFICATE)
    client_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_tls.check_hostname = False
    client_tls.verify_mode = ssl.CERT_NONE
    for contexts in ((None, None), (server_tls, client_tls)):
        for factory in (Echo, BufferedEcho):
            await protocols(factory, *contexts)
        await streams(*contexts)
    await datagrams()


def main():
    """Run it all."""
    for row in ROWS.values():
        n = round_up(OPERATIONS[row.clock], row.batch)
        sample(row, loops.factory("aioloop"), n)
    aioloop.run(echoes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
