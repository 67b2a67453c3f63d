"""Run one module of the interpreter's ``test.test_asyncio`` in this process.

The parent (``runner.py``) starts this file as a script with one JSON argument, a
``runner.Job``.  The worker substitutes the loop and the future and task classes in the
asyncio package, imports the test module, runs its tests with unittest and appends one
JSON line per event to a results file.  A file is used instead of a pipe so that a
child that a test forks off cannot hold the parent up, and lines are written by the
worker's own process only.

A test that exceeds its time limit ends the whole worker by ``faulthandler``, which
prints where every thread is.  The parent sees the end of the process while a test is
under way, records it, and starts another worker for the rest.

This file imports nothing of its package: it must see the same ``sys.path`` as any
script, and ``aioloop`` must be imported after the interpreter's asyncio only.
"""

import asyncio
import asyncio.base_events
import asyncio.events
import asyncio.futures
import asyncio.tasks
import asyncio.unix_events
import errno
import faulthandler
import importlib
import json
import os
import pkgutil
import socket
import sys
import threading
import time
import traceback
import unittest
import warnings

# The modules that use BaseEventLoop as if it were a whole loop, with a mock for its
# selector.  Other modules mean the class itself.
BASE_LOOP_MODULES = ("test_base_events", "test_pep492", "test_runners")

# The order of preference among classes that run the same tests on another selector.
SELECTOR_CLASS_PREFIXES = ("EPoll", "Kqueue", "Select", "Poll")


def load_loop_class(name):
    """Return the loop class to substitute, or None to leave asyncio alone."""
    if name == "stdlib":
        return None
    return importlib.import_module(name).Loop


def import_asyncio_wholly():
    """Import what derives from asyncio's classes before these are substituted.

    ``utils.TestLoop`` stays a subclass of the true ``BaseEventLoop``, because its tests
    drive a fake clock and a fake selector.
    """
    for info in pkgutil.iter_modules(asyncio.__path__, "asyncio."):
        if not info.name.endswith("__main__") and "windows" not in info.name:
            importlib.import_module(info.name)
    importlib.import_module("test.test_asyncio.utils")


