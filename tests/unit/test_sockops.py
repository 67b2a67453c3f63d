"""sock_* operations (src/io/sockops)."""

import asyncio
import collections.abc
import contextlib
import gc
import inspect
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import weakref

import pytest

import aioloop
from tests.conftest import HARD, PORTABLE, unused_number, with_number

# The hard build moves few bytes with a system call.
FILE = 700_000


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def tcp():
    """A listening socket and an unconnected one, both non-blocking."""
    with socket.socket() as listener, socket.socket() as client:
        listener.setblocking(False)
        client.setblocking(False)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener, client


@pytest.fixture
def datagrams():
    with (
        socket.socket(type=socket.SOCK_DGRAM) as one,
        socket.socket(type=socket.SOCK_DGRAM) as two,
    ):
        for sock in (one, two):
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
        yield one, two


async def read_exactly(loop, sock, n):
    data = bytearray()
    while len(data) < n:
        piece = await loop.sock_recv(sock, n - len(data))
        assert piece, "the peer closed"
        data += piece
    return bytes(data)


# --- what an operation is -------------------------------------------------------------


def test_is_like_a_coroutine(loop, pair):
    op = loop.sock_recv(pair[0], 10)
    assert asyncio.iscoroutine(op)
    assert inspect.isawaitable(op)
    assert isinstance(op, collections.abc.Coroutine)
    assert op.__name__ == "sock_recv"
    assert op.__qualname__ == "EventLoop.sock_recv"
    assert inspect.iscoroutine(op)
    assert inspect.getcoroutinestate(op) == inspect.CORO_CREATED
    assert op.cr_code is asyncio.SelectorEventLoop.sock_recv.__code__
    assert "not started" in repr(op)
    op.close()
    assert "done" in repr(op)
    assert inspect.getcoroutinestate(op) == inspect.CORO_CLOSED


def test_nothing_happens_until_it_is_awaited(loop, run, pair):
    ours, theirs = pair
    theirs.send(b"x")
    op = loop.sock_recv(ours, 10)
    op.close()
    assert ours.recv(10) == b"x"


def test_never_awaited_warns(loop, pair):
    with pytest.warns(RuntimeWarning, match=r"sock_recv' was never awaited"):
        loop.sock_recv(pair[0], 10)
        gc.collect()


def test_await_twice(loop, run, pair):
    ours, theirs = pair
    theirs.send(b"x")
    op = loop.sock_recv(ours, 10)
    assert run(op) == b"x"
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        op.send(None)
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        op.throw(ValueError)
    op.close()


def test_send_by_hand(loop, pair):
    ours, theirs = pair
    op = loop.sock_recv(ours, 10)
    with pytest.raises(TypeError, match="can't send non-None value"):
        op.send(1)
    future = op.send(None)
    assert future._asyncio_future_blocking is True
    future._asyncio_future_blocking = False
    theirs.send(b"x")
    loop.run_until_complete(asyncio.wait_for(future, 5))
    with pytest.raises(StopIteration) as stop:
        op.send(None)
    assert stop.value.value == b"x"


def test_throw_by_hand(loop, pair):
    ours, _ = pair
    op = loop.sock_recv(ours, 10)
    op.send(None)
    assert loop._watched(ours) == (ours, ours.fileno(), op, None)
    with pytest.raises(KeyError, match="why"):
        op.throw(KeyError("why"))
    assert loop._watched(ours) is None
    op = loop.sock_recv(ours, 10)
    with pytest.raises(TypeError, match="exceptions must be classes or instances"):
        op.throw(1)
    with pytest.raises(ZeroDivisionError):
        op.throw(ZeroDivisionError)


def test_close_while_waiting_leaves_the_table(loop, pair):
    ours, _ = pair
    op = loop.sock_recv(ours, 10)
    op.send(None)
    op.close()
    assert loop._watched(ours) is None


def test_weak_reference_and_collection(loop, pair):
    op = loop.sock_recv(pair[0], 10)
    reference = weakref.ref(op)
    op.send(None)
    op.close()
    del op
    gc.collect()
    assert reference() is None


def test_task_names_it(loop, run, pair):
    ours, theirs = pair

    async def main():
        task = loop.create_task(loop.sock_recv(ours, 10))
        await asyncio.sleep(0)
        assert "sock_recv" in repr(task)
        theirs.send(b"x")
        return await task

    assert run(main()) == b"x"


