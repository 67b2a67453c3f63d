"""Loops, handles, timers and watched descriptors leave nothing behind."""

import asyncio
import gc
import os
import socket
import time
import weakref

import pytest

import aioloop
from aioloop import testing


def run_once(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_making_and_closing_loops(no_leak):
    no_leak(lambda: aioloop.new_event_loop().close(), rounds=300)


def test_running_loops(no_leak):
    async def main():
        return 1

    no_leak(lambda: aioloop.run(main()), rounds=300)


def test_loops_with_faults_and_a_trace(no_leak):
    faults = testing.Faults(short_io=0.5, delay_io=0.3, slow_callback=0.3)

    async def main():
        loop = asyncio.get_running_loop()
        one, other = socket.socketpair()
        one.setblocking(False)
        other.setblocking(False)
        with one, other:
            for _ in range(5):
                receiving = asyncio.create_task(loop.sock_recv(one, 10))
                await asyncio.sleep(0)
                await loop.sock_sendall(other, b"data")
                await receiving
        raise ValueError

    def round():
        with pytest.raises(ValueError):
            testing.run(main(), faults=faults, seed=1)

    no_leak(round, rounds=100)


def test_callbacks(loop, no_leak):
    def round():
        loop.call_soon(len, ())
        loop.call_soon(max, 1, 2, 3)
        loop.call_soon(len, ()).cancel()
        loop.call_soon_threadsafe(len, ())
        run_once(loop)

    no_leak(round)


def test_timers(loop, no_leak):
    def round():
        loop.call_later(0, len, ())
        loop.call_later(1000, len, ()).cancel()
        first, second = (loop.call_later(1000 + i, len, ()) for i in range(2))
        first.cancel()
        second.cancel()
        loop.call_at(0, max, 1, 2)
        run_once(loop)

    no_leak(round)


def test_failing_callbacks(loop, no_leak):
    loop.set_exception_handler(lambda loop, context: None)

    def round():
        loop.call_soon(lambda: 1 / 0)
        run_once(loop)

    no_leak(round, rounds=300)


def test_handles_in_cycles(loop, no_leak):
    class Holder:
        pass

    def round():
        holder = Holder()
        holder.handle = loop.call_soon(lambda holder=holder: None)
        holder.timer = loop.call_later(1000, lambda holder=holder: None)
        holder.timer.cancel()
        run_once(loop)

    no_leak(round, rounds=300)


def test_watched_descriptors(loop, no_leak):
    def round():
        ours, theirs = socket.socketpair()
        theirs.send(b"x")
        loop.add_reader(ours, ours.recv, 1)
        loop.add_writer(ours, len, ())
        run_once(loop)
        loop.remove_reader(ours)
        loop.remove_writer(ours)
        ours.close()
        theirs.close()

    no_leak(round, rounds=300)


def test_refused_calls(loop, no_leak):
    def refused(call, *args, **kwargs):
        try:
            call(*args, **kwargs)
        except (TypeError, ValueError, OSError):
            return
        raise AssertionError("accepted")

    read_end, write_end = os.pipe()
    os.close(read_end)

    def round():
        refused(loop.call_soon)
        refused(loop.call_soon, len, x=1)
        refused(loop.call_later, "1", len)
        refused(loop.call_later, None, len)
        refused(loop.call_at, None, len)
        refused(loop.add_reader, read_end, len)
        refused(loop.add_reader, "x", len)
        refused(loop.create_task, 1)

    no_leak(round, rounds=300)
    os.close(write_end)


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later"])
@pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")
def test_dropped_loop_with_a_pending_handle_dies(method):
    """Nobody closed it: the collector finds it all the same."""
    loop = aioloop.new_event_loop()
    getattr(loop, method)(*(() if method != "call_later" else (1000,)), int)
    alive = weakref.ref(loop)
    del loop
    gc.collect()
    assert alive() is None


def test_blocking_calls_that_are_logged(loop, no_leak):
    def round():
        loop.blocking_calls = "log"
        loop.call_soon(open, os.devnull + "/nothing", "rb")
        run_once(loop)
        loop.blocking_calls = None

    loop.set_exception_handler(lambda loop, context: None)
    no_leak(round, rounds=300)


def test_blocking_calls_that_raise(loop, no_leak):
    def block():
        with aioloop.allow_blocking():
            time.sleep(1e-9)
        with pytest.raises(aioloop.BlockingCallError):
            time.sleep(1)

    def round():
        loop.call_soon(block)
        run_once(loop)

    loop.blocking_calls = "raise"
    no_leak(round, rounds=300)


def test_loops_that_watch_for_blocking_calls(no_leak):
    async def main():
        with pytest.raises(aioloop.BlockingCallError):
            time.sleep(1)

    def round():
        loop = aioloop.new_event_loop()
        loop.blocking_calls = "raise"
        loop.run_until_complete(main())
        loop.close()

    no_leak(round, rounds=300)
