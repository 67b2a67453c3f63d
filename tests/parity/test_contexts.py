"""Every ``context=`` of the API: which context the callback or task runs in.

None, a Context, one that is entered already, and objects that are no Context: asyncio
wants nothing of a context but ``run(callback, *args)``.
"""

import asyncio
import contextvars
import re
import sys

import pytest

import aioloop

VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


def context_with(value):
    context = contextvars.copy_context()
    context.run(VARIABLE.set, value)
    return context


class Runs:
    """No Context, but something that runs callbacks."""

    def __init__(self, note):
        self.note = note

    def run(self, callback, *args):
        self.note("run", VARIABLE.get())
        return context_with("by Runs").run(callback, *args)

    def __repr__(self):
        return "Runs()"


class Fails:
    def run(self, callback, *args):
        raise ZeroDivisionError


# Each returns the value of context=, or a tuple of it alone for "leave it out".
CONTEXTS = {
    "absent": lambda stage: (),
    "None": lambda stage: None,
    "Context": lambda stage: context_with("in Context"),
    "entered": lambda stage: stage.entered,
    "with a run method": lambda stage: Runs(stage.note),
    "with a run method that fails": lambda stage: Fails(),
    "int": lambda stage: 5,
    "str": lambda stage: "context",
}


class Stage:
    def __init__(self, loop):
        self.loop = loop
        self.journal = []
        self.coroutines = []

    def work(self):
        """Return a coroutine, which is closed in the end: not every task runs."""
        self.coroutines.append(work(self))
        return self.coroutines[-1]

    def note(self, *entry):
        self.journal.append(entry)

    def callback(self, *args):
        self.note("called", VARIABLE.get(), len(args))
        VARIABLE.set("set by a callback")

    def handler(self, loop, context):
        exc = context.get("exception")
        message = context["message"].partition(" in callback")[0]
        text = re.sub(r" at 0x\w+", "", str(exc))  # a Context, before 3.14
        self.note("handler", message, type(exc), text)


# --- what takes a context ----------------------------------------------------------


async def call_soon(stage, **keywords):
    stage.loop.call_soon(stage.callback, **keywords)
    stage.loop.call_soon(stage.callback, 1, **keywords)
    stage.loop.call_soon(stage.callback, 1, 2, **keywords)


async def call_soon_threadsafe(stage, **keywords):
    stage.loop.call_soon_threadsafe(stage.callback, 1, **keywords)


async def call_later(stage, **keywords):
    stage.loop.call_later(0, stage.callback, **keywords)
    stage.loop.call_later(0.001, stage.callback, 1, **keywords)


async def call_at(stage, **keywords):
    stage.loop.call_at(stage.loop.time() + 0.001, stage.callback, 1, **keywords)


async def pending_future(stage, **keywords):
    future = stage.loop.create_future()
    future.add_done_callback(stage.callback, **keywords)
    future.add_done_callback(stage.callback, **keywords)
    context_with("of set_result").run(future.set_result, None)


async def done_future(stage, **keywords):
    future = stage.loop.create_future()
    future.set_result(None)
    future.add_done_callback(stage.callback, **keywords)


async def cancelled_future(stage, **keywords):
    future = stage.loop.create_future()
    future.add_done_callback(stage.callback, **keywords)
    context_with("of cancel").run(future.cancel)


async def removed_callback(stage, **keywords):
    future = stage.loop.create_future()
    future.add_done_callback(stage.callback, **keywords)
    future.add_done_callback(print, **keywords)
    stage.note([context for _, context in future._callbacks] == [None, None])
    stage.note(future.remove_done_callback(print))
    future.set_result(None)


async def callback_of_a_task(stage, **keywords):
    task = stage.loop.create_task(asyncio.sleep(0), context=context_with("of task"))
    task.add_done_callback(stage.callback, **keywords)


