"""Start a real server, send it a load, and end it as a terminal does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import child_environment
from tests.plugs.packages import packages

PROGRAMS = Path(__file__).parent / "programs"
LIMIT = 120
SIZES = (0, 1, 70_000)
OURS = "aioloop._loop.Loop"


@contextlib.contextmanager
def held_port():
    """Give a port that nobody else gets: a server may share it, and only it listens."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def environment(name, folder, **changes):
    """Return the environment of a program that needs these packages."""
    path = [packages(name), folder, PROGRAMS, child_environment()["PYTHONPATH"]]
    joined = os.pathsep.join(map(str, path))
    return child_environment(PYTHONPATH=joined, **changes)


class Server:
    """A server's process, and the processes that it starts."""

    def __init__(self, command, name, folder, port, **variables):
        self.port = port
        formatted = {key: value.format(port=port) for key, value in variables.items()}
        env = environment(name, folder, **formatted)
        self._said = open(folder / f"said-{port}", "w+")
        self._process = subprocess.Popen(
            [sys.executable, *shlex.split(command.format(port=port))],
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=env,
            start_new_session=True,
        )

    def said(self):
        """Return what it has written so far."""
        return Path(self._said.name).read_text()

    def wait(self):
        """Wait until it listens."""
        began = time.monotonic()
        while True:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self._process.poll() is None, self.said()
            assert time.monotonic() - began < LIMIT, self.said()
            time.sleep(0.02)

    def libraries(self):
        """Return the files that are mapped into its process."""
        return Path(f"/proc/{self._process.pid}/maps").read_text().splitlines()

    def end(self, by=signal.SIGINT):
        """Send its processes what Ctrl-C sends, or another signal to the first one.

        Return the exit status.
        """
        if by == signal.SIGINT:
            os.killpg(self._process.pid, by)
        else:
            self._process.send_signal(by)
        try:
            return self._process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end: {self.said()}") from None

    def kill(self):
        """End what is left of its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._said.close()


@contextlib.contextmanager
def serving(command, name, folder, **variables):
    """Run ``python COMMAND`` with the packages of a name, until it listens."""
    with held_port() as port:
        server = Server(command, name, folder, port, **variables)
        try:
            server.wait()
            yield server
        finally:
            server.kill()


def load(server, connections=12, requests=40):
    """Send requests on several connections at once, and return the answers."""

    async def main():
        talks = [_talk(server.port, requests) for _ in range(connections)]
        return await asyncio.wait_for(asyncio.gather(*talks), LIMIT)

    try:
        of_connections = asyncio.run(main())
    except Exception as error:
        raise AssertionError(server.said()) from error
    answers = [answer for answers in of_connections for answer in answers]
    assert len(answers) == connections * requests
    return answers


async def _talk(port, requests):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers = []
    for number in range(requests):
        size = SIZES[number % len(SIZES)]
        last = number == requests - 1
        writer.write(
            b"POST /who HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
            b"Content-Length: %d\r\n%s\r\n"
            % (size, b"Connection: close\r\n" if last else b"")
        )
        writer.write(b"x" * size)
        await writer.drain()
        status, answer = await _read_answer(reader)
        assert status == 200, answer
        decoded = json.loads(answer)
        assert decoded["size"] == size
        answers.append(decoded)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return answers


async def _read_answer(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    first, *lines = head.split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines if ": " in line)
    status = int(first.split()[1])
    if headers.get("transfer-encoding") != "chunked":
        return status, await reader.readexactly(int(headers["content-length"]))
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return status, body


def loops(answers):
    return {answer["loop"] for answer in answers}


def check(server, processes=1, statuses=(0,), by=signal.SIGINT):
    """Load a server, see that each of its processes runs on aioloop, and end it.

    Without statuses the end is left to kill().
    """
    pids = set()
    began = time.monotonic()
    while len(pids) < processes:
        # Who accepts a connection is the kernel's choice.
        answers = load(server)
        assert loops(answers) == {OURS}
        pids |= {answer["pid"] for answer in answers}
        assert time.monotonic() - began < LIMIT, pids
    assert len(pids) == processes
    if not statuses:
        return
    status = server.end(by)
    said = server.said()
    assert "Traceback" not in said, said
    assert status in statuses, said
