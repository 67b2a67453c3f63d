"""Run an operation again and again, with one allocation after the other failing.

    python sweep.py NAME

An operation is a function that prepares (with memory) and returns two functions: what
to do while an allocation fails, and what has to hold afterwards (with memory again).
The rules, for each allocation:

- The operation may raise, or something may be reported to the loop's exception handler
  or as unraisable; if nothing was, it has done its work: nothing is lost silently.
- What a call accepted happens; the operations check that themselves.
- The loop works afterwards, and nobody thinks that it still runs.
- After the sweep no descriptor and no memory has stayed behind.

asyncio's Python code and CPython itself meet the failures too; where these lose
something it shows as reported.
"""

from __future__ import annotations

import _socket
import _testcapi
import asyncio
import faulthandler
import gc
import heapq
import os
import socket
import ssl
import sys
import tempfile
import threading
import time
import types
import warnings
import weakref
from collections import deque
from pathlib import Path

import aioloop

# Seconds until an operation that has not ended counts as hanging, if something was
# reported and if nothing was.
LIMIT, SILENT_LIMIT = 0.05, 10
NEVER = 1 << 30
MOST = 3000  # failures of an operation, roughly
# More bytes than the kernel takes at once; the hard build cuts every write anyway, and
# moves these in thousands of steps.
HARD = os.environ.get("AIOLOOP_FLAVOUR") == "hard"
MUCH, SOME = (5_000, 10) if HARD else (600_000, 100)
# A server that lacks memory for a connection waits so long before it accepts again: a
# second, dozens of times.
asyncio.constants.ACCEPT_RETRY_DELAY = 0.005
loop = aioloop.new_event_loop()
reported: list[object] = []
# Whether what an operation checks while it runs has to hold where nothing was reported.
strict = False
# Tasks that do not end, so that each is waited for once only.
stuck: weakref.WeakSet[asyncio.Task] = weakref.WeakSet()


def turn(times=1):
    for _ in range(times):
        loop.call_soon(loop.stop)
        loop.run_forever()


class Tokens:
    """Counts calls without an allocation: ``take`` takes one of a number of tokens."""

    def __init__(self, count):
        self.count = count
        self._left = deque(range(count))
        self.take = self._left.popleft

    @property
    def taken(self):
        return self.count - len(self._left)


# --- callbacks ------------------------------------------------------------------------


def callbacks(schedule):
    """Return the operation that schedules callbacks: each accepted one runs."""

    def operation():
        # More than the ready ring has room for at first, so that it grows.
        tokens = Tokens(250)
        take = tokens.take
        accepted = 0

        def body():
            nonlocal accepted
            for _ in range(tokens.count):
                schedule(take)
                accepted += 1
            turn()

        def verify():
            turn(3)
            assert tokens.taken == accepted, (tokens.taken, accepted)

        return body, verify

    return operation


call_soon = callbacks(lambda take: loop.call_soon(take))
call_soon_threadsafe = callbacks(lambda take: loop.call_soon_threadsafe(take))
call_later_now = callbacks(lambda take: loop.call_later(0, take))
call_at_past = callbacks(lambda take: loop.call_at(1.0, take))


def timers_in_a_fresh_loop():
    """Timers become due together, in a loop whose queues have not grown yet."""
    other = aioloop.new_event_loop()
    tokens = Tokens(250)
    take = tokens.take
    now = other.time()
    for i in range(tokens.count):
        other.call_at(now + 1e-6 * (i % 7), take)

    def body():
        while tokens.taken < tokens.count:
            other.call_soon(other.stop)
            other.run_forever()

    def verify():
        assert not other.is_running()
        body()
        other.close()

    return body, verify


def cancelled_timers():
    handles = []
    tokens = Tokens(250)
    take, add = tokens.take, handles.append

    def body():
        for _ in range(100):
            add(loop.call_later(1000, take))
        for handle in handles:
            handle.cancel()
        turn()

    def verify():
        for handle in handles:
            handle.cancel()
        turn(2)
        assert tokens.taken == 0

    return body, verify


