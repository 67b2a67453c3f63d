"""The stall report where it is hard to make: forks, threads, ends, logging that fails.

test_stall.py has the causes, and the program that these begin with.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

from tests.conftest import needs_watchdog
from tests.diagnosis.test_stall import TOLD, linux

pytestmark = needs_watchdog

PATHS = (
    TOLD
    + """
import os, sys

def nap():
    # Until there is a record, or for much longer than one takes.
    limit = time.monotonic() + 20
    while not seen.is_set() and time.monotonic() < limit:
        time.sleep(0.02)

def another_nap():
    # A stall of one place is told once in a minute.
    limit = time.monotonic() + 20
    while not seen.is_set() and time.monotonic() < limit:
        time.sleep(0.02)

def events():
    return [record["stall"]["event"] for record in records]

def is_told():
    # Runs a loop of its own that is stuck.
    seen.clear()
    records.clear()
    run(nap)
    return seen.is_set()

def tell(**what):
    # In one piece: the log handler prints in another thread.
    print(json.dumps(what) + "\\n", end="", flush=True)

def status_of(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""
)


@pytest.fixture
def paths(tmp_path, python):
    """Return a function that runs a program and returns what it has told, and stderr.

    What its log handler prints is left out: other processes print there too.
    """
    (tmp_path / "told.py").write_text(PATHS)

    def paths(program, *arguments, status=0):
        (tmp_path / "app.py").write_text(
            "from told import *\n" + textwrap.dedent(program)
        )
        done = python("app.py", *arguments, timeout=50)
        assert done.returncode == status, done.stderr
        told = {}
        for line in done.stdout.splitlines():
            entry = json.loads(line)
            if "level" not in entry:
                told |= entry
        return told, done.stderr

    return paths


# --- forks ---------------------------------------------------------------------------


@linux
@pytest.mark.parametrize(
    "fork",
    [
        "pid = os.fork()\n    if pid == 0:\n        os._exit(work())",
        "import multiprocessing\n"
        "    p = multiprocessing.get_context('fork').Process("
        "target=lambda: sys.exit(work()))\n"
        "    p.start()\n"
        "    pid = p.pid",
    ],
    ids=["os.fork", "multiprocessing"],
)
def test_a_child_that_stays_in_the_slot_it_was_forked_in_is_not_stuck(paths, fork):
    told, _ = paths(f"""
def work():
    records.clear()
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        time.sleep(0.01)
    return len(records)

def slot():
    {fork}
    tell(records=status_of(pid))

run(slot)
""")
    assert told == {"records": 0}


@linux
def test_a_child_that_goes_on_with_the_loop_is_watched(paths):
    told, _ = paths("""
        def fork():
            pid = os.fork()
            if pid == 0:
                loop.call_soon(child)
            else:
                tell(told=status_of(pid))
                loop.stop()

        def child():
            nap()
            os._exit(seen.is_set())

        loop = aioloop.new_event_loop()
        loop.stall_threshold = 0.1
        loop.call_soon(fork)
        loop.run_forever()
        loop.close()
    """)
    assert told == {"told": 1}


@linux
def test_another_thread_forks_while_a_loop_is_stuck(paths):
    told, _ = paths("""
        forked = threading.Event()

        def fork():
            seen.wait()
            pid = os.fork()
            if pid == 0:
                status = is_told()
                os._exit(status and all(
                    record["stall"]["thread"] == "thread 'forker'"
                    for record in records))
            tell(child=status_of(pid))
            forked.set()

        thread = threading.Thread(target=fork, name="forker")
        thread.start()
        run(forked.wait)
        thread.join()
        tell(events=[events()[0], events()[-1]])
    """)
    assert told == {"child": 1, "events": ["stuck", "ended"]}


