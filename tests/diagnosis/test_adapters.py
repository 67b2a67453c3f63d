"""aioloop.prometheus and aioloop.opentelemetry: a loop's metrics on other people's
dashboards, read as they read them."""

import asyncio
import contextlib
import dataclasses
import subprocess
import sys
import time
import urllib.request

import prometheus_client
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from prometheus_client.openmetrics import exposition
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

import aioloop
from aioloop import _metrics, opentelemetry, prometheus

LIMIT = 30
NUMBERS = {field.name for field in dataclasses.fields(aioloop.Metrics)} - {"when"}


@contextlib.contextmanager
def loops(count=1, *, metering=True):
    """Give loops that have run something."""
    made = [aioloop.new_event_loop() for _ in range(count)]
    try:
        for i, loop in enumerate(made):
            loop.metering = metering
            loop.run_until_complete(work(loop, i + 1))
        yield made
    finally:
        for loop in made:
            loop.close()


async def work(loop, times):
    """Let each kind of task end so many times, and some timers."""

    async def fails():
        raise ValueError

    for _ in range(times):
        cancelled = loop.create_task(asyncio.sleep(LIMIT))
        failed = loop.create_task(fails())
        await asyncio.sleep(0.001)
        cancelled.cancel()
        await asyncio.wait([cancelled, failed])
        failed.exception()


def flat(name, labels):
    return name, tuple(sorted(labels.items()))


def test_they_are_imported_only_when_asked_for():
    program = """
import asyncio, sys, aioloop
async def main():
    asyncio.get_running_loop().metrics()
aioloop.run(main())
print(sorted(name for name in sys.modules
             if "prometheus" in name or "opentelemetry" in name))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_every_number_has_a_description_and_both_adapters_have_it():
    assert _metrics.DESCRIPTIONS.keys() == NUMBERS
    assert _metrics.MEASURED < NUMBERS
    assert prometheus.FAMILIES.keys() == NUMBERS
    grouped = opentelemetry.GROUPED.values()
    assert {
        *(what for _, _, what in opentelemetry.SINGLE.values()),
        *(what for *_, parts in grouped for what in parts.values()),
        *opentelemetry.DURATIONS.values(),
    } == NUMBERS


# Prometheus.


def scraped(watched, *, openmetrics=False):
    """Return {(sample, labels): value} and {family: kind} of a scrape's text."""
    registry = prometheus_client.CollectorRegistry()
    registry.register(prometheus.LoopCollector(watched))
    if openmetrics:
        families = list(
            parse_openmetrics(exposition.generate_latest(registry).decode())
        )
    else:
        text = prometheus_client.generate_latest(registry).decode()
        families = list(parse_text(text))
    samples = {}
    for family in families:
        for sample in family.samples:
            key = flat(sample.name, sample.labels)
            assert key not in samples
            samples[key] = sample.value
    kinds = {family.name: family.type for family in families}
    assert len(kinds) == len(families), "a family comes once"
    return samples, kinds


@pytest.mark.parametrize("openmetrics", [False, True])
def test_a_scrape_tells_what_the_metrics_are(openmetrics):
    with loops() as [loop]:
        samples, kinds = scraped(loop, openmetrics=openmetrics)
        metrics = loop.metrics()
    assert len(kinds) == len(NUMBERS)
    for attribute, (_, name) in prometheus.FAMILIES.items():
        value = getattr(metrics, attribute)
        kind = kinds[name]
        if kind == "histogram":
            assert samples[f"{name}_sum", ()] == pytest.approx(value.sum)
            assert samples[f"{name}_count", ()] == value.count
            total = 0
            for bound, count in zip(
                (*value.bounds, float("inf")), value.counts, strict=True
            ):
                total += count
                [found] = (
                    number
                    for (sample, labels), number in samples.items()
                    if sample == f"{name}_bucket" and float(dict(labels)["le"]) == bound
                )
                assert found == total
        else:
            sample = name + ("_total" if kind == "counter" else "")
            assert samples[sample, ()] == pytest.approx(value)
    assert kinds["asyncio_eventloop_delay_seconds"] == "histogram"
    assert samples["asyncio_eventloop_delay_seconds_count", ()] > 0
    assert samples["asyncio_eventloop_active_seconds_total", ()] > 0
    assert samples["asyncio_tasks_failed_total", ()] == 1