def loop_life():
    def body():
        other = aioloop.new_event_loop()
        try:
            other.call_soon(other.stop)
            other.run_forever()
        finally:
            other.close()

    def verify():
        pass

    return body, verify


def running():
    agen_hooks = sys.get_asyncgen_hooks()

    def body():
        turn()
        loop.run_until_complete(asyncio.sleep(0))

    def verify():
        assert sys.get_asyncgen_hooks() == agen_hooks
        turn()

    return body, verify


def completions(finish):
    """Return the operation that completes a future: all its callbacks run, or none.

    Without memory for them the future stays pending, and can be completed again.
    """

    def operation():
        other = aioloop.new_event_loop()  # Its ready ring has not grown yet.
        tokens = Tokens(250)
        take = tokens.take
        future = other.create_future()
        for _ in range(tokens.count):
            future.add_done_callback(lambda future: take())

        def body():
            finish(future)

        def verify():
            if not future.done():
                assert len(future._callbacks) == tokens.count
                finish(future)
            other.call_soon(other.stop)
            other.run_forever()
            assert tokens.taken == tokens.count, (tokens.taken, tokens.count)
            if not future.cancelled():
                future.exception()
            other.close()

        return body, verify

    return operation


completed_with_result = completions(lambda future: future.set_result(1))
completed_with_exception = completions(lambda future: future.set_exception(KeyError))
completed_by_cancelling = completions(lambda future: future.cancel("message"))


def ends_of_tasks(end, cancel=False):
    """Return the operation that ends a task: its callbacks run, if only later."""

    def operation():
        other = aioloop.new_event_loop()
        tokens = Tokens(250)
        take = tokens.take

        async def main():
            if cancel:
                task.cancel()
            return end()

        task = other.create_task(main())
        for _ in range(tokens.count):
            task.add_done_callback(lambda task: take())
        other.set_exception_handler(lambda loop, context: report(None))

        def body():
            other.call_soon(other.stop)
            other.run_forever()

        def verify():
            for _ in range(3):
                body()
            assert task.done()
            assert tokens.taken == tokens.count, (tokens.taken, tokens.count)
            if not task.cancelled():
                task.exception()
            other.close()

        return body, verify

    return operation


def fail():
    raise KeyError


task_returns = ends_of_tasks(lambda: 1)
task_raises = ends_of_tasks(fail)
task_is_cancelled = ends_of_tasks(lambda: 1, cancel=True)


# --- jobs of the executor -------------------------------------------------------------


def jobs():
    """Each job that was accepted runs, and its future gets what it returned, or else
    that is reported: asyncio's call_soon_threadsafe fails like that, too.

    The executor's only thread is held, so this one runs what is in the queue.
    """
    other = aioloop.new_event_loop()
    other.set_exception_handler(lambda loop, context: report(None))
    held = threading.Lock()
    held.acquire()
    other.run_until_complete(other.run_in_executor(None, int))
    executor = other._default_executor
    executor._max_workers = 1
    other.run_in_executor(None, held.acquire)
    while executor._work_queue.qsize():
        time.sleep(0)
    tokens = Tokens(100)
    take = tokens.take
    futures = []
    add = futures.append
    told = 0

    def turn_other():
        other.call_soon(other.stop)
        other.run_forever()

    def body():
        nonlocal told
        try:
            for _ in range(tokens.count):
                add(other.run_in_executor(None, take))
            work()
            turn_other()
        except BaseException:
            told += 1
            raise
        finally:
            told += len(reported)

    def work():
        while executor._work_queue.qsize():
            executor._work_queue.get_nowait().run(None)

    def verify():
        work()
        for _ in range(3):
            turn_other()
        held.release()
        executor.shutdown()
        other.close()
        assert tokens.taken >= len(futures), (tokens.taken, len(futures))
        assert sum(not future.done() for future in futures) <= told
        for future in futures:
            if future.done():
                future.exception()

    return body, verify


