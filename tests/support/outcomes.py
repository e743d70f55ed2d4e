"""A pytest plugin that writes down how a run went, for another program to judge.

``OUTCOMES=FILE python -m pytest -p tests.support.outcomes ...`` adds one line of JSON
to FILE at the end of the session: its exit status, the tests that failed, those that
passed, and *doubts*, everything for which the list of failures may not be the whole
truth: a worker that crashed, a file that could not be collected, an error of pytest
itself, a run that was cut short, a test without an outcome. No line at all says that
the session never came to its end.
"""

import json
import os
import sys
from typing import Any

import pytest


class Outcomes:
    """What came of each test of one session; lives in the process that reports."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.collected: set[str] = set()
        self.failed: dict[str, None] = {}  # in the order of their failures
        self.passed: set[str] = set()
        self.ended: set[str] = set()
        self.doubts: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be collected hides tests."""
        if report.failed:
            self.doubts.append(f"not collected: {report.nodeid}")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Without workers: the tests of this process."""
        self.collected.update(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        """With workers: each has collected the same."""
        self.collected.update(ids)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """A worker that ended with an error took a test with it."""
        if error is not None:
            self.doubts.append(f"worker {node.gateway.id} ended: {error}")

    def pytest_internalerror(self, excrepr: object) -> None:
        """Nobody knows what has not been run."""
        self.doubts.append("an internal error of pytest")

    def pytest_keyboard_interrupt(self, excinfo: object) -> None:
        """Stopped from outside, or by a test."""
        self.doubts.append("interrupted")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One phase of one test is over."""
        if report.when not in ("setup", "call", "teardown"):
            self.doubts.append(f"crashed: {report.nodeid}")  # xdist's "???"
        elif report.failed:
            self.failed[report.nodeid] = None
        elif report.when == "call" and report.passed:
            self.passed.add(report.nodeid)
        if report.when == "teardown":
            self.ended.add(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the line."""
        if missing := len(self.collected - self.ended):
            self.doubts.append(f"{missing} tests have no outcome")
        line = {
            "exit": int(exitstatus),
            "python": sys.executable,
            "failed": list(self.failed),
            "passed": sorted(self.passed - set(self.failed)),
            "doubts": self.doubts,
        }
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    """Watch, where the whole run is seen: not in a worker."""
    # Taken out: sessions that tests start are not this run's.
    path = os.environ.pop("OUTCOMES", None)
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Outcomes(path), "outcomes")
