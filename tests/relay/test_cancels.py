"""A cancel request must never strike the query of another client."""

from types import SimpleNamespace

import pytest

from bouncer.pool.cancels import Cancels
from bouncer.pool.pools import ServerPool
from bouncer.relay.server import Server
from tests.relay import frames as f
from tests.relay.harness import Relay, ServerEnd, pair

KEY = b"\1\2\3\4\5\6\7\x08"


class Cancelling(Relay):
    """A relay whose clients can be cancelled."""

    def __init__(self):
        super().__init__()
        self.pool = ServerPool(
            self.poller,
            self.keeper,
            SimpleNamespace(name="db"),
            SimpleNamespace(name="user"),
        )
        self.pool.mode, self.pool.max_prepared = 1, 200
        self.settings = SimpleNamespace(peer_id=0)
        self.keeper.open_if_allowed = lambda pool: None
        self.cancels = Cancels(self, self.keeper)

    def ask_cancel(self, target):
        """Another connection brings a CancelRequest for *target*."""
        target.client.cancel_key = KEY
        self.door.keys[KEY] = target.client
        asker = self.client()
        asker.client.pool = None
        self.cancels.request(asker.client, KEY)
        return asker

    def connect(self):
        """A connection for the request has been made."""
        ours, theirs = pair()
        server = Server(self.poller, ours, self, self.pool)
        server.address_text = "fake"
        server.watch(True)
        server.talk_phase()
        self.pool.push_login(server)
        used = self.cancels.use_connection(server)
        end = ServerEnd(theirs, self.turn, server)
        self.servers.append(end)
        self.turn()
        return end if used else None

    def client_gone(self, client):
        self.cancels.client_gone(client)

    def server_gone(self, server, reason):
        if server.state_name == "active_cancel":
            self.cancels.connection_gone(server)
        super().server_gone(server, reason)


@pytest.fixture
def cancelling():
    one = Cancelling()
    yield one
    one.close()


def busy(r):
    client, server = r.client(), r.server()
    server.server.cancel_key = b"serverky"
    client.send(f.query("long"))
    assert server.take() == f.query("long")
    return client, server


def test_server_waits_for_the_end_of_its_cancel(cancelling):
    r = cancelling
    client, server = busy(r)
    asker = r.ask_cancel(client)
    carrier = r.connect()
    assert carrier.take() == b"\0\0\0\x10\x04\xd2\x16\x2eserverky"
    # The query ends by itself: the cancel may still come.
    server.answer("done")
    assert f.rows(client.take()) == [b"done"]
    other = r.client()
    r.size = 0
    other.send(f.query("other"))
    assert server.server.state_name == "being_canceled"
    assert server.take() == b""
    carrier.close()  # PostgreSQL has sent the signal
    assert server.take() == f.query("other")
    assert asker.client.closed
    assert r.reasons == ["successfully sent cancel request"]


def test_cancel_that_may_still_strike_costs_the_server(cancelling):
    """Whoever asked gave up, we closed the connection, and gave the server to the
    next client, whose query the signal then hit.
    """
    r = cancelling
    client, server = busy(r)
    asker = r.ask_cancel(client)
    carrier = r.connect()
    assert carrier.take()
    asker.close()
    assert carrier.server.closed
    other = r.client()
    other.send(f.query("other"))
    server.answer("done")
    assert f.rows(client.take()) == [b"done"]
    assert r.reasons[-1] == "close_needed"
    assert b"other" not in server.take()
    assert r.servers[-1].take() == f.query("other")


def test_cancel_of_a_query_that_is_over_is_not_sent(cancelling):
    r = cancelling
    client, server = busy(r)
    asker = r.ask_cancel(client)
    server.answer("done")
    assert r.connect() is None
    assert asker.client.closed
    assert server.server.clean


def test_client_leaves_while_its_query_is_cancelled(cancelling):
    r = cancelling
    client, server = busy(r)
    r.ask_cancel(client)
    carrier = r.connect()
    client.close()
    assert not client.client.closed  # its query is run to the end
    server.answer("for nobody")
    assert client.client.closed
    assert server.server.state_name == "being_canceled"
    carrier.close()
    assert server.server.closed or server.server.state_name == "idle"


def test_server_dies_while_it_is_cancelled(cancelling):
    r = cancelling
    client, server = busy(r)
    r.ask_cancel(client)
    carrier = r.connect()
    server.close()
    carrier.close()
    assert r.pool.server_count == 0
    assert f.errors(client.take()) == ["server conn crashed?"]


# A client that waits for a server


UNIT = [f.parse("", "a"), f.bind(""), f.execute(), f.SYNC]
ERROR = "canceling statement due to user request"


