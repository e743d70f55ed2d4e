"""The extended protocol on the console: ours, PgBouncer's refuses it."""

import struct
from decimal import Decimal
from typing import Any

import pytest

from admin.extended import MOST_STATEMENTS
from tests.unit.admin.talking import (
    FLUSH,
    SYNC,
    Conversation,
    FakeApp,
    bind,
    close,
    console,
    describe,
    execute,
    packet,
    parse,
    query,
    socket_row,
)

INT8, INT4, TEXT, FLOAT8, NUMERIC = 20, 23, 25, 701, 1700


def kinds(messages: list[dict[str, Any]]) -> list[str]:
    return [message["msg"] for message in messages]


def rows(messages: list[dict[str, Any]]) -> list[list[Any]]:
    return [m["values"] for m in messages if m["msg"] == "DataRow"]


def refusal(messages: list[dict[str, Any]]) -> tuple[str, str]:
    fields = [m["fields"] for m in messages if m["msg"] == "ErrorResponse"]
    assert len(fields) == 1, messages
    found = dict(fields[0])
    assert found["S"] == "ERROR"
    return found["C"], found["M"]


def tag(messages: list[dict[str, Any]]) -> str:
    found = [m["tag"] for m in messages if m["msg"] == "CommandComplete"]
    assert len(found) == 1, messages
    return str(found[0])


def test_show_as_psycopg_sends_it() -> None:
    got = console().send(parse("SHOW STATE"), bind(), describe("P"), execute(), SYNC)
    assert kinds(got) == [
        "ParseComplete",
        "BindComplete",
        "RowDescription",
        *["DataRow"] * 2,
        "CommandComplete",
        "ReadyForQuery",
    ]
    assert rows(got)[0] == ["active", "yes"]
    assert tag(got) == "SHOW"


def test_show_as_asyncpg_sends_it() -> None:
    talk = console()
    got = talk.send(parse("SHOW POOLS", "s"), describe("S", "s"), FLUSH)
    assert kinds(got) == ["ParseComplete", "ParameterDescription", "RowDescription"]
    assert got[1]["oids"] == []
    got = talk.send(bind(name="s", results=[1]), execute(), SYNC)
    first = rows(got)[0]
    # Binary: text as it is, integers as four bytes.
    assert first[0] == "bench"
    assert first[2].encode() == struct.pack("!i", 1)
    assert first[13].encode() == struct.pack("!i", 12)
    assert first[14].encode() == struct.pack("!i", 13)


def test_describe_portal_tells_the_formats() -> None:
    got = console().send(parse("SHOW STATE"), bind(results=[0, 1]), describe("P"), SYNC)
    assert [field["format"] for field in got[2]["fields"]] == [0, 1]


@pytest.mark.parametrize(
    ("number", "parts"),
    [
        (0, (0, 0, 0, 0)),
        (1, (1, 0, 0, 0, 1)),
        (10000, (1, 1, 0, 0, 1)),
        (123456789, (3, 2, 0, 0, 1, 2345, 6789)),
        (-7, (1, 0, 0x4000, 0, 7)),
        (Decimal("0.0001"), (1, -1, 0, 4, 1)),
        (Decimal("12.5"), (2, 0, 0, 1, 12, 5000)),
    ],
)
def test_binary_numeric_has_groups_of_four_digits(number: Any, parts: Any) -> None:
    from admin.encode import WRITERS

    assert WRITERS[NUMERIC](number) == struct.pack(f"!HhHH{len(parts) - 4}H", *parts)


def test_stats_are_numeric_in_binary_too() -> None:
    got = console().send(parse("SHOW STATS"), bind(results=[1]), execute(), SYNC)
    value = rows(got)[0][1]
    assert value.encode() == struct.pack("!HhHHH", 1, 0, 0, 0, 1)


def test_kill_client_takes_an_integer() -> None:
    """asyncpg sends a parameter as the type that the server asks for."""
    app = FakeApp()
    talk = Conversation(app)
    got = talk.send(parse("KILL_CLIENT $1", "k"), describe("S", "k"), FLUSH)
    assert got[1]["oids"] == [INT8]
    assert got[2]["msg"] == "NoData"
    got = talk.send(
        bind([struct.pack("!q", 5)], formats=[1], name="k"), execute(), SYNC
    )
    assert tag(got) == "KILL_CLIENT"
    assert app.acts == [("kill_client", 5)]


def test_names_and_values_may_be_parameters() -> None:
    app = FakeApp()
    talk = Conversation(app)
    got = talk.send(parse("PAUSE $1"), bind([b"weird-db"]), execute(), SYNC)
    assert tag(got) == "PAUSE"
    assert app.registry.databases["weird-db"].paused
    got = talk.send(
        parse("SET default_pool_size = $1", oids=[INT4]), bind([b"7"]), execute(), SYNC
    )
    assert tag(got) == "SET default_pool_size=7"
    assert app.settings.default_pool_size == 7


