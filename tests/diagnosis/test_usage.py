"""loop.usage() and loop.top(): who used the loop."""

import asyncio
import functools
import gc
import socket
import time
import weakref

import aioloop
from tests.conftest import needs_gil
from tests.diagnosis.metered import run


def named(usage, name):
    found = [use for use in usage if use.name.rpartition(".")[2] == name]
    assert len(found) == 1, str(usage)
    return found[0]


async def worker(times):
    for _ in range(times):
        time.sleep(0.01)
        await asyncio.sleep(0.001)


async def spinner():
    while True:
        await asyncio.sleep(0)


def callback():
    time.sleep(0.01)


def test_steps_and_times_by_coroutine_function():
    async def main(loop):
        waiting = loop.create_task(worker(1000))
        await asyncio.gather(worker(2), worker(3))
        usage = loop.usage()
        assert usage[0].name == "worker"
        use = usage[0]
        assert use.file == __file__
        assert use.line == worker.__code__.co_firstlineno
        assert use.kind == "task"
        assert use.steps >= 7 + 2
        assert use.alive == 1
        assert use.time >= 0.05
        assert 0.01 <= use.longest <= use.time
        assert use.queue_delay >= 0.01
        assert "worker" in str(usage) and not use.spins
        waiting.cancel()

    run(main)


def test_callbacks_of_all_kinds():
    class Callable:
        def __call__(self):
            callback()

    class Owner:
        def method(self, *args):
            callback()

    async def main(loop):
        loop.call_soon(callback)
        loop.call_soon(functools.partial(functools.partial(Owner().method, 1), 2))
        loop.call_soon(Callable())
        loop.call_soon(time.sleep, 0.001)
        loop.call_soon([].append, 1)
        loop.call_later(0, Owner().method)
        loop.call_soon(callback).cancel()
        loop.create_task(asyncio.sleep(0)).add_done_callback(Owner().method)
        await asyncio.sleep(0.1)
        usage = loop.usage()
        assert named(usage, "callback").steps == 1
        assert named(usage, "method").steps == 3
        assert named(usage, "method").kind == "callback"
        assert named(usage, "Callable").steps == 1
        assert named(usage, "sleep").steps >= 1
        assert named(usage, "append").name == "list.append"

    def named(usage, name):
        found = [
            use
            for use in usage
            if use.name.rpartition(".")[2] == name and use.kind == "callback"
        ]
        assert len(found) == 1, str(usage)
        return found[0]

    run(main)


def test_protocols():
    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(data)

    async def main(loop):
        a, b = socket.socketpair()
        b.setblocking(False)
        transport, _ = await loop.create_connection(Echo, sock=a)
        await loop.sock_sendall(b, b"x")
        assert await loop.sock_recv(b, 1) == b"x"
        use = named(loop.usage(), "data_received")
        assert "Echo" in use.name
        assert use.kind == "protocol"
        transport.close()
        b.close()
        await asyncio.sleep(0)

    run(main)


def test_top_is_of_its_own_seconds():
    async def main(loop):
        time.sleep(0.1)  # before, and much
        await asyncio.sleep(0)
        tasks = [loop.create_task(worker(1000)), loop.create_task(spinner())]
        top = await loop.top(2, seconds=0.15)
        assert len(top) == 2
        assert {use.name for use in top} == {"worker", "spinner"}
        spins = named(top, "spinner")
        assert spins.spins
        assert spins.alive == 1
        assert "spins on sleep(0)" in str(top)
        assert not named(top, "worker").spins
        assert named(top, "worker").longest < 0.1
        for task in tasks:
            task.cancel()

    run(main)


def test_top_turns_the_metering_on_for_a_while():
    async def main():
        loop = asyncio.get_running_loop()
        assert not loop.usage()
        task = loop.create_task(worker(1000))
        top = await loop.top(seconds=0.05)
        assert not loop.metering
        assert top[0].name == "worker"
        task.cancel()

    aioloop.run(main())


def test_a_difference_is_what_was_used_in_between():
    async def main(loop):
        await worker_task(loop, 3)
        before = loop.usage()
        await worker_task(loop, 1)
        use = named(loop.usage() - before, "worker")
        assert use.steps == 2
        assert 0.01 <= use.time < named(before, "worker").time + 0.01

    async def worker_task(loop, times):
        await loop.create_task(worker(times))

    run(main)


def test_more_functions_than_fit():
    async def main(loop):
        for i in range(3000):
            namespace = {}
            exec(f"def function{i}(): pass", namespace)
            loop.call_soon(namespace[f"function{i}"])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        usage = loop.usage()
        assert named(usage, "(others)").steps >= 3000 - 1023
        assert sum(use.steps for use in usage) >= 3000
        assert len(usage) <= 1024

    run(main)


@needs_gil("classes are immortal on 3.13")
def test_it_keeps_no_function_and_no_loop_alive():
    class Data:
        pass

    def closure(data):
        return lambda: data

    data = Data()
    alive = weakref.ref(data)
    loop = aioloop.new_event_loop()
    loop.metering = True
    loop.call_soon(closure(data))

    class Callable:
        owner = loop

        def __call__(self):
            pass

    loop.call_soon(Callable())
    loop.run_until_complete(asyncio.sleep(0))
    del data
    assert alive() is None
    loop.close()
    gone = weakref.ref(loop)
    del loop, Callable
    gc.collect()
    assert gone() is None
