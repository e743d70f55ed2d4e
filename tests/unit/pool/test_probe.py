"""Which pool a health probe asks through, and what it leaves behind; no sockets."""

from types import SimpleNamespace
from typing import Any

import pytest

from bouncer.config.settings import Database
from bouncer.errors import REFUSED, LoginFailed
from bouncer.pool.registry import DatabaseState
from bouncer.probe import (
    MOST_KEPT,
    Attempts,
    LoginRefused,
    Probes,
    is_stuck,
    used_pools,
)
from tests.unit.pool.upkeep import One

SECOND = 1_000_000
NOW = 1000 * SECOND


def pool(name: str = "ann", **state: Any) -> Any:
    """A pool that nobody uses, and nothing has been tried in."""
    evidence = SimpleNamespace(is_bad=False, noted=0, ended_at=0, refusal=None)
    for key in ("is_bad", "noted", "ended_at", "refusal"):
        if key in state:
            setattr(evidence, key, state.pop(key))
    return One(**{
        "user_name": name, "evidence": evidence, "server_count": 0, "client_count": 0,
        "logins": 0, "welcome": None, "clients": [], "login": [], "blocked": False,
        "last_error": "", "database": SimpleNamespace(name="db"),
    } | state)  # fmt: skip


class World:
    """The app and the keeper, as much of them as probes need."""

    def __init__(self, entry: dict[str, Any] | None = None, **settings: Any) -> None:
        self.opened: list[Any] = []
        self.may_open = True
        self.min_pool_size = 0
        chosen = {"health_user": "", "auth_user": None, "health_databases": "",
                  "server_login_retry": 15} | settings  # fmt: skip
        self.app = SimpleNamespace(
            settings=SimpleNamespace(**chosen),
            registry=SimpleNamespace(pool=lambda database, user: user),
            limits=SimpleNamespace(min_pool_size=lambda pool: self.min_pool_size),
            poller=SimpleNamespace(now=NOW),
        )
        keeper: Any = SimpleNamespace(open_if_allowed=self.open)
        self.probes = Probes(self.app, keeper)
        self.database = DatabaseState(Database("db", "db", **(entry or {})))

    def open(self, pool: Any, evict: bool) -> bool:
        assert not evict
        self.opened.append(pool)
        return self.may_open


# Whom it logs in as


@pytest.mark.parametrize(
    ("entry", "settings", "user"),
    [
        ({"user": "a", "auth_user": "c"}, {"health_user": "b", "auth_user": "d"}, "a"),
        ({"auth_user": "c"}, {"health_user": "b", "auth_user": "d"}, "b"),
        ({"auth_user": "c"}, {"auth_user": "d"}, "c"),
        ({}, {"auth_user": "d"}, "d"),
        ({}, {}, None),
    ],
)
def test_forced_user_goes_before_health_user_before_auth_users(
    entry: dict[str, str], settings: dict[str, str], user: str | None
) -> None:
    world = World(entry, **settings)
    assert world.probes.own_pool(world.database) == user
    assert world.probes.own_pool(None) is None


@pytest.mark.parametrize(
    ("state", "used"),
    [({}, False), ({"server_count": 1}, True), ({"welcome": b""}, True),
     ({"clients": [1]}, True), ({"login": [1]}, False)],
)  # fmt: skip
def test_pool_of_who_has_only_named_himself_is_no_way_to_ask(
    state: dict[str, Any], used: bool
) -> None:
    """We would log in for him before he has shown who he is."""
    database, one = DatabaseState(Database("db", "db")), pool(**state)
    database.pools["ann"] = one
    assert used_pools(database) == ([one] if used else [])
    assert used_pools(None) == []


@pytest.mark.parametrize(
    ("bad", "servers", "stuck"),
    [(True, 0, True), (True, 1, False), (False, 0, False)],
)
def test_pool_is_stuck_without_a_server_after_an_attempt_that_failed(
    bad: bool, servers: int, stuck: bool
) -> None:
    assert is_stuck(pool(is_bad=bad, server_count=servers)) == stuck