@pytest.mark.parametrize("value", [None, b""])
def test_pausing_a_database_without_a_name_does_not_pause_everything(
    value: bytes | None,
) -> None:
    app = FakeApp()
    got = Conversation(app).send(parse("PAUSE $1"), bind([value]), execute(), SYNC)
    assert refusal(got) == ("08P01", "bad arguments")
    assert app.global_mode == "none"


def test_show_of_a_parameter_is_described_by_its_portal() -> None:
    talk = console()
    got = talk.send(
        parse("SHOW $1"), bind([b"VERSION"]), describe("P"), execute(), SYNC
    )
    assert got[2]["fields"][0]["name"] == "version"
    assert rows(got) == [["PgBouncer 1.26.1"]]
    got = talk.send(parse("SHOW $1"), describe("S"), SYNC)
    assert refusal(got)[0] == "0A000"


def test_errors_skip_everything_until_sync(logged: Any) -> None:
    app = FakeApp()
    talk = Conversation(app)
    got = talk.send(parse("NONSENSE"), bind(), execute(), query("PAUSE"), FLUSH, SYNC)
    assert refusal(got) == ("08P01", "invalid command 'NONSENSE', use SHOW HELP;")
    assert kinds(got) == ["ErrorResponse", "ReadyForQuery"]
    assert app.global_mode == "none"
    assert logged.take() == [
        "ERROR invalid command 'NONSENSE', use SHOW HELP;",
        "WARNING C-0x1: pgbouncer/admin@127.0.0.1:50001 pooler error: "
        "invalid command 'NONSENSE', use SHOW HELP;",
    ]
    assert kinds(talk.ask("SHOW VERSION"))[0] == "RowDescription"


@pytest.mark.parametrize(
    ("messages", "sqlstate"),
    [
        ([parse("SHOW nosuch")], "08P01"),
        ([bind(name="no")], "26000"),
        ([execute(portal="no")], "34000"),
        ([describe("S", "no")], "26000"),
        ([describe("P", "no")], "34000"),
        ([parse("SHOW STATE", "a"), parse("SHOW STATE", "a")], "42P05"),
        ([parse("SHOW STATE"), bind([b"x"])], "08P01"),
        ([parse("SHOW STATE"), bind(results=[0, 0, 0])], "08P01"),
        ([parse("SHOW STATE"), bind(results=[2])], "22023"),
        ([parse("KILL_CLIENT $1"), bind([b"five"])], "22P02"),
        ([parse("KILL_CLIENT $1"), bind([b"12"], formats=[1])], "22P03"),
        ([parse("PAUSE $1", oids=[600]), bind([b"x"], formats=[1])], "0A000"),
        ([packet("P", b"x")], "08P01"),
        ([packet("B", b"\0\0\0\1")], "08P01"),
        ([packet("D", b"Zx\0")], "08P01"),
        ([packet("E", b"\0")], "08P01"),
        ([parse("PAUSE"), bind(), execute(), execute()], "55000"),
    ],
)
def test_mistakes_are_errors_and_the_session_goes_on(
    messages: list[bytes], sqlstate: str
) -> None:
    talk = console()
    got = talk.send(*messages, SYNC)
    assert refusal(got)[0] == sqlstate
    assert kinds(talk.ask("SHOW VERSION"))[-1] == "ReadyForQuery"


def test_stats_users_are_refused_as_in_the_simple_protocol() -> None:
    got = Conversation(FakeApp(), "stats").send(
        parse("SHOW FDS"), bind(), describe("P"), execute(), SYNC
    )
    assert refusal(got) == ("08P01", "admin access needed")


def test_empty_query_is_what_health_checks_send() -> None:
    got = console().send(parse(""), bind(), describe("P"), execute(), SYNC)
    assert kinds(got)[2:] == ["NoData", "EmptyQueryResponse", "ReadyForQuery"]


@pytest.mark.regression(118)
def test_help_is_a_notice_without_columns() -> None:
    got = console().send(parse("SHOW HELP"), bind(), describe("P"), execute(), SYNC)
    assert kinds(got)[2:] == [
        "NoData",
        "NoticeResponse",
        "CommandComplete",
        "ReadyForQuery",
    ]


