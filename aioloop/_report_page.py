"""The report as one page of HTML that needs nothing else: no script, no other file.

It is made of the Report alone (aioloop/_report.py), and has the same as JSON in it. All
text passes through `el`, which escapes whatever is not HTML of ours: programs choose
the names of tasks. Colour says nothing that a pattern, a number or a word does not say.
"""

from __future__ import annotations

import html
import json
import math
from typing import TYPE_CHECKING

from . import _frames, _report
from ._stall import place_of_run
from ._tasks import count

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from ._metrics import Histogram
    from ._orphans import Orphan
    from ._report import Alike, LoopReport, Place, Report, Tasks

# So much of a text from the program is shown.
LONGEST = 400
# So many stalls and tasks are open, the rest is behind a line to click.
OPEN = 12

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fff; --well: #f4f6f8; --ink: #1c2127; --dim: #5b6570; --line: #d6dce2;
  --fill: #3a6ea5; --bad: #b3261e; --good: #2e7d4f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #13161a; --well: #1c2127; --ink: #e4e8ec; --dim: #98a3ae; --line: #353d46;
    --fill: #6f9fd2; --bad: #ff8a7d; --good: #7fc99b;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; max-width: 68rem; padding: 2.5rem clamp(1rem, 4vw, 3rem) 3rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans",
    sans-serif;
  font-variant-numeric: tabular-nums;
}
h1, h2, h3, h4, h5 { line-height: 1.25; margin: 0; text-wrap: balance; }
h1 { font-size: 2rem; letter-spacing: -.02em; overflow-wrap: anywhere; }
h2 { font-size: 1.4rem; margin-top: 3rem; padding-top: 1.25rem;
  border-top: 2px solid var(--ink); }
h3 { font-size: 1.15rem; margin: 2.75rem 0 .75rem; }
h4 { font-size: 1rem; overflow-wrap: anywhere; }
h5 { font-size: .85rem; font-weight: 600; color: var(--dim); margin: 1rem 0 .25rem; }
p { margin: .4rem 0; max-width: 46rem; overflow-wrap: anywhere; }
code, pre { font: .85em/1.5 ui-monospace, "SF Mono", Menlo, Consolas,
  "DejaVu Sans Mono", monospace; font-variant-ligatures: none; }
code { unicode-bidi: isolate; overflow-wrap: anywhere; }
pre { margin: .5rem 0; padding: .75rem 1rem; overflow-x: auto; background: var(--well);
  border-radius: .4rem; }
.dim { color: var(--dim); }
.wide { max-width: none; }
.small { font-size: .875rem; }
header p { margin-top: .35rem; }
.verdict { list-style: none; margin: 1.5rem 0 0; padding: 0; }
.verdict li { display: flex; gap: .7rem; margin: .45rem 0; max-width: 48rem; }
.verdict span { overflow-wrap: anywhere; min-width: 0; }
.verdict b:first-child { flex: none; width: 1.45rem; height: 1.45rem;
  line-height: 1.3rem; margin-top: .05rem; text-align: center;
  border: 1.5px solid var(--good); border-radius: 50%; color: var(--good);
  font-size: .85rem; }
.verdict .bad b:first-child { background: var(--bad); border-color: var(--bad);
  color: var(--paper); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr));
  gap: 1px; margin: 1.75rem 0 0; background: var(--line); border: 1px solid var(--line);
  border-radius: .5rem; overflow: hidden; }
.figures div { background: var(--paper); padding: .7rem .9rem .6rem; }
.figures dt { font-size: .8rem; color: var(--dim); }
.figures dd { margin: 0; font-size: 1.4rem; font-weight: 600; letter-spacing: -.01em;
  white-space: nowrap; }
.figures small { display: block; font-size: .8rem; font-weight: 400; color: var(--dim);
  letter-spacing: 0; white-space: normal; line-height: 1.35; }
figure { margin: 0; }
figcaption { font-size: .875rem; color: var(--dim); margin-top: .5rem; display: flex;
  flex-wrap: wrap; gap: .25rem 1.25rem; }
