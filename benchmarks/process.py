"""A worker process as the runner sees it: requests with a time limit."""

import json
import os
import pathlib
import selectors
import signal
import subprocess
import sys
import tempfile

from .loops import IMPORT_LIMIT

ROOT = pathlib.Path(__file__).resolve().parent.parent


def output_of(label, limit, *arguments):
    """Return what ``python -m`` with the arguments prints, or None if it fails.

    A failure is told on standard error, behind the label; one that has not ended within
    ``limit`` seconds is only ended.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode != 0:
        print(f"{label}: {done.stderr.strip()[-300:]}", file=sys.stderr)
        return None
    return done.stdout


class WorkerError(Exception):
    """The worker raised, died, or did not answer in time; the text says which."""


class Worker:
    """The process of one loop. It is started at once and ended by `close()`.

    `command` is another program than the usual worker, `environment` what it gets
    beside the variables of this process. The program greets with one JSON line that
    has a "version"; `greeting` keeps it.
    """

    def __init__(self, loop_name, command=None, environment=None):
        self.loop_name = loop_name
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            command or [sys.executable, "-m", "benchmarks.worker", loop_name],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
        )
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)
        try:
            self.greeting = self._receive(IMPORT_LIMIT)
            self.version = self.greeting["version"]
        except WorkerError:
            self.close()
            raise

    def request(self, limit, **request):
        """Send a request and return the answer, which comes within `limit` seconds.

        Raises WorkerError. After one the worker may be dead: see `alive`.
        """
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(self.cause_of_death()) from None
        reply = self._receive(limit)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply

    @property
    def alive(self):
        return self.process.poll() is None

    def ends_within(self, seconds):
        """Say whether the process ends; one that is killed closes its sockets first."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self):
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.selector.close()
        self.log.close()

    def cause_of_death(self):
        """End the process if it has not, and return how, with its last line."""
        self.process.kill()
        code = self.process.wait()
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "no output")
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"process ended by {how}: {last.strip()[:200]}"

    def _receive(self, limit):
        """Read one answer; the process is killed when it takes too long."""
        if not self.selector.select(limit):
            self.process.kill()
            self.process.wait()
            raise WorkerError(f"no answer within {limit:.0f} s")
        line = self.process.stdout.readline()
        if not line.endswith(b"\n"):
            raise WorkerError(self.cause_of_death())
        return json.loads(line)
