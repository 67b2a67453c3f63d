"""Does an installed aioloop work? One short program for each part of its C code.

`python smoke.py` needs nothing but aioloop and certificate.pem beside it, and is what a
wheel has to pass on every system (`make wheels`). Each check names the rooms of `src`
that it goes through; together they are all rooms (tests/unit/test_smoke.py).
"""

import asyncio
import contextvars
import gc
import inspect
import io
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import traceback
from pathlib import Path

import aioloop

CERTIFICATE = Path(__file__).resolve().with_name("certificate.pem")
LIMIT = 60
CHECKS = []
NEED_GIL = []  # which of them
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
LARGE = bytes(range(256)) * 4096


def covers(*rooms, needs_gil=False):
    """Register a check, which is a coroutine function or a function."""

    def register(check):
        CHECKS.append((check, rooms))
        if needs_gil:
            NEED_GIL.append(check)
        return check

    return register


async def read_exactly(reader, n):
    """Read from a StreamReader, but not for ever."""
    return await asyncio.wait_for(reader.readexactly(n), LIMIT)


# The scheduler, futures and tasks.


@covers(
    "core/sched", "core/handle", "core/context", "base/ring", "base/args", "loop/calls"
)
async def callbacks():
    loop = asyncio.get_running_loop()
    variable = contextvars.ContextVar("variable", default=0)
    context = contextvars.copy_context()
    context.run(variable.set, 7)
    seen = []
    done = loop.create_future()
    for i in range(100):
        loop.call_soon(seen.append, i)
    loop.call_soon(seen.append, "never").cancel()
    loop.call_soon(lambda: seen.append(variable.get()), context=context)
    loop.call_soon(done.set_result, None)
    await done
    assert seen == [*range(100), 7]


@covers("core/timer", "core/poll")
async def timers():
    loop = asyncio.get_running_loop()
    seen = []
    begun = time.monotonic()
    loop.call_later(0.002, seen.append, 2)
    loop.call_later(0.001, seen.append, 1)
    loop.call_later(0.0015, seen.append, 0).cancel()
    await asyncio.sleep(0.003)
    assert seen == [1, 2]
    assert time.monotonic() - begun >= 0.003


@covers(
    "task/future",
    "task/await",
    "task/task",
    "task/stop",
    "task/registry",
    "task/names",
    "core/current",
)
async def tasks():
    async def child(n):
        await asyncio.sleep(0)
        return n

    made = [asyncio.create_task(child(n)) for n in range(50)]
    assert set(made) < asyncio.all_tasks()
    assert made[0].get_name().startswith("Task-")
    assert await asyncio.gather(*made) == list(range(50))
    task = asyncio.create_task(asyncio.sleep(1000))
    await asyncio.sleep(0)
    task.cancel("enough")
    try:
        await task
    except asyncio.CancelledError:
        pass
    assert task.cancelled()
    assert type(asyncio.current_task()) is aioloop.Task


@covers("core/wake", "core/inbox", "core/ticker", "core/fds")
async def threads_and_descriptors():
    loop = asyncio.get_running_loop()
    woken = loop.create_future()
    thread = threading.Thread(
        target=loop.call_soon_threadsafe, args=(woken.set_result, 3)
    )
    thread.start()
    assert await asyncio.wait_for(woken, LIMIT) == 3
    thread.join()
    assert await loop.run_in_executor(None, abs, -4) == 4
    readable = loop.create_future()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        loop.add_reader(ours, lambda: readable.done() or readable.set_result(None))
        theirs.send(b"x")
        await asyncio.wait_for(readable, LIMIT)
        assert loop.remove_reader(ours)


@covers("core/signal")
async def signals():
    loop = asyncio.get_running_loop()
    received = loop.create_future()
    loop.add_signal_handler(signal.SIGUSR1, received.set_result, "signal")
    os.kill(os.getpid(), signal.SIGUSR1)
    assert await asyncio.wait_for(received, LIMIT) == "signal"
    assert loop.remove_signal_handler(signal.SIGUSR1)


