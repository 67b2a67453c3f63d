"""What goes wrong in a test, with the names of those who are to blame."""

from __future__ import annotations

import asyncio
import threading
import weakref
from typing import TYPE_CHECKING

from .. import _dump

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from .._loop import Loop

MOST_TASKS = 20  # that a message tells of


class SimulationError(RuntimeError):
    """What a loop of aioloop.testing raises out of ``run_until_complete()``.

    ``time`` is the loop's, ``tasks`` are the names of the tasks that it tells of.
    """

    def __init__(self, message: str, time: float, tasks: tuple[str, ...]) -> None:
        super().__init__(message)
        self.time = time
        self.tasks = tasks

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.time, self.tasks), self.__dict__


class SleepForever(SimulationError):
    """Nothing can happen any more: no timer, no watched file, nothing under way."""


class TooManySteps(SimulationError):
    """The loop has run ``max_steps`` callbacks and steps of tasks."""


class TooMuchTime(SimulationError):
    """The virtual clock would pass ``max_virtual_seconds``."""


class LeakedTasks(SimulationError):
    """The main coroutine has ended, and tasks that it has started have not."""


class ProcessFailed(RuntimeError):
    """A process of explore() has died over a seed, or does not come to its end.

    ``seed`` is that seed, ``words`` where the process was, as far as it has told.
    """

    def __init__(self, seed: int, how: str, words: str) -> None:
        message = f"the process that tried seed {seed} {how}"
        super().__init__(f"{message}\n{words}" if words else message)
        self.seed = seed
        self.words = words
        self._how = how

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.seed, self._how, self.words), self.__dict__


class RemoteError(RuntimeError):
    """An error of another process that cannot be pickled: its text."""


class RemoteTraceback(Exception):
    """The text of an error of another process, as the cause of what came of that."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def refuse_running_loop(what: str) -> None:
    if asyncio._get_running_loop() is not None:
        raise RuntimeError(f"{what} cannot be called from a running event loop")


def complain(
    kind: type[SimulationError],
    loop: Loop,
    what: str,
    only: Iterable[asyncio.Task[Any]] | None = None,
) -> SimulationError:
    """Make the error: a sentence, circles of tasks, and where each task is."""
    found = _dump.look(loop)
    ids = None if only is None else {id(task) for task in only}
    tasks = [task for task in found.tasks if ids is None or task.id in ids]
    lines = [what, *_dump.cycle_sentences(found)]
    for task in tasks[:MOST_TASKS]:
        lines += ["", *_dump.text_of_task(task)]
    if len(tasks) > MOST_TASKS:
        lines += ["", f"... and {len(tasks) - MOST_TASKS} more tasks"]
    return kind("\n".join(lines), loop.time(), tuple(task.name for task in tasks))


def leaked(
    loop: Loop, what: str, tasks: Iterable[asyncio.Task[Any]]
) -> SimulationError:
    tasks = list(tasks)
    what = f"{what} ended at {loop.time()!r} s, and {len(tasks)} tasks did not"
    return complain(LeakedTasks, loop, what, tasks)


# Whether another thread may yet do something.

known_executors: weakref.WeakSet[Any] = weakref.WeakSet()
PATIENCE = 0.02  # real seconds between two looks at the threads


def _idle_threads() -> Iterator[threading.Thread]:
    """Yield the threads of executors that wait for a job."""
    for executor in list(known_executors):
        threads = getattr(executor, "_threads", ())
        idle = getattr(executor, "_idle_semaphore", None)
        if idle is not None and idle._value >= len(threads):
            yield from threads


def stuck(ref: weakref.ref[Loop], late: bool) -> float | None:
    """Say that nothing can happen any more, or too much time has passed.

    Returns how many real seconds to wait before asking again, as a thread may call
    call_soon_threadsafe(); None if a signal may come.
    """
    loop = ref()
    if loop is None:
        return None
    if late:
        what = f"at {loop.time()!r} s the next timer is after max_virtual_seconds"
        raise complain(TooMuchTime, loop, what)
    if getattr(loop, "_signal_handlers", None):
        return None
    if {*threading.enumerate()} - {threading.current_thread(), *_idle_threads()}:
        return PATIENCE
    what = f"nothing can happen any more at {loop.time()!r} s: no timer, file or job"
    raise complain(SleepForever, loop, what)


def too_many_steps(ref: weakref.ref[Loop], most: int) -> None:
    loop = ref()
    if loop is not None:
        what = f"more than {most} callbacks and steps of tasks, at {loop.time()!r} s"
        raise complain(TooManySteps, loop, what)
