"""What the attempts of a pool to log in say about the server: is anybody there?

A login that fails is mostly no outage. Who hears that a password is wrong, that a
role has too many connections, that a database does not exist, has been answered by a
server that is well. So each attempt of each pool is kept with its time and weighed,
and the *newest* of all pools of a database decides, not the last of one of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, NamedTuple

from bouncer.errors import CANNOT_ANSWER, DEFAULT_SQLSTATE, LoginFailed
from bouncer.pool.failures import Failure

SECOND = 1_000_000
TOO_MANY_CONNECTIONS = "53300"
# Operator intervention (starting, stopping), the system's and internal errors, no
# memory or disk, no connection of a pooler in between: nobody gets in.
OF_THE_HOST = ("57", "58", "XX", "53", "08")


class Weight(Enum):
    """What an error of a server proves."""

    PRESENT = "the server is there"
    AWAY = "nobody can be served"
    NOTHING = "neither"


def weigh(sqlstate: str) -> Weight:
    """Weigh an ErrorResponse, to a login or to a query.

    08P01 is what a PgBouncer says of nearly everything, from a wrong name to a dead
    server behind it: it proves nothing.
    """
    if sqlstate in ("", DEFAULT_SQLSTATE):
        return Weight.NOTHING
    if sqlstate != TOO_MANY_CONNECTIONS and sqlstate.startswith(OF_THE_HOST):
        return Weight.AWAY
    return Weight.PRESENT


def weight_of(problem: LoginFailed) -> Weight:
    """Weigh a login that failed after the server had spoken."""
    # It has asked for a password: that is an answer, whatever we made of it.
    asked = problem.kind == CANNOT_ANSWER
    return Weight.PRESENT if asked else weigh(problem.sqlstate)


class Evidence:
    """What became of one pool's attempts, in monotonic microseconds; 0 is never."""

    __slots__ = (
        "answered_at", "ended_at", "failed_at", "failing_since", "last_failure",
        "noted", "refusal",
    )  # fmt: skip

    def __init__(self) -> None:
        self.answered_at = 0  # a login went through, or was refused by a live server
        self.failed_at = 0  # the newest attempt that nobody answered
        self.failing_since = 0  # the first such since the last answer
        self.refusal: LoginFailed | None = None  # of the newest attempt
        self.last_failure: Failure | None = None  # told to people; decides nothing
        self.noted = 0  # attempts that came to an end
        self.ended_at = 0  # the newest of them

    def succeeded(self, now: int) -> None:
        """A login went through."""
        self.noted += 1
        self.ended_at = now
        self.answered(now)
        self.refusal = None

    def failed(self, now: int, problem: LoginFailed | None = None) -> None:
        """An attempt came to nothing; *problem* is what the server said, if it did.

        The end of a connection whose login was refused comes in the same moment, and
        is not counted again.
        """
        if problem is None and self.refusal is not None and now == self.ended_at:
            return
        self.noted += 1
        self.ended_at = now
        self.refusal = problem
        weight = Weight.AWAY if problem is None else weight_of(problem)
        if weight is Weight.PRESENT:
            self.answered(now)
        elif weight is Weight.AWAY:
            self.failed_at = now
            self.failing_since = self.failing_since or now

    def answered(self, now: int) -> None:
        """Somebody is there."""
        self.answered_at = now
        self.failing_since = 0

    @property
    def is_bad(self) -> bool:
        """Did the newest attempt come to nothing?"""
        return self.refusal is not None or self.failing_since > 0


class Summary(NamedTuple):
    """The evidence of all pools of a database, as ages in seconds."""

    answered_ago: float | None
    failing_for: float | None
    failed_ago: float | None


def of_pools(pools: Iterable[Any], now: int) -> Summary:
    """Weigh the attempts of *pools* together: the newest decides.

    A pool that nobody uses is no evidence of an outage: its last attempt may be of
    yesterday. That it was answered stays true, and has its age.
    """
    answered = failed = first = 0
    for pool in pools:
        evidence = pool.evidence
        answered = max(answered, evidence.answered_at)
        if evidence.failing_since and (pool.client_count or pool.server_count):
            failed = max(failed, evidence.failed_at)
            first = min(first or evidence.failing_since, evidence.failing_since)
    answered_ago = (now - answered) / SECOND if answered else None
    if failed <= answered:
        return Summary(answered_ago, None, None)
    # Whatever failed before the last answer is over.
    since = max(first, answered)
    return Summary(answered_ago, (now - since) / SECOND, (now - failed) / SECOND)
