"""Loops for tests, and programs run on them under many seeds."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import random
import sys
import weakref
from typing import TYPE_CHECKING

from .. import _core
from .._loop import Loop
from . import _errors, _time_of_day, _trace
from ._clock import Clock, attach
from ._faults import Faults, injected_into, spare

if TYPE_CHECKING:
    import datetime
    from collections.abc import Coroutine, Sequence
    from typing import Any, Literal, TypeVar

    _T = TypeVar("_T")
    Order = Literal["fifo", "seeded", "pct"]

_STRATEGIES = {"fifo": 0, "seeded": 1, "pct": 2}
_LIMIT = 2**32  # of the seeds that are drawn


def _draw_seed(seeds: Sequence[int] = range(_LIMIT)) -> int:
    """Return a seed by chance, which is Hypothesis's in a test of that.

    It is part of the test's example there: replayed, shrunk and told with it.
    (hypothesis.register_random() would give each example the same seeds, since it only
    puts generators to 0; they would not be shrunk.)
    """
    hypothesis = sys.modules.get("hypothesis")
    if hypothesis is None or not hypothesis.currently_in_test_context():
        return random.SystemRandom().choice(seeds)
    from hypothesis.control import current_build_context
    from hypothesis.strategies import sampled_from

    seed: int = current_build_context().data.draw(sampled_from(seeds))
    hypothesis.note(f"seed of the order: {seed}")
    return seed


_seed_of: weakref.WeakKeyDictionary[Loop, int] = weakref.WeakKeyDictionary()


def new_event_loop(
    *,
    start: float = 0.0,
    autojump: float | None = 0.0,
    clock: Clock | None = None,
    virtual_time: bool = True,
    patch_time: bool | float | datetime.datetime = False,
    order: Order = "fifo",
    seed: int | None = None,
    depth: int = 3,
    length: int = 100,
    max_steps: int | None = None,
    max_virtual_seconds: float | None = None,
    faults: Faults | None = None,
) -> Loop:
    """Return a new loop with virtual time. It is not made the current one.

    It is a loop factory, as ``asyncio.Runner(loop_factory=...)`` takes one. ``start``
    and ``autojump`` are those of the Clock that is made for it; or ``clock`` is one
    that you have, which may have served another loop before. With
    ``virtual_time=False`` its time is the kernel's.

    ``patch_time`` lets the whole process's time follow the clock until the loop is
    closed: time.time(), datetime.now(), time.monotonic() and their like. True begins
    with the real time of day; a number of seconds since 1970 or a datetime with a time
    zone is another one. It needs time-machine or freezegun.

    ``order`` is in which order the loop runs what is ready. "fifo" is asyncio's. With
    "seeded" the steps of tasks that are ready in one iteration are interleaved by lot;
    with "pct" tasks have priorities by lot, which change at ``depth`` - 1 of the first
    ``length`` steps. In both, what waits for one future keeps its order, and so do the
    loop's own callbacks. The same ``seed`` gives the same order again; None draws one,
    see current_seed().

    What goes on for more than ``max_steps`` callbacks and steps, or would be later than
    ``max_virtual_seconds`` after the start, ends with TooManySteps or TooMuchTime; and
    where nothing can happen any more, SleepForever is raised. ``faults`` are what else
    goes wrong.

    ValueError is raised for another order, TypeError for what is no number,
    ModuleNotFoundError where ``patch_time`` finds no package, RuntimeError if the
    process's time follows another clock already.
    """
    plan = Plan(order, seed, depth, length, max_steps, faults)
    if clock is None:
        clock = Clock(start, autojump)
    elif not isinstance(clock, Clock):
        raise TypeError(f"a Clock was expected, got {clock!r}")
    if max_virtual_seconds is not None and not max_virtual_seconds >= 0:
        raise ValueError(f"max_virtual_seconds is {max_virtual_seconds!r}")
    if not virtual_time and (patch_time or max_virtual_seconds is not None):
        raise ValueError("patch_time and max_virtual_seconds are of virtual time")
    if not virtual_time and faults is not None and faults._need_virtual_time:
        raise ValueError("delay_io and slow_callback are of virtual time")
    latest = None if max_virtual_seconds is None else clock.time() + max_virtual_seconds
    loop = Loop() if patch_time is False else _time_of_day.PatchingLoop()
    try:
        if virtual_time:
            attach(loop, clock, latest)
        if isinstance(loop, _time_of_day.PatchingLoop):
            loop.follow(clock, patch_time)
        plan.begin(loop)
    except BaseException:
        loop.close()
        raise
    return loop


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to happen on a loop: the arguments of new_event_loop() of that name."""

    order: Order = "fifo"
    seed: int | None = None
    depth: int = 3
    length: int = 100
    max_steps: int | None = None
    faults: Faults | None = None

    def __post_init__(self) -> None:
        if self.order not in _STRATEGIES:
            raise ValueError(f"order is 'fifo', 'seeded' or 'pct', not {self.order!r}")
        if self.depth < 1 or self.length < 1:
            raise ValueError("depth and length are at least 1")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps is at least 1, not {self.max_steps!r}")
        if self.faults is not None and not isinstance(self.faults, Faults):
            raise TypeError(f"Faults were expected, got {self.faults!r}")

    @property
    def by_chance(self) -> bool:
        """Whether a seed decides anything."""
        return self.order != "fifo" or self.faults is not None

    def begin(self, loop: Loop) -> None:
        """Let it happen from now on."""
        seed = _draw_seed() if self.seed is None and self.by_chance else self.seed
        loop.debug_options = dataclasses.replace(
            loop.debug_options, source_tracebacks=True
        )
        _trace.keep(loop)
        if self.by_chance or self.max_steps is not None:
            exceeded = functools.partial(
                _errors.too_many_steps, weakref.ref(loop), self.max_steps
            )
            _core._set_order(
                loop,
                _STRATEGIES[self.order],
                (seed or 0) % 2**64,
                self.depth - 1,
                self.length,
                -1 if self.max_steps is None else self.max_steps,
                exceeded,
            )
        if seed is not None:
            _seed_of[loop] = seed
        if self.faults is not None:
            self.faults._inject(loop, seed)

    def end(self, loop: Loop) -> None:
        """Let the loop go on first in, first out, and nothing go wrong."""
        _core._set_order(loop, _STRATEGIES["fifo"], 0, 0, 1, -1, None)
        if self.faults is not None:
            self.faults._end(loop)


