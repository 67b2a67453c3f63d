"""The pytest plugin: ``@pytest.mark.aioloop`` on async tests.

A marked ``async def`` test runs on a loop of ``aioloop.testing.new_event_loop()``, with
the marker's keyword arguments: once, or once for each seed of ``seed=``. A failure
tells the command that repeats it.

Where pytest-asyncio or anyio's plugin runs the test, as it has their marker too or they
take each, the loop is made by them, for the test and its fixtures; this plugin gives
them one with the marker's clock, and the order and the faults from the beginning of the
test's function to its end. There each seed is a test of its own, with its own fixtures.
``@given`` tests draw the seed for each example.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import inspect
import os
import threading
from asyncio import events, unix_events
from typing import TYPE_CHECKING
from unittest import mock

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from typing import Any

MARKER = (
    "aioloop(seed=None, order='seeded' if there is a seed, **options): run the async"
    " test on a loop of aioloop.testing.new_event_loop(), for a seed or each of several"
)
SEED = "aioloop_seed"  # the parameter of tests that other plugins run


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("aioloop")
    group.addoption(
        "--aioloop-seed",
        type=int,
        metavar="N",
        help="run tests that are marked aioloop, and test cases of"
        " aioloop.testing.TestCase, with this seed only",
    )
    group.addoption(
        "--aioloop-seeds",
        type=int,
        metavar="N",
        help="run them with the seeds from 0 to N - 1",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)
    for option in ("seed", "seeds"):
        value = config.getoption(f"aioloop_{option}")
        if value is not None:
            variable = mock.patch.dict(
                os.environ, {f"AIOLOOP_{option.upper()}": str(value)}
            )
            variable.start()  # for test cases of unittest
            config.add_cleanup(variable.stop)


# --- the marker -----------------------------------------------------------------------


@dataclasses.dataclass
class _Wish:
    """What a test's marker and the command line ask for."""

    options: dict[str, Any]  # without the order
    order: Any
    seeds: Sequence[int | None]


def _wish(item: Any) -> _Wish | None:
    """Return what an item, or a definition of one, asks for, if it is marked."""
    marker = item.get_closest_marker("aioloop")
    if marker is None:
        return None
    if marker.args:
        raise TypeError("the marker aioloop takes keyword arguments only")
    options = dict(marker.kwargs)
    seeds: Any = options.pop("seed", None)
    if item.config.getoption("aioloop_seed") is not None:
        seeds = item.config.getoption("aioloop_seed")
    elif item.config.getoption("aioloop_seeds") is not None:
        seeds = range(item.config.getoption("aioloop_seeds"))
    order = options.pop("order", "fifo" if seeds is None else "seeded")
    one = seeds is None or isinstance(seeds, int)
    return _Wish(options, order, [seeds] if one else list(seeds))


def _inner(function: Any) -> Any:
    """Return the test's own function, behind @given."""
    hypothesis = getattr(function, "hypothesis", None)
    return function if hypothesis is None else hypothesis.inner_test


def _is_auto(config: pytest.Config, plugin: str, mode: str) -> bool:
    if not config.pluginmanager.has_plugin(plugin):
        return False
    given = config.getoption(mode, default=None) or config.getini(mode)
    return str(given) == "auto"


def _is_run_by_another(item: Any, fixtures: Iterable[str]) -> bool:
    """Tell whether pytest-asyncio or anyio's plugin runs the test."""
    config = item.config
    if config.pluginmanager.has_plugin("asyncio") and (
        item.get_closest_marker("asyncio")
        or _is_auto(config, "asyncio", "asyncio_mode")
    ):
        return True
    return config.pluginmanager.has_plugin("anyio") and (
        "anyio_backend" in fixtures
        or item.get_closest_marker("anyio") is not None
        or _is_auto(config, "anyio", "anyio_mode")
    )


def _note(error: BaseException, item: pytest.Item, seed: int | None) -> None:
    if seed is not None and not hasattr(getattr(item, "obj", None), "hypothesis"):
        error.add_note(f'repeat it: pytest "{item.nodeid}" --aioloop-seed={seed}')


