"""Faults of files and callbacks (src/core/faults): real, exact, and nothing is lost."""

import asyncio
import gc
import hashlib
import os
import random
import re
import socket
import sys
import weakref

import pytest

from aioloop import _core, testing
from aioloop.testing import Faults
from tests.conftest import client_context, server_context

SEEDS = range(3)
SOME = Faults(short_io=0.7, delay_io=(1, 5), delay_seconds=(0.0, 0.001))
# Calls are short as often as may be, and every second event is late.
MANY = Faults(short_io=1.0, delay_io=(1, 2), delay_seconds=0.0005)
LIMIT = 3600.0  # virtual seconds
AUTOJUMP = 60.0  # A machine may be slow; only a failure waits for so long.


def run(main, faults, seed=0, **options):
    async def limited():
        return await asyncio.wait_for(main(), LIMIT)

    options = {"autojump": AUTOJUMP, **options}
    return testing.run(limited(), faults=faults, seed=seed, **options)


def some_bytes(size, seed=0):
    return random.Random(seed).randbytes(size)


def digest(data):
    return hashlib.sha256(data).hexdigest()


# --- nothing is lost, doubled or reordered -------------------------------------------


async def echo_in_both_directions(reader, writer, data):
    """Send the data in pieces, and give back what comes meanwhile."""

    async def send():
        pieces = random.Random(len(data))
        at = 0
        while at < len(data):
            size = pieces.choice([1, 7, 100, 5000, 30000])
            writer.write(data[at : at + size])
            at += size
            if pieces.random() < 0.5:
                await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        return await reader.readexactly(len(data))


async def serve_echo(reader, writer):
    while data := await reader.read(20000):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.mark.parametrize("faults", [SOME, MANY], ids=["some", "many"])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
def test_a_transfer_is_whole(kind, seed, faults, tmp_path):
    data = some_bytes(200_000, seed)

    async def main():
        tls = kind == "tls"
        if kind == "unix":
            path = str(tmp_path / "socket")
            server = await asyncio.start_unix_server(serve_echo, path)
            reader, writer = await asyncio.open_unix_connection(path)
        else:
            server = await asyncio.start_server(
                serve_echo, "127.0.0.1", 0, ssl=server_context() if tls else None
            )
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=client_context() if tls else None
            )
        received = await echo_in_both_directions(reader, writer, data)
        writer.close()
        await writer.wait_closed()
        server.close()
        assert testing.current_faults()
        return received

    assert digest(run(main, faults, seed, leaks=True)) == digest(data)


@pytest.mark.parametrize("faults", [SOME, MANY], ids=["some", "many"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_transfer_through_a_pipe_is_whole(seed, faults):
    data = some_bytes(300_000, seed)

    async def main():
        loop = asyncio.get_running_loop()
        read_end, write_end = os.pipe()
        reader = asyncio.StreamReader()
        incoming, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), open(read_end, "rb", 0)
        )
        outgoing, protocol = await loop.connect_write_pipe(
            asyncio.streams.FlowControlMixin, open(write_end, "wb", 0)
        )
        writer = asyncio.StreamWriter(outgoing, protocol, None, loop)

        async def send():
            for at in range(0, len(data), 9000):
                writer.write(data[at : at + 5000])
                writer.write(data[at + 5000 : at + 9000])
                await writer.drain()
            writer.close()

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            received = await reader.read()
        incoming.close()
        return received

    assert digest(run(main, faults, seed)) == digest(data)


