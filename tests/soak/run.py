"""A run of the soak: laps of all loads, what is left after each, and the verdict."""

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import gc
import math
import os
import random
import statistics
import sys
import threading
import time
import traceback
from pathlib import Path

from . import http, loads

# Seconds that a round, and what a round leaves behind, may take; seconds of a lap.
ROUND_LIMIT = 300
SETTLE_LIMIT = 60
SHORTEST_LAP, LONGEST_LAP, LAPS = 1, 30, 20
WORKERS = 4  # of the default executor
# The first laps fill caches and free lists: so many tell a leak from that.
LAPS_TO_JUDGE_MEMORY = 12
# What memory may grow by from the middle third of the laps to the last.
MEGABYTES, BLOCKS, SHARE = 8, 5_000, 0.02
COUNTED = ("descriptors", "threads", "tasks", "timers")


@dataclasses.dataclass
class Left:
    """What there is when nothing happens."""

    descriptors: int
    threads: int
    tasks: int
    timers: int
    megabytes: float = 0.0
    blocks: int = 0

    def counts(self):
        """Return what has to be the same after each lap."""
        return {name: getattr(self, name) for name in COUNTED}


def resident_megabytes():
    """Return the resident memory of this process, 0 where /proc is missing."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except FileNotFoundError:
        return 0.0


def number_of_entries(*paths):
    """Return how many entries the first of the folders has that exists."""
    for path in paths:
        if os.path.isdir(path):
            return len(os.listdir(path))
    return 0


def number_of_threads():
    """Return how many threads there are, but for aioloop's own, begun at need."""
    comms = []
    for path in Path("/proc/self/task").glob("*/comm"):
        # It may have ended meanwhile.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            comms.append(path.read_text())
    if not comms:
        return threading.active_count()
    return sum(not comm.startswith("aioloop-") for comm in comms)


class Probe:
    """A timer every 10 ms, and by how many seconds it is late."""

    INTERVAL = 0.01
    FINENESS = 1.02  # of what is kept: the ratio of neighbouring numbers

    def __init__(self, loop):
        self.loop = loop
        self.classes = collections.Counter()
        self.longest = 0.0

    def start(self):
        self.timer = self.loop.call_later(self.INTERVAL, self._tick)

    def stop(self):
        self.timer.cancel()

    def _tick(self):
        self.add(self.loop.time() - self.timer.when())
        self.start()

    def add(self, late):
        """Count one that was so late."""
        self.longest = max(self.longest, late)
        self.classes[round(math.log(max(late, 1e-6), self.FINENESS))] += 1

    def quantile(self, share):
        """Return the seconds that a share of the timers was not later than."""
        left = math.ceil(share * self.classes.total())
        for number in sorted(self.classes):
            left -= self.classes[number]
            if left <= 0:
                return self.FINENESS**number
        return 0.0


def judge(laps):
    """Say what is not flat in a list of Left: texts, none if all is."""
    faults = []
    for name in COUNTED if laps else ():
        numbers = [getattr(left, name) for left in laps]
        if numbers[-1] > numbers[0]:
            faults.append(f"{name}: {numbers[0]} after the first lap, {numbers}")
    if len(laps) < LAPS_TO_JUDGE_MEMORY:
        return faults
    third = len(laps) // 3
    for name, allowed in ("megabytes", MEGABYTES), ("blocks", BLOCKS):
        numbers = [getattr(left, name) for left in laps]
        middle = statistics.median(numbers[-2 * third : -third])
        last = statistics.median(numbers[-third:])
        if last - middle > allowed + SHARE * middle:
            faults.append(f"{name}: {middle:.0f} became {last:.0f}, {numbers}")
    return faults


