"""What a SELECT of a hostile console user may cost: text, memory, turns, types."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admin import held, sqlbounds, turn
from admin.sql import reads_a_table
from admin.sqlwords import tokens_of
from bouncer.errors import CommandError
from tests.unit.admin.talking import (
    SYNC,
    Conversation,
    FakeApp,
    bind,
    console,
    execute,
    packet,
    parse,
    socket_row,
)


@pytest.fixture
def talk() -> Conversation:
    app = FakeApp()
    app.clients = [socket_row(id=number, wait=number) for number in range(100)]
    return Conversation(app)


def state_of(messages: list[dict[str, Any]]) -> str | None:
    """The SQLSTATE of the first error."""
    for message in messages:
        if message["msg"] == "ErrorResponse":
            return str(dict(message["fields"])["C"])
    return None


def text_of(messages: list[dict[str, Any]]) -> str:
    (found,) = [dict(m["fields"])["M"] for m in messages if m["msg"] == "ErrorResponse"]
    return str(found)


def goes_on(talk: Conversation) -> bool:
    """Whether the session answers its next command."""
    return talk.ended is None and talk.ask("SHOW VERSION")[-1]["msg"] == "ReadyForQuery"


# Texts


def nested_with(names: int, uses: int) -> str:
    """A WITH whose last name stands for uses ** names copies of the first."""
    parts = ["a0 AS (SELECT id FROM clients)"]
    for n in range(1, names):
        froms = ", ".join(f"a{n - 1} x{m}" for m in range(uses))
        parts.append(f"a{n} AS (SELECT x0.id FROM {froms})")
    return f"SELECT * FROM (WITH {', '.join(parts)} SELECT * FROM a{names - 1})"


def words(count: int) -> str:
    """A query of *count* words."""
    return "SELECT id FROM clients WHERE id IN (" + ",".join("1" * (count - 7)) + ")"


def deep(depth: int) -> str:
    """A query with parentheses that deep."""
    return f"SELECT {'(' * depth}id{')' * depth} FROM clients"


@pytest.mark.parametrize(
    ("allowed", "too_much"),
    [
        (words(500), words(501)),
        (deep(20), deep(21)),
        (nested_with(8, 1), nested_with(9, 1)),
        (
            "SELECT 'a' FROM clients" + " " * (65536 - 23),
            "SELECT 'a' FROM clients" + " " * (65536 - 22),
        ),
    ],
)
def test_select_is_bounded_before_sqlite_compiles_it(
    talk: Conversation, allowed: str, too_much: str
) -> None:
    """Nothing ends a prepare of SQLite: 800 bytes took 4 s, 6 kB took 24 s."""
    assert state_of(talk.ask(allowed)) is None
    assert state_of(talk.ask(too_much)) in ("54000", "54001")
    assert state_of(talk.send(parse(too_much), SYNC)) in ("54000", "54001")
    assert goes_on(talk)


# A value of 32 000 bytes, and one of 10 000.
LARGE = f"replace(replace('{'x' * 100}', 'x', '{'y' * 20}'), 'y', '{'z' * 16}')"
MIDDLE = f"replace('{'x' * 100}', 'x', '{'y' * 100}')"

COSTLY = [
    nested_with(8, 8),
    nested_with(8, 15),
    "SELECT " + "+".join(["id"] * 240) + " FROM clients",
    "SELECT * FROM clients WHERE " + " AND ".join(["id = 1"] * 200),
    "SELECT id FROM clients" + " UNION ALL SELECT id FROM clients" * 60,
    "SELECT * FROM clients, (VALUES " + ",".join(["(1)"] * 10_000) + ")",
    "SELECT id FROM clients WHERE id IN (" + ",".join("1" * 20_000) + ")",
    "SELECT " + ",".join("*" * 60) + " FROM clients",
    "SELECT count(*) FROM clients a, clients b, clients c, clients d, clients e",
    "SELECT a.*, b.*, c.* FROM clients a, clients b, clients c",
    "SELECT a.* FROM clients a, clients b, clients c ORDER BY random()",
    "SELECT count(*) OVER (ORDER BY random()), a.* FROM clients a, clients b",
    "SELECT x FROM (WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
    "SELECT x FROM n) JOIN clients",
    "SELECT x FROM (WITH RECURSIVE n(x) AS (SELECT 1 UNION SELECT x + 1 FROM n) "
    "SELECT x FROM n) JOIN clients",
    "SELECT group_concat(a.ptr || b.ptr || c.ptr) FROM clients a, clients b, clients c",
    "SELECT json_group_array(json_array(a.id)) FROM clients a, clients b",
    "SELECT value FROM clients, json_each('[1]')",
    "SELECT count(*) FROM clients, json_each('[1]')",
    "SELECT * FROM clients, generate_series(1, 1000000000)",
    "SELECT zeroblob(1000000000) FROM clients",
    "SELECT hex(zeroblob(1000000000)) FROM clients",
    "SELECT randomblob(1000000000) FROM clients",
    "SELECT printf('%.*c', 1000000000, 'x') FROM clients",
    "SELECT printf('%1000000000d', 1) FROM clients",
    "SELECT format('%.1000000000f', 1.0) FROM clients",
    f"SELECT replace({LARGE}, 'z', {LARGE}) FROM clients",
    "SELECT " + ",".join([LARGE] * 80) + " FROM clients",
    "SELECT big" + ", big" * 190 + f" FROM (SELECT {LARGE} AS big FROM clients a, "
    "clients b)",
    "SELECT " + ",".join(f"big || {n}" for n in range(190)) + " FROM (SELECT "
    f"{LARGE} AS big FROM clients a, clients b)",
    "SELECT char(" + ",".join(["1114111"] * 400) + ") FROM clients",
    f"SELECT {LARGE} LIKE '" + "%z" * 400 + "b' FROM clients",
    f"SELECT {LARGE} LIKE '%" + "z" * 900 + "b' FROM clients",
    f"SELECT {LARGE} GLOB '" + "*z" * 400 + "b' FROM clients",
    f"SELECT {LARGE} GLOB '" + "*[a-z]" * 150 + "b' FROM clients",
    f"SELECT {LARGE} LIKE '" + "%z" * 10_000 + "b' FROM clients",
    f"SELECT trim({LARGE}, replace('{'x' * 100}', 'x', 'abcdefghijklmnopqrstz')) "
    "FROM clients",
    "SELECT fts3_tokenizer('simple') FROM clients",
    "SELECT load_extension('x') FROM clients",
    "SELECT sqlite_compileoption_get(1) FROM clients",
    "SELECT * FROM clients, sqlite_schema",
    "SELECT count(*) FROM clients, sqlite_schema",
    "SELECT count(*) FROM clients, dbstat",
    "SELECT count(*) FROM clients, pragma_database_list",
    "SELECT (" * 30 + "id" + ")" * 30 + " FROM clients",
    "SELECT id FROM clients WHERE " + "NOT " * 400 + "id",
    "SELECT id FROM clients WHERE " + "-" * 1999 + "1",
    "SELECT '" + "x" * 60_000 + "' FROM clients",
    "SELECT [" * 5000 + " FROM clients",
    "SELECT 1 FROM clients " + "/* " * 20_000,
    "SELECT 1 FROM clients " + "'\"" * 20_000,
    "SELECT 1 FROM clients " + "(" * 60_000,
]


def test_no_select_ends_the_session(talk: Conversation) -> None:
    """One of them did: `fts3_tokenizer` also gave an address away."""
    turns = turn.STATEMENT_SECONDS
    turn.STATEMENT_SECONDS = 0.1  # type: ignore[misc]
    try:
        for sql in COSTLY:
            got = talk.ask(sql)
            assert talk.ended is None or "incomplete" in talk.ended.reason, sql[:80]
            assert (
                sum(len(m["values"][0] or "") for m in got if "values" in m) < 1 << 25
            )
            if talk.ended is not None:  # no SELECT of ours, and longer than a command
                talk = Conversation(talk.app, client=talk.client)
            assert goes_on(talk), sql[:80]
    finally:
        turn.STATEMENT_SECONDS = turns  # type: ignore[misc]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT fts3_tokenizer('simple') FROM clients",
        "SELECT zeroblob(10) FROM clients",
        "SELECT printf('%.*c', 1000000000, 'x') FROM clients",
        "SELECT json_group_array(id) FROM clients",
        "SELECT count(*) FROM clients, json_each('[1]')",
        "SELECT count(*) FROM clients, sqlite_schema",
        "SELECT count(*) FROM clients, pragma_database_list",
        "SELECT count(*) FROM clients, dbstat",
    ],
)
def test_select_calls_and_reads_only_what_is_listed(
    talk: Conversation, sql: str
) -> None:
    assert state_of(talk.ask(sql)) in ("42501", "42P01", "42883")
    assert goes_on(talk)


def test_select_may_use_what_monitoring_uses(talk: Conversation) -> None:
    for sql in (
        "SELECT count(*) FROM (WITH a AS (SELECT * FROM clients) SELECT 1 FROM a)",
        "SELECT n FROM (WITH a(n) AS (SELECT count(*) FROM clients), b AS "
        "MATERIALIZED (SELECT n FROM a) SELECT count(*) AS n FROM b), clients",
        "SELECT round(avg(wait), 2), group_concat(DISTINCT user) FROM clients",
        "SELECT rank() OVER w, lag(wait, 1, 0) OVER w FROM clients "
        "WINDOW w AS (PARTITION BY user ORDER BY wait)",
        "SELECT replace(upper(user), 'A', 'b') || round(wait / 3.0, 1) FROM clients",
        "SELECT strftime('%Y', 'now'), iif(wait > 3, 'long', 'short') FROM clients",
    ):
        assert state_of(talk.ask(sql)) is None, (sql, talk.client.data)


def test_costly_selects_stay_below_64_mb() -> None:
    """Seven of them at once held 3.3 GB within the two seconds they had."""
    script = (
        "import resource\n"
        "from admin import turn\n"
        "from tests.unit.admin.talking import Conversation, FakeApp, socket_row\n"
        "from tests.unit.admin.test_select_bounds import COSTLY\n"
        "turn.STATEMENT_SECONDS = 0.5\n"
        "app = FakeApp()\n"
        "app.clients = [socket_row(id=n) for n in range(1000)]\n"
        "talk = Conversation(app)\n"
        "talk.ask('SELECT count(*) FROM clients')\n"
        "most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = most()\n"
        "for sql in COSTLY:\n"
        "    talk.ask(sql)\n"
        "    if talk.ended:\n"
        "        talk = Conversation(app)\n"
        "    grown = most() - before\n"
        "    assert grown < 65536, (sql[:200], grown)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_select_is_cut_into_words_once_from_left_to_right() -> None:
    """Each quote that nothing closes was looked for up to the end: quadratic."""
    for opening in ("[", "/* "):
        assert len(tokens_of("SELECT " + opening * 30_001)) == 2
    for quote in ("'", '"', "`"):
        assert tokens_of(f"SELECT {quote}1, 2").pop().kind == "open"
    assert len(tokens_of("(" * 60_000, sqlbounds.MOST_TOKENS + 1)) == 2001
    assert not reads_a_table("SELECT " + "(" * 60_000 + " FROM clients")


# What a session holds


def test_suspended_portals_hold_a_bounded_sum(talk: Conversation) -> None:
    """52 of them held 1.5 GB."""
    sql = f"SELECT {MIDDLE} FROM clients"
    got = talk.send(parse(sql, "s"))
    refusals = []
    for n in range(1000):
        got = talk.send(bind(name="s", portal=f"p{n}"), execute(1, f"p{n}"))
        if state_of(got):
            refusals.append(state_of(got))
            break
    assert refusals == ["54000"]
    console = talk.console.sessions[talk.client.id]
    assert console.extended.held.bytes <= held.MOST_HELD
    assert n >= 10
    talk.send(SYNC)
    assert console.extended.held.bytes < 10_000
    assert goes_on(talk)


def test_suspended_shows_hold_a_bounded_sum(talk: Conversation) -> None:
    talk.app.clients = [socket_row(id=n) for n in range(2000)]
    talk.send(parse("SHOW CLIENTS", "s"))
    for n in range(1000):
        got = talk.send(bind(name="s", portal=f"p{n}"), execute(1, f"p{n}"))
        if state_of(got):
            break
    assert state_of(got) == "54000"
    talk.send(SYNC)
    assert goes_on(talk)


def test_a_suspended_portal_gives_back_what_was_fetched(talk: Conversation) -> None:
    extended = talk.console.sessions[talk.client.id].extended
    talk.send(parse("SELECT id FROM clients", "s"), bind(name="s", portal="p"))
    empty = extended.held.bytes
    talk.send(execute(10, "p"))
    first = extended.held.bytes
    talk.send(execute(50, "p"))
    assert empty < extended.held.bytes < first
    talk.send(execute(0, "p"))
    assert extended.held.bytes == empty
    talk.send(packet("C", b"Pp\0"), packet("C", b"Ss\0"))
    assert extended.held.bytes == 0


def test_statements_and_values_hold_a_bounded_sum(talk: Conversation) -> None:
    """A thousand statements could have 64 kB each, and a thousand portals values."""
    blanks = " " * 60_000
    for n in range(1000):
        got = talk.send(parse(f"SHOW{blanks}VERSION", f"s{n}"))
        if state_of(got):
            break
    assert state_of(got) == "54000"
    assert n < 200
    assert talk.ended is None


@pytest.mark.parametrize(
    "message",
    [
        parse("SHOW VERSION", "s", [25] * 65_000),
        packet("B", b"\0s\0" + b"\xff\xff" + b"\0\1" * 65_535),
        packet("B", b"\0s\0" + b"\0\0\xff\xff" + b"\xff\xff\xff\xff" * 65_535),
        packet("B", b"\0s\0" + b"\0\0\0\0\xff\xff" + b"\0\1" * 65_535),
        packet("P", b"n" * 100_000 + b"\0SHOW VERSION\0\0\0"),
        packet("D", b"S" + b"n" * 100_000 + b"\0"),
        packet("C", b"P" + b"n" * 100_000 + b"\0"),
        packet("P", b"s\0SHOW" + b" " * 100_000 + b"VERSION\0\0\0"),
    ],
)
def test_what_a_message_counts_is_bounded_before_it_is_read(
    talk: Conversation, message: bytes
) -> None:
    got = talk.send(message)
    assert state_of(got) in ("54000", "42622")
    talk.send(SYNC)
    assert goes_on(talk)


def test_waiting_commands_of_one_console_are_bounded() -> None:
    talk = console(busy=True)
    for _ in range(1000):
        assert talk.ask("WAIT_CLOSE") == []
    assert state_of(talk.ask("WAIT_CLOSE")) == "54000"


# Turns


def test_selects_take_turns_in_order_and_leavers_make_room() -> None:
    """One at a time in the whole process: the bound on memory is shared."""
    one = turn.Turn()
    done: list[int] = []
    working = most = 0

    async def work(number: int) -> None:
        nonlocal working, most
        async with one.mine():
            working += 1
            most = max(most, working)
            await asyncio.sleep(0)
            working -= 1
            done.append(number)

    async def all_of_them() -> None:
        await one.lock.acquire()
        tasks = [asyncio.create_task(work(n)) for n in range(5)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        one.lock.release()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(all_of_them())
    assert done == [0, 2, 3, 4]
    assert most == 1


def test_select_waits_a_bounded_time_for_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turn, "WAIT_SECONDS", 0.01)
    one = turn.Turn()

    async def twice() -> None:
        async with one.mine(), one.mine():
            pass

    with pytest.raises(CommandError) as caught:
        asyncio.run(twice())
    assert caught.value.sqlstate == "55P03"


def test_select_of_a_session_that_ends_is_broken_off() -> None:
    """The next one's turn comes; the thread works for nobody."""
    app = FakeApp()
    app.clients = [socket_row(id=number) for number in range(300)]
    one = turn.Turn()

    async def leave_and_ask_again() -> None:
        product = await one.compile(
            "SELECT count(*) FROM clients, clients a, clients b, clients c, clients d"
        )
        work = turn.Run(product, [])
        began = asyncio.create_task(one.run(app, 1, work, lambda rows: [], 1000))
        while work.database is None:
            await asyncio.sleep(0.001)
        began.cancel()
        await one.compile("SELECT 1 FROM clients")
        assert work.over
        assert work.database is None

    asyncio.run(asyncio.wait_for(leave_and_ask_again(), 60))