def test_several_loops_have_labels_and_may_come_and_go():
    with loops(2) as [first, second]:
        watched = {"main": first, "jobs": second}
        samples, _ = scraped(watched)
        for loop, name in ((first, "main"), (second, "jobs")):
            key = flat("asyncio_tasks_created_total", {"loop": name})
            assert samples[key] == loop.metrics().tasks_created
        del watched["main"]
        samples, _ = scraped(watched)
        assert {dict(labels)["loop"] for _, labels in samples} == {"jobs"}
        watched.clear()
        assert scraped(watched) == ({}, {})


def test_a_closed_loop_can_be_scraped():
    with loops() as [loop]:
        before, _ = scraped(loop)
    after, _ = scraped(loop)
    assert after.keys() == before.keys()
    created = flat("asyncio_tasks_created_total", {})
    assert after[created] == before[created] > 0
    assert after["asyncio_eventloop_timers", ()] == 0


def test_what_is_not_measured_is_not_scraped():
    with loops(2, metering=False) as [first, second]:
        samples, kinds = scraped(first)
        assert samples["asyncio_tasks_failed_total", ()] == 1
        measured = {prometheus.FAMILIES[what][1] for what in _metrics.MEASURED}
        assert not measured & kinds.keys()
        assert len(kinds) == len(NUMBERS) - len(measured)
        second.metering = True
        samples, kinds = scraped({"off": first, "on": second})
        assert measured < kinds.keys()
        delays = {k for k in samples if k[0] == "asyncio_eventloop_delay_seconds_count"}
        assert delays == {flat("asyncio_eventloop_delay_seconds_count", {"loop": "on"})}


def test_the_registry_knows_the_names_and_refuses_a_second_collector():
    registry = prometheus_client.CollectorRegistry(auto_describe=True)
    with loops(metering=False) as [loop]:
        collector = prometheus.LoopCollector(loop)
        registry.register(collector)
        with pytest.raises(ValueError, match="asyncio_eventloop_delay_seconds"):
            registry.register(prometheus.LoopCollector(loop))
        one = registry.restricted_registry(["asyncio_tasks"])
        assert [family.name for family in one.collect()] == ["asyncio_tasks"]
        registry.unregister(collector)
        registry.register(prometheus.LoopCollector(loop))


def test_over_http_while_the_loop_runs():
    """As a Prometheus server asks: another thread answers."""

    async def main():
        loop = asyncio.get_running_loop()
        loop.metering = True
        await asyncio.sleep(0)
        registry = prometheus_client.CollectorRegistry()
        registry.register(prometheus.LoopCollector(loop))
        server, thread = prometheus_client.start_http_server(
            0, addr="127.0.0.1", registry=registry
        )
        url = f"http://127.0.0.1:{server.server_address[1]}/metrics"

        def get():
            with urllib.request.urlopen(url, timeout=LIMIT) as response:
                return response.read().decode()

        first = await asyncio.to_thread(get)
        second = await asyncio.to_thread(get)
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        await asyncio.to_thread(thread.join)
        return first, second

    values = []
    for text in aioloop.run(main()):
        samples = (sample for family in parse_text(text) for sample in family.samples)
        [value] = (s.value for s in samples if s.name == "asyncio_task_steps_total")
        values.append(value)
    assert values[1] > values[0] > 0


# OpenTelemetry.


