"""What the leak tests share: run something many times and look at what stays."""

import gc
import os
import sys

import pytest


def blocks():
    gc.collect()
    return sys.getallocatedblocks()


def references():
    """Return how many references there are, which a debug build of CPython counts."""
    return getattr(sys, "gettotalrefcount", int)()


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
    lists, tables of interned stacks and other caches. In a debug build of CPython
    (`make refs`) its total of references is looked at in the same way: one that is lost
    to an object that lives on takes no memory.
    """

    def check(function, rounds=1000):
        for _ in range(rounds):
            function()
        fds = descriptors()
        growths = []
        for _ in range(4):
            before = blocks(), references()
            for _ in range(rounds):
                function()
            growths.append((blocks() - before[0], references() - before[1]))
            if max(growths[-1]) < rounds // 2:
                break
        assert max(growths[-1]) < rounds // 2, (
            f"{growths} blocks and references in {rounds} rounds each"
        )
        assert descriptors() == fds

    return check
