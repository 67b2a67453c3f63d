"""Start workers, gather their outcomes and compare these with what must pass.

A *run* is one test module under one variant, that is one set of substitutions.  The
judgement of a run is strict in both directions:

* A test that does not pass counts as a failure unless ``known.py`` lists it or the
  stdlib's own loop does not pass it either in this environment, which is found out by
  running exactly the tests in question on the unmodified asyncio.  A test that is
  skipped with aioloop only counts as one that does not pass, and one that hangs is
  excused only if it hangs there too.
* A listed test that passes, crashes the interpreter, or does not exist is an error.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import pkgutil
import signal
import subprocess
import sys
import tempfile
import time

from aioloop._layouts import OFF

from . import known

# In the hard build calls move a few bytes and refuse now and then.  So they do on the
# stdlib's loop with which it is compared, in several phases of the same pattern: a test
# that counts bytes does not meet the same piece on both loops.
# Above tests/shim it is the same.
HARD = os.environ.get("AIOLOOP_FLAVOUR") in ("hard", "shim")
FAULT_PHASES = (0, 4, 8, 11) if HARD else (None,)

WORKER = pathlib.Path(__file__).with_name("worker.py")

# Seconds that one test may take, one that is expected to fail, and a run.  On an idle
# machine the slowest test takes 3 seconds and the slowest run 20.
TEST_LIMIT = 40
LISTED_TEST_LIMIT = 3
RUN_LIMIT = 600

# A module is given up when this many of its tests crashed or hung.
MAX_BROKEN_TESTS = 25

# Titles of failures that are never excused because the stdlib's loop has them too: they
# mean that tests did not run.
GIVEN_UP = "given up"
BETWEEN_TESTS = "between two tests"
INTERPRETER_EXIT = "exit of the interpreter"
OUR_TITLES = (GIVEN_UP, BETWEEN_TESTS, INTERPRETER_EXIT)

# How much of a test's own output is kept for the report.
OUTPUT_LIMIT = 6000


@dataclasses.dataclass(frozen=True)
class Variant:
    """One set of substitutions, and the modules for which it makes a difference."""

    name: str
    parts: tuple
    modules: tuple = ()
    debug: bool = False
    accelerate: bool = False
    full_only: bool = True

    def includes(self, module):
        return not self.modules or module in self.modules

    def parts_for(self, module):
        return self.parts if module in CLASS_MODULES else ()


# The modules whose tests are parametrised by asyncio's C future and task classes.  In
# others these names mean the classes that asyncio's own C code makes.
FUTURE_MODULES = ("test_futures", "test_futures2")
TASK_MODULES = ("test_tasks", "test_eager_task_factory", "test_free_threading")
CLASS_MODULES = FUTURE_MODULES + TASK_MODULES + ("test_events",)

# Those of what aioloop.accelerate() replaces, and of what asyncio makes of that.
PRIMITIVE_MODULES = (
    "test_locks",
    "test_queues",
    "test_taskgroups",
    "test_timeouts",
    "test_waitfor",
)

VARIANTS = {
    variant.name: variant
    for variant in (
        # Our loop, and our classes wherever a test takes asyncio's C classes.
        Variant("own", ("future", "task"), full_only=False),
        # Our classes on our loop instead of the tests' BaseEventLoop with a fake clock.
        Variant(
            "testloop",
            ("future", "task", "test_loop"),
            FUTURE_MODULES + TASK_MODULES,
            full_only=False,
        ),
        # Our tasks await asyncio's C futures.
        Variant("task", ("task",), TASK_MODULES),
        # asyncio's C tasks await our futures.
        Variant("future", ("future",), CLASS_MODULES),
        Variant("debug", ("future", "task"), debug=True),
        # asyncio's primitives in C.
        Variant(
            "accelerated",
            ("future", "task"),
            PRIMITIVE_MODULES,
            accelerate=True,
            full_only=False,
        ),
        Variant("accelerated_tasks", ("future", "task"), TASK_MODULES, accelerate=True),
    )
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One test module under one variant."""

    module: str
    variant: Variant
    loop: str = "aioloop"

    @property
    def name(self):
        return f"{self.module}[{self.variant.name}]"


