"""Clients of real libraries, and what programs wait for besides the network.

What they talk to has a process of its own, but for grpc, whose two ends are here.
"""

import asyncio
import os

from .. import services
from ..peer import CONNECTIONS, LARGE, LARGE_SIZE, Peer
from .app import app, in_turns

PIPELINE = 10


async def with_peer(clock, n, client, request, path="/"):
    """Time `n` calls of `request(client, url)` while a server of the peer runs."""
    peer = Peer("serve")
    host, port = await peer.said()
    async with client:
        await in_turns(
            clock, n, lambda i: request(client, f"http://{host}:{port}{path}")
        )
    peer.close()


async def read_by_aiohttp(client, url):
    async with client.get(url) as response:
        await response.read()


@app("aiohttp, client", "aiohttp")
async def aiohttp_client(clock, n):
    import aiohttp

    await with_peer(clock, n, aiohttp.ClientSession(), read_by_aiohttp)


@app("aiohttp, a download of 10 MB", "aiohttp")
async def aiohttp_download(clock, n):
    import aiohttp

    async def download(client, url):
        async with client.get(url) as response:
            size = 0
            async for piece in response.content.iter_any():
                size += len(piece)
        if size != LARGE_SIZE:
            raise RuntimeError(f"{size} bytes came")

    await with_peer(clock, n, aiohttp.ClientSession(), download, LARGE)


@app("httpx, client", "httpx")
async def httpx_client(clock, n):
    import httpx

    client = httpx.AsyncClient(limits=httpx.Limits(max_connections=CONNECTIONS))
    await with_peer(clock, n, client, httpx.AsyncClient.get)


@app("websockets, client", "websockets")
async def websockets_client(clock, n):
    from websockets.asyncio.client import connect

    peer = Peer("websocket")
    host, port = await peer.said()
    connections = [
        await connect(f"ws://{host}:{port}", compression=None)
        for _ in range(CONNECTIONS)
    ]

    async def ask(i):
        await connections[i].send("hello, world")
        await connections[i].recv()

    await in_turns(clock, n, ask)
    for connection in connections:
        await connection.close()
    peer.close()


def redis_client():
    from redis.asyncio import Redis

    return Redis(unix_socket_path=os.environ[services.REDIS])


@app("redis-py", "redis", service=services.REDIS)
async def redis_py(clock, n):
    async with redis_client() as client:
        await client.set("key", b"hello, world")
        await in_turns(clock, n, lambda i: client.get("key"))


@app("redis-py, pipelines of 10", "redis", service=services.REDIS)
async def redis_py_pipelines(clock, n):
    async def ask(i):
        async with client.pipeline(transaction=False) as pipeline:
            for _ in range(PIPELINE):
                pipeline.get("key")
            await pipeline.execute()

    async with redis_client() as client:
        await client.set("key", b"hello, world")
        await in_turns(clock, n, ask)


@app("asyncpg", "asyncpg", service=services.POSTGRES)
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


@app("psycopg", "psycopg", service=services.POSTGRES)
async def psycopg(clock, n):
    import psycopg

    folder = os.environ[services.POSTGRES]
    connections = [
        await psycopg.AsyncConnection.connect(
            host=folder, user="postgres", dbname="postgres", autocommit=True
        )
        for _ in range(CONNECTIONS)
    ]

    async def ask(i):
        cursor = await connections[i].execute("select 1")
        await cursor.fetchone()

    await in_turns(clock, n, ask)
    for connection in connections:
        await connection.close()


@app("grpc.aio, client and server", "grpc")
async def grpc_aio(clock, n):
    import grpc

    async def hello(request, context):
        return b"hello, world"

    methods = {"Hello": grpc.unary_unary_rpc_method_handler(hello)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("benchmark", methods)]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = channel.unary_unary("/benchmark/Hello")
        await in_turns(clock, n, lambda i: ask(b"hello"))
    await server.stop(None)


@app("anyio, a memory stream", "anyio")
async def anyio_stream(clock, n):
    import anyio

    async def produce(sender):
        async with sender:
            for i in range(n):
                await sender.send(i)

    sender, receiver = anyio.create_memory_object_stream(0)
    with clock:
        async with anyio.create_task_group() as group:
            group.start_soon(produce, sender)
            async with receiver:
                async for _ in receiver:
                    pass


@app("to_thread")
async def to_thread(clock, n):
    await in_turns(clock, n, lambda i: asyncio.to_thread(str))


@app("subprocess, communicate()")
async def subprocess(clock, n):
    async def ask(i):
        process = await asyncio.create_subprocess_exec(
            "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate(b"hello, world")
        if out != b"hello, world":
            raise RuntimeError(f"{out!r} came")

    await in_turns(clock, n, ask)
