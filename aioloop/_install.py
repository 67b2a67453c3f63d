"""install() and uninstall(): make every loop that asyncio creates an aioloop loop.

While asyncio has policies, all of its ways to a new loop end in the current policy,
so the policy is what is replaced. Python 3.14 and later warn in the public
set_event_loop_policy(), but not in the function under it, which asyncio uses itself.
An asyncio without policies has new_event_loop() as the one place that asyncio.run(),
asyncio.Runner and everybody else calls, so there that name is rebound.
asyncio.EventLoop (3.13 and later), the name of the platform's most efficient loop
class, is rebound in both cases.
"""

from __future__ import annotations

import asyncio
import os
from asyncio import events
from typing import TYPE_CHECKING

from . import _accelerate, _as_uvloop
from ._loop import Loop, new_event_loop

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Attribute:
    """A name of a module that can be rebound and restored."""

    def __init__(self, owner: Any, name: str) -> None:
        self._owner = owner
        self._name = name

    def exists(self) -> bool:
        return self._name in vars(self._owner)

    def get(self) -> Any:
        return getattr(self._owner, self._name)

    def set(self, value: Any) -> None:
        setattr(self._owner, self._name, value)


class _Policy:
    """The current event loop policy, read without creating the default one."""

    def exists(self) -> bool:
        return policies_exist()

    def get(self) -> Any:
        return vars(events)["_event_loop_policy"]

    def set(self, value: Any) -> None:
        names = vars(events)
        setter: Callable[[Any], None]
        if "_set_event_loop_policy" in names:
            setter = names["_set_event_loop_policy"]
        else:
            setter = names["set_event_loop_policy"]
        setter(value)


_policy = _Policy()
_event_loop_class = Attribute(asyncio, "EventLoop")
_new_event_loop = (
    Attribute(asyncio, "new_event_loop"),
    Attribute(events, "new_event_loop"),
)

# What install() replaced: the slot, what was there, and what it put there.
_replaced: list[tuple[Attribute | _Policy, Any, Any]] = []
# Whether it was install() that turned the switch of accelerate() on.
_accelerated = False


def policies_exist() -> bool:
    """Tell whether asyncio of the running Python has event loop policies."""
    names = vars(events)
    return "_AbstractEventLoopPolicy" in names or "AbstractEventLoopPolicy" in names


def replace(slot: Attribute | _Policy, value: Any) -> None:
    """Put a value into a slot for as long as install() is in force."""
    _replaced.append((slot, slot.get(), value))
    slot.set(value)


def install_with(make_policy: Callable[[], Any]) -> None:
    """Do what install() does, with a policy of the caller's choice."""
    _put_back()
    if _policy.exists():
        replace(_policy, make_policy())
    else:
        for slot in _new_event_loop:
            replace(slot, new_event_loop)
    if _event_loop_class.exists():
        replace(_event_loop_class, Loop)


def _make_policy() -> Any:
    from ._policy import EventLoopPolicy

    return EventLoopPolicy()


def _in_force() -> bool:
    return bool(_replaced) and all(slot.get() is ours for slot, _, ours in _replaced)


def install(*, as_uvloop: bool | None = None, accelerate: bool | None = None) -> None:
    """Make aioloop the loop of asyncio.run, asyncio.Runner and new_event_loop().

    It works on every version of Python, with policies or without, and never warns.
    On Python 3.13 and later ``asyncio.EventLoop`` becomes ``aioloop.Loop`` too.

    ``as_uvloop=True`` also makes ``import uvloop`` find aioloop, with uvloop's public
    names, whether uvloop is there or not: for programs that say ``uvloop.install()`` or
    ``--loop uvloop``. None does that if the environment has ``AIOLOOP_AS_UVLOOP=1``.

    ``accelerate=True`` also calls ``aioloop.accelerate()``, which puts C in the place
    of asyncio's queues, locks and ``sleep``. None does that if the environment has
    ``AIOLOOP_ACCELERATE=1``.

    It is a switch and not a counter: a second call changes nothing, and one
    uninstall() undoes any number of calls. Call it before the first loop is made;
    loops that exist already are left alone, and a loop that set_event_loop() made
    current belongs to the policy that was current at that time.
    """
    if not _in_force():
        install_with(_make_policy)
    if as_uvloop:
        _as_uvloop.stand_in()
    elif as_uvloop is None:
        stand_in_by_environment()
    accelerate_as(accelerate)


def stand_in_by_environment() -> None:
    """Do what ``as_uvloop`` does if AIOLOOP_AS_UVLOOP says so."""
    if os.environ.get("AIOLOOP_AS_UVLOOP", "0") not in ("", "0"):
        _as_uvloop.stand_in()


def accelerate_as(wanted: bool | None) -> None:
    """Do what ``install(accelerate=wanted)`` does."""
    global _accelerated
    if _accelerate.accelerate_for_install(wanted):
        _accelerated = True


def uninstall() -> None:
    """Put back exactly what install() replaced.

    What somebody else has set in the meantime, such as another policy, stays.
    Without an install() in force nothing happens.
    """
    _as_uvloop.step_back()
    global _accelerated
    if _accelerated:
        _accelerate.accelerate(False)
        _accelerated = False
    _put_back()


def _put_back() -> None:
    while _replaced:
        slot, previous, ours = _replaced.pop()
        if slot.get() is ours:
            slot.set(previous)