@pytest.mark.skipif(sys.version_info < (3, 14), reason="asyncio ps is new in 3.14")
@pytest.mark.skipif(sys.platform != "linux", reason="reads the child's memory")
def test_debuggers_can_read_a_task_of_it(python, child_env):
    program = """\
import aioloop, asyncio, socket, sys
async def main():
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    task = loop.create_task(loop.sock_recv(ours, 1), name="receiver")
    await asyncio.sleep(0)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    theirs.send(b"x")
    await task
aioloop.run(main())
"""
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=child_env(),
    )
    with child:
        try:
            assert child.stdout.readline() == b"ready\n"
            shown = python("-m", "asyncio", "ps", child.pid)
        finally:
            child.stdin.close()
        assert child.wait(20) == 0
    if "ermission" in shown.stderr:
        pytest.skip("this system does not let processes be read")
    assert shown.returncode == 0, shown.stderr
    assert "receiver" in shown.stdout


# --- receiving ------------------------------------------------------------------------


def test_recv_of_what_is_there_takes_one_step(loop, pair):
    ours, theirs = pair
    theirs.send(b"hello")
    with pytest.raises(StopIteration) as stop:
        loop.sock_recv(ours, 3).send(None)
    received = stop.value.value
    assert received == (b"h" if HARD else b"hel")
    assert received + ours.recv(10) == b"hello"


def test_recv_waits(loop, run, pair):
    ours, theirs = pair
    loop.call_later(0.001, theirs.send, b"late")
    assert run(read_exactly(loop, ours, 4)) == b"late"


def test_recv_at_the_end_of_the_stream(loop, run, pair):
    ours, theirs = pair
    theirs.close()
    assert run(loop.sock_recv(ours, 10)) == b""


def test_recv_of_much_data(loop, run, pair):
    ours, theirs = pair
    data = os.urandom(2_000_000)

    async def main():
        sender = loop.create_task(loop.sock_sendall(theirs, data))
        received = await read_exactly(loop, ours, len(data))
        await sender
        return received

    assert run(main()) == data


def test_recv_never_gives_more_than_asked(loop, run, pair):
    ours, theirs = pair
    total = 300_000

    async def main():
        sender = loop.create_task(loop.sock_sendall(theirs, bytes(total)))
        left = total
        for n in (20_000, 100_000, 17, 1, 65_536) * 100:
            data = await loop.sock_recv(ours, min(n, left))
            assert 0 < len(data) <= min(n, left)
            left -= len(data)
            if left == 0:
                break
        while left:
            left -= len(await loop.sock_recv(ours, left))
        await sender

    run(main())


def test_recv_of_a_whole_datagram(loop, run, datagrams):
    one, two = datagrams
    data = os.urandom(60_000)
    two.sendto(data, one.getsockname())
    assert run(loop.sock_recv(one, 65_536)) == data
    two.sendto(data, one.getsockname())
    assert run(loop.sock_recv(one, 10)) == data[:10]


def test_recv_of_an_empty_datagram(loop, run, datagrams):
    one, two = datagrams
    two.sendto(b"", one.getsockname())
    assert run(loop.sock_recv(one, 10)) == b""


@pytest.mark.parametrize("kind", [bytearray, lambda n: memoryview(bytearray(n))])
def test_recv_into(loop, run, pair, kind):
    ours, theirs = pair
    buffer = kind(10)
    loop.call_later(0.001, theirs.send, b"hello")
    received = run(loop.sock_recv_into(ours, buffer))
    assert received == (1 if HARD else 5)
    assert bytes(buffer) == b"hello"[:received] + bytes(10 - received)


def test_recv_into_does_not_hold_the_buffer_while_it_waits(loop, run, pair):
    ours, theirs = pair
    buffer = bytearray(2)

    async def main():
        task = loop.create_task(loop.sock_recv_into(ours, buffer))
        await asyncio.sleep(0)
        buffer.extend(b"more")
        theirs.send(b"123456")
        return await task

    received = run(main())
    assert received == (1 if HARD else 6)
    assert buffer == b"123456"[:received] + b"\0more"[received - 1 :]


@pytest.mark.parametrize("buffer", [b"const", "text", None, ()])
def test_recv_into_what_is_no_buffer(loop, run, pair, buffer):
    with pytest.raises(TypeError):
        run(loop.sock_recv_into(pair[0], buffer))


