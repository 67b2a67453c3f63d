"""report(), report_at_exit() and --report: the page that a user opens."""

from __future__ import annotations

import asyncio
import contextlib
import html.parser
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import textwrap

import pytest

import aioloop
from tests.conftest import LIMIT, needs_gil, needs_lost_tasks, needs_watchdog

HOSTILE = '</script><img src=x onerror="console.error(1)">\x07\u202e<b>&amp;'
VOID = {"meta", "br"}

# Blocks its loop until the stall is known: the program's logger gets the record.
STUCK = """
import asyncio, logging, threading
import aioloop

seen = threading.Event()

class Seen(logging.Handler):
    def emit(self, record):
        records.append(record)
        seen.set()

records = []
logging.getLogger("asyncio").addHandler(Seen())
logging.getLogger("asyncio").propagate = False

async def block():
    await asyncio.sleep(0)
    assert seen.wait(50)

def lose():
    raise AssertionError("nobody asks for it")
"""


class Page(html.parser.HTMLParser):
    """Reads a page and refuses what is not well-formed, or not self-contained."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.words = [], [], set(), []
        self.data = None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, attrs)
        for name, value in attrs:
            assert not name.startswith("on"), (tag, attrs)
            assert name not in ("src", "href"), (tag, attrs)
            assert "//" not in (value or ""), (tag, attrs)
            if name == "id":
                assert value not in self.ids
                self.ids.add(value)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            assert self.data is None
            self.data = json.loads(data)
        elif self.open and self.open[-1] == "style":
            assert "url(" not in data
            assert "@import" not in data
        else:
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.words))


def checked(text):
    """Parse a page and check what is true of all."""
    page = Page(text)
    assert text.startswith("<!doctype html>")
    kinds = [tag for tag, _ in page.tags]
    assert set(kinds).isdisjoint({"img", "link", "iframe", "object", "a"})
    assert kinds.count("script") == 1
    assert ("script", {"type": "application/json", "id": "data"}) in page.tags
    names = [attributes.get("name") for tag, attributes in page.tags if tag == "meta"]
    assert "viewport" in names
    assert page.data["process"] > 0
    return page


@pytest.fixture
def reported(tmp_path, python):
    """Return a function that runs a program and returns its page and its output."""

    def reported(program, *options, status=0, env=None):
        (tmp_path / "app.py").write_text(textwrap.dedent(program))
        path = tmp_path / "report.html"
        report = [] if env else ["--report", path]
        done = python("-m", "aioloop", *report, *options, "app.py", env=env)
        assert done.returncode == status, done.stderr
        page = checked(path.read_text())
        page.output = done
        return page

    return reported


@needs_watchdog
def test_a_stall_with_cause_stack_and_what_ran_before(reported):
    page = reported(
        STUCK
        + """
async def main():
    for _ in range(3):
        await asyncio.sleep(0)
    await asyncio.create_task(block(), name="the <job>")

