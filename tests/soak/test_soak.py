"""The soak itself: a short run, and what it says of a program that loses things."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import HARD, child_environment
from tests.soak.run import LAPS_TO_JUDGE_MEMORY, Left, Probe, judge

TREE = Path(__file__).parents[2]
FLAT = [Left(10, 5, 1, 0, 50, 200_000)] * 30


def laps(**changes):
    """Return laps of which a number grows by so much with each."""
    return [
        Left(
            **{
                name: value + i * changes.get(name, 0)
                for name, value in vars(FLAT[0]).items()
            }
        )
        for i in range(30)
    ]


@pytest.mark.skipif(HARD, reason="where single bytes move, these are too many")
def test_all_is_well_for_some_seconds():
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.soak"]
    process = subprocess.Popen(
        [*command, "--minutes=0.05", "--crowd=100"],
        cwd=TREE,
        env=child_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=100)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # It tells where its threads are.
        out, err = process.communicate()
    assert process.returncode == 0, out + err
    assert out.endswith("soak: all is well\n"), out + err


def test_what_is_flat_is_no_fault():
    assert judge(FLAT) == []
    assert judge(laps(megabytes=-1, blocks=100)) == []


@pytest.mark.parametrize("name", ["descriptors", "threads", "tasks", "timers"])
def test_one_more_in_the_end_is_a_fault(name):
    lost = Left(**{**vars(FLAT[0]), name: getattr(FLAT[0], name) + 1})
    (fault,) = judge([*FLAT, lost])
    assert fault.startswith(f"{name}: ")


@pytest.mark.parametrize(("name", "growth"), [("megabytes", 2), ("blocks", 2000)])
def test_memory_that_grows_is_a_fault_of_a_long_run(name, growth):
    grown = laps(**{name: growth})
    (fault,) = judge(grown)
    assert fault.startswith(f"{name}: ")
    assert judge(grown[: LAPS_TO_JUDGE_MEMORY - 1]) == []


def test_the_probe_tells_the_lateness_of_so_many_of_a_hundred():
    probe = Probe(None)
    for i in range(1, 101):
        probe.add(i / 1000)
    assert probe.quantile(0.5) == pytest.approx(0.050, rel=0.02)
    assert probe.quantile(0.99) == pytest.approx(0.099, rel=0.02)
    assert probe.longest == 0.1
