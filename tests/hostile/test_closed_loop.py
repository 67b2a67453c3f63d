"""A loop that is closed when nobody expects it, and what is asked of a closed one."""

import asyncio
import gc
import signal
import socket
import sys
import threading

import pytest

import aioloop
from tests.conftest import needs_gil

pytestmark = pytest.mark.usefixtures("thread_state")


def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return ours, theirs


# Each makes something on a loop, with a connected socket as material.
CREATORS = {
    "datagram endpoint": lambda loop, sock: loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    ),
    "datagram endpoint of a socket": lambda loop, sock: loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, sock=sock
    ),
    "connection": lambda loop, sock: loop.create_connection(
        asyncio.Protocol, sock=sock
    ),
    "accepted socket": lambda loop, sock: loop.connect_accepted_socket(
        asyncio.Protocol, sock
    ),
    "server": lambda loop, sock: loop.create_server(asyncio.Protocol, "127.0.0.1", 0),
    "reading pipe": lambda loop, sock: loop.connect_read_pipe(asyncio.Protocol, sock),
    "writing pipe": lambda loop, sock: loop.connect_write_pipe(asyncio.Protocol, sock),
    "process": lambda loop, sock: loop.subprocess_exec(
        asyncio.SubprocessProtocol, sys.executable, "-c", ""
    ),
    "sock_recv": lambda loop, sock: loop.sock_recv(sock, 10),
    "sock_accept": lambda loop, sock: loop.sock_accept(sock),
    "sock_connect": lambda loop, sock: loop.sock_connect(sock, "/nonexistent"),
    "getaddrinfo": lambda loop, sock: loop.getaddrinfo("localhost", 80),
    "reader": lambda loop, sock: loop.add_reader(sock, print),
    "writer": lambda loop, sock: loop.add_writer(sock, print),
    "signal handler": lambda loop, sock: loop.add_signal_handler(signal.SIGUSR2, print),
    "call_soon": lambda loop, sock: loop.call_soon(print),
    "call_soon_threadsafe": lambda loop, sock: loop.call_soon_threadsafe(print),
    "call_later": lambda loop, sock: loop.call_later(0, print),
    "executor": lambda loop, sock: loop.run_in_executor(None, print),
    "run_forever": lambda loop, sock: loop.run_forever(),
    "_run_once": lambda loop, sock: loop._run_once(),
    "stream": lambda loop, sock: loop._make_socket_transport(sock, asyncio.Protocol()),
    "datagrams": lambda loop, sock: loop._make_datagram_transport(
        sock, asyncio.DatagramProtocol()
    ),
    "reads": lambda loop, sock: loop._make_read_pipe_transport(
        sock, asyncio.Protocol()
    ),
    "writes": lambda loop, sock: loop._make_write_pipe_transport(
        sock, asyncio.Protocol()
    ),
    "listener": lambda loop, sock: loop._start_serving(asyncio.Protocol, sock),
}


def outcome(loop, name):
    """What the creator comes to: an exception, or None."""
    ours, theirs = pair()
    try:
        made = CREATORS[name](loop, ours)
        if asyncio.iscoroutine(made) or hasattr(made, "__await__"):
            other = aioloop.new_event_loop()
            try:
                other.run_until_complete(asyncio.wait_for(made, 5))
            finally:
                other.close()
    except (RuntimeError, ValueError, TypeError, OSError, TimeoutError) as exc:
        return exc
    except AttributeError as exc:
        return exc
    finally:
        ours.close()
        theirs.close()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", CREATORS)
def test_creators_of_a_closed_loop(debug, name):
    def of(make):
        loop = make()
        loop.set_debug(debug)
        loop.close()
        return outcome(loop, name)

    ours, theirs = of(aioloop.new_event_loop), of(asyncio.SelectorEventLoop)
    if isinstance(theirs, RuntimeError):
        assert (type(ours), str(ours)) == (type(theirs), str(theirs))
    elif theirs is not None:
        assert ours is not None
    del ours, theirs
    gc.collect()  # what was half made


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", CREATORS)
def test_creators_of_a_loop_that_claims_to_be_open(debug, name):
    loop = aioloop.new_event_loop()
    loop.set_debug(debug)
    loop.close()
    loop._closed = False
    outcome(loop, name)
    with pytest.raises(RuntimeError, match="closed"):
        loop.run_forever()
    loop._closed = True
    del loop
    gc.collect()


# --- closed between run_forever's look and its start --------------------------------


class Tracing:
    """Close a loop at the n-th event of what Python code run_forever runs."""

    def __init__(self, loop, when):
        self.loop, self.left, self.outcome = loop, when, "not reached"

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self.trace)

    def __exit__(self, *exc_info):
        sys.settrace(self.before)

    def trace(self, frame, event, arg):
        self.left -= 1
        if self.left == 0:
            sys.settrace(None)
            try:
                self.loop.close()
                self.outcome = "closed"
            except RuntimeError:
                self.outcome = "refused"
        return self.trace


def test_close_at_every_moment_of_run_forever(debug):
    seen = set()
    for when in range(1, 1000):
        loop = aioloop.new_event_loop()
        loop.set_debug(debug)
        loop.call_soon(loop.stop)
        tracing = Tracing(loop, when)
        with tracing:
            try:
                loop.run_forever()
            except RuntimeError as exc:
                assert "Event loop is closed" in str(exc)
                assert tracing.outcome == "closed"
        assert asyncio._get_running_loop() is None
        assert not loop.is_running()
        loop.close()
        seen.add(tracing.outcome)
        if tracing.outcome == "not reached":
            break
    assert seen == {"closed", "refused", "not reached"}


def close_as_in_a_race(loop):
    """What close() does that has looked before the loop began to run."""
    loop._closed = True
    loop._ready.clear()
    loop._scheduled.clear()
    with pytest.raises(RuntimeError, match="running"):
        loop._selector.close()


def test_close_that_has_looked_before_the_loop_ran(loop):
    loop.call_soon(close_as_in_a_race, loop)
    loop.call_soon(print)
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.run_forever()
    assert loop.is_closed() and not loop.is_running()


@needs_gil("another thread may not change the queues")
def test_close_by_another_thread_wakes_the_loop(loop, thread):
    waiting = threading.Event()

    def close():
        assert waiting.wait(20)
        close_as_in_a_race(loop)

    closer = thread(close)
    loop.call_soon(waiting.set)
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.run_forever()
    closer.join(20)
    assert loop.is_closed() and not loop.is_running()


# --- a second thread ---------------------------------------------------------------


@pytest.mark.parametrize("what", ["run_forever", "_run_once", "select", "slot"])
def test_a_second_thread_does_not_run_a_running_loop(loop, thread, what):
    seen, outcomes, slots = [], [], []
    task = loop.create_task(asyncio.sleep(0, "slept"))
    runs = {
        "run_forever": loop.run_forever,
        "_run_once": loop._run_once,
        "select": lambda: loop._selector.select(0),
        "slot": lambda: slots[0]._run(),
    }

    def intrude():
        loop._thread_id = None
        try:
            runs[what]()
            outcomes.append("ran")
        except RuntimeError as exc:
            outcomes.append(str(exc))

    def callback():
        if what == "slot":  # the task's second step
            slots.append(loop._ready.popleft())
        thread(intrude).join(20)
        for slot in slots:
            slot._run()
        seen.append("ran")

    loop.call_soon(callback)
    task.add_done_callback(lambda task: loop.stop())
    loop.run_forever()
    assert task.result() == "slept" and seen == ["ran"]
    assert outcomes == ["This event loop is already running"]