asyncio.run(main())
assert "What ran before, latest last:" in records[0].getMessage()
assert any("app.py" in run["file"] for run in records[0].loop_stall["before"])
""",
        "--stall",
        "0.1",
    )
    [loop] = page.data["loops"]
    [place] = [
        place
        for place in loop["stalls"]
        if place["stall"]["source"] == "__main__:block"
    ]
    assert place["count"] == 1
    assert 0.1 <= place["longest"] <= loop["seconds"]
    assert not place["lasts"]
    assert place["stall"]["task"] == "the <job>"
    assert "block" in [frame["function"] for frame in place["stall"]["stack"]]
    assert place["stall"]["before"]
    assert "Where it was stuck" in page.text
    assert "app.py:18 in block" in page.text
    assert "assert seen.wait(50)" in page.text
    assert place["stall"]["words"] in page.text
    assert "What ran before, latest last" in page.text
    assert "the <job>" in page.text
    assert ("g", {"class": "pin"}) in page.tags
    assert ("article", {"class": "bad", "id": "stall-1"}) in page.tags


@needs_watchdog
def test_without_stall_option_nothing_is_logged(reported):
    page = reported("""
        import asyncio, threading
        from aioloop import _report

        told = threading.Event()

        async def main():
            followed = _report._follower.loops[0]
            tell = followed.follow_stall
            followed.follow_stall = lambda stall: (tell(stall), told.set())
            assert told.wait(50)

        asyncio.run(main())
    """)
    assert page.output.stderr == ""
    [loop] = page.data["loops"]
    assert loop["threshold"] == 0.1
    assert [p["count"] for p in loop["stalls"] if "main" in p["stall"]["source"]] == [1]
    assert "in main" in page.text


def test_the_numbers_are_those_of_the_loop(reported):
    page = reported("""
        import asyncio

        async def worker():
            for _ in range(50):
                await asyncio.sleep(0)

        async def main():
            await asyncio.gather(*(worker() for _ in range(4)))

        asyncio.run(main())
    """)
    [loop] = page.data["loops"]
    metrics = loop["metrics"]
    assert loop["state"] == "closed"
    assert metrics["tasks_created"] >= 5
    assert sum(metrics["callback_duration"]["counts"]) >= 200
    assert 0 < metrics["utilization"] <= 1
    [worker] = [use for use in loop["top"] if use["name"] == "worker"]
    assert worker["steps"] == 4 * 51
    assert "in worker" in page.text
    timeline = loop["timeline"]
    assert timeline[0]["start"] >= 0
    for one, following in itertools.pairwise(timeline):
        assert one["end"] <= following["start"] + 1e-9
    for one in timeline:
        assert one["start"] < one["end"]
        assert 0 <= one["busy"] + one["gil"] <= 1 + 1e-9
    assert timeline[-1]["end"] <= loop["seconds"] + 1e-6
    assert "Queue delay" in page.text
    assert "None: every task had come to its end." in page.text
    assert "None: nothing was lost." in page.text


@needs_lost_tasks
def test_tasks_that_are_alive_at_the_end(reported):
    page = reported(f"""
        import asyncio

        async def waiter(queue):
            await queue.get()

        async def clerk(first, second):
            async with first:
                await asyncio.sleep(0)
                async with second:
                    pass

        async def main():
            queue, one, two = asyncio.Queue(), asyncio.Lock(), asyncio.Lock()
            tasks = [asyncio.create_task(waiter(queue)) for _ in range(5)]
            tasks.append(asyncio.create_task(waiter(queue), name={HOSTILE!r}))
            tasks.append(asyncio.create_task(clerk(one, two), name="a"))
            tasks.append(asyncio.create_task(clerk(two, one), name="b"))
            for _ in range(5):
                await asyncio.sleep(0)

        asyncio.run(main())
    """)
    tasks = page.data["loops"][0]["tasks"]
    assert tasks["count"] == 8
    assert sorted(one["count"] for one in tasks["alike"]) == [2, 6]
    names = [name for one in tasks["alike"] for name in one["names"]]
    assert HOSTILE in names
    assert "Tasks alive when the loop stopped: 8" in page.text
    assert HOSTILE.replace("\x07", "\u2407") in page.text
    assert "DEADLOCK: " in page.text
    assert tasks["deadlocks"][0] in page.text
    (leak,) = tasks["leaks"]
    assert leak.startswith("LEAK: 6 tasks wait for Queue.get")
    assert leak.split(" any more")[0] in page.text
    assert "who waits for whom" in page.text.lower()


def test_orphans_with_their_places(reported):
    page = reported(
        """
        import asyncio, gc, logging

        logging.disable()

        async def forgotten():
            await asyncio.get_running_loop().create_future()

        async def main():
            asyncio.create_task(forgotten())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            gc.collect()

        asyncio.run(main())
        """,
        "--orphans",
    )
    [orphan] = page.data["orphans"]
    assert orphan["kind"] == "pending_tasks"
    assert orphan["created"] == "app.py:10 in main"
    assert orphan["text"] in page.text
    assert "made at app.py:10 in main" in page.text


@pytest.mark.parametrize(
    ("end", "status", "error"),
    [
        ("raise ValueError('<no>')", 1, "ValueError: <no>"),
        ("sys.exit(3)", 3, None),
        ("signal.raise_signal(signal.SIGINT)", -signal.SIGINT, "KeyboardInterrupt"),
    ],
    ids=["exception", "exit", "SIGINT"],
)
def test_it_is_written_however_the_program_ends(reported, end, status, error):
    page = reported(
        f"""
        import asyncio, signal, sys

        async def waiter():
            await asyncio.get_running_loop().create_future()

        async def main():
            task = asyncio.create_task(waiter(), name="left over")
            await asyncio.sleep(0)
            {end}
            await waiter()
            await task

        asyncio.run(main())
        """,
        status=status,
    )
    assert page.data["error"] == error
    assert page.data["why"] == "at the end of the program"
    [loop] = page.data["loops"]
    names = [one["names"] for one in loop["tasks"]["alike"]]
    assert ["left over"] in names
    if error:
        assert f"The program ended by {error}." in page.text


def test_a_program_without_a_loop(reported):
    page = reported("print('nothing')")
    assert page.output.stdout == "nothing\n"
    assert page.data["loops"] == []
    assert "No aioloop loop has run." in page.text


def test_a_loop_that_never_ran_and_several(reported):
    page = reported("""
        import asyncio, threading
        import aioloop

        loops = [aioloop.new_event_loop() for _ in range(2)]
        thread = threading.Thread(
            target=loops[0].run_until_complete, args=(asyncio.sleep(0),), name="<other>"
        )
        thread.start()
        thread.join()
        loops[0].close()
        for _ in range(3):
            asyncio.run(asyncio.sleep(0))
    """)
    states = [loop["state"] for loop in page.data["loops"]]
    assert states == ["closed", "not running", "closed", "closed", "closed"]
    assert page.data["loops"][0]["thread"] == "<other>"
    assert "Loop 1 of thread <other>" in page.text


def test_of_many_loops_some_are_kept(reported):
    page = reported("""
        import asyncio

        for _ in range(40):
            asyncio.run(asyncio.sleep(0))
    """)
    assert len(page.data["loops"]) + page.data["more_loops"] == 40
    assert 16 <= len(page.data["loops"]) <= 17
    assert "other loops had less to do." in page.text


def test_json_alone_and_both(tmp_path, python):
    (tmp_path / "app.py").write_text("import asyncio; asyncio.run(asyncio.sleep(0))")
    options = ("--report", "x.json", "--report=y.html")
    done = python("-m", "aioloop", *options, "app.py")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    data = json.loads((tmp_path / "x.json").read_text())
    assert data == checked((tmp_path / "y.html").read_text()).data
    assert data["program"] == "app.py"
    assert sorted(os.listdir(tmp_path)) == ["app.py", "x.json", "y.html"]


def test_by_the_environment(tmp_path, reported, python):
    env = {"AIOLOOP_REPORT": str(tmp_path / "report.html")}
    page = reported("import asyncio; asyncio.run(asyncio.sleep(0))", env=env)
    assert len(page.data["loops"]) == 1
    env = {"AIOLOOP_REPORT": str(tmp_path / "other.html")}
    assert python("-c", "import aioloop", env=env).returncode == 0
    assert not (tmp_path / "other.html").exists()


def test_a_place_where_no_file_can_be(python):
    done = python("-m", "aioloop", "--report", "no/such.html", "-c", "print(1)")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "cannot write the report: [Errno 2]" in done.stderr


def test_a_disk_that_refuses_it_in_the_end(tmp_path, python):
    (tmp_path / "app.py").write_text("import os; os.mkdir('r.html')")
    done = python("-m", "aioloop", "--report", "r.html", "app.py")
    assert done.returncode == 0
    assert "aioloop: the report is not written: " in done.stderr
    assert os.listdir(tmp_path / "r.html") == []


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_children(tmp_path, python):
    (tmp_path / "app.py").write_text(
        textwrap.dedent("""
        import asyncio, os, sys

        if os.fork():
            assert os.wait()[1] == 0
        else:
            sys.exit()
        asyncio.run(asyncio.sleep(0))
        print(os.getpid())
        """)
    )
    options = ("--report", "one.html", "--report", "of-{pid}.json")
    done = python("-m", "aioloop", *options, "app.py")
    assert done.returncode == 0, done.stderr
    pid = int(done.stdout)
    assert checked((tmp_path / "one.html").read_text()).data["process"] == pid
    found = list(tmp_path.glob("of-*.json"))
    pids = {json.loads(path.read_text())["process"] for path in found}
    assert len(pids) == 2
    assert pid in pids
    assert {path.name for path in found} == {f"of-{number}.json" for number in pids}


@needs_gil("a loop that is stuck answers nothing")
def test_a_signal_while_the_loop_is_stuck(tmp_path, module_command, child_env):
    """The page goes to a named pipe, so that whoever reads it waits for it."""
    os.mkfifo(tmp_path / "report.html")
    (tmp_path / "app.py").write_text(
        textwrap.dedent("""
        import asyncio, threading

        async def stuck_here():
            print("ready", flush=True)
            threading.Event().wait()

        asyncio.run(stuck_here())
        """)
    )
    process = subprocess.Popen(
        [*module_command, "--report", "report.html", "app.py"],
        cwd=tmp_path,
        env=child_env(),
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGUSR2)
        page = checked((tmp_path / "report.html").read_text())
    finally:
        process.kill()
        process.communicate()
    assert page.data["why"] == "at a signal"
    [loop] = page.data["loops"]
    assert loop["state"] == "stuck"
    [task] = loop["tasks"]["alike"]
    assert task["task"]["state"] == "running"
    assert "Tasks alive: 1" in page.text
    assert "app.py:6 in stuck_here" in page.text


# In this process.


def report(**settings):
    file = io.StringIO()
    aioloop.report(file, **settings)
    return file.getvalue()


def test_report_of_a_running_loop():
    async def main():
        loop = asyncio.get_running_loop()
        loop.metering = True
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return checked(report(loop=loop)), json.loads(report(loop=loop, format="json"))

    page, data = aioloop.run(main())
    assert page.data["why"] == data["why"] == "when the program asked"
    [loop] = page.data["loops"]
    assert loop["metered"]
    assert loop["threshold"] is None
    assert loop["tasks"]["alike"][0]["task"]["state"] == "running"
    assert "Nobody looked: loop.stall_threshold is None." in page.text


def test_report_without_a_meter_says_so():
    async def main():
        return checked(report(loop=asyncio.get_running_loop()))

    page = aioloop.run(main())
    assert not page.data["loops"][0]["metered"]
    assert "Not measured: loop.metering was off." in page.text


def test_the_form_is_that_of_the_name(tmp_path, loop):
    aioloop.report(tmp_path / "x.JSON", loop=loop)
    json.loads((tmp_path / "x.JSON").read_text())
    aioloop.report(str(tmp_path / "y"), loop=loop)
    checked((tmp_path / "y").read_text())
    aioloop.report(tmp_path / "z.html", loop=loop, format="json")
    json.loads((tmp_path / "z.html").read_text())


def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"format is 'html' or 'json', not 'xml'"):
        aioloop.report(tmp_path / "x", format="xml")
    with pytest.raises(TypeError, match="an aioloop loop was expected"):
        aioloop.report(tmp_path / "x", loop=object())
    with pytest.raises(TypeError):
        aioloop.report(5)
    with pytest.raises(FileNotFoundError):
        aioloop.report(tmp_path / "no" / "x")
    with pytest.raises(FileNotFoundError):
        aioloop.report_at_exit(tmp_path / "no" / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_long_run_is_kept_in_bounds():
    from aioloop import _report

    samples = [(n * 10**9, n * 10**8, n * 9 * 10**8, 0) for n in range(1, 513)]

    class Metrics:
        when, time_active, time_idle, time_waiting_gil = 600.0, 60.0, 540.0, 0.0

    timeline = _report.intervals(samples, 0.0, Metrics)
    assert len(timeline) == 513
    assert all(one.busy == pytest.approx(0.1) for one in timeline)
    followed = _report._Stalls()
    for n in range(1000):
        followed.add(n, None, [], n % 500)
    assert len(followed.times) == _report.TIMES
    assert followed.count == 1000
    assert max(seconds for _, seconds in followed.times) == 499


def test_a_long_run_in_c(run, loop):
    loop.metering = True

    async def main():
        while len(loop._read_timeline()) < 512:
            await asyncio.sleep(0)
        before = loop._read_timeline()
        while len(loop._read_timeline()) == 512:
            await asyncio.sleep(0)
        return before, loop._read_timeline()

    before, after = run(main())
    assert len(after) == 257
    assert after[:256] == before[::2]


# --- in a browser --------------------------------------------------------------------

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    """Return a function that opens a page in headless Chromium."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(
            "########## NO BROWSER: the report is not looked at in one; Debian's"
            " chromium-headless-shell would do ##########"
        )

    def browser(path, *options):
        process = subprocess.Popen(
            [
                found,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                "--enable-logging=stderr",
                f"--user-data-dir={path.parent / 'profile'}",
                *options,
                path.as_uri(),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={k: v for k, v in os.environ.items() if k != "LD_PRELOAD"},
            start_new_session=True,
        )
        try:
            shown, told = process.communicate(timeout=2 * LIMIT)
        finally:
            # Some of its processes outlive the first one.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode:
            pytest.skip(f"{found} does not work here: {told[-500:]}")
        console = [line for line in told.splitlines() if "CONSOLE" in line]
        assert console == []
        return shown

    return browser


BUSY = f"""
import asyncio, gc
from aioloop import _report
import logging, threading

logging.disable()
told = threading.Event()

def block():
    told.clear()
    assert told.wait(50)

async def forgotten():
    await asyncio.get_running_loop().create_future()

async def waiter(lock):
    async with lock:
        await asyncio.sleep(3600)

async def main():
    followed = _report._follower.loops[0]
    tell = followed.follow_stall
    followed.follow_stall = lambda stall: (tell(stall), told.set())
    lock = asyncio.Lock()
    tasks = [asyncio.create_task(waiter(lock), name={HOSTILE!r} * 3) for _ in range(9)]
    asyncio.create_task(forgotten())
    for _ in range(3):
        block()
        await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
    gc.collect()

asyncio.run(main())
"""

PROGRAMS = {
    "stalls": BUSY,
    "calm": "import asyncio; asyncio.run(asyncio.sleep(0.3))",
    "short": "import asyncio; asyncio.run(asyncio.sleep(0))",
    "none": "",
}

# Asks how wide the page is that it has in a frame, and puts it into its own DOM.
FRAME = """<!doctype html><meta charset="utf-8"><body><iframe id="f" style="border:0"
width="%d" height="900"></iframe><script>
const frame = document.getElementById("f");
frame.onload = () => {
  const page = frame.contentDocument;
  document.body.dataset.wide = page.documentElement.scrollWidth;
  document.body.dataset.images = page.images.length;
  document.body.dataset.bars = [...page.querySelectorAll(".bar")]
    .filter((bar) => bar.getBoundingClientRect().width > 0).length;
};
frame.srcdoc = %s;
</script>"""


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_browser_shows_it(name, browser, reported, tmp_path):
    reported(PROGRAMS[name])
    path = tmp_path / "report.html"
    for width, height in ((1280, 1600), (390, 2400)):
        picture = tmp_path / f"{width}.png"
        browser(path, f"--window-size={width},{height}", f"--screenshot={picture}")
        data = picture.read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        size = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
        assert size == (width, height)
        frame = tmp_path / "frame.html"
        source = json.dumps(path.read_text()).replace("<", "\\u003c")
        frame.write_text(FRAME % (width, source))
        dom = browser(frame, "--dump-dom", "--window-size=1400,1000")
        assert f'data-wide="{width}"' in dom, "the page is wider than the screen"
        assert 'data-images="0"' in dom
        assert ('data-bars="0"' in dom) == (name == "none")
