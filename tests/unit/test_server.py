"""Servers: accepting, closing, contexts, options, Server of each version."""

import asyncio
import contextlib
import contextvars
import os
import socket
import ssl
import sys

import pytest

VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


class Greeter(asyncio.Protocol):
    """Sends one line and notes its life."""

    def __init__(self, made):
        self.made = made
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.made.append(self)
        transport.write(b"hello")

    def connection_lost(self, exc):
        self.lost.set_result(exc)


async def read_exactly(sock, count):
    received = bytearray()
    while len(received) < count:
        data = await asyncio.get_running_loop().sock_recv(sock, count - len(received))
        if not data:
            break
        received += data
    return bytes(received)


def client_of(server):
    client = socket.create_connection(server.sockets[0].getsockname()[:2], timeout=20)
    client.setblocking(False)
    return client


def test_connections_that_wait_are_accepted_together(run, loop):
    async def main():
        made = []
        server = await loop.create_server(lambda: Greeter(made), "127.0.0.1", 0)
        clients = [client_of(server) for _ in range(50)]
        for client in clients:
            assert await read_exactly(client, 5) == b"hello"
        assert len(made) == 50
        for client in clients:
            client.close()
        for protocol in made:
            await protocol.lost
        server.close()
        await server.wait_closed()

    run(main())


def test_a_backlog_of_one(run, loop):
    async def main():
        made = []
        server = await loop.create_server(
            lambda: Greeter(made), "127.0.0.1", 0, backlog=1
        )
        for _ in range(3):
            client = client_of(server)
            assert await read_exactly(client, 5) == b"hello"
            client.close()
        server.close()
        await asyncio.gather(*(protocol.lost for protocol in made))

    run(main())


def test_unix_sockets(run, loop, tmp_path):
    path = str(tmp_path / "socket")

    async def main():
        made = []
        server = await loop.create_unix_server(lambda: Greeter(made), path)
        reader, writer = await asyncio.open_unix_connection(path)
        assert await reader.readexactly(5) == b"hello"
        assert writer.get_extra_info("peername") == path
        assert made[0].transport.get_extra_info("sockname") == path
        assert made[0].transport.get_extra_info("peername") == ""
        writer.close()
        await writer.wait_closed()
        await made[0].lost
        server.close()
        await server.wait_closed()

    run(main())


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_ipv6(run, loop):
    async def main():
        made = []
        try:
            server = await loop.create_server(lambda: Greeter(made), "::1", 0)
        except OSError:
            pytest.skip("no IPv6 loopback here")
        client = client_of(server)
        assert await read_exactly(client, 5) == b"hello"
        transport = made[0].transport
        assert transport.get_extra_info("peername") == client.getsockname()
        assert transport.get_extra_info("sockname") == client.getpeername()
        client.close()
        await made[0].lost
        server.close()
        await server.wait_closed()

    run(main())


def test_start_serving_later(run, loop):
    async def main():
        made = []
        server = await loop.create_server(
            lambda: Greeter(made), "127.0.0.1", 0, start_serving=False
        )
        assert not server.is_serving()
        with pytest.raises(ConnectionRefusedError):
            client_of(server)
        await server.start_serving()
        assert server.is_serving()
        client = client_of(server)
        assert await read_exactly(client, 5) == b"hello"
        client.close()
        await made[0].lost
        server.close()
        await server.wait_closed()

    run(main())


def test_serve_forever(run, loop):
    async def main():
        made = []
        server = await loop.create_server(lambda: Greeter(made), "127.0.0.1", 0)
        serving = loop.create_task(server.serve_forever())
        client = client_of(server)
        assert await read_exactly(client, 5) == b"hello"
        client.close()
        await made[0].lost
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert not server.is_serving()

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="3.11 does not wait")
def test_wait_closed_waits_for_connections(run, loop):
    async def main():
        made = []
        server = await loop.create_server(lambda: Greeter(made), "127.0.0.1", 0)
        client = client_of(server)
        assert await read_exactly(client, 5) == b"hello"
        server.close()
        waiting = loop.create_task(server.wait_closed())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        client.close()
        await waiting

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 13), reason="new in 3.13")
@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
def test_clients_of_a_server(run, loop, method):
    async def main():
        made = []
        server = await loop.create_server(lambda: Greeter(made), "127.0.0.1", 0)
        clients = [client_of(server) for _ in range(3)]
        for client in clients:
            assert await read_exactly(client, 5) == b"hello"
        server.close()
        getattr(server, method)()
        await server.wait_closed()
        for protocol in made:
            assert protocol.lost.result() is None
        for client in clients:
            client.close()

    run(main())


