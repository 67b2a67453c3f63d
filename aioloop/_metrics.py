"""What ``loop.metrics()`` returns: a snapshot of a loop's counters and histograms."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ._ask import ask, must_be_asked

if TYPE_CHECKING:
    from ._loop import Loop

PATIENCE = 5.0  # seconds in which a loop has to answer that another thread runs

# What the snapshots' numbers are: they only grow, so that the difference of two is what
# happened in between, or they tell how things stand.
COUNTERS = (
    "time_active",
    "time_idle",
    "time_waiting_gil",
    "iterations",
    "callbacks",
    "task_steps",
    "bytes_received",
    "bytes_sent",
    "tasks_created",
    "tasks_done",
    "tasks_cancelled",
    "tasks_failed",
    "stalls",
    "slow_callbacks",
    "never_retrieved_exceptions",
    "destroyed_pending_tasks",
)
HISTOGRAMS = ("queue_delay", "callback_duration", "timer_lateness")
# What is measured while loop.metering is on; all else is counted always.
MEASURED = {"time_active", "time_idle", "time_waiting_gil", "ready_max", *HISTOGRAMS}
# What aioloop.prometheus and aioloop.opentelemetry say of each.
DESCRIPTIONS = {
    "time_active": "Time in which the event loop ran callbacks",
    "time_idle": "Time in which the event loop waited for something to do",
    "time_waiting_gil": "Time in which the event loop waited for the GIL",
    "iterations": "Iterations of the event loop",
    "callbacks": "Callbacks, steps of tasks and work of transports that ran",
    "task_steps": "Steps of tasks that ran",
    "bytes_received": "Bytes received by transports and sock_* methods",
    "bytes_sent": "Bytes sent by transports and sock_* methods",
    "tasks_created": "Tasks that were made",
    "tasks_done": "Tasks that ended with a result",
    "tasks_cancelled": "Tasks that were cancelled",
    "tasks_failed": "Tasks that ended with an exception",
    "stalls": "Times when the event loop was stuck for longer than its threshold",
    "slow_callbacks": "Callbacks that debug mode found slow",
    "never_retrieved_exceptions": "Exceptions that nobody retrieved",
    "destroyed_pending_tasks": "Tasks that were collected while they were pending",
    "queue_delay": "Time from when a callback was queued until it ran",
    "callback_duration": "How long callbacks and steps of tasks took",
    "timer_lateness": "How much after their time timers ran",
    "ready": "Callbacks that are ready to run",
    "ready_max": "The most callbacks that were ready in an iteration, ever",
    "timers": "Timers that are set",
    "descriptors": "Descriptors that are watched",
    "transports": "Transports that are open",
    "tasks_alive": "Tasks that have not ended",
    "executor_queued": "Jobs of the default executor that wait for a thread",
    "executor_running": "Jobs of the default executor that run",
}


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Durations, counted in buckets.

    ``counts[i]`` is the number of those of at most ``bounds[i]`` seconds that are in no
    bucket before; the last count, for which there is no bound, is of longer ones.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float
    """Seconds, all durations together."""

    @property
    def count(self) -> int:
        """How many durations there are."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Seconds; 0 if there are none."""
        return self.sum / self.count if self.count else 0.0

    def quantile(self, q: float) -> float:
        """Return the seconds within which the part q (0 to 1) of the durations is.

        It is the bound of a bucket, so at most 2.5 times too much; infinity for longer
        ones than the last bound, and 0 where there are none.
        """
        if not 0 <= q <= 1:
            raise ValueError("q must be between 0 and 1")
        left = q * self.count
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            left -= count
            if count and left <= 0:
                return bound
        return 0.0

    def __sub__(self, earlier: Histogram) -> Histogram:
        """Return what has been added since an earlier snapshot."""
        if not isinstance(earlier, Histogram):
            return NotImplemented
        pairs = zip(self.counts, earlier.counts, strict=True)
        counts = tuple(now - before for now, before in pairs)
        return Histogram(self.bounds, counts, self.sum - earlier.sum)