@linux
def test_the_child_of_a_program_that_has_made_a_loop_runs_its_own(paths):
    told, _ = paths("""
        loop = aioloop.new_event_loop()
        loop.stall_threshold = 0.1
        loop.run_until_complete(asyncio.sleep(0))

        pids = []
        for _ in range(2):
            pid = os.fork()
            if pid == 0:
                own = is_told()
                seen.clear()
                loop.call_soon(another_nap)
                loop.call_soon(loop.stop)
                loop.run_forever()
                os._exit(own + 2 * seen.is_set())
            pids.append(pid)
        tell(children=[status_of(pid) for pid in pids], parent=is_told())
        loop.close()
    """)
    assert told == {"children": [3, 3], "parent": True}


@linux
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(paths, method):
    told, _ = paths(f"""
        import multiprocessing

        def work():
            sys.exit(is_told())

        def slot():
            process = context.Process(target=work)
            process.start()
            process.join()
            tell(told=process.exitcode)
            nap()

        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
            run(slot)
            limit = time.monotonic() + 20
            while events()[-1:] != ["ended"] and time.monotonic() < limit:
                time.sleep(0.01)
            tell(parent=events())
    """)
    assert told["told"] == 1
    assert (told["parent"][0], told["parent"][-1]) == ("stuck", "ended")


@linux
@pytest.mark.parametrize("end", ["os._exit(0)", "return"])
def test_a_logging_handler_forks(paths, end):
    """It is in the very thread that is to end before a fork."""
    told, _ = paths(f"""
        def fork():
            began = time.monotonic()
            pid = os.fork()
            if pid == 0:
                {end}
            tell(took=time.monotonic() - began, status=status_of(pid))

        at_first_record.append(fork)
        run(nap)
        tell(first=events())
        # The records of another loop are made by another thread.
        seen.clear()
        run(another_nap)
        tell(second=seen.is_set())
    """)
    assert told["status"] == 0
    assert told["took"] < 2
    assert told["first"][-1] == "ended"
    assert told["second"]


@linux
def test_forks_leave_no_thread_behind(paths):
    """A thread that nobody has joined keeps its stack."""
    told, _ = paths("""
        from pathlib import Path

        def threads():
            names = []
            for task in os.listdir("/proc/self/task"):
                try:
                    names.append(Path(f"/proc/self/task/{task}/comm").read_text())
                except OSError:
                    pass  # It has ended.
            return names

        def stall():
            limit = time.monotonic() + 20
            while "aioloop-caller\\n" not in threads() and time.monotonic() < limit:
                time.sleep(0.005)

        def megabytes():
            status = Path("/proc/self/status").read_text()
            return int(status.split("VmSize:")[1].split()[0]) / 1024

        for i in range(50):
            if i == 5:
                before = megabytes()
            run(stall, threshold=0.02)
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            status_of(pid)
        tell(grown=megabytes() - before)
    """)
    assert told["grown"] < 60


@linux
@pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="the interpreter has to be told before, too"
)
def test_a_fork_in_c_that_tells_the_interpreter_afterwards(paths):
    told, _ = paths("""
        import ctypes

        def slot():
            # Not while a thread begins: a sanitizer's lock would be held for ever.
            time.sleep(0.1)
            pid = ctypes.PyDLL(None).fork()
            if pid == 0:
                ctypes.pythonapi.PyOS_AfterFork_Child()
                asyncio._set_running_loop(None)
                os._exit(is_told())
            tell(child=status_of(pid))

        run(slot, threshold=30)
    """)
    assert told == {"child": 1}


@linux
def test_a_loop_that_begins_to_run_during_a_fork_is_watched(python, tmp_path):
    (tmp_path / "told.py").write_text(PATHS)
    (tmp_path / "app.py").write_text(
        textwrap.dedent("""
        import os, threading

        # What is registered first is called last: the watchdog has ended already.
        at_fork = []
        os.register_at_fork(before=lambda: [function() for function in at_fork])

        from told import *

        runs = threading.Event()

        def stuck():
            runs.set()
            nap()

        def begin():
            at_fork.clear()
            thread.start()
            runs.wait()

        run(int)  # There is a watchdog.
        thread = threading.Thread(target=run, args=[stuck])
        at_fork.append(begin)
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        status_of(pid)
        thread.join()
        assert seen.is_set()
    """)
    )
    done = python("app.py", timeout=50)
    assert done.returncode == 0, done.stderr


