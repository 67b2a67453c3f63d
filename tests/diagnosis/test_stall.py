"""A loop that is stuck is reported while it is, with the place and the cause.

Each program blocks its loop in one way until its log handler has seen the record, or,
where nothing can run meanwhile, for longer than the threshold.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from tests.conftest import PORTABLE, needs_watchdog

pytestmark = needs_watchdog

linux = pytest.mark.skipif(
    PORTABLE or not os.path.exists("/proc/self/task"),
    reason="the kernel's part is Linux's",
)

TOLD = """
import asyncio, json, logging, threading, time
from pathlib import Path
import aioloop

THRESHOLD = 0.1
seen = threading.Event()
at_first_record = []
records = []
main_thread = threading.get_native_id()
began = None

def clocks():
    # Of the main thread: what it has run and what has passed, in seconds.
    file = Path(f"/proc/self/task/{main_thread}/schedstat")
    ran = int(file.read_text().split()[0]) / 1e9 if file.exists() else 0
    return ran, time.monotonic()

class Told(logging.Handler):
    def emit(self, record):
        stall = getattr(record, "loop_stall", None)
        entry = {"text": record.getMessage(), "level": record.levelname,
                 "thread": record.threadName, "stall": stall}
        if began is not None:
            (ran, wall), (ran_before, wall_before) = clocks(), began
            entry["share"] = (ran - ran_before) / (wall - wall_before)
        records.append(entry)
        print(json.dumps(entry) + "\\n", end="", flush=True)
        if not seen.is_set():
            for function in at_first_record:
                function()
            seen.set()

logging.getLogger("asyncio").addHandler(Told())
logging.getLogger("asyncio").propagate = False

async def in_task(function):
    await asyncio.sleep(0)
    global began
    began = clocks()
    function()

async def main(function):
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(in_task(function), name="job")
    other = asyncio.create_task(asyncio.sleep(3600), name="other")
    await asyncio.sleep(0)
    loop.call_soon(int)
    await task
    other.cancel()

def run(function, threshold=THRESHOLD):
    aioloop.run(main(function), stall_threshold=threshold)
"""


@pytest.fixture
def told(tmp_path, python):
    """Return a function that runs a program and returns what its log handler got."""
    (tmp_path / "told.py").write_text(TOLD)

    def told(program, *arguments, env=None, stderr=""):
        (tmp_path / "app.py").write_text(textwrap.dedent(program))
        done = python(*arguments, "app.py", env=env, timeout=30)
        assert done.returncode == 0, done.stderr
        if stderr is not None:
            assert done.stderr == stderr
            return [json.loads(line) for line in done.stdout.splitlines()]
        return [json.loads(line) for line in done.stdout.splitlines()], done.stderr

    return told


NEED_A_PROCESSOR = ("running Python", "C call", "garbage collection")


def check(records, cause, function, place=True):
    """Check what all records have in common; return the first one's fields."""
    first, last = records[0], records[-1]
    stall = first["stall"]
    assert first["level"] == "WARNING"
    sentence = first["text"].splitlines()[0]
    assert sentence.startswith(
        ("The loop has been stuck for ", "The loop was stuck for ")
    )
    assert sentence.endswith(".")
    if stall["cause"] == "not scheduled" != cause:
        # Other programs had the processor: the record has to be right in this.
        assert cause in NEED_A_PROCESSOR, first["text"]
        assert first["share"] < 0.75, (first["share"], first["text"])
        pytest.skip(f"the program had {first['share']:.0%} of a processor only")
    assert stall["cause"] == cause, first["text"]
    assert stall["words"] in sentence
    assert stall["seconds"] >= 0.1
    if place:
        assert stall["place"].startswith("app.py:"), first["text"]
        assert stall["place"].endswith(f" in {function}"), first["text"]
        assert stall["source"] == f"__main__:{function}"
        assert f" in {function}" in sentence
        frames = [frame["function"] for frame in stall["stack"]]
        if stall["exact"]:
            assert frames[0] == "in_task"
        assert function in frames
    if place and stall["event"] == "stuck":
        assert last["stall"]["event"] == "ended"
        assert last["text"].startswith("The loop runs again after ")
        # The first record may be made a little after the end, where others are busy.
        assert last["stall"]["seconds"] >= stall["seconds"] / 2
        assert stall["task"] == "job"
        assert "in task 'job'" in sentence
        assert stall["tasks"] == 2
        assert "2 other tasks and 1 ready callback wait." in first["text"]
    return stall


