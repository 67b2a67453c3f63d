"""Each module of the interpreter's own ``test.test_asyncio`` passes on aioloop.

One test here is one upstream module under one set of substitutions, see ``runner.py``.
The environment variable ``AIOLOOP_UPSTREAM=full`` adds the sets that are slow.
"""

import os

import pytest

from . import runner

FULL = os.environ.get("AIOLOOP_UPSTREAM") == "full"
RUNS = runner.select_runs(full=FULL)


@pytest.fixture(scope="module")
def judgements(request):
    """Map each selected run to the future of its judgement; two go on at a time."""
    selected = [
        item.callspec.params["run"]
        for item in request.session.items
        if item.path == request.path and "run" in item.callspec.params
    ]
    with runner.judging(selected) as futures:
        yield futures


# A run, and another one of some tests on the stdlib's loop.
@pytest.mark.timeout(2 * runner.RUN_LIMIT)
@pytest.mark.skipif(not RUNS, reason="this interpreter came without its test package")
@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_upstream_module(run, judgements):
    judgement = judgements[run].result()
    print(judgement.report())
    if judgement.errors:
        pytest.fail(judgement.report(), pytrace=False)
    if judgement.results.skipped_because:
        pytest.skip(judgement.results.skipped_because)
    assert judgement.results.outcomes
