"""SELECT over what SHOW shows, which PgBouncer does not have."""

from typing import Any

import pytest

from admin.sqlwords import with_casts
from tests.unit.admin.talking import Conversation, FakeApp, console, socket_row


def kinds(messages: list[dict[str, Any]]) -> list[str]:
    return [message["msg"] for message in messages]


def rows(messages: list[dict[str, Any]]) -> list[list[Any]]:
    return [m["values"] for m in messages if m["msg"] == "DataRow"]


def tags(messages: list[dict[str, Any]]) -> list[str]:
    return [m["tag"] for m in messages if m["msg"] == "CommandComplete"]


def text_of(messages: list[dict[str, Any]]) -> str:
    (found,) = [dict(m["fields"])["M"] for m in messages if m["msg"] == "ErrorResponse"]
    return str(found)


@pytest.fixture
def busy_app() -> FakeApp:
    app = FakeApp()
    app.clients = [
        socket_row(
            id=number,
            user="anna" if number % 3 else "bob",
            state="active" if number % 2 else "idle",
            wait=number * 1_000_000,
        )
        for number in range(1, 11)
    ]
    return app


@pytest.mark.parametrize(
    ("sql", "answer"),
    [
        (
            "SELECT user, count(*) FROM clients GROUP BY user ORDER BY user",
            [["anna", "7"], ["bob", "3"]],
        ),
        (
            "select id from CLIENTS where state = 'idle' order by wait desc limit 2;",
            [["10"], ["8"]],
        ),
        (
            "SELECT min(wait), max(wait), sum(wait), avg(wait) FROM clients",
            [["1", "10", "55", "5.5"]],
        ),
        (
            "SELECT c.user FROM clients c JOIN servers s ON s.link = c.ptr LIMIT 1",
            [["anna"]],
        ),
        ("SELECT name, pool_size FROM users", None),
        ("SELECT cl_active + cl_waiting FROM pools", [["3"], ["1"]]),
        ("SELECT total_sent FROM stats WHERE database = 'bench'", [["5"]]),
        ("SELECT name FROM databases WHERE paused = 1", []),
        ("SELECT value FROM config WHERE key = 'pool_mode'", [["session"]]),
        ("SELECT items FROM lists WHERE list = 'users'", [["6"]]),
        ("SELECT /* all */ value FROM state -- of it\nWHERE value = 'yes'", [["yes"]]),
    ],
)
def test_select_asks_the_same_rows(busy_app: FakeApp, sql: str, answer: Any) -> None:
    got = Conversation(busy_app).ask(sql)
    if answer is None:
        # The true sizes, not SHOW's padded and repeated ones.
        assert rows(got)[:2] == [["admin", None], ["apps", "3"]]
        assert tags(got) == ["SELECT 4"]
    else:
        assert rows(got) == answer
        assert tags(got) == [f"SELECT {len(answer)}"]


@pytest.mark.parametrize(
    ("written", "understood"),
    [
        ("a > ('5'::int4)", "a > (CAST('5' AS int4))"),
        ("'a::b'", "'a::b'"),
        ("c.port::text", "CAST(c.port AS text)"),
        ("sum(a + 1)::float8 / 2", "CAST(sum(a + 1) AS float8) / 2"),
        ("(a + (b)) :: text", "CAST((a + (b))  AS text)"),
        ("'1'::text::int", "CAST(CAST('1' AS text) AS int)"),
        ("$1::int8", "CAST($1 AS int8)"),
        ("a::", "CAST(a AS )"),
        ("::int", "CAST( AS int)"),
    ],
)
def test_casts_are_written_for_sqlite(written: str, understood: str) -> None:
    assert with_casts(written) == understood


def test_jdbc_in_simple_mode_casts_every_number(busy_app: FakeApp) -> None:
    got = Conversation(busy_app).ask(
        "SELECT id FROM clients WHERE id > ('7'::int4) AND user <> ('x') "
        "ORDER BY id LIMIT ('2'::int8)"
    )
    assert rows(got) == [["8"], ["9"]]


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        ("SELECT nosuch FROM clients", "42703"),
        ("SELECT * FROM clients JOIN nosuch", "42P01"),
        ("SELECT nosuch(1) FROM clients", "42883"),
        ("SELECT * FROM clients WHERE (", "42601"),
        ("SELECT id:: FROM clients", "42601"),
        ("SELECT id FROM clients WHERE ::", "42601"),
        ("SELECT * FROM clients; DELETE FROM clients", "08P01"),
        ("SELECT name FROM sqlite_master JOIN clients", "42501"),
        ("SELECT load_extension('x') FROM clients", "42501"),
        ("SELECT randomblob(100000000) FROM clients", "42501"),
        ("SELECT * FROM pragma_table_info('clients') JOIN clients", "42501"),
    ],
)
def test_select_that_cannot_be_is_refused(
    busy_app: FakeApp, sql: str, sqlstate: str
) -> None:
    talk = Conversation(busy_app)
    got = talk.ask(sql)
    assert kinds(got) == ["ErrorResponse", "ReadyForQuery"]
    assert dict(got[0]["fields"])["C"] == sqlstate, got
    assert tags(talk.ask("SHOW VERSION")) == ["SHOW"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT nosuch",
        "SELECT nosuch()",
        "SELECT 1 +",
        "SELECT * FROM pg_stat_activity",
        "SELECT nosuch FROM pg_database",
        "SELECT * FROM fds",
        "INSERT INTO clients SELECT * FROM clients",
        "WITH x AS (SELECT * FROM clients) DELETE FROM clients",
        "EXPLAIN SELECT * FROM clients",
    ],
)
def test_everything_else_is_an_invalid_command(sql: str) -> None:
    got = console().ask(sql)
    assert text_of(got) == f"invalid command '{sql}', use SHOW HELP;"


def test_select_may_be_longer_than_a_command(busy_app: FakeApp) -> None:
    spaces = " " * busy_app.settings.pkt_buf
    got = Conversation(busy_app).ask(f"SELECT{spaces}id FROM clients LIMIT 1")
    assert rows(got) == [["1"]]


def test_select_has_a_deadline(
    busy_app: FakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("admin.turn.STATEMENT_SECONDS", 0.05)
    got = Conversation(busy_app).ask(
        "SELECT count(*) FROM clients, clients a, clients b, clients c, clients d, "
        "clients e, clients f, clients g, clients h, clients i, clients j"
    )
    assert dict(got[0]["fields"])["C"] == "57014"
    assert "statement timeout" in text_of(got)


def test_select_is_broken_off_by_a_cancel(
    busy_app: FakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Conversation(busy_app)
    talk.ask("PAUSE")
    turn = talk.console.turn
    start = turn.beside

    async def canceled(work: Any) -> Any:
        if talk.console.sessions[talk.client.id].running is not None:
            talk.console.cancel_requested(talk.client)
        return await start(work)

    monkeypatch.setattr(turn, "beside", canceled)
    got = talk.ask(
        "SELECT count(*) FROM clients, clients a, clients b, clients c, clients d, "
        "clients e, clients f, clients g, clients h"
    )
    assert dict(got[0]["fields"])["C"] == "57014"
    assert "user request" in text_of(got)
    # Only the SELECT was meant.
    assert busy_app.global_mode == "pause"


def test_select_copes_with_names_that_are_no_utf8(busy_app: FakeApp) -> None:
    busy_app.clients = [socket_row(user="\udcff")]
    got = Conversation(busy_app).ask("SELECT user FROM clients")
    assert rows(got) == [["\ufffd"]]
