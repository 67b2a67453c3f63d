"""Time under control, on the loop that runs in production.

``new_event_loop()`` makes a loop whose time is virtual: ``loop.time()``, timers,
``asyncio.sleep()``, ``timeout()`` and ``wait_for()`` follow a clock that moves on to
the next timer when nothing else can happen, and not before. An hour of sleep takes some
microseconds; sockets, TLS, subprocesses, threads and executors are real.
``virtual_time()`` does the same for the loop that runs, or for those that are made in a
``with`` block. See docs/testing.md.
"""

from __future__ import annotations

from ._clock import Clock, current_clock, new_event_loop, virtual_time

__all__ = ["Clock", "current_clock", "new_event_loop", "virtual_time"]
