"""How many machine instructions does an operation take?

`python -m benchmarks.instructions` counts them: unlike time they hardly change from
one run to the next, whatever else the machine does, so they are fit for gates. Each
count is the difference between two runs of a row with different operation counts,
divided by the difference of the counts: start-up, set-up and clean-up cancel out.

`perf stat` counts where the processor's counters can be used, else valgrind's
callgrind does, which is slow: some ten seconds per row and loop. Only what one thread
does in user space is counted, so rows of threads and processes are not offered.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys

from . import apps, loops, rows  # noqa: F401
from .process import ROOT
from .row import CPU, ROWS
from .runner import select_rows
from .worker import round_up, sample

DEFAULT_ROWS = (
    "call_soon chain",
    "sleep(0), one task",
    "create_task + await in turn",
    "gather of 1000, per item",
    "future ping-pong, one pair",
    "call_later + cancel",
    "chain, a timer pending",
    "busy server: create + await",
)
FEW = 1_000
STEPS = 4_000
LIMIT = 600
PERF = ["perf", "stat", "-x,", "-e", "instructions:u"]
CALLGRIND = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]


def counted(prefix, command, folder=ROOT):
    """Run a command under `prefix` and return its count, or None if there is none."""
    done = subprocess.run(
        [*prefix, *command],
        cwd=folder,
        env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=LIMIT,
    )
    pattern = r"^(\d+),.*instructions" if prefix is PERF else r"Collected : (\d+)"
    found = re.search(pattern, done.stderr, re.MULTILINE)
    return int(found[1]) if done.returncode == 0 and found else None


def counting_command():
    """Return the command prefix that counts instructions here, or None."""
    for prefix in (PERF, CALLGRIND):
        usable = shutil.which(prefix[0]) and counted(prefix, ["true"]) is not None
        if usable:
            return prefix
    return None


def per_operation(prefix, loop_name, row_name, folder=ROOT):
    """Return the instructions per operation of a row on a loop, or None.

    `folder` is the tree of sources, built, whose loop and row it is.
    """
    batch = ROWS[row_name].batch
    few = round_up(FEW, batch)
    many = round_up(few + STEPS, batch)
    counts = []
    for n in (few, many):
        command = [sys.executable, "-m", "benchmarks.instructions", "--measure"]
        count = counted(prefix, [*command, loop_name, row_name, str(n)], folder)
        if count is None:
            return None
        counts.append(count)
    return (counts[1] - counts[0]) / (many - few)


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.instructions", description=__doc__
    )
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument(
        "--rows", action="append", metavar="PATTERN", help="rows instead of the usual"
    )
    parser.add_argument("--loops", metavar="A,B", help="only these loops")
    parser.add_argument("--json", metavar="FILE", help="write the counts")
    options = parser.parse_args()
    if options.measure:
        loop_name, row_name, n = options.measure
        sample(ROWS[row_name], loops.factory(loop_name), int(n))
        return 0
    available = loops.installed()
    names = options.loops.split(",") if options.loops else available
    if not set(names) <= {*available, loops.ACCELERATED}:
        parser.error(f"installed here: {', '.join(available)}")
    chosen = select_rows(options.rows) if options.rows else list(DEFAULT_ROWS)
    chosen = [name for name in chosen if ROWS[name].clock == CPU]
    prefix = counting_command()
    if prefix is None:
        print("neither perf's instruction counter nor valgrind can be used here")
        return 1
    print(f"instructions per operation, counted by {prefix[0]}")
    print(f"{'':36}" + "".join(f"{name:>10}" for name in names))
    counts = {}
    for row_name in chosen:
        found = {name: per_operation(prefix, name, row_name) for name in names}
        counts[row_name] = found
        cells = ["-" if count is None else f"{count:.0f}" for count in found.values()]
        print(f"{row_name:36}" + "".join(f"{cell:>10}" for cell in cells), flush=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(counts, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
