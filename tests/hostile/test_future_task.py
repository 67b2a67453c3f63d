"""Evil objects around futures and tasks.

The tests named after an issue number repeat the memory-safety bugs that CPython's own
module has had, all of one kind: foreign code runs in the middle of an operation and
changes what the operation is working on. Here nothing may crash, and the rest of the
operation must make sense.
"""

import asyncio
import collections.abc
import contextvars
import gc
import sys
import weakref

import pytest

import aioloop
from tests.conftest import needs_gil

VERSION = sys.version_info[:2]


class EvilLoop(asyncio.AbstractEventLoop):
    """A loop of Python whose call_soon is what the test makes it."""

    def __init__(self):
        self.scheduled = []
        self.reports = []

    def get_debug(self):
        return False

    def is_running(self):
        return True

    def call_soon(self, callback, *args, context=None):
        self.scheduled.append((callback, args, context))

    def call_exception_handler(self, context):
        self.reports.append(context)


async def nothing():
    pass


def run_once(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


@pytest.fixture
def loose_loop(debug):
    """A loop that may be left with tasks that nothing ends."""
    loop = aioloop.new_event_loop()
    loop.set_debug(debug)
    yield loop
    loop.close()


@pytest.fixture(params=["ours", "foreign"])
def any_loop(request, loose_loop):
    return loose_loop if request.param == "ours" else EvilLoop()


def run_steps(loop):
    """Run what is scheduled, and what that schedules."""
    if isinstance(loop, EvilLoop):
        asyncio._set_running_loop(loop)
        try:
            while loop.scheduled:
                callback, args, context = loop.scheduled.pop(0)
                context.run(callback, *args)
        finally:
            asyncio._set_running_loop(None)
    else:
        for _ in range(4):
            run_once(loop)


def make_future(loop):
    return aioloop.Future(loop=loop)


# --- gh-125966 and relatives: comparisons in remove_done_callback -------------


def test_gh_125966_equality_removes_the_callback_being_compared(any_loop):
    future = make_future(any_loop)

    class Callback:
        def __call__(self, future):
            pass

        def __eq__(self, other):
            return True

        __hash__ = None

    class Evil(Callback):
        def __eq__(self, other):
            future.remove_done_callback(None)
            return NotImplemented

        __hash__ = None

    future.add_done_callback(Callback())
    assert future.remove_done_callback(Evil()) == 0
    assert future._callbacks is None


@pytest.mark.parametrize("answer", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3, 64])
def test_gh_97592_equality_clears_the_callbacks(any_loop, number, answer):
    future = make_future(any_loop)
    future.add_done_callback(str)
    for _ in range(number):
        future.add_done_callback(id)

    class Evil:
        def __eq__(self, other):
            future.remove_done_callback(other)
            return answer

        __hash__ = None

    assert future.remove_done_callback(Evil()) == 0
    assert future._callbacks is None


@pytest.mark.parametrize("answer", [False, True])
def test_equality_adds_callbacks(any_loop, answer):
    future = make_future(any_loop)
    for callback in (str, id, id):
        future.add_done_callback(callback)
    added = 0

    class Evil:
        def __eq__(self, other):
            nonlocal added
            added += 1
            future.add_done_callback(len)
            return answer

        __hash__ = None

    assert future.remove_done_callback(Evil()) == (3 if answer else 0)
    assert added == 3
    callbacks = [callback for callback, _ in future._callbacks]
    assert callbacks == ([] if answer else [str, id, id]) + [len] * 3


def test_equality_completes_the_future(any_loop):
    future = make_future(any_loop)
    for callback in (str, id, id):
        future.add_done_callback(callback)

    class Evil:
        def __eq__(self, other):
            if not future.done():
                future.set_result(1)
            return True

        __hash__ = None

    assert future.remove_done_callback(Evil()) == 0
    assert future.result() == 1


def test_equality_raises(any_loop):
    future = make_future(any_loop)
    future.add_done_callback(str)
    future.add_done_callback(id)

    class Evil:
        def __eq__(self, other):
            raise ArithmeticError

        __hash__ = None

    with pytest.raises(ArithmeticError):
        future.remove_done_callback(Evil())
    assert [callback for callback, _ in future._callbacks] == [str, id]