def test_it_is_told_again_when_twice_the_time_has_passed(told):
    """Whoever is late for the first report is not late for the second."""
    records = told("""
        from told import *
        def blocks():
            while len(records) < 2:
                time.sleep(0.01)
        run(blocks, 1.0)
    """)
    first, second, last = (record["stall"] for record in records)
    assert (first["event"], last["event"]) == ("stuck", "ended")
    assert 1.0 <= first["seconds"] < second["seconds"] <= last["seconds"]
    assert 2.0 <= second["seconds"] < 4.0  # 4 is the next doubling.


@linux
def test_a_loop_of_python_code(told):
    records = told("""
        from told import *

        def crunch():
            n = 0
            while not seen.is_set():
                n += 1

        run(crunch)
    """)
    stall = check(records, "running Python", "crunch")
    assert stall["keeps_gil"]
    assert stall["exact"]


@linux
def test_a_loop_without_a_body(told):
    # The one instruction of such a loop does not move, like that of a C call.
    records = told("""
        from told import *

        class Over(Exception):
            pass

        def interrupt():
            import ctypes
            ident = ctypes.c_ulong(threading.main_thread().ident)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(Over))

        def crunch():
            try:
                while True:
                    pass
            except Over:
                pass

        at_first_record.append(interrupt)
        run(crunch)
    """)
    check(records, "running Python", "crunch")


@linux
def test_time_sleep(told):
    records = told("""
        from told import *

        def nap():
            while not seen.is_set():
                time.sleep(0.05)

        run(nap)
    """)
    stall = check(records, "system call", "nap")
    assert stall["system_call"] == "clock_nanosleep"
    assert stall["words"] == "in the system call clock_nanosleep"
    assert not stall["keeps_gil"]
    sentence = records[0]["text"].splitlines()[0]
    assert "at app.py:6 in nap, `time.sleep(0.05)`: in the system call" in sentence
    assert records[0]["thread"].startswith("Dummy-")


@linux
def test_recv_names_the_peer(told):
    records = told("""
        from told import *
        import socket

        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname())
        other, _ = server.accept()
        print(json.dumps([client.fileno(), "peer %s:%d" % server.getsockname()]))
        at_first_record.append(lambda: other.send(b"x"))

        def fetch():
            client.recv(1)

        run(fetch)
    """)
    fd, peer = records.pop(0)
    stall = check(records, "system call", "fetch")
    assert stall["system_call"] == "recvfrom"
    assert stall["descriptor"] == fd
    assert stall["descriptor_is"] == peer
    assert stall["words"] == f"in the system call recvfrom on descriptor {fd} ({peer})"


@linux
@pytest.mark.parametrize("timeout", [60, None])
def test_a_client_that_waits_for_an_answer(told, timeout):
    records = told(f"""
        from told import *
        import http.client, socket

        server = socket.create_server(("127.0.0.1", 0))
        host, port = server.getsockname()

        def answer():
            def answer():
                connection, _ = server.accept()
                connection.recv(1000)
                connection.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n")
                connection.close()
            threading.Thread(target=answer).start()

        at_first_record.append(answer)

        def fetch():
            connection = http.client.HTTPConnection(host, port, timeout={timeout})
            connection.request("GET", "/")
            connection.getresponse().read()
            connection.close()

        run(fetch)
    """)
    stall = check(records, "system call", "fetch")
    assert stall["system_call"] in ("poll", "ppoll") if timeout else "recvfrom"
    assert stall["descriptor_is"].startswith("peer 127.0.0.1:")
    assert stall["stack"][-1]["file"].endswith("socket.py")
    assert "more http frame" not in records[0]["text"]  # three are not many


@linux
def test_a_pipe_and_a_file(told):
    records = told("""
        from told import *
        import os

        reader, writer = os.pipe()
        at_first_record.append(lambda: os.write(writer, b"x"))

        def fetch():
            os.read(reader, 1)

        run(fetch)
    """)
    stall = check(records, "system call", "fetch")
    assert (stall["system_call"], stall["descriptor_is"]) == ("read", "a pipe")