@pytest.mark.parametrize(
    ("unit", "now", "later"),
    [
        ([f.query("a")], "EZ", ""),
        ([f.query("x" * 200_000)], "EZ", ""),
        (UNIT, "EZ", ""),
        ([f.parse("s", "a"), f.describe("s")], "E", "Z"),
        ([f.SYNC], "EZ", ""),
    ],
    ids=["query", "large query", "unit", "unit without its Sync", "Sync"],
)
def test_cancel_of_a_waiting_client_refuses_one_unit(relay, unit, now, later):
    """It was ignored, as in PgBouncer: psql hung until query_wait_timeout."""
    r = relay(size=0)
    client = r.client()
    client.send(*unit)
    assert client.client.state_name == "waiting"
    assert client.client.cancel_wait()
    got = client.take()
    assert (f.codes(got), f.errors(got)) == (now, [ERROR])
    if later:
        client.send(f.bind("s"), f.execute(), f.SYNC)
        assert client.codes() == later
    assert client.client.state_name == "idle"
    assert not client.client.cancel_wait()
    r.size = 1
    client.send(f.query("next"))
    server = r.servers[0]
    assert server.take() == f.query("next")
    server.answer("next")
    assert f.rows(client.take()) == [b"next"]


def test_cancel_of_a_waiting_client_refuses_its_message_also_byte_by_byte(relay):
    r = relay(size=0)
    client = r.client()
    whole = f.query("long enough") + b"".join(UNIT)
    client.send(whole[:8])
    assert client.client.cancel_wait()
    assert f.errors(client.take()) == [ERROR]
    client.drip(whole[8 : len(f.query("long enough"))])
    assert client.take() == b""
    assert client.client.state_name == "idle"
    r.size = 1
    client.send(b"".join(UNIT))
    assert r.servers[0].take() == b"".join(UNIT)


def test_cancel_is_not_sent_while_parameters_are_set(cancelling):
    """The query it was for is over; it would strike the SET before the next."""
    r = cancelling
    client, server = busy(r)
    asker = r.ask_cancel(client)
    server.answer("done")
    other = r.client(TimeZone="Asia/Tokyo")
    other.send(f.query("b"))
    server.take()
    server.send(
        f.parameter_status("TimeZone", "Asia/Tokyo"), f.complete("SET"), f.ready()
    )
    server.answer("b")
    server.take()
    client.send(f.query("next"))
    assert server.server.is_asked_by_us
    assert r.connect() is None
    assert asker.client.closed


def at_setting(r):
    """A client has asked, and its server is being told its values first."""
    client = r.client(TimeZone="Asia/Tokyo")
    client.send(f.query("long"))
    server = r.servers[0]
    server.server.cancel_key = b"serverky"
    assert b"SET TimeZone" in server.take()
    return client, server


SET = (f.parameter_status("TimeZone", "Asia/Tokyo"), f.complete("SET"), f.ready())


def test_cancel_while_parameters_are_set_waits_for_its_query(cancelling):
    """It was thrown away: who cancelled soon after asking waited for the answer."""
    r = cancelling
    client, server = at_setting(r)
    asker = r.ask_cancel(client)
    assert not asker.client.closed
    assert not r.pool.cancels
    server.send(*SET)
    assert server.take() == f.query("long")
    carrier = r.connect()
    assert carrier.take() == b"\0\0\0\x10\x04\xd2\x16\x2eserverky"
    carrier.close()
    assert asker.client.closed


def test_cancel_that_waited_is_not_sent_when_its_query_is_over(cancelling):
    r = cancelling
    client, server = at_setting(r)
    asker = r.ask_cancel(client)
    server.send(*SET)
    server.answer("done")
    assert r.connect() is None
    assert asker.client.closed
    assert server.server.clean


def test_cancel_that_waits_ends_with_its_client(cancelling):
    r = cancelling
    client, _ = at_setting(r)
    asker = r.ask_cancel(client)
    client.client.disconnect("gone")
    assert asker.client.closed


def test_cancel_that_waits_ends_with_its_server(cancelling):
    r = cancelling
    client, server = at_setting(r)
    asker = r.ask_cancel(client)
    server.close()
    assert client.client.closed
    assert asker.client.closed


def test_cancel_that_waited_ends_the_wait_for_another_server(cancelling):
    """The SETs have failed for reasons of the server's: its client gets another one."""
    r = cancelling
    client, server = at_setting(r)
    asker = r.ask_cancel(client)
    r.opens_at_once = False
    server.send(f.error("57014", "no"), f.ready())
    assert f.codes(client.take()) == "EZ"
    assert asker.client.closed
    assert not client.client.closed


def test_who_asked_may_go_while_the_cancel_waits(cancelling):
    r = cancelling
    client, server = at_setting(r)
    r.ask_cancel(client).client.disconnect("gone", False)
    server.send(*SET)
    assert server.take() == f.query("long")
    assert not r.pool.cancels
    assert not r.cancels.asked
    assert not r.cancels.kept


def test_cancel_waits_while_a_server_is_asked_what_was_set(cancelling):
    """It struck the question, which cost the server."""
    r = cancelling
    r.pool.learn_query = b"question"
    client, server = busy(r)
    server.send(f.complete("SET"), f.ready())
    assert server.take() == f.query("question")
    client.take()
    r.ask_cancel(client)
    assert not r.pool.cancels  # it has asked nothing since
    server.send(f.complete("SELECT"), f.ready())
    assert r.reasons == []
    assert server.server.clean
