"""What a row of the table is: a coroutine function, its clock and its batch size.

A row is written as

    @row("sleep(0), one task")
    async def sleep_zero_alone(clock, n):
        with clock:
            for _ in range(n):
                await asyncio.sleep(0)

It runs `n` operations inside `with clock`; set-up and clean-up stay outside of it.
"""

import dataclasses
import time
from collections.abc import Callable

CPU = "cpu"
WALL = "wall"

ROWS: dict[str, "Row"] = {}


@dataclasses.dataclass(frozen=True)
class Row:
    """One benchmark.

    `batch`: the operation count is a multiple of it. `clock`: CPU for CPU time of the
    process with all its threads, WALL for elapsed time.
    """

    name: str
    run: Callable
    batch: int
    clock: str


class Clock:
    """Measures CPU and elapsed seconds of its `with` block."""

    cpu = 0.0
    wall = 0.0

    def __enter__(self):
        self.wall = -time.perf_counter()
        self.cpu = -time.process_time()

    def __exit__(self, *exc_info):
        self.cpu += time.process_time()
        self.wall += time.perf_counter()


def row(name, *, batch=1, clock=CPU):
    """Register the decorated coroutine function `(clock, n)` as a row of the table."""

    def register(run):
        if name in ROWS:
            raise ValueError(f"two rows are called {name!r}")
        ROWS[name] = Row(name, run, batch, clock)
        return run

    return register
