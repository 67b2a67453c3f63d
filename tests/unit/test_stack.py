"""Raw capture of stacks: the same frames as the public API, whatever runs."""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import functools
import gc
import itertools
import linecache
import operator
import os
import random
import shlex
import subprocess
import sys
import sysconfig
import traceback
import weakref
import zipfile
from pathlib import Path

import pytest

import aioloop
from aioloop import _core
from tests.conftest import HARD, needs_shared_stacks

SOURCES = Path(__file__).parents[2] / "src"
# Of the ten frames that asyncio takes for a handle, it deletes its own two.
HANDLE_FRAMES = 8
# run_forever(), _run_once() and Handle._run() are C functions here.
LOOP_FRAMES = 3


@pytest.fixture(params=["raw", "public"])
def walk(request):
    """Choose each of the two ways to walk a stack."""
    before = _core._use_public_frames(request.param == "public")
    yield request.param
    _core._use_public_frames(before)


@pytest.fixture
def debug_loop():
    loop = aioloop.new_event_loop()
    loop.set_debug(True)
    yield loop
    loop.close()


def expected_stack():
    """Return the caller's whole stack, as asyncio's futures and tasks keep it."""
    return traceback.extract_stack(sys._getframe().f_back)


def expected_stack_of_handle(in_loop=False, skipped=0):
    """Return what asyncio's handles keep of it, asyncio's own frames apart."""
    stack = traceback.extract_stack(sys._getframe(1))
    if in_loop:
        names = [item.name for item in stack]
        below = len(names) - names[::-1].index("run_until_complete")
        stack[below:below] = [None] * LOOP_FRAMES
    stack[:] = stack[-HANDLE_FRAMES + skipped :]
    stack[:] = [item for item in stack if item]
    return stack


def places(stack):
    return [(item.filename, item.lineno, item.name) for item in stack]


# --- the walk -------------------------------------------------------------------------


def test_the_raw_walk_is_in_use():
    # The public functions are for Pythons whose frames are not known.
    before = _core._use_public_frames(False)
    _core._use_public_frames(before)
    assert before is bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def test_the_fall_back_can_be_forced_by_the_environment(python):
    code = "from aioloop import _core; print(_core._use_public_frames(True))"
    result = python("-c", code, env={"AIOLOOP_PUBLIC_FRAMES": "1"})
    assert result.stdout.strip() == "True"


def test_offsets_agree_with_the_internal_headers(tmp_path):
    include = Path(sysconfig.get_path("include"))
    if not (include / "internal" / "pycore_frame.h").is_file():
        pytest.skip("CPython's internal headers are not installed")
    command = [
        *shlex.split(sysconfig.get_config_var("CC")),
        *("-std=c11", "-fsyntax-only", "-w"),
        *(f"-I{include}", f"-I{include / 'internal'}", f"-I{SOURCES}"),
        str(Path(__file__).with_name("frame_offsets.c")),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_a_capture_is_what_asyncio_extracts(walk):
    captured, expected = _core._capture(), expected_stack()
    assert type(captured) is traceback.StackSummary
    assert places(captured) == places(expected)
    assert len(captured) > 10


def test_a_capture_shows_the_same_text(walk):
    captured, expected = _core._capture(), expected_stack()
    assert captured.format() == expected.format()
    assert (
        captured[-1].line == "captured, expected = _core._capture(), expected_stack()"
    )
    assert captured[-1].locals is None


def recurse(depth, function):
    return function() if depth == 0 else recurse(depth - 1, function)


@pytest.mark.parametrize("depth", [0, 3, 63, 64, 65, 255, 256, 257, 900])
def test_futures_and_tasks_keep_all_frames(walk, debug_loop, depth):
    def capture():
        return debug_loop.create_future()._source_traceback, expected_stack()

    captured, expected = recurse(depth, capture)
    assert places(captured) == places(expected)


@pytest.mark.parametrize("depth", [0, 1, 5, 6, 7, 8, 9, 200])
def test_handles_keep_as_many_frames_as_asyncios(walk, debug_loop, depth):
    def capture():
        found = [
            debug_loop.call_soon(print)._source_traceback,
            debug_loop.call_at(0, print)._source_traceback,
            debug_loop.call_soon_threadsafe(print)._source_traceback,
        ]
        expected = expected_stack_of_handle()
        timer = debug_loop.call_later(1, print)._source_traceback
        return found, expected, timer, expected_stack_of_handle(skipped=1)

    found, expected, timer, expected_of_timer = recurse(depth, capture)
    for captured in found:
        assert places(captured)[:-1] == places(expected)[:-1]
    assert places(timer)[:-1] == places(expected_of_timer)[:-1]
    assert len(found[0]) == HANDLE_FRAMES
    assert len(timer) == HANDLE_FRAMES - 1


@pytest.mark.parametrize("limit", [1000, 3, 1, 0, -1])
def test_the_traceback_limit_counts_where_it_counts_in_asyncio(
    debug_loop, monkeypatch, limit
):
    future, handle = debug_loop.create_future(), debug_loop.call_soon(print)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "tracebacklimit", limit, raising=False)
        expected = places(traceback.extract_stack())
        shown = ["created at" in repr(thing) for thing in (future, handle)]
        found, of_handle = future._source_traceback, handle._source_traceback
    assert shown == [limit > 0, True]
    assert places(found)[:-1] == expected[:-1]
    assert len(found) == len(expected)
    assert len(of_handle) == HANDLE_FRAMES


