"""How far an error reaches in a pipeline: as PostgreSQL has it, for client and server.

Each conversation is given to a model of PostgreSQL directly and through us; then a
second client uses the same server.
"""

import pytest

from tests.relay import frames as f
from tests.relay.backend import Backend
from tests.relay.harness import DEFAULTS, SESSION, TRANSACTION, give_backends

BAD = f.parse("", "syntax error")
DO = f.bind("") + f.execute()
GOOD = f.parse("", "select 2") + DO
Q, F = f.query("select q"), f.function_call(7, b"f")
NAMED = f.parse("n", "select n")
COPY = f.parse("", "copy in 1") + DO
BEGIN = f.query("begin")

# Case 1a to 1d of the field: what is sent at once.
UNITS = {
    "query behind a bad Parse": [BAD, DO, Q, f.SYNC],
    "function call behind a bad Parse": [BAD, DO, F, f.SYNC],
    "two queries behind a bad Parse": [BAD, DO, Q, Q, f.SYNC],
    "query behind a bad Describe": [f.describe("no", b"P"), Q, f.SYNC],
    "query behind a bad Execute": [f.parse("", "fail"), DO, Q, f.SYNC],
    "in a transaction": [BEGIN, BAD, DO, Q, f.SYNC, f.query("rollback")],
    "flush between": [BAD, DO, f.FLUSH, Q, f.FLUSH, f.SYNC],
    "named Parse behind it": [BAD, NAMED, Q, f.SYNC, NAMED, f.SYNC],
    "Close behind it": [BAD, Q, f.SYNC, f.close("no"), f.SYNC],
    "Close behind a function call": [BAD, F, f.SYNC, f.close("no"), f.SYNC],
    "good work, then a query": [GOOD, Q, f.SYNC],
    "query that fails in an open unit": [GOOD, f.query("fail"), GOOD, f.SYNC],
    "failed copy, CopyDone, query": [
        COPY, f.copy_data(b"x"), f.COPY_DONE, Q, f.SYNC],
    "failed copy, CopyFail, query": [
        COPY, f.copy_data(b"x"), f.copy_fail(), Q, f.SYNC],
}  # fmt: skip


def both(relay, messages, cut=0, mode=TRANSACTION, prepared=200):
    """What comes directly and through us; the second client must be served right."""
    r = give_backends(relay(mode=mode, prepared=prepared))
    direct = Backend(DEFAULTS)
    client, second = r.client(), r.client()
    data = b"".join(messages)
    direct.receive(data)
    if cut:
        for start in range(0, len(data), cut):
            client.send(data[start : start + cut])
    else:
        client.send(data)
    heard = client.take()
    if mode == SESSION:
        client.send(f.TERMINATE)
    assert f.rows(second.ask(f.query("select marker"))) == [b"marker"]
    return direct.out, heard


@pytest.mark.parametrize("prepared", [200, 0])
@pytest.mark.parametrize("cut", [0, 1, 7])
@pytest.mark.parametrize("name", UNITS)
def test_error_reaches_as_far_as_in_postgresql(relay, name, cut, prepared):
    """A Query behind a failed extended message is skipped with it. We took its
    ReadyForQuery for an answer to the Query: that of the Sync was owed for ever, the
    server was never released, and the next client hung."""
    expected, heard = both(relay, UNITS[name], cut, prepared=prepared)
    assert f.codes(heard) == f.codes(expected)
    assert heard == expected


@pytest.mark.parametrize("name", UNITS)
def test_error_reaches_as_far_in_session_mode(relay, name):
    expected, heard = both(relay, UNITS[name], mode=SESSION)
    assert heard == expected


def test_flush_of_nothing_takes_no_server(relay):
    """It was sent to a server, which owes no answer to it, and so was kept for ever."""
    r = give_backends(relay())
    client, other = r.client(), r.client()
    assert f.codes(client.ask(f.FLUSH, f.query("select 1"))) == "TDCZ"
    assert client.ask(f.FLUSH) == b""
    assert f.rows(other.ask(f.query("select mine"))) == [b"mine"]
    assert f.codes(client.ask(f.FLUSH, f.parse("", "select 2"), f.FLUSH)) == "1"
    assert f.codes(client.ask(f.SYNC)) == "Z"


def test_name_of_a_skipped_parse_is_free(relay):
    """Case 1b: behind a failure a Parse whose text the server knew, then a Query. The
    name stayed taken, and its ParseComplete came behind the next unit's answers."""
    r = give_backends(relay())
    direct = Backend(DEFAULTS)
    client = r.client()
    for messages in (
        [f.parse("s1", "select t"), f.SYNC],
        [BAD, f.parse("s3", "select t"), Q, f.SYNC],
        [f.parse("s3", "select t"), f.bind("s3"), f.execute(), f.SYNC],
    ):
        data = b"".join(messages)
        direct.receive(data)
        client.send(data)
    assert client.take() == direct.out


def test_server_is_probed_behind_a_query_in_an_open_unit(relay):
    """Case 2e: PostgreSQL 18 says `I` there and is still in a transaction, so that the
    next Query is an error (XX000): the next client's."""
    r = relay()
    first, second = r.client(), r.client()
    first.send(GOOD, Q, f.SYNC)
    server = r.servers[0]
    second.send(f.query("second"))
    server.take()
    server.send(f.PARSE_COMPLETE, f.BIND_COMPLETE, f.complete("SELECT 0"))
    server.send(f.complete("SELECT 0"), f.ready())
    assert first.codes() == "12CCZ"
    server.send(f.ready())
    assert first.codes() == "Z"
    assert server.take() == f.query("")  # nobody else has it yet
    server.send(f.error("XX000", "unexpected state STARTED"), f.ready())
    assert first.take() == b""
    assert server.server.closed
    assert not first.client.closed
    assert r.servers[1].take() == f.query("second")


def test_server_whose_probe_is_answered_is_shared(relay):
    r = relay()
    first, second = r.client(), r.client()
    first.send(GOOD, Q, f.SYNC)
    server = r.servers[0]
    second.send(f.query("second"))
    server.take()
    server.send(f.PARSE_COMPLETE, f.BIND_COMPLETE, f.complete("SELECT 0"))
    server.send(f.complete("SELECT 0"), f.ready(), f.ready())
    assert server.take() == f.query("")
    server.send(f.EMPTY_QUERY, f.ready())
    assert first.codes() == "12CCZZ"
    assert server.take() == f.query("second")