# --- tests that nobody else runs ------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    function = pyfuncitem.obj
    wish = _wish(pyfuncitem)
    if (
        wish is None
        or not inspect.iscoroutinefunction(_inner(function))
        or _is_run_by_another(pyfuncitem, pyfuncitem.fixturenames)
    ):
        return None
    from ._run import run

    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    options = {"order": wish.order, **wish.options}
    if hasattr(function, "hypothesis"):
        test = _inner(function)

        @functools.wraps(test)
        def example(*args: Any, **kwargs: Any) -> None:
            run(test(*args, **kwargs), **options, seed=_seed_of_example(wish))

        with mock.patch.object(function.hypothesis, "inner_test", example):
            function(**arguments)
        return True
    for seed in wish.seeds:
        try:
            run(function(**arguments), **options, seed=seed)
        except (Exception, pytest.fail.Exception) as error:
            _note(error, pyfuncitem, seed)
            raise
    return True


def _seed_of_example(wish: _Wish) -> int | None:
    """Let Hypothesis choose one of several seeds; None is any, if one is needed."""
    from ._run import _draw_seed

    if len(wish.seeds) == 1:
        return wish.seeds[0]
    return _draw_seed(wish.seeds)  # type: ignore[arg-type]


# --- tests that another plugin runs ---------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each seed, as the fixtures are the other plugin's."""
    wish = _wish(metafunc.definition)
    if (
        wish is None
        or wish.seeds == [None]
        or not inspect.iscoroutinefunction(metafunc.function)
        or not _is_run_by_another(metafunc.definition, metafunc.fixturenames)
    ):
        return
    if SEED not in metafunc.fixturenames:
        metafunc.fixturenames.append(SEED)
    ids = [f"seed={seed}" for seed in wish.seeds]
    metafunc.parametrize(SEED, wish.seeds, indirect=True, ids=ids)


@pytest.fixture
def aioloop_seed(request: pytest.FixtureRequest) -> int | None:
    """Return the seed of the test, if there is one."""
    return getattr(request, "param", None)


class _Stage:
    """A marked test that another plugin runs."""

    def __init__(self, wish: _Wish, seed: int | None) -> None:
        from ._clock import Clock
        from ._run import Plan

        options = dict(wish.options)
        self._latest = options.pop("max_virtual_seconds", None)
        self._virtual = options.pop("virtual_time", True)
        self._patch_time = options.pop("patch_time", False)
        start, autojump = options.pop("start", 0.0), options.pop("autojump", 0.0)
        self.wish = wish
        self.clock = options.pop("clock", None) or Clock(start, autojump)
        self.plan = Plan(order=wish.order, seed=seed, **options)
        self.resources = contextlib.ExitStack()  # until the end of the tear-down
        self._loops: list[tuple[Any, type]] = []  # and their classes
        self._busy = False

    def _attach(self, loop: Any) -> None:
        from . import _clock, _time_of_day

        if not self._virtual:
            return
        follow = _time_of_day.follow_if(self._patch_time, self.clock)
        self._patch_time = False  # It is done for all of its loops.
        self.resources.enter_context(follow)
        latest = self._latest
        if latest is not None:
            latest += self.clock.time()
        _clock.attach(loop, self.clock, latest)
        self._loops.append((loop, type(loop)))

    @contextlib.contextmanager
    def making_loops(self, by_policy: bool = False) -> Iterator[None]:
        """Let the loops that this thread makes be the test's, by whatever way."""
        from .. import _loop

        if self._busy:  # A fixture that another one asks for.
            yield
            return
        thread = threading.get_ident()
        real = events.new_event_loop

        def new_event_loop() -> Any:
            mine = threading.get_ident() == thread
            return _loop.new_event_loop() if mine else real()

        def attach(loop: Any) -> None:
            if threading.get_ident() == thread:
                self._attach(loop)

        with contextlib.ExitStack() as stack:
            for module in (asyncio, events):
                patch = mock.patch.object(module, "new_event_loop", new_event_loop)
                stack.enter_context(patch)
            policy: Any = getattr(unix_events, "_UnixDefaultEventLoopPolicy", None)
            if by_policy and policy is not None:
                factory = staticmethod(_loop.new_event_loop)
                patch = mock.patch.object(policy, "_loop_factory", factory)
                stack.enter_context(patch)
            _loop.on_new_loop.append(attach)
            stack.callback(_loop.on_new_loop.remove, attach)
            stack.callback(setattr, self, "_busy", False)
            self._busy = True
            yield

    def keep_clocks(self) -> None:
        """Undo what looptime does to each loop of pytest-asyncio, used or not."""
        for loop, kind in self._loops:
            if type(loop) is not kind:
                loop.__class__ = kind
                with contextlib.suppress(AttributeError):
                    del loop._selector.select

    def is_on_its_loop(self) -> bool:
        from .._loop import Loop
        from ._clock import clock_of

        loop = asyncio.get_running_loop()
        if not isinstance(loop, Loop):
            return False
        return clock_of(loop) is (self.clock if self._virtual else None)


