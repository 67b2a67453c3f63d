"""asyncio's own tests in virtual time, and in orders that a seed draws.

`python -m tests.upstream.seeds` runs the modules below, each in a process of its own:

- on asyncio's loop, on aioloop, and on aioloop in virtual time, for the wall times;
- on aioloop in virtual time with the seeded order, once for each of 100 seeds.

What fails in some order and is not in ``orders.py``, where each test has its reason, is
an error; so is a listed one that no seed fails. `--asyncio` is the cross-check: a loop
of asyncio's own, in Python, that exchanges what the seeded order may exchange. A test
that fails there too promises first in, first out, whatever the loop.

This file is also the process that runs the tests: see main_of_worker().
"""

import argparse
import asyncio
import collections
import faulthandler
import fnmatch
import functools
import gc
import importlib
import json
import logging
import random
import subprocess
import sys
import tempfile
import time
import traceback
import unittest
import weakref

if __name__ == "__main__" and sys.argv[1:2] == ["--job"]:
    import worker  # of the same folder: a worker imports nothing of its package
else:
    from . import known, orders, runner, worker

MODULES = ("test_locks", "test_queues", "test_taskgroups", "test_timeouts")
MODULES += ("test_tasks",)
SEEDS = 100
MOST_STEPS = 100_000  # of one loop; the longest test takes a thousand
PATIENCE = 0.5  # real seconds for other threads, on asyncio's own loop
LIMIT = 3000  # seconds for one module


# ---- the process that runs tests ----------------------------------------------------


class ExchangedReady(collections.deque):
    """A `_ready` of asyncio's loop whose batches come in an order drawn by lot."""

    def __init__(self, seed):
        super().__init__()
        self.random = random.Random(seed)
        self.left = 0

    def popleft(self):
        # The loop has asked for the length, and takes so many.
        if self.left == 0:
            self.left = len(self)
            self.exchange()
        self.left -= 1
        return super().popleft()

    def clear(self):
        self.left = 0
        super().clear()

    def exchange(self):
        lanes = collections.defaultdict(collections.deque)
        for handle in self:
            lanes[lane(handle)].append(handle)
        places = [key for key, slots in lanes.items() for _ in slots]
        self.random.shuffle(places)
        super().clear()
        self.extend(lanes[key].popleft() for key in places)


def lane(handle):
    """Return what tells the lane of src/core/order.h apart."""
    owner = getattr(handle._callback, "__self__", None)
    args = handle._args or ()
    if len(args) == 1 and asyncio.isfuture(args[0]):
        return id(args[0])
    if isinstance(owner, asyncio.Task):
        return id(owner)
    return None


def exchanging_loop(seeds):
    """Return a class of asyncio's loop, in other orders if seeds has a current one."""

    class Exchanging(asyncio.SelectorEventLoop):
        def __init__(self, *args):
            super().__init__(*args)
            if seeds:
                self._ready = ExchangedReady(seeds[-1])

        def _run_once(self):
            if seeds and not (self._ready or self._scheduled or self._stopping):
                events = self._selector.select(PATIENCE)
                if not events:
                    raise RuntimeError("nothing can happen any more")
                self._process_events(events)
            super()._run_once()

    return Exchanging


def take_orders(seeds, virtual):
    """Give each new loop of aioloop a clock, and the order of seeds[-1] if there is."""
    from aioloop import _core, _loop
    from aioloop.testing import Clock, _clock, _errors

    def prepare(loop):
        if virtual:
            _clock.attach(loop, Clock())
        if seeds:
            exceeded = functools.partial(
                _errors.too_many_steps, weakref.ref(loop), MOST_STEPS
            )
            _core._set_order(loop, 1, seeds[-1], 2, 100, MOST_STEPS, exceeded)

    _loop.on_new_loop.append(prepare)


class Result(unittest.TestResult):
    """The tests that do not pass, each with what it says, and how long each takes."""

    def __init__(self):
        super().__init__()
        self.bad = {}
        self.seconds = {}
        self.under_way = None

    def startTest(self, test):
        super().startTest(test)
        self.under_way = worker.short_id(test)
        self.began = time.perf_counter()

    def stopTest(self, test):
        self.seconds[worker.short_id(test)] = time.perf_counter() - self.began
        self.under_way = None
        super().stopTest(test)

    def problem(self, text):
        self.bad.setdefault(self.under_way or "between tests", text)

    def addError(self, test, err):
        super().addError(test, err)
        self.bad.setdefault(
            worker.short_id(test), "".join(traceback.format_exception(*err))
        )

    addFailure = addError

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.addError(test, err)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.bad.setdefault(worker.short_id(test), f"skipped: {reason}")

    def addUnexpectedSuccess(self, test):
        self.bad.setdefault(worker.short_id(test), "passes unexpectedly")


def run_once(tests):
    result = Result()
    sys.unraisablehook = lambda args: result.problem(f"Unraisable: {args.exc_value!r}")
    began = time.perf_counter()
    for test in tests:
        suite = unittest.TestSuite([type(test)(test._testMethodName)])
        try:
            suite.run(result)
        except Exception as error:  # of the loop, when unittest cleans up
            result.bad.setdefault(
                worker.short_id(test), "".join(traceback.format_exception(error))
            )
    result.total = time.perf_counter() - began
    return result


