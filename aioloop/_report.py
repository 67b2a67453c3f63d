"""The report of a program: what its loops did, as one page or as JSON.

From its start on, each loop is followed: its meter is on (src/core/meter.h), its stalls
come here, and when it stops or is closed what there is to see is read, because at the
program's end it is gone. A Report is the one description of all that; as_dict() is its
JSON, aioloop/_report_page.py its HTML, which has the same JSON in it.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import dataclasses
import datetime
import json
import os
import platform
import signal
import stat
import sys
import threading
import time
import weakref
from asyncio import base_events
from typing import TYPE_CHECKING

from . import _core, _dump, _knock, _orphans, _stall
from ._ask import ask, must_be_asked
from ._loop import all_loops, on_new_loop
from ._metrics import PATIENCE
from ._version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Literal, TextIO

    from ._dump import LoopInfo
    from ._loop import Loop
    from ._metrics import Metrics
    from ._orphans import Orphan
    from ._stall import Stall
    from ._tasks import TaskInfo
    from ._usage import Use

    Format = Literal["html", "json"]

# What a loop is watched for if the program says nothing else, in seconds.
STALL_THRESHOLD = 0.1
# So much is kept, of programs that have more: loops, places of a loop in which it was
# stuck, times of one place, looks at one stall; and shown: users, tasks, names of tasks
# that are alike, lines of the tree.
LOOPS, PLACES, TIMES, LOOKS = 16, 100, 200, 8
USERS, TASKS, NAMES, LINES = 12, 200, 20, 200
# A loop that stops often is looked at for a twentieth of the time.
SHARE = 20


@dataclasses.dataclass(frozen=True)
class Interval:
    """How busy a loop was, for some time; start and end are seconds of its life."""

    start: float
    end: float
    busy: float
    """The part in which callbacks ran, 0 to 1."""
    gil: float
    """The part in which it waited for the GIL."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Stalls in one place and for one cause."""

    stall: Stall
    """The longest, as it was first seen."""
    looks: tuple[tuple[float, str, str], ...]
    """What else was seen in it later: after how many seconds, where, and why."""
    times: tuple[tuple[float, float], ...]
    """When each began, in seconds of the loop's life, and its seconds."""
    count: int
    seconds: float
    """Of all together."""
    lasts: bool
    """The last one has not ended."""

    @property
    def longest(self) -> float:
        """Seconds."""
        return max(seconds for _, seconds in self.times)


@dataclasses.dataclass(frozen=True)
class Alike:
    """Tasks that wait for the same in the same place."""

    task: TaskInfo
    """The first."""
    names: tuple[str, ...]
    """Of the first few."""
    count: int


@dataclasses.dataclass(frozen=True)
class Tasks:
    """The tasks that were alive at one moment, and what kept the loop so."""

    when: float
    """In seconds of the loop's life."""
    count: int
    alike: tuple[Alike, ...]
    left_out: int
    """So many more are of further sorts."""
    tree: tuple[str, ...]
    """Who waits for whom, in lines."""
    deadlocks: tuple[str, ...]
    """Sentences about tasks that wait for each other."""
    leaks: tuple[str, ...]
    """Sentences about other tasks that nothing can wake."""
    alive: dict[str, list[str]]
    """See LoopInfo.alive in _dump.py."""


@dataclasses.dataclass(frozen=True)
class LoopReport:
    """A loop's life."""

    number: int
    thread: str | None
    """The name of the thread that runs it, or ran it last."""
    state: str
    """``closed``, or as in LoopInfo."""
    seconds: float
    """Since the loop was made, or its meter was turned on."""
    threshold: float | None
    """From which a callback counts as stuck; None: nobody looked."""
    metered: bool
    metrics: Metrics
    timeline: tuple[Interval, ...]
    top: tuple[Use, ...]
    others: int
    """So many more used the loop, ..."""
    others_time: float
    """... and so much of it."""
    stalls: tuple[Place, ...]
    more_stalls: int
    """Stalls in places that were too many."""
    tasks: Tasks

    @property
    def stuck(self) -> tuple[int, float]:
        """How often it was stuck, and for how many seconds, as far as it is known."""
        times = sum(place.count for place in self.stalls) + self.more_stalls
        return times, sum(place.seconds for place in self.stalls)


