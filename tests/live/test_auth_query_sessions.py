"""auth_query is not answered by what clients have left on a server."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.ground import Postgres
from tests.support.wire import FakeClient, error, rows

MINE = "mine of the attacker"
LOOKUP = "select * from get_auth($1)"
# What a client leaves in its session, so that the query finds other things.
TRAPS = {
    "search_path": "create schema evil; create function evil.get_auth(text, "
    "out n text, out s text) language sql as 'select $1, ''" + MINE + "'''; "
    "set search_path = evil, public",
    "temporary table": "create temp table secrets(n text, s text); "
    "insert into secrets values ('boss', '" + MINE + "'), ('ann', '" + MINE + "')",
}
QUERIES = {
    "search_path": LOOKUP,
    "temporary table": "select n, s from secrets where n = $1",
}


@pytest.fixture
def tables(postgres: Postgres) -> Iterator[None]:
    """A role that looks users up and may create things, and what it looks at."""
    postgres.rows(
        "create role asker login password 'asking';"
        "grant create, connect on database p0 to asker;"
        "create table public.secrets(n text, s text);"
        "insert into public.secrets values ('boss', 'right'), ('ann', 'right');"
        "grant select on public.secrets to asker;"
        "create function public.get_auth(text, out n text, out s text) language sql "
        "as 'select n, s from public.secrets where n = $1'"
    )
    yield
    postgres.rows(
        "drop owned by asker cascade;"
        "drop function public.get_auth;"
        "drop table public.secrets;"
        "drop role asker"
    )


@pytest.fixture
def start(pooler: Callable[..., Any], tables: None) -> Callable[..., Any]:
    """Start a pooler where clients of `shared` have the servers of auth_query."""

    def begin(query: str, **settings: Any) -> Any:
        return pooler(
            {
                "auth_type": "plain",
                "auth_user": "asker",
                "auth_dbname": "shared",
                "auth_query": query,
                "pool_mode": "transaction",
                "default_pool_size": 1,
                "admin_users": "boss, admin",
                **settings,
            },
            databases={"shared": "{pg} dbname=p0 user=asker"},
            users={"asker": "asking", "admin": "adminpass"},
        )

    return begin


def refusal(one: Any, database: str, user: str, password: str) -> str:
    with FakeClient(one.port) as client:
        return error(client.login(database, user, password)).get("M", "")


@pytest.mark.parametrize("name", TRAPS)
def test_client_cannot_answer_for_postgresql(
    start: Callable[..., Any], name: str
) -> None:
    """What a client had left on the server let it in as an administrator."""
    one = start(QUERIES[name])
    for _ in range(2):
        with FakeClient(one.port) as client:
            client.login("shared", "ann", "right")
            assert not error(client.ask(TRAPS[name]))
            trapped = QUERIES[name].replace("$1", "'boss'")
            assert rows(client.ask(trapped)) == [["boss", MINE]]
            assert refusal(one, "pgbouncer", "boss", MINE)
            assert not refusal(one, "pgbouncer", "boss", "right")
            assert not refusal(one, "shared", "ann", "right")
            client.ask("drop schema if exists evil cascade")


def test_clients_go_on_beside_auth_query(start: Callable[..., Any]) -> None:
    """Its DISCARD ALL takes prepared statements and parameters of a session away."""
    one = start(LOOKUP)
    more = {"password": "right", "options": "-c TimeZone=Asia/Tokyo"}
    with one.connect("shared", "ann", **more) as client:
        for _ in range(3):
            row = client.execute(
                "select current_setting('TimeZone'), %s::int", [7], prepare=True
            ).fetchone()
            assert row == ("Asia/Tokyo", 7)
            assert not refusal(one, "pgbouncer", "boss", "right")
    [servers] = [
        p["sv_idle"] for p in one.console("SHOW POOLS") if p["user"] == "asker"
    ]
    assert servers == 1


def test_server_that_only_auth_query_has_used_is_not_reset(
    start: Callable[..., Any], postgres: Postgres
) -> None:
    one = start(LOOKUP)
    assert not refusal(one, "pgbouncer", "boss", "right")
    before = postgres.backends()
    for _ in range(3):
        assert not refusal(one, "pgbouncer", "boss", "right")
    assert postgres.backends() == before
    sent = [row["query"] for row in postgres.rows("select query from pg_stat_activity")]
    assert LOOKUP in sent and "DISCARD ALL" not in sent