def test_recvfrom_and_sendto(loop, run, datagrams):
    one, two = datagrams

    async def main():
        waiting = loop.create_task(loop.sock_recvfrom(one, 100))
        await asyncio.sleep(0)
        assert await loop.sock_sendto(two, b"ping", one.getsockname()) == 4
        data, address = await waiting
        assert (data, address) == (b"ping", two.getsockname())
        assert await loop.sock_sendto(one, bytearray(b"pong"), address) == 4
        buffer = bytearray(10)
        result = await loop.sock_recvfrom_into(two, buffer)
        assert result == (4, one.getsockname())
        assert buffer == b"pong" + bytes(6)
        await loop.sock_sendto(one, b"again", address)
        assert (await loop.sock_recvfrom_into(two, buffer, 2))[0] == 2
        with pytest.raises(ValueError, match="greater than the length"):
            await loop.sock_recvfrom_into(two, buffer, 100)

    run(main())


def test_sendto_a_name_and_a_bad_address(loop, run, datagrams):
    one, two = datagrams

    async def main():
        port = one.getsockname()[1]
        assert await loop.sock_sendto(two, b"x", ("localhost", port)) == 1
        assert (await loop.sock_recvfrom(one, 5))[0] == b"x"
        with pytest.raises(TypeError):
            await loop.sock_sendto(two, b"x", 5)
        with pytest.raises(TypeError):
            await loop.sock_sendto(two, "text", ("127.0.0.1", port))

    run(main())


def test_unix_datagrams_with_paths(loop, run, tmp_path):
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as two,
    ):
        for sock, name in ((one, "one"), (two, "two")):
            sock.setblocking(False)
            sock.bind(str(tmp_path / name))

        async def main():
            await loop.sock_sendto(one, b"x" * 70_000, str(tmp_path / "two"))
            return await loop.sock_recvfrom(two, 100_000)

        assert run(main()) == (b"x" * 70_000, str(tmp_path / "one"))


# --- sending --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_sendall_waits_for_room(loop, run, pair, kind):
    ours, theirs = pair
    data = os.urandom(1_000_000)

    async def main():
        task = loop.create_task(loop.sock_sendall(ours, kind(data)))
        await asyncio.sleep(0)
        assert not task.done()
        assert await read_exactly(loop, theirs, len(data)) == data
        assert await task is None

    run(main())


def test_sendall_of_nothing(loop, run, pair):
    assert run(loop.sock_sendall(pair[0], b"")) is None


def test_sendall_of_text(loop, run, pair):
    with pytest.raises(TypeError):
        run(loop.sock_sendall(pair[0], "text"))


def test_sendall_to_a_peer_that_has_gone(loop, run, pair):
    ours, theirs = pair
    theirs.close()
    with pytest.raises(BrokenPipeError):
        run(loop.sock_sendall(ours, b"x"))


def test_both_directions_at_once(loop, run, pair):
    ours, theirs = pair
    data = os.urandom(500_000)

    async def main():
        results = await asyncio.gather(
            loop.sock_sendall(ours, data),
            loop.sock_sendall(theirs, data[::-1]),
            read_exactly(loop, ours, len(data)),
            read_exactly(loop, theirs, len(data)),
        )
        assert results[2] == data[::-1]
        assert results[3] == data

    run(main())


# --- connecting -----------------------------------------------------------------------


def test_connect_and_accept(loop, run, tcp):
    listener, client = tcp

    async def main():
        (accepted, peer), nothing = await asyncio.gather(
            loop.sock_accept(listener),
            loop.sock_connect(client, listener.getsockname()),
        )
        with accepted:
            assert nothing is None
            assert peer == client.getsockname() == accepted.getpeername()
            assert type(accepted) is socket.socket
            assert accepted.gettimeout() == 0
            assert os.get_blocking(accepted.fileno()) is False
            assert os.get_inheritable(accepted.fileno()) is False
            await loop.sock_sendall(accepted, b"hello")
            assert await read_exactly(loop, client, 5) == b"hello"

    run(main())


