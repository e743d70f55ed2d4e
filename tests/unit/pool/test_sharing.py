"""Claims of pools that share a limit, with pools and a clock of our own."""

from types import SimpleNamespace

import pytest

from bouncer.pool.plan import Verdict
from bouncer.pool.sharing import Sharing

SECOND = 1_000_000
BY_DATABASE = Verdict(True, "room", evict_database=True)
BY_USER = Verdict(True, "room", evict_user=True)
BY_BOTH = Verdict(True, "room", evict_database=True, evict_user=True)


class Waiting(list):
    @property
    def first(self):
        return self[0] if self else None


class FakePool:
    def __init__(self, poller, database, user):
        self.poller, self.database = poller, database
        self.user = SimpleNamespace(account=user)
        database.pools[str(user)] = self
        self.waiting, self.cancels = Waiting(), []
        self.contested = self.blocked = False
        self.fair_check = self.server_count = 0

    def wait(self, since):
        """A client has waited since that second."""
        self.waiting.append(
            SimpleNamespace(query_start=since * SECOND, wait_start=since * SECOND)
        )


class World:
    """Two databases, two users, the four pools; whoever is asked opens a server."""

    def __init__(self):
        self.poller = SimpleNamespace(now=100 * SECOND)
        self.app = SimpleNamespace(settings=SimpleNamespace(fair_wait=1.0))
        self.databases = [SimpleNamespace(pools={}) for _ in "ab"]
        self.users = ["u", "v"]
        self.pools = {
            name + user: FakePool(self.poller, database, user)
            for name, database in zip("ab", self.databases, strict=True)
            for user in self.users
        }
        self.asked = []
        self.open = set()
        self.sharing = Sharing(self)

    def pools_of_user(self, pool):
        account = pool.user.account
        return [p for p in self.pools.values() if p.user.account is account]

    def wants_server(self, pool):
        name = next(n for n, one in self.pools.items() if one is pool)
        self.asked.append(name)
        if name in self.open:
            pool.server_count += 1


@pytest.fixture
def world():
    return World()


def test_claim_makes_those_contested_who_hold_what_is_wanted(world):
    world.pools["au"].wait(since=99)
    world.sharing.refused(world.pools["au"], BY_DATABASE)
    assert {n for n, one in world.pools.items() if one.contested} == {"au", "av"}
    world.sharing.refused(world.pools["au"], BY_USER)
    assert {n for n, one in world.pools.items() if one.contested} == {"au", "av", "bu"}


def test_nobody_waits_nothing_is_claimed(world):
    world.sharing.refused(world.pools["au"], BY_DATABASE)
    assert not world.pools["av"].contested
    assert not world.sharing.claims


@pytest.mark.parametrize(
    ("verdict", "helpers"),
    [(BY_DATABASE, {"av"}), (BY_USER, {"bu"}), (BY_BOTH, set())],
)
def test_only_what_helps_is_given_up(world, verdict, helpers):
    world.pools["au"].wait(since=90)
    world.sharing.refused(world.pools["au"], verdict)
    others = {n: one for n, one in world.pools.items() if n != "au"}
    for one in others.values():
        one.wait(since=100)
    assert {n for n, one in others.items() if world.sharing.must_yield(one)} == helpers


def test_pool_yields_only_after_fair_wait_and_not_to_itself(world):
    mine, other = world.pools["au"], world.pools["av"]
    mine.wait(since=98)
    other.wait(since=97.5)
    world.sharing.refused(mine, BY_DATABASE)
    world.sharing.refused(other, BY_DATABASE)
    assert not world.sharing.must_yield(mine)
    other.waiting[0].query_start -= SECOND
    # It has just looked, and looks again after a tenth of fair_wait.
    assert not world.sharing.must_yield(mine)
    world.poller.now += SECOND // 10
    assert world.sharing.must_yield(mine)
    assert not world.sharing.must_yield(other)


@pytest.mark.parametrize("case", ["off", "blocked", "left", "cancel"])
def test_pool_keeps_its_server_when(world, case):
    mine, other = world.pools["au"], world.pools["av"]
    mine.wait(since=100)
    other.wait(since=50)
    world.sharing.refused(other, BY_DATABASE)
    if case == "off":
        world.app.settings.fair_wait = 0.0
    elif case == "blocked":
        other.blocked = True
    elif case == "left":
        other.waiting.clear()
    else:
        mine.cancels.append("one")
    assert not world.sharing.must_yield(mine)


def test_freed_connection_is_offered_to_the_longest_waiting_first(world):
    mine, other = world.pools["au"], world.pools["av"]
    mine.wait(since=95)
    other.wait(since=90)
    world.sharing.refused(other, BY_DATABASE)
    world.open = {"au", "av"}
    world.sharing.freed(mine)
    assert world.asked == ["av"]


def test_freed_connection_goes_back_to_its_pool_without_fair_wait(world):
    world.app.settings.fair_wait = 0.0
    mine, other = world.pools["au"], world.pools["av"]
    mine.wait(since=95)
    other.wait(since=90)
    world.sharing.refused(other, BY_DATABASE)
    world.open = {"au", "av"}
    world.sharing.freed(mine)
    assert world.asked == ["au"]


def test_freed_connection_that_one_cannot_use_is_offered_to_the_next(world):
    mine, other = world.pools["au"], world.pools["av"]
    other.wait(since=90)
    mine.wait(since=95)
    world.sharing.refused(other, BY_DATABASE)
    world.open = {"au"}
    world.sharing.freed(mine)
    assert world.asked == ["av", "au"]
    assert other not in world.sharing.claims  # it claims anew when it is refused


def test_last_claim_that_is_gone_ends_the_contest(world):
    mine, other = world.pools["au"], world.pools["av"]
    other.wait(since=90)
    world.sharing.refused(other, BY_DATABASE)
    other.waiting.clear()
    assert mine.contested
    world.sharing.freed(mine)
    assert not mine.contested
    assert not world.sharing.claims
