"""Collections of garbage change what the diagnosis reads, while it reads it."""

import gc
import socket

import pytest

from aioloop import _core


class Trap:
    """Calls a function when it is collected."""

    def __init__(self, function):
        self.function = function
        self.itself = self

    def __del__(self):
        self.function()


@pytest.fixture
def collections_at_every_allocation():
    before = gc.get_threshold()
    gc.collect()
    gc.set_threshold(1)
    yield
    gc.set_threshold(*before)


def test_the_table_of_descriptors(loop, collections_at_every_allocation):
    pairs = [socket.socketpair() for _ in range(10)]
    numbers = [end.fileno() for pair in pairs for end in pair]

    def forget():
        for number in numbers:
            loop.remove_reader(number)
            loop.remove_writer(number)

    for _ in range(50):
        for number in numbers:
            loop.add_reader(number, object().__repr__)
            loop.add_writer(number, object().__repr__)
        Trap(forget)
        for _, reader, writer, _ in _core._loop_files(loop):
            repr(reader), repr(writer)
        forget()
    for pair in pairs:
        for end in pair:
            end.close()


def test_the_owner_of_a_closed_descriptor(loop, collections_at_every_allocation):
    for _ in range(20):
        ours, theirs = socket.socketpair()
        number = ours.fileno()
        loop.add_reader(number, object().__repr__)
        loop.call_soon(loop.stop)
        loop.run_forever()
        ours.close()
        loop.add_writer(theirs, int)  # A change makes the selector look.
        Trap(lambda number=number: loop.remove_reader(number))
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.remove_writer(theirs)
        loop.remove_reader(number)
        theirs.close()