figcaption span { display: inline-flex; align-items: center; gap: .45rem; }
svg { display: block; }
svg text { font-size: 12px; fill: var(--dim); font-family: inherit; }
.chart { overflow: visible; }
.chart.calm { margin-top: -1.25rem; }
.grid { stroke: var(--line); stroke-width: 1; }
.axis { stroke: var(--dim); stroke-width: 1; }
.busy, .bar { fill: var(--fill); }
.edge { stroke: var(--bad); stroke-width: 1.5; }
.pin circle { fill: var(--bad); }
.pin text { fill: var(--paper); font-weight: 700; font-size: 11px; }
.hatch { stroke: var(--bad); stroke-width: 2; }
.dots { fill: var(--ink); }
.frame { fill: none; stroke: var(--dim); }
.two { display: grid; gap: 0 3rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th { text-align: left; font-weight: 600; font-size: .8rem; color: var(--dim);
  padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: bottom; }
td { padding: .3rem .75rem .3rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line); }
td:last-child, th:last-child { padding-right: 0; }
.n { text-align: right; white-space: nowrap; }
.histogram td { border: 0; padding-block: .08rem; white-space: nowrap; }
.histogram td:nth-child(2) { width: 60%; vertical-align: middle; }
.histogram td:first-child { text-align: right; }
.tag { display: inline-block; border: 1px solid var(--dim); border-radius: .25rem;
  padding: 0 .35rem; font-size: .75rem; font-weight: 600; line-height: 1.35;
  white-space: nowrap; }
.bad .tag, .tag.bad { border-color: var(--bad); color: var(--bad); }
.use td:first-child, .use th:first-child { width: 13rem; }
.use td:last-child, .use th:last-child { padding-left: 1.25rem; }
.use svg { margin-top: .2rem; }
article { border-left: 3px solid var(--line); padding: .15rem 0 .15rem 1rem;
  margin: 1.25rem 0; break-inside: avoid-page; }
article.bad { border-left: 3px double var(--bad); }
.badge { display: inline-block; min-width: 1.4rem; height: 1.4rem; line-height: 1.4rem;
  padding: 0 .3rem; border-radius: .7rem; background: var(--bad); color: var(--paper);
  text-align: center; font-size: .8rem; font-weight: 700; margin-right: .5rem; }
.stack { list-style: none; margin: .5rem 0; padding: .5rem .9rem;
  background: var(--well); border-radius: .4rem; }
.stack li { display: grid; grid-template-columns: minmax(12rem, 2fr) 3fr;
  gap: 0 1.25rem; padding: .12rem 0; line-height: 1.4; }
.stack .library { color: var(--dim); }
.stack .here { font-weight: 700; }
.before td { border: 0; padding-block: .05rem; }
.before .n { width: 6.5rem; }
ul.plain { list-style: none; padding: 0; margin: .25rem 0 1rem; }
ul.plain li { padding: .15rem 0 .15rem 1rem; text-indent: -1rem;
  overflow-wrap: anywhere; }
details { margin: .75rem 0; }
summary { cursor: pointer; font-weight: 600; padding: .25rem 0; }
footer { margin-top: 3.5rem; padding-top: 1rem; border-top: 1px solid var(--line);
  font-size: .85rem; color: var(--dim); }