def describe(error: BaseException, loop: Loop, order: str) -> None:
    """Add to an error the last steps, and what has decided about this run."""
    if trace := _trace.trace_of(loop):
        error.add_note(trace)
    if loop in _seed_of:
        error.add_note(f"order={order!r}, seed={_seed_of[loop]}")
    for fault in injected_into(loop):
        error.add_note(fault)


def current_seed() -> int:
    """Return the seed of the running loop's order.

    RuntimeError is raised where no loop runs, or one without a seed.
    """
    loop = asyncio.get_running_loop()
    seed = _seed_of.get(loop) if isinstance(loop, Loop) else None
    if seed is None:
        raise RuntimeError(f"{loop!r} has no seed")
    return seed


def run(
    main: Coroutine[Any, Any, _T],
    *,
    leaks: bool = False,
    **options: Any,
) -> _T:
    """Run a coroutine as asyncio.run does, on a loop that new_event_loop() makes.

    ``options`` are that function's. LeakedTasks is raised if the coroutine returns
    while tasks go on, unless ``leaks`` allows it. An exception gets notes: the last
    steps in words, the seed, if there is one, and the faults that were injected.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("asyncio.run() cannot be called from a running event loop")
    try:
        loop = new_event_loop(**options)
    except BaseException:
        if asyncio.iscoroutine(main):
            main.close()  # Nobody has to hear that it was never awaited.
        raise
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        spare(loop, main)
        try:
            result = runner.run(main)
            left = asyncio.all_tasks(loop)
            if left and not leaks:
                raise _errors.leaked(loop, "main()", left)
        except Exception as error:
            describe(error, loop, options.get("order", "fifo"))
            raise
        return result
