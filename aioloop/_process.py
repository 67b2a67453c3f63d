"""Children of the loop: how their end is noticed, and that it follows their output."""

from __future__ import annotations

import os
import sys
from asyncio.log import logger
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio.base_subprocess import BaseSubprocessTransport
    from collections.abc import Callable, Iterator
    from typing import Any

    from ._loop import Loop

    Call = tuple[Callable[..., None], tuple[Any, ...]]


def deliver_output(transport: BaseSubprocessTransport) -> None:
    """Give the protocol what the process's pipes hold."""
    for end in list(transport._pipes.values()):
        pipe = None if end is None else end.pipe
        read = getattr(pipe, "_read_waiting", None)  # of the loop's own, if it reads
        if read is not None:
            read()


class CallsAfterExit(deque):
    """Calls that wait until the pipes are connected, of a process that has ended."""

    def __init__(self, transport: BaseSubprocessTransport, exited: int) -> None:
        super().__init__(transport._pending_calls)
        self._transport = transport
        self._exited = exited  # the place of process_exited()

    def append(self, call: Call) -> None:
        """Add a call; one that hands over output goes before process_exited()."""
        _, arguments = call
        if len(arguments) == 2 and isinstance(arguments[1], bytes):
            self.insert(self._exited, call)
            self._exited += 1
        else:
            super().append(call)

    def __iter__(self) -> Iterator[Call]:
        """Iterate, for the transport whose pipes are connected now."""
        deliver_output(self._transport)
        return super().__iter__()


class Exiting:
    """Stands before a process's transport when the process has ended.

    asyncio calls process_exited() at once, which may be before the pipe_data_received()
    of what the process has written.
    """

    def __init__(self, transport: BaseSubprocessTransport) -> None:
        self._transport = transport

    def _process_exited(self, returncode: int) -> None:
        transport = self._transport
        calls = transport._pending_calls
        if calls is None:
            try:
                deliver_output(transport)
            finally:
                transport._process_exited(returncode)
        else:
            exited = len(calls)
            transport._process_exited(returncode)
            transport._pending_calls = CallsAfterExit(transport, exited)


if sys.version_info < (3, 12):

    def can_use_pidfd() -> bool:
        """Say whether the system has process descriptors and lets us use them."""
        try:
            os.close(os.pidfd_open(os.getpid()))
        except (AttributeError, OSError):
            return False
        return True

    class PidfdWatcher:
        """Waits for a child through the loop's own selector: no thread, no signal."""

        def __init__(self, loop: Loop) -> None:
            self._loop = loop

        def add_child_handler(self, pid: int, callback: Callable[[int], None]) -> None:
            """Call ``callback(return code)`` in the loop when the child ends."""
            pidfd = os.pidfd_open(pid)
            self._loop._add_reader(pidfd, self._reap, pid, pidfd, callback)

        def _reap(self, pid: int, pidfd: int, callback: Callable[[int], None]) -> None:
            self._loop._remove_reader(pidfd)
            os.close(pidfd)
            try:
                _, status = os.waitpid(pid, 0)
            except ChildProcessError:
                # Somebody else has reaped it.
                returncode = 255
                logger.warning(
                    "child process pid %d exit status already read: "
                    " will report returncode 255",
                    pid,
                )
            else:
                returncode = os.waitstatus_to_exitcode(status)
            callback(returncode)
