"""dump(), dump_on_signal() and --dump-signal: what a user reads."""

import io
import json
import os
import re
import signal

import pytest

import aioloop
from tests.conftest import LIMIT, needs_gil


def header(text, task):
    """The line that begins the part of a task."""
    lines = [line for line in text.splitlines() if line.startswith(f"{task} ")]
    assert len(lines) == 1, text
    return lines[0]


def test_what_tasks_wait_for(output):
    text = output("""
        async def sleeper(): await asyncio.sleep(100)
        async def getter(queue): await queue.get()
        async def putter(queue): await queue.put(2)
        async def joiner(queue): await queue.join()
        async def holder(lock, event):
            async with lock:
                await event.wait()
        async def locker(lock):
            async with lock: pass
        async def semaphored(semaphore):
            async with semaphore: pass
        async def conditioned(condition):
            async with condition:
                await condition.wait()
        async def gatherer(tasks): await asyncio.gather(*tasks)
        async def waiter(tasks): await asyncio.wait(tasks)
        async def timed(event):
            async with asyncio.timeout(50):
                await event.wait()
        async def shielder(task): await asyncio.shield(task)
        async def parent(child): await child
        async def worker(): await asyncio.to_thread(os.read, os.pipe()[0], 1)
        async def grouped(coroutine):
            async with asyncio.TaskGroup() as group:
                group.create_task(coroutine, name="grouped child")
        async def future(): await asyncio.get_running_loop().create_future()
        async def generator():
            async def items():
                yield await asyncio.get_running_loop().create_future()
            async for _ in items(): pass

        async def main():
            tasks = {}
            def task(coroutine):
                name = coroutine.cr_code.co_name
                tasks[name] = asyncio.create_task(coroutine, name=f"T-{name}")
                return tasks[name]
            full = asyncio.Queue(1)
            full.put_nowait(1)
            lock, event = asyncio.Lock(), asyncio.Event()
            semaphore = asyncio.Semaphore(1)
            task(sleeper()); task(getter(asyncio.Queue())); task(putter(full))
            task(joiner(full)); task(holder(lock, event))
            task(holder(semaphore, event))
            await turns()
            task(locker(lock)); task(semaphored(semaphore))
            task(conditioned(asyncio.Condition()))
            task(gatherer([tasks["sleeper"], tasks["getter"]]))
            task(waiter([tasks["putter"]]))
            task(timed(event)); task(shielder(tasks["getter"]))
            task(parent(tasks["sleeper"])); task(worker())
            task(grouped(getter(asyncio.Queue())))
            task(future()); task(generator())
            await turns()
            aioloop.dump(sys.stdout)
            sys.stdout.flush()
            os._exit(0)
        aioloop.run(main())
    """)
    for task, expected in {
        "T-sleeper": r"waiting for sleep until \d\d:\d\d:\d\d \(in 100 s\)",
        "T-getter": r"waiting for Queue.get \(it is empty\)",
        "T-putter": r"waiting for Queue.put \(it is full\)",
        "T-joiner": r"waiting for Queue.join \(1 item not done\)",
        "T-locker": r'waiting for Lock held by T-holder "holder"',
        "T-semaphored": r'waiting for Semaphore held by T-holder "holder"',
        "T-conditioned": "waiting for Condition.wait",
        "T-gatherer": 'waiting for gather of T-sleeper "sleeper", T-getter "getter"',
        "T-waiter": 'waiting for wait of T-putter "putter"',
        "T-timed": r"waiting for Event.wait, 0.\d s, times out in 50 s",
        "T-shielder": 'waiting for shield of T-getter "getter"',
        "T-parent": 'waiting for T-sleeper "sleeper"',
        "T-worker": r"waiting for (the executor's job posix.read in thread asyncio_0"
        r"|a free thread for the executor's job posix.read)",
        "T-grouped": 'waiting for TaskGroup of grouped child "getter"',
        "T-future": "waiting for a future",
        "T-generator": "waiting for a future",
    }.items():
        line = header(text, task)
        assert re.search(rf'^{task} "{task[2:]}" \[{expected}[,\]]', line), line
    assert header(text, "Task-1").startswith('Task-1 "main" [running]')


