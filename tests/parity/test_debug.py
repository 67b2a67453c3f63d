"""What debug mode logs, warns of and refuses equals asyncio's, text by text."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import logging
import os
import re
import traceback
import warnings
from pathlib import Path

import pytest

import aioloop
from tests.conftest import FREE_THREADED, HARD

from .debug_programs import PROGRAMS

# These functions of asyncio are in C here and have no frames: the one difference
# between its source tracebacks and ours.
FUNCTIONS_IN_C = {
    "base_events.py": "run_forever _run_once create_future create_task"
    " call_exception_handler",
    "events.py": "_run",
    "selector_events.py": "_call_soon _add_reader _add_writer __init__ close"
    " _accept_connection2"
    " _make_socket_transport _make_datagram_transport _read_ready"
    " _read_ready__data_received _read_ready__get_buffer _fatal_error _force_close",
    "streams.py": "read readline readuntil readexactly _wait_for_data",
    "unix_events.py": "_add_reader __init__ close _make_read_pipe_transport _read_ready"
    " _make_write_pipe_transport _write_ready _close",
}
ADDITIONS = ("The slow step of task", "An iteration of", "poll ")


class Records(logging.Handler):
    def __init__(self, told):
        super().__init__(logging.INFO)
        self.told = told

    def emit(self, record):
        text = record.getMessage()
        if text.startswith(ADDITIONS):
            return
        # asyncio's loop reads its wake-up pipe in a callback; ours in its selector.
        if "_read_from_self" in text:
            return
        self.told.append((record.levelname, text))
        if record.exc_info and record.exc_info[1] is not None:
            self.told.append(("exception", repr(record.exc_info[1])))


def shown(value):
    if isinstance(value, traceback.StackSummary):
        return "".join(value.format())
    return value if isinstance(value, str) else repr(value)


def observe(factory, program):
    """Run a program in debug mode and return what was said, and what it told."""
    told = []
    handler = Records(told)
    logger = logging.getLogger("asyncio")
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False

    def warn(message, category, *args, **kwargs):
        told.append((category.__name__, str(message)))

    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        stack.callback(setattr, logger, "propagate", propagate)
        stack.callback(logger.removeHandler, handler)
        warnings.simplefilter("always")
        stack.callback(setattr, warnings, "showwarning", warnings.showwarning)
        warnings.showwarning = warn
        loop = factory()
        try:
            loop.set_debug(True)
            loop.slow_callback_duration = 100.0

            def tell(*values):
                told.append(tuple(map(shown, values)))

            if inspect.iscoroutinefunction(program):
                loop.run_until_complete(program(loop, tell))
            else:
                program(loop, tell)
        finally:
            loop.close()
        del loop
        gc.collect()
    return told


class Normal:
    """Takes out of texts what differs from run to run, and the frames of asyncio that
    are in C here."""

    def __init__(self):
        self.numbers = {}

    def number(self, match):
        return self.numbers.setdefault(match[0], f"{match[1]}#{len(self.numbers)}")

    def __call__(self, text):
        text = re.sub(r"0x[0-9a-fA-F]+", "0x...", text)
        text = re.sub(r"\b(Task-)\d+", self.number, text)
        text = re.sub(r"\b(fd=|pid=|when=)[\d.]+", r"\1N", text)
        text = re.sub(r"('127.0.0.1', )\d+", r"\1N", text)
        text = re.sub(r"took \d+\.\d{3} seconds", "took N seconds", text)
        # A C function has no frame: the place of a future that loop.create_future()
        # makes is the caller's, and asyncio's is in create_future().
        text = re.sub(
            r"(<Future [^<>]*?) created at [^ >]*", r"\1 created at PLACE", text
        )
        text = re.sub(r" at \S*/asyncio/\w+\.py:\d+", " at asyncio", text)
        text = re.sub(r"(_asyncio|aioloop)\.(TaskStepMethWrapper)", r"\2", text)
        text = text.replace("_UnixSelectorEventLoop", "Loop")
        text = re.sub(r"<(aioloop\.)?_?\w*Loop ", "<Loop ", text)
        text = re.sub(
            r"\b_(Selector|Unix)((Socket|Datagram|ReadPipe|WritePipe)Transport)",
            r"\2",
            text,
        )
        # The Handle of a transport's event is cancelled when the transport is closed;
        # ours is made for the message. The class has another name, also where reprlib
        # cuts it off, and connection_lost() is asked for by Python code of asyncio.
        text = re.sub(
            r"<Handle (?:cancelled )?(?:_Selector|Socket|Datagram)?"
            r"((?:\w+Pipe)?Transport\._(?:\w+_ready|write_sendmsg)\()",
            r"<Handle \1",
            text,
        )
        text = re.sub(
            r"(?:_Selector|Socket|Datagram)?(Transport\._call_connection_lost\(\w*\))"
            r" created at [^>]*",
            r"\1",
            text,
        )
        text = re.sub(r"connection_made\(<[^()]*>\)", "connection_made(<...>)", text)
        text = "\n".join(self.own_lines(text))
        # The interpreter itself takes ten frames for a coroutine, of which three are
        # the loop's with asyncio and none with ours.
        return re.sub(
            r'(?s)(Coroutine created at[^\n]*)\n.*?((?:  File "(?:(?!  File).)*){7})$',
            r"\1\n\2",
            text,
        )

    def own_lines(self, text):
        hidden = False
        for line in text.splitlines():
            frame = re.fullmatch(r'  File "(.*)", line \d+, in (.*)', line)
            if frame:
                path = Path(frame[1])
                hidden = (
                    path.parent.name == "asyncio"
                    and frame[2] in FUNCTIONS_IN_C.get(path.name, "").split()
                )
            elif not line.startswith("    "):
                hidden = False
            if not hidden:
                yield line


def normalised(told):
    normal = Normal()
    return [tuple(map(normal, entry)) for entry in told]


# Programs that tell which of their reads wait.
READ_AT_ONCE = {"streams_that_wait", "never_awaited_reads"}
# Programs whose other threads see a frame more, and no handle of a loop that runs.
LOOK_FROM_OUTSIDE = {
    "exception_handler_called_by_hand",
    "source_tracebacks_of_any_depth",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_same_as_asyncio(name):
    if FREE_THREADED and name in LOOK_FROM_OUTSIDE:
        pytest.skip("in a free-threaded build another thread sees less of a loop")
    if HARD and name in READ_AT_ONCE:
        pytest.skip("a false EAGAIN makes a read wait that has its data")
    theirs, ours = (
        normalised(observe(factory, PROGRAMS[name]))
        for factory in (asyncio.SelectorEventLoop, aioloop.new_event_loop)
    )
    assert ours == theirs
    if not name.startswith(("never_awaited", "asynchronous_gen")):
        assert theirs


@pytest.mark.parametrize(
    "new_loop", [asyncio.SelectorEventLoop, aioloop.new_event_loop]
)
def test_a_pipe_at_its_end_is_logged_as_it_was_before(new_loop, caplog):
    """asyncio closes the transport after it has said so."""
    ours, theirs = os.pipe()
    loop = new_loop()
    loop.set_debug(True)

    async def main():
        done = loop.create_future()

        class Protocol(asyncio.Protocol):
            def connection_lost(self, exc):
                done.set_result(exc)

        await loop.connect_read_pipe(Protocol, open(ours, "rb", 0))
        os.close(theirs)
        await done

    with contextlib.closing(loop), caplog.at_level(logging.INFO, "asyncio"):
        loop.run_until_complete(main())
    (text,) = [text for text in caplog.text.splitlines() if "closed by peer" in text]
    assert "clos" not in text.replace("was closed by peer", "")
