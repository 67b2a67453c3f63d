"""The record of a loop that is stuck, made while it is: see src/diag/stall.h.

The watchdog in C says what it has found; here it becomes one description, of which the
text and the fields of the log record are made.
"""

from __future__ import annotations

import dataclasses
import itertools
import opcode
import os
import sysconfig
import threading
import time
import warnings
import weakref
from asyncio import base_events
from typing import TYPE_CHECKING

from . import _core, _frames, _usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from ._frames import Frame
    from ._loop import Loop

# One stall of each place in so many seconds is logged, and of all places so many.
PERIOD = 60.0
MOST = 10
# Python code gives the GIL up in so many seconds.
PROMPT = 0.02
# So many lines tell what ran before, of so many slots.
BEFORE, LOOKED_AT = 5, 256
# So many tasks are named that wait for one that is stuck.
MOST_AWAITING = 20


def threshold(value: float | None) -> float:
    """Check a threshold in seconds; None, off, is 0."""
    if value is None:
        return 0.0
    if isinstance(value, str | bytes | bytearray):
        name = type(value).__name__
        raise TypeError(f"stall_threshold must be a number of seconds, not {name}")
    seconds = float(value)
    if not seconds > 0:
        raise ValueError("stall_threshold must be positive, or None")
    _warn_of_free_threads()
    return seconds


def _warn_of_free_threads() -> None:
    """Say that the watchdog does nothing: it needs a GIL that holds the loop still."""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        warnings.warn(
            "a free-threaded Python has no watchdog for stalls: stall_threshold and "
            "AIOLOOP_STALL have no effect",
            RuntimeWarning,
            stacklevel=4,
        )


def threshold_of_environment() -> float | None:
    """Return what AIOLOOP_STALL says: seconds, 0 for off; None if it is not set."""
    text = os.environ.get("AIOLOOP_STALL", "")
    if not text:
        return None
    try:
        seconds = float(text)
        if not seconds >= 0:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"AIOLOOP_STALL must be a number of seconds, not {text!r}"
        ) from None
    if seconds:
        _warn_of_free_threads()
    return seconds


@dataclasses.dataclass(frozen=True)
class Stall:
    """A loop that is stuck, as the record tells it."""

    event: str
    """``stuck``; ``again`` after twice the time; ``was`` if it is over already; or
    ``ended``, after one of the others."""
    began: float
    """``loop.time()`` then."""
    seconds: float
    """For so long, so far."""
    cause: str
    """One of ``running Python``, ``C call``, ``system call``, ``lock``, ``GIL``,
    ``garbage collection``, ``import``, ``not scheduled``, ``unknown``."""
    words: str
    """The cause in words."""
    task: str | None
    source: str
    """``module:function`` of the program's innermost frame."""
    frame: Frame | None
    stack: tuple[Frame, ...]
    """Outermost first."""
    left_out: int | None
    """So many frames outside of these are not in it; None if nobody knows."""
    exact: bool
    """False: the stack was read without the GIL."""
    awaited_by: tuple[str, ...]
    callbacks: int
    """So many are ready to run."""
    tasks: int
    """So many others exist."""
    system_call: str | None
    descriptor: int | None
    descriptor_is: str | None
    holder: str | None
    """The thread that has the GIL."""
    holder_stack: tuple[Frame, ...]
    importing: str | None
    generation: int | None
    cpu_seconds: float | None
    """Of the loop's thread, since."""
    waited_seconds: float | None
    """Which the thread waited for a processor."""
    keeps_gil: bool
    thread: str
    before: tuple[dict[str, Any], ...]
    """The last callbacks that ran before, latest last, with the ``count`` of those that
    ran in a row and the ``duration`` of all of them; otherwise as in
    ``loop.recent_callbacks()``. Empty without ``loop.metering``."""

    def fields(self) -> dict[str, Any]:
        """Return what a formatter can write as JSON: the record's ``loop_stall``."""
        result = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        result["place"] = self.frame.place if self.frame is not None else None
        del result["frame"]
        for name in ("stack", "holder_stack"):
            result[name] = [
                {
                    "file": frame.file,
                    "line": frame.line,
                    "function": frame.function,
                    "source": frame.source,
                }
                for frame in result[name]
            ]
        for name in ("awaited_by", "before"):
            result[name] = list(result[name])
        return result

    def sentence(self) -> str:
        """Return the first line of the record."""
        if self.event == "ended":
            return (
                f"The loop runs again after {self.seconds:.2f} s"
                f" (it was stuck in {self.source})."
            )
        verb = "was" if self.event == "was" else "has been"
        where = "" if self.task is None else f" in task {self.task!r}"
        if self.frame is not None:
            where += f" at {self.frame.place}"
            if self.frame.source:
                where += f", `{self.frame.source}`"
        return f"The loop {verb} stuck for {self.seconds:.2f} s{where}: {self.words}."

    def text(self) -> str:
        """Return the whole record."""
        lines = [self.sentence()]
        if self.event == "ended":
            return lines[0]
        if self.stack:
            how = "" if self.exact else " (approximate)"
            lines.append(f"Stack{how}, innermost last:")
            if self.left_out != 0:
                number = f"{self.left_out} " if self.left_out else ""
                lines.append(f"  ... {number}more frames ...")
            lines += _frames.text(self.stack)
        if self.holder_stack:
            lines.append(f"The GIL is held by {self.holder}:")
            lines += _frames.text(self.holder_stack)
        if self.awaited_by:
            lines.append("Awaited by " + ", ".join(self.awaited_by) + ".")
        lines.append(f"Meanwhile {self.waiting()}.")
        if self.before:
            lines.append("What ran before, latest last:")
            lines += (
                f"{run['duration'] * 1e3:12.3f} ms  {place_of_run(run)}"
                for run in self.before
            )
        return "\n".join(lines)

    def waiting(self) -> str:
        """Return how much waits, in words."""

        def count(n: int, word: str) -> str:
            return f"{n} {word}" if n == 1 else f"{n} {word}s"

        verb = "waits" if self.tasks + self.callbacks == 1 else "wait"
        return (
            f"{count(self.tasks, 'other task')} and"
            f" {count(self.callbacks, 'ready callback')} {verb}"
        )


