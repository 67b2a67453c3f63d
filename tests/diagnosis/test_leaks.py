"""dump(leaks=True): waiting tasks that nothing can wake any more; and deadlocks."""

import re
import signal

import pytest

import aioloop
from tests.conftest import needs_lost_tasks

FIND = """
        import traceback
        async def dump():
            await turns()
            import json, io
            file = io.StringIO()
            aioloop.dump(file, format="json", leaks=True)
            (loop,) = json.loads(file.getvalue())["loops"]
            leaked = [task["name"] for task in loop["tasks"] if task["leaked"]]
            print(" ".join(sorted(leaked)), flush=True)

        def start(coroutine, name=None):
            name = name or coroutine.cr_code.co_name
            task = asyncio.create_task(coroutine, name=name)
            kept.add(task)
            return task

        kept = set()  # A set that keeps tasks alive does not wake them.
        loop = asyncio.get_running_loop
"""


@pytest.fixture
def leaked(output):
    """Return a function that runs a main() and returns the names of leaked tasks."""

    def run(source):
        return output(
            FIND
            + source
            + """
        async def whole():
            try:
                await main()
                await dump()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        aioloop.run(whole())
        """
        ).split()

    return run


@needs_lost_tasks
def test_futures_that_nobody_else_has(leaked):
    assert leaked("""
        async def bare(): await loop().create_future()
        async def variable():
            future = loop().create_future()
            await future
        async def on_the_stack():
            future = loop().create_future()
            print(future, await future)
        async def generator():
            async def items(): yield await loop().create_future()
            async for _ in items(): pass
        async def queue(): await asyncio.Queue().get()
        async def event():
            mine = asyncio.Event()
            await mine.wait()
        async def shared(future): await future
        async def callbacks():
            future = loop().create_future()
            future.add_done_callback(print)
            await future

        async def main():
            for function in (
                bare, variable, on_the_stack, generator, queue, event, callbacks
            ):
                start(function())
            future = loop().create_future()
            for name in ("shared-1", "shared-2"):
                start(shared(future), name)
    """) == [
        "bare",
        "callbacks",
        "event",
        "generator",
        "on_the_stack",
        "queue",
        "shared-1",
        "shared-2",
        "variable",
    ]


@needs_lost_tasks
def test_who_waits_for_a_leaked_task_is_leaked_too(leaked):
    assert leaked("""
        async def bare(): await loop().create_future()
        async def sleeper(): await asyncio.sleep(1000)
        async def gathers(*tasks): await asyncio.gather(*tasks)
        async def waits(*tasks): await asyncio.wait(tasks)
        async def first(*tasks):
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        async def shields(task): await asyncio.shield(task)
        async def group():
            async with asyncio.TaskGroup() as tasks:
                kept.add(tasks.create_task(bare(), name="child"))

        async def main():
            lost, well = start(bare()), start(sleeper())
            for function in (gathers, waits, first, shields):
                start(function(lost), f"{function.__name__}-lost")
                start(function(well), f"{function.__name__}-well")
            start(first(lost, well), "first-either")
            start(group())
    """) == [
        "bare",
        "child",
        "first-lost",
        "gathers-lost",
        "group",
        "shields-lost",
        "waits-lost",
    ]


def test_what_can_still_be_woken_is_not_leaked(leaked):
    assert (
        leaked("""
        import signal, socket, weakref
        async def waits_for(future): await future
        async def sleeper(): await asyncio.sleep(1000)
        async def timed():
            async with asyncio.timeout(1000): await loop().create_future()
        async def waits_timed(): await asyncio.wait_for(loop().create_future(), 1000)
        async def waits_timed_for(task): await asyncio.wait_for(task, 1000)
        async def awaits_timed(task):
            async with asyncio.timeout(1000): await asyncio.gather(task)
        async def cancelled_later():
            loop().call_later(1000, asyncio.current_task().cancel)
            await loop().create_future()
        class Scope:
            def __init__(self): self.tasks = {asyncio.current_task()}
            def end(self): pass
        async def in_a_scope():
            loop().call_later(1000, Scope().end)
            await loop().create_future()
        async def thread(): await asyncio.to_thread(os.read, os.pipe()[0], 1)
        async def receives():
            one, other = socket.socketpair()
            one.setblocking(False)
            sockets.append(other)
            await loop().sock_recv(one, 1)
        async def reads():
            one, other = socket.socketpair()
            sockets.append(other)
            reader, writer = await asyncio.open_connection(sock=one)
            await reader.read(1)
        async def child():
            process = await asyncio.create_subprocess_exec(
                "cat", stdin=asyncio.subprocess.PIPE  # It ends with this process.
            )
            pids.append(process.pid)
            await process.wait()
        async def on_signal():
            event = asyncio.Event()
            loop().add_signal_handler(signal.SIGUSR1, event.set)
            await event.wait()
        async def weak():
            event = asyncio.Event()
            known["event"] = event
            await event.wait()
        async def owner():
            queue = asyncio.Queue()
            start(queue.get(), "worker")
            await asyncio.sleep(1000)
            queue.put_nowait(1)
        async def behind_a_callback(future): await future
        async def locked(lock):
            async with lock: pass
        async def holder(lock):
            async with lock: await asyncio.sleep(1000)

        sockets, pids, known = [], [], weakref.WeakValueDictionary()
        everywhere = []

        async def main():
            for function in (
                sleeper, timed, waits_timed, cancelled_later, in_a_scope, thread,
                receives, reads, child, on_signal, weak, owner,
            ):
                start(function())
            everywhere.append(loop().create_future())
            start(waits_for(everywhere[0]), "global")
            inner = start(waits_for(loop().create_future()), "in a timeout")
            start(awaits_timed(inner))
            start(waits_timed_for(start(waits_for(loop().create_future()), "timed")))
            future = loop().create_future()
            threading.Thread(
                target=lambda held: time.sleep(1000), args=(future,), daemon=True
            ).start()
            start(waits_for(future), "thread's")
            first, second = loop().create_future(), loop().create_future()
            first.add_done_callback(second.set_result)
            everywhere.append(first)
            start(behind_a_callback(second))
            lock = asyncio.Lock()
            start(holder(lock))
            start(locked(lock))
            while not pids:
                await asyncio.sleep(0.001)
            await turns(20)
    """)
        == []
    )


