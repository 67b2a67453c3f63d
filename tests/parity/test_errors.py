"""Wrong types and states: the exception's type and text equal asyncio's."""

import asyncio
import gc
import inspect
import math
import os
import socket
import sys
from decimal import Decimal
from fractions import Fraction

import pytest

import aioloop


def outcome(call, loop):
    try:
        result = call(loop)
    except BaseException as exc:
        return type(exc), str(exc)
    if inspect.iscoroutine(result):
        result.close()
    return result if isinstance(result, tuple) else type(result).__name__


def both(call, prepare=lambda loop: None):
    outcomes = []
    for factory in (asyncio.SelectorEventLoop, aioloop.new_event_loop):
        loop = factory()
        try:
            prepare(loop)
            outcomes.append(outcome(call, loop))
        finally:
            loop.close()
    return outcomes


CALLS = {
    "call_soon nothing": lambda loop: loop.call_soon(),
    "call_soon unknown keyword": lambda loop: loop.call_soon(print, x=1),
    "call_soon callback twice": lambda loop: loop.call_soon(print, callback=print),
    "call_later nothing": lambda loop: loop.call_later(),
    "call_later no callback": lambda loop: loop.call_later(1),
    "call_later None": lambda loop: loop.call_later(None, print),
    "call_later str": lambda loop: loop.call_later("1", print),
    "call_at None": lambda loop: loop.call_at(None, print),
    "call_at nothing": lambda loop: loop.call_at(),
    "call_soon_threadsafe nothing": lambda loop: loop.call_soon_threadsafe(),
    "create_task int": lambda loop: loop.create_task(1),
    "create_task nothing": lambda loop: loop.create_task(),
    "set_task_factory int": lambda loop: loop.set_task_factory(1),
    "set_exception_handler int": lambda loop: loop.set_exception_handler(1),
    "set_default_executor int": lambda loop: loop.set_default_executor(1),
    "run_until_complete int": lambda loop: loop.run_until_complete(1),
    "add_reader str": lambda loop: loop.add_reader("x", print),
    "add_reader negative": lambda loop: loop.add_reader(-1, print),
    "add_reader bad": lambda loop: loop.add_reader(999, print),
    "add_reader float": lambda loop: loop.add_reader(1.5, print),
    "add_writer bad": lambda loop: loop.add_writer(999, print),
    "add_signal_handler 0": lambda loop: loop.add_signal_handler(0, print),
    "add_signal_handler str": lambda loop: loop.add_signal_handler("x", print),
    "add_signal_handler SIGKILL": lambda loop: loop.add_signal_handler(9, print),
    "remove_reader bad": lambda loop: loop.remove_reader(999),
    "remove_writer negative": lambda loop: loop.remove_writer(-1),
    "run_in_executor None": lambda loop: loop.run_in_executor(1, print),
    "stop argument": lambda loop: loop.stop(1) if False else loop.stop(),
}


@pytest.mark.parametrize("name", CALLS)
def test_production_mode(name):
    ours, theirs = both(CALLS[name])[::-1]
    assert ours == theirs


async def coroutine_function():
    pass


DEBUG_CALLS = {
    "call_soon int": lambda loop: loop.call_soon(1),
    "call_soon coroutine function": lambda loop: loop.call_soon(coroutine_function),
    "call_later coroutine function": lambda loop: loop.call_later(
        1, coroutine_function
    ),
    "call_later int": lambda loop: loop.call_later(1, 1),
    "call_at int": lambda loop: loop.call_at(1, 1),
    "call_soon_threadsafe int": lambda loop: loop.call_soon_threadsafe(1),
}


def completed(complete):
    """A call that completes a future with three callbacks, the second a wrong one."""

    def call(loop, wrong):
        called = []
        future = loop.create_future()
        for callback in (lambda f: called.append(1), wrong, lambda f: called.append(3)):
            future.add_done_callback(callback)
        raised = outcome(lambda loop: complete(future), loop)
        loop.call_soon(loop.stop)
        loop.run_forever()
        return raised, called, future._state, str(future._callbacks)

    return call


def added_to_a_done_future(loop, wrong):
    future = loop.create_future()
    future.cancel()
    return outcome(lambda loop: future.add_done_callback(wrong), loop)


def added_to_a_task(loop, wrong):
    reports = []
    loop.set_exception_handler(
        lambda loop, context: reports.append(str(context["exception"]))
    )
    task = loop.create_task(coroutine_function())
    task.add_done_callback(wrong)
    loop.call_soon(loop.call_soon, loop.stop)
    loop.run_forever()
    return reports, task.done()


COMPLETIONS = {
    "set_result": completed(lambda future: future.set_result(1)),
    "set_exception": completed(lambda future: future.set_exception(KeyError)),
    "cancel": completed(lambda future: future.cancel()),
    "added to a done future": added_to_a_done_future,
    "added to a task": added_to_a_task,
}


@pytest.mark.parametrize("name", COMPLETIONS)
@pytest.mark.parametrize("wrong", [coroutine_function, 5, None, "text"])
def test_debug_mode_checks_done_callbacks(name, wrong):
    theirs, ours = both(
        lambda loop: COMPLETIONS[name](loop, wrong), lambda loop: loop.set_debug(True)
    )
    assert ours == theirs


@pytest.mark.parametrize("name", {**CALLS, **DEBUG_CALLS})
def test_debug_mode(name):
    call = {**CALLS, **DEBUG_CALLS}[name]
    theirs, ours = both(call, lambda loop: loop.set_debug(True))
    assert ours == theirs


