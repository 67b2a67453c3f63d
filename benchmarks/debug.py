"""What does debug mode cost?

    python -m benchmarks.debug [--rounds N] [--seconds S] [--rows PATTERN] [--json]

Each row runs on each loop without debug mode and with it, interleaved over the rounds,
each loop and mode in a process of its own. For aioloop there are three sorts of debug
mode: what looks for slow callbacks, iterations and selectors and checks threads and
callbacks; DebugOptions.production(); and loop.set_debug(True), in which libraries do
what they do in debug mode, and the interpreter takes ten frames of each coroutine's
origin. The table shows the CPU time per operation without debug mode and the ratios of
the medians. Rows that need a package or a server which is not here are left out, and
named.
"""

import argparse
import json
import logging
import statistics
import subprocess
import sys

from . import apps, loops, rows, services  # noqa: F401
from .process import ROOT
from .row import ROWS
from .runner import select_rows
from .worker import calibrate, private_pipes, round_up, sample

PARTS = (
    "call_soon chain",
    "call_soon, bursts of 10 000",
    "bare yield, one task",
    "sleep(0), 1000 tasks",
    "create_task + await in turn",
    "fan-out: create 1000, then await",
    "future ping-pong, one pair",
    "future ping-pong, 500 pairs",
    "gather of 1000, per item",
    "call_later + cancel",
)
OFF, CHECKS, PRODUCTION, FULL = "off", "checks", "production", "set_debug"
MODES = {loops.OURS: (OFF, CHECKS, PRODUCTION, FULL)}
PROGRAMS = (
    "HTTP on streams",
    "uvicorn, server",
    "FastAPI",
    "aiohttp, server",
    "aiohttp, client",
    "redis-py",
    "asyncpg",
    "websockets, server",
)
# The most that debug mode may cost, as a ratio: of the loop's parts and of programs.
LIMITS = {PRODUCTION: 1.5}
LIMITS_OF_PROGRAMS = {CHECKS: 1.05, PRODUCTION: 1.25}


# In the child process.


def options_of(loop, mode):
    """Return the debug options of one of our loops in the given mode."""
    options = type(loop.debug_options)
    if mode == PRODUCTION:
        return options.production()
    return options(
        slow_callbacks=True,
        slow_iterations=True,
        slow_selector=True,
        thread_checks=True,
        callback_checks=True,
    )


def factory_in(name, mode):
    """Return a loop factory whose loops are in the given mode."""
    make = loops.factory(name)

    def factory():
        loop = make()
        loop.set_debug(mode == FULL)
        if mode in (CHECKS, PRODUCTION):
            loop.debug_options = options_of(loop, mode)
        return loop

    return factory


def child(name, mode):
    """Answer requests as benchmarks.worker does."""
    requests, answers = private_pipes()
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    factory = factory_in(name, mode)
    for line in requests:
        request = json.loads(line)
        measured = ROWS[request["row"]]
        n = request["operations"]
        if n is None:
            n = calibrate(measured, factory, request["seconds"])
        else:
            sample(measured, factory, round_up(n // 10, measured.batch))
        clock = sample(measured, factory, n)
        reply = {"operations": n, "cpu": clock.cpu}
        print(json.dumps(reply), file=answers)


# In the parent.


class Child:
    """The process of a loop in a mode."""

    def __init__(self, name, mode):
        self.operations = {}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.debug", "--child", name, mode],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def measure(self, row_name, seconds):
        """Return CPU seconds per operation of one sample."""
        request = {
            "row": row_name,
            "seconds": seconds,
            "operations": self.operations.get(row_name),
        }
        print(json.dumps(request), file=self.process.stdin)
        reply = json.loads(self.process.stdout.readline())
        self.operations[row_name] = reply["operations"]
        return reply["cpu"] / reply["operations"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def measure(row_names, rounds, seconds):
    """Return {row: {loop: {mode: median seconds per operation}}}."""
    columns = [
        (name, mode)
        for name in loops.installed()
        if name in (loops.REFERENCE, "uvloop", loops.OURS)
        for mode in MODES.get(name, (OFF, FULL))
    ]
    samples = {}
    for _ in range(rounds):
        children = {column: Child(*column) for column in columns}
        for row_name in row_names:
            for column, process in children.items():
                taken = process.measure(row_name, seconds)
                samples.setdefault(row_name, {}).setdefault(column, []).append(taken)
        for process in children.values():
            process.close()
    medians = {}
    for row_name, of_row in samples.items():
        for (name, mode), taken in of_row.items():
            place = medians.setdefault(row_name, {}).setdefault(name, {})
            place[mode] = statistics.median(taken)
    return medians


def show(medians):
    names = list(next(iter(medians.values())))
    heads = [f"{'':34}"]
    for name in names:
        heads.append(f"{name + ' ns':>12}")
        heads += [f"{mode:>10}" for mode in MODES.get(name, (OFF, FULL))[1:]]
    print(*heads, f"{'asyncio off / production':>25}")
    missed = []
    for row_name, of_row in medians.items():
        line = [f"{row_name:34}"]
        for name in names:
            base = of_row[name][OFF]
            line.append(f"{base * 1e9:12.0f}")
            for mode in MODES.get(name, (OFF, FULL))[1:]:
                ratio = of_row[name][mode] / base
                line.append(f"{ratio:9.2f}x")
                limits = LIMITS_OF_PROGRAMS if row_name in PROGRAMS else LIMITS
                if name == loops.OURS and ratio > limits.get(mode, float("inf")):
                    missed.append(f"{row_name}, {mode}: {ratio:.2f}x")
        lead = of_row[loops.REFERENCE][OFF] / of_row[loops.OURS][PRODUCTION]
        if lead < 1:
            missed.append(f"{row_name}: asyncio without debug mode is faster")
        print(*line, f"{lead:24.2f}x")
    print(*(f"missed: {text}" for text in missed), sep="\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--rows", action="append", metavar="PATTERN")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
        return
    row_names = select_rows(arguments.rows, (*PARTS, *PROGRAMS))
    if not row_names:
        parser.error("no row matches")
    row_names = apps.available(row_names)
    with services.started(apps.services_of(row_names)):
        medians = measure(row_names, arguments.rounds, arguments.seconds)
    if arguments.json:
        print(json.dumps(medians))
    else:
        show(medians)


if __name__ == "__main__":
    main()