class Collected:
    """A meter, and what a reader of its provider collects."""

    def __init__(self):
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider(
            [self.reader], resource=Resource.get_empty(), shutdown_on_exit=False
        )
        self.meter = self.provider.get_meter("test")

    def collect(self):
        """Return {(name, attributes): value}; the metrics themselves are `metrics`."""
        data = self.reader.get_metrics_data()
        self.metrics = {}
        values = {}
        for of_resource in data.resource_metrics if data is not None else ():
            for of_scope in of_resource.scope_metrics:
                for metric in of_scope.metrics:
                    assert metric.name not in self.metrics
                    self.metrics[metric.name] = metric
                    for point in metric.data.data_points:
                        key = flat(metric.name, dict(point.attributes))
                        assert key not in values
                        values[key] = point.value
        return values


@pytest.fixture
def collected():
    made = Collected()
    yield made
    made.provider.shutdown()


def test_the_names_are_those_of_nodejs(collected):
    """Of the semantic conventions, metrics of the JavaScript runtime."""
    with loops() as [loop]:
        opentelemetry.observe(loop, collected.meter)
        loop.run_until_complete(work(loop, 1))
        values = collected.collect()
    seconds = [
        f"asyncio.eventloop.delay.{suffix}"
        for suffix in ("min", "max", "mean", "p50", "p90", "p99")
    ]
    for name in (*seconds, "asyncio.eventloop.time"):
        assert collected.metrics[name].unit == "s"
    assert collected.metrics["asyncio.eventloop.utilization"].unit == "1"
    for state in ("active", "idle"):
        key = flat("asyncio.eventloop.time", {"asyncio.eventloop.state": state})
        assert values[key] > 0
    delays = {name: values[name, ()] for name in seconds}
    order = [delays[f"asyncio.eventloop.delay.{q}"] for q in ("min", "p50", "p90")]
    order += [delays[f"asyncio.eventloop.delay.{q}"] for q in ("p99", "max")]
    assert order == sorted(order)
    assert 0 <= delays["asyncio.eventloop.delay.mean"] <= order[-1]
    assert 0 < values["asyncio.eventloop.utilization", ()] <= 1


def test_what_is_collected_is_what_the_metrics_are(collected):
    with loops() as [loop]:
        opentelemetry.observe(loop, collected.meter)
        values = collected.collect()
        metrics = loop.metrics()
    for name, (kind, unit, what) in opentelemetry.SINGLE.items():
        assert values[name, ()] == getattr(metrics, what)
        assert collected.metrics[name].unit == unit
        monotonic = getattr(collected.metrics[name].data, "is_monotonic", None)
        assert monotonic == {"counter": True, "up_down_counter": False}.get(kind)
    for name, (_, unit, key, parts) in opentelemetry.GROUPED.items():
        assert collected.metrics[name].unit == unit
        for state, what in parts.items():
            found = values[flat(name, {key: state})]
            assert found == pytest.approx(getattr(metrics, what))
    assert values[flat("asyncio.task.ended", {"asyncio.task.state": "failed"})] == 1
    assert all(metric.description for metric in collected.metrics.values())


def test_durations_are_of_the_time_since_the_last_collection(collected):
    with loops() as [loop]:
        opentelemetry.observe(loop, collected.meter)

        async def blocks():
            loop.call_soon(time.sleep, 0.05)
            await asyncio.sleep(0)

        loop.run_until_complete(blocks())
        longest = "asyncio.eventloop.callback.duration.max", ()
        assert collected.collect()[longest] >= 0.05
        values = collected.collect()
        assert longest not in values, "nothing ran"
        assert ("asyncio.eventloop.utilization", ()) not in values
        assert values["asyncio.task.created", ()] > 0
        loop.run_until_complete(asyncio.sleep(0))
        assert collected.collect()[longest] > 0


def test_longer_durations_than_the_last_bound_count_as_it(collected):
    with loops() as [loop]:
        metrics = loop.metrics()
        counts = (0,) * len(metrics.queue_delay.bounds) + (1,)
        long = dataclasses.replace(metrics.queue_delay, counts=counts, sum=60.0)
        nothing = dataclasses.replace(long, counts=(0,) * len(counts), sum=0.0)
        answers = [dataclasses.replace(metrics, queue_delay=nothing)]
        loop.metrics = lambda: answers[-1]
        opentelemetry.observe(loop, collected.meter)
        answers.append(dataclasses.replace(metrics, queue_delay=long))
        values = collected.collect()
        assert values["asyncio.eventloop.delay.p50", ()] == 10
        assert values["asyncio.eventloop.delay.max", ()] == 10
        assert values["asyncio.eventloop.delay.mean", ()] == 60


