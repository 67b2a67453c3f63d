"""A loop that is being left and does not end: what a user reads meanwhile.

The programs go on until the record has been made: none depends on how long that takes.
"""

import os
import subprocess
import sys
import textwrap

import pytest

import aioloop
from tests.conftest import LIMIT, PACKAGE_PARENT, needs_gil

START = """
import asyncio, json, logging, os, signal, threading
import aioloop

records = []
told = threading.Event()
enough = 1

class Records(logging.Handler):
    def emit(self, record):
        if not hasattr(record, "loop_leaving"):
            return
        records.append(record)
        print(record.getMessage(), flush=True)
        if len(records) == enough:
            told.set()

logging.getLogger("asyncio").addHandler(Records())

async def stubborn():
    while not told.is_set():
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            pass

def threshold(seconds):
    asyncio.get_running_loop().shutdown_threshold = seconds
"""


@pytest.fixture
def output(tmp_path):
    """Return a function that runs a program, app.py, and returns what it prints."""

    def run(source, *options, code=0):
        (tmp_path / "app.py").write_text(START + textwrap.dedent(source))
        environment = {**os.environ, "PYTHONPATH": str(PACKAGE_PARENT)}
        process = subprocess.run(
            [sys.executable, *options, "app.py"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert process.returncode == code, process.stderr
        assert "Traceback" not in process.stderr
        return process.stdout

    return run


def line_of(source):
    """Return the number of the line that is marked so in a program."""
    lines = (START + textwrap.dedent(source)).splitlines()
    return next(i for i, line in enumerate(lines, 1) if line.endswith("# here"))


def test_a_task_that_swallows_ctrl_c(output):
    source = """
        async def main():
            threshold(0.05)
            async with asyncio.TaskGroup() as group:
                group.create_task(stubborn(), name="poller")
                group.create_task(asyncio.sleep(1000), name="worker")
                await asyncio.sleep(0)
                os.kill(os.getpid(), signal.SIGINT)

        try:
            aioloop.run(main())
        except KeyboardInterrupt:
            print("ended")
    """
    text = output(source)
    first, *lines = text.splitlines()
    assert first.startswith("The loop still runs ")
    assert ' after SIGINT: task poller "stubborn" at app.py:' in first
    assert first.endswith(" in stubborn was cancelled and goes on.")
    assert lines[0].startswith('poller "stubborn" [')
    assert "cancelled and still not done]" in lines[0]
    assert "worker" not in text
    assert lines[-1] == "ended"


RUNS = {
    "run": "aioloop.run(main())",
    "Runner": """with asyncio.Runner(loop_factory=aioloop.new_event_loop) as runner:
            runner.run(main())""",
    "by hand": """loop = aioloop.new_event_loop()
        loop.run_until_complete(main())
        asyncio.runners._cancel_all_tasks(loop)
        loop.close()""",
}


@pytest.mark.parametrize("run", RUNS)
def test_a_task_that_survives_the_main_one(output, run):
    text = output(f"""
        async def main():
            threshold(0.05)
            asyncio.create_task(stubborn(), name="left over")
            await asyncio.sleep(0)

        {RUNS[run]}
    """)
    first, *_ = text.splitlines()
    assert first.startswith("Leaving the loop has taken ")
    assert ' so far: task left over "stubborn" at app.py:' in first


def test_several_tasks(output):
    text = output("""
        async def main():
            threshold(0.05)
            for i in range(30):
                asyncio.create_task(stubborn(), name=f"T-{i}")
            await asyncio.sleep(0)

        aioloop.run(main())
    """)
    first, *lines = text.splitlines()
    assert " 30 tasks were cancelled and go on: T-0 " in first
    assert first.endswith(", 27 more.")
    assert lines[-1] == "... and 10 more tasks"


@needs_gil("a loop that is stuck answers nothing")
def test_a_task_that_blocks_the_loop(output):
    source = """
        async def blocking():
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                told.wait()  # here

        async def main():
            threshold(0.05)
            task = asyncio.create_task(blocking())
            await asyncio.sleep(0)

        aioloop.run(main())
    """
    text = output(source)
    first, *lines = text.splitlines()
    place = f"app.py:{line_of(source)} in blocking"
    assert f'"blocking" at {place} was cancelled and goes on.' in first
    assert "[running, cancelled and still not done]" in lines[0]


def test_a_generator(output):
    source = """
        async def items():
            try:
                yield 1
            finally:
                while not told.is_set():
                    await asyncio.sleep(0.01)  # here

        async def main():
            threshold(0.05)
            global kept
            kept = items()
            await anext(kept)

        aioloop.run(main())
    """
    first, *lines = output(source).splitlines()
    place = f"app.py:{line_of(source)} in items"
    assert first.endswith(f" 1 asynchronous generator does not close: {place}.")
    assert "[waiting for sleep" in lines[0] or "[ready" in lines[0]


def test_the_default_executor(output):
    source = """
        def work():
            told.wait()  # here

        async def main():
            threshold(0.05)
            asyncio.get_running_loop().run_in_executor(None, work)

        aioloop.run(main())
        record = records[0].loop_leaving
        json.dumps(record)
        print(record["phase"], len(record["jobs"]))
    """
    first, *lines = output(source).splitlines()
    assert first.startswith("Leaving the loop has taken ")
    assert " 1 job of an executor still runs: work at app.py:" in first
    assert lines[-1] == "executor 1"


def test_each_part_is_told_and_a_part_twice(output):
    text = output("""
        enough = 3

        def work():
            told.wait()

        async def patient():
            while len(records) < 2:
                try:
                    await asyncio.sleep(0.01)
                except asyncio.CancelledError:
                    pass

        async def main():
            threshold(0.05)
            asyncio.create_task(patient())
            asyncio.get_running_loop().run_in_executor(None, work)
            await asyncio.sleep(0)

        aioloop.run(main())
        first, second, third = (record.loop_leaving for record in records)
        print(first["phase"], second["phase"], third["phase"])
        print(second["seconds"] >= 0.5, third["seconds"] >= second["seconds"] + 0.05)
    """)
    assert text.splitlines()[-2:] == ["tasks tasks executor", "True True"]


def test_no_threshold(output):
    text = output("""
        async def slow():
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                await asyncio.sleep(0.1)

        async def main():
            threshold(0.01)
            threshold(None)
            asyncio.create_task(slow())
            await asyncio.sleep(0)

        aioloop.run(main())
    """)
    assert text == ""


def test_a_signal_that_cancels_nothing(output):
    text = output("""
        async def main():
            threshold(0.01)
            loop = asyncio.get_running_loop()
            came = asyncio.Event()
            loop.add_signal_handler(signal.SIGTERM, came.set)
            os.kill(os.getpid(), signal.SIGTERM)
            await came.wait()
            while loop._leaving is not None:  # The alarm gives it up.
                await asyncio.sleep(0.01)

        aioloop.run(main())
    """)
    assert text == ""


def test_a_loop_that_ends_in_time_says_nothing(output):
    text = output("""
        async def items():
            yield 1

        async def main():
            asyncio.create_task(asyncio.sleep(1000))
            global kept
            kept = items()
            await anext(kept)
            await asyncio.to_thread(int)

        aioloop.run(main())
    """)
    assert text == ""


def test_a_fork_meanwhile_takes_nothing_away(output):
    text = output("""
        async def forking():
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                child = os.fork()
                if child == 0:
                    os._exit(0)
                os.waitpid(child, 0)
                await stubborn()

        async def main():
            threshold(0.05)
            asyncio.create_task(forking())
            await asyncio.sleep(0)

        aioloop.run(main())
    """)
    assert text.count("Leaving the loop has taken") == 1


def test_the_switch():
    loop = aioloop.new_event_loop()
    try:
        assert loop.shutdown_threshold == 2.0
        loop.shutdown_threshold = 5
        assert loop.shutdown_threshold == 5.0
        loop.shutdown_threshold = None
        assert loop.shutdown_threshold is None
        for wrong in (0, -1, float("nan")):
            with pytest.raises(ValueError, match="shutdown_threshold must be positive"):
                loop.shutdown_threshold = wrong
    finally:
        loop.close()
