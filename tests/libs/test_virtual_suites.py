"""Libraries' own tests in virtual time: they pass, and their sleeps take none.

Run by `make suites`; with ``ARGS="-s -k virtual"`` it prints the wall times.
"""

import os
import sys
import time

import pytest

from tests.libs.suites import LIMIT, Suite

OPTIONS = ["-o", "addopts=", "-o", "asyncio_mode=auto", "-o", "filterwarnings=default"]
SUITES = [
    Suite(
        "async-lru",
        "2.4.0",
        needs=["pytest-asyncio", "pytest-cov"],
        selection=["tests"],
        options=OPTIONS,
        at_least=50,
        interpreters=[(3, 11), (3, 12), (3, 14)],
        package="async_lru",
    ),
    Suite(
        "aiojobs",
        "1.4.0",
        needs=["pytest-aiohttp", "pytest-asyncio", "pytest-cov", "aiohttp"],
        selection=["tests"],
        options=OPTIONS,
        at_least=50,
        interpreters=[(3, 11), (3, 12), (3, 14)],
        package="aiojobs",
    ),
]


@pytest.mark.timeout(3 * LIMIT)
@pytest.mark.skipif(
    not os.environ.get("AIOLOOP_SUITES"), reason="takes minutes: make suites"
)
@pytest.mark.parametrize("suite", SUITES, ids=[suite.name for suite in SUITES])
def test_what_passes_on_asyncio_passes_in_virtual_time(suite, tmp_path):
    if sys.version_info[:2] not in suite.interpreters:
        pytest.skip("runs on " + " and ".join(f"3.{y}" for _, y in suite.interpreters))
    outcomes = tmp_path / "outcomes.json"
    suite.fetch()
    took = []
    for virtual in (False, True):
        began = time.perf_counter()
        found = suite.run(virtual, outcomes, virtual=virtual)
        took.append(time.perf_counter() - began)
        if not virtual:
            theirs = found
    print(f"{suite.tag}: {took[0]:.1f} s on asyncio, {took[1]:.1f} s in virtual time")
    only_ours = found["failed"].keys() - theirs["failed"].keys()
    assert not only_ours, "\n\n".join(found["failed"][n] for n in sorted(only_ours))
    assert len(found["passed"]) > suite.at_least
