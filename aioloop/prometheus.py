"""A loop's metrics for Prometheus, by the package prometheus_client.

::

    from aioloop import prometheus
    from prometheus_client import REGISTRY

    loop.metering = True
    REGISTRY.register(prometheus.LoopCollector(loop))

It is imported only when asked for, and so is prometheus_client.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import HistogramMetricFamily as Durations
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from ._metrics import DESCRIPTIONS, MEASURED, Histogram, named

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client.core import Metric

    from ._loop import Loop

# What of the metrics it is, the kind, and the name; a counter's gets _total.
FAMILIES: dict[str, tuple[Any, str]] = {
    "time_active": (Counter, "asyncio_eventloop_active_seconds"),
    "time_idle": (Counter, "asyncio_eventloop_idle_seconds"),
    "time_waiting_gil": (Counter, "asyncio_eventloop_gil_wait_seconds"),
    "queue_delay": (Durations, "asyncio_eventloop_delay_seconds"),
    "callback_duration": (Durations, "asyncio_eventloop_callback_seconds"),
    "timer_lateness": (Durations, "asyncio_eventloop_timer_lateness_seconds"),
    "iterations": (Counter, "asyncio_eventloop_iterations"),
    "callbacks": (Counter, "asyncio_eventloop_callbacks"),
    "slow_callbacks": (Counter, "asyncio_eventloop_slow_callbacks"),
    "stalls": (Counter, "asyncio_eventloop_stalls"),
    "ready": (Gauge, "asyncio_eventloop_ready_callbacks"),
    "ready_max": (Gauge, "asyncio_eventloop_ready_callbacks_max"),
    "timers": (Gauge, "asyncio_eventloop_timers"),
    "descriptors": (Gauge, "asyncio_eventloop_descriptors"),
    "transports": (Gauge, "asyncio_transports"),
    "bytes_received": (Counter, "asyncio_received_bytes"),
    "bytes_sent": (Counter, "asyncio_sent_bytes"),
    "tasks_alive": (Gauge, "asyncio_tasks"),
    "tasks_created": (Counter, "asyncio_tasks_created"),
    "tasks_done": (Counter, "asyncio_tasks_done"),
    "tasks_cancelled": (Counter, "asyncio_tasks_cancelled"),
    "tasks_failed": (Counter, "asyncio_tasks_failed"),
    "task_steps": (Counter, "asyncio_task_steps"),
    "destroyed_pending_tasks": (Counter, "asyncio_destroyed_pending_tasks"),
    "never_retrieved_exceptions": (Counter, "asyncio_never_retrieved_exceptions"),
    "executor_queued": (Gauge, "asyncio_executor_queued_jobs"),
    "executor_running": (Gauge, "asyncio_executor_running_jobs"),
}


class LoopCollector(Collector):
    """Gives the metrics of a loop, read anew at each scrape, from any thread.

    A process with several loops gives a mapping of names to loops instead; each sample
    then has the label ``loop``. The mapping is read at each scrape, so loops may come
    and go. What is measured only while ``loop.metering`` is on is left out of the
    samples of a loop where it is off.
    """

    def __init__(self, loops: Loop | Mapping[str, Loop]) -> None:
        self._loops = loops

    def describe(self) -> Iterable[Metric]:
        """Yield the metrics without samples: the registry asks for their names."""
        for attribute, (kind, name) in FAMILIES.items():
            yield kind(name, DESCRIPTIONS[attribute])

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics."""
        loops = named(self._loops)
        labels = [] if [name for name, _ in loops] == [None] else ["loop"]
        snapshots = [
            ([] if name is None else [name], loop.metering, loop.metrics())
            for name, loop in loops
        ]
        for attribute, (kind, name) in FAMILIES.items():
            family = kind(name, DESCRIPTIONS[attribute], labels=labels)
            for values, metering, metrics in snapshots:
                if metering or attribute not in MEASURED:
                    family.add_metric(values, *sample_of(getattr(metrics, attribute)))
            if family.samples:
                yield family


def sample_of(value: float | Histogram) -> tuple[Any, ...]:
    """Return what add_metric() takes: a number, or a histogram's buckets and sum.

    Each bucket of Prometheus counts all shorter durations too.
    """
    if not isinstance(value, Histogram):
        return (value,)
    bounds = [*map(floatToGoString, value.bounds), "+Inf"]
    counts = itertools.accumulate(value.counts)
    return list(zip(bounds, counts, strict=True)), value.sum
