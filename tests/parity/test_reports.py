"""What the loop tells its exception handler, and what becomes of a handler that fails.

In every kind of callback something fails, on asyncio's loop and on aioloop's. Noted is
what the exception handler is told, what ``sys.exc_info()`` is meanwhile, what is logged
when the handler itself raises, and the chain of a KeyboardInterrupt that it raises.
"""

import asyncio
import contextlib
import gc
import logging
import os
import re
import resource
import signal
import socket
import sys
import traceback

import pytest

import aioloop
from tests.conftest import HARD, client_context, refusing_address, server_context

LIMIT = 20


class Failure(Exception):
    """What the callbacks raise."""


def fail(*_):
    raise Failure("on purpose")


def chain(exc):
    """Return an exception and its contexts, the outermost first."""
    links = []
    while exc is not None:
        links.append((type(exc).__name__, str(exc)))
        exc = exc.__context__
    return links


class Stage:
    """The loop of one run, and what its exception handler was told."""

    def __init__(self, loop, mode):
        self.loop = loop
        self.mode = mode
        self.once = mode == "interrupts"
        self.journal = []
        self.reports = 0
        self.closing = contextlib.ExitStack()
        loop.set_exception_handler(self.handler)

    def note(self, *entry):
        # A callback whose handler interrupts the loop is called until the program ends.
        if not self.once or entry not in self.journal:
            self.journal.append(entry)

    def handler(self, loop, context):
        exc = context.get("exception")
        if isinstance(exc, AssertionError):
            return  # An interrupted asyncio still waits to write, without data.
        self.reports += 1
        handled = sys.exc_info()[1]
        # The texts of callbacks are not the same in C and in Python.
        message = re.sub(r"(Exception in callback).*", r"\1", context["message"])
        self.note(
            "handler",
            message,
            sorted(set(context) - {"source_traceback"}),
            chain(exc),
            "handled" if exc is not None and handled is exc else chain(handled),
            traceback.format_exc().splitlines()[-1],
        )
        if self.mode == "raises":
            raise ValueError("handler")
        if self.mode == "interrupts":
            raise KeyboardInterrupt("handler")

    def emit(self, record):
        if record.levelno >= logging.ERROR:
            self.note(
                "logged",
                record.getMessage().splitlines()[0],
                chain(record.exc_info and record.exc_info[1]),
            )

    async def reported(self, count=1):
        async with asyncio.timeout(LIMIT):
            while self.reports < count:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0)

    def pair(self):
        ends = socket.socketpair()
        for end in ends:
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
            self.closing.callback(end.close)
        return ends

    async def connect(self, base=asyncio.Protocol, **methods):
        """Return a stream transport whose protocol has the methods, and its peer."""
        ours, theirs = self.pair()
        transport, _ = await self.loop.create_connection(
            type("Protocol", (base,), methods), sock=ours
        )
        self.closing.callback(transport.abort)
        return transport, theirs


def run_on(factory, program, mode, debug):
    loop = factory()
    loop.set_debug(debug)
    stage = Stage(loop, mode)
    watcher = logging.Handler()
    watcher.emit = stage.emit
    logger = logging.getLogger("asyncio")
    logger.addHandler(watcher)
    propagates, logger.propagate = logger.propagate, False
    try:

        async def main():
            async with asyncio.timeout(LIMIT):
                await program(stage)

        task = loop.create_task(main())
        while not task.done():
            try:
                loop.run_until_complete(task)
            except KeyboardInterrupt as exc:
                stage.note("interrupted", chain(exc))
                # Its tracebacks hold the frames of the program.
                traceback.clear_frames(exc.__traceback__)
        stage.mode = "looks"
        stage.once = stage.once and HARD  # A false EAGAIN leaves the last call out.
        loop.call_soon(loop.stop)  # where an interrupted run has not stopped yet
        loop.run_forever()
        stage.closing.close()
        loop.run_until_complete(asyncio.sleep(0.001))
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
        gc.collect()
        logger.removeHandler(watcher)
        logger.propagate = propagates
    return stage.journal


# --- callbacks ---------------------------------------------------------------------


async def call_soon(stage):
    stage.loop.call_soon(fail)
    await stage.reported()


async def call_soon_with_arguments(stage):
    stage.loop.call_soon(fail, 1, 2)
    await stage.reported()


async def call_soon_threadsafe(stage):
    stage.loop.call_soon_threadsafe(fail)
    await stage.reported()


async def call_later_now(stage):
    stage.loop.call_later(0, fail)
    await stage.reported()


async def call_later(stage):
    stage.loop.call_later(0.001, fail)
    await stage.reported()


async def call_at(stage):
    stage.loop.call_at(stage.loop.time() + 0.001, fail)
    await stage.reported()


