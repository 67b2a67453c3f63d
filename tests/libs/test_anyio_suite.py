"""anyio's own test-suite on aioloop.

anyio runs each of its tests on asyncio and, if there is one, on uvloop: here a module
of that name hands out aioloop's loop. A test that fails on aioloop has to fail on
asyncio's own loop too, where it is run right after (IPv6 and names in the DNS are not
everywhere).

The source archive and what the tests need come from the package index; they are kept in
a folder outside the tree. Where the index cannot be reached the test is skipped.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

VERSION = "4.12.1"
NEEDS = ["trustme", "psutil", "pytest", "pytest-mock", "pytest-timeout", "blockbuster"]
NEEDS += ["truststore", "exceptiongroup", "hypothesis"]
# The oldest and the newest release: what may differ between them differs there.
INTERPRETERS = [(3, 11), (3, 14)]
LIMIT = 300
RACES = [
    # Counts the process's threads, of which one of the test before may be about to end.
    "tests/test_to_thread.py::TestBlockingPortalProvider::test_single_thread",
    # Makes the first of two attempts to find a port fail; the second one fails if
    # anybody on this machine has that port.
    "tests/test_sockets.py::TestTCPListener"
    "::test_tcp_listener_retry_after_partial_failure",
]
HERE = Path(__file__).parent / "anyio_suite"


def cache_folder():
    """Return where files that outlive a run are kept, as .ci/on has it."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("AIOLOOP_CI_CACHE") or Path(base) / "aioloop")


def fetch(place):
    """Fill the folder with anyio's sources and the packages that its tests need."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    pip += ["--retries", "1", "--timeout", "15"]
    packages, archives = place / "packages", place / "archives"
    anyio = f"anyio=={VERSION}"
    for command in (
        ["install", "--prefer-binary", "--target", packages, anyio, *NEEDS],
        ["download", "--no-binary", "anyio", "--no-deps", "-d", archives, anyio],
    ):
        done = subprocess.run([*pip, *command], capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"anyio's tests NOT RUN, pip cannot fetch them: {done.stderr}")
    with tarfile.open(archives / f"anyio-{VERSION}.tar.gz") as archive:
        archive.extractall(place, filter="data")


@pytest.fixture(scope="module")
def sources():
    """Return the folder that holds anyio's sources and, beside them, packages."""
    tag = f"anyio-{VERSION}-{sys.implementation.cache_tag}"
    cache = cache_folder() / "suites"
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / f"{tag}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (cache / tag).is_dir():
            with tempfile.TemporaryDirectory(dir=cache) as place:
                fetch(Path(place))
                shutil.copytree(place, cache / tag)
    return cache / tag


@pytest.fixture
def run_suite(sources, child_env, tmp_path):
    """Return a function that runs anyio's tests and returns the outcomes."""

    def run_suite(*arguments):
        outcomes = tmp_path / "outcomes.json"
        own = child_env()["PYTHONPATH"]
        path = os.pathsep.join([str(HERE), str(sources / "packages"), own])
        command = [sys.executable, "-m", "pytest", "-p", "outcomes", "-q"]
        command += ["-p", "no:cacheprovider", "--timeout", "60", *arguments]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=sources / f"anyio-{VERSION}",
            env=child_env(PYTHONPATH=path, OUTCOMES=str(outcomes)),
            timeout=LIMIT,
        )
        assert done.returncode in (0, 1), done.stdout
        return json.loads(outcomes.read_text())

    return run_suite


@pytest.mark.timeout(2 * LIMIT)
@pytest.mark.skipif(
    os.environ.get("AIOLOOP_FLAVOUR") == "hard",
    reason="anyio's tests take each receive for a whole message",
)
@pytest.mark.skipif(
    sys.version_info[:2] not in INTERPRETERS, reason="runs on 3.11 and on 3.14"
)
def test_what_passes_on_asyncio_passes_on_aioloop(run_suite):
    races = [word for race in RACES for word in ("--deselect", race)]
    ours = run_suite("tests", "-k", "uvloop and not trio", *races)
    assert len(ours["passed"]) > 600
    failed = ours["failed"]
    on_asyncio = {name: name.replace("asyncio+uvloop", "asyncio") for name in failed}
    theirs = run_suite(*on_asyncio.values()) if failed else {"failed": {}}
    only_ours = {
        name: text
        for name, text in failed.items()
        if name == on_asyncio[name] or on_asyncio[name] not in theirs["failed"]
    }
    assert not only_ours, "\n\n".join(f"{n}\n{t}" for n, t in only_ours.items())
