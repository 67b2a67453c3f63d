"""A loop that waits for ever: its tasks are pending, and nothing can wake them.

In debug mode the C type calls look_into() when the loop has waited for a second without
a timer or watched descriptor (src/core/debug.h). It is told once of the same tasks that
wait for the same things.
"""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import sys
import threading
import weakref
from asyncio import base_events
from typing import TYPE_CHECKING

from ._dump import cycle_sentences, look, text_of_task, tree_of
from ._tasks import count

if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

    from ._dump import LoopInfo
    from ._loop import Loop

MOST = 20  # tasks that a record shows

# What comes from outside of the loop's own tasks.
_FROM_OUTSIDE = ("executor", "process", "name look-up", "socket", "stream", "server")


def look_into(loop: Loop) -> None:
    """Warn if nothing in the loop can wake its tasks."""
    waits = _waits(loop)
    if not waits or waits <= loop._seen_asleep or _is_a_console():
        return
    info = look(loop)
    if set(info.alive) - {"asynchronous generators"} or any(
        task.state != "waiting"
        or task.wait is None
        or task.wait.kind in _FROM_OUTSIDE
        or task.timeout is not None
        for task in info.tasks
    ):
        return
    others = _other_threads()
    if not info.cycles and (_has_signal_handlers() or _serves_another_thread()):
        return  # A handler, or the main thread, gives it work.
    loop._seen_asleep = waits
    asleep = Asleep(info, tuple(sorted(thread.name for thread in others)))
    base_events.logger.warning(
        "%s", asleep.text(), extra={"loop_asleep": asleep.fields()}
    )


def _waits(loop: Loop) -> frozenset[Any]:
    """Return who waits for what: nothing if somebody does not."""
    found = set()
    for task in asyncio.all_tasks(loop):
        future = getattr(task, "_fut_waiter", None)
        if future is None or future.done():
            return frozenset()
        known = isinstance(future, asyncio.Future)
        found.add((weakref.ref(task), weakref.ref(future) if known else id(future)))
    return frozenset(found)


def _is_a_console() -> bool:
    """Whether somebody types what comes next, as in ``python -m asyncio``."""
    return hasattr(sys, "ps1") or _main() == "asyncio.__main__"


def _main() -> str:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return "" if spec is None else spec.name


def _serves_another_thread() -> bool:
    main = threading.main_thread()
    return threading.current_thread() is not main and main.is_alive()


def _has_signal_handlers() -> bool:
    """Whether the program has a handler by signal.signal() that may wake the loop."""
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        name = getattr(getattr(handler, "func", handler), "__name__", "")
        if callable(handler) and name not in ("_on_sigint", "default_int_handler"):
            return True
    return False


def _other_threads() -> list[threading.Thread]:
    """Return the threads that might still wake it."""
    frames = sys._current_frames()
    here = threading.get_ident()
    return [
        thread
        for thread in threading.enumerate()
        if thread.ident != here
        and thread.ident is not None
        and thread.name != "aioloop-dump"
        and not _is_idle_worker(frames.get(thread.ident))
    ]


def _is_idle_worker(frame: FrameType | None) -> bool:
    """Whether it is a thread of an executor without a job."""
    return frame is not None and (
        frame.f_code.co_name == "_worker"
        and frame.f_globals.get("__name__") == "concurrent.futures.thread"
    )


@dataclasses.dataclass(frozen=True)
class Asleep:
    """A loop that waits for ever."""

    info: LoopInfo
    threads: tuple[str, ...]
    """The names of the threads that might wake it."""

    def fields(self) -> dict[str, Any]:
        """Return what a formatter can write as JSON: the record's ``loop_asleep``."""
        return {
            "tasks": [
                {**dataclasses.asdict(task), "header": task.header}
                for task in self.info.tasks
            ],
            "cycles": [list(cycle) for cycle in self.info.cycles],
            "threads": list(self.threads),
        }

    def text(self) -> str:
        """Return the record."""
        tasks = self.info.tasks
        verb = "is" if len(tasks) == 1 else "are"
        them = "it" if len(tasks) == 1 else "them"
        text = f"The loop waits for ever: {count(len(tasks), 'task')} {verb} pending,"
        text += f" and nothing in this loop can wake {them}"
        if self.threads:
            names = ", ".join(self.threads[:5])
            noun = "thread" if len(self.threads) == 1 else "threads"
            text += f"; only another thread could ({noun} {names})"
        lines = [text + ".", *cycle_sentences(self.info)]
        for task in tasks[:MOST]:
            lines += text_of_task(task)
        if len(tasks) > MOST:
            lines.append(f"... and {len(tasks) - MOST} more tasks")
        tree = list(tree_of(tasks))
        if tree:
            lines += ["who waits for whom:", *tree[: 2 * MOST]]
        if len(tree) > 2 * MOST:
            lines.append("  ...")
        return "\n".join(lines)