@dataclasses.dataclass
class Outcome:
    """What became of one test: pass, skip, fail, crash, hang or lost."""

    kind: str
    detail: str = ""
    output: str = ""
    seconds: float = 0.0

    def text(self):
        parts = [self.detail.rstrip()]
        if self.output.strip():
            parts.append("---- output of the test ----\n" + self.output.strip())
        return "\n".join(part for part in parts if part)


@dataclasses.dataclass
class Results:
    """The outcomes of one run on one loop, by short test id."""

    outcomes: dict = dataclasses.field(default_factory=dict)
    # Failures that belong to no test: fixtures, import, exit of the interpreter.
    other: list = dataclasses.field(default_factory=list)
    skipped_because: str = ""


@dataclasses.dataclass
class Judgement:
    """The comparison of a run's results with what must pass."""

    run: Run
    results: Results
    # Pairs of a title and a text.
    errors: list = dataclasses.field(default_factory=list)
    # Tests that do not pass on the stdlib's loop either.
    also_on_stdlib: list = dataclasses.field(default_factory=list)
    expected: list = dataclasses.field(default_factory=list)

    def count(self, kind):
        return sum(o.kind == kind for o in self.results.outcomes.values())

    def summary(self):
        seconds = sum(o.seconds for o in self.results.outcomes.values())
        parts = [f"{self.count('pass')} passed", f"{self.count('skip')} skipped"]
        if self.expected:
            parts.append(f"{len(self.expected)} known")
        if self.also_on_stdlib:
            parts.append(f"{len(self.also_on_stdlib)} fail on asyncio too")
        if self.errors:
            parts.append(f"{len(self.errors)} ERRORS")
        return f"{self.run.name}: {', '.join(parts)} in {seconds:.1f} s"

    def report(self):
        lines = [self.summary()]
        for title, text in self.errors:
            lines += ["", "=" * 70, title, "-" * 70, text]
        for test in self.also_on_stdlib:
            lines.append(f"fails on asyncio too: {test}")
        return "\n".join(lines)


def upstream_modules():
    """Return the names of the interpreter's asyncio test modules, or an empty list."""
    spec = importlib.util.find_spec("test")
    if spec is None or not spec.submodule_search_locations:
        return []
    folders = [
        os.path.join(folder, "test_asyncio")
        for folder in spec.submodule_search_locations
    ]
    names = {info.name for info in pkgutil.iter_modules(folders)}
    return sorted(
        name
        for name in names
        if name.startswith("test_") and not name.startswith("test_windows_")
    )


def select_runs(modules=None, variants=None, full=False, loop="aioloop"):
    """Return the runs for the given module and variant names (all by default)."""
    available = upstream_modules()
    runs = []
    for module in modules or available:
        if module not in available:
            raise ValueError(f"this interpreter has no test module {module!r}")
        for variant in VARIANTS.values():
            if variants:
                wanted = variant.name in variants
            else:
                wanted = full or not variant.full_only
            if loop != "aioloop" and variant.name not in ("own", "debug"):
                # The other variants differ in our own classes only.
                wanted = False
            if wanted and variant.includes(module):
                runs.append(Run(module, variant, loop))
    return runs


# ---- running ----------------------------------------------------------------------


