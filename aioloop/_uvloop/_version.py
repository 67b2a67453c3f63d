"""The version of uvloop whose names this package has; some programs compare it."""

__version__ = "0.23.0"