class Run:
    """The state of a run, which the loads use and count in."""

    def __init__(self, new_event_loop, seconds, crowd, seed):
        self.new_event_loop = new_event_loop
        self.seconds = seconds
        self.crowd = crowd
        self.random = random.Random(seed)
        self.rounds = collections.Counter()
        self.bytes_checked = self.connections = self.most_connections = 0
        self.loops = self.cancelled = 0
        self.laps = []
        self.faults = []
        self.broken = False  # A round has failed; what is dropped then is no fault.

    # What the loads use.

    def bytes(self, size):
        """Return so many bytes that are not the same each time."""
        return http.piece(self.random.randrange(len(http.BLOCK)), size)

    def check(self, got, expected):
        """Compare what came with what was sent."""
        assert got == expected, f"{len(got)} bytes are not the {len(expected)} sent"
        self.bytes_checked += len(got)

    # The run.

    def report(self, loop, context):
        """Take down what the loop reports: for set_exception_handler()."""
        if not self.broken:
            self.faults.append(f"the loop's report: {context}")

    def report_unraisable(self, unraisable):
        """Take down what could not be raised: for sys.unraisablehook."""
        if self.broken:
            return
        self.faults.append(
            f"unraisable: {unraisable.exc_value!r} {unraisable.object!r}"
        )

    def _left(self):
        return Left(
            number_of_entries("/proc/self/fd", "/dev/fd"),
            number_of_threads(),
            len(asyncio.all_tasks()),
            sum(not timer.cancelled() for timer in self.loop._scheduled),
        )

    async def _settle(self):
        """Wait until all is over that a lap has begun; return what is left."""
        wanted = self.laps[0].counts() if self.laps else None
        until = time.monotonic() + SETTLE_LIMIT
        before = None
        while time.monotonic() < until:
            gc.collect()
            left = self._left()
            counts = left.counts()
            if counts == before and (
                wanted is None or all(counts[name] <= wanted[name] for name in COUNTED)
            ):
                break
            before = counts
            await asyncio.sleep(0.1)
        left.megabytes = resident_megabytes()
        left.blocks = sys.getallocatedblocks()
        return left

    async def _round(self, load, *arguments):
        try:
            async with asyncio.timeout(ROUND_LIMIT):
                await load(self, *arguments)
        except BaseException:
            self.broken = True
            raise

    async def _repeat(self, name, end):
        while True:
            await self._round(loads.LOADS[name])
            self.rounds[name] += 1
            if self.loop.time() >= end:
                return

    async def _lap(self, seconds, with_crowd):
        self.probe.start()
        end = self.loop.time() + seconds
        async with asyncio.TaskGroup() as group:
            for name in loads.LOADS:
                group.create_task(self._repeat(name, end), name=name)
            if with_crowd:
                group.create_task(self._round(loads.crowd, self.crowd))
        self.probe.stop()
        self.laps.append(await self._settle())

    async def _laps(self):
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(self.report)
        self.loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(WORKERS))
        self.probe = Probe(self.loop)
        lap = min(max(self.seconds / LAPS, SHORTEST_LAP), LONGEST_LAP)
        count = max(3, round(self.seconds / lap))
        async with loads.servers(self):
            # As many threads as there will ever be: none goes on before all have begun.
            met = threading.Barrier(WORKERS)
            await asyncio.gather(
                *(asyncio.to_thread(met.wait, SETTLE_LIMIT) for _ in range(WORKERS))
            )
            for number in range(count):
                await self._lap(lap, number % max(1, count // 4) == 0)
                if self.faults:
                    return

    def go(self):
        """Run it all. `faults` is empty afterwards if nothing was wrong."""
        began = time.monotonic()
        hook, sys.unraisablehook = sys.unraisablehook, self.report_unraisable
        try:
            with asyncio.Runner(loop_factory=self.new_event_loop) as runner:
                runner.run(self._laps())
            gc.collect()
        except Exception:
            self.faults.append(traceback.format_exc())
        finally:
            sys.unraisablehook = hook
        self.took = time.monotonic() - began
        self.faults += judge(self.laps)

    def summary(self):
        """Return (what, how much) of all that was counted, in two laps or more."""
        first, last = self.laps[0], self.laps[-1]
        rows = [
            ("seconds, laps", f"{self.took:.0f}, {len(self.laps)}"),
            ("bytes compared", f"{self.bytes_checked:,}"),
            ("connections", f"{self.connections:,}, {self.most_connections:,} at once"),
            ("loops in threads", f"{self.loops:,}"),
            ("tasks cancelled", f"{self.cancelled:,}"),
        ]
        rows += [(name, f"{n:,} rounds") for name, n in sorted(self.rounds.items())]
        rows += [
            (
                f"{name} after the first and the last lap",
                f"{getattr(first, name)}, {getattr(last, name)}",
            )
            for name in COUNTED
        ]
        third = max(1, len(self.laps) // 3)
        for name in "megabytes", "blocks":
            middle, end = (
                statistics.median(getattr(left, name) for left in part)
                for part in (self.laps[-2 * third : -third], self.laps[-third:])
            )
            what = f"{name} in the middle and in the last third"
            rows.append((what, f"{middle:,.0f}, {end:,.0f}"))
        late = [self.probe.quantile(share) * 1000 for share in (0.5, 0.99)]
        rows.append(
            (
                "a timer is late by, in ms: median, p99, longest",
                f"{late[0]:.1f}, {late[1]:.1f}, {self.probe.longest * 1000:.0f}",
            )
        )
        return rows
