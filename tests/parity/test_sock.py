"""Sockets, datagrams and pipes: the same program on asyncio and on aioloop.

Each program returns what it saw: results, the order of callbacks, and exceptions as
(type, text).
"""

import asyncio
import os
import socket
import ssl
import sys

import pytest

import aioloop
from tests.conftest import HARD

not_hard = pytest.mark.skipif(
    HARD,
    reason="the hard build writes one byte at a time, which programs can see",
)


def run_on(factory, program, debug):
    loop = factory()
    loop.set_debug(debug)
    contexts = []
    loop.set_exception_handler(
        lambda loop, context: contexts.append(
            (context["message"].partition(" ")[0], repr(context.get("exception")))
        )
    )
    try:
        result = loop.run_until_complete(asyncio.wait_for(program(loop), 20))
        return result, contexts
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def same(program, debug=False):
    expected = run_on(asyncio.SelectorEventLoop, program, debug)
    found = run_on(aioloop.new_event_loop, program, debug)
    assert found == expected
    return found


async def outcome(awaitable):
    try:
        return await awaitable
    except Exception as exc:
        return type(exc).__name__, str(exc)


def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


# --- arguments ------------------------------------------------------------------------

ODD_CALLS = {
    "recv text": lambda loop, s: loop.sock_recv(s, "x"),
    "recv None": lambda loop, s: loop.sock_recv(s, None),
    "recv float": lambda loop, s: loop.sock_recv(s, 1.5),
    "recv negative": lambda loop, s: loop.sock_recv(s, -1),
    "recv zero": lambda loop, s: loop.sock_recv(s, 0),
    "recv huge": lambda loop, s: loop.sock_recv(s, 1 << 70),
    "recv_into bytes": lambda loop, s: loop.sock_recv_into(s, b"const"),
    "recv_into text": lambda loop, s: loop.sock_recv_into(s, "x"),
    "recv_into empty": lambda loop, s: loop.sock_recv_into(s, bytearray()),
    "recv_into strided": lambda loop, s: loop.sock_recv_into(
        s, memoryview(bytearray(10))[::2]
    ),
    "recvfrom negative": lambda loop, s: loop.sock_recvfrom(s, -1),
    "recvfrom text": lambda loop, s: loop.sock_recvfrom(s, "x"),
    "recvfrom_into bytes": lambda loop, s: loop.sock_recvfrom_into(s, b"x"),
    "recvfrom_into long": lambda loop, s: loop.sock_recvfrom_into(s, bytearray(2), 9),
    "recvfrom_into negative": lambda loop, s: loop.sock_recvfrom_into(
        s, bytearray(2), -1
    ),
    "recvfrom_into None": lambda loop, s: loop.sock_recvfrom_into(s, None),
    "sendall text": lambda loop, s: loop.sock_sendall(s, "x"),
    "sendall None": lambda loop, s: loop.sock_sendall(s, None),
    "sendall int": lambda loop, s: loop.sock_sendall(s, 5),
    "sendall strided": lambda loop, s: loop.sock_sendall(s, memoryview(b"abcd")[::2]),
    "sendall empty": lambda loop, s: loop.sock_sendall(s, b""),
    "sendto text": lambda loop, s: loop.sock_sendto(s, "x", "/no/path"),
    "sendto tuple": lambda loop, s: loop.sock_sendto(s, b"x", ("127.0.0.1", 9)),
    "connect connected": lambda loop, s: loop.sock_connect(s, "/no/such/path"),
    "connect tuple": lambda loop, s: loop.sock_connect(s, ("127.0.0.1", 9)),
    "connect None": lambda loop, s: loop.sock_connect(s, None),
    "connect long": lambda loop, s: loop.sock_connect(s, "x" * 300),
    "accept": lambda loop, s: loop.sock_accept(s),
    "sendfile text": lambda loop, s: loop.sock_sendfile(s, "x"),
    "sendfile offset": lambda loop, s: loop.sock_sendfile(
        s, open(os.devnull, "rb"), -1
    ),
    "not a socket": lambda loop, s: loop.sock_recv(5, 5),
    "None": lambda loop, s: loop.sock_recv(None, 5),
}


