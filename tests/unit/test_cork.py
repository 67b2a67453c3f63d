"""When a write is sent: at once, or soon whatever the slot does (src/core/cork)."""

import asyncio
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

import aioloop
from tests.conftest import HARD, PACKAGE_PARENT, PORTABLE, needs_corking

LIMIT = 20
RESCUE = 0.002  # after which the helper thread sends
DATA = b"x" if HARD else b"working on it\n"  # the hard build sends byte by byte


class Lost(asyncio.Protocol):
    def __init__(self):
        self.lost = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc):
        self.lost.set_result(exc)


@pytest.fixture
def accepted(loop):
    """Return a coroutine function: a transport that a server made, and its peer."""
    made = []

    async def accept():
        arrived = loop.create_future()

        class Server(Lost):
            def connection_made(self, transport):
                arrived.set_result((transport, self))

        server = await loop.create_server(Server, "127.0.0.1", 0)
        peer = socket.create_connection(server.sockets[0].getsockname())
        peer.settimeout(LIMIT)
        transport, protocol = await arrived
        server.close()
        made.append((transport, peer, protocol))
        return transport, peer

    yield accept
    for transport, peer, protocol in made:
        transport.abort()
        peer.close()
        loop.run_until_complete(protocol.lost)


def arrived(peer):
    """Return what has come so far."""
    peer.setblocking(False)
    try:
        return peer.recv(1000)
    except BlockingIOError:
        return b""
    finally:
        peer.settimeout(LIMIT)


def cork(loop, transport, data=DATA):
    """Write while another slot is ready; return when that began."""
    began = time.monotonic()
    loop.call_soon(int)
    transport.write(data)
    return began


def check_waiting(peer, began):
    """Check that nothing has come of a write."""
    came = arrived(peer)
    if came and time.monotonic() - began > RESCUE:
        pytest.skip("others had the processor so long that the helper thread has sent")
    assert came == b""


@needs_corking
def test_a_write_waits_while_other_slots_are_ready(run, loop, accepted):
    async def main():
        transport, peer = await accepted()
        check_waiting(peer, cork(loop, transport))
        await asyncio.sleep(0)
        assert arrived(peer) == DATA

    run(main())


def test_a_write_beside_nothing_else_is_sent_at_once(run, accepted):
    async def main():
        transport, peer = await accepted()
        transport.write(DATA)
        assert arrived(peer) == DATA

    run(main())


@pytest.mark.skipif(HARD, reason="what its false EAGAIN holds back is sent together")
def test_after_the_peers_end_each_write_is_sent_at_once(run, loop):
    """The second fails where the peer is gone: no event tells of that any more."""

    async def main():
        async def serve(reader, writer):
            served.set_result((reader, writer))

        served = loop.create_future()
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()):
            reader, writer = await served
        assert await reader.read() == b""
        loop.call_soon(int)
        writer.write(DATA)
        writer.write(DATA)
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(writer.drain(), LIMIT)
        with pytest.raises(ConnectionError):
            await reader.read()
        server.close()

    run(main())


rescues = pytest.mark.skipif(HARD, reason="a false EAGAIN leaves the rest to the loop")


def sleeps(peer):
    assert peer.recv(1000) == DATA


