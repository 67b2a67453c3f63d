"""Futures and tasks when memory runs out: every allocation fails once.

Each operation runs in a child process, again and again, with the n-th allocation
failing, for n up to more than any of them makes. It may raise MemoryError; it may not
crash, and the loop must work afterwards. Debug mode is left out: there CPython's own
code for coroutine origins crashes.
"""

import sys

import pytest

pytest.importorskip("_testcapi")

PROGRAM = """
import asyncio, contextvars, gc, sys, warnings
import _testcapi
import aioloop

warnings.simplefilter("ignore")
loop = aioloop.new_event_loop()
loop.set_exception_handler(lambda loop, context: None)


def turn(times=1):
    for _ in range(times):
        loop.call_soon(loop.stop)
        loop.run_forever()


def ignore(future):
    pass


def callbacks():
    future = loop.create_future()
    for _ in range(4):
        future.add_done_callback(ignore)
    future.add_done_callback(len, context=contextvars.Context())
    future._callbacks
    future.remove_done_callback(len)
    future.set_result(1)
    future.result()
    turn()


def outcomes():
    future = aioloop.Future(loop=loop)
    future.cancel("message")
    try:
        future.result()
    except asyncio.CancelledError:
        pass
    next(iter(loop.create_future()))
    future = loop.create_future()
    future.set_exception(ValueError)
    future.exception()


async def child(future):
    await asyncio.sleep(0)
    return await future


async def failing():
    raise KeyError


def tasks():
    future = loop.create_future()
    tasks = [loop.create_task(child(future)) for _ in range(3)]
    tasks.append(aioloop.Task(failing(), loop=loop, name="name"))
    turn(2)
    asyncio.all_tasks(loop)
    tasks[0].get_name()
    tasks[0].cancel()
    if not future.done():
        future.set_result(3)
    turn(3)


# Functions are defined out here: 3.12 and 3.13 crash where one cannot be allocated.
async def eager_tasks():
    aioloop.Task(failing(), loop=loop, eager_start=True)
    task = aioloop.Task(child(loop.create_future()), loop=loop, eager_start=True)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)


def eager():
    loop.create_task(eager_tasks())
    turn(4)


async def work(lock, queue):
    async with lock:
        await asyncio.sleep(0)
        await queue.put(1)
        queue.put_nowait(queue.get_nowait())


async def use_primitives():
    lock, queue = asyncio.Lock(), asyncio.PriorityQueue(1)
    tasks = [loop.create_task(work(lock, queue)) for _ in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    semaphore = asyncio.BoundedSemaphore(1)
    async with semaphore:
        tasks.append(loop.create_task(semaphore.acquire()))
        await queue.get()
        await queue.get()
        tasks[4].cancel()
    queue.task_done()
    await asyncio.sleep(1e-9)


def primitives():
    aioloop.accelerate()
    loop.create_task(use_primitives())
    turn(12)
    for task in asyncio.all_tasks(loop):
        task.cancel()
    turn(2)


async def end(number):
    await asyncio.sleep(0)
    if number == 3:
        raise ValueError(number)
    return number


async def use_gather():
    await asyncio.gather(end(1), end(2), loop.create_future(), return_exceptions=True)


async def use_gather_that_fails():
    await asyncio.gather(end(2), end(3), end(4))


def gathered():
    aioloop.accelerate()
    loop.create_task(use_gather())
    loop.create_task(use_gather_that_fails())
    turn(6)
    for task in asyncio.all_tasks(loop):
        task.cancel()
    turn(3)


async def use_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(end(1), name="one")
        group.create_task(end(2), context=contextvars.Context())
        await asyncio.sleep(0)
        group.create_task(asyncio.sleep(1000)).cancel()


async def use_group_that_fails():
    async with asyncio.TaskGroup() as group:
        group.create_task(end(2))
        group.create_task(end(3))


def grouped():
    aioloop.accelerate()
    loop.create_task(use_group())
    loop.create_task(use_group_that_fails())
    turn(8)
    for task in asyncio.all_tasks(loop):
        task.cancel()
    turn(4)


async def use_wait(when):
    futures = [loop.create_task(end(number)) for number in (1, 2, 3)]
    await asyncio.wait([*futures, loop.create_future()], timeout=1e-3, return_when=when)


async def use_shield():
    condition = asyncio.Condition()
    async with condition:
        condition.notify_all()
    await asyncio.shield(end(1))
    await asyncio.shield(loop.create_future())


def waits():
    aioloop.accelerate()
    for when in (asyncio.FIRST_EXCEPTION, asyncio.ALL_COMPLETED):
        loop.create_task(use_wait(when))
    loop.create_task(use_shield())
    turn(6)
    for task in asyncio.all_tasks(loop):
        task.cancel()
    turn(3)


def switch():
    try:
        aioloop.accelerate()
        aioloop.accelerate(False)
    finally:
        aioloop.accelerate(False)


sleep = asyncio.sleep
operation = globals()[sys.argv[1]]
for _ in range(5):
    operation()
gc.collect()
for n in range(1, 300):
    _testcapi.set_nomemory(n, n + 1)
    try:
        operation()
    except Exception:
        # MemoryError, or what CPython's own code turns a lack of memory into.
        pass
    finally:
        _testcapi.remove_mem_hooks()
    turn(3)
    assert asyncio.current_task(loop) is None
for task in asyncio.all_tasks(loop):
    task._log_destroy_pending = False
aioloop.accelerate(False)
assert asyncio.sleep is sleep
loop.run_until_complete(asyncio.sleep(0))
print("survived")
"""


@pytest.mark.parametrize(
    "operation",
    ["callbacks", "outcomes", "tasks", "eager", "primitives", "gathered", "grouped"]
    + ["waits", "switch"],
)
def test_every_allocation_fails_once(python, operation):
    if operation == "eager" and sys.version_info < (3, 12):
        pytest.skip("eager tasks came in 3.12")
    result = python("-X", "faulthandler", "-c", PROGRAM, operation)
    assert result.stdout.startswith("survived"), result.stderr[-3000:]
