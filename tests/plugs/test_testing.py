"""aioloop.testing beside the packages that have to do with time or with tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import child_environment
from tests.plugs.packages import packages
from tests.plugs.serving import LIMIT

TREE = Path(__file__).parents[2]
OF_PAGE = re.findall(
    r"<!-- run by tests/plugs/test_testing.py -->\n```python\n(.*?)^```",
    (TREE / "docs/testing.md").read_text(),
    re.DOTALL | re.M,
)

ASYNCIO = """
import asyncio
import pytest
import pytest_asyncio
from aioloop import testing

seen = []


@pytest_asyncio.fixture
async def connection():
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.sleep(10)
    yield loop
    await asyncio.sleep(10)
    assert loop.time() == began + 20 + 3600


@pytest.mark.asyncio
@pytest.mark.aioloop
async def test_time_is_virtual(connection):
    await asyncio.sleep(3600)
    assert asyncio.get_running_loop() is connection
    assert connection.time() == 3610.0


@pytest.mark.aioloop(virtual_time=True, seed=range(5))
@pytest.mark.asyncio
async def test_each_seed(connection):
    seen.append(testing.current_seed())
    await asyncio.sleep(3600)


def test_they_have_run():
    assert seen == list(range(5))


@pytest.mark.asyncio
@pytest.mark.aioloop(seed=range(20))
async def test_fails_in_some_orders():
    last = []

    async def write(what):
        last.append(what)

    await asyncio.gather(write("default"), write("override"))
    assert last[-1] == "override"


@pytest.mark.asyncio
@pytest.mark.aioloop
async def test_hangs():
    await asyncio.Event().wait()


@pytest.mark.aioloop
async def test_plain():
    await asyncio.sleep(3600)


@pytest.mark.asyncio
async def test_without_the_marker():
    assert not hasattr(asyncio.get_running_loop(), "metering")
"""

GIVEN = """
import asyncio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from aioloop import testing

runs = []


@pytest.mark.asyncio
@pytest.mark.aioloop(order="seeded")
@settings(database=None, deadline=None, derandomize=True)
@given(tasks=st.integers(1, 20))
async def test_fails(tasks):
    seen = []

    async def work(i):
        seen.append(i)

    runs.append((tasks, testing.current_seed()))
    await asyncio.gather(*(work(i) for i in range(tasks)))
    assert seen == sorted(seen)


def test_it_was_shrunk():
    assert runs[-1][0] == 2 and runs[-1][1] < 10
"""

LOOPTIME = """
import asyncio
import time
import pytest


@pytest.mark.asyncio
@pytest.mark.looptime
async def test_theirs():
    await asyncio.sleep(3600)
    assert asyncio.get_running_loop().time() == 3600


@pytest.mark.aioloop
async def test_ours():
    await asyncio.sleep(3600)
    assert asyncio.get_running_loop().time() == 3600


@pytest.mark.asyncio
@pytest.mark.aioloop(start=7.0)
async def test_ours_with_pytest_asyncio():
    await asyncio.sleep(3600)
    assert asyncio.get_running_loop().time() == 3607
"""

AIOTOOLS = """
import asyncio
import aioloop
from aioloop import testing
from aiotools.timer import VirtualClock

async def hour(start=0.0):
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.sleep(3600)
    assert abs(loop.time() - began - 3600) < 1e-3, loop.time() - began

async def main():
    with VirtualClock().patch_loop():
        await hour()
    await asyncio.sleep(0.001)

aioloop.run(main())
testing.run(main())  # Theirs wins in the block.
testing.run(hour())
"""


def python(name, path, *arguments):
    """Run Python with these packages, in a folder; return what it says."""
    installed = path / "site-packages"
    if not installed.exists():
        installed.symlink_to(packages(name))
    places = [installed, child_environment()["PYTHONPATH"]]
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=path,
        env=child_environment(PYTHONPATH=os.pathsep.join(map(str, places))),
        timeout=LIMIT,
    )
    return done.returncode, done.stdout


def pytest_in(name, path, source, *options):
    (path / "test_it.py").write_text(source)
    (path / "pytest.ini").write_text("[pytest]\n")
    options = ["-p", "aioloop.testing.pytest_plugin", "-p", "aioloop.pytest", *options]
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "test_it.py"]
    return python(name, path, *command)[1]


@pytest.mark.parametrize("installed", [False, True], ids=["asyncio", "aioloop"])
@pytest.mark.parametrize("mode", ["strict", "auto"])
@pytest.mark.parametrize(
    "name", ["pytest-asyncio", "pytest-asyncio 1.1", "pytest-asyncio 0.23"]
)
def test_pytest_asyncio(name, mode, installed, tmp_path):
    """Their fixtures and markers, with our clock, order and seeds."""
    options = [f"--asyncio-mode={mode}", *["--aioloop"] * installed]
    source = ASYNCIO.replace("not hasattr", "hasattr") if installed else ASYNCIO
    said = pytest_in(name, tmp_path, source, *options)
    assert "SleepForever: nothing can happen any more" in said, said
    lines = [line for line in said.splitlines() if "repeat it: " in line]
    assert 0 < len(lines) < 20, said
    failed = 1 + len(lines)
    assert f"{failed} failed, {30 - failed} passed" in said, said
    command, _, seed = lines[0].partition("pytest ")[2].partition(" --aioloop-seed=")
    test = command.strip('"').partition("::")[2]
    again = pytest_in(
        name, tmp_path, source, *options, f"--aioloop-seed={seed}", "-k", test[:24]
    )
    assert "1 failed" in again and f"order='seeded', seed={seed}" in again, again


@pytest.mark.parametrize("name", ["pytest-asyncio", "pytest-asyncio 1.1"])
def test_given_with_pytest_asyncio(name, tmp_path):
    pytest.importorskip("hypothesis")
    said = pytest_in(name, tmp_path, GIVEN, "-p", "no:hypothesispytest")
    assert "1 failed, 1 passed" in said, said
    assert "seed of the order: " in said


@pytest.mark.parametrize("name", ["time-machine", "freezegun"])
def test_time_of_day(name, tmp_path):
    """tests/testing/test_time_of_day.py, where the tool is installed."""
    options = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={TREE}"]
    options += ["-c", TREE / "pyproject.toml", "-k", name.replace("-", "_")]
    file = TREE / "tests/testing/test_time_of_day.py"
    status, said = python(name, tmp_path, *options, file)
    assert status == 0 and "passed" in said and "skipped" not in said, said


@pytest.mark.parametrize("name", ["time-machine", "freezegun"])
def test_the_page_on_the_time_of_day(name, tmp_path):
    (tmp_path / "program.py").write_text(OF_PAGE[0] + "\n\ntest_a_token_expires()\n")
    status, said = python(name, tmp_path, "program.py")
    assert status == 0, said


def test_the_page_on_pytest_asyncio(tmp_path):
    source = "import pytest\nimport pytest_asyncio\n\n" + OF_PAGE[1]
    said = pytest_in("pytest-asyncio", tmp_path, source)
    assert "20 passed" in said, said


def test_looptime(tmp_path):
    said = pytest_in("looptime", tmp_path, LOOPTIME, "--aioloop")
    assert "3 passed" in said, said


def test_aiotools(tmp_path):
    (tmp_path / "program.py").write_text(AIOTOOLS)
    status, said = python("aiotools", tmp_path, "program.py")
    assert status == 0, said
