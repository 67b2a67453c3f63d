"""Wrong arguments, systematically: the exception and its text are asyncio's.

First the number and names of arguments, for each public method of a loop, future, task,
handle, transport and reader; then odd values for each argument that is looked at.
A mistake comes before the call does anything, so it needs no stage.
"""

import asyncio
import contextlib
import inspect
import logging
import math
import os
import re
import socket
import sys

import pytest

import aioloop


class Cast:
    """One loop, and one of each object that has public methods."""

    def __init__(self, factory):
        self.loop = loop = factory()
        loop.set_exception_handler(lambda loop, context: None)
        module = aioloop if isinstance(loop, aioloop.Loop) else asyncio
        self.closing = contextlib.ExitStack()
        self.objects = {
            "loop": loop,
            "future": loop.create_future(),
            "task": loop.create_task(asyncio.sleep(0)),
            "handle": loop.call_soon(int),
            "timer": loop.call_later(1000, int),
            "threadsafe": loop.call_soon_threadsafe(int),
            "Future": module.Future,
            "Task": module.Task,
            "Handle": module.Handle,
            "TimerHandle": module.TimerHandle,
        }
        loop.run_until_complete(self.connect())

    async def connect(self):
        loop, objects = self.loop, self.objects
        ours, theirs = socket.socketpair()
        objects["stream"], _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        objects["reader"], self.writer = await asyncio.open_connection(sock=theirs)
        objects["datagrams"], _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        reading, writing = os.pipe()
        objects["read pipe"], _ = await loop.connect_read_pipe(
            asyncio.Protocol, os.fdopen(reading, "rb", 0)
        )
        objects["write pipe"], _ = await loop.connect_write_pipe(
            asyncio.Protocol, os.fdopen(writing, "wb", 0)
        )
        for transport in (
            objects["stream"],
            self.writer.transport,
            objects["datagrams"],
            objects["read pipe"],
            objects["write pipe"],
        ):
            self.closing.callback(transport.close)

    def close(self):
        self.closing.close()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


@pytest.fixture(scope="module")
def casts():
    pair = Cast(asyncio.SelectorEventLoop), Cast(aioloop.new_event_loop)
    yield pair
    for cast in pair:
        cast.close()


KINDS = [
    "loop",
    "future",
    "task",
    "handle",
    "timer",
    "threadsafe",
    "Future",
    "Task",
    "Handle",
    "TimerHandle",
    "stream",
    "reader",
    "datagrams",
    "read pipe",
    "write pipe",
]


def public_callables(thing):
    if isinstance(thing, type):
        yield "itself", thing
        return
    for name in dir(thing):
        if not name.startswith("_") and callable(getattr(thing, name)):
            yield name, getattr(thing, name)


def mistakes(signature):
    """Yield (args, kwargs) of up to four arguments that the signature refuses."""
    names = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    for count in range(5):
        for keyword in (None, "unknown", *names):
            args = (1,) * count
            kwargs = {} if keyword is None else {keyword: 1}
            try:
                signature.bind(*args, **kwargs)
            except TypeError:
                yield args, kwargs


def raised(call, args, kwargs):
    try:
        result = call(*args, **kwargs)
    except Exception as exc:
        return type(exc), str(exc)
    if inspect.iscoroutine(result):
        result.close()
    return "returned"


