"""Who used a loop (``loop.usage()``, ``loop.top()``), and its last callbacks."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from types import CodeType
from typing import TYPE_CHECKING

from . import _frames
from ._ask import ask, must_be_asked
from ._metrics import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ._loop import Loop

SLOTS = 4096  # that the flight recorder has
KINDS = ("task", "callback", "protocol", "loop")
# A task that does nothing but wait for its next step spins, once it has started.
SPINNING_FROM = 100


@dataclasses.dataclass(frozen=True)
class Use:
    """What one coroutine function or callback used of the loop; times are seconds."""

    name: str
    file: str
    """Empty where the function is none of Python's."""
    line: int
    kind: str
    """"task": the steps of the tasks that run this coroutine function. "callback": a
    function that was called. "protocol": data_received() of this class. "loop": work of
    the loop's own."""
    steps: int
    time: float
    longest: float
    """The longest step; of ``loop.top()`` the longest in its window, else ever."""
    queue_delay: float
    """How long its steps waited, together, until they ran; see Metrics.queue_delay."""
    alive: int
    """Tasks that run it now."""
    self_wakes: int
    """Steps at whose end the task wanted nothing but its next step: ``sleep(0)``."""

    @property
    def spins(self) -> bool:
        """Say whether it wakes itself most of the time: a loop around ``sleep(0)``."""
        return self.self_wakes >= SPINNING_FROM and self.self_wakes * 2 > self.steps

    @property
    def place(self) -> str:
        """Return "file:line in name", or the name alone, as a stall report does."""
        if not self.file:
            return self.name
        return _frames.place(self.file, self.line, self.name)

    def __str__(self) -> str:
        text = (
            f"{self.time:9.4f} s {self.steps:9} steps, longest {self.longest:.4f} s,"
            f" waited {self.queue_delay:.4f} s, {self.alive} alive: {self.place}"
        )
        return text + " (spins on sleep(0))" if self.spins else text


class Usage(tuple[Use, ...]):
    """The uses of a loop, who used most of it first.

    ``later - earlier`` is what was used in between.
    """

    __slots__ = ()

    def __sub__(self, earlier: Usage) -> Usage:
        """Return what was used since an earlier snapshot."""
        if not isinstance(earlier, Usage):
            return NotImplemented
        before = {_identity(use): use for use in earlier}
        found = []
        for use in self:
            old = before.get(_identity(use))
            if old is not None:
                use = dataclasses.replace(
                    use,
                    steps=use.steps - old.steps,
                    time=use.time - old.time,
                    queue_delay=use.queue_delay - old.queue_delay,
                    self_wakes=use.self_wakes - old.self_wakes,
                )
            if use.steps or use.alive:
                found.append(use)
        return _sorted(found)

    def __str__(self) -> str:
        return "\n".join(map(str, self))


def _identity(use: Use) -> tuple[str, str, int, str]:
    return use.kind, use.file, use.line, use.name


def _sorted(uses: Iterable[Use]) -> Usage:
    return Usage(sorted(uses, key=lambda use: use.time, reverse=True))


def describe(what: object, kind: str) -> tuple[str, str, int]:
    """Return the name, file and line of what the table has as an entry's owner."""
    if isinstance(what, CodeType):
        return what.co_qualname, what.co_filename, what.co_firstlineno
    if isinstance(what, type):
        name = f"{what.__module__}.{what.__qualname__}"
        if kind != "protocol":
            return name, "", 0
        buffered = issubclass(what, asyncio.BufferedProtocol)
        return f"{name}.{'buffer_updated' if buffered else 'data_received'}", "", 0
    return ("(others)" if what is None else str(what)), "", 0


def read(loop: Loop, *, window: bool = False) -> Usage:
    """Take a snapshot; with ``window`` the longest steps are those of the window."""
    if must_be_asked(loop):
        return ask(loop, lambda: read(loop, window=window), PATIENCE)
    alive: dict[object, int] = {}
    for task in asyncio.all_tasks(loop):
        coro: Any = task.get_coro()
        code = getattr(coro, "cr_code", None) or getattr(coro, "gi_code", type(coro))
        alive[code] = alive.get(code, 0) + 1
    found: dict[tuple[str, str, int, str], Use] = {}
    for entry in loop._read_usage():
        _, number, what, steps, time, longest, recent, delay, self_wakes = entry
        kind = KINDS[number]
        name, file, line = describe(what, kind)
        use = Use(
            name=name,
            file=file,
            line=line,
            kind=kind,
            steps=steps,
            time=time / 1e9,
            longest=(recent if window else longest) / 1e9,
            queue_delay=delay / 1e9,
            alive=alive.pop(what, 0) if kind == "task" else 0,
            self_wakes=self_wakes,
        )
        same = found.get(_identity(use))
        if same is not None:
            use = _join(use, same)
        if use.steps or use.alive:
            found[_identity(use)] = use
    return _sorted(found.values())


def _join(a: Use, b: Use) -> Use:
    """Join what was made twice from one place: a function defined inside another."""
    return dataclasses.replace(
        a,
        steps=a.steps + b.steps,
        time=a.time + b.time,
        longest=max(a.longest, b.longest),
        queue_delay=a.queue_delay + b.queue_delay,
        alive=a.alive + b.alive,
        self_wakes=a.self_wakes + b.self_wakes,
    )


async def top(loop: Loop, n: int, seconds: float) -> Usage:
    """Watch a loop for some seconds; see Loop.top."""
    metering = loop.metering
    loop.metering = True
    loop._usage_window(True)
    try:
        before = read(loop)
        await asyncio.sleep(seconds)
        return Usage((read(loop, window=True) - before)[:n])
    finally:
        loop._usage_window(False)
        if not metering:
            loop.metering = False


def recent(loop: Loop, most: int = SLOTS) -> list[dict[str, Any]]:
    """Return the flight recorder's last slots, oldest first; see
    Loop.recent_callbacks.
    """
    records = loop._read_records(most)  # before the table: it has all that are in them
    kinds = [(entry[2], KINDS[entry[1]]) for entry in loop._read_usage()]
    owners = [(kind, *describe(what, kind)) for what, kind in kinds]
    found = []
    for began, took, delay, number in records:
        kind, name, file, line = owners[number]
        found.append(
            {
                "when": began / 1e9,
                "duration": took / 1e9,
                "queue_delay": delay / 1e9,
                "kind": kind,
                "name": name,
                "file": file,
                "line": line,
            }
        )
    return found


def chrome_trace(loop: Loop) -> str:
    """Return the flight recorder as JSON for Perfetto and chrome://tracing."""
    process = os.getpid()
    thread = loop._thread_id or 0
    title = {"name": f"aioloop {loop!r}"}
    events: list[dict[str, Any]] = [
        {"name": "thread_name", "ph": "M", "pid": process, "tid": thread, "args": title}
    ]
    for slot in recent(loop):
        place = f"{slot['file']}:{slot['line']}" if slot["file"] else ""
        events.append(
            {
                "name": slot["name"],
                "cat": slot["kind"],
                "ph": "X",
                "ts": slot["when"] * 1e6,
                "dur": slot["duration"] * 1e6,
                "pid": process,
                "tid": thread,
                "args": {"queue_delay_us": slot["queue_delay"] * 1e6, "place": place},
            }
        )
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})