async def done_callback(stage):
    future = stage.loop.create_future()
    future.add_done_callback(fail)
    future.add_done_callback(fail)
    future.set_result(None)
    await stage.reported(2)


async def done_callback_of_a_done_future(stage):
    future = stage.loop.create_future()
    future.cancel()
    future.add_done_callback(fail)
    await stage.reported()


async def done_callback_of_a_task(stage):
    task = stage.loop.create_task(asyncio.sleep(0))
    task.add_done_callback(fail)
    await stage.reported()
    await task


async def wakeup_of_a_finished_task(stage):
    class Awaitable:
        _asyncio_future_blocking = True
        _loop = stage.loop

        def __await__(self):
            yield self

        def add_done_callback(self, callback, *, context):
            self.wakeup = callback

        def result(self):
            pass

    async def wait():
        await awaitable

    awaitable = Awaitable()
    task = stage.loop.create_task(wait(), name="the task")
    await asyncio.sleep(0)
    future = stage.loop.create_future()
    future.set_result(None)
    stage.loop.call_soon(awaitable.wakeup, future)
    await task
    stage.loop.call_soon(awaitable.wakeup, future)
    await stage.reported()
    stage.journal[0] = stage.journal[0][:3]  # asyncio's text has the coroutine's repr
    del awaitable.wakeup


async def reader(stage):
    def failing():
        stage.loop.remove_reader(ours)
        fail()

    ours, theirs = stage.pair()
    theirs.send(b"x")
    stage.loop.add_reader(ours, failing)
    await stage.reported()


async def writer(stage):
    def failing():
        stage.loop.remove_writer(ours)
        fail()

    ours, _ = stage.pair()
    stage.loop.add_writer(ours, failing)
    await stage.reported()


async def signal_handler(stage):
    stage.loop.add_signal_handler(signal.SIGUSR1, fail)
    os.kill(os.getpid(), signal.SIGUSR1)
    await stage.reported()
    stage.loop.remove_signal_handler(signal.SIGUSR1)


async def executor_job(stage):
    job = stage.loop.run_in_executor(None, fail)
    job.add_done_callback(lambda job: job.result())
    await stage.reported()


async def unprintable_callback(stage):
    """The description of the callback fails in the place of a handler."""

    class Unprintable:
        def __call__(self):
            fail()

        def __repr__(self):
            raise KeyboardInterrupt("repr")

    stage.loop.call_soon(Unprintable())
    stage.loop.call_soon(fail)
    await stage.reported()


# --- what nobody awaited -----------------------------------------------------------


async def exception_never_retrieved(stage):
    future = stage.loop.create_future()
    future.set_exception(Failure("lost"))
    del future
    await stage.reported()


async def exception_never_retrieved_in_an_except_block(stage):
    future = stage.loop.create_future()
    future.set_exception(Failure("lost"))
    try:
        fail()
    except Failure:
        del future
    await stage.reported()


async def task_never_retrieved(stage):
    async def failing():
        fail()

    task = stage.loop.create_task(failing())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task
    gc.collect()
    await stage.reported()


async def pending_task_lost(stage):
    async def wait():
        await stage.loop.create_future()

    stage.loop.create_task(wait())
    await asyncio.sleep(0)
    try:
        fail()
    except Failure:
        gc.collect()
    await stage.reported()


async def called_by_the_program(stage):
    with contextlib.suppress(ValueError, KeyboardInterrupt):
        stage.loop.call_exception_handler({"message": "hello", "exception": Failure()})
    try:
        fail()
    except Failure as exc:
        stage.loop.call_exception_handler({"message": "hello", "exception": exc})


# --- streams -----------------------------------------------------------------------


async def connection_made(stage):
    await stage.connect(connection_made=fail)
    await stage.reported()


async def data_received(stage):
    _, peer = await stage.connect(data_received=fail)
    peer.send(b"x")
    await stage.reported()


async def eof_received(stage):
    _, peer = await stage.connect(eof_received=fail)
    peer.shutdown(socket.SHUT_WR)
    await stage.reported()


async def connection_lost(stage):
    _, peer = await stage.connect(connection_lost=fail)
    peer.close()
    await stage.reported()


async def get_buffer(stage):
    _, peer = await stage.connect(asyncio.BufferedProtocol, get_buffer=fail)
    peer.send(b"x")
    await stage.reported()


async def get_buffer_is_empty(stage):
    _, peer = await stage.connect(
        asyncio.BufferedProtocol, get_buffer=lambda self, size: bytearray()
    )
    peer.send(b"x")
    await stage.reported()


