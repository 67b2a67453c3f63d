"""cancelled_from(): who cancelled a task."""

from __future__ import annotations

import asyncio
import traceback
from typing import TYPE_CHECKING

from . import _core
from ._frames import is_loop

if TYPE_CHECKING:
    from collections.abc import Iterable
    from traceback import FrameSummary
    from typing import Any


class CancelStack(traceback.StackSummary):
    """A StackSummary that reads well in the report of an exception handler."""

    def __repr__(self) -> str:
        text = "".join(self.format()).rstrip()
        return f"Task.cancel() called at (most recent call last):\n{text}"


def cancelled_from(task: asyncio.Task[Any]) -> traceback.StackSummary | None:
    """Return the stack of the last call of a task's ``cancel()``.

    It is a ``traceback.StackSummary``, oldest frame first; the last frame is the one
    that has called ``cancel()``: of the program, or of asyncio's ``timeout()``,
    ``TaskGroup`` and the like. None is returned for a task that nobody has cancelled
    while ``DebugOptions.cancel_tracebacks`` was on (it is in debug mode), and for tasks
    of other loops than aioloop's.

    TypeError is raised for what is no task.
    """
    if not isinstance(task, asyncio.Task):
        raise TypeError(f"a task was expected, got {task!r}")
    stack = _core._cancelled_from(task)
    return None if stack is None else CancelStack(stack)


def frames_of_interest(stack: Iterable[FrameSummary]) -> list[FrameSummary]:
    """Return the frames of a stack that are above the running loop, if one is."""
    above: list[FrameSummary] = []
    for frame in stack:
        above.append(frame)
        if frame.name in ("run_until_complete", "run_forever") and (
            is_loop(frame.filename)
        ):
            above = []
    return above
