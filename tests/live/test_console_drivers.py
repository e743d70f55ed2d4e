"""The console as drivers use it, with the extended protocol that is ours."""

import asyncio
from decimal import Decimal

import asyncpg
import psycopg
import psycopg2
import psycopg2.extras
import pytest
from psycopg.rows import dict_row


@pytest.fixture
def console(pooler):
    """A pooler whose console is asked."""
    return pooler({"pool_mode": "transaction", "default_pool_size": 2})


def results_of(connection):
    """Wait for the answer to what was sent beneath psycopg."""
    found = []
    while result := connection.pgconn.get_result():
        found.append(result)
    return found


def open_console(console, user="admin", **more):
    return console.connect("pgbouncer", user, **more)


# psycopg 3


def test_psycopg_binds_parameters_on_the_server(console):
    with open_console(console) as connection:
        assert connection.execute("SHOW %s", ("VERSION",)).fetchall() == [
            ("PgBouncer 1.26.1",)
        ]
        connection.execute("SET default_pool_size = %s", (7,))
        asked = "SELECT value FROM config WHERE key = %s"
        assert connection.execute(asked, ("default_pool_size",)).fetchone() == ("7",)
        with pytest.raises(psycopg.errors.ProtocolViolation, match="client not found"):
            connection.execute("KILL_CLIENT %s", (99999,))
        # An error does not end the session, as it would in PgBouncer.
        assert connection.execute("SHOW STATE").fetchone() == ("active", "yes")


@pytest.mark.parametrize("binary", [False, True])
def test_psycopg_prepares_and_gets_typed_values(console, binary):
    with console.connect() as client, open_console(console) as connection:
        client.execute("select 1")
        cursor = connection.cursor(row_factory=dict_row, binary=binary)
        for _ in range(8):
            pools = cursor.execute("SHOW POOLS", prepare=True).fetchall()
        mine = next(row for row in pools if row["database"] == "p0")
        assert mine["cl_active"] == 1
        assert mine["pool_mode"] == "transaction"
        assert mine["load_balance_hosts"] is None
        stats = cursor.execute("SHOW STATS", prepare=True).fetchall()
        mine = next(row for row in stats if row["database"] == "p0")
        assert mine["total_query_count"] == Decimal(1)
        assert mine["total_sent"] == Decimal(66)


def test_psycopg_repeats_a_text_more_often_than_it_prepares_by_itself(console):
    with open_console(console) as connection:
        for _ in range(12):
            assert connection.execute("SHOW VERSION").fetchone() is not None


def test_psycopg_pipelines(console):
    with open_console(console) as connection, connection.pipeline():
        cursors = [connection.execute("SHOW STATE") for _ in range(20)]
        asked = connection.execute("SELECT count(*) FROM clients WHERE user = 'admin'")
        assert all(cursor.fetchone() == ("active", "yes") for cursor in cursors)
        assert asked.fetchone() == (1,)


def test_psycopg_pause_with_parameters_waits_for_the_drain(console):
    with (
        console.connect() as client,
        open_console(console) as first,
        open_console(console) as second,
    ):
        client.execute("begin")
        client.execute("select 1")
        first.pgconn.send_query_params(b"PAUSE", [])
        console.wait_for_pool(lambda row: row["sv_active"] == 1)
        assert second.execute("SHOW STATE").fetchall()[1] == ("paused", "yes")
        client.execute("commit")
        (result,) = results_of(first)
        assert result.command_status == b"PAUSE"
        assert second.execute("SHOW POOLS").fetchone()[6] == 0
        second.execute("RESUME")


def test_psycopg_pause_that_is_lifted_is_an_error(console):
    with (
        console.connect() as client,
        open_console(console) as first,
        open_console(console) as second,
    ):
        client.execute("begin")
        client.execute("select 1")
        first.pgconn.send_query_params(b"PAUSE", [])
        while second.execute("SHOW STATE").fetchall()[1] != ("paused", "yes"):
            pass
        second.execute("RESUME")
        (result,) = results_of(first)
        assert result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"57014"
        client.execute("commit")


# asyncpg


@pytest.fixture
def console_url(console):
    password = console.users["admin"]
    return f"postgresql://admin:{password}@127.0.0.1:{console.port}/pgbouncer"


def ask_asyncpg(url, what, **more):
    async def run():
        connection = await asyncpg.connect(url, **more)
        try:
            return await what(connection)
        finally:
            await connection.close()

    return asyncio.run(run())


@pytest.mark.regression(118)
@pytest.mark.parametrize("cache", [0, 100])
def test_asyncpg_fetches_typed_rows(console, console_url, cache):
    async def ask(connection):
        for _ in range(3):
            version = await connection.fetchval("SHOW VERSION")
            pools = await connection.fetch("SHOW POOLS")
            stats = await connection.fetchrow("SHOW STATS")
            hosts = await connection.fetch("SHOW DNS_HOSTS")
        return version, pools, stats, hosts

    version, pools, stats, hosts = ask_asyncpg(
        console_url, ask, statement_cache_size=cache
    )
    assert version == "PgBouncer 1.26.1"
    assert [(row["database"], row["cl_active"]) for row in pools] == [("pgbouncer", 1)]
    assert stats["database"] == "pgbouncer"
    # Counted at the first command, and never again.
    assert stats["total_query_count"] == Decimal(1)
    assert hosts == []


def test_asyncpg_passes_arguments(console, console_url):
    async def ask(connection):
        await connection.execute("SET default_pool_size = $1", "9")
        sizes = await connection.fetch(
            "SELECT name, pool_size FROM databases WHERE pool_size = $1 AND name > $2 "
            "ORDER BY name LIMIT $3",
            9,
            "p0",
            5,
        )
        with pytest.raises(asyncpg.ProtocolViolationError, match="client not found"):
            await connection.execute("KILL_CLIENT $1", 99999)
        alive = await connection.fetchval("SELECT count(*) FROM clients")
        return [tuple(row) for row in sizes], alive

    sizes, alive = ask_asyncpg(console_url, ask)
    assert sizes == [("p1", 9)]
    assert alive == 1


def test_asyncpg_prepares_and_describes(console, console_url):
    async def ask(connection):
        prepared = await connection.prepare(
            "SELECT state, count(*) AS n, avg(wait) FROM clients "
            "WHERE id > $1 GROUP BY state"
        )
        kinds = [column.type.name for column in prepared.get_attributes()]
        wants = [kind.name for kind in prepared.get_parameters()]
        return kinds, wants, [tuple(row) for row in await prepared.fetch(0)]

    kinds, wants, rows = ask_asyncpg(console_url, ask)
    assert kinds == ["text", "int8", "float8"]
    assert wants == ["int8"]
    assert rows == [("idle", 1, 0.0)]


# psycopg2


def test_psycopg2_reads_by_name(console):
    connection = psycopg2.connect(console.conninfo("pgbouncer", "admin"))
    connection.autocommit = True
    try:
        cursor = connection.cursor(cursor_factory=psycopg2.extras.DictCursor)
        cursor.execute("SHOW LISTS")
        lists = {row["list"]: row["items"] for row in cursor.fetchall()}
        assert lists["databases"] == 3
        assert lists["used_clients"] == 1
        cursor.execute("SELECT name FROM databases WHERE name = %s", ("p0",))
        assert cursor.fetchall() == [["p0"]]
        cursor.execute("SHOW default_transaction_isolation")
        assert cursor.fetchone()[0] == "read committed"
    finally:
        connection.close()