def test_connect_by_name(loop, run, tcp):
    listener, client = tcp
    port = listener.getsockname()[1]
    run(loop.sock_connect(client, ("localhost", port)))
    assert client.getpeername() == listener.getsockname()


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_connect_ipv6(loop, run):
    with (
        socket.socket(socket.AF_INET6) as listener,
        socket.socket(socket.AF_INET6) as client,
    ):
        listener.setblocking(False)
        client.setblocking(False)
        try:
            listener.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no ::1")
        listener.listen()
        run(loop.sock_connect(client, listener.getsockname()[:2]))
        accepted, peer = run(loop.sock_accept(listener))
        with accepted:
            assert peer == client.getsockname()


def test_connect_unix(loop, run, tmp_path):
    path = str(tmp_path / "socket")
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as client,
    ):
        listener.setblocking(False)
        client.setblocking(False)
        listener.bind(path)
        listener.listen()
        run(loop.sock_connect(client, path))
        accepted, peer = run(loop.sock_accept(listener))
        with accepted:
            assert peer == ""


def test_connect_refused(loop, run, tcp):
    listener, client = tcp
    address = listener.getsockname()
    listener.close()
    with pytest.raises(ConnectionRefusedError) as caught:
        run(loop.sock_connect(client, address))
    assert caught.value.args[1] in (
        f"Connect call failed {address}",
        "Connection refused",
    )


def test_connect_to_a_missing_path(loop, run, tmp_path):
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        with pytest.raises(FileNotFoundError):
            run(loop.sock_connect(client, str(tmp_path / "none")))


def test_accept_waits_for_many(loop, run, tcp):
    listener, _ = tcp

    async def main():
        for _ in range(20):
            task = loop.create_task(loop.sock_accept(listener))
            await asyncio.sleep(0)
            with socket.create_connection(listener.getsockname()):
                accepted, _ = await task
                accepted.close()

    run(main())


# --- sendfile -------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(FILE))
    with path.open("rb") as file:
        yield file


