"""DEALLOCATE of one name, as drivers say it that have no Close: libpq before 17.

psycopg 3, DBD::Pg, PDO and Rails prepare by the protocol and deallocate by SQL. The
server has the statement under a name of ours: it said 26000, and in a transaction all
that came behind it failed.
"""

import struct

import pytest

from bouncer.relay.intent import all_deallocated, speaks_of_deallocating
from tests.relay import frames as f
from tests.relay.backend import Backend
from tests.relay.harness import DEFAULTS, SESSION, STATEMENT, TRANSACTION, give_backends

MADE = f.parse("s", "select s") + f.SYNC
GONE_TEXT = "deallocate s"
GONE = f.query(GONE_TEXT)


USED = f.bind("s") + f.execute() + f.SYNC


def run(text: str) -> bytes:
    return f.parse("", text) + f.bind("") + f.execute() + f.SYNC


TEXTS = {
    b"deallocate s": b"s",
    b"DEALLOCATE PREPARE S;": b"s",
    b" deallocate\t prepare\n _pg3_0 ; ": b"_pg3_0",
    b'deallocate "S"': b"S",
    b'DEALLOCATE"a""b"': b'a"b',
    b'deallocate prepare "all"': b"all",
    b'deallocate "prepare"': b"prepare",
    b"deallocate prepare": b"prepare",
    b"deallocate prepare;": b"prepare",
    b"deallocate dbdpg_p1_2$x": b"dbdpg_p1_2$x",
    b"deallocate " + b"x" * 63: b"x" * 63,
    b"deallocate s;;": b"s",
    b"; -- why\n/* a /* nested */ one */ deallocate /* x */ s -- s": b"s",
    b"deallocate \xc3\xa9": b"\xc3\xa9",
    b'deallocate U&"\\0073\\\\"': b"s\\",
    b"deallocate u&\"d!0061t!+000061!!\" uescape '!'": b"data!",
    b'deallocate U&"\\00e9\\20AC\\+01F600"': "é€😀".encode(),
    b'deallocate U&"all"': b"all",
    b"deallocate all": None,
    b"deallocate/**/all": None,
    b'deallocate U&"\\00zz"': None,
    b'deallocate U&"\\00"': None,
    b'deallocate U&"\\0000"': None,
    b'deallocate U&"\\0073': None,
    b'deallocate "s""': None,
    b"deallocate u&s": None,
    b"deallocate prepare ALL": None,
    b"deallocate " + b"x" * 64: None,
    b'deallocate "' + b'"' * 200: None,
    b"deallocate s t": None,
    b"deallocate s; select 1": None,
    b'deallocate "s': None,
    b'deallocate ""': None,
    b"deallocate": None,
    b"deallocate ": None,
    b"deallocates s": None,
    b"deallocate 1s": None,
    b"deallocate s /* x": b"s",
    b"/* deallocate s": None,
    b"-- deallocate s": None,
    b"discard all": None,
    b"deallocate s\0x": None,
    b"": None,
}


@pytest.mark.parametrize("text", TEXTS, ids=repr)
def test_text_is_a_deallocate_of_one_name(text):
    assert speaks_of_deallocating(text) == TEXTS[text]


SEVERAL = {
    b"deallocate s": [b"s"],
    b"select 1; deallocate a;;deallocate b": [b"a", b"b"],
    b"begin; deallocate prepare a; rollback": [b"a"],
    b"select ';deallocate a'; deallocate b": [b"b"],
    b"select 'it''s;'; deallocate b": [b"b"],
    rb"select e'\'; deallocate a;'; deallocate b": [b"b"],
    rb"select '\'; deallocate b": [b"b"],
    b'select ";deallocate a;""" ; deallocate b': [b"b"],
    b"do $$begin; deallocate a; end$$; deallocate b": [b"b"],
    b"select $x$;deallocate a; $$ $y$; $x$; deallocate b": [b"b"],
    b"select a$x$; deallocate b; $x$": [b"b"],
    b"select $1; deallocate b": [b"b"],
    b"select 1 /* ; deallocate a */; deallocate b": [b"b"],
    b"select 1 -- ; deallocate a\n; deallocate b": [b"b"],
    b"deallocate all; deallocate b": [b"b"],
    b"deallocate a b; deallocate b": [b"b"],
    b"select 'open; deallocate a": [],
    b"select $x$; deallocate a": [],
    b"select 1": [],
    b"$": [],
    b"'": [],
    b"e'\\": [],
    b";;": [],
    b"": [],
}


