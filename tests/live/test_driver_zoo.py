"""Drivers of eight languages through the pooler: md5, SCRAM and TLS, both pool modes.

The programs are in `zoo`, whose README.md says what each of them does. They are not
ours to import: each runs as an application would, in a process of its own.
"""

import functools
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import missing, start_poolers
from tests.support.ground import PASSWORDS, Ground, Postgres, wait_for

ZOO = Path(__file__).with_name("zoo")
# Database of the pooler, and its pool_mode.
DATABASES = {"in_transaction": "transaction", "in_session": "session"}
STEPS = ("login", "transaction", "prepared", "copy", "sleeping", "cancel", "done")
WAYS = ("md5", "scram", "tls")
USERS = {"md5": "u_md5", "scram": "u_scram2", "tls": "u_scram2"}
JDBC = "/usr/share/java/postgresql.jar"
GO_PROGRAM = "{built}/with-go"
GO = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode"}


class Driver(NamedTuple):
    """How to run one driver's program, and how to see whether it is on the machine."""

    run: tuple[str, ...]
    # Prints a version; fails where the driver is missing.
    probe: tuple[str, ...]
    install: str
    build: tuple[str, ...] = ()
    cannot: str = ""


NPM = "npm install --prefix DIR pg && export NODE_PATH=DIR/node_modules"
PYTHON = "pip install '.[test]'"
PHP_PROBE = (
    "extension_loaded('pdo_pgsql') && extension_loaded('pgsql') || exit(1);"
    " echo PHP_VERSION;"
)
# {psql}, {zoo}, {built}: PostgreSQL's psql, the programs, what was made of them.
DRIVERS = {
    "psql": Driver(
        (sys.executable, "{zoo}/with_psql.py"),
        ("{psql}", "--version"),
        "apt-get install postgresql-client-15",
    ),
    "psycopg": Driver(
        (sys.executable, "{zoo}/with_psycopg.py"),
        (sys.executable, "-c", "import psycopg; print(psycopg.__version__)"),
        PYTHON,
    ),
    "asyncpg": Driver(
        (sys.executable, "{zoo}/with_asyncpg.py"),
        (sys.executable, "-c", "import asyncpg; print(asyncpg.__version__)"),
        PYTHON,
    ),
    "JDBC": Driver(
        ("java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
        + ("-cp", f"{JDBC}:{{built}}", "WithJdbc"),
        ("readlink", "-e", JDBC),
        "apt-get install libpostgresql-jdbc-java openjdk-17-jdk-headless",
        build=("javac", "-cp", JDBC, "-d", "{built}", "{zoo}/WithJdbc.java"),
    ),
    "node-postgres": Driver(
        ("node", "{zoo}/with_node.js"),
        ("node", "-p", "require('pg/package.json').version"),
        f"apt-get install nodejs npm; {NPM}",
        cannot="copy",
    ),
    "PDO": Driver(
        ("php", "{zoo}/with_php.php"),
        ("php", "-r", PHP_PROBE),
        "apt-get install php-cli php-pgsql",
    ),
    "DBD::Pg": Driver(
        ("perl", "{zoo}/with_perl.pl"),
        ("perl", "-MDBD::Pg", "-e", "print $DBD::Pg::VERSION"),
        "apt-get install libdbd-pg-perl",
    ),
    "ruby-pg": Driver(
        ("ruby", "{zoo}/with_ruby.rb"),
        ("ruby", "-rpg", "-e", "puts PG::VERSION"),
        "apt-get install ruby-pg",
    ),
    "lib/pq": Driver(
        (GO_PROGRAM,),
        ("readlink", "-e", f"{GO['GOPATH']}/src/github.com/lib/pq"),
        "apt-get install golang-go golang-github-lib-pq-dev",
        build=("go", "build", "-o", GO_PROGRAM, "{zoo}/with_go.go"),
    ),
}


class Zoo:
    """Runs the programs, and makes those that need a compiler, once."""

    def __init__(self, lab: Ground, built: Path) -> None:
        self.names = {"zoo": ZOO, "built": built, "psql": lab.program("psql")}
        self.versions: dict[str, str | None] = {}
        # What a developer has set for libpq is not for these.
        self.environment = {
            name: text for name, text in os.environ.items() if name[:2] != "PG"
        } | GO
        self.environment.setdefault("GOCACHE", str(Path.home() / ".cache/go-build"))

    def words(self, given: Iterable[str]) -> list[str]:
        return [word.format(**self.names) for word in given]

    def version(self, name: str) -> str | None:
        """What the probe of a driver prints; None where the driver is missing."""
        if name not in self.versions:
            driver = DRIVERS[name]
            programs = {*driver.probe[:1], *driver.build[:1], *driver.run[:1]}
            found = None
            if all(map(shutil.which, self.words(programs - {GO_PROGRAM}))):
                done = self.told(self.words(driver.probe))
                found = done.stdout.strip() if done.returncode == 0 else None
            self.versions[name] = found
        return self.versions[name]

    def told(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            env=self.environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=100,
        )

    @functools.cache  # noqa: B019 -- one zoo per run
    def made(self, name: str) -> list[str]:
        """The command that runs a driver's program, compiled if need be."""
        if DRIVERS[name].build:
            done = self.told(self.words(DRIVERS[name].build))
            assert done.returncode == 0, done.stderr
        return self.words(DRIVERS[name].run)


@pytest.fixture(scope="module")
def zoo(lab: Ground, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(lab, tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def poolers(
    lab: Ground, postgres: Postgres, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], Any]]:
    """The pooler for a way to log in; it serves all drivers."""
    starting = start_poolers(lab, request)
    start = next(starting)

    @functools.cache
    def for_way(way: str) -> Any:
        user = USERS[way]
        [row] = postgres.rows(
            f"select rolpassword as p from pg_authid where rolname = '{user}'"
        )
        ini = {"auth_type": "md5" if way == "md5" else "scram-sha-256"}
        if way == "tls":
            ini |= {
                "client_tls_sslmode": "require",
                "client_tls_key_file": "{certs}/bouncer.key",
                "client_tls_cert_file": "{certs}/bouncer.crt",
                "server_tls_sslmode": "verify-full",
                "server_tls_ca_file": "{certs}/ca.crt",
            }
        return start(
            ini,
            databases={
                name: f"{{pg}} dbname=p0 pool_mode={mode}"
                for name, mode in DATABASES.items()
            },
            users={user: row["p"], "admin": "adminpass"},
        )

    yield for_way
    yield from starting


def test_zoo_says_which_drivers_are_on_this_machine(
    zoo: Zoo, capsys: pytest.CaptureFixture[str]
) -> None:
    versions = {name: zoo.version(name) for name in DRIVERS}
    there = [f"{name} ({version})" for name, version in versions.items() if version]
    absent = [name for name, version in versions.items() if version is None]
    with capsys.disabled():
        print(f"\ndrivers: {', '.join(there)}; missing: {', '.join(absent) or 'none'}")
    assert there


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", DRIVERS)
def test_driver_logs_in_and_works(
    zoo: Zoo,
    poolers: Callable[[str], Any],
    lab: Ground,
    postgres: Postgres,
    name: str,
    way: str,
) -> None:
    driver = DRIVERS[name]
    if zoo.version(name) is None:
        missing(f"needs {name}: {driver.install}")
    if way == "tls" and not lab.certificates:
        missing("needs openssl: apt-get install openssl")
    one = poolers(way)
    environment = {
        "PGHOST": "localhost",
        "PGPORT": str(one.port),
        "PGUSER": USERS[way],
        "PGPASSWORD": PASSWORDS[USERS[way]],
        "PGSSLMODE": "disable",
        "ZOO_PSQL": str(zoo.names["psql"]),
    }
    if way == "tls":
        authority = f"{lab.certificates}/ca.crt"
        environment |= {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": authority}
    steps = [step for step in STEPS if step not in driver.cannot.split()]
    wanted = [f"{database} {step}" for database in DATABASES for step in steps]
    with subprocess.Popen(
        [*zoo.made(name), *DATABASES],
        env=zoo.environment | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        try:
            told = watched(program, postgres)
            assert told == wanted, program.stderr.read() if program.stderr else ""
            assert program.wait(10) == 0
        finally:
            program.kill()
    if way == "tls":
        pattern = f"login attempt: db=in_session user={USERS[way]} tls=TLSv1"
        assert one.log_matches(pattern)


def watched(program: "subprocess.Popen[str]", postgres: Postgres) -> list[str]:
    """Read what the program says; tell it when its query sleeps in PostgreSQL."""
    assert program.stdin and program.stdout
    lines: queue.Queue[str] = queue.Queue()

    def read(source: Any) -> None:
        for line in source:
            lines.put(line.strip())
        lines.put("")

    threading.Thread(target=read, args=(program.stdout,), daemon=True).start()
    told = []
    with postgres.connect() as watcher:
        while line := lines.get(timeout=30):
            told.append(line)
            if line.endswith(" sleeping"):
                assert wait_for(lambda: sleeps(watcher), 20), "nobody sleeps"
                program.stdin.write("\n")
                program.stdin.flush()
    return told


def sleeps(watcher: Any) -> bool:
    """Whether a client's pg_sleep is running."""
    row = watcher.execute(
        "select count(*) from pg_stat_activity where state = 'active'"
        " and pid <> pg_backend_pid() and query like '%pg_sleep(60)%'"
    ).fetchone()
    return bool(row[0])
