"""Programs that are no servers of HTTP, on their plug points: see test_servers."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugs.serving import LIMIT, OURS, PROGRAMS, Server, environment, held_port

NEST = Path(__file__).parents[1] / "libs" / "nest_asyncio_program.py"


def run(command, name, folder):
    """Run ``python COMMAND`` with the packages of a name, to its end."""
    return subprocess.run(
        [sys.executable, *shlex.split(command)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment(name, folder),
        timeout=LIMIT,
    )


def test_discord(tmp_path):
    """discord.py's run() says asyncio.run()."""
    done = run(f"-m aioloop {PROGRAMS}/discord_app.py", "discord", tmp_path)
    assert done.stdout == "50 ['aioloop._loop']\n", done.stderr
    assert done.returncode == 0, done.stderr


def test_dask_scheduler_with_two_workers(tmp_path):
    with held_port() as port, contextlib.ExitStack() as stack:

        def start(command, number):
            folder = tmp_path / str(number)
            folder.mkdir()
            server = Server(f"-m aioloop -m {command}", "dask", folder, port)
            stack.callback(server.kill)
            return server

        scheduler = start(
            f"distributed.cli.dask_scheduler --host 127.0.0.1 --port {port} "
            "--no-dashboard --no-show",
            0,
        )
        scheduler.wait()
        for number in (1, 2):
            start(
                f"distributed.cli.dask_worker 127.0.0.1:{port} --no-nanny "
                "--nthreads 1 --no-dashboard --memory-limit 0",
                number,
            )
        done = run(f"{PROGRAMS}/dask_client.py {port}", "dask", tmp_path)
        assert done.stdout.splitlines() == [f"2 ['{OURS}']", "999000", "6000000"], (
            done.stderr + scheduler.said()
        )


def test_dask_cluster_of_spawned_workers(tmp_path):
    done = run(f"{PROGRAMS}/cluster.py", "dask", tmp_path)
    assert done.stdout.splitlines() == [f"['{OURS}', '{OURS}']", "9900"], done.stderr
    assert done.returncode == 0, done.stderr


def test_jupyter_kernel(tmp_path):
    """Its main thread and its service threads; ``{connection_file}`` is Jupyter's."""
    kernel = ["-m", "aioloop", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    command = f"{PROGRAMS}/kernel_client.py {shlex.quote(json.dumps(kernel))}"
    done = run(command, "jupyter", tmp_path)
    loops, *rest = done.stdout.splitlines() or [done.stderr]
    assert json.loads(loops) == dict.fromkeys(["main", "control", "iopub"], OURS)
    assert rest == ["190", "1000"], done.stderr
    assert done.returncode == 0, done.stderr


def test_ipython(tmp_path):
    code = (
        "import asyncio; await asyncio.sleep(0.001); "
        "print(type(asyncio.get_running_loop()).__module__)"
    )
    command = f"-m aioloop -m IPython --no-banner -c {shlex.quote(code)}"
    done = run(command, "jupyter", tmp_path)
    assert done.stdout == "aioloop._loop\n", done.stderr


@pytest.mark.parametrize("when", ["before", "while running"])
@pytest.mark.parametrize("name", ["nest_asyncio", "nest_asyncio2"])
def test_nest_asyncio(name, when, tmp_path):
    """What the one and the other do on asyncio they do here."""
    program = NEST.read_text().replace("import nest_asyncio\n", f"import {name}\n")
    program = program.replace("nest_asyncio.apply", f"{name}.apply")
    (tmp_path / "program.py").write_text(program)
    arguments = f"program.py {shlex.quote(when)}"
    theirs = run(arguments, name, tmp_path)
    ours = run(f"-m aioloop {arguments}", name, tmp_path)
    assert (ours.stdout, ours.returncode) == (theirs.stdout, theirs.returncode)
    assert "older_tasks_go_on:\n42\n" in ours.stdout
    if name == "nest_asyncio2" or sys.version_info < (3, 14):
        assert ours.returncode == 0, ours.stderr