# --- an iteration by hand -------------------------------------------------------------


class DrivenLoop(aioloop.Loop):
    """Its iteration takes the handles out and runs them, the last one of a failed
    iteration first, and is the last one."""

    def __init__(self):
        super().__init__()
        self.held = [None]

    def _run_once(self):
        held = self.held
        self._selector.select(0)
        now = self.time() + 1
        while not held[0] and self._scheduled and self._scheduled[0]._when < now:
            held[0] = heapq.heappop(self._scheduled)
            self._ready.append(held[0])
            held[0] = None
        while self._ready or held[0]:
            if held[0] is None:
                held[0] = self._ready.popleft()
            held[0]._run()
            held[0] = None
        self.stop()


def driven_by_hand():
    """Timers, steps of tasks and their callbacks happen once each."""
    other = DrivenLoop()
    ends, timers = Tokens(50), Tokens(50)
    take_end, take_timer = ends.take, timers.take
    future = other.create_future()
    lost = 0

    def fail(loop, context):
        # asyncio's Handle._run tells so of a callback that it could not call.
        nonlocal lost
        lost += 1
        report(None)

    other.set_exception_handler(fail)

    async def main():
        await future

    tasks = [other.create_task(main()) for _ in range(ends.count)]
    for task in tasks:
        task.add_done_callback(lambda task: take_end())
    now = other.time()
    for i in range(timers.count):
        other.call_at(now + 1e-6 * (i % 7), take_timer)

    def body():
        for _ in range(2):
            other.run_forever()
            if not future.done():
                future.set_result(None)

    def verify():
        body()
        for task in tasks:
            assert task.done()
            if not task.cancelled():
                task.exception()
        assert ends.taken == ends.count, (ends.taken, ends.count)
        assert timers.taken + lost == timers.count, (timers.taken, lost)
        other.close()

    return body, verify


# --- descriptors ----------------------------------------------------------------------


def pair():
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    return ends


def readers():
    pairs = [pair() for _ in range(3)]
    for _, theirs in pairs:
        theirs.send(b"x")
    tokens = Tokens(60)
    take = tokens.take
    accepted = 0

    def body():
        nonlocal accepted
        for ours, _ in pairs:
            loop.add_reader(ours, take)
            loop.add_writer(ours, take)
            accepted += 2
        turn()

    def verify():
        before = tokens.taken
        turn()
        assert tokens.taken - before >= accepted
        for ours, theirs in pairs:
            loop.remove_reader(ours)
            loop.remove_writer(ours)
            ours.close()
            theirs.close()

    return body, verify


def events_of_a_fresh_loop():
    """More events at once than the ready ring has room for: none is forgotten."""
    other = aioloop.new_event_loop()
    pairs = [pair() for _ in range(80)]
    tokens = Tokens(1000)
    take = tokens.take
    for ours, theirs in pairs:
        theirs.send(b"x")
        other.add_reader(ours, take)

    def body():
        other.call_soon(other.stop)
        other.run_forever()

    def verify():
        before = tokens.taken
        for _ in range(4):
            body()
        assert tokens.taken - before >= 3 * len(pairs)
        other.close()
        for ends in pairs:
            for end in ends:
                end.close()

    return body, verify


def coroutine(make_main):
    """Return the operation that runs a coroutine; it has to end or to be reported."""

    def operation():
        opened = []
        main = make_main(opened)

        def body():
            loop.run_until_complete(main())

        def verify():
            for thing in opened:
                close = getattr(thing, "abort", None) or thing.close
                close()
            tasks = asyncio.all_tasks(loop).difference(stuck)
            for task in tasks:
                task.cancel()
            if tasks:
                # A task that waits for what asyncio's Python code has lost (gather's
                # own future, say) does not end.
                _, pending = loop.run_until_complete(asyncio.wait(tasks, timeout=LIMIT))
                stuck.update(pending)
            for task in tasks:
                task._log_destroy_pending = False
            turn(3)

        return body, verify

    return operation


