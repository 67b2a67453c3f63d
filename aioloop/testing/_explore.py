"""explore(): a program under many seeds, in several processes.

The processes are forked, so that the program may be any function. Each has a pipe to
give it seeds and get its failures, and a word of shared memory in which it says which
seed it tries: that is what is known of one that dies.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import functools
import itertools
import math
import mmap
import multiprocessing
import os
import pickle
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

from . import _errors
from ._run import run

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator
    from multiprocessing.connection import Connection
    from typing import IO, Any

    from ._run import Order

# Real seconds.
_ERRAND = 0.05  # that a process shall be busy with the seeds that it is given at once
_TICK = 0.2  # between two looks at whether a process hangs, and two pictures of the bar
_GLANCE = 0.005  # between two looks at whether a process ends that is about to
_LAST_WORDS = 10.0  # that a process has to write where it hangs

_MOST_SEEDS = 5000  # given at once


def explore(
    main: Callable[[], Coroutine[Any, Any, object]],
    *,
    seeds: Iterable[int] = range(100),
    order: Order = "seeded",
    first: bool = False,
    processes: int | None = None,
    timeout: float | None = 60.0,
    progress: bool | None = None,
    **options: Any,
) -> dict[int, Exception]:
    """Run ``main()`` once for each seed; return the failing ones with their errors.

    ``first`` ends it with the first failure. So many ``processes`` do it, forked from
    this one; None is one for each CPU that this process may use, or no other process
    if it has several threads, which a fork would lose. With 1 all is done here. An
    error of another process has no traceback, but its text as its cause, and is a
    RemoteError if it cannot be pickled. A process that dies, or is busy with one seed
    for more than ``timeout`` real seconds, is a ProcessFailed of that seed, and
    another takes its place.

    ``progress`` is whether to draw a bar on stderr, by default where that is a
    terminal. The other arguments are those of run(). ``run(main(), order=order,
    seed=seed)`` repeats a failure.

    RuntimeError is raised in a running loop, ValueError for fewer processes than one.
    What is no Exception, such as SystemExit, ends it.
    """
    _errors.refuse_running_loop("explore()")
    if processes is None:
        processes = _sensible_number()
    elif processes < 1:
        raise ValueError(f"processes is at least 1, not {processes!r}")
    attempt = functools.partial(_attempt, main, {"order": order, **options})
    total = len(seeds) if hasattr(seeds, "__len__") else None
    if total is not None:
        processes = max(1, min(processes, total))
    with contextlib.closing(_Bar(total, progress)) as bar:
        if processes == 1:
            failures = _explore_here(attempt, seeds, first, bar)
        else:
            failures = _Crew(attempt, seeds, first, timeout, bar).work(processes)
    return {seed: error for _, seed, error in failures}


def _sensible_number() -> int:
    if not sys.platform.startswith("linux"):
        return 1
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1 or multiprocessing.current_process().daemon:
        return 1
    return len(os.sched_getaffinity(0))


def _attempt(
    main: Callable[[], Coroutine[Any, Any, object]],
    options: dict[str, Any],
    seed: int,
) -> Exception | None:
    """Return the error of this seed, if it fails."""
    try:
        run(main(), seed=seed, **options)
    except Exception as error:
        return error
    return None


def _explore_here(
    attempt: Callable[[int], Exception | None],
    seeds: Iterable[int],
    first: bool,
    bar: _Bar,
) -> list[tuple[int, int, Exception]]:
    failures: list[tuple[int, int, Exception]] = []
    for place, seed in enumerate(seeds):
        error = attempt(seed)
        if error is not None:
            failures.append((place, seed, error))
        bar.done(1, error is not None)
        if error is not None and first:
            break
    return failures


# --- what a forked process does -------------------------------------------------------


def _pack(error: BaseException) -> tuple[bytes | None, str, list[str]]:
    """Return an exception as bytes, if it survives that, and as text; and its notes."""
    text = "".join(traceback.format_exception(error))
    notes = list(getattr(error, "__notes__", ()))
    try:
        packed = pickle.dumps(error)
        if type(pickle.loads(packed)) is type(error):
            return packed, text, notes
    except Exception:
        pass  # Anything may go wrong in the program's own classes.
    return None, text, notes


def _unpack(packed: bytes | None, text: str, notes: list[str]) -> BaseException:
    error: BaseException
    if packed is None:
        error = _errors.RemoteError(text)
    else:
        error = pickle.loads(packed)
        error.__cause__ = _errors.RemoteTraceback(text)
    error.__notes__ = notes
    return error


def _serve(
    attempt: Callable[[int], Exception | None],
    first: bool,
    pipe: Connection,
    others: list[Connection],
    tries: mmap.mmap,
    last_words: IO[str],
) -> None:
    """Try the seeds that come, until no more do."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)  # Ctrl-C is for the parent; and its children die with it.
    for other in others:
        other.close()  # The end of this pipe is to be seen when the parent ends.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A process that hangs is ended by SIGABRT.
    faulthandler.enable(last_words, all_threads=True)
    while True:
        try:
            given = pipe.recv()
        except EOFError:
            return
        if given is None:
            return
        found = []
        for place, seed in given:
            struct.pack_into("q", tries, 0, place)
            try:
                error = attempt(seed)
            except BaseException as end:
                pipe.send(_pack(end))
                return
            if error is not None:
                found.append((place, seed, _pack(error)))
                if first:
                    break
        pipe.send(found)


