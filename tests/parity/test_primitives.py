"""asyncio's primitives with the switch of aioloop.accelerate() on and off.

The same random programs give the same traces, and whoever looks at the functions sees
the same.
"""

import asyncio
import copy
import gc
import inspect
import io
import json
import pickle
import random
import re
import sys
import types
import typing
import warnings

import pytest

import aioloop
from tests.parity.accelerated import both, give_way, needs_gil

pytestmark = [needs_gil, pytest.mark.usefixtures("off_before_and_after")]
STEPS = 25
TASKS = 5
MODULES = (asyncio, asyncio.locks, asyncio.queues, asyncio.tasks, asyncio.mixins)


@pytest.fixture
def loop(either_loop):
    return either_loop


# --- random programs ------------------------------------------------------------------


class Program:
    """Tasks that do at random what the primitives offer, and a trace of that.

    All randomness is drawn by the tasks themselves in the order in which they run, so
    two runs draw alike for as long as they do the same.
    """

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.trace = []
        size = self.random.choice([0, 1, 1, 2, 3])
        kind = self.random.choice(
            [asyncio.Queue, asyncio.LifoQueue, asyncio.PriorityQueue]
        )
        self.queue = kind(size)
        self.lock = asyncio.Lock()
        self.event = asyncio.Event()
        self.semaphore = asyncio.Semaphore(self.random.choice([0, 1, 2]))
        self.bounded = asyncio.BoundedSemaphore(2)
        self.condition = asyncio.Condition()
        self.tasks = []
        self.actions = [
            getattr(self, name) for name in sorted(dir(self)) if name.startswith("do_")
        ]

    def note(self, *entry):
        self.trace.append((asyncio.current_task().get_name(), *entry))

    def state(self):
        queue = self.queue
        names = ("_getters", "_putters", "_unfinished_tasks", "_queue", "_maxsize")
        return (
            [
                len(v) if hasattr(v, "append") else v
                for v in map(vars(queue).get, names)
            ],
            queue._finished.is_set(),
            self.lock._locked,
            len(self.lock._waiters or ()),
            self.event._value,
            len(self.event._waiters),
            self.semaphore._value,
            len(self.semaphore._waiters or ()),
            self.bounded._value,
            len(self.bounded._waiters or ()),
            len(self.condition._waiters),
            [
                repr(o).partition("[")[2]
                for o in (self.lock, self.event, self.semaphore)
            ],
        )

    async def do_put(self):
        return await self.queue.put(self.random.randrange(9))

    async def do_get(self):
        return await self.queue.get()

    async def do_put_nowait(self):
        return self.queue.put_nowait(self.random.randrange(9))

    async def do_get_nowait(self):
        return self.queue.get_nowait()

    async def do_task_done(self):
        return self.queue.task_done()

    async def do_join(self):
        return await self.queue.join()

    async def do_lock(self):
        async with self.lock as value:
            for _ in range(self.random.randrange(3)):
                await asyncio.sleep(0)
            return value

    async def do_acquire_lock(self):
        return await self.lock.acquire()

    async def do_release_lock(self):
        return self.lock.release()

    async def do_semaphore(self):
        async with self.semaphore as value:
            await asyncio.sleep(-1)
            return value

    async def do_acquire_semaphore(self):
        return await self.semaphore.acquire(), self.semaphore.locked()

    async def do_release_semaphore(self):
        return self.semaphore.release()

    async def do_bounded(self):
        async with self.bounded:
            await asyncio.sleep(0, "ignored")

    async def do_release_bounded(self):
        return self.bounded.release()

    async def do_wait_for_event(self):
        return await self.event.wait()

    async def do_set(self):
        return self.event.set()

    async def do_clear(self):
        return self.event.clear()

    async def do_condition(self):
        async with self.condition:
            return await self.condition.wait()

    async def do_notify(self):
        async with self.condition:
            self.condition.notify(self.random.randrange(3))

    async def do_sleep(self):
        return await asyncio.sleep(0, self.random.randrange(5))

    async def do_nothing(self):
        await give_way()

    async def do_cancel(self):
        victim = self.random.choice(self.tasks)
        if victim is not asyncio.current_task():
            return victim.cancel("because")
        return None

    async def do_cancel_twice(self):
        victim = self.random.choice(self.tasks)
        if victim is not asyncio.current_task():
            victim.cancel()
            await give_way()
            return victim.cancel()
        return None

    async def do_shutdown(self):
        if hasattr(self.queue, "shutdown") and self.random.random() < 0.3:
            self.queue.shutdown(self.random.random() < 0.5)

    async def work(self):
        for _ in range(STEPS):
            action = self.random.choice(self.actions)
            self.note(action.__name__)
            try:
                self.note(action.__name__, await action())
            except BaseException as exc:
                chain = []
                while exc is not None and len(chain) < 5:
                    chain.append((type(exc).__name__, str(exc)))
                    exc = exc.__context__
                self.note(action.__name__, chain)

    async def main(self):
        self.tasks += [
            asyncio.create_task(self.work(), name=str(i)) for i in range(TASKS)
        ]
        # Nothing is woken by a timer: who waits in the end waits for each other.
        for round in range(100):
            for _ in range(20):
                await give_way()
            self.trace.append(self.state())
            waiting = [task for task in self.tasks if not task.done()]
            if not waiting:
                break
            waiting[round % len(waiting)].cancel()
        ends = await asyncio.gather(*self.tasks, return_exceptions=True)
        return [*self.trace, *map(repr, ends)]