def worker_environment(loop, variant):
    """Return the environment of a worker, which imports the same loop as we do."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONASYNCIODEBUG", "PYTHONWARNINGS")
    }
    if loop != "stdlib":
        spec = importlib.util.find_spec(loop)
        if spec is None:
            raise ModuleNotFoundError(f"the package {loop!r} is not installed")
        origin = pathlib.Path(spec.submodule_search_locations[0]).resolve().parent
        environment["PYTHONPATH"] = str(origin)
    if variant.debug:
        environment["PYTHONASYNCIODEBUG"] = "1"
    return environment


def describe_exit(code):
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit status {code}"


def tail(text):
    if len(text) <= OUTPUT_LIMIT:
        return text
    return "[...]\n" + text[-OUTPUT_LIMIT:]


class Gathering:
    """The run of one module, in as many workers as its crashes and hangs need."""

    def __init__(self, run, loop, only, entries=(), faults=None):
        self.run = run
        self.loop = loop
        self.only = only
        # The entries of the known list, whose tests may well hang.
        self.entries = entries
        # The phase of the injected faults, or None.
        self.faults = faults
        self.results = Results()
        self.collected = []
        self.broken = 0
        self.deadline = time.monotonic() + RUN_LIMIT

    def gather(self):
        while self.one_worker():
            if self.broken >= MAX_BROKEN_TESTS or time.monotonic() > self.deadline:
                self.results.other.append(
                    (GIVEN_UP, f"{self.broken} tests crashed or hung")
                )
                break
        for test in self.collected:
            if self.only is None or test in self.only:
                self.results.outcomes.setdefault(
                    test, Outcome("lost", "The test did not run.")
                )
        return self.results

    def one_worker(self):
        """Run a worker to its end; return True if another one has to go on."""
        with tempfile.TemporaryDirectory(prefix="aioloop-upstream-") as folder:
            path = pathlib.Path(folder, "results")
            path.touch()
            job = {
                "module": self.run.module,
                "loop": self.loop,
                "faults": self.faults,
                "parts": self.run.variant.parts_for(self.run.module),
                "accelerate": self.run.variant.accelerate,
                "only": None if self.only is None else sorted(self.only),
                "done": sorted(self.results.outcomes),
                "limit": TEST_LIMIT,
                "limits": {entry.test: LISTED_TEST_LIMIT for entry in self.entries},
                "results": str(path),
            }
            with open(pathlib.Path(folder, "output"), "w+b") as output:
                code = self.start_and_wait(job, folder, output)
                output.seek(0)
                text = output.read()
            lines = path.read_text(encoding="utf-8").splitlines()
            return self.digest([json.loads(line) for line in lines], text, code)

    def start_and_wait(self, job, folder, output):
        process = subprocess.Popen(
            [sys.executable, str(WORKER), json.dumps(job)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            env=worker_environment(self.loop, self.run.variant),
            start_new_session=True,
        )
        try:
            return process.wait(max(1, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return None
        finally:
            # The session is the worker's own: nothing that a test started survives.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()

    def digest(self, records, output, code):
        started = None
        position = 0
        ended = False
        progress = False

        def output_between(start, stop=None):
            return tail(output[start:stop].decode("utf-8", "replace"))

        for record in records:
            event = record["event"]
            if event == "collected":
                self.collected = record["ids"]
            elif event == "start":
                started = record["id"]
                position = record["output"]
            elif event == "stop":
                progress = True
                started = None
                self.results.outcomes[record["id"]] = Outcome(
                    record["outcome"],
                    record["detail"],
                    output_between(position, record["output"])
                    if record["outcome"] == "fail"
                    else "",
                    record["seconds"],
                )
                position = record["output"]
            elif event == "skip":
                progress = True
                self.results.outcomes[record["id"]] = Outcome("skip", record["detail"])
            elif event == "fixture":
                self.results.other.append((record["id"], record["detail"]))
            elif event == "fixture_skip":
                # A class whose set-up skips: its tests count as skipped.
                cls = record["id"].partition("(")[2].rstrip(")")
                cls = cls.removeprefix("test.test_asyncio.") + "."
                for test in self.collected:
                    if test.startswith(cls):
                        self.results.outcomes[test] = Outcome("skip", record["detail"])
            elif event == "module_skip":
                self.results.skipped_because = record["detail"]
                ended = True
            elif event == "broken":
                self.results.other.append(("import", record["detail"]))
                ended = True
            elif event == "end":
                ended = True

        how = "stopped at its limit" if code is None else describe_exit(code)
        if ended:
            if code != 0:
                text = f"The worker ran all its tests, then: {how}."
                self.results.other.append(
                    (INTERPRETER_EXIT, f"{text}\n{output_between(position)}")
                )
            return False
        if started is None:
            self.results.other.append(
                (BETWEEN_TESTS, f"{how}\n{output_between(position)}")
            )
            return progress
        text = output_between(position)
        if code is None or "Timeout (" in text:
            outcome = Outcome("hang", "The test did not end within its limit.", text)
        else:
            outcome = Outcome("crash", f"The interpreter ended: {how}.", text)
        self.results.outcomes[started] = outcome
        self.broken += 1
        return True


# ---- judging ----------------------------------------------------------------------


def judge(run, match=None):
    """Run *run*, compare the outcomes and return the Judgement.

    With *match*, a function of the short test id, only tests that it accepts run, and
    entries of the known list that match no test are no error.
    """
    only = None
    if match is not None:
        only = {test for test in collect_ids(run) if match(test)}
    entries = []
    if run.loop == "aioloop":
        entries = known.entries_for(
            run.module, run.variant.name, sys.version_info[:2], HARD, OFF
        )
    results = Gathering(run, run.loop, only, entries).gather()
    judgement = Judgement(run, results)
    in_question = set()
    for test, outcome in results.outcomes.items():
        listed = [entry for entry in entries if entry.matches(test)]
        if listed:
            judge_listed(judgement, test, outcome, listed[0])
        elif outcome.kind != "pass":
            in_question.add(test)
    if match is None and not results.skipped_because:
        for entry in entries:
            if not any(entry.matches(test) for test in results.outcomes):
                judgement.errors.append(
                    (f"LISTED BUT ABSENT {entry.test}", f"reason was: {entry.reason}")
                )
    judge_unlisted(judgement, in_question)
    return judgement


def judge_listed(judgement, test, outcome, entry):
    reason = f"It is listed because: {entry.reason}"
    if outcome.kind == "pass" and entry.sometimes:
        return
    if outcome.kind == "pass":
        judgement.errors.append((f"LISTED BUT PASSES {test}", reason))
    elif outcome.kind == "crash":
        judgement.errors.append((f"CRASH {test}", f"{reason}\n{outcome.text()}"))
    else:
        judgement.expected.append(test)


def run_on_stdlib(run, tests):
    """Run *tests* on the stdlib's loop, in the hard build until they fail there."""
    baseline = Results()
    for phase in FAULT_PHASES:
        results = Gathering(run, "stdlib", tests, faults=phase).gather()
        baseline.outcomes.update(results.outcomes)
        baseline.other += results.other
        tests = {test for test in tests if results.outcomes[test].kind == "pass"}
        if not tests:
            break
    return baseline


