"""dump(): every task, what it waits for and where, and what keeps the loop alive."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import gc
import json
import os
import platform
import signal
import socket
import sys
import threading
import types
from typing import TYPE_CHECKING

from . import _core, _knock
from ._ask import ask, must_be_asked
from ._frames import innermost_user
from ._loop import all_loops
from ._tasks import (
    Describer,
    Place,
    TaskInfo,
    address,
    count,
    creation_place,
    describe_fd,
    describe_function,
    describe_transport,
    duration,
    function_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Literal, TextIO

    from ._loop import Loop

    Format = Literal["text", "json"]

_PATIENCE = 0.25  # seconds in which a loop that is well answers
_DEEPEST = 24  # levels of a tree; below, the indentation stays, so that it is linear


@dataclasses.dataclass(frozen=True)
class LoopInfo:
    """A loop at one moment."""

    thread: str | None
    """The name of the thread that runs it."""

    state: str
    """``waiting for events``, ``in a callback``, ``not running`` or ``stuck``."""

    ready: int
    """How many callbacks and steps of tasks are queued."""

    tasks: tuple[TaskInfo, ...]
    stack: tuple[Place, ...]
    """Where a callback is that belongs to no task."""

    cycles: tuple[tuple[int, ...], ...]
    """Tasks that wait for each other in a circle and cannot go on, by their ids."""

    circles: tuple[tuple[int, ...], ...]
    """The same where something may still end the wait of one of them."""

    alive: dict[str, list[str]]
    """What keeps the loop alive, in words, by kind: ``timers``, ``sockets``,
    ``servers``, ``other files``, ``executor jobs``, ``signal handlers``, ``children``,
    ``asynchronous generators``."""


def running_loops() -> list[Loop]:
    loops = [ref() for ref in list(all_loops.values())]
    return [loop for loop in loops if loop is not None and loop.is_running()]


# One look.


def _thread_name(ident: int | None) -> str | None:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return None if ident is None else names.get(ident, str(ident))


def look(loop: Loop, *, stuck: bool = False, leaks: bool = False) -> LoopInfo:
    """Look at a loop and everything in it."""
    waiting, ready = _core._loop_state(loop)
    describer = Describer(loop, leaks=leaks)
    tasks = tuple(describer.describe_all())
    deadlocks, circles = find_circles(tasks)
    thread_id = loop._thread_id
    running = any(task.state == "running" for task in tasks)
    if thread_id is None:
        state = "not running"
    elif stuck:
        state = "stuck"
    else:
        state = "waiting for events" if waiting else "in a callback"
    stack: tuple[Place, ...] = ()
    if thread_id is not None and not running and not waiting:
        stack = tuple(describer.running_stack())
    return LoopInfo(
        thread=_thread_name(thread_id),
        state=state,
        ready=ready,
        tasks=tasks,
        stack=stack,
        cycles=deadlocks,
        circles=circles,
        alive=_what_keeps_alive(loop, describer),
    )


def find_stuck(tasks: tuple[TaskInfo, ...]) -> set[int]:
    """Return the tasks that wait for tasks which are stuck themselves.

    That is what is left when all are taken out that may go on: one that runs or waits
    for something else, one whose wait has a time-out, and then again and again one all
    of whose tasks may go on, or, where one of them is enough, one of them.
    """
    waits = {
        task.id: task.wait
        for task in tasks
        if task.wait is not None and task.wait.tasks and task.timeout is None
    }
    stuck = set(waits)
    certain = {task.id for task in tasks if task.leaked}
    left: dict[int, int] = {}
    waiting_for: dict[int, list[int]] = {}
    for waiter, wait in waits.items():
        targets = set(wait.tasks)
        left[waiter] = 1 if wait.one_of else len(targets)
        for target in targets:
            waiting_for.setdefault(target, []).append(waiter)
    free = [target for target in waiting_for if target not in waits]
    free += [waiter for waiter, wait in waits.items() if wait.one_of and wait.others]
    while free:
        task = free.pop()
        if task in certain or (task in waits and task not in stuck):
            continue
        stuck.discard(task)
        for waiter in waiting_for.get(task, ()):
            left[waiter] -= 1
            if left[waiter] == 0:
                free.append(waiter)
    return stuck


_Circles = tuple[tuple[int, ...], ...]


def find_circles(tasks: tuple[TaskInfo, ...]) -> tuple[_Circles, _Circles]:
    """Return the circles of tasks that wait for each other, by their ids.

    First come those that are deadlocks, then those that something may still end.
    """
    waits = {t.id: t.wait.tasks for t in tasks if t.wait is not None and t.wait.tasks}
    stuck = find_stuck(tasks)
    return (
        tuple(_cycles({k: v for k, v in waits.items() if k in stuck})),
        tuple(_cycles({k: v for k, v in waits.items() if k not in stuck})),
    )


def _cycles(waits: dict[int, tuple[int, ...]]) -> Iterator[tuple[int, ...]]:
    """Yield the circles of tasks that wait for each other: Tarjan's algorithm.

    Of each strongly connected group it yields one way round.
    """
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    pile: list[int] = []
    on_pile: set[int] = set()
    for root in waits:
        if root in index:
            continue
        work = [(root, iter(waits[root]))]
        index[root] = low[root] = len(index)
        pile.append(root)
        on_pile.add(root)
        while work:
            node, following = work[-1]
            for target in following:
                if target not in waits:
                    continue
                if target not in index:
                    index[target] = low[target] = len(index)
                    pile.append(target)
                    on_pile.add(target)
                    work.append((target, iter(waits[target])))
                    break
                if target in on_pile:
                    low[node] = min(low[node], index[target])
            else:
                work.pop()
                if work:
                    above = work[-1][0]
                    low[above] = min(low[above], low[node])
                if low[node] == index[node]:
                    group = set()
                    while node not in group:
                        group.add(pile.pop())
                    on_pile -= group
                    if len(group) > 1 or node in waits[node]:
                        yield _way_round(node, group, waits)


def _way_round(
    start: int, group: set[int], waits: dict[int, tuple[int, ...]]
) -> tuple[int, ...]:
    """Return a path through the group from a task back to itself, a shortest one."""
    came_from: dict[int, int] = {}
    frontier = [start]
    while frontier:
        following = []
        for node in frontier:
            for target in waits[node]:
                if target == start:
                    path = [node]
                    while path[-1] != start:
                        path.append(came_from[path[-1]])
                    return tuple(reversed(path))
                if target in group and target not in came_from:
                    came_from[target] = node
                    following.append(target)
        frontier = following
    return (start,)  # Not reached: the group is strongly connected.


def _what_keeps_alive(loop: Loop, look: Describer) -> dict[str, list[str]]:
    alive: dict[str, list[str]] = {"timers": [_timer(look, t) for t in look.timers]}
    operations = look.operations()
    for fd, reader, writer, transport in _core._loop_files(loop):
        for kind, text in _file(fd, reader, writer, transport, operations, look):
            alive.setdefault(kind, []).append(text)
    queued = [f"{describe_function(job)}, queued" for job in look.queued_jobs.values()]
    alive["executor jobs"] = look.running_jobs() + queued
    alive["signal handlers"] = [
        f"{signal.Signals(number).name}: {describe_function(handle._callback)}"
        for number, handle in list(getattr(loop, "_signal_handlers", {}).items())
    ]
    alive["asynchronous generators"] = [
        _generator(generator) for generator in list(getattr(loop, "_asyncgens", ()))
    ]
    return {kind: texts for kind, texts in alive.items() if texts}


def _generator(generator: types.AsyncGeneratorType[Any, Any]) -> str:
    frame = generator.ag_frame
    code = generator.ag_code
    line = code.co_firstlineno if frame is None else frame.f_lineno
    return str(Place(code.co_filename, line, function_name(code)))


def _timer(look: Describer, handle: asyncio.TimerHandle) -> str:
    left = handle.when() - look.now
    when = f"in {duration(left)}" if left > 0 else "due"
    callback = handle._callback  # type: ignore[attr-defined]
    owner = getattr(callback, "__self__", None)
    task = getattr(owner, "_task", None)
    if isinstance(task, asyncio.Task):
        text = f"{when}: time-out of {look.label(task)}"
    else:
        waiter = None
        for obj in (owner, *(handle._args or ())):  # type: ignore[attr-defined]
            waiter = waiter or look.waiters.get(id(obj))
        what = describe_function(callback)
        text = f"{when}: {what}" if waiter is None else f"{when}: {look.label(waiter)}"
    made = creation_place(handle)
    return text if made is None else f"{text}, made at {made}"


def _file(
    fd: int,
    reader: Any,
    writer: Any,
    transport: Any,
    operations: dict[int, asyncio.Task[Any]],
    look: Describer,
) -> Iterator[tuple[str, str]]:
    """Say what a descriptor that the loop has is, with its kind."""
    if transport is not None:
        yield "sockets", f"fd {fd} {_transport(transport)}"
    for waiter, verb in ((reader, "reads"), (writer, "writes")):
        callback = getattr(waiter, "_callback", None)
        if waiter is None or waiter is transport:
            continue
        if callback is None:
            task = operations.get(id(waiter))
            name = getattr(waiter, "__name__", type(waiter).__name__)
            by = "" if task is None else f" of {look.label(task)}"
            yield "sockets", f"{describe_fd(fd)}: {name}{by}"
        elif type(getattr(callback, "__self__", None)).__name__ == "Listener":
            yield "servers", _server(fd, callback.__self__)
        elif getattr(callback, "__qualname__", "") in (
            "PidfdChildWatcher._do_wait",
            "_PidfdChildWatcher._do_wait",
            "PidfdWatcher._reap",
        ):
            yield "children", f"pid {waiter._args[0]}"
        else:
            what = describe_function(callback)
            yield "other files", f"{describe_fd(fd)} {verb}: {what}"


def _transport(transport: Any) -> str:
    parts = [describe_transport(transport)]
    state = _core._stream_state(transport)
    if state is None:
        buffered = getattr(transport, "get_write_buffer_size", lambda: 0)()
        paused = told = closing = False
    else:
        buffered, paused, told, closing = state
    if buffered:
        parts.append(f"{count(buffered, 'byte')} to send")
    if paused:
        parts.append("reading is paused")
    if told:
        parts.append("its protocol has been told to pause writing")
    if closing:
        parts.append("closing")
    return ", ".join(parts)


def _server(fd: int, listener: object) -> str:
    for held in gc.get_referents(listener):
        if isinstance(held, socket.socket) and held.fileno() >= 0:
            return f"fd {fd} {address(held.getsockname())}"
    return describe_fd(fd)


# As text.


def _write_text(loops: list[LoopInfo]) -> Iterator[str]:
    now = datetime.datetime.now().isoformat(" ", "seconds")
    yield f"aioloop dump of process {os.getpid()}, {now}, Python {_python()}"
    if not loops:
        yield "no loop runs"
    for info in loops:
        yield ""
        yield from text_of(info)


def text_of(info: LoopInfo) -> Iterator[str]:
    """Yield the lines that show a loop."""
    yield _headline(info)
    for place in info.stack:
        yield f"  {_frame(place)}"
    shown: dict[tuple[Place, ...], str] = {}
    for task in info.tasks:
        yield ""
        before = shown.setdefault(task.stack, task.label)
        if before == task.label or len(task.stack) < 2:
            yield from text_of_task(task)
        else:
            yield task.header
            yield f"  └── as {before} above, from {_frame(task.stack[0])}"
    tree = list(tree_of(info.tasks))
    if tree:
        yield ""
        yield "who waits for whom:"
        yield from tree
    for sentence in (*cycle_sentences(info), *leak_sentences(info)):
        yield ""
        yield sentence
    if info.alive:
        yield ""
        yield "what keeps the loop alive:"
    for kind, texts in info.alive.items():
        yield f"  {kind} ({len(texts)})"
        for text in texts:
            yield f"    {text}"


def text_of_task(task: TaskInfo) -> Iterator[str]:
    """Yield the lines that show a task."""
    yield task.header
    last = len(task.stack) - 1
    for i, place in enumerate(task.stack):
        yield f"  {'└──' if i == last else '├──'} {_frame(place)}"


def _headline(info: LoopInfo) -> str:
    if info.thread is None:
        running = "a loop that does not run"
    elif info.state == "stuck":
        running = f"the loop of thread {info.thread}, which has not answered for "
        running += f"{duration(_PATIENCE)}: it is stuck in a callback"
    else:
        running = f"the loop of thread {info.thread}, {info.state}"
    return f"{running}; {count(len(info.tasks), 'task')}, {info.ready} ready to run"


def _frame(place: Place) -> str:
    source = f"    {place.source}" if place.source else ""
    return f"{place.function} {place.where}{source}"


def tree_of(tasks: tuple[TaskInfo, ...]) -> Iterator[str]:
    """Yield the tasks that wait for tasks as trees; each is shown in full once."""
    by_id = {task.id: task for task in tasks}
    waits = {
        task.id: [by_id[target] for target in task.wait.tasks if target in by_id]
        for task in tasks
        if task.wait is not None
    }
    awaited = {target.id for targets in waits.values() for target in targets}
    roots = [task for task in tasks if task.id not in awaited and waits.get(task.id)]
    # What is left then is in circles, and has no beginning.
    roots += [task for task in tasks if waits.get(task.id)]
    shown: set[int] = set()
    for root in roots:
        if root.id in shown:
            continue
        path: set[int] = set()
        work: list[tuple[TaskInfo | None, int, str, str]] = [(root, 0, "  ", "")]
        leave: list[int] = []
        while work:
            task, depth, prefix, glyph = work.pop()
            if task is None:
                path.discard(leave.pop())
                continue
            line = f"{prefix}{glyph}(T) {task.label}"
            if task.id in path:
                yield f"{line} (above: a circle)"
                continue
            children = waits.get(task.id, [])
            if task.id in shown and children:
                yield f"{line} (above)"
                continue
            yield f"{line} [{task.situation}]"
            shown.add(task.id)
            path.add(task.id)
            leave.append(task.id)
            work.append((None, 0, "", ""))
            below = prefix + {"├── ": "│   ", "└── ": "    ", "": ""}[glyph]
            if depth >= _DEEPEST:
                below = prefix
            for i, child in enumerate(reversed(children)):
                work.append((child, depth + 1, below, "├── " if i else "└── "))


def cycle_sentences(info: LoopInfo) -> Iterator[str]:
    """Yield a sentence for each circle of tasks that wait for each other."""
    by_id = {task.id: task for task in info.tasks}
    for cycle in info.cycles:
        itself = "itself" if len(cycle) == 1 else "none of them can go on"
        yield f"DEADLOCK: {_round(cycle, by_id)}: {itself}"
    for cycle in info.circles:
        exits = [text for task in cycle for text in _exits(by_id[task])]
        yield f"CIRCLE: {_round(cycle, by_id)}: it ends {' or '.join(exits[:5])}"


def _round(cycle: tuple[int, ...], by_id: dict[int, TaskInfo]) -> str:
    first, *others = [by_id[task] for task in cycle]
    text = f"{first.label} waits for {_wanted(first)}"
    for task in others:
        text += f", which waits for {_wanted(task)}"
    return text


def _exits(task: TaskInfo) -> Iterator[str]:
    """Yield what may end the wait of a task in a circle."""
    wait = task.wait
    if task.timeout is not None:
        yield f"when {task.label} times out in {duration(task.timeout)}"
    if wait is not None and wait.kind == "semaphore":
        yield f"if somebody else releases what {task.label} waits for"
    elif wait is not None and (wait.one_of or len(wait.tasks) > 1):
        yield f"if another one ends that {task.label} waits for"


def leak_sentences(info: LoopInfo) -> Iterator[str]:
    """Yield a sentence for each place where tasks wait that nothing can wake."""
    in_circles = {task for cycle in info.cycles for task in cycle}
    groups: dict[tuple[object, ...], list[TaskInfo]] = {}
    for task in info.tasks:
        # One that waits for another is not where it begins.
        if task.leaked and task.wait is not None and task.id not in in_circles:
            if not task.wait.tasks:
                key = task.wait.text, innermost_user(task.stack)
                groups.setdefault(key, []).append(task)
    for tasks in groups.values():
        yield _leak(tasks)


def _leak(tasks: list[TaskInfo]) -> str:
    first, number = tasks[0], len(tasks)
    named = ", ".join(task.label for task in tasks[:5])
    if number > 5:
        named += f", {number - 5} more"
    verb, its = ("waits", "it") if number == 1 else ("wait", "them")
    text = f"LEAK: {count(number, 'task')} {verb} for {_wanted(first)}"
    place = innermost_user(first.stack)
    if place is not None:
        text += f" at {place}"
        text += f", `{place.source}`" if place.source else ""
    text += (
        f", and nothing can wake {its} any more: nobody else in the program refers to"
        f" what is waited for. {named}"
    )
    longest = max(task.waited or 0.0 for task in tasks)
    most = "" if number == 1 else "up to "
    return f"{text}; for {most}{duration(longest)} so far"


def _wanted(task: TaskInfo) -> str:
    return "nothing" if task.wait is None else task.wait.text


def _python() -> str:
    return platform.python_version()


# As JSON.


def _as_dict(info: LoopInfo) -> dict[str, Any]:
    found = dataclasses.asdict(info)
    for task, shown in zip(info.tasks, found["tasks"], strict=True):
        shown["header"] = task.header
    return found


def _write_json(loops: list[LoopInfo]) -> str:
    return json.dumps(
        {
            "process": os.getpid(),
            "time": datetime.datetime.now().astimezone().isoformat(),
            "python": _python(),
            "loops": [_as_dict(info) for info in loops],
        },
        indent=1,
    )


def _write(file: TextIO | None, loops: list[LoopInfo], form: Format) -> None:
    text = _write_json(loops) if form == "json" else "\n".join(_write_text(loops))
    out = sys.stderr if file is None else file
    if out is not None:
        out.write(text + "\n")
        out.flush()


def _check_format(form: str) -> None:
    if form not in ("text", "json"):
        raise ValueError(f"format is 'text' or 'json', not {form!r}")


# What programs call.


def dump(
    file: TextIO | None = None,
    *,
    loop: Loop | None = None,
    format: Format = "text",
    leaks: bool = False,
) -> None:
    """Write what every task waits for and where, and what keeps the loop alive.

    ``file`` is a text stream; None means sys.stderr. ``loop`` is an aioloop loop; None
    means the one that runs in this thread, or else all that run. ``format`` is
    ``"text"`` or ``"json"``. Any thread may call it, and nothing is changed by it.

    ``leaks`` also finds the waiting tasks that nothing can wake any more, because what
    they wait for is referred to by nothing but themselves and others like them. It
    looks once at each object that tasks lead to, and takes a quarter of a second for a
    million of them. A task may be missed; one that something could still wake, other
    than by cancelling it, is not marked.

    TypeError is raised for a loop of another kind, ValueError for another format.
    """
    _check_format(format)
    if loop is None:
        running = asyncio._get_running_loop()
        here = isinstance(running, _core.EventLoop)
        loops = [running] if here else running_loops()
    elif not isinstance(loop, _core.EventLoop):
        raise TypeError(f"an aioloop loop was expected, got {loop!r}")
    else:
        loops = [loop]
    infos = []
    for each in loops:
        look_there = look_at_running if must_be_asked(each) else look
        infos.append(look_there(each, leaks=leaks))
    _write(file, infos, format)


def look_at_running(loop: Loop, *, leaks: bool = False) -> LoopInfo:
    """Look from inside the loop, where nothing moves meanwhile, or from here."""
    waiting, ready = _core._loop_state(loop)

    def look_inside() -> LoopInfo:
        info = look(loop, leaks=leaks)
        if waiting:
            info = dataclasses.replace(info, state="waiting for events", stack=())
        return info

    try:
        return ask(loop, look_inside, _PATIENCE)
    except TimeoutError:
        if must_be_asked(loop):
            return _stuck(loop, ready)
        return look(loop, stuck=True, leaks=leaks)
    except RuntimeError:
        return look(loop, leaks=leaks)  # It has just been closed.


def _stuck(loop: Loop, ready: int) -> LoopInfo:
    """What may be told of a loop that does not answer, without a GIL."""
    return LoopInfo(
        thread=_thread_name(loop._thread_id),
        state="stuck",
        ready=ready,
        tasks=(),
        stack=(),
        cycles=(),
        circles=(),
        alive={},
    )


_on_signal: tuple[TextIO | None, Format, bool] = (None, "text", False)


def dump_on_signal(
    signum: int = signal.SIGUSR2,
    *,
    file: TextIO | None = None,
    format: Format = "text",
    leaks: bool = False,
) -> None:
    """Write dump() of all running loops whenever the process gets the signal.

    It works while a loop is stuck in a callback: a thread of its own does it then,
    unless a C function keeps the GIL. In the child of a fork it works as well. The
    signal belongs to it from now on; signal.signal() takes it back.

    ``file`` is a text stream; None means what sys.stderr is at that time. A second
    call adds a signal, and its file, format and ``leaks`` are those of all.
    """
    global _on_signal
    _check_format(format)
    _knock.listen(signum, _dump_running)
    _on_signal = file, format, leaks


def _dump_running() -> None:
    file, form, leaks = _on_signal
    loops = [look_at_running(loop, leaks=leaks) for loop in running_loops()]
    _write(file, loops, form)
