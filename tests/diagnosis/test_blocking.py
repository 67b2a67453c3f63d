"""Calls that block the loop are reported where they are made, as a user reads it."""

import sys
import textwrap

import pytest

import aioloop
from aioloop import _blocking, _core

PRELUDE = """\
import asyncio, os, socket, sys
import aioloop
loop = aioloop.new_event_loop()
loop.blocking_calls = "log"
"""


@pytest.fixture
def program(python, tmp_path):
    """Return a function that runs a program and returns what it wrote to stderr."""

    def program(source, *arguments, status=0, prelude=PRELUDE, env=None):
        path = tmp_path / "app.py"
        path.write_text(prelude + textwrap.dedent(source))
        done = python(*arguments, path, env=env)
        assert done.returncode == status, done.stderr
        return done.stderr

    return program


def line_of(source, text):
    lines = (PRELUDE + textwrap.dedent(source)).splitlines()
    return next(n for n, line in enumerate(lines, 1) if text in line)


def test_sleep_in_a_task_is_logged_once_for_each_place(program):
    source = """
        async def handler():
            for _ in range(3):
                time.sleep(0.001)
            time.sleep(0.002)

        import time
        loop.run_until_complete(loop.create_task(handler(), name="worker"))
        """
    first = line_of(source, "sleep(0.001)")
    assert program(source).splitlines() == [
        "time.sleep(0.001) blocks the loop in task 'worker' at"
        f' app.py:{first} in handler: "time.sleep(0.001)";'
        " use await asyncio.sleep(0.001)",
        "time.sleep(0.002) blocks the loop in task 'worker' at"
        f' app.py:{first + 1} in handler: "time.sleep(0.002)";'
        " use await asyncio.sleep(0.002)",
    ]


def test_sleep_that_was_imported_before_is_seen(program):
    source = """
        from time import sleep
        import time

        def callback():
            sleep(0.001)
            assert time.sleep is sleep
            loop.stop()

        loop.call_soon(callback)
        loop.run_forever()
        """
    assert "time.sleep(0.001) blocks the loop in a callback at app.py" in program(
        "from time import sleep\n" + textwrap.dedent(source)
    )


CALLS = {
    "open(__file__)": "open('{file}') blocks the loop",
    "os.open(__file__, os.O_RDONLY)": "open('{file}') blocks the loop",
    "os.listdir('.')": "os.listdir('.') blocks the loop",
    "list(os.scandir('.'))": "os.scandir('.') blocks the loop",
    "os.mkdir('made')": "os.mkdir('made') blocks the loop",
    "os.system('true')": "os.system('true') blocks the loop",
    "subprocess.run(['true'])": "subprocess.Popen(['true']) blocks the loop",
    "subprocess.check_output(['true'])": "subprocess.Popen(['true']) blocks the loop",
    "socket.create_connection(address)": "socket.connect(('127.0.0.1', ",
    "socket.getaddrinfo('localhost', 80)": "socket.getaddrinfo('localhost', 80) blocks",
    "socket.gethostbyname('localhost')": "socket.gethostbyname('localhost') blocks",
    "sqlite3.connect('data.db')": "sqlite3.connect('data.db') blocks the loop",
    "shutil.copyfile(__file__, 'copy')": "shutil.copyfile('{file}', 'copy') blocks",
    "urllib.request.urlopen(url + '?secret')": "urllib.request.urlopen('http://127.0.0.1:",
    "pathlib.Path(__file__).read_text()": "open('{file}') blocks the loop",
    "tempfile.mkdtemp(dir='.')": "tempfile.mkdtemp() blocks the loop",
    "fcntl.flock(locked, fcntl.LOCK_EX)": "fcntl.flock(",
    "time.sleep(0.001)": "time.sleep(0.001) blocks the loop",
}


def test_each_kind_of_call(program, tmp_path):
    body = "\n".join(
        f"        try: {call}\n        except OSError: pass" for call in CALLS
    )
    source = f"""\
import asyncio, fcntl, os, pathlib, shutil, socket, sqlite3, subprocess, sys, tempfile
import time, urllib.request
import aioloop
listener = socket.create_server(("127.0.0.1", 0))
address = listener.getsockname()
url = "http://127.0.0.1:%d/" % address[1]
locked = open("locked", "w")
loop = aioloop.new_event_loop()
loop.blocking_calls = "log"
async def main():
    try:
        listener.close()
{body}
    finally:
        pass
loop.run_until_complete(main())
loop.close()
"""
    records = program(source, prelude="").splitlines()
    assert len(records) == len(CALLS), records
    for record, (call, start) in zip(records, CALLS.items(), strict=True):
        assert record.startswith(start.format(file=tmp_path / "app.py")), record
        assert f'in main: "try: {call}"; use ' in record
        assert "secret'" not in record.partition(": ")[0]