def test_each_connection_has_its_own_context(run, loop):
    async def main():
        seen = []

        class Protocol(asyncio.Protocol):
            def __init__(self):
                seen.append(("factory", VARIABLE.get()))
                VARIABLE.set("connection")

            def connection_made(self, transport):
                seen.append(("made", VARIABLE.get()))
                self.transport = transport

            def data_received(self, data):
                seen.append(("data", VARIABLE.get()))
                self.transport.close()

        VARIABLE.set("server")
        server = await loop.create_server(Protocol, "127.0.0.1", 0)
        VARIABLE.set("later")
        for _ in range(2):
            client = client_of(server)
            await loop.sock_sendall(client, b"x")
            assert await read_exactly(client, 1) == b""
            client.close()
        expected = [
            ("factory", "server"),
            ("made", "connection"),
            ("data", "connection"),
        ]
        assert seen == expected * 2
        assert VARIABLE.get() == "later"
        server.close()
        await server.wait_closed()

    run(main())


def test_connect_accepted_socket(run, loop):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            client.setblocking(False)
            accepted, _ = listener.accept()
        made = []
        _, protocol = await loop.connect_accepted_socket(
            lambda: Greeter(made), accepted
        )
        assert await read_exactly(client, 5) == b"hello"
        client.close()
        await protocol.lost

    run(main())


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT")
def test_options_of_the_listening_socket(run, loop):
    async def main():
        given = {"reuse_port": True, "reuse_address": True}
        if sys.version_info >= (3, 13, 4):
            given["keep_alive"] = True
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, **given)
        sock = server.sockets[0]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        other = await loop.create_server(
            asyncio.Protocol, "127.0.0.1", sock.getsockname()[1], reuse_port=True
        )
        server.close()
        other.close()

    run(main())


def test_debug_mode_logs_each_connection(run, loop, debug, caplog):
    caplog.set_level("DEBUG", logger="asyncio")

    async def main():
        made = []
        server = await loop.create_server(lambda: Greeter(made), "127.0.0.1", 0)
        client = client_of(server)
        assert await read_exactly(client, 5) == b"hello"
        client.close()
        await made[0].lost
        server.close()
        await server.wait_closed()

    run(main())
    assert any("got a new connection" in text for text in caplog.messages) == debug


def test_tls_that_is_not_spoken(run, loop):
    async def main():
        contexts = []
        loop.set_exception_handler(lambda _, context: contexts.append(context))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server = await loop.create_server(
            asyncio.Protocol, "127.0.0.1", 0, ssl=context, ssl_handshake_timeout=5
        )
        answer = b""
        # The server goes as soon as it has read a few bytes, the others unread.
        with client_of(server) as client, contextlib.suppress(ConnectionError):
            await loop.sock_sendall(client, b"GET / HTTP/1.0\r\n\r\n" * 4)
            answer = await read_exactly(client, 1000)
        assert b"HTTP" not in answer
        server.close()
        await asyncio.sleep(0.01)

    run(main())


def no_delay(sock):
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


@pytest.mark.parametrize("proto", [0, socket.IPPROTO_TCP])
def test_no_delay_where_the_socket_object_says_tcp(run, loop, proto):
    """As asyncio: the listener and sockets of no stated protocol stay as they are."""

    async def main():
        made = []
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, proto)
        listener.bind(("127.0.0.1", 0))
        server = await loop.create_server(lambda: Greeter(made), sock=listener)
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, proto)
        client.connect(listener.getsockname())
        client.setblocking(False)
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=client)
        while not made:
            await asyncio.sleep(0.001)
        accepted = made[0].transport.get_extra_info("socket")
        assert no_delay(transport.get_extra_info("socket")) is (proto != 0)
        assert no_delay(accepted) is (proto != 0)
        assert accepted.proto == proto
        assert not no_delay(listener)
        transport.close()
        await made[0].lost
        server.close()

    run(main())


@pytest.mark.parametrize("when", ["open", "lost", "lost, transparent"])
def test_sockname_is_the_connection_s(run, loop, when):
    """A transparent proxy's listener has another address than what it accepts.

    What is asked for the first time when the connection is lost is the kernel's too if
    the listener says of itself that it is transparent, or has no address.
    """

    async def main():
        made = []
        listener = socket.socket()
        listener.bind(("0.0.0.0" if when == "lost" else "127.0.0.1", 0))
        if "transparent" in when:
            try:
                listener.setsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT, 1)
            except (AttributeError, OSError) as exc:
                listener.close()
                pytest.skip(f"not allowed: {exc}")
        server = await loop.create_server(lambda: Greeter(made), sock=listener)
        client = client_of(server)
        while not made:
            await asyncio.sleep(0.001)
        transport = made[0].transport
        with socket.create_server(("127.0.0.2", 0)) as elsewhere:
            with socket.create_connection(elsewhere.getsockname()) as other:
                stand_in, _ = elsewhere.accept()
                stand_in.setblocking(False)
                os.dup2(stand_in.fileno(), transport._sock_fd)
                name = stand_in.getsockname()
                stand_in.close()
                if "lost" in when:
                    transport.abort()
                    await made[0].lost
                assert transport.get_extra_info("sockname") == name
                assert name[0] == "127.0.0.2"
                transport.abort()
                await made[0].lost
                other.close()
        client.close()
        server.close()

    run(main())


