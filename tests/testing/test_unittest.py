"""aioloop.testing.TestCase (aioloop/testing/_unittest.py)."""

import asyncio
import unittest

import pytest

from aioloop import testing


class Base(testing.TestCase, unittest.IsolatedAsyncioTestCase):
    """What the tests below are made of; it has none itself."""


def outcome(case, name="test_it"):
    """Run a test; return the result."""
    result = unittest.TestResult()
    case(name).run(result)
    return result


def errors(result):
    return [text for _, text in [*result.errors, *result.failures]]


def test_time_is_virtual():
    times = []

    class Case(Base):
        start = 5.0

        async def asyncSetUp(self):
            await asyncio.sleep(10)

        async def test_it(self):
            await asyncio.sleep(3600)

        async def asyncTearDown(self):
            await asyncio.sleep(10)
            times.append(asyncio.get_running_loop().time())

    result = outcome(Case)
    assert result.wasSuccessful() and result.testsRun == 1
    assert times == [3625.0]


def test_each_seed_has_its_own_set_up():
    seen = []

    class Case(Base):
        seed = range(20)

        def setUp(self):
            assert not hasattr(self, "value")
            self.value = 1

        async def asyncSetUp(self):
            self.loop = asyncio.get_running_loop()
            self.addAsyncCleanup(self.cleanup)

        async def test_it(self):
            assert self.loop is asyncio.get_running_loop()
            seen.append(testing.current_seed())

        async def cleanup(self):
            seen.append("cleanup")

    result = outcome(Case)
    assert result.wasSuccessful(), errors(result)
    assert result.testsRun == 1
    assert [entry for entry in seen if entry != "cleanup"] == list(range(20))
    assert seen[1::2] == ["cleanup"] * 20


class Fails(Base):
    __test__ = False  # not by pytest
    seed = range(50)

    async def test_it(self):
        last = []

        async def write(what):
            last.append(what)

        await asyncio.gather(write("default"), write("override"))
        self.assertEqual(last[-1], "override")


def test_a_failure_says_how_to_repeat_it(monkeypatch):
    result = outcome(Fails)
    assert result.testsRun == 1 and not result.errors
    [(case, text)] = result.failures
    [line] = [line for line in text.splitlines() if line.startswith("repeat it: ")]
    variable, python, m, module, name = line.removeprefix("repeat it: ").split()
    assert [python, m, module, name] == ["python", "-m", "unittest", case.id()]
    name, _, seed = variable.partition("=")
    assert f"order='seeded', seed={seed}" in text
    monkeypatch.setenv(name, seed)
    [(_, again)] = outcome(Fails).failures
    assert f"seed={seed}" in again


def test_more_seeds_by_the_environment(monkeypatch):
    seen = []

    class Case(Base):
        async def test_it(self):
            seen.append(testing.current_seed())

    monkeypatch.setenv("AIOLOOP_SEEDS", "30")
    assert outcome(Case).wasSuccessful()
    assert seen == list(range(30))


def test_what_hangs_has_names():
    class Case(Base):
        async def test_it(self):
            await asyncio.Event().wait()

    [text] = errors(outcome(Case))
    assert "SleepForever: nothing can happen any more" in text


def test_what_is_left_behind_is_an_error():
    class Case(Base):
        async def test_it(self):
            self.task = asyncio.create_task(asyncio.sleep(10), name="Forgotten")

    class Cleans(Case):
        async def asyncTearDown(self):
            await self.task

    class Allows(Case):
        leaks = True

    [text] = errors(outcome(Case))
    assert "LeakedTasks: " in text and "Forgotten" in text
    assert outcome(Cleans).wasSuccessful()
    assert outcome(Allows).wasSuccessful()


def test_faults_are_of_the_test_method_and_never_cancel_the_test():
    class Case(Base):
        seed = range(30)
        faults = testing.Faults(cancel=range(10))

        async def asyncSetUp(self):
            self.lock = asyncio.Lock()
            await asyncio.gather(*(asyncio.sleep(1) for _ in range(20)))

        async def test_it(self):
            async def worker():
                await self.lock.acquire()
                await asyncio.sleep(1)
                self.lock.release()  # not in a `finally`

            await asyncio.wait([asyncio.create_task(worker()) for _ in range(2)])
            assert not self.lock.locked()

    [text] = errors(outcome(Case))
    assert "was cancelled at" in text and "in worker" in text


def test_outcomes():
    class Case(Base):
        seed = range(3)
        runs = []

        async def test_skip(self):
            self.runs.append("skip")
            self.skipTest("no")

        @unittest.expectedFailure
        async def test_expected(self):
            assert testing.current_seed() != 1

        @unittest.expectedFailure
        async def test_unexpected(self):
            pass

        async def test_sub(self):
            with self.subTest(part=1):
                assert testing.current_seed() != 2

        def test_plain(self):
            self.runs.append("plain")

    assert len(outcome(Case, "test_skip").skipped) == 1
    assert len(outcome(Case, "test_expected").expectedFailures) == 1
    assert len(outcome(Case, "test_unexpected").unexpectedSuccesses) == 1
    [text] = errors(outcome(Case, "test_sub"))
    assert "seed=2" in text
    assert outcome(Case, "test_plain").wasSuccessful()
    assert Case.runs == ["skip", "plain", "plain", "plain"]


def test_real_time():
    class Case(Base):
        virtual_time = False
        seed = 3

        async def test_it(self):
            with pytest.raises(RuntimeError, match="is not virtual"):
                testing.current_clock()
            assert testing.current_seed() == 3

    result = outcome(Case)
    assert result.wasSuccessful(), errors(result)


PROGRAM = """
import asyncio
import unittest
from aioloop import testing

class Case(testing.TestCase, unittest.IsolatedAsyncioTestCase):
    seed = range(50)

    async def test_passes(self):
        await asyncio.sleep(3600)

    async def test_fails(self):
        last = []

        async def write(what):
            last.append(what)

        await asyncio.gather(write("default"), write("override"))
        self.assertEqual(last[-1], "override")

    async def test_seed(self):
        print("seed", testing.current_seed())
"""


def test_by_unittest_and_by_pytest(python, tmp_path):
    (tmp_path / "test_program.py").write_text(PROGRAM)
    done = python("-m", "unittest", "test_program")
    assert "Ran 3 tests" in done.stderr and "failures=1" in done.stderr, done.stderr
    assert "repeat it: AIOLOOP_SEED=" in done.stderr
    plugin = ("-p", "aioloop.testing.pytest_plugin", "-p", "no:cacheprovider")
    done = python("-m", "pytest", "-q", *plugin)
    assert "1 failed, 2 passed" in done.stdout, done.stdout
    assert "repeat it: AIOLOOP_SEED=" in done.stdout
    done = python("-m", "pytest", "-qs", *plugin, "-k", "seed", "--aioloop-seed=70")
    assert done.stdout.count("seed 70") == 1, done.stdout
    assert "1 passed" in done.stdout
