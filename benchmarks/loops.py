"""The event loops that are compared, and how a program makes one of each.

`python -m benchmarks.loops NAME` imports one and makes its factory, or fails.
"""

import importlib
import importlib.metadata
import importlib.util
import pathlib
import subprocess
import sys

REFERENCE = "asyncio"
OURS = "aioloop"
# Every module of these offers new_event_loop(); the order is the order of the columns.
NAMES = (REFERENCE, "uvloop", "zuvloop", "rsloop", OURS)
# Transports that replace those of a loop, here uvloop's: of use where there is network.
TRANSPORTS = "aiofastnet"
ACCELERATED = OURS + "+accelerate"
NETWORK_NAMES = (*NAMES[:-1], TRANSPORTS, OURS)
# Seconds for an interpreter to start and to import a loop.
IMPORT_LIMIT = 30


def installed(names=NAMES):
    """Return those of `names` that this interpreter has and can import.

    Each one is tried in a process of its own, because some loops patch asyncio when
    they are imported. One that is there but cannot be imported is named on standard
    error; a bare folder of a loop's name is no package.
    """
    found = []
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue
        attempt = subprocess.run(
            [sys.executable, "-m", "benchmarks.loops", name],
            cwd=pathlib.Path(__file__).resolve().parent.parent,
            capture_output=True,
            text=True,
            timeout=IMPORT_LIMIT,
        )
        if attempt.returncode == 0:
            found.append(name)
        else:
            lines = attempt.stderr.strip().splitlines() or ["it prints nothing"]
            print(f"{name} is left out: {lines[-1]}", file=sys.stderr)
    return found


def factory(name):
    """Import the loop called `name` and return its loop factory.

    "aioloop+metering" is aioloop with a switch of diagnosis.py on, ACCELERATED is
    aioloop after aioloop.accelerate().
    """
    if name == ACCELERATED:
        importlib.import_module(OURS).accelerate()
        return factory(OURS)
    name, _, switch = name.partition("+")
    if switch:
        from . import diagnosis

        return diagnosis.switched(factory(name), switch)
    if name == TRANSPORTS:
        transports = importlib.import_module(TRANSPORTS)
        return transports.loop_factory(factory("uvloop"))
    return importlib.import_module(name).new_event_loop


def version(name):
    """Return the version of the loop called `name`, which is imported."""
    name = name.partition("+")[0]
    if name == REFERENCE:
        return "stdlib"
    module = importlib.import_module(name)
    stated = getattr(module, "__version__", None)
    return stated or importlib.metadata.version(name)


if __name__ == "__main__":
    factory(sys.argv[1])
