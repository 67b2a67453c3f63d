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

SOURCES = Path(__file__).parents[2] / "src"
DEPTH = 10


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
    """Return what asyncio's debug mode would keep for the caller."""
    walk = traceback.walk_stack(sys._getframe().f_back)
    stack = traceback.StackSummary.extract(walk, limit=DEPTH, lookup_lines=False)
    stack.reverse()
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
    assert len(captured) == DEPTH


def test_a_capture_shows_the_same_text(walk):
    captured, expected = _core._capture(), expected_stack()
    assert captured.format() == expected.format()
    assert (
        captured[-1].line == "captured, expected = _core._capture(), expected_stack()"
    )
    assert captured[-1].locals is None


def recurse(depth, function):
    return function() if depth == 0 else recurse(depth - 1, function)


@pytest.mark.parametrize("depth", [0, 3, 8, 9, 10, 11, 200])
def test_at_most_ten_frames_are_kept(walk, depth):
    captured = recurse(depth, _core._capture)
    assert len(captured) == DEPTH
    own = [item.name for item in captured]
    assert own[-min(depth + 1, DEPTH) :] == ["recurse"] * min(depth + 1, DEPTH)


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
    before = _core._compared_frames()
    for _ in range(times):
        work()
    return _core._compared_frames() - before


def run_on(new_event_loop):
    with asyncio.Runner(loop_factory=new_event_loop, debug=True) as runner:
        for _ in range(3):
            runner.run(asynchronous_work())


def test_both_walks_agree_in_each_kind_of_call():
    assert compared(synchronous_work, 200) > 20_000


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

    total = 0
    while total < 20_000_000:
        total += compared(work, 1)


def test_both_walks_agree_at_every_garbage_collection():
    def failed(unraisable):
        failures.append(unraisable.exc_value)

    failures = []
    hook, sys.unraisablehook = sys.unraisablehook, failed
    threshold = gc.get_threshold()
    gc.callbacks.append(_core._compare_stacks)
    gc.set_threshold(3)
    try:
        frames = compared(lambda: run_on(aioloop.new_event_loop), 2)
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(_core._compare_stacks)
        sys.unraisablehook = hook
    assert failures == []
    assert frames > 10_000


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

        assert compared(work, 1000) > 5_000
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
    assert len(stack) == DEPTH
    del stack[-1]
    assert len(handle._source_traceback) == DEPTH - 1


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


def test_interned_stacks_go_when_debug_mode_goes(debug_loop):
    for end in (lambda: debug_loop.set_debug(False), debug_loop.close):
        debug_loop.set_debug(True)
        function = make_code("<gone>")
        alive = weakref.ref(function.__code__)
        function(debug_loop.call_soon).cancel()
        del function
        debug_loop.run_until_complete(asyncio.sleep(0))
        gc.collect()
        assert alive() is not None
        end()
        gc.collect()
        assert alive() is None


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
        handle, expected = loop.call_soon(print), expected_stack()
        handle.cancel()
        return places(handle._source_traceback), places(expected)
    return capture_at(depth - 1, loop)


async def capture_below(depth, loop):
    if depth == 0:
        await asyncio.sleep(0)
        return capture_at(1, loop)
    return await capture_below(depth - 1, loop)


def test_a_stack_in_a_running_loop_reaches_below_it(debug_loop, walk):
    async def main():
        found = []
        for depth in (0, 1, 2, 5, 8, 9, 10, 11, 30):
            found.append(capture_at(depth, debug_loop))
            found.append(await capture_below(depth, debug_loop))
            found.append(await asyncio.create_task(capture_below(depth, debug_loop)))
        debug_loop.call_soon(lambda: found.append(capture_at(1, debug_loop)))
        await asyncio.sleep(0)
        return found

    for _ in range(3):  # Each run stands on frames of its own.
        for ours, expected in debug_loop.run_until_complete(main()):
            assert ours == expected
            assert len(ours) == DEPTH


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
