"""The pytest plugin: ``@pytest.mark.aioloop`` on async tests.

A marked ``async def`` test runs on a loop of ``aioloop.testing.new_event_loop()``, with
the marker's keyword arguments: once, or once for each seed of ``seed=``. A failure
tells the command that repeats it.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

MARKER = (
    "aioloop(seed=None, order='seeded' if there is a seed, **options): run the async"
    " test on a loop of aioloop.testing.new_event_loop(), for a seed or each of several"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("aioloop")
    group.addoption(
        "--aioloop-seed",
        type=int,
        metavar="N",
        help="run tests that are marked aioloop with this seed only",
    )
    group.addoption(
        "--aioloop-seeds",
        type=int,
        metavar="N",
        help="run tests that are marked aioloop with the seeds from 0 to N - 1",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)


def _seeds(config: pytest.Config, marked: Any) -> Iterable[int | None]:
    """Return the seeds to run a test with, which the command line may choose."""
    if config.getoption("--aioloop-seed") is not None:
        return [config.getoption("--aioloop-seed")]
    if config.getoption("--aioloop-seeds") is not None:
        return range(config.getoption("--aioloop-seeds"))
    return [marked] if marked is None or isinstance(marked, int) else marked


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    marker = pyfuncitem.get_closest_marker("aioloop")
    function = pyfuncitem.obj
    if marker is None or not inspect.iscoroutinefunction(function):
        return None
    from . import run

    if marker.args:
        raise TypeError("the marker aioloop takes keyword arguments only")
    options = dict(marker.kwargs)
    seeds = _seeds(pyfuncitem.config, options.pop("seed", None))
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    for seed in seeds:
        order = options.get("order", "fifo" if seed is None else "seeded")
        try:
            run(function(**arguments), **{**options, "seed": seed, "order": order})
        except (Exception, pytest.fail.Exception) as error:
            if seed is not None:
                error.add_note(
                    f'repeat it: pytest "{pyfuncitem.nodeid}" --aioloop-seed={seed}'
                )
            raise
    return True
