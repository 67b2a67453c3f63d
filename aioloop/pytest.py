"""A plugin of pytest: ``pytest --aioloop`` runs a test-suite on aioloop.

It does nothing until ``--aioloop``, ``--aioloop-debug`` or a setting of the suite asks
for it. Whatever makes the tests' loops by asyncio's own ways (pytest-asyncio, anyio's
plugin, pytest-aiohttp, pytest-tornasync, unittest.IsolatedAsyncioTestCase, asyncio.run)
gets aioloop's. ``--aioloop-debug`` makes a test fail for what it loses or leaves
behind, and for calls that block its loop, with the places. See docs/plugs.md.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from typing import TYPE_CHECKING

import pytest

from . import _blocking, _core, _frames, _install, _leave, _loop, _orphans
from ._version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any

    from ._blocking import Frame

KINDS = ("blocking_calls", *_orphans._WORDS)

_MARKER = (
    "aioloop_allow(*kinds): what is no failure of this test under --aioloop-debug,"
    f" of {', '.join(KINDS)}; all of them without arguments"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("aioloop", "aioloop, an event loop for asyncio")
    group.addoption(
        "--aioloop", action="store_true", help="run the tests' event loops on aioloop"
    )
    group.addoption(
        "--aioloop-debug",
        action="store_true",
        help="the same, and let a test fail for tasks, coroutines, exceptions and"
        " transports that it loses, and for calls that block its loop",
    )
    parser.addini("aioloop", "as --aioloop, unless AIOLOOP=0", "bool", False)
    parser.addini(
        "aioloop_debug", "as --aioloop-debug, unless AIOLOOP=0", "bool", False
    )
    parser.addini("aioloop_allow", "kinds that never fail --aioloop-debug", "args", [])


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    settings = os.environ.get("AIOLOOP") != "0"
    debug = config.option.aioloop_debug or (settings and config.getini("aioloop_debug"))
    if debug or config.option.aioloop or (settings and config.getini("aioloop")):
        config.pluginmanager.register(_OnAioloop(config), "aioloop-loops")
    if debug:
        config.pluginmanager.register(_Leaks(config), "aioloop-leaks")


class _OnAioloop:
    """Gives the tests aioloop's loops."""

    def __init__(self, config: pytest.Config) -> None:
        if not _install._in_force():
            config.add_cleanup(_install.uninstall)
            _take_loops()

    def pytest_report_header(self) -> str:
        return f"aioloop: {__version__} (libev {_core.libev_version()})"

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Install again where a test has reset the policy; a chosen one stays."""
        if not _install._in_force() and _policy_is_asyncios():
            _take_loops()

    if hasattr(pytest, "HIDDEN_PARAM"):
        # With it the names of the tests stay what they are.

        @pytest.hookimpl(optionalhook=True, trylast=True)
        def pytest_asyncio_loop_factories(self) -> dict[str, Callable[[], Any]]:
            """Give pytest-asyncio the loop also where a fixture chooses a policy."""
            return {"aioloop": _loop.new_event_loop}


def _take_loops() -> None:
    _install.install()
    default = _install.Attribute(asyncio, "DefaultEventLoopPolicy")
    if default.exists():
        # Plugins, and fixtures that want a fresh policy for each test, name this class.
        from ._policy import EventLoopPolicy

        _install.replace(default, EventLoopPolicy)


def _policy_is_asyncios() -> bool:
    if not _install.policies_exist():
        return True
    from ._policy import _UnixPolicy

    policy = _install._policy.get()
    return policy is None or type(policy) is _UnixPolicy


# --- leaks ----------------------------------------------------------------------------


class _Reporter(_blocking.Reporter):
    """Passes on what it would log."""

    def __init__(self, found: Callable[[str, str], None]) -> None:
        super().__init__(raises=False)
        self._found = found

    def _tell(
        self,
        loop: Any,
        event: str,
        args: tuple,
        frames: tuple[Frame, ...],
        place: Frame | None,
    ) -> None:
        self._places.clear()  # The next test is told of the same place again.
        self._found("blocking_calls", _blocking._describe(loop, event, args, place)[0])


class _Leaks:
    """Makes a test fail for what is found between its beginning and its end."""

    def __init__(self, config: pytest.Config) -> None:
        self._always_allowed = _checked(config.getini("aioloop_allow"))
        self._leaks: dict[str, str] = {}  # Text: kind.
        self._has_loops = self._failed = False
        _core._watch_unawaited()
        for functions, function in (
            (_loop.on_new_loop, self._on_new_loop),
            (_orphans.on_orphan, self._on_orphan),
            (_leave.on_cancelled, self._on_cancelled),
        ):
            functions.append(function)  # type: ignore[attr-defined]
            config.add_cleanup(lambda f=functions, g=function: f.remove(g))
        self._watch_writers(config)

    # What is found.

    def _found(self, kind: str, text: str) -> None:
        self._leaks.setdefault(text, kind)

    def _on_new_loop(self, loop: Any) -> None:
        self._has_loops = True
        _orphans.remember_places(loop)
        if loop.blocking_calls is None:
            report = _Reporter(self._found)
            _core._watch_blocking(loop, report, _blocking._allowed, False)

    def _on_orphan(self, orphan: _orphans.Orphan) -> None:
        self._found(orphan.kind, str(orphan))

    def _on_cancelled(self, tasks: list[Any]) -> None:
        """Look at what asyncio.Runner and its like cancel because it goes on."""
        for task in tasks:
            made = _places_of_program(task)
            if task.cancelling() > 1 or made is None:
                continue  # The test has cancelled it, or it is the test runner's own.
            what, _, at = _orphans._describe_task(task)
            waiting = f", waiting at {_orphans._words(at)}" if at else ""
            where = f", made at {_orphans._words(made[0])}" if made else ""
            self._found(
                "pending_tasks",
                f"{what} was still pending when its loop was left{waiting}{where};"
                " await it, or cancel it and await its end",
            )

    def _watch_writers(self, config: pytest.Config) -> None:
        """Look at the writers that close what their owner has not closed (3.13+)."""
        close_and_warn = vars(asyncio.StreamWriter).get("__del__")
        if close_and_warn is None:
            return

        def __del__(writer: Any) -> None:
            transport = writer._transport
            if isinstance(transport, asyncio.Transport) and not transport.is_closing():
                what, _, _ = _orphans._describe_transport(transport)
                ended = getattr(writer._protocol, "_closed", None)
                created = getattr(ended, "_source_traceback", None)
                made = _orphans._words(_orphans._place_created(created))
                self._on_orphan(
                    _orphans.Orphan("unclosed_transports", what, made, None, 1)
                )
            close_and_warn(writer)

        asyncio.StreamWriter.__del__ = __del__  # type: ignore[attr-defined]
        config.add_cleanup(
            lambda: setattr(asyncio.StreamWriter, "__del__", close_and_warn)
        )

    # When it is told.

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        if self._failed:
            # The failed test's frames are nobody else's, and neither is what they hold.
            for name in ("last_type", "last_value", "last_traceback", "last_exc"):
                vars(sys).pop(name, None)
            gc.collect()
        self._leaks.clear()
        self._has_loops, self._failed = bool(_loop.all_loops), False
        result = yield
        # Only now the test's fixtures are let go of.
        text = "" if self._failed else self._taken(item)
        if text:
            report = pytest.TestReport(
                nodeid=item.nodeid,
                location=item.location,
                keywords=dict.fromkeys(item.keywords, 1),
                outcome="failed",
                longrepr=text,
                when="teardown",
            )
            item.ihook.pytest_runtest_logreport(report=report)
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self) -> None:
        # A runner that is told debug=False turns all of debug mode off.
        for reference in list(_loop.all_loops.values()):
            loop = reference()
            if loop is not None and not loop.is_closed():
                _orphans.remember_places(loop)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self.pytest_fixture_setup()
        try:
            result = yield
        except BaseException:
            self._add_to_report(item)
            raise
        if getattr(item, "_excinfo", None):  # A failure of unittest.
            self._add_to_report(item)
        elif text := self._taken(item):
            pytest.fail(text, pytrace=False)
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._failed |= report.failed

    def _add_to_report(self, item: pytest.Item) -> None:
        if text := self._taken(item, collect=False):
            item.add_report_section("call", "aioloop", text)

    def _taken(self, item: pytest.Item, collect: bool = True) -> str:
        """Return what was found since the last time, as a text."""
        if collect and self._has_loops:
            gc.collect()
        allowed = set(self._always_allowed)
        for mark in item.iter_markers("aioloop_allow"):
            allowed |= _checked(mark.args or KINDS)
        found = [text for text, kind in self._leaks.items() if kind not in allowed]
        self._leaks.clear()
        if not found:
            return ""
        noun = "1 leak or blocking call" if len(found) == 1 else "leaks, blocking calls"
        return "\n".join([f"{noun} (--aioloop-debug):", *(f"- {t}" for t in found)])


def _checked(kinds: Any) -> set[str]:
    for kind in kinds:
        if kind not in KINDS:
            known = ", ".join(KINDS)
            raise pytest.UsageError(f"aioloop_allow: {kind!r} is not one of {known}")
    return set(kinds)


def _places_of_program(task: Any) -> list[Frame] | None:
    """Return the frames of the tests and what they test in which a task was made.

    None stands for a task that neither has made: one of pytest's plugins. An empty list
    is of a task whose coroutine is theirs and whose place is not known.
    """
    frames = []
    for frame in reversed(getattr(task, "_source_traceback", None) or ()):
        if f"{os.sep}_pytest{os.sep}" in frame.filename:
            break
        frames.append((frame.filename, frame.lineno or 0, frame.name))
    if frames:
        found = [frame for frame in frames if _frames.is_user(frame[0])]
        return found or None
    code = getattr(task.get_coro(), "cr_code", None)
    return [] if code is not None and _frames.is_user(code.co_filename) else None
