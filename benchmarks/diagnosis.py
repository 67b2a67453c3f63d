"""What does it cost to be told what a loop does?

`python -m benchmarks.diagnosis` measures aioloop with nothing of its diagnosis on, and
with one switch on at a time: first the instructions per operation, as
benchmarks.instructions counts them, then CPU time, interleaved over the rounds, each
switch in a process of its own: of the loop's parts, and of servers at 64 connections
under wrk. The tables show what the loop takes with all switches off, and the ratio of
each switch to that: of times the median of the rounds' ratios, as what a machine does
beside it changes from round to round. Where a count is left out or there is no wrk,
the rows are named.

callgrind does not see what the kernel does, and it makes a system call of each look at
the clock, so metering is dearer by time than by instructions.

`--against FOLDER` counts the same with all switches off in another tree of sources,
which is built: that of an earlier commit. `--check` exits with 1 if an instruction
count is beyond its limit.
"""

import argparse
import json
import statistics
import sys

from . import apps, instructions, loops, rows  # noqa: F401
from .runner import Results, Session, end_progress, select_rows, show_progress
from .table import aligned

CHAIN = "call_soon chain"
PARTS = (
    CHAIN,
    "bare yield, one task",
    "sleep(0), 1000 tasks",
    "create_task + await in turn",
    "future ping-pong, one pair",
    "gather of 1000, per item",
    "call_later + cancel",
)
COUNTED_SERVERS = ("uvicorn, server", "aiohttp, server")
TIMED_SERVERS = ("HTTP, uvicorn, tcp, 64", "HTTP, aiohttp, tcp, 64")
STALL_SECONDS = 0.5

# In the process that is measured.


def watch(loop):
    loop.stall_threshold = STALL_SECONDS


def meter(loop):
    loop.metering = True


def answer_signals(loop):
    import aioloop

    aioloop.dump_on_signal()


def report_orphans(loop):
    loop.report_orphans = True


def report_places(loop):
    """What --orphans turns on."""
    import aioloop

    report_orphans(loop)
    loop.debug_options = aioloop.DebugOptions(
        source_tracebacks=True, coroutine_origin_depth=1
    )


def log_blocking_calls(loop):
    loop.blocking_calls = "log"


SWITCHES = {
    "watchdog": watch,
    "metering": meter,
    "dump signal": answer_signals,
    "blocking calls": log_blocking_calls,
    "orphans": report_orphans,
    "their places": report_places,
}


def switched(make, switch):
    """Return a factory of loops on which a switch is on."""

    def factory():
        loop = make()
        SWITCHES[switch](loop)
        return loop

    return factory


# In the process that measures.

# The most that a switch may cost, as a ratio; OFF: of another tree's count.
OFF = "off"
LIMITS = {
    CHAIN: {OFF: 1.01, "watchdog": 1.02, "metering": 1.3},
    **{row: {"metering": 1.03} for row in (*COUNTED_SERVERS, *TIMED_SERVERS)},
}


def count(row_names, columns, against):
    """Return {row: {column: instructions or None}}; what `against` takes is OFF."""
    prefix = instructions.counting_command()
    if prefix is None:
        print("instructions cannot be counted here", file=sys.stderr)
        return {}
    found = {}
    for row_name in row_names:
        of_row = found[row_name] = {}
        for column in columns:
            show_progress(f"instructions: {row_name}, {column}")
            of_row[column] = instructions.per_operation(prefix, column, row_name)
        if against:
            of_row[OFF] = instructions.per_operation(
                prefix, loops.OURS, row_name, against
            )
    end_progress()
    return found


def take_parts(row_names, columns, rounds, seconds):
    """Return the samples of the loop's parts."""
    results = Results(row_names, columns)
    Session(results, seconds).run(rounds, show_progress)
    end_progress()
    return results


def take_servers(row_names, columns, rounds, seconds):
    """Return the samples of servers, as benchmarks.net takes them."""
    from .net import runner

    results = runner.NetResults(row_names, columns)
    runner.Session(results, seconds, None).run(rounds, show_progress)
    end_progress()
    return results


