"""What people do with nest_asyncio: run a loop inside of itself.

The loop runs already when it is patched, as in Jupyter, unless the argument ``before``
is given. Each scenario prints what it saw; an exception is printed as well, because
nest_asyncio is not maintained, and what it lacks on a newer Python has to look the same
on every loop.
"""

import asyncio
import contextvars
import os
import signal
import socket
import sys
import threading
import time

import nest_asyncio

LIMIT = 20


def run(coro):
    """Run a coroutine to its end, also from inside a callback or task."""
    return asyncio.get_event_loop().run_until_complete(coro)


async def value_after(delay, value):
    await asyncio.sleep(delay)
    return value


async def nested_run_until_complete():
    print(run(value_after(0, "a")), run(value_after(0.01, "b")))


async def nested_asyncio_run():
    print(asyncio.run(value_after(0.01, "c")))


async def five_levels():
    async def level(n):
        await asyncio.sleep(0.001)
        if n == 5:
            return [n]
        return [n, *run(level(n + 1)), n]

    print(await level(1))


async def exceptions_come_out():
    async def fail():
        await asyncio.sleep(0)
        raise ValueError("from inside")

    try:
        run(fail())
    except ValueError as exc:
        print(exc)


async def timers_keep_their_order():
    loop = asyncio.get_running_loop()
    seen = []
    for delay in (0.03, 0.01, 0.02, 0):
        loop.call_later(delay, seen.append, delay)
    loop.call_later(0.005, seen.append, "never").cancel()
    began = loop.time()
    run(asyncio.sleep(0.04))
    print(seen, 0.04 <= loop.time() - began < 5)


async def callbacks_keep_their_order():
    loop = asyncio.get_running_loop()
    seen = []
    for i in range(5):
        loop.call_soon(seen.append, i)

    def nest():
        seen.append("in")
        run(asyncio.sleep(0))
        seen.append("out")

    loop.call_soon(nest)
    loop.call_soon(seen.append, 5)
    await asyncio.sleep(0.01)
    print(seen)


async def tasks_outside_go_on():
    seen = []

    async def ticker():
        for i in range(1000):
            seen.append(i)
            await asyncio.sleep(0)

    task = asyncio.ensure_future(ticker())
    run(asyncio.sleep(0.05))
    print(len(seen) > 10)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        print("cancelled")


async def older_tasks_go_on(queue):
    """A task that was made before the loop was patched answers."""
    future = asyncio.get_running_loop().create_future()
    queue.put_nowait((future, 21))
    print(run(future))


async def current_task_is_restored():
    before = asyncio.current_task()
    run(asyncio.sleep(0.001))
    print(asyncio.current_task() is before)


async def context_is_restored():
    var = contextvars.ContextVar("var", default="unset")

    async def change():
        var.set("inner")
        await asyncio.sleep(0)
        return var.get()

    var.set("outer")
    print(run(change()), var.get())


async def readers():
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    future = loop.create_future()
    loop.add_reader(ours, lambda: future.set_result(ours.recv(10)))
    loop.call_later(0.01, theirs.send, b"hello")
    print(run(future))
    loop.remove_reader(ours)

    async def both():
        await loop.sock_sendall(theirs, b"x" * 100_000)
        theirs.close()

    async def drain():
        size = 0
        while data := await loop.sock_recv(ours, 4096):
            size += len(data)
        return size

    task = asyncio.ensure_future(both())
    print(run(drain()))
    await task
    ours.close()


async def streams():
    async def serve(reader, writer):
        while line := await reader.readline():
            # The answer comes out of a loop inside of the server's task.
            writer.write(run(value_after(0.001, line.upper())))
            await writer.drain()
        writer.close()

    async def talk(port, text):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answers = []
        for i in range(3):
            writer.write(f"{text} {i}\n".encode())
            answers.append((await reader.readline()).decode().strip())
        writer.close()
        return answers

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    print(run(talk(port, "one")))
    print(run(asyncio.gather(*(talk(port, f"many{n}") for n in range(3)))))
    server.close()


