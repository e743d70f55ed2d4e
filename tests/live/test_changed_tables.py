"""Tables that change under prepared statements, as their users see it.

With PostgreSQL directly who prepares a statement after the change gets it with the new
types; who has prepared it before keeps the old ones.
"""

from typing import Any

import pytest

from tests.relay import frames as f
from tests.support.wire import FakeClient, error, rows

INT, BIGINT = 23, 20
TEXT = "select a from {0} where a = $1"


def prepare(client: FakeClient, name: str, sql: str) -> int:
    """Prepare and describe; the type of its parameter."""
    client.send_bytes(f.parse(name, sql) + f.describe(name) + f.SYNC)
    [told] = [
        one for one in client.until_ready() if one["type"] == "ParameterDescription"
    ]
    [oid] = told["oids"]
    return int(oid)


def run(client: FakeClient, name: str, *values: str) -> list[Any]:
    client.send_bytes(f.bind(name, "", *values) + f.execute() + f.SYNC)
    return client.until_ready()


@pytest.fixture
def table(postgres):
    name = "changing"
    postgres.rows(f"drop table if exists {name}; create table {name} (a int)")
    postgres.rows(f"grant all on {name} to public")
    postgres.rows(f"alter table {name} owner to u_trust")
    return name


def test_newcomer_gets_the_types_of_the_changed_table(pooler, table):
    """It got the statement of somebody else, with the old ones: 22003."""
    one = pooler({"pool_mode": "transaction", "default_pool_size": 1})
    sql = TEXT.format(table)
    with FakeClient(one.port) as first, FakeClient(one.port) as second:
        for client in (first, second):
            client.login("p0", "u_trust")
        assert prepare(first, "s", sql) == INT
        second.ask(f"alter table {table} alter a type bigint")
        second.ask(f"insert into {table} values (5000000000)")
        assert prepare(second, "s", sql) == BIGINT
        assert rows(run(second, "s", "5000000000")) == [["5000000000"]]
        # It knows another column: PostgreSQL says so, or that its type is too small.
        assert error(run(first, "s", "1"))["C"] == "0A000"


def test_newcomer_is_told_the_types_after_one_refused_value(pooler, postgres, table):
    """The table is changed where we do not see it."""
    one = pooler({"pool_mode": "transaction", "default_pool_size": 1})
    sql = f"select 1 from {table} where a = $1"
    with FakeClient(one.port) as first, FakeClient(one.port) as second:
        for client in (first, second):
            client.login("p0", "u_trust")
        assert prepare(first, "s", sql) == INT
        postgres.rows(f"alter table {table} alter a type bigint")
        assert error(run(first, "s", "5000000000"))["C"] == "22003"
        assert prepare(second, "s", sql) == BIGINT
        assert rows(run(second, "s", "5000000000")) == []
        assert rows(run(first, "s", "5")) == []


def test_holder_keeps_its_types_on_another_server(pooler, table):
    one = pooler({"pool_mode": "transaction", "default_pool_size": 2})
    sql = f"select 1 from {table} where a = $1"
    binary = f.message(b"B", b"\0s\0\0\1\0\1\0\1\0\0\0\4\0\0\0\5\0\0")
    with FakeClient(one.port) as first, FakeClient(one.port) as second:
        for client in (first, second):
            client.login("p0", "u_trust")
        assert prepare(first, "s", sql) == INT
        second.ask("begin")
        first.ask(f"alter table {table} alter a type bigint")
        first.send_bytes(binary + f.execute() + f.SYNC)
        assert error(first.until_ready()) == {}
