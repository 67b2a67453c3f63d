"""``python -m aioloop --children`` with programs that start Python processes.

More of them are in test_servers.py.
"""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.plugs.serving import LIMIT, check, environment, serving

START = "-m aioloop --children -m "
BY_SIGNAL = (0, -signal.SIGINT)
ASGI = "--host 127.0.0.1 --port {port} asgi_app:app"

# Name: packages, command, processes that serve, exit statuses at the end.
SERVERS = {
    "uvicorn --reload": (
        "uvicorn",
        START + "uvicorn --reload --loop none " + ASGI,
        1,
        BY_SIGNAL,
    ),
    "granian": (
        "granian",
        START + "granian --interface asgi --loop asyncio --workers 2 --port {port} "
        "asgi_app:app",
        2,
        (0,),
    ),
}


@pytest.mark.timeout(3 * LIMIT)
@pytest.mark.parametrize("name", SERVERS)
def test_children_of_server(name, tmp_path):
    packages, command, processes, statuses = SERVERS[name]
    with serving(command, packages, tmp_path) as server:
        check(server, processes, statuses)


PYPERF = """
import asyncio, sys
import pyperf

async def work():
    await asyncio.sleep(0)

if __name__ == "__main__":
    runner = pyperf.Runner()
    loop = asyncio.new_event_loop()
    loop.close()
    runner.metadata["loop"] = type(loop).__module__
    runner.bench_async_func("work", work)
"""


def test_children_of_pyperf(tmp_path):
    (tmp_path / "bench.py").write_text(PYPERF)
    command = ["-m", "aioloop", "--children", "bench.py", "--debug-single-value"]
    for more in (["--worker"], ["--processes=1", "-w1", "-n1", "-l1"]):
        output = tmp_path / f"{len(more)}.json"
        words = [*command, *more, "-o", output]
        if more != ["--worker"]:
            words.remove("--debug-single-value")
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment("pyperf", tmp_path),
            timeout=LIMIT,
        )
        assert done.returncode == 0, done.stderr
        assert '"loop":"aioloop._loop"' in output.read_text().replace(" ", "")
