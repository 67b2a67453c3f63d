"""Gives a Python process aioloop as soon as it imports asyncio, and nothing before.

Two start it: the sitecustomize beside it, in child processes of ``python -m aioloop
--children``, and what ``python -m aioloop --enable`` puts into an environment, a copy
of this file among it. Every process of those runs it, most of them without ever wanting
a loop: so it imports nothing. The environment variable ``AIOLOOP=0`` turns it off.
"""

import os
import sys


def wait_for_asyncio(place=None):
    """Install aioloop when asyncio is imported.

    ``place`` is given to the child of a program that runs under ``python -m aioloop``:
    the child gets what its parent has, and aioloop from that folder if it finds no
    other. A second call only adds that; site may run a line of a .pth file twice.
    """
    if os.environ.get("AIOLOOP") == "0":
        return
    _finder.place = place or _finder.place
    if "asyncio" in sys.modules:
        _finder.start()
    elif _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


class _Finder:
    """Finds asyncio where the others find it, and starts when that is imported."""

    place = None
    _asking = False

    def find_spec(self, name, path=None, target=None):
        if name == "uvloop" and os.environ.get("AIOLOOP_AS_UVLOOP", "0") not in (
            "",
            "0",
        ):
            # It comes before asyncio, and is to be found by what install() puts there.
            import asyncio  # noqa: F401
        elif name != "asyncio":
            return None
        if self._asking:
            return None  # Another finder of this kind asks all others, too.
        self._asking = True
        try:
            spec = self._ask_the_others(name, path, target)
        finally:
            self._asking = False
        if name == "asyncio" and spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec

    def _ask_the_others(self, *question):
        for finder in list(sys.meta_path):
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(*question)
                if spec is not None:
                    return spec
        return None

    def start(self):
        """Install aioloop, if this Python has it; its failure is not the program's."""
        try:
            if self.place is None:
                from aioloop._install import install
            else:
                _find_aioloop(self.place)
                from aioloop._main import _install_for_program as install
            install()
        except Exception as error:
            if getattr(error, "name", None) in ("aioloop", "aioloop._core"):
                return  # It is gone, or built for another Python.
            sys.stderr.write(
                "aioloop: this process uses asyncio's own loops:"
                f" {type(error).__name__}: {error}\n"
            )


def _find_aioloop(place):
    """Import the parent's aioloop, if this process would find none."""
    import importlib.util

    if "aioloop" not in sys.modules and importlib.util.find_spec("aioloop") is None:
        folder = os.path.join(place, "aioloop")
        spec = importlib.util.spec_from_file_location(
            "aioloop",
            os.path.join(folder, "__init__.py"),
            submodule_search_locations=[folder],
        )
        sys.modules["aioloop"] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules["aioloop"]
            raise


class _Loader:
    """Loads asyncio by its own loader, then has the finder start, once."""

    def __init__(self, loader):
        self._loader = loader

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        if _finder in sys.meta_path:
            sys.meta_path.remove(_finder)
            _finder.start()

    def __getattr__(self, name):
        return getattr(self._loader, name)


_finder = _Finder()