@pytest.mark.parametrize("text", SEVERAL, ids=repr)
def test_deallocates_of_a_text_of_several_statements(text):
    assert all_deallocated(text) == SEVERAL[text]


def test_any_cut_of_a_text_is_looked_at_within_its_bytes():
    text = b"/* x */ select e'\\'', $a$;$a$; deallocate U&\"\\0073\" uescape '!'; -- x"
    for size in range(len(text)):
        assert all_deallocated(text[:size]) in ([], [b"u"], [b"s"], [rb"\0073"])


CONVERSATIONS = {
    "idle": [MADE, GONE, MADE, USED],
    "not there any more": [MADE, GONE, USED],
    "twice": [MADE, GONE, GONE],
    "in one send": [MADE + GONE + MADE + USED],
    "behind a query that is owed": [
        MADE, f.query("select 1") + GONE + f.query("select 2")],
    "behind a Parse that fails": [
        f.parse("s", "syntax error") + f.SYNC + GONE,
        f.query("select 1"),
    ],
    "in a transaction": [MADE, f.query("begin"), GONE, f.query("select 1"), USED],
    "in a transaction, in one send": [
        MADE, f.query("begin") + GONE + f.query("select 1") + f.query("commit")],
    "in a failed transaction": [
        MADE, f.query("begin"), f.query("fail"), GONE, f.query("rollback"), USED],
    "of another": [MADE, f.query("deallocate other"), USED],
    "in an open unit": [
        MADE, f.parse("", "select 1") + f.bind("") + GONE + f.SYNC, USED],
    "in the unit that made it": [f.parse("s", "select s") + GONE + USED],
    "in an open unit that fails": [
        MADE, f.parse("", "syntax error") + GONE + f.SYNC, USED],
    "in an open unit that is executed": [
        MADE, f.parse("", "select 1") + f.bind("") + f.execute() + GONE + f.SYNC],
    "with a goodbye": [MADE, GONE + f.TERMINATE],
    "extended": [MADE, run("deallocate s"), USED, MADE + USED],
    "extended, by a name": [
        MADE + f.parse("d", "deallocate s") + f.SYNC,
        f.bind("d") + f.execute() + f.SYNC,
        f.bind("d") + f.execute() + f.SYNC,
        MADE + f.bind("d") + f.execute() + f.SYNC + USED,
    ],
    "extended, parsed before": [
        MADE + f.parse("", "deallocate s") + f.SYNC,
        f.bind("") + f.execute() + f.SYNC + USED,
    ],
    "extended, made anew in the same unit": [
        MADE,
        f.parse("", "deallocate s") + f.bind("") + f.execute() + MADE + USED,
    ],
    "extended, not executed": [
        MADE,
        f.parse("", "deallocate s") + f.bind("") + f.SYNC,
        USED,
    ],
    "extended, twice": [MADE, run("deallocate s") + run("deallocate s"), MADE + USED],
    "extended, behind an error": [
        MADE,
        f.parse("", "syntax error") + run("deallocate s"),
        USED,
    ],
    "extended in a failed transaction": [
        MADE,
        f.query("begin") + f.query("fail") + run("deallocate s") + f.query("rollback"),
        USED,
    ],
    "before another": [MADE, f.query("deallocate s; select 1"), USED],
    "behind another": [MADE, f.query("select 1; deallocate s"), USED, MADE + USED],
    "behind another that fails": [MADE, f.query("fail; deallocate s"), USED],
    "before another that fails": [MADE, f.query("deallocate s; fail"), USED],
    "transaction in one text": [MADE, f.query("begin; deallocate s; rollback"), USED],
    "in a text that ends a failed transaction": [
        MADE,
        f.query("begin") + f.query("fail"),
        f.query("rollback; deallocate s"),
        USED,
    ],
    "several, of which one is not there": [
        MADE + f.parse("t", "select t") + f.SYNC,
        f.query("deallocate t; deallocate nobody; deallocate s"),
        USED,
        f.bind("t") + f.execute() + f.SYNC,
    ],
    "in a text, then made anew, in one send": [
        MADE + f.query("select 1; deallocate s") + MADE + USED + GONE + USED,
    ],
    "in a text, closed and made anew, in one send": [
        MADE,
        f.query("select 1; deallocate s") + f.close("s") + MADE + USED,
        USED,
    ],
    "in a text, in a unit": [
        MADE,
        f.parse("", "select 1") + f.bind("") + f.execute()
        + f.query("select 2; deallocate s") + f.SYNC,
        USED,
    ],
    "bound, not executed, and another in a text": [
        MADE + f.parse("t", "select t") + f.SYNC,
        f.query("begin"),
        f.parse("", "deallocate s") + f.bind("") + f.SYNC,
        f.query("select 1; deallocate t"),
        USED,
        f.bind("t") + f.execute() + f.SYNC,
        f.query("rollback"),
    ],
    "in a text that fails before, then another in the transaction": [
        MADE + f.parse("t", "select t") + f.SYNC,
        f.query("begin; deallocate nobody; deallocate s"),
        f.query("rollback; begin; deallocate t"),
        f.query("commit"),
        USED,
        f.bind("t") + f.execute() + f.SYNC,
    ],
    "in a text, with a goodbye": [
        MADE,
        f.query("select 1; deallocate s") + f.TERMINATE,
    ],
}  # fmt: skip


