"""What the soak does: each load is a coroutine function, and a call of it one round.

A round ends with all closed that it has opened; what goes wrong raises. What a round
needs is the run's (`tests.soak.run.Run`): random numbers, servers, counters.
"""

import asyncio
import contextlib
import os
import resource
import signal
import socket
import struct
import threading
import time

from tests.conftest import client_context, server_context

from . import http

try:
    import websockets.asyncio.client
    import websockets.asyncio.server
except ImportError:
    websockets = None

LOADS = {}
HOST = "127.0.0.1"
FAR = 1000


def load(function):
    """Register a load under its name."""
    LOADS[function.__name__] = function
    return function


# --- servers --------------------------------------------------------------------------


class Echo(asyncio.BufferedProtocol):
    """Sends back what comes, and reads no more while its peer does not."""

    def __init__(self, ended=None):
        self.ended = ended

    def connection_made(self, transport):
        self.transport = transport
        self.buffer = bytearray(1 << 14)

    def get_buffer(self, hint):
        return self.buffer

    def buffer_updated(self, size):
        self.transport.write(bytes(self.buffer[:size]))

    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()

    def connection_lost(self, exc):
        if self.ended is not None:
            self.ended.set_result(exc)


async def echo_messages(connection):
    """Send the messages of a WebSocket back."""
    async for message in connection:
        await connection.send(message)


@contextlib.asynccontextmanager
async def servers(run):
    """Serve HTTP, HTTPS, WebSockets and Echo, on ports that the run gets to know."""
    loop = asyncio.get_running_loop()
    started = {
        "http": await asyncio.start_server(http.serve, HOST, 0),
        "https": await asyncio.start_server(http.serve, HOST, 0, ssl=server_context()),
        "echo": await loop.create_server(Echo, HOST, 0, backlog=1000),
    }
    if websockets is not None:
        started["websockets"] = await websockets.asyncio.server.serve(
            echo_messages, HOST, 0, compression=None
        )
    run.client_context = client_context()
    run.ports = {
        name: next(iter(server.sockets)).getsockname()[1]
        for name, server in started.items()
    }
    try:
        yield
    finally:
        for server in started.values():
            server.close()
            await asyncio.wait_for(server.wait_closed(), 60)


# --- connections ----------------------------------------------------------------------


async def _requests(run, port, **options):
    reader, writer = await asyncio.open_connection(HOST, run.ports[port], **options)
    run.connections += 1
    for _ in range(run.random.randrange(1, 12)):
        body = run.bytes(run.random.choice((0, 1, 100, 5_000, 70_000, 300_000)))
        chunked = run.random.random() < 0.5
        await http.write_message(writer, b"POST / HTTP/1.1", body, chunked)
        first, answer, in_chunks = await http.read_message(reader)
        assert first == b"HTTP/1.1 200 OK" and in_chunks == chunked
        run.check(answer, body)
    await http.close(writer)


@load
async def http_requests(run):
    """Requests on connections that stay open for a while."""
    await asyncio.gather(*(_requests(run, "http") for _ in range(8)))


@load
async def https_requests(run):
    """The same over TLS."""
    await asyncio.gather(
        *(_requests(run, "https", ssl=run.client_context) for _ in range(4))
    )


if websockets is not None:

    @load
    async def websocket_messages(run):
        """Messages on a WebSocket."""
        url = f"ws://{HOST}:{run.ports['websockets']}"
        async with websockets.asyncio.client.connect(url, compression=None) as there:
            run.connections += 1
            for _ in range(run.random.randrange(1, 10)):
                message = run.bytes(run.random.choice((1, 200, 20_000, 150_000)))
                await there.send(message)
                run.check(await there.recv(), message)
            await (await there.ping())


@load
async def slow_readers(run):
    """A large answer, read in small pieces with pauses, through small buffers."""
    loop = asyncio.get_running_loop()
    offset, size = run.random.randrange(1 << 20), 700_000
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await loop.sock_connect(sock, (HOST, run.ports["http"]))
    run.connections += 1
    reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
    writer.write(b"GET /%d/%d HTTP/1.1\r\nContent-Length: 0\r\n\r\n" % (offset, size))
    await reader.readuntil(b"\r\n\r\n")
    expected, at = memoryview(http.piece(offset, size)), 0
    while at < size:
        data = await reader.read(run.random.randrange(1, 10_000))
        assert data, "the answer ends early"
        run.check(data, expected[at : at + len(data)])
        at += len(data)
        if run.random.random() < 0.2:
            await asyncio.sleep(0.001)
    await http.close(writer)


