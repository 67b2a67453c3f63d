"""What does debug mode cost?

    python -m benchmarks.debug [--rounds N] [--seconds S] [--rows PATTERN] [--json]

Each row runs on each loop without debug mode and with it, interleaved over the rounds,
each loop and mode in a process of its own. For aioloop there are three sorts of debug
mode: everything but coroutine origins, the same with origins of one frame, and
loop.set_debug(True), whose origins have ten frames as asyncio's. The table shows the
time per operation without debug mode and the ratios of the medians.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import importlib.util
import json
import logging
import statistics
import subprocess
import sys

from . import loops, rows  # noqa: F401
from .process import ROOT
from .row import ROWS, row
from .runner import select_rows
from .worker import calibrate, private_pipes, round_up, sample

ROW_NAMES = (
    "call_soon chain",
    "call_soon, bursts of 10 000",
    "bare yield, one task",
    "create_task + await in turn",
    "fan-out: create 1000, then await",
    "future ping-pong, one pair",
    "future ping-pong, 500 pairs",
    "gather of 1000, per item",
    "HTTP server and clients",
    *["aiohttp server and clients"] * (importlib.util.find_spec("aiohttp") is not None),
)
OFF, ON, ORIGINS, FULL = "off", "on", "origin 1", "set_debug"
MODES = {loops.OURS: (OFF, ON, ORIGINS, FULL)}
# The most that debug mode may cost, as a ratio.
LIMITS = {ON: 1.3, ORIGINS: 1.8}
CONNECTIONS = 16
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nhello, world"


class Client(asyncio.Protocol):
    """Sends a request, waits for the response, and so on, `left` times."""

    def __init__(self, left, done):
        self.left = left
        self.done = done

    def connection_made(self, transport):
        self.transport = transport

    def start(self):
        self.transport.write(REQUEST)

    def data_received(self, data):
        if not data.endswith(b"world"):
            return
        self.left -= 1
        if self.left > 0:
            self.transport.write(REQUEST)
        else:
            self.transport.close()

    def connection_lost(self, exc):
        self.done.set_result(None)


async def respond(request):
    """Handle a request as an application does: in a coroutine of its own."""
    return RESPONSE if request.startswith(b"GET / ") else b""


async def serve(reader, writer):
    with contextlib.suppress(asyncio.IncompleteReadError):
        while True:
            request = await reader.readuntil(b"\r\n\r\n")
            writer.write(await respond(request))
            await writer.drain()
    writer.close()


async def load(clock, n, host, port):
    """Have clients that are connected send n requests."""
    loop = asyncio.get_running_loop()
    clients = []
    for _ in range(CONNECTIONS):
        client = Client(n // CONNECTIONS, loop.create_future())
        await loop.create_connection(lambda client=client: client, host, port)
        clients.append(client)
    with clock:
        for client in clients:
            client.start()
        await asyncio.gather(*(client.done for client in clients))


@row("HTTP server and clients", batch=CONNECTIONS)
async def http(clock, n):
    """CPU time of a keep-alive request: server with streams, clients as protocols."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    await load(clock, n, *server.sockets[0].getsockname())
    server.close()
    await server.wait_closed()


@row("aiohttp server and clients", batch=CONNECTIONS)
async def aiohttp_server(clock, n):
    """The same with a server that people use."""
    from aiohttp import web

    async def hello(request):
        return web.Response(text="hello, world")

    application = web.Application()
    application.router.add_get("/", hello)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    await load(clock, n, *runner.addresses[0])
    await runner.cleanup()


# In the child process.


def factory_in(name, mode):
    """Return a loop factory whose loops are in the given mode."""
    make = loops.factory(name)

    def factory():
        loop = make()
        if mode in (ON, ORIGINS):
            options = type(loop.debug_options).all()
            depth = 0 if mode == ON else 1
            loop.debug_options = dataclasses.replace(
                options, coroutine_origin_depth=depth
            )
        else:
            loop.set_debug(mode == FULL)
        return loop

    return factory


def child(name, mode):
    """Answer requests as benchmarks.worker does."""
    requests, answers = private_pipes()
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    factory = factory_in(name, mode)
    for line in requests:
        request = json.loads(line)
        measured = ROWS[request["row"]]
        n = request["operations"]
        if n is None:
            n = calibrate(measured, factory, request["seconds"])
        else:
            sample(measured, factory, round_up(n // 10, measured.batch))
        clock = sample(measured, factory, n)
        reply = {"operations": n, "cpu": clock.cpu}
        print(json.dumps(reply), file=answers)


# In the parent.


class Child:
    """The process of a loop in a mode."""

    def __init__(self, name, mode):
        self.operations = {}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.debug", "--child", name, mode],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def measure(self, row_name, seconds):
        """Return CPU seconds per operation of one sample."""
        request = {
            "row": row_name,
            "seconds": seconds,
            "operations": self.operations.get(row_name),
        }
        print(json.dumps(request), file=self.process.stdin)
        reply = json.loads(self.process.stdout.readline())
        self.operations[row_name] = reply["operations"]
        return reply["cpu"] / reply["operations"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def measure(row_names, rounds, seconds):
    """Return {row: {loop: {mode: median seconds per operation}}}."""
    columns = [
        (name, mode)
        for name in loops.installed()
        if name in (loops.REFERENCE, "uvloop", loops.OURS)
        for mode in MODES.get(name, (OFF, FULL))
    ]
    samples = {}
    for _ in range(rounds):
        children = {column: Child(*column) for column in columns}
        for row_name in row_names:
            for column, process in children.items():
                taken = process.measure(row_name, seconds)
                samples.setdefault(row_name, {}).setdefault(column, []).append(taken)
        for process in children.values():
            process.close()
    medians = {}
    for row_name, of_row in samples.items():
        for (name, mode), taken in of_row.items():
            place = medians.setdefault(row_name, {}).setdefault(name, {})
            place[mode] = statistics.median(taken)
    return medians


def show(medians):
    names = list(next(iter(medians.values())))
    heads = [f"{'':34}"]
    for name in names:
        heads.append(f"{name + ' ns':>12}")
        heads += [f"{mode:>10}" for mode in MODES.get(name, (OFF, FULL))[1:]]
    print(*heads, f"{'asyncio off / ours on':>22}")
    missed = []
    for row_name, of_row in medians.items():
        line = [f"{row_name:34}"]
        for name in names:
            base = of_row[name][OFF]
            line.append(f"{base * 1e9:12.0f}")
            for mode in MODES.get(name, (OFF, FULL))[1:]:
                ratio = of_row[name][mode] / base
                line.append(f"{ratio:9.2f}x")
                if name == loops.OURS and ratio > LIMITS.get(mode, float("inf")):
                    missed.append(f"{row_name}, {mode}: {ratio:.2f}x")
        lead = of_row[loops.REFERENCE][OFF] / of_row[loops.OURS][ON]
        if lead < 1:
            missed.append(f"{row_name}: asyncio without debug mode is faster")
        print(*line, f"{lead:21.2f}x")
    print(*(f"missed: {text}" for text in missed), sep="\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--rows", action="append", metavar="PATTERN")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
        return
    row_names = select_rows(arguments.rows, ROW_NAMES)
    if not row_names:
        parser.error("no row matches")
    medians = measure(row_names, arguments.rounds, arguments.seconds)
    if arguments.json:
        print(json.dumps(medians))
    else:
        show(medians)


if __name__ == "__main__":
    main()
