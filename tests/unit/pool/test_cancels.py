"""Keys of cancel requests, and to whom one goes: policy, without sockets.

`tests/relay/test_cancels.py` has what happens on the wire.
"""

from types import SimpleNamespace
from typing import Any

import pytest

from bouncer.config.settings import Peer
from bouncer.pool import cancels as module
from bouncer.pool.cancels import GAVE_UP, NOT_NEEDED, SENT, Cancels, new_key
from bouncer.pool.registry import PeerState
from bouncer.wire.messages import cancel_request
from tests.unit.pool.upkeep import Copied

RANDOM = b"\xff\xf1\xf2\xf3\xf4\xf5\xf6\xf0"
KEY = b"\1\2\3\4\5\6\7\x08"


class Stream:
    """As much of a client or a server as cancels look at."""

    def __init__(self, **state: Any) -> None:
        self.closed = False
        self.ended: tuple[Any, ...] | None = None
        self.written = b""
        vars(self).update(state)

    def disconnect(self, *told: Any) -> None:
        self.ended, self.closed = told, True

    def write(self, data: bytes) -> None:
        self.written += data


class Pool:
    """Where requests wait, and the connections that carry them."""

    def __init__(self, *names: Any) -> None:
        self.names = names
        self.cancels: list[Any] = []
        self.cancel_waiting, self.cancel_active = Copied(), Copied()
        self.active_cancel = Copied()
        self.peer: Any = None
        self.welcome: bytes | None = None
        self.flagged = False
        self.settled: list[Any] = []
        self.settle_again = self.settled.append

    def push_cancel_client(self, client: Stream, is_sent: bool) -> None:
        for line in (self.cancel_waiting, self.cancel_active):
            if client in line:
                line.remove(client)
        (self.cancel_active if is_sent else self.cancel_waiting).append(client)

    def push_cancel(self, server: Stream) -> None:
        self.active_cancel.append(server)

    def servers(self) -> list[Any]:
        return list(self.active_cancel)


class World:
    """The app and the keeper, as much of them as cancels need."""

    def __init__(self, peer_id: int = 0) -> None:
        self.opened: list[Any] = []
        self.reached: list[Any] = []
        self.unneeded: list[tuple[Any, str]] = []
        self.made: list[Any] = []
        keeper = SimpleNamespace(
            open_if_allowed=self.opened.append,
            reached=self.reached.append,
            not_needed=lambda server, why: self.unneeded.append((server, why)),
        )
        self.app = SimpleNamespace(
            settings=SimpleNamespace(peer_id=peer_id),
            poller=SimpleNamespace(now=77),
            door=SimpleNamespace(keys={}),
            consoles={},
            registry=SimpleNamespace(peers={}),
            make_pool=self.make_pool,
        )
        self.cancels = Cancels(self.app, keeper)  # type: ignore[arg-type]
        self.pool = Pool()

    def make_pool(self, database: Any, user: Any) -> Pool:
        self.made.append((database, user))
        return Pool()

    def target(self, key: bytes = KEY, **of_server: Any) -> Stream:
        """A client whose query a server answers, known by *key*."""
        server = Stream(
            **{
                "is_asked_by_us": False, "is_ready": False, "cancels": 0,
                "cancel_key": b"serverky", "pool": self.pool, "close_needed": False,
                "state_name": "active", "keeps_cancels": False,
            } | of_server
        )  # fmt: skip
        client = Stream(
            server=server, pool=self.pool, on_console=False, held_bytes=0,
            cancel_wait=lambda: False, database=SimpleNamespace(name="db"),
        )  # fmt: skip
        self.app.door.keys[key] = client
        return client

    def request(self, key: bytes = KEY) -> Stream:
        """Somebody brings *key*."""
        asker = Stream(pool=None, wait_start=0)
        self.cancels.request(asker, key)
        return asker

    def carrier(self, pool: Any = None) -> Stream:
        """A connection that has been made for a request."""
        return Stream(pool=pool or self.pool, cancel_for=None, state_name="login")

    def peer(self, number: int) -> PeerState:
        """Another process, to which requests may be handed on."""
        peer = PeerState(Peer(number, "h", pool_size=number))
        self.app.registry.peers[number] = peer
        return peer


# Keys


def test_key_of_a_pooler_without_peers_is_random_and_positive() -> None:
    """Drivers print the process number: it is a signed one."""
    assert new_key(RANDOM, 0) == b"\x7f" + RANDOM[1:]
    assert new_key(b"\0" * 8, -1) == b"\0" * 8