def test_removed_callbacks_destructor_adds_and_removes(any_loop):
    future = make_future(any_loop)

    class Bomb:
        def __call__(self, future):
            pass

        def __del__(self):
            future.remove_done_callback(id)
            future.add_done_callback(len)

    bomb = Bomb()
    for callback in (id, bomb, id, bomb):
        future.add_done_callback(callback)
    context = future._callbacks[0][1]
    assert isinstance(context, contextvars.Context)
    remove = [bomb]
    del bomb, callback
    assert future.remove_done_callback(remove[0]) == 2
    remove.clear()
    gc.collect()
    assert [callback for callback, _ in future._callbacks] == [len]


# --- gh-125969, gh-125984: call_soon changes the callbacks while they are sched


def test_gh_125969_call_soon_removes_callbacks():
    loop = EvilLoop()
    future = make_future(loop)
    calls = []

    def call_soon(callback, *args, context=None):
        calls.append(callback)
        future.remove_done_callback(int)
        future.remove_done_callback(len)

    loop.call_soon = call_soon
    for callback in (str, int, len, len):
        future.add_done_callback(callback)
    future.set_result("boom")
    assert calls == [str, int, len, len]
    assert future._callbacks is None


def test_call_soon_adds_callbacks():
    loop = EvilLoop()
    future = make_future(loop)
    calls = []

    def call_soon(callback, *args, context=None):
        calls.append(callback)
        if len(calls) < 5:
            future.add_done_callback(id)

    loop.call_soon = call_soon
    future.add_done_callback(str)
    future.add_done_callback(int)
    future.set_result(None)
    assert calls[0] is str and calls[-1] is int and calls.count(id) == 4


def test_gh_125984_evil_getattribute_of_the_loop():
    dead = []

    class Callback:
        def __call__(self, future):
            pass

    class Loop(EvilLoop):
        def __getattribute__(self, name):
            if name == "call_soon":
                future.remove_done_callback(reference())
                gc.collect()
            return super().__getattribute__(name)

    loop = Loop()
    future = make_future(loop)
    callback = Callback()
    reference = weakref.ref(callback, dead.append)
    future.add_done_callback(callback, context=contextvars.Context())
    del callback
    future.set_result("boom")
    ((callback, args, context),) = loop.scheduled
    assert callback is reference() and args == (future,)
    assert isinstance(context, contextvars.Context) and dead == []


@pytest.mark.skipif(VERSION >= (3, 15), reason="a second __init__ raises")
def test_call_soon_initializes_the_future_anew():
    loop = EvilLoop()
    future = make_future(loop)
    calls = []

    def call_soon(callback, *args, context=None):
        calls.append(callback)
        future.__init__(loop=loop)

    loop.call_soon = call_soon
    for callback in (str, int, len):
        future.add_done_callback(callback)
    future.set_result(1)
    assert calls == [str, int, len]
    assert not future.done()


@pytest.mark.skipif(VERSION >= (3, 15), reason="a second __init__ raises")
def test_call_soon_ruins_the_future():
    """__init__ without a loop fails half-way and leaves no loop at all."""
    loop = EvilLoop()
    future = make_future(loop)

    def call_soon(callback, *args, context=None):
        policy = asyncio.get_event_loop_policy()
        asyncio.set_event_loop_policy(BadPolicy())
        try:
            with pytest.raises(ArithmeticError):
                future.__init__()
        finally:
            asyncio.set_event_loop_policy(policy)

    class BadPolicy(type(asyncio.get_event_loop_policy())):
        def get_event_loop(self):
            raise ArithmeticError

    loop.call_soon = call_soon
    future.add_done_callback(str)
    future.add_done_callback(int)
    with pytest.raises(RuntimeError, match="not initialized"):
        future.set_result(1)
    assert future.get_loop is not None and future._loop is None


if VERSION >= (3, 14):
    test_call_soon_ruins_the_future = pytest.mark.filterwarnings(
        "ignore:.*policy:DeprecationWarning"
    )(test_call_soon_ruins_the_future)


