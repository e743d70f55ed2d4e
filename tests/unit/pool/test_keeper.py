"""What a pool does about its logins; on a clock that tests turn, without sockets."""

import errno
from types import SimpleNamespace

import pytest

from bouncer.config.settings import Database
from bouncer.errors import CANNOT_ANSWER, REFUSED
from bouncer.pool import keeper as keeper_module
from tests.unit.pool.keeping import PAUSE, SECOND, Login, Waiting, world_of


@pytest.fixture(autouse=True)
def no_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "Server", Login)


# Who sees a failure notes it


@pytest.mark.parametrize(
    ("reason", "is_failure"),
    [
        ("server conn crashed?", True),
        ("bad pkt header", True),
        ("internal error", True),
        ("connect string changed", False),
        ("pause mode", False),
        ("database removed", False),
        ("suspend_timeout", False),
        ("cancel connection was not needed", False),
        ("client disconnect while server was not ready", False),
    ],
)
def test_end_of_a_login_is_a_failure_only_if_the_server_made_it(
    reason: str, is_failure: bool
) -> None:
    world = world_of()
    world.wait()
    assert world.logins == "a"
    world.pool.login[0].disconnect(reason)
    assert world.pool.failed == is_failure
    assert world.pool.last_error == (reason if is_failure else "")
    world.turn()
    assert world.logins == ("" if is_failure else "a")
    assert not world.keeper.attempts.keys() - set(world.pool.login)


def test_end_of_a_server_that_has_logged_in_is_no_failed_login() -> None:
    world = world_of()
    world.wait()
    world.serve().disconnect("server conn crashed?")
    assert not world.pool.failed


def test_failure_of_what_was_under_way_at_a_renewal_says_nothing() -> None:
    world = world_of()
    world.wait()
    world.pool.forget_failures()
    world.fail()
    assert not world.pool.failed
    assert world.pool.last_error == ""
    world.turn()
    assert world.logins == "a"


def test_changed_entry_is_another_target() -> None:
    world = world_of()
    world.wait()
    world.fail()
    assert world.pool.failed
    world.pool.database.config = Database("db", "db", host="a", port=5433)
    assert not world.pool.failed


def test_lack_of_our_own_is_no_failure_of_the_host() -> None:
    world = world_of()
    world.wait()
    world.keeper.out_of_means(world.pool.login[0], errno.EMFILE)
    assert not world.pool.failed
    world.turn(0.1)
    assert world.logins == ""
    world.turn(0.3)
    assert world.logins == "a"


# Pauses


def test_each_target_is_tried_before_the_pause() -> None:
    world = world_of("a,b,c")
    client = world.wait()
    for host in "abc":
        assert world.logins == host
        assert not world.pool.failed
        world.fail()
        world.turn()
    assert world.pool.failed
    assert world.pool.evidence.failing_since > 0
    assert world.logins == ""
    world.turn(14.9)
    assert world.logins == ""
    world.turn(0.1)
    assert world.logins == "a"
    assert client.told is None


@pytest.mark.parametrize(
    ("reason", "flips"),
    [
        ("connect failed", True),
        ("connect timeout", True),
        ("server conn crashed?", False),
        ("server refused SSL", False),
    ],
)
def test_only_an_address_that_is_not_there_makes_room_for_the_other_kind(
    reason: str, flips: bool
) -> None:
    world = world_of()
    world.wait()
    address = world.pool.login[0].address = object()
    world.keeper.attempt_failed(world.pool.login[0], reason)
    assert world.flipped == ([address] if flips else [])


def test_nobody_is_refused_while_a_login_is_under_way() -> None:
    world = world_of()
    world.wait()
    world.fail()
    late = Waiting(world.pool, world.poller.now)
    assert not world.keeper.may_wait(world.pool, late)
    assert late.told is not None
    assert "cached error: connect failed" in late.told[1]
    world.poller.now += PAUSE
    later = Waiting(world.pool, world.poller.now)
    # It is he who makes it begin.
    assert world.keeper.may_wait(world.pool, later)
    assert world.logins == "a"
    assert world.keeper.may_wait(world.pool, Waiting(world.pool, 0))


# Refusals


@pytest.mark.parametrize(
    ("sqlstate", "kind", "pauses"),
    [
        ("3D000", REFUSED, False),
        ("28000", REFUSED, False),
        ("28P01", REFUSED, False),
        ("42501", REFUSED, False),
        ("55000", REFUSED, False),
        ("08P01", REFUSED, False),
        ("08P01", CANNOT_ANSWER, False),
        ("53300", CANNOT_ANSWER, False),
        ("57P03", REFUSED, True),
        ("57P01", REFUSED, True),
        ("53300", REFUSED, True),
        ("58000", REFUSED, True),
        ("XX000", REFUSED, True),
    ],
)
def test_refused_login_makes_nobody_wait_but_for_the_server(
    sqlstate: str, kind: str, pauses: bool
) -> None:
    world = world_of()
    world.pool.welcome = None
    client = world.wait()
    world.refuse(sqlstate, kind)
    assert (client.told is None) == (sqlstate == "57P03")
    if client.told:
        assert client.told == (sqlstate, "no")
    assert world.pool.failed == pauses
    assert world.pool.last_sqlstate == sqlstate
    world.turn()
    world.wait()
    assert world.logins == ("" if pauses else "a")


