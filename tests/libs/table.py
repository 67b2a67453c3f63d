"""Print docs/tests.md with its table of suites made anew.

``python -m tests.libs.table`` takes what `make suites` has left in build/suites with
this interpreter: no figure of the table is typed by hand. A suite whose newest
interpreter is another one, or that has not run, keeps its row, if that is of the same
version.
"""

from __future__ import annotations

import argparse
import json
import sys

from tests.libs.suites import RECORDS
from tests.libs.test_suites import SUITES

PAGE = RECORDS.parents[1] / "docs" / "tests.md"
HEAD = (
    "| library | version | Python | pass on asyncio | pass on aioloop | left out |",
    "|---|---|---|--:|--:|---|",
)


def row(suite, there):
    """Return a suite's row of the table; ``there`` are the rows that it has."""
    newest = max(suite.interpreters)
    cells = [suite.name, suite.version, "{}.{}".format(*newest)]
    if sys.version_info[:2] != newest or not suite.record().exists():
        begin = f"| {' | '.join(cells)} |"
        kept = [line for line in there if line.startswith(begin)]
        return kept[0] if kept else f"{begin} | | not counted yet |"
    outcomes = json.loads(suite.record().read_text())
    theirs, ours = (set(outcomes[loop]["passed"]) for loop in ("asyncio", "aioloop"))
    remarks = [suite.rest] if suite.rest else []
    for reason in dict.fromkeys(suite.left_out.values()):
        names = [name for name in suite.left_out if suite.left_out[name] == reason]
        what = short(names[0]) if len(names) == 1 else f"{len(names)} tests"
        remarks.append(f"{what} ({reason})")
    for name in sorted(ours - theirs):
        remarks.append(f"{short(name)} does not pass on asyncio")
    if failed := len(outcomes["aioloop"]["failed"]):
        remarks.append(f"{failed} {'fails' if failed == 1 else 'fail'} on both")
    cells += [str(len(theirs)), str(len(ours)), "; ".join(remarks)]
    return "| " + " | ".join(cells) + " |"


def short(name):
    """Return a test's name as the table has it."""
    return f"`{name.rpartition('::')[2]}`"


def main():
    """Replace the table, which is known by its first line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.libs.table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()
    lines = PAGE.read_text().splitlines()
    begin = end = lines.index(HEAD[0])
    while lines[end].startswith("|"):
        end += 1
    there = lines[begin:end]
    lines[begin:end] = [*HEAD, *(row(suite, there) for suite in SUITES)]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
