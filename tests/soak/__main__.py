"""`python -m tests.soak`: see tests/soak/__init__.py."""

import argparse
import asyncio
import logging
import sys
import warnings

from . import __doc__ as what
from .run import Run


def factory(name):
    """Return what makes loops of that name."""
    if name == "asyncio":
        return asyncio.SelectorEventLoop
    import aioloop

    return aioloop.new_event_loop


def main():
    """Run the soak; print what was done; exit with 1 if anything was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description=what,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--loop", choices=("aioloop", "asyncio"), default="aioloop")
    parser.add_argument("--crowd", type=int, default=10_000, help="connections at once")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("error")
    # What vanishing clients make the libraries say.
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    run = Run(factory(options.loop), options.minutes * 60, options.crowd, options.seed)
    run.go()
    print(f"{options.loop}, Python {sys.version.split()[0]}")
    if len(run.laps) > 1:
        for name, value in run.summary():
            print(f"{name:>50}  {value}")
    if run.broken:
        warnings.simplefilter("ignore")
    for fault in run.faults:
        print(f"FAULT {fault}", file=sys.stderr)
    print("soak: FAILED" if run.faults else "soak: all is well", flush=True)
    sys.exit(bool(run.faults))


if __name__ == "__main__":
    main()
