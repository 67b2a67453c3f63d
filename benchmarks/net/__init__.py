"""Benchmarks of the network: servers of every loop under load from another process.

`python -m benchmarks.net` is the command. `rows.py` holds what is measured,
`targets.py` what is expected, `server.py` is the process of one loop, `load.c` the
load, `floor.c` the server that a loop cannot beat, `runner.py` takes the samples,
`report.py` makes the tables and the picture. `memory.py`, a command of its own as
well, measures idle connections.
"""
