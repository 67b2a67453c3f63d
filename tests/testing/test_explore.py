"""explore() in several processes (aioloop/testing/_explore.py)."""

import asyncio
import pickle

import pytest

from aioloop import testing

# Programs run in a process of their own, which has one thread: they fork.
START = """
import asyncio, os, signal, sys, time
from aioloop import testing

class Local(Exception):
    pass

class Strange(Exception):
    def __init__(self, one, two):
        super().__init__(one)

"""


@pytest.fixture
def program(python, tmp_path):
    """Return a function that runs a program and returns what it says."""

    def program(source, status=0):
        (tmp_path / "program.py").write_text(START + source)
        done = python("-W", "error", "program.py")
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return program


def test_seeds_are_shared_by_processes(program):
    """Each of the two waits until the other has begun, too."""
    program("""
places = [os.pipe(), os.pipe()]

async def main():
    seed = testing.current_seed()
    if seed < 2:
        os.write(places[seed][1], b"x")
        os.read(places[1 - seed][0], 1)
    assert os.getpid() != parent
    assert seed % 3 != 1, seed

parent = os.getpid()
found = testing.explore(main, seeds=range(200), processes=2)
assert list(found) == [seed for seed in range(200) if seed % 3 == 1]
for seed, error in found.items():
    assert type(error) is AssertionError and error.args == (seed,)
    assert error.__notes__[-1] == f"order='seeded', seed={seed}"
    assert "in main" in str(error.__cause__) and "program.py" in str(error.__cause__)
""")


def test_the_same_is_found_by_any_number_of_processes(program):
    program("""
async def main():
    last = []

    async def write(what):
        await asyncio.sleep(0)
        last.append(what)

    await asyncio.gather(*(write(i) for i in range(3)))
    assert last[-1] == 2, last

found = [
    {seed: error.args for seed, error in testing.explore(main, processes=n).items()}
    for n in (1, 2, 3, None)
]
assert found[0]
assert all(one == found[0] for one in found)
""")


def test_the_first_failure_is_the_first(program):
    """Whoever finds what: it is that of the seed that comes first."""
    program("""
import itertools

async def main():
    seed = testing.current_seed()
    assert seed not in (7, 300, 301, 302), seed

for processes in (1, 2, 3):
    found = testing.explore(
        main, seeds=itertools.count(), first=True, processes=processes
    )
    assert list(found) == [7], found
""")


def test_what_cannot_be_pickled_is_told_by_text(program):
    program("""
async def main():
    class Inner(Exception):
        pass

    seed = testing.current_seed()
    if seed == 0:
        raise Inner("no module has it")
    if seed == 1:
        raise Strange("one", "two")
    if seed == 2:
        raise Local(lambda: None)
    if seed == 3:
        raise Local("fine")

found = testing.explore(main, seeds=range(5), processes=2)
assert list(found) == [0, 1, 2, 3], found
for seed, word in enumerate(["no module has it", "Strange: one", "Local: <function"]):
    assert type(found[seed]) is testing.RemoteError, found[seed]
    assert word in str(found[seed]), found[seed]
    assert found[seed].__notes__[-1] == f"order='seeded', seed={seed}"
assert type(found[3]) is Local and found[3].args == ("fine",)
""")


def test_processes_that_die_are_told_with_their_seeds(program):
    """What they have found before, and what comes behind, is not lost."""
    program("""
async def main():
    seed = testing.current_seed()
    if seed == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == 33:
        os._exit(7)
    if seed == 40:
        signal.raise_signal(signal.SIGILL)  # the sanitizers leave it alone
    assert seed % 5, seed

found = testing.explore(main, seeds=range(60), processes=2)
assert list(found) == sorted({*range(0, 60, 5), 33}), found
lost = {seed: error for seed, error in found.items() if error.args != (seed,)}
assert [str(error).splitlines()[0] for error in lost.values()] == [
    "the process that tried seed 20 died of SIGKILL",
    "the process that tried seed 33 exited with 7",
    "the process that tried seed 40 died of SIGILL",
]
for seed, error in lost.items():
    assert type(error) is testing.ProcessFailed and error.seed == seed
assert "in main" in lost[40].words and "program.py" in lost[40].words
""")


