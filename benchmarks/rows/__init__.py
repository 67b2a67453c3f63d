"""All rows, in the order of the table: importing this package registers them."""

from . import callbacks, tasks, futures, primitives, timers, busy, threads, network  # noqa: F401, I001
