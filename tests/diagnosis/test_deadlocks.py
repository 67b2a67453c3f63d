"""A loop in debug mode that waits for ever: what a user reads.

The programs end when the loop has looked whether something can wake it.
"""

import os
import subprocess
import sys
import textwrap

import pytest

from tests.conftest import LIMIT, PACKAGE_PARENT

START = """
import asyncio, json, logging, signal, threading
import aioloop
from aioloop import _deadlocks

records = []
looks = 0
wanted = 1
looked = threading.Event()

class Records(logging.Handler):
    def emit(self, record):
        if hasattr(record, "loop_asleep"):
            records.append(record)
            print(record.getMessage(), flush=True)

logging.getLogger("asyncio").addHandler(Records())
look_into = _deadlocks.look_into

def look_and_end(loop):
    global looks
    look_into(loop)
    looks += 1
    if looks == wanted:
        looked.set()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.call_soon(int)
    else:
        loop.call_soon(int)  # Something happens, and the loop waits again.

_deadlocks.look_into = look_and_end

def run(main):
    try:
        aioloop.run(main, debug=True)
    except asyncio.CancelledError:
        pass

async def both(first, second, met):
    async with first:
        await met.wait()
        async with second:
            pass
"""


@pytest.fixture
def output(tmp_path):
    """Return a function that runs a program, app.py, and returns what it prints."""

    def run(source):
        (tmp_path / "app.py").write_text(START + textwrap.dedent(source))
        environment = {**os.environ, "PYTHONPATH": str(PACKAGE_PARENT)}
        process = subprocess.run(
            [sys.executable, "app.py"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert process.returncode == 0, process.stderr
        assert "Traceback" not in process.stderr
        return process.stdout

    return run


def test_two_tasks_that_wait_for_each_other(output):
    text = output("""
        async def main():
            a, b = asyncio.Lock(), asyncio.Lock()
            met = asyncio.Barrier(2)
            async with asyncio.TaskGroup() as group:
                group.create_task(both(a, b, met), name="left")
                group.create_task(both(b, a, met), name="right")

        run(main())
        print(len(json.loads(json.dumps(records[0].loop_asleep))["cycles"][0]))
    """)
    first, second, *lines = text.splitlines()
    assert first == (
        "The loop waits for ever: 3 tasks are pending,"
        " and nothing in this loop can wake them."
    )
    assert second.startswith("DEADLOCK: ")
    assert 'left "both" waits for Lock held by right "both"' in second or (
        'which waits for Lock held by right "both"' in second
    )
    assert second.endswith(": none of them can go on")
    assert "who waits for whom:" in lines
    assert any("above: a circle" in line for line in lines)
    assert lines[-1] == "2"


def test_an_event_that_nobody_sets_is_told_once(output):
    text = output("""
        wanted = 2

        async def main():
            await asyncio.to_thread(int)  # Its thread stays, without a job.
            await asyncio.Event().wait()

        run(main())
        print(looks, len(records))
    """)
    first, *lines = text.splitlines()
    assert first == (
        "The loop waits for ever: 1 task is pending,"
        " and nothing in this loop can wake it."
    )
    assert lines[0].startswith('Task-1 "main" [waiting for Event.wait, ')
    assert lines[-1] == "2 1"


def test_another_thread_might(output):
    text = output("""
        async def main():
            threading.Thread(target=looked.wait, name="feeder").start()
            await asyncio.Event().wait()

        run(main())
    """)
    assert text.splitlines()[0].endswith(
        " nothing in this loop can wake it; only another thread could (thread feeder)."
    )


QUIET = {
    "a job of an executor": """
        async def main():
            await asyncio.to_thread(looked.wait)

        run(main())
    """,
    "a future of an executor of the program's own": """
        import concurrent.futures

        async def main():
            await asyncio.wrap_future(concurrent.futures.Future())

        run(main())
    """,
    "a signal handler of the loop": """
        async def main():
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, int)
            await asyncio.Event().wait()

        run(main())
    """,
    "a signal handler of Python's": """
        async def main():
            signal.signal(signal.SIGUSR1, lambda *args: None)
            await asyncio.Event().wait()

        run(main())
    """,
    "no task": """
        loop = aioloop.new_event_loop()
        loop.set_debug(True)
        _deadlocks.look_into = lambda loop: (look_into(loop), loop.stop())
        loop.run_forever()
        loop.close()
        looked.set()
    """,
    "a loop that serves the main thread": """
        loop = aioloop.new_event_loop()
        loop.set_debug(True)
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        future = asyncio.run_coroutine_threadsafe(asyncio.Event().wait(), loop)
        looked.wait()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    """,
    "a console": """
        import sys
        sys.ps1 = ">>> "

        async def main():
            await asyncio.Event().wait()

        run(main())
    """,
}


@pytest.mark.parametrize("case", QUIET)
def test_no_false_alarm(output, case):
    assert output(QUIET[case] + "\n        print(looked.is_set())") == "True\n"
