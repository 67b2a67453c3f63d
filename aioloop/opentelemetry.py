"""A loop's metrics for OpenTelemetry, by the package opentelemetry-api.

::

    from aioloop import opentelemetry

    loop.metering = True
    opentelemetry.observe(loop)

It is imported only when asked for, and so is opentelemetry-api. The names are those
that the semantic conventions have for Node.js, with ``asyncio.`` in the place of
``nodejs.``. The API has no histogram that can be observed, so of durations there are
gauges, as the conventions have them: of the time since the last collection. The
standard deviation is not among them, for buckets do not tell it.
"""

from __future__ import annotations

import functools
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import Observation, get_meter

from ._metrics import DESCRIPTIONS, MEASURED, named
from ._version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from opentelemetry.metrics import Meter

    from ._loop import Loop
    from ._metrics import Histogram, Metrics

LOOP_NAME = "asyncio.eventloop.name"
COUNTER, UP_DOWN, GAUGE = "counter", "up_down_counter", "gauge"
# Name: kind, unit, and what of the metrics it is.
SINGLE = {
    "asyncio.eventloop.iterations": (COUNTER, "{iteration}", "iterations"),
    "asyncio.eventloop.callbacks": (COUNTER, "{callback}", "callbacks"),
    "asyncio.eventloop.slow_callbacks": (COUNTER, "{callback}", "slow_callbacks"),
    "asyncio.eventloop.stalls": (COUNTER, "{stall}", "stalls"),
    "asyncio.eventloop.ready": (UP_DOWN, "{callback}", "ready"),
    "asyncio.eventloop.ready.max": (GAUGE, "{callback}", "ready_max"),
    "asyncio.eventloop.timers": (UP_DOWN, "{timer}", "timers"),
    "asyncio.eventloop.descriptors": (UP_DOWN, "{descriptor}", "descriptors"),
    "asyncio.transport.count": (UP_DOWN, "{transport}", "transports"),
    "asyncio.task.count": (UP_DOWN, "{task}", "tasks_alive"),
    "asyncio.task.created": (COUNTER, "{task}", "tasks_created"),
    "asyncio.task.steps": (COUNTER, "{step}", "task_steps"),
    "asyncio.task.destroyed": (COUNTER, "{task}", "destroyed_pending_tasks"),
    "asyncio.task.unretrieved": (COUNTER, "{exception}", "never_retrieved_exceptions"),
}
# What tells several numbers of one metric apart: an attribute, and each of its values.
GROUPED = {
    "asyncio.eventloop.time": (
        COUNTER,
        "s",
        "asyncio.eventloop.state",
        {
            "active": "time_active",
            "idle": "time_idle",
            "waiting_gil": "time_waiting_gil",
        },
    ),
    "asyncio.network.io": (
        COUNTER,
        "By",
        "network.io.direction",
        {"receive": "bytes_received", "transmit": "bytes_sent"},
    ),
    "asyncio.task.ended": (
        COUNTER,
        "{task}",
        "asyncio.task.state",
        {
            "done": "tasks_done",
            "cancelled": "tasks_cancelled",
            "failed": "tasks_failed",
        },
    ),
    "asyncio.executor.jobs": (
        UP_DOWN,
        "{job}",
        "asyncio.executor.job.state",
        {"queued": "executor_queued", "running": "executor_running"},
    ),
}
DURATIONS = {
    "asyncio.eventloop.delay": "queue_delay",
    "asyncio.eventloop.callback.duration": "callback_duration",
    "asyncio.eventloop.timer.lateness": "timer_lateness",
}
QUANTILES = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


