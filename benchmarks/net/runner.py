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

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile

from .. import loops, table
from ..process import Worker, WorkerError
from ..runner import (
    Results,
    argument_parser,
    complete,
    end_progress,
    publish,
    rotated,
    select_rows,
    show_progress,
)
from . import load, memory, report, rows, targets

# What a row's server needs beside the loop.
NEEDED_MODULES = {
    "uvicorn": ("uvicorn", "httptools"),
    "https uvicorn": ("uvicorn", "httptools"),
    "aiohttp": ("aiohttp",),
}


# How long a server takes to be gone once it has closed its sockets.
DEATH_SECONDS = 1


class NetResults(Results):
    """Samples in CPU seconds per request, and beside them all that was counted."""

    def __init__(self, row_names, loop_names):
        super().__init__(row_names, loop_names)
        self.details = {row: {loop: [] for loop in loop_names} for row in row_names}
        self.memory = {}

    def add(self, row_name, loop_name, sample):
        self.details[row_name][loop_name].append(sample)
        self.samples[row_name][loop_name].append(sample["cpu"] / sample["requests"])

    def row_as_json(self, row_name):
        return {
            "samples": self.details[row_name],
            "cpu_seconds_per_request": self.medians(row_name),
            "shares_expected": targets.shares(row_name),
        }

    def as_json(self):
        return {**super().as_json(), "memory": self.memory}


def unavailable(row):
    """Return what a row needs and this machine lacks, or None."""
    if row.load in (rows.WRK, rows.WRK_TLS) and shutil.which("wrk") is None:
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
                for loop_name in rotated(names, round):
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
                if not worker.ends_within(DEATH_SECONDS):
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
    parser = argument_parser("python -m benchmarks.net", __doc__)
    parser.add_argument(
        "--picture", metavar="FILE", help="draw the essential rows: .svg, .png"
    )
    options = parser.parse_args(arguments)
    options.memory = not options.rows or "memory" in options.rows
    usual = [name for name, row in rows.ROWS.items() if row.essential]
    names = usual if options.quick and not options.rows else rows.ROWS
    options.row_names = select_rows(options.rows, names)
    if not options.row_names and not options.memory:
        parser.error("no row matches")
    if options.list:
        return options
    complete(parser, options, (5, 1.0), (3, 0.25), loops.NETWORK_NAMES)
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
    end_progress()
    publish(options, results, report)
    if options.picture:
        report.draw(results, options.picture)
    missed = any(table.misses(results, name, targets) for name in row_names)
    missed |= bool(memory.misses(results.memory))
    return 1 if options.check and missed else 0
