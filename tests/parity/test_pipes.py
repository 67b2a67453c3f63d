"""What a pipe's callbacks see: its repr, the selector's map, its reader taken away."""

import asyncio
import os
import re

import pytest

import aioloop
from tests.conftest import HARD

LIMIT = 20


class Pipe(asyncio.Protocol):
    """Notes how the transport looks in each callback; ``acts`` are done there."""

    def __init__(self, note, **acts):
        self.note = note
        self.acts = acts
        self.lost = asyncio.get_running_loop().create_future()

    def look(self, name):
        loop = asyncio.get_running_loop()
        fd = self.transport.get_extra_info("pipe").fileno()
        words = re.sub(r"_Unix|fd=\d+ ?", "", repr(self.transport)).strip("<>")
        key = loop._selector.get_map().get(fd)
        self.note.append((name, words, key and key.events))
        self.acts.get(name, lambda transport: None)(self.transport)

    def connection_made(self, transport):
        self.transport = transport
        self.look("made")

    def data_received(self, data):
        self.note.append(data)
        self.look("data")

    def resume_writing(self):
        self.look("resumed")

    def connection_lost(self, exc):
        self.note.append(("lost", type(exc).__name__))
        self.lost.set_result(None)


async def turns():
    for _ in range(3):
        await asyncio.sleep(0.0005)


async def read(note, sent, **acts):
    loop = asyncio.get_running_loop()
    reader, writer = os.pipe()
    _, protocol = await loop.connect_read_pipe(
        lambda: Pipe(note, **acts), open(reader, "rb", 0)
    )
    for data in sent:
        os.write(writer, data)
        await turns()
    protocol.look("end")
    protocol.transport.close()
    os.close(writer)
    await protocol.lost


async def fill_and_empty(note, **acts):
    loop = asyncio.get_running_loop()
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    transport, protocol = await loop.connect_write_pipe(
        lambda: Pipe(note, **acts), open(writer, "wb", 0)
    )
    transport.write(bytes(400_000))
    protocol.look("full")
    left = 400_000
    async with asyncio.timeout(LIMIT):
        while left:
            try:
                left -= len(os.read(reader, 65536))
            except BlockingIOError:
                pass
            await turns()
    protocol.look("end")
    os.close(reader)
    await protocol.lost


def both(program, *args, **acts):
    """Return what a program notes, which is the same on both loops."""
    notes = []
    for factory in (asyncio.SelectorEventLoop, aioloop.new_event_loop):
        notes.append([])
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(asyncio.wait_for(program(notes[-1], *args, **acts), LIMIT))
    assert notes[1] == notes[0]
    return notes[0]


def test_data_received_sees_the_pipe_polling():
    noted = both(read, [b"a"])
    assert ("data", "ReadPipeTransport polling", 1) in noted


def test_a_pipe_that_pauses_in_data_received_is_idle():
    noted = both(read, [b"a", b"b"], data=lambda transport: transport.pause_reading())
    assert noted[-2] == ("end", "ReadPipeTransport idle", None)
    assert b"b" not in noted


def test_a_reader_that_is_taken_away_in_data_received_stays_away():
    def take(transport):
        fd = transport.get_extra_info("pipe").fileno()
        assert asyncio.get_running_loop().remove_reader(fd)

    noted = both(read, [b"a", b"b"], data=take)
    assert noted[-2] == ("end", "ReadPipeTransport idle", None)
    assert b"b" not in noted


def test_a_reader_that_was_taken_away_comes_back_with_resume_reading():
    def take(transport):
        fd = transport.get_extra_info("pipe").fileno()
        asyncio.get_running_loop().remove_reader(fd)
        transport.pause_reading()
        transport.resume_reading()

    noted = both(read, [b"a", b"b"], data=take)
    assert b"b" in noted


@pytest.mark.skipif(HARD, reason="the hard build writes single bytes")
def test_a_pipe_that_is_empty_again_is_idle_when_it_resumes():
    noted = both(fill_and_empty)
    assert ("resumed", "WritePipeTransport idle bufsize=0", 1) in noted
    assert noted[1][1].startswith("WritePipeTransport polling")
