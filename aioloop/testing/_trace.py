"""The last steps of a test's loop, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _core, _frames

if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

    from .._loop import Loop

TOLD = 20  # steps
_TASK, _CALLBACK, _PROTOCOL = range(3)  # kinds; see src/core/usage.h


def keep(loop: Loop) -> None:
    """Have the loop keep its last steps from now on."""
    _core._set_trace(loop, _frames.LOOP_FOLDERS)


def seconds(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e9!r} s"


def _place(code: CodeType, last: int | None) -> str:
    """Say where an instruction is, or the function if there is none."""
    line: int | None = code.co_firstlineno
    if last is not None:
        for start, end, at in code.co_lines():
            if start <= last < end:
                line = at
    return _frames.place(code.co_filename, line, code.co_name)


def words(step: tuple[Any, ...]) -> str:
    """Say what a step was, such as ``Task-3 goes on at app.py:12 in work``."""
    _, _, kind, what, name, code, last, begins, error = step
    if kind != _TASK:
        if hasattr(what, "co_code"):
            return f"the callback {what.co_qualname} at {_place(what, None)}"
        if kind == _PROTOCOL:
            return f"data for {what}"
        return f"the callback {what}" if kind == _CALLBACK else f"{what} of the loop"
    who = f"Task-{name}" if isinstance(name, int) else f"task {name!r}"
    if code is not None:
        text = f"{who} goes on at {_place(code, last)}"
    elif hasattr(what, "co_code"):
        text = f"{who} {'begins' if begins else 'goes on'} at {_place(what, None)}"
    else:
        text = f"{who} goes on in a {what}"
    return text if error is None else f"{text} with {error}"


def trace_of(loop: Loop) -> str | None:
    """Return the last steps of the loop, the last one last; None if there are none."""
    steps = _core._trace(loop)
    if steps and getattr(steps[-1][3], "co_name", "") == "_run_until_complete_cb":
        steps.pop()  # It is how run_until_complete() ends.
    steps = steps[-TOLD:]
    if not steps:
        return None
    times = [seconds(step[1]) for step in steps]
    wide = max(map(len, times))
    lines = [
        f"  #{step[0]} {time:>{wide}}  {words(step)}"
        for step, time in zip(steps, times, strict=True)
    ]
    return "\n".join([f"the last {len(steps)} steps:", *lines])
