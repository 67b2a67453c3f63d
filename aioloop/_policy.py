"""The event loop policy, for the Pythons whose asyncio has policies.

This module is imported on first use only. Its class derives from the Unix policy of
asyncio, so child watchers of Python 3.11 to 3.13 work as they do there. The names
with an underscore, which Python 3.14 and later have, do not warn.
"""

from __future__ import annotations

import asyncio
from asyncio import unix_events
from typing import TYPE_CHECKING

from ._loop import Loop

if TYPE_CHECKING:
    _UnixPolicy = asyncio.DefaultEventLoopPolicy
elif hasattr(unix_events, "_DefaultEventLoopPolicy"):
    _UnixPolicy = unix_events._DefaultEventLoopPolicy
else:
    _UnixPolicy = unix_events.DefaultEventLoopPolicy


class EventLoopPolicy(_UnixPolicy):
    """asyncio's Unix event loop policy, except that its loops are aioloop loops."""

    _loop_factory = Loop
