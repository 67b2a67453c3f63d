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
import re
import sys
import time
from pathlib import Path

from tests.fuzz import generate, generate_network, kept, modes, shrink

OWN = Path("build/fuzz")
KINDS = {"core": generate.Generator, "network": generate_network.Generator}
AGAIN = 20
PATIENCE = 120  # seconds for one comparison of a program, which takes milliseconds


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


def signature(difference):
    """Return the first two lines that differ, without numbers: one cause, mostly."""
    pairs = itertools.zip_longest(difference.expected, difference.found, fillvalue="")
    lines = next(pair for pair in pairs if pair[0] != pair[1])
    return re.sub(r"\d+", "", " / ".join(lines))


def programs(first, kinds):
    """Yield the kept programs, and then of each kind one for each seed, with a name."""
    yield from kept.programs().items()
    for seed in itertools.count(first):
        for kind in kinds:
            yield f"{kind}-{seed}", KINDS[kind](seed).program()


def repeats(program):
    """Return a difference that a program has again, or None.

    Threads and the kernel may do once what they do not do again: such a program is
    counted, but it does not say what is wrong.
    """
    for _ in range(AGAIN):
        _, difference = attempt(program, None)
        if difference is not None:
            return difference
    return None


def search(options):
    """Compare programs until the time is over; return how many differ."""
    began = time.monotonic()
    ends = began + 60 * options.minutes
    seed = options.seed
    if seed is None:
        seed = random.SystemRandom().getrandbits(40)
    print(f"seeds from {seed}", flush=True)
    kinds = [options.kind] if options.kind else list(KINDS)
    totals = {kind: [0, 0, 0.0] for kind in kinds}  # programs, operations, seconds
    differ = once = 0
    told = set()
    OWN.mkdir(parents=True, exist_ok=True)
    with open(OWN / "running", "w") as running, modes.captured():
        for name, program in programs(seed, kinds):
            now = time.monotonic()
            steps = sum(total[1] for total in totals.values())
            if now > ends or steps > options.steps or len(told) >= options.most:
                break
            # Whoever finds a crash finds here which program it was.
            os.pwrite(running.fileno(), f"{name:60}\n".encode(), 0)
            operations, difference = attempt(program, None)
            total = totals.get("network" if modes.is_network(program) else "core")
            if total is not None:
                total[0] += 1
                total[1] += operations
                total[2] += time.monotonic() - now
            if difference is None:
                continue
            again = repeats(program)
            if again is None:
                once += 1
                print("only once, of several times:")
                tell(difference, name)
                continue
            differ += 1
            if signature(again) not in told:
                told.add(signature(again))
                tell(shorter(again), name)
    print(f"Python {sys.version.split()[0]}, {time.monotonic() - began:.0f} s:")
    for kind, (compared, steps, took) in totals.items():
        print(
            f"{kind}: {compared} programs, {steps} operations compared"
            f" ({steps / (took or 1):.0f} a second)"
        )
    print(f"{differ} programs differ, {once} more differed only once", flush=True)
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
    parser.add_argument("--kind", choices=KINDS, help="of programs, else all")
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