# --- threads and interpreters --------------------------------------------------------


@linux
def test_several_loops_are_stuck_at_the_same_time(paths):
    told, _ = paths("""
        def names():
            return {record["stall"]["thread"] for record in records}

        all_told = threading.Event()
        slots = {}
        for i in range(4):
            exec(f"def slot_{i}():\\n    all_told.wait(20)", globals(), slots)
        threads = [threading.Thread(target=run, args=[slot], name=name)
                   for name, slot in slots.items()]
        for thread in threads:
            thread.start()
        limit = time.monotonic() + 20
        while len(names()) < 4 and time.monotonic() < limit:
            time.sleep(0.02)
        all_told.set()
        for thread in threads:
            thread.join()
        tell(stuck=sorted(
            [record["stall"]["thread"], record["stall"]["source"]]
            for record in records if record["stall"]["event"] == "stuck"))
        # The watchdog may be at a stall's first record when its loop has ended.
        while events().count("ended") < 4 and time.monotonic() < limit:
            time.sleep(0.02)
        tell(ended=events().count("ended"))
    """)
    assert told["stuck"] == [
        [f"thread 'slot_{i}'", f"__main__:slot_{i}"] for i in range(4)
    ]
    assert told["ended"] == 4


@linux
def test_many_short_loops_leave_nothing(paths):
    told, _ = paths("""
        import gc

        async def short():
            await asyncio.sleep(0)

        def many():
            for _ in range(100):
                aioloop.run(short(), stall_threshold=0.001)

        threads = [threading.Thread(target=many) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # The system may take a moment to end a thread that has been joined.
        def count():
            return len(os.listdir("/proc/self/task"))

        limit = time.monotonic() + 20
        while count() > 3 and time.monotonic() < limit:
            time.sleep(0.01)
        tell(hooks=len(gc.callbacks), threads=count())
    """)
    assert told["hooks"] == 0
    assert told["threads"] <= 3  # with the ticker and its caller


SUBINTERPRETERS = """
import sys, threading
import aioloop  # 3.12 aborts at its end if only another interpreter imports asyncio

PROGRAM = f'''
import sys
sys.path[:] = {sys.path!r}
from told import *
if not is_told():
    raise RuntimeError("there is no record")
'''

if sys.version_info >= (3, 14):
    from concurrent import interpreters

    def work():
        interpreter = interpreters.create()
        interpreter.exec(PROGRAM)
        interpreter.close()
elif sys.version_info >= (3, 13):
    import _interpreters

    def work():
        interpreter = _interpreters.create()
        error = _interpreters.exec(interpreter, PROGRAM)
        _interpreters.destroy(interpreter)
        if error is not None:
            raise RuntimeError(error.formatted)
else:
    import _xxsubinterpreters

    def work():
        interpreter = _xxsubinterpreters.create()
        _xxsubinterpreters.run_string(interpreter, PROGRAM)
        _xxsubinterpreters.destroy(interpreter)

done = []

def count():
    work()
    done.append(1)

threads = [threading.Thread(target=count) for _ in range(int(sys.argv[1]))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(done))
"""


@linux
@pytest.mark.skipif(
    sys.version_info < (3, 12),
    reason="3.11 destroys no interpreter whose threads have not ended, and its asyncio"
    " takes the loops of other interpreters for its own",
)
@pytest.mark.parametrize("count", [1, 3])
def test_loops_of_several_interpreters(python, tmp_path, count):
    (tmp_path / "told.py").write_text(PATHS)
    (tmp_path / "app.py").write_text(SUBINTERPRETERS)
    done = python("app.py", count, timeout=50)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(count), done.stderr


