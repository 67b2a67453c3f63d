"""aioloop.Future: asyncio.Future's behaviour, attribute by attribute."""

import asyncio
import contextvars
import gc
import inspect
import sys
import weakref

import pytest

import aioloop

VERSION = sys.version_info[:2]


@pytest.fixture
def future(loop):
    return loop.create_future()


class ForeignLoop:
    """What asyncio's Future needs of a loop; it keeps what call_soon gets."""

    def __init__(self, debug=False):
        self.debug = debug
        self.scheduled = []
        self.reports = []

    def get_debug(self):
        return self.debug

    def call_soon(self, callback, *args, context=None):
        self.scheduled.append((callback, args, context))

    def call_exception_handler(self, context):
        self.reports.append(context)

    def run(self):
        while self.scheduled:
            callback, args, context = self.scheduled.pop(0)
            context.run(callback, *args)


def run_once(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_is_a_future_of_asyncio(future):
    assert isinstance(future, asyncio.Future)
    assert asyncio.isfuture(future)
    assert type(future) is aioloop.Future
    assert not isinstance(future, asyncio.Task)
    assert inspect.isawaitable(future)


def test_signatures_equal_asyncios():
    for name, ours in vars(aioloop.Future).items():
        theirs = vars(asyncio.Future).get(name)
        if callable(ours) and not name.startswith("__"):
            assert ours.__text_signature__ == theirs.__text_signature__, name
            assert ours.__doc__, name
    assert aioloop.Future.__text_signature__ == asyncio.Future.__text_signature__


def test_every_attribute_of_the_base_is_overridden():
    inherited = {"__module__", "__doc__", "__new__", "_asyncio_awaited_by"}
    base = {**vars(asyncio.Future)}
    assert set(base) - set(vars(aioloop.Future)) <= inherited


def test_result(loop, future):
    assert not future.done()
    with pytest.raises(asyncio.InvalidStateError, match=r"^Result is not set\.$"):
        future.result()
    with pytest.raises(asyncio.InvalidStateError, match=r"^Exception is not set\.$"):
        future.exception()
    future.set_result(42)
    assert future.done() and not future.cancelled()
    assert future.result() == 42
    assert future.exception() is None
    assert future._state == "FINISHED" and future._result == 42
    for method in (future.set_result, future.set_exception):
        with pytest.raises(asyncio.InvalidStateError, match="^invalid state$"):
            method(ValueError())
    assert future.cancel() is False


@pytest.mark.parametrize("given", [ZeroDivisionError, ZeroDivisionError("text")])
def test_exception(future, given):
    future.set_exception(given)
    assert isinstance(future.exception(), ZeroDivisionError)
    with pytest.raises(ZeroDivisionError) as caught:
        future.result()
    assert caught.value is future.exception() is future._exception


def test_exception_keeps_only_the_traceback_it_came_with(future):
    try:
        raise ValueError
    except ValueError as exc:
        future.set_exception(exc)
    lengths = []
    for _ in range(3):
        try:
            future.result()
        except ValueError as exc:
            lengths.append(len(inspect.getinnerframes(exc.__traceback__)))
    assert lengths[1:] == [1, 1], "tracebacks must not pile up"


@pytest.mark.parametrize("wrong", [1, int, None])
def test_set_exception_refuses_other_objects(future, wrong):
    with pytest.raises(TypeError, match="^invalid exception object$"):
        future.set_exception(wrong)
    assert not future.done()


def test_stop_iteration_cannot_be_set(loop):
    """asyncio raised TypeError once; its bug-fix releases store a RuntimeError."""
    outcomes = []
    for cls in (asyncio.Future, aioloop.Future):
        future = cls(loop=loop)
        stop = StopIteration(1)
        try:
            future.set_exception(stop)
        except TypeError as exc:
            assert not future.done()
            outcomes.append(("raised", str(exc)))
        else:
            error = future.exception()
            assert error.__cause__ is stop and error.__context__ is stop
            outcomes.append((type(error), str(error)))
    assert outcomes[0] == outcomes[1]
    assert "StopIteration interacts badly with generators" in outcomes[0][1]


def test_cancel(future):
    assert future.cancel("why") is True
    assert future.cancelled() and future.done()
    assert future._cancel_message == "why"
    assert future.cancel() is False
    with pytest.raises(asyncio.CancelledError, match="^why$"):
        future.result()
    with pytest.raises(asyncio.CancelledError):
        future.exception()


def test_cancel_message_attribute(future):
    assert future._cancel_message is None
    future._cancel_message = "text"
    assert future._make_cancelled_error().args == ("text",)
    with pytest.raises(AttributeError):
        del future._cancel_message


def test_callbacks_run_in_order_in_their_contexts(loop, future):
    variable = contextvars.ContextVar("variable", default=None)
    seen = []
    contexts = []
    for number in range(4):
        context = contextvars.copy_context()
        context.run(variable.set, number)
        contexts.append(context)
        future.add_done_callback(
            lambda f: seen.append((f, variable.get())), context=context
        )
    assert [context for _, context in future._callbacks] == contexts
    future.set_result(None)
    assert seen == [] and future._callbacks is None
    run_once(loop)
    assert seen == [(future, n) for n in range(4)]


def test_callback_of_a_done_future_is_scheduled_at_once(loop, future):
    seen = []
    future.set_result(None)
    future.add_done_callback(seen.append)
    assert seen == []
    run_once(loop)
    assert seen == [future]


def test_callback_without_context_gets_a_copy_of_the_current_one(loop, future):
    variable = contextvars.ContextVar("variable", default="default")
    seen = []
    token = variable.set("when added")
    future.add_done_callback(lambda f: (seen.append(variable.get()), variable.set(1)))
    variable.reset(token)
    future.set_result(None)
    run_once(loop)
    assert seen == ["when added"] and variable.get() == "default"


def test_remove_done_callback(loop, future):
    seen = []

    def other(f):
        seen.append("other")

    for callback in (seen.append, other, seen.append, seen.append):
        future.add_done_callback(callback)
    assert future.remove_done_callback(print) == 0
    assert future.remove_done_callback(seen.append) == 3
    assert [callback for callback, _ in future._callbacks] == [other]
    assert future.remove_done_callback(other) == 1
    assert future.remove_done_callback(other) == 0
    assert future._callbacks is None
    future.add_done_callback(other)
    future.set_result(None)
    run_once(loop)
    assert seen == ["other"]


def test_first_callback_can_be_removed_and_another_added(loop, future):
    seen = []
    future.add_done_callback(seen.append)
    future.add_done_callback(print)
    future.remove_done_callback(seen.append)
    future.add_done_callback(seen.append)
    assert [callback for callback, _ in future._callbacks] == [print, seen.append]


def test_exception_of_a_callback_is_reported(loop, future, debug):
    reports = []
    loop.set_exception_handler(lambda loop, context: reports.append(context))

    def callback(f):
        raise ValueError("from the callback")

    future.add_done_callback(callback)
    future.set_result(None)
    run_once(loop)
    (context,) = reports
    assert context["message"].startswith("Exception in callback ")
    assert "callback" in context["message"]
    # Since 3.13 asyncio shows a callback's arguments in debug mode only.
    assert ("<Future" in context["message"]) == (debug or VERSION < (3, 13))
    assert isinstance(context["exception"], ValueError)
    assert isinstance(context["handle"], asyncio.Handle)
    assert context["handle"]._callback is callback
    assert ("source_traceback" in context) == debug


@pytest.mark.parametrize("leaving", [SystemExit, KeyboardInterrupt])
def test_exit_of_a_callback_leaves_the_loop(loop, future, leaving):
    def callback(f):
        raise leaving

    seen = []
    future.add_done_callback(callback)
    future.add_done_callback(seen.append)
    future.set_result(None)
    with pytest.raises(leaving):
        loop.run_forever()
    run_once(loop)
    assert seen == [future], "the other callback must not be lost"


def test_await_returns_the_result(run, loop):
    async def main(value):
        future = loop.create_future()
        loop.call_soon(future.set_result, value)
        return await future

    for value in (None, 0, (), (1, 2), "text", ValueError("as a value")):
        assert run(main(value)) is value


def test_await_raises_the_exception(run, loop):
    async def main():
        future = loop.create_future()
        loop.call_soon(future.set_exception, KeyError("key"))
        with pytest.raises(KeyError):
            await future
        future = loop.create_future()
        loop.call_soon(future.cancel, "message")
        with pytest.raises(asyncio.CancelledError, match="message"):
            await future

    run(main())


def test_iterator_protocol(future):
    iterator = iter(future)
    assert iter(iterator) is iterator
    assert not future._asyncio_future_blocking
    assert next(iterator) is future
    assert future._asyncio_future_blocking
    with pytest.raises(RuntimeError, match="^await wasn't used with future$"):
        next(iterator)
    future._asyncio_future_blocking = False
    future.set_result((1,))
    with pytest.raises(StopIteration) as stop:
        iterator.send(None)
    assert stop.value.value == (1,)


@pytest.mark.parametrize("value", [None, 1, (), (1,), ValueError(), StopIteration(3)])
def test_iterator_ends_with_the_result(future, value):
    future.set_result(value)
    for end in (lambda: iter(future).send(1), lambda: next(future.__await__())):
        with pytest.raises(StopIteration) as stop:
            end()
        assert stop.value.value is value
    assert list(iter(future)) == []


def test_iterator_throw_and_close(future):
    iterator = iter(future)
    next(iterator)
    with pytest.raises(ZeroDivisionError):
        iterator.throw(ZeroDivisionError)
    with pytest.raises(StopIteration):
        iterator.send(None)
    iterator = iter(future)
    assert iterator.close() is None
    with pytest.raises(StopIteration):
        iterator.send(None)
    iterator = iter(future)
    with pytest.raises(TypeError, match="exceptions must be classes deriving"):
        iterator.throw(1)
    with pytest.raises(TypeError, match="throw expected at least 1 argument, got 0"):
        iterator.throw()
    with pytest.raises(TypeError, match="throw expected at most 3 arguments, got 4"):
        iterator.throw(ValueError, None, None, None)


@pytest.mark.filterwarnings("ignore:the .type, exc, tb. signature:DeprecationWarning")
def test_iterator_throw_with_three_arguments(future):
    iterator = iter(future)
    with pytest.raises(TypeError, match="third argument must be a traceback"):
        iterator.throw(ValueError, 1, 1)
    with pytest.raises(TypeError, match="may not have a separate value"):
        iterator.throw(ValueError(), 1)
    try:
        raise KeyError
    except KeyError as exc:
        traceback = exc.__traceback__
    with pytest.raises(ValueError, match="^1$") as caught:
        iterator.throw(ValueError, 1, traceback)
    assert caught.value.__traceback__.tb_next.tb_frame is traceback.tb_frame


@pytest.mark.skipif(VERSION < (3, 12), reason="the signature is deprecated in 3.12")
def test_iterator_throw_warns(future):
    with pytest.warns(DeprecationWarning, match="use the single-arg signature"):
        with pytest.raises(ValueError):
            iter(future).throw(ValueError, None)


def test_uninitialized_future():
    new = aioloop.Future.__new__
    future = new(aioloop.Future)
    for method in (future.result, future.exception):
        with pytest.raises(asyncio.InvalidStateError, match="not initialized"):
            method()
    refusing = [
        lambda: future.set_result(1),
        lambda: future.set_exception(ValueError),
        lambda: future.cancel(),
        lambda: future.add_done_callback(print),
        lambda: future.remove_done_callback(print),
        lambda: future.get_loop(),
        lambda: repr(future),
        lambda: iter(future),
        lambda: future.__await__(),
        lambda: future._state,
        lambda: future._callbacks,
        lambda: future._log_traceback,
        lambda: setattr(future, "_asyncio_future_blocking", True),
    ]
    for refused in refusing:
        with pytest.raises(RuntimeError, match="initialized"):
            refused()
    assert not future.done() and not future.cancelled()
    assert future._loop is None and future._source_traceback is None
    assert future._cancel_message is None and not future._asyncio_future_blocking
    assert isinstance(future._make_cancelled_error(), asyncio.CancelledError)


def test_base_methods_called_unbound_refuse(future):
    future.set_result(1)
    with pytest.raises((asyncio.InvalidStateError, RuntimeError)):
        asyncio.Future.result(future)
    with pytest.raises(RuntimeError):
        asyncio.Future.set_result(future, 2)
    with pytest.raises(RuntimeError):
        asyncio.Future.add_done_callback(future, print)
    assert future.result() == 1


def test_second_init(loop):
    future = aioloop.Future(loop=loop)
    future.set_result(1)
    future.attribute = 2
    if VERSION >= (3, 15):
        with pytest.raises(RuntimeError, match="Future object is already initialized"):
            future.__init__(loop=loop)
        assert future.result() == 1
    else:
        future.__init__(loop=loop)
        assert not future.done() and future._result is None
    assert future.attribute == 2


def test_constructor(loop):
    with pytest.raises(TypeError, match=r"Future\(\) takes no positional arguments"):
        aioloop.Future(loop)
    with pytest.raises(TypeError, match="wrong"):
        aioloop.Future(wrong=1)
    assert aioloop.Future(loop=loop).get_loop() is loop

    async def main():
        assert aioloop.Future().get_loop() is loop
        assert aioloop.Future(loop=None).get_loop() is loop

    loop.run_until_complete(main())


@pytest.mark.parametrize("debugging", [False, True])
def test_foreign_loop(debugging):
    loop = ForeignLoop(debugging)
    future = aioloop.Future(loop=loop)
    assert future.get_loop() is loop is future._loop
    assert (future._source_traceback is not None) == debugging
    seen = []
    future.add_done_callback(seen.append)
    future.add_done_callback(seen.append)
    future.set_result(1)
    assert [args for _, args, _ in loop.scheduled] == [(future,), (future,)]
    loop.run()
    assert seen == [future, future]


def test_foreign_loop_that_fails_in_call_soon():
    loop = ForeignLoop()
    future = aioloop.Future(loop=loop)
    future.add_done_callback(print)
    future.add_done_callback(print)

    def call_soon(*args, context):
        raise ArithmeticError

    loop.call_soon = call_soon
    with pytest.raises(ArithmeticError):
        future.set_result(1)
    assert future.result() == 1 and future._callbacks is None


def test_replaced_call_soon_sees_the_callbacks(loop, future):
    calls = []

    def call_soon(callback, *args, context=None):
        calls.append((callback, args, context))
        return type(loop).call_soon(loop, callback, *args, context=context)

    loop.call_soon = call_soon
    context = contextvars.Context()
    seen = []
    future.add_done_callback(seen.append, context=context)
    future.set_result(None)
    assert calls == [(seen.append, (future,), context)]
    run_once(loop)
    assert seen == [future]


def test_closed_loop_refuses_callbacks(debug):
    loop = aioloop.new_event_loop()
    loop.set_debug(debug)
    future = loop.create_future()
    future.add_done_callback(print)
    loop.close()
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        future.set_result(None)


def test_exception_never_retrieved(loop, debug):
    reports = []
    loop.set_exception_handler(lambda loop, context: reports.append(context))
    future = loop.create_future()
    error = ValueError()
    future.set_exception(error)
    assert future._log_traceback
    del future
    (context,) = reports
    assert context["message"] == "Future exception was never retrieved"
    assert context["exception"] is error
    assert type(context["future"]) is aioloop.Future
    assert ("source_traceback" in context) == debug


@pytest.mark.parametrize("retrieve", ["result", "exception", "cancel", "attribute"])
def test_retrieved_exception_is_not_reported(loop, retrieve):
    reports = []
    loop.set_exception_handler(lambda loop, context: reports.append(context))
    future = loop.create_future()
    future.set_exception(ValueError())
    if retrieve == "result":
        with pytest.raises(ValueError):
            future.result()
    elif retrieve == "exception":
        future.exception()
    elif retrieve == "cancel":
        assert not future.cancel()
    else:
        future._log_traceback = False
    del future
    gc.collect()
    assert reports == []


def test_log_traceback_can_only_be_set_to_false(future):
    with pytest.raises(ValueError, match="^_log_traceback can only be set to False$"):
        future._log_traceback = True
    with pytest.raises(AttributeError):
        del future._log_traceback
    future._log_traceback = False


def test_resurrected_future_lives_on(loop):
    reports = []
    loop.set_exception_handler(lambda loop, context: reports.append(context["future"]))
    future = loop.create_future()
    future.set_exception(ValueError("text"))
    del future
    (future,) = reports
    assert str(future.exception()) == "text"
    reports.clear()
    del future
    gc.collect()
    assert reports == [], "the finalizer runs once"


def test_source_traceback_is_one_live_list(loop, debug):
    future = loop.create_future()
    if debug:
        stack = future._source_traceback
        assert stack is future._source_traceback
        assert stack[-1].name == "test_source_traceback_is_one_live_list"
        length = len(stack)
        del stack[-1]
        assert len(future._source_traceback) == length - 1
    else:
        assert future._source_traceback is None


def test_repr(loop, debug):
    future = loop.create_future()
    assert repr(future).startswith("<Future pending")
    future.add_done_callback(print)
    assert "cb=[" in repr(future)
    future.set_result([1])
    assert repr(future).startswith("<Future finished result=[1]")
    assert ("created at" in repr(future)) == debug
    future = loop.create_future()
    future.cancel()
    assert repr(future).startswith("<Future cancelled")


def test_attributes_weak_references_and_generic_alias(future):
    future.attribute = 1
    assert future.attribute == 1
    assert not hasattr(future, "__dict__")
    dead = []
    reference = weakref.ref(future, dead.append)
    assert reference() is future
    assert aioloop.Future[int].__origin__ is aioloop.Future
    assert future.__class_getitem__(int).__args__ == (int,)


def test_weak_reference_dies_with_the_future(loop):
    future = loop.create_future()
    dead = []
    reference = weakref.ref(future, dead.append)
    del future
    assert reference() is None and dead == [reference]


def test_recycled_future_is_new(loop):
    """Objects from the free list carry nothing of their former lives."""
    for _ in range(3):
        future = loop.create_future()
        future.attribute = object()
        reference = weakref.ref(future)
        future.add_done_callback(print)
        future.remove_done_callback(print)
        future.cancel("message")
        del future
        future = loop.create_future()
        assert reference() is None
        assert not hasattr(future, "attribute")
        assert future._state == "PENDING" and future._callbacks is None
        assert future._cancel_message is None and not future.done()
        assert not future._asyncio_future_blocking and not future._log_traceback


def test_python_subclass(loop, run):
    class Sub(aioloop.Future):
        def __init__(self, *, loop):
            super().__init__(loop=loop)
            self.results = []

        def set_result(self, value):
            self.results.append(value)
            super().set_result(value)

    future = Sub(loop=loop)
    loop.call_soon(future.set_result, 5)

    async def main():
        return await future

    assert run(main()) == 5
    assert future.results == [5]
    assert "Sub finished" in repr(future)


def test_cycle_is_collected(loop):
    future = loop.create_future()
    future.myself = future
    future.add_done_callback(lambda f, other=future: None)
    reference = weakref.ref(future)
    del future
    gc.collect()
    assert reference() is None


def test_wrap_future_and_threads(loop, run):
    async def main():
        future = asyncio.wrap_future(loop.run_in_executor(None, lambda: 7))
        assert type(future) is aioloop.Future
        return await future

    assert run(main()) == 7


@pytest.mark.parametrize(
    "call",
    [
        lambda f: f.cancel(1, 2),
        lambda f: f.cancel(wrong=1),
        lambda f: f.cancel(1, msg=2),
        lambda f: f.add_done_callback(),
        lambda f: f.add_done_callback(1, 2),
        lambda f: f.add_done_callback(1, wrong=2),
        lambda f: f.result(1),
        lambda f: f.set_exception(1),
        lambda f: type(f)(1),
        lambda f: type(f)(wrong=1),
    ],
)
def test_wrong_arguments_give_asyncios_message(loop, call):
    messages = []
    for cls in (asyncio.Future, aioloop.Future):
        with pytest.raises(TypeError) as caught:
            call(cls(loop=loop))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