def test_compile_does_not_run_on_the_loop() -> None:
    one = turn.Turn()
    threads: list[int] = []
    import threading

    compiled = one.schema.compile

    def watched(text: str) -> Any:
        threads.append(threading.get_ident())
        return compiled(text)

    one.schema.compile = watched  # type: ignore[method-assign]
    asyncio.run(one.compile("SELECT 1 FROM clients"))
    assert threads != [threading.get_ident()]


# Types


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("coalesce(nullif(1.5, 1.5), 'abc')", "abc"),
        ("lead(1.5, 1, 'q') OVER ()", "q"),
        ("coalesce(nullif(1, 1), 2.5)", "2.5"),
        ("max(1, 2.5)", "2.5"),
        ("iif(id < 0, 1, 'x')", "x"),
        ("9e999", "Infinity"),
        ("-9e999", "-Infinity"),
    ],
)
def test_select_gives_a_value_of_any_type(
    talk: Conversation, expression: str, value: str
) -> None:
    """`coalesce(nullif(1.5, 1.5), 'abc')` was called a float: internal error."""
    talk.app.clients = talk.app.clients[:1]
    got = talk.ask(f"SELECT {expression} FROM clients")
    assert [m["values"] for m in got if m["msg"] == "DataRow"] == [[value]]


