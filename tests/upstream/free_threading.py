"""CPython 3.14's own tests of asyncio in several threads, on a Python without a GIL.

`python -m tests.upstream.free_threading FILE` runs them with our loop and tasks, then
with our classes in the place of asyncio's. FILE is 3.14's
test/test_asyncio/test_free_threading.py; 3.13 came without it.
"""

import asyncio
import importlib.util
import sys
import unittest

import aioloop


def load(path):
    spec = importlib.util.spec_from_file_location("test_free_threading", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cases(tests):
    """Return the test cases: the mixin that CPython's own classes have too, on ours."""

    class Plain(tests, unittest.TestCase):
        def factory(self, loop, coro, **options):
            assert type(loop) is aioloop.Loop
            return aioloop.Task(coro, loop=loop, **options)

    class Eager(tests, unittest.TestCase):
        def factory(self, loop, coro, eager_start=True, **options):
            return aioloop.Task(coro, loop=loop, eager_start=eager_start, **options)

    class InPlace(Plain):
        def setUp(self):
            super().setUp()
            replaced = asyncio.Task, asyncio.Future
            self.addCleanup(self.put, *replaced)
            self.put(aioloop.Task, aioloop.Future)

        def put(self, task, future):
            asyncio.Task = asyncio.tasks.Task = task
            asyncio.Future = asyncio.futures.Future = future

    return Plain, Eager, InPlace


def main(path):
    assert not sys._is_gil_enabled()
    aioloop.install()
    load_tests = unittest.defaultTestLoader.loadTestsFromTestCase
    suite = unittest.TestSuite(map(load_tests, cases(load(path).TestFreeThreading)))
    return not unittest.TextTestRunner().run(suite).wasSuccessful()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
