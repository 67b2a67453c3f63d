"""@pytest.mark.aioloop on async tests (aioloop/testing/pytest_plugin.py)."""

import re

import pytest

TESTS = """
import asyncio
import pytest

seen = []


@pytest.fixture
def hour():
    return 3600


@pytest.mark.aioloop
async def test_time_is_virtual(hour):
    await asyncio.sleep(hour)
    assert asyncio.get_running_loop().time() == hour


@pytest.mark.aioloop(seed=range(20), start=5.0)
async def test_each_seed(hour):
    from aioloop.testing import current_seed
    assert asyncio.get_running_loop().time() == 5.0
    seen.append(current_seed())
    await asyncio.sleep(hour)


def test_they_have_run():
    assert seen == list(range(len(seen)))
    assert len(seen) == 20


@pytest.mark.aioloop(seed=range(50))
async def test_fails_in_some_orders():
    last = []

    async def write(what):
        last.append(what)

    await asyncio.gather(write("default"), write("override"))
    assert last[-1] == "override"


@pytest.mark.aioloop
async def test_hangs():
    await asyncio.Event().wait()


class TestMethods:
    @pytest.mark.aioloop(order="pct", seed=3)
    async def test_a_method(self, hour):
        await asyncio.sleep(hour)
"""


@pytest.fixture
def run_tests(python, tmp_path):
    (tmp_path / "test_program.py").write_text(TESTS)

    def run_tests(*arguments):
        plugin = ("-p", "aioloop.testing.pytest_plugin", "-p", "no:cacheprovider")
        done = python("-m", "pytest", "-q", *plugin, "--strict-markers", *arguments)
        return done.stdout + done.stderr

    return run_tests


def test_marked_tests(run_tests):
    output = run_tests()
    assert "4 passed" in output, output
    assert "2 failed" in output
    assert "SleepForever: nothing can happen any more" in output
    assert re.search(r"#\d+ 0\.0 s  Task-\d+ .* in test_fails_in_some_orders", output)
    [line] = [line for line in output.splitlines() if "--aioloop-seed=" in line]
    seed = line.rpartition("=")[2].strip()
    command = line.partition("pytest ")[2].split(" ")[0].strip('"')
    assert command == "test_program.py::test_fails_in_some_orders"
    again = run_tests(command, f"--aioloop-seed={seed}")
    assert "1 failed" in again, again
    assert f"--aioloop-seed={seed}" in again


def test_more_seeds_from_the_command_line(run_tests):
    output = run_tests("-k", "test_each_seed or they_have_run", "--aioloop-seeds=30")
    assert "1 failed, 1 passed" in output, output
    assert "assert 30 == 20" in output


ANYIO = """
import asyncio
import anyio
import pytest
from aioloop import testing
from aioloop.testing import Faults

seen = []


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def connection():
    loop = asyncio.get_running_loop()
    began = loop.time()
    await anyio.sleep(10)
    yield loop
    await anyio.sleep(10)
    assert loop.time() == began + 20 + 3600


@pytest.mark.anyio
@pytest.mark.aioloop
async def test_time_is_virtual(connection):
    await anyio.sleep(3600)
    assert asyncio.get_running_loop() is connection
    assert connection.time() == 3610.0


@pytest.mark.aioloop(virtual_time=True, seed=range(5))
@pytest.mark.anyio
async def test_each_seed(connection):
    seen.append((testing.current_seed(), id(connection)))
    await anyio.sleep(3600)


def test_they_have_run():
    assert [seed for seed, _ in seen] == list(range(len(seen)))
    assert len(seen) == 5


@pytest.mark.anyio
@pytest.mark.aioloop(seed=range(8))
async def test_fails_in_some_orders():
    last = []

    async def write(what):
        last.append(what)

    async with anyio.create_task_group() as group:
        group.start_soon(write, "default")
        group.start_soon(write, "override")
    assert last[-1] == "override"


@pytest.mark.anyio
@pytest.mark.aioloop
async def test_hangs():
    await anyio.Event().wait()


@pytest.mark.anyio
@pytest.mark.aioloop(seed=range(8), faults=Faults(cancel=range(8)))
async def test_cancelled():
    lock = asyncio.Lock()

    async def worker():
        await lock.acquire()
        await asyncio.sleep(1800)
        lock.release()

    await asyncio.wait([asyncio.create_task(worker()) for _ in range(2)])
    assert not lock.locked()


@pytest.mark.anyio
async def test_without_the_marker():
    assert "aioloop" not in type(asyncio.get_running_loop()).__module__
"""

MODULE_LOOP = """
import pytest

@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"

@pytest.fixture(scope="module")
async def wide():
    yield 1

@pytest.mark.anyio
@pytest.mark.aioloop
async def test_wide(wide):
    pass
"""


def test_tests_that_anyio_runs(run_tests, tmp_path):
    (tmp_path / "test_program.py").write_text(ANYIO)
    output = run_tests("-p", "anyio")
    assert "SleepForever: nothing can happen any more" in output, output
    lines = [line for line in output.splitlines() if "repeat it: " in line]
    orders = [line for line in lines if "::test_fails_in_some_orders[" in line]
    cancelled = [line for line in lines if "::test_cancelled[" in line]
    assert 0 < len(orders) < 8 and 0 < len(cancelled) < 8, output
    failed = 1 + len(orders) + len(cancelled)
    assert f"{failed} failed, {25 - failed} passed" in output, output
    assert "was cancelled at" in output and "in worker" in output
    command, _, seed = orders[0].partition("pytest ")[2].partition(" --aioloop-seed=")
    again = run_tests("-p", "anyio", command.strip('"'), f"--aioloop-seed={seed}")
    assert "1 failed" in again, again
    assert f"order='seeded', seed={seed}" in again
    more = run_tests("-p", "anyio", "-k", "test_each_seed", "--aioloop-seeds=9")
    assert "9 passed" in more, more


def test_a_loop_of_other_tests_is_refused(run_tests, tmp_path):
    (tmp_path / "test_program.py").write_text(MODULE_LOOP)
    output = run_tests("-p", "anyio")
    assert "needs a loop that is made for it" in output, output
