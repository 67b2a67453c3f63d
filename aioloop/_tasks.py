"""Tasks in words: what each waits for, since when, and where it is.

A Describer takes one look at a loop and makes a TaskInfo of each task; log records,
dumps and reports all show that, so that they cannot disagree. Any thread may look, also
while the loop is stuck in a callback. A look changes nothing: no coroutine is resumed,
nothing is sent, no method of the program's own objects is called.

What a task waits for is read from the coroutines that it is suspended in. Where those
are asyncio's own functions, a rule for the function says it in words; what the future
at the end of the chain will be set by says the rest.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import functools
import gc
import linecache
import os
import re
import socket
import stat
import sys
import threading
import time
import types
from typing import TYPE_CHECKING

from . import _cancels, _core, _frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from ._loop import Loop

    Rule = Callable[["Describer", "_Link", Any], "Wait | None"]

_EXECUTOR = os.path.join("concurrent", "futures", "thread.py")
_HOLDERS = 16  # of a semaphore that are told
_DEEPEST = 10_000  # links of a chain: a coroutine that awaits itself has no end
# How far from a timer the tasks are that it may cancel, and how many objects are seen.
_DEPTH_BEHIND = 4
_MOST_BEHIND = 200
_NOT_BEHIND = (type, types.ModuleType, types.CodeType, types.FrameType, _core.EventLoop)
_COROUTINES = (types.CoroutineType, types.GeneratorType, types.AsyncGeneratorType)


@dataclasses.dataclass(frozen=True)
class Place:
    """A line of a program, or a function in C, which has no file."""

    file: str | None
    line: int
    function: str

    @property
    def source(self) -> str:
        """The text of the line, or an empty one where there is none."""
        return "" if self.file is None else linecache.getline(*self._line()).strip()

    def _line(self) -> tuple[str, int]:
        assert self.file is not None
        return self.file, self.line

    @property
    def is_user(self) -> bool:
        """Whether it is the program's own."""
        return self.file is not None and _frames.is_user(self.file)

    @property
    def where(self) -> str:
        """``app/report.py:31``, as all that aioloop tells names files."""
        return (
            "in C" if self.file is None else f"{_frames.short(self.file)}:{self.line}"
        )

    def __str__(self) -> str:
        if self.file is None:
            return f"{self.where} in {self.function}"
        return _frames.place(self.file, self.line, self.function)


@dataclasses.dataclass(frozen=True)
class Wait:
    """What a task waits for."""

    kind: str
    """``sleep``, ``lock``, ``semaphore``, ``event``, ``condition``, ``barrier``,
    ``queue``, ``socket``, ``stream``, ``server``, ``executor``, ``process``, ``task``,
    ``gather``, ``future``, or ``name look-up``."""

    text: str
    """The same in words, to go behind "waiting for"."""

    tasks: tuple[int, ...] = ()
    """The ids of the tasks that it waits for, those that hold a lock included."""

    one_of: bool = False
    """Whether one of these tasks is enough."""

    others: bool = False
    """Whether something else may do as well."""


@dataclasses.dataclass(frozen=True)
class TaskInfo:
    """A task at one moment."""

    id: int
    name: str
    coroutine: str
    state: str
    """``running``, ``ready`` (a step is queued), ``not started`` or ``waiting``."""

    wait: Wait | None = None
    waited: float | None = None
    """Seconds since it waits, to the loop's last look at the clock."""

    timeout: float | None = None
    """Seconds until ``asyncio.timeout()`` or ``wait_for()`` ends the wait."""

    stack: tuple[Place, ...] = ()
    """Where it is, the outermost function first."""

    created: Place | None = None
    """Where it was made, if the loop captures source tracebacks."""

    cancelled: Place | None = None
    """Where the last request to cancel it comes from, if that is kept and it has not
    answered."""

    cancelled_for: Place | None = None
    """The program's own function that this was called from, if there is one."""

    cancelling: int = 0
    """How many requests to cancel it there are that it has not answered."""

    leaked: bool = False
    """Whether nothing can wake it any more; found only where that is asked for."""

    @property
    def label(self) -> str:
        """``Task-12 "fetch"``."""
        return f'{self.name} "{self.coroutine}"'

    @property
    def place(self) -> Place | None:
        """Where it is in the program's own code, or else at all."""
        own = _frames.innermost_user(self.stack)
        return own or (self.stack[-1] if self.stack else None)

    @property
    def situation(self) -> str:
        """``waiting for Queue.get, 5 min``, as it stands in brackets in a dump."""
        parts = [self.state]
        if self.state == "waiting" and self.wait is not None:
            parts = [f"waiting for {self.wait.text}"]
            if self.waited is not None:
                parts.append(duration(self.waited))
        if self.timeout is not None:
            parts.append(f"times out in {duration(self.timeout)}")
        if self.leaked:
            parts.append("NOTHING CAN WAKE IT")
        if self.cancelling:
            times = "" if self.cancelling == 1 else f" {self.cancelling} times"
            parts.append(f"cancelled{times} and still not done")
        return ", ".join(parts)

    @property
    def header(self) -> str:
        """The task in one line, in the manner of Go's."""
        made = "" if self.created is None else f" created at {self.created}"
        if self.cancelled is not None:
            made += f" cancelled at {self.cancelled}"
        if self.cancelled_for is not None:
            made += f", called from {self.cancelled_for}"
        return f"{self.label} [{self.situation}]{made}"