# --- what the parent does -------------------------------------------------------------


@dataclasses.dataclass(eq=False)
class _Worker:
    process: Any
    pipe: Connection
    tries: mmap.mmap  # the place of the seed that it tries
    last_words: IO[str]
    given: list[tuple[int, int]]  # places and seeds that it has not answered
    size: int = 1  # of the next errand
    began: float = 0.0  # the errand
    place: int = -1  # the seed that it tried at the last look ...
    since: float = 0.0  # ... and since when

    def send(self, given: list[tuple[int, int]]) -> None:
        self.given = given
        self.began = self.since = time.monotonic()
        self.place = given[0][0]
        struct.pack_into("q", self.tries, 0, self.place)
        with contextlib.suppress(BrokenPipeError):  # Then it is dead, as is seen soon.
            self.pipe.send(given)

    def tried(self) -> int:
        place: int = struct.unpack_from("q", self.tries, 0)[0]
        return place

    def dies(self, limit: float) -> bool:
        """Wait until it has ended; say whether it has.

        What it has forked may live on, and hold what else would tell.
        """
        deadline = time.monotonic() + limit
        while self.process.is_alive():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(_GLANCE)
        return True

    def end(self) -> None:
        """Make sure that nothing of it is left, nor of what it has started."""
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        self.process.close()
        self.pipe.close()
        self.tries.close()
        self.last_words.close()