async def buffer_updated(stage):
    _, peer = await stage.connect(
        asyncio.BufferedProtocol,
        get_buffer=lambda self, size: bytearray(10),
        buffer_updated=fail,
    )
    peer.send(b"x")
    await stage.reported()


async def pause_writing(stage):
    transport, _ = await stage.connect(pause_writing=fail)
    transport.set_write_buffer_limits(0)
    with contextlib.suppress(KeyboardInterrupt):
        transport.write(bytes(1_000_000))
    await stage.reported()


async def resume_writing(stage):
    transport, peer = await stage.connect(resume_writing=fail)
    transport.set_write_buffer_limits(0)
    transport.write(bytes(100_000))
    for _ in range(1000):
        with contextlib.suppress(BlockingIOError):
            peer.recv(100_000)
        if stage.journal:
            break
        await asyncio.sleep(0.001)
    await stage.reported()


async def fatal_error_by_the_program(stage):
    transport, _ = await stage.connect()
    with contextlib.suppress(ValueError, KeyboardInterrupt):
        transport._fatal_error(Failure("told"), "Told so")
    try:
        fail()
    except Failure as exc:
        error = exc
    with contextlib.suppress(ValueError, KeyboardInterrupt):
        transport._fatal_error(error, "Told so")
    await stage.reported(2)


async def stream_reader_callback(stage):
    async def serve(reader, writer):
        fail()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await stage.reported()
    writer.close()
    server.close()


async def server_connection_made(stage):
    class Protocol(asyncio.Protocol):
        def connection_made(self, transport):
            stage.closing.callback(transport.abort)
            fail()

    server = await stage.loop.create_server(Protocol, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()):
        await stage.reported()
    server.close()


async def tls_data_received(stage):
    server = await stage.loop.create_server(
        type("Protocol", (asyncio.Protocol,), {"data_received": fail}),
        "127.0.0.1",
        0,
        ssl=server_context(),
    )
    _, writer = await asyncio.open_connection(
        *server.sockets[0].getsockname(), ssl=client_context()
    )
    writer.write(b"x")
    await stage.reported()
    writer.transport.abort()
    server.close()


# --- datagrams, pipes, processes ---------------------------------------------------


async def datagram_endpoint(stage, **methods):
    transport, _ = await stage.loop.create_datagram_endpoint(
        type("Protocol", (asyncio.DatagramProtocol,), methods),
        local_addr=("127.0.0.1", 0),
    )
    stage.closing.callback(transport.abort)
    return transport


async def datagram_received(stage):
    transport = await datagram_endpoint(stage, datagram_received=fail)
    transport.sendto(b"x", transport.get_extra_info("sockname"))
    await stage.reported()


async def datagram_connection_made(stage):
    await datagram_endpoint(stage, connection_made=fail)
    await stage.reported()


async def datagram_connection_lost(stage):
    transport = await datagram_endpoint(stage, connection_lost=fail)
    transport.close()
    await stage.reported()


async def error_received(stage):
    address = stage.closing.enter_context(refusing_address())
    transport, _ = await stage.loop.create_datagram_endpoint(
        type("Protocol", (asyncio.DatagramProtocol,), {"error_received": fail}),
        remote_addr=address,
    )
    stage.closing.callback(transport.abort)
    transport.sendto(b"x")
    await stage.reported()


async def error_received_in_sendto(stage):
    def received(self, exc):
        stage.note(type(exc), sys.exc_info()[1] is exc)
        fail()

    transport = await datagram_endpoint(stage, error_received=received)
    try:
        transport.sendto(bytes(100_000), transport.get_extra_info("sockname"))
    except Failure as exc:
        stage.note(chain(exc))


async def error_received_handles_the_error(stage):
    def received(self, exc):
        stage.note(type(exc), sys.exc_info()[1] is exc)

    transport = await datagram_endpoint(stage, error_received=received)
    transport.sendto(bytes(100_000), transport.get_extra_info("sockname"))
    stage.note(sys.exc_info())


def pipe(stage):
    reading, writing = os.pipe()
    files = os.fdopen(reading, "rb", 0), os.fdopen(writing, "wb", 0)
    for file in files:
        stage.closing.callback(file.close)
    return files


async def read_pipe(stage, **methods):
    reading, writing = pipe(stage)
    transport, _ = await stage.loop.connect_read_pipe(
        type("Protocol", (asyncio.Protocol,), methods), reading
    )
    stage.closing.callback(transport.close)
    return transport, writing


async def pipe_connection_made(stage):
    await read_pipe(stage, connection_made=fail)
    await stage.reported()


async def pipe_data_received(stage):
    _, writing = await read_pipe(stage, data_received=fail)
    writing.write(b"x")
    await stage.reported()


async def pipe_eof_received(stage):
    _, writing = await read_pipe(stage, eof_received=fail)
    writing.close()
    await stage.reported()


