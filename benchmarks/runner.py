"""Runs rows on loops, interleaved over rounds, and reports one table.

For each round, for each row, for each loop: one sample. Each loop has its own
process, a new one in each round; a row that a loop crashes or hangs in is shown as
`-` with a note, and the loop goes on with the next row in a new process. The figure
of a row is the median over the rounds. Garbage collection stays on, as users have it.
"""

import argparse
import fnmatch
import json
import os
import platform
import statistics
import sys

from . import loops, rows, table, targets  # noqa: F401
from .process import Worker, WorkerError
from .row import CPU, ROWS

SAMPLE_LIMIT = 20


class Results:
    """Samples by row and loop, in seconds per operation, and what went wrong."""

    def __init__(self, row_names, loop_names):
        self.row_names = row_names
        self.loop_names = loop_names
        self.versions = {}
        self.samples = {row: {loop: [] for loop in loop_names} for row in row_names}
        self.failures = {}

    def medians(self, row_name):
        """Return the median of each loop that completed the row."""
        return {
            loop: statistics.median(samples)
            for loop, samples in self.samples[row_name].items()
            if samples and (row_name, loop) not in self.failures
        }

    def spreads(self, row_name):
        """Return the median deviation from each loop's median, as a share of it."""
        shares = {}
        for loop, median in self.medians(row_name).items():
            samples = self.samples[row_name][loop]
            shares[loop] = statistics.median(abs(s - median) for s in samples) / median
        return shares

    def row_as_json(self, row_name):
        """Return what is known of a row, but for its failures."""
        return {
            "clock": ROWS[row_name].clock,
            "seconds_per_operation": self.samples[row_name],
            "median": self.medians(row_name),
            "target": targets.target(row_name),
        }

    def as_json(self):
        """Return everything as a value that json can write."""
        found = {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "processors": os.cpu_count(),
            "versions": self.versions,
            "rows": {name: self.row_as_json(name) for name in self.row_names},
        }
        for name in self.row_names:
            found["rows"][name]["failures"] = {
                loop: text
                for (failed, loop), text in self.failures.items()
                if failed == name
            }
        return found


def rotated(names, number):
    """Return the order of a round: nobody is always the first."""
    shift = number % len(names)
    return names[shift:] + names[:shift]


class Session:
    """Takes the samples: keeps the workers, the operation counts and the results."""

    def __init__(self, results, seconds):
        self.results = results
        self.seconds = seconds
        self.operations = {}
        self.workers = {}
        self.broken = {}

    def run(self, rounds, progress):
        """Take `rounds` samples of every row on every loop."""
        names = self.results.loop_names
        for number in range(rounds):
            order = rotated(names, number)
            try:
                for row_name in self.results.row_names:
                    progress(f"round {number + 1} of {rounds}: {row_name}")
                    for loop_name in order:
                        self.take(row_name, loop_name)
            finally:
                self.close_workers()

    def take(self, row_name, loop_name):
        """Take one sample, or note why there is none."""
        key = (row_name, loop_name)
        failures = self.results.failures
        if key in failures:
            return
        try:
            reply = self.worker(loop_name).request(
                SAMPLE_LIMIT + self.seconds * 4,
                row=row_name,
                operations=self.operations.get(key),
                seconds=self.seconds,
            )
        except WorkerError as error:
            failures[key] = str(error)
            return
        self.operations[key] = reply["operations"]
        spent = reply["cpu" if ROWS[row_name].clock == CPU else "wall"]
        per_operation = spent / reply["operations"]
        self.results.samples[row_name][loop_name].append(per_operation)

    def worker(self, loop_name):
        """Return the loop's process; a new one if there is none or it has died."""
        if loop_name in self.broken:
            raise WorkerError(self.broken[loop_name])
        worker = self.workers.get(loop_name)
        if worker is not None and not worker.alive:
            del self.workers[loop_name]
            worker.close()
            worker = None
        if worker is None:
            try:
                worker = Worker(loop_name)
            except WorkerError as error:
                self.broken[loop_name] = f"does not start: {error}"
                raise WorkerError(self.broken[loop_name]) from None
            self.workers[loop_name] = worker
            self.results.versions[loop_name] = worker.version
        return worker

    def close_workers(self):
        """End all processes."""
        while self.workers:
            self.workers.popitem()[1].close()


