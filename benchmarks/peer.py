"""The other process of a row: `python -m benchmarks.peer load JSON` and others.

Whoever measures a server or a client wants its CPU time alone, so what is at the other
end has a process of its own, which says a JSON line when it is ready.

`load` keeps connections to a server open. At a line on its standard input each of them
sends a request, and the next one when the answer has come; when all have been answered
it says a second line. JSON has "address", "connections", "requests" (of all connections
together), "request", "end" (what an answer ends with), "tls", and perhaps "greeting"
(what is sent first; its answer ends with an empty line).

`serve` answers HTTP requests until its standard input ends, `websocket` sends messages
back; their line is the address.
"""

import asyncio
import contextlib
import json
import subprocess
import sys

from .net.load import tls_context
from .process import ROOT

REQUEST = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
RESPONSE = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nhello, world"
END = "world"
LARGE = "/large"  # the path of an answer of so many bytes
LARGE_SIZE = 10_000_000
CONNECTIONS = 16


class Peer:
    """Such a process, as the coroutine sees it that measures."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.peer", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    async def said(self):
        """Return what the next line of the process says."""
        loop = asyncio.get_running_loop()
        readable = loop.create_future()
        loop.add_reader(self.process.stdout, readable.set_result, None)
        try:
            await readable
        finally:
            loop.remove_reader(self.process.stdout)
        return json.loads(self.process.stdout.readline())

    def go(self):
        print(file=self.process.stdin)

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


async def load(clock, n, address, *, request=REQUEST, end=END, greeting="", tls=False):
    """Have `n` requests sent to a server of this process, and time the answers."""
    what = {
        "address": address,
        "connections": CONNECTIONS,
        "requests": n,
        "request": request,
        "end": end,
        "greeting": greeting,
        "tls": tls,
    }
    peer = Peer("load", json.dumps(what))
    await peer.said()
    with clock:
        peer.go()
        await peer.said()
    peer.close()


class Client(asyncio.Protocol):
    """Sends a request, waits for the answer, and so on, `left` times."""

    def __init__(self, what):
        self.request = what["request"].encode("latin-1")
        self.end = what["end"].encode("latin-1")
        self.greeting = what["greeting"].encode("latin-1")
        self.left = what["requests"] // what["connections"]
        self.ready = asyncio.get_running_loop().create_future()
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        if self.greeting:
            transport.write(self.greeting)
        else:
            self.ready.set_result(None)

    def start(self):
        self.transport.write(self.request)

    def data_received(self, data):
        if not self.ready.done():
            if data.endswith(b"\r\n\r\n"):
                self.ready.set_result(None)
        elif data.endswith(self.end):
            self.left -= 1
            if self.left > 0:
                self.transport.write(self.request)
            else:
                self.done.set_result(None)

    def connection_lost(self, exc):
        if not self.done.done():
            self.done.set_exception(exc or EOFError("the server has closed"))


async def generate(what):
    loop = asyncio.get_running_loop()
    tls = tls_context() if what["tls"] else None
    clients = [Client(what) for _ in range(what["connections"])]
    for client in clients:
        await loop.create_connection(
            lambda client=client: client, *what["address"], ssl=tls
        )
        await client.ready
    print(json.dumps("ready"), flush=True)
    sys.stdin.readline()
    for client in clients:
        client.start()
    await asyncio.gather(*(client.done for client in clients))
    print(json.dumps("done"), flush=True)
    sys.stdin.read()


class Server(asyncio.Protocol):
    """Answers each request, however much of it has come."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if not data.endswith(b"\r\n\r\n"):
            return
        if data.startswith(b"GET %s " % LARGE.encode()):
            self.transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE_SIZE
            )
            self.transport.write(bytes(LARGE_SIZE))
        else:
            self.transport.write(RESPONSE.encode())


async def until_end(server):
    """Say the server's address, and wait until the standard input ends."""
    print(json.dumps(server.sockets[0].getsockname()), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def serve():
    loop = asyncio.get_running_loop()
    await until_end(await loop.create_server(Server, "127.0.0.1", 0))


async def websocket():
    from websockets.asyncio.server import serve
    from websockets.exceptions import ConnectionClosed

    async def echo(connection):
        with contextlib.suppress(ConnectionClosed):
            async for message in connection:
                await connection.send(message)

    async with serve(echo, "127.0.0.1", 0, compression=None) as server:
        await until_end(server)


if __name__ == "__main__":
    if sys.argv[1] == "load":
        asyncio.run(generate(json.loads(sys.argv[2])))
    else:
        asyncio.run({"serve": serve, "websocket": websocket}[sys.argv[1]]())
