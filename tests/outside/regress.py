"""PostgreSQL's regression suite: the SQL files of Debian's source, by its pg_regress.

Twice, each time on a fresh cluster: directly, and through a session pool. Compared are
what pg_regress says of each file, and what psql printed, to the byte.
"""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.outside.frame import PASSED, SOMETIMES, Outcome, Place, judge
from tests.outside.sources import Release, release
from tests.support.ground import Postgres

# One of either: "     boolean     ... ok      182 ms", "ok 2    + boolean    182 ms".
OLD_LINE = re.compile(r"(?:test )?\s*(\S+)\s+\.\.\. (ok|FAILED|failed)")
NEW_LINE = re.compile(r"(not ok|ok) \d+\s+[-+] (\S+)")
LONGEST = 1800  # seconds that one run may take

# In order: the others stand on test_setup's tables.
SHORT = """test_setup boolean int8 numeric strings create_index copy copy2 copydml
    errors transactions portals prepare temp guc rangefuncs sequence largeobject
    plancache select_parallel psql psql_crosstab async tsearch json xml""".split()

# File: why its verdict or its output differs through a session pool. Which backend a
# client gets, and whether it is new, is chance: so is what fails.
USED = SOMETIMES + "\\c gives a backend that others have used: "
MAY_FAIL = {
    "guc": USED + "LOAD of a library that is loaded already warns of nothing",
    "temp": USED + "its temporary schema is there already",
    "stats": USED + "it counts sessions of PostgreSQL",
    "event_trigger_login": USED + "its login triggers have run",
    "uuid": SOMETIMES + "prints random numbers when it differs from what is expected",
}
# Release: what ends the embedded server with signal 11, also directly, for it is older
# than the source: 18.4.
CRASHES = {18: "sqljson|hash_part"}

# A pooler for other people's programs: users and databases as PostgreSQL knows them.
ANYBODY: Mapping[str, object] = {
    "auth_user": "postgres",
    "auth_dbname": "postgres",
    "max_client_conn": 500,
    "default_pool_size": 100,
}


class SuitePostgres(Postgres):
    """A cluster as pg_regress expects it.

    Its styles and time zone are not those that pg_regress's clients ask for at login:
    so it shows what a reset goes back to.
    """

    SETTINGS = {
        **Postgres.SETTINGS,
        "wal_level": "replica",
        "shared_buffers": "128MB",
        "autovacuum": "on",
        "max_prepared_transactions": "20",
    }


@dataclass(frozen=True)
class Run:
    """What one run of a suite came to."""

    verdicts: Mapping[str, str]  # file: PASSED or what was wrong
    output: Mapping[str, bytes]  # file: what psql printed
    seconds: float


def verdicts(told: str) -> dict[str, str]:
    """What pg_regress said of each file."""
    found = {}
    for line in told.splitlines():
        if old := OLD_LINE.match(line):
            found[old[1]] = PASSED if old[2] == "ok" else "not as expected"
        elif new := NEW_LINE.match(line):
            found[new[2]] = PASSED if new[1] == "ok" else "not as expected"
    return found


