"""What do the loops make of pyperformance's benchmarks of asyncio?

`python -m benchmarks.pyperformance` installs pyperformance from the package index, into
a folder of its own below build/, with what its benchmarks want, and runs those of
asyncio unchanged: `async_tree*`, `asyncio_tcp`, `asyncio_tcp_ssl`, `asyncio_websockets`
and `tornado_http`. A sitecustomize makes the loop the one that asyncio gives. Loops run
interleaved over rounds, each sample in a process of its own, after a warm-up; a figure
is the median of the seconds that pyperf took. Servers and clients share the process.

It takes some ten minutes. `--json FILE` keeps what was measured, and a second run with
it measures what is not there yet; with `--limit SECONDS` no row begins after that time.
`--markdown FILE` writes the table of docs/performance.md.
"""

import argparse
import asyncio
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from . import loops, table
from .process import ROOT
from .runner import select_rows

PACKAGE = "pyperformance"
GROUPS = ("async_tree", "asyncio_tcp", "asyncio_websockets", "tornado_http")
LOOP = "AIOLOOP_BENCHMARK_LOOP"
LIMIT = 120
SITECUSTOMIZE = "from benchmarks import pyperformance\n\npyperformance.install()\n"


def install():
    """Make the loop that the environment names the one that asyncio gives."""
    name = os.environ.get(LOOP, loops.REFERENCE)
    if name in (loops.OURS, loops.ACCELERATED):
        module = importlib.import_module(loops.OURS)
        module.install(accelerate=name == loops.ACCELERATED)
    elif name != loops.REFERENCE:
        asyncio.new_event_loop = asyncio.events.new_event_loop = loops.factory(name)


class Suite:
    """The folder that pyperformance and the needs of its benchmarks are in."""

    def __init__(self):
        self.folder = ROOT / "build" / f"{PACKAGE}-{sys.implementation.cache_tag}"
        self.rows = {}
        if not (self.folder / "complete").exists():
            self.pip(PACKAGE)
            needs = self.benchmarks().glob("bm_*/requirements.txt")
            for path in needs:
                if path.parent.name.removeprefix("bm_") in GROUPS:
                    self.pip("-r", str(path))
            (self.folder / "complete").touch()
        for group in GROUPS:
            for path in sorted((self.benchmarks() / f"bm_{group}").glob("*.toml")):
                self.add(group, path)

    def pip(self, *what):
        command = [sys.executable, "-m", "pip", "install", "-q", "--upgrade"]
        command += ["--disable-pip-version-check", "--target", str(self.folder)]
        subprocess.run([*command, *what], check=True)

    def benchmarks(self):
        return self.folder / PACKAGE / "data-files" / "benchmarks"

    def add(self, group, path):
        """Take a variant of a benchmark as a row: its script and its arguments."""
        said = tomllib.loads(path.read_text())["tool"][PACKAGE]
        script = path.parent / said.get("runscript", "run_benchmark.py")
        self.rows[said.get("name", group)] = [script, *said.get("extra_opts", ())]

    def sample(self, row, loop):
        """Return the seconds that a benchmark took; RuntimeError: it failed."""
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "sitecustomize.py").write_text(SITECUSTOMIZE)
            path = os.pathsep.join([folder, str(ROOT), str(self.folder)])
            output = Path(folder, "result.json")
            command = [sys.executable, *self.rows[row], "--quiet", "-o", output]
            command += ["-p", "1", "-w", "1", "-n", "1", "-l", "1"]
            command += ["--inherit-environ", f"PYTHONPATH,{LOOP}"]
            try:
                done = subprocess.run(
                    command,
                    env={**os.environ, "PYTHONPATH": path, LOOP: loop},
                    capture_output=True,
                    text=True,
                    timeout=LIMIT,
                )
            except subprocess.TimeoutExpired:
                raise RuntimeError(f"not done within {LIMIT} s") from None
            if done.returncode != 0:
                raise RuntimeError(why(done.stderr))
            runs = json.loads(output.read_text())["benchmarks"][0]["runs"]
            return runs[-1]["values"][0]


def why(text):
    """Return the error of the process that pyperf has started, before pyperf's own."""
    lines = [line for line in text.splitlines() if line and line[0] != " "]
    own = [line for line in lines if "failed with exit code" not in line]
    return (own or lines or ["no output"])[-1]


def measure(suite, samples, rows, names, rounds):
    """Complete `rounds` samples of each row with each loop, and yield after each row.

    A loop that fails in a row has None there.
    """
    for row in rows:
        of_row = samples.setdefault(row, {})
        missing = [name for name in names if name not in of_row]
        for loop in missing * rounds:
            taken = of_row.setdefault(loop, [])
            if taken is None:
                continue
            try:
                taken.append(suite.sample(row, loop))
            except RuntimeError as error:
                of_row[loop] = None
                print(f"{row}, {loop}: {error}", file=sys.stderr)
        if missing:
            yield


def cells(samples, names):
    """Return the header and a line for each row, as lists of texts."""
    lines = [["pyperformance", *names]]
    for row, by_loop in samples.items():
        medians = {
            name: statistics.median(taken) for name, taken in by_loop.items() if taken
        }
        line = [row]
        for name in names:
            if name not in medians:
                line.append(table.FAILED)
            elif name == loops.REFERENCE:
                line.append(f"{medians[name] * 1000:.0f} ms")
            else:
                line.append(f"{medians[loops.REFERENCE] / medians[name]:.2f}")
        lines.append(line)
    return lines


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pyperformance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", action="append", metavar="PATTERN")
    parser.add_argument("--loops", metavar="A,B", help="beside asyncio, only these")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--limit", type=float, default=float("inf"), metavar="SECONDS")
    parser.add_argument("--json", metavar="FILE", type=Path)
    parser.add_argument("--markdown", metavar="FILE", type=Path)
    parser.add_argument("--list", action="store_true", help="print the rows and end")
    options = parser.parse_args()
    available = [*loops.installed(), loops.ACCELERATED]
    names = available
    if options.loops:
        chosen = options.loops.split(",")
        if unknown := set(chosen) - set(available):
            parser.error(f"not installed here: {', '.join(unknown)}")
        names = [loops.REFERENCE, *(name for name in chosen if name != loops.REFERENCE)]
    suite = Suite()
    rows = select_rows(options.rows, suite.rows)
    if options.list:
        print(*rows, sep="\n")
        return 0
    samples = {}
    if options.json and options.json.exists():
        samples = json.loads(options.json.read_text())
    end = time.monotonic() + options.limit
    for _ in measure(suite, samples, rows, names, options.rounds):
        if options.json:
            options.json.write_text(json.dumps(samples, indent=1))
        if time.monotonic() > end:
            break
    lines = cells(samples, names)
    print(table.aligned(lines))
    if options.markdown:
        options.markdown.write_text(table.piped(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
