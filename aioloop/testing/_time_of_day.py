"""time.time(), datetime.now(), time.monotonic() and their like follow a virtual clock.

The time of day is replaced by time-machine, which does that in C and so for everybody
who has a name of it, or by freezegun; what they give out is read from the clock at each
call. time.monotonic() is the loop's time, as it is in asyncio. What waits for the world
outside keeps the real one: asyncio's own modules, threads, queues, processes.
"""

from __future__ import annotations

import asyncio.base_events
import contextlib
import datetime
import importlib
import sys
import time
import types
from typing import TYPE_CHECKING
from unittest import mock

from .._loop import Loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from ._clock import Clock

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)

# Modules, by how their names begin, that would wait for ever, or not at all, if the
# time in which they count timeouts stood still.
_OUTSIDE = (
    *("asyncio", "concurrent.", "multiprocessing", "queue", "sched", "select"),
    *("signal", "socket", "ssl", "subprocess", "threading"),
)


# time.monotonic().

_clock: Clock | None = None  # that the process's time follows
# Not by these names: freezegun would replace them, too.
_real = {"monotonic": time.monotonic, "monotonic_ns": time.monotonic_ns}


def _caller_is_outside() -> bool:
    return sys._getframe(2).f_globals.get("__name__", "").startswith(_OUTSIDE)


def monotonic() -> float:
    """Stand in for time.monotonic()."""
    clock = _clock
    if clock is None or _caller_is_outside():
        return _real["monotonic"]()
    return clock.time()


def monotonic_ns() -> int:
    """Stand in for time.monotonic_ns()."""
    clock = _clock
    if clock is None or _caller_is_outside():
        return _real["monotonic_ns"]()
    return clock.nanoseconds


_STANDINS = {_real[f.__name__]: f for f in (monotonic, monotonic_ns)}


# The time of day.


def _follow(thing: Any, **members: Any) -> None:
    """Give an object members that go before its class's."""
    kind = type(thing)
    thing.__class__ = type(kind.__name__, (kind,), members)


@contextlib.contextmanager
def _by_time_machine(tool: Any, now: Callable[[], int]) -> Iterator[None]:
    with tool.travel(now() / 1e9, tick=False) as place:
        _follow(place, time_ns=lambda _: now(), time=lambda _: now() / 1e9)
        yield


@contextlib.contextmanager
def _by_freezegun(tool: Any, now: Callable[[], int]) -> Iterator[None]:
    def today(_: Any = None) -> datetime.datetime:
        return (_EPOCH + now() // 1000 * _MICROSECOND).replace(tzinfo=None)

    freezer = tool.freeze_time(today())
    with freezer as place:
        _follow(place, time_to_freeze=property(today))
        for module, name, original in freezer.undo_changes:
            for real, standin in _STANDINS.items():
                if original is real:
                    setattr(module, name, standin)  # It undoes that, too.
        yield


_TOOLS = {"time_machine": _by_time_machine, "freezegun": _by_freezegun}


def _find_tool() -> Callable[[Callable[[], int]], Any]:
    for name, function in _TOOLS.items():
        try:
            tool = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
        else:
            return lambda now: function(tool, now)
    raise ModuleNotFoundError(
        "patch_time needs a package that replaces the time of day, time-machine or"
        " freezegun, and finds neither"
    )


# What the rest of aioloop.testing calls.


def follow_if(
    patch_time: bool | float | datetime.datetime, clock: Clock
) -> contextlib.AbstractContextManager[None]:
    """Do what the argument `patch_time` says."""
    if patch_time is False:
        return contextlib.nullcontext()
    return _follow_clock(clock, patch_time)


@contextlib.contextmanager
def _follow_clock(clock: Clock, start: float | datetime.datetime) -> Iterator[None]:
    """Let the process's time follow the clock.

    ``start`` is the time of day now: True is the real one.
    """
    global _clock
    if isinstance(start, datetime.datetime) and start.tzinfo is None:
        raise ValueError(f"a datetime with a time zone is needed, not {start!r}")
    if not isinstance(start, datetime.datetime | int | float):
        raise TypeError(f"patch_time is True, seconds or a datetime, not {start!r}")
    use = _find_tool()
    if _clock is not None:
        raise RuntimeError(f"the process's time follows {_clock!r} already")
    if start is True:
        begin = time.time_ns()
    elif isinstance(start, datetime.datetime):
        begin = (start - _EPOCH) // _MICROSECOND * 1000
    else:
        begin = round(start * 1e9)
    begin -= clock.nanoseconds
    # Loops ask this module's `time`; one with a clock of its own needs no other, and
    # one without lives in real time.
    apart = types.ModuleType("time")
    vars(apart).update(vars(time))
    with (
        mock.patch.object(asyncio.base_events, "time", apart),
        use(lambda: begin + clock.nanoseconds),
        mock.patch.object(time, "monotonic", monotonic),
        mock.patch.object(time, "monotonic_ns", monotonic_ns),
    ):
        _clock = clock
        try:
            yield
        finally:
            _clock = None


class PatchingLoop(Loop):
    """A loop whose clock the process's time follows until it is closed."""

    _following: contextlib.ExitStack | None = None

    def follow(self, clock: Clock, start: float | datetime.datetime) -> None:
        self._following = contextlib.ExitStack()
        self._following.enter_context(_follow_clock(clock, start))

    def close(self) -> None:
        super().close()
        if self._following is not None:
            self._following.close()


PatchingLoop.__name__ = PatchingLoop.__qualname__ = "Loop"
PatchingLoop.__module__ = Loop.__module__
