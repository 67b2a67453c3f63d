"""What the tests of aioloop.accelerate() share: programs run with it off and on."""

import asyncio
import re
import sys
import sysconfig
import types

import pytest

import aioloop

needs_gil = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="on free-threaded Pythons nothing is replaced",
)
LOOPS = {"aioloop": aioloop.new_event_loop, "asyncio": asyncio.SelectorEventLoop}


def both(program, *arguments):
    """Run a function with the switch off and on; return what each gave."""
    aioloop.accelerate(False)
    off = program(*arguments)
    aioloop.accelerate()
    on = program(*arguments)
    aioloop.accelerate(False)
    return off, on


@types.coroutine
def give_way():
    yield


def plain(text):
    """Return a text without addresses and the numbers of tasks."""
    return re.sub(r"0x[0-9a-f]+|Task-\d+", "N", text)


def describe(exc):
    """Return what an exception and those in its context are."""
    chain = []
    while exc is not None and len(chain) < 5:
        chain.append((type(exc).__name__, str(exc)))
        exc = exc.__context__
    return chain


def awaited_by(future):
    """Return how many tasks await a future, where asyncio keeps that."""
    return len(getattr(future, "_asyncio_awaited_by", None) or ())


def use_eager_tasks(loop, eager):
    """Have the loop make eager tasks, if told to, or skip the test before 3.12."""
    if eager and sys.version_info < (3, 12):
        pytest.skip("eager tasks came in 3.12")
    if eager:
        loop.set_task_factory(asyncio.eager_task_factory)