# CPython itself refuses arguments of the C methods that take none, before they are
# called, in these words; a check of their own would cost each call.
OF_C = re.compile(
    r"\w+\.\w+\(\) takes (no arguments \(\d+ given\)|no keyword arguments"
    r"|exactly one argument \(\d+ given\))"
)
C_METHODS = {
    "loop": {
        "create_future",
        "get_debug",
        "get_task_factory",
        "is_closed",
        "is_running",
        "run_forever",
        "stop",
        "time",
    },
    "future": {
        "exception",
        "get_loop",
        "remove_done_callback",
        "set_exception",
        "set_result",
    },
    "task": {"exception", "get_loop", "remove_done_callback"},
    "handle": {"cancel", "cancelled", "get_context"},
    "timer": {"cancel", "cancelled", "get_context", "when"},
    "threadsafe": {"cancel", "cancelled", "get_context"},
}
TRANSPORTS = {
    "abort",
    "can_write_eof",
    "close",
    "get_protocol",
    "get_write_buffer_limits",
    "get_write_buffer_size",
    "is_closing",
    "is_reading",
    "pause_reading",
    "resume_reading",
    "write_eof",
}


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_and_names(casts, kind):
    theirs, ours = (cast.objects[kind] for cast in casts)
    compared = 0
    for name, their_method in public_callables(theirs):
        our_method = ours if name == "itself" else getattr(ours, name)
        try:
            signature = inspect.signature(their_method)
        except ValueError:
            continue
        for args, kwargs in mistakes(signature):
            expected = raised(their_method, args, kwargs)
            got = raised(our_method, args, kwargs)
            got = got[0], re.sub(r"^Loop\.", "_UnixSelectorEventLoop.", got[1])
            if got != expected:
                # (3.12's own exception() and get_loop() take keywords and ignore them.)
                assert name in C_METHODS.get(kind, TRANSPORTS), (expected, got)
                assert got[0] is TypeError, (name, args, kwargs)
                assert OF_C.fullmatch(got[1]), (expected, got)
            compared += 1
    assert compared > 10


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_has_asyncios_name_and_kind(casts, kind):
    theirs, ours = (cast.objects[kind] for cast in casts)
    for name, their_method in public_callables(theirs):
        our_method = ours if name == "itself" else getattr(ours, name)
        try:
            expected = inspect.signature(their_method)
        except ValueError:
            continue
        got = inspect.signature(our_method)
        assert [(p.name, p.kind) for p in got.parameters.values()] == [
            (p.name, p.kind) for p in expected.parameters.values()
        ], name


def test_keywords_are_taken(casts):
    for cast in casts:
        for kind in ("stream", "datagrams", "read pipe", "write pipe"):
            transport = cast.objects[kind]
            protocol = transport.get_protocol()
            transport.set_protocol(protocol=protocol)
            assert transport.get_protocol() is protocol
            transport.get_extra_info(name="socket", default=None)
        for kind in ("stream", "datagrams", "write pipe"):
            cast.objects[kind].set_write_buffer_limits(high=10, low=1)
        cast.objects["stream"].write(data=b"")
        cast.objects["stream"].writelines(list_of_data=[])
        cast.objects["write pipe"].write(data=b"")
        cast.loop.set_debug(enabled=False)


# --- odd values --------------------------------------------------------------------


class Odd:
    def __repr__(self):
        return "Odd()"


class Unprintable:
    def fileno(self):
        return "x"

    def __repr__(self):
        raise ZeroDivisionError("repr")


class File:
    def __init__(self, number):
        self.number = number

    def fileno(self):
        if isinstance(self.number, BaseException):
            raise self.number
        return self.number

    def __repr__(self):
        return f"File({self.number!r})"


VALUES = [
    None,
    1,
    -1,
    999,
    True,
    2**70,
    -(2**70),
    1.5,
    -0.0,
    math.nan,
    "text",
    b"bytes",
    [],
    {},
    int,
    len,
    Odd(),
    Unprintable(),
    File("text"),
    File(-1),
    File(2**70),
    File(None),
    File(1.5),
    File(ValueError("closed")),
    File(OSError(9, "bad")),
]


def chain(exc):
    """Describe an exception and how its context is kept.

    KeyErrors are left out: asyncio looks its selector up before it registers.
    """
    if exc is None or isinstance(exc, KeyError):
        return None
    text = re.sub(r"0x[0-9a-f]+|Task-\d+|fd=\d+", "N", str(exc))
    text = text.replace("aioloop.TimerHandle", "TimerHandle")
    context = chain(exc.__context__)
    return type(exc), text, exc.__suppress_context__ if context else None, context


