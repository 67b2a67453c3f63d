"""docs/plugs.md: each row names tests that exist, and no server is forgotten."""

from __future__ import annotations

import re
from pathlib import Path

from tests.plugs import test_as_uvloop, test_programs, test_servers

PAGE = Path(__file__).parents[2] / "docs" / "plugs.md"


def cells():
    """Return what the table's last column has in each row."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [row.rsplit(" | ", 1)[-1] for row in rows[1:]]


def test_the_page_names_the_tests():
    modules = test_servers, test_programs, test_as_uvloop
    of_modules = [
        {name for name in vars(module) if name.startswith("test_")}
        for module in modules
    ]
    named = set(re.findall(r"`(test_\w+)", " ".join(cells())))
    assert named == of_modules[0] | of_modules[1]
    servers = set(re.findall(r"`(?:test_server)?\[([^]]+)\]`", " ".join(cells())))
    assert servers == set(test_servers.SERVERS)


def test_each_row_has_one():
    assert len(cells()) > 20
    for cell in cells():
        assert "test_" in cell
