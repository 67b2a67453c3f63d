"""Tests with real servers and programs: only when they are asked for."""

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# The first run fetches packages, and makes Cython read uvloop's sources.
LIMIT = 900


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE not in item.path.parents or item.path.name == "test_page.py":
            continue
        item.add_marker(pytest.mark.timeout(LIMIT))
        if not os.environ.get("AIOLOOP_PLUGS"):
            reason = "fetches many packages: make plugs"
            item.add_marker(pytest.mark.skip(reason=reason))
