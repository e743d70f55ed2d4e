"""PostgreSQL's libpq_pipeline: every subtest, and the messages that libpq has traced.

Directly, through a session pool, and through a transaction pool that follows prepared
statements. Compared are the exit status and, where PostgreSQL itself compares it, the
trace: it names every message of both directions, but not what differs from run to run.
"""

import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.outside.frame import PASSED, Outcome, Place, judge
from tests.outside.regress import ANYBODY, SuitePostgres, cluster, first_difference
from tests.outside.sources import EMBEDDED, INSTALLED, Release, release, true_pid

DIRECTORY = "src/test/modules/libpq_pipeline"
LONGEST = 60  # seconds that a subtest may take
ROWS, ROWS_SHORT = 10000, 1000  # of pipelined_insert
WAYS: Mapping[str, Mapping[str, object]] = {
    "session": {"pool_mode": "session", **ANYBODY},
    "transaction": {
        "pool_mode": "transaction",
        "max_prepared_statements": 200,
        **ANYBODY,
    },
}

# Looks for its own session by process id; it has no trace that this would disturb. In a
# transaction pool there is no such id.
WITH_TRUE_PID, NO_TRUE_PID = "cancel", "transaction"
MAY_FAIL = {"protocol_version": "3.2 is answered with 3.0, as PgBouncer does"}


@dataclass(frozen=True)
class Program:
    """libpq_pipeline, compiled."""

    path: Path
    traces: Path  # holds a file for each subtest whose trace is worth comparing
    libraries: str  # where libpq is, unless it is the system's
    true_pid: Path

    def run(self, test: str, *words: object) -> "subprocess.CompletedProcess[bytes]":
        """Run a subtest to its end."""
        environment = {"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": self.libraries}
        if test == WITH_TRUE_PID:
            environment["LD_PRELOAD"] = str(self.true_pid)
        return subprocess.run(
            [self.path, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=LONGEST,
            env=environment,
        )

    def tests(self) -> list[str]:
        """The names of the subtests."""
        return self.run("tests", "tests").stdout.decode().split()

    def play(self, tests: list[str], rows: int, where: str) -> dict[str, bytes]:
        """Run subtests; how each ended, and its trace."""
        found = {}
        for test in tests:
            words: list[object] = ["-r", rows]
            trace = self.path.with_name(f"{test}.trace")
            if (self.traces / trace.name).exists():
                words += ["-t", trace]
            done = self.run(test, *words, test, where)
            found[test] = b"exit status %d\n" % done.returncode
            if done.returncode:
                found[test] += done.stdout[-200:]
            if trace.exists():
                found[test] += trace.read_bytes()
                trace.unlink()
        return found


def verdicts(told: Mapping[str, bytes], like: Mapping[str, bytes]) -> dict[str, str]:
    """For each subtest: PASSED when it succeeded and went as in *like*."""
    found = {}
    for test, text in told.items():
        if text != like[test]:
            found[test] = first_difference(like[test], text)
        else:
            succeeded = text.startswith(b"exit status 0\n")
            found[test] = PASSED if succeeded else text.splitlines()[-1].decode()
    return found


def pipeline(
    place: Place, program: Program, major: int, postgres: SuitePostgres
) -> Iterator[Outcome]:
    """Every way of one release, each in a database of its own."""
    rows = ROWS_SHORT if place.short else ROWS
    where = "host=127.0.0.1 user=postgres sslmode=disable dbname={} port={}"
    tests = program.tests()
    direct = program.play(tests, rows, where.format("p0", postgres.port))
    for way, ini in WAYS.items():
        postgres.query(f"create database {way}")
        begin = time.monotonic()
        left_out = {WITH_TRUE_PID} if way == NO_TRUE_PID else set()
        played = [test for test in tests if test not in left_out]
        users = {"postgres": ""}
        with place.pooler(ini, {"*": "{pg}"}, users, postgres.port) as pooler:
            ours = program.play(played, rows, where.format(way, pooler.port))
        yield judge(
            f"libpq_pipeline {major}, {way}",
            verdicts({test: direct[test] for test in played}, direct),
            verdicts(ours, direct),
            {test: why for test, why in MAY_FAIL.items() if test in tests},
            time.monotonic() - begin,
        )


def compiled(place: Place, one: Release) -> Program:
    """The program of a release."""
    target = place.ground.directory() / "libpq_pipeline"
    libraries = ("-lpgcommon", "-lpgport", "-l:libpq.so.5", "-lm")
    one.compile(f"{DIRECTORY}/libpq_pipeline.c", target, "-no-pie", *libraries)
    where = ":".join(map(str, one.libraries)) if one.major == EMBEDDED else ""
    return Program(target, one.source / DIRECTORY / "traces", where, true_pid(place))


def libpq_pipeline(place: Place) -> Iterator[Outcome]:
    for major in [INSTALLED] if place.short else [INSTALLED, EMBEDDED]:
        one = release(place, major)
        postgres = cluster(place, one, f"pipeline-{major}")
        try:
            yield from pipeline(place, compiled(place, one), major, postgres)
        finally:
            postgres.stop()
