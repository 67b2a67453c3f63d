"""Turns results into the one table that is printed."""

import os
import platform

from . import targets
from .loops import OURS, REFERENCE
from .row import ROWS

FAILED = "-"


def duration(seconds):
    """Return a time per operation with a fitting unit."""
    if seconds < 10e-6:
        return f"{seconds * 1e9:.0f} ns"
    return f"{seconds * 1e6:.1f} us"


def misses(results, row_name, targets):
    """Return the texts of what aioloop misses in a row; none if it was not run.

    `targets` is the module that knows what is expected.
    """
    if OURS not in results.loop_names:
        return []
    medians = results.medians(row_name)
    if OURS not in medians:
        return ["FAILED"]
    return targets.missed(row_name, medians, results.spreads(row_name))


def against_best(results, row_name):
    """Return the ratio of the best rival's time to aioloop's, with its name."""
    medians = results.medians(row_name)
    names = targets.rivals(row_name, medians)
    if OURS not in medians or not names:
        return FAILED
    best = min(names, key=medians.__getitem__)
    return f"{medians[best] / medians[OURS]:.2f} {best}"


def header(results):
    titles = ["row", "clock"]
    for name in results.loop_names:
        titles.append(f"{name} t/op" if name == REFERENCE else name)
    return [*titles, "spread", "aioloop vs best rival", "target", ""]


def spread(results, row_name):
    """Return the cell of the largest median deviation of a loop."""
    return f"{max(results.spreads(row_name).values(), default=0):.0%}"


def cells(results, row_name):
    """Return one line of the table as a list of texts."""
    medians = results.medians(row_name)
    reference = medians.get(REFERENCE)
    line = [row_name, ROWS[row_name].clock]
    for name in results.loop_names:
        if name not in medians:
            line.append(FAILED)
        elif name == REFERENCE or reference is None:
            line.append(duration(medians[name]))
        else:
            line.append(f"{reference / medians[name]:.2f}")
    line.append(spread(results, row_name))
    line.append(against_best(results, row_name))
    line.append(f"{targets.target(row_name):.2f}")
    line.append(", ".join(misses(results, row_name, targets)))
    return line


def origin(results, rounds):
    """Return the line that says on what the samples were taken."""
    versions = ", ".join(f"{k} {v}" for k, v in results.versions.items())
    return (
        f"CPython {platform.python_version()}, {platform.system()} "
        f"{platform.machine()}, {os.cpu_count()} processors, {rounds} rounds; "
        f"{versions}."
    )


def failures(results):
    """Return a line for each loop that failed in a row."""
    return [
        f"{FAILED} {loop_name}, {row_name}: {text}"
        for (row_name, loop_name), text in results.failures.items()
    ]


def notes(results, rounds):
    """Return the lines below the table."""
    lines = [
        origin(results, rounds),
        "asyncio: median time per operation; other loops: how many times as fast as "
        "asyncio. cpu: CPU time of the process with all its threads; wall: elapsed.",
        "spread: median deviation from the median of the loop where it is largest. "
        "target 1.00: no slower than asyncio and uvloop, within the spread of the two "
        f"or {targets.FLOOR_TOLERANCE:.0%}.",
    ]
    return lines + failures(results)


def aligned(lines):
    """Return a table for a terminal; the first of its lines of cells is the header."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rendered = []
    for line in lines:
        padded = [line[0].ljust(widths[0])]
        padded += [
            cell.rjust(width)
            for cell, width in zip(line[1:-1], widths[1:-1], strict=True)
        ]
        rendered.append("  ".join([*padded, line[-1]]).rstrip())
    rendered.insert(1, "-" * max(map(len, rendered)))
    return "\n".join(rendered)


def piped(lines):
    """Return the same table as Markdown."""
    head, *rest = lines
    rule = ["---"] + ["---:"] * (len(head) - 2) + ["---"]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *rest])


def listed(lines):
    """Return notes as a Markdown list."""
    return "\n".join(f"- {line.removeprefix('- ')}" for line in lines)


def all_cells(results):
    """Return the header and one line of cells per row."""
    return [header(results)] + [cells(results, name) for name in results.row_names]


def text(results, rounds):
    """Return the table with its notes for a terminal."""
    return "\n".join([aligned(all_cells(results)), "", *notes(results, rounds)])


def markdown(results, rounds):
    """Return the table with its notes as Markdown."""
    return f"{piped(all_cells(results))}\n\n{listed(notes(results, rounds))}\n"
