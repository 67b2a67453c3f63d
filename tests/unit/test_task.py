"""aioloop.Task: asyncio.Task's behaviour, step by step."""

import asyncio
import collections.abc
import contextvars
import gc
import io
import logging
import sys
import types
import warnings
import weakref

import pytest

import aioloop

VERSION = sys.version_info[:2]
since_3_12 = pytest.mark.skipif(VERSION < (3, 12), reason="new in 3.12")


@types.coroutine
def bare_yield():
    yield


async def nothing():
    pass


async def returning(value):
    return value


def run_once(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


@pytest.fixture
def reports(loop):
    """The contexts that the loop's exception handler gets."""
    contexts = []
    loop.set_exception_handler(lambda loop, context: contexts.append(context))
    return contexts


class ForeignLoop:
    """What asyncio's Task needs of a loop; run() drives it."""

    def __init__(self):
        self.scheduled = []
        self.reports = []

    def get_debug(self):
        return False

    def is_running(self):
        return asyncio._get_running_loop() is self

    def call_soon(self, callback, *args, context=None):
        self.scheduled.append((callback, args, context))

    def call_exception_handler(self, context):
        self.reports.append(context)

    def run(self):
        asyncio._set_running_loop(self)
        try:
            while self.scheduled:
                callback, args, context = self.scheduled.pop(0)
                context.run(callback, *args)
        finally:
            asyncio._set_running_loop(None)


def test_is_a_task_of_asyncio(loop, run):
    async def main():
        task = asyncio.create_task(nothing())
        assert isinstance(task, asyncio.Task) and isinstance(task, asyncio.Future)
        assert type(task) is aioloop.Task
        await task

    run(main())


def test_signatures_equal_asyncios():
    for name, ours in vars(aioloop.Task).items():
        theirs = getattr(asyncio.Task, name, None)
        if callable(ours) and not name.startswith("__"):
            assert ours.__text_signature__ == theirs.__text_signature__, name
            assert ours.__doc__, name
    assert aioloop.Task.__text_signature__ == asyncio.Task.__text_signature__


def test_every_attribute_of_the_bases_is_overridden():
    inherited = {"__module__", "__doc__", "__new__", "_asyncio_awaited_by"}
    base = {**vars(asyncio.Future), **vars(asyncio.Task)}
    assert set(base) - set(vars(aioloop.Task)) <= inherited


def test_result_and_exception(run):
    async def raising():
        raise KeyError("key")

    async def main():
        task = asyncio.create_task(returning(5))
        assert not task.done()
        assert await task == 5
        assert task.done() and task.result() == 5 and task.exception() is None
        task = asyncio.create_task(raising())
        with pytest.raises(KeyError):
            await task
        assert isinstance(task.exception(), KeyError)

    run(main())


def test_only_the_coroutine_gives_the_result(run):
    async def main():
        task = asyncio.create_task(nothing())
        with pytest.raises(RuntimeError, match="does not support set_result operation"):
            task.set_result(1)
        with pytest.raises(RuntimeError, match="support set_exception operation"):
            task.set_exception(ValueError())
        await task

    run(main())


def test_steps_of_tasks_interleave_in_order(run):
    seen = []

    async def stepping(name):
        for number in range(3):
            seen.append((number, name))
            await bare_yield()

    async def main():
        await asyncio.gather(*(stepping(name) for name in "abc"))

    run(main())
    assert seen == sorted(seen)


@pytest.mark.parametrize("wrong", [1, None, print, nothing])
def test_a_coroutine_is_needed(loop, wrong):
    with pytest.raises(TypeError, match="^a coroutine was expected, got "):
        aioloop.Task(wrong, loop=loop)


def test_constructor_messages_equal_asyncios(loop):
    calls = [
        lambda cls: cls(),
        lambda cls: cls(1, 2),
        lambda cls: cls(1, wrong=2),
        lambda cls: cls(1, loop=loop),
    ]
    for call in calls:
        messages = []
        for cls in (asyncio.Task, aioloop.Task):
            with pytest.raises(TypeError) as caught:
                call(cls)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]


