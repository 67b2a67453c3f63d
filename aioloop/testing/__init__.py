"""Time and order under control, on the loop that runs in production.

``new_event_loop()`` makes a loop whose time is virtual: ``loop.time()``, timers,
``asyncio.sleep()``, ``timeout()`` and ``wait_for()`` follow a clock that moves on to
the next timer when nothing else can happen, and not before. An hour of sleep takes some
microseconds; sockets, TLS, subprocesses, threads and executors are real.
``virtual_time()`` does the same for the loop that runs, or for those that are made in a
``with`` block.

The order in which tasks run may be drawn by lot: ``run(main(), order="seeded",
seed=7)``, and ``explore(main, seeds=range(1000))`` returns the seeds that fail. A loop
in which nothing can happen any more says so, and who waits for whom. See
docs/testing.md.
"""

from __future__ import annotations

from ._clock import Clock, current_clock, virtual_time
from ._errors import (
    LeakedTasks,
    ProcessFailed,
    RemoteError,
    SimulationError,
    SleepForever,
    TooManySteps,
    TooMuchTime,
)
from ._explore import explore
from ._faults import Faults, current_faults
from ._run import current_seed, new_event_loop, run
from ._unittest import TestCase

__all__ = [
    "Clock",
    "Faults",
    "LeakedTasks",
    "ProcessFailed",
    "RemoteError",
    "SimulationError",
    "SleepForever",
    "TestCase",
    "TooManySteps",
    "TooMuchTime",
    "current_clock",
    "current_faults",
    "current_seed",
    "explore",
    "new_event_loop",
    "run",
    "virtual_time",
]
