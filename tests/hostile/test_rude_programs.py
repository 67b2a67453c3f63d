"""Programs that call what is not theirs to call, or patch what is not theirs."""

import asyncio
import socket
import sys

import pytest

import aioloop
from tests.conftest import HARD, unused_number, with_number

LIMIT = 20
LOOPS = pytest.mark.parametrize(
    "new_loop", [asyncio.SelectorEventLoop, aioloop.new_event_loop]
)


def run_on(new_loop, main):
    reports = []
    with asyncio.Runner(loop_factory=new_loop) as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(lambda _, context: reports.append(context))
        result = runner.run(asyncio.wait_for(main(loop), LIMIT))
    return result, [(one["message"], type(one.get("exception"))) for one in reports]


@LOOPS
@pytest.mark.parametrize(
    "give", [lambda s: None, lambda s: (), lambda s: 5, lambda s: (1, 2, 3)]
)
def test_a_patched_accept_gives_something_else(new_loop, monkeypatch, give):
    monkeypatch.setattr(socket.socket, "accept", give)

    async def main(loop):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            # Of a non-blocking one aioloop does not ask the method.
            listener.setblocking(isinstance(loop, aioloop.Loop))
            with pytest.raises((TypeError, ValueError), match="unpack"):
                await loop.sock_accept(listener)

    run_on(new_loop, main)


def non_contiguous():
    return memoryview(bytearray(10))[::2]


def released():
    view = memoryview(bytearray(10))
    view.release()
    return view


@pytest.mark.parametrize("make", [non_contiguous, released])
def test_writelines_sends_all_or_nothing(make):
    """Of a list with an item that has no bytes to give, nothing is sent, ever."""

    async def main(loop):
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        try:
            transport.writelines([b"first", bytearray(b"second"), make(), b"last"])
            raised = None
        except (BufferError, ValueError) as exc:
            raised = type(exc)
        closing = transport.is_closing()
        if not closing:
            transport.write(b"x")
        transport.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        received = b""
        try:
            while piece := await asyncio.wait_for(loop.sock_recv(theirs, 100), LIMIT):
                received += piece
        finally:
            theirs.close()
        return raised, closing, received

    (raised, closing, received), reports = run_on(aioloop.new_event_loop, main)
    assert received == (b"" if closing else b"x")
    assert (raised is None) == closing == (len(reports) == 1)
    if sys.version_info < (3, 12) or make is released:
        assert not closing


def test_connection_lost_by_hand_in_datagram_received(run, loop):
    class Protocol(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            self.transport = transport
            self.lost = loop.create_future()

        def datagram_received(self, data, address):
            self.transport._call_connection_lost(None)

        def connection_lost(self, exc):
            self.lost.set_result(exc)

    async def main():
        transport, protocol = await loop.create_datagram_endpoint(
            Protocol, local_addr=("127.0.0.1", 0)
        )
        with socket.socket(type=socket.SOCK_DGRAM) as peer:
            for _ in range(5):
                peer.sendto(b"x", transport.get_extra_info("sockname"))
            assert await protocol.lost is None

    run(main())


def test_resuming_the_protocol_of_a_lost_stream(run, loop):
    async def main():
        ours, theirs = socket.socketpair()
        with theirs:
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
            transport.set_write_buffer_limits(0)
            transport.write(bytes(3_000_000))
            transport.abort()
            while transport._loop is not None:
                await asyncio.sleep(0)
            transport.set_protocol(asyncio.Protocol())
            transport._maybe_resume_protocol()
            transport._maybe_pause_protocol()

    run(main())


@LOOPS
@pytest.mark.parametrize("settled", [True, False])
def test_a_datagram_endpoint_whose_socket_the_program_closed(new_loop, settled):
    """It neither sends to nor receives from whoever has the number now."""
    told = []

    class Protocol(asyncio.DatagramProtocol):
        def datagram_received(self, data, address):
            told.append(data)

        def error_received(self, exc):
            told.append(type(exc))

    async def main(loop):
        with socket.socket(type=socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            number = unused_number()
            ours = with_number(socket.socket(type=socket.SOCK_DGRAM), number)
            ours.setblocking(False)
            ours.connect(peer.getsockname())
            transport, _ = await loop.create_datagram_endpoint(Protocol, sock=ours)
            if settled:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            ours.close()
            stranger, far = socket.socketpair()
            stranger = with_number(stranger, number)
            with stranger, far:
                stranger.setblocking(False)
                far.setblocking(False)
                transport.sendto(b"secret")
                far.send(b"for the stranger only")
                for _ in range(5):
                    await asyncio.sleep(0)
                with pytest.raises(BlockingIOError):
                    far.recv(100)
                assert stranger.recv(100) == b"for the stranger only"
                transport.abort()
                await asyncio.sleep(0)
        return told

    told_of, _ = run_on(new_loop, main)
    assert bytes not in map(type, told_of)


@pytest.mark.skipif(HARD, reason="each handle is checked after each slot there")
def test_a_long_chain_of_handles_dies_without_recursion(loop):
    class Chain:
        handle, count = None, 0

        def link(self, previous):
            self.count += 1
            if self.count == 200_000:
                loop.stop()
            else:
                self.handle = loop.call_soon(self.link, self.handle)

    chain = Chain()
    chain.link(None)
    loop.run_forever()
    chain.handle = None
    assert chain.count == 200_000
