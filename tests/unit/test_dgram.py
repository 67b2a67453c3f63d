"""Datagram endpoints (src/io/dgram)."""

import asyncio
import contextlib
import contextvars
import gc
import os
import random
import socket
import sys
import warnings

import pytest

import aioloop
from tests.conftest import refusing_address

HEADER = 8 if sys.version_info >= (3, 13) else 0


class Recorder(asyncio.DatagramProtocol):
    def __init__(self):
        self.events = []
        self.datagrams = []
        self.errors = []
        self.wanted = None
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.events.append("made")
        self.transport = transport

    def datagram_received(self, data, addr):
        self.datagrams.append((data, addr))
        self.check()

    def error_received(self, exc):
        self.errors.append(exc)
        self.check()

    def pause_writing(self):
        self.events.append("pause")

    def resume_writing(self):
        self.events.append("resume")

    def connection_lost(self, exc):
        self.events.append("lost")
        self.lost.set_result(exc)

    def check(self):
        if self.wanted and len(self.datagrams) + len(self.errors) >= self.wanted[0]:
            _, future = self.wanted
            self.wanted = None
            future.set_result(None)

    async def until(self, count):
        if len(self.datagrams) + len(self.errors) < count:
            future = asyncio.get_running_loop().create_future()
            self.wanted = count, future
            await asyncio.wait_for(future, 10)


class Echo(Recorder):
    def datagram_received(self, data, addr):
        super().datagram_received(data, addr)
        self.transport.sendto(data, addr)


async def close(*transports):
    for transport in transports:
        transport.close()
    for transport in transports:
        if transport.get_protocol() is not None:
            await asyncio.wait_for(transport.get_protocol().lost, 5)


async def endpoint(factory=Recorder, **options):
    loop = asyncio.get_running_loop()
    return await loop.create_datagram_endpoint(factory, **options)


LOCAL = ("127.0.0.1", 0)


def test_echo(run):
    async def main():
        server, echo = await endpoint(Echo, local_addr=LOCAL)
        address = server.get_extra_info("sockname")
        client, protocol = await endpoint(remote_addr=address)
        assert isinstance(client, asyncio.DatagramTransport)
        assert isinstance(client, asyncio.Transport)
        assert client.get_extra_info("peername") == address
        assert isinstance(
            client.get_extra_info("socket"), asyncio.trsock.TransportSocket
        )
        assert server.get_extra_info("peername") is None
        for i in range(100):
            client.sendto(b"%d" % i)
        await protocol.until(100)
        assert protocol.datagrams == [(b"%d" % i, address) for i in range(100)]
        name = client.get_extra_info("sockname")
        assert echo.datagrams == [(b"%d" % i, name) for i in range(100)]
        await close(client, server)
        assert protocol.events == ["made", "lost"]
        assert client.is_closing()

    run(main())


@contextlib.contextmanager
def peers(count):
    """Sockets, each with its own address."""
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            for _ in range(count)
        ]
        for sock in sockets:
            sock.bind(LOCAL)
            sock.setblocking(False)
        yield sockets


# One; all remembered; more than are remembered (256).
@pytest.mark.parametrize("count", [1, 2, 60, 300])
def test_many_peers(run, count):
    """Each gets its own answers, also later, and by an equal address."""

    async def main():
        recvfrom = asyncio.get_running_loop().sock_recvfrom
        server, echo = await endpoint(Echo, local_addr=LOCAL)
        address = server.get_extra_info("sockname")
        with peers(count) as sockets:
            for turn in range(2):
                for i, sock in enumerate(sockets):
                    sock.sendto(b"%d" % i, address)
                    if i % 100 == 99:  # The kernel keeps some 200.
                        await echo.until(turn * count + i + 1)
                await echo.until((turn + 1) * count)
                for i, sock in enumerate(sockets):
                    assert await recvfrom(sock, 100) == (b"%d" % i, address)
            names = [sock.getsockname() for sock in sockets]
            assert echo.datagrams == 2 * [
                (b"%d" % i, name) for i, name in enumerate(names)
            ]
            for data, addr in random.sample(echo.datagrams, 2 * count):
                server.sendto(data, addr)
                server.sendto(data, tuple(addr))
            for i, sock in enumerate(sockets):
                for _ in range(4):
                    assert await recvfrom(sock, 100) == (b"%d" % i, address)
        await close(server)

    run(main())


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_ipv6(run):
    async def main():
        try:
            server, _ = await endpoint(Echo, local_addr=("::1", 0))
        except OSError:
            pytest.skip("this machine has no ::1")
        address = server.get_extra_info("sockname")
        client, protocol = await endpoint(local_addr=("::1", 0))
        client.sendto(b"x", address)
        client.sendto(b"y", address[:2])
        await protocol.until(2)
        assert protocol.datagrams == [(b"x", address), (b"y", address)]
        await close(client, server)

    run(main())


