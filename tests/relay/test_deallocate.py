"""DEALLOCATE of one name, as drivers say it that have no Close: libpq before 17.

psycopg 3, DBD::Pg, PDO and Rails prepare by the protocol and deallocate by SQL. The
server has the statement under a name of ours: it said 26000, and in a transaction all
that came behind it failed.
"""

import pytest

from bouncer.relay.intent import all_deallocated, speaks_of_deallocating
from tests.relay import frames as f
from tests.relay.backend import Backend
from tests.relay.harness import DEFAULTS, SESSION, STATEMENT, TRANSACTION, give_backends

MADE = f.parse("s", "select s") + f.SYNC
GONE = f.query("deallocate s")


def run(text: str) -> bytes:
    return f.parse("", text) + f.bind("") + f.execute() + f.SYNC


USED = f.bind("s") + f.execute() + f.SYNC

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


def test_text_with_too_many_deallocates_is_sent_as_it_is(relay):
    r = give_backends(relay())
    client = r.client()
    client.ask(MADE)
    client.ask(f.query("deallocate nobody;" * 50 + "deallocate s;" * 51))
    assert f.rows(client.ask(USED)) == [b"s"]
