"""The interpreter's own ``test.test_asyncio``, run with aioloop as the loop.

``python -m tests.upstream --help`` describes the command line, ``known.py`` lists the
tests that aioloop does not have to pass, and ``worker.py`` does the substitution.
"""
