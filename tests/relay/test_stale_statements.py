"""A statement that no longer fits what it was parsed with is parsed again."""

import pytest

from tests.relay import frames as f
from tests.relay.test_statements import prepared, refuse

# A type that is gone; an operator, a column, a table that are others by now.
STALE = ("XX000", "42883", "42703", "42P01", "42704", "42804")


@pytest.mark.parametrize("sqlstate", STALE)
@pytest.mark.parametrize("make", [f.bind, f.describe])
def test_statement_that_fits_no_longer_is_parsed_again_after_one_error(
    relay, make, sqlstate
):
    """`cache lookup failed for type` came for ever, to new clients as well.

    asyncpg's suite found it: who prepares a text that somebody else has prepared
    before a type was made anew gets the other's statement, with the type that is gone.
    """
    r = relay()
    client = r.client()
    server = prepared(r, client, "a", "select $1::t")
    client.send(make("a"), f.SYNC)
    refuse(server, sqlstate)
    assert client.codes() == "EZ"
    server.take()
    other = r.client()
    other.send(f.parse("b", "select $1::t"), make("b"), f.SYNC)
    assert f.codes(server.take())[:2] == "CP"


@pytest.mark.parametrize("sqlstate", ["42501", "42P03", "22P02", "23505", "25P02"])
def test_error_that_says_nothing_of_the_statement_costs_no_parse(relay, sqlstate):
    r = relay()
    client = r.client()
    server = prepared(r, client, "a", "select * from t")
    client.send(f.bind("a"), f.SYNC)
    refuse(server, sqlstate)
    server.take()
    client.send(f.bind("a"), f.SYNC)
    assert f.codes(server.take()) == "BS"


@pytest.mark.parametrize("error", [("0A000", "RevalidateCachedQuery"), ("XX000", "x")])
def test_changed_table_is_told_once_and_not_by_each_server(relay, error):
    """`cached plan must not change result type` behind a new Parse, too.

    lib/pq and asyncpg prepare the text again behind the error. In a transaction pool
    they got another server then, which refused it once more. Who has prepared it before
    knows its old columns, and is told on its own.
    """
    r = relay(size=2)
    first, second = r.client(), r.client()
    one = prepared(r, first, "a", "select * from t")
    first.send(f.query("begin"))
    one.send(f.complete("BEGIN"), f.ready("T"))
    second.send(f.parse("b", "select * from t"), f.bind("b"), f.SYNC)
    other = r.servers[1]
    other.send(f.PARSE_COMPLETE, f.BIND_COMPLETE, f.ready())
    assert second.codes() == "12Z"
    one.take(), other.take()
    first.send(f.bind("a"), f.SYNC)
    fields = "SERROR\0C{}\0Mno\0R{}\0\0".format(*error).encode()
    one.send(f.message(b"E", fields), f.ready("E"))
    third = r.client()
    third.send(f.parse("c", "select * from t"), f.bind("c"), f.SYNC)
    assert f.codes(other.take()) == "PBS"
    other.send(f.PARSE_COMPLETE, f.BIND_COMPLETE, f.ready())
    second.send(f.bind("b"), f.SYNC)
    assert f.codes(other.take()) == "BS"