@needs_lost_tasks
def test_the_feed_that_forgets_its_subscribers(program):
    process = program(
        """
        class Feed:
            def __init__(self): self.next_item = None
            def subscribe(self):
                if self.next_item is None:
                    self.next_item = asyncio.get_running_loop().create_future()
                return self.next_item

        async def subscriber(feed):
            return await feed.subscribe()

        async def main():
            feed = Feed()
            tasks = set()
            for n in range(7):
                task = asyncio.create_task(subscriber(feed), name=f"subscriber-{n}")
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await turns()
            feed.next_item = None
            tasks.add(asyncio.create_task(subscriber(feed), name="subscriber-new"))
            await turns()
            print("ready", flush=True)
            await asyncio.sleep(1000)
        asyncio.run(main())
        """,
        "-m",
        "aioloop",
        "--dump-signal",
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGUSR2)
    text = line = process.stderr.readline()
    while line and line != "what keeps the loop alive:\n":
        line = process.stderr.readline()
        text += line
    assert len(re.findall("^subscriber.*NOTHING CAN WAKE IT", text, re.MULTILINE)) == 7
    assert re.search(
        r"^LEAK: 7 tasks wait for a future at app\.py:\d+ in subscriber, `return await"
        r" feed\.subscribe\(\)`, and nothing can wake them any more: nobody else in the"
        r' program refers to what is waited for\. subscriber-0 "subscriber", .*'
        r" 2 more; for up to \d+\.\d s so far$",
        text,
        re.MULTILINE,
    ), text


def test_the_same_stack_is_shown_once(output):
    text = output("""
        async def waits(event): await event.wait()
        async def main():
            event = asyncio.Event()
            tasks = [asyncio.create_task(waits(event), name=n) for n in "abc"]
            await turns()
            aioloop.dump(sys.stdout)
            event.set()
            await asyncio.wait(tasks)
        aioloop.run(main())
    """)
    assert text.count("Event.wait asyncio/locks.py") == 1
    assert text.count('  └── as a "waits" above, from waits app.py:9') == 2


CIRCLES = """
        async def awaits(name): await make[name]()

        async def run(**functions):
            for name, function in functions.items():
                make[name] = function
                tasks[name] = asyncio.create_task(awaits(name), name=name)
            await turns()
            aioloop.dump(sys.stdout)
            sys.stdout.flush()
            os._exit(0)  # Cancelling a circle recurses, in asyncio too.

        def all_of(*names): return lambda: asyncio.wait([tasks[n] for n in names])
        def first_of(*names):
            return lambda: asyncio.wait(
                [tasks[n] for n in names], return_when=asyncio.FIRST_COMPLETED)
        def in_time(name): return lambda: asyncio.wait([tasks[name]], timeout=1000)
        def sleep(): return asyncio.sleep(1000)
        make, tasks = {}, {}
"""