@pytest.mark.parametrize("chopped", [False, True], ids=["whole", "chopped"])
@pytest.mark.parametrize("mode", [TRANSACTION, SESSION, STATEMENT])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_deallocate_of_a_name_is_as_with_postgresql(relay, name, mode, chopped):
    steps = CONVERSATIONS[name]
    if mode == STATEMENT and any(b"begin" in step for step in steps):
        pytest.skip("not in this mode")
    r = give_backends(relay(mode=mode))
    direct = Backend(DEFAULTS)
    client, other = r.client(), r.client()
    for step in steps:
        direct.receive(step)
        client.drip(step) if chopped else client.send(step)
        heard = client.take()
        assert f.codes(heard) == f.codes(direct.out)
        assert (f.rows(heard), f.errors(heard), heard[-6:]) == (
            f.rows(direct.out),
            f.errors(direct.out),
            direct.out[-6:],
        )
        direct.out = b""
    if mode == TRANSACTION and "transaction" not in name:
        assert f.rows(other.ask(f.query("select marker"))) == [b"marker"]
    assert len(r.servers) == 1


def test_deallocate_takes_the_statement_from_nobody_else(relay):
    r = give_backends(relay())
    one, other = r.client(), r.client()
    for client in (one, other):
        client.ask(MADE)
    assert f.codes(one.ask(GONE)) == "CZ"
    assert f.rows(other.ask(USED)) == [b"s"]
    assert f.codes(one.ask(USED)) == "EZ"


def test_deallocate_needs_no_server_and_keeps_none(relay):
    r = relay()
    client, holder = r.client(), r.client()
    client.send(MADE)
    server = r.servers[0]
    server.send(f.PARSE_COMPLETE, f.ready())
    client.take()
    holder.send(f.query("begin"))
    server.take()
    assert f.codes(client.ask(GONE)) == "CZ"
    assert r.pool.waiting.count == 0


@pytest.mark.parametrize(
    "text",
    ["select 1; deallocate s", "fail; deallocate s", "begin; deallocate s; commit"],
)
@pytest.mark.parametrize("unit", [f.query, run], ids=["simple", "extended"])
def test_next_client_finds_nothing_that_was_lent_for_a_deallocate(relay, unit, text):
    """The server gets the name for a moment; it must not keep it for anybody else."""
    if unit is run:
        text = "deallocate s"
    r = give_backends(relay())
    client, other = r.client(), r.client()
    client.ask(MADE)
    client.ask(
        unit(text) if unit is f.query else f.parse("", text) + f.bind("") + f.SYNC
    )
    assert "s" not in r.servers[0].backend.statements
    assert f.errors(other.ask(f.query("deallocate s"))) == [
        'prepared statement "s" does not exist'
    ]
    assert f.rows(other.ask(f.query("select 2"))) == [b"2"]
    assert r.reasons == [] and len(r.servers) == 1