def test_what_does_not_block_is_not_reported(program):
    assert not program(
        """
        import fcntl, logging, sqlite3, time

        class Handler(logging.Handler):
            def emit(self, record):
                open(__file__).close()
                time.sleep(0.001)

        async def client(port):
            reader, writer = await asyncio.open_connection("localhost", port)
            assert await reader.read() == b"hello"
            writer.close()

        async def serve(reader, writer):
            writer.write(b"hello")
            writer.close()

        async def main():
            time.sleep(0)
            sock = socket.socket()
            sock.setblocking(False)
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            try:
                sock.connect(address)
            except BlockingIOError:
                pass
            sock.close()
            sock = socket.socket(type=socket.SOCK_DGRAM)
            sock.connect(address)
            sock.close()
            await client(address[1])
            unix = await asyncio.start_unix_server(serve, "listening")
            unix.close()
            unix = await asyncio.start_unix_server(serve, "listening")
            unix.close()
            await loop.getaddrinfo("localhost", 80)
            socket.getaddrinfo("127.0.0.1", 80)
            socket.getaddrinfo("fe80::1%lo", 80)
            socket.getaddrinfo(None, 80)
            child = await asyncio.create_subprocess_exec("true")
            await child.wait()
            child = await asyncio.create_subprocess_shell("true")
            await child.wait()
            import colorsys, xml.dom.minidom
            logging.getLogger().addHandler(Handler())
            logging.getLogger().warning("slow, but logging is exempt")
            open("/dev/null").close()
            with open("/proc/self/status") as status:
                status.read()
            readable, writable = os.pipe()
            open(readable).close()
            os.close(writable)
            fcntl.flock(locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sqlite3.connect(":memory:").close()
            await asyncio.to_thread(time.sleep, 0.001)
            await asyncio.to_thread(open, __file__)
            with aioloop.allow_blocking():
                time.sleep(0.001)
                await asyncio.sleep(0)
                time.sleep(0.001)
            allowed()
            server.close()

        @aioloop.allow_blocking()
        def allowed():
            open(__file__).close()

        locked = open("locked", "w")
        open(__file__).close()
        loop.run_until_complete(main())
        loop.close()
        time.sleep(0.001)
        """
    )


def test_other_tasks_are_not_allowed_what_one_is(program):
    errors = program(
        """
        import time

        async def other():
            time.sleep(0.001)

        async def main():
            task = loop.create_task(other())
            with aioloop.allow_blocking():
                await task

        loop.run_until_complete(main())
        """
    )
    assert errors.count("blocks the loop") == 1
    assert "in other" in errors


def test_a_callback_without_a_frame(program):
    source = """
        import time
        loop.set_debug(True)
        loop.call_soon(time.sleep, 0.001)
        loop.call_soon(loop.stop)
        loop.run_forever()
        """
    line = line_of(source, "call_soon(time.sleep")
    assert program(source) == (
        "time.sleep(0.001) blocks the loop in a callback, as the callback itself,"
        f" scheduled at app.py:{line} in <module>; use await asyncio.sleep(0.001)\n"
    )


def test_raising(program):
    errors = program(
        """
        import time

        async def main():
            for _ in range(2):
                try:
                    time.sleep(60)
                except aioloop.BlockingCallError as error:
                    print(error, file=sys.stderr)
            with aioloop.allow_blocking():
                time.sleep(0.001)
            open(__file__)

        loop.blocking_calls = "raise"
        loop.run_until_complete(main())
        """,
        status=1,
    )
    assert errors.count("time.sleep(60) blocks the loop in task") == 2
    last = errors.splitlines()[-1]
    assert last.startswith("aioloop._blocking.BlockingCallError: open('")
    assert "aioloop/_blocking.py" not in errors


def test_command_line_and_environment(program):
    source = """\
import asyncio, subprocess, sys, time
async def main():
    time.sleep(0.001)
asyncio.run(main())
if len(sys.argv) == 1:
    subprocess.run([sys.executable, "-m", "aioloop", __file__, "child"])
"""
    expected = "time.sleep(0.001) blocks the loop in task 'Task-1' at app.py:3 in main"
    for option in (["--blocking-calls", "log"], ["--blocking-calls=log"]):
        errors = program(source, "-m", "aioloop", *option, prelude="")
        assert errors.count(expected) == 2
    errors = program(
        source, "-m", "aioloop", "--blocking-calls=raise", prelude="", status=1
    )
    assert f"BlockingCallError: {expected}" in errors
    log = {"AIOLOOP_BLOCKING_CALLS": "log"}
    assert program(source, "-m", "aioloop", prelude="", env=log).count(expected) == 2
    wrong = {"AIOLOOP_BLOCKING_CALLS": "loud"}
    errors = program(source, "-m", "aioloop", prelude="", env=wrong)
    assert "RuntimeWarning: AIOLOOP_BLOCKING_CALLS is 'loud'" in errors
    errors = program(
        source, "-m", "aioloop", "--blocking-calls=loud", prelude="", status=2
    )
    assert "argument of --blocking-calls must be log or raise" in errors


