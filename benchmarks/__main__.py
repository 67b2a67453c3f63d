"""Runs the table of micro-benchmarks: `python -m benchmarks --help`."""

import sys

from .runner import main

sys.exit(main())
