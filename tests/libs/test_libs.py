"""Libraries run on aioloop: through their own plug point and under ``-m aioloop``.

Each program is an ordinary one for asyncio. Only its way to a loop differs.
"""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LIMIT = 60


def needs(*modules):
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    reason = f"not installed: {', '.join(missing)}"
    return pytest.mark.skipif(bool(missing), reason=reason)


def run_under(plug):
    """Return the start of a program that hands the loop over in a library's way."""
    return f"import sys; sys.path.insert(0, {str(HERE)!r}); import aioloop; {plug}"


WAYS = {
    "tornado": "import tornado.ioloop, tornado_program as p; "
    "loop = tornado.ioloop.IOLoop(asyncio_loop=aioloop.new_event_loop()); "
    "loop.run_sync(p.main); loop.close()",
    "anyio": "import anyio, anyio_program as p; "
    "anyio.run(p.main, backend_options={'loop_factory': aioloop.new_event_loop})",
    "aiohttp": "import aiohttp_program as p; aioloop.run(p.main())",
    "websockets": "import websockets_program as p; aioloop.run(p.main())",
    "httpx": "import httpx_program as p; aioloop.run(p.main())",
}

SHOWN = {
    "tornado": '20 {"loop": "Loop"}\n100000\nNone\n10\n',
    "anyio": "Loop\nhello\ntimed out True\ncancelled True\n3\nthread\nPROCESS\n",
    "aiohttp": "20 {'loop': 'Loop'}\n1000000\n1000000\nolleh\n",
    "websockets": "Loop\n[0, 1, 2, 3, 4]\n",
    "httpx": f"Loop\n{list(range(20))}\n",
}


@pytest.mark.parametrize("way", ["plug point", "module", "install"])
@pytest.mark.parametrize(
    "library", [pytest.param(name, marks=needs(name)) for name in WAYS]
)
def test_library(library, way, debug, python):
    program = f"{library}_program.py"
    env = {"PYTHONASYNCIODEBUG": "1"} if debug and way != "module" else {}
    if way == "module":
        options = ["--debug"] if debug else []
        done = python("-m", "aioloop", *options, HERE / program)
    elif way == "install":
        plug = f"aioloop.install(); import runpy; runpy.run_path({program!r}, "
        plug += "run_name='__main__')"
        done = python("-c", run_under(plug), cwd=HERE, env=env)
    else:
        done = python("-c", run_under(WAYS[library]), env=env)
    assert (done.stdout, done.returncode) == (SHOWN[library], 0), done.stderr
    assert "Traceback" not in done.stderr


AIOHTTP_RUN_APP = """
import asyncio
from aiohttp import web
import aiohttp_program as p

def announce(text):
    if "Running on" in text:
        port = int(text.split("127.0.0.1:")[1].split()[0])
        task = asyncio.ensure_future(p.use(port))
        task.add_done_callback(stop)
        tasks.append(task)

def stop(task):
    loop.call_soon(finish, task)

def finish(task):
    task.result()
    raise web.GracefulExit

tasks = []
loop = aioloop.new_event_loop()
web.run_app(p.application(), host="127.0.0.1", port=0, loop=loop, print=announce)
print(loop.is_closed())
"""


@needs("aiohttp")
def test_aiohttp_run_app_takes_the_loop(python):
    start = f"import sys; sys.path.insert(0, {str(HERE)!r}); import aioloop\n"
    done = python("-c", start + AIOHTTP_RUN_APP)
    shown = SHOWN["aiohttp"] + "True\n"
    assert (done.stdout, done.returncode) == (shown, 0), done.stderr


@needs("nest_asyncio")
@pytest.mark.parametrize("when", ["before", "while running"])
def test_nest_asyncio_does_what_it_does_on_asyncio(when, debug, python):
    """On 3.14 and later it cannot do all: then the two fail alike."""
    program = [HERE / "nest_asyncio_program.py", when]
    standard = python(*program)
    options = ["--debug"] if debug else []
    done = python("-m", "aioloop", *options, *program)
    assert (done.stdout, done.returncode) == (standard.stdout, standard.returncode)
    assert "older_tasks_go_on:\n42\n" in done.stdout
    if sys.version_info < (3, 14):
        assert done.returncode == 0, done.stderr
        assert "Error" not in done.stdout


NEST_IN_TORNADO = """
import asyncio
import nest_asyncio
import tornado.ioloop

async def add(a, b):
    await asyncio.sleep(0.001)
    return a + b

def cell(answer):
    nest_asyncio.apply()
    answer.append(asyncio.get_event_loop().run_until_complete(add(1, 2)))
    answer.append(asyncio.run(add(3, 4)))

async def kernel():
    loop = tornado.ioloop.IOLoop.current()
    ticks = []
    ticker = tornado.ioloop.PeriodicCallback(lambda: ticks.append(1), 1)
    ticker.start()
    answer = []
    for _ in range(3):
        cell(answer)
    loop.add_callback(cell, answer)
    while len(answer) < 8:
        await asyncio.sleep(0.001)
    ticker.stop()
    print(answer, len(ticks) > 2)

loop = tornado.ioloop.IOLoop(asyncio_loop=aioloop.new_event_loop())
loop.run_sync(kernel)
"""


@needs("nest_asyncio", "tornado")
def test_nest_asyncio_in_tornado_as_jupyter_runs_it(python):
    done = python("-c", run_under("") + "\n" + NEST_IN_TORNADO)
    shown = "[3, 7, 3, 7, 3, 7, 3, 7] True\n"
    assert (done.stdout, done.returncode) == (shown, 0), done.stderr
    assert "Traceback" not in done.stderr


@needs("uvicorn")
@pytest.mark.parametrize(
    "start",
    [
        ["-m", "uvicorn", "--loop", "aioloop:new_event_loop"],
        ["-m", "aioloop", "-m", "uvicorn", "--loop", "none"],
        ["-m", "aioloop", "--debug", "-m", "uvicorn", "--loop", "none"],
    ],
    ids=["plug point", "module", "module-debug"],
)
def test_uvicorn(start, child_env, tmp_path):
    command = [sys.executable, *start, "--host", "127.0.0.1", "--port", "0"]
    command += ["--app-dir", str(HERE), "--http", "h11", "asgi_application:app"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=child_env()
    )
    try:
        said = []
        port = None
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"running on http://127.0.0.1:(\d+)", line):
                port = int(found[1])
                break
        assert port is not None, "".join(said)
        for size in (0, 1, 300_000):
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/path", data=b"x" * size, method="POST"
            )
            with opener.open(request, timeout=20) as reply:
                answer = json.load(reply)
            assert answer == {"loop": "Loop", "path": "/path", "size": size}
    finally:
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=LIMIT)
    assert "Application shutdown complete" in rest
    assert process.returncode in (0, -signal.SIGINT), rest
