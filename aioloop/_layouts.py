"""What C leaves to asyncio in this Python, because it does not know its insides.

src/base/layout.h tells of the whole. C compares structs itself; here are the attributes
of asyncio's instances that it reads and writes.
"""

from __future__ import annotations

import asyncio
import platform
import sys
import warnings
from collections import deque
from types import SimpleNamespace
from typing import TYPE_CHECKING
from weakref import ref

from . import _core

if TYPE_CHECKING:
    from typing import Any


class _Loop:
    """What objects that are never used ask of a loop."""

    def get_debug(self) -> bool:
        return False

    def create_future(self) -> Any:
        return SimpleNamespace(done=lambda: False)


class _Context:
    """What one asks of an SSLContext."""

    def wrap_bio(self, *arguments: object, **keywords: object) -> None:
        return None


def _has(instance: object, attributes: dict[str, object]) -> bool:
    """Say whether the instance has them: a class stands for an instance of its."""
    there = vars(instance)
    return all(
        name in there
        and (
            type(there[name]) is value
            if isinstance(value, type)
            else there[name] is value
        )
        for name, value in attributes.items()
    )


def _stream_reader_is_known() -> bool:
    loop: Any = _Loop()
    reader = asyncio.StreamReader(limit=1, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, None, loop=loop)
    known = _has(
        reader,
        {
            "_limit": int,
            "_loop": loop,
            "_buffer": bytearray,
            "_eof": False,
            "_waiter": None,
            "_exception": None,
            "_transport": None,
            "_paused": False,
        },
    )
    return (
        known and len(vars(reader)) == 8 and _has(protocol, {"_stream_reader_wr": ref})
    )


def _ssl_protocol_is_known() -> bool:
    from asyncio import sslproto

    if sslproto.ssl is None:
        return True  # This Python was built without it.
    loop: Any = _Loop()
    context: Any = _Context()
    above = asyncio.Protocol()
    protocol = sslproto.SSLProtocol(loop, above, context, None)  # type: ignore[arg-type]
    transport = protocol._get_app_transport()
    transport._closed = True  # It would warn of being lost.
    return (
        transport._ssl_protocol is protocol
        and isinstance(sslproto.SSLAgainErrors, tuple)
        and _has(
            protocol,
            {
                "_app_protocol": above,
                "_app_protocol_is_buffer": False,
                "_app_reading_paused": False,
                "_app_state": sslproto.AppProtocolState.STATE_INIT,
                "_app_transport": transport,
                "_app_writing_paused": False,
                "_incoming": sslproto.ssl.MemoryBIO,
                "_incoming_high_water": int,
                "_loop": loop,
                "_outgoing": sslproto.ssl.MemoryBIO,
                "_outgoing_high_water": int,
                "_ssl_buffer": bytearray,
                "_ssl_buffer_view": memoryview,
                "_ssl_reading_paused": False,
                "_ssl_writing_paused": False,
                "_sslobj": None,
                "_state": sslproto.SSLProtocolState.UNWRAPPED,
                "_transport": None,
                "_write_backlog": deque,
                "_write_buffer_size": int,
            },
        )
    )


def _primitives_are_known() -> bool:
    queue = {
        "_maxsize": int,
        "_getters": deque,
        "_putters": deque,
        "_unfinished_tasks": int,
        "_finished": asyncio.Event,
    }
    if sys.version_info >= (3, 13):
        queue["_is_shutdown"] = False
    semaphore = {"_waiters": None, "_value": int}
    return (
        _has(asyncio.Lock(), {"_waiters": None, "_locked": False})
        and _has(asyncio.Event(), {"_waiters": deque, "_value": False})
        and _has(asyncio.Semaphore(), semaphore)
        and _has(asyncio.BoundedSemaphore(), {**semaphore, "_bound_value": int})
        and _has(asyncio.Queue(), {**queue, "_queue": deque})
        and _has(asyncio.PriorityQueue(), {**queue, "_queue": list})
        and _has(asyncio.LifoQueue(), {**queue, "_queue": list})
    )


def _look() -> None:
    for name, is_known in (
        ("stream_reader", _stream_reader_is_known),
        ("ssl_protocol", _ssl_protocol_is_known),
        ("primitives", _primitives_are_known),
    ):
        try:
            known = is_known()
        except (AttributeError, TypeError):  # Made, or named, in another way.
            known = False
        _core._layout_off(name, 0, known)


def _warn() -> None:
    warnings.warn(
        f"aioloop does not know the insides of {', '.join(OFF)} in Python"
        f" {platform.python_version()}: asyncio's own code runs there, which is slower."
        " A newer aioloop may know them",
        RuntimeWarning,
        stacklevel=4,
    )


_look()
OFF: tuple[str, ...] = tuple(_core._layouts_off())
if OFF:
    _warn()
