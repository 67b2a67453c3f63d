"""add_reader and add_writer (src/core/fds)."""

import gc
import os
import select
import socket
import sys
import tempfile
import weakref

import pytest

from tests.conftest import PORTABLE, unused_number, with_number


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def run_for(loop, seconds):
    loop.call_later(seconds, loop.stop)
    loop.run_forever()


def test_reader_runs_for_each_event_until_removed(loop, pair):
    ours, theirs = pair
    seen = []

    def readable(tag):
        seen.append((tag, ours.recv(1)))
        if len(seen) == 3:
            loop.stop()

    loop.add_reader(ours, readable, "tag")
    theirs.send(b"abc")
    loop.run_forever()
    assert seen == [("tag", b"a"), ("tag", b"b"), ("tag", b"c")]
    assert loop.remove_reader(ours) is True
    assert loop.remove_reader(ours) is False
    theirs.send(b"d")
    run_for(loop, 0.005)
    assert len(seen) == 3


def test_reader_and_writer_of_one_descriptor(loop, pair):
    ours, theirs = pair
    seen = []
    loop.add_reader(ours, lambda: (seen.append("read"), ours.recv(1)))
    loop.add_writer(ours, lambda: (seen.append("write"), loop.stop()))
    theirs.send(b"x")
    loop.run_forever()
    assert seen == ["read", "write"]
    assert loop.remove_writer(ours)
    theirs.send(b"x")
    run_for(loop, 0.005)
    assert seen == ["read", "write", "read"]
    assert loop.remove_reader(ours)


def test_new_reader_replaces_and_cancels_the_old_one(loop, pair):
    ours, theirs = pair
    seen = []
    first = loop._add_reader(ours, seen.append, "first")
    loop.add_reader(ours, lambda: (seen.append("second"), ours.recv(1), loop.stop()))
    assert first.cancelled()
    theirs.send(b"x")
    loop.run_forever()
    assert seen == ["second"]
    loop.remove_reader(ours)


def test_reader_removed_by_a_callback_before_it_does_not_run(loop, pair):
    ours, theirs = pair
    seen = []
    loop.add_reader(ours, seen.append, "read")
    theirs.send(b"x")
    loop.call_soon(loop.remove_reader, ours)
    run_for(loop, 0.005)
    assert seen == []


def test_descriptor_number_that_is_reused_is_watched_anew(loop):
    seen = []
    for round in range(5):
        ours, theirs = socket.socketpair()
        fd = ours.fileno()
        loop.add_reader(fd, lambda round=round: (seen.append(round), loop.stop()))
        if round % 2 == 0:
            theirs.send(b"x")
            watchdog = loop.call_later(10, loop.stop)
            loop.run_forever()
            watchdog.cancel()
        # Closed behind the loop's back: the number is free for the next round.
        ours.close()
        theirs.close()
        if round != 3:
            loop.remove_reader(fd)
    assert seen == [0, 2, 4]


def test_bad_descriptors_are_refused_at_once(loop):
    with pytest.raises(OSError, match="Bad file descriptor"):
        loop.add_reader(12345, print)
    with pytest.raises(ValueError, match="Invalid file"):
        loop.add_reader("no file", print)
    with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
        loop.add_reader(-1, print)
    assert list(loop._selector.get_map()) == []


def test_regular_files_are_refused_as_epoll_refuses_them(loop):
    with tempfile.TemporaryFile() as file, pytest.raises(PermissionError):
        loop.add_reader(file, print)


def open_file(kind):
    if kind == "eventfd":
        return os.eventfd(1)
    if kind == "pidfd":
        return os.pidfd_open(os.getpid())
    if kind == "memfd":
        return os.memfd_create("x")
    if kind == "fifo":
        reader, writer = os.pipe()
        os.close(writer)
        return reader
    if kind == "epoll":
        with select.epoll() as made:
            return os.dup(made.fileno())
    return os.open(kind, os.O_RDONLY)


@pytest.mark.skipif(sys.platform != "linux", reason="what epoll says")
@pytest.mark.skipif(PORTABLE, reason="elsewhere the type of a file decides")
@pytest.mark.parametrize(
    "kind",
    [
        "eventfd",
        "pidfd",
        "memfd",
        "fifo",
        "epoll",
        "/",
        "/dev/null",
        "/dev/urandom",
        "/etc/passwd",
        "/proc/cpuinfo",
        "/proc/self/mounts",
        "/sys/kernel/uevent_seqnum",
    ],
)
def test_the_kernel_says_what_can_be_watched(loop, kind):
    try:
        fd = open_file(kind)
    except OSError as exc:
        pytest.skip(f"not here: {exc}")
    error = None
    with select.epoll() as judge:
        try:
            judge.register(fd, select.EPOLLIN)
        except OSError as exc:
            error = exc
    try:
        for add in loop.add_reader, loop.add_writer:
            if error is None:
                add(fd, print)
            else:
                with pytest.raises(type(error)) as caught:
                    add(fd, print)
                assert str(caught.value) == str(error)
        assert loop.remove_reader(fd) is (error is None)
        assert loop.remove_writer(fd) is (error is None)
    finally:
        os.close(fd)


