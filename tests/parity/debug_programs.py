"""Programs for test_debug.py: what debug mode says of each must equal asyncio's.

A program is a coroutine function or a function of the loop; ``tell`` collects what it
sees itself. Only frames of this file count in the comparison.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
import weakref

PROGRAMS = {}


def program(function):
    PROGRAMS[function.__name__] = function
    return function


def nothing(*args):
    pass


def broken(*args):
    raise ValueError("broken")


class Callable:
    def __call__(self, *args):
        pass

    def method(self, *args):
        pass

    def __repr__(self):
        return "<a callable>"


async def returns(value):
    return value


async def yields():
    await asyncio.sleep(0)


async def fails():
    raise ValueError("failed")


def in_thread(function, *args):
    thread = threading.Thread(target=function, args=args)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


def refused(tell, function, *args):
    try:
        outcome = "accepted", type(function(*args)).__name__
    except Exception as exc:
        outcome = type(exc).__name__, str(exc)
    tell(*outcome)


# --- representations ------------------------------------------------------------------


@program
def representations_of_handles(loop, tell):
    thing = Callable()
    for callback, args in [
        (nothing, ()),
        (nothing, (1, "two")),
        (thing, (1,)),
        (thing.method, ()),
        (functools.partial(nothing, 1, a=2), (3,)),
        (len, ((),)),
    ]:
        handle = loop.call_soon(callback, *args)
        tell(handle)
        handle.cancel()
        tell(handle, handle._callback, handle._args)
        later = loop.call_later(1000, callback, *args)
        tell(later)
        later.cancel()
        tell(later)
        tell(loop.call_at(5.0, callback, *args))
        tell(loop.call_soon_threadsafe(callback, *args))


def renamed():
    pass


renamed.__qualname__ = "another name"


def nameless():
    pass


nameless.__name__ = nameless.__qualname__ = ""


@functools.wraps(nothing)
def wrapping(*args):
    pass


@program
def representations_of_cancelled_handles(loop, tell):
    def inner(*args):
        return thing

    thing = Callable()
    callbacks = [nothing, inner, lambda: thing, renamed, nameless, wrapping, Callable]
    callbacks += [thing, thing.method, [].append, functools.partial(nothing, 1)]
    for callback in callbacks:
        for args in ((), (1,), ("x" * 100, 2.5, None, True, b"y"), ([],), (1, thing)):
            handles = [
                loop.call_soon(callback, *args),
                loop.call_later(1000, callback, *args),
                loop.call_soon_threadsafe(callback, *args),
            ]
            for handle in handles:
                handle.cancel()
            # What is shown is what was there when it was cancelled.
            before, nothing.__qualname__ = nothing.__qualname__, "changed"
            for handle in handles:
                tell(handle, handle._repr, handle)
                tell(handle._callback, handle._args)
                handle._repr = "set"
                tell(handle)
            nothing.__qualname__ = before


@program
def a_cancelled_handle_keeps_nothing(loop, tell):
    class Thing(Callable):
        pass

    for name in ("method", "__call__"):
        thing = Thing()
        alive = weakref.ref(thing)
        for schedule in (loop.call_soon, functools.partial(loop.call_later, 1000)):
            handle = schedule(getattr(thing, name), thing)
            handle.cancel()
            other = schedule(getattr(thing, name))
            other.cancel()
            third = schedule(lambda thing=thing: thing)
            third.cancel()
        del thing
        gc.collect()
        tell(alive(), other, third)


@program
async def representations_of_tasks(loop, tell):
    task = asyncio.create_task(yields(), name="one")
    tell(task)
    task.add_done_callback(nothing)
    tell(task)
    await asyncio.sleep(0)
    tell(task)
    await task
    tell(task)
    tell(asyncio.current_task())


@program
async def representations_of_futures(loop, tell):
    future = asyncio.Future()
    tell(future)
    future.add_done_callback(nothing)
    future.add_done_callback(functools.partial(nothing, 1))
    tell(future)
    future.set_result(1)
    tell(future)


@program
async def source_tracebacks(loop, tell):
    def show(obj):
        tell(obj._source_traceback)

    show(loop.call_soon(nothing))
    show(loop.call_later(0, nothing))
    show(loop.call_at(0, nothing))
    show(loop.call_soon_threadsafe(nothing))
    show(loop.create_task(returns(1)))
    show(asyncio.create_task(returns(1)))
    show(asyncio.ensure_future(returns(1)))
    show(asyncio.Future())
    show(asyncio.Task(returns(1)))


def deeper(depth, function):
    return function() if depth == 0 else deeper(depth - 1, function)


async def deeper_in_coroutines(depth, function):
    if depth == 0:
        await asyncio.sleep(0)
        return function()
    return await deeper_in_coroutines(depth - 1, function)


@program
async def source_tracebacks_of_any_depth(loop, tell):
    def show():
        future = asyncio.Future()
        future.add_done_callback(lambda _: tell(loop._current_handle._source_traceback))
        future.set_result(None)
        for obj in (
            future,
            asyncio.create_task(returns(1)),
            loop.create_task(returns(1)),
            loop.call_soon(nothing),
            loop.call_soon_threadsafe(nothing),
            loop.call_later(0, nothing),
            loop.call_at(0, nothing),
        ):
            tell(obj._source_traceback)

    async def first_step():
        tell(loop._current_handle._source_traceback)
        await asyncio.sleep(0)
        tell(loop._current_handle._source_traceback)

    for depth in (0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 100):
        deeper(depth, show)
        await deeper_in_coroutines(depth, show)
        await asyncio.create_task(deeper_in_coroutines(depth, show))
        await deeper(depth, lambda: asyncio.create_task(first_step()))
        loop.call_soon(deeper, depth, show)
        loop.call_later(0, deeper, depth, show)
        await asyncio.sleep(0.001)
        in_thread(deeper, depth, lambda: loop.call_soon_threadsafe(show))
        in_thread(
            deeper,
            depth,
            lambda: tell(loop.call_soon_threadsafe(nothing)._source_traceback),
        )
        await asyncio.sleep(0)


@program
def source_tracebacks_in_a_loop_that_does_not_run(loop, tell):
    def show():
        for obj in (
            asyncio.Future(loop=loop),
            loop.create_task(returns(1)),
            loop.call_soon(nothing),
            loop.call_later(0, nothing),
            loop.call_at(0, nothing),
        ):
            tell(obj._source_traceback)

    for depth in (0, 5, 8, 200):
        deeper(depth, show)
        loop.run_until_complete(asyncio.sleep(0.001))


# --- slow callbacks: with a limit of 0 every callback is one --------------------------


@program
async def slow_handles(loop, tell):
    loop.slow_callback_duration = 0.0
    done = asyncio.Event()
    loop.call_soon(nothing)
    loop.call_soon(nothing, 1, 2)
    loop.call_soon(Callable().method)
    loop.call_soon(Callable())
    loop.call_later(0, nothing, "timer")
    loop.call_later(0.001, done.set)
    await done.wait()
    loop.slow_callback_duration = 100.0


@program
async def slow_tasks(loop, tell):
    loop.slow_callback_duration = 0.0
    await asyncio.sleep(0)
    await asyncio.create_task(returns(1), name="one")
    await asyncio.create_task(yields(), name="two")
    await asyncio.gather(returns(1), yields())
    loop.slow_callback_duration = 100.0


@program
async def slow_done_callbacks(loop, tell):
    loop.slow_callback_duration = 0.0
    future = asyncio.Future()
    future.add_done_callback(nothing)
    future.add_done_callback(Callable().method)
    future.add_done_callback(functools.partial(nothing, 1))
    future.set_result(1)
    await future
    await asyncio.sleep(0)
    loop.slow_callback_duration = 100.0


@program
async def slow_watchers(loop, tell):
    one, two = socket.socketpair()
    with one, two:
        one.setblocking(False)
        done = loop.create_future()

        def readable(how):
            loop.remove_reader(one)
            done.set_result(one.recv(10))

        def writable():
            loop.remove_writer(one)
            two.send(b"x")

        loop.slow_callback_duration = 0.0
        loop.add_reader(one, readable, 1)
        loop.add_writer(one, writable)
        tell(await done)
        loop.slow_callback_duration = 100.0


@program
async def slow_signal_handler(loop, tell):
    done = asyncio.Event()

    def handler(name):
        done.set()
        loop.slow_callback_duration = 100.0

    loop.add_signal_handler(signal.SIGUSR1, handler, "USR1")
    loop.slow_callback_duration = 0.0
    os.kill(os.getpid(), signal.SIGUSR1)
    await done.wait()
    loop.remove_signal_handler(signal.SIGUSR1)


@program
async def slow_call_from_a_thread(loop, tell):
    done = asyncio.Event()

    def arrived():
        done.set()
        loop.slow_callback_duration = 100.0

    loop.slow_callback_duration = 0.0
    in_thread(loop.call_soon_threadsafe, arrived)
    await done.wait()


class OneSlowCallback(logging.Handler):
    """After one message no callback is slow any more."""

    def __init__(self, loop):
        super().__init__()
        self.loop = loop

    def emit(self, record):
        self.loop.slow_callback_duration = 100.0


@contextlib.contextmanager
def slow_once(loop):
    """Give a function that makes the callback it is called in the only slow one."""
    handler = OneSlowCallback(loop)
    logging.getLogger("asyncio").addHandler(handler)

    def slow():
        loop.slow_callback_duration = 0.0

    try:
        yield slow
    finally:
        logging.getLogger("asyncio").removeHandler(handler)
        loop.slow_callback_duration = 100.0


class Calls:
    """A protocol all of whose methods are recorded; some are slow."""

    def __init__(self, slow=None, where=(), on=None):
        self.slow = slow
        self.where = where
        self.calls = []
        self.on = on or {}
        self.over = asyncio.get_running_loop().create_future()

    def called(self, name, *args):
        self.calls.append(name)
        if name in self.where and self.calls.count(name) == 1:
            self.slow()
        if name in self.on:
            self.on[name](self, *args)

    def connection_made(self, transport):
        self.transport = transport
        self.called("connection_made")

    def connection_lost(self, exc):
        self.called("connection_lost")
        if not self.over.done():
            self.over.set_result(None)

    def eof_received(self):
        self.called("eof_received")

    def pause_writing(self):
        self.called("pause_writing")

    def resume_writing(self):
        self.called("resume_writing")

    def error_received(self, exc):
        self.called("error_received")


class Data(Calls, asyncio.Protocol):
    def data_received(self, data):
        self.called("data_received", data)


class Buffered(Calls, asyncio.BufferedProtocol):
    def get_buffer(self, sizehint):
        self.called("get_buffer")
        self.buffer = bytearray(100)
        return self.buffer

    def buffer_updated(self, nbytes):
        self.called("buffer_updated", bytes(self.buffer[:nbytes]))


class Datagrams(Calls, asyncio.DatagramProtocol):
    def datagram_received(self, data, addr):
        self.called("datagram_received", data)


async def connect(loop, server_protocol, client_protocol):
    server = await loop.create_server(server_protocol, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    transport, client = await loop.create_connection(client_protocol, *address)
    return server, transport, client


async def slow_stream(loop, tell, server_class, client_class, where, of_server=None):
    """Tell what each side saw; `where` is slow on both sides unless told otherwise."""
    with slow_once(loop) as slow:
        accepted = []

        def make():
            echo = {"data_received": lambda self, data: self.transport.write(data)}
            slow_ones = where if of_server is None else of_server
            accepted.append(server_class(slow, slow_ones, echo))
            return accepted[0]

        def close(self, data):
            self.transport.close()

        closing = {"data_received": close, "buffer_updated": close}
        server, transport, client = await connect(
            loop, make, lambda: client_class(slow, where, closing)
        )
        transport.write(b"x")
        await client.over
        await accepted[0].over
        server.close()
        await server.wait_closed()
        tell(list(dict.fromkeys(client.calls)), list(dict.fromkeys(accepted[0].calls)))


@program
async def slow_data_received(loop, tell):
    await slow_stream(loop, tell, Data, Data, ["data_received"])


@program
async def slow_get_buffer(loop, tell):
    await slow_stream(loop, tell, Data, Buffered, ["get_buffer"])


@program
async def slow_buffer_updated(loop, tell):
    await slow_stream(loop, tell, Data, Buffered, ["buffer_updated"])


@program
async def slow_connection_made(loop, tell):
    class Made(Data):
        def connection_made(self, transport):
            super().connection_made(transport)

    await slow_stream(loop, tell, Made, Data, [], ["connection_made"])
    await slow_stream(loop, tell, Data, Made, ["connection_made"], [])


@program
async def slow_connection_lost(loop, tell):
    await slow_stream(loop, tell, Data, Data, ["connection_lost"])


@program
async def slow_eof_received(loop, tell):
    await slow_stream(loop, tell, Data, Data, ["eof_received"])


@program
async def slow_resume_writing(loop, tell):
    size = 20_000_000

    with slow_once(loop) as slow:
        received = []

        def count(self, data):
            received.append(len(data))
            if sum(received) == size:
                self.transport.close()

        server, transport, client = await connect(
            loop,
            lambda: Data(on={"data_received": count}),
            lambda: Data(slow, ["resume_writing"]),
        )
        transport.write(bytes(size))
        await client.over
        server.close()
        await server.wait_closed()
        tell(client.calls)


@program
async def slow_datagram_received(loop, tell):
    with slow_once(loop) as slow:
        closing = {"datagram_received": lambda self, data: self.transport.close()}
        one, protocol = await loop.create_datagram_endpoint(
            lambda: Datagrams(slow, ["datagram_received", "connection_made"], closing),
            local_addr=("127.0.0.1", 0),
        )
        two, _ = await loop.create_datagram_endpoint(
            Datagrams, remote_addr=one.get_extra_info("sockname")
        )
        two.sendto(b"x")
        await protocol.over
        two.close()
        tell(protocol.calls)


@program
async def slow_pipe(loop, tell):
    with slow_once(loop) as slow:
        read, write = os.pipe()
        closing = {"data_received": lambda self, data: self.transport.close()}
        with open(read, "rb", 0) as reader, open(write, "wb", 0) as writer:
            _, protocol = await loop.connect_read_pipe(
                lambda: Data(slow, ["data_received", "connection_made"], closing),
                reader,
            )
            transport, calls = await loop.connect_write_pipe(
                lambda: Data(slow, ["connection_made", "connection_lost"]), writer
            )
            transport.write(b"x")
            await protocol.over
            await calls.over
        tell(protocol.calls, calls.calls)


@program
async def slow_callbacks_of_a_subprocess(loop, tell):
    class Child(asyncio.SubprocessProtocol):
        def pipe_data_received(self, fd, data):
            slow()

        def connection_lost(self, exc):
            exited.set_result(None)

    with slow_once(loop) as slow:
        exited = loop.create_future()
        transport, _ = await loop.subprocess_exec(
            Child, "/bin/sh", "-c", "printf x", stdin=None, stderr=None
        )
        await exited
        transport.close()


@program
async def slow_streams(loop, tell):
    with slow_once(loop) as slow:

        async def respond(reader, writer):
            writer.write(await reader.readline())
            slow()
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(respond, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"hello\n")
        tell(await reader.read())
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()


@program
async def slow_callback_duration_takes_any_number(loop, tell):
    for value in (0, 1, 0.5, float("inf"), True):
        loop.slow_callback_duration = value
        tell(loop.slow_callback_duration)
    loop.slow_callback_duration = float("nan")
    await asyncio.sleep(0)
    loop.slow_callback_duration = -1
    await asyncio.sleep(0)
    loop.slow_callback_duration = 100.0


@program
async def streams_that_wait(loop, tell):
    accepted = asyncio.Queue()
    server = await asyncio.start_server(
        lambda *pair: accepted.put_nowait(pair), "127.0.0.1", 0
    )
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    _, peer = await accepted.get()

    async def wait(method, *args):
        return await getattr(reader, method)(*args)

    for method, *args in (
        ("read", 10),
        ("readline",),
        ("readexactly", 2),
        ("readuntil", b"\n"),
    ):
        task = asyncio.create_task(wait(method, *args), name=method)
        await asyncio.sleep(0)
        tell(task, task._source_traceback, task._fut_waiter._source_traceback)
        refused(tell, reader._waiter.cancelled)
        peer.write(b"x\n")
        tell(await task)
    for each in (writer, peer):
        each.close()
        await each.wait_closed()
    server.close()
    await server.wait_closed()


@program
async def never_awaited_reads(loop, tell):
    def forget(depth):
        if depth:
            return forget(depth - 1)
        reader.read(10)
        reader.readline()
        return None

    accepted = asyncio.Queue()
    server = await asyncio.start_server(
        lambda *pair: accepted.put_nowait(pair), "127.0.0.1", 0
    )
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    _, peer = await accepted.get()
    for depth in (0, 1, 2, 20):
        forget(depth)
        loop.call_soon(forget, depth)
        await asyncio.sleep(0)
    coroutine = reader.readexactly(10)
    tell(coroutine.cr_origin[0])
    coroutine.close()
    for each in (writer, peer):
        each.close()
        await each.wait_closed()
    server.close()
    await server.wait_closed()


# --- exceptions -----------------------------------------------------------------------


@program
async def exception_in_callbacks(loop, tell):
    loop.call_soon(broken, 1)
    loop.call_later(0, broken)
    loop.call_soon_threadsafe(functools.partial(broken, 2))
    await asyncio.sleep(0.001)


@program
async def exception_in_done_callback(loop, tell):
    future = asyncio.Future()
    future.add_done_callback(broken)
    future.set_result(1)
    await asyncio.sleep(0)
    task = asyncio.create_task(returns(1))
    task.add_done_callback(broken)
    await task
    await asyncio.sleep(0)


@program
async def exception_never_retrieved(loop, tell):
    future = asyncio.Future()
    future.set_exception(ValueError("of a future"))
    del future
    gc.collect()
    task = asyncio.create_task(fails(), name="failing")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task
    gc.collect()


async def failing_stream(loop, tell, where, server_class, client_class):
    accepted = []

    def fail(self, *args):
        raise ValueError(where)

    def make():
        on = {"data_received": lambda self, data: self.transport.write(data)}
        accepted.append(server_class(on=on))
        return accepted[0]

    def close(self, *args):
        self.transport.close()

    on = {"data_received": close, "buffer_updated": close, where: fail}
    server, transport, client = await connect(loop, make, lambda: client_class(on=on))
    transport.write(b"x")
    if where == "connection_made":
        transport.abort()
    if where == "connection_lost":
        with contextlib.suppress(asyncio.CancelledError):
            client.over.cancel()
            await client.over
        while "connection_lost" not in client.calls:
            await asyncio.sleep(0.001)
    else:
        await client.over
    for protocol in accepted:
        await protocol.over
    server.close()
    await server.wait_closed()
    tell(list(dict.fromkeys(client.calls)))


for where in ("connection_made", "connection_lost", "data_received"):

    async def exception(loop, tell, where=where):
        await failing_stream(loop, tell, where, Data, Data)

    PROGRAMS[f"exception_in_{where}"] = exception

for where in ("get_buffer", "buffer_updated"):

    async def exception(loop, tell, where=where):
        await failing_stream(loop, tell, where, Data, Buffered)

    PROGRAMS[f"exception_in_{where}"] = exception


@program
async def exception_in_datagram_received(loop, tell):
    def fail(self, data):
        loop.call_soon(self.transport.close)
        raise ValueError

    one, protocol = await loop.create_datagram_endpoint(
        lambda: Datagrams(on={"datagram_received": fail}),
        local_addr=("127.0.0.1", 0),
    )
    two, _ = await loop.create_datagram_endpoint(
        Datagrams, remote_addr=one.get_extra_info("sockname")
    )
    two.sendto(b"x")
    await protocol.over
    two.close()


@program
async def exception_in_watchers(loop, tell):
    one, two = socket.socketpair()

    def readable():
        loop.remove_reader(one)
        raise ValueError("reader")

    def writable():
        loop.remove_writer(one)
        two.send(b"x")
        raise ValueError("writer")

    with one, two:
        loop.add_reader(one, readable)
        loop.add_writer(one, writable)
        await asyncio.sleep(0.01)


@program
async def exception_in_signal_handler(loop, tell):
    done = loop.create_future()

    def handler():
        done.set_result(None)
        raise ValueError("signal")

    # The Handle is made by Python code that both loops run, and counts real frames.
    loop.set_exception_handler(
        lambda loop, context: tell(*(context[key] for key in ("message", "handle")))
    )
    loop.add_signal_handler(signal.SIGUSR1, handler)
    os.kill(os.getpid(), signal.SIGUSR1)
    await done
    await asyncio.sleep(0)
    loop.remove_signal_handler(signal.SIGUSR1)


@program
async def exception_in_client_connected_callback(loop, tell):
    async def fail(reader, writer):
        raise ValueError("connected")

    server = await asyncio.start_server(fail, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(*address)
    tell(await reader.read())
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


@program
async def task_destroyed_while_pending(loop, tell):
    async def waits():
        await asyncio.Future()

    task = asyncio.create_task(waits(), name="lost")
    await asyncio.sleep(0)
    del task
    gc.collect()


@program
async def exception_handler_called_by_hand(loop, tell):
    def report(*args):
        loop.call_exception_handler({"message": "by hand"})

    report()
    loop.call_soon(report)
    future = asyncio.Future()
    future.add_done_callback(report)
    future.set_result(1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    report()
    in_thread(report)


@program
async def contexts_of_exception_handler(loop, tell):
    def handler(loop, context):
        for key in sorted(context):
            tell(key, context[key])

    loop.set_exception_handler(handler)
    loop.call_soon(broken, 1)
    loop.call_later(0, broken)
    future = asyncio.Future()
    future.add_done_callback(broken)
    future.set_result(1)
    await asyncio.sleep(0.001)
    asyncio.Future().set_exception(ValueError("never retrieved"))
    gc.collect()


@program
async def current_handle(loop, tell):
    def show(*args):
        handle = loop._current_handle
        tell(type(handle).__name__, handle, handle._source_traceback)
        assert handle is loop._current_handle

    loop.call_soon(show, 1)
    loop.call_later(0, show)
    future = asyncio.Future()
    future.add_done_callback(show)
    future.set_result(1)
    show()
    await asyncio.sleep(0)
    show()
    await asyncio.sleep(0.001)
    loop.set_debug(False)
    await asyncio.sleep(0)
    tell(loop._current_handle)


# --- checks ---------------------------------------------------------------------------


@program
async def calls_from_another_thread(loop, tell):
    coroutine = returns(1)

    def done_future():
        future = asyncio.Future(loop=loop)
        future.set_result(1)
        return future

    waited = asyncio.Future()
    waited.add_done_callback(nothing)

    def calls():
        refused(tell, loop.call_soon, nothing)
        refused(tell, loop.call_later, 1, nothing)
        refused(tell, loop.call_at, 1, nothing)
        refused(tell, loop.call_soon_threadsafe, nothing)
        refused(tell, loop.create_future)
        refused(tell, functools.partial(asyncio.Task, coroutine, loop=loop))
        refused(tell, waited.set_result, 1)
        refused(tell, done_future().add_done_callback, nothing)
        refused(tell, loop.get_debug)

    in_thread(calls)
    coroutine.close()
    gc.collect()


@program
def calls_to_a_loop_that_does_not_run(loop, tell):
    in_thread(refused, tell, loop.call_soon, nothing)
    in_thread(refused, tell, loop.call_later, 0, nothing)


@program
async def wrong_callbacks(loop, tell):
    class Marked:
        async def method(self):
            pass

    coroutine = returns(1)
    for wrong in (1, None, "x", returns, Marked().method, coroutine, fails):
        refused(tell, loop.call_soon, wrong)
        refused(tell, loop.call_soon_threadsafe, wrong)
        refused(tell, loop.call_later, 0, wrong)
        refused(tell, loop.call_at, 0, wrong)
        refused(tell, loop.run_in_executor, None, wrong)
    refused(tell, loop.call_soon, functools.partial(returns, 1))
    coroutine.close()


@program
def blocking_sockets(loop, tell):
    one, two = socket.socketpair()
    with one, two:
        for method, *args in [
            ("sock_recv", 10),
            ("sock_recv_into", bytearray(10)),
            ("sock_recvfrom", 10),
            ("sock_recvfrom_into", bytearray(10)),
            ("sock_sendall", b"x"),
            ("sock_sendto", b"x", ("127.0.0.1", 1)),
            ("sock_connect", ("127.0.0.1", 1)),
            ("sock_accept",),
        ]:

            async def call(method=method, args=args):
                return await getattr(loop, method)(one, *args)

            tell(method)
            refused(tell, loop.run_until_complete, call())


# --- coroutines that nobody awaits ----------------------------------------------------


@program
async def never_awaited(loop, tell):
    returns(1)
    gc.collect()


@program
async def never_awaited_in_asynchronous_generator(loop, tell):
    async def generator():
        returns(2)
        yield 1
        await asyncio.sleep(0)

    async for _ in generator():
        returns(3)
    gc.collect()


@program
async def never_awaited_in_callback(loop, tell):
    def callback():
        returns(1)

    loop.call_soon(callback)
    await asyncio.sleep(0)


@program
async def never_awaited_after_debug_mode(loop, tell):
    loop.set_debug(False)
    await asyncio.sleep(0)
    tell(sys.get_coroutine_origin_tracking_depth())
    returns(1)
    loop.set_debug(True)
    await asyncio.sleep(0)
    tell(sys.get_coroutine_origin_tracking_depth())
    returns(2)


@program
async def asynchronous_generator_left_suspended(loop, tell):
    async def generator():
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            tell("finalized")

    async for _ in generator():
        break
    gc.collect()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)


# --- resources ------------------------------------------------------------------------


@program
def unclosed_loop(loop, tell):
    other = type(loop)()
    other.set_debug(True)
    del other
    gc.collect()


@program
async def unclosed_transports(loop, tell):
    async def close_at_once(reader, writer):
        writer.close()

    server = await asyncio.start_server(close_at_once, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await asyncio.sleep(0.01)
    server.close()
    transport = writer.transport
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del writer
        gc.collect()
    transport.__del__()
    transport.abort()
    await asyncio.sleep(0.01)


@program
async def unclosed_pipe(loop, tell):
    read, write = os.pipe()
    with open(read, "rb", 0) as pipe:
        transport, _ = await loop.connect_read_pipe(asyncio.Protocol, pipe)
        await asyncio.sleep(0.01)
        transport.pause_reading()
        del transport
        gc.collect()
    os.close(write)


@program
async def unclosed_subprocess(loop, tell):
    class Child(asyncio.SubprocessProtocol):
        def connection_lost(self, exc):
            lost.set_result(None)

    lost = loop.create_future()
    transport, _ = await loop.subprocess_exec(
        Child,
        *(sys.executable, "-c", "input()"),
        stdin=subprocess.PIPE,
        stdout=None,
        stderr=None,
    )
    transport.__del__()
    await lost


# --- switches -------------------------------------------------------------------------


@program
async def debug_mode_turned_off_and_on(loop, tell):
    for debug in (False, True, 0, 1, [], "x"):
        loop.set_debug(debug)
        await asyncio.sleep(0)
        tell(bool(loop.get_debug()), sys.get_coroutine_origin_tracking_depth())
        handle = loop.call_soon(nothing)
        tell(handle, handle._source_traceback is None)
        task = asyncio.create_task(yields())
        tell(task._source_traceback is None)
        await task


@program
async def a_callback_after_the_one_that_turns_debug_mode_off(loop, tell):
    def look():
        tell(loop._current_handle)
        loop.call_exception_handler({"message": "called"})
        done.set_result(None)

    done = loop.create_future()
    loop.call_soon(loop.set_debug, False)
    loop.call_soon(look)
    await done


@program
def debug_mode_set_before_and_after_running(loop, tell):
    tell(sys.get_coroutine_origin_tracking_depth())
    loop.run_until_complete(asyncio.sleep(0))
    tell(sys.get_coroutine_origin_tracking_depth())
    loop.set_debug(False)
    tell(loop.run_until_complete(depth()))
    loop.set_debug(True)
    tell(loop.run_until_complete(depth()))


async def depth():
    return sys.get_coroutine_origin_tracking_depth()
