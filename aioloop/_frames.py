"""The text of a stack: the program's own frames, and libraries' in short.

A Frame comes from a frame object, or from what the watchdog read without the GIL.
"""

from __future__ import annotations

import dataclasses
import itertools
import linecache
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import CodeType, FrameType
    from typing import Any, Protocol, TypeVar

    class IsUser(Protocol):
        @property
        def is_user(self) -> bool: ...

    _Frame = TypeVar("_Frame", bound=IsUser)

# Runs of so many frames of one library, or of one place, become a line.
MANY = 4

_PACKAGE = os.path.dirname(os.path.abspath(__file__))
_STDLIB = os.path.dirname(os.path.abspath(os.__file__))
_ASYNCIO = os.path.join(_STDLIB, "asyncio") + os.sep
# How the names of asyncio's files, and of aioloop's, begin.
LOOP_FOLDERS = (_ASYNCIO, _PACKAGE + os.sep)
_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


@dataclasses.dataclass(frozen=True)
class Frame:
    """A function that runs, or waits."""

    file: str
    line: int | None
    function: str
    module: str
    source: str

    @property
    def is_user(self) -> bool:
        """Whether it is neither the standard library's, an installed one's nor ours."""
        return is_user(self.file)

    @property
    def place(self) -> str:
        """File, line and function, such as ``app/report.py:31 in render``."""
        return place(self.file, self.line, self.function)

    @property
    def label(self) -> str:
        """``module:function``, which stays the same when lines move."""
        return f"{self.module}:{self.function}"


def is_installed(file: str) -> bool:
    """Whether a file is an installed package's."""
    # A loop: CPython 3.13's first releases crash where a generator has no memory.
    for part in _PACKAGES:  # noqa: SIM110
        if part in file:
            return True
    return False


def is_standard(file: str) -> bool:
    """Whether a file is the standard library's."""
    if file.startswith("<frozen "):
        return True
    return file.startswith(_STDLIB + os.sep) and not is_installed(file)


def is_ours(file: str) -> bool:
    """Whether a file is aioloop's."""
    return file.startswith(_PACKAGE + os.sep)


def is_loop(file: str) -> bool:
    """Whether a file is asyncio's, or aioloop's."""
    return file.startswith(LOOP_FOLDERS)


def is_user(file: str) -> bool:
    """Whether a file is the program's own."""
    return not (is_standard(file) or is_installed(file) or is_ours(file))


def place(file: str, line: int | None, function: str) -> str:
    """Say where a line is, such as ``app/report.py:31 in render``."""
    return f"{short(file)}:{'?' if line is None else line} in {function}"


def short(file: str) -> str:
    """Return a file's name from the working folder, or from where it is imported."""
    for part in _PACKAGES:
        if part in file:
            return file.rpartition(part)[2]
    if not is_standard(file):
        try:
            working = os.getcwd() + os.sep
        except OSError:
            working = ""
        if len(working) > 2 and file.startswith(working):
            return file[len(working) :]
    best = ""
    for entry in sys.path:
        folder = entry.rstrip(os.sep) + os.sep
        if len(best) < len(folder) > 1 and file.startswith(folder):
            best = folder
    return file[len(best) :]


def from_frame(frame: FrameType) -> Frame:
    """Describe a frame object."""
    return from_code(frame.f_code, frame.f_lineno, frame.f_globals)


def from_code(code: CodeType, line: int | None, namespace: dict[str, Any]) -> Frame:
    """Describe a function at some line; ``namespace`` has its globals."""
    source = ""
    if line is not None:
        source = linecache.getline(code.co_filename, line, namespace).strip()
    module = namespace.get("__name__")
    return Frame(
        code.co_filename,
        line,
        code.co_name,
        module if isinstance(module, str) else "?",
        source,
    )


def from_place(file: str, line: int, function: str) -> Frame:
    """Describe what was read without the GIL: there are no globals."""
    source = linecache.getline(file, line).strip() if line > 0 else ""
    return Frame(file, line if line > 0 else None, function, _module_of(file), source)


def _module_of(file: str) -> str:
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) == file:
            return name
    if file.startswith("<frozen "):
        return file[len("<frozen ") : -1]
    return os.path.splitext(os.path.basename(file))[0]


def innermost_user(frames: Sequence[_Frame]) -> _Frame | None:
    """Return the program's own innermost frame of a stack that is outermost first."""
    for frame in reversed(frames):
        if frame.is_user:
            return frame
    return frames[-1] if frames else None


def rows(frames: Iterable[Frame]) -> list[Frame | str]:
    """Return frames, outermost first, with long runs of a library or place in words."""
    found: list[Frame | str] = []
    run: list[Frame] = []
    frames = [*frames]
    last = frames[-1] if frames else None

    def end_run() -> None:
        if len(run) >= MANY:
            kept_last = run[-1] is last
            hidden = len(run) - 1 - kept_last
            found.append(run[0])
            frames_ = "frame" if hidden == 1 else "frames"
            found.append(f"... {hidden} more {_library(run)} {frames_} ...")
            if kept_last:
                found.append(run[-1])
        else:
            found.extend(run)
        run.clear()

    for frame, group in itertools.groupby(frames):
        same = [*group]
        if run and (frame.is_user or _top(frame) != _top(run[0])):
            end_run()
        if not frame.is_user:
            run += same
        elif len(same) < MANY:
            found += same
        else:
            found += [frame, f"... {len(same) - 1} more of the same ..."]
    end_run()
    return found


def text(frames: Iterable[Frame], indent: str = "  ") -> list[str]:
    """Return a line for each frame, outermost first, long runs of a library short."""
    return [
        f"{indent}{row}" if isinstance(row, str) else _row(row, indent)
        for row in rows(frames)
    ]


def _top(frame: Frame) -> str:
    return frame.module.partition(".")[0]


def _library(run: list[Frame]) -> str:
    return _top(run[0])


def _row(frame: Frame, indent: str) -> str:
    return f"{indent}{frame.place:<44}  {frame.source}".rstrip()