# --- gh-126080: call_soon replaces what the task's first step needs -----------


@pytest.mark.skipif(VERSION >= (3, 15), reason="a second __init__ raises")
def test_gh_126080_call_soon_initializes_the_task_anew():
    loop = EvilLoop()
    calls = []

    def call_soon(callback, *args, context=None):
        task = callback.__self__
        calls.append(context)
        if len(calls) == 1:
            other = nothing()
            coroutines.append(other)
            task.__init__(other, loop=loop, context=contextvars.Context())
        gc.collect()
        assert isinstance(context, contextvars.Context)
        assert len(context) >= 0

    coroutines = [nothing()]
    loop.call_soon = call_soon
    context = contextvars.copy_context()
    task = aioloop.Task(coroutines[0], loop=loop, context=context)
    assert calls[0] is context and len(calls) == 2
    task._log_destroy_pending = False
    for coroutine in coroutines:
        coroutine.close()


@pytest.mark.skipif(VERSION >= (3, 15), reason="a second __init__ raises")
def test_step_initializes_its_own_task_anew(loose_loop):
    """The rest of the step meets another coroutine, context and loop."""
    loop = loose_loop
    other = EvilLoop()
    second = nothing()
    loop.set_exception_handler(lambda loop, context: None)

    async def evil():
        task = asyncio.current_task()
        task.__init__(second, loop=other, context=contextvars.Context())
        gc.collect()
        await asyncio.sleep(0)

    task = loop.create_task(evil())
    run_once(loop)
    run_once(loop)
    assert asyncio.current_task(loop) is None
    assert task.get_loop() is other
    task._log_destroy_pending = False
    second.close()


def test_callbacks_are_not_taken_for_waiting_tasks(loose_loop):
    """A waiting task is kept among the callbacks with Ellipsis in a context's place."""
    loop, contexts = loose_loop, []
    loop.set_debug(False)  # where set_result() refuses what cannot be called
    loop.set_exception_handler(lambda loop, context: contexts.append(context))
    future, task = future_in("waited for", loop)
    other = loop.create_task(asyncio.sleep(0))
    for _ in range(2):
        future.add_done_callback(other, context=...)
        future.add_done_callback(other, context=None)
    assert [callback for callback, _ in future._callbacks][1:] == [other] * 4
    future.set_result(None)
    turns(loop)
    assert task.done() and other.done()
    assert [type(context["exception"]) for context in contexts] == [
        AttributeError,
        TypeError,
    ] * 2


# --- the base's __init__, called unbound on a future of ours that is in use -------


async def awaits(future):
    return await future


def turns(loop, count=3):
    for _ in range(count):
        run_once(loop)


def future_in(state, loop):
    """A future, and the task that waits for it or None."""
    future = loop.create_future()
    if state == "waited for":
        task = loop.create_task(awaits(future))
        run_once(loop)
        return future, task
    if state == "callbacks":
        for _ in range(3):
            future.add_done_callback(str)
    elif state == "result":
        future.set_result([1])
    elif state == "exception":
        future.set_exception(ValueError())
        future._log_traceback = False
    elif state == "cancelled":
        future.cancel()
    return future, None


OPERATIONS = {
    "result": lambda cls, future: cls.result(future),
    "exception": lambda cls, future: cls.exception(future),
    "done": lambda cls, future: cls.done(future),
    "set_result": lambda cls, future: cls.set_result(future, [2]),
    "set_exception": lambda cls, future: cls.set_exception(future, KeyError()),
    "cancel": lambda cls, future: cls.cancel(future),
    "add": lambda cls, future: [cls.add_done_callback(future, str) for _ in "123"],
    "remove": lambda cls, future: cls.remove_done_callback(future, str),
    "callbacks": lambda cls, future: cls._callbacks.__get__(future),
    "repr": lambda cls, future: cls.__repr__(future),
    "state": lambda cls, future: cls._state.__get__(future),
    "await": lambda cls, future: next(cls.__await__(future)),
    "error": lambda cls, future: cls._make_cancelled_error(future),
}