def test_unix_with_paths(run, tmp_path):
    async def main():
        paths = [str(tmp_path / name) for name in ("server", "client")]
        server, _ = await endpoint(Echo, local_addr=paths[0], family=socket.AF_UNIX)
        client, protocol = await endpoint(local_addr=paths[1], family=socket.AF_UNIX)
        data = os.urandom(100_000)
        client.sendto(data, paths[0])
        await protocol.until(1)
        assert protocol.datagrams == [(data, paths[0])]
        await close(client, server)

    run(main())


def test_unix_connected_and_unnamed(run, tmp_path):
    async def main():
        path = str(tmp_path / "server")
        server, received = await endpoint(local_addr=path, family=socket.AF_UNIX)
        client, _ = await endpoint(remote_addr=path, family=socket.AF_UNIX)
        client.sendto(b"x")
        await received.until(1)
        assert received.datagrams == [(b"x", None)]
        await close(client, server)

    run(main())


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_kinds_of_data(run, kind):
    async def main():
        server, received = await endpoint(local_addr=LOCAL)
        client, _ = await endpoint(remote_addr=server.get_extra_info("sockname"))
        client.sendto(kind(b"data"))
        await received.until(1)
        assert received.datagrams[0][0] == b"data"
        await close(client, server)

    run(main())


def test_empty_datagram(run):
    async def main():
        server, received = await endpoint(local_addr=LOCAL)
        client, _ = await endpoint(remote_addr=server.get_extra_info("sockname"))
        client.sendto(b"")
        client.sendto(b"end")
        await received.until(2 if HEADER else 1)
        expected = [b"", b"end"] if HEADER else [b"end"]
        assert [data for data, _ in received.datagrams] == expected
        await close(client, server)

    run(main())


def test_largest_datagram(run):
    async def main():
        server, received = await endpoint(local_addr=LOCAL)
        client, protocol = await endpoint(remote_addr=server.get_extra_info("sockname"))
        data = os.urandom(65_507)
        client.sendto(data)
        client.sendto(data + b"x")
        await received.until(1)
        assert received.datagrams[0][0] == data
        while client.get_write_buffer_size() > 0:  # It may have been told "not now".
            await asyncio.sleep(0)
        assert [type(exc) for exc in protocol.errors] == [OSError]
        await close(client, server)

    run(main())


def test_refused_datagram_is_an_error_received(run):
    async def main():
        with refusing_address() as address:
            client, protocol = await endpoint(remote_addr=address)
            client.sendto(b"x")
            await protocol.until(1)
        assert isinstance(protocol.errors[0], ConnectionRefusedError)
        assert not client.is_closing()
        await close(client)

    run(main())


def test_broadcast(run):
    async def main():
        client, protocol = await endpoint(local_addr=LOCAL, allow_broadcast=True)
        client.sendto(b"x", ("<broadcast>", 9))
        # The network may be missing; the address must be understood.
        assert all(isinstance(exc, OSError) for exc in protocol.errors)
        assert all(exc.errno != 22 for exc in protocol.errors)
        assert not client.is_closing()
        await close(client)

    run(main())


def test_names_are_resolved_by_the_socket(run):
    async def main():
        server, received = await endpoint(local_addr=LOCAL)
        client, _ = await endpoint(local_addr=LOCAL)
        client.sendto(b"x", ("localhost", server.get_extra_info("sockname")[1]))
        await received.until(1)
        await close(client, server)

    run(main())


def test_wrong_data_and_wrong_address(run):
    async def main():
        server, _ = await endpoint(local_addr=LOCAL)
        address = server.get_extra_info("sockname")
        client, _ = await endpoint(remote_addr=address)
        with pytest.raises(TypeError, match="data argument must be a bytes-like"):
            client.sendto("text")
        with pytest.raises(ValueError, match="Invalid address: must be None or"):
            client.sendto(b"x", ("127.0.0.1", 1))
        client.sendto(b"x", (*address,))
        await close(client, server)

    run(main())


def test_missing_address_is_fatal(run, loop):
    contexts = []
    loop.set_exception_handler(lambda loop, context: contexts.append(context))

    async def main():
        transport, protocol = await endpoint(local_addr=LOCAL)
        transport.sendto(b"x")
        assert transport.is_closing()
        assert isinstance(await protocol.lost, TypeError)

    run(main())
    assert contexts[0]["message"] == "Fatal write error on datagram transport"
    assert isinstance(contexts[0]["exception"], TypeError)