@pytest.mark.parametrize("name", ODD_CALLS)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_odd_arguments(name):
    async def program(loop):
        ours, theirs = pair()
        with ours, theirs:
            return await outcome(ODD_CALLS[name](loop, ours))

    same(program)


INET_CALLS = {
    "connect refused": lambda loop, s: loop.sock_connect(s, ("127.0.0.1", 1)),
    "connect port text": lambda loop, s: loop.sock_connect(s, ("127.0.0.1", "1")),
    "connect big port": lambda loop, s: loop.sock_connect(s, ("127.0.0.1", 70000)),
    "connect one": lambda loop, s: loop.sock_connect(s, ("127.0.0.1",)),
    "connect four": lambda loop, s: loop.sock_connect(s, ("127.0.0.1", 1, 0, 0)),
    "connect v6": lambda loop, s: loop.sock_connect(s, ("::1", 1)),
    "connect list": lambda loop, s: loop.sock_connect(s, ["127.0.0.1", 1]),
    "recv unconnected": lambda loop, s: loop.sock_recv(s, 10),
    "send unconnected": lambda loop, s: loop.sock_sendall(s, b"x"),
    "accept unbound": lambda loop, s: loop.sock_accept(s),
    "sendto no name": lambda loop, s: loop.sock_sendto(s, b"x", ("", 1)),
}


@pytest.mark.parametrize("name", INET_CALLS)
@pytest.mark.parametrize("debug", [False, True])
def test_inet_errors(name, debug):
    async def program(loop):
        with socket.socket() as sock:
            sock.setblocking(False)
            return await outcome(INET_CALLS[name](loop, sock))

    same(program, debug)


@pytest.mark.parametrize("debug", [False, True])
def test_checks_are_made_when_awaited(debug):
    async def program(loop):
        seen = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        with socket.socket() as plain:
            wrapped = context.wrap_socket(plain, do_handshake_on_connect=False)
            with wrapped:
                wrapped.setblocking(False)
                op = loop.sock_recv(wrapped, 10)
                seen.append("made")
                seen.append(await outcome(op))
        if debug:
            with socket.socket() as blocking:
                for op in (
                    loop.sock_recv(blocking, 10),
                    loop.sock_sendall(blocking, b"x"),
                    loop.sock_accept(blocking),
                    loop.sock_connect(blocking, ("127.0.0.1", 1)),
                    loop.sock_recvfrom(blocking, 1),
                ):
                    seen.append(await outcome(op))
        return seen

    same(program, debug)


def test_wrong_number_of_arguments():
    calls = [
        lambda loop: loop.sock_recv(),
        lambda loop: loop.sock_recv(1),
        lambda loop: loop.sock_recv(1, 2, 3),
        lambda loop: loop.sock_recv(1, n=2, m=3),
        lambda loop: loop.sock_sendto(),
        lambda loop: loop.sock_sendto(1),
        lambda loop: loop.sock_sendto(1, 2),
        lambda loop: loop.sock_accept(),
        lambda loop: loop.sock_recv(1, sock=2),
    ]

    async def program(loop):
        seen = []
        for call in calls:
            with pytest.raises(TypeError) as caught:
                call(loop)
            seen.append(str(caught.value))
        return seen

    same(program)


# --- order ----------------------------------------------------------------------------


def test_data_is_taken_in_the_order_of_the_callers():
    async def program(loop):
        seen = []
        pairs = [pair() for _ in range(5)]

        async def receive(i):
            seen.append((i, await loop.sock_recv(pairs[i][0], 10)))

        tasks = [loop.create_task(receive(i)) for i in range(5)]
        await asyncio.sleep(0)
        for i in reversed(range(5)):
            pairs[i][1].send(b"%d" % i)
        await asyncio.gather(*tasks)
        for one, two in pairs:
            one.close()
            two.close()
        return sorted(seen)

    same(program)