@pytest.mark.parametrize("faults", [SOME, MANY], ids=["some", "many"])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("into", [False, True], ids=["recv", "recv_into"])
def test_a_transfer_by_socket_operations_is_whole(into, seed, faults):
    data = some_bytes(100_000, seed)

    async def main():
        loop = asyncio.get_running_loop()
        received = bytearray()
        with socket.socket() as listener, socket.socket() as client:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            listener.setblocking(False)
            client.setblocking(False)
            await loop.sock_connect(client, listener.getsockname())
            server, _ = await loop.sock_accept(listener)

            async def send():
                for at in range(0, len(data), 30_000):
                    await loop.sock_sendall(client, data[at : at + 30_000])
                client.shutdown(socket.SHUT_WR)

            with server:
                sending = asyncio.create_task(send())
                buffer = bytearray(4000)
                while True:
                    if into:
                        n = await loop.sock_recv_into(server, buffer)
                        piece = buffer[:n]
                    else:
                        piece = await loop.sock_recv(server, 50_000)
                    if not piece:
                        break
                    received += piece
                await sending
        return received

    assert digest(run(main, faults, seed)) == digest(data)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_file_is_sent_whole(seed, tmp_path):
    data = some_bytes(150_000, seed)
    path = tmp_path / "file"
    path.write_bytes(data)

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=theirs)
        ours.setblocking(False)
        with ours, path.open("rb") as file:

            async def send():
                await loop.sock_sendfile(ours, file)
                ours.shutdown(socket.SHUT_WR)

            sending = asyncio.create_task(send())
            received = await reader.read()
            await sending
        writer.close()
        return received

    assert digest(run(main, SOME, seed)) == digest(data)


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, most):
        self.received = []
        self.most = most
        self.done = asyncio.get_running_loop().create_future()

    def datagram_received(self, data, address):
        self.received.append(data)
        if len(self.received) == self.most:
            self.done.set_result(self.received)


@pytest.mark.parametrize("seed", SEEDS)
def test_messages_stay_whole(seed):
    messages = [some_bytes(50 + i, i) for i in range(40)]

    async def main():
        loop = asyncio.get_running_loop()
        one, protocol = await loop.create_datagram_endpoint(
            lambda: Datagrams(len(messages)), local_addr=("127.0.0.1", 0)
        )
        other, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=one.get_extra_info("sockname")
        )
        for message in messages:
            other.sendto(message)
        received = await protocol.done
        one.close()
        other.close()
        return received

    assert run(main, SOME, seed) == messages


# --- which ones, and how often -------------------------------------------------------


def ping_pong(faults, seed=0, rounds=100, **options):
    """Return what is told of a program whose calls are the same in each run."""

    async def main():
        loop = asyncio.get_running_loop()
        one, other = socket.socketpair()
        one.setblocking(False)
        other.setblocking(False)
        with one, other:
            for _ in range(rounds):
                await loop.sock_sendall(one, b"ping")
                left = 4
                while left:
                    left -= len(await loop.sock_recv(other, left))
                await asyncio.sleep(0)
        numbers, _ = _core._faults_told(loop)
        return numbers, [
            re.sub(r"descriptor \d+|Task-\d+", "it", sentence)
            for sentence in testing.current_faults()
        ]

    return testing.run(main(), faults=faults, seed=seed, **options)


@pytest.mark.parametrize("n", [0, 1, 3, 10])
def test_so_many_of_so_many(n):
    (short, *_), sentences = ping_pong(Faults(short_io=(n, 10)))
    hits, candidates = short
    assert candidates >= 200
    whole, rest = divmod(candidates, 10)
    assert n * whole <= hits <= n * whole + min(n, rest)
    assert bool(sentences) == bool(n)


def test_a_probability():
    (short, *_), _ = ping_pong(Faults(short_io=0.25), rounds=300)
    hits, candidates = short
    assert 0.15 * candidates < hits < 0.35 * candidates


def test_one_with_a_number():
    (short, *_), sentences = ping_pong(Faults(short_io=7))
    assert short[0] == 1
    assert len(sentences) == 1
    assert re.search(r" on it (moved \d of \d bytes|was refused)", sentences[0])


def test_the_seed_draws_a_number():
    faults = Faults(short_io=range(100))
    told = {tuple(ping_pong(faults, seed)[1]) for seed in range(8)}
    assert len(told) > 3
    assert all(len(sentences) == 1 for sentences in told)


@pytest.mark.parametrize(
    "faults",
    [
        Faults(short_io=(3, 10)),
        Faults(short_io=0.3, delay_io=0.2),
        Faults(slow_callback=0.1, slow_seconds=(0.0, 3.0)),
    ],
    ids=repr,
)
def test_a_seed_repeats_them(faults):
    runs = [ping_pong(faults, seed) for seed in (1, 2, 1)]
    assert runs[0] == runs[2]
    assert runs[0] != runs[1]


