"""The pages keep their word: links lead somewhere, examples run, output is as shown.

Every block of a page has a language. ``python`` is run, ``sh`` is a list of commands,
each of which is run as far as a test can, and ``console`` is a command with what it
prints. A comment ``<!-- run by tests/... -->`` before a block names the test that runs
it instead.
Blocks of other languages, such as ``text``, are looked at by nobody.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from benchmarks import pictures
from tests.conftest import LIMIT, needs_lost_tasks, needs_watchdog
from tests.plugs.test_servers import SERVERS

TREE = Path(__file__).parents[2]
EXAMPLES = TREE / "docs" / "examples"
PAGES = [
    *(TREE / f"{n}.md" for n in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY")),
    *sorted((TREE / "docs").glob("*.md")),
    TREE / "src" / "README.md",
]
FENCE = re.compile(
    r"^(?:<!-- run by (?P<test>\S+) -->\n)?"
    r"```(?P<language>.*)\n(?P<body>(?s:.*?))^```$",
    re.MULTILINE,
)
# What a program's block needs, if it shows this.
NEEDS = (
    ("The loop has been stuck", needs_watchdog),
    ("NOTHING CAN WAKE IT", needs_lost_tasks),
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
INLINE = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
STARTS = ("python ", "make ", "uvicorn ", ".ci/")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
release_only = pytest.mark.skipif(
    "AIOLOOP_FLAVOUR" in os.environ, reason="the pages show the release build"
)


def blocks(language):
    """Return a parameter for each block of a language that no other test runs."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in FENCE.finditer(text):
            if match["language"] == language and not match["test"]:
                line = text[: match.start("body")].count("\n") + 1
                name = f"{page.relative_to(TREE)}:{line}"
                marks = [mark for said, mark in NEEDS if said in match["body"]]
                found.append(pytest.param(match["body"], id=name, marks=marks))
    return found


def prose(page):
    """Return a page without its blocks."""
    return FENCE.sub("", page.read_text())


def anchors(page):
    """Return the anchors of a page's headings, as hosting services make them."""
    found = []
    for heading in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        found.append(re.sub(r"[^\w\- ]", "", text).replace(" ", "-"))
    return found


def commands():
    """Return every command that a page names, in a block or in its text."""
    found = {}
    for page in PAGES:
        lines = [" ".join(code.split()) for code in INLINE.findall(prose(page))]
        lines = [line for line in lines if line.startswith(STARTS)]
        for match in FENCE.finditer(page.read_text()):
            if match["language"] == "sh" and not match["test"]:
                lines += match["body"].splitlines()
        for line in lines:
            words = shlex.split(line, comments=True)
            if words:
                found.setdefault(shlex.join(words), words)
    return [pytest.param(words, id=name) for name, words in found.items()]


# Links and pictures.


@pages
def test_links_lead_somewhere(page):
    for link in LINK.findall(prose(page)):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.is_file(), link
        if anchor:
            assert anchor in anchors(path), link


@pages
def test_blocks_have_a_language_and_a_test(page):
    for match in FENCE.finditer(page.read_text()):
        assert re.fullmatch(r"[a-z]+", match["language"]), match[0]
        if match["test"]:
            assert (TREE / match["test"]).is_file(), match["test"]
    assert page.read_text().count("\n```") % 2 == 0


def test_every_page_is_reached_from_the_readme():
    reached, waiting = set(), [TREE / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        for link in LINK.findall(prose(page)):
            path = (page.parent / link.partition("#")[0]).resolve()
            if path.suffix == ".md" and path.is_file() and path not in reached:
                waiting.append(path)
    assert set(PAGES) <= reached


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_a_plot_has_the_rows_of_its_table(name):
    path = pictures.FOLDER / f"{name}.svg"
    names = re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())
    again = re.findall(
        r"<text[^>]*>([^<]*)</text>", pictures.draw(pictures.PICTURES[name])
    )
    assert names == again, "draw it anew: python -m benchmarks.pictures"


# Examples in Python.

PRELUDE = """
import ast, asyncio, dataclasses, inspect, sys
import aioloop
try:
    from prometheus_client import REGISTRY
except ImportError:
    pass

async def main():
    await asyncio.sleep(0)

async def inside(code):
    names = {**globals(), "loop": asyncio.get_running_loop()}
    outcome = eval(code, names)
    if inspect.isawaitable(outcome):
        await outcome

async def sleep(delay, sleep=asyncio.sleep):
    await sleep(min(delay, 0.01))

asyncio.sleep = sleep
source = sys.stdin.read()
if "run(" in source:
    exec(compile(source, "<page>", "exec"))
else:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    aioloop.run(inside(compile(source, "<page>", "exec", flags)))
"""


def runs_here(line):
    """Tell whether a line is for this version: its comment may say "3.12+"."""
    found = re.search(r"#.*?\b3\.(\d+)\+;", line)
    return found is None or sys.version_info[:2] >= (3, int(found[1]))


@release_only
@pytest.mark.parametrize("source", blocks("python"))
def test_example_runs(source):
    for name in re.findall(r"^from aioloop import (\w+)$", source, re.MULTILINE):
        needed = {"prometheus": "prometheus_client"}.get(name, name)
        pytest.importorskip(needed)
    source = "\n".join(line for line in source.splitlines() if runs_here(line))
    ast.parse(source)
    done = finish([sys.executable, "-c", PRELUDE], TREE, input=source)
    assert done.returncode == 0, done.stderr