def attempt(name, cls, future):
    try:
        OPERATIONS[name](cls, future)
    except (
        asyncio.InvalidStateError,
        asyncio.CancelledError,
        StopIteration,
        RuntimeError,
        TypeError,
        KeyError,
        ValueError,
    ):
        pass


@pytest.mark.parametrize("state", ["new", "waited for", "callbacks", "result"])
def test_bases_init_makes_a_new_future(loose_loop, state):
    loop, seen = loose_loop, []
    future, waiting = future_in(state, loop)
    asyncio.Future.__init__(future, loop=loop)
    assert not future.done()
    with pytest.raises(asyncio.InvalidStateError):
        future.result()
    future.add_done_callback(seen.append)
    future.set_result(5)
    run_once(loop)
    assert seen == [future] and future.result() == 5
    if waiting is not None:
        waiting._log_destroy_pending = False
        waiting.get_coro().close()


@pytest.mark.parametrize("cls", [aioloop.Future, asyncio.Future])
@pytest.mark.parametrize(
    "state", ["new", "waited for", "callbacks", "result", "exception", "cancelled"]
)
def test_bases_init_confuses_no_method(loose_loop, state, cls):
    loop = loose_loop
    loop.set_exception_handler(lambda loop, context: None)
    for first in OPERATIONS:
        for second in OPERATIONS:
            future, waiting = future_in(state, loop)
            asyncio.Future.__init__(future, loop=loop)
            attempt(first, cls, future)
            attempt(second, aioloop.Future, future)
            task = loop.create_task(awaits(future))
            turns(loop)
            attempt(second, aioloop.Future, future)
            attempt(first, cls, future)
            turns(loop)
            for left in (task, waiting):
                if left is not None:
                    left.cancel()
                    turns(loop)
                    left._log_destroy_pending = False
                    left.get_coro().close()


@pytest.mark.parametrize("cls", [aioloop.Task, asyncio.Task, asyncio.Future])
@pytest.mark.parametrize("init", [asyncio.Future.__init__, asyncio.Task.__init__])
@pytest.mark.parametrize("steps", range(4))
def test_bases_init_takes_a_task_away(loose_loop, steps, init, cls):
    """The base queues a step of its own, and from there on the task is the base's."""

    async def work():
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    loop = loose_loop
    loop.set_exception_handler(lambda loop, context: None)
    for name in OPERATIONS:
        task = loop.create_task(work())
        coroutines = [task.get_coro()]
        turns(loop, steps)
        if init is asyncio.Task.__init__:
            coroutines.append(work())
            init(task, coroutines[1], loop=loop)
        else:
            init(task, loop=loop)
        attempt(name, cls, task)
        waiting = loop.create_task(awaits(task))
        turns(loop)
        attempt(name, cls, task)
        turns(loop)
        assert isinstance(asyncio.all_tasks(loop), set)
        task._log_destroy_pending = waiting._log_destroy_pending = False
        for coroutine in [*coroutines, waiting.get_coro()]:
            coroutine.close()


# --- gh-126138: the message of a cancellation is replaced while it is passed on


def test_gh_126138_getattribute_replaces_the_cancel_message(any_loop):
    class Evil:
        _asyncio_future_blocking = True

        def get_loop(self):
            return any_loop

        def add_done_callback(self, callback, *args, **kwargs):
            callback.__self__.cancel(object())

        def __await__(self):
            yield self

        def cancel(self, msg):
            messages.append(msg)
            assert type(msg) is object
            return False

        def __getattribute__(self, name):
            if name == "cancel":
                task._cancel_message = "replaced"
                gc.collect()
            return object.__getattribute__(self, name)

    messages = []

    async def main():
        await Evil()

    task = aioloop.Task(main(), loop=any_loop)
    run_steps(any_loop)
    assert len(messages) == 1
    assert task._cancel_message == "replaced" and task._must_cancel
    task._log_destroy_pending = False
    task.get_coro().close()


# --- gh-126405, gh-125789, gh-142556: other owners die in the middle ----------


