"""@pytest.mark.aioloop on async tests (aioloop/testing/pytest_plugin.py)."""

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