def test_names(run, loop):
    class Name:
        def __str__(self):
            return "named"

    async def main():
        first = asyncio.create_task(nothing())
        second = loop.create_task(nothing(), name="name")
        third = aioloop.Task(nothing(), name=Name(), loop=loop)
        fourth = asyncio.create_task(nothing())
        assert second.get_name() == "name"
        assert third.get_name() == "named"
        prefix, number = first.get_name().split("-")
        assert prefix == "Task"
        assert fourth.get_name() == f"Task-{int(number) + 1}"
        first.set_name(123)
        assert first.get_name() == "123"
        await asyncio.gather(first, second, third, fourth)

    run(main())


def test_numbers_begin_with_1_in_a_program(python):
    program = (
        "import asyncio, aioloop\n"
        "async def main():\n"
        "    print(asyncio.current_task().get_name())\n"
        "    print(asyncio.create_task(asyncio.sleep(0)).get_name())\n"
        "aioloop.run(main())\n"
    )
    assert python("-c", program).stdout == "Task-1\nTask-2\n"


def test_repr(run, loop, debug):
    async def main():
        future = loop.create_future()

        async def waiting():
            await future

        task = asyncio.create_task(waiting(), name="T")
        text = repr(task)
        assert text.startswith("<Task pending name='T' coro=<")
        await bare_yield()
        assert "wait_for=<Future pending cb=[Task.task_wakeup()]" in repr(task)
        task.cancel()
        assert repr(task).startswith("<Task cancelling name='T'")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert repr(task).startswith("<Task cancelled name='T'")
        assert ("created at" in repr(task)) == debug

    run(main())


def test_waiting_task_is_seen_from_its_future(run, loop):
    async def main():
        future = loop.create_future()

        async def waiting():
            await future

        tasks = [asyncio.create_task(waiting()) for _ in range(3)]
        await bare_yield()
        for (callback, context), task in zip(future._callbacks, tasks, strict=True):
            assert callback.__self__ is task
            assert isinstance(context, contextvars.Context)
            assert task._fut_waiter is future
        assert future._callbacks == future._callbacks
        removed = future._callbacks[1][0]
        assert future.remove_done_callback(removed) == 1
        assert [c.__self__ for c, _ in future._callbacks] == [tasks[0], tasks[2]]
        future.add_done_callback(removed)
        future.set_result(None)
        await asyncio.gather(*tasks)

    run(main())


# --- cancelling ---------------------------------------------------------------


def test_cancel_before_the_first_step(run):
    started = []

    async def never():
        started.append(1)

    async def main():
        task = asyncio.create_task(never())
        assert task.cancel("early") is True
        assert task._must_cancel and task.cancelling() == 1
        with pytest.raises(asyncio.CancelledError, match="early"):
            await task
        assert task.cancelled() and task.cancel() is False

    run(main())
    assert started == []


def test_cancel_reaches_what_the_task_waits_for(run, loop):
    async def main():
        future = loop.create_future()

        async def waiting():
            await future

        task = asyncio.create_task(waiting())
        await bare_yield()
        task.cancel("through")
        assert future.cancelled() and future._cancel_message == "through"
        assert not task._must_cancel
        with pytest.raises(asyncio.CancelledError, match="through"):
            await task

    run(main())


def test_cancel_in_the_middle_of_a_step_is_passed_on(run, loop):
    async def main():
        future = loop.create_future()

        async def cancels_itself():
            asyncio.current_task().cancel("self")
            await future

        with pytest.raises(asyncio.CancelledError, match="self"):
            await asyncio.create_task(cancels_itself())
        assert future.cancelled()

    run(main())


def test_cancel_in_the_last_step_cancels(run):
    async def cancels_itself():
        asyncio.current_task().cancel("last")
        return 1

    async def main():
        task = asyncio.create_task(cancels_itself())
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled() and task._cancel_message == "last"

    run(main())