@dataclasses.dataclass(frozen=True)
class Metrics:
    """A snapshot of a loop's counters, or the difference of two.

    ``later - earlier`` is what happened in between: an object of the same class whose
    counters, times and histograms are those of the interval, and whose other numbers
    are those of the later snapshot. Times are seconds. What is marked with * is
    measured while ``loop.metering`` is on, all else always.
    """

    when: float
    """``loop.time()`` of the snapshot."""
    time_active: float
    """* Seconds in which the loop ran callbacks, or was on its way between them."""
    time_idle: float
    """* Seconds in which it waited for something to do."""
    time_waiting_gil: float
    """* Seconds in which there was something to do, and it waited for the GIL."""
    iterations: int
    callbacks: int
    """Everything that ran: callbacks, steps of tasks, work of transports."""
    task_steps: int
    queue_delay: Histogram
    """* From the moment at which a callback was queued until it ran. The clock is not
    read for that: the moment is when the callback that queued it began, or when the
    selector told of the event."""
    callback_duration: Histogram
    """* How long callbacks and steps took."""
    timer_lateness: Histogram
    """* How much after their time the timers' callbacks ran."""
    ready: int
    """Callbacks that are ready to run."""
    ready_max: int
    """* The most that were, at the beginning of an iteration, ever."""
    timers: int
    descriptors: int
    """Watched ones."""
    transports: int
    bytes_received: int
    bytes_sent: int
    tasks_alive: int
    tasks_created: int
    tasks_done: int
    """With a result."""
    tasks_cancelled: int
    tasks_failed: int
    """With an exception."""
    executor_queued: int
    """Jobs of the loop's default executor that wait for a thread."""
    executor_running: int
    """Jobs that have one."""
    stalls: int
    slow_callbacks: int
    """In debug mode."""
    never_retrieved_exceptions: int
    destroyed_pending_tasks: int

    @property
    def utilization(self) -> float:
        """The part of the time, 0 to 1, in which the loop was busy; 0 if unknown.

        Waiting for the GIL counts as busy: there was something to do.
        """
        busy = self.time_active + self.time_waiting_gil
        total = busy + self.time_idle
        return busy / total if total > 0 else 0.0

    def __sub__(self, earlier: Metrics) -> Metrics:
        """Return the interval between an earlier snapshot of the loop and this one."""
        if not isinstance(earlier, Metrics):
            return NotImplemented
        names = (*COUNTERS, *HISTOGRAMS)
        grown = {name: getattr(self, name) - getattr(earlier, name) for name in names}
        return dataclasses.replace(self, **grown)


def read(loop: Loop) -> Metrics:
    """Take a snapshot of a loop's metrics."""
    if must_be_asked(loop):
        return ask(loop, lambda: read(loop), PATIENCE)
    raw = loop._read_metrics()
    bounds = tuple(bound / 1e9 for bound in raw.pop("bounds"))
    nothing = (0,) * (len(bounds) + 1)
    for name in HISTOGRAMS:
        counts, total = raw.get(name, (nothing, 0))
        raw[name] = Histogram(bounds, counts, total / 1e9)
    queued, running = executor_jobs(loop)
    return Metrics(
        when=raw.pop("when") / 1e9,
        time_active=raw.pop("active", 0) / 1e9,
        time_idle=raw.pop("idle", 0) / 1e9,
        time_waiting_gil=raw.pop("gil", 0) / 1e9,
        ready_max=raw.pop("most_ready", 0),
        executor_queued=queued,
        executor_running=running,
        **raw,
    )


def named(loops: Loop | Mapping[str, Loop]) -> list[tuple[str | None, Loop]]:
    """Return (name, loop) pairs of what the adapters take: one loop has no name."""
    if isinstance(loops, Mapping):
        return list(loops.items())
    return [(None, loops)]


def executor_jobs(loop: Loop) -> tuple[int, int]:
    """Return how many jobs of the loop's default executor wait, and how many run.

    That is read from the attributes that concurrent.futures.ThreadPoolExecutor has in
    every supported version; of another executor nothing is known.
    """
    executor = getattr(loop, "_default_executor", None)
    try:
        queued = executor._work_queue.qsize()
        running = len(executor._threads) - executor._idle_semaphore._value
    except AttributeError:
        return 0, 0
    return queued, max(running, 0)