def test_a_seed_of_their_own():
    runs = [ping_pong(Faults(short_io=0.3, seed=5), seed) for seed in (1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != ping_pong(Faults(short_io=0.3, seed=6), 1)


def test_one_kind_does_not_change_the_other():
    alone = ping_pong(Faults(short_io=(3, 10)))[0][0]
    beside = ping_pong(Faults(short_io=(3, 10), slow_callback=0.5))[0][0]
    assert alone == beside


def test_many_are_told_in_short():
    _, sentences = ping_pong(Faults(short_io=(5, 10)))
    assert len(sentences) == 11
    assert re.match(r"faults: \d+ of \d+ short_io; the last 10:", sentences[0])


def test_no_faults_are_none():
    assert ping_pong(Faults(), order="seeded") == ([], [])


@pytest.mark.parametrize("name", ["short_io", "delay_io", "reset", "slow_callback"])
@pytest.mark.parametrize("which", [1.5, -0.1, -1, (2, 1), (0, 0), (1, 2, 3), [], [-1]])
def test_what_is_no_lot(name, which):
    with pytest.raises(ValueError, match=name):
        Faults(**{name: which})


@pytest.mark.parametrize("time", [-1.0, (2.0, 1.0), float("inf")])
def test_what_is_no_time(time):
    with pytest.raises(ValueError, match="delay_seconds"):
        Faults(delay_seconds=time)


# --- late events ---------------------------------------------------------------------


def test_an_event_is_late_by_so_much():
    async def main():
        loop = asyncio.get_running_loop()
        one, other = socket.socketpair()
        one.setblocking(False)
        times = []
        heard = asyncio.Event()

        def readable():
            times.append(loop.time())
            other_bytes.append(one.recv(1))
            heard.set()

        other_bytes = []
        with one, other:
            loop.add_reader(one, readable)
            for byte in b"ab":
                heard.clear()
                other.send(bytes([byte]))
                await heard.wait()
            loop.remove_reader(one)
        assert other_bytes == [b"a", b"b"]
        return times

    faults = Faults(delay_io=0, delay_seconds=2.5)
    assert testing.run(main(), faults=faults) == [2.5, 2.5]
    faults = Faults(delay_io=1.0, delay_seconds=2.5)
    assert testing.run(main(), faults=faults) == [2.5, 5.0]


def test_a_time_limit_comes_before_a_late_event():
    async def main():
        loop = asyncio.get_running_loop()
        one, other = socket.socketpair()
        one.setblocking(False)
        with one, other:
            waiting = asyncio.create_task(loop.sock_recv(one, 10))
            await asyncio.sleep(0)
            other.send(b"x")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(waiting, 1.0)
            assert loop.time() == 1.0
            return await loop.sock_recv(one, 1)

    faults = Faults(delay_io=0, delay_seconds=5.0)
    assert testing.run(main(), faults=faults) == b"x"


def test_a_closed_file_is_not_waited_for():
    async def main():
        loop = asyncio.get_running_loop()
        one, other = socket.socketpair()
        with one, other:
            loop.add_reader(one, pytest.fail)
            other.send(b"x")
            await asyncio.sleep(1.0)
            loop.remove_reader(one)
        await asyncio.sleep(10.0)
        return loop.time()

    faults = Faults(delay_io=0, delay_seconds=5.0)
    assert testing.run(main(), faults=faults) == 11.0


def test_the_clock_can_be_moved_to_a_late_event():
    async def main():
        loop = asyncio.get_running_loop()
        clock = testing.current_clock()
        one, other = socket.socketpair()
        heard = []
        with one, other:
            loop.add_reader(one, lambda: heard.append(one.recv(1)))
            other.send(b"x")
            for _ in range(3):
                await asyncio.sleep(0)
            assert not heard
            assert clock.jump_to_next() == 5.0
            for _ in range(3):
                await asyncio.sleep(0)
            loop.remove_reader(one)
        return heard

    faults = Faults(delay_io=0, delay_seconds=5.0)
    assert testing.run(main(), faults=faults, autojump=None) == [b"x"]


# --- connections that are reset ------------------------------------------------------


class Recording(asyncio.Protocol):
    def __init__(self):
        self.lost = asyncio.get_running_loop().create_future()
        self.data = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.data += data

    def connection_lost(self, exc):
        self.lost.set_result(exc)


async def two_protocols():
    """Return the protocols of both ends of a TCP connection."""
    loop = asyncio.get_running_loop()
    accepted = loop.create_future()

    def factory():
        protocol = Recording()
        accepted.set_result(protocol)
        return protocol

    server = await loop.create_server(factory, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    _, client = await loop.create_connection(Recording, *address)
    peer = await accepted
    server.close()
    return client, peer


linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="there is a RST when it is closed"
)


@linux
@pytest.mark.parametrize("at", [0, 1], ids=["send", "recv"])
def test_a_reset_reaches_both_ends(at):
    async def main():
        client, peer = await two_protocols()
        client.transport.write(b"x")
        errors = [await client.lost, await peer.lost]
        assert peer.data == b""
        return [type(error) for error in errors], testing.current_faults()

    errors, told = run(main, Faults(reset=at))
    assert errors == [ConnectionResetError] * 2
    assert len(told) == 1
    assert re.match(
        rf"a {['send', 'recv'][at]} found the connection of descriptor \d+ reset, at",
        told[0],
    )


@linux
def test_a_reset_of_streams():
    async def main():
        done = asyncio.get_running_loop().create_future()

        async def serve(reader, writer):
            try:
                done.set_result(await reader.read())
            except ConnectionResetError as error:
                done.set_result(error)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"x" * 100_000)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        server.close()
        return await done

    assert isinstance(run(main, Faults(reset=0)), ConnectionResetError)


@linux
@pytest.mark.parametrize("at", [0, 1], ids=["send", "recv"])
def test_a_reset_of_socket_operations(at):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket() as listener, socket.socket() as client:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            client.setblocking(False)
            await loop.sock_connect(client, listener.getsockname())
            server, _ = listener.accept()
            server.setblocking(False)
            with server:
                if at == 0:
                    with pytest.raises(ConnectionResetError):
                        await loop.sock_sendall(client, b"x")
                else:
                    await loop.sock_sendall(client, b"x")
                with pytest.raises(ConnectionResetError):
                    await loop.sock_recv(server, 10)
                if at == 1:
                    with pytest.raises(ConnectionResetError):
                        await loop.sock_recv(client, 10)

    run(main, Faults(reset=at))


def test_a_unix_connection_is_over_at_both_ends():
    async def main():
        loop = asyncio.get_running_loop()
        one, other = socket.socketpair()
        one.setblocking(False)
        other.setblocking(False)
        with one, other:
            await loop.sock_sendall(one, b"x")
            with pytest.raises(ConnectionResetError):
                await loop.sock_recv(other, 10)
            assert await loop.sock_recv(one, 10) == b""
            with pytest.raises(BrokenPipeError):
                await loop.sock_sendall(one, b"more")

    run(main, Faults(reset=1))


def test_a_pipe_is_never_reset():
    async def main():
        loop = asyncio.get_running_loop()
        read_end, write_end = os.pipe()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), open(read_end, "rb", 0)
        )
        os.write(write_end, b"hello")
        os.close(write_end)
        data = await reader.read()
        transport.close()
        return data

    assert run(main, Faults(reset=1.0)) == b"hello"