async def big_stream():
    async def serve(reader, writer):
        data = await reader.readexactly(3_000_000)
        writer.write(data)
        await writer.drain()
        writer.close()

    async def talk(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"z" * 3_000_000)
        size = len(await reader.read(-1))
        writer.close()
        return size

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(run(talk(server.sockets[0].getsockname()[1])))
    server.close()


async def subprocesses():
    async def shell(text):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "import sys; print(sys.stdin.read()[::-1])",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate(text.encode())
        return out.decode().strip(), process.returncode

    print(run(shell("olleh")))


async def threads():
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def other():
        time.sleep(0.02)
        loop.call_soon_threadsafe(future.set_result, "from a thread")

    thread = threading.Thread(target=other)
    thread.start()
    print(run(future))
    thread.join()
    print(run(loop.run_in_executor(None, sum, range(10))))
    answer = []
    thread = threading.Thread(
        target=lambda: answer.append(
            asyncio.run_coroutine_threadsafe(value_after(0.01, "d"), loop).result(LIMIT)
        )
    )
    thread.start()
    while not answer:
        run(asyncio.sleep(0.005))
    thread.join()
    print(answer)


async def signal_handlers():
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.add_signal_handler(signal.SIGUSR1, future.set_result, "signal")
    threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    print(run(future))
    loop.remove_signal_handler(signal.SIGUSR1)


async def keyboard_interrupts():
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    main_thread = threading.main_thread().ident
    threading.Timer(0.02, signal.pthread_kill, (main_thread, signal.SIGINT)).start()
    try:
        run(asyncio.sleep(LIMIT))
    except KeyboardInterrupt:
        print("interrupted")
    signal.signal(signal.SIGINT, old)
    print(run(value_after(0.001, "and alive")))


async def stopped():
    loop = asyncio.get_running_loop()
    loop.call_soon(loop.stop)
    try:
        run(asyncio.sleep(LIMIT))
    except RuntimeError as exc:
        print(exc)
    loop._stopping = False


async def groups_and_queues():
    queue = asyncio.Queue(2)

    async def produce():
        for i in range(10):
            await queue.put(i)
        await queue.put(None)

    async def consume():
        seen = []
        while (item := await queue.get()) is not None:
            seen.append(run(value_after(0, item)))
        return seen

    print(run(asyncio.gather(produce(), consume())))


async def timeouts():
    try:
        run(asyncio.wait_for(asyncio.sleep(LIMIT), 0.01))
    except TimeoutError:
        print("timed out")


async def asynchronous_generators():
    async def count():
        for i in range(3):
            yield run(value_after(0.001, i))

    print([i async for i in count()])


SCENARIOS = [
    nested_run_until_complete,
    nested_asyncio_run,
    five_levels,
    exceptions_come_out,
    timers_keep_their_order,
    callbacks_keep_their_order,
    tasks_outside_go_on,
    current_task_is_restored,
    context_is_restored,
    readers,
    streams,
    big_stream,
    subprocesses,
    threads,
    signal_handlers,
    keyboard_interrupts,
    stopped,
    groups_and_queues,
    timeouts,
    asynchronous_generators,
    older_tasks_go_on,
]


async def answer(queue):
    while True:
        future, number = await queue.get()
        await asyncio.sleep(0.001)
        future.set_result(number * 2)


async def main(patch=True):
    queue = asyncio.Queue()
    older = asyncio.ensure_future(answer(queue))
    await asyncio.sleep(0)
    if patch:
        nest_asyncio.apply()
    for scenario in SCENARIOS:
        name = scenario.__name__
        arguments = (queue,) if scenario is older_tasks_go_on else ()
        try:
            print(f"{name}:", flush=True)
            await asyncio.ensure_future(scenario(*arguments))
        except Exception as exc:
            print("    ", type(exc).__name__, exc)
    older.cancel()
    await asyncio.gather(older, return_exceptions=True)
    print(type(asyncio.get_running_loop()).__mro__[-4].__name__)


if __name__ == "__main__":
    if "before" in sys.argv[1:]:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        nest_asyncio.apply()
        asyncio.run(main(patch=False))
        loop.close()
    else:
        asyncio.run(main())
