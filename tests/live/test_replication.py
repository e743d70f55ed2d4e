"""PostgreSQL's own replication, physical and logical, with a pooler in between."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.replay.pooler import wait_for
from tests.support.ground import Ground, Postgres

from .conftest import MODES

USERS = {"u_trust": "", "u_repl": "", "postgres": "", "admin": "", "stats": ""}
# Physical replication names no database: libpq says "replication".
DATABASES = {"p0": "{pg} dbname=p0", "replication": "{pg}"}


@pytest.fixture(scope="module")
def subscriber(lab: Ground) -> Iterator[Postgres]:
    """A second PostgreSQL, which subscribes."""
    server = lab.another_postgresql("pg-subscriber")
    server.query("alter system set wal_retrieve_retry_interval = '100ms'")
    server.query("select pg_reload_conf()")
    yield server
    server.stop()


@pytest.fixture
def backup(lab: Ground) -> Iterator[Path]:
    """Where a backup goes, in a directory of the servers' user."""
    parent = lab.directory()
    yield parent / "data"
    shutil.rmtree(parent, ignore_errors=True)


@pytest.fixture
def make_pooler(pooler):
    """A pooler that knows the replication user."""

    def start(mode: str, **settings: object):
        ini = {"pool_mode": mode, "max_prepared_statements": 10, **settings}
        return pooler(ini, users=USERS, databases=DATABASES)

    return start


def take_backup(lab: Ground, one, where: Path, *options: str) -> None:
    """Run pg_basebackup through *one*, as the servers' user."""
    command = [lab.program("pg_basebackup"), "-D", str(where), "-X", "stream"]
    command += ["--checkpoint=fast", "--no-sync", *options]
    command += ["-d", one.conninfo("replication", "u_repl")]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=55,
        cwd="/",
        **lab.identity.process_options(),
    )
    assert done.returncode == 0, done.stderr


def slots(postgres: Postgres) -> list[str]:
    """Replication slots that are left."""
    found = postgres.rows("select slot_name from pg_replication_slots")
    return [row["slot_name"] for row in found]


@pytest.mark.parametrize("mode", MODES)
def test_pg_basebackup_brings_home_a_complete_backup(
    make_pooler, lab, backup, mode, program, postgres
):
    one = make_pooler(mode, default_pool_size=2)
    take_backup(lab, one, backup)
    assert "successfully verified" in program("pg_verifybackup", str(backup))
    # Base backup and WAL have a connection each, and nobody else ever gets them.
    one.wait_for_log("replication client was closed", 2)
    assert not one.pool("replication", "u_repl")["sv_idle"]
    assert wait_for(lambda: not slots(postgres), 5)


def test_standby_follows_its_primary_through_the_pooler(
    make_pooler, lab, backup, postgres
):
    one = make_pooler("transaction")
    take_backup(lab, one, backup, "-R")
    port = lab.free_port()
    with open(backup / "postgresql.conf", "a") as conf:
        conf.write(f"port = {port}\nwal_retrieve_retry_interval = 100ms\n")
        conf.write(f"unix_socket_directories = '{backup}'\n")
    with open(backup.parent / "log", "wb") as log:
        standby = subprocess.Popen(
            [postgres.bindir / "postgres", "-D", backup],
            stdout=log,
            stderr=log,
            cwd="/",
            **lab.identity.process_options(),
        )
    try:
        with one.connect(user="postgres") as client:
            client.execute("drop table if exists followed")
            client.execute("create table followed as select 1 as n")

            def count() -> int:
                try:
                    return ask_at(port, "select count(*) from followed")
                except psycopg.Error:
                    return 0  # not up yet, or not come so far

            assert wait_for(lambda: count() == 1, 20)
            client.execute("insert into followed select generate_series(2, 10000)")
            assert wait_for(lambda: count() == 10_000, 10)
            # RECONNECT cuts the stream off; the standby comes back and goes on.
            one.console("RECONNECT")
            one.wait_for_log("database configuration changed")
            client.execute("insert into followed values (0)")
            assert wait_for(lambda: count() == 10_001, 10)
            client.execute("drop table followed")
    finally:
        standby.terminate()
        standby.wait(20)


