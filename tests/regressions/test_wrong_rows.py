"""Wrong rows and lost synchronisation, where a real PostgreSQL is needed to see them.

What bytes alone can show is in tests/relay (`pytest -m regression` finds all).
"""

import asyncio
import contextlib
import hashlib
import threading

import psycopg
import pytest

from tests.relay import frames as f
from tests.replay.pooler import wait_for
from tests.support.wire import FakeClient, error, rows

INI = {"pool_mode": "transaction", "default_pool_size": 1, "server_login_retry": "0.1"}
MEGABYTE = 1_000_000


@pytest.fixture
def one(pooler):
    """A pooler with one server per pool."""
    return pooler(INI)


def client_of(one, database: str = "p0", **params: str) -> FakeClient:
    client = FakeClient(one.port, seconds=20)
    assert client.login(database, "u_trust", **params)[-1]["type"] == "ReadyForQuery"
    return client


def codes(client: FakeClient, *messages: bytes) -> str | None:
    """SQLSTATE of the error that answers, or None; up to one ReadyForQuery."""
    client.send_bytes(b"".join(messages))
    got = client.until_ready()
    assert got[-1]["type"] == "ReadyForQuery", got
    return error(got).get("C")


def backend_pid(client: FakeClient) -> str:
    return str(rows(client.ask("select pg_backend_pid()"))[0][0])


@pytest.mark.regression(35)
def test_no_ready_before_sync_when_no_server_is_to_be_had(pooler, free_port):
    """The server cannot be reached: one FATAL, and not the end of a request."""
    one = pooler(
        {**INI, "query_wait_timeout": 1},
        databases={"p0": "{pg} dbname=p0", "gone": "{pg} dbname=p0"},
    )
    with client_of(one, "gone") as client:
        pid = backend_pid(client)
        one.databases = {
            "p0": "{pg} dbname=p0",
            "gone": f"host=127.0.0.1 port={free_port()} dbname=p0",
        }
        one.reload()
        client.send_bytes(f.parse("", "select 1") + f.bind("") + f.execute())
        got = client.until_ready()
        kinds = [m["type"] for m in got]
        assert kinds == ["ErrorResponse", "<connection closed>"], (pid, got)
        assert error(got)["S"] == "FATAL"


@pytest.mark.regression(46)
def test_refused_parse_is_in_no_cache(one, postgres):
    """The same name and text work when the table is there; Close is no error."""
    postgres.rows("drop table if exists later")
    text = "select v from later"
    with client_of(one) as client, client_of(one) as other:
        assert codes(client, f.parse("s", text), f.SYNC) == "42P01"
        client.send_bytes(f.close("s") + f.SYNC)
        kinds = [m["type"] for m in client.until_ready()]
        assert kinds == ["CloseComplete", "ReadyForQuery"]
        assert codes(client, f.parse("s", text), f.SYNC) == "42P01"
        postgres.rows("create table later as select 'there' as v")
        postgres.rows("grant select on later to public")
        for again in (client, other):
            again.send_bytes(f.parse("s", text) + f.bind("s") + f.execute() + f.SYNC)
            assert rows(again.until_ready()) == [["there"]]
    postgres.rows("drop table later")


@pytest.mark.regression(50)
@pytest.mark.parametrize("column", ["text", "bigint"])
def test_one_text_under_two_search_paths_is_two_queries(pooler, postgres18, column):
    """PostgreSQL 18 reports search_path. With other types of columns the shared
    statement was refused (cached plan must not change result type) in turns."""
    for schema, kind, value in (("here", "text", "1"), ("there", column, "2")):
        postgres18.rows(f"drop schema if exists {schema} cascade")
        postgres18.rows(f"create schema {schema}")
        postgres18.rows(f"create table {schema}.t as select '{value}'::{kind} as v")
        postgres18.rows(f"grant usage on schema {schema} to public")
        postgres18.rows(f"grant select on {schema}.t to public")
    one = pooler(
        {**INI, "track_extra_parameters": "IntervalStyle, search_path"},
        server_port=postgres18.port,
    )
    with (
        client_of(one, search_path="here") as here,
        client_of(one, search_path="there") as there,
    ):
        for client in (here, there):
            assert codes(client, f.parse("s", "select v from t"), f.SYNC) is None
        pids = set()
        for _ in range(3):
            for client, value in ((here, "1"), (there, "2")):
                client.send_bytes(f.bind("s") + f.execute() + f.SYNC)
                got = client.until_ready()
                assert rows(got) == [[value]], error(got)
                pids.add(backend_pid(client))
        assert len(pids) == 1


