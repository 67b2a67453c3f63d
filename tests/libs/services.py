"""Databases that libraries' own test-suites talk to, each started for one run.

They are Debian's programs. Where they are missing they are installed if the machine is
for tests alone: as root, where packages may not start services (a container, the root
of .ci/sid-root). Else the test is skipped.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from benchmarks import services

NO_SERVICE_STARTS = Path("/usr/sbin/policy-rc.d")


@contextlib.contextmanager
def started(name):
    """Run a service, with data of its own, while the block runs; yield its address."""
    package, programs, start = SERVICES[name]
    need(package, programs)
    with tempfile.TemporaryDirectory() as place:
        if user := services.unprivileged():
            shutil.chown(place, user)
        with start(Path(place)) as address:
            yield address


@contextlib.contextmanager
def redis(folder):
    """Yield the URL: tests read the host and the port out of it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--port", str(port), "--enable-debug-command", "yes"]
    with services.redis(folder, *options):
        yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def postgres(folder):
    """Yield the folder of the socket; anybody is let in as the user postgres."""
    with services.postgres(folder) as address:
        yield address


SERVICES = {
    "redis": ("redis-server", ["redis-server"], redis),
    "postgres": ("postgresql", ["postgres", "initdb"], postgres),
}


def need(package, programs):
    """Have these programs, or skip the test."""
    if all(map(services.program, programs)):
        return
    if os.geteuid() != 0 or not NO_SERVICE_STARTS.exists():
        pytest.skip(f"NOT RUN, needs Debian's package {package}")
    for command in (["update", "-qq"], ["install", "-qq", "--yes", package]):
        done = subprocess.run(
            ["apt-get", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
        if done.returncode != 0:
            pytest.skip(f"NOT RUN, apt cannot install {package}: {done.stderr}")
    assert all(map(services.program, programs))
