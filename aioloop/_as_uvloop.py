"""``import uvloop`` finds the package ``aioloop._uvloop``, under the name uvloop.

A finder in front of all others does it, so that the module is an ordinary one: it is
made when it is imported, has a spec and submodules, and may be reloaded. What was
imported as uvloop before is put aside and comes back with uninstall().
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

NAME = "uvloop"
FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_uvloop")


class Finder:
    """What stands in ``sys.meta_path``."""

    @staticmethod
    def find_spec(
        name: str, path: object = None, target: object = None
    ) -> ModuleSpec | None:
        if name != NAME:
            return None
        # Here: most programs never come to it.
        from importlib.util import spec_from_file_location

        return spec_from_file_location(
            name,
            os.path.join(FOLDER, "__init__.py"),
            submodule_search_locations=[FOLDER],
        )


_finder = Finder()
_put_aside: dict[str, ModuleType] = {}


def stand_in() -> None:
    """Make ``import uvloop`` find aioloop; a second call changes nothing."""
    if _finder in sys.meta_path:
        return
    _put_aside.update(_take_modules(ours=False))
    sys.meta_path.insert(0, _finder)  # type: ignore[arg-type]


def step_back() -> None:
    """Undo stand_in(): what was imported as uvloop before is found again."""
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)  # type: ignore[arg-type]
        _take_modules(ours=True)
        for name, module in _put_aside.items():
            sys.modules.setdefault(name, module)
        _put_aside.clear()


def _take_modules(*, ours: bool) -> dict[str, ModuleType]:
    """Take uvloop and its submodules out of ``sys.modules``, if they are (not) ours."""
    taken = {
        name: module
        for name, module in sys.modules.items()
        if name.partition(".")[0] == NAME and _is_ours(module) is ours
    }
    for name in taken:
        del sys.modules[name]
    return taken


def _is_ours(module: ModuleType) -> bool:
    filename = getattr(module, "__file__", None) or ""
    return os.path.dirname(filename) == FOLDER