class Observer:
    """Reads the loops once for each collection, in which each instrument asks once."""

    def __init__(self, loops: Loop | Mapping[str, Loop]) -> None:
        self._lock = threading.Lock()
        self._served: set[str] = set()
        self.watch(loops)

    def watch(self, loops: Loop | Mapping[str, Loop]) -> None:
        """Observe these loops from now on, and no others."""
        with self._lock:
            self._loops = loops
            self._seen: dict[str | None, tuple[Loop, Metrics]] = {}
            self._look()
            self._outdated = True

    def intervals(
        self, instrument: str
    ) -> list[tuple[dict[str, str], bool, Metrics, Metrics]]:
        """Return for each loop its attributes, whether it is metered, its metrics, and
        those since the collection before."""
        with self._lock:
            if self._outdated or instrument in self._served:
                self._look()
            self._served.add(instrument)
            return self._intervals

    def _look(self) -> None:
        before, self._seen, self._intervals = self._seen, {}, []
        for name, loop in named(self._loops):
            now = loop.metrics()
            self._seen[name] = loop, now
            of_before, metrics = before.get(name, (None, now))
            since = now - metrics if of_before is loop else now
            attributes = {} if name is None else {LOOP_NAME: name}
            self._intervals.append((attributes, loop.metering, now, since))
        self._served.clear()
        self._outdated = False


observers: weakref.WeakKeyDictionary[Meter, Observer] = weakref.WeakKeyDictionary()


@functools.cache
def default_meter() -> Meter:
    """Return the meter of the global provider, which may still be set later."""
    return get_meter("aioloop", __version__)


def observe(loops: Loop | Mapping[str, Loop], meter: Meter | None = None) -> None:
    """Make the metrics of a loop observable.

    A process with several loops gives a mapping of names to loops instead, which is
    read at each collection, so that loops may come and go; what is observed then has
    the attribute ``asyncio.eventloop.name``. ``meter`` is one of the global provider
    unless it is given. A second call for the same meter observes its loops instead of
    those of the first. What is measured only while ``loop.metering`` is on is not
    observed of a loop where it is off. Several readers of a provider share what "since
    the last collection" means.
    """
    if meter is None:
        meter = default_meter()
    if meter in observers:
        observers[meter].watch(loops)
        return
    observer = observers[meter] = Observer(loops)

    def create(
        kind: str, name: str, unit: str, text: str, values: Callable[[], Any]
    ) -> None:
        make = getattr(meter, f"create_observable_{kind}")
        make(name, [lambda _options: values()], unit=unit, description=text)

    for name, (kind, unit, what) in SINGLE.items():
        values = partial(numbers, observer, name, "", {"": what})
        create(kind, name, unit, DESCRIPTIONS[what], values)
    for name, (kind, unit, key, parts) in GROUPED.items():
        text = "; ".join(DESCRIPTIONS[what] for what in parts.values())
        create(kind, name, unit, text, partial(numbers, observer, name, key, parts))
    name = "asyncio.eventloop.utilization"
    text = "The part of the time in which the event loop was busy"
    create(GAUGE, name, "1", text, partial(utilization, observer, name))
    for prefix, what in DURATIONS.items():
        for suffix in ("mean", *QUANTILES):
            name = f"{prefix}.{suffix}"
            values = partial(durations, observer, name, what, QUANTILES.get(suffix))
            create(GAUGE, name, "s", f"{DESCRIPTIONS[what]}: {suffix}", values)


# What the instruments observe.


def numbers(
    observer: Observer, name: str, key: str, parts: Mapping[str, str]
) -> Iterator[Observation]:
    for attributes, metering, now, _ in observer.intervals(name):
        for value, what in parts.items():
            if metering or what not in MEASURED:
                more = {key: value} if key else {}
                yield Observation(getattr(now, what), {**attributes, **more})


def utilization(observer: Observer, name: str) -> Iterator[Observation]:
    for attributes, metering, _, since in observer.intervals(name):
        if metering and since.time_active + since.time_waiting_gil + since.time_idle:
            yield Observation(since.utilization, attributes)


def durations(
    observer: Observer, name: str, what: str, quantile: float | None
) -> Iterator[Observation]:
    """The mean, or a quantile; longer ones than the last bound count as it."""
    for attributes, metering, _, since in observer.intervals(name):
        histogram: Histogram = getattr(since, what)
        if metering and histogram.count:
            value = histogram.mean
            if quantile is not None:
                value = min(histogram.quantile(quantile), histogram.bounds[-1])
            yield Observation(value, attributes)
