"""aioloop/pytest.py: a test-suite on aioloop, and tests that fail for what they leak.

Each test-suite here is one of somebody else's project, run by a pytest of its own.
"""

from __future__ import annotations

import re
import textwrap
import tomllib
from pathlib import Path

import pytest

from tests.conftest import PACKAGE_PARENT

ROOT = Path(__file__).parents[2]


@pytest.fixture
def suite(python, tmp_path):
    """Return a function that runs a test-suite and returns what it printed, and
    {test: outcome}.
    """

    def suite(source, *options, ini="", plugin=True, status=None, env=None):
        (tmp_path / "pytest.ini").write_text(f"[pytest]\n{textwrap.dedent(ini)}")
        (tmp_path / "test_it.py").write_text(textwrap.dedent(source))
        command = ["-m", "pytest", "-rA", "-p", "no:cacheprovider", "--tb=short"]
        if plugin:
            command += ["-p", "aioloop.pytest"]
        # Other plugins that are here take longer to import than the tests to run.
        settings = {"COLUMNS": "250", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        done = python(*command, *options, env=settings | (env or {}))
        if status is not None:
            assert done.returncode == status, done.stdout + done.stderr
        outcomes = {}
        for outcome, name in re.findall(
            r"^(PASSED|FAILED|ERROR|SKIPPED|XFAIL) test_it.py::(\S+)", done.stdout, re.M
        ):
            outcomes.setdefault(name, []).append(outcome)
        return done.stdout + done.stderr, {n: " ".join(o) for n, o in outcomes.items()}

    return suite


KINDS = """
import asyncio, unittest

def kind():
    return type(asyncio.get_running_loop()).__module__

async def main():
    await asyncio.sleep(0)
    return kind()

OURS = "aioloop._loop"

def test_run():
    assert asyncio.run(main()) == OURS

def test_runner():
    with asyncio.Runner(debug=True) as runner:
        assert runner.run(main()) == OURS

def test_new_event_loop():
    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(main()) == OURS
    loop.close()

class TestIsolated(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        assert kind() == OURS

    async def test_here(self):
        self.assertEqual(await main(), OURS)
"""
ALL = ["test_run", "test_runner", "test_new_event_loop", "TestIsolated::test_here"]


@pytest.mark.parametrize(
    ("options", "ini", "env"),
    [
        (["--aioloop"], "", {}),
        ([], "aioloop = true", {}),
        (["--aioloop"], "", {"AIOLOOP": "0"}),
        (["--aioloop-debug"], "", {}),
        ([], "aioloop_debug = true", {}),
    ],
    ids=["option", "setting", "option and variable", "debug", "debug setting"],
)
def test_the_loops_of_a_suite_are_ours(options, ini, env, suite):
    said, outcomes = suite(KINDS, *options, ini=ini, env=env, status=0)
    assert outcomes == dict.fromkeys(ALL, "PASSED")
    assert re.search(r"^aioloop: \d+\.\d+\.\d+ \(libev ", said, re.M)


@pytest.mark.parametrize(
    ("ini", "env"), [("", {}), ("aioloop = true", {"AIOLOOP": "0"})], ids=["", "off"]
)
def test_the_plugin_does_nothing_until_it_is_asked(ini, env, suite):
    said, outcomes = suite(KINDS, ini=ini, env=env, status=1)
    assert outcomes == dict.fromkeys(ALL, "FAILED")
    assert "aioloop:" not in said


def test_a_policy_that_a_test_resets(suite):
    """Tests of libraries end with set_event_loop_policy(None)."""
    reset = """
        import warnings
        warnings.simplefilter("ignore")

        def test_reset():
            asyncio.set_event_loop_policy(None)

        def test_after_reset():
            assert asyncio.run(main()) == OURS

        def test_fresh_policy():
            asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())

        def test_after_fresh_policy():
            assert asyncio.run(main()) == OURS

        class Chosen(asyncio.DefaultEventLoopPolicy):
            def new_event_loop(self):
                return asyncio.SelectorEventLoop()

        def test_choice():
            asyncio.set_event_loop_policy(Chosen())

        def test_after_choice():
            assert asyncio.run(main()) != OURS
        """
    said, outcomes = suite(KINDS + textwrap.dedent(reset), "--aioloop", status=0)
    assert set(outcomes.values()) == {"PASSED"}, said


def test_everything_is_put_back(suite, tmp_path):
    (tmp_path / "conftest.py").write_text("""if True:
        import asyncio, sys
        def state():
            names = vars(asyncio)
            return [
                names.get("EventLoop"),
                names.get("DefaultEventLoopPolicy"),
                names["new_event_loop"],
                asyncio.StreamWriter.__dict__.get("__del__"),
                vars(asyncio.events).get("_event_loop_policy"),
            ]
        BEFORE = state()
        import atexit
        atexit.register(lambda: print("SAME", state() == BEFORE))
    """)
    said, _ = suite(KINDS, "--aioloop-debug", status=0)
    assert said.endswith("SAME True\n")


# --aioloop-debug

LEAKY = """
import asyncio, gc, socket, time, unittest
import pytest

async def stuck():
    await asyncio.get_running_loop().create_future()

async def fetch():
    pass

async def fail():
    raise ValueError("no")

def test_clean():
    async def main():
        await asyncio.create_task(asyncio.sleep(0))
        with pytest.raises(ValueError):
            await fail()
    asyncio.run(main())

def test_lost_task():
    async def main():
        asyncio.create_task(stuck(), name="lost")  # lost
        await asyncio.sleep(0)
        gc.collect()
    asyncio.run(main())

def test_left_task():
    async def main():
        asyncio.create_task(asyncio.sleep(60), name="left")  # left
        await asyncio.sleep(0)
    asyncio.run(main())

def test_cancelled_task_may_be_left():
    async def main():
        task = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        task.cancel()
    asyncio.run(main())

def test_coroutine():
    async def main():
        fetch()  # coroutine
    asyncio.run(main())

def test_exception():
    async def main():
        asyncio.create_task(fail())  # exception
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    asyncio.run(main())

def test_transport():
    ours, theirs = socket.socketpair()
    async def main():
        loop = asyncio.get_running_loop()
        await loop.create_connection(asyncio.Protocol, sock=ours)  # transport
    with theirs:
        asyncio.run(main())

def test_streams():
    ours, theirs = socket.socketpair()
    async def main():
        await asyncio.open_connection(sock=ours)  # streams
    with theirs:
        asyncio.run(main())

def test_blocking():
    async def main():
        time.sleep(0.001)  # blocking
    asyncio.run(main(), debug=True)

@pytest.mark.aioloop_allow("blocking_calls", "pending_tasks")
def test_allowed():
    async def main():
        time.sleep(0.001)
        asyncio.create_task(asyncio.sleep(60))
    asyncio.run(main())

@pytest.mark.aioloop_allow
def test_all_allowed():
    async def main():
        fetch()
    asyncio.run(main())

def test_own_failure():
    async def main():
        time.sleep(0.001)  # own
        raise OSError("mine")
    asyncio.run(main())

@pytest.mark.xfail(strict=True)
def test_expected():
    asyncio.run(stuck_left())

async def stuck_left():
    asyncio.create_task(asyncio.sleep(60))

class TestIsolated(unittest.IsolatedAsyncioTestCase):
    async def test_clean(self):
        await asyncio.sleep(0)

    async def test_blocking(self):
        time.sleep(0.001)  # isolated blocking

    async def test_left(self):
        asyncio.create_task(asyncio.sleep(60), name="left")  # isolated left

    async def test_own(self):
        time.sleep(0.001)
        self.fail("own")

@pytest.fixture
def connection():
    loop = asyncio.new_event_loop()
    ours, theirs = socket.socketpair()
    async def connect():
        return await loop.create_connection(asyncio.Protocol, sock=ours)  # fixture
    yield loop.run_until_complete(connect())
    loop.close()
    theirs.close()

def test_fixture(connection):
    pass

def test_last():
    asyncio.run(asyncio.sleep(0))
"""


def place(word, function):
    lines = LEAKY.splitlines()
    (line,) = (n for n, text in enumerate(lines, 1) if text.endswith(f"# {word}"))
    return f"test_it.py:{line} in {function}"


def report_of(said, test):
    """Return the lines of a test's failure."""
    part = re.search(
        rf"^_+ (?:ERROR at teardown of )?{test} _+\n(.*?)\n(?=_|=)", said, re.M | re.S
    )
    assert part, said
    return part[1]


FOUND = {
    "test_lost_task": ("Task 'lost' of stuck() was collected", place("lost", "main")),
    "test_left_task": (
        "Task 'left' of sleep() was still pending when its loop was left, waiting at",
        place("left", "main"),
    ),
    "test_coroutine": ("Coroutine fetch() was never", place("coroutine", "main")),
    "test_exception": ("ValueError('no') of task", place("exception", "main")),
    "test_transport": ("Transport of Protocol", place("transport", "main")),
    "test_streams": (
        "Transport of StreamReaderProtocol",
        place("streams", "main"),
    ),
    "test_blocking": ("time.sleep(0.001) blocks", place("blocking", "main")),
    "TestIsolated.test_blocking": (
        "time.sleep(0.001) blocks",
        place("isolated blocking", "test_blocking"),
    ),
    "TestIsolated.test_left": (
        "Task 'left' of sleep() was still pending",
        place("isolated left", "test_left"),
    ),
    "test_fixture": ("Transport of Protocol", place("fixture", "connect")),
}


def test_a_test_fails_for_what_it_leaks(suite):
    said, outcomes = suite(LEAKY, "--aioloop-debug", "-W", "ignore", status=1)
    assert outcomes == {
        "test_clean": "PASSED",
        "test_lost_task": "FAILED",
        "test_left_task": "FAILED",
        "test_cancelled_task_may_be_left": "PASSED",
        "test_coroutine": "FAILED",
        "test_exception": "FAILED",
        "test_transport": "FAILED",
        "test_streams": "FAILED",
        "test_blocking": "FAILED",
        "test_allowed": "PASSED",
        "test_all_allowed": "PASSED",
        "test_own_failure": "FAILED",
        "test_expected": "XFAIL",
        "TestIsolated::test_clean": "PASSED",
        "TestIsolated::test_blocking": "FAILED",
        "TestIsolated::test_left": "FAILED",
        "TestIsolated::test_own": "FAILED",
        "test_fixture": "PASSED ERROR",
        "test_last": "PASSED",
    }, said
    for test, words in FOUND.items():
        first, *leaks = report_of(said, test).splitlines()
        assert first == "1 leak or blocking call (--aioloop-debug):"
        assert all(word in leaks[0] for word in words), (test, leaks[0])
    # A failure of its own stays what it is, with the rest beside it.
    assert "OSError: mine" in said
    assert "time.sleep(0.001) blocks the loop in task 'Task-" in said
    assert f"{place('own', 'main')}:" in said


def test_kinds_that_a_suite_allows(suite):
    said, outcomes = suite(
        LEAKY,
        "--aioloop-debug",
        *("-W", "ignore", "-k", "test_blocking or test_left"),
        ini="aioloop_allow = blocking_calls",
        status=1,
    )
    assert outcomes == {
        "test_blocking": "PASSED",
        "test_left_task": "FAILED",
        "TestIsolated::test_blocking": "PASSED",
        "TestIsolated::test_left": "FAILED",
    }, said


def test_a_kind_that_there_is_not(suite):
    said, _ = suite(KINDS, "--aioloop-debug", ini="aioloop_allow = files", status=4)
    assert "ERROR: aioloop_allow: 'files' is not one of blocking_calls, pending" in said


def test_without_the_option_nothing_fails(suite):
    _, outcomes = suite(LEAKY, "--aioloop", "-W", "ignore", status=1)
    failed = {name for name, outcome in outcomes.items() if outcome != "PASSED"}
    assert failed == {"test_own_failure", "test_expected", "TestIsolated::test_own"}


# As an installed package.


@pytest.fixture
def installed(tmp_path):
    """Return a folder with the records of an aioloop that pip has installed."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "entry-points"
    ]["pytest11"]
    records = tmp_path / "installed" / "aioloop-0.dist-info"
    records.mkdir(parents=True)
    (records / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: aioloop\nVersion: 0\n"
    )
    (records / "entry_points.txt").write_text(
        "[pytest11]\n" + "".join(f"{name} = {points[name]}\n" for name in points)
    )
    (records / "RECORD").write_text("aioloop/__init__.py,,\naioloop/pytest.py,,\n")
    (records.parent / "aioloop").symlink_to(PACKAGE_PARENT / "aioloop")
    return records.parent


@pytest.mark.parametrize("plugin", [False, True], ids=["entry point", "and -p"])
@pytest.mark.parametrize("start", [(), ("-m", "aioloop")], ids=["python", "aioloop"])
def test_an_installed_plugin(start, plugin, installed, suite, python, tmp_path):
    """pytest warns of a plugin's package that has been imported before."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(KINDS)
    options = ["-p", "aioloop.pytest"] if plugin else []
    options += ["-p", "aioloop.testing.pytest_plugin"] if plugin else []
    done = python(
        *start,
        *("-m", "pytest", "-W", "error", "-p", "no:cacheprovider", "--aioloop-debug"),
        *options,
        env={"PYTHONPATH": str(installed)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
    assert "plugins: " in done.stdout and "aioloop-0" in done.stdout