def test_numbers_that_are_no_descriptors(loop):
    for number in -1, -(2**31) - 1, -(2**64):
        for method in loop.remove_reader, loop.remove_writer:
            with pytest.raises(ValueError, match=f"Invalid file descriptor: {number}"):
                method(number)
        with pytest.raises(ValueError, match=f"Invalid file descriptor: {number}"):
            loop.add_reader(number, print)
    for number in 2**31, 2**32 + 1, 2**63, 2**64:
        assert loop.remove_reader(number) is False
        assert loop.remove_writer(number) is False
        with pytest.raises(OverflowError, match="Python int too large"):
            loop.add_reader(number, print)
        with pytest.raises(KeyError):
            loop._selector.get_key(number)


def test_selector_view_shows_what_is_watched(loop, pair):
    ours, _ = pair
    handle = loop._add_reader(ours, print)
    key = loop._selector.get_key(ours)
    assert key.fd == ours.fileno()
    assert key.data == (handle, None)
    assert list(loop._selector.get_map()) == [ours.fileno()]
    with pytest.raises(RuntimeError, match="add_reader"):
        loop._selector.register(ours, 1)
    loop.remove_reader(ours)
    with pytest.raises(KeyError):
        loop._selector.get_key(ours)


def test_an_object_that_closed_under_its_reader_can_be_removed(loop):
    # anyio closes the socket that a task waits to read; asyncio's selector then finds
    # what it was given by identity.
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    loop.add_reader(ours, print)
    loop.add_writer(ours, print)
    number = ours.fileno()
    ours.close()
    key = loop._selector.get_key(ours)
    assert (key.fileobj, key.fd) == (ours, number)
    assert loop.remove_reader(ours) is True
    assert loop.remove_reader(ours) is False
    assert loop.remove_writer(ours) is True
    with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
        loop.remove_writer(ours)
    theirs.close()


def test_an_object_lives_while_it_is_watched(loop):
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    number, seen = ours.fileno(), []
    loop.add_reader(ours, lambda: seen.append(os.read(number, 10)))
    loop.add_writer(ours, lambda: loop.remove_writer(number))
    reference = weakref.ref(ours)
    del ours
    gc.collect()
    theirs.send(b"still")
    run_for(loop, 0.005)
    assert seen == [b"still"]
    assert reference() is not None
    # It goes with the last one that waits, here a cancelled handle that an event meets.
    loop._watched(number)[2].cancel()
    theirs.send(b"x")
    with pytest.warns(ResourceWarning, match="unclosed"):
        run_for(loop, 0.005)
        gc.collect()
    assert reference() is None
    theirs.close()


def test_another_object_takes_the_place_of_the_one_before(loop):
    number = unused_number()
    ours, theirs = socket.socketpair()
    ours = with_number(ours, number)
    ours.setblocking(False)
    loop.add_reader(ours, print)
    ours.close()
    theirs.close()
    again, theirs_again = socket.socketpair()
    again = with_number(again, number)
    again.setblocking(False)
    loop.add_reader(again, print)
    with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
        loop.remove_reader(ours)
    assert loop.remove_reader(again) is True
    again.close()
    theirs_again.close()


def test_events_run_in_the_order_of_the_descriptors_readiness(loop):
    pairs = [socket.socketpair() for _ in range(20)]
    seen = []
    for i, (ours, _) in enumerate(pairs):
        loop.add_reader(ours, lambda i=i: seen.append(i))
    # The first poll registers; the order of becoming ready is the order of sending.
    run_for(loop, 0)
    for i in (3, 1, 2, 10, 5):
        pairs[i][1].send(b"x")
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == [3, 1, 2, 10, 5]
    for ours, theirs in pairs:
        loop.remove_reader(ours)
        ours.close()
        theirs.close()


def test_pipes_and_many_descriptors(loop):
    pipes = [os.pipe() for _ in range(200)]
    seen = set()

    def readable(fd):
        seen.add(fd)
        loop.remove_reader(fd)
        if len(seen) == len(pipes):
            loop.stop()

    for read_end, _ in pipes:
        loop.add_reader(read_end, readable, read_end)
    for _, write_end in pipes:
        os.write(write_end, b"x")
    watchdog = loop.call_later(10, loop.stop)
    loop.run_forever()
    watchdog.cancel()
    assert seen == {read_end for read_end, _ in pipes}
    for ends in pipes:
        for fd in ends:
            os.close(fd)
