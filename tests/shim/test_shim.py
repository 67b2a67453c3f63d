"""The loop above system calls that go wrong (shim.c): short runs of `make faults`."""

import json
import re
import sys
from pathlib import Path

import pytest

from tests.conftest import HARD, PORTABLE
from tests.shim import faults

SEEDS = "0-7"
LIMIT = 100
TREE = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the library knows Linux"),
    pytest.mark.skipif(faults.compiler() is None, reason="no C compiler here"),
]


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    """Return the variables that preload the library in a child."""
    library = faults.build(tmp_path_factory.mktemp("shim"))
    return {**faults.environment(library), "PYTHONPATH": str(TREE)}


@pytest.mark.skipif(HARD, reason="the hard build's own calls are short already")
@pytest.mark.parametrize(
    "case", ["tcp", "unix", "tls", "pipes", "udp", "letters", "reset"]
)
def test_nothing_is_lost_doubled_or_left(python, shim, case):
    done = python(
        *("-m", "tests.shim.transfer", "--seeds", SEEDS, case), env=shim, timeout=LIMIT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seeds, spoilt = re.search(r"(\d+) seeds, (\d+) calls spoilt", done.stdout).groups()
    assert int(seeds) == 8 and int(spoilt) > 20


PRELUDE = """
import errno, json, os, socket
from tests.shim.faults import Faults
faults = Faults()
one, two = socket.socketpair()
one.setblocking(False)

def receive(times, seed, rules, files=""):
    two.send(b"x" * 10 * (times + 1))
    faults.begin(seed, rules, callers="", files=files)
    results = []
    for _ in range(times):
        try:
            results.append(len(one.recv(10)))
        except OSError as exc:
            results.append(errno.errorcode[exc.errno])
    faults.end()
    one.recv(100_000)
    return results
"""


@pytest.fixture
def spoilt(python, shim):
    """Return a function that gives the value of an expression, with the library."""

    def spoilt(expression):
        program = f"{PRELUDE}\nprint(json.dumps({expression}))"
        done = python("-c", program, env=shim)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return spoilt


def test_exactly_n_of_m_calls_are_spoilt(spoilt):
    runs = spoilt("[receive(300, seed, 'recv:EAGAIN:2/5') for seed in (1, 1, 2)]")
    assert runs[0] == runs[1] != runs[2]
    for run in runs:
        fives = [run[i : i + 5] for i in range(0, len(run), 5)]
        assert all(five.count("EAGAIN") == 2 for five in fives)
        assert len({tuple(five) for five in fives}) == 10  # all there are


def test_one_call_alone_is_spoilt(spoilt):
    assert spoilt("receive(4, 1, 'recv:ECONNRESET:@3')") == [10, 10, "ECONNRESET", 10]
    assert spoilt("[receive(1, 1, 'recv:EINTR:@1'), faults.injected('recv')]") == [
        [10],  # Python asks again
        1,
    ]


def test_a_part_is_moved(spoilt):
    sizes = spoilt("receive(60, 1, 'recv:short:1/2')")
    assert all(1 <= size <= 10 for size in sizes)
    assert sizes.count(10) == 30 and len(set(sizes)) > 2


def test_other_files_and_callers_are_left_alone(spoilt):
    assert spoilt("receive(3, 1, 'recv:EAGAIN:1/1', files='tcp pipe')") == [10] * 3
    assert spoilt("receive(3, 1, 'recv:EAGAIN:1/1', files='unix')") == ["EAGAIN"] * 3
    assert spoilt("receive(3, 1, 'read:EAGAIN:1/1')") == [10] * 3


def test_what_blocks_is_never_refused(spoilt):
    assert spoilt("(one.setblocking(True), receive(3, 1, 'recv:EAGAIN:1/1'))") == [
        None,
        [10] * 3,
    ]


# --- a kernel without room to watch descriptors --------------------------------------

WATCHES = """
import asyncio, json, socket
import aioloop
from tests.shim.faults import Faults
faults = Faults()
texts = []
notes = []
heard = asyncio.Event()
over = asyncio.Event()

class Listens(asyncio.Protocol):
    def data_received(self, data):
        notes.append(["data", data.decode()])
        heard.set()

    def eof_received(self):
        notes.append(["eof"])

    def connection_lost(self, exc):
        notes.append(["lost", exc])
        over.set()

async def main():
    loop = asyncio.get_running_loop()

    def report(loop, context):
        texts.append(context["message"].rstrip("0123456789"))
        texts.append(str(context["exception"]))
        faults.end()

    loop.set_exception_handler(report)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
    faults.begin(1, "epoll_ctl:{fault}", files="tcp")
    await loop.create_connection(Listens, sock=ours)
    peer.send(b"x")
    await heard.wait()
    peer.close()
    await over.wait()
    return [notes, texts, faults.injected("epoll_ctl") > 0]

with asyncio.Runner(loop_factory=aioloop.new_event_loop) as runner:
    print(json.dumps(runner.run(main())))
"""


@pytest.mark.skipif(PORTABLE, reason="this build does not look at epoll")
@pytest.mark.parametrize("fault", ["ENOSPC:1/1", "ENOMEM:@1"])
def test_a_descriptor_that_cannot_be_watched_yet_is_watched_later(python, shim, fault):
    done = python("-c", WATCHES.replace("{fault}", fault), env=shim)
    assert done.returncode == 0, done.stderr
    notes, reports, spoilt = json.loads(done.stdout)
    assert spoilt
    assert notes == [["data", "x"], ["eof"], ["lost", None]]
    if fault == "ENOMEM:@1":
        assert reports == []  # There was room when it was asked for again.
    else:
        message, error = reports
        assert re.fullmatch(r"File descriptor \d+ cannot be watched yet", message)
        assert error == "[Errno 28] No space left on device"
