"""Pipe transports and subprocesses (src/io/pipe)."""

import asyncio
import contextvars
import gc
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

import aioloop
from tests.conftest import HARD

# The hard build moves few bytes with a system call and refuses now and then.
SIZE = 200_000


class Recorder(asyncio.Protocol):
    def __init__(self):
        self.events = []
        self.data = b""
        self.wanted = None
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.events.append("made")
        self.transport = transport

    def data_received(self, data):
        self.data += data
        if self.wanted and len(self.data) >= self.wanted[0]:
            self.wanted[1].set_result(None)
            self.wanted = None

    def eof_received(self):
        self.events.append("eof")

    def pause_writing(self):
        self.events.append("pause")

    def resume_writing(self):
        self.events.append("resume")

    def connection_lost(self, exc):
        self.events.append("lost")
        self.lost.set_result(exc)

    async def until(self, size):
        if len(self.data) < size:
            future = asyncio.get_running_loop().create_future()
            self.wanted = size, future
            await asyncio.wait_for(future, 10)


async def reader(fd, factory=Recorder):
    loop = asyncio.get_running_loop()
    return await loop.connect_read_pipe(factory, os.fdopen(fd, "rb", 0))


async def writer(fd, factory=Recorder):
    loop = asyncio.get_running_loop()
    return await loop.connect_write_pipe(factory, os.fdopen(fd, "wb", 0))


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


# --- pipes ----------------------------------------------------------------------------


def test_pipe_from_end_to_end(run):
    data = os.urandom(1_000_000)

    async def main():
        read_fd, write_fd = os.pipe()
        read_end, received = await reader(read_fd)
        write_end, sent = await writer(write_fd)
        write_end.set_write_buffer_limits(high=1000)
        assert isinstance(read_end, asyncio.ReadTransport)
        assert isinstance(write_end, asyncio.WriteTransport)
        assert isinstance(write_end, asyncio.Transport)
        assert read_end.get_extra_info("pipe").fileno() == read_fd
        assert not os.get_blocking(read_fd)
        assert write_end.can_write_eof()
        write_end.write(data[:10])
        half = len(data) // 2
        write_end.writelines([data[10:half], bytearray(data[half:])])
        assert write_end.get_write_buffer_size() > 0
        write_end.write_eof()
        assert write_end.is_closing()
        assert await asyncio.wait_for(received.lost, 10) is None
        assert await asyncio.wait_for(sent.lost, 10) is None
        assert received.data == data
        assert received.events == ["made", "eof", "lost"]
        assert sent.events == ["made", "pause", "resume", "lost"]
        assert not is_open(read_fd)
        assert not is_open(write_fd)

    run(main())


def test_small_writes_arrive_in_order(run):
    async def main():
        read_fd, write_fd = os.pipe()
        _, received = await reader(read_fd)
        write_end, _ = await writer(write_fd)
        for i in range(20_000):
            write_end.write(b"%08d" % i)
        write_end.close()
        await asyncio.wait_for(received.lost, 10)
        assert received.data == b"".join(b"%08d" % i for i in range(20_000))

    run(main())


def test_data_may_change_after_write(run):
    async def main():
        read_fd, write_fd = os.pipe()
        _, received = await reader(read_fd)
        write_end, _ = await writer(write_fd)
        data = bytearray(b"a" * SIZE)
        write_end.write(data)
        write_end.write(memoryview(data)[:10])
        data[:] = b"b" * len(data)
        data.clear()
        write_end.close()
        await asyncio.wait_for(received.lost, 10)
        assert received.data == b"a" * (SIZE + 10)

    run(main())


def test_pause_and_resume_reading(run):
    async def main():
        read_fd, write_fd = os.pipe()
        read_end, received = await reader(read_fd)
        os.write(write_fd, b"one")
        await received.until(3)
        read_end.pause_reading()
        read_end.pause_reading()
        assert not read_end.is_reading()
        os.write(write_fd, b"two")
        await asyncio.sleep(0.005)
        assert received.data == b"one"
        read_end.resume_reading()
        read_end.resume_reading()
        assert read_end.is_reading()
        await received.until(6)
        os.close(write_fd)
        await received.lost
        assert not read_end.is_reading()

    run(main())