@covers(
    "prim/primitive",
    "prim/replace",
    "prim/lock",
    "prim/event",
    "prim/semaphore",
    "prim/queue",
    "prim/sleep",
    "prim/with",
    "prim/ensure",
    "prim/closure",
    "prim/gather",
    "prim/group",
    "prim/wait",
    "prim/shield",
    "prim/condition",
)
async def primitives():
    sleep = asyncio.sleep
    aioloop.accelerate()
    try:
        free_threaded = sysconfig.get_config_var("Py_GIL_DISABLED")
        assert (asyncio.sleep is sleep) == bool(free_threaded)
        queue, lock, event = asyncio.Queue(1), asyncio.Lock(), asyncio.Event()

        async def work():
            async with lock, asyncio.BoundedSemaphore(1):
                await event.wait()
                for item in range(5):
                    await queue.put(item)

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        assert lock.locked()
        event.set()
        assert [await queue.get() for _ in range(5)] == list(range(5))
        await task
        assert await asyncio.sleep(0.001, "slept") == "slept"
        assert await asyncio.gather(queue.put(5), queue.get()) == [None, 5]
        async with asyncio.TaskGroup() as group:
            made = [group.create_task(asyncio.sleep(0, n), name="n") for n in range(5)]
        assert [task.result() for task in made] == list(range(5))
        assert not lock.locked()
        async with asyncio.Condition(lock) as entered:
            assert entered is None and lock.locked()
        never = asyncio.get_running_loop().create_future()
        both = [asyncio.shield(asyncio.sleep(0, 5)), never]
        done, pending = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        assert [future.result() for future in done] == [5]
        assert pending == {never}
    finally:
        aioloop.accelerate(False)
    assert asyncio.sleep is sleep


# Input and output.


@covers(
    "base/arena",
    "core/cork",
    "io/sock",
    "io/stream",
    "io/begin",
    "io/write",
    "io/outbuf",
    "io/protocol",
    "io/flow",
    "io/transport",
    "io/socket_transport",
    "io/reader",
    "io/server",
    "loop/net",
)
async def streams():
    await echo_over_streams()


@covers("io/tls")
async def tls():
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(CERTIFICATE)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    await echo_over_streams({"ssl": server}, {"ssl": client})


async def echo_over_streams(server_options=None, client_options=None):
    async def serve(reader, writer):
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
            writer.write(await reader.readexactly(len(LARGE)))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, **(server_options or {}))
    port = server.sockets[0].getsockname()[1]
    options = client_options or {}
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)
    for part in (b"he", b"llo\n", LARGE):
        writer.write(part)
    assert await read_exactly(reader, 6) == b"hello\n"
    assert await read_exactly(reader, len(LARGE)) == LARGE
    writer.close()
    await asyncio.wait_for(writer.wait_closed(), LIMIT)
    server.close()


@covers("io/info", "io/trsock", "base/fileid")
async def what_transports_tell():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "socket")
        server = await asyncio.start_unix_server(
            lambda reader, writer: writer.close(), path
        )
        reader, writer = await asyncio.open_unix_connection(path)
        assert writer.get_extra_info("peername") == path
        assert writer.get_extra_info("socket").fileno() >= 0
        assert await asyncio.wait_for(reader.read(), LIMIT) == b""
        writer.close()
        server.close()


@covers("io/sockops", "io/addr", "task/lazy", "loop/sockets")
async def socket_operations():
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        listener.setblocking(False)
        client.setblocking(False)
        host, port = listener.getsockname()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        assert found[0][4] == (host, port)
        accepting = asyncio.create_task(loop.sock_accept(listener))
        await loop.sock_connect(client, (host, port))
        served, _ = await asyncio.wait_for(accepting, LIMIT)
        with served:
            receiving = asyncio.create_task(loop.sock_recv(served, 100))
            await asyncio.sleep(0)
            await loop.sock_sendall(client, b"hello")
            received = await asyncio.wait_for(receiving, LIMIT)
            while len(received) < 5:
                received += await asyncio.wait_for(loop.sock_recv(served, 100), LIMIT)
            assert received == b"hello"


