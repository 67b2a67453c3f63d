"""The faults of shim.c, for a program that has the library preloaded.

``build()`` compiles it; a child process gets it by ``environment()``, or a program by
``preload()``; there ``Faults`` begins, counts and ends faults.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
# Whose calls are spoilt: the loop's (or libev's); asyncio's, which are Python's own.
OURS = "_core. libev"
ASYNCIO = "_socket. python"


def compiler():
    """Return the C compiler's name, or None."""
    return next(filter(shutil.which, ("cc", "gcc", "clang")), None)


def build(folder):
    """Compile the library into the folder; return its path."""
    library = Path(folder, "shim.so")
    flags = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fPIC"]
    command = [compiler(), *flags, "-shared", "-o", library, SOURCE, "-ldl"]
    # A sanitizer's runtime that is preloaded here is not for the compiler.
    clean = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    subprocess.run(command, check=True, env=clean)
    return library


def environment(library):
    """Return the variables that preload the library in a child process."""
    options = os.environ.get("ASAN_OPTIONS", "")
    return {
        # In front of a sanitizer's runtime, so that it knows who calls.
        "LD_PRELOAD": f"{library} {os.environ.get('LD_PRELOAD', '')}".strip(),
        "ASAN_OPTIONS": f"{options}:verify_asan_link_order=0".lstrip(":"),
        "AIOLOOP_SHIM": str(library),
    }


def preload():
    """Start this program again with the library, if it is not there."""
    if "AIOLOOP_SHIM" not in os.environ:
        with tempfile.TemporaryDirectory(prefix="aioloop-shim-") as folder:
            variables = environment(build(folder))
            command = [sys.executable, *sys.orig_argv[1:]]
            sys.exit(
                subprocess.run(command, env={**os.environ, **variables}).returncode
            )


class Faults:
    """The library in this process."""

    def __init__(self):
        self.library = ctypes.CDLL(os.environ["AIOLOOP_SHIM"])
        self.library.shim_begin.argtypes = [ctypes.c_ulonglong] + 3 * [ctypes.c_char_p]
        self.library.shim_begin.restype = None

    def begin(self, seed, rules, callers=OURS, files=""):
        """Let calls go wrong by these rules from now on; count from 0."""
        texts = [text.encode() for text in (rules, callers, files)]
        self.library.shim_begin(seed, *texts)

    def end(self):
        """Let all calls pass; the counts stay."""
        self.library.shim_end()

    def injected(self, call=None):
        """Return how many calls were spoilt: of this name, or all."""
        return self.library.shim_injected(call and call.encode())

    def calls(self, call=None):
        """Return how many calls were made by who is meant."""
        return self.library.shim_calls(call and call.encode())