def ratios(results, row_name):
    """Return the median ratio of each column to the first one, and its spread."""
    samples = results.samples[row_name]
    found = {}
    for column in results.loop_names[1:]:
        pairs = zip(samples[column], samples[loops.OURS], strict=False)
        taken = [with_it / without for with_it, without in pairs]
        if taken and not {(row_name, column), (row_name, loops.OURS)} & set(
            results.failures
        ):
            median = statistics.median(taken)
            spread = statistics.median(abs(ratio - median) for ratio in taken)
            found[column] = (median, spread)
    return found


def beyond(row_name, switch, ratio):
    return ratio > LIMITS.get(row_name, {}).get(switch, float("inf"))


def switches_of(columns):
    return [column.partition("+")[2] for column in columns[1:]]


def counts_table(counts, columns):
    """Return the lines of cells of the instructions, and what is missed as texts."""
    lines = [["instructions", "off", *switches_of(columns), "other tree"]]
    missed = []
    for row_name, of_row in counts.items():
        base = of_row[loops.OURS]
        line = [row_name, "-" if base is None else f"{base:.0f}"]
        for column in columns[1:]:
            switch = column.partition("+")[2]
            if base is None or of_row[column] is None:
                line.append("-")
                continue
            ratio = of_row[column] / base
            line.append(f"{ratio:.3f}")
            if beyond(row_name, switch, ratio):
                missed.append(f"{row_name}, {switch}: {ratio:.3f}")
        other = of_row.get(OFF)
        line.append("" if other is None else f"{other:.0f}")
        if other is not None and base is not None:
            if beyond(row_name, OFF, base / other):
                missed.append(f"{row_name}, all off: {base / other:.3f}")
        lines.append(line)
    return lines, missed


def times_table(results):
    """Return the lines of cells of the times; what is beyond its limit has a mark."""
    lines = [["CPU time", "off us", *switches_of(results.loop_names), "spread"]]
    for row_name in results.row_names:
        base = results.medians(row_name).get(loops.OURS)
        line = [row_name, "-" if base is None else f"{base * 1e6:.3f}"]
        found = ratios(results, row_name)
        for column in results.loop_names[1:]:
            median, spread = found.get(column, (None, None))
            switch = column.partition("+")[2]
            mark = ""
            if median is not None and beyond(row_name, switch, median - spread):
                mark = "!"
            line.append("-" if median is None else f"{median:.3f}{mark}")
        spread = max((spread for _, spread in found.values()), default=0)
        lines.append([*line, f"{spread:.1%}"])
    return lines


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.diagnosis",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--rows", action="append", metavar="PATTERN")
    parser.add_argument("--switches", metavar="A,B", help="only these")
    parser.add_argument("--only", choices=("counts", "times"))
    parser.add_argument("--against", metavar="FOLDER")
    parser.add_argument("--json", metavar="FILE", help="write what was measured")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    counted = select_rows(options.rows, (*PARTS, *COUNTED_SERVERS))
    parts = select_rows(options.rows, PARTS)
    servers = select_rows(options.rows, TIMED_SERVERS)
    if not counted and not servers:
        parser.error("no row matches")
    switches = options.switches.split(",") if options.switches else list(SWITCHES)
    if not set(switches) <= SWITCHES.keys():
        parser.error(f"switches: {', '.join(SWITCHES)}")
    columns = [loops.OURS, *(f"{loops.OURS}+{switch}" for switch in switches)]
    missed, found = [], {}
    if counted and options.only != "times":
        counts = count(apps.available(counted), columns, options.against)
        lines, missed = counts_table(counts, columns)
        print(aligned(lines), flush=True)
        found["instructions"] = counts
    if options.only != "counts":
        for row_names, take in ((parts, take_parts), (servers, take_servers)):
            if take is take_servers:
                row_names = available_servers(row_names)
            if row_names:
                results = take(row_names, columns, options.rounds, options.seconds)
                print(aligned(times_table(results)), flush=True)
                for (row_name, column), text in results.failures.items():
                    print(f"{row_name}, {column}: {text}")
                found.update(results.samples)
    print(*(f"missed: {text}" for text in missed), sep="\n")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(found, file, indent=1)
    return 1 if options.check and missed else 0


def available_servers(row_names):
    from .net import runner

    if row_names and sys.platform.startswith("linux"):
        return runner.without_unavailable(row_names)
    return []


if __name__ == "__main__":
    sys.exit(main())
