"""The package: what it exports, run(), install() and the event loop policy."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import tomllib
import warnings
from pathlib import Path

import pytest

import aioloop
from aioloop import _install

PYTHON = sys.version_info[:2]
POLICIES = _install.policies_exist()
needs_policies = pytest.mark.skipif(
    not POLICIES, reason="asyncio of this Python has no event loop policies"
)
ROOT = Path(__file__).parents[2]

NAMES = {
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
} | ({"EventLoopPolicy"} if POLICIES else set())


@pytest.fixture
def installed():
    """Install aioloop for one test."""
    before = state()
    aioloop.install()
    yield
    aioloop.uninstall()
    assert state() == before


def state():
    """Return everything that install() may replace."""
    return {
        "policy": vars(asyncio.events).get("_event_loop_policy"),
        "class": getattr(asyncio, "EventLoop", None),
        "new": (asyncio.new_event_loop, asyncio.events.new_event_loop),
    }


async def kind_of_loop():
    return type(asyncio.get_running_loop())


# What the package exports.


def test_the_public_names_are_exported():
    assert set(aioloop.__all__) == NAMES
    assert set(dir(aioloop)) >= NAMES
    for name in NAMES:
        assert getattr(aioloop, name) is not None


def test_star_import_and_dir_do_not_warn(python):
    code = """if True:
        from aioloop import *
        import aioloop
        dir(aioloop)
        vars().update({name: getattr(aioloop, name) for name in dir(aioloop)})
        print(run.__name__)
    """
    done = python("-W", "error", "-c", code)
    assert (done.stdout, done.stderr, done.returncode) == ("run\n", "", 0)


def test_unknown_names_raise_attribute_error():
    with pytest.raises(AttributeError, match="module 'aioloop' has no attribute 'x'"):
        aioloop.x  # noqa: B018


def test_the_version_is_written_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {
        "attr": "aioloop._version.__version__"
    }
    assert aioloop.__version__.count(".") == 2


def test_libev_version_says_whose_it_is():
    version, kind = aioloop.libev_version().split(" ")
    major, minor = version.split(".")
    assert int(major) >= 4
    assert int(minor) >= 0
    assert kind in ("bundled", "system")


def test_the_types_are_subclasses_of_those_of_asyncio():
    assert issubclass(aioloop.Loop, asyncio.SelectorEventLoop)
    assert issubclass(aioloop.Future, asyncio.Future)
    assert issubclass(aioloop.Task, asyncio.Task)
    assert issubclass(aioloop.Handle, asyncio.Handle)
    assert issubclass(aioloop.TimerHandle, asyncio.TimerHandle)


def test_new_event_loop_makes_a_loop_that_is_not_current(debug):
    loop = aioloop.new_event_loop()
    loop.set_debug(debug)
    try:
        assert type(loop) is aioloop.Loop
        assert not loop.is_running()
        assert not loop.is_closed()
        assert loop.get_debug() is debug
    finally:
        loop.close()
    assert loop.is_closed()


def test_selector_message_names_libev(caplog):
    with caplog.at_level("DEBUG", logger="asyncio"):
        aioloop.new_event_loop().close()
    assert caplog.messages == ["Using selector: LibevSelector"]


SUBINTERPRETER = """if True:
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters
    interpreter = interpreters.create()
    failure = interpreters.run_string(interpreter, '''if True:
        import asyncio
        async def main():
            await asyncio.sleep(0)
            return "ran"
        import {module}
        print({module}.run(main()), flush=True)
    ''')
    interpreters.destroy(interpreter)
    print(failure, flush=True)
