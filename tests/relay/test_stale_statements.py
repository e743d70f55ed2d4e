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
    assert f.codes(server.take())[:1] == "P"
    server.send(f.PARSE_COMPLETE, f.BIND_COMPLETE, f.ready())
    client.send(make("a"), f.SYNC)
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


def refuse_at(server, *before, sqlstate="42883"):
    server.send(*before, f.error(sqlstate, "no"), f.ready())
    server.take()


PIPELINES = {
    "Bind of the second": (
        [f.bind("a"), f.execute(), f.bind("b"), f.execute(), f.SYNC],
        [f.BIND_COMPLETE, f.complete("SELECT 1")],
    ),
    "Describe of the second": (
        [f.describe("a"), f.describe("b"), f.bind("a"), f.SYNC],
        [f.message(b"t", b"\0\0"), f.NO_DATA],
    ),
    "with others that are closed meanwhile": (
        [f.bind("a"), f.bind("b"), f.close("a"), f.bind("c"), f.SYNC],
        [f.BIND_COMPLETE],
    ),
    "in a later unit": (
        [f.bind("a"), f.SYNC, f.bind("b"), f.SYNC, f.bind("c"), f.SYNC],
        [f.BIND_COMPLETE, f.ready()],
    ),
}


@pytest.mark.parametrize("how", PIPELINES)
def test_only_the_statement_that_failed_is_parsed_again(relay, how):
    """All that its server had was: where Binds often failed, nothing was shared."""
    r = relay()
    client = r.client()
    for name in "abc":
        server = prepared(r, client, name, f"select {name}")
    asked, before = PIPELINES[how]
    client.send(*asked)
    server.take()
    refuse_at(server, *before)
    if how == "in a later unit":
        server.send(f.BIND_COMPLETE, f.ready())
    other = r.client()
    for name, codes in (("a", "BS"), ("b", "PBS"), ("c", "BS")):
        other.send(f.parse(name, f"select {name}"), f.bind(name), f.SYNC)
        assert f.codes(server.take()) == codes
        server.send(f.PARSE_COMPLETE * (codes == "PBS"), f.BIND_COMPLETE, f.ready())
        assert other.codes() == "12Z"


def test_execute_that_is_stale_speaks_of_what_was_bound_last(relay):
    r = relay()
    client = r.client()
    for name in "ab":
        server = prepared(r, client, name, f"select {name}")
    client.send(f.bind("a"), f.execute(), f.bind("b"), f.execute(), f.SYNC)
    server.take()
    fields = b"SERROR\0C0A000\0Mno\0RRevalidateCachedQuery\0\0"
    server.send(f.BIND_COMPLETE, f.complete("SELECT 1"), f.BIND_COMPLETE)
    server.send(f.message(b"E", fields), f.ready())
    other = r.client()
    for name, codes in (("a", "BS"), ("b", "PBS")):
        other.send(f.parse(name, f"select {name}"), f.bind(name), f.SYNC)
        assert f.codes(server.take()) == codes
        server.send(f.PARSE_COMPLETE * (codes == "PBS"), f.BIND_COMPLETE, f.ready())


def test_error_of_an_unnamed_statement_retires_nothing(relay):
    r = relay()
    client = r.client()
    server = prepared(r, client, "a", "select a")
    client.send(f.bind("a"), f.parse("", "select x"), f.bind(""), f.execute(), f.SYNC)
    server.take()
    refuse_at(server, f.BIND_COMPLETE, f.PARSE_COMPLETE)
    other = r.client()
    other.send(f.parse("a", "select a"), f.bind("a"), f.SYNC)
    assert f.codes(server.take()) == "BS"


@pytest.mark.parametrize("sqlstate", ["22003", "22P02", "22P03"])
def test_refused_value_lets_the_next_parse_reach_postgresql(relay, sqlstate):
    """An int column is bigint by now: who prepared the text anew got the old type.

    Who holds the statement keeps it: with PostgreSQL, too, its types stay.
    """
    r = relay()
    client = r.client()
    server = prepared(r, client, "a", "select $1 + a from t")
    client.send(f.bind("a", "", "99999999999"), f.SYNC)
    server.take()
    refuse_at(server, sqlstate=sqlstate)
    client.send(f.bind("a", "", "1"), f.SYNC)
    assert f.codes(server.take()) == "BS"
    server.send(f.BIND_COMPLETE, f.ready())
    other = r.client()
    other.send(f.parse("b", "select $1 + a from t"), f.bind("b", "", "1"), f.SYNC)
    assert f.codes(server.take()) == "PBS"


@pytest.mark.parametrize(("sql", "types"), [("select 1", ()), ("select $1", (23,))])
def test_refused_value_of_a_given_type_costs_no_parse(relay, sql, types):
    """Parsed again it would have the same type."""
    r = relay()
    client = r.client()
    client.send(f.parse("a", sql, *types), f.SYNC)
    server = r.servers[0]
    server.send(f.PARSE_COMPLETE, f.ready())
    client.take(), server.take()
    client.send(f.bind("a", "", "many"), f.SYNC)
    server.take()
    refuse_at(server, sqlstate="22P02")
    other = r.client()
    other.send(f.parse("b", sql, *types), f.bind("b", "", "1"), f.SYNC)
    assert f.codes(server.take()) == "BS"