.defs { position: absolute; }
@media (max-width: 40rem) {
  body { padding-top: 1.5rem; }
  h1 { font-size: 1.6rem; }
  .figures { grid-template-columns: 1fr 1fr; }
  .figures dd { font-size: 1.2rem; }
  .stack li { grid-template-columns: 1fr; padding: .25rem 0; }
  .stack li code + code { padding-left: 1rem; }
  article { padding-left: .7rem; }
  .use thead { position: absolute; clip-path: inset(50%); }
  .use tr { display: grid; grid-template-columns: 1fr 1fr; gap: .1rem 1rem;
    padding: .6rem 0; border-bottom: 1px solid var(--line); }
  .use td { border: 0; padding: 0; text-align: left; white-space: normal; }
  .use td.what { grid-column: 1 / -1; grid-row: 1; }
  .use td:first-child, .use td:last-child { width: auto; padding: 0; }
  .use td[data-label]::before { content: attr(data-label) " "; color: var(--dim);
    font-size: .8rem; }
}
@media print {
  :root { color-scheme: light; --paper: #fff; --well: #fff; --ink: #000; --dim: #444;
    --line: #bbb; --fill: #555; --bad: #000; --good: #000; }
  body { padding: 0; max-width: none; font-size: 10pt; }
  .badge, .verdict .bad b:first-child { background: none; border: 1px solid #000;
    color: #000; }
  .pin circle { fill: #fff; stroke: #000; }
  .pin text { fill: #000; }
  .stack, pre { border: 1px solid #bbb; white-space: pre-wrap; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""

# --- HTML ---------------------------------------------------------------------------

_CONTROLS = {n: 0x2400 + n for n in range(32)} | {127: 0x2421, 10: " ", 9: " "}
_CONTROLS |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
_VOID = ("meta", "br")


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def el(tag: str, *children: Any, **attributes: Any) -> Html:
    """Make an element.

    A child that is a str is text and is escaped, one that is Html is not; lists are
    their items, None is nothing. ``class_`` is the attribute class, ``data_label``
    data-label.
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_quoted(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Html(f"<{tag}{written}>")
    return Html(f"<{tag}{written}>{_inside(children)}</{tag}>")


def _quoted(text: str) -> str:
    return html.escape(text.translate(_CONTROLS))


def _inside(child: Any) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, str):
        return html.escape(_clean(child))
    return "".join(_inside(one) for one in child)


def _clean(text: str) -> str:
    """Make control characters visible, and long texts short."""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]} … ({_number(len(text) - LONGEST)} more characters)"
    return text.translate(_CONTROLS)


def _code(text: str) -> Html:
    return el("code", text)


def _p(*children: Any, class_: str | None = None) -> Html:
    return el("p", *children, class_=class_)


def _pre(lines: Iterable[str]) -> Html:
    rows: list[Any] = []
    for line in lines:
        rows += [line, Html("\n")]
    return el("pre", rows, tabindex=0)


# --- numbers ------------------------------------------------------------------------

_THIN = "\N{NARROW NO-BREAK SPACE}"


def _number(number: int) -> str:
    return f"{number:,}".replace(",", _THIN)


def _seconds(seconds: float) -> str:
    """Say a duration in the unit that suits it, to three digits."""
    if seconds <= 0:
        return "0"
    if seconds < 0.999_5:
        for unit, factor in (("µs", 1e6), ("ms", 1e3)):
            value = seconds * factor
            if value < 999.5:
                digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
                text = f"{value:.{digits}f}"
                text = text.rstrip("0").rstrip(".") if "." in text else text
                return f"{text}{_THIN}{unit}"
    if seconds < 99.995:
        return f"{seconds:.2f}".removesuffix(".00") + f"{_THIN}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{_THIN}min {rest}{_THIN}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}{_THIN}h {minutes}{_THIN}min"
    return f"{hours // 24}{_THIN}days {hours % 24}{_THIN}h"


def _percent(part: float) -> str:
    digits = 0 if part >= 0.0995 or part == 0 else 1
    return f"{part * 100:.{digits}f}{_THIN}%"


def _within(histogram: Histogram, q: float) -> str:
    bound = histogram.quantile(q)
    if bound == math.inf:
        return f"over {_seconds(histogram.bounds[-1])}"
    return _seconds(bound)


def _bytes(number: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f}{_THIN}{unit}"
        number /= 1000
    return f"{number:.1f}{_THIN}TB"


def _times(n: int) -> str:
    return {1: "once", 2: "twice"}.get(n, f"{_number(n)} times")


# --- what it comes to ---------------------------------------------------------------


def _verdict(report: Report) -> Iterator[tuple[bool, list[Any]]]:
    """Yield what there is to say, and whether it is bad."""
    if report.error is not None:
        yield True, ["The program ended by ", _code(report.error), "."]
    if not report.loops:
        yield False, ["No aioloop loop has run."]
    for loop in report.loops:
        which = f"Loop {loop.number}" if len(report.loops) > 1 else "The loop"
        yield from _verdict_of(loop, which)
    lost = sum(orphan.count for orphan in report.orphans)
    if lost:
        yield True, [f"The program lost {count(lost, 'thing')}: see its orphans."]


def _verdict_of(loop: LoopReport, which: str) -> Iterator[tuple[bool, list[Any]]]:
    times, seconds = loop.stuck
    if times:
        worst = max(loop.stalls, key=lambda place: place.longest, default=None)
        share = f" ({_percent(min(seconds / loop.seconds, 1))})" if loop.seconds else ""
        text: list[Any] = [
            f"{which} was stuck {_times(times)}, for {_seconds(seconds)} of"
            f" {_seconds(loop.seconds)}{share}"
        ]
        if worst is not None:
            text.append(f"; at most {_seconds(worst.longest)}")
            if worst.stall.frame is not None:
                text += [", at ", _code(worst.stall.frame.place)]
            text.append(f": {worst.stall.words}")
        yield True, [*text, "."]
    elif loop.metrics.stalls:
        yield True, [f"{which} was stuck {_times(loop.metrics.stalls)}."]
    elif loop.threshold is not None:
        yield (
            False,
            [f"{which} was never stuck for {_seconds(loop.threshold)} or longer."],
        )
    for sentence in (*loop.tasks.deadlocks, *loop.tasks.leaks):
        yield True, [_code(sentence)]
    for use in loop.top:
        if use.spins:
            yield True, [_code(use.place), " spins on sleep(0)."]
    delay = loop.metrics.queue_delay
    if delay.quantile(0.99) > 0.1:
        late = f"One callback in 100 waited for more than {_seconds(0.1)}"
        yield True, [f"{late} until it ran ({which.lower()})."]
    if loop.metered and loop.metrics.utilization >= 0.95 and loop.seconds >= 1:
        yield (
            True,
            [f"{which} was busy {_percent(loop.metrics.utilization)} of its time."],
        )


def _figures(loop: LoopReport) -> Html:
    metrics = loop.metrics
    tiles: list[tuple[str, str, str]] = []
    if loop.metered:
        gil = metrics.time_waiting_gil
        tiles.append(
            (
                "Busy",
                _percent(metrics.utilization),
                f"{_seconds(metrics.time_active)} of {_seconds(loop.seconds)}"
                + (f", {_seconds(gil)} for the GIL" if gil >= 0.001 else ""),
            )
        )
    times, seconds = loop.stuck
    if loop.threshold is not None or times:
        longest = max((place.longest for place in loop.stalls), default=0.0)
        tiles.append(
            (
                "Stuck",
                _number(max(times, metrics.stalls)),
                f"longest {_seconds(longest)}, together {_seconds(seconds)}"
                if times
                else f"for {_seconds(loop.threshold or 0)} or longer",
            )
        )
    if metrics.queue_delay.count:
        tiles.append(
            (
                "Queue delay",
                _within(metrics.queue_delay, 0.99),
                f"99{_THIN}% within that, half within"
                f" {_within(metrics.queue_delay, 0.5)}",
            )
        )
    rate = metrics.callbacks / loop.seconds if loop.seconds else 0
    tiles += [
        (
            "Callbacks",
            _number(metrics.callbacks),
            f"{_number(round(rate))} a second" if loop.seconds >= 1 else "",
        ),
        (
            "Tasks",
            _number(metrics.tasks_created),
            f"{_number(metrics.tasks_failed)} failed,"
            f" {_number(metrics.tasks_cancelled)} cancelled",
        ),
    ]
    if metrics.bytes_received or metrics.bytes_sent:
        tiles.append(
            (
                "Received",
                _bytes(metrics.bytes_received),
                f"{_bytes(metrics.bytes_sent)} sent",
            )
        )
    return el(
        "dl",
        [
            el("div", el("dt", name), el("dd", value, el("small", more)))
            for name, value, more in tiles
        ],
        class_="figures",
    )


# --- how busy it was ----------------------------------------------------------------

_TOP, _PLOT, _AXIS = 28, 140, 24  # heights: pins, plot, labels below


def _defs() -> Html:
    """The patterns, once in the page."""
    hatch = el(
        "pattern",
        el("path", d="M-2 2L2-2M0 8L8 0M6 10L10 6", class_="hatch"),
        id="stall",
        width=8,
        height=8,
        patternUnits="userSpaceOnUse",
    )
    dots = el(
        "pattern",
        [el("circle", cx=x, cy=x, r=1, class_="dots") for x in (1.5, 4.5)],
        id="gil",
        width=6,
        height=6,
        patternUnits="userSpaceOnUse",
    )
    return el(
        "svg",
        el("defs", hatch, dots),
        width=0,
        height=0,
        class_="defs",
        aria_hidden="true",
    )


def _x(seconds: float, span: float) -> float:
    return round(min(max(seconds / span, 0.0), 1.0) * 100, 3)


def _area(loop: LoopReport, span: float) -> str:
    path, at = ["M0 100"], 0.0
    for one in loop.timeline:
        start, end = (_x(time, span) * 100 for time in (one.start, one.end))
        if start > at:
            path.append(f"V100H{start:g}")
        path.append(f"V{100 - one.busy * 100:.4g}H{end:g}")
        at = end
    return "".join([*path, "V100Z"])


def _gil(loop: LoopReport, span: float) -> Iterator[Html]:
    for one in loop.timeline:
        if one.gil >= 0.01:
            height = _PLOT * one.gil
            yield el(
                "rect",
                x=f"{_x(one.start, span)}%",
                width=f"{_x(one.end - one.start, span)}%",
                y=f"{_TOP + _PLOT * (1 - one.busy) - height:.1f}",
                height=f"{height:.1f}",
                fill="url(#gil)",
            )


def _marks(loop: LoopReport, span: float) -> Iterator[Html]:
    marks = sorted(
        (began, seconds, number)
        for number, place in enumerate(loop.stalls, 1)
        for began, seconds in place.times
    )
    pins: list[tuple[float, int]] = []
    for began, seconds, number in marks:
        x = _x(began, span)
        for fill in ("var(--paper)", "url(#stall)"):
            yield el(
                "rect",
                x=f"{x}%",
                width=f"{_x(seconds, span)}%",
                y=_TOP,
                height=_PLOT,
                style=f"fill: {fill}",
            )
        yield el(
            "line",
            x1=f"{x}%",
            x2=f"{x}%",
            y1=_TOP - 8,
            y2=_TOP + _PLOT,
            class_="edge",
        )
        if not pins or x - pins[-1][0] >= 6:
            pins.append((x, number))
    for x, number in pins:
        yield el(
            "g",
            el("circle", cx=f"{x}%", cy=11, r=10),
            el("text", str(number), x=f"{x}%", y=15, text_anchor="middle"),
            class_="pin",
        )


def _ticks(span: float) -> tuple[float, list[float]]:
    """Return a step of 1, 2 or 5, or of minutes or hours, and its multiples."""
    rough = span / 4.5
    if rough > 40:
        units = [60, 120, 300, 600, 1200, 1800, 3600, 7200, 4 * 3600, 12 * 3600]
        step = next((unit for unit in units if unit >= rough), 0.0)
        step = step or math.ceil(rough / 86400) * 86400.0
    else:
        power = 10 ** math.floor(math.log10(rough))
        step = next(power * n for n in (1, 2, 5, 10) if power * n >= rough * 0.999)
    return step, [n * step for n in range(int(span / step * 1.000_1) + 1)]


def _tick_label(seconds: float, step: float) -> str:
    if seconds == 0:
        return "0"
    unit, size = next(
        (unit, size)
        for unit, size in (("h", 3600), ("min", 60), ("s", 1), ("ms", 1e-3), ("µs", 0))
        if step >= size
    )
    value = seconds / (size or 1e-6)
    return f"{value:.6g}{_THIN}{unit}"


def _chart(loop: LoopReport) -> Html:
    span = max(loop.seconds, loop.timeline[-1].end if loop.timeline else 0, 1e-5)
    bottom = _TOP + _PLOT
    grid = [
        el("line", x1=0, x2="100%", y1=y, y2=y, class_="grid")
        for y in (_TOP, _TOP + _PLOT / 2)
    ]
    step, ticks = _ticks(span)
    labels = []
    for tick in ticks:
        x = _x(tick, span)
        anchor = "start" if x < 2 else "end" if x > 96 else "middle"
        labels += [
            el(
                "line",
                x1=f"{x}%",
                x2=f"{x}%",
                y1=bottom,
                y2=bottom + 4,
                class_="axis",
            ),
            el(
                "text",
                _tick_label(tick, step),
                x=f"{x}%",
                y=bottom + 18,
                text_anchor=anchor,
            ),
        ]
    area = el(
        "svg",
        el("path", d=_area(loop, span), class_="busy"),
        x=0,
        y=_TOP,
        width="100%",
        height=_PLOT,
        viewBox="0 0 10000 100",
        preserveAspectRatio="none",
    )
    times = loop.stuck[0]
    words = f"{_percent(loop.metrics.utilization)} busy in {_seconds(loop.seconds)}"
    if times:
        words += f", stuck {_times(times)}"
    svg = el(
        "svg",
        grid,
        area,
        list(_gil(loop, span)),
        list(_marks(loop, span)),
        el("line", x1=0, x2="100%", y1=bottom, y2=bottom, class_="axis"),
        labels,
        el("text", f"100{_THIN}%", x="100%", y=_TOP + 12, text_anchor="end"),
        el("text", f"50{_THIN}%", x="100%", y=_TOP + _PLOT / 2 + 12, text_anchor="end"),
        class_="chart" if times else "chart calm",
        width="100%",
        height=_TOP + _PLOT + _AXIS,
        role="img",
        aria_label=f"How busy the loop was over time: {words}.",
    )
    legend = [_swatch("var(--fill)", "ran callbacks")]
    if any(one.gil >= 0.01 for one in loop.timeline):
        legend.append(_swatch("url(#gil)", "waited for the GIL"))
    if times:
        legend.append(_swatch("url(#stall)", "stuck; the number is that of the list"))
    return el("figure", svg, el("figcaption", legend))


def _swatch(fill: str, words: str) -> Html:
    box = el("rect", x=0.5, y=0.5, width=23, height=11, style=f"fill: {fill}")
    frame = el("rect", x=0.5, y=0.5, width=23, height=11, class_="frame")
    svg = el("svg", box, frame, width=24, height=12, aria_hidden="true")
    return el("span", svg, words)


def _bar(part: float, width: str = "100%") -> Html:
    """A bar of a table."""
    share = max(round(min(part, 1) * 100, 2), 0.5) if part > 0 else 0
    return el(
        "svg",
        el("rect", x=0, y=0, width=f"{share:g}%", height=9, class_="bar"),
        width=width,
        height=9,
        aria_hidden="true",
    )


def _histogram(title: str, explanation: str, histogram: Histogram) -> Html:
    counts = histogram.counts
    used = [i for i, number in enumerate(counts) if number]
    total, most = histogram.count, max(counts)
    marks: dict[int, list[str]] = {}
    bounds = (*histogram.bounds, math.inf)
    for q, name in ((0.5, "half"), (0.99, f"99{_THIN}%")):
        marks.setdefault(bounds.index(histogram.quantile(q)), []).append(name)
    rows = []
    for i in range(used[0], used[-1] + 1):
        bound = bounds[i]
        label = f"≤ {_seconds(bound)}" if bound < math.inf else "longer"
        tags = [[" ", el("span", name, class_="tag")] for name in marks.get(i, ())]
        share = math.log1p(counts[i]) / math.log1p(most)
        rows.append(
            el(
                "tr",
                el("td", label),
                el("td", _bar(share)),
                el("td", _number(counts[i]) if counts[i] else "", class_="n"),
                el("td", tags),
            )
        )
    head = el(
        "p",
        f"{explanation} {_seconds(histogram.mean)} on average of"
        f" {_number(total)}. The bars' lengths are logarithmic.",
        class_="dim small",
    )
    table = el("table", el("tbody", rows), class_="histogram")
    return el("div", el("h3", title), head, table)


# --- stalls -------------------------------------------------------------------------


def _stack(rows: Iterable[tuple[str, str, bool]]) -> Html:
    """Show frames, outermost first: place, source, and whether it is the program's."""
    rows = [*rows]
    own = [i for i, row in enumerate(rows) if row[2]]
    here = own[-1] if own else -1
    items = []
    for i, (place, source, user) in enumerate(rows):
        class_ = "here" if i == here else None if user else "library"
        items.append(
            el("li", _code(place), _code(source) if source else None, class_=class_)
        )
    return el("ol", items, class_="stack")


def _frames_of(frames: Iterable[_frames.Frame]) -> Html:
    return _stack(
        (row, "", False)
        if isinstance(row, str)
        else (row.place, row.source, row.is_user)
        for row in _frames.rows(frames)
    )


def _stall(place: Place, number: int) -> Html:
    stall = place.stall
    title: list[Any] = [
        el("span", str(number), class_="badge"),
        f"{_seconds(place.longest)}",
    ]
    if stall.frame is not None:
        title += [" at ", _code(stall.frame.place)]
    title += [" ", el("span", stall.cause, class_="tag")]
    first = min(began for began, _ in place.times)
    if place.count == 1:
        when = f"At {_seconds(max(first, 0))}"
    else:
        when = (
            f"{_times(place.count).capitalize()}, {_seconds(place.seconds)} in all,"
            f" for the first time at {_seconds(max(first, 0))}"
        )
    told: list[Any] = [when]
    if stall.task is not None:
        told += [", in task ", _code(stall.task)]
    told.append(f" of {stall.thread}. It still lasts." if place.lasts else ".")
    parts = [el("h4", title), _p(told, class_="dim small")]
    parts.append(_p(f"After {_seconds(stall.seconds)}: {stall.words}."))
    for seconds, where, words in place.looks:
        at = f", at {where}" if where else ""
        parts.append(_p(f"After {_seconds(seconds)}: {words}{at}."))
    if stall.stack:
        if not stall.exact:
            parts.append(el("h5", "Stack, approximate, innermost last"))
        parts.append(_frames_of(stall.stack))
    if stall.holder_stack:
        parts.append(el("h5", f"The GIL is held by {stall.holder}"))
        parts.append(_frames_of(stall.holder_stack))
    if stall.awaited_by:
        parts.append(_p("Awaited by ", _code(", ".join(stall.awaited_by)), "."))
    meanwhile = f"Meanwhile {stall.waiting()}."
    if stall.cpu_seconds is not None:
        meanwhile += f" The thread had a processor for {_seconds(stall.cpu_seconds)}"
        meanwhile += f" of the first {_seconds(stall.seconds)}."
    parts.append(_p(meanwhile, class_="dim small"))
    if stall.before:
        parts += [el("h5", "What ran before, latest last"), _before(stall.before)]
    return el("article", parts, class_="bad", id=f"stall-{number}")


def _before(runs: Iterable[dict[str, Any]]) -> Html:
    rows = [
        el(
            "tr",
            el("td", _seconds(run["duration"]), class_="n"),
            el("td", _code(place_of_run(run))),
        )
        for run in runs
    ]
    return el("table", el("tbody", rows), class_="before small")


def _folded(items: list[Html], noun: str) -> list[Html]:
    """Fold what is too much."""
    if len(items) <= OPEN:
        return items
    rest = items[OPEN:]
    summary = el("summary", f"{_number(len(rest))} more {noun}")
    return [*items[:OPEN], el("details", summary, rest)]


def _stalls(loop: LoopReport) -> list[Any]:
    times = loop.stuck[0]
    if not times:
        if loop.metrics.stalls:
            return [
                _p(
                    f"The loop was stuck {_times(loop.metrics.stalls)}; where, is known"
                    " from report_at_exit() on, or with ",
                    _code("python -m aioloop --report"),
                    ".",
                )
            ]
        if loop.threshold is None:
            return [_p("Nobody looked: ", _code("loop.stall_threshold"), " is None.")]
        return [_p(f"No callback took {_seconds(loop.threshold)} or longer.")]
    items = [_stall(place, number) for number, place in enumerate(loop.stalls, 1)]
    found: list[Any] = [_folded(items, "places")]
    if loop.more_stalls:
        found.append(_p(f"And {_times(loop.more_stalls)} in further places."))
    return found


# --- who used it --------------------------------------------------------------------


def _top(loop: LoopReport) -> Html:
    total = sum(use.time for use in loop.top) + loop.others_time
    alive = any(use.alive for use in loop.top)
    rows = []
    for use in loop.top:
        share = use.time / total if total else 0.0
        cells: list[tuple[str, str]] = [
            ("Steps", _number(use.steps)),
            ("Longest", _seconds(use.longest)),
            ("Waited", _seconds(use.queue_delay)),
        ]
        if alive:
            cells.append(("Alive", _number(use.alive) if use.kind == "task" else ""))
        spins = el("span", "spins on sleep(0)", class_="tag bad") if use.spins else None
        rows.append(
            el(
                "tr",
                el(
                    "td",
                    f"{_seconds(use.time)} ",
                    el(
                        "span",
                        f"({_percent(share)})" if share >= 0.0005 else "",
                        class_="dim",
                    ),
                    _bar(share) if share >= 0.0005 else None,
                    data_label="Used",
                ),
                [
                    el("td", value, class_="n", data_label=label if value else None)
                    for label, value in cells
                ],
                el(
                    "td",
                    _code(use.place),
                    " ",
                    el("span", use.kind, class_="dim small"),
                    " ",
                    spins,
                    class_="what",
                ),
            )
        )
    names = ["Steps", "Longest", "Waited", *(["Alive"] if alive else [])]
    head = el(
        "tr",
        el("th", "Used", scope="col"),
        [el("th", name, class_="n", scope="col") for name in names],
        el("th", "By", scope="col"),
    )
    rest = None
    if loop.others:
        rest = _p(
            f"And {_seconds(loop.others_time)} by {_number(loop.others)} others.",
            class_="dim small",
        )
    return el(
        "div",
        el("table", el("thead", head), el("tbody", rows), class_="use"),
        rest,
    )


# --- tasks, orphans -----------------------------------------------------------------


def _task(alike: Alike) -> Html:
    task = alike.task
    title: list[Any] = [_code(task.label)]
    if alike.count > 1:
        title += [" and ", f"{_number(alike.count - 1)} like it"]
    parts = [
        el("h4", title),
        _p(task.situation[:1].upper() + task.situation[1:], "."),
    ]
    if task.created is not None:
        parts.append(
            _p("Created at ", _code(str(task.created)), ".", class_="dim small")
        )
    if alike.count > 1:
        names = ", ".join(alike.names[1:])
        more = alike.count - len(alike.names)
        names += f" and {_number(more)} more" if more else ""
        parts.append(_p("The others: ", _code(names), ".", class_="dim small"))
    if task.stack:
        parts.append(
            _stack(
                (
                    str(place),
                    place.source,
                    place.is_user,
                )
                for place in task.stack
            )
        )
    return el("article", parts)


def _tasks(tasks: Tasks, running: bool) -> list[Any]:
    title = "Tasks alive" if running else "Tasks alive when the loop stopped"
    found: list[Any] = [el("h3", f"{title}: {_number(tasks.count)}")]
    lost = *tasks.deadlocks, *tasks.leaks
    found += [_p(_code(text), class_="bad") for text in lost]
    found.append(_folded([_task(one) for one in tasks.alike], "kinds of tasks"))
    if tasks.left_out:
        found.append(_p(f"And {count(tasks.left_out, 'task')} of further kinds."))
    if not tasks.count:
        found.append(_p("None: every task had come to its end."))
    if tasks.tree:
        found += [el("h5", "Who waits for whom"), _pre(tasks.tree)]
    if tasks.alive:
        found.append(
            el(
                "h3",
                "What kept the loop alive"
                if not running
                else "What keeps the loop alive",
            )
        )
        for kind, texts in tasks.alive.items():
            items = [el("li", _code(text)) for text in texts]
            found += [
                el("h5", f"{kind.capitalize()}: {_number(len(texts))}"),
                el("ul", items[:OPEN], class_="plain"),
            ]
            if len(items) > OPEN:
                summary = el("summary", f"{_number(len(items) - OPEN)} more")
                rest = el("ul", items[OPEN:], class_="plain")
                found.append(el("details", summary, rest))
    return found


def _orphans(orphans: Iterable[Orphan]) -> list[Html]:
    orphans = [*orphans]
    items = [
        el(
            "article",
            _p(
                el(
                    "span",
                    f"{_number(orphan.count)}\N{MULTIPLICATION SIGN}",
                    class_="tag",
                ),
                " ",
                el("bdi", str(orphan)),
                ".",
            ),
            class_="bad",
        )
        for orphan in orphans
    ]
    if not items:
        return [_p("None: nothing was lost.")]
    if any(orphan.created is None for orphan in orphans):
        hint = _p(
            "Where they were made is known with ",
            _code("python -m aioloop --orphans"),
            ".",
            class_="dim small",
        )
        return [hint, *_folded(items, "places")]
    return _folded(items, "places")


# --- the page -----------------------------------------------------------------------


def _loop(loop: LoopReport, several: bool) -> Html:
    parts: list[Any] = []
    if several:
        thread = "" if loop.thread is None else f" of thread {loop.thread}"
        parts += [
            el("h2", f"Loop {loop.number}{thread}"),
            _p(f"{loop.state.capitalize()}, {_seconds(loop.seconds)}.", class_="dim"),
        ]
    parts += [_figures(loop), el("h3", "How busy it was")]
    if loop.metered:
        parts.append(_chart(loop))
    else:
        parts.append(_p("Not measured: ", _code("loop.metering"), " was off."))
    parts += [el("h3", "Where it was stuck"), *_stalls(loop)]
    metrics = loop.metrics
    histograms = [
        _histogram(title, explanation, histogram)
        for title, explanation, histogram in (
            (
                "Queue delay",
                "How long callbacks waited until they ran:",
                metrics.queue_delay,
            ),
            ("Callback duration", "How long they took:", metrics.callback_duration),
        )
        if histogram.count
    ]
    if histograms:
        parts.append(el("div", histograms, class_="two"))
    if loop.top:
        parts += [el("h3", "Who used the loop"), _top(loop)]
    parts += _tasks(loop.tasks, loop.state not in ("closed", "not running"))
    return el("section", parts)


def _data(report: Report) -> Html:
    """The same as JSON, for programs that read the page."""
    text = json.dumps(_report.as_dict(report), separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(f'<script type="application/json" id="data">{text}</script>')


def to_html(report: Report) -> str:
    """Return a report as a page."""
    written = report.written.strftime("%Y-%m-%d %H:%M:%S %Z")
    about = (
        f"{written} · {_seconds(report.seconds)} · process {report.process} ·"
        f" Python {report.python} · aioloop {report.aioloop} · {report.system}"
    )
    verdict = [
        el(
            "li",
            el("b", "!" if bad else "✓"),
            el("span", text),
            class_="bad" if bad else None,
        )
        for bad, text in _verdict(report)
    ]
    several = len(report.loops) > 1
    body = el(
        "body",
        _defs(),
        el(
            "header",
            el("h1", report.program),
            _p(about, class_="dim small wide"),
            el("ul", verdict, class_="verdict"),
        ),
        el(
            "main",
            [_loop(loop, several) for loop in report.loops],
            _p(f"{count(report.more_loops, 'other loop')} had less to do.")
            if report.more_loops
            else None,
            el("section", el("h3", "Orphans"), _orphans(report.orphans)),
        ),
        el(
            "footer",
            f"Written {report.why} by ",
            _code("aioloop"),
            ". Times are seconds since the loop was made. The element with the id"
            " “data” has the same as JSON.",
        ),
        _data(report),
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("title", f"{report.program}: aioloop report"),
        el("style", Html(STYLE)),
    )
    return f'<!doctype html>\n<html lang="en">{head}{body}</html>\n'
