"""Questions to a loop that another thread runs, answered inside the loop.

With a GIL whoever has it may look at a loop: nothing moves meanwhile. Without one only
the loop's own thread may.
"""

from __future__ import annotations

import sysconfig
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from ._loop import Loop

    T = TypeVar("T")

_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def must_be_asked(loop: Loop) -> bool:
    """Whether another thread runs the loop, and no GIL keeps it still."""
    return _FREE_THREADED and loop._thread_id not in (None, threading.get_ident())


def ask(loop: Loop, question: Callable[[], T], patience: float) -> T:
    """Call a function in the loop's thread and return what it returns, or raises.

    TimeoutError is raised if the loop does not begin within ``patience`` seconds; then
    it does not call the function later either. RuntimeError is raised if the loop is
    closed, or an exit such as KeyboardInterrupt, which leaves the loop, comes between.
    """
    claim = threading.Lock()
    answered = threading.Event()
    answers: list[T] = []
    errors: list[Exception] = []

    def answer() -> None:
        if claim.acquire(blocking=False):
            try:
                answers.append(question())
            except Exception as error:
                errors.append(error)
            finally:
                answered.set()

    loop.call_soon_threadsafe(answer)
    if not answered.wait(patience) and claim.acquire(blocking=False):
        raise TimeoutError(f"the loop has not answered for {patience} s")
    answered.wait()
    if errors:
        raise errors[0]
    if not answers:
        raise RuntimeError("the loop was interrupted before it had answered")
    return answers[0]