class _Crew:
    """The processes, and what they have found."""

    def __init__(
        self,
        attempt: Callable[[int], Exception | None],
        seeds: Iterable[int],
        first: bool,
        timeout: float | None,
        bar: _Bar,
    ) -> None:
        self._attempt = attempt
        self._seeds: Iterator[tuple[int, int]] = enumerate(seeds)
        self._again: list[tuple[int, int]] = []  # what a process that died has left
        self._first = first
        self._timeout = timeout
        self._bar = bar
        self._workers: list[_Worker] = []
        self._failures: list[tuple[int, int, Exception]] = []

    def work(self, number: int) -> list[tuple[int, int, Exception]]:
        try:
            for _ in range(number):
                self._employ()
            while self._workers:
                self._look()
        finally:
            for worker in self._workers:
                worker.end()
        self._failures.sort(key=lambda failure: failure[0])
        return self._failures[:1] if self._first else self._failures

    def _employ(self) -> None:
        """Start a process, if there is anything to do."""
        given = self._take(1)
        if not given:
            return
        context = multiprocessing.get_context("fork")
        pipe, its_pipe = context.Pipe()
        tries = mmap.mmap(-1, struct.calcsize("q"))
        last_words = tempfile.TemporaryFile("w+", errors="replace")
        others = [pipe, *(worker.pipe for worker in self._workers)]
        arguments = (self._attempt, self._first, its_pipe, others, tries, last_words)
        process = context.Process(target=_serve, args=arguments)
        try:
            process.start()
        finally:
            its_pipe.close()
        worker = _Worker(process, pipe, tries, last_words, [])
        self._workers.append(worker)
        worker.send(given)

    def _take(self, size: int) -> list[tuple[int, int]]:
        """Return the next seeds with their places; none if a failure ends it all."""
        last = self._last_place()
        self._again = [entry for entry in self._again if entry[0] < last]
        given, self._again = self._again[:size], self._again[size:]
        if not given and last == math.inf:
            given = list(itertools.islice(self._seeds, size))
        return given

    def _last_place(self) -> float:
        """Return the place from which on no seed matters any more."""
        if self._first and self._failures:
            return min(place for place, _, _ in self._failures)
        return math.inf

    def _look(self) -> None:
        """Wait for news for a moment."""
        sources = {worker.pipe: worker for worker in self._workers}
        for pipe in wait(sources, _TICK):
            self._hear(sources[pipe])  # type: ignore[index]
        now = time.monotonic()
        for worker in list(self._workers):
            place = worker.tried()
            if place != worker.place:
                worker.place, worker.since = place, now
            if place > self._last_place():
                self._dismiss(worker)
            elif self._timeout is not None and now - worker.since > self._timeout:
                self._give_up(worker)
            elif worker.dies(0) and not worker.pipe.poll():
                self._lose(worker)
        self._bar.draw()

    def _hear(self, worker: _Worker) -> None:
        try:
            said = worker.pipe.recv()
        except (EOFError, OSError):
            worker.dies(_LAST_WORDS)
            self._lose(worker)
            return
        if isinstance(said, tuple):
            raise _unpack(*said)
        for place, seed, error in said:
            self._failures.append((place, seed, _unpack(*error)))  # type: ignore[arg-type]
        self._bar.done(len(worker.given), len(said))
        if time.monotonic() - worker.began < _ERRAND:
            worker.size = min(worker.size * 2, _MOST_SEEDS)
        else:
            worker.size = max(worker.size // 2, 1)
        if given := self._take(worker.size):
            worker.send(given)
        else:
            with contextlib.suppress(OSError):
                worker.pipe.send(None)
            worker.dies(_LAST_WORDS)
            self._dismiss(worker)

    def _give_up(self, worker: _Worker) -> None:
        """Let it write where it is, and end it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.process.pid, signal.SIGABRT)
        worker.dies(_LAST_WORDS)
        self._lose(worker, f"was busy for more than {self._timeout} seconds")

    def _lose(self, worker: _Worker, how: str = "") -> None:
        """A process is lost over a seed: another one tries the rest."""
        place = worker.tried()
        [seed] = [seed for at, seed in worker.given if at == place]
        # What it has found before that seed it has not told.
        self._again += [entry for entry in worker.given if entry[0] != place]
        if not how:
            worker.process.join(_LAST_WORDS)
            how = _how_it_ended(worker.process.exitcode)
        worker.last_words.seek(0)
        error = _errors.ProcessFailed(seed, how, worker.last_words.read().strip())
        self._failures.append((place, seed, error))
        self._bar.done(1, 1)
        self._dismiss(worker)
        self._employ()

    def _dismiss(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.end()


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return "closed its pipe"
    if code >= 0:
        return f"exited with {code}"
    known = {number.value: number.name for number in signal.Signals}
    return f"died of {known.get(-code, f'signal {-code}')}"


# --- how far it is --------------------------------------------------------------------


class _Bar:
    """A line on a terminal."""

    _width = 30

    def __init__(self, total: int | None, wanted: bool | None) -> None:
        stream = sys.stderr
        if wanted is None:
            wanted = stream is not None and stream.isatty()
        self._stream = stream if wanted else None
        self._total = total
        self._count = self._failing = 0
        self._drawn = 0.0
        self._began = time.monotonic()

    def done(self, count: int, failing: int) -> None:
        self._count += count
        self._failing += failing
        self.draw()

    def draw(self, last: bool = False) -> None:
        now = time.monotonic()
        if self._stream is None or (now - self._drawn < _TICK and not last):
            return
        self._drawn = now
        text = f"{self._count} seeds"
        if self._total:
            filled = self._width * self._count // self._total
            bar = "#" * filled + "." * (self._width - filled)
            text = f"[{bar}] {self._count}/{self._total} seeds"
        rate = self._count / max(now - self._began, 1e-9)
        text += f", {self._failing} fail, {rate:.0f} a second"
        self._stream.write(f"\r{text}\x1b[K" + "\n" * last)
        self._stream.flush()

    def close(self) -> None:
        self.draw(last=True)