def test_execute_gives_so_many_rows_at_a_time() -> None:
    app = FakeApp()
    app.clients = [socket_row(id=number) for number in range(5)]
    talk = Conversation(app)
    got = talk.send(parse("SHOW CLIENTS"), bind(), execute(2), FLUSH)
    assert kinds(got)[2:] == ["DataRow", "DataRow", "PortalSuspended"]
    # What comes later is of the same moment.
    app.clients = []
    got = talk.send(execute(2), execute(2), SYNC)
    assert kinds(got) == [
        "DataRow",
        "DataRow",
        "PortalSuspended",
        "DataRow",
        "CommandComplete",
        "ReadyForQuery",
    ]


def test_sync_ends_portals_but_not_statements() -> None:
    talk = console()
    talk.send(parse("SHOW STATE", "s"), bind(name="s", portal="p"), SYNC)
    assert refusal(talk.send(execute(portal="p"), SYNC))[0] == "34000"
    assert len(rows(talk.send(bind(name="s"), execute(), SYNC))) == 2


def test_a_query_ends_the_unnamed_statement() -> None:
    talk = console()
    talk.send(parse("SHOW STATE"), SYNC)
    talk.ask("SHOW VERSION")
    assert refusal(talk.send(bind(), SYNC))[0] == "26000"


def test_close_forgets_and_does_not_mind_unknown_names() -> None:
    talk = console()
    talk.send(parse("SHOW STATE", "s"), SYNC)
    got = talk.send(close("S", "s"), close("S", "no"), close("P", "no"), SYNC)
    assert kinds(got) == [*["CloseComplete"] * 3, "ReadyForQuery"]
    assert refusal(talk.send(bind(name="s"), SYNC))[0] == "26000"


def test_statements_are_bounded() -> None:
    talk = console()
    for number in range(MOST_STATEMENTS):
        talk.send(parse("SHOW STATE", f"s{number}"))
    assert refusal(talk.send(parse("SHOW STATE", "more"), SYNC))[0] == "53400"


def test_pause_holds_the_series_up_until_it_is_complete() -> None:
    app = FakeApp()
    app.busy = True
    talk = Conversation(app)
    got = talk.send(parse("PAUSE"), bind(), execute())
    assert kinds(got) == ["ParseComplete", "BindComplete"]
    app.owed[0].done()
    assert tag(talk.answers()) == "PAUSE"
    assert kinds(talk.send(SYNC)) == ["ReadyForQuery"]


def test_lifted_pause_is_an_error_and_not_a_wait_for_ever() -> None:
    app = FakeApp()
    app.busy = True
    talk = Conversation(app)
    talk.send(parse("PAUSE"), bind(), execute())
    app.resume(None)
    assert refusal(talk.answers())[0] == "57014"
    assert app.owed[0].gone
    assert kinds(talk.send(SYNC)) == ["ReadyForQuery"]


def test_reply_owed_by_the_simple_protocol_waits_for_sync() -> None:
    app = FakeApp()
    app.busy = True
    talk = Conversation(app)
    assert talk.ask("PAUSE") == []
    talk.send(parse("SHOW STATE"), FLUSH)
    app.owed[0].done()
    assert talk.answers() == []
    got = talk.send(SYNC)
    assert kinds(got) == ["ReadyForQuery", "CommandComplete", "ReadyForQuery"]


# SELECT


def test_select_with_parameters_of_the_columns_types() -> None:
    app = FakeApp()
    app.clients = [
        socket_row(id=number, state="active" if number % 2 else "idle", port=number)
        for number in range(1, 8)
    ]
    talk = Conversation(app)
    sql = (
        "SELECT id, state FROM clients WHERE port > $1 AND state = $2 "
        "ORDER BY id LIMIT $3"
    )
    got = talk.send(parse(sql, "q"), describe("S", "q"), FLUSH)
    assert got[1]["oids"] == [INT8, TEXT, INT8]
    columns = [(field["name"], field["type_oid"]) for field in got[2]["fields"]]
    assert columns == [("id", INT4), ("state", TEXT)]
    values = [struct.pack("!q", 2), b"active", struct.pack("!q", 2)]
    got = talk.send(
        bind(values, formats=[1, 0, 1], results=[1], name="q"), execute(), SYNC
    )
    assert [row[0].encode() for row in rows(got)] == [
        struct.pack("!i", 3),
        struct.pack("!i", 5),
    ]
    assert tag(got) == "SELECT 2"


def test_select_without_rows_still_knows_its_types() -> None:
    app = FakeApp()
    app.clients = []
    sql = "SELECT count(*), sum(wait), avg(wait) AS mean, max(user) FROM clients"
    got = Conversation(app).send(
        parse(sql), bind(results=[1]), describe("P"), execute(), SYNC
    )
    columns = [(field["name"], field["type_oid"]) for field in got[2]["fields"]]
    assert columns == [
        ("count", INT8),
        ("sum", INT8),
        ("mean", FLOAT8),
        ("max", TEXT),
    ]
    assert rows(got) == [["\0" * 8, None, None, None]]
