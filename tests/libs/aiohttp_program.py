"""An aiohttp server and its client: pages, an upload, a stream, a WebSocket."""

import asyncio

import aiohttp
from aiohttp import web


async def hello(request):
    return web.json_response({"loop": type(asyncio.get_running_loop()).__name__})


async def upload(request):
    return web.Response(text=str(len(await request.read())))


async def stream(request):
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(100):
        await response.write(b"x" * 10_000)
    await response.write_eof()
    return response


async def websocket(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data[::-1])
    return socket


def application():
    app = web.Application(client_max_size=2**24)
    app.router.add_get("/hello", hello)
    app.router.add_post("/upload", upload)
    app.router.add_get("/stream", stream)
    app.router.add_get("/websocket", websocket)
    return app


async def use(port):
    base = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession(base) as session:

        async def fetch():
            async with session.get("/hello") as reply:
                return await reply.json()

        replies = await asyncio.gather(*(fetch() for _ in range(20)))
        print(len(replies), replies[0])
        async with session.post("/upload", data=b"x" * 1_000_000) as reply:
            print(await reply.text())
        async with session.get("/stream") as reply:
            print(len(await reply.read()))
        async with session.ws_connect("/websocket") as socket:
            await socket.send_str("hello")
            print(await socket.receive_str())


async def main():
    runner = web.AppRunner(application())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    await use(runner.addresses[0][1])
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