@pytest.mark.parametrize(
    ("offset", "count"),
    [(0, None), (1000, None), (0, 5), (10, FILE // 2), (FILE - 1, 10), (FILE, None)],
)
def test_sendfile(loop, run, pair, file, offset, count):
    ours, theirs = pair
    expected = file.read()[offset:][:count]

    async def main():
        task = loop.create_task(loop.sock_sendfile(ours, file, offset, count))
        received = await read_exactly(loop, theirs, len(expected))
        assert await task == len(expected)
        return received

    assert run(main()) == expected
    assert file.tell() == offset + len(expected)


def test_sendfile_falls_back(loop, run, pair, tmp_path):
    import io

    ours, theirs = pair
    data = os.urandom(400_000)

    async def main():
        source = io.BytesIO(data)
        task = loop.create_task(loop.sock_sendfile(ours, source))
        assert await read_exactly(loop, theirs, len(data)) == data
        assert await task == len(data)
        with pytest.raises(asyncio.SendfileNotAvailableError):
            await loop.sock_sendfile(ours, source, fallback=False)

    run(main())


@pytest.mark.skipif(PORTABLE, reason="the fall-back knows of complete blocks alone")
def test_cancelled_sendfile_leaves_the_file_behind_what_was_sent(loop, run, pair, file):
    ours, theirs = pair
    data = file.read()

    async def main():
        task = loop.create_task(loop.sock_sendfile(ours, file))
        while not loop._watched(ours):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        sent = file.tell()
        assert 0 < sent < len(data)
        assert await read_exactly(loop, theirs, sent) == data[:sent]
        with pytest.raises(BlockingIOError):
            theirs.recv(1)

    run(main())


# --- cancelling -----------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(6))
def test_cancelled_recv_loses_nothing(loop, run, pair, steps):
    """Whether before the event, behind it or after the task has run."""
    ours, theirs = pair

    async def main():
        task = loop.create_task(loop.sock_recv(ours, 100))
        await asyncio.sleep(0)
        theirs.send(b"precious")
        for _ in range(steps):
            # A blocking poll delivers the event.
            loop.call_later(0.0005, lambda: None)
            await asyncio.sleep(0)
        task.cancel()
        received = b""
        with contextlib.suppress(asyncio.CancelledError):
            received = await task
        return received + await read_exactly(loop, ours, 8 - len(received))

    assert run(main()) == b"precious"


def test_cancel_between_the_event_and_the_resumption(loop, run, pair):
    ours, theirs = pair

    async def main():
        op = loop.sock_recv(ours, 100)
        future = op.send(None)
        future._asyncio_future_blocking = False
        theirs.send(b"precious")
        await future
        with pytest.raises(asyncio.CancelledError):
            op.throw(asyncio.CancelledError())
        return await read_exactly(loop, ours, 8)

    assert run(main()) == b"precious"


def test_timeout_and_again(loop, run, pair):
    ours, theirs = pair

    async def main():
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(loop.sock_recv(ours, 100), 0.001)
        assert loop._watched(ours) is None
        theirs.send(b"x")
        return await asyncio.wait_for(loop.sock_recv(ours, 100), 5)

    assert run(main()) == b"x"


def test_cancelled_accept_leaves_the_connection_to_the_next(loop, run, tcp):
    listener, client = tcp

    async def main():
        task = loop.create_task(loop.sock_accept(listener))
        await asyncio.sleep(0)
        client.setblocking(True)
        client.connect(listener.getsockname())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        accepted, peer = await loop.sock_accept(listener)
        accepted.close()
        return peer

    assert run(main()) == client.getsockname()


def test_cancelled_connect(loop, run, tcp):
    listener, client = tcp

    async def main():
        task = loop.create_task(loop.sock_connect(client, listener.getsockname()))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert loop._watched(client) is None

    run(main())


# --- checks ---------------------------------------------------------------------------

OPERATIONS = {
    "recv": lambda loop, sock: loop.sock_recv(sock, 10),
    "recv_into": lambda loop, sock: loop.sock_recv_into(sock, bytearray(10)),
    "recvfrom": lambda loop, sock: loop.sock_recvfrom(sock, 10),
    "recvfrom_into": lambda loop, sock: loop.sock_recvfrom_into(sock, bytearray(10)),
    "sendall": lambda loop, sock: loop.sock_sendall(sock, b"x"),
    "sendto": lambda loop, sock: loop.sock_sendto(sock, b"x", ("127.0.0.1", 9)),
    "connect": lambda loop, sock: loop.sock_connect(sock, ("127.0.0.1", 9)),
    "accept": lambda loop, sock: loop.sock_accept(sock),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_blocking_socket_is_refused_in_debug_mode_when_awaited(name):
    loop = aioloop.new_event_loop()
    loop.set_debug(True)
    with socket.socket() as sock:
        op = OPERATIONS[name](loop, sock)
        with pytest.raises(ValueError, match="the socket must be non-blocking"):
            loop.run_until_complete(op)
    loop.close()


@pytest.mark.parametrize("name", OPERATIONS)
def test_tls_socket_is_refused_when_awaited(loop, run, name):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    with (
        socket.socket() as plain,
        context.wrap_socket(plain, do_handshake_on_connect=False) as sock,
    ):
        sock.setblocking(False)
        op = OPERATIONS[name](loop, sock)
        with pytest.raises(TypeError, match="Socket cannot be of type SSLSocket"):
            run(op)


@pytest.mark.parametrize("name", OPERATIONS)
def test_closed_socket(loop, run, name):
    sock = socket.socket()
    sock.setblocking(False)
    sock.close()
    op = OPERATIONS[name](loop, sock)
    with pytest.raises(OSError, match="Bad file descriptor"):
        run(op)


@pytest.mark.parametrize("n", ["x", None, 1.5])
def test_recv_of_an_odd_size_fails_when_awaited(loop, run, pair, n):
    op = loop.sock_recv(pair[0], n)
    with pytest.raises(TypeError):
        run(op)


def test_recv_of_a_negative_and_a_huge_size(loop, run, pair):
    with pytest.raises(ValueError, match="negative buffersize"):
        run(loop.sock_recv(pair[0], -1))
    with pytest.raises(OverflowError):
        run(loop.sock_recv(pair[0], 1 << 70))
    assert run(loop.sock_recv(pair[0], 0)) == b""


def test_descriptor_of_a_transport_is_refused(loop, run):
    async def main():
        served = loop.create_future()

        async def serve(reader, writer):
            await reader.read()
            writer.close()
            await writer.wait_closed()
            served.set_result(None)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            with socket.create_connection(server.sockets[0].getsockname()) as sock:
                sock.setblocking(False)
                _, writer = await asyncio.open_connection(sock=sock)
                with pytest.raises(RuntimeError, match="is used by transport"):
                    await loop.sock_recv(sock, 10)
                writer.close()
                await writer.wait_closed()
                await served

    run(main())


def test_closed_loop(pair):
    loop = aioloop.new_event_loop()
    op = loop.sock_recv(pair[0], 10)
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        op.send(None)


def test_subclass_of_socket_goes_asyncio_s_way(loop, run):
    calls = []

    class Socket(socket.socket):
        def recv(self, *args):
            calls.append(args)
            return super().recv(*args)

    ours, theirs = socket.socketpair()
    with ours, theirs, Socket(fileno=ours.detach()) as sub:
        sub.setblocking(False)
        loop.call_later(0.001, theirs.send, b"x")
        assert run(loop.sock_recv(sub, 10)) == b"x"
    assert calls[0] == (10,)


def test_blocking_socket_works_outside_debug_mode():
    loop = aioloop.new_event_loop()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"x")
        assert loop.run_until_complete(loop.sock_recv(ours, 10)) == b"x"
        sender = threading.Timer(0.01, theirs.send, (b"later",))
        sender.start()
        assert loop.run_until_complete(loop.sock_recv(ours, 10)) == b"later"
        sender.join()
    loop.close()


@pytest.mark.parametrize(
    "name",
    ["sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into"]
    + ["sock_sendall", "sock_sendto", "sock_connect", "sock_accept", "getaddrinfo"],
)
def test_signature_is_asyncio_s(name):
    signatures = []
    for factory in (asyncio.SelectorEventLoop, aioloop.new_event_loop):
        loop = factory()
        signatures.append(str(inspect.signature(getattr(loop, name))))
        loop.close()
    assert signatures[0] == signatures[1]


# --- the table of descriptors ---------------------------------------------------------


def test_finished_operation_is_not_shown_as_watched(loop, run, pair):
    ours, theirs = pair
    loop.call_later(0.001, theirs.send, b"x")
    run(loop.sock_recv(ours, 10))
    assert loop._watched(ours) is None
    assert ours.fileno() not in loop._selector.get_map()


def test_data_that_nobody_waits_for_does_not_spin(loop, run, pair):
    ours, theirs = pair

    async def main():
        loop.call_later(0.001, theirs.send, b"x")
        await loop.sock_recv(ours, 10)
        theirs.send(b"unread")
        before = time.thread_time()
        await asyncio.sleep(0.1)
        return time.thread_time() - before

    assert run(main()) < 0.05
    assert ours.recv(10) == b"unread"


def test_reader_replaces_an_operation(loop, run, pair):
    ours, theirs = pair

    async def main():
        task = loop.create_task(loop.sock_recv(ours, 10))
        await asyncio.sleep(0)
        seen = loop.create_future()
        loop.add_reader(ours, lambda: seen.done() or seen.set_result(ours.recv(10)))
        theirs.send(b"x")
        assert await seen == b"x"
        assert not task.done()
        assert loop.remove_reader(ours)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_next_operation_after_add_reader_was_used(loop, run, pair):
    ours, theirs = pair

    async def main():
        theirs.send(b"1")
        assert await loop.sock_recv(ours, 1) == b"1"
        seen = loop.create_future()
        loop.add_reader(ours, seen.set_result, None)
        theirs.send(b"2")
        await seen
        loop.remove_reader(ours)
        assert await loop.sock_recv(ours, 1) == b"2"
        loop.call_later(0.001, theirs.send, b"3")
        assert await loop.sock_recv(ours, 1) == b"3"

    run(main())


def test_number_reused_by_another_socket(loop, run):
    """The watcher of the closed socket must not pass for the new one's."""
    gc.collect()  # Other tests' garbage holds numbers.

    async def main():
        number = unused_number()
        for turn in range(50):
            ours, theirs = socket.socketpair()
            ours = with_number(ours, number)
            with ours, theirs:
                ours.setblocking(False)
                theirs.setblocking(False)
                task = loop.create_task(read_exactly(loop, ours, 2))
                await asyncio.sleep(0)
                theirs.send(b"%02d" % turn)
                assert await asyncio.wait_for(task, 5) == b"%02d" % turn

    run(main())


def test_socket_closed_right_after_the_wait_began(loop, run):
    async def main():
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        task = loop.create_task(loop.sock_recv(ours, 10))
        await asyncio.sleep(0)
        ours.close()
        theirs.close()
        await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
