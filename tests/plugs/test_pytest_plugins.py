"""``pytest --aioloop`` with the plugins that run coroutines as tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.conftest import child_environment
from tests.plugs.packages import packages
from tests.plugs.serving import LIMIT

KIND = """
import asyncio
import pytest

def kind():
    return type(asyncio.get_running_loop()).__module__

OURS = "aioloop._loop"
"""

# Packages: the test-suite, its options, how many pass.
SUITES = {
    "pytest-asyncio": (
        """
@pytest.fixture
async def fixture():
    yield kind()

async def test_function(fixture):
    assert fixture == kind() == OURS

@pytest.mark.asyncio(loop_scope="module")
async def test_module():
    assert kind() == OURS

class TestClass:
    async def test_method(self, fixture):
        assert fixture == kind() == OURS
""",
        ["--asyncio-mode=auto"],
        3,
    ),
    "pytest-aiohttp": (
        """
from aiohttp import web

async def handle(request):
    return web.Response(text=kind())

@pytest.fixture
async def client(aiohttp_client):
    application = web.Application()
    application.router.add_get("/", handle)
    return await aiohttp_client(application)

async def test_server(client):
    answer = await client.get("/")
    assert await answer.text() == kind() == OURS
""",
        ["--asyncio-mode=auto"],
        1,
    ),
    "aiohttp": (
        """
async def test_loop(loop):
    assert loop is asyncio.get_running_loop()
    assert kind() == OURS
""",
        ["-p", "aiohttp.pytest_plugin", "-W", "ignore"],
        1,
    ),
    "pytest-tornasync": (
        """
import tornado.web

class Handler(tornado.web.RequestHandler):
    async def get(self):
        self.write(kind())

@pytest.fixture
def app():
    return tornado.web.Application([("/", Handler)])

async def test_server(http_server_client):
    answer = await http_server_client.fetch("/")
    assert answer.body.decode() == kind() == OURS
""",
        ["-W", "ignore"],
        1,
    ),
    "anyio": (
        """
@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.fixture
async def fixture(anyio_backend):
    yield kind()

@pytest.mark.anyio
async def test_function(fixture):
    assert fixture == kind() == OURS
""",
        [],
        1,
    ),
}
SUITES["pytest-asyncio 0.23"] = SUITES["pytest-asyncio"]
SUITES["pytest-asyncio 0.23"] = (
    SUITES["pytest-asyncio"][0].replace("loop_scope=", "scope="),
    *SUITES["pytest-asyncio"][1:],
)
SUITES["pytest-asyncio 1.1"] = SUITES["pytest-asyncio"]

LEAKS = """
async def test_leak():
    asyncio.create_task(asyncio.sleep(60), name="left")

async def test_none():
    await asyncio.create_task(asyncio.sleep(0))
"""


@pytest.fixture
def run(tmp_path):
    """Return a function that runs a test-suite with these packages."""

    def run(name, suite, *options):
        (tmp_path / "test_it.py").write_text(KIND + suite)
        (tmp_path / "pytest.ini").write_text("[pytest]\n")
        # What is installed is told from what is tested by the folder's name.
        installed = tmp_path / "site-packages"
        if not installed.exists():
            installed.symlink_to(packages(name))
        path = [installed, child_environment()["PYTHONPATH"]]
        command = ["-m", "pytest", "-rA", "-p", "no:cacheprovider", "--tb=short"]
        command += ["-p", "aioloop.pytest", *options, "test_it.py"]
        done = subprocess.run(
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
            env=child_environment(PYTHONPATH=os.pathsep.join(map(str, path))),
            timeout=LIMIT,
        )
        names = re.findall(r"^(\w+) (test_it.py::\S+)", done.stdout, re.M)
        return done.stdout, sorted(names)

    return run


@pytest.mark.parametrize("debug", [False, True], ids=["aioloop", "aioloop-debug"])
@pytest.mark.parametrize("name", SUITES)
def test_plugin(name, debug, run):
    suite, options, number = SUITES[name]
    said, theirs = run(name, suite.replace("== OURS", "!= OURS"), *options)
    assert f" {number} passed" in said, said
    option = "--aioloop-debug" if debug else "--aioloop"
    said, ours = run(name, suite, *options, option)
    assert f" {number} passed" in said, said
    assert ours == theirs


@pytest.mark.parametrize("name", ["pytest-asyncio", "pytest-asyncio 1.1"])
def test_leaks_of_coroutines(name, run):
    said, names = run(name, LEAKS, "--asyncio-mode=auto", "--aioloop-debug")
    assert names == [
        ("ERROR", "test_it.py::test_leak"),
        ("PASSED", "test_it.py::test_leak"),
        ("PASSED", "test_it.py::test_none"),
    ], said
    assert "Task 'left' of sleep() was still pending when its loop was left" in said
    assert "made at test_it.py:11 in test_leak" in said


@pytest.mark.parametrize("name", ["pytest-asyncio"])
def test_a_policy_of_a_fixture(name, run):
    """The loop factory of the command line wins over it, where there are such."""
    suite = """
import warnings
warnings.simplefilter("ignore")

@pytest.fixture
def event_loop_policy():
    return asyncio.DefaultEventLoopPolicy()

async def test_function():
    assert kind() == OURS
"""
    options = ("--asyncio-mode=auto", "-W", "ignore", "--aioloop")
    said, names = run(name, suite, *options)
    assert names == [("PASSED", "test_it.py::test_function")], said