def _reset(sock):
    """Close a socket so that its peer gets a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@load
async def vanishing_clients(run):
    """Clients that go in the middle of a request, an answer or a handshake."""
    loop = asyncio.get_running_loop()
    for port, text in (
        ("http", b"POST / HTTP/1.1\r\nContent-Le"),
        ("http", b"POST / HTTP/1.1\r\nContent-Length: 500000\r\n\r\n" + bytes(90_000)),
        ("http", b"GET /0/3000000 HTTP/1.1\r\nContent-Length: 0\r\n\r\n"),
        ("https", b""),
        ("https", b"\x16\x03\x01"),
        ("echo", bytes(50_000)),
    ):
        sock = socket.socket()
        sock.setblocking(False)
        await loop.sock_connect(sock, (HOST, run.ports[port]))
        run.connections += 1
        await loop.sock_sendall(sock, text)
        await asyncio.sleep(run.random.choice((0, 0, 0.001)))
        if run.random.random() < 0.5:
            sock.close()
        else:
            _reset(sock)


class _Client(asyncio.Protocol):
    """One of the crowd: it has got its answer, or it has lost its connection."""

    def __init__(self, run):
        self.answer = run.loop.create_future()
        self.lost = run.loop.create_future()
        self.got = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.got += data
        if len(self.got) == 8:
            self.answer.set_result(self.got)

    def connection_lost(self, exc):
        if not self.answer.done():
            self.answer.set_exception(exc or ConnectionError("closed early"))
        self.lost.set_result(None)


def room_for_connections():
    """Return how many connections of both ends this process may have at once."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 1 << 16
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(50, (soft - 1000) // 2)


async def crowd(run, size):
    """So many connections, as many at once as can be, get a word and are dropped."""
    room = room_for_connections()
    while size > 0:
        here = min(size, room)
        await _crowd_at_once(run, here)
        size -= here


async def _crowd_at_once(run, size):
    gate = asyncio.Semaphore(100)

    async def join(number):
        async with gate:
            _, client = await run.loop.create_connection(
                lambda: _Client(run), HOST, run.ports["echo"]
            )
            word = struct.pack("<Q", number)
            client.transport.write(word)
            run.check(await client.answer, word)
            return client

    clients = await asyncio.gather(*map(join, range(size)))
    run.connections += size
    run.most_connections = max(run.most_connections, size)
    for number, client in enumerate(clients):
        if number % 2:
            client.transport.close()
        else:
            client.transport.abort()
    await asyncio.gather(*(client.lost for client in clients))


@load
async def dropped_connections(run):
    """A small crowd."""
    await crowd(run, 50)


@load
async def raw_sockets(run):
    """sock_sendall and sock_recv at the ends of a pair of sockets."""
    loop = asyncio.get_running_loop()
    data = run.bytes(200_000)
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    sending = loop.create_task(loop.sock_sendall(ends[0], data))
    got = bytearray()
    while len(got) < len(data):
        got += await loop.sock_recv(ends[1], run.random.randrange(1, 100_000))
    await sending
    run.check(got, data)
    for end in ends:
        end.close()


class _Datagrams(asyncio.DatagramProtocol):
    """Puts what comes in a queue, or sends it back."""

    def __init__(self, queue=None):
        self.queue = queue

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        if self.queue is None:
            self.transport.sendto(data, address)
        else:
            self.queue.put_nowait(data)


@load
async def datagrams(run):
    """UDP, there and back, a few at a time: none is lost on the way to oneself."""
    loop = asyncio.get_running_loop()
    queue = asyncio.Queue()
    server, _ = await loop.create_datagram_endpoint(_Datagrams, local_addr=(HOST, 0))
    client, _ = await loop.create_datagram_endpoint(
        lambda: _Datagrams(queue), remote_addr=server.get_extra_info("sockname")
    )
    for _ in range(20):
        sent = [run.bytes(run.random.randrange(1, 3000)) for _ in range(8)]
        for data in sent:
            client.sendto(data)
        for data in sent:
            run.check(await queue.get(), data)
    client.close()
    server.close()


@load
async def pipes(run):
    """A pipe, as a transport at both of its ends."""
    loop = asyncio.get_running_loop()
    data = run.bytes(300_000)
    ends = [
        os.fdopen(fd, "rb" if i == 0 else "wb", 0) for i, fd in enumerate(os.pipe())
    ]
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), ends[0])
    transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, ends[1])
    transport.write(data)
    transport.write_eof()
    run.check(await reader.read(), data)


# --- processes, threads, signals ------------------------------------------------------


@load
async def processes(run):
    """Children that answer, that end with a status, that are killed."""
    pipe = asyncio.subprocess.PIPE
    cat, shell, sleep = await asyncio.gather(
        asyncio.create_subprocess_exec("cat", stdin=pipe, stdout=pipe),
        asyncio.create_subprocess_shell("exit 7"),
        asyncio.create_subprocess_exec("sleep", str(FAR)),
    )
    data = run.bytes(run.random.choice((1, 5_000, 400_000)))
    output, _ = await cat.communicate(data)
    run.check(output, data)
    sleep.kill()
    statuses = [await child.wait() for child in (cat, shell, sleep)]
    assert statuses == [0, 7, -signal.SIGKILL], statuses
    await asyncio.sleep(0.05)


