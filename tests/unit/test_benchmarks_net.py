"""benchmarks.net: its servers answer its load, and what goes wrong is shown."""

from __future__ import annotations

import os
import shutil
import signal
import sys

import pytest

from benchmarks.net import load, report, rows, runner, targets

pytestmark = [
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="it measures as Linux can"
    ),
    pytest.mark.skipif(
        shutil.which("cc") is None, reason="its load generator has to be compiled"
    ),
    pytest.mark.skipif(
        bool(os.environ.get("AIOLOOP_FLAVOUR")), reason="it is about fast builds"
    ),
]

# One row of every kind, of the echoes the largest messages over both transports.
EXAMPLES = [
    name
    for name, row in rows.ROWS.items()
    if not row.environment
    and row.load not in (rows.WRK, rows.WRK_TLS)
    and (row.load != rows.ECHO or row.size == rows.SIZES["100 KB"])
    and row.connections == (1 if row.load in (rows.PUSH, rows.PULL) else 64)
]


@pytest.fixture
def keep_processors():
    """Undo that a session moves this process to a part of the processors."""
    usable = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, usable)


def results_of(row_name, loop_names, folder):
    results = runner.NetResults([row_name], loop_names)
    session = runner.Session(results, 0.05, str(folder))
    session.run(1, lambda text: None)
    return results


@pytest.mark.parametrize("row_name", EXAMPLES)
def test_every_server_gives_back_what_was_sent(row_name, tmp_path, keep_processors):
    results = results_of(row_name, ["floor", "asyncio", "aioloop"], tmp_path)
    assert results.failures == {}
    medians = results.medians(row_name)
    assert set(medians) == {"floor", "asyncio", "aioloop"}
    assert min(medians.values()) > 0


@pytest.mark.parametrize(
    "sent, told", [(signal.SIGKILL, "SIGKILL"), (signal.SIGSTOP, "no request")]
)
def test_a_server_that_dies_or_hangs_is_a_dash_with_a_note(
    sent, told, tmp_path, keep_processors, monkeypatch
):
    row_name = "protocol 1 KB, tcp, 64"
    generate = load.generate

    def disturb(row, address, pid, seconds):
        os.kill(pid, sent)
        return generate(row, address, pid, seconds)

    monkeypatch.setattr(load, "generate", disturb)
    results = results_of(row_name, ["asyncio"], tmp_path)
    assert told in results.failures[row_name, "asyncio"]
    shown = report.text(results, 1).splitlines()
    assert shown[2].split()[5:7] == ["-", "0%"]
    assert any(line.startswith(f"- asyncio, {row_name}: ") for line in shown)


def test_a_row_is_judged_by_the_best_rival_the_floor_asyncio_and_uvloop(monkeypatch):
    name = "protocol 1 KB, tcp, 64"
    spreads = dict.fromkeys(["floor", "asyncio", "uvloop", "zuvloop", "aioloop"], 0)
    medians = {"floor": 4.0, "asyncio": 9.0, "uvloop": 5.0, "zuvloop": 4.2}
    monkeypatch.setattr(sys, "version_info", (3, 14, 0, "final", 0))
    assert targets.missed(name, {**medians, "aioloop": 4.3}, spreads) == []
    assert targets.missed(name, {**medians, "aioloop": 6.0}, spreads) == [
        "MISSED 1.05 of zuvloop",
        "MISSED 1.10 of the floor",
        "SLOWER THAN uvloop",
    ]
    monkeypatch.setattr(sys, "version_info", (3, 13, 0, "final", 0))
    assert targets.missed(name, {**medians, "aioloop": 4.9}, spreads) == []
    assert targets.missed(name, {**medians, "aioloop": 10.0}, spreads) == [
        "SLOWER THAN asyncio",
        "SLOWER THAN uvloop",
    ]


def test_every_pattern_of_the_targets_names_a_row(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 14, 0, "final", 0))
    judged = {targets.shares(name) for name in rows.ROWS}
    assert judged == {(best, floor) for _, best, floor in targets.SHARES} | {
        (None, None)
    }


def test_wrk_output_is_read():
    output = "    50%  225.00us\n    99%    1.39ms\n"
    assert load.latency(output, 50) == pytest.approx(225e-6)
    assert load.latency(output, 99) == pytest.approx(1.39e-3)
    assert load.latency(output, 75) is None
