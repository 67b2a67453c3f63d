"""accelerate(): asyncio's primitives in C, on every loop."""

from __future__ import annotations

import os

from ._core import _accelerate


def accelerate(on: bool = True, /) -> None:
    """Put C in the place of asyncio's primitives; False puts asyncio's own back.

    In C are then the methods of ``asyncio.Queue``, ``LifoQueue`` and ``PriorityQueue``,
    ``Lock``, ``Semaphore`` and ``BoundedSemaphore`` that take time, ``asyncio.sleep``,
    ``gather``, ``wait`` and ``shield``, what ``asyncio.TaskGroup`` does for each task,
    and ``async with`` and ``notify`` of a ``Condition``. The classes stay asyncio's and
    objects keep their state, so it does not matter whether an object is older than the
    switch, nor which loop runs. A subclass, an object with a replaced method and debug
    mode go on with asyncio's code.

    On free-threaded Pythons nothing is replaced. A module that has said
    ``from asyncio import sleep`` before keeps asyncio's.

    It is a switch and not a counter. What somebody else has put in the place of one of
    asyncio's functions before stays there, and is not passed by; what somebody has put
    in the place of one of ours stays when the switch is turned back.
    """
    _accelerate(on)


def accelerate_for_install(wanted: bool | None) -> bool:
    """Turn the switch on if it is wanted, None: if AIOLOOP_ACCELERATE says so.

    Return whether it was off before.
    """
    if wanted is None:
        wanted = os.environ.get("AIOLOOP_ACCELERATE", "0") not in ("", "0")
    return wanted and not _accelerate(True)
