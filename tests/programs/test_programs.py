"""The programs of asyncio's documents run unchanged and print what they show there.

Each program runs under ``python -m aioloop`` and under plain asyncio, where the
running Python still can. Process ids, times, addresses, line numbers of the standard
library and the figures of df are taken out before comparing.

``tutorial`` holds the programs of a tutorial from Python 3.6 days, which call
get_event_loop() at module level: plain asyncio of 3.14 cannot run them any more.
``developing`` holds the examples of "Developing with asyncio".
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import HARD

HERE = Path(__file__).parent
DRIVER = HERE / "drive_echo.py"
PYTHON = sys.version_info[:2]
WAYS = ["aioloop", "asyncio"]
OLD_WAYS = WAYS if PYTHON < (3, 14) else ["aioloop"]

old_ways = pytest.mark.parametrize("way", OLD_WAYS)
ways = pytest.mark.parametrize("way", WAYS)


def command(way, name, *arguments, debug=False):
    program = [str(HERE / f"{name}.py"), *arguments]
    if way == "asyncio":
        return program
    return ["-m", "aioloop", *["--debug"] * debug, *program]


def normal(text, name):
    """Take out what differs from run to run, and the frames not of the program."""
    text = text.replace(str(HERE / f"{name}.py"), "program.py")
    text = re.sub(r"0x[0-9a-fA-F]+", "0x...", text)
    text = re.sub(r"Using selector: \w+", "Using selector: ...", text)
    text = re.sub(r"took [0-9.]+ seconds", "took ... seconds", text)
    text = re.sub(r"created at \S*?(\w+\.py):\d+", r"created at \1", text)
    lines = text.splitlines()
    kept = []
    foreign = False
    for line in lines:
        if re.fullmatch(r"\s*[~^]+\s*", line):
            continue
        if re.match(r'  File "', line):
            foreign = not line.startswith('  File "program.py"')
        elif foreign and not line.startswith("    "):
            foreign = False
        if not foreign:
            kept.append(line)
    return kept


def without_deprecation(lines):
    """Drop the warning of 3.12 and 3.13 that the tutorial's programs get."""
    kept = []
    lines = iter(lines)
    for line in lines:
        if "DeprecationWarning: There is no current event loop" in line:
            next(lines)
        else:
            kept.append(line)
    return kept


class Shown:
    """What a finished program printed, normalised."""

    def __init__(self, done, name, way):
        self.status = done.returncode
        self.out = normal(done.stdout, name)
        self.err = normal(done.stderr, name)
        if way == "asyncio":
            self.err = without_deprecation(self.err)


@pytest.fixture
def show(python):
    """Return a function that runs a program and returns what it shows."""

    def show(way, name, *arguments, debug=False):
        done = python(*command(way, name, *arguments, debug=debug))
        return Shown(done, name, way)

    return show


# The tutorial.


def network_prefix():
    """Return what to put before a command to give it ports of its own, or None."""
    unshare = shutil.which("unshare")
    for prefix in ([unshare, "--net"], [unshare, "--map-root-user", "--net"]):
        if unshare is None:
            break
        tried = subprocess.run([*prefix, "true"], capture_output=True, timeout=20)
        if tried.returncode == 0:
            return prefix
    return None


def port_is_taken(port):
    with socket.socket() as sock:
        sock.settimeout(5)
        return sock.connect_ex(("localhost", port)) == 0


@pytest.fixture(scope="module")
def own_network():
    return network_prefix()