@covers("io/dgram")
async def datagrams():
    loop = asyncio.get_running_loop()
    received = loop.create_future()

    class Server(asyncio.DatagramProtocol):
        def datagram_received(self, data, address):
            received.set_result(data)

    server, _ = await loop.create_datagram_endpoint(Server, ("127.0.0.1", 0))
    client, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=server.get_extra_info("sockname")
    )
    client.sendto(b"datagram")
    assert await asyncio.wait_for(received, LIMIT) == b"datagram"
    client.close()
    server.close()


@covers("io/pipe")
async def subprocesses():
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import sys; sys.stdout.write(sys.stdin.read().upper()); sys.exit(3)",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(b"pipe"), LIMIT)
    assert (output, process.returncode) == (b"PIPE", 3)


# The loop as a program sees it.


@covers("loop/jobs")
async def jobs():
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(None, int) == 0
    answers = await asyncio.gather(*(asyncio.to_thread(abs, -i) for i in range(100)))
    assert answers == list(range(100))
    try:
        await loop.run_in_executor(None, divmod, 1, 0)
    except ZeroDivisionError:
        pass
    else:
        raise AssertionError("no exception")


@covers("module", "base/state", "loop/loop")
def life_of_a_loop():
    version, kind = aioloop.libev_version().split()
    assert version and kind in ("bundled", "system")
    loop = aioloop.new_event_loop()
    assert isinstance(loop, asyncio.SelectorEventLoop)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert loop.is_closed()


@covers("base/layout")
def insides_of_python():
    assert aioloop._core._layouts_off() == []


@covers("loop/drive", "core/override", "core/standin", "core/watch", "base/origin")
def a_program_with_a_loop_of_its_own():
    loop = aioloop.new_event_loop()
    seen = []
    now = [1000.0]
    loop.time = lambda: now[0]
    loop.call_later(3600, seen.append, "an hour later")
    now[0] += 3601
    asyncio.events._set_running_loop(loop)
    try:
        loop.call_soon(seen.append, "now")
        while loop._ready or len(seen) < 2:
            loop._run_once()
    finally:
        asyncio.events._set_running_loop(None)
    assert sorted(seen) == ["an hour later", "now"]
    loop.close()


@covers("core/debug", "core/stack", "core/report")
async def debug_mode():
    loop = asyncio.get_running_loop()
    contexts = []
    loop.set_exception_handler(lambda loop, context: contexts.append(context))
    loop.set_debug(True)
    loop.call_soon(lambda: 1 / 0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [type(context["exception"]) for context in contexts] == [ZeroDivisionError]
    future = loop.create_future()
    assert "smoke.py" in repr(future)


@covers("core/meter", "core/cycles", "core/usage", "core/recorder")
async def metrics():
    loop = asyncio.get_running_loop()
    loop.metering = True
    before = loop.metrics()
    for _ in range(100):
        await asyncio.sleep(0)
    interval = loop.metrics() - before
    assert interval.iterations >= 100
    assert loop.recent_callbacks()
    assert json.loads(loop.chrome_trace())
    assert loop.usage()
    loop.metering = False


@covers("core/misuse")
async def what_is_lost():
    async def fail():
        raise ValueError("lost")

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)
    asyncio.create_task(fail())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()
    lost = [orphan.kind for orphan in aioloop.orphans()]
    assert "unretrieved_exceptions" in lost


# Diagnosis.


@covers("diag/blocking")
async def blocking_calls():
    loop = asyncio.get_running_loop()
    loop.blocking_calls = "raise"
    try:
        time.sleep(0.001)
    except aioloop.BlockingCallError:
        pass
    else:
        raise AssertionError("a blocking call was not noticed")
    finally:
        loop.blocking_calls = None


@covers("diag/waits")
async def a_dump():
    task = asyncio.create_task(asyncio.sleep(1000), name="the sleeper")
    await asyncio.sleep(0)
    text = io.StringIO()
    aioloop.dump(text)
    assert "the sleeper" in text.getvalue()
    task.cancel()