async def receive(sock, size):
    """Receive exactly so many bytes, which may come in pieces."""
    data = b""
    while len(data) < size:
        piece = await loop.sock_recv(sock, 1000)
        assert piece
        data += piece
    return data


def note_failure(task):
    """Report a task's exception when it ends: nobody awaits it yet."""
    if not task.cancelled() and task.exception() is not None:
        report(task.exception())


@coroutine
def sock_calls(opened):
    (ours, theirs), (sender, receiver) = pair(), pair()
    opened += [ours, theirs, sender, receiver]
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    client = socket.socket()
    client.setblocking(False)
    datagrams = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(2)]
    for sock in datagrams:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
    opened += [listener, client, *datagrams]
    buffer = bytearray(10)
    address, peer = listener.getsockname(), datagrams[1].getsockname()

    async def main():
        await loop.sock_sendall(ours, b"some bytes")
        assert await receive(theirs, 10) == b"some bytes"
        reading = loop.create_task(loop.sock_recv_into(theirs, buffer))
        await asyncio.sleep(0)
        await loop.sock_sendall(ours, b"x" * 300)
        size = await reading
        assert 0 < size <= 10
        assert await receive(theirs, 300 - size) == b"x" * (300 - size)
        connecting = loop.create_task(loop.sock_connect(client, address))
        connecting.add_done_callback(note_failure)
        accepted, _ = await loop.sock_accept(listener)
        opened.append(accepted)
        await connecting
        await loop.sock_sendto(datagrams[0], b"to you", peer)
        assert (await loop.sock_recvfrom(datagrams[1], 100))[0] == b"to you"
        await loop.sock_sendto(datagrams[0], b"to you", peer)
        assert (await loop.sock_recvfrom_into(datagrams[1], buffer))[0] == 6

    return main


@coroutine
def getaddrinfo(opened):
    async def main():
        assert await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
        assert await loop.getaddrinfo("::1", "443", flags=socket.AI_NUMERICHOST)

    return main


# --- transports -----------------------------------------------------------------------


class Connected:
    """What all protocols here remember, and the end of waiting for what comes."""

    transport = None
    awaited = None  # So many bytes, and the future of who waits for them.

    def __init__(self, opened):
        self.opened = opened
        self.lost = loop.create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.opened.append(transport)

    def connection_lost(self, exc):
        if not self.lost.done():
            self.lost.set_result(exc)
        if self.awaited is not None:
            self.end_of_wait()

    def end_of_wait(self):
        if not self.awaited[1].done():
            self.awaited[1].set_result(None)


class Peer(Connected, asyncio.Protocol):
    """Counts what it gets, and sends it back if it is to echo."""

    def __init__(self, opened, echo=False):
        super().__init__(opened)
        self.echo = echo
        self.received = 0

    def data_received(self, data):
        self.received += len(data)
        if self.awaited is not None and self.received >= self.awaited[0]:
            self.end_of_wait()
        if self.echo:
            self.transport.write(data)

    def eof_received(self):
        return None

    async def receive(self, size):
        """Wait until so many bytes have come, or the end."""
        if self.received < size and not self.lost.done():
            self.awaited = size, loop.create_future()
            await self.awaited[1]


class BufferedPeer(Connected, asyncio.BufferedProtocol):
    def __init__(self, opened):
        super().__init__(opened)
        self.buffer = bytearray(1000)
        self.received = 0

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        self.received += nbytes