# --- ends ----------------------------------------------------------------------------


@linux
@pytest.mark.parametrize("wait", ["seen.wait()", "begun.wait()"])
def test_the_main_thread_returns_while_the_loop_of_another_is_stuck(paths, wait):
    told, stderr = paths(f"""
        begun = threading.Event()

        def for_ever():
            begun.set()
            while True:
                time.sleep(0.02)

        threading.Thread(target=run, args=[for_ever], daemon=True).start()
        {wait}
        tell(returned=True)
    """)
    assert told == {"returned": True}
    assert stderr == ""


@linux
@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("sys.exit(3)", 3),
        ("os._exit(4)", 4),
        ("os.kill(os.getpid(), signal.SIGINT)", -2),
    ],
)
def test_a_program_ends_in_a_callback_that_was_stuck(paths, end, status):
    told, _ = paths(
        f"""
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)

        def leave():
            nap()
            tell(told=seen.is_set())
            {end}

        async def main():
            asyncio.get_running_loop().call_soon(leave)
            await asyncio.sleep(0)

        loop = aioloop.new_event_loop()
        loop.stall_threshold = 0.1
        loop.run_until_complete(main())
        """,
        status=status,
    )
    assert told == {"told": True}


@linux
def test_a_loop_is_stuck_at_exit(paths):
    told, _ = paths("""
        import atexit
        atexit.register(lambda: tell(told=is_told()))
    """)
    assert told == {"told": True}


# --- logging -------------------------------------------------------------------------


@linux
@pytest.mark.parametrize("error", ["ValueError", "SystemExit", "KeyboardInterrupt"])
def test_a_logging_handler_raises(paths, error):
    told, stderr = paths(f"""
        def fail():
            seen.set()
            raise {error}("of the handler")

        at_first_record.append(fail)
        run(nap)
        at_first_record.clear()
        seen.clear()
        run(another_nap)
        tell(told=seen.is_set())
    """)
    assert told == {"told": True}
    assert stderr.startswith("Exception ignored in")
    assert f"{error}: of the handler" in stderr


@linux
def test_the_loop_is_stuck_with_the_lock_of_the_logging_handler(paths):
    """A handler that writes to a pipe nobody reads: the record cannot be handled."""
    told, stderr = paths("""
        import select

        handler = logging.getLogger("asyncio").handlers[0]
        reader, writer = os.pipe()
        real = os.dup(2)
        os.dup2(writer, 2)

        def slot():
            with handler.lock:
                select.select([reader], [], [], 20)
                while select.select([reader], [], [], 0.1)[0]:
                    os.write(real, os.read(reader, 4096))

        run(slot)
        os.dup2(real, 2)
        seen.wait(20)
        tell(first=events()[0])
    """)
    assert told["first"] in ("stuck", "was")
    lines = stderr.splitlines()
    assert lines[0].startswith("aioloop: the loop of thread ")
    assert lines[0].endswith(
        "; logging has not taken the record yet, so this stack is approximate:"
    )
    assert lines[-1].endswith(" in slot")


@linux
def test_a_logging_handler_never_returns(paths):
    told, _ = paths("""
        class NoLock:
            def acquire(self):
                pass

            def release(self):
                pass

            def __enter__(self):
                pass

            def __exit__(self, *exc):
                pass

        logging.getLogger("asyncio").handlers[0].lock = NoLock()

        def for_ever():
            seen.set()
            threading.Event().wait()

        at_first_record.append(for_ever)
        run(nap)
        tell(runs=True)
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        tell(forked=status_of(pid) == 0)
        at_first_record.clear()
        seen.clear()
        run(another_nap)
        tell(told=seen.is_set())
    """)
    assert told == {"runs": True, "forked": True, "told": True}


