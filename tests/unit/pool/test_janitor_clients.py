"""What time brings about for clients, pools, databases: whom it ends, and spares."""

from types import SimpleNamespace
from typing import Any

import pytest

from bouncer.pool import janitor as module
from bouncer.pool.keeper import WAIT_AUTH, WAIT_QUERY, WAIT_WELCOME
from tests.unit.pool.keeping import SECOND
from tests.unit.pool.upkeep import A_MOMENT, BEGUN, World, ends_at, stays

# Clients


def test_client_idle_timeout_ends_clients_that_send_nothing() -> None:
    world = World(client_idle_timeout=10)
    client = world.client()
    assert ends_at(world, client, 10) == "client_idle_timeout"
    assert client.ended == ("client_idle_timeout", True)


def test_client_idle_timeout_spares_who_is_in_the_middle_of_something() -> None:
    """It cut clients in the middle of a query, and no test noticed."""
    world = World(client_idle_timeout=10)
    busy, _ = world.pair(query_start=BEGUN)
    console = world.client(on_console=True)
    queued = world.client("waiting")
    idle = world.client()
    world.round(100_000)
    assert [one.reason for one in (busy, console, queued)] == ["", "", ""]
    # One that is spared keeps nobody behind it from being looked at.
    assert idle.reason == "client_idle_timeout"


def test_client_idle_timeout_counts_from_what_the_client_sent_last() -> None:
    world = World(client_idle_timeout=10)
    client = world.client()
    world.round(9)
    client.received_at = world.now
    assert ends_at(world, client, 10)


@pytest.mark.parametrize(
    ("general", "own", "ends"), [(10, 20, 20), (20, 10, 10), (0, 10, 10)]
)
def test_client_idle_timeout_of_a_user_is_his_own(
    general: int, own: int, ends: int
) -> None:
    world = World(user={"client_idle_timeout": own}, client_idle_timeout=general)
    assert ends_at(world, world.client(), ends) == "client_idle_timeout"


def test_client_idle_timeout_zero_spares_everybody() -> None:
    world = World()
    assert stays(world, world.client())


# Clients that wait


def test_query_wait_timeout_ends_clients_that_wait_for_a_server() -> None:
    world = World(query_wait_timeout=10)
    client = world.client("waiting")
    assert ends_at(world, client, 10) == "query_wait_timeout"


def test_query_wait_timeout_counts_from_the_query() -> None:
    world = World(query_wait_timeout=10)
    client = world.client("waiting", query_start=BEGUN)
    world.round(4)
    # Put back into the queue: it goes on waiting for the same.
    client.wait_start = world.now
    assert ends_at(world, client, 6) == "query_wait_timeout"


def test_query_wait_timeout_spares_clients_that_do_not_wait() -> None:
    world = World(query_wait_timeout=10)
    idle = world.client()
    busy, server = world.pair(query_start=BEGUN, owed_count=1)
    world.round(100_000)
    assert (idle.ended, busy.ended, server.ended) == (None, None, None)


def test_query_timeout_ends_clients_that_wait_as_well() -> None:
    world = World(query_timeout=10, query_wait_timeout=20)
    assert ends_at(world, world.client("waiting"), 10) == "query_timeout"


def test_waiting_without_timeouts_is_for_ever() -> None:
    world = World()
    assert stays(world, world.client("waiting"))
    assert "look_at_queue" in world.keeper.asked
    assert "wants_server" in world.keeper.asked


@pytest.mark.parametrize(
    ("kind", "ends"), [(WAIT_WELCOME, True), (WAIT_QUERY, False), (WAIT_AUTH, False)]
)
def test_client_login_timeout_ends_a_login_that_waits_for_a_first_server(
    kind: int, ends: bool
) -> None:
    world = World(client_login_timeout=10)
    client = world.client("waiting", wait_kind=kind)
    if not ends:
        assert stays(world, client)
        return
    world.round(4)
    client.wait_start = world.now
    assert ends_at(world, client, 6) == "client_login_timeout (server down)"


def test_query_wait_notify_tells_once_that_a_client_is_queued() -> None:
    world = World(query_wait_notify=5)
    client = world.client("waiting")
    world.round(5.9)
    assert client.written == b""
    world.round(0.1)
    assert client.written[:1] == b"N" and b"being queued" in client.written
    told = client.written
    world.round(100)
    assert (client.written, client.ended) == (told, None)


@pytest.mark.parametrize(
    "state", [{"wait_kind": WAIT_WELCOME}, {"wait_kind": WAIT_AUTH}, {"departed": True}]
)
def test_query_wait_notify_spares_logins_and_who_has_said_goodbye(
    state: dict[str, Any],
) -> None:
    world = World(query_wait_notify=5)
    client = world.client("waiting", **state)
    assert stays(world, client)
    assert client.written == b""


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        (None, ""),
        ("wait_for_servers", "server shutting down"),
        ("wait_for_clients", ""),
    ],
)
def test_shutdown_for_servers_ends_the_queue_at_once(
    mode: str | None, reason: str
) -> None:
    world = World()
    world.app.shutdown_mode = mode
    waiting = [world.client("waiting") for _ in range(2)]
    idle = world.client()
    world.round()
    assert [client.reason for client in waiting] == [reason] * 2
    assert idle.ended is None