def test_frames_sources_and_places_of_creation(output):
    text = output("""
        async def fetch(queue):
            return await queue.get()

        async def main():
            asyncio.get_running_loop().slow_callback_duration = 10
            task = asyncio.create_task(fetch(asyncio.Queue()))
            await turns()
            aioloop.dump(sys.stdout)
            task.cancel()
        aioloop.run(main(), debug=True)
    """)
    part = text[text.index('Task-2 "fetch"') :].splitlines()
    assert re.fullmatch(
        r'Task-2 "fetch" \[waiting for Queue\.get \(it is empty\), 0\.\d s\]'
        r" created at app\.py:14 in main",
        part[0],
    )
    assert part[1] == "  ├── fetch app.py:10    return await queue.get()"
    assert re.fullmatch(
        r"  └── Queue.get asyncio/queues.py:\d+    await getter", part[2]
    )


def test_the_age_of_a_wait(output):
    text = output("""
        async def main():
            task = asyncio.create_task(asyncio.Event().wait())
            await asyncio.sleep(1.2)
            aioloop.dump(sys.stdout)
            task.cancel()
        aioloop.run(main())
    """)
    assert re.search(r"waiting for Event.wait, 1\.[1-9] s\]", header(text, "Task-2"))


def test_a_deadlock_of_two_locks(output):
    text = output("""
        async def transfer(first, second):
            async with first:
                await turns(1)
                async with second:
                    pass

        async def main():
            a, b = asyncio.Lock(), asyncio.Lock()
            tasks = [asyncio.create_task(transfer(*pair)) for pair in ((a, b), (b, a))]
            await turns()
            aioloop.dump(sys.stdout)
            for task in tasks: task.cancel()
        aioloop.run(main())
    """)
    assert (
        'DEADLOCK: Task-2 "transfer" waits for Lock held by Task-3 "transfer", which'
        ' waits for Lock held by Task-2 "transfer": none of them can go on\n'
    ) in text
    assert '      └── (T) Task-2 "transfer" (above: a circle)\n' in text or (
        '└── (T) Task-2 "transfer" (above: a circle)\n' in text
    )


def test_a_circle_of_tasks_that_await_each_other(output):
    text = output("""
        async def awaits(name):
            await tasks[name]

        async def main():
            for name, other in ("ab", "bc", "ca"):
                tasks[name] = asyncio.create_task(awaits(other), name=name)
            await turns()
            aioloop.dump(sys.stdout)
            sys.stdout.flush()
            os._exit(0)  # Cancelling a circle recurses, in asyncio too.
        tasks = {}
        aioloop.run(main())
    """)
    line = next(line for line in text.splitlines() if line.startswith("DEADLOCK"))
    assert line.count("waits for") == 3
    assert {f'{name} "awaits"' in line for name in "abc"} == {True}


def test_a_diamond_is_shown_once(output):
    text = output("""
        async def end(): await asyncio.sleep(100)
        async def side(task): await asyncio.sleep(0); await asyncio.wait([task])
        async def top(left, right): await asyncio.gather(left, right)

        async def main():
            make = asyncio.create_task
            bottom = make(end(), name="bottom")
            middle = make(side(bottom), name="middle")
            left = make(side(middle), name="left")
            right = make(side(middle), name="right")
            above = make(top(left, right), name="top")
            await turns()
            aioloop.dump(sys.stdout)
            for task in asyncio.all_tasks(): task.cancel()
        try:
            aioloop.run(main())
        except asyncio.CancelledError:
            pass
    """)
    tree = text[text.index("who waits for whom:") :].splitlines()[1:7]
    names = [re.sub(r" \[.*", "", line) for line in tree]
    assert names == [
        '  (T) top "top"',
        '  ├── (T) left "side"',
        '  │   └── (T) middle "side"',
        '  │       └── (T) bottom "end"',
        '  └── (T) right "side"',
        '      └── (T) middle "side" (above)',
    ]
    assert "DEADLOCK" not in text