@pytest.mark.parametrize("peer_id", [1, 2, 127, 128, 255, 256, 258, 511, 4660, 65535])
def test_key_tells_its_process_and_that_it_is_new(peer_id: int) -> None:
    """A number above 255 was read from other bits than it was written to."""
    key = new_key(RANDOM, peer_id)
    assert int.from_bytes(key[1:3], "little") == peer_id
    assert key[0] == 0x7F and key[3:7] == RANDOM[3:7]
    assert key[7] & 3 == 3 and key[7] & ~3 == RANDOM[7] & ~3
    # Who made it finds it, however often it was passed on.
    world = World(peer_id)
    for hops in range(4):
        target = world.target(key)
        asker = world.request(key[:7] + bytes([key[7] - hops]))
        assert asker.pool is target.pool and not asker.ended


@pytest.mark.parametrize("number", [1, 256, 513, 65535])
def test_request_for_another_process_is_handed_on_to_that_one(number: int) -> None:
    world = World(peer_id=7)
    for other in (1, 2, 3, 255, 256, 513, 65535):
        world.peer(other)
    key = new_key(RANDOM, number)
    asker = world.request(key)
    peer = world.app.registry.peers[number]
    assert asker.pool is peer.pool and peer.pool.cancels == [asker]
    assert (peer.pool.peer, peer.pool.welcome) == (peer, b"")
    assert world.opened == [peer.pool]
    # One time less.
    server = world.carrier(peer.pool)
    assert world.cancels.use_connection(server)
    assert server.written == cancel_request(key[:7] + bytes([key[7] - 1]))
    # As many connections as its own entry allows, all in one pool.
    ((database, user),) = world.made
    assert (database.config.pool_size, user.name) == (number, "")
    world.request(key)
    assert len(world.made) == 1


@pytest.mark.parametrize(
    ("ttl", "number", "why"),
    [
        (0, 2, "failed to forward cancel request because its TTL was exhausted"),
        (1, 3, "could not find peer to forward request to"),
    ],
)
def test_request_that_cannot_be_handed_on_ends(ttl: int, number: int, why: str) -> None:
    world = World(peer_id=1)
    world.peer(2)
    key = new_key(RANDOM, number)
    asker = world.request(key[:7] + bytes([key[7] & ~3 | ttl]))
    assert asker.ended == (why, False)
    assert world.opened == []


# Whom it is for


def test_request_for_a_query_waits_for_a_connection() -> None:
    world = World()
    target = world.target()
    asker = world.request()
    assert (asker.pool, asker.wait_start, asker.ended) == (world.pool, 77, None)
    assert (world.pool.cancels, world.opened) == ([asker], [world.pool])
    assert world.pool.cancel_waiting == [asker]
    server = world.carrier()
    assert world.cancels.use_connection(server)
    assert server.written == cancel_request(b"serverky")
    assert target.server.cancels == 1 and world.reached == [server]
    assert world.pool.cancel_active == [asker] and world.pool.active_cancel == [server]
    assert world.opened == [world.pool]
    world.cancels.finished(server)
    assert server.ended == (SENT, False, False)
    assert asker.ended == (SENT, False)
    assert target.server.cancels == 0 and not target.server.close_needed


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (None, "failed cancel request"),
        ({"server": None}, "cancel request for idle client"),
        ({"server": None, "cancel_wait": lambda: True},
         "cancel request for waiting client"),
        ({"on_console": True}, "cancel request for console client"),
    ],
)  # fmt: skip
def test_request_for_nothing_is_answered_at_once(
    state: dict[str, Any] | None, why: str
) -> None:
    world = World()
    asked: list[Any] = []
    world.app.consoles["db"] = SimpleNamespace(cancel_requested=asked.append)
    if state is not None:
        target = world.target()
        vars(target).update(state)
        expected = [target] if state.get("on_console") else []
    else:
        expected = []
    asker = world.request()
    assert asker.ended == (why, False)
    assert asked == expected
    assert not (world.opened or world.pool.cancels)


@pytest.mark.parametrize(
    "state",
    [{"is_ready": True}, {"is_asked_by_us": True}, {"closed": True}, {"server": None}],
)
def test_request_whose_query_has_ended_meanwhile_is_not_sent(
    state: dict[str, Any],
) -> None:
    world = World()
    target = world.target()
    asker = world.request()
    if "server" in state:
        target.server = None
    else:
        vars(target if "closed" in state else target.server).update(state)
    server = world.carrier()
    assert not world.cancels.use_connection(server)
    why = "not sending cancel request for client that is now idle"
    assert asker.ended == (why, False)
    assert (server.written, world.unneeded) == (b"", [])


def test_each_request_has_a_connection_of_its_own() -> None:
    world = World()
    world.target()
    askers = [world.request(), world.request()]
    world.opened.clear()
    first, second = world.carrier(), world.carrier()
    assert world.cancels.use_connection(first)
    assert world.opened == [world.pool]
    assert world.cancels.use_connection(second)
    assert world.opened == [world.pool]
    assert [first.cancel_for, second.cancel_for] == askers


