"""A fast asyncio event loop in C on libev.

An asyncio program comes to this loop in one of five ways:

1. ``aioloop.run(main())`` instead of ``asyncio.run(main())``.
2. ``asyncio.run(main(), loop_factory=aioloop.new_event_loop)``, or
   ``asyncio.Runner(loop_factory=...)``, or any server that takes a loop factory,
   such as ``uvicorn --loop aioloop:new_event_loop``.
3. ``aioloop.install()`` once at the start; every loop that asyncio makes
   afterwards is an aioloop loop, on every version of Python.
4. ``asyncio.set_event_loop_policy(aioloop.EventLoopPolicy())``, for as long as
   asyncio has policies. Python 3.14 and later warn about them.
5. ``python -m aioloop program.py`` runs an unchanged program, also with
   ``-m module`` and ``-c code``; ``--debug`` turns on asyncio's debug mode.

PYTEST_DONT_REWRITE: pytest would warn that it cannot rewrite what is imported already.
"""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING

from . import _layouts as _layouts  # It warns where something is off.
from ._accelerate import accelerate
from ._blocking import BlockingCallError, allow_blocking
from ._cancels import cancelled_from
from ._core import Future, Handle, Task, TimerHandle, libev_version
from ._debug import DebugOptions
from ._install import install, policies_exist, uninstall
from ._loop import Loop, new_event_loop
from ._orphans import Orphan, orphans, spawn
from ._version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any, TypeVar

    from ._dump import dump, dump_on_signal
    from ._metrics import Histogram, Metrics
    from ._policy import EventLoopPolicy
    from ._report import report, report_at_exit
    from ._usage import Usage, Use

    _T = TypeVar("_T")

__all__ = [
    "BlockingCallError",
    "DebugOptions",
    "Future",
    "Handle",
    "Histogram",
    "Loop",
    "Metrics",
    "Orphan",
    "Task",
    "TimerHandle",
    "Usage",
    "Use",
    "__version__",
    "accelerate",
    "allow_blocking",
    "cancelled_from",
    "dump",
    "dump_on_signal",
    "install",
    "libev_version",
    "new_event_loop",
    "orphans",
    "report",
    "report_at_exit",
    "run",
    "spawn",
    "uninstall",
]
if policies_exist():
    __all__ += ["EventLoopPolicy"]


def run(
    main: Coroutine[Any, Any, _T],
    *,
    debug: bool | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = new_event_loop,
    stall_threshold: float | None = None,
) -> _T:
    """Run a coroutine on a new loop and return its result, as asyncio.run does.

    The loop is closed at the end, after the remaining tasks are cancelled and the
    asynchronous generators and the default executor are shut down. ``debug`` turns
    the debug mode on or off; None leaves it to PYTHONASYNCIODEBUG and ``-X dev``.
    ``loop_factory`` makes the loop; None means asyncio's own choice.
    ``stall_threshold`` sets the loop's attribute of that name; None leaves it as it is.

    RuntimeError is raised when a loop already runs in this thread. Whatever else
    asyncio.Runner of the running Python raises for its arguments is raised as it is.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("asyncio.run() cannot be called from a running event loop")
    with asyncio.Runner(debug=debug, loop_factory=loop_factory) as runner:
        if stall_threshold is not None:
            runner.get_loop().stall_threshold = stall_threshold  # type: ignore
        return runner.run(main)


# Imported when somebody asks: most programs never do, and it takes long.
_MODULES = {
    "Histogram": "_metrics",
    "Metrics": "_metrics",
    "Usage": "_usage",
    "Use": "_usage",
    "dump": "_dump",
    "dump_on_signal": "_dump",
    "report": "_report",
    "report_at_exit": "_report",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        module = importlib.import_module(f".{_MODULES[name]}", __name__)
        globals()[name] = value = getattr(module, name)
        return value
    if name == "EventLoopPolicy" and policies_exist():
        from ._policy import EventLoopPolicy

        return EventLoopPolicy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
