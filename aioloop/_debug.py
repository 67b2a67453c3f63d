"""The switches of debug mode, one by one."""

from __future__ import annotations

import dataclasses
from asyncio import constants
from typing import ClassVar, Literal

from . import _blocking


@dataclasses.dataclass(frozen=True)
class DebugOptions:
    """What a loop does in debug mode. Everything is off by default.

    ``loop.debug_options`` is the set that a loop has. It may be replaced at any
    moment and from any thread, also while the loop runs::

        loop.debug_options = aioloop.DebugOptions.production()
        loop.debug_options = dataclasses.replace(
            loop.debug_options, source_tracebacks=False
        )

    ``loop.set_debug(True)`` is the same as ``DebugOptions.all()`` and
    ``loop.set_debug(False)`` as ``DebugOptions()``, but for ``blocking_calls``.
    ``loop.get_debug()``, by which asyncio's own Python code and libraries decide what
    to do in debug mode, is ``fd_checks``.
    """

    slow_callbacks: bool = False
    """Log callbacks that take ``loop.slow_callback_duration`` seconds or more."""

    slow_iterations: bool = False
    """Log an iteration that takes that long through many callbacks, none of which is
    slow by itself."""

    slow_selector: bool = False
    """Log a poll of the selector that comes back that much too late, because another
    thread held the GIL or the machine was busy."""

    source_tracebacks: bool = False
    """Remember where each future, task and handle was created."""

    wakeup_tracebacks: bool = False
    """Remember where each step of a task and each done-callback was scheduled: the
    ``handle_traceback`` that an exception handler is told."""

    thread_checks: bool = False
    """Refuse calls from other threads than the loop's where asyncio does."""

    callback_checks: bool = False
    """Refuse coroutines and objects that cannot be called as callbacks."""

    fd_checks: bool = False
    """Refuse blocking sockets, and do what else asyncio's own Python code and
    libraries do in debug mode, ``loop.get_debug()`` being true: asyncio checks
    arguments, logs connections, subprocesses and look-ups of names, and shows the
    arguments of callbacks; aiohttp extracts a traceback for each request."""

    cancel_tracebacks: bool = False
    """Remember where each task was last cancelled: ``aioloop.cancelled_from(task)``,
    which dumps and the contexts of exception handlers tell as well."""

    deadlocks: bool = False
    """Log once when a loop waits for ever: tasks are pending, and for a second nothing
    has come that could wake them, nor can it, since there is no timer, descriptor, job
    of an executor, child process or signal handler."""

    coroutine_origin_depth: int = 0
    """How many frames a coroutine remembers of where it was created, for the warning
    that it was never awaited. One frame costs 0.1 to 0.5 us per coroutine, ten cost ten
    times as much."""

    coroutine_origin_interval: int = 1
    """Only in one of so many callbacks and steps of tasks, picked at random, do
    coroutines remember it. Of a mistake that a program repeats it tells the place."""

    blocking_calls: Literal["log", "raise"] | None = None
    """Log calls that block the loop, such as ``time.sleep`` or ``open`` in a task, once
    for each place of the program, or make each of them raise BlockingCallError. It is
    the loop's attribute ``blocking_calls``, which ``loop.set_debug()`` leaves as it
    is."""

    # Pairs, and no dict: where there is no memory for its items() CPython 3.11 crashes.
    _SWITCHES: ClassVar[tuple[tuple[str, int], ...]] = (
        ("slow_callbacks", 1),
        ("slow_iterations", 2),
        ("slow_selector", 4),
        ("source_tracebacks", 8),
        ("wakeup_tracebacks", 16),
        ("thread_checks", 32),
        ("callback_checks", 64),
        ("fd_checks", 128),
        ("cancel_tracebacks", 4096),
        ("deadlocks", 8192),
    )

    def __post_init__(self) -> None:
        if self.coroutine_origin_depth < 0:
            raise ValueError("coroutine_origin_depth must not be negative")
        if self.coroutine_origin_interval < 1:
            raise ValueError("coroutine_origin_interval must be positive")
        _blocking.check_mode(self.blocking_calls)

    def __bool__(self) -> bool:
        """Say whether anything is on."""
        return self != DebugOptions()

    @classmethod
    def all(cls) -> DebugOptions:
        """Return all of debug mode, with as deep coroutine origins as asyncio's."""
        switches = {name: True for name, _ in cls._SWITCHES}
        return cls(**switches, coroutine_origin_depth=constants.DEBUG_STACK_DEPTH)

    @classmethod
    def production(cls) -> DebugOptions:
        """Return what is cheap enough to be left on.

        That is all but the tracebacks of wake-ups and asyncio's own checks and logs,
        with coroutine origins of one frame in one of 16 callbacks and steps: in all of
        them, they would cost more than everything else together.
        """
        return dataclasses.replace(
            cls.all(),
            wakeup_tracebacks=False,
            fd_checks=False,
            coroutine_origin_depth=1,
            coroutine_origin_interval=16,
        )

    def _to_switches(self) -> tuple[int, int, int]:
        bits = (bit for name, bit in self._SWITCHES if getattr(self, name))
        return sum(bits), self.coroutine_origin_depth, self.coroutine_origin_interval

    @classmethod
    def _from_switches(cls, switches: int, depth: int, interval: int) -> DebugOptions:
        on = {name: bool(switches & bit) for name, bit in cls._SWITCHES}
        return cls(
            **on, coroutine_origin_depth=depth, coroutine_origin_interval=interval
        )