def test_the_record_has_its_parts_as_fields(program):
    errors = program(
        """
        import json, logging, subprocess

        class Handler(logging.Handler):
            def emit(self, record):
                print(json.dumps(record.blocking_call), file=sys.stderr)

        async def main():
            subprocess.run(["true"])

        logger = logging.getLogger("asyncio")
        logger.addHandler(Handler())
        logger.propagate = False
        loop.run_until_complete(main())
        """
    )
    import json

    fields = json.loads(errors)
    stack = fields.pop("stack")
    assert [frame["function"] for frame in stack][-2:] == ["run", "main"]
    assert fields.pop("file").endswith("app.py")
    assert fields.pop("line") == stack[-1]["line"]
    assert fields == {
        "call": "subprocess.Popen(['true'])",
        "instead": "await asyncio.create_subprocess_exec(...)",
        "task": "Task-1",
        "function": "main",
        "source": 'subprocess.run(["true"])',
    }


def test_several_loops_and_threads(program):
    errors = program(
        """
        import threading, time

        async def quiet():
            time.sleep(0.001)

        async def main(name):
            time.sleep(0.001)

        def run(name):
            own = aioloop.new_event_loop()
            own.blocking_calls = "log"
            own.run_until_complete(main(name))
            own.blocking_calls = None
            own.run_until_complete(quiet())
            own.close()

        threads = [threading.Thread(target=run, args=(n,)) for n in "abc"]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        other = aioloop.new_event_loop()
        other.run_until_complete(quiet())
        other.close()
        loop.close()
        """
    )
    assert errors.count("in main") == 3
    assert "in quiet" not in errors


def test_a_handler_that_fails_does_not_fail_the_call(program):
    errors = program(
        """
        import logging, time

        class Filter(logging.Filter):
            def filter(self, record):
                raise ZeroDivisionError

        async def main():
            time.sleep(0.001)

        logging.getLogger("asyncio").addFilter(Filter())
        loop.run_until_complete(main())
        """
    )
    assert "Exception ignored" in errors
    assert "ZeroDivisionError" in errors


def test_an_audit_hook_that_refuses_others(program):
    errors = program(
        """
        def hook(event, args):
            if event == "sys.addaudithook":
                raise RuntimeError

        sys.addaudithook(hook)
        try:
            aioloop.new_event_loop().blocking_calls = "log"
        except RuntimeError as error:
            print(error, file=sys.stderr)
        """,
        prelude="import sys, aioloop\n",
    )
    assert "an audit hook of this program refuses to have others added" in errors


@pytest.mark.skipif(sys.version_info < (3, 13), reason="needs sub-interpreters' API")
def test_sub_interpreters(program):
    errors = program(
        """
        import textwrap
        if sys.version_info >= (3, 14):
            from concurrent import interpreters
            run = lambda code: interpreters.create().exec(code)
        else:
            import _interpreters
            run = lambda code: _interpreters.exec(_interpreters.create(), code)
        code = textwrap.dedent('''
            import time, aioloop
            async def inner():
                time.sleep(0.001)
            loop = aioloop.new_event_loop()
            loop.blocking_calls = "log"
            loop.run_until_complete(inner())
            loop.close()
        ''')

        async def main():
            import time
            run(code)
            time.sleep(0.001)

        loop.run_until_complete(main())
        """
    )
    assert errors.count("in inner") == 1
    assert errors.count("in main") == 1


def test_the_switch(loop):
    assert loop.blocking_calls is None
    loop.blocking_calls = "log"
    assert loop.debug_options.blocking_calls == "log"
    before = loop.get_debug()
    loop.set_debug(not before)
    loop.set_debug(before)
    assert loop.blocking_calls == "log"
    loop.debug_options = aioloop.DebugOptions(blocking_calls="raise")
    assert loop.blocking_calls == "raise"
    loop.debug_options = aioloop.DebugOptions()
    assert loop.blocking_calls is None
    for wrong in (True, "loud"):
        with pytest.raises(ValueError, match="must be None, 'log' or 'raise', not"):
            loop.blocking_calls = wrong
        with pytest.raises(ValueError, match="must be None, 'log' or 'raise', not"):
            aioloop.DebugOptions(blocking_calls=wrong)
    loop.blocking_calls = "log"
    loop.close()
    loop.blocking_calls = "raise"


def test_each_event_has_its_text():
    assert list(_blocking.KINDS) != list(_core._blocking_events())
    assert set(_blocking.KINDS) == set(_core._blocking_events())
    assert sorted(_core._blocking_events()) == list(_core._blocking_events())