async def pipe_connection_lost(stage):
    transport, _ = await read_pipe(stage, connection_lost=fail)
    transport.close()
    await stage.reported()


async def pipe_pause_writing(stage):
    _, writing = pipe(stage)
    transport, _ = await stage.loop.connect_write_pipe(
        type("Protocol", (asyncio.Protocol,), {"pause_writing": fail}), writing
    )
    stage.closing.callback(transport.abort)
    transport.set_write_buffer_limits(0)
    with contextlib.suppress(KeyboardInterrupt):
        transport.write(bytes(1_000_000))
    await stage.reported()


async def pipe_resume_writing(stage):
    reading, writing = pipe(stage)
    transport, _ = await stage.loop.connect_write_pipe(
        type("Protocol", (asyncio.Protocol,), {"resume_writing": fail}), writing
    )
    stage.closing.callback(transport.abort)
    os.set_blocking(reading.fileno(), False)
    transport.set_write_buffer_limits(0)
    transport.write(bytes(200_000))
    for _ in range(1000):
        reading.read(100_000)
        if stage.journal:
            break
        await asyncio.sleep(0.001)
    await stage.reported()


async def process(stage, name):
    class Protocol(asyncio.SubprocessProtocol):
        def connection_lost(self, exc):
            lost.set_result(None)
            if name == "connection_lost":
                fail()

    lost = stage.loop.create_future()
    if name != "connection_lost":
        setattr(Protocol, name, fail)
    transport, _ = await stage.loop.subprocess_exec(Protocol, "/bin/echo", stdin=None)
    await stage.reported()
    if name != "connection_made":
        await asyncio.wait_for(lost, LIMIT)
    transport.close()
    await asyncio.sleep(0.01)


async def process_pipe_data_received(stage):
    await process(stage, "pipe_data_received")


async def process_exited(stage):
    await process(stage, "process_exited")


async def process_connection_lost(stage):
    await process(stage, "connection_lost")


# --- listeners ---------------------------------------------------------------------


async def protocol_factory(stage):
    server = await stage.loop.create_server(fail, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()):
        await stage.reported()
    server.close()


async def no_descriptors(stage):
    server = await stage.loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await stage.reported()
    server.close()


PROGRAMS = [
    call_soon,
    call_soon_with_arguments,
    call_soon_threadsafe,
    call_later_now,
    call_later,
    call_at,
    done_callback,
    done_callback_of_a_done_future,
    done_callback_of_a_task,
    wakeup_of_a_finished_task,
    reader,
    writer,
    signal_handler,
    executor_job,
    unprintable_callback,
    exception_never_retrieved,
    exception_never_retrieved_in_an_except_block,
    task_never_retrieved,
    pending_task_lost,
    called_by_the_program,
    connection_made,
    data_received,
    eof_received,
    connection_lost,
    get_buffer,
    get_buffer_is_empty,
    buffer_updated,
    pause_writing,
    resume_writing,
    fatal_error_by_the_program,
    stream_reader_callback,
    server_connection_made,
    tls_data_received,
    datagram_received,
    datagram_connection_made,
    datagram_connection_lost,
    error_received,
    error_received_in_sendto,
    error_received_handles_the_error,
    pipe_connection_made,
    pipe_data_received,
    pipe_eof_received,
    pipe_connection_lost,
    pipe_pause_writing,
    pipe_resume_writing,
    process_pipe_data_received,
    process_exited,
    process_connection_lost,
]


@pytest.mark.parametrize("mode", ["looks", "raises", "interrupts"])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_reports(program, mode, debug):
    theirs = run_on(asyncio.SelectorEventLoop, program, mode, debug)
    ours = run_on(aioloop.new_event_loop, program, mode, debug)
    assert ours == theirs
    assert theirs, "the program notes nothing"


@pytest.mark.parametrize("mode", ["looks", "raises"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_reports_of_protocol_factories(mode):
    """asyncio reports them in debug mode, from a task, and leaves the socket open."""
    theirs = run_on(asyncio.SelectorEventLoop, protocol_factory, mode, True)
    ours = run_on(aioloop.new_event_loop, protocol_factory, mode, True)
    assert ours == theirs
    assert theirs, "the program notes nothing"


@pytest.mark.parametrize("mode", ["looks", "raises"])
def test_reports_of_missing_descriptors(mode, debug):
    """asyncio reports them once for each connection that the backlog could hold."""
    theirs = run_on(asyncio.SelectorEventLoop, no_descriptors, mode, debug)
    ours = run_on(aioloop.new_event_loop, no_descriptors, mode, debug)
    assert ours == theirs[: len(ours)]
    assert 0 < len(ours) <= 2