def test_the_size_is_linear(output):
    sizes = output("""
        import io
        async def awaits(task): await task

        async def main():
            end = asyncio.get_running_loop().create_future()
            last = end
            for size in (200, 200, 400):
                for _ in range(size):
                    last = asyncio.ensure_future(awaits(last))
                await turns(2)
                file = io.StringIO()
                aioloop.dump(file)
                print(len(file.getvalue()))
            end.set_result(None)
            await last
        aioloop.run(main())
    """)
    first, second, third = map(int, sizes.split())
    assert second < 2.2 * first
    assert third < 2.2 * second


def test_what_keeps_the_loop_alive(output):
    text = output("""
        import signal
        async def agen():
            yield 1
        async def main():
            loop = asyncio.get_running_loop()
            async def serve(reader, writer):
                writer.write(bytes(10_000_000))
                writer.transport.pause_reading()
                await writer.drain()
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=10)
            await reader.readexactly(1)
            loop.call_later(100, print)
            loop.add_signal_handler(signal.SIGTERM, print)
            generator = agen()
            await anext(generator)
            blocked = loop.run_in_executor(None, os.read, os.pipe()[0], 1)
            child = await asyncio.create_subprocess_exec("sleep", "100")
            while True:
                import io
                file = io.StringIO()
                aioloop.dump(file)
                text = file.getvalue()
                if "to send" in text and "executor jobs" in text: break
                await asyncio.sleep(0.01)
            child.kill()
            await child.wait()
            print(text, port, flush=True)
            os._exit(0)
        aioloop.run(main())
    """)
    port = text.rpartition(" ")[2].strip()
    alive = text[text.index("what keeps the loop alive:") :]
    assert re.search(
        r"timers \(\d\)\n(.*\n)*?    in 100 s: builtins.print|in 100 s: print", alive
    )
    assert re.search(rf"servers \(1\)\n    fd \d+ 127\.0\.0\.1:{port}\n", alive)
    assert re.search(
        r"fd \d+ 127\.0\.0\.1:\d+, \d+ bytes to send, reading is paused,"
        r" its protocol has been told to pause writing",
        alive,
    )
    assert re.search(r"executor jobs \(1\)\n    .*read", alive)
    assert re.search(r"signal handlers \(1\)\n    SIGTERM: print", alive)
    assert re.search(r"asynchronous generators \(1\)\n    app.py:11 in agen", alive)
    assert re.search(r"children \(1\)\n    pid \d+", alive)
    assert re.search(r"waiting for 127\.0\.0\.1:\d+ to take \d+ bytes", text)


def test_a_timer_of_nobodys_goes_by_its_function(output):
    """Also beside a task that waits for nothing."""
    text = output("""
        def plain(): pass
        async def main():
            asyncio.get_running_loop().call_later(100, plain)
            aioloop.dump(sys.stdout)
        aioloop.run(main())
    """)
    assert re.search(r"timers \(1\)\n    in [^:]*: plain at app\.py:\d+\n", text)


