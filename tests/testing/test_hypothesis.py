"""Hypothesis draws the seeds: it replays them and shrinks them."""

import asyncio

import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

from aioloop import testing
from aioloop.testing import _run

# Nothing is kept, time does not matter, and every run draws the same.
PROFILE = settings(
    max_examples=200,
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


async def order_of(tasks):
    """Return the order in which so many tasks made one step."""
    seen = []

    async def work(i):
        seen.append(i)

    await asyncio.gather(*(work(i) for i in range(tasks)))
    return seen


def fails(tasks, **options):
    """Whether the last task that is made is not the last one to run."""
    return testing.run(order_of(tasks), **options) != list(range(tasks))


def test_arguments_and_seed_shrink():
    """The least: two tasks, and the first seed that exchanges them."""
    runs = []

    @PROFILE
    @given(st.integers(1, 20))
    def test(tasks):
        async def main():
            runs.append((tasks, testing.current_seed()))
            seen = await order_of(tasks)
            assert seen == sorted(seen)

        testing.run(main(), order="seeded")

    with pytest.raises(AssertionError) as caught:
        test()
    least = next(seed for seed in range(1000) if fails(2, order="seeded", seed=seed))
    assert runs[-1] == (2, least)
    notes = caught.value.__notes__
    assert f"order='seeded', seed={least}" in notes
    assert f"seed of the order: {least}" in notes
    # It did not try one seed again and again.
    assert len({seed for _, seed in runs}) > 3


def test_a_bug_of_the_order_alone_is_found():
    """Each example has another seed, also with the same arguments."""
    seeds = set()

    @PROFILE
    @given(st.just(3))
    def test(tasks):
        async def main():
            seeds.add(testing.current_seed())

        testing.run(main(), order="pct")

    test()
    assert len(seeds) > 100


def test_faults_are_drawn_too():
    async def main():
        lock = asyncio.Lock()

        async def worker():
            await lock.acquire()
            await asyncio.sleep(1)
            lock.release()

        await asyncio.wait([asyncio.create_task(worker()) for _ in range(2)])
        return lock.locked()

    def leaks(_):
        try:
            return testing.run(main(), faults=testing.Faults(cancel=range(8)))
        except testing.SleepForever:  # The other one waits for it.
            return True

    assert find(st.integers(1, 3), leaks, settings=PROFILE) == 1


def test_a_seed_among_the_arguments():
    @PROFILE
    @given(seed=st.integers(0, 2**32))
    def test(seed):
        assert not fails(2, order="seeded", seed=seed)

    with pytest.raises(AssertionError) as caught:
        test()
    least = next(seed for seed in range(1000) if fails(2, order="seeded", seed=seed))
    assert f"test(\n    seed={least},\n)" in "".join(caught.value.__notes__)


def test_a_seed_that_cannot_be_drawn():
    """Hypothesis ends an example in which it has drawn too much."""

    def draw():
        raise KeyError

    async def main():
        raise AssertionError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyError):
        patch.setattr(_run, "_draw_seed", draw)
        testing.run(main(), order="seeded")


def test_outside_of_an_example_nothing_is_repeated():
    async def main():
        return testing.current_seed()

    seeds = {testing.run(main(), order="seeded") for _ in range(20)}
    assert len(seeds) > 1


PROGRAM = """
import asyncio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from aioloop import testing

runs = []

@pytest.fixture(scope="module")
def hour():
    return 3600

settings.register_profile("plain", database=None, deadline=None, derandomize=True)
settings.load_profile("plain")

async def check(tasks):
    seen = []

    async def work(i):
        seen.append(i)

    await asyncio.gather(*(work(i) for i in range(tasks)))
    assert seen == sorted(seen)

@pytest.mark.aioloop
@given(st.integers(1, 20))
async def test_passes(hour, tasks):
    await asyncio.sleep(hour)
    await check(tasks)
    assert asyncio.get_running_loop().time() == hour

@pytest.mark.aioloop(order="seeded")
@given(tasks=st.integers(1, 20))
async def test_fails(tasks):
    runs.append((tasks, testing.current_seed()))
    await check(tasks)

def test_it_was_shrunk():
    assert runs[-1][0] == 2 and runs[-1][1] < 10

@pytest.mark.aioloop(seed=range(5, 10))
@given(st.integers(1, 20))
async def test_some_seeds(tasks):
    runs.append(testing.current_seed())

def test_they_were_tried():
    assert set(runs[-50:]) == set(range(5, 10))

class TestMethods:
    @pytest.mark.aioloop(seed=7)
    @given(tasks=st.integers(1, 20))
    async def test_one_seed(self, tasks):
        assert testing.current_seed() == 7
"""


def test_marked_tests(python, tmp_path):
    (tmp_path / "test_program.py").write_text(PROGRAM)
    plugin = ("-p", "aioloop.testing.pytest_plugin", "-p", "no:cacheprovider")
    done = python("-m", "pytest", "-q", *plugin)
    assert "1 failed, 5 passed" in done.stdout, done.stdout
    assert "seed of the order: " in done.stdout
    assert "tasks=2" in done.stdout
