"""What a SHOW is described as by the extended protocol is what it then gives.

Drivers read rows by their description: asyncpg decodes nothing without one, and psycopg
takes a result that was described without columns for none.
"""

from typing import Any

import pytest

from admin.show import TOPICS
from tests.unit.admin.talking import (
    SYNC,
    Conversation,
    FakeApp,
    bind,
    describe,
    execute,
    parse,
)

Message = dict[str, Any]


class Watch:
    """Somebody who knows the HAProxies."""

    columns = (("proxy", "text"), ("sessions", "int4"), ("bytes", "int8"))

    async def rows(self) -> list[tuple[Any, ...]]:
        """Two rows, one of them unknown."""
        return [("pg", 3, 1 << 40), ("pg", None, None)]


def watching() -> Conversation:
    """A console of a pooler that has haproxy_sockets."""
    app = FakeApp()
    app.haproxy = Watch()  # type: ignore[attr-defined]
    return Conversation(app)


def columns(messages: list[Message]) -> list[list[tuple[str, int]]]:
    """Names and types of each description."""
    return [
        [(field["name"], field["type_oid"]) for field in message["fields"]]
        for message in messages
        if message["msg"] == "RowDescription"
    ]


def rows(messages: list[Message]) -> list[list[Any]]:
    return [m["values"] for m in messages if m["msg"] == "DataRow"]


@pytest.mark.parametrize("name", [*TOPICS, "HAPROXY"])
def test_every_show_is_described_as_in_the_simple_protocol(name: str) -> None:
    """SHOW HAPROXY was described by nobody's test: NoData, and rows after it."""
    simple = watching().ask(f"SHOW {name}")
    assert len(columns(simple)) == 1
    talk = watching()
    statement = talk.send(parse(f"show {name}", "s"), describe("S", "s"), SYNC)
    assert columns(statement) == columns(simple)
    portal = talk.send(bind(name="s"), describe("P"), execute(), SYNC)
    assert columns(portal) == columns(simple)
    assert rows(portal) == rows(simple)


def test_show_haproxy_named_by_a_parameter_is_described_by_its_portal() -> None:
    got = watching().send(
        parse("SHOW $1"), bind([b"haproxy"]), describe("P"), execute(), SYNC
    )
    assert columns(got) == [[("proxy", 25), ("sessions", 23), ("bytes", 20)]]
    assert rows(got) == [["pg", "3", "1099511627776"], ["pg", None, None]]


def test_show_haproxy_without_its_setting_is_refused_where_it_is_described() -> None:
    got = Conversation(FakeApp()).send(parse("SHOW HAPROXY"), describe("S"), SYNC)
    assert [m["msg"] for m in got][-2:] == ["ErrorResponse", "ReadyForQuery"]
    told = dict(got[-2]["fields"])
    assert told["M"] == "haproxy_sockets is not set in [pybouncer]"


def test_show_that_only_an_admin_may_give_has_no_columns_for_others() -> None:
    for rights, described in (("admin", 1), ("stats", 0)):
        got = Conversation(FakeApp(), rights).send(
            parse("SHOW FDS"), describe("S"), SYNC
        )
        assert len(columns(got)) == described, rights