def test_pause_in_connection_made(run):
    class Paused(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    async def main():
        read_fd, write_fd = os.pipe()
        os.write(write_fd, b"x")
        read_end, received = await reader(read_fd, Paused)
        await asyncio.sleep(0.005)
        assert received.data == b""
        read_end.resume_reading()
        await received.until(1)
        read_end.close()
        await received.lost
        os.close(write_fd)

    run(main())


def test_reader_goes_while_the_writer_has_data(run):
    async def main():
        read_fd, write_fd = os.pipe()
        write_end, sent = await writer(write_fd)
        write_end.write(bytes(1_000_000))
        os.close(read_fd)
        exc = await asyncio.wait_for(sent.lost, 10)
        assert isinstance(exc, BrokenPipeError)
        assert write_end.get_write_buffer_size() == 0
        for _ in range(8):
            write_end.write(b"late")

    run(main())


def test_reader_goes_while_the_writer_is_idle(run):
    async def main():
        read_fd, write_fd = os.pipe()
        _, sent = await writer(write_fd)
        os.close(read_fd)
        assert await asyncio.wait_for(sent.lost, 10) is None

    run(main())


def test_write_to_a_closed_reader(run):
    async def main():
        read_fd, write_fd = os.pipe()
        write_end, sent = await writer(write_fd)
        os.close(read_fd)
        write_end.write(b"x")
        assert write_end.is_closing() or HARD  # It may have been told "not now".
        assert isinstance(await asyncio.wait_for(sent.lost, 10), BrokenPipeError)
        assert sent.events == ["made", "lost"]

    run(main())


def test_abort_drops_the_buffer(run):
    async def main():
        read_fd, write_fd = os.pipe()
        write_end, sent = await writer(write_fd)
        write_end.write(bytes(1_000_000))
        write_end.abort()
        write_end.abort()
        write_end.close()
        assert await sent.lost is None
        assert sent.events.count("lost") == 1
        os.set_blocking(read_fd, True)
        size = 0
        while piece := os.read(read_fd, 1 << 20):
            size += len(piece)
        assert size < 1_000_000
        os.close(read_fd)

    run(main())


def test_close_of_the_reader(run):
    async def main():
        read_fd, write_fd = os.pipe()
        read_end, received = await reader(read_fd)
        read_end.close()
        read_end.close()
        assert await received.lost is None
        assert received.events == ["made", "lost"]
        with pytest.raises(BrokenPipeError):
            os.write(write_fd, b"x")
        os.close(write_fd)

    run(main())


def test_descriptor_is_closed_once(run):
    """The number may be another file's by the time the transport dies."""

    async def main():
        other = os.open(os.devnull, os.O_RDWR)
        for _ in range(20):
            read_fd, write_fd = os.pipe()
            read_end, received = await reader(read_fd)
            write_end, sent = await writer(write_fd)
            read_end.close()
            write_end.close()
            await received.lost
            await sent.lost
            assert not is_open(read_fd) and not is_open(write_fd)
            os.dup2(other, read_fd)
            os.dup2(other, write_fd)
            del read_end, write_end, received, sent
            gc.collect()
            assert is_open(read_fd) and is_open(write_fd)
            os.close(read_fd)
            os.close(write_fd)
        os.close(other)

    run(main())


def test_fifo(run, tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)

    async def main():
        read_fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        write_fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        _, received = await reader(read_fd)
        write_end, sent = await writer(write_fd)
        write_end.write(b"hello")
        write_end.close()
        await asyncio.wait_for(received.lost, 5)
        await asyncio.wait_for(sent.lost, 5)
        assert received.data == b"hello"

    run(main())


def test_terminal(run):
    async def main():
        master, slave = pty.openpty()
        read_end, received = await reader(master)
        write_end, sent = await writer(slave)
        write_end.write(b"hello\n")
        await received.until(7)
        assert received.data == b"hello\r\n"
        write_end.close()
        await sent.lost
        # Linux answers EIO when the last slave is closed: an end, and no error.
        await asyncio.wait_for(received.lost, 5)
        assert read_end.is_closing()

    run(main())


class Messages(Recorder):
    def __init__(self):
        super().__init__()
        self.messages = []

    def data_received(self, data):
        self.messages.append(data)
        super().data_received(data)


MESSAGE_KINDS = [socket.SOCK_SEQPACKET, socket.SOCK_DGRAM]


@pytest.mark.parametrize("kind", MESSAGE_KINDS)
def test_messages_arrive_whole(run, kind):
    sizes = [10, 5_000, 20_000, 150_000, 10, 10, 10, 150_000, 17_000]

    async def main():
        ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
        with theirs:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)
            read_end, received = await asyncio.get_running_loop().connect_read_pipe(
                Messages, ours
            )
            for i, size in enumerate(sizes):
                theirs.send(bytes([i]) * size)
                await received.until(sum(sizes[: i + 1]))
            assert [len(message) for message in received.messages] == sizes
            assert received.data == b"".join(
                bytes([i]) * size for i, size in enumerate(sizes)
            )
            read_end.close()
            await received.lost

    run(main())


