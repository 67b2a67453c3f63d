"""granian on aioloop: its loop ``auto``, which is the default, becomes aioloop's.

::

    python -m aioloop.granian --interface asgi app:app    # in granian's place

or, in a script that makes a server itself, at the top of the module, which the worker
processes import as well::

    import aioloop.granian

It is imported only when asked for, and so is granian.
"""

from __future__ import annotations

import asyncio

from granian import loops

from ._loop import Loop, new_event_loop


@loops.register("auto")
def build_loop() -> Loop:
    """Make a worker's loop."""
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


if __name__ == "__main__":
    from granian.cli import entrypoint

    entrypoint()
