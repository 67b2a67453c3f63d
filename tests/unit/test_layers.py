"""The rooms of src/ include only downwards, and ev.h and Python.h have one place."""

import re
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"
LAYERS = ["base", "core", "task", "prim", "io", "loop", "diag", ""]
FILES = sorted(path for path in SRC.rglob("*.[ch]"))
INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]', re.MULTILINE)


def layer_of(path):
    folder = path.parent.relative_to(SRC).as_posix()
    return LAYERS.index("" if folder == "." else folder)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_includes(path):
    for quote, name in INCLUDE.findall(path.read_text()):
        if quote == '"':
            target = SRC / name
            assert target.is_file(), f"{name} is not named from src/"
            assert layer_of(target) <= layer_of(path), f"{name} is a room above"
        elif name == "ev.h":
            assert path == SRC / "core/poll.c"
        elif name in ("Python.h", "structmember.h"):
            assert path == SRC / "base/py.h"


def test_there_are_rooms():
    assert len(FILES) > 20
