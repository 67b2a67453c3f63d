"""How does the cost of an operation grow with how much there is?

`python -m benchmarks.scale` measures each row at several sizes: how many timers are
pending, tasks wait, callbacks are ready, connections are idle. Each size of each row
of each loop runs in a process of its own, interleaved over rounds; the figure is the
median of the nanoseconds of CPU time per operation. What grows by more than the
processor's caches explain is in the shape of a data structure.

`--markdown FILE` writes the table of docs/performance.md.
"""

import argparse
import asyncio
import os
import random
import resource
import socket
import statistics
import sys
import time
from pathlib import Path

from . import loops
from .process import output_of
from .rows.callbacks import nothing

FAR = 3600
ROUNDS = 20_000  # operations beside what is pending
BUSY = 25  # pairs of connections beside the idle ones
SPAN = 0.2  # seconds in which timers fire
LIMIT = 300


def cpu_per(operations, function):
    """Return the nanoseconds of CPU time that a call takes, by operation."""
    began = time.process_time_ns()
    function()
    return (time.process_time_ns() - began) / operations


def run_ready(loop):
    """Run what is ready, and what that makes ready, until the loop would wait."""
    loop.call_soon(loop.call_soon, loop.stop)
    loop.run_forever()


def schedule_and_cancel(loop, size):
    """call_later + cancel, beside so many timers."""
    kept = [loop.call_later(FAR + i % 1000, nothing) for i in range(size)]

    def operations():
        for i in range(ROUNDS):
            loop.call_later(FAR + i % 777, nothing).cancel()

    result = cpu_per(ROUNDS, operations)
    return result if len(kept) == size else None


def cancel_at_random(loop, size):
    """Schedule so many timers, then cancel them in any order."""
    lot = random.Random(size)
    order = list(range(size))
    lot.shuffle(order)

    def operations():
        timers = [loop.call_later(FAR + i % 1000, nothing) for i in order]
        for i in order:
            timers[i].cancel()
        run_ready(loop)

    return cpu_per(size, operations)


def fire(loop, size):
    """Schedule so many timers that are due together, and run them."""
    when = loop.time() + 0.001
    order = list(range(size))
    random.Random(size).shuffle(order)

    def operations():
        for i in order:
            loop.call_at(when + i * 1e-9, nothing)
        loop.call_at(when + 0.001, loop.stop)
        loop.run_forever()

    return cpu_per(size, operations)


def fire_apart(loop, size):
    """Run so many timers that are due at moments of their own within 0.2 s."""
    start = loop.time() + 0.01 + size * 2e-6
    for i in range(size):
        loop.call_at(start + SPAN * i / size, nothing)
    loop.call_at(start + SPAN + 0.01, loop.stop)
    loop.call_at(start - 0.005, loop.stop)
    loop.run_forever()
    return cpu_per(size, loop.run_forever)


def wake_one_of(loop, size):
    """Let one task of so many that wait run one step, and wait again."""
    turns = ROUNDS // 2
    waits = [None]

    async def wait():
        await loop.create_future()

    async def turn():
        for _ in range(turns):
            waits[0] = loop.create_future()
            await waits[0]
        loop.stop()

    def wake():
        waits[0].set_result(None)
        loop.call_soon(wake)

    kept = [loop.create_task(wait()) for _ in range(size)]
    kept.append(loop.create_task(turn()))
    run_ready(loop)
    loop.call_soon(wake)
    return cpu_per(turns, loop.run_forever)


def tasks(loop, size):
    """Make so many tasks that wait, complete what they wait for, and run them."""

    async def wait(future):
        await future

    def operations():
        futures = [loop.create_future() for _ in range(size)]
        kept = [loop.create_task(wait(future)) for future in futures]
        run_ready(loop)
        for future in futures:
            future.set_result(None)
        run_ready(loop)
        del kept

    return cpu_per(size, operations)


def callbacks(loop, size):
    """Make so many callbacks ready, and run them."""

    def operations():
        for _ in range(size):
            loop.call_soon(nothing)
        run_ready(loop)

    return cpu_per(size, operations)