@pytest.mark.parametrize("client", OLD_WAYS)
@pytest.mark.parametrize("server", OLD_WAYS)
def test_echo_server_and_client(server, client, own_network, child_env, tmp_path):
    server_name, client_name = "tutorial/echo_server", "tutorial/echo_client"
    commands = [
        [sys.executable, *command(server, server_name)],
        [sys.executable, *command(client, client_name)],
    ]
    driver = [sys.executable, str(DRIVER), json.dumps(commands)]
    if own_network is not None:
        driver = [*own_network, *driver, "--loopback"]
    elif port_is_taken(10000):
        pytest.skip("port 10000, which is in the programs' text, is taken")
    done = subprocess.run(
        driver,
        capture_output=True,
        text=True,
        env=child_env(),
        cwd=tmp_path,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["client"] is not None, result

    status, text = result["client"]
    shown = without_deprecation(normal(text, client_name))
    head = [line for line in shown if not line.startswith("echo_client: received")]
    assert head == [
        "asyncio: Using selector: ...",
        "echo_client: connecting to localhost port 10000",
        "echo_client: sending b'This is the message. '",
        "echo_client: sending b'It will be sent '",
        "echo_client: sending b'in parts.'",
        "echo_client: waiting for response",
        "echo_client: closing",
        "main: closing event loop",
    ]
    assert (
        data_of(shown, "received") == b"This is the message. It will be sent in parts."
    )
    assert status == 0

    status, text = result["server"]
    shown = without_deprecation(normal(text, server_name))
    shown = [re.sub(r"^echo_[^ ]*: ", "echo: ", line) for line in shown]
    head = [line for line in shown if not re.match("echo: (received|sent)", line)]
    assert head == [
        "asyncio: Using selector: ...",
        "main: starting up on localhost port 10000",
        "echo: connection accepted",
        "echo: closing",
        "main: closing server",
        "main: closing event loop",
    ]
    assert (
        data_of(shown, "received") == b"This is the message. It will be sent in parts."
    )
    assert data_of(shown, "sent") == b"This is the message. It will be sent in parts."
    assert status == 0


def data_of(lines, verb):
    """Join the bytes of the lines "name: verb b'...'"; TCP may split them anywhere."""
    parts = [line.split(f": {verb} ", 1)[1] for line in lines if f": {verb} " in line]
    return b"".join(part[2:-1].encode() for part in parts)


def free_space(lines):
    """Check the list that both df programs end with."""
    start = lines.index("Free space:")
    assert lines[start - 1] == ""
    assert lines[start + 1 :]
    for line in lines[start + 1 :]:
        assert re.fullmatch(r"/.{24,}: [0-9.]+[KMGTP]?", line), line


@pytest.mark.skipif(
    HARD,
    reason="the program takes what has been read when the process exits for all of its"
    " output; short reads leave the rest of it for later",
)
@old_ways
def test_subprocess_by_protocol(way, show):
    shown = show(way, "tutorial/subprocess_protocol")
    end = shown.out.index("Free space:")
    before = shown.out[: end - 1]
    read = [line for line in before if line.startswith("read ")]
    # The process runs beside the program, so a quick df may have ended before the
    # program waits for it. asyncio documents that process_exited() may even come
    # before pipe_data_received(); this program then has nothing to list.
    exited = before.index("process exited")
    if any(before.index(line) < exited for line in read):
        free_space(shown.out)
    else:
        assert shown.out[end:] == ["Free space:"]
    for line in read:
        assert re.fullmatch(r"read \d+ bytes from stdout", line)
    waiting = before.index("waiting for process to complete")
    assert waiting > 2
    others = [x for x in before if x not in (*read, before[waiting])]
    assert [re.sub(r"started \d+", "started N", line) for line in others] == [
        "in run_df",
        "launching process",
        "process started N",
        "process exited",
        "return code 0",
        "parsing results",
    ]
    assert (shown.err, shown.status) == ([], 0)


@old_ways
def test_subprocess_by_streams(way, show):
    shown = show(way, "tutorial/subprocess_streams")
    free_space(shown.out)
    before = shown.out[: shown.out.index("Free space:") - 1]
    assert before[:2] == ["in run_df", "launching process"]
    assert re.fullmatch(r"process started \d+", before[2])
    assert before[3].startswith("read b'Filesystem ")
    assert all(re.fullmatch(r"read b'.+\\n'", line) for line in before[3:-4])
    assert before[-4:] == [
        "read b''",
        "no more output from command",
        "waiting for process to complete",
        "return code 0",
    ]
    assert (shown.err, shown.status) == ([], 0)


@old_ways
def test_communicate_with_a_subprocess(way, show):
    shown = show(way, "tutorial/subprocess_communicate")
    assert [re.sub(r"^pid \d+", "pid N", line) for line in shown.out] == [
        "in to_upper",
        "launching process",
        "pid N",
        "communicating with process",
        "waiting for process to complete",
        "return code 0",
        r"Original: '\nThis message will be converted\nto all caps.\n'",
        r"Changed : '\nTHIS MESSAGE WILL BE CONVERTED\nTO ALL CAPS.\n'",
    ]
    assert (shown.err, shown.status) == ([], 0)


@old_ways
def test_signals(way, show):
    shown = show(way, "tutorial/signals")
    assert re.fullmatch(r"starting send_signals for \d+", shown.out[0])
    assert shown.out[1:] == [
        line
        for name in ("SIGHUP", "SIGHUP", "SIGUSR1", "SIGINT")
        for line in (
            f"sending {name}",
            "yielding control",
            f"signal_handler('{name}')",
        )
    ]
    assert (shown.err, shown.status) == ([], 0)


def results_of(lines):
    (line,) = [line for line in lines if "run_blocking_tasks: results: " in line]
    return sorted(json.loads(line.split("results: ")[1]))


def blocks_of(lines):
    return sorted(re.findall(r"blocks\(\d\): \w+", "\n".join(lines)))


BLOCKS = sorted(
    f"blocks({n}): {what}" for n in range(6) for what in ("running", "done")
)


def parent_lines(lines):
    """Return what the parent says, without the results, whose order is a set's."""
    said = [line for line in lines if "run_blocking_tasks: " in line]
    said = [line.split("run_blocking_tasks: ")[1] for line in said]
    return [line for line in said if not line.startswith("results")]


@old_ways
def test_executor_of_threads(way, show):
    shown = show(way, "tutorial/executor_threads")
    threads = {line.split()[0] for line in shown.err if "blocks(" in line}
    assert threads == {f"ThreadPoolExecutor-0_{n}" for n in range(3)}
    assert {x.split()[0] for x in shown.err if "run_blocking" in x} == {"MainThread"}
    assert blocks_of(shown.err) == BLOCKS
    assert parent_lines(shown.err) == [
        "starting",
        "creating executor tasks",
        "waiting for executor tasks",
        "exiting",
    ]
    assert results_of(shown.err) == [0, 1, 4, 9, 16, 25]
    assert (shown.out, shown.status) == ([], 0)


@old_ways
def test_executor_of_processes(way, show):
    shown = show(way, "tutorial/executor_processes")
    err = [line for line in shown.err if line.startswith("PID")]
    pids = {line.split()[1] for line in err if "blocks(" in line}
    parent = {line.split()[1] for line in err if "run_blocking" in line}
    if PYTHON < (3, 14) and sys.platform == "linux":
        # Forked children inherit the logging set-up and 3.12 warns of the fork.
        assert len(pids) in (1, 2, 3)
        assert blocks_of(err) == BLOCKS
    assert len(parent) == 1 and not parent & pids
    assert parent_lines(err) == [
        "starting",
        "creating executor tasks",
        "waiting for executor tasks",
        "exiting",
    ]
    assert results_of(err) == [0, 1, 4, 9, 16, 25]
    assert (shown.out, shown.status) == ([], 0)


LOG_OF_DEBUGGING = [
    "  DEBUG: Using selector: ...",
    "   INFO: entering event loop",
    "   INFO: outer starting",
    "   INFO: inner starting",
    "   INFO: inner completed",
    "   INFO: outer completed",
]


@old_ways
def test_debugging_program(way, show):
    shown = show(way, "tutorial/debugging")
    assert shown.err == LOG_OF_DEBUGGING
    assert (shown.out, shown.status) == ([], 0)


@old_ways
def test_debugging_program_verbose(way, show):
    shown = show(way, "tutorial/debugging", "-v")
    log = [line for line in shown.err if re.match("  DEBUG|   INFO", line)]
    expected = LOG_OF_DEBUGGING.copy()
    expected.insert(1, "   INFO: enabling debugging")
    assert log == expected
    start = r"WARNING: Executing <Task finished name='Task-\d+' coro=<inner\(\)"
    (slow,) = [line for line in shown.err if re.match(start, line)]
    assert re.fullmatch(
        r"WARNING: Executing <Task finished name='Task-\d+' "
        r"coro=<inner\(\) done, defined at program.py:\d+> result=None "
        r"created at program.py> took ... seconds",
        slow,
    )
    assert shown.err.index("   INFO: inner completed") < shown.err.index(slow)
    assert shown.err.index(slow) < shown.err.index("   INFO: outer completed")
    assert (shown.out, shown.status) == ([], 0)


# Developing with asyncio.


@ways
def test_never_awaited_coroutine(way, show):
    shown = show(way, "developing/never_awaited")
    assert shown.err[:2] == [
        "program.py:7: RuntimeWarning: coroutine 'test' was never awaited",
        "  test()",
    ]
    hint = ["RuntimeWarning: Enable tracemalloc to get the object allocation traceback"]
    assert shown.err[2:] == hint
    assert (shown.out, shown.status) == ([], 0)


NEVER_AWAITED_DEBUG = [
    "program.py:7: RuntimeWarning: coroutine 'test' was never awaited",
    "Coroutine created at (most recent call last)",
    '  File "program.py", line 9, in <module>',
    '  File "program.py", line 7, in main',
    "    test()",
    "  test()",
    "RuntimeWarning: Enable tracemalloc to get the object allocation traceback",
]


@ways
def test_never_awaited_coroutine_in_debug_mode(way, show):
    shown = show(way, "developing/never_awaited_debug")
    assert [x for x in shown.err if "asyncio.run(" not in x] == NEVER_AWAITED_DEBUG
    assert "    asyncio.run(main(), debug=True)" in shown.err
    assert (shown.out, shown.status) == ([], 0)


def test_never_awaited_coroutine_with_the_debug_option(show):
    shown = show("aioloop", "developing/never_awaited", debug=True)
    assert [x for x in shown.err if "asyncio.run(" not in x] == NEVER_AWAITED_DEBUG


@ways
def test_awaiting_the_coroutine_fixes_it(way, show):
    shown = show(way, "developing/never_awaited_fixed")
    assert (shown.out, shown.err, shown.status) == (["never scheduled"], [], 0)


NEVER_RETRIEVED = [
    "Traceback (most recent call last):",
    '  File "program.py", line 4, in bug',
    '    raise Exception("not consumed")',
    "Exception: not consumed",
]


@ways
def test_never_retrieved_exception(way, show):
    shown = show(way, "developing/never_retrieved")
    assert shown.err == [
        "Task exception was never retrieved",
        "future: <Task finished name='Task-2' coro=<bug() done, defined at "
        "program.py:3> exception=Exception('not consumed')>",
        *NEVER_RETRIEVED,
    ]
    assert (shown.out, shown.status) == ([], 0)


def check_never_retrieved_debug(shown, call):
    assert shown.err == [
        "Task exception was never retrieved",
        "future: <Task finished name='Task-2' coro=<bug() done, defined at "
        "program.py:3> exception=Exception('not consumed') created at tasks.py>",
        "source_traceback: Object created at (most recent call last):",
        '  File "program.py", line 9, in <module>',
        f"    {call}",
        '  File "program.py", line 7, in main',
        "    asyncio.create_task(bug())",
        *NEVER_RETRIEVED,
    ]
    assert (shown.out, shown.status) == ([], 0)


@ways
def test_never_retrieved_exception_in_debug_mode(way, show):
    shown = show(way, "developing/never_retrieved_debug")
    check_never_retrieved_debug(shown, "asyncio.run(main(), debug=True)")


def test_never_retrieved_exception_with_the_debug_option(show):
    shown = show("aioloop", "developing/never_retrieved", debug=True)
    check_never_retrieved_debug(shown, "asyncio.run(main())")


@ways
def test_aclosing_a_generator(way, show):
    shown = show(way, "developing/aclosing")
    assert (shown.out, shown.err, shown.status) == ([], [], 0)


@ways
def test_generators_finalised_in_an_unexpected_order(way, show):
    shown = show(way, "developing/cursor_rows")
    assert shown.err == [
        "unhandled exception during asyncio.run() shutdown",
        "task: <Task finished name='Task-3' coro=<<async_generator_athrow without "
        "__name__>()> exception=AssertionError()>",
        "Traceback (most recent call last):",
        '  File "program.py", line 6, in cursor',
        "    yield 1",
        "asyncio.exceptions.CancelledError",
        "",
        "During handling of the above exception, another exception occurred:",
        "",
        "Traceback (most recent call last):",
        '  File "program.py", line 8, in cursor',
        "    assert work_done",
        "AssertionError",
    ]
    assert (shown.out, shown.status) == ([], 0)


@ways
def test_aclosing_both_generators_fixes_it(way, show):
    shown = show(way, "developing/cursor_rows_fixed")
    assert (shown.out, shown.err, shown.status) == ([], [], 0)


@ways
def test_generator_started_before_the_loop_runs(way, show):
    shown = show(way, "developing/runner_anext")
    assert shown.out == ["10"]
    head, *rest = shown.err
    assert re.fullmatch(
        r"Exception ignored (in|while closing generator):? "
        r"<async_generator object agenfn at 0x...>:?",
        head,
    )
    assert rest == [
        "Traceback (most recent call last):",
        '  File "program.py", line 13, in <module>',
        "    del agen",
        "RuntimeError: async generator ignored GeneratorExit",
    ]
    assert shown.status == 0


@ways
def test_generator_started_in_the_loop_is_closed(way, show):
    shown = show(way, "developing/runner_anext_fixed")
    assert (shown.out, shown.err, shown.status) == (["10"], [], 0)


@ways
def test_generator_iterated_by_two_tasks(way, show):
    shown = show(way, "developing/concurrent_asend")
    assert shown.out == ["received A"]
    assert shown.err == [
        "Traceback (most recent call last):",
        '  File "program.py", line 18, in <module>',
        "    asyncio.run(amain())",
        '  File "program.py", line 16, in amain',
        "    await fb",
        "RuntimeError: anext(): asynchronous generator is already running",
    ]
    assert shown.status == 1


@ways
def test_run_coroutine_threadsafe(way, show):
    shown = show(way, "developing/run_coroutine_threadsafe")
    assert (shown.out, shown.err, shown.status) == (["result 42"], [], 0)


@ways
def test_call_soon_threadsafe(way, show):
    shown = show(way, "developing/call_soon_threadsafe")
    assert shown.out == [
        "callback (1, 'two') in the loop's thread: True",
        "cancelled from another thread",
    ]
    assert (shown.err, shown.status) == ([], 0)


@ways
def test_calls_from_the_wrong_thread_raise_in_debug_mode(way, show):
    shown = show(way, "developing/wrong_thread")
    assert shown.out == 3 * [
        "RuntimeError: Non-thread-safe operation invoked on an event loop other "
        "than the current one"
    ]
    assert (shown.err, shown.status) == ([], 0)


@ways
def test_slow_callbacks_are_logged_in_debug_mode(way, show):
    shown = show(way, "developing/slow_callback")
    task, handle = shown.err
    assert re.fullmatch(
        r"Executing <Task finished name='Task-\d+' coro=<blocks\(\) done, defined at "
        r"program.py:4> result=None created at tasks.py> took ... seconds",
        task,
    )
    assert re.fullmatch(
        r"Executing <Handle callback\(\) at program.py:7 created at program.py> "
        r"took ... seconds",
        handle,
    )
    assert (shown.out, shown.status) == ([], 0)


@ways
def test_level_of_the_asyncio_logger(way, show):
    shown = show(way, "developing/logging_level")
    assert shown.err == ["DEBUG:asyncio:Using selector: ..."]
    assert (shown.out, shown.status) == (["running", "running"], 0)


@ways
def test_run_in_executor(way, show):
    shown = show(way, "developing/run_in_executor")
    total = 333332833333500000
    assert shown.out == [
        f"default thread pool {total}",
        f"custom thread pool {total}",
        f"custom process pool {total}",
    ]
    assert shown.status == 0


@pytest.mark.skipif(PYTHON < (3, 14), reason="InterpreterPoolExecutor is new in 3.14")
@pytest.mark.parametrize("name", ["interpreter_pool", "interpreter_pool_importing"])
@ways
def test_interpreter_pool(way, name, show):
    shown = show(way, f"developing/{name}")
    assert shown.out == [f"custom interpreter pool {[333332833333500000] * 4}"]
    assert (shown.err, shown.status) == ([], 0)


# The same programs in debug mode.

# What aioloop logs beyond asyncio; other loads make the machine slow at times.
ADDITIONS = ("The slow step of task", "An iteration of", "poll ", "Executing <")
WHO_CANCELLED = re.compile(r"^cancelled_from: .*\n(?:  .*\n)+", re.MULTILINE)


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (HERE / "developing").glob("*.py"))
)
def test_debug_mode_says_the_same_on_both(name, python):
    if name.startswith("interpreter_pool") and PYTHON < (3, 14):
        pytest.skip("InterpreterPoolExecutor is new in 3.14")
    name = f"developing/{name}"
    said = []
    for way in WAYS:
        done = python(*command(way, name), env={"PYTHONASYNCIODEBUG": "1"})
        # The loop's class has another name, and no frames of Python.
        err = done.stderr.replace("_UnixSelectorEventLoop", "Loop")
        err = re.sub(r"created at \S*/asyncio/\w+\.py:\d+", "created at asyncio", err)
        err = WHO_CANCELLED.sub("", err)
        lines = [x for x in normal(err, name) if not x.startswith(ADDITIONS)]
        said.append((done.returncode, normal(done.stdout, name), lines))
    assert said[0] == said[1]