def computes(peer):
    """Give the GIL up only where the interpreter takes it."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        next_look = time.monotonic() + 0.05
        while time.monotonic() < next_look:
            pass
        if arrived(peer) == DATA:
            return
    pytest.fail("it has not come")


@rescues
@pytest.mark.parametrize("blocks", [sleeps, computes])
def test_a_slot_that_blocks_does_not_hold_back_what_it_has_written(
    run, loop, accepted, blocks
):
    async def main():
        transport, peer = await accepted()
        for _ in range(3):  # the thread sleeps, ticks, sleeps
            cork(loop, transport)
            blocks(peer)
        await asyncio.sleep(0)
        cork(loop, transport)
        blocks(peer)

    run(main())


@rescues
def test_another_stream_written_to_later_in_the_same_slot(run, loop, accepted):
    async def main():
        first, one = await accepted()
        second, two = await accepted()
        cork(loop, first)
        sleeps(one)
        second.write(DATA)
        sleeps(two)
        first.write(DATA)
        sleeps(one)

    run(main())


@rescues
def test_a_generator_that_blocks_between_chunks(run, loop, accepted):
    async def main():
        transport, peer = await accepted()
        loop.call_soon(int)
        for _ in range(4):
            transport.write(DATA)
            time.sleep(0.01)
            assert arrived(peer) == DATA

    run(main())


@rescues
def test_loops_in_several_threads(thread, debug):
    def work():
        loop = aioloop.new_event_loop()
        loop.set_debug(debug)

        async def main():
            ours, theirs = socket.socketpair()
            theirs.settimeout(LIMIT)
            transport, protocol = await loop.create_connection(Lost, sock=ours)
            del ours
            for _ in range(5):
                cork(loop, transport)
                sleeps(theirs)
                await asyncio.sleep(0)
            transport.close()
            await protocol.lost
            theirs.close()

        loop.run_until_complete(main())
        loop.close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(LIMIT)
        assert not one.is_alive()


@needs_corking
@rescues
def test_an_error_met_from_outside_is_the_protocols(run, loop, accepted):
    async def main():
        transport, peer = await accepted()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()  # sends RST
        cork(loop, transport)
        time.sleep(0.02)
        assert not transport.is_closing()
        await asyncio.sleep(0)
        assert transport.is_closing()
        error = await transport.get_protocol().lost
        assert isinstance(error, (ConnectionResetError, BrokenPipeError))

    run(main())


# --- the socket in the program's hands ------------------------------------------------


@needs_corking
@pytest.mark.parametrize(
    "use",
    [
        lambda sock: sock.getsockname(),
        lambda sock: sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE),
        lambda sock: sock.shutdown(socket.SHUT_WR),
        lambda sock: sock.fileno(),
        lambda sock: sock.dup().close(),
        lambda sock: sock._sock,
        lambda sock: sock.family,
        repr,
    ],
)
def test_using_the_socket_sends_first(run, loop, accepted, use):
    async def main():
        transport, peer = await accepted()
        sock = transport.get_extra_info("socket")
        check_waiting(peer, cork(loop, transport))
        use(sock)
        assert arrived(peer) == DATA

    run(main())


@pytest.mark.parametrize("method", ["fileno", "dup"])
def test_a_descriptor_in_other_hands_gets_everything_in_order(
    run, loop, accepted, method
):
    async def main():
        transport, peer = await accepted()
        given = getattr(transport.get_extra_info("socket"), method)()
        cork(loop, transport)
        assert arrived(peer) == DATA
        if method == "dup":
            given.close()

    run(main())


def test_the_number_of_the_private_attribute_is_in_other_hands_too(run, loop, accepted):
    async def main():
        transport, peer = await accepted()
        cork(loop, transport)
        assert os.write(transport._sock_fd, b"!") == 1
        assert peer.recv(100, socket.MSG_PEEK)[:1] == DATA[:1]
        cork(loop, transport)
        expected = DATA + b"!" + DATA
        assert peer.recv(len(expected), socket.MSG_WAITALL) == expected

    run(main())


@needs_corking
def test_a_socket_object_that_the_program_keeps_is_its_own(run, loop):
    async def main():
        ours, theirs = socket.socketpair()
        transport, protocol = await loop.create_connection(Lost, sock=ours)
        cork(loop, transport)
        assert arrived(theirs) == DATA
        del ours
        await asyncio.sleep(0)
        cork(loop, transport)
        assert arrived(theirs) == b""
        transport.close()
        await protocol.lost
        theirs.close()

    run(main())


def test_the_transports_socket_is_asyncios(run, accepted):
    async def main():
        transport, _ = await accepted()
        sock = transport.get_extra_info("socket")
        assert isinstance(sock, asyncio.trsock.TransportSocket)
        assert type(sock).__name__ == "TransportSocket"
        assert sock is transport.get_extra_info("socket")
        assert repr(sock).startswith("<asyncio.TransportSocket fd=")
        transport.abort()
        await transport.get_protocol().lost
        assert sock.fileno() == -1
        assert isinstance(sock._sock, socket.socket)

    run(main())


def test_a_transports_socket_outlives_it(run, loop):
    async def main():
        ours, theirs = socket.socketpair()
        transport, protocol = await loop.create_connection(Lost, sock=ours)
        sock = transport.get_extra_info("socket")
        transport.close()
        await protocol.lost
        del transport, protocol
        theirs.close()
        assert sock.fileno() == -1

    run(main())


# --- the process ----------------------------------------------------------------------


def test_a_fork_does_not_double_it(run, loop, accepted):
    async def main():
        transport, peer = await accepted()
        cork(loop, transport)
        child = os.fork()
        if child == 0:
            os._exit(0)
        assert arrived(peer) == DATA
        os.waitpid(child, 0)
        await asyncio.sleep(0)
        assert arrived(peer) == b""

    run(main())


def in_child(program, *environment):
    """Run a program with a peer; return what that got."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), str(theirs.fileno())],
            env={
                **os.environ,
                "PYTHONPATH": str(PACKAGE_PARENT),
                **dict(environment),
            },
            pass_fds=[theirs.fileno()],
            timeout=LIMIT,
            check=False,
        )
        theirs.close()
        received = b""
        ours.settimeout(LIMIT)
        while data := ours.recv(1000):
            received += data
        return received, done.returncode


