"""The scheduler: order, iterations, stop, exceptions, contexts (src/core/sched)."""

import asyncio
import contextvars
import gc
import signal
import socket
import threading
import time
import weakref

import pytest

import aioloop


def run_once(loop):
    """Run one iteration, and the one that stops the loop is the same."""
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_callbacks_run_first_in_first_out(loop):
    seen = []
    for i in range(300):
        loop.call_soon(seen.append, i)
    run_once(loop)
    assert seen == list(range(300))


def test_what_an_iteration_schedules_runs_in_the_next_one(loop):
    seen = []

    def first():
        seen.append("first")
        loop.call_soon(seen.append, "scheduled by first")

    loop.call_soon(first)
    loop.call_soon(seen.append, "second")
    run_once(loop)
    assert seen == ["first", "second"]
    run_once(loop)
    assert seen == ["first", "second", "scheduled by first"]


def test_stop_lets_the_iteration_finish(loop):
    seen = []
    loop.call_soon(loop.stop)
    loop.call_soon(seen.append, 1)
    loop.run_forever()
    assert seen == [1]


def test_stop_before_run_runs_one_iteration(loop):
    seen = []
    loop.stop()
    loop.call_soon(seen.append, 1)
    loop.run_forever()
    assert seen == [1]
    assert not loop.is_running()


def test_run_once_runs_what_is_ready(loop):
    seen = []
    loop.call_soon(seen.append, 1)
    loop._run_once()
    assert seen == [1]


def test_context_of_a_callback_is_a_copy(loop):
    var = contextvars.ContextVar("var", default="unset")
    seen = []

    def change():
        var.set("changed")
        loop.call_soon(lambda: seen.append(var.get()))

    var_in = contextvars.copy_context()
    var_in.run(var.set, "given")
    loop.call_soon(change)
    loop.call_soon(lambda: seen.append(var.get()), context=var_in)
    run_once(loop)
    run_once(loop)
    assert seen == ["given", "changed"]
    assert var.get() == "unset"


def test_empty_contexts_do_not_leak_between_callbacks(loop):
    var = contextvars.ContextVar("var", default="unset")
    seen = []

    def scenario():
        for value in range(5):
            loop.call_soon(lambda value=value: (seen.append(var.get()), var.set(value)))
        run_once(loop)

    contextvars.Context().run(scenario)
    assert seen == ["unset"] * 5


def test_handle_shows_the_context_its_callback_ran_in(loop):
    var = contextvars.ContextVar("var")
    handle = contextvars.Context().run(loop.call_soon, var.set, "kept")
    run_once(loop)
    assert handle._context[var] == "kept"


def test_exception_in_a_callback_goes_to_the_handler(loop):
    contexts = []
    loop.set_exception_handler(lambda loop, context: contexts.append(context))
    error = ValueError("no")

    def fail():
        raise error

    handle = loop.call_soon(fail)
    loop.call_soon(loop.stop)
    loop.run_forever()
    (context,) = contexts
    assert context["exception"] is error
    assert context["handle"] is handle
    assert context["message"].startswith("Exception in callback ")
    assert "fail" in context["message"]
    assert ("source_traceback" in context) == loop.get_debug()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_exceptions_that_leave_run_forever(loop, kind):
    seen = []

    def leave():
        raise kind

    loop.call_soon(leave)
    loop.call_soon(seen.append, "after")
    with pytest.raises(kind):
        loop.run_forever()
    assert not loop.is_running()
    assert seen == []
    run_once(loop)
    assert seen == ["after"]


def test_exception_handler_that_raises_is_reported_and_the_loop_goes_on(loop, caplog):
    def handler(loop, context):
        raise RuntimeError("handler failed")

    loop.set_exception_handler(handler)
    loop.call_soon(lambda: 1 / 0)
    run_once(loop)
    assert "Unhandled error in exception handler" in caplog.text


def test_running_loop_refuses_to_run_again(loop):
    errors = []

    def again():
        for method in (loop.run_forever, loop.close):
            try:
                method()
            except RuntimeError as exc:
                errors.append(str(exc))
        other = aioloop.new_event_loop()
        try:
            other.run_forever()
        except RuntimeError as exc:
            errors.append(str(exc))
        finally:
            other.close()

    loop.call_soon(again)
    run_once(loop)
    assert errors == [
        "This event loop is already running",
        "Cannot close a running event loop",
        "Cannot run the event loop while another loop is running",
    ]


def test_closed_loop_refuses_work():
    loop = aioloop.new_event_loop()
    loop.close()
    loop.close()
    for call in (
        lambda: loop.call_soon(print),
        lambda: loop.call_soon_threadsafe(print),
        lambda: loop.call_later(1, print),
        lambda: loop.call_at(1, print),
        lambda: loop.run_forever(),
        lambda: loop.add_reader(0, print),
        lambda: loop.add_writer(0, print),
    ):
        with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
            call()
    assert loop.is_closed()
    assert loop.remove_reader(0) is False
    assert "closed=True" in repr(loop)


def test_loop_that_is_not_closed_warns_and_frees_its_descriptors(debug):
    loop = aioloop.new_event_loop()
    loop.set_debug(debug)
    fileno = loop._csock.fileno()
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        del loop
        gc.collect()
    import os

    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fileno)


@pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")
def test_dropped_loop_with_queued_callbacks_is_collected():
    loop = aioloop.new_event_loop()
    gone = weakref.ref(loop)
    loop.call_soon(lambda loop=loop: None)
    loop.call_later(100, lambda loop=loop: None)
    loop.close()
    loop = aioloop.new_event_loop()
    handle_holder = weakref.ref(loop)
    loop.call_soon(lambda loop=loop: None)
    loop.call_later(100, lambda loop=loop: None)
    del loop
    gc.collect()
    assert gone() is None
    assert handle_holder() is None


def test_busy_loop_still_sees_sockets_and_timers(loop):
    """A chain of callbacks starves neither the selector nor the timers."""
    import socket

    ours, theirs = socket.socketpair()
    seen = []

    def chain():
        if len(seen) < 2:
            loop.call_soon(chain)
        else:
            loop.stop()

    def readable():
        loop.remove_reader(ours)
        seen.append("readable")

    with ours, theirs:
        loop.add_reader(ours, readable)
        loop.call_later(0.01, seen.append, "timer")
        loop.call_soon(chain)
        theirs.send(b"x")
        watchdog = threading.Timer(20, loop.call_soon_threadsafe, [loop.stop])
        watchdog.start()
        loop.run_forever()
        watchdog.cancel()
    assert sorted(seen) == ["readable", "timer"]


def test_threads_wake_a_sleeping_loop(loop, thread):
    seen = []

    def other():
        loop.call_soon_threadsafe(seen.append, "first")
        loop.call_soon_threadsafe(seen.append, "second")
        loop.call_soon_threadsafe(loop.stop)

    loop.call_later(20, loop.stop)
    thread(other)
    start = time.monotonic()
    loop.run_forever()
    assert seen == ["first", "second"]
    assert time.monotonic() - start < 10


def test_many_threads_lose_no_callback(loop, thread):
    count = 0
    total = 8 * 500

    def callback():
        nonlocal count
        count += 1
        if count == total:
            loop.stop()

    def other():
        for _ in range(500):
            loop.call_soon_threadsafe(callback)

    for _ in range(8):
        thread(other)
    watchdog = loop.call_later(30, loop.stop)
    loop.run_forever()
    watchdog.cancel()
    assert count == total


def test_loop_runs_in_another_thread_than_the_main_one(debug, thread):
    seen = []

    def target():
        loop = aioloop.new_event_loop()
        loop.set_debug(debug)
        seen.append(loop.run_until_complete(asyncio.sleep(0.001, "done")))
        loop.close()

    thread(target).join(20)
    assert seen == ["done"]


def test_time_is_the_monotonic_clock(loop):
    before = time.monotonic()
    now = loop.time()
    assert before <= now <= time.monotonic()


def test_sigint_is_seen_while_the_loop_sleeps(loop, thread):
    """Ctrl-C ends a wait of a minute at once, whatever thread the kernel signals."""
    import os

    watchdog = loop.call_later(60, loop.stop)

    def interrupt():
        while not loop.is_running():
            os.sched_yield()
        os.kill(os.getpid(), signal.SIGINT)

    thread(interrupt)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert time.monotonic() - start < 10
    watchdog.cancel()


def test_wakeup_fd_of_somebody_else_stays(loop):
    import os

    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    old = signal.set_wakeup_fd(write_end)
    try:
        run_once(loop)
        assert signal.set_wakeup_fd(-1) == write_end
    finally:
        signal.set_wakeup_fd(old)
        os.close(read_end)
        os.close(write_end)


def test_wakeup_fd_is_given_back(loop):
    run_once(loop)
    assert signal.set_wakeup_fd(-1) == -1


def test_signal_handlers_work_and_leave_the_wakeup_alone(loop):
    import os

    seen = []

    def on_signal():
        seen.append("signal")
        loop.stop()

    loop.add_signal_handler(signal.SIGUSR1, on_signal)
    loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
    watchdog = loop.call_later(20, loop.stop)
    loop.run_forever()
    assert seen == ["signal"]
    assert loop.remove_signal_handler(signal.SIGUSR1)
    assert not loop.remove_signal_handler(signal.SIGUSR1)
    watchdog.cancel()


def test_queue_views_show_what_is_queued(loop):
    soon = loop.call_soon(print)
    later = loop.call_later(100, print)
    due = loop.call_later(0, print)
    assert list(loop._ready) == [soon]
    assert {id(timer) for timer in loop._scheduled} == {id(later), id(due)}
    assert len(loop._ready) == 1
    assert len(loop._scheduled) == 2
    loop._ready.clear()
    loop._scheduled.clear()
    assert len(loop._ready) == len(loop._scheduled) == 0
    seen = []
    loop._ready.append(asyncio.Handle(seen.append, (1,), loop))
    loop._ready.append(aioloop.Handle(seen.append, (2,), loop))
    run_once(loop)
    assert seen == [1, 2]


def test_what_came_during_a_long_slot_after_short_ones_is_seen_next(loop, run):
    """The stride of iterations that do not look ends with the kernel's tick."""

    async def main():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            seen = []
            loop.add_reader(ours, lambda: seen.append(ours.recv(1)))
            for i in range(20):
                for _ in range(300 + i):
                    await asyncio.sleep(0)
                theirs.send(b"x")
                time.sleep(0.02)
                for _ in range(3):
                    await asyncio.sleep(0)
                assert len(seen) == i + 1
            loop.remove_reader(ours)

    run(main())
