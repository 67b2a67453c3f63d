"""How much CPU time does a request cost the server, and how many are there a second?

For each row, for each round, for each loop in turn: a new server process, a warm-up,
one sample. The load comes from a process of its own, from `load.c` or from wrk. CPU
time is the server process's, of all its threads, user and system, by its CPU clock.
Where there are two processors or more, the server has one for itself. `floor` is a
server in C that does nothing but the system calls. A row that a loop crashes or hangs
in, or answers with wrong bytes, is shown as `-` with a note. The figure of a row is
the median over the rounds. "memory kept" rows run with glibc's malloc told to keep
freed memory (MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_), all others with malloc
as found.
"""

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile

from .. import loops
from ..process import Worker, WorkerError
from ..runner import Results, select_rows, show_progress
from . import load, memory, report, rows, targets

# What a row's server needs beside the loop.
NEEDED_MODULES = {"uvicorn": ("uvicorn", "httptools"), "aiohttp": ("aiohttp",)}


class NetResults(Results):
    """Samples in CPU seconds per request, and beside them all that was counted."""

    def __init__(self, row_names, loop_names):
        super().__init__(row_names, loop_names)
        self.details = {row: {loop: [] for loop in loop_names} for row in row_names}
        self.memory = {}

    def add(self, row_name, loop_name, sample):
        self.details[row_name][loop_name].append(sample)
        self.samples[row_name][loop_name].append(sample["cpu"] / sample["requests"])

    def as_json(self):
        return {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "processors": os.cpu_count(),
            "versions": self.versions,
            "memory": self.memory,
            "rows": {
                row: {
                    "samples": self.details[row],
                    "cpu_seconds_per_request": self.medians(row),
                    "shares_expected": targets.shares(row),
                    "failures": {
                        loop: text
                        for (failed, loop), text in self.failures.items()
                        if failed == row
                    },
                }
                for row in self.row_names
            },
        }


def unavailable(row):
    """Return what a row needs and this machine lacks, or None."""
    if row.load == rows.WRK and shutil.which("wrk") is None:
        return "wrk"
    for module in NEEDED_MODULES.get(row.server, ()):
        if importlib.util.find_spec(module) is None:
            return module
    return None


def place_on_processors():
    """Move this process, and so the load, off the server's processor; return that.

    Returns None, and changes nothing, where there is only one to run on.
    """
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        return None
    os.sched_setaffinity(0, usable[:-1])
    return usable[-1]


