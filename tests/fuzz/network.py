"""The interpreter of network programs: sockets, pipes, threads, processes and signals.

A program is a list of steps. A step is one operation of the driver, which has the other
end of most connections as a plain socket; then the loop runs until nothing happens any
more. So an actor (a transport with its protocol, a stream, a socket, a job ...) sees at
most one thing at a time, and what it does in its callbacks is a script of the program.
Operations name actors by number, modulo how many there are; None is the one whose
callback it is.

What the kernel and the threads may decide is not in the trace:

- The order of events at different descriptors: within a step the lines of each actor
  stand together (`end_step`).
- How a stream is cut into `data_received()`: what comes in a row is one line, and a
  script begins at a number of bytes, not at a number of calls (`Actor.got`).
- Numbers of descriptors, ports, processes and addresses, names of files (`Words`).
- How many bytes a full socket takes: only Unix sockets and pipes are filled, whose
  kernel counts the same each time, and not where aioloop sends several writes as one
  (`modes.NETWORK_PAIRS`).
- When a thread or a child is through: the step lasts until it is (`expected`).
- In which order the pipes and the end of a child are noticed: each has lines of its own
  (`Child`).
"""

import asyncio
import concurrent.futures
import os
import re
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import zlib

from tests.fuzz import words
from tests.fuzz.world import EXCEPTIONS, Odd, World

MOST_STEPS = 400
# Turns without a line of the trace, after which a step is over. docs/differences.md,
# "an iteration looks at the selector ...": one that is never idle may look some turns
# and LOOK seconds later at what the driver has done behind its back.
QUIET = {"turns": 6, "tick": 24, "timer": 4}
LOOK = 0.00006
PATIENCE = 5.0  # seconds that a thread or a child may take
PIECE = 65536
DEEPEST = 20
# abort() and write() fail where close() has ended the connection after its last byte
# (gh-156512); `_conn_lost` does not tell of it.
EARLY = sys.version_info[:2] in ((3, 12), (3, 13))  # writelines() was new then
ENDED_MAY_FAIL = sys.version_info < (3, 14)
LINGER = struct.pack("ii", 1, 0)  # close() sends a reset

FD = re.compile(r"\b(fd=|File descriptor |fileno=)\d+")
PORT = re.compile(r"\('127\.0\.0\.1', \d+\)")
SOCKET = re.compile(r"<(?:socket\.|asyncio\.Transport)?[Ss]ocket fd=[^>]*>")
# asyncio's classes of transports are private, and ours have other names.
TRANSPORT = re.compile(
    r"\b_?(?:Selector|Unix)(Socket|Datagram|ReadPipe|WritePipe)Trans"
)
LOST = re.compile(r"\b\w*Transport\._call_connection_lost")
# A long repr of an argument is abbreviated in the middle.
ABBREVIATED = re.compile(r"\(<[^()]*?\.\.\.[^()]*?>\)|\(<\w+Transport [^()]*>\)")
# docs/differences.md: an event's handle is never "cancelled"; a connection has no task.
EVENT = re.compile(
    r"Exception in callback (None|\?|\w+Transport\._\w+)\(\)(\nhandle: <Handle [^>]*>)?"
)
TASK = re.compile(r"\bTask-\d+")
# docs/differences.md, "the report of a transport's event": asyncio's may be older
# than debug mode.
MADE = re.compile(r"\nhandle_traceback: [^\n]*(\n  [^\n]*)*")
PATH = re.compile(r"/\S*/fuzz-\w+/\w+")
PIPE = re.compile(r"<_io\.\w+ name=\d+[^>]*>")
PID = re.compile(r"\bpid=?\s?\d+")


class Words(words.Words):
    def clean(self, text):
        text = FD.sub(r"\1?", super().clean(MADE.sub("", text)))
        text = PORT.sub("(here)", text)
        text = SOCKET.sub("<socket>", text)
        text = TRANSPORT.sub(r"\1Trans", text)
        text = LOST.sub("Transport._call_connection_lost", text)
        text = ABBREVIATED.sub("(<...>)", text)
        text = EVENT.sub("Exception in an event", text)
        text = TASK.sub("Task", text)
        text = PATH.sub("/path", text)
        text = PIPE.sub("<pipe>", text)
        if sys.version_info < (3, 12):  # writelines() is a write() of asyncio's there
            text = text.replace("call writelines()", "call write()")
        return PID.sub("pid", text)

    def of(self, value):
        if isinstance(value, (bytes, bytearray, memoryview)):
            return contents(bytes(value))
        if isinstance(value, tuple) and len(value) == 2 and value[0] == "127.0.0.1":
            return "(here)"
        return super().of(value)


def contents(data):
    if len(data) <= 40:
        return repr(data)
    return f"{len(data)} bytes {zlib.crc32(data):08x}"