def test_sockets_and_children_in_words(output):
    text = output("""
        import socket
        async def accepts(sock): await asyncio.get_running_loop().sock_accept(sock)
        async def receives(sock): await asyncio.get_running_loop().sock_recv(sock, 1)
        async def reads(reader): await reader.readline()
        async def waits(child): await child.wait()
        async def main():
            listener = socket.create_server(("127.0.0.1", 0))
            listener.setblocking(False)
            server = await asyncio.start_server(
                lambda r, w: keep.append(w), "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            one, two = socket.socketpair()
            one.setblocking(False)
            child = await asyncio.create_subprocess_exec("sleep", "100")
            tasks = [accepts(listener), receives(one), reads(reader), waits(child)]
            tasks = [asyncio.create_task(c, name=c.cr_code.co_name) for c in tasks]
            await turns()
            aioloop.dump(sys.stdout)
            child.kill()
            await child.wait()
            print(port, listener.getsockname()[1], child.pid, flush=True)
            os._exit(0)
        keep = []
        aioloop.run(main())
    """)
    port, listening, pid = text.splitlines()[-1].split()
    accepts = rf"sock_accept on fd \d+ at 127\.0\.0\.1:{listening}"
    assert re.search(accepts, header(text, "accepts"))
    assert re.search(
        r"sock_recv on fd \d+ to an unnamed socket", header(text, "receives")
    )
    assert f"StreamReader.readline from 127.0.0.1:{port}," in header(text, "reads")
    assert f"child process {pid} (sleep 100)" in header(text, "waits")


def test_the_task_that_asks(output):
    """Python 3.11 and 3.12 crashed: they take a counter of the interpreter's, next to
    the call, for a place where the coroutine awaits, and look at no stack."""
    text = output("""
        import io

        class Dump:
            def __call__(self):
                text = io.StringIO()
                aioloop.dump(text)
                return text.getvalue()

        async def main():
            dump = Dump()
            for _ in range(200):
                text = dump()
            print(text)
        aioloop.run(main())
    """)
    assert header(text, "Task-1").endswith("[running]")


def test_json(output):
    found = json.loads(
        output("""
        async def main():
            task = asyncio.create_task(asyncio.Event().wait(), name="waits")
            await turns()
            aioloop.dump(sys.stdout, format="json")
            task.cancel()
        aioloop.run(main())
    """)
    )
    (loop,) = found["loops"]
    main, waits = loop["tasks"]
    assert loop["thread"] == "MainThread"
    assert loop["state"] == "in a callback"
    assert main["state"] == "running"
    assert waits["state"] == "waiting"
    assert waits["wait"]["kind"] == "event"
    assert waits["wait"]["text"] == "Event.wait"
    assert waits["stack"][-1]["function"] == "Event.wait"
    assert 0 <= waits["waited"] < LIMIT
    assert waits["header"].startswith('waits "Event.wait" [waiting for Event.wait, ')


def read_dump(process, last):
    """Read stderr until the line that a dump ends with."""
    lines = []
    while not lines or not re.search(last, lines[-1]):
        line = process.stderr.readline()
        assert line, "".join(lines)
        lines.append(line)
    return "".join(lines)


STUCK = """
        async def bystander(): await asyncio.Event().wait()
        def block():
            print("blocked", flush=True)
            os.read(0, 1)
        async def render(): block()
        async def main():
            task = asyncio.create_task(bystander(), name="last")
            await turns()
            await asyncio.create_task(render(), name="first")
            print("goes on", flush=True)
"""


@needs_gil("a loop that is stuck answers nothing")
@pytest.mark.parametrize("by_option", [False, True])
def test_a_signal_dumps_a_stuck_loop(program, by_option):
    if by_option:
        source = STUCK + "        asyncio.run(main())"
        process = program(source, "-m", "aioloop", "--dump-signal")
    else:
        process = program(
            STUCK + "        aioloop.dump_on_signal()\n        aioloop.run(main())"
        )
    assert process.stdout.readline() == "blocked\n"
    process.send_signal(signal.SIGUSR2)
    text = read_dump(process, r"Event\.wait asyncio")
    assert (
        "the loop of thread MainThread, which has not answered for 0.2 s: it is" in text
    )
    assert re.search(
        r'first "render" \[running\]\n'
        r"  ├── render app\.py:\d+    async def render\(\): block\(\)\n"
        r"  └── block app\.py:\d+    os\.read\(0, 1\)\n",
        text,
    )
    process.stdin.write("x")
    process.stdin.flush()
    assert process.stdout.readline() == "goes on\n"