@dataclasses.dataclass(frozen=True)
class Report:
    """What is known of a program."""

    program: str
    process: int
    aioloop: str
    python: str
    system: str
    started: datetime.datetime
    written: datetime.datetime
    seconds: float
    why: str
    """``at the end of the program``, ``at a signal``, or ``when the program asked``."""
    error: str | None
    """The exception that ended the program."""
    loops: tuple[LoopReport, ...]
    more_loops: int
    """So many others were less busy."""
    orphans: tuple[Orphan, ...]


# --- a loop's life ------------------------------------------------------------------


class _Stalls:
    """The stalls in one place, while they are gathered."""

    def __init__(self) -> None:
        self.stall: Stall | None = None
        self.looks: list[tuple[float, str, str]] = []
        self.times: list[tuple[float, float]] = []
        self.count = 0
        self.seconds = 0.0

    def add(self, began: float, first: Stall, looks: list, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds
        if all(seconds > other for _, other in self.times):
            self.stall, self.looks = first, looks
        self.times.append((began, seconds))
        if len(self.times) > TIMES:
            self.times.remove(min(self.times, key=lambda one: one[1]))

    def copy(self) -> _Stalls:
        copy = _Stalls()
        copy.stall, copy.looks = self.stall, self.looks
        copy.times, copy.count, copy.seconds = [*self.times], self.count, self.seconds
        return copy

    def describe(self, lasts: bool) -> Place:
        assert self.stall is not None
        return Place(
            stall=self.stall,
            looks=tuple(self.looks),
            times=tuple(self.times),
            count=self.count,
            seconds=self.seconds,
            lasts=lasts,
        )


class Followed:
    """A loop that is followed."""

    def __init__(self, loop: Loop, number: int) -> None:
        self.loop = weakref.ref(loop)
        self.number = number
        metrics = loop.metrics()
        ran = metrics.time_active + metrics.time_idle + metrics.time_waiting_gil
        self.began = metrics.when - ran
        self.thread: str | None = None
        self.stalls: dict[tuple[str, str], _Stalls] = {}
        self.more_stalls = 0
        self.stuck: tuple[Stall, list[tuple[float, str, str]]] | None = None
        self.tasks: Tasks | None = None
        self.ends = False
        self.last: LoopReport | None = None
        self._looked_for = 0.0

    # What the loop tells.

    def follow_stall(self, stall: Stall) -> None:
        """Take note of a stall, or of more of it."""
        if stall.event == "was":
            self._add(stall, [], stall.seconds)
        elif stall.event == "ended":
            if self.stuck is not None:
                self._add(*self.stuck, stall.seconds)
            self.stuck = None
        elif stall.event == "stuck" or self.stuck is None:
            self.stuck = stall, []
        else:
            first, looks = self.stuck
            look = stall.seconds, _place_of(stall), stall.words
            before = looks[-1][1:] if looks else (_place_of(first), first.words)
            if look[1:] != before and len(looks) < LOOKS:
                looks.append(look)

    def _add(self, stall: Stall, looks: list, seconds: float) -> None:
        key = stall.source, stall.cause
        if key not in self.stalls and len(self.stalls) >= PLACES:
            self.more_stalls += 1
            return
        stalls = self.stalls.setdefault(key, _Stalls())
        stalls.add(stall.began - self.began, stall, looks, seconds)

    def starts(self, loop: Loop) -> None:
        """Take note that the loop begins to run: to finish its tasks, perhaps."""
        self.thread = threading.current_thread().name
        tasks = asyncio.all_tasks(loop)
        self.ends = self.ends or any(map(_is_being_ended, tasks))

    def stops(self, loop: Loop) -> None:
        """Look at the tasks that are left, unless they are being ended."""
        tasks = asyncio.all_tasks(loop)
        self.ends = self.ends and all(map(_is_being_ended, tasks))
        if self.ends:
            return
        now = time.monotonic()
        if self._looked_for * SHARE > 1 + now - self.began:
            return
        self.tasks = self.describe_tasks(_dump.look(loop, leaks=True))
        self._looked_for += time.monotonic() - now

    def closes(self, loop: Loop) -> None:
        """Read for the last time what there is."""
        info = dataclasses.replace(_dump.look(loop), state="closed")
        self.last = self.read(loop, info, self.tasks)

    # What is made of it.

    def describe(self) -> LoopReport | None:
        """Describe the loop as it is now, or was in the end.

        It is None if the loop is gone, and without a GIL if it does not answer.
        """
        loop = self.loop()
        if loop is None or self.last is not None:
            return self.last
        here = loop._thread_id in (None, threading.get_ident())
        look = _dump.look if here else _dump.look_at_running
        info = look(loop, leaks=True)
        running = info.thread is not None
        tasks = None if running else self.tasks

        def read() -> LoopReport:
            return self.read(loop, info, tasks or self.describe_tasks(info))

        if not must_be_asked(loop):
            return read()
        try:
            return ask(loop, read, PATIENCE)
        except TimeoutError:
            return None

    def describe_tasks(self, info: LoopInfo) -> Tasks:
        """Describe the tasks that a look has seen."""
        alike: dict[object, list[TaskInfo]] = {}
        for task in info.tasks:
            wait = task.wait and (task.wait.kind, bool(task.timeout))
            key = task.coroutine, task.state, wait, task.stack, task.created
            alike.setdefault(key, []).append(task)
        groups = [
            Alike(group[0], tuple(task.name for task in group[:NAMES]), len(group))
            for group in alike.values()
        ]
        tree = [*_dump.tree_of(info.tasks)]
        if len(tree) > LINES:
            tree[LINES:] = [f"  ... {len(tree) - LINES} more lines ..."]
        return Tasks(
            when=time.monotonic() - self.began,
            count=len(info.tasks),
            alike=tuple(groups[:TASKS]),
            left_out=sum(group.count for group in groups[TASKS:]),
            tree=tuple(tree),
            deadlocks=tuple(_dump.cycle_sentences(info)),
            leaks=tuple(_dump.leak_sentences(info)),
            alive=info.alive,
        )

    def read(self, loop: Loop, info: LoopInfo, tasks: Tasks | None) -> LoopReport:
        """Read everything of a loop."""
        metrics = loop.metrics()
        usage = loop.usage()
        stalls, lasting = dict(self.stalls), None
        if self.stuck is not None:
            stall, looks = self.stuck
            lasting = stall.source, stall.cause
            since = stall.began
            stalls[lasting] = stalls.get(lasting, _Stalls()).copy()
            stalls[lasting].add(
                since - self.began, stall, looks, time.monotonic() - since
            )
        places = [one.describe(key == lasting) for key, one in stalls.items()]
        places.sort(key=lambda place: -place.seconds)
        rest = usage[USERS:]
        return LoopReport(
            number=self.number,
            thread=info.thread or self.thread,
            state=info.state,
            seconds=max(metrics.when - self.began, 0.0),
            threshold=loop.stall_threshold,
            metered=loop.metering or metrics.callback_duration.count > 0,
            metrics=metrics,
            timeline=intervals(loop._read_timeline(), self.began, metrics),
            top=tuple(usage[:USERS]),
            others=len(rest),
            others_time=sum(use.time for use in rest),
            stalls=tuple(places),
            more_stalls=self.more_stalls,
            tasks=tasks or self.describe_tasks(info),
        )


def _is_being_ended(task: asyncio.Task[Any]) -> bool:
    cancelling = getattr(task, "cancelling", None)
    return cancelling is not None and cancelling() > 0


def _place_of(stall: Stall) -> str:
    return "" if stall.frame is None else stall.frame.place


def intervals(
    samples: list[tuple[int, int, int, int]], began: float, metrics: Metrics
) -> tuple[Interval, ...]:
    """Make the timeline of the recorder's samples; the last one is ``metrics``."""
    points = [(w / 1e9, a / 1e9, i / 1e9, g / 1e9) for w, a, i, g in samples]
    times = metrics.time_active, metrics.time_idle, metrics.time_waiting_gil
    points.append((metrics.when, *times))
    when = points[0][0] - sum(points[0][1:])
    before = max(when, began), 0.0, 0.0, 0.0
    found = []
    for point in points:
        span, active, _, gil = (b - a for a, b in zip(before, point, strict=True))
        if span > 0:
            gil = min(max(gil / span, 0.0), 1.0)
            busy = min(max(active / span, 0.0), 1.0 - gil)
            start, end = before[0] - began, point[0] - began
            found.append(Interval(start, end, busy, gil))
            before = point
    return tuple(found)


# --- all loops ----------------------------------------------------------------------


class _Follower:
    """What follows the loops of the program."""

    def __init__(self) -> None:
        self.wall = datetime.datetime.now().astimezone()
        self.began = time.monotonic()
        self.loops: list[Followed] = []
        self.count = 0
        self.left_out = 0
        self.on = False

    def start(self) -> None:
        """Follow the loops that there are, and all that come."""
        if self.on:
            return
        _stall.follow = self.follow_stall
        if self.follow not in on_new_loop:
            on_new_loop.append(self.follow)
        for ref in list(all_loops.values()):
            loop = ref()
            if loop is not None:
                self.follow(loop)
        self.on = True

    def find(self, loop: Loop) -> Followed:
        """Return what is known of a loop; it is followed from now on."""
        for followed in self.loops:
            if followed.loop() is loop:
                return followed
        self.count += 1
        followed = Followed(loop, self.count)
        self.loops.append(followed)
        return followed

    def follow(self, loop: Loop) -> None:
        """Turn on what a report needs of a loop, and look when it stops."""
        followed = self.find(loop)
        loop.metering = True
        if loop.stall_threshold is None and not os.environ.get("AIOLOOP_STALL"):
            _core._set_stall_threshold(loop, STALL_THRESHOLD)
            loop._logs_stalls = False
        _hook(loop, followed)
        self._forget_some()

    def _forget_some(self) -> None:
        """Forget the least busy one of the loops that are closed, if they are many."""
        gone = [one for one in self.loops if one.loop() is None and one.last is None]
        closed = [one for one in self.loops if one.last is not None]
        if len(closed) > LOOPS:
            gone.append(min(closed, key=_busy))
        for one in gone:
            self.left_out += one.last is not None or one.tasks is not None
            self.loops.remove(one)

    def follow_stall(self, loop: Loop, stall: Stall) -> None:
        self.find(loop).follow_stall(stall)

    def describe(self, loops: Iterable[Loop] | None, why: str) -> Report:
        """Describe the program with these loops, or all that were followed or live."""
        self._forget_some()
        if loops is None:
            for ref in list(all_loops.values()):
                one = ref()
                if one is not None and not one.is_closed():
                    self.find(one)
            followed = list(self.loops)
        else:
            followed = [self.find(loop) for loop in loops]
        found = [followed.describe() for followed in followed]
        reports = [one for one in found if one is not None]
        error = getattr(sys, "last_value", None) if why == _AT_END else None
        return Report(
            program=_program(),
            process=os.getpid(),
            aioloop=__version__,
            python=platform.python_version(),
            system=f"{platform.system()} {platform.release()}",
            started=self.wall,
            written=datetime.datetime.now().astimezone(),
            seconds=time.monotonic() - self.began,
            why=why,
            error=None if error is None else _in_words(error),
            loops=tuple(reports),
            more_loops=self.left_out,
            orphans=tuple(_orphans.orphans()),
        )


def _busy(followed: Followed) -> float:
    last = followed.last
    return -1.0 if last is None else last.metrics.time_active + last.stuck[1]


def _hook(loop: Loop, followed: Followed) -> None:
    """Have the loop tell when it starts, stops and closes.

    Nothing of the report's may fail into the program: that is logged.
    """
    ref = weakref.ref(loop)
    kind = type(loop)

    def tell(what: str) -> None:
        loop = ref()
        if loop is None:
            return
        try:
            getattr(followed, what)(loop)
        except Exception:
            base_events.logger.exception("The report cannot show all of a loop.")

    def setup() -> None:
        kind._run_forever_setup(ref())  # type: ignore[attr-defined]
        tell("starts")

    def cleanup() -> None:
        kind._run_forever_cleanup(ref())  # type: ignore[attr-defined]
        tell("stops")

    def close() -> None:
        tell("closes")
        kind._close_self_pipe(ref())  # type: ignore[arg-type]

    loop._run_forever_setup = setup  # type: ignore[method-assign]
    loop._run_forever_cleanup = cleanup  # type: ignore[method-assign]
    loop._close_self_pipe = close  # type: ignore[method-assign]


def _program() -> str:
    """Return the name of the program that runs, without its arguments."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name not in ("__main__", "aioloop.__main__"):
        return f"python -m {spec.name.removesuffix('.__main__')}"
    name = sys.argv[0] if sys.argv else ""
    return os.path.basename(name) if name not in ("", "-", "-c") else f"python {name}"


def _in_words(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        text = "(its text cannot be had)"
    kind = type(error).__name__
    return f"{kind}: {text}" if text else kind


# --- as JSON ------------------------------------------------------------------------


def as_dict(report: Report) -> dict[str, Any]:
    """Return all of a report in what JSON has."""
    found = _fields(report)
    found["started"] = report.started.isoformat()
    found["written"] = report.written.isoformat()
    found["loops"] = [_loop_dict(loop) for loop in report.loops]
    found["orphans"] = [
        {**_fields(orphan), "text": str(orphan)} for orphan in report.orphans
    ]
    return found


def _fields(thing: Any) -> dict[str, Any]:
    names = (field.name for field in dataclasses.fields(thing))
    return {name: getattr(thing, name) for name in names}


def _loop_dict(loop: LoopReport) -> dict[str, Any]:
    found = _fields(loop)
    found["metrics"] = {
        **dataclasses.asdict(loop.metrics),
        "utilization": loop.metrics.utilization,
    }
    found["timeline"] = [_fields(interval) for interval in loop.timeline]
    found["top"] = [{**_fields(use), "spins": use.spins} for use in loop.top]
    found["stalls"] = [
        {
            **_fields(place),
            "stall": place.stall.fields(),
            "looks": [
                {"seconds": seconds, "place": where, "words": words}
                for seconds, where, words in place.looks
            ],
            "times": [{"began": b, "seconds": s} for b, s in place.times],
            "longest": place.longest,
        }
        for place in loop.stalls
    ]
    tasks = _fields(loop.tasks)
    tasks["alike"] = [
        {
            "count": alike.count,
            "names": list(alike.names),
            "task": {
                **dataclasses.asdict(alike.task),
                "header": alike.task.header,
                "stack": [
                    {**_fields(place), "source": place.source}
                    for place in alike.task.stack
                ],
            },
        }
        for alike in loop.tasks.alike
    ]
    found["tasks"] = tasks
    return found


def to_json(report: Report) -> str:
    """Return a report as JSON."""
    return json.dumps(as_dict(report), indent=1)


# --- as a file ----------------------------------------------------------------------


def _format_of(path: str) -> Format:
    return "json" if path.lower().endswith(".json") else "html"


def _text(report: Report, form: Format) -> str:
    if form == "json":
        return to_json(report) + "\n"
    from ._report_page import to_html

    return to_html(report)


def _write(path: str, text: str) -> None:
    """Write a file so that nobody sees a half of it."""
    path = os.path.realpath(path)
    data = text.encode("utf-8", "backslashreplace")
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        regular = True
    if not regular:
        with open(path, "wb") as file:  # A pipe, a terminal.
            file.write(data)
        return
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # There may be none yet.
            os.unlink(temporary)
        raise


def report(
    file: str | os.PathLike[str] | TextIO,
    *,
    loop: Loop | None = None,
    format: Format | None = None,
) -> None:
    """Write what the program's loops did so far: one page of HTML, or JSON.

    ``file`` is a path or a text stream. ``loop`` is an aioloop loop; None means all
    that are open, or that ``report_at_exit()`` has followed. ``format`` is ``"html"``
    or ``"json"``; None is what the path ends in, and HTML for anything else. Any thread
    may call it, and nothing is changed by it.

    How busy a loop was, and who used it, is known while ``loop.metering`` is on; places
    in which it was stuck from ``report_at_exit()`` on.

    TypeError is raised for a loop of another kind, ValueError for another format.
    """
    if loop is not None and not isinstance(loop, _core.EventLoop):
        raise TypeError(f"an aioloop loop was expected, got {loop!r}")
    if format not in (None, "html", "json"):
        raise ValueError(f"format is 'html' or 'json', not {format!r}")
    path = None if hasattr(file, "write") else os.fspath(file)  # type: ignore[type-var]
    form = format or ("html" if path is None else _format_of(path))
    loops = None if loop is None else [loop]
    text = _text(_follower.describe(loops, "when the program asked"), form)
    if path is None:
        file.write(text)  # type: ignore[union-attr]
    else:
        _write(path, text)


# --- at the end ---------------------------------------------------------------------


_AT_END = "at the end of the program"
_follower = _Follower()
_paths: dict[str, None] = {}
_registered = False  # Whether they are written at the end.


def report_at_exit(
    path: str | os.PathLike[str], *, signum: int | None = signal.SIGUSR2
) -> None:
    """Follow all loops, and write the report() of them when the program ends.

    It ends by an exception or by SIGINT as well, but not by ``os._exit()`` or by a
    signal that nobody handles. A path that ends in ``.json`` is written as JSON;
    ``{pid}`` in it becomes the number of the process, and without it the child of a
    fork writes nothing. Until then the process writes it whenever it gets the signal;
    None is no signal. A second call adds a file.

    ``loop.metering`` is turned on for all loops, and ``loop.stall_threshold`` is 0.1,
    without log records, where nothing else is said.

    OSError is raised if there can be no such file.
    """
    path = os.path.abspath(os.fspath(path))
    folder = os.path.dirname(path)
    if not os.access(folder, os.W_OK | os.X_OK):
        error = FileNotFoundError if not os.path.isdir(folder) else PermissionError
        number = 2 if error is FileNotFoundError else 13
        raise error(number, os.strerror(number), path)
    global _registered
    _follower.start()
    if not _registered:
        atexit.register(_write_all, _AT_END)
        _registered = True
    _paths[path] = None
    if signum is not None:
        _knock.listen(signum, _at_signal)


def start_by_environment() -> None:
    """Do what AIOLOOP_REPORT says, once."""
    path = os.environ.get("AIOLOOP_REPORT", "")
    if path and not _follower.on:
        free = signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL
        report_at_exit(path, signum=signal.SIGUSR2 if free else None)


def _in_child() -> None:
    global _writing
    _writing = threading.Lock()
    for path in list(_paths):
        if "{pid}" not in path:
            del _paths[path]


def _at_signal() -> None:
    _write_all("at a signal")


_writing = threading.Lock()
os.register_at_fork(after_in_child=_in_child)


def _write_all(why: str) -> None:
    if not _paths:
        return
    with _writing:
        found = _follower.describe(None, why)
        for path in list(_paths):
            try:
                text = _text(found, _format_of(path))
                _write(path.replace("{pid}", str(os.getpid())), text)
            except OSError as error:
                print(f"aioloop: the report is not written: {error}", file=sys.stderr)
