"""Programs in processes of their own, and what they print."""

import os
import subprocess
import sys
import textwrap

import pytest

from tests.conftest import LIMIT, PACKAGE_PARENT

START = """
import asyncio, os, sys, threading, time
import aioloop

async def turns(n=5):
    for _ in range(n):
        await asyncio.sleep(0)
"""


@pytest.fixture
def program(tmp_path):
    """Return a function that starts a program, app.py, in a directory of its own."""
    started = []

    def start(source, *options, **settings):
        path = tmp_path / "app.py"
        path.write_text(START + textwrap.dedent(source))
        environment = {**os.environ, "PYTHONPATH": str(PACKAGE_PARENT)}
        process = subprocess.Popen(
            [sys.executable, *options, "app.py"],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **settings,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def output(program):
    """Return a function that runs a program and returns what it prints."""

    def run(source, *options):
        process = program(source, *options)
        out, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, err
        assert err == ""
        return out

    return run
