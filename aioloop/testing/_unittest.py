"""unittest: test cases whose loop is one of new_event_loop()."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import os
import unittest
from typing import TYPE_CHECKING

from . import _errors
from ._faults import spare_running_task
from ._run import Plan, describe, new_event_loop

if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable, Iterable
    from typing import Any

    from .._loop import Loop
    from ._faults import Faults
    from ._run import Order

    _Base = unittest.IsolatedAsyncioTestCase
else:
    _Base = object

# Variables of the environment: a seed, and how many from 0 on.
SEED = "AIOLOOP_SEED"
SEEDS = "AIOLOOP_SEEDS"


class TestCase(_Base):
    """A mixin for unittest.IsolatedAsyncioTestCase, which it goes before.

    Each test has a loop of new_event_loop(), and its set-up and tear-down with it. The
    attributes of the class are that function's arguments; order and faults are those
    of the test method alone. ``seed`` may be several, such as ``range(200)``: then each
    test runs for one after the other, with set-up and tear-down, until one fails. With
    a seed the order is "seeded" if nothing else is said. AIOLOOP_SEED=17 in the
    environment is another seed for all, AIOLOOP_SEEDS=1000 those from 0 to 999.

    A task that a test leaves behind is a LeakedTasks, unless ``leaks`` allows it.
    """

    seed: int | Iterable[int] | None = None
    order: Order | None = None
    start: float = 0.0
    autojump: float | None = 0.0
    virtual_time: bool = True
    patch_time: bool | float | datetime.datetime = False
    depth: int = 3
    length: int = 100
    max_steps: int | None = None
    max_virtual_seconds: float | None = None
    faults: Faults | None = None
    leaks: bool = False

    _loop: Loop | None = None
    _seed: int | None = None  # of this run
    _passed = False

    def loop_factory(self) -> Loop:
        self._loop = new_event_loop(
            start=self.start,
            autojump=self.autojump,
            virtual_time=self.virtual_time,
            patch_time=self.patch_time,
            max_virtual_seconds=self.max_virtual_seconds,
        )
        return self._loop

    def run(self, result: Any = None) -> Any:
        if result is not None:
            return self._run_seeds(result)
        result = self.defaultTestResult()
        result.startTestRun()
        try:
            return self._run_seeds(result)
        finally:
            result.stopTestRun()

    def _run_seeds(self, result: Any) -> Any:
        """Run the test for each seed, and tell the result of the last one."""
        pristine = dict(vars(self))
        result.startTest(self)
        try:
            for seed in _seeds(self.seed):
                vars(self).clear()
                vars(self).update(pristine)
                self._seed = seed
                self._asyncioRunner = None
                self._asyncioTestContext = contextvars.copy_context()
                record = _Record(self, result)
                super().run(record)  # type: ignore[arg-type]
                if record.is_conclusive or getattr(result, "shouldStop", False):
                    break
            record.replay()
        finally:
            result.stopTest(self)
        return result

    def _setupAsyncioRunner(self) -> None:
        if hasattr(unittest.IsolatedAsyncioTestCase, "loop_factory"):
            super()._setupAsyncioRunner()  # type: ignore[misc]
        else:  # before 3.13
            self._asyncioRunner = asyncio.Runner(
                debug=True, loop_factory=self.loop_factory
            )
        self.addCleanup(self._look_for_leaks)  # It is the last one to run.

    def _callTestMethod(self, method: Callable[[], Any]) -> None:
        assert self._loop is not None  # The set-up has made it.
        plan = Plan(
            self._order,
            self._seed,
            self.depth,
            self.length,
            self.max_steps,
            self.faults,
        )
        if inspect.iscoroutinefunction(method):
            method = _spared(method)
        plan.begin(self._loop)
        try:
            super()._callTestMethod(method)  # type: ignore[misc]
        finally:
            plan.end(self._loop)
        self._passed = True

    @property
    def _order(self) -> Order:
        return self.order or ("fifo" if self._seed is None else "seeded")

    def _look_for_leaks(self) -> None:
        if self._loop is None or self.leaks or not self._passed:
            return
        if left := asyncio.all_tasks(self._loop):
            raise _errors.leaked(self._loop, self.id(), left)

    def _explain(self, error: BaseException) -> None:
        """Add to an error how it came about."""
        if self._loop is None:
            return
        describe(error, self._loop, self._order)
        if self._seed is not None:
            command = f"{SEED}={self._seed} python -m unittest {self.id()}"
            error.add_note(f"repeat it: {command}")


def _seeds(wanted: int | Iterable[int] | None) -> Iterable[int | None]:
    if SEED in os.environ:
        return [int(os.environ[SEED])]
    if SEEDS in os.environ:
        return range(int(os.environ[SEEDS]))
    return [wanted] if wanted is None or isinstance(wanted, int) else wanted


def _spared(method: Callable[[], Any]) -> Callable[[], Any]:
    """Return the test as one that injected faults do not cancel."""

    @functools.wraps(method)
    async def test() -> Any:
        spare_running_task()
        return await method()

    return test


class _Record:
    """Stands before the result, for one seed: what would be added is kept."""

    def __init__(self, case: TestCase, result: Any) -> None:
        self._case = case
        self._result = result
        self._calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self.is_conclusive = False  # Another seed would tell nothing else.

    def startTest(self, _: object) -> None: ...

    def stopTest(self, _: object) -> None: ...

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._result, name)
        if not name.startswith("add"):
            return found

        def add(*args: Any) -> None:
            if isinstance(args[-1], tuple):  # what sys.exc_info() gives
                self._case._explain(args[-1][1])
                self.is_conclusive = True
            self.is_conclusive |= name == "addSkip"
            self._calls.append((found, args))

        return add

    def replay(self) -> None:
        for function, args in self._calls:
            function(*args)
