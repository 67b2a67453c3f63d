"""patch_time=True (aioloop/testing/_time_of_day.py), where a tool for it is installed.

tests/plugs/test_testing.py installs them.
"""

import asyncio
import datetime
import importlib.util
import sys
import threading
import time

import pytest

from aioloop import testing
from aioloop.testing import _time_of_day

FOUND = [name for name in _time_of_day._TOOLS if importlib.util.find_spec(name)]
UTC = datetime.UTC


@pytest.fixture(params=_time_of_day._TOOLS)
def tool(request, monkeypatch):
    """The only one that is there."""
    if request.param not in FOUND:
        pytest.skip(f"{request.param} is not installed: make plugs")
    for name in _time_of_day._TOOLS:
        if name != request.param:
            monkeypatch.setitem(sys.modules, name, None)
    return request.param


@pytest.fixture
def no_tool(monkeypatch):
    for name in _time_of_day._TOOLS:
        monkeypatch.setitem(sys.modules, name, None)


def test_without_a_tool_it_says_so(no_tool):
    with pytest.raises(ModuleNotFoundError, match="time-machine or freezegun"):
        testing.new_event_loop(patch_time=True)
    with pytest.raises(ModuleNotFoundError, match="time-machine or freezegun"):
        with testing.virtual_time(patch_time=True):
            pass
    assert time.monotonic is _time_of_day._real["monotonic"]


@pytest.mark.parametrize(
    ("value", "kind"), [("now", TypeError), (datetime.datetime(2000, 1, 1), ValueError)]
)
def test_what_is_refused(value, kind):
    with pytest.raises(kind):
        testing.new_event_loop(patch_time=value)
    with pytest.raises(ValueError):
        testing.new_event_loop(patch_time=True, virtual_time=False)


async def an_hour():
    """Return by how much each clock has gone on."""
    clocks = [
        time.time,
        time.monotonic,
        lambda: time.time_ns() / 1e9,
        lambda: time.monotonic_ns() / 1e9,
        lambda: datetime.datetime.now(UTC).timestamp(),
        asyncio.get_running_loop().time,
    ]
    before = [clock() for clock in clocks]
    await asyncio.sleep(3600)
    return [clock() - began for clock, began in zip(clocks, before, strict=True)]


def test_an_hour(tool):
    real = time.time()
    for seconds in testing.run(an_hour(), patch_time=True):
        assert seconds == pytest.approx(3600, abs=1e-3)
    assert 0 <= time.time() - real < 3000
    assert time.monotonic is _time_of_day._real["monotonic"]
    assert time.monotonic_ns is _time_of_day._real["monotonic_ns"]


@pytest.mark.parametrize(
    "start", [946684800, 946684800.0, datetime.datetime(2000, 1, 1, tzinfo=UTC)]
)
def test_it_begins_when_it_is_told_to(tool, start):
    async def main():
        await asyncio.sleep(0.5)
        return time.time(), datetime.datetime.now(UTC), time.monotonic()

    seconds, now, monotonic = testing.run(main(), patch_time=start)
    assert seconds == 946684800.5
    assert now == datetime.datetime(2000, 1, 1, 0, 0, 0, 500000, tzinfo=UTC)
    assert monotonic == 0.5


def test_the_loops_time_is_monotonic_time(tool):
    async def main():
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.1)
        assert time.monotonic() == loop.time() == 0.1
        done = loop.create_future()
        loop.call_at(time.monotonic() + 5, done.set_result, None)
        await done
        assert time.monotonic() == loop.time() == 5.1
        testing.current_clock().advance(1)
        assert time.monotonic() == loop.time() == 6.1

    testing.run(main(), patch_time=True)


def test_what_is_outside_keeps_real_time(tool):
    """A timeout of a thread is over in time, though the clock stands still."""

    async def main():
        event = threading.Event()
        before = time.time()
        assert not await asyncio.to_thread(event.wait, 0.05)
        if tool == "time_machine":  # freezegun leaves threads alone.
            assert await asyncio.to_thread(time.time) == before

    testing.run(main(), patch_time=True)


def test_a_block(tool):
    with testing.virtual_time(patch_time=1000.0) as clock:
        assert time.time() == 1000.0
        clock.advance(5)
        assert time.time() == 1005.0
        with pytest.raises(RuntimeError, match="follows .* already"):
            with testing.virtual_time(patch_time=True):
                pass
    assert time.time() > 1e9
    with testing.virtual_time(patch_time=0.0):
        assert time.time() == 0.0


def test_until_the_loop_is_closed(tool):
    loop = testing.new_event_loop(patch_time=1000.0)
    try:
        assert time.time() == 1000.0
        loop.run_until_complete(asyncio.sleep(10))
        assert time.time() == 1010.0
    finally:
        loop.close()
    loop.close()
    assert time.time() > 1e9


def test_a_loop_without_a_clock_beside_it(tool):
    """It lives in real time."""
    with testing.virtual_time(patch_time=True):
        other = asyncio.SelectorEventLoop()
        try:
            real = _time_of_day._real["monotonic"]
            began = real()
            other.run_until_complete(asyncio.sleep(0.01))
            assert real() - began >= 0.009
        finally:
            other.close()


def test_names_that_a_module_has(tool):
    """time-machine replaces time.time for all; monotonic only freezegun, if so."""
    module = type(sys)("a_module")
    exec("from time import time, monotonic", vars(module))
    sys.modules["a_module"] = module
    try:
        with testing.virtual_time(patch_time=1000.0) as clock:
            clock.advance(5)
            assert module.time() == 1005.0
            if tool == "freezegun":
                assert module.monotonic() == 5.0
    finally:
        del sys.modules["a_module"]
    assert module.time() > 1e9
    assert module.monotonic is _time_of_day._real["monotonic"]