def test_no_python_frame_gives_an_empty_stack(walk):
    captured = []
    finished = _thread.allocate_lock()
    finished.acquire()
    # A thread without any Python code: C functions called by C functions.
    once = itertools.islice(iter(_core._capture, None), 1)
    signal = itertools.islice(iter(finished.release, 0), 1)
    _thread.start_new_thread(captured.extend, (itertools.chain(once, signal),))
    assert finished.acquire(timeout=20)
    assert captured[0] == []
    assert type(captured[0]) is traceback.StackSummary


# --- comparison with the public functions ---------------------------------------------


def generator(n):
    for i in range(n):
        received = yield i
        if received:
            _core._compare_stacks()


def delegating(n):
    yield from generator(n)
    return (yield from map(_core._compare_stacks, range(n)))


@contextlib.contextmanager
def managed():
    _core._compare_stacks()
    yield
    _core._compare_stacks()


class Evil:
    """Compares wherever the interpreter calls a method of it."""

    def __del__(self):
        _core._compare_stacks()

    def __eq__(self, other):
        _core._compare_stacks()
        return NotImplemented

    __hash__ = object.__hash__

    def __lt__(self, other):
        return _core._compare_stacks() > 3

    def __getattr__(self, name):
        _core._compare_stacks()
        raise AttributeError(name)

    @property
    def computed(self):
        return _core._compare_stacks()


class EvilInC:
    __del__ = _core._compare_stacks


def synchronous_work():
    list(delegating(4))
    one = generator(4)
    one.send(None)
    one.send(True)
    one.close()
    with managed(), managed():
        pass
    sorted([Evil() for _ in range(4)])
    sorted(range(5), key=lambda i: (_core._compare_stacks(), -i))
    functools.reduce(
        lambda a, b: a + b, map(functools.partial(operator.mul, 2), range(5))
    )
    getattr(Evil(), "absent", None)
    Evil().computed  # noqa: B018
    [_core._compare_stacks() for _ in range(3)]
    EvilInC()
    space = {"compare": _core._compare_stacks}
    blank = "\n" * random.randrange(9)
    source = f"def f(n):{blank}\n    return compare(), [compare() for _ in 'ab']\n"
    exec(compile(source, f"<made {random.random()}>", "exec"), space)
    space["f"](1)
    eval("(lambda: compare())()", space)
    type("Made", (), {"x": _core._compare_stacks(), "__del__": Evil.__del__})()
    weakref.ref(Evil(), _core._compare_stacks)
    cycle = [Evil()]
    cycle.append(cycle)
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        _core._compare_stacks()


async def async_generator(n):
    try:
        for i in range(n):
            await asyncio.sleep(0)
            yield i
    finally:
        _core._compare_stacks()


async def coroutine(depth):
    if depth == 0:
        await asyncio.sleep(0)
        _core._compare_stacks()
        synchronous_work()
        return 1
    return await coroutine(depth - 1)


async def asynchronous_work():
    await asyncio.gather(*(coroutine(depth) for depth in range(8)))
    async for i in async_generator(3):
        if i == 1:
            break
    assert [i async for i in async_generator(3)] == [0, 1, 2]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0):
            await asyncio.sleep(1)
    loop = asyncio.get_running_loop()
    loop.call_soon(_core._compare_stacks)
    future = loop.create_future()
    future.add_done_callback(_core._compare_stacks)
    future.set_result(None)
    await future


def compared(work, times):
    before, _ = _core._compared()
    for _ in range(times):
        work()
    return _core._compared()[0] - before


def run_on(new_event_loop):
    with asyncio.Runner(loop_factory=new_event_loop, debug=True) as runner:
        for _ in range(3):
            runner.run(asynchronous_work())


def test_both_walks_agree_in_each_kind_of_call():
    assert compared(synchronous_work, 200) > 5000


