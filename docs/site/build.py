"""Make the pages of docs/, with search and an API reference, into HTML: ``make docs``.

The pages are plain Markdown, whose links lead to files of the repository and so work
wherever it is shown. Here they are put side by side into a folder of their own, with
their links and pictures following them, and given to Sphinx, for which every warning,
such as a link or an anchor that leads nowhere, is an error.
"""

import asyncio
import inspect
import os
import re
import shutil
import sys
from pathlib import Path

import aioloop
import aioloop.testing

TREE = Path(__file__).resolve().parents[2]
SOURCES = TREE / "build" / "pages"
HTML = TREE / "build" / "docs"

# The order of the pages. One of docs/ that is not named here comes before the source's.
FIRST = ("README", "docs/install", "docs/plugs", "docs/diagnosis", "docs/debug")
FIRST += ("docs/testing", "docs/testing_story", "docs/performance")
FIRST += ("docs/differences", "docs/tests")
LAST = ("src/README", "CHANGELOG", "CONTRIBUTING", "SECURITY")
NAMES = {"README": "index", "src/README": "source"}
API = "api"

# What the reference tells of, in which order; what is public and not here comes last.
GROUPS = {
    "Running a program": (
        "run",
        "new_event_loop",
        "install",
        "uninstall",
        "EventLoopPolicy",
        "libev_version",
    ),
    "The loop and what it runs": ("Loop", "Future", "Task", "Handle", "TimerHandle"),
    "Debug mode": ("DebugOptions", "allow_blocking", "BlockingCallError"),
    "Diagnosis": (
        "dump",
        "dump_on_signal",
        "cancelled_from",
        "report",
        "report_at_exit",
        "spawn",
        "orphans",
        "Orphan",
        "Metrics",
        "Histogram",
        "Usage",
        "Use",
    ),
}
MODULES = {
    "Testing": tuple(f"testing.{name}" for name in aioloop.testing.__all__),
    "Dashboards": ("prometheus.LoopCollector", "opentelemetry.observe"),
}

FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def pages():
    """Return {path of a Markdown file: name of its page}, in order."""
    others = sorted(
        f"docs/{path.stem}"
        for path in (TREE / "docs").glob("*.md")
        if f"docs/{path.stem}" not in FIRST
    )
    return {
        TREE / f"{page}.md": NAMES.get(page, page.rpartition("/")[2].lower())
        for page in (*FIRST, *others, *LAST)
        if (TREE / f"{page}.md").exists()
    }


def moved(text, page, names):
    """Return a page's text with its links as they are in the folder of the pages."""

    def follow(match):
        target, hash_, anchor = match[2].partition("#")
        if not target or ":" in target:
            return match[0]
        path = (page.parent / target).resolve()
        if path in names:
            target = f"{names[path]}.md"
        else:
            place = path.relative_to(TREE)
            if path.is_file():
                copy = SOURCES / "files" / place
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
            target = f"files/{place}"
        return f"{match[1]}{target}{hash_}{anchor}{match[3]}"

    parts = FENCE.split(text)
    parts[::2] = [LINK.sub(follow, part) for part in parts[::2]]
    return "".join(parts)


def directive(name):
    """Return what tells Sphinx to describe one name of the package."""
    value, path = getattr(aioloop, name, None), f"aioloop.{name}"
    if path.startswith("aioloop.testing."):
        value = getattr(aioloop.testing, name.partition(".")[2])
    is_class = inspect.isclass(value) or name == "prometheus.LoopCollector"
    if not is_class:
        lines = [f".. autofunction:: {path}"]
    else:
        lines = [f".. autoclass:: {path}"]
        if value is not None and (members := own_members(value)):
            lines.append(f"   :members: {', '.join(members)}")
    return "\n".join(["```{eval-rst}", *lines, "```", ""])


def own_members(kind):
    """Return the public members of a class that asyncio's class has not."""
    theirs = next(
        (base for base in kind.__mro__ if base.__module__.startswith("asyncio.")),
        BaseException if issubclass(kind, BaseException) else object,
    )
    if kind is aioloop.Loop:
        theirs = asyncio.SelectorEventLoop
    return sorted(
        name
        for name in dir(kind)
        if not name.startswith("_")
        and not hasattr(theirs, name)
        and (inspect.getdoc(getattr(kind, name)) or is_field(kind, name))
    )


def is_field(kind, name):
    return name in getattr(kind, "__dataclass_fields__", ())


def reference():
    """Return the page of the API reference."""
    public = [name for name in aioloop.__all__ if name != "__version__"]
    named = {name for names in GROUPS.values() for name in names}
    groups = dict(GROUPS)
    if rest := tuple(name for name in public if name not in named):
        groups["More"] = rest
    lines = ["# API reference", ""]
    lines.append(
        "What aioloop adds to asyncio. Everything else is as asyncio's documentation"
        " has it: `aioloop.Loop` is an `asyncio.SelectorEventLoop`, with all of its"
        " methods."
    )
    for title, names in (groups | MODULES).items():
        lines += ["", f"## {title}", ""]
        lines += [directive(n) for n in names if n in public or "." in n]
    return "\n".join(lines)


def main():
    """Write the pages' copies and build the HTML; exit with Sphinx's status."""
    from sphinx.cmd.build import main as build

    shutil.rmtree(SOURCES, ignore_errors=True)
    SOURCES.mkdir(parents=True)
    names = pages()
    for page, name in names.items():
        text = moved(page.read_text(), page, names)
        if name == "index":
            order = [*list(names.values())[1:]]
            order.insert(order.index("source"), API)
            text += "\n".join(["", "```{toctree}", ":hidden:", "", *order, "```", ""])
        (SOURCES / f"{name}.md").write_text(text)
    (SOURCES / f"{API}.md").write_text(reference())
    here = str(Path(__file__).parent)
    options = ["-q", "-W", "--keep-going", "-b", "html", "-c", here]
    options += ["-d", str(TREE / "build" / "doctrees")]
    status = build([*options, str(SOURCES), str(HTML)])
    if status == 0:
        print(f"docs: {os.path.relpath(HTML / 'index.html')}")
    return status


if __name__ == "__main__":
    sys.exit(main())
