"""A shop with three endpoints, one of which takes the loop from the others."""

import asyncio


def render(count):
    return "".join(f"<li>{number:04}</li>" for number in range(count))


async def stock(writer):
    writer.write(b"17 left\n")


async def price(writer):
    await asyncio.sleep(0.001)
    writer.write(b"9.99\n")


async def catalogue(writer):
    writer.write(render(150_000).encode() + b"\n")
    await writer.drain()


ENDPOINTS = {b"stock\n": stock, b"price\n": price, b"catalogue\n": catalogue}


async def handle(reader, writer):
    while line := await reader.readline():
        await asyncio.create_task(ENDPOINTS[line](writer))
    writer.close()


async def customer(port, wish):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**23)
    for _ in range(20):
        writer.write(wish)
        await reader.readline()
    writer.write_eof()
    await reader.read()
    writer.close()


async def main():
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    top = asyncio.create_task(asyncio.get_running_loop().top(3, seconds=1.0))
    await asyncio.gather(*(customer(port, wish) for wish in ENDPOINTS))
    print(await top)


asyncio.run(main())