@pytest.mark.parametrize(
    "text",
    ["deallocate nobody;" * 50 + "deallocate s;" * 51, "select 1;" * 1000 + GONE_TEXT],
    ids=["too many", "too long"],
)
def test_text_that_is_too_much_to_look_at_is_sent_as_it_is(relay, text):
    """It is PostgreSQL's to say that it knows no such name; nothing is lost."""
    r = give_backends(relay())
    client = r.client()
    client.ask(MADE)
    assert len(f.errors(client.ask(f.query(text)))) == 1
    assert f.rows(client.ask(USED)) == [b"s"]
    assert r.reasons == []


def test_query_without_its_end_is_looked_at_within_its_bytes(relay):
    """Its text was to be looked at up to a zero byte: of whatever stood behind it."""
    r = relay()
    client = r.client()
    client.send(MADE)
    server = r.servers[0]
    server.send(f.PARSE_COMPLETE, f.ready())
    server.take()
    torn = f.message(b"Q", b"select 1; deallocate s")
    client.send(torn + f.query("deallocate s"))
    assert server.take() == torn


def test_client_is_told_when_what_its_deallocate_needs_fails(relay):
    """A cancel can strike it: PostgreSQL would skip all up to a Sync, for ever."""
    r = relay()
    client, other = r.client(), r.client()
    client.send(MADE)
    server = r.servers[0]
    server.send(f.PARSE_COMPLETE, f.ready())
    client.take()
    server.take()
    client.send(f.query("select 1; deallocate s"))
    assert f.codes(server.take()) == "CPQ"
    server.send(f.CLOSE_COMPLETE, f.error("57014", "canceling statement"))
    assert f.codes(client.take()) == "E"
    assert client.ended
    other.send(f.query("select 2"))
    assert f.codes(r.servers[1].take()) == "Q"


@pytest.mark.parametrize(("text", "values"), [("$1", 2), ("1", 1), ("$1, $2", 1)])
def test_what_is_lent_cannot_be_executed_for_the_clients_own(relay, text, values):
    """EXECUTE before the DEALLOCATE of a text would do nothing, and say that it had."""
    r = relay()
    client = r.client()
    client.send(f.parse("s", f"select {text}"), f.SYNC)
    server = r.servers[0]
    server.send(f.PARSE_COMPLETE, f.ready())
    client.take()
    server.take()
    client.send(f.query("execute s; deallocate s"))
    messages, _ = f.split(server.take())
    assert messages[1] == (
        b"P",
        b"s\0\0" + struct.pack(f"!h{values}i", values, *[0] * values),
    )


def test_error_in_an_extended_deallocate_ends_nobody(relay):
    """There a Sync of the client follows."""
    r = relay()
    client = r.client()
    client.send(MADE)
    server = r.servers[0]
    server.send(f.PARSE_COMPLETE, f.ready())
    client.take()
    server.take()
    client.send(f.parse("", GONE_TEXT), f.FLUSH)
    server.send(f.PARSE_COMPLETE)
    client.send(f.bind("") + f.execute() + f.SYNC)
    assert f.codes(server.take()) == "PHCPBES"
    server.send(f.CLOSE_COMPLETE, f.error("57014", "canceling statement"), f.ready())
    assert f.codes(client.take()) == "1EZ"
    assert f.codes(server.take()) == "CQ"
    server.send(f.CLOSE_COMPLETE, f.EMPTY_QUERY, f.ready())
    assert server.server.clean
    assert not client.ended


def test_text_whose_names_cannot_be_prepared_ends_and_does_not_hang(relay):
    """PostgreSQL would skip the text up to a Sync, which nobody sends."""
    r = relay()
    client, other = r.client(), r.client()
    client.send(MADE)
    server = r.servers[0]
    server.send(f.PARSE_COMPLETE, f.ready())
    client.take()
    client.send(f.query("select 1; deallocate s"))
    server.send(f.CLOSE_COMPLETE, f.error("53200", "out of memory"))
    assert f.errors(client.take()) == ["preparing for DEALLOCATE failed"]
    assert client.client.closed and server.server.closed
    other.send(f.query("select 2"))
    assert r.servers[1].take() == f.query("select 2")