@coroutine
def stream_transports(opened):
    (ours, theirs), (more, others) = pair(), pair()
    opened += [ours, theirs, more, others]
    made = []

    async def main():
        for sock, factory in (
            (ours, lambda: Peer(opened)),
            (theirs, lambda: Peer(opened, echo=True)),
            (more, lambda: Peer(opened)),
            (others, lambda: BufferedPeer(opened)),
        ):
            _, protocol = await loop.create_connection(factory, sock=sock)
            made.append(protocol)
        first, second, third, fourth = made
        first.transport.write(b"x" * 100)
        first.transport.write(bytearray(b"y" * 100))
        first.transport.writelines([b"a", b"b" * 1000, memoryview(b"c" * 50)])
        third.transport.write(b"z" * 1500)
        first.transport.pause_reading()
        first.transport.set_write_buffer_limits(100, 10)
        assert first.transport.get_write_buffer_limits() == (10, 100)
        first.transport.set_protocol(first)
        assert first.transport.get_protocol() is first
        first.transport.write(bytes(MUCH))
        await asyncio.sleep(0)
        first.transport.resume_reading()
        first.transport.get_extra_info("peername")
        third.transport.write_eof()
        await first.receive(MUCH + 1251)
        first.transport.close()
        for protocol in made:
            await protocol.lost
        assert fourth.received == 1500
        assert first.received == second.received == MUCH + 1251

    return main


@coroutine
def sent_files(opened):
    """What is sent of a file arrives, from its beginning and from its middle."""
    (ours, theirs), (more, others) = pair(), pair()
    file = tempfile.TemporaryFile(dir=FOLDER)
    file.write(bytes(SOME * 100))
    file.flush()
    opened += [ours, theirs, more, others, file]

    async def main():
        file.seek(0)
        receiving = loop.create_task(receive(theirs, SOME * 100))
        receiving.add_done_callback(note_failure)
        assert await loop.sock_sendfile(ours, file) == SOME * 100
        assert await receiving == bytes(SOME * 100)
        _, sender = await loop.create_connection(lambda: Peer(opened), sock=more)
        _, receiver = await loop.create_connection(lambda: Peer(opened), sock=others)
        sent = await loop.sendfile(sender.transport, file, SOME, SOME * 2)
        assert sent == SOME * 2
        await receiver.receive(SOME * 2)
        assert receiver.received == SOME * 2
        sender.transport.close()
        receiver.transport.close()
        await sender.lost
        await receiver.lost

    return main


@coroutine
def servers(opened):
    async def main():
        server = await loop.create_server(
            lambda: Peer(opened, echo=True), "127.0.0.1", 0
        )
        opened.append(server)
        address = server.sockets[0].getsockname()
        _, client = await loop.create_connection(lambda: Peer(opened), *address)
        client.transport.write(b"x" * SOME)
        await client.receive(SOME)
        client.transport.close()
        await client.lost
        server.close()
        await server.wait_closed()

    return main


@coroutine
def unix_servers(opened):
    place = tempfile.mktemp(dir=FOLDER)

    async def main():
        served = loop.create_future()

        async def serve(reader, writer):
            opened.append(writer.transport)
            writer.write(await reader.readline())
            writer.write((await reader.readexactly(10)) * 3)
            await writer.drain()
            writer.close()
            if not served.done():
                served.set_result(None)

        server = await asyncio.start_unix_server(serve, place)
        opened.append(server)
        reader, writer = await asyncio.open_unix_connection(place)
        opened.append(writer.transport)
        writer.writelines([b"one line\n", b"0123456789"])
        assert await reader.read() == b"one line\n" + b"0123456789" * 3
        writer.close()
        await writer.wait_closed()
        await served
        server.close()
        await server.wait_closed()

    return main