def beside_idle_connections(loop, size):
    """A byte back and forth over one of 25 connections, beside so many idle ones."""
    kept = []
    for _ in range(size):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        loop.add_reader(ours, nothing)
        kept.append((ours, theirs))
    run_ready(loop)  # A loop may tell the kernel when it waits.
    left = [ROUNDS]

    def answer(end):
        end.send(end.recv(10))
        left[0] -= 1
        if left[0] == 0:
            loop.stop()

    for _ in range(BUSY):
        ends = socket.socketpair()
        for end in ends:
            end.setblocking(False)
            loop.add_reader(end, answer, end)
        ends[0].send(b"x")
        kept.append(ends)
    return cpu_per(ROUNDS, loop.run_forever)


def add_and_remove(loop, size):
    """Watch a descriptor and stop that, beside so many that are watched."""
    kept = [socket.socketpair() for _ in range(size)]
    for ours, _ in kept:
        loop.add_reader(ours, nothing)
    run_ready(loop)
    ours, theirs = socket.socketpair()
    turns = ROUNDS // 4
    left = [turns]

    def turn():
        if left[0] % 2:
            loop.remove_reader(ours)
        else:
            loop.add_reader(ours, nothing)
        left[0] -= 1
        if left[0] == 0:
            loop.stop()
        else:
            loop.call_later(0, turn)

    loop.call_soon(turn)
    result = cpu_per(turns, loop.run_forever)
    theirs.close()
    return result


THOUSANDS = (1_000, 10_000, 100_000, 1_000_000)
SOCKETS = (10, 100, 1_000, 9_000)
ROWS = {
    "call_later + cancel, timers pending": (schedule_and_cancel, THOUSANDS),
    "timers cancelled in any order": (cancel_at_random, THOUSANDS),
    "timers due together": (fire, THOUSANDS),
    "timers at moments of their own within 0.2 s": (fire_apart, THOUSANDS[:3]),
    "a step of one task, tasks waiting": (wake_one_of, THOUSANDS),
    "tasks that wait, all woken": (tasks, THOUSANDS),
    "callbacks ready": (callbacks, THOUSANDS),
    "a byte over 1 of 25 sockets, others idle": (beside_idle_connections, SOCKETS),
    "add_reader, then remove_reader, others watched": (add_and_remove, SOCKETS),
}


def measure(loop_name, row, size):
    """Print the figure of one size of a row and end without tidying up."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    loop = loops.factory(loop_name)()
    asyncio.set_event_loop(loop)
    print(ROWS[row][0](loop, size), flush=True)
    os._exit(0)


def measured(loop_name, row, size):
    """Return the figure as a process of its own measures it, or None."""
    command = ["benchmarks.scale", "--measure", loop_name, row, str(size)]
    output = output_of(f"{loop_name}, {row}", LIMIT, *command)
    return None if output is None else float(output)


def heading(names):
    """Return the first two lines of the Markdown table."""
    return [
        f"| ns per operation | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]


def lines_of(row, found, names):
    """Return a row's lines of the Markdown table: one for each size."""
    lines = []
    for size in ROWS[row][1]:
        taken = [found[name, row, size] for name in names]
        cells = ["-" if value is None else f"{value:.0f}" for value in taken]
        how_many = f"{size:,}".replace(",", " ")
        lines.append(f"| {row}: {how_many} | {' | '.join(cells)} |")
    return lines


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description=__doc__
    )
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--loops", metavar="A,B", help="only these loops")
    parser.add_argument(
        "--rows", metavar="TEXT", help="only rows with this in the name"
    )
    parser.add_argument("--most", type=int, metavar="N", help="no larger sizes")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.measure:
        name, row, size = options.measure
        measure(name, row, int(size))
    available = loops.installed()
    names = options.loops.split(",") if options.loops else available
    if not set(names) <= set(available):
        parser.error(f"installed here: {', '.join(available)}")
    rows = [row for row in ROWS if not options.rows or options.rows in row]
    if not rows:
        parser.error(f"no row has that in its name: {', '.join(ROWS)}")
    lines = heading(names)
    print("\n".join(lines))
    for row in rows:
        samples = {(name, row, size): [] for name in names for size in ROWS[row][1]}
        for _ in range(options.rounds):
            for key in samples:
                if options.most is None or key[2] <= options.most:
                    samples[key].append(measured(*key))
        found = {
            key: None if not values or None in values else statistics.median(values)
            for key, values in samples.items()
        }
        new = lines_of(row, found, names)
        print("\n".join(new), flush=True)
        lines += new
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