@pytest.mark.parametrize(
    "new_event_loop", [aioloop.new_event_loop, asyncio.SelectorEventLoop]
)
def test_both_walks_agree_at_every_profile_event(new_event_loop):
    def work():
        sys.setprofile(_core._compare_stacks)
        try:
            run_on(new_event_loop)
            assert sys.getprofile() is _core._compare_stacks  # No comparison failed.
        finally:
            sys.setprofile(None)

    stacks = 0
    while stacks < 2_000_000:
        stacks += compared(work, 1)
    assert _core._compared()[1] > 10 * stacks  # frames


def test_both_walks_agree_in_many_threads(thread):
    # The interpreter switches threads in the middle of each other's calls.
    def work():
        sys.setprofile(_core._compare_stacks)
        try:
            for _ in range(10):
                synchronous_work()
                run_on(aioloop.new_event_loop)
            agreed.append(sys.getprofile() is _core._compare_stacks)
        finally:
            sys.setprofile(None)

    agreed = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        assert compared(lambda: join([thread(work) for _ in range(4)]), 1) > 100_000
    finally:
        sys.setswitchinterval(interval)
    assert agreed == [True] * 4


def join(threads):
    for one in threads:
        one.join(60)


def test_both_walks_agree_at_every_garbage_collection():
    def failed(unraisable):
        failures.append(unraisable.exc_value)

    failures = []
    hook, sys.unraisablehook = sys.unraisablehook, failed
    threshold = gc.get_threshold()
    gc.callbacks.append(_core._compare_stacks)
    gc.set_threshold(3)
    try:
        stacks = compared(lambda: run_on(aioloop.new_event_loop), 2)
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(_core._compare_stacks)
        sys.unraisablehook = hook
    assert failures == []
    assert stacks > 1000


def test_both_walks_agree_in_hooks_called_from_c():
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(_core._compare_stacks, _core._compare_stacks)
    try:

        def work():
            agen = async_generator(2)
            step = agen.asend(None)
            step.send(None)
            step.close()
            del step, agen

        assert compared(work, 1000) >= 2000
    finally:
        sys.set_asyncgen_hooks(*hooks)


def test_a_walk_at_exit_finds_what_the_public_functions_find(python):
    code = "import atexit, aioloop._core as c; atexit.register(c._compare_stacks)"
    result = python("-c", code)
    assert (result.returncode, result.stderr) == (0, "")


# --- interned stacks ------------------------------------------------------------------


def test_the_same_list_is_read_each_time_and_keeps_its_changes(debug_loop, walk):
    handle = debug_loop.call_soon(print)
    stack = handle._source_traceback
    assert type(stack) is traceback.StackSummary
    assert handle._source_traceback is stack
    assert len(stack) == HANDLE_FRAMES
    del stack[-1]
    assert len(handle._source_traceback) == HANDLE_FRAMES - 1


@needs_shared_stacks
def test_objects_from_one_place_share_items_but_no_list(debug_loop):
    one, two = (debug_loop.call_soon(print) for _ in range(2))
    assert one._source_traceback is not two._source_traceback
    assert one._source_traceback == two._source_traceback
    shared = zip(one._source_traceback, two._source_traceback, strict=True)
    assert all(a is b for a, b in shared)


def test_a_source_traceback_can_be_set_and_deleted(debug_loop):
    handle = debug_loop.call_soon(print)
    handle._source_traceback = marker = ["x"]
    assert handle._source_traceback is marker
    del handle._source_traceback
    assert handle._source_traceback is None
    debug_loop.set_debug(False)
    assert debug_loop.call_soon(print)._source_traceback is None


def test_more_places_than_the_table_holds_are_told_apart(debug_loop):
    lines = 6000
    source = "\n".join(["append(soon(f))"] * lines)
    handles, space = [], {"soon": debug_loop.call_soon, "f": print}
    space["append"] = handles.append
    code = compile(source, "<many>", "exec")
    for _ in range(2):
        exec(code, space)
    found = [handle._source_traceback[-1].lineno for handle in handles]
    assert found == [*range(1, lines + 1)] * 2


def make_code(name):
    space = {}
    exec(compile("def f(soon):\n    return soon(print)\n", name, "exec"), space)
    return space["f"]


def test_a_stack_keeps_its_code(debug_loop):
    function = make_code("<gone>")
    handle = function(debug_loop.call_soon)
    del function
    gc.collect()
    junk = [make_code(f"<junk {i}>") for i in range(100)]
    assert places(handle._source_traceback)[-1] == ("<gone>", 2, "f")
    del junk


@needs_shared_stacks
def test_interned_stacks_go_when_debug_mode_goes(debug_loop):
    for end in (lambda: debug_loop.set_debug(False), debug_loop.close):
        debug_loop.set_debug(True)
        function = make_code("<gone>")
        alive = weakref.ref(function.__code__)
        function(debug_loop.call_soon).cancel()
        del function
        debug_loop.run_until_complete(asyncio.sleep(0))
        gc.collect()
        assert HARD or alive() is not None  # Its table holds two stacks.
        end()
        gc.collect()
        assert alive() is None