def environment():
    return {**os.environ, "PYTHONPATH": str(TREE), "PYTHONUNBUFFERED": "1"}


def finish(command, folder, **options):
    """Run a command to its end; return it with its output."""
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        **options,
    )


# Commands.

PROGRAM = """
import asyncio

async def main():
    print(type(asyncio.get_running_loop()).__module__)

asyncio.run(main())
"""

APPLICATION = """
import asyncio, os, signal

async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    print(type(asyncio.get_running_loop()).__module__, flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
"""


def run_program(words, folder):
    """python -m aioloop: options, and a program that finds itself on our loop."""
    if words[-1] not in ("app.py", "module"):
        ask_for_help(words, folder)
        return
    (folder / "app.py").write_text(PROGRAM)
    (folder / "module.py").write_text(PROGRAM)
    done = finish([sys.executable, *words[1:]], folder)
    assert (done.returncode, done.stdout) == (0, "aioloop._loop\n"), done.stderr


def find_plug(words, folder):
    """A server on its plug point: a test of tests/plugs runs it, under load."""
    start = " ".join(words[1:-1])
    assert any(command.startswith(start) for _, command, *_ in SERVERS.values())


def run_server(words, folder):
    """uvicorn: an application that ends its server."""
    pytest.importorskip("uvicorn")
    (folder / "app.py").write_text(APPLICATION)
    command = [sys.executable, "-m", *words, "--port", "0"]
    done = finish(command, folder)
    assert "aioloop._loop\n" in done.stdout, done.stderr


def ask_for_help(words, folder):
    """A command that changes something or takes long: its help has the options."""
    done = finish([sys.executable, *words[1:3], "--help"], TREE)
    assert done.returncode == 0, done.stderr
    for option in words[3:]:
        if option.startswith("-"):
            assert re.search(rf"(?<!\w){option}\b", done.stdout), option


def ask_asyncio(words, folder):
    if sys.version_info < (3, 14):
        pytest.skip("python -m asyncio ps is of 3.14")
    assert words[3] in finish([sys.executable, "-m", "asyncio", "-h"], TREE).stdout


def ask_make(words, folder):
    """make: it knows what it would do."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = finish(["make", "-n", *words[1:]], TREE)
    assert done.returncode == 0, done.stderr
    goals = [word for word in words[1:] if "=" not in word]
    told = re.findall(r"^([a-z-]+):.*##", (TREE / "Makefile").read_text(), re.MULTILINE)
    assert set(goals) <= set(told)


def find_script(words, folder):
    """A script of .ci, which its own steps of CI run."""
    assert os.access(TREE / words[0], os.X_OK)


def install(words, folder):
    """pip install: the step "package" of .ci/run does it."""
    assert re.search('pip"? install', (TREE / ".ci" / "run").read_text())


RULES = {
    r"make ": ask_make,
    r"python -m aioloop(\.| .*-m (fastapi|hypercorn|litestar|uvicorn) )": find_plug,
    r"python -m aioloop\b": run_program,
    r"python -m (benchmarks|tests\.(upstream|libs\.table))\b": ask_for_help,
    r"python -m asyncio ": ask_asyncio,
    r"python -m pip install \.$": install,
    r"uvicorn ": run_server,
    r"\.ci/": find_script,
}


@release_only
@pytest.mark.parametrize("words", commands())
def test_command_works(words, tmp_path):
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    for start, rule in RULES.items():
        if re.match(start, " ".join(words)):
            rule(words, tmp_path)
            return
    pytest.fail(f"no rule runs {' '.join(words)}")


# Programs with their output.


def normal(line):
    """Return a line of output without what differs from run to run.

    Frames of the standard library are as each version has them; what a loop was stuck
    in at the moment of a look is the kernel's affair.
    """
    if re.search(r"\b(asyncio|concurrent|re)/\w+(/\w+)*\.py:\d+", line):
        return None
    line = re.sub(r"`: .*", "`", line)
    line = re.sub(r"(?<=[a-z])-\d+\b", "-N", line)
    line = re.sub(r"(?<![\w:.])\d+(:\d+)*(\.\d+)?\b", "N", line)
    line = line.replace(" (in N s)", "")  # It is not said of what is due by then.
    return " ".join(line.replace("└", "├").split())


@release_only
@pytest.mark.parametrize("block", blocks("console"))
def test_program_prints_what_is_shown(block):
    first, *shown = block.splitlines()
    assert first.startswith("$ python ")
    words = shlex.split(first[2:])
    wanted = [normal(line) for line in shown if line.strip() and line != "..."]
    wanted = [line for line in wanted if line is not None]
    printed = []
    with subprocess.Popen(
        [sys.executable, *words[1:]],
        cwd=EXAMPLES,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        # Some never end by themselves.
        limit = threading.Timer(LIMIT, process.kill)
        limit.start()
        try:
            while wanted and (line := process.stdout.readline()):
                printed.append(line)
                if normal(line) == wanted[0]:
                    del wanted[0]
        finally:
            limit.cancel()
            process.kill()
    assert not wanted, f"{wanted[0]}\n\nis not in\n\n{''.join(printed)}"


def test_every_program_is_shown():
    shown = "".join(page.read_text() for page in PAGES)
    for program in EXAMPLES.glob("*.py"):
        assert program.name in shown
