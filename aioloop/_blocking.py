"""Calls that block the loop, reported at the place where they are made.

``loop.blocking_calls = "log"`` warns on the "asyncio" logger once for each place of the
program, ``"raise"`` makes each such call raise BlockingCallError. An audit hook in C
(src/diag/blocking.c) asks here what it does not know itself: whose call it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import linecache
import logging
import os
import reprlib
import traceback
import warnings
from contextvars import ContextVar
from typing import TYPE_CHECKING

from . import _core
from ._frames import is_installed, is_loop, is_standard
from ._frames import place as place_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Literal

    # File name, line, function.
    Frame = tuple[str, int, str]

MODES = (None, "log", "raise")

_allowed: ContextVar[bool] = ContextVar("aioloop.allow_blocking")


class BlockingCallError(RuntimeError):
    """A call would have blocked the loop, and its ``blocking_calls`` is "raise"."""


@contextlib.contextmanager
def allow_blocking() -> Iterator[None]:
    """Let the calls inside the ``with`` block the loop, unreported.

    That goes for the calling task or callback, also across an ``await``, and not for
    others that run meanwhile::

        with aioloop.allow_blocking():
            settings = pathlib.Path("settings.toml").read_text()
    """
    token = _allowed.set(True)
    try:
        yield
    finally:
        _allowed.reset(token)


# Whose call it is.


def _folder_of(module: Any) -> str:
    return os.path.dirname(module.__file__) + os.sep


# What is called from these does not count: logging handlers, imports, and what reads
# source files for a traceback or a debugger.
_EXEMPT = (
    _folder_of(logging),
    "<frozen importlib._bootstrap",
    _folder_of(os) + "bdb.py",
    *(module.__file__ for module in (linecache, traceback, warnings)),
)


def _is_ours(frames: tuple[Frame, ...]) -> bool:
    """Say whether the call is nobody's fault; frames are innermost first."""
    for filename, _, _ in frames:
        if not is_standard(filename) or is_loop(filename):
            return is_loop(filename)
    return False


def _responsible(frames: tuple[Frame, ...]) -> Frame | None:
    """Return the program's innermost frame, or else a package's, or a library's."""
    program = third_party = None
    for frame in frames:
        filename = frame[0]
        if is_standard(filename) or is_loop(filename):
            continue
        if not is_installed(filename):
            program = frame
            break
        third_party = third_party or frame
    return program or third_party or (frames[0] if frames else None)


# What the call is, and what to do instead.

_THREAD = "await asyncio.to_thread(...)"
_FILE = f"{_THREAD} for all that is done with the file"
_HTTP = f"an asynchronous client, or {_THREAD}"


def _first(args: tuple) -> str:
    return _short(args[0]) if args else ""


def _nothing(_args: tuple) -> str:
    return ""


def _two(args: tuple) -> str:
    return ", ".join(_short(arg) for arg in args[:2])


def _rest(args: tuple) -> str:
    return _two(args[1:])


def _command(args: tuple) -> str:
    return _short(args[1] if len(args) > 1 else args[0])


def _url(args: tuple) -> str:
    return _short(str(args[0]).partition("?")[0])


_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80


def _short(value: object) -> str:
    if isinstance(value, bytes | os.PathLike):
        value = os.fsdecode(value)
    return _repr.repr(value)


# Of each event: the call's name, its arguments as text, what to do instead.
KINDS: dict[str, tuple[str, Callable[[tuple], str], str]] = {
    "builtins.input": ("input", _first, "await asyncio.to_thread(input)"),
    "fcntl.flock": ("fcntl.flock", _first, f"fcntl.LOCK_NB, or {_THREAD}"),
    "fcntl.lockf": ("fcntl.lockf", _first, f"fcntl.LOCK_NB, or {_THREAD}"),
    "ftplib.connect": ("ftplib.FTP.connect", _rest, _THREAD),
    "glob.glob": ("glob.glob", _first, _THREAD),
    "http.client.connect": ("http.client.HTTPConnection.connect", _rest, _HTTP),
    "imaplib.open": ("imaplib.IMAP4.open", _rest, _THREAD),
    "open": ("open", _first, _FILE),
    "os.posix_spawn": (
        "os.posix_spawn",
        _first,
        "await asyncio.create_subprocess_exec(...)",
    ),
    "os.rename": ("os.rename", _two, _THREAD),
    "os.spawn": ("os.spawn", _rest, "await asyncio.create_subprocess_exec(...)"),
    "os.system": ("os.system", _first, "await asyncio.create_subprocess_shell(...)"),
    "pathlib.Path.glob": ("pathlib.Path.glob", _two, _THREAD),
    "pathlib.Path.rglob": ("pathlib.Path.rglob", _two, _THREAD),
    "poplib.connect": ("poplib.POP3", _rest, _THREAD),
    "pty.spawn": ("pty.spawn", _first, "await asyncio.create_subprocess_exec(...)"),
    "shutil.copyfile": ("shutil.copyfile", _two, _THREAD),
    "shutil.copytree": ("shutil.copytree", _two, _THREAD),
    "shutil.move": ("shutil.move", _two, _THREAD),
    "smtplib.connect": ("smtplib.SMTP.connect", _rest, _THREAD),
    "socket.connect": (
        "socket.connect",
        lambda args: _rest(args[:2]),
        "await asyncio.open_connection(...), or await loop.sock_connect(...) with a"
        " non-blocking socket",
    ),
    "socket.getaddrinfo": (
        "socket.getaddrinfo",
        _two,
        "await loop.getaddrinfo(...)",
    ),
    "socket.gethostbyaddr": (
        "socket.gethostbyaddr",
        _first,
        "await loop.getnameinfo(...)",
    ),
    "socket.gethostbyname": (
        "socket.gethostbyname",
        _first,
        "await loop.getaddrinfo(...)",
    ),
    "sqlite3.connect": (
        "sqlite3.connect",
        _first,
        f"an asynchronous driver, or {_THREAD} for all that uses the database",
    ),
    "subprocess.Popen": (
        "subprocess.Popen",
        _command,
        "await asyncio.create_subprocess_exec(...)",
    ),
    "time.sleep": ("time.sleep", _first, "await asyncio.sleep({})"),
    "urllib.Request": ("urllib.request.urlopen", _url, _HTTP),
}
for _event in _core._blocking_events():
    KINDS.setdefault(
        _event,
        (_event, _nothing if _event.startswith("tempfile.") else _first, _THREAD),
    )


