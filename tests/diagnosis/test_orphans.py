"""What a program loses is counted, and reported once for each place."""

import textwrap

import pytest

from tests.conftest import needs_gil

PRELUDE = """\
import asyncio, gc, json, os, socket, sys
import aioloop
from aioloop import _core

loop = aioloop.new_event_loop()
loop.set_exception_handler(lambda loop, context: None)
loop.report_orphans = True
CAPTURE = aioloop.DebugOptions(source_tracebacks=True, coroutine_origin_depth=1)
"""


@pytest.fixture
def program(python, tmp_path):
    """Return a function that runs a program and returns what it wrote."""

    def program(source, *arguments, prelude=PRELUDE):
        path = tmp_path / "app.py"
        path.write_text(prelude + textwrap.dedent(source))
        done = python("-W", "ignore", *arguments, path)
        assert done.returncode == 0, done.stderr
        return done

    return program


def line_of(source, text):
    lines = (PRELUDE + textwrap.dedent(source)).splitlines()
    return next(n for n, line in enumerate(lines, 1) if text in line)


TASKS = """
    async def stuck():
        await loop.create_future()

    async def main():
        for _ in range(3):
            loop.create_task(stuck(), name="lost")
            await asyncio.sleep(0)
            gc.collect()

    {capture}
    loop.run_until_complete(main())
    assert _core._misuse(loop)["pending_tasks"] == 3
    loop.close()
    (orphan,) = aioloop.orphans()
    assert (orphan.kind, orphan.count) == ("pending_tasks", 3)
    """


# With a GIL the coroutine is closed before the task is collected.
needs_closed_coroutine = needs_gil("the task goes first: it is told where it waits")


@needs_closed_coroutine
def test_pending_tasks(program):
    source = TASKS.format(capture="loop.debug_options = CAPTURE")
    line = line_of(source, "loop.create_task(")
    assert program(source).stderr == (
        "Task 'lost' of stuck() was collected by the garbage collector while it was"
        f" pending, made at app.py:{line} in main;"
        " keep a reference to it, or start it with aioloop.spawn()\n"
    )


@needs_closed_coroutine
def test_without_capture_there_is_no_place(program):
    assert program(TASKS.format(capture="")).stderr == (
        "Task 'lost' of stuck() was collected by the garbage collector while it was"
        " pending; keep a reference to it, or start it with aioloop.spawn()\n"
    )


def test_a_task_that_is_lost_while_its_coroutine_is_being_closed(program):
    """It is not asked what it awaits: of that 3.12 crashed in a random program."""
    """Python 3.11 and 3.12 looked at the stack of such a coroutine, and crashed."""
    source = """
        class Deaf(asyncio.Future):
            def add_done_callback(self, *args, **keywords):
                pass

        class Holder:
            def __await__(self):
                return self

            def __next__(self):
                self.task = asyncio.current_task()
                future = Deaf(loop=loop)
                future._asyncio_future_blocking = True
                return future

        async def stuck():
            await Holder()

        coro = stuck()
        task = loop.create_task(coro, name="lost")
        loop.call_soon(loop.stop)
        loop.run_forever()
        del task
        coro.close()
        gc.collect()  # From 3.14 on the future knows the task, too.
        assert _core._misuse(loop)["pending_tasks"] == 1
        loop.close()
        """
    assert program(source).stderr.startswith(
        "Task 'lost' of stuck() was collected by the garbage collector while it was"
    )


def test_tasks_that_are_lost_while_their_coroutine_runs(program):
    """Python 3.11 and 3.12 crashed: they take a counter of the interpreter's, next to
    the call, for a place where the coroutine awaits, and look at no stack."""
    source = """
        class Lose:
            def __call__(self):
                other = aioloop.new_event_loop()
                other.set_exception_handler(lambda loop, context: None)
                other.create_task(coro, name="lost")
                other.close()

        async def busy():
            for _ in range(200):
                lose()

        lose, coro = Lose(), busy()
        try:
            coro.send(None)
        except StopIteration:
            pass
        loop.close()
        (orphan,) = aioloop.orphans()
        assert (orphan.kind, orphan.count) == ("pending_tasks", 200)
        """
    program(source)


