"""The interpreter of programs: it runs one on one loop and writes the trace.

An operation is a tuple, its name first; a body is a list of operations. Operations name
futures, tasks, handles and primitives by number, modulo how many there are, so that any
part of a program is a program too. What an operation gives, and each ordinary exception
that it raises, is a line of the trace; ``raise`` and BaseExceptions leave the body.
"""

import asyncio
import contextlib
import contextvars
import functools
import gc
import itertools
import re
import sys
import types

from tests.fuzz import words

MOST_STEPS = 400  # operations that one run of a program does
TURNS = 40  # iterations after which a run in real time stops the loop
FAR = 3600.0  # a deadline in real time that does not come
LONG = 1000.0  # virtual seconds after which a run of the loop is over

VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


class Odd(Exception):
    pass


class OddBase(BaseException):
    pass


EXCEPTIONS = {
    "Odd": Odd,
    "ValueError": ValueError,
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": SystemExit,
    "OddBase": OddBase,
    "CancelledError": asyncio.CancelledError,
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "GeneratorExit": GeneratorExit,
    "TimeoutError": TimeoutError,
    "InvalidStateError": asyncio.InvalidStateError,
}
# What an except clause of a program names.
CLAUSES = {
    "Exception": Exception,
    "CancelledError": asyncio.CancelledError,
    "BaseException": BaseException,
    "TimeoutError": TimeoutError,
}
# The ends of the messages about what the collector finds.
LOST = ("was never retrieved", "was destroyed but it is pending!", "was never awaited")
PLACE = re.compile(r" (running at|done, defined at) [^>]*>")
# An exception that left the loop keeps asyncio's frames, and by them the task, until
# the collector comes; here the task is gone, and is told of, when the exception is. Who
# is told, and what the exception was raised after, may have changed in between.
LEFT_THE_LOOP = re.compile(
    r".*exception was never retrieved"
    r".*exception[:=] ?(SystemExit|KeyboardInterrupt).*",
    re.DOTALL,
)
# What is lost inside of what is being closed, and after which of its exceptions: how
# deep depends on who refers to whom.
CLOSED = re.compile(r"( after GeneratorExit\(\))( after \w+\([^()]*\))+")
LATER_QUEUE = hasattr(asyncio.Queue, "shutdown")
EAGER = hasattr(asyncio, "eager_task_factory")


def hashed(base):
    """Return a class of tasks that have an order in sets.

    A task group cancels its tasks in the order of a set, which is that of addresses.
    """

    class HashedTask(base):
        count = 0

        def __init__(self, *args, **keywords):
            HashedTask.count += 1
            self.number = HashedTask.count
            super().__init__(*args, **keywords)

        def __hash__(self):
            return self.number

        def __eq__(self, other):
            return self is other

    return HashedTask


def python_task(loop, coro, *, name=None, **keywords):
    # Tasks written in Python have default names of their own, by another counter.
    return asyncio.tasks._PyTask(coro, loop=loop, name=name or "in Python", **keywords)


class OddFuture(asyncio.Future):
    def __init__(self, *, loop, world):
        super().__init__(loop=loop)
        self.world = world

    def add_done_callback(self, fn, *, context=None):
        self.world.note("OddFuture.add_done_callback")
        super().add_done_callback(fn, context=context)

    def cancel(self, msg=None):
        self.world.note("OddFuture.cancel", msg)
        return super().cancel(msg)


def leads_to(waitable, task, seen):
    """Return whether what something waits for is, in the end, a task."""
    if waitable is task:
        return True
    if waitable is None or id(waitable) in seen:
        return False
    seen.add(id(waitable))
    children = getattr(waitable, "_children", ())
    return any(leads_to(child, task, seen) for child in children) or leads_to(
        getattr(waitable, "_fut_waiter", None), task, seen
    )


class Callback:
    """A callable; its looks are of three kinds."""

    def __init__(self, world, body):
        self.world = world
        self.body = body
        self.label = world.label("cb")

    def __call__(self, *args):
        self.world.note(self.label, "called", args, VARIABLE.get())
        self.world.do(self.label, self.body)

    def method(self, *args):
        self(*args)

    def __repr__(self):
        return f"<{self.label}>"


