"""DISCARD ALL and DEALLOCATE ALL, and what stands behind them in the same write.

What was sent behind is done again on top of nothing, for a client that may never have
had a name and on a server that may never have had a statement.
"""

import itertools

import pytest

from tests.relay import frames as f
from tests.relay.harness import STATEMENT, TRANSACTION, give_backends


def extended(sql: str) -> bytes:
    return f.parse("", sql) + f.bind("") + f.execute() + f.SYNC


FORGET = {
    "discard": (f.query("discard all"), "CZ"),
    "deallocate": (f.query("deallocate all"), "CZ"),
    "two at once": (f.query("discard all;deallocate all"), "CCZ"),
    "two in a row": (f.query("discard all") + f.query("discard all"), "CZCZ"),
    "extended": (extended("discard all"), "12CZ"),
    "extended deallocate": (extended("deallocate all"), "12CZ"),
    "both": (extended("deallocate all") + f.query("discard all"), "12CZCZ"),
}
BEHIND = {
    "nothing": (b"", ""),
    "close": (f.close("foo") + f.SYNC, "3Z"),
    "two closes": (f.close("foo") + f.close("bar") + f.SYNC, "33Z"),
    "close of a portal": (f.close("foo", b"P") + f.SYNC, "3Z"),
    "parse": (f.parse("foo", "select foo") + f.SYNC, "1Z"),
    "parse that fails": (f.parse("foo", "syntax error") + f.SYNC, "EZ"),
    "parse and bind": (
        f.parse("foo", "select foo") + f.bind("foo") + f.execute() + f.SYNC, "12DCZ",
    ),
    "parse and describe": (
        f.parse("foo", "select foo") + f.describe("foo") + f.SYNC, "1tTZ",
    ),
    "close, parse, close": (
        f.close("foo") + f.parse("foo", "select foo") + f.close("foo") + f.SYNC, "313Z",
    ),
}  # fmt: skip
CASES = list(itertools.product(FORGET, BEHIND))


@pytest.mark.parametrize("mode", [TRANSACTION, STATEMENT])
@pytest.mark.parametrize(("forget", "behind"), CASES)
def test_client_without_names_forgets_all_and_goes_on(relay, mode, forget, behind):
    """`names` was None behind DISCARD ALL: a Close went through a null table."""
    r = give_backends(relay(mode=mode))
    client = r.client()
    got = client.ask(FORGET[forget][0] + BEHIND[behind][0])
    assert f.codes(got) == FORGET[forget][1] + BEHIND[behind][1]
    assert f.codes(client.ask(f.query("select still"))) == "TDCZ"
    assert not client.client.closed and r.servers[0].server.clean


@pytest.mark.parametrize(("forget", "behind"), CASES)
def test_server_that_knows_statements_of_another_client(relay, forget, behind):
    r = give_backends(relay(prepared=2))
    other, client = r.client(), r.client()
    for name in ("foo", "bar", "baz"):
        other.ask(f.parse(name, f"select {name}"), f.SYNC)
    got = client.ask(FORGET[forget][0] + BEHIND[behind][0])
    assert f.codes(got) == FORGET[forget][1] + BEHIND[behind][1]
    assert f.rows(other.ask(f.bind("baz"), f.execute(), f.SYNC)) == [b"baz"]


@pytest.mark.parametrize(("forget", "behind"), CASES)
def test_statements_are_evicted_and_forgotten_at_once(relay, forget, behind):
    """A Close of ours behind two such commands was done again for no statement."""
    r = give_backends(relay(prepared=1))
    client = r.client()
    client.ask(f.parse("a", "select a"), f.SYNC)
    got = client.ask(
        FORGET[forget][0], f.parse("b", "select b"), f.parse("c", "select c"), f.SYNC,
        BEHIND[behind][0],
    )  # fmt: skip
    assert f.codes(got) == FORGET[forget][1] + "11Z" + BEHIND[behind][1]
    assert f.rows(client.ask(f.bind("c"), f.execute(), f.SYNC)) == [b"c"]


@pytest.mark.parametrize("forget", FORGET)
@pytest.mark.parametrize("message", [f.bind("foo"), f.describe("foo")])
def test_unknown_name_behind_it_is_refused(relay, forget, message):
    r = give_backends(relay())
    client, other = r.client(), r.client()
    got = client.ask(FORGET[forget][0], message, f.SYNC)
    assert f.codes(got) == FORGET[forget][1] + "EZ"
    assert f.errors(got) == ['prepared statement "foo" does not exist']
    assert f.rows(other.ask(f.query("select mine"))) == [b"mine"]


@pytest.mark.parametrize("behind", BEHIND)
def test_everything_fails_behind_it(relay, behind):
    """The server skips to the Sync: what was sent is undone, on top of nothing."""
    r = give_backends(relay())
    client = r.client()
    client.ask(
        f.query("discard all"), f.parse("", "syntax error"), BEHIND[behind][0], f.SYNC
    )
    assert not client.client.closed
    assert f.codes(client.ask(f.close("foo"), f.SYNC)) == "3Z"


@pytest.mark.parametrize("forget", FORGET)
@pytest.mark.parametrize("prepared", [1, 200])
def test_text_that_the_server_had_until_then_is_parsed_anew(relay, forget, prepared):
    """Its Parse was answered by us, and its Bind found nothing (26000). Npgsql sends
    DISCARD ALL before the first command of a connection, in one write."""
    r = give_backends(relay(prepared=prepared))
    other, client = r.client(), r.client()
    other.ask(f.parse("foo", "select foo"), f.SYNC)
    again = f.parse("bar", "select foo") + f.bind("bar") + f.execute() + f.SYNC
    got = client.ask(FORGET[forget][0], again)
    assert f.codes(got) == FORGET[forget][1] + "12DCZ"
    assert f.rows(other.ask(f.bind("foo"), f.execute(), f.SYNC)) == [b"foo"]
    assert r.servers[0].server.prepared_count == 1


def test_discard_all_that_fails_forgets_nothing(relay):
    r = give_backends(relay())
    client = r.client()
    client.ask(f.parse("foo", "select foo"), f.SYNC)
    got = client.ask(
        f.query("begin"), f.query("fail"), f.query("discard all"),
        f.query("rollback"), f.bind("foo"), f.execute(), f.SYNC,
    )  # fmt: skip
    assert f.codes(got) == "CZEZEZCZ2DCZ"
    assert f.rows(client.ask(f.bind("foo"), f.execute(), f.SYNC)) == [b"foo"]


@pytest.mark.parametrize("forget", FORGET)
def test_skipped_close_is_undone_though_another_client_discarded_all(relay, forget):
    """What one client had forgotten on a server was taken for the other's name, too:
    it was thrown out at its next Bind."""
    r = give_backends(relay())
    client, other = r.client(), r.client()
    client.ask(f.parse("foo", "select foo"), f.SYNC)
    other.ask(FORGET[forget][0])
    got = client.ask(f.parse("", "syntax error"), f.close("foo"), f.SYNC)
    assert f.codes(got) == "EZ"
    assert f.rows(client.ask(f.bind("foo"), f.execute(), f.SYNC)) == [b"foo"]
