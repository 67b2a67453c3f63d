"""The command line: ``python -m tests.upstream [module ...]``."""

import argparse
import fnmatch
import sys

from . import runner


def parse_arguments():
    parser = argparse.ArgumentParser(
        prog="python -m tests.upstream",
        description="Run the interpreter's own test.test_asyncio on aioloop.",
    )
    parser.add_argument(
        "modules", nargs="*", help="modules such as test_tasks (default: all)"
    )
    parser.add_argument(
        "-k",
        dest="pattern",
        help="run only tests whose id contains this text or matches this pattern",
    )
    parser.add_argument(
        "--loop",
        default="aioloop",
        help="stdlib, aioloop or another package that has a class Loop (uvloop)",
    )
    parser.add_argument(
        "--variant",
        action="append",
        choices=sorted(runner.VARIANTS),
        help="run only this set of substitutions (may be repeated)",
    )
    parser.add_argument(
        "--full", action="store_true", help="run every set of substitutions"
    )
    parser.add_argument(
        "--slowest", type=int, default=0, metavar="N", help="print the N slowest tests"
    )
    parser.add_argument(
        "--limit",
        type=float,
        default=runner.TEST_LIMIT,
        help="seconds that one test may take (default: %(default)s)",
    )
    parser.add_argument(
        "--short", action="store_true", help="print the names of failures only"
    )
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    try:
        runs = runner.select_runs(
            arguments.modules, arguments.variant, arguments.full, arguments.loop
        )
    except ValueError as exc:
        print(exc, file=sys.stderr)
        return 2
    runner.TEST_LIMIT = arguments.limit
    match = None
    if arguments.pattern:
        pattern = f"*{arguments.pattern}*"

        def match(test):
            return fnmatch.fnmatchcase(test, pattern)

    with runner.judging(runs, match) as futures:
        judgements = []
        for future in futures.values():
            judgements.append(future.result())
            show(judgements[-1], arguments)
    show_slowest(judgements, arguments.slowest)
    return 1 if any(judgement.errors for judgement in judgements) else 0


def show(judgement, arguments):
    """Print what one run gave."""
    if arguments.pattern and not judgement.results.outcomes:
        return
    if arguments.short:
        print(judgement.summary())
        for title, text in judgement.errors:
            print(f"    {title}: {''.join(text.strip().splitlines()[-1:])}")
    else:
        print(judgement.report())
    sys.stdout.flush()


def show_slowest(judgements, number):
    seconds = [
        (outcome.seconds, judgement.run.variant.name, test)
        for judgement in judgements
        for test, outcome in judgement.results.outcomes.items()
    ]
    for duration, variant, test in sorted(seconds, reverse=True)[:number]:
        print(f"{duration:7.2f} s  [{variant}] {test}")


if __name__ == "__main__":
    sys.exit(main())
