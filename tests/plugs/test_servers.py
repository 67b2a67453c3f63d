"""Each plug point of docs/plugs.md with the real server, under load: ``make plugs``.

Not part of ``make test``, because it fetches many packages: without AIOLOOP_PLUGS=1 all
of it is skipped.
"""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.plugs.serving import LIMIT, OURS, PROGRAMS, check, load, loops, serving

ASGI = "--host 127.0.0.1 --port {port} asgi_app:app"
PLUG = "-m uvicorn --loop aioloop:new_event_loop "
# uvicorn sends itself the signal once more when it has ended.
BY_SIGNAL = (0, -signal.SIGINT)

# Name: packages, command, processes that serve, exit statuses at the end.
SERVERS = {
    "uvicorn --loop": ("uvicorn", PLUG + ASGI, 1, BY_SIGNAL),
    "uvicorn --workers": ("uvicorn", PLUG + "--workers 2 " + ASGI, 2, BY_SIGNAL),
    "uvicorn --loop none": (
        "uvicorn",
        "-m aioloop -m uvicorn --loop none " + ASGI,
        1,
        BY_SIGNAL,
    ),
    "uvicorn as uvloop": (
        "uvicorn",
        "-m aioloop --as-uvloop -m uvicorn " + ASGI,
        1,
        BY_SIGNAL,
    ),
    **{
        f"gunicorn {worker}": (
            "gunicorn",
            f"-m gunicorn -k aioloop.gunicorn.{worker} -w 2 -b 127.0.0.1:{{port}} "
            f"{program}:app",
            2,
            (0,),
        )
        for worker, program in {
            "ASGIWorker": "asgi_app",
            "UvicornWorker": "asgi_app",
            "AiohttpWorker": "aiohttp_app",
        }.items()
    },
    "hypercorn": (
        "hypercorn",
        "-m hypercorn -w 2 -b 127.0.0.1:{port} asgi_installing_app:app",
        2,
        (0,),
    ),
    "hypercorn module": (
        "hypercorn",
        "-m aioloop -m hypercorn -w 0 -b 127.0.0.1:{port} asgi_app:app",
        1,
        (0,),
    ),
    "hypercorn as uvloop": (
        "hypercorn",
        "-m aioloop --as-uvloop -m hypercorn -k uvloop -w 0 -b 127.0.0.1:{port} "
        "asgi_app:app",
        1,
        (0,),
    ),
    "granian ASGI": (
        "granian",
        "-m aioloop.granian --interface asgi --workers 2 --port {port} asgi_app:app",
        2,
        (0,),
    ),
    "granian RSGI": (
        "granian",
        "-m aioloop.granian --interface rsgi --port {port} rsgi_app:app",
        1,
        (0,),
    ),
    **{
        name: ("granian", f"{PROGRAMS}/granian_script.py {{port}} {how}", 2, (0,))
        for name, how in {
            "granian script": "register",
            "granian as uvloop": "as_uvloop",
        }.items()
    },
    # What --children gives to processes that are spawned.
    "uvicorn --children": (
        "uvicorn",
        "-m aioloop --children -m uvicorn --loop none --workers 2 " + ASGI,
        2,
        BY_SIGNAL,
    ),
    "hypercorn --children": (
        "hypercorn",
        "-m aioloop --children -m hypercorn -w 2 -b 127.0.0.1:{port} asgi_app:app",
        2,
        (0,),
    ),
    "granian --children": (
        "granian",
        "-m aioloop --children --as-uvloop -m granian --loop uvloop --interface asgi "
        "--workers 2 --port {port} asgi_app:app",
        2,
        (0,),
    ),
    "fastapi --children": (
        "fastapi",
        "-m aioloop --children --as-uvloop -m fastapi run --workers 2 "
        f"--host 127.0.0.1 --port {{port}} {PROGRAMS}/fastapi_app.py",
        2,
        BY_SIGNAL,
    ),
    "sanic --children": (
        "sanic",
        f"-m aioloop --children --as-uvloop {PROGRAMS}/sanic_app.py {{port}} "
        "unchanged 2",
        2,
        (),
    ),
    "daphne": (
        "daphne",
        "-m aioloop -m daphne -b 127.0.0.1 -p {port} asgi_app:app",
        1,
        (0,),
    ),
    "fastapi": (
        "fastapi",
        "-m aioloop --as-uvloop -m fastapi run --host 127.0.0.1 --port {port} "
        f"{PROGRAMS}/fastapi_app.py",
        1,
        BY_SIGNAL,
    ),
    "litestar": (
        "litestar",
        "-m aioloop --as-uvloop -m litestar --app litestar_app:app run "
        "--host 127.0.0.1 --port {port}",
        1,
        BY_SIGNAL,
    ),
    # With workers it hangs at times after Ctrl-C, on uvloop too, if one still starts or
    # is interrupted in its end.
    "sanic install": (
        "sanic",
        f"{PROGRAMS}/sanic_app.py {{port}} install 2",
        2,
        (),
    ),
    "sanic as uvloop": (
        "sanic",
        f"{PROGRAMS}/sanic_app.py {{port}} as_uvloop 2",
        2,
        (),
    ),
    "sanic --as-uvloop": (
        "sanic",
        f"-m aioloop --as-uvloop {PROGRAMS}/sanic_app.py {{port}} unchanged 0",
        1,
        (0,),
    ),
    "tornado run": (
        "tornado",
        f"-m aioloop {PROGRAMS}/tornado_app.py {{port}} run",
        1,
        (0,),
    ),
    "tornado IOLoop": (
        "tornado",
        f"-m aioloop {PROGRAMS}/tornado_app.py {{port}} start",
        1,
        (0,),
    ),
    "aiohttp install": ("aiohttp", f"{PROGRAMS}/aiohttp_app.py {{port}}", 1, (0,)),
    "aiohttp loop": ("aiohttp", f"{PROGRAMS}/aiohttp_app.py {{port}} loop", 1, (0,)),
}