@needs_shared_stacks
def test_a_code_objects_last_reference_may_go_in_a_capture(debug_loop):
    # The weak reference's callback schedules too: a capture inside a capture.
    died = []

    def note(reference):
        died.append(debug_loop.call_soon(print))

    references = []
    for i in range(20_000):
        function = make_code(f"<short-lived {i % 10}>")
        references.append(weakref.ref(function.__code__, note))
        function(debug_loop.call_soon)
        if i % 500 == 0:
            debug_loop.run_until_complete(asyncio.sleep(0))
            if len(died) > 100:
                break
    assert len(died) > 100
    assert {item._source_traceback[-1].name for item in died} == {"note"}


# --- inside a running loop ------------------------------------------------------------


def capture_at(depth, loop):
    if depth == 0:
        handle, expected = loop.call_soon(print), expected_stack_of_handle(True)
        later, less = loop.call_later(0, print), expected_stack_of_handle(True, 1)
        future, whole = loop.create_future(), expected_stack()
        handle.cancel()
        later.cancel()
        return [
            (places(ours._source_traceback), places(expected_one))
            for ours, expected_one in [
                (handle, expected),
                (later, less),
                (future, whole),
            ]
        ]
    return capture_at(depth - 1, loop)


async def capture_below(depth, loop):
    if depth == 0:
        await asyncio.sleep(0)
        return capture_at(1, loop)
    return await capture_below(depth - 1, loop)


def test_a_stack_in_a_running_loop_reaches_below_it(debug_loop, walk):
    async def main():
        found = []
        for depth in (0, 1, 2, 5, 8, 9, 10, 11, 30, 100):
            found += capture_at(depth, debug_loop)
            found += await capture_below(depth, debug_loop)
            found += await asyncio.create_task(capture_below(depth, debug_loop))
        debug_loop.call_soon(lambda: found.extend(capture_at(1, debug_loop)))
        await asyncio.sleep(0)
        return found

    for _ in range(3):  # Each run stands on frames of its own.
        found = debug_loop.run_until_complete(main())
        assert len(found) == 31 * 3
        for ours, expected in found:
            assert ours == expected


def test_a_loop_run_from_deep_below_has_all_its_frames(debug_loop, walk):
    async def main():
        return capture_at(2, debug_loop)

    def run():
        return debug_loop.run_until_complete(main())

    for ours, expected in recurse(300, run):
        assert ours == expected
    assert len(ours) > 300


def test_a_stack_of_another_thread_has_nothing_of_the_loop(debug_loop, thread):
    found = []

    def other(done):
        handle = debug_loop.call_soon_threadsafe(print)
        found.append(handle._source_traceback)
        debug_loop.call_soon_threadsafe(done.set_result, None)

    async def main():
        done = debug_loop.create_future()
        thread(other, done)
        await asyncio.wait_for(done, 20)

    debug_loop.run_until_complete(main())
    names = [item.name for item in found[0]]
    assert names[-2:] == ["run", "other"]
    assert "main" not in names and "run_until_complete" not in names


# --- source text ----------------------------------------------------------------------


def test_source_of_a_module_in_an_archive_is_found(tmp_path, monkeypatch, debug_loop):
    archive = tmp_path / "modules.zip"
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr(
            "in_archive.py", "def f(soon):\n    return soon(print)  # here\n"
        )
    monkeypatch.syspath_prepend(archive)
    import in_archive

    try:
        handle = in_archive.f(debug_loop.call_soon)
        assert handle._source_traceback[-1].line == "return soon(print)  # here"
    finally:
        del sys.modules["in_archive"]


def test_a_changed_file_is_noticed_as_asyncio_notices(tmp_path, debug_loop):
    path = tmp_path / "changing.py"
    path.write_text("soon(print)  # first\n")
    linecache.getlines(str(path))
    path.write_text("\nsoon(print)  # second\n")
    handles = []
    space = {"soon": lambda f: handles.append(debug_loop.call_soon(f))}
    exec(compile(path.read_text(), str(path), "exec"), space)
    assert handles[0]._source_traceback[-2].line == "soon(print)  # second"


def test_reading_a_stack_makes_no_blocking_call_of_its_own(monkeypatch, debug_loop):
    # blockbuster and its like replace os.stat and allow it to linecache.
    handle = debug_loop.call_soon(print)
    linecache.clearcache()

    def refuse(*args, **kwargs):
        raise AssertionError("a blocking call")

    monkeypatch.setattr(os, "stat", refuse)
    monkeypatch.setattr(os, "access", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    summary = handle._source_traceback
    monkeypatch.undo()
    assert summary[-1].filename == __file__
    handle.cancel()