def ask_at(port: int, sql: str) -> int:
    """One number from the server at *port*."""
    where = f"host=127.0.0.1 port={port} user=postgres dbname=p0"
    with psycopg.connect(where) as connection:
        row = connection.execute(sql.encode()).fetchone()
        assert row is not None
        return int(row[0])


@pytest.mark.parametrize("mode", MODES)
def test_pg_recvlogical_hears_every_change(make_pooler, program, postgres, mode):
    one = make_pooler(mode, default_pool_size=2)
    where = one.conninfo("p0", "u_repl")
    recv = ("pg_recvlogical", "-d", where, "--slot", f"heard_{mode}")
    program(*recv, "--create-slot", "-P", "test_decoding")
    try:
        postgres.rows("drop table if exists heard; create table heard (n int)")
        with one.connect(user="postgres") as client:
            for number in range(500):
                client.execute("insert into heard values (%s)", (number,))
            end = client.execute("select pg_current_wal_insert_lsn()").fetchone()
            # Something behind the end, so that the end is passed.
            client.execute("insert into heard values (-1)")
        heard = program(*recv, "--start", "--endpos", end[0], "-f", "-", "-n")
        told = [line for line in heard.splitlines() if line.startswith("table public")]
        assert told == [
            f"table public.heard: INSERT: n[integer]:{number}" for number in range(500)
        ]
    finally:
        program(*recv, "--drop-slot")
        postgres.rows("drop table if exists heard")
    assert wait_for(lambda: not slots(postgres), 5)


def filled_table(postgres: Postgres, subscriber: Postgres, name: str) -> None:
    """A published table with a thousand rows, empty at the subscriber."""
    for server in (postgres, subscriber):
        server.rows(f"drop table if exists {name}")
        server.rows(f"create table {name} (n int primary key, at timestamptz, t text)")
    postgres.rows(f"grant all on {name} to public")
    postgres.rows(
        f"insert into {name} select n, '2024-02-03 04:05:06.789+00', repeat('ü', n)"
        " from generate_series(1, 1000) n"
    )
    postgres.rows(f"create publication {name} for table {name}")


@pytest.mark.parametrize("mode", MODES)
def test_subscription_copies_and_follows(make_pooler, postgres, subscriber, mode):
    one = make_pooler(mode, default_pool_size=5)
    name = f"followed_{mode}"
    filled_table(postgres, subscriber, name)
    where = one.conninfo("p0", "u_repl")
    digest = (
        f"select count(*), md5(string_agg({name}::text, ',' order by n)) from {name}"
    )

    def is_equal() -> bool:
        return postgres.rows(digest) == subscriber.rows(digest)

    with one.connect() as client:
        client.execute("select 1")  # others work in the same pooler meanwhile
        subscriber.rows(
            f"create subscription {name} connection '{where}' publication {name}"
        )
        try:
            assert wait_for(is_equal, 20)
            client.execute(f"update {name} set t = t || '!' where n % 2 = 0".encode())
            client.execute(f"delete from {name} where n % 3 = 0".encode())
            assert wait_for(is_equal, 10)
            # A stream that is cut goes on where it was, without loss or repetition.
            one.console("RECONNECT")
            one.wait_for_log("database configuration changed")
            more = f"insert into {name} select n from generate_series(2001, 3000) n"
            client.execute(more.encode())
            assert wait_for(is_equal, 10)
        finally:
            subscriber.rows(f"drop subscription {name}")
            postgres.rows(f"drop publication {name}")
    assert wait_for(lambda: not slots(postgres), 5)


def test_replication_of_a_client_without_the_right_says_so_to_it_alone(
    make_pooler, lab, backup
):
    one = make_pooler("transaction")
    with one.connect() as client:
        assert client.execute("select 1").fetchone() == (1,)
        command = [lab.program("pg_basebackup"), "-D", str(backup)]
        command += ["-d", one.conninfo("replication", "u_trust")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=55)
        assert done.returncode != 0
        assert "login failed" in done.stderr
        one.wait_for_log(
            "S: login failed: FATAL: must be superuser or replication role"
        )
        assert client.execute("select 2").fetchone() == (2,)
