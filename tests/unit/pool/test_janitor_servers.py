"""What time brings about for servers: whom each timeout ends, and whom it spares."""

from typing import Any

import pytest

from tests.unit.pool.keeping import SECOND
from tests.unit.pool.upkeep import A_MOMENT, BEGUN, World, ends_at, stays

# Servers in use


def test_query_timeout_ends_a_query_that_is_not_answered() -> None:
    world = World(query_timeout=10)
    _, server = world.pair(owed_count=1, in_transaction=True)
    assert ends_at(world, server, 10) == "query timeout"
    assert server.ended == ("query timeout", True, True)


def test_query_timeout_counts_from_what_the_client_sent_last() -> None:
    world = World(query_timeout=10)
    client, server = world.pair(owed_count=1)
    world.round(9)
    client.received_at = world.now
    assert ends_at(world, server, 10)


def test_query_timeout_ends_a_unit_without_its_sync_that_is_answered() -> None:
    world = World(query_timeout=10)
    _, server = world.pair(query_start=BEGUN)
    assert ends_at(world, server, 10) == "query timeout"


@pytest.mark.parametrize(
    "state",
    [
        {"in_transaction": True},
        {"is_ready": True, "owed_count": 1},
    ],
)
def test_query_timeout_spares_servers_without_a_query(state: dict[str, Any]) -> None:
    world = World(query_timeout=10)
    _, server = world.pair(**state)
    assert stays(world, server)


def test_timeouts_spare_servers_that_are_asked_by_us() -> None:
    """A server in use without a client: an auth_query, a probe."""
    world = World(query_timeout=10, idle_transaction_timeout=10)
    server = world.server("active", owed_count=1, in_transaction=True)
    assert stays(world, server)


def test_idle_transaction_timeout_ends_a_transaction_in_which_nothing_happens() -> None:
    world = World(idle_transaction_timeout=10)
    _, server = world.pair(in_transaction=True)
    assert ends_at(world, server, 10) == "idle transaction timeout"
    assert server.ended == ("idle transaction timeout", True, True)


@pytest.mark.parametrize(
    "state",
    [
        {"in_transaction": True, "owed_count": 1},
        {"in_transaction": False},
        {"in_transaction": True, "is_ready": True},
    ],
)
def test_idle_transaction_timeout_spares_queries_and_who_has_no_transaction(
    state: dict[str, Any],
) -> None:
    world = World(idle_transaction_timeout=10)
    _, server = world.pair(**state)
    assert stays(world, server)


def test_idle_transaction_timeout_counts_from_what_the_server_sent_last() -> None:
    world = World(idle_transaction_timeout=10)
    _, server = world.pair(in_transaction=True)
    world.round(9)
    server.received_at = world.now
    assert ends_at(world, server, 10)


def test_transaction_timeout_ends_transactions_however_busy() -> None:
    world = World(transaction_timeout=10)
    client, server = world.pair(transaction_start=BEGUN, owed_count=1)
    world.round(9)
    client.received_at = server.received_at = world.now
    assert ends_at(world, server, 1) == "transaction timeout"


@pytest.mark.parametrize("state", [{}, {"transaction_start": BEGUN, "is_ready": True}])
def test_transaction_timeout_spares_who_is_between_transactions(
    state: dict[str, Any],
) -> None:
    world = World(transaction_timeout=10)
    _, server = world.pair(**state)
    assert stays(world, server)


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("query_timeout", {"owed_count": 1}),
        ("idle_transaction_timeout", {"in_transaction": True}),
        ("transaction_timeout", {"transaction_start": BEGUN}),
    ],
)
def test_timeout_of_the_pools_user_is_his_own(name: str, state: dict[str, Any]) -> None:
    for general, own in ((20, 10), (10, 20), (0, 10)):
        world = World(user={name: own}, **{name: general})
        _, server = world.pair(**state)
        assert ends_at(world, server, own) == name.replace("_", " ")


def test_without_timeouts_nobody_in_use_is_ended() -> None:
    world = World()
    _, server = world.pair(
        owed_count=1, in_transaction=True, query_start=BEGUN, transaction_start=BEGUN
    )
    assert stays(world, server)


# Servers in use, of an entry that has changed

CHANGED = ("database configuration changed", True, True)


