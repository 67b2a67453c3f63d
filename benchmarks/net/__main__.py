"""Runs the benchmarks of the network: `python -m benchmarks.net --help`."""

import sys

from .runner import main

sys.exit(main())