def test_server_that_is_full_is_one_target_of_several() -> None:
    """Who waited was told, though the other host was good."""
    world = world_of("a,b")
    client = world.wait()
    world.refuse("53300")
    assert client.told is None
    world.turn()
    assert world.logins == "b"
    world.refuse("53300")
    assert client.told == ("53300", "no")


def test_nobody_is_told_of_a_full_server_while_another_login_is_under_way() -> None:
    world = world_of(size=2)
    client = world.wait()
    world.turn(1)
    assert world.logins == "aa"
    world.refuse("53300")
    assert client.told is None
    world.refuse("53300")
    assert client.told == ("53300", "no")


def test_refused_login_is_not_repeated_for_nobody() -> None:
    """min_pool_size, a probe: three times a second for ever."""
    world = world_of()
    world.wait()
    world.refuse("28P01")
    assert not world.keeper.open_if_allowed(world.pool, evict=False)
    world.poller.now += PAUSE
    assert world.keeper.open_if_allowed(world.pool, evict=False)


def test_refused_login_is_not_repeated_while_servers_serve() -> None:
    world = world_of(size=2)
    world.wait()
    world.serve()
    client = world.wait()
    world.refuse("28P01")
    for _ in range(3):
        world.turn()
        assert world.logins == ""
    assert client.told is None
    # With the last server gone he gets an answer of his own.
    world.pool.active[0].disconnect("server conn crashed?")
    world.turn()
    assert world.logins == "a"
    world.refuse("28P01")
    assert client.told == ("28P01", "no")


# The welcome


@pytest.mark.parametrize(("told_to_go", "left", "forgets"), [
    (True, 0, True), (True, 1, False), (False, 0, False),
])  # fmt: skip
def test_welcome_goes_with_the_last_server_that_postgresql_ended(
    told_to_go: bool, left: int, forgets: bool
) -> None:
    world = world_of(size=2)
    for _ in range(1 + left):
        world.wait()
        server = world.serve()
    if told_to_go:
        world.keeper.told_to_go(server)
    server.disconnect("server conn crashed?")
    assert (world.pool.welcome is None) == forgets
    assert not world.keeper.ended


@pytest.mark.parametrize(
    ("sqlstate", "left", "forgets"),
    [("3D000", 0, True), ("3D000", 1, False), ("53300", 0, False)],
)
def test_welcome_goes_with_a_refusal_when_no_server_is_left(
    sqlstate: str, left: int, forgets: bool
) -> None:
    world = world_of(size=2)
    for _ in range(left):
        world.wait()
        world.serve()
    world.wait()
    world.refuse(sqlstate)
    assert (world.pool.welcome is None) == forgets


# Silence


def test_login_is_begun_beside_one_that_is_silent() -> None:
    world = world_of("a,b", load_balance_hosts="disable")
    world.wait()
    world.keeper.rounds += 3
    world.turn(0.9)
    assert world.logins == "a"
    world.turn(0.1)
    assert world.logins == "ab"
    world.keeper.rounds += 3
    world.turn(0.9)
    assert world.logins == "ab"


def test_login_is_not_silent_when_it_was_us_who_did_not_listen() -> None:
    """A machine that is busy elsewhere: the answer may be there, unread."""
    world = world_of(size=5)
    world.wait()
    world.poller.now += 9 * SECOND
    world.turn()
    assert world.logins == "a"
    world.turn(1)
    assert world.logins == "aa"


def test_login_that_speaks_is_not_silent() -> None:
    world = world_of(size=5)
    world.wait()
    for _ in range(5):
        world.pool.login[0].received_at = world.poller.now
        world.keeper.rounds += 3
        world.turn(0.9)
    assert world.logins == "a"


def test_silent_logins_of_one_target_do_not_grow_without_end() -> None:
    world = world_of(size=20)
    world.wait()
    for _ in range(20):
        world.turn(1)
    assert world.logins == "aaa"
    world = world_of("a,b,c,d,e", size=20)
    world.wait()
    for _ in range(20):
        world.turn(1)
    assert world.logins == "abcde"


def test_nothing_is_begun_for_a_silent_login_that_nobody_waits_for() -> None:
    world = world_of(size=5)
    client = world.wait()
    world.pool.waiting.remove(client)
    world.poller.now += 9 * SECOND
    assert not world.keeper.open_if_allowed(world.pool, evict=False)