PROGRAM = """
    import asyncio, os, socket, subprocess, sys, time
    import aioloop

    async def main():
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(
            asyncio.Protocol, sock=socket.socket(fileno=int(sys.argv[1])))
        loop.call_soon(int)
        transport.write(b"x")
        {what}

    aioloop.run(main())
"""


@pytest.mark.parametrize(
    "what",
    [
        "os.execv(sys.executable, [sys.executable, '-c', ''])",
        "os.posix_spawn(sys.executable, [sys.executable, '-c', ''], {}); os._exit(0)",
        "subprocess.run([sys.executable, '-c', '']); os._exit(0)",
        "sys.exit(0)",
        "time.sleep(0.3); os._exit(0)",
        "os.fork() and os.wait(); os._exit(0)",
        "os.fork() or os._exit(0); os.wait()",
    ],
)
def test_nothing_is_lost_or_doubled_when_the_process_goes(what):
    received, status = in_child(PROGRAM.format(what=what))
    assert (received, status) == (b"x", 0)


@rescues
def test_forks_while_a_loop_corks_in_another_thread():
    """The children have a lock and a thread of their own."""
    program = """
        import asyncio, os, socket, sys, threading, time, warnings
        import aioloop

        warnings.simplefilter("ignore")  # of forks with threads
        ready, stop = threading.Event(), threading.Event()

        async def corks(seconds):
            loop = asyncio.get_running_loop()
            ours, theirs = socket.socketpair()
            theirs.settimeout(20)
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
            del ours
            transport.get_extra_info("socket")
            end = time.monotonic() + seconds
            while time.monotonic() < end and not stop.is_set():
                loop.call_soon(int)
                transport.write(b"x")
                theirs.recv(1)  # blocks until the thread sends it
                if not ready.is_set():  # A fork may find its lock taken.
                    ready.set()
                await asyncio.sleep(0)
            transport.abort()
            theirs.close()

        thread = threading.Thread(target=aioloop.run, args=[corks(20)])
        thread.start()
        ready.wait(20)
        for _ in range(10):
            child = os.fork()
            if child == 0:
                aioloop.run(corks(0.01))
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        stop.set()
        thread.join()
    """
    assert in_child(program) == (b"", 0)