def blocked_endpoint(tmp_path):
    """A Unix endpoint whose peer's queue is full, and that peer's socket."""
    path = str(tmp_path / "full")
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    peer.bind(path)
    peer.setblocking(False)
    return peer, path


def test_flow_control(run, tmp_path):
    peer, path = blocked_endpoint(tmp_path)

    async def main():
        client, protocol = await endpoint(remote_addr=path, family=socket.AF_UNIX)
        client.set_write_buffer_limits(high=1000)
        assert client.get_write_buffer_limits() == (250, 1000)
        sent = 0
        while not client.get_write_buffer_size():
            client.sendto(b"%07d" % sent)
            sent += 1
        assert client.get_write_buffer_size() == 7 + HEADER
        while "pause" not in protocol.events:
            client.sendto(bytearray(b"%07d" % sent))
            sent += 1
        assert client.get_write_buffer_size() > 1000
        client.close()
        client.close()
        assert not protocol.lost.done()
        received = 0
        while received < sent:
            try:
                assert peer.recv(100) == b"%07d" % received
                received += 1
            except BlockingIOError:
                await asyncio.sleep(0)
        await asyncio.wait_for(protocol.lost, 5)
        assert protocol.events == ["made", "pause", "resume", "lost"]

    with peer:
        run(main())


def test_abort_drops_what_is_queued(run, tmp_path):
    peer, path = blocked_endpoint(tmp_path)

    async def main():
        client, protocol = await endpoint(remote_addr=path, family=socket.AF_UNIX)
        while not client.get_write_buffer_size():
            client.sendto(b"x")
        client.abort()
        assert client.get_write_buffer_size() == 0
        assert await protocol.lost is None
        for _ in range(7):
            client.sendto(b"late")
        client.abort()
        client.close()

    with peer:
        run(main())


def test_pause_inside_a_batch_keeps_the_rest(run):
    """Datagrams that have left the kernel wait for resume_reading."""

    class Pausing(Recorder):
        def datagram_received(self, data, addr):
            self.transport.pause_reading()
            super().datagram_received(data, addr)

    async def main():
        server, received = await endpoint(Pausing, local_addr=LOCAL)
        address = server.get_extra_info("sockname")
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            for i in range(50):
                sock.sendto(b"%d" % i, address)
        for i in range(50):
            await received.until(i + 1)
            assert not server.is_reading()
            await asyncio.sleep(0)
            assert len(received.datagrams) == i + 1
            server.resume_reading()
        assert [data for data, _ in received.datagrams] == [
            b"%d" % i for i in range(50)
        ]
        await close(server)

    run(main())


