"""aioloop under the name and with the public names of uvloop 0.23.

``aioloop.install(as_uvloop=True)`` makes ``import uvloop`` find this package. A program
is not to notice: ``Loop`` is aioloop's, ``__version__`` is that of the uvloop whose
names are here. What depends on libuv (``uvloop.loop.libuv_get_loop_t_ptr``) is missing.
"""

from __future__ import annotations

import asyncio as _asyncio
from typing import TYPE_CHECKING

import aioloop as _aioloop
from aioloop import Loop, new_event_loop

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any, TypeVar

    _T = TypeVar("_T")

__all__ = ["install", "new_event_loop", "run"]
if _aioloop.policies_exist():
    __all__ += ["EventLoopPolicy"]


def run(
    main: Awaitable[_T],
    *,
    loop_factory: Callable[[], Loop] | None = new_event_loop,
    debug: bool | None = None,
) -> _T:
    """Run an awaitable on a new loop and return its result, as uvloop.run() does.

    A ``loop_factory`` whose loop is no aioloop.Loop (None: if asyncio's own choice is
    none) raises TypeError, with uvloop's text.
    """

    async def wrapper() -> _T:
        if not isinstance(_asyncio.get_running_loop(), Loop):
            raise TypeError("uvloop.run() uses a non-uvloop event loop")
        return await main

    return _aioloop.run(wrapper(), loop_factory=loop_factory, debug=debug)


def install() -> None:
    """Make every loop that asyncio creates an aioloop loop, without a warning."""
    _aioloop.install()


def __getattr__(name: str) -> Any:
    if name == "EventLoopPolicy" and name in __all__:
        return _aioloop.EventLoopPolicy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