@pytest.mark.parametrize(
    ("functions", "deadlock", "reason"),
    [
        ("a=all_of('b'), b=all_of('a')", True, ""),
        ("a=first_of('b'), b=all_of('a')", True, ""),
        ("a=first_of('b', 'c'), b=all_of('a'), c=all_of('a')", True, ""),
        ("a=all_of('b', 'c'), b=all_of('a'), c=sleep", True, ""),
        (
            "a=first_of('b', 'c'), b=all_of('a'), c=sleep",
            False,
            'if another one ends that a "awaits" waits for',
        ),
        ("a=in_time('b'), b=all_of('a')", False, 'when a "awaits" times out in 1'),
    ],
)
def test_a_circle_is_a_deadlock_where_none_can_go_on(
    output, functions, deadlock, reason
):
    text = output(f"{CIRCLES}\n        aioloop.run(run({functions}))")
    lines = [x for x in text.splitlines() if x.startswith(("DEADLOCK", "CIRCLE"))]
    assert len(lines) == 1, text
    assert lines[0].startswith("DEADLOCK: " if deadlock else "CIRCLE: ")
    assert reason in lines[0]
    if deadlock:
        assert lines[0].endswith(": none of them can go on")


@pytest.mark.parametrize("bounded", [True, False])
def test_a_circle_through_a_semaphore(output, bounded):
    kind = "BoundedSemaphore" if bounded else "Semaphore"
    source = f"""
        async def holder():
            async with semaphore: await tasks[1]
        async def wants():
            async with semaphore: pass
        async def main():
            global semaphore
            semaphore = asyncio.{kind}(1)
            for function in (holder, wants):
                tasks.append(asyncio.create_task(function()))
            await turns()
            aioloop.dump(sys.stdout)
            sys.stdout.flush()
            os._exit(0)
        tasks = []
        aioloop.run(main())
    """
    text = output(source)
    assert ("DEADLOCK: " in text) == bounded
    assert ("CIRCLE: " in text) != bounded
    if not bounded:
        assert "it ends if somebody else releases what" in text


@needs_lost_tasks
def test_a_circle_that_nobody_outside_can_end_is_a_deadlock(output):
    text = output("""
        async def holder(semaphore):
            async with semaphore: await asyncio.create_task(wants(semaphore))
        async def wants(semaphore):
            async with semaphore: pass
        async def main():
            task = asyncio.create_task(holder(asyncio.Semaphore(1)))
            await turns()
            aioloop.dump(sys.stdout, leaks=True)
            sys.stdout.flush()
            os._exit(0)
        aioloop.run(main())
    """)
    assert "DEADLOCK: " in text
    assert "CIRCLE" not in text


def test_a_lock_that_acquire_took(output):
    text = output("""
        async def wants(lock): await lock.acquire()
        async def main():
            lock = asyncio.Lock()
            await lock.acquire()
            task = asyncio.create_task(wants(lock), name="wants")
            await turns()
            aioloop.dump(sys.stdout)
            task.cancel()
        aioloop.run(main())
    """)
    assert (
        'wants "wants" [waiting for Lock (no task is in an `async with` of it:'
        " somebody called acquire(), and who that was cannot be seen), "
    ) in text


def test_a_stall_names_all_who_wait(output):
    text = output("""
        from aioloop._tasks import awaiting
        async def stuck():
            await turns(10)
            print(*(t.get_name() for t in awaiting(asyncio.current_task())))
        async def awaits(task): await task
        async def gathers(task): await asyncio.gather(task)
        async def waits(task): await asyncio.wait([task])
        async def shields(task): await asyncio.shield(task)
        async def timed(task): await asyncio.wait_for(task, 1000)
        async def group():
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(outermost())
        async def outermost():
            task = asyncio.create_task(stuck(), name="stuck")
            others = [
                asyncio.create_task(function(task), name=function.__name__)
                for function in (awaits, gathers, waits, shields, timed)
            ]
            await asyncio.wait(others)
        aioloop.run(group())
    """)
    first, second, third = text.split()[:5], text.split()[5], text.split()[6]
    assert sorted(first) == ["awaits", "gathers", "shields", "timed", "waits"]
    assert (second, third) == ("Task-2", "Task-1")


def test_wrong_arguments():
    for arguments in ((), (5, []), ([()], []), ([(1, 2, 3)], []), ([(1, 2)], ())):
        with pytest.raises(TypeError):
            aioloop._core._find_leaks(*arguments)
    assert aioloop._core._find_leaks([], []) == []
    assert aioloop._core._find_leaks([(1, 2)], []) == []


@needs_lost_tasks
def test_many_objects(output):
    assert (
        output("""
        import json, io
        async def holds(many): await asyncio.get_running_loop().create_future()
        async def main():
            tasks = [
                asyncio.create_task(holds([[i] for i in range(300)]))
                for _ in range(1000)
            ]
            await turns()
            file = io.StringIO()
            aioloop.dump(file, format="json", leaks=True)
            (loop,) = json.loads(file.getvalue())["loops"]
            print(sum(task["leaked"] for task in loop["tasks"]))
            sys.stdout.flush()
            os._exit(0)
        aioloop.run(main())
    """)
        == "1000\n"
    )
