"""The end that does not come: who keeps a loop from being left, told while it is.

asyncio.run(), asyncio.Runner and their like leave a loop in three more runs of it: they
wait for the tasks that they have cancelled, close the asynchronous generators, and shut
down the default executor. Each is known by what it waits for. What comes before, a main
task that Ctrl-C has cancelled, begins with the signal.

The record is made by an alarm (src/diag/alarm.h): the loop may be stuck meanwhile.
"""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import threading
import time
from asyncio import base_events, tasks
from typing import TYPE_CHECKING

from . import _core
from ._ask import ask, must_be_asked

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from ._loop import Loop
    from ._tasks import TaskInfo

AGAIN = 10  # times the threshold: the second record
MOST = 20  # tasks that a record shows
PATIENCE = 1.0  # seconds in which a loop that has to be asked answers

_PHASES = {
    "shutdown_asyncgens": "generators",
    "shutdown_default_executor": "executor",
}
# What is called with the tasks that are cancelled because the loop is left.
on_cancelled: list[Callable[[list[Any]], None]] = []

_RUN_UNTIL_COMPLETE = base_events.BaseEventLoop.run_until_complete.__code__


def threshold(value: float | None) -> float | None:
    """Check a threshold in seconds; None is off."""
    if value is None:
        return None
    seconds = float(value)
    if not seconds > 0:
        raise ValueError("shutdown_threshold must be positive, or None")
    return seconds


# --- noticing -------------------------------------------------------------------------


def run_begins(loop: Loop, caller: FrameType | None) -> None:
    """Look at what the loop begins to run for."""
    if caller is None or caller.f_code is not _RUN_UNTIL_COMPLETE:
        loop._leaving = None
        return
    loop._run_until = future = caller.f_locals.get("future")
    phase = _phase(future)
    if phase == "tasks":
        for function in on_cancelled:
            function(future._children)
    if phase is None:
        loop._leaving = None
    elif loop._shutdown_threshold is not None and _has_work(loop, phase):
        loop._leaving = loop._leaving or Leaving()
        loop._leaving.begin(loop, phase, future)


def run_ends(loop: Loop) -> None:
    """Forget it."""
    loop._run_until = None
    if loop._leaving is not None:
        loop._leaving.end()


def signal_came(loop: Loop, number: int) -> None:
    """Watch the main task, which the signal's handler may be about to cancel."""
    if (
        number in (signal.SIGINT, signal.SIGTERM)
        and isinstance(loop._run_until, asyncio.Task)
        and loop._leaving is None
        and loop._shutdown_threshold is not None
    ):
        loop._leaving = Leaving()
        loop._leaving.begin(loop, signal.Signals(number).name, loop._run_until)


def _phase(future: Any) -> str | None:
    """Say which part of leaving a run is, if any."""
    if isinstance(future, tasks._GatheringFuture):  # type: ignore[attr-defined]
        children = future._children
        cancelled = all(
            isinstance(child, asyncio.Task) and child.cancelling() for child in children
        )
        return "tasks" if children and cancelled else None
    if not isinstance(future, asyncio.Task):
        return None
    return _PHASES.get(getattr(future.get_coro(), "__name__", ""))


def _has_work(loop: Loop, phase: str) -> bool:
    if phase == "generators":
        return bool(loop._asyncgens)  # type: ignore[attr-defined]
    return phase != "executor" or loop._default_executor is not None  # type: ignore[attr-defined]


class Leaving:
    """A loop that is being left."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._records = 0
        self._loop: Loop | None = None  # while it runs
        self._future: Any = None

    def begin(self, loop: Loop, phase: str, future: Any) -> None:
        """Begin a part: ``tasks``, ``generators``, ``executor``, or a signal's name."""
        self._loop, self._phase, self._future = loop, phase, future
        # Who was waited for before has been told of.
        self._began = time.monotonic() if self._records else self._since
        self._told = 0
        self._set_alarm(1)

    def end(self) -> None:
        """End a part."""
        if self._loop is not None:
            self._loop = self._future = None
            _core._set_alarm(self, None)

    def _set_alarm(self, times: int) -> None:
        loop = self._loop
        limit = None if loop is None else loop._shutdown_threshold
        if limit is not None:
            left = self._began + times * limit - time.monotonic()
            _core._set_alarm(self, max(left, 0.0))

    def __call__(self) -> None:
        """Make a record. It is called in a thread that Python does not know."""
        loop, future = self._loop, self._future
        if loop is None or loop._shutdown_threshold is None or future.done():
            return
        if self._phase.startswith("SIG") and not future.cancelling():
            loop._leaving = None  # The program has other plans.
            return
        seconds = time.monotonic() - self._since
        self._records += 1
        self._told += 1
        known = threading.get_ident() in threading._active  # type: ignore[attr-defined]
        try:
            record = _look(loop, self._phase, seconds, future)
            base_events.logger.warning(
                "%s", record.text(), extra={"loop_leaving": record.fields()}
            )
        finally:
            if not known:
                # The logging module asks for the current thread, which makes a dummy.
                threading._active.pop(threading.get_ident(), None)  # type: ignore[attr-defined]
        if self._told == 1:
            self._set_alarm(AGAIN)