def place_of_run(run: dict[str, Any]) -> str:
    """Say what the callbacks were that ran before, and how many."""
    name = run["name"]
    if run["file"]:
        name = f"{_frames.short(run['file'])}:{run['line']} in {name}"
    return name if run["count"] == 1 else f"{name} ({run['count']} times)"


# --- how many records ----------------------------------------------------------------


class Limit:
    """Which stalls are logged: one of a place in a minute, ten in all."""

    def __init__(self) -> None:
        self._logged: list[tuple[float, str]] = []
        self._left_out = 0

    def allows(self, source: str, now: float) -> bool:
        """Say whether a stall there may be logged, and count it."""
        self._logged = [entry for entry in self._logged if now - entry[0] < PERIOD]
        if len(self._logged) >= MOST or any(s == source for _, s in self._logged):
            self._left_out += 1
            return False
        self._logged.append((now, source))
        return True

    def take_left_out(self) -> int:
        """Return how many were not logged since the last time."""
        count, self._left_out = self._left_out, 0
        return count


_limit = Limit()
# What aioloop/_report.py wants to know of each stall, logged or not: the loop, and the
# stall, whose event says which of its records it is.
follow: Callable[[Loop, Stall], None] | None = None
# Stalls that are to get a closing record.
_logged: weakref.WeakKeyDictionary[Loop, Stall] = weakref.WeakKeyDictionary()


# --- making one -----------------------------------------------------------------------


def report(loop: Loop, found: dict[str, Any]) -> bool:
    """Make the record of what the watchdog has found; False if none is to be made.

    It is called in a thread that Python does not know, or in the loop's own.
    """
    unknown = threading.get_ident() not in threading._active  # type: ignore[attr-defined]
    try:
        return _report(loop, found)
    finally:
        if unknown:
            # The logging module asks for the current thread, which makes a dummy.
            threading._active.pop(threading.get_ident(), None)  # type: ignore[attr-defined]


def _report(loop: Loop, found: dict[str, Any]) -> bool:
    stack = _stack(found)
    if any(_is_debugger(frame.file) for frame in stack):
        return False
    stall = _describe(loop, found, stack)
    if follow is not None:
        follow(loop, stall)
    return _log(loop, stall) or follow is not None


def _log(loop: Loop, stall: Stall) -> bool:
    """Make the log record of a stall, unless its first one was not made either."""
    if stall.event in ("stuck", "was"):
        _logged.pop(loop, None)
        if not loop._logs_stalls and not loop.get_debug():
            return False
        if not _limit.allows(stall.source, time.monotonic()):
            return False
        left_out = _limit.take_left_out()
        if left_out:
            word = "stall was" if left_out == 1 else "stalls were"
            base_events.logger.warning("%d more %s not logged.", left_out, word)
    elif loop not in _logged:
        return False
    elif stall.event == "ended":
        stall = dataclasses.replace(
            _logged[loop], event=stall.event, seconds=stall.seconds
        )
    if stall.event in ("stuck", "again"):
        _logged[loop] = stall
    else:
        _logged.pop(loop, None)
    base_events.logger.warning("%s", stall.text(), extra={"loop_stall": stall.fields()})
    return True