def select_rows(patterns, names=ROWS):
    """Return the names of the rows that match a pattern: a glob or a part of a name."""
    if not patterns:
        return list(names)
    return [
        name
        for name in names
        if any(
            part.lower() in name.lower() or fnmatch.fnmatchcase(name, part)
            for part in patterns
        )
    ]


def argument_parser(program, description):
    """Return a parser of the options that all benchmarks of rows have."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument(
        "--rows",
        action="append",
        metavar="PATTERN",
        help="only rows whose name contains this or matches this glob; repeatable",
    )
    parser.add_argument("--loops", metavar="A,B", help="only these loops")
    parser.add_argument("--rounds", type=int, metavar="N", help="samples per row")
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="length of a sample, about"
    )
    parser.add_argument(
        "--quick", action="store_true", help="3 short rounds: trust 10 percent"
    )
    parser.add_argument("--json", metavar="FILE", help="write all samples")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables")
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 if a target is missed"
    )
    parser.add_argument("--list", action="store_true", help="print the rows and end")
    return parser


def complete(parser, options, usual, quick, names=loops.NAMES):
    """Fill in what was not given, and refuse what cannot be.

    `usual` and `quick` are pairs of rounds and seconds, `names` the loops that there
    may be.
    """
    rounds, seconds = quick if options.quick else usual
    options.rounds = rounds if options.rounds is None else options.rounds
    options.seconds = seconds if options.seconds is None else options.seconds
    available = loops.installed(names)
    options.loops = options.loops.split(",") if options.loops else available
    known = {*available, *([loops.ACCELERATED] if loops.OURS in available else [])}
    unknown = [name for name in options.loops if name not in known]
    if unknown:
        parser.error(f"not installed here: {', '.join(unknown)}")
    if options.check and loops.OURS not in options.loops:
        parser.error(f"--check is about {loops.OURS}, which is not among the loops")
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds and --seconds are to be positive")


def parse_arguments(arguments):
    parser = argument_parser("python -m benchmarks", __doc__)
    options = parser.parse_args(arguments)
    options.rows = select_rows(options.rows)
    if not options.rows:
        parser.error("no row matches")
    complete(parser, options, usual=(7, 0.2), quick=(3, 0.05))
    return options


def show_progress(text):
    """Keep one line of a terminal up to date; write nothing elsewhere."""
    if sys.stderr.isatty():
        print(f"\r{text:<70}", end="", file=sys.stderr, flush=True)


def end_progress():
    show_progress("")
    if sys.stderr.isatty():
        print(file=sys.stderr)


def publish(options, results, report):
    """Print the tables that the module `report` makes; write the files asked for."""
    print(report.text(results, options.rounds))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results.as_json(), file, indent=1)
    if options.markdown:
        with open(options.markdown, "w") as file:
            file.write(report.markdown(results, options.rounds))


def main(arguments=None):
    unknown = (targets.BEST_RIVAL.keys() | targets.AGAINST_ASYNCIO) - ROWS.keys()
    if unknown:
        raise SystemExit(f"targets of rows that do not exist: {sorted(unknown)}")
    options = parse_arguments(arguments)
    if options.list:
        for name in options.rows:
            print(f"{name:36}{' '.join(ROWS[name].run.__doc__.split())}")
        return 0
    results = Results(options.rows, options.loops)
    session = Session(results, options.seconds)
    session.run(options.rounds, show_progress)
    end_progress()
    publish(options, results, table)
    missed = any(table.misses(results, name, targets) for name in results.row_names)
    return 1 if options.check and missed else 0