class Yields:
    """An awaitable that yields what it is told to."""

    def __init__(self, *values):
        self.values = values

    def __await__(self):
        for value in self.values:
            got = yield value
            if got is not None:
                return got
        return "yielded"


@types.coroutine
def old_style(values):
    yield from values
    return "old style"


class World:
    """One run of one program on one loop."""

    def __init__(self, loop, program, real_time, task_class):
        self.loop = loop
        self.program = program
        self.real_time = real_time
        self.task_class = task_class
        self.hashed = hashed(task_class)
        self.hashed_of_asyncio = hashed(asyncio.Task)
        self.factory_kind = "none"
        self.ended = False
        self.shutting = False  # the async generators
        self.words = words.Words(real_time)
        self.words.switches = "'set_debug'" in repr(program)
        self.trace = []
        self.garbage = []  # what is reported of lost objects, at whatever moment
        self.left = MOST_STEPS
        self.labels = {}
        self.waitables = []  # futures and tasks
        self.labels_of = []
        self.handles = []
        self.generators = []
        self.callbacks = []
        self.contexts = []
        self.scopes = []  # of asyncio.timeout()
        self.groups = []
        self.ticks = 0
        self.done = 0  # operations
        lock = asyncio.Lock()
        self.locks = [lock, asyncio.Semaphore(1), asyncio.BoundedSemaphore(2)]
        self.conditions = [asyncio.Condition(lock), asyncio.Condition()]
        self.locks += self.conditions
        self.events = [asyncio.Event(), asyncio.Event()]
        self.queues = [
            asyncio.Queue(1),
            asyncio.Queue(),
            asyncio.LifoQueue(2),
            asyncio.PriorityQueue(2),
        ]
        self.barriers = [asyncio.Barrier(2)]

    # --- the trace ----------------------------------------

    def note(self, *said):
        if self.ended:
            return
        of = self.words.of
        self.trace.append(" ".join([of(word) for word in said]))

    def note_lost(self, *said):
        """Note what the collector brings about.

        When that is depends on asyncio's own reference cycles: the exception of a
        callback keeps the frames of Handle._run() and of all that called it. So where a
        coroutine is by then depends on it, too.
        """
        of = self.words.of
        line = " ".join([of(word) for word in said])
        line = CLOSED.sub(r"\1", PLACE.sub(">", line))
        self.garbage.append(LEFT_THE_LOOP.sub(r"a task lost with \1", line))

    def label(self, kind):
        number = self.labels[kind] = self.labels.get(kind, 0) + 1
        return f"{kind}{number}"

    # --- bodies ----------------------------------------

    def do(self, label, body):
        """Do the operations of a callback."""
        for operation in body:
            if self.left <= 0:
                return
            self.left -= 1
            self.step(label, operation)

    def step(self, label, operation):
        name, *args = operation
        try:
            result = getattr(self, "op_" + name)(*args)
        except Exception as exc:
            if name == "raise":
                self.note(label, "raise", exc)
                raise
            self.note(label, name, "!", exc)
        except BaseException as exc:
            self.note(label, name, "!!", exc)
            raise
        else:
            self.note(label, name, "->", result)

    async def script(self, label, body):
        """Do the operations of a task."""
        self.note(label, "begins")
        try:
            result = await self.go(label, body)
        except GeneratorExit:
            self.note_lost(label, "is closed")
            raise
        except BaseException as exc:
            self.note(label, "ends with", exc)
            raise
        self.note(label, "ends", result)
        return result

    async def go(self, label, body):
        for operation in body:
            if self.left <= 0:
                return "no more steps"
            name, *args = operation
            self.left -= 1
            method = getattr(self, "await_" + name, None)
            if method is None:
                if name == "return":
                    return args[0]
                self.step(label, operation)
                continue
            try:
                result = await method(label, *args)
            except GeneratorExit:
                raise
            except BaseException as exc:
                self.note(label, name, "!", exc)
                raise
            self.note(label, name, "->", result)
        return None

    # --- numbers ----------------------------------------

    def seconds(self, delay):
        """Return a delay; in real time all but 0 and the past is never."""
        if self.real_time and delay is not None and delay > 0:
            return FAR + delay
        return delay

    @staticmethod
    def pick(things, number):
        if not things:
            raise Odd("there is none")
        return things[number % len(things)]

    def awaited(self, number):
        """Return what a task is about to wait for.

        Tasks that wait in a circle cannot be cancelled: asyncio's cancel() goes round
        until the stack is full, and how deep that is depends on the frames.
        """
        waitable = self.pick(self.waitables, number)
        if leads_to(waitable, asyncio.current_task(), set()):
            raise Odd("a circle")
        return waitable

    def callback(self, body, kind=0):
        callback = Callback(self, body)
        if kind % 3 == 1:
            callback = callback.method
        elif kind % 3 == 2:
            callback = functools.partial(callback, "partial")
        self.callbacks.append(callback)
        return callback

    def context(self, number):
        """Return a context for `number`; None is the current one."""
        if number is None:
            return None
        if number >= len(self.contexts):
            context = contextvars.copy_context()
            context.run(VARIABLE.set, f"context{len(self.contexts)}")
            self.contexts.append(context)
        return self.contexts[number % len(self.contexts)]

    def free_context(self, number):
        """Return a context that is not entered, for a task that may be eager.

        docs/differences.md, "an eager task in a context that is entered already".
        """
        context = self.context(number)
        try:
            context.run(int)
        except RuntimeError:
            return contextvars.copy_context()
        return context

    def keep(self, waitable):
        self.waitables.append(waitable)
        return len(self.waitables) - 1

    # --- the loop ----------------------------------------

    def op_log(self, number):
        return number

    def op_raise(self, kind, text):
        raise EXCEPTIONS[kind](text)

    def op_call_soon(self, body, context, kind):
        self.handles.append(
            self.loop.call_soon(
                self.callback(body, kind), kind, context=self.context(context)
            )
        )

    def op_call_soon_threadsafe(self, body, context):
        self.handles.append(
            self.loop.call_soon_threadsafe(
                self.callback(body), context=self.context(context)
            )
        )

    def op_call_later(self, delay, body, context, kind):
        self.handles.append(
            self.loop.call_later(
                self.seconds(delay),
                self.callback(body, kind),
                context=self.context(context),
            )
        )

    def op_call_at(self, when, body, kind):
        """Deadlines are from a small range, so that many are equal."""
        if self.real_time:
            when = when + FAR if when > 5 else when - 10
        self.handles.append(
            self.loop.call_at(self.began + when, self.callback(body, kind))
        )

    def op_cancel_handle(self, number):
        return self.pick(self.handles, number).cancel()

    def op_look_at_handle(self, number):
        """docs/differences.md: "the text of a cancelled handle"."""
        handle = self.pick(self.handles, number)
        made_later = handle.cancelled() and self.words.switches
        return None if made_later else repr(handle), handle.cancelled()

    def op_compare_handles(self, one, other):
        one, other = self.pick(self.handles, one), self.pick(self.handles, other)
        if self.real_time or getattr(one, "_when", 0) == getattr(other, "_when", 1):
            return one == one, one == None  # noqa: E711
        return one == other, one < other, one >= other

    def op_drop_handles(self):
        self.handles.clear()

    def op_drop_waitable(self, number):
        if self.waitables:
            del self.waitables[number % len(self.waitables)]

    def op_stop(self):
        self.loop.stop()

    def op_close(self):
        self.loop.close()

    def op_nested(self):
        if self.loop.is_running() and sys.version_info[:2] == (3, 13):
            return  # 3.13.0 forgets which loop runs
        if self.loop.is_running() or self.loop.is_closed():
            self.loop.run_forever()

    def op_time(self):
        return None if self.real_time else self.loop.time() - self.began

    def op_look_at_loop(self):
        # shutdown_asyncgens() has a task for each generator, in the order of a set.
        tasks = () if self.shutting else asyncio.all_tasks(self.loop)
        return (
            self.loop.is_running(),
            self.loop.is_closed(),
            self.loop.get_debug(),
            len(tasks),
            {task.get_name() for task in tasks},
        )

    def op_current(self):
        task = asyncio.current_task(self.loop)
        return None if task is None else task.get_name()

    def op_variable(self, value):
        before = VARIABLE.get()
        VARIABLE.set(value)
        return before

    def op_in_context(self, number, body):
        self.context(number).run(self.do, "in context", body)

    def op_set_debug(self, on):
        self.loop.set_debug(on)

    def op_task_factory(self, kind):
        self.factory_kind = kind
        self.loop.set_task_factory(self.factory(kind))

    def op_exception_handler(self, kind):
        self.loop.set_exception_handler(self.handler(kind))

    def op_call_exception_handler(self, text):
        self.loop.call_exception_handler({"message": text, "exception": Odd(text)})

    def op_collect(self):
        """Collect garbage, and keep the coroutine that runs meanwhile.

        In what order the collector will close a lost coroutine and tell of its task
        depends on the order of a list of its own. What it reaches from a task that runs
        comes behind that, and asyncio's step does not keep the coroutine, as ours does.
        """
        task = asyncio.current_task(self.loop)
        coroutine = None if task is None else task.get_coro()
        gc.collect()
        del coroutine

    def factory(self, kind):
        if kind == "none":
            return None
        if kind == "hashed":
            return lambda loop, coro, **kw: self.hashed(coro, loop=loop, **kw)
        if kind == "hashed of asyncio":
            return lambda loop, coro, **kw: self.hashed_of_asyncio(
                coro, loop=loop, **kw
            )
        if kind == "own":
            return lambda loop, coro, **kw: self.task_class(coro, loop=loop, **kw)
        if kind == "python":
            return python_task
        if kind == "fails":

            def fails(loop, coro, **keywords):
                coro.close()
                raise Odd("no task is made")

            return fails
        if not EAGER or sys.version_info[:2] in ((3, 12), (3, 13)):
            # 3.12.1 and 3.13.0 name an eager task after its first step.
            return None
        if kind == "eager hashed" and sys.version_info < (3, 14):
            kind = "eager own"  # it hashes a task while an exception is set
        if kind == "eager hashed":
            return asyncio.create_eager_task_factory(self.hashed)
        if kind == "eager own":
            return asyncio.create_eager_task_factory(self.task_class)
        return asyncio.eager_task_factory

    def handler(self, kind):
        if kind == "none":
            return None

        def handler(loop, context):
            said = {
                key: "there" if key == "source_traceback" else value
                for key, value in context.items()
                if key != "cancelled_from"  # in debug mode, ours alone (docs/debug.md)
            }
            if self.words.switches and said["message"].startswith("Exception in call"):
                said.pop("source_traceback", None)  # see words.REPORTED
            lost = said["message"].endswith(LOST)
            (self.note_lost if lost else self.note)("handler", said)
            if lost:
                return
            if kind == "fails":
                raise Odd("of the handler")
            if kind == "interrupts":
                raise OddBase("of the handler")
            if kind == "stops":
                loop.stop()

        return handler

    # --- futures ----------------------------------------

    def op_future(self, kind):
        if kind == "asyncio":
            future = asyncio.Future(loop=self.loop)
        elif kind == "odd":
            future = OddFuture(loop=self.loop, world=self)
        elif kind == "python":
            future = asyncio.futures._PyFuture(loop=self.loop)
        else:
            future = self.loop.create_future()
        self.keep(future)

    def op_set_result(self, number, value):
        self.pick(self.waitables, number).set_result(value)

    def op_set_exception(self, number, kind):
        self.pick(self.waitables, number).set_exception(EXCEPTIONS[kind]("set"))

    def op_set_exception_class(self, number, kind):
        self.pick(self.waitables, number).set_exception(EXCEPTIONS[kind])

    def op_cancel(self, number, message):
        waitable = self.pick(self.waitables, number)
        return waitable.cancel() if message is None else waitable.cancel(message)

    def op_look(self, number):
        waitable = self.pick(self.waitables, number)
        return repr(waitable), waitable.done(), waitable.cancelled()

    def op_result(self, number):
        return self.pick(self.waitables, number).result()

    def op_exception(self, number):
        return self.pick(self.waitables, number).exception()

    def op_add_done_callback(self, number, body, context, kind):
        self.pick(self.waitables, number).add_done_callback(
            self.callback(body, kind), context=self.context(context)
        )

    def op_remove_done_callback(self, number, callback):
        return self.pick(self.waitables, number).remove_done_callback(
            self.pick(self.callbacks, callback)
        )

    # --- tasks ----------------------------------------

    def new_task(self, body, kind, name, context):
        label = self.label("task")
        coroutine = self.script(label, body)
        keywords = {"name": label if name else None}
        if context is not None:
            keywords["context"] = self.free_context(context)
        try:
            if kind == "ensure_future":
                task = asyncio.ensure_future(coroutine, loop=self.loop)
            elif kind == "asyncio.Task":
                task = asyncio.Task(coroutine, loop=self.loop, **keywords)
            elif kind == "eager" and sys.version_info >= (3, 12):
                task = self.task_class(
                    coroutine, loop=self.loop, eager_start=True, **keywords
                )
            else:
                task = self.loop.create_task(coroutine, **keywords)
        except BaseException:
            coroutine.close()
            raise
        self.keep(task)
        return task

    def op_create_task(self, body, kind, name, context):
        self.new_task(body, kind, name, context)

    def task(self, number):
        return self.pick([w for w in self.waitables if hasattr(w, "uncancel")], number)

    def op_uncancel(self, number):
        return self.task(number).uncancel()

    def op_cancelling(self, number):
        task = self.task(number)
        return task.cancelling(), task._must_cancel, task._fut_waiter

    def op_name(self, number, name):
        task = self.task(number)
        before = task.get_name()
        task.set_name(name)
        return before

    def op_stack(self, number):
        # The stack of a task that is begun eagerly has the loop's frames in it.
        return [
            frame.f_code.co_name
            for frame in self.task(number).get_stack()
            if frame.f_globals is globals()
        ]

    # --- primitives without waiting ----------------------------------------

    def op_release(self, number):
        self.pick(self.locks, number).release()

    def op_locked(self, number):
        lock = self.pick(self.locks, number)
        return lock.locked(), repr(lock)

    def op_set_event(self, number, on):
        event = self.pick(self.events, number)
        event.set() if on else event.clear()
        return event.is_set(), repr(event)

    def op_notify(self, number, how_many):
        condition = self.pick(self.conditions, number)
        condition.notify_all() if how_many > 2 else condition.notify(how_many)

    def op_put_nowait(self, number, value):
        self.pick(self.queues, number).put_nowait(value)

    def op_get_nowait(self, number):
        return self.pick(self.queues, number).get_nowait()

    def op_task_done(self, number):
        self.pick(self.queues, number).task_done()

    def op_look_at_queue(self, number):
        queue = self.pick(self.queues, number)
        return repr(queue), queue.qsize(), queue.full(), queue.empty()

    def op_shut_queue(self, number, immediate):
        if LATER_QUEUE:
            self.pick(self.queues, number).shutdown(immediate)

    def op_look_at_barrier(self):
        barrier = self.barriers[0]
        return repr(barrier), barrier.n_waiting, barrier.broken

    def op_reschedule(self, number, delay):
        scope = self.pick(self.scopes, number)
        scope.reschedule(
            None if delay is None else self.loop.time() + self.seconds(delay)
        )
        return repr(scope) if not self.real_time else None

    def op_group_task(self, number, body):
        group = self.pick(self.groups, number)
        self.group_task(group, body, bool(group._tasks))

    def group_task(self, group, body, several):
        """Begin a task of a group, which has an order if it is one of several."""
        if not all(hasattr(task, "number") for task in group._tasks):
            raise Odd("there is one without an order")
        label = self.label("task")
        coroutine = self.script(label, body)
        change = several and "hashed" not in self.factory_kind
        before = self.loop.get_task_factory()
        if change:
            self.loop.set_task_factory(self.factory("hashed"))
        try:
            self.keep(group.create_task(coroutine, name=label))
        except BaseException:
            coroutine.close()
            raise
        finally:
            if change:
                self.loop.set_task_factory(before)

    # --- waiting ----------------------------------------

    async def await_sleep(self, label, delay):
        return await asyncio.sleep(self.seconds(delay), "slept")

    async def await_waitable(self, label, number):
        return await self.awaited(number)

    async def await_from(self, label, body):
        """Await a coroutine."""
        return await self.go(label + ".", body)

    async def await_shield(self, label, number):
        return await asyncio.shield(self.awaited(number))

    async def await_wait_for(self, label, number, delay):
        return await asyncio.wait_for(self.awaited(number), self.seconds(delay))

    async def await_wait_for_body(self, label, body, delay):
        return await asyncio.wait_for(self.go(label + ".", body), self.seconds(delay))

    async def await_wait(self, label, numbers, delay, when):
        waitables = {self.awaited(number) for number in numbers}
        done, pending = await asyncio.wait(
            waitables, timeout=self.seconds(delay), return_when=when
        )
        return len(done), done, pending

    async def await_gather(self, label, numbers, bodies, return_exceptions):
        waitables = [self.awaited(number) for number in numbers]
        waitables += [self.script(self.label("co"), body) for body in bodies]
        return await asyncio.gather(*waitables, return_exceptions=return_exceptions)

    def op_keep_gather(self, numbers, return_exceptions):
        waitables = [self.awaited(number) for number in numbers]
        if asyncio._get_running_loop() is not None or waitables:
            self.keep(asyncio.gather(*waitables, return_exceptions=return_exceptions))

    def op_keep_shield(self, number):
        self.keep(asyncio.shield(self.awaited(number)))

    async def await_as_completed(self, label, numbers, delay):
        # asyncio puts them into a set: what is done is told in the set's order.
        waitables = {self.awaited(number) for number in numbers}
        waitables = [one for one in waitables if not one.done()]
        results = []
        # From 3.13 on it goes on for ever, if what it awaits cannot be waited for.
        every = asyncio.as_completed(waitables, timeout=self.seconds(delay))
        for one in itertools.islice(every, len(waitables)):
            try:
                results.append(await one)
            except Exception as exc:
                results.append(exc)
            self.note(label, "next", results[-1])
        return results

    async def await_timeout(self, label, delay, body):
        async with asyncio.timeout(self.seconds(delay)) as scope:
            self.scopes.append(scope)
            return await self.go(label + ".", body)

    async def await_group(self, label, bodies, body):
        async with asyncio.TaskGroup() as group:
            self.groups.append(group)
            for one in bodies:
                self.group_task(group, one, len(bodies) > 1)
            return await self.go(label + ".", body)

    async def await_lock(self, label, number, body):
        lock = self.pick(self.locks, number)
        async with lock:
            return await self.go(label + ".", body)

    async def await_acquire(self, label, number):
        return await self.pick(self.locks, number).acquire()

    async def await_condition(self, label, number):
        return await self.pick(self.conditions, number).wait()

    async def await_condition_for(self, label, number, times):
        left = [times]

        def predicate():
            left[0] -= 1
            self.note(label, "predicate", left[0])
            return left[0] < 0

        return await self.pick(self.conditions, number).wait_for(predicate)

    async def await_event(self, label, number):
        return await self.pick(self.events, number).wait()

    async def await_put(self, label, number, value):
        return await self.pick(self.queues, number).put(value)

    async def await_get(self, label, number):
        return await self.pick(self.queues, number).get()

    async def await_join(self, label, number):
        return await self.pick(self.queues, number).join()

    async def await_barrier(self, label):
        return await self.barriers[0].wait()

    async def await_barrier_end(self, label, how):
        await getattr(self.barriers[0], how)()

    async def await_try(self, label, body, clause, handler, finally_body):
        try:
            return await self.go(label + ".", body)
        except GeneratorExit:
            finally_body = []  # nothing is done in the collector's time
            raise
        except CLAUSES[clause] as exc:
            self.note(label, "except", exc)
            return await self.go(label + "!", handler)
        finally:
            if finally_body:
                await self.go(label + "/", finally_body)

    async def await_repeat(self, label, times, body):
        for _ in range(times):
            if self.left > 0:
                await self.go(label + "*", body)

    async def await_yields(self, label, what, number):
        values = {
            "none": lambda: [None, None],
            "int": lambda: [7],
            "future": lambda: [self.awaited(number)],
            "self": lambda: [asyncio.current_task()],
            "mixed": lambda: [None, "text", None],
        }[what]()
        if number % 2:
            return await old_style(values)
        return await Yields(*values)

    async def await_self(self, label):
        return await asyncio.current_task()

    async def await_cancel_self(self, label, message):
        asyncio.current_task().cancel(message)

    # --- asynchronous generators ----------------------------------------

    async def generator(self, label, bodies):
        try:
            for number, body in enumerate(bodies):
                await self.go(label, body)
                got = yield number
                self.note(label, "sent", got)
        except BaseException as exc:
            self.note(label, "caught", exc)
            raise
        finally:
            self.note(label, "finally")
            with contextlib.suppress(Odd):
                await self.go(label, bodies[0] if bodies else [])

    def op_generator(self, bodies):
        self.generators.append(self.generator(self.label("gen"), bodies))

    def op_drop_generators(self):
        self.generators.clear()

    async def await_next(self, label, number, value):
        generator = self.pick(self.generators, number)
        if value is None:
            return await anext(generator)
        return await generator.asend(value)

    async def await_throw(self, label, number, kind):
        return await self.pick(self.generators, number).athrow(
            EXCEPTIONS[kind]("thrown")
        )

    async def await_aclose(self, label, number):
        return await self.pick(self.generators, number).aclose()

    async def await_iterate(self, label, bodies, most):
        async for number in self.generator(self.label("gen"), bodies):
            self.note(label, "item", number)
            if number >= most:
                break

    async def await_shutdown_asyncgens(self, label):
        return await self.shut()

    # --- a run ----------------------------------------

    def tick(self):
        """In real time: keep the loop turning, and stop it after TURNS."""
        self.ticks -= 1
        if self.ticks <= 0:
            self.loop.stop()
        else:
            self.loop.call_soon(self.tick)

    def turn(self, label, function, *args):
        """Run the loop until nothing more can happen, or it is stopped."""
        if self.loop.is_closed():
            self.note(label, "the loop is closed")
            return
        if self.real_time:
            ticking, self.ticks = self.ticks > 0, TURNS
            if not ticking:
                self.loop.call_soon(self.tick)
            end = None
        else:
            end = self.loop.call_later(LONG, self.loop.stop)
        try:
            result = function(*args)
        except BaseException as exc:
            self.note(label, "!", exc)
        else:
            self.note(label, "->", result)
        if end is not None:
            end.cancel()
        self.leave()

    def leave(self):
        """Note a task that is still the current one, and end that."""
        if self.loop.is_closed():
            return
        asyncio._set_running_loop(self.loop)
        task = asyncio.current_task(self.loop)
        if task is not None:
            self.note("still current:", task)
            asyncio.tasks._leave_task(self.loop, task)
        asyncio._set_running_loop(None)

    def phase_run(self):
        self.turn("run_forever", self.loop.run_forever)

    def phase_turns(self, how_many):
        for _ in range(how_many):
            if not self.loop.is_closed():
                self.loop.call_soon(self.loop.stop)
                try:
                    self.loop.run_forever()
                except BaseException as exc:
                    self.note("turn", "!", exc)
                self.note("turn")
                self.leave()

    def phase_until(self, body):
        main = self.script(self.label("main"), body)
        self.turn("until", self.loop.run_until_complete, main)

    def phase_until_waitable(self, number):
        if self.waitables:
            waitable = self.pick(self.waitables, number)
            self.turn("until", self.loop.run_until_complete, waitable)

    def phase_do(self, body):
        try:
            self.do("outside", body)
        except BaseException as exc:
            self.note("outside", "left by", exc)
        self.leave()

    def run(self):
        self.words.base = words.number_of_last_task(self.loop)
        self.began = self.loop.time()
        for name, *args in self.program:
            self.note("---", name)
            getattr(self, "phase_" + name)(*args)
        self.finish()

    def finish(self):
        self.done = MOST_STEPS - self.left
        self.left = MOST_STEPS  # what has still to end may do as much again
        self.note("--- finish")
        if not self.loop.is_closed():
            self.loop.set_task_factory(None)
            for waitable in list(self.waitables):
                if not waitable.done():
                    self.note(waitable)
                    with contextlib.suppress(RecursionError):  # gathered in a ring
                        waitable.cancel()
            self.phase_run()
            self.turn("asyncgens", self.loop.run_until_complete, self.shut())
        for waitable in self.waitables:
            self.note(waitable)
            if waitable.done() and not waitable.cancelled():
                self.note(waitable.exception())
        for thing in (*self.locks, *self.events, *self.queues, *self.barriers):
            self.note(thing)
        self.note("left", len(asyncio.all_tasks(self.loop)))

    async def shut(self):
        self.shutting = True
        try:
            return await self.loop.shutdown_asyncgens()
        finally:
            self.shutting = False

    def forget(self):
        """Give up all that the program has, for the collector to report."""
        self.ended, self.left = True, 0
        for name, value in vars(self).items():
            if isinstance(value, list) and name not in ("trace", "garbage", "program"):
                value.clear()
        self.loop = None
