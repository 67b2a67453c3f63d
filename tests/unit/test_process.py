"""The end of a child process comes behind its output (aioloop/_process.py)."""

import asyncio
import fcntl
import os
import sys
import termios

import pytest

import aioloop

PIPE = asyncio.subprocess.PIPE


class Recorder(asyncio.SubprocessProtocol):
    def __init__(self):
        self.events = []
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.events.append("made")
        self.transport = transport

    def pipe_data_received(self, fd, data):
        if self.events[-1][0] == fd:  # The hard build reads bytes.
            data = self.events.pop()[1] + data
        self.events.append((fd, data))

    def pipe_connection_lost(self, fd, exc):
        self.events.append(("pipe lost", fd))

    def process_exited(self):
        self.events.append("exited")

    def connection_lost(self, exc):
        self.events.append("lost")
        self.lost.set_result(exc)


def child(program, **options):
    return asyncio.get_running_loop().subprocess_exec(
        Recorder, sys.executable, "-c", program, **options
    )


def wait_for_end(pid):
    """Block until the child is dead, which leaves it to be reaped."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


async def ended(protocol):
    """Wait until everything is over."""
    await protocol.lost
    protocol.transport.close()


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


def waiting(pipe):
    count = fcntl.ioctl(pipe.get_extra_info("pipe"), termios.FIONREAD, b"\0" * 4)
    return int.from_bytes(count, sys.byteorder)


def output_of(events, fd=1):
    return b"".join(event[1] for event in events if event[0] == fd)


PROGRAM = """
import os, sys
os.write(1, b"first")
os.read(0, 1)
os.write(1, b"last")
os.write(2, b"error")
"""


async def ended_child(pause):
    """Return a child that has ended, with its output in its pipes.

    The loop has not looked since. It stopped watching the output before that came, so
    the selector tells of the child's end first.
    """
    transport, protocol = await child(PROGRAM, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    output = transport.get_pipe_transport(1)
    output.pause_reading()
    await until(lambda: waiting(output) or protocol.events[1:])
    await asyncio.sleep(0)
    transport.get_pipe_transport(0).write(b"x")
    wait_for_end(transport.get_pid())
    if not pause:
        output.resume_reading()
    return transport, protocol


def test_output_comes_before_the_end(run):
    async def main():
        _, protocol = await ended_child(pause=False)
        await ended(protocol)
        exited = protocol.events.index("exited")
        before = protocol.events[:exited]
        assert output_of(before) == b"firstlast"
        assert output_of(before, 2) == b"error"

    run(main())


def test_a_paused_pipe_is_left_alone(run):
    async def main():
        transport, protocol = await ended_child(pause=True)
        await until(lambda: "exited" in protocol.events)
        assert output_of(protocol.events, 2) == b"error"
        assert b"last" not in output_of(protocol.events)
        transport.get_pipe_transport(1).resume_reading()
        await ended(protocol)
        assert output_of(protocol.events) == b"firstlast"

    run(main())


class SlowToConnect(aioloop.Loop):
    """Has a child end before its pipes are connected."""

    async def connect_read_pipe(self, factory, pipe):
        proto = factory()
        transport = proto.proc
        await until(lambda: transport.get_returncode() is not None)
        if proto.fd == 2:
            # What is read meanwhile waits until all pipes are connected.
            calls = transport._pending_calls
            await until(lambda: len(calls) > 1 or transport._pipes[1] is None)
        return await super().connect_read_pipe(factory, pipe)


@pytest.fixture
def run_slowly(debug):
    """Run a coroutine function on a SlowToConnect, or a subclass."""

    def run(main, cls=SlowToConnect):
        loop = cls()
        loop.set_debug(debug)
        try:
            loop.run_until_complete(asyncio.wait_for(main(), 20))
        finally:
            loop.close()

    return run


def test_end_before_the_pipe_is_connected(run_slowly):
    async def main():
        transport, protocol = await child(
            "import os; os.write(1, b'all')", stdin=None, stdout=PIPE, stderr=None
        )
        assert transport.get_returncode() == 0
        await ended(protocol)
        assert protocol.events == [
            "made",
            (1, b"all"),
            "exited",
            ("pipe lost", 1),
            "lost",
        ]

    run_slowly(main)


def test_output_before_all_pipes_are_connected(run_slowly):
    async def main():
        _, protocol = await child(
            "import os; os.write(1, b'all'); os.write(2, b'more')",
            stdin=None,
            stdout=PIPE,
            stderr=PIPE,
        )
        await ended(protocol)
        before = protocol.events[: protocol.events.index("exited")]
        assert before[0] == "made"
        assert output_of(before) == b"all"
        assert output_of(before, 2) == b"more"
        assert protocol.events[-1] == "lost"

    run_slowly(main)


def test_end_while_connecting_fails(run_slowly):
    """Whoever waits for the process hears of its end."""

    class Failing(SlowToConnect):
        async def connect_read_pipe(self, factory, pipe):
            transport = factory().proc
            await until(lambda: transport.get_returncode() is not None)
            pipe.close()
            raise MemoryError

    async def main():
        with pytest.raises(MemoryError):
            await child("print('all')", stdin=None, stdout=PIPE, stderr=None)

    run_slowly(main, Failing)


def test_end_without_pipes(run):
    async def main():
        _, protocol = await child("", stdin=None, stdout=None, stderr=None)
        await ended(protocol)
        assert protocol.events == ["made", "exited", "lost"]

    run(main())
