"""The attacks of the hostile review on prepared statements, with a real PostgreSQL.

In transaction pooling we take such messages apart; in session pooling, or with
`max_prepared_statements=0`, they are PostgreSQL's affair. Whatever comes of it, the
process lives, another client is served, and an honest session goes on.
"""

import asyncio
import contextlib
import struct

import pytest

from tests.relay import frames as f
from tests.support.wire import FakeClient, rows

MB = 1 << 20
MOST = 10_000
ENDLESS = 0x7FFF0000
MODES = {
    "transaction": {"pool_mode": "transaction", "max_prepared_statements": 10},
    "statement": {"pool_mode": "statement", "max_prepared_statements": 10},
    "session": {"pool_mode": "session", "max_prepared_statements": 10},
    "untouched": {"pool_mode": "transaction", "max_prepared_statements": 0},
}
ENDLESS_NAMES = {
    "bind": (b"B", b""),
    "bind behind a portal": (b"B", b"portal\0"),
    "close": (b"C", b"S"),
    "describe": (b"D", b"S"),
    "parse": (b"P", b""),
}


@pytest.fixture(params=MODES)
def one(request, pooler):
    return pooler({**MODES[request.param], "default_pool_size": 2})


def heard(client, count):
    """The codes of all answers up to so many ReadyForQuery; no ParameterStatus."""
    names = {
        "ParseComplete": "1", "BindComplete": "2", "CloseComplete": "3",
        "CommandComplete": "C", "ReadyForQuery": "Z", "ErrorResponse": "E",
        "DataRow": "D", "RowDescription": "T", "NoData": "n",
    }  # fmt: skip
    return "".join(names.get(one["type"], "") for one in client.until_ready(count))


def served(one):
    with FakeClient(one.port) as beside:
        beside.login("p0", "u_trust")
        assert rows(beside.ask("select 'mine'")) == [["mine"]]


def extended(sql):
    return f.parse("", sql) + f.bind("") + f.execute() + f.SYNC


@pytest.mark.parametrize(
    ("forget", "answers"),
    [
        (f.query("DISCARD ALL"), "CZ"),
        (f.query("DEALLOCATE ALL"), "CZ"),
        (extended("DISCARD ALL"), "12CZ"),
        (extended("DEALLOCATE ALL"), "12CZ"),
    ],
    ids=["discard", "deallocate", "extended discard", "extended deallocate"],
)
def test_close_of_nothing_behind_discard_all(one, forget, answers):
    """C1 of the review: it ended the process."""
    with FakeClient(one.port) as client:
        client.login("p0", "u_trust")
        client.send_bytes(forget + f.close("foo") + f.SYNC)
        assert heard(client, 2) == answers + "3Z"
        assert rows(client.ask("select 'on'")) == [["on"]]
    served(one)


def test_binds_to_long_statements_hold_little(one):
    """H6: 45 kB of them held 1.4 GB."""
    text = "select '" + "x" * MB + "', '{}'"
    with FakeClient(one.port, seconds=30) as client:
        client.login("p0", "u_trust")
        for n in range(12):
            client.send_bytes(f.parse(f"n{n}", text.format(n)) + f.SYNC)
            assert heard(client, 1) == "1Z"
        before = one.memory()
        # What PostgreSQL answers is not read; it stops, and so must we.
        binds = b"".join(f.bind(f"n{n}") for n in range(12)) * 100
        client.send_bytes(binds)
        for _ in range(5):
            served(one)
        assert one.memory() - before < 64 * MB
    served(one)


@pytest.mark.parametrize("kind", ENDLESS_NAMES)
def test_name_that_never_ends_costs_and_holds_nothing(one, kind):
    """H8: it was searched anew at every read."""
    code, begin = ENDLESS_NAMES[kind]
    served(one)
    before = one.memory()
    with FakeClient(one.port) as client, contextlib.suppress(ConnectionError):
        client.login("p0", "u_trust")
        client.send_bytes(code + struct.pack("!I", ENDLESS) + begin)
        for _ in range(40):
            client.send_bytes(b"x" * MB)
    served(one)
    assert one.memory() - before < 16 * MB