@pytest.mark.parametrize("kind", MESSAGE_KINDS)
def test_each_write_is_a_message(run, kind):
    """asyncio joins those that have to wait."""
    messages = [b"%d" % i * (i + 1) for i in range(200)]

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 5000)
        read_end, received = await loop.connect_read_pipe(Messages, theirs)
        write_end, sent = await loop.connect_write_pipe(Recorder, ours)
        for message in messages:
            write_end.write(message)
        assert write_end.get_write_buffer_size() > 0
        await received.until(sum(map(len, messages)))
        assert received.messages == messages
        write_end.close()
        read_end.close()
        await sent.lost
        await received.lost

    run(main())


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="no packet mode")
@pytest.mark.skipif(HARD, reason="it reads a byte of a pipe, and the packet is lost")
def test_pipe_in_packet_mode(run):
    async def main():
        read_fd, write_fd = os.pipe2(os.O_DIRECT)
        read_end, received = await reader(read_fd, Messages)
        for message in b"one", b"two" * 1000, b"three":
            os.write(write_fd, message)
        await received.until(3 + 3000 + 5)
        assert received.messages == [b"one", b"two" * 1000, b"three"]
        os.close(write_fd)
        await received.lost

    run(main())


def test_large_reads_of_a_stream(run):
    """After a large read the next one goes straight into the object."""
    data = os.urandom(300_000)

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        _, received = await loop.connect_read_pipe(Messages, ours)
        write_end, _ = await loop.connect_write_pipe(Recorder, theirs)
        for piece in (data, b"short", data[:20_000], b"end"):
            write_end.write(piece)
        write_end.close()
        assert await asyncio.wait_for(received.lost, 10) is None
        assert received.data == data + b"short" + data[:20_000] + b"end"

    run(main())


def test_device_that_the_kernel_does_not_watch(run):
    """It is always ready. asyncio reports a PermissionError, and reads nothing."""

    async def main():
        read_end, received = await reader(os.open(os.devnull, os.O_RDONLY))
        assert await asyncio.wait_for(received.lost, 5) is None
        assert received.events == ["made", "eof", "lost"]
        read_end, received = await reader(os.open("/dev/zero", os.O_RDONLY))
        await received.until(SIZE)
        read_end.close()
        await received.lost
        write_end, sent = await writer(os.open(os.devnull, os.O_WRONLY))
        write_end.write(b"x" * SIZE)
        write_end.close()
        assert await sent.lost is None

    run(main())


def test_one_descriptor_for_both_directions(run):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        read_end, received = await loop.connect_read_pipe(Recorder, ours)
        theirs.send(b"in")
        await received.until(2)
        read_end.pause_reading()
        read_end.resume_reading()
        theirs.close()
        await asyncio.wait_for(received.lost, 5)
        assert ours.fileno() == -1

        master, slave = pty.openpty()
        with os.fdopen(slave, "r+b", 0) as terminal:
            read_end, received = await reader(os.dup(master))
            write_end, sent = await loop.connect_write_pipe(
                Recorder, os.fdopen(master, "wb", 0)
            )
            write_end.write(b"line\n")
            terminal.write(b"up\n")
            await received.until(4)
            read_end.close()
            write_end.close()
            await received.lost
            await sent.lost

    run(main())


@pytest.mark.parametrize("end", ["read", "write"])
def test_regular_file_is_refused(run, tmp_path, end):
    async def main():
        loop = asyncio.get_running_loop()
        connect = getattr(loop, f"connect_{end}_pipe")
        with (tmp_path / "file").open("w+b") as file:
            with pytest.raises(ValueError, match="Pipe transport is"):
                await connect(Recorder, file)
            assert not file.closed

    run(main())


@pytest.mark.parametrize("data", ["text", None, 5])
def test_write_of_what_is_no_data(run, data):
    async def main():
        read_fd, write_fd = os.pipe()
        write_end, sent = await writer(write_fd)
        with pytest.raises(AssertionError):
            write_end.write(data)
        write_end.write(b"")
        write_end.close()
        await sent.lost
        os.close(read_fd)

    run(main())


def test_exceptions_of_data_received_are_reported(run, loop):
    contexts = []
    loop.set_exception_handler(lambda loop, context: contexts.append(context))

    class Failing(Recorder):
        def data_received(self, data):
            super().data_received(data)
            raise KeyError(data)

    async def main():
        read_fd, write_fd = os.pipe()
        read_end, received = await reader(read_fd, Failing)
        os.write(write_fd, b"x")
        await received.until(1)
        assert not read_end.is_closing()
        os.close(write_fd)
        await received.lost

    run(main())
    assert contexts[0]["exception"].args == (b"x",)


def test_context(run):
    variable = contextvars.ContextVar("variable", default="none")
    seen = []

    class Contextual(Recorder):
        def data_received(self, data):
            seen.append(variable.get())
            super().data_received(data)

    async def main():
        read_fd, write_fd = os.pipe()
        variable.set("mine")
        _, received = await reader(read_fd, Contextual)
        variable.set("other")
        os.write(write_fd, b"x")
        await received.until(1)
        os.close(write_fd)
        await received.lost

    run(main())
    assert seen == ["mine"]


