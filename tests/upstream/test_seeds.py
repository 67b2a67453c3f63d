"""asyncio's own tests pass in virtual time, and in the orders of some seeds.

`make seeds` does it with 100 seeds, and looks whether each test that orders.py lists
fails with any.
"""

import pytest

from . import orders, runner, seeds

SEEDS = {"test_tasks": range(1)}  # It takes seconds for one,
NOT_OURS = ("test_tasks.*Subclass*", "test_tasks.PyTask*")  # and has these besides.
AVAILABLE = runner.upstream_modules()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("module", seeds.MODULES)
def test_asyncios_tests_pass_in_other_orders(module):
    if module not in AVAILABLE:
        pytest.skip("this interpreter came without this test module")
    found = seeds.run_module(
        module,
        seeds=SEEDS.get(module, range(4)),
        skip=[*orders.NAMES, *NOT_OURS],
    )
    assert not seeds.unexplained(module, found)
    assert not found["failures"]
    assert found["count"] > 20