def test_gh_126405_coroutine_is_replaced_while_it_runs(any_loop):
    """send() makes the task drop its reference to the coroutine."""
    others = []

    class Coroutine(collections.abc.Coroutine):
        def send(self, value):
            if VERSION < (3, 15):
                others.append(nothing())
                task.__init__(others[0], loop=any_loop)
            gc.collect()
            raise StopIteration(5)

        def throw(self, *args):
            raise args[0]

        def close(self):
            pass

        def __await__(self):
            return self

    errors = []
    any_loop.call_exception_handler = errors.append
    task = aioloop.Task(Coroutine(), loop=any_loop)
    if isinstance(any_loop, EvilLoop):
        # The second __init__ has scheduled a step of a task that is done by then.
        any_loop.scheduled, ((step, _, context),) = [], any_loop.scheduled
        asyncio._set_running_loop(any_loop)
        context.run(step)
        asyncio._set_running_loop(None)
    else:
        run_steps(any_loop)
    assert task.result() == 5
    assert all("already done" in str(error["exception"]) for error in errors)
    for coroutine in others:
        coroutine.close()


def test_gh_125789_callbacks_attribute_is_a_copy(any_loop):
    """Whatever is done to the list that _callbacks gives, the future is not."""
    future = make_future(any_loop)
    for callback in (str, id, len):
        future.add_done_callback(callback)
    before = future._callbacks
    future._callbacks.clear()
    future._callbacks.append("no pair")
    assert future._callbacks == before
    assert future._callbacks is not future._callbacks
    assert future.remove_done_callback(id) == 1


def test_gh_142556_task_dies_inside_its_own_name(loop):
    """str() of a name drops the last reference to the old one."""

    class Name:
        def __str__(self):
            task.set_name("inner")
            gc.collect()
            return "outer"

    task = loop.create_task(nothing())
    task.set_name(Name())
    assert task.get_name() == "outer"
    loop.run_until_complete(task)


# --- the waiter ---------------------------------------------------------------


def test_waiter_whose_cancel_completes_the_task(loop):
    class Future(aioloop.Future):
        def cancel(self, msg=None):
            super().cancel(msg)
            gc.collect()
            return False

    future = Future(loop=loop)

    async def waiting():
        await future

    task = loop.create_task(waiting())
    run_once(loop)
    assert task.cancel() is True
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)


def test_cancel_that_replaces_the_waiter(loop):
    class Future(aioloop.Future):
        def cancel(self, msg=None):
            nonlocal cancelled
            cancelled += 1
            if cancelled < 50:
                task.cancel(msg)
            return super().cancel(msg)

    cancelled = 0
    future = Future(loop=loop)

    async def waiting():
        nonlocal future
        waited, future = future, None
        await waited

    task = loop.create_task(waiting())
    run_once(loop)
    task.cancel("message")
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    assert task.cancelling() == 50


def test_truth_of_cancels_answer_raises(loop):
    class Answer:
        def __bool__(self):
            raise ArithmeticError

    class Future(aioloop.Future):
        answer = Answer()

        def cancel(self, msg=None):
            return self.answer

    future = Future(loop=loop)

    async def waiting():
        await future

    task = loop.create_task(waiting())
    run_once(loop)
    with pytest.raises(ArithmeticError):
        task.cancel()
    future.set_result(None)
    loop.run_until_complete(task)


@pytest.mark.parametrize(
    "name", ["_asyncio_future_blocking", "get_loop", "add_done_callback", "result"]
)
def test_duck_future_with_a_failing_attribute(loose_loop, name):
    """What fails in the step is reported, and the loop goes on."""
    loop = loose_loop
    reports = []
    loop.set_exception_handler(lambda loop, context: reports.append(context))

    class Duck:
        _asyncio_future_blocking = True

        def get_loop(self):
            return loop

        def add_done_callback(self, callback, context=None):
            loop.call_soon(callback, self, context=context)

        def result(self):
            return 1

        def __getattribute__(self, asked):
            if asked == name:
                raise ArithmeticError(name)
            return object.__getattribute__(self, asked)

        def __await__(self):
            yield self

    async def waiting():
        await Duck()

    task = aioloop.Task(waiting(), loop=loop)
    run_steps(loop)
    assert asyncio.current_task(loop) is None
    if name == "result":
        with pytest.raises(ArithmeticError):
            task.result()
    else:
        (context,) = reports
        assert isinstance(context["exception"], ArithmeticError)
        assert not task.done()
        task._log_destroy_pending = False
    assert loop.run_until_complete(nothing()) is None