@pytest.mark.parametrize(
    "seeds", [range(n, n + 40) for n in range(0, 160, 40)], ids=str
)
def test_random_programs_do_the_same(loop, seeds):
    def run(seed):
        return loop.run_until_complete(Program(seed).main())

    for seed in seeds:
        off, on = both(run, seed)
        assert on == off, f"seed {seed}"


def test_switch_is_turned_while_a_program_runs(loop):
    def run(seed, switches):
        program = Program(seed)

        async def turn():
            on = False
            for _ in range(200):
                await give_way()
                on = not on
                if switches:
                    aioloop.accelerate(on)

        async def main():
            turning = asyncio.create_task(turn())
            trace = await program.main()
            await turning
            return trace

        trace = loop.run_until_complete(main())
        aioloop.accelerate(False)
        return trace

    for seed in range(30):
        assert run(seed, True) == run(seed, False), f"seed {seed}"


# --- what is seen of it ---------------------------------------------------------------

FUNCTIONS = {
    f"{owner.__name__}.{name}": (owner, name)
    for owner, names in {
        asyncio.Lock: ("acquire", "release", "__aenter__", "__aexit__"),
        asyncio.Semaphore: ("acquire", "release", "__aenter__", "__aexit__"),
        asyncio.BoundedSemaphore: ("acquire", "release"),
        asyncio.Queue: ("get", "put", "get_nowait", "put_nowait", "task_done", "join"),
        asyncio.LifoQueue: ("get", "put_nowait"),
        asyncio.Condition: ("__aenter__", "wait", "notify", "notify_all"),
        asyncio.TaskGroup: ("create_task",),
        asyncio: ("sleep", "gather", "wait", "shield"),
        asyncio.tasks: ("sleep", "gather", "wait", "shield"),
    }.items()
    for name in names
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_look_the_same(name):
    owner, attribute = FUNCTIONS[name]

    def look():
        function = getattr(owner, attribute)
        seen = [
            inspect.signature(function),
            inspect.iscoroutinefunction(function),
            inspect.getsource(function),
            typing.get_type_hints(function),
            repr(function),
            callable(function),
            pickle.dumps(function),
            pickle.loads(pickle.dumps(function)) is function,
            copy.deepcopy(function) is function,
            *(
                getattr(function, name)
                for name in ("__name__", "__qualname__", "__module__", "__doc__")
            ),
            function.__code__,
            function.__defaults__,
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            seen.append(asyncio.iscoroutinefunction(function))
        if inspect.isclass(owner):
            bound = getattr(owner(), attribute)
            seen += [inspect.signature(bound), inspect.iscoroutinefunction(bound)]
        return seen

    off, on = both(look)
    assert on == off


def test_off_is_asyncio_as_it_was():
    def contents():
        everything = {}
        for module in MODULES:
            for name, value in vars(module).items():
                everything[module.__name__, name] = value
                if inspect.isclass(value):
                    for key, attribute in vars(value).items():
                        everything[value, key] = attribute
        return everything

    before = contents()
    aioloop.accelerate()
    aioloop.accelerate()
    during = contents()
    aioloop.accelerate(False)
    after = contents()
    aioloop.accelerate(False)
    assert before.keys() == during.keys() == after.keys()
    assert all(after[key] is before[key] for key in before)
    changed = {key for key in before if during[key] is not before[key]}
    assert {(asyncio.Queue, "get"), ("asyncio", "sleep")} <= changed
    assert not any(inspect.isclass(before[key]) for key in changed)


def outcome(function, *arguments, **names):
    try:
        value = function(*arguments, **names)
    except Exception as exc:
        return type(exc), str(exc)
    if inspect.iscoroutine(value):
        value.close()
        value = "coroutine"
    return value


@pytest.mark.parametrize(
    ("name", "arguments", "names"),
    [
        ("get", (1,), {}),
        ("put", (), {}),
        ("put", (), {"item": 3}),
        ("put", (1, 2), {}),
        ("put_nowait", (), {"item": 3}),
        ("put_nowait", (), {"thing": 3}),
        ("get_nowait", (1,), {}),
        ("get_nowait", (), {}),
        ("task_done", (), {}),
        ("task_done", (1,), {}),
    ],
)
def test_arguments(name, arguments, names):
    off, on = both(lambda: outcome(getattr(asyncio.Queue(), name), *arguments, **names))
    assert on == off


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ((), {}),
        ((0, 1, 2), {}),
        ((0,), {"result": 5}),
        ((), {"delay": 0}),
        (("text",), {}),
        ((None,), {}),
        ((float("nan"),), {}),
        ((-1, "value"), {}),
        ((True, "value"), {}),
        ((1e-9, "value"), {}),
        ((0.0,), {}),
        ((-(10**40),), {}),
    ],
)
def test_arguments_of_sleep(loop, arguments, names):
    def run():
        async def main():
            try:
                return await asyncio.sleep(*arguments, **names)
            except Exception as exc:
                return type(exc), str(exc)

        return loop.run_until_complete(main())

    off, on = both(run)
    assert on == off


