"""How many bytes does a pair of idle connections take in one process?

`python -m benchmarks.net.memory` starts one process per loop and item, which connects
to itself PAIRS times, and divides the growth of its resident memory by their number.
That counts both ends: transports, sockets, protocols, the loop's own tables, the
allocator's overhead, and not what the kernel keeps. A first batch warms up and is not
counted.

protocols: both ends are asyncio.Protocol objects without attributes. streams: both
ends are a StreamReader and a StreamWriter; the client's are kept by the program, the
server's by the usual coroutine that waits for more to echo, in its task. TLS: protocols
with TLS between them. One byte has gone each way, so that nothing is left to be made
when the first one comes.
"""

import argparse
import asyncio
import gc
import os
import resource
import sys

from .. import loops
from ..memory import measured, resident_bytes
from ..table import FAILED, aligned
from .load import tls_context as tls_client_context
from .server import tls_context as tls_server_context
from .targets import MEMORY, TARGET_VERSION

PAIRS = 2000
WARM_UP = 200
HOST = "127.0.0.1"
SPARE_DESCRIPTORS = 100


class Server(asyncio.Protocol):
    __slots__ = ("transport",)

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class Client(asyncio.Protocol):
    __slots__ = ("answered",)

    def __init__(self, answered):
        self.answered = answered

    def connection_made(self, transport):
        transport.write(b"x")

    def data_received(self, data):
        self.answered.set_result(None)
        del self.answered


async def protocols(kept, start, stop, server_context=None, client_context=None):
    """Fill kept[start:stop] with the clients' transports."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, HOST, 0, ssl=server_context)
    port = server.sockets[0].getsockname()[1]
    for i in range(start, stop):
        answered = loop.create_future()
        kept[i], _ = await loop.create_connection(
            lambda answered=answered: Client(answered), HOST, port, ssl=client_context
        )
        await answered
    return server


async def streams(kept, start, stop):
    """Fill kept[start:stop] with the clients' readers and writers."""

    async def echo(reader, writer):
        while data := await reader.read(1024):
            writer.write(data)

    server = await asyncio.start_server(echo, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    for i in range(start, stop):
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"x")
        await reader.readexactly(1)
        kept[i] = (reader, writer)
    return server


async def tls(kept, start, stop):
    return await protocols(
        kept, start, stop, tls_server_context(), tls_client_context()
    )


FILLS = {"protocols": protocols, "streams": streams, "TLS": tls}


async def growth(fill):
    """Return the bytes per pair that `fill` makes."""
    kept = [None] * (WARM_UP + PAIRS)
    servers = [await fill(kept, 0, WARM_UP)]
    gc.collect()
    before = resident_bytes()
    servers.append(await fill(kept, WARM_UP, WARM_UP + PAIRS))
    gc.collect()
    return (resident_bytes() - before) / PAIRS


def measure(loop_name, item):
    """Print the bytes per pair of a loop and end without tidying up."""
    needed = 2 * (WARM_UP + PAIRS) + SPARE_DESCRIPTORS
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, max(needed, hard)))
    runner = asyncio.Runner(loop_factory=loops.factory(loop_name))
    print(round(runner.run(growth(FILLS[item]))), flush=True)
    os._exit(0)


def results(names):
    """Return the bytes per pair by item and loop, as other processes measure them."""
    return {
        item: {name: measured(name, item, "benchmarks.net.memory") for name in names}
        for item in FILLS
    }


def misses(found):
    """Return the items in which aioloop takes more than it should."""
    missed = []
    for item, by_loop in found.items():
        if loops.OURS not in by_loop:
            continue
        ours = by_loop[loops.OURS]
        too_much = ours is not None and ours > MEMORY[item]
        if ours is None or (too_much and sys.version_info[:2] >= TARGET_VERSION):
            missed.append(item)
    return missed


def table(found):
    """Return the lines of cells of a table."""
    missed = misses(found)
    lines = []
    for item, by_loop in found.items():
        if not lines:
            lines.append(["bytes per idle pair", *by_loop, "at most", ""])
        cells = [FAILED if b is None else str(b) for b in by_loop.values()]
        mark = "MISSED" if item in missed else ""
        lines.append([item, *cells, str(MEMORY[item]), mark])
    return lines


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.net.memory", description=__doc__
    )
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--check", action="store_true", help="exit with 1 on a miss")
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure)
    names = loops.installed(loops.NETWORK_NAMES)
    if options.check and loops.OURS not in names:
        parser.error(f"--check is about {loops.OURS}, which is not installed")
    found = results(names)
    print(aligned(table(found)))
    return 1 if options.check and misses(found) else 0


if __name__ == "__main__":
    sys.exit(main())
