"""The test-suites of libraries: where they come from and how they are run.

The source archive and what the tests need come from the package index; they are kept in
a folder outside the tree. Where the index cannot be reached the test is skipped.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import child_environment
from tests.libs import services

LIMIT = 600
HERE = Path(__file__).parent
ON_AIOLOOP = HERE / "suite_loop"
IN_VIRTUAL_TIME = HERE / "suite_virtual"
PLUGIN = HERE / "suite_plugin"
TREE = HERE.parents[1]
RECORDS = TREE / "build" / "suites"


@dataclass(frozen=True)
class Suite:
    """One library's tests.

    ``selection`` is pytest's arguments for all tests, ``options`` are those of any run.
    ``needs`` are packages beside the library itself.
    ``package`` is the folder of the source archive that would hide the installed
    library from its tests and is left out, if that is not where the tests are.
    ``left_out`` maps tests that are not run to the reason. ``at_least`` is how many
    tests have to pass, so that an empty run is noticed. ``interpreters`` are those that
    run the suite: each takes its time, and not every one has wheels for its needs.
    ``always``: it is one of the tests, and not only run when it is asked for.
    ``service`` is the database (tests/libs/services.py) that runs beside the tests; its
    address replaces ``{service}`` in the options and in ``environment``, the tests'
    additional variables.
    ``rest`` says in words what of the suite is not selected, for the table.
    ``debian`` is Debian's source package of this version and its archive's SHA-256, for
    a library whose archive in the package index has no tests.
    """

    name: str
    version: str
    needs: list[str]
    selection: list[str]
    at_least: int
    interpreters: list[tuple[int, int]]
    options: list[str] = field(default_factory=list)
    package: str = ""
    always: bool = False
    left_out: dict[str, str] = field(default_factory=dict)
    service: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    rest: str = ""
    debian: tuple[str, str] | None = None

    @property
    def tag(self):
        return f"{self.name}-{self.version}"

    def run(self, on_aioloop, outcomes, *tests, virtual=False):
        """Run these tests, or all of them, and return which passed and which failed."""
        place = self._fetched()
        own = child_environment()["PYTHONPATH"]
        path = [PLUGIN, place / "packages", own]
        if on_aioloop:
            path.insert(0, ON_AIOLOOP)
        if virtual:
            path.insert(0, IN_VIRTUAL_TIME)
        left_out = [word for name in self.left_out for word in ("--deselect", name)]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "outcomes"]
        if not self.service:  # It listens on the machine's own loopback network.
            command += ["-p", "own_ports"]
        command += ["-p", "no:cacheprovider", "--timeout", "60"]
        with self._served() as address:
            options, variables = self._told(address)
            done = subprocess.run(
                [*command, *options, *left_out, *(tests or self.selection)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=place / "source",
                env=child_environment(
                    PYTHONPATH=os.pathsep.join(map(str, path)),
                    OUTCOMES=str(outcomes),
                    # With aioloop.accelerate(), if `make suites` was told so.
                    AIOLOOP_ACCELERATE=os.environ.get("AIOLOOP_ACCELERATE", "0"),
                    **variables,
                ),
                timeout=LIMIT,
            )
        assert done.returncode in (0, 1), done.stdout
        return json.loads(outcomes.read_text())

    def _served(self):
        if not self.service:
            return contextlib.nullcontext("")
        return services.started(self.service)

    def _told(self, address):
        """Return the options and the variables, with the service's address."""
        return (
            [option.replace("{service}", address) for option in self.options],
            {
                name: value.replace("{service}", address)
                for name, value in self.environment.items()
            },
        )

    def fetch(self):
        """Fetch what the run needs, so that it does not take the run's time."""
        self._fetched()

    def record(self):
        """Return the file in which the tests' outcomes on both loops are kept."""
        return RECORDS / f"{self.tag}-{sys.implementation.cache_tag}.json"

    def _fetched(self):
        """Return the folder with the library's sources and, beside them, packages."""
        needs = zlib.crc32(repr((self.needs, self.package)).encode())
        name = f"{self.tag}-{sys.implementation.cache_tag}-{needs:08x}"
        return kept_folder(cache_folder() / "suites" / name, self._fetch)

    def _fetch(self, place):
        archives = place / "archives"
        library = f"{self.name}=={self.version}"
        what = f"{self.name}'s tests"
        install = ["install", "--prefer-binary", "--target", place / "packages"]
        pip([*install, library, "pytest", "pytest-timeout", *self.needs], what)
        if self.debian:
            archives.mkdir()
            debian_source(*self.debian, self.version, archives / "source.tar.gz", what)
        else:
            download = ["download", "--no-binary", self.name, "--no-deps"]
            pip([*download, "-d", archives, library], what)
        (archive,) = archives.iterdir()
        with tarfile.open(archive) as opened:
            opened.extractall(place / "extracted", filter="data")
        (source,) = (place / "extracted").iterdir()
        source.rename(place / "source")
        if self.package:
            shutil.rmtree(place / "source" / self.package)


def pip(command, what):
    """Run pip; skip the test if it cannot fetch what the test needs."""
    start = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    start += ["--retries", "1", "--timeout", "15"]
    done = subprocess.run([*start, *command], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"{what} NOT RUN, pip cannot fetch them: {done.stderr}")


def debian_source(package, sha256, version, archive, what):
    """Fetch the original archive of Debian's source package; skip the test if it fails.

    A binary package of it is called python3- and the last word of ``package``.
    """
    binary = f"python3-{package.split('-')[-1]}"
    name = f"{package}_{version}.orig.tar.gz"
    command = [TREE / ".ci" / "debian-source", binary, name, sha256, archive]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"{what} NOT RUN, Debian's source cannot be had: {done.stderr}")


def kept_folder(kept, fill):
    """Return a folder that outlives the run; ``fill`` fetches what is in it."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with open(kept.with_name(f"{kept.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.is_dir():
            with tempfile.TemporaryDirectory(dir=kept.parent) as place:
                fetched = Path(place) / "fetched"
                fill(fetched)
                fetched.rename(kept)
    return kept


def cache_folder():
    """Return where files that outlive a run are kept, as .ci/on has it."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("AIOLOOP_CI_CACHE") or Path(base) / "aioloop")
