"""How many operations do N loops make together, side by side?

`python -m benchmarks.threads` runs 1, 2 and 4 loops at once: in threads (of use where
there is no GIL: CPython 3.13t with PYTHON_GIL=0), in sub-interpreters with a GIL each
(3.14 or newer) and, for what the machine can do at most, in processes. The figures are
thousands of operations a second of all loops together, medians of interleaved rounds.
"""

import argparse
import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import threading
import time

from . import loops
from .process import ROOT

NUMBERS = (1, 2, 4)


async def nothing():
    pass


async def tasks(count):
    """Make so many tasks, one after the other."""
    create = asyncio.get_running_loop().create_task
    for _ in range(count):
        await create(nothing())


class End(asyncio.Protocol):
    """Sends back what comes, `left` times."""

    def __init__(self, left):
        self.left = left
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.left -= 1
        if self.left >= 0:
            self.transport.write(data)
        elif not self.over.done():
            self.over.set_result(None)


async def echoes(count):
    """Send a message to an echo server of the same loop, so many times."""
    loop = asyncio.get_running_loop()
    one, other = socket.socketpair()
    _, server = await loop.create_connection(lambda: End(count), sock=one)
    _, client = await loop.create_connection(lambda: End(count - 1), sock=other)
    client.transport.write(bytes(100))
    await client.over
    client.transport.close()
    server.transport.close()


OPERATIONS = {"tasks": (tasks, 100_000), "echo requests": (echoes, 20_000)}


def work(loop_name, operation, ready, go, result):
    """Run an operation on a loop, from the moment that all are ready; tell the seconds.

    The last three are descriptors of pipes, which threads, interpreters and processes
    have alike.
    """
    function, count = OPERATIONS[operation]
    loop = loops.factory(loop_name)()
    loop.run_until_complete(function(count // 10))
    os.write(ready, b"r")
    os.read(go, 1)
    began = time.perf_counter()
    loop.run_until_complete(function(count))
    took = time.perf_counter() - began
    loop.close()
    os.write(result, f"{took}\n".encode())


def in_thread(arguments):
    thread = threading.Thread(target=work, args=arguments)
    thread.start()
    return thread.join


def program(arguments):
    return (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"from benchmarks.threads import work; work(*{arguments!r})"
    )


def in_interpreter(arguments):
    from concurrent import interpreters

    interpreter = interpreters.create()
    thread = threading.Thread(target=interpreter.exec, args=[program(arguments)])
    thread.start()

    def end():
        thread.join()
        interpreter.close()

    return end


def in_process(arguments):
    command = [sys.executable, "-c", program(arguments)]
    return subprocess.Popen(command, pass_fds=arguments[2:]).wait


PLACES = {
    "threads": in_thread,
    "interpreters": in_interpreter,
    "processes": in_process,
}


def available():
    """Return the places that show something on this interpreter."""
    found = ["processes"]
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        found.insert(0, "threads")
    elif sys.version_info >= (3, 14):
        found.insert(0, "interpreters")
    return found


def rate(place, number, loop_name, operation):
    """Return the operations a second of so many loops together."""
    with contextlib.ExitStack() as stack:
        pipes = [os.pipe() for _ in range(3)]
        for end in (end for pipe in pipes for end in pipe):
            stack.callback(os.close, end)
        (ready, ready_in), (go, go_in), (result, result_in) = pipes
        arguments = (loop_name, operation, ready_in, go, result_in)
        ends = [PLACES[place](arguments) for _ in range(number)]
        for _ in range(number):
            os.read(ready, 1)
        os.write(go_in, b"g" * number)
        lines = b""
        while lines.count(b"\n") < number:
            lines += os.read(result, 1000)
        for end in ends:
            end()
    return number * OPERATIONS[operation][1] / max(map(float, lines.split()))


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.threads", description=__doc__
    )
    parser.add_argument("--loops", metavar="A,B", help="only these loops")
    parser.add_argument("--places", metavar="A,B", help="threads, interpreters, ...")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    options = parser.parse_args()
    names = options.loops.split(",") if options.loops else loops.installed()
    places = options.places.split(",") if options.places else available()
    print("|", " | ".join(["1000 a second", "place", *map(str, NUMBERS)]), "|")
    print("|---" * (2 + len(NUMBERS)) + "|")
    for operation in OPERATIONS:
        keys = [(p, n, name) for name in names for p in places for n in NUMBERS]
        samples = {key: [] for key in keys}
        for _ in range(options.rounds):
            for place, number, name in keys:
                taken = rate(place, number, name, operation)
                samples[place, number, name].append(taken)
        for name in names:
            for place in places:
                found = (samples[place, number, name] for number in NUMBERS)
                cells = [f"{statistics.median(one) / 1000:.0f}" for one in found]
                print("|", " | ".join([f"{name}, {operation}", place, *cells]), "|")
    return 0


if __name__ == "__main__":
    sys.exit(main())