def substitute_loop(loop_class):
    """Make every way asyncio has to make a loop give an instance of *loop_class*."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for name in ("_UnixDefaultEventLoopPolicy", "_DefaultEventLoopPolicy"):
            policy = getattr(asyncio.unix_events, name, None)
            if policy is not None:
                policy._loop_factory = loop_class
    asyncio.unix_events.SelectorEventLoop = loop_class
    asyncio.SelectorEventLoop = loop_class
    if hasattr(asyncio, "EventLoop"):
        asyncio.unix_events.EventLoop = loop_class
        asyncio.EventLoop = loop_class


def substitute_base_loop(loop_class):
    """Make the tests of ``BaseEventLoop`` tests of *loop_class*."""
    if issubclass(loop_class, asyncio.BaseEventLoop):
        asyncio.base_events.BaseEventLoop = loop_class
        asyncio.BaseEventLoop = loop_class


def substitute_test_loop(loop_class):
    """Put *loop_class* under ``utils.TestLoop``, the tests' loop with a fake clock.

    The test loop moves its clock in ``_run_once`` and sees timers in ``call_at``, which
    ``BaseEventLoop`` calls for ``run_forever`` and ``call_later``, but a C type does
    not.  The test loop's selector never waits, whereas the selector of
    *loop_class* would wait in real time for a timer that is far away on the fake clock:
    a callback that is ready in each iteration keeps it from waiting.
    """
    utils = importlib.import_module("test.test_asyncio.utils")

    class NeverWaits(loop_class):
        def _run_once(self):
            loop_class.call_soon(self, int)
            super()._run_once()

        def call_later(self, delay, callback, *args, context=None):
            when = self.time() + delay
            return self.call_at(when, callback, *args, context=context)

        def run_forever(self):
            self._run_forever_setup()
            try:
                while True:
                    self._run_once()
                    if self._stopping:
                        break
            finally:
                self._run_forever_cleanup()

    class TestLoop(utils.TestLoop, NeverWaits):
        def __init__(self, gen=None):
            # A loop that makes its wake-up channel in its constructor registers a
            # reader before utils.TestLoop has made the room for it.
            self.readers = {}
            self.writers = {}
            self.reset_counters()
            super().__init__(gen)

    utils.TestLoop = TestLoop


def substitute(job):
    """Apply the substitutions that *job* asks for, before any test module exists."""
    loop_class = load_loop_class(job["loop"])
    if loop_class is None:
        return
    package = sys.modules[job["loop"]]
    import_asyncio_wholly()
    substitute_loop(loop_class)
    if job["module"] in BASE_LOOP_MODULES:
        substitute_base_loop(loop_class)
    if "test_loop" in job["parts"]:
        substitute_test_loop(loop_class)
    if "future" in job["parts"] and hasattr(package, "Future"):
        asyncio.futures._CFuture = package.Future
    if "task" in job["parts"] and hasattr(package, "Task"):
        asyncio.tasks._CTask = package.Task
    if job.get("accelerate"):
        package.accelerate()


class Faults:
    """The faults that the hard build injects (src/io/sock.c), for the stdlib's loop.

    Non-blocking sockets and the pipes of asyncio move a few bytes with each call and
    refuse now and then.  What fails with them on the stdlib's own loop depends on how
    many bytes one call moves.  *phase* is where the pattern begins with each loop.
    """

    PATTERN = (1, 1, 1, 2, 1, 3, 1, 7, 1, 1, "half", 1, 100, 2, 1, "all", 1)

    def __init__(self, phase):
        self.phase = phase
        self.begin()

    def begin(self):
        self.calls = 0
        self.cuts = self.phase

    def refuse(self):
        self.calls += 1
        if self.calls % 13 == 0:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def cut(self, size):
        most = self.PATTERN[self.cuts % len(self.PATTERN)]
        self.cuts += 1
        if most == "all":
            return size
        return min((size + 1) // 2 if most == "half" else most, size)

    def inject(self):
        faults = self

        def replace(name, shorten):
            original = getattr(socket.socket, name)

            def method(sock, *args):
                if sock.gettimeout() == 0 and sock.type == socket.SOCK_STREAM:
                    faults.refuse()
                    args = shorten(*args)
                return original(sock, *args)

            setattr(socket.socket, name, method)

        def fewer_bytes(data, *rest):
            return memoryview(data).cast("B")[: faults.cut(len(data))], *rest

        replace("recv", lambda size, *rest: (faults.cut(size), *rest))
        replace("recv_into", fewer_bytes)
        replace("send", fewer_bytes)
        replace("sendmsg", lambda data, *rest: (fewer_bytes(b"".join(data)), *rest))
        replace("accept", lambda: ())

        class System:
            """The module os as asyncio.unix_events sees it."""

            def __getattr__(self, name):
                return getattr(os, name)

            def read(self, fd, size):
                faults.refuse()
                return os.read(fd, faults.cut(size))

            def write(self, fd, data):
                faults.refuse()
                return os.write(fd, *fewer_bytes(data))

            def sendfile(self, out, source, offset, size):
                faults.refuse()
                return os.sendfile(out, source, offset, faults.cut(size))

        asyncio.unix_events.os = System()
        initialise = asyncio.base_events.BaseEventLoop.__init__

        def initialise_loop(loop):
            faults.begin()
            initialise(loop)

        asyncio.base_events.BaseEventLoop.__init__ = initialise_loop


def flatten(suite):
    """Yield the test cases of a nested suite."""
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flatten(item)
        else:
            yield item


def short_id(test):
    """Return a test's id without the package that holds all the test modules."""
    return test.id().removeprefix("test.test_asyncio.")


def select_selector_classes(classes, loop_class):
    """Return the classes to run, of those that differ only in their selector.

    The stdlib's tests choose the selector in ``create_event_loop``.  Another loop has
    one selector, so that the first class in the order of preference runs with that
    loop and its fellows would only repeat the tests.
    """

    def preference(cls):
        for rank, prefix in enumerate(SELECTOR_CLASS_PREFIXES):
            if cls.__name__.startswith(prefix):
                return rank
        return len(SELECTOR_CLASS_PREFIXES)

    kept = set(classes)
    families = {}
    for cls in classes:
        if "create_event_loop" in cls.__dict__:
            families.setdefault(cls.__bases__, []).append(cls)
    for family in families.values():
        first, *others = sorted(family, key=preference)
        first.create_event_loop = lambda self: loop_class()
        kept.difference_update(others)
    return kept


