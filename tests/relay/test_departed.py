"""Clients that close, one half or both, while they wait for a server (case 4k).

What was asked for whole is run, in its turn; who has been reset, or has left in the
middle of a message, is out of the queue at once. Nobody noticed before a server came.
"""

import pytest

from bouncer.relay.door import Counts
from tests.relay import frames as f
from tests.relay.harness import Relay

WHOLE = {
    "query": f.query("select marker"),
    "unit": f.parse("", "select 1") + f.bind("") + f.execute() + f.SYNC,
    "more than we look at": f.query("select '" + "x" * 200_000 + "'"),
    "two reads": f.query("select '" + "x" * 9000 + "'") + f.query("select 2"),
}
CUT = {
    "half a query": f.query("select marker")[:-3],
    "a header": f.query("select 1") + b"Q\0\0",
    "half a second query": f.query("select 1") + f.query("select 2")[:-1],
    "half of a long one": f.query("select '" + "x" * 30_000 + "'")[:-9000],
}


def waiting(r: Relay, data: bytes) -> tuple:
    """A server that is held, and a client that has sent *data* and waits for it."""
    holder, client = r.client(), r.client()
    holder.send(f.query("hold"))
    client.send(data)
    assert r.pool.waiting.count == 1
    return r.servers[0], client


@pytest.mark.parametrize("name", WHOLE)
def test_who_closes_half_keeps_its_place_and_counts_no_more(relay, name):
    r = relay()
    server, client = waiting(r, WHOLE[name])
    client.half_close()
    assert client.client.departed
    assert (r.door.departed, list(r.pool.departed)) == (1, [client.client])
    server.take()
    server.answer("held")
    assert WHOLE[name].startswith(server.take()[:5])
    assert r.pool.waiting.count == 0


@pytest.mark.parametrize("name", [name for name in WHOLE if "more" not in name])
def test_goodbye_and_close_keep_the_place(relay, name):
    """Both ways are closed then, as after a crash, but for the Terminate."""
    r = relay()
    server, client = waiting(r, WHOLE[name])
    other = r.client()
    client.queue(f.TERMINATE)
    client.close()
    other.send(f.query("other"))
    assert client.client.departed and r.pool.waiting.count == 2
    server.take()
    server.answer("held")
    assert server.take() == WHOLE[name]
    assert not client.client.closed
    units = 2 if name == "two reads" else 1
    if name == "unit":
        server.send(
            f.PARSE_COMPLETE, f.BIND_COMPLETE, f.complete("SELECT 0"), f.ready()
        )
    else:
        for _ in range(units):
            server.answer("mine")
    assert server.take() == f.query("other")
    assert client.client.closed and r.reasons == []


@pytest.mark.parametrize("how", ["half-close", "close"])
@pytest.mark.parametrize("name", CUT)
def test_who_leaves_in_the_middle_of_a_message_is_out_at_once(relay, name, how):
    r = relay()
    server, client = waiting(r, CUT[name])
    client.half_close() if how == "half-close" else client.close()
    assert client.client.closed and r.pool.waiting.count == 0
    assert (r.door.departed, r.pool.departed) == (0, {})
    server.answer("held")
    assert server.take() == f.query("hold")
    assert r.reasons == []


def test_who_has_gone_without_a_goodbye_is_out_at_once(relay):
    r = relay()
    server, client = waiting(r, f.query("select marker"))
    client.close()
    assert client.client.closed and r.pool.waiting.count == 0
    server.answer("held")
    assert server.take() == f.query("hold")


def test_who_has_departed_is_served_and_is_forgotten_when_it_is_served(relay):
    r = relay()
    server, client = waiting(r, f.query("mine"))
    client.half_close()
    server.answer("held")
    assert server.take() == f.query("hold") + f.query("mine")
    server.answer("mine")
    assert f.rows(client.take()) == [b"mine"]
    assert client.ended and client.client.closed
    assert (r.door.departed, r.pool.departed) == (0, {})
    assert r.reasons == []


def test_end_is_noticed_of_a_client_that_was_already_not_read(relay):
    """What it sent more while it waited was an event, after which none was heard."""
    r = relay()
    server, client = waiting(r, f.query("one"))
    client.send(f.query("two"))
    client.send(f.query("three"))
    assert not client.client.departed
    client.half_close()
    assert client.client.departed
    server.take()
    server.answer("held")
    assert server.take() == f.query("one") + f.query("two") + f.query("three")
    for text in ("one", "two", "three"):
        server.answer(text)
    assert f.rows(client.take()) == [b"one", b"two", b"three"]


def test_nobody_is_heard_twice(relay):
    """An event that is not masked comes again in each round, for ever."""
    r = relay()
    _, client = waiting(r, f.query("one"))
    client.half_close()
    before = r.poller.rounds
    client.turn()
    assert r.poller.rounds - before < 3


# Limits


def counted(r: Relay, client) -> tuple:
    """Let *client* count for a database and a user, as after a login."""
    database, user = Counts(), Counts()
    client.client.counted_database, client.client.counted_user = database, user
    database.client_count = user.client_count = 1
    return r.door, database, user


LEAVING = {
    "Terminate while it runs": (True, lambda c: c.send(f.TERMINATE)),
    "half-close while it runs": (True, lambda c: c.half_close()),
    "both while it runs": (True, lambda c: (c.send(f.TERMINATE), c.half_close())),
    "half-close while it waits": (False, lambda c: c.half_close()),
    "Terminate while it waits": (False, lambda c: (c.queue(f.TERMINATE), c.close())),
}


@pytest.mark.parametrize("way", LEAVING)
def test_who_has_said_goodbye_counts_for_no_limit(relay, way):
    """It did for max_db_client_connections and max_user_client_connections; who ran,
    for max_client_conn as well. Nobody could log in while such were served."""
    runs, leave = LEAVING[way]
    r = relay()
    if runs:
        client = r.client()
        client.send(f.query("mine"))
    else:
        _, client = waiting(r, f.query("mine"))
    counts = counted(r, client)
    leave(client)
    assert not client.client.closed and client.client.departed
    assert [one.departed for one in counts] == [1, 1, 1]
    assert [one.client_count for one in counts[1:]] == [1, 1]
    server = r.servers[0]
    if not runs:
        server.answer("held")
    server.take()
    server.answer("mine")
    assert client.client.closed
    assert [one.departed for one in counts] == [0, 0, 0]
    assert [one.client_count for one in counts[1:]] == [0, 0]


@pytest.mark.parametrize("way", LEAVING)
def test_who_is_cut_off_behind_a_goodbye_is_not_counted_either(relay, way):
    runs, leave = LEAVING[way]
    r = relay()
    if runs:
        client = r.client()
        client.send(f.query("mine"))
    else:
        _, client = waiting(r, f.query("mine"))
    counts = counted(r, client)
    leave(client)
    client.client.disconnect("query_timeout", False)
    assert [one.departed for one in counts] == [0, 0, 0]
    assert [one.client_count for one in counts[1:]] == [0, 0]


def test_goodbye_with_nothing_owed_is_over_at_once(relay):
    r = relay()
    client = r.client()
    counts = counted(r, client)
    client.send(f.TERMINATE)
    assert client.client.closed
    assert [one.departed for one in counts] == [0, 0, 0]
