"""Signals that a thread answers, whatever the main thread does: src/diag/knock.h."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

from . import _core

if TYPE_CHECKING:
    from collections.abc import Callable


class _Listener:
    """The thread that signals wake."""

    def __init__(self) -> None:
        self.answers: dict[int, list[Callable[[], None]]] = {}
        self.reader = self.writer = -1
        self.listens = False

    def add(self, number: int, answer: Callable[[], None]) -> None:
        answers = self.answers.get(number, [])
        opened = self.writer < 0
        if opened:
            self.open()
        try:
            _core._knock(number, self.writer)
        except BaseException:
            if opened:
                self.close()
            raise
        if answer not in answers:
            answers.append(answer)
        self.answers[number] = answers
        # Where there can be no thread the pipe stays, since the signal writes into it.
        if not self.listens:
            self.listen()

    def open(self) -> None:
        self.reader, self.writer = os.pipe()
        try:
            os.set_blocking(self.writer, False)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close a pipe that no signal knows."""
        os.close(self.reader)
        os.close(self.writer)
        self.reader = self.writer = -1

    def listen(self) -> None:
        threading.Thread(target=self._serve, name="aioloop-dump", daemon=True).start()
        self.listens = True

    def listen_in_child(self) -> None:
        """Begin again in the child of a fork, with a pipe of its own."""
        self.listens = False
        self.open()
        for number in self.answers:
            _core._knock(number, self.writer)
        self.listen()

    def _serve(self) -> None:
        while numbers := os.read(self.reader, 64):
            for number in sorted(set(numbers)):
                for answer in list(self.answers.get(number, ())):
                    _try(answer)


def _try(answer: Callable[[], None]) -> None:
    """Call one; where it fails, a file may be closed, the next signal is heard."""
    try:
        answer()
    except Exception:
        threading.excepthook(
            threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread()))
        )


def _in_child() -> None:
    if _listener is not None and _listener.writer >= 0:
        _listener.listen_in_child()


_listener: _Listener | None = None
os.register_at_fork(after_in_child=_in_child)


def listen(signum: int, answer: Callable[[], None]) -> None:
    """Call a function, in a thread, whenever the process gets the signal.

    The signal belongs to it from now on; signal.signal() takes it back. In the child of
    a fork it works as well.
    """
    global _listener
    _listener = _listener or _Listener()
    _listener.add(signum, answer)