def collect(job):
    """Import the module and return its tests, in unittest's order."""
    module = importlib.import_module("test.test_asyncio." + job["module"])
    tests = list(flatten(unittest.defaultTestLoader.loadTestsFromModule(module)))
    loop_class = load_loop_class(job["loop"])
    if loop_class is not None:
        kept = select_selector_classes({type(test) for test in tests}, loop_class)
        tests = [test for test in tests if type(test) in kept]
    return tests


class Recorder(unittest.TestResult):
    """Append what happens to each test to the results file."""

    def __init__(self, job, support):
        super().__init__()
        self.job = job
        self.support = support
        self.pid = os.getpid()
        self.file = open(job["results"], "a", encoding="utf-8")
        self.problems = []
        self.skipped_because = None
        self.under_way = None

    def record(self, **fields):
        if os.getpid() == self.pid:
            self.file.write(json.dumps(fields) + "\n")
            self.file.flush()

    def watch_ignored_exceptions(self):
        """Make an exception that nobody can catch a problem of the running test.

        The tests that provoke such exceptions install hooks of their own.
        """

        def unraisable(args):
            sys.__unraisablehook__(args)
            self.problem("unraisable", f"Unraisable exception: {args.exc_value!r}")

        def in_thread(args):
            threading.__excepthook__(args)
            self.problem("thread", f"Uncaught in a thread: {args.exc_value!r}")

        sys.unraisablehook = unraisable
        threading.excepthook = in_thread

    def output_position(self):
        sys.stdout.flush()
        sys.stderr.flush()
        return os.fstat(2).st_size

    def startTest(self, test):
        super().startTest(test)
        self.problems = []
        self.skipped_because = None
        self.under_way = short_id(test)
        self.support.environment_altered = False
        self.record(event="start", id=self.under_way, output=self.output_position())
        self.started = time.perf_counter()
        limit = self.job["limits"].get(self.under_way, self.job["limit"])
        faulthandler.dump_traceback_later(limit, exit=True)

    def stopTest(self, test):
        if os.getpid() != self.pid:
            # A test forked and its child came back here: the child's work is done.
            os._exit(70)
        if self.under_way is None:
            # A test that is skipped by a decorator does not start in 3.12.1.
            super().stopTest(test)
            return
        faulthandler.cancel_dump_traceback_later()
        if self.support.environment_altered:
            self.problems.append("The test left threads or child processes behind.")
        if self.problems:
            outcome = "fail"
        elif self.skipped_because is not None:
            outcome = "skip"
        else:
            outcome = "pass"
        self.record(
            event="stop",
            id=self.under_way,
            outcome=outcome,
            detail="\n".join(self.problems) or self.skipped_because or "",
            seconds=round(time.perf_counter() - self.started, 3),
            output=self.output_position(),
        )
        self.under_way = None
        super().stopTest(test)

    def problem(self, test, text):
        if self.under_way is not None:
            self.problems.append(text)
        else:
            # It is in a fixture of a class or of the module, outside any test.
            self.record(event="fixture", id=str(test), detail=text)

    def addError(self, test, err):
        super().addError(test, err)
        self.problem(test, self._exc_info_to_string(err, test))

    addFailure = addError

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.problem(test, f"{subtest}\n{self._exc_info_to_string(err, test)}")

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self.problem(test, "The test is marked as an expected failure and passes.")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        if self.under_way is not None:
            self.skipped_because = reason
        elif isinstance(test, unittest.TestCase):
            self.record(event="skip", id=short_id(test), detail=reason)
        else:
            self.record(event="fixture_skip", id=str(test), detail=reason)


def main():
    job = json.loads(sys.argv[1])
    faulthandler.enable()
    substitute(job)
    if job["faults"] is not None:
        Faults(job["faults"]).inject()
    support = importlib.import_module("test.support")
    support.verbose = 0
    recorder = Recorder(job, support)
    recorder.watch_ignored_exceptions()
    try:
        tests = collect(job)
    except unittest.SkipTest as exc:
        recorder.record(event="module_skip", detail=str(exc))
        return
    except Exception:
        recorder.record(event="broken", detail=traceback.format_exc())
        return
    recorder.record(event="collected", ids=[short_id(test) for test in tests])
    wanted = job["only"]
    done = set(job["done"])
    chosen = [
        test
        for test in tests
        if short_id(test) not in done and (wanted is None or short_id(test) in wanted)
    ]
    unittest.TestSuite(chosen).run(recorder)
    recorder.record(event="end")


if __name__ == "__main__":
    main()
