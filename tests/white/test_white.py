"""Each white-box program for half a second, from a fixed seed."""

import shutil
import subprocess
import sys

import pytest

from tests.white import __main__ as white

SECONDS = "0.5"
LIMIT = 60

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="built by gcc's options"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here"),
]


@pytest.mark.parametrize("name", white.NAMES)
def test_a_room_is_as_its_model(name, tmp_path):
    program = white.build(name, tmp_path)
    done = subprocess.run(
        [program, SECONDS, "1"],
        env=white.environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr
    inputs, word = done.stdout.split()
    assert word == "inputs" and int(inputs) > 0