def test_a_forked_child_goes_on_with_a_thread_of_its_own():
    what = """if os.fork():
            os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
        transport.get_extra_info("socket")
        for _ in range(3):
            loop.call_soon(int)
            transport.write(b"y")
            time.sleep(0.1)
        os._exit(0)"""
    received, status = in_child(PROGRAM.format(what=what))
    assert (received, status) == (b"xyyy", 0)


@rescues
def test_forks_beside_threads_whose_loops_cork():
    """The thread of corked writes starts again only when the fork is over."""
    program = """
        import asyncio, os, socket, sys, threading, warnings
        import aioloop

        warnings.simplefilter("ignore")  # of a fork with threads
        stopping = False

        async def work():
            loop = asyncio.get_running_loop()
            ours, theirs = socket.socketpair()
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
            del ours
            sent = 0
            while not stopping:
                loop.call_soon(int)
                transport.write(b"%08d" % sent)
                await asyncio.sleep(0)
                data = theirs.recv(8, socket.MSG_WAITALL)
                assert data == b"%08d" % sent, (data, sent)
                sent += 1
            transport.abort()
            theirs.close()
            done.append(True)

        done = []
        threads = [
            threading.Thread(target=aioloop.run, args=(work(),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            if (child := os.fork()) == 0:
                os.execv("/bin/true", ["true"])
            os.waitpid(child, 0)
        stopping = True
        for thread in threads:
            thread.join()
        os.write(int(sys.argv[1]), b"%d" % len(done))
    """
    assert in_child(program) == (b"2", 0)


def test_what_a_daemon_thread_has_corked_is_sent_when_the_process_ends():
    program = """
        import asyncio, socket, sys, threading, time
        import aioloop

        async def main():
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_connection(
                asyncio.Protocol, sock=socket.socket(fileno=int(sys.argv[1])))
            loop.call_soon(int)
            transport.write(b"x")
            written.set()
            time.sleep(1000)

        written = threading.Event()
        threading.Thread(target=aioloop.run, args=(main(),), daemon=True).start()
        written.wait()
    """
    assert in_child(program) == (b"x", 0)


@needs_corking
def test_an_audit_hook_that_ends_the_stream_whose_write_begins_to_wait():
    """The first write that waits adds a hook, of which the others are told."""
    program = PROGRAM.replace(
        "        loop.call_soon(int)\n",
        """        ended = []
        def hook(event, args):
            if event == "sys.addaudithook" and not ended:
                ended.append(event)
                transport.abort()
        sys.addaudithook(hook)
        ended.clear()
        loop.call_soon(int)
""",
    )
    assert in_child(program.format(what="assert ended and transport.is_closing()")) == (
        b"x",
        0,
    )


@needs_corking
@pytest.mark.parametrize("how", ["environment", "attribute"])
def test_corking_can_be_turned_off(run, loop, accepted, how, monkeypatch):
    if how == "environment":
        what = "os.kill(os.getpid(), 9)"
        received, _ = in_child(PROGRAM.format(what=what), ("AIOLOOP_CORK", "0"))
        assert received == b"x"
        return

    async def main():
        transport, peer = await accepted()
        assert loop.cork_writes is True
        check_waiting(peer, cork(loop, transport))
        loop.cork_writes = False
        assert arrived(peer) == DATA  # what was waiting
        cork(loop, transport)
        assert arrived(peer) == DATA
        with pytest.raises(AttributeError):
            del loop.cork_writes

    run(main())


@needs_corking
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs Linux's /proc")
@pytest.mark.skipif(PORTABLE, reason="the thread is known by its name")
def test_the_thread_sleeps_while_nothing_is_corked():
    program = """
        import asyncio, os, socket, sys, time
        import aioloop

        def switches():
            found = []
            for task in os.listdir("/proc/self/task"):
                with open(f"/proc/self/task/{task}/status") as file:
                    status = dict(line.split(":", 1) for line in file)
                if status["Name"].strip() == "aioloop-ticker":
                    found.append(int(status["voluntary_ctxt_switches"]))
            return found

        async def main():
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_connection(
                asyncio.Protocol, sock=socket.socket(fileno=int(sys.argv[1])))
            assert switches() == []
            loop.call_soon(int)
            transport.write(b"x")
            while not switches():  # it has yet to tell its name
                await asyncio.sleep(0)
            await asyncio.sleep(0.3)
            before = switches()
            await asyncio.sleep(0.3)
            assert switches() == before, (switches(), before)
            transport.write(b"y")
            os._exit(0)

        aioloop.run(main())
    """
    assert in_child(program) == (b"xy", 0)