class Recorder(asyncio.DatagramProtocol, asyncio.Protocol):
    def __init__(self, seen, name):
        self.seen = seen
        self.name = name
        self.lost = asyncio.get_running_loop().create_future()

    def note(self, what, *details):
        self.seen.append((self.name, what, *details))

    def connection_made(self, transport):
        self.transport = transport
        self.note("made")

    def datagram_received(self, data, addr):
        self.note("datagram", data)

    def data_received(self, data):
        self.note("data", data)

    def eof_received(self):
        self.note("eof")

    def error_received(self, exc):
        self.note("error", type(exc).__name__)

    def pause_writing(self):
        self.note("pause")

    def resume_writing(self):
        self.note("resume")

    def connection_lost(self, exc):
        self.note("lost", type(exc).__name__)
        self.lost.set_result(None)


@not_hard
def test_datagram_endpoint():
    async def program(loop):
        seen = []
        server, _ = await loop.create_datagram_endpoint(
            lambda: Recorder(seen, "server"), local_addr=("127.0.0.1", 0)
        )
        seen.append("endpoint")
        client, protocol = await loop.create_datagram_endpoint(
            lambda: Recorder(seen, "client"),
            remote_addr=server.get_extra_info("sockname"),
        )
        for data in (b"one", bytearray(b"two"), memoryview(b"three"), b""):
            client.sendto(data)
            seen.append(client.get_write_buffer_size())
        while sum("datagram" in event for event in seen if type(event) is tuple) < 3:
            await asyncio.sleep(0.001)
        for bad in (lambda: client.sendto("x"), lambda: client.sendto(b"x", ("a", 1))):
            with pytest.raises((TypeError, ValueError)) as caught:
                bad()
            seen.append(str(caught.value).split("(")[0])
        seen.append(client.get_write_buffer_limits())
        client.set_write_buffer_limits(low=10)
        seen.append(client.get_write_buffer_limits())
        server.close()
        await asyncio.sleep(0.001)
        client.sendto(b"refused")
        await asyncio.sleep(0.005)
        client.sendto(b"again")
        seen.append((client.is_closing(), server.is_closing()))
        client.close()
        client.sendto(b"late")
        await protocol.lost
        return seen

    result, _ = same(program)
    assert ("client", "error", "ConnectionRefusedError") in result


@pytest.mark.skipif(
    sys.version_info[:2] == (3, 13),
    reason="asyncio adds the header of a datagram to its size and never takes it off",
)
def test_datagram_flow_control(tmp_path):
    counter = iter(range(100))

    async def program(loop):
        path = str(tmp_path / f"socket{next(counter)}")
        seen = []
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
            peer.bind(path)
            peer.setblocking(False)
            client, protocol = await loop.create_datagram_endpoint(
                lambda: Recorder(seen, "client"),
                remote_addr=path,
                family=socket.AF_UNIX,
            )
            client.set_write_buffer_limits(high=100)
            sent = 0
            while not client.get_write_buffer_size():
                client.sendto(b"x" * 10)
                sent += 1
            for _ in range(20):
                client.sendto(b"y" * 10)
            sent += 20
            size = client.get_write_buffer_size()
            while sent:
                try:
                    peer.recv(100)
                    sent -= 1
                except BlockingIOError:
                    await asyncio.sleep(0)
            seen.append(client.get_write_buffer_size())
            client.close()
            await protocol.lost
        return seen, size

    same(program)


