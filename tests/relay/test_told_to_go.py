"""A session that PostgreSQL ends by itself: policy hears of it, whoever has it."""

import pytest

from tests.relay import frames as f

ENDS = {"57P01": True, "57P04": True, "57P05": False, "57P02": False, "XX000": False}


def told(r):
    """Note which servers policy hears of."""
    heard = []
    r.keeper.told_to_go = heard.append
    return heard


@pytest.mark.parametrize("where", ["idle", "serving", "checked"])
@pytest.mark.parametrize("sqlstate", ENDS)
def test_session_that_postgresql_ends_is_told(relay, sqlstate, where):
    """A database was dropped; its welcome went on letting clients in."""
    r = relay()
    heard = told(r)
    client, server = r.client(), r.server()
    if where != "idle":
        client.send(f.query("a"))
        server.answer("a")
        client.take()
    if where == "serving":
        client.send(f.query("b"))
    elif where == "checked":
        r.pool.check_query = b"select 1"
        r.pool.park_used(server.server)
        r.pool.check(server.server)
    server.send(f.error(sqlstate, "the end", "FATAL"))
    assert heard == ([server.server] if ENDS[sqlstate] else [])
    server.close()
    assert r.reasons == ["server conn crashed?"]


def test_error_of_a_query_with_that_code_is_not_the_end_of_the_session(relay):
    r = relay()
    heard = told(r)
    client, server = r.client(), r.server()
    client.send(f.query("raise"))
    server.send(f.error("57P01", "raised by a function"), f.ready())
    assert f.codes(client.take()) == "EZ"
    assert heard == []