def test_coroutines(program):
    source = """
        async def fetch():
            pass

        async def main():
            for _ in range(2):
                fetch()
            fetch()

        loop.debug_options = CAPTURE
        loop.run_until_complete(main())
        assert _core._misuse(loop)["unawaited_coroutines"] == 3
        fetch()
        assert _core._misuse(loop)["unawaited_coroutines"] == 3
        assert _core._misuse(None)["unawaited_coroutines"] == 4
        loop.close()
        """
    defined, first = (
        line_of(source, "async def fetch"),
        line_of(source, "        fetch"),
    )
    assert program(source).stderr.splitlines() == [
        "Coroutine fetch() was never awaited, which is defined at"
        f" app.py:{defined} in fetch, made at app.py:{line} in main;"
        " await it, or make it a task"
        for line in (first, first + 1)
    ]


def test_the_warning_of_a_coroutine_stays_what_it_is(python, tmp_path):
    path = tmp_path / "app.py"
    path.write_text(
        textwrap.dedent(
            """
            import sys
            async def fetch(): pass
            async def main():
                fetch()
            if "aioloop" in sys.argv:
                from aioloop import run
            else:
                from asyncio import run
            run(main())
            """
        )
    )
    theirs, ours = python(path), python(path, "aioloop")
    assert ours.stderr == theirs.stderr
    assert "app.py:5: RuntimeWarning: coroutine 'fetch' was never" in ours.stderr


def test_exceptions(program):
    source = """
        async def fail():
            raise ValueError("no")

        async def main():
            for _ in range(2):
                task = loop.create_task(fail(), name="worker")
                await asyncio.wait([task])
            del task
            loop.create_future().set_exception(OSError("future"))

        loop.debug_options = CAPTURE
        loop.run_until_complete(main())
        gc.collect()
        assert _core._misuse(loop)["unretrieved_exceptions"] == 3
        loop.close()
        """
    made, raised = line_of(source, "create_task"), line_of(source, "raise ")
    future = line_of(source, "create_future")
    assert program(source).stderr.splitlines() == [
        f"ValueError('no') of task 'worker' of fail() was never retrieved, raised at"
        f" app.py:{raised} in fail, made at app.py:{made} in main;"
        " await what raised it, or start it with aioloop.spawn()",
        f"OSError('future') of a future was never retrieved, made at app.py:{future} in"
        " main; await what raised it, or start it with aioloop.spawn()",
    ]


def test_transports(program):
    source = """
        class Protocol(asyncio.Protocol):
            pass

        async def main():
            server = await loop.create_server(Protocol, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            transport, _ = await loop.create_connection(Protocol, *address)
            transport.pause_reading()
            del transport, _
            gc.collect()
            udp, _ = await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, ("127.0.0.1", 0)
            )
            udp.pause_reading()
            del udp, _
            gc.collect()
            pipe, _ = await loop.connect_write_pipe(asyncio.Protocol, writable)
            del pipe, _
            gc.collect()
            server.close()

        readable, writable = os.pipe()
        writable = os.fdopen(writable, "wb", 0)
        loop.debug_options = CAPTURE
        loop.run_until_complete(main())
        for orphan in aioloop.orphans():
            print(orphan.kind, orphan.created, orphan.count)
        """
    done = program(source.replace("            udp.pause_reading()\n", ""))
    assert "Transport of Protocol to ('127.0.0.1', " in done.stderr
    line = line_of(source, "create_connection")
    assert f"was never closed, made at app.py:{line} in main; close() it" in done.stderr
    assert f"unclosed_transports app.py:{line} in main 1" in done.stdout


def test_descriptors_that_are_closed_while_they_are_watched(program):
    source = """
        def readable():
            pass

        async def main():
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            loop.add_reader(ours, readable)
            fd = ours.fileno()
            ours.close()
            await asyncio.sleep(0.01)
            print(fd)

        loop.debug_options = CAPTURE
        loop.run_until_complete(main())
        assert _core._misuse(loop)["closed_descriptors"] == 1
        """
    done = program(source)
    line = line_of(source, "add_reader")
    assert done.stderr == (
        f"Descriptor {done.stdout.strip()}, for which readable waits, was closed while"
        f" the loop watched it, made at app.py:{line} in main;"
        " close the transport, or remove_reader() and remove_writer(), first\n"
    )


