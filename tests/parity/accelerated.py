"""What the tests of aioloop.accelerate() share: programs run with it off and on."""

import asyncio
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