def test_cancellation_can_be_refused_and_repeated(run):
    refused = []

    async def refusing():
        for _ in range(2):
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError as exc:
                refused.append(exc.args)
        return "done"

    async def main():
        task = asyncio.create_task(refusing())
        for message in ("one", "two"):
            await bare_yield()
            await bare_yield()
            task.cancel(message)
            await bare_yield()
        assert await task == "done"
        assert task.cancelling() == 2

    run(main())
    assert refused == [("one",), ("two",)]


def test_uncancel(run):
    async def main():
        task = asyncio.create_task(asyncio.sleep(0))
        assert task.uncancel() == 0
        task.cancel()
        task.cancel()
        assert task.cancelling() == 2
        assert task.uncancel() == 1 and task._must_cancel
        assert task.uncancel() == 0
        if VERSION >= (3, 13):
            assert not task._must_cancel
            await task
        else:
            with pytest.raises(asyncio.CancelledError):
                await task

    run(main())


def test_cancelled_error_keeps_where_it_came_from(run):
    async def inner():
        await asyncio.sleep(100)

    async def main():
        task = asyncio.create_task(inner())
        await bare_yield()
        task.cancel("text")
        try:
            await task
        except asyncio.CancelledError as exc:
            names = []
            traceback = exc.__traceback__
            while traceback is not None:
                names.append(traceback.tb_frame.f_code.co_name)
                traceback = traceback.tb_next
            assert "inner" in names
            assert exc.args == ("text",)
        else:
            pytest.fail("not cancelled")

    run(main())


def test_cancel_argument_errors(run):
    async def main():
        task = asyncio.create_task(nothing())
        with pytest.raises(TypeError, match="at most 1 argument"):
            task.cancel(1, 2)
        with pytest.raises(TypeError, match="wrong"):
            task.cancel(wrong=1)
        assert task.cancel(msg="m") and task._cancel_message == "m"
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


# --- misuse -------------------------------------------------------------------


def yielding(value):
    class Awaitable:
        def __await__(self):
            yield value

    async def coroutine():
        await Awaitable()

    return coroutine()


def test_bad_yield(run):
    async def main():
        task = asyncio.create_task(yielding(42))
        with pytest.raises(RuntimeError, match="^Task got bad yield: 42$"):
            await task

    run(main())


def test_yielded_generator(run):
    async def main():
        task = asyncio.create_task(yielding(i for i in ()))
        with pytest.raises(
            RuntimeError,
            match="^yield was used instead of yield from for generator in task <Task",
        ):
            await task

    run(main())


def test_yielded_future(run, loop):
    async def main():
        for future in (loop.create_future(), asyncio.Future(loop=loop)):
            task = asyncio.create_task(yielding(future))
            with pytest.raises(
                RuntimeError,
                match="^yield was used instead of yield from in task <Task .* with <Fu",
            ):
                await task

    run(main())


def test_future_of_another_loop(run):
    other = aioloop.new_event_loop()

    async def main():
        for future in (other.create_future(), asyncio.Future(loop=other)):

            async def waiting(future=future):
                await future

            task = asyncio.create_task(waiting())
            with pytest.raises(
                RuntimeError,
                match="^Task <Task .* got Future <Future .* attached to a differ",
            ):
                await task

    run(main())
    other.close()


def test_task_cannot_await_itself(run):
    async def main():
        async def itself():
            await task

        task = asyncio.create_task(itself())
        with pytest.raises(RuntimeError, match="^Task cannot await on itself: <Task"):
            await asyncio.wait([task])
            task.result()

    run(main())


def test_step_of_a_done_task_is_reported(run, loop, reports):
    async def main():
        future = loop.create_future()

        async def waiting():
            await future

        task = asyncio.create_task(waiting())
        await bare_yield()
        wakeup = future._callbacks[0][0]
        future.set_result(None)
        await task
        with pytest.raises(asyncio.InvalidStateError, match=r"step\(\): already done"):
            await bare_yield()
            asyncio.get_running_loop().call_soon(wakeup, future)
            await bare_yield()
            raise reports[0]["exception"]

    run(main())
    assert reports[0]["message"].startswith("Exception in callback")