class Reporter:
    """What an audit hook asks for one loop."""

    def __init__(self, *, raises: bool) -> None:
        self._raises = raises
        self._places: set[object] = set()

    def __call__(
        self, loop: Any, event: str, args: tuple, frames: tuple[Frame, ...]
    ) -> bool | BlockingCallError:
        """Log, or return what is to be raised; say whether the call counts."""
        if _is_ours(frames) or any(
            filename.startswith(_EXEMPT) for filename, _, _ in frames
        ):
            return False
        place = _responsible(frames)
        if self._raises:
            return BlockingCallError(_describe(loop, event, args, place)[0])
        where = place or _scheduled_words(loop)
        if where not in self._places:
            self._places.add(where)
            self._tell(loop, event, args, frames, place)
        return True

    def _tell(
        self,
        loop: Any,
        event: str,
        args: tuple,
        frames: tuple[Frame, ...],
        place: Frame | None,
    ) -> None:
        sentence, details = _describe(loop, event, args, place)
        details["stack"] = [
            {"file": filename, "line": line, "function": function}
            for filename, line, function in frames
        ]
        asyncio.log.logger.warning(  # type: ignore[attr-defined]
            "%s", sentence, extra={"blocking_call": details}
        )


def _describe(
    loop: Any, event: str, args: tuple, place: Frame | None
) -> tuple[str, dict[str, Any]]:
    """Return a sentence about the call, and the same as a dictionary."""
    name, describe, instead = KINDS[event]
    described = describe(args)
    call = f"{name}({described})"
    instead = instead.format(described)
    task = asyncio.current_task(loop)
    details: dict[str, Any] = {
        "call": call,
        "instead": instead,
        "task": None if task is None else task.get_name(),
    }
    sentence = f"{call} blocks the loop in {_task_words(task)}"
    if place is None:
        sentence += f", as the callback itself{_scheduled_words(loop)}"
    else:
        filename, line, function = place
        source = linecache.getline(filename, line).strip()
        details |= {"file": filename, "line": line, "function": function}
        details["source"] = source
        sentence += f" at {place_words(*place)}"
        sentence += f': "{source}"' if source else ""
    return f"{sentence}; use {instead}", details


def _task_words(task: asyncio.Task | None) -> str:
    return "a callback" if task is None else f"task {task.get_name()!r}"


def _scheduled_words(loop: Any) -> str:
    """Tell where the callback that runs comes from, if debug mode knows."""
    created = getattr(loop._current_handle, "_source_traceback", None)
    if not created:
        return ""
    frame = created[-1]
    place = frame.filename, frame.lineno, frame.name
    return f", scheduled at {place_words(*place)}"


def check_mode(mode: object) -> None:
    """Raise ValueError for what ``blocking_calls`` cannot be."""
    if mode not in MODES:
        raise ValueError(f"blocking_calls must be None, 'log' or 'raise', not {mode!r}")


def watch(loop: Any, mode: Literal["log", "raise"] | None) -> None:
    """Set what happens to blocking calls in the loop's callbacks and tasks."""
    check_mode(mode)
    report = None if mode is None else Reporter(raises=mode == "raise")
    _core._watch_blocking(loop, report, _allowed, mode == "log")


def default_mode() -> Literal["log", "raise"] | None:
    """Return what AIOLOOP_BLOCKING_CALLS says of new loops."""
    mode = os.environ.get("AIOLOOP_BLOCKING_CALLS") or None
    if mode not in MODES:
        warnings.warn(
            f"AIOLOOP_BLOCKING_CALLS is {mode!r}, not 'log' or 'raise'",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return mode  # type: ignore[return-value]