@pytest.mark.regression(50)
def test_one_text_under_two_time_zones_is_two_moments(one):
    """The literal was read once, in the zone of whoever prepared it first."""
    text = "select extract(epoch from timestamptz '2020-01-01 00:00')::bigint"
    with (
        client_of(one, TimeZone="UTC") as here,
        client_of(one, TimeZone="Asia/Tokyo") as there,
    ):
        for client, moment in ((here, 1577836800), (there, 1577836800 - 9 * 3600)):
            ask = f.parse("s", text) + f.bind("s") + f.execute() + f.SYNC
            client.send_bytes(ask)
            assert rows(client.until_ready()) == [[str(moment)]]
            client.send_bytes(f.bind("s") + f.execute() + f.SYNC)
            assert rows(client.until_ready()) == [[str(moment)]]
        assert backend_pid(here) == backend_pid(there)


@pytest.mark.regression(52)
def test_deallocate_by_name_breaks_no_cache(one):
    """PHP's PDO does so: the name that it knows is not PostgreSQL's."""
    with client_of(one) as client, client_of(one) as other:
        ask = f.bind("s") + f.execute() + f.SYNC
        for each in (client, other):
            assert codes(each, f.parse("s", "select 'mine'"), f.SYNC) is None
        assert error(client.ask("deallocate s")) == {}
        assert codes(client, ask) == "26000"
        assert codes(client, f.parse("s", "select 'mine'"), f.SYNC) is None
        for each in (client, other, client):
            each.send_bytes(ask)
            assert rows(each.until_ready()) == [["mine"]]
        # Who finds out PostgreSQL's name costs everybody one error at most.
        names = rows(other.ask("select name from pg_prepared_statements"))
        assert error(other.ask(f'deallocate "{names[0][0]}"')) == {}
        told = [codes(each, ask) for each in (client, other, client, other)]
        assert told.count(None) >= 3, told
        assert told[-2:] == [None, None]


@pytest.mark.regression(53)
def test_changed_result_type_is_told_once_at_most(one, postgres):
    postgres.rows("drop table if exists altered")
    postgres.rows("create table altered as select 1 as v")
    postgres.rows("grant select on altered to public")
    with client_of(one) as client, client_of(one) as other:
        text = "select * from altered"
        for each in (client, other):
            assert codes(each, f.parse("s", text), f.SYNC) is None
            assert codes(each, f.bind("s"), f.execute(), f.SYNC) is None
        postgres.rows("alter table altered add column w int default 2")
        told = [
            codes(each, f.bind("s"), f.execute(), f.SYNC)
            for each in (client, other, client, other)
        ]
        assert told in (["0A000", None, None, None], [None] * 4)
    postgres.rows("drop table altered")


@pytest.mark.regression(56)
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a transaction"])
@pytest.mark.parametrize("end", [f.COPY_DONE, f.copy_fail()], ids=["done", "fail"])
def test_copy_that_fails_at_once_gives_its_server_back_once(one, postgres, inside, end):
    """Row 1 is bad; the client streams on for megabytes and ends it late."""
    postgres.rows("drop table if exists numbers")
    postgres.rows("create table numbers (n int)")
    postgres.rows("grant all on numbers to public")
    with client_of(one) as client, client_of(one) as other:
        if inside:
            client.ask("begin")
        client.send_bytes(f.query("copy numbers from stdin"))
        row = f.copy_data(b"not a number\n" * 1000)
        for _ in range(800):
            client.send_bytes(row)
        got = client.until_ready()
        assert error(got)["C"] == "22P02"
        if inside:
            assert got[-1]["status"] == "E"
            client.send_bytes(row + end)
            assert error(client.ask("select 1"))["C"] == "25P02"
            client.ask("rollback")
        # Free for others although the client has not ended its COPY.
        for number in range(3):
            assert rows(other.ask(f"select 'other-{number}'")) == [[f"other-{number}"]]
            client.send_bytes(row)
        client.send_bytes(end)
        assert rows(client.ask("select 'mine'")) == [["mine"]]
        row = one.wait_for_pool(lambda row: row["sv_idle"] == 1)
        assert (row["sv_active"], row["cl_waiting"]) == (0, 0)
    assert postgres.rows("select count(*) from numbers") == [{"count": 0}]


@pytest.mark.regression(58)
def test_copy_to_a_reader_that_stops_and_dies_costs_nothing(one, postgres):
    with client_of(one) as other:
        pid = backend_pid(other)
        before = one.memory()
        client = client_of(one)
        lines = "select repeat('x', 1000) from generate_series(1, 300000)"
        client.send_bytes(f.query(f"copy ({lines}) to stdout"))
        one.wait_for_pool(lambda row: row["sv_active"] == 1)
        assert client.next(10)["type"] == "CopyOutResponse"

        def blocked() -> bool:
            return bool(
                postgres.rows(
                    "select 1 as one from pg_stat_activity"
                    f" where pid = {pid} and wait_event = 'ClientWrite'"
                )
            )

        assert wait_for(blocked, 10)
        assert one.memory() - before < 8 * MEGABYTE
        client.reset()
        assert rows(other.ask("select 'served'")) == [["served"]]
        assert wait_for(lambda: int(pid) not in postgres.backends(), 10)


