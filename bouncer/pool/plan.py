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
    silent: int  # logins of which nothing has been heard for SILENCE
    targets: int  # places to connect to
    resting: bool  # each of them has failed within the pause
    refused: bool  # a login was refused within the pause, by a server that answers
    live: int  # connections that have logged in
    waiting: int  # clients that wait
    longest_wait: float  # of the first of them
    cancels: int  # cancel requests that wait for a connection
    database_connections: int
    max_database: int  # 0 is no limit
    user_connections: int
    max_user: int  # 0 is no limit


class Verdict(NamedTuple):
    """*evict_database* and *evict_user*: an idle one of these must go first.

    *is_extra*: there is no room, but for silent logins that do not count.
    """

    open: bool
    why: str
    from_reserve: bool = False
    evict_database: bool = False
    evict_user: bool = False
    is_extra: bool = False


NO_ROOM = "pool full"
# A connect may fail at once (no such socket, a port that is none): without a pause
# behind it the next one would follow for ever.
SHORTEST_RETRY = 0.01  # seconds
# A login that has said nothing for so long does not keep others from beginning.
SILENCE = 1.0  # seconds
SILENT_ROUNDS = 3  # ... and rounds of the janitor: it may be us who did not listen
# A client of session pooling that waits for so long may wait for ever.
LONG_HELD = 30.0  # seconds
HELD_AGAIN = 3600.0  # seconds between two lines of one pool
MOST_SILENT = 3  # of one pool, unless it has more targets


def pause_after_failure(login_retry: float) -> float:
    """Seconds from the start of an attempt that failed to the next at its target."""
    return max(login_retry, SHORTEST_RETRY)


def may_begin(view: PoolView) -> str:
    """Why no login may begin now, whether or not there is room; empty if one may."""
    if view.logins - view.silent >= max(view.parallel_logins, 1):
        return "already in progress"
    if view.silent and (
        view.silent >= max(view.targets, MOST_SILENT)
        or not (view.waiting or view.cancels)
    ):
        return "already in progress"
    if view.resting:
        return "last failed"
    # Who asks for a login of his own gets PostgreSQL's own answer. Where servers
    # serve those who wait, and where nobody does, it would be asked in a loop.
    is_served = bool(view.live and view.welcome_known)
    if view.refused and not view.cancels and (is_served or not view.waiting):
        return "last refused"
    return ""


def extra_room(view: PoolView) -> int:
    """How many connections the pool may have beyond its size.

    A silent login may never become one: as many as there are other targets, or one,
    do not count. What is too much goes when another login has got through.
    """
    return min(view.silent, max(view.targets - 1, 1))


def may_open(view: PoolView) -> Verdict:
    """The rules in the order of server sheet 16.1."""
    why_not = may_begin(view)
    if why_not:
        return Verdict(False, why_not)
    if view.cancels:
        if view.pool_size and view.connections >= 2 * view.pool_size:
            return Verdict(False, NO_ROOM)
        return Verdict(True, "cancel")
    reserve = False
    # A pool that knows no welcome may exceed its size, by the one login that brings it.
    is_bound = view.welcome_known or view.logins > 0
    full = view.pool_size and view.connections >= view.pool_size + extra_room(view)
    if full and is_bound:
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
    is_extra = bool(view.silent and 0 < view.pool_size <= view.connections)
    return Verdict(
        True, "room", reserve, bool(full_database), bool(full_user), is_extra
    )


def is_held(session: bool, waited: float, servers: int, active: int) -> bool:
    """Say whether clients wait for sessions of others to end, and have for long."""
    return session and waited >= LONG_HELD and 0 < servers == active


def gives_way(own_wait: float, rival_wait: float, margin: float) -> bool:
    """Should a pool let a rival at a shared limit have the connection it releases?

    The rival's first client must have waited *margin* seconds longer than the
    pool's own: less would cost a new connection per transaction.
    """
    return margin > 0 and rival_wait - own_wait >= margin


def is_over(view: PoolView, extra: int = 0) -> bool:
    """Say whether a pool has more connections than it may keep, and *extra* ones.

    Cancels are carried beyond every limit; what is left of them must not stay: a
    pool at twice its size takes no further cancel.
    """
    most = view.pool_size + view.reserve_size if view.pool_size else 0
    return view.welcome_known and bool(
        (most and view.connections > most + extra)
        or (view.max_database and view.database_connections > view.max_database)
        or (view.max_user and view.user_connections > view.max_user)
    )
