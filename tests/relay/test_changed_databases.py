"""A text that is prepared anew after a change means what PostgreSQL makes of it now.

A Parse of a known text is answered by us. Its statement may be older than an ALTER
TABLE: then its parameters and columns have the old types, where PostgreSQL would give
the new ones to whoever prepares it now.
"""

import gc

import pytest

from bouncer.relay.texts import changes_of
from tests.relay import frames as f
from tests.relay.test_statements import prepared

SQL = "select a from t where a = $1"


def parses_anew(r, server, sql=SQL):
    """Does a Parse of this text reach the server?"""
    newcomer = r.client()
    newcomer.send(f.parse("n", sql), f.bind("n", "", "1"), f.SYNC)
    codes = f.codes(server.take())
    server.send(f.PARSE_COMPLETE * ("P" in codes), f.BIND_COMPLETE, f.ready())
    assert newcomer.codes() == "12Z"
    newcomer.close()
    return codes == "PBS"


def run(client, server, text, tag, status="I"):
    client.send(f.query(text))
    server.send(f.complete(tag), f.ready(status))
    assert client.codes() == "CZ"
    server.take()


CHANGES = [
    "ALTER TABLE",
    "ALTER TYPE",
    "CREATE TABLE",
    "CREATE FUNCTION",
    "CREATE INDEX",
    "DROP TABLE",
    "DROP RULE",
    "DO",
]


@pytest.mark.parametrize("tag", CHANGES)
def test_text_is_parsed_anew_after_a_change(relay, tag):
    r = relay()
    client = r.client()
    server = prepared(r, client, "a", SQL)
    assert not parses_anew(r, server)
    run(client, server, "any", tag)
    assert parses_anew(r, server)
    assert not parses_anew(r, server)


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7])
def test_change_is_seen_in_pieces(relay, size):
    r = relay()
    client = r.client()
    server = prepared(r, client, "a", SQL)
    client.send(f.query("any"))
    told = f.complete("ALTER TABLE") + f.ready()
    for start in range(0, len(told), size):
        server.send(told[start : start + size])
    assert client.take() == told
    server.take()
    assert parses_anew(r, server)


@pytest.mark.parametrize(
    "tag",
    ["SELECT 1000000", "INSERT 0 1", "DELETE 10", "COPY 10000", "COMMIT", "ANALYZE"]
    + ["SET", "CALL", "DECLARE CURSOR", "CLOSE CURSOR", "CHECKPOINT", "DISCARD PLANS"],
)
def test_what_changes_no_database_costs_no_parse(relay, tag):
    r = relay()
    client = r.client()
    server = prepared(r, client, "a", SQL)
    run(client, server, "any", tag)
    assert not parses_anew(r, server)


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_end_of_the_transaction_of_a_change_counts_too(relay, end):
    """Only then others see the change; or what was parsed in it is wrong again."""
    r = relay(size=2)
    first, second = r.client(), r.client()
    one = prepared(r, first, "a", SQL)
    run(first, one, "begin", "BEGIN", "T")
    run(first, one, "alter", "ALTER TABLE", "T")
    second.send(f.parse("b", SQL), f.bind("b", "", "1"), f.SYNC)
    other = r.servers[1]
    assert f.codes(other.take()) == "PBS"
    other.send(f.PARSE_COMPLETE, f.BIND_COMPLETE, f.ready())
    run(first, one, "end", end)
    first.send(f.query("begin"))
    one.send(f.complete("BEGIN"), f.ready("T"))
    assert parses_anew(r, other)


def test_who_holds_a_statement_keeps_it(relay):
    """PostgreSQL keeps it for a session, too, and tells where it no longer fits."""
    r = relay()
    client = r.client()
    server = prepared(r, client, "a", SQL)
    run(client, server, "alter", "ALTER TABLE")
    client.send(f.bind("a", "", "1"), f.SYNC)
    assert f.codes(server.take()) == "BS"


def test_types_that_its_holder_knows_are_said_on_another_server(relay):
    """A Bind with a four-byte int was refused where the column is bigint by now.

    PostgreSQL keeps the types that a statement was parsed with.
    """
    r = relay()
    client = r.client()
    types = f.message(b"t", b"\0\1\0\0\0\x17")
    client.send(f.parse("a", SQL), f.describe("a"), f.SYNC)
    server = r.servers[0]
    server.send(f.PARSE_COMPLETE, types, f.row_description("a"), f.ready())
    assert client.take()[-6:] == f.ready()
    key = f.split(server.take())[0][0][1].split(b"\0", 1)[1]
    assert key == SQL.encode() + b"\0\0\0"
    for told in ("SELECT 1", "ALTER TABLE"):
        run(client, server, "any", told)
        server.server.forget_session()
        client.send(f.bind("a", "", "1"), f.SYNC)
        parse, *_ = f.split(server.take())[0]
        key = SQL.encode() + b"\0" + (types[5:] if told == "ALTER TABLE" else b"\0\0")
        assert parse[0] == b"P" and parse[1].split(b"\0", 1)[1] == key
        server.send(f.PARSE_COMPLETE, f.BIND_COMPLETE, f.ready())
        assert client.codes() == "2Z"


def test_types_that_are_gone_are_not_said_again(relay):
    r = relay()
    client = r.client()
    client.send(f.parse("a", SQL), f.describe("a"), f.SYNC)
    server = r.servers[0]
    types = f.message(b"t", b"\0\1\0\0\0\x17")
    server.send(f.PARSE_COMPLETE, types, f.NO_DATA, f.ready())
    client.take(), server.take()
    run(client, server, "any", "DROP TYPE")
    server.server.forget_session()
    for types in (b"\0\1\0\0\0\x17", b"\0\0"):
        client.send(f.bind("a", "", "1"), f.SYNC)
        parse, *_ = f.split(server.take())[0]
        assert parse[1].split(b"\0", 2)[2] == types
        server.send(f.error("XX000", "cache lookup failed for type 23"), f.ready())
        client.take()


def test_pools_of_one_database_share_what_is_seen():
    """The owner changes the tables, in a pool of its own; applications use them."""
    one, other = changes_of("one of them"), changes_of("another")
    assert changes_of("one of them") is one is not other
    del one, other
    gc.collect()
    assert changes_of("one of them") is not None
