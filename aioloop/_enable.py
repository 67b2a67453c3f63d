"""``python -m aioloop --enable``: every process of a Python environment gets the loop.

Two files go into the environment's site-packages. Python 3.15 and later take a
``.start`` file, which names a function to be called (PEP 829), older ones a ``.pth``
file with a line of code. The function is in ``_aioloop_startup``, of which the
environment gets a copy: it has to be there, and to be quick, also when aioloop itself
has been removed.
"""

from __future__ import annotations

import os
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

NAME = "_aioloop_startup"
SOURCE = Path(__file__).absolute().parent / "_children" / f"{NAME}.py"
LIMIT = 120

# What a process of the environment says when it has the loop.
LOOK = """import asyncio
loop = asyncio.new_event_loop()
loop.close()
print(type(loop).__module__)
"""


class CannotChange(Exception):
    """The environment stays as it was, for the reason that this tells."""


def enable() -> str:
    """Put the files into the environment, and return a text that says so."""
    files = _wanted()
    present = {path: _read(path) for path in files}
    text = "\n".join(
        [
            f"aioloop is enabled: each process of {sys.executable} uses it",
            "for asyncio, unless its environment has AIOLOOP=0. --disable undoes it.",
            "Files:",
            *(f"  {path}" for path in files),
        ]
    )
    if present == files:
        return text
    try:
        for path, content in files.items():
            _write(path, content)
        _check()
    except OSError as error:
        _restore(present)
        raise CannotChange(f"cannot write to {path.parent}: {error.strerror}") from None
    except BaseException:
        _restore(present)
        raise
    return text


def disable() -> str:
    """Remove the files from the environment, and return a text that says so."""
    found = [
        path
        for folder in _site_folders()
        for path in _files_in(folder)
        if path.exists()
    ]
    for path in found:
        try:
            _remove(path)
        except OSError as error:
            raise CannotChange(f"cannot remove {path}: {error.strerror}") from None
    if not found:
        return f"aioloop is not enabled for {sys.executable}: nothing to do."
    return "\n".join(
        [
            f"aioloop is disabled for {sys.executable}. Removed:",
            *(f"  {path}" for path in found),
        ]
    )


def _wanted() -> dict[Path, bytes]:
    """Return the files that enable this environment, with their contents."""
    folder = Path(sysconfig.get_path("purelib"))
    if site.ENABLE_USER_SITE and str(SOURCE.parents[2]) == site.USER_SITE:
        folder = Path(site.USER_SITE)  # The environment in which aioloop itself is.
    if hasattr(site, "StartupState"):
        start = folder / f"{NAME}.start", f"{NAME}:wait_for_asyncio\n"
    else:
        start = folder / f"{NAME}.pth", f"import {NAME}; {NAME}.wait_for_asyncio()\n"
    return {folder / f"{NAME}.py": SOURCE.read_bytes(), start[0]: start[1].encode()}


def _site_folders() -> list[Path]:
    folders = [sysconfig.get_path("purelib"), *site.getsitepackages()]
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    return list(dict.fromkeys(map(Path, folders)))


def _files_in(folder: Path) -> list[Path]:
    return [folder / f"{NAME}{end}" for end in (".pth", ".start", ".py")]


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _write(path: Path, content: bytes) -> None:
    """Write a file in one step: other processes of the environment may start now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        staged.write_bytes(content)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    """Remove a file and what Python has compiled it to."""
    path.unlink(missing_ok=True)
    if path.suffix == ".py":
        cache = path.parent / "__pycache__"
        for compiled in cache.glob(f"{path.stem}.*.pyc"):
            compiled.unlink(missing_ok=True)
        if cache.is_dir() and not any(cache.iterdir()):
            cache.rmdir()


def _restore(present: dict[Path, bytes | None]) -> None:
    """Put back what was there; that which starts processes goes first."""
    for path, content in reversed(present.items()):
        try:
            if content is None:
                _remove(path)
            else:
                _write(path, content)
        except OSError:
            pass  # What could not be written needs no removing.


def _check() -> None:
    """Start a process of the environment and look at its loop."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("AIOLOOP", "PYTHONPATH")
    }
    done = subprocess.run(
        [sys.executable, "-P", "-c", LOOK],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        timeout=LIMIT,
    )
    if done.returncode == 0 and done.stdout.strip().startswith("aioloop."):
        return
    found = subprocess.run(
        [sys.executable, "-P", "-c", "import aioloop"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        timeout=LIMIT,
    )
    said = (done.stderr or found.stderr).strip()
    if "No module named 'aioloop'" in found.stderr:
        said = "aioloop is not installed in it (PYTHONPATH does not count)"
    raise CannotChange(
        f"a process of {sys.executable} does not get aioloop:"
        f" {said or 'no reason given'}"
    )
