"""Benchmarks of event loops, run side by side; `python -m benchmarks` is the command.

`rows/` holds what is measured, `targets.py` what is expected, `runner.py` runs every
row on every installed loop, each loop in a process of its own, and prints one table.
`accuracy.py`, `memory.py` and `instructions.py` are commands of their own.
"""
