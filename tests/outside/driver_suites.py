"""Drivers by their own test suites: direct, and through our pools.

asyncpg, SQLAlchemy and psycopg2 have their suites in their source distributions, lib/pq
and pgx (v4) in Debian's packages. Each way is played on a PostgreSQL of its own, for
much of what these suites make they leave behind. What may fail through us, and why,
stands in `driver_reasons`. psycopg 3 has no suite in its source distribution.
"""

import functools
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.outside.driver_reasons import REASONS
from tests.outside.frame import PASSED, Outcome, Place, judge
from tests.outside.sources import once, run
from tests.support.ground import Postgres, Unusable

PINS = {"asyncpg": "0.32.0", "sqlalchemy": "2.0.58", "psycopg2": "2.9.13"}
INSTALLED = (
    *("asyncpg==0.32.0", "sqlalchemy==2.0.58", "psycopg2-binary==2.9.13"),
    *("psycopg[binary]==3.3.9", "pytest==9.2.0", "pytest-timeout==2.4.0"),
    *("greenlet==3.5.6", "distro==1.9.0"),
    # What their source distributions are built with, if only for their metadata.
    *("setuptools==84.2.1", "wheel", "Cython==3.3.1"),
)
GO = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode"}
LONGEST = 1500  # seconds that one run of a suite may take
HANGS = 60  # seconds that one test may take
SESSION, TRANSACTION = "session", "transaction"
NO_TEST = re.compile(r"(?!)")
Tests = dict[str, str]  # test: PASSED or what was wrong
Play = Callable[[int], Tests]  # of a port


class SuitePostgres(Postgres):
    """A cluster as these suites ask for it."""

    SETTINGS = {
        **Postgres.SETTINGS,
        "max_prepared_transactions": "20",
        "jit": "off",
        "default_text_search_config": "pg_catalog.english",
    }
    SQL = [
        *Postgres.SQL,
        *("create database pqgotest", "create database pgx_test"),
        *("create database psycopg2_test", "create database sa"),
    ]


@dataclass(frozen=True)
class Way:
    """A pooler to play a suite through."""

    mode: str
    statements: int  # max_prepared_statements

    @property
    def name(self) -> str:
        """What its outcomes are called."""
        return f"{self.mode} {self.statements}"

    @property
    def ini(self) -> dict[str, object]:
        """Its settings. A session keeps its server, and suites open many."""
        return {
            "pool_mode": self.mode,
            "max_prepared_statements": self.statements,
            "default_pool_size": 40 if self.mode == SESSION else 10,
            "max_client_conn": 500,
            # What lib/pq and asyncpg's tests of notices say at startup.
            "ignore_startup_parameters": "extra_float_digits, client_min_messages",
            # Parameters that they set for a connection, and find there later.
            "track_extra_parameters": "search_path, work_mem",
            "log_connections": 0,
            "log_disconnections": 0,
        }


ALL = (Way(SESSION, 200), Way(SESSION, 0), Way(TRANSACTION, 200))
FEW = (Way(SESSION, 200), Way(TRANSACTION, 200))
SESSIONS, SHARED = ALL[:2], ALL[2:]


def python_of_suites(place: Place) -> Path:
    """An interpreter that has the drivers, in the pinned versions."""

    def make(path: Path) -> None:
        run(sys.executable, "-m", "venv", path)
        run(path / "bin/python", "-m", "pip", "install", "-q", *INSTALLED)

    return once(place.cache / "drivers" / "venv-2", make) / "bin/python"


def source(place: Place, name: str) -> Path:
    """The source distribution of *name*, unpacked. It is not to be imported."""
    pinned = f"{name}-{PINS[name]}"
    python = python_of_suites(place)

    def make(path: Path) -> None:
        words = ("--no-deps", "--no-build-isolation", "--no-binary", name)
        run(
            *(python, "-m", "pip", "download", "-q", *words),
            *(f"{name}=={PINS[name]}", "-d", path),
        )
        [archive] = path.glob("*.tar.gz")
        run("tar", "xzf", archive, "-C", path, "--strip-components=1")
        (path / name).exists() and (path / name).rename(path / f"{name}.source")

    return once(place.cache / "drivers" / pinned, make)