_stage = pytest.StashKey[_Stage]()


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    wish = _wish(item)
    if (
        wish is not None
        and isinstance(item, pytest.Function)
        and inspect.iscoroutinefunction(_inner(item.obj))
        and _is_run_by_another(item, item.fixturenames)
    ):
        params = item.callspec.params if hasattr(item, "callspec") else {}
        item.stash[_stage] = _Stage(wish, params.get(SEED, wish.seeds[0]))
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: Any, request: pytest.FixtureRequest
) -> Generator[None, Any, Any]:
    """Give a clock to the loop that a fixture of such a test makes."""
    function = fixturedef.scope == "function"
    stage = request.node.stash.get(_stage, None) if function else None
    if stage is None:
        return (yield)  # Such a loop is of other tests, too.
    with stage.making_loops(by_policy=fixturedef.argname == "event_loop"):
        result = yield
    if request.node.get_closest_marker("looptime") is None:
        stage.keep_clocks()
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    stage = item.stash.get(_stage, None)
    if stage is None:
        return (yield)
    assert isinstance(item, pytest.Function)
    place: Any = getattr(item.obj, "hypothesis", None)
    name = "obj" if place is None else "inner_test"
    place = place or item
    test = getattr(place, name)
    setattr(place, name, _staged(test, stage, drawn=name == "inner_test"))
    try:
        with stage.making_loops():
            return (yield)
    except (Exception, pytest.fail.Exception) as error:
        _note(error, item, stage.plan.seed)
        raise
    finally:
        setattr(place, name, test)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    try:
        return (yield)
    finally:
        stage = item.stash.get(_stage, None)
        if stage is not None:
            del item.stash[_stage]
            stage.resources.close()


def _staged(test: Callable[..., Any], stage: _Stage, drawn: bool) -> Any:
    """Return the test function with the order and the faults, for as long as it runs.

    ``drawn`` is whether Hypothesis chooses the seed.
    """
    from ._faults import spare_running_task
    from ._run import describe

    @functools.wraps(test)
    async def staged(*args: Any, **kwargs: Any) -> Any:
        try:
            loop: Any = asyncio.get_running_loop()
        except RuntimeError:  # Trio's turn, of anyio's backends
            return await test(*args, **kwargs)
        if not stage.is_on_its_loop():
            pytest.fail(
                "a test that is marked aioloop needs a loop that is made for it, by the"
                f" default loop factory: this one, {loop!r}, has a wider scope, or"
                " another factory has made it",
                pytrace=False,
            )
        plan = stage.plan
        if drawn:
            plan = dataclasses.replace(plan, seed=_seed_of_example(stage.wish))
        spare_running_task()
        plan.begin(loop)
        try:
            return await test(*args, **kwargs)
        except Exception as error:
            describe(error, loop, plan.order)
            raise
        finally:
            plan.end(loop)

    return staged
