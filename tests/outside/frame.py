"""What a part of `make outside` is given, and what it tells.

A part is a generator: it gets a `Place` and yields an `Outcome` for each suite, or for
each way of playing a suite through us. `judge` makes the outcome out of two runs.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from tests.support.ground import Ground
from tests.support.pooler import RunningPooler

# How a reason begins whose failure comes and goes: no fault when it stays away.
SOMETIMES = "sometimes: "
# What a test that passed has for its failure.
PASSED = ""
NOT_RUN = "did not run"


@dataclass(frozen=True)
class Outcome:
    """What a suite came to."""

    name: str
    direct: int  # how many tests passed without us
    ours: int  # and through us
    total: int
    expected: Mapping[str, str] = field(default_factory=dict)  # test: reason
    unexpected: Mapping[str, str] = field(default_factory=dict)  # test: what was wrong
    mended: tuple[str, ...] = ()  # expected failures that did not fail
    seconds: float = 0.0
    told: Mapping[str, str] = field(default_factory=dict)  # expected: what was wrong

    @property
    def is_right(self) -> bool:
        """Whether nothing has to be done."""
        return not self.unexpected and not self.mended


def judge(
    name: str,
    direct: Mapping[str, str],
    ours: Mapping[str, str],
    may_fail: Mapping[str, str],
    seconds: float = 0.0,
    whole: bool = True,
    must_say: Mapping[str, str] = MappingProxyType({}),
) -> Outcome:
    """Compare two runs: for each test PASSED, or what was wrong.

    A test that fails in both is nobody's fault here. *may_fail*: test and reason.
    *whole* is false where only some of the tests were run, so that one that is missing
    in both lifts no entry. *must_say*: regular expressions that the failures of some of
    those in *may_fail* must fit; who fails with something else was not expected to.
    """
    failed = {
        test: ours.get(test, NOT_RUN)
        for test, problem in direct.items()
        if problem == PASSED and ours.get(test, NOT_RUN) != PASSED
    }
    expected = {
        test: why
        for test, why in failed.items()
        if test in may_fail and re.search(must_say.get(test, ""), why)
    }
    mended = [
        test
        for test, reason in may_fail.items()
        if test not in failed
        and not reason.startswith(SOMETIMES)
        and (whole or test in direct)
    ]
    return Outcome(
        name,
        sum(problem == PASSED for problem in direct.values()),
        sum(problem == PASSED for problem in ours.values()),
        len(direct),
        {test: may_fail[test] for test in expected},
        {test: why for test, why in failed.items() if test not in expected},
        tuple(mended),
        seconds,
        expected,
    )


class Place:
    """Where parts run: directories, a PostgreSQL of this run, poolers."""

    def __init__(self, ground: Ground, short: bool) -> None:
        self.ground, self.short = ground, short
        self.problems: dict[str, str] = {}  # pooler: what it wrote or how it ended
        self._begin = time.monotonic()

    @property
    def cache(self) -> Path:
        """What is downloaded or built once for many runs; outside of our tree."""
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        path = Path(home) / "pybouncer-ci"
        path.mkdir(parents=True, exist_ok=True)
        return path

    @contextlib.contextmanager
    def pooler(
        self,
        ini: Mapping[str, object],
        databases: Mapping[str, str] | None = None,
        users: Mapping[str, str] | None = None,
        server_port: int = 0,
        more: str = "",
    ) -> Iterator[RunningPooler]:
        """A running pooler of ours; what it complains of fails the run.

        As `pooler` of the pytest fixtures: see `RunningPooler`.
        """
        port = server_port or self.ground.postgresql.port
        pooler = RunningPooler(self.ground, port, ini, databases, users, more)
        try:
            yield pooler.run()
            whole = pooler.is_running()
        finally:
            pooler.stop()
        if not whole:
            self.problems[str(pooler.directory)] = f"ended: {pooler.exit_status()}"
        elif complaints := pooler.complaints():
            self.problems[str(pooler.directory)] = "; ".join(complaints[:3])


@dataclass(frozen=True)
class Part:
    """A row of a table of parts."""

    run: Callable[[Place], Iterator[Outcome]]
    in_short: bool = (
        True  # whether --short has it; it asks `place.short` what to leave out
    )
