"""How many schedules of a program can be tried in a second?

`python -m benchmarks.schedules` runs one program again and again, each time in another
order that a seed decides, with aioloop.testing and with the simulators of asyncio that
are installed: detangle, simloom, simloop (`pip install detangle simloom simloop`). Each
is asked by its own explore(), without shrinking and traces where it can be without. No
run fails, so none stops early. Each has a process of its own; they take turns, round by
round, and the median of the rounds is shown, with the ratio to aioloop's.

- small: 4 tasks take a lock and sleep for a second, three times each.
- large: 100 tasks pass 500 items through a queue, with timeouts.
- empty: a coroutine that returns at once: what a run takes beside its steps.
"""

import argparse
import asyncio
import importlib.util
import json
import statistics
import subprocess
import sys
import time

from .process import ROOT

LIMIT = 120
SECONDS = 0.5  # of each program in a round
ROUNDS = 5


async def small():
    lock = asyncio.Lock()
    total = 0

    async def deposit():
        nonlocal total
        for _ in range(3):
            async with lock:
                before = total
                await asyncio.sleep(1)
                total = before + 1

    await asyncio.gather(*(deposit() for _ in range(4)))
    assert total == 12


async def large():
    queue = asyncio.Queue(maxsize=10)
    done = 0

    async def produce():
        for i in range(10):
            await queue.put(i)
            await asyncio.sleep(0.01)

    async def consume():
        nonlocal done
        for _ in range(10):
            async with asyncio.timeout(60):
                await queue.get()
            done += 1
            await asyncio.sleep(0)

    await asyncio.gather(
        *(produce() for _ in range(50)), *(consume() for _ in range(50))
    )
    assert done == 500


async def empty():
    pass


PROGRAMS = {"small": small, "large": large, "empty": empty}


# In the process that is measured: each tries a program with these seeds.


def seeded(program, seeds):
    from aioloop import testing

    assert not testing.explore(program, seeds=seeds)


def pct(program, seeds):
    from aioloop import testing

    assert not testing.explore(program, seeds=seeds, order="pct")


def detangle(program, seeds):
    import detangle

    detangle.explore(
        program, runs=len(seeds), seed=seeds.start, strategy="random", shrink=False
    )


def simloom(program, seeds):
    import simloom

    found = simloom.explore(program, runs=len(seeds), start_seed=seeds.start)
    assert not found.failures


def simloop(program, seeds):
    import simloop

    assert simloop.explore(program, seeds) is None


WAYS = {
    "aioloop": seeded,
    "aioloop, pct": pct,
    "detangle": detangle,
    "simloom": simloom,
    "simloop": simloop,
}


def measure(way, name):
    """Return the schedules per second, as many being tried as take SECONDS."""
    explore, program = WAYS[way], PROGRAMS[name]
    explore(program, range(5))
    tried, began = 5, time.perf_counter()
    count = 5
    while (passed := time.perf_counter() - began) < SECONDS:
        explore(program, range(tried, tried + count))
        tried += count
        count = min(2 * count, 1000)
    return (tried - 5) / passed


# In the process that asks.


def ask(way, name):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.schedules", "--measure", way, name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{way}, {name}:\n{done.stderr}")
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.schedules", description=__doc__
    )
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--markdown", action="store_true", help="print a table for docs"
    )
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    ways = [way for way in WAYS if importlib.util.find_spec(way.partition(",")[0])]
    found = {(way, name): [] for way in ways for name in PROGRAMS}
    for _ in range(options.rounds):
        for way, name in found:
            found[way, name].append(ask(way, name))
    medians = {key: statistics.median(values) for key, values in found.items()}
    rows = [["schedules per second", *PROGRAMS]]
    for way in ways:
        cells = [
            f"{medians[way, name]:,.0f}".replace(",", " ")
            + f" ({medians[way, name] / medians['aioloop', name]:.3f})"
            for name in PROGRAMS
        ]
        rows.append([way, *cells])
    if options.markdown:
        rows.insert(1, ["---", *["---:"] * len(PROGRAMS)])
        print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    else:
        for first, *cells in rows:
            print(f"{first:24}" + "".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    main()
