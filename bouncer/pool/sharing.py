"""Pools that share a limit: who gets the next connection when it is reached.

`max_db_connections` and `max_user_connections` count over several pools. A pool that
such a limit refuses leaves a claim here, and those who hold the connections become
`contested`: the relay then tells what they release. PgBouncer lets a busy pool keep
what it has, so that another may wait for ever; `fair_wait` makes it give way.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from bouncer.pool import plan
from bouncer.pool.pools import ServerPool

CHECKS = 10  # a busy pool looks at its rivals so often per fair_wait
MICROSECONDS = 1_000_000


class Claim(NamedTuple):
    """Which limits stand in the way of a pool."""

    database: bool
    user: bool

    def is_helped_by(self, claimant: ServerPool, other: ServerPool) -> bool:
        """Would a connection less of *other* make room for *claimant*?"""
        return (not self.database or other.database is claimant.database) and (
            not self.user or other.user.account is claimant.user.account
        )


class Sharing:
    """The claims of all pools of one process."""

    def __init__(self, keeper: Any) -> None:
        self.keeper = keeper
        self.claims: dict[ServerPool, Claim] = {}

    @property
    def fair_wait(self) -> float:
        """Seconds; 0 is PgBouncer's way."""
        found: float = self.keeper.app.settings.fair_wait
        return found

    # Called by the keeper

    def refused(self, pool: ServerPool, verdict: plan.Verdict) -> None:
        """A shared limit keeps *pool* from opening what its clients wait for."""
        if not len(pool.waiting):
            return
        claim = Claim(verdict.evict_database, verdict.evict_user)
        self.claims[pool] = claim
        if claim.database:
            others = list(pool.database.pools.values())
        else:
            others = self.keeper.pools_of_user(pool)
        for other in others:
            other.contested = True

    def must_yield(self, pool: ServerPool) -> bool:
        """Should *pool* close what it releases, although its own clients wait?"""
        margin = self.fair_wait
        if margin <= 0 or not len(pool.waiting) or pool.cancels:
            return False
        now = pool.poller.now
        if now < pool.fair_check:
            return False
        pool.fair_check = now + int(margin * MICROSECONDS / CHECKS)
        longest = max((waited(one, now) for one in self.rivals(pool)), default=0.0)
        return plan.gives_way(waited(pool, now), longest, margin)

    def freed(self, pool: ServerPool) -> None:
        """*pool* has a connection less, or one that nobody of its own wants."""
        rivals = self.rivals(pool)
        pool.contested = bool(rivals)
        order = [pool, *rivals]
        if rivals and self.fair_wait > 0:
            now = pool.poller.now
            order.sort(key=lambda one: -waited(one, now))
        for one in order:
            self.claims.pop(one, None)
            if len(one.waiting) or one.cancels:
                before = one.server_count
                self.keeper.wants_server(one)  # claims anew when it is refused
                if one.server_count > before:
                    return

    def rivals(self, pool: ServerPool) -> list[ServerPool]:
        """Who waits for what *pool* has, first come first; old claims are dropped."""
        found = []
        for one, claim in list(self.claims.items()):
            if not len(one.waiting):
                del self.claims[one]
            elif one is not pool and not one.blocked and claim.is_helped_by(one, pool):
                found.append(one)
        return found


def waited(pool: ServerPool, now: int) -> float:
    """Seconds that the first waiting client of *pool* has waited."""
    first = pool.waiting.first
    began = 0 if first is None else (first.query_start or first.wait_start)
    return (now - began) / MICROSECONDS if began else 0.0
