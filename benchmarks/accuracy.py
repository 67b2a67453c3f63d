"""How late do timers fire, do they ever fire early, and how soon is Ctrl-C seen?

`python -m benchmarks.accuracy` runs each loop in a process of its own, interleaved
over rounds.

Sleeps: the overshoot of `asyncio.sleep(delay)` by `time.monotonic`, median and worst.
Early: how many callbacks of `call_later` began before their delay had passed, by
`time.monotonic` (and by the loop's own clock, which may differ).
SIGINT: milliseconds from the signal, sent while the loop sleeps, until the process has
KeyboardInterrupt: under `asyncio.Runner`, and under a bare `run_forever`. A loop that
notices only at its next timer shows that timer's delay.
"""

import argparse
import asyncio
import json
import os
import selectors
import signal
import statistics
import subprocess
import sys
import time

from . import loops
from .process import ROOT, output_of

# Delay in milliseconds, sleeps per round.
SLEEPS = {0.1: 200, 0.3: 200, 1: 100, 2.5: 60, 20: 15}
MEDIAN_TARGET_US = 60
MEDIAN_TARGET_UP_TO_MS = 2.5
SIGINT_TARGET_MS = 20
# A sleeper that misses the signal wakes up after this.
GIVE_UP_SECONDS = 1.5
# Long enough for a loop that said "ready" to be asleep.
SETTLE_SECONDS = 0.05
LIMIT = 60
MEASURE = ("benchmarks.accuracy", "--measure")
INTERRUPTED = ("runner", "run_forever")


async def overshoots(delay, count):
    """Return the overshoots of `count` sleeps, in microseconds."""
    found = []
    for _ in range(count):
        start = time.monotonic()
        await asyncio.sleep(delay)
        found.append((time.monotonic() - start - delay) * 1e6)
    return found


async def early_callbacks(delay, count):
    """Return how many of `count` timers fired before their delay had passed."""
    loop = asyncio.get_running_loop()
    slack = time.get_clock_info("monotonic").resolution
    early = 0
    for _ in range(count):
        done = loop.create_future()

        def fired(start, loop_start, done=done):
            passed = time.monotonic() - start
            loop_passed = loop.time() - loop_start
            done.set_result(min(passed, loop_passed) < delay - slack)

        start = time.monotonic()
        loop.call_later(delay, fired, start, loop.time())
        early += await done
    return early


async def timers():
    """Return what one round finds, by delay in milliseconds."""
    found = {}
    for milliseconds, count in SLEEPS.items():
        delay = milliseconds / 1000
        found[milliseconds] = {
            "overshoots": await overshoots(delay, count),
            "early": await early_callbacks(delay, count),
        }
    return found


def measure_timers(factory):
    with asyncio.Runner(loop_factory=factory) as runner:
        print(json.dumps(runner.run(timers())), flush=True)


def wait_for_interrupt(factory, way):
    """Say "ready", sleep in the loop, and print when KeyboardInterrupt is there."""

    async def sleep():
        print("ready", flush=True)
        await asyncio.sleep(GIVE_UP_SECONDS)

    try:
        if way == "runner":
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(sleep())
        else:
            loop = factory()
            loop.call_soon(print, "ready")
            loop.call_soon(sys.stdout.flush)
            loop.call_later(GIVE_UP_SECONDS, loop.stop)
            loop.run_forever()
    except KeyboardInterrupt:
        pass
    print(time.monotonic(), flush=True)
    os._exit(0)


def timers_of(loop_name):
    """Return one round of a loop's timers, or None if it fails."""
    output = output_of(loop_name, LIMIT, *MEASURE, loop_name, "timers")
    return None if output is None else json.loads(output)


def read_line(process, limit):
    """Return the next line that a process prints; empty if none within `limit`."""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        return process.stdout.readline() if selector.select(limit) else b""


def interrupt_delay(loop_name, way):
    """Return the milliseconds until a sleeping loop has seen SIGINT, or None."""
    process = subprocess.Popen(
        [sys.executable, "-m", *MEASURE, loop_name, way],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    try:
        if read_line(process, loops.IMPORT_LIMIT) != b"ready\n":
            return None
        time.sleep(SETTLE_SECONDS)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        seen = read_line(process, GIVE_UP_SECONDS * 4)
        return (float(seen) - sent) * 1000 if seen else None
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def print_timers(rounds, names):
    """Print a line per delay and loop; return whether aioloop misses its target."""
    missed = False
    print(f"{'sleep':>8}  {'loop':10}{'median us':>10}{'worst us':>10}{'early':>7}")
    for milliseconds in SLEEPS:
        for name in names:
            found = [one[str(milliseconds)] for one in rounds[name]]
            label = f"{milliseconds:>5} ms  {name:10}"
            if not found:
                missed |= name == loops.OURS
                print(f"{label}{'-':>10}{'-':>10}{'-':>7}")
                continue
            late = [us for one in found for us in one["overshoots"]]
            early = sum(one["early"] for one in found)
            median = statistics.median(late)
            mark = ""
            if name == loops.OURS:
                exact = milliseconds <= MEDIAN_TARGET_UP_TO_MS
                if early or min(late) < 0 or (exact and median > MEDIAN_TARGET_US):
                    mark = f"  MISSED: at most {MEDIAN_TARGET_US} us, never early"
                    missed = True
            print(f"{label}{median:10.0f}{max(late):10.0f}{early:7}{mark}")
    return missed


def print_interrupts(delays, names):
    """Print a line per loop and way; return whether aioloop misses its target."""
    missed = False
    print(f"\n{'SIGINT under':14}{'loop':10}{'median ms':>10}{'worst ms':>10}")
    for way in INTERRUPTED:
        for name in names:
            found = delays[name, way]
            seen = [delay for delay in found if delay is not None]
            label = f"{way:14}{name:10}"
            mark = ""
            if name == loops.OURS:
                if len(seen) < len(found) or max(seen) > SIGINT_TARGET_MS:
                    mark = f"  MISSED: within {SIGINT_TARGET_MS} ms"
                    missed = True
            if len(seen) < len(found):
                print(f"{label}{'-':>10}{'-':>10}{mark}")
                continue
            print(f"{label}{statistics.median(seen):10.1f}{max(seen):10.1f}{mark}")
    return missed


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description=__doc__
    )
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--loops", metavar="A,B", help="only these loops")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--check", action="store_true", help="exit with 1 on a miss")
    options = parser.parse_args()
    if options.measure:
        name, what = options.measure
        factory = loops.factory(name)
        if what == "timers":
            measure_timers(factory)
        else:
            wait_for_interrupt(factory, what)
        return 0
    available = loops.installed()
    names = options.loops.split(",") if options.loops else available
    if not set(names) <= set(available):
        parser.error(f"installed here: {', '.join(available)}")
    if options.check and loops.OURS not in names:
        parser.error(f"--check is about {loops.OURS}, which is not among the loops")
    rounds = {name: [] for name in names}
    delays = {(name, way): [] for name in names for way in INTERRUPTED}
    for _ in range(options.rounds):
        for name in names:
            found = timers_of(name)
            if found is not None:
                rounds[name].append(found)
            for way in INTERRUPTED:
                delays[name, way].append(interrupt_delay(name, way))
    missed = print_timers(rounds, names)
    missed |= print_interrupts(delays, names)
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