def verdicts(report: Path) -> Tests:
    """What a JUnit report tells of each test; who was skipped is not in it."""
    if not report.exists():
        raise Unusable("the suite did not come to its end")
    found: Tests = {}
    for case in ElementTree.parse(report).iter("testcase"):
        where = str(case.get("classname")).rpartition(".")[2]
        # Versions of PostgreSQL and addresses are in the names of some.
        name = re.sub(r"_\d+_\d+(?=\b|::)", "", f"{where}::{case.get('name')}")
        failed = case.find("failure")
        wrong = case.find("error") if failed is None else failed
        if wrong is not None:
            found[name] = (wrong.get("message") or "failed").strip()[:200]
        elif case.find("skipped") is None:
            found.setdefault(name, PASSED)
    return found


def by_pytest(
    place: Place, name: str, words: Sequence[str], **environment: str
) -> Tests:
    """Run some of the suite of *name* with pytest."""
    report = place.ground.directory() / "report.xml"
    command = [python_of_suites(place), "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    subprocess.run(
        [*command, f"--timeout={HANGS}", f"--junitxml={report}", *words],
        cwd=source(place, name),
        # It is not our tests that are to be found as `tests`.
        env={**os.environ, **environment, "PYTHONPATH": ""},
        stdin=subprocess.DEVNULL,
        stdout=(report.parent / "told").open("wb"),
        stderr=subprocess.STDOUT,
        timeout=LONGEST,
    )
    return verdicts(report)


def of_libpq(port: int, database: str) -> dict[str, str]:
    """Where to connect, for what reads libpq's variables."""
    return {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(port),
        "PGUSER": "postgres",
        "PGDATABASE": database,
        "PGSSLMODE": "disable",
    }


def without(tests: Tests, pattern: re.Pattern[str]) -> Tests:
    """The *tests* whose names do not fit *pattern*."""
    return {test: why for test, why in tests.items() if not pattern.search(test)}


def compared(
    place: Place,
    name: str,
    ways: Sequence[Way],
    play: Play,
    prepare: Callable[[Postgres], None] = lambda postgres: None,
    of_a_session: re.Pattern[str] = NO_TEST,
) -> Iterator[Outcome]:
    """Play a suite directly and each way, each on a new PostgreSQL.

    *of_a_session* fits the tests that only count where a session keeps its server.
    """

    def fresh(suffix: str) -> Postgres:
        path = place.ground.directory() / suffix.replace(" ", "")
        path.mkdir()
        ground = place.ground
        one = SuitePostgres(
            ground.bindir, path, ground.free_port(), ground.identity, None
        )
        prepare(one)
        return one

    postgres = fresh("direct")
    try:
        direct = play(postgres.port)
    finally:
        postgres.stop()
    if PASSED not in direct.values():
        raise Unusable(f"{name}: nothing passes directly: {next(iter(direct.items()))}")
    for way in ways:
        postgres = fresh(way.name)
        begin = time.monotonic()
        users = {"postgres": "", "pqgotest": "", "admin": ""}
        try:
            with place.pooler(way.ini, {"*": "{pg}"}, users, postgres.port) as pooler:
                ours = play(pooler.port)
        finally:
            postgres.stop()
        wanted = direct
        if way.mode != SESSION:
            wanted, ours = (without(one, of_a_session) for one in (direct, ours))
        known = {
            test: reason
            for (suite, mode), reasons in REASONS.items()
            if suite == name and mode in (way.mode, "")
            for test, reason in reasons.items()
        }
        yield judge(
            f"{name}, {way.name}",
            wanted,
            ours,
            {test: reason.why for test, reason in known.items()},
            time.monotonic() - begin,
            not place.short,
            {test: reason.said for test, reason in known.items()},
        )