def test_a_signal_dumps_an_idle_loop_and_any_number_of_times(program):
    process = program("""
        def tell(loop):
            for _ in sys.stdin:
                while not aioloop._core._loop_state(loop)[0]:
                    time.sleep(0.001)
                print("waits", flush=True)
        async def main():
            loop = asyncio.get_running_loop()
            threading.Thread(target=tell, args=(loop,), daemon=True).start()
            await asyncio.Event().wait()
        aioloop.dump_on_signal()
        aioloop.run(main())
    """)
    for _ in range(3):
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "waits\n"
        process.send_signal(signal.SIGUSR2)
        text = read_dump(process, r"Event\.wait asyncio")
        assert "the loop of thread MainThread, waiting for events; 1 task" in text
        assert 'Task-1 "main" [waiting for Event.wait, ' in text


def test_a_signal_where_no_thread_could_be_started(output):
    """It writes into no descriptor that has the number of a pipe that was given up."""
    text = output("""
        import signal

        start = threading.Thread.start

        def refuse(thread):
            raise RuntimeError("can't start new thread")

        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        threading.Thread.start = refuse
        try:
            aioloop.dump_on_signal(signal.SIGUSR1)
        except RuntimeError:
            pass
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.kill(os.getpid(), signal.SIGUSR1)
        try:
            print(os.read(reader, 1))
        except BlockingIOError:
            pass
        threading.Thread.start = start
        read, write = os.pipe()
        sys.stderr = os.fdopen(write, "w")
        aioloop.dump_on_signal(signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR1)
        print(os.read(read, 100).decode())
    """)
    assert text.startswith("aioloop dump of process")


def test_a_signal_after_one_that_could_not_be_answered(output):
    text = output("""
        import io, signal, threading

        failed, done = threading.Event(), threading.Event()

        class File(io.StringIO):
            def flush(self):
                done.set()

        threading.excepthook = lambda args: failed.set()
        closed, file = io.StringIO(), File()
        closed.close()
        aioloop.dump_on_signal(signal.SIGUSR1, file=closed)
        os.kill(os.getpid(), signal.SIGUSR1)
        failed.wait()
        aioloop.dump_on_signal(signal.SIGUSR1, file=file)
        os.kill(os.getpid(), signal.SIGUSR1)
        done.wait()
        print(file.getvalue())
    """)
    assert "aioloop dump of process" in text


def test_a_signal_in_the_child_of_a_fork(program):
    process = program("""
        async def main():
            print(os.getpid(), flush=True)
            await asyncio.Event().wait()
        aioloop.dump_on_signal()
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
        else:
            aioloop.run(main())
    """)
    child = int(process.stdout.readline())
    try:
        os.kill(child, signal.SIGUSR2)
        text = read_dump(process, r"Event\.wait asyncio")
    finally:
        os.kill(child, signal.SIGKILL)
    assert f"dump of process {child}," in text
    assert process.wait(LIMIT) == 0


def test_several_loops_and_none():
    file = io.StringIO()
    aioloop.dump(file)
    assert file.getvalue().endswith("\nno loop runs\n")


def test_a_loop_that_does_not_run(loop):
    async def forever():
        await loop.create_future()

    task = loop.create_task(forever())
    loop.call_soon(loop.stop)
    loop.run_forever()
    file = io.StringIO()
    aioloop.dump(file, loop=loop)
    assert "\na loop that does not run; 1 task, 0 ready to run\n" in file.getvalue()
    assert "[waiting for a future" in file.getvalue()
    task.cancel()


def test_wrong_arguments(loop):
    with pytest.raises(ValueError, match="format is 'text' or 'json', not 'xml'"):
        aioloop.dump(format="xml")
    with pytest.raises(TypeError, match="an aioloop loop was expected, got 5"):
        aioloop.dump(loop=5)
    with pytest.raises(OSError):
        aioloop.dump_on_signal(signal.SIGKILL)