# --- coroutines of all kinds --------------------------------------------------


def test_coroutine_like_object(run):
    class Coroutine(collections.abc.Coroutine):
        def __init__(self):
            self.thrown = None
            self.steps = 0

        def send(self, value):
            assert value is None
            self.steps += 1
            if self.steps == 3:
                raise StopIteration("result")

        def throw(self, *args):
            self.thrown = args
            raise StopIteration("thrown into")

        def __await__(self):
            return self

        def close(self):
            pass

    async def main():
        assert await asyncio.create_task(Coroutine()) == "result"
        coroutine = Coroutine()
        task = asyncio.create_task(coroutine)
        await bare_yield()
        task.cancel("message")
        assert await task == "thrown into"
        assert isinstance(coroutine.thrown[0], asyncio.CancelledError)

    run(main())


def test_future_like_object(run, loop):
    class Duck:
        _asyncio_future_blocking = False

        def __init__(self):
            self.callbacks = []

        def get_loop(self):
            return loop

        def add_done_callback(self, callback, *, context=None):
            self.callbacks.append((callback, context))

        def result(self):
            return "duck"

        def cancel(self, msg=None):
            return False

        def __await__(self):
            self._asyncio_future_blocking = True
            yield self
            return self.result()

    async def main():
        duck = Duck()

        async def waiting():
            return await duck

        task = asyncio.create_task(waiting())
        await bare_yield()
        assert task._fut_waiter is duck and duck._asyncio_future_blocking is False
        ((callback, context),) = duck.callbacks
        assert callback.__self__ is task
        loop.call_soon(callback, duck, context=context)
        assert await task == "duck"
        assert task._fut_waiter is None

    run(main())


def test_python_futures_and_tasks_of_asyncio(run, loop):
    from asyncio.futures import _PyFuture
    from asyncio.tasks import _PyTask

    async def waiting(future):
        return await future

    async def main():
        for future_class in (aioloop.Future, asyncio.Future, _PyFuture):
            for task_class in (aioloop.Task, asyncio.Task, _PyTask):
                future = future_class(loop=loop)
                task = task_class(waiting(future), loop=loop)
                await bare_yield()
                loop.call_soon(future.set_result, (future_class, task_class))
                assert await task == (future_class, task_class)

    run(main())


def test_exit_leaves_the_loop_and_is_the_result(loop):
    for leaving in (SystemExit, KeyboardInterrupt):

        async def raising(leaving=leaving):
            raise leaving

        task = loop.create_task(raising())
        with pytest.raises(leaving):
            loop.run_forever()
        assert isinstance(task.exception(), leaving)


def test_context(run, loop):
    variable = contextvars.ContextVar("variable")
    variable.set("outer")

    async def changing():
        assert variable.get() == "outer"
        variable.set("inner")
        await asyncio.sleep(0)
        assert variable.get() == "inner"

    async def main():
        await asyncio.create_task(changing())
        assert variable.get() == "outer"
        context = contextvars.copy_context()
        task = asyncio.create_task(changing(), context=context)
        await task
        assert context[variable] == "inner"
        if VERSION >= (3, 12):
            assert task.get_context() is context

    run(main())


@pytest.mark.skipif(VERSION < (3, 15), reason="checked since 3.15")
def test_wrong_context(loop, reports):
    coroutine = nothing()
    with pytest.raises(TypeError, match="a contextvars.Context was expected"):
        aioloop.Task(coroutine, loop=loop, context=1)
    coroutine.close()
    assert reports == []


