"""aioloop under the name by which libraries look for another loop."""

from aioloop import Loop, new_event_loop


class loop:
    Loop = Loop


__all__ = ["Loop", "loop", "new_event_loop"]