@linux
@pytest.mark.parametrize(
    "damage",
    [
        "sys.stderr = None",
        "logging.Logger.warning = None",
        "logging.getLogger('asyncio').handlers.clear(); logging.lastResort = None",
        "sys.modules['logging'] = sys.modules['threading'] = None",
        "threading.get_ident = threading._active = None",
        "import linecache; linecache.getline = None",
        "asyncio.all_tasks = asyncio.tasks.all_tasks = asyncio.tasks.current_task = 3",
    ],
)
def test_a_program_that_has_replaced_what_the_report_uses_goes_on(paths, damage):
    told, _ = paths(f"""
        saved = threading.get_ident, threading._active, asyncio.tasks.all_tasks
        get_current = asyncio.tasks.current_task

        def slot():
            {damage}
            time.sleep(0.5)
            threading.get_ident, threading._active, asyncio.tasks.all_tasks = saved
            asyncio.all_tasks, asyncio.tasks.current_task = saved[-1], get_current

        run(slot)
        tell(runs=True)
    """)
    assert told == {"runs": True}


@linux
def test_stalls_are_counted_while_a_logging_handler_takes_its_time(paths):
    told, _ = paths("""
        done = threading.Event()

        def wait():
            seen.set()
            done.wait(20)

        at_first_record.append(wait)

        async def main():
            loop = asyncio.get_running_loop()
            nap()
            await asyncio.sleep(0)
            before = loop.metrics().stalls
            for _ in range(3):
                limit = time.monotonic() + 20
                known = loop.metrics().stalls
                while loop.metrics().stalls == known and time.monotonic() < limit:
                    time.sleep(0.02)
                await asyncio.sleep(0)
            tell(stalls=loop.metrics().stalls - before, records=len(records))
            done.set()

        aioloop.run(main(), stall_threshold=0.1)
    """)
    assert told == {"stalls": 3, "records": 1}


# --- standard error ------------------------------------------------------------------

# A C function keeps the GIL until the ticker has given up, or for ever.
KEEPS_GIL = """
import ctypes
usleep = ctypes.PyDLL(None).usleep

def keep():
    usleep(1_600_000)
"""
WRITES_THERE = """
os.dup2(writer, 2)
run(keep)
tell(runs=True)
os._exit(0)
"""


@linux
@pytest.mark.parametrize("blocks", [True, False])
def test_a_full_pipe_as_standard_error(paths, blocks):
    told, _ = paths(
        KEEPS_GIL
        + f"""
reader, writer = os.pipe()
os.set_blocking(writer, False)
try:
    while True:
        os.write(writer, bytes(4096))
except BlockingIOError:
    pass
os.set_blocking(writer, {blocks})
"""
        + WRITES_THERE
    )
    assert told == {"runs": True}


@linux
def test_a_pipe_that_nobody_reads_as_standard_error(paths):
    told, _ = paths(
        KEEPS_GIL
        + """
reader, writer = os.pipe()
os.close(reader)
"""
        + WRITES_THERE
    )
    assert told == {"runs": True}