# --- the ends of a transport ----------------------------------------------------------


class Ending(asyncio.Protocol):
    """Writes, beside another callback that is ready, and then ends the transport."""

    def __init__(self, end):
        self.end = end
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def say(self):
        asyncio.get_running_loop().call_soon(int)
        self.transport.write(DATA)

    def data_received(self, data):
        self.say()
        if self.end == "data_received":
            raise ValueError
        if self.end == "odd memoryview":
            self.transport.write(memoryview(b"odd one")[::2])
        elif self.end == "text":
            self.transport.write("text")
        elif self.end == "_fatal_error":
            self.transport._fatal_error(ValueError())
        elif self.end == "_force_close":
            self.transport._force_close(None)
        else:
            getattr(self.transport, self.end)()

    def eof_received(self):
        self.say()
        raise ValueError

    def connection_lost(self, exc):
        self.lost.set_result(exc)


class EndingBuffered(asyncio.BufferedProtocol, Ending):
    calls = 0

    def get_buffer(self, sizehint):
        self.calls += 1
        if self.end == "get_buffer" and self.calls == 2:
            self.say()
            raise ValueError
        return bytearray(10)

    def buffer_updated(self, count):
        if self.end == "buffer_updated":
            self.say()
            raise ValueError


ENDS = [
    "data_received",
    "odd memoryview",
    "text",
    "_fatal_error",
    "_force_close",
    "abort",
    "close",
    "write_eof",
    "eof_received",
    "get_buffer",
    "buffer_updated",
]


@pytest.mark.parametrize("end", ENDS)
def test_what_was_written_before_the_end_is_sent(run, loop, end):
    async def main():
        reports = []
        loop.set_exception_handler(lambda loop, context: reports.append(context))
        factory = EndingBuffered if "buffer" in end else Ending
        # What waits is sent at once while the program holds the socket.
        peer, *sockets = socket.socketpair()
        transport, protocol = await loop.create_connection(
            lambda: factory(end), sock=sockets.pop()
        )
        if end == "eof_received":
            peer.shutdown(socket.SHUT_WR)
        else:
            peer.send(b"1")
        if end == "get_buffer":
            while protocol.calls == 0:
                await asyncio.sleep(0.001)
            peer.send(b"2")
        peer.setblocking(False)
        received = b""
        while len(received) < len(DATA) * 10:
            try:
                data = await loop.sock_recv(peer, 100)
            except ConnectionResetError:
                continue  # It has not read what we have sent.
            if not data:
                break
            received += data
        assert received[:1] == DATA[:1]
        assert HARD or received == DATA
        if end == "write_eof":
            assert not reports
            transport.close()
        exc = await protocol.lost
        if end in ("_force_close", "abort", "close", "write_eof"):
            assert exc is None
            assert not reports
        else:
            assert reports[0]["exception"] is exc
        peer.close()

    run(main())


def test_a_write_that_fails_before_another_error(run, loop):
    """The write's error is the connection's, and the other one is reported."""

    class Failing(Ending):
        def data_received(self, data):
            peer.close()
            super().data_received(data)

    async def main():
        nonlocal peer
        reports = []
        loop.set_exception_handler(lambda loop, context: reports.append(context))
        peer, *sockets = socket.socketpair()
        _, protocol = await loop.create_connection(
            lambda: Failing("data_received"), sock=sockets.pop()
        )
        peer.send(b"1")
        assert isinstance(await protocol.lost, BrokenPipeError)
        assert [type(context["exception"]) for context in reports] == [ValueError]

    peer = None
    run(main())
