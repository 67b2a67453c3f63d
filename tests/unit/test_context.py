"""In which context, and with which current task, does what the loop runs find itself?

Slots that follow each other may share an entered context and the entry of the current
task, which nothing but the slots themselves may notice. Each case runs on asyncio's own
loop too: what it sees there is what the test expects.
"""

import asyncio
import contextvars
import socket
import sys
import threading

import pytest

import aioloop

VARIABLE = contextvars.ContextVar("variable", default="nothing")


@pytest.fixture(params=[asyncio.SelectorEventLoop, aioloop.new_event_loop])
def loop(request):
    loop = request.param()
    yield loop
    loop.close()


def run(loop, limit=10):
    """Run the loop until a callback stops it."""
    loop.call_later(limit, loop.stop)
    loop.run_forever()


def seen():
    """What a piece of code can ask about where it runs."""
    return VARIABLE.get(), asyncio.current_task()


def test_callbacks_of_one_context_share_it_and_others_do_not_see_it(loop):
    context = contextvars.copy_context()
    values = []

    def remember_and_set(value):
        values.append(VARIABLE.get())
        VARIABLE.set(value)

    loop.call_soon(remember_and_set, 1, context=context)
    loop.call_soon(remember_and_set, 2, context=context)
    loop.call_soon(remember_and_set, 3)
    loop.call_soon(remember_and_set, 4)
    loop.call_soon(remember_and_set, 5, context=context)
    loop.call_soon(loop.stop)
    run(loop)
    assert values == ["nothing", 1, "nothing", "nothing", 2]
    assert context[VARIABLE] == 5
    assert VARIABLE.get() == "nothing"


def test_a_context_can_be_entered_once_its_callback_is_over(loop):
    context = contextvars.copy_context()
    ran = []
    loop.call_soon(ran.append, "callback", context=context)
    loop.call_soon(context.run, ran.append, "run in a callback")
    loop.call_soon(ran.append, "last", context=context)
    loop.call_soon(loop.stop, context=context)
    run(loop)
    context.run(ran.append, "run behind the loop")
    assert ran == ["callback", "run in a callback", "last", "run behind the loop"]


def test_a_thread_can_enter_a_context_whose_callback_is_over(loop):
    context = contextvars.copy_context()
    over = threading.Event()
    ran = []

    def enter():
        over.wait(10)
        context.run(ran.append, "thread")
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=enter)
    thread.start()
    loop.call_soon(ran.append, "callback", context=context)
    loop.call_soon(over.set)
    run(loop)
    thread.join()
    assert ran == ["callback", "thread"]


def test_a_reader_runs_in_the_context_of_its_registration(loop):
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        context = contextvars.copy_context()
        context.run(VARIABLE.set, "reader's")
        values = []

        def readable():
            values.append(VARIABLE.get())
            near.recv(1)
            loop.stop()

        context.run(loop.add_reader, near, readable)
        loop.call_soon(VARIABLE.set, "callback's", context=contextvars.copy_context())
        far.send(b"x")
        run(loop)
        loop.remove_reader(near)
        assert values == ["reader's"]


def test_what_follows_a_task_step_has_no_current_task(loop):
    found = []

    async def work():
        loop.call_soon(lambda: found.append(seen()))
        VARIABLE.set("task's")
        await asyncio.sleep(0)
        found.append(seen())

    def done(_):
        found.append(seen())
        loop.stop()

    task = loop.create_task(work())
    task.add_done_callback(done)
    run(loop)
    assert found == [("nothing", None), ("task's", task), ("nothing", None)]


def test_the_exception_handler_has_no_current_task(loop):
    found = []

    async def work():
        await asyncio.sleep(0)
        loop.call_soon(lambda: 1 / 0)

    def handler(*_):
        found.append(seen())
        loop.stop()

    loop.set_exception_handler(handler)
    task = loop.create_task(work())
    run(loop)
    assert task.done()
    assert found == [("nothing", None)]


def test_run_forever_leaves_the_callers_context_as_it_was(loop):
    async def work():
        VARIABLE.set("task's")
        await asyncio.sleep(0)

    token = VARIABLE.set("caller's")
    try:
        loop.run_until_complete(work())
        assert VARIABLE.get() == "caller's"
        loop.call_soon(VARIABLE.set, "callback's")
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert VARIABLE.get() == "caller's"
    finally:
        VARIABLE.reset(token)


def test_a_step_keeps_its_own_context_among_others(loop):
    found = []

    async def work(name):
        for i in range(3):
            VARIABLE.set((name, i))
            await asyncio.sleep(0)
            found.append(VARIABLE.get())

    async def look_on():
        for _ in range(3):
            await asyncio.sleep(0)
            found.append(VARIABLE.get())

    async def main():
        await asyncio.gather(work("a"), look_on(), work("b"), look_on())

    loop.run_until_complete(main())
    assert found == [
        value for i in range(3) for value in (("a", i), "nothing", ("b", i), "nothing")
    ]


def test_a_replaced_run_of_handles_enters_the_context_itself(loop, monkeypatch):
    context = contextvars.copy_context()
    ran = []
    original = asyncio.Handle._run

    def run_handle(self):
        ran.append("patched")
        return original(self)

    loop.call_soon(ran.append, 1, context=context)
    loop.call_soon(
        lambda: monkeypatch.setattr(asyncio.Handle, "_run", run_handle), context=context
    )
    loop.call_soon(lambda: loop.call_soon(ran.append, 2, context=context))
    loop.call_soon(lambda: loop.call_soon(loop.stop, context=context))
    run(loop)
    assert [item for item in ran if item != "patched"] == [1, 2]
    assert ran.count("patched") >= 2


def test_a_context_that_a_callback_keeps_is_its_own(loop):
    kept = []

    def keep_and_set(value):
        VARIABLE.set(value)
        kept.append(contextvars.copy_context())

    for i in range(3):
        loop.call_soon(keep_and_set, i)
    loop.call_soon(lambda: kept.append(contextvars.copy_context()))
    loop.call_soon(loop.stop)
    run(loop)
    assert [context.get(VARIABLE) for context in kept] == [0, 1, 2, None]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("cls", [asyncio.Task, aioloop.Task, asyncio.tasks._PyTask])
def test_the_handler_of_a_lost_exception_runs_in_the_tasks_context(loop, cls, shared):
    # 3.12 and newer run the exception handler in the context of what it is about.
    found = []

    def handler(loop, context):
        found.append((context["message"], *seen()))
        loop.call_soon(loop.stop)

    async def fail():
        VARIABLE.set("task's")
        raise ZeroDivisionError

    async def go_on():
        for _ in range(3):
            await asyncio.sleep(0)

    context = contextvars.copy_context()
    loop.set_exception_handler(handler)
    chosen = {"context": context} if shared else {}
    context.run(lambda: cls(fail(), loop=loop, **chosen) and None)
    other = loop.create_task(go_on(), context=context)
    run(loop)
    assert other is not None
    value = "task's" if sys.version_info >= (3, 12) else "nothing"
    assert found == [("Task exception was never retrieved", value, None)]
