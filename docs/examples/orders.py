"""A service that adds orders to a database, which somebody else has locked."""

import asyncio
import contextlib
import os
import sqlite3
import tempfile


class Store:
    def __init__(self, path):
        self.db = sqlite3.connect(path, timeout=2.0)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("CREATE TABLE IF NOT EXISTS orders (number TEXT)")

    def add(self, number):
        return self.db.execute("INSERT INTO orders VALUES (?)", (number,))


async def handle(reader, writer):
    while line := await reader.readline():
        with contextlib.suppress(sqlite3.OperationalError):
            store.add(line.decode().strip())
        writer.write(b"added\n")


async def client(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"4711\n")
    await reader.readline()
    writer.close()


async def main():
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await asyncio.gather(*(client(port) for _ in range(1)))


with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "orders.db")
    store = Store(path)
    other = sqlite3.connect(path)
    other.execute("BEGIN IMMEDIATE")  # A report that somebody runs.
    asyncio.run(main())
