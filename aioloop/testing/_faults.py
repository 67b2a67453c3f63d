"""What else goes wrong in a test: a task is cancelled where nobody thought of it."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import random
import weakref
from typing import TYPE_CHECKING

from .. import _core
from .._loop import Loop

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


@dataclasses.dataclass(frozen=True)
class Faults:
    """The faults that a loop of new_event_loop() injects.

    ``cancel`` cancels one task as it is about to go on: the one whose step has this
    number, all steps of tasks being counted from 0, or the first after that of a task
    that has begun; never that of the coroutine which run() was given. Of a sequence,
    such as ``range(100)``, the seed draws a number. So each place in which a task waits
    is tried sooner or later; what the task then leaves behind, a lock or a connection,
    is what the test has to look at.

    An error that run() raises has a note of who was cancelled and where.
    """

    cancel: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        numbers = self.cancel
        if isinstance(numbers, int):
            numbers = [numbers]
        if numbers is not None and not (len(numbers) and min(numbers) >= 0):
            raise ValueError(f"cancel is a number from 0 on, not {self.cancel!r}")

    def _inject(self, loop: Loop, seed: int | None) -> None:
        if self.cancel is None:
            return
        number = self.cancel
        if not isinstance(number, int):
            number = random.Random(f"cancel {seed}").choice(number)
        _core._inject(loop, functools.partial(_cancel, weakref.ref(loop)), number)


_injected: weakref.WeakKeyDictionary[Loop, list[str]] = weakref.WeakKeyDictionary()


def injected_into(loop: Loop) -> list[str]:
    """Return a sentence for each fault that the loop has injected."""
    return _injected.get(loop, [])


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
