"""A plugin of pytest: write which tests passed and which failed to a file as JSON."""

import gc
import json
import os
import sys

failed: dict[str, str] = {}
passed: set[str] = set()


def pytest_collection_finish():
    """Make the full collections cheap that many suites do after each test."""
    gc.collect()
    gc.freeze()


def pytest_runtest_logreport(report):
    if report.failed:
        failed.setdefault(report.nodeid, f"{report.when}:\n{report.longreprtext}")
    elif report.when == "call" and report.passed:
        passed.add(report.nodeid)


def pytest_runtest_logfinish(nodeid):
    """Let go of what a failed test leaves open: it is not a later one's failure."""
    if nodeid in failed:
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):
            vars(sys).pop(name, None)
        hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
        gc.collect()
        sys.unraisablehook = hook


def pytest_sessionfinish():
    with open(os.environ["OUTCOMES"], "w") as file:
        json.dump({"failed": failed, "passed": sorted(passed - failed.keys())}, file)