def test_flushes_behind_an_error_cost_as_little_as_others(one):
    """H9: each walked all that was owed."""
    flushes = f.FLUSH * 200_000

    def cost(behind):
        with FakeClient(one.port, seconds=30) as client:
            client.login("p0", "u_trust")
            client.send_bytes(f.parse("", "syntax error") + f.FLUSH)
            client.send_bytes(f.execute() * behind)
            begun = one.cpu()
            client.send_bytes(flushes + f.SYNC)
            assert heard(client, 1) == "EZ"
            return one.cpu() - begun

    few = min(cost(10) for _ in range(2))
    assert min(cost(19_000) for _ in range(2)) < 4 * few + 0.3
    served(one)


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_failure_of_a_deep_pipeline_reaches_its_end(pooler, mode):
    """More than 20 000 requests under way, the first one wrong: the Sync was not read
    before answers came, and none came before the Sync."""
    one = pooler({"pool_mode": mode})
    with FakeClient(one.port, seconds=30) as client:
        client.login("p0", "u_trust")
        slow = "select 1 / (random() * 0)::int from pg_sleep(0.5)"
        client.send_bytes(f.parse("", slow) + f.bind("") + f.execute())
        client.send_bytes((f.bind("") + f.execute()) * 15_000 + f.SYNC)
        assert heard(client, 1) == "12EZ"
        assert rows(client.ask("select 'on'")) == [["on"]]
    served(one)


def test_one_statement_too_many_with_psycopg(pooler):
    """H7: the session goes on behind 54000, inside a transaction and outside."""
    psycopg = pytest.importorskip("psycopg")
    one = pooler({"pool_mode": "transaction", "max_prepared_statements": 100})
    with psycopg.connect(one.conninfo(), autocommit=True) as client:
        client.prepare_threshold, client.prepared_max = 0, None
        with client.pipeline():
            for n in range(MOST):
                client.execute(f"select {n}")
        assert client.execute("select 7").fetchone() == (7,)
        for sql in ("select 'more'", "select 'and more'"):
            with pytest.raises(psycopg.OperationalError) as refused:
                client.execute(sql)
            assert refused.value.sqlstate == "54000"
            assert client.execute("select 8").fetchone() == (8,)
        with pytest.raises(psycopg.OperationalError), client.transaction():
            client.execute("select 9")
            client.execute("select 'within'")
        with client.transaction():
            assert client.execute("select 9").fetchone() == (9,)
        assert client.execute("select 'text'", prepare=False).fetchone() == ("text",)
    served(one)


def test_one_statement_too_many_with_asyncpg(pooler):
    asyncpg = pytest.importorskip("asyncpg")
    one = pooler({"pool_mode": "transaction", "max_prepared_statements": 100})

    async def talk():
        client = await asyncpg.connect(
            host="127.0.0.1", port=one.port, user="u_trust", database="p0",
            statement_cache_size=0,
        )  # fmt: skip
        kept = [await client.prepare(f"select {n}", name=f"n{n}") for n in range(MOST)]
        with pytest.raises(asyncpg.PostgresError) as refused:
            await client.prepare("select 'more'", name="more")
        assert refused.value.sqlstate == "54000"
        assert await kept[7].fetchval() == 7
        async with client.transaction():
            assert await kept[8].fetchval() == 8
        with pytest.raises(asyncpg.PostgresError):
            async with client.transaction():
                await client.prepare("select 'within'", name="within")
        assert await kept[9].fetchval() == 9
        del kept[:100]
        await client.close()

    asyncio.run(talk())
    served(one)


def test_failing_row_of_executemany_with_asyncpg(pooler):
    """Its Sync comes behind tens of thousands of rows; the error did not end it."""
    asyncpg = pytest.importorskip("asyncpg")
    one = pooler({"pool_mode": "transaction"})

    async def talk():
        client = await asyncpg.connect(
            host="127.0.0.1", port=one.port, user="u_trust", database="p0"
        )
        values = [(0,)] + [(n,) for n in range(1, 60_000)]
        for _ in range(3):
            with pytest.raises(asyncpg.DivisionByZeroError):
                await asyncio.wait_for(
                    client.executemany("select 1 / $1::int from pg_sleep(0.1)", values),
                    30,
                )
        assert await client.fetchval("select 7") == 7
        await client.close()

    asyncio.run(talk())
    served(one)