def test_a_collection_reads_a_loop_once(collected):
    with loops() as [loop]:
        opentelemetry.observe(loop, collected.meter)
        calls = []
        read = loop.metrics
        loop.metrics = lambda: calls.append(None) or read()
        for done in (1, 2, 3):
            collected.collect()
            assert len(calls) == done


def test_several_loops_are_told_apart_and_may_come_and_go(collected):
    name = "asyncio.eventloop.name"
    with loops(3) as [first, second, third]:
        watched = {"main": first, "jobs": second}
        opentelemetry.observe(watched, collected.meter)
        values = collected.collect()
        for loop, loop_name in ((first, "main"), (second, "jobs")):
            key = flat("asyncio.task.created", {name: loop_name})
            assert values[key] == loop.metrics().tasks_created
        watched["jobs"] = third
        del watched["main"]
        values = collected.collect()
        assert {dict(attributes)[name] for _, attributes in values} == {"jobs"}
        created = flat("asyncio.task.created", {name: "jobs"})
        assert values[created] == third.metrics().tasks_created
        # Another loop by the same name: what it has done, not the difference of two.
        longest = flat("asyncio.eventloop.callback.duration.max", {name: "jobs"})
        assert values[longest] > 0


def test_a_second_call_observes_other_loops_instead(collected):
    with loops(2) as [first, second]:
        opentelemetry.observe(first, collected.meter)
        collected.collect()
        opentelemetry.observe(second, collected.meter)
        values = collected.collect()
        assert values["asyncio.task.created", ()] == second.metrics().tasks_created
        assert ("asyncio.eventloop.delay.max", ()) not in values, "since the call"
        opentelemetry.observe({}, collected.meter)
        assert collected.collect() == {}


def test_what_is_not_measured_is_not_observed(collected):
    with loops(metering=False) as [loop]:
        opentelemetry.observe(loop, collected.meter)
        loop.run_until_complete(work(loop, 1))
        values = collected.collect()
        names = {name for name, _ in values}
        unmeasured = {
            name
            for name, (_, _, what) in opentelemetry.SINGLE.items()
            if what not in _metrics.MEASURED
        }
        grouped = opentelemetry.GROUPED.keys() - {"asyncio.eventloop.time"}
        assert names == unmeasured | grouped


def test_a_closed_loop_can_be_observed(collected):
    with loops() as [loop]:
        opentelemetry.observe(loop, collected.meter)
    values = collected.collect()
    assert values["asyncio.task.created", ()] == loop.metrics().tasks_created > 0
    assert values["asyncio.eventloop.timers", ()] == 0


def test_the_global_provider_may_come_later():
    program = """
import asyncio, aioloop
from aioloop import opentelemetry
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

async def main():
    loop = asyncio.get_running_loop()
    opentelemetry.observe(aioloop.new_event_loop())
    opentelemetry.observe(loop)
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    opentelemetry.observe(loop)
    [of_resource] = reader.get_metrics_data().resource_metrics
    [of_scope] = of_resource.scope_metrics
    print(of_scope.scope.name, of_scope.scope.version == aioloop.__version__)
    found = {metric.name: metric for metric in of_scope.metrics}
    print(found["asyncio.task.count"].data.data_points[0].value)

aioloop.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT
    )
    assert done.stdout.split() == ["aioloop", "True", "1"], done.stderr
    assert "WARNING" not in done.stderr


def test_from_another_thread_while_the_loop_runs(collected):
    async def main():
        loop = asyncio.get_running_loop()
        loop.metering = True
        opentelemetry.observe(loop, collected.meter)
        return await asyncio.to_thread(collected.collect)

    values = aioloop.run(main())
    assert values["asyncio.task.count", ()] == 1