def test_errors_of_locks():
    def run():
        lock, semaphore = asyncio.Lock(), asyncio.BoundedSemaphore(1)
        return [
            outcome(lock.release),
            outcome(semaphore.release),
            outcome(asyncio.Lock.acquire),
            outcome(asyncio.Lock.acquire, 5),
            outcome(asyncio.Semaphore.release, semaphore),
            outcome(lock.__aexit__),
        ]

    off, on = both(run)
    assert on == off


def coroutines():
    queue, lock = asyncio.Queue(), asyncio.Lock()
    return [
        queue.get(),
        queue.put(1),
        lock.acquire(),
        lock.__aenter__(),
        asyncio.Semaphore().acquire(),
        asyncio.sleep(0),
        asyncio.sleep(10, 3),
        asyncio.wait([queue]),
        asyncio.Condition().__aenter__(),
    ]


def test_coroutines_look_the_same():
    def look():
        made = coroutines()
        seen = []
        for coroutine in made:
            seen += [
                repr(coroutine).partition(" at ")[0],
                coroutine.__name__,
                coroutine.__qualname__,
                asyncio.iscoroutine(coroutine),
                inspect.iscoroutine(coroutine),
                inspect.isawaitable(coroutine),
                isinstance(coroutine, types.CoroutineType),
                inspect.getcoroutinestate(coroutine),
                coroutine.cr_code,
                coroutine.cr_await,
                coroutine.cr_running,
                coroutine.cr_frame.f_code,
            ]
            coroutine.close()
            seen += [
                inspect.getcoroutinestate(coroutine),
                outcome(coroutine.send, None),
            ]
        return seen

    off, on = both(look)
    assert on == off