# Files of asyncpg's suite: for the short form; whose tests keep nothing in a session.
QUICK = ("prepare", "copy", "cursor", "transaction", "execute", "introspection")
# The first asks for a standby of its own. The second wants an error to overtake 4 MB of
# rows: directly, too, it fails at every other time.
NOT_FOR_US = (
    "test_connect.py::TestConnectionAttributes",
    "test_execute.py::TestExecuteMany::test_executemany_server_failure_during_writes",
)
KEEP_NOTHING = ("prepare", "cursor", "cancellation", "timeout", "record")


def asyncpg(place: Place) -> Iterator[Outcome]:
    files = [f"tests/test_{name}.py" for name in QUICK] if place.short else ["tests"]
    files += [word for test in NOT_FOR_US for word in ("--deselect", f"tests/{test}")]
    shared = [f"tests/test_{name}.py" for name in KEEP_NOTHING]
    sessions = SESSIONS[:1] if place.short else SESSIONS
    for name, ways, words in (
        ("asyncpg", sessions, files),
        ("asyncpg, shared", SHARED, shared),
    ):

        def play(port: int, words: Sequence[str] = words) -> Tests:
            return by_pytest(place, "asyncpg", words, **of_libpq(port, "postgres"))

        yield from compared(place, name, ways, play)


def psycopg2(place: Place) -> Iterator[Outcome]:
    def play(port: int) -> Tests:
        known = {
            f"PSYCOPG2_TESTDB_{name}": value
            for name, value in (
                ("HOST", "127.0.0.1"),
                ("PORT", str(port)),
                ("USER", "postgres"),
            )
        }
        return by_pytest(place, "psycopg2", ["tests"], **known)

    def prepare(postgres: Postgres) -> None:
        postgres.query("create extension hstore", "psycopg2_test")

    # Nearly all of its tests make temporary tables.
    yield from compared(place, "psycopg2", SESSIONS, play, prepare)


# The types' tests are four fifths of the suite's time and ask for nothing new.
SQLALCHEMY = (
    *("test/engine/test_execute.py", "test/engine/test_transaction.py"),
    *("test/engine/test_reconnect.py", "test/dialect/postgresql/test_query.py"),
    "test/dialect/postgresql/test_on_conflict.py",
)
# One connection makes temporary tables and views for all tests of this class.
TEMPORARY_TABLES = re.compile(
    r"ComponentReflectionTest.*(ObjectScope\.(ANY|TEMPORARY)|_temp_)"
)
SQLALCHEMY_ALSO = (
    *("test/dialect/test_suite.py", "test/engine/test_reflection.py"),
    *(
        "test/dialect/postgresql/test_dialect.py",
        "test/dialect/postgresql/test_types.py",
    ),
    *("test/dialect/postgresql/test_reflection.py", "test/orm/test_versioning.py"),
    *("test/dialect/postgresql/test_async_pg.py", "test/orm/test_transaction.py"),
)


def sqlalchemy(place: Place, driver: str) -> Iterator[Outcome]:
    files = SQLALCHEMY if place.short else SQLALCHEMY + SQLALCHEMY_ALSO

    def prepare(postgres: Postgres) -> None:
        for sql in (
            *("create schema test_schema", "create schema test_schema_2"),
            *("create extension hstore", "create extension citext"),
        ):
            postgres.query(sql, "sa")

    def play(port: int) -> Tests:
        where = f"postgresql+{driver}://postgres@127.0.0.1:{port}/sa"
        words = ["--dburi", where, "--backend-only", *files]
        # 8 000 of them differ in nothing but how a type is made.
        words += ["-k", "not RoundTripTest or suite"]
        return by_pytest(place, "sqlalchemy", words)

    name = f"sqlalchemy/{driver}"
    yield from compared(place, name, FEW, play, prepare, TEMPORARY_TABLES)


