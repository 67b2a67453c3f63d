"""Programs that close descriptors which are not theirs, or open files in their place.

Daemonizing programs close everything (os.closerange), and a second close of a number
hits whoever has it now. asyncio raises OSError then. Here libev would end the process,
and no file of the program may be closed, read or written by the loop instead.
"""

import sys

import pytest

import aioloop
from tests.conftest import PORTABLE

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="finds the descriptors in /proc/self/fd"
)
needs_timerfd = pytest.mark.skipif(PORTABLE, reason="this build has no timerfd")
needs_epoll = pytest.mark.skipif(PORTABLE, reason="this build does not look at epoll")

PREAMBLE = """
import asyncio, errno, os, socket, sys, threading, time
import aioloop

def descriptors():
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass  # the one used to look
    return found

def new_loop(make):
    before = descriptors()
    loop = make()
    groups = {}
    for number, file in sorted(descriptors().items()):
        if number not in before:
            kinds = ("eventpoll", "timerfd", "pipe", "socket")
            key = next(kind for kind in kinds if kind in file)
            groups.setdefault(key, []).append(number)
    return loop, groups

for _ in range(8):
    os.dup(0)  # The loop's numbers are not the least ones.
asyncio.run(asyncio.sleep(0))
"""


@pytest.fixture
def program(python):
    """Return a function that runs a program and returns the lines that it printed."""

    def program(text, *arguments):
        done = python("-c", PREAMBLE + text, *arguments)
        assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
        assert "(libev)" not in done.stderr and "Assertion" not in done.stderr
        return done.stdout.split("\n")[:-1]

    return program


# --- closed while the loop runs -----------------------------------------------------


@needs_epoll
@pytest.mark.parametrize("then", ["sleep", "connect", "executor", "read"])
def test_everything_is_closed_under_a_running_loop(program, then):
    """run_forever raises asyncio's OSError, whatever comes next."""
    lines = program(
        """
then = sys.argv[1]
loop, _ = new_loop(aioloop.new_event_loop)

async def main():
    await asyncio.sleep(0.001)
    os.closerange(3, 1000)
    if then == "connect":
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        await asyncio.open_connection(sock=ours)
    elif then == "executor":
        await loop.run_in_executor(None, time.sleep, 0.01)
    elif then == "read":
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        await loop.sock_recv(ours, 10)
    await asyncio.sleep(0.01)

main = loop.create_task(main())
for _ in range(2):
    try:
        loop.run_until_complete(asyncio.wait([main], timeout=5))
    except (OSError, ValueError) as exc:
        print(type(exc).__name__, getattr(exc, "errno", None))
sys.stdout.flush()
os._exit(0)
""",
        then,
    )
    assert lines == ["OSError 9"] * 2


@pytest.mark.parametrize("how", ["close", "null", "socket"])
@pytest.mark.parametrize("what", ["eventpoll", "timerfd", "pipe"])
def test_one_descriptor_is_closed_or_replaced(program, what, how):
    if PORTABLE and what == "timerfd":
        pytest.skip("this build has no timerfd")
    lines = program(
        """
what, how = sys.argv[1:]
loop, numbers = new_loop(aioloop.new_event_loop)

def hurt(number):
    if how == "close":
        os.close(number)
    elif how == "null":
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, number)
    else:
        pair = socket.socketpair()
        os.dup2(pair[0].fileno(), number)
        pair[1].send(b"hello")
        kept.append(pair)

async def main():
    await asyncio.sleep(0.001)
    hurt(numbers[what][0])
    began = time.monotonic()
    await asyncio.sleep(0.05)
    print("slept", 0.05 <= time.monotonic() - began < 5)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    loop.call_later(0.01, theirs.send, b"x")
    print(await loop.sock_recv(ours, 10))
    began = time.process_time()
    await asyncio.sleep(0.1)
    print("idle", time.process_time() - began < 0.05)

kept = []
try:
    loop.run_until_complete(asyncio.wait_for(main(), 20))
except OSError as exc:
    print(type(exc).__name__, errno.errorcode[exc.errno])
main = None
loop.close()
for ours, theirs in kept:
    print(ours.recv(100))  # Nobody else has read it.
sys.stdout.flush()
os._exit(0)
""",
        what,
        how,
    )
    if what == "eventpoll":
        expected = ["OSError " + ("EBADF" if how == "close" else "EINVAL")]
    else:
        expected = ["slept True", "b'x'", "idle True"]
    assert lines == expected + (["b'hello'"] if how == "socket" else [])