def test_context_that_is_entered_already_is_reported(debug):
    # The task can never be stepped, so this loop is not the fixture's.
    loop = aioloop.new_event_loop()
    loop.set_debug(debug)
    # asyncio would run a handler in the task's context, which is entered already.
    reports = []
    loop.call_exception_handler = reports.append
    context = contextvars.copy_context()
    coroutine = nothing()

    def in_context():
        task = loop.create_task(coroutine, context=context)
        run_once(loop)
        return task

    task = context.run(in_context)
    assert not task.done()
    assert "Exception in callback" in reports[0]["message"]
    assert isinstance(reports[0]["exception"], RuntimeError)
    assert reports[0]["handle"]._callback.__self__ is task
    task._log_destroy_pending = False
    coroutine.close()
    loop.close()


# --- eager start --------------------------------------------------------------


@since_3_12
def test_eager_start(run, loop):
    seen = []

    async def eager(steps):
        seen.append(asyncio.current_task())
        for _ in range(steps):
            await bare_yield()
        return steps

    async def main():
        myself = asyncio.current_task()
        task = aioloop.Task(eager(0), loop=loop, eager_start=True)
        assert task.done() and task.result() == 0 and seen == [task]
        assert task.get_coro() is None
        assert asyncio.current_task() is myself
        task = aioloop.Task(eager(2), loop=loop, eager_start=True)
        assert not task.done() and seen[-1] is task
        assert asyncio.all_tasks() == {myself, task}
        assert asyncio.current_task() is myself
        assert await task == 2
        assert task.get_coro() is not None

    run(main())


@since_3_12
def test_eager_start_without_a_running_loop(loop):
    task = aioloop.Task(returning(1), loop=loop, eager_start=True)
    assert not task.done()
    assert loop.run_until_complete(task) == 1


@since_3_12
def test_eager_factory_makes_our_tasks(run, loop):
    async def main():
        loop.set_task_factory(asyncio.eager_task_factory)
        task = asyncio.create_task(returning(3), name="eager")
        assert type(task) is aioloop.Task and task.done()
        assert task.get_name() == "eager"
        loop.set_task_factory(asyncio.create_eager_task_factory(aioloop.Task))
        task = asyncio.create_task(returning(4))
        assert type(task) is aioloop.Task and task.result() == 4
        loop.set_task_factory(None)

    run(main())


@since_3_12
def test_eager_exceptions(run, loop):
    async def raising(exc):
        raise exc

    async def main():
        myself = asyncio.current_task()
        task = aioloop.Task(raising(KeyError()), loop=loop, eager_start=True)
        assert isinstance(task.exception(), KeyError)
        task = aioloop.Task(
            raising(asyncio.CancelledError()), loop=loop, eager_start=True
        )
        assert task.cancelled()
        with pytest.raises(SystemExit):
            aioloop.Task(raising(SystemExit()), loop=loop, eager_start=True)
        assert asyncio.current_task() is myself
        assert asyncio.all_tasks() == {myself}

    run(main())


@since_3_12
def test_eager_start_in_an_entered_context_fails_cleanly(run, loop):
    reports = []
    loop.call_exception_handler = reports.append

    async def main():
        myself = asyncio.current_task()
        context = contextvars.copy_context()
        coroutine = nothing()
        with pytest.raises(RuntimeError, match="cannot enter context"):
            context.run(
                lambda: aioloop.Task(
                    coroutine, loop=loop, context=context, eager_start=True
                )
            )
        coroutine.close()
        assert asyncio.current_task() is myself
        await asyncio.sleep(0)

    run(main())
    destroyed = [r for r in reports if "destroyed" in r["message"]]
    assert len(destroyed) == (0 if VERSION >= (3, 15) else 1)


# --- the end ------------------------------------------------------------------


def test_pending_task_that_dies_is_reported(loop, reports, debug):
    future = loop.create_future()

    async def waiting():
        await future

    task = loop.create_task(waiting())
    run_once(loop)
    future.remove_done_callback(future._callbacks[0][0])
    coroutine = task.get_coro()
    if VERSION >= (3, 14):
        asyncio.future_discard_from_awaited_by(future, task)
    del task
    gc.collect()
    (context,) = reports
    assert context["message"] == "Task was destroyed but it is pending!"
    assert context["task"].get_coro() is coroutine
    assert ("source_traceback" in context) == debug
    reports.clear()
    del context
    gc.collect()
    assert reports == []