@pytest.mark.parametrize(
    ("fast", "state", "closed"),
    [
        (False, {}, False),
        (False, {"is_ready": True}, False),
        (True, {"is_ready": True}, True),
        (True, {"in_transaction": True}, False),
        (False, {"replication": 1}, True),
    ],
)
def test_server_of_a_changed_entry_is_closed_in_use_only_if_nothing_is_lost(
    fast: bool, state: dict[str, Any], closed: bool
) -> None:
    world = World(server_fast_close=fast)
    world.pool.flagged = True
    _, server = world.pair(close_needed=True, **state)
    _, other = world.pair(**state)
    world.round()
    assert server.ended == (CHANGED if closed else None)
    assert other.ended is None
    # While it is there it is looked at.
    assert world.pool.flagged
    world.round()
    assert world.pool.flagged == (not closed)


# Servers not in use


@pytest.mark.parametrize("line", ["idle", "used", "tested"])
def test_server_idle_timeout_ends_servers_that_nobody_uses(line: str) -> None:
    """A health check that hangs stayed for ever, and no test noticed."""
    world = World(server_idle_timeout=10, server_check_delay=100)
    world.client()
    server = world.server(line)
    assert ends_at(world, server, 10) == "server idle timeout"
    assert server.ended == ("server idle timeout", True, False)


def test_server_idle_timeout_spares_min_pool_size_and_who_is_in_use() -> None:
    world = World({"min_pool_size": 3}, server_idle_timeout=10, server_check_delay=100)
    _, busy = world.pair(in_transaction=True)
    idle = [world.server() for _ in range(3)]
    world.round(11)
    assert [server.reason for server in idle] == ["server idle timeout", "", ""]
    assert busy.ended is None
    assert stays(world, idle[1])


def test_server_idle_timeout_zero_spares_everybody() -> None:
    world = World(server_check_delay=10**9)
    assert stays(world, world.server())


@pytest.mark.parametrize(
    ("line", "ends"), [("idle", True), ("used", True), ("tested", False)]
)
def test_server_lifetime_ends_servers_that_nobody_uses(line: str, ends: bool) -> None:
    world = World()
    world.pool.lifetime_us = 10 * SECOND
    server = world.server(line)
    world.round(10 - A_MOMENT)
    assert server.ended is None
    world.round(A_MOMENT)
    assert server.ended == (("server lifetime over", True, False) if ends else None)


def test_server_lifetime_spares_who_is_in_use_and_who_must_wait_his_turn() -> None:
    world = World(server_check_delay=10**9)
    world.pool.lifetime_us = 10 * SECOND
    _, busy = world.pair(in_transaction=True)
    idle = world.server()
    world.keeper.lifetimes_over = False
    world.round(100)
    assert (busy.ended, idle.ended) == (None, None)
    world.keeper.lifetimes_over = True
    world.round()
    assert (busy.reason, idle.reason) == ("", "server lifetime over")


@pytest.mark.parametrize(
    ("line", "state", "blocked", "reason"),
    [
        ("idle", {"clean": False}, False, "SV_IDLE server got dirty"),
        ("used", {"clean": False}, False, "SV_USED server got dirty"),
        ("idle", {"close_needed": True}, False, "database configuration changed"),
        ("used", {"close_needed": True}, False, "database configuration changed"),
        ("idle", {}, True, "pause mode"),
        ("used", {}, True, "pause mode"),
        ("idle", {}, False, ""),
        ("used", {}, False, ""),
        # It is asked something: that ends first.
        ("tested", {"clean": False}, False, ""),
        ("tested", {"close_needed": True}, False, ""),
        ("tested", {}, True, ""),
    ],
)
def test_server_that_nobody_uses_is_closed_when_it_is_of_no_use(
    line: str, state: dict[str, Any], blocked: bool, reason: str
) -> None:
    world = World()
    world.pool.blocked = blocked
    server = world.server(line, **state)
    world.round()
    assert server.reason == reason
    if reason:
        assert server.ended == (reason, True, False)


def test_server_check_delay_parks_idle_servers_before_their_next_use() -> None:
    world = World(server_check_delay=10)
    server = world.server()
    world.round(10)
    assert world.pool.idle == [server]
    world.round(A_MOMENT)
    assert (world.pool.idle, world.pool.used) == ([], [server])


def test_server_check_delay_parks_nobody_without_a_check() -> None:
    world = World(server_check_delay=10)
    world.app.checks_servers = False
    server = world.server()
    world.round(100)
    assert world.pool.idle == [server]


