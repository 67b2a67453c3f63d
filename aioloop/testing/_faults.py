"""What else goes wrong in a test: cancellations, the network, slow callbacks."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import math
import random
import weakref
from typing import TYPE_CHECKING

from .. import _core
from .._loop import Loop
from . import _trace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Which = int | float | tuple[int, int] | Sequence[int] | None
    Seconds = float | tuple[float, float]


# As src/core/faults.c numbers them.
_KINDS = ("short_io", "delay_io", "reset", "slow_callback")
_SHORT_IO, _DELAY_IO, _RESET, _SLOW_CALLBACK = range(4)
_IN, _SOCKET, _ACCEPT = 1, 4, 8
_NUMBER = (int, float)
_NONE = (0, 0, 0.0, -1)
TOLD = 10  # faults of the network, and callbacks


def _lot(name: str, which: Any, seed: int | None) -> tuple[int, int, float, int]:
    """Return what src/core/faults.c takes for "which of them"."""
    if which is None:
        return _NONE
    if isinstance(which, float):
        if 0.0 <= which <= 1.0:
            return 0, 0, which, -1
    elif isinstance(which, int):
        if which >= 0:
            return 0, 0, 0.0, which
    elif isinstance(which, tuple):
        if len(which) == 2 and 0 <= which[0] <= which[1] > 0:
            return *which, 0.0, -1
    elif len(which) and min(which) >= 0:
        return 0, 0, 0.0, random.Random(f"{name} {seed}").choice(which)
    raise ValueError(
        f"{name} is a probability, (n, m), a number from 0 on or some, not {which!r}"
    )


def _nanoseconds(name: str, time: Any) -> tuple[int, int]:
    least, most = (time, time) if isinstance(time, _NUMBER) else time
    if not 0 <= least <= most < math.inf:
        raise ValueError(f"{name} is a time or a range of times, not {time!r}")
    return round(least * 1e9), round(most * 1e9)


@dataclasses.dataclass(frozen=True)
class Faults:
    """The faults that a loop of new_event_loop() injects.

    ``cancel`` cancels one task as it is about to go on: the one whose step has this
    number, all steps of tasks being counted from 0, or the first after that of a task
    that has begun; never that of the coroutine which run() was given. Of a sequence,
    such as ``range(100)``, the seed draws a number. So each place in which a task waits
    is tried sooner or later; what the task then leaves behind, a lock or a connection,
    is what the test has to look at.

    The others say which of what they change, by lot:

    - a float from 0.0 to 1.0: each with this probability;
    - ``(n, m)``: exactly n of each m that follow one another;
    - an int: the one with this number, counted from 0; of a range or list of numbers
      the seed draws one.

    ``short_io`` changes calls that could move bytes, on any file of the loop: fewer
    are moved, or none, which is EAGAIN. Nothing is lost by it. ``delay_io`` changes
    events: the loop hears that a file is ready only after ``delay_seconds`` on its
    clock. ``reset`` changes calls that send or receive on a connection: it is reset,
    they fail with ConnectionResetError, and the peer sees it, too. ``slow_callback``
    changes callbacks and steps of tasks: they take ``slow_seconds`` on the clock. A
    pair of numbers of seconds is a range to draw from.

    They draw from ``seed``, or from that of the loop if it is None.

    An error that run() raises has a note of each fault, where it was and when.
    """

    cancel: int | Sequence[int] | None = None
    seed: int | None = None
    short_io: Which = None
    delay_io: Which = None
    reset: Which = None
    slow_callback: Which = None
    delay_seconds: Seconds = 0.1
    slow_seconds: Seconds = 1.0

    def __post_init__(self) -> None:
        for name in _KINDS:
            _lot(name, getattr(self, name), 0)
        for name in ("delay_seconds", "slow_seconds"):
            _nanoseconds(name, getattr(self, name))
        numbers = self.cancel
        if isinstance(numbers, int):
            numbers = [numbers]
        if numbers is not None and not (len(numbers) and min(numbers) >= 0):
            raise ValueError(f"cancel is a number from 0 on, not {self.cancel!r}")

    def _inject(self, loop: Loop, seed: int | None) -> None:
        if self.seed is not None:
            seed = self.seed
        if any(getattr(self, name) is not None for name in _KINDS):
            _core._set_faults(
                loop,
                (seed or 0) % 2**64,
                *[_lot(name, getattr(self, name), seed) for name in _KINDS],
                _nanoseconds("delay_seconds", self.delay_seconds),
                _nanoseconds("slow_seconds", self.slow_seconds),
            )
        if self.cancel is None:
            return
        number = self.cancel
        if not isinstance(number, int):
            number = random.Random(f"cancel {seed}").choice(number)
        _core._inject(loop, functools.partial(_cancel, weakref.ref(loop)), number)

    @property
    def _need_virtual_time(self) -> bool:
        return self.delay_io is not None or self.slow_callback is not None

    @staticmethod
    def _end(loop: Loop) -> None:
        """Let no file and no callback go wrong any more; what has is still told."""
        _injected.setdefault(loop, [])[:0] = _told(loop)
        _core._set_faults(loop, 0, *[_NONE] * len(_KINDS), (0, 0), (0, 0))


_injected: weakref.WeakKeyDictionary[Loop, list[str]] = weakref.WeakKeyDictionary()


def injected_into(loop: Loop) -> list[str]:
    """Return a sentence for each fault that the loop has injected."""
    return [*_told(loop), *_injected.get(loop, [])]


def current_faults() -> list[str]:
    """Return a sentence for each fault that the running loop has injected.

    RuntimeError is raised where no aioloop loop runs.
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, Loop):
        raise RuntimeError(f"an aioloop loop is needed, not {loop!r}")
    return injected_into(loop)


