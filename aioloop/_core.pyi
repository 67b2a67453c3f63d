import asyncio
import contextvars
import sys
from collections.abc import Callable, Coroutine, Generator
from socket import AddressFamily, SocketKind, _Address, _RetAddress, socket
from typing import Any, TypeVar, final

from _typeshed import ReadableBuffer, WriteableBuffer
from typing_extensions import TypeVarTuple, Unpack, disjoint_base

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)
_Ts = TypeVarTuple("_Ts")
_Context = contextvars.Context

def libev_version() -> str: ...
def _watch(selector: type, watched: type, /) -> None: ...
def _set_stall_report(
    report: Callable[[EventLoop, dict[str, Any]], bool], /
) -> None: ...
def _set_stall_threshold(loop: EventLoop, seconds: float, /) -> None: ...
def _stall_threshold(loop: EventLoop, /) -> float: ...
def _stall_counts(loop: EventLoop, /) -> tuple[int, float]: ...
def _call_at_bottom(function: Callable[..., object], /, *args: object) -> object: ...
def _watch_blocking(
    loop: EventLoop,
    report: Callable[[EventLoop, str, tuple[Any, ...], tuple[Any, ...]], object] | None,
    allowed: contextvars.ContextVar[bool],
    remember: bool,
    /,
) -> None: ...
def _misuse(loop: EventLoop | None, /) -> dict[str, int]: ...
def _on_misuse(
    found: Callable[[Any, str, Any, Any], object],
    /,
) -> None: ...
def _watch_unawaited() -> None: ...
def _warn_unawaited_coroutine(coro: object, /) -> object: ...
def _blocking_events() -> tuple[str, ...]: ...

@disjoint_base
class Future(asyncio.Future[_T]): ...

@disjoint_base
class Task(asyncio.Task[_T_co]): ...

@final
class Handle(asyncio.Handle):
    def __new__(
        cls,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: _Context | None = None,
    ) -> Handle: ...

@final
class TimerHandle(asyncio.TimerHandle):
    def __new__(
        cls,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: _Context | None = None,
    ) -> TimerHandle: ...

@final
class SocketTransport(asyncio.Transport):
    """The transport of TCP and Unix sockets. The loop makes it."""

    max_size: int

@disjoint_base
class EventLoop:
    """What the C type itself defines. ``aioloop.Loop`` inherits the rest."""

    slow_callback_duration: float
    cork_writes: bool
    metering: bool

    # Life cycle.
    def run_forever(self) -> None: ...
    def stop(self) -> None: ...
    def is_running(self) -> bool: ...
    def is_closed(self) -> bool: ...
    def get_debug(self) -> bool: ...
    def get_task_factory(self) -> Any: ...
    def set_debug(self, enabled: bool) -> None: ...
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
    if sys.version_info >= (3, 14):
        def create_task(
            self,
            coro: Coroutine[Any, Any, _T] | Generator[Any, None, _T],
            **kwargs: Any,
        ) -> Task[_T]: ...
    else:
        def create_task(
            self,
            coro: Coroutine[Any, Any, _T] | Generator[Any, None, _T],
            *,
            name: object = None,
            context: _Context | None = None,
        ) -> Task[_T]: ...

    # Sockets.
    async def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[
        tuple[
            AddressFamily,
            SocketKind,
            int,
            str,
            tuple[str, int] | tuple[str, int, int, int],
        ]
    ]: ...
    async def sock_recv(self, sock: socket, n: int) -> bytes: ...
    async def sock_recv_into(self, sock: socket, buf: WriteableBuffer) -> int: ...
    async def sock_recvfrom(
        self, sock: socket, bufsize: int
    ) -> tuple[bytes, _RetAddress]: ...
    async def sock_recvfrom_into(
        self, sock: socket, buf: WriteableBuffer, nbytes: int = 0
    ) -> tuple[int, _RetAddress]: ...
    async def sock_sendall(self, sock: socket, data: ReadableBuffer) -> None: ...
    async def sock_sendto(
        self, sock: socket, data: ReadableBuffer, address: _Address
    ) -> int: ...
    async def sock_connect(self, sock: socket, address: _Address) -> None: ...
    async def sock_accept(self, sock: socket) -> tuple[socket, _RetAddress]: ...

    # For aioloop.Loop.
    def _get_debug_switches(self) -> tuple[int, int, int]: ...
    def _set_debug_switches(
        self, switches: int, depth: int, interval: int, /
    ) -> None: ...
    def _accepting(self) -> list[SocketTransport]: ...
    def _read_metrics(self) -> dict[str, Any]: ...
    def _read_usage(self) -> list[tuple[Any, ...]]: ...
    def _usage_window(self, open: bool, /) -> None: ...
    def _read_records(self) -> list[tuple[int, int, int, int, int]]: ...
    def _read_timeline(self) -> list[tuple[int, int, int, int]]: ...
    def _close_selector(self) -> None: ...
    def _enter_signals(self) -> None: ...
    def _wakeup_fileno(self) -> int: ...
    def _run_once(self) -> None: ...
    def _select(self, timeout: float | None, /) -> list[tuple[int, int]]: ...
    def _look_again(self) -> None: ...
    def _watch(
        self, fileobj: object, event: int, handle: asyncio.Handle | None, /
    ) -> None: ...
    def _watched(
        self, fileobj: object, /
    ) -> tuple[object, int, object, object] | None: ...
    def _watched_fds(self) -> list[int]: ...