@coroutine
def stream_readers(opened):
    """What is sent comes out of the readers' methods, in order and complete."""
    ours, theirs = pair()
    reader = asyncio.StreamReader(limit=100, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    # open_connection() may fail after it has made the transport, which nobody but the
    # reader knows then: the number of the descriptor would be used again under it.
    stream = types.SimpleNamespace(
        close=lambda: reader._transport is None or reader._transport.abort()
    )
    opened += [stream, ours, theirs]

    async def main():
        transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        peer = theirs.send

        async def collect(size):
            data = b""
            while len(data) < size:
                waiting = loop.create_task(reader.read(size - len(data)))
                await asyncio.sleep(0)
                data += await waiting
            return data

        peer(b"0123456789")
        assert await collect(10) == b"0123456789"
        # Cancelled when the data is there: a later read finds it.
        waiting = loop.create_task(reader.read(10))
        await asyncio.sleep(0)
        peer(b"abcde")
        while not waiting.done():
            await asyncio.sleep(0)
            waiting.cancel()
        data = b"" if waiting.cancelled() else waiting.result()
        assert data + await collect(5 - len(data)) == b"abcde"
        waiting = loop.create_task(reader.readuntil(b"--"))
        await asyncio.sleep(0)
        peer(b"until-")
        await asyncio.sleep(0)
        peer(b"--\nline\n")
        assert await waiting == b"until--"
        assert await reader.readline() == b"-\n"
        assert await reader.readexactly(5) == b"line\n"
        peer(b"x" * 150 + b"\nlast")
        try:
            await reader.readline()
        except ValueError:
            pass
        else:
            raise AssertionError("a line beyond the limit")
        theirs.shutdown(socket.SHUT_WR)
        try:
            await reader.readexactly(500)
        except asyncio.IncompleteReadError as exc:
            assert exc.partial.endswith(b"last")
        else:
            raise AssertionError("more than was sent")
        assert await reader.read(5) == b""
        writer.close()
        await writer.wait_closed()

    return main


def tls_context(purpose):
    context = ssl.SSLContext(purpose)
    if purpose == ssl.PROTOCOL_TLS_SERVER:
        context.load_cert_chain(Path(__file__).parent.parent / "certificate.pem")
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@coroutine
def tls(opened):
    """On an established connection: what comes is decrypted, what goes encrypted."""
    ours, theirs = pair()
    opened += [ours, theirs]
    first, second = Peer(opened), Peer(opened, echo=True)

    async def connect():
        await asyncio.gather(
            loop.create_connection(
                lambda: first,
                sock=ours,
                ssl=tls_context(ssl.PROTOCOL_TLS_CLIENT),
                server_hostname="",
            ),
            loop.connect_accepted_socket(
                lambda: second, theirs, ssl=tls_context(ssl.PROTOCOL_TLS_SERVER)
            ),
        )

    loop.run_until_complete(connect())

    async def main():
        first.transport.write(b"x" * 100)
        first.transport.write(bytearray(b"y" * 40_000))
        await first.receive(40_100)
        second.transport.write(b"z" * 1000)
        await first.receive(41_100)
        first.transport.close()
        await first.lost
        await second.lost
        assert first.received == 41_100

    return main


class DatagramPeer(Connected, asyncio.DatagramProtocol):
    def __init__(self, opened):
        super().__init__(opened)
        self.received = asyncio.Queue()

    def datagram_received(self, data, addr):
        self.received.put_nowait(data)


@coroutine
def datagrams(opened):
    async def main():
        first, one = await loop.create_datagram_endpoint(
            lambda: DatagramPeer(opened), ("127.0.0.1", 0)
        )
        address = first.get_extra_info("sockname")
        second, two = await loop.create_datagram_endpoint(
            lambda: DatagramPeer(opened), remote_addr=address
        )
        for i in range(3):
            second.sendto(b"%d" % i)
        for i in range(3):
            assert await one.received.get() == b"%d" % i
        first.sendto(b"back", second.get_extra_info("sockname"))
        assert await two.received.get() == b"back"
        for peer in (one, two):
            peer.transport.close()
            await peer.lost

    return main


@coroutine
def pipes(opened):
    read_end, write_end = os.pipe()
    reading, writing = os.fdopen(read_end, "rb", 0), os.fdopen(write_end, "wb", 0)
    opened += [reading, writing]

    async def main():
        source, reader = await loop.connect_read_pipe(lambda: Peer(opened), reading)
        target, writer = await loop.connect_write_pipe(lambda: Peer(opened), writing)
        target.write(b"x" * 100)
        # More than a pipe holds.
        target.write(bytes(200_000))
        source.pause_reading()
        await asyncio.sleep(0)
        source.resume_reading()
        target.write_eof()
        await writer.lost
        await reader.lost
        assert reader.received == 200_100

    return main


# --- the sweep ------------------------------------------------------------------------


def report(exc):
    """Note that something was reported."""
    reported.append(exc)
    if exc is not None:
        # CPython has one MemoryError for emergencies; its traceback grows for ever.
        exc.__traceback__ = None


def attempt(operation, first, last):
    """Run the operation; allocations from the first to the last (exclusive) fail."""
    hung = False

    def give_up(last):
        nonlocal hung
        if last or reported:
            hung = True
            loop.stop()

    body, verify = operation()
    watchdogs = [
        loop.call_later(LIMIT, give_up, False),
        loop.call_later(SILENT_LIMIT, give_up, True),
    ]
    reported.clear()
    # 3.11 and 3.15 crash in an iteration over items() that has no memory for its pair:
    # there are free ones.
    pairs = [(n, n) for n in range(50)]
    del pairs
    _testcapi.set_nomemory(first, last)
    try:
        body()
    except Exception as exc:
        # MemoryError, or what asyncio's own code turns a lack of memory into.
        if strict and isinstance(exc, AssertionError) and not reported:
            raise
        if not hung:
            report(exc)
    finally:
        _testcapi.remove_mem_hooks()
    for watchdog in watchdogs:
        watchdog.cancel()
    assert reported or not hung, f"allocation {first}: lost silently"
    reported.clear()
    assert not loop.is_running()
    assert asyncio._get_running_loop() is None
    verify()
    turn(2)
    assert asyncio.current_task(loop) is None
    return hung


def count_allocations(operation):
    """Return about how many allocations the operation makes, and not fewer."""
    many = 100_000
    tokens = Tokens(many)
    take, byte = tokens.take, b"x"
    body, verify = operation()
    _testcapi.set_nomemory(many, 0)
    try:
        body()
        while True:
            take()
            byte * 300  # One block of memory, which no free list holds.
    except MemoryError:
        pass
    finally:
        _testcapi.remove_mem_hooks()
    verify()
    return many - tokens.taken


def state():
    gc.collect()
    # CPython 3.11 leaks the arguments of a call for which it has no memory, and a
    # server whose making or closing broke off in asyncio's Python code is nobody's.
    for thing in gc.get_objects():
        if isinstance(thing, asyncio.BaseTransport):
            thing.close()
        elif isinstance(thing, aioloop.Loop) and thing is not loop:
            thing._close_selector()  # It may be half made, as new_event_loop's are.
        elif isinstance(thing, socket.socket):
            _socket.socket.close(thing)  # The object may be half made.
    for fd in loop._selector.get_map():
        loop._remove_reader(fd)
    turn(2)
    reported.clear()  # The __del__ of a loop that is half made fails and tells so.
    gc.collect()
    return len(os.listdir("/proc/self/fd")), sys.getallocatedblocks()


def main(operation):
    """Sweep over an operation; its rules are above."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    loop.set_exception_handler(
        lambda loop, context: reported.append(context["message"])
    )
    sys.unraisablehook = lambda unraisable: reported.append(unraisable.exc_value)
    for _ in range(5):
        attempt(operation, NEVER, NEVER + 1)
    assert not attempt(operation, NEVER, NEVER + 1)
    total = count_allocations(operation) + 10
    # Of very many, one in a few.
    chosen = range(1, total, 1 + total // MOST)
    hangs = 0
    for n in chosen:
        hangs += attempt(operation, n, n + 1)
    before = state()
    for n in chosen:
        attempt(operation, n, n + 1)
    after = state()
    print(
        f"survived {len(chosen)} failures of {total}, {hangs} hangs; {before} {after}"
    )
    assert after[0] == before[0], f"descriptors: {before[0]} -> {after[0]}"
    # Free lists and CPython's own leaks make some hundred blocks more or less.
    assert after[1] - before[1] < 600 + total, f"blocks: {before[1]} -> {after[1]}"
    loop.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as FOLDER:
        main(globals()[sys.argv[1]])
