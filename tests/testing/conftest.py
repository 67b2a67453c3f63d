"""Fixtures of the tests of aioloop.testing."""

import threading

import pytest

from aioloop.testing import _explore


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Leave out threads that were there before the test.

    For all that is known any of them may yet call call_soon_threadsafe(), and so a loop
    in which nothing else can happen would wait for it.
    """
    real = threading.enumerate
    before = set(real()) - {threading.current_thread()}
    monkeypatch.setattr(
        threading, "enumerate", lambda: [t for t in real() if t not in before]
    )


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Explore without a fork, unless a test asks for processes."""
    monkeypatch.setattr(_explore, "_sensible_number", lambda: 1)