NUMBERS = st.sampled_from(
    "0 1 -1 1.5 9223372036854775807 -9223372036854775808 9e999 -9e999 1e300".split()
)
ATOMS = st.one_of(
    NUMBERS,
    st.sampled_from(
        ["NULL", "'abc'", "'1.5'", "''", "x'00ff'", "id", "user", "wait", "char(0)"]
    ),
    st.sampled_from(["char(55296)", "CAST(x'ff' AS TEXT)", "'\u20ac'", "'1e999'"]),
)


def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    two = st.tuples(inner, inner)
    return st.one_of(
        st.builds(
            "{0}({1[0]}, {1[1]})".format,
            st.sampled_from("coalesce nullif ifnull min max round instr".split()),
            two,
        ),
        st.builds(
            "{0}({1})".format,
            st.sampled_from("abs length hex quote typeof sum avg count total".split()),
            inner,
        ),
        st.builds("({0[0]} {1} {0[1]})".format, two, st.sampled_from("+-*/%|<=")),
        st.builds("lead({0[0]}, 1, {0[1]}) OVER ()".format, two),
        st.builds(
            "CAST({0} AS {1})".format,
            inner,
            st.sampled_from("INTEGER REAL TEXT NUMERIC BLOB".split()),
        ),
        st.builds("CASE WHEN id > 1 THEN {0[0]} ELSE {0[1]} END".format, two),
    )


