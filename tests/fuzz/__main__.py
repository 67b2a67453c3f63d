"""The command line: ``python -m tests.fuzz --help``.

``python -m tests.fuzz --minutes 5`` compares the kept programs, and then new ones. One
that differs is made small, shown with the difference, and left in build/fuzz; from
there ``--replay`` runs it again, also on one loop alone.
"""

import argparse
import difflib
import faulthandler
import itertools
import os
import pprint
import random
import sys
import time
from pathlib import Path

from tests.fuzz import generate, kept, modes, shrink

OWN = Path("build/fuzz")
PATIENCE = 60  # seconds for one comparison of a program, which takes milliseconds


def attempt(program, only):
    """Return how many operations of a program were compared, and the difference."""
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    try:
        return modes.compare(program, only), None
    except modes.Difference as difference:
        return 0, difference
    finally:
        faulthandler.cancel_dump_traceback_later()


def shorter(difference):
    """Return the difference of the smallest program that differs in the same mode."""
    only = difference.name, difference.debug
    small = shrink.shrink(
        difference.program, lambda program: attempt(program, only)[1] is not None
    )
    return attempt(small, only)[1] or difference


def tell(difference, seed, most=40):
    """Print a difference, and keep its program for --replay."""
    name = f"{difference.name}{' in debug mode' if difference.debug else ''}"
    print(f"seed {seed}: asyncio and {name} differ")
    lines = difflib.unified_diff(
        difference.expected, difference.found, "asyncio", name, lineterm="", n=6
    )
    print("\n".join(itertools.islice(lines, most)))
    place = OWN / f"{seed}.txt"
    text = pprint.pformat(difference.program, width=88, sort_dicts=False)
    place.write_text(text + "\n")
    print(f"{text}\nagain: python -m tests.fuzz --replay {place}\n", flush=True)


def programs(first):
    """Yield the kept programs, and then one for each seed, each with its name."""
    yield from kept.programs().items()
    for seed in itertools.count(first):
        yield str(seed), generate.Generator(seed).program()


def search(options):
    """Compare programs until the time is over; return how many differ."""
    began = time.monotonic()
    ends = began + 60 * options.minutes
    seed = options.seed
    if seed is None:
        seed = random.SystemRandom().getrandbits(40)
    print(f"seeds from {seed}", flush=True)
    compared = steps = differ = 0
    OWN.mkdir(parents=True, exist_ok=True)
    with open(OWN / "running", "w") as running, modes.captured():
        for name, program in programs(seed):
            if (
                time.monotonic() > ends
                or steps > options.steps
                or differ >= options.most
            ):
                break
            # Whoever finds a crash finds here which program it was.
            os.pwrite(running.fileno(), f"{name:60}\n".encode(), 0)
            operations, difference = attempt(program, None)
            steps += operations
            compared += 1
            if difference is not None:
                differ += 1
                tell(shorter(difference), name)
    took = time.monotonic() - began
    print(
        f"Python {sys.version.split()[0]}: {compared} programs, {steps} operations "
        f"compared in {took:.0f} s ({steps / took:.0f} a second), "
        f"{differ} programs differ"
    )
    return differ


def replay(path, name, debug):
    """Print the trace of a program, or how those of all modes differ."""
    program = kept.read(path)
    OWN.mkdir(parents=True, exist_ok=True)
    with modes.captured():
        if name is not None:
            trace, _ = modes.trace_of(program, name, debug)
            print("\n".join(trace))
            return 0
        _, difference = attempt(program, None)
    if difference is None:
        print("all traces are equal")
        return 0
    tell(difference, path.stem)
    return 1


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument(
        "--steps", type=float, default=float("inf"), help="no more than"
    )
    parser.add_argument("--seed", type=int, help="the first one, else drawn by lot")
    parser.add_argument(
        "--most", type=int, default=5, help="end with so many differences"
    )
    parser.add_argument("--replay", type=Path, metavar="FILE", help="one program")
    parser.add_argument(
        "--loop", choices=modes.LOOPS, help="print its trace on this one"
    )
    parser.add_argument("--debug", action="store_true", help="... in debug mode")
    options = parser.parse_args()
    if options.replay:
        return replay(options.replay, options.loop, options.debug)
    return 1 if search(options) else 0


if __name__ == "__main__":
    sys.exit(main())