# Servers that log in


def test_server_connect_timeout_ends_logins_oldest_first_and_says_how_far() -> None:
    world = World(server_connect_timeout=10)
    mute = world.server("login")
    slow = world.server("login")
    slow.received_at += 1
    world.now += 4 * SECOND
    late = world.server("login")
    assert ends_at(world, mute, 6) == "connect timeout"
    assert slow.ended == ("connect timeout", True, False)
    assert late.ended is None
    assert world.keeper.failed == [
        (mute, "connect timeout", "no answer within server_connect_timeout"),
        (slow, "connect timeout", "login not finished within server_connect_timeout"),
    ]


def test_server_connect_timeout_zero_waits_for_ever() -> None:
    world = World()
    assert stays(world, world.server("login"))


# The size of a pool


@pytest.mark.parametrize(
    ("size", "reserve", "closed"),
    [(0, 0, 0), (1, 0, 3), (1, 1, 2), (1, 2, 1), (4, 0, 0)],
)
def test_pool_that_is_too_large_closes_parked_servers_then_idle_ones(
    size: int, reserve: int, closed: int
) -> None:
    entry = {"pool_size": size, "reserve_pool_size": reserve}
    world = World(entry, server_check_delay=10**9)
    _, busy = world.pair(in_transaction=True)
    servers = [world.server("used"), world.server(), world.server()]
    world.round()
    # The last of a line is the one that was not used for longest.
    order = [servers[0], servers[2], servers[1]]
    assert [server for server in order if server.ended] == order[:closed]
    assert {server.reason for server in order[:closed]} <= {
        "too many servers in the pool"
    }
    assert busy.ended is None


def test_pool_that_is_too_large_for_cancel_requests_closes_nothing() -> None:
    world = World({"pool_size": 1}, server_check_delay=10**9)
    world.pool.cancels = [object()]
    servers = [world.server(), world.server()]
    world.round()
    assert [server.ended for server in servers] == [None, None]


@pytest.mark.parametrize(
    ("login", "waiting", "asked"), [(2, 0, True), (2, 1, False), (0, 0, False)]
)
def test_logins_that_are_too_many_are_ended_unless_somebody_waits(
    login: int, waiting: int, asked: bool
) -> None:
    world = World({"pool_size": 1}, server_check_delay=10**9)
    for _ in range(2):
        world.pair(in_transaction=True)
    for _ in range(login):
        world.server("login")
    for _ in range(waiting):
        world.client("waiting")
    world.round()
    assert ("drop_extra" in world.keeper.asked) == asked


OPENS = "open_if_allowed evict=False"


@pytest.mark.parametrize(
    ("entry", "clients", "servers", "opens"),
    [
        ({"min_pool_size": 2}, 1, 1, True),
        ({"min_pool_size": 2}, 1, 2, False),
        # Nobody has come: kept warm only where it is known who asks.
        ({"min_pool_size": 2}, 0, 1, False),
        ({"min_pool_size": 2, "user": "ann"}, 0, 0, True),
        ({"min_pool_size": 2, "pool_size": 1}, 1, 1, False),
        ({"min_pool_size": 2, "pool_size": 0}, 1, 1, True),
        ({}, 1, 0, False),
    ],
)
def test_min_pool_size_opens_servers_one_in_a_round(
    entry: dict[str, Any], clients: int, servers: int, opens: bool
) -> None:
    world = World(entry, server_check_delay=10**9)
    for _ in range(clients):
        world.client()
    for _ in range(servers):
        world.server()
    world.round()
    assert world.keeper.asked == ([OPENS] if opens else [])
    world.pool.blocked = True
    world.keeper.asked.clear()
    world.janitor.sizes(world.pool, world.now)
    assert world.keeper.asked == []


@pytest.mark.parametrize(
    ("auto", "reached", "servers", "opens"),
    [(False, False, 0, True), (True, False, 0, False), (True, True, 0, True),
     (True, False, 1, True)],
)  # fmt: skip
def test_min_pool_size_is_for_databases_that_are_there(
    auto: bool, reached: bool, servers: int, opens: bool
) -> None:
    """What an automatic one is called, anybody can make up."""
    world = World({"min_pool_size": 2, "user": "ann"}, auto=auto)
    world.pool.reached = reached
    for _ in range(servers):
        world.server()
    world.round()
    assert (OPENS in world.keeper.asked) == opens
