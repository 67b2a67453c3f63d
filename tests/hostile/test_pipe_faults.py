"""Pipe and datagram transports whose protocols meddle, raise, and lose their peers."""

import asyncio
import contextlib
import os
import socket

import pytest

ERRORS = [ValueError, OSError, GeneratorExit, MemoryError]
ACTS = ["close", "abort", "drop", "pause", "write", "loop"]


class Scripted(asyncio.Protocol, asyncio.DatagramProtocol):
    """Does ``act(protocol)`` in the callback ``name``, the first time."""

    def __init__(self, name, act):
        self.name = name
        self.action = act
        self.received = bytearray()
        self.calls = []
        self.lost = asyncio.get_running_loop().create_future()

    def act(self, name):
        self.calls.append(name)
        if name == self.name and self.calls.count(name) == 1:
            self.action(self)

    def connection_made(self, transport):
        self.transport = transport
        self.act("connection_made")

    def data_received(self, data):
        self.received += data
        self.act("data_received")

    def datagram_received(self, data, address):
        self.received += data
        self.act("datagram_received")

    def error_received(self, exc):
        self.act("error_received")

    def eof_received(self):
        self.act("eof_received")

    def pause_writing(self):
        self.act("pause_writing")

    def resume_writing(self):
        self.act("resume_writing")

    def connection_lost(self, exc):
        self.lost.set_result(exc)
        self.act("connection_lost")


def meddle(loop, how):
    """Return what a protocol does, mostly the transport's method called ``how``."""

    def act(protocol):
        transport = protocol.transport
        if how == "drop":
            transport.set_protocol(None)
            getattr(transport, "abort", transport.close)()
        elif how == "pause" and "Read" in type(transport).__name__:
            transport.pause_reading()
            loop.call_later(0.001, transport.resume_reading)
        elif how == "write" and hasattr(transport, "write"):
            transport.write(b"from a callback")
        elif how == "loop":
            with pytest.raises(RuntimeError, match="already running"):
                loop.run_forever()
        else:
            getattr(transport, how, transport.close)()

    return act


def fail(error):
    def act(protocol):
        raise error("from a callback")

    return act


def acts(loop):
    return {how: meddle(loop, how) for how in ACTS} | {
        error.__name__: fail(error) for error in ERRORS
    }


EVERY_ACT = pytest.mark.parametrize("how", [*ACTS, *(e.__name__ for e in ERRORS)])


@pytest.fixture
def contexts(loop):
    """Return the list of what the loop's exception handler is called with."""
    contexts = []
    loop.set_exception_handler(lambda _, context: contexts.append(context))
    return contexts


async def connected(connect, *scripted, descriptor, mode):
    """Return the transport and the protocol of one end of a pipe."""
    made = []

    def factory():
        made.append(Scripted(*scripted))
        return made[0]

    # In debug mode asyncio's coroutine logs the number of the descriptor, which fails
    # once connection_made() has closed it.
    with contextlib.suppress(ValueError):
        await connect(factory, os.fdopen(descriptor, mode, 0))
    return made[0].transport, made[0]


async def is_over(protocol, transport, how):
    if how == "drop" or protocol.name == "connection_lost":
        while transport.get_protocol() is not None:
            await asyncio.sleep(0.001)
    else:
        await protocol.lost
        assert protocol.calls.count("connection_lost") == 1


def check_reports(protocol, contexts, how):
    raised = [context.get("exception") for context in contexts]
    if how == "drop":
        # None has no connection_lost().
        assert {type(exc) for exc in raised} <= {AttributeError}
    elif how in ACTS or protocol.name not in protocol.calls:
        assert not raised
    elif how != "OSError":  # One that ends a connection is no news.
        assert type(raised[0]).__name__ == how


@EVERY_ACT
@pytest.mark.parametrize(
    "name", ["connection_made", "data_received", "eof_received", "connection_lost"]
)
def test_reading_pipe(run, loop, contexts, name, how):
    async def main():
        read_fd, write_fd = os.pipe()
        transport, protocol = await connected(
            loop.connect_read_pipe,
            name,
            acts(loop)[how],
            descriptor=read_fd,
            mode="rb",
        )
        with contextlib.suppress(BrokenPipeError):
            os.write(write_fd, b"data")
        os.close(write_fd)
        await is_over(protocol, transport, how)
        await asyncio.sleep(0)
        check_reports(protocol, contexts, how)
        if how in ("pause", "loop"):
            assert protocol.received == b"data"

    run(main())


@EVERY_ACT
@pytest.mark.parametrize(
    "name", ["connection_made", "pause_writing", "resume_writing", "connection_lost"]
)
@pytest.mark.parametrize("end", ["reads all", "goes"])
def test_writing_pipe(run, loop, contexts, name, how, end):
    async def main():
        read_fd, write_fd = os.pipe()
        os.set_blocking(read_fd, False)
        transport, protocol = await connected(
            loop.connect_write_pipe,
            name,
            acts(loop)[how],
            descriptor=write_fd,
            mode="wb",
        )
        transport.write(b"x" * 200_000)
        received = 0
        if end == "reads all":
            while received < 200_000 and not transport.is_closing():
                with contextlib.suppress(BlockingIOError):
                    received += len(os.read(read_fd, 65536))
                await asyncio.sleep(0)
            transport.close()
        os.close(read_fd)
        await is_over(protocol, transport, how)
        await asyncio.sleep(0)
        check_reports(protocol, contexts, how)

    run(main())


@EVERY_ACT
@pytest.mark.parametrize(
    "name",
    ["connection_made", "datagram_received", "error_received", "connection_lost"],
)
def test_datagram_endpoint(run, loop, contexts, name, how):
    if how == "write":
        pytest.skip("datagrams are sent by sendto")

    async def main():
        with socket.socket(type=socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            transport, protocol = await loop.create_datagram_endpoint(
                lambda: Scripted(name, acts(loop)[how]), remote_addr=peer.getsockname()
            )
            own = transport.get_extra_info("sockname")
            for number in range(5):
                peer.sendto(b"%d" % number, own)
        transport.sendto(b"refused")
        for _ in range(5):
            await asyncio.sleep(0.001)
        transport.close()
        await is_over(protocol, transport, how)
        await asyncio.sleep(0)
        check_reports(protocol, contexts, how)

    run(main())
