"""The ways in which a program is run, and the traces that have to be equal."""

import asyncio
import contextlib
import contextvars
import gc
import heapq
import logging
import re
import selectors
import sys
import warnings

import aioloop
from aioloop.testing import Clock, _clock
from tests.fuzz import network, world


class Jumping(selectors.DefaultSelector):
    """A selector that does not wait: the loop's time moves on to the next timer."""

    loop = None

    def select(self, timeout=None):
        events = super().select(0)
        if not events and timeout != 0:
            loop = self.loop
            if loop._scheduled:
                loop.now = max(loop.now, loop._scheduled[0]._when)
            else:
                raise RuntimeError("nothing can happen any more")
        return events


class Timer(asyncio.TimerHandle):
    """One of several with the same deadline comes after those that were there before.

    asyncio calls their order undefined: it is the one that a heap makes of them.
    """

    number = 0

    def __lt__(self, other):
        if not isinstance(other, Timer):
            return super().__lt__(other)
        return (self._when, self.number) < (other._when, other.number)


Timer.__name__ = "TimerHandle"


class Heap:
    """asyncio's own order of timers with equal deadlines, that of its heap."""

    call_at = asyncio.SelectorEventLoop.call_at


class RealLoop(asyncio.SelectorEventLoop):
    """asyncio's loop with an order for timers with equal deadlines."""

    timers = 0

    def call_at(self, when, callback, *args, context=None):
        self._check_closed()
        if self._debug:
            self._check_thread()
            self._check_callback(callback, "call_at")
        timer = Timer(when, callback, args, self, context)
        self.timers += 1
        timer.number = self.timers
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True
        return timer


class VirtualLoop(RealLoop):
    """The same with the time of aioloop.testing."""

    now = 0.0

    def __init__(self):
        selector = Jumping()
        selector.loop = self
        super().__init__(selector)

    def time(self):
        return self.now


class HeapVirtualLoop(Heap, VirtualLoop):
    pass


class HeapRealLoop(Heap, RealLoop):
    pass


def asyncio_loop(clock):
    return VirtualLoop() if clock == "virtual" else RealLoop()


def heap_loop(clock):
    return HeapVirtualLoop() if clock == "virtual" else HeapRealLoop()


def aioloop_loop(clock):
    loop = aioloop.new_event_loop()
    if clock == "virtual":
        _clock.attach(loop, Clock())
    return loop


def replaced_loop(clock):
    """Return aioloop's loop with a time and a select() of Python's, which it obeys."""
    loop = aioloop.new_event_loop()
    if clock == "virtual":
        loop.now = 0.0
        loop.time = lambda: loop.now
        select = loop._selector.select

        def jump(timeout=None):
            events = select(0)
            if not events and timeout != 0:
                loop.now = max(loop.now, loop._scheduled[0]._when)
            return events

        loop._selector.select = jump
    return loop


def uncorked_loop(clock):
    """Return aioloop's loop that sends at the moments at which asyncio does."""
    loop = aioloop.new_event_loop()
    loop.cork_writes = False
    return loop


LOOPS = {
    "asyncio": (asyncio_loop, asyncio.Task, False),
    "heap": (heap_loop, asyncio.Task, False),
    "aioloop": (aioloop_loop, aioloop.Task, False),
    "accelerated": (aioloop_loop, aioloop.Task, True),
    "replaced": (replaced_loop, aioloop.Task, False),
    "uncorked": (uncorked_loop, aioloop.Task, False),
}


class Records(logging.Handler):
    """Notes asyncio's log records in a trace."""

    current = None

    def emit(self, record):
        kind = record.exc_info and record.exc_info[1]
        message = record.getMessage()
        lost = message.partition("\n")[0].endswith(world.LOST)
        note = self.current.note_lost if lost else self.current.note
        note("log", record.levelname, message, kind or "")


RECORDS = Records()