async def work(stage):
    for _ in range(2):
        stage.note("step", VARIABLE.get())
        VARIABLE.set("set by a step")
        await asyncio.sleep(0)
    future = stage.loop.create_future()
    stage.loop.call_soon(future.set_result, None)
    await future
    stage.note("end", VARIABLE.get())


def note_context(stage, thing, keywords):
    if hasattr(thing, "get_context"):
        context = thing.get_context()
        stage.note("kept", context is keywords.get("context", 0), type(context))


async def make_task(stage, make, **keywords):
    task = make(stage.work(), **keywords)
    task._log_destroy_pending = False
    note_context(stage, task, keywords)
    return task


async def create_task(stage, **keywords):
    return await make_task(stage, stage.loop.create_task, **keywords)


async def asyncio_create_task(stage, **keywords):
    return await make_task(stage, asyncio.create_task, **keywords)


async def task_type(stage, **keywords):
    cls = aioloop.Task if isinstance(stage.loop, aioloop.Loop) else asyncio.Task
    return await make_task(stage, cls, loop=stage.loop, **keywords)


async def handle_type(stage, **keywords):
    cls = aioloop.Handle if isinstance(stage.loop, aioloop.Loop) else asyncio.Handle
    handle = cls(stage.callback, (1, 2), stage.loop, **keywords)
    stage.note(type(handle._context), handle._context is keywords.get("context", 0))
    note_context(stage, handle, keywords)
    stage.loop._ready.append(handle)


async def timer_type(stage, **keywords):
    ours = isinstance(stage.loop, aioloop.Loop)
    cls = aioloop.TimerHandle if ours else asyncio.TimerHandle
    handle = cls(1.0, stage.callback, (1,), stage.loop, **keywords)
    stage.note(type(handle._context), handle._context is keywords.get("context", 0))
    handle._run()


async def context_set_later(stage, **keywords):
    handle = stage.loop.call_soon(stage.callback)
    if keywords.get("context") is not None:
        handle._context = keywords["context"]
    stage.note(type(handle._context))


async def eager_task(stage, **keywords):
    context = keywords.get("context")
    enters = type(context) is contextvars.Context and context is not stage.entered
    if (
        context is None or enters
    ):  # Else asyncio takes another task for the current one.
        asyncio.eager_task_factory(stage.loop, stage.work(), **keywords)


MAKERS = [
    call_soon,
    call_soon_threadsafe,
    call_later,
    call_at,
    pending_future,
    done_future,
    cancelled_future,
    removed_callback,
    callback_of_a_task,
    create_task,
    asyncio_create_task,
    task_type,
    handle_type,
    timer_type,
    context_set_later,
]
if sys.version_info >= (3, 12):
    MAKERS.append(eager_task)


def run_on(factory, maker, context, outside, debug):
    loop = factory()
    loop.set_debug(debug)
    stage = Stage(loop)
    loop.set_exception_handler(stage.handler)

    async def main():
        stage.entered = contextvars.copy_context() if outside is None else outside
        value = CONTEXTS[context](stage)
        keywords = {} if value == () else {"context": value}
        kept = None
        try:
            kept = await maker(stage, **keywords)
        except Exception as exc:
            stage.note("raised", type(exc), str(exc))
        VARIABLE.set("later")
        await asyncio.sleep(0.002)
        for _ in range(10):
            await asyncio.sleep(0)
        del kept

    try:
        loop.run_until_complete(main())
    finally:
        for coroutine in stage.coroutines:
            coroutine.close()
        loop.close()
    return stage.journal


@pytest.mark.parametrize("outer", ["empty", "full"])
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_contexts(maker, context, outer, debug):
    journals = []
    for factory in (asyncio.SelectorEventLoop, aioloop.new_event_loop):
        outside = contextvars.Context()
        if outer == "full":
            outside.run(VARIABLE.set, "outside")
        journals.append(outside.run(run_on, factory, maker, context, outside, debug))
    theirs, ours = journals
    assert ours == theirs