def main_of_worker(job):
    """Run a module's tests: once, and then once with each seed.

    ``job``: module, loop ("aioloop" or "stdlib"), virtual, seeds, skip (patterns of
    tests to leave out). Prints one line of JSON.
    """
    faulthandler.enable()
    faulthandler.dump_traceback_later(job["limit"], exit=True)
    seeds = []
    on_aioloop = job["loop"] == "aioloop"
    if on_aioloop:
        take_orders(seeds, job["virtual"])
    else:
        worker.import_asyncio_wholly()
        worker.substitute_loop(exchanging_loop(seeds))
    parts = ("future", "task", "test_loop") if job["module"] == "test_tasks" else ()
    worker.substitute({"module": job["module"], "loop": job["loop"], "parts": parts})
    importlib.import_module("test.support").verbose = 0
    logging.getLogger("asyncio").addHandler(logging.NullHandler())
    tests = [
        test
        for test in worker.collect(job)
        if not any(fnmatch.fnmatchcase(worker.short_id(test), p) for p in job["skip"])
    ]
    gc.collect()
    gc.freeze()  # Many tests collect garbage: all but theirs is left out.
    first = run_once(tests)
    tests = [test for test in tests if worker.short_id(test) not in first.bad]
    failures = {}
    for seed in job["seeds"]:
        seeds[:] = [seed]
        for name, text in run_once(tests).bad.items():
            failures.setdefault(name, []).append([seed, text[-2000:]])
        gc.collect()
    print(
        json.dumps(
            {
                "count": len(tests),
                "names": [worker.short_id(test) for test in tests],
                "bad": first.bad,
                "seconds": first.total,
                "slow": sorted(first.seconds.items(), key=lambda item: -item[1])[:5],
                "failures": {
                    name: [len(found), *found[0]] for name, found in failures.items()
                },
            }
        )
    )


# ---- the process that looks at what they say ----------------------------------------


def run_module(module, *, loop="aioloop", virtual=True, seeds=(), skip=(), limit=LIMIT):
    """Run a module's tests in a process of their own; return what it prints."""
    job = {"module": module, "loop": loop, "virtual": virtual, "limit": limit}
    job.update(seeds=list(seeds), skip=list(skip))
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, __file__, "--job", json.dumps(job)],
            cwd=folder,
            env=runner.worker_environment("aioloop", runner.Variant("testloop", ())),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    if done.returncode != 0:
        raise RuntimeError(f"{module} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def listed(name):
    """Return the pattern of orders.py that a test's id matches, or None."""
    for pattern in orders.NAMES:
        if fnmatch.fnmatchcase(name, pattern):
            return pattern
    return None


def unexplained(module, found):
    """Return what does not pass in asyncio's order, though it should, with its text."""
    entries = known.entries_for(module, "testloop", sys.version_info[:2], runner.HARD)
    bad = {
        name: text
        for name, text in found["bad"].items()
        if not text.startswith("skipped: ")
        and not any(entry.matches(name) for entry in entries)
    }
    if bad:
        theirs = run_module(module, loop="stdlib")["bad"]
        bad = {name: text for name, text in bad.items() if name not in theirs}
    return bad


def check(module, seeds):
    """Run a module with all the seeds; return what it says, and a list of errors."""
    found = run_module(module, seeds=seeds)
    errors = [
        f"{name} fails in virtual time:\n{text}"
        for name, text in unexplained(module, found).items()
    ]
    for name, (count, seed, text) in found["failures"].items():
        if listed(name) is None:
            errors.append(f"{name} fails with {count} seeds; with {seed}:\n{text}")
    failing = {listed(name) for name in found["failures"]}
    for pattern in orders.NAMES:
        is_here = any(fnmatch.fnmatchcase(name, pattern) for name in found["names"])
        if is_here and pattern not in failing:
            errors.append(f"{pattern} is listed, and no seed fails")
    return found, errors


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tests.upstream.seeds", description=__doc__
    )
    parser.add_argument(
        "modules", nargs="*", default=MODULES, help="instead of " + " ".join(MODULES)
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N")
    parser.add_argument(
        "--asyncio",
        action="store_true",
        help="run what fails on a loop of asyncio's own in other orders, too",
    )
    options = parser.parse_args()
    seeds = range(options.seeds)
    bad = 0
    for module in options.modules:
        seconds = [
            run_module(module, loop="stdlib")["seconds"],
            run_module(module, virtual=False)["seconds"],
        ]
        found, errors = check(module, seeds)
        print(
            f"{module}: {found['count']} tests in {seconds[0]:.2f} s on asyncio's loop,"
            f" {seconds[1]:.2f} s on aioloop, {found['seconds']:.2f} s in virtual time;"
            f" {len(found['failures'])} fail in some of {len(seeds)} orders"
        )
        if options.asyncio and found["failures"]:
            theirs = run_module(module, loop="stdlib", seeds=seeds)["failures"]
            only_ours = sorted(found["failures"].keys() - theirs.keys())
            errors += [f"{name} fails on aioloop only" for name in only_ours]
        for error in errors:
            print(f"ERROR {error}")
        bad += len(errors)
    return 1 if bad else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        main_of_worker(json.loads(sys.argv[2]))
    else:
        sys.exit(main())
