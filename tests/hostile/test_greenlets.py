"""A loop that runs in a greenlet: its C stack is copied away while others run.

Playwright's synchronous interface and other bridges use loops in this way. Nothing of
the loop may point into that stack.
"""

import asyncio
import functools
import os
import re
import traceback

import pytest

import aioloop
from tests.conftest import FREE_THREADED

if FREE_THREADED:
    pytest.skip("greenlets switch the GIL on", allow_module_level=True)
import greenlet

pytestmark = [
    pytest.mark.usefixtures("thread_state"),
    pytest.mark.skipif(
        os.environ.get("AIOLOOP_FLAVOUR") == "asan",
        reason="greenlet copies C stacks with the sanitizer's red zones in them",
    ),
]


@pytest.fixture
def switching(debug):
    """A loop that runs in a greenlet, and switches to the main one in every step."""
    loop = aioloop.new_event_loop()
    loop.set_debug(debug)
    loop.set_exception_handler(lambda loop, context: None)
    main, ends = greenlet.getcurrent(), []

    async def work():
        while not ends:
            main.switch()
            await asyncio.sleep(0)

    fiber = greenlet.greenlet(functools.partial(loop.run_until_complete, work()))
    fiber.switch()
    yield loop, fiber
    ends.append(True)
    while not fiber.dead:
        fiber.switch()
    loop.close()


# Ways to lay other frames over those of the loop.


def plain(depth, function):
    return function() if depth == 0 else plain(depth - 1, function)


def by_map(depth, function):
    return (
        function()
        if depth == 0
        else list(map(lambda _: by_map(depth - 1, function), "1"))  # noqa: C417
    )


def by_sort(depth, function):
    return (
        function()
        if depth == 0
        else sorted("1", key=lambda _: by_sort(depth - 1, function) and 0)
    )


def by_regex(depth, function):
    return (
        function()
        if depth == 0
        else re.sub("x", lambda _: (by_regex(depth - 1, function), "")[1], "x")
    )


def report(loop):
    loop.call_exception_handler({"message": "something"})


def make_task(loop):
    task = loop.create_task(asyncio.sleep(0))
    assert task._source_traceback is None or len(task._source_traceback) > 0


def make_future(loop):
    future = loop.create_future()
    traceback.format_list(future._source_traceback or [])


def make_handle(loop):
    handle = loop.call_soon(print, "")
    traceback.format_list(handle._source_traceback or [])
    handle.cancel()


def ask(loop):
    repr(loop._current_handle)
    asyncio.all_tasks(loop)
    repr(loop)


@pytest.mark.parametrize("use", [report, make_task, make_future, make_handle, ask])
def test_the_main_greenlet_uses_a_loop_that_is_switched_out(switching, use):
    loop, fiber = switching

    def use_and_go_on():
        use(loop)
        fiber.switch()

    for depth in range(0, 150, 7):
        for way in (plain, by_map, by_sort, by_regex):
            way(depth, use_and_go_on)


def run_nested(loop, callback):
    """Run the loop once more, as programs do that know the private names."""
    thread = loop._thread_id
    loop._thread_id = None
    asyncio._set_running_loop(None)
    loop.call_soon(callback)
    loop.call_soon(loop.stop)
    try:
        loop.run_forever()
    finally:
        loop._thread_id = thread
        asyncio._set_running_loop(loop)


@pytest.mark.parametrize("order", ["inner first", "outer first"])
def test_two_runs_of_one_loop_end_in_any_order(debug, order):
    loop = aioloop.new_event_loop()
    loop.set_debug(debug)
    main, ends, seen = greenlet.getcurrent(), [], []

    async def outer():
        while not ends:
            main.switch()
            await asyncio.sleep(0)
        ask(loop)
        seen.append("outer")

    def inner():
        ask(loop)
        main.switch()
        ask(loop)
        seen.append("inner")

    fibers = {
        "outer": greenlet.greenlet(lambda: loop.run_until_complete(outer())),
        "inner": greenlet.greenlet(lambda: run_nested(loop, inner)),
    }
    fibers["outer"].switch()
    fibers["inner"].switch()
    ends.append(True)
    for name in (order.split()[0], "outer", "inner"):
        for _ in range(5):
            if not fibers[name].dead:
                plain(30, fibers[name].switch)
                make_future(loop)
    assert sorted(seen) == ["inner", "outer"]
    loop._thread_id = None
    asyncio._set_running_loop(None)
    assert loop.run_until_complete(asyncio.sleep(0, 42)) == 42
    loop.close()


def test_a_nested_run_while_the_loop_is_switched_out(switching):
    loop, fiber = switching
    seen = []
    for depth in range(0, 60, 20):
        by_sort(depth, lambda: run_nested(loop, lambda: seen.append(ask(loop))))
        fiber.switch()
    assert len(seen) == 3