def test_log_destroy_pending_can_be_turned_off(loop, reports):
    coroutine = nothing()
    task = aioloop.Task(coroutine, loop=ForeignLoop())
    assert task._log_destroy_pending is True
    foreign = task.get_loop()
    task._log_destroy_pending = False
    foreign.scheduled.clear()
    del task
    gc.collect()
    assert foreign.reports == []
    coroutine.close()


def test_exception_never_retrieved(loop, reports):
    async def raising():
        raise ValueError("lost")

    task = loop.create_task(raising())
    run_once(loop)
    run_once(loop)
    del task
    gc.collect()
    (context,) = reports
    assert context["message"] == "Task exception was never retrieved"
    assert str(context["exception"]) == "lost"
    assert type(context["future"]) is aioloop.Task


def test_stack(run, loop):
    async def main():
        future = loop.create_future()

        async def waiting():
            await future

        async def raising():
            raise KeyError

        task = asyncio.create_task(waiting())
        await bare_yield()
        (frame,) = task.get_stack()
        assert frame.f_code.co_name == "waiting"
        assert task.get_stack(limit=0) == []
        output = io.StringIO()
        task.print_stack(file=output)
        assert output.getvalue().startswith("Stack for <Task pending")
        future.set_result(None)
        await task
        assert task.get_stack() == []
        task = asyncio.create_task(raising())
        await asyncio.wait([task])
        task.exception()
        output = io.StringIO()
        task.print_stack(limit=1, file=output)
        assert output.getvalue().startswith("Traceback for <Task finished")
        with pytest.raises(TypeError, match="takes no positional arguments"):
            task.get_stack(1)

    run(main())


def test_uninitialized_task():
    task = aioloop.Task.__new__(aioloop.Task)
    assert task.get_name() is None and task.get_coro() is None
    assert task._fut_waiter is None and not task._must_cancel
    assert task.cancelling() == 0 and not task.done()
    with pytest.raises(RuntimeError, match="not initialized"):
        repr(task)
    del task
    gc.collect()


def test_base_methods_called_unbound_do_not_crash(run):
    async def main():
        task = asyncio.current_task()
        assert asyncio.Task.get_coro(task) is task.get_coro()
        if VERSION >= (3, 12):
            assert asyncio.Task.get_context(task) is task.get_context()
        assert asyncio.Task.get_name(task)
        asyncio.Task.set_name(task, "renamed")
        assert task.get_name() == "renamed"
        with pytest.raises((RuntimeError, asyncio.InvalidStateError)):
            asyncio.Task.result(task)

    run(main())


def test_second_init(loop):
    task = aioloop.Task(returning(1), loop=loop)
    assert loop.run_until_complete(task) == 1
    if VERSION >= (3, 15):
        coroutine = returning(2)
        with pytest.raises(RuntimeError, match="Task object is already initialized"):
            task.__init__(coroutine, loop=loop)
        coroutine.close()
        assert task.result() == 1
    else:
        task.__init__(returning(2), loop=loop)
        assert not task.done()
        assert loop.run_until_complete(task) == 2


def test_python_subclass(loop, run):
    class Sub(aioloop.Task):
        def __init__(self, coro, **kwargs):
            super().__init__(coro, **kwargs)
            self.cancels = 0

        def cancel(self, msg=None):
            self.cancels += 1
            return super().cancel(msg)

    async def main():
        loop.set_task_factory(lambda loop, coro, **kw: Sub(coro, loop=loop, **kw))
        task = asyncio.create_task(asyncio.sleep(100))
        await bare_yield()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancels == 1 and "Sub cancelled" in repr(task)
        assert await asyncio.create_task(returning(1)) == 1
        loop.set_task_factory(None)

    run(main())