@pytest.mark.regression(59)
@pytest.mark.parametrize("mode", ["session", "transaction", "statement"])
def test_large_object_by_function_call(pooler, mode):
    """Fastpath, with an answer that is larger than every buffer."""
    one = pooler({**INI, "pool_mode": mode, "default_pool_size": 2})
    with client_of(one) as client:
        made = client.ask(
            "select lo_from_bytea(0, decode(repeat('5a', 2000000), 'hex'))"
        )
        oid = rows(made)[0][0]
        client.send({"type": "FunctionCall", "oid": 3458, "args": [oid]})  # lo_get
        got = client.until_ready()
        assert [m["type"] for m in got] == ["FunctionCallResponse", "ReadyForQuery"]
        assert len(got[0]["value"]) == 2 + 2 * 2_000_000
        assert rows(client.ask(f"select lo_unlink({oid})")) == [["1"]]
        assert rows(client.ask("select 'next'")) == [["next"]]


@pytest.mark.regression(61)
def test_server_that_dies_in_a_pipeline_ends_libpqs_pipeline(one, postgres):
    """Two errors, PostgreSQL's and one of ours, made libpq wait for ever."""
    with one.connect() as client:
        pid = client.execute("select pg_backend_pid()").fetchone()[0]
        failures: list[BaseException] = []

        def run() -> None:
            try:
                with client.pipeline():
                    cursors = [client.execute("select %s::int", (n,)) for n in range(9)]
                    client.execute("select pg_sleep(30)")
                    for number in range(50):
                        client.execute("select %s::int", (number,))
                    cursors[0].fetchone()
            except psycopg.Error as problem:
                failures.append(problem)

        thread = threading.Thread(target=run)
        thread.start()
        assert wait_for(
            lambda: postgres.rows(
                "select 1 as one from pg_stat_activity where query ~ 'pg_sleep'"
                f" and state = 'active' and pid = {pid}"
            ),
            10,
        )
        postgres.rows(f"select pg_terminate_backend({pid})")
        thread.join(15)
        assert not thread.is_alive()
        assert isinstance(failures[0], psycopg.OperationalError)
        assert client.closed
    with one.connect() as client:
        assert client.execute("select 'next'").fetchone() == ("next",)


@pytest.mark.regression(61)
def test_server_that_dies_in_a_pipeline_is_told_in_one_error(one, postgres):
    with client_of(one) as client:
        pid = backend_pid(client)
        unit = f.parse("", "select 'row'") + f.bind("") + f.execute() + f.SYNC
        sleep = f.parse("", "select pg_sleep(30)") + f.bind("") + f.execute() + f.SYNC
        client.send_bytes(unit * 3 + sleep + unit * 3)
        assert rows(client.until_ready(3)) == [["row"]] * 3
        postgres.rows(f"select pg_terminate_backend({pid})")
        got = client.until_ready()
        told = [dict(m["fields"]) for m in got if m["type"] == "ErrorResponse"]
        assert [fields["S"] for fields in told] == ["FATAL"]
        assert got[-1]["type"] == "<connection closed>"


TLS = {
    **INI,
    "client_tls_sslmode": "require",
    "client_tls_key_file": "{certs}/pg.key",
    "client_tls_cert_file": "{certs}/pg.crt",
}


@pytest.mark.regression(65)
def test_large_records_and_half_messages_over_tls_reach_async_clients(pooler):
    """They wait for the socket while the bytes are in their TLS library already."""
    one = pooler(TLS)

    async def ask(connection: psycopg.AsyncConnection, size: int) -> None:
        cursor = await connection.execute(
            "select n, repeat(md5(n::text), %s) from generate_series(1, 40) n", (size,)
        )
        found = await cursor.fetchall()
        assert found == [
            (n, hashlib.md5(b"%d" % n).hexdigest() * size) for n in range(1, 41)
        ]

    async def run() -> None:
        conninfo = one.conninfo(sslmode="require")
        async with contextlib.AsyncExitStack() as stack:
            several = [
                await stack.enter_async_context(
                    await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
                )
                for _ in range(3)
            ]
            for size in (1, 6, 12, 255, 256, 257, 511, 512, 513, 2000):
                asked = (ask(connection, size) for connection in several)
                await asyncio.wait_for(asyncio.gather(*asked), 20)

    asyncio.run(run())