def play(
    place: Place,
    one: Release,
    program: str,
    files: list[str],
    port: int,
    options: list[str],
    environment: Mapping[str, str] = {},
) -> Run:
    """Run pg_regress, or its sister for isolation, against *port*."""
    out = place.ground.directory()
    (out / "results").mkdir()
    place.ground.identity.own(out)
    begin = time.monotonic()
    done = subprocess.run(
        [
            one.suites / program,
            f"--bindir={one.bindir}",
            f"--outputdir={out}",
            *("--host=127.0.0.1", f"--port={port}", "--user=postgres"),
            *options,
            *files,
        ],
        cwd=out,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=LONGEST,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(out),
            "LC_ALL": "C",
            **environment,
        },
        **place.ground.identity.process_options(),
    )
    said = verdicts(done.stdout)
    if not said:
        raise RuntimeError(f"{program}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    results = (out / "results").glob("*.out")
    return Run(
        said,
        {path.stem: path.read_bytes() for path in results},
        time.monotonic() - begin,
    )


def cluster(place: Place, one: Release, name: str) -> SuitePostgres:
    """A fresh cluster of this release."""
    path = place.ground.root / name
    path.mkdir()
    return SuitePostgres(
        one.bindir, path, place.ground.free_port(), place.ground.identity, None
    )


def first_difference(direct: bytes, ours: bytes) -> str:
    """The first line that differs, of both."""
    pairs = zip(direct.splitlines(), ours.splitlines(), strict=False)
    for number, (one, other) in enumerate(pairs, 1):
        if one != other:
            return f"line {number}: {one[:200]!r}, through us {other[:200]!r}"
    return f"{len(direct)} bytes, through us {len(ours)}"


def differences(direct: Run, ours: Run) -> dict[str, str]:
    """For each file that was played directly: PASSED, or how its output differs."""
    return {
        name: PASSED
        if ours.output.get(name) == text
        else first_difference(text, ours.output.get(name, b""))
        for name, text in direct.output.items()
    }


def outcomes(
    name: str, direct: Run, ours: Run, may_fail: Mapping[str, str], whole: bool
) -> Iterator[Outcome]:
    """What pg_regress said, and what was printed."""
    failed = {f: why for f, why in may_fail.items() if ours.verdicts.get(f) != PASSED}
    yield judge(name, direct.verdicts, ours.verdicts, failed, ours.seconds, whole)
    same = dict.fromkeys(direct.output, PASSED)
    told = differences(direct, ours)
    yield judge(f"{name}, output", same, told, may_fail, direct.seconds, whole)


def prepared(place: Place, one: Release) -> list[str]:
    """Options that name the suite's files; what the server loads is compiled."""
    libraries = place.ground.directory()
    regress = one.source / "src/test/regress"
    for source in (
        "src/test/regress/regress.c",
        "contrib/spi/refint.c",
        "contrib/spi/autoinc.c",
    ):
        one.module(source, libraries)
    place.ground.identity.own(libraries)
    return [
        f"--inputdir={regress}",
        f"--dlpath={libraries}",
        "--max-concurrent-tests=20",
    ]


def schedule(one: Release) -> Path:
    """The parallel schedule, without what crashes the server."""
    path = one.source / "src/test/regress/parallel_schedule"
    text = path.read_text()
    if crash := CRASHES.get(one.major):
        path.write_text(re.sub(rf"(?m)(?<=[ \t])({crash})(?=\s)", "", text))
    return path


def both_ways(
    place: Place,
    one: Release,
    program: str,
    files: list[str],
    options: list[str],
    environment: Mapping[str, str] = {},
) -> list[Run]:
    """Run a suite directly, then through a session pool; each on a fresh cluster."""
    runs = []
    ini = {"pool_mode": "session", **ANYBODY}
    for way in ("direct", "ours"):
        postgres = cluster(place, one, f"{Path(program).name}-{one.major}-{way}")
        try:
            with place.pooler(ini, {"*": "{pg}"}, {"postgres": ""}, postgres.port) as p:
                port = postgres.port if way == "direct" else p.port
                run = play(place, one, program, files, port, options, environment)
                runs.append(run)
        finally:
            postgres.stop()
            shutil.rmtree(postgres.directory, ignore_errors=True)
    return runs


def regress(place: Place, major: int) -> Iterator[Outcome]:
    """The suite of one release, directly and through a session pool."""
    one = release(place, major)
    options, files = prepared(place, one), SHORT if place.short else []
    if not files:
        options.append(f"--schedule={schedule(one)}")
    runs = both_ways(place, one, "regress/pg_regress", files, options)
    yield from outcomes(
        f"pg_regress {major}, session", *runs, MAY_FAIL, not place.short
    )


def regress_15(place: Place) -> Iterator[Outcome]:
    yield from regress(place, 15)


def regress_18(place: Place) -> Iterator[Outcome]:
    yield from regress(place, 18)