# --- the record -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LongLeave:
    """Who keeps a loop from being left."""

    seconds: float
    """Since it is being left."""
    phase: str
    """What is waited for: ``tasks`` that were cancelled, asynchronous ``generators``,
    or the default ``executor``; or the name of the signal that has cancelled the main
    task."""
    tasks: tuple[TaskInfo, ...]
    """Those that are waited for and do not themselves wait for another of them."""
    jobs: tuple[str, ...]
    """Of executors: functions, their threads, and where those are."""

    def fields(self) -> dict[str, Any]:
        """Return what a formatter can write as JSON: the record's ``loop_leaving``."""
        found = dataclasses.asdict(self)
        for task, shown in zip(self.tasks, found["tasks"], strict=True):
            shown["header"] = task.header
            shown["place"] = None if task.place is None else str(task.place)
        return found

    def sentence(self) -> str:
        """Return the first line of the record."""
        from ._tasks import duration

        seconds = duration(self.seconds)
        if self.phase.startswith("SIG"):
            return f"The loop still runs {seconds} after {self.phase}: {self._whom()}."
        return f"Leaving the loop has taken {seconds} so far: {self._whom()}."

    def _whom(self) -> str:
        from ._tasks import count

        if self.phase == "executor":
            if not self.jobs:
                return "the default executor does not shut down"
            noun = count(len(self.jobs), "job")
            verb = "runs" if len(self.jobs) == 1 else "run"
            return f"{noun} of an executor still {verb}: {self.jobs[0]}"
        if not self.tasks:
            return "it is not known who is waited for"
        places = [
            task.label if task.place is None else f"{task.label} at {task.place}"
            for task in self.tasks[:3]
        ]
        if self.phase == "generators":
            noun = count(len(self.tasks), "asynchronous generator")
            verb = "does" if len(self.tasks) == 1 else "do"
            places = [str(task.place) for task in self.tasks[:3]]
            return f"{noun} {verb} not close: {', '.join(places)}"
        if len(self.tasks) == 1:
            return f"task {places[0]} was cancelled and goes on"
        more = len(self.tasks) - len(places)
        places += [f"{more} more"] if more else []
        return f"{len(self.tasks)} tasks were cancelled and go on: {', '.join(places)}"

    def text(self) -> str:
        """Return the whole record."""
        from ._dump import text_of_task

        lines = [self.sentence()]
        for task in self.tasks[:MOST]:
            lines += text_of_task(task)
        if len(self.tasks) > MOST:
            lines.append(f"... and {len(self.tasks) - MOST} more tasks")
        if self.phase == "executor":
            lines += self.jobs[1:]
        return "\n".join(lines)


def _look(loop: Loop, phase: str, seconds: float, future: Any) -> LongLeave:
    if not must_be_asked(loop):
        return find(loop, phase, seconds, future)
    try:
        return ask(loop, lambda: find(loop, phase, seconds, future), PATIENCE)
    except TimeoutError:
        return LongLeave(seconds, phase, (), ())


def find(loop: Loop, phase: str, seconds: float, future: Any) -> LongLeave:
    """Look who is waited for."""
    from ._dump import find_circles
    from ._tasks import Describer

    look = Describer(loop)
    jobs: list[str] = []
    found: tuple[TaskInfo, ...] = ()
    if phase == "executor":
        jobs = look.running_jobs()
    else:
        shown = tuple(look.describe_all())
        pending = {task.id for task in shown}
        deadlocks, others = find_circles(shown)
        in_circles = {task for circle in deadlocks + others for task in circle}
        found = tuple(
            task
            for task in shown
            if task.id in in_circles
            or task.wait is None
            or not pending.intersection(task.wait.tasks)
        )
    return LongLeave(seconds, phase, found, tuple(jobs))