@linux
@pytest.mark.parametrize("when", ["at the start", "before the run", "in the run"])
def test_the_number_of_standard_error_is_another_file(
    python, tmp_path, child_env, when
):
    (tmp_path / "told.py").write_text(PATHS)
    (tmp_path / "app.py").write_text(
        f"""
from told import *
when = {when!r}
data = None

def take():
    global data
    if when == "in the run": # The watchdog's thread may open a file, too.
        file = os.open("data", os.O_CREAT | os.O_WRONLY)
        data = os.dup2(file, 2)
        os.close(file)
        return
    if when != "at the start":
        os.close(2)
    data = os.open("data", os.O_CREAT | os.O_RDWR)
    assert data == 2

def slot():
    if when == "in the run":
        take()
    keep()

if when != "in the run":
    take()
{KEEPS_GIL}
run(slot)
assert os.stat("data").st_size == 0
tell(runs=True)
"""
    )
    script = 'exec "$0" app.py' + (" 2>&-" if when == "at the start" else "")
    if when == "at the start":
        done = subprocess.run(
            ["sh", "-c", script, sys.executable],
            cwd=tmp_path,
            env=child_env(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=50,
        )
    else:
        done = python("app.py", timeout=50)
    assert done.returncode == 0
    assert '{"runs": true}' in done.stdout


# --- thresholds ----------------------------------------------------------------------


def test_thresholds_that_make_no_sense(loop):
    loop.stall_threshold = 0.25
    for wrong in ("0.5", b"1", [], object(), 1j):
        with pytest.raises(TypeError):
            loop.stall_threshold = wrong
    for wrong in (0, -0.0, -1, float("nan")):
        with pytest.raises(ValueError, match="must be positive"):
            loop.stall_threshold = wrong
    with pytest.raises(OverflowError):
        loop.stall_threshold = 10**400
    assert loop.stall_threshold == 0.25
    for huge in (1e300, float("inf")):
        loop.stall_threshold = huge
        assert loop.stall_threshold == float("inf")
    loop.stall_threshold = 1e-300
    assert 0 < loop.stall_threshold <= 1e-9


@linux
@pytest.mark.parametrize("threshold", [1e-300, 1e-6])
def test_a_tiny_threshold_does_not_keep_a_processor_busy(paths, threshold):
    told, _ = paths(f"""
        logging.getLogger("asyncio").disabled = True

        async def main():
            loop = asyncio.get_running_loop()
            before = time.process_time()
            await asyncio.sleep(0.5)
            tell(used=time.process_time() - before)
            before = loop.metrics().stalls
            await asyncio.sleep(0)  # This one may have been counted already.
            time.sleep(0.1)
            await asyncio.sleep(0)
            tell(stalls=loop.metrics().stalls - before)

        aioloop.run(main(), stall_threshold={threshold})
    """)
    assert told["used"] < 0.1
    assert told["stalls"] >= 1


@linux
def test_a_huge_threshold(paths):
    told, _ = paths("""
        run(lambda: time.sleep(0.2), threshold=1e300)
        tell(records=len(records))
    """)
    assert told == {"records": 0}


@linux
def test_another_thread_sets_the_threshold_of_a_loop_that_is_stuck(paths):
    told, _ = paths("""
        loops = []
        begun = threading.Event()

        def slot():
            loops.append(asyncio.get_running_loop())
            begun.set()
            nap()

        def change():
            begun.wait()
            loops[0].stall_threshold = 0.1

        thread = threading.Thread(target=change)
        thread.start()
        run(slot, threshold=None)
        thread.join()
        tell(events=[events()[0], events()[-1]])
    """)
    assert told == {"events": ["stuck", "ended"]}


@linux
def test_a_watch_that_is_switched_off_does_not_say_that_the_loop_runs(paths):
    told, _ = paths("""
        loops = []
        off = threading.Event()

        def slot():
            loops.append(asyncio.get_running_loop())
            off.wait(20)
            off.clear()

        def switch_off():
            seen.wait(20)
            loops[0].stall_threshold = None
            tell(events=events())
            off.set()

        thread = threading.Thread(target=switch_off)
        thread.start()
        run(slot)
        thread.join()
        tell(last=events()[-1])
    """)
    assert told["events"][0] == "stuck"
    assert "ended" not in (*told["events"], told["last"])


# --- stacks --------------------------------------------------------------------------


@linux
@pytest.mark.parametrize("depth", [150, 10_000, 30_000])
def test_a_very_deep_stack(paths, depth):
    told, _ = paths(f"""
        sys.setrecursionlimit(10**6)
        threading.stack_size(256 * 2**20)

        def deep(n):
            if n:
                return deep(n - 1)
            nap()

        thread = threading.Thread(target=run, args=[lambda: deep({depth})])
        thread.start()
        thread.join()
        tell(text=records[0]["text"], stall=records[0]["stall"])
    """)
    stall, lines = told["stall"], told["text"].splitlines()
    assert len(lines) < 20
    assert stall["stack"][-1]["function"] == "nap"
    assert stall["stack"][-2]["function"] == "deep"
    if depth == 150:
        assert "  ... 149 more of the same ..." in lines
        assert stall["left_out"] == 0
    elif stall["exact"]:
        assert len(stall["stack"]) == 200
        if depth == 10_000 - 1:
            assert stall["left_out"] == depth + 4 - 200
        assert lines[2].startswith("  ... ")
        assert lines[2].endswith("more frames ...")


@linux
def test_generators_and_coroutines(paths):
    told, _ = paths("""
        def inner():
            nap()
            yield

        def outer():
            yield from inner()

        async def work():
            [None for _ in outer()]

        aioloop.run(work(), stall_threshold=0.1)
        tell(functions=[frame["function"] for frame in records[0]["stall"]["stack"]])
    """)
    functions = [name for name in told["functions"] if not name.startswith("<")]
    assert functions == ["work", "outer", "inner", "nap"]


@linux
def test_greenlets(paths):
    pytest.importorskip("greenlet")
    told, _ = paths("""
        import greenlet

        def inside():
            nap()

        def slot():
            greenlet.greenlet(inside).switch()

        run(slot)
        functions = [frame["function"] for frame in records[0]["stall"]["stack"]]
        tell(inner=functions[-2:], told=events())
    """)
    assert told["inner"] == ["inside", "nap"]
    assert told["told"][-1] == "ended"


@linux
def test_functions_that_go_while_they_are_read(paths):
    """The stack is read all the time, of code that does not live long."""
    told, _ = paths("""
        import itertools

        logging.getLogger("asyncio").disabled = True
        end = time.monotonic() + 2

        def slot(serial=itertools.count()):
            until = time.monotonic() + 0.02
            while time.monotonic() < until:
                name = f"f_{next(serial)}" + "\\u03b1" * (next(serial) % 50)
                space = {}
                body = f"def {name}(n):\\n" + "\\n" * 300 + (
                    f"    return {name}(n - 1) if n else 0\\n"
                    f"def gen():\\n    yield {name}(30)\\n"
                    f"list(gen())\\n")
                exec(compile(body, name * 3, "exec"), space)
                space.clear()

        async def main():
            while time.monotonic() < end:
                slot()
                await asyncio.sleep(0)
            tell(stalls=asyncio.get_running_loop().metrics().stalls > 0)

        threads = [
            threading.Thread(
                target=lambda: aioloop.run(main(), stall_threshold=0.001))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    """)
    assert told == {"stalls": True}


# --- what stops a thread -------------------------------------------------------------


@linux
def test_a_thread_that_a_debugger_stops_is_not_stuck(paths):
    told, _ = paths("""
        import ctypes, subprocess

        # PR_SET_PTRACER: anybody may.
        ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)

        tracer = subprocess.Popen([sys.executable, "-c", f'''if True:
            import ctypes, os, sys, time
            libc = ctypes.CDLL(None, use_errno=True)
            libc.ptrace.argtypes = [ctypes.c_long] * 4
            print("ready", flush=True)
            sys.stdin.readline()
            if libc.ptrace(16, {os.getpid()}, 0, 0) < 0:  # PTRACE_ATTACH
                print("refused", flush=True)
                sys.exit()
            os.waitpid({os.getpid()}, 0)
            time.sleep(2)
            libc.ptrace(17, {os.getpid()}, 0, 0)
            print("let go", flush=True)
        '''], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        tracer.stdout.readline()

        def slot():
            print(file=tracer.stdin, flush=True)
            tell(tracer=tracer.stdout.readline().strip())

        run(slot, threshold=1)
        tracer.communicate()
        tell(records=len(records))
    """)
    if told["tracer"] == "refused":
        pytest.skip("no process may be traced here")
    assert told == {"tracer": "let go", "records": 0}
