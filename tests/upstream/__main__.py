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
    match = None
    if arguments.pattern:
        pattern = f"*{arguments.pattern}*"

        def match(test):
            return fnmatch.fnmatchcase(test, pattern)

    errors = 0
    seconds = []
    for run, future in runner.judge_all(runs, match):
        judgement = future.result()
        errors += len(judgement.errors)
        seconds += [
            (outcome.seconds, run.variant.name, test)
            for test, outcome in judgement.results.outcomes.items()
        ]
        if match is not None and not judgement.results.outcomes:
            continue
        if arguments.short:
            print(judgement.summary())
            for title, text in judgement.errors:
                print(f"    {title}: {text.strip().splitlines()[-1:]}")
        else:
            print(judgement.report())
        sys.stdout.flush()
    for duration, variant, test in sorted(seconds, reverse=True)[: arguments.slowest]:
        print(f"{duration:7.2f} s  [{variant}] {test}")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