def pattern(size):
    return (b"0123456789abcdef\n" * (size // 17 + 1))[:size]


def without_made(scripts):
    return [script for script in scripts if script[0] != "made"]


def acts_on_others(actor):
    """Return whether a datagram has the actor do something to another one."""
    return any(
        isinstance(operation[1], int)
        for script in actor.scripts
        if len(script) > 2 and script[0] == "datagram"
        for operation in script[2]
        if len(operation) > 1
    )


class Actor:
    """Something that has callbacks or tasks, and lines of its own in the trace."""

    transport = None
    peer = None  # the driver's socket at the other end

    def __init__(self, world, kind, scripts=()):
        self.world = world
        self.label = world.label(kind)
        self.scripts = [list(script) for script in scripts]
        self.data = bytearray()
        self.total = 0
        self.lost = False
        self.busy = set()

    def note(self, *said):
        self.tell_data()
        self.world.note_of(self.label, *said)

    def tell_data(self):
        if self.data:
            data, self.data = bytes(self.data), bytearray()
            self.world.note_of(self.label, "data", data)

    def got(self, data):
        """Take what came, and do what is to be done at so many bytes."""
        self.world.count += 1
        self.data += data
        self.total += len(data)
        for script in self.scripts:
            if len(script) > 2 and script[0] == "data" and script[1] <= self.total:
                script[0] = "done"
                self.world.do(self, script[2])

    def event(self, name, *said):
        """Note an event, do its script, and return what that says."""
        self.note(name, *said)
        self.lost = self.lost or name == "lost"
        result = None
        for script in list(self.scripts):
            if len(script) > 2 and script[0] == name:
                result = script[1]
                self.world.do(self, script[2])
        return result


class Protocol(asyncio.Protocol):
    def __init__(self, actor):
        self.actor = actor

    def connection_made(self, transport):
        self.actor.transport = transport
        self.actor.event("made")

    def data_received(self, data):
        self.actor.got(data)

    def eof_received(self):
        return bool(self.actor.event("eof"))

    def pause_writing(self):
        self.actor.event("paused")

    def resume_writing(self):
        self.actor.event("resumed")

    def connection_lost(self, exc):
        self.actor.event("lost", exc)


class Buffered(asyncio.BufferedProtocol):
    """The same, with a buffer of its own."""

    size = 64

    def __init__(self, actor):
        self.actor = actor
        self.buffer = bytearray(self.size)

    connection_made = Protocol.connection_made
    eof_received = Protocol.eof_received
    pause_writing = Protocol.pause_writing
    resume_writing = Protocol.resume_writing
    connection_lost = Protocol.connection_lost

    def get_buffer(self, hint):
        return self.buffer

    def buffer_updated(self, size):
        self.actor.got(self.buffer[:size])


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, actor):
        self.actor = actor

    connection_made = Protocol.connection_made
    pause_writing = Protocol.pause_writing
    resume_writing = Protocol.resume_writing
    connection_lost = Protocol.connection_lost

    def datagram_received(self, data, address):
        self.actor.event("datagram", data, address)

    def error_received(self, exc):
        self.actor.event("error", exc)


class Child(asyncio.SubprocessProtocol):
    """A child's events; each pipe has lines of its own, and so has the end."""

    def __init__(self, actor):
        self.actor = actor
        self.ended = actor.world.loop.create_future()
        self.pipes = {}

    def pipe_data_received(self, fd, data):
        self.pipes[fd] = self.pipes.get(fd, b"") + data
        self.actor.world.count += 1

    def pipe_connection_lost(self, fd, exc):
        # A pipe for writing ends with an error or without one, as the child is faster.
        world = self.actor.world
        got = self.pipes.get(fd, b"")
        world.note_of(f"{self.actor.label}.{fd}", "lost", fd and exc, got)

    def process_exited(self):
        self.actor.world.note_of(f"{self.actor.label}.end", "exited")

    def connection_lost(self, exc):
        self.actor.note("lost", exc)
        if not self.ended.done():
            self.ended.set_result(None)


class Descriptor:
    """A pipe's end for the driver, with the methods of a socket."""

    def __init__(self, fd):
        os.set_blocking(fd, False)
        self.fd = fd

    def send(self, data):
        return os.write(self.fd, data)

    def recv(self, size):
        return os.read(self.fd, size)

    def fileno(self):
        return self.fd

    def shutdown(self, how):
        self.close()

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Network:
    """One run of one program on one loop."""

    def __init__(self, loop, program):
        self.loop = loop
        self.program = program["phases"]
        self.pace = program["pace"]
        self.words = Words(True)
        self.words.switches = "'set_debug'" in repr(program)
        self.trace = []
        self.garbage = []
        self.lines = {}  # of this step, by actor
        self.labels = {}
        self.count = 0  # what has happened
        self.quiet = 0
        self.left = MOST_STEPS
        self.done = 0
        self.ended = False
        self.expected = []  # functions that say whether the step may end
        self.ends = []  # actors with a transport of a stream
        self.streams = []
        self.sockets = []
        self.datagrams = []
        self.watches = []
        self.servers = []
        self.jobs = []
        self.commands = []
        self.peers = []  # the actors with a peer
        self.opened = []  # what has to be closed
        self.threads = []
        self.executor = None
        self.listening = None
        self.handled = set()  # signals
        self.handlers = 0
        self.folder = None
        self.me = None
        self.depth = 0  # of callbacks in callbacks
        self.with_child = False  # whether the step has to do with one

    # --- the trace ----------------------------------------

    def note(self, *said):
        """Note what is said of no actor: log records.

        Debug mode's own words about a child and its pipes come in the order in which
        these are noticed.
        """
        if said[1] != "INFO" or not self.with_child:
            self.note_of("log", *said)

    def note_of(self, label, *said):
        if self.ended:
            return
        self.count += 1
        of = self.words.of
        line = " ".join([of(word) for word in said])
        self.lines.setdefault(label, []).append(line)

    def note_lost(self, *said):
        of = self.words.of
        self.garbage.append(" ".join([of(word) for word in said]))

    def end_step(self):
        for actors in (self.ends, self.watches):
            for actor in actors:
                actor.tell_data()
        for label in sorted(self.lines):
            self.trace += [f"{label}: {line}" for line in self.lines[label]]
        self.lines = {}

    def label(self, kind):
        number = self.labels[kind] = self.labels.get(kind, 0) + 1
        return f"{kind}{number}"

    # --- operations ----------------------------------------

    def do(self, actor, body):
        if self.depth > DEEPEST:
            return  # how deep the interpreter goes depends on what is in C
        before, self.me = self.me, actor
        self.depth += 1
        try:
            for operation in body:
                if self.left <= 0:
                    return
                self.left -= 1
                self.step(actor, operation)
        finally:
            self.me = before
            self.depth -= 1

    def step(self, actor, operation):
        name, *args = operation
        note = actor.note if actor else self.driver_note
        method = getattr(self, f"op_{name}", None)
        if method is None:
            return
        try:
            result = method(*args)
        except Exception as exc:
            note(name, "!", exc)
            if name == "raise":
                raise
        except BaseException as exc:
            note(name, "!!", exc)
            raise
        else:
            note(name, "->", result)

    def driver_note(self, *said):
        self.note_of("driver", *said)

    async def script(self, actor, body):
        """Do operations of a task; those that wait begin with the word of the actor."""
        for operation in body:
            if self.left <= 0:
                return
            name, *args = operation
            self.left -= 1
            method = getattr(self, f"{actor.word}_{name}", None)
            if method is None:
                before, self.me = self.me, actor
                try:
                    self.step(actor, operation)
                finally:
                    self.me = before
                continue
            try:
                result = await method(actor, *args)
            except Exception as exc:
                actor.note(name, "!", exc)
            except BaseException as exc:
                actor.note(name, "!!", exc)
                raise
            else:
                actor.note(name, "->", result)

    def command(self, actor, coroutine, *, ends=False):
        """Run a coroutine as a task; what it raises is noted."""

        async def run():
            try:
                await coroutine
            except asyncio.CancelledError as exc:
                actor.note("is cancelled", exc)
                raise
            except Exception as exc:
                actor.note("fails", exc)

        task = self.loop.create_task(run())
        self.commands.append(task)
        if ends:
            self.expected.append(task.done)
        return task

    pick = staticmethod(World.pick)

    def end(self, number):
        """Return an actor with a transport."""
        actor = self.me if number is None else self.pick(self.ends, number)
        if actor is None or actor.transport is None:
            raise Odd("no transport")
        return actor

    def keep(self, *things):
        self.opened += things
        return things[0]

    def with_peer(self, actor, peer):
        actor.peer = peer
        peer_is_socket = isinstance(peer, socket.socket)
        if peer_is_socket:
            peer.setblocking(False)
        self.keep(peer)
        self.peers.append(actor)

    def directory(self):
        if self.folder is None:
            self.folder = tempfile.TemporaryDirectory(prefix="fuzz-")
        return self.folder.name

    def listener(self):
        """Return the driver's own listening socket."""
        if self.listening is None:
            self.listening = self.keep(socket.create_server(("127.0.0.1", 0)))
            self.listening.settimeout(PATIENCE)
        return self.listening

    def accept(self):
        return self.listener().accept()[0]

    def pair(self, small=False):
        one, other = socket.socketpair()
        one.setblocking(False)
        if small:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.keep(one)
        return one, other

    # --- the driver's ends ----------------------------------------

    def peer(self, number):
        actor = self.pick(self.peers, number)
        if actor.peer.fileno() < 0:
            raise Odd("closed")
        return actor.peer

    def op_peer_send(self, number, data):
        return self.peer(number).send(data)

    def op_peer_read(self, number, most):
        """Read what is there, no more than `most` bytes if that is not 0."""
        peer, got, end = self.peer(number), b"", "more"
        while not most or len(got) < most:
            try:
                data = peer.recv(most - len(got) if most else PIECE)
            except OSError as exc:
                end = type(exc).__name__
                break
            if not data:
                end = "eof"
                break
            got += data
        return got, end

    def op_peer_shutdown(self, number):
        self.peer(number).shutdown(socket.SHUT_WR)

    def op_peer_close(self, number):
        self.peer(number).close()

    def op_peer_reset(self, number):
        peer = self.peer(number)
        if isinstance(peer, socket.socket) and peer.family == socket.AF_INET:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
        peer.close()

    # --- transports of streams ----------------------------------------

    def factory(self, kind, actor):
        return lambda: {"buffered": Buffered}.get(kind, Protocol)(actor)

    def op_connect(self, how, kind, small, scripts):
        actor = Actor(self, "end", scripts)
        self.ends.append(actor)
        factory = self.factory(kind, actor)

        async def connect():
            if how == "tcp":
                place = self.listener().getsockname()
                await self.loop.create_connection(factory, *place)
                self.with_peer(actor, self.accept())
                return
            if how == "accepted":
                client = socket.create_connection(self.listener().getsockname())
                server = self.keep(self.accept())
                self.with_peer(actor, client)
                await self.loop.connect_accepted_socket(factory, server)
                return
            ours, peer = self.pair(small)
            self.with_peer(actor, peer)
            connecting = (
                self.loop.create_unix_connection
                if how == "unix"
                else self.loop.create_connection
            )
            await connecting(factory, sock=ours)

        self.command(actor, connect(), ends=True)

    def op_write(self, number, size):
        return self.write(self.end(number).transport, size)

    @staticmethod
    def write(writer, size):
        transport = getattr(writer, "transport", writer)
        if ENDED_MAY_FAIL and transport.is_closing():
            if not transport.get_write_buffer_size():
                raise Odd("lost")
        return writer.write(pattern(size))

    def op_writelines(self, number, sizes):
        self.writelines(self.end(number).transport, sizes)

    @staticmethod
    def writelines(writer, sizes):
        """Write several pieces, but as asyncio of 3.12 and 3.13 can.

        A piece of no bytes it keeps for ever. A connection that is lost raises
        AttributeError, and one that close() has ended after its last byte, too, of the
        None that is its socket then; `_conn_lost` does not tell of it. From close() on
        it raises TypeError: of the None that is its `_write_ready`. It never pauses.
        """
        transport = getattr(writer, "transport", writer)
        ended = transport.is_closing() and (
            EARLY or not transport.get_write_buffer_size()
        )
        if ended or getattr(transport, "_conn_lost", 0):
            raise Odd("lost")
        size = transport.get_write_buffer_size() + sum(sizes)
        if EARLY and size > transport.get_write_buffer_limits()[1]:
            raise Odd("too much")
        return writer.writelines([pattern(size) for size in sizes if size])

    def op_write_eof(self, number):
        return self.end(number).transport.write_eof()

    def op_can_write_eof(self, number):
        return self.end(number).transport.can_write_eof()

    def op_close(self, number):
        return self.end(number).transport.close()

    def op_abort(self, number):
        actor = self.end(number)
        if actor.lost and (ENDED_MAY_FAIL or isinstance(actor.peer, Descriptor)):
            raise Odd("closed")  # asyncio raises AttributeError: its loop is None
        return actor.transport.abort()

    def op_pause_reading(self, number):
        return self.end(number).transport.pause_reading()

    def op_resume_reading(self, number):
        return self.end(number).transport.resume_reading()

    def op_limits(self, number, high, low):
        transport = self.end(number).transport
        transport.set_write_buffer_limits(high, low)
        return transport.get_write_buffer_limits()

    def op_look(self, number):
        transport = self.end(number).transport
        return (
            transport,
            transport.is_closing(),
            hasattr(transport, "is_reading") and transport.is_reading(),
            hasattr(transport, "get_write_buffer_size")
            and transport.get_write_buffer_size(),
            type(transport.get_extra_info("peername")).__name__,
            transport.get_extra_info("socket") is None,
        )

    def op_set_protocol(self, number, kind, scripts):
        actor = self.end(number)
        actor.scripts += [list(script) for script in scripts]
        actor.transport.set_protocol(self.factory(kind, actor)())

    def op_raise(self, kind):
        raise EXCEPTIONS[kind]("text")

    def op_soon(self, body):
        self.loop.call_soon(self.do, self.me, body)

    def op_later(self, body):
        self.loop.call_later(0, self.do, self.me, body)

    def op_log(self, number):
        return number

    def op_stop(self):
        self.loop.stop()

    def op_set_debug(self, on):
        self.loop.set_debug(on)

    # --- servers ----------------------------------------

    def op_serve(self, how, kind, start, scripts):
        server = Actor(self, "server", scripts)
        server.how, server.server, server.clients = how, None, []
        server.quiet = False
        self.servers.append(server)

        def factory():
            wanted = without_made(scripts) if server.quiet else scripts
            server.quiet = False
            actor = Actor(self, "end", wanted)
            self.ends.append(actor)
            if server.clients:
                self.with_peer(actor, server.clients.pop(0))
            return self.factory(kind, actor)()

        if kind == "stream":
            factory = self.stream_server(server, scripts)

        async def serve():
            if how == "tcp":
                made = await self.loop.create_server(
                    factory, "127.0.0.1", 0, start_serving=start
                )
                server.place = made.sockets[0].getsockname()
            else:
                server.place = f"{self.directory()}/{server.label}"
                made = await self.loop.create_unix_server(
                    factory, server.place, start_serving=start
                )
            server.server = made

        self.command(server, serve(), ends=True)

    def stream_server(self, server, scripts):
        """Return a factory of asyncio's streams; their script is that of the data."""
        body = [one for script in scripts if len(script) > 2 for one in script[2]]

        def connected(reader, writer):
            actor = self.stream(reader, writer)
            if server.clients:
                self.with_peer(actor, server.clients.pop(0))
            return self.script(actor, body)

        return lambda: asyncio.StreamReaderProtocol(
            asyncio.StreamReader(limit=64, loop=self.loop), connected, loop=self.loop
        )

    def made_server(self, number):
        server = self.pick(self.servers, number)
        if server.server is None:
            raise Odd("not made")
        return server

    def op_client(self, number):
        """The driver connects to a server."""
        server = self.made_server(number)
        family = socket.AF_INET if server.how == "tcp" else socket.AF_UNIX
        client = self.keep(socket.socket(family))
        client.settimeout(1)
        client.connect(server.place)
        server.clients.append(client)

    def op_loop_client(self, number, scripts):
        """The loop connects to a server of its own.

        docs/differences.md: "an accepted connection's protocol is made and told in one
        iteration". So it begins sooner, and what both ends do then comes in an order of
        its own.
        """
        server = self.made_server(number)
        scripts = without_made(scripts)
        server.quiet = bool(scripts)
        actor = Actor(self, "end", scripts)
        self.ends.append(actor)
        factory = self.factory("plain", actor)

        async def connect():
            if server.how == "tcp":
                await self.loop.create_connection(factory, *server.place)
            else:
                await self.loop.create_unix_connection(factory, server.place)

        self.command(actor, connect())

    def op_server(self, number, what):
        server = self.made_server(number)
        made = server.server
        if what == "look":
            return made.is_serving(), len(made.sockets)
        if what in ("wait_closed", "start_serving", "serve_forever"):

            async def run():
                server.note(what, "->", await getattr(made, what)())

            self.command(server, run())
            return None
        if not hasattr(made, what):
            return None  # close_clients() and abort_clients() came with 3.13
        if what.endswith("_clients") and len(getattr(made, "_clients", ())) > 1:
            raise Odd("they end in the order of a set, that of their addresses")
        return getattr(made, what)()

    # --- asyncio's streams ----------------------------------------

    def stream(self, reader, writer):
        actor = Actor(self, "stream")
        actor.word = "stream"
        actor.reader, actor.writer = reader, writer
        actor.transport = writer.transport
        self.streams.append(actor)
        return actor

    def op_stream(self, how, limit, small):
        driver = Actor(self, "opening")

        async def open_stream():
            if how == "tcp":
                place = self.listener().getsockname()
                pair = await asyncio.open_connection(*place, limit=limit)
                self.with_peer(self.stream(*pair), self.accept())
                return
            ours, peer = self.pair(small)
            self.keep(peer)
            pair = await asyncio.open_connection(sock=ours, limit=limit)
            self.with_peer(self.stream(*pair), peer)

        self.command(driver, open_stream(), ends=True)

    def op_stream_do(self, number, body):
        actor = self.pick(self.streams, number)
        self.command(actor, self.script(actor, body))

    async def stream_read(self, actor, size):
        return await actor.reader.read(size)

    async def stream_readline(self, actor):
        return await actor.reader.readline()

    async def stream_readexactly(self, actor, size):
        return await actor.reader.readexactly(size)

    async def stream_readuntil(self, actor, separator):
        return await actor.reader.readuntil(separator)

    async def stream_lines(self, actor):
        async for line in actor.reader:
            actor.note("line", line)

    async def stream_drain(self, actor):
        return await actor.writer.drain()

    async def stream_wait_closed(self, actor):
        return await actor.writer.wait_closed()

    async def stream_turn(self, actor):
        return await asyncio.sleep(0)

    async def stream_in_no_time(self, actor, body):
        async with asyncio.timeout(0):
            await self.script(actor, body)

    async def stream_look(self, actor):
        return actor.reader, actor.writer.is_closing(), actor.reader.at_eof()

    async def stream_write(self, actor, number, size):
        return self.write(actor.writer, size)

    async def stream_writelines(self, actor, number, sizes):
        return self.writelines(actor.writer, sizes)

    async def stream_write_eof(self, actor, number):
        return actor.writer.write_eof()

    async def stream_close(self, actor, number):
        return actor.writer.close()

    def op_cancel(self, number):
        return self.pick(self.commands, number).cancel()

    # --- loop.sock_* ----------------------------------------

    def op_socket(self, how, small):
        actor = Actor(self, "sock")
        actor.word = "sock"
        actor.socket = None
        self.sockets.append(actor)
        if how == "pair":
            actor.socket, peer = self.pair(small)
            self.with_peer(actor, peer)
        elif how == "listens":
            actor.socket = self.keep(socket.create_server(("127.0.0.1", 0)))
            actor.socket.setblocking(False)
        elif how == "udp":
            actor.socket = self.keep(socket.socket(type=socket.SOCK_DGRAM))
            actor.socket.bind(("127.0.0.1", 0))
            actor.socket.setblocking(False)
            peer = self.keep(socket.socket(type=socket.SOCK_DGRAM))
            peer.bind(("127.0.0.1", 0))
            peer.connect(actor.socket.getsockname())
            self.with_peer(actor, peer)
        else:
            actor.socket = self.keep(socket.socket())
            actor.socket.setblocking(False)

    def op_socket_do(self, number, body):
        """Do operations on a socket; one task at a time, as asyncio asks for."""
        actor = self.pick(self.sockets, number)
        if actor.busy:
            raise Odd("busy")
        task = self.command(actor, self.script(actor, body))
        actor.busy.add(task)
        task.add_done_callback(actor.busy.discard)

    async def sock_recv(self, actor, size):
        return await self.loop.sock_recv(actor.socket, size)

    async def sock_recv_into(self, actor, size):
        buffer = bytearray(size)
        got = await self.loop.sock_recv_into(actor.socket, buffer)
        return got, bytes(buffer[:got])

    async def sock_sendall(self, actor, size):
        return await self.loop.sock_sendall(actor.socket, pattern(size))

    async def sock_accept(self, actor):
        connection, address = await self.loop.sock_accept(actor.socket)
        self.keep(connection)
        made = Actor(self, "sock")
        made.word, made.socket = "sock", connection
        self.sockets.append(made)
        return address, connection.gettimeout()

    async def sock_connect(self, actor, number):
        """Connect to the driver, or to a socket that may listen."""
        if number % 2:
            other = self.pick(self.sockets, number // 2).socket
            return await self.loop.sock_connect(actor.socket, other.getsockname())
        await self.loop.sock_connect(actor.socket, self.listener().getsockname())
        if actor.peer is None:
            self.with_peer(actor, self.accept())
        return None

    async def sock_recvfrom(self, actor, size):
        return await self.loop.sock_recvfrom(actor.socket, size)

    async def sock_recvfrom_into(self, actor, size):
        buffer = bytearray(size)
        return await self.loop.sock_recvfrom_into(actor.socket, buffer), bytes(buffer)

    async def sock_sendto(self, actor, size):
        return await self.loop.sock_sendto(
            actor.socket, pattern(size), actor.peer.getsockname()
        )

    async def sock_close(self, actor):
        return actor.socket.close()

    async def sock_turn(self, actor):
        return await asyncio.sleep(0)

    async def sock_in_no_time(self, actor, body):
        async with asyncio.timeout(0):
            await self.script(actor, body)

    def op_dial(self, number):
        """The driver connects to a socket that may listen."""
        actor = self.pick(self.sockets, number)
        client = self.keep(socket.socket())
        client.settimeout(1)
        client.connect(actor.socket.getsockname())

    # --- datagrams ----------------------------------------

    def op_datagrams(self, connected, scripts):
        actor = Actor(self, "udp", scripts)
        self.datagrams.append(actor)
        actor.connected = connected
        peer = socket.socket(type=socket.SOCK_DGRAM)
        peer.bind(("127.0.0.1", 0))
        actor.address = peer.getsockname()
        self.with_peer(actor, peer)

        async def make():
            if connected:
                where = {"remote_addr": actor.address}
            else:
                where = {"local_addr": ("127.0.0.1", 0)}
            transport, _ = await self.loop.create_datagram_endpoint(
                lambda: Datagrams(actor), **where
            )
            if not transport.is_closing():
                peer.connect(transport.get_extra_info("sockname"))

        self.command(actor, make(), ends=True)

    def datagram(self, number):
        actor = self.me if number is None else self.pick(self.datagrams, number)
        if actor is None or actor.transport is None or not hasattr(actor, "address"):
            raise Odd("no transport")
        return actor

    def op_sendto(self, number, size, with_address):
        actor = self.datagram(number)
        if actor.lost and not actor.connected:
            raise Odd("closed")  # asyncio raises AttributeError: its socket is None
        address = actor.address if with_address else None
        return actor.transport.sendto(pattern(size), address)

    def op_datagram(self, number, what):
        transport = self.datagram(number).transport
        if what == "look":
            return transport, transport.is_closing(), transport.get_write_buffer_size()
        return getattr(transport, what)()

    def op_peer_sends(self, number, sizes):
        """Send several at once; datagrams stay apart, and are told in their order."""
        peer = self.peer(number)
        # docs/differences.md, "up to 32 datagrams are delivered in one iteration": what
        # the first does to another transport is not over when the second comes.
        if any(map(acts_on_others, self.datagrams)):
            sizes = sizes[:1]
        return [peer.send(pattern(size)) for size in sizes]

    # --- pipes ----------------------------------------

    def op_read_pipe(self, scripts):
        actor = Actor(self, "end", scripts)
        self.ends.append(actor)
        ours, peer = os.pipe()
        file = self.keep(os.fdopen(ours, "rb", 0))
        self.with_peer(actor, Descriptor(peer))

        async def make():
            await self.loop.connect_read_pipe(lambda: Protocol(actor), file)

        self.command(actor, make(), ends=True)

    def op_write_pipe(self, scripts):
        # asyncio watches the number of a pipe that is closed in connection_made().
        actor = Actor(self, "end", without_made(scripts))
        self.ends.append(actor)
        peer, ours = os.pipe()
        file = self.keep(os.fdopen(ours, "wb", 0))
        self.with_peer(actor, Descriptor(peer))

        async def make():
            await self.loop.connect_write_pipe(lambda: Protocol(actor), file)

        self.command(actor, make(), ends=True)

    # --- add_reader and add_writer ----------------------------------------

    def op_watch(self, scripts):
        actor = Actor(self, "watch", scripts)
        actor.socket, peer = self.pair()
        actor.writes = 0
        self.with_peer(actor, peer)
        self.watches.append(actor)

    def watch(self, number):
        actor = self.me if number is None else self.pick(self.watches, number)
        if actor is None or not hasattr(actor, "writes"):
            raise Odd("no watch")
        return actor

    def op_add_reader(self, number, size):
        actor = self.watch(number)

        def readable():
            try:
                data = actor.socket.recv(size)
            except BlockingIOError:
                actor.note("nothing to read")
                return
            except OSError as exc:
                self.loop.remove_reader(actor.socket)
                actor.event("lost", exc)
                return
            if data:
                actor.got(data)
            else:
                self.loop.remove_reader(actor.socket)
                actor.event("eof")

        # A size of 0 would read nothing for ever.
        size = max(1, size)
        return self.loop.add_reader(actor.socket, readable) is None

    def op_remove_reader(self, number):
        return self.loop.remove_reader(self.watch(number).socket)

    def op_add_writer(self, number, times):
        actor = self.watch(number)
        left = [times]

        def writable():
            left[0] -= 1
            if left[0] < 0:
                actor.note("removes", self.loop.remove_writer(actor.socket))
                return
            actor.event("writable")

        return self.loop.add_writer(actor.socket, writable) is None

    def op_remove_writer(self, number):
        return self.loop.remove_writer(self.watch(number).socket)

    def op_watch_send(self, number, size):
        return self.watch(number).socket.send(pattern(size))

    def op_watch_close(self, number):
        actor = self.watch(number)
        self.loop.remove_reader(actor.socket)
        self.loop.remove_writer(actor.socket)
        actor.socket.close()

    # --- threads ----------------------------------------

    def op_job(self, how, fails):
        """Begin a job that ends when the driver says so."""
        if len([job for job in self.jobs if not job.through.is_set()]) >= 4:
            raise Odd("too many jobs")
        actor = Actor(self, "job")
        actor.may_end, actor.through = threading.Event(), threading.Event()
        actor.started = threading.Event()
        actor.ran = False

        def job(*args, **keywords):
            actor.ran = True
            actor.started.set()
            try:
                if not actor.may_end.wait(PATIENCE):
                    raise RuntimeError("nobody ended the job")
                if fails:
                    raise Odd("in a job", *args)
                return args, sorted(keywords)
            finally:
                actor.through.set()

        if how == "own" and self.executor is None:
            self.executor = concurrent.futures.ThreadPoolExecutor(1)
        actor.queued = how == "own" and any(
            one.how == "own" and not one.through.is_set() for one in self.jobs
        )
        actor.how = how
        if how == "to_thread":
            actor.future = self.loop.create_task(asyncio.to_thread(job, 1, word=2))
            self.expected.append(lambda: actor.started.is_set())
        else:
            executor = self.executor if how == "own" else None
            actor.future = self.loop.run_in_executor(executor, job, 1, 2)
            if not actor.queued:
                actor.started.wait(PATIENCE)

        def done(future):
            # Retrieved: when the future goes depends on the thread, which may have it.
            error = None if future.cancelled() else future.exception()
            actor.note("done", future, error)

        actor.future.add_done_callback(done)
        self.jobs.append(actor)

    def op_end_job(self, number):
        actor = self.pick(self.jobs, number)
        if actor.may_end.is_set():
            return  # the next one of the executor waits for another end
        actor.may_end.set()
        if actor.started.is_set():
            self.expected.append(actor.future.done)
            self.expected.append(actor.through.is_set)
            # The next one of the executor begins, and may end too.
            for one in self.jobs:
                if one.queued and actor.how == "own" and not one.future.cancelled():
                    one.queued = False
                    self.expected.append(one.started.is_set)
                    if one.may_end.is_set():
                        self.expected.append(one.future.done)
                        continue
                    break

    def op_cancel_job(self, number):
        return self.pick(self.jobs, number).future.cancel()

    def op_from_thread(self, bodies):
        """Another thread calls call_soon_threadsafe(), once for each body."""
        called = []

        def call(body):
            called.append(None)
            self.do(None, body)

        def run():
            for body in bodies:
                self.loop.call_soon_threadsafe(call, body)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(PATIENCE)
        self.expected.append(lambda: len(called) == len(bodies))

    def op_coroutine_from_thread(self, number, size):
        """Another thread waits for run_coroutine_threadsafe()."""
        actor = Actor(self, "thread")
        got = []

        async def coroutine():
            await asyncio.sleep(0)
            if number % 3 == 0:
                raise Odd("in a coroutine")
            return size

        def run():
            future = asyncio.run_coroutine_threadsafe(coroutine(), self.loop)
            try:
                got.append(future.result(PATIENCE))
            except Exception as exc:
                got.append(exc)

        thread = threading.Thread(target=run)
        thread.start()
        self.threads.append(thread)
        self.expected.append(lambda: bool(got) and not thread.is_alive())
        self.expected.append(lambda: actor.note("got", got[0]) or True)

    # --- signals ----------------------------------------

    def op_handle_signal(self, number, body):
        which = (signal.SIGUSR1, signal.SIGUSR2)[number % 2]

        def handler():
            self.handlers += 1
            self.driver_note("signal", number % 2)
            self.do(None, body)

        self.loop.add_signal_handler(which, handler)
        self.handled.add(which)

    def op_ignore_signal(self, number):
        which = (signal.SIGUSR1, signal.SIGUSR2)[number % 2]
        self.handled.discard(which)
        return self.loop.remove_signal_handler(which)

    def op_signal(self, number):
        which = (signal.SIGUSR1, signal.SIGUSR2)[number % 2]
        if which not in self.handled:
            raise Odd("it would end the process")
        os.kill(os.getpid(), which)

    # --- processes ----------------------------------------

    def op_child(self, what, data):
        actor = Actor(self, "child")
        self.command(actor, getattr(self, f"child_{what}")(actor, data), ends=True)

    async def child_status(self, actor, data):
        """Run a program that ends by itself."""
        name = "true" if len(data) % 2 else "false"
        child = await asyncio.create_subprocess_exec(name)
        actor.note("ends", await child.wait(), child.returncode)

    async def child_communicate(self, actor, data):
        child = await asyncio.create_subprocess_exec(
            "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        actor.note("said", await child.communicate(data), child.returncode)

    async def child_lines(self, actor, data):
        child = await asyncio.create_subprocess_exec(
            "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        child.stdin.write(data + b"\n")
        await child.stdin.drain()
        actor.note("line", await child.stdout.readline())
        child.kill()
        actor.note("ends", await child.wait())
        actor.note("rest", await child.stdout.read())

    async def child_cancelled(self, actor, data):
        child = await asyncio.create_subprocess_exec(
            "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        task = asyncio.ensure_future(child.wait())
        await asyncio.sleep(0)
        task.cancel()
        actor.note("waited", await asyncio.gather(task, return_exceptions=True))
        child.terminate()
        actor.note("ends", await child.wait())

    async def child_shell(self, actor, data):
        child = await asyncio.create_subprocess_shell(
            f"echo out; echo err >&2; exit {len(data) % 4}",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        actor.note("said", await child.communicate(), child.returncode)

    async def child_protocol(self, actor, data):
        transport, protocol = await self.loop.subprocess_exec(
            lambda: Child(actor), "cat"
        )
        pipe = transport.get_pipe_transport(0)
        pipe.write(data)
        pipe.write_eof()
        await protocol.ended
        actor.note("ends", transport.get_returncode(), transport.get_pipe_transport(9))
        transport.close()

    async def child_missing(self, actor, data):
        await asyncio.create_subprocess_exec("/no/such/program")

    # --- a run ----------------------------------------

    def settled(self, before):
        """Return whether the step is over, after one more turn of the loop."""
        self.quiet = 0 if self.count != before else self.quiet + 1
        if self.quiet < QUIET[self.pace]:
            return False
        if self.expected:
            if self.expected[0]():
                self.expected.pop(0)
                self.quiet = 0
            elif time.monotonic() > self.until:
                self.driver_note("what was expected does not happen")
                self.expected.clear()
            elif self.quiet > 2 * QUIET[self.pace]:
                time.sleep(0.0001)  # the others want to run
            return False
        return True

    def begin_step(self, operation):
        self.trace.append(f"--- {operation[0]}")
        self.quiet, self.until = 0, time.monotonic() + PATIENCE
        self.with_child = operation[0] == "child"
        self.left -= 1
        self.step(None, operation)
        if self.pace == "tick":
            time.sleep(LOOK)

    def run(self):
        self.words.base = words.number_of_last_task(self.loop)
        steps = iter(self.program)
        if self.pace == "turns":
            self.in_turns(steps)
        else:
            self.inside(steps)
        self.done = MOST_STEPS - self.left
        self.left = MOST_STEPS
        self.pace = "turns"
        self.in_turns(self.last_steps())

    def in_turns(self, steps):
        """Do the steps outside of the running loop."""
        for operation in steps:
            try:
                self.begin_step(operation)
            except (KeyboardInterrupt, SystemExit) as exc:
                self.driver_note("left by", exc)
            self.settle()
            self.end_step()

    def settle(self):
        while True:
            before = self.count
            self.loop.call_soon(self.loop.stop)
            try:
                self.loop.run_forever()
            except BaseException as exc:
                self.driver_note("the loop is left by", exc)
            if self.settled(before):
                return

    def inside(self, steps):
        """Do the steps in callbacks of a loop that is never idle, or often wakes."""
        over, seen, begun = False, -1, False

        def tick():
            nonlocal over, seen, begun
            if over:
                return
            again()
            try:
                if begun and not self.settled(seen):
                    return
                if begun:
                    self.end_step()
                operation = next(steps, None)
                if operation is None:
                    over = True
                    self.loop.stop()
                    return
                begun = True
                self.begin_step(operation)
            finally:
                seen = self.count

        def again():
            if self.pace == "timer":
                self.loop.call_later(0.0001, tick)
            else:
                self.loop.call_soon(tick)

        again()
        while not over:
            try:
                self.loop.run_forever()
            except BaseException as exc:
                self.driver_note("the loop is left by", exc)

    def last_steps(self):
        """Yield the operations that end everything."""
        for number in range(len(self.jobs)):
            yield ("end_job", number)
        for which in sorted(self.handled):
            self.loop.remove_signal_handler(which)
        for number in range(len(self.commands)):
            yield ("cancel", number)
        for number, actor in enumerate(self.ends):
            if actor.transport is not None:
                actor.scripts.clear()
                yield ("close" if number % 2 else "abort", number)
        for number, actor in enumerate(self.datagrams):
            if actor.transport is not None:
                actor.scripts.clear()
                yield ("datagram", number, "close")
        for actor in self.streams:
            transport = actor.transport
            ended = transport.is_closing() and not transport.get_write_buffer_size()
            if not (ENDED_MAY_FAIL and ended):
                transport.abort()
        for number in range(len(self.servers)):
            yield ("server", number, "close")
        for number in range(len(self.watches)):
            yield ("watch_close", number)
        for number in range(len(self.peers)):
            yield ("peer_read", number, 0)
        for number in range(len(self.ends)):
            yield ("look", number)
        yield ("log", 0)

    def close(self):
        """Let go of what the kernel has."""
        for job in self.jobs:
            job.may_end.set()
        if self.executor is not None:
            self.executor.shutdown()
        for thread in self.threads:
            thread.join(PATIENCE)
        for thing in self.opened:
            thing.close()
        if self.folder is not None:
            self.folder.cleanup()

    def forget(self):
        self.ended, self.left = True, 0
        for name, value in vars(self).items():
            if isinstance(value, list) and name not in ("trace", "garbage", "program"):
                value.clear()
        self.loop = None
