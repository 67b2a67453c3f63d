"""httpx against a small HTTP server on asyncio's streams."""

import asyncio

import httpx


async def serve(reader, writer):
    while head := await reader.readuntil(b"\r\n\r\n"):
        size = 0
        for line in head.decode().split("\r\n"):
            if line.lower().startswith("content-length:"):
                size = int(line.split(":")[1])
        body = await reader.readexactly(size)
        answer = f"{len(body)}".encode()
        header = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n"
        writer.write(header.encode() + answer)
        await writer.drain()
        if reader.at_eof():
            break


connections = set()


async def connected(reader, writer):
    connections.add(asyncio.current_task())
    try:
        await serve(reader, writer)
    except asyncio.IncompleteReadError:
        pass
    finally:
        writer.close()


async def main():
    print(type(asyncio.get_running_loop()).__name__)
    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        base = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=base, trust_env=False) as client:
            requests = [client.post("/", content=b"x" * n * 1000) for n in range(20)]
            replies = await asyncio.gather(*requests)
            print([int(reply.text) // 1000 for reply in replies])
        # The client is closed: each connection sees the end of its stream.
        await asyncio.gather(*connections)


if __name__ == "__main__":
    asyncio.run(main())
