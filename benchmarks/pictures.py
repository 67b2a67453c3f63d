"""Draws the plots of the documentation from the tables of its pages.

    python -m benchmarks.pictures

Each plot has a line for each row of a table and a dot for each column, on a logarithmic
axis. It is made from the page's text alone, so that a plot shows what its table says;
write the new table into the page, then draw. Nothing but the standard library is used.
"""

import math
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

TREE = Path(__file__).resolve().parents[1]
FOLDER = TREE / "docs" / "pictures"

OURS = "#c8553d"
COLOURS = ("#4878a8", "#6aa56e", "#8e6fad", "#8a8f98", "#c9a227", "#5bb3b3")
PLOT, RIGHT, LETTER = 290, 18, 6.6
LINE, TOP = 20, 58
TICKS = [m * 10**e for e in range(-2, 5) for m in (1, 2, 5)]


@dataclass(frozen=True)
class Picture:
    """One plot: what it takes from which table, and what it says above it."""

    page: str
    table: str  # the title of the table's first column
    title: str
    columns: tuple[str, ...]
    reference: str = ""  # the column that is divided by the others; "": none
    rows: tuple[str, ...] = ()  # none: all
    bounds: tuple[float, float] = (0.5, 20)


PICTURES = {
    "speed": Picture(
        page="docs/performance.md",
        table="server",
        title="Requests per CPU second of a server, asyncio = 1",
        columns=("uvloop", "aioloop"),
        reference="asyncio",
        rows=(
            "protocol echo, 1 KB",
            "streams echo, 1 KB",
            "sock_* echo, 1 KB",
            "HTTP, uvicorn with httptools",
            "HTTP, aiohttp",
            "HTTPS, a server on streams",
            "HTTPS, uvicorn with httptools",
            "connect + echo + close",
            "UDP echo, 64 peers",
        ),
    ),
    "loop": Picture(
        page="docs/performance.md",
        table="row",
        title="Times as fast as asyncio; more is better",
        columns=("uvloop", "zuvloop", "rsloop", "aioloop"),
        bounds=(0.2, 200),
    ),
    "scale": Picture(
        page="docs/performance.md",
        table="ns per operation",
        title="Nanoseconds of CPU per operation; less is better",
        columns=("asyncio", "uvloop", "zuvloop", "aioloop"),
        bounds=(80, 20_000),
    ),
    "servers": Picture(
        page="docs/performance.md",
        table="server",
        title="Requests per CPU second of a server, asyncio = 1; more is better",
        columns=("uvloop", "zuvloop", "rsloop", "aiofastnet", "aioloop"),
        reference="asyncio",
        bounds=(0.3, 15),
    ),
    "apps": Picture(
        page="docs/performance.md",
        table="app",
        title="Times as fast as asyncio; more is better",
        columns=("uvloop", "zuvloop", "rsloop", "aioloop"),
        bounds=(0.3, 5),
    ),
    "debug": Picture(
        page="docs/debug.md",
        table="row",
        title="CPU time with debug mode / without; less is better",
        columns=("asyncio", "set_debug", "production"),
        bounds=(0.8, 100),
    ),
    "diagnosis": Picture(
        page="docs/diagnosis.md",
        table="",
        title="With a switch / without; less is better",
        columns=("metering", "dump by signal", "their places", "watchdog"),
        bounds=(0.9, 2),
    ),
}


def table(text, first):
    """Return (titles, lines of cells) of the table whose first title is `first`."""
    lines = iter(text.splitlines())
    for line in lines:
        titles = cells(line)
        if titles and titles[0] == first and set(next(lines, "")) <= set("|-: "):
            rows = []
            for row in lines:
                if not row.startswith("|"):
                    break
                rows.append(cells(row))
            return titles, rows
    raise LookupError(f"no table of {first!r}")


def cells(line):
    """Return the cells of a line of a table, without their emphasis."""
    if not line.startswith("|"):
        return []
    return [cell.strip().strip("*") for cell in line.strip().strip("|").split("|")]


