"""The process of one loop: it runs one server until it is killed.

`python -m benchmarks.net.server LOOP SERVER SIZE [--path PATH] [--cpu N]` prints
{"version": ..., "address": ...} once it listens, on a port of 127.0.0.1 or on a Unix
socket at PATH. SIZE is that of a message; only some servers have to know it. After
LIFE_SECONDS the process ends itself.
"""

import argparse
import asyncio
import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import ssl
import sys
import threading

from .. import loops
from ..process import ROOT

HOST = "127.0.0.1"
CERTIFICATE = ROOT / "tests" / "certificate.pem"
BACKLOG = 1024
LIFE_SECONDS = 300
START_SECONDS = 20
RECEIVE = 64 * 1024
BUFFER = 256 * 1024
IDLE_THREADS = 4
LINE_LIMIT = 1024 * 1024
CHUNK = bytes(64 * 1024)
HELLO = b"Hello, World!"
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s"
    % (len(HELLO), HELLO)
)

# The servers: coroutine functions (path, size) that return what listens. Most return
# a server of the loop, the others a (keep-alive, socket name) pair.
SERVERS = {}


def server(name):
    """Register the decorated coroutine function as a server."""

    def register(start):
        SERVERS[name] = start
        return start

    return register


async def listen(protocol_factory, path):
    """Return a server of the loop."""
    loop = asyncio.get_running_loop()
    if path:
        return await loop.create_unix_server(protocol_factory, path, backlog=BACKLOG)
    return await loop.create_server(protocol_factory, HOST, 0, backlog=BACKLOG)


async def listen_streams(connected, path, **options):
    if path:
        return await asyncio.start_unix_server(
            connected, path, backlog=BACKLOG, **options
        )
    return await asyncio.start_server(connected, HOST, 0, backlog=BACKLOG, **options)


def listening_socket(path):
    """Return a non-blocking socket that listens.

    It says that it is TCP's, as asyncio turns Nagle's algorithm off for no other.
    """
    if path:
        sock = socket.socket(socket.AF_UNIX)
    else:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.bind(path or (HOST, 0))
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock


class Connected:
    """The part of a protocol that they all have."""

    def connection_made(self, transport):
        self.transport = transport


class Echo(Connected, asyncio.Protocol):
    def data_received(self, data):
        self.transport.write(data)


@server("protocol")
async def protocol(path, size):
    return await listen(Echo, path)


class BufferedEcho(Connected, asyncio.BufferedProtocol):
    def __init__(self):
        self.buffer = memoryview(bytearray(BUFFER))

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        # A copy, as the buffer is received into again while this may still be sent.
        self.transport.write(bytes(self.buffer[:nbytes]))


@server("buffered")
async def buffered(path, size):
    return await listen(BufferedEcho, path)