def test_no_delay_before_the_second_send(run, loop):
    """Nagle's algorithm holds back no first one."""

    class Answering(Greeter):
        def data_received(self, data):
            self.transport.write(data)

    async def main():
        made = []
        server = await loop.create_server(lambda: Answering(made), "127.0.0.1", 0)
        client = client_of(server)
        assert await read_exactly(client, 5) == b"hello"
        with socket.socket(fileno=os.dup(made[0].transport._sock_fd)) as view:
            for letter in b"abc":
                await loop.sock_sendall(client, bytes([letter]))
                assert await read_exactly(client, 1) == bytes([letter])
                assert no_delay(view)
        client.close()
        await made[0].lost
        server.close()

    run(main())


def test_a_family_that_only_the_socket_module_knows(run, loop):
    """asyncio's code accepts its connections, and the socket module names them."""

    async def main():
        try:
            listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
            sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        except (AttributeError, OSError) as exc:
            pytest.skip(f"no AF_VSOCK: {exc}")
        listener.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
        server = await loop.create_server(asyncio.Protocol, sock=listener)
        handle, _ = loop._selector.get_key(listener).data
        assert handle._callback == loop._accept_connection
        server.close()
        sock.setblocking(False)
        protocol = Greeter([])
        transport = loop._make_socket_transport(sock, protocol)
        assert transport.get_extra_info("peername") is None
        name = sock.getsockname()
        transport.abort()
        await protocol.lost
        assert transport.get_extra_info("sockname") == name
        sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        sock.setblocking(False)
        protocol = Greeter([])
        transport = loop._make_socket_transport(
            sock, protocol, extra={"peername": (3, 1024)}
        )
        assert transport.get_extra_info("peername") == (3, 1024)
        transport.abort()
        await protocol.lost

    run(main())


# --- connections that are being accepted ----------------------------------------------


def cancel_others(loop, keep=frozenset()):
    """Cancel all tasks but some, and return the others."""
    others = asyncio.all_tasks(loop) - keep
    for task in others:
        assert isinstance(task, asyncio.Task)
        assert not task.done()
        task.cancel()
    return others


@pytest.mark.parametrize("how", ["call_soon", "call_later", "connection_made"])
def test_all_tasks_are_cancelled_while_the_factory_runs(run, loop, how):
    """As asyncio's task for the connection does, its transport closes."""

    class Lazy(Greeter):
        def __init__(self, made, before):
            super().__init__(made)
            self.before = before
            if how == "call_soon":
                loop.call_soon(cancel_others, loop, before)
            elif how == "call_later":
                loop.call_later(0, cancel_others, loop, before)

        def connection_made(self, transport):
            super().connection_made(transport)
            if how == "connection_made":
                cancelled.extend(cancel_others(loop, self.before))

        def eof_received(self):
            return True

    cancelled = []

    async def main():
        made = []
        before = asyncio.all_tasks()
        server = await loop.create_server(lambda: Lazy(made, before), "127.0.0.1", 0)
        client = client_of(server)
        assert await read_exactly(client, 6) in (b"hello", b"")
        assert await made[0].lost is None
        client.close()
        server.close()
        await server.wait_closed()
        assert how != "connection_made" or len(cancelled) == 1

    run(main())


def test_all_tasks_are_cancelled_before_the_protocol_is_made(run, loop):
    async def main():
        made = []
        before = asyncio.all_tasks()
        server = await loop.create_server(lambda: Greeter(made), "127.0.0.1", 0)
        client = client_of(server)
        cancelled = set()
        while not cancelled and not made:
            cancelled = cancel_others(loop, before)
            await asyncio.sleep(0)
        await asyncio.wait(cancelled)
        assert all(task.cancelled() for task in cancelled)
        assert await read_exactly(client, 5) == b""
        assert made == []
        client.close()
        server.close()
        await server.wait_closed()

    run(main())


def test_tasks_of_accepted_connections_that_nobody_cancels(run, loop):
    async def main():
        made, seen = [], set()
        before = asyncio.all_tasks()
        server = await loop.create_server(lambda: Greeter(made), "127.0.0.1", 0)
        client = client_of(server)
        while not made:
            seen |= asyncio.all_tasks() - before
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        assert seen
        assert asyncio.all_tasks() == before
        assert all(task.done() and not task.cancelled() for task in seen)
        assert await read_exactly(client, 5) == b"hello"
        assert not made[0].transport.is_closing()
        # Later it is nobody's.
        assert cancel_others(loop, before) == set()
        client.close()
        await made[0].lost
        server.close()

    run(main())


def test_all_tasks_of_a_loop_that_has_stopped(loop):
    made = []

    class Last(Greeter):
        def __init__(self):
            super().__init__(made)
            loop.stop()

    server = loop.run_until_complete(loop.create_server(Last, "127.0.0.1", 0))
    client = client_of(server)
    loop.run_forever()
    cancelled = cancel_others(loop)
    assert len(cancelled) == 1
    loop.run_until_complete(asyncio.wait(cancelled))
    assert loop.run_until_complete(made[0].lost) is None
    client.close()
    server.close()
    loop.run_until_complete(server.wait_closed())