"""


def test_run_in_a_subinterpreter_with_its_own_gil(python):
    if PYTHON < (3, 12):
        pytest.skip("subinterpreters have their own GIL from 3.12 on")
    # Python 3.12.1 aborts while it ends after asyncio alone was used like this.
    theirs = python("-c", SUBINTERPRETER.format(module="asyncio"))
    ours = python("-c", SUBINTERPRETER.format(module="aioloop"))
    assert ours.stdout == "ran\nNone\n", ours.stderr
    assert ours.returncode in (0, theirs.returncode), ours.stderr


# run()


def test_run_returns_the_result_and_closes_the_loop(debug):
    async def main():
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)
        return loop, loop.get_debug()

    loop, seen_debug = aioloop.run(main(), debug=debug)
    assert type(loop) is aioloop.Loop
    assert seen_debug is debug
    assert loop.is_closed()


def test_run_lets_the_exception_out():
    class Failure(Exception):
        pass

    async def main():
        raise Failure

    with pytest.raises(Failure):
        aioloop.run(main())


def test_run_cancels_what_is_left_and_closes_generators():
    events = []

    async def forever():
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            events.append("task")

    async def generator():
        try:
            yield 1
        finally:
            events.append("generator")

    async def main():
        task = asyncio.create_task(forever())
        await asyncio.sleep(0)
        iterator = generator()
        await anext(iterator)
        return task, iterator

    task, _iterator = aioloop.run(main())
    assert task.cancelled()
    assert events == ["task", "generator"]


def test_run_keeps_the_context_of_its_caller_apart():
    variable = contextvars.ContextVar("variable", default="outside")

    async def main():
        variable.set("inside")

    aioloop.run(main())
    assert variable.get() == "outside"


def test_run_uses_the_loop_factory():
    made = []

    def factory():
        made.append(aioloop.new_event_loop())
        return made[-1]

    async def main():
        return asyncio.get_running_loop()

    loop = aioloop.run(main(), loop_factory=factory)
    assert [loop] == made
    assert aioloop.run(kind_of_loop(), loop_factory=None) is asyncio.SelectorEventLoop


def test_run_inside_a_running_loop_raises_as_asyncio_does():
    async def main(run):
        coro = kind_of_loop()
        try:
            run(coro)
        finally:
            coro.close()

    messages = []
    for run in (asyncio.run, aioloop.run):
        with pytest.raises(RuntimeError) as caught:
            aioloop.run(main(run))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("what", [None, 1, "x", len, kind_of_loop], ids=repr)
def test_run_refuses_what_asyncio_refuses(what):
    failures = []
    for run in (asyncio.run, aioloop.run):
        with pytest.raises((TypeError, ValueError)) as caught:
            run(what)
        failures.append((type(caught.value), str(caught.value)))
    assert failures[0] == failures[1]


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [((), {}), ((1, 2), {}), ((), {"main": 1, "policy": 2})],
    ids=["none", "two", "unknown"],
)
def test_run_checks_its_arguments(arguments, keywords):
    with pytest.raises(TypeError, match=r"run\(\)"):
        aioloop.run(*arguments, **keywords)


# The policy.


@needs_policies
def test_the_policy_is_made_when_it_is_asked_for(python):
    code = """if True:
        import sys, aioloop
        print("aioloop._policy" in sys.modules)
        print(aioloop.EventLoopPolicy is aioloop.EventLoopPolicy)
        print("aioloop._policy" in sys.modules)
    """
    done = python("-W", "error", "-c", code)
    assert (done.stdout, done.stderr) == ("False\nTrue\nTrue\n", "")


def test_without_policies_the_name_does_not_exist(monkeypatch):
    monkeypatch.setattr(aioloop, "policies_exist", lambda: False)
    with pytest.raises(AttributeError, match="no attribute 'EventLoopPolicy'"):
        aioloop.EventLoopPolicy  # noqa: B018
    with pytest.raises(ImportError):
        from aioloop import EventLoopPolicy  # noqa: F401


@needs_policies
def test_the_policy_makes_our_loops():
    policy = aioloop.EventLoopPolicy()
    loop = policy.new_event_loop()
    assert type(loop) is aioloop.Loop
    policy.set_event_loop(loop)
    assert policy.get_event_loop() is loop
    policy.set_event_loop(None)
    with pytest.raises(RuntimeError, match="There is no current event loop"):
        policy.get_event_loop()
    loop.close()


@needs_policies
def test_the_policy_is_a_unix_policy_of_asyncio():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert issubclass(aioloop.EventLoopPolicy, asyncio.DefaultEventLoopPolicy)
        assert issubclass(aioloop.EventLoopPolicy, asyncio.AbstractEventLoopPolicy)


@needs_policies
def test_the_policy_has_one_loop_per_thread():
    policy = aioloop.EventLoopPolicy()
    loop = policy.new_event_loop()
    policy.set_event_loop(loop)
    seen = []

    def target():
        try:
            policy.get_event_loop()
        except RuntimeError as error:
            seen.append(str(error))

    thread = threading.Thread(target=target, name="other")
    thread.start()
    thread.join(20)
    loop.close()
    assert seen == ["There is no current event loop in thread 'other'."]


@needs_policies
def test_setting_the_policy_warns_only_where_asyncio_does(python):
    code = """if True:
        import asyncio, aioloop, warnings
        policy = aioloop.EventLoopPolicy()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            asyncio.set_event_loop_policy(policy)
        print(len(caught))
        async def main():
            print(type(asyncio.get_running_loop()).__name__)
        asyncio.run(main())
    """
    done = python("-W", "error", "-c", code)
    warned = int(PYTHON >= (3, 14))
    assert (done.stdout, done.stderr) == (f"{warned}\nLoop\n", "")


@pytest.mark.skipif(PYTHON >= (3, 14), reason="child watchers are gone in 3.14")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_child_watchers_of_the_policy_work():
    default = asyncio.DefaultEventLoopPolicy().get_child_watcher()
    policy = aioloop.EventLoopPolicy()
    watcher = policy.get_child_watcher()
    assert type(watcher) is type(default)
    assert policy.get_child_watcher() is watcher
    other = asyncio.ThreadedChildWatcher()
    policy.set_child_watcher(other)
    assert policy.get_child_watcher() is other


@pytest.mark.skipif(PYTHON >= (3, 14), reason="child watchers are gone in 3.14")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["Threaded", "Pidfd", "Safe", "Fast", "MultiLoop"])
def test_subprocesses_with_each_child_watcher(name, installed, debug):
    watcher = getattr(asyncio, f"{name}ChildWatcher")()
    policy = asyncio.get_event_loop_policy()
    assert type(policy) is aioloop.EventLoopPolicy
    policy.set_child_watcher(watcher)

    async def main():
        watcher.attach_loop(asyncio.get_running_loop())
        process = await asyncio.create_subprocess_exec("sh", "-c", "exit 7")
        async with asyncio.timeout(20):
            return await process.wait()

    try:
        assert asyncio.run(main(), debug=debug) == 7
    finally:
        watcher.attach_loop(None)
        policy.set_child_watcher(None)


# install() and uninstall()


def kinds():
    """Return the kinds of loop that asyncio makes, by each way to a new loop."""
    with asyncio.Runner() as runner:
        of_runner = type(runner.get_loop())
    loops = [asyncio.new_event_loop(), asyncio.events.new_event_loop()]
    if POLICIES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            loops.append(asyncio.get_event_loop_policy().new_event_loop())
    if hasattr(asyncio, "EventLoop"):
        loops.append(asyncio.EventLoop())
    for loop in loops:
        loop.close()
    return {asyncio.run(kind_of_loop()), of_runner, *map(type, loops)}


def test_install_changes_every_way_to_a_new_loop(installed):
    assert kinds() == {aioloop.Loop}


def test_uninstall_puts_back_what_was_there():
    before = state()
    aioloop.install()
    assert state() != before
    aioloop.uninstall()
    assert state() == before
    assert kinds() == {asyncio.SelectorEventLoop}


def test_install_is_a_switch_and_not_a_counter():
    before = state()
    aioloop.install()
    once = state()
    aioloop.install()
    assert state() == once
    aioloop.uninstall()
    assert state() == before
    aioloop.uninstall()
    assert state() == before


def test_install_again_after_uninstall(installed):
    aioloop.uninstall()
    assert kinds() == {asyncio.SelectorEventLoop}
    aioloop.install()
    assert kinds() == {aioloop.Loop}


@needs_policies
def test_the_policy_of_somebody_else_survives(request):
    set_policy = _install._Policy().set
    original = state()["policy"]
    request.addfinalizer(lambda: set_policy(original))
    first, second = aioloop.EventLoopPolicy(), aioloop.EventLoopPolicy()

    set_policy(first)
    aioloop.install()
    assert state()["policy"] not in (first, second)
    aioloop.uninstall()
    assert state()["policy"] is first

    aioloop.install()
    set_policy(second)
    aioloop.uninstall()
    assert state()["policy"] is second

    aioloop.install()
    ours = state()["policy"]
    set_policy(second)
    aioloop.install()
    assert state()["policy"] not in (ours, second)
    aioloop.uninstall()
    assert state()["policy"] is second


def test_install_works_without_policies(monkeypatch):
    """asyncio without policies is stood in for by hiding them."""
    before = state()
    monkeypatch.setattr(_install, "policies_exist", lambda: False)
    aioloop.install()
    try:
        assert state()["policy"] is before["policy"]
        assert asyncio.run(kind_of_loop()) is aioloop.Loop
        with asyncio.Runner() as runner:
            assert type(runner.get_loop()) is aioloop.Loop
        loop = asyncio.new_event_loop()
        loop.close()
        assert type(loop) is aioloop.Loop
        assert getattr(asyncio, "EventLoop", aioloop.Loop) is aioloop.Loop
    finally:
        aioloop.uninstall()
    assert state() == before


def test_install_and_uninstall_do_not_warn(python):
    code = """if True:
        import asyncio, aioloop
        aioloop.install()
        aioloop.install()
        async def main():
            print(type(asyncio.get_running_loop()).__name__)
        asyncio.run(main())
        aioloop.uninstall()
        asyncio.run(main())
    """
    done = python("-W", "error", "-c", code)
    theirs = asyncio.SelectorEventLoop.__name__
    assert (done.stdout, done.stderr) == (f"Loop\n{theirs}\n", "")