def number(cell):
    """Return a cell's number, without its unit, or None."""
    found = re.match(r"[0-9.]+", cell)
    return float(found[0]) if found else None


def place(titles, name):
    """Return where a column is, whose title may have a version or more before it."""
    for index, title in enumerate(titles):
        if index and (title.split()[0] == name or title.endswith(name)):
            return index
    raise LookupError(f"no column {name!r} in {titles}")


def values(picture, titles, row):
    """Return {column: number} of those cells of a row that have one."""
    found = {}
    for name in picture.columns:
        value = number(row[place(titles, name)])
        if picture.reference and value:
            value = number(row[place(titles, picture.reference)]) / value
        if value is not None:
            found[name] = value
    return found


def colour(picture, name):
    """Return a column's colour: the last column that is ours has the strong one."""
    if name == emphasised(picture):
        return OURS
    others = [other for other in picture.columns if other != emphasised(picture)]
    return COLOURS[others.index(name)]


def emphasised(picture):
    return picture.columns[-1]


def draw(picture):
    """Return a picture as SVG."""
    titles, rows = table((TREE / picture.page).read_text(), picture.table)
    if picture.rows:
        by_name = {row[0]: row for row in rows}
        rows = [by_name[name] for name in picture.rows]
    low, high = picture.bounds
    left = round(LETTER * max(len(row[0]) for row in rows)) + 24
    width = left + PLOT + RIGHT

    def x(value):
        share = math.log(value / low) / math.log(high / low)
        return round(left + share * PLOT, 1)

    height = TOP + LINE * len(rows) + 30
    bottom = TOP + LINE * len(rows)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f"<title>{escape(picture.title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        text(8, 20, picture.title, "bold"),
        *legend(picture),
    ]
    for index in range(len(rows)):
        y = middle(index)
        out.append(line(left, y, left + PLOT, y, "#eef0f2"))
    for tick in TICKS:
        if low <= tick <= high:
            shade = "#777777" if tick == 1 else "#e3e5e8"
            out.append(line(x(tick), TOP, x(tick), bottom, shade))
            out.append(text(x(tick), bottom + 18, f"{tick:g}", anchor="middle"))
    for index, row in enumerate(rows):
        y = middle(index)
        out.append(text(left - 16, y + 4, row[0].replace("`", ""), anchor="end"))
        # Ours last, so that it lies above the others.
        for name, value in values(picture, titles, row).items():
            out.append(dot(picture, name, value, x, y))
    return "\n".join([*out, "</svg>", ""])


def middle(index):
    """Return the height of a row's line."""
    return TOP + LINE * index + LINE // 2


def legend(picture):
    """Return the names of the columns with their dots."""
    out, at = [], 14
    for name in picture.columns:
        out.append(circle(at, 38, colour(picture, name), escape(name)))
        out.append(text(at + 9, 42, name))
        at += 9 + 7 * len(name) + 18
    return out


def dot(picture, name, value, x, y):
    """Return the mark of a value: an arrow at the edge if it lies beyond it."""
    low, high = picture.bounds
    said = f"{escape(name)}: {value:.3g}"
    fill = colour(picture, name)
    if low <= value <= high:
        return circle(x(value), y, fill, said)
    edge, step = (x(low), -7) if value < low else (x(high), 7)
    return (
        f'<path d="M {edge} {y - 5} v 10 l {step} -5 z" fill="{fill}">'
        f"<title>{said}</title></path>"
    )


def circle(x, y, fill, said):
    return (
        f'<circle cx="{x}" cy="{y}" r="5" fill="{fill}" fill-opacity="0.9">'
        f"<title>{said}</title></circle>"
    )


def line(x1, y1, x2, y2, stroke):
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{stroke}"/>'


def text(x, y, what, weight="normal", anchor="start"):
    return (
        f'<text x="{x}" y="{y}" font-weight="{weight}" text-anchor="{anchor}"'
        f' fill="#222222">{escape(what)}</text>'
    )


def main():
    """Write all pictures."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, picture in PICTURES.items():
        (FOLDER / f"{name}.svg").write_text(draw(picture))


if __name__ == "__main__":
    main()
