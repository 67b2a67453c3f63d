"""The program that every wheel has to pass."""

import importlib.util
import subprocess
import sys
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
SMOKE = TREE / "tests" / "smoke.py"


def test_it_goes_through_every_room():
    spec = importlib.util.spec_from_file_location("aioloop_smoke", SMOKE)
    smoke = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(smoke)
    source = TREE / "src"
    rooms = {str(path.relative_to(source))[:-2] for path in source.rglob("*.c")}
    assert {room for _, covered in smoke.CHECKS for room in covered} == rooms


def test_it_passes():
    done = subprocess.run(
        [sys.executable, str(SMOKE)], capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " checks passed, 0 failed\n" in done.stdout


def test_the_ways_in_lead_to_aioloop():
    program = SMOKE.with_name("ways_in.py")
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " ways in, 0 failed\n" in done.stdout
