"""Measures the apps on all loops: `python -m benchmarks.apps --help`.

Of each row the table shows the CPU time of an operation: of the process that has the
server or the client, with all its threads. Each loop has a process of its own, a new
one in each round.
"""

import sys

from .. import services, table, targets
from ..runner import (
    Results,
    Session,
    argument_parser,
    complete,
    end_progress,
    publish,
    select_rows,
    show_progress,
)
from . import NEEDS, available, services_of


def parse_arguments():
    parser = argument_parser("python -m benchmarks.apps", __doc__)
    options = parser.parse_args()
    options.rows = select_rows(options.rows, NEEDS)
    if not options.rows:
        parser.error("no row matches")
    complete(parser, options, usual=(5, 0.5), quick=(3, 0.2))
    return options


def main():
    options = parse_arguments()
    if options.list:
        print("\n".join(options.rows))
        return 0
    row_names = available(options.rows)
    results = Results(row_names, options.loops)
    with services.started(services_of(row_names)):
        Session(results, options.seconds).run(options.rounds, show_progress)
    end_progress()
    publish(options, results, table)
    missed = any(table.misses(results, name, targets) for name in row_names)
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