def function_name(code: types.CodeType) -> str:
    """Return a function's name with its class, but not the function it is made in."""
    return code.co_qualname.rpartition("<locals>.")[2]


def duration(seconds: float) -> str:
    """Say a duration in the unit that suits it."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} days"


def count(number: int, noun: str) -> str:
    """Say ``1 task`` or ``2 tasks``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def address(name: object) -> str:
    """Say a socket address as people write it."""
    if isinstance(name, tuple) and len(name) >= 2:
        host, port = name[:2]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    if isinstance(name, bytes):
        name = os.fsdecode(name).replace("\0", "@", 1)
    return str(name) if name else "an unnamed socket"


def describe_socket(sock: socket.socket) -> str:
    """Say which socket it is, by its peer if it has one."""
    fd = sock.fileno()
    if fd < 0:
        return "a closed socket"
    try:
        return f"fd {fd} to {address(sock.getpeername())}"
    except OSError:
        pass
    try:
        return f"fd {fd} at {address(sock.getsockname())}"
    except OSError:
        return f"fd {fd}"


def describe_fd(fd: int) -> str:
    """The same for a number that may stand for anything."""
    try:
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            with socket.socket(fileno=os.dup(fd)) as copy:
                return describe_socket(copy).replace(f"fd {copy.fileno()}", f"fd {fd}")
        return f"fd {fd} ({os.readlink(f'/proc/self/fd/{fd}')})"
    except OSError:
        return f"fd {fd}"


def describe_transport(transport: Any) -> str:
    """Say what a transport is connected to."""
    info = getattr(transport, "get_extra_info", None)
    if info is None:
        return "a closed connection"
    peer = info("peername")
    if peer:
        return address(peer)
    sock = info("socket")
    if sock is not None:
        name = info("sockname")
        return address(name) if name else f"fd {sock.fileno()}"
    pipe = info("pipe")
    if pipe is not None and not pipe.closed:
        return f"a pipe, fd {pipe.fileno()}"
    return type(transport).__name__


def describe_function(function: Any) -> str:
    """Name a callable and the place where it is written."""
    while isinstance(function, functools.partial):
        # asyncio.to_thread calls Context.run(function) by way of a partial.
        inner = function.args[:1]
        through_context = getattr(function.func, "__name__", "") == "run" and inner
        function = inner[0] if through_context else function.func
    name = getattr(function, "__qualname__", None) or type(function).__name__
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if code is None:
        module = getattr(function, "__module__", None)
        return name if module in (None, "builtins") else f"{module}.{name}"
    return f"{name} at {_frames.short(code.co_filename)}:{code.co_firstlineno}"


def closure_value(function: Any, name: str) -> Any:
    """Return what a variable of an enclosing function is, or None."""
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    if name not in names:
        return None
    try:
        return function.__closure__[names.index(name)].cell_contents
    except ValueError:
        return None  # It has not been assigned yet.


class _Link:
    """One of the awaitables that a task is suspended in."""

    __slots__ = ("code", "frame", "obj", "operation")

    def __init__(self, obj: Any) -> None:
        self.obj = obj
        self.frame: types.FrameType | None = None
        self.code: types.CodeType | None = None
        for prefix in ("cr", "gi", "ag"):
            code = getattr(obj, f"{prefix}_code", None)
            if isinstance(code, types.CodeType):
                self.code = code
                self.frame = getattr(obj, f"{prefix}_frame", None)
        self.operation = _core._operation(obj)

    @property
    def name(self) -> str:
        if self.operation is None and self.code is not None:
            return function_name(self.code)
        return getattr(self.obj, "__qualname__", type(self.obj).__qualname__)

    @property
    def is_asyncio(self) -> bool:
        if self.operation is not None:
            return True
        return self.code is not None and _frames.is_loop(self.code.co_filename)

    @property
    def place(self) -> Place | None:
        if self.frame is not None and self.operation is None:
            return Place(self.frame.f_code.co_filename, self.frame.f_lineno, self.name)
        if self.operation is not None or self.code is None:
            return Place(None, 0, self.name)
        return None  # It has ended.

    def local(self, name: str) -> Any:
        if self.operation is not None and name == "self":
            return self.operation[0]
        return None if self.frame is None else self.frame.f_locals.get(name)


