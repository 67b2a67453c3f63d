"""The fuzzer itself: programs that are always the same have equal traces.

``make fuzz`` searches.
"""

import pytest

from tests.conftest import HARD
from tests.fuzz import generate, generate_network, kept, modes, shrink

SEEDS = range(100, 160)
NETWORK_SEEDS = range(100, 140)
BYTES = "the hard build moves one byte at a time: asyncio's buffers are emptier"


@pytest.fixture
def captured():
    with modes.captured():
        yield


@pytest.mark.parametrize("name", list(kept.programs()))
def test_kept_programs_have_equal_traces(captured, name):
    program = kept.programs()[name]
    if HARD and modes.is_network(program):
        pytest.skip(BYTES)
    modes.compare(program)


def test_programs_of_fixed_seeds_have_equal_traces(captured):
    assert sum(modes.compare(generate.Generator(seed).program()) for seed in SEEDS)


@pytest.mark.skipif(HARD, reason=BYTES)
def test_network_programs_of_fixed_seeds_have_equal_traces(captured):
    programs = (generate_network.Generator(seed).program() for seed in NETWORK_SEEDS)
    assert sum(modes.compare(program) for program in programs)


def test_a_seed_gives_the_same_program_and_trace(captured):
    first, second = (generate.Generator(7).program() for _ in range(2))
    assert first == second
    assert modes.trace_of(first, "aioloop", False) == modes.trace_of(
        second, "aioloop", False
    )


def test_a_difference_is_found_and_made_small(captured, monkeypatch):
    """On a loop whose call_soon() leaves out the third callback."""

    def forgetful(clock):
        loop = modes.aioloop_loop(clock)
        call_soon = loop.call_soon
        calls = []

        def call(callback, *args, **keywords):
            if type(getattr(callback, "__self__", callback)).__name__ == "Callback":
                calls.append(callback)
                if len(calls) == 3:
                    callback = int
                    args = ()
            return call_soon(callback, *args, **keywords)

        loop.call_soon = call
        return loop

    monkeypatch.setitem(
        modes.LOOPS, "aioloop", (forgetful, modes.LOOPS["aioloop"][1], False)
    )
    call = ("call_soon", [("log", 1)], None, 0)
    noise = [("log", 5), ("future", "loop"), ("look", 0)]
    nested = ("call_soon", [call, *noise], None, 0)
    body = [*noise, nested, *noise, call, ("log", 7), call]
    program = {"clock": "real", "phases": [("do", noise), ("do", body), ("run",)]}

    def differs(program):
        try:
            modes.compare(program, ("aioloop", False))
        except modes.Difference:
            return True
        return False

    assert differs(program)
    phases = shrink.shrink(program, differs)["phases"]
    assert len(phases) == 1
    assert repr(phases).count("call_soon") == 3
    assert "log" not in repr(phases)