def test_cancel_wait_timeout_ends_cancel_requests_without_a_word() -> None:
    world = World(cancel_wait_timeout=10)
    client = world.client("cancel_waiting")
    world.now += 4 * SECOND
    later = world.client("cancel_waiting")
    assert ends_at(world, client, 6) == "cancel_wait_timeout"
    assert client.ended == ("cancel_wait_timeout", False)
    assert later.ended is None
    assert ends_at(world, later, 4 - A_MOMENT) == "cancel_wait_timeout"


def test_cancel_wait_timeout_zero_waits_for_ever() -> None:
    world = World()
    assert stays(world, world.client("cancel_waiting"))


def test_requests_for_a_peer_have_their_timeouts_too() -> None:
    world = World(cancel_wait_timeout=10, server_connect_timeout=10)
    world.app.registry.awake = {}
    world.app.registry.peers = {
        1: SimpleNamespace(pool=None), 2: SimpleNamespace(pool=world.pool)
    }  # fmt: skip
    client, server = world.client("cancel_waiting"), world.server("login")
    assert ends_at(world, client, 10) == "cancel_wait_timeout"
    assert server.reason == "connect timeout"


# Logins


def test_client_login_timeout_ends_logins_oldest_first() -> None:
    world = World(client_login_timeout=10)
    first = world.newcomer()
    world.now += 4 * SECOND
    second = world.newcomer(in_handshake=True)
    assert ends_at(world, first, 6) == "client_login_timeout"
    assert second.ended is None
    assert ends_at(world, second, 4 - A_MOMENT) == "client_login_timeout"
    # Within a TLS handshake a message would be no message.
    assert (first.ended, second.ended) == (
        ("client_login_timeout", True), ("client_login_timeout", False)
    )  # fmt: skip


def test_client_login_timeout_spares_logins_that_wait_in_a_pool() -> None:
    """The pool looks after them; those behind them are looked at all the same."""
    world = World(client_login_timeout=10)
    waiting, other = world.newcomer(state=2), world.newcomer()
    world.round(11)
    assert (waiting.reason, other.reason) == ("", "client_login_timeout")


def test_client_login_timeout_zero_spares_everybody() -> None:
    world = World()
    assert stays(world, world.newcomer())


# Pools and databases that nobody uses


def test_pool_idle_timeout_drops_pools_that_nobody_uses() -> None:
    world = World(pool_idle_timeout=10)
    world.pool.idle_since = world.now
    world.round(10)
    assert world.dropped == []
    world.round(A_MOMENT)
    assert world.dropped == [world.pool]


@pytest.mark.parametrize("who", ["client", "server"])
def test_pool_idle_timeout_spares_who_is_in_use_and_begins_when_that_ends(
    who: str,
) -> None:
    world = World(pool_idle_timeout=10)
    one = world.client() if who == "client" else world.server()
    world.round(1000)
    one.line.clear()
    world.round(10)
    assert world.dropped == []
    world.round(A_MOMENT)
    assert world.dropped == [world.pool]


@pytest.mark.parametrize(
    ("entry", "spared"),
    [
        ({"user": "ann", "min_pool_size": 1}, True),
        ({"user": "ann"}, False),
        ({"min_pool_size": 1}, False),
    ],
)
def test_pool_idle_timeout_spares_pools_that_are_kept_warm(
    entry: dict[str, Any], spared: bool
) -> None:
    world = World(entry, pool_idle_timeout=10)
    world.round(1000)
    assert world.dropped == ([] if spared else [world.pool])


@pytest.mark.parametrize(
    ("auto", "used_by", "sleeps"),
    [
        (True, "nobody", True),
        (False, "nobody", False),
        (True, "client_count", False),
        (True, "server_count", False),
        (True, "a client of its pool", False),
        (True, "min_pool_size", False),
    ],
)
def test_automatic_database_that_nobody_uses_is_left_alone_from_then_on(
    auto: bool, used_by: str, sleeps: bool
) -> None:
    warm = {"min_pool_size": 1, "user": "ann"} if used_by == "min_pool_size" else {}
    world = World(warm, auto=auto)
    world.pool.reached = True
    if used_by.endswith("_count"):
        setattr(world.database, used_by, 1)
    elif used_by == "a client of its pool":
        world.client()
    world.round()
    assert world.slept == ([world.database] if sleeps else [])


# Rounds


def test_nobody_is_looked_after_during_a_suspend() -> None:
    """What is being handed over must not be closed."""
    world = World(client_idle_timeout=1, client_login_timeout=1)
    world.app.global_mode = "suspend"
    client, newcomer = world.client(), world.newcomer()
    assert stays(world, client) and newcomer.ended is None
    world.app.global_mode = "pause"
    world.round()
    assert client.ended and newcomer.ended


def test_clients_of_the_console_have_no_timeouts_of_a_pool() -> None:
    world = World(client_idle_timeout=1)
    world.app.consoles = {"db": object()}
    assert stays(world, world.client())


def test_sleeping_database_is_looked_at_when_it_is_due() -> None:
    sleeping = {str(since): SimpleNamespace(idle_since=since) for since in (1, 2, 3, 4)}
    assert module.first(sleeping, 3) == [sleeping["1"], sleeping["2"]]
    assert module.first(sleeping, 1) == []