@load
async def executors(run):
    """Functions in threads, their results and exceptions; calls from threads."""
    loop = asyncio.get_running_loop()
    numbers = [run.random.randrange(1000) for _ in range(20)]
    results = await asyncio.gather(
        *(
            loop.run_in_executor(None, lambda n=n: (time.sleep(0.001), n)[1])
            for n in numbers
        )
    )
    assert results == numbers
    try:
        await asyncio.to_thread(int, "no number")
    except ValueError:
        pass
    else:
        raise AssertionError("the exception was lost")
    queue = asyncio.Queue()

    def call():
        for number in numbers:
            loop.call_soon_threadsafe(queue.put_nowait, number)

    await asyncio.to_thread(call)
    assert [await queue.get() for _ in numbers] == numbers
    await asyncio.sleep(0.02)


@load
async def signals(run):
    """Signals from this thread and from another one, each of which is seen."""
    loop = asyncio.get_running_loop()
    queue = asyncio.Queue()
    loop.add_signal_handler(signal.SIGUSR1, queue.put_nowait, "seen")
    for _ in range(5):
        os.kill(os.getpid(), signal.SIGUSR1)
        assert await queue.get() == "seen"
        await asyncio.to_thread(os.kill, os.getpid(), signal.SIGUSR1)
        assert await queue.get() == "seen"
    assert loop.remove_signal_handler(signal.SIGUSR1)
    await asyncio.sleep(0.02)


async def _program_of_a_thread(data):
    """Timers, tasks, a wake-up from outside and a connection, in a loop of its own."""
    loop = asyncio.get_running_loop()
    woken = loop.create_future()
    thread = threading.Thread(
        target=loop.call_soon_threadsafe, args=(woken.set_result, None)
    )
    thread.start()
    ended = loop.create_future()
    server = await loop.create_server(lambda: Echo(ended), HOST, 0)
    address = server.sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(*address)
    writer.write(data)
    got = await reader.readexactly(len(data))
    await http.close(writer)
    server.close()
    await server.wait_closed()
    await ended  # 3.11's wait_closed() does not wait for connections.
    await woken
    thread.join()
    await asyncio.gather(*(asyncio.sleep(0.001) for _ in range(10)))
    loop.call_later(FAR, print)
    loop.create_task(asyncio.sleep(FAR))  # Left to the Runner.
    await asyncio.sleep(0)
    return got


@load
async def loops_in_threads(run):
    """Loops that are made, run and closed in threads; some are closed at once."""
    data = run.bytes(50_000)

    def work():
        run.new_event_loop().close()
        with asyncio.Runner(loop_factory=run.new_event_loop) as runner:
            return runner.run(_program_of_a_thread(data))

    for got in await asyncio.gather(*(asyncio.to_thread(work) for _ in range(2))):
        run.check(got, data)
    run.loops += 4
    await asyncio.sleep(0.05)


# --- the loop itself ------------------------------------------------------------------


@load
async def cancellations(run):
    """Tasks that wait for each kind of thing, and are cancelled there."""
    loop = asyncio.get_running_loop()
    lock, event, queue = asyncio.Lock(), asyncio.Event(), asyncio.Queue()
    ends = socket.socketpair()
    ends[0].setblocking(False)
    await lock.acquire()

    async def in_time():
        async with asyncio.timeout(FAR):
            await event.wait()

    async def wait(what):
        await what()

    kinds = (
        lambda: asyncio.sleep(FAR),
        loop.create_future,
        lock.acquire,
        event.wait,
        queue.get,
        in_time,
        lambda: asyncio.wait_for(queue.get(), FAR),
        lambda: asyncio.gather(event.wait(), queue.get()),
        lambda: asyncio.shield(loop.create_future()),
    )
    waiting = [loop.create_task(wait(kind)) for kind in kinds * 5]
    waiting.append(loop.create_task(loop.sock_recv(ends[0], 10)))
    await asyncio.sleep(run.random.choice((0, 0.001)))
    for task in waiting:
        assert task.cancel("enough")
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(result) for result in results} == {asyncio.CancelledError}, results
    for end in ends:
        end.close()
    run.cancelled += len(waiting)


@load
async def limits(run):
    """Timeouts that are met and missed; groups that fail; timers that are cancelled."""
    loop = asyncio.get_running_loop()
    for timer in [loop.call_later(FAR + i, print) for i in range(100)]:
        timer.cancel()
    try:
        async with asyncio.timeout(0.002):
            await loop.create_future()
    except TimeoutError:
        pass
    else:
        raise AssertionError("the timeout was missed")
    assert await asyncio.wait_for(asyncio.sleep(0, "result"), FAR) == "result"

    async def fail():
        await asyncio.sleep(0.001)
        raise LookupError

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(FAR))
            group.create_task(fail())
    except* LookupError:
        pass
    order, now = [], loop.time()
    for delay in (0.003, 0.001, 0.002):
        loop.call_at(now + delay, order.append, delay)
    while len(order) < 3:
        await asyncio.sleep(0.001)
    assert order == sorted(order)
