"""Handle and TimerHandle (src/core/handle)."""

import asyncio
import contextvars
import gc
import sys
import threading
import weakref

import pytest

import aioloop


def run_once(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_handles_are_asyncio_handles(loop):
    handle, timer = loop.call_soon(print), loop.call_later(100, print)
    assert type(handle) is aioloop.Handle
    assert type(timer) is aioloop.TimerHandle
    assert isinstance(handle, asyncio.Handle)
    assert isinstance(timer, asyncio.TimerHandle)
    timer.cancel()


@pytest.mark.parametrize("args", [(), (1,), ((1, 2),), (1, 2), tuple(range(9))])
def test_attributes_that_tools_read(loop, args):
    context = contextvars.copy_context()
    handle = loop.call_soon(max, *args, context=context)
    assert handle._callback is max
    assert handle._args == args
    assert handle._context is context
    assert handle._loop is loop
    assert handle._cancelled is False
    assert handle._repr is None
    assert (handle._source_traceback is not None) == loop.get_debug()
    handle.cancel()
    assert handle._callback is None
    assert handle._args is None
    assert handle._cancelled is True


def test_attributes_that_tools_write(loop):
    seen = []
    handle = loop.call_soon(seen.append, "old")
    original = handle._callback
    handle._callback = lambda *args: (seen.append("wrapped"), original(*args))
    handle._args = ("new",)
    run_once(loop)
    assert seen == ["wrapped", "new"]


def test_handle_made_by_hand_runs_when_asked(loop):
    seen = []
    handle = aioloop.Handle(seen.append, ("x",), loop)
    handle._run()
    timer = aioloop.TimerHandle(5.0, seen.append, ("y",), loop)
    assert timer.when() == 5.0
    assert timer._scheduled is False
    timer._run()
    timer.cancel()
    assert timer.cancelled()
    assert seen == ["x", "y"]


def test_cancelling_from_inside_the_callback_is_safe(loop):
    class Argument:
        pass

    argument = Argument()
    seen = []

    def callback(arg):
        handle.cancel()
        gc.collect()
        seen.append(type(arg).__name__)

    handle = loop.call_soon(callback, argument)
    del argument
    run_once(loop)
    assert seen == ["Argument"]


def test_cancelled_handle_does_not_run(loop):
    handle = loop.call_soon(lambda: 1 / 0)
    handle.cancel()
    handle.cancel()
    assert handle.cancelled()
    run_once(loop)


def test_cancelled_handle_of_debug_mode_keeps_its_representation(loop):
    handle = loop.call_soon(print, "argument")
    handle.cancel()
    assert ("print" in repr(handle)) == loop.get_debug()
    assert "cancelled" in repr(handle)


def test_weak_references_and_cycles(loop):
    class Holder:
        pass

    for delay in (None, 100):
        holder = Holder()
        callback = lambda holder=holder: None  # noqa: E731
        if delay is None:
            holder.handle = loop.call_soon(callback)
        else:
            holder.handle = loop.call_later(delay, callback)
        gone, handle_gone = weakref.ref(holder), weakref.ref(holder.handle)
        if delay is not None:
            holder.handle.cancel()
        del holder, callback
        run_once(loop)
        gc.collect()
        assert gone() is None
        assert handle_gone() is None


def test_queued_handles_survive_collections(loop):
    seen = []
    for i in range(2000):
        loop.call_soon(lambda i=i: seen.append(i))
        if i % 500 == 0:
            gc.collect()
    gc.collect()
    run_once(loop)
    assert seen == list(range(2000))


def test_patched_handle_run_is_honoured(loop, monkeypatch):
    """Profilers and slow-callback reporters patch asyncio.Handle._run."""
    seen = []
    original = asyncio.Handle._run

    def run(self):
        seen.append(self._callback)
        return original(self)

    monkeypatch.setattr(asyncio.Handle, "_run", run)
    loop.call_soon(len, ())
    run_once(loop)
    assert len in seen
    seen.clear()

    async def main():
        await asyncio.sleep(0)

    loop.run_until_complete(main())
    assert seen
    monkeypatch.undo()
    seen.clear()
    run_once(loop)
    assert seen == []


def test_replaced_call_soon_sees_every_call(loop):
    seen = []

    class Loop(aioloop.Loop):
        def call_soon(self, callback, *args, context=None):
            seen.append(callback)
            return super().call_soon(callback, *args, context=context)

    other = Loop()

    async def main():
        future = other.create_future()
        future.add_done_callback(len)
        other.call_soon(future.set_result, ())
        await future
        await asyncio.sleep(0)

    other.set_exception_handler(lambda loop, context: None)
    other.run_until_complete(main())
    assert len in seen
    assert sum("wakeup" in str(callback).lower() for callback in seen) >= 1
    other.close()


def test_size_of_a_handle(loop):
    """At most what the issue of memory allows: a timer and its heap entry."""
    timer = loop.call_later(100, print)
    assert sys.getsizeof(timer) + 24 <= 240
    timer.cancel()


@pytest.mark.skipif(sys.version_info < (3, 14), reason="asyncio's are new in 3.14")
def test_thread_safe_handle_waits_for_its_running_callback(loop, thread):
    """cancel() and cancelled() of another thread end after the callback."""
    order = []
    started, asked = threading.Event(), threading.Event()

    def callback():
        started.set()
        asked.wait(10)
        # The other thread is about to wait, or waits; either way it comes later.
        order.append("callback")

    def other():
        started.wait(10)
        asked.set()
        handle.cancel()
        order.append("cancelled" if handle.cancelled() else "not cancelled")

    handle = loop.call_soon_threadsafe(callback)
    assert isinstance(handle, asyncio.events._ThreadSafeHandle)
    waiting = thread(other)
    run_once(loop)
    waiting.join(10)
    assert order == ["callback", "cancelled"]
    handle._run()
    assert order == ["callback", "cancelled"]


def test_replaced_call_at_sees_call_later(loop):
    seen = []

    class Loop(aioloop.Loop):
        def call_at(self, when, callback, *args, context=None):
            seen.append((callback, args))
            return super().call_at(when, callback, *args, context=context)

    other = Loop()
    other.call_later(0, seen.append, "ran")
    other.call_later(0.001, other.stop)
    other.run_forever()
    other.close()
    assert seen == [(seen.append, ("ran",)), (other.stop, ()), "ran"]


def test_replaced_run_once_is_called(loop):
    class Loop(aioloop.Loop):
        rounds = 0

        def _run_once(self):
            self.rounds += 1
            super()._run_once()

    other = Loop()
    other.run_until_complete(asyncio.sleep(0))
    assert other.rounds >= 2
    other.close()


def test_task_class_that_somebody_replaced_is_used(loop, monkeypatch):
    monkeypatch.setattr(asyncio.tasks, "Task", asyncio.tasks._PyTask)

    async def main():
        return asyncio.current_task()

    task = loop.create_task(asyncio.sleep(0, "done"))
    assert type(task) is asyncio.tasks._PyTask
    assert loop.run_until_complete(task) == "done"