def _links(coroutine: Any) -> list[_Link]:
    """Return what a suspended coroutine is suspended in, itself first."""
    links: list[_Link] = []
    seen = set()
    obj = coroutine
    while obj is not None and id(obj) not in seen and len(links) < _DEEPEST:
        seen.add(id(obj))
        kind = type(obj).__name__
        if kind in ("coroutine_wrapper", "anext_awaitable") or kind.startswith(
            "async_generator_"
        ):
            # What `await` makes of a coroutine, or anext() of a generator.
            inside = (types.CoroutineType, types.AsyncGeneratorType)
            held = (held for held in gc.get_referents(obj) if held is not coroutine)
            obj = next((held for held in held if isinstance(held, inside)), None)
            continue
        if kind == "FutureIter":
            break
        links.append(_Link(obj))
        # What runs awaits nothing, and Python 3.11 and 3.12 may crash when they look.
        if getattr(obj, "cr_running", False) or getattr(obj, "gi_running", False):
            break
        for name in ("cr_await", "gi_yieldfrom", "ag_await"):
            following = getattr(obj, name, None)
            if following is not None:
                break
        obj = following
    return links


def _is_running(coroutine: Any) -> bool:
    return any(
        getattr(coroutine, name, False) is True
        for name in ("cr_running", "gi_running", "ag_running")
    )


def _has_started(coroutine: Any) -> bool:
    frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
    return frame is None or (frame.f_lasti >= 0 and not _is_created(coroutine))


def _is_created(coroutine: Any) -> bool:
    # f_lasti stands at the first RESUME of a coroutine that has not begun.
    return isinstance(coroutine, types.CoroutineType) and not (
        coroutine.cr_suspended or coroutine.cr_running
    )