@linux
def test_sqlite_waits_for_a_lock(told):
    records = told("""
        from told import *
        import sqlite3

        one = sqlite3.connect("db", isolation_level=None, check_same_thread=False)
        one.execute("create table t (x)")
        one.execute("begin immediate")
        at_first_record.append(lambda: one.execute("rollback"))
        other = sqlite3.connect("db", timeout=60)

        def store():
            other.execute("insert into t values (1)")

        run(store)
    """)
    stall = check(records, "system call", "store")
    assert stall["system_call"] == "clock_nanosleep"


@linux
def test_a_regular_expression_gone_wild(told):
    # Nothing can run meanwhile, and nothing can end it.
    records, _ = told(
        """
        from told import *
        import re

        text, took = "a" * 15, 0
        while took < 0.5:
            text += "a"
            began = time.monotonic()
            re.match("(a+)+$", text + "b")
            took = time.monotonic() - began

        def search():
            re.match("(a+)+$", text + "b")

        run(search)
    """,
        stderr=None,
    )
    stall = check(records, "C call", "search")
    assert stall["keeps_gil"]
    assert stall["stack"][-1]["function"] in ("match", "prefixmatch", "search")


@linux
def test_a_long_built_in_function(told):
    records, _ = told(
        """
        from told import *

        n, took = 10**6, 0
        while took < 0.5:
            n *= 2
            began = time.monotonic()
            sum(range(n))
            took = time.monotonic() - began

        def add():
            sum(range(n))

        run(add)
    """,
        stderr=None,
    )
    stall = check(records, "C call", "add")
    assert stall["words"] == "in a C call that keeps the GIL"


@linux
def test_a_c_function_that_gives_the_gil_up(told):
    records = told("""
        from told import *
        import zlib

        data = bytes(10**7)

        def compress():
            while not seen.is_set():
                zlib.crc32(data * 10)

        run(compress)
    """)
    if records[0]["stall"]["cause"] != "running Python":
        check(records, "C call", "compress")


@linux
def test_a_c_function_that_never_gives_the_gil_back(told):
    records, stderr = told(
        """
        from told import *
        import ctypes
        usleep = ctypes.PyDLL(None).usleep

        def call():
            usleep(1_600_000)

        run(call)
    """,
        stderr=None,
    )
    stall = check(records, "system call", "call")
    assert stall["keeps_gil"]
    assert stall["words"] == "in the system call clock_nanosleep, with the GIL held"
    assert stall["seconds"] > 1.5
    lines = stderr.splitlines()
    assert lines[0].startswith("aioloop: the loop of thread ")
    assert lines[0].endswith("the GIL cannot be had, so this stack is approximate:")
    assert "in the system call clock_nanosleep, with the GIL held;" in lines[0]
    assert lines[-1].endswith("app.py:7 in call")
    assert len(lines) == 3  # in_task, call


@linux
def test_a_lock_that_another_thread_has(told):
    records = told("""
        from told import *

        lock = threading.Lock()
        lock.acquire()
        at_first_record.append(lock.release)

        def enter():
            lock.acquire()

        run(enter)
    """)
    stall = check(records, "lock", "enter")
    assert stall["words"] == "waiting for a lock or another thread"


@linux
def test_a_result_of_another_thread(told):
    records = told("""
        from told import *
        from concurrent.futures import Future

        future = Future()
        at_first_record.append(lambda: future.set_result(None))

        def wait():
            future.result()

        run(wait)
    """)
    check(records, "lock", "wait")


@linux
def test_the_gil_that_another_thread_has(told):
    records, stderr = told(
        """
        from told import *
        import ctypes
        usleep = ctypes.PyDLL(None).usleep

        def crunch():
            usleep(1_500_000)
            seen.wait()

        def wait():
            threading.Thread(target=crunch, name="cruncher").start()
            time.sleep(0)  # where the other thread gets the GIL, if not before

        run(wait)
    """,
        stderr=None,
    )
    stall = check(records, "GIL", "wait")
    assert stall["holder"] == "thread 'cruncher'"
    assert (
        "waiting for the GIL, held by thread 'cruncher' at app.py:7 in crunch"
        in (records[0]["text"])
    )
    assert stall["holder_stack"][-1]["function"] == "crunch"
    assert "the GIL is held by thread " in stderr
    assert stderr.endswith("app.py:7 in crunch\n")


