"""The process of one loop: it measures rows when the runner tells it to.

`python -m benchmarks.worker LOOP` reads one JSON request per line from its standard
input and answers each with one JSON line on what was its standard output:

    {"row": NAME, "operations": N or null, "seconds": S, "measure": true}
    {"operations": N, "cpu": SECONDS, "wall": SECONDS}   or   {"error": TEXT}

Without `operations` it finds the count that makes a sample last about S seconds.
A row that raises is answered with its error; a row that kills or hangs the process is
the runner's to notice. Whatever a loop or a child prints goes to standard error.
"""

import asyncio
import gc
import json
import os
import sys

from . import apps, loops, rows  # noqa: F401
from .row import ROWS, Clock

# A trial shorter than this is too short to calibrate by.
TRIAL_SECONDS = 0.01
WARM_UP_SHARE = 10


def sample(row, factory, n):
    """Run `n` operations of `row` on a new loop and return its stopped clock."""
    clock = Clock()
    gc.collect()
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(row.run(clock, n))
    return clock


def round_up(n, batch):
    """Return the smallest positive multiple of `batch` that is at least `n`."""
    return max(1, -(-n // batch)) * batch


def calibrate(row, factory, seconds):
    """Return the operation count that makes a sample of `row` last about `seconds`.

    Elapsed time counts here, whatever the row's clock is.
    """
    n = row.batch
    while True:
        wall = sample(row, factory, n).wall
        if wall >= min(TRIAL_SECONDS, seconds):
            return round_up(int(n * seconds / wall), row.batch)
        n *= 10 if wall < TRIAL_SECONDS / 10 else 2


def answer(request, factory):
    """Measure what `request` names and return the answer to it."""
    row = ROWS[request["row"]]
    n = request["operations"]
    if n is None:
        n = calibrate(row, factory, request["seconds"])
    else:
        sample(row, factory, round_up(n // WARM_UP_SHARE, row.batch))
    clock = sample(row, factory, n)
    return {"operations": n, "cpu": clock.cpu, "wall": clock.wall}


def private_pipes():
    """Take standard input and output for the protocol and give others in place.

    Returns the two as text files. Child processes inherit the null device and
    standard error instead.
    """
    requests = os.fdopen(os.dup(0), "r")
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return requests, answers


def main():
    name = sys.argv[1]
    requests, answers = private_pipes()
    factory = loops.factory(name)
    print(json.dumps({"version": loops.version(name)}), file=answers)
    for line in requests:
        try:
            reply = answer(json.loads(line), factory)
        except Exception as error:
            # Not swallowed: the runner shows it under the table.
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=answers)


if __name__ == "__main__":
    main()