# --- dying --------------------------------------------------------------------


def test_finalizer_that_resurrects(loop):
    graves = []
    loop.set_exception_handler(lambda loop, context: graves.append(context))

    class Future(aioloop.Future):
        def __del__(self):
            graves.append(self)

    future = Future(loop=loop)
    del future
    (future,) = graves
    graves.clear()
    future.set_result(1)
    assert future.result() == 1
    del future
    gc.collect()
    assert graves == []


def test_exception_handler_that_raises_in_a_finalizer(loop):
    unraisable = []
    hook = sys.unraisablehook
    sys.unraisablehook = unraisable.append

    def call_exception_handler(context):
        raise ArithmeticError

    try:
        loop.call_exception_handler = call_exception_handler
        future = loop.create_future()
        future.set_exception(ValueError())
        try:
            raise KeyError
        except KeyError as exc:
            pending = exc
            del future
        assert isinstance(pending, KeyError)
    finally:
        sys.unraisablehook = hook
    assert len(unraisable) == 1
    assert unraisable[0].exc_type is ArithmeticError


def test_loop_that_dies_before_its_futures():
    loop = aioloop.new_event_loop()
    future = loop.create_future()
    task = loop.create_task(nothing())
    task._log_destroy_pending = False
    loop.close()
    del loop
    gc.collect()
    assert future.get_loop().is_closed()
    task.get_coro().close()
    del task, future
    gc.collect()


def test_long_chain_of_futures_dies_without_overflow(loop):
    first = future = loop.create_future()
    for _ in range(100_000 if VERSION >= (3, 14) else 2_000):
        following = loop.create_future()
        future.set_result(following)
        future = following
    del future, following
    del first
    gc.collect()


def test_weak_reference_callback_that_uses_the_loop(loop):
    seen = []
    future = loop.create_future()
    reference = weakref.ref(future, lambda _: loop.call_soon(seen.append, 1))
    del future
    assert reference() is None
    run_once(loop)
    assert seen == [1]


def test_context_that_is_no_context(loop):
    reports = []
    loop.set_exception_handler(lambda loop, context: reports.append(context))
    future = loop.create_future()
    future.add_done_callback(print, context=5)
    future.set_result(None)
    run_once(loop)
    assert isinstance(reports[0]["exception"], (TypeError, AttributeError))


@needs_gil("classes are immortal on 3.13")
@pytest.mark.parametrize("finished", [False, True], ids=["pending", "done"])
@pytest.mark.parametrize("base", [aioloop.Future, aioloop.Task])
def test_class_that_is_collected_with_its_last_instance(loop, base, finished):
    """The collector clears the class first, which then has no MRO."""

    class Local(base):
        pass

    gc.collect()
    coroutines = [asyncio.sleep(0)] if base is aioloop.Task else []
    instance = Local(*coroutines, loop=loop)
    if base is aioloop.Task:
        instance._log_destroy_pending = False
        if finished:
            loop.run_until_complete(instance)
    elif finished:
        instance.set_result(None)
    instance.itself = instance
    gone = weakref.ref(Local)
    del instance, Local
    for coroutine in coroutines:
        coroutine.close()
    coroutines.clear()
    if base is aioloop.Task and not finished:
        loop.run_until_complete(asyncio.sleep(0))  # a step of it is queued
    gc.collect()
    assert gone() is None


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there are no eager tasks")
def test_eager_task_in_an_entered_context_does_not_stay_the_current_one(loop):
    """In asyncio it does, and the loop's next task cannot begin."""
    context = contextvars.copy_context()

    async def main():
        coroutine = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="cannot enter context"):
            aioloop.Task(coroutine, loop=loop, eager_start=True, context=context)
        coroutine.close()
        return asyncio.current_task()

    task = loop.create_task(main(), context=context)
    assert loop.run_until_complete(task) is task
    assert loop.run_until_complete(asyncio.sleep(0, 1)) == 1