@pytest.mark.parametrize("paused", [False, True])
def test_leaving_the_loop_inside_a_batch_keeps_the_rest(loop, paused):
    """Nothing is lost when a callback ends run_forever by an exception."""

    reads = []

    class Leaving(Recorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            reads.append("read=polling" in repr(self.transport))
            if data == b"3":
                if paused:
                    self.transport.pause_reading()
                raise KeyboardInterrupt
            if data == b"6":
                raise SystemExit(6)

    async def rest(server, received):
        if paused:
            await asyncio.sleep(0)
            assert len(received.datagrams) == 4
            server.resume_reading()
        await received.until(10)

    server, received = loop.run_until_complete(endpoint(Leaving, local_addr=LOCAL))
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        for i in range(10):
            sock.sendto(b"%d" % i, server.get_extra_info("sockname"))
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    with pytest.raises(SystemExit):
        loop.run_until_complete(rest(server, received))
    loop.run_until_complete(received.until(10))
    assert [data for data, _ in received.datagrams] == [b"%d" % i for i in range(10)]
    assert reads == [True] * 10
    loop.run_until_complete(close(server))


def test_another_endpoint_receives_inside_a_batch(loop):
    """A callback that runs the loop by hand finds receive memory of its own."""

    class Nesting(Recorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            if data[:1] == b"0":
                other.sendto(b"x" * 100, inner.get_extra_info("sockname"))
                while not nested.datagrams:
                    loop._run_once()

    server, received = loop.run_until_complete(endpoint(Nesting, local_addr=LOCAL))
    inner, nested = loop.run_until_complete(endpoint(local_addr=LOCAL))
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        for i in range(5):
            other.sendto(b"%d" % i * 100, server.get_extra_info("sockname"))
        loop.run_until_complete(received.until(5))
    assert [data for data, _ in nested.datagrams] == [b"x" * 100]
    assert sorted(data for data, _ in received.datagrams) == [
        b"%d" % i * 100 for i in range(5)
    ]
    loop.run_until_complete(close(server, inner))


def test_close_inside_a_batch_ends_it(run):
    class Closing(Recorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            self.transport.close()

    async def main():
        server, received = await endpoint(Closing, local_addr=LOCAL)
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            for _ in range(10):
                sock.sendto(b"x", server.get_extra_info("sockname"))
        await received.until(1)
        await received.lost
        assert len(received.datagrams) == 1

    run(main())


def test_exceptions_of_the_protocol_are_reported(run, loop):
    contexts = []
    loop.set_exception_handler(lambda loop, context: contexts.append(context))

    class Failing(Recorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            raise KeyError(data)

    async def main():
        server, received = await endpoint(Failing, local_addr=LOCAL)
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            for i in range(3):
                sock.sendto(b"%d" % i, server.get_extra_info("sockname"))
        await received.until(3)
        assert not server.is_closing()
        await close(server)

    run(main())
    assert [context["exception"].args[0] for context in contexts] == [b"0", b"1", b"2"]


@pytest.mark.parametrize("method", ["datagram_received", "error_received"])
def test_system_exit_leaves_the_loop(loop, method):
    def leave(self, *args):
        raise SystemExit(7)

    protocol = type("Leaving", (Recorder,), {method: leave})

    async def main():
        if method == "datagram_received":
            server, _ = await endpoint(protocol, local_addr=LOCAL)
            with socket.socket(type=socket.SOCK_DGRAM) as sock:
                sock.sendto(b"x", server.get_extra_info("sockname"))
        else:
            address = refused.enter_context(refusing_address())
            server, _ = await endpoint(protocol, remote_addr=address)
            server.sendto(b"x")
        transports.append(server)
        await asyncio.sleep(10)

    transports = []
    task = loop.create_task(main())
    with contextlib.ExitStack() as refused, pytest.raises(SystemExit):
        loop.run_until_complete(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    transports[0].abort()
    loop.run_until_complete(asyncio.sleep(0))


def test_context(run):
    variable = contextvars.ContextVar("variable", default="none")
    seen = []

    class Contextual(Recorder):
        def datagram_received(self, data, addr):
            seen.append(variable.get())
            super().datagram_received(data, addr)

        def connection_lost(self, exc):
            seen.append(variable.get())
            super().connection_lost(exc)

    async def main():
        variable.set("mine")
        server, received = await endpoint(Contextual, local_addr=LOCAL)
        variable.set("other")
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.sendto(b"x", server.get_extra_info("sockname"))
        await received.until(1)
        await close(server)

    run(main())
    assert seen[0] == "mine"


def test_set_protocol(run):
    async def main():
        server, first = await endpoint(local_addr=LOCAL)
        second = Recorder()
        server.set_protocol(second)
        assert server.get_protocol() is second
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.sendto(b"x", server.get_extra_info("sockname"))
        await second.until(1)
        assert first.datagrams == []
        await close(server)

    run(main())


def test_unclosed_transport_warns():
    loop = aioloop.new_event_loop()

    async def main():
        transport, _ = await endpoint(local_addr=LOCAL)
        transport.pause_reading()

    # The collector finalizes the socket first, which warns too, as with asyncio.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop.run_until_complete(main())
        gc.collect()
        loop.close()
    assert any(
        str(warning.message).startswith("unclosed transport <DatagramTransport")
        for warning in caught
    )


def test_loop_closed_before_its_endpoint():
    loop = aioloop.new_event_loop()

    async def main():
        transport, _ = await endpoint(local_addr=LOCAL)
        return transport

    transport = loop.run_until_complete(main())
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        transport.close()
    assert "fd=" in repr(transport)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del transport
        gc.collect()
    assert any("unclosed transport" in str(warning.message) for warning in caught)


def test_repr(run):
    async def main():
        transport, _ = await endpoint(local_addr=LOCAL)
        fd = transport.get_extra_info("socket").fileno()
        assert (
            repr(transport) == f"<DatagramTransport fd={fd} read=polling "
            "write=<idle, bufsize=0>>"
        )
        await close(transport)
        assert repr(transport) == f"<DatagramTransport closed fd={fd}>"

    run(main())


def test_attributes_can_be_set(run):
    async def main():
        transport, _ = await endpoint(local_addr=LOCAL)
        transport.mine = 1
        assert transport.__dict__["mine"] == 1
        await close(transport)

    run(main())
