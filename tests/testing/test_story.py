"""docs/testing_story.md happens as it is told: files are written, commands run."""

import os
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.conftest import LIMIT, child_environment

PAGE = Path(__file__).parents[2] / "docs" / "testing_story.md"
BLOCK = re.compile(
    r"^<!-- run by tests/testing/test_story\.py -->\n```(python|console)\n(.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
PLACE = re.compile(
    r'(?P<name>\w+\.py)(, from "(?P<start>.*?)" (on|to "(?P<end>.*)")|, at the end)?'
)


def write(folder, title, text):
    """Write a file, or put the text where the title says."""
    place = PLACE.fullmatch(title)
    path = folder / place["name"]
    if title == place["name"]:
        path.write_text(f"# {title}\n{text}")
        return
    before, after = path.read_text(), ""
    if place["start"]:
        before, found, rest = before.partition(place["start"])
        assert found
        if place["end"]:
            _, found, rest = rest.partition(place["end"])
            assert found
            after = found + rest
    else:
        text = "\n\n" + text
    path.write_text(before + text + after)


def plugin():
    """Return the option that an installed aioloop's entry point makes needless."""
    installed = any(
        point.value == "aioloop.testing.pytest_plugin"
        for point in metadata.entry_points(group="pytest11")
    )
    return [] if installed else ["-p", "aioloop.testing.pytest_plugin"]


def normal(line):
    line = re.sub(r"\d+\.\d+s\b", "N s", line)  # how long it took
    line = re.sub(r"\bTask-\d+", "Task-N", line)
    return " ".join(line.split())


def run(folder, command):
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "pytest"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *plugin()]
        + words[3:],
        cwd=folder,
        env=child_environment(COLUMNS="200", PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    ).stdout


@pytest.mark.timeout(10 * LIMIT)
@pytest.mark.skipif(
    "AIOLOOP_FLAVOUR" in os.environ, reason="the page shows the release build"
)
def test_the_story_happens_as_it_is_told(tmp_path):
    blocks = BLOCK.findall(PAGE.read_text())
    assert len(blocks) > 10
    for language, body in blocks:
        if language == "python":
            title, _, text = body.partition("\n")
            write(tmp_path, title.removeprefix("# "), text)
            continue
        for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            command, *shown = part.splitlines()
            printed = run(tmp_path, command)
            lines = iter([normal(line) for line in printed.splitlines()])
            for line in shown:
                assert normal(line) in lines, f"$ {command}\n{line}\n\nin\n\n{printed}"
