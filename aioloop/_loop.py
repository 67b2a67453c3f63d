"""The event loop class: the C scheduler in front of asyncio's selector loop."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import selectors
import sys
import weakref
from asyncio import events, sslproto
from collections.abc import Mapping
from threading import get_ident
from typing import TYPE_CHECKING

from . import _blocking, _core, _leave, _orphans
from ._ask import must_be_asked
from ._debug import DebugOptions
from ._process import Exiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Literal

    from _typeshed import FileDescriptorLike

    from ._metrics import Metrics
    from ._usage import Usage


class WatchedFiles(Mapping):
    """What the loop watches, in the form of ``selectors.BaseSelector.get_map()``."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def __getitem__(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        watched = self._loop._watched(fileobj)
        if watched is None:
            raise KeyError(fileobj)
        registered, fd, reader, writer = watched
        events = (selectors.EVENT_READ if reader is not None else 0) | (
            selectors.EVENT_WRITE if writer is not None else 0
        )
        return selectors.SelectorKey(registered, fd, events, (reader, writer))

    def __iter__(self) -> Iterator[int]:
        return iter(self._loop._watched_fds())

    def __len__(self) -> int:
        return len(self._loop._watched_fds())


class LibevSelector(selectors.BaseSelector):
    """The loop's selector as asyncio's code sees it: to wait, to look at, to close.

    The C type owns the libev selector and fills it through add_reader and
    add_writer. asyncio reads the class name for its "Using selector" message.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop: Loop | None = loop

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        self._look_again(name)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        self._look_again(name)

    def _look_again(self, name: str) -> None:
        """Tell the loop that ``select`` is another one, which it has to obey."""
        if name == "select" and self._loop is not None:
            self._loop._look_again()

    # asyncio's own _add_reader and its like come here when somebody has wrapped them.

    def register(
        self, fileobj: FileDescriptorLike, events: int, data: object = None
    ) -> selectors.SelectorKey:
        """Watch a file for the loop: the data are its reader and its writer."""
        self._check(data)
        if fileobj in self._files():
            raise KeyError(f"{fileobj!r} is already registered")
        self._watch(fileobj, events, data)
        return self._files()[fileobj]._replace(data=data)

    def modify(
        self, fileobj: FileDescriptorLike, events: int, data: object = None
    ) -> selectors.SelectorKey:
        """Change what register() was told."""
        self._check(data)
        if fileobj not in self._files():
            raise KeyError(f"{fileobj!r} is not registered")
        self._watch(fileobj, events, data)
        return self._files()[fileobj]._replace(data=data)

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        """Watch the file no longer."""
        key = self._files()[fileobj]
        self._watch(fileobj, 0, (None, None))
        return key

    def _files(self) -> WatchedFiles:
        if self._loop is None:
            raise RuntimeError("Event loop is closed")
        return WatchedFiles(self._loop)

    def _check(self, data: object) -> None:
        if not isinstance(data, tuple) or not all(
            handle is None or isinstance(handle, (asyncio.Handle, _core._Handle))
            for handle in data
        ):
            raise RuntimeError(
                "the selector of an aioloop loop takes its files from add_reader() and"
                " add_writer()"
            )

    def _watch(self, fileobj: FileDescriptorLike, events: int, data: Any) -> None:
        for event, handle in zip(
            (selectors.EVENT_READ, selectors.EVENT_WRITE), data, strict=True
        ):
            wanted = handle if events & event else None
            if wanted is not None and not isinstance(wanted, _core._Handle):
                wanted = _core._Handle(
                    self._run_foreign, (fileobj, event, wanted), self._loop
                )
            self._loop._watch(fileobj, event, wanted)

    def _run_foreign(
        self, fileobj: FileDescriptorLike, event: int, handle: asyncio.Handle
    ) -> None:
        """Run a Handle that asyncio's own function has made."""
        if not handle.cancelled():
            handle._run()
        elif self._loop is not None:
            self._loop._watch(fileobj, event, None)

    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait, for a program that has an iteration of its own, such as nest_asyncio's.

        What the events wake goes to the loop's ``_ready``: the events that are returned
        tell what has happened, and have no handles for ``_process_events()``.
        """
        if self._loop is None:
            raise RuntimeError("Event loop is closed")
        return [
            (selectors.SelectorKey(fd, fd, events, (None, None)), events)
            for fd, events in self._loop._select(timeout)
        ]

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey] | None:
        """Return the watched files, or None once the loop is closed."""
        return None if self._loop is None else WatchedFiles(self._loop)

    def close(self) -> None:
        """Close the libev selector of the loop: the last step of loop.close()."""
        if self._loop is not None:
            # Transports may die in there, and look here for their representation.
            self._loop._close_selector()
            self._loop = None


class _Watched(LibevSelector, asyncio.TimerHandle):  # type: ignore[misc]
    """Nobody's class: CPython renews its version when one of its bases changes."""


