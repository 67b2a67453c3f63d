"""Servers and clients of real libraries: CPU time of this process alone.

What loads the servers, and what the clients ask, has a process of its own.
`python -m benchmarks.apps` measures them on all loops.
"""

from . import servers, clients  # noqa: F401, I001
from .app import NEEDS, available, services_of

__all__ = ["NEEDS", "available", "services_of"]