@contextlib.contextmanager
def captured():
    """Take what the interpreter and asyncio say about programs, for their traces.

    The collector runs when a run is over, and at no other time.
    """
    logger = logging.getLogger("asyncio")
    before = logger.propagate, logger.level, sys.unraisablehook, gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    logger.propagate = False
    logger.addHandler(RECORDS)
    logger.setLevel(logging.INFO)

    def unraisable(what):
        RECORDS.current.note_lost("unraisable", what.exc_value, what.err_msg or "")

    def show(message, category, *place):
        RECORDS.current.note_lost("warning", category.__name__, str(message))

    sys.unraisablehook = unraisable
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = show
            yield
    finally:
        aioloop.accelerate(False)
        logger.removeHandler(RECORDS)
        logger.propagate, logger.level, sys.unraisablehook, enabled = before
        gc.unfreeze()
        if enabled:
            gc.enable()


def is_network(program):
    return program.get("kind", "").startswith("network")


def trace_of(program, name, debug):
    """Run a program, and return its trace and how many operations it did."""
    make, task_class, accelerated = LOOPS[name]
    aioloop.accelerate(accelerated)
    clock = program.get("clock", "real")
    loop = make(clock)
    loop.set_debug(debug)
    loop.slow_callback_duration = 1e9
    if name not in ("asyncio", "heap"):
        loop.stall_threshold = 3600.0  # a machine under load stops us for seconds
    if is_network(program):
        run = network.Network(loop, program)
    else:
        run = world.World(loop, program["phases"], clock == "real", task_class)
    RECORDS.current = run
    try:
        contextvars.Context().run(run.run)
    finally:
        if is_network(program):
            run.close()
        if not loop.is_closed():
            if loop.is_running():
                raise RuntimeError("the loop still runs")
            loop.close()
    run.forget()
    del loop
    gc.collect()
    return [*run.trace, "--- lost", *sorted(run.garbage)], run.done


# What is compared, in which debug mode.
PAIRS = (
    ("asyncio", "aioloop", False),
    ("asyncio", "accelerated", False),
    ("asyncio", "aioloop", True),
    ("heap", "replaced", False),
    ("heap", "replaced", True),
)
NETWORK_PAIRS = (
    ("asyncio", "uncorked", False),
    ("asyncio", "uncorked", True),
    ("asyncio", "aioloop", False),
)


# docs/differences.md, "a write is sent when write() returns ... unless other callbacks
# are ready": until then it is in the buffer, and whether the peer is gone is not known.
CORKED = re.compile(r": (drain|look|stream\d+: look) |: (paused|resumed)$")
MARKS = ("'limits'", "'paused'", "'resumed'")
# ... nor has a write failed when the task that wrote does its next step.
GONE = ("'peer_reset'", "'peer_close'")


def tells_of_buffers(program):
    """Return whether what a program does depends on when a write is sent.

    A buffer of the kernel's has less room for several writes than for one of that size.
    """
    text = repr(program["phases"])
    if "'stream_do'" in text and any(mark in text for mark in GONE):
        return True
    return program["kind"] == "network, filled" or any(mark in text for mark in MARKS)


def for_corked(trace):
    return [line for line in trace if not CORKED.search(line)]


class Difference(Exception):
    """A program whose traces are not equal."""

    def __init__(self, program, name, debug, expected, found):
        super().__init__(name)
        self.program = program
        self.name = name
        self.debug = debug
        self.expected = expected
        self.found = found


def compare(program, only=None):
    """Run a program in all modes; return how many operations were compared.

    `only` is one (name, debug). Difference is raised at the first one.
    """
    compared = 0
    traces = {}
    for reference, name, debug in NETWORK_PAIRS if is_network(program) else PAIRS:
        if only not in (None, (name, debug)):
            continue
        if name == "aioloop" and is_network(program) and tells_of_buffers(program):
            continue
        if name == "replaced" and program.get("clock") == "real":
            continue  # then nothing is replaced
        if (reference, debug) not in traces:
            traces[reference, debug] = trace_of(program, reference, debug)
        expected, steps = traces[reference, debug]
        found, _ = trace_of(program, name, debug)
        if name == "aioloop" and is_network(program):
            expected, found = for_corked(expected), for_corked(found)
        compared += steps
        if found != expected:
            raise Difference(program, name, debug, expected, found)
    return compared
