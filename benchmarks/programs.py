"""Rows of servers and clients that people run: CPU time of this process alone.

What loads the servers, and what the clients ask, has a process of its own.
"""

import asyncio
import contextlib
import dataclasses
import importlib.util
import os
import sys

from . import services
from .peer import CONNECTIONS, RESPONSE, Peer, load
from .row import row

START_SECONDS = 20
UPGRADE = (
    "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
    "Sec-WebSocket-Version: 13\r\n\r\n"
)
# A text message "hello, world", masked with zeros.
MESSAGE = "\x81\x8c\0\0\0\0hello, world"


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a row needs: packages that can be imported, and perhaps a service."""

    packages: tuple[str, ...]
    service: str | None = None

    def missing(self):
        """Return the names of what is not here."""
        names = [name for name in self.packages if not importlib.util.find_spec(name)]
        if self.service and (name := services.missing(self.service)):
            names.append(name)
        return names


NEEDS = {}


def available(row_names):
    """Return the rows that can run here; name the others, and what they lack."""
    found = []
    for name in row_names:
        missing = NEEDS[name].missing() if name in NEEDS else []
        if missing:
            print(f"{name} is left out: missing {', '.join(missing)}", file=sys.stderr)
        else:
            found.append(name)
    return found


def services_of(row_names):
    """Return the services that the rows need."""
    needs = (NEEDS[name].service for name in row_names if name in NEEDS)
    return sorted({service for service in needs if service})


def program(name, *packages, service=None):
    """Register the coroutine function `(clock, n)` as a row that needs all this."""
    NEEDS[name] = Needs(packages, service)
    return row(name, batch=CONNECTIONS)


async def in_turns(clock, n, operate):
    """Time `n` awaits of `operate(i)` by as many tasks as there are connections."""

    async def work(i):
        for _ in range(n // CONNECTIONS):
            await operate(i)

    for i in range(CONNECTIONS):
        await operate(i)
    with clock:
        await asyncio.gather(*map(work, range(CONNECTIONS)))


@program("HTTP on streams")
async def http_on_streams(clock, n):
    async def respond(request):
        return RESPONSE.encode() if request.startswith(b"GET / ") else b""

    async def serve(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(await respond(request))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    await load(clock, n, server.sockets[0].getsockname())
    server.close()
    await server.wait_closed()


async def serve_asgi(clock, n, application, end):
    """Time `n` requests to an application that uvicorn serves."""
    import uvicorn

    config = uvicorn.Config(
        application,
        port=0,
        loop="none",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="error",
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(START_SECONDS):
        while not server.started:
            await asyncio.sleep(0.01)
    await load(clock, n, server.servers[0].sockets[0].getsockname(), end=end)
    server.should_exit = True
    await task


@program("uvicorn, server", "uvicorn", "httptools")
async def uvicorn_server(clock, n):
    async def application(scope, receive, send):
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"12")]
        start = {"type": "http.response.start", "status": 200, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": b"hello, world"})

    await serve_asgi(clock, n, application, "world")


@program("FastAPI", "fastapi", "uvicorn", "httptools")
async def fastapi(clock, n):
    from fastapi import FastAPI

    application = FastAPI()

    @application.get("/")
    async def hello():
        return "hello, world"

    await serve_asgi(clock, n, application, 'world"')


@program("aiohttp, server", "aiohttp")
async def aiohttp_server(clock, n):
    from aiohttp import web

    async def hello(request):
        return web.Response(text="hello, world")

    application = web.Application()
    application.router.add_get("/", hello)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    await load(clock, n, runner.addresses[0])
    await runner.cleanup()


@program("aiohttp, client", "aiohttp")
async def aiohttp_client(clock, n):
    import aiohttp

    peer = Peer("serve")
    host, port = await peer.said()

    async def get(i):
        async with session.get(f"http://{host}:{port}/") as response:
            await response.read()

    async with aiohttp.ClientSession() as session:
        await in_turns(clock, n, get)
    peer.close()


@program("redis-py", "redis", service=services.REDIS)
async def redis_py(clock, n):
    from redis.asyncio import Redis

    path = os.environ[services.REDIS]
    async with Redis(unix_socket_path=path) as client:
        await client.set("key", b"hello, world")
        await in_turns(clock, n, lambda i: client.get("key"))


@program("asyncpg", "asyncpg", service=services.POSTGRES)
async def asyncpg(clock, n):
    import asyncpg

    folder = os.environ[services.POSTGRES]
    connections = [
        await asyncpg.connect(host=folder, user="postgres", database="postgres")
        for _ in range(CONNECTIONS)
    ]
    await in_turns(clock, n, lambda i: connections[i].fetchval("select 1"))
    for connection in connections:
        await connection.close()


@program("websockets, server", "websockets")
async def websockets_server(clock, n):
    from websockets.asyncio.server import serve
    from websockets.exceptions import ConnectionClosed

    async def echo(connection):
        with contextlib.suppress(ConnectionClosed):
            async for message in connection:
                await connection.send(message)

    async with serve(echo, "127.0.0.1", 0, compression=None) as server:
        address = server.sockets[0].getsockname()
        await load(clock, n, address, request=MESSAGE, greeting=UPGRADE)
