"""The loop above system calls that go wrong (shim.c): short runs of `make faults`."""

import json
import os
import re
import subprocess
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


@pytest.mark.skipif(
    "AIOLOOP_FLAVOUR" in os.environ, reason="their tests know one flavour at a time"
)
@pytest.mark.timeout(300)
def test_the_tests_of_the_network_pass():
    # Each version has a seed of its own; `make faults` runs more, and asyncio's tests.
    seed = str(sys.version_info[1])
    command = [sys.executable, "-m", "tests.shim.suite", "--seeds", seed]
    done = subprocess.run(
        [*command, "--only", "ours"], cwd=TREE, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed, spoilt = re.search(r"(\d+) passed.*; (\d+) calls", done.stdout).groups()
    assert int(passed) > 800 and int(spoilt) > 20_000


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


# --- what is opened, where no descriptor is left --------------------------------------

NEW_LOOP = """
import asyncio, errno, json, os
import aioloop
from tests.shim.faults import Faults
faults = Faults()

def descriptors():
    return sorted(os.listdir("/proc/self/fd"))

async def main():
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.sleep(0.01)
    await loop.run_in_executor(None, int)
    return loop.time() - began >= 0.01

before = descriptors()
faults.begin(1, "{call}:{fault}:@1")
try:
    loop = aioloop.new_event_loop()
except OSError as exc:
    print(json.dumps([errno.errorcode[exc.errno], faults.injected("{call}")]))
else:
    print(json.dumps(["no error", faults.injected("{call}")]))
    loop.close()
faults.end()
assert descriptors() == before, (before, descriptors())
assert aioloop.run(main())
assert descriptors() == before
"""


@pytest.mark.skipif(PORTABLE, reason="this build has no timerfd")
@pytest.mark.parametrize("fault", ["EMFILE", "ENFILE", "ENOMEM"])
@pytest.mark.parametrize("call", ["epoll_create1", "timerfd_create", "pipe"])
def test_a_loop_that_cannot_be_made_leaves_nothing(python, shim, call, fault):
    program = NEW_LOOP.replace("{call}", call).replace("{fault}", fault)
    done = python("-c", program, env=shim)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [fault, 1]


CHILD = """
import asyncio, errno, json, os, warnings
import aioloop
from asyncio.subprocess import PIPE
from tests.shim.faults import ASYNCIO, OURS, Faults
faults = Faults()
reports = []

async def cat():
    process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    out, _ = await process.communicate(b"text")
    return [out.decode(), process.returncode]

async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: reports.append(str(context)))
    await cat()  # What is opened once is open.
    before = len(os.listdir("/proc/self/fd"))
    faults.begin(1, "{rules}", f"{OURS} {ASYNCIO}")
    try:
        result = await cat()
    except OSError as exc:
        result = errno.errorcode[exc.errno]
    spoilt = faults.injected()
    faults.end()
    after = len(os.listdir("/proc/self/fd"))
    assert await cat() == ["text", 0]
    try:
        left = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        left = None
    return [result, spoilt, after - before, left, reports]

if {early}:
    faults.begin(1, "{rules}", f"{OURS} {ASYNCIO}")
with asyncio.Runner(loop_factory=aioloop.new_event_loop) as runner:
    print(json.dumps(runner.run(main())))
"""


def child(python, shim, rules, early=False):
    """Start a process by these rules; return what came of it and the faults' number."""
    program = CHILD.replace("{rules}", rules).replace("{early}", str(early))
    done = python("-c", program, env=shim)
    assert done.returncode == 0 and not done.stderr, done.stderr
    result, spoilt, descriptors, process, reports = json.loads(done.stdout)
    assert (descriptors, process, reports) == (0, None, [])
    return result, spoilt


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_process_without_room_for_its_pipes_leaves_nothing(python, shim, number):
    result, spoilt = child(python, shim, f"pipe:EMFILE:@{number}")
    assert result == ("EMFILE" if spoilt else ["text", 0])
    assert spoilt == 1 or number > 1


def test_a_process_without_process_descriptors_is_waited_for(python, shim):
    # From the beginning: asyncio asks once whether there are any.
    result, _ = child(python, shim, "pidfd_open:ENOSYS:1/1", early=True)
    assert result == ["text", 0]


@pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="asyncio's own code, which leaves the process"
)
@pytest.mark.parametrize("number", [1, 2])
def test_a_process_gets_a_thread_where_no_descriptor_is_left(python, shim, number):
    result, spoilt = child(python, shim, f"pidfd_open:EMFILE:@{number}")
    assert (result, spoilt) == (["text", 0], 1)