@pytest.mark.parametrize("winner", [0, 1])
def test_pool_is_as_large_as_it_may_be_when_one_of_two_gets_through(
    winner: int,
) -> None:
    world = world_of("a,b")
    world.wait()
    world.turn(1)
    assert world.logins == "ab"
    both = list(world.pool.login)
    world.keeper.connected(both[winner])
    assert world.logins == ""
    assert world.pool.active == [both[winner]]
    assert both[1 - winner].reason == "login was not needed"
    assert not world.pool.failed
    # A target that was silent has not failed, but is passed over for a while.
    both[winner].disconnect("server conn crashed?")
    world.wait()
    assert world.logins == ("a", "b")[winner]


def test_silent_login_with_room_stays() -> None:
    world = world_of("a,b", size=2)
    world.wait()
    world.turn(1)
    both = list(world.pool.login)
    world.keeper.connected(both[1])
    assert world.pool.login == [both[0]]


# Other hosts


@pytest.mark.parametrize(
    ("after", "gone"),
    [("a,b,c", ""), ("b,a", ""), ("a,c", "b"), ("b", "a"), ("c,b,c", "a")],
)
def test_other_hosts_renew_what_is_at_a_host_that_is_gone(
    after: str, gone: str
) -> None:
    world = world_of("a,b", size=4)
    for _ in range(2):
        world.wait()
        world.serve()
    world.wait()
    world.turn(1)
    assert world.logins == "ab"
    servers = world.pool.servers()
    world.pool.database.config = Database("db", "db", host=after)
    world.keeper.follow_hosts(world.pool)
    closed = [s.host for s in servers if s.close_needed]
    assert closed == [host for host in "ab" if host in gone]
    assert [s.host for s in servers if s.reason == "connect string changed"] == closed
    assert world.pool.flagged == bool(gone)


def test_name_with_other_addresses_begins_anew() -> None:
    world = world_of("n")
    world.wait()
    world.fail()
    assert world.pool.failed
    world.keeper.follow_name(world.pool, "other", frozenset())
    assert world.pool.failed
    world.keeper.follow_name(world.pool, "n", frozenset({"10.0.0.1"}))
    assert not world.pool.failed
    world.turn()
    assert world.logins == "n"
    world.pool.login[0].address = SimpleNamespace(name="n", host="10.0.0.1")
    world.keeper.follow_name(world.pool, "n", frozenset({"10.0.0.2"}))
    assert world.logins == "n"
    world.keeper.follow_name(world.pool, "n", frozenset({"10.0.0.1"}))
    assert world.logins == ""
    assert not world.pool.failed


@pytest.mark.parametrize(
    ("hosts", "name", "address", "goes"),
    [
        ("n", "n", "10.0.0.1", True),
        ("m,n", "n", "10.0.0.1", True),
        ("m,n", "m", "10.0.0.1", False),
        ("m,n", "n", "10.0.0.2", False),
        ("m", "m", "10.0.0.1", False),
        # Taken over: it does not know its name.
        ("n", "", "10.0.0.1", True),
        ("m", "", "10.0.0.1", False),
    ],
)
def test_server_at_an_address_that_its_name_has_lost_is_renewed(
    hosts: str, name: str, address: str, goes: bool
) -> None:
    """Of a list, nobody looked at the names in it."""
    world = world_of(hosts)
    world.wait()
    server = world.serve()
    server.address = SimpleNamespace(name=name, host=address)
    world.keeper.follow_name(world.pool, "n", frozenset({"10.0.0.1"}))
    assert server.close_needed == world.pool.flagged == goes
    assert server.reason is None


# Session pooling


@pytest.mark.parametrize(
    ("mode", "waited", "busy", "says"),
    [
        (0, 30, 2, True),
        (0, 29.9, 2, False),
        (0, 30, 1, False),
        (1, 30, 2, False),
        (2, 30, 2, False),
    ],
)
def test_log_says_that_sessions_hold_all_servers(
    monkeypatch: pytest.MonkeyPatch, mode: int, waited: float, busy: int, says: bool
) -> None:
    """Clients waited for ever, and nothing told why."""
    lines: list[str] = []
    monkeypatch.setattr(keeper_module.log, "warning", lines.append)
    world = world_of(size=2)
    for _ in range(2):
        world.wait()
        world.serve()
    world.pool.mode = mode
    world.wait()
    if busy == 1:
        world.pool.idle.append(world.pool.active.pop())
    world.poller.now += int(waited * SECOND)
    for _ in range(3):
        world.keeper.look_at_queue(world.pool)
    assert len(lines) == says
    if says:
        assert lines[0].startswith(
            "db/user: clients have waited for 30 s (1 wait), all servers (2) are held"
        )
        world.poller.now += 3599 * SECOND
        world.keeper.look_at_queue(world.pool)
        assert len(lines) == 1
        world.poller.now += SECOND
        world.keeper.look_at_queue(world.pool)
        assert len(lines) == 2
