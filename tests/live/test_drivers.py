"""Real programs and drivers in all three pool modes, on each PostgreSQL there is."""

import asyncio
import io
import re

import asyncpg
import psycopg
import psycopg2
import pytest

from tests.live.conftest import MODES

USER = "u_scram"

pytestmark = pytest.mark.parametrize("mode", MODES)


@pytest.fixture
def pooled(pooler, server, mode):
    """A pooler in *mode* with few servers, so that clients must share.

    A session keeps its server: there must be one for each client of a test.
    """
    size = 8 if mode == "session" else 2
    ini = {"pool_mode": mode, "default_pool_size": size, "auth_type": "scram-sha-256"}
    return pooler(ini, server_port=server.port)


def test_psql_runs_statements_errors_and_meta_commands(pooled, program):
    where = pooled.conninfo(user=USER)
    assert program("psql", "-XAtc", "select 6 * 7", where) == "42\n"
    told = program(
        "psql", "-XAt", where, input="select 1/0;\nselect 'after';\n", stdin=None
    )
    assert "division by zero" in told
    assert "after" in told
    assert "u_scram" in program("psql", "-XAtc", r"\du u_scram", where)


@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
def test_pgbench_finishes_every_transaction(
    pooled, server, mode, program, bench_tables, protocol
):
    bench_tables(server)
    kind = "select-only" if mode == "statement" else "tpcb-like"
    before = server.rows("select count(*) as n from pgbench_history")[0]["n"]
    # A thread for each: PREPARE blocks it, while its other clients would hold servers.
    told = program(
        "pgbench",
        *("-n", "-b", kind, "-M", protocol, "-c", "8", "-j", "8", "-t", "40"),
        pooled.conninfo(user=USER),
    )
    assert re.search(r"actually processed: 320/320", told)
    after = server.rows("select count(*) as n from pgbench_history")[0]["n"]
    assert after - before == (0 if mode == "statement" else 320)
    assert pooled.pool(user=USER)["cl_waiting"] == 0


def test_psycopg_queries_prepares_and_copies(pooled, mode):
    with pooled.connect(user=USER) as connection:
        connection.prepare_threshold = 0
        for number in range(30):
            row = connection.execute("select %s::int + 1", (number,)).fetchone()
            assert row == (number + 1,)
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("select * from nowhere")
        with connection.cursor().copy(
            "copy (select generate_series(1, 1000)) to stdout"
        ) as c:
            assert sum(int(row[0]) for row in c.rows()) == 500500
        if mode != "statement":
            with connection.transaction():
                connection.execute("create temp table seen (n int) on commit drop")
                with connection.cursor().copy("copy seen from stdin") as copy:
                    for number in range(1000):
                        copy.write_row((number,))
                assert connection.execute("select sum(n) from seen").fetchone() == (
                    499500,
                )
    with psycopg.connect(pooled.conninfo(user=USER), autocommit=True) as connection:
        with connection.pipeline():
            cursors = [connection.execute("select %s::int", (n,)) for n in range(50)]
        assert [cursor.fetchone() for cursor in cursors] == [(n,) for n in range(50)]


def test_psycopg_refused_transaction_in_statement_mode_only(pooled, mode):
    with psycopg.connect(pooled.conninfo(user=USER)) as connection:
        if mode != "statement":
            assert connection.execute("select 1").fetchone() == (1,)
            connection.rollback()
            return
        with pytest.raises(psycopg.Error, match="transaction blocks not allowed"):
            connection.execute("select 1")


def test_psycopg2_queries_and_copies(pooled):
    connection = psycopg2.connect(pooled.conninfo(user=USER))
    try:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("select %s, %s", ("a", [1, 2]))
        assert cursor.fetchone() == ("a", [1, 2])
        with pytest.raises(psycopg2.Error):
            cursor.execute("select 1/0")
        cursor.execute("select 'still there'")
        assert cursor.fetchone() == ("still there",)
        out = io.StringIO()
        cursor.copy_expert("copy (select generate_series(1, 10)) to stdout", out)
        assert out.getvalue().split() == [str(n) for n in range(1, 11)]
    finally:
        connection.close()


def test_asyncpg_queries_transactions_and_copies(pooled, mode):
    async def use() -> None:
        connection = await asyncpg.connect(
            host="127.0.0.1",
            port=pooled.port,
            user=USER,
            password=pooled.users[USER],
            database="p0",
        )
        for number in range(30):
            assert await connection.fetchval("select $1::int * 2", number) == number * 2
        rows = await connection.fetch(
            "select n, n::text as t from generate_series(1, 500) n"
        )
        assert [(row["n"], row["t"]) for row in rows[-1:]] == [(500, "500")]
        with pytest.raises(asyncpg.DivisionByZeroError):
            await connection.fetchval("select 1 / $1::int", 0)
        if mode != "statement":
            async with connection.transaction():
                await connection.execute(
                    "create temp table seen (n int) on commit drop"
                )
                await connection.copy_records_to_table(
                    "seen", records=[(n,) for n in range(9)]
                )
                assert await connection.fetchval("select sum(n) from seen") == 36
                cursor = [r["n"] async for r in connection.cursor("select n from seen")]
                assert cursor == list(range(9))
        await connection.close()

    async def several() -> None:
        await asyncio.gather(*(use() for _ in range(6)))

    asyncio.run(several())
