"""A websockets server and clients."""

import asyncio

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def client(url, number):
    async with connect(url) as connection:
        for size in (1, 1_000, 200_000):
            await connection.send(str(number) * size)
            assert await connection.recv() == str(number) * size
        pong = await connection.ping()
        await pong
    return number


async def main():
    print(type(asyncio.get_running_loop()).__name__)
    async with serve(echo, "127.0.0.1", 0, max_size=2**22) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"ws://127.0.0.1:{port}"
        numbers = await asyncio.gather(*(client(url, n) for n in range(5)))
        print(numbers)


if __name__ == "__main__":
    asyncio.run(main())