def _stack(found: dict[str, Any]) -> tuple[Frame, ...]:
    if found["stack"] is not None:
        return tuple(
            _frames.from_code(code, line, namespace)
            for code, line, _, namespace, _ in reversed(found["stack"])
        )
    return _read_stack(found["places"])


def _read_stack(places: Sequence[tuple[str, int, str]]) -> tuple[Frame, ...]:
    return tuple(_frames.from_place(*place) for place in reversed(places))


def _is_debugger(file: str) -> bool:
    return os.path.basename(file) in ("bdb.py", "pdb.py") or "pydevd" in file


def _describe(loop: Loop, found: dict[str, Any], stack: tuple[Frame, ...]) -> Stall:
    cause, words = found["cause"], found["words"] or ""
    if cause == "C call" and _is_between_calls(found):
        cause = words = "running Python"
    holder = None
    holder_stack: tuple[Frame, ...] = ()
    if cause == "GIL":
        holder = _thread_name(found["holder"])
        holder_stack = _read_stack(found["holder_places"])
        at = _frames.innermost_user(holder_stack)
        words += f", held by {holder}" + (f" at {at.place}" if at else "")
    importing = [name for *_, name in reversed(found["stack"] or ()) if name]
    if importing:
        inner = f" (now {importing[-1]})" if len(importing) > 1 else ""
        words = f"importing {importing[0]}{inner}, {words}"
        cause = "import"
    task = found["task"]
    others = found["tasks"] - {task}
    frame = _frames.innermost_user(stack)
    return Stall(
        event=found["event"],
        began=found["began"],
        seconds=found["seconds"],
        cause=cause,
        words=words,
        task=None if task is None else task.get_name(),
        source="the loop itself" if frame is None else frame.label,
        frame=frame,
        stack=stack,
        left_out=found["left_out"] if found["left_out"] >= 0 else None,
        exact=found["stack"] is not None,
        awaited_by=tuple(_awaiting(task)),
        callbacks=found["callbacks"],
        tasks=len(others),
        system_call=found["system_call"],
        descriptor=found["fd"] if found["fd"] >= 0 else None,
        descriptor_is=found["fd_is"],
        holder=holder,
        holder_stack=holder_stack,
        importing=importing[0] if importing else None,
        generation=found["generation"] if found["generation"] >= 0 else None,
        cpu_seconds=found["ran"],
        waited_seconds=found["waited"],
        keeps_gil=found["has_gil"],
        thread=_thread_name(found["thread"]),
        before=tuple(_before(loop, found)),
    )


def _before(loop: Loop, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the last slots that were over when the one began that is stuck.

    That may be over as well, by now, and is known to half the threshold only.
    """
    if not loop.metering:
        return []
    until = found["began"] + found["seconds"] / 2
    runs: list[dict[str, Any]] = []
    for slot in _usage.recent(loop, LOOKED_AT):
        if slot["when"] + slot["duration"] >= until:
            break
        if runs and all(runs[-1][key] == slot[key] for key in ("name", "file", "line")):
            runs[-1]["count"] += 1
            runs[-1]["duration"] += slot["duration"]
            runs[-1]["queue_delay"] = max(runs[-1]["queue_delay"], slot["queue_delay"])
        else:
            runs.append({**slot, "count": 1})
    return runs[-BEFORE:]


def _is_between_calls(found: dict[str, Any]) -> bool:
    """Say whether Python code only looks like a C call: a loop of one instruction.

    It has given the GIL up at once, as no C call can, and executes no call.
    """
    if found["waited_for_gil"] > PROMPT or not found["stack"]:
        return False
    code, _, offset, _, _ = found["stack"][0]
    return offset >= 0 and "CALL" not in opcode.opname[code.co_code[offset]]


def _thread_name(ident: int) -> str:
    thread = threading._active.get(ident)  # type: ignore[attr-defined]
    return f"thread {ident}" if thread is None else f"thread {thread.name!r}"


def _awaiting(task: Any) -> Iterator[str]:
    """Yield the tasks that wait for this one, nearest first."""
    from ._tasks import awaiting  # It takes long to import.

    if task is not None:
        for one in itertools.islice(awaiting(task), MOST_AWAITING):
            yield f"task {one.get_name()!r}"


_core._set_stall_report(report)