@needs_timerfd
def test_the_timerfd_is_closed_while_the_loop_waits(program):
    """Nothing tells of it; the selector's own time-out is a little later."""
    lines = program("""
loop, numbers = new_loop(aioloop.new_event_loop)

def close():
    # The loop has armed the timer, or does so later and finds out.
    time.sleep(0.01)
    os.close(numbers["timerfd"][0])

async def main():
    began = time.monotonic()
    threading.Thread(target=close).start()
    await asyncio.sleep(0.2)
    print(0.2 <= time.monotonic() - began < 5)

loop.run_until_complete(main())
loop.close()
""")
    assert lines == ["True"]


@needs_timerfd
@pytest.mark.parametrize("what", ["timerfd", "pipe"])
def test_a_connection_gets_the_number(program, what):
    """What comes on it is the connection's, to the last byte."""
    lines = program(
        """
loop, numbers = new_loop(aioloop.new_event_loop)
number = numbers[sys.argv[1]][0]

async def main():
    await asyncio.sleep(0.001)
    os.close(number)
    fillers = []
    while True:
        ours, theirs = socket.socketpair()
        if number in (ours.fileno(), theirs.fileno()):
            break
        fillers.append((ours, theirs))
    if theirs.fileno() == number:
        ours, theirs = theirs, ours
    reader, writer = await asyncio.open_connection(sock=ours)
    received = b""
    for i in range(20):
        theirs.send(b"12345678abc%d," % i)
        received += await reader.readuntil(b",")
        await asyncio.sleep(0.001)
    print(received == b"".join(b"12345678abc%d," % i for i in range(20)))
    writer.close()
    await writer.wait_closed()

loop.run_until_complete(asyncio.wait_for(main(), 20))
loop.close()
""",
        what,
    )
    assert lines == ["True"]


# --- files of the program in the place of ours ---------------------------------------

OPEN_FILES = """
def open_files(numbers):
    '''Open a file in the place of each number, and return what it is checked with.'''
    files = {}
    for number in sorted(n for group in numbers.values() for n in group):
        path = f"file{number}"
        opened = os.open(path, os.O_RDWR | os.O_CREAT)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        os.write(number, b"mine")
        files[number] = path
    return files

def check_files(files):
    for number, path in files.items():
        os.write(number, b"!")  # It is open still, and the same.
        with open(path, "rb") as file:
            assert file.read() == b"mine!", path
    return "untouched"
"""


@needs_epoll
@pytest.mark.parametrize("end", ["close", "wake", "drop"])
def test_files_in_the_place_of_our_descriptors_are_left_alone(program, end):
    lines = program(
        OPEN_FILES
        + """
loop, numbers = new_loop(aioloop.new_event_loop)
loop.run_until_complete(asyncio.sleep(0.001))
os.closerange(10, 1000)
files = open_files(numbers)
try:
    if sys.argv[1] == "wake":
        loop.call_soon_threadsafe(print)
    loop.run_until_complete(asyncio.sleep(0.001))
except OSError as exc:
    print("OSError")
if sys.argv[1] == "drop":
    loop._closed = True
    del loop
    import gc
    gc.collect()
else:
    loop.close()
print(check_files(files))
""",
        end,
    )
    assert lines == ["OSError", "untouched"]


def test_another_thread_schedules_when_the_pipe_has_gone(program):
    """A wake-up writes into no file of the program."""
    lines = program(
        OPEN_FILES
        + """
loop, numbers = new_loop(aioloop.new_event_loop)

async def main():
    os.close(numbers["pipe"][1])
    files = open_files({"pipe": numbers["pipe"][1:2]})
    for _ in range(5):
        threading.Timer(0.01, loop.call_soon_threadsafe, (int,)).start()
        await asyncio.sleep(0.03)
    print(check_files(files))

loop.run_until_complete(main())
loop.close()
""",
    )
    assert lines == ["untouched"]