def _told(loop: Loop) -> list[str]:
    """Return sentences for the last faults of the loop's files and callbacks."""
    numbers, last = _core._faults_told(loop)
    sentences = [
        f"{_sentence(fault)}, at {_trace.seconds(fault[4])}, step #{fault[3]}"
        for fault in last[-TOLD:]
    ]
    if sum(hits for hits, _ in numbers) > len(sentences):
        counts = [
            f"{hits} of {candidates} {kind}"
            for kind, (hits, candidates) in zip(_KINDS, numbers, strict=True)
            if hits
        ]
        sentences.insert(0, f"faults: {', '.join(counts)}; the last {len(sentences)}:")
    return sentences


def _sentence(fault: tuple[Any, ...]) -> str:
    kind, call, number, _, _, took, moved, size, slot = fault
    name = (
        "an accept"
        if call & _ACCEPT
        else ("a recv" if call & _SOCKET else "a read")
        if call & _IN
        else ("a send" if call & _SOCKET else "a write")
    )
    if kind == _SLOW_CALLBACK:
        what = "a callback" if slot is None else _trace.words(slot)
        return f"{_trace.seconds(took)} were taken by this: {what}"
    if kind == _RESET:
        return f"{name} found the connection of descriptor {number} reset"
    if kind == _DELAY_IO:
        return f"an event of descriptor {number} was {_trace.seconds(took)} late"
    if moved == 0:
        return f"{name} on descriptor {number} was refused (EAGAIN)"
    return f"{name} on descriptor {number} moved {moved} of {size} bytes"


_spared: weakref.WeakKeyDictionary[Loop, object] = weakref.WeakKeyDictionary()


def spare(loop: Loop, main: object) -> None:
    """Cancel no task of this coroutine: it is the test."""
    _spared[loop] = main


def spare_running_task() -> None:
    """Cancel no task of the coroutine whose task runs."""
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    if task is not None and isinstance(loop, Loop):
        spare(loop, task.get_coro())


def _cancel(ref: weakref.ref[Loop], task: asyncio.Task[Any]) -> bool:
    """Cancel the task, if it is one for that; say whether it is."""
    loop = ref()
    coro = task.get_coro()
    if loop is None or coro is _spared.get(loop):
        return False
    if not getattr(coro, "cr_suspended", True):
        return False  # It has not begun.
    where = ""
    if stack := task.get_stack(limit=1):
        code = stack[-1].f_code
        where = f" at {code.co_filename}:{stack[-1].f_lineno} in {code.co_name}"
    if not task.cancel():
        return False
    _injected.setdefault(loop, []).append(f"{task.get_name()} was cancelled{where}")
    return True