@pytest.mark.parametrize("name", SERVERS)
def test_server(name, tmp_path):
    needed, command, processes, statuses = SERVERS[name]
    # At Ctrl-C gunicorn waits 30 s for uvicorn's worker, on any loop.
    by = signal.SIGTERM if needed == "gunicorn" else signal.SIGINT
    with serving(command, needed, tmp_path) as server:
        check(server, processes, statuses, by)


@pytest.mark.parametrize(
    ("options", "processes"),
    [("", 1), ("--children", 2)],
    ids=["one process", "processes"],
)
def test_robyn(options, processes, tmp_path):
    command = f"-m aioloop {options} --as-uvloop {PROGRAMS}/robyn_app.py "
    command += f"--processes {processes}"
    with serving(command, "robyn", tmp_path, ROBYN_PORT="{port}") as server:
        check(server, processes)


def test_uvicorn_reloads(tmp_path):
    """--reload serves in a process that is spawned anew after each change."""
    folder = tmp_path / "code"
    folder.mkdir()
    program = folder / "changing_app.py"
    text = (PROGRAMS / "asgi_app.py").read_text()
    program.write_text(text)
    command = PLUG + f"--reload --reload-dir {folder} --app-dir {folder} "
    command += "--reload-delay 1 "
    command += "--host 127.0.0.1 --port {port} changing_app:app"
    with serving(command, "uvicorn", tmp_path) as server:
        answers = load(server)
        assert loops(answers) == {OURS}
        (pid,) = {answer["pid"] for answer in answers}
        program.write_text(text + "\n# changed\n")
        began = time.monotonic()
        while "Reloading" not in server.said():
            # What changes before its first look is no change.
            os.utime(program)
            assert time.monotonic() - began < LIMIT, server.said()
            time.sleep(0.1)
        while server.said().count("Application startup complete") < 2:
            assert time.monotonic() - began < LIMIT, server.said()
            time.sleep(0.02)
        answers = load(server)
        assert loops(answers) == {OURS}
        assert pid not in {answer["pid"] for answer in answers}
        check(server, statuses=BY_SIGNAL)