@covers("core/virtual")
def a_clock_of_a_test():
    import aioloop.testing

    with asyncio.Runner(loop_factory=aioloop.testing.new_event_loop) as runner:
        runner.run(asyncio.sleep(3600))
        assert runner.get_loop().time() == 3600


@covers("core/order")
def an_order_by_lot():
    import aioloop.testing

    async def main():
        seen = []

        async def child(n):
            for _ in range(2):
                seen.append(n)
                await asyncio.sleep(0)

        await asyncio.gather(*(child(n) for n in range(10)))
        return seen

    first, again, other = (
        aioloop.testing.run(main(), order="seeded", seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert sorted(first) == sorted(other)


@covers("core/faults", "core/trace")
def faults_and_the_last_steps():
    from aioloop.testing import Faults, current_faults, run

    async def main():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(ours, bytes(1000))
            ours.shutdown(socket.SHUT_WR)
            received = b""
            while data := await loop.sock_recv(theirs, 1000):
                received += data
            assert received == bytes(1000)
        assert current_faults()
        raise LookupError("told with the last steps")

    try:
        run(main(), seed=1, faults=Faults(short_io=1.0))
    except LookupError as error:
        assert any("the last " in note for note in error.__notes__)


@covers("diag/leaks", needs_gil=True)
async def a_task_that_nothing_can_wake():
    async def forgotten():
        await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(forgotten())
    await asyncio.sleep(0)
    text = io.StringIO()
    aioloop.dump(text, leaks=True)
    assert "LEAK: 1 task waits for" in text.getvalue()
    task.cancel()


@covers("diag/knock")
def a_dump_by_a_signal():
    code = """if True:
        import asyncio, os, signal, sys, aioloop
        aioloop.dump_on_signal(signal.SIGUSR2)
        async def main():
            task = asyncio.create_task(asyncio.sleep(1000), name="the sleeper")
            os.kill(os.getpid(), signal.SIGUSR2)
            while not os.path.getsize(sys.argv[1]):
                await asyncio.sleep(0.01)
        aioloop.run(main())
    """
    with tempfile.NamedTemporaryFile() as file:
        command = [sys.executable, "-c", code, file.name]
        subprocess.run(command, stderr=file, timeout=LIMIT, check=True)


@covers("diag/stall", "diag/frames", "diag/peek", "diag/kernel", needs_gil=True)
def a_stall():
    code = """if True:
        import os, time, aioloop
        async def main():
            while not os.path.getsize(2):
                time.sleep(0.2)
        aioloop.run(main(), stall_threshold=0.05)
    """
    with tempfile.TemporaryFile() as file:
        command = [sys.executable, "-c", code]
        subprocess.run(command, stderr=file, timeout=LIMIT, check=True)
        file.seek(0)
        assert b"main" in file.read()


@covers("diag/alarm")
def a_program_that_does_not_end():
    code = """if True:
        import asyncio, os, aioloop
        async def stubborn():
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                while not os.path.getsize(2):
                    await asyncio.sleep(0.01)
        async def main():
            asyncio.get_running_loop().shutdown_threshold = 0.05
            task = asyncio.create_task(stubborn())
            await asyncio.sleep(0)
        aioloop.run(main())
    """
    with tempfile.TemporaryFile() as file:
        command = [sys.executable, "-c", code]
        subprocess.run(command, stderr=file, timeout=LIMIT, check=True)
        file.seek(0)
        assert b"stubborn" in file.read()


def main():
    """Run all checks; return how many failed."""
    failed = 0
    checks = [check for check, _ in CHECKS if not (FREE_THREADED and check in NEED_GIL)]
    for check in checks:
        try:
            if inspect.iscoroutinefunction(check):
                aioloop.run(asyncio.wait_for(check(), LIMIT))
            else:
                check()
        except Exception:
            failed += 1
            print(f"{check.__name__}: FAILED")
            traceback.print_exc()
    print(
        f"aioloop {aioloop.__version__}, libev {aioloop.libev_version()},"
        f" Python {sys.version.split()[0]}: {len(checks) - failed} checks passed,"
        f" {failed} failed"
    )
    return failed


if __name__ == "__main__":
    sys.exit(bool(main()))