class Prop:
    """What a call may use; all of it goes when the call is over."""

    def __init__(self, factory, debug):
        self.closing = contextlib.ExitStack()
        self.loop = factory()
        self.closing.callback(self.close_loop)
        self.loop.set_debug(debug)
        self.loop.set_exception_handler(lambda loop, context: None)
        self.module = aioloop if isinstance(self.loop, aioloop.Loop) else asyncio

    def close_loop(self):
        self.loop.set_task_factory(None)
        for task in asyncio.all_tasks(self.loop):
            task._log_destroy_pending = False
        self.loop.close()

    def sock(self, kind=socket.SOCK_STREAM):
        sock = self.closing.enter_context(socket.socket(type=kind))
        sock.setblocking(False)
        return sock

    def pair(self):
        ours, theirs = socket.socketpair()
        self.closing.enter_context(ours)
        self.closing.enter_context(theirs)
        ours.setblocking(False)
        return ours

    def coroutine(self):
        coroutine = asyncio.sleep(0)
        self.closing.callback(coroutine.close)
        return coroutine

    def wait(self, start):
        """Run an operation until it waits."""

        async def main():
            future = asyncio.ensure_future(start())
            done, _ = await asyncio.wait({future}, timeout=0.02)
            return await future if done else None

        return self.loop.run_until_complete(main())

    def transport(self, starting):
        transport, _ = self.loop.run_until_complete(starting)
        self.closing.callback(self.loop.run_until_complete, asyncio.sleep(0))
        self.closing.callback(transport.abort)
        return transport

    def stream(self):
        return self.transport(
            self.loop.create_connection(asyncio.Protocol, sock=self.pair())
        )

    def datagrams(self):
        return self.transport(
            self.loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
            )
        )

    def pipe(self):
        reading, writing = os.pipe()
        self.closing.callback(os.close, reading)
        return self.transport(
            self.loop.connect_write_pipe(asyncio.Protocol, os.fdopen(writing, "wb", 0))
        )