# --- callbacks that take long --------------------------------------------------------


def test_a_slow_callback_takes_time():
    async def main():
        loop = asyncio.get_running_loop()
        times = []
        for _ in range(4):
            loop.call_soon(lambda: times.append(loop.time()))
        await asyncio.sleep(1.0)
        return times, loop.time()

    faults = Faults(slow_callback=1, slow_seconds=5.0)
    times, end = testing.run(main(), faults=faults)
    assert times == [0.0, 5.0, 5.0, 5.0]
    assert end == 5.0  # Nobody was there when the second was over.


def test_a_slow_callback_makes_others_miss_their_time_limit():
    async def main():
        async def answer():
            await asyncio.sleep(0.4)
            await asyncio.sleep(0.4)
            return "in time"

        async def busy():
            await asyncio.sleep(0.1)

        other = asyncio.create_task(busy())
        try:
            return await asyncio.wait_for(answer(), 1.0)
        finally:
            await other

    assert testing.run(main()) == "in time"
    failures = testing.explore(
        main, seeds=range(30), faults=Faults(slow_callback=range(12), slow_seconds=2.0)
    )
    assert failures
    assert {type(error) for error in failures.values()} == {TimeoutError}
    told = [note for error in failures.values() for note in error.__notes__]
    assert any(re.match(r"2\.0 s were taken by this: .* begins", note) for note in told)


