"""A plugin of pytest: write which tests passed and which failed to a file as JSON."""

import json
import os

failed: dict[str, str] = {}
passed: set[str] = set()


def pytest_runtest_logreport(report):
    if report.failed:
        failed.setdefault(report.nodeid, f"{report.when}:\n{report.longreprtext}")
    elif report.when == "call" and report.passed:
        passed.add(report.nodeid)


def pytest_sessionfinish():
    with open(os.environ["OUTCOMES"], "w") as file:
        json.dump({"failed": failed, "passed": sorted(passed - failed.keys())}, file)