def _natural(name: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _is_timer(obj: Any) -> bool:
    return isinstance(obj, asyncio.TimerHandle) and not obj.cancelled()


def _tasks_behind(timer: asyncio.TimerHandle) -> Iterator[asyncio.Task[Any]]:
    """Yield the tasks that a timer's callback can reach in a few steps."""
    callback = timer._callback  # type: ignore[attr-defined]
    pile = [(obj, 0) for obj in (callback, *(timer._args or ()))]  # type: ignore[attr-defined]
    seen = 0
    while pile and seen < _MOST_BEHIND:
        obj, depth = pile.pop()
        seen += 1
        if isinstance(obj, asyncio.Task):
            yield obj
        elif isinstance(obj, types.MethodType):
            pile.append((obj.__self__, depth))
        elif depth < _DEPTH_BEHIND and not isinstance(obj, _NOT_BEHIND):
            if isinstance(obj, types.FunctionType):
                inside: Any = (*(obj.__closure__ or ()), *(obj.__defaults__ or ()))
            else:
                inside = gc.get_referents(obj)
            pile += [(held, depth + 1) for held in inside if gc.is_tracked(held)]


class Describer:
    """One look at the tasks of a loop; ``leaks``: also for those that are lost."""

    def __init__(self, loop: Loop, *, leaks: bool = False) -> None:
        self.loop = loop
        self.now = loop.time()
        tasks = sorted(asyncio.all_tasks(loop), key=lambda t: _natural(t.get_name()))
        self.tasks = tasks
        self._known = {id(task): task for task in tasks}
        self._chains = {id(task): self._chain(task) for task in tasks}
        self.timers = sorted(
            (timer for timer in _core._loop_timers(loop) if _is_timer(timer)),
            key=asyncio.TimerHandle.when,
        )
        self.waiters = {  # by the future's id
            id(task._fut_waiter): task  # type: ignore[attr-defined]
            for task in tasks
            if getattr(task, "_fut_waiter", None) is not None
        }
        self._timer_of: dict[int, asyncio.TimerHandle] = {}
        self._timeout_of: dict[int, asyncio.TimerHandle] = {}
        for handle in reversed(self.timers):
            self._note_timer(handle)
        self._leaked = set(map(id, self._find_leaks())) if leaks else set()

    def _note_timer(self, handle: asyncio.TimerHandle) -> None:
        callback = handle._callback  # type: ignore[attr-defined]
        owner = getattr(callback, "__self__", None)
        for obj in (owner, *(handle._args or ())):  # type: ignore[attr-defined]
            if asyncio.isfuture(obj):
                self._timer_of[id(obj)] = handle
        task = getattr(owner, "_task", None)
        if isinstance(task, asyncio.Task):
            self._timeout_of[id(task)] = handle

    # Which tasks nothing can wake any more: see src/diag/leaks.h.

    def _find_leaks(self) -> list[Any]:
        ended = self._ended_by_timers()
        # No variable may refer to a future meanwhile.
        return _core._find_leaks(
            [
                (task, task._fut_waiter, *self._coroutines(task))  # type: ignore[attr-defined]
                for task in self.tasks
                if self._is_waiting(task)
            ],
            ended,
        )

    @staticmethod
    def _is_waiting(task: asyncio.Task[Any]) -> bool:
        future = getattr(task, "_fut_waiter", None)
        return future is not None and not future.done()

    def _coroutines(self, task: asyncio.Task[Any]) -> Iterator[Any]:
        for link in self._chains[id(task)]:
            if type(link.obj) in _COROUTINES:  # No operation, whose __class__ is one.
                yield link.obj

    def _ended_by_timers(self) -> list[Any]:
        """Return the tasks that timers lead to, and what those wait for.

        A timer may cancel them: that of asyncio.timeout(), of anyio's cancel scopes.
        Cancelling goes on to what the task waits for.
        """
        found: dict[int, Any] = {}
        pile = [task for timer in self.timers for task in _tasks_behind(timer)]
        while pile:
            future = pile.pop()
            if id(future) not in found:
                found[id(future)] = future
                pile += getattr(future, "_children", None) or ()
                waiter = getattr(future, "_fut_waiter", None)
                if waiter is not None:
                    pile.append(waiter)
                    if id(waiter) in self._timer_of:
                        pile += self._waited_for(future)
        return list(found.values())

    def _waited_for(self, task: asyncio.Task[Any]) -> Iterator[Any]:
        """Yield what wait_for() of Python 3.11 cancels when its time is up."""
        for link in self._chains.get(id(task), ()):
            if link.is_asyncio and link.name == "wait_for":
                inner = link.local("fut")
                if asyncio.isfuture(inner):
                    yield inner

    @staticmethod
    def _chain(task: asyncio.Task[Any]) -> list[_Link]:
        coroutine = task.get_coro()
        return [] if coroutine is None else _links(coroutine)

    def label(self, task: asyncio.Future[Any]) -> str:
        """Return ``Task-12 "fetch"`` for any task."""
        chain = self._chains.get(id(task)) or self._chain(task)  # type: ignore[arg-type]
        name = chain[0].name if chain else "?"
        return f'{task.get_name()} "{name}"'  # type: ignore[attr-defined]

    def describe_all(self) -> list[TaskInfo]:
        """Describe every task of the loop that is not done."""
        return [self.describe(task) for task in self.tasks]

    def describe(self, task: asyncio.Task[Any]) -> TaskInfo:
        """Describe a task of the loop."""
        chain = self._chains.get(id(task)) or self._chain(task)
        coroutine = chain[0].obj if chain else None
        future = getattr(task, "_fut_waiter", None)
        wait = waited = None
        timeout = self._timeout_of.get(id(task))
        places = [link.place for link in chain]
        stack = [place for place in places if place is not None]
        if future is not None and not future.done():
            # A generator that is being closed calls itself running as well.
            state = "waiting"
            wait = self._what(chain, future)
            waited = _core._waited(task)
            if wait.kind != "sleep":
                timeout = self._timer_of.get(id(future), timeout)
        elif coroutine is not None and _is_running(coroutine):
            state = "running"
            stack = self.running_stack(chain[0]) or stack
        elif coroutine is not None and not _has_started(coroutine):
            state = "not started"
        else:
            state = "ready"
        cancelling = getattr(task, "cancelling", int)()
        cancelled, cancelled_for = cancel_places(task) if cancelling else (None, None)
        return TaskInfo(
            id=id(task),
            name=task.get_name(),
            coroutine=chain[0].name if chain else "?",
            state=state,
            wait=wait,
            waited=waited,
            timeout=None if timeout is None else timeout.when() - self.now,
            stack=tuple(stack),
            created=creation_place(task),
            cancelled=cancelled,
            cancelled_for=cancelled_for,
            cancelling=cancelling,
            leaked=id(task) in self._leaked,
        )

    def running_stack(self, outermost: _Link | None = None) -> list[Place]:
        """Return where the loop's thread is, from a coroutine's frame inwards."""
        thread = self.loop._thread_id
        frame = None if thread is None else sys._current_frames().get(thread)
        stack: list[Place] = []
        while frame is not None:
            code = frame.f_code
            if stack or not _frames.is_ours(code.co_filename):
                stack.append(
                    Place(code.co_filename, frame.f_lineno, function_name(code))
                )
            if outermost is not None and frame is outermost.frame:
                break
            frame = frame.f_back
        else:
            if outermost is not None:
                return []
        return stack[::-1]

    def operations(self) -> dict[int, asyncio.Task[Any]]:
        """Return the tasks by the ids of the operations in C that they wait in."""
        return {
            id(link.obj): task
            for task in self.tasks
            for link in self._chains[id(task)]
            if link.operation is not None
        }

    # What it waits for.

    def _what(self, chain: list[_Link], future: Any) -> Wait:
        first = len(chain)
        while first > 0 and chain[first - 1].is_asyncio:
            first -= 1
        for link in chain[first:]:
            rule = _RULES.get(link.name)
            wait = None if rule is None else rule(self, link, future)
            if wait is not None:
                return wait
        wait = self.of_future(future)
        if first < len(chain) and wait.kind == "future":
            return dataclasses.replace(wait, text=f"{chain[first].name} ({wait.text})")
        return wait

    def of_future(self, future: Any) -> Wait:
        """Say what will set a future."""
        if isinstance(future, asyncio.Task):
            return Wait("task", self.label(future), (id(future),))
        children = getattr(future, "_children", None)
        if isinstance(children, list):
            return self.of_several("gather", children)
        timer = self._timer_of.get(id(future))
        if timer is not None:
            return Wait("sleep", f"a timer {self._until(timer)}")
        for callback, _ in getattr(future, "_callbacks", None) or ():
            source = closure_value(callback, "source")
            if isinstance(source, concurrent.futures.Future):
                return self.of_job(source)
            inner = closure_value(callback, "inner")
            if asyncio.isfuture(inner):
                shielded = self.of_future(inner)
                return dataclasses.replace(shielded, text=f"shield of {shielded.text}")
        if id(future) in self._running_jobs or id(future) in self.queued_jobs:
            return self.of_job(future)
        made = creation_place(future)
        return Wait("future", "a future" + ("" if made is None else f" made at {made}"))

    def of_several(self, kind: str, futures: Iterable[Any]) -> Wait:
        """Say which of several futures are not done."""
        pending = [future for future in futures if not future.done()]
        tasks = [future for future in pending if isinstance(future, asyncio.Task)]
        if not isinstance(futures, list):  # A set has no order.
            tasks.sort(key=lambda task: _natural(task.get_name()))
        texts = [self.label(task) for task in tasks[:5]]
        others = [future for future in pending if not isinstance(future, asyncio.Task)]
        inner = [self.of_future(future) for future in others]
        texts += [wait.text for wait in inner[:5]]
        left = len(pending) - len(texts)
        if left > 0:
            texts.append(f"{left} more")
        ids = [id(task) for task in tasks]
        for wait in inner:
            ids += wait.tasks
        return Wait("gather", f"{kind} of {', '.join(texts)}", tuple(ids))

    def _until(self, timer: asyncio.TimerHandle) -> str:
        left = timer.when() - self.now
        when = time.strftime("%H:%M:%S", time.localtime(time.time() + left))
        return f"until {when} (in {duration(left)})" if left > 0 else f"until {when}"

    # Jobs of executors.

    @functools.cached_property
    def _running_jobs(self) -> dict[int, tuple[str, Any, Place | None]]:
        """By the future's id: the thread, the function, and where it is.

        The future is that of concurrent.futures, or, of a job of ours, which has none,
        asyncio's.
        """
        found = {}
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for thread, innermost in sys._current_frames().items():
            inside: Place | None = None
            frame: types.FrameType | None = innermost
            while frame is not None:
                code = frame.f_code
                if code.co_qualname == "_WorkItem.run":
                    item = frame.f_locals.get("self")
                elif code.co_qualname == "_worker":
                    item = frame.f_locals.get("work_item")
                else:
                    item = None
                job = _job_future(item)
                if job is not None:
                    name = names.get(thread, str(thread))
                    found[id(job)] = (name, _job_function(item), inside)
                    break
                if inside is None and not code.co_filename.endswith(_EXECUTOR):
                    inside = Place(
                        code.co_filename, frame.f_lineno, function_name(code)
                    )
                frame = frame.f_back
        return found

    @functools.cached_property
    def queued_jobs(self) -> dict[int, Any]:
        """By the future's id: the functions that wait for the default executor."""
        executor = getattr(self.loop, "_default_executor", None)
        work = getattr(executor, "_work_queue", None)
        found = {}
        items = [] if work is None else gc.get_referents(work)
        for item in [
            *items,
            *(i for held in items if type(held) is list for i in held),
        ]:
            job = _job_future(item)
            if job is not None:
                found[id(job)] = _job_function(item)
        return found

    def of_job(self, job: Any) -> Wait:
        """Say what a job of an executor is and where its thread stands."""
        running = self._running_jobs.get(id(job))
        if running is not None:
            thread, function, inside = running
            place = "" if inside is None else f", now at {inside}"
            text = f"{describe_function(function)} in thread {thread}{place}"
            return Wait("executor", f"the executor's job {text}")
        if id(job) in self.queued_jobs:
            function = describe_function(self.queued_jobs[id(job)])
            return Wait("executor", f"a free thread for the executor's job {function}")
        if job.running():
            return Wait("executor", "a running job of an executor")
        return Wait("executor", "a future of another thread or executor")

    def running_jobs(self) -> list[str]:
        """Return the jobs that threads of executors run, in words."""
        return [
            f"{describe_function(function)} in thread {thread}"
            + ("" if inside is None else f", now at {inside}")
            for thread, function, inside in self._running_jobs.values()
        ]

    # Who holds a lock.

    @functools.cached_property
    def _holders(self) -> dict[int, list[asyncio.Task[Any]]]:
        """By the id of what they are in an ``async with`` of: tasks.

        A suspended coroutine keeps the __aexit__ of each such block on its stack: a
        bound method, or, from 3.14 on, the function and behind it the object. Where it
        is still in __aenter__ it has the lock not yet.
        """
        holders: dict[int, list[asyncio.Task[Any]]] = {}
        for task in self.tasks:
            chain = self._chains[id(task)]
            for link, following in zip(chain, [*chain[1:], None], strict=True):
                if not isinstance(link.obj, (types.CoroutineType, types.GeneratorType)):
                    continue
                entered = _entered_blocks(link.obj)
                if following is not None and following.name.endswith(".__aenter__"):
                    entering = following.local("self")
                    entered = [obj for obj in entered if obj is not entering] + [
                        obj for obj in entered if obj is entering
                    ][1:]
                for obj in entered:
                    holders.setdefault(id(obj), []).append(task)
        return holders

    def holders(self, lock: Any) -> list[asyncio.Task[Any]]:
        """Return the tasks that hold a lock or semaphore, as far as can be seen."""
        found = self._holders.get(id(lock), [])
        return list(dict.fromkeys(found))[:_HOLDERS]

    def held(self, lock: Any) -> tuple[str, tuple[int, ...]]:
        """Say who holds it, and give their ids."""
        tasks = self.holders(lock)
        if not tasks:
            return "", ()
        labels = [self.label(task) for task in tasks[:5]]
        if len(tasks) > 5:
            labels.append(f"{len(tasks) - 5} more")
        return f" held by {', '.join(labels)}", tuple(id(task) for task in tasks)


def _job_future(item: Any) -> Any:
    """Return what an executor's work item will tell of its outcome, or None."""
    if isinstance(item, _core.Job):
        return item.waiter
    job = getattr(item, "future", None)
    return job if isinstance(job, concurrent.futures.Future) else None


def _job_function(item: Any) -> Any:
    function = getattr(item, "fn", None)
    if function is None:
        task = getattr(item, "task", None)  # 3.14: (fn, args, kwargs)
        function = task[0] if isinstance(task, tuple) and task else item
    return function


# A method of asyncio's that is in C while aioloop.accelerate() is on is one, too.
_FUNCTIONS = (types.FunctionType, _core.Accelerated)


def _entered_blocks(coroutine: Any) -> list[Any]:
    found: list[Any] = []
    function = None
    for obj in gc.get_referents(coroutine):
        if function is not None:
            found.append(obj)
            function = None
        elif isinstance(obj, types.MethodType):
            if obj.__name__ == "__aexit__":
                found.append(obj.__self__)
        elif isinstance(obj, _FUNCTIONS) and obj.__name__ == "__aexit__":
            function = obj
    return found


def awaiting(task: asyncio.Task[Any]) -> Iterator[asyncio.Task[Any]]:
    """Yield the tasks that go on when this one ends, and those that wait for them.

    What a future calls when it is set leads there: to a task, or to the future of a
    gather(), wait(), shield() or TaskGroup. The nearest are the first.
    """
    seen: set[int] = {id(task)}
    queue: list[Any] = [task]
    for future in queue:
        for callback, _ in list(getattr(future, "_callbacks", None) or ()):
            owner = getattr(callback, "__self__", None)
            group = getattr(owner, "_parent_task", None)
            for found in (
                owner if asyncio.isfuture(owner) else group,
                closure_value(callback, "outer"),
                closure_value(callback, "waiter"),
                *getattr(callback, "args", ()),
            ):
                if asyncio.isfuture(found) and id(found) not in seen:
                    seen.add(id(found))
                    queue.append(found)
                    if isinstance(found, asyncio.Task):
                        yield found


def creation_place(future: Any) -> Place | None:
    """Return where a future or task was made, if that was captured."""
    stack = getattr(future, "_source_traceback", None)
    for frame in reversed(stack or ()):
        if not _frames.is_loop(frame.filename):
            return Place(frame.filename, frame.lineno or 0, frame.name)
    return None


def cancel_places(task: object) -> tuple[Place | None, Place | None]:
    """Return where a task was cancelled, and the program's function behind that."""
    stack = _core._cancelled_from(task)
    frames = _cancels.frames_of_interest(stack or ())
    places = [Place(frame.filename, frame.lineno or 0, frame.name) for frame in frames]
    if not places:
        return None, None
    own = _frames.innermost_user(places)
    return places[-1], None if own is places[-1] else own


# The rules, by asyncio's names of functions.


def _sleep(look: Describer, link: _Link, future: Any) -> Wait | None:
    timer = look._timer_of.get(id(future))
    return None if timer is None else Wait("sleep", f"sleep {look._until(timer)}")


def _lock(look: Describer, link: _Link, future: Any) -> Wait:
    lock = link.local("self")
    held, ids = look.held(lock)
    others = len(getattr(lock, "_waiters", None) or ()) - 1
    text = held or (
        " (no task is in an `async with` of it: somebody called acquire(),"
        " and who that was cannot be seen)"
    )
    if others > 0:
        text += f", {count(others, 'other')} waiting"
    return Wait("lock", f"{type(lock).__name__}{text}", ids)


def _semaphore(look: Describer, link: _Link, future: Any) -> Wait:
    semaphore = link.local("self")
    held, ids = look.held(semaphore)
    # Only a BoundedSemaphore knows how many there can be.
    others = getattr(semaphore, "_bound_value", None) != len(ids)
    text = f"{type(semaphore).__name__}{held}"
    return Wait("semaphore", text, ids, one_of=True, others=others)


def _event(look: Describer, link: _Link, future: Any) -> Wait:
    return Wait("event", f"{type(link.local('self')).__name__}.wait")


def _condition(look: Describer, link: _Link, future: Any) -> Wait | None:
    condition = link.local("self")
    waiters = getattr(condition, "_waiters", None) or ()
    if future not in waiters:
        return None  # It waits for the lock again.
    return Wait("condition", f"{type(condition).__name__}.wait")


def _barrier(look: Describer, link: _Link, future: Any) -> Wait:
    barrier = link.local("self")
    here, parties = getattr(barrier, "_count", "?"), getattr(barrier, "_parties", "?")
    return Wait("barrier", f"Barrier.wait ({here} of {parties} are there)")


def _queue(look: Describer, link: _Link, future: Any) -> Wait:
    queue = link.local("self")
    method = link.name.rpartition(".")[2]
    state = {"get": "it is empty", "put": "it is full"}.get(method)
    if state is None:
        unfinished = getattr(queue, "_unfinished_tasks", 0)
        state = f"{count(unfinished, 'item')} not done"
    return Wait("queue", f"{type(queue).__name__}.{method} ({state})")


def _wait(look: Describer, link: _Link, future: Any) -> Wait | None:
    futures = link.local("fs")
    if futures is None:
        return None
    if link.local("return_when") != asyncio.FIRST_COMPLETED:
        return look.of_several("wait", futures)
    wait = look.of_several("the first", futures)
    others = any(not isinstance(one, asyncio.Task) for one in futures if not one.done())
    return dataclasses.replace(wait, one_of=True, others=others)


def _wait_for(look: Describer, link: _Link, future: Any) -> Wait | None:
    inner = link.local("fut")  # 3.11 waits for a task of its own.
    if not asyncio.isfuture(inner) or inner is future:
        return None
    return look.of_future(inner)


def _task_group(look: Describer, link: _Link, future: Any) -> Wait | None:
    group = link.local("self")
    tasks = getattr(group, "_tasks", None)
    return None if not tasks else look.of_several("TaskGroup", tasks)


def _read(look: Describer, link: _Link, future: Any) -> Wait:
    reader = link.local("self") if link.operation is None else link.operation[0]
    transport = getattr(reader, "_transport", None)
    return Wait("stream", f"{link.name} from {describe_transport(transport)}")


def _drain(look: Describer, link: _Link, future: Any) -> Wait:
    transport = getattr(link.local("self"), "_transport", None)
    state = _core._stream_state(transport)
    unsent = "" if state is None else f" to take {count(state[0], 'byte')}"
    return Wait("stream", f"{describe_transport(transport)}{unsent} ({link.name})")


def _wait_closed(look: Describer, link: _Link, future: Any) -> Wait:
    transport = getattr(link.local("self"), "_transport", None)
    peer = describe_transport(transport)
    return Wait("stream", f"the connection to {peer} to close ({link.name})")


def _sock(look: Describer, link: _Link, future: Any) -> Wait | None:
    if link.operation is None:
        return None
    sock, argument = link.operation
    method = link.name.rpartition(".")[2]
    if method == "sock_connect":
        return Wait("socket", f"the connection to {address(argument)}")
    if not isinstance(sock, socket.socket):
        return None
    return Wait("socket", f"{method} on {describe_socket(sock)}")


def _create_connection(look: Describer, link: _Link, future: Any) -> Wait | None:
    host, port = link.local("host"), link.local("port")
    if host is None:
        return None
    inner = look.of_future(future)
    if inner.kind == "executor":
        return Wait("name look-up", f"the name look-up of {host}:{port}")
    return Wait("socket", f"the connection to {host}:{port}")


def _process(look: Describer, link: _Link, future: Any) -> Wait | None:
    transport = link.local("self")
    transport = getattr(transport, "_transport", transport)
    process = getattr(transport, "_proc", None)
    if process is None:
        return None
    arguments = process.args
    command = (
        arguments
        if isinstance(arguments, str)
        else " ".join(map(str, arguments))
        if isinstance(arguments, (list, tuple))
        else str(arguments)
    )
    return Wait("process", f"child process {process.pid} ({command[:60]})")


def _serve_forever(look: Describer, link: _Link, future: Any) -> Wait:
    server = link.local("self")
    sockets = getattr(server, "_sockets", None) or ()
    names = ", ".join(address(sock.getsockname()) for sock in sockets)
    return Wait("server", f"the end of the server at {names}")


def _server_closed(look: Describer, link: _Link, future: Any) -> Wait:
    server = link.local("self")
    clients = getattr(server, "_clients", None)
    active = getattr(server, "_active_count", 0) if clients is None else len(clients)
    return Wait("server", f"{count(active, 'connection')} of a server to close")


def _executor_shutdown(look: Describer, link: _Link, future: Any) -> Wait:
    jobs = look.running_jobs()
    text = f": {'; '.join(jobs[:5])}" if jobs else ""
    return Wait("executor", f"the default executor's {count(len(jobs), 'job')}{text}")


def _enter(look: Describer, link: _Link, future: Any) -> Wait | None:
    if link.operation is None:
        return None  # It is suspended in acquire().
    lock = isinstance(link.operation[0], asyncio.Lock)
    return (_lock if lock else _semaphore)(look, link, future)


_RULES: dict[str, Rule] = {
    "sleep": _sleep,
    "Lock.acquire": _lock,
    "Semaphore.acquire": _semaphore,
    "_ContextManagerMixin.__aenter__": _enter,
    "Event.wait": _event,
    "Condition.wait": _condition,
    "Barrier.wait": _barrier,
    "Queue.get": _queue,
    "Queue.put": _queue,
    "Queue.join": _queue,
    "_wait": _wait,
    "wait_for": _wait_for,
    "TaskGroup.__aexit__": _task_group,
    "TaskGroup._aexit": _task_group,
    "StreamReader.read": _read,
    "StreamReader.readline": _read,
    "StreamReader.readuntil": _read,
    "StreamReader.readexactly": _read,
    "StreamWriter.drain": _drain,
    "StreamWriter.wait_closed": _wait_closed,
    "BaseEventLoop.create_connection": _create_connection,
    "Process.wait": _process,
    "Process.communicate": _process,
    "BaseSubprocessTransport._wait": _process,
    "Server.serve_forever": _serve_forever,
    "Server.wait_closed": _server_closed,
    "BaseEventLoop.shutdown_default_executor": _executor_shutdown,
    **{
        f"{owner}.{name}": _sock
        for owner in ("BaseSelectorEventLoop", "EventLoop", "_UnixSelectorEventLoop")
        for name in (
            "sock_recv",
            "sock_recv_into",
            "sock_recvfrom",
            "sock_recvfrom_into",
            "sock_sendall",
            "sock_sendto",
            "sock_connect",
            "sock_accept",
            "_sock_sendfile_native",
        )
    },
}
