"""The tests of the network above system calls that go wrong: ours, and asyncio's own.

    python -m tests.shim.suite --seeds 0-9 [--only ours|asyncio] [PYTEST'S ARGUMENTS...]

For each seed our tests of sockets, datagrams, TLS and pipes run in a process of their
own, in which each test's faults are drawn from its name and the seed (``plugin.py``);
then asyncio's modules of the network, with the same faults for a whole module. Only
faults that a correct program survives are among them: short counts, EINTR, EAGAIN.
"""

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.shim import faults, plugin

TREE = Path(__file__).parents[2]
OURS = [
    *(
        f"tests/unit/test_{name}.py"
        for name in ("stream", "server", "sockops", "dgram", "tls", "pipe", "fds")
    ),
    *(
        f"tests/parity/test_{name}.py"
        for name in ("transports", "sock", "readers", "tls")
    ),
]
ASYNCIO = (
    "test_streams",
    "test_sock_lowlevel",
    "test_sslproto",
    "test_server",
    "test_sendfile",
    "test_buffered_proto",
    "test_subprocess",
)


def run_ours(seed, variables, arguments):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "tests.shim.plugin", "--shim-seed", str(seed)]
    command += arguments or OURS
    return subprocess.run(
        command, env=variables, cwd=TREE, capture_output=True, text=True
    )


def run_asyncio(seed, variables):
    rules = plugin.gentle(random.Random(f"asyncio {seed}"))
    variables = {
        **variables,
        "SHIM_RULES": rules,
        "SHIM_SEED": str(seed),
        "SHIM_CALLERS": faults.OURS,
    }
    command = [sys.executable, "-m", "tests.upstream", "--variant", "own", *ASYNCIO]
    done = subprocess.run(
        command, env=variables, cwd=TREE, capture_output=True, text=True
    )
    if done.returncode != 0:
        done.stdout += f"\nrules: {rules}"
    return done


def total(path):
    """Return the number of calls that all the processes of a run say were spoilt."""
    return sum(int(line) for line in path.read_text().split()) if path.exists() else 0


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tests.shim.suite", description=__doc__
    )
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--only", choices=("ours", "asyncio"))
    parser.add_argument("arguments", nargs="*", help="for pytest, instead of all files")
    options = parser.parse_args()
    first, _, last = options.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="aioloop-shim-") as folder:
        counts = Path(folder, "counts")
        variables = {
            **os.environ,
            **faults.environment(faults.build(folder)),
            "SHIM_COUNTS": str(counts),
            "AIOLOOP_FLAVOUR": "shim",
        }
        for seed in seeds:
            for whose in ("ours", "asyncio"):
                if options.only not in (None, whose):
                    continue
                began, before = time.monotonic(), total(counts)
                if whose == "ours":
                    done = run_ours(seed, variables, options.arguments)
                    said = done.stdout.strip().splitlines()[-1:] or [done.stderr]
                else:
                    done = run_asyncio(seed, variables)
                    passed = sum(
                        int(n) for n in re.findall(r": (\d+) passed", done.stdout)
                    )
                    said = [f"{passed} passed"]
                spoilt, took = total(counts) - before, time.monotonic() - began
                print(
                    f"seed {seed}, {whose}: {said[0].strip('= ')}; {spoilt} calls"
                    f" spoilt, {took:.0f} s",
                    flush=True,
                )
                if done.returncode != 0:
                    failed += 1
                    print(done.stdout, done.stderr, sep="\n", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
