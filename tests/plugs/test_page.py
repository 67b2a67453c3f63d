"""docs/plugs.md: each row names tests that exist, and no server is forgotten."""

from __future__ import annotations

import re
from pathlib import Path

from tests.plugs import test_as_uvloop, test_programs, test_servers

PAGE = Path(__file__).parents[2] / "docs" / "plugs.md"


def test_the_page_names_the_tests():
    page = PAGE.read_text()
    functions = {
        name
        for module in (test_servers, test_programs, test_as_uvloop)
        for name in vars(module)
        if name.startswith("test_")
    }
    named = set(re.findall(r"`(test_\w+)", page))
    assert named <= functions
    assert functions - named <= {
        name for name in vars(test_as_uvloop) if name.startswith("test_")
    }
    of_servers = set(re.findall(r"(?<!\w)(?:test_server)?\[([^]]+)\]`", page))
    assert of_servers == set(test_servers.SERVERS)


def test_each_row_has_one():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    assert len(rows) > 20
    for row in rows[1:]:
        assert "test_" in row.rsplit(" | ", 1)[-1], row