# --- after a fork -------------------------------------------------------------------

IN_CHILD = """
loop, numbers = new_loop(aioloop.new_event_loop)
ours, theirs = socket.socketpair()
ours.setblocking(False)
loop.add_reader(ours, print, "readable")
loop.run_until_complete(asyncio.sleep(0.001))

def in_child(function):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            sys.stdout.flush()
            os._exit(status)
    print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

async def use():
    await asyncio.sleep(0.01)
    await loop.run_in_executor(None, time.sleep, 0.01)
    one, other = socket.socketpair()
    one.setblocking(False)
    loop.call_later(0.01, other.send, b"x")
    return await loop.sock_recv(one, 10)
"""


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("least", [3, 11])
def test_a_child_closes_everything_and_goes_on(program, least):
    lines = program(
        IN_CHILD
        + """
def child():
    os.closerange(int(sys.argv[1]), 1000)
    print(loop.run_until_complete(asyncio.wait_for(use(), 20)), flush=True)
    loop.close()

in_child(child)
print(loop.run_until_complete(asyncio.wait_for(use(), 20)))
loop.remove_reader(ours)
loop.close()
""",
        str(least),
    )
    assert lines == ["b'x'", "child 0", "b'x'"]


@needs_epoll
def test_a_child_closes_everything_and_opens_files(program):
    lines = program(
        OPEN_FILES
        + IN_CHILD
        + """
def child():
    os.closerange(3, 1000)
    files = open_files(numbers)
    for _ in range(2):
        try:
            loop.run_until_complete(asyncio.wait_for(use(), 20))
        except OSError as exc:
            print(errno.errorcode[exc.errno], flush=True)
    loop.close()
    print(check_files(files), flush=True)

in_child(child)
print(loop.run_until_complete(asyncio.wait_for(use(), 20)))
loop.remove_reader(ours)
loop.close()
""",
    )
    assert lines == ["EBADF", "EBADF", "untouched", "child 0", "b'x'"]


# --- a kernel object that libev makes anew -------------------------------------------


def test_an_event_of_a_file_that_lives_on_elsewhere(program):
    """libev makes an epoll anew and tells it of all numbers, also of closed ones."""
    lines = program("""
loop, numbers = new_loop(aioloop.new_event_loop)

async def wait_for_a_while(sock):
    try:
        await asyncio.wait_for(loop.sock_recv(sock, 10), 0.001)
    except TimeoutError:
        pass

def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return ours, theirs

async def main():
    # A watcher stays registered behind an operation; this number is then closed.
    fillers = [socket.socketpair() for _ in range(3)]
    closed, _ = kept = pair()
    await wait_for_a_while(closed)
    # This file lives on as a copy, while its number is another's.
    one, one_peer = pair()
    await wait_for_a_while(one)
    copy, number = os.dup(one.fileno()), one.fileno()
    one.close()
    two, two_peer = pair()
    assert two.fileno() == number
    waiting = asyncio.ensure_future(loop.sock_recv(two, 10))
    await asyncio.sleep(0)
    closed.close()
    one_peer.send(b"for the copy")
    await asyncio.sleep(0.02)
    two_peer.send(b"2")
    print(await waiting)
    # And the new epoll is known as the loop's own.
    for _ in range(3):
        three, three_peer = pair()
        loop.call_later(0.001, three_peer.send, b"y")
        print(await loop.sock_recv(three, 10))
    print(os.read(copy, 100))

loop.run_until_complete(asyncio.wait_for(main(), 20))
loop.close()
""")
    assert lines == ["b'2'"] + ["b'y'"] * 3 + ["b'for the copy'"]


def test_another_loop_is_not_disturbed():
    """Loops look for their epoll among the numbers; each finds its own."""
    loops = [aioloop.new_event_loop() for _ in range(5)]
    seen = []
    for loop in loops * 2:
        loop.call_later(0.001, seen.append, loop)
        loop.call_later(0.002, loop.stop)
        loop.run_forever()
    for loop in loops:
        loop.close()
    assert seen == loops * 2