def test_pool_of_our_own_user_is_asked_when_more_are_wanted_or_all_failed() -> None:
    world = World(health_user="h")
    own, well, failed = pool("h"), pool("well"), pool("failed", is_bad=True)
    world.app.registry.pool = lambda database, user: own
    ways = world.probes.ways
    assert ways(world.database, [failed, well], False) == [well]
    assert ways(world.database, [failed, well], True) == [well, own, failed]
    assert ways(world.database, [failed], False) == [own, failed]
    assert ways(world.database, [own, failed], True) == [own, failed]
    world.app.settings.health_user = ""
    assert ways(world.database, [failed], False) == [failed]


# Logins for it


def test_login_is_begun_in_the_first_pool_that_may() -> None:
    world = World()
    blocked, resting = pool(blocked=True), pool(is_bad=True, ended_at=NOW - SECOND)
    failed, fresh, last = pool(), pool(), pool()
    attempts = Attempts()
    attempts.begin(failed)
    failed.evidence.noted, failed.evidence.is_bad = 1, True
    ways = [blocked, resting, failed, fresh, last]
    assert world.probes.begin_login(ways, attempts)
    assert world.opened == [fresh] and world.probes.opened == {fresh: 0}
    # One that is under way will do.
    last.login = [object()]
    world.opened.clear()
    assert world.probes.begin_login([last, fresh], attempts)
    assert world.opened == []
    # One that had servers before is not the probe's to empty.
    used = pool(server_count=1)
    assert world.probes.begin_login([used], attempts)
    assert used not in world.probes.opened
    world.may_open = False
    assert not world.probes.begin_login([fresh], attempts)


@pytest.mark.parametrize(("ago", "rests"), [(14.9, True), (15, False), (99, False)])
def test_pool_whose_login_failed_rests_for_server_login_retry(
    ago: float, rests: bool
) -> None:
    """Health checks of every second filled the logs of PostgreSQL."""
    one = pool(is_bad=True, ended_at=NOW - round(ago * SECOND))
    assert World().probes.must_rest(one) == rests
    one.server_count = 1
    assert not World().probes.must_rest(one)


def test_refusal_says_more_than_silence() -> None:
    attempts = Attempts()
    mute, refused, pending = pool(), pool("bob"), pool()
    for one in (mute, refused, pending):
        attempts.begin(one)
    assert attempts.problem() is None
    mute.evidence.noted, mute.evidence.is_bad = 1, True
    mute.last_error = "connect failed"
    problem = attempts.problem()
    assert isinstance(problem, ConnectionError) and str(problem) == "connect failed"
    refused.evidence.noted, refused.evidence.is_bad = 1, True
    refused.evidence.refusal = LoginFailed("FATAL", "28P01", "no", REFUSED)
    problem = attempts.problem()
    assert isinstance(problem, LoginRefused)
    assert (problem.user, problem.sqlstate) == ("bob", "28P01")
    # Never begun is not over.
    assert not attempts.over(pool(is_bad=True, noted=5))


# What it leaves behind


def after_a_probe(world: World, **state: Any) -> Any:
    """A pool that was empty before, and has the server of the probe now."""
    one = pool(**state)
    world.probes.opened[one] = 0
    one.server_count, one.logins = 1, 0
    return one


def test_servers_of_probes_stay_in_a_few_pools_only() -> None:
    """Each name that somebody asks about would have kept a server of PostgreSQL."""
    world = World()
    kept = [after_a_probe(world) for _ in range(MOST_KEPT)]
    assert all(world.probes.may_stay(one) for one in kept)
    more = after_a_probe(world)
    assert not world.probes.may_stay(more)
    # Those that are kept stay so; one that clients use is no probe's any more.
    assert world.probes.may_stay(kept[0])
    kept[1].client_count = 1
    assert world.probes.may_stay(more)


@pytest.mark.parametrize(
    "why", ["named", "min_pool_size", "client_count", "logins", "second server"]
)
def test_server_of_a_probe_stays_where_it_is_of_use(why: str) -> None:
    world = World(health_databases="x, db" if why == "named" else "dbs")
    for _ in range(MOST_KEPT):
        world.probes.may_stay(after_a_probe(world))
    one = after_a_probe(world)
    if why == "min_pool_size":
        world.min_pool_size = 1
    elif why == "second server":
        one.server_count = 2
    elif why != "named":
        setattr(one, why, 1)
    assert world.probes.may_stay(one)


def test_server_that_was_there_before_the_probe_stays() -> None:
    world = World()
    for _ in range(MOST_KEPT):
        world.probes.may_stay(after_a_probe(world))
    assert world.probes.may_stay(pool(server_count=1))
