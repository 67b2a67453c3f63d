"""Turns results into tables for a terminal and in Markdown, and into a picture."""

import importlib.util
import statistics
import sys

from ..loops import OURS
from ..table import (
    FAILED,
    aligned,
    failures,
    listed,
    misses,
    origin,
    piped,
    spread,
)
from . import memory, rows, targets

PICTURE_COLUMNS = 4
OURS_COLOUR = "#c8553d"
OTHER_COLOUR = "#9aa5b1"


def microseconds(seconds):
    """Return a time in microseconds with three significant digits."""
    value = seconds * 1e6
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def against_best(results, row_name):
    """Return the ratio of aioloop's time to the best rival's, with its name."""
    medians = results.medians(row_name)
    best = targets.best_rival(medians)
    if OURS not in medians or best is None:
        return FAILED
    return f"{medians[OURS] / medians[best]:.2f} {best}"


def cpu_table(results):
    """Return the lines of cells of the table of CPU time."""
    titles = ["server CPU us per request", *results.loop_names]
    lines = [[*titles, "spread", "aioloop / best rival", "at most", ""]]
    for row_name in results.row_names:
        medians = results.medians(row_name)
        of_best, _ = targets.shares(row_name)
        line = [row_name]
        for name in results.loop_names:
            line.append(microseconds(medians[name]) if name in medians else FAILED)
        line.append(spread(results, row_name))
        line.append(against_best(results, row_name))
        line.append(FAILED if of_best is None else f"{of_best:.2f}")
        line.append(", ".join(misses(results, row_name, targets)))
        lines.append(line)
    return lines


def rate(samples):
    """Return requests per second, in thousands, and the two percentiles in us."""
    per_second = statistics.median(s["requests"] / s["seconds"] for s in samples)
    text = f"{per_second / 1000:.1f}k"
    percentiles = []
    for key in ("p50", "p99"):
        found = [sample[key] for sample in samples if sample[key] is not None]
        if found:
            percentiles.append(f"{statistics.median(found) * 1e6:.0f}")
    if percentiles:
        text += f" {'/'.join(percentiles)}"
    lost = sum(sample["lost"] for sample in samples)
    return text + (f" {lost} lost" if lost else "")


def rate_table(results):
    """Return the lines of cells of the table of requests and latencies."""
    lines = [["requests/s, p50/p99 us", *results.loop_names, ""]]
    for row_name in results.row_names:
        line = [row_name]
        medians = results.medians(row_name)
        for name in results.loop_names:
            samples = results.details[row_name][name]
            line.append(rate(samples) if name in medians else FAILED)
        lines.append([*line, ""])
    return lines


def notes(results, rounds):
    """Return the lines below the tables."""
    lines = [
        origin(results, rounds),
        "CPU time of the server process with all its threads, user and system, median "
        "over the rounds; floor: a server in C on epoll that does nothing else. "
        f"{targets.TRANSPORTS} runs on uvloop. Bulk rows are per MiB.",
        "spread: median deviation from the median of the loop where it is largest. "
        "On every row aioloop is to cost no more than asyncio and uvloop, within the "
        f"spread of the two or {targets.FLOOR_TOLERANCE:.0%}.",
    ]
    if sys.version_info[:2] < targets.TARGET_VERSION:
        version = ".".join(map(str, targets.TARGET_VERSION))
        lines.append(f"Shares of the best rival are expected on CPython {version}.")
    return lines + failures(results)


def tables(results):
    """Return those tables that have lines."""
    found = []
    if results.row_names:
        found += [cpu_table(results), rate_table(results)]
    if results.memory:
        found.append(memory.table(results.memory))
    return found


def text(results, rounds):
    """Return the tables with their notes for a terminal."""
    parts = [aligned(lines) for lines in tables(results)]
    return "\n\n".join([*parts, "\n".join(notes(results, rounds))])


def markdown(results, rounds):
    """Return the tables with their notes as Markdown."""
    parts = [piped(lines) for lines in tables(results)]
    return "\n\n".join([*parts, listed(notes(results, rounds))]) + "\n"


def can_draw():
    return importlib.util.find_spec("matplotlib") is not None


def draw_row(axes, results, row_name):
    """Draw a bar for each loop and a line for the floor."""
    medians = results.medians(row_name)
    names = [name for name in results.loop_names if name != targets.FLOOR]
    widths = [medians.get(name, 0) * 1e6 for name in names]
    colours = [OURS_COLOUR if name == OURS else OTHER_COLOUR for name in names]
    axes.barh(names, widths, color=colours)
    for i, name in enumerate(names):
        label = microseconds(medians[name]) if name in medians else FAILED
        axes.text(widths[i], i, f" {label}", va="center", fontsize=7)
    if targets.FLOOR in medians:
        axes.axvline(medians[targets.FLOOR] * 1e6, color="black", ls=":", lw=1)
    axes.invert_yaxis()
    axes.set_title(row_name, fontsize=8, loc="left")
    axes.set_xlim(0, max(widths, default=1) * 1.18)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def draw(results, path):
    """Write a picture of the essential rows that were measured."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    chosen = [name for name in results.row_names if rows.ROWS[name].essential]
    if not chosen:
        print("no essential row was measured: there is no picture", file=sys.stderr)
        return
    columns = min(PICTURE_COLUMNS, len(chosen))
    lines = -(-len(chosen) // columns)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "aioloop"}):
        figure = Figure(
            figsize=(3.2 * columns, 1.6 * lines + 0.6), layout="constrained"
        )
        grid = list(figure.subplots(lines, columns, squeeze=False).flat)
        for axes, row_name in zip(grid, chosen, strict=False):
            draw_row(axes, results, row_name)
        for axes in grid[len(chosen) :]:
            axes.set_axis_off()
        figure.suptitle(
            "CPU microseconds of the server per request; less is better; "
            "dotted: a server in C on epoll",
            fontsize=10,
        )
        figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)
