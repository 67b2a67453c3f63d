"""Fixtures of the tests of aioloop.accelerate()."""

import pytest

import aioloop
from tests.parity.accelerated import LOOPS


@pytest.fixture
def off_before_and_after():
    aioloop.accelerate(False)
    yield
    aioloop.accelerate(False)


@pytest.fixture(params=LOOPS)
def either_loop(request):
    loop = LOOPS[request.param]()
    yield loop
    loop.close()
