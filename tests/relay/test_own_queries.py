"""Queries of our own, of several statements: one Query behind the other."""

import pytest

from tests.relay import frames as f

RESET = b"discard all\0set a = 1\0set b = 2"
ASKED = f.query("discard all") + f.query("set a = 1") + f.query("set b = 2")


def released(relay, always=True):
    """A server whose client has gone on, and which was asked to forget it."""
    r = relay(size=1)
    r.pool.reset_query, r.pool.reset_on_release = RESET, always
    client = r.client()
    client.send(f.query("a"))
    server = r.servers[0]
    server.take()
    server.answer("first")
    assert server.take() == ASKED
    return r, server


def test_each_statement_of_a_reset_is_a_query_of_its_own(relay):
    """In one Query PostgreSQL refuses DISCARD ALL: each server was closed."""
    r, server = released(relay)
    second = r.client()
    second.send(f.query("b"))
    server.send(f.complete("DISCARD ALL"), f.ready())
    assert server.take() == b""
    server.send(f.complete("SET"), f.ready(), f.complete("SET"))
    assert server.take() == b""
    server.send(f.ready())
    assert server.take() == f.query("b")
    assert r.reasons == []


@pytest.mark.parametrize("which", [0, 1, 2])
def test_refused_statement_of_a_reset_is_logged_and_ends_the_server(
    relay, logged, which
):
    """The log said `reset query failed` and not why."""
    r, server = released(relay)
    for number in range(3):
        assert r.reasons == []
        server.send(
            f.error("25001", "DISCARD ALL cannot run here")
            if number == which
            else f.complete("SET"),
            f.ready(),
        )
    assert r.reasons == ["reset query failed"]
    assert logged.has(
        "server_reset_query was refused: ERROR: 25001: DISCARD ALL cannot run here"
    )


def test_bytes_behind_the_last_answer_of_a_reset_are_nobody_s(relay):
    r, server = released(relay)
    answer = f.complete("SET") + f.ready()
    server.send(answer * 4)
    assert r.reasons == ["idle server got dirty"]


def test_refused_check_query_is_logged(relay, logged):
    """It passes for an answer, as in PgBouncer; but somebody meant something."""
    r = relay(size=1)
    r.pool.check_query = b"select 1\0select nonsense"
    client = r.client()
    client.send(f.query("a"))
    server = r.servers[0]
    server.answer("first")
    server.take()
    r.pool.park_used(server.server)
    r.pool.check(server.server)
    r.turn()
    assert server.take() == f.query("select 1") + f.query("select nonsense")
    server.send(f.complete("SELECT 1"), f.ready())
    server.send(f.error("42703", 'column "nonsense" does not exist'), f.ready())
    assert logged.has("server_check_query was refused: ERROR: 42703: column")
    assert r.reasons == []
    client.send(f.query("b"))
    assert server.take() == f.query("b")


COPIES = {"in": f.COPY_IN, "both": f.message(b"W", b"\0\0\0")}


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("copy", COPIES)
def test_reset_that_begins_a_copy_ends_the_server(relay, logged, which, copy):
    """It waited for data for ever, the pool of one with it, and nothing was logged."""
    r, server = released(relay)
    second = r.client()
    second.send(f.query("b"))
    for _ in range(which):
        server.send(f.complete("SET"), f.ready())
    server.send(COPIES[copy])
    assert r.reasons == ["reset query failed"]
    assert logged.has("server_reset_query was answered by a request for COPY data")
    assert r.servers[-1].take() == f.query("b")


@pytest.mark.parametrize("copy", COPIES)
def test_check_that_begins_a_copy_ends_the_server(relay, logged, copy):
    r = relay(size=1)
    r.pool.check_query = b"copy t from stdin"
    client = r.client()
    client.send(f.query("a"))
    server = r.servers[0]
    server.answer("first")
    server.take()
    r.pool.park_used(server.server)
    r.pool.check(server.server)
    r.turn()
    server.send(COPIES[copy])
    assert r.reasons == ["test query failed"]
    assert logged.has("server_check_query was answered by a request for COPY data")
    client.send(f.query("b"))
    assert r.servers[-1].take() == f.query("b")


def test_copy_instead_of_a_set_ends_the_server(relay, logged):
    r = relay(size=1)
    client = r.client(TimeZone="Asia/Tokyo")
    client.send(f.query("a"))
    r.servers[0].send(f.COPY_IN)
    assert r.reasons == ["invalid server parameter"]
    assert f.errors(client.take()) == ["invalid server parameter"]
    assert logged.has("parameters was answered by a request for COPY data")


def test_reset_that_copies_out_is_over_when_it_is(relay):
    r, server = released(relay)
    copied = [f.COPY_OUT, f.copy_data(b"1\n"), f.message(b"c"), f.complete("COPY 1")]
    server.send(*copied, f.ready())
    server.send(f.complete("SET"), f.ready(), f.complete("SET"), f.ready())
    assert r.reasons == []
