"""Virtual time: the clock, and what it has to know of the world outside."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from .. import _core, _loop
from .._loop import Loop
from . import _errors, _time_of_day

if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor, Future
    from typing import Any


class Clock(_core.VirtualClock):
    """A clock for loops, which moves when nothing else can happen, or when told to.

    ``start`` is its first time in seconds. ``autojump`` is how many real seconds it
    waits for the sockets and other files that the loop watches before it moves by
    itself to the next timer; 0.0 is not at all, None (or infinity) is for ever: then
    only ``advance()`` and ``jump_to_next()`` move it. The attribute of that name may be
    set at any moment.

    It counts integer nanoseconds (``nanoseconds``), so 0.1 + 0.2 seconds are 0.3.
    ValueError is raised for what is negative or more than 95 years.
    """

    def __init__(self, start: float = 0.0, autojump: float | None = 0.0) -> None:
        super().__init__()
        self._loops: weakref.WeakSet[Loop] = weakref.WeakSet()

    def advance(self, seconds: float) -> None:
        """Move on by so many seconds at once.

        What is due then runs in the next iteration of the loop, in the order of the
        deadlines, and all of it sees the new time. It may be called in the loop, from
        another thread, and while no loop runs. ValueError is raised for what is
        negative.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"a clock moves forward, not by {seconds!r} seconds")
        self._advance(round(seconds * 1e9))

    def jump_to_next(self) -> float | None:
        """Move on to the next timer; return by how many seconds, None if there is none.

        The timer runs in the next iteration of the loop. The result is 0.0 if it is
        due already.
        """
        distances = [_core._until_next_timer(loop) for loop in self._loops]
        known = [distance for distance in distances if distance is not None]
        if not known:
            return None
        self._advance(min(known))
        return min(known) / 1e9

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Say that something outside is under way that the loop cannot know of.

        In the ``with`` block the clock treats it as a job of an executor: before it
        moves on, as much real time passes. It is for threads of the program's own that
        will call ``call_soon_threadsafe()``, and may be used in any thread.
        """
        loops = list(self._loops)
        for loop in loops:
            _core._hold_clock(loop, self, 1)
        try:
            yield
        finally:
            for loop in loops:
                _core._hold_clock(loop, self, -1)

    def _advance(self, nanoseconds: int) -> None:
        self._move(nanoseconds)
        for loop in self._loops:
            _core._clock_moved(loop)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self.time()!r} seconds>"


# Work that a loop gives away: it comes back, and the clock waits for that.


def _release(ref: weakref.ref[Loop], clock: Clock, _: object) -> None:
    """End a piece of work, in whatever thread."""
    loop = ref()
    if loop is not None:
        _core._hold_clock(loop, clock, -1)


class _Submitting:
    """Stands before an executor for one job, and keeps its future."""

    future: Future[Any] | None = None

    def __init__(self, executor: Executor, loop: Loop, clock: Clock) -> None:
        self._executor = executor
        self._loop = loop
        self._clock = clock

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        _core._hold_clock(self._loop, self._clock, 1)
        try:
            self.future = self._executor.submit(function, *args)
        except BaseException:
            _core._hold_clock(self._loop, self._clock, -1)
            raise
        return self.future


def _default_executor(loop: Loop) -> Executor:
    """Return what run_in_executor() takes for None, made as it makes it."""
    loop._check_default_executor()
    if loop._default_executor is None:
        loop._default_executor = ThreadPoolExecutor(thread_name_prefix="asyncio")
    return loop._default_executor


def _run_in_executor(
    ref: weakref.ref[Loop],
    clock: Clock,
    executor: Executor | None,
    func: Callable[..., Any],
    *args: Any,
) -> asyncio.Future[Any]:
    """Stand in for loop.run_in_executor(), which the resolver's calls use too."""
    loop = ref()
    assert loop is not None  # Who calls has it.
    loop._check_closed()
    if executor is None:
        executor = _default_executor(loop)
    if isinstance(executor, ThreadPoolExecutor):
        _errors.known_executors.add(executor)
    job = _Submitting(executor, loop, clock)
    try:
        return type(loop).run_in_executor(loop, job, func, *args)  # type: ignore
    finally:
        if job.future is not None:
            # After asyncio's own, which gives the loop the result.
            job.future.add_done_callback(functools.partial(_release, ref, clock))