@linux
def test_an_idle_loop_that_cannot_have_the_gil(told):
    records = told("""
        from told import *
        import ctypes
        usleep = ctypes.PyDLL(None).usleep

        def crunch(begin):
            begin.wait()
            usleep(700_000)
            seen.wait()

        async def main():
            begin = threading.Event()
            thread = threading.Thread(target=crunch, args=[begin], name="cruncher")
            thread.start()
            asyncio.get_running_loop().call_later(0.05, int)
            begin.set()
            while thread.is_alive():
                await asyncio.sleep(0.05)

        aioloop.run(main(), stall_threshold=THRESHOLD)
    """)
    stall = check(records, "GIL", None, place=False)
    assert stall["holder"] == "thread 'cruncher'"
    assert "at app.py:8 in crunch" in records[0]["text"]


@linux
def test_garbage_collection(told):
    records, stderr = told(
        """
        from told import *
        import gc

        garbage = [[] for _ in range(3_000_000)]
        gc.disable()

        def collect():
            while not seen.is_set():
                gc.collect()

        run(collect)
        garbage.clear()
    """,
        stderr=None,
    )
    # Each collection keeps the GIL from the record: where that takes a second, the
    # watchdog itself has written what it knows: a line, and the stack.
    lines = stderr.splitlines()
    assert all(line.startswith(("aioloop: ", "  ")) for line in lines), stderr
    assert not lines or "garbage collection" in lines[0]
    stall = check(records, "garbage collection", "collect")
    assert stall["generation"] == 2
    assert "in garbage collection (generation 2, for " in records[0]["text"]


@linux
def test_an_import(told, tmp_path):
    (tmp_path / "outer_module.py").write_text("import slow_module")
    (tmp_path / "slow_module.py").write_text(
        "import time, told\nwhile not told.seen.is_set():\n    time.sleep(0.05)\n"
    )
    records = told("""
        from told import *

        def load():
            import outer_module

        run(load)
    """)
    stall = records[0]["stall"]
    assert stall["cause"] == "import"
    assert stall["importing"] == "outer_module"
    assert "importing outer_module (now slow_module)" in records[0]["text"]
    assert stall["source"] == "slow_module:<module>"
    assert [frame["function"] for frame in stall["stack"]][:2] == ["in_task", "load"]
    assert "more importlib frames ..." in records[0]["text"]


@linux
def test_a_machine_that_has_no_time(told):
    records, _ = told(
        """
        from told import *
        import os, subprocess, sys

        cpu = min(os.sched_getaffinity(0))
        rival = subprocess.Popen([sys.executable, "-c", f'''if True:
            import os
            os.sched_setaffinity(0, {{{cpu}}})
            print("ready", flush=True)
            while os.getppid() == {os.getpid()}:
                pass
        '''], stdout=subprocess.PIPE)
        rival.stdout.readline()

        def crunch():
            os.sched_setaffinity(0, {cpu})
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            while not seen.is_set():
                pass
            rival.kill()

        at_first_record.append(rival.kill)
        run(crunch)
        rival.communicate()
    """,
        stderr=None,
    )
    stall = records[0]["stall"]
    assert stall["cause"] == "not scheduled"
    assert stall["waited_seconds"] > 0.05
    assert "not scheduled by the machine, it has waited " in records[0]["text"]


@linux
def test_a_stopped_process_is_not_stuck(tmp_path, child_env):
    (tmp_path / "told.py").write_text(TOLD)
    (tmp_path / "app.py").write_text(
        textwrap.dedent("""
        from told import *

        def crunch():
            print("running", flush=True)
            began = time.thread_time()
            while time.thread_time() < began + 0.05:
                pass

        run(crunch, threshold=0.6)
        print("done")
    """)
    )
    with subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=tmp_path,
        env=child_env(),
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout.readline() == "running\n"
        program.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, program.pid, os.WSTOPPED)
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(1.5)
        program.send_signal(signal.SIGCONT)
        assert program.communicate(timeout=60)[0] == "done\n"


def test_a_program_runs_on_without_the_report(python):
    """Python's part is imported by the C type: it may be forbidden, or fail."""
    done = python(
        "-c",
        textwrap.dedent("""
            import asyncio, sys
            sys.modules["aioloop._stall"] = None
            import aioloop

            async def main():
                loop = asyncio.get_running_loop()
                loop.set_debug(False)
                loop.set_debug(True)
                print("runs")

            aioloop.run(main(), debug=True)
        """),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "runs\n"
    assert "ModuleNotFoundError: import of aioloop._stall halted" in done.stderr