class EightWrites(Connected, asyncio.Protocol):
    """Answers a complete message with its content in eight pieces."""

    def __init__(self, size):
        self.size = self.missing = size
        content = b"x" * (size - 1) + b"\n"
        self.pieces = [content[i * size // 8 : (i + 1) * size // 8] for i in range(8)]

    def data_received(self, data):
        self.missing -= len(data)
        if self.missing == 0:
            self.missing = self.size
            write = self.transport.write
            for piece in self.pieces:
                write(piece)


@server("8 writes")
async def eight_writes(path, size):
    return await listen(lambda: EightWrites(size), path)


@server("streams")
async def streams(path, size):
    async def echo(reader, writer):
        while data := await reader.read(RECEIVE):
            writer.write(data)
            await writer.drain()
        writer.close()

    return await listen_streams(echo, path)


@server("readline")
async def readline(path, size):
    async def echo(reader, writer):
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
        writer.close()

    return await listen_streams(echo, path, limit=LINE_LIMIT)


@server("sock_*")
async def sock_methods(path, size):
    loop = asyncio.get_running_loop()
    listener = listening_socket(path)

    async def echo(sock):
        with sock:
            if not path:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := await loop.sock_recv(sock, RECEIVE):
                await loop.sock_sendall(sock, data)

    async def accept():
        async with asyncio.TaskGroup() as connections:
            while True:
                sock, _ = await loop.sock_accept(listener)
                connections.create_task(echo(sock))

    return asyncio.create_task(accept()), listener.getsockname()


class EchoDatagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.transport.sendto(data, addr)


@server("datagrams")
async def datagrams(path, size):
    loop = asyncio.get_running_loop()
    endpoint = await loop.create_datagram_endpoint(EchoDatagrams, (HOST, 0))
    return endpoint, endpoint[0].get_extra_info("sockname")


class Sink(asyncio.Protocol):
    def data_received(self, data):
        pass


@server("sink")
async def sink(path, size):
    return await listen(Sink, path)


class Source(asyncio.Protocol):
    """Writes as fast as the peer takes it, within the water marks."""

    def connection_made(self, transport):
        self.transport = transport
        self.paused = False
        self.fill()

    def fill(self):
        while not self.paused:
            self.transport.write(CHUNK)

    def pause_writing(self):
        self.paused = True

    def resume_writing(self):
        self.paused = False
        self.fill()

    def connection_lost(self, exc):
        self.paused = True


@server("source")
async def source(path, size):
    return await listen(Source, path)


class TinyHTTP(Connected, asyncio.Protocol):
    def data_received(self, data):
        if data.endswith(b"\r\n\r\n"):
            self.transport.write(RESPONSE)


@server("http")
async def http(path, size):
    return await listen(TinyHTTP, path)


def tls_context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


@server("https")
async def https(path, size):
    loop = asyncio.get_running_loop()
    return await loop.create_server(
        TinyHTTP, HOST, 0, backlog=BACKLOG, ssl=tls_context()
    )


@server("https streams")
async def https_streams(path, size):
    async def answer(reader, writer):
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(RESPONSE)
            await writer.drain()

    async def connected(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await answer(reader, writer)
        writer.close()

    return await listen_streams(connected, path, ssl=tls_context())


def asgi_that_says(body):
    """Return an ASGI application that answers everything with this text."""
    length = b"%d" % len(body)

    async def application(scope, receive, send):
        headers = [(b"content-type", b"text/plain"), (b"content-length", length)]
        start = {"type": "http.response.start", "status": 200, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": body})

    return application


@server("uvicorn")
async def uvicorn_server(path, size, **options):
    import uvicorn

    config = uvicorn.Config(
        asgi_that_says(HELLO),
        loop="none",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="error",
        backlog=BACKLOG,
        **options,
    )
    running = uvicorn.Server(config)
    sock = listening_socket(path)
    task = asyncio.create_task(running.serve(sockets=[sock]))
    async with asyncio.timeout(START_SECONDS):
        while not running.started:
            if task.done():
                task.result()
            await asyncio.sleep(0.01)
    return task, sock.getsockname()


@server("uvicorn, idle threads")
async def uvicorn_with_threads(path, size):
    """As after a few endpoints that ran in the thread pool."""
    together = threading.Barrier(IDLE_THREADS)
    loop = asyncio.get_running_loop()
    executor = concurrent.futures.ThreadPoolExecutor(IDLE_THREADS)
    jobs = [loop.run_in_executor(executor, together.wait) for _ in range(IDLE_THREADS)]
    await asyncio.gather(*jobs)
    task, name = await uvicorn_server(path, size)
    task.add_done_callback(lambda _: executor.shutdown())
    return task, name


@server("https uvicorn")
async def https_uvicorn(path, size):
    return await uvicorn_server(path, size, ssl_certfile=CERTIFICATE)


@server("aiohttp")
async def aiohttp_server(path, size):
    from aiohttp import web

    async def hello(request):
        return web.Response(body=HELLO, content_type="text/plain")

    application = web.Application()
    application.router.add_get("/", hello)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    sock = listening_socket(path)
    await web.SockSite(runner, sock, backlog=BACKLOG).start()
    return runner, sock.getsockname()


def as_text(name):
    """Return a socket's name as the load generator reads it."""
    return name if isinstance(name, str) else f"{name[0]}:{name[1]}"


async def serve(options):
    started = await SERVERS[options.server](options.path, options.size)
    if isinstance(started, tuple):
        keep, name = started
    else:
        keep, name = started, started.sockets[0].getsockname()
    version = loops.version(options.loop)
    print(json.dumps({"version": version, "address": as_text(name)}), flush=True)
    if isinstance(keep, asyncio.Task):
        await keep
    await asyncio.get_running_loop().create_future()


def main():
    signal.alarm(LIFE_SECONDS)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.net.server", description=__doc__
    )
    parser.add_argument("loop")
    parser.add_argument("server", choices=SERVERS)
    parser.add_argument("size", type=int)
    parser.add_argument("--path")
    parser.add_argument("--cpu", type=int)
    options = parser.parse_args()
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    with asyncio.Runner(loop_factory=loops.factory(options.loop)) as runner:
        runner.run(serve(options))


if __name__ == "__main__":
    sys.exit(main())