def test_unclosed_pipe_warns():
    loop = aioloop.new_event_loop()
    read_fd, write_fd = os.pipe()

    async def main():
        read_end, _ = await reader(read_fd)
        read_end.pause_reading()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop.run_until_complete(main())
        gc.collect()
    loop.close()
    os.close(write_fd)
    assert any("unclosed transport" in str(warning.message) for warning in caught)
    assert not is_open(read_fd)


def test_repr(run):
    async def main():
        read_fd, write_fd = os.pipe()
        read_end, received = await reader(read_fd)
        write_end, sent = await writer(write_fd)
        assert repr(read_end) == f"<ReadPipeTransport fd={read_fd} polling>"
        assert repr(write_end) == f"<WritePipeTransport fd={write_fd} idle bufsize=0>"
        read_end.close()
        write_end.close()
        await received.lost
        await sent.lost
        assert repr(read_end) == f"<ReadPipeTransport closed fd={read_fd} closed>"

    run(main())


# --- subprocesses ---------------------------------------------------------------------

PIPE = asyncio.subprocess.PIPE


def python(program, **options):
    return asyncio.create_subprocess_exec(sys.executable, "-c", program, **options)


def test_communicate(run):
    data = os.urandom(500_000)

    async def main():
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        out, err = await process.communicate(data)
        assert (out, err, process.returncode) == (data, None, 0)

    run(main())


def test_dev_stdin_works_in_the_child(run):
    async def main():
        process = await asyncio.create_subprocess_exec(
            "cat", "/dev/stdin", stdin=PIPE, stdout=PIPE
        )
        assert (await process.communicate(b"hello"))[0] == b"hello"

    run(main())


def test_write_eof_reaches_the_child(run):
    async def main():
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        process.stdin.write(b"hello")
        process.stdin.write_eof()
        assert await asyncio.wait_for(process.stdout.read(), 10) == b"hello"
        assert await process.wait() == 0

    run(main())


def test_stderr_and_return_code(run):
    async def main():
        process = await python(
            "import sys; sys.stderr.write('oops'); sys.exit(7)", stderr=PIPE
        )
        assert (await process.communicate())[1] == b"oops"
        assert process.returncode == 7

    run(main())


def test_kill_and_signals(run):
    async def main():
        process = await asyncio.create_subprocess_exec("sleep", "60")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == -signal.SIGTERM
        process = await asyncio.create_subprocess_exec("sleep", "60")
        process.kill()
        assert await asyncio.wait_for(process.wait(), 10) == -signal.SIGKILL

    run(main())


def test_every_option(run, tmp_path):
    async def main():
        inheritable, other = os.pipe()
        os.set_inheritable(inheritable, True)
        process = await asyncio.create_subprocess_exec(
            Path("/bin/sh"),
            "-c",
            f"pwd; echo $MARK; umask; test -e /dev/fd/{inheritable} && echo open",
            stdout=PIPE,
            cwd=tmp_path,
            env={"MARK": "mark", "PATH": os.environ["PATH"]},
            close_fds=False,
            preexec_fn=lambda: os.umask(0o077),
            start_new_session=True,
            restore_signals=False,
        )
        out, _ = await process.communicate()
        os.close(inheritable)
        os.close(other)
        assert out.decode().split() == [str(tmp_path), "mark", "0077", "open"]

    run(main())


def test_missing_program(run):
    async def main():
        with pytest.raises(FileNotFoundError):
            await asyncio.create_subprocess_exec("/no/such/program", stdout=PIPE)

    run(main())


def test_many_at_once(run):
    async def one(i):
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", f"echo {i}; exit {i}", stdout=PIPE
        )
        out, _ = await process.communicate()
        return int(out), process.returncode

    async def main():
        results = await asyncio.gather(*(one(i) for i in range(20)))
        assert results == [(i, i) for i in range(20)]

    run(main())


def test_child_signal_stays_the_user_s(run, loop):
    seen = []

    async def main():
        loop.add_signal_handler(signal.SIGCHLD, seen.append, "child")
        process = await asyncio.create_subprocess_exec("true")
        assert await process.wait() == 0
        while not seen:
            await asyncio.sleep(0.001)
        loop.remove_signal_handler(signal.SIGCHLD)

    run(main())


def test_other_children_are_left_alone(run):
    async def main():
        with subprocess.Popen(["sh", "-c", "exit 5"]) as other:
            process = await asyncio.create_subprocess_exec("true")
            assert await process.wait() == 0
            assert other.wait(10) == 5

    run(main())


def test_child_of_a_loop_in_another_thread():
    results = []

    def work():
        async def main():
            process = await asyncio.create_subprocess_exec("sh", "-c", "exit 3")
            results.append(await asyncio.wait_for(process.wait(), 10))

        aioloop.run(main())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    assert results == [3]
