"""Programs that do to a loop what no program should do."""

import gc
import os
import socket
import sys

import pytest

import aioloop


def run_once(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


class Bomb:
    """Runs a function when it dies."""

    def __init__(self, function):
        self.function = function

    def __del__(self):
        self.function()

    def __call__(self, *args):
        pass


def test_destructors_that_schedule_and_cancel(loop):
    seen = []
    timers = []

    def explode():
        loop.call_soon(seen.append, "from a destructor")
        for timer in timers:
            timer.cancel()
        loop.call_later(0, seen.append, "timer from a destructor")

    for _ in range(200):
        timers.append(loop.call_later(50, Bomb(explode)))
    for timer in timers[::-1]:
        timer.cancel()
    del timer
    timers.clear()
    gc.collect()
    run_once(loop)
    run_once(loop)
    assert seen.count("from a destructor") == 200
    assert seen.count("timer from a destructor") == 200


def test_destructors_that_run_while_the_queues_are_cleared(recwarn):
    loop = aioloop.new_event_loop()
    seen = []

    def explode():
        for method in (loop.call_soon, loop.call_soon_threadsafe):
            try:
                method(print)
            except RuntimeError as exc:
                seen.append(str(exc))

    loop.call_soon(Bomb(explode))
    loop.call_later(10, Bomb(explode))
    loop.call_later(0, Bomb(explode))
    loop.close()
    assert seen == ["Event loop is closed"] * 6


def test_queue_cleared_by_a_running_callback(loop):
    seen = []

    def clear():
        loop._ready.clear()
        loop.call_soon(loop.stop)

    loop.call_soon(clear)
    for _ in range(50):
        loop.call_soon(seen.append, 1)
    loop.run_forever()
    assert seen == []


def test_arguments_with_evil_equality_and_representation(loop, caplog):
    class Evil:
        def __eq__(self, other):
            raise ZeroDivisionError

        def __hash__(self):
            raise ZeroDivisionError

        def __repr__(self):
            raise ZeroDivisionError

        def __bool__(self):
            raise ZeroDivisionError

    evil = Evil()
    loop.call_soon(lambda arg: None, evil)
    loop.call_later(0, lambda *args: None, evil, evil)
    run_once(loop)


def test_callback_whose_representation_fails_while_it_is_reported(loop):
    class Evil:
        def __call__(self):
            raise ValueError("callback")

        def __repr__(self):
            raise RuntimeError("repr")

    loop.call_soon(Evil())
    with pytest.raises(RuntimeError, match="repr"):
        run_once(loop)
    assert not loop.is_running()


def test_reader_that_closes_its_descriptor_and_removes_itself(loop):
    ours, theirs = socket.socketpair()
    seen = []

    def readable():
        seen.append(ours.recv(10))
        loop.remove_reader(ours)
        ours.close()
        theirs.close()
        loop.call_soon(loop.stop)

    loop.add_reader(ours, readable)
    theirs.send(b"x")
    loop.run_forever()
    assert seen == [b"x"]


def test_descriptor_closed_under_its_reader_wakes_nothing(loop):
    ours, theirs = socket.socketpair()
    loop.add_reader(ours, lambda: pytest.fail("a closed descriptor was read"))
    fd = ours.fileno()
    run_once(loop)
    ours.close()
    theirs.close()
    for _ in range(3):
        run_once(loop)
    loop.remove_reader(fd)


def test_nested_run_once_from_a_callback(loop):
    seen = []

    def nested():
        loop.call_soon(seen.append, "inner")
        loop._run_once()
        seen.append("outer")

    loop.call_soon(nested)
    run_once(loop)
    assert seen == ["inner", "outer"]


def test_stop_from_another_thread_by_call_soon_threadsafe(loop, thread):
    loop.call_later(20, pytest.fail)
    thread(lambda: loop.call_soon_threadsafe(loop.stop))
    loop.run_forever()
    loop._scheduled.clear()


def test_call_from_the_wrong_thread_is_refused_in_debug_mode(loop, thread):
    loop.set_debug(True)
    errors = []

    def other():
        for call in (
            lambda: loop.call_soon(print),
            lambda: loop.call_later(1, print),
            lambda: loop.call_at(1, print),
        ):
            try:
                call()
            except RuntimeError as exc:
                errors.append(str(exc))
        loop.call_soon_threadsafe(loop.stop)

    loop.call_soon(thread, other)
    loop.run_forever()
    message = (
        "Non-thread-safe operation invoked on an event loop other than the current one"
    )
    assert errors == [message] * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_forked_child_gets_a_selector_of_its_own(python):
    program = """
import asyncio, os, sys, logging
import aioloop

logging.basicConfig(stream=sys.stdout, format="%(message)s")
loop = aioloop.new_event_loop()
read_end, write_end = os.pipe()
seen = []
loop.add_reader(read_end, lambda: (seen.append(os.read(read_end, 1)), loop.stop()))
loop.run_until_complete(asyncio.sleep(0))
pid = os.fork()
if pid == 0:
    os.write(write_end, b"c")
    loop.run_forever()
    print("child", seen, flush=True)
    loop.remove_reader(read_end)
    loop.close()
    os._exit(0)
os.waitpid(pid, 0)
loop.call_soon_threadsafe(loop.stop)
loop.run_forever()
os.write(write_end, b"p")
loop.run_forever()
print("parent", seen, flush=True)
loop.remove_reader(read_end)
loop.close()
"""
    done = python("-c", program)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert ", made at <string>:" in lines[0]
    assert ", was carried through a fork" in lines[0]
    assert lines[1:] == ["child [b'c']", "parent [b'p']"]


def test_too_many_open_files_is_an_os_error(python):
    program = """
import resource
import aioloop

aioloop.new_event_loop().close()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
for limit in range(3, 9):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        loop = aioloop.new_event_loop()
    except OSError as exc:
        print(exc.errno, end=" ")
    else:
        loop.close()
        print("made", end=" ")
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
aioloop.run(__import__("asyncio").sleep(0))
"""
    done = python("-W", "error", "-c", program)
    assert done.stderr == ""
    results = done.stdout.split()
    assert results[0] == "24"
    assert results[-1] == "made"
    assert results == sorted(results)


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="per-interpreter GIL is new in 3.12"
)
def test_import_in_a_subinterpreter_with_its_own_gil(python):
    if sys.version_info >= (3, 14):
        start = "from concurrent import interpreters; i = interpreters.create()\n"
        run, end = "i.exec", "i.close()\n"
    elif sys.version_info >= (3, 13):
        start = "import _interpreters; i = _interpreters.create('isolated')\n"
        run = "lambda code: _interpreters.exec(i, code)"
        end = "_interpreters.destroy(i)\n"
    else:
        start = "import _xxsubinterpreters as x; i = x.create(isolated=True)\n"
        run, end = "lambda code: x.run_string(i, code)", "x.destroy(i)\n"
    program = (
        "import aioloop\n"
        + start
        + f"run = {run}\n"
        + "run('import aioloop, asyncio; aioloop.run(asyncio.sleep(0.001));"
        + ' print("inner ok", flush=True)\')\n'
        + end
        + "import asyncio; aioloop.run(asyncio.sleep(0.001)); print('outer ok')\n"
    )
    done = python("-c", program)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["inner ok", "outer ok"]
