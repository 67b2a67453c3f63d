"""Signals that a thread answers, whatever the main thread does: src/diag/knock.h."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from . import _core

if TYPE_CHECKING:
    from collections.abc import Callable


class _Listener:
    """The thread that signals wake."""

    def __init__(self) -> None:
        self.answers: dict[int, list[Callable[[], None]]] = {}
        self.writer = -1

    def add(self, number: int, answer: Callable[[], None]) -> None:
        first = self.writer < 0
        if first:
            self.start(number)
            os.register_at_fork(after_in_child=self.start)
        else:
            _core._knock(number, self.writer)
        answers = self.answers.setdefault(number, [])
        if answer not in answers:
            answers.append(answer)

    def start(self, *numbers: int) -> None:
        """Begin to listen, in a new process or for the first time."""
        reader, writer = os.pipe()
        try:
            os.set_blocking(writer, False)
            for number in numbers or self.answers:
                _core._knock(number, writer)
            threading.Thread(
                target=self._serve, args=(reader,), name="aioloop-dump", daemon=True
            ).start()
        except BaseException:
            os.close(reader)
            os.close(writer)
            raise
        self.writer = writer

    def _serve(self, reader: int) -> None:
        while numbers := os.read(reader, 64):
            for number in sorted(set(numbers)):
                for answer in list(self.answers.get(number, ())):
                    answer()


_listener: _Listener | None = None


def listen(signum: int, answer: Callable[[], None]) -> None:
    """Call a function, in a thread, whenever the process gets the signal.

    The signal belongs to it from now on; signal.signal() takes it back. In the child of
    a fork it works as well.
    """
    global _listener
    listener = _listener or _Listener()
    listener.add(signum, answer)
    _listener = listener
