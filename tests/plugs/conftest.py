"""Tests with real servers and programs: only when they are asked for."""

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    if os.environ.get("AIOLOOP_PLUGS"):
        return
    skip = pytest.mark.skip(reason="fetches many packages: make plugs")
    for item in items:
        if HERE in item.path.parents and item.path.name != "test_page.py":
            item.add_marker(skip)