def test_descriptors_that_are_reused_under_a_transport(program):
    source = """
        class First(asyncio.Protocol):
            pass

        async def main():
            left, other = socket.socketpair()
            server = await loop.create_server(First, "127.0.0.1", 0)
            client = socket.socket()
            first, _ = await loop.create_connection(First, sock=left)
            os.close(left.fileno())
            client.connect(server.sockets[0].getsockname())
            for _ in range(3):
                await asyncio.sleep(0)
            sys.stderr.flush()
            os._exit(_core._misuse(loop)["reused_descriptors"] - 1)

        loop.debug_options = CAPTURE
        loop.run_until_complete(main())
        """
    line = line_of(source, "create_connection")
    assert program(source).stderr == (
        "Transport of First has lost its descriptor, which was closed and belongs to"
        f" another now, made at app.py:{line} in main;"
        " close the transport instead of its socket\n"
    )


def test_the_error_of_a_descriptor_in_use_names_the_place(program):
    source = """
        import traceback

        async def main():
            left, other = socket.socketpair()
            left.setblocking(False)
            first, _ = await loop.create_connection(asyncio.Protocol, sock=left)
            try:
                loop.add_reader(left, print)
            except RuntimeError as error:
                print(*error.__notes__)
                assert "is used by transport" in str(error)
            first.close()

        loop.debug_options = CAPTURE
        loop.run_until_complete(main())
        """
    line = line_of(source, "create_connection")
    assert (
        program(source).stdout == f"The transport was made at app.py:{line} in main.\n"
    )


def test_the_error_of_a_wrong_thread_names_both(program):
    done = program(
        """
        import threading

        def other():
            try:
                loop.call_soon(print)
            except RuntimeError as error:
                print(*error.__notes__)
            loop.call_soon_threadsafe(loop.stop)

        thread = threading.Thread(target=other, name="worker")
        loop.debug_options = aioloop.DebugOptions(thread_checks=True)
        loop.call_soon(thread.start)
        loop.run_forever()
        thread.join()
        """
    )
    line = line_of("", "new_event_loop")
    assert done.stdout == (
        f"The loop, made at app.py:{line} in <module>, runs in thread 'MainThread',"
        " the call comes from thread 'worker':"
        " use loop.call_soon_threadsafe() or asyncio.run_coroutine_threadsafe().\n"
    )


def test_nothing_is_logged_without_the_switch(program):
    source = TASKS.format(capture="loop.report_orphans = False")
    assert program(source).stderr == ""


def test_nothing_is_lost_by_a_program_in_order(program):
    done = program(
        """
        async def serve(reader, writer):
            writer.write(await reader.readexactly(5))
            writer.close()

        async def fail():
            raise ValueError

        async def main():
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            for _ in range(3):
                reader, writer = await asyncio.open_connection(
                    *server.sockets[0].getsockname()
                )
                writer.write(b"hello")
                assert await reader.read() == b"hello"
                writer.close()
                await writer.wait_closed()
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            theirs.send(b"x")
            assert await loop.sock_recv(ours, 1) == b"x"
            ours.close()
            theirs.close()
            await asyncio.gather(fail(), return_exceptions=True)
            task = loop.create_task(asyncio.sleep(60))
            task.cancel()
            child = await asyncio.create_subprocess_exec("true")
            await child.wait()
            server.close()
            await asyncio.sleep(0.01)

        loop.run_until_complete(main())
        loop.close()
        gc.collect()
        assert not any(_core._misuse(None).values()), _core._misuse(None)
        assert aioloop.orphans() == []
        """
    )
    assert done.stderr == ""


def test_the_fields_of_the_record(program):
    done = program(
        """
        import logging

        class Handler(logging.Handler):
            def emit(self, record):
                print(json.dumps(record.orphan))

        async def fetch():
            pass

        async def main():
            fetch()

        logger = logging.getLogger("asyncio")
        logger.addHandler(Handler())
        logger.propagate = False
        loop.run_until_complete(main())
        """
    )
    import json

    fields = json.loads(done.stdout)
    assert fields.pop("at").endswith(" in fetch")
    assert fields == {
        "kind": "unawaited_coroutines",
        "what": "Coroutine fetch()",
        "created": None,
        "count": 1,
    }


def test_command_line(program):
    source = """\
import asyncio
async def fetch():
    pass
async def main():
    fetch()
asyncio.run(main())
"""
    done = program(source, "-m", "aioloop", "--orphans", prelude="")
    assert done.stderr == (
        "Coroutine fetch() was never awaited, which is defined at app.py:2 in fetch,"
        " made at app.py:5 in main; await it, or make it a task\n"
    )