def test_one_that_is_never_awaited_warns():
    def run():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            made = coroutines()
            made.reverse()
            while made:
                made.pop()
            gc.collect()
        return [(w.category, str(w.message)) for w in caught]

    off, on = both(run)
    assert len(off) == 9
    assert on == off


def test_debug_mode_tells_where_it_was_made(loop):
    def run():
        async def main():
            coroutine = asyncio.sleep(0)
            origin = coroutine.cr_origin[0][2]
            coroutine.close()
            return origin

        loop.set_debug(True)
        return loop.run_until_complete(main())

    off, on = both(run)
    assert on == off == "main"


def test_a_dump_tells_what_tasks_wait_for():
    def run():
        async def hold(lock):
            async with lock:
                await asyncio.Event().wait()

        async def enter(lock):
            async with lock:
                pass

        async def main():
            lock, semaphore = asyncio.Lock(), asyncio.BoundedSemaphore(1)
            full = asyncio.Queue(1)
            full.put_nowait(1)
            waiting = {
                "holder": hold(lock),
                "holder of semaphore": hold(semaphore),
                "lock": lock.acquire(),
                "with lock": enter(lock),
                "with semaphore": enter(semaphore),
                "get": asyncio.Queue().get(),
                "put": full.put(2),
                "sleep": asyncio.sleep(1000),
            }
            tasks = [asyncio.create_task(c, name=n) for n, c in waiting.items()]
            for _ in range(4):
                await give_way()
            file = io.StringIO()
            aioloop.dump(file, format="json")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return {
                task["name"]: re.sub(r"[0-9.]+", "N", task["wait"]["text"])
                for found in json.loads(file.getvalue())["loops"]
                for task in found["tasks"]
                if task["name"] in waiting
            }

        return aioloop.run(main())

    off, on = both(run)
    assert len(off) == 8
    assert on == off


# --- who has replaced what ------------------------------------------------------------


def test_subclasses_are_obeyed(loop):
    def run():
        trace = []

        class Queue(asyncio.Queue):
            def _init(self, maxsize):
                self.things = []

            def _put(self, item):
                trace.append(("put", item))
                self.things.append(item)

            def _get(self):
                trace.append("get")
                return self.things.pop()

            def qsize(self):
                return len(self.things)

            def empty(self):
                return not self.things

        class Lock(asyncio.Lock):
            async def acquire(self):
                trace.append("acquire")
                return await super().acquire()

            def release(self):
                trace.append("release")
                super().release()

        async def main():
            queue, lock = Queue(2), Lock()
            await queue.put(1)
            queue.put_nowait(2)
            trace.append([await queue.get(), queue.get_nowait()])
            async with lock:
                trace.append(lock.locked())

        loop.run_until_complete(main())
        return trace

    off, on = both(run)
    assert on == off


@pytest.mark.parametrize("where", ["class", "instance"])
def test_methods_that_are_replaced_later_are_obeyed(loop, where, monkeypatch):
    def run():
        trace = []
        with monkeypatch.context() as patch:
            queue, lock = asyncio.Queue(), asyncio.Lock()
            semaphore = asyncio.Semaphore()

            def replace(obj, name):
                original = getattr(obj, name)

                def method(*arguments):
                    trace.append(name)
                    return original(*arguments[where == "class" :])

                patch.setattr(type(obj) if where == "class" else obj, name, method)

            replace(queue, "put_nowait")
            replace(queue, "_wakeup_next")
            replace(queue, "get_nowait")
            replace(lock, "acquire")
            replace(lock, "release")
            replace(semaphore, "locked")

            async def main():
                await queue.put(1)
                trace.append(await queue.get())
                async with lock:
                    pass
                async with semaphore:
                    pass

            loop.run_until_complete(main())
        return trace

    off, on = both(run)
    assert on == off
    assert off.count("_wakeup_next") == 2


