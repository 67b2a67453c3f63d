"""An unchanged asyncio program: what ``make run`` shows.

It imports nothing but the standard library and never names aioloop. Run it with
``python -m aioloop -m aioloop.demo`` and with plain Python to compare the first line.
"""

import asyncio
import os
import signal
import sys
import threading
import time


def show(what: str, text: str) -> None:
    print(f"  {what:<10} {text}", flush=True)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def streams() -> None:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"hello over TCP\n")
        reply = await reader.readline()
        show("streams", f"echo server answered {reply.decode().strip()!r}")

        rounds = 2000
        start = time.perf_counter()
        for _ in range(rounds):
            writer.write(b"ping\n")
            await reader.readline()
        each = (time.perf_counter() - start) / rounds
        show("", f"{rounds} round trips of 5 bytes, {each * 1e6:.0f} us each")
        writer.close()
        await writer.wait_closed()


async def subprocess() -> None:
    process = await asyncio.create_subprocess_exec(
        *("tr", "[:lower:]", "[:upper:]"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate(b"from a child process")
    show("subprocess", f"tr wrote {output.decode()!r}, status {process.returncode}")


async def unix_signal() -> None:
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, arrived.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    async with asyncio.timeout(5):
        await arrived.wait()
    loop.remove_signal_handler(signal.SIGUSR1)
    show("signal", "SIGUSR1 arrived")


async def executor() -> None:
    def job() -> bool:
        return threading.current_thread() is not threading.main_thread()

    loop = asyncio.get_running_loop()
    elsewhere = await loop.run_in_executor(None, job)
    show("executor", f"a job ran in {'another' if elsewhere else 'the same'} thread")


async def tasks() -> None:
    async def one(number: int) -> int:
        await asyncio.sleep(0)
        return number

    count = 10_000
    start = time.perf_counter()
    total = sum(await asyncio.gather(*map(one, range(count))))
    each = (time.perf_counter() - start) / count
    assert total == count * (count - 1) // 2
    show("tasks", f"{count} tasks gathered, {each * 1e6:.1f} us each")


async def main() -> None:
    kind = type(asyncio.get_running_loop())
    version = sys.version.split()[0]
    print(f"asyncio on {kind.__module__}.{kind.__qualname__}, Python {version}")
    await streams()
    await subprocess()
    await unix_signal()
    await executor()
    await tasks()
    print("done")


if __name__ == "__main__":
    asyncio.run(main())
