"""A pytest plugin: each test runs above system calls that go wrong (shim.c).

    python -m pytest -p tests.shim.plugin --shim-seed 3 tests/unit/test_stream.py

The library is preloaded (``tests.shim.suite`` does it). A test's rules are drawn from
its name and the seed, so that a test alone meets the same faults as among others. They
are those that no correct program may notice. Tests that rest on what one call moves are
skipped as in the hard build, or because ``counted.py`` lists them.
"""

import fnmatch
import os
import random

import pytest

from tests.shim import counted, faults


def pytest_addoption(parser):
    parser.addoption("--shim-seed", type=int, default=0)


def gentle(rng):
    """Draw rules for what a kernel may do to anybody at any time."""
    rules = []
    streams = ("recv", "send", "sendmsg", "read", "write", "writev", "sendfile")
    for call in streams:
        for fault in rng.sample(("short", "EAGAIN", "EINTR"), rng.randrange(1, 4)):
            m = rng.randrange(2, 6)
            rules.append(f"{call}:{fault}:{rng.randrange(1, m)}/{m}")
    for call in ("recvfrom", "sendto", "recvmmsg", "accept4"):
        for fault in ("EAGAIN", "EINTR"):
            rules.append(f"{call}:{fault}:1/{rng.randrange(2, 6)}")
    rules.append(f"recvmmsg:short:1/{rng.randrange(2, 5)}")
    rules.append(f"connect:EINTR:1/{rng.randrange(2, 4)}")
    rules.append(f"epoll_wait:short:1/{rng.randrange(2, 5)}")
    rules.append(f"epoll_wait:EINTR:1/{rng.randrange(3, 8)}")
    rng.shuffle(rules)
    return " ".join(rules)


def reason_of(nodeid):
    """Return why a test may fail, or None."""
    for pattern, reason in counted.TESTS.items():
        # Brackets are no patterns here: they hold a test's parameters.
        if fnmatch.fnmatchcase(nodeid, pattern.replace("[", "[[]")):
            return reason
    return None


class Plugin:
    def __init__(self, seed):
        self.seed = seed
        self.faults = faults.Faults()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        rng = random.Random(f"{item.nodeid} {self.seed}")
        item.shim_rules = gentle(rng)
        number = rng.getrandbits(32)
        # A test's own programs meet them too.
        os.environ.update(
            SHIM_RULES=item.shim_rules, SHIM_SEED=str(number), SHIM_CALLERS=faults.OURS
        )
        self.faults.begin(number, item.shim_rules)
        try:
            return (yield)
        finally:
            self.faults.end()
            for name in ("SHIM_RULES", "SHIM_SEED", "SHIM_CALLERS"):
                del os.environ[name]

    def pytest_collection_modifyitems(self, items):
        for item in items:
            reason = reason_of(item.nodeid)
            if reason is not None:
                item.add_marker(pytest.mark.skip(reason=reason))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        if report.failed:
            text = f"--shim-seed {self.seed}: {item.shim_rules}"
            report.sections.append(("the faults", text))
        return report


def pytest_configure(config):
    config.pluginmanager.register(Plugin(config.option.shim_seed))
