import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

from typing_extensions import TypeVarTuple, Unpack

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)
_Ts = TypeVarTuple("_Ts")
_Context = contextvars.Context

def libev_version() -> str: ...

class Future(asyncio.Future[_T]): ...
class Task(asyncio.Task[_T_co]): ...
class Handle(asyncio.Handle): ...
class TimerHandle(asyncio.TimerHandle): ...

class EventLoop:
    """What the C type itself defines. ``aioloop.Loop`` inherits the rest."""

    slow_callback_duration: float

    # Life cycle.
    def run_forever(self) -> None: ...
    def stop(self) -> None: ...
    def is_running(self) -> bool: ...
    def is_closed(self) -> bool: ...
    def get_debug(self) -> bool: ...
    def time(self) -> float: ...

    # Callbacks.
    def call_soon(
        self,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: _Context | None = None,
    ) -> Handle: ...
    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: _Context | None = None,
    ) -> Handle: ...
    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: _Context | None = None,
    ) -> TimerHandle: ...
    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: _Context | None = None,
    ) -> TimerHandle: ...

    # Futures and tasks.
    def create_future(self) -> Future[Any]: ...
    def create_task(
        self, coro: Coroutine[Any, Any, _T] | Generator[Any, None, _T], **kwargs: Any
    ) -> Task[_T]: ...

    # For aioloop.Loop.
    def _close_selector(self) -> None: ...
    def _enter_signals(self) -> None: ...
    def _wakeup_fileno(self) -> int: ...
