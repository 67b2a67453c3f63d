"""The loop and its network when memory runs out: every allocation fails once.

Each operation runs in a child process; sweep.py says what has to hold. Debug mode is
left out, as in test_oom_future_task.
"""

import os
from pathlib import Path

import pytest

pytest.importorskip("_testcapi")

SWEEP = Path(__file__).parent / "sweep.py"


@pytest.mark.parametrize(
    "operation",
    [
        "call_soon",
        "call_soon_threadsafe",
        "call_later_now",
        "call_at_past",
        "timers_in_a_fresh_loop",
        "cancelled_timers",
        "loop_life",
        "running",
        "completed_with_result",
        "completed_with_exception",
        "completed_by_cancelling",
        "task_returns",
        "task_raises",
        "task_is_cancelled",
        "readers",
        "events_of_a_fresh_loop",
        "sock_calls",
        "getaddrinfo",
        "stream_transports",
        "servers",
        "unix_servers",
        "datagrams",
        "pipes",
    ],
)
def test_every_allocation_fails_once(python, operation):
    flavour = {"AIOLOOP_FLAVOUR": os.environ.get("AIOLOOP_FLAVOUR", "")}
    result = python("-X", "faulthandler", SWEEP, operation, env=flavour)
    assert result.stdout.startswith("survived"), result.stderr[-3000:]
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
