"""Wrong types and states: the exception's type and text equal asyncio's."""

import asyncio
import inspect

import pytest

import aioloop


def outcome(call, loop):
    try:
        result = call(loop)
    except BaseException as exc:
        return type(exc), str(exc)
    if inspect.iscoroutine(result):
        result.close()
    return type(result).__name__


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