def test_a_process_that_hangs_is_told_with_its_seed_and_place(program):
    program("""
def spin():
    while True:
        pass

async def main():
    if testing.current_seed() == 3:
        spin()

found = testing.explore(main, seeds=range(10), processes=2, timeout=6)
assert 3 in found
assert "tried seed 3 was busy for more than 6 seconds" in str(found[3])
assert "in spin" in found[3].words
""")


def test_what_is_no_error_of_the_program_ends_it(program):
    done = program(
        """
async def main():
    if testing.current_seed() == 3:
        sys.exit("enough")

testing.explore(main, seeds=range(1000), processes=2)
""",
        status=1,
    )
    assert done.stderr.strip().startswith("enough"), done.stderr


def test_nothing_of_the_processes_is_left(program):
    """Nor of what they have started."""
    program("""
fds = set(os.listdir("/proc/self/fd"))

async def main():
    assert testing.current_seed() != 5

read, write = os.pipe()

async def starts_a_child():
    if os.fork() == 0:
        os.close(read)
        time.sleep(3600)
        os._exit(0)

assert list(testing.explore(main, seeds=range(10), processes=3)) == [5]
assert not testing.explore(
    starts_a_child, seeds=range(2), processes=2, leaks=True
)
os.close(write)
assert os.read(read, 1) == b""  # Nobody has the other end.
os.close(read)
assert set(os.listdir("/proc/self/fd")) == fds
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    pass
else:
    raise AssertionError
""")


def test_what_the_program_prints_comes_out(program):
    done = program("""
async def main():
    print(testing.current_seed())

testing.explore(main, seeds=range(20), processes=2)
""")
    assert sorted(map(int, done.stdout.split())) == list(range(20))


BAR = """
class Terminal:
    text = ""
    tty = True

    def isatty(self):
        return self.tty

    def write(self, text):
        self.text += text

    def flush(self):
        pass

async def main():
    assert testing.current_seed() != 5

def bar(processes, tty=True, **options):
    terminal, real = Terminal(), sys.stderr
    terminal.tty = tty
    sys.stderr = terminal
    try:
        testing.explore(main, processes=processes, **options)
    finally:
        sys.stderr = real
    return terminal.text

for n in (1, 2):
    text = bar(n)
    assert text.startswith("\\r[") and text.endswith("\\n"), text
    assert "] 100/100 seeds, 1 fail, " in text.rpartition("\\r")[2], text
    assert "20 seeds, 1 fail" in bar(n, seeds=iter(range(20)))
    assert bar(n, tty=False) == ""
    assert bar(n, progress=False) == ""
    assert "100/100" in bar(n, tty=False, progress=True)
    assert "0 seeds" in bar(n, seeds=[])
"""


def test_the_bar_is_drawn_on_a_terminal(program):
    program(BAR)


def test_several_threads_and_no_number(program):
    """A fork would lose them: all is done here, unless somebody wants it."""
    program("""
import threading
gate = threading.Event()
threading.Thread(target=gate.wait).start()
seen = []

async def main():
    seen.append(testing.current_seed())

try:
    testing.explore(main, seeds=range(3))
finally:
    gate.set()
assert seen == [0, 1, 2]
""")


def test_what_is_refused():
    async def main():
        testing.explore(main)

    with pytest.raises(ValueError, match="processes is at least 1, not 0"):
        testing.explore(main, processes=0)
    with pytest.raises(RuntimeError, match="from a running event loop"):
        asyncio.run(main())


@pytest.mark.parametrize(
    "error",
    [
        testing.ProcessFailed(7, "died of SIGKILL", "in main"),
        testing.LeakedTasks("a text", 2.5, ("first",)),
    ],
)
def test_errors_survive_pickling(error):
    error.add_note("a note")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert vars(again) == vars(error)