async def _make_subprocess_transport(
    ref: weakref.ref[Loop], clock: Clock, *args: Any, **kwargs: Any
) -> Any:
    """Stand in for the loop's method of that name: children are work, too."""
    loop = ref()
    assert loop is not None
    transport = await type(loop)._make_subprocess_transport(loop, *args, **kwargs)
    if transport.get_returncode() is None:
        ended = loop.create_future()
        waiters = transport._exit_waiters  # as transport._wait() has one there
        (waiters.add if isinstance(waiters, set) else waiters.append)(ended)
        _core._hold_clock(loop, clock, 1)
        ended.add_done_callback(functools.partial(_release, ref, clock))
    return transport


async def _shutdown_default_executor(
    ref: weakref.ref[Loop], clock: Clock, *args: Any, **kwargs: Any
) -> None:
    """Stand in for the loop's method of that name, which starts a thread."""
    loop = ref()
    assert loop is not None
    _core._hold_clock(loop, clock, 1)
    try:
        await type(loop).shutdown_default_executor(loop, *args, **kwargs)
    finally:
        _core._hold_clock(loop, clock, -1)


_STANDINS = {
    "run_in_executor": _run_in_executor,
    "_make_subprocess_transport": _make_subprocess_transport,
    "shutdown_default_executor": _shutdown_default_executor,
}


def attach(loop: Loop, clock: Clock, latest: float | None = None) -> None:
    """Give the loop the clock; its timers keep their distances."""
    if _clocks.get(loop) is not None:
        raise RuntimeError(f"the time of {loop!r} is virtual already")
    ref = weakref.ref(loop)
    for name, function in _STANDINS.items():
        setattr(loop, name, functools.partial(function, ref, clock))
    _core._set_clock(
        loop,
        clock,
        functools.partial(_errors.stuck, ref),
        -1 if latest is None else round(latest * 1e9),
    )
    clock._loops.add(loop)
    _clocks[loop] = clock


def _detach(loop: Loop) -> None:
    """Give the loop the kernel's time again."""
    for name in _STANDINS:
        loop.__dict__.pop(name, None)
    clock = _clocks.pop(loop)
    clock._loops.discard(loop)
    _core._set_clock(loop, None, None, -1)


_clocks: weakref.WeakKeyDictionary[Loop, Clock] = weakref.WeakKeyDictionary()


def clock_of(loop: Loop) -> Clock | None:
    return _clocks.get(loop)


# What programs call.


@contextlib.contextmanager
def virtual_time(
    start: float = 0.0,
    autojump: float | None = 0.0,
    *,
    patch_time: bool | float | datetime.datetime = False,
) -> Iterator[Clock]:
    """Make time virtual in a ``with`` block, and give the Clock.

    In a coroutine or callback it is that of the loop that runs; its timers keep their
    distances, at the beginning and at the end. It is also that of every aioloop loop
    that this thread makes in the block. ``patch_time`` is as in new_event_loop(), for
    the block. RuntimeError is raised where a loop of another kind runs, or one whose
    time is virtual already.
    """
    clock = Clock(start, autojump)
    attached: list[weakref.ref[Loop]] = []
    thread = threading.get_ident()

    def attach_new(loop: Loop) -> None:
        if threading.get_ident() == thread and loop not in _clocks:
            attach(loop, clock)
            attached.append(weakref.ref(loop))

    running = asyncio._get_running_loop()
    if running is not None:
        if not isinstance(running, Loop):
            raise RuntimeError(f"an aioloop loop is needed, not {running!r}")
        attach(running, clock)
        attached.append(weakref.ref(running))
    _loop.on_new_loop.append(attach_new)
    try:
        with _time_of_day.follow_if(patch_time, clock):
            yield clock
    finally:
        _loop.on_new_loop.remove(attach_new)
        for ref in attached:
            loop = ref()
            if loop is not None and not loop.is_closed():
                _detach(loop)


def current_clock() -> Clock:
    """Return the virtual clock of the running loop.

    RuntimeError is raised where no loop runs, or one whose time is the kernel's.
    """
    loop = asyncio.get_running_loop()
    clock = _clocks.get(loop) if isinstance(loop, Loop) else None
    if clock is None:
        raise RuntimeError(f"the time of {loop!r} is not virtual")
    return clock
