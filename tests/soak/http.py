"""As much of HTTP/1.1 as the soak needs, on asyncio's streams.

A server answers POST with the body that it got, in the same form (with its length, or
in chunks), and GET /OFFSET/SIZE with that piece of an endless repetition of BLOCK.
"""

import asyncio
import random

BLOCK = random.Random(20).randbytes(1 << 20)
PIECE = 1 << 16


def piece(offset, size):
    """Return `size` bytes of the endless repetition of BLOCK, from an offset on."""
    offset %= len(BLOCK)
    repeats = (offset + size) // len(BLOCK) + 1
    return (BLOCK * repeats)[offset : offset + size]


async def read_message(reader):
    """Return (first line, body, whether it came in chunks), or None at the end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    first, *lines = head[:-4].split(b"\r\n")
    fields = dict(line.split(b": ", 1) for line in lines)
    if fields.get(b"Transfer-Encoding") != b"chunked":
        return first, await reader.readexactly(int(fields[b"Content-Length"])), False
    body = bytearray()
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += await reader.readexactly(size)
        assert await reader.readexactly(2) == b"\r\n"
    assert await reader.readexactly(2) == b"\r\n"
    return first, bytes(body), True


async def write_message(writer, first, body, chunked):
    """Write a message, in many writes if it is in chunks."""
    if not chunked:
        writer.write(b"%b\r\nContent-Length: %d\r\n\r\n" % (first, len(body)))
        writer.write(body)
        await writer.drain()
        return
    writer.write(b"%b\r\nTransfer-Encoding: chunked\r\n\r\n" % first)
    size = max(1, len(body) // 7)
    for at in range(0, len(body), size):
        part = body[at : at + size]
        writer.writelines([b"%x\r\n" % len(part), part, b"\r\n"])
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    await writer.drain()


async def _answer(writer, first, body, chunked):
    method, path, _ = first.split(b" ")
    if method == b"POST":
        await write_message(writer, b"HTTP/1.1 200 OK", body, chunked)
        return
    offset, size = map(int, path[1:].split(b"/"))
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    for at in range(0, size, PIECE):
        writer.write(piece(offset + at, min(PIECE, size - at)))
        await writer.drain()
        _, high = writer.transport.get_write_buffer_limits()
        waiting = writer.transport.get_write_buffer_size()
        assert waiting <= high, f"{waiting} bytes wait, and drain() has returned"


async def close(writer):
    """Close a connection whose peer may have vanished."""
    writer.close()
    try:
        await writer.wait_closed()
    except OSError:
        pass


async def serve(reader, writer):
    """Answer a connection's requests: for asyncio.start_server()."""
    try:
        while message := await read_message(reader):
            await _answer(writer, *message)
    except (OSError, asyncio.IncompleteReadError):
        pass  # The client has vanished.
    finally:
        await close(writer)
