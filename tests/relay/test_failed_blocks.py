"""Statements in a transaction that has failed, on a server that lacks them.

PostgreSQL parses nothing there, but still describes a statement without rows, and says
of a Bind that its number of values is wrong (08P01) before it says 25P02. So a stand-in
is described and bound: an empty text with the same types, which it does take.
"""

import pytest

from tests.relay import frames as f
from tests.relay.test_statements import names_of, prepared

FAIL = [f.query("begin"), f.query("selec")]


def types(*oids):
    count = len(oids).to_bytes(2, "big")
    return f.message(b"t", count + b"".join(oid.to_bytes(4, "big") for oid in oids))


def failed(relay, *statements):
    """A client that has prepared these, and its failed block on another server."""
    r = relay(size=2)
    client, other = r.client(), r.client()
    server = None
    for name, sql, told in statements:
        server = prepare(r, client, name, sql, told)
    other.send(f.query("begin"))
    server.send(f.complete("BEGIN"), f.ready("T"))
    client.send(f.query("begin"))
    lacking = r.servers[1]
    lacking.send(f.complete("BEGIN"), f.ready("T"))
    client.send(f.query("selec"))
    lacking.send(f.error("42601", "no"), f.ready("E"))
    client.take(), lacking.take()
    return client, lacking


def prepare(r, client, name, sql, told=()):
    client.send(f.parse(name, sql), f.SYNC)
    r.servers[0].send(f.PARSE_COMPLETE, *told, f.ready())
    assert client.codes() == "1Z"
    r.servers[0].take()
    return r.servers[0]


def bodies(server):
    return f.split(server.take())[0]


@pytest.mark.parametrize(
    ("sql", "told", "oids"),
    [
        ("set timezone = 'UTC'", (), b"\0\0"),
        ("/* who */ begin", (), b"\0\0"),
        ("insert into t values ($1)", (types(23), f.NO_DATA), b"\0\1\0\0\0\x17"),
    ],
)
def test_describe_without_rows_in_a_failed_block(relay, sql, told, oids):
    """It was 25P02 where PostgreSQL, if it has the statement, says NoData."""
    client, server = failed(relay, ("u", sql, told))
    client.send(f.describe("u"), f.SYNC)
    got = bodies(server)
    assert [code for code, _ in got] == [b"C", b"P", b"D", b"S"]
    name, rest = got[1][1].split(b"\0", 1)
    assert rest == b"\0" + oids
    assert got[0][1] == got[2][1] == b"S" + name + b"\0"
    description = f.message(b"t", oids)
    server.send(
        f.CLOSE_COMPLETE, f.PARSE_COMPLETE, description, f.NO_DATA, f.ready("E")
    )
    assert client.take() == description + f.NO_DATA + f.ready("E")


@pytest.mark.parametrize(
    ("sql", "told", "good"),
    [
        ("select $1, $2", (), 2),
        ("select '$3', $1", (), 1),
        ("insert into t values ($1)", (types(23), f.NO_DATA), 1),
        ("set timezone = 'UTC'", (), 0),
    ],
)
def test_wrong_number_of_values_in_a_failed_block(relay, sql, told, good):
    """It was 25P02 where PostgreSQL says 08P01."""
    client, server = failed(relay, ("v", sql, told))
    client.send(f.bind("v", "", *"x" * (good + 1)), f.SYNC)
    got = bodies(server)
    assert [code for code, _ in got] == [b"C", b"P", b"B", b"S"]
    name, rest = got[1][1].split(b"\0", 1)
    assert rest[:3] == b"\0" + good.to_bytes(2, "big")
    text = 'but prepared statement "{}" requires it'
    server.send(
        f.CLOSE_COMPLETE,
        f.PARSE_COMPLETE,
        f.error("08P01", text.format(name.decode())),
        f.ready("E"),
    )
    assert f.errors(client.take()) == [text.format("v")]
    client.send(f.bind("v", "", *"x" * good), f.SYNC)
    assert [code for code, _ in names_of(server)][-3:] == ["P", "B", "S"]


