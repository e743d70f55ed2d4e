"""Decide whether a pool opens a server connection now, and what must go first.

Decides only; opens and closes nothing (server sheet 16.1). The caller hands in
numbers, so this is tested without sockets or a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(slots=True)
class PoolView:
    """What the decision looks at; times in seconds."""

    connections: int  # of every state, cancel connections included
    logins: int  # of these, still logging in
    parallel_logins: int  # how many may log in at once; 1 as in PgBouncer
    pool_size: int  # 0 is no limit
    reserve_size: int
    reserve_timeout: float  # 0 switches the reserve off
    welcome_known: bool
    failed: bool  # the last attempt did not succeed
    since_attempt: float  # since it was started
    login_retry: float
    longest_wait: float  # of the first waiting client
    cancels: int  # cancel requests that wait for a connection
    database_connections: int
    max_database: int  # 0 is no limit
    user_connections: int
    max_user: int  # 0 is no limit


class Verdict(NamedTuple):
    """*evict_database* and *evict_user*: an idle one of these must go first."""

    open: bool
    why: str
    from_reserve: bool = False
    evict_database: bool = False
    evict_user: bool = False


NO_ROOM = "pool full"
# A connect may fail at once (no such socket, a port that is none): without a pause
# behind it the next one would follow for ever.
SHORTEST_RETRY = 0.01  # seconds


def may_open(view: PoolView) -> Verdict:
    """The rules in the order of server sheet 16.1."""
    if view.logins >= max(view.parallel_logins, 1):
        return Verdict(False, "already in progress")
    if view.failed and view.since_attempt < max(view.login_retry, SHORTEST_RETRY):
        return Verdict(False, "last failed")
    if view.cancels:
        if view.pool_size and view.connections >= 2 * view.pool_size:
            return Verdict(False, NO_ROOM)
        return Verdict(True, "cancel")
    reserve = False
    # A pool that knows no welcome may exceed its size, by the one login that brings it.
    is_bound = view.welcome_known or view.logins > 0
    if view.pool_size and view.connections >= view.pool_size and is_bound:
        if not (
            view.reserve_size > 0
            and view.reserve_timeout > 0
            and view.longest_wait >= view.reserve_timeout
            and view.connections < view.pool_size + view.reserve_size
        ):
            return Verdict(False, NO_ROOM)
        reserve = True
    full_database = view.max_database and view.database_connections >= view.max_database
    full_user = view.max_user and view.user_connections >= view.max_user
    return Verdict(True, "room", reserve, bool(full_database), bool(full_user))


def gives_way(own_wait: float, rival_wait: float, margin: float) -> bool:
    """Should a pool let a rival at a shared limit have the connection it releases?

    The rival's first client must have waited *margin* seconds longer than the
    pool's own: less would cost a new connection per transaction.
    """
    return margin > 0 and rival_wait - own_wait >= margin


def is_over(view: PoolView) -> bool:
    """Say whether a pool has more connections than it may keep.

    Cancels are carried beyond every limit; what is left of them must not stay: a
    pool at twice its size takes no further cancel.
    """
    most = view.pool_size + view.reserve_size if view.pool_size else 0
    return view.welcome_known and bool(
        (most and view.connections > most)
        or (view.max_database and view.database_connections > view.max_database)
        or (view.max_user and view.user_connections > view.max_user)
    )
