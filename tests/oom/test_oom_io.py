"""The loop and its network when memory runs out: every allocation fails once.

Each operation runs in a child process; sweep.py says what has to hold. Debug mode is
left out, as in test_oom_future_task.
"""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PORTABLE

pytest.importorskip("_testcapi")

SWEEP = Path(__file__).parent / "sweep.py"
SWEEP_OF_THE_PACKAGE = Path(__file__).parent / "sweep_package.py"
# Operations in which asyncio's Python code (its loop's, WeakSet's) or ours defines
# functions while it runs.
DEFINE_FUNCTIONS = {
    "loop_life",
    "stream_transports",
    "sent_files",
    "stream_readers",
    "tls",
    "servers",
    "unix_servers",
    "datagrams",
    "pipes",
}
FUNCTIONS_CRASH = "this interpreter crashes where a function cannot be allocated"
DEFINE_A_FUNCTION = """
import _testcapi

async def define():
    x = 1
    class Inner:
        def method(self):
            return x
    return lambda: (x, Inner)

def run():
    try:
        define().send(None)
    except StopIteration:
        pass

run()
for n in range(60):
    _testcapi.set_nomemory(n, n + 1)
    try:
        run()
    except (MemoryError, SystemError):
        pass
    finally:
        _testcapi.remove_mem_hooks()
"""


@functools.cache
def functions_need_memory():
    """Say whether a function without memory ends the interpreter: 3.12's and 3.13's
    first releases crash in PyFunction_NewWithQualName, under any loop."""
    command = [sys.executable, "-c", DEFINE_A_FUNCTION]
    return subprocess.run(command, capture_output=True, timeout=60).returncode != 0


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
        "jobs",
        "completed_with_result",
        "completed_with_exception",
        "completed_by_cancelling",
        "task_returns",
        "task_raises",
        "task_is_cancelled",
        "driven_by_hand",
        "readers",
        "events_of_a_fresh_loop",
        "sock_calls",
        "getaddrinfo",
        "stream_transports",
        "sent_files",
        "stream_readers",
        "tls",
        "servers",
        "unix_servers",
        "datagrams",
        "pipes",
    ],
)
def test_every_allocation_fails_once(python, operation):
    if operation in DEFINE_FUNCTIONS and functions_need_memory():
        pytest.skip(FUNCTIONS_CRASH)
    if operation == "sent_files" and PORTABLE:
        pytest.skip("an executor reads the file, whose semaphore stays locked for ever")
    survives(python, SWEEP, operation)


@pytest.mark.parametrize(
    "operation",
    [
        "dump",
        "dump_as_json",
        "cancelled_from",
        "task_looks",
        "numbers",
        "metering",
        "orphans",
        "report",
        "allow_blocking",
        "spawn",
        "install",
        "fork",
    ],
)
def test_every_allocation_of_what_asyncio_has_not_fails_once(python, operation):
    if operation != "fork" and functions_need_memory():
        pytest.skip(FUNCTIONS_CRASH)
    survives(python, SWEEP_OF_THE_PACKAGE, operation)


def survives(python, sweep, operation):
    flavour = {"AIOLOOP_FLAVOUR": os.environ.get("AIOLOOP_FLAVOUR", "")}
    result = python("-X", "faulthandler", sweep, operation, env=flavour, timeout=180)
    assert result.stdout.startswith("survived"), result.stderr[-3000:]
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