def test_subclass_with_del(loop):
    deleted = []

    class Sub(aioloop.Task):
        def __del__(self):
            deleted.append(self.done())

    task = Sub(nothing(), loop=loop)
    loop.run_until_complete(task)
    del task
    gc.collect()
    assert deleted == [True]


def test_foreign_loop():
    loop = ForeignLoop()

    async def main():
        task = asyncio.current_task()
        future = aioloop.Future(loop=loop)
        loop.call_soon(future.set_result, 5, context=contextvars.copy_context())
        assert await future == 5
        await bare_yield()
        return task

    task = aioloop.Task(main(), loop=loop)
    ((step, args, context),) = loop.scheduled
    assert step.__self__ is task and args == ()
    with pytest.raises(TypeError, match="no positional arguments"):
        step(1)
    with pytest.raises(TypeError, match="no keyword arguments"):
        step(a=1)
    loop.run()
    assert task.result() is task


def test_replaced_call_soon_sees_steps_and_wakeups(run, loop):
    calls = []

    def call_soon(callback, *args, context=None):
        calls.append(getattr(callback, "__self__", None))
        return type(loop).call_soon(loop, callback, *args, context=context)

    async def main():
        future = loop.create_future()

        async def waiting():
            await bare_yield()
            await future

        loop.call_soon = call_soon
        task = asyncio.create_task(waiting())
        for _ in range(3):
            await bare_yield()
        future.set_result(None)
        await task
        del loop.call_soon
        return task

    task = run(main())
    assert calls.count(task) == 3


def test_closed_loop_refuses_a_task(debug):
    loop = aioloop.new_event_loop()
    loop.set_debug(debug)
    loop.close()
    coroutine = nothing()
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        loop.create_task(coroutine)
    coroutine.close()


def test_slow_step_is_logged_with_its_task(loop, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 0

    with caplog.at_level(logging.WARNING, "asyncio"):
        loop.run_until_complete(asyncio.sleep(0))
    texts = [record.getMessage() for record in caplog.records]
    assert any(text.startswith("Executing <Task ") for text in texts), texts


def test_weak_reference_and_attributes(loop):
    task = loop.create_task(nothing())
    task.attribute = 1
    dead = []
    reference = weakref.ref(task, dead.append)
    loop.run_until_complete(task)
    assert task.attribute == 1
    del task
    gc.collect()
    assert reference() is None and dead == [reference]


def test_generic_alias():
    assert aioloop.Task[int].__origin__ is aioloop.Task


def test_coroutine_of_a_task_that_never_ran_warns(loop, reports):
    task = loop.create_task(nothing())
    task._log_destroy_pending = False
    coroutine = task.get_coro()
    run_once(loop)
    assert task.done()
    del task
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del coroutine
        gc.collect()


def test_all_of_asyncios_helpers(run):
    async def value(n):
        await asyncio.sleep(0)
        return n

    async def main():
        done, pending = await asyncio.wait(
            [asyncio.create_task(value(n)) for n in range(3)]
        )
        assert sorted(task.result() for task in done) == [0, 1, 2] and not pending
        seen = [await future for future in asyncio.as_completed([value(1), value(2)])]
        assert sorted(seen) == [1, 2]
        assert await asyncio.shield(value(3)) == 3
        assert await asyncio.wait_for(value(4), 10) == 4
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.sleep(100), 0.001)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            task = group.create_task(value(5))
        assert task.result() == 5
        assert await asyncio.gather(value(6), value(7)) == [6, 7]
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(100))
                group.create_task(failing())

    async def failing():
        raise ValueError

    run(main())


def test_run_coroutine_threadsafe(loop, run, thread):
    results = []

    async def main():
        finished = asyncio.Event()

        def other_thread():
            future = asyncio.run_coroutine_threadsafe(returning(9), loop)
            results.append(future.result(10))
            loop.call_soon_threadsafe(finished.set)

        thread(other_thread)
        await finished.wait()

    run(main())
    assert results == [9]