@pytest.mark.parametrize("name", CALLS)
def test_closed_loop(name):
    theirs, ours = both(CALLS[name], lambda loop: loop.close())
    assert ours == theirs


def public_methods():
    return [
        name
        for name in dir(asyncio.AbstractEventLoop)
        if not name.startswith("_")
        and callable(getattr(asyncio.AbstractEventLoop, name))
    ]


@pytest.mark.parametrize("name", public_methods())
def test_every_method_exists_with_asyncios_signature(name):
    theirs = getattr(asyncio.SelectorEventLoop, name)
    ours = getattr(aioloop.Loop, name)
    assert ours is not getattr(asyncio.AbstractEventLoop, name)
    ours, theirs = (
        [
            (parameter.name, parameter.kind, parameter.default)
            for parameter in inspect.signature(method).parameters.values()
        ]
        for method in (ours, theirs)
    )
    # "self" of a C method is positional only; no call can tell.
    assert ours[1:] == theirs[1:]


WATER_MARKS = [
    {},
    {"high": 10},
    {"low": 10},
    {"low": True},
    {"high": 10, "low": 10},
    {"high": 10, "low": 20},
    {"high": 0},
    {"high": 3},
    {"high": None, "low": None},
    {"high": -1},
    {"low": -1},
    {"high": -5, "low": None},
    {"high": 10, "low": -3},
    {"high": 2**62, "low": 2**62},
    {"high": 8.0},
    {"high": 1.5, "low": 2},
    {"low": -0.5},
    {"high": math.nan},
    {"low": -math.inf},
    {"high": Fraction(8)},
    {"high": Decimal(8), "low": Decimal(9)},
    {"high": "a"},
    {"low": "a"},
    {"high": 1, "low": "a"},
    {"high": [1]},
    {"high": 1j},
    {"limit": 1},
    {"high": asyncio},
]


async def open_stream(loop):
    here, there = socket.socketpair()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=here)
    return transport, there.close


async def open_datagrams(loop):
    transport, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    )
    return transport, lambda: None


async def open_pipe(loop):
    read_end, write_end = os.pipe()
    transport, _ = await loop.connect_write_pipe(
        asyncio.BaseProtocol, os.fdopen(write_end, "wb")
    )
    return transport, lambda: os.close(read_end)


@pytest.mark.parametrize("open_one", [open_stream, open_datagrams, open_pipe])
@pytest.mark.parametrize("marks", WATER_MARKS, ids=repr)
def test_water_marks(open_one, marks):
    def of(factory):
        async def main():
            transport, end = await open_one(loop)

            def set_and_get(loop):
                transport.set_write_buffer_limits(**marks)
                return transport.get_write_buffer_limits()

            try:
                transport.set_write_buffer_limits(high=123)
                seen = outcome(set_and_get, loop)
                return seen, transport.get_write_buffer_limits()
            finally:
                transport.close()
                await asyncio.sleep(0)
                end()

        loop = factory()
        try:
            return loop.run_until_complete(main())
        finally:
            loop.close()

    assert of(aioloop.new_event_loop) == of(asyncio.SelectorEventLoop)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"high": 10.5}, (2, 10)),
        ({"high": math.inf, "low": 2**70}, (sys.maxsize, sys.maxsize)),
    ],
    ids=repr,
)
def test_water_marks_are_kept_as_whole_bytes(given, kept):
    """asyncio keeps the objects; nobody has half a byte or as many as these."""

    async def main():
        transport, end = await open_stream(asyncio.get_running_loop())
        transport.set_write_buffer_limits(**given)
        assert transport.get_write_buffer_limits() == kept
        transport.close()
        end()

    aioloop.run(main())


# --- connection_made in debug mode -------------------------------------------------


async def connected(loop, protocol, told):
    ours, theirs = socket.socketpair()
    with theirs:
        await loop.create_connection(protocol, sock=ours)


async def accepted(loop, protocol, told):
    server = await loop.create_server(protocol, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()):
        while not told:  # asyncio leaves the connection open.
            await asyncio.sleep(0.001)
    server.close()


async def bound(loop, protocol, told):
    await loop.create_datagram_endpoint(protocol, local_addr=("127.0.0.1", 0))


async def read_pipe(loop, protocol, told):
    reading, writing = os.pipe()
    os.close(writing)
    await loop.connect_read_pipe(protocol, os.fdopen(reading, "rb", 0))


async def write_pipe(loop, protocol, told):
    reading, writing = os.pipe()
    os.close(reading)
    await loop.connect_write_pipe(protocol, os.fdopen(writing, "wb", 0))


@pytest.mark.parametrize("made", [coroutine_function, 5], ids=["coroutine", "int"])
@pytest.mark.parametrize(
    "make",
    [connected, accepted, bound, read_pipe, write_pipe],
    ids=lambda f: f.__name__,
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_debug_mode_checks_connection_made(make, made):
    protocol = type("Protocol", (asyncio.Protocol,), {"connection_made": made})

    def call(loop):
        told = []
        loop.set_exception_handler(
            lambda loop, context: told.append(
                (context["message"], str(context["exception"]))
            )
        )
        try:
            loop.run_until_complete(asyncio.wait_for(make(loop, protocol, told), 10))
        except TypeError as exc:
            told.append(str(exc))
        gc.collect()
        return tuple(told)

    theirs, ours = both(call, lambda loop: loop.set_debug(True))
    assert ours == theirs
    assert ours