# --- the last steps in words ---------------------------------------------------------


async def stumble():
    await asyncio.sleep(1.5)
    raise ValueError("stumbled")


def trace_in(error):
    return next(note for note in error.__notes__ if note.startswith("the last "))


def test_a_failure_tells_the_last_steps():
    async def main():
        asyncio.get_running_loop().call_later(1.0, len, "")
        await asyncio.create_task(stumble(), name="the runner")

    with pytest.raises(ValueError, match="stumbled") as caught:
        testing.run(main())
    lines = trace_in(caught.value).splitlines()
    place = re.escape("test_faults.py:")
    patterns = [
        r"the last \d steps:",
        rf"  #0 0\.0 s  Task-\d+ begins at .*{place}\d+ in main",
        rf"  #1 0\.0 s  task 'the runner' begins at .*{place}\d+ in stumble",
        r"  #2 1\.0 s  the callback len",
        rf"  #\d 1\.5 s  task 'the runner' goes on at .*{place}(\d+) in stumble",
    ]
    found = [line for line in lines if "asyncio" not in line and "future" not in line]
    for pattern, line in zip(patterns, found, strict=False):
        assert re.fullmatch(pattern, line), trace_in(caught.value)
    line = re.search(patterns[-1], trace_in(caught.value))
    assert int(line[1]) == stumble.__code__.co_firstlineno + 1
    assert re.search(r"  Task-\d+ goes on at .* in main$", lines[-1])


def test_only_the_last_steps_are_told():
    async def main():
        for _ in range(100):
            await asyncio.sleep(0)
        raise ValueError

    with pytest.raises(ValueError) as caught:
        testing.run(main())
    head, *lines = trace_in(caught.value).splitlines()
    assert head == "the last 20 steps:"
    assert len(lines) == 20
    assert lines[-1].lstrip().startswith("#100 ")


def test_a_hang_tells_the_last_steps():
    async def main():
        await asyncio.sleep(2.0)
        await asyncio.Event().wait()

    with pytest.raises(testing.SleepForever) as caught:
        testing.run(main())
    assert "2.0 s" in trace_in(caught.value).splitlines()[-1]


def test_explored_failures_tell_the_last_steps():
    failures = testing.explore(stumble, seeds=range(2))
    assert all("stumble" in trace_in(error) for error in failures.values())


def test_what_is_thrown_is_told():
    async def main():
        task = asyncio.create_task(asyncio.Event().wait(), name="waits")
        task.cancel()
        await asyncio.wait([task])
        raise ValueError

    with pytest.raises(ValueError) as caught:
        testing.run(main())
    assert "task 'waits' " in trace_in(caught.value)


def test_the_last_steps_keep_no_task_alive():
    async def main():
        task = asyncio.create_task(asyncio.sleep(1.0))
        await task
        reference = weakref.ref(task)
        del task
        await asyncio.sleep(0)  # The step before had it.
        gc.collect()
        return reference()

    assert testing.run(main()) is None


def test_an_event_that_is_held_back_comes_when_the_faults_end():
    faults = Faults(delay_io=1.0, delay_seconds=3600)

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            reading = asyncio.create_task(loop.sock_recv(ours, 10))
            await asyncio.sleep(0)
            theirs.send(b"x")
            await asyncio.sleep(1)
            assert not reading.done()
            faults._end(loop)
            assert await asyncio.wait_for(reading, 1) == b"x"
            assert any("3600.0 s late" in fault for fault in testing.current_faults())

    run(main, faults, autojump=0.01)
