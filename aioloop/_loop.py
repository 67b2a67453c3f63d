"""The event loop class: the C scheduler in front of asyncio's selector loop."""

from __future__ import annotations

import asyncio
import selectors
import sys
from asyncio import events
from collections.abc import Mapping
from threading import get_ident
from typing import TYPE_CHECKING

from . import _core

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

    from _typeshed import FileDescriptorLike


class WatchedFiles(Mapping):
    """What the loop watches, in the form of ``selectors.BaseSelector.get_map()``."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def __getitem__(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        handles = self._loop._watched(fileobj)
        if handles is None:
            raise KeyError(fileobj)
        reader, writer = handles
        events = (selectors.EVENT_READ if reader is not None else 0) | (
            selectors.EVENT_WRITE if writer is not None else 0
        )
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        return selectors.SelectorKey(fileobj, fd, events, handles)

    def __iter__(self) -> Iterator[int]:
        return iter(self._loop._watched_fds())

    def __len__(self) -> int:
        return len(self._loop._watched_fds())


class LibevSelector(selectors.BaseSelector):
    """The loop's selector as asyncio's code sees it: to look at and to close.

    The C type owns the libev selector and fills it through add_reader and
    add_writer. asyncio reads the class name for its "Using selector" message.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop: Loop | None = loop

    def _refuse(self, *args: object) -> NoReturn:
        raise RuntimeError(
            "the selector of an aioloop loop takes its files from add_reader() and"
            " add_writer()"
        )

    register = unregister = modify = select = _refuse

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey] | None:
        """Return the watched files, or None once the loop is closed."""
        return None if self._loop is None else WatchedFiles(self._loop)

    def close(self) -> None:
        """Close the libev selector of the loop: the last step of loop.close()."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop._close_selector()


class WakeupEnd:
    """The end of the loop's wake-up pipe that asyncio gives to set_wakeup_fd."""

    def __init__(self, fileno: int) -> None:
        self._fileno = fileno

    def fileno(self) -> int:
        return self._fileno


class Loop(_core.EventLoop, asyncio.SelectorEventLoop):
    """An asyncio event loop whose hot paths are in C on libev.

    The methods of the C type win over those of asyncio's selector loop, which
    supplies what runs once per loop or once per connection.
    """

    def __init__(self) -> None:
        super().__init__(LibevSelector(self))  # type: ignore[call-arg]

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

    if sys.version_info < (3, 13):
        # The two halves that BaseEventLoop.run_forever consists of; later versions
        # have them as methods.

        def _run_forever_setup(self) -> None:
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

        def _run_forever_cleanup(self) -> None:
            self._stopping = False
            self._thread_id = None
            events._set_running_loop(None)
            self._set_coroutine_origin_tracking(False)
            if self._old_agen_hooks is not None:
                sys.set_asyncgen_hooks(*self._old_agen_hooks)
                self._old_agen_hooks = None


def new_event_loop() -> Loop:
    """Return a new event loop. It is not made the current one."""
    return Loop()