def test_what_was_replaced_before_stays(loop):
    original = asyncio.Queue.get
    seen = []

    def get(self):
        seen.append("get")
        return original(self)

    asyncio.Queue.get = get
    try:
        aioloop.accelerate()
        assert asyncio.Queue.get is get

        async def main():
            queue = asyncio.Queue()
            queue.put_nowait(3)
            return await queue.get()

        assert loop.run_until_complete(main()) == 3
        aioloop.accelerate(False)
        assert asyncio.Queue.get is get
    finally:
        asyncio.Queue.get = original
    assert seen == ["get"]


def test_what_is_replaced_meanwhile_stays():
    original = asyncio.Lock.acquire
    aioloop.accelerate()
    ours = asyncio.Lock.acquire
    assert ours is not original

    async def acquire(self):
        return await ours(self)

    asyncio.Lock.acquire = acquire
    try:
        aioloop.accelerate(False)
        assert asyncio.Lock.acquire is acquire
        # What was kept of ours still works.
        asyncio.run(asyncio.wait_for(acquire(asyncio.Lock()), 60))
    finally:
        asyncio.Lock.acquire = original


def test_uninstall_turns_back_what_install_turned_on():
    original = asyncio.sleep
    aioloop.install(accelerate=True)
    assert asyncio.sleep is not original
    aioloop.uninstall()
    assert asyncio.sleep is original
    aioloop.accelerate()
    aioloop.install(accelerate=True)
    aioloop.uninstall()
    assert asyncio.sleep is not original


# --- objects, loops and ends ----------------------------------------------------------


@pytest.mark.parametrize("older", [False, True], ids=["newer", "older"])
def test_waiters_of_before_the_switch_are_woken_after_it(loop, older):
    async def main():
        queue, lock, event = asyncio.Queue(), asyncio.Lock(), asyncio.Event()
        await lock.acquire()
        waiting = [
            asyncio.create_task(coroutine)
            for coroutine in (queue.get(), lock.acquire(), event.wait())
        ]
        await give_way()
        await give_way()
        aioloop.accelerate(older)
        queue.put_nowait(5)
        lock.release()
        event.set()
        return await asyncio.gather(*waiting)

    aioloop.accelerate(not older)
    assert loop.run_until_complete(main()) == [5, True, True]


def test_objects_are_bound_to_one_loop():
    def run():
        lock = asyncio.Lock()
        errors = []

        async def fill():
            await lock.acquire()
            task = asyncio.create_task(lock.acquire())
            await give_way()
            task.cancel()
            await give_way()

        async def use():
            try:
                await lock.acquire()
            except RuntimeError as exc:
                errors.append(str(exc).partition(" is bound")[2])

        for main in (fill, use):
            loop = aioloop.new_event_loop()
            loop.run_until_complete(main())
            loop.close()
        return errors

    off, on = both(run)
    assert on == off == [" to a different event loop"]


def test_one_that_waits_is_closed(loop):
    def run():
        async def main():
            queue, lock = asyncio.Queue(), asyncio.Lock()
            await lock.acquire()
            trace = []
            for coroutine in (queue.get(), lock.acquire()):
                future = coroutine.send(None)
                future._asyncio_future_blocking = False
                trace += [asyncio.isfuture(future), future.done()]
                trace.append(len(queue._getters) + len(lock._waiters or ()))
                coroutine.close()
                trace += [len(queue._getters), len(lock._waiters or ())]
                trace += [future.cancelled(), inspect.getcoroutinestate(coroutine)]
            return trace

        return loop.run_until_complete(main())

    off, on = both(run)
    assert on == off


