"""The console as a PostgreSQL: drivers and tools that take it for one."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import asyncpg
import psycopg
import psycopg2
import pytest

from tests.support.embedded import embedded_bindir

ZOO = Path(__file__).with_name("zoo")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
# Debian's, and its next release's where `make outside` has fetched it.
JARS = {
    "debian": Path("/usr/share/java/postgresql.jar"),
    "newer": CACHE / "pybouncer-ci/jdbc/usr/share/java/postgresql.jar",
}
MODES = ("simple", "extended", "extendedForPrepared", "extendedCacheEverything")


@pytest.fixture
def console(pooler):
    """A pooler whose console is asked."""
    return pooler({"pool_mode": "transaction"})


@pytest.fixture
def url(console):
    password = console.users["admin"]
    return f"postgresql://admin:{password}@127.0.0.1:{console.port}/pgbouncer"


# JDBC


@pytest.mark.parametrize("jar", JARS)
def test_jdbc_works_in_each_query_mode(pooler, jar, tmp_path):
    """42.7.13 could not connect: it begins with SET extra_float_digits."""
    # The old one has it in the startup packet, where it is refused, as in PgBouncer.
    ignored = "extra_float_digits" if jar == "debian" else None
    console = pooler({"ignore_startup_parameters": ignored})
    path = JARS[jar]
    if not path.exists() or not shutil.which("javac"):
        pytest.skip(f"needs {path} and openjdk-17-jdk-headless")
    made = tmp_path / "made"
    subprocess.run(
        ["javac", "-cp", path, "-d", made, ZOO / "ConsoleJdbc.java"],
        check=True,
        timeout=100,
    )
    told = subprocess.run(
        ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
        + ["-cp", f"{path}:{made}", "ConsoleJdbc", *MODES],
        env={
            **os.environ,
            "PGHOST": "127.0.0.1",
            "PGPORT": str(console.port),
            "PGUSER": "admin",
            "PGPASSWORD": console.users["admin"],
        },
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert told.stdout.split() == list(MODES), told.stderr
    assert not console.log_matches("closing because: (?!client close request)")


# psycopg


def test_psycopg_works_without_autocommit(console, url):
    """BEGIN was an invalid command, so that each first query failed."""
    with psycopg.connect(url) as connection:
        assert connection.execute("SHOW STATE").fetchone() == ("active", "yes")
        connection.execute("SET default_pool_size = 7")
        connection.commit()
        with pytest.raises(psycopg.errors.ProtocolViolation):
            connection.execute("SHOW nosuch")
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            connection.execute("SHOW STATE")
        connection.rollback()
        # What has been done is done: nothing here is undone.
        asked = "SELECT value FROM config WHERE key = 'default_pool_size'"
        assert connection.execute(asked).fetchone() == ("7",)


def test_psycopg_nests_transactions(console, url):
    with psycopg.connect(url, autocommit=True) as connection:
        with connection.transaction():
            connection.execute("SHOW STATE")
            with (
                pytest.raises(psycopg.errors.ProtocolViolation),
                connection.transaction(),
            ):
                connection.execute("SHOW nosuch")
            assert connection.execute("SHOW STATE").fetchone() == ("active", "yes")
        status = connection.info.transaction_status
        assert status == psycopg.pq.TransactionStatus.IDLE


@pytest.mark.parametrize("wanted", ["read-write", "primary", "prefer-standby"])
def test_libpq_finds_the_kind_of_server_that_it_wants(url, wanted):
    with psycopg.connect(f"{url}?target_session_attrs={wanted}") as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        asked = "SELECT pg_is_in_recovery(), pg_backend_pid()"
        pid = connection.info.backend_pid
        assert connection.execute(asked).fetchone() == (False, pid)


def test_psycopg2_works_by_default_and_resets(url):
    connection = psycopg2.connect(url)
    try:
        for _ in range(2):
            cursor = connection.cursor()
            cursor.execute("SHOW VERSION")
            assert cursor.fetchone()[0].startswith("PgBouncer ")
            connection.commit()
            connection.reset()
    finally:
        connection.close()


# asyncpg


def test_asyncpg_has_a_pool_with_transactions_and_cursors(url):
    """Releasing a connection failed: RESET ALL was an invalid command."""

    async def run():
        async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:
            for _ in range(3):
                async with pool.acquire() as connection, connection.transaction():
                    async with connection.transaction():
                        assert await connection.fetchval("SELECT 1") == 1
                    rows = [row async for row in connection.cursor("SHOW CONFIG")]
                    assert len(rows) > 90
                    assert (
                        await connection.fetchval("SELECT pg_is_in_recovery()") is False
                    )

    asyncio.run(run())


# psql

BACKSLASH = [r"\d", r"\dt", r"\df", r"\l", r"\dx", r"\d+ x", r"\dT+", r"\dn", r"\du"]


@pytest.fixture(params=["15", "18"])
def psql(request, lab, console):
    """Run psql with commands; what it says."""
    program = lab.program("psql") if request.param == "15" else embedded_psql()

    def run(*commands, **more):
        return subprocess.run(
            [program, "-XAt", console.conninfo("pgbouncer", "admin")]
            + [part for each in commands for part in ("-c", each)],
            capture_output=True,
            text=True,
            timeout=60,
            **more,
        )

    return run


def embedded_psql():
    """The psql of PostgreSQL 18 that the extra `demo` has."""
    found = embedded_bindir()
    if found is None:
        pytest.skip("needs the extra `demo`")
    return str(found / "psql")


@pytest.mark.parametrize("command", BACKSLASH)
def test_psql_stays_connected_whatever_it_asks(psql, command):
    r"""\d, \dt, \df of 15 and \l, \dx of 18 ended with `FATAL: failure`."""
    told = psql(command, "SHOW VERSION")
    assert told.stdout.splitlines()[-1].startswith("PgBouncer "), told.stderr
    assert "FATAL" not in told.stderr
    assert "connection" not in told.stderr
    for line in told.stderr.splitlines():
        assert len(line) < 500


def test_psql_sends_several_commands_and_comments(psql):
    told = psql(
        "SHOW VERSION; SHOW STATE", "/* x */ SHOW VERSION -- y", "-- ping", ";;"
    )
    assert told.stderr == ""
    assert told.returncode == 0
    lines = told.stdout.splitlines()
    assert "active|yes" in lines
    assert sum(line.startswith("PgBouncer") for line in lines) == 2


def test_psql_runs_a_script_in_one_transaction(psql, lab, console):
    told = subprocess.run(
        [lab.program("psql"), "-XAt1", console.conninfo("pgbouncer", "admin")],
        input="SHOW VERSION;\nRELOAD;\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.splitlines()[1:] == ["RELOAD"]


# pgcli


def test_pgcli_shows_rows_and_completes(console, skip_or_fail):
    """Its completion asks a catalog whose answer it does not expect to fail."""
    skip_or_fail("pgcli", "apt-get install pgcli")
    told = subprocess.run(
        ["pgcli", "-h", "127.0.0.1", "-p", str(console.port)]
        + ["-U", "admin", "pgbouncer", "--less-chatty"],
        input="SHOW VERSION;\nSHOW HELP;\nPAUSE p0;\nRESUME p0;\nSELECT 1;\n\\q\n",
        env={
            **os.environ,
            "PGPASSWORD": console.users["admin"],
            "TERM": "dumb",
            "HOME": str(console.directory),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = told.stdout + told.stderr
    assert "Traceback" not in said
    assert "PgBouncer " in told.stdout
    assert "RESUME" in told.stdout