def judge_unlisted(judgement, in_question):
    run, results = judgement.run, judgement.results
    if run.loop == "stdlib":
        baseline = Results()
    elif in_question:
        baseline = run_on_stdlib(run, in_question)
    elif results.other:
        baseline = Gathering(run, "stdlib", None, faults=FAULT_PHASES[0]).gather()
    else:
        return
    lost = []
    for test in sorted(in_question):
        outcome = results.outcomes[test]
        if run.loop == "stdlib":
            stdlib_kind = "skip" if outcome.kind == "skip" else "pass"
        elif test in baseline.outcomes:
            stdlib_kind = baseline.outcomes[test].kind
        else:
            stdlib_kind = "lost"
        if outcome.kind == "skip" and stdlib_kind == "skip":
            continue
        excuses = ("hang",) if outcome.kind == "hang" else ("fail", "hang")
        if outcome.kind in ("fail", "hang", "skip") and stdlib_kind in excuses:
            judgement.also_on_stdlib.append(test)
            continue
        if outcome.kind == "lost":
            lost.append(test)
            continue
        title = f"{outcome.kind.upper()} {test}"
        if stdlib_kind != "pass":
            title += f" (on the stdlib's loop: {stdlib_kind})"
        elif outcome.kind == "skip":
            title += " (it is not skipped on the stdlib's loop)"
        judgement.errors.append((title, outcome.text()))
    if lost:
        judgement.errors.append((f"LOST {len(lost)} tests", "\n".join(lost)))
    excused = {title for title, text in baseline.other if title not in OUR_TITLES}
    for title, text in results.other:
        if title in excused:
            judgement.also_on_stdlib.append(title)
        else:
            judgement.errors.append((f"OUTSIDE OF TESTS {title}", text))


@functools.lru_cache
def collect_ids(run):
    """Return the short ids of all tests of a run."""
    gathering = Gathering(run, run.loop, frozenset())
    gathering.gather()
    return tuple(gathering.collected)


@contextlib.contextmanager
def judging(runs, match=None, workers=2):
    """Start all *runs*, and give a dictionary of the futures of their Judgements."""
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    try:
        yield {run: pool.submit(judge, run, match) for run in runs}
    finally:
        pool.shutdown(cancel_futures=True)
