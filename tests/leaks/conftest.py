"""What the leak tests share: run something many times and look at what stays."""

import gc
import os
import sys

import pytest


def blocks():
    gc.collect()
    return sys.getallocatedblocks()


def descriptors():
    return len(
        os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd")
    )


@pytest.fixture
def no_leak():
    """Return a function that fails if 1000 rounds of a function leave memory behind.

    Memory blocks are counted as CPython's allocator has them. A leak of one block a
    round shows as a thousand; the first thousand fills the free lists and other caches.
    """

    def check(function, rounds=1000):
        for _ in range(rounds):
            function()
        before, fds = blocks(), descriptors()
        for _ in range(rounds):
            function()
        after = blocks()
        growth = after - before
        assert growth < rounds // 2, f"{growth} blocks in {rounds} rounds"
        assert descriptors() == fds

    return check
