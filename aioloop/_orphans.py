"""What a program loses: pending tasks, coroutines, exceptions, transports.

The C type counts them (src/core/misuse.c) and tells of each here, where they are kept
by place. ``loop.report_orphans = True`` logs each place once, on the "asyncio" logger.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
import threading
from typing import TYPE_CHECKING

from . import _core
from ._blocking import _responsible
from ._frames import place as place_words

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextvars import Context
    from traceback import StackSummary
    from typing import Any, TypeVar

    from ._blocking import Frame

    _T = TypeVar("_T")

MAXIMUM = 1000  # Places that are kept; what comes later is only counted.

# Of each kind: how a sentence about one goes on, and what to do about it.
_WORDS = {
    "pending_tasks": (
        "was collected by the garbage collector while it was pending",
        "keep a reference to it, or start it with aioloop.spawn()",
    ),
    "unawaited_coroutines": ("was never awaited", "await it, or make it a task"),
    "unretrieved_exceptions": (
        "was never retrieved",
        "await what raised it, or start it with aioloop.spawn()",
    ),
    "unclosed_transports": ("was never closed", "close() it"),
    "closed_descriptors": (
        "was closed while the loop watched it",
        "close the transport, or remove_reader() and remove_writer(), first",
    ),
    "reused_descriptors": (
        "has lost its descriptor, which was closed and belongs to another now",
        "close the transport instead of its socket",
    ),
}


@dataclasses.dataclass(frozen=True)
class Orphan:
    """What a program has lost in one place, and how often."""

    kind: str
    """"pending_tasks", "unawaited_coroutines", "unretrieved_exceptions",
    "unclosed_transports", "closed_descriptors" or "reused_descriptors"."""

    what: str
    """The first of them, in words: "Task 'Task-3' of fetch()"."""

    created: str | None
    """Where it was made, "app.py:40 in serve", if the loop remembers that: with
    ``DebugOptions.source_tracebacks``, for coroutines ``coroutine_origin_depth``."""

    at: str | None
    """Where it was: where a task waited, an exception was raised, the function of a
    coroutine is defined."""

    count: int

    def __str__(self) -> str:
        """Return a sentence about it."""
        happened, remedy = _WORDS[self.kind]
        sentence = f"{self.what} {happened}"
        if self.kind == "unawaited_coroutines":
            sentence += f", which is defined at {self.at}" if self.at else ""
        elif self.at:
            verb = "raised" if self.kind == "unretrieved_exceptions" else "waiting"
            sentence += f", {verb} at {self.at}"
        if self.created:
            sentence += f", made at {self.created}"
        return f"{sentence}; {remedy}"


_found: dict[tuple[object, ...], Orphan] = {}
on_orphan: list[Callable[[Orphan], None]] = []  # What is called with each one.


def orphans() -> list[Orphan]:
    """Return what the program has lost so far, the most frequent place first.

    All loops of the interpreter count, also those that are closed. ``print`` shows each
    as a sentence. Of a thousand places the details are kept.
    """
    return sorted(_found.values(), key=lambda orphan: -orphan.count)


def _on_misuse(loop: Any, kind: str, obj: Any, created: StackSummary | None) -> None:
    """Take note of one; the C type calls this in finalizers."""
    if kind not in _WORDS:
        return
    if kind == "unawaited_coroutines":
        made_at = _responsible(tuple(getattr(obj, "cr_origin", None) or ()))
    else:
        made_at = _place_created(created)
    what, name, at = _DESCRIBE[kind](obj)
    if made_at is None and kind == "closed_descriptors":
        made_at = _place_created(getattr(obj[1], "_source_traceback", None))
    for function in on_orphan:
        function(Orphan(kind, what, _words(made_at), _words(at), 1))
    key = kind, name, made_at or at
    known = _found.get(key)
    if known is not None:
        _found[key] = dataclasses.replace(known, count=known.count + 1)
        return
    orphan = Orphan(kind, what, _words(made_at), _words(at), 1)
    if len(_found) < MAXIMUM:
        _found[key] = orphan
    if getattr(loop, "report_orphans", False):
        asyncio.log.logger.warning(  # type: ignore[attr-defined]
            "%s", orphan, extra={"orphan": dataclasses.asdict(orphan)}
        )


def _words(place: Frame | None) -> str | None:
    return None if place is None else place_words(*place)


def _place_created(created: StackSummary | None) -> Frame | None:
    if not created:
        return None
    frames = tuple(
        (frame.filename, frame.lineno or 0, frame.name) for frame in reversed(created)
    )
    return _responsible(frames)


def _qualname(coro: Any) -> str:
    return getattr(coro, "__qualname__", None) or type(coro).__name__


def _task_words(task: Any) -> tuple[str, str]:
    name = f"{_qualname(task.get_coro())}()"
    return f"Task {task.get_name()!r} of {name}", name


def _where_it_waits(coro: Any) -> Frame | None:
    """Return the innermost frame of the program that a suspended coroutine is in."""
    frames = []
    while coro is not None:
        frame = getattr(coro, "cr_frame", None) or getattr(coro, "gi_frame", None)
        if frame is not None:
            code = frame.f_code
            frames.append((code.co_filename, frame.f_lineno or 0, code.co_name))
        # A frame that runs has no stack to find in it what is awaited. Python 3.11 and
        # 3.12 may look there all the same, and crash. One that is being closed runs.
        if getattr(coro, "cr_running", False) or getattr(coro, "gi_running", False):
            break
        coro = getattr(coro, "cr_await", None) or getattr(coro, "gi_yieldfrom", None)
    return _responsible(tuple(reversed(frames)))


def _describe_task(task: Any) -> tuple[str, str, Frame | None]:
    return *_task_words(task), _where_it_waits(task.get_coro())


def _describe_coroutine(coro: Any) -> tuple[str, str, Frame | None]:
    name = f"{_qualname(coro)}()"
    code = getattr(coro, "cr_code", None)
    at = code and (code.co_filename, code.co_firstlineno, code.co_name)
    return f"Coroutine {name}", name, at


def _describe_exception(future: Any) -> tuple[str, str, Frame | None]:
    error = future._exception
    if isinstance(future, asyncio.Task):
        task, name = _task_words(future)
        owner = f"{task[0].lower()}{task[1:]}"
    else:
        owner = name = "a future"
    frames = []
    traceback = getattr(error, "__traceback__", None)
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append((code.co_filename, traceback.tb_lineno, code.co_name))
        traceback = traceback.tb_next
    at = _responsible(tuple(reversed(frames)))
    return f"{error!r} of {owner}", f"{type(error).__name__} {name}", at


def _describe_transport(transport: Any) -> tuple[str, str, Frame | None]:
    name = type(transport.get_protocol()).__qualname__
    what = f"Transport of {name}"
    peer = transport.get_extra_info("peername")
    local = transport.get_extra_info("sockname")
    if peer:
        what += f" to {peer!r}"
    elif local:
        what += f" at {local!r}"
    return what, name, None


def _describe_descriptor(lost: tuple[int, Any]) -> tuple[str, str, Frame | None]:
    fd, owner = lost
    if isinstance(owner, asyncio.BaseTransport):
        words, name, _ = _describe_transport(owner)
        return f"Descriptor {fd}, of the {words[0].lower()}{words[1:]},", name, None
    callback = getattr(owner, "_callback", owner)
    name = getattr(callback, "__qualname__", None) or type(callback).__name__
    return f"Descriptor {fd}, for which {name} waits,", name, None


_DESCRIBE = {
    "pending_tasks": _describe_task,
    "unawaited_coroutines": _describe_coroutine,
    "unretrieved_exceptions": _describe_exception,
    "unclosed_transports": _describe_transport,
    "closed_descriptors": _describe_descriptor,
    "reused_descriptors": _describe_transport,
}

_core._on_misuse(_on_misuse)


# Notes of exceptions that the C type raises, in asyncio's words.


def frames_here() -> tuple[Frame, ...]:
    """Return the frames outside of the caller, innermost first, 20 at most."""
    frames: list[Frame] = []
    frame = sys._getframe(1).f_back
    while frame is not None and len(frames) < 20:
        code = frame.f_code
        frames.append((code.co_filename, frame.f_lineno or 0, code.co_name))
        frame = frame.f_back
    return tuple(frames)


def _loop_origin(loop: Any) -> str:
    place = _responsible(getattr(loop, "_made_in", ()))
    return f", made at {place_words(*place)}," if place else ""


def _note_of_threads(loop: Any, _: object) -> str:
    theirs = threading._active.get(loop._thread_id)  # type: ignore[attr-defined]
    theirs_name = "unknown" if theirs is None else repr(theirs.name)
    return (
        f"The loop{_loop_origin(loop)} runs in thread {theirs_name}, the call comes"
        f" from thread {threading.current_thread().name!r}: use"
        " loop.call_soon_threadsafe() or asyncio.run_coroutine_threadsafe()."
    )


def _note_of_transport(_: object, created: StackSummary | None) -> str | None:
    place = _place_created(created)
    return place and f"The transport was made at {place_words(*place)}."


def remember_places(loop: Any) -> None:
    """Have a loop remember where things are made."""
    options = loop.debug_options
    if not options.source_tracebacks or not options.coroutine_origin_depth:
        loop.debug_options = dataclasses.replace(
            options,
            source_tracebacks=True,
            coroutine_origin_depth=max(1, options.coroutine_origin_depth),
        )


def wanted_by_environment() -> bool:
    """Say whether AIOLOOP_ORPHANS asks for reports, with places of creation."""
    return os.environ.get("AIOLOOP_ORPHANS", "0") not in ("", "0")


# A task that is nobody's.

_spawned: set[asyncio.Task[Any]] = set()  # Of loops that cannot keep their own.


def spawn(
    coro: Coroutine[Any, Any, _T],
    *,
    name: str | None = None,
    context: Context | None = None,
) -> asyncio.Task[_T]:
    """Start a task that nobody has to keep or await, and return it.

    The running loop refers to it until it is done, and if it fails the loop's exception
    handler is told at once, which logs it on the "asyncio" logger unless the program
    has set another one. Whoever awaits the task gets the exception as well.

    RuntimeError is raised where no loop runs. For tasks that belong together
    asyncio.TaskGroup is the better place.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(coro, name=name, context=context)
    try:
        kept = loop._spawned  # type: ignore[attr-defined]
    except AttributeError:
        kept = _spawned
    task.add_done_callback(kept.discard)  # First: what fails keeps no task for ever.
    kept.add(task)
    task.add_done_callback(_report_failure)
    return task


def _report_failure(task: asyncio.Task[Any]) -> None:
    if task.cancelled():
        return
    error = task.exception()
    if error is None or isinstance(error, SystemExit | KeyboardInterrupt):
        return
    context = {
        "message": f"{_task_words(task)[0]} failed",
        "exception": error,
        "task": task,
    }
    created = getattr(task, "_source_traceback", None)
    if created:
        context["source_traceback"] = created
    task.get_loop().call_exception_handler(context)