class Session:
    """Takes the samples."""

    def __init__(self, results, seconds, folder):
        self.results = results
        self.seconds = seconds
        self.folder = folder
        self.cpu = place_on_processors()

    def run(self, rounds, progress):
        names = self.results.loop_names
        for i, row_name in enumerate(self.results.row_names):
            row = rows.ROWS[row_name]
            for round in range(rounds):
                # Whoever comes first in one round comes later in the next.
                shift = round % len(names)
                for loop_name in names[shift:] + names[:shift]:
                    if loop_name == targets.FLOOR and row.floor is None:
                        continue
                    progress(f"{i + 1}/{len(self.results.row_names)} {row_name}")
                    self.take(row, loop_name)

    def take(self, row, loop_name):
        """Take one sample; a loop that failed in a row does not get another chance."""
        key = (row.name, loop_name)
        if key in self.results.failures:
            return
        try:
            sample = self.sample(row, loop_name)
        except (WorkerError, load.LoadError) as error:
            self.results.failures[key] = str(error)
            return
        self.results.add(row.name, loop_name, sample)

    def sample(self, row, loop_name):
        path = None
        if row.transport == rows.UNIX:
            path = os.path.join(self.folder, "server")
            if os.path.exists(path):
                os.unlink(path)
        command = self.server_command(row, loop_name, path)
        worker = Worker(loop_name, command, row.environment)
        try:
            self.results.versions[loop_name] = worker.version
            address = worker.greeting["address"]
            try:
                return load.sample(row, address, worker.process.pid, self.seconds)
            except load.LoadError as error:
                if worker.alive:
                    raise
                raise WorkerError(f"{error}; {worker.cause_of_death()}") from None
        finally:
            worker.close()

    def server_command(self, row, loop_name, path):
        """Return the command of a server process."""
        if loop_name == targets.FLOOR:
            command = [load.program("floor"), row.floor] + ([path] if path else [])
            # taskset rather than an argument: the floor has no code for it to pay.
            if self.cpu is not None and shutil.which("taskset"):
                command = ["taskset", "-c", str(self.cpu), *command]
            return command
        command = [sys.executable, "-m", "benchmarks.net.server"]
        command += [loop_name, row.server, str(row.size)]
        if path:
            command += ["--path", path]
        if self.cpu is not None:
            command += ["--cpu", str(self.cpu)]
        return command


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.net", description=__doc__
    )
    parser.add_argument(
        "--rows",
        action="append",
        metavar="PATTERN",
        help="only rows whose name contains this or matches this glob; repeatable",
    )
    parser.add_argument("--loops", metavar="A,B", help="only these loops")
    parser.add_argument("--rounds", type=int, metavar="N", help="samples per row")
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="length of a sample; wrk's: 1 or more",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="3 short rounds of the essential rows: trust 10 percent",
    )
    parser.add_argument("--json", metavar="FILE", help="write all samples")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables")
    parser.add_argument(
        "--picture", metavar="FILE", help="draw the essential rows: .svg, .png"
    )
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 if a target is missed"
    )
    parser.add_argument("--list", action="store_true", help="print the rows and end")
    options = parser.parse_args(arguments)
    options.memory = not options.rows or "memory" in options.rows
    usual = [name for name, row in rows.ROWS.items() if row.essential]
    names = usual if options.quick and not options.rows else rows.ROWS
    options.row_names = select_rows(options.rows, names)
    if options.list:
        return options
    if options.rounds is None:
        options.rounds = 3 if options.quick else 5
    if options.seconds is None:
        options.seconds = 0.25 if options.quick else 1.0
    available = loops.installed(loops.NETWORK_NAMES)
    options.loops = options.loops.split(",") if options.loops else available
    unknown = [name for name in options.loops if name not in available]
    if unknown:
        parser.error(f"not installed here: {', '.join(unknown)}")
    if not options.row_names and not options.memory:
        parser.error("no row matches")
    if options.check and loops.OURS not in options.loops:
        parser.error(f"--check is about {loops.OURS}, which is not among the loops")
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds and --seconds are to be positive")
    if options.picture and not report.can_draw():
        print("no picture: matplotlib is not installed here", file=sys.stderr)
        options.picture = None
    return options


def without_unavailable(row_names):
    """Return the rows that can be run here; name the others on standard error."""
    kept = []
    for name in row_names:
        lacking = unavailable(rows.ROWS[name])
        if lacking is None:
            kept.append(name)
        else:
            print(f"{name!r} is left out: no {lacking} here", file=sys.stderr)
    return kept


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def main(arguments=None):
    if not sys.platform.startswith("linux"):
        raise SystemExit("these benchmarks measure by means that only Linux has")
    options = parse_arguments(arguments)
    if options.list:
        print("\n".join(options.row_names))
        return 0
    for name in ("load", "floor"):
        try:
            load.program(name)
        except (OSError, subprocess.SubprocessError) as error:
            raise SystemExit(f"{name}.c cannot be compiled: {error}") from None
    row_names = without_unavailable(options.row_names)
    results = NetResults(row_names, [targets.FLOOR, *options.loops])
    with tempfile.TemporaryDirectory(prefix="aioloop-net-") as folder:
        session = Session(results, options.seconds, folder)
        session.run(options.rounds, show_progress)
    if options.memory:
        show_progress("memory")
        results.memory = memory.results(options.loops)
    show_progress("")
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(report.text(results, options.rounds))
    if options.json:
        write(options.json, json.dumps(results.as_json(), indent=1))
    if options.markdown:
        write(options.markdown, report.markdown(results, options.rounds))
    if options.picture:
        report.draw(results, options.picture)
    missed = any(report.misses(results, name) for name in row_names)
    missed |= bool(memory.misses(results.memory))
    return 1 if options.check and missed else 0