def test_it_is_asked_only_how_changes_of_rows_are_described(relay):
    """The types of their values are PostgreSQL's to know. Once for all who share it."""
    r = relay()
    client, other = r.client(), r.client()
    for name, sql, codes in (
        ("a", "select $1", "PS"),
        ("b", "set x = 1", "PS"),
        ("c", "delete from t where a = $1", "PDS"),
        ("d", "what is this", "PS"),
    ):
        client.send(f.parse(name, sql), f.SYNC)
        server = r.servers[0]
        assert f.codes(server.take()) == codes
        told = [types(23), f.NO_DATA] if "D" in codes else []
        server.send(f.PARSE_COMPLETE, *told, f.ready())
        assert client.codes() == "1Z"
    other.send(f.query("discard all"))
    server.send(f.complete("DISCARD ALL"), f.ready())
    server.take()
    client.send(f.bind("c", "", "1"), f.SYNC)
    assert f.codes(server.take()) == "PBS"


@pytest.mark.parametrize("cut", range(4))
def test_what_we_ask_is_answered_in_pieces_and_goes_to_nobody(relay, cut):
    r = relay()
    client = r.client()
    client.send(f.parse("a", "delete from t where a = $1"), f.describe("a"), f.SYNC)
    server = r.servers[0]
    answers = (types(23), f.NO_DATA, types(23), f.NO_DATA, f.ready())
    told = f.PARSE_COMPLETE + b"".join(answers)
    if cut == 0:
        server.drip(told)
    for start in range(0, len(told) if cut else 0, 5 + cut):
        server.send(told[start : start + 5 + cut])
    assert client.take() == f.PARSE_COMPLETE + b"".join(answers[2:])
    assert server.server.state_name == "idle"


def test_whether_the_block_has_failed_is_waited_for(relay):
    """All in one send: what is answered for hangs on what is not answered yet."""
    r = relay()
    client = r.client()
    server = prepared(r, client, "u", "set timezone = 'UTC'")
    client.send(f.query("deallocate all"))
    server.send(f.complete("DEALLOCATE ALL"), f.ready())
    client.take(), server.take()
    client.send(f.parse("u", "set timezone = 'UTC'"), f.SYNC)
    server.send(f.PARSE_COMPLETE, f.ready())
    client.take(), server.take()
    server.server.forget_session()
    client.send(*FAIL, f.describe("u"), f.SYNC, f.query("rollback"))
    assert f.codes(server.take()) == "QQ"
    server.send(f.complete("BEGIN"), f.ready("T"))
    assert f.codes(server.take()) == ""
    server.send(f.error("42601", "no"), f.ready("E"))
    assert f.codes(server.take()) == "CPDSQ"
    client.take()
    server.send(f.CLOSE_COMPLETE, f.PARSE_COMPLETE, types(), f.NO_DATA, f.ready("E"))
    assert client.codes() == "tnZ"
    server.send(f.complete("ROLLBACK"), f.ready())
    assert client.codes() == "CZ"


def test_block_that_has_not_failed_has_the_statement_parsed(relay):
    r = relay()
    client = r.client()
    server = prepared(r, client, "u", "set timezone = 'UTC'")
    server.server.forget_session()
    client.send(f.query("begin"), f.query("select 1"), f.describe("u"), f.SYNC)
    server.send(f.complete("BEGIN"), f.ready("T"), f.complete("SELECT 1"), f.ready("T"))
    assert f.codes(server.take()) == "QQPDS"


def test_statement_in_a_copy_is_not_waited_for(relay):
    """A COPY answers nothing before its end, and any other message ends it.

    Its error names that message, which was one of ours.
    """
    r = relay()
    client = r.client()
    server = prepared(r, client, "u", "set timezone = 'UTC'")
    server.server.forget_session()
    client.send(f.query("copy t from stdin"), f.describe("u"), f.SYNC)
    assert f.codes(server.take()) == "Q"
    server.send(f.COPY_IN)
    assert f.codes(server.take()) == "DS"