# What a Go test uses of a session that no transaction pool keeps for it.
OF_A_SESSION = re.compile(r"(?i)\btemp(orary)?\b|listen|newTestListener|notif|PID\(\)")


def shareable(package: str) -> set[str]:
    """The tests of a Go package that ask for nothing that outlives a transaction."""
    found = set()
    for path in Path(GO["GOPATH"], "src", package).glob("*_test.go"):
        text = path.read_text()
        for test, body in re.findall(r"(?ms)^func (Test\w+)\((.*?)^}", text):
            if not OF_A_SESSION.search(test + body):
                found.add(test)
    return found


def by_go(program: Path, only: set[str] | None = None, **environment: str) -> Tests:
    """Run the tests that are compiled into *program*, each in a process of its own.

    One that panics or waits for ever takes no others along.
    """
    found: Tests = {}

    def told(*words: str) -> str:
        done = subprocess.run(
            [program, *words],
            cwd=program.parent,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=2 * HANGS,
        )
        return done.stdout.decode(errors="replace")

    for test in re.findall(r"(?m)^Test\w+$", told("-test.list", "^Test")):
        if only is not None and test not in only:
            continue
        text = told("-test.v", f"-test.timeout={HANGS}s", "-test.run", f"^{test}$")
        if f"--- PASS: {test} " in text:
            found[test] = PASSED
        elif f"--- SKIP: {test} " not in text:
            found[test] = text.strip()[-200:].replace("\n", " ") or "failed"
    return found


def compiled(place: Place, package: str) -> Path:
    """The tests of a Go package as a program, beside what they read."""
    where = Path(GO["GOPATH"], "src", package)
    if not where.exists():
        raise Unusable(f"no {where}: apt-get install golang-github-jackc-pgx-v4-dev")
    target = place.ground.directory() / "suite"
    environment = {"GOCACHE": str(place.cache / "go"), **os.environ, **GO}
    done = subprocess.run(
        ["go", "test", "-c", "-o", target, "."],
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise Unusable(f"{package}: {(done.stderr + done.stdout)[-500:]}")
    return target


def libpq_of_go(place: Place) -> Iterator[Outcome]:
    package = "github.com/lib/pq"
    program = compiled(place, package)

    def prepare(postgres: Postgres) -> None:
        postgres.query("create role pqgotest superuser login")

    for ways, only in ((SESSIONS, None), (SHARED, shareable(package))):

        def play(port: int, only: set[str] | None = only) -> Tests:
            return by_go(program, only, **of_libpq(port, "pqgotest"))

        yield from compared(place, "lib/pq", ways, play, prepare)


def pgx(place: Place) -> Iterator[Outcome]:
    def prepare(postgres: Postgres) -> None:
        for sql in (
            *("create extension hstore", "create extension ltree"),
            "create domain uint64 as numeric(20,0)",
        ):
            postgres.query(sql, "pgx_test")

    package = "github.com/jackc/pgx/v4"
    program = compiled(place, package)
    for ways, only in ((SESSIONS, None), (SHARED, shareable(package))):

        def play(port: int, only: set[str] | None = only) -> Tests:
            where = f"host=127.0.0.1 port={port} user=postgres database=pgx_test"
            return by_go(program, only, PGX_TEST_DATABASE=f"{where} sslmode=disable")

        yield from compared(place, "pgx", ways, play, prepare)


PARTS: Mapping[str, Callable[[Place], Iterator[Outcome]]] = {
    "asyncpg": asyncpg,
    **{
        f"sqlalchemy-{driver}": functools.partial(sqlalchemy, driver=driver)
        for driver in ("asyncpg", "psycopg2", "psycopg")
    },
    "psycopg2": psycopg2,
    "lib-pq": libpq_of_go,
    "pgx": pgx,
}