_core._watch(LibevSelector, _Watched)


class WakeupEnd:
    """The end of the loop's wake-up pipe that asyncio gives to set_wakeup_fd."""

    def __init__(self, fileno: int) -> None:
        self._fileno = fileno

    def fileno(self) -> int:
        return self._fileno

    def send(self, data: bytes) -> int:
        """Wake the loop, for asyncio's own _write_to_self()."""
        return os.write(self._fileno, data)


if sys.version_info < (3, 12):
    from asyncio import unix_events

    from ._process import PidfdWatcher, can_use_pidfd


async def _accept_connection2() -> None:
    """Do nothing, in asyncio's name."""


class AcceptTask(_core.Task):
    """Stands for a connection that is being accepted: its end is the connection's."""

    def __init__(self, loop: Loop, transport: _core.SocketTransport) -> None:
        super().__init__(_accept_connection2(), loop=loop)
        self._transport = transport

    def cancel(self, msg: object = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled:
            self._transport.close()
        return cancelled


all_loops: dict[int, weakref.ref[Loop]] = {}  # What lives, by id.
on_new_loop: list[Callable[[Loop], None]] = []  # What is called with each new one.


class Loop(_core.EventLoop, asyncio.SelectorEventLoop):
    """An asyncio event loop whose hot paths are in C on libev.

    The methods of the C type win over those of asyncio's selector loop, which
    supplies what runs once per loop or once per connection.
    """

    def __init__(self) -> None:
        super().__init__(LibevSelector(self))  # type: ignore[call-arg]
        self._spawned: set[asyncio.Task[Any]] = set()  # aioloop.spawn()'s
        self._made_in = _orphans.frames_here()
        _core._watch_unawaited()
        self.blocking_calls = _blocking.default_mode()
        if os.environ.get("AIOLOOP_METERING", "0") not in ("", "0"):
            self.metering = True
        if os.environ.get("AIOLOOP_STALL"):
            from . import _stall

            _core._set_stall_threshold(self, _stall.threshold_of_environment())
        if _orphans.wanted_by_environment():
            self.report_orphans = True
            _orphans.remember_places(self)
        key = id(self)
        all_loops[key] = weakref.ref(self, lambda _: all_loops.pop(key, None))
        if os.environ.get("AIOLOOP_REPORT"):
            from . import _report

            _report.start_by_environment()
        for function in on_new_loop:
            function(self)

    _logs_stalls = True

    @property
    def stall_threshold(self) -> float | None:
        """Seconds from which a callback or step of a task counts as stuck.

        While it is, a WARNING on the "asyncio" logger tells where and why: see
        docs/diagnosis.md. None is off, the default; in debug mode (as long as slow
        callbacks are logged) the default is 0.5. It may be set at any moment.
        ValueError is raised for what is not positive.
        """
        return _core._stall_threshold(self) or None

    @stall_threshold.setter
    def stall_threshold(self, seconds: float | None) -> None:
        from . import _stall

        _core._set_stall_threshold(self, _stall.threshold(seconds))
        self._logs_stalls = True

    @property
    def debug_options(self) -> DebugOptions:
        """What the loop does in debug mode; see DebugOptions."""
        options = DebugOptions._from_switches(*self._get_debug_switches())
        return dataclasses.replace(options, blocking_calls=self._blocking_calls)

    @debug_options.setter
    def debug_options(self, options: DebugOptions) -> None:
        if must_be_asked(self):
            self.call_soon_threadsafe(self._set_debug_options, options)
        else:
            self._set_debug_options(options)

    def _set_debug_options(self, options: DebugOptions) -> None:
        self._set_debug_switches(*options._to_switches())
        self.blocking_calls = options.blocking_calls

    @property
    def shutdown_threshold(self) -> float | None:
        """Seconds from which the end of a run counts as one that does not come.

        When leaving asyncio.run() or its like takes longer (tasks that do not end
        though they were cancelled, asynchronous generators, jobs of the default
        executor), or a main task that a signal has cancelled goes on for longer, a
        WARNING on the "asyncio" logger names who is waited for, and once more after ten
        times as long: see docs/diagnosis.md. The default is 2.0; None is off.
        ValueError is raised for what is not positive.
        """
        return self._shutdown_threshold

    @shutdown_threshold.setter
    def shutdown_threshold(self, seconds: float | None) -> None:
        self._shutdown_threshold = _leave.threshold(seconds)

    _seen_asleep: frozenset[Any] = frozenset()  # See _deadlocks.py.
    _shutdown_threshold: float | None = 2.0
    _run_until: asyncio.Future[Any] | None = (
        None  # What run_until_complete() waits for.
    )
    _leaving: _leave.Leaving | None = None

    report_orphans: bool = False
    """Whether each place in which the program loses something (see aioloop.orphans) is
    logged once on the "asyncio" logger."""

    _blocking_calls: Literal["log", "raise"] | None = None

    @property
    def blocking_calls(self) -> Literal["log", "raise"] | None:
        """What happens to calls that block the loop inside its callbacks and tasks.

        None: nothing. "log": a warning on the "asyncio" logger, once for each place of
        the program. "raise": each raises BlockingCallError, as a test may want it.
        ``with aioloop.allow_blocking():`` exempts what is meant to block.
        """
        return self._blocking_calls

    @blocking_calls.setter
    def blocking_calls(self, mode: Literal["log", "raise"] | None) -> None:
        if mode != self._blocking_calls:
            _blocking.watch(self, mode)
            self._blocking_calls = mode

    def metrics(self) -> Metrics:
        """Return a snapshot of the loop's counters, times and histograms.

        It may be called from any thread. ``later - earlier`` is what happened between
        two of them. Times and histograms are measured while ``loop.metering`` is on.
        """
        from ._metrics import read

        return read(self)

    def usage(self) -> Usage:
        """Return who used the loop, by coroutine function and callback, since
        ``loop.metering`` is on: a tuple of aioloop.Use, the greatest use first.

        It may be called from any thread. ``later - earlier`` is what was used between
        two of them.
        """
        from ._usage import read

        return read(self)

    async def top(self, n: int = 10, seconds: float = 1.0) -> Usage:
        """Watch the loop for so many seconds and return the n that used most of it.

        ``loop.metering`` is turned on meanwhile if it is off.
        """
        from ._usage import top

        return await top(self, n, seconds)

    def recent_callbacks(self) -> list[dict[str, Any]]:
        """Return the last 4096 callbacks and steps that ran under ``loop.metering``,
        oldest first: when (on the clock of ``loop.time()``), for how long, and what.
        """
        from ._usage import recent

        return recent(self)

    def chrome_trace(self) -> str:
        """Return the same as JSON that Perfetto and chrome://tracing show."""
        from ._usage import chrome_trace

        return chrome_trace(self)

    def _set_coroutine_origin_tracking(self, enabled: bool) -> None:
        if not enabled and not self._coroutine_origin_tracking_enabled:
            return
        _, depth, interval = self._get_debug_switches()
        # With an interval the C type does it, slot by slot.
        depth = depth if enabled and interval == 1 else 0
        if depth:
            if not self._coroutine_origin_tracking_enabled:
                self._coroutine_origin_tracking_saved_depth = (
                    sys.get_coroutine_origin_tracking_depth()
                )
            sys.set_coroutine_origin_tracking_depth(depth)
        elif self._coroutine_origin_tracking_enabled:
            sys.set_coroutine_origin_tracking_depth(
                self._coroutine_origin_tracking_saved_depth
            )
        self._coroutine_origin_tracking_enabled = bool(depth)

    def _make_self_pipe(self) -> None:
        """Show asyncio's signal code the C type's own wake-up pipe."""
        self._ssock = self._csock = WakeupEnd(self._wakeup_fileno())
        self._internal_fds += 1

    def _close_self_pipe(self) -> None:
        """Take part in close(): the pipe itself closes with the selector."""
        self._ssock = self._csock = None
        self._internal_fds -= 1

    def remove_signal_handler(self, sig: int) -> bool:
        removed = super().remove_signal_handler(sig)
        if removed and self.is_running():
            # asyncio resets the wake-up descriptor with the last handler.
            self._enter_signals()
        return removed

    remove_signal_handler.__doc__ = (
        asyncio.SelectorEventLoop.remove_signal_handler.__doc__
    )

    def _make_ssl_transport(
        self,
        rawsock,
        protocol,
        sslcontext,
        waiter=None,
        *,
        extra=None,
        server=None,
        server_side=False,
        server_hostname=None,
        context=None,
        **timeouts,
    ):
        """Put asyncio's TLS protocol on the loop's own socket transport."""
        if sys.version_info >= (3, 12):
            self._ensure_fd_no_transport(rawsock)
        ssl_protocol = sslproto.SSLProtocol(
            self, protocol, sslcontext, waiter, server_side, server_hostname, **timeouts
        )
        given = {} if context is None else {"context": context}
        self._make_socket_transport(
            rawsock, ssl_protocol, extra=extra, server=server, **given
        )
        return ssl_protocol._app_transport

    async def _sendfile_native(self, transp, file, offset, count):
        """Send a file through a transport's socket by sendfile(2)."""
        if not isinstance(transp, _core.SocketTransport):
            return await super()._sendfile_native(transp, file, offset, count)
        transp._lend(True)
        resume_reading = transp.is_reading()
        transp.pause_reading()
        try:
            await transp._make_empty_waiter()
            return await self.sock_sendfile(
                transp._sock, file, offset, count, fallback=False
            )
        finally:
            transp._reset_empty_waiter()
            transp._lend(False)
            if resume_reading:
                transp.resume_reading()

    def _accept_tasks(self) -> list[AcceptTask]:
        """Return new tasks for the connections that are being accepted.

        asyncio has one for each, and who cancels it closes the connection. Here they
        are made when asyncio.all_tasks() is called, and do nothing else.
        """
        return [AcceptTask(self, transport) for transport in self._accepting()]

    def _child_watcher_callback(self, pid, returncode, transp):
        super()._child_watcher_callback(pid, returncode, Exiting(transp))

    if sys.version_info < (3, 12):
        # Later versions watch children by process descriptors themselves. A watcher
        # that the program has chosen is used as it is.

        async def _make_subprocess_transport(self, protocol, *args, **kwargs):
            watcher = events.get_child_watcher()
            if type(watcher) is asyncio.ThreadedChildWatcher and can_use_pidfd():
                waiter = self.create_future()
                transport = unix_events._UnixSubprocessTransport(
                    self, protocol, *args, waiter=waiter, **kwargs
                )
                pid = transport.get_pid()
                try:
                    PidfdWatcher(self).add_child_handler(
                        pid, Exiting(transport)._process_exited
                    )
                except OSError:  # No descriptor is left for it.
                    watcher.add_child_handler(
                        pid, self._child_watcher_callback, transport
                    )
                try:
                    await waiter
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException:
                    transport.close()
                    await transport._wait()
                    raise
                return transport
            return await super()._make_subprocess_transport(protocol, *args, **kwargs)

    # The two halves that BaseEventLoop.run_forever consists of; from 3.13 on it has
    # them as methods.

    def _run_forever_setup(self) -> None:
        if sys.version_info >= (3, 13):
            super()._run_forever_setup()
        else:
            self._check_closed()
            self._check_running()
            self._set_coroutine_origin_tracking(self._debug)
            self._old_agen_hooks = sys.get_asyncgen_hooks()
            self._thread_id = get_ident()
            sys.set_asyncgen_hooks(
                firstiter=self._asyncgen_firstiter_hook,
                finalizer=self._asyncgen_finalizer_hook,
            )
            events._set_running_loop(self)
        _leave.run_begins(self, sys._getframe().f_back)

    def _run_forever_cleanup(self) -> None:
        _leave.run_ends(self)
        if sys.version_info >= (3, 13):
            super()._run_forever_cleanup()
        else:
            self._stopping = False
            self._thread_id = None
            events._set_running_loop(None)
            self._set_coroutine_origin_tracking(False)
            if self._old_agen_hooks is not None:
                sys.set_asyncgen_hooks(*self._old_agen_hooks)
                self._old_agen_hooks = None

    def _handle_signal(self, sig: int) -> None:
        super()._handle_signal(sig)
        _leave.signal_came(self, sig)


def new_event_loop() -> Loop:
    """Return a new event loop. It is not made the current one."""
    return Loop()