def test_one_that_waits_is_dropped(loop):
    def run():
        async def main():
            queue, semaphore = asyncio.Queue(), asyncio.Semaphore(0)
            trace = []
            for function in (queue.get, semaphore.acquire):
                coroutine = function()
                coroutine.send(None)._asyncio_future_blocking = False
                del coroutine
                gc.collect()
                trace.append((len(queue._getters), len(semaphore._waiters or ())))
            return trace

        return loop.run_until_complete(main())

    off, on = both(run)
    assert on == off == [(0, 0), (0, 0)]


def test_exceptions_are_thrown_in(loop):
    def run():
        async def main():
            trace = []
            for error in (ValueError("a"), asyncio.CancelledError("b"), KeyError):
                semaphore, queue = asyncio.Semaphore(0), asyncio.Queue(1)
                queue.put_nowait(0)
                for coroutine in (semaphore.acquire(), queue.put(1), asyncio.sleep(9)):
                    coroutine.send(None)._asyncio_future_blocking = False
                    trace.append(outcome_of_throw(coroutine, error))
                trace.append((len(semaphore._waiters), len(queue._putters)))
            return trace

        return loop.run_until_complete(main())

    def outcome_of_throw(coroutine, error):
        try:
            coroutine.throw(error)
        except BaseException as exc:
            return type(exc), str(exc)

    off, on = both(run)
    assert on == off


def test_sleep_leaves_no_timer(loop):
    async def main():
        task = asyncio.create_task(asyncio.sleep(1000))
        await give_way()
        before = len([h for h in loop._scheduled if not h.cancelled()])
        task.cancel()
        await give_way()
        await give_way()
        return before, len([h for h in loop._scheduled if not h.cancelled()])

    aioloop.accelerate()
    assert loop.run_until_complete(main()) == (1, 0)


def test_a_shut_down_queue(loop):
    if sys.version_info < (3, 13):
        pytest.skip("Queue.shutdown is new in Python 3.13")

    def run():
        async def main():
            trace = []
            for immediate in (False, True):
                queue = asyncio.Queue(1)
                queue.put_nowait(1)
                putter = asyncio.create_task(queue.put(2))
                await give_way()
                queue.shutdown(immediate)
                trace += await asyncio.gather(
                    putter,
                    queue.get(),
                    queue.get(),
                    queue.put(1),
                    return_exceptions=True,
                )
                trace.append(outcome(queue.get_nowait))
                trace.append(outcome(queue.put_nowait, 1))
            return list(map(repr, trace))

        return loop.run_until_complete(main())

    off, on = both(run)
    assert on == off


def test_items_that_compare_badly(loop):
    def run():
        class Bad:
            def __init__(self, queue):
                self.queue = queue

            def __lt__(self, other):
                self.queue._queue.clear()
                raise ZeroDivisionError

        async def main():
            queue = asyncio.PriorityQueue()
            trace = []
            for _ in range(3):
                try:
                    trace.append(await queue.put(Bad(queue)))
                except ZeroDivisionError:
                    trace.append("failed")
                trace.append((len(queue._queue), queue._unfinished_tasks))
            return trace

        return loop.run_until_complete(main())

    off, on = both(run)
    assert on == off


@pytest.mark.parametrize("name", ["_waiters", "_locked", "_loop"])
def test_odd_attributes(loop, name):
    def run():
        async def main():
            trace = []
            for value in (3, [], "text", None):
                lock = asyncio.Lock()
                await lock.acquire()
                setattr(lock, name, value)
                trace.append(outcome(lock.release))
                try:
                    trace.append(await asyncio.wait_for(lock.acquire(), 0.01))
                except (Exception, asyncio.CancelledError) as exc:
                    trace.append(type(exc))
            lock = asyncio.Lock()
            del lock._locked
            trace.append(outcome(lock.release)[0])
            return trace

        return loop.run_until_complete(main())

    off, on = both(run)
    assert on == off
