"""What the leak tests share: run something many times and look at what stays."""

import gc
import os
import sys

import pytest


def blocks():
    gc.collect()
    return sys.getallocatedblocks()


def descriptors():
    gc.collect()
    return len(
        os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd")
    )


@pytest.fixture
def no_leak():
    """Return a function that fails if 1000 rounds of a function leave memory behind.

    Memory blocks are counted as CPython's allocator has them. A leak of one block a
    round shows as a thousand, in every thousand rounds; the first thousands fill free
    lists, tables of interned stacks and other caches.
    """

    def check(function, rounds=1000):
        for _ in range(rounds):
            function()
        fds = descriptors()
        growths = []
        for _ in range(4):
            before = blocks()
            for _ in range(rounds):
                function()
            growths.append(blocks() - before)
            if growths[-1] < rounds // 2:
                break
        assert growths[-1] < rounds // 2, f"{growths} blocks in {rounds} rounds each"
        assert descriptors() == fds

    return check
