"""How many bytes does a waiting task take, and a pending timer?

`python -m benchmarks.memory` starts one process per loop and item, makes ITEMS of
them, and divides the growth of the process's resident memory by their number. That
counts everything: the object, what it refers to, the heap's slot, the allocator's
overhead. A first batch warms the free lists and the loop's own tables up and is not
counted.

A waiting task is a coroutine without variables of its own that awaits a future of its
own; it counts the task, the coroutine with its frame, and the future. A pending timer
is what `call_later(seconds, function)` returns, and its place in the loop's heap.
The references that the program keeps, 8 bytes each, are allocated before.
"""

import argparse
import asyncio
import gc
import os
import resource
import sys

from . import loops
from .process import output_of
from .rows.callbacks import nothing

ITEMS = 200_000
WARM_UP = 2_000
FAR = 3600
LIMIT = 120
TARGETS = {"task": 900, "timer": 240}


def resident_bytes():
    """Return the resident memory of this process; its peak where /proc is missing."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


async def waiting_tasks(kept, start, stop):
    """Fill kept[start:stop] with tasks that wait."""
    loop = asyncio.get_running_loop()

    async def wait():
        await loop.create_future()

    for i in range(start, stop):
        kept[i] = asyncio.create_task(wait())
        if i % 1000 == 0:
            await asyncio.sleep(0)
    await asyncio.sleep(0)


async def pending_timers(kept, start, stop):
    """Fill kept[start:stop] with timers that do not come due."""
    loop = asyncio.get_running_loop()
    for i in range(start, stop):
        kept[i] = loop.call_later(FAR, nothing)


async def growth(fill):
    """Return the bytes per item that `fill` makes."""
    kept = [None] * (WARM_UP + ITEMS)
    await fill(kept, 0, WARM_UP)
    gc.collect()
    before = resident_bytes()
    await fill(kept, WARM_UP, WARM_UP + ITEMS)
    gc.collect()
    return (resident_bytes() - before) / ITEMS


FILLS = {"task": waiting_tasks, "timer": pending_timers}


def measure(loop_name, item):
    """Print the bytes per item of a loop and end without tidying up."""
    runner = asyncio.Runner(loop_factory=loops.factory(loop_name))
    print(round(runner.run(growth(FILLS[item]))), flush=True)
    os._exit(0)


def measured(loop_name, item, module="benchmarks.memory"):
    """Return the bytes per item as a process of `module` measures them, or None."""
    label = f"{loop_name}, {item}"
    output = output_of(label, LIMIT, module, "--measure", loop_name, item)
    return None if output is None else int(output)


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory", description=__doc__
    )
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--check", action="store_true", help="exit with 1 on a miss")
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure)
    names = loops.installed()
    if options.check and loops.OURS not in names:
        parser.error(f"--check is about {loops.OURS}, which is not installed")
    missed = False
    print(f"{'bytes per':16}" + "".join(f"{name:>10}" for name in names) + "    target")
    for item, target in TARGETS.items():
        line = f"{'waiting task' if item == 'task' else 'pending timer':16}"
        for name in names:
            found = measured(name, item)
            line += f"{'-' if found is None else found:>10}"
            if name == loops.OURS and (found is None or found > target):
                missed = True
                line += "!"
        print(f"{line}{target:10}")
    if missed:
        print(f"! {loops.OURS} misses its target")
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
