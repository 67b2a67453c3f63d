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
from . import _errors
from ._clock import Clock, attach
from ._faults import Faults, injected_into, spare

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from typing import Any, Literal, TypeVar

    _T = TypeVar("_T")
    Order = Literal["fifo", "seeded", "pct"]

_STRATEGIES = {"fifo": 0, "seeded": 1, "pct": 2}
_seeds = random.Random()
_registered: list[random.Random] = []


def _draw_seed() -> int:
    """Return a seed by chance, which is Hypothesis's where that runs."""
    global _registered
    hypothesis = sys.modules.get("hypothesis")
    if hypothesis is not None and not _registered:
        _registered = [_seeds]
        hypothesis.register_random(_seeds)
        _seeds.seed(0)  # As it does from now on, at the beginning of each test.
    return _seeds.getrandbits(32)


_seed_of: weakref.WeakKeyDictionary[Loop, int] = weakref.WeakKeyDictionary()


def new_event_loop(
    *,
    start: float = 0.0,
    autojump: float | None = 0.0,
    clock: Clock | None = None,
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
    that you have, which may have served another loop before.

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

    ValueError is raised for another order, TypeError for what is no number.
    """
    if clock is None:
        clock = Clock(start, autojump)
    elif not isinstance(clock, Clock):
        raise TypeError(f"a Clock was expected, got {clock!r}")
    if order not in _STRATEGIES:
        raise ValueError(f"order is 'fifo', 'seeded' or 'pct', not {order!r}")
    if depth < 1 or length < 1:
        raise ValueError("depth and length are at least 1")
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max_steps is at least 1, not {max_steps!r}")
    if max_virtual_seconds is not None and not max_virtual_seconds >= 0:
        raise ValueError(f"max_virtual_seconds is {max_virtual_seconds!r}")
    if faults is not None and not isinstance(faults, Faults):
        raise TypeError(f"Faults were expected, got {faults!r}")
    if seed is None and (order != "fifo" or faults is not None):
        seed = _draw_seed()
    latest = None if max_virtual_seconds is None else clock.time() + max_virtual_seconds
    loop = Loop()
    loop.debug_options = dataclasses.replace(loop.debug_options, source_tracebacks=True)
    attach(loop, clock, latest)
    if order != "fifo" or max_steps is not None or faults is not None:
        ref = weakref.ref(loop)
        exceeded = functools.partial(_errors.too_many_steps, ref, max_steps)
        _core._set_order(
            loop,
            _STRATEGIES[order],
            (seed or 0) % 2**64,
            depth - 1,
            length,
            -1 if max_steps is None else max_steps,
            exceeded,
        )
    if seed is not None:
        _seed_of[loop] = seed
    if faults is not None:
        faults._inject(loop, seed)
    return loop


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
    while tasks go on, unless ``leaks`` allows it. An exception gets a note with the
    seed, if there is one.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("asyncio.run() cannot be called from a running event loop")
    factory = functools.partial(new_event_loop, **options)
    with asyncio.Runner(loop_factory=factory) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, Loop)
        spare(loop, main)
        try:
            result = runner.run(main)
            left = asyncio.all_tasks(loop)
            if left and not leaks:
                what = (
                    f"main() ended at {loop.time()!r} s, and {len(left)} tasks did not"
                )
                raise _errors.complain(_errors.LeakedTasks, loop, what, left)
        except Exception as error:
            if loop in _seed_of:
                order = options.get("order", "fifo")
                error.add_note(f"order={order!r}, seed={_seed_of[loop]}")
            for fault in injected_into(loop):
                error.add_note(fault)
            raise
        return result


def explore(
    main: Callable[[], Coroutine[Any, Any, object]],
    *,
    seeds: Iterable[int] = range(100),
    order: Order = "seeded",
    first: bool = False,
    **options: Any,
) -> dict[int, Exception]:
    """Run ``main()`` once for each seed; return the failing ones with their errors.

    ``first`` ends it with the first failure. The other arguments are those of run().
    ``run(main(), order=order, seed=seed)`` repeats a failure.
    """
    failures: dict[int, Exception] = {}
    for seed in seeds:
        try:
            run(main(), order=order, seed=seed, **options)
        except Exception as error:
            failures[seed] = error
            if first:
                break
    return failures