def test_connection_to_a_peer_that_nobody_needs_any_more_is_closed() -> None:
    world = World(peer_id=7)
    peer = world.peer(1)
    asker = world.request(new_key(RANDOM, 1))
    world.cancels.client_gone(asker)
    server = world.carrier(peer.pool)
    assert world.cancels.use_connection(server)
    assert world.unneeded == [(server, NOT_NEEDED)]


# Ends


@pytest.mark.parametrize("taken", [True, False])
def test_server_is_given_on_when_the_last_of_its_requests_has_ended(
    taken: bool,
) -> None:
    """After the first of two another client had a server that a cancel struck."""
    world = World()
    target = world.target()
    for _ in range(2):
        world.request()
    carriers = [world.carrier(), world.carrier()]
    for server in carriers:
        world.cancels.use_connection(server)
    busy = target.server
    busy.state_name = "being_canceled"
    end = world.cancels.finished if taken else world.cancels.connection_gone
    end(carriers[0])
    assert (busy.cancels, world.pool.settled) == (1, [])
    end(carriers[1])
    assert (busy.cancels, world.pool.settled) == (0, [busy])
    # What may still strike strikes nobody else.
    assert busy.close_needed == world.pool.flagged == (not taken)
    # Once is enough.
    end(carriers[1])
    assert (busy.cancels, world.pool.settled) == (0, [busy])


@pytest.mark.parametrize("state", [{"state_name": "active"}, {"closed": True}])
def test_server_that_is_not_kept_for_its_requests_is_left_where_it_is(
    state: dict[str, Any],
) -> None:
    world = World()
    target = world.target()
    world.request()
    server = world.carrier()
    world.cancels.use_connection(server)
    vars(target.server).update(state)
    world.cancels.connection_gone(server)
    assert world.pool.settled == []


def test_connection_that_breaks_tells_who_asked() -> None:
    world = World()
    world.target()
    asker = world.request()
    server = world.carrier()
    world.cancels.use_connection(server)
    world.cancels.connection_gone(server)
    assert asker.ended == ("failed to send cancel request", False)
    assert server.cancel_for is None


def test_request_whose_bringer_has_gone_is_forgotten() -> None:
    world = World()
    world.target()
    waiting, sent = world.request(), world.request()
    world.pool.cancels.remove(sent)
    world.pool.cancels.insert(0, sent)
    server = world.carrier()
    world.cancels.use_connection(server)
    assert server.cancel_for is sent
    world.cancels.client_gone(waiting)
    assert world.pool.cancels == [] and server.ended is None
    world.cancels.client_gone(sent)
    assert server.ended == (GAVE_UP, False, False) and server.cancel_for is None
    assert not world.cancels.asked
    # Who has asked nothing is nobody.
    world.cancels.client_gone(Stream(pool=world.pool))


def test_peer_that_is_dropped_takes_its_requests_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(module.log, "warning", lines.append)
    world = World(peer_id=7)
    peer, unused = world.peer(1), world.peer(2)
    waiting, sent = (world.request(new_key(RANDOM, 1)) for _ in range(2))
    server = world.carrier(peer.pool)
    world.cancels.use_connection(server)
    for one in (peer, unused):
        world.cancels.drop_peer(one)
    assert waiting.ended == sent.ended == ("peer removed", False)
    assert server.ended == ("peer removed", False, False)
    assert lines == ["dropping peer  as it does not exist anymore"] * 2


# Requests that come while a server answers a query of ours


@pytest.mark.parametrize(
    ("then", "why"),
    [
        ({"closed": True}, "failed cancel request"),
        ({"server": None}, "cancel request for idle client"),
        ({}, None),
    ],
)
def test_request_behind_a_query_of_ours_is_kept_until_that_is_answered(
    then: dict[str, Any], why: str | None
) -> None:
    world = World()
    target = world.target(is_asked_by_us=True)
    target.held_bytes = 10
    server = target.server
    asker = world.request()
    assert server.keeps_cancels and asker.ended is None
    assert (world.pool.cancels, world.opened) == ([], [])
    # Still asked by us: it is kept on.
    world.cancels.look_again(server)
    assert world.cancels.kept == {server: [asker]}
    server.is_asked_by_us = False
    vars(target).update(then)
    world.cancels.look_again(server)
    assert not world.cancels.kept
    if why is None:
        assert (world.pool.cancels, world.opened) == ([asker], [world.pool])
    else:
        assert asker.ended == (why, False)


def test_request_for_who_has_sent_nothing_but_our_query_is_ignored() -> None:
    world = World()
    world.target(is_asked_by_us=True)
    why = "ignoring cancel request for server that is setting vars"
    assert world.request().ended == (why, False)


def test_request_kept_for_who_has_gone_is_dropped() -> None:
    world = World()
    target = world.target(is_asked_by_us=True)
    target.held_bytes = 10
    asker = world.request()
    world.cancels.client_gone(asker)
    world.cancels.look_again(target.server)
    assert (world.pool.cancels, asker.ended) == ([], None)
