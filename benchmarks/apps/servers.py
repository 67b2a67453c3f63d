"""Servers of real libraries: the load comes from a process of its own."""

import asyncio
import contextlib
import socket

from ..net.server import CERTIFICATE, asgi_that_says
from ..peer import RESPONSE, load
from .app import app

START_SECONDS = 20
UPGRADE = (
    "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
    "Sec-WebSocket-Version: 13\r\n\r\n"
)
# A text message "hello, world", masked with zeros.
MESSAGE = "\x81\x8c\0\0\0\0hello, world"
LAST_CHUNK = "0\r\n\r\n"
CHUNKS = 10


@app("HTTP on streams")
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


async def serve_asgi(clock, n, application, end, *, tls=False):
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
        ssl_certfile=CERTIFICATE if tls else None,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(START_SECONDS):
        while not server.started:
            await asyncio.sleep(0.01)
    address = server.servers[0].sockets[0].getsockname()
    await load(clock, n, address, end=end, tls=tls)
    server.should_exit = True
    await task


hello_asgi = asgi_that_says(b"hello, world")


@app("uvicorn, server", "uvicorn", "httptools")
async def uvicorn_server(clock, n):
    await serve_asgi(clock, n, hello_asgi, "world")


@app("uvicorn, server, TLS", "uvicorn", "httptools")
async def uvicorn_server_tls(clock, n):
    await serve_asgi(clock, n, hello_asgi, "world", tls=True)


def hello_fastapi():
    from fastapi import FastAPI

    application = FastAPI()

    @application.get("/")
    async def hello():
        return "hello, world"

    return application


@app("FastAPI", "fastapi", "uvicorn", "httptools")
async def fastapi(clock, n):
    await serve_asgi(clock, n, hello_fastapi(), 'world"')


@app("FastAPI, TLS", "fastapi", "uvicorn", "httptools")
async def fastapi_tls(clock, n):
    await serve_asgi(clock, n, hello_fastapi(), 'world"', tls=True)


@app("Starlette, ten chunks", "starlette", "uvicorn", "httptools")
async def starlette_streaming(clock, n):
    from starlette.applications import Starlette
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    async def chunks():
        for _ in range(CHUNKS):
            yield b"hello, world"

    async def hello(request):
        return StreamingResponse(chunks())

    application = Starlette(routes=[Route("/", hello)])
    await serve_asgi(clock, n, application, LAST_CHUNK)


@app("hypercorn, server", "hypercorn")
async def hypercorn_server(clock, n):
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]  # hypercorn closes it.
    config.accesslog = config.errorlog = None
    end = asyncio.Event()
    serving = serve(hello_asgi, config, shutdown_trigger=end.wait)  # type: ignore
    task = asyncio.create_task(serving)
    await load(clock, n, address)
    end.set()
    await task


@app("tornado, server", "tornado")
async def tornado_server(clock, n):
    from tornado.httpserver import HTTPServer
    from tornado.netutil import bind_sockets
    from tornado.web import Application, RequestHandler

    class Hello(RequestHandler):
        def get(self):
            self.write("hello, world")

    application = Application([("/", Hello)], log_function=lambda handler: None)
    server = HTTPServer(application)
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    await load(clock, n, sockets[0].getsockname())
    server.stop()
    await server.close_all_connections()


@app("aiohttp, server", "aiohttp")
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


@app("websockets, server", "websockets")
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