def test_datagram_exceptions_of_the_protocol():
    async def program(loop):
        class Failing(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                raise KeyError("made")

            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                raise KeyError("received")

            def connection_lost(self, exc):
                super().connection_lost(exc)
                raise KeyError("lost")

        seen = []
        server, protocol = await loop.create_datagram_endpoint(
            lambda: Failing(seen, "server"), local_addr=("127.0.0.1", 0)
        )
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.sendto(b"x", server.get_extra_info("sockname"))
        while len(seen) < 2:
            await asyncio.sleep(0.001)
        server.close()
        await protocol.lost
        await asyncio.sleep(0)
        return seen

    same(program)


@not_hard
@pytest.mark.parametrize("end", ["close", "abort", "write_eof", "reader"])
@pytest.mark.parametrize("size", [0, 10, 1_000_000])
def test_pipe(end, size):
    async def program(loop):
        seen = []
        read_fd, write_fd = os.pipe()
        read_end, reader = await loop.connect_read_pipe(
            lambda: Recorder(seen, "reader"), os.fdopen(read_fd, "rb", 0)
        )
        read_end.pause_reading()
        write_end, writer = await loop.connect_write_pipe(
            lambda: Recorder(seen, "writer"), os.fdopen(write_fd, "wb", 0)
        )
        write_end.write(b"x" * size)
        buffered = write_end.get_write_buffer_size()
        if end == "reader":
            read_end.close()
        else:
            getattr(write_end, end)()
        seen.append((write_end.is_closing(), write_end.get_write_buffer_size()))
        write_end.write(b"late")
        read_end.resume_reading()
        await reader.lost
        await writer.lost
        data = b"".join(event[2] for event in seen if event[1] == "data")
        events = [event for event in seen if event[1] != "data"]
        # Data on one side and flow control on the other are not ordered.
        sides = {
            name: [event for event in events if event[0] == name]
            for name in ("reader", "writer", True, False)
        }
        return sides, data.strip(b"x"), len(data) if end != "abort" else 0, buffered

    same(program)


# asyncio's half-made transport complains when it dies.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_pipe_errors(tmp_path):
    async def program(loop):
        seen = []
        with open(tmp_path / "file", "w+b") as file:
            for connect in (loop.connect_read_pipe, loop.connect_write_pipe):
                seen.append(await outcome(connect(asyncio.Protocol, file)))
                seen.append(file.closed)
        for connect in (loop.connect_read_pipe, loop.connect_write_pipe):
            seen.append(await outcome(connect(asyncio.Protocol, 5)))
        return seen

    same(program)


@not_hard
def test_subprocess_events():
    async def program(loop):
        seen = []

        class Protocol(asyncio.SubprocessProtocol):
            def connection_made(self, transport):
                seen.append("made")

            def pipe_data_received(self, fd, data):
                seen.append((fd, data))

            def pipe_connection_lost(self, fd, exc):
                seen.append((fd, "lost", exc))

            def process_exited(self):
                seen.append("exited")

            def connection_lost(self, exc):
                seen.append(("lost", exc))
                done.set_result(None)

        done = loop.create_future()
        transport, _ = await loop.subprocess_exec(
            Protocol,
            sys.executable,
            "-c",
            "import sys; sys.stdout.write(sys.stdin.read().upper()); sys.exit(3)",
        )
        stdin = transport.get_pipe_transport(0)
        stdin.write(b"hello")
        stdin.write_eof()
        await done
        code = transport.get_returncode()
        transport.close()
        # The end of each pipe and the exit come in any order.
        return sorted(map(repr, seen)), seen[0], seen[-1], code

    same(program)


def test_sock_operation_as_a_task():
    async def program(loop):
        seen = []
        ours, theirs = pair()
        with ours, theirs:
            task = loop.create_task(loop.sock_recv(ours, 10), name="receive")
            await asyncio.sleep(0)
            seen.append(task.done())
            task.cancel("why")
            try:
                await task
            except asyncio.CancelledError as exc:
                seen.append(exc.args)
            seen.append(task.cancelled())
            theirs.send(b"x")
            seen.append(await asyncio.shield(loop.sock_recv(ours, 10)))
            results = await asyncio.gather(
                loop.sock_recv(ours, 1), loop.sock_sendall(theirs, b"y")
            )
            seen.append(results)
            try:
                await asyncio.wait_for(loop.sock_recv(ours, 1), 0.001)
            except TimeoutError:
                seen.append("timeout")
        return seen

    same(program)
