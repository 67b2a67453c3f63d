"""aioloop as uvloop, beside the real one: its names, and its own example program."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys

import pytest

from tests.plugs.packages import packages, source
from tests.plugs.serving import LIMIT, environment, serving

NAMES = """if True:
    import json, uvloop, uvloop.loop
    from uvloop import *
    public = {name for name in dir(uvloop) if not name.startswith("_")}
    print(json.dumps({
        "version": uvloop.__version__,
        "all": sorted(uvloop.__all__),
        "names": sorted({*public, *uvloop.__all__}),
        "classes": [name for name in dir(uvloop.loop) if name[0].isupper()],
        "methods": [name for name in dir(uvloop.Loop) if name[0] != "_"],
    }))
"""
# Names of uvloop's C code for which no program has use: its own handles and requests.
INNER = ("UV", "LruCache", "AddrInfo", "NameInfo", "SockAddr", "FileSystem")
INNER += ("ReadSubprocess", "WriteSubprocess", "TCPServer", "UnixServer")


def test_it_has_the_names_of_the_real_one(tmp_path):
    def names(*start):
        done = subprocess.run(
            [sys.executable, *start, "-c", NAMES],
            capture_output=True,
            text=True,
            env=environment("uvloop", tmp_path),
            timeout=LIMIT,
            check=True,
        )
        return json.loads(done.stdout)

    theirs, ours = names(), names("-m", "aioloop", "--as-uvloop")
    assert ours["version"] == theirs["version"]
    assert ours["all"] == theirs["all"]
    assert set(theirs["names"]) - {"includes"} <= set(ours["names"])
    # Only a debugging build of uvloop gives that to its loops.
    assert set(theirs["methods"]) - set(ours["methods"]) <= {"print_debug_info"}
    classes = {
        name
        for name in theirs["classes"]
        if not name.startswith(INNER) or name == "UVProcessTransport"
    }
    assert classes - set(ours["classes"]) == set()


ECHO = ["", "--streams", "--proto", "--proto --buffered"]


@pytest.mark.parametrize("how", ECHO, ids=[how or "sock" for how in ECHO])
def test_uvloops_own_echo_server(how, tmp_path):
    packages("uvloop")
    example = source("uvloop") / "examples" / "bench" / "echoserver.py"
    command = f"-m aioloop --as-uvloop {example} --uvloop {how} "
    with serving(command + "--addr 127.0.0.1:{port}", "uvloop", tmp_path) as server:
        asyncio.run(asyncio.wait_for(echoes(server.port), LIMIT))
        libraries = server.libraries()
        assert any("/aioloop/_core." in name for name in libraries)
        assert not any("/uvloop/" in name for name in libraries)
        # It knows no other end than KeyboardInterrupt.
        assert server.end() == -signal.SIGINT, server.said()
        assert "using UVLoop" in server.said()


async def echoes(port, messages=200):
    async def talk(size):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in range(messages):
            message = bytes([number % 256]) * size
            writer.write(message)
            assert await reader.readexactly(size) == message
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(talk(size) for size in 4 * [10, 100, 1000, 10_000]))