CALLS = {
    "call_later": lambda p, x: p.loop.call_later(x, len).cancel(),
    "create_task": lambda p, x: p.loop.create_task(x) and None,
    "create_task name": lambda p, x: (
        p.loop.create_task(p.coroutine(), name=x).get_name().startswith("Task-")
    ),
    "create_task context": lambda p, x: (
        p.loop.create_task(p.coroutine(), context=x) and None
    ),
    "create_task unknown": lambda p, x: p.loop.create_task(p.coroutine(), unknown=x),
    "set_task_factory": lambda p, x: p.loop.set_task_factory(x),
    "set_exception_handler": lambda p, x: p.loop.set_exception_handler(x),
    "set_default_executor": lambda p, x: p.loop.set_default_executor(x),
    "run_until_complete": lambda p, x: p.loop.run_until_complete(x),
    "run_in_executor": lambda p, x: (
        p.loop.run_in_executor(x, len, "") and None if x is not None else None
    ),
    "call_exception_handler": lambda p, x: p.loop.call_exception_handler(x),
    "add_reader": lambda p, x: p.loop.add_reader(x, len),
    "add_writer": lambda p, x: p.loop.add_writer(x, len),
    "_add_reader": lambda p, x: p.loop._add_reader(x, len) and None,
    "_remove_reader": lambda p, x: p.loop._remove_reader(x),
    "remove_reader": lambda p, x: p.loop.remove_reader(x),
    "remove_writer": lambda p, x: p.loop.remove_writer(x),
    "add_signal_handler": lambda p, x: p.loop.add_signal_handler(x, len),
    "remove_signal_handler": lambda p, x: p.loop.remove_signal_handler(x),
    "sock_recv sock": lambda p, x: p.wait(lambda: p.loop.sock_recv(x, 1)),
    "sock_recv n": lambda p, x: p.wait(lambda: p.loop.sock_recv(p.pair(), x)),
    "sock_recv_into": lambda p, x: p.wait(lambda: p.loop.sock_recv_into(p.pair(), x)),
    "sock_recvfrom": lambda p, x: p.wait(lambda: p.loop.sock_recvfrom(p.pair(), x)),
    "sock_recvfrom_into buf": lambda p, x: p.wait(
        lambda: p.loop.sock_recvfrom_into(p.pair(), x)
    ),
    "sock_recvfrom_into n": lambda p, x: p.wait(
        lambda: p.loop.sock_recvfrom_into(p.pair(), bytearray(5), x)
    ),
    "sock_sendall sock": lambda p, x: p.wait(lambda: p.loop.sock_sendall(x, b"x")),
    "sock_sendall data": lambda p, x: p.wait(lambda: p.loop.sock_sendall(p.pair(), x)),
    "sock_sendto data": lambda p, x: p.wait(
        lambda: p.loop.sock_sendto(p.sock(socket.SOCK_DGRAM), x, ("127.0.0.1", 9))
    ),
    "sock_sendto address": lambda p, x: p.wait(
        lambda: p.loop.sock_sendto(p.sock(socket.SOCK_DGRAM), b"x", x)
    ),
    "sock_connect sock": lambda p, x: p.wait(
        lambda: p.loop.sock_connect(x, ("127.0.0.1", 9))
    ),
    "sock_connect address": lambda p, x: p.wait(
        lambda: p.loop.sock_connect(p.sock(), x)
    ),
    "sock_accept": lambda p, x: p.wait(lambda: p.loop.sock_accept(x)),
    "Future loop": lambda p, x: (
        p.module.Future(loop=x) and None if x is not None else None
    ),
    "Task coro": lambda p, x: p.module.Task(x, loop=p.loop) and None,
    "Task loop": lambda p, x: (
        p.module.Task(p.coroutine(), loop=x) and None if x is not None else None
    ),
    "Task name": lambda p, x: (
        p.module.Task(p.coroutine(), loop=p.loop, name=x).get_name().startswith("Task-")
    ),
    "Task unknown": lambda p, x: p.module.Task(p.coroutine(), loop=p.loop, unknown=x),
    "set_name": lambda p, x: p.loop.create_task(p.coroutine()).set_name(x),
    "set_exception": lambda p, x: p.loop.create_future().set_exception(x),
    "future cancel": lambda p, x: p.loop.create_future().cancel(x),
    "future cancel msg": lambda p, x: p.loop.create_future().cancel(msg=x),
    "task cancel": lambda p, x: p.loop.create_task(p.coroutine()).cancel(x),
    "remove_done_callback": lambda p, x: p.loop.create_future().remove_done_callback(x),
    "_log_traceback": lambda p, x: setattr(p.loop.create_future(), "_log_traceback", x),
    "_asyncio_future_blocking": lambda p, x: setattr(
        p.loop.create_future(), "_asyncio_future_blocking", x
    ),
    "_log_destroy_pending": lambda p, x: setattr(
        p.loop.create_task(p.coroutine()), "_log_destroy_pending", x
    ),
    "get_stack": lambda p, x: len(p.loop.create_task(p.coroutine()).get_stack(limit=x)),
    "handle loop": lambda p, x: p.module.Handle(len, (), x) and None,
    "timer < other": lambda p, x: p.loop.call_later(1, len) < x,
    "timer == other": lambda p, x: p.loop.call_later(1, len) == x,
    "stream write": lambda p, x: p.stream().write(x),
    "stream writelines": lambda p, x: p.stream().writelines(x),
    "stream high": lambda p, x: p.stream().set_write_buffer_limits(x),
    "stream low": lambda p, x: p.stream().set_write_buffer_limits(low=x),
    "datagrams data": lambda p, x: p.datagrams().sendto(x, ("127.0.0.1", 9)),
    "datagrams address": lambda p, x: p.datagrams().sendto(b"x", x),
    "pipe write": lambda p, x: p.pipe().write(x),
}
if sys.version_info >= (3, 12):
    CALLS["Task eager_start"] = lambda p, x: (
        p.module.Task(p.coroutine(), loop=p.loop, eager_start=x) and None
    )


def result_of(factory, call, value, debug):
    prop = Prop(factory, debug)
    with prop.closing:
        try:
            result = call(prop, value)
        except Exception as exc:
            result = chain(exc)
    return result


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_odd_values(name, debug):
    logging.disable()
    try:
        for value in VALUES:
            theirs = result_of(asyncio.SelectorEventLoop, CALLS[name], value, debug)
            ours = result_of(aioloop.new_event_loop, CALLS[name], value, debug)
            assert ours == theirs, type(value)
    finally:
        logging.disable(logging.NOTSET)