EXPRESSIONS = st.recursive(ATOMS, larger, max_leaves=8)


@pytest.fixture(scope="module")
def lasting() -> Iterator[Conversation]:
    app = FakeApp()
    app.clients = [socket_row(id=n, wait=n) for n in range(3)]
    yield Conversation(app)


@settings(max_examples=300, deadline=None)
@given(st.lists(EXPRESSIONS, min_size=1, max_size=3), st.booleans())
def test_no_expression_is_an_internal_error(
    lasting: Conversation, expressions: list[str], binary: bool
) -> None:
    """Whatever SQLite makes of it: rows or an error, and the session goes on."""
    sql = f"SELECT {', '.join(expressions)} FROM clients"
    wanted = bind(name="s", results=[int(binary)])
    lasting.send(parse(sql, "s"), wanted, execute(0), packet("C", b"Ss\0"), SYNC)
    assert goes_on(lasting), sql
    lasting.ask(sql)
    assert goes_on(lasting), sql


def test_hang_guard_of_a_slow_function(talk: Conversation) -> None:
    """What SQLite cannot break off is short, since values are."""
    began = time.monotonic()
    talk.ask(f"SELECT {', '.join([f'instr({LARGE}, {MIDDLE})'] * 30)} FROM clients")
    assert time.monotonic() - began < 30
    assert goes_on(talk)
